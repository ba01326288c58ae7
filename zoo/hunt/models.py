"""Random small models: layers and operations drawn one after the other, each with a shape that fits."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np

from zoo import random
from zoo.hunt.cases import Case

# From a kind of tensor to another: what is drawn, where {c} is a number of channels that the next can take.
SAME = ("ops.relu(x)", "ops.tanh(x)", "ops.gelu(x)", "ops.silu(x)", "ops.elu(x)", "ops.softplus(x)",
    "ops.softmax(x, axis=-1)", "ops.softmax(x, axis=1)", "x + ops.sin(x)", "x * ops.sigmoid(x)",
    "ops.cumsum(x, axis=1)", "ops.flip(x, axis=1)", "ops.roll(x, 1, axis=1)", "ops.sort(x, axis=-1)",
    "x - ops.mean(x, axis=-1, keepdims=True)", "x / (1 + ops.std(x, axis=1, keepdims=True))",
    "ops.concatenate([x, ops.square(x)], axis=-1)", "ops.where(x > 0, x, ops.expm1(x))", "ops.logaddexp(x, -x)",
    "ops.normalize(x, axis=-1)", "ops.log1p(ops.abs(x))", "ops.maximum(x, ops.flip(x, axis=-1))",
    "layers.LayerNormalization()", "layers.BatchNormalization()", "layers.RMSNormalization()",
    "layers.UnitNormalization()", "layers.Dense({c})", "layers.Dense({c}, activation='swish')", "layers.PReLU()",
    "layers.LeakyReLU()", "layers.LayerNormalization(axis=1)", "layers.GroupNormalization(1)")  # fmt: skip
STEPS: dict[tuple[str, str], tuple[str, ...]] = {
    ("image", "image"): (
        *SAME, "layers.Conv2D({c}, 3, padding='same')", "layers.Conv2D({c}, 2, strides=2, padding='same')",
        "layers.Conv2D({c}, (1, 3), padding='same', dilation_rate=2)", "layers.DepthwiseConv2D(3, padding='same')",
        "layers.DepthwiseConv2D(2, strides=2, padding='same', depth_multiplier=2)",
        "layers.SeparableConv2D({c}, 3, padding='same')", "layers.Conv2DTranspose({c}, 3, strides=2, padding='same')",
        "layers.Conv2DTranspose({c}, 2, strides=2)", "layers.MaxPooling2D(2, padding='same')",
        "layers.AveragePooling2D(2, padding='same')", "layers.MaxPooling2D(3, strides=2, padding='same')",
        "layers.AveragePooling2D(3, strides=1, padding='same')", "layers.UpSampling2D(2)", "layers.ZeroPadding2D(1)",
        "layers.UpSampling2D(2, interpolation='bilinear')", "layers.SpatialDropout2D(0.0)",
        "ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='reflect')", "ops.image.resize(x, (5, 4))",
        "ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode='symmetric')", "ops.transpose(x, (0, 2, 1, 3))",
        "layers.MultiHeadAttention(2, 3)@layer(x, x)",
    ),
    ("image", "sequence"): ("layers.TimeDistributed(layers.Flatten())", "ops.mean(x, axis=1)", "ops.max(x, axis=2)",
        "layers.ConvLSTM1D(3, 2, padding='same')"),
    ("image", "vector"): ("layers.Flatten()", "layers.GlobalAveragePooling2D()", "layers.GlobalMaxPooling2D()",
        "layers.Flatten(data_format='channels_first')", "ops.logsumexp(x, axis=(1, 2))"),
    ("sequence", "sequence"): (
        *SAME, "layers.Conv1D({c}, 3, padding='same')", "layers.Conv1D({c}, 2, padding='causal', dilation_rate=2)",
        "layers.Conv1D({c}, 3, strides=2, padding='same')", "layers.Conv1DTranspose({c}, 3, strides=2, padding='same')",
        "layers.DepthwiseConv1D(3, padding='same')", "layers.SeparableConv1D({c}, 2, padding='same')",
        "layers.MaxPooling1D(2, padding='same')", "layers.AveragePooling1D(2, padding='same')", "layers.UpSampling1D(2)",
        "layers.ZeroPadding1D(1)", "layers.LSTM({c}, return_sequences=True)", "layers.GRU({c}, return_sequences=True)",
        "layers.SimpleRNN({c}, return_sequences=True, go_backwards=True)", "layers.Permute((2, 1))",
        "layers.Bidirectional(layers.LSTM({c}, return_sequences=True))", "layers.MultiHeadAttention(2, 3)@layer(x, x)",
        "layers.Attention()@layer([x, x])", "layers.AdditiveAttention()@layer([x, x])",
        "layers.TimeDistributed(layers.Dense({c}))", "layers.GroupQueryAttention(3, 4, 2)@layer(x, x)",
        "layers.Conv1D({c}, 2, padding='same', activation='selu')", "ops.cumprod(x, axis=1)",
    ),
    ("sequence", "vector"): ("layers.Flatten()", "layers.LSTM({c})", "layers.GRU({c}, reset_after=False)",
        "layers.GlobalMaxPooling1D()", "layers.GlobalAveragePooling1D()", "ops.norm(x, axis=1)",
        "layers.Flatten(data_format='channels_first')", "ops.prod(x, axis=1)", "ops.median(x, axis=1)"),
    ("vector", "vector"): (*SAME[:-2], "layers.LayerNormalization(axis=1)", "ops.top_k(x, 1)[0]",
        "layers.RepeatVector(2)@ops.mean(layer(x), axis=1)", "ops.logsumexp(x, axis=-1, keepdims=True)"),
}  # fmt: skip
SHAPES = {"image": (2, 5, 6, 3), "sequence": (2, 6, 4), "vector": (3, 5)}


def models(seed: int, only: str | None = None) -> Iterator[Case]:
    """Without end: cases of two to six steps. `only`: those with this text in a step; none if it is in no step."""
    steps = " ".join(text.lower() for options in STEPS.values() for text in options)
    if only is not None and only not in steps:
        return
    for number in itertools.count():
        case = _model(random.generator(seed, "model", number), f"model {seed}.{number}")
        if only is None or only in " ".join((*case.lines, *case.layers.values())).lower():
            yield case


def _model(draw: np.random.Generator, name: str) -> Case:
    kind = str(draw.choice(list(SHAPES)))
    x = draw.standard_normal(SHAPES[kind])
    lines, layers = [], {}
    for number in range(int(draw.integers(2, 7))):
        targets = [(a, b) for a, b in STEPS if a == kind]
        weights = np.array([4.0 if a == b else 1.0 for a, b in targets])
        kind, after = targets[int(draw.choice(len(targets), p=weights / weights.sum()))]
        options = STEPS[kind, after]
        text = options[int(draw.integers(len(options)))].replace("{c}", str(draw.choice([2, 4, 6])))
        kind, (made, _, call) = after, text.partition("@")
        if made.startswith("layers."):
            layers[f"layer{number}"] = made
            lines.append("y = x = " + (call or "layer(x)").replace("layer(", f"layer{number}("))
        else:
            lines.append(f"y = x = {made}")
    return Case(name, "models", operations(lines, layers), tuple(lines), {"x": x}, layers)


def operations(lines: list[str] | tuple[str, ...], layers: dict[str, str]) -> str:
    """The operations of lines, joined: "layers.Conv1D, layers.Flatten"."""
    found = []
    for line in lines:
        names = [layers[n] for n in re.findall(r"layer\d+", line)] or [line]
        found.append(", ".join(re.findall(r"(?:ops|layers)(?:\.\w+)+", names[0])[:1]) or line)
    return " > ".join(found)
