"""A user's builder, tried on every framework before anything is compared."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backends, random
from zoo._lazy import keras
from zoo.errors import WrongConfiguration, ZooError
from zoo.ladder.bounds import Process
from zoo.processes import machine
from zoo.processes.builders import load_builder, save_builder
from zoo.processes.workers import WorkerDied

if TYPE_CHECKING:
    from zoo.ladder.run import ParityRun

SIZES = ("image_size", "size")  # parameters of a builder that take a size
CLASSES = 5


@dataclass(frozen=True)
class SizedBuilder:
    """A builder that is called with a size, as those of keras.applications; without pretrained weights."""

    place: str
    size: int

    def __call__(self) -> keras.Model:
        build: Any = load_builder(self.place)
        known = inspect.signature(build).parameters
        arguments: dict[str, Any] = {name: self.size for name in SIZES if name in known}
        if "input_shape" in known:
            arguments["input_shape"] = (self.size, self.size, 3)
        if not arguments:
            raise WrongConfiguration(
                f"size={self.size}: {self.place} takes {', '.join(known) or 'nothing'}; expected a parameter "
                f"input_shape, {' or '.join(SIZES)}"
            )
        arguments |= {
            name: value for name, value in (("weights", None), ("classes", CLASSES)) if name in known
        }
        return build(**arguments)


def sized(build: Any, size: int) -> SizedBuilder:
    """The builder "FILE.py:FUNCTION" or "MODULE:FUNCTION" for images of a size. Raises WrongConfiguration."""
    if not isinstance(build, str):
        raise WrongConfiguration(
            'size= goes with "FILE.py:FUNCTION" or "MODULE:FUNCTION"; a function has its own'
        )
    if size < 1:
        raise WrongConfiguration(f"size={size}: expected 1 or more")
    return SizedBuilder(save_builder(Path(), build), size)


def images(size: int) -> np.ndarray:
    """Random images (4, size, size, 3)."""
    return random.generator("images", size).standard_normal((4, size, size, 3)).astype(np.float32)


# In the process of a framework


def call_builder(build: Any) -> keras.Model:
    """What a builder returns. Raises WrongConfiguration with its error and line, or for what is no model."""
    backend = backends.current().NAME
    try:
        model = build()
    except ZooError:
        raise
    except Exception as error:  # whatever a user's code raises
        text = " ".join(str(error).split())[:400]
        raise WrongConfiguration(
            f"the builder fails on {backend}: {type(error).__name__}: {text}{_line(error)}"
        ) from None
    if not isinstance(model, keras.Model):
        given = "None; is its return missing?" if model is None else f"a {type(model).__name__}"
        raise WrongConfiguration(f"the builder returned {given} on {backend}; expected a keras.Model")
    return model


def _line(error: BaseException) -> str:
    """The user's line in which an error arose."""
    frames = [f for f in traceback.extract_tb(error.__traceback__)[1:] if "site-packages" not in f.filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


def arguments(model: keras.Model, inputs: Any) -> Any:
    """Inputs as the model takes them: one array by any name is that of a model with one input.

    Raises WrongConfiguration for names that the model does not have.
    """
    tensors = getattr(model, "inputs", None) if getattr(model, "operations", None) else None
    if not isinstance(inputs, Mapping) or not tensors:
        single = isinstance(inputs, Mapping) and len(inputs) == 1 and isinstance(model, keras.Sequential)
        return next(iter(inputs.values())) if single else inputs
    if len(inputs) == len(tensors) == 1 and not isinstance(model._inputs_struct, Mapping):
        return next(iter(inputs.values()))
    names = {tensor.name for tensor in tensors}
    if unknown := [name for name in inputs if name not in names]:
        shapes = ", ".join(f"{t.name} {tuple(t.shape)}" for t in tensors)
        raise WrongConfiguration(f"inputs {', '.join(unknown)}: the model has {shapes}")
    return inputs


def check_inputs(model: keras.Model, inputs: Any) -> None:
    """Infer the shapes of the outputs. Raises WrongConfiguration if the model does not take the inputs."""
    given = {name: _spec(x) for name, x in inputs.items()} if isinstance(inputs, Mapping) else _spec(inputs)
    try:
        model(given)  # symbolically
    except Exception as error:  # whatever a user's layer raises
        shapes = ", ".join(str(x.shape) for x in keras.tree.flatten(given))
        text = " ".join(str(error).split())[:400] + _line(error)
        raise WrongConfiguration(
            f"the model does not take inputs of shape {shapes} on {backends.current().NAME}: {text}"
        ) from None


def _spec(x: Any) -> keras.KerasTensor:
    dtype = keras.config.floatx() if x.dtype.kind == "f" else x.dtype.name
    return keras.KerasTensor(x.shape, dtype)


def architecture(model: keras.Model) -> list[str]:
    """The classes of the layers and operations, in order, and the shapes of the weights."""
    parts = getattr(model, "operations", None) or model._flatten_layers(include_self=False)
    return [
        f"{type(part).__name__} {[tuple(v.shape) for v in getattr(part, 'weights', [])] or ''}".strip()
        for part in parts
    ]


# In the main process


def check_networks(run: ParityRun) -> None:
    """Build a user's models on every framework, and save the initial weights of the first.

    Raises WrongConfiguration for a builder that fails, or that returns another model the next time or on
    another framework.
    """
    first, *others = run.settings.backends
    for name, folder in run.models:
        if folder is None or (folder / "weights.npz").exists():  # checked for another float type
            continue
        run.settings.progress(f"{name} · building")
        expected = _ask(run, name, first, "save_weights", folder)["architecture"]
        with ThreadPoolExecutor(max(1, machine.cores())) as pool:
            found = list(
                pool.map(lambda b, n=name, f=folder: _ask(run, n, b, "check", f)["architecture"], others)
            )
        for backend, parts in zip(others, found, strict=True):
            if parts != expected:
                pairs = zip_longest(expected, parts, fillvalue="nothing more")
                a, b = next(pair for pair in pairs if pair[0] != pair[1])
                raise WrongConfiguration(
                    f"{name}: the builder returns another architecture on {backend}: {b} where {first} has "
                    f"{a}, of {len(parts)} and {len(expected)} layers; expected the same on every framework"
                )


def _ask(run: ParityRun, name: str, backend: str, command: str, folder: Path) -> dict[str, Any]:
    try:
        return run.ask(Process(backend, run.settings.dtypes[0]), command, folder=str(folder))
    except WorkerDied as error:
        text = str(error).removeprefix("WrongConfiguration: ")
        raise WrongConfiguration(f"{name}: {text}") from None
