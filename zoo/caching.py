"""What attention remembers while a text is written, so that each new token costs one step.

    arrays = empty(model, batch, length)          # keys and values of `length` tokens
    with remembering(arrays, positions) as cache:
        logits = model(tokens)                    # (b, n) new tokens, the first of each row at `positions`
    cache.arrays                                  # the same, with the new tokens' keys and values

Causal attention writes the keys and values of what it is given to their positions and asks all of them;
what is laid out by position (embeddings, relative biases) counts from there. Shapes never change, so that a
step is compiled once. The arrays are values, not variables: a compiled step takes and returns them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from zoo._lazy import ops
from zoo.backends import HIDDEN

Tensor = Any
Arrays = dict[str, tuple[Tensor, Tensor]]  # by the name of the attention: keys, values (b, m, heads, d)


@dataclass
class Cache:
    """Keys and values of `length` places, of which a row's first `positions` (b,) are taken."""

    arrays: Arrays
    positions: Tensor
    length: int

    def extend(self, name: str, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values, with these (b, n, heads, d) at their places."""
        self.arrays[name] = tuple(
            self.written(old, new) for old, new in zip(self.arrays[name], (key, value), strict=True)
        )
        return self.arrays[name]

    def written(self, old: Tensor, new: Tensor) -> Tensor:
        """(b, m, ...) with (b, n, ...) at the positions; what would lie beyond the end is left out."""
        count = new.shape[1]
        if count == self.length:  # the whole: rows all begin at 0
            return new
        place = ops.arange(self.length, dtype="int32")[None] - ops.expand_dims(self.positions, 1)  # (b, m)
        taken = ops.expand_dims(ops.logical_and(place >= 0, place < count), (2, 3))
        if count > 1:
            rows = ops.expand_dims(ops.clip(place, 0, count - 1), (2, 3))
            new = ops.take_along_axis(new, rows, axis=1)
        return ops.where(taken, new, old)

    def bias(self, count: int, dtype: str) -> Tensor:
        """(b, 1, n, m): hides from each of n new tokens the places after its own."""
        own = self.steps(count)[:, None, :, None]
        later = ops.arange(self.length, dtype="int32") > own
        return ops.where(later, ops.full((), HIDDEN, dtype), ops.zeros((), dtype))

    def steps(self, count: int) -> Tensor:
        """(b, n): the places of n new tokens."""
        return ops.expand_dims(self.positions, 1) + ops.arange(count, dtype="int32")


_current: ContextVar[Cache | None] = ContextVar("cache", default=None)


def current() -> Cache | None:
    """The cache in use; None where every token is at hand."""
    return _current.get()


@contextmanager
def remembering(arrays: Arrays, positions: Tensor) -> Iterator[Cache]:
    """Let models that are called within go on from these arrays."""
    length = next(iter(arrays.values()))[0].shape[1]
    token = _current.set(Cache(dict(arrays), positions, length))
    try:
        yield _current.get()  # pyright: ignore[reportReturnType]
    finally:
        _current.reset(token)
