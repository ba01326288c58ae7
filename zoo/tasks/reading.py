"""What is read of a batch: all of its rows, or a worker's own and those that they are mixed with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.backends.world import OwnRows

Own = Callable[[int], slice]  # the length of a batch -> a worker's rows of it


@dataclass(frozen=True)
class Reading:
    """Examples `indices[rows]` of a batch `indices`; the first `before` are there to be mixed with."""

    indices: np.ndarray
    rows: np.ndarray
    before: int = 0

    @classmethod
    def of(cls, indices: np.ndarray, own: Own | None, mixes: int) -> Reading:
        """What is read for a worker, each of whose examples is mixed with so many before it, cyclically."""
        length = len(indices)
        part = slice(0, length) if own is None else own(length)
        size = part.stop - part.start
        before = min(mixes, length - size)
        return cls(indices, np.arange(part.start - before, part.stop) % length, before)

    @property
    def chosen(self) -> np.ndarray:
        """The indices of the examples that are read."""
        return self.indices[self.rows]

    def share(self, made: Any) -> Any:
        """What was made of these examples, an array or arrays by name, as a part of the batch."""
        if len(self.rows) == len(self.indices) and not self.before:
            return made
        if isinstance(made, Mapping):
            return {name: self.share(each) for name, each in made.items()}
        return OwnRows(made[self.before :], int(self.rows[self.before]), len(self.indices))
