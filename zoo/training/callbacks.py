"""Callbacks: what happens after a step, after an epoch and at the end of a run, with either engine.

class Printer(zoo.Callback):
    def on_epoch(self, epoch, facts):
        print(epoch, facts["train_loss"])

zoo.train("lenet5", callbacks=[Printer(), zoo.CSVLogger("log.csv")])
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoo.training.run import Run

Tensor = Any


class Callback:
    """The base class; a subclass overrides what it needs. An error in a callback ends the run."""

    def on_begin(self, run: Run) -> None:
        """Before the first step; `run` is new, or the resumed run so far."""

    def on_step(self, step: int, loss: Tensor) -> None:
        """After a step, counted from 1 over the run; `loss` is on the device, float(loss) waits for it."""

    def on_epoch(self, epoch: int, facts: Mapping[str, float]) -> None:
        """After an epoch, counted from 1, and at the end of a run within one.

        `facts`: "step", "seconds", "train_loss" (the mean over the epoch's steps), "learning_rate" (of its
        last update), the held-out metrics, and with `train_metrics` those on training examples,
        "train_accuracy".
        """

    def on_end(self, run: Run) -> None:
        """At the end of training, with the finished run."""
