"""LoRA adapters in PEFT's format (0.21): `adapter_model.safetensors` and `adapter_config.json`.

Of a module of transformers' model PEFT stores `base_model.model.MODULE.lora_A.weight` (r, in) and
`.lora_B.weight` (out, r), whose product, times alpha / r, is added to the weight of a `torch.nn.Linear` (out,
in); of GPT-2's Conv1D, which stores (in, out), to the transpose (`fan_in_fan_out`). The orientation of A and
B is the same. Layers that train in full have their own names (`modules_to_save`).

Query, key and value of GPT-2 are one module, c_attn. Ours are the blocks of one adapter,

    A = [A_q; A_k; A_v]  (3 r, in)     B = diag(B_q, B_k, B_v)  (3 out, 3 r)

without those that have none, and the file's header says which. An adapter of c_attn from elsewhere becomes
three of its rank, with the same A. Models without a layout of transformers have the zoo's names and arrays.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo import storage
from zoo._lazy import keras, ops
from zoo.errors import DataUnavailable, WeightsMismatch, WrongConfiguration, shortlist
from zoo.weights import files, transformers
from zoo.weights.layouts import OWN, SAME, Plan, Tensor

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
# What changes the meaning of A and B, and is not supported: option -> the value that is.
PLAIN = {
    "peft_type": "LORA", "bias": "none", "use_dora": False, "use_rslora": False, "lora_bias": False,
    "megatron_config": None, "layer_replication": None, "trainable_token_indices": None,
}  # fmt: skip
Array = np.ndarray
Layer = Any


@dataclass
class Adapters:
    """The adapters of a file, for a model."""

    layout: str
    ranks: dict[str, tuple[int, float]] = field(default_factory=dict)  # and alpha, by layer
    factors: dict[str, tuple[Array, Array]] = field(default_factory=dict)  # A (in, r), B (r, out), by layer
    values: list[tuple[keras.Variable, Array]] = field(default_factory=list)  # of layers that train in full

    @property
    def trained(self) -> list[str]:
        """The names of the layers that train in full."""
        return list(dict.fromkeys(_layer_of(variable) for variable, _ in self.values))

    @property
    def tensors(self) -> int:
        """The number of arrays."""
        return 2 * len(self.factors) + len(self.values)


def write(model: keras.Model, folder: Path, adapted: Sequence[Layer], trained: Sequence[str]) -> None:
    """Write the adapters of these layers, and the weights of the layers that train in full."""
    storage.check_folder("save", folder)
    plan = _plan(model)
    arrays, config, header = (
        _own(model, adapted, trained) if plan is None else _theirs(plan, adapted, trained)
    )
    folder.mkdir(parents=True, exist_ok=True)
    files.write(folder / WEIGHTS, arrays, header)
    storage.write_text(folder / CONFIG, storage.json_text(config))


def read(model: keras.Model, folder: Path, able: Sequence[Layer]) -> Adapters:
    """The adapters in a folder for these layers. Raises DataUnavailable, WeightsMismatch."""
    if not storage.is_dir(folder):
        raise DataUnavailable(f"{folder}: no such folder; expected one with {WEIGHTS} and {CONFIG}")
    with storage.reading(folder / CONFIG, "not a configuration of adapters, or damaged"):
        config = dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    path = folder / WEIGHTS
    with files.reading(path) as stored:
        arrays = {name: files.read(name, x, f"{path}: ") for name, x in stored.items()}
    own, layers = config.get("format") == "zoo", {layer.name: layer for layer in able}
    plan = None if own else _plan(model)
    if not own and plan is None:
        raise WeightsMismatch(
            f"{folder}: PEFT's names of a model of transformers; {model.name} has none of those. Nothing was "
            "loaded."
        )
    try:
        if plan is None:
            found = _read_own(model, arrays, config)
        else:
            found = _read_theirs(plan, arrays, config, files.header(path))
        for name, (a, b) in found.factors.items():
            _check(model.name, name, layers.get(name), a, b)
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, WeightsMismatch | WrongConfiguration):
            raise type(error)(f"{folder}: {error}. Nothing was loaded.") from None
        raise DataUnavailable(f"{folder}: damaged, or not of adapters ({storage.reason(error)})") from error
    return found


def _check(model: str, name: str, layer: Layer | None, a: Array, b: Array) -> None:
    """Raise WeightsMismatch unless the product of A and B has the shape of the layer's kernel."""
    if layer is None:
        raise WeightsMismatch(f"an adapter of {name}, which is no dense layer of {model}")
    kernel = next(tuple(v.shape) for v in layer.variables if v.name == "kernel")
    if (*a.shape[:-1], *b.shape[1:]) != kernel or a.shape[-1:] != b.shape[:1]:
        raise WeightsMismatch(
            f"the adapter of {name} is {a.shape} times {b.shape}; the kernel of {model} is {kernel}"
        )


