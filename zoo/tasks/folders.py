"""Natural images in a folder or a table, read by Pillow during training.

photos/cat/1.jpg  photos/dog/7.png                          one sub-folder per class; a fifth is held out
photos/train/cat/1.jpg  photos/val/cat/9.jpg                given splits, see `HELD_OUT`
photos.csv: a first line "path,label", then one per line    paths relative to the table

Names of splits are matched without case, and links are followed. A warning names what is skipped: hidden
images, files beside the folders of classes, files without an image's suffix, a second held-out split. Files
of operating systems (`SYSTEM`) are skipped silently.
"""

from __future__ import annotations

import os
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

import zoo.tasks.tables as tables
from zoo.checks import integer
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest, shortlist
from zoo.preprocessing import Preprocessing, depth, load, opened, pixels, plain
from zoo.storage import is_dir, is_file, is_utf8
from zoo.tasks.images import held_out
from zoo.tasks.tables import hidden, ordered

Shape = tuple[int, ...]
Change = Callable[[np.ndarray, int], np.ndarray]
T = TypeVar("T")
R = TypeVar("R")

SUFFIXES = {
    ".avif", ".bmp", ".gif", ".jfif", ".jpeg", ".jpg", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff",
    ".webp",
}  # fmt: skip
TRAINING = ("train", "training")
# The first that exists is held out.
HELD_OUT = ("val", "valid", "validation", "dev", "eval", "evaluation", "test", "testing")
SYSTEM = {".ds_store", "desktop.ini", "ehthumbs.db", "thumbs.db"}  # what operating systems write into folders
ERRORS = ("stop", "skip")


class Images:
    """An array (n, size, size, c) of float32 whose images are read from their files when it is indexed.

    `workers` threads read in parallel: Pillow releases the GIL while it decodes and resizes.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, paths: Sequence[Path], preprocessing: Preprocessing, workers: int):
        self.paths, self.preprocessing, self.workers = paths, preprocessing, workers

    def by(self, workers: int) -> Images:
        """The same images, read by that many threads."""
        return Images(self.paths, self.preprocessing, workers)

    @property
    def shape(self) -> Shape:
        """(n, size, size, c)."""
        return len(self.paths), self.preprocessing.size, self.preprocessing.size, self.preprocessing.channels

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        indices = np.arange(len(self))[chosen]
        return np.reshape(self.read(indices.reshape(-1)), (*indices.shape, *self.shape[1:]))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self[:].astype(dtype or self.dtype)

    def read(
        self,
        chosen: Sequence[int] | np.ndarray,
        change: Change = lambda image, position: image,
        whole: bool = False,
    ) -> list[np.ndarray]:
        """The images at these indices, with `change(bytes, k)` applied to the k-th before it is normalized.

        `change` is given the `whole` image, or the crop that is the model's input.
        Raises DataUnavailable for a file that cannot be read.
        """

        def one(position: int, source: Any) -> np.ndarray:
            image = self.open(source)
            image = pixels(image) if whole else self.preprocessing.crop(image)
            return self.preprocessing.normalize(change(image, position))

        return list(parallel(one, self.workers, range(len(chosen)), self.images(chosen)))

    def images(self, chosen: Sequence[int] | np.ndarray) -> Sequence[Any]:
        """What `open` takes of the images at these indices."""
        return [self.paths[i] for i in chosen]

    def open(self, source: Any) -> Image.Image:
        """An image, RGB or grey. Raises DataUnavailable if it cannot be read."""
        return load(source, self.preprocessing.channels)


@dataclass(frozen=True)
class Listing:
    """The files and labels of each split of a folder or table; `test` may be empty.

    `notes` name what was skipped; they are issued as a warning when the images are read.
    """

    name: str
    classes: tuple[str, ...]
    train: tuple[tuple[Path, ...], np.ndarray]
    test: tuple[tuple[Path, ...], np.ndarray]
    notes: tuple[str, ...] = ()

    def read(
        self,
        shape: Shape,
        *,
        workers: int | None = None,
        errors: str = "stop",
        preprocessing: Preprocessing | None = None,
    ) -> dict[str, Any]:
        """The splits as a task takes them, see `zoo.tasks.folder`."""
        check_shape(self.name, shape)
        check_errors(errors)
        workers = (os.cpu_count() or 1) if workers is None else integer("folder", "workers", workers)
        if preprocessing is None or preprocessing.channels != shape[2]:
            preprocessing = plain(shape[0], shape[2])
        # Files to skip must be known before the first batch, so all are read; otherwise, their first bytes.
        broken = find_broken([*self.train[0], *self.test[0]], workers, whole=errors == "skip")
        listed = "; ".join(map(str, islice(broken.values(), 20))) + (" ..." if len(broken) > 20 else "")
        if broken and errors == "stop":
            raise DataUnavailable(
                f"{self.name}: {len(broken)} broken images: {listed}. Correct or remove them, or skip "
                "them with errors='skip' (--errors skip)"
            )
        splits: dict[str, Any] = {}
        for split, (paths, labels) in {"train": self.train, "test": self.test}.items():
            kept = [i for i, path in enumerate(paths) if path not in broken]
            images = Images([paths[i] for i in kept], preprocessing.at(shape[0]), workers)
            splits[split] = (images, labels[kept]) if kept else None
        if splits["train"] is None:
            raise DataUnavailable(f"{self.name}: every training image is broken: {listed}")
        if self.notes:
            warnings.warn(f"{self.name}: {'; '.join(self.notes)}", stacklevel=3)
        if broken:
            warnings.warn(f"{self.name}: skipped {len(broken)} broken images: {listed}", stacklevel=3)
        return splits


def check_shape(name: str, shape: Any) -> None:
    """Raise WrongConfiguration unless a model's input is images, square and grey or in colour."""
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] not in (1, 3):
        raise WrongConfiguration(
            f"{name} consists of images; the model takes examples of shape {shape}, "
            "expected (size, size, 1) or (size, size, 3)"
        )


