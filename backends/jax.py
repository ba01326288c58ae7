"""JAX behind the zoo's contract; its functions are documented in `zoo.backends.Backend`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from zoo.backends import (
    Device,
    Loss,
    LossScaling,
    Optimizer,
    allowed,
    cores,
    drawing_nothing,
    fall_back,
    find_device,
    host_memory,
    processor,
)
from zoo.backends.cells import gru_cell, lstm_cell
from zoo.backends.world import WHOLE, Launch, Part, World, get_world

from zoo.errors import WrongConfiguration

if TYPE_CHECKING:
    import keras

NAME = "jax"


# The machine


def version() -> str:
    return jax.__version__


def devices() -> list[Device]:
    found = [_describe(device) for device in jax.devices()]
    return found if found[0].kind == "CPU" else [*found, *map(_describe, _cpus())]


def _cpus() -> list[Any]:
    """The CPU as a device; None if JAX_PLATFORMS names only accelerators."""
    try:
        return jax.devices("cpu")
    except RuntimeError:
        return []


def _describe(device: Any) -> Device:
    if device.platform == "cpu":
        return Device("cpu", "CPU", processor(), None)
    kind = {"rocm": "ROCm", "tpu": "TPU", "METAL": "MPS"}.get(device.platform, "CUDA")
    name = f"{kind.lower()}:{device.id}"
    return Device(name, kind, device.device_kind, (device.memory_stats() or {}).get("bytes_limit"))


def use_device(name: str) -> None:
    found = find_device(devices(), name)
    everything = [*jax.devices(), *_cpus()]
    device = next(d for d in everything if _describe(d).name == found.name)
    jax.config.update("jax_default_device", device)


def _in_use() -> Any:
    return jax.config.jax_default_device or jax.devices()[0]  # pyright: ignore[reportAttributeAccessIssue]


def on_device() -> AbstractContextManager[Any]:
    return nullcontext()  # new tensors are there in any case


def set_threads(count: int) -> None:
    os.environ["NPROC"] = str(count)  # read when XLA starts its thread pool


def threads() -> int:
    return int(os.environ.get("NPROC", 0)) or cores()


def peak_memory() -> int:
    device = _in_use()
    return (
        host_memory()
        if device.platform == "cpu"
        else (device.memory_stats() or {}).get("peak_bytes_in_use", 0)
    )


def set_deterministic() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def use_tf32(enabled: bool) -> bool:
    jax.config.update("jax_default_matmul_precision", "tensorfloat32" if enabled else None)
    return float(getattr(_in_use(), "compute_capability", 0)) >= 8


def enable_float64() -> None:
    jax.config.update("jax_enable_x64", True)


def float64() -> AbstractContextManager[Any]:
    return jax.enable_x64(True)


def join(launch: Launch, timeout: float, device: str | None) -> World:
    from zoo.backends.jax_world import JaxWorld

    return JaxWorld(launch, timeout, device)


def check_workers(mode: str, model: keras.Model) -> None:
    if mode == "eager":
        raise WrongConfiguration(
            f"mode={mode!r} with workers={get_world().size}: only compiled steps sum over workers; use 'jit'"
        )
    del model  # a step sees whole batches


def synchronize(value: jax.Array) -> None:
    jax.block_until_ready(value)


def clear_cache() -> None:
    jax.clear_caches()


# Operations


def tensor(array: np.ndarray) -> jax.Array:
    # jnp.asarray compiles a program for each shape of NumPy array; device_put may share memory.
    return jax.device_put(array.copy()) if isinstance(array, np.ndarray) else jnp.asarray(array)


def empty(shape: Sequence[int], *, kernel: bool = False) -> np.ndarray:
    del kernel  # XLA chooses its own layouts
    return np.empty(shape, np.float32)


def from_numpy(array: np.ndarray) -> jax.Array:
    return jax.device_put(array)


def concrete_value(x: jax.Array) -> np.ndarray | None:
    concrete = isinstance(x, jax.Array) and not isinstance(x, Tracer)
    here = concrete and {device.platform for device in x.devices()} == {"cpu"}
    return np.asarray(x) if here else x if isinstance(x, np.ndarray) else None


def conv(
    x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, stride: int, padding: int, groups: int = 1
) -> jax.Array:
    if kernel.shape[2] == 1 and groups == kernel.shape[3] and _on_a_cpu() and x.dtype.itemsize >= 4:
        y = _depthwise(x, kernel[:, :, 0], stride, padding)
    else:
        y = lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            _sides(padding)[1:3],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        )
    return y if bias is None else _in_float32(jnp.add, y, bias)


def _in_float32(function: Callable[..., Any], x: jax.Array, *rest: jax.Array) -> Any:
    """What a function computes, 16-bit numbers in float32: JAX adds up gradients of biases in their type."""
    if x.dtype.itemsize >= 4:
        return function(x, *rest)
    result = function(*(each.astype(jnp.float32) for each in (x, *rest)))
    return jax.tree.map(lambda y: y.astype(x.dtype), result)


def _depthwise_sum(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The sum over the taps of (k, k, c) of the shifted image times the weights, one loop after XLA's fusion.

    On a CPU its own takes ten times as long and more (docs/upstream.md).
    """
    x, taps = jnp.pad(x, _sides(padding)), kernel.shape[:2]
    ends = [n - k + 1 for n, k in zip(x.shape[1:3], taps, strict=True)]
    shifted = (
        x[:, i : i + ends[0] : stride, j : j + ends[1] : stride] * kernel[i, j] for i, j in np.ndindex(taps)
    )
    return reduce(jnp.add, shifted)


