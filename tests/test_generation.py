"""Translations: ours against every text there is, and against the model fed with its own words."""

from itertools import product
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from scipy.special import log_softmax

import zoo
from zoo import backends, generation
from zoo._lazy import keras
from zoo.tasks.sequences import BEGIN, END, PADDING

SOURCE = np.array([[3, 4, 5, 0], [6, 4, 3, 5]], np.int32)
VOCABULARY, LONGEST = 7, 4


def translator(seed: int) -> keras.Model:
    """Its head made louder, so that some tokens are likely and some are not."""
    model = zoo.build("seq2seq", width=8, embedding_width=6, vocabulary=VOCABULARY, seed=seed)
    head = model.get_layer("head").kernel
    head.assign(head * 8)
    return model


def likelihoods(model: keras.Model, source: ndarray, written: ndarray) -> ndarray:
    """log p of each written text (k, m), up to its END, by teacher forcing."""
    before = np.concatenate([np.full((len(written), 1), BEGIN), written[:, :-1]], axis=1).astype(np.int32)
    read = np.repeat(source[None], len(written), axis=0)
    inputs = backends.tensors({"token_ids": read, "decoder_token_ids": before})
    log_p = log_softmax(numpy(model(inputs)).astype(np.float64), axis=-1)
    each = np.take_along_axis(log_p, written[..., None].astype(int), axis=-1)[..., 0]
    ended = np.cumsum(written == END, axis=1) - (written == END) > 0
    return np.where(ended, 0, each).sum(1)


def everything() -> ndarray:
    """Every text of up to four tokens, with padding behind END."""
    found = {
        tuple(t if END not in text[:i] else PADDING for i, t in enumerate(text))
        for text in product(range(VOCABULARY), repeat=LONGEST)
    }
    return np.array(sorted(found), np.int32)


@pytest.mark.once
@pytest.mark.parametrize("seed", [0, 1])
def test_a_beam_for_everything_finds_the_likeliest_texts(seed: int) -> None:
    model = translator(seed)
    written, scores = generation.search(model, SOURCE, beams=VOCABULARY**3, max_tokens=LONGEST)
    texts = everything()
    for i in range(2):
        theirs = likelihoods(model, SOURCE[i], texts)
        order = np.argsort(-theirs)
        assert scores[i, :5] == pytest.approx(theirs[order[:5]], abs=1e-4)
        assert np.array_equal(written[i, 0], texts[order[0]])


def test_one_beam_writes_the_likeliest_token_at_every_step() -> None:
    model = translator(0)
    written, scores = generation.search(model, SOURCE, beams=1, max_tokens=8)
    for i in range(2):
        text: list[int] = []
        while len(text) < 8 and END not in text:
            inputs = {
                "token_ids": SOURCE[i : i + 1],
                "decoder_token_ids": np.array([[BEGIN, *text]], np.int32),
            }
            text.append(int(numpy(model(backends.tensors(inputs)))[0, -1].argmax()))
        assert list(written[i, 0, : len(text)]) == text
        assert not written[i, 0, len(text) :].any()
        assert scores[i, 0] == pytest.approx(likelihoods(model, SOURCE[i], written[i, :1])[0], abs=1e-4)


@pytest.mark.once
def test_more_beams_never_find_a_worse_text() -> None:
    one, four = (
        generation.search(translator(3), SOURCE, beams=k, max_tokens=LONGEST)[1][:, 0] for k in (1, 4)
    )
    assert (four >= one - 1e-6).all()


def test_a_text_is_translated_up_to_its_end() -> None:
    model = zoo.build("seq2seq", width=8, embedding_width=6)
    kernel, bias = model.get_layer("head").kernel, model.get_layer("head").bias
    kernel.assign(np.zeros(kernel.shape))
    likely = np.zeros(259)
    likely[ord("a") + 3] = 5
    bias.assign(likely)
    assert zoo.translate(model, ["x", "yz"], max_tokens=3) == ["aaa", "aaa"]
    assert zoo.translate(model, "x", beams=2, max_tokens=2) == ["aa"]
    likely[END] = 9
    bias.assign(likely)
    assert zoo.translate(model, "x") == [""]


@pytest.mark.parametrize(
    ("model", "arguments", "said"),
    [
        ("lstm", {}, "lstm takes .*; expected an encoder-decoder"),
        ("seq2seq", {"beams": 0}, "beams=0; expected an integer, 1 or more"),
        ("seq2seq", {"max_tokens": 1.5}, "max_tokens=1.5; expected an integer, 1 or more"),
    ],
)
def test_what_cannot_be_translated_is_refused(model: str, arguments: dict[str, Any], said: str) -> None:
    built = zoo.build(model, **zoo.card(model).small)
    with pytest.raises(zoo.WrongConfiguration, match=said):
        zoo.translate(built, "x", **arguments)


def test_no_text_is_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="no text; expected at least 1"):
        zoo.translate(translator(0), [])
