"""Digests of a task's examples, with which those of a resumed run are compared (docs/checkpoint.md).

They depend on the values alone, not on paths, the machine or the framework. Of a data set by name they are
its name, shapes and labels; of images in files, their names below their common folder, sizes, labels, and the
bytes of 256 of them; of arrays and sequences, shapes, types and bytes: all of them up to 64 MiB, else 16,384
pieces of 4 KiB at equal distances; of shards, the digests of their files. Batches of somebody else's
(iterators) have none.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from zoo.tasks import TASKS, Task, shards
from zoo.tasks.folders import Images
from zoo.tasks.sequences import Sequences, Waves

WHOLE, PIECE = 64 * 2**20, 4096  # bytes
FILES = 256


def digests(task: Task) -> dict[str, str | None]:
    """Of the training and the held-out examples, 32 hexadecimal digits each; None where there are none."""
    parts = {"train": task.train, "test": task.test}
    train, test = (None if name in task.streams else _digest(task, pair) for name, pair in parts.items())
    return {"train": train, "held_out": test}


def _digest(task: Task, pair: Any) -> str | None:
    if not isinstance(pair, tuple) or len(pair) != 2:
        return None
    found, (x, y) = hashlib.sha256(), pair
    if (split := shards.split_of(x)) is not None:
        return split.digest
    inputs = dict(sorted(x.items())) if isinstance(x, dict) else {"": x}
    if not all(isinstance(part, np.ndarray | Sequences | Images) for part in (*inputs.values(), y)):
        return None
    for name, part in (*inputs.items(), ("labels", y)):
        found.update(f"{name} {part.dtype} {part.shape} ".encode())
        if (
            task.source in TASKS and name != "labels"
        ):  # scaled to the model's input, by its machine's rounding
            found.update(task.source.encode())
        elif isinstance(part, np.ndarray):
            _add(found, part)
        elif isinstance(part, Images):
            _add_files(found, part.paths)
        else:
            arrays = part.waves if isinstance(part, Waves) else part.arrays
            _add(found, np.array([len(each) for each in arrays]))
            _add(found, np.concatenate(list(arrays)))
    return found.hexdigest()[:32]


def _add(found: Any, x: np.ndarray) -> None:
    """Add an array's bytes, or pieces of them."""
    data = np.ascontiguousarray(x).reshape(-1).view(np.uint8)
    if len(data) <= WHOLE:
        found.update(data.data)
        return
    for start in np.linspace(0, len(data) - PIECE, WHOLE // PIECE).astype(np.int64):
        found.update(data[start : start + PIECE].data)


def _add_files(found: Any, paths: Any) -> None:
    """Add the files' names and sizes, and the bytes of some; a file that cannot be read has none."""
    folder = os.path.commonpath([Path(path).parent for path in paths])
    chosen = set(np.linspace(0, len(paths) - 1, FILES).astype(int).tolist())
    for i, path in enumerate(map(Path, paths)):
        size = path.stat().st_size if path.is_file() else None
        found.update(os.fsencode(f"{path.relative_to(folder).as_posix()} {size} "))
        if i in chosen and size is not None:
            with path.open("rb") as file:
                found.update(file.read(WHOLE // FILES))
