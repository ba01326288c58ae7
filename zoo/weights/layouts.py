"""Layouts: tables of the names and memory orders that other libraries use for the weights of a model.

A row pairs a pattern of our layer names with one of theirs. Numbers in braces correspond:

    Row("stage{s}_block{b}_conv{i}", "layer{s}.{b:0}.conv{i}", CONV)      {b:0} is our b counted from 0

The kind of a row determines a layer's arrays, the names of theirs, and the `Transform` between the two.
Several patterns of ours in one row are stacked in one array of theirs along the outputs: query, key, value.
Of "(a|b)" in their name either is read and the first is written; `copies` name arrays stored twice.

    Row("token_embedding", "(transformer.|)wte", EMBEDDING, copies=("lm_head",))
    Layout("timm", "vit-*", (Row("patch_embedding", "patch_embed.proj", CONV), ...))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache
from itertools import product
from math import isqrt
from string import Formatter
from typing import Any

import numpy as np

from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration

Array = np.ndarray
Shape = tuple[int, ...]
Resize = Callable[[Array, int], Array]  # (1, m, c) -> (1, n, c)


# From their arrays to ours


@dataclass(frozen=True)
class Transform:
    """ours = theirs.transpose(axes), or the identity."""

    axes: Shape = ()

    def ours(self, x: Array) -> Array:
        """Their array as ours."""
        return x.transpose(self.axes) if self.axes else x

    def theirs(self, x: Array) -> Array:
        """Our array as theirs."""
        return x.transpose(np.argsort(self.axes)) if self.axes else x

    def shape(self, ours: Shape) -> Shape:
        """The shape of their array."""
        return tuple(ours[i] for i in np.argsort(self.axes)) if self.axes else ours

    @property
    def outputs(self) -> int:
        """The axis of their array that corresponds to our last one."""
        return self.axes[-1] if self.axes else -1


@dataclass(frozen=True)
class Flattened(Transform):
    """A dense kernel over a flattened map of side x side: theirs (out, c h w), ours (h w c, out)."""

    axes: Shape = (1, 0)
    side: int = 1

    def ours(self, x: Array) -> Array:
        maps = x.reshape(len(x), -1, self.side, self.side)
        return maps.transpose(2, 3, 1, 0).reshape(x.shape[::-1])

    def theirs(self, x: Array) -> Array:
        maps = x.reshape(self.side, self.side, -1, x.shape[-1])
        return maps.transpose(3, 2, 0, 1).reshape(x.shape[::-1])


SAME = Transform()
TRANSPOSED = Transform((1, 0))  # dense: torch keeps (out, in)
OIHW = Transform((2, 3, 1, 0))  # convolution
POSITIONS = 2**16  # the most whose embeddings are interpolated: 4,096 pixels in patches of 16


# The arrays of a layer

Constant = Callable[["keras.Model"], Array]  # an array determined by the model's sizes


@dataclass(frozen=True)
class Kind:
    """Our variable's name -> the suffix of theirs, which may contain numbers in braces, and the transform.

    `constants` are arrays that only they have, by suffix: not required when read, computed when written.
    """

    arrays: Mapping[str, tuple[str, Transform]]
    constants: Mapping[str, Constant] = field(default_factory=dict)


_SCALE = {"gamma": (".weight", SAME), "beta": (".bias", SAME)}

CONV = Kind({"kernel": (".weight", OIHW), "bias": (".bias", SAME)})
DENSE = Kind({"kernel": (".weight", TRANSPOSED), "bias": (".bias", SAME)})
IN_PROJ = Kind({"kernel": ("_weight", TRANSPOSED), "bias": ("_bias", SAME)})  # of torch.nn.MultiheadAttention
LAYER_NORM = Kind(_SCALE)
BATCH_NORM = Kind(
    {**_SCALE, "moving_mean": (".running_mean", SAME), "moving_variance": (".running_var", SAME)},
    constants={".num_batches_tracked": lambda model: np.zeros((), np.int64)},
)
EMBEDDING = Kind({"table": (".weight", SAME)})
VALUE = Kind({"value": ("", SAME)})


def flattened(side: int) -> Kind:
    """A dense layer over a flattened map of side x side."""
    return Kind({**DENSE.arrays, "kernel": (".weight", Flattened(side=side))})


# The table


class Number(int):
    """A number in a layer's name: "{i}" formats it counted from 1, as ours are, "{i:0}" counted from 0."""

    def __format__(self, first: str) -> str:
        return str(int(self) + int(first) - 1 if first else int(self))


