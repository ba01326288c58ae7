"""Keras, imported when it is first used.

`import zoo` and `zoo list` load no framework; Keras comes with the first layer that is built, on the
backend chosen by then. Modules of the zoo write `from zoo._lazy import keras, ops`.
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any

from zoo import backends

if TYPE_CHECKING:
    import keras as keras

    ops: Any  # Keras annotates few of its operations, and some wrongly
else:

    class _Lazy(ModuleType):
        """The first attribute asked of it settles the backend and imports the module.

        Unlike `importlib.util.LazyLoader` it leaves `sys.modules` alone: that is where the zoo, and others,
        look to learn whether Keras runs.
        """

        def __getattr__(self, name: str) -> Any:
            if name.startswith("__"):
                raise AttributeError(name)
            if not _any_backend:
                backends.start()
            return getattr(importlib.import_module(self.__name__), name)

    keras = _Lazy("keras")
    ops = _Lazy("keras.ops")

_any_backend: list[bool] = []  # not empty after `use_any_backend`


def use_any_backend() -> None:
    """From here on Keras may run on a backend that the zoo does not support, as NumPy or OpenVINO."""
    _any_backend.append(True)


# Keras and TensorFlow take these along where they are installed, for what the zoo has no use for: wrappers of
# scikit-learn's kind, galleries of images, Orbax's checkpoints, TFLite's conversion.
EXTRAS = ("jax", "matplotlib", "sklearn")


class _NoExtras(MetaPathFinder, Loader):
    """While Keras or TensorFlow is being imported, its extras cannot be."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        backend = os.environ.get("KERAS_BACKEND", "")
        if name not in EXTRAS or name == backend or backend == "numpy":  # Keras's NumPy convolves by JAX
            return None
        return ModuleSpec(name, self) if _being_imported("keras") or _being_imported("tensorflow") else None

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError(f"{module.__name__} is left out", name=module.__name__)


def _being_imported(name: str) -> bool:
    return getattr(getattr(sys.modules.get(name), "__spec__", None), "_initializing", False)


def leave_out_extras() -> None:
    """From here on Keras's import takes half its time; after it, its extras can be imported as ever.

    For the zoo's own processes: in the user's, Keras is to be whole.
    """
    sys.meta_path.insert(0, _NoExtras())
