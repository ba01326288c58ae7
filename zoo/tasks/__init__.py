"""Data to train on: by name, `zoo.tasks.load("digits", shape)`, your own arrays, or a folder of images.

A task holds NumPy arrays, or images that are read from files as needed; its batches are the same on every
framework, see `Task.batches`.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from zoo import random
from zoo.augment import AugmentSpec, Mix, Transform, parse
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest
from zoo.preprocessing import Preprocessing
from zoo.storage import is_file
from zoo.tasks import (
    folders,
    images,
    pretraining,
    sequences,
    shards,
    speech,
    streams,
    tables,
    text,
    translation,
)
from zoo.tasks.augmentation import augmented
from zoo.tasks.reading import Own, Reading
from zoo.tasks.sequences import (
    BYTE_TOKENIZER,
    Sequences,
    Tokenizer,
    count,
    largest,
    of_sequences,
    shapes,
    take,
)
from zoo.tasks.streams import Stream

Pair = tuple[Any, Any]
CORRUPTION = "spoil"  # names the stream of random draws: another name would draw other numbers


@dataclass(frozen=True)
class Task:
    """Training and held-out examples, with their loss and metric."""

    name: str
    train: Pair  # x (n, ...), an array or read when sliced, or a dict by input name; y (n,) or (n, ...)
    test: Pair | None
    loss: str  # a name of zoo.training.LOSSES
    metric: str | None  # a name of zoo.training.METRICS
    classes: int | None = None
    names: tuple[str, ...] = ()  # of the classes, if they have any
    augment: tuple[Transform, ...] = ()  # see zoo.augment
    corrupt: Callable[..., Any] | None = None  # each of x into an example, see zoo.tasks.pretraining
    tokens_per_character: float | None = None  # of a language model's text: its loss is reported in bits, too
    tokenizer: Tokenizer | None = None  # of texts; bytes by default
    source: str = ""  # what `load` takes to load it again: a name, or an absolute path
    readers: int | None = None  # threads that make batches ahead, see `read_by`
    streams: Mapping[str, Stream] = field(default_factory=dict)  # "train" or "test": the first batch of it

    def batches(
        self, batch_size: int, seed: int, epoch: int, first: int = 0, own: Own | None = None
    ) -> Iterator[Pair]:
        """The training examples in the order of this seed and epoch, augmented, from batch `first` on.

        The last batch may be smaller. Reading and augmentation run ahead, see `read_by`. With `own`, a
        worker's rows of a batch by its length, examples in files are read for those rows alone
        (`zoo.backends.world.OwnRows`).
        """
        if (stream := self.streams.get("train")) is not None:
            return stream.batches(epoch, first)
        x, _ = self.train

        def make(reading: Reading, groups: shards.Groups | None = None) -> Pair:
            indices = reading.chosen
            if self.corrupt is not None:
                return self.corrupted(x, indices, seed, CORRUPTION, epoch)
            train = self.train if groups is None else shards.within(self.train, groups, reading.indices)
            if self.augment:
                made = self.augmented(indices, seed, epoch, train)
            else:
                made = take(train[0], indices), train[1][indices]
            return reading.share(made[0]), reading.share(made[1])

        mixes = sum(isinstance(each, Mix) for each in self.augment)
        readers = self._readers(bool(self.augment) and self.corrupt is None)
        if (split := shards.split_of(x)) is not None:
            changed = self.augment and of_sequences(x) is not None  # texts, whose padding all rows decide
            lanes = split.order(seed, epoch).batches(batch_size, first)
            laid = ((lane, Reading.of(rows, None if changed else own, mixes)) for lane, rows in lanes)
            supplied = split.supply((each, lane[each.rows], each.chosen) for lane, each in laid)
            return folders.ahead(lambda each: make(*each), supplied, readers)
        own = own if isinstance(x, folders.Images) else None
        rng = random.generator(seed, "order", epoch)
        order = rng.permutation(count(x))
        if (buckets := of_sequences(x)) is not None:
            order = buckets.arrange(order, batch_size, rng)
        starts = range(first * batch_size, len(order), batch_size)
        chosen = (Reading.of(order[start : start + batch_size], own, mixes) for start in starts)
        return folders.ahead(make, chosen, readers)

    def dealt(self, batches: int, split: str, rank: int, size: int) -> slice:
        """Which of so many batches a worker reads: of shards those in a row, else each `size`-th.

        A worker that reads rows in a row reads few row groups; sequences are in order of length.
        """
        if split in self.streams or shards.split_of(getattr(self, split)[0]) is None:
            return slice(rank, None, size)
        return slice(rank * batches // size, (rank + 1) * batches // size)

    def held_out(
        self, batch_size: int, split: str | None = None, rank: int = 0, size: int = 1
    ) -> Iterator[Pair]:
        """The held-out examples in batches, or those of `split`; sequences of similar lengths together.

        Of several workers each reads its own batches, `dealt`.
        """
        split = split or ("train" if self.test is None else "test")
        if (stream := self.streams.get(split)) is not None:
            yield from islice(stream.whole(), rank, None, size)
            return
        x, y = getattr(self, split)
        starts = range(0, count(x), batch_size)
        starts = starts[self.dealt(len(starts), split, rank, size)]
        if (stored := shards.split_of(x)) is not None:
            rows = (np.arange(start, min(start + batch_size, len(stored))) for start in starts)
            supplied = stored.supply((each, np.zeros(len(each), int), each) for each in rows)

            def read(indices: np.ndarray, groups: shards.Groups) -> Pair:
                own, labels = shards.within((x, y), groups, indices)
                return take(own, indices), labels[indices]

            yield from folders.ahead(lambda each: read(*each), supplied, self._readers(False))
            return
        order = np.arange(count(x))
        if (buckets := of_sequences(x)) is not None:
            order = buckets.arrange(order, batch_size, None)

        def make(indices: np.ndarray) -> Pair:
            plain = self.corrupt is None
            return (take(x, indices), y[indices]) if plain else self.corrupted(x, indices, CORRUPTION)

        chosen = (order[start : start + batch_size] for start in starts)
        yield from folders.ahead(make, chosen, self._readers(False))

    def read_by(self, readers: int) -> Task:
        """The same task with the same batches, each read and augmented ahead by one of so many threads.

        0: in the thread that uses them. By default images are read by one thread per processor, and other
        examples are augmented by one. Raises WrongConfiguration for batches of somebody else's.
        """
        if self.streams:
            name = next(iter(self.streams.values())).name
            raise WrongConfiguration(
                f"readers= goes with examples; {name} gives whole batches, and reads ahead by its own options"
            )

        def pair(given: Any) -> Any:
            return (given[0].by(1), given[1]) if given and isinstance(given[0], folders.Images) else given

        return replace(self, train=pair(self.train), test=pair(self.test), readers=readers)

    def _readers(self, slow: bool) -> int:
        """The threads that make batches, of which examples are `slow` to make."""
        if self.readers is not None:
            return self.readers
        stored = isinstance(self.train[0], folders.Images) or shards.split_of(self.train[0]) is not None
        return int(slow or stored)

    @property
    def spoil(self) -> Callable[..., Any] | None:
        """Deprecated: the old name of `corrupt`."""
        warnings.warn("Task.spoil is now Task.corrupt", DeprecationWarning, stacklevel=2)
        return self.corrupt

    def corrupted(self, x: np.ndarray, indices: np.ndarray, *key: int | str) -> Pair:
        """Examples and labels made from the windows at these indices, by random draws of this key."""
        assert self.corrupt is not None
        examples = [self.corrupt(x[i], random.generator(*key, int(i))) for i in indices]
        inputs, labels = zip(*examples, strict=True)
        several = isinstance(inputs[0], dict)
        stacked = {name: np.stack([each[name] for each in inputs]) for name in inputs[0]} if several else None
        return stacked or np.stack(inputs), np.stack(labels)

    def augmented(
        self, indices: Sequence[int] | np.ndarray, seed: int, epoch: int, train: Pair | None = None
    ) -> Pair:
        """The augmented training examples with these indices, in this epoch; `train` in place of the task's.

        Mixing makes labels soft: (b, classes), float32. Raises WrongConfiguration for transforms that do not
        apply to the examples, and for labels that cannot be mixed.
        """
        given = train or self.train
        return augmented(given, self.augment, indices, seed, epoch, classes=self.classes, name=self.name)

    def first(self, number: int) -> Any:
        """The first training examples as a model is given them, without augmentation."""
        x, indices = self.train[0], np.arange(min(number, count(self.train[0])))
        return take(x, indices) if self.corrupt is None else self.corrupted(x, indices, CORRUPTION)[0]

    def steps(self, batch_size: int) -> int:
        """The number of batches in an epoch."""
        stream = self.streams.get("train")
        return -(-count(self.train[0]) // batch_size) if stream is None else stream.steps


@dataclass(frozen=True)
class Source:
    """The source of a named task: `read(shape)` returns its arrays, scaled to a model's input.

    For texts, whose tokens need `rows(tokenizer)` rows of an embedding, it is `read(shape, tokenizer)`.
    """

    read: Callable[..., dict[str, Any]]
    channels: int | None = None
    classes: int | None = None
    side: int | None = None  # of an image, in pixels, if all have the same size
    changes: Mapping[str, Any] = field(default_factory=dict)  # builder arguments that the task requires
    loss: str = "cross_entropy"
    metric: str = "accuracy"
    names: tuple[str, ...] = ()  # of the classes
    photographs: bool = False  # in files, preprocessed as a model's card says
    rows: Callable[[Tokenizer], int] | None = None

    def task(self, name: str, shape: Any, tokenizer: Tokenizer | None = None) -> Task:
        """The task for a model that takes examples of this shape."""
        texts = () if self.rows is None else (tokenizer or BYTE_TOKENIZER,)
        return Task(
            name,
            **self.read(shape, *texts),
            loss=self.loss,
            metric=self.metric,
            classes=self.classes,
            names=self.names,
            tokenizer=tokenizer,
        )

    def requirements(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """The builder arguments that the task requires, each None if any value will do."""
        found = {"classes": self.classes, "channels": self.channels, **self.changes}
        return found if self.rows is None else {**found, "vocabulary": self.rows(tokenizer or BYTE_TOKENIZER)}


LABELS = {"head": "classifier"}
WORDS = {"vocabulary": text.WORDS, **LABELS}
NEXT = {"head": "language_model"}
MASKED = {"head": "masked_lm"}


def rows(tokenizer: Tokenizer) -> int:
    """One embedding row for each token of the vocabulary."""
    return tokenizer.vocabulary


TASKS = {
    "digits": Source(images.digits, 1, 10, 8),
    "mnist": Source(images.keras_dataset("mnist"), 1, 10, 28),
    "fashion-mnist": Source(images.keras_dataset("fashion_mnist"), 1, 10, 28),
    "cifar10": Source(images.keras_dataset("cifar10"), 3, 10, 32),
    "cifar100": Source(images.keras_dataset("cifar100"), 3, 100, 32),
    "languages": Source(
        sequences.of_texts(text.languages), classes=20, changes=LABELS, names=text.LANGUAGES, rows=rows
    ),
    "topics": Source(sequences.of_corpus(text.corpus), changes=NEXT, rows=rows),
    "topics-masked": Source(
        sequences.of_windows(text.corpus, pretraining.masked),
        changes=MASKED,
        rows=lambda tokenizer: max(tokenizer.vocabulary, pretraining.mask(tokenizer) + 1),
    ),
    "topics-spans": Source(
        sequences.of_windows(text.corpus, pretraining.spans),
        rows=lambda tokenizer: tokenizer.vocabulary + pretraining.SENTINELS,
    ),
    "imdb": Source(sequences.of_tokens(text.keras_dataset("imdb")), classes=2, changes=WORDS),
    "reuters": Source(sequences.of_tokens(text.keras_dataset("reuters")), classes=46, changes=WORDS),
    "dates": Source(sequences.of_pairs(translation.dates), metric="exact_match", rows=rows),
    "spoken-digits": Source(
        sequences.of_waves(speech.read, speech.RATE),
        classes=11,
        loss="ctc",
        metric="character_error_rate",
        names=tuple("0123456789"),
    ),
}


def source(name: str, tokenizer: Tokenizer | None = None) -> tuple[str, Source]:
    """A task's canonical name and its source; a path names a folder or a file of data.

    Raises UnknownName, with the nearest names; WrongConfiguration for a tokenizer of a task without texts.
    """
    key, found = _source(name)
    if tokenizer is not None and found.rows is None:
        raise WrongConfiguration(f"tokenizer= was given, but task {key} has no texts; leave tokenizer= out")
    return key, found


def _source(name: str) -> tuple[str, Source]:
    key = str(name).lower().replace("_", "-")
    if key in TASKS:
        return key, TASKS[key]
    if shards.is_one(name):
        stored = shards.find(name)
        return stored.name, of_shards(stored)
    if (file := of_file(Path(name))) is not None:
        return Path(name).name, file
    if folders.is_one(name):
        found = folders.find(name)
        return found.name, Source(found.read, 3, len(found.classes), photographs=True)
    raise UnknownName(
        f"no task {name!r}; {nearest(key, TASKS)}. Or give a pair of arrays (x, y), or the path of a folder "
        "of images or of a .csv, .jsonl, .tsv or .txt file that exists, or the path or URL of shards."
    )


def of_shards(stored: shards.Shards) -> Source:
    """The source in a data set of shards."""
    if stored.kind == "images":
        return Source(
            partial(stored.images, workers=os.cpu_count() or 1), 3, len(stored.classes), names=stored.classes
        )
    if stored.kind == "texts":
        return Source(
            stored.texts, classes=len(stored.classes), changes=LABELS, names=stored.classes, rows=stored.rows
        )
    return Source(stored.tokens, changes=NEXT, rows=stored.rows)


def of_file(path: Path) -> Source | None:
    """The source in a file of texts or pairs or a folder of recordings; None for others, such as images.

    A .csv, .tsv or .txt whose first line names columns "text" and "label" contains labelled texts, a .csv
    with "path" images; any other .tsv contains pairs, any other .txt a text for next-token prediction, its
    last tenth held out. Raises DataUnavailable for any other .csv and for invalid lines.
    """
    ending = path.suffix.lower()
    if speech.transcripts(path) is not None:
        read, letters = sequences.of_recordings(path)
        metric = "character_error_rate"
        return Source(read, classes=len(letters) + 1, loss="ctc", metric=metric, names=letters)
    if not is_file(path):
        return None
    if ending in text.READERS and labelled(path, ending):
        table = text.table(path)
        splits = {"train": table.train, "test": table.test}
        return Source(
            sequences.of_texts(lambda: splits),
            classes=len(table.classes),
            changes=LABELS,
            names=table.classes,
            rows=rows,
        )
    if ending == ".tsv" and not folders.is_one(path):
        pairs = translation.pairs(path)
        return Source(sequences.of_pairs(lambda: pairs), metric="exact_match", rows=rows)
    if ending == ".txt":
        return Source(sequences.of_corpus(lambda: text.parts(text.read(path))), changes=NEXT, rows=rows)
    return None


def labelled(path: Path, ending: str) -> bool:
    """Whether the first line of a table names a column of texts and, except in a .csv, one of labels.

    JSON is taken to have both. Raises DataUnavailable for a .csv that names neither texts nor images, and for
    one of recordings.
    """
    if ending in (".jsonl", ".ndjson"):
        return True
    found = tables.first_line(path, ("text", "label", "path"))
    if {"path", "text"} <= found.columns.keys() and "label" not in found.columns:
        raise DataUnavailable(
            f"{path}: a table of recordings, with columns 'path' and 'text'; rename it to "
            f"transcripts{ending} and give its folder"
        )
    if ending == ".csv" and not found.columns.keys() & {"text", "path"}:
        raise DataUnavailable(
            f"{path}: the first line is {str(found)!r}; expected column names 'text' and 'label' (texts) or "
            "'path' and 'label' (images), separated by commas, semicolons or tabs"
        )
    tabs = ending == ".csv" or (found.separator == "\t" and "label" in found.columns)
    return "text" in found.columns and tabs


def check_errors(task: Any, errors: str) -> None:
    """Raise UnknownName unless `errors` is "stop" or "skip"; WrongConfiguration for "skip" without images."""
    folders.check_errors(errors)
    if errors != "stop" and not (isinstance(task, str) and source(task)[1].photographs):
        raise WrongConfiguration(
            f"errors={errors!r} skips images that cannot be read, but the task is not a folder or table of "
            "images; leave errors= out (zoo shard --skip-bad leaves them out of shards)"
        )


def load(
    name: str,
    shape: Any,
    preprocessing: Preprocessing | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    errors: str = "stop",
) -> Task:
    """Load a task by name or path, its images scaled to a model's input `shape` (h, w, c).

    For sequences the shape is (None, ...); for a model with several inputs, a dict of shapes by name. For
    natural images, `preprocessing` is the model's, and `errors` is as in `folder`. Texts are bytes, or tokens
    of a `tokenizer` (`zoo.tokenizers`). Raises UnknownName, WrongConfiguration if the images cannot have that
    shape or a tokenizer is given without texts, DataUnavailable if the data is neither on this machine nor
    downloadable.
    """
    key, found = source(name, tokenizer)
    check_errors(name, errors)
    if shards.is_one(name):
        read = partial(found.read, preprocessing=preprocessing) if found.rows is None else found.read
        task = replace(found, read=read).task(key, shape, tokenizer)
        return replace(task, source=shards.find(name).source)
    if found.photographs:
        return folder(name, shape, preprocessing=preprocessing, errors=errors)
    return replace(
        found.task(key, shape, tokenizer), source=key if key in TASKS else str(Path(name).resolve())
    )


def folder(
    path: str | Path,
    shape: tuple[int, ...],
    *,
    workers: int | None = None,
    errors: str = "stop",
    augment: AugmentSpec = (),
    preprocessing: Preprocessing | None = None,
) -> Task:
    """Images in a folder with one sub-folder per class, or in a CSV file with a first line "path,label".

    `shape` is a model's input, (size, size, 3), or (size, size, 1) for grey images. A folder's `train` and
    `val` (or `validation`, or `test`) are its splits; without them a fifth of each class is held out, always
    the same images. Files are read as needed, two batches ahead, by `workers` threads (default: one per
    processor), whose number does not change the batches. With `errors` "stop", files that are not images
    raise an error here, and truncated ones when they are read; "skip" reads every file first and leaves out
    the broken ones, with a warning. Both name the files.

    `preprocessing` is by default the whole shorter side, with pixels in [0, 1]; pass a card's for weights
    that were trained with it. Raises DataUnavailable, WrongConfiguration, UnknownName.
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
        source=str(Path(path).resolve()),
    )


