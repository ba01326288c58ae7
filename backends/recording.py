"""The operations of a forward pass, recorded one by one, whatever framework a model is written in.

A recorder of a framework (`record_torch`, `record_tensorflow`, `record_jax`, `record_keras`) runs a model
eagerly and calls `Recorder.add` after each operation. The model continues with what it returns: with
replacements given, the same pass is run again with other values in chosen operations.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import numpy as np

from zoo.errors import WrongConfiguration

Array = np.ndarray

# The kinds by which the operations of two frameworks are matched, and their names in the frameworks.
NAMES = {
    "conv": "conv1d conv2d conv3d convolution depthwiseconv1d depthwiseconv2d conv_general_dilated "
    "depthwiseconv2dnative",
    "dense": "linear einsumdense lineargeneral densegeneral",
    "product": "einsum matmul bmm dot_general dot batchmatmulv2",
    "batch_norm": "batchnorm batchnormalization batch_normalization",
    "layer_norm": "layernorm layernormalization",
    "rms_norm": "rmsnorm rmsnormalization",
    "group_norm": "groupnorm groupnormalization",
    "embedding": "embed",
    "attention": "scaled_dot_product_attention dot_product_attention",
    "clip": "hardtanh clamp",
    "hard_silu": "hardswish",
    "silu": "swish",
    "sigmoid": "logistic",
    "exp": "exponential",
    "add": "iadd radd addv2 biasadd",
    "mul": "imul rmul multiply",
    "average_pool": "avgpool adaptive_avg_pool2d globalaveragepooling2d avg_pool2d averagepooling2d",
    "max_pool": "maxpool max_pool2d maxpooling2d",
    "pad": "zeropadding2d constant_pad_nd padv2",
    "cat": "concat concatenate concatv2",
    "dropout": "dropout1d dropout2d spatialdropout2d feature_dropout",
}
KINDS = {name: kind for kind, names in NAMES.items() for name in names.split()}


def kind_of(name: str) -> str:
    """The kind of an operation by its name in a framework: "relu_" and "ReLU" are "relu"."""
    plain = name.strip("_").lower()
    return KINDS.get(plain) or KINDS.get(plain.replace("_", "")) or plain


@dataclass
class Node:
    """An operation: `inputs` and `outputs` are the ids of values, `weights` maps a role to a stored name.

    `operation` is its name in the framework, `name` the module or layer in which it runs.
    """

    index: int
    name: str
    kind: str
    operation: str
    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, str] = field(default_factory=dict)


@dataclass
class View:
    """A stored weight as an operation uses it: `indices` has, for each element, its position in storage."""

    name: str
    indices: Array

    @classmethod
    def whole(cls, name: str, shape: Sequence[int]) -> View:
        """All of a weight, as it is stored."""
        return cls(name, np.arange(int(np.prod(shape, dtype=np.int64)), dtype=np.int32).reshape(shape))

    def map(self, function: Callable[[Array], Array]) -> View:
        """The same weight rearranged: `function` moves elements."""
        return View(self.name, function(self.indices))


def padding_of(
    kind: str, sizes: Sequence[Any], stride: Sequence[Any], dilation: Sequence[Any], kernel: Sequence[Any]
) -> list[list[int]]:
    """The zeros before and behind each axis of a convolution whose padding is "same" or "valid".

    As TensorFlow and JAX place them: of an odd number one more is behind. Case does not matter.
    """
    total = [
        max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) if kind.lower() == "same" else 0
        for n, s, d, k in zip(sizes, stride, dilation, kernel, strict=True)
    ]
    return [[t // 2, t - t // 2] for t in total]


def lstm_gates(weights: Mapping[str, View]) -> dict[str, View]:
    """An LSTM's weights, (4 units, in) or (4 units,), by gate: input, forget, cell, output."""
    return {
        f"{role}.{gate}": view.map(lambda x, n=number: np.split(x, 4)[n])
        for role, view in weights.items()
        for number, gate in enumerate("ifgo")
    }


