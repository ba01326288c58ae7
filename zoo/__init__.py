"""Classic deep-learning models, each written once: the same numbers on PyTorch, TensorFlow and JAX.

    import zoo
    zoo.use("jax")
    run = zoo.train("lenet5", task="digits")
    zoo.compare("lenet5")

Importing this package imports no framework: Keras is imported when the first model is built.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo._registration import follow_keras
from zoo.errors import (
    BackendError,
    DataUnavailable,
    UnknownModel,
    UnknownName,
    WeightsMismatch,
    WrongConfiguration,
    ZooError,
)

if TYPE_CHECKING:
    from zoo import (
        augment,
        backends,
        checkpoints,
        layers,
        optimizers,
        preprocessing,
        pretrained,
        random,
        runs,
        schedules,
        show,
        tasks,
        tokenizers,
        weights,
    )
    from zoo.artifacts import export
    from zoo.backends import use
    from zoo.benchmarks import bench
    from zoo.comparison import compare
    from zoo.evaluation import evaluate
    from zoo.generation import generate, translate
    from zoo.ladder import parity
    from zoo.prediction import predict
    from zoo.registry import Card, build, card, example, features, list_models, register
    from zoo.runs import SavedRun, load_run
    from zoo.training import EarlyStopping, Run, train

# In the source tree zoo.backends and zoo.peers are the folders backends/ and tests/peers/ beside this one. A
# Python that starts there imports this zoo, whichever one is installed, and must find them as well.
if not (_here := Path(__file__).parent).joinpath("backends").is_dir():
    __path__ += [str(_here.parent), str(_here.parent / "tests")]

__version__ = "0.1.0"

# Where each public name lives; it is imported when it is first used.
_HOMES = {
    "bench": "benchmarks",
    "build": "registry",
    "Card": "registry",
    "card": "registry",
    "compare": "comparison",
    "EarlyStopping": "training",
    "evaluate": "evaluation",
    "example": "registry",
    "export": "artifacts",
    "features": "registry",
    "generate": "generation",
    "list_models": "registry",
    "load_run": "runs",
    "parity": "ladder",
    "predict": "prediction",
    "register": "registry",
    "Run": "training",
    "SavedRun": "runs",
    "train": "training",
    "translate": "generation",
    "use": "backends",
}
_MODULES = (
    "augment",
    "backends",
    "checkpoints",
    "layers",
    "optimizers",
    "preprocessing",
    "pretrained",
    "random",
    "runs",
    "schedules",
    "show",
    "tasks",
    "tokenizers",
    "weights",
)

__all__ = [
    "BackendError",
    "Card",
    "DataUnavailable",
    "EarlyStopping",
    "Run",
    "SavedRun",
    "UnknownModel",
    "UnknownName",
    "WeightsMismatch",
    "WrongConfiguration",
    "ZooError",
    "augment",
    "backends",
    "bench",
    "build",
    "card",
    "checkpoints",
    "compare",
    "evaluate",
    "example",
    "export",
    "features",
    "generate",
    "layers",
    "list_models",
    "load_run",
    "optimizers",
    "parity",
    "predict",
    "preprocessing",
    "pretrained",
    "random",
    "register",
    "runs",
    "schedules",
    "show",
    "tasks",
    "tokenizers",
    "train",
    "translate",
    "use",
    "weights",
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


follow_keras()  # keras.models.load_model finds the classes of the zoo's files
