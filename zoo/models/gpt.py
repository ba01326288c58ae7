"""GPT: a decoder trained by next-token prediction.

Radford et al. 2018, "Improving language understanding by generative pre-training", and 2019, "Language models
are unsupervised multitask learners" (GPT-2), with normalization first:

    h_0 = U W_e + W_p
    h' = h + attention(norm(h))      h = h' + mlp(norm(h'))      no token attends to later ones
    P(next) = softmax(norm(h) W_e^T)

Axes: b batch, n tokens, c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.layers import (
    Input,
    TokenModel,
    activate,
    add,
    attention,
    dense,
    dropout,
    intermediate,
    layer_norm,
    learned_positions,
    shared_embedding,
)
from zoo.random import normal
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any


def gpt(
    width: int,
    depth: int,
    heads: int,
    *,
    activation: str = "gelu_tanh",
    tied: bool = True,
    dropout_rate: float = 0.0,
    vocabulary: int = 50_257,
    positions: int = 1024,
) -> keras.Model:
    """Build a decoder that returns the logits of the next token at every position, (b, n, vocabulary).

    Inputs: `token_ids` (b, n) and optionally `padding_mask` (b, n), 1 or 0; padding after a text needs none,
    because no token attends to later ones. `positions` is the maximum length. Unless `tied`, the head has its
    own kernel, as in minGPT; current versions of nanoGPT use the activation "gelu".
    """
    tokens = Input((None,), dtype="int32", name="token_ids")  # (b, n)
    mask = Input((None,), dtype="int32", name="padding_mask", optional=True)  # (b, n)
    table = shared_embedding(vocabulary, width, initializer=normal(0.02), name="token_embedding")
    x = table(tokens)  # (b, n, c)
    x = learned_positions(x, positions, initializer=normal(0.02), name="position_embedding")
    x = dropout(x, dropout_rate, name="dropout")
    for i in range(1, depth + 1):
        x = block(x, mask, heads, depth, activation, dropout_rate, name=f"block{i}")
        x = intermediate(x, f"block{i}")
    x = intermediate(layer_norm(x, name="norm"), "features")  # (b, n, c)
    if tied:
        logits = table.logits(x)  # (b, n, vocabulary)
    else:
        logits = dense(x, vocabulary, use_bias=False, initializer=normal(0.02), name="head")
    return TokenModel({"token_ids": tokens, "padding_mask": mask}, logits)


def block(
    x: Tensor, mask: Tensor, heads: int, depth: int, activation: str, dropout_rate: float, *, name: str
) -> Tensor:
    """(b, n, c) -> (b, n, c)."""
    width, usual = x.shape[-1], normal(0.02)
    last = normal(0.02 / (2 * depth) ** 0.5)  # for layers that add to x (2019, section 2.3)
    parts = {"query": usual, "key": usual, "value": usual, "output": last}
    y = attention(
        layer_norm(x, name=f"{name}_norm1"),
        heads,
        padding_mask=mask,
        causal=True,
        dropout_rate=dropout_rate,
        initializer=parts,
        name=f"{name}_attention",
    )
    x = add(x, dropout(y, dropout_rate, name=f"{name}_dropout1"))
    y = layer_norm(x, name=f"{name}_norm2")
    y = activate(dense(y, 4 * width, initializer=usual, name=f"{name}_mlp1"), activation)  # (b, n, 4c)
    y = dense(y, width, initializer=last, name=f"{name}_mlp2")  # (b, n, c)
    return add(x, dropout(y, dropout_rate, name=f"{name}_dropout2"))


ABOUT = {
    "paper": 'Radford et al. 2019, "Language models are unsupervised multitask learners"',
    "url": "https://cdn.openai.com/better-language-models/"
    "language_models_are_unsupervised_multitask_learners.pdf",
    "year": 2019,
    "idea": "A decoder trained by next-token prediction.",
    "task": "topics",
    "recipe": "gpt",
}
# The sizes of minGPT (github.com/karpathy/minGPT) and of GPT-2's table 2: name, width, depth, heads,
# parameters, multiply-adds of one token.
SIZES = (
    ("gpt-nano", 48, 3, 3, 2_546_400, 2_495_568),
    ("gpt-micro", 128, 4, 4, 7_357_312, 7_220_352),
    ("gpt-mini", 192, 6, 6, 12_515_520, 12_305_856),
    ("gpt2", 768, 12, 12, 124_439_808, 123_550_464),
)
for name, width, depth, heads, parameters, multiply_adds in SIZES:
    register(
        name,
        gpt,
        family="gpt" if name == "gpt-mini" else None,
        parameters=parameters,
        multiply_adds=multiply_adds,
        fixed_input=(None,),
        small={
            "width": 16,
            "depth": 2,
            "heads": 2,
            "dropout_rate": 0.1,
            "vocabulary": 13,
            "positions": 24,
        },
        width=width,
        depth=depth,
        heads=heads,
        about=ABOUT,
    )
