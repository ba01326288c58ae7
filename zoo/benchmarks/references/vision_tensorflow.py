"""Vision models in plain TensorFlow: functions of a dict of variables, tf.function, GradientTape.

Each variable has the name of the zoo's weight. Axes: b batch, h height, w width, n tokens, c channels.
"""

from collections.abc import Callable, Mapping
from functools import partial
from math import ceil

import numpy as np
import tensorflow as tf

from zoo.benchmarks.references import Reference, choose
from zoo.benchmarks.references.lenet5_tensorflow import AdamW
from zoo.benchmarks.references.transformers_tensorflow import attention, dense, layer_norm, size
from zoo.benchmarks.references.vision_sizes import (
    EFFICIENTNETS,
    RESNETS,
    STAGES,
    VGGS,
    VITS,
    norm_constants,
    shapes,
)

MODES = {"graph": tf.function, "xla": partial(tf.function, jit_compile=True)}

Variables = Mapping[str, tf.Variable]
Network = Callable[[Variables, tf.Tensor, bool], tf.Tensor]  # weights, images, training -> logits (b, 1000)


# Layers


def conv(w: Variables, name: str, x: tf.Tensor, stride: int = 1, padding: int | None = None) -> tf.Tensor:
    """(b, h, w, c) -> (b, h', w', filters); `padding` zeros on every side, by default half the kernel."""
    kernel = w[f"{name}/kernel"]
    width = size(kernel, 0)
    around = width // 2 if padding is None else padding
    if around and not (stride == 1 and 2 * around + 1 == width):
        x = tf.pad(x, ((0, 0), (around, around), (around, around), (0, 0)))
        around = 0
    shape = "SAME" if around else "VALID"
    if size(kernel, 2) == 1 < size(x, -1):  # a channel has a kernel of its own
        kernel = tf.transpose(kernel, (0, 1, 3, 2))
        y = tf.nn.depthwise_conv2d(x, kernel, (1, stride, stride, 1), shape)
    else:
        y = tf.nn.conv2d(x, kernel, stride, shape)
    return tf.nn.bias_add(y, w[f"{name}/bias"]) if f"{name}/bias" in w else y


def batch_norm(
    w: Variables, name: str, x: tf.Tensor, training: bool, momentum: float = 0.1, epsilon: float = 1e-5
) -> tf.Tensor:
    mean, variance = w[f"{name}/moving_mean"], w[f"{name}/moving_variance"]
    y, new_mean, new_variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=x, scale=w[f"{name}/gamma"], offset=w[f"{name}/beta"], mean=mean, variance=variance,
        epsilon=epsilon, exponential_avg_factor=momentum, is_training=training,
    )  # fmt: skip
    if training:
        mean.assign(new_mean)
        variance.assign(new_variance)
    return y


def classify(w: Variables, x: tf.Tensor) -> tf.Tensor:
    """(b, h, w, c) -> (b, 1000)."""
    x = tf.reshape(x, (size(x, 0), -1))
    for name in ("dense1", "dense2"):
        x = tf.nn.relu(dense(w, name, x))
    return dense(w, "head", x)


# Networks


def alexnet(w: Variables, x: tf.Tensor, training: bool) -> tf.Tensor:  # (b, 224, 224, 3)
    """Krizhevsky 2014, arXiv:1404.5997: one column."""
    del training
    x = tf.nn.relu(conv(w, "conv1", x, 4, 2))  # (b, 55, 55, 64)
    x = tf.nn.relu(conv(w, "conv2", tf.nn.max_pool2d(x, 3, 2, "VALID")))  # (b, 27, 27, 192)
    x = tf.nn.max_pool2d(x, 3, 2, "VALID")
    for name in ("conv3", "conv4", "conv5"):
        x = tf.nn.relu(conv(w, name, x))  # (b, 13, 13, c)
    return classify(w, tf.nn.max_pool2d(x, 3, 2, "VALID"))  # of (b, 6, 6, 256)


def vgg(
    w: Variables, x: tf.Tensor, training: bool, depths: tuple[int, ...], norm: bool
) -> tf.Tensor:  # (b, 224, 224, 3)
    for stage, depth in enumerate(depths, start=1):
        for name in (f"stage{stage}_conv{i}" for i in range(1, depth + 1)):
            x = conv(w, name, x)
            x = tf.nn.relu(batch_norm(w, f"{name}_norm", x, training) if norm else x)
        x = tf.nn.max_pool2d(x, 2, 2, "VALID")  # (b, h, w, c): 112, 56, 28, 14, 7
    return classify(w, x)


def resnet(
    w: Variables, x: tf.Tensor, training: bool, depths: tuple[int, ...], bottleneck: bool
) -> tf.Tensor:  # (b, 224, 224, 3)
    def unit(name: str, x: tf.Tensor, stride: int = 1) -> tf.Tensor:
        return batch_norm(w, f"{name}_norm", conv(w, name, x, stride), training)

    x = tf.nn.relu(unit("stem", x, 2))  # (b, 112, 112, 64)
    # ReLU leaves nothing below 0: zeros around change no maximum.
    x = tf.nn.max_pool2d(tf.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2, "VALID")  # (b, 56, 56, 64)
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            name, stride = f"stage{stage}_block{i}", 2 if stage > 1 and i == 1 else 1
            if bottleneck:
                y = tf.nn.relu(unit(f"{name}_conv1", x))
                y = unit(f"{name}_conv3", tf.nn.relu(unit(f"{name}_conv2", y, stride)))
            else:
                y = unit(f"{name}_conv2", tf.nn.relu(unit(f"{name}_conv1", x, stride)))
            x = x if x.shape == y.shape else unit(f"{name}_shortcut", x, stride)
            x = tf.nn.relu(x + y)  # (b, h, w, c): 56, 28, 14, 7
    return dense(w, "head", tf.reduce_mean(x, (1, 2)))


