"""What one backend computes of cases, in a process of its own: `python -m zoo.hunt.worker FOLDER`."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.hunt.cases import Array, Case, Outcome, cosines, set_weights
from zoo.ladder.probe import use_float64
from zoo.processes.workers import Answer, serve

# How a case is first run, and what else is tried: on JAX a program of the whole case compiles sooner than
# one for each operation. "compiled" is TorchInductor's, which takes seconds.
MODES = {
    "torch": ("eager", "traced", "compiled"),
    "tensorflow": ("eager", "xla", "graph"),
    "jax": ("jit", "eager"),
}


class Service:
    """Serves `zoo.hunt.run`: runs the cases of a file."""

    def __init__(self, folder: Path, answer: Answer):
        warnings.simplefilter("ignore")
        self.folder, self.answer = folder, answer
        backends.use(os.environ["KERAS_BACKEND"], device="cpu", threads=1)
        self.backend = backends.current()

    def run(self, *, path: str, mode: str, gradients: bool, float64: bool, fallback: bool) -> None:
        """Append the outcome of each case to `results`; one answer after each, one before them.

        `fallback`: a case that cannot be compiled runs eagerly.
        """
        set_precision(float64)
        cases = pickle.loads(Path(path).read_bytes())
        prepared: dict[Any, Prepared] = {}  # a compiled program serves the other values of a row
        self.answer()
        with (self.folder / "results").open("wb") as results:
            for case in cases:
                found = outcome(self.backend, case, mode, gradients, prepared)
                if fallback and mode != "eager" and (found.error or found.gradient_error):
                    found = outcome(self.backend, case, "eager", gradients, {})
                pickle.dump(found, results)
                results.flush()
                self.answer()
        self.backend.clear_cache()
        self.answer(last=True)


def set_precision(float64: bool) -> None:
    """float64 throughout, or Keras as it is by default."""
    if float64:
        use_float64()
        return
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    dtypes: Any = import_module("keras.src.backend.common.dtypes")
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float32"


def outcome(backend: Any, case: Case, mode: str, gradients: bool, prepared: dict[Any, Prepared]) -> Outcome:
    """The outputs of a case, and their gradients with respect to inputs and weights of floats."""
    key = (case.lines, *case.layers.values(), *((n, x.shape, x.dtype.str) for n, x in case.inputs.items()))
    try:
        if key not in prepared:
            prepared[key] = Prepared(backend, case, mode)
        found = prepared[key]
        arguments = found.arguments(case)
    except Exception as error:
        return Outcome(error=message(error))
    gradient_error = None
    finite = all(np.isfinite(x).all() for x in case.inputs.values() if x.dtype.kind == "f")
    if gradients and finite and found.wanted:
        try:
            outputs, grads = found.both(arguments)
            arrays = [to_numpy(y) for y in outputs]
            finite = all(np.isfinite(y).all() for y in arrays if y.dtype.kind == "f")
            named = dict(zip(found.wanted, map(to_numpy, grads), strict=True))
            return Outcome(None, arrays, named if finite else None, None, bool(found.weights))
        except Exception as error:
            gradient_error = message(error)
    try:
        arrays = [to_numpy(y) for y in found.forward(arguments)]
    except Exception as error:
        return Outcome(error=message(error))
    if not any(y.dtype.kind == "f" for y in arrays):
        gradient_error = None
    return Outcome(None, arrays, None, gradient_error, bool(found.weights))


class Prepared:
    """A case's layers, and programs of its outputs and gradients for all inputs of the same shapes."""

    def __init__(self, backend: Any, case: Case, mode: str):
        self.backend = backend
        with backends.without_tensorflow():
            made = case.make_layers()
        self.function = case.function(made)
        if made:
            _build(self.function, {name: backend.tensor(x) for name, x in case.inputs.items()})
            set_weights(made)
        self.weights = {f"{key}.{w.name}": w for key, layer in made.items() for w in layer.trainable_weights}
        self.names = list(case.inputs)
        self.wanted = [*(n for n, x in case.inputs.items() if x.dtype.kind == "f"), *self.weights]
        self.forward = self._program(self._outputs, mode)
        self.both = self._program(self._outputs_and_gradients, mode)

    def _program(self, function: Callable[..., Any], mode: str) -> Callable[..., Any]:
        return function if mode == "eager" else self.backend.program(function, mode)

    def arguments(self, case: Case) -> dict[str, Any]:
        """The inputs and the weights as tensors."""
        weights = {name: ops.copy(w.value) for name, w in self.weights.items()}
        return {**{name: self.backend.tensor(x) for name, x in case.inputs.items()}, **weights}

    def _outputs(self, given: dict[str, Any]) -> list[Any]:
        with keras.StatelessScope(state_mapping=[(w, given[name]) for name, w in self.weights.items()]):
            return ops_list(self.function({name: given[name] for name in self.names}))

    def _outputs_and_gradients(self, given: dict[str, Any]) -> tuple[list[Any], list[Any]]:
        """Gradients of the outputs' sum, each element times a cosine: that of a softmax is constant."""

        def total(tensors: list[Any]) -> tuple[Any, Any]:
            outputs = self._outputs({**given, **dict(zip(self.wanted, tensors, strict=True))})
            value = sum(0 * ops.sum(x) for x in tensors)  # so that the value depends on all of them
            dtype = keras.backend.standardize_dtype(tensors[0].dtype)
            for y in outputs:
                if keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
                    value = value + ops.sum(ops.cast(y * cosines(y), dtype))
            return value, outputs

        _, outputs, found = self.backend.value_and_gradients(total, [given[name] for name in self.wanted])
        return outputs, found


def _build(function: Callable[..., Any], tensors: dict[str, Any]) -> None:
    """Build the layers, by a symbolic call where they have one: JAX compiles each operation of another."""
    dtype = keras.backend.standardize_dtype
    try:
        function({name: keras.KerasTensor(x.shape, dtype(x.dtype)) for name, x in tensors.items()})
    except Exception:
        function(tensors)


def ops_list(y: Any) -> list[Any]:
    """The tensors of a structure; complex ones as two."""
    flat = []
    for tensor in keras.tree.flatten(y):
        dtype = keras.backend.standardize_dtype(getattr(tensor, "dtype", type(tensor).__name__))
        flat += [ops.real(tensor), ops.imag(tensor)] if dtype.startswith("complex") else [tensor]
    return flat


def to_numpy(tensor: Any) -> Array:
    """A copy as an array; bfloat16 as float32."""
    array = np.array(ops.convert_to_numpy(tensor))
    return array.astype(np.float32) if array.dtype.kind == "V" or array.dtype.name == "bfloat16" else array


def message(error: Exception) -> str:
    """The type and the first line of an error that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered")] or lines
    return f"{type(error).__name__}: {lines[0][:200] if lines else ''}"


if __name__ == "__main__":
    serve(Service)
