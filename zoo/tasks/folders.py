"""Photographs in a folder or a table: found, checked, and read by Pillow while the model learns.

photos/cat/1.jpg  photos/dog/7.png                          a sub-folder a class; a fifth is held out
photos/train/cat/1.jpg  photos/val/cat/9.jpg                splits of their own: val, validation or test
photos.csv: a first line "path,label", then one a line      paths as seen from the table
"""

from __future__ import annotations

import csv
import os
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from zoo.checks import integer
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest
from zoo.preprocessing import Preprocessing, depth, load, pixels, plain, reading
from zoo.storage import is_dir, is_file
from zoo.tasks.images import held_out

Shape = tuple[int, ...]
Change = Callable[[np.ndarray, int], np.ndarray]
T = TypeVar("T")

SUFFIXES = {".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
HELD_OUT = ("val", "validation", "test")  # the first that is there is held out
ERRORS = ("stop", "skip")


class Images:
    """An array (n, size, size, c) of float32 whose images are read from their files when they are asked for.

    `workers` threads read at once: Pillow decodes and resizes outside of Python's lock.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing, workers: int):
        self.paths, self.preprocessing, self.workers = paths, preprocessing, workers

    @property
    def shape(self) -> Shape:
        """(n, size, size, c)."""
        return len(self.paths), self.preprocessing.size, self.preprocessing.size, self.preprocessing.channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        places = np.arange(len(self))[chosen]
        return np.reshape(self.read(places.reshape(-1)), (*places.shape, *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self[:].astype(dtype or self.dtype)

    def read(
        self,
        chosen: Sequence[int] | np.ndarray,
        change: Change = lambda image, place: image,
        whole: bool = False,
    ) -> list[np.ndarray]:
        """The images at these places, each by itself, with `change(bytes, k)` made to the k-th on the way.

        The change sees the photograph `whole`, or as the model will see it, before it is normalized.
        Raises DataUnavailable for a file that cannot be read.
        """

        def one(place: int, i: int) -> np.ndarray:
            image = load(self.paths[i], self.preprocessing.channels)
            image = pixels(image) if whole else self.preprocessing.crop(image)
            return self.preprocessing.normalize(change(image, place))

        return list(parallel(one, self.workers, range(len(chosen)), chosen))


@dataclass(frozen=True)
class Listing:
    """What a folder or table names: files and labels of each split; `test` may be empty."""

    name: str
    classes: tuple[str, ...]
    train: tuple[tuple[Path, ...], np.ndarray]
    test: tuple[tuple[Path, ...], np.ndarray]

    def read(
        self,
        shape: Shape,
        *,
        workers: int | None = None,
        errors: str = "stop",
        preprocessing: Preprocessing | None = None,
    ) -> dict[str, Any]:
        """The splits as a task takes them, see `zoo.tasks.folder`."""
        if len(shape) != 3 or shape[0] != shape[1] or shape[2] not in (1, 3):
            raise WrongConfiguration(
                f"{self.name} is made of images; the model takes examples of shape {shape}, "
                "expected (size, size, 1) or (size, size, 3)"
            )
        if errors not in ERRORS:
            raise UnknownName(f"errors={errors!r}; {nearest(str(errors), ERRORS)}")
        workers = (os.cpu_count() or 1) if workers is None else integer("folder", "workers", workers)
        if preprocessing is None or preprocessing.channels != shape[2]:
            preprocessing = plain(shape[0], shape[2])
        # Skipping needs to know before the first batch, so whole files are read; else their first bytes are.
        broken = find_broken([*self.train[0], *self.test[0]], workers, whole=errors == "skip")
        told = "; ".join(map(str, islice(broken.values(), 20))) + (" ..." if len(broken) > 20 else "")
        if broken and errors == "stop":
            raise DataUnavailable(
                f"{self.name}: {len(broken)} broken images: {told}. Mend or remove them, or give "
                "errors='skip'"
            )
        splits: dict[str, Any] = {}
        for split, (paths, labels) in {"train": self.train, "test": self.test}.items():
            kept = [i for i, path in enumerate(paths) if path not in broken]
            images = Images([paths[i] for i in kept], preprocessing.at(shape[0]), workers)
            splits[split] = (images, labels[kept]) if kept else None
        if splits["train"] is None:
            raise DataUnavailable(f"{self.name}: no image to train on is whole: {told}")
        if broken:
            warnings.warn(f"{self.name}: skipped {len(broken)} broken images: {told}", stacklevel=3)
        return splits


def is_one(name: Any) -> bool:
    """Whether this names a folder or a table of images that is there."""
    path = Path(name)
    return is_dir(path) or (path.suffix.lower() == ".csv" and is_file(path))


def find(path: str | Path) -> Listing:
    """The images of a folder or a table, in the order of their names.

    Raises DataUnavailable for one that is not there or not laid out as this module says.
    """
    path = Path(path)
    if is_dir(path):
        return _of_folder(path)
    if not is_file(path):
        raise DataUnavailable(f"{path}: no such folder, and no such table")
    return _of_table(path)


def _of_folder(path: Path) -> Listing:
    train = path / "train" if (path / "train").is_dir() else path
    found = _by_class(train)
    classes = tuple(found)
    if train is path or not (splits := [path / name for name in HELD_OUT if (path / name).is_dir()]):
        return _listing(path, classes, found)
    apart = _by_class(splits[0])
    if unknown := [name for name in apart if name not in found]:
        raise DataUnavailable(f"{splits[0]}: classes that {train} lacks: {', '.join(unknown)}")
    return Listing(path.name, classes, _flat(found, classes), _flat(apart, classes))


def _by_class(path: Path) -> dict[str, list[Path]]:
    folders = sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    found = {f.name: sorted(p for p in f.rglob("*") if p.suffix.lower() in SUFFIXES) for f in folders}
    if empty := [name for name, files in found.items() if not files]:
        endings = ", ".join(sorted(SUFFIXES))
        raise DataUnavailable(f"{path}: no image in {', '.join(empty)}; expected files that end in {endings}")
    if not found:
        raise DataUnavailable(f"{path}: no sub-folders; expected one a class, with its images inside")
    return found


def _of_table(path: Path) -> Listing:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"path", "label"} <= set(rows[0]):
        raise DataUnavailable(
            f"{path}: expected a first line 'path,label' and a line for each image; it begins with "
            f"{','.join(map(str, rows[0])) if rows else 'nothing'!r}"
        )
    found: dict[str, list[Path]] = {}
    for number, row in enumerate(rows, start=2):
        if not row["path"] or not row["label"]:
            raise DataUnavailable(f"{path}, line {number}: no path or no label")
        found.setdefault(row["label"], []).append(path.parent / row["path"])
    return _listing(path, tuple(sorted(found)), found)


def _listing(path: Path, classes: tuple[str, ...], found: dict[str, list[Path]]) -> Listing:
    """With a fifth of each class held out, the same ones every time."""
    if len(classes) < 2:
        raise DataUnavailable(f"{path}: one class, {', '.join(classes)}; expected two or more to tell apart")
    paths, labels = _flat(found, classes)
    apart = held_out(labels, "folder")
    train, test = ((tuple(np.array(paths, object)[part]), labels[part]) for part in (~apart, apart))
    return Listing(path.name, classes, train, test)


def _flat(found: dict[str, list[Path]], classes: tuple[str, ...]) -> tuple[tuple[Path, ...], np.ndarray]:
    pairs = [(path, label) for label, name in enumerate(classes) for path in found.get(name, [])]
    return tuple(path for path, _ in pairs), np.array([label for _, label in pairs], np.int32)


def find_broken(paths: Sequence[Path], workers: int, *, whole: bool) -> dict[Path, DataUnavailable]:
    """The files that cannot be read, and why; unless `whole`, only what their first bytes tell."""

    def check(path: Path) -> DataUnavailable | None:
        try:
            with reading(path), Image.open(path) as image:
                depth(image)  # raises for pixels whose range is not known
                if whole:
                    image.load()
        except DataUnavailable as error:
            return error
        return None

    found = parallel(check, workers, paths)
    return {path: error for path, error in zip(paths, found, strict=True) if error is not None}


# Threads


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(workers, "zoo-images")


def parallel(function: Callable[..., T], workers: int, *items: Iterable[Any]) -> Iterable[T]:
    """As `map`, in the order of the items, by that many threads."""
    return map(function, *items) if workers == 1 else _pool(workers).map(function, *items)


def ahead(items: Iterator[T], count: int = 2) -> Iterator[T]:
    """The same items, made `count` ahead of their use in a thread."""
    pool, done = ThreadPoolExecutor(1, "zoo-ahead"), object()
    try:
        waiting = deque(pool.submit(next, items, done) for _ in range(count))
        while (item := waiting.popleft().result()) is not done:
            waiting.append(pool.submit(next, items, done))
            yield item  # pyright: ignore[reportReturnType]
    finally:
        pool.shutdown(cancel_futures=True)
