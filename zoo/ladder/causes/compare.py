"""Two tensors of two implementations: the layout in which they agree best, and how far apart they are.

Finite parts and non-finite masks are compared apart: an infinity would hide every other difference. The
difference is relative to theirs' largest finite value.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.ladder.bounds import non_finite_mismatch

Array = np.ndarray
BOUND = 1e-12  # of float64, as on the ladder's second rung
FACTOR = 16  # a bound is so many times what a 1-ulp perturbation changes


@dataclass(frozen=True)
class Difference:
    """How far apart two tensors are; `index` in theirs' layout is where most, with both values."""

    error: float
    masks_differ: int = 0
    index: tuple[int, ...] | None = None
    theirs: float | None = None
    ours: float | None = None

    def within(self, bound: float) -> bool:
        """Whether the difference is rounding: the finite parts within the bound, the masks equal."""
        return self.error <= bound and not self.masks_differ

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "difference": self.error, "masks_differ": self.masks_differ,
            "index": None if self.index is None else list(self.index),
            "their_value": self.theirs, "our_value": self.ours,
        }  # fmt: skip


@dataclass(frozen=True)
class Layout:
    """Theirs' tensor as ours stores it: split into `split`, axes in `order`, then reshaped."""

    split: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def apply(self, array: Array) -> Array:
        """Theirs in ours' layout."""
        return array.reshape(self.split).transpose(self.order).reshape(self.shape)

    def undo(self, array: Array, shape: tuple[int, ...]) -> Array:
        """Ours in theirs' layout, of this shape."""
        moved = tuple(self.split[i] for i in self.order)
        return array.reshape(moved).transpose(np.argsort(self.order)).reshape(shape)


def difference(theirs: Array, ours: Array) -> Difference:
    """Compare two tensors of one shape."""
    a, b = np.asarray(theirs, np.float64), np.asarray(ours, np.float64)
    finite = np.isfinite(a) & np.isfinite(b)
    masks = non_finite_mismatch(a, b)
    if not finite.any():
        return Difference(0.0, int(masks.sum()))
    gap = np.where(finite, np.abs(np.where(finite, a, 0) - np.where(finite, b, 0)), 0)
    scale = np.abs(a[finite]).max() or 1.0
    index = tuple(int(i) for i in np.unravel_index(int(gap.argmax()), gap.shape))
    return Difference(float(gap[index] / scale), int(masks.sum()), index, float(a[index]), float(b[index]))


def layouts(theirs: tuple[int, ...], ours: tuple[int, ...]) -> Iterator[Layout]:
    """The ways in which a tensor of theirs can be one of ours: axes permuted, heads split or merged."""
    if int(np.prod(theirs)) != int(np.prod(ours)):
        return
    seen: set[tuple[Any, ...]] = set()

    def new(split: tuple[int, ...], order: tuple[int, ...]) -> bool:
        key = (split, order)
        fresh = key not in seen
        seen.add(key)
        return fresh

    for order in _orders(len(theirs)):
        moved = tuple(theirs[i] for i in order)
        if (moved == ours or _squeezed(moved) == _squeezed(ours)) and new(theirs, order):
            yield Layout(theirs, order, ours)
    for order in _orders(len(theirs)):  # (n, h, l, d) -> (n, l, h d)
        if len(theirs) > len(ours) and new(theirs, order):
            yield Layout(theirs, order, ours)
    for order in _orders(len(ours)):  # (n, l, h d) -> (n, h, l, d)
        split = [0] * len(ours)
        for position, axis in enumerate(order):
            split[axis] = ours[position]
        if len(ours) > len(theirs) and new(tuple(split), order):
            yield Layout(tuple(split), order, ours)
    if new(theirs, tuple(range(len(theirs)))):
        yield Layout(theirs, tuple(range(len(theirs))), ours)


def _orders(rank: int) -> Iterator[tuple[int, ...]]:
    """The permutations of the axes, the likely ones first: none, channels moved to the end or the front."""
    straight = tuple(range(rank))
    yield straight
    if rank > 2:
        yield (0, *straight[2:], 1)
        yield (0, rank - 1, *straight[1:-1])
    if rank <= 4:
        yield from itertools.permutations(straight)
    else:
        yield from ((0, *rest) for rest in itertools.permutations(straight[1:]) if rank == 5)


def _squeezed(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(n for n in shape if n != 1)


def align(
    theirs: Array, ours: Array, bound: float = BOUND, likely: tuple[int, ...] | None = None
) -> tuple[Layout, Difference] | None:
    """The layout in which ours agrees best with theirs, and the difference in it; None if none fits.

    Another than the `likely` order of axes, or the first that fits, has to agree twice as well.
    """
    best: tuple[Layout, Difference] | None = None
    options = layouts(theirs.shape, ours.shape)
    if (
        likely is not None
        and len(likely) == theirs.ndim
        and tuple(theirs.shape[i] for i in likely) == ours.shape
    ):
        options = itertools.chain([Layout(theirs.shape, likely, ours.shape)], options)
    for layout in options:
        found = difference(theirs, layout.undo(ours, theirs.shape))
        if best is None or (found.masks_differ, found.error) < (best[1].masks_differ, 0.5 * best[1].error):
            best = layout, found
        if best[1].within(bound):
            break
    return best


def same(theirs: Array, ours: Array, bound: float) -> bool:
    """Whether two tensors are equal but for layout and rounding."""
    if theirs.size != ours.size:
        return False
    spread = np.nanmax(np.abs(theirs), initial=1e-300, where=np.isfinite(theirs))
    a, b = np.sort(theirs, axis=None), np.sort(ours, axis=None)
    with np.errstate(invalid="ignore"):
        gap = np.abs(a - b)
    if np.nanmax(gap, initial=0.0) > 2 * bound * spread:  # whatever their order
        return False
    found = align(theirs, ours, bound)
    return found is not None and found[1].within(bound)
