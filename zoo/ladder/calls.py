"""The calls of a model's layers, for models without a graph: see `zoo.ladder.taps.Taps`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

from zoo._lazy import keras
from zoo.layers.classes import Tap

Call = tuple[int, int]  # a layer's identity, and the number of its call


@contextmanager
def follow_calls(model: keras.Model, tap: Callable[..., Any]) -> Iterator[None]:
    """A context in which the outputs of every layer that `model` calls go through `tap`.

    tap((id of the layer, number of its call), layer, arguments, outputs) returns the outputs. What a layer of
    Keras or of the zoo calls within is not followed: an RNN calls its cell within the framework's loop.
    """
    calls: Counter[int] = Counter()
    within = 0

    def followed(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal within
        if within or layer is model or isinstance(layer, Tap):
            return original(layer, *args, **kwargs)
        leaf = type(layer).__module__.split(".")[0] in ("keras", "zoo") and not isinstance(layer, keras.Model)
        within += leaf
        try:
            result = original(layer, *args, **kwargs)
        finally:
            within -= leaf
        if any(isinstance(y, keras.KerasTensor) for y in keras.tree.flatten(result)):
            return result
        calls[id(layer)] += 1
        return tap((id(layer), calls[id(layer)]), layer, (args, kwargs), result)

    call_layer, call_operation = keras.layers.Layer.__call__, keras.Operation.__call__

    def layer_call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return followed(call_layer, layer, *args, **kwargs)

    def operation_call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(operation, keras.layers.Layer):  # its own call comes here too
            return call_operation(operation, *args, **kwargs)
        return followed(call_operation, operation, *args, **kwargs)

    with (
        patch.object(keras.layers.Layer, "__call__", layer_call),
        patch.object(keras.Operation, "__call__", operation_call),
    ):
        yield


class TappedCalls(keras.Model):
    """A model with taps after the calls of its layers, see `zoo.ladder.taps.Taps`.

    `taps`: by call, one for each output, or None. With `everything` the model returns all those outputs.
    """

    def __init__(self, model: keras.Model, taps: Mapping[Call, list[Any]], *, everything: bool):
        super().__init__()
        self.model, self.everything = model, everything
        self.taps = [tap for own in taps.values() for tap in own if tap is not None]
        self.find_taps = taps.get  # a function: Keras would copy a dict
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        outputs: list[Any] = []

        def tap(call: tuple[int, int], layer: Any, arguments: Any, result: Any) -> Any:
            del layer, arguments
            if (taps := self.find_taps(call)) is None:  # a layer that runs in training alone
                return result
            flat = zip(taps, keras.tree.flatten(result), strict=True)
            tapped = [y if tap is None else tap(y) for tap, y in flat]
            outputs.extend(y for y in tapped if y is not None)
            return keras.tree.pack_sequence_as(result, tapped)

        with follow_calls(self.model, tap):
            y = self.model(x, training=training)
        return outputs if self.everything else y