def check_errors(errors: str) -> None:
    """Raise UnknownName unless it is one of `ERRORS`."""
    if errors not in ERRORS:
        raise UnknownName(f"errors={errors!r}; {nearest(str(errors), ERRORS)}")


def is_one(name: Any) -> bool:
    """Whether this is the path of an existing folder or table of images."""
    path = Path(name)
    if is_dir(path) or not is_file(path):
        return is_dir(path)
    ending, names = path.suffix.lower(), ("path", "label")
    return ending == ".csv" or (ending == ".tsv" and len(tables.first_line(path, names).columns) == 2)


def has_splits(path: Path) -> bool:
    """Whether this is a folder that contains a training split (`TRAINING`)."""
    return is_dir(path) and any(p.is_dir() and p.name.lower() in TRAINING for p in path.iterdir())


def find(path: str | Path, skipped: dict[int, str] | None = None) -> Listing:
    """The images of a folder or a table, sorted by name.

    Raises DataUnavailable if it does not exist or is not laid out as this module says; invalid lines of a
    table are added to `skipped` instead, if it is given.
    """
    path = Path(path)
    if is_dir(path):
        return _of_folder(path)
    if not is_file(path):
        raise DataUnavailable(f"{path}: no such folder or table")
    return _of_table(path, skipped)


def _of_folder(path: Path) -> Listing:
    left = LeftOut(path)
    inside = left.folders(path)
    train = _one(path, [f for f in inside if f.name.lower() in TRAINING])
    splits = {name: _one(path, [f for f in inside if f.name.lower() == name]) for name in HELD_OUT}
    held = [split for split in splits.values() if split is not None]
    if train is None:
        _refuse_lone_splits(path, held, left)
        found = _by_class(path, inside, left)
        return _listing(path, ordered(found), found, left.notes())
    for other in inside:
        if other != train and other not in held:
            left.notes_of_folders.append(f"folder {other.name!r} beside {train.name!r} skipped")
    found = _by_class(train, left.folders(train), left)
    classes = ordered(found)
    if (chosen := _held_out(held, left)) is None:
        return _listing(path, classes, found, left.notes())
    apart = _by_class(chosen, left.folders(chosen), left)
    if unknown := [name for name in apart if name not in found]:
        raise DataUnavailable(f"{chosen}: classes that {train} lacks: {', '.join(unknown)}")
    return Listing(path.name, classes, _flat(found, classes), _flat(apart, classes), left.notes())


