"""The layers that models are built from: one function for each part of a network.

Images are (b, h, w, c), sequences (b, n, c): b batch, h height, w width, n length, c channels. Each function
takes a symbolic tensor and returns one; layers with weights take a `name`, which determines their initial
weights. The layers are those of Keras, but with the same numbers on every framework, and with torch's
conventions where Keras and torch differ (batch norm's statistics, epsilons).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

from zoo import random
from zoo._lazy import keras, ops
from zoo.checks import renamed_argument
from zoo.errors import WrongConfiguration, nearest
from zoo.random import Initializer

Tensor = Any


# The ends of a model


def Input(
    shape: Sequence[int | None], *, dtype: str | None = None, name: str | None = None, optional: bool = False
) -> Tensor:
    """A batch of arrays of this shape, without the batch axis; an `optional` input may be omitted."""
    return keras.Input(tuple(shape), dtype=dtype, name=name, optional=optional)


def Model(inputs: Tensor, outputs: Tensor) -> keras.Model:
    """The network between `inputs` and `outputs`, a plain `keras.Model`."""
    return keras.Model(inputs, outputs)


def TokenModel(inputs: dict[str, Tensor], outputs: Tensor) -> keras.Model:
    """A `keras.Model` with named inputs that can also be called on token ids alone, `model(token_ids)`.

    Called on concrete values, outside a compiled function, it raises WrongConfiguration for tokens that are
    not in its vocabulary, and for more of them than it has positions; so do `fit`, `evaluate` and `predict`
    for arrays and for the first batch of a generator.
    """
    return _layers().TokenModel(inputs, outputs)


# Layers with weights


def dense(
    x: Tensor,
    units: int,
    *,
    use_bias: bool = True,
    initializer: Initializer = random.glorot_uniform,
    bias_initializer: Initializer = random.zeros,
    regularizer: Any = None,
    name: str,
) -> Tensor:
    """(..., c) -> (..., units): x kernel + bias."""
    return _layers().Dense(units, use_bias, initializer, bias_initializer, regularizer, name=name)(x)


def conv(
    x: Tensor,
    filters: int,
    size: int,
    stride: int = 1,
    *,
    padding: int | str | None = None,
    groups: int = 1,
    use_bias: bool = True,
    initializer: Initializer = random.glorot_uniform,
    bias_initializer: Initializer = random.zeros,
    regularizer: Any = None,
    name: str,
) -> Tensor:
    """(b, h, w, c) -> (b, h', w', filters): cross-correlation with size x size kernels.

    `padding` zeros are added on every side, by default size // 2: stride 1 keeps the height and width for an
    odd kernel size, as in torch. "same" is TensorFlow's: asymmetric with a stride, more below and on the
    right. With `groups`, filters and channels are split into that many groups; as many groups as channels is
    a depthwise convolution. Raises WrongConfiguration when the window does not fit, or the groups do not
    divide channels and filters.
    """
    padding = size // 2 if padding is None else padding
    if not isinstance(padding, str):
        _check_window(x, size, padding, name)
    if x.shape[-1] % groups or filters % groups:
        raise WrongConfiguration(
            f"{name}: {groups} groups; expected a divisor of its {x.shape[-1]} channels and {filters} filters"
        )
    window = (filters, size, stride, padding, groups)
    return _layers().Conv(*window, use_bias, initializer, bias_initializer, regularizer, name=name)(x)


def batch_norm(x: Tensor, *, momentum: float = 0.1, epsilon: float = 1e-5, name: str) -> Tensor:
    """(..., c) -> (..., c): each channel to mean 0 and variance 1 over the batch, then gamma x + beta.

    Ioffe and Szegedy 2015, arXiv:1502.03167, algorithm 1; running statistics as torch.nn.BatchNorm2d keeps
    them, unbiased, `momentum` the weight of the new batch. A frozen layer (`trainable = False`) normalizes by
    the running statistics and leaves them unchanged, as Keras's does.

    One value per channel, as the last batch of an epoch may have, gives beta: its variance is 0, and Bessel's
    correction n / (n - 1) is taken as 1, so that the running variance gets the biased estimate, as in Keras
    and Flax. torch raises an error there, which would end a run at the end of its first epoch.
    """
    return _layers().BatchNorm(momentum, epsilon, name=name)(x)


def layer_norm(x: Tensor, *, epsilon: float = 1e-5, name: str) -> Tensor:
    """(..., c) -> (..., c): each vector to mean 0 and variance 1, then gamma x + beta.

    Ba et al. 2016, arXiv:1607.06450, eq. 4; epsilon as torch.nn.LayerNorm's.
    """
    return _layers().LayerNorm(epsilon, name=name)(x)


def rms_norm(x: Tensor, *, epsilon: float = 1e-6, name: str) -> Tensor:
    """(..., c) -> (..., c): each vector to a mean square of 1, then gamma x.

    Zhang and Sennrich 2019, arXiv:1910.07467, eq. 4; epsilon as T5's.
    """
    return _layers().RMSNorm(epsilon, name=name)(x)


@renamed_argument("memory", "encoder_output")
def attention(
    x: Tensor,
    heads: int,
    *,
    encoder_output: Tensor | None = None,
    padding_mask: Tensor | None = None,
    bias: Tensor | None = None,
    causal: bool = False,
    scaled: bool = True,
    width: int | None = None,
    use_bias: bool = True,
    dropout_rate: float = 0.0,
    initializer: Initializer | Mapping[str, Initializer] = random.glorot_uniform,
    name: str,
) -> Tensor:
    """(b, n, c) -> (b, n, c): multi-head attention with `heads` heads of width / heads channels each.

    Vaswani et al. 2017, arXiv:1706.03762, eq. 1 and section 3.2.2. Keys and values are projections of
    `encoder_output` (b, m, k), by default of x itself (self-attention). Positions where `padding_mask` (b, m)
    is 0 are masked, and with `causal` all later ones. A query for which every key is masked, as in a row of
    padding alone or in padding before the first token, gets zeros, as from torch's
    scaled_dot_product_attention with a boolean mask.
    `bias` (1 or b, heads, n, m) is added to the scores, which are not `scaled` in T5. `width` is c by
    default. Dropout applies to the attention weights. `initializer` is one for all matrices, or a dict:
    "query", "key", "value", "output". Raises WrongConfiguration unless heads divide the width.
    """
    channels: int = x.shape[-1]
    inner = channels if width is None else width
    if inner % heads:
        raise WrongConfiguration(f"{name}: {heads} heads; expected a divisor of the width, {inner}")
    _check_rate(dropout_rate, "dropout", name)

    def project(x: Tensor, part: str, units: int = inner) -> Tensor:
        own = initializer[part] if isinstance(initializer, Mapping) else initializer
        return dense(x, units, use_bias=use_bias, initializer=own, name=f"{name}_{part}")

    source = x if encoder_output is None else encoder_output
    layer = _layers().Attention(heads, causal, scaled, dropout_rate, name=name)
    y = layer(project(x, "query"), project(source, "key"), project(source, "value"), padding_mask, bias)
    return project(y, "output", channels)


def parameter(
    x: Tensor, shape: Sequence[int], *, initializer: Initializer = random.zeros, name: str
) -> Tensor:
    """A trainable array of this shape, independent of the input; `x` is any tensor of the model."""
    return _layers().Parameter(tuple(shape), initializer, name=name)(x)


def token(x: Tensor, *, initializer: Initializer = random.zeros, name: str) -> Tensor:
    """(b, n, c) -> (b, n + 1, c): prepends a trainable vector to each sequence, such as a class token."""
    return _layers().Token(initializer, name=name)(x)


# Sequences (b, n, c): `lengths` (b,) says how many steps are real, the rest is padding


def embedding(
    token_ids: Tensor,
    vocabulary: int,
    width: int,
    *,
    initializer: Initializer = random.standard_normal,
    name: str,
) -> Tensor:
    """(b, n) int32 -> (b, n, width): a vector for each token; initialized from N(0, 1), as
    torch.nn.Embedding.
    """
    return _layers().Embedding(vocabulary, width, initializer, name=name)(token_ids)


def shared_embedding(
    vocabulary: int, width: int, *, initializer: Initializer = random.standard_normal, name: str
) -> Any:
    """A tied embedding: `table(token_ids)` embeds tokens, `table.logits(x)` multiplies by its transpose."""
    return _layers().Embedding(vocabulary, width, initializer, name=name)


def learned_positions(
    x: Tensor, limit: int, *, initializer: Initializer = random.standard_normal, name: str
) -> Tensor:
    """(b, n, c) -> (b, n, c): adds learned positional embeddings for up to `limit` positions."""
    return _layers().Positions(limit, initializer, name=name)(x)


def learnt_positions(*args: Any, **kwargs: Any) -> Tensor:
    """Deprecated: the old name of `learned_positions`."""
    warnings.warn("layers.learnt_positions is now layers.learned_positions", DeprecationWarning, stacklevel=2)
    return learned_positions(*args, **kwargs)


def sinusoidal_positions(x: Tensor) -> Tensor:
    """(b, n, c) -> (b, n, c): adds sinusoidal positional encodings, wavelengths from 2 pi to 10,000 times
    that.

    Vaswani et al. 2017, section 3.5; sines in the first half of the channels and cosines in the second, as in
    tensor2tensor.
    """
    return _layers().Sinusoids()(x)


def relative_positions(
    x: Tensor,
    heads: int,
    *,
    causal: bool = False,
    buckets: int = 32,
    distance: int = 128,
    initializer: Initializer = random.standard_normal,
    name: str,
) -> Tensor:
    """(b, n, c) -> (1, heads, n, n): a trainable attention bias for each head and relative distance.

    Raffel et al. 2019, arXiv:1910.10683, section 2.1: distances share `buckets`, which become wider up to
    `distance`.
    """
    return _layers().RelativePositions(heads, causal, buckets, distance, initializer, name=name)(x)


def segments(
    x: Tensor,
    segment_ids: Tensor,
    count: int = 2,
    *,
    initializer: Initializer = random.standard_normal,
    name: str,
) -> Tensor:
    """(b, n, c), ids (b, n) -> (b, n, c): adds a trainable vector for each segment; ids are 0 by default."""
    return _layers().Segments(count, initializer, name=name)(x, segment_ids)


def lengths(x: Tensor) -> Tensor:
    """(b, n) or (b, n, c) -> (b,) int32: the position after the last nonzero token, or nonzero vector."""
    return _layers().Lengths()(x)


def zero_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, n, ...) -> the same, with zeros in the padding."""
    return _layers().ZeroPadding()(x, lengths)


