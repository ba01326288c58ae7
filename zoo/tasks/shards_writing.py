"""Writes data sets in shards (`zoo.tasks.shards`): `zoo shard photos/ photos-shards/`.

    write("photos/", "s3://bucket/photos", lanes=16)

The examples and the held-out part are those that `zoo.train` reads from the same folder or file; the rows are
written in random order. Images are stored as they are in their files, after each was decoded once.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import zoo.tasks.text as text
from zoo import random, storage
from zoo.checks import integer
from zoo.errors import DataUnavailable, WrongConfiguration, shortlist
from zoo.preprocessing import decoded
from zoo.tasks import folders, labelled, speech
from zoo.tasks.sequences import BYTE_TOKENIZER, WINDOW, Tokenizer, pack
from zoo.tasks.shards import FILE, LANES, VERSION, describe
from zoo.tasks.shards_parquet import Store, Writer, arrow

ROWS = {"images": 64, "texts": 1024, "tokens": 1024}  # of a row group, of which a lane holds one
BYTES = 256 * 2**20  # of a file, after which another begins
Progress = Callable[[int, int], None]  # rows done, of how many


@dataclass
class Data:
    """What is written: the number of rows of each split; `read(split, i)` makes one, its values by column."""

    kind: str
    name: str
    rows: Mapping[str, int]
    read: Callable[[str, int], dict[str, Any]]
    facts: dict[str, Any] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)  # lines that were left out already


def write(
    source: str | Path,
    out: str | Path,
    *,
    rows: int | None = None,
    lanes: int = 16,
    test: str | Path | None = None,
    tokenizer: Tokenizer | None = None,
    skip_bad: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write a folder or table of images, a file of labelled texts, or a text, in shards; what was written.

    `out` is a new folder, or a URL of fsspec; it appears when it is complete. `rows` of a row group, by
    default 64 images, 1,024 texts or windows of tokens; `lanes` 1 to 64, which the numbers of workers should
    divide; `test` a folder or file of held-out examples, instead of the usual part of `source`. Texts are
    measured, and a long text is cut into tokens, by `tokenizer`, bytes by default. With `skip_bad` unreadable
    images and invalid lines are left out, and named in the result.

    Raises WrongConfiguration and DataUnavailable, which name the files and lines; then nothing was written.
    """
    rows = None if rows is None else integer("shard", "rows", rows)
    if integer("shard", "lanes", lanes) not in LANES:
        raise WrongConfiguration(f"lanes={lanes}; expected {LANES[0]} to {LANES[-1]}")
    arrow()
    data = _data(Path(source), None if test is None else Path(test), tokenizer, skip_bad)
    with _new(str(out)) as folder:
        written = _Written(folder, data, rows or ROWS[data.kind], skip_bad, progress)
        splits = written.splits()
        facts = {"version": VERSION, "kind": data.kind, "lanes": lanes, **data.facts, "splits": splits}
        if tokenizer is not None and (content := getattr(tokenizer, "content", None)):
            (folder / "tokenizer.json").write_text(content, encoding="utf-8")
        (folder / FILE).write_text(storage.json_text(facts), encoding="utf-8")
    sizes = {name: [n for each in split["files"] for n in each["rows"]] for name, split in splits.items()}
    return {
        "kind": data.kind,
        "lanes": lanes,
        "rows": {name: sum(each) for name, each in sizes.items()},
        "groups": {name: len(each) for name, each in sizes.items()},
        "bytes": sum(each["bytes"] for split in splits.values() for each in split["files"]),
        "skipped": [*data.bad, *written.bad],
    }


@contextmanager
def _new(out: str) -> Iterator[Path]:
    """A folder to write to, which becomes `out` when it is complete."""
    if "://" not in out:
        storage.check_folder("shard", Path(out).absolute().parent)
        if os.path.lexists(out):
            raise WrongConfiguration(f"shard: {out} exists already; give a new folder, or remove it")
        with storage.new_folder(out) as folder:
            yield folder
        return
    store = Store(out)
    if store.exists(FILE):
        raise WrongConfiguration(f"shard: {store.path(FILE)} exists already; give another address")
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
        paths = [path for path in Path(folder).rglob("*") if path.is_file()]
        for path in sorted(paths, key=lambda path: path.name == FILE):  # the list last
            store.write(path.relative_to(folder).as_posix(), path)


