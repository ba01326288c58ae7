"""BERT, GPT-2 and T5 in plain JAX: pure functions of a dict of arrays, jax.jit, and optax's AdamW.

Devlin et al. 2018, arXiv:1810.04805; Radford et al. 2019; Raffel et al. 2019, arXiv:1910.10683. Each array
has the name of the zoo's weight. Labels of -1 do not count.
Axes: b batch, n tokens, m context tokens, c channels, d channels of a head.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import nn

from zoo.benchmarks.references import Reference, choose
from zoo.benchmarks.references.transformers_sizes import network_of, relative_buckets, shapes

MODES = {"jit": jax.jit}
Arrays = Mapping[str, jax.Array]
Network = Callable[[Arrays, Arrays], jax.Array]  # weights, inputs -> logits (b, n, vocabulary)


# Layers


def dense(w: Arrays, name: str, x: jax.Array) -> jax.Array:
    """(..., c) -> (..., units). T5's have no bias."""
    y = x @ w[f"{name}/kernel"]
    return y + w[f"{name}/bias"] if f"{name}/bias" in w else y


def layer_norm(w: Arrays, name: str, x: jax.Array, epsilon: float) -> jax.Array:
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon) * w[f"{name}/gamma"] + w[f"{name}/beta"]


def rms_norm(w: Arrays, name: str, x: jax.Array) -> jax.Array:
    return x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * w[f"{name}/gamma"]


def attention(
    w: Arrays, name: str, x: jax.Array, context: jax.Array, heads: int, **options: Any
) -> jax.Array:
    """(b, n, c), (b, m, c) -> (b, n, c)."""
    parts = (("query", x), ("key", context), ("value", context))
    split = (dense(w, f"{name}_{part}", y).reshape(*y.shape[:2], heads, -1) for part, y in parts)
    y = nn.dot_product_attention(*split, **options)  # (b, n, heads, d)
    return dense(w, f"{name}_output", y.reshape(*y.shape[:2], -1))


def real(x: Arrays, mask: str = "padding_mask") -> jax.Array | None:
    """(b, 1, 1, m): the tokens that may be attended to; None if all may."""
    return x[mask][:, None, None] != 0 if mask in x else None


# Networks


def bert(w: Arrays, x: Arrays, depth: int, heads: int) -> jax.Array:
    norm, table, tokens = partial(layer_norm, epsilon=1e-12), w["token_embedding/table"], x["token_ids"]
    segments = x.get("segment_ids", jnp.zeros_like(tokens))
    h = table[tokens] + w["position_embedding/table"][: tokens.shape[1]]  # (b, n, c)
    h = norm(w, "embedding_norm", h + w["segment_embedding/table"][segments])
    for block in (f"block{i + 1}" for i in range(depth)):
        y = attention(w, f"{block}_attention", h, h, heads, mask=real(x))
        h = norm(w, f"{block}_norm1", h + y)
        y = nn.gelu(dense(w, f"{block}_mlp1", h), approximate=False)  # (b, n, 4c)
        h = norm(w, f"{block}_norm2", h + dense(w, f"{block}_mlp2", y))
    y = norm(w, "masked_lm_norm", nn.gelu(dense(w, "masked_lm", h), approximate=False))
    return y @ table.T + w["masked_lm_bias/value"]


def gpt(w: Arrays, x: Arrays, depth: int, heads: int) -> jax.Array:
    norm, table, tokens = partial(layer_norm, epsilon=1e-5), w["token_embedding/table"], x["token_ids"]
    h = table[tokens] + w["position_embedding/table"][: tokens.shape[1]]  # (b, n, c)
    for block in (f"block{i + 1}" for i in range(depth)):
        y = norm(w, f"{block}_norm1", h)
        h += attention(w, f"{block}_attention", y, y, heads, mask=real(x), is_causal=True)
        y = nn.gelu(dense(w, f"{block}_mlp1", norm(w, f"{block}_norm2", h)), approximate=True)  # (b, n, 4c)
        h += dense(w, f"{block}_mlp2", y)
    return norm(w, "norm", h) @ table.T


