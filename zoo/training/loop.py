"""The loop of a run: what happens after a step, after an epoch, and at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from itertools import chain, count, repeat
from math import ceil, floor, nan
from typing import Any

import numpy as np

from zoo.tasks import Pair
from zoo.training.checkpoints import State
from zoo.training.engines import number
from zoo.training.identity import FACTS as IDENTITY
from zoo.training.metrics import evaluate
from zoo.training.nonfinite import Guard, Interrupted
from zoo.training.progress import announce, bar, epoch_line, interruptible
from zoo.training.run import Run
from zoo.training.saving import KEPT, Saver
from zoo.training.startup import Start
from zoo.training.stopping import EarlyStopper, EarlyStopping, averages

Tensor = Any


class Loop:
    """A run under way: an engine calls `on_step` and `on_epoch` until it is `stopped`."""

    def __init__(self, start: Start):
        self.run, self.plan, self.steps, self.identity = start.run, start.plan, start.steps, start.identity
        self.per_epoch = self.run.task.steps(self.run.batch_size)
        self.resumed = len(self.run.losses)  # steps of the run that is resumed
        self.pending: list[Tensor] = []  # losses on the device; those before are the run's
        self.signals: list[int] = []  # received: the first one stops the run
        options = self.plan.options
        self.progress = sys.stderr.isatty() if options.progress is None else options.progress
        rule = options.early_stopping
        self.stopper = EarlyStopper(rule, self.run) if isinstance(rule, EarlyStopping) else None
        if self.stopper is not None and self.plan.saved is not None:
            self.stopper.load_state_dict(self.plan.saved.facts, self.plan.saved.arrays)
        self.saver = Saver(self.plan, self.run, start.optimizer, self.state_dict)
        on_nan, network, objective = self.plan.options.on_nan, start.network, start.objective
        self.guard = Guard(on_nan, self.run, network, objective, self.batches)
        self.stopped = start.ended
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

    def batches(self, step: int) -> Iterator[Pair]:
        """All batches after so many steps."""
        run, (epoch, position) = self.run, divmod(step, self.per_epoch)
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
        self.guard.begin()
        with bar(run, self.steps, self.progress is True) as self.show, interruptible(self.signals):
            self.begin = self.epoch_begin = time.perf_counter()
            self._measure_last()
            while not self.stopped:
                self._fit()
            run.train_s = time.perf_counter() - self.begin - self.paused
        run.mode = run.trainer.mode
        self._note()
        changed = [run.trainer.copy_ema_to_weights(), self.stopper is not None and self.stopper.restore()]
        if any(changed):
            run.metrics = evaluate(run.trainer, run.task)
        self.saver.finish(changed=any(changed))
        for callback in options.callbacks:
            callback.on_end(run)
        return run

    def _fit(self) -> None:
        """Make the steps up to the end, or until some of them have to be repeated."""
        try:
            self.run.trainer.fit(self.batches(self.done), self)
        except Interrupted:
            self.fetch()
            self.guard.recover()
            self.stopped = bool(self.signals) or self.done >= self.steps
            if self.stopped or not self.done % self.per_epoch:
                self.on_epoch()

    def _measure_last(self) -> None:
        """End the last epoch of the run that is resumed, if that was killed before it was measured."""
        epochs = self.done / self.per_epoch
        if len(self.run.history) < (ceil(epochs) if self.stopped else floor(epochs)):
            self.on_epoch()

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
        if self.guard.due(steps):
            self.check()
        self.stopped = bool(self.signals) or steps >= self.steps
        if not self.stopped and steps % self.per_epoch and self.saver.due(steps):
            self.check(save=True)

    def on_epoch(self) -> None:
        """At the end of an epoch, or of the run within one: measure, save, decide whether to stop."""
        run, begin = self.run, self.epoch_begin
        self.fetch()  # waits for the steps under way
        end = time.perf_counter()
        self.guard.check()
        if self.signals:
            self.save()  # first: whoever sent the signal may not wait for the evaluation
        judges = self.stopper is not None or self.saver.best is not None
        with averages(run) if judges else nullcontext([]) as own:
            run.metrics = evaluate(run.trainer, run.task)
            run.history.append(run.metrics)
            self._judge(own)
        self.save()
        if self.progress == "lines":
            epoch_line(run, self.per_epoch, self.steps, end - begin)
        self._call_back(end - begin)
        self.epoch_begin = time.perf_counter()
        self.paused += self.epoch_begin - end

    def _judge(self, own: Sequence[np.ndarray]) -> None:
        """Decide by the metrics whether to stop, and whether to keep these weights; `own` is `keep_best`'s.

        An epoch that a signal cut will be made again, and is judged then.
        """
        whole = not self.done % self.per_epoch
        if self.signals and not whole:
            return
        if self.stopper is not None:
            self.stopped |= self.stopper.ends(self.run.metrics, whole=whole)
        self.saver.keep_best(own, whole=whole)

    def state_dict(self) -> State:
        """What is saved of the run beside the model and the optimizer."""
        facts, arrays = ({}, {}) if self.stopper is None else self.stopper.state_dict()
        return {
            **facts,
            IDENTITY: self.identity,
            **({} if self.saver.kept is None else {KEPT: self.saver.kept}),
        }, arrays

    def _call_back(self, seconds: float) -> None:
        """Call the callbacks after an epoch that took so long."""
        done = self.done
        if not self.plan.options.callbacks or not done:
            return
        epoch = -(-done // self.per_epoch)
        steps = range((epoch - 1) * self.per_epoch, done)
        own = [self.run.losses[i] for i in steps if i + 1 not in self.run.left_out] or [nan]
        facts = {"step": done, "train_loss": sum(own) / len(own), "seconds": seconds, **self.run.metrics}
        for callback in self.plan.options.callbacks:
            callback.on_epoch(epoch, facts)

    def save(self) -> None:
        """Save the run, if it has a path."""
        self._note()
        self.saver.save()

    def check(self, *, save: bool = False) -> None:
        """Within an epoch, check the steps so far and save the run; the time is not that of steps."""
        self.fetch()  # waits for the steps under way
        begin = time.perf_counter()
        self.run.trainer.sync()
        self.guard.check()
        if save:
            self.save()
        self.paused += time.perf_counter() - begin

    def _note(self) -> None:
        """Write the losses so far, and what stops the run, into it."""
        self.fetch()
        self.run.signal = self.signals[0] if self.signals else None
