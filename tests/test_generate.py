"""What models write: ours against the model itself without a cache, softmax, and every text there is."""

from collections import Counter
from importlib import import_module
from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from scipy.special import log_softmax, softmax

import zoo
from zoo import generation, random
from zoo._lazy import keras
from zoo.tasks.sequences import BEGIN, END, decode, encode

PROMPTS = [np.array([5, 6, 7], np.int32), np.array([1, 2, 3, 4, 5, 9, 8], np.int32)]


def writer(name: str = "gpt-nano", **changes: Any) -> keras.Model:
    """Small, and loud: some tokens are likely and some are not."""
    model = zoo.build(name, **{**zoo.card(name).small, "dropout_rate": 0.0, **changes})
    for v in model.trainable_variables:
        v.assign(numpy(v) + 0.5 * random.generator("test", v.path).standard_normal(v.shape, np.float32))
    return model


def logits(model: keras.Model, prompt: ndarray, written: list[int]) -> ndarray:
    """Of the next token (v,), the whole text read anew.

    A model sees nothing of what comes later: with zeros there, one length, which is compiled once, does.
    """
    translates = "decoder_token_ids" in {x.name for x in model.inputs}
    begun, later = [0] if translates else prompt, [0] * (10 - len(written))
    text = np.array([[*begun, *written, *later]], np.int32)
    x = {"token_ids": prompt[None], "decoder_token_ids": text} if translates else {"token_ids": text}
    return numpy(model(x))[0, len(begun) + len(written) - 1].astype(np.float64)


@pytest.mark.parametrize("name", ["gpt-nano", "t5-tiny"])
def test_a_cache_changes_nothing(name: str) -> None:
    """Prompts of different lengths at once; each token is what the model without a cache draws."""
    model, rules = writer(name), generation.SamplingConfig(1.5, None, None, 1, 1.0, 3, 10)
    found = zoo.generate(model, PROMPTS, 10, temperature=1.5, seed=3)
    for place, (prompt, tokens) in enumerate(zip(PROMPTS, found, strict=True)):
        written: list[int] = []
        for step, token in enumerate(tokens):
            assert token == rules.choose(logits(model, prompt, written), place, step)
            written.append(int(token))
        assert len(set(written)) > 3


def test_a_step_is_compiled_once() -> None:
    """Two shapes, the prompt and a token, for whatever is written; and none more for another prompt."""
    model = writer()
    shapes = []
    inner = generation._decoder(model).step.step
    call = inner.call
    inner.call = lambda inputs, training=False: (shapes.append(inputs["token_ids"].shape), call(inputs))[1]
    zoo.generate(model, PROMPTS[0], 12)
    first = len(shapes)
    zoo.generate(model, PROMPTS[1], 12, seed=1)
    assert first <= 4  # Keras looks at a new model once more
    assert len(shapes) == first


def test_tokens_are_drawn_from_the_softmax() -> None:
    scores = np.array([1.0, 0.0, 2.0, -1.0])
    rules = generation.SamplingConfig(0.7, None, None, 1, 1.0, 3, 1)
    drawn = Counter(rules.choose(scores, place, step) for place in range(40) for step in range(100))
    p = softmax(scores / 0.7)
    for token, share in enumerate(p):
        assert abs(drawn[token] / 4000 - share) <= 4 * np.sqrt(share * (1 - share) / 4000)


@pytest.mark.parametrize(
    ("top_k", "top_p", "allowed"),
    [(2, None, {2, 0}), (None, 0.7, {2, 0}), (None, 0.6, {2}), (3, 0.9, {2, 0}), (9, 1.0, {0, 1, 2, 3})],
)
def test_only_the_likeliest_are_drawn(top_k: int | None, top_p: float | None, allowed: set[int]) -> None:
    """Shares 0.24, 0.09, 0.64, 0.03: the fewest that make up top_p, the one that reaches it among them."""
    scores = np.array([1.0, 0.0, 2.0, -1.0])
    rules = generation.SamplingConfig(1.0, top_k, top_p, 1, 1.0, 0, 1)
    assert {rules.choose(scores, 0, step) for step in range(400)} == allowed


def test_a_penalty_makes_tokens_that_are_there_less_likely() -> None:
    rules = generation.SamplingConfig(0, None, None, 1, 2.0, 0, 1)
    assert rules.penalize(np.array([4.0, -1.0, 3.0]), [0, 1, 1]).tolist() == [2.0, -2.0, 3.0]
    model = writer()
    plain = zoo.generate(model, PROMPTS[0], 12, temperature=0)
    varied = zoo.generate(model, PROMPTS[0], 12, temperature=0, repetition_penalty=1e6)
    assert len(set(varied.tolist())) > len(set(plain.tolist()))


