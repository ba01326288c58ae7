"""A `tf.Module`, run eagerly and recorded by TensorFlow's operations.

Every function of TensorFlow ends in `pywrap_tfe.TFE_Py_FastPathExecute` or `TFE_Py_Execute`, which are
wrapped while the module runs; its own `tf.function`s run eagerly then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from inspect import signature
from typing import Any
from unittest import mock

import numpy as np
import tensorflow as tf
from tensorflow.python import pywrap_tfe
from tensorflow.python.framework import op_def_registry
from zoo.backends.recording import Array, Recorder, View, kind_of, padding_of

from zoo.errors import WrongConfiguration

MOVES = {"Reshape", "Transpose", "ExpandDims", "Squeeze", "Slice", "StridedSlice", "Split", "SplitV",
         "Unpack", "BroadcastTo", "Tile", "Identity", "ReverseV2", "GatherV2"}  # fmt: skip
FENCED = ("gelu", "silu", "swish", "leaky_relu", "elu", "relu6", "softmax", "log_softmax",
          "batch_normalization")  # fmt: skip
PRODUCTS = {"MatMul": "transpose_b", "BatchMatMulV2": "adj_y"}
RATES = ("epsilon", "variance_epsilon", "alpha", "approximate", "axis")


def load(built: tf.Module, inputs: Any) -> TensorFlowModel:
    """The module in float64, called once so that its variables exist."""
    model = TensorFlowModel(built)
    model.call(model.arguments(inputs))
    model.widen()
    return model


class TensorFlowModel:
    """See `zoo.backends.recording.Model`. A weight's name is the path of its attribute: "layers/0/w"."""

    kind, trains = "tf.Module", False  # an argument of the module's own says it

    def __init__(self, module: Any):
        tf.config.run_functions_eagerly(True)
        self.module = module
        self.widen()

    def paths(self) -> dict[tuple[Any, ...], tf.Variable]:
        """The variables of real numbers, each once, by the attributes and keys that lead to it."""
        is_variable = lambda x: isinstance(x, tf.Variable)  # noqa: E731
        found = self.module._flatten(predicate=is_variable, with_path=True)
        return {path: v for path, v in found if v.dtype.is_floating}

    def widen(self) -> None:
        """Replace the variables by others in float64. Raises WrongConfiguration where one cannot be."""
        wide: dict[int, tf.Variable] = {}
        kept = []  # an id is another object's once its own has gone
        while narrow := {path: v for path, v in self.paths().items() if v.dtype != tf.float64}:
            for path, old in narrow.items():  # a variable of several attributes has one path at a time
                kept.append(old)
                if id(old) not in wide:
                    wide[id(old)] = tf.Variable(tf.cast(old, tf.float64), trainable=old.trainable)
                _assign(self.module, path, wide[id(old)])

    def stored(self) -> dict[str, tf.Variable]:
        """The variables by name."""
        return {"/".join(map(str, path)): v for path, v in self.paths().items()}

    def weights(self) -> dict[str, Array]:
        return {name: v.numpy() for name, v in self.stored().items()}

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        stored = self.stored()
        for name, array in weights.items():
            stored[name].assign(array)

    def arguments(self, inputs: Any) -> Any:
        """Arrays as tensors: positional, or named."""
        if isinstance(inputs, Mapping):
            return {name: tf.convert_to_tensor(x) for name, x in inputs.items()}
        return [tf.convert_to_tensor(x) for x in inputs]

    def call(self, given: Any) -> list[tf.Tensor]:
        """The outputs of real numbers."""
        result = self.module(**given) if isinstance(given, Mapping) else self.module(*given)
        return [y for y in tf.nest.flatten(result) if tf.is_tensor(y) and y.dtype.is_floating]

    def run(
        self, inputs: Any, replacements: Mapping[str, Array] | None = None
    ) -> tuple[list[Array], Recorder]:
        recorder = Recorder(_numpy, lambda array, like: tf.constant(array, like.dtype), replacements)
        given = self.arguments(inputs)
        for number, x in enumerate(tf.nest.flatten(given)):
            recorder.input(number, x)
        with _Hooks(self.stored(), recorder).recording():
            outputs = self.call(given)
        return [y.numpy() for y in outputs], recorder

    def gradients(
        self, inputs: Any, targets: Sequence[Array], training: bool
    ) -> tuple[float, dict[str, Array]]:
        assert not training
        trained = {name: v for name, v in self.stored().items() if v.trainable}
        with tf.GradientTape() as tape:
            pairs = zip(self.call(self.arguments(inputs)), targets, strict=False)
            loss = tf.add_n([tf.reduce_sum((y - tf.reshape(t, y.shape)) ** 2) / 2 for y, t in pairs])
        found = tape.gradient(loss, trained, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return float(loss), {name: tf.convert_to_tensor(g).numpy() for name, g in found.items()}

    def train(self, inputs: Any) -> dict[str, Array]:
        del inputs
        return {}


def _assign(module: Any, path: Sequence[Any], value: tf.Variable) -> None:
    owner = module
    for step in path[:-1]:
        owner = getattr(owner, step) if isinstance(owner, tf.Module) else owner[step]
    try:
        if isinstance(owner, tf.Module):
            setattr(owner, path[-1], value)
        else:
            owner[path[-1]] = value
    except (TypeError, AttributeError):
        name = "/".join(map(str, path))
        raise WrongConfiguration(
            f"{name}: a variable in a {type(owner).__name__}; expected an attribute, or an element of a "
            "list or a dict, which can be replaced by a variable in float64"
        ) from None


class _Hooks:
    def __init__(self, stored: Mapping[str, tf.Variable], recorder: Recorder):
        self.recorder = recorder
        self.inside = False  # a function that is recorded as one
        self.views: dict[int, View] = {}
        for name, v in stored.items():
            self.views[id(v)] = self.views[id(v.handle)] = View.whole(name, v.numpy().shape)
            recorder.alive.append(v.handle)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within, what TensorFlow executes goes to the recorder."""
        with ExitStack() as stack:
            for name, around in (("TFE_Py_FastPathExecute", self.fast), ("TFE_Py_Execute", self.slow)):
                original = getattr(pywrap_tfe, name)
                stack.enter_context(mock.patch.object(pywrap_tfe, name, around(original)))
            for name in FENCED:
                if (function := getattr(tf.nn, name, None)) is not None:
                    stack.enter_context(mock.patch.object(tf.nn, name, self.fence(name, function)))
            yield

    def fast(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        """Of (context, operation, name, inputs ..., attributes ...)."""

        def call(context: Any, operation: str, name: Any, *rest: Any) -> Any:
            definition: Any = op_def_registry.get(operation)
            count = len(definition.input_arg)
            given, tail = list(rest[:count]), rest[count:]
            attributes = dict(zip(tail[::2], tail[1::2], strict=True))
            run = lambda inputs: execute(context, operation, name, *inputs, *tail)  # noqa: E731
            return self.operation(operation, given, attributes, run)

        return call

    def slow(self, execute: Callable[..., Any]) -> Callable[..., Any]:
        """Of (context, device, operation, inputs, attributes, number of outputs)."""

        def call(context: Any, device: Any, operation: Any, given: Any, attributes: Any, count: Any) -> Any:
            text = operation.decode() if isinstance(operation, bytes) else operation
            named = dict(zip(attributes[::2], attributes[1::2], strict=True))
            run = lambda inputs: execute(context, device, operation, inputs, attributes, count)  # noqa: E731
            return self.operation(text, list(given), named, run)

        return call

    def fence(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A function that is recorded as one operation."""

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.inside:
                return function(*args, **kwargs)
            self.inside = True
            try:
                y = function(*args, **kwargs)
            finally:
                self.inside = False
            named = dict(zip(signature(function).parameters, args, strict=False)) | kwargs
            roles = {"scale": "scale", "offset": "shift", "mean": "mean", "variance": "variance"}
            weights = {roles.get(k, k): self.views[id(v)] for k, v in named.items() if id(v) in self.views}
            facts = {k.removeprefix("variance_"): v for k, v in named.items() if k in RATES}
            return self.record(name, list(named.values()), [y], facts, weights)[0]

        return call

    def operation(self, operation: str, given: list[Any], attributes: Mapping[str, Any], run: Any) -> Any:
        """Execute an operation, and record it."""
        if operation == "ReadVariableOp":
            y = run(given)
            if view := self.views.get(id(given[0])):
                self.see(y, view)
            return y
        given = [self.read(x) for x in given]
        result = run(given)
        tensors = [x for x in tf.nest.flatten(given) if tf.is_tensor(x)]
        views = [x for x in tensors if id(x) in self.views]
        known = bool(views) or any(self.recorder.source(x) for x in tensors)
        if self.inside or not known:
            return result
        several = isinstance(result, list)
        outputs = result if several else [result]
        if not outputs or outputs[0].dtype.is_integer:
            return result
        if operation in MOVES and len(views) == 1 and views[0] is self.first(operation, given):
            return self.moved(given, views[0], result, run)
        facts, weights = self.described(operation, given, attributes)
        new = self.record(operation, tensors, outputs, facts, weights)
        return new if several else new[0]

    def first(self, operation: str, given: Sequence[Any]) -> Any:
        """The tensor that a move is of."""
        return given[1] if operation == "Split" else given[0]

    def read(self, x: Any) -> Any:
        """An input: of a variable its value."""
        if isinstance(x, list):
            return [self.read(each) for each in x]
        return x.read_value() if isinstance(x, tf.Variable) else x

    def see(self, y: Any, view: View) -> None:
        self.views[id(y)] = view
        self.recorder.alive.append(y)

    def moved(self, given: list[Any], weight: Any, result: Any, run: Any) -> Any:
        """A weight rearranged: the same operation on its indices gives the indices of the result."""
        view = self.views[id(weight)]
        indices = tf.constant(view.indices)
        new = run([indices if x is weight else x for x in given])
        for y, moved in zip(tf.nest.flatten(result), tf.nest.flatten(new), strict=True):
            self.see(y, View(view.name, moved.numpy()))
        return result

    def described(
        self, operation: str, given: list[Any], attributes: Mapping[str, Any]
    ) -> tuple[dict[str, Any], dict[str, View]]:
        """The attributes and the weights of an operation, kernels as (out, in, sizes ...)."""
        views = {i: self.views[id(x)] for i, x in enumerate(given) if id(x) in self.views}
        if operation in ("Conv2D", "DepthwiseConv2dNative") and 1 in views:
            return _conv_attributes(operation, given, attributes), {
                "kernel": views[1].map(_depthwise if operation.startswith("D") else _out_first)
            }
        if operation in PRODUCTS and list(views) == [1] and views[1].indices.ndim == 2:
            turned = attributes.get(PRODUCTS[operation], False)
            return {"kind": "dense"}, {"kernel": views[1] if turned else views[1].map(np.transpose)}
        if operation in ("GatherV2", "ResourceGather") and 0 in views:
            return {"kind": "embedding"}, {"kernel": views[0]}
        if operation == "Einsum" and not views:
            found = [self.views[id(x)] for x in given[0] if id(x) in self.views]
            if len(found) == 1 and id(given[0][1]) in self.views:
                return {"kind": "dense"}, {"kernel": found[0].map(_rows(attributes["equation"]))}
        flat = [self.views[id(x)] for x in tf.nest.flatten(given) if id(x) in self.views]
        return {}, {f"weight{i or ''}": view for i, view in enumerate(flat)}

    def record(
        self,
        operation: str,
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        facts: dict[str, Any],
        weights: Mapping[str, View],
    ) -> list[Any]:
        kind = facts.pop("kind", None) or ("move" if operation in MOVES else kind_of(operation))
        kind = "cast" if operation == "Cast" else kind
        data = [x for x in inputs if tf.is_tensor(x) and id(x) not in self.views and self.recorder.source(x)]
        where = next((view.name.rpartition("/")[0] for view in weights.values()), "")
        return self.recorder.add(
            operation, where, data, outputs, kind=kind, attributes=facts, weights=dict(weights)
        )


def _out_first(indices: Array) -> Array:
    return np.moveaxis(indices, (-1, -2), (0, 1))


def _depthwise(indices: Array) -> Array:
    *sizes, channels, factor = indices.shape
    return np.moveaxis(indices, (-2, -1), (0, 1)).reshape(channels * factor, 1, *sizes)


def _rows(equation: Any) -> Callable[[Array], Array]:
    """A matrix of an einsum, the second operand, as (out, in)."""
    text = equation.decode() if isinstance(equation, bytes) else equation
    left, output = text.replace(" ", "").split("->")
    data, matrix = left.split(",")
    rows = [a for a in output if a in matrix and a not in data]
    order = [matrix.index(a) for a in (*rows, *(a for a in data if a in matrix and a not in output))]

    def rearranged(indices: Array) -> Array:
        count = int(np.prod([indices.shape[matrix.index(a)] for a in rows]))
        return indices.transpose(order).reshape(count, -1)

    return rearranged if len(order) == len(matrix) else lambda indices: indices


def _conv_attributes(operation: str, given: list[Any], attributes: Mapping[str, Any]) -> dict[str, Any]:
    plain = {k: v.decode() if isinstance(v, bytes) else v for k, v in attributes.items()}
    x, kernel = given[0], given[1]
    first = plain.get("data_format") == "NCHW"
    rows = slice(2, 4) if first else slice(1, 3)
    stride, dilation = (list(plain.get(n) or (1, 1, 1, 1))[rows] for n in ("strides", "dilations"))
    explicit = list(plain.get("explicit_paddings") or [0] * 8)
    if plain["padding"] == "EXPLICIT":
        padding = [explicit[2 * i : 2 * i + 2] for i in range(rows.start, rows.stop)]
    else:
        padding = padding_of(plain["padding"], x.shape[rows], stride, dilation, kernel.shape[:2])
    channels = int(x.shape[1 if first else -1])
    groups = channels if operation.startswith("D") else channels // int(kernel.shape[2])
    return {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
        "channels": 1 if first else -1,
    }  # fmt: skip


def _numpy(value: Any) -> Array:
    return np.array(value)
