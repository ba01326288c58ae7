"""Sequences: padding, buckets and tokens; theirs: Python's own UTF-8, sorting and counting."""

from collections import Counter
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import zoo
from zoo import random, tasks, training
from zoo.augment import HorizontalFlip, Noise, RandomDeletion, parse
from zoo.tasks import sequences
from zoo.tasks.sequences import BEGIN, END, VOCABULARY, Sequences, decode, encode

pytestmark = pytest.mark.once

PAIR = ("token_ids", "decoder_token_ids")
LENGTHS = random.generator("lengths").integers(0, 50, 203)


def some() -> Sequences:
    """Sequence i holds i + 1, over and over."""
    return Sequences([np.full(n, i + 1, np.int32) for i, n in enumerate(LENGTHS)])


@given(st.text())
def test_tokens_are_the_bytes_of_utf_8_and_three_more(text: str) -> None:
    tokens = encode(text)
    assert [t - 3 for t in tokens] == list(text.encode())
    assert decode(tokens) == text
    assert decode([*tokens, END, *encode("more")]) == text
    assert decode([BEGIN, *tokens, 0, 0, 259, 7000]) == text


def test_bytes_that_are_no_utf_8_become_replacement_characters() -> None:
    assert decode([0xFF + 3, ord("a") + 3]) == "�a"


def test_a_batch_is_padded_to_the_first_bound_that_its_longest_fits_in() -> None:
    found = some()
    assert len(found.bounds) == 4
    assert all(bound % 4 == 0 for bound in found.bounds)
    for places in ([0], [1, 2, 3], list(range(203))):
        longest = max(LENGTHS[places])
        x = found[places]
        assert x.shape == (len(places), min(b for b in found.bounds if b >= longest))
        for row, i in zip(x, places, strict=True):
            assert list(row) == [i + 1] * LENGTHS[i] + [0] * (x.shape[1] - LENGTHS[i])
    assert max(LENGTHS) <= found.bounds[-1] < max(LENGTHS) + 4


def test_a_quarter_of_the_sequences_is_in_each_bucket() -> None:
    found = some()
    sizes = Counter(np.searchsorted(found.bounds, LENGTHS))
    assert all(203 / 4 - 20 <= size <= 203 / 4 + 20 for size in sizes.values())


