"""Whether a model, a task and a loss go together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from zoo import backends, tasks
from zoo._lazy import keras
from zoo.backends.world import get_world
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.layers import signature
from zoo.tasks import Pair, Task, sequences
from zoo.training.objectives import LOSSES, Objective


def _fits(expected: Any, given: Any) -> bool:
    """Whether examples of this shape fit an input of that one, None being any length; dicts by name."""
    if isinstance(expected, dict) or isinstance(given, dict):
        same = isinstance(expected, dict) and isinstance(given, dict) and expected.keys() == given.keys()
        return same and all(_fits(expected[name], given[name]) for name in expected)
    return len(expected) == len(given) and all(m in (None, n) for m, n in zip(expected, given, strict=True))


def check_exact(options: Any, mode: str, objective: Objective) -> None:
    """Raise WrongConfiguration for options of a run that have no exact form (`zoo.backends.exact`)."""
    if options.engine != "native":
        raise WrongConfiguration(f"exact: the {options.engine} engine computes by its framework; use native")
    for name in ("class_weights", "lora", "unfreeze", "recompute"):
        if getattr(options, name):
            raise WrongConfiguration(f"exact: {name}= is not offered; leave it out")
    if getattr(get_world(), "shards_weights", False):
        raise WrongConfiguration("exact: shard='weights' is not offered; leave it out")
    if options.on_nan != "stop":
        raise WrongConfiguration(f"exact: on_nan={options.on_nan!r} is not offered; leave it out")
    if mode not in backends.EXACT_MODES[backends.current().NAME]:
        raise WrongConfiguration(f"exact: mode={mode!r} is not offered; leave it out")
    if objective.loss not in (offered := ("cross_entropy", "ctc")):
        raise WrongConfiguration(
            f"exact: the loss {objective.loss!r} is not offered; {' and '.join(offered)} are"
        )


def check_fit(model: keras.Model, task: Task) -> None:
    """Raise WrongConfiguration, or UnknownName for a loss, unless the model can be trained on the task."""
    x, y = task.train
    if isinstance(model.output, dict):
        raise WrongConfiguration(
            f"{model.name} gives {' and '.join(model.output)}; to train it, build it with a head="
        )
    if not model.trainable_variables:
        raise WrongConfiguration(
            f"{model.name} has no trainable weights; expected at least one layer that is not frozen. Set "
            "trainable = True on the model and on the layers to train"
        )
    seen = x if task.corrupt is None else task.first(1)
    expected, given = signature.input_shapes(model), tasks.shapes(seen)
    if isinstance(expected, dict):
        given = given if isinstance(given, dict) else {"token_ids": given}
        left_out = signature.optional_inputs(model) - given.keys()
        expected = {name: shape for name, shape in expected.items() if name not in left_out}
    if not _fits(expected, given):
        raise WrongConfiguration(f"{model.name} takes examples of shape {expected}, {task.name} has {given}")
    for name, part in _tokens(x):
        signature.check_tokens(model, {name: sequences.extremes(part)})
    limit = signature.longest(model)
    for split in (seen, task.test[0]) if task.test and task.corrupt is None else (seen,):
        for name, part in _tokens(split):
            signature.check_length(model, name, sequences.longest(part), limit)
    if isinstance(task.loss, str) and task.loss not in LOSSES:
        raise UnknownName(
            f"no loss {task.loss!r}; {nearest(task.loss, LOSSES)}, or give a function (y, logits)"
        )
    if task.augment:
        if isinstance(x, dict):
            raise WrongConfiguration(f"augment= changes one input; {model.name} has {', '.join(x)}")
        if task.corrupt is None and not _fits(
            expected, made := task.augmented(np.arange(1), 0, 0)[0].shape[1:]
        ):
            raise WrongConfiguration(
                f"augment= makes examples of shape {made}, {model.name} takes {expected}"
            )
    if task.loss == "cross_entropy" and not np.issubdtype(y.dtype, np.integer):
        if y.shape[1] != model.output_shape[-1]:
            raise WrongConfiguration(
                f"{task.name} has soft labels of {y.shape[1]} classes, {model.name} has "
                f"{model.output_shape[-1]}; build it with classes={y.shape[1]}"
            )
    elif task.loss in ("cross_entropy", "ctc"):
        if (most := tasks.largest(y)) >= model.output_shape[-1]:
            raise WrongConfiguration(
                f"{task.name} has labels up to {most}, {model.name} has {model.output_shape[-1]} classes; "
                f"build it with classes={most + 1}"
            )
        steps = len(y.shape) == 2
        if task.loss == "cross_entropy" and steps != (len(model.output_shape) == 3):
            raise WrongConfiguration(
                f"{task.name} has a label for each {'step' if steps else 'example'}, {model.name} gives "
                f"{model.output_shape[1:]}"
            )
    if task.loss == "mean_squared_error" and tuple(y.shape[1:]) != tuple(model.output_shape[1:]):
        raise WrongConfiguration(
            f"{task.name} has targets of shape {y.shape[1:]}, {model.name} gives {model.output_shape[1:]}"
        )


def check_streams(model: keras.Model, task: Task) -> None:
    """From here on every batch of a stream is checked as the first one was."""

    def check(pair: Pair) -> Pair:
        check_fit(model, replace(task, train=pair, test=None, streams={}))
        return pair

    for stream in task.streams.values():
        stream.uses["check"] = check


def _tokens(x: Any) -> Iterator[tuple[str, Any]]:
    """The inputs that are tokens, by name."""
    for name, part in (x if isinstance(x, dict) else {"token_ids": x}).items():
        if np.issubdtype(part.dtype, np.integer):
            yield name, part
