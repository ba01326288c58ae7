"""Optimizers of any framework that update NumPy arrays by name, as two of them are compared.

A stepper (`step_torch`, `step_jax`, `step_keras`) holds the weights and an optimizer of its framework.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np

from zoo.errors import WrongConfiguration

Array = np.ndarray
TORCH, KERAS = "torch.optim.optimizer", "keras.src.optimizers.base_optimizer"  # of the base classes
EXPECTED = (
    "a function of module.named_parameters() that returns a torch.optim.Optimizer, or one with its "
    "scheduler; an optax transformation; or a Keras optimizer"
)


class Stepper(Protocol):
    """An optimizer and the weights it updates."""

    kind: str  # "torch.optim.AdamW", "optax scale_by_adam, scale", "keras.optimizers.Adam"

    def settings(self, name: str) -> dict[str, Any]:
        """What the optimizer declares for this weight: plain values by its own names."""
        ...

    def rate(self) -> float | None:
        """The learning rate of the next step; None if it is not declared."""
        ...

    def step(self, gradients: Mapping[str, Array]) -> dict[str, Array]:
        """Update the weights by these gradients, and return them."""
        ...


def stepper_of(build: Any, weights: Mapping[str, Array]) -> Stepper:
    """The stepper of what `build` is or returns. Raises WrongConfiguration for what is no optimizer."""
    with float64():
        found: Any = build
        if callable(build) and not _modules(build) & {TORCH, KERAS}:
            if _takes_parameters(build):
                found = importlib.import_module("zoo.backends.step_torch").build(build, weights)
            else:
                found = build()
        modules = _modules(found)
        if TORCH in modules:
            return importlib.import_module("zoo.backends.step_torch").TorchStepper(found)
        if KERAS in modules:
            return importlib.import_module("zoo.backends.step_keras").KerasStepper(found, weights)
        if callable(getattr(found, "init", None)) and callable(getattr(found, "update", None)):
            return importlib.import_module("zoo.backends.step_jax").OptaxStepper(found, weights)
    raise WrongConfiguration(f"the optimizer is a {type(found).__name__}; expected {EXPECTED}")


@contextmanager
def float64() -> Iterator[None]:
    """Within, Keras computes in float64, and creates variables of learning rates in it."""
    keras = sys.modules.get("keras")
    if keras is None:
        yield
        return
    table = importlib.import_module("keras.src.backend.common.dtypes").BIT64_TO_BIT32_DTYPE
    before, narrowed = keras.config.floatx(), table["float64"]
    keras.config.set_floatx("float64")
    table["float64"] = "float64"  # docs/upstream.md: else maximum, as in clipping, is of float32
    try:
        yield
    finally:
        keras.config.set_floatx(before)
        table["float64"] = narrowed


def _modules(value: Any) -> set[str]:
    return {base.__module__ for base in inspect.getmro(type(value))}


def _takes_parameters(build: Any) -> bool:
    """Whether a function needs an argument."""
    try:
        given = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return False
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in given)


def plain(value: Any) -> Any:
    """A number, a text, None, or a tuple of these; what is none of them as its type's name."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(plain, value))
    if np.ndim(value) == 0 and hasattr(value, "dtype"):
        return float(value)
    return type(value).__name__
