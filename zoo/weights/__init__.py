"""Other people's weights in, the zoo's out: files, the hub, torch's state dicts, by names and shapes.

    zoo.weights.load(model, "resnet50.safetensors")           # torchvision's, timm's or the zoo's own names
    zoo.weights.load(model, "hf://timm/resnet50.a1_in1k")
    zoo.weights.from_torch(model, torchvision_model.state_dict())
    zoo.weights.save(model, "resnet50.safetensors", layout="torchvision")

Every array of the file and every weight of the model is accounted for, or nothing is loaded. A layout
(`zoo.weights.layouts`) says who names what how; it is recognized by the names.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backends, pretrained, storage
from zoo.errors import BackendError, UnknownName, WeightsMismatch, WrongConfiguration, nearest
from zoo.weights import files, hub, mingpt, timm, torch_nn, torchvision, transformers
from zoo.weights.files import Arrays, Stored
from zoo.weights.layouts import OWN, Constants, Layout, Plan, Row, Scheme, Tensor, Transform

if TYPE_CHECKING:
    import keras

__all__ = ["Layout", "Loaded", "Row", "Transform", "from_torch", "load", "save", "to_torch"]

SCHEMES: tuple[Scheme, ...] = (
    OWN, files.KERAS, *torchvision.LAYOUTS, *timm.LAYOUTS, *transformers.LAYOUTS, *mingpt.LAYOUTS,
    *torch_nn.LAYOUTS,
)  # fmt: skip
HEADS = ("auto", "require", "skip")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """What was loaded: by whose names, how many arrays, and what is not as it was in the file."""

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

    `source` is a path: .safetensors (read piece by piece from the mapped file), a sharded model's
    .index.json, .npz, Keras's .weights.h5, torch's .pt, .pth, .bin, .ckpt and .pt.tar (tensors only: nothing
    in them is run), a checkpoint of `zoo.train`, or a folder that holds one of the hub's names. Or it is
    "hf://owner/name[/file][@revision]", fetched by huggingface_hub and kept in its cache, or the name of
    weights that come with the zoo (`zoo.pretrained`). `layout` and `head` are those of `from_torch`, and so
    is what is raised; DataUnavailable, with nothing loaded, for a file that is not there or is damaged.
    """
    path = located(model.name, source)
    with files.reading(path) as arrays:
        return _fill(model, arrays, layout, head, f"{path}: ")


def located(model: str, source: str | Path) -> Path:
    """The file that is meant, downloaded if it is the hub's. Raises UnknownName, DataUnavailable."""
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
    """Load a state dict: torch tensors of any device, or NumPy arrays, by name.

    A training script's dict that has one under "state_dict", "model", "ema" or the like is searched for it,
    and "module.", "_orig_mod." or "model." in front of every name is removed, each with a note. `layout` is
    "torchvision", "timm", "transformers", "mingpt", "nanogpt", "torch" or "zoo", by default recognized by the
    names and shapes, or a `Layout` of your own. With `head` "auto", a head of another number of classes is
    left as it was built, and this is logged; "require" makes it an error, "skip" never loads a head, ours or
    theirs. An array that a file has twice is loaded if both are equal. A Vision Transformer's position
    embeddings are interpolated to the model's image size, by the rule of the library whose names they have.
    Integers (`num_batches_tracked`) are no weights and not looked at. Returns what was done; raises
    WeightsMismatch, with nothing loaded, unless names and shapes are the model's and the types are floats of
    16 bits or more.
    """
    if not isinstance(state_dict, Mapping):
        raise WrongConfiguration(
            f"from_torch: expected a state dict, got a {type(state_dict).__name__}; give its .state_dict()"
        )
    try:
        arrays = files.unwrapped(state_dict)
    except ValueError as error:
        raise WrongConfiguration(f"from_torch: {error}. Nothing was loaded.") from None
    return _fill(model, arrays, layout, head)


