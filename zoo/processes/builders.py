"""Functions that build a model, on their way to a worker process."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from zoo.errors import WrongConfiguration

Builder = Callable[[], Any]


def save_builder(folder: Path, builder: Builder | str) -> str:
    """Where a process finds a builder: "FILE.py:NAME" or "MODULE:NAME" itself, else a pickle in `folder`.

    Raises WrongConfiguration for text of another form, a file that is not there, and what has no pickle.
    """
    if isinstance(builder, str):
        where, _, name = builder.rpartition(":")
        if not where or not name.isidentifier():
            raise WrongConfiguration(f"{builder!r}; expected FILE.py:FUNCTION or MODULE:FUNCTION")
        if where.endswith(".py") and not Path(where).is_file():
            raise WrongConfiguration(f"{where}: no such file")
        return f"{Path(where).resolve()}:{name}" if where.endswith(".py") else builder
    import cloudpickle

    try:
        code = cloudpickle.dumps(builder)
    except Exception as error:
        raise WrongConfiguration(f"the model's builder cannot be sent to another process: {error}") from None
    path = folder / "builder.pkl"
    path.write_bytes(code)
    path.with_suffix(".json").write_text(json.dumps([p or str(Path.cwd()) for p in sys.path]))
    return str(path)


def load_builder(place: str) -> Builder:
    """The builder that `save_builder` saved. Raises WrongConfiguration for a module without the function."""
    if place.endswith(".pkl"):
        import cloudpickle

        paths = json.loads(Path(place).with_suffix(".json").read_text())
        sys.path += [p for p in paths if p not in sys.path]
        return cloudpickle.loads(Path(place).read_bytes())
    where, _, name = place.rpartition(":")
    module = _run_file(Path(where)) if where.endswith(".py") else _imported(where)
    if not hasattr(module, name):
        raise WrongConfiguration(f"{where} has no {name!r}; expected a function that builds a model")
    return getattr(module, name)


def _run_file(path: Path) -> Any:
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def _imported(name: str) -> Any:
    if "" not in sys.path:
        sys.path.insert(0, "")  # the working directory: workers start without it
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise WrongConfiguration(f"{name}: {error}; expected FILE.py:FUNCTION or MODULE:FUNCTION") from None
