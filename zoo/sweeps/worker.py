"""One run of a sweep, in a process of its own: `python -m zoo.sweeps.worker FOLDER`, or a task of Ray's.

Command, see `zoo.processes.workers`:

    run     trains; answers {"step"} from time to time, and at the end what `execute` returns
"""

from __future__ import annotations

import math
import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo import _lazy, backends, registry, storage, tokenizers, training
from zoo._lazy import keras, ops
from zoo.errors import NonFinite
from zoo.processes.workers import Answer, serve
from zoo.sweeps.tasks import Record, Task, failure
from zoo.training import plan
from zoo.training.chain import fingerprint

PAUSE_S = 5.0  # between two answers: a worker that sends nothing counts as hung
INTERRUPTED = 128  # added to the signal's number in the exit status of an interrupted run


def environment(cpus: int, gpus: float) -> dict[str, str]:
    """The variables of a run's process: threads, and no run takes all memory of a GPU that it shares."""
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    return {
        "OMP_NUM_THREADS": str(cpus),
        "NPROC": str(cpus),  # XLA's
        **(shared if 0 < gpus < 1 else {}),
    }


def execute(
    task: Record, cpus: int = 1, gpus: float = 0, watch: Callable[[int, Any], None] | None = None
) -> Record:
    """Train, and return the result; an error becomes its `error`. The framework is imported here."""
    os.environ.update(environment(cpus, gpus))
    start = time.perf_counter()
    try:
        run = _train(Task(**task), cpus, gpus, watch)
    except NonFinite as error:
        result = failure(f"{type(error).__name__}: {storage.reason(error)}", diverged=True)
    except Exception as error:
        result = failure(f"{type(error).__name__}: {storage.reason(error)}")
    else:
        if run.signal is not None:
            os._exit(INTERRUPTED + run.signal)  # half a run is no result
        result = _facts(run)
    return {**result, "seconds": time.perf_counter() - start, "host": platform.node()}


def execute_alone(task: Record, cpus: int, gpus: float) -> Record:
    """The same, in a process that is for this task alone."""
    _lazy.leave_out_extras()
    return execute(task, cpus, gpus)


def _train(task: Task, cpus: int, gpus: float, watch: Callable[[int, Any], None] | None) -> training.Run:
    options = task.options
    device = options.pop("device", None) or (None if gpus else "cpu")
    backends.use(task.backend, threads=cpus, device=device)
    where = options.pop("task", None)
    model: Any = task.model
    if task.arguments:
        model = _build(task, where, options)
        options.pop("dtype", None)
    return training.train(model, where, seed=task.seed, progress=False, watch=watch, **options)


def _build(task: Task, where: str | None, options: Mapping[str, Any]) -> keras.Model:
    """The model for its task, with its own arguments."""
    planned = plan.plan_model(
        task.model,
        where or registry.card(task.model).task,
        options.get("weights"),
        tokenizer=tokenizers.resolve(options.get("tokenizer")),
        loss=options.get("loss"),
        fine_tune=True,
    )
    with backends.exactly(options.get("exact")):
        changed = replace(planned, arguments={**planned.arguments, **task.arguments})
        return changed.build(task.seed, options.get("dtype"))


def _facts(run: training.Run) -> Record:
    """What is kept of a run. `hash` is that of its losses and weights."""
    current = backends.current()
    weights = [np.asarray(ops.convert_to_numpy(variable)) for variable in run.model.variables]
    losses = [loss for loss in (epoch.get("train_loss") for epoch in run.history) if loss is not None]
    train_loss = losses[-1] if losses else run.losses[-1]
    metrics = {**run.metrics, "train_loss": train_loss}
    diverged = [name for name, value in metrics.items() if not math.isfinite(value)]
    return {
        "error": f"{diverged[0]} is not finite" if diverged else None,
        "diverged": bool(diverged),
        "metrics": {**metrics, "train_s": run.train_s},
        "history": run.history,
        "losses": run.losses,
        "hash": fingerprint([*weights, run.losses]),
        "mode": run.mode,
        "steps": len(run.losses),
        "batch_size": run.batch_size,
        "per_epoch": run.per_epoch,
        "recipe": run.recipe,
        "first_step_s": run.first_step_s,
        "peak_mb": current.peak_memory() / 2**20,
        "version": current.version(),
        "device": current.devices()[0].name,
    }


class Worker:
    """Answers `zoo.sweeps.pool`."""

    def __init__(self, folder: Path, answer: Answer):
        del folder
        self.answer = answer

    def run(self, *, task: Record, cpus: int, gpus: float) -> None:
        """`execute`, with an answer from time to time."""
        answered = time.perf_counter()

        def watch(step: int, loss: Any) -> None:
            nonlocal answered
            del loss
            if time.perf_counter() - answered > PAUSE_S:
                answered = time.perf_counter()
                self.answer(step=step + 1)

        self.answer(last=True, **execute(task, cpus, gpus, watch))


if __name__ == "__main__":
    serve(Worker)
