"""What any backend of Keras computes of cases: `python -m zoo.hunt.any_backend FOLDER`.

`zoo.hunt.conformance` starts one for each backend, which may be one that the zoo does not support: it has no
gradients then. The arrays of case N are in FOLDER/N.npz: "outputs/0", "outputs/1" ..., and "gradients/x" for
each input x of floats.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from zoo import _lazy, backends
from zoo._lazy import keras, ops
from zoo.hunt.cases import Case, cases, cosines, set_weights
from zoo.ladder.probe import use_float64
from zoo.processes.workers import Answer, serve
from zoo.storage import reason

Array = np.ndarray
Tensors = Mapping[str, Any]


class Service:
    """Serves `zoo.hunt.conformance`."""

    def __init__(self, folder: Path, answer: Answer):
        warnings.simplefilter("ignore")
        self.folder, self.answer = folder, answer
        self.cases: list[Case] = []
        self.dtype, self.differentiates = "", False
        if os.environ["KERAS_BACKEND"] not in backends.NAMES:
            _lazy.use_any_backend()

    def start(self, *, dtype: str, only: str | None, gradients: bool) -> None:
        """Compute in this float type. Answers whether the backend has float64."""
        self.dtype, self.differentiates = dtype, gradients
        if dtype == "float64":
            use_float64()
        self.cases = list(cases(only))
        self.answer(last=True, float64=dtype == "float64" and self.has_float64())

    def has_float64(self) -> bool:
        """Whether 1 + 2^-40 is more than 1, as it is not in float32."""
        try:
            total = ops.add(*(self.tensor(np.array([x])) for x in (1.0, 2.0**-40)))
            return bool(ops.convert_to_numpy(total)[0] > 1)
        except Exception:  # whatever a backend raises
            return False

    def compute(self, *, numbers: list[int]) -> None:
        """Compute these cases, with an answer for each: the errors of outputs and gradients, or None."""
        for number in numbers:
            case, arrays = self.cases[number], dict[str, Array]()
            keras.backend.clear_session()
            errors = {"outputs": self.tried(self.outputs, case, arrays)}
            if self.differentiates and any(y.dtype.kind == "f" for y in arrays.values()):
                errors["gradients"] = self.tried(self.gradients, case, arrays)
            np.savez(self.folder / f"{number}.npz", allow_pickle=False, **arrays)  # type: ignore[arg-type]
            self.answer(errors=errors)
        self.answer(last=True)

    def tried(
        self, compute: Callable[[Case], Mapping[str, Array]], case: Case, arrays: dict[str, Array]
    ) -> str | None:
        """Add what this computes to the arrays; its error, if there is one."""
        try:
            arrays.update(compute(case))
        except Exception as error:  # whatever a backend raises
            return f"{type(error).__name__}: {reason(error)}"
        return None

    def outputs(self, case: Case) -> dict[str, Array]:
        """The outputs of a case."""
        found = keras.tree.flatten(self.function(case)(self.tensors(case)))
        return {f"outputs/{i}": plain(y) for i, y in enumerate(found)}

    def gradients(self, case: Case) -> dict[str, Array]:
        """Of the sum of all outputs, each number times a cosine, with respect to each input of floats."""
        function, tensors, backend = self.function(case), self.tensors(case), backends.current()

        def gradient(name: str) -> Array:
            return plain(
                backend.input_gradient(lambda x: total(function({**tensors, name: x})), tensors[name])
            )

        floats = [name for name, x in case.inputs.items() if x.dtype.kind == "f" and x.size]
        return {f"gradients/{name}": gradient(name) for name in floats}

    def function(self, case: Case) -> Callable[[Tensors], Any]:
        """The case with layers of its own, which have been built."""
        layers = case.make_layers()
        function = case.function(layers)
        if layers:
            function(self.tensors(case))
            set_weights(layers)
        return function

    def tensors(self, case: Case) -> Tensors:
        """The inputs of a case."""
        return {name: self.tensor(x) for name, x in case.inputs.items()}

    def tensor(self, x: Array) -> Any:
        """An array on this backend: float64 becomes the float type of the run."""
        return ops.convert_to_tensor(x, self.dtype if x.dtype == np.float64 else x.dtype.name)


def total(outputs: Any) -> Any:
    """The sum of outputs of floats, each number times a cosine: the plain sum of a softmax is constant."""
    found = []
    for y in keras.tree.flatten(outputs):
        if keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
            found.append(ops.sum(y * cosines(y)))
    return sum(found)


def plain(tensor: Any) -> Array:
    """An array that NumPy saves: bfloat16 as float32, real and imaginary parts in a new axis."""
    x = np.asarray(ops.convert_to_numpy(tensor))
    if x.dtype.kind == "c":
        return np.stack([np.real(x), np.imag(x)])
    return x if x.dtype.kind in "fiub" else x.astype(np.float32)


if __name__ == "__main__":
    serve(Service)
