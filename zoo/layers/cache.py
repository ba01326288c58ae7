"""What attention remembers while a text is written, so that each new token costs one step.

    with remembering(arrays, positions) as cache:    # keys and values, zeros at first
        logits = model(tokens)                       # (b, n) new tokens, the first of each row at `positions`
    cache.arrays                                     # the same, with the new tokens' keys and values

Causal attention writes the keys and values of what it is given to their positions and asks all of them;
what is laid out by position (embeddings, relative biases) counts from there. Shapes never change, so that a
step is compiled once. The arrays are values, not variables: a compiled step takes and returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from zoo._lazy import ops
from zoo.backends import MASK_VALUE

Tensor = Any
Arrays = dict[str, tuple[Tensor, Tensor]]  # by the name of the attention: keys, values (b, m, heads, d)


class Cache:
    """Keys and values of `length` places, of which a row's first `positions` (b,) are taken.

    What every layer asks alike (which places are written, which are hidden) is computed once.
    """

    def __init__(self, arrays: Arrays, positions: Tensor, length: int):
        self.arrays, self.positions, self.length = arrays, positions, length
        self.known: dict[Any, Tensor] = {}

    def once(self, what: Any, compute: Callable[[], Tensor]) -> Tensor:
        """What is computed, or was before."""
        if what not in self.known:
            self.known[what] = compute()
        return self.known[what]

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
        if count > 1:
            rows = self.once(("rows", count), lambda: ops.clip(self.places(), 0, count - 1))
            new = ops.take_along_axis(new, rows, axis=1)
        taken = self.once(
            ("taken", count), lambda: ops.logical_and(self.places() >= 0, self.places() < count)
        )
        return ops.where(taken, new, old)

    def places(self) -> Tensor:
        """(b, m, 1, 1): of each place, which of the new tokens stands there."""
        steps = ops.arange(self.length, dtype="int32")[None]
        return self.once(
            "places", lambda: ops.expand_dims(steps - ops.expand_dims(self.positions, 1), (2, 3))
        )

    def bias(self, count: int, dtype: str) -> Tensor:
        """(b, 1, n, m): hides from each of n new tokens the places after its own."""

        def hiding() -> Tensor:
            seen = ops.arange(self.length, dtype="int32") <= self.steps(count)[:, None, :, None]
            return hidden_unless(seen, dtype)

        return self.once(("bias", count, dtype), hiding)

    def steps(self, count: int) -> Tensor:
        """(b, n): the places of n new tokens."""
        return ops.expand_dims(self.positions, 1) + ops.arange(count, dtype="int32")


def hidden_unless(seen: Tensor, dtype: str) -> Tensor:
    """0 for a key that is seen, for another what hides it, to be added to its score."""
    return ops.cast(ops.logical_not(seen), dtype) * MASK_VALUE


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
