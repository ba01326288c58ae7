"""T5: an encoder-decoder that treats every task as text-to-text.

Raffel et al. 2019, "Exploring the limits of transfer learning with a unified text-to-text transformer",
arXiv:1910.10683. Normalization without mean or bias comes first, scores are not scaled, and attention has a
learned bias for each relative distance (section 2.1):

    h' = h + attention(norm(h))      h = h' + mlp(norm(h'))      scores q k^T + r[distance]
    decoder: h' = h + attention(norm(h)), then + attention(norm(h'), the encoder's), then + mlp

Version 1.1 (Shazeer 2020, "GLU variants improve transformer", arXiv:2002.05202) has a gated mlp and its
own head. Axes: b batch, n input tokens, m output tokens, c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.layers import (
    Input,
    TokenModel,
    add,
    attention,
    dense,
    dropout,
    gelu_tanh,
    intermediate,
    relative_positions,
    relu,
    rms_norm,
    shared_embedding,
)
from zoo.random import normal, standard_normal
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any


def t5(
    width: int,
    depth: int,
    heads: int,
    *,
    head_width: int = 64,
    mlp_width: int = 2048,
    gated: bool = False,
    tied: bool = True,
    dropout_rate: float = 0.0,
    vocabulary: int = 32_128,
    buckets: int = 32,
) -> keras.Model:
    """Build an encoder and a decoder that returns the logits of the next output token, (b, m, vocabulary).

    Inputs: `token_ids` (b, n), the input text, and `decoder_token_ids` (b, m), the output up to the previous
    token, starting with token 0; optionally `padding_mask` and `decoder_padding_mask`, 1 or 0. With `gated`
    the mlp is version 1.1's; unless `tied` the head has its own kernel.
    """
    inputs = {
        name: Input((None,), dtype="int32", name=name, optional=name.endswith("mask"))
        for name in ("token_ids", "decoder_token_ids", "padding_mask", "decoder_padding_mask")
    }  # (b, n) or (b, m) each
    table = shared_embedding(vocabulary, width, initializer=standard_normal, name="token_embedding")

    def attend(x: Tensor, name: str, **options: Any) -> Tensor:
        """x + attention(norm(x)); kernels initialized as in Mesh TensorFlow, for unscaled scores."""
        inner = heads * head_width
        given, wide = normal(width**-0.5), normal((width * head_width) ** -0.5)
        parts = {"query": wide, "key": given, "value": given, "output": normal(inner**-0.5)}
        y = attention(
            rms_norm(x, name=f"{name}_norm"),
            heads,
            scaled=False,
            width=inner,
            use_bias=False,
            dropout_rate=dropout_rate,
            initializer=parts,
            name=name,
            **options,
        )
        return add(x, dropout(y, dropout_rate, name=f"{name}_dropout"))

    def mlp(x: Tensor, name: str) -> Tensor:
        """x + mlp(norm(x))."""
        y, into = rms_norm(x, name=f"{name}_norm"), normal(width**-0.5)
        if gated:
            gate = gelu_tanh(dense(y, mlp_width, use_bias=False, initializer=into, name=f"{name}_gate"))
            y = gate * dense(y, mlp_width, use_bias=False, initializer=into, name=f"{name}_in")
        else:
            y = relu(dense(y, mlp_width, use_bias=False, initializer=into, name=f"{name}_in"))
        y = dropout(y, dropout_rate, name=f"{name}_dropout1")  # (b, n, 4c)
        y = dense(y, width, use_bias=False, initializer=normal(mlp_width**-0.5), name=f"{name}_out")
        return add(x, dropout(y, dropout_rate, name=f"{name}_dropout2"))

    def stack(tokens: Tensor, mask: Tensor, kind: str, memory: Tensor | None = None) -> Tensor:
        """(b, n) -> (b, n, c): the encoder, or, given the encoder's output as `memory`, the decoder."""
        x = dropout(table(tokens), dropout_rate, name=f"{kind}_dropout")
        causal = memory is not None
        near = relative_positions(
            x,
            heads,
            causal=causal,
            buckets=buckets,
            initializer=normal(width**-0.5),
            name=f"{kind}_positions",
        )  # (1, heads, n, n)
        for i in range(1, depth + 1):
            name = f"{kind}_block{i}"
            x = attend(x, f"{name}_attention", padding_mask=mask, bias=near, causal=causal)
            if memory is not None:
                x = attend(x, f"{name}_memory", memory=memory, padding_mask=inputs["padding_mask"])
            x = intermediate(mlp(x, f"{name}_mlp"), name)
        return dropout(rms_norm(x, name=f"{kind}_norm"), dropout_rate, name=f"{kind}_norm_dropout")

    memory = intermediate(
        stack(inputs["token_ids"], inputs["padding_mask"], "encoder"), "memory"
    )  # (b, n, c)
    x = stack(inputs["decoder_token_ids"], inputs["decoder_padding_mask"], "decoder", memory)
    x = intermediate(x, "features")  # (b, m, c)
    if tied:
        return TokenModel(inputs, table.logits(x * width**-0.5))  # (b, m, vocabulary)
    return TokenModel(inputs, dense(x, vocabulary, use_bias=False, initializer=standard_normal, name="head"))


# Raffel et al. 2019, section 3.1.1, Tay et al. 2021 (arXiv:2109.10686) for the smaller two, and version 1.1:
# name, width, depth of each stack, heads, mlp width, whether 1.1, parameters, multiply-adds of one input
# token and one output token.
SIZES = (
    ("t5-tiny", 256, 4, 4, 1024, False, 15_570_688, 15_570_944),
    ("t5-mini", 384, 4, 8, 1536, False, 31_220_480, 31_223_808),
    ("t5-small", 512, 6, 8, 2048, False, 60_506_624, 60_508_160),
    ("t5-v1.1-small", 512, 8, 6, 1024, True, 76_961_152, 60_508_160),
)
for name, width, depth, heads, mlp_width, newer, parameters, multiply_adds in SIZES:
    register(
        name,
        t5,
        family="t5" if name == "t5-mini" else None,
        parameters=parameters,
        multiply_adds=multiply_adds,
        fixed_input=(None,),
        small={
            "width": 16,
            "depth": 2,
            "heads": 2,
            "head_width": 4,
            "mlp_width": 24,
            "dropout_rate": 0.1,
            "vocabulary": 13,
        },
        width=width,
        depth=depth,
        heads=heads,
        mlp_width=mlp_width,
        gated=newer,
        tied=not newer,
        about={
            "paper": 'Raffel et al. 2019, "Exploring the limits of transfer learning with a unified '
            'text-to-text transformer"',
            "url": "https://arxiv.org/abs/1910.10683",
            "year": 2019,
            "idea": "Every task as text-to-text.",
            "task": "dates",
            "recipe": "t5",
        },
    )
