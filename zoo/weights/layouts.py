"""What others call the weights of a model, and how they arrange them: a layout is a table.

A row pairs a pattern of our layers' names with one of theirs. Numbers in braces stand for each other:

    Row("stage{s}_block{b}_conv{i}", "layer{s}.{b:0}.conv{i}", CONV)      {b:0} is our b, counted from 0

Its kind says which arrays such a layer has, what theirs are called, and the `Transform` between the two.
Several patterns of ours in one row are stacked in one array of theirs, along the outputs: query, key, value.
Of "(a|b)" in a name of theirs either is read, the first written; an array that they keep twice has `copies`.

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


# How an array of theirs becomes ours


@dataclass(frozen=True)
class Transform:
    """ours = theirs.transpose(axes), or theirs as it is."""

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
        """The axis of theirs in which our last one lies."""
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


# What arrays a layer has

Constant = Callable[["keras.Model"], Array]  # an array that the model's sizes say


@dataclass(frozen=True)
class Kind:
    """Our variable's name -> the end of theirs, which may have numbers as names have, and the transform.

    `constants` are of theirs alone, by the end of their name: not asked for when read, made when written.
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
    """A dense layer over a map of side x side."""
    return Kind({**DENSE.arrays, "kernel": (".weight", Flattened(side=side))})


# The table


class Number(int):
    """A number of a layer's name: "{i}" writes it as we count, from 1, "{i:0}" as those who count from 0."""

    def __format__(self, first: str) -> str:
        return str(int(self) + int(first) - 1 if first else int(self))


@dataclass(frozen=True)
class Row:
    """Layers of this pattern, ours and theirs; `older` is what theirs were called before.

    `copies` are names of theirs for the same arrays again: each may be missing when read, must be equal, and
    is written. A row counts only for models that have a layer named `where`, if it says one.
    """

    ours: str | Sequence[str]
    theirs: str
    kind: Kind
    older: str | None = None
    copies: Sequence[str] = ()
    where: str | None = None

    def match(self, layer: str) -> tuple[int, dict[str, int]] | None:
        """Which of our patterns it is, and its numbers."""
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
    """All that a name of theirs stands for, its words filled in: "{x}(b|c)" for ab and ac if x is a."""
    parts = (part.split("|") for part in re.split("[()]", name.format(**words)))
    return tuple(dict.fromkeys("".join(chosen) for chosen in product(*parts)))


@dataclass
class Tensor:
    """One array of theirs: its names, the one of today first, and the variables of ours that make it up.

    Each of its `copies` has as many names. `resize` is for the position embeddings of another image size.
    """

    names: tuple[str, ...]
    transform: Transform
    parts: dict[int, keras.Variable] = field(default_factory=dict)
    copies: tuple[tuple[str, ...], ...] = ()
    resize: Resize | None = None

    def found(self, arrays: Mapping[str, Any]) -> list[str]:
        """What it is called in a file, then its copies there; of several names the first."""
        each = ([name for name in names if name in arrays] for names in (self.names, *self.copies))
        return [there[0] for there in each if there]

    @property
    def variables(self) -> list[keras.Variable]:
        """Ours, in the order they are stacked."""
        return [self.parts[i] for i in sorted(self.parts)]

    @property
    def layer(self) -> str:
        """Our layer's name; the first one's, if there are several."""
        return self.variables[0].path.rpartition("/")[0]

    @property
    def shape(self) -> Shape:
        """The shape of theirs."""
        first, *more = (list(self.transform.shape(tuple(v.shape))) for v in self.variables)
        for other in more:
            first[self.transform.outputs] += other[self.transform.outputs]
        return tuple(first)

    def fits(self, given: Shape) -> bool:
        """Whether an array of this shape can be it; the position embeddings of another image can."""
        if given == self.shape:
            return True
        if self.layer != "position_embedding" or len(given) != 3 or given[::2] != self.shape[::2]:
            return False
        squares = [_square(n) for n in (given[1], self.shape[1])]
        return None not in squares and squares[0][0] == squares[1][0]

    def ours(self, x: Array) -> list[tuple[keras.Variable, Array]]:
        """An array that fits, as the values of our variables."""
        if x.shape != self.shape:
            x = (self.resize or resample)(x, self.shape[1])
        parts, axis = [x], self.transform.outputs
        if len(self.parts) > 1:
            lengths = [self.transform.shape(tuple(v.shape))[axis] for v in self.variables]
            parts = np.split(x, np.cumsum(lengths)[:-1], axis)
        return [(v, self.transform.ours(part)) for v, part in zip(self.variables, parts, strict=True)]

    def theirs(self) -> Array:
        """The values of our variables as their array."""
        values = [self.transform.theirs(ops.convert_to_numpy(v)) for v in self.variables]
        return values[0] if len(values) == 1 else np.concatenate(values, self.transform.outputs)


