"""Keras, imported when it is first used.

`import zoo` and `zoo list` load no framework; Keras comes with the first layer that is built, on the
backend chosen by then. Modules of the zoo write `from zoo._lazy import keras, ops`.
"""

from __future__ import annotations

import importlib
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
            backends.settle()
            return getattr(importlib.import_module(self.__name__), name)

    keras = _Lazy("keras")
    ops = _Lazy("keras.ops")
