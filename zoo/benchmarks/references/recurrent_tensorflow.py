"""Recurrent classifiers in plain TensorFlow: one product for the inputs of all steps, and tf.while_loop.

TensorFlow has no cells outside Keras. Texts (b, n) are padded at the end; the backward direction reads each
text reversed, its padding still at the end. Axes: b batch, n tokens, c channels, u units.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import tensorflow as tf

from zoo.benchmarks.references import Reference, choose
from zoo.benchmarks.references.lenet5_tensorflow import AdamW
from zoo.benchmarks.references.recurrent_sizes import WIDTH, shapes
from zoo.benchmarks.references.transformers_tensorflow import size

MODES = {"graph": tf.function, "xla": partial(tf.function, jit_compile=True)}

Texts = tuple[tf.Tensor, tf.Tensor]  # tokens (b, n), lengths (b,)
Variables = Mapping[str, tf.Variable]
State = tuple[tf.Tensor, ...]  # each (b, u), h first


def lstm_step(w: Variables, name: str, state: State, inputs: tf.Tensor) -> State:
    """Hochreiter and Schmidhuber 1997, with a forget gate; `inputs` are W x + b, (b, 4u): i, f, g, o."""
    h, c = state
    gates = inputs + h @ w[f"{name}/recurrent_kernel"] + w[f"{name}/recurrent_bias"]
    i, f, g, o = tf.split(gates, 4, -1)
    c = tf.sigmoid(f) * c + tf.sigmoid(i) * tf.tanh(g)
    return tf.sigmoid(o) * tf.tanh(c), c


def gru_step(w: Variables, name: str, state: State, inputs: tf.Tensor) -> State:
    """Cho et al. 2014, arXiv:1406.1078; `inputs` are W x + b, (b, 3u): r, z, n."""
    (h,) = state
    r, z, n = tf.split(inputs, 3, -1)
    ours = tf.split(h @ w[f"{name}/recurrent_kernel"] + w[f"{name}/recurrent_bias"], 3, -1)
    r, z = tf.sigmoid(r + ours[0]), tf.sigmoid(z + ours[1])
    return ((1.0 - z) * tf.tanh(n + r * ours[2]) + z * h,)


STEPS = {"lstm": (lstm_step, 2), "gru": (gru_step, 1), "birnn": (lstm_step, 2)}  # and how many states


def classify(model: str, w: Variables, texts: Texts) -> tf.Tensor:
    """(b, n) -> (b, classes)."""
    tokens, lengths = texts
    x = tf.gather(w["embedding/table"], tokens)  # (b, n, c)
    last = [last_state(model, w, "layer1_forward", x, lengths)]
    if model == "birnn":
        last += [last_state(model, w, "layer1_backward", tf.reverse_sequence(x, lengths, 1), lengths)]
    return tf.concat(last, -1) @ w["head/kernel"] + w["head/bias"]


def last_state(model: str, w: Variables, name: str, x: tf.Tensor, lengths: tf.Tensor) -> tf.Tensor:
    """(b, n, c) -> (b, u): the state at each text's end."""
    step, states = STEPS[model]
    b, n = size(x, 0), size(x, 1)
    inputs = tf.tensordot(tf.transpose(x, (1, 0, 2)), w[f"{name}/kernel"], 1) + w[f"{name}/bias"]
    steps = tf.TensorArray(tf.float32, n).unstack(inputs)  # (b, 4u or 3u) each
    outputs = tf.TensorArray(tf.float32, n, element_shape=(b, WIDTH))

    def body(t: tf.Tensor, state: State, outputs: tf.TensorArray) -> tuple[tf.Tensor, State, tf.TensorArray]:
        state = step(w, name, state, steps.read(t))
        return t + 1, state, outputs.write(t, state[0])

    start = 0, (tf.zeros((b, WIDTH)),) * states, outputs
    _, _, outputs = tf.while_loop(lambda t, *_: t < n, body, start, maximum_iterations=n)
    places = tf.stack([lengths - 1, tf.range(b)], -1)  # (b, 2)
    return tf.gather_nd(outputs.stack(), places)


def reference(model: str) -> Reference:
    functions = partial(trainer, model), partial(predictor, model), partial(build, model)
    return Reference(prepare, *functions, layout="zoo")


def build(model: str) -> dict[str, tf.Variable]:
    """Uniform within 1 / sqrt(u), as torch's cells."""
    bound = WIDTH**-0.5
    return {
        name: tf.Variable(tf.random.uniform(shape, -bound, bound)) for name, shape in shapes(model).items()
    }


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[Texts, tf.Tensor]:
    lengths = tf.constant((x > 0).sum(1), dtype=tf.int32)
    return (tf.constant(x), lengths), tf.constant(y, dtype=tf.int32)


def trainer(
    model: str,
    weights: Mapping[str, np.ndarray],
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "graph",
) -> tuple[Callable[[Texts, tf.Tensor], tf.Tensor], Callable[[], dict[str, np.ndarray]]]:
    w = load(weights)
    variables = list(w.values())
    optimizer = AdamW(variables, learning_rate, weight_decay)

    @choose(mode, MODES)
    def step(x: Texts, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, classify(model, w, x)))
        optimizer.apply(tape.gradient(loss, variables))  # pyright: ignore[reportArgumentType]
        return loss

    return step, lambda: {name: variable.numpy() for name, variable in w.items()}


def predictor(
    model: str, weights: Mapping[str, np.ndarray], *, mode: str = "graph"
) -> Callable[[Texts], tf.Tensor]:
    w = load(weights)
    return choose(mode, MODES)(lambda x: classify(model, w, x))


def load(weights: Mapping[str, np.ndarray]) -> dict[str, tf.Variable]:
    return {name: tf.Variable(tf.constant(array)) for name, array in weights.items()}
