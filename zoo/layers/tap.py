"""A layer that adds zeros, whose gradient is that of what it is given."""

from __future__ import annotations

from typing import Any

from zoo._lazy import keras
from zoo.layers.base import Shape, Tensor


class Tap(keras.layers.Layer):
    """x + 0, the zeros being weights of x's shape: their gradient is that of x. See `zoo.ladder.taps`."""

    def __init__(self, **base: Any):
        super().__init__(**base)
        self.supports_masking = True

    def build(self, input_shape: Shape) -> None:
        shape = [1 if n is None else n for n in input_shape]  # one example, of an unknown batch
        self.zeros = self.add_weight(name="zeros", shape=shape, initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        return x + self.zeros

    def compute_output_shape(self, shape: Shape) -> Shape:
        return shape


class RoundedTap(Tap):
    """x (1 + its weights), which change x and the gradient of x by the same relative amounts."""

    def call(self, x: Tensor) -> Tensor:
        return x * (1 + self.zeros)
