"""Pairs of texts: ours against datetime, CLDR's own patterns, sacrebleu, and BLEU's formula written out."""

from __future__ import annotations

import math
import sys
from collections import Counter, defaultdict
from datetime import date, timedelta
from itertools import islice, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo.tasks import translation

pytestmark = pytest.mark.once

pytest.importorskip("babel")


# --- dates ---


@pytest.fixture(scope="module")
def task() -> dict[str, translation.Translated]:
    return translation.dates()


def test_dates_are_8000_pairs_and_1000_held_out(task: Any) -> None:
    assert {split: (len(x), len(y)) for split, (x, y) in task.items()} == {
        "train": (8000, 8000),
        "test": (1000, 1000),
    }


def test_every_target_is_another_day_in_iso_8601(task: Any) -> None:
    days = [date.fromisoformat(y) for _, targets in task.values() for y in targets]
    assert [day.isoformat() for day in days] == [y for _, targets in task.values() for y in targets]
    assert len(set(days)) == 9000
    assert min(days) >= date(1970, 1, 1)
    assert max(days) <= date(2049, 12, 31)


def test_sources_are_at_most_40_characters_with_plain_spaces(task: Any) -> None:
    sources = [x for sources, _ in task.values() for x in sources]
    assert max(map(len, sources)) <= 40
    assert {c for x in sources for c in x if c.isspace()} == {" "}


def test_days_are_drawn_uniformly(task: Any) -> None:
    """Without replacement: the mean of 8,000 of 29,220 has a deviation of 79 days."""
    days = np.array([date.fromisoformat(y).toordinal() for y in task["train"][1]])
    middle = (date(1970, 1, 1).toordinal() + date(2049, 12, 31).toordinal()) / 2
    assert abs(days.mean() - middle) < 4.5 * 29_220 / math.sqrt(12 * 8000) * math.sqrt(1 - 8000 / 29_220)


# The months' names as grammars give them, of Spanish, German and Polish.
MONTHS = {
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre",
    "pl": "stycznia lutego marca kwietnia maja czerwca "
    "lipca sierpnia września października listopada grudnia",
}


@pytest.mark.parametrize(
    ("locale", "text"), [("de", "{}. {} {}"), ("es", "{} de {} de {}"), ("pl", "{} {} {}")]
)
def test_a_long_date_is_day_month_year(locale: str, text: str) -> None:
    for month, name in enumerate(MONTHS[locale].split(), start=1):
        assert translation.write(date(2026, month, 24), locale, "long") == text.format(24, name, 2026)


@pytest.mark.parametrize(
    ("locale", "form", "text"),
    [
        ("en", "full", "Tuesday, November 24, 2026"),
        ("fr", "yMMMEd", "mar. 24 nov. 2026"),
        ("it", "short", "24/11/26"),
        ("hu", "medium", "2026. nov. 24."),
        ("ja", "long", "2026年11月24日"),
        ("ru", "medium", "24 нояб. 2026 г."),
        ("sv", "yMEd", "tis, 2026-11-24"),
    ],
)
def test_forms_are_as_people_write_them(locale: str, form: str, text: str) -> None:
    """24 November 2026 is a Tuesday."""
    assert (locale, form) in translation.forms()
    assert translation.write(date(2026, 11, 24), locale, form) == text


def test_hands_write_as_it_is_small_or_without_stops_at_words_ends() -> None:
    written = "Di., 24.11.26"
    assert [hand(written) for hand in translation.SPELLINGS] == [written, "di., 24.11.26", "di 24.11.26"]


def meanings(days: list[date], ways: list[tuple[str, str]]) -> dict[str, set[date]]:
    """The days that each text can mean."""
    found: dict[str, set[date]] = defaultdict(set)
    for locale, form in ways:
        for day in days:
            text = translation.write(day, locale, form)
            for hand in translation.SPELLINGS:
                found[hand(text)].add(day)
    return found


# Those whose day, month and year of two digits can stand for each other, and every day of two whole years.
CONFUSABLE = [
    date(year, month, day) for year in range(2001, 2013, 2) for month in range(1, 13) for day in range(1, 13)
]
WHOLE = [date(2027, 1, 1) + timedelta(i) for i in range(731)]


