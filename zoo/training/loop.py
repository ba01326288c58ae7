"""The loop of a run: what happens after a step, after an epoch, and at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator
from contextlib import closing, nullcontext
from itertools import chain, count, repeat
from typing import Any

from zoo.tasks import Pair
from zoo.training.engines import number
from zoo.training.metrics import evaluate
from zoo.training.progress import announce, bar, epoch_line, interruptible
from zoo.training.run import Run
from zoo.training.saving import Saver
from zoo.training.startup import Start
from zoo.training.stopping import EarlyStopper, EarlyStopping

Tensor = Any
BLOCK = 1_000  # losses that are fetched from the device at once


class Loop:
    """A run under way: an engine calls `on_step` and `on_epoch` until it is `stopped`."""

    def __init__(self, start: Start):
        self.run, self.plan, self.steps = start.run, start.plan, start.steps
        self.per_epoch = self.run.task.steps(self.run.batch_size)
        self.resumed = len(self.run.losses)  # steps of the run that is resumed
        self.pending: list[Tensor] = []  # losses on the device; those before are the run's
        self.signals: list[int] = []  # received: the first one stops the run
        options = self.plan.options
        self.progress = sys.stderr.isatty() if options.progress is None else options.progress
        rule = options.early_stopping
        self.stopper = EarlyStopper(rule, self.run) if isinstance(rule, EarlyStopping) else None
        self.saver = Saver(self.plan, self.run, start.optimizer)
        self.stopped = False
        self.paused = 0.0  # seconds between epochs

    @property
    def done(self) -> int:
        """The steps so far, those of the run that is resumed included."""
        return len(self.run.losses) + len(self.pending)

    @property
    def remaining(self) -> int:
        """The steps until the end of the epoch."""
        return self.per_epoch - self.done % self.per_epoch

    def fetch(self) -> None:
        """Move the losses from the device to the run."""
        self.run.losses += [number(loss) for loss in self.pending]
        self.pending.clear()

    def batches(self) -> Generator[Pair]:
        """All batches from here on."""
        run, (epoch, position) = self.run, divmod(self.done, self.per_epoch)
        firsts = chain([position], repeat(0))
        return (
            batch
            for number, first in zip(count(epoch), firsts)
            for batch in run.task.batches(run.batch_size, run.seed, number, first)
        )

    def finish(self) -> Run:
        """Train to the end; the run."""
        options, run = self.plan.options, self.run
        fine_tuned = options.weights is not None and options.progress is None
        announce(run, self.progress, self.plan.note, fine_tuned=fine_tuned)
        with bar(run, self.steps, self.progress is True) as self.show, interruptible(self.signals):
            self.begin = self.epoch_begin = time.perf_counter()
            with closing(self.batches()) as batches:  # the threads that read them end
                run.trainer.fit(batches, self)
            run.train_s = time.perf_counter() - self.begin - self.paused
        run.mode = run.trainer.mode
        self._note()
        changed = [run.trainer.copy_ema_to_weights(), self.stopper is not None and self.stopper.restore()]
        if any(changed):
            run.metrics = evaluate(run.trainer, run.task, run.batch_size)
        self.saver.finish(changed=any(changed))
        for callback in options.callbacks:
            callback.on_end(run)
        return run

    def on_step(self, loss: Tensor) -> None:
        """After a step with this loss, which is still on the device."""
        self.pending.append(loss)
        steps = self.done
        if steps == self.resumed + 1:
            number(loss)
            self.run.first_step_s = time.perf_counter() - self.begin
        if self.plan.options.watch:
            self.plan.options.watch(steps - 1, loss)
        for callback in self.plan.options.callbacks:
            callback.on_step(steps, loss)
        self.show(steps, loss)
        if len(self.pending) == BLOCK:
            self.fetch()
        self.stopped = bool(self.signals) or steps >= self.steps
        if not self.stopped and steps % self.per_epoch and self.saver.due(steps):
            self.save_within()

    def on_epoch(self) -> None:
        """At the end of an epoch, or of the run within one: measure, save, decide whether to stop."""
        run, begin = self.run, self.epoch_begin
        self.fetch()  # waits for the steps under way
        end = time.perf_counter()
        if self.signals:
            self.save()  # first: whoever sent the signal may not wait for the evaluation
        with nullcontext() if self.stopper is None else self.stopper.averages():
            run.metrics = evaluate(run.trainer, run.task, run.batch_size)
            run.history.append(run.metrics)
            if self.stopper is not None and self.stopper.ends(run.metrics):
                self.stopped = True
        self.save()
        if self.progress == "lines":
            epoch_line(run, self.per_epoch, self.steps, end - begin)
        self._call_back(end - begin)
        self.epoch_begin = time.perf_counter()
        self.paused += self.epoch_begin - end

    def _call_back(self, seconds: float) -> None:
        """Call the callbacks after an epoch that took so long."""
        done = self.done
        if not self.plan.options.callbacks or not done:
            return
        epoch = -(-done // self.per_epoch)
        own = self.run.losses[max(self.resumed, (epoch - 1) * self.per_epoch) :]
        facts = {"step": done, "train_loss": sum(own) / len(own), "seconds": seconds, **self.run.metrics}
        for callback in self.plan.options.callbacks:
            callback.on_epoch(epoch, facts)

    def save(self) -> None:
        """Save the run, if it has a path."""
        self._note()
        self.saver.save()

    def save_within(self) -> None:
        """Save the run within an epoch; the time is not counted as that of steps."""
        self.fetch()  # waits for the steps under way
        begin = time.perf_counter()
        self.run.trainer.sync()
        self.save()
        self.paused += time.perf_counter() - begin

    def _note(self) -> None:
        """Write the losses so far, and what stops the run, into it."""
        self.fetch()
        self.run.signal = self.signals[0] if self.signals else None
