"""Losses and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration

Tensor = Any


@dataclass(frozen=True)
class Objective:
    """What is minimized: a name of `LOSSES` or a function (y, logits) -> scalar."""

    loss: str | Callable[[Tensor, Tensor], Tensor]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] = ()  # see zoo.training.weighting

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise WrongConfiguration(
                f"label_smoothing={self.label_smoothing!r}; expected 0 <= label_smoothing < 1"
            )
        if self.label_smoothing and self.loss != "cross_entropy":
            raise WrongConfiguration(f"label_smoothing= goes with cross_entropy, not with {self.loss!r}")

    def keras(self) -> Any:
        """As `compile` takes it."""
        if self.class_weights:
            return _cross_entropy(self.label_smoothing, self.class_weights)
        return LOSSES[self.loss][0](self.label_smoothing) if isinstance(self.loss, str) else self.loss

    def native(self) -> backends.Loss:
        """As a native step takes it, computed in full precision under a mixed policy too, as Keras does."""
        function = LOSSES[self.loss][1](self.label_smoothing) if isinstance(self.loss, str) else self.loss
        if self.class_weights:
            losses = self.keras()
            function = lambda y, logits: ops.mean(losses(y, logits))  # noqa: E731
        wide = keras.config.floatx()

        def loss(y: Tensor, logits: Tensor) -> Tensor:
            dtype = keras.backend.standardize_dtype(logits.dtype)
            return function(y, logits if dtype == wide else ops.cast(logits, wide))

        return loss

    def weight(self, y: np.ndarray) -> int:
        """How many labels or examples the loss of a batch is the mean of."""
        steps = self.loss == "cross_entropy" and y.ndim == 2 and np.issubdtype(y.dtype, np.integer)
        return int((y >= 0).sum()) if steps else len(y)


def weighing(loss: Any, objective: Objective, optimizer: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as `compile` takes it; computed, it tells the optimizer the weight of the batch.

    Both belong to the same step, so this is no state: compiled code has the weight as one of its values.
    """

    def compute(y: Tensor, logits: Tensor) -> Tensor:
        steps = objective.loss == "cross_entropy" and len(y.shape) == 2 and len(logits.shape) == 3
        counted = ops.sum(ops.cast(y >= 0, "int32")) if steps else ops.shape(y)[0]
        optimizer.batch_weight = counted
        return loss(y, logits)

    return compute


def _cross_entropy(smoothing: float, class_weights: tuple[float, ...] = ()) -> Any:
    """Of labels (b,), of every step (b, n), or soft labels (b, classes).

    Keras makes all of them floats, so only their shape tells.
    """

    def loss(y: Tensor, logits: Tensor) -> Tensor:
        soft = len(y.shape) == len(logits.shape)
        if soft or smoothing:
            targets = y if soft else ops.one_hot(ops.cast(y, "int32"), logits.shape[-1], dtype=logits.dtype)
            losses = keras.losses.categorical_crossentropy(
                targets, logits, from_logits=True, label_smoothing=smoothing
            )
        else:
            losses = keras.losses.sparse_categorical_crossentropy(ops.maximum(y, 0), logits, from_logits=True)
        if class_weights:
            weights = ops.convert_to_tensor(class_weights, dtype=logits.dtype)
            labels = ops.cast(ops.maximum(y, 0), logits.dtype if soft else "int32")
            losses = losses * (ops.matmul(labels, weights) if soft else ops.take(weights, labels))
        if len(y.shape) == 1 or soft:
            return losses
        counted = ops.cast(ops.greater_equal(y, 0), logits.dtype)
        return ops.sum(losses * counted) / ops.maximum(ops.sum(counted), 1)

    return loss


# name -> (as compile takes it, as a native step takes it), of the label smoothing
LOSSES: dict[str, tuple[Callable[[float], Any], Callable[[float], Any]]] = {
    "cross_entropy": (
        _cross_entropy,
        lambda smoothing: partial(backends.current().cross_entropy, label_smoothing=smoothing),
    ),
    "ctc": (
        lambda _: lambda y, logits: backends.current().ctc_loss(ops.cast(y, "int32"), logits),
        lambda _: backends.current().ctc_loss,
    ),
    "mean_squared_error": (
        lambda _: keras.losses.MeanSquaredError(),
        lambda _: lambda y, x: ops.mean(ops.square(x - ops.cast(y, x.dtype))),
    ),
}