def from_arrays(data: Any, *, loss: str | None, validation: Any = None) -> Task:
    """A task from your own arrays: `data` and `validation` are pairs (x, y) of equal length, or streams.

    The default `loss` is "cross_entropy" for integer labels and "mean_squared_error" for others; for soft
    labels (n, classes), the probability of each class, pass "cross_entropy". Raises WrongConfiguration for
    arrays whose shapes do not match.
    """
    given = {"train": data, "test": validation}
    found = {split: each for split, each in given.items() if isinstance(each, Stream)}
    for stream in found.values():
        stream.uses["convert"] = lambda pair, option=stream.option: _pair(option, pair, loss)
    train = data.first if isinstance(data, Stream) else _pair("task", data, loss)
    if isinstance(validation, Stream):
        test = validation.first
    else:
        test = None if validation is None else _pair("validation", validation, loss)
    labels = np.issubdtype(train[1].dtype, np.integer)
    soft = loss == "cross_entropy" and not labels
    if test is not None and shapes(test[0]) != shapes(train[0]):
        raise WrongConfiguration(
            f"validation: examples of shape {shapes(test[0])}; expected {shapes(train[0])} as in training"
        )
    if soft:
        for what, (_, y) in {"task": train, "validation": test or train}.items():
            _check_shares(what, y)
    classes = largest(train[1]) + 1 if labels else train[1].shape[1] if soft else None
    return Task(
        data.name if isinstance(data, Stream) else "arrays",
        train,
        test,
        loss or ("cross_entropy" if labels else "mean_squared_error"),
        "accuracy" if labels or soft else None,
        classes=None if labels and "train" in found else classes,
        streams=found,
    )


