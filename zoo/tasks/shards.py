"""A data set in shards: Parquet files on a disk or in an object store, read a row group at a time.

photos-shards/shards.json            what the data set is: kind, lanes, classes, files with their row groups
photos-shards/train/00000.parquet    rows in random order: image and label, text and label, or tokens
photos-shards/train/labels.npy       the labels again, (n,) int32, which are held in memory
photos-shards/test/...               the held-out rows

`zoo shard` writes it (`zoo.tasks.shards_writing`).

The order of an epoch: the row groups are permuted by Philox(seed, epoch), and so are the rows of each. The
rows in this order are cut into L equal pieces, the lanes; L belongs to the data set. A batch of B rows has
B/L rows of each lane, those of lane 0 first, so that of N workers, where N divides L and B, each reads L/N
lanes. Where L does not divide B, the lanes form gcd(B, L) groups, which take turns. The order does not depend
on N, any batch of an epoch is found without those before it, and a row group is held in memory while its lane
is in it: one a lane.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import gcd
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL import Image

from zoo import random
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.preprocessing import Preprocessing, decoded, plain
from zoo.storage import is_file
from zoo.tasks import folders, sequences
from zoo.tasks.folders import Images, parallel
from zoo.tasks.sequences import BYTE_TOKENIZER, Change, Sequences, Tokenizer, unchanged
from zoo.tasks.shards_parquet import COLUMNS, Shard, Store, arrow

FILE, VERSION = "shards.json", 1
LANES = range(1, 65)
READERS = 16  # row groups that are read at the same time
Groups = Mapping[int, "Future[dict[str, Any]]"]


class Order:
    """The rows of an epoch, as this module says; `sizes` are those of the row groups."""

    def __init__(self, sizes: np.ndarray, lanes: int, seed: int, epoch: int):
        self.rows = int(sizes.sum())
        self.starts = np.cumsum(sizes) - sizes
        self.groups = random.generator(seed, "order", epoch).permutation(len(sizes))
        self.ends = np.cumsum(sizes[self.groups])
        self.bounds = np.arange(lanes + 1) * self.rows // lanes
        self.within = lru_cache(2 * lanes)(
            lambda group: random.generator(seed, "rows", epoch, group).permutation(int(sizes[group]))
        )

    def batch(self, number: int, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The lane and the index of each row of a batch; the last of an epoch may be smaller."""
        lanes = len(self.bounds) - 1
        turns = lanes // (streams := gcd(size, lanes))  # lanes that take turns in a stream of rows
        lengths = np.diff(self.bounds).reshape(streams, turns)
        even = lengths.min(1, keepdims=True)  # some lanes have one row more, which comes last
        longer = np.argsort(lengths == even, axis=1, kind="stable")
        first = number * (size // streams)
        t = np.arange(first, first + size // streams)[None, :].repeat(streams, 0)
        rest = np.clip(t - even * turns, 0, turns - 1)
        own = np.where(t < even * turns, t % turns, np.take_along_axis(longer, rest, 1))
        lane = own + np.arange(streams)[:, None] * turns
        there = t < lengths.sum(1, keepdims=True)
        depth = np.minimum(t // turns, even)
        return lane[there], self._indices((self.bounds[lane] + depth)[there])

    def _indices(self, positions: np.ndarray) -> np.ndarray:
        """The rows at these positions of the order."""
        place = np.searchsorted(self.ends, positions, "right")
        groups = self.groups[place]
        found = np.empty(len(positions), np.int64)
        for group in np.unique(groups).tolist():
            here = groups == group
            order = self.within(group)
            found[here] = self.starts[group] + order[positions[here] - self.ends[place[here]] + len(order)]
        return found

    def batches(self, size: int, first: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """The batches from `first` on."""
        return (self.batch(number, size) for number in range(first, -(-self.rows // size)))


class Split:
    """The rows of a split, read a row group at a time. Raises DataUnavailable for files that are damaged."""

    def __init__(self, name: str, shards: Sequence[Shard], lanes: int, digest: str):
        self.name, self.shards, self.lanes, self.digest = name, shards, lanes, digest
        self.sizes = np.array([rows for shard in shards for rows in shard.rows], np.int64)
        self.ends = np.cumsum(self.sizes)
        self.places = [(shard, i) for shard in shards for i in range(len(shard.rows))]
        self.labels: np.ndarray | None = None
        self.last: tuple[int, Future[dict[str, Any]]] | None = None
        self.lock = Lock()

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def check(self) -> None:
        """Raise DataUnavailable unless every file is as it was written, by its size and its footer."""
        list(parallel(lambda shard: shard.footer, READERS, self.shards))

    def order(self, seed: int, epoch: int) -> Order:
        """The order of an epoch."""
        return Order(self.sizes, self.lanes, seed, epoch)

    def groups_of(self, rows: np.ndarray) -> np.ndarray:
        """The row groups in which these rows are."""
        return np.searchsorted(self.ends, rows, "right")

    def read(self, group: int) -> dict[str, Any]:
        """The columns of a row group, whose labels are those of the data set's list."""
        shard, number = self.places[group]
        found = shard.read(number)
        start = self.ends[group] - self.sizes[group]
        if self.labels is not None and not np.array_equal(
            found["label"], self.labels[start : self.ends[group]]
        ):
            raise DataUnavailable(
                f"{shard.store.path(shard.name)}: the labels of row group {number} are not those of "
                "labels.npy. Write the data set again by zoo shard"
            )
        return found

    def supply(self, batches: Iterable[tuple[Any, Any, Any]]) -> Iterator[tuple[Any, Groups]]:
        """(batch, lanes, rows) -> the batch with its row groups, which are being read.

        A lane's row group is kept until the lane leaves it.
        """
        held: dict[int, tuple[int, Future[dict[str, Any]]]] = {}
        for batch, lanes, rows in batches:
            groups: dict[int, Future[dict[str, Any]]] = {}
            for lane, group in dict.fromkeys(zip(lanes.tolist(), self.groups_of(rows).tolist(), strict=True)):
                known = {**dict(held.values()), **groups}
                held[lane] = group, known[group] if group in known else self._submit(group)
                groups[group] = held[lane][1]
            yield batch, groups

    def _submit(self, group: int) -> Future[dict[str, Any]]:
        return folders.submit(READERS, self.read, group)

    def column(self, name: str, rows: np.ndarray, groups: Groups | None) -> Iterator[tuple[int, Any, int]]:
        """Of each row its position, the column of its row group, and where it is there."""
        of = self.groups_of(rows)
        for position, (row, group) in enumerate(zip(rows.tolist(), of.tolist(), strict=True)):
            future = groups[group] if groups is not None else self._alone(group)
            yield position, future.result()[name], row - int(self.ends[group] - self.sizes[group])

    def _alone(self, group: int) -> Future[dict[str, Any]]:
        """A row group that is read outside of an order; the last one is kept."""
        with self.lock:
            if self.last is None or self.last[0] != group:
                self.last = group, self._submit(group)
            return self.last[1]


@dataclass(frozen=True)
class Row:
    """A row, which errors name by its file."""

    split: Split
    index: int

    def __str__(self) -> str:
        group = int(self.split.groups_of(np.array([self.index]))[0])
        shard, number = self.split.places[group]
        first = int(self.split.ends[group]) - sum(shard.rows[: number + 1])
        return f"{shard.store.path(shard.name)}, row {self.index - first}"


# What a task holds: arrays whose rows are read when they are indexed. `within(groups, batch)` is the same
# array for one batch, with its row groups.


def _rows(chosen: Any, length: int) -> np.ndarray:
    return np.arange(*chosen.indices(length)) if isinstance(chosen, slice) else np.asarray(chosen, np.int64)


class ShardImages(Images):
    """Images (n, size, size, c) in shards."""

    def __init__(
        self, split: Split, preprocessing: Preprocessing, workers: int, groups: Groups | None = None
    ):
        super().__init__((), preprocessing, workers)
        self.split, self.groups = split, groups

    def by(self, workers: int) -> ShardImages:
        return ShardImages(self.split, self.preprocessing, workers)

    def within(self, groups: Groups, batch: np.ndarray) -> ShardImages:
        """The images of a batch."""
        del batch
        return ShardImages(self.split, self.preprocessing, self.workers, groups)

    @property
    def shape(self) -> tuple[int, ...]:
        return len(self), *super().shape[1:]

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        rows = _rows(chosen, len(self))
        return np.reshape(self.read(rows.reshape(-1)), (*rows.shape, *self.shape[1:]))

    def images(self, chosen: Sequence[int] | np.ndarray) -> list[Any]:
        found = self.split.column("image", np.asarray(chosen), self.groups)
        return [(column[row].as_py(), Row(self.split, int(chosen[i]))) for i, column, row in found]

    def open(self, source: Any) -> Image.Image:
        data, row = source
        return decoded(data, row, self.preprocessing.channels)


class ShardTokens:
    """Tokens (n, length) in shards: those of `part` of each row."""

    dtype, ndim = np.dtype(np.int32), 2

    def __init__(self, split: Split, window: int, largest: int, part: slice, groups: Groups | None = None):
        self.split, self.window, self.largest, self.part, self.groups = split, window, largest, part, groups

    def within(self, groups: Groups, batch: np.ndarray) -> ShardTokens:
        """The tokens of a batch."""
        del batch
        return ShardTokens(self.split, self.window, self.largest, self.part, groups)

    @property
    def shape(self) -> tuple[int, int]:
        """(n, length)."""
        return len(self), len(range(*self.part.indices(self.window)))

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        rows = _rows(chosen, len(self))
        found = np.empty((len(rows), self.window), np.int32)
        for position, column, row in self.split.column("tokens", rows, self.groups):
            found[position] = column[row]
        return np.ascontiguousarray(found[:, self.part])

    def max(self, initial: int = 0) -> int:
        """The largest token of the data set."""
        return max(self.largest, initial)

    def min(self, initial: int = 0) -> int:
        """The smallest token."""
        return min(0, initial)


class ShardTexts(Sequences):
    """Texts in shards, padded as `Sequences` are: the length of every text is known."""

    dtype, features, fill, kinds = np.dtype(np.int32), (), sequences.PADDING, ("texts",)

    def __init__(self, split: Split, tokenizer: Tokenizer, lengths: np.ndarray):
        self.split, self.tokenizer, self.lengths = split, tokenizer, lengths
        self.bounds, self.encode = sequences.bounds(lengths), tokenizer.encode
        self.arrays = [np.array([tokenizer.vocabulary - 1], np.int32)]  # the largest token there may be
        self.groups: Groups | None = None
        self.least, self.ones = 0, False

    def __len__(self) -> int:
        return len(self.split)

    @property
    def shape(self) -> tuple[int | None, ...]:
        return len(self), None

    def within(self, groups: Groups | None, batch: np.ndarray) -> ShardTexts:
        """The texts of a batch, padded to the longest of it, whichever of its rows are read."""
        found = ShardTexts.__new__(type(self))
        vars(found).update(vars(self))
        found.groups, found.least = groups, int(self.lengths[batch].max())
        return found

    def __getitem__(self, chosen: Any) -> np.ndarray:
        rows = _rows(chosen, len(self))
        texts = self if self.least else self.within(None, rows)
        if self.ones:
            return texts.pad([np.ones(length, np.int32) for length in self.lengths[rows]])
        return texts.pad(texts.read(rows))

    def read(self, chosen: Sequence[int] | np.ndarray, change: Change = unchanged) -> list[np.ndarray]:
        found = self.split.column("text", np.asarray(chosen), self.groups)
        return [self.array(change(column[row], position)) for position, column, row in found]

    def array(self, item: Any) -> np.ndarray:
        return self.tokenizer.encode(item)

    def pad(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        return super().pad([*arrays, np.zeros(self.least, np.int32)])[: len(arrays)]

    def mask(self) -> Sequences:
        found = self.within(None, np.zeros(1, int))
        found.least, found.ones = 0, True
        return found


def split_of(x: Any) -> Split | None:
    """The split that an array of a task, or the first of a dict, is read from; None for others."""
    return getattr(next(iter(x.values())) if isinstance(x, Mapping) else x, "split", None)


def within(x: Any, groups: Groups, batch: np.ndarray) -> Any:
    """An array of a task, or those of a dict or a pair, for one batch."""
    if isinstance(x, Mapping):
        return {name: within(part, groups, batch) for name, part in x.items()}
    if isinstance(x, tuple):
        return tuple(within(part, groups, batch) for part in x)
    return x if isinstance(x, np.ndarray) else x.within(groups, batch)


# The data set


@dataclass(frozen=True)
class Shards:
    """A data set, as its shards.json says."""

    store: Store
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The last part of its address."""
        return Path(self.source).name

    @property
    def source(self) -> str:
        """The address: a URL, or an absolute path."""
        address = self.store.address
        return address.rstrip("/") if "://" in address else str(Path(address).resolve())

    @property
    def kind(self) -> str:
        """images, texts or tokens."""
        return self.facts["kind"]

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the labels."""
        return tuple(self.facts.get("classes", ()))

    def rows(self, tokenizer: Tokenizer) -> int:
        """The tokenizer's vocabulary. Raises WrongConfiguration for another one than the data set's."""
        given, own = describe(tokenizer), self.facts["tokenizer"]
        if (given["digest"], given["vocabulary"]) != (own["digest"], own["vocabulary"]):
            copy = " (a copy is tokenizer.json beside it)" if own["name"] != BYTE_TOKENIZER.name else ""
            raise WrongConfiguration(
                f"{self.name} was written for the tokenizer {own['name']}, {own['vocabulary']} tokens{copy}, "
                f"not for {given['name']}, {given['vocabulary']} tokens; give tokenizer= (--tokenizer) as "
                "zoo shard was given, or shard again"
            )
        return tokenizer.vocabulary

    @cached_property
    def splits(self) -> dict[str, Split]:
        """The splits, whose files are checked."""
        arrow()
        found = {}
        for name, facts in self.facts["splits"].items():
            window = self.facts.get("window", 0)
            shards = [
                Shard(self.store, self.kind, window, each["name"], each["rows"], each["bytes"])
                for each in facts["files"]
            ]
            digest = hashlib.sha256(json.dumps([self.facts["kind"], facts], sort_keys=True).encode())
            found[name] = Split(name, shards, self.facts["lanes"], digest.hexdigest()[:32])
            if "label" in COLUMNS[self.kind]:
                found[name].labels = self._array(name, "labels", len(found[name]))
            found[name].check()
        return found

    def _array(self, split: str, what: str, rows: int) -> np.ndarray:
        """labels.npy or lengths.npy of a split."""
        name = f"{split}/{what}.npy"
        data = self.store.read(name)
        if hashlib.sha256(data).hexdigest() != self.facts["splits"][split].get(what):
            raise DataUnavailable(
                f"{self.store.path(name)}: damaged or changed. Copy it again, or write the data set again by "
                "zoo shard"
            )
        found = np.load(io.BytesIO(data), allow_pickle=False)
        if found.shape != (rows,) or found.dtype != np.int32:
            raise DataUnavailable(
                f"{self.store.path(name)}: {found.dtype} of shape {found.shape}; expected int32 ({rows},)"
            )
        return found

    def images(self, shape: Any, preprocessing: Preprocessing | None, workers: int) -> dict[str, Any]:
        """The splits for a model of images, as `zoo.tasks.Task` takes them."""
        folders.check_shape(self.name, shape)
        if preprocessing is None or preprocessing.channels != shape[2]:
            preprocessing = plain(shape[0], shape[2])
        ready = preprocessing.at(shape[0])
        return self._pairs(lambda split: ShardImages(split, ready, workers))

    def texts(self, shape: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        """The splits for a model of tokens."""
        sequences.expect_tokens(shape, "texts")
        self.rows(tokenizer)

        def x(split: Split) -> Any:
            lengths = self._array(split.name, "lengths", len(split))
            return sequences.inputs(ShardTexts(split, tokenizer, lengths), shape)

        return self._pairs(x)

    def tokens(self, shape: Any, tokenizer: Tokenizer) -> dict[str, Any]:
        """The splits for a language model: the tokens of each row, and the next of each."""
        sequences.expect_tokens(shape, "a text")
        self.rows(tokenizer)
        window, largest = self.facts["window"], self.facts["largest"]
        found: dict[str, Any] = {"test": None}
        for name, split in self.splits.items():
            x, y = (ShardTokens(split, window, largest, part) for part in (slice(0, -1), slice(1, None)))
            found[name] = ({"token_ids": x} if isinstance(shape, dict) else x), y
        return {**found, "tokens_per_character": self.facts.get("tokens_per_character")}

    def _pairs(self, x: Any) -> dict[str, Any]:
        return {"test": None, **{name: (x(split), split.labels) for name, split in self.splits.items()}}


def describe(tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer's name and vocabulary, and a digest of its file, by which two are compared."""
    content = tokenizer.name
    if content != BYTE_TOKENIZER.name:
        content = getattr(tokenizer, "content", content)
    digest = hashlib.sha256(content.encode()).hexdigest()[:32]
    return {"name": tokenizer.name, "vocabulary": tokenizer.vocabulary, "digest": digest}


def is_one(name: Any) -> bool:
    """Whether this is a URL, or a folder of shards."""
    return "://" in str(name) or is_file(Path(name) / FILE)


def find(address: str) -> Shards:
    """The data set at a path or URL. Raises DataUnavailable if there is none, or its list is damaged."""
    store = Store(address)
    try:
        data = store.read(FILE)
    except DataUnavailable as error:
        raise DataUnavailable(f"{error}; expected a data set that zoo shard has written") from None
    try:
        facts = json.loads(data)
        if facts["version"] != VERSION:
            raise DataUnavailable(f"{store.path(FILE)}: version {facts['version']}; this zoo reads {VERSION}")
        _check(facts)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else error
        raise DataUnavailable(f"{store.path(FILE)}: damaged ({what}); write it again by zoo shard") from None
    return Shards(store, facts)


def _check(facts: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError or TypeError unless the facts are those of a data set."""
    if facts["kind"] not in COLUMNS:
        raise ValueError(f"kind {facts['kind']!r}; expected one of {', '.join(COLUMNS)}")
    if facts["lanes"] not in LANES:
        raise ValueError(f"{facts['lanes']} lanes; expected {LANES[0]} to {LANES[-1]}")
    needed = [] if facts["kind"] == "tokens" else ["classes"]
    if facts["kind"] != "images":
        needed += ["tokenizer"]
    if facts["kind"] == "tokens":
        needed += ["window", "largest"]
    if missing := [name for name in needed if name not in facts]:
        raise KeyError(missing[0])
    for name, split in facts["splits"].items():
        for each in split["files"]:
            if not each["rows"] or min(each["rows"]) < 1:
                raise ValueError(f"{each['name']} has an empty row group, or none")
            int(each["bytes"])
        if not split["files"]:
            raise ValueError(f"{name} has no files")
    if "train" not in facts["splits"]:
        raise KeyError("train")