@dataclass(frozen=True)
class Row:
    """Patterns of our and their layer names; `older` is an earlier name of theirs.

    `copies` are their names of further copies of the arrays, which may be missing when read, must be equal,
    and are written. A row with `where` applies only to models that have a layer of that name.
    """

    ours: str | Sequence[str]
    theirs: str
    kind: Kind
    older: str | None = None
    copies: Sequence[str] = ()
    where: str | None = None

    def match(self, layer: str) -> tuple[int, dict[str, int]] | None:
        """The index of our pattern that matches, and the numbers in the name."""
        for i, pattern in enumerate([self.ours] if isinstance(self.ours, str) else self.ours):
            if found := _regex(pattern).fullmatch(layer):
                return i, {name: Number(n) for name, n in found.groupdict().items()}
        return None


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    parts = Formatter().parse(pattern)
    return re.compile(
        "".join(re.escape(text) + (f"(?P<{name}>\\d+)" if name else "") for text, name, *_ in parts)
    )


def spellings(name: str, words: Mapping[str, Any]) -> tuple[str, ...]:
    """All expansions of a name of theirs: "{x}(b|c)" gives ab and ac if x is a."""
    parts = (part.split("|") for part in re.split("[()]", name.format(**words)))
    return tuple(dict.fromkeys("".join(chosen) for chosen in product(*parts)))


@dataclass
class Tensor:
    """One array of theirs: its names, the current one first, and our variables that it consists of.

    Each of its `copies` has the same number of names. `resize` interpolates position embeddings.
    """

    names: tuple[str, ...]
    transform: Transform
    parts: dict[int, keras.Variable] = field(default_factory=dict)
    copies: tuple[tuple[str, ...], ...] = ()
    resize: Resize | None = None

    def found(self, arrays: Mapping[str, Any]) -> list[str]:
        """Its name in a file and those of its copies there; the first name that exists of each."""
        each = ([name for name in names if name in arrays] for names in (self.names, *self.copies))
        return [present[0] for present in each if present]

    @property
    def variables(self) -> list[keras.Variable]:
        """Our variables, in the order in which they are stacked."""
        return [self.parts[i] for i in sorted(self.parts)]

    @property
    def layer(self) -> str:
        """The name of our (first) layer."""
        return self.variables[0].path.rpartition("/")[0]

    @property
    def shape(self) -> Shape:
        """The shape of their array."""
        first, *more = (list(self.transform.shape(tuple(v.shape))) for v in self.variables)
        for other in more:
            first[self.transform.outputs] += other[self.transform.outputs]
        return tuple(first)

    def fits(self, given: Shape) -> bool:
        """Whether an array of this shape can be loaded; position embeddings of other image sizes can."""
        if given == self.shape:
            return True
        if self.layer != "position_embedding" or len(given) != 3 or given[::2] != self.shape[::2]:
            return False
        if given[1] > POSITIONS:  # a small file can claim any number
            return False
        squares = [_square(n) for n in (given[1], self.shape[1])]
        return None not in squares and squares[0][0] == squares[1][0]

    def ours(self, x: Array) -> list[tuple[keras.Variable, Array]]:
        """The values of our variables from an array that fits."""
        if x.shape != self.shape:
            x = (self.resize or resample)(x, self.shape[1])
        parts, axis = [x], self.transform.outputs
        if len(self.parts) > 1:
            lengths = [self.transform.shape(tuple(v.shape))[axis] for v in self.variables]
            parts = np.split(x, np.cumsum(lengths)[:-1], axis)
        return [(v, self.transform.ours(part)) for v, part in zip(self.variables, parts, strict=True)]

    def theirs(self) -> Array:
        """Their array from the values of our variables."""
        values = [self.transform.theirs(ops.convert_to_numpy(v)) for v in self.variables]
        return values[0] if len(values) == 1 else np.concatenate(values, self.transform.outputs)


