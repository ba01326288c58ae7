"""Parity: compare what two frameworks computed, and name the first layer where they part.

Differences are relative to the largest value of the array, so that a bound means the same for logits of
size 10 and gradients of size 1e-4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo._lazy import keras

# The largest difference that counts as equal in float32 (DESIGN: the ladder's bounds).
BOUNDS = {"initial_weights": 0.0, "outputs": 1e-5, "losses": 1e-5}


def layer_outputs(model: keras.Model, inputs: Any) -> dict[str, np.ndarray]:
    """What every layer of a functional model gives in inference mode, in data-flow order.

    Layers without a name of their own are called by their operation and their place, so that the same
    model has the same keys in every process.
    """
    layers = [op for op in model.operations if not isinstance(op, keras.layers.InputLayer)]
    tapped = keras.Model(model.input, [op.output for op in layers])
    values = tapped.predict_on_batch(inputs)
    values = values if isinstance(values, list) else [values]
    return {
        _label(i, op): np.asarray(value) for i, (op, value) in enumerate(zip(layers, values, strict=True))
    }


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest value of either; inf where shapes or NaNs differ."""
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return float("inf")
    scale = max(np.abs(np.nan_to_num(a)).max(initial=0), np.abs(np.nan_to_num(b)).max(initial=0))
    gap = np.abs(np.nan_to_num(a.astype(np.float64)) - np.nan_to_num(b)).max(initial=0)
    return float(gap / scale) if gap else 0.0


def first_difference(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], bound: float = BOUNDS["outputs"]
) -> dict[str, Any] | None:
    """The first layer, in the order of `a`, that differs by more than the bound; None if none does."""
    for layer, value in a.items():
        gap = difference(value, b[layer]) if layer in b else float("inf")
        if gap > bound:
            return {"layer": layer, "difference": gap}
    return None


def _label(place: int, op: Any) -> str:
    named = getattr(op, "weights", None)
    return op.name if named else f"{type(op).__name__.lower()} (operation {place + 1})"
