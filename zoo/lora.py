"""LoRA: fine-tuning that trains low-rank adapters of frozen kernels.

Hu et al. 2021, "LoRA: low-rank adaptation of large language models", arXiv:2106.09685, eq. 3:

    y = x (W + alpha / r A B)        A (in, r), B (r, out)

A is drawn from the He uniform distribution and B is 0, as in Keras's `enable_lora`, which this uses: layers
of `zoo.layers.dense`, among them the projections of attention, and Keras's own layers with a kernel.

    zoo.train("bert-tiny", "topics", weights="bert.safetensors", lora=8)

    zoo.lora.add(model, 8, alpha=16, layers="*_query, *_value")
    run = zoo.train(model, task)
    zoo.lora.save(model, "adapter/")      # adapters alone, as PEFT does
    zoo.lora.merge(model)                 # into the kernels: a plain model again
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from numbers import Real
from pathlib import Path
from typing import Any, cast

import numpy as np

from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.checks import integer, parse_calls
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.layers.signature import layers_of, vocabulary
from zoo.weights import Loaded, peft
from zoo.weights.layouts import weights

__all__ = ["LoRA", "add", "load", "merge", "parse", "save"]

Layer = Any
LAYERS = "*_query, *_value"  # section 7.1 of the paper: best for the same number of parameters
PROGRAMS = (  # what was compiled of a model, by Keras and by zoo.generation
    "train_function", "test_function", "predict_function", "_zoo_decoder", "_zoo_predictor",
)  # fmt: skip


@dataclass(frozen=True)
class LoRA:
    """Adapters of this rank, scaled by alpha / rank; alpha is the rank by default.

    `layers` are patterns of the names of layers that get one, `train` of those that train in full: by default
    the head, unless its outputs are the tokens of the vocabulary. All others are frozen; dropout stays
    active. Raises WrongConfiguration.
    """

    rank: int = 8
    alpha: float | None = None
    layers: str | Sequence[str] = LAYERS
    train: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "rank", integer("lora", "rank", self.rank))
        alpha = self.rank if self.alpha is None else self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, Real) or not 0 < float(alpha) < np.inf:
            raise WrongConfiguration(f"lora: alpha={alpha!r}; expected a number above 0")
        object.__setattr__(self, "alpha", alpha)
        for name in ("layers", "train"):
            patterns = getattr(self, name)
            if not isinstance(patterns, str | None):
                object.__setattr__(self, name, ", ".join(patterns))

    def __str__(self) -> str:
        train = "" if self.train is None else f", train={self.train!r}"
        return f"LoRA({self.rank}, alpha={self.alpha}, layers={self.layers!r}{train})"


def parse(given: LoRA | int | str) -> LoRA:
    """Adapters by their rank, or in words, "LoRA(8, alpha=16, layers='*_query')".

    Raises UnknownName or WrongConfiguration.
    """
    if isinstance(given, LoRA):
        return given
    if not isinstance(given, str):
        return LoRA(given)
    if given.strip().lstrip("-").isdigit():
        return LoRA(int(given))
    calls = parse_calls("lora", given)
    if len(calls) != 1 or calls[0].name.lower() != "lora":
        raise UnknownName(f"lora={given!r}; expected a rank, or LoRA(rank, alpha=..., layers=...)")
    try:
        return LoRA(*calls[0].args, **calls[0].kwargs)
    except TypeError as error:
        raise WrongConfiguration(
            f"lora={given!r}: {error}; expected LoRA(rank, alpha, layers, train)"
        ) from None


def add(
    model: keras.Model,
    rank: int = 8,
    alpha: float | None = None,
    layers: str | Sequence[str] = LAYERS,
    *,
    train: str | Sequence[str] | None = None,
    seed: int = 0,
) -> list[str]:
    """Add adapters to a model, freeze what is not to train, and return the names of the adapted layers.

    The arguments are those of `LoRA`; A is drawn by `seed` and the layer's name, the same on every framework.
    The outputs do not change before training. Raises UnknownName for a pattern that matches no layer, and
    WrongConfiguration for a wrong value and a model that has adapters already.
    """
    spec = LoRA(rank, alpha, layers, train)
    adapted, trained = select(model, spec)
    _attach(model, {layer.name: (spec.rank, cast(float, spec.alpha)) for layer in adapted}, trained, seed)
    return [layer.name for layer in adapted]


def select(model: keras.Model, spec: LoRA) -> tuple[list[Layer], list[str]]:
    """The layers to adapt, and the names of those to train in full. Raises what `add` raises."""
    if adapters(model):
        raise WrongConfiguration(f"{model.name} has LoRA adapters already; merge them with zoo.lora.merge")
    layers = layers_of(model.layers)
    if spec.train is None:
        trained = [layer.name for layer in layers if _is_head(model, layer)]
    else:
        trained = _matching("train", str(spec.train), [layer.name for layer in layers], model.name)
    able = {layer.name: layer for layer in layers if _is_able(layer) and layer.name not in trained}
    names = _matching("layers", str(spec.layers), list(able), model.name)
    if not names:
        raise WrongConfiguration(f"lora: layers={spec.layers!r}; expected names or patterns, e.g. '*_query'")
    return [able[name] for name in names], trained


def merge(model: keras.Model) -> keras.Model:
    """Add each adapter's product to its kernel and remove it; what `add` froze is trainable again.

    The model has its plain weights' names again, and the same outputs to rounding. Raises
    WrongConfiguration for a model without adapters.
    """
    for layer in _adapted(model):
        kernel, a, b = kernel_of(layer), layer.lora_kernel_a, layer.lora_kernel_b
        wide = [np.asarray(ops.convert_to_numpy(v)).astype(np.float64) for v in (kernel, a, b)]
        _assign(kernel, wide[0] + layer.lora_alpha / layer.lora_rank * (wide[1] @ wide[2]))
        _assign(b, np.zeros(b.shape))  # a program compiled before, which still reads it, stays right
        for variable in (a, b):
            layer._untrack_variable(variable)
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
    for item, trainable in reversed(getattr(model, "_zoo_frozen", [])):
        item.trainable = trainable
    _forget(model, *PROGRAMS, "_zoo_frozen")
    return model


def save(model: keras.Model, folder: str | Path) -> None:
    """Save the adapters, and the layers that train in full, in the format of PEFT.

    The folder gets `adapter_model.safetensors` and `adapter_config.json`. Of models that transformers has
    (BERT, GPT-2, T5, ViT), PEFT loads them onto transformers' model; GPT-2's fused projection of query, key
    and value gets one adapter that is the block diagonal of ours, so that its rank is the sum of theirs.
    Other models' arrays have the zoo's names. Raises WrongConfiguration for a model without adapters, and a
    folder that cannot be written.
    """
    peft.write(model, Path(folder), _adapted(model), trained_layers(model))


def load(model: keras.Model, folder: str | Path) -> Loaded:
    """Add the adapters in a folder to a model: those of `save`, or PEFT's of one of transformers' models.

    Raises DataUnavailable for missing or damaged files, WrongConfiguration for a model that has adapters or
    settings that are not supported, and WeightsMismatch, with the model unchanged, for another model's.
    """
    if adapters(model):
        raise WrongConfiguration(f"{model.name} has LoRA adapters already; merge them with zoo.lora.merge")
    able = [layer for layer in layers_of(model.layers) if _is_able(layer)]
    found = peft.read(model, Path(folder), able)
    _attach(model, found.ranks, found.trained, 0)
    for layer in adapters(model):
        _assign(layer.lora_kernel_a, found.factors[layer.name][0])
        _assign(layer.lora_kernel_b, found.factors[layer.name][1])
    for variable, value in found.values:
        _assign(variable, value)
    object.__setattr__(model, "_zoo_run", None)  # the weights are not those of that run any more
    return Loaded(model.name, found.layout, found.tensors)


# For runs


def facts_of(model: keras.Model) -> dict[str, Any] | None:
    """The adapters of a model, from which `restore` adds them: rank and alpha by layer; None without any."""
    ranks = {layer.name: [layer.lora_rank, layer.lora_alpha] for layer in adapters(model)}
    return {"layers": ranks, "train": trained_layers(model)} if ranks else None


def restore(model: keras.Model, facts: Mapping[str, Any]) -> None:
    """Add the adapters that a saved run's model had."""
    _attach(model, {name: tuple(pair) for name, pair in facts["layers"].items()}, facts["train"], 0)


