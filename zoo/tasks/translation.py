"""Pairs of texts, and metrics of translations.

`dates`   dates as people write them in ten locales -> ISO 8601 (CLDR, which Babel ships)
`pairs`   your own file: a text, a tab and its translation per line
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from itertools import product
from pathlib import Path

from zoo import random
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.tasks.tables import lines, refuse
from zoo.tasks.text import babel

Translated = tuple[list[str], list[str]]  # sources, targets

# Dates

LOCALES = ("de", "en", "es", "fr", "hu", "it", "ja", "pl", "ru", "sv")
LENGTHS = ("short", "medium", "long", "full")  # CLDR's four
SKELETONS = ("yMd", "yMEd", "yMMMd", "yMMMEd")  # numbers or a short month, without and with a weekday
LEFT_OUT = {
    # 9/10/26 and 9/10/2026: the other locales with slashes and a final year start with the day.
    ("en", "short"),
    ("en", "yMd"),
    # Its weekday has one of the forms that leak from one locale into another (python-babel/babel#1234).
    ("ru", "yMEd"),
}
FIRST, LAST = date(1970, 1, 1), date(2049, 12, 31)  # less than a century: two digits determine the year
COUNTS = {"train": 8000, "test": 1000}


def dates() -> dict[str, Translated]:
    """Dates as people write them, "mar. 24 nov. 2026", to ISO 8601, "2026-11-24".

    8,000 for training and 1,000 held out, all different days from 1970 to 2049. Sources have at most 40
    characters, in ten locales and CLDR's date formats, unchanged, in lower case, or in lower case without
    full stops and commas. No source is ambiguous. Raises DataUnavailable if Babel is not installed.
    """
    rng = random.generator("dates")
    days = rng.permutation((LAST - FIRST).days + 1)[: sum(COUNTS.values())]
    styles = list(product(forms(), SPELLINGS))
    pairs = []
    for day, style in zip(days, rng.integers(len(styles), size=len(days)), strict=True):
        (locale, form), spelling = styles[style]
        when = FIRST + timedelta(int(day))
        pairs.append((spelling(write(when, locale, form)), when.isoformat()))
    end = COUNTS["train"]
    return {"train": _apart(pairs[:end]), "test": _apart(pairs[end:])}


def forms() -> list[tuple[str, str]]:
    """Each locale with each date format, except `LEFT_OUT`."""
    return [form for form in product(LOCALES, LENGTHS + SKELETONS) if form not in LEFT_OUT]


def write(when: date, locale: str, form: str) -> str:
    """A date in a format of `LENGTHS` or `SKELETONS`; narrow spaces become ordinary ones."""
    formats = babel().dates
    if form in LENGTHS:
        text = formats.format_date(when, form, locale=locale)
    else:
        text = formats.format_skeleton(form, when, locale=locale)
    return re.sub(r"\s", " ", text)


def _without_stops(text: str) -> str:
    """Lower case, without full stops and commas at the ends of words."""
    return re.sub(r"[.,]+(?= |$)", "", text.lower())


SPELLINGS: tuple[Callable[[str], str], ...] = (str, str.lower, _without_stops)


# Your own file


def pairs(path: str | Path) -> dict[str, Translated]:
    """Read a text, a tab and its translation per line, see `tables.lines`; blank lines are skipped.

    Every line has as many columns as the first; those after the second are ignored (Tatoeba's sentence pairs
    have their source there). A fifth of the sources is held out with all their translations, always the same
    ones. Raises DataUnavailable that names the invalid lines by number.
    """
    path = Path(path)
    decoded, bad = lines(path)
    split = {
        number: line.rstrip("\r\n").split("\t") for number, line in enumerate(decoded, 1) if line.strip()
    }
    columns = max(2, len(next(iter(split.values()), [])))
    for number, fields in split.items():
        if len(fields) != columns:
            bad.setdefault(number, f"{len(fields)} columns separated by tabs, expected {columns}")
        elif not (fields[0].strip() and fields[1].strip()):
            bad.setdefault(number, "text missing before or after the first tab")
    refuse(path, bad)
    sources = sorted({fields[0] for fields in split.values()})
    if len(sources) < 2:
        raise DataUnavailable(
            f"{path}: {len(sources)} different sources; expected two or more, as some are held out"
        )
    order = random.generator("pairs").permutation(len(sources))
    apart = {sources[i] for i in order[: -(-len(sources) // 5)]}
    found = [(fields[0], fields[1]) for fields in split.values()]
    return {
        "train": _apart([pair for pair in found if pair[0] not in apart]),
        "test": _apart([pair for pair in found if pair[0] in apart]),
    }


def _apart(pairs: Sequence[tuple[str, str]]) -> Translated:
    return [source for source, _ in pairs], [target for _, target in pairs]


# Metrics


def bleu(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU with one reference per hypothesis, 0 to 100 (Papineni et al. 2002, ACL).

    Tokenization and smoothing are sacrebleu's defaults, "13a" and "exp" (Post 2018, arXiv:1804.08771). Raises
    WrongConfiguration for empty lists or different lengths, DataUnavailable if sacrebleu is not installed.
    """
    _check(hypotheses, references)
    try:
        import sacrebleu
    except ImportError:
        raise DataUnavailable(
            "BLEU is computed by sacrebleu, which is not installed. To install it: "
            'pip install "keras-zoo-parity[text]"'
        ) from None
    return sacrebleu.corpus_bleu(list(hypotheses), [list(references)]).score


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The fraction of hypotheses that equal their references exactly, 0 to 1.

    Raises WrongConfiguration for empty lists or different lengths.
    """
    _check(hypotheses, references)
    return sum(map(str.__eq__, hypotheses, references)) / len(hypotheses)


def _check(hypotheses: Sequence[str], references: Sequence[str]) -> None:
    if isinstance(hypotheses, str) or isinstance(references, str):
        raise WrongConfiguration("got a single text; expected two lists of texts, hypotheses and references")
    if len(hypotheses) != len(references) or not len(hypotheses):
        raise WrongConfiguration(
            f"{len(hypotheses)} hypotheses and {len(references)} references; expected as many of both, at "
            "least 1"
        )