def efficientnet(
    w: Variables, x: tf.Tensor, training: bool, depth: float, image_size: int
) -> tf.Tensor:  # (b, 224, 224, 3)
    constants = norm_constants(image_size)

    def unit(name: str, x: tf.Tensor, stride: int = 1) -> tf.Tensor:
        return batch_norm(w, f"{name}_norm", conv(w, name, x, stride), training, *constants)

    x = tf.nn.silu(unit("stem", x, 2))
    for stage, (expansion, _, stride, _, blocks) in enumerate(STAGES, start=1):
        for i in range(1, ceil(depth * blocks) + 1):
            name = f"stage{stage}_block{i}"
            y = tf.nn.silu(unit(f"{name}_expand", x)) if expansion > 1 else x
            y = tf.nn.silu(unit(f"{name}_depthwise", y, stride if i == 1 else 1))
            gate = tf.nn.silu(conv(w, f"{name}_squeeze", tf.reduce_mean(y, (1, 2), keepdims=True)))
            y = unit(f"{name}_project", y * tf.sigmoid(conv(w, f"{name}_excite", gate)))
            x = x + y if x.shape == y.shape else y  # (b, h, w, c): 112, 56, 28, 14, 14, 7, 7
    return dense(w, "head", tf.reduce_mean(tf.nn.silu(unit("top", x)), (1, 2)))


def vit(
    w: Variables, x: tf.Tensor, training: bool, width: int, depth: int, heads: int, patch_size: int
) -> tf.Tensor:  # (b, 224, 224, 3)
    del training
    norm, batch = partial(layer_norm, epsilon=1e-6), size(x, 0)
    x = tf.reshape(conv(w, "patch_embedding", x, patch_size, 0), (batch, -1, width))  # (b, 196, c)
    x = tf.concat([tf.tile(w["class_token/value"], (batch, 1, 1)), x], 1)  # (b, 197, c)
    x += w["position_embedding/value"]
    for name in (f"block{i}" for i in range(1, depth + 1)):
        y = norm(w, f"{name}_norm1", x)
        x += attention(w, f"{name}_attention", y, y, heads, tf.zeros(()))
        y = tf.nn.gelu(dense(w, f"{name}_mlp1", norm(w, f"{name}_norm2", x)), approximate=False)
        x += dense(w, f"{name}_mlp2", y)
    return dense(w, "head", norm(w, "norm", x)[:, 0])


# Training and inference


def reference(model: str) -> Reference:
    network = network_of(model)
    functions = partial(trainer, network), partial(predictor, network), partial(build, model)
    return Reference(prepare, *functions, layout="zoo")


def network_of(model: str) -> Network:
    if model in RESNETS:
        small = model in ("resnet18", "resnet34")
        return partial(resnet, depths=RESNETS[model], bottleneck=not small)
    if model in EFFICIENTNETS:
        _, depth, size = EFFICIENTNETS[model]
        return partial(efficientnet, depth=depth, image_size=size)
    if model in VITS:
        width, depth, heads, patch_size = VITS[model]
        return partial(vit, width=width, depth=depth, heads=heads, patch_size=patch_size)
    name = model.removesuffix("-bn")
    return partial(vgg, depths=VGGS[name], norm=name != model) if name in VGGS else alexnet


def build(model: str) -> dict[str, tf.Variable]:
    """He et al. 2015, arXiv:1502.01852, by a unit's inputs; norms start at 1, variances at 1, biases at 0."""

    def draw(name: str, shape: tuple[int, ...]) -> tf.Tensor:
        if len(shape) == 1:
            return tf.fill(shape, float(name.endswith(("gamma", "moving_variance"))))
        return tf.random.normal(shape, stddev=(2 / np.prod(shape[:-1])) ** 0.5)

    return {name: variable(name, draw(name, shape)) for name, shape in shapes(model).items()}


def variable(name: str, value: tf.Tensor) -> tf.Variable:
    return tf.Variable(value, trainable="/moving_" not in name)


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(x), tf.constant(y, dtype=tf.int32)


def trainer(
    network: Network,
    weights: Mapping[str, np.ndarray],
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "graph",
) -> tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], Callable[[], dict[str, np.ndarray]]]:
    w = load(weights)
    variables = [v for v in w.values() if v.trainable]
    optimizer = AdamW(variables, learning_rate, weight_decay)

    @choose(mode, MODES)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, network(w, x, True)))
        optimizer.apply(tape.gradient(loss, variables))  # pyright: ignore[reportArgumentType]
        return loss

    return step, lambda: {name: v.numpy() for name, v in w.items()}


def predictor(
    network: Network, weights: Mapping[str, np.ndarray], *, mode: str = "graph"
) -> Callable[[tf.Tensor], tf.Tensor]:
    w = load(weights)
    return choose(mode, MODES)(lambda x: network(w, x, False))


def load(weights: Mapping[str, np.ndarray]) -> dict[str, tf.Variable]:
    return {name: variable(name, tf.constant(array)) for name, array in weights.items()}
