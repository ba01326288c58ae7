"""Keras layers of sequences: lengths, padding, LSTM and GRU, and a decoder with attention."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.backends import MASK_VALUE
from zoo.backends.cells import lstm_cell
from zoo.layers import cache as caching
from zoo.layers.base import Layer, Shape, Tensor
from zoo.random import Initializer


@keras.saving.register_keras_serializable("zoo")
class Lengths(Layer):
    """(b, n) or (b, n, c) -> (b,) int32: the position after the last step that is not all zeros."""

    def call(self, x: Tensor) -> Tensor:
        real = ops.not_equal(x, 0)
        real = ops.any(real, axis=-1) if len(x.shape) == 3 else real
        return ops.max(ops.cast(real, "int32") * (_steps(x) + 1), axis=1)

    def compute_output_spec(self, x: Tensor) -> Tensor:
        return keras.KerasTensor(x.shape[:1], "int32")


@keras.saving.register_keras_serializable("zoo")
class ZeroPadding(Layer):
    """x, its padding set to zero."""

    def call(self, x: Tensor, lengths: Tensor) -> Tensor:
        real = ops.reshape(_real(x, lengths), (*ops.shape(x)[:2], *(1 for _ in x.shape[2:])))
        return ops.where(real, x, ops.zeros((), x.dtype))

    def compute_output_spec(self, x: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return keras.KerasTensor(x.shape, x.dtype)


def _is_symbolic(x: Tensor) -> bool:
    """Whether the length of x (b, n, ...) is a name, as in a program of any length that JAX exports."""
    n = x.shape[1]
    return not (n is None or isinstance(n, int) or ops.is_tensor(n))  # a tensor in torch's exporter to ONNX


def _of_length(x: Tensor, y: Tensor) -> Tensor:
    """y (b, n), whose n is that of x (b, n, ...): as a name each input of a model has its own."""
    return ops.take(y, _steps(x)[0], axis=1) if _is_symbolic(x) else y


def _steps(x: Tensor) -> Tensor:
    """(1, n): 0 to n - 1."""
    return ops.expand_dims(ops.arange(ops.shape(x)[1], dtype="int32"), 0)


def _real(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, n): whether a step is not padding."""
    return ops.less(_steps(x), ops.expand_dims(lengths, 1))


def _rows(x: Tensor, indices: Tensor) -> Tensor:
    """(b, n, c), (b, m) -> (b, m, c): the steps of each sequence at these indices."""
    batch, n, width = ops.shape(x)
    first = ops.expand_dims(ops.arange(batch, dtype="int32") * n, 1)
    return ops.take(ops.reshape(x, (-1, width)), indices + first, axis=0)


def _ends(x: Tensor, lengths: Tensor) -> Tensor:
    """(b, n, c) -> (b, c): the last real step of each sequence; where there is none, the first."""
    batch, _, width = ops.shape(x)
    # Steps first, as the frameworks' recurrences lay them in memory.
    steps = ops.reshape(ops.swapaxes(x, 0, 1), (-1, width))
    return ops.take(steps, ops.maximum(lengths - 1, 0) * batch + ops.arange(batch, dtype="int32"), axis=0)