@pytest.mark.parametrize("days", [CONFUSABLE, WHOLE], ids=["confusable", "whole"])
def test_no_form_of_any_locale_writes_two_days_alike(days: list[date]) -> None:
    assert max(map(len, meanings(days, translation.forms()).values())) == 1


@pytest.mark.parametrize("way", [("en", "short"), ("en", "yMd")])
def test_what_is_left_out_would_be_another_day_in_another_locale(way: tuple[str, str]) -> None:
    assert way not in translation.forms()
    assert meanings(WHOLE, [*translation.forms(), way])["9/10/28" if way[1] == "short" else "9/10/2028"] == {
        date(2028, 9, 10),
        date(2028, 10, 9),
    }


def test_two_digits_tell_the_year() -> None:
    """No two days of the whole span have the same day, month and last digits of the year."""
    span = [translation.FIRST, translation.LAST]
    assert span[1] < span[0].replace(year=span[0].year + 100)


def test_every_locale_is_met_as_often_as_it_has_forms(task: Any) -> None:
    """Of 400 sources, within 4.5 deviations; one that several locales write counts for each by its share."""
    forms, observed = translation.forms(), Counter()
    for source, target in islice(zip(*task["train"], strict=True), 400):
        day = date.fromisoformat(target)
        writers = [
            locale
            for (locale, form), hand in product(forms, translation.SPELLINGS)
            if hand(translation.write(day, locale, form)) == source
        ]
        observed.update({locale: count / len(writers) for locale, count in Counter(writers).items()})
    assert sum(observed.values()) == pytest.approx(400)  # every source has a writer
    for locale, count in Counter(locale for locale, _ in forms).items():
        expected = 400 * count / len(forms)
        assert abs(observed[locale] - expected) < 4.5 * math.sqrt(expected)


# --- a file of one's own ---

LINES = [("go", "va"), ("go", "allez"), ("well", "bien"), ("so", "donc"), ("ice", "glace"), ("a b", "c d")]


def written(path: Path, rows: list[tuple[str, ...]]) -> Path:
    path.write_bytes("".join("\t".join(row) + "\n" for row in rows).encode())
    return path


def test_pairs_are_those_of_the_file_each_once(tmp_path: Path) -> None:
    found = translation.pairs(written(tmp_path / "fr.tsv", LINES))
    assert sorted(p for x, y in found.values() for p in zip(x, y, strict=True)) == sorted(LINES)


@pytest.mark.parametrize("count", [2, 5, 50])
def test_a_fifth_of_the_sources_is_held_out_with_all_their_translations(tmp_path: Path, count: int) -> None:
    rows = [(f"source {i % count}", f"target {i}") for i in range(3 * count)]
    found = translation.pairs(written(tmp_path / "a.tsv", rows))
    train, test = (set(found[split][0]) for split in ("train", "test"))
    assert not train & test
    assert len(test) == math.ceil(count / 5)
    assert found == translation.pairs(tmp_path / "a.tsv")
    if count == 50:
        assert test != {f"source {i}" for i in range(40, 50)} != {f"source {i}" for i in range(10)} != test


def test_columns_after_the_second_are_left_alone(tmp_path: Path) -> None:
    rows = [(*pair, f"CC-BY 2.0 #{i}") for i, pair in enumerate(LINES)]
    plain = translation.pairs(written(tmp_path / "a.tsv", LINES))
    assert translation.pairs(written(tmp_path / "b.tsv", rows)) == plain


