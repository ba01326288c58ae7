"""A Keras optimizer on any backend that updates arrays. See `zoo.backends.stepping.Stepper`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from zoo.backends.stepping import Array, float64, plain

PRIVATE = {"name", "learning_rate"}


class KerasStepper:
    """An optimizer with variables of the weights' names."""

    def __init__(self, optimizer: keras.optimizers.Optimizer, weights: Mapping[str, Array]):
        self.named = {name: _variable(name, x) for name, x in weights.items()}
        optimizer.build(list(self.named.values()))
        self.optimizer: Any = optimizer
        kind = type(optimizer)
        module = kind.__module__.replace("keras.src.", "keras.").split(".")
        self.kind = f"{'.'.join(module[:2])}.{kind.__name__}"

    def settings(self, name: str) -> dict[str, Any]:
        found = {k: plain(v) for k, v in self.optimizer.get_config().items() if k not in PRIVATE}
        variable = self.named[name]
        found["scheduled"] = callable(self.optimizer._learning_rate)
        if found.get("weight_decay") and not self.optimizer._use_weight_decay(variable):
            found["weight_decay"] = 0.0
        if hasattr(self.optimizer, "group"):  # zoo.optimizers
            found["rate_multiplier"], found["weight_decay"] = self.optimizer.group(variable)
        if hasattr(self.optimizer, "_should_use_adamw"):
            found["matrix"] = not self.optimizer._should_use_adamw(variable)
        return found

    def rate(self) -> float | None:
        with float64():
            return float(_numpy(self.optimizer.learning_rate))

    def step(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        names = [name for name in self.named if name in gradients]
        tensors = [keras.ops.convert_to_tensor(gradients[name], dtype="float64") for name in names]
        variables = [self.named[name] for name in names]
        with float64():
            self.optimizer.apply(tensors, variables)
        return {name: _numpy(v) for name, v in self.named.items()}


def _variable(name: str, x: Array) -> keras.Variable:
    variable = keras.Variable(np.asarray(x, np.float64), dtype="float64", name=name.rpartition("/")[2])
    variable._path = name
    return variable


def _numpy(value: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(value))
