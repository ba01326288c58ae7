"""Taps in a Keras model: the outputs of every operation, and the gradients with respect to them.

Zeros are added to each output. They are weights, so the gradient with respect to an output is the gradient of
its zeros. A functional model's graph is rebuilt from the same layers with taps between them; of any other
model the layers are followed as they are called.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.layers import signature

Array = np.ndarray
TAP = "tap_"


class Taps:
    """A model with a tap after every operation, for inputs of these shapes.

    `order` names the outputs in data-flow order: an output has the name of its operation, and a number if it
    is not the first. By an output's name, `consumers` are the operations that read it, `kinds` its class,
    `weights` the paths of its trainable weights.
    """

    def __init__(self, model: keras.Model, inputs: Any):
        self.order: list[str] = []
        self.consumers: dict[str, list[str]] = {}
        self.kinds: dict[str, str] = {}
        self.weights: dict[str, list[str]] = {}
        self.taps: dict[str, Any] = {}  # by an output's name; None if it has no gradient
        self.gradient: dict[bool, Any] = {}  # the compiled function, with targets and without
        self.producers: dict[
            int, tuple[str, Any]
        ] = {}  # by a tensor's identity: what made it, and the tensor
        if (graph := _graph(model)) is not None:
            self.tapped, self.whole = self._rebuild(graph, inputs)
        else:
            self.tapped, self.whole = self._follow(model, inputs)
        self.producers.clear()

    def _rebuild(self, model: keras.Model, inputs: Any) -> tuple[keras.Model, keras.Model]:
        """The graph with taps: a model of all outputs, and the model itself."""
        outputs: list[Any] = []

        def tap(operation: Any, *args: Any, **kwargs: Any) -> Any:
            labels = self._labels(operation, (args, kwargs), result := operation(*args, **kwargs))
            tapped = []
            for label, y in labels:
                tapped.append(y)
                if label is not None:
                    tapped[-1] = self._tap(label, y)(y) if _real(y) else y
                    self.producers[id(tapped[-1])] = label, tapped[-1]
            outputs.extend(y for y in tapped if y is not None)
            return keras.tree.pack_sequence_as(result, tapped)

        # With the shapes of these arrays: the zeros need a length where the model takes any.
        start = [
            keras.Input(batch_shape=x.shape, dtype=tensor.dtype, name=tensor.name)
            for tensor, x in zip(model.inputs, _ordered(model, inputs), strict=True)
        ]
        clone = keras.models.clone_model(
            model,
            input_tensors=keras.tree.pack_sequence_as(model.input, start),
            clone_function=lambda op: op,
            call_function=tap,
        )
        return keras.Model(clone.input, outputs), clone

    def _follow(self, model: keras.Model, inputs: Any) -> tuple[keras.Model, keras.Model]:
        """The calls of its layers with taps: a model of all outputs, and the model itself."""
        by_call: dict[tuple[int, int], list[Any]] = {}  # by the layer's identity and the number of its call

        def record(call: tuple[int, int], layer: Any, arguments: Any, result: Any) -> Any:
            by_call[call] = []
            for label, y in self._labels(layer, arguments, result):
                by_call[call].append(self._tap(label, y) if label is not None and _real(y) else None)
                if label is not None:
                    self.producers[id(y)] = label, y
            return result

        from zoo.ladder.calls import TappedCalls, follow_calls

        with follow_calls(model, record):
            model(backends.tensors(inputs), training=False)
        return (TappedCalls(model, by_call, everything=True), TappedCalls(model, by_call, everything=False))

    def _labels(self, operation: Any, arguments: Any, result: Any) -> list[tuple[str | None, Any]]:
        """The outputs of a call with their names, which are noted with what they read; None has no name.

        Its name is the operation's if it has weights, else its class and number: the same in every process.
        """
        kind, weights = type(operation).__name__, getattr(operation, "weights", None)
        number = len(self.order) + 1
        name = operation.name if weights else f"{kind.lower()} (operation {number})"
        if name in self.kinds:
            name = f"{name} (operation {number})"
        sources = [self.producers[id(x)][0] for x in keras.tree.flatten(arguments) if id(x) in self.producers]
        labels: list[tuple[str | None, Any]] = []
        for i, y in enumerate(keras.tree.flatten(result)):
            label = None if y is None else name if i == 0 else f"{name}, output {i + 1}"
            labels.append((label, y))
            if label is None:
                continue
            for source in sources:
                self.consumers[source].append(label)
            self.order.append(label)
            self.consumers[label], self.kinds[label] = [], kind
            trainable = getattr(operation, "trainable_variables", []) if i == 0 else []
            self.weights[label] = [v.path for v in trainable]
        return labels

    def _tap(self, label: str, y: Any) -> Any:
        """A new tap for this output."""
        from zoo.layers.classes import Tap

        tap = self.taps[label] = Tap(name=f"{TAP}{len(self.taps)}")
        tap.build(tuple(y.shape))
        return tap

    def outputs(self, inputs: Any) -> dict[str, Array]:
        """The output of every operation in inference mode, in data-flow order."""
        values = keras.tree.flatten(self.tapped.predict_on_batch(inputs))
        return {label: np.asarray(value) for label, value in zip(self.order, values, strict=True)}

    def gradients(
        self, inputs: Any, targets: Array | None, loss: Any = None
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """(loss, gradients, state) in training mode, gradients named "outputs/LABEL" and "weights/PATH".

        State is each layer's non-trainable state after the pass, by the layer's path: running statistics,
        dropout steps. It is one array a layer, so that a mean that is zero in exact arithmetic is compared
        relative to its variance.

        Without targets the loss is half the squared distance of the outputs from random numbers: a sum of
        squares does not cancel, so its rounding error is relatively small whatever the outputs are.
        """
        backend = backends.current()
        objective = _distance if targets is None else _objective(targets, loss)
        y = backend.tensor(np.zeros(1, np.int32) if targets is None else targets)
        if (compute := self.gradient.get(targets is None)) is None:
            compute = self.gradient[targets is None] = backend.gradients(self.whole, objective)
        value, gradients, state = compute(backends.tensors(inputs), y)
        named: dict[str, Array] = {}
        labels = list(self.taps)
        for variable, gradient in zip(self.whole.trainable_variables, gradients, strict=True):
            owner = variable.path.split("/")[0]
            name = (
                f"outputs/{labels[int(owner.removeprefix(TAP))]}"
                if owner.startswith(TAP)
                else f"weights/{variable.path}"
            )
            named[name] = _numpy(gradient)
        states: dict[str, list[Array]] = {}
        kept = set(map(id, self.whole.weights))  # not the states of seed generators
        for variable, after in zip(self.whole.non_trainable_variables, state, strict=True):
            if id(variable) not in kept:
                continue
            states.setdefault(variable.path.rpartition("/")[0], []).append(_numpy(after).ravel())
        return _numpy(value), named, {layer: np.concatenate(values) for layer, values in states.items()}


def _graph(model: keras.Model) -> keras.Model | None:
    """The model as a graph of operations; None if it has none, or has models in it, whose layers count."""
    if isinstance(model, keras.Sequential) and model.built:
        model = keras.Model(model.inputs, model.outputs)
    operations = getattr(model, "operations", None)
    if operations is None or any(isinstance(operation, keras.Model) for operation in operations):
        return None
    return model


def layer_outputs(model: keras.Model, inputs: Any) -> dict[str, Array]:
    """The output of every operation of a functional model in inference mode, in data-flow order."""
    inputs = _with_optional(model, inputs)
    return Taps(model, inputs).outputs(inputs)


def _with_optional(model: keras.Model, inputs: Any) -> Any:
    """The inputs and defaults for those left out, since every operation runs: masks of ones, segment 0."""
    if not (optional := signature.optional_inputs(model)):
        return inputs
    given = dict(inputs) if isinstance(inputs, Mapping) else {"token_ids": inputs}
    for name in sorted(optional - given.keys()):
        tokens = given["decoder_token_ids" if name.startswith("decoder") else "token_ids"]
        given[name] = np.full_like(tokens, 0 if name == "segment_ids" else 1)
    return given


def _ordered(model: keras.Model, inputs: Any) -> list[Array]:
    """The arrays in the order of the model's inputs."""
    return (
        [inputs[t.name] for t in model.inputs] if isinstance(inputs, Mapping) else keras.tree.flatten(inputs)
    )


def _numpy(tensor: Any) -> Array:
    return np.asarray(ops.convert_to_numpy(tensor))


def _objective(targets: Array, loss: Any) -> Any:
    from zoo.training.objectives import Objective

    default = "cross_entropy" if np.issubdtype(targets.dtype, np.integer) else "mean_squared_error"
    return Objective(loss or default).native()


def _distance(_: Any, outputs: Any) -> Any:
    total: Any = 0.0
    for i, y in enumerate(filter(_real, keras.tree.flatten(outputs))):
        target = random.generator("target", i).standard_normal(tuple(y.shape))
        total = total + ops.sum(ops.square(y - ops.convert_to_tensor(target, dtype=y.dtype))) / 2
    return total


def _real(y: Any) -> bool:
    """Whether a tensor is of a float type, so that it has a gradient."""
    return keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
