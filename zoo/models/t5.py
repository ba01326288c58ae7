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

from functools import partial
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


def residual_attention(
    x: Tensor, heads: int, head_width: int, *, dropout_rate: float, name: str, **options: Any
) -> Tensor:
    """x + attention(norm(x)); kernels as Mesh TensorFlow draws them, the query's for unscaled scores."""
    width, inner = x.shape[-1], heads * head_width
    fan_in = normal(width**-0.5)
    query, output = normal((width * head_width) ** -0.5), normal(inner**-0.5)
    y = attention(
        rms_norm(x, name=f"{name}_norm"),
        heads,
        scaled=False,
        width=inner,
        use_bias=False,
        dropout_rate=dropout_rate,
        initializer={"query": query, "key": fan_in, "value": fan_in, "output": output},
        name=name,
        **options,
    )
    return add(x, dropout(y, dropout_rate, name=f"{name}_dropout"))


def residual_mlp(x: Tensor, mlp_width: int, *, gated: bool, dropout_rate: float, name: str) -> Tensor:
    """x + mlp(norm(x))."""
    width = x.shape[-1]
    y, fan_in = rms_norm(x, name=f"{name}_norm"), normal(width**-0.5)
    if gated:
        gate = gelu_tanh(dense(y, mlp_width, use_bias=False, initializer=fan_in, name=f"{name}_gate"))
        y = gate * dense(y, mlp_width, use_bias=False, initializer=fan_in, name=f"{name}_in")
    else:
        y = relu(dense(y, mlp_width, use_bias=False, initializer=fan_in, name=f"{name}_in"))
    y = dropout(y, dropout_rate, name=f"{name}_dropout1")  # (b, n, 4c)
    y = dense(y, width, use_bias=False, initializer=normal(mlp_width**-0.5), name=f"{name}_out")
    return add(x, dropout(y, dropout_rate, name=f"{name}_dropout2"))


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

    attend = partial(residual_attention, heads=heads, head_width=head_width, dropout_rate=dropout_rate)

    def stack(tokens: Tensor, mask: Tensor, kind: str, encoded: Tensor | None = None) -> Tensor:
        """(b, n) -> (b, n, c): the encoder, or given its output the decoder."""
        x = dropout(table(tokens), dropout_rate, name=f"{kind}_dropout")
        causal = encoded is not None
        initializer, name = normal(width**-0.5), f"{kind}_positions"
        bias = relative_positions(
            x, heads, causal=causal, buckets=buckets, initializer=initializer, name=name
        )  # (1, heads, n, n)
        for i in range(1, depth + 1):
            name = f"{kind}_block{i}"
            x = attend(x, padding_mask=mask, bias=bias, causal=causal, name=f"{name}_attention")
            if encoded is not None:
                padding = inputs["padding_mask"]
                x = attend(x, encoder_output=encoded, padding_mask=padding, name=f"{name}_memory")
            x = residual_mlp(x, mlp_width, gated=gated, dropout_rate=dropout_rate, name=f"{name}_mlp")
            x = intermediate(x, name)
        return dropout(rms_norm(x, name=f"{kind}_norm"), dropout_rate, name=f"{kind}_norm_dropout")

    encoded = stack(inputs["token_ids"], inputs["padding_mask"], "encoder")
    encoded = intermediate(encoded, "memory")  # (b, n, c)
    x = stack(inputs["decoder_token_ids"], inputs["decoder_padding_mask"], "decoder", encoded)
    x = intermediate(x, "features")  # (b, m, c)
    if tied:
        return TokenModel(inputs, table.logits(x * width**-0.5))  # (b, m, vocabulary)
    return TokenModel(inputs, dense(x, vocabulary, use_bias=False, initializer=standard_normal, name="head"))


ABOUT = {
    "paper": 'Raffel et al. 2019, "Exploring the limits of transfer learning with a unified '
    'text-to-text transformer"',
    "url": "https://arxiv.org/abs/1910.10683",
    "year": 2019,
    "idea": "Every task as text-to-text.",
    "task": "dates",
    "recipe": "t5",
}
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
        about=ABOUT,
    )
