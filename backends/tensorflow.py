"""TensorFlow behind the zoo's contract; its functions are documented in `zoo.backends.Backend`."""

from __future__ import annotations

import atexit
import gc
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import chain
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tensorflow as tf
from zoo.backends import (
    Device,
    Loss,
    LossScaling,
    Optimizer,
    allowed,
    check_layers,
    cores,
    drawing_nothing,
    fall_back,
    find_device,
    host_memory,
    processor,
)
from zoo.backends.cells import gru_cell, lstm_cell
from zoo.backends.world import WHOLE, Launch, Part, World, get_world, part, sharding

if TYPE_CHECKING:
    import keras

NAME = "tensorflow"
# Errors of a sum over workers of which one has ended, or does not answer.
LOST = (
    tf.errors.UnavailableError,
    tf.errors.DeadlineExceededError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.FailedPreconditionError,
)

# A data set freed at Python's exit may wait forever for a thread that needs Python: free it before.
atexit.register(gc.collect)


# The machine


def version() -> str:
    return tf.__version__


def devices() -> list[Device]:
    kind = "ROCm" if tf.test.is_built_with_rocm() else "CUDA"
    found = [_describe(device, i, kind) for i, device in enumerate(tf.config.list_physical_devices("GPU"))]
    found += [_describe(device, i, "TPU") for i, device in enumerate(tf.config.list_physical_devices("TPU"))]
    return [*found, Device("cpu", "CPU", processor(), None)]


def _describe(device: Any, number: int, kind: str) -> Device:
    details = tf.config.experimental.get_device_details(device)
    if "Apple" in (spec := details.get("device_name", device.name)) or platform.system() == "Darwin":
        kind = "MPS"
    return Device(f"{kind.lower()}:{number}", kind, spec, None)


def use_device(name: str) -> None:
    found = find_device(devices(), name)
    for platform_name in ("GPU", "TPU"):
        physical = tf.config.list_physical_devices(platform_name)
        visible = [d for i, d in enumerate(physical) if found.name.endswith(f":{i}")]
        tf.config.set_visible_devices(visible, platform_name)


def on_device() -> AbstractContextManager[Any]:
    return nullcontext()  # new tensors are there in any case