def lstm(
    x: Tensor,
    units: int,
    *,
    lengths: Tensor | None = None,
    states: Sequence[Tensor | None] = (None, None),
    reverse: bool = False,
    initializer: Initializer = random.glorot_uniform,
    name: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """(b, n, c) -> h at every step (b, n, units), zero in the padding, and the last h and c (b, units).

    Hochreiter and Schmidhuber 1997, https://doi.org/10.1162/neco.1997.9.8.1735, with the forget gate of Gers
    et al. 2000; biases and gates as in torch.nn.LSTM. `states` are the initial h and c, zeros by default.
    With `reverse` each sequence is processed from its end; outputs are aligned with their inputs. A padded
    sequence gives the same numbers as the sequence alone.
    """
    return _layers().LSTM(units, reverse, initializer, name=name)(x, lengths, *states)


def gru(
    x: Tensor,
    units: int,
    *,
    lengths: Tensor | None = None,
    state: Tensor | None = None,
    reverse: bool = False,
    reset_after: bool = True,
    initializer: Initializer = random.glorot_uniform,
    name: str,
) -> tuple[Tensor, Tensor]:
    """(b, n, c) -> h at every step (b, n, units), zero in the padding, and the last (b, units).

    As torch.nn.GRU; without `reset_after` as Cho et al. 2014, arXiv:1406.1078, eq. 5 to 8, where the reset
    gate is applied to the state before the recurrent kernel. The other arguments are those of `lstm`.
    """
    return _layers().GRU(units, reverse, initializer, reset_after, name=name)(x, lengths, state)


@renamed_argument("memory", "encoder_output")
def attention_decoder(
    x: Tensor, units: int, *, encoder_output: Tensor, lengths: Tensor, states: Sequence[Tensor], name: str
) -> Tensor:
    """(b, m, c), encoder output (b, n, k) -> (b, m, units + k): an LSTM's h and its attention context.

    Bahdanau et al. 2014, arXiv:1409.0473, eq. 4 to 6: before every step the decoder computes attention
    weights over `encoder_output` from its last state. `lengths` are those of `encoder_output`, `states` the
    initial h and c.
    """
    layer = _layers().AttentionDecoder(units, random.glorot_uniform, name=name)
    return layer(x, encoder_output, lengths, *states)


def flatten_steps(x: Tensor) -> Tensor:
    """(b, n, h, c) -> (b, n, h c), the last axis fastest."""
    return keras.layers.Reshape((-1, x.shape[2] * x.shape[3]))(x)


def blank_padding(logits: Tensor, lengths: Tensor) -> Tensor:
    """(b, n, classes) -> the same, with probability 1 for class 0 in the padding, as CTC needs it."""
    return _layers().BlankPadding()(logits, lengths)


# Layers without


def dropout(x: Tensor, rate: float, *, name: str) -> Tensor:
    """Zero each number with probability `rate` in training, scale the rest by 1 / (1 - rate).

    Srivastava et al. 2014. The mask is identical on every framework, bit for bit. A frozen layer drops
    nothing: its step counter is state, which must not change. Raises WrongConfiguration for a rate outside
    [0, 1).
    """
    _check_rate(rate, "dropout", name)
    return _layers().Dropout(rate, name=name)(x) if rate else x


def variational_dropout(x: Tensor, rate: float, *, name: str) -> Tensor:
    """(b, n, c) -> (b, n, c): dropout whose mask is the same at every step of a sequence.

    Gal and Ghahramani 2016, arXiv:1512.05287, for the inputs and outputs of a recurrent layer; masks inside
    it would prevent the use of the frameworks' own kernels. Raises WrongConfiguration for a rate outside [0,
    1).
    """
    _check_rate(rate, "dropout", name)
    return _layers().VariationalDropout(rate, name=name)(x) if rate else x


def drop_path(x: Tensor, rate: float, *, name: str) -> Tensor:
    """(b, ...) -> (b, ...): zero each example with probability `rate` in training, scale the rest.

    Stochastic depth (Huang et al. 2016, arXiv:1603.09382) in the form of Larsson et al. 2017: the branch of a
    residual block is dropped, and otherwise scaled by 1 / (1 - rate). The mask is identical on every
    framework, bit for bit. Raises WrongConfiguration for a rate outside [0, 1).
    """
    _check_rate(rate, "drop-path", name)
    return _layers().DropPath(rate, name=name)(x) if rate else x


def max_pool(x: Tensor, size: int, stride: int | None = None, *, padding: int = 0) -> Tensor:
    """(b, h, w, c) -> (b, h', w', c): the maximum of each window; `stride` is by default size."""
    _check_window(x, size, padding, "max_pool")
    return _layers().MaxPool(size, stride or size, padding)(x)


def average_pool(x: Tensor, size: int, stride: int | None = None) -> Tensor:
    """(b, h, w, c) -> (b, h', w', c): the mean of each window; `stride` is by default size."""
    _check_window(x, size, 0, "average_pool")
    return _layers().AveragePool(size, stride or size)(x)


def adaptive_average_pool(x: Tensor, size: int) -> Tensor:
    """(b, h, w, c) -> (b, size, size, c) for any h and w, as torch.nn.AdaptiveAvgPool2d."""
    return x if tuple(x.shape[1:3]) == (size, size) else _layers().AdaptiveAveragePool(size)(x)


def global_average_pool(x: Tensor) -> Tensor:
    """(b, h, w, c) -> (b, c)."""
    return ops.mean(x, axis=(1, 2))


def intermediate(x: Tensor, name: str) -> Tensor:
    """x itself, with a name by which `zoo.features` finds it."""
    return keras.layers.Identity(name=name)(x)


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, the sum of a residual block (He et al. 2015, arXiv:1512.03385, eq. 1).

    The result is that of `x + y`; JAX trains a deep network faster with it.
    """
    return _layers().Add()([x, y])


def flatten(x: Tensor) -> Tensor:
    """(b, ...) -> (b, n), the last axis fastest."""
    return keras.layers.Flatten()(x)


# Activations


def identity(x: Tensor) -> Tensor:
    """x."""
    return x


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return ops.sigmoid(x)


def tanh(x: Tensor) -> Tensor:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return ops.tanh(x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0)."""
    return ops.relu(x)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x) (Elfwing et al. 2017, arXiv:1702.03118; "swish")."""
    return ops.silu(x)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """max(x, 0) + slope min(x, 0) (Maas et al. 2013)."""
    return ops.leaky_relu(x, negative_slope=slope)


def gelu(x: Tensor) -> Tensor:
    """x Phi(x), exact (Hendrycks and Gimpel 2016, arXiv:1606.08415)."""
    return _layers().Gelu(approximate=False)(x)


def gelu_tanh(x: Tensor) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), the approximation of the same paper."""
    return _layers().Gelu(approximate=True)(x)