@pytest.mark.once  # the search is ours; that a cache changes nothing is claimed of every framework
@pytest.mark.parametrize("name", ["gpt-nano", "t5-tiny"])
def test_a_beam_for_everything_finds_the_likeliest_text(name: str) -> None:
    """Of all texts of three tokens; without an end all are as long: the mean log p is the sum's third."""
    model = writer(name, vocabulary=7)
    prompt = np.array([1, 4, 2], np.int32)
    found = zoo.generate(model, prompt, 3, beams=49)
    best: dict[tuple[int, ...], float] = {}
    after = {text: log_softmax(logits(model, prompt, list(text)))
             for n in range(3) for text in product(range(7), repeat=n)}  # fmt: skip
    for text in product(range(7), repeat=3):
        best[text] = sum(after[text[:i]][text[i]] for i in range(3))
    likeliest = max(best, key=lambda text: best[text])
    assert best[likeliest] - best[tuple(found.tolist())] <= 1e-4


def test_the_same_seed_writes_the_same_and_another_another() -> None:
    model = writer()
    first, again, other = (zoo.generate(model, PROMPTS[0], 12, seed=s).tolist() for s in (1, 1, 2))
    assert first == again
    assert first != other
    alone = zoo.generate(model, PROMPTS[:1], 12, seed=1)[0].tolist()
    assert alone == first


def bytewise(**changes: Any) -> keras.Model:
    return writer(width=32, vocabulary=259, positions=160, **changes)


def test_texts_are_bytes_unless_said_otherwise() -> None:
    model = bytewise()
    text = zoo.generate(model, "Once upon", 12, seed=4)
    tokens = zoo.generate(model, encode("Once upon"), 12, seed=4)
    end = int(np.argmax(tokens == END)) if (tokens == END).any() else len(tokens)
    assert text == zoo.tokenizers.ByteTokenizer().decode(tokens[:end])


def test_a_tokenizer_may_be_given_as_load_takes_it() -> None:
    model = writer(width=32, vocabulary=1024, positions=160)
    ways = [zoo.generate(model, "The ", 9, tokenizer=x) for x in ("default", zoo.tokenizers.default())]
    assert ways[0] == ways[1]
    assert len(ways[0]) > 9  # pieces, not bytes


def test_a_text_ends_before_a_stop_and_pieces_make_it_up() -> None:
    model = bytewise()
    text = zoo.generate(model, "abc", 100, seed=2)
    stop = text[len(text) // 2 : len(text) // 2 + 2]
    pieces: list[tuple[int, str]] = []
    cut = zoo.generate(
        model, "abc", 100, seed=2, stop=["\N{SNOWMAN}", stop], watch=lambda *p: pieces.append(p)
    )
    assert cut == text[: text.index(stop)]
    assert "".join(piece for _, piece in pieces) == cut
    assert len(pieces) > 5


@pytest.mark.once
def test_what_may_be_the_start_of_a_stop_waits() -> None:
    pieces: list[tuple[int, str]] = []
    stream = generation._Stream(
        zoo.tokenizers.ByteTokenizer(), ["bcdef"], lambda *piece: pieces.append(piece)
    )
    assert not stream(0, encode("abc").tolist(), False)
    assert pieces == []
    assert not stream(0, encode("abcdx").tolist(), False)
    assert stream(0, encode("abcdxbcdef").tolist(), True)
    assert "".join(piece for _, piece in pieces) == "abcdx"


@pytest.mark.once
@pytest.mark.parametrize("beams", [1, 3])
def test_t5_translates_by_writing(beams: int) -> None:
    """The likeliest tokens after each text, as the model without a cache says them."""
    model = writer("t5-tiny", width=16, vocabulary=259)
    texts = ["1 May", "24 novembre 2026"]
    found = zoo.translate(model, texts, beams=beams, max_tokens=6)
    assert found == zoo.generate(model, texts, 6, temperature=0, beams=beams)
    if beams == 1:
        written: list[int] = []
        while len(written) < 6 and END not in written:
            x = {
                "token_ids": encode(texts[0])[None],
                "decoder_token_ids": np.array([[BEGIN, *written]], np.int32),
            }
            written.append(int(numpy(model(x))[0, -1].argmax()))
        assert found[0] == decode(written)


def test_seq2seq_translates_by_a_tokenizer_and_begins_and_ends_as_it_says() -> None:
    tokenizer = zoo.tokenizers.default()
    model = zoo.build("seq2seq", width=8, embedding_width=6, vocabulary=len(tokenizer))
    source = tokenizer.encode("1 May 2026")[None]
    written, _ = generation.search(model, source, beams=1, max_tokens=3, tokenizer=tokenizer)
    x = {"token_ids": source, "decoder_token_ids": np.array([[tokenizer.begin]], np.int32)}
    assert written[0, 0, 0] == numpy(model(x))[0, 0].argmax()
    assert zoo.translate(model, "1 May 2026", max_tokens=3, tokenizer=tokenizer) == [
        tokenizer.decode(written[0, 0])
    ]
    with pytest.raises(zoo.WrongConfiguration, match="vocabulary of 1024, and bytes are 259"):
        zoo.translate(model, "1 May 2026")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"prompt": ""}, "prompt 0 is empty; expected at least 1 token"),
        ({"prompt": []}, "no prompt; expected at least 1"),
        ({"prompt": ["a", ""]}, "prompt 1 is empty"),
        ({"prompt": "a" * 130}, "prompt 0 has 130 tokens and max_tokens=40; gpt-nano has positions for 160"),
        ({"prompt": np.array([5, 259])}, "token_ids has 259; expected 0 to 258"),
        ({"prompt": np.array([0.5])}, "expected a text, or integers"),
        ({"temperature": -0.1}, "temperature=-0.1; expected 0 or more"),
        ({"top_k": 0}, "top_k=0; expected an integer, 1 or more"),
        ({"top_p": 1.5}, "top_p=1.5; expected 0 < top_p <= 1"),
        ({"beams": 0}, "beams=0; expected an integer, 1 or more"),
        ({"beams": 2, "top_k": 3}, "top_k is for drawing tokens, and beams=2 searches"),
        ({"beams": 2, "top_p": 0.5}, "top_p is for drawing tokens"),
        ({"beams": 2, "temperature": 0.7}, "temperature is for drawing tokens"),
        ({"beams": 3, "seed": 1, "top_k": 2}, "seed and top_k is for drawing tokens, and beams=3 searches"),
        ({"beams": 2, "watch": print}, "watch= goes with beams=1"),
        ({"max_tokens": 0}, "max_tokens=0; expected an integer, 1 or more"),
        ({"repetition_penalty": 0}, "repetition_penalty=0; expected above 0"),
        ({"seed": -1}, "seed=-1; expected an integer, 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration) as caught:
        zoo.generate(bytewise(), **{"prompt": "abc", **arguments})
    assert said in str(caught.value)


def test_a_model_that_does_not_write_and_a_vocabulary_of_another_are_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="bert-tiny does not write"):
        zoo.generate(writer("bert-tiny"), "abc")
    with pytest.raises(zoo.WrongConfiguration, match="vocabulary of 900, and bytes are 259"):
        zoo.generate(writer(vocabulary=900), "abc")
    with pytest.raises(zoo.WrongConfiguration, match="13"):
        zoo.generate(writer(), "abc")