def set_threads(count: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(count)
    # Two for parallel operations: with one, an input pipeline and the step that waits for it have deadlocked.
    tf.config.threading.set_inter_op_parallelism_threads(max(2, count))


def threads() -> int:
    return tf.config.threading.get_intra_op_parallelism_threads() or cores()


def peak_memory() -> int:
    if tf.config.list_logical_devices("GPU"):
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    return host_memory()


def set_deterministic() -> None:
    tf.config.experimental.enable_op_determinism()


def use_tf32(enabled: bool) -> bool:
    tf.config.experimental.enable_tensor_float_32_execution(enabled)
    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU")[:1])
    return any(each.get("compute_capability", (0, 0)) >= (8, 0) for each in details)


def enable_float64() -> None:
    """Nothing to do: TensorFlow has them."""


def float64() -> AbstractContextManager[Any]:
    return nullcontext()


def join(launch: Launch, timeout: float, device: str | None) -> World:
    if device is not None or tf.config.list_physical_devices("GPU"):
        use_device(device or f"cuda:{launch.local_rank}")
    return _workers().TensorFlowWorld(launch, timeout)


def check_workers(mode: str, model: keras.Model) -> None:
    del mode
    check_layers(model)


def _workers() -> Any:
    """Imported by workers only: it uses functions that TensorFlow does not document."""
    import zoo.backends.tensorflow_world as workers

    return workers


def synchronize(value: tf.Tensor) -> None:
    value.numpy()


def clear_cache() -> None:
    """Nothing to do: TensorFlow keeps its programs until the process ends."""


# Operations


def tensor(array: np.ndarray) -> tf.Tensor:
    return tf.convert_to_tensor(array)


def empty(shape: Sequence[int], *, kernel: bool = False) -> np.ndarray:
    del kernel  # HWIO is TensorFlow's own
    return np.empty(shape, np.float32)


def from_numpy(array: np.ndarray) -> tf.Tensor:
    return tensor(array)


def concrete_value(x: tf.Tensor) -> np.ndarray | None:
    eager = tf.is_tensor(x) and tf.executing_eagerly() and "CPU" in x.device
    return x.numpy() if eager else x if isinstance(x, np.ndarray) else None


def conv(
    x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, *, stride: int, padding: int, groups: int = 1
) -> tf.Tensor:
    sides, inputs = _sides(padding), kernel.shape[2]
    if groups == 1:
        y = tf.nn.conv2d(x, kernel, stride, sides)
    elif inputs == 1:  # one channel per group
        each = tf.reshape(kernel, (*kernel.shape[:2], groups, -1))
        if padding and bias is not None:  # fused with a bias, explicit padding aborts the process
            x, sides = tf.pad(x, _sides(padding)), "VALID"
        y = tf.nn.depthwise_conv2d(x, each, (1, stride, stride, 1), sides)
    else:  # on a CPU TensorFlow supports groups only under XLA
        pairs = zip(tf.split(x, groups, -1), tf.split(kernel, groups, -1), strict=True)
        y = tf.concat([tf.nn.conv2d(part, own, stride, sides) for part, own in pairs], -1)
    return y if bias is None else _bias_add(y, bias)


def max_pool(x: tf.Tensor, size: int, stride: int, padding: int) -> tf.Tensor:
    if padding:  # explicit padding is not supported by XLA, and its gradient takes four times as long
        x = tf.pad(x, _sides(padding), constant_values=float("-inf"))
    return tf.nn.max_pool2d(x, size, stride, "VALID")


def _sides(padding: int) -> Any:
    return [[0, 0], [padding, padding], [padding, padding], [0, 0]] if padding else "VALID"


def average_pool(x: tf.Tensor, size: int, stride: int) -> tf.Tensor:
    return tf.nn.avg_pool2d(x, size, stride, "VALID")


def _bias_add(y: tf.Tensor, bias: tf.Tensor) -> tf.Tensor:
    """y + bias, 16-bit numbers in float32: on a CPU the bias's gradient would be added up in 16 bits."""
    if y.dtype.size >= 4:
        return tf.nn.bias_add(y, bias)
    return tf.cast(tf.nn.bias_add(tf.cast(y, tf.float32), tf.cast(bias, tf.float32)), y.dtype)


def dense(x: tf.Tensor, kernel: tf.Tensor, bias: tf.Tensor | None, *, transposed: bool = False) -> tf.Tensor:
    if transposed:
        axes = "abcd"[: x.shape.rank - 1]  # with "..." the gradient takes 20 times as long
        y = tf.einsum(f"{axes}i,oi->{axes}o", x, kernel)  # tf.transpose would copy the kernel
    else:
        y = tf.tensordot(x, kernel, 1) if x.shape.rank > 2 else x @ kernel
    return y if bias is None else _bias_add(y, bias)


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
    if part().of > 1:
        return _workers().batch_norm(
            x, gamma, beta, mean, variance, momentum=momentum, epsilon=epsilon, of=part().of
        )
    axes, count = list(range(x.shape.rank - 1)), tf.cast(tf.size(x) / tf.size(mean), x.dtype)
    batch_mean = tf.reduce_mean(x, axes)
    batch_variance = tf.reduce_mean(tf.square(x - batch_mean), axes)
    y = (x - batch_mean) * (tf.math.rsqrt(batch_variance + epsilon) * gamma) + beta
    new_mean = (1 - momentum) * mean + momentum * batch_mean
    new_variance = (1 - momentum) * variance + momentum * count / tf.maximum(count - 1, 1) * batch_variance
    return y, tf.where(count > 0, new_mean, mean), tf.where(count > 0, new_variance, variance)


def layer_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, *, epsilon: float) -> tf.Tensor:
    centred = x - tf.reduce_mean(x, -1, keepdims=True)
    variance = tf.reduce_mean(tf.square(centred), -1, keepdims=True)
    return centred * tf.math.rsqrt(variance + epsilon) * gamma + beta


def rms_norm(x: tf.Tensor, gamma: tf.Tensor, *, epsilon: float) -> tf.Tensor:
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + epsilon) * gamma


def attention(
    query: tf.Tensor,
    key: tf.Tensor,
    value: tf.Tensor,
    bias: tf.Tensor | None = None,
    *,
    causal: bool = False,
    scale: float,
    drop: Callable[[tf.Tensor], tf.Tensor] | None = None,
) -> tf.Tensor:
    query, key, value = (tf.transpose(x, (0, 2, 1, 3)) for x in (query, key, value))  # (b, heads, n, d)
    scores = tf.matmul(query * scale, key, transpose_b=True)
    scores = scores if bias is None else scores + bias
    if causal:
        steps = tf.range(tf.shape(query)[2])
        scores = tf.where(steps[:, None] >= steps, scores, tf.constant(-inf, scores.dtype))
    weights = tf.nn.softmax(scores)
    return tf.transpose((weights if drop is None else drop(weights)) @ value, (0, 2, 1, 3))