class _Written:
    """The splits that are written to a folder, and the bad rows."""

    def __init__(self, folder: Path, data: Data, rows: int, skip_bad: bool, progress: Progress | None):
        self.folder, self.data, self.rows, self.skip_bad = folder, data, rows, skip_bad
        self.progress, self.done = progress, 0
        self.bad: list[str] = []

    def splits(self) -> dict[str, Any]:
        """Write all splits; what shards.json says of those with rows. Raises DataUnavailable for bad rows."""
        written = {split: self._split(split) for split in ("train", "test")}
        if self.bad and not self.skip_bad:
            raise DataUnavailable(
                f"{self.data.name}: {len(self.bad)} bad rows: {shortlist(self.bad, 20, '; ')}. Correct or "
                "remove them, or leave them out by --skip-bad (skip_bad=True). Nothing was written"
            )
        if not written["train"]["files"]:
            raise DataUnavailable(f"{self.data.name}: no row to train on. Nothing was written")
        return {split: found for split, found in written.items() if found["files"]}

    def _split(self, split: str) -> dict[str, Any]:
        """Write a split; what shards.json says of it."""
        if self.data.rows[split]:
            (self.folder / split).mkdir()
        order = random.generator("shards", split).permutation(self.data.rows[split])
        files: list[dict[str, Any]] = []
        arrays: dict[str, list[int]] = {"labels": [], "lengths": []}
        writer: Writer | None = None
        for group in self._groups(split, order):
            arrays["labels"] += group.get("label", [])
            arrays["lengths"] += group.get("length", [])
            if writer is None:
                name = f"{split}/{len(files):05d}.parquet"
                writer = Writer(self.folder / name, self.data.kind, self.data.facts.get("window", 0))
            writer.write(group)
            if writer.size >= BYTES:
                files.append(self._close(writer))
                writer = None
        if writer is not None:
            files.append(self._close(writer))
        return {"files": files, **{what: self._save(split, what, x) for what, x in arrays.items() if x}}

    def _groups(self, split: str, order: np.ndarray) -> Iterator[dict[str, list[Any]]]:
        """The columns of each row group; none after a bad row, unless those are left out."""
        group: dict[str, list[Any]] = {}
        for row in folders.ahead(lambda i: self._row(split, int(i)), order, os.cpu_count() or 1):
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, sum(self.data.rows.values()))
            if isinstance(row, str):
                self.bad.append(row)
                continue
            for name, value in row.items():
                group.setdefault(name, []).append(value)
            if len(next(iter(group.values()))) == self.rows:
                if self.skip_bad or not self.bad:
                    yield group
                group = {}
        if group and (self.skip_bad or not self.bad):
            yield group

    def _row(self, split: str, i: int) -> dict[str, Any] | str:
        try:
            return self.data.read(split, i)
        except DataUnavailable as error:
            return str(error)

    def _close(self, writer: Writer) -> dict[str, Any]:
        writer.close()
        with writer.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        name = writer.path.relative_to(self.folder).as_posix()
        return {"name": name, "rows": writer.rows, "bytes": writer.size, "sha256": digest}

    def _save(self, split: str, what: str, values: Sequence[int]) -> str:
        """Write an array; its digest."""
        file = io.BytesIO()
        np.save(file, np.array(values, np.int32))
        (self.folder / split / f"{what}.npy").write_bytes(file.getvalue())
        return hashlib.sha256(file.getvalue()).hexdigest()


# What there is to write


