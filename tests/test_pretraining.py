"""What a text teaches without labels: ours against the papers' shares, and the text itself."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import random, tasks, tokenizers
from zoo.layers import signature
from zoo.tasks import baselines, sequences
from zoo.tasks.pretraining import SENTINELS, masked, spans
from zoo.tasks.sequences import BEGIN, END, VOCABULARY
from zoo.training import plan

pytestmark = pytest.mark.once  # the ladder shows the same losses on the others


def text(n: int, seed: int = 0) -> np.ndarray:
    return random.generator("test", seed).integers(3, VOCABULARY, n, dtype=np.int32)


def test_bert_hides_15_of_100_and_shows_some() -> None:
    """Devlin et al. 2018, section 3.1: of those 80 % a mask, 10 % another token, 10 % as they are."""
    tokens = text(40_000)
    seen, targets = masked(tokens, random.generator("mask"))
    asked = targets >= 0
    assert asked.sum() == 6000
    assert np.array_equal(targets[asked], tokens[asked])
    assert np.array_equal(seen[~asked], tokens[~asked])
    hidden, same = (seen[asked] == VOCABULARY).mean(), (seen[asked] == tokens[asked]).mean()
    bound = 4 * np.sqrt(0.25 / 6000)
    assert abs(hidden - 0.8) <= bound
    assert abs(same - (0.1 + 0.1 / VOCABULARY)) <= bound
    other = seen[asked][(seen[asked] != VOCABULARY) & (seen[asked] != tokens[asked])]
    assert 0 <= other.min() < other.max() < VOCABULARY


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 200), st.integers(0, 1000))
def test_what_t5_reads_and_writes_make_up_the_text(n: int, seed: int) -> None:
    """Put each span that is written in place of its sentinel: the text is whole again."""
    tokens = text(n, seed)
    x, target = spans(tokens, random.generator("spans", seed))
    assert target[-1] == x["token_ids"][-1] == END
    assert np.array_equal(x["decoder_token_ids"], [BEGIN, *target[:-1]])
    written: dict[int, list[int]] = {}
    sentinel = -1
    for token in map(int, target[:-1]):
        if token >= VOCABULARY:
            sentinel = token
            written[sentinel] = []
        else:
            written[sentinel].append(token)
    assert list(written) == [VOCABULARY + SENTINELS - 1 - i for i in range(len(written))]
    assert all(written.values())
    whole = [piece for token in x["token_ids"][:-1] for piece in written.get(int(token), [int(token)])]
    assert whole == tokens.tolist()


def test_t5_cuts_out_15_of_100_in_spans_of_three() -> None:
    """Raffel et al. 2019, section 3.1.4."""
    x, target = spans(text(128), random.generator("spans"))
    assert (target < VOCABULARY).sum() - 1 == 19
    assert (target >= VOCABULARY).sum() == 6
    assert len(x["token_ids"]) == 128 - 19 + 6 + 1


@pytest.mark.parametrize("name", ["topics-masked", "topics-spans"])
def test_every_epoch_hides_other_tokens_and_a_seed_the_same(name: str) -> None:
    model = {"topics-masked": "bert-tiny", "topics-spans": "t5-tiny"}[name]
    task = tasks.load(name, signature.input_shapes(zoo.build(model, **zoo.card(model).small)))

    def first(seed: int, epoch: int, start: int = 0) -> bytes:
        return b"".join(y.tobytes() for _, y in [next(task.batches(8, seed, epoch, start))])

    assert first(0, 0) == first(0, 0) != first(0, 1) != first(1, 1)
    later = list(zip(range(3), task.batches(8, 0, 0), strict=False))[2][1][1].tobytes()
    assert first(0, 0, 2) == later  # a resumed run goes on with the same
    held = [next(task.held_out(8))[1].tobytes() for _ in range(2)]
    assert held[0] == held[1]


@pytest.mark.parametrize("kind", ["wordpiece", "bpe"])
def test_a_tokenizers_own_tokens_hide_begin_and_end(kind: str) -> None:
    """[MASK] is WordPiece's; BPE has none, and takes the number behind its last."""
    tokenizer = tokenizers.train(kind, [text_of(2000)], vocabulary=600)
    tokens = tokenizer.encode(text_of(400))
    seen, targets = masked(tokens, random.generator("mask"), tokenizer=tokenizer)
    hidden = 4 if kind == "wordpiece" else tokenizer.vocabulary
    assert ((seen == hidden) & (targets >= 0)).sum() == (seen == hidden).sum() > 0
    x, target = spans(tokens, random.generator("spans"), tokenizer=tokenizer)
    end, begin = (3, 2) if kind == "wordpiece" else (1, 1)
    assert target[-1] == x["token_ids"][-1] == end
    assert x["decoder_token_ids"][0] == begin
    assert target[0] == tokenizer.vocabulary + SENTINELS - 1


