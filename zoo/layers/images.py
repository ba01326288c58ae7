"""Keras layers of images: convolution and pooling."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.layers.base import Layer, Shape, Tensor
from zoo.random import Initializer


def _out(size: int | None, window: int, stride: int, padding: int = 0) -> int | None:
    return None if size is None else (size + 2 * padding - window) // stride + 1


@keras.saving.register_keras_serializable("zoo")
class Conv(Layer):
    """y = x * kernel + bias over (b, h, w, c), `padding` zeros on every side, or TensorFlow's "same"."""

    filters: int
    size: int
    stride: int
    padding: int | str
    groups: int
    use_bias: bool
    initializer: Initializer
    bias_initializer: Initializer
    regularizer: Any

    def build(self, input_shape: Shape) -> None:
        self.kernel = self.weight(
            "kernel",
            (self.size, self.size, input_shape[-1] // self.groups, self.filters),
            self.initializer,
            regularizer=self.regularizer,
            kernel=True,
        )
        self.bias = self.weight("bias", (self.filters,), self.bias_initializer) if self.use_bias else None

    def call(self, x: Tensor) -> Tensor:
        tensor = ops.convert_to_tensor
        bias = None if self.bias is None else tensor(self.bias)
        padding = self.padding
        if isinstance(padding, str):
            x, padding = ops.pad(x, ((0, 0), *map(self.sides, x.shape[1:3]), (0, 0))), 0
        return backends.current().conv(
            x, tensor(self.kernel), bias, stride=self.stride, padding=padding, groups=self.groups
        )

    def sides(self, extent: int) -> tuple[int, int]:
        """The zeros that "same" puts before and after: enough for ceil(extent / stride), the odd one last."""
        missing = max(0, (-(-extent // self.stride) - 1) * self.stride + self.size - extent)
        return missing // 2, missing - missing // 2

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, h, w, _ = shape
        if isinstance(self.padding, str):
            return b, -(-h // self.stride), -(-w // self.stride), self.filters
        h, w = (_out(n, self.size, self.stride, self.padding) for n in (h, w))
        return b, h, w, self.filters


@keras.saving.register_keras_serializable("zoo")
class MaxPool(Layer):
    """The largest of each window of (b, h, w, c); padding never wins."""

    size: int
    stride: int
    padding: int

    def call(self, x: Tensor) -> Tensor:
        return backends.current().max_pool(x, self.size, self.stride, self.padding)

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, h, w, c = shape
        h, w = (_out(n, self.size, self.stride, self.padding) for n in (h, w))
        return b, h, w, c


@keras.saving.register_keras_serializable("zoo")
class AveragePool(Layer):
    """The mean of each window of (b, h, w, c)."""

    size: int
    stride: int

    def call(self, x: Tensor) -> Tensor:
        return backends.current().average_pool(x, self.size, self.stride)

    def compute_output_shape(self, shape: Shape) -> Shape:
        b, h, w, c = shape
        return b, _out(h, self.size, self.stride), _out(w, self.size, self.stride), c


@keras.saving.register_keras_serializable("zoo")
class AdaptiveAveragePool(Layer):
    """(b, h, w, c) -> (b, size, size, c): row i averages rows floor(i h / size) to ceil((i + 1) h / size)."""

    size: int

    def call(self, x: Tensor) -> Tensor:
        # In torch's exporter to ONNX an extent is a tensor.
        rows, columns = (ops.convert_to_tensor(self.means(int(n)), dtype=x.dtype) for n in x.shape[1:3])
        return ops.einsum("ih,bhwc,jw->bijc", rows, x, columns)

    def means(self, extent: int) -> Any:
        """(size, extent): each row averages its own run."""
        starts = np.arange(self.size)[:, None] * extent // self.size
        ends = -(-np.arange(1, self.size + 1)[:, None] * extent // self.size)
        own = (np.arange(extent) >= starts) & (np.arange(extent) < ends)
        return own / own.sum(1, keepdims=True)

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape[0], self.size, self.size, shape[3]