def lstm(
    x: tf.Tensor,
    h: tf.Tensor,
    c: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    recurrent_bias: tf.Tensor,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    def cell(state: tuple, projected: tf.Tensor) -> tuple:
        return lstm_cell(projected + state[0] @ recurrent_kernel, state[1])

    projected = tf.transpose(dense(x, kernel, bias + recurrent_bias), (1, 0, 2))  # (n, b, 4u)
    outputs, cells = tf.scan(cell, projected, (h, c))
    return tf.transpose(outputs, (1, 0, 2)), outputs[-1], cells[-1]


def gru(
    x: tf.Tensor,
    h: tf.Tensor,
    kernel: tf.Tensor,
    recurrent_kernel: tf.Tensor,
    bias: tf.Tensor,
    recurrent_bias: tf.Tensor | None,
) -> tuple[tf.Tensor, tf.Tensor]:
    def cell(h: tf.Tensor, projected: tf.Tensor) -> tf.Tensor:
        return gru_cell(projected, h, recurrent_kernel, recurrent_bias)

    outputs = tf.scan(cell, tf.transpose(dense(x, kernel, bias), (1, 0, 2)), h)
    return tf.transpose(outputs, (1, 0, 2)), outputs[-1]


def scan(
    step: Callable[[Sequence[tf.Tensor], tf.Tensor], Sequence[tf.Tensor]],
    states: Sequence[tf.Tensor],
    x: tf.Tensor,
) -> Sequence[tf.Tensor]:
    return tf.scan(lambda states, x: tuple(step(states, x)), x, tuple(states))


def add(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
    return x + y


def gelu(x: tf.Tensor, *, approximate: bool) -> tf.Tensor:
    # tf.nn.gelu's constants are float32 even for float64, off by 1.8e-9; tf.cast of a number would be too.
    if approximate:
        inner = tf.constant((2 / np.pi) ** 0.5, x.dtype) * (x + tf.constant(0.044715, x.dtype) * x**3)
        return 0.5 * x * (1 + tf.tanh(inner))
    return 0.5 * x * tf.math.erfc(-x * tf.constant(0.5**0.5, x.dtype))


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, *, label_smoothing: float = 0.0) -> tf.Tensor:
    soft = labels.shape.rank == logits.shape.rank
    if soft or label_smoothing:
        classes = int(logits.shape[-1] or 0)
        targets = tf.cast(labels, logits.dtype) if soft else tf.one_hot(labels, classes, dtype=logits.dtype)
        targets = targets * (1 - label_smoothing) + label_smoothing / classes
        losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    else:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(labels, 0), logits)
    if losses.shape.rank == 1:
        return tf.reduce_mean(losses)
    counted = tf.cast(labels >= 0, logits.dtype)
    return tf.reduce_sum(losses * counted) / tf.maximum(tf.reduce_sum(counted), 1)