def _one(path: Path, folders: Sequence[Path]) -> Path | None:
    """The only folder of a split. Raises DataUnavailable for several, whose names differ in capitals."""
    if len(folders) > 1:
        names = " and ".join(repr(f.name) for f in folders)
        raise DataUnavailable(f"{path}: {names} are the same split; expected one of them")
    return folders[0] if folders else None


def _refuse_lone_splits(path: Path, held: Sequence[Path], left: LeftOut) -> None:
    """Raise DataUnavailable for held-out examples without any to train on; note a class of such a name."""
    for split in held:
        if any(LeftOut(split).images(f) for f in LeftOut(split).folders(split)):
            raise DataUnavailable(
                f"{path}: a folder {split.name!r} with classes, but none named 'train'; put the classes to "
                f"train on into {path / 'train'}, or rename {split.name!r} if it is a class"
            )
        left.notes_of_folders.append(
            f"folder {split.name!r} is treated as a class, not as held-out examples: there is no 'train'"
        )


def _held_out(held: Sequence[Path], left: LeftOut) -> Path | None:
    """The first split with folders of classes; the others are noted."""
    chosen = None
    for split in held:
        if not LeftOut(split).folders(split):
            left.notes_of_folders.append(f"folder {split.name!r} has no folders of classes and was skipped")
        elif chosen is None:
            chosen = split
        else:
            left.notes_of_folders.append(
                f"folder {split.name!r} skipped, because {chosen.name!r} is held out"
            )
    return chosen


class LeftOut:
    """Lists folders and images below a root, and counts the files that are skipped."""

    def __init__(self, root: Path):
        self.root = root
        self.files: dict[str, list[str]] = {}  # by the reason
        self.notes_of_folders: list[str] = []

    def leave(self, reason: str, path: Path) -> None:
        """Count a skipped file, unless it is an operating system's, or hidden and no image."""
        image = path.suffix.lower() in SUFFIXES
        if path.name.lower() not in SYSTEM and (image or reason != "hidden"):
            self.files.setdefault(reason, []).append(str(path.relative_to(self.root)))

    def folders(self, path: Path) -> list[Path]:
        """The folders in a folder, sorted; files beside them are skipped."""
        found = []
        for each in sorted(path.iterdir()):
            if each.is_dir():
                if hidden(each):
                    self.images(each)
                else:
                    found.append(each)
            else:
                self.leave("hidden" if hidden(each) else "beside the folders of classes", each)
        return found

    def images(self, folder: Path) -> list[Path]:
        """The images in a folder and its sub-folders, sorted; links are followed."""
        found, seen = [], set()
        for name, below, files in os.walk(folder, followlinks=True, onerror=_stop):
            here = Path(name)
            if (real := here.resolve()) in seen:  # a link to a folder above it
                below.clear()
                continue
            seen.add(real)
            below.sort()
            within = any(map(hidden, (here, *here.parents)[: len(here.relative_to(self.root).parts)]))
            for path in map(here.joinpath, sorted(files)):
                if within or hidden(path):
                    self.leave("hidden", path)
                elif path.suffix.lower() in SUFFIXES:
                    found.append(path)
                else:
                    self.leave("without an image suffix", path)
        return sorted(found)

    def notes(self) -> tuple[str, ...]:
        """What was skipped, and for each reason the first few files."""
        counted = [
            f"{len(names)} file{'s' if len(names) > 1 else ''} {reason} skipped: "
            + shortlist(names)
            for reason, names in self.files.items()
        ]  # fmt: skip
        return (*self.notes_of_folders, *counted)


