"""The classic deep-learning models, written once: the same numbers on PyTorch, TensorFlow and JAX.

    import zoo
    zoo.use("jax")
    run = zoo.train("lenet5", task="digits")
    zoo.compare("lenet5")

Nothing here imports a framework: Keras comes with the first model that is built.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zoo.errors import (
    BackendError,
    DataUnavailable,
    UnknownModel,
    UnknownName,
    WrongConfiguration,
    ZooError,
)

if TYPE_CHECKING:
    from zoo import backends, checkpoints, layers, optimizers, random, schedules, tasks
    from zoo.backends import use
    from zoo.benchmarks import bench
    from zoo.comparison import compare
    from zoo.ladder import parity
    from zoo.registry import Card, build, card, example, list_models, register
    from zoo.training import EarlyStopping, Run, train

__version__ = "0.1.0"

# Where each public name lives; it is imported when it is first used.
_HOMES = {
    "bench": "benchmarks",
    "build": "registry",
    "Card": "registry",
    "card": "registry",
    "compare": "comparison",
    "EarlyStopping": "training",
    "example": "registry",
    "list_models": "registry",
    "parity": "ladder",
    "register": "registry",
    "Run": "training",
    "train": "training",
    "use": "backends",
}
_MODULES = ("backends", "checkpoints", "layers", "optimizers", "random", "schedules", "tasks")

__all__ = [
    "BackendError",
    "Card",
    "DataUnavailable",
    "EarlyStopping",
    "Run",
    "UnknownModel",
    "UnknownName",
    "WrongConfiguration",
    "ZooError",
    "backends",
    "bench",
    "build",
    "card",
    "checkpoints",
    "compare",
    "example",
    "layers",
    "list_models",
    "optimizers",
    "parity",
    "random",
    "register",
    "schedules",
    "tasks",
    "train",
    "use",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"zoo.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return import_module(f"zoo.{name}")
    raise AttributeError(f"module 'zoo' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
