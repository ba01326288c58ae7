"""What a sweep costs: a few steps of each model on each framework are timed before its runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from zoo.sweeps.specification import Specification, plan_of
from zoo.sweeps.tasks import Record, Results, Task

STEPS = 5  # that are timed
WORTH = 3  # runs to each that is timed, or more: the estimate of fewer would take about as long as they
LENGTH = ("epochs", "early_stopping")  # options that the timed steps do without

Kind = tuple[Any, ...]  # what runs have in common that take about equally long for a step


def kind_of(task: Task) -> Kind:
    """Model, framework and data."""
    return task.model, task.backend, task.settings.get("task")


def probes(sweep: Specification) -> dict[Kind, Task]:
    """The runs of a few steps, one for each kind of run."""
    found: dict[Kind, Task] = {}
    for task in sweep.examples():
        settings = {name: value for name, value in task.settings.items() if name not in LENGTH}
        found.setdefault(kind_of(task), replace(task, settings={**settings, "steps": STEPS}))
    return found


def missing(sweep: Specification, results: Results) -> list[tuple[Task, int]]:
    """How many runs of each combination have no result yet; of a search, all."""
    if sweep.search is not None:
        return [(task, len(sweep.seeds) * sweep.search.trials) for task in sweep.examples()]
    return [
        (task, sum(results.read(replace(task, seed=seed)) is None for seed in sweep.seeds))
        for task in sweep.examples()
    ]


def seconds(task: Task, timed: Record) -> float:
    """The time of a run, from the timed steps of its kind: a step takes as long as it has examples."""
    batch = task.settings.get("batch_size", timed["batch_size"])
    per_epoch = math.ceil(timed["per_epoch"] * timed["batch_size"] / batch)
    first, train = timed["first_step_s"], timed["metrics"]["train_s"]
    step = max(0.0, train - first) / (STEPS - 1) * batch / timed["batch_size"]
    return timed["seconds"] - train + first + step * plan_of(task).length(per_epoch)


def sentence(
    sweep: Specification, missing: Sequence[tuple[Task, int]], timed: Mapping[Kind, Record], jobs: int
) -> str:
    """How many runs are to be made, and how long they take."""
    runs, total = sum(count for _, count in missing), 0.0
    text = f"{runs:,} to run, {sweep.runs - runs:,} done before"
    for task, count in missing:
        found = timed.get(kind_of(task))
        if found is None or found["error"]:
            return text
        total += count * seconds(task, found)
    if not runs:
        return text
    return f"{text}; about {duration(total / jobs)} with {jobs} at a time, from {STEPS} steps of each kind"


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, in words."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
