"""Keras layers of every network: dense layers, norms, dropout, single weights, regularizers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.layers.base import Layer, Shape, Tensor
from zoo.random import Initializer


@keras.saving.register_keras_serializable("zoo")
class Dense(Layer):
    """y = x kernel + bias over the last axis; with LoRA, y = x (kernel + alpha / rank a b) + bias.

    `enable_lora` and the attributes it sets are those of Keras's Dense.
    """

    units: int
    use_bias: bool
    initializer: Initializer
    bias_initializer: Initializer
    regularizer: Any

    def __init__(self, *args: Any, lora_rank: Any = None, lora_alpha: Any = None, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lora_enabled, self.lora_rank, self.lora_alpha = False, lora_rank, lora_alpha

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.weight(
            "kernel",
            (input_shape[-1], self.units),
            self.initializer,
            regularizer=self.regularizer,
            kernel=True,
        )
        self.bias = self.weight("bias", (self.units,), self.bias_initializer) if self.use_bias else None
        if self.lora_rank is not None:
            self.enable_lora(self.lora_rank, self.lora_alpha)

    def call(self, x: Tensor) -> Tensor:
        tensor, dense = ops.convert_to_tensor, backends.current().dense
        bias = None if self.bias is None else tensor(self.bias)
        y = dense(x, tensor(self.kernel), bias)
        if not self.lora_enabled:
            return y
        delta = dense(dense(x, tensor(self.lora_kernel_a), None), tensor(self.lora_kernel_b), None)
        return y + delta * (self.lora_alpha / self.lora_rank)

    def enable_lora(
        self,
        rank: int,
        lora_alpha: float | None = None,
        a_initializer: Any = "he_uniform",
        b_initializer: Any = "zeros",
    ) -> None:
        """Freeze the kernel, and add a (in, rank) and b (rank, units), whose product is added to it."""
        self._tracker.unlock()  # as Keras's layers do: a layer that is built takes no more weights
        shapes = {"a": (self.kernel.shape[0], rank), "b": (rank, self.units)}
        self.lora_kernel_a, self.lora_kernel_b = (
            self.add_weight(
                name=f"lora_kernel_{part}",
                shape=shapes[part],
                initializer=initializer,
                regularizer=self.regularizer,
            )
            for part, initializer in (("a", a_initializer), ("b", b_initializer))
        )
        self._tracker.lock()
        self.kernel.trainable = False
        self.lora_enabled, self.lora_rank = True, rank
        self.lora_alpha = rank if lora_alpha is None else lora_alpha

    def get_config(self) -> dict[str, Any]:
        lora = {"lora_rank": self.lora_rank, "lora_alpha": self.lora_alpha} if self.lora_enabled else {}
        return {**super().get_config(), **lora}

    def compute_output_shape(self, shape: Shape) -> Shape:
        return *shape[:-1], self.units


@keras.saving.register_keras_serializable("zoo")
class BatchNorm(Layer):
    """y = (x - mean) / sqrt(variance + epsilon) gamma + beta, the statistics of the batch in training.

    As torch.nn.BatchNorm2d: `momentum` is the weight of the new batch in the running statistics, and the
    running variance is the unbiased one (Keras keeps the biased one, and writes 1 - momentum). A frozen layer
    is in inference mode, as Keras's.
    """

    momentum: float
    epsilon: float

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

    epsilon: float

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

    epsilon: float

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

    rate: float

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        # A constant: XLA would turn a division into a multiplication, torch not.
        self.scale = 1 / (1 - self.rate)
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

    approximate: bool

    def call(self, x: Tensor) -> Tensor:
        return backends.current().gelu(x, approximate=self.approximate)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Parameter(Layer):
    """A weight that stands in the graph by itself, whatever the input: a scale, a token, a table."""

    shape: tuple[int, ...]
    initializer: Initializer

    def build(self, input_shape: Shape) -> None:
        del input_shape  # the input only ties the weight into the graph
        self.value = self.weight("value", self.shape, self.initializer)

    def call(self, x: Tensor) -> Tensor:
        del x
        # Not the variable, which on TensorFlow is a tensor, too: who reads it later may be in another scope.
        return self.value.value

    def compute_output_shape(self, shape: Shape) -> Shape:
        del shape
        return self.shape


@keras.saving.register_keras_serializable("zoo")
class Token(Layer):
    """(b, n, c) -> (b, n + 1, c): a trainable vector before the first of each sequence."""

    initializer: Initializer

    def build(self, input_shape: Shape) -> None:
        self.value = self.weight("value", (1, 1, input_shape[-1]), self.initializer)

    def call(self, x: Tensor) -> Tensor:
        token = ops.broadcast_to(ops.convert_to_tensor(self.value), (ops.shape(x)[0], 1, x.shape[-1]))
        return ops.concatenate([token, x], axis=1)

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, n, c = shape
        return b, n + 1, c


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