def to_torch(model: keras.Model, layout: str | Scheme) -> dict[str, Any]:
    """The weights as a state dict of torch tensors, which the original loads with strict=True.

    `layout` is that of `from_torch`. Raises BackendError without torch; `save` writes the same to a file
    with NumPy alone.
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
    """Save the weights, whole or not at all: to .safetensors or .npz, or to Keras's .weights.h5.

    `layout` is that of `from_torch`; the zoo's own names ("stage1_block1_conv1/kernel") are the default, and
    Keras's format knows no other. Raises WrongConfiguration for another ending or a folder that is not there.
    """
    path = Path(path)
    files.check(path)
    if path.suffix == ".h5":
        if layout != "zoo":
            raise WrongConfiguration(f"{path}: Keras's format has names of its own; leave layout= out")
        with storage.replacing(path) as part:
            model.save_weights(part)
    else:
        files.write(path, _arrays(model, layout))


def _arrays(model: keras.Model, layout: str | Scheme) -> dict[str, np.ndarray]:
    plan, constants = _named(model, layout).plan(model)
    arrays = {}
    for name, tensor in plan.items():
        arrays |= dict.fromkeys([name, *(names[0] for names in tensor.copies)], tensor.theirs())
    made = {make: make(model) for make in constants.values()}
    return arrays | {name: made[make] for name, make in constants.items()}


def check_layout(layout: str) -> None:
    """Raise UnknownName, before a model is built, for a layout that no model has."""
    if layout not in (known := {scheme.name for scheme in SCHEMES}):
        raise UnknownName(f"no layout {layout!r}; {nearest(layout, known)}")


def _named(model: keras.Model, layout: str | Scheme) -> Scheme:
    """The scheme of that name. Raises UnknownName for one that the model has not."""
    if not isinstance(layout, str):
        return layout
    suited = {scheme.name: scheme for scheme in SCHEMES if scheme.suits(model)}
    if layout not in suited:
        raise UnknownName(f"no layout {layout!r} of {model.name}; {nearest(layout, suited)}")
    return suited[layout]


# What wrappers of a network put in front of its names: DataParallel and averages, torch.compile, Lightning.
PREFIXES = ("module.", "_orig_mod.", "model.")


def _bare(arrays: Mapping[str, Stored]) -> list[tuple[str, Mapping[str, Stored]]]:
    """What can be removed in front of every name, none first, and the arrays without it.

    Names of integers do not count: torch's averages have `n_averaged` beside their "module.".
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
    """How many of the names are the plan's, how many shapes fit, how many constants there are."""
    shapes = [(t, arrays[keys[0]].shape) for t in plan.values() if (keys := t.found(arrays))]
    fit = sum(tensor.fits(shape) for tensor, shape in shapes)
    return len(shapes), fit, sum(name in arrays for name in constants)


def _recognized(
    model: keras.Model, arrays: Mapping[str, Stored], layout: str | Scheme | None
) -> tuple[Scheme, Plan, Constants, str, Mapping[str, Stored]]:
    """The scheme by which most of these names are the model's, and of several most shapes.

    A `layout` that is given is the only one that counts. With it, what was removed in front of the names, and
    the arrays by what is left. Raises WeightsMismatch if no name is the model's.
    """
    plans = []
    if layout is not None:
        scheme = _named(model, layout)
        plans.append((scheme, *scheme.plan(model)))
    for scheme in () if plans else SCHEMES:
        if scheme.suits(model):
            with suppress(WrongConfiguration):  # a model of that name, but changed
                plans.append((scheme, *scheme.plan(model)))
    ways = [(*plan, *way) for way in _bare(arrays) for plan in plans]
    known = [_fit(plan, constants, bare) for _, plan, constants, _, bare in ways]
    if not max(known)[0] and layout is None:
        raise WeightsMismatch(
            f"no name is one of {model.name}'s: {_some(arrays)}; known for it are those of "
            f"{', '.join(scheme.name for scheme, *_ in plans)}, e.g. {next(iter(plans[-1][1]))}. "
            "Nothing was loaded."
        )
    return ways[known.index(max(known))]