def text_of(length: int) -> str:
    return zoo.tasks.text.corpus()["train"][:length]


@pytest.mark.parametrize(
    ("model", "task", "rows"),
    [
        ("gpt-nano", "topics", 1024),
        ("bert-tiny", "topics-masked", 1025),
        ("t5-tiny", "topics-spans", 1024 + SENTINELS),
        ("bert-tiny", "languages", 1024),
        ("t5-tiny", "dates", 1024),
    ],
)
def test_a_task_of_texts_takes_a_tokenizer(model: str, task: str, rows: int) -> None:
    """The model is built for its tokens, and what it reads is what the tokenizer says."""
    tokenizer = tokenizers.default()
    built = zoo.build(model, **plan.task_arguments(zoo.card(model), task, tokenizer=tokenizer))
    tokens = next(tensor for tensor in built.inputs if tensor.name == "token_ids")
    assert signature.vocabulary(built, tokens) == rows
    tokenizer.check(built)
    data = tasks.load(task, signature.input_shapes(built), tokenizer=tokenizer)
    x, y = next(data.batches(4, 0, 0))
    first = x["token_ids"] if isinstance(x, dict) else x
    assert first.max() > 259
    assert np.isfinite(zoo.train(built, (x, y), steps=1, batch_size=4).losses[0])
    assert y.max() < rows


def test_the_next_tokens_of_a_tokenizer_are_those_of_the_text() -> None:
    tokenizer, texts = tokenizers.default(), zoo.tasks.text.corpus()
    data = tasks.load("topics", (None,), tokenizer=tokenizer)
    assert tokenizer.decode(np.concatenate([data.train[0][0], data.train[1][0][-1:]])) in texts["train"]
    assert data.tokens_per_character == len(tokenizer.encode(texts["test"])) / len(texts["test"])


def test_a_tokenizer_where_there_is_no_text_is_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="was given, but task digits has no texts"):
        zoo.train("lenet5", tokenizer="default")
    with pytest.raises(zoo.WrongConfiguration, match="goes with a task by name"):
        zoo.train("gpt-nano", (np.zeros((2, 4), int), np.zeros((2, 4), int)), tokenizer="default")


def test_a_resumed_run_has_the_same_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "run.zoo"
    zoo.train("gpt-nano", tokenizer="default", steps=1, batch_size=4, checkpoint=path)
    with pytest.raises(zoo.WrongConfiguration, match="tokenizer=default, 1024 tokens, not bytes"):
        zoo.train("gpt-nano", steps=2, resume=path)
    assert len(zoo.train("gpt-nano", tokenizer="default", steps=2, resume=path).losses) == 2


@pytest.mark.long
def test_gpt_passes_a_trigram_in_two_epochs_and_a_bit() -> None:
    """The short form: gpt-micro passes the 5-gram, 1.905 bits, in ten epochs (docs/design.md)."""
    run = zoo.train("gpt-micro", tokenizer="default", steps=400)
    texts = zoo.tasks.text.corpus()
    trigram = baselines.witten_bell(texts["train"], texts["test"], order=3)
    assert run.metrics["bits_per_character"] < trigram


def test_packing_puts_texts_behind_each_other() -> None:
    x, y = sequences.pack([np.arange(5), np.arange(10, 17)], 4)
    assert x.tolist() == [[0, 1, 2, 3], [4, 10, 11, 12]]
    assert y.tolist() == [[1, 2, 3, 4], [10, 11, 12, 13]]
    with pytest.raises(zoo.WrongConfiguration, match="the text has 4 tokens; expected more than 4"):
        sequences.pack([np.arange(4)], 4)


def test_a_loss_is_told_in_bits_a_character() -> None:
    """Bits are nats / ln 2; a character outside ASCII is more than a byte."""
    run = zoo.train("gpt-nano", steps=2, batch_size=4)
    held = zoo.tasks.text.corpus()["test"]
    per = len(held.encode()) / len(held)
    assert run.metrics["bits_per_character"] == pytest.approx(run.metrics["loss"] / np.log(2) * per, rel=1e-9)
    assert run.metrics["perplexity"] == pytest.approx(np.exp(run.metrics["loss"]), rel=1e-9)


def test_a_text_file_is_a_task(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_text("All happy families are alike. " * 100)
    task = tasks.load(str(path), (None,))
    assert task.train[0].shape == (2700 // sequences.WINDOW, sequences.WINDOW)
    assert sequences.decode(task.train[0][0]).startswith("All happy families")
    run = zoo.train("gpt-nano", str(path), steps=2, batch_size=4)
    assert run.metrics["bits_per_character"] > 0


def test_the_old_name_of_a_task_s_corruption_warns_and_is_the_same() -> None:
    task = tasks.load("topics-masked", {"token_ids": (None,)})
    with pytest.warns(DeprecationWarning, match=r"Task\.corrupt"):
        assert task.spoil is task.corrupt