_depthwise = jax.custom_vjp(_depthwise_sum, nondiff_argnums=(2, 3))


def _depthwise_forward(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> tuple[jax.Array, Any]:
    return _depthwise(x, kernel, stride, padding), (x, kernel)


def _depthwise_backward(
    stride: int, padding: int, inputs: tuple[jax.Array, jax.Array], upstream: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The gradients; the kernel's tap by tap: at once XLA writes out every shifted image."""
    x, kernel = inputs
    padded, taps = jnp.pad(x, _sides(padding)), kernel.shape[:2]
    ends = [n - k + 1 for n, k in zip(padded.shape[1:3], taps, strict=True)]

    def tap(offset: jax.Array) -> jax.Array:
        shifted = lax.dynamic_slice(padded, offset, (x.shape[0], *ends, x.shape[3]))[:, ::stride, ::stride]
        return (shifted * upstream).sum((0, 1, 2))

    offsets = np.array([(0, i, j, 0) for i, j in np.ndindex(taps)], np.int32)
    of_kernel = lax.map(tap, offsets).reshape(kernel.shape)
    of_x = jax.vjp(lambda x: _depthwise_sum(x, kernel, stride, padding), x)[1](upstream)[0]
    return of_x, of_kernel


_depthwise.defvjp(_depthwise_forward, _depthwise_backward)


def _on_a_cpu() -> bool:
    """Whether the function being traced will run on a CPU."""
    return _in_use().platform == "cpu"


def max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, *_windows(size, stride), _sides(padding))


def _sides(padding: int) -> tuple[tuple[int, int], ...]:
    return (0, 0), (padding, padding), (padding, padding), (0, 0)


def average_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    return lax.reduce_window(x, 0.0, lax.add, *_windows(size, stride), "VALID") * (1 / size**2)


def _windows(size: int, stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (1, size, size, 1), (1, stride, stride, 1)


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, transposed: bool = False) -> jax.Array:
    y = x @ (kernel.T if transposed else kernel)
    return y if bias is None else _in_float32(jnp.add, y, bias)


def batch_norm(
    x: jax.Array,
    gamma: jax.Array,
    beta: jax.Array,
    mean: jax.Array,
    variance: jax.Array,
    *,
    momentum: float,
    epsilon: float,
    training: bool,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]

    def normalized(x: Any, gamma: Any, beta: Any, mean: Any, variance: Any) -> jax.Array:
        return (x - mean) * (lax.rsqrt(variance + epsilon) * gamma) + beta

    if not training or not count:
        return _in_float32(normalized, x, gamma, beta, mean, variance), mean, variance
    batch_mean = x.mean(axes)
    batch_variance = jnp.square(x - batch_mean).mean(axes)
    y = _in_float32(normalized, x, gamma, beta, batch_mean, batch_variance)
    mean = (1 - momentum) * mean + momentum * batch_mean
    variance = (1 - momentum) * variance + momentum * count / max(count - 1, 1) * batch_variance
    return y, mean, variance


def layer_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array, *, epsilon: float) -> jax.Array:
    def normalized(x: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * lax.rsqrt(variance + epsilon) * gamma + beta

    return _in_float32(normalized, x, gamma, beta)


def rms_norm(x: jax.Array, gamma: jax.Array, *, epsilon: float) -> jax.Array:
    def normalized(x: jax.Array, gamma: jax.Array) -> jax.Array:
        return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon) * gamma

    return _in_float32(normalized, x, gamma)