def t5(w: Arrays, x: Arrays, depth: int, heads: int) -> jax.Array:
    table = w["token_embedding/table"]

    def stack(kind: str, tokens: jax.Array, encoded: jax.Array | None = None, **options: Any) -> jax.Array:
        h = table[tokens]  # (b, n, c)
        buckets = relative_buckets(tokens.shape[1], causal=encoded is not None)
        near = w[f"{kind}_positions/table"][buckets].transpose(2, 0, 1)[None]  # (1, heads, n, n)
        for block in (f"{kind}_block{i + 1}" for i in range(depth)):
            y = rms_norm(w, f"{block}_attention_norm", h)
            h += attention(w, f"{block}_attention", y, y, heads, bias=near, scale=1.0, **options)
            if encoded is not None:
                y = rms_norm(w, f"{block}_memory_norm", h)
                h += attention(w, f"{block}_memory", y, encoded, heads, scale=1.0, mask=real(x))
            y = nn.relu(dense(w, f"{block}_mlp_in", rms_norm(w, f"{block}_mlp_norm", h)))
            h += dense(w, f"{block}_mlp_out", y)
        return rms_norm(w, f"{kind}_norm", h)

    encoded = stack("encoder", x["token_ids"], mask=real(x))
    options = {"mask": real(x, "decoder_padding_mask"), "is_causal": True}
    h = stack("decoder", x["decoder_token_ids"], encoded, **options)
    return h * h.shape[-1] ** -0.5 @ table.T


# Training and inference


def reference(model: str) -> Reference:
    network = network_of(model, bert=bert, gpt=gpt, t5=t5)
    functions = partial(trainer, network), partial(predictor, network), partial(build, model)
    return Reference(prepare, *functions, layout="zoo")


def build(model: str) -> dict[str, jax.Array]:
    """N(0, 0.02^2); norms start at 1, biases at 0."""
    key = jax.random.key(0)

    def draw(i: int, name: str, shape: tuple[int, ...]) -> jax.Array:
        if len(shape) == 1:
            return jnp.full(shape, float(name.endswith("gamma")))
        return 0.02 * jax.random.normal(jax.random.fold_in(key, i), shape)

    return jax.block_until_ready({n: draw(i, n, shape) for i, (n, shape) in enumerate(shapes(model).items())})


def prepare(
    x: np.ndarray | Mapping[str, np.ndarray], y: np.ndarray
) -> tuple[dict[str, jax.Array], jax.Array]:
    named = x if isinstance(x, Mapping) else {"token_ids": x}
    return {name: jnp.array(part) for name, part in named.items()}, jnp.array(y, dtype=jnp.int32)


def trainer(
    network: Network,
    weights: Mapping[str, np.ndarray],
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "jit",
) -> tuple[Callable[[Arrays, jax.Array], jax.Array], Callable[[], dict[str, np.ndarray]]]:
    optimizer = optax.adamw(learning_rate, eps=1e-8, weight_decay=weight_decay)
    params = load(weights)
    state = optimizer.init(params)

    def cross_entropy(params: Arrays, x: Arrays, y: jax.Array) -> jax.Array:
        losses = optax.softmax_cross_entropy_with_integer_labels(network(params, x), jnp.maximum(y, 0))
        return losses.mean(where=y >= 0)

    def update(params: Any, state: Any, x: Arrays, y: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, gradients = jax.value_and_grad(cross_entropy)(params, x, y)
        updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state, loss

    fast_update = choose(mode, MODES)(
        update, donate_argnums=(0, 1)
    )  # the new ones reuse the old ones' memory

    def step(x: Arrays, y: jax.Array) -> jax.Array:
        nonlocal params, state
        params, state, loss = fast_update(params, state, x, y)
        return loss

    return step, lambda: {name: np.array(array) for name, array in params.items()}


def predictor(
    network: Network, weights: Mapping[str, np.ndarray], *, mode: str = "jit"
) -> Callable[[Arrays], jax.Array]:
    return partial(choose(mode, MODES)(network), load(weights))


def load(weights: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """Copies: a donated array must not be the caller's."""
    return {name: jnp.array(array) for name, array in weights.items()}
