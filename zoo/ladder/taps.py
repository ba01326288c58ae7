"""Taps in a functional Keras model: the output of every operation, and the gradient with respect to it.

The graph is rebuilt from the same layers, with zeros added after each operation. The zeros are weights, so
the gradient with respect to an operation's output is the gradient of its zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration
from zoo.layers import signature

Array = np.ndarray
TAP = "tap_"


class Taps:
    """A model with a tap after every operation, for inputs of these shapes.

    `order` names the operations in data-flow order. By the name of an operation, `consumers` are the
    operations that read its output, `kinds` its class, `weights` the paths of its trainable weights.

    Raises WrongConfiguration for a model that is not functional.
    """

    def __init__(self, model: keras.Model, inputs: Any):
        self.order: list[str] = []
        self.consumers: dict[str, list[str]] = {}
        self.kinds: dict[str, str] = {}
        self.weights: dict[str, list[str]] = {}
        producers: dict[int, str] = {}
        outputs: list[Any] = []

        def tap(operation: Any, *args: Any, **kwargs: Any) -> Any:
            label = self._label(operation)
            for x in keras.tree.flatten((args, kwargs)):
                if (source := producers.get(id(x))) is not None:
                    self.consumers[source].append(label)
            result = operation(*args, **kwargs)
            tapped = []
            for y in keras.tree.flatten(result):
                real = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
                out = _tap_layer()(name=f"{TAP}{len(outputs)}")(y) if real and not tapped else y
                producers[id(out)] = label
                tapped.append(out)
            outputs.append(tapped[0])
            return keras.tree.pack_sequence_as(result, tapped)

        model = _functional(model)
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
        self.tapped = keras.Model(clone.input, outputs)
        self.whole = clone

    def _label(self, operation: Any) -> str:
        """Its name if it has weights, otherwise its class and number: the same in every process."""
        number, kind = len(self.order) + 1, type(operation).__name__
        weights = getattr(operation, "weights", None)
        label = operation.name if weights else f"{kind.lower()} (operation {number})"
        if label in self.kinds:
            label = f"{label} (operation {number})"
        self.order.append(label)
        self.consumers[label] = []
        self.kinds[label] = kind
        self.weights[label] = [v.path for v in getattr(operation, "trainable_variables", [])]
        return label

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
        value, gradients, state = backend.gradients(self.whole, objective)(backends.tensors(inputs), y)
        named: dict[str, Array] = {}
        for variable, gradient in zip(self.whole.trainable_variables, gradients, strict=True):
            owner = variable.path.split("/")[0]
            name = (
                f"outputs/{self.order[int(owner.removeprefix(TAP))]}"
                if owner.startswith(TAP)
                else f"weights/{variable.path}"
            )
            named[name] = _numpy(gradient)
        states: dict[str, list[Array]] = {}
        for variable, after in zip(self.whole.non_trainable_variables, state, strict=True):
            states.setdefault(variable.path.rpartition("/")[0], []).append(_numpy(after).ravel())
        return _numpy(value), named, {layer: np.concatenate(values) for layer, values in states.items()}


def _functional(model: keras.Model) -> keras.Model:
    if hasattr(model, "operations"):
        return model
    if isinstance(model, keras.Sequential) and model.built:
        return keras.Model(model.inputs, model.outputs)
    raise WrongConfiguration(
        f"{model.name}: a {type(model).__name__} has no graph; parity takes functional models, and "
        "sequential ones with an Input"
    )


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
    for i, y in enumerate(keras.tree.flatten(outputs)):
        target = random.generator("target", i).standard_normal(tuple(y.shape))
        total = total + ops.sum(ops.square(y - ops.convert_to_tensor(target, dtype=y.dtype))) / 2
    return total


def _tap_layer() -> Any:
    from zoo.layers.classes import Tap

    return Tap
