"""The identity of a run: its model, task, loss and recipe, which must not change when it is resumed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from zoo import backends, registry
from zoo._lazy import keras
from zoo.errors import WrongConfiguration, shortlist
from zoo.tasks import Stream
from zoo.tasks.content import digests
from zoo.training.checkpoints import Checkpoint
from zoo.training.objectives import Objective
from zoo.training.recipes import described
from zoo.training.run import Run
from zoo.training.runs import arguments

FUNCTION = "the function "
FACTS = "identity"  # in the header of a checkpoint


def identity(
    run: Run, objective: Objective, steps: int, rates: Mapping[str, float], saved: Checkpoint | None
) -> dict[str, Any]:
    """The facts by which a run is known; `steps` are those it is to make, `rates` those by layer."""
    theirs = {} if saved is None else saved.facts.get(FACTS) or {}
    first = None if "train" in run.task.streams else run.task.train[0]
    part = next(iter(first.values())) if isinstance(first, Mapping) else first
    return {
        "model": run.model.name,
        "dtype": run.model.dtype_policy.name,
        "arguments": _all_arguments(run.model),
        "task": run.task.name,
        "examples": None if part is None else len(part),
        "content": digests(run.task),
        "loss": loss_name(objective.loss),
        "label_smoothing": objective.label_smoothing,
        "steps": steps,
        "rates": {**theirs.get("rates", {}), **rates},
    }


def settings(saved: Checkpoint, options: Any, task: Any, *, by_name: bool) -> dict[str, Any]:
    """The options that are the saved run's; the dtype is, where the model is built `by_name`.

    The batch size is not that of a stream, whose batches are made elsewhere.

    Raises WrongConfiguration if others are given.
    """
    names = ["seed", "freeze", "unfreeze", "lora", "class_weights"]
    names += [] if isinstance(task, Stream) else ["batch_size"]
    found = {name: saved.take(name, getattr(options, name)) for name in names}
    if (facts := saved.facts.get(FACTS)) is None:
        return found
    for name, given in options.rates.items():
        saved.agreed(name, facts.get("rates", {}).get(name), given)
    taken = ["label_smoothing", *(["dtype"] if by_name else [])]
    taken += [] if facts["loss"].startswith(FUNCTION) else ["loss"]
    return {**found, **{name: facts[name] for name in taken if getattr(options, name) is None}}


def loss_name(loss: Any) -> str:
    """A loss by its name; of a function, the name in its module."""
    return (
        loss if isinstance(loss, str) else f"{FUNCTION}{getattr(loss, '__qualname__', type(loss).__name__)}"
    )


def check(saved: Checkpoint, ours: Mapping[str, Any]) -> None:
    """Raise WrongConfiguration, with both named, if the run to resume is of something else.

    Files of earlier versions do not say of what they are, and are not compared.
    """
    theirs = saved.facts.get(FACTS)
    if theirs is None:
        return
    for name, what in (
        ("model", "the model "),
        ("dtype", "dtype="),
        ("loss", "loss="),
        ("label_smoothing", "label_smoothing="),
    ):
        if _plain(theirs[name]) != _plain(ours[name]):
            raise WrongConfiguration(
                f"resume: {saved.path} was trained with {what}{theirs[name]}, not {ours[name]}; give the same"
            )
    for part, words in (("train", "training examples"), ("held_out", "held-out examples")):
        content = theirs["content"][part], ours["content"][part]
        if content[0] != content[1] and None not in content:
            raise WrongConfiguration(
                f"resume: {saved.path} was trained on {_named(theirs, part)}, not on {_named(ours, part)}: "
                f"other {words}; give the same task, or `weights=` to fine-tune on another"
            )


def check_arguments(saved: Checkpoint, ours: Mapping[str, Any]) -> None:
    """Raise WrongConfiguration if the model was built with other arguments than the saved run's."""
    theirs = saved.facts.get(FACTS)
    if theirs is None or None in (theirs["arguments"], ours["arguments"]):
        return
    if other := _different(theirs["arguments"], ours["arguments"]):
        raise WrongConfiguration(
            f"resume: {saved.path}: {ours['model']} was built with {other}; give the same"
        )


def check_recipe(saved: Checkpoint, make: Any) -> None:
    """Raise WrongConfiguration unless `make(steps)`, the optimizer of the options, is the saved run's.

    Files of earlier versions do not say how long the run was to be, on which a schedule depends.
    """
    if (facts := saved.facts.get(FACTS)) is None:
        return
    with backends.without_tensorflow():
        given = make(facts["steps"])
        ours = json.loads(json.dumps(keras.optimizers.serialize(given)))
    theirs = saved.facts["optimizer"]
    other = _different(
        *({"optimizer": x["class_name"], **_without_rates(x["config"])} for x in (theirs, ours))
    )
    if other:
        raise WrongConfiguration(
            f"resume: {saved.path} was trained by {described(saved.optimizer())}; these options describe "
            f"{described(given)} ({other}); give the same options, or another out= or checkpoint="
        )


def _without_rates(config: Mapping[str, Any]) -> dict[str, Any]:
    """An optimizer's settings without what `zoo.training.rates` and `.unfreezing` add to its groups."""
    groups = {
        pattern: kept
        for pattern, own in (config.get("groups") or {}).items()
        if (kept := {k: v for k, v in own.items() if k not in ("learning_rate_multiplier", "start")})
    }
    return {**config, "groups": groups}


def _plain(value: Any) -> Any:
    """A model's name without the number that Keras adds to it."""
    head, _, tail = str(value).rpartition("_")
    return head if head and tail.isdigit() else value


def _named(facts: Mapping[str, Any], part: str) -> str:
    return f"{facts['task']} ({facts['examples']} examples, content {facts['content'][part][:8]})"


def _different(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """The first entries that differ: "depth=2, not 3"."""
    names = [name for name in {**theirs, **ours} if theirs.get(name) != ours.get(name)]
    return shortlist((f"{name}={theirs.get(name)}, not {ours.get(name)}" for name in names), 3)


def _all_arguments(model: keras.Model) -> dict[str, Any] | None:
    """The arguments a model of the zoo was built with, defaults included; None where they are not known."""
    given = arguments(model)
    if given is None or not registry.is_name(model.name):
        return None
    usual = json.dumps(registry.card(model.name).arguments, default=lambda x: getattr(x, "__name__", str(x)))
    return {**json.loads(usual), **given}