# --- transformers' own ---


class Ends:
    """A tokenizer as far as tokens need one: where a text begins and ends."""

    def __init__(self, begin: int | None, end: int):
        self.begin, self.end = begin, end

    def check(self, model: keras.Model) -> None:
        """Any will do."""


@pytest.mark.once  # on every framework it is the same text (tests/test_parity.py)
@pytest.mark.peers
@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("penalty", [1.0, 1.7])
@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_a_text_is_the_one_transformers_writes(family: str, penalty: float, beams: int) -> None:
    """Greedy and beam search on the same weights, prompts of different lengths one by one, with an end."""
    torch = import_module("torch")
    import_module("zoo.benchmarks.references.vision_torch")  # before torchvision, which transformers loads
    hf = import_module("transformers")
    torch.manual_seed(0)
    size = {"vocab_size": 41, "bos_token_id": 0, "pad_token_id": 0}
    if family == "gpt2":
        config = hf.GPT2Config(n_embd=32, n_layer=2, n_head=2, n_positions=64, **size)
        theirs = hf.GPT2LMHeadModel(config).eval()
        ours = zoo.build("gpt-nano", width=32, depth=2, heads=2, vocabulary=41, positions=64)
    else:
        config = hf.T5Config(
            d_model=32, d_ff=48, d_kv=8, num_layers=2, num_heads=2, decoder_start_token_id=0, **size
        )
        theirs = hf.T5ForConditionalGeneration(config).eval()
        shape = {"width": 32, "depth": 2, "heads": 2, "head_width": 8, "mlp_width": 48, "vocabulary": 41}
        ours = zoo.build("t5-tiny", **shape)
    with torch.no_grad():
        for weight in theirs.parameters():
            weight += 0.3 * torch.randn_like(weight)
    zoo.weights.from_torch(ours, theirs.state_dict())
    prompts = [random.generator("prompt", n).integers(2, 41, n, dtype=np.int32) for n in range(3, 9)]
    end = int(zoo.generate(ours, prompts[0], 6, temperature=0)[-1])  # one that is written
    how: dict[str, Any] = {"repetition_penalty": penalty}
    ended = 0
    for prompt in prompts:
        tokens = torch.tensor(prompt[None].astype(np.int64))
        given = {"attention_mask": torch.ones_like(tokens), "max_new_tokens": 12, "do_sample": False}
        expected = theirs.generate(tokens, num_beams=beams, eos_token_id=end, **given, **how)[0].tolist()
        expected = expected[len(prompt) :] if family == "gpt2" else expected[1:]
        ended += end in expected
        expected = expected[: expected.index(end)] if end in expected else expected
        tokenizer: Any = Ends(0, end)
        temperature = 0 if beams == 1 else 1.0
        found = zoo.generate(
            ours, prompt, 12, temperature=temperature, beams=beams, tokenizer=tokenizer, **how
        )
        assert found.tolist() == expected
    assert ended