def _plan(model: keras.Model) -> Plan | None:
    """transformers' names for the model's weights; None if transformers has no such model."""
    for layout in transformers.LAYOUTS:
        if layout.suits(model):
            with suppress(WrongConfiguration):  # a modified model of that name
                return layout.plan(model)[0]
    return None


def _layer_of(variable: keras.Variable) -> str:
    return variable.path.rpartition("/")[0].rpartition("/")[2]


def _numpy(value: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(value))


# The zoo's own names


def _own(model: keras.Model, adapted: Sequence[Layer], trained: Sequence[str]) -> Any:
    arrays = {v.path: _numpy(v) for x in adapted for v in (x.lora_kernel_a, x.lora_kernel_b)}
    full = {name: v for name, v in OWN.names(model).items() if _layer_of(v) in trained}
    ranks = {layer.name: [layer.lora_rank, layer.lora_alpha] for layer in adapted}
    config = {"format": "zoo", "peft_type": "LORA", "model": model.name, "layers": ranks}
    return arrays | {name: _numpy(v) for name, v in full.items()}, config, {}


def _read_own(model: keras.Model, arrays: Mapping[str, Array], config: Mapping[str, Any]) -> Adapters:
    found, left, own = Adapters("zoo"), dict(arrays), OWN.names(model)
    for name, (rank, alpha) in config["layers"].items():
        ends = [f"{name}/lora_kernel_{part}" for part in "ab"]
        paths = [next((p for p in left if p == end or p.endswith("/" + end)), end) for end in ends]
        found.ranks[name] = int(rank), float(alpha)
        a, b = (left.pop(path) for path in paths)
        found.factors[name] = a, b
    for name, value in left.items():
        if name not in own or tuple(own[name].shape) != value.shape:
            raise WeightsMismatch(f"{name} of shape {value.shape}: not a weight of {model.name}")
        found.values.append((own[name], value))
    return found


# PEFT's names


def _module(tensor: Tensor) -> str:
    return tensor.names[0].rpartition(".")[0]


def _theirs(plan: Plan, adapted: Sequence[Layer], trained: Sequence[str]) -> Any:
    layers = {layer.name: layer for layer in adapted}
    arrays: dict[str, Array] = {}
    blocks: dict[str, dict[int, int]] = {}  # of each module: the rank of each part that has an adapter
    scales: dict[str, tuple[int, float]] = {}
    full, conv1d = [], False
    for name, tensor in plan.items():
        if _layer_of(tensor.variables[0]) in trained:
            arrays[PREFIX + name] = tensor.theirs()
            full.append(_module(tensor))
        parts = {i: layers[n] for i, v in tensor.parts.items() if (n := _layer_of(v)) in layers}
        if not parts or tensor.variables[0].name != "kernel":
            continue
        module = _module(tensor)
        a, b = _stacked(tensor, parts)
        arrays |= {f"{PREFIX}{module}.lora_A.weight": a, f"{PREFIX}{module}.lora_B.weight": b}
        blocks[module] = {i: layer.lora_rank for i, layer in parts.items()}
        scales[module] = len(a), _scale(parts) * len(a)
        conv1d = conv1d or tensor.transform == SAME
    usual = Counter(scales.values()).most_common(1)[0][0]
    others = {module: pair for module, pair in scales.items() if pair != usual}
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": None,
        "r": usual[0],
        "lora_alpha": usual[1],
        "rank_pattern": {module: rank for module, (rank, _) in others.items()},
        "alpha_pattern": {module: alpha for module, (_, alpha) in others.items()},
        "target_modules": _targets(plan, list(scales)),
        "modules_to_save": list(dict.fromkeys(full)) or None,
        "fan_in_fan_out": conv1d,
        "bias": "none",
        "lora_dropout": 0.0,
        "inference_mode": True,
    }
    return arrays, config, {"zoo_blocks": json.dumps(blocks)}