ACTIVATIONS = {
    f.__name__: f for f in (identity, sigmoid, tanh, relu, silu, leaky_relu, gelu, gelu_tanh)
}  # fmt: skip


def activate(x: Tensor, activation: str) -> Tensor:
    """Apply an activation function by its name. Raises WrongConfiguration for an unknown one."""
    if activation not in ACTIVATIONS:
        raise WrongConfiguration(f"no activation {activation!r}; {nearest(str(activation), ACTIVATIONS)}")
    return ACTIVATIONS[activation](x)


# Penalties, added to the loss


def l1(weight: float) -> Any:
    """weight sum |w|."""
    return _layers().L1(weight)


def l2(weight: float) -> Any:
    """weight sum w^2; with plain SGD equivalent to a weight decay of 2 weight, but not with Adam."""
    return _layers().L2(weight)


def _layers() -> Any:
    """`zoo.layers.classes`, which needs Keras: imported with the first layer."""
    return import_module("zoo.layers.classes")


def _check_rate(rate: float, of: str, name: str) -> None:
    if not 0 <= rate < 1:
        raise WrongConfiguration(f"{name}: {of} rate {rate}; expected 0 <= rate < 1")


def _check_window(x: Tensor, size: int, padding: int, name: str) -> None:
    _, height, width, _ = x.shape
    for extent in (height, width):
        if extent is not None and extent + 2 * padding < size:
            raise WrongConfiguration(
                f"{name}: a {size} x {size} window does not fit into {height} x {width}; use larger images"
            )
