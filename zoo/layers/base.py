"""What the zoo adds to Keras: a layer for each thing that owns weights, state or a framework's operation.

Initial weights are drawn by (seed, layer name, weight name), see `zoo.random`; the arithmetic is that of
`zoo.backends`. Every layer can be cloned, and saved in a `.keras` file.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, ClassVar

from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.layers.recomputation import recompute
from zoo.random import Initializer

Tensor = Any
Shape = tuple[Any, ...]


class Layer(keras.layers.Layer):
    """A layer with portable weights, whose class declares its arguments as a dataclass declares fields.

    Their meaning and defaults are those of the function of `zoo.layers` that makes the layer.
    """

    ARGUMENTS: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        own = (name for name in inspect.get_annotations(cls) if name.islower())
        cls.ARGUMENTS = (*cls.ARGUMENTS, *own)

    def __init__(self, *args: Any, seed: int | None = None, **kwargs: Any):
        arguments = dict(zip(self.ARGUMENTS[: len(args)], args, strict=True))
        arguments |= {name: kwargs.pop(name) for name in self.ARGUMENTS if name in kwargs}
        if missing := ", ".join(name for name in self.ARGUMENTS if name not in arguments):
            raise TypeError(f"{type(self).__name__} needs {missing}")
        super().__init__(**kwargs)
        self.seed = random.current_seed() if seed is None else seed
        for name, value in arguments.items():
            setattr(self, name, _from_plain(name, value))

    def weight(
        self,
        name: str,
        shape: Sequence[int],
        initializer: Initializer,
        *,
        trainable: bool = True,
        autocast: bool = True,
        regularizer: Any = None,
        kernel: bool = False,
    ) -> keras.Variable:
        """A weight of its own draw; the backend knows how a `kernel` ([h, w,] in, out) best lies in memory.

        Without `autocast` the layer sees it in full precision under a mixed policy too.
        """

        def draw(shape: Shape, dtype: str | None = None) -> Any:
            here = backends.current()
            memory = here.empty(shape, kernel=kernel)
            array = initializer.draw((self.seed, self.name, name), shape, memory)
            # Either keeps the arrangement.
            return here.from_numpy(array) if dtype in (None, "float32") else ops.cast(array, dtype)

        return self.add_weight(
            name=name,
            shape=tuple(shape),
            initializer=draw,
            trainable=trainable,
            autocast=autocast,
            regularizer=regularizer,
        )

    def rematerialized_call(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        """The call within `keras.RematScope`, computed again in the backward pass.

        Keras recomputes with the state that the call has left, so that dropout's second mask is another, and
        hands the arguments that are no tensors to functions of the framework that take none.
        """
        if super().rematerialized_call(layer_call, *args, **kwargs) is layer_call:  # not in this scope
            return layer_call
        return partial(self._recomputed, layer_call)

    def _recomputed(self, layer_call: Any, *args: Any, **kwargs: Any) -> Any:
        def call(*given: Any) -> Any:
            own = keras.tree.pack_sequence_as((args, kwargs), given)
            return layer_call(*own[0], **own[1])

        return recompute(call, [self], *keras.tree.flatten((args, kwargs)))

    def get_config(self) -> dict[str, Any]:
        arguments = {name: getattr(self, name) for name in ("seed", *self.ARGUMENTS)}
        return {**super().get_config(), **{name: _plain(value) for name, value in arguments.items()}}


def _plain(value: Any) -> Any:
    """An argument as JSON has it."""
    if isinstance(value, Initializer):
        return asdict(value)
    if isinstance(value, keras.regularizers.Regularizer):
        return keras.regularizers.serialize(value)
    return value


def _from_plain(name: str, value: Any) -> Any:
    """An argument as the layer keeps it, given as such or as JSON has it."""
    if name == "regularizer":
        return keras.regularizers.get(value)
    if isinstance(value, dict):
        return Initializer(**value)
    return tuple(value) if isinstance(value, list) else value
