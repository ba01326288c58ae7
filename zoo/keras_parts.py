"""What the zoo adds to Keras: a layer for each thing that owns weights, state or a framework's operation.

Initial weights are drawn by (seed, layer name, weight name), see `zoo.random`; the arithmetic is that of
`zoo.backends`. Every layer can be cloned, and saved in a `.keras` file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from types import GeneratorType
from typing import Any

import numpy as np

from zoo import backends, caching, random, registry
from zoo._lazy import keras, ops
from zoo.backends import MASK_VALUE
from zoo.errors import WrongConfiguration
from zoo.random import Initializer

Tensor = Any
Shape = tuple[Any, ...]


class Layer(keras.layers.Layer):
    """A layer with portable weights; a subclass keeps the arguments named in `ARGUMENTS` as attributes."""

    ARGUMENTS: tuple[str, ...] = ()

    def __init__(self, *, seed: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.seed = random.current_seed() if seed is None else seed

    def weight(
        self,
        name: str,
        shape: Sequence[int],
        initializer: Initializer,
        *,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: Any = None,
        kernel: bool = False,
    ) -> keras.Variable:
        """A weight of its own draw; the backend knows how a `kernel` ([h, w,] in, out) best lies in memory.

        Without `autocast` the layer sees it in full precision under a mixed policy too.
        """

        def draw(shape: Shape, dtype: str | None = None) -> Any:
            here = backends.current()
            memory = here.empty(shape, kernel=kernel)
            array = initializer.draw((self.seed, self.name, name), shape, memory)
            # Either keeps the arrangement.
            return here.from_numpy(array) if dtype in (None, "float32") else ops.cast(array, dtype)

        return self.add_weight(
            name=name,
            shape=tuple(shape),
            initializer=draw,
            trainable=trainable,
            autocast=autocast,
            regularizer=regularizer,
        )

    def get_config(self) -> dict[str, Any]:
        arguments = {name: getattr(self, name) for name in ("seed", *self.ARGUMENTS)}
        return {**super().get_config(), **{name: _plain(value) for name, value in arguments.items()}}


def _plain(value: Any) -> Any:
    """An argument as JSON has it; the constructors take it back in this form."""
    if isinstance(value, Initializer):
        return asdict(value)
    if isinstance(value, keras.regularizers.Regularizer):
        return keras.regularizers.serialize(value)
    return value


def _initializer(value: Initializer | dict[str, Any]) -> Initializer:
    return value if isinstance(value, Initializer) else Initializer(**value)


def _out(size: int | None, window: int, stride: int, padding: int = 0) -> int | None:
    return None if size is None else (size + 2 * padding - window) // stride + 1


@keras.saving.register_keras_serializable("zoo")
class Conv(Layer):
    """y = x * kernel + bias over (b, h, w, c), `padding` zeros on every side, or TensorFlow's "same"."""

    ARGUMENTS = (
        "filters", "size", "stride", "padding", "groups", "use_bias", "initializer", "bias_initializer",
        "regularizer",
    )  # fmt: skip

    def __init__(
        self,
        filters: int,
        size: int,
        *,
        stride: int = 1,
        padding: int | str = 0,
        groups: int = 1,
        use_bias: bool = True,
        initializer: Any = random.glorot_uniform,
        bias_initializer: Any = random.zeros,
        regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.filters, self.size, self.stride, self.padding = filters, size, stride, padding
        self.groups, self.use_bias = groups, use_bias
        self.initializer, self.bias_initializer = _initializer(initializer), _initializer(bias_initializer)
        self.regularizer = keras.regularizers.get(regularizer)

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.weight(
            "kernel",
            (self.size, self.size, input_shape[-1] // self.groups, self.filters),
            self.initializer,
            regularizer=self.regularizer,
            kernel=True,
        )
        self.bias = self.weight("bias", (self.filters,), self.bias_initializer) if self.use_bias else None

    def call(self, x: Tensor) -> Tensor:
        tensor = ops.convert_to_tensor
        bias = None if self.bias is None else tensor(self.bias)
        padding = self.padding
        if isinstance(padding, str):
            x, padding = ops.pad(x, ((0, 0), *map(self.sides, x.shape[1:3]), (0, 0))), 0
        return backends.current().conv(
            x, tensor(self.kernel), bias, stride=self.stride, padding=padding, groups=self.groups
        )

    def sides(self, extent: int) -> tuple[int, int]:
        """The zeros that "same" puts before and after: enough for ceil(extent / stride), the odd one last."""
        missing = max(0, (-(-extent // self.stride) - 1) * self.stride + self.size - extent)
        return missing // 2, missing - missing // 2

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, h, w, _ = shape
        if isinstance(self.padding, str):
            return b, -(-h // self.stride), -(-w // self.stride), self.filters
        h, w = (_out(n, self.size, self.stride, self.padding) for n in (h, w))
        return b, h, w, self.filters


@keras.saving.register_keras_serializable("zoo")
class MaxPool(Layer):
    """The largest of each window of (b, h, w, c); padding never wins."""

    ARGUMENTS = ("size", "stride", "padding")

    def __init__(self, size: int, stride: int, padding: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.stride, self.padding = size, stride, padding

    def call(self, x: Tensor) -> Tensor:
        return backends.current().max_pool(x, self.size, self.stride, self.padding)

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, h, w, c = shape
        h, w = (_out(n, self.size, self.stride, self.padding) for n in (h, w))
        return b, h, w, c


@keras.saving.register_keras_serializable("zoo")
class AveragePool(Layer):
    """The mean of each window of (b, h, w, c)."""

    ARGUMENTS = ("size", "stride")

    def __init__(self, size: int, stride: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.stride = size, stride

    def call(self, x: Tensor) -> Tensor:
        return backends.current().average_pool(x, self.size, self.stride)

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, h, w, c = shape
        return b, _out(h, self.size, self.stride), _out(w, self.size, self.stride), c


@keras.saving.register_keras_serializable("zoo")
class AdaptiveAveragePool(Layer):
    """(b, h, w, c) -> (b, size, size, c): row i averages rows floor(i h / size) to ceil((i + 1) h / size)."""

    ARGUMENTS = ("size",)

    def __init__(self, size: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def call(self, x: Tensor) -> Tensor:
        # In torch's exporter to ONNX an extent is a tensor.
        rows, columns = (ops.convert_to_tensor(self.means(int(n)), dtype=x.dtype) for n in x.shape[1:3])
        return ops.einsum("ih,bhwc,jw->bijc", rows, x, columns)

    def means(self, extent: int) -> Any:
        """(size, extent): each row averages its own run."""
        starts = np.arange(self.size)[:, None] * extent // self.size
        ends = -(-np.arange(1, self.size + 1)[:, None] * extent // self.size)
        own = (np.arange(extent) >= starts) & (np.arange(extent) < ends)
        return own / own.sum(1, keepdims=True)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape[0], self.size, self.size, shape[3]


@keras.saving.register_keras_serializable("zoo")
class Attention(Layer):
    """softmax(scale q k^T) v for each head: (b, n, c), (b, m, c) twice -> (b, n, c), c = heads d.

    `padding_mask` (b, m) is 0 where a key is padding, `bias` (1 or b, heads, n, m) is added to the scores.
    If `causal`, no query sees a later key; a `zoo.caching` under way then remembers the keys and values. A
    query that sees padding alone gives zeros.
    """

    ARGUMENTS = ("heads", "causal", "scaled", "dropout_rate")

    def __init__(
        self,
        heads: int,
        *,
        causal: bool = False,
        scaled: bool = True,
        dropout_rate: float = 0.0,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.heads, self.causal, self.scaled, self.dropout_rate = heads, causal, scaled, dropout_rate
        self.dropout = (
            Dropout(dropout_rate, seed=self.seed, name=f"{self.name}_dropout") if dropout_rate else None
        )

    def build(self, query_shape: Shape, **more: Shape) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del query_shape, more
        if self.dropout is not None:
            self.dropout.build(())

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding_mask: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        split = [
            ops.reshape(x, (*ops.shape(x)[:2], self.heads, x.shape[2] // self.heads))
            for x in (query, key, value)
        ]
        cache, causal, drop, seeing = caching.current() if self.causal else None, self.causal, None, None
        if padding_mask is not None:
            real = ops.not_equal(_of_length(key, padding_mask), 0)
            seeing = self.sees_real_keys(real, cache, query.shape[1])
            padding = caching.hidden_unless(ops.expand_dims(real, (1, 2)), query.dtype)
            bias = padding if bias is None else bias + padding
        if cache is not None:
            split[1:] = cache.extend(self.name, *split[1:])
            later = cache.bias(split[0].shape[1], query.dtype)
            bias, causal = later if bias is None else bias + later, False
        if training and self.trainable and self.dropout is not None:
            dropout = self.dropout
            drop = lambda weights: dropout(weights, training=True)  # noqa: E731
        scale = split[0].shape[-1] ** -0.5 if self.scaled else 1.0
        y = backends.current().attention(*split, bias, causal=causal, scale=scale, drop=drop)
        y = ops.reshape(y, ops.shape(query))
        return y if seeing is None else ops.where(ops.expand_dims(seeing, -1), y, ops.zeros((), y.dtype))

    def sees_real_keys(self, real: Tensor, cache: caching.Cache | None, count: Any) -> Tensor:
        """(b, m) -> (b, 1 or n): whether any of the keys that a query sees is real."""
        if not self.causal:
            return ops.any(real, axis=1, keepdims=True)
        steps = _steps(real)
        none = steps[:, -1:] + 1  # a tensor: an exporter would take a number for that of its example
        first = ops.min(ops.where(real, steps, none), axis=1, keepdims=True)
        return (steps if cache is None else cache.steps(count)) >= first

    @property
    def multiply_adds(self) -> int:
        """Of one example: q k^T, and the weights times v."""
        query, key, *_ = self.input
        return 2 * (query.shape[1] or 1) * (key.shape[1] or 1) * query.shape[2]

    def compute_output_spec(self, query: Tensor, *rest: Any, **more: Any) -> Tensor:
        del rest, more
        return keras.KerasTensor(query.shape, self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class Dense(Layer):
    """y = x kernel + bias over the last axis."""

    ARGUMENTS = ("units", "use_bias", "initializer", "bias_initializer", "regularizer")

    def __init__(
        self,
        units: int,
        *,
        use_bias: bool = True,
        initializer: Any = random.glorot_uniform,
        bias_initializer: Any = random.zeros,
        regularizer: Any = None,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.units, self.use_bias = units, use_bias
        self.initializer, self.bias_initializer = _initializer(initializer), _initializer(bias_initializer)
        self.regularizer = keras.regularizers.get(regularizer)

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.weight(
            "kernel",
            (input_shape[-1], self.units),
            self.initializer,
            regularizer=self.regularizer,
            kernel=True,
        )
        self.bias = self.weight("bias", (self.units,), self.bias_initializer) if self.use_bias else None

    def call(self, x: Tensor) -> Tensor:
        tensor = ops.convert_to_tensor
        bias = None if self.bias is None else tensor(self.bias)
        return backends.current().dense(x, tensor(self.kernel), bias)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return *shape[:-1], self.units


@keras.saving.register_keras_serializable("zoo")
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + epsilon) gamma + beta, the statistics of the batch in training.

    As torch.nn.BatchNorm2d: `momentum` is the weight of the new batch in the running statistics, and the
    running variance is the unbiased one (Keras keeps the biased one, and writes 1 - momentum). A frozen layer
    is in inference mode, as Keras's.
    """

    ARGUMENTS = ("momentum", "epsilon")

    def __init__(self, *, momentum: float = 0.1, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.momentum, self.epsilon = momentum, epsilon

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[-1:]
        self.gamma = self.weight("gamma", channels, random.ones, autocast=False)
        self.beta = self.weight("beta", channels, random.zeros, autocast=False)
        # With autocast torch's `assign` would write into a 16-bit copy: the statistics would never move.
        self.mean = self.weight("moving_mean", channels, random.zeros, trainable=False, autocast=False)
        self.variance = self.weight("moving_variance", channels, random.ones, trainable=False, autocast=False)

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        tensor, dtype = ops.convert_to_tensor, x.dtype
        training = training and self.trainable
        x = ops.cast(x, self.variable_dtype)  # statistics of 16-bit numbers need more than 16 bits
        y, mean, variance = backends.current().batch_norm(
            x,
            *map(tensor, (self.gamma, self.beta, self.mean, self.variance)),
            momentum=self.momentum,
            epsilon=self.epsilon,
            training=training,
        )
        if training:
            self.mean.assign(mean)
            self.variance.assign(variance)
        return ops.cast(y, dtype)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class LayerNorm(Layer):
    """y = (x - mean) / sqrt(variance + epsilon) gamma + beta over the last axis (Ba et al. 2016, eq. 4)."""

    ARGUMENTS = ("epsilon",)

    def __init__(self, *, epsilon: float = 1e-5, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.weight("gamma", input_shape[-1:], random.ones, autocast=False)
        self.beta = self.weight("beta", input_shape[-1:], random.zeros, autocast=False)

    def call(self, x: Tensor) -> Tensor:
        tensor, dtype = ops.convert_to_tensor, x.dtype
        x = ops.cast(x, self.variable_dtype)
        y = backends.current().layer_norm(x, tensor(self.gamma), tensor(self.beta), epsilon=self.epsilon)
        return ops.cast(y, dtype)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class RMSNorm(Layer):
    """y = x / sqrt(mean(x^2) + epsilon) gamma over the last axis (Zhang and Sennrich 2019, eq. 4)."""

    ARGUMENTS = ("epsilon",)

    def __init__(self, *, epsilon: float = 1e-6, **kwargs: Any):
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def build(self, input_shape: Shape) -> None:
        self.gamma = self.weight("gamma", input_shape[-1:], random.ones, autocast=False)

    def call(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = ops.cast(x, self.variable_dtype)
        y = backends.current().rms_norm(x, ops.convert_to_tensor(self.gamma), epsilon=self.epsilon)
        return ops.cast(y, dtype)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Dropout(Layer):
    """Zero each number with probability `rate` and scale the rest by 1 / (1 - rate), in training.

    The mask is a function of (seed, layer name, step, element), the same on every framework; `step` counts
    the training calls and is saved with the weights, so that a resumed run goes on with the next mask. A
    frozen layer is in inference mode, as its state must not change.
    """

    ARGUMENTS = ("rate",)

    def __init__(self, rate: float, **kwargs: Any):
        super().__init__(**kwargs)
        self.rate = rate
        self.scale = 1 / (1 - rate)  # a constant: XLA would turn a division into a multiplication, torch not
        self.key = random.key32(self.seed, self.name, "dropout")

    def build(self, input_shape: Shape) -> None:
        del input_shape
        self.step = self.add_weight(
            name="step", shape=(), dtype="int32", initializer="zeros", trainable=False
        )

    def call(self, x: Tensor, training: bool = False) -> Tensor:
        if not (training and self.trainable and self.rate):
            return x
        keep = random.keep(self.mask_shape(ops.shape(x)), self.rate, self.key, self.step.value)
        self.step.assign_add(1)
        return ops.where(keep, x * self.scale, ops.zeros((), x.dtype))

    def mask_shape(self, shape: Shape) -> Shape:
        """One draw for each number."""
        return shape

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class DropPath(Dropout):
    """Dropout of whole examples: the branch of a residual block is left out for some of the batch."""

    def mask_shape(self, shape: Shape) -> Shape:
        """One draw for each example."""
        return (shape[0], *(1 for _ in shape[1:]))


@keras.saving.register_keras_serializable("zoo")
class VariationalDropout(Dropout):
    """Dropout of features (b, n, c), with the same mask at every step (Gal and Ghahramani 2016)."""

    def mask_shape(self, shape: Shape) -> Shape:
        """One draw for each feature of each example."""
        return shape[0], 1, shape[2]


@keras.saving.register_keras_serializable("zoo")
class Add(Layer):
    """x + y."""

    def call(self, inputs: Sequence[Tensor]) -> Tensor:
        return backends.current().add(*inputs)

    def compute_output_shape(self, shapes: Sequence[Shape]) -> Shape:
        return shapes[0]


@keras.saving.register_keras_serializable("zoo")
class Gelu(Layer):
    """x Phi(x) (Hendrycks and Gimpel 2016), exact or by their tanh."""

    ARGUMENTS = ("approximate",)

    def __init__(self, *, approximate: bool = False, **kwargs: Any):
        super().__init__(**kwargs)
        self.approximate = approximate

    def call(self, x: Tensor) -> Tensor:
        return backends.current().gelu(x, approximate=self.approximate)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Parameter(Layer):
    """A weight that stands in the graph by itself, whatever the input: a scale, a token, a table."""

    ARGUMENTS = ("shape", "initializer")

    def __init__(self, shape: Sequence[int], *, initializer: Any = random.zeros, **kwargs: Any):
        super().__init__(**kwargs)
        self.shape, self.initializer = tuple(shape), _initializer(initializer)

    def build(self, input_shape: Shape) -> None:
        del input_shape  # the input only ties the weight into the graph
        self.value = self.weight("value", self.shape, self.initializer)

    def call(self, x: Tensor) -> Tensor:
        del x
        return ops.convert_to_tensor(self.value)

    def compute_output_shape(self, shape: Shape) -> Shape:
        del shape
        return self.shape


@keras.saving.register_keras_serializable("zoo")
class Token(Layer):
    """(b, n, c) -> (b, n + 1, c): a trainable vector before the first of each sequence."""

    ARGUMENTS = ("initializer",)

    def __init__(self, *, initializer: Any = random.zeros, **kwargs: Any):
        super().__init__(**kwargs)
        self.initializer = _initializer(initializer)

    def build(self, input_shape: Shape) -> None:
        self.value = self.weight("value", (1, 1, input_shape[-1]), self.initializer)

    def call(self, x: Tensor) -> Tensor:
        token = ops.broadcast_to(ops.convert_to_tensor(self.value), (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, n, c = shape
        return b, n + 1, c


# Sequences: (b, n, c), of which the first `lengths` (b,) steps are real and the rest is padding


@keras.saving.register_keras_serializable("zoo")
class Embedding(Layer):
    """(...) int32 -> (..., units): a row of the table for each token; `logits` go the other way."""

    ARGUMENTS = ("vocabulary", "units", "initializer")

    def __init__(
        self, vocabulary: int, units: int, *, initializer: Any = random.standard_normal, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.vocabulary, self.units, self.initializer = vocabulary, units, _initializer(initializer)

    def build(self, input_shape: Shape) -> None:
        del input_shape
        self.table = self.weight("table", (self.vocabulary, self.units), self.initializer)

    def call(self, x: Tensor, reverse: bool = False, bias: Tensor | None = None) -> Tensor:
        table = ops.convert_to_tensor(self.table)
        if reverse:
            return backends.current().dense(x, table, bias, transposed=True)
        return ops.take(table, x, axis=0)

    def logits(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., units) -> (..., vocabulary): x times the table (Press and Wolf 2016, arXiv:1608.05859)."""
        return self(x, reverse=True, bias=bias)

    @property
    def multiply_adds(self) -> int:
        """Of the logits, where it is asked for any."""
        reverse = [node for node in self._inbound_nodes if node.arguments.kwargs.get("reverse")]
        return sum(self.vocabulary * self.units * (node.input_tensors[0].shape[1] or 1) for node in reverse)

    def compute_output_spec(self, x: Tensor, reverse: bool = False, bias: Tensor | None = None) -> Tensor:
        del bias
        shape = (*x.shape[:-1], self.vocabulary) if reverse else (*x.shape, self.units)
        return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class Positions(Layer):
    """(b, n, c) -> (b, n, c): adds a trainable vector for each of the first `limit` places."""

    ARGUMENTS = ("limit", "initializer")

    def __init__(self, limit: int, *, initializer: Any = random.standard_normal, **kwargs: Any):
        super().__init__(**kwargs)
        self.limit, self.initializer = limit, _initializer(initializer)

    def build(self, input_shape: Shape) -> None:
        self.table = self.weight("table", (self.limit, input_shape[-1]), self.initializer)

    def call(self, x: Tensor) -> Tensor:
        table, cache = ops.convert_to_tensor(self.table), caching.current()
        if cache is None and _is_symbolic(x):
            return x + ops.take(table, _steps(x), axis=0)
        if cache is None:
            return x + table[: ops.shape(x)[1]]
        return x + ops.take(table, ops.minimum(cache.steps(x.shape[1]), self.limit - 1), axis=0)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Sinusoids(Layer):
    """(b, n, c) -> (b, n, c): adds [sin(t w), cos(t w)], t a place, w of c / 2 frequencies from 1 to 1e-4."""

    def call(self, x: Tensor) -> Tensor:
        n, half = x.shape[1], x.shape[-1] // 2
        cache = caching.current()
        places = _steps(x) if cache is None else cache.steps(n)  # (1 or b, n)
        frequencies = 1e-4 ** (np.arange(half) / max(1, half - 1))
        angles = ops.expand_dims(ops.cast(places, x.dtype), -1) * ops.convert_to_tensor(
            frequencies, dtype=x.dtype
        )
        return x + ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Segments(Layer):
    """(b, n, c) -> (b, n, c): adds a trainable vector for each token's segment, (b, n), by default 0."""

    ARGUMENTS = ("count", "initializer")

    def __init__(self, count: int = 2, *, initializer: Any = random.standard_normal, **kwargs: Any):
        super().__init__(**kwargs)
        self.count, self.initializer = count, _initializer(initializer)

    def build(self, input_shape: Shape, **more: Shape) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del more
        self.table = self.weight("table", (self.count, input_shape[-1]), self.initializer)

    def call(self, x: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        table = ops.convert_to_tensor(self.table)
        return x + (table[0] if segment_ids is None else ops.take(table, _of_length(x, segment_ids), axis=0))

    def compute_output_spec(self, x: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        del segment_ids
        return keras.KerasTensor(x.shape, self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class RelativePositions(Layer):
    """(b, n, c) -> (1 or b, heads, n, n): what is added to the scores of a key so far from its query.

    Distances fall into buckets, half of them a step wide, the others ever wider up to `distance`; without
    `causal` half of all are for keys that come later (Raffel et al. 2019, section 2.1; the buckets are those
    of its code, github.com/tensorflow/mesh, `_relative_position_bucket`).
    """

    ARGUMENTS = ("heads", "causal", "buckets", "distance", "initializer")

    def __init__(
        self,
        heads: int,
        *,
        causal: bool = False,
        buckets: int = 32,
        distance: int = 128,
        initializer: Any = random.standard_normal,
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        self.heads, self.causal, self.buckets, self.distance = heads, causal, buckets, distance
        self.initializer = _initializer(initializer)
        # A table, from -distance to distance: no framework's logarithm decides where a bucket ends.
        count = buckets if causal else buckets // 2
        exact, steps = count // 2, np.arange(distance + 1, dtype=np.float32)
        far = np.log(np.maximum(steps, 1) / np.float32(exact)) / np.float32(np.log(distance / exact))
        wide = exact + (far * np.float32(count - exact)).astype(np.int32)
        before = np.where(steps < exact, steps, np.minimum(wide, count - 1)).astype(np.int32)
        after = np.zeros_like(before) if causal else count + before
        self.bucket = np.concatenate([before[::-1], after[1:]])

    def build(self, input_shape: Shape) -> None:
        del input_shape
        self.table = self.weight("table", (self.buckets, self.heads), self.initializer)

    def call(self, x: Tensor) -> Tensor:
        cache = caching.current() if self.causal else None
        n, far = x.shape[1], self.distance
        xp: Any = ops
        if cache is not None:
            queries = cache.steps(n)
            keys = ops.expand_dims(ops.arange(cache.length, dtype="int32"), 0)
        elif not isinstance(n, int):  # any length, or that of an example from which a program is exported
            queries = keys = _steps(x)
        else:
            xp = np  # the buckets are a constant of the program
            queries = keys = np.arange(n, dtype=np.int32)[None]
        after = xp.expand_dims(keys, 1) - xp.expand_dims(queries, 2)  # (1 or b, n, m)
        # A column: of a vector Keras's `take` on torch is by `ravel`, which its exporter to ONNX lacks.
        bucket = xp.take(self.bucket[:, None], xp.clip(after, -far, far) + far, axis=0)[..., 0]
        bias = ops.take(ops.convert_to_tensor(self.table), bucket, axis=0)  # (1 or b, n, m, heads)
        return ops.transpose(bias, (0, 3, 1, 2))

    def compute_output_spec(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return keras.KerasTensor((None, self.heads, n, n), self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class Lengths(Layer):
    """(b, n) or (b, n, c) -> (b,) int32: where the last step that is not all zeros stands, counted from 1."""

    def call(self, x: Tensor) -> Tensor:
        real = ops.not_equal(x, 0)
        real = ops.any(real, axis=-1) if len(x.shape) == 3 else real
        return ops.max(ops.cast(real, "int32") * (_steps(x) + 1), axis=1)

    def compute_output_spec(self, x: Tensor) -> Tensor:
        return keras.KerasTensor(x.shape[:1], "int32")


@keras.saving.register_keras_serializable("zoo")
class ZeroPadding(Layer):
    """x, its padding set to zero."""

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = ops.reshape(_real(x, lengths), (*ops.shape(x)[:2], *(1 for _ in x.shape[2:])))
        return ops.where(real, x, ops.zeros((), x.dtype))

    def compute_output_spec(self, x: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return keras.KerasTensor(x.shape, x.dtype)


def _is_symbolic(x: Tensor) -> bool:
    """Whether the length of x (b, n, ...) is a name, as in a program of any length that JAX exports."""
    n = x.shape[1]
    return not (n is None or isinstance(n, int) or ops.is_tensor(n))  # a tensor in torch's exporter to ONNX


def _of_length(x: Tensor, y: Tensor) -> Tensor:
    """y (b, n), whose n is that of x (b, n, ...): as a name each input of a model has its own."""
    return ops.take(y, _steps(x)[0], axis=1) if _is_symbolic(x) else y


def _steps(x: Tensor) -> Tensor:
    """(1, n): 0 to n - 1."""
    return ops.expand_dims(ops.arange(ops.shape(x)[1], dtype="int32"), 0)


def _real(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, n): whether a step is none of the padding."""
    return ops.less(_steps(x), ops.expand_dims(lengths, 1))


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """(b, n, c), (b, m) -> (b, m, c): of each sequence the steps at these places."""
    batch, n, width = ops.shape(x)
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * n, 1)
    return ops.take(ops.reshape(x, (-1, width)), places + first, axis=0)


def _ends(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, n, c) -> (b, c): the last real step of each sequence; where there is none, the first."""
    batch, _, width = ops.shape(x)
    # Steps first, as the frameworks' recurrences lay them in memory.
    steps = ops.reshape(ops.swapaxes(x, 0, 1), (-1, width))
    return ops.take(steps, ops.maximum(lengths - 1, 0) * batch + ops.arange(batch, dtype="int32"), axis=0)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence from its end to its beginning, its padding still behind it."""
    if lengths is None:
        return ops.flip(x, axis=1)
    steps, end = _steps(x), ops.expand_dims(lengths, 1)
    return _rows(x, ops.where(ops.less(steps, end), end - 1 - steps, steps))


class Recurrent(Layer):
    """(b, n, c) -> h at every step (b, n, u), zero in the padding, and the last states (b, u).

    The frameworks' kernels know no padding. It stands behind what is real, in reverse too, so that a padded
    sequence gives the numbers of the sequence alone: what comes of the padding is left out.
    """

    ARGUMENTS = ("units", "reverse", "initializer")
    GATES: int
    STATES: int

    def __init__(
        self, units: int, *, reverse: bool = False, initializer: Any = random.glorot_uniform, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.units, self.reverse, self.initializer = units, reverse, _initializer(initializer)

    def build(self, x_shape: Shape, **states: Shape) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del states
        width = self.GATES * self.units
        self.kernel = self.weight("kernel", (x_shape[-1], width), self.initializer, kernel=True)
        self.recurrent_kernel = self.weight(
            "recurrent_kernel", (self.units, width), random.orthogonal, kernel=True
        )
        self.bias = self.weight("bias", (width,), self.first_bias())
        self.recurrent_bias = self.weight("recurrent_bias", (width,), random.zeros) if self.paired else None

    @property
    def paired(self) -> bool:
        """Whether the recurrent kernel has a bias of its own."""
        return True

    def first_bias(self) -> Initializer:
        """What the bias is drawn from."""
        return random.zeros

    def recur(self, x: Tensor, states: list[Tensor], weights: list[Tensor | None]) -> tuple[Tensor, ...]:
        """The framework's recurrence: outputs and last states."""
        raise NotImplementedError

    def call(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        first = ops.zeros((ops.shape(x)[0], self.units), x.dtype)
        states = [first if state is None else state for state in (h, c)[: self.STATES]]
        kernel, *rest = (
            None if w is None else ops.convert_to_tensor(w)
            for w in (self.kernel, self.recurrent_kernel, self.bias, self.recurrent_bias)
        )
        if self.reverse:
            x = _reversed(x, lengths)
        if lengths is not None:
            x, kernel = self.told(x, kernel, lengths)
        outputs, *last = self.recur(x, states, [kernel, *rest])
        if lengths is not None:
            last[0] = ops.where(ops.expand_dims(lengths > 0, 1), _ends(outputs, lengths), states[0])
            outputs = self.trimmed(outputs, lengths)
        return _reversed(outputs, lengths) if self.reverse else outputs, *last

    def told(self, x: Tensor, kernel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The input and its kernel, which may tell the gates what is padding."""
        del lengths
        return x, kernel

    def trimmed(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """The outputs, zero in the padding."""
        return ops.where(ops.expand_dims(_real(outputs, lengths), -1), outputs, ops.zeros((), outputs.dtype))

    def compute_output_spec(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        del lengths, h, c
        b, n, _ = x.shape
        shapes = (b, n, self.units), *((b, self.units) for _ in range(self.STATES))
        return tuple(keras.KerasTensor(shape, self.compute_dtype) for shape in shapes)


@keras.saving.register_keras_serializable("zoo")
class LSTM(Recurrent):
    """Hochreiter and Schmidhuber 1997 with Gers's forget gate, as torch.nn.LSTM; a bias of 1 to remember.

    Its cell must come through the padding, as it is no output. A padded step is one whose gates are told to
    keep it, by one more input that is 1 there and weighs `KEEP` at each gate: sigmoid(200) is 1 to the last
    bit and sigmoid(-200) adds nothing.
    """

    GATES, STATES = 4, 2
    KEEP = (-200.0, 200.0, 0.0, -200.0)  # input, forget, cell, output: nothing in, nothing out, all kept

    def first_bias(self) -> Initializer:
        return random.forget_one

    def recur(self, x: Tensor, states: list[Tensor], weights: list[Tensor | None]) -> tuple[Tensor, ...]:
        return backends.current().lstm(x, *states, *weights)

    def told(self, x: Tensor, kernel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        padding = ops.expand_dims(ops.logical_not(_real(x, lengths)), -1)
        keep = np.repeat(np.array(self.KEEP, np.float32), self.units)[None]
        x = ops.concatenate([x, ops.cast(padding, x.dtype)], axis=-1)
        return x, ops.concatenate([kernel, ops.convert_to_tensor(keep, dtype=x.dtype)], axis=0)

    def trimmed(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return outputs  # the output gate is shut in the padding


@keras.saving.register_keras_serializable("zoo")
class GRU(Recurrent):
    """Cho et al. 2014; with `reset_after` as torch.nn.GRU, which resets what the recurrent kernel gives."""

    ARGUMENTS = (*Recurrent.ARGUMENTS, "reset_after")
    GATES, STATES = 3, 1

    def __init__(self, units: int, *, reset_after: bool = True, **kwargs: Any):
        super().__init__(units, **kwargs)
        self.reset_after = reset_after

    @property
    def paired(self) -> bool:
        return self.reset_after

    def recur(self, x: Tensor, states: list[Tensor], weights: list[Tensor | None]) -> tuple[Tensor, ...]:
        return backends.current().gru(x, *states, *weights)


@keras.saving.register_keras_serializable("zoo")
class AttentionDecoder(Layer):
    """An LSTM that looks at a memory before every step (Bahdanau et al. 2014, arXiv:1409.0473, section 3).

        e_ij = v . tanh(W h_(i-1) + U m_j)      a_i = softmax(e_i)      context_i = sum_j a_ij m_j      (6, 5)
        h_i, c_i = LSTM([x_i; context_i], h_(i-1), c_(i-1))

    (b, m, c), memory (b, n, k) and its lengths, states (b, u) twice -> [h_i; context_i] (b, m, u + k).
    """

    ARGUMENTS = ("units", "initializer")

    def __init__(self, units: int, *, initializer: Any = random.glorot_uniform, **kwargs: Any):
        super().__init__(**kwargs)
        self.units, self.initializer = units, _initializer(initializer)

    def build(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_shape: Shape, memory_shape: Shape, **rest: Shape
    ) -> None:
        del rest
        u, k = self.units, memory_shape[-1]
        self.query_kernel = self.weight("query_kernel", (u, u), self.initializer)  # W
        self.memory_kernel = self.weight("memory_kernel", (k, u), self.initializer)  # U
        self.score_kernel = self.weight("score_kernel", (u, 1), self.initializer)  # v
        self.kernel = self.weight("kernel", (x_shape[-1] + k, 4 * u), self.initializer)
        self.recurrent_kernel = self.weight("recurrent_kernel", (u, 4 * u), random.orthogonal)
        self.bias = self.weight("bias", (4 * u,), random.forget_one)

    def call(self, x: Tensor, memory: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> Tensor:
        w, u, v, kernel, recurrent, bias = (
            ops.convert_to_tensor(weight)
            for weight in (
                self.query_kernel, self.memory_kernel, self.score_kernel,
                self.kernel, self.recurrent_kernel, self.bias,
            )
        )  # fmt: skip
        width = x.shape[-1]
        keys = ops.matmul(memory, u)  # (b, n, u)
        inputs = ops.matmul(x, kernel[:width]) + bias  # (b, m, 4u), of all steps at once
        real = _real(memory, lengths)  # (b, n)
        hidden = caching.hidden_unless(real, x.dtype)
        memory = ops.where(
            ops.expand_dims(real, -1), memory, ops.zeros((), x.dtype)
        )  # an empty one gives zeros

        def step(states: Sequence[Tensor], projected: Tensor) -> Sequence[Tensor]:
            h, c, _ = states
            asked = ops.expand_dims(ops.matmul(h, w), 1)  # (b, 1, u)
            scores = ops.matmul(ops.tanh(asked + keys), v)[..., 0] + hidden  # (b, n)
            # ops.softmax, which warns of a memory of one step
            weights = ops.expand_dims(ops.exp(scores - ops.logsumexp(scores, axis=-1, keepdims=True)), 1)
            context = ops.matmul(weights, memory)[:, 0]  # (b, k)
            gates = projected + ops.matmul(context, kernel[width:]) + ops.matmul(h, recurrent)
            i, f, g, o = ops.split(gates, 4, axis=-1)
            c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
            h = ops.sigmoid(o) * ops.tanh(c)
            return h, c, context

        h, _, context = backends.current().scan(
            step, (h, c, ops.zeros_like(memory[:, 0])), ops.swapaxes(inputs, 0, 1)
        )
        return ops.swapaxes(ops.concatenate([h, context], axis=-1), 0, 1)

    def compute_output_spec(self, x: Tensor, memory: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> Tensor:
        del lengths, h, c
        return keras.KerasTensor((*x.shape[:2], self.units + memory.shape[-1]), self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class BlankPadding(Layer):
    """Logits (b, n, classes) that say class 0, CTC's blank, for certain in the padding."""

    def call(self, logits: Tensor, lengths: Tensor) -> Tensor:
        classes = logits.shape[-1]
        blank = np.where(np.arange(classes) == 0, 0, MASK_VALUE).astype(np.float32)
        real = ops.expand_dims(_real(logits, lengths), -1)
        return ops.where(real, logits, ops.convert_to_tensor(blank, dtype=logits.dtype))

    def compute_output_spec(self, logits: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return keras.KerasTensor(logits.shape, logits.dtype)


@keras.saving.register_keras_serializable("zoo")
class TokenModel(keras.Model):
    """A model of inputs by name, `token_ids` alone if need be; tokens that it does not know are refused.

    A compiled function cannot check them: JAX has NaN for such a token, TensorFlow under XLA the nearest one.
    So arrays are checked whole before Keras's `fit` and the like compile, and of a generator the first batch;
    data sets and loaders are not, as looking at a batch may use it up.
    """

    def complete(self, inputs: Any) -> dict[str, Any]:
        """Each input by its name; None for one that is left out."""
        names = list(self._inputs_struct)
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        if unknown := sorted(given.keys() - set(names)):
            raise WrongConfiguration(
                f"{self.name} has no input {', '.join(unknown)}; it takes {', '.join(names)}"
            )
        return {name: given.get(name) for name in names}

    def __call__(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
        inputs = self.complete(inputs)
        self.check(inputs)
        return super().__call__(inputs, *arguments, **options)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(self.complete(inputs), training=training, mask=mask)

    def compute_output_spec(
        self, inputs: dict[str, Any], training: bool | None = None, mask: Any = None
    ) -> Any:
        # Keras's asks for the shape of every input, of one that is left out, too.
        own = zip(inputs, keras.tree.flatten(self._inputs_struct), strict=True)
        return super().compute_output_spec(
            {name: tensor if inputs[name] is None else inputs[name] for name, tensor in own}, training, mask
        )

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raise WrongConfiguration for tokens that the model does not know, where the numbers are at hand."""
        known = {name: backends.current().concrete_value(x) for name, x in inputs.items() if x is not None}
        registry.check_tokens(self, {name: x for name, x in known.items() if x is not None})

    def checked(self, x: Any) -> Any:
        """Data for `fit` and the like, its tokens checked."""
        if isinstance(x, GeneratorType):
            return self.first_checked(x)
        if isinstance(x, dict) or backends.current().concrete_value(x) is not None:
            self.check(self.complete(x))
        return x

    def first_checked(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, (x, y) or x, the tokens of the first checked."""
        for batch in batches:
            self.checked(batch[0] if isinstance(batch, tuple) else batch)
            yield batch
            break
        yield from batches

    def fit(self, x: Any = None, *arguments: Any, **options: Any) -> Any:
        held_out = options.get("validation_data")
        if isinstance(held_out, tuple | list):
            self.checked(held_out[0])
        return super().fit(self.checked(x), *arguments, **options)

    def evaluate(self, x: Any = None, *arguments: Any, **options: Any) -> Any:
        return super().evaluate(self.checked(x), *arguments, **options)

    def predict(self, x: Any, *arguments: Any, **options: Any) -> Any:
        return super().predict(self.checked(x), *arguments, **options)

    def train_on_batch(self, x: Any, *arguments: Any, **options: Any) -> Any:
        return super().train_on_batch(self.checked(x), *arguments, **options)

    def test_on_batch(self, x: Any, *arguments: Any, **options: Any) -> Any:
        return super().test_on_batch(self.checked(x), *arguments, **options)

    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(self.checked(x))


class CachedStep(keras.Model):
    """One call of a decoder that goes on from a cache, see `zoo.generation.Steps`."""

    def __init__(self, decoder: keras.Model, tokens: str):
        super().__init__(name=decoder.name, dtype=decoder.dtype_policy)
        self.decoder, self.tokens, self.built = decoder, tokens, True

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        arrays = inputs["cache"]
        if (parents := inputs.get("parents")) is not None:
            arrays = {
                name: tuple(ops.take(x, parents, axis=0) for x in pair) for name, pair in arrays.items()
            }
        with caching.remembering(arrays, inputs["positions"]) as cache:
            logits = self.decoder({self.tokens: inputs["token_ids"], **inputs["given"]}, training=training)
        if logits.shape[1] > 1:
            logits = ops.take_along_axis(logits, ops.expand_dims(inputs["last"], (1, 2)), axis=1)
        return {"logits": logits[:, 0], "cache": cache.arrays}


@keras.saving.register_keras_serializable("zoo")
class L1(keras.regularizers.L1):
    """weight sum |w|, whose gradient at 0 is 0 everywhere; that of Keras's is +weight on JAX."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.l1 * ops.sum(x * ops.stop_gradient(ops.sign(x)))


@keras.saving.register_keras_serializable("zoo")
class L2(keras.regularizers.L2):
    """weight sum w^2. Keras's casts the weight, which TensorFlow does by way of float32."""

    def __call__(self, x: Tensor) -> Tensor:
        return self.l2 * ops.sum(ops.square(x))


class Tap(keras.layers.Layer):
    """x + 0, the zeros being weights of x's shape: their gradient is that of x. See `zoo.taps`."""

    def build(self, input_shape: Shape) -> None:
        shape = [1 if n is None else n for n in input_shape]  # one example, of an unknown batch
        self.zeros = self.add_weight(name="zeros", shape=shape, initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        return x + self.zeros

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


class LastValue(keras.metrics.Metric):
    """A metric that is the last value it was given, not the mean: each step's loss, for the keras engine."""

    def __init__(self, name: str):
        super().__init__(name=name)
        self.value = self.add_variable(shape=(), initializer="zeros", name="value")

    def update_state(self, value: Tensor, sample_weight: Any = None) -> None:
        del sample_weight
        self.value.assign(ops.cast(value, self.value.dtype))

    def result(self) -> Tensor:
        return self.value + 0  # a copy: the variable itself will hold the next step's