def resample(x: Array, n: int) -> Array:
    """(1, m, c) -> (1, n, c): the position embeddings of a square of patches for another square.

    They are interpolated as an image, by Pillow's bicubic (a = -0.5, antialiased); those of the class token,
    which come first, are kept. Dosovitskiy et al. 2020, section 3.2. timm's `resample_abs_pos_embed`.
    """
    from PIL import Image

    def resize(grid: Array, new_side: int) -> Array:
        bicubic = Image.Resampling.BICUBIC
        planes = np.moveaxis(np.asarray(grid, np.float32), 2, 0)
        resized = [
            np.asarray(Image.fromarray(plane).resize((new_side, new_side), bicubic)) for plane in planes
        ]
        return np.stack(resized, axis=2)

    return _over_patches(x, n, resize)


def resample_corners(x: Array, n: int) -> Array:
    """The same by bicubic interpolation (a = -0.75) between the centres of the outermost patches.

    torchvision's `interpolate_embeddings`: torch's `interpolate` with align_corners=True, not antialiased.
    """
    return _over_patches(x, n, lambda grid, side: _bicubic(grid, np.linspace(0, len(grid) - 1, side)))


def resample_centres(x: Array, n: int) -> Array:
    """The same by bicubic interpolation (a = -0.75) with half-pixel centres.

    transformers' `interpolate_pos_encoding`: torch's `interpolate` with align_corners=False, not antialiased.
    """

    def resize(grid: Array, side: int) -> Array:
        return _bicubic(grid, (np.arange(side) + 0.5) * len(grid) / side - 0.5)

    return _over_patches(x, n, resize)


def _over_patches(x: Array, n: int, resize: Callable[[Array, int], Array]) -> Array:
    """(1, m, c) -> (1, n, c): `resize` turns a grid (side, side, c) into one of another side."""
    (tokens, side), (_, new_side) = _square(x.shape[1]), _square(n)
    resized = resize(np.reshape(x[0, tokens:], (side, side, -1)), new_side)
    return np.concatenate([x[:, :tokens], resized.reshape(1, new_side**2, -1)], axis=1)


def _bicubic(grid: Array, points: Array) -> Array:
    """(h, h, c) -> (len(points), len(points), c), float32: Keys's cubic convolution; edges are extended.

    Keys 1981, "Cubic convolution interpolation for digital image processing", with torch's a = -0.75.
    """
    a, matrix = -0.75, np.zeros((len(points), len(grid)))
    first = np.floor(points).astype(int)
    for tap in range(-1, 3):
        t = np.abs(points - first - tap)
        near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * (t**3 - 5 * t**2 + 8 * t - 4)
        column = np.clip(first + tap, 0, len(grid) - 1)
        matrix[np.arange(len(points)), column] += np.where(t <= 1, near, far)
    return np.einsum("ih,hwc,jw->ijc", matrix, grid, matrix, optimize=True).astype(np.float32)


def _square(n: int) -> Any:
    """(0, side) for n = side^2, (1, side) for side^2 + 1, None otherwise."""
    return next(((extra, isqrt(n - extra)) for extra in (0, 1) if isqrt(n - extra) ** 2 == n - extra), None)


Plan = dict[str, Tensor]  # by their name
Constants = dict[str, Constant]


