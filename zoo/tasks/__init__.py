"""Data to train on: by name, `zoo.tasks.load("digits", shape)`, arrays of your own, or a folder of images.

A task is NumPy arrays in memory, or images that are read when they are asked for; batches of it are the same
on every framework, see `Task.batches`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo import random
from zoo.augment import Transform, Wanted, batch, parse
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest
from zoo.preprocessing import Preprocessing
from zoo.storage import is_file
from zoo.tasks import folders, images, pretraining, sequences, speech, tables, text, translation
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

Pair = tuple[Any, Any]


@dataclass(frozen=True)
class Task:
    """Examples to learn from and examples held out, with the loss and metric they call for."""

    name: str
    train: Pair  # x (n, ...), in memory or read when sliced, or a dict by input name; y (n,) or (n, ...)
    test: Pair | None
    loss: str  # a name of zoo.training.LOSSES
    metric: str | None  # a name of zoo.training.METRICS
    classes: int | None = None
    names: tuple[str, ...] = ()  # of the classes, where they have any
    augment: tuple[Transform, ...] = ()  # see zoo.augment
    spoil: Callable[..., Any] | None = None  # makes an example of each of x, see zoo.tasks.pretraining
    tokens_per_character: float | None = None  # of a text to go on with: its loss is told in bits, too
    tokenizer: Tokenizer | None = None  # of texts; bytes unless one is given
    source: str = ""  # what `load` takes to have it again: a name, or an absolute path

    def batches(self, batch_size: int, seed: int, epoch: int, first: int = 0) -> Iterator[Pair]:
        """The training examples in the order of this seed and epoch, augmented, from batch `first` on.

        The last batch is what is left. What has to be read or augmented is, two batches ahead of its use.
        """
        x, y = self.train
        rng = random.generator(seed, "order", epoch)
        order = rng.permutation(count(x))
        if (buckets := of_sequences(x)) is not None:
            order = buckets.arrange(order, batch_size, rng)
        starts = range(first * batch_size, len(order), batch_size)
        chosen = (order[start : start + batch_size] for start in starts)
        if self.spoil is not None:
            return (self.spoilt(x, places, seed, "spoil", epoch) for places in chosen)
        if self.augment:
            return folders.ahead(batch(self, places, seed, epoch) for places in chosen)
        pairs = ((take(x, places), y[places]) for places in chosen)
        return folders.ahead(pairs) if isinstance(x, folders.Images) else pairs

    def held_out(self, batch_size: int) -> Iterator[Pair]:
        """The examples held out, batch after batch; sequences of about one length together."""
        x, y = self.test or self.train
        order = np.arange(count(x))
        if (buckets := of_sequences(x)) is not None:
            order = buckets.arrange(order, batch_size, None)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            yield (take(x, places), y[places]) if self.spoil is None else self.spoilt(x, places, "spoil")

    def spoilt(self, x: np.ndarray, places: np.ndarray, *key: int | str) -> Pair:
        """Examples and their labels, made of these windows by draws of this key."""
        assert self.spoil is not None
        made = [self.spoil(x[i], random.generator(*key, int(i))) for i in places]
        inputs, labels = zip(*made, strict=True)
        several = isinstance(inputs[0], dict)
        stacked = {name: np.stack([each[name] for each in inputs]) for name in inputs[0]} if several else None
        return stacked or np.stack(inputs), np.stack(labels)

    def first(self, number: int) -> Any:
        """The first training examples as a model is given them, but for what is augmented."""
        x, places = self.train[0], np.arange(min(number, count(self.train[0])))
        return take(x, places) if self.spoil is None else self.spoilt(x, places, "spoil")[0]

    def steps(self, batch_size: int) -> int:
        """How many batches an epoch has."""
        return -(-count(self.train[0]) // batch_size)


@dataclass(frozen=True)
class Source:
    """Where a named task comes from: `read(shape)` gives its arrays, scaled to a model's input.

    Of texts, whose tokens call for `rows(tokenizer)` of an embedding, it is `read(shape, tokenizer)`.
    """

    read: Callable[..., dict[str, Any]]
    channels: int | None = None
    classes: int | None = None
    side: int | None = None  # of an image, in pixels, where all are as large
    changes: Mapping[str, Any] = field(default_factory=dict)  # arguments of a model that it calls for
    loss: str = "cross_entropy"
    metric: str = "accuracy"
    names: tuple[str, ...] = ()  # of the classes
    photographs: bool = False  # in files, prepared as a model's card says
    rows: Callable[[Tokenizer], int] | None = None

    def task(self, name: str, shape: Any, tokenizer: Tokenizer | None = None) -> Task:
        """The task, for a model that takes examples of this shape."""
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

    def wanted(self, tokenizer: Tokenizer | None = None) -> dict[str, Any]:
        """Arguments of a model that the task calls for, each None where it does not mind."""
        found = {"classes": self.classes, "channels": self.channels, **self.changes}
        return found if self.rows is None else {**found, "vocabulary": self.rows(tokenizer or BYTE_TOKENIZER)}


LABELS = {"head": "classifier"}
WORDS = {"vocabulary": text.WORDS, **LABELS}
NEXT = {"head": "language_model"}
MASKED = {"head": "masked_lm"}


def rows(tokenizer: Tokenizer) -> int:
    """A row for each token of a text."""
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
    """A named task's proper name and its source; a path names a folder or a table of images.

    Raises UnknownName, with the nearest; WrongConfiguration for a tokenizer of a task that has no texts.
    """
    key, found = _source(name)
    if tokenizer is not None and found.rows is None:
        raise WrongConfiguration(f"tokenizer= makes tokens of a task's texts, and {key} has none")
    return key, found


def _source(name: str) -> tuple[str, Source]:
    key = str(name).lower().replace("_", "-")
    if key in TASKS:
        return key, TASKS[key]
    if (file := of_file(Path(name))) is not None:
        return Path(name).name, file
    if folders.is_one(name):
        found = folders.find(name)
        return found.name, Source(found.read, 3, len(found.classes), photographs=True)
    raise UnknownName(
        f"no task {name!r}; {nearest(key, TASKS)}. Or give a pair of arrays (x, y), or the path of a folder "
        "of images, or of a .csv, .jsonl or .tsv, which is not there."
    )


def of_file(path: Path) -> Source | None:
    """What a file of texts or pairs, or a folder of recordings, holds; None for another, which images may be.

    A .csv, .tsv or .txt whose first line names columns "text" and "label" is of labelled texts, a .csv with
    "path" of images; another .tsv is of pairs, another .txt a text to go on with, its last tenth held out.
    Raises DataUnavailable for another .csv and for bad lines.
    """
    ending = path.suffix.lower()
    if speech.transcripts(path) is not None:
        read, letters = sequences.of_recordings(path)
        metric = "character_error_rate"
        return Source(read, classes=len(letters) + 1, loss="ctc", metric=metric, names=letters)
    if not is_file(path):
        return None
    if ending in text.READERS and (ending in (".jsonl", ".ndjson") or _labelled(path, ending)):
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


def _labelled(path: Path, ending: str) -> bool:
    """Whether the first line of a table names a column of texts, and outside of .csv one of labels.

    Raises DataUnavailable for a .csv that names neither texts nor images, and for one of recordings.
    """
    found = tables.first_line(path, ("text", "label", "path"))
    if {"path", "text"} <= found.columns.keys() and "label" not in found.columns:
        raise DataUnavailable(
            f"{path}: a table of recordings, with columns 'path' and 'text'; name it transcripts{ending} and "
            "give its folder"
        )
    if ending == ".csv" and not found.columns.keys() & {"text", "path"}:
        raise DataUnavailable(
            f"{path}: expected a first line that names columns 'text' and 'label', of texts, or 'path' and "
            f"'label', of images, between commas, semicolons or tabs; it begins with {str(found)!r}"
        )
    tabs = ending == ".csv" or (found.separator == "\t" and "label" in found.columns)
    return "text" in found.columns and tabs


def check_errors(task: Any, errors: str) -> None:
    """Raise UnknownName for another than "stop" and "skip"; WrongConfiguration for "skip" without images."""
    folders.check_errors(errors)
    if errors != "stop" and not (isinstance(task, str) and source(task)[1].photographs):
        raise WrongConfiguration(
            f"errors={errors!r} leaves out images that cannot be read; the task is not a folder or table of "
            "images"
        )


def load(
    name: str,
    shape: Any,
    preprocessing: Preprocessing | None = None,
    tokenizer: Tokenizer | None = None,
    *,
    errors: str = "stop",
) -> Task:
    """A task by its name or path, its images scaled to a model's input (h, w, c).

    Sequences fit a model's (None, ...); a model of several inputs has a dict of shapes by name.
    `preprocessing` is a model's, for photographs, see `folder`, as `errors` is; texts are bytes, or tokens of
    a `tokenizer` (`zoo.tokenizers`). Raises UnknownName, WrongConfiguration when the images cannot take that
    shape or there are no texts, DataUnavailable when the data is neither here nor to be had.
    """
    key, found = source(name, tokenizer)
    check_errors(name, errors)
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
        source=str(Path(path).resolve()),
    )


def from_arrays(data: Any, *, loss: str | None, validation: Any = None) -> Task:
    """A task of your own arrays: `data` and `validation` are pairs (x, y) of equal length.

    Without a `loss`, integer labels mean "cross_entropy", anything else "mean_squared_error"; for soft
    labels, (n, classes) shares of each class, ask for "cross_entropy". Raises WrongConfiguration for arrays
    that do not fit together.
    """
    train = _pair("task", data, loss)
    test = None if validation is None else _pair("validation", validation, loss)
    labels = np.issubdtype(train[1].dtype, np.integer)
    soft = loss == "cross_entropy" and not labels
    if test is not None and shapes(test[0]) != shapes(train[0]):
        raise WrongConfiguration(
            f"validation: examples of shape {shapes(test[0])}, the task's are {shapes(train[0])}"
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
        classes=largest(train[1]) + 1 if labels else train[1].shape[1] if soft else None,
    )


def _check_shares(what: str, y: np.ndarray) -> None:
    """Raise WrongConfiguration unless soft labels are (n, classes), each row a distribution."""
    if y.ndim != 2 or y.min() < 0 or np.abs(y.sum(1) - 1).max() > 1e-3:
        raise WrongConfiguration(
            f"{what}: soft labels of shape {y.shape}; expected (n, classes), 0 or more, 1 in all for each "
            "example; or integers (n,)"
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
            f"{name}: {counted} examples and {len(y)} labels; expected as many, at least 1"
        )
    if isinstance(y, Sequences):
        return x, y
    if np.issubdtype(y.dtype, np.integer):
        inputs = x.values() if several else [x]
        stepwise = y.ndim == 2 and (
            loss == "ctc" or any(p.shape[1:2] in (y.shape[1:], (None,)) for p in inputs)
        )
        if not (stepwise or y.ndim == 1) or y.min() < (-1 if stepwise else 0):
            raise WrongConfiguration(
                f"{name}: integer labels of shape {y.shape}, smallest {y.min()}; expected (n,), 0 or more, "
                "or (n, length) for every step, -1 where it does not count"
            )
        return x, y.astype(np.int32)
    return x, y.astype(np.float32)


def _input(x: Any) -> Any:
    """An array as models take it, float32 or integers; sequences as they are."""
    if isinstance(x, Sequences):
        return x
    x = np.asarray(x)
    return x.astype(np.float32) if np.issubdtype(x.dtype, np.floating) else x
