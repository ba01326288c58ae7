"""Vision models the Flax way: modules that own no weights, a pure update, optax's AdamW.

In Linen, for the speed of its step: see lenet5_flax.py. Each submodule has the name of the zoo's layer,
so weights need no table of names. Axes: b batch, h height, w width, n tokens, c channels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import ceil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from flax.training.train_state import TrainState

from zoo.benchmarks.references import Reference, choose
from zoo.benchmarks.references.vision_sizes import (
    EFFICIENTNETS,
    RESNETS,
    STAGES,
    VGGS,
    VITS,
    norm_constants,
    round_channels,
)

MODES = {"jit": jax.jit}
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


class VGG(nn.Module):
    depths: tuple[int, ...]
    norm: bool

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # (b, 224, 224, 3)
        for stage, depth in enumerate(self.depths, start=1):
            for name in (f"stage{stage}_conv{i}" for i in range(1, depth + 1)):
                x = nn.Conv(min(64 * 2 ** (stage - 1), 512), (3, 3), padding=1, name=name)(x)
                if self.norm:
                    x = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=f"{name}_norm")(x)
                x = nn.relu(x)
            x = nn.max_pool(x, (2, 2), (2, 2))  # (b, h, w, c): 112, 56, 28, 14, 7
        return classify(x)


class AlexNet(nn.Module):
    """Krizhevsky 2014, arXiv:1404.5997: one column."""

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # (b, 224, 224, 3)
        del train
        x = nn.relu(nn.Conv(64, (11, 11), 4, padding=2, name="conv1")(x))  # (b, 55, 55, 64)
        x = nn.max_pool(x, (3, 3), (2, 2))
        x = nn.relu(nn.Conv(192, (5, 5), padding=2, name="conv2")(x))  # (b, 27, 27, 192)
        x = nn.max_pool(x, (3, 3), (2, 2))
        for name, width in (("conv3", 384), ("conv4", 256), ("conv5", 256)):
            x = nn.relu(nn.Conv(width, (3, 3), padding=1, name=name)(x))  # (b, 13, 13, c)
        return classify(nn.max_pool(x, (3, 3), (2, 2)))  # of (b, 6, 6, 256)


def classify(x: jax.Array) -> jax.Array:
    """(b, h, w, c) -> (b, 1000)."""
    x = x.reshape(len(x), -1)
    for name in ("dense1", "dense2"):
        x = nn.relu(nn.Dense(4096, name=name)(x))
    return nn.Dense(1000, name="head")(x)


class EfficientNet(nn.Module):
    width: float
    depth: float
    norm_momentum: float  # the weight of the new batch
    norm_epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:  # (b, 224, 224, 3)
        def unit(
            x: jax.Array, filters: int, size: int, stride: int = 1, *, groups: int = 1, name: str
        ) -> Any:
            x = nn.Conv(
                filters,
                (size, size),
                stride,
                size // 2,
                feature_group_count=groups,
                use_bias=False,
                name=name,
            )(x)
            norm = nn.BatchNorm(
                not train, momentum=1 - self.norm_momentum, epsilon=self.norm_epsilon, name=f"{name}_norm"
            )
            return norm(x)

        x = nn.silu(unit(x, round_channels(32 * self.width), 3, 2, name="stem"))
        for stage, (expansion, size, stride, filters, blocks) in enumerate(STAGES, start=1):
            for i in range(1, ceil(self.depth * blocks) + 1):
                name, c, y = f"stage{stage}_block{i}", x.shape[-1], x
                if expansion > 1:
                    y = nn.silu(unit(y, expansion * c, 1, name=f"{name}_expand"))
                y = unit(
                    y, expansion * c, size, stride if i == 1 else 1, groups=expansion * c,
                    name=f"{name}_depthwise",
                )  # fmt: skip
                y = squeeze_excite(nn.silu(y), max(1, c // 4), name)
                y = unit(y, round_channels(filters * self.width), 1, name=f"{name}_project")
                x = x + y if x.shape == y.shape else y  # (b, h, w, c): 112, 56, 28, 14, 14, 7, 7
        x = nn.silu(unit(x, 4 * x.shape[-1], 1, name="top"))
        return nn.Dense(1000, name="head")(x.mean((1, 2)))


def squeeze_excite(x: jax.Array, squeezed: int, name: str) -> jax.Array:
    """(b, h, w, c) -> (b, h, w, c): each channel times a gate computed from the means of all channels."""
    y = nn.Conv(squeezed, (1, 1), name=f"{name}_squeeze")(x.mean((1, 2), keepdims=True))
    return x * nn.sigmoid(nn.Conv(x.shape[-1], (1, 1), name=f"{name}_excite")(nn.silu(y)))


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
    size, network = 224, network_of(model)
    if model in EFFICIENTNETS:
        size = EFFICIENTNETS[model][2]
    functions = partial(trainer, network), partial(predictor, network), partial(build, network, size)
    return Reference(prepare, *functions, layout="zoo")


def network_of(model: str) -> nn.Module:
    if model in RESNETS:
        return ResNet(RESNETS[model], bottleneck=model not in ("resnet18", "resnet34"))
    if model in EFFICIENTNETS:
        width, depth, size = EFFICIENTNETS[model]
        return EfficientNet(width, depth, *norm_constants(size))
    if model in VITS:
        return ViT(*VITS[model])
    name = model.removesuffix("-bn")
    return VGG(VGGS[name], norm=name != model) if name in VGGS else AlexNet()


def build(network: nn.Module, size: int) -> Variables:
    return jax.block_until_ready(network.init(jax.random.key(0), jnp.zeros((1, size, size, 3)), train=False))


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
