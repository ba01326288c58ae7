"""TensorFlow behind the zoo's contract; what each function does is said in `zoo.backends.Backend`."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from zoo.backends import Device, Loss, LossScaling, allowed, find_device, host_memory

if TYPE_CHECKING:
    import keras

    from zoo.optimizers import Optimizer

NAME = "tensorflow"


# The machine


def version() -> str:
    return tf.__version__


def devices() -> list[Device]:
    kind = "ROCm" if tf.test.is_built_with_rocm() else "CUDA"
    found = [_describe(device, i, kind) for i, device in enumerate(tf.config.list_physical_devices("GPU"))]
    found += [_describe(device, i, "TPU") for i, device in enumerate(tf.config.list_physical_devices("TPU"))]
    return [*found, Device("cpu", "CPU", platform.processor() or platform.machine(), None)]


def _describe(device: Any, number: int, kind: str) -> Device:
    details = tf.config.experimental.get_device_details(device)
    if "Apple" in (description := details.get("device_name", device.name)) or platform.system() == "Darwin":
        kind = "MPS"
    return Device(f"{kind.lower()}:{number}", kind, description, None)


def use_device(name: str) -> None:
    found = find_device(devices(), name)
    for platform_name in ("GPU", "TPU"):
        physical = tf.config.list_physical_devices(platform_name)
        wanted = [d for i, d in enumerate(physical) if found.name.endswith(f":{i}")]
        tf.config.set_visible_devices(wanted, platform_name)


def set_threads(count: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(count)
    # Operations side by side need two: with one, an input pipeline and the step that waits for it have hung.
    tf.config.threading.set_inter_op_parallelism_threads(max(2, count))


def threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or _cores()


def peak_memory() -> int:
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return host_memory()


def set_deterministic() -> None:
    tf.config.experimental.enable_op_determinism()


def synchronize(value: tf.Tensor) -> None:
    value.numpy()


# Operations


def tensor(array: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(array)


def kernel_memory(kernel: np.ndarray) -> np.ndarray:
    return kernel  # HWIO is TensorFlow's own


def conv(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, *, stride: int, padding: int, groups: int = 1
) -> tf.Tensor:
    sides, inputs = _sides(padding), kernel.shape[2]
    if groups == 1:
        y = tf.nn.conv2d(x, kernel, stride, sides)
    elif inputs == 1:  # a channel to each group
        each = tf.reshape(kernel, (*kernel.shape[:2], groups, -1))
        y = tf.nn.depthwise_conv2d(x, each, (1, stride, stride, 1), sides)
    else:  # on a CPU TensorFlow convolves groups under XLA only
        pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        y = tf.concat([tf.nn.conv2d(part, own, stride, sides) for part, own in pairs], -1)
    return y if bias is None else tf.nn.bias_add(y, bias)


def max_pool(x: tf.Tensor, size: int, stride: int, padding: int) -> tf.Tensor:
    return tf.nn.max_pool2d(x, size, stride, _sides(padding))


def _sides(padding: int) -> Any:
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]] if padding else "VALID"


def average_pool(x: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    return tf.nn.avg_pool2d(x, size, stride, "VALID")


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None) -> tf.Tensor:
    y = tf.tensordot(x, kernel, 1) if x.shape.rank > 2 else x @ kernel
    return y if bias is None else tf.nn.bias_add(y, bias)


def batch_norm(
    x: tf.Tensor,
    gamma: tf.Tensor,
    beta: tf.Tensor,
    mean: tf.Tensor,
    variance: tf.Tensor,
    *,
    momentum: float,
    epsilon: float,
    training: bool,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    if not training:
        return (x - mean) * (tf.math.rsqrt(variance + epsilon) * gamma) + beta, mean, variance
    axes, count = list(range(x.shape.rank - 1)), tf.cast(tf.size(x) / tf.size(mean), x.dtype)
    batch_mean = tf.reduce_mean(x, axes)
    batch_variance = tf.reduce_mean(tf.square(x - batch_mean), axes)
    y = (x - batch_mean) * (tf.math.rsqrt(batch_variance + epsilon) * gamma) + beta
    mean = (1 - momentum) * mean + momentum * batch_mean
    variance = (1 - momentum) * variance + momentum * count / (count - 1) * batch_variance
    return y, mean, variance


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def attention(query: tf.Tensor, key: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    query, key, value = (tf.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))
    scores = tf.matmul(query * int(query.shape[-1] or 1) ** -0.5, key, transpose_b=True)
    return tf.transpose(tf.nn.softmax(scores) @ value, (0, 2, 1, 3))


def gelu(x: tf.Tensor, *, approximate: bool) -> tf.Tensor:
    # tf.nn.gelu's constants are float32 even for float64, off by 1.8e-9; tf.cast of a number would be too.
    if approximate:
        inner = tf.constant((2 / np.pi) ** 0.5, x.dtype) * (x + tf.constant(0.044715, x.dtype) * x**3)
        return 0.5 * x * (1 + tf.tanh(inner))
    return 0.5 * x * tf.math.erfc(-x * tf.constant(0.5**0.5, x.dtype))


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float = 0.0) -> tf.Tensor:
    soft = labels.shape.rank == logits.shape.rank
    if not soft and not label_smoothing:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
    classes = int(logits.shape[-1] or 0)
    targets = tf.cast(labels, logits.dtype) if soft else tf.one_hot(labels, classes, dtype=logits.dtype)
    targets = targets * (1 - label_smoothing) + label_smoothing / classes
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


# Training


def optimizer(description: Optimizer, variables: Sequence[keras.Variable]) -> Optimizer:
    """TensorFlow's optimizers are Keras's: the description itself, its update by TensorFlow's kernels."""
    twin = description.fresh()
    twin.build(variables)
    kernel = KERNELS.get(type(twin).__name__)
    if kernel and not getattr(twin, "amsgrad", False):
        twin.update = partial(kernel, twin)
    return twin