def _data(source: Path, test: Path | None, tokenizer: Tokenizer | None, skip_bad: bool) -> Data:
    """The examples of a folder or file. Raises DataUnavailable, and WrongConfiguration for other kinds."""
    ending = source.suffix.lower()
    if speech.transcripts(source) is None:
        if storage.is_file(source) and ending in text.READERS and labelled(source, ending):
            return _texts(source, test, tokenizer or BYTE_TOKENIZER, skip_bad)
        if storage.is_file(source) and ending == ".txt":
            return _tokens(source, test, tokenizer or BYTE_TOKENIZER)
        if folders.is_one(source):
            if tokenizer is not None:
                raise WrongConfiguration(f"tokenizer= goes with texts; {source} has images")
            return _images(source, test, skip_bad)
    raise WrongConfiguration(
        f"{source}: expected a folder or table of images, a table of labelled texts (.csv, .tsv, .jsonl), "
        "or a text (.txt); pairs of texts and recordings are not written in shards"
    )


def _images(source: Path, test: Path | None, skip_bad: bool) -> Data:
    bad: dict[int, str] | None = {} if skip_bad else None
    found = folders.find(source, bad)
    splits = {"train": found.train, "test": found.test}
    if test is not None:
        other = folders.find(test, bad)
        train = (*found.train[0], *found.test[0]), np.append(found.train[1], found.test[1])
        paths = (*other.train[0], *other.test[0])
        numbers = _numbers(found.classes, other.classes, test)
        splits = {"train": train, "test": (paths, numbers[np.append(other.train[1], other.test[1])])}

    def read(split: str, i: int) -> dict[str, Any]:
        path, label = Path(splits[split][0][i]), int(splits[split][1][i])
        with storage.reading(path, "expected an image"):
            data = path.read_bytes()
        decoded(data, path, 3)
        return {"image": data, "label": label}

    rows = {name: len(paths) for name, (paths, _) in splits.items()}
    return Data("images", found.name, rows, read, {"classes": list(found.classes)}, _lines(source, bad))


def _texts(source: Path, test: Path | None, tokenizer: Tokenizer, skip_bad: bool) -> Data:
    bad: dict[int, str] | None = {} if skip_bad else None
    found = text.table(source, skipped=bad)
    splits = {"train": found.train, "test": found.test}
    if test is not None:
        other = text.table(test, skipped=bad)
        numbers = _numbers(found.classes, other.classes, test)
        train = [*found.train[0], *found.test[0]], np.append(found.train[1], found.test[1])
        labels = numbers[np.append(other.train[1], other.test[1])]
        splits = {"train": train, "test": ([*other.train[0], *other.test[0]], labels)}

    def read(split: str, i: int) -> dict[str, Any]:
        content = splits[split][0][i]
        return {"text": content, "label": int(splits[split][1][i]), "length": len(tokenizer.encode(content))}

    rows = {name: len(texts) for name, (texts, _) in splits.items()}
    facts = {"classes": list(found.classes), "tokenizer": describe(tokenizer)}
    return Data("texts", found.name, rows, read, facts, _lines(source, bad))


def _tokens(source: Path, test: Path | None, tokenizer: Tokenizer) -> Data:
    content = text.read(source)
    texts = text.parts(content) if test is None else {"train": content, "test": text.read(test)}
    tokens = {split: tokenizer.encode(each) for split, each in texts.items()}
    rows = {split: len(pack([each], WINDOW)[0]) for split, each in tokens.items()}

    def read(split: str, i: int) -> dict[str, Any]:
        return {"tokens": tokens[split][i * WINDOW : (i + 1) * WINDOW + 1]}  # and the next one

    facts = {
        "tokenizer": describe(tokenizer),
        "window": WINDOW + 1,
        "largest": int(max(each.max() for each in tokens.values())),
        "tokens_per_character": len(tokens["test"]) / len(texts["test"]),
    }
    return Data("tokens", source.name, rows, read, facts)


def _numbers(classes: Sequence[str], others: Sequence[str], path: Path) -> np.ndarray:
    """The number of each class of the held-out examples."""
    if unknown := [name for name in others if name not in classes]:
        raise DataUnavailable(f"{path}: classes that the training examples lack: {shortlist(unknown)}")
    return np.array([classes.index(name) for name in others], np.int32)


def _lines(path: Path, bad: Mapping[int, str] | None) -> list[str]:
    return [f"{path}: line {number}: {fault}" for number, fault in sorted((bad or {}).items())]
