"""A case: a few lines of Keras with arrays as inputs, which every backend should compute alike.

`cases()` yields those of the catalogue. `Case.function()` is a function of tensors by name that runs on the
backend of this process.
"""

from __future__ import annotations

import itertools
import linecache
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zoo import random
from zoo._lazy import keras, ops
from zoo.hunt.catalogue import CATALOGUE

Array = np.ndarray

# What is put into a row's inputs of floats, in the order in which they are tried.
VALUES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "normal": lambda draw, shape: draw.standard_normal(shape),
    "ties": lambda draw, shape: draw.integers(-1, 2, size=shape).astype(np.float64),
    "zeros": lambda draw, shape: np.zeros(shape),
    "ones": lambda draw, shape: np.ones(shape),
    "nonfinite": lambda draw, shape: _with_nonfinite(draw, shape),
    "empty": lambda draw, shape: np.zeros(shape),
    "large": lambda draw, shape: 1e160 * draw.standard_normal(shape),
    "small": lambda draw, shape: 1e-160 * draw.standard_normal(shape),
}
# Inputs of a kind that an operation needs; only "normal" and "empty" are tried of them.
KINDS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], Array]] = {
    "positive": lambda draw, shape: draw.uniform(0.1, 1, shape),
    "unit": lambda draw, shape: draw.uniform(-0.9, 0.9, shape),
    "definite": lambda draw, shape: _definite(draw, shape),
    "sorted": lambda draw, shape: np.sort(draw.standard_normal(shape)),
    "probabilities": lambda draw, shape: draw.dirichlet(np.ones(shape[-1]), shape[:-1]),
    "thousands": lambda draw, shape: draw.uniform(1e3, 4e3, shape).astype(np.float16),
    "bool": lambda draw, shape: draw.integers(2, size=shape).astype(bool),
}


def _with_nonfinite(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x = draw.standard_normal(shape)
    x.flat[::3] = np.resize([np.nan, np.inf, -np.inf], x.flat[::3].size)
    return x


def _definite(draw: np.random.Generator, shape: tuple[int, ...]) -> Array:
    x = draw.standard_normal(shape)
    return x @ np.swapaxes(x, -1, -2) + np.eye(shape[-1])


@dataclass(frozen=True)
class Case:
    """Lines of Python that compute `y` from the inputs, with `keras`, `ops`, `layers` and `np`.

    `layers` maps a name in the lines to the expression that makes the layer. `operation` and `group` are what
    findings are sorted by: "ops.cumprod", "reductions".
    """

    name: str
    group: str
    operation: str
    lines: tuple[str, ...]
    inputs: Mapping[str, Array] = field(default_factory=dict)
    layers: Mapping[str, str] = field(default_factory=dict)

    def make_layers(self) -> dict[str, Any]:
        """New layers; `set_weights` gives them their weights once they have been called."""
        names = _names()
        return {name: eval(text, names) for name, text in self.layers.items()}

    def function(self, made: Mapping[str, Any]) -> Callable[[Mapping[str, Any]], Any]:
        """`{name: tensor} -> y`, with these layers."""
        body = "\n    ".join(self.lines)
        text = f"def case({', '.join(self.inputs)}):\n    {body}\n    return y\n"
        file = f"<case {self.name}>"
        linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
        names = {**_names(), **made}
        exec(compile(text, file, "exec"), names)
        case = names["case"]
        return lambda tensors: case(**tensors)

    def with_inputs(self, inputs: Mapping[str, Array]) -> Case:
        """The same lines with other inputs."""
        return replace(self, inputs=dict(inputs))


@dataclass
class Outcome:
    """What a backend computed in a mode: an error, or outputs and gradients, which may have an error."""

    error: str | None = None
    outputs: list[Array] = field(default_factory=list)
    gradients: dict[str, Array] | None = None
    gradient_error: str | None = None
    weights: bool = False


def set_weights(layers: Mapping[str, Any]) -> None:
    """Give the trainable weights of layers that are built the values cos(0), cos(1), ..."""
    for layer in layers.values():
        for weight in layer.trainable_weights:
            size = int(np.prod(weight.shape))
            weight.assign(np.cos(np.arange(size)).reshape(weight.shape))


def _names() -> dict[str, Any]:
    return {"keras": keras, "ops": ops, "layers": keras.layers, "np": np}


def cases(only: str | None = None) -> Iterator[Case]:
    """The cases of the catalogue, row by row.

    `only`: those with this text in the name of the group or the operation.
    """
    seen: set[str] = set()  # rows of two groups may meet
    for group, table in CATALOGUE.items():
        lines = [line for row in table.splitlines() if row.strip() for line in _expanded(row.strip())]
        for line, values in itertools.product(dict.fromkeys(lines), VALUES):
            found = None if line in seen else _case(group, line, values)
            if found is not None and (only is None or only in f"{group} {found.operation}".lower()):
                yield found
        seen.update(lines)


def _expanded(row: str) -> Iterator[str]:
    """A row with "{a|b}" is two rows."""
    parts = re.split(r"\{([^{}]*\|[^{}]*)\}", row)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    for chosen in itertools.product(*choices):
        yield "".join(chosen)


def _case(group: str, line: str, values: str) -> Case | None:
    """The case of a row of the catalogue with these values; None if the row has nothing to put them in."""
    code, _, specs = line.partition(" ; ")
    code, _, call = (part.strip() for part in code.partition(" | "))
    found = re.match(r"(?:ops|layers|keras)(?:\.\w+)+", code)
    assert found, line
    named = dict(spec.split("=", 1) for spec in specs.split())
    inputs = _inputs(named, values, random.generator(0, "hunt", line, values))
    if inputs is None:
        return None
    made = {"layer": code} if found[0].startswith("layers.") else {}
    if made:
        code = call or (f"layer({next(iter(named))})" if len(named) == 1 else f"layer([{', '.join(named)}])")
    name = f"{line} ({values})"
    return Case(name, group, found[0], (f"y = {code}",), inputs, made)


def _inputs(named: Mapping[str, str], values: str, draw: np.random.Generator) -> dict[str, Array] | None:
    """The arrays of "x=2,3 i=int5:3 w=positive:4 s=[1,2]"; None if these values were in another case."""
    inputs: dict[str, Array] = {}
    varied = False
    leading: int | None = None
    for name, spec in named.items():
        if spec.startswith(("[", "(")):
            inputs[name] = np.array(eval(spec, {"nan": np.nan, "inf": np.inf}))
            continue
        kind, _, sizes = spec.rpartition(":")
        shape = tuple(int(n) for n in sizes.split(",") if n)
        leading = shape[0] if shape and leading is None else leading
        if values == "empty" and shape and shape[0] == leading:
            shape, varied = (0, *shape[1:]), True
        if kind in ("", "float"):
            inputs[name] = VALUES[values](draw, shape)
            varied |= values != "empty"
        elif kind.startswith("int"):
            inputs[name] = draw.integers(int(kind[3:]), size=shape)
        else:
            inputs[name] = KINDS[kind](draw, shape) if 0 not in shape else np.zeros(shape)
    return inputs if varied or values == "normal" else None


def cosines(tensor: Any) -> Any:
    """cos(0), cos(1), ... in the shape and type of a tensor."""
    shape = tuple(tensor.shape)
    array = np.cos(np.arange(int(np.prod(shape)))).reshape(shape)
    return ops.cast(ops.convert_to_tensor(array), tensor.dtype)