def _fill(
    model: keras.Model, given: Arrays, layout: str | Scheme | None, head: str, source: str = ""
) -> Loaded:
    """Load the arrays once all of them are known to fit and have been read."""
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
    if not wrong:  # each is read once before any is written: nothing is loaded if one cannot be
        wrong = _unequal(model.name, found, arrays, source)
    if wrong or missing or left_over:
        raise WeightsMismatch(_complaint(scheme, prefix, wrong, missing, left_over, heads))

    for tensor, keys in found:
        for variable, value in tensor.ours(files.read(keys[0], arrays[keys[0]], source)):
            # Narrower variables round by themselves.
            wide = "float64" if variable.dtype == "float64" else "float32"
            variable.assign(np.array(value, wide))  # in the order it has: torch keeps kernels in theirs
            backends.current().synchronize(variable.value)  # JAX copies in its own time, and holds the array
    # The weights are not those of the run that the model may be of (zoo.training.runs) any more.
    object.__setattr__(model, "_zoo_run", None)
    notes = [*given.notes, *([f"{prefix!r} was removed in front of every name"] if prefix else [])]
    notes += [
        f"{keys[0]} was interpolated from {arrays[keys[0]].shape} to {tensor.shape}, as "
        f"{'timm' if scheme.name in ('zoo', 'keras') else scheme.name} does"
        for tensor, keys in found
        if arrays[keys[0]].shape != tensor.shape
    ]
    if other:
        notes.append(f"the head, of {other[0]:,} classes, was left out: the model's own has {other[1]:,}")
    done = Loaded(model.name, scheme.name, sum(len(keys) for _, keys in found), tuple(notes))
    if notes:
        log.warning("%s", done)
    return done


Found = Sequence[tuple[Tensor, list[str]]]  # and by what names it is there


def _wrong(model: str, found: Found, arrays: Mapping[str, Stored]) -> list[str]:
    """The arrays of another shape, or of a type that is not loaded."""
    shapes = [
        f"{keys[0]} is {arrays[keys[0]].shape}, {model} needs {tensor.shape}"
        for tensor, keys in found
        if not tensor.fits(arrays[keys[0]].shape)
    ]
    types = [
        f"{key} is of type {arrays[key].dtype}; expected floats of 16, 32 or 64 bits"
        for _, keys in found
        for key in keys
        if not arrays[key].floating
    ]
    return types + shapes


def _unequal(model: str, found: Found, arrays: Mapping[str, Stored], source: str) -> list[str]:
    """The arrays that the file has twice and that differ. Raises DataUnavailable for one that is damaged."""
    wrong = []
    for _, keys in found:
        first = files.read(keys[0], arrays[keys[0]], source)
        wrong += [
            f"{copy} is not {keys[0]}, and {model} has one array for both"
            for copy in keys[1:]
            if not np.array_equal(first, files.read(copy, arrays[copy], source))
        ]
    return wrong


def _other_classes(
    heads: Sequence[tuple[Tensor, list[str]]], arrays: Mapping[str, Stored]
) -> tuple[int, int] | None:
    """How many classes their head tells apart and how many ours, if that is all they differ in."""
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
    parts = [_some(wrong, between="; ")] if wrong else []
    if missing:
        parts.append(f"{_count(missing)} missing: {_some(missing)}")
    if left_over:
        parts.append(f"{_count(left_over)} left over: {_some(left_over)}")
    advice = ""
    if heads and missing and not (wrong or left_over) and not any(keys for _, keys in heads):
        advice = ' head="skip" leaves the head as it is.'
    advice += scheme.hint(missing, left_over)
    without = f", without {prefix!r} in front" if prefix else ""
    return f"by {scheme.name}'s names{without}: {'; '.join(parts)}. Nothing was loaded.{advice}"


def _one_of(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _count(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _some(names: Iterable[str], between: str = ", ") -> str:
    """The first few, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - 5:,} more"] if len(names) > 5 else []
    return between.join([*names[:5], *more])