@pytest.mark.parametrize("batch_size", [1, 7, 16, 500])
@pytest.mark.parametrize("shuffled", [False, True])
def test_batches_are_of_one_bucket_and_what_is_left_over_comes_last(batch_size: int, shuffled: bool) -> None:
    found = some()
    rng = random.generator("order") if shuffled else None
    order = found.arrange(np.arange(203)[::-1], batch_size, rng)
    assert sorted(order) == list(range(203))
    buckets = np.searchsorted(found.bounds, LENGTHS)
    whole = sum(n // batch_size for n in Counter(buckets).values())
    for i in range(whole):
        assert len(set(buckets[order[i * batch_size : (i + 1) * batch_size]])) == 1
    rest = Counter(buckets[order[whole * batch_size :]])
    assert all(n < batch_size for n in rest.values())


def task() -> tasks.Task:
    return tasks.from_arrays((some(), np.arange(203) % 2), loss=None)


def test_an_epoch_has_as_many_batches_as_without_buckets_and_every_example_once() -> None:
    batches = list(task().batches(16, 0, 0))
    assert len(batches) == task().steps(16) == -(-203 // 16)
    seen = Counter(int(row[0]) - 1 for x, _ in batches for row in x if row[0])
    assert seen == Counter(i for i, n in enumerate(LENGTHS) if n)
    for x, y in batches:
        assert all(row[0] == 0 or (row[0] - 1) % 2 == label for row, label in zip(x, y, strict=True))


def test_batches_go_on_from_where_a_run_was_cut() -> None:
    whole = islice(task().batches(16, 3, 2), 5, None)
    for (x, y), (u, v) in zip(whole, task().batches(16, 3, 2, first=5), strict=True):
        assert np.array_equal(x, u)
        assert np.array_equal(y, v)


def test_another_epoch_has_other_batches() -> None:
    first, second = (next(task().batches(16, 0, epoch))[1] for epoch in (0, 1))
    assert not np.array_equal(first, second)


def test_a_decoder_sees_each_label_one_step_late() -> None:
    texts = {"train": (["ab", "c"], ["x", "yz"]), "test": ([], [])}
    shapes = {"token_ids": (None,), "decoder_token_ids": (None,)}
    splits = sequences.of_pairs(lambda: texts)(shapes)
    x, y = splits["train"]
    assert splits["test"] is None
    assert x["token_ids"][:].tolist() == [[100, 101, 0, 0], [102, 0, 0, 0]]
    assert x["decoder_token_ids"][:].tolist() == [[BEGIN, 123, 0, 0], [BEGIN, 124, 125, 0]]
    assert y[:].tolist() == [[123, END, -1, -1], [124, 125, END, -1]]


def test_a_language_model_is_asked_for_the_next_token() -> None:
    text = "".join(chr(97 + i % 26) for i in range(300))
    x, y = sequences.of_corpus(lambda: {"train": text, "test": text})((None,))["train"]
    assert x.shape == y.shape == (2, 128)
    assert decode(x[0]) + decode(x[1]) == text[:256]
    assert decode(y[0]) + decode(y[1]) == text[1:257]


def test_no_sequences_are_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="the list is empty; expected at least 1"):
        Sequences([])


def test_a_model_of_images_is_refused() -> None:
    with pytest.raises(
        zoo.WrongConfiguration,
        match=r"consists of texts and needs a model that takes \(None,\); .*\(28, 28, 1\)",
    ):
        sequences.of_texts(dict)((28, 28, 1))


# --- files ---


def test_a_file_of_texts_or_of_pairs_is_a_task(tmp_path: Path) -> None:
    table, pairs = tmp_path / "reviews.csv", tmp_path / "pairs.tsv"
    table.write_text("text,label\n" + "".join(f"text {i},{'good' if i % 2 else 'bad'}\n" for i in range(20)))
    pairs.write_text("".join(f"source {i}\ttarget {i}\n" for i in range(20)))
    found = tasks.load(str(table), (None,))
    assert found.names == ("bad", "good")
    assert (found.classes, len(found.train[0]), len(found.test[0])) == (2, 16, 4)
    translated = tasks.load(str(pairs), {"token_ids": (None,), "decoder_token_ids": (None,)})
    assert translated.metric == "exact_match"
    assert len(translated.train[1]) == 16


# --- augmentation ---


def test_a_text_is_changed_before_it_is_encoded_and_keeps_its_label() -> None:
    texts = [f"{'word ' * 20}{i}" for i in range(8)]
    data = Sequences(texts, encode), np.arange(8, dtype=np.int32)
    changed = tasks.Task("texts", data, None, "cross_entropy", None, augment=parse("RandomDeletion(0.5)"))
    (x, y), (again, _) = (next(changed.batches(8, 0, 0)) for _ in range(2))
    assert np.array_equal(x, again)
    kept = [decode(row).split() for row in x]
    assert 0.3 < np.mean([len(words) / 21 for words in kept]) < 0.7
    for words, label in zip(kept, y, strict=True):
        assert set(words) <= {"word", str(label)}


def test_a_text_is_encoded_once_and_again_only_where_it_was_changed() -> None:
    class Counting(sequences.Bytes):
        encoded: ClassVar[Counter[str]] = Counter()

        def encode(self, text: str) -> np.ndarray:
            self.encoded[text] += 1
            return encode(text)

    texts, labels = ["one", "two", "three", "four"], np.arange(4, dtype=np.int32)
    for load, shape in (
        (sequences.of_texts(lambda: {"train": (texts, labels)}), (None,)),
        (sequences.of_pairs(lambda: {"train": (texts, texts[::-1])}), dict.fromkeys(PAIR, (None,))),
    ):
        tokenizer = Counting()
        tokenizer.encoded.clear()
        x, y = load(shape, tokenizer)["train"]
        per_text = Counter(tokenizer.encoded)
        task = tasks.Task("texts", (x, y), None, "cross_entropy", None)
        for epoch in range(3):
            list(task.batches(2, 0, epoch))
        sequences.extremes(next(iter(x.values())) if isinstance(x, dict) else x)
        assert tokenizer.encoded == per_text
    assert per_text == dict.fromkeys(texts, 2)  # once as a source, once as a target
    words = Sequences(texts, Counting().encode)
    Counting.encoded.clear()
    words.read([0, 1], lambda text, place: text.upper() if place else text)
    assert Counting.encoded == {"TWO": 1}


@pytest.mark.parametrize("transform", [HorizontalFlip(), RandomDeletion(), Noise()])
def test_what_changes_something_else_is_refused(transform: object) -> None:
    with pytest.raises(zoo.WrongConfiguration, match="does not change frames"):
        next(tasks.Task("x", (some(), LENGTHS), None, "", None, augment=(transform,)).batches(4, 0, 0))


class Counting:
    """The bytes of UTF-8, counting the texts that are encoded."""

    name, vocabulary = "counting", VOCABULARY
    begin: int | None = BEGIN
    end: int | None = END
    mask: int | None = None

    def __init__(self) -> None:
        self.count = 0

    def encode(self, text: str) -> np.ndarray:
        self.count += 1
        return encode(text)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_text_is_encoded_once_and_not_at_every_epoch(engine: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text,label\n" + "".join(f"text number {i},{'ab'[i % 2]}\n" for i in range(20)))
    tokenizer = Counting()
    run = zoo.train(
        "lstm", str(file), tokenizer=tokenizer, engine=engine, epochs=3, batch_size=4, progress=False
    )  # fmt: skip
    assert len(run.history) == 3
    assert tokenizer.count == 20
