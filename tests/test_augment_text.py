"""Text augmentation: ours against the distributions written out, and properties that hold for any text."""

from __future__ import annotations

import sys
from collections import Counter
from functools import cache
from itertools import pairwise, product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import assert_same_everywhere, numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import stats

import zoo
from zoo import backends, random
from zoo.augment import base
from zoo.augment import text as augment
from zoo.augment.text import (
    BackTranslation,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    TextTransform,
)
from zoo.tasks import sequences

pytestmark = pytest.mark.once

TABLE = {"quick": ["fast", "swift", "in no time"], "dog": ["hound"], "Paris": ["the capital"], "🎬": ["🎥"]}
SENTENCE = " The quick  brown fox\njumps over the lazy\tdog. "


def rng(*key: int | str) -> np.random.Generator:
    return random.generator("test", *key)


def many(transform: TextTransform, text: str, count: int = 4000) -> list[str]:
    """What becomes of it, by as many generators as there are examples."""
    return [transform(text, rng("many", i)) for i in range(count)]


def likely(observed: Counter[Any], expected: dict[Any, float]) -> bool:
    """Whether Pearson's chi-square of these counts is not beyond its 1e-5 upper tail."""
    assert set(observed) <= set(expected)
    total, keys = observed.total(), sorted(expected)
    shares = np.array([expected[key] for key in keys])
    assert shares.sum() == pytest.approx(1)
    test = stats.chisquare([observed[key] for key in keys], total * shares)
    return test.pvalue > 1e-5


def one_of_each(rate: float) -> list[TextTransform]:
    return [
        RandomDeletion(rate),
        RandomSwap(rate),
        SynonymReplacement(rate, TABLE),
        RandomInsertion(rate, TABLE),
    ]


NAMES = ["RandomDeletion", "RandomSwap", "SynonymReplacement", "RandomInsertion"]


# --- properties ---

WORDS = st.lists(
    st.sampled_from([*TABLE, "Quick,", "“dog”", "👩‍👩‍👧 🇫🇷", "e\u0301", "。", "\u200b"]), max_size=8
)
TEXTS = st.one_of(
    st.text(max_size=30), WORDS.map(" ".join), st.text(st.sampled_from(" \t\n\u3000\x1c🎬🇫a.İß"), max_size=20)
)
EXAMPLES = [
    "",
    " ",
    "word",
    " dog ",
    "🎬",
    "🎬 🎬\n🎬",
    "dog\u00a0quick",
    "!",
    "... !!! ???",
    "quick " * 5000,
    "x" * 50_000,
]


@pytest.mark.parametrize("kind", range(4), ids=NAMES)
def test_any_text_keeps_a_word_and_the_whitespace_at_its_ends(kind: int) -> None:
    @settings(max_examples=60, deadline=None)
    @given(TEXTS, st.floats(0, 1), st.integers(0, 99))
    def check(text: str, rate: float, seed: int) -> None:
        changed = one_of_each(rate)[kind](text, rng(seed))
        assert bool(changed.split()) == bool(text.split())
        assert changed[: len(changed) - len(changed.lstrip())] == text[: len(text) - len(text.lstrip())]
        if text.split():
            assert changed[len(changed.rstrip()) :] == text[len(text.rstrip()) :]

    for text in EXAMPLES:
        for rate in (0.0, 0.3, 1.0):
            check = example(text, rate, 0)(check)
    check()


@pytest.mark.parametrize("kind", range(4), ids=NAMES)
@given(text=TEXTS)
def test_at_rate_0_a_text_stays(kind: int, text: str) -> None:
    assert one_of_each(0.0)[kind](text, rng()) == text


