"""Recurrent classifiers in plain JAX: one product for the inputs of all steps, and a scan over the states.

Flax's cells have one bias where torch's and the zoo's have two, which AdamW moves twice as far; so the cells
are written out. Texts (b, n) are padded at the end. The backward direction reads each text reversed, its
padding still at the end. Axes: b batch, n tokens, c channels, u units.
"""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from zoo.benchmarks.references import Reference, choose
from zoo.benchmarks.references.recurrent_sizes import WIDTH, shapes

MODES = {"jit": jax.jit}

Texts = tuple[jax.Array, jax.Array]  # tokens (b, n), lengths (b,)
Weights = Mapping[str, jax.Array]
State = tuple[jax.Array, ...]  # each (b, u)


def lstm_step(w: Weights, name: str, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
    """Hochreiter and Schmidhuber 1997, with a forget gate; `inputs` are W x + b, (b, 4u): i, f, g, o."""
    h, c = state
    gates = inputs + h @ w[f"{name}/recurrent_kernel"] + w[f"{name}/recurrent_bias"]
    i, f, g, o = jnp.split(gates, 4, -1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    h = jax.nn.sigmoid(o) * jnp.tanh(c)
    return (h, c), h


def gru_step(w: Weights, name: str, state: State, inputs: jax.Array) -> tuple[State, jax.Array]:
    """Cho et al. 2014, arXiv:1406.1078; `inputs` are W x + b, (b, 3u): r, z, n."""
    (h,) = state
    r, z, n = jnp.split(inputs, 3, -1)
    ours = jnp.split(h @ w[f"{name}/recurrent_kernel"] + w[f"{name}/recurrent_bias"], 3, -1)
    r, z = jax.nn.sigmoid(r + ours[0]), jax.nn.sigmoid(z + ours[1])
    h = (1 - z) * jnp.tanh(n + r * ours[2]) + z * h
    return (h,), h


STEPS = {"lstm": (lstm_step, 2), "gru": (gru_step, 1), "birnn": (lstm_step, 2)}  # and how many states


def classify(model: str, w: Weights, texts: Texts) -> jax.Array:
    """(b, n) -> (b, classes)."""
    tokens, lengths = texts
    x = w["embedding/table"][tokens]  # (b, n, c)
    last = [last_state(model, w, "layer1_forward", x, lengths)]
    if model == "birnn":
        places = jnp.arange(x.shape[1])
        back = jnp.where(places < lengths[:, None], lengths[:, None] - 1 - places, places)  # (b, n)
        last += [last_state(model, w, "layer1_backward", jnp.take_along_axis(x, back[..., None], 1), lengths)]
    return jnp.concatenate(last, -1) @ w["head/kernel"] + w["head/bias"]


def last_state(model: str, w: Weights, name: str, x: jax.Array, lengths: jax.Array) -> jax.Array:
    """(b, n, c) -> (b, u): the state at each text's end."""
    step, states = STEPS[model]
    inputs = x @ w[f"{name}/kernel"] + w[f"{name}/bias"]  # (b, n, 4u or 3u)
    zeros = jnp.zeros((len(x), WIDTH))
    _, outputs = jax.lax.scan(partial(step, w, name), (zeros,) * states, inputs.swapaxes(0, 1))  # (n, b, u)
    return outputs[lengths - 1, jnp.arange(len(x))]


def reference(model: str) -> Reference:
    functions = partial(trainer, model), partial(predictor, model), partial(build, model)
    return Reference(prepare, *functions, layout="zoo")


def build(model: str) -> Weights:
    """Uniform within 1 / sqrt(u), as torch's cells."""
    keys, bound = jax.random.split(jax.random.key(0), len(shapes(model))), WIDTH**-0.5
    return {
        name: jax.random.uniform(key, shape, minval=-bound, maxval=bound)
        for key, (name, shape) in zip(keys, shapes(model).items(), strict=True)
    }


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[Texts, jax.Array]:
    return (jnp.array(x), jnp.array((x > 0).sum(1))), jnp.array(y, dtype=jnp.int32)


def trainer(
    model: str,
    weights: Mapping[str, np.ndarray],
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "jit",
) -> tuple[Callable[[Texts, jax.Array], jax.Array], Callable[[], dict[str, np.ndarray]]]:
    optimizer = optax.adamw(learning_rate, eps=1e-8, weight_decay=weight_decay)
    w = load(weights)
    state = optimizer.init(w)

    def update(
        w: Weights, state: optax.OptState, x: Texts, y: jax.Array
    ) -> tuple[Weights, optax.OptState, jax.Array]:
        def cross_entropy(w: Weights) -> jax.Array:
            return optax.softmax_cross_entropy_with_integer_labels(classify(model, w, x), y).mean()

        loss, gradients = jax.value_and_grad(cross_entropy)(w)
        changes, state = optimizer.update(gradients, state, w)
        return optax.apply_updates(w, changes), state, loss  # pyright: ignore[reportReturnType]

    fast_update = choose(mode, MODES)(update, donate_argnums=(0, 1))

    def step(x: Texts, y: jax.Array) -> jax.Array:
        nonlocal w, state
        w, state, loss = fast_update(w, state, x, y)
        return loss

    return step, lambda: {name: np.array(array) for name, array in w.items()}


def predictor(
    model: str, weights: Mapping[str, np.ndarray], *, mode: str = "jit"
) -> Callable[[Texts], jax.Array]:
    return partial(choose(mode, MODES)(partial(classify, model)), load(weights))


def load(weights: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Copies: a donated array must not be the caller's."""
    return {name: jnp.array(array) for name, array in weights.items()}
