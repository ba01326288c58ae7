"""A run's optimizer and frozen layers from words and numbers.

zoo.train("resnet18", optimizer="Momentum", learning_rate=0.1, schedule="CosineAnnealing", ema=0.999)
zoo.train("resnet18", "photos/", weights="r18.pth", freeze="backbone")
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib import import_module
from typing import Any

from zoo._lazy import keras, ops
from zoo.checks import Call, parse_calls
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.layers.signature import layers_of
from zoo.training.depth import head
from zoo.training.recipes import Recipe

# The options of zoo.train that are settings of an optimizer, by the name they have there.
SETTINGS = {
    "learning_rate": "learning_rate",
    "weight_decay": "weight_decay",
    "clip_norm": "global_clipnorm",
    "accumulate": "gradient_accumulation_steps",
    "ema": "ema_momentum",
}
OPTIMIZERS = ("SGD", "Momentum", "Adam", "AdamW", "LAMB")
# Schedules, and the argument that is the length of the run where none is given.
SCHEDULES = {
    "StepDecay": None,
    "CosineAnnealing": "decay_steps",
    "WarmupDecay": "decay_steps",
    "OneCycle": "total_steps",
}


def parse_one(option: str, text: str, names: Sequence[str]) -> Call:
    """The call that a text such as "OneCycle(0.01)" writes. Raises UnknownName or WrongConfiguration."""
    calls = parse_calls(option, text)
    if len(calls) != 1:
        raise WrongConfiguration(f"{option}={text!r}; expected one of {', '.join(names)}")
    by_plain_name = {name.lower(): name for name in names}
    if calls[0].name.lower() not in by_plain_name:
        raise UnknownName(f"{option}={text!r}; {nearest(calls[0].name, names)}")
    return replace(calls[0], name=by_plain_name[calls[0].name.lower()])


def adapted(recipe: Recipe, optimizer: str | None, options: Mapping[str, Any]) -> Recipe:
    """The recipe with another optimizer, in words, and with `options`, the settings that were given.

    An optimizer of another class than the recipe's needs a learning rate, its own or `learning_rate`.
    """
    settings = {SETTINGS[name]: value for name, value in options.items()}
    if "ema_momentum" in settings:
        settings["use_ema"] = True
    if optimizer is None:
        return replace(recipe, settings={**recipe.settings, **settings})
    call = parse_one("optimizer", optimizer, OPTIMIZERS)
    if len(call.args) > 1:
        raise WrongConfiguration(
            f"optimizer={optimizer!r}; expected the learning rate, then arguments by name"
        )
    own = dict(call.kwargs)
    if call.args:
        own = {"learning_rate": call.args[0], **own}
    if twice := own.keys() & settings.keys():
        raise WrongConfiguration(
            f"optimizer={optimizer!r} has its own {', '.join(sorted(twice))}; give it once"
        )
    if call.name == recipe.optimizer:
        own = {**recipe.settings, **own}
    elif "learning_rate" not in {**own, **settings}:
        raise WrongConfiguration(
            f"optimizer={optimizer!r} has no learning rate, and the recipe's is {recipe.optimizer}'s; give "
            f"learning_rate=, or optimizer='{call.name}(0.01)'"
        )
    return replace(recipe, optimizer=call.name, settings={**own, **settings})


def make_schedule(text: str, recipe: Recipe, rate: float | None, steps: int) -> Any:
    """The schedule that a text writes, for a run of so many steps.

    Its peak is the first argument, else `rate`, else the recipe's rate; its length, unless given, the run's.
    """
    call = parse_one("schedule", text, tuple(SCHEDULES))
    cls = getattr(import_module("zoo.schedules"), call.name)
    first, *_ = parameters = inspect.signature(cls).parameters
    try:
        given = inspect.signature(cls).bind_partial(*call.args, **call.kwargs).arguments
        if first in given and rate is not None:
            raise WrongConfiguration(f"schedule={text!r} and learning_rate={rate}: two rates; give one")
        given.setdefault(first, recipe.settings["learning_rate"] if rate is None else rate)
        if (length := SCHEDULES[call.name]) is not None:
            given.setdefault(length, steps)
        return cls(**given)
    except TypeError as error:
        raise WrongConfiguration(
            f"schedule={text!r}: {error}; expected {call.name}({', '.join(parameters)})"
        ) from None


def rate_of(optimizer: Any, batches: int) -> float:
    """The learning rate of the update that so many batches ended with, the first one's before it."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if not hasattr(inner, "rate_at"):  # Keras's own
        return float(ops.convert_to_numpy(inner.learning_rate))
    return inner.rate_at(max(0, batches // (inner.gradient_accumulation_steps or 1) - 1))


def freeze(model: keras.Model, patterns: str) -> list[keras.layers.Layer]:
    """Freeze the layers whose names match one of these shell patterns, or "backbone": all but the head.

    A frozen layer keeps its weights and runs in inference mode, as Keras defines it. Returns the layers that
    were not frozen before. Raises UnknownName.
    """
    names, frozen = [layer.name for layer in model.layers], []
    for pattern in (part.strip() for part in patterns.split(",")):
        if pattern == "backbone":
            top = {id(layer) for layer in head(model)}
            matching = [layer for layer in layers_of(model.layers) if id(layer) not in top]
        else:
            matching = [layer for layer in model.layers if fnmatchcase(layer.name, pattern)]
        if not matching:
            raise UnknownName(
                f"freeze={pattern!r}: {model.name} has no such layer; {nearest(pattern, names)}"
            )
        for layer in matching:
            if layer.trainable:
                layer.trainable = False
                frozen.append(layer)
    return frozen
