"""When a run is saved, how many of its checkpoints are kept, and what follows when a save fails."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from safetensors import SafetensorError

import zoo.training.page as page
from zoo.errors import NotSaved
from zoo.training.chain import Chain
from zoo.training.checkpoints import TRAINED, State, best, keep
from zoo.training.plan import Plan
from zoo.training.run import Run
from zoo.training.runs import prepare, record
from zoo.training.stopping import Best

logger = logging.getLogger(__name__)

KEPT = "best_checkpoint"  # in the header of a checkpoint
FAILURES = (OSError, SafetensorError)  # of a disk that is full, a folder that is gone


class Saver:
    """The saves of a run under way: at epochs, within them every so many steps or seconds, and at its end.

    `state` returns what is saved of it beside the model and the optimizer.
    """

    def __init__(self, plan: Plan, run: Run, optimizer: Any, state: Callable[[], State]):
        self.plan, self.run, self.optimizer, self.state = plan, run, optimizer, state
        self.every = plan.options.interval
        self.last = time.perf_counter()
        self.failure: Exception | None = None  # of the last save
        self.pool = ThreadPoolExecutor(1, "save")
        self.pending: tuple[int, Future[None]] | None = None  # a save under way, after so many steps
        metric = plan.options.keep_best
        self.best = None if metric is None else Best("keep_best", metric, run.task)
        self.kept: dict[str, Any] | None = None  # the best checkpoint of a whole epoch
        saved = {} if plan.saved is None else plan.saved.facts.get(KEPT) or {}
        if self.best is not None and saved.get("metric") == metric:
            self.best.value, self.kept = saved["value"], saved
            run.best = self.kept

    def due(self, steps: int) -> bool:
        """Whether the run is to be saved after so many steps, within an epoch."""
        if self.every is None:
            return False
        if self.every.steps is not None:
            return steps % self.every.steps == 0
        return time.perf_counter() - self.last >= self.every.seconds

    def save(self, *, beside: bool = False, chain: Chain | None = None) -> None:
        """Save the run, if it has a path; `beside`: only copy it, and write while the steps go on.

        The chain of an exact run is written into its folder first. A failure is reported, and the next save
        tries again.
        """
        path, run, kept = self.plan.checkpoint, self.run, self.plan.options.keep or 1
        if path is None:
            return
        self.wait()
        if chain is not None and self.plan.folder is not None:
            try:
                chain.write(self.plan.folder)
            except FAILURES as error:
                logger.warning("%s: its chain is not saved: %s", self.plan.folder, error)
        steps, write = len(run.losses), prepare(path, self.plan.folder, run, self.optimizer, self.state())

        def save() -> None:
            write()
            if kept > 1:
                keep(path, steps, kept)

        self.pending = steps, self.pool.submit(save)
        if not beside:
            self.wait()
        self.last = time.perf_counter()

    def wait(self) -> None:
        """Wait until the last save is on the disk."""
        if self.pending is None:
            return
        (steps, writing), self.pending = self.pending, None
        try:
            writing.result()
            self.failure = None
        except FAILURES as error:
            self.failure = error
            logger.warning("%s: not saved after step %d: %s; the next save tries again",
                           self.plan.checkpoint, steps, error)  # fmt: skip

    def close(self) -> None:
        """Wait for the last save, and end the thread that writes."""
        self.wait()
        self.pool.shutdown()

    def keep_best(self, own: Sequence[np.ndarray], *, whole: bool) -> None:
        """Save the run as its best checkpoint, if its metrics are.

        `own` are the model's variables where it has the averages of its weights now. An epoch that is not
        `whole` is made again by a run that is resumed, which does not know of it.
        """
        path, run = self.plan.checkpoint, self.run
        if self.best is None or path is None:
            return
        before = self.best.lowest, run.best, self.kept
        if not self.best.improves(run.metrics):
            return
        file = best(path)
        run.best = {
            "metric": self.best.metric,
            "value": self.best.value,
            "step": len(run.losses),
            "file": file.name,
        }
        self.kept = run.best if whole else self.kept
        facts, arrays = self.state()
        paths = (f"{TRAINED}/{v.path}" for v in run.model.variables)
        arrays = {**arrays, **dict(zip(paths, own, strict=False))}
        try:
            prepare(file, None, run, self.optimizer, (facts, arrays))()
        except FAILURES as error:
            self.best.lowest, run.best, self.kept = before  # as the file has it
            logger.warning("%s: not saved after step %d: %s", file, len(run.losses), error)

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
