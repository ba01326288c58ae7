"""LeNet-5 the Flax way: a module that owns no weights, a pure update, optax for the optimizer.

LeCun et al. 1998, "Gradient-based learning applied to document recognition", as it is taught today:
tanh, average pooling, every map of the first convolution connected to every map of the second.

In Linen. NNX, Flax's newer API, compiles to the same program, but `nnx.jit` traverses the model in Python at
each call, 1 to 3 ms a step here. NNX split explicitly for `jax.jit` is as fast as this, and longer.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from zoo.benchmarks.references import Weights, choose

MODES = {"jit": jax.jit}
LAYERS = ("conv1", "conv2", "dense1", "dense2", "logits")


class LeNet5(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # (b, 32, 32, 1)
        x = nn.tanh(nn.Conv(6, (5, 5), padding="VALID", name="conv1")(x))  # (b, 28, 28, 6)
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))  # (b, 14, 14, 6)
        x = nn.tanh(nn.Conv(16, (5, 5), padding="VALID", name="conv2")(x))  # (b, 10, 10, 16)
        x = nn.avg_pool(x, (2, 2), strides=(2, 2))  # (b, 5, 5, 16)
        x = x.reshape(x.shape[0], -1)  # (b, 400)
        x = nn.tanh(nn.Dense(120, name="dense1")(x))
        x = nn.tanh(nn.Dense(84, name="dense2")(x))
        return nn.Dense(10, name="logits")(x)


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.array(x), jnp.array(y, dtype=jnp.int32)


def update(state: TrainState, x: jax.Array, y: jax.Array) -> tuple[TrainState, jax.Array]:
    def cross_entropy(params: dict) -> jax.Array:
        logits = state.apply_fn({"params": params}, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    loss, gradients = jax.value_and_grad(cross_entropy)(state.params)
    return state.apply_gradients(grads=gradients), loss


def trainer(
    weights: Weights, *, learning_rate: float = 1e-3, weight_decay: float = 0.01, mode: str = "jit"
) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], Callable[[], Weights]]:
    optimizer = optax.adamw(learning_rate, eps=1e-8, weight_decay=weight_decay)
    state = TrainState.create(apply_fn=LeNet5().apply, params=load(weights), tx=optimizer)
    fast_update = choose(mode, MODES)(update, donate_argnums=0)  # the new state reuses the old one's memory

    def step(x: jax.Array, y: jax.Array) -> jax.Array:
        nonlocal state
        state, loss = fast_update(state, x, y)
        return loss

    return step, lambda: read(state.params)


def predictor(weights: Weights, *, mode: str = "jit") -> Callable[[jax.Array], jax.Array]:
    params = load(weights)
    apply = choose(mode, MODES)(LeNet5().apply)
    return lambda x: apply({"params": params}, x)


def load(weights: Weights) -> dict[str, dict[str, jax.Array]]:
    """The zoo's layouts are Flax's own. Copies: a donated array must not be the caller's."""
    pairs = zip(LAYERS, weights[0::2], weights[1::2], strict=True)
    return {layer: {"kernel": jnp.array(kernel), "bias": jnp.array(bias)} for layer, kernel, bias in pairs}


def read(params: Mapping[str, Mapping[str, jax.Array]]) -> Weights:
    return [np.array(params[layer][name]) for layer in LAYERS for name in ("kernel", "bias")]