class Recorder:
    """The operations of one pass, with the outputs they computed, before any replacement."""

    progress: Callable[[int], None] | None = None  # receives the number of operations after each

    def __init__(
        self,
        to_numpy: Callable[[Any], Array],
        from_numpy: Callable[[Array, Any], Any],
        replacements: Mapping[str, Array] | None = None,
    ):
        self.to_numpy, self.from_numpy = to_numpy, from_numpy
        self.replacements = replacements or {}
        self.nodes: list[Node] = []
        self.values: dict[str, Array] = {}
        self.indices: dict[str, Array] = {}  # "NODE/ROLE" -> the indices of a `View`
        self.sources: dict[int, str] = {}
        self.alive: list[Any] = []  # an id is another object's once its own has gone

    def input(self, number: int, value: Any) -> None:
        """An input of the model."""
        array = self.to_numpy(value)
        if array.dtype.kind == "f":
            self.values[f"input{number}"] = array
        self.sources[id(value)] = f"input{number}"
        self.alive.append(value)

    def source(self, value: Any) -> str | None:
        """The id of a value, if an operation made it or it is an input."""
        return self.sources.get(id(value))

    def add(
        self,
        operation: str,
        name: str,
        inputs: Iterable[Any],
        outputs: Sequence[Any],
        *,
        kind: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, View] | None = None,
    ) -> list[Any]:
        """Record an operation, and return its outputs, or their replacements."""
        index, weights = len(self.nodes), weights or {}
        if (progress := type(self).progress) is not None:
            progress(index)
        known = [self.source(x) or "" for x in inputs]
        node = Node(
            index, name, kind or kind_of(operation), operation, known,
            [f"{index}.{i}" for i in range(len(outputs))], dict(attributes or {}),
            {role: view.name for role, view in weights.items()},
        )  # fmt: skip
        self.nodes.append(node)
        for role, view in weights.items():
            self.indices[f"{index}/{role}"] = view.indices
        results = []
        for label, value in zip(node.outputs, outputs, strict=True):
            result, array = value, self.to_numpy(value)
            if array.dtype.kind == "f":
                self.values[label] = array
            if label in self.replacements:
                result = self.from_numpy(self.replacements[label], value)
            self.sources[id(result)] = label
            self.alive += [result, value]
            results.append(result)
        return results

    def facts(self) -> list[dict[str, Any]]:
        """The nodes as JSON."""
        return [asdict(node) for node in self.nodes]


class Model(Protocol):
    """A model of any framework, as two of them are compared: all arrays are NumPy's.

    Names of weights are those of the framework's own files.
    """

    kind: str
    trains: bool  # whether it has a training mode that can be set from outside

    def weights(self) -> dict[str, Array]:
        """Every stored array by name, running statistics included."""
        ...

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        """Replace these weights."""
        ...

    def run(
        self, inputs: Any, replacements: Mapping[str, Array] | None = None
    ) -> tuple[list[Array], Recorder]:
        """The outputs in inference mode, and the operations."""
        ...

    def gradients(
        self, inputs: Any, targets: Sequence[Array], training: bool
    ) -> tuple[float, dict[str, Array]]:
        """Half the squared distance of the outputs from targets, and its gradients by weight; no dropout."""
        ...

    def train(self, inputs: Any) -> dict[str, Array]:
        """The weights that a forward pass in training mode changes, dropout left out; it is not kept."""
        ...


# The package that a class of the model comes from -> the module here that records it.
RECORDERS = {
    r"torch\.nn\.modules\.module": "record_torch",
    r"keras\.": "record_keras",
    r"flax\.nnx\.": "record_jax",
    r"flax\.linen\.": "record_jax",
    r"tensorflow\.python\.module\.module": "record_tensorflow",
}


def recorder_of(built: Any) -> str | None:
    """The module that records what a builder returned; None if it is no model."""
    if isinstance(built, tuple) and len(built) == 2 and callable(built[0]) and isinstance(built[1], Mapping):
        return "record_jax"
    module = built[0] if isinstance(built, tuple) and len(built) == 2 else built
    for base in inspect.getmro(type(module)):
        for pattern, recorder in RECORDERS.items():
            if re.match(pattern, base.__module__ + "."):
                return recorder
    return None


def model_of(built: Any, inputs: Any) -> Model:
    """What a builder returned as a `Model`. Raises WrongConfiguration for what is none."""
    module = recorder_of(built)
    if module is None:
        raise WrongConfiguration(
            f"the builder returned a {type(built).__name__}; expected a torch.nn.Module, a Keras model, a "
            "tf.Module, a Flax NNX module, (Linen module, its variables), or (function, dict of its weights)"
        )
    return importlib.import_module(f"zoo.backends.{module}").load(built, inputs)
