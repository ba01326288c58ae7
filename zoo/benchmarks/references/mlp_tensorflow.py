"""A multilayer perceptron the TensorFlow way, without Keras: variables, tf.nn and tf.function."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from zoo.benchmarks.references import Weights, choose

MODES = {"graph": tf.function, "xla": partial(tf.function, jit_compile=True)}
BETA1, BETA2, EPSILON = 0.9, 0.999, 1e-8


class MLP(tf.Module):
    def __init__(self, weights: Weights) -> None:
        super().__init__()
        # The zoo's layouts are TensorFlow's own.
        self.weights = [tf.Variable(tf.constant(weight)) for weight in weights]

    def __call__(self, x: tf.Tensor) -> tf.Tensor:  # (b, 28, 28, 1)
        dense1, bias1, dense2, bias2, dense3, bias3 = self.weights
        x = tf.reshape(x, (-1, 784))
        x = tf.nn.relu(x @ dense1 + bias1)  # (b, 256)
        x = tf.nn.relu(x @ dense2 + bias2)  # (b, 128)
        return x @ dense3 + bias3  # (b, 10)


class AdamW:
    """Loshchilov and Hutter 2019, arXiv:1711.05101. Written out: TensorFlow's optimizers are Keras's."""

    def __init__(self, variables: list[tf.Variable], learning_rate: float, weight_decay: float) -> None:
        self.variables, self.learning_rate, self.weight_decay = variables, learning_rate, weight_decay
        self.means = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self.squares = [tf.Variable(tf.zeros_like(v)) for v in variables]
        self.steps = tf.Variable(tf.zeros((), tf.float64))  # in float32, 1 - 0.999 is wrong in digit 5

    def apply(self, gradients: Sequence[tf.Tensor]) -> None:
        t = self.steps.assign_add(1.0)
        rate = tf.cast(self.learning_rate / (1.0 - BETA1**t), tf.float32)
        root = tf.cast(tf.sqrt(1.0 - BETA2**t), tf.float32)
        keep = 1.0 - self.learning_rate * self.weight_decay
        for p, g, m, v in zip(self.variables, gradients, self.means, self.squares, strict=True):
            m.assign_add((1.0 - BETA1) * (g - m))
            v.assign_add((1.0 - BETA2) * (tf.square(g) - v))
            p.assign(keep * p - rate * m / (tf.sqrt(v) / root + EPSILON))


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(x), tf.constant(y, dtype=tf.int32)


def trainer(
    weights: Weights, *, learning_rate: float = 1e-3, weight_decay: float = 0.01, mode: str = "graph"
) -> tuple[Callable[[tf.Tensor, tf.Tensor], tf.Tensor], Callable[[], Weights]]:
    model = MLP(weights)
    optimizer = AdamW(model.weights, learning_rate, weight_decay)

    @choose(mode, MODES)
    def step(x: tf.Tensor, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, model(x)))
        optimizer.apply(tape.gradient(loss, model.weights))  # pyright: ignore[reportArgumentType]
        return loss

    return step, lambda: [weight.numpy() for weight in model.weights]


def predictor(weights: Weights, *, mode: str = "graph") -> Callable[[tf.Tensor], tf.Tensor]:
    return choose(mode, MODES)(MLP(weights).__call__)
