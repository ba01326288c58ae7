"""ResNet and the Vision Transformer the Flax way: modules that own no weights, a pure update, optax's AdamW.

In Linen, for the speed of its step: see lenet5_flax.py. Each submodule has the name of the zoo's layer,
so weights need no table of names. Axes: b batch, h height, w width, n tokens, c channels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from zoo.benchmarks.references import Reference, choose

MODES = {"jit": jax.jit}
# He et al. 2015, arXiv:1512.03385, table 1: blocks a stage
RESNETS = {
    "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3),
}  # fmt: skip
# Dosovitskiy et al. 2020, arXiv:2010.11929, table 1; Touvron et al. 2021, arXiv:2012.12877, table 1:
# width, blocks, heads, patch size
VITS = {
    "vit-ti16": (192, 12, 3, 16), "vit-s16": (384, 12, 6, 16), "vit-b16": (768, 12, 12, 16),
    "vit-b32": (768, 12, 12, 32), "vit-l16": (1024, 24, 16, 16), "vit-l32": (1024, 24, 16, 32),
}  # fmt: skip
OURS = {"scale": "gamma", "mean": "moving_mean", "var": "moving_variance"}  # of a norm; its bias is beta

Variables = Mapping[str, Any]


class ResNet(nn.Module):
    depths: tuple[int, ...]
    bottleneck: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # (b, 224, 224, 3)
        def conv_norm(x: jax.Array, filters: int, size: int, stride: int, name: str) -> jax.Array:
            half = size // 2
            padding = ((half, half), (half, half))
            x = nn.Conv(filters, (size, size), stride, padding, use_bias=False, name=name)(x)
            return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)

        x = nn.relu(conv_norm(x, 64, 7, 2, "stem"))  # (b, 112, 112, 64)
        around: Any = ((1, 1), (1, 1))  # Flax annotates padding as a string
        x = nn.max_pool(x, (3, 3), (2, 2), around)  # (b, 56, 56, 64)
        for stage, depth in enumerate(self.depths, start=1):
            width = 64 * 2 ** (stage - 1)
            for i in range(1, depth + 1):
                name, stride = f"stage{stage}_block{i}", 2 if stage > 1 and i == 1 else 1
                if self.bottleneck:
                    y = nn.relu(conv_norm(x, width, 1, 1, f"{name}_conv1"))
                    y = nn.relu(conv_norm(y, width, 3, stride, f"{name}_conv2"))
                    y = conv_norm(y, 4 * width, 1, 1, f"{name}_conv3")
                else:
                    y = nn.relu(conv_norm(x, width, 3, stride, f"{name}_conv1"))
                    y = conv_norm(y, width, 3, 1, f"{name}_conv2")
                if x.shape != y.shape:
                    x = conv_norm(x, y.shape[-1], 1, stride, f"{name}_shortcut")
                x = nn.relu(x + y)  # (b, h, w, c): 56, 28, 14, 7
        return nn.Dense(1000, name="head")(x.mean((1, 2)))


class ViT(nn.Module):
    width: int
    depth: int
    heads: int
    patch_size: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # (b, 224, 224, 3)
        del train
        norm = partial(nn.LayerNorm, epsilon=1e-6)
        size, small = (self.patch_size, self.patch_size), nn.initializers.normal(0.02)
        x = nn.Conv(self.width, size, size, "VALID", name="patch_embedding")(x)  # (b, 14, 14, c)
        x = x.reshape(len(x), -1, self.width)  # (b, 196, c)
        token = self.param("class_token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.tile(token, (len(x), 1, 1)), x], axis=1)  # (b, 197, c)
        x += self.param("position_embedding", small, (1, *x.shape[1:]))
        for name in (f"block{i}" for i in range(1, self.depth + 1)):
            x += self.attention(norm(name=f"{name}_norm1")(x), f"{name}_attention")
            y = nn.Dense(4 * self.width, name=f"{name}_mlp1")(norm(name=f"{name}_norm2")(x))
            x += nn.Dense(self.width, name=f"{name}_mlp2")(nn.gelu(y, approximate=False))
        return nn.Dense(1000, name="head")(norm(name="norm")(x)[:, 0])

    def attention(self, x: jax.Array, name: str) -> jax.Array:
        parts = (nn.Dense(self.width, name=f"{name}_{part}")(x) for part in ("query", "key", "value"))
        query, key, value = (part.reshape(*x.shape[:2], self.heads, -1) for part in parts)  # (b, n, heads, d)
        x = nn.dot_product_attention(query, key, value).reshape(x.shape)
        return nn.Dense(self.width, name=f"{name}_output")(x)


class State(TrainState):
    batch_stats: Any


def reference(model: str) -> Reference:
    if model in RESNETS:
        network = ResNet(RESNETS[model], bottleneck=model not in ("resnet18", "resnet34"))
    else:
        network = ViT(*VITS[model])
    return Reference(
        prepare, partial(trainer, network), partial(predictor, network), partial(build, network), layout="zoo"
    )


def build(network: nn.Module) -> Variables:
    return jax.block_until_ready(network.init(jax.random.key(0), jnp.zeros((1, 224, 224, 3)), train=False))


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[jax.Array, jax.Array]:
    return jnp.array(x), jnp.array(y, dtype=jnp.int32)


def update(state: State, x: jax.Array, y: jax.Array) -> tuple[State, jax.Array]:
    def cross_entropy(params: Variables) -> tuple[jax.Array, Variables]:
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, new = state.apply_fn(variables, x, train=True, mutable=["batch_stats"])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), new

    (loss, new), gradients = jax.value_and_grad(cross_entropy, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients, batch_stats=new.get("batch_stats", {})), loss


def trainer(
    network: nn.Module,
    weights: Mapping[str, np.ndarray],
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "jit",
) -> tuple[Callable[[jax.Array, jax.Array], jax.Array], Callable[[], dict[str, np.ndarray]]]:
    optimizer = optax.adamw(learning_rate, eps=1e-8, weight_decay=weight_decay)
    state = State.create(apply_fn=network.apply, tx=optimizer, **load(weights))
    fast_update = choose(mode, MODES)(update, donate_argnums=0)  # the new state reuses the old one's memory

    def step(x: jax.Array, y: jax.Array) -> jax.Array:
        nonlocal state
        state, loss = fast_update(state, x, y)
        return loss

    return step, lambda: read({"params": state.params, "batch_stats": state.batch_stats})


def predictor(
    network: nn.Module, weights: Mapping[str, np.ndarray], *, mode: str = "jit"
) -> Callable[[jax.Array], jax.Array]:
    variables = load(weights)
    apply = choose(mode, MODES)(partial(network.apply, train=False))
    return lambda x: apply(variables, x)


def load(weights: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """The zoo's layouts are Flax's own. Copies: a donated array must not be the caller's."""
    theirs = {ours: name for name, ours in OURS.items()} | {"beta": "bias"}
    named: dict[str, dict[str, Any]] = {"params": {}, "batch_stats": {}}
    for path, array in weights.items():
        layer, name = path.split("/")
        tree = named["batch_stats" if name.startswith("moving") else "params"]
        if name == "value":
            tree[layer] = jnp.array(array)
        else:
            tree.setdefault(layer, {})[theirs.get(name, name)] = jnp.array(array)
    return named


def read(variables: Variables) -> dict[str, np.ndarray]:
    named = {}
    for tree in variables.values():
        for layer, arrays in tree.items():
            for name, array in arrays.items() if isinstance(arrays, Mapping) else [("value", arrays)]:
                ours = "beta" if name == "bias" and "scale" in arrays else OURS.get(name, name)
                named[f"{layer}/{ours}"] = np.array(array)
    return named
