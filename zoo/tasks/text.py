"""Texts with a label, and a text to go on with.

`languages`    which of 20 languages three names are in (CLDR, which Babel ships)
`corpus`       the reference text of Python's own documentation, which Python ships
`keras_dataset`  imdb and reuters: word ids, downloaded
`table`        a file of one's own, a text and a label a line:

    reviews.csv:    a first line "text,label", then one a line; as spreadsheets write it, see `tables`
    reviews.jsonl:  {"text": "...", "label": "..."} a line

Texts are str; how a model reads them, as bytes or tokens, is not decided here.
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

from zoo import random
from zoo._lazy import keras
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.tasks import tables
from zoo.tasks.images import held_out
from zoo.tasks.tables import lines, ordered, refuse

Labelled = tuple[list[str], np.ndarray]  # texts, labels (n,) int32

# Which language

# As it is called in English -> its locale in CLDR. All but Russian and Ukrainian are in Latin script, so that
# letters alone do not tell; no two are so near as Spanish and Portuguese, which short names leave open.
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
    """Three names of places, languages, months or days, "Griechisch, Mongolei, Juli", to tell the language.

    6,000 texts of at most 64 bytes to learn from and 1,500 held out, 300 and 75 of each of `LANGUAGES`, whose
    places are the labels. Only names that one of the 20 languages alone has; a fifth of them is held out, so
    that no name of `test` is in `train`. The names are CLDR's, the Unicode consortium's, as Babel ships them.
    Raises DataUnavailable without Babel.
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
    """A locale's names without a comma, each by its letters without case.

    Months and days as they stand in dates: Babel's other forms leak from one locale into another
    (github.com/python-babel/babel/issues/1234).
    """
    locale = babel().Locale.parse(code)
    months, days = locale.months["format"]["wide"], locale.days["format"]["wide"]
    found = {*locale.territories.values(), *locale.languages.values(), *months.values(), *days.values()}
    return {name.casefold(): name for name in sorted(found) if "," not in name}


def _triples(names: np.ndarray, rng: np.random.Generator) -> Iterator[str]:
    """Three different names at a time, for ever, those that are not too long."""
    while True:
        text = ", ".join(rng.choice(names, 3, replace=False))
        if len(text.encode()) <= LONGEST:
            yield text


def babel() -> Any:
    """The package, with `babel.dates`; raises DataUnavailable where it is not installed."""
    try:
        import babel.dates
    except ImportError:
        raise DataUnavailable(
            "names and dates of the languages come with Babel, which is not installed. To install it: "
            'pip install "keras-zoo-parity[text]"'
        ) from None
    return babel


# A text to go on with


def corpus() -> dict[str, str]:
    """The reference text of Python's documentation, as `help` shows it: the last tenth is held out.

    465 thousand characters in Python 3.11. It is that of the Python that runs: a release rewords some of it.
    """
    from pydoc_data.topics import topics

    return parts("\n\n".join(topics[name] for name in sorted(topics)))


def parts(text: str) -> dict[str, str]:
    """The first nine tenths to learn from, the last held out."""
    end = len(text) * 9 // 10
    return {"train": text[:end], "test": text[end:]}


def read(path: Path) -> str:
    """A text, see `tables`. Raises DataUnavailable that names the bad lines by number."""
    decoded, bad = lines(path)
    refuse(path, bad)
    return "".join(decoded)


# Data sets of keras.datasets

# Ids are below it: 0 pads, 1 begins a text, 2 is any rarer word, others follow from 4, most frequent first.
WORDS = 20_000


def keras_dataset(name: str) -> Callable[[], dict[str, tuple[list[np.ndarray], np.ndarray]]]:
    """imdb (2 labels) or reuters (46), downloaded on first use and kept where Keras keeps them.

    Loading gives for each split a list of texts, word ids (length,) int32 below `WORDS`, and labels (n,).
    Raises DataUnavailable when it is neither here nor to be had.
    """

    def load() -> dict[str, tuple[list[np.ndarray], np.ndarray]]:
        try:
            train, test = getattr(keras.datasets, name).load_data(num_words=WORDS)
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise DataUnavailable(
                f"{name}: {error}. It is downloaded on first use: connect to the network, or put the file "
                "into ~/.keras/datasets. `corpus` needs no download."
            ) from error
        return {
            split: ([np.array(words, np.int32) for words in texts], np.array(labels, np.int32))
            for split, (texts, labels) in {"train": train, "test": test}.items()
        }

    return load


