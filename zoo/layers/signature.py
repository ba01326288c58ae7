"""What a Keras model takes: the inputs of its graph, their lengths, vocabularies and examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from zoo import random
from zoo._lazy import keras
from zoo.errors import UnknownName, WrongConfiguration, nearest

LENGTH = 12  # steps of an example where a model takes any number


def example(model: keras.Model, batch: int = 2, seed: int = 0) -> np.ndarray | dict[str, np.ndarray]:
    """Example inputs for a model: one array, or a dict by input name.

    Standard normal float32. For a model of tokens, int32: the first sequence has `LENGTH` tokens, the others
    fewer, padded on the right, with a padding mask if the model has one.
    """
    arrays = {}
    for place, tensor in enumerate(model.inputs):
        # Keras's own names count the models that were built before.
        made_up = re.fullmatch(r"(keras_tensor|input_layer)(_\d+)?", tensor.name)
        rng = random.generator(seed, "example", *(("input", place) if made_up else (tensor.name,)))
        shape = (batch, *(LENGTH if n is None else n for n in tensor.shape[1:]))
        if tensor.dtype == "int32":
            x = rng.integers(1, vocabulary(model, tensor) or 2, shape, dtype=np.int32)
        else:
            x = rng.standard_normal(shape, dtype=np.float32)
        if None in tensor.shape[1:]:
            for row in x[1:]:
                row[rng.integers(1, LENGTH) :] = 0
        arrays[tensor.name] = x
    for name in arrays:
        if name.endswith("padding_mask"):
            tokens = arrays[name.replace("padding_mask", "token_ids")]
            arrays[name] = np.int32(tokens != 0)
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def vocabulary(model: keras.Model, tokens: Any) -> int | None:
    """The vocabulary size of the layer that reads this input of a model, or None."""
    for layer in model.layers:
        for node in layer._inbound_nodes:
            if not any(tokens is x for x in node.input_tensors):
                continue
            for count in ("vocabulary", "count"):
                if hasattr(layer, count):
                    return getattr(layer, count)
            if isinstance(layer, keras.Model):  # which reads them in its turn
                given = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
                for own, x in zip(layer.inputs, given, strict=False):
                    if x is tokens and (found := vocabulary(layer, own)) is not None:
                        return found
    return None


def longest(model: keras.Model) -> int | None:
    """The maximum number of tokens of a model; None if it is not limited."""
    limits = [layer.limit for layer in model.layers if hasattr(layer, "limit")]
    limits += [longest(layer) for layer in model.layers if isinstance(layer, keras.Model)]
    return min((limit for limit in limits if limit is not None), default=None)


def check_length(model: keras.Model, name: str, count: int, limit: int | None) -> None:
    """Raise WrongConfiguration if an input has more tokens than the model's maximum (`longest`)."""
    if limit is not None and count > limit:
        raise WrongConfiguration(
            f"{model.name}: {count} tokens in {name}; it has positions for {limit}. Cut the text, or build "
            "the model with positions= as many"
        )


def check_tokens(model: keras.Model, inputs: Mapping[str, Any]) -> None:
    """Raise WrongConfiguration for tokens outside the model's vocabulary, or for too many of them."""
    limit = longest(model)
    for tensor in model.inputs:
        x = inputs.get(tensor.name)
        if x is None or tensor.dtype != "int32":
            continue
        x, count = np.asarray(x), vocabulary(model, tensor)
        if x.ndim != len(tensor.shape):
            raise WrongConfiguration(
                f"{model.name}: {tensor.name} of shape {x.shape}; expected (batch, length)"
            )
        if not x.shape[1]:
            raise WrongConfiguration(
                f"{model.name}: {tensor.name} of shape {x.shape}; expected at least 1 token"
            )
        check_length(model, tensor.name, x.shape[1], limit)
        if count is not None and x.size and not 0 <= x.min() <= x.max() < count:
            wrong = x[(x < 0) | (x >= count)][0]
            raise WrongConfiguration(
                f"{model.name}: {tensor.name} has {wrong}; expected 0 to {count - 1}. Is the tokenizer "
                "another model's?"
            )


def input_shapes(model: keras.Model) -> Any:
    """The shape of an example, or a dict by input name; None where a length varies."""
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in model.inputs}
    return shapes if len(shapes) > 1 else next(iter(shapes.values()))


def optional_inputs(model: keras.Model) -> set[str]:
    """The names of the inputs that may be omitted."""
    return {tensor.name for tensor in model.inputs if tensor._keras_history.operation.optional}


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one example's forward pass in convolutions, dense layers, recurrences and attention.

    Counted as by fvcore and torch.utils.flop_counter, without activations, normalization and pooling. For
    sequences of variable length, the multiply-adds of one time step.
    """
    total = 0
    for layer in model.layers:
        total += getattr(layer, "multiply_adds", 0)
        kernels = [v for v in layer.variables if v.name.endswith("kernel")]
        if kernels:
            output = layer.output[0] if isinstance(layer.output, tuple | list) else layer.output
            positions = np.prod([n or 1 for n in output.shape[1:-1]], dtype=np.int64)
            total += int(positions) * sum(int(np.prod(kernel.shape)) for kernel in kernels)
    return total


def layers_of(layers: Iterable[keras.layers.Layer]) -> list[keras.layers.Layer]:
    """These layers, each model among them replaced by its layers."""
    found = []
    for layer in layers:
        found += layers_of(layer.layers) if isinstance(layer, keras.Model) else [layer]
    return found


def features(model: keras.Model, names: str | Sequence[str] = "features") -> keras.Model:
    """A model that returns intermediate outputs of another, with shared weights; by default the head's input.

    `names` is one name, or several for a dict by name: the intermediate outputs that a model file names
    ("stage3", "block12", "features"), or any layer. Raises UnknownName.
    """
    known = {layer.name: layer for layer in model.layers}
    asked = [names] if isinstance(names, str) else list(names)
    for name in asked:
        if name not in known:
            inside = ", ".join(layer.name for layer in model.layers if type(layer).__name__ == "Identity")
            raise UnknownName(f"{model.name} has no {name!r}; {nearest(name, known)}. It names: {inside}")
    outputs = {name: known[name].output for name in asked}
    kind = type(model) if hasattr(model, "complete") else keras.Model  # whose inputs may be left out
    return kind(model.input, outputs[names] if isinstance(names, str) else outputs, name=model.name)
