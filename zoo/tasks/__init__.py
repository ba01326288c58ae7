"""Data to train on: by name, `zoo.tasks.load("digits", shape)`, arrays of your own, or a folder of images.

A task is NumPy arrays in memory, or images that are read when they are asked for; batches of it are the same
on every framework, see `Task.batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo import random
from zoo.augment import Transform, Wanted, batch, parse
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.preprocessing import Preprocessing
from zoo.tasks import folders, images

Pair = tuple[Any, np.ndarray]


@dataclass(frozen=True)
class Task:
    """Examples to learn from and examples held out, with the loss and metric they call for."""

    name: str
    train: Pair  # x (n, ...), in memory or read when sliced, y (n,) or (n, ...)
    test: Pair | None
    loss: str  # a name of zoo.training.LOSSES
    metric: str | None  # a name of zoo.training.METRICS
    classes: int | None = None
    names: tuple[str, ...] = ()  # of the classes, where they have any
    augment: tuple[Transform, ...] = ()  # see zoo.augment

    def batches(self, batch_size: int, seed: int, epoch: int, first: int = 0) -> Iterator[Pair]:
        """The training examples in the order of this seed and epoch, augmented, from batch `first` on.

        The last batch is what is left. What has to be read or augmented is, two batches ahead of its use.
        """
        x, y = self.train
        order = random.generator(seed, "order", epoch).permutation(len(x))
        starts = range(first * batch_size, len(order), batch_size)
        chosen = (order[start : start + batch_size] for start in starts)
        if self.augment:
            return folders.ahead(batch(self, places, seed, epoch) for places in chosen)
        pairs = ((x[places], y[places]) for places in chosen)
        return pairs if isinstance(x, np.ndarray) else folders.ahead(pairs)

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return -(-len(self.train[0]) // batch_size)


@dataclass(frozen=True)
class Source:
    """Where a named task comes from: `read(shape)` gives its arrays, scaled to a model's input."""

    read: Callable[[tuple[int, ...]], dict[str, Any]]
    channels: int
    classes: int
    side: int | None = None  # of an image, in pixels, where all are as large


TASKS = {
    "digits": Source(images.digits, 1, 10, 8),
    "mnist": Source(images.keras_dataset("mnist"), 1, 10, 28),
    "fashion-mnist": Source(images.keras_dataset("fashion_mnist"), 1, 10, 28),
    "cifar10": Source(images.keras_dataset("cifar10"), 3, 10, 32),
    "cifar100": Source(images.keras_dataset("cifar100"), 3, 100, 32),
}


def source(name: str) -> tuple[str, Source]:
    """A named task's proper name and its source; a path names a folder or a table of images.

    Raises UnknownName, with the nearest.
    """
    key = str(name).lower().replace("_", "-")
    if key in TASKS:
        return key, TASKS[key]
    if folders.is_one(name):
        found = folders.find(name)
        return found.name, Source(found.read, 3, len(found.classes))
    raise UnknownName(
        f"no task {name!r}; {nearest(key, TASKS)}. Or give a pair of arrays (x, y), or the path of a folder "
        "of images or of a .csv, which is not there."
    )


def load(name: str, shape: tuple[int, ...], preprocessing: Preprocessing | None = None) -> Task:
    """A task by its name or path, its images scaled to a model's input (h, w, c).

    `preprocessing` is a model's, for photographs, see `folder`. Raises UnknownName, WrongConfiguration when
    the images cannot take that shape, DataUnavailable when the data is neither here nor to be had.
    """
    key, found = source(name)
    if key not in TASKS:
        return folder(name, shape, preprocessing=preprocessing)
    return Task(key, **found.read(shape), loss="cross_entropy", metric="accuracy", classes=found.classes)


def folder(
    path: str | Path,
    shape: tuple[int, ...],
    *,
    workers: int | None = None,
    errors: str = "stop",
    augment: Wanted = (),
    preprocessing: Preprocessing | None = None,
) -> Task:
    """Images in a folder, one sub-folder a class, or in a CSV with a first line "path,label".

    `shape` is a model's input, (size, size, 3) or for grey (size, size, 1). A folder's `train` and `val` (or
    `validation`, or `test`) are its splits; without them a fifth of each class is held out, always the same.
    Files are read when they are needed, by `workers` threads (a processor each, unless said), two batches
    ahead; the batches do not depend on how many there are. With `errors` "stop", files that are no images
    stop here, and one that breaks off in the middle when it comes to be read; "skip" reads every file first,
    and goes on without the broken ones, with a warning. Both name them.

    `preprocessing` is by default the whole shorter side, pixels in [0, 1]; a card's, at the size of `shape`,
    for weights that were trained with it. Raises DataUnavailable, WrongConfiguration, UnknownName.
    """
    found = folders.find(path)
    splits = found.read(shape, workers=workers, errors=errors, preprocessing=preprocessing)
    return Task(
        found.name,
        **splits,
        loss="cross_entropy",
        metric="accuracy",
        classes=len(found.classes),
        names=found.classes,
        augment=parse(augment),
    )


def from_arrays(data: Any, *, loss: str | None, validation: Any = None) -> Task:
    """A task of your own arrays: `data` and `validation` are pairs (x, y) of equal length.

    Without a `loss`, integer labels mean "cross_entropy", anything else "mean_squared_error"; for soft
    labels, (n, classes) shares of each class, ask for "cross_entropy". Raises WrongConfiguration for arrays
    that do not fit together.
    """
    train = _pair("task", data)
    test = None if validation is None else _pair("validation", validation)
    labels = np.issubdtype(train[1].dtype, np.integer)
    soft = loss == "cross_entropy" and not labels
    if test is not None and test[0].shape[1:] != train[0].shape[1:]:
        raise WrongConfiguration(
            f"validation: examples of shape {test[0].shape[1:]}, the task's are {train[0].shape[1:]}"
        )
    if soft:
        for what, (_, y) in {"task": train, "validation": test or train}.items():
            _check_shares(what, y)
    return Task(
        "arrays",
        train,
        test,
        loss or ("cross_entropy" if labels else "mean_squared_error"),
        "accuracy" if labels or soft else None,
        classes=int(train[1].max()) + 1 if labels else train[1].shape[1] if soft else None,
    )


def _check_shares(what: str, y: np.ndarray) -> None:
    """Raise WrongConfiguration unless soft labels are (n, classes), each row a distribution."""
    if y.ndim != 2 or y.min() < 0 or np.abs(y.sum(1) - 1).max() > 1e-3:
        raise WrongConfiguration(
            f"{what}: soft labels of shape {y.shape}; expected (n, classes), 0 or more, 1 in all for each "
            "example; or integers (n,)"
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