def attention(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    bias: jax.Array | None = None,
    *,
    causal: bool = False,
    scale: float,
    drop: Callable[[jax.Array], jax.Array] | None = None,
) -> jax.Array:
    # jax.nn.dot_product_attention takes its softmax in float32, whatever it is given. Turned beforehand XLA's
    # products cost ViT 6 % less time than by einsum.
    query, key, value = (x.swapaxes(1, 2) for x in (query * scale, key, value))  # (b, heads, n, d)
    scores = query @ key.mT
    scores = scores if bias is None else scores + bias
    if causal:
        scores = jnp.where(jnp.tri(query.shape[2], dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores)
    return ((weights if drop is None else drop(weights)) @ value).swapaxes(1, 2)


def lstm(
    x: jax.Array,
    h: jax.Array,
    c: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    recurrent_bias: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    def cell(state: tuple, projected: jax.Array) -> tuple:
        h, c = lstm_cell(projected + state[0] @ recurrent_kernel, state[1])
        return (h, c), h

    projected = jnp.swapaxes(x @ kernel + (bias + recurrent_bias), 0, 1)  # (n, b, 4u), all steps at once
    (h, c), outputs = lax.scan(cell, (h, c), projected)
    return jnp.swapaxes(outputs, 0, 1), h, c


def gru(
    x: jax.Array,
    h: jax.Array,
    kernel: jax.Array,
    recurrent_kernel: jax.Array,
    bias: jax.Array,
    recurrent_bias: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    def cell(h: jax.Array, projected: jax.Array) -> tuple:
        h = gru_cell(projected, h, recurrent_kernel, recurrent_bias)
        return h, h

    h, outputs = lax.scan(cell, h, jnp.swapaxes(x @ kernel + bias, 0, 1))
    return jnp.swapaxes(outputs, 0, 1), h


def scan(
    step: Callable[[Sequence[jax.Array], jax.Array], Sequence[jax.Array]],
    states: Sequence[jax.Array],
    x: jax.Array,
) -> Sequence[jax.Array]:
    def both(states: Any, x: jax.Array) -> tuple:
        states = tuple(step(states, x))
        return states, states

    return lax.scan(both, tuple(states), x)[1]


def add(x: jax.Array, y: jax.Array) -> jax.Array:
    # A sum is cheap, so XLA recomputes it for every consumer. In a residual network it sums all earlier
    # blocks, and its gradient of all later ones: 48 arrays per consumer in ViT, a fifth of its training time.
    return lax.optimization_barrier(x + y) if _on_a_cpu() else x + y


def _jit(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """`jax.jit` that keeps the barriers of `add`, which XLA on a CPU removes before fusion."""
    options = {"xla_disable_hlo_passes": "cse_barrier_expander"} if _on_a_cpu() else None
    return jax.jit(function, compiler_options=options, **how)


def gelu(x: jax.Array, *, approximate: bool) -> jax.Array:
    return jax.nn.gelu(x, approximate=approximate)


def cross_entropy(labels: jax.Array, logits: jax.Array, *, label_smoothing: float = 0.0) -> jax.Array:
    soft = labels.ndim == logits.ndim
    if soft or label_smoothing:
        targets = labels if soft else jax.nn.one_hot(labels, logits.shape[-1])
        targets = optax.smooth_labels(targets.astype(logits.dtype), label_smoothing)
        losses = optax.softmax_cross_entropy(logits, targets)
    else:
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(labels, 0))
    if losses.ndim == 1:
        return losses.mean()
    counted = labels >= 0
    return losses.sum(where=counted) / jnp.maximum(counted.sum(dtype=losses.dtype), 1)


@jax.custom_vjp
def ctc_loss(labels: jax.Array, logits: jax.Array) -> jax.Array:
    return _ctc(labels, logits)[0]


@jax.jit
def _ctc(labels: jax.Array, logits: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The loss and its gradient with respect to the logits."""

    def loss(logits: jax.Array) -> jax.Array:
        never = -1e30  # stands for the logarithm of 0, with a finite gradient
        padding = (jnp.zeros(logits.shape[:2]), labels == 0)
        losses = optax.ctc_loss(logits, padding[0], labels, padding[1], log_epsilon=never)
        return jnp.where(losses < -never / 2, losses, jnp.inf).mean()

    with jax.enable_x64(True):  # even if JAX is set to 32 bits
        value, gradient = jax.value_and_grad(loss)(logits.astype(jnp.float64))
        return value.astype(logits.dtype), gradient.astype(logits.dtype)


def _ctc_backward(gradient: jax.Array, upstream: jax.Array) -> tuple[None, jax.Array]:
    return None, upstream * gradient


ctc_loss.defvjp(_ctc, _ctc_backward)


# Training


Transform = optax.GradientTransformation
Value = float | Callable[[Any], Any]  # a number, or a function of the update's count

# (spec, momentum or beta_1, the variables' starts) -> gradients to updates, before weight decay and rate
OPTIMIZERS: dict[str, Callable[[Any, Value, Sequence[int]], Transform]] = {
    "SGD": lambda o, momentum, starts: optax.identity(),
    "Momentum": lambda o, momentum, starts: (
        _cycled_trace(momentum, o.nesterov) if callable(momentum) else optax.trace(momentum, o.nesterov)
    ),
    "Adam": lambda o, beta_1, starts: _moments(o, beta_1, starts),
    "AdamW": lambda o, beta_1, starts: _moments(o, beta_1, starts),
    "LAMB": lambda o, beta_1, starts: _moments(o, beta_1, starts),
}


def optimizer(spec: Optimizer, variables: Sequence[keras.Variable]) -> Transform:
    o, name = spec, type(spec).__name__
    multipliers, decays = zip(*(o.group(v) for v in variables), strict=True)
    momentum = o.rate.momentum if o.cycles else o.momentum_at(0) if o.CYCLED else 0.0
    inner, decay = OPTIMIZERS[name](o, momentum, [o.start(v) for v in variables]), _decayed(decays)
    late = name in ("AdamW", "LAMB")
    return optax.chain(
        _clip(o),
        *((inner, decay) if late else (decay, inner)),
        optax.scale_by_trust_ratio() if name == "LAMB" else optax.identity(),
        optax.scale_by_learning_rate(o.rate),
        _each(lambda update, multiplier: update * multiplier, multipliers, 1.0),
    )


def _stateless(function: Callable[[Any, Any], list]) -> Transform:
    """`function(updates, weights)`, both lists: optax's types allow any tree."""
    return optax.stateless(function)


def _each(function: Callable[..., Any], settings: Sequence[float], idle: float) -> Transform:
    """`function(update, setting)` for each variable, except where the setting has no effect."""
    return _stateless(
        lambda updates, _: [
            u if s == idle else function(u, s) for u, s in zip(updates, settings, strict=True)
        ]
    )


def _decayed(decays: Sequence[float]) -> Transform:
    return _stateless(
        lambda updates, weights: [
            u + d * w if d else u for u, w, d in zip(updates, weights or (), decays, strict=True)
        ]
    )


def _clip(o: Optimizer) -> Transform:
    if o.clipvalue:
        return optax.clip(o.clipvalue)
    if o.clipnorm:
        return _stateless(
            lambda gradients, _: [
                g * (o.clipnorm / jnp.maximum(jnp.linalg.norm(g.ravel()), o.clipnorm)) for g in gradients
            ]
        )
    return optax.clip_by_global_norm(o.global_clipnorm) if o.global_clipnorm else optax.identity()


def _moments(o: Any, beta_1: Value, starts: Sequence[int]) -> Transform:
    if callable(beta_1) or o.amsgrad or not o.bias_correction or any(starts):
        return _own_moments(o, beta_1, starts)
    return optax.chain(
        optax.scale_by_adam(beta_1, o.beta_2, o.epsilon),
        optax.scale_by_schedule(_bias_correction_error(beta_1, o.beta_2)),
    )


def _correction(beta: Any, count: Any, dtype: Any) -> Any:
    """1 - beta^t, accurate to rounding in float32, too."""
    log = np.log(beta) if isinstance(beta, float | int) and beta else jnp.log(beta)
    return -jnp.expm1(count.astype(dtype) * log)


def _bias_correction_error(beta_1: float, beta_2: float) -> optax.Schedule:
    """The factor that corrects optax's Adam update.

    optax takes 1 - beta^t in float32, where 1 - 0.999 is 1.3e-5 too small: its first updates are 7e-6 too
    small. Over 345 steps of LeNet-5 that moves the losses by 7e-6 (docs/upstream.md).
    """

    @partial(jax.jit, static_argnums=0)  # as optax does: uncompiled, the power is rounded differently
    def off(beta: float, step: Any) -> Any:
        return (1 - beta**step) / -jnp.expm1(step * np.log(beta)) if beta else jnp.ones(())

    return lambda count: off(beta_1, count + 1) / jnp.sqrt(off(beta_2, count + 1))


def _own_moments(o: Any, beta_1: Value, starts: Sequence[int]) -> Transform:
    """Adam with what optax does not have: torch's AMSGrad, a scheduled beta, no bias correction, a start."""

    def init(weights: Any) -> Any:
        mu, nu, largest = ([jnp.zeros_like(w) for w in weights] for _ in range(3))
        return optax.ScaleByAmsgradState(jnp.zeros((), jnp.int32), mu, nu, largest)

    def update(gradients: Any, state: Any, weights: Any = None) -> Any:
        del weights
        first: Any = beta_1(state.count) if callable(beta_1) else beta_1
        count = optax.safe_increment(state.count)
        mu = [first * m + (1 - first) * g for m, g in zip(state.mu, gradients, strict=True)]
        nu = [o.beta_2 * v + (1 - o.beta_2) * g * g for v, g in zip(state.nu, gradients, strict=True)]
        largest = [jnp.maximum(x, v) for x, v in zip(state.nu_max, nu, strict=True)]

        def direction(m: jax.Array, v: jax.Array, start: int) -> jax.Array:
            if not o.bias_correction:
                return m / (jnp.sqrt(v) + o.epsilon)
            root = jnp.sqrt(_correction(o.beta_2, count - start, v.dtype))
            return m / _correction(first, count - start, m.dtype) / (jnp.sqrt(v) / root + o.epsilon)

        updates = [direction(*each) for each in zip(mu, largest if o.amsgrad else nu, starts, strict=True)]
        return updates, optax.ScaleByAmsgradState(count, mu, nu, largest)

    return Transform(cast(Any, init), cast(Any, update))


class CycledTraceState(NamedTuple):
    """The momentum of `_cycled_trace`."""

    count: Any
    trace: Any


def _cycled_trace(momentum: Callable[[Any], Any], nesterov: bool) -> Transform:
    """optax.trace whose momentum follows a schedule."""

    def init(weights: Any) -> Any:
        return CycledTraceState(jnp.zeros((), jnp.int32), [jnp.zeros_like(w) for w in weights])

    def update(gradients: Any, state: Any, weights: Any = None) -> Any:
        del weights
        mu = momentum(state.count)
        trace = [g + mu * v for g, v in zip(gradients, state.trace, strict=True)]
        updates = [g + mu * v for g, v in zip(gradients, trace, strict=True)] if nesterov else trace
        return updates, CycledTraceState(optax.safe_increment(state.count), trace)

    return Transform(cast(Any, init), cast(Any, update))


def updater(
    spec: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None = None
) -> Updater:
    return Updater(spec, variables, scaling)


class Updater:
    """An optax transformation with loss scaling, accumulation and averaging of the weights.

    `pure` is a step of it for compiled code; called, it updates the model's own variables.
    """

    def __init__(self, spec: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None):
        self.spec, self.scaling, self.variables = spec, scaling, list(variables)
        self.transform = optimizer(spec, variables)
        self.state = jax.jit(self.init)(_values(variables))  # one program instead of one per shape

    def init(self, weights: list) -> dict[str, Any]:
        weights = _copies(weights)
        state: dict[str, Any] = {"batches": jnp.zeros((), jnp.int32), "optax": self.transform.init(weights)}
        if self.spec.use_ema:
            state["average"] = [jnp.zeros_like(w) for w in weights]
        if self.spec.gradient_accumulation_steps:
            state["gradients"] = [jnp.zeros_like(w) for w in weights]
            state["weight_sum"] = jnp.zeros((), jnp.int32)
        if self.scaling:
            state["scale"] = jnp.asarray(self.scaling.initial_scale, jnp.float32)
            state["scale_steps"] = jnp.zeros((), jnp.int32)
        return state

    def scale(self, loss: jax.Array, state: dict[str, Any] | None = None) -> jax.Array:
        factor = (state or self.state)["scale"] if self.scaling else self.spec.loss_scale_factor
        return loss if factor is None else loss * factor

    def pure(
        self, gradients: list, state: dict[str, Any], weights: list, weight: Any = None
    ) -> tuple[list, dict[str, Any]]:
        """(gradients of the scaled loss, state, weights, the batch's weight) -> (weights, state)."""
        if not self.scaling:
            factor = self.spec.loss_scale_factor
            gradients = [g / factor for g in gradients] if factor else gradients
            return self.accumulate(gradients, state, weights, weight)
        gradients = [g / state["scale"] for g in gradients]
        finite = jnp.all(jnp.stack([jnp.isfinite(g).all() for g in gradients]))
        weights, state = lax.cond(
            finite,
            lambda: self.accumulate(gradients, state, weights, weight),
            lambda: (weights, state),
        )
        good = jnp.where(finite, state["scale_steps"] + 1, 0)
        grown = good == self.scaling.growth_steps
        factor = jnp.where(finite, jnp.where(grown, 2.0, 1.0), 0.5)
        return weights, {
            **state,
            "scale": state["scale"] * factor.astype(jnp.float32),
            "scale_steps": jnp.where(grown, 0, good).astype(jnp.int32),
        }

    def accumulate(
        self, gradients: list, state: dict[str, Any], weights: list, weight: Any
    ) -> tuple[list, dict[str, Any]]:
        """Update if due, by the weighted mean of the gradients since the last update."""
        state = {**state, "batches": state["batches"] + 1}
        every = self.spec.gradient_accumulation_steps
        if not every:
            return self.update(gradients, state, weights)
        weight = jnp.asarray(1 if weight is None else weight, jnp.int32)
        total = state["weight_sum"] + weight
        real = jnp.result_type(jnp.float32, *gradients)
        share = jnp.where(total > 0, weight.astype(real) / jnp.maximum(total, 1).astype(real), 1)
        mean = [
            (m * (1 - share) + g * share).astype(g.dtype)
            for m, g in zip(state["gradients"], gradients, strict=True)
        ]

        def due() -> tuple[list, dict[str, Any]]:
            cleared = [jnp.zeros_like(m) for m in mean]
            return self.update(mean, {**state, "gradients": cleared, "weight_sum": 0 * total}, weights)

        return lax.cond(
            state["batches"] % every == 0,
            due,
            lambda: (weights, {**state, "gradients": mean, "weight_sum": total}),
        )

    def update(self, gradients: list, state: dict[str, Any], weights: list) -> tuple[list, dict[str, Any]]:
        """One update, after the number of batches in the state."""
        o = self.spec
        updates, memory = self.transform.update(gradients, state["optax"], weights)
        weights = cast(list, optax.apply_updates(weights, updates))
        state = {**state, "optax": memory}
        if o.use_ema:
            count = state["batches"] // (o.gradient_accumulation_steps or 1)
            kept = jnp.where(count == 1, 0.0, o.ema_momentum)
            average = [
                kept.astype(w.dtype) * a + (1 - kept).astype(w.dtype) * w
                for a, w in zip(state["average"], weights, strict=True)
            ]
            state["average"] = average
            if often := o.ema_overwrite_frequency:
                due = count % often == 0
                weights = [jnp.where(due, a, w) for a, w in zip(average, weights, strict=True)]
        return weights, state

    def __call__(self, gradients: Sequence[jax.Array], weight: Any = None) -> None:
        weights, self.state = self.pure(list(gradients), self.state, _values(self.variables), weight)
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def copy_ema_to_weights(self) -> None:
        if int(self.state["batches"]) < (self.spec.gradient_accumulation_steps or 1):
            return  # before the first update there is no average
        for variable, average in zip(self.variables, self.state.get("average", ()), strict=False):
            variable.assign(average)

    # The zoo's names of the state's parts -> optax's
    NAMES: ClassVar = {"velocity": "nu", "largest": "nu_max"}

    def kinds(self) -> dict[str, str]:
        o = self.spec
        first = "trace" if type(o).__name__ == "Momentum" else "mu"
        return {kind: self.NAMES.get(kind, first) for kind in o.SLOTS}

    def state_dict(self) -> dict[str, np.ndarray]:
        numbers = ("batches", "scale", "scale_steps", "weight_sum")
        own = {k: self.state[k] for k in numbers if k in self.state}
        found = {name: np.asarray(value) for name, value in own.items()}
        lists = {kind: _tree_get(self.state["optax"], name) for kind, name in self.kinds().items()}
        lists |= {kind: self.state[kind] for kind in ("average", "gradients") if kind in self.state}
        for kind, arrays in lists.items():
            pairs = zip(self.variables, arrays, strict=True)
            found |= {f"{kind}/{v.path}": np.array(x) for v, x in pairs}
        return found

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        def kept(kind: str) -> list[jax.Array]:
            return [tensor(state[f"{kind}/{v.path}"]) for v in self.variables]

        batches, every = int(state["batches"]), self.spec.gradient_accumulation_steps
        values: dict[str, Any] = {name: kept(kind) for kind, name in self.kinds().items()}
        if _tree_has(self.state["optax"], "count"):
            values["count"] = jnp.asarray(batches // (every or 1), jnp.int32)
        self.state["optax"] = _tree_set(self.state["optax"], **values)
        self.state["batches"] = jnp.asarray(batches, jnp.int32)
        if self.spec.use_ema:
            self.state["average"] = kept("average")
        if every:
            self.state["gradients"] = kept("gradients")
            self.state["weight_sum"] = jnp.asarray(state["weight_sum"], jnp.int32)
        if self.scaling:
            self.state["scale"] = jnp.asarray(state["scale"], jnp.float32)
            self.state["scale_steps"] = jnp.asarray(state["scale_steps"], jnp.int32)


def _tree_get(state: Any, name: str) -> Any:
    found = optax.tree_utils.tree_get_all_with_path(state, name)
    return found[0][1]


def _tree_has(state: Any, name: str) -> bool:
    return bool(optax.tree_utils.tree_get_all_with_path(state, name))


def _tree_set(state: Any, **values: Any) -> Any:
    for name, value in values.items():  # one at a time: it does not look inside replaced values
        state = optax.tree_utils.tree_set(state, **{name: value})
    return state


def gradients(
    model: keras.Model, loss: Loss
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, list, list]]:
    pure = _jit(jax.value_and_grad(_objective(model, loss), has_aux=True))

    def call(x: jax.Array, y: jax.Array) -> tuple[jax.Array, list, list]:
        (value, state), gradients = pure(
            _values(model.trainable_variables), _values(model.non_trainable_variables), x, y
        )
        return value, gradients, state

    return call


def input_gradient(function: Callable[[jax.Array], jax.Array], x: jax.Array) -> jax.Array:
    return jax.grad(function)(x)


def step(
    model: keras.Model, loss: Loss, optimizer: Optimizer, mode: str, scaling: LossScaling | None = None
) -> JaxStep:
    return JaxStep(model, loss, optimizer, scaling, compiled=allowed(NAME, mode) == "jit")


class JaxStep:
    """`jit` of `value_and_grad` and an optax update: (state, batch) -> (state, loss), the state donated."""

    def __init__(
        self,
        model: keras.Model,
        loss: Loss,
        spec: Optimizer,
        scaling: LossScaling | None,
        *,
        compiled: bool,
    ):
        self.model, self.mode, self.world = model, "jit" if compiled else "eager", cast(Any, get_world())
        self.updater = updater = Updater(spec, model.trainable_variables, scaling)
        objective = _objective(model, loss)

        def scaled(weights: list, other: list, memory: dict, x: jax.Array, y: jax.Array) -> tuple:
            value, other = objective(weights, other, x, y)
            return updater.scale(value, memory), (value, other)

        def step(
            state: tuple, x: jax.Array, y: jax.Array, weight: jax.Array | None = None
        ) -> tuple[tuple, jax.Array]:
            weights, other, memory = state
            (_, (value, other)), gradients = jax.value_and_grad(scaled, has_aux=True)(
                weights, other, memory, x, y
            )
            weights, memory = updater.pure(gradients, memory, weights, weight)
            return (weights, other, memory), value

        def shared(state: tuple, flags: jax.Array, *batch: Any) -> tuple:
            return *step(state, *batch), flags.sum()

        self.eager, self.shared, self.shardings = step, shared, None
        self.step = _jit(_once(step), donate_argnums=0) if compiled else step
        self.state: tuple | None = None

    def __call__(
        self, x: jax.Array, y: jax.Array, weight: int | None = None, part: Part = WHOLE
    ) -> jax.Array:
        del part
        if self.state is None:
            # A donated buffer is invalid after the step, and others may use the model's.
            own = _values(self.model.trainable_variables), _values(self.model.non_trainable_variables)
            weights, other, memory = jax.jit(_copies)((*own, self.updater.state))
            self.state = weights, other, memory
            # The state is kept here until `sync`: until then, reading the model raises an error.
            self.assign(weights, other)
            self.updater.state = {}
            if self.world.size > 1:
                self.share(self.state)
        try:
            counted = None if weight is None else np.int32(weight)
            self.state, loss = self.advance(self.state, (x, y, counted))
        except BaseException:
            if _is_deleted(self.state):
                self.state = None  # the device failed during the step
            self.sync()  # a batch that does not fit leaves the model unchanged
            raise
        return loss

    def share(self, state: tuple) -> None:
        """Put the state on the devices of all workers, and compile the step for where it is."""
        if self.shardings is None:
            weights, other, memory = state
            replicated = jax.tree.map(lambda _: self.world.replicated, other)
            self.shardings = self.world.split(weights), replicated, self.world.split(memory)
            places = self.shardings, self.world.replicated, self.world.replicated
            self.step = _jit(_once(self.shared), donate_argnums=0, out_shardings=places)
        self.state = self.world.put(state, self.shardings)
        if self.world.shards_weights:
            for weight in state[0]:
                weight.delete()  # which only its parts hold until `sync`

    def advance(self, state: tuple, batch: tuple) -> tuple[tuple, jax.Array]:
        """A step; eager from here on if it cannot be compiled, which several workers need."""
        if self.world.size > 1:
            state, loss, flags = cast(tuple, self.step(state, self.world.flagged(), *batch))
            self.world.flags.append(flags)
            return state, loss
        try:
            return self.step(state, *batch)
        except Exception as error:
            if self.mode == "eager" or isinstance(error, jax.errors.JaxRuntimeError) or _is_deleted(state):
                raise
            found = self.eager(state, *batch)  # raises for a batch that does not fit
            self.step, self.mode = self.eager, fall_back(self.model, self.mode, "eager", error)
            return found

    def sync(self) -> None:
        if self.state is None:
            return
        weights, other, memory = self.state if self.world.size == 1 else self.world.take(self.state)
        self.assign(weights, other)
        self.updater.state = memory
        self.state = None  # the model's variables may be assigned before the next step

    def assign(self, weights: list, other: list) -> None:
        """Set the model's variables to these arrays, without a copy."""
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        for variable, value in zip(variables, [*weights, *other], strict=True):
            variable.assign(value)


def fit_step(model: keras.Model) -> Callable[[Any], Any] | None:
    del model  # Keras compiles its own
    return None


def stream(model: keras.Model, batches: Iterator[tuple[Any, np.ndarray]]) -> Any:
    del model
    return batches


def predictor(model: keras.Model, mode: str) -> Callable[[jax.Array], jax.Array]:
    import keras

    # Once, because Keras traverses all layers to list them.
    variables = [*model.trainable_variables, *model.non_trainable_variables]

    def forward(values: list[jax.Array], x: jax.Array) -> jax.Array:
        with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
            return model(x, training=False)

    run = _jit(_once(forward)) if allowed(NAME, mode) == "jit" else forward

    def predict(x: jax.Array) -> jax.Array:
        nonlocal run
        # `value` first checks for an autocast scope: 2 us per weight, 2% of T5-mini's time.
        values = [v._value for v in variables]
        try:
            return run(values, x)
        except Exception as error:
            if run is forward or isinstance(error, jax.errors.JaxRuntimeError):
                raise
            logits = forward(values, x)  # raises for a batch that does not fit
            fall_back(model, "jit", "eager", error)
            run = forward
            return logits

    return predict


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def program(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    return _jit(_once(function)) if allowed(NAME, mode) == "jit" else function


def custom_gradient(function: Callable[..., tuple[Any, Callable]], *tensors: jax.Array) -> Any:
    def flat(*tensors: jax.Array) -> tuple[Any, Callable]:
        result, backward = function(*tensors)
        return result, (lambda found: backward(*found)) if isinstance(result, tuple) else backward

    return jax.custom_gradient(flat)(*tensors)


def value_and_gradients(
    function: Callable[[list], tuple[jax.Array, Any]], tensors: Sequence[jax.Array]
) -> tuple[jax.Array, Any, list]:
    (value, rest), gradients = jax.value_and_grad(function, has_aux=True)(list(tensors))
    return value, rest, gradients


def _values(variables: Sequence[keras.Variable]) -> list[jax.Array]:
    return [v.value for v in variables]


def _once(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function to compile, whose Python code runs once for many calls."""

    def call(*arguments: Any) -> Any:
        with drawing_nothing():
            return function(*arguments)

    return call


def _is_deleted(state: Any) -> bool:
    """Whether these arrays have been donated to a step."""
    return any(array.is_deleted() for array in jax.tree.leaves(state))


def _copies(arrays: Any) -> Any:
    """Copies in new memory, even where compiled code would return its inputs."""
    return jax.tree.map(jnp.copy, arrays)


def _objective(model: keras.Model, loss: Loss) -> Callable[..., tuple[jax.Array, list]]:
    """(weights, state, x, y) -> (loss, new state)."""

    import keras

    trained, others = model.trainable_variables, model.non_trainable_variables

    def objective(weights: list, state: list, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list]:
        values = [*zip(trained, weights, strict=True), *zip(others, state, strict=True)]
        with keras.StatelessScope(state_mapping=values, collect_losses=True) as scope:
            logits, penalties = model.call(x, training=True), model.losses
        _check_seeds(model, scope)
        return loss(y, logits) + sum(penalties), [scope.get_current_value(v) for v in others]

    return objective


def _check_seeds(model: keras.Model, scope: keras.StatelessScope) -> None:
    """Raise WrongConfiguration if the model drew from a seed that is not among its variables."""
    own = {id(v) for v in model.variables}
    for name, value in scope.state_mapping.items():
        if name not in own and value.dtype == jnp.uint32 and value.shape == (2,):
            raise WrongConfiguration(
                f"{model.name} draws from a seed that is none of its variables, which on JAX every step "
                "would repeat; let the layer that draws have a keras.random.SeedGenerator as an attribute"
            )
