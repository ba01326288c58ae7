"""Labelled texts, and a text for next-token prediction.

`languages`    which of 20 languages three names are in (CLDR, which Babel ships)
`corpus`       the reference text of Python's own documentation, which Python ships
`keras_dataset`  imdb and reuters: word ids, downloaded
`table`        your own file with a text and a label per line:

    reviews.csv:    a first line "text,label", then one example per line; see `tables`
    reviews.jsonl:  one {"text": "...", "label": "..."} per line

Texts are str; the caller decides whether a model reads them as bytes or tokens.
"""

from __future__ import annotations

import json
import reprlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import zoo.tasks.tables as tables
from zoo import random
from zoo._lazy import keras
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.tasks.images import held_out
from zoo.tasks.tables import lines, ordered, refuse

Labelled = tuple[list[str], np.ndarray]  # texts, labels (n,) int32

# Which language

# English name -> locale in CLDR. All but Russian and Ukrainian use Latin script, so letters alone do not
# suffice; no two are as close as Spanish and Portuguese, which short names do not distinguish.
CODES = {
    "Czech": "cs",
    "Danish": "da",
    "Dutch": "nl",
    "English": "en",
    "Finnish": "fi",
    "French": "fr",
    "German": "de",
    "Hungarian": "hu",
    "Icelandic": "is",
    "Italian": "it",
    "Latvian": "lv",
    "Polish": "pl",
    "Romanian": "ro",
    "Russian": "ru",
    "Spanish": "es",
    "Swedish": "sv",
    "Turkish": "tr",
    "Ukrainian": "uk",
    "Vietnamese": "vi",
    "Welsh": "cy",
}
LANGUAGES: tuple[str, ...] = tuple(CODES)
EXAMPLES = {"train": 300, "test": 75}  # of each language
LONGEST = 64  # bytes of an example in UTF-8


def languages() -> dict[str, Labelled]:
    """Three names of countries, languages, months or days, "Griechisch, Mongolei, Juli", in one language.

    6,000 training texts of at most 64 bytes and 1,500 held out, 300 and 75 for each of `LANGUAGES`, whose
    index is the label. Only names that are unique to one of the 20 languages are used; a fifth of them is
    held out, so that no name of `test` is in `train`. The names are those of CLDR (Unicode), which Babel
    ships. Raises DataUnavailable if Babel is not installed.
    """
    named = {language: _names(code) for language, code in CODES.items()}
    owners = Counter(key for names in named.values() for key in names)
    splits: dict[str, Labelled] = {split: ([], np.array([], np.int32)) for split in EXAMPLES}
    for label, (language, names) in enumerate(named.items()):
        own = np.array([name for key, name in names.items() if owners[key] == 1], object)
        own = random.generator("languages", language).permutation(own)
        fifth = round(len(own) / 5)
        for split, part in {"train": own[fifth:], "test": own[:fifth]}.items():
            texts, labels = splits[split]
            count, rng = EXAMPLES[split], random.generator("languages", language, split)
            texts += islice(_triples(part, rng), count)
            splits[split] = texts, np.append(labels, np.full(count, label, np.int32))
    return splits


def _names(code: str) -> dict[str, str]:
    """A locale's names without a comma, by their case-folded form.

    Months and days are in the form used in dates: Babel's other forms leak from one locale into another
    (github.com/python-babel/babel/issues/1234).
    """
    locale = babel().Locale.parse(code)
    months, days = locale.months["format"]["wide"], locale.days["format"]["wide"]
    found = {*locale.territories.values(), *locale.languages.values(), *months.values(), *days.values()}
    return {name.casefold(): name for name in sorted(found) if "," not in name}


def _triples(names: np.ndarray, rng: np.random.Generator) -> Iterator[str]:
    """An endless stream of three different names, joined, that are not too long."""
    while True:
        text = ", ".join(rng.choice(names, 3, replace=False))
        if len(text.encode()) <= LONGEST:
            yield text


def babel() -> Any:
    """The package, with `babel.dates`; raises DataUnavailable if it is not installed."""
    try:
        import babel.dates
    except ImportError:
        raise DataUnavailable(
            "the names and dates of this task come from Babel, which is not installed. To install it: "
            'pip install "keras-zoo-parity[text]"'
        ) from None
    return babel


# A text for next-token prediction


def corpus() -> dict[str, str]:
    """The reference text of Python's documentation, as `help` shows it; the last tenth is held out.

    465 thousand characters in Python 3.11. It is that of the running Python; releases reword parts of it.
    """
    from pydoc_data.topics import topics

    return parts("\n\n".join(topics[name] for name in sorted(topics)))


def parts(text: str) -> dict[str, str]:
    """The first nine tenths for training, the last held out."""
    end = len(text) * 9 // 10
    return {"train": text[:end], "test": text[end:]}


def read(path: Path) -> str:
    """The text of a file, see `tables`. Raises DataUnavailable that names invalid lines by number."""
    decoded, bad = lines(path)
    refuse(path, bad)
    return "".join(decoded)


# Data sets of keras.datasets