def _momentum_kernel(
    self: Any, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, decay: float, memory: Any
) -> None:
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=memory[0].value.handle,
        lr=rate,
        grad=gradient + decay * variable if decay else gradient,
        momentum=tf.convert_to_tensor(self.cycled(variable.dtype.name), variable.dtype),
        use_nesterov=self.nesterov,
    )


def _adam_kernel(
    self: Any, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, decay: float, memory: Any
) -> None:
    dtype = variable.dtype
    # As the kernel rounds them: in float32 1 - 0.999 is 1.3e-5 off, above and below in v / (1 - b2^t) alike.
    beta_1, beta_2 = (
        float(np.array(b, dtype.as_numpy_dtype)) if isinstance(b, float) else b
        for b in (self.cycled(dtype.name), self.beta_2)
    )
    root = tf.sqrt(self.correction(beta_2, dtype.name))
    if decay and self.DECOUPLED:
        variable.assign(variable * (1 - rate * decay))
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=memory[0].value.handle,
        v=memory[1].value.handle,
        # The kernel's own bias correction takes powers in float32, 6e-6 off: it is given powers of 0.
        beta1_power=tf.zeros((), dtype),
        beta2_power=tf.zeros((), dtype),
        lr=rate * root / self.correction(beta_1, dtype.name),
        beta1=tf.convert_to_tensor(beta_1, dtype),
        beta2=tf.constant(beta_2, dtype),
        epsilon=self.epsilon * root,
        grad=gradient + decay * variable if decay and not self.DECOUPLED else gradient,
    )


KERNELS: dict[str, Callable[..., None]] = {
    "Momentum": _momentum_kernel,
    "Adam": _adam_kernel,
    "AdamW": _adam_kernel,
}  # the others are made of operations, in zoo.optimizers; so is AMSGrad, whose kernel XLA lacks


def updater(
    description: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None = None
) -> Updater:
    return Updater(description, variables, scaling)


class Updater:
    """One update of the model's own variables by the native optimizer."""

    def __init__(
        self, description: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None
    ):
        self.variables = list(variables)
        self.optimizer = twin = optimizer(description, variables)
        self.outer: Any = twin if scaling is None else _scaled(twin, scaling)
        self.outer.build(variables)

    def __call__(self, gradients: Sequence[Any]) -> None:
        self.outer.apply([tf.convert_to_tensor(g) for g in gradients], self.variables)

    def scale(self, loss: tf.Tensor) -> tf.Tensor:
        return self.outer.scale_loss(loss)

    def memory(self) -> dict[str, np.ndarray]:
        from zoo.optimizers import memory_of

        return memory_of(self.outer)

    def restore(self, memory: Mapping[str, np.ndarray]) -> None:
        from zoo.optimizers import restore_into

        restore_into(self.outer, memory)

    def finish(self) -> None:
        self.optimizer.finalize_variable_values(self.variables)


def _scaled(twin: Optimizer, scaling: LossScaling) -> Any:
    from zoo._lazy import keras

    return keras.optimizers.LossScaleOptimizer(
        twin, initial_scale=scaling.initial_scale, dynamic_growth_steps=scaling.growth_steps
    )


def gradients(
    model: keras.Model, loss: Loss
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, list[tf.Tensor]]]:
    stateless: Any = model.stateless_call

    @tf.function
    def call(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
        weights, state = _values(model.trainable_variables), _values(model.non_trainable_variables)
        weights = [tf.convert_to_tensor(w) for w in weights]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, _, penalties = stateless(weights, state, x, training=True, return_losses=True)
            value = loss(y, logits) + sum(penalties)
        found = tape.gradient(value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return value, [tf.convert_to_tensor(g) for g in found]

    return call


def input_gradient(function: Callable[[tf.Tensor], tf.Tensor], x: tf.Tensor) -> tf.Tensor:
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    found: Any = tape.gradient(value, x, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return found


def step(
    model: keras.Model, loss: Loss, optimizer: Optimizer, mode: str, scaling: LossScaling | None = None
) -> TensorFlowStep:
    return TensorFlowStep(model, loss, optimizer, allowed(NAME, mode), scaling)


class TensorFlowStep:
    """`tf.function` around a `GradientTape` and the update; the variables are the model's own."""

    def __init__(
        self, model: keras.Model, loss: Loss, description: Optimizer, mode: str, scaling: LossScaling | None
    ):
        weights = model.trainable_variables
        self.updater = updater = Updater(description, weights, scaling)

        def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
            with tf.GradientTape() as tape:
                value = loss(y, model(x, training=True)) + sum(model.losses)
                scaled = updater.scale(value)
            updater(
                tape.gradient(scaled, _values(weights), unconnected_gradients=tf.UnconnectedGradients.ZERO)
            )
            return value

        self.step = step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")

    def __call__(self, x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        return self.step(x, y)

    def sync(self) -> None:
        pass  # TensorFlow trains the model's own variables


def predictor(model: keras.Model, mode: str) -> Callable[[tf.Tensor], tf.Tensor]:
    def forward(x: tf.Tensor) -> tf.Tensor:
        return model(x, training=False)

    return forward if allowed(NAME, mode) == "eager" else tf.function(forward, jit_compile=mode == "xla")


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, jit_compile=True)


def _values(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    return [v.value for v in variables]


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))
