"""A run on several workers (`zoo.backends.world`): what it does not support, what its workers agree on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.backends.world import World, get_world, split
from zoo.errors import WrongConfiguration
from zoo.tasks import Pair, Stream
from zoo.training.callbacks import Callback
from zoo.training.chain import fingerprint
from zoo.training.objectives import Objective
from zoo.training.plan import Plan
from zoo.training.run import Run

LARGEST = 1e-4  # relative difference of a custom loss from the mean over the parts of a batch

# What an option is, where workers do not support its value -> what to do.
REFUSED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "engine": (lambda o: o.engine != "native", "Keras's `fit` sums no gradients over workers; use 'native'"),
    "checkpoint_every": (
        lambda o: o.interval is not None and o.interval.steps is None,
        "workers' clocks differ; give a number of steps",
    ),
    "callbacks": (
        lambda o: not all(isinstance(each, Callback) for each in o.callbacks),
        "those of keras.callbacks change a run, which only worker 0 would; use zoo.Callback, or options",
    ),
}  # fmt: skip


def check_options(options: Any, workers: int) -> None:
    """Raise WrongConfiguration for an option that a run on so many workers does not support."""
    for name, (is_refused, advice) in REFUSED.items() if workers > 1 else ():
        if is_refused(options):
            value = getattr(options, name)
            shown = "" if name == "callbacks" else f"={value!r}"
            raise WrongConfiguration(f"{name}{shown} with workers={workers}: {advice}")


def check_data(plan: Plan, workers: int) -> None:
    """Raise WrongConfiguration for batches that are made elsewhere, which may differ between workers."""
    streams = [each for each in (plan.task, plan.options.validation) if isinstance(each, Stream)]
    if streams and workers > 1:
        raise WrongConfiguration(
            f"{streams[0].name} with workers={workers}: batches made elsewhere may differ between them; "
            "give arrays, a task's name or the path of data"
        )


def check_start(run: Run, network: keras.Model, objective: Objective, mode: str) -> None:
    """Raise WrongConfiguration for layers or a loss whose parts are not those of one process."""
    workers = get_world()
    if workers.size == 1:
        return
    backends.current().check_workers(mode, network)
    if not isinstance(objective.loss, str):
        _check_loss(run, objective, next(run.batches()), workers)
    _agree(run, workers)


def _check_loss(run: Run, objective: Objective, batch: Pair, workers: World) -> None:
    """Raise WrongConfiguration unless a custom loss is a mean over examples, by the batch's parts."""
    x, y = batch
    logits = run.trainer.predict(x)
    parts = [split(y, rank, workers.size, objective.weight) for rank in range(workers.size)]
    losses = [part.weight * run.trainer.loss(y[own], logits[own]) for own, part in parts]
    whole, mean = run.trainer.loss(y, logits), float(np.sum(losses))
    if not abs(mean - whole) <= LARGEST * abs(whole):
        raise WrongConfiguration(
            f"loss= with workers={workers.size}: of a batch it is {whole:.6g}, and {mean:.6g} as the mean "
            "over its parts; expected a mean over examples. Return one, or train on one worker"
        )


def _agree(run: Run, workers: World) -> None:
    """Raise WrongConfiguration unless all workers begin with the same weights, settings and steps."""
    settings = repr((run.recipe, run.seed, run.settings, len(run.losses))).encode()
    weights = map(ops.convert_to_numpy, run.model.variables)
    own = np.zeros(workers.size)
    own[workers.rank] = int(fingerprint([np.frombuffer(settings, np.uint8), *weights])[:12], 16)
    found = workers.total(own)
    if other := next((i for i, value in enumerate(found) if value != found[0]), None):
        raise WrongConfiguration(
            f"worker {other} begins with other weights, settings or steps than worker 0; give all the same "
            "options, and a checkpoint that all of them can read"
        )


def signals(received: Sequence[int], known: Sequence[int]) -> list[int]:
    """The signals that any worker has received, in the order of `known`."""
    counts = get_world().total(np.array([float(each in received) for each in known]))
    return [each for each, count in zip(known, counts, strict=True) if count]
