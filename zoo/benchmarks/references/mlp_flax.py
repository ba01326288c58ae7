"""A multilayer perceptron the Flax way: a module that owns no weights, a pure update, optax's AdamW.

In Linen, for the speed of its step: lenet5_flax.py says why.
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
LAYERS = ("dense1", "dense2", "logits")


class MLP(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:  # (b, 28, 28, 1)
        x = x.reshape(x.shape[0], -1)  # (b, 784)
        x = nn.relu(nn.Dense(256, name="dense1")(x))
        x = nn.relu(nn.Dense(128, name="dense2")(x))
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
    state = TrainState.create(apply_fn=MLP().apply, params=load(weights), tx=optimizer)
    fast_update = choose(mode, MODES)(update, donate_argnums=0)  # the new state reuses the old one's memory

    def step(x: jax.Array, y: jax.Array) -> jax.Array:
        nonlocal state
        state, loss = fast_update(state, x, y)
        return loss

    return step, lambda: read(state.params)


def predictor(weights: Weights, *, mode: str = "jit") -> Callable[[jax.Array], jax.Array]:
    params = load(weights)
    apply = choose(mode, MODES)(MLP().apply)
    return lambda x: apply({"params": params}, x)


def load(weights: Weights) -> dict[str, dict[str, jax.Array]]:
    """The zoo's layouts are Flax's own. Copies: a donated array must not be the caller's."""
    pairs = zip(LAYERS, weights[0::2], weights[1::2], strict=True)
    return {layer: {"kernel": jnp.array(kernel), "bias": jnp.array(bias)} for layer, kernel, bias in pairs}


def read(params: Mapping[str, Mapping[str, jax.Array]]) -> Weights:
    return [np.array(params[layer][name]) for layer in LAYERS for name in ("kernel", "bias")]