# The vocabulary: 0 is padding, 1 starts a text, 2 is any rarer word; others follow from 4, by frequency.
WORDS = 20_000


def keras_dataset(name: str) -> Callable[[], dict[str, tuple[list[np.ndarray], np.ndarray]]]:
    """imdb (2 labels) or reuters (46), downloaded on first use to Keras's cache.

    Loading returns for each split a list of texts, word ids (length,) int32 below `WORDS`, and labels (n,).
    Raises DataUnavailable if it is neither cached nor downloadable.
    """

    def load() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
        try:
            train, test = getattr(keras.datasets, name).load_data(num_words=WORDS)
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise DataUnavailable(
                f"{name}: {error}. It is downloaded on first use: connect to the network, or copy the file "
                "to ~/.keras/datasets. The task languages needs no download."
            ) from error
        return {
            split: ([np.array(words, np.int32) for words in texts], np.array(labels, np.int32))
            for split, (texts, labels) in {"train": train, "test": test}.items()
        }

    return load


# Your own file


@dataclass(frozen=True)
class Table:
    """A file's texts and labels, indices into `classes`; `test` is empty if no class has three examples."""

    name: str
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


def table(
    path: str | Path, *, text: str = "text", label: str = "label", skipped: dict[int, str] | None = None
) -> Table:
    """Read a .csv, .tsv or .txt whose first line names its columns, or a .jsonl or .ndjson of objects.

    `text` and `label` name the two columns or keys, matched without case; other columns and blank lines are
    ignored. Columns are separated by commas, semicolons or tabs. A label is a string or, in JSON, an integer,
    and surrounding spaces are removed; classes are sorted, numerically if all are numbers. A fifth of each is
    held out, always the same examples. Raises DataUnavailable that names the invalid lines by number, unless
    they are to be added to `skipped`; WrongConfiguration for another ending.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise WrongConfiguration(f"{path}: unknown ending; expected {', '.join(READERS)}")
    decoded, bad = lines(path)
    rows: list[tuple[str, str]] = []
    for number, record in READERS[path.suffix.lower()](decoded, (text, label)):
        if isinstance(record, str):
            bad.setdefault(number, record)
        elif fault := _fault(record, text, label):
            bad.setdefault(number, fault)
        else:
            rows.append((record[text], str(record[label]).strip()))
    refuse(path, bad, skipped)
    classes = ordered(called for _, called in rows)
    if len(classes) < 2:
        raise DataUnavailable(
            f"{path}: {len(rows)} texts of {len(classes)} labels ({', '.join(classes)}); expected at least "
            "two labels"
        )
    indices = {called: i for i, called in enumerate(classes)}
    labels = np.array([indices[called] for _, called in rows], np.int32)
    apart = held_out(labels, "table")
    train, test = (([rows[i][0] for i in np.flatnonzero(part)], labels[part]) for part in (~apart, apart))
    return Table(path.name, classes, train, test)


Record = dict[str, Any] | str  # a line's fields by name, or its error


def _csv_records(decoded: Sequence[str], required: tuple[str, str]) -> Iterator[tuple[int, Record]]:
    """Each record after the first line, with the number of its first line."""
    found = tables.header(decoded, required)
    missing = [name for name in required if name not in found.columns]
    if missing and found.line:
        absent = " and no ".join(map(repr, missing))
        yield (
            found.line,
            (
                f"no column {absent}; the columns are {', '.join(found.names)}; expected "
                "'text' and 'label', or the names given as text= and label="
            ),
        )
    elif not missing:
        yield from tables.records(decoded, found)


def _json_records(decoded: Sequence[str], required: tuple[str, str]) -> Iterator[tuple[int, Record]]:
    """Each line that is not blank, with its number."""
    for number, line in enumerate(decoded, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        if not isinstance(record, dict):
            yield number, "expected an object, {...}"
            continue
        keys = {name: _key(record, name) for name in required}
        if missing := [name for name, key in keys.items() if key is None]:
            yield number, f"no key {missing[0]!r}; the keys are {', '.join(record)}"
        else:
            yield number, {**record, **{name: record[key] for name, key in keys.items()}}


def _key(record: Mapping[str, Any], name: str) -> str | None:
    """The record's key of that name: the same, or the only one that differs in case alone."""
    alike = [key for key in record if key.casefold() == name.casefold()]
    return name if name in record else alike[0] if len(alike) == 1 else None


READERS = {
    ".csv": _csv_records, ".tsv": _csv_records, ".txt": _csv_records,
    ".jsonl": _json_records, ".ndjson": _json_records,
}  # fmt: skip


def _fault(record: Mapping[str, Any], text: str, label: str) -> str | None:
    """The error of an invalid record, or None."""
    content, name = record[text], record[label]
    if not isinstance(content, str) or not content.strip():
        return f"{text!r} is {reprlib.repr(content)}; expected a text"
    if not isinstance(name, str | int) or isinstance(name, bool) or not str(name).strip():
        return f"{label!r} is {reprlib.repr(name)}; expected a string or an integer"
    try:
        f"{content}{name}".encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair, which UTF-8 cannot encode"
    return None
