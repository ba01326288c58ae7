"""JAX behind the zoo's contract; what each function does is said in `zoo.backends.Backend`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from zoo.backends import Device, Loss, allowed, find_device, host_memory

if TYPE_CHECKING:
    import keras

    from zoo.optimizers import Optimizer

NAME = "jax"


# The machine


def version() -> str:
    return jax.__version__


def devices() -> list[Device]:
    found = [_describe(device) for device in jax.devices()]
    return found if found[0].kind == "CPU" else [*found, *map(_describe, jax.devices("cpu"))]


def _describe(device: Any) -> Device:
    if device.platform == "cpu":
        return Device("cpu", "CPU", platform.processor() or platform.machine(), None)
    kind = {"rocm": "ROCm", "tpu": "TPU", "METAL": "MPS"}.get(device.platform, "CUDA")
    name = f"{kind.lower()}:{device.id}"
    return Device(name, kind, device.device_kind, (device.memory_stats() or {}).get("bytes_limit"))


def use_device(name: str) -> None:
    found = find_device(devices(), name)
    everything = [*jax.devices(), *jax.devices("cpu")]
    device = next(d for d in everything if _describe(d).name == found.name)
    jax.config.update("jax_default_device", device)


def set_threads(count: int) -> None:
    os.environ["NPROC"] = str(count)  # read when XLA starts its thread pool


def threads() -> int:
    return int(os.environ.get("NPROC", 0)) or len(os.sched_getaffinity(0))


def peak_memory() -> int:
    device = jax.devices()[0]
    return host_memory() if device.platform == "cpu" else device.memory_stats()["peak_bytes_in_use"]


def set_deterministic() -> None:
    flags = os.environ.get("XLA_FLAGS", "")
    os.environ["XLA_FLAGS"] = f"{flags} --xla_gpu_deterministic_ops=true".strip()


def synchronize(value: jax.Array) -> None:
    jax.block_until_ready(value)


# Operations


def tensor(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array)


def kernel_memory(kernel: np.ndarray) -> np.ndarray:
    return kernel  # XLA chooses its own layouts


def conv(x: jax.Array, kernel: jax.Array, bias: jax.Array | None, *, stride: int, padding: int) -> jax.Array:
    axes = ("NHWC", "HWIO", "NHWC")
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=axes
    )
    return y if bias is None else y + bias


def max_pool(x: jax.Array, size: int, stride: int, padding: int) -> jax.Array:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return lax.reduce_window(x, -jnp.inf, lax.max, *_windows(size, stride), sides)


def average_pool(x: jax.Array, size: int, stride: int) -> jax.Array:
    return lax.reduce_window(x, 0.0, lax.add, *_windows(size, stride), "VALID") * (1 / size**2)


def _windows(size: int, stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    return (1, size, size, 1), (1, stride, stride, 1)


def dense(x: jax.Array, kernel: jax.Array, bias: jax.Array | None) -> jax.Array:
    y = x @ kernel
    return y if bias is None else y + bias


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
    if not training:
        return (x - mean) * (lax.rsqrt(variance + epsilon) * gamma) + beta, mean, variance
    axes, count = tuple(range(x.ndim - 1)), x.size // x.shape[-1]
    batch_mean = x.mean(axes)
    batch_variance = jnp.square(x - batch_mean).mean(axes)
    y = (x - batch_mean) * (lax.rsqrt(batch_variance + epsilon) * gamma) + beta
    mean = (1 - momentum) * mean + momentum * batch_mean
    variance = (1 - momentum) * variance + momentum * count / (count - 1) * batch_variance
    return y, mean, variance


def layer_norm(x: jax.Array, gamma: jax.Array, beta: jax.Array, *, epsilon: float) -> jax.Array:
    centred = x - x.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    return centred * lax.rsqrt(variance + epsilon) * gamma + beta


def gelu(x: jax.Array, *, approximate: bool) -> jax.Array:
    return jax.nn.gelu(x, approximate=approximate)


def cross_entropy(labels: jax.Array, logits: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


# Training


OPTIMIZERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "SGD": lambda s, decays: optax.chain(
        optax.add_decayed_weights(s["weight_decay"], decays), optax.sgd(s["learning_rate"])
    ),
    "AdamW": lambda s, decays: optax.chain(
        optax.scale_by_adam(s["beta_1"], s["beta_2"], s["epsilon"]),
        optax.scale_by_schedule(_bias_correction_error(s["beta_1"], s["beta_2"])),
        optax.add_decayed_weights(s["weight_decay"], decays),
        optax.scale_by_learning_rate(s["learning_rate"]),
    ),
}


def _bias_correction_error(beta_1: float, beta_2: float) -> optax.Schedule:
    """What optax's Adam update is to be multiplied by.

    optax takes 1 - beta^t in float32, where 1 - 0.999 is 1.3e-5 too small: its first updates are 6e-6 too
    large. Over 345 steps of LeNet-5 that moves the losses by 7e-6, against 5e-7 without.
    """

    def off(beta: float, step: Any) -> Any:
        return (1 - beta**step) / -jnp.expm1(step * np.log(beta)) if beta else jnp.ones(())

    return lambda count: off(beta_1, count + 1) / jnp.sqrt(off(beta_2, count + 1))


def optimizer(description: Optimizer, variables: Sequence[keras.Variable]) -> optax.GradientTransformation:
    decays = [description.decays(v) for v in variables]
    return OPTIMIZERS[type(description).__name__](description.settings(), decays)


def gradients(
    model: keras.Model, loss: Loss
) -> Callable[[jax.Array, jax.Array], tuple[jax.Array, list[jax.Array]]]:
    pure = jax.jit(_pure(model, loss))

    def call(x: jax.Array, y: jax.Array) -> tuple[jax.Array, list[jax.Array]]:
        (value, _), gradients = pure(
            _values(model.trainable_variables), _values(model.non_trainable_variables), x, y
        )
        return value, gradients

    return call


def step(model: keras.Model, loss: Loss, optimizer: Optimizer, mode: str) -> JaxStep:
    return JaxStep(model, loss, optimizer, compiled=allowed(NAME, mode) == "jit")


class JaxStep:
    """`jit` of `value_and_grad` and an optax update: (state, batch) -> (state, loss), the state donated."""

    def __init__(self, model: keras.Model, loss: Loss, description: Optimizer, *, compiled: bool):
        pure, transform = _pure(model, loss), optimizer(description, model.trainable_variables)

        def update(state: tuple, x: jax.Array, y: jax.Array) -> tuple[tuple, jax.Array]:
            weights, other, memory = state
            (value, other), gradients = pure(weights, other, x, y)
            updates, memory = transform.update(gradients, memory, weights)
            return (optax.apply_updates(weights, updates), other, memory), value

        self.model = model
        self.update = jax.jit(update, donate_argnums=0) if compiled else update
        # A donated buffer is gone after the step, so the state starts as copies of the model's.
        weights = [jnp.copy(v) for v in _values(model.trainable_variables)]
        other = [jnp.copy(v) for v in _values(model.non_trainable_variables)]
        self.state = weights, other, transform.init(weights)

    def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
        self.state, loss = self.update(self.state, x, y)
        return loss

    def sync(self) -> None:
        weights, other, _ = self.state
        variables = [*self.model.trainable_variables, *self.model.non_trainable_variables]
        for variable, value in zip(variables, [*weights, *other], strict=True):
            variable.assign(jnp.copy(value))


def predictor(model: keras.Model, mode: str) -> Callable[[jax.Array], jax.Array]:
    def forward(weights: list[jax.Array], other: list[jax.Array], x: jax.Array) -> jax.Array:
        return model.stateless_call(weights, other, x, training=False)[0]

    run = jax.jit(forward) if allowed(NAME, mode) == "jit" else forward
    return lambda x: run(_values(model.trainable_variables), _values(model.non_trainable_variables), x)


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def _values(variables: Sequence[keras.Variable]) -> list[jax.Array]:
    return [v.value for v in variables]


def _pure(model: keras.Model, loss: Loss) -> Callable[..., Any]:
    """(weights, state, x, y) -> ((loss, new state), gradients)."""

    call: Any = model.stateless_call

    def objective(weights: list, state: list, x: jax.Array, y: jax.Array) -> tuple[jax.Array, list]:
        logits, state, penalties = call(weights, state, x, training=True, return_losses=True)
        return loss(y, logits) + sum(penalties), state

    return jax.value_and_grad(objective, has_aux=True)