def _scale(parts: Mapping[int, Layer]) -> float:
    """Of the adapter of a module: that of its first part."""
    first = parts[min(parts)]
    return first.lora_alpha / first.lora_rank


def _stacked(tensor: Tensor, parts: Mapping[int, Layer]) -> tuple[Array, Array]:
    """A (r, in) and B (out, r) of a module from its parts' (in, r) and (r, out): B is block diagonal."""
    a = np.concatenate([_numpy(parts[i].lora_kernel_a).T for i in sorted(parts)])
    outs = [tensor.parts[i].shape[-1] for i in sorted(tensor.parts)]
    b = np.zeros((sum(outs), len(a)), a.dtype)
    column = 0
    for i, row, out in zip(sorted(tensor.parts), np.cumsum([0, *outs]), outs, strict=False):
        if i in parts:
            layer = parts[i]
            factor = layer.lora_alpha / layer.lora_rank / _scale(parts)
            b[row : row + out, column : column + layer.lora_rank] = factor * _numpy(layer.lora_kernel_b).T
            column += layer.lora_rank
    return a, b


def _targets(plan: Plan, modules: Sequence[str]) -> list[str]:
    """The modules by the ends of their names, "query", if these match no others; else in full."""
    ends = sorted({module.rpartition(".")[2] for module in modules})
    every = {_module(tensor) for tensor in plan.values()}
    matching = {module for module in every if module.rpartition(".")[2] in ends}
    return ends if matching == set(modules) else list(modules)


def _read_theirs(
    plan: Plan, arrays: Mapping[str, Array], config: Mapping[str, Any], header: Mapping[str, str]
) -> Adapters:
    for option, plain in PLAIN.items():
        if config.get(option, plain) not in (plain, None):
            raise WrongConfiguration(f"{option}={config[option]!r}; supported is {plain!r} alone")
    blocks = json.loads(header.get("zoo_blocks", "{}"))
    left = {name.removeprefix(PREFIX): x for name, x in arrays.items()}
    found = Adapters("transformers")
    for tensor in plan.values():
        modules = {name: name.rpartition(".")[0] for name in tensor.names}
        for name, module in modules.items():
            keys = [f"{module}.lora_{part}.weight" for part in "AB"]
            if tensor.variables[0].name == "kernel" and any(key in left for key in keys):
                a, b = (left.pop(key) for key in keys)
                _split(found, tensor, a, b, _alpha(config, module) / len(a), blocks.get(module))
            elif name in left:
                if not tensor.fits(left[name].shape):
                    raise WeightsMismatch(f"{name} is {left[name].shape}, the model needs {tensor.shape}")
                found.values += tensor.ours(left.pop(name))
    if left or not found.factors:
        expected = next(_module(t) for t in plan.values() if t.variables[0].name == "kernel")
        raise WeightsMismatch(
            f"adapters of another model: {shortlist(left or arrays)}; expected modules such as {expected}"
        )
    return found


def _alpha(config: Mapping[str, Any], module: str) -> float:
    for pattern, alpha in (config.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            return float(alpha)
    return float(config.get("lora_alpha", 8))  # PEFT's default


def _split(
    found: Adapters,
    tensor: Tensor,
    a: Array,
    b: Array,
    scale: float,
    blocks: Mapping[str, int] | None,
) -> None:
    """Add the adapters of a module's parts: its blocks, or of each part its rows of B."""
    outs = [tensor.parts[i].shape[-1] for i in sorted(tensor.parts)]
    if b.shape[0] != sum(outs) or a.shape[0] != b.shape[1]:
        raise WeightsMismatch(
            f"the adapter of {_module(tensor)} is {a.shape} and {b.shape}; the model has {sum(outs)} outputs"
        )
    first = 0
    for i, rows in zip(sorted(tensor.parts), np.split(b, np.cumsum(outs)[:-1]), strict=True):
        name = _layer_of(tensor.parts[i])
        rank = len(a) if blocks is None else blocks.get(str(i))
        if rank is not None:
            own = slice(first, first + rank)
            found.ranks[name], found.factors[name] = (rank, scale * rank), (a[own].T, rows[:, own].T)
            first += rank if blocks is not None else 0
