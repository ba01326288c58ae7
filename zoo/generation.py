"""What an encoder-decoder writes: token after token, each by what it wrote before.

zoo.translate(model, ["24 novembre 2026"])      # ["2026-11-24"]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from zoo import backends, registry
from zoo._lazy import ops
from zoo.errors import WrongConfiguration
from zoo.tasks.sequences import BEGIN, END, PADDING, Sequences, decode, encode

if TYPE_CHECKING:
    import keras

INPUTS = {"token_ids": (None,), "decoder_token_ids": (None,)}


def translate(
    model: keras.Model, texts: str | Sequence[str], *, beams: int = 1, max_tokens: int = 32
) -> list[str]:
    """What the model makes of each text: the likeliest translation that a search with so many beams finds.

    One beam is greedy: the likeliest token at every step. A translation ends at END, or after `max_tokens`,
    and every step computes all of them: one shape, so that nothing is compiled twice. Sutskever et al. 2014,
    arXiv:1409.3215, section 3.2. Raises WrongConfiguration for another kind of model, no text, or numbers
    below 1.
    """
    if registry.input_shapes(model) != INPUTS:
        raise WrongConfiguration(
            f"translate: {model.name} takes {registry.input_shapes(model)}; expected an encoder-decoder, "
            f"which takes {INPUTS}"
        )
    for name, value in {"beams": beams, "max_tokens": max_tokens}.items():
        if not isinstance(value, int) or value < 1:
            raise WrongConfiguration(f"translate: {name}={value!r}; expected an integer, 1 or more")
    source = Sequences([texts] if isinstance(texts, str) else texts, encode)[:]
    written, _ = search(model, source, beams=beams, max_tokens=max_tokens)
    return [decode(tokens) for tokens in written[:, 0]]


def search(
    model: keras.Model, source: np.ndarray, *, beams: int, max_tokens: int
) -> tuple[np.ndarray, np.ndarray]:
    """(b, n) tokens -> what was written (b, beams, max_tokens), the likeliest first, and log p of each."""
    predict = backends.current().predictor(model, backends.MODES[backends.current().NAME][0])
    count = len(source)
    read = backends.tensors(np.repeat(source, beams, axis=0))  # (b beams, n)
    seen = np.full((count * beams, max_tokens + 1), PADDING, np.int32)  # BEGIN, and what was written
    seen[:, 0] = BEGIN
    scores = np.full((count, beams), -np.inf)
    scores[:, 0] = 0  # the beams start out alike: one of them counts
    ended = np.zeros(count * beams, bool)
    for step in range(max_tokens):
        inputs = {"token_ids": read, "decoder_token_ids": backends.tensors(seen[:, :-1].copy())}
        logits = ops.convert_to_numpy(predict(inputs))[:, step].astype(np.float64)  # (b beams, v)
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        log_p[ended] = -np.inf
        log_p[ended, PADDING] = 0  # what has ended goes on with nothing, for certain
        vocabulary = log_p.shape[1]
        total = (scores.reshape(-1, 1) + log_p).reshape(count, -1)  # (b, beams v)
        best = np.argsort(-total, axis=1, kind="stable")[:, :beams]
        scores = np.take_along_axis(total, best, axis=1)
        parents = (best // vocabulary + np.arange(count)[:, None] * beams).ravel()
        tokens = (best % vocabulary).ravel()
        seen, ended = seen[parents], ended[parents] | (tokens == END)
        seen[:, step + 1] = tokens
        if ended.all():
            break
    return seen[:, 1:].reshape(count, beams, max_tokens), scores