def summary(model: keras.Model) -> str:
    """How many weights of a model with adapters train, in words."""
    trained, every = (
        sum(int(np.prod(v.shape)) for v in variables)
        for variables in (model.trainable_variables, weights(model))
    )
    found = adapters(model)
    return f"LoRA of rank {found[0].lora_rank} in {len(found)} layers, {trained:,} of {every:,} weights train"


# A model's layers


def adapters(model: keras.Model) -> list[Layer]:
    """The layers that have an adapter."""
    return [layer for layer in layers_of(model.layers) if getattr(layer, "lora_enabled", False)]


def trained_layers(model: keras.Model) -> list[str]:
    """The names of the layers that train in full."""
    adapted = adapters(model)
    return [
        layer.name for layer in layers_of(model.layers) if layer.trainable_variables and layer not in adapted
    ]


def kernel_of(layer: Layer) -> keras.Variable:
    """The kernel, of which Keras's layers show the sum with the adapter."""
    return next(v for v in layer.variables if v.name == "kernel")


def _is_able(layer: Layer) -> bool:
    return hasattr(layer, "enable_lora") and any(v.name == "kernel" for v in layer.variables)


def _is_head(model: keras.Model, layer: Layer) -> bool:
    inputs = getattr(model, "inputs", None) or ()
    return layer.name == "head" and layer.units not in {vocabulary(model, tensor) for tensor in inputs}