def _reversed(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence from its end to its beginning, its padding still behind it."""
    if lengths is None:
        return ops.flip(x, axis=1)
    steps, end = _steps(x), ops.expand_dims(lengths, 1)
    return _rows(x, ops.where(ops.less(steps, end), end - 1 - steps, steps))


class Recurrent(Layer):
    """(b, n, c) -> h at every step (b, n, u), zero in the padding, and the last states (b, u).

    The frameworks' kernels take no mask. Padding comes after the real steps, in reverse too, and its results
    are discarded: a padded sequence gives the same numbers as the sequence alone.
    """

    units: int
    reverse: bool
    initializer: Initializer
    GATES: int
    STATES: int

    def build(self, x_shape: Shape, **states: Shape) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del states
        width = self.GATES * self.units
        self.kernel = self.weight("kernel", (x_shape[-1], width), self.initializer, kernel=True)
        self.recurrent_kernel = self.weight(
            "recurrent_kernel", (self.units, width), random.orthogonal, kernel=True
        )
        self.bias = self.weight("bias", (width,), self.bias_initializer())
        self.recurrent_bias = None
        if self.has_recurrent_bias:
            self.recurrent_bias = self.weight("recurrent_bias", (width,), random.zeros)

    @property
    def has_recurrent_bias(self) -> bool:
        """Whether the recurrent kernel has a bias of its own."""
        return True

    def bias_initializer(self) -> Initializer:
        """The initializer of the bias."""
        return random.zeros

    def recur(self, x: Tensor, states: list[Tensor], weights: list[Tensor | None]) -> tuple[Tensor, ...]:
        """The framework's recurrence: outputs and last states."""
        raise NotImplementedError

    def call(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        first = ops.zeros((ops.shape(x)[0], self.units), x.dtype)
        states = [first if state is None else state for state in (h, c)[: self.STATES]]
        kernel, *rest = (
            None if w is None else ops.convert_to_tensor(w)
            for w in (self.kernel, self.recurrent_kernel, self.bias, self.recurrent_bias)
        )
        if self.reverse:
            x = _reversed(x, lengths)
        if lengths is not None:
            x, kernel = self.mask_gates(x, kernel, lengths)
        outputs, *last = self.recur(x, states, [kernel, *rest])
        if lengths is not None:
            last[0] = ops.where(ops.expand_dims(lengths > 0, 1), _ends(outputs, lengths), states[0])
            outputs = self.mask_outputs(outputs, lengths)
        return _reversed(outputs, lengths) if self.reverse else outputs, *last

    def mask_gates(self, x: Tensor, kernel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """The input and its kernel, with an input that sets the gates in the padding where they need one."""
        del lengths
        return x, kernel

    def mask_outputs(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        """The outputs, zero in the padding."""
        return ops.where(ops.expand_dims(_real(outputs, lengths), -1), outputs, ops.zeros((), outputs.dtype))

    def compute_output_spec(
        self, x: Tensor, lengths: Tensor | None = None, h: Tensor | None = None, c: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        del lengths, h, c
        b, n, _ = x.shape
        shapes = (b, n, self.units), *((b, self.units) for _ in range(self.STATES))
        return tuple(keras.KerasTensor(shape, self.compute_dtype) for shape in shapes)


@keras.saving.register_keras_serializable("zoo")
class LSTM(Recurrent):
    """Hochreiter and Schmidhuber 1997 with Gers's forget gate of bias 1, as torch.nn.LSTM.

    The cell state must pass through the padding unchanged, as only its last value is returned. One more
    input is 1 in the padding, with weight `PADDING_GATES` at each gate: sigmoid(200) is exactly 1, and
    sigmoid(-200) adds nothing.
    """

    GATES, STATES = 4, 2
    PADDING_GATES = (-200.0, 200.0, 0.0, -200.0)  # of input, forget, cell and output

    def bias_initializer(self) -> Initializer:
        return random.forget_one

    def recur(self, x: Tensor, states: list[Tensor], weights: list[Tensor | None]) -> tuple[Tensor, ...]:
        return backends.current().lstm(x, *states, *weights)

    def mask_gates(self, x: Tensor, kernel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        padding = ops.expand_dims(ops.logical_not(_real(x, lengths)), -1)
        weights = np.repeat(np.array(self.PADDING_GATES, np.float32), self.units)[None]
        x = ops.concatenate([x, ops.cast(padding, x.dtype)], axis=-1)
        return x, ops.concatenate([kernel, ops.convert_to_tensor(weights, dtype=x.dtype)], axis=0)

    def mask_outputs(self, outputs: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return outputs  # the output gate is closed in the padding


@keras.saving.register_keras_serializable("zoo")
class GRU(Recurrent):
    """Cho et al. 2014; with `reset_after` as torch.nn.GRU, which resets the recurrent kernel's output."""

    reset_after: bool
    GATES, STATES = 3, 1

    @property
    def has_recurrent_bias(self) -> bool:
        return self.reset_after

    def recur(self, x: Tensor, states: list[Tensor], weights: list[Tensor | None]) -> tuple[Tensor, ...]:
        return backends.current().gru(x, *states, *weights)


@keras.saving.register_keras_serializable("zoo")
class AttentionDecoder(Layer):
    """An LSTM that attends to the encoder output before every step (Bahdanau et al. 2014, arXiv:1409.0473).

        e_ij = v . tanh(W h_(i-1) + U y_j)      a_i = softmax(e_i)      context_i = sum_j a_ij y_j      (6, 5)
        h_i, c_i = LSTM([x_i; context_i], h_(i-1), c_(i-1))                                        section 3

    (b, m, c), encoder output y (b, n, k) and its lengths, states (b, u) twice -> [h; context] (b, m, u + k).
    """

    units: int
    initializer: Initializer

    def build(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x_shape: Shape, encoder_output_shape: Shape, **rest: Shape
    ) -> None:
        del rest
        u, k = self.units, encoder_output_shape[-1]
        self.query_kernel = self.weight("query_kernel", (u, u), self.initializer)  # W
        self.memory_kernel = self.weight("memory_kernel", (k, u), self.initializer)  # U
        self.score_kernel = self.weight("score_kernel", (u, 1), self.initializer)  # v
        self.kernel = self.weight("kernel", (x_shape[-1] + k, 4 * u), self.initializer)
        self.recurrent_kernel = self.weight("recurrent_kernel", (u, 4 * u), random.orthogonal)
        self.bias = self.weight("bias", (4 * u,), random.forget_one)

    def call(self, x: Tensor, encoder_output: Tensor, lengths: Tensor, h: Tensor, c: Tensor) -> Tensor:
        w, u, v, kernel, recurrent, bias = (
            ops.convert_to_tensor(weight)
            for weight in (
                self.query_kernel, self.memory_kernel, self.score_kernel,
                self.kernel, self.recurrent_kernel, self.bias,
            )
        )  # fmt: skip
        width = x.shape[-1]
        keys = ops.matmul(encoder_output, u)  # (b, n, u)
        inputs = ops.matmul(x, kernel[:width]) + bias  # (b, m, 4u), of all steps at once
        real = _real(encoder_output, lengths)  # (b, n)
        mask = caching.additive_mask(real, x.dtype)
        # Zero in the padding: of an empty sequence the context is 0.
        values = ops.where(ops.expand_dims(real, -1), encoder_output, ops.zeros((), x.dtype))

        def step(states: Sequence[Tensor], projected: Tensor) -> Sequence[Tensor]:
            h, c, _ = states
            query = ops.expand_dims(ops.matmul(h, w), 1)  # (b, 1, u)
            scores = ops.matmul(ops.tanh(query + keys), v)[..., 0] + mask  # (b, n)
            # Not ops.softmax, which warns of an axis of length 1.
            weights = ops.expand_dims(ops.exp(scores - ops.logsumexp(scores, axis=-1, keepdims=True)), 1)
            context = ops.matmul(weights, values)[:, 0]  # (b, k)
            gates = projected + ops.matmul(context, kernel[width:]) + ops.matmul(h, recurrent)
            return *lstm_cell(gates, c), context

        h, _, context = backends.current().scan(
            step, (h, c, ops.zeros_like(values[:, 0])), ops.swapaxes(inputs, 0, 1)
        )
        return ops.swapaxes(ops.concatenate([h, context], axis=-1), 0, 1)

    def compute_output_spec(
        self, x: Tensor, encoder_output: Tensor, lengths: Tensor, h: Tensor, c: Tensor
    ) -> Tensor:
        del lengths, h, c
        return keras.KerasTensor((*x.shape[:2], self.units + encoder_output.shape[-1]), self.compute_dtype)


@keras.saving.register_keras_serializable("zoo")
class BlankPadding(Layer):
    """Logits (b, n, classes) that give class 0, CTC's blank, probability 1 in the padding."""

    def call(self, logits: Tensor, lengths: Tensor) -> Tensor:
        classes = logits.shape[-1]
        blank = np.where(np.arange(classes) == 0, 0, MASK_VALUE).astype(np.float32)
        real = ops.expand_dims(_real(logits, lengths), -1)
        return ops.where(real, logits, ops.convert_to_tensor(blank, dtype=logits.dtype))

    def compute_output_spec(self, logits: Tensor, lengths: Tensor) -> Tensor:
        del lengths
        return keras.KerasTensor(logits.shape, logits.dtype)
