"""The key-value cache of causal attention: each new token of a text costs one step.

    with kv_cache(arrays, positions) as cache:       # keys and values, zeros at first
        logits = model(tokens)                       # (b, n) new tokens, the first of each row at `positions`
    cache.arrays                                     # the same, with the new tokens' keys and values

Causal attention stores the keys and values of its input at their positions and attends to all of the cache;
positional embeddings and relative biases count from there. Shapes never change, so that a step is compiled
once. The arrays are values, not variables: a compiled step takes and returns them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from zoo._lazy import ops
from zoo.backends import MASK_VALUE

Tensor = Any
Arrays = dict[str, tuple[Tensor, Tensor]]  # by the attention layer's name: keys, values (b, m, heads, d)


class Cache:
    """Keys and values for `length` positions, of which the first `positions` (b,) of each row are filled.

    Indices and masks, which are the same in every layer, are computed once.
    """

    def __init__(self, arrays: Arrays, positions: Tensor, length: int):
        self.arrays, self.positions, self.length = arrays, positions, length
        self.shared: dict[Any, Tensor] = {}

    def once(self, key: Any, compute: Callable[[], Tensor]) -> Tensor:
        """The tensor of this key, computed at its first use."""
        if key not in self.shared:
            self.shared[key] = compute()
        return self.shared[key]

    def extend(self, name: str, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, with these (b, n, heads, d) at their positions."""
        self.arrays[name] = tuple(
            self.update(old, new) for old, new in zip(self.arrays[name], (key, value), strict=True)
        )
        return self.arrays[name]

    def update(self, old: Tensor, new: Tensor) -> Tensor:
        """(b, m, ...) with (b, n, ...) at the positions; what would lie beyond the end is omitted."""
        count = new.shape[1]
        if count == self.length:  # the whole: rows all begin at 0
            return new
        if count > 1:
            rows = self.once(("rows", count), lambda: ops.clip(self.offsets(), 0, count - 1))
            new = ops.take_along_axis(new, rows, axis=1)
        updated = self.once(
            ("updated", count), lambda: ops.logical_and(self.offsets() >= 0, self.offsets() < count)
        )
        return ops.where(updated, new, old)

    def offsets(self) -> Tensor:
        """(b, m, 1, 1): the index among the new tokens of each position of the cache."""
        steps = ops.arange(self.length, dtype="int32")[None]
        return self.once(
            "offsets", lambda: ops.expand_dims(steps - ops.expand_dims(self.positions, 1), (2, 3))
        )

    def bias(self, count: int, dtype: str) -> Tensor:
        """(b, 1, n, m): masks the positions after each of n new tokens."""

        def mask() -> Tensor:
            unmasked = ops.arange(self.length, dtype="int32") <= self.steps(count)[:, None, :, None]
            return additive_mask(unmasked, dtype)

        return self.once(("bias", count, dtype), mask)

    def steps(self, count: int) -> Tensor:
        """(b, n): the positions of n new tokens."""
        return ops.expand_dims(self.positions, 1) + ops.arange(count, dtype="int32")


def additive_mask(unmasked: Tensor, dtype: str) -> Tensor:
    """0 where a key is unmasked, `MASK_VALUE` elsewhere, to be added to its score."""
    return ops.cast(ops.logical_not(unmasked), dtype) * MASK_VALUE


_current: ContextVar[Cache | None] = ContextVar("cache", default=None)


def current() -> Cache | None:
    """The cache in use; None outside generation."""
    return _current.get()


@contextmanager
def kv_cache(arrays: Arrays, positions: Tensor) -> Iterator[Cache]:
    """Models that are called within use a cache of these arrays."""
    length = next(iter(arrays.values()))[0].shape[1]
    token = _current.set(Cache(dict(arrays), positions, length))
    try:
        yield _current.get()  # pyright: ignore[reportReturnType]
    finally:
        _current.reset(token)
