"""Taps in a functional Keras model: what flows through it, forward and back, at every operation.

The graph is run again over the same layers with an addition of zeros after each operation. The zeros are
weights, so that an operation's output gradient is the gradient of its zeros.
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
    """A model with a tap after every operation, for inputs of the shapes of these.

    `order` names the operations as the data flows; `consumers` says who reads whose output, `kinds` what each
    is, `weights` the paths of each one's trainable weights.

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
            found = operation(*args, **kwargs)
            tapped = []
            for y in keras.tree.flatten(found):
                float_ = keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype))
                out = _tap_layer()(name=f"{TAP}{len(outputs)}")(y) if float_ and not tapped else y
                producers[id(out)] = label
                tapped.append(out)
            outputs.append(tapped[0])
            return keras.tree.pack_sequence_as(found, tapped)

        if not hasattr(model, "operations"):
            if not isinstance(model, keras.Sequential) or not model.built:
                raise WrongConfiguration(
                    f"{model.name}: a {type(model).__name__} has no graph to walk; parity takes functional "
                    "models, and sequential ones with an Input"
                )
            model = keras.Model(model.inputs, model.outputs)
        # Of the shapes of these arrays: the zeros have a length where the model takes any.
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
        """Its name if it has weights, else what it is and its place: the same in every process."""
        place, owned = len(self.order) + 1, getattr(operation, "weights", None)
        kind = type(operation).__name__
        label = operation.name if owned else f"{kind.lower()} (operation {place})"
        if label in self.kinds:
            label = f"{label} (operation {place})"
        self.order.append(label)
        self.consumers[label] = []
        self.kinds[label] = kind
        self.weights[label] = [v.path for v in getattr(operation, "trainable_variables", [])]
        return label

    def outputs(self, inputs: Any) -> dict[str, Array]:
        """Every operation's output in inference mode, as the data flows."""
        values = keras.tree.flatten(self.tapped.predict_on_batch(inputs))
        return {label: np.asarray(value) for label, value in zip(self.order, values, strict=True)}

    def gradients(
        self, inputs: Any, targets: Array | None, loss: Any = None
    ) -> tuple[Array, dict[str, Array], dict[str, Array]]:
        """(loss, gradients, state) in training mode, gradients named "outputs/LABEL" and "weights/PATH".

        State is what each layer remembers after the pass, by the layer's path: running statistics, steps of
        dropout. One array a layer: a mean that is zero in exact arithmetic is judged beside its variance.

        Without targets the loss is half the squared distance of the outputs from numbers drawn at random: a
        sum of squares does not cancel, so its rounding is small beside it whatever the outputs are.
        """
        backend = backends.current()
        objective = _distance if targets is None else _objective(targets, loss)
        y = backend.tensor(np.zeros(1, np.int32) if targets is None else targets)
        value, gradients, state = backend.gradients(self.whole, objective)(backends.tensors(inputs), y)
        found: dict[str, Array] = {}
        for variable, gradient in zip(self.whole.trainable_variables, gradients, strict=True):
            owner = variable.path.split("/")[0]
            name = (
                f"outputs/{self.order[int(owner.removeprefix(TAP))]}"
                if owner.startswith(TAP)
                else f"weights/{variable.path}"
            )
            found[name] = _numpy(gradient)
        kept: dict[str, list[Array]] = {}
        for variable, after in zip(self.whole.non_trainable_variables, state, strict=True):
            kept.setdefault(variable.path.rpartition("/")[0], []).append(_numpy(after).ravel())
        return _numpy(value), found, {layer: np.concatenate(values) for layer, values in kept.items()}


def layer_outputs(model: keras.Model, inputs: Any) -> dict[str, Array]:
    """What every operation of a functional model gives in inference mode, in data-flow order."""
    inputs = _filled(model, inputs)
    return Taps(model, inputs).outputs(inputs)


def _filled(model: keras.Model, inputs: Any) -> Any:
    """With the inputs that were left out, since every operation runs: masks that hide nothing, segment 0."""
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

    named = "cross_entropy" if np.issubdtype(targets.dtype, np.integer) else "mean_squared_error"
    return Objective(loss or named).native()


def _distance(_: Any, outputs: Any) -> Any:
    total: Any = 0.0
    for i, y in enumerate(keras.tree.flatten(outputs)):
        drawn = random.generator("target", i).standard_normal(tuple(y.shape))
        total = total + ops.sum(ops.square(y - ops.convert_to_tensor(drawn, dtype=y.dtype))) / 2
    return total


def _tap_layer() -> Any:
    from zoo.layers.classes import Tap

    return Tap
