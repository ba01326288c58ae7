"""A Keras model on any backend, recorded by its calls of layers, operations and functions of `keras.ops`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import keras
import numpy as np
from zoo.backends.recording import Array, Recorder, View, kind_of, lstm_gates, padding_of

from zoo import backends

ROLES = {
    "gamma": "scale",
    "beta": "shift",
    "moving_mean": "mean",
    "moving_variance": "variance",
    "table": "kernel",
    "embeddings": "kernel",
    "depthwise_kernel": "kernel",
}
LEAVES = {"attention"}
MOVES = {
    "reshape", "transpose", "expanddims", "expand_dims", "squeeze", "getitem", "permute", "flatten",
    "repeatvector", "moveaxis", "swapaxes", "split", "unstack", "identity", "broadcast_to", "broadcastto",
}  # fmt: skip
NOT_RECORDED = {
    "shape",
    "convert_to_tensor",
    "convert_to_numpy",
    "is_tensor",
    "ndim",
    "size",
    "custom_gradient",
}


def load(built: keras.Model, inputs: Any) -> KerasModel:
    """The model, called once so that its weights exist."""
    model = KerasModel(built)
    if not built.built:
        model.call(inputs)
    return model


class KerasModel:
    """See `zoo.backends.recording.Model`."""

    kind, trains = "Keras model", True

    def __init__(self, model: keras.Model):
        self.model = model

    def stored(self) -> dict[str, Any]:
        """Variables of numbers by path; the states of seed generators are none."""
        return {v.path: v for v in self.model.variables if keras.backend.is_float_dtype(v.dtype)}

    def weights(self) -> dict[str, Array]:
        return {path: _numpy(v) for path, v in self.stored().items()}

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        stored = self.stored()
        for path, array in weights.items():
            stored[path].assign(array)

    def arguments(self, inputs: Any) -> Any:
        """Arrays as the model takes them: one, a list, or by name."""
        if isinstance(inputs, Mapping):
            return {name: _tensor(x) for name, x in inputs.items()}
        tensors = [_tensor(x) for x in inputs]
        return tensors[0] if len(tensors) == 1 else tensors

    def call(self, inputs: Any) -> Any:
        """The outputs in inference mode."""
        return self.model(self.arguments(inputs), training=False)

    def run(
        self, inputs: Any, replacements: Mapping[str, Array] | None = None, *, training: bool = False
    ) -> tuple[list[Array], Recorder]:
        recorder = Recorder(
            _numpy, lambda array, like: keras.ops.convert_to_tensor(array, dtype=like.dtype), replacements
        )
        given = self.arguments(inputs)
        for number, x in enumerate(keras.tree.flatten(given)):
            recorder.input(number, x)
        with _Hooks(self.model, recorder).recording():
            result = self.model(given, training=training)
        return [_numpy(y) for y in keras.tree.flatten(result) if _is_float(y)], recorder

    def gradients(
        self, inputs: Any, targets: Sequence[Array], training: bool
    ) -> tuple[float, dict[str, Array]]:
        def distance(_: Any, outputs: Any) -> Any:
            found = [y for y in keras.tree.flatten(outputs) if _is_float(y)]
            pairs = zip(found, targets, strict=False)
            gaps: Any = [y - keras.ops.reshape(_tensor(t), y.shape) for y, t in pairs]
            squares: Any = [keras.ops.sum(keras.ops.square(gap)) for gap in gaps]
            return sum(squares) / 2

        with _without_dropout(self.model):
            call = backends.current().gradients(_Mode(self.model, training), distance)  # type: ignore[arg-type]
            value, found, _ = call(self.arguments(inputs), _tensor(np.zeros(1)))
        names = [v.path for v in self.model.trainable_variables]
        return float(_numpy(value)), {n: _numpy(g) for n, g in zip(names, found, strict=True)}

    def train(self, inputs: Any) -> dict[str, Array]:
        before = self.weights()
        with _without_dropout(self.model):
            self.model(self.arguments(inputs), training=True)
        after = self.weights()
        self.set_weights(before)
        return {name: x for name, x in after.items() if not np.array_equal(x, before[name], equal_nan=True)}


class _Mode:
    """What `Backend.gradients` uses of a model, in training or in inference mode."""

    def __init__(self, model: keras.Model, training: bool):
        self.model, self.training = model, training
        self.trainable_variables = model.trainable_variables
        self.non_trainable_variables = model.non_trainable_variables
        self.variables, self.name = model.variables, model.name

    @property
    def losses(self) -> list[Any]:
        return self.model.losses

    def call(self, x: Any, training: bool) -> Any:
        del training
        return self.model.call(x, training=self.training)

    def stateless_call(self, weights: Any, state: Any, x: Any, training: bool, return_losses: bool) -> Any:
        del training
        forward: Any = self.model.stateless_call
        return forward(weights, state, x, training=self.training, return_losses=return_losses)


@contextmanager
def _without_dropout(model: keras.Model) -> Iterator[None]:
    with ExitStack() as stack:
        for layer in model._flatten_layers():
            if "drop" in type(layer).__name__.lower():
                for name in ("rate", "dropout_rate", "drop_prob"):
                    if isinstance(getattr(layer, name, None), float):
                        stack.enter_context(mock.patch.object(layer, name, 0.0))
        yield


class _Hooks:
    def __init__(self, model: keras.Model, recorder: Recorder):
        self.model, self.recorder = model, recorder
        self.path: list[str] = []
        self.inside = False  # an operation that is recorded as one
        self.names = {id(v): v.path for v in model.variables}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within, what Keras calls goes to the recorder."""
        layer_call, operation_call = keras.layers.Layer.__call__, keras.Operation.__call__
        hooks = self

        def call_layer(layer: Any, *args: Any, **kwargs: Any) -> Any:
            return hooks.layer(layer, layer_call, args, kwargs)

        def call_operation(operation: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(operation, keras.layers.Layer) or hooks.inside:
                return operation_call(operation, *args, **kwargs)
            run = lambda: operation_call(operation, *args, **kwargs)  # noqa: E731
            return hooks.leaf(type(operation).__name__, operation.name, run, (args, kwargs))

        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(keras.layers.Layer, "__call__", call_layer))
            stack.enter_context(mock.patch.object(keras.Operation, "__call__", call_operation))
            for module in (keras.ops, import_module("keras.src.ops")):
                for name in dir(module):
                    function = getattr(module, name)
                    if not name.startswith("_") and name not in NOT_RECORDED and _is_function(function):
                        stack.enter_context(mock.patch.object(module, name, self.wrapped(name, function)))
            yield

    def wrapped(self, name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            known = any(self.recorder.source(x) for x in _flat((args, kwargs)))
            if self.inside or not known:
                return function(*args, **kwargs)
            return self.leaf(name, self.where(), lambda: function(*args, **kwargs), (args, kwargs))

        return call

    def where(self) -> str:
        return self.path[-1] if self.path else ""

    def layer(self, layer: Any, call: Any, args: Any, kwargs: Any) -> Any:
        own = [*layer._trainable_variables, *layer._non_trainable_variables]
        own = [v for v in own if keras.backend.is_float_dtype(v.dtype)]
        kind = kind_of(type(layer).__name__)
        recurrent = isinstance(layer, keras.layers.RNN)
        name = getattr(layer, "path", None) or layer.name
        if self.inside:
            return call(layer, *args, **kwargs)
        if own or recurrent or not layer._layers or kind in LEAVES:
            own = layer.weights if recurrent else own
            return self.leaf_layer(layer, name, own, lambda: call(layer, *args, **kwargs), (args, kwargs))
        self.path.append(name)
        try:
            result = call(layer, *args, **kwargs)
        finally:
            self.path.pop()
        unknown = [y for y in _flat(result) if _is_tensor(y) and self.recorder.source(y) is None]
        if unknown:  # what was computed by other means than Keras's
            self.recorder.add(type(layer).__name__, name, _tensors((args, kwargs)), unknown, kind="other")
        return result

    def leaf_layer(self, layer: Any, name: str, own: list[Any], run: Any, given: Any) -> Any:
        kind = kind_of(type(layer).__name__)
        if isinstance(getattr(layer, "cell", None), keras.layers.LSTMCell):
            kind = "lstm"
        activation = getattr(layer, "activation", None)
        if kind == "activation":
            kind = kind_of(getattr(activation, "__name__", "activation"))
        attributes = _attributes(layer, kind, _tensors(given))
        weights: dict[str, View] = {
            ROLES.get(str(v.name), str(v.name)): View.whole(self.names[id(v)], v.shape) for v in own
        }
        if kind == "embedding" and (given[1].get("reverse") or len(given[0]) > 1):
            kind = "dense"
        elif own and (kind in ("conv", "dense")):
            weights = _canonical(layer, kind, weights)
        elif kind == "lstm":  # the gates are in torch's order
            weights["recurrent"] = weights.pop("recurrent_kernel")
            weights |= {role: weights[role].map(np.transpose) for role in ("kernel", "recurrent")}
            weights = lstm_gates(weights)
        if kind in ("conv", "dense") and activation not in (None, keras.activations.linear):
            with mock.patch.object(layer, "activation", None):
                y = self.leaf(type(layer).__name__, name, run, given, kind, attributes, weights)
            function = getattr(activation, "__name__", type(activation).__name__)
            return self.leaf(function, name, lambda: activation(y), ((y,), {}))
        return self.leaf(type(layer).__name__, name, run, given, kind, attributes, weights)

    def leaf(
        self,
        operation: str,
        name: str,
        run: Any,
        given: Any,
        kind: str | None = None,
        attributes: Mapping[str, Any] | None = None,
        weights: Mapping[str, View] | None = None,
    ) -> Any:
        """Run one operation, and record it."""
        self.inside = True
        try:
            result = run()
        finally:
            self.inside = False
        flat = keras.tree.flatten(result)
        outputs = [y for y in flat if _is_tensor(y)]
        if not outputs:
            return result
        if kind is None:
            kind = "move" if operation.lower() in MOVES else kind_of(operation)
        kind = "move" if kind in MOVES else kind
        new = iter(
            self.recorder.add(
                operation, name, _tensors(given), outputs, kind=kind, attributes=attributes, weights=weights
            )
        )
        return keras.tree.pack_sequence_as(result, [next(new) if _is_tensor(y) else y for y in flat])


def _canonical(layer: Any, kind: str, weights: dict[str, View]) -> dict[str, View]:
    """A convolution's kernel as (out, in, sizes ...), a matrix as (out, in)."""
    kernel = weights["kernel"]
    equation = getattr(layer, "equation", None)
    if isinstance(equation, str):
        left, output = equation.split("->")
        data, matrix = left.split(",")
        rows = [a for a in output if a in matrix and a not in data]
        columns = [a for a in data if a in matrix and a not in output]
        order = [matrix.index(a) for a in (*rows, *columns)]
        count = math.prod(kernel.indices.shape[matrix.index(a)] for a in rows)
        weights["kernel"] = kernel.map(lambda i: i.transpose(order).reshape(count, -1))
        if "bias" in weights:
            weights["bias"] = weights["bias"].map(np.ravel)
    elif kind == "dense":
        weights["kernel"] = kernel.map(np.transpose)
    elif "depthwise" in type(layer).__name__.lower():
        *sizes, channels, factor = kernel.indices.shape
        weights["kernel"] = kernel.map(
            lambda i: np.moveaxis(i, (-2, -1), (0, 1)).reshape(channels * factor, 1, *sizes)
        )
    else:
        weights["kernel"] = kernel.map(lambda i: np.moveaxis(i, (-1, -2), (0, 1)))
    return weights


def _attributes(layer: Any, kind: str, inputs: list[Any]) -> dict[str, Any]:
    if kind == "conv":
        return _conv_attributes(layer, inputs[0].shape)
    found: dict[str, Any] = {}
    for name in (
        "epsilon",
        "axis",
        "rate",
        "negative_slope",
        "alpha",
        "padding",
        "pool_size",
        "strides",
        "max_value",
        "reverse",
        "momentum",
    ):
        value = getattr(layer, name, None)
        if isinstance(value, bool | int | float | str | list | tuple):
            found[name] = value
    if kind == "batch_norm":
        keras_own = isinstance(layer, keras.layers.BatchNormalization)
        # Keras's is the weight of the old statistics, torch's that of the new ones.
        found["momentum"] = layer.momentum if keras_own else 1 - layer.momentum
    return found


def _conv_attributes(layer: Any, shape: Sequence[int]) -> dict[str, Any]:
    rank = len(shape) - 2
    channels_first = getattr(layer, "data_format", None) == "channels_first"
    sizes = shape[2:] if channels_first else shape[1:-1]

    def each(*names: str) -> list[int]:
        value = next((getattr(layer, n) for n in names if hasattr(layer, n)), 1)
        return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * rank

    kernel, stride, dilation = each("kernel_size", "size"), each("strides", "stride"), each("dilation_rate")
    padding: Any = layer.padding
    if isinstance(padding, int):
        padding = [[padding, padding]] * rank
    elif padding == "causal":
        padding = [[(kernel[0] - 1) * dilation[0], 0]]
    else:
        padding = padding_of(padding, sizes, stride, dilation, kernel)
    depthwise = "depthwise" in type(layer).__name__.lower()
    groups = shape[1 if channels_first else -1] if depthwise else int(getattr(layer, "groups", 1))
    return {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": groups,
        "channels": 1 if channels_first else -1,
    }  # fmt: skip


def _flat(value: Any) -> list[Any]:
    return keras.tree.flatten(value)


def _tensors(given: Any) -> list[Any]:
    """The tensors in arguments, in their order: sorted by name, a key would be before its query."""
    args, kwargs = given
    return [x for each in (*args, *kwargs.values()) for x in _flat(each) if _is_tensor(x)]


def _is_tensor(x: Any) -> bool:
    return keras.ops.is_tensor(x) and not isinstance(x, keras.Variable)


def _is_function(value: Any) -> bool:
    return (
        callable(value)
        and not isinstance(value, type)
        and getattr(value, "__module__", "").startswith("keras.")
    )


def _is_float(x: Any) -> bool:
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))


def _tensor(array: Any) -> Any:
    x = np.asarray(array)
    return keras.ops.convert_to_tensor(
        x, dtype=keras.config.floatx() if x.dtype.kind == "f" else x.dtype.name
    )


def _numpy(value: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(value))
