"""A training run, as `zoo.train` returns it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

from zoo._lazy import keras
from zoo.tasks import Own, Task
from zoo.training.engines import Batches, Engine


def is_held_out(name: str) -> bool:
    """Whether a value of that name in a run's history is of the held-out examples."""
    return not name.startswith("train_") and name != "learning_rate"


def held_out(epoch: Mapping[str, float]) -> dict[str, float]:
    """The held-out metrics of an epoch in a run's history."""
    return {name: value for name, value in epoch.items() if is_held_out(name)}


@dataclass
class Run:
    """What a training run did and left."""

    model: keras.Model
    backend: str
    engine: str
    mode: str
    task: Task
    batch_size: int
    seed: int
    recipe: str  # the optimizer, batch size and length, in words
    trainer: Engine = field(repr=False)  # the engine, for more steps and predictions
    losses: list[float] = field(default_factory=list)  # one a step, before its update
    metrics: dict[str, float] = field(default_factory=dict)  # on held-out examples, after the last step
    # After each epoch: the same, "train_loss" (the mean of its steps), "learning_rate" (of the last), and
    # with `train_metrics` "train_accuracy" or the like.
    history: list[dict[str, float]] = field(default_factory=list)
    first_step_s: float = 0.0  # compiling included
    train_s: float = 0.0  # all steps, evaluation left out
    signal: int | None = None  # that stopped it before its end: of Ctrl-C, SIGTERM or SIGUSR1
    settings: dict[str, Any] = field(default_factory=dict)  # the optimizer's, by name
    class_weights: str = ""  # see zoo.training.weighting
    freeze: str = ""  # patterns of the layers that are frozen
    unfreeze: str = ""  # the epochs after which one block of them more is trained
    lora: str = ""  # the adapters it trains, see zoo.lora.LoRA
    exact: bool = False  # whether its bits are the same on every framework
    saved: Path | None = None  # the folder or the checkpoint it was saved in
    left_out: list[int] = field(default_factory=list)  # steps without an update, of `on_nan`
    best: dict[str, Any] | None = None  # the checkpoint that `keep_best` keeps: metric, value, step, file

    @property
    def per_epoch(self) -> int:
        """The steps of an epoch."""
        return self.task.steps(self.batch_size)

    def batches(self, step: int = 0, own: Own | None = None) -> Batches:
        """All batches after so many steps, epoch after epoch; `own` is that of `Task.batches`."""
        epoch, position = divmod(step, self.per_epoch)
        firsts, part = chain([position], repeat(0)), {} if own is None else {"own": own}
        return Batches(
            batch
            for number, first in zip(count(epoch), firsts)
            for batch in self.task.batches(self.batch_size, self.seed, number, first, **part)
        )

    @property
    def interrupted(self) -> bool:
        """Whether a signal stopped it before its end."""
        return self.signal is not None

    @property
    def stepper(self) -> Engine:
        """The former name of `trainer`, until the next release."""
        warnings.warn("Run.stepper is called Run.trainer now", DeprecationWarning, stacklevel=2)
        return self.trainer

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return (
            f"<Run of {self.model.name} on {self.task.name}: {self.backend}, {self.engine} {self.mode}, "
            f"{len(self.losses)} steps in {self.train_s:.1f} s; {metrics}>"
        )
