"""Data to train on, by name: `zoo.tasks.load("digits", card)`, or a pair of arrays of your own.

A task is NumPy arrays in memory; batches of it are the same on every framework, see `Task.batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo import random
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.tasks import images

Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Task:
    """Examples to learn from and examples held out, with the loss and metric they call for."""

    name: str
    train: Pair  # x (n, ...), y (n,) or (n, ...)
    test: Pair | None
    loss: str  # a name of zoo.training.LOSSES
    metric: str | None  # a name of zoo.training.METRICS
    classes: int | None = None

    def batches(self, batch_size: int, seed: int, epoch: int) -> Iterator[Pair]:
        """The training examples in the order of this seed and epoch, the last batch what is left."""
        x, y = self.train
        order = random.generator(seed, "order", epoch).permutation(len(x))
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            yield x[chosen], y[chosen]

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return -(-len(self.train[0]) // batch_size)


@dataclass(frozen=True)
class Source:
    """Where a named task comes from: `read(shape)` gives its arrays, scaled to a model's input."""

    read: Callable[[tuple[int, ...]], dict[str, Pair]]
    channels: int
    classes: int


TASKS = {
    "digits": Source(images.digits, 1, 10),
    "mnist": Source(images.keras_dataset("mnist"), 1, 10),
    "fashion-mnist": Source(images.keras_dataset("fashion_mnist"), 1, 10),
    "cifar10": Source(images.keras_dataset("cifar10"), 3, 10),
}


def source(name: str) -> tuple[str, Source]:
    """A named task's proper name and its source. Raises UnknownName, with the nearest."""
    key = str(name).lower().replace("_", "-")
    if key not in TASKS:
        raise UnknownName(f"no task {name!r}; {nearest(key, TASKS)}. Or give a pair of arrays (x, y).")
    return key, TASKS[key]


def load(name: str, shape: tuple[int, ...]) -> Task:
    """A task by its name, its images scaled to a model's input (h, w, c).

    Raises UnknownName, WrongConfiguration when the images cannot take that shape, DataUnavailable when the
    data is neither here nor to be had.
    """
    key, found = source(name)
    return Task(key, **found.read(shape), loss="cross_entropy", metric="accuracy", classes=found.classes)


def from_arrays(data: Any, *, loss: str | None, validation: Any = None) -> Task:
    """A task of your own arrays: `data` and `validation` are pairs (x, y) of equal length.

    Without a `loss`, integer labels mean "cross_entropy", anything else "mean_squared_error". Raises
    WrongConfiguration for arrays that do not fit together.
    """
    train = _pair("task", data)
    test = None if validation is None else _pair("validation", validation)
    labels = np.issubdtype(train[1].dtype, np.integer)
    if test is not None and test[0].shape[1:] != train[0].shape[1:]:
        raise WrongConfiguration(
            f"validation: examples of shape {test[0].shape[1:]}, the task's are {train[0].shape[1:]}"
        )
    return Task(
        "arrays",
        train,
        test,
        loss or ("cross_entropy" if labels else "mean_squared_error"),
        "accuracy" if labels else None,
        classes=int(train[1].max()) + 1 if labels else None,
    )


def _pair(name: str, data: Any) -> Pair:
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise WrongConfiguration(f"{name}: expected a pair of arrays (x, y), got {type(data).__name__}")
    x, y = np.asarray(data[0]), np.asarray(data[1])
    if len(x) != len(y) or not len(x):
        raise WrongConfiguration(
            f"{name}: {len(x)} examples and {len(y)} labels; expected as many, at least 1"
        )
    x = x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
    if np.issubdtype(y.dtype, np.integer):
        if y.ndim != 1 or y.min() < 0:
            raise WrongConfiguration(
                f"{name}: integer labels of shape {y.shape}, smallest {y.min()}; expected (n,), 0 or more"
            )
        return x, y.astype(np.int32)
    return x, y.astype(np.float32)