@dataclass(frozen=True)
class Layout:
    """A library's names for the weights of a family of models, LoRA adapters left out.

    `models` is a shell pattern of names of the zoo's models; the first matching row is used. `places` gives
    numbers, or words, that do not follow from a layer's name: model -> {layer: {number: value}}. Shell
    patterns of their names: `heads` are the arrays that head="skip" does not load, and `spare` those that a
    model may leave unused. `resize` is their interpolation of position embeddings.
    """

    name: str
    models: str
    rows: Sequence[Row]
    places: Callable[[keras.Model], Mapping[str, Mapping[str, Any]]] = lambda model: {}
    heads: Sequence[str] = ()
    spare: Sequence[str] = ()
    resize: Resize = resample

    def suits(self, model: keras.Model) -> bool:
        """Whether the layout is for this model."""
        return fnmatchcase(model.name, self.models)

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """Advice, if the names that do not match reveal which model they come from."""
        del missing, left_over
        return ""

    def plan(self, model: keras.Model) -> tuple[Plan, Constants]:
        """Their arrays in terms of our variables, and their constants.

        Raises WrongConfiguration for a weight without a row, or two weights with the same name of theirs.
        """
        extra, plan, constants = self.places(model), {}, {}
        names_of_layers = {layer.name for layer in model.layers}
        rows = [row for row in self.rows if row.where is None or row.where in names_of_layers]
        for variable in weights(model):
            if is_adapter(variable.path):
                continue
            layer, _, own = variable.path.rpartition("/")
            found = next(((row, match) for row in rows if (match := row.match(layer))), None)
            if found is None or own not in found[0].kind.arrays:
                raise WrongConfiguration(
                    f"{self.name}'s layout of {self.models} has no row for {variable.path} of {model.name}; "
                    "pass a zoo.weights.Layout with such a row as layout="
                )
            row, (part, numbers) = found
            words = {**numbers, **extra.get(layer, {})}
            end, transform = row.kind.arrays[own]
            names = spellings(row.theirs + end, words)
            if row.older is not None:
                names += spellings(row.older + end, words)
            copies = tuple(spellings(copy + end, words) for copy in row.copies)
            tensor = plan.setdefault(names[0], Tensor(names, transform, copies=copies, resize=self.resize))
            if part in tensor.parts:
                twice = f"{tensor.parts[part].path} and {variable.path}"
                raise WrongConfiguration(
                    f"{self.name}'s layout of {self.models}: {twice} are both {names[0]}"
                )
            tensor.parts[part] = variable
            constants |= {spellings(row.theirs + e, words)[0]: make for e, make in row.kind.constants.items()}
        return plan, constants


@dataclass(frozen=True)
class Plain:
    """Every weight unchanged, under the name that `names` gives: model -> {name: variable}."""

    name: str
    names: Callable[[keras.Model], Mapping[str, keras.Variable]]
    heads: Sequence[str] = ()
    spare: Sequence[str] = ()

    def suits(self, model: keras.Model) -> bool:
        """True: it is for every model."""
        del model
        return True

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """Advice, if either has LoRA adapters."""
        if any(map(is_adapter, left_over)):
            return (
                " The file has LoRA adapters: zoo.load_run reads a run, zoo.lora.add adds them to the model."
            )
        if any(map(is_adapter, missing)):
            return " The model has LoRA adapters: load weights before zoo.lora.add, or after zoo.lora.merge."
        return ""

    def plan(self, model: keras.Model) -> tuple[Plan, Constants]:
        """Every weight is its own array; there are no constants."""
        return {name: Tensor((name,), SAME, {0: v}) for name, v in self.names(model).items()}, {}


def weights(model: keras.Model) -> list[keras.Variable]:
    """The variables that are weights or running statistics, without dropout's step counters."""
    return [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]


def is_adapter(path: str) -> bool:
    """Whether a variable of this path is part of a LoRA adapter (`zoo.lora`)."""
    return path.rpartition("/")[2].startswith("lora_kernel_")


Scheme = Layout | Plain
OWN = Plain("zoo", lambda model: {v.path: v for v in weights(model)})
