"""Any `keras.Model` as a functional one of the same layers and weights, with named inputs and one output.

A `keras.Sequential`, a subclass of `keras.Model` and a model that takes a list of inputs become the one layer
of a functional model, which training and prediction then use; the variables are those of the model itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo import tasks
from zoo._lazy import keras
from zoo.errors import WrongConfiguration

OWN_STEPS = ("train_step", "compute_loss")  # of a subclass: what neither engine would call


def as_functional(model: keras.Model, x: Any = None, *, own_steps: bool = False) -> keras.Model:
    """The model itself if it is functional with one tensor or named inputs, else one around it.

    `x` are examples, or a dict of them by input name: a model that was not built yet takes its input's shape
    and dtype from them. Raises WrongConfiguration for a model that cannot be called on symbolic inputs, that
    has several outputs in a list, or that makes its own training step; with `own_steps` a functional one may.
    """
    structure = _inputs(model)
    functional = structure is not None and not isinstance(structure, list) and _has_one_output(model)
    for name in () if functional and own_steps else OWN_STEPS:
        if getattr(type(model), name) is not getattr(keras.Model, name):
            raise WrongConfiguration(
                f"{model.name} has its own {name}, which zoo.train would not call; use model.fit"
            )
    if functional:
        return model
    inputs: Any = _copies(model, structure) if structure is not None else _from_examples(model, x)
    listed = list(inputs.values()) if isinstance(inputs, dict) else [inputs]
    try:
        output = model(listed if isinstance(structure, list) else inputs)
    except Exception as error:
        shapes = {n: t.shape for n, t in inputs.items()} if isinstance(inputs, dict) else inputs.shape
        raise WrongConfiguration(
            f"{model.name} cannot be called on symbolic inputs of shape {shapes}, by which zoo.train learns "
            f"its output's shape: {type(error).__name__}: {error}"
        ) from error
    if isinstance(output, list | tuple):
        if len(output) != 1:
            raise WrongConfiguration(
                f"{model.name} gives {len(output)} outputs; zoo.train takes a model of one, its logits"
            )
        (output,) = output
    return keras.Model(inputs, output, name=model.name)


def input_shapes(model: keras.Model) -> Any:
    """The shape of an example, or a dict by input name. Raises WrongConfiguration where it is not known."""
    structure = _inputs(model)
    if structure is None:
        structure = _built_input(model)
    if structure is None:
        raise WrongConfiguration(
            f"{model.name} is not built, so the size of its input is not known: begin it with keras.Input, "
            "call model.build, or give arrays"
        )
    if isinstance(structure, list):
        structure = {tensor.name: tensor for tensor in structure}
    if isinstance(structure, dict):
        shapes = {name: tuple(tensor.shape[1:]) for name, tensor in structure.items()}
        return shapes if len(shapes) > 1 else next(iter(shapes.values()))  # as signature.input_shapes
    return tuple(structure.shape[1:])


def named(model: keras.Model, data: Any) -> Any:
    """A pair (x, y) whose x, where it is a list of one array for each input, is a dict by input name."""
    if not (isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], tuple | list)):
        return data
    x, structure = data[0], _inputs(model)
    arrays = len(x) > 1 and all(hasattr(part, "shape") and len(part.shape) > 0 for part in x)
    if isinstance(structure, dict):
        structure = [structure[name] for name in structure]
    if not arrays or not isinstance(structure, list) or len(x) != len(structure):
        return data
    return {tensor.name: part for tensor, part in zip(structure, x, strict=True)}, data[1]


def _inputs(model: keras.Model) -> Any:
    """The symbolic inputs, as the model takes them; None of a model that is not functional, nor built."""
    try:
        inputs: Any = model.inputs
    except AttributeError:
        return None
    structure = getattr(model, "_inputs_struct", None)
    if structure is None:  # keras.Sequential
        return inputs[0]
    return list(structure) if isinstance(structure, list | tuple) else structure


def _has_one_output(model: keras.Model) -> bool:
    return hasattr(model, "output") and not isinstance(model.output, list | tuple)


def _copies(model: keras.Model, structure: Any) -> Any:
    """New inputs like these: a dict by name of several, one tensor of one."""

    def like(tensor: Any) -> Any:
        optional = tensor._keras_history.operation.optional
        return keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=tensor.name, optional=optional)

    if isinstance(structure, list) and len(structure) == 1:
        (structure,) = structure
    if not isinstance(structure, dict | list):
        return like(structure)
    several = structure if isinstance(structure, dict) else {t.name: t for t in structure}
    if len(several) != len(model.inputs):
        raise WrongConfiguration(f"{model.name} has inputs of the same name; give each keras.Input a name")
    return {name: like(tensor) for name, tensor in several.items()}


def _built_input(model: keras.Model) -> Any:
    """The input for which a model was built by `build` or its first call, if that was one tensor."""
    config: dict[str, Any] = (model.get_build_config() if model.built else None) or {}
    shape = config.get("input_shape") or next(iter((config.get("shapes_dict") or {}).values()), None)
    if not isinstance(shape, tuple | list) or not all(n is None or isinstance(n, int) for n in shape):
        return None
    return keras.Input(shape[1:])


def _from_examples(model: keras.Model, x: Any) -> Any:
    """Inputs for these examples."""
    if x is None:
        tensor = _built_input(model)
        if tensor is None:
            raise WrongConfiguration(
                f"{model.name} is not built; begin it with keras.Input or call model.build"
            )
        return tensor
    shapes = tasks.shapes(x)
    if isinstance(x, Mapping):
        return {name: keras.Input(shapes[name], dtype=_dtype(part), name=name) for name, part in x.items()}
    return keras.Input(shapes, dtype=_dtype(x))


def _dtype(x: Any) -> str:
    return "int32" if np.issubdtype(x.dtype, np.integer) else keras.config.floatx()
