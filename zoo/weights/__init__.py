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
from zoo.weights.files import Stored
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
    .safetensors.index.json, .npz, Keras's .weights.h5, torch's .pt, .pth and .bin (tensors only: nothing in
    them is run), a checkpoint of `zoo.train`, or a folder that holds one of the hub's names. Or it is
    "hf://owner/name[/file][@revision]", fetched by huggingface_hub and kept in its cache, or the name of
    weights that come with the zoo (`zoo.pretrained`). `layout` and `head` are those of `from_torch`, and so
    is what is raised; DataUnavailable for a file that is not there or is not what it should be.
    """
    with files.reading(located(model.name, source)) as arrays:
        return _fill(model, arrays, layout, head)


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
    """Load a state dict: torch tensors of any device and type, or NumPy arrays, by name.

    `layout` is "torchvision", "timm", "transformers", "mingpt", "nanogpt", "torch" or "zoo", by default
    recognized by the names and shapes, or a `Layout` of your own. With `head` "auto", a head of another
    number of classes is left as it was built, and this is logged; "require" makes it an error, "skip" never
    loads a head, ours or theirs. An array that a file has twice is loaded if both are equal. A Vision
    Transformer's position embeddings are interpolated to the model's image size. Integers
    (`num_batches_tracked`) are no weights and not looked at. Returns what was done; raises WeightsMismatch,
    with nothing loaded, unless names and shapes are the model's.
    """
    if not isinstance(state_dict, Mapping):
        raise WrongConfiguration(
            f"from_torch: expected a state dict, got a {type(state_dict).__name__}; give its .state_dict()"
        )
    return _fill(model, {name: _stored(value) for name, value in state_dict.items()}, layout, head)


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


def _stored(value: Any) -> Stored:
    """A torch tensor, or an array, as what a file would hold."""
    if isinstance(value, np.ndarray):
        return Stored(value.shape, files.floating(value.dtype), lambda: value)
    numpy = import_module("zoo.backends.torch_tensors").numpy
    return Stored(tuple(value.shape), value.is_floating_point(), lambda: numpy(value))


def _named(model: keras.Model, layout: str | Scheme) -> Scheme:
    """The scheme of that name. Raises UnknownName for one that the model has not."""
    if not isinstance(layout, str):
        return layout
    suited = {scheme.name: scheme for scheme in SCHEMES if scheme.suits(model)}
    if layout not in suited:
        raise UnknownName(f"no layout {layout!r} of {model.name}; {nearest(layout, suited)}")
    return suited[layout]


def _recognized(model: keras.Model, arrays: Mapping[str, Stored]) -> tuple[Scheme, Plan, Constants]:
    """The scheme by which most of these names are the model's, and of several most shapes.

    Raises WeightsMismatch if none are.
    """
    plans = []
    for scheme in SCHEMES:
        if scheme.suits(model):
            with suppress(WrongConfiguration):  # a model of that name, but changed
                plans.append((scheme, *scheme.plan(model)))
    known = []
    for _, plan, constants in plans:
        shapes = [(t, arrays[keys[0]].shape) for t in plan.values() if (keys := t.found(arrays))]
        fit = sum(tensor.fits(shape) for tensor, shape in shapes)
        known.append((len(shapes), fit, sum(name in arrays for name in constants)))
    if not max(known)[0]:
        raise WeightsMismatch(
            f"no name is one of {model.name}'s: {_some(arrays)}; known for it are those of "
            f"{', '.join(scheme.name for scheme, *_ in plans)}, e.g. {next(iter(plans[-1][1]))}. "
            "Nothing was loaded."
        )
    return plans[known.index(max(known))]


def _fill(model: keras.Model, arrays: Mapping[str, Stored], layout: str | Scheme | None, head: str) -> Loaded:
    """Load the arrays once all of them are known to fit."""
    arrays = {name: stored for name, stored in arrays.items() if stored.floating}
    if head not in HEADS:
        raise WrongConfiguration(f"head={head!r}; expected {', '.join(map(repr, HEADS))}")
    if layout is None:
        scheme, plan, constants = _recognized(model, arrays)
    else:
        scheme = _named(model, layout)
        plan, constants = scheme.plan(model)
    pairs = [(tensor, tensor.found(arrays)) for tensor in plan.values()]
    others = arrays.keys() - {key for _, keys in pairs for key in keys} - constants.keys()
    left_over = [name for name in sorted(others) if not _one_of(scheme.spare, name)]

    def on_top(tensor: Tensor) -> bool:
        return tensor.layer == "head" or _one_of(scheme.heads, tensor.names[0])

    heads = [pair for pair in pairs if on_top(pair[0])]
    other = _other_classes(heads, arrays) if head == "auto" else None
    if head == "skip" or other:
        pairs = [pair for pair in pairs if not on_top(pair[0])]
        left_over = [name for name in left_over if not _one_of(scheme.heads, name)]

    missing = [tensor.names[0] for tensor, keys in pairs if not keys]
    found = [(tensor, arrays[keys[0]], keys) for tensor, keys in pairs if keys]
    wrong = [
        f"{keys[0]} is {stored.shape}, {model.name} needs {tensor.shape}"
        for tensor, stored, keys in found
        if not tensor.fits(stored.shape)
    ]
    wrong += [
        f"{copy} is not {keys[0]}, and {model.name} has one array for both"
        for _, stored, keys in found
        for copy in keys[1:]
        if not np.array_equal(stored.read(), arrays[copy].read())
    ]
    if wrong or missing or left_over:
        raise WeightsMismatch(_complaint(scheme, wrong, missing, left_over, heads))

    for tensor, stored, _ in found:
        for variable, value in tensor.ours(stored.read()):
            # Narrower variables round by themselves.
            wide = "float64" if variable.dtype == "float64" else "float32"
            variable.assign(np.array(value, wide))  # in the order it has: torch keeps kernels in theirs
            backends.current().synchronize(variable.value)  # JAX copies in its own time, and holds the array
    notes = [
        f"{keys[0]} was interpolated from {stored.shape} to {tensor.shape}"
        for tensor, stored, keys in found
        if stored.shape != tensor.shape
    ]
    if other:
        notes.append(f"the head, of {other[0]:,} classes, was left out: the model's own has {other[1]:,}")
    done = Loaded(model.name, scheme.name, sum(len(keys) for *_, keys in found), tuple(notes))
    if notes:
        log.warning("%s", done)
    return done


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
    return f"by {scheme.name}'s names: {'; '.join(parts)}. Nothing was loaded.{advice}"


def _one_of(patterns: Sequence[str], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _count(names: Sequence[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _some(names: Iterable[str], between: str = ", ") -> str:
    """The first few, and how many more there are."""
    names = list(names)
    more = [f"and {len(names) - 5:,} more"] if len(names) > 5 else []
    return between.join([*names[:5], *more])
