"""Load and save weights with the parameter names of other libraries: files, the hub, state dicts.

    zoo.weights.load(model, "resnet50.safetensors")           # names of torchvision, timm or the zoo
    zoo.weights.load(model, "hf://timm/resnet50.a1_in1k")
    zoo.weights.from_torch(model, torchvision_model.state_dict())
    zoo.weights.save(model, "resnet50.safetensors", layout="torchvision")

Every array of the file and every weight of the model is accounted for, or nothing is loaded. A layout
(`zoo.weights.layouts`) is a library's naming scheme; it is recognized by the names.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backends, pretrained, storage
from zoo.errors import BackendError, UnknownName, WeightsMismatch, WrongConfiguration, nearest, shortlist
from zoo.weights import files, hub, mingpt, timm, torch_nn, torchvision, transformers
from zoo.weights.files import Arrays, Stored
from zoo.weights.layouts import OWN, Constants, Layout, Plan, Row, Scheme, Tensor, Transform, is_adapter
from zoo.weights.mappings import WeightsMapping, convert
from zoo.weights.optimizer_states import OptimizerState

if TYPE_CHECKING:
    import keras

__all__ = [
    "Layout", "Loaded", "OptimizerState", "Row", "Transform", "WeightsMapping", "convert", "from_torch",
    "load", "save", "to_torch",
]  # fmt: skip

SCHEMES: tuple[Scheme, ...] = (
    OWN, files.KERAS, *torchvision.LAYOUTS, *timm.LAYOUTS, *transformers.LAYOUTS, *mingpt.LAYOUTS,
    *torch_nn.LAYOUTS,
)  # fmt: skip
HEADS = ("auto", "require", "skip")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """The result of loading: the layout, the number of arrays, and notes on what was changed or left out."""

    model: str
    layout: str
    tensors: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "; ".join((f"{self.model}: {self.tensors} tensors by {self.layout}'s names", *self.notes))


def load(
    model: keras.Model, source: str | Path, layout: str | Scheme | None = None, *, head: str = "auto"
) -> Loaded:
    """Load weights from a file, a folder, or the hub.

    `source` is a path: .safetensors (memory-mapped, read array by array), a sharded model's
    .index.json, .npz, Keras's .weights.h5, torch's .pt, .pth, .bin, .ckpt and .pt.tar (tensors only: no code
    in them is run), a checkpoint of `zoo.train`, or a folder with a file of one of the hub's names. Or it is
    "hf://owner/name[/file][@revision]", downloaded to huggingface_hub's cache, or the name of weights
    included with the zoo (`zoo.pretrained`). `layout`, `head` and the errors are those of `from_torch`;
    raises DataUnavailable, with nothing loaded, for a file that is missing or damaged.
    """
    path = located(model.name, source)
    with files.reading(path) as arrays:
        return _fill(model, arrays, layout, head, f"{path}: ")


def located(model: str, source: str | Path) -> Path:
    """The path of a source, downloaded if it is on the hub. Raises UnknownName, DataUnavailable."""
    if str(source).startswith("hf:"):
        return hub.fetch(str(source))
    trained = pretrained.find(model, source)
    return trained.path if trained else Path(source)


def from_torch(
    model: keras.Model,
    state_dict: Mapping[str, Any],
    layout: str | Scheme | None = None,
    *,
    head: str = "auto",
) -> Loaded:
    """Load a state dict: torch tensors on any device, or NumPy arrays, by name.

    A state dict in a training script's dict, under "state_dict", "model", "ema" or the like, is found, and a
    prefix "module.", "_orig_mod." or "model." of every name is removed, each with a note. `layout` is
    "torchvision", "timm", "transformers", "mingpt", "nanogpt", "torch" or "zoo", by default recognized by the
    names and shapes, or your own `Layout`. With `head` "auto", a head with another number of classes is not
    loaded, and this is logged; "require" makes it an error, "skip" never loads a head. An array that a file
    has twice is loaded if both copies are equal. A Vision Transformer's position embeddings are interpolated
    to the model's image size as the library does whose names they have. Integers (`num_batches_tracked`) are
    ignored. Raises WeightsMismatch, with nothing loaded, unless the names and shapes match the model and the
    types are floats of 16 bits or more.
    """
    if not isinstance(state_dict, Mapping):
        raise WrongConfiguration(
            f"from_torch: got a {type(state_dict).__name__}, expected a state dict; pass its .state_dict()"
        )
    try:
        arrays = files.unwrapped(state_dict)
    except ValueError as error:
        raise WrongConfiguration(f"from_torch: {error}. Nothing was loaded.") from None
    return _fill(model, arrays, layout, head)


def to_torch(model: keras.Model, layout: str | Scheme) -> dict[str, Any]:
    """The weights as a state dict of torch tensors, which the original model loads with strict=True.

    `layout` is that of `from_torch`. Raises BackendError if torch is not installed; `save` writes the same
    to a file with NumPy alone.
    """
    try:
        backends.checked("torch", "zoo.weights.to_torch")
    except BackendError as error:
        raise BackendError(
            f"{error}. zoo.weights.save(model, path, layout=...) writes safetensors without it"
        ) from None
    tensors = import_module("zoo.backends.torch_tensors")
    return {name: tensors.tensor(x) for name, x in _arrays(model, layout).items()}


def save(model: keras.Model, path: str | Path, layout: str | Scheme = "zoo") -> None:
    """Save the weights atomically to .safetensors or .npz, or to Keras's .weights.h5.

    `layout` is that of `from_torch`; the default is the zoo's own names ("stage1_block1_conv1/kernel"), the
    only one for Keras's format. Raises WrongConfiguration for another ending or a missing folder.
    """
    path = Path(path)
    files.check(path)
    if path.suffix == ".h5":
        if layout != "zoo":
            raise WrongConfiguration(
                f"{path}: layout={layout!r}, but Keras's format has its own names; leave layout= out"
            )
        with storage.replacing(path) as part:
            model.save_weights(part)
    else:
        files.write(path, _arrays(model, layout))


def _arrays(model: keras.Model, layout: str | Scheme) -> dict[str, np.ndarray]:
    scheme = _named(model, layout)
    if isinstance(scheme, Layout) and any(is_adapter(v.path) for v in model.variables):
        raise WrongConfiguration(
            f"{model.name} has LoRA adapters, which {scheme.name} has no names for; merge them with "
            "zoo.lora.merge, or save them alone with zoo.lora.save"
        )
    plan, constants = scheme.plan(model)
    arrays = {}
    for name, tensor in plan.items():
        arrays |= dict.fromkeys([name, *(names[0] for names in tensor.copies)], tensor.theirs())
    values = {make: make(model) for make in constants.values()}
    return arrays | {name: values[make] for name, make in constants.items()}


def check_layout(layout: str) -> None:
    """Raise UnknownName, before a model is built, for an unknown layout."""
    if layout not in (known := {scheme.name for scheme in SCHEMES}):
        raise UnknownName(f"no layout {layout!r}; {nearest(layout, known)}")


def _named(model: keras.Model, layout: str | Scheme) -> Scheme:
    """The scheme of that name. Raises UnknownName if the model has none of that name."""
    if not isinstance(layout, str):
        return layout
    suited = {scheme.name: scheme for scheme in SCHEMES if scheme.suits(model)}
    if layout not in suited:
        raise UnknownName(f"no layout {layout!r} of {model.name}; {nearest(layout, suited)}")
    return suited[layout]


# The prefixes of wrappers: DataParallel and averages, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")


def _bare(arrays: Mapping[str, Stored]) -> list[tuple[str, Mapping[str, Stored]]]:
    """The prefixes that every name has, the empty one first, each with the arrays without it.

    Names of integers are not considered: torch's averages have `n_averaged` beside their "module.".
    """
    prefix, found = "", [("", arrays)]
    while True:
        names = [name[len(prefix) :] for name, stored in arrays.items() if not stored.integer]
        more = next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), None)
        if more is None:
            return found
        prefix += more
        bare = {name[len(prefix) :]: x for name, x in arrays.items() if name.startswith(prefix)}
        found.append((prefix, bare))


def _fit(plan: Plan, constants: Constants, arrays: Mapping[str, Stored]) -> tuple[int, int, int]:
    """The number of names that match the plan, of shapes that fit, and of constants."""
    shapes = [(t, arrays[keys[0]].shape) for t in plan.values() if (keys := t.found(arrays))]
    fit = sum(tensor.fits(shape) for tensor, shape in shapes)
    return len(shapes), fit, sum(name in arrays for name in constants)


def _recognized(
    model: keras.Model, arrays: Mapping[str, Stored], layout: str | Scheme | None
) -> tuple[Scheme, Plan, Constants, str, Mapping[str, Stored]]:
    """The scheme that matches most of the names, and among equals most of the shapes.

    A given `layout` is the only candidate. Also returns the prefix removed from the names, and the arrays
    without it. Raises WeightsMismatch if no name matches.
    """
    plans = []
    if layout is not None:
        scheme = _named(model, layout)
        plans.append((scheme, *scheme.plan(model)))
    for scheme in () if plans else SCHEMES:
        if scheme.suits(model):
            with suppress(WrongConfiguration):  # a modified model of that name
                plans.append((scheme, *scheme.plan(model)))
    candidates = [(*plan, *bare) for bare in _bare(arrays) for plan in plans]
    scores = [_fit(plan, constants, bare) for _, plan, constants, _, bare in candidates]
    if not max(scores)[0] and layout is None:
        raise WeightsMismatch(
            f"no name belongs to {model.name}: {shortlist(arrays)}; expected the names of "
            f"{', '.join(scheme.name for scheme, *_ in plans)}, e.g. {next(iter(plans[-1][1]))}. "
            "Nothing was loaded."
        )
    return candidates[scores.index(max(scores))]


def _fill(
    model: keras.Model, given: Arrays, layout: str | Scheme | None, head: str, source: str = ""
) -> Loaded:
    """Load the arrays after all of them have been checked and read."""
    if head not in HEADS:
        raise WrongConfiguration(f"head={head!r}; expected {', '.join(map(repr, HEADS))}")
    scheme, plan, constants, prefix, arrays = _recognized(model, given, layout)
    pairs = [(tensor, tensor.found(arrays)) for tensor in plan.values()]
    known = {key for _, keys in pairs for key in keys} | constants.keys()
    others = [name for name in sorted(arrays) if name not in known and not arrays[name].integer]
    left_over = [name for name in others if not _one_of(scheme.spare, name)]

    def on_top(tensor: Tensor) -> bool:
        return tensor.layer == "head" or _one_of(scheme.heads, tensor.names[0])

    heads = [pair for pair in pairs if on_top(pair[0])]
    other = _other_classes(heads, arrays) if head == "auto" else None
    if head == "skip" or other:
        pairs = [pair for pair in pairs if not on_top(pair[0])]
        left_over = [name for name in left_over if not _one_of(scheme.heads, name)]

    missing = [tensor.names[0] for tensor, keys in pairs if not keys]
    found = [(tensor, keys) for tensor, keys in pairs if keys]
    wrong = _wrong(model.name, found, arrays)
    if not wrong:  # each is read once before the first is loaded: nothing is loaded if one cannot be read
        wrong = _unequal(model.name, found, arrays, source)
    if wrong or missing or left_over:
        raise WeightsMismatch(_complaint(scheme, prefix, wrong, missing, left_over, heads))

    for tensor, keys in found:
        for variable, value in tensor.ours(files.read(keys[0], arrays[keys[0]], source)):
            # Narrower variables round by themselves.
            wide = "float64" if variable.dtype == "float64" else "float32"
            variable.assign(np.array(value, wide))  # in its memory order, which torch's kernels keep
            backends.current().synchronize(variable.value)  # JAX copies asynchronously, and holds the array
    # The weights are no longer those of the run that the model may belong to (zoo.runs).
    object.__setattr__(model, "_zoo_run", None)
    notes = [*given.notes, *([f"the prefix {prefix!r} was removed from every name"] if prefix else [])]
    notes += [
        f"{keys[0]} was interpolated from {arrays[keys[0]].shape} to {tensor.shape}, as "
        f"{'timm' if scheme.name in ('zoo', 'keras') else scheme.name} does"
        for tensor, keys in found
        if arrays[keys[0]].shape != tensor.shape
    ]
    if other:
        notes.append(f"the head was not loaded: it has {other[0]:,} classes, the model's {other[1]:,}")
    done = Loaded(model.name, scheme.name, sum(len(keys) for _, keys in found), tuple(notes))
    if notes:
        log.warning("%s", done)
    return done


Found = Sequence[tuple[Tensor, list[str]]]  # and its names in the file


def _wrong(model: str, found: Found, arrays: Mapping[str, Stored]) -> list[str]:
    """Errors for arrays of another shape, or of an unsupported type."""
    shapes = [
        f"{keys[0]} is {arrays[keys[0]].shape}, {model} needs {tensor.shape}"
        for tensor, keys in found
        if not tensor.fits(arrays[keys[0]].shape)
    ]
    types = [
        f"{key} has type {arrays[key].dtype}; expected floats of 16, 32 or 64 bits"
        for _, keys in found
        for key in keys
        if not arrays[key].floating
    ]
    return types + shapes


def _unequal(model: str, found: Found, arrays: Mapping[str, Stored], source: str) -> list[str]:
    """Errors for copies of an array that differ. Raises DataUnavailable for damaged arrays."""
    wrong = []
    for _, keys in found:
        first = files.read(keys[0], arrays[keys[0]], source)
        wrong += [
            f"{copy} differs from {keys[0]}, and {model} has one array for both"
            for copy in keys[1:]
            if arrays[copy].shape != first.shape
            or not np.array_equal(first, files.read(copy, arrays[copy], source))
        ]
    return wrong


def _other_classes(
    heads: Sequence[tuple[Tensor, list[str]]], arrays: Mapping[str, Stored]
) -> tuple[int, int] | None:
    """The numbers of classes of their head and of ours, if the heads differ in nothing else."""
    found = set()
    for tensor, keys in heads:
        given, needed, axis = arrays[keys[0]].shape if keys else (), tensor.shape, tensor.transform.outputs
        if len(given) != len(needed) or np.any(np.delete(given, axis) != np.delete(needed, axis)):
            return None
        found.add((given[axis], needed[axis]))
    return next(((theirs, ours) for theirs, ours in found if theirs != ours), None)


def _complaint(
    scheme: Scheme,
    prefix: str,
    wrong: Sequence[str],
    missing: Sequence[str],
    left_over: Sequence[str],
    heads: Sequence[tuple[Tensor, list[str]]],
) -> str:
    parts = [shortlist(wrong, separator="; ")] if wrong else []
    if missing:
        parts.append(f"{_count(missing)} missing: {shortlist(missing)}")
    if left_over:
        parts.append(f"{_count(left_over)} unexpected: {shortlist(left_over)}")
    advice = ""
    if heads and missing and not (wrong or left_over) and not any(keys for _, keys in heads):
        advice = ' head="skip" does not load the head.'
    advice += scheme.hint(missing, left_over)
    without = f" without the prefix {prefix!r}" if prefix else ""
    return f"by {scheme.name}'s names{without}: {'; '.join(parts)}. Nothing was loaded.{advice}"


def _one_of(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _count(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"