# A file of one's own


@dataclass(frozen=True)
class Table:
    """A file's texts and labels, places in `classes`; `test` is empty where no class has three examples."""

    name: str
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


def table(path: str | Path, *, text: str = "text", label: str = "label") -> Table:
    """A .csv, .tsv or .txt whose first line names its columns, or a .jsonl or .ndjson with an object a line.

    `text` and `label` name the two columns or keys, in capitals or not; others are left alone, and so are
    blank lines. Columns are separated by commas, semicolons or tabs. A label is a string or, in JSON, an
    integer, without spaces around it; classes are sorted, as numbers if all are. A fifth of each is held out,
    always the same. Raises DataUnavailable that names the bad lines by number, WrongConfiguration for another
    ending.
    """
    path = Path(path)
    if path.suffix.lower() not in READERS:
        raise WrongConfiguration(f"{path}: expected a file that ends in {', '.join(READERS)}")
    decoded, bad = lines(path)
    rows: list[tuple[str, str]] = []
    for number, record in READERS[path.suffix.lower()](decoded, (text, label)):
        if isinstance(record, str):
            bad.setdefault(number, record)
        elif fault := _fault(record, text, label):
            bad.setdefault(number, fault)
        else:
            rows.append((record[text], str(record[label]).strip()))
    refuse(path, bad)
    classes = ordered(called for _, called in rows)
    if len(classes) < 2:
        raise DataUnavailable(
            f"{path}: {len(rows)} texts of {len(classes)} labels ({', '.join(classes)}); expected two labels "
            "or more"
        )
    labels = np.array([classes.index(called) for _, called in rows], np.int32)
    apart = held_out(labels, "table")
    train, test = (([rows[i][0] for i in np.flatnonzero(part)], labels[part]) for part in (~apart, apart))
    return Table(path.name, classes, train, test)


Record = dict[str, Any] | str  # a line's fields by name, or what is wrong with it


def _csv_records(decoded: Sequence[str], wanted: tuple[str, str]) -> Iterator[tuple[int, Record]]:
    """Each record after the first line, with the number of the line it begins in."""
    found = tables.header(decoded, wanted)
    missing = [name for name in wanted if name not in found.columns]
    if missing and found.line:
        lacks = " and no ".join(map(repr, missing))
        yield (
            found.line,
            (
                f"no {lacks}, there are {', '.join(found.names)}; a table of texts has a column 'text' and a "
                "column 'label', or name the two by text= and label="
            ),
        )
    elif not missing:
        yield from tables.records(decoded, found)


def _json_records(decoded: Sequence[str], wanted: tuple[str, str]) -> Iterator[tuple[int, Record]]:
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
        keys = {name: _key(record, name) for name in wanted}
        if missing := [name for name, key in keys.items() if key is None]:
            yield number, f"no {missing[0]!r}, there are {', '.join(record)}"
        else:
            yield number, {**record, **{name: record[key] for name, key in keys.items()}}


def _key(record: Mapping[str, Any], name: str) -> str | None:
    """What a record calls it: as it is, or in other capitals if that is one key alone."""
    alike = [key for key in record if key.casefold() == name.casefold()]
    return name if name in record else alike[0] if len(alike) == 1 else None


READERS = {
    ".csv": _csv_records, ".tsv": _csv_records, ".txt": _csv_records,
    ".jsonl": _json_records, ".ndjson": _json_records,
}  # fmt: skip


def _fault(record: Mapping[str, Any], text: str, label: str) -> str | None:
    """What is wrong with a record, if anything is."""
    written, called = record[text], record[label]
    if not isinstance(written, str) or not written.strip():
        return f"{text!r} is {reprlib.repr(written)}; expected a text"
    if not isinstance(called, str | int) or isinstance(called, bool) or not str(called).strip():
        return f"{label!r} is {reprlib.repr(called)}; expected a string or an integer"
    try:
        f"{written}{called}".encode()
    except UnicodeEncodeError:
        return "half of a surrogate pair, which no UTF-8 holds"
    return None