def _stop(error: OSError) -> None:
    raise DataUnavailable(f"{error.filename}: {error.strerror}") from None


def _by_class(path: Path, folders: Sequence[Path], left: LeftOut) -> dict[str, list[Path]]:
    found = {f.name: left.images(f) for f in folders}
    if bad := [name for name in found if not is_utf8(name)]:
        raise DataUnavailable(f"{path}: the name of folder {bad[0]!r} is not UTF-8; rename it")
    if empty := [name for name, files in found.items() if not files]:
        endings = ", ".join(sorted(SUFFIXES))
        raise DataUnavailable(f"{path}: no image in {', '.join(empty)}; expected files that end in {endings}")
    if not found:
        raise DataUnavailable(f"{path}: no sub-folders; expected one per class, with its images inside")
    return found


def _of_table(path: Path, skipped: dict[int, str] | None) -> Listing:
    decoded, bad = tables.lines(path)
    header = tables.header(decoded, ("path", "label"))
    if len(header.columns) < 2:
        raise DataUnavailable(
            f"{path}: the first line is {str(header)!r}; expected 'path,label', then one line per image"
        )
    found: dict[str, list[Path]] = {}
    for number, record in tables.records(decoded, header):
        if isinstance(record, str):
            bad.setdefault(number, record)
        elif not (named := record["path"].strip()) or not (label := record["label"].strip()):
            bad.setdefault(number, "path or label missing")
        else:
            found.setdefault(label, []).append(path.parent / named)
    tables.refuse(path, bad, skipped)
    if not found:
        raise DataUnavailable(
            f"{path}: no images; expected one line per image below the first, {str(header)!r}"
        )
    return _listing(path, ordered(found), found)


def _listing(
    path: Path, classes: tuple[str, ...], found: dict[str, list[Path]], notes: tuple[str, ...] = ()
) -> Listing:
    """The listing with a fifth of each class held out, always the same images."""
    if len(classes) < 2:
        raise DataUnavailable(f"{path}: only one class, {', '.join(classes)}; expected two or more")
    paths, labels = _flat(found, classes)
    apart = held_out(labels, "folder")
    train, test = ((tuple(np.array(paths, object)[part]), labels[part]) for part in (~apart, apart))
    return Listing(path.name, classes, train, test, notes)


def _flat(found: dict[str, list[Path]], classes: tuple[str, ...]) -> tuple[tuple[Path, ...], np.ndarray]:
    pairs = [(path, label) for label, name in enumerate(classes) for path in found.get(name, [])]
    return tuple(path for path, _ in pairs), np.array([label for _, label in pairs], np.int32)


def find_broken(paths: Sequence[Path], workers: int, *, whole: bool) -> dict[Path, DataUnavailable]:
    """The files that cannot be read, with the errors; unless `whole`, judged by their first bytes alone."""

    def check(path: Path) -> DataUnavailable | None:
        try:
            with opened(path) as image:
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
    """`map` by that many threads; results in the order of the items."""
    return map(function, *items) if workers == 1 else _pool(workers).map(function, *items)


def submit(workers: int, function: Callable[..., R], *arguments: Any) -> Future[R]:
    """Begin a call in one of that many threads."""
    return _pool(workers).submit(function, *arguments)


def ahead(make: Callable[[T], R], items: Iterable[T], readers: int = 1) -> Generator[R]:
    """`map`, in the order of the items, each made before its use by one of so many threads; 0: when used.

    One more than there are threads are made ahead. An error is raised in its item's turn; the threads end
    with the iterator.
    """
    if not readers:
        yield from map(make, items)
        return
    pool, items = ThreadPoolExecutor(readers, "zoo-reader"), iter(items)
    try:
        waiting = deque(pool.submit(make, item) for item in islice(items, readers + 1))
        while waiting:
            made = waiting.popleft().result()
            waiting.extend(pool.submit(make, item) for item in islice(items, 1))
            yield made
    finally:
        pool.shutdown(cancel_futures=True)
