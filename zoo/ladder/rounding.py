"""How far rounding moves a result: 1-ulp perturbations, and the perturbations that a number format makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from zoo import random
from zoo._lazy import keras, ops
from zoo.ladder.bounds import absolute_difference

Array = np.ndarray
Named = Iterator[tuple[str, Array]]

SPREAD_PASSES = 16  # that measure how far rounding moves each output and gradient


def spreads_of(model: keras.Model, inputs: Any, compute: Callable[[Any], Named]) -> Named:
    """What `compute(inputs)` yields, and of each array the spread, "spread/NAME".

    That is its largest difference under 1-ulp perturbations of the model's weights and of the inputs.
    """
    exact = dict(compute(inputs))
    yield from exact.items()
    weights, spreads = [numpy(v) for v in model.weights], dict.fromkeys(exact, 0.0)
    for seed in range(SPREAD_PASSES):
        perturb(model, seed)
        for name, value in compute(perturbed_inputs(inputs, seed)):
            spreads[name] = max(spreads[name], absolute_difference(value, exact[name]))
        for variable, value in zip(model.weights, weights, strict=True):
            variable.assign(value)
    for name, spread in spreads.items():
        yield f"spread/{name}", np.array(spread)


def perturbed_inputs(inputs: Any, seed: int) -> Any:
    """Inputs of which every number that is not an integer is changed by one ulp, up or down."""
    floatx = keras.config.floatx()  # by an ulp of the type computed in
    return with_floats(inputs, lambda _, x: nudged(x.astype(floatx), "inputs", seed))


def with_floats(inputs: Any, change: Callable[[str, Array], Array], name: str = "") -> Any:
    """The inputs, one or by name, with `change(name, array)` for every array that has no integers."""
    if isinstance(inputs, Mapping):
        return {key: with_floats(x, change, key) for key, x in inputs.items()}
    return change(name, inputs) if np.issubdtype(inputs.dtype, np.floating) else inputs


def perturb(model: keras.Model, seed: int) -> None:
    """Change every trainable weight by one ulp, up or down."""
    for variable in model.trainable_variables:
        variable.assign(nudged(numpy(variable), "nudge", seed, variable.path))


def nudged(value: Array, *key: int | str) -> Array:
    """An array of which every number is changed by one ulp, up or down."""
    up = random.generator(*key).random(value.shape) < 0.5
    ends = np.array([-np.inf, np.inf], value.dtype)
    return np.nextafter(value, ends[up.astype(int)])


def numpy(value: Any) -> Array:
    """A tensor or variable, copied into an array; 16-bit numbers, which NumPy cannot save, as float32."""
    if keras.backend.standardize_dtype(value.dtype) in ("bfloat16", "float16"):
        value = ops.cast(value, "float32")
    return np.array(ops.convert_to_numpy(value))