@tf.function
@tf.custom_gradient
def ctc_loss(labels: tf.Tensor, logits: tf.Tensor) -> tuple[tf.Tensor, Callable[..., Any]]:
    # tf.nn.ctc_loss has no kernel under XLA. Axes: b batch, t frames, s states: labels with blanks around.
    never = tf.constant(-1e30, tf.float64)  # for the logarithm of 0: inf - inf would be NaN
    log_p = tf.nn.log_softmax(tf.cast(logits, tf.float64))
    pairs = tf.stack([tf.zeros_like(labels), labels], axis=2)
    states = tf.pad(tf.reshape(pairs, (tf.shape(labels)[0], 2 * tf.shape(labels)[1])), ((0, 0), (0, 1)))
    said = tf.transpose(tf.gather(log_p, states, axis=2, batch_dims=1), (1, 0, 2))  # (t, b, s)
    state, last = tf.range(tf.shape(states)[1]), 2 * tf.math.count_nonzero(labels, 1, True, tf.int32)
    first = tf.where(state == 0, tf.zeros_like(said[0]), never)
    final = tf.where(state == last, tf.zeros_like(said[0]), never)
    skipped = states != tf.pad(states, ((0, 0), (2, 0)))[:, :-2]  # the blank before; blanks are all the same

    def forward(alpha: tf.Tensor, said: tf.Tensor) -> tf.Tensor:
        before = tf.pad(alpha, ((0, 0), (2, 0)), constant_values=never)
        skip = tf.where(skipped, before[:, :-2], never)
        return said + tf.reduce_logsumexp([alpha, before[:, 1:-1], skip], axis=0)

    def backward(beta: tf.Tensor, said: tf.Tensor) -> tf.Tensor:
        after = tf.pad(beta, ((0, 0), (0, 2)), constant_values=never)
        skip = tf.pad(tf.where(skipped, beta, never), ((0, 0), (0, 2)), constant_values=never)[:, 2:]
        return said + tf.reduce_logsumexp([beta, after[:, 1:-1], skip], axis=0)

    alpha, beta = tf.scan(forward, said, first), tf.scan(backward, said, final, reverse=True)
    likelihood = tf.reduce_logsumexp(beta[0, :, :2], axis=1, keepdims=True)  # from either first state
    possible = likelihood > never / 2
    losses = tf.where(possible, -likelihood, tf.constant(float("inf"), tf.float64))

    def gradient(upstream: tf.Tensor) -> tuple[None, tf.Tensor]:
        share = tf.exp(alpha + beta - said - likelihood)  # of the alignments, in each state at each frame
        share = tf.einsum("tbs,bsc->btc", share, tf.one_hot(states, logits.shape[-1], dtype=tf.float64))
        each = tf.where(possible[..., None], tf.exp(log_p) - share, 0)
        return None, upstream * tf.cast(each / tf.cast(tf.shape(labels)[0], tf.float64), logits.dtype)

    return tf.cast(tf.reduce_mean(losses), logits.dtype), gradient


# Training


def optimizer(spec: Optimizer, variables: Sequence[keras.Variable]) -> Any:
    """TensorFlow's optimizers are Keras's: the spec itself, its update by TensorFlow's kernels."""
    native = spec.fresh()
    native.build(variables)
    kernel = KERNELS.get(type(native).__name__)
    if kernel and not getattr(native, "amsgrad", False) and _keeps_moments(native):
        native.update = partial(kernel, native)
    return native


def _keeps_moments(o: Any) -> bool:
    """Whether Adam's kernel is exact for these betas: it computes m + (g - m) (1 - b).

    For a small b the rounding of a large m is all that would be left of it, and of g.
    """
    first = o.rate.base_momentum if o.cycles else getattr(o, "beta_1", 1.0)
    return type(o).__name__ == "Momentum" or min(first, o.beta_2) >= 0.5


def _momentum_kernel(
    self: Any, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, decay: float, slots: Any
) -> None:
    tf.raw_ops.ResourceApplyMomentum(
        var=variable.handle,
        accum=slots[0].value.handle,
        lr=rate,
        grad=gradient + decay * variable if decay else gradient,
        momentum=tf.convert_to_tensor(self.cycled(variable.dtype.name), variable.dtype),
        use_nesterov=self.nesterov,
    )


def _adam_kernel(
    self: Any, gradient: tf.Tensor, variable: tf.Variable, rate: tf.Tensor, decay: float, slots: Any
) -> None:
    dtype = variable.dtype
    # As the kernel rounds them: in float32 1 - 0.999 is off by 1.3e-5, in v and in 1 - b2^t alike.
    beta_1, beta_2 = (
        float(np.array(b, dtype.as_numpy_dtype)) if isinstance(b, float) else b
        for b in (self.cycled(dtype.name), self.beta_2)
    )
    root = tf.sqrt(self.correction(beta_2, dtype.name))
    if decay and self.DECOUPLED:
        variable.assign(variable * (1 - rate * decay))
    tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=slots[0].value.handle,
        v=slots[1].value.handle,
        # The kernel's own bias correction uses powers in float32, off by 6e-6: it is passed powers of 0.
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
}  # the others are written in operations in zoo.optimizers, as is AMSGrad, whose kernel XLA does not have


def updater(
    spec: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None = None
) -> Updater:
    return Updater(spec, variables, scaling)


class Updater:
    """One update of the model's own variables by the native optimizer."""

    def __init__(self, spec: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None):
        self.variables = list(variables)
        self.optimizer = native = optimizer(spec, variables)
        self.scaler = None if scaling is None else _scaler(native, scaling)
        self.outer: Any = self.scaler or native
        self.outer.build(variables)

    def __call__(self, gradients: Sequence[Any], weight: tf.Tensor | None = None) -> None:
        self.optimizer.batch_weight = weight
        self.outer.apply([tf.convert_to_tensor(g) for g in gradients], self.variables)

    def scale(self, loss: tf.Tensor) -> tf.Tensor:
        return self.outer.scale_loss(loss)

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.optimizer.state_dict(self.scaler)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.optimizer.load_state_dict(state, self.scaler)

    def copy_ema_to_weights(self) -> None:
        self.optimizer.finalize_variable_values(self.variables)


