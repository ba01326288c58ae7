"""BERT, GPT-2 and T5 in plain TensorFlow: functions of a dict of variables, tf.function, GradientTape.

Devlin et al. 2018, arXiv:1810.04805; Radford et al. 2019; Raffel et al. 2019, arXiv:1910.10683. Each variable
has the name of the zoo's weight. Labels of -1 do not count.
Axes: b batch, n tokens, m context tokens, c channels, h heads, d channels of a head, v vocabulary.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import tensorflow as tf

from zoo.benchmarks.references import Reference, choose
from zoo.benchmarks.references.lenet5_tensorflow import AdamW
from zoo.benchmarks.references.transformers_sizes import network_of, relative_buckets, shapes

MODES = {"graph": tf.function, "xla": partial(tf.function, jit_compile=True)}
MASK_VALUE = -1e9  # added to the score of a token that may not be attended to

Variables = Mapping[str, tf.Variable]
Inputs = Mapping[str, tf.Tensor]
Network = Callable[[Variables, Inputs], tf.Tensor]  # weights, inputs -> logits (b, n, v)


# Layers


def size(x: tf.Tensor, axis: int) -> int:
    """The static size of an axis, known when a function is traced for concrete tensors."""
    return int(x.shape[axis] or 0)


def dense(w: Variables, name: str, x: tf.Tensor) -> tf.Tensor:
    """(b, n, c) -> (b, n, units). T5's have no bias."""
    y = tf.tensordot(x, w[f"{name}/kernel"], 1)
    return tf.nn.bias_add(y, w[f"{name}/bias"]) if f"{name}/bias" in w else y


def layer_norm(w: Variables, name: str, x: tf.Tensor, epsilon: float) -> tf.Tensor:
    mean, variance = tf.nn.moments(x, -1, keepdims=True)
    return tf.nn.batch_normalization(x, mean, variance, w[f"{name}/beta"], w[f"{name}/gamma"], epsilon)


def rms_norm(w: Variables, name: str, x: tf.Tensor) -> tf.Tensor:
    return x * tf.math.rsqrt(tf.reduce_mean(tf.square(x), -1, keepdims=True) + 1e-6) * w[f"{name}/gamma"]


def attention(
    w: Variables,
    name: str,
    x: tf.Tensor,
    context: tf.Tensor,
    heads: int,
    bias: tf.Tensor,
    scaled: bool = True,
) -> tf.Tensor:
    """(b, n, c), (b, m, c) -> (b, n, c); the bias (b or 1, h or 1, n or 1, m) is added to the scores."""

    def split(part: str, x: tf.Tensor) -> tf.Tensor:
        y = dense(w, f"{name}_{part}", x)
        return tf.transpose(tf.reshape(y, (*x.shape[:2], heads, -1)), (0, 2, 1, 3))  # (b, h, n, d)

    query, key, value = split("query", x), split("key", context), split("value", context)
    scores = tf.matmul(query, key, transpose_b=True) * (size(query, -1) ** -0.5 if scaled else 1.0) + bias
    y = tf.transpose(tf.nn.softmax(scores) @ value, (0, 2, 1, 3))  # (b, n, h, d)
    return dense(w, f"{name}_output", tf.reshape(y, (*x.shape[:2], -1)))


def padding(x: Inputs, mask: str = "padding_mask") -> tf.Tensor:
    """(b, 1, 1, m): hides the tokens whose mask is 0."""
    return tf.where(x[mask] == 0, MASK_VALUE, 0.0)[:, None, None] if mask in x else tf.zeros(())


def later(n: int) -> tf.Tensor:
    """(n, n): masks the tokens after each token."""
    return tf.constant(np.triu(np.full((n, n), MASK_VALUE, np.float32), 1))


# Networks


def bert(w: Variables, x: Inputs, depth: int, heads: int) -> tf.Tensor:
    norm, table, tokens = partial(layer_norm, epsilon=1e-12), w["token_embedding/table"], x["token_ids"]
    segments = x.get("segment_ids", tf.zeros_like(tokens))
    h = tf.gather(table, tokens) + w["position_embedding/table"][: size(tokens, 1)]  # (b, n, c)
    h = norm(w, "embedding_norm", h + tf.gather(w["segment_embedding/table"], segments))
    for block in (f"block{i + 1}" for i in range(depth)):
        y = attention(w, f"{block}_attention", h, h, heads, padding(x))
        h = norm(w, f"{block}_norm1", h + y)
        y = tf.nn.gelu(dense(w, f"{block}_mlp1", h), approximate=False)  # (b, n, 4c)
        h = norm(w, f"{block}_norm2", h + dense(w, f"{block}_mlp2", y))
    y = norm(w, "masked_lm_norm", tf.nn.gelu(dense(w, "masked_lm", h), approximate=False))
    return tf.einsum("bnc,vc->bnv", y, table) + w["masked_lm_bias/value"]


