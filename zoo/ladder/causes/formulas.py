"""Operations written out in NumPy: what the hypotheses about a difference are tested with."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

Array = np.ndarray
Pairs = Sequence[Sequence[int]]


def softmax(x: Array, axis: int = -1) -> Array:
    """exp(x), divided by its sum along an axis."""
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _exact(value: float) -> float:
    return value


def _float32(value: float) -> float:
    return float(np.float32(value))


def _gelu(x: Array, constant: Callable[[float], float] = _exact) -> Array:
    from scipy.special import erf

    return x * 0.5 * (1 + erf(x * constant(math.sqrt(0.5))))


def _gelu_tanh(x: Array, constant: Callable[[float], float] = _exact) -> Array:
    return 0.5 * x * (1 + np.tanh(constant(math.sqrt(2 / math.pi)) * (x + constant(0.044715) * x**3)))


FLOAT32 = "constants in float32"


# Functions of one tensor, by the name that a cause gives them.
FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "no function": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "gelu (erf)": _gelu,
    "gelu (tanh)": _gelu_tanh,
    f"gelu (erf, {FLOAT32})": partial(_gelu, constant=_float32),
    f"gelu (tanh, {FLOAT32})": partial(_gelu_tanh, constant=_float32),
    "gelu (sigmoid of 1.702 x)": lambda x: x * sigmoid(1.702 * x),
    "silu": lambda x: x * sigmoid(x),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softmax": softmax,
    "softmax over axis 1": partial(softmax, axis=1),
    "log_softmax": lambda x: x - x.max(-1, keepdims=True) - np.log(
        np.exp(x - x.max(-1, keepdims=True)).sum(-1, keepdims=True)
    ),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "selu": lambda x: 1.0507009873554805 * np.where(
        x > 0, x, 1.6732632423543772 * np.expm1(np.minimum(x, 0))
    ),
    "leaky_relu (slope 0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
    "leaky_relu (slope 0.1)": lambda x: np.where(x > 0, x, 0.1 * x),
    "leaky_relu (slope 0.2)": lambda x: np.where(x > 0, x, 0.2 * x),
    "leaky_relu (slope 0.3)": lambda x: np.where(x > 0, x, 0.3 * x),
    "hard_silu": lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid (x / 6 + 0.5)": lambda x: np.clip(x / 6 + 0.5, 0, 1),
    "hard_sigmoid (0.2 x + 0.5)": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "softplus": lambda x: np.logaddexp(x, 0),
    "mish": lambda x: x * np.tanh(np.logaddexp(x, 0)),
    "exp": lambda x: np.exp(np.minimum(x, 700)),
    "square": np.square,
    "abs": np.abs,
}  # fmt: skip


def channels(array: Array, axis: int, rank: int) -> Array:
    """A vector, shaped so that it broadcasts along this axis of a tensor."""
    return array.reshape([-1 if i == axis % rank else 1 for i in range(rank)])


def batch_norm(x: Array, weights: Mapping[str, Array], epsilon: float, axis: int) -> Array:
    """(x - mean) / sqrt(variance + epsilon) scale + shift."""
    w = {role: channels(value, axis, x.ndim) for role, value in weights.items()}
    y = (x - w["mean"]) / np.sqrt(w["variance"] + epsilon)
    return y * w.get("scale", 1.0) + w.get("shift", 0.0)


def batch_statistics(x: Array, axis: int) -> dict[str, Array]:
    """The mean and the biased variance of a batch."""
    axes = tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    return {"mean": x.mean(axes), "variance": x.var(axes)}


def layer_norms(x: Array, weights: Mapping[str, Array], epsilon: float) -> Iterator[tuple[str, Array]]:
    """The normalizations over the last axis that are in use, by name."""
    scale, shift = weights.get("scale", 1.0), weights.get("shift", 0.0)
    centred, variance = x - x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    count = x.shape[-1]
    yield "layer norm", centred / np.sqrt(variance + epsilon) * scale + shift
    if count > 1:
        unbiased = variance * count / (count - 1)
        yield "unbiased variance", centred / np.sqrt(unbiased + epsilon) * scale + shift
        yield "unbiased deviation + epsilon", centred / (np.sqrt(unbiased) + epsilon) * scale + shift
    yield "epsilon outside the root", centred / (np.sqrt(variance) + epsilon) * scale + shift
    rms = np.square(x).mean(-1, keepdims=True)
    yield "rms norm", x / np.sqrt(rms + epsilon) * scale + shift
    yield "rms norm with scale 1 + weight", x / np.sqrt(rms + epsilon) * (1 + scale) + shift
    yield "layer norm with scale 1 + weight", centred / np.sqrt(variance + epsilon) * (1 + scale) + shift
    yield "layer norm without scale", centred / np.sqrt(variance + epsilon) + shift
    yield "layer norm without shift", centred / np.sqrt(variance + epsilon) * scale


def conv(
    x: Array,
    kernel: Array,
    bias: Array | None,
    stride: Sequence[int],
    padding: Pairs,
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """Cross-correlation of (n, c, ...) with a kernel (out, in / groups, ...)."""
    rank = kernel.ndim - 2
    x = np.pad(x, ((0, 0), (0, 0), *(tuple(p) for p in padding)))
    spans = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel.shape[2:], strict=True))
    windows = np.lib.stride_tricks.sliding_window_view(x, spans, axis=tuple(range(2, 2 + rank)))
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in stride))
    windows = windows[(*steps, *(slice(None, None, d) for d in dilation))]
    letters = "xyz"[:rank]
    where = "uvw"[:rank]
    parts = zip(np.split(windows, groups, 1), np.split(kernel, groups, 0), strict=True)
    equation = f"nc{letters}{where},oc{where}->no{letters}"
    y = np.concatenate([np.einsum(equation, w, k, optimize=True) for w, k in parts], 1)
    return y if bias is None else y + channels(bias, 1, y.ndim)


def rounded(x: Array, bits: int) -> Array:
    """Numbers rounded to so many bits of mantissa."""
    mantissa, exponent = np.frexp(x)
    return np.ldexp(np.round(mantissa * 2.0**bits) / 2.0**bits, exponent)


def attention(q: Array, k: Array, v: Array, scale: float, causal: bool) -> Array:
    """softmax(scale q k^T) v of (n, heads, length, d)."""
    scores = scale * np.einsum("nhqd,nhkd->nhqk", q, k)
    if causal:
        later = np.triu(np.ones(scores.shape[-2:], bool), 1)
        scores = np.where(later, -np.inf, scores)
    return np.einsum("nhqk,nhkd->nhqd", softmax(scores), v)


def attentions(q: Array, k: Array, v: Array) -> Iterator[tuple[str, Array]]:
    """Attention with the scales in use, with and without later keys, by name."""
    d = q.shape[-1]
    scales = {"scores divided by sqrt(d)": d**-0.5, "scores not divided": 1.0, "scores divided by d": 1 / d}
    for causal in (False, True):
        for name, scale in scales.items():
            yield f"{name}, {'causal' if causal else 'not causal'}", attention(q, k, v, scale, causal)


def pool(x: Array, size: Sequence[int], stride: Sequence[int], padding: Pairs, kind: str) -> Array:
    """Pooling of (n, c, ...): "max", "max of zeros", "mean", or "mean without padding"."""
    pads = ((0, 0), (0, 0), *(tuple(p) for p in padding))
    axes = tuple(range(2, x.ndim))
    steps = (slice(None), slice(None), *(slice(None, None, s) for s in stride))

    def windows(array: Array, value: Any) -> Array:
        padded = np.pad(array, pads, constant_values=value)
        return np.lib.stride_tricks.sliding_window_view(padded, tuple(size), axis=axes)[steps]

    inner = tuple(range(-len(axes), 0))
    if kind.startswith("max"):
        return windows(x, -np.inf if kind == "max" else 0.0).max(inner)
    total = windows(x, 0.0).sum(inner)
    if kind == "mean":
        return total / math.prod(size)
    return total / windows(np.ones_like(x), 0.0).sum(inner)
