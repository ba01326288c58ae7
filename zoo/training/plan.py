"""What is checked, and decided, before any work is done."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo import backends, registry, storage, tasks
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.tasks import Code, Task
from zoo.weights import located


def check_weights(model: str, weights: str | Path) -> None:
    """Raise what `zoo.weights.load` raises for weights that are not there, before a model is built."""
    if str(weights).startswith("hf:"):
        return
    path = located(model, weights)
    if not (storage.is_file(path) or storage.is_dir(path)):
        raise DataUnavailable(f"{path}: no such file of weights")


# What must hold before any work is done


def _fit_only(mode: str | None) -> str:
    if mode not in (None, "fit"):
        raise backends.BackendError(f"the keras engine has no mode {mode!r}; modes are the native engine's")
    return "fit"


def task_arguments(
    card: registry.Card, task: Any, loss: Any = None, tokenizer: Code | None = None
) -> dict[str, Any]:
    """The builder's arguments that a task decides: classes, channels, the shape of an example.

    A model made for photographs would take hours over thumbnails scaled up to its size, and gigabytes: it is
    built for images of 32 x 32 or the least it takes, for the few digits in its small configuration.
    """
    if isinstance(task, str):
        _, source = tasks.source(task, tokenizer)
        wanted = source.wanted(tokenizer)
        if source.side is not None and card.preprocessing is not None:
            least = {"image_size": max(32, card.small["image_size"])}
            wanted = {**(card.small if source.side < 28 else least), **wanted}
    else:
        data = (
            task
            if isinstance(task, Task)
            else tasks.from_arrays(task, loss=loss if isinstance(loss, str) else None)
        )
        shape = tasks.shapes(data.train[0])
        wanted = {"classes": data.classes, "shape": shape}
        if len(shape) == 3 and shape[0] == shape[1]:
            wanted |= {"image_size": shape[0], "channels": shape[2]}
    return {name: value for name, value in wanted.items() if name in card.arguments and value is not None}


def task_summary(card: registry.Card, task: str, tokenizer: Code | None = None) -> str:
    """What a task changes of a model, in a line; nothing if only its classes and channels."""
    usual = {**card.arguments, "classes": None, "channels": None}
    changes = {
        k: v for k, v in task_arguments(card, task, tokenizer=tokenizer).items() if usual[k] not in (None, v)
    }
    listed = ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in changes.items())
    return f"{card.name} for {task}: {listed}" if changes else ""


def _load(
    task: Any,
    shape: Any,
    loss: Any,
    validation: Any,
    preprocessing: Any,
    tokenizer: Code | None,
    errors: str,
) -> Task:
    if isinstance(task, Task | str):
        if validation is not None:
            raise WrongConfiguration("validation= goes with a pair of arrays; a task holds out its own")
        if isinstance(task, str):
            task = tasks.load(task, shape, preprocessing, tokenizer, errors=errors)
        return replace(task, loss=loss) if isinstance(loss, str) else task
    return tasks.from_arrays(task, loss=loss if isinstance(loss, str) else None, validation=validation)
