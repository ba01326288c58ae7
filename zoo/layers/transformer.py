"""Keras layers of transformers: attention, embeddings, positions, and the model of tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import GeneratorType
from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration
from zoo.layers import cache as caching
from zoo.layers import signature
from zoo.layers.base import Layer, Shape, Tensor
from zoo.layers.common import Dropout
from zoo.layers.recurrent import _is_symbolic, _of_length, _steps
from zoo.random import Initializer


@keras.saving.register_keras_serializable("zoo")
class Attention(Layer):
    """softmax(scale q k^T) v for each head: (b, n, c), (b, m, c) twice -> (b, n, c), c = heads d.

    `padding_mask` (b, m) is 0 where a key is padding, `bias` (1 or b, heads, n, m) is added to the scores.
    If `causal`, no query attends to a later key, and keys and values are kept in the current
    `zoo.layers.cache`, if there is one. A query whose keys are all masked gives zeros.
    """

    heads: int
    causal: bool
    scaled: bool
    dropout_rate: float

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        rate, name = self.dropout_rate, f"{self.name}_dropout"
        self.dropout = Dropout(rate, seed=self.seed, name=name) if rate else None

    def build(self, query_shape: Shape, **more: Shape) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del query_shape, more
        if self.dropout is not None:
            self.dropout.build(())

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding_mask: Tensor | None = None,
        bias: Tensor | None = None,
        training: bool = False,
    ) -> Tensor:
        q, k, v = (
            ops.reshape(x, (*ops.shape(x)[:2], self.heads, x.shape[2] // self.heads))  # (b, n, heads, d)
            for x in (query, key, value)
        )
        cache, causal, drop, unmasked = caching.current() if self.causal else None, self.causal, None, None
        if padding_mask is not None:
            real = ops.not_equal(_of_length(key, padding_mask), 0)
            unmasked = self.has_keys(real, cache, query.shape[1])
            padding = caching.additive_mask(ops.expand_dims(real, (1, 2)), query.dtype)
            bias = padding if bias is None else bias + padding
        if cache is not None:
            k, v = cache.extend(self.name, k, v)
            later = cache.bias(q.shape[1], query.dtype)
            bias, causal = later if bias is None else bias + later, False
        if training and self.trainable and self.dropout is not None:
            dropout = self.dropout
            drop = lambda weights: dropout(weights, training=True)  # noqa: E731
        scale = q.shape[-1] ** -0.5 if self.scaled else 1.0
        y = backends.current().attention(q, k, v, bias, causal=causal, scale=scale, drop=drop)
        y = ops.reshape(y, ops.shape(query))
        return y if unmasked is None else ops.where(ops.expand_dims(unmasked, -1), y, ops.zeros((), y.dtype))

    def has_keys(self, real: Tensor, cache: caching.Cache | None, count: Any) -> Tensor:
        """(b, m) -> (b, 1 or n): whether any of the keys that a query attends to is not padding."""
        if not self.causal:
            return ops.any(real, axis=1, keepdims=True)
        steps = _steps(real)
        none = steps[:, -1:] + 1  # a tensor: an exporter would take a number for that of its example
        first = ops.min(ops.where(real, steps, none), axis=1, keepdims=True)
        return (steps if cache is None else cache.steps(count)) >= first

    @property
    def multiply_adds(self) -> int:
        """Of one example: q k^T, and the weights times v."""
        query, key, *_ = self.input
        return 2 * (query.shape[1] or 1) * (key.shape[1] or 1) * query.shape[2]

    def compute_output_spec(self, query: Tensor, *rest: Any, **more: Any) -> Tensor:
        del rest, more
        return keras.KerasTensor(query.shape, self.compute_dtype)


# Sequences: (b, n, c), of which the first `lengths` (b,) steps are real and the rest is padding


@keras.saving.register_keras_serializable("zoo")
class Embedding(Layer):
    """(...) int32 -> (..., units): a row of the table for each token; `logits` go the other way."""

    vocabulary: int
    units: int
    initializer: Initializer

    def build(self, input_shape: Shape) -> None:
        del input_shape
        self.table = self.weight("table", (self.vocabulary, self.units), self.initializer)

    def call(self, x: Tensor, reverse: bool = False, bias: Tensor | None = None) -> Tensor:
        table = ops.convert_to_tensor(self.table)
        if reverse:
            return backends.current().dense(x, table, bias, transposed=True)
        return ops.take(table, x, axis=0)

    def logits(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """(..., units) -> (..., vocabulary): x times the table (Press and Wolf 2016, arXiv:1608.05859)."""
        return self(x, reverse=True, bias=bias)

    @property
    def multiply_adds(self) -> int:
        """Those of the logits, where the layer computes any."""
        reverse = [node for node in self._inbound_nodes if node.arguments.kwargs.get("reverse")]
        return sum(self.vocabulary * self.units * (node.input_tensors[0].shape[1] or 1) for node in reverse)

    def compute_output_spec(self, x: Tensor, reverse: bool = False, bias: Tensor | None = None) -> Tensor:
        del bias
        shape = (*x.shape[:-1], self.vocabulary) if reverse else (*x.shape, self.units)
        return keras.KerasTensor(shape, self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class Positions(Layer):
    """(b, n, c) -> (b, n, c): adds a trainable vector for each of the first `limit` positions."""

    limit: int
    initializer: Initializer

    def build(self, input_shape: Shape) -> None:
        self.table = self.weight("table", (self.limit, input_shape[-1]), self.initializer)

    def call(self, x: Tensor) -> Tensor:
        table, cache = ops.convert_to_tensor(self.table), caching.current()
        if cache is None and _is_symbolic(x):
            return x + ops.take(table, _steps(x), axis=0)
        if cache is None:
            return x + table[: ops.shape(x)[1]]
        return x + ops.take(table, ops.minimum(cache.steps(x.shape[1]), self.limit - 1), axis=0)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Sinusoids(Layer):
    """(b, n, c) -> (b, n, c): adds [sin(t w), cos(t w)] at position t, w from 1 to 1e-4."""

    def call(self, x: Tensor) -> Tensor:
        n, half = x.shape[1], x.shape[-1] // 2
        cache = caching.current()
        positions = _steps(x) if cache is None else cache.steps(n)  # (1 or b, n)
        frequencies = 1e-4 ** (np.arange(half) / max(1, half - 1))
        positions = ops.expand_dims(ops.cast(positions, x.dtype), -1)
        angles = positions * ops.convert_to_tensor(frequencies, dtype=x.dtype)
        return x + ops.concatenate([ops.sin(angles), ops.cos(angles)], axis=-1)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


@keras.saving.register_keras_serializable("zoo")
class Segments(Layer):
    """(b, n, c) -> (b, n, c): adds a trainable vector for each token's segment, (b, n), by default 0."""

    count: int
    initializer: Initializer

    def build(self, input_shape: Shape, **more: Shape) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del more
        self.table = self.weight("table", (self.count, input_shape[-1]), self.initializer)

    def call(self, x: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        table = ops.convert_to_tensor(self.table)
        return x + (table[0] if segment_ids is None else ops.take(table, _of_length(x, segment_ids), axis=0))

    def compute_output_spec(self, x: Tensor, segment_ids: Tensor | None = None) -> Tensor:
        del segment_ids
        return keras.KerasTensor(x.shape, self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class RelativePositions(Layer):
    """(b, n, c) -> (1 or b, heads, n, n): a bias of the attention scores for each distance of key and query.

    Distances share buckets: half of them are one step wide, the others increasingly wide up to `distance`;
    without `causal` half of all are for later keys (Raffel et al. 2019, section 2.1; the buckets are those
    of its code, github.com/tensorflow/mesh, `_relative_position_bucket`).
    """

    heads: int
    causal: bool
    buckets: int
    distance: int
    initializer: Initializer

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        buckets, distance, causal = self.buckets, self.distance, self.causal
        # A table, from -distance to distance: no framework's logarithm decides where a bucket ends.
        count = buckets if causal else buckets // 2
        exact, steps = count // 2, np.arange(distance + 1, dtype=np.float32)
        far = np.log(np.maximum(steps, 1) / np.float32(exact)) / np.float32(np.log(distance / exact))
        wide = exact + (far * np.float32(count - exact)).astype(np.int32)
        before = np.where(steps < exact, steps, np.minimum(wide, count - 1)).astype(np.int32)
        after = np.zeros_like(before) if causal else count + before
        self.bucket = np.concatenate([before[::-1], after[1:]])

    def build(self, input_shape: Shape) -> None:
        del input_shape
        self.table = self.weight("table", (self.buckets, self.heads), self.initializer)

    def call(self, x: Tensor) -> Tensor:
        bias = ops.take(
            ops.convert_to_tensor(self.table), self.buckets_of(x), axis=0
        )  # (1 or b, n, m, heads)
        return ops.transpose(bias, (0, 3, 1, 2))

    def buckets_of(self, x: Tensor) -> Tensor:
        """(1 or b, n, m) int32: the bucket of each query's distance to each key."""
        cache = caching.current() if self.causal else None
        n, far = x.shape[1], self.distance
        xp: Any = ops
        if cache is not None:
            queries = cache.steps(n)
            keys = ops.expand_dims(ops.arange(cache.length, dtype="int32"), 0)
        elif not isinstance(n, int):  # any length, or that of an example from which a program is exported
            queries = keys = _steps(x)
        else:
            xp = np  # the buckets are a constant of the program
            queries = keys = np.arange(n, dtype=np.int32)[None]
        after = xp.expand_dims(keys, 1) - xp.expand_dims(queries, 2)  # (1 or b, n, m)
        # A column: of a vector Keras's `take` on torch is by `ravel`, which its exporter to ONNX lacks.
        return xp.take(self.bucket[:, None], xp.clip(after, -far, far) + far, axis=0)[..., 0]

    def compute_output_spec(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        return keras.KerasTensor((None, self.heads, n, n), self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class TokenModel(keras.Model):
    """A model with named inputs, or `token_ids` alone; it refuses tokens outside its vocabulary.

    A compiled function cannot check them: for such a token JAX gives NaN, TensorFlow under XLA the nearest
    one. Arrays are therefore checked before `fit` and the like compile, and the first batch of a generator;
    data sets and loaders are not, as reading a batch may consume it.
    """

    def complete(self, inputs: Any) -> dict[str, Any]:
        """Each input by its name; None for one that is omitted."""
        names = list(self._inputs_struct)
        given = inputs if isinstance(inputs, dict) else {"token_ids": inputs}
        if unknown := sorted(given.keys() - set(names)):
            raise WrongConfiguration(
                f"{self.name} has no input {', '.join(unknown)}; it takes {', '.join(names)}"
            )
        return {name: given.get(name) for name in names}

    def __call__(self, inputs: Any, *arguments: Any, **options: Any) -> Any:
        inputs = self.complete(inputs)
        self.check(inputs)
        return super().__call__(inputs, *arguments, **options)

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(self.complete(inputs), training=training, mask=mask)

    def compute_output_spec(
        self, inputs: dict[str, Any], training: bool | None = None, mask: Any = None
    ) -> Any:
        # Keras's method needs the shape of every input, also of one that is omitted.
        own = zip(inputs, keras.tree.flatten(self._inputs_struct), strict=True)
        return super().compute_output_spec(
            {name: tensor if inputs[name] is None else inputs[name] for name, tensor in own}, training, mask
        )

    def check(self, inputs: Mapping[str, Any]) -> None:
        """Raise WrongConfiguration for tokens outside the vocabulary, where the values are concrete."""
        known = {name: backends.current().concrete_value(x) for name, x in inputs.items() if x is not None}
        signature.check_tokens(self, {name: x for name, x in known.items() if x is not None})

    def checked(self, x: Any) -> Any:
        """Data for `fit` and the like, its tokens checked."""
        if isinstance(x, GeneratorType):
            return self.first_checked(x)
        if isinstance(x, dict) or backends.current().concrete_value(x) is not None:
            self.check(self.complete(x))
        return x

    def first_checked(self, batches: Iterator[Any]) -> Iterator[Any]:
        """The batches, (x, y) or x, the tokens of the first checked."""
        for batch in batches:
            self.checked(batch[0] if isinstance(batch, tuple) else batch)
            yield batch
            break
        yield from batches

    def fit(self, x: Any = None, *arguments: Any, **options: Any) -> Any:
        held_out = options.get("validation_data")
        if isinstance(held_out, tuple | list):
            self.checked(held_out[0])
        return super().fit(self.checked(x), *arguments, **options)

    def evaluate(self, x: Any = None, *arguments: Any, **options: Any) -> Any:
        return super().evaluate(self.checked(x), *arguments, **options)

    def predict(self, x: Any, *arguments: Any, **options: Any) -> Any:
        return super().predict(self.checked(x), *arguments, **options)

    def train_on_batch(self, x: Any, *arguments: Any, **options: Any) -> Any:
        return super().train_on_batch(self.checked(x), *arguments, **options)

    def test_on_batch(self, x: Any, *arguments: Any, **options: Any) -> Any:
        return super().test_on_batch(self.checked(x), *arguments, **options)

    def predict_on_batch(self, x: Any) -> Any:
        return super().predict_on_batch(self.checked(x))


class CachedStep(keras.Model):
    """One call of a decoder with a key-value cache, see `zoo.generation.DecodeStep`."""

    def __init__(self, decoder: keras.Model, tokens: str):
        super().__init__(name=decoder.name, dtype=decoder.dtype_policy)
        self.decoder, self.tokens, self.built = decoder, tokens, True

    def call(self, inputs: dict[str, Any], training: bool = False) -> dict[str, Any]:
        arrays = inputs["cache"]
        if (parents := inputs.get("parents")) is not None:
            arrays = {
                name: tuple(ops.take(x, parents, axis=0) for x in pair) for name, pair in arrays.items()
            }
        with caching.kv_cache(arrays, inputs["positions"]) as cache:
            logits = self.decoder({self.tokens: inputs["token_ids"], **inputs["context"]}, training=training)
        if logits.shape[1] > 1:
            logits = ops.take_along_axis(logits, ops.expand_dims(inputs["last"], (1, 2)), axis=1)
        return {"logits": logits[:, 0], "cache": cache.arrays}