def gpt(w: Variables, x: Inputs, depth: int, heads: int) -> tf.Tensor:
    norm, table, tokens = partial(layer_norm, epsilon=1e-5), w["token_embedding/table"], x["token_ids"]
    n = size(tokens, 1)
    h = tf.gather(table, tokens) + w["position_embedding/table"][:n]  # (b, n, c)
    for block in (f"block{i + 1}" for i in range(depth)):
        y = norm(w, f"{block}_norm1", h)
        h += attention(w, f"{block}_attention", y, y, heads, padding(x) + later(n))
        y = tf.nn.gelu(dense(w, f"{block}_mlp1", norm(w, f"{block}_norm2", h)), approximate=True)
        h += dense(w, f"{block}_mlp2", y)
    return tf.einsum("bnc,vc->bnv", norm(w, "norm", h), table)


def t5(w: Variables, x: Inputs, depth: int, heads: int) -> tf.Tensor:
    table = w["token_embedding/table"]

    def stack(kind: str, tokens: tf.Tensor, bias: tf.Tensor, encoded: tf.Tensor | None = None) -> tf.Tensor:
        h = tf.gather(table, tokens)  # (b, n, c)
        buckets = relative_buckets(size(tokens, 1), causal=encoded is not None)
        bias += tf.transpose(tf.gather(w[f"{kind}_positions/table"], buckets), (2, 0, 1))  # (b or 1, h, n, n)
        for block in (f"{kind}_block{i + 1}" for i in range(depth)):
            y = rms_norm(w, f"{block}_attention_norm", h)
            h += attention(w, f"{block}_attention", y, y, heads, bias, scaled=False)
            if encoded is not None:
                y = rms_norm(w, f"{block}_memory_norm", h)
                h += attention(w, f"{block}_memory", y, encoded, heads, padding(x), scaled=False)
            y = tf.nn.relu(dense(w, f"{block}_mlp_in", rms_norm(w, f"{block}_mlp_norm", h)))
            h += dense(w, f"{block}_mlp_out", y)
        return rms_norm(w, f"{kind}_norm", h)

    tokens = x["decoder_token_ids"]
    encoded = stack("encoder", x["token_ids"], padding(x))
    h = stack("decoder", tokens, padding(x, "decoder_padding_mask") + later(size(tokens, 1)), encoded)
    return tf.einsum("bnc,vc->bnv", h * size(h, -1) ** -0.5, table)


# Training and inference


def reference(model: str) -> Reference:
    network = network_of(model, bert=bert, gpt=gpt, t5=t5)
    functions = partial(trainer, network), partial(predictor, network), partial(build, model)
    return Reference(prepare, *functions, layout="zoo")


def build(model: str) -> dict[str, tf.Variable]:
    """N(0, 0.02^2); norms start at 1, biases at 0."""

    def draw(name: str, shape: tuple[int, ...]) -> tf.Tensor:
        if len(shape) == 1:
            return tf.fill(shape, float(name.endswith("gamma")))
        return tf.random.normal(shape, stddev=0.02)

    return {name: tf.Variable(draw(name, shape)) for name, shape in shapes(model).items()}


def prepare(
    x: np.ndarray | Mapping[str, np.ndarray], y: np.ndarray
) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    named = x if isinstance(x, Mapping) else {"token_ids": x}
    return {name: tf.constant(part) for name, part in named.items()}, tf.constant(y, dtype=tf.int32)


def trainer(
    network: Network,
    weights: Mapping[str, np.ndarray],
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "graph",
) -> tuple[Callable[[Inputs, tf.Tensor], tf.Tensor], Callable[[], dict[str, np.ndarray]]]:
    w = load(weights)
    variables = list(w.values())
    optimizer = AdamW(variables, learning_rate, weight_decay)

    @choose(mode, MODES)
    def step(x: Inputs, y: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.maximum(y, 0), network(w, x))
            loss = tf.reduce_mean(tf.boolean_mask(losses, y >= 0))
        optimizer.apply(tape.gradient(loss, variables))  # pyright: ignore[reportArgumentType]
        return loss

    return step, lambda: {name: variable.numpy() for name, variable in w.items()}


def predictor(
    network: Network, weights: Mapping[str, np.ndarray], *, mode: str = "graph"
) -> Callable[[Inputs], tf.Tensor]:
    w = load(weights)
    return choose(mode, MODES)(lambda x: network(w, x))


def load(weights: Mapping[str, np.ndarray]) -> dict[str, tf.Variable]:
    return {name: tf.Variable(tf.constant(array)) for name, array in weights.items()}