def as_stream(option: str, data: Any, steps_per_epoch: int | None = None) -> Any:
    """Data that come in batches as a stream; anything else as it is. Raises what `Stream` raises."""
    is_task = isinstance(data, Task | Stream)
    return Stream(option, data, steps_per_epoch) if not is_task and streams.is_stream(data) else data


def _check_shares(what: str, y: np.ndarray) -> None:
    """Raise WrongConfiguration unless soft labels are (n, classes), each row a distribution."""
    if y.ndim != 2 or y.min() < 0 or np.abs(y.sum(1) - 1).max() > 1e-3:
        raise WrongConfiguration(
            f"{what}: soft labels of shape {y.shape}; expected (n, classes) of probabilities that sum to 1 "
            "for each example, or integers (n,)"
        )


def _pair(name: str, data: Any, loss: str | None) -> Pair:
    if not (isinstance(data, tuple | list) and len(data) == 2):
        raise WrongConfiguration(f"{name}: expected a pair of arrays (x, y), got {type(data).__name__}")
    several = isinstance(data[0], Mapping)
    x = {part: _input(values) for part, values in data[0].items()} if several else _input(data[0])
    y = data[1] if isinstance(data[1], Sequences) else np.asarray(data[1])
    lengths = {len(part) for part in (x.values() if several else [x])}
    if lengths != {len(y)} or not len(y):
        counted = " and ".join(map(str, sorted(lengths)))
        raise WrongConfiguration(
            f"{name}: {counted} examples and {len(y)} labels; expected the same number of both, at least 1"
        )
    if isinstance(y, Sequences):
        return x, y
    if np.issubdtype(y.dtype, np.integer):
        inputs: list[Any] = list(x.values()) if isinstance(x, dict) else [x]
        stepwise = y.ndim == 2 and (
            loss == "ctc" or any(p.shape[1:2] in (y.shape[1:], (None,)) for p in inputs)
        )
        if not (stepwise or y.ndim == 1) or y.min() < (-1 if stepwise else 0):
            raise WrongConfiguration(
                f"{name}: integer labels of shape {y.shape}, smallest {y.min()}; expected (n,), 0 or more, "
                "or (n, length) for every step, with -1 for steps to ignore"
            )
        return x, y.astype(np.int32)
    return x, y.astype(np.float32)


def _input(x: Any) -> Any:
    """An array as models take it, float32 or integers; sequences as they are."""
    if isinstance(x, Sequences):
        return x
    try:
        x = np.asarray(x)
    except ValueError as error:
        raise WrongConfiguration(
            f"x is not one array ({error}); give several inputs as a dict by input name, or as a list to a "
            "functional model"
        ) from None
    return x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