def _adapted(model: keras.Model) -> list[Layer]:
    if not (found := adapters(model)):
        raise WrongConfiguration(f"{model.name} has no LoRA adapters; zoo.lora.add adds them")
    return found


def _matching(argument: str, patterns: str, names: Sequence[str], model: str) -> list[str]:
    """The names that match one of the patterns. Raises UnknownName for a pattern that none matches."""
    split = [part.strip() for part in patterns.split(",") if part.strip()]
    for pattern in split:
        if not any(fnmatchcase(name, pattern) for name in names):
            kind = "dense layer" if argument == "layers" else "layer"
            raise UnknownName(
                f"lora: {argument}={pattern!r}: {model} has no such {kind}; {nearest(pattern, names)}"
            )
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in split)]


def _attach(
    model: keras.Model, ranks: Mapping[str, tuple[int, float]], trained: Sequence[str], seed: int
) -> None:
    """Add an adapter to each layer named, and freeze all variables but theirs and those of `trained`."""
    frozen: list[tuple[Any, bool]] = []

    def switch(item: Any, trainable: bool) -> None:
        if item.trainable != trainable:
            frozen.append((item, item.trainable))
            item.trainable = trainable

    for layer in layers_of(model.layers):
        if layer.name in ranks:
            switch(layer, True)
            for variable in layer.trainable_variables:
                switch(variable, False)
            rank, alpha = ranks[layer.name]
            layer.enable_lora(rank, alpha, a_initializer=_he_uniform(seed, layer.name))
        elif layer.trainable_variables and layer.name not in trained:
            switch(layer, False)
    _forget(model, *PROGRAMS)
    object.__setattr__(model, "_zoo_frozen", frozen)


def _he_uniform(seed: int, name: str) -> Callable[..., Any]:
    """A Keras initializer; He et al. 2015, eq. 10, as a uniform distribution."""

    def draw(shape: Sequence[int], dtype: str | None = None) -> Any:
        array = random.he_uniform.draw((seed, name, "lora_kernel_a"), shape)
        return ops.cast(array, dtype or "float32")

    return draw


def _assign(variable: keras.Variable, value: np.ndarray) -> None:
    variable.assign(value.astype("float64" if variable.dtype == "float64" else "float32"))
    backends.current().synchronize(variable.value)  # JAX copies asynchronously, and holds the array


def _forget(model: keras.Model, *names: str) -> None:
    """Remove attributes of a model; Keras's own have defaults."""
    for name in names:
        if name.startswith("_zoo"):
            model.__dict__.pop(name, None)
        elif name in vars(model):
            setattr(model, name, None)
