"""When a run is saved, how many of its checkpoints are kept, and what follows when a save fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from safetensors import SafetensorError

from zoo.errors import NotSaved
from zoo.training import page
from zoo.training.checkpoints import State, keep
from zoo.training.plan import Plan
from zoo.training.run import Run
from zoo.training.runs import record, save

logger = logging.getLogger(__name__)

FAILURES = (OSError, SafetensorError)  # of a disk that is full, a folder that is gone


class Saver:
    """The saves of a run under way: at epochs, within them every so many steps or seconds, and at its end.

    `state` returns what is saved of it beside the model and the optimizer.
    """

    def __init__(self, plan: Plan, run: Run, optimizer: Any, state: Callable[[], State]):
        self.plan, self.run, self.optimizer, self.state = plan, run, optimizer, state
        self.every = None if plan.checkpoint is None else plan.options.interval
        self.last = time.perf_counter()
        self.failure: Exception | None = None  # of the last save

    def due(self, steps: int) -> bool:
        """Whether the run is to be saved after so many steps, within an epoch."""
        if self.every is None:
            return False
        if self.every.steps is not None:
            return steps % self.every.steps == 0
        return time.perf_counter() - self.last >= self.every.seconds

    def save(self) -> None:
        """Save the run, if it has a path. A failure is reported, and the next save tries again."""
        path, run, kept = self.plan.checkpoint, self.run, self.plan.options.keep or 1
        if path is None:
            return
        try:
            save(path, self.plan.folder, run, self.optimizer, self.state())
            if kept > 1:
                keep(path, len(run.losses), kept)
            self.failure = None
        except FAILURES as error:
            self.failure = error
            logger.warning("%s: not saved after step %d: %s; the next save tries again",
                           path, len(run.losses), error)  # fmt: skip
        self.last = time.perf_counter()

    def finish(self, *, changed: bool) -> None:
        """Write the facts of the whole run, see `record`. Raises NotSaved where the last save failed."""
        try:
            record(self.run, self.plan.folder, changed=changed)
        except FAILURES as error:
            self.failure = error
        if self.failure is not None:
            raise NotSaved(
                f"{self.plan.checkpoint}: the run ended after step {len(self.run.losses)} and could not be "
                f"saved: {self.failure}. The error has it as its attribute `run`",
                self.run,
            ) from self.failure
        if self.plan.folder is not None:
            try:
                page.write(self.plan.folder, self.run)
            except FAILURES as error:
                logger.warning("%s: no page of the run: %s", self.plan.folder, error)