@pytest.mark.parametrize("kind", range(4), ids=NAMES)
@given(text=TEXTS, seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_a_change_is_that_of_its_generator(kind: int, text: str, seed: int) -> None:
    transform = one_of_each(0.5)[kind]
    assert transform(text, rng(seed)) == transform(text, rng(seed))


@pytest.mark.parametrize("kind", range(4), ids=NAMES)
def test_examples_are_changed_each_in_its_own_way(kind: int) -> None:
    """The sentence has two words with synonyms, which make eight texts of it."""
    assert len(set(many(one_of_each(0.5)[kind], SENTENCE, 40))) > 4


@given(TEXTS)
def test_split_finds_pythons_words_and_join_undoes_it(text: str) -> None:
    words, spaces = augment.split(text)
    assert words == text.split()
    assert augment.join(words, spaces) == text


@given(TEXTS, st.floats(0, 1), st.integers(0, 99))
def test_swapping_keeps_every_word_and_every_space(text: str, rate: float, seed: int) -> None:
    changed = RandomSwap(rate)(text, rng(seed))
    assert Counter(changed.split()) == Counter(text.split())
    assert augment.split(changed)[1] == augment.split(text)[1]


@given(TEXTS, st.floats(0, 1), st.integers(0, 99))
def test_what_deletion_leaves_is_in_order_and_neighbours_keep_what_lay_between(
    text: str, rate: float, seed: int
) -> None:
    """Words numbered, so that each is known again."""
    words, spaces = augment.split(text)
    changed, gaps = augment.split(
        RandomDeletion(rate)(augment.join([str(i) for i in range(len(words))], spaces), rng(seed))
    )
    kept = list(map(int, changed))
    assert kept == sorted(set(kept))
    for place, (i, j) in enumerate(pairwise(kept), start=1):
        if j == i + 1:
            assert gaps[place] == spaces[j]


@given(TEXTS, st.floats(0, 1), st.integers(0, 99))
def test_insertion_leaves_the_words_in_order_with_synonyms_among_them(
    text: str, rate: float, seed: int
) -> None:
    before, after = text.split(), RandomInsertion(rate, TABLE)(text, rng(seed)).split()
    rest = iter(after)
    assert all(word in rest for word in before)
    new = Counter(after) - Counter(before)
    own = {w for word in before for found in augment.synonyms(word, TABLE)[1] for w in found.split()}
    assert set(new) <= own


# --- rates ---


@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_each_word_is_deleted_at_the_rate_by_itself(rate: float) -> None:
    """All 2^4 outcomes of four words, one of which stays when all would go, each as likely."""
    expected: dict[str, float] = dict.fromkeys("abcd", rate**4 / 4)
    for kept in product([True, False], repeat=4):
        text = " ".join(word for word, stays in zip("abcd", kept, strict=True) if stays)
        if text:
            share = np.prod([1 - rate if stays else rate for stays in kept])
            expected[text] = expected.get(text, 0) + float(share)
    assert likely(Counter(many(RandomDeletion(rate), "a b c d")), expected)


@pytest.mark.parametrize("rate", [0.2, 1.0])
def test_swaps_are_as_their_definition_enumerated(rate: float) -> None:
    """Three places in turn, each exchanged at the rate with either of the others."""
    expected: dict[str, float] = {}
    for choices in product([None, 1, 2], repeat=3):
        words, share = list("abc"), 1.0
        for i, step in enumerate(choices):
            share *= 1 - rate if step is None else rate / 2
            if step is not None:
                j = (i + step) % 3
                words[i], words[j] = words[j], words[i]
        text = " ".join(words)
        expected[text] = expected.get(text, 0) + share
    expected = {text: share for text, share in expected.items() if share}
    assert likely(Counter(many(RandomSwap(rate), "a b c")), expected)


@pytest.mark.parametrize("rate", [0.1, 0.7])
def test_each_word_that_has_synonyms_is_replaced_at_the_rate_by_each_as_often(rate: float) -> None:
    shares = {"quick": 1 - rate, "fast": rate / 3, "swift": rate / 3, "in no time": rate / 3}
    others = {"dog": 1 - rate, "hound": rate}
    expected = {f"{x} fox {y}": shares[x] * others[y] for x, y in product(shares, others)}
    assert likely(Counter(many(SynonymReplacement(rate, TABLE), "quick fox dog")), expected)


@pytest.mark.parametrize("rate", [0.1, 0.6])
def test_as_many_synonyms_are_inserted_as_a_binomial_draws(rate: float) -> None:
    text = "dog a b c d e f g"
    counts = Counter(len(changed.split()) - 8 for changed in many(RandomInsertion(rate, TABLE), text))
    top = min(8, max(counts))
    expected = {k: float(stats.binom.pmf(k, 8, rate)) for k in range(top)}
    expected[top] = float(stats.binom.sf(top - 1, 8, rate))
    assert likely(counts, expected)


def test_a_synonym_is_inserted_in_every_place_as_often() -> None:
    """Of "a dog", when there is one, before, between or after."""
    one = [x for x in many(RandomInsertion(0.5, TABLE), "a dog") if len(x.split()) == 2 + 1]
    assert likely(Counter(one), dict.fromkeys(["hound a dog", "a hound dog", "a dog hound"], 1 / 3))


def test_the_word_whose_synonym_is_inserted_is_any_that_has_one() -> None:
    words = [
        w for x in many(RandomInsertion(0.5, TABLE), "dog 🎬") for w in x.split() if w in ("hound", "🎥")
    ]
    assert likely(Counter(words), {"hound": 0.5, "🎥": 0.5})


# --- synonyms ---


@pytest.mark.parametrize(
    ("word", "becomes"),
    [
        ("dog", "hound"),
        ("dog.", "hound."),
        ("“Dog!”", "“Hound!”"),
        ("¿dog?", "¿hound?"),
        ("DOG", "Hound"),
        ("Paris,", "the capital,"),
        ("🎬", "🎥"),
        ("paris", "paris"),
        ("dogs", "dogs"),
        ("...", "..."),
    ],
)
def test_a_synonym_takes_the_punctuation_and_the_capital_of_its_word(word: str, becomes: str) -> None:
    assert SynonymReplacement(1.0, TABLE)(word, rng()) == becomes


def test_what_is_inserted_stands_between_spaces_and_the_rest_stays() -> None:
    found = {RandomInsertion(1.0, TABLE)("\tdog,\n", rng(i)) for i in range(20)}
    assert found == {"\thound dog,\n", "\tdog, hound\n"}


def test_a_text_of_words_without_synonyms_stays() -> None:
    for transform in (
        SynonymReplacement(1.0, TABLE),
        RandomInsertion(1.0, TABLE),
        RandomInsertion(1.0, {"a": []}),
    ):
        assert transform("b c d", rng()) == "b c d"


class Corpus:
    """As nltk's reader of WordNet answers, for two words."""

    def __init__(self, fails: Exception | None = None):
        self.fails = fails

    def synsets(self, word: str) -> list[SimpleNamespace]:
        if self.fails:
            raise self.fails
        sets = {"dog": [["dog", "domestic_dog", "Canis_familiaris"], ["frump", "dog"], ["Dog", "cad"]]}
        return [SimpleNamespace(lemma_names=lambda names=names: names) for names in sets.get(word, [])]


def install(monkeypatch: pytest.MonkeyPatch, corpus: Any) -> None:
    augment.of_wordnet.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk", SimpleNamespace(corpus=corpus))
    monkeypatch.setitem(sys.modules, "nltk.corpus", corpus and SimpleNamespace(wordnet=corpus))


def test_synonyms_of_wordnet_are_all_other_lemmas_of_the_words_synsets(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, Corpus())
    found = {SynonymReplacement(1.0)("Dog, cat", rng(i)) for i in range(60)}
    assert found == {f"{x}, cat" for x in ("Cad", "Canis familiaris", "Domestic dog", "Frump")}
    augment.of_wordnet.cache_clear()


@pytest.mark.parametrize("kind", [SynonymReplacement, RandomInsertion])
@pytest.mark.parametrize(
    ("corpus", "reason"),
    [
        (None, "nltk is not installed"),
        (Corpus(LookupError("Resource wordnet not found")), "nltk has no data for it"),
    ],
)
def test_without_wordnet_it_says_to_give_a_table(
    monkeypatch: pytest.MonkeyPatch, kind: Any, corpus: Any, reason: str
) -> None:
    install(monkeypatch, corpus)
    with pytest.raises(
        zoo.DataUnavailable, match=rf"WordNet.*{reason}\. Give a table, table=.*nltk\.download"
    ):
        kind(0.1)


# --- back translation ---

ENGLISH = {"dog": "chien", "the": "le", "big": "grand"}
FRENCH = {"chien": "hound", "le": "the", "grand": "large"}


def by_word(table: dict[str, str]) -> Any:
    def translate(text: str) -> str:
        return " ".join(str(table.get(word, word)) for word in text.split())

    return translate


def learnt(table: dict[str, str]) -> Any:
    """A small seq2seq that has learnt these words, as a function of a text."""
    model = zoo.build("seq2seq", width=24, embedding_width=6, seed=1)
    shapes = {"token_ids": (None,), "decoder_token_ids": (None,)}
    pairs = {"train": (list(table), list(table.values()))}
    data = sequences.of_pairs(lambda: pairs)(shapes)["train"]
    zoo.train(model, data, optimizer=zoo.optimizers.Adam(0.03), steps=80, batch_size=8, progress=False)
    return cache(lambda text: zoo.translate(model, text, max_tokens=8)[0])


@pytest.fixture(scope="module")
def translators() -> tuple[Any, Any]:
    return learnt(ENGLISH), learnt(FRENCH)


def test_the_zoos_own_seq2seq_translates_there_and_back(translators: tuple[Any, Any]) -> None:
    transform = BackTranslation(*translators)
    for word, french in ENGLISH.items():
        assert transform(word, rng()) == translators[1](translators[0](word)) == FRENCH[french]


def test_texts_that_seq2seq_translated_back_are_trained_on_with_their_labels(
    translators: tuple[Any, Any],
) -> None:
    """The first loss is that of the words that come back, the same for the same seed."""
    texts = [*ENGLISH] * 2
    labels = np.array([list(ENGLISH).index(text) for text in texts], np.int32)
    run = zoo.train(
        zoo.build("lstm", width=8, embedding_width=6, classes=3, dropout_rate=0.0, seed=1),
        (sequences.Sequences(texts, sequences.encode), labels),
        augment=BackTranslation(*translators),
        label_smoothing=0.0,
        steps=2,
        batch_size=6,
        progress=False,
    )
    (x, y), (again, _) = (next(run.task.batches(6, 0, 0)) for _ in range(2))
    assert [sequences.decode(row) for row in x] == [FRENCH[ENGLISH[list(ENGLISH)[label]]] for label in y]
    assert np.array_equal(x, again)
    first = zoo.build("lstm", width=8, embedding_width=6, classes=3, dropout_rate=0.0, seed=1)
    logits = numpy(first(backends.tensors(x)))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    assert run.losses[0] == pytest.approx(-log_p[np.arange(6), y].mean(), rel=1e-5)


def test_back_translation_goes_there_and_back() -> None:
    assert BackTranslation(by_word(ENGLISH), by_word(FRENCH))("the big dog", rng()) == "the large hound"


@pytest.mark.parametrize("nothing", ["", " \n"])
def test_a_translation_without_a_word_leaves_the_text(nothing: str) -> None:
    assert BackTranslation(str, lambda _: nothing)("the dog", rng()) == "the dog"


def test_a_text_without_a_word_is_not_sent_to_the_translators() -> None:
    def refuse(text: str) -> str:
        raise AssertionError(text)

    assert BackTranslation(refuse, refuse)(" \n", rng()) == " \n"


@pytest.mark.parametrize(("name", "arguments"), [("there", (len, str)), ("back", (str, str.split))])
def test_a_translator_that_gives_no_text_is_named(name: str, arguments: Any) -> None:
    with pytest.raises(
        zoo.WrongConfiguration, match=rf"^BackTranslation: {name} returned (int|list) for a text"
    ):
        BackTranslation(*arguments)("the dog", rng())


# --- arguments, frameworks ---


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (RandomDeletion, (1.1,), r"^RandomDeletion: rate=1\.1; expected a probability"),
        (RandomSwap, (-0.1,), r"^RandomSwap: rate=-0\.1; expected a probability"),
        (RandomSwap, ("often",), "^RandomSwap: rate='often'; expected a probability"),
        (SynonymReplacement, (0.1, ["dog"]), r"^SynonymReplacement: table=.*; expected the synonyms of each"),
        (SynonymReplacement, (0.1, {"dog": "hound"}), "^SynonymReplacement: table="),
        (RandomInsertion, (0.1, {"dog": ["hound", " "]}), "^RandomInsertion: table="),
        (RandomInsertion, (0.1, {"dog": [1]}), "^RandomInsertion: table="),
        (RandomInsertion, (0.1, {1: ["hound"]}), "^RandomInsertion: table="),
        (BackTranslation, ("fr", str), "^BackTranslation: there='fr'; expected a function of a text"),
        (BackTranslation, (str, None), "^BackTranslation: back=None; expected a function of a text"),
    ],
)
def test_what_cannot_be_is_refused_when_it_is_made(kind: Any, arguments: Any, message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        kind(*arguments)


def test_transforms_of_text_leave_the_label() -> None:
    """`zoo.augment.batch` gives labels to a Mix alone."""
    kinds = [*map(type, one_of_each(0.1)), BackTranslation]
    assert not any(issubclass(kind, base.Mix) for kind in kinds)


@pytest.mark.parity
def test_changed_texts_are_the_same_bytes_on_every_framework() -> None:
    code = (
        "import hashlib, keras; from zoo import random; from zoo.augment.text import *\n"
        f"table, text = {TABLE!r}, {SENTENCE!r}\n"
        "d = hashlib.sha256()\n"
        "for i in range(200):\n"
        "    rng, t = random.generator('test', i), text\n"
        "    for kind in (SynonymReplacement, RandomInsertion): t = kind(0.3, table)(t, rng)\n"
        "    for kind in (RandomSwap, RandomDeletion): t = kind(0.3)(t, rng)\n"
        "    d.update(t.encode())\n"
        "print(keras.backend.backend(), d.hexdigest())"
    )
    assert_same_everywhere(code)