def resample(x: Array, n: int) -> Array:
    """(1, m, c) -> (1, n, c): the position embeddings of a square of patches, as those of another.

    They are interpolated as an image is, by Pillow's bicubic (a = -0.5, antialiased); the class token's,
    which come first, stay. Dosovitskiy et al. 2020, section 3.2. timm's `resample_abs_pos_embed`.
    """
    from PIL import Image

    def resize(grid: Array, wanted: int) -> Array:
        bicubic = Image.Resampling.BICUBIC
        planes = np.moveaxis(np.asarray(grid, np.float32), 2, 0)
        resized = [np.asarray(Image.fromarray(plane).resize((wanted, wanted), bicubic)) for plane in planes]
        return np.stack(resized, axis=2)

    return _over_patches(x, n, resize)


def resample_corners(x: Array, n: int) -> Array:
    """The same by bicubic interpolation (a = -0.75) whose outermost patches stay where they are.

    torchvision's `interpolate_embeddings`: torch's `interpolate` with align_corners=True, not antialiased.
    """
    return _over_patches(x, n, lambda grid, side: _bicubic(grid, np.linspace(0, len(grid) - 1, side)))


def resample_centres(x: Array, n: int) -> Array:
    """The same by bicubic interpolation (a = -0.75) about the centres of the patches.

    transformers' `interpolate_pos_encoding`: torch's `interpolate` with align_corners=False, not antialiased.
    """

    def resize(grid: Array, side: int) -> Array:
        return _bicubic(grid, (np.arange(side) + 0.5) * len(grid) / side - 0.5)

    return _over_patches(x, n, resize)


def _over_patches(x: Array, n: int, resize: Callable[[Array, int], Array]) -> Array:
    """(1, m, c) -> (1, n, c): `resize` makes a grid (side, side, c) one of another side."""
    (tokens, side), (_, wanted) = _square(x.shape[1]), _square(n)
    resized = resize(np.reshape(x[0, tokens:], (side, side, -1)), wanted)
    return np.concatenate([x[:, :tokens], resized.reshape(1, wanted**2, -1)], axis=1)


def _bicubic(grid: Array, points: Array) -> Array:
    """(h, h, c) -> (len(points), len(points), c), float32: Keys's cubic convolution; edges hold beyond them.

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
    """(0, side) for n = side^2, (1, side) for one more, None for neither."""
    return next(((extra, isqrt(n - extra)) for extra in (0, 1) if isqrt(n - extra) ** 2 == n - extra), None)


Plan = dict[str, Tensor]  # by the name of theirs
Constants = dict[str, Constant]


@dataclass(frozen=True)
class Layout:
    """Someone's names for the models of a family.

    `models` is a shell pattern of the names of the zoo; of the rows the first that matches counts. `places`
    gives numbers, or words, that a layer's own name does not tell: model -> {layer: {number: value}}. Of
    theirs, by shell patterns: `heads` stand on the rest, which head="skip" leaves in the file, and `spare`
    is what a model can do without. `resize` is how they interpolate position embeddings.
    """

    name: str
    models: str
    rows: Sequence[Row]
    places: Callable[[keras.Model], Mapping[str, Mapping[str, Any]]] = lambda model: {}
    heads: Sequence[str] = ()
    spare: Sequence[str] = ()
    resize: Resize = resample

    def suits(self, model: keras.Model) -> bool:
        """Whether it is a model of that name."""
        return fnmatchcase(model.name, self.models)

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """What names that do not fit tell of the model they come from, if anything."""
        del missing, left_over
        return ""

    def plan(self, model: keras.Model) -> tuple[Plan, Constants]:
        """What each of theirs is of ours, and their constants.

        Raises WrongConfiguration for a weight that no row speaks of, or two that are the same of theirs.
        """
        places, plan, constants = self.places(model), {}, {}
        there = {layer.name for layer in model.layers}
        rows = [row for row in self.rows if row.where is None or row.where in there]
        for variable in weights(model):
            layer, _, own = variable.path.rpartition("/")
            found = next(((row, match) for row in rows if (match := row.match(layer))), None)
            if found is None or own not in found[0].kind.arrays:
                raise WrongConfiguration(
                    f"{self.name}'s layout of {self.models} has no row for {variable.path} of {model.name}; "
                    "give a zoo.weights.Layout that has one as layout="
                )
            row, (part, numbers) = found
            words = {**numbers, **places.get(layer, {})}
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
    """Every weight as it is, under a name that `names` gives: model -> {name: variable}."""

    name: str
    names: Callable[[keras.Model], Mapping[str, keras.Variable]]
    heads: Sequence[str] = ()
    spare: Sequence[str] = ()

    def suits(self, model: keras.Model) -> bool:
        """Every model."""
        del model
        return True

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """None."""
        del missing, left_over
        return ""

    def plan(self, model: keras.Model) -> tuple[Plan, Constants]:
        """Each is itself."""
        return {name: Tensor((name,), SAME, {0: v}) for name, v in self.names(model).items()}, {}


def weights(model: keras.Model) -> list[keras.Variable]:
    """The variables that are weights or running statistics; not the steps that dropout counts."""
    return [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]


Scheme = Layout | Plain
OWN = Plain("zoo", lambda model: {v.path: v for v in weights(model)})