def test_blank_lines_a_mark_of_byte_order_and_windows_ends_are_no_matter(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_bytes(b"\xef\xbb\xbfgo\tva\r\n\r\nwell\tbien\r\n")
    found = translation.pairs(tmp_path / "a.tsv")
    assert sorted(p for x, y in found.values() for p in zip(x, y, strict=True)) == [
        ("go", "va"),
        ("well", "bien"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"go\tva\nwell\n", "line 2: 1 columns separated by tabs, expected 2"),
        (b"go\nwell\tbien\n", "line 1: 1 columns separated by tabs, expected 2"),
        (b"go\tva\nwell\tbi\ten\n", "line 2: 3 columns separated by tabs, expected 2"),
        (b"go\tva\tx\nwell\tbien\n", "line 2: 2 columns separated by tabs, expected 3"),
        (b"go\tva\n\n\tbien\n", "line 3: text missing before or after the first tab"),
        (b"go\tva\nwell\t \n", "line 2: text missing before or after the first tab"),
        (b"go\tva\n\xe9t\xe9\tsummer\n", "line 2: not UTF-8 at byte 1"),
        (b"go\tva\ngo\tallez\n", "1 different sources; expected two or more"),
        (b"", "0 different sources"),
        (
            b"go\tva\n" + b"so\n" * 9,
            "line 6: 1 columns separated by tabs, expected 2; and 4 more. Nothing was read",
        ),
    ],
)
def test_bad_lines_of_pairs_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(zoo.DataUnavailable) as raised:
        translation.pairs(tmp_path / "a.tsv")
    assert message in str(raised.value)


# --- how well ---

HYPOTHESES = [
    "the cat sat on the mat today",
    "there is a dog in the garden now",
    "he reads books every single day at home",
]
REFERENCES = [
    "the cat sat on the mat",
    "there is a big dog in the garden",
    "she reads books every single day at her home",
]


def grams(words: list[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def papineni(hypotheses: list[str], references: list[str]) -> float:
    """Section 2.3: exp(min(0, 1 - r/c)) times the geometric mean of clipped precisions of 1- to 4-grams."""
    pairs = [(h.split(), r.split()) for h, r in zip(hypotheses, references, strict=True)]
    logs = []
    for n in range(1, 5):
        right = sum((grams(h, n) & grams(r, n)).total() for h, r in pairs)
        logs.append(math.log(right / sum(grams(h, n).total() for h, _ in pairs)))
    c, r = sum(len(h) for h, _ in pairs), sum(len(r) for _, r in pairs)
    return 100 * math.exp(min(0, 1 - r / c) + sum(logs) / 4)


@pytest.mark.parametrize("cut", [None, -1])
def test_bleu_is_papinenis_formula(cut: int | None) -> None:
    """In full, and with each hypothesis a word short, which is punished."""
    pytest.importorskip("sacrebleu")
    hypotheses = [" ".join(h.split()[:cut]) for h in HYPOTHESES]
    assert translation.bleu(hypotheses, REFERENCES) == pytest.approx(
        papineni(hypotheses, REFERENCES), rel=1e-9
    )


def test_bleu_of_the_references_is_100_and_of_other_words_near_0() -> None:
    pytest.importorskip("sacrebleu")
    assert translation.bleu(REFERENCES, REFERENCES) == pytest.approx(100)
    assert translation.bleu(["x y z w v"] * 3, REFERENCES) < 5


def test_exact_match_is_the_share_of_equal_texts() -> None:
    assert translation.exact_match(["a", "b ", "C", "d"], ["a", "b", "c", "d"]) == 0.5
    assert translation.exact_match(["é"], ["e\u0301"]) == 0  # letter for letter, nothing normalized


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), min_size=1))
def test_exact_match_is_numpys_mean_of_equality(pairs: list[tuple[str, str]]) -> None:
    x, y = (np.array(side, object) for side in zip(*pairs, strict=True))
    assert translation.exact_match(list(x), list(y)) == pytest.approx(np.mean(x == y), abs=1e-15)


@pytest.mark.parametrize("measure", [translation.bleu, translation.exact_match])
@pytest.mark.parametrize(
    ("hypotheses", "references", "message"),
    [
        (["a"], ["a", "b"], "^1 hypotheses and 2 references; expected as many of both"),
        ([], [], "^0 hypotheses and 0 references"),
        ("ab", "ab", "^got a single text; expected two lists of texts"),
    ],
)
def test_lists_that_do_not_fit_are_refused(
    measure: Any, hypotheses: Any, references: Any, message: str
) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        measure(hypotheses, references)


def test_without_its_packages_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sacrebleu", "babel", "babel.dates"):
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        zoo.DataUnavailable, match=r'sacrebleu, which is not installed.*pip install ".*\[text\]"'
    ):
        translation.bleu(["a"], ["a"])
    with pytest.raises(zoo.DataUnavailable, match=r'Babel, which is not installed.*pip install ".*\[text\]"'):
        translation.dates()