def _scaler(native: Any, scaling: LossScaling) -> Any:
    import keras

    return keras.optimizers.LossScaleOptimizer(
        native, initial_scale=scaling.initial_scale, dynamic_growth_steps=scaling.growth_steps
    )


def gradients(
    model: keras.Model, loss: Loss
) -> Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, list, list]]:
    stateless: Any = model.stateless_call

    @tf.function
    def call(x: tf.Tensor, y: tf.Tensor) -> tuple[tf.Tensor, list, list]:
        weights, state = _values(model.trainable_variables), _values(model.non_trainable_variables)
        weights = [tf.convert_to_tensor(w) for w in weights]
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, state, penalties = stateless(weights, state, x, training=True, return_losses=True)
            value = loss(y, logits) + sum(penalties)
        found = tape.gradient(value, weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return value, [tf.convert_to_tensor(g) for g in found], [tf.convert_to_tensor(s) for s in state]

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
    kind = TensorFlowStep if get_world().size == 1 else SharedStep
    return kind(model, loss, optimizer, allowed(NAME, mode), scaling)


class TensorFlowStep:
    """`tf.function` around a `GradientTape` and the update; the variables are the model's own."""

    def __init__(
        self, model: keras.Model, loss: Loss, spec: Optimizer, mode: str, scaling: LossScaling | None
    ):
        self.model, self.loss, self.mode = model, loss, mode
        self.updater = Updater(spec, model.trainable_variables, scaling)
        self.step = self.compiled(mode)

    def compiled(self, mode: str) -> Callable[..., Any]:
        """The step in this mode."""
        return _compiled(self.plain, mode)

    def plain(self, x: tf.Tensor, y: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
        """A step on a batch; its loss."""
        value, gradients = self.differentiate(x, y)
        self.updater(gradients, weight)
        return value

    def differentiate(
        self, x: tf.Tensor, y: tf.Tensor, share: tf.Tensor | None = None
    ) -> tuple[tf.Tensor, list[Any]]:
        """The loss times a share, and the gradients of it as it is scaled."""
        with tf.GradientTape() as tape:
            value = self.loss(y, self.model(x, training=True)) + sum(self.model.losses)
            value = value if share is None else value * tf.cast(share, value.dtype)
            scaled = self.updater.scale(value)
        zero = tf.UnconnectedGradients.ZERO
        return value, tape.gradient(scaled, _values(self.updater.variables), unconnected_gradients=zero)

    def __call__(
        self, x: tf.Tensor, y: tf.Tensor, weight: int | None = None, part: Part = WHOLE
    ) -> tf.Tensor:
        del part  # the whole batch
        # A Python number would be a constant of the program, compiled again for each.
        return self.run(*((x, y) if weight is None else (x, y, tf.constant(weight, tf.int32))))

    def run(self, *batch: Any) -> Any:
        """The step, from here on in a simpler mode if it cannot be compiled."""
        try:
            return self.step(*batch)
        except Exception as error:
            found, self.step, mode = _instead(self.compiled, self.mode, error, *batch)
            self.mode = fall_back(self.model, self.mode, mode, error)
            return found

    def sync(self) -> None:
        pass  # TensorFlow trains the model's own variables


class SharedStep(TensorFlowStep):
    """That of one of several workers: XLA compiles the gradients and the update, not the sum between."""

    def __init__(self, *arguments: Any):
        self.world = cast(Any, get_world())
        super().__init__(*arguments)

    def compiled(self, mode: str) -> Callable[..., Any]:
        def differentiate(x: tf.Tensor, y: tf.Tensor, share: tf.Tensor) -> tuple[tf.Tensor, list[tf.Tensor]]:
            value, gradients = self.differentiate(x, y, share)
            return value, [tf.convert_to_tensor(gradient) for gradient in gradients]

        steps: dict[tuple[int, int], Callable[..., Any]] = {}
        update = _compiled(self.updater, mode)

        def step(part: Part, *batch: Any) -> tuple[tf.Tensor, tf.Tensor]:
            key = part.index, part.of
            if key not in steps:
                steps[key] = self.shared(_compiled(differentiate, mode), update, mode)
            with sharding(part):  # read while a function is traced
                return steps[key](*batch)

        return step

    def shared(
        self, differentiate: Callable[..., Any], update: Callable[..., Any], mode: str
    ) -> Callable[..., Any]:
        """A step on a part of a batch: the loss of all, and how many workers sent a flag."""

        def step(
            x: tf.Tensor, y: tf.Tensor, share: tf.Tensor, flag: tf.Tensor, weight: tf.Tensor | None
        ) -> tuple[tf.Tensor, tf.Tensor]:
            value, gradients, flags = self.world.sums(*differentiate(x, y, share), flag)
            # When both functions are inlined, a decay that needs no gradient would not wait for reads.
            with tf.control_dependencies([value, *gradients]):
                update(gradients, weight)
            return value, flags

        return _compiled(step, "eager" if mode == "eager" else "graph")

    def __call__(
        self, x: tf.Tensor, y: tf.Tensor, weight: int | None = None, part: Part = WHOLE
    ) -> tf.Tensor:
        share, flag = tf.constant(part.weight, tf.float64), tf.constant(self.world.flag)
        counted = None if weight is None else tf.constant(weight, tf.int32)
        loss, flags = self.run(part, x, y, share, flag, counted)
        self.world.flags.append(flags)
        return loss


def fit_step(model: keras.Model) -> Callable[[Any], Any] | None:
    del model  # Keras compiles its own
    return None


def stream(model: keras.Model, batches: Iterator[tuple[Any, np.ndarray]]) -> Any:
    # Keras would infer the variable axes from the first two batches, and fail at later lengths.
    x, y = first = next(batches)
    specs = {tensor.name: tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in model.inputs}
    signature = {name: specs[name] for name in x} if isinstance(x, Mapping) else next(iter(specs.values()))
    labels = tf.TensorSpec([None] * y.ndim, y.dtype)
    return tf.data.Dataset.from_generator(
        lambda: chain([first], batches), output_signature=(signature, labels)
    )


def predictor(model: keras.Model, mode: str) -> Callable[[tf.Tensor], tf.Tensor]:
    def forward(x: tf.Tensor) -> tf.Tensor:
        return model(x, training=False)

    run = _compiled(forward, allowed(NAME, mode))

    def predict(x: tf.Tensor) -> tf.Tensor:
        nonlocal run, mode
        try:
            return run(x)
        except Exception as error:
            logits, run, simpler = _instead(partial(_compiled, forward), mode, error, x)
            mode = fall_back(model, mode, simpler, error)
            return logits

    return predict


def _compiled(function: Callable[..., Any], mode: str, *, autograph: bool = True) -> Callable[..., Any]:
    def once(*arguments: Any) -> Any:
        with drawing_nothing():
            return function(*arguments)

    return function if mode == "eager" else tf.function(once, autograph=autograph, jit_compile=mode == "xla")


def _instead(
    compiled: Callable[[str], Callable[..., Any]], mode: str, error: Exception, *arguments: Any
) -> tuple[Any, Callable[..., Any], str]:
    """The result and the function in the first simpler mode that can run it, and that mode.

    Raises the error of eager mode, as for a batch that does not fit, or `error` if memory is exhausted or
    another worker is lost.
    """
    simpler = {"xla": ("graph", "eager"), "graph": ("eager",)}.get(mode, ())
    if isinstance(error, (tf.errors.ResourceExhaustedError, *(LOST if get_world().size > 1 else ()))):
        simpler = ()
    for mode in simpler:
        run = compiled(mode)
        try:
            return run(*arguments), run, mode
        except Exception:
            if mode == "eager":
                raise
    raise error


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return tf.function(function, jit_compile=True)


def program(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    return _compiled(function, allowed(NAME, mode), autograph=False)


def custom_gradient(function: Callable[..., tuple[Any, Callable]], *tensors: tf.Tensor) -> Any:
    return tf.custom_gradient(function)(*tensors)


def value_and_gradients(
    function: Callable[[list], tuple[tf.Tensor, Any]], tensors: Sequence[tf.Tensor]
) -> tuple[tf.Tensor, Any, list]:
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        value, rest = function(list(tensors))
    found: Any = tape.gradient(value, list(tensors), unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return value, rest, found


def _values(variables: Sequence[keras.Variable]) -> list[tf.Variable]:
    return [v.value for v in variables]
