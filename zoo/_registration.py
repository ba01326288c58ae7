"""What the zoo saves in a `.keras` file, known to Keras once both are imported, in whichever order.

Keras finds a class of a file by the name under which it is registered, which the modules below do when they
are imported. They need Keras, which `import zoo` does not load: they follow it.
"""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from zoo.errors import BackendError

MODULES = ("zoo.layers.classes", "zoo.optimizers", "zoo.schedules")  # none of them imports another


class _AfterKeras(MetaPathFinder):
    """Finds Keras as the other finders do, and has `register` called at the end of its import."""

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        found = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in found if spec is not None), None)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            register()

        spec.loader.exec_module = exec_module  # the loader is this spec's alone
        return spec


def register() -> None:
    """Import what registers classes with Keras, unless that runs on a backend the zoo does not have."""
    with suppress(BackendError):
        for name in MODULES:
            importlib.import_module(name)


def follow_keras() -> None:
    """Register now if Keras is here, else when it is imported."""
    if "keras" in sys.modules:
        register()
    else:
        sys.meta_path.insert(0, _AfterKeras())
