"""BERT: a bidirectional encoder, pretrained by predicting masked tokens.

Devlin et al. 2018, "BERT: Pre-training of deep bidirectional transformers for language understanding",
arXiv:1810.04805; the smaller models are those of Turc et al. 2019, arXiv:1908.08962.

    h_0 = norm(tokens + positions + segments)
    h' = norm(h + attention(h))      h = norm(h' + mlp(h'))
    pooled = tanh(h[first token] W + b)

Axes: b batch, n tokens, c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.errors import WrongConfiguration, nearest
from zoo.layers import (
    Input,
    TokenModel,
    add,
    attention,
    dense,
    dropout,
    gelu,
    intermediate,
    layer_norm,
    learned_positions,
    parameter,
    segments,
    shared_embedding,
    tanh,
)
from zoo.random import truncated_normal
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any

HEADS = ("encoder", "masked_lm", "next_sentence", "pretraining", "classifier", "tagger", "span")
INITIAL = truncated_normal(0.02)
EPSILON = 1e-12


def bert(
    width: int,
    depth: int,
    heads: int,
    *,
    head: str = "encoder",
    dropout_rate: float = 0.0,
    vocabulary: int = 30_522,
    positions: int = 512,
    classes: int = 2,
) -> keras.Model:
    """Build an encoder with a `head`.

    "encoder" returns {"sequence": (b, n, c), "pooled": (b, c)}, "masked_lm" the logits of every token (b, n,
    vocabulary) from the tied embedding, "next_sentence" whether the second segment follows the first (b, 2),
    "pretraining" the last two by name, "classifier" (b, classes), "tagger" (b, n, classes), and "span" the
    logits of an answer's first and last token (b, n, 2). Inputs: `token_ids` (b, n), and optionally
    `padding_mask` (b, n), 1 or 0, and `segment_ids` (b, n), 0 or 1. Raises WrongConfiguration for another
    head.
    """
    if head not in HEADS:
        raise WrongConfiguration(f"bert: head={head!r}; {nearest(head, HEADS)}")
    inputs = {
        name: Input((None,), dtype="int32", name=name, optional=name != "token_ids")
        for name in ("token_ids", "padding_mask", "segment_ids")
    }  # (b, n) each
    table = shared_embedding(vocabulary, width, initializer=INITIAL, name="token_embedding")
    x = table(inputs["token_ids"])  # (b, n, c)
    x = learned_positions(x, positions, initializer=INITIAL, name="position_embedding")
    x = segments(x, inputs["segment_ids"], initializer=INITIAL, name="segment_embedding")
    x = dropout(norm(x, name="embedding_norm"), dropout_rate, name="dropout")
    for i in range(1, depth + 1):
        x = block(x, inputs["padding_mask"], heads, dropout_rate, name=f"block{i}")
        x = intermediate(x, f"block{i}")
    x = intermediate(x, "features")  # (b, n, c)

    def pooled() -> Tensor:
        return tanh(project(x[:, 0], width, name="pooler"))  # (b, c)

    def masked_lm() -> Tensor:
        y = norm(gelu(project(x, width, name="masked_lm")), name="masked_lm_norm")  # (b, n, c)
        shift = parameter(y, (vocabulary,), name="masked_lm_bias")
        return table.logits(y, shift)  # (b, n, vocabulary)

    def next_sentence() -> Tensor:
        return project(pooled(), 2, name="next_sentence")  # (b, 2)

    outputs = {
        "encoder": lambda: {"sequence": x, "pooled": pooled()},
        "masked_lm": masked_lm,
        "next_sentence": next_sentence,
        "pretraining": lambda: {"masked_lm": masked_lm(), "next_sentence": next_sentence()},
        "classifier": lambda: project(dropout(pooled(), dropout_rate, name="head_dropout"), classes, "head"),
        "tagger": lambda: project(dropout(x, dropout_rate, name="head_dropout"), classes, "head"),
        "span": lambda: intermediate(project(x, 2, name="head"), "span"),
    }[head]()
    return TokenModel(inputs, outputs)


def block(x: Tensor, mask: Tensor, heads: int, dropout_rate: float, *, name: str) -> Tensor:
    """(b, n, c) -> (b, n, c)."""
    y = attention(
        x,
        heads,
        padding_mask=mask,
        dropout_rate=dropout_rate,
        initializer=INITIAL,
        name=f"{name}_attention",
    )
    x = norm(add(x, dropout(y, dropout_rate, name=f"{name}_dropout1")), name=f"{name}_norm1")
    y = gelu(project(x, 4 * x.shape[-1], name=f"{name}_mlp1"))  # (b, n, 4c)
    y = dropout(project(y, x.shape[-1], name=f"{name}_mlp2"), dropout_rate, name=f"{name}_dropout2")
    return norm(add(x, y), name=f"{name}_norm2")


def project(x: Tensor, units: int, name: str) -> Tensor:
    """(..., c) -> (..., units)."""
    return dense(x, units, initializer=INITIAL, name=name)


def norm(x: Tensor, *, name: str) -> Tensor:
    """(..., c) -> (..., c)."""
    return layer_norm(x, epsilon=EPSILON, name=name)


ABOUT = {
    "paper": 'Devlin et al. 2018, "BERT: Pre-training of deep bidirectional transformers for '
    'language understanding"',
    "url": "https://arxiv.org/abs/1810.04805",
    "year": 2018,
    "idea": "A bidirectional encoder, pretrained by predicting masked tokens.",
    "task": "topics-masked",
    "recipe": "bert",
}
# Turc et al. 2019, table 1: name, width, depth (heads are width / 64), parameters of encoder and pooler, and
# multiply-adds of one token.
SIZES = (
    ("bert-tiny", 128, 2, 4_385_920, 410_112),
    ("bert-mini", 256, 4, 11_170_560, 3_213_312),
    ("bert-small", 512, 4, 28_763_648, 12_849_152),
    ("bert-medium", 512, 8, 41_373_184, 25_436_160),
    ("bert-base", 768, 12, 109_482_240, 85_542_912),
)
for name, width, depth, parameters, multiply_adds in SIZES:
    register(
        name,
        bert,
        family="bert" if name == "bert-tiny" else None,
        parameters=parameters,
        multiply_adds=multiply_adds,
        fixed_input=(None,),
        small={
            "width": 16,
            "depth": 2,
            "heads": 2,
            "head": "masked_lm",
            "dropout_rate": 0.1,
            "vocabulary": 13,
            "positions": 24,
        },
        width=width,
        depth=depth,
        heads=width // 64,
        about=ABOUT,
    )
