"""The loop of a run: what happens after a step, after an epoch, and at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing, nullcontext
from itertools import islice
from math import ceil, floor, nan
from typing import Any

import numpy as np

from zoo.backends.world import get_world
from zoo.training.callbacks import Callback
from zoo.training.chain import recorder
from zoo.training.checkpoints import State
from zoo.training.engines import number
from zoo.training.identity import FACTS as IDENTITY
from zoo.training.keras_callbacks import KerasCallbacks
from zoo.training.metrics import evaluate, evaluate_training
from zoo.training.nonfinite import Guard, Interrupted
from zoo.training.progress import SIGNALS, announce, bar, epoch_line, interruptible
from zoo.training.recomputation import recomputing
from zoo.training.run import Run
from zoo.training.saving import KEPT, Saver
from zoo.training.settings import rate_of
from zoo.training.startup import Start
from zoo.training.stopping import EarlyStopper, EarlyStopping, averages
from zoo.training.unfreezing import Unfreezing
from zoo.training.workers import signals

Tensor = Any


class Loop:
    """A run under way: an engine calls `on_step` and `on_epoch` until it is `stopped`."""

    def __init__(self, start: Start):
        self.run, self.plan, self.steps, self.identity = start.run, start.plan, start.steps, start.identity
        self.per_epoch = self.run.per_epoch
        self.resumed = len(self.run.losses)  # steps of the run that is resumed
        self.pending: list[Tensor] = []  # losses on the device; those before are the run's
        self.world = get_world()
        self.received: list[int] = []  # signals of this process
        self.signals = self.received if self.world.size == 1 else []  # the first one stops the run
        options = self.plan.options
        self.progress = sys.stderr.isatty() if options.progress is None else options.progress
        self.progress = self.progress if self.world.rank == 0 else False
        rule = options.early_stopping
        self.stopper = EarlyStopper(rule, self.run) if isinstance(rule, EarlyStopping) else None
        if self.stopper is not None and self.plan.saved is not None:
            self.stopper.load_state_dict(self.plan.saved.facts, self.plan.saved.arrays)
        self.saver = Saver(self.plan, self.run, start.optimizer, self.state_dict)
        self.recorder = recorder(self.plan, self.run)
        self.unfreezing = start.unfreezing
        first = self.world.rank == 0  # of the workers, which alone reports
        self.callbacks = [each for each in options.callbacks if isinstance(each, Callback) and first]
        self.watch = options.watch if first else None
        theirs = [each for each in options.callbacks if not isinstance(each, Callback)]
        self.keras = KerasCallbacks(theirs, self.run.trainer, self.per_epoch, self.steps)
        self.guard = Guard(options.on_nan, self.run, start.network, start.objective)
        self.network, self.over = start.network, start.ended
        self.paused = 0.0  # seconds between epochs

    @property
    def done(self) -> int:
        """The steps so far, those of the run that is resumed included."""
        return len(self.run.losses) + len(self.pending)

    @property
    def stopped(self) -> bool:
        """Whether the engine is to make no more steps: the run is over, or another phase begins."""
        return self.over or (self.unfreezing is not None and self.unfreezing.due(self.done))

    @property
    def epoch(self) -> int:
        """The epoch of the last step, counted from 1."""
        return -(-self.done // self.per_epoch)

    @property
    def remaining(self) -> int:
        """The steps until the end of the epoch."""
        return self.per_epoch - self.done % self.per_epoch

    def fetch(self) -> None:
        """Move the losses from the device to the run."""
        self.run.losses += [number(loss) for loss in self.pending]
        self.pending.clear()

    def finish(self) -> Run:
        """Train to the end; the run."""
        options, run = self.plan.options, self.run
        fine_tuned = options.weights is not None and options.progress is None
        announce(run, self.progress, self.plan.note, fine_tuned=fine_tuned)
        for callback in self.callbacks:
            callback.on_begin(run)
        self.guard.begin()
        with ExitStack() as stack:
            stack.callback(self.saver.close)
            stack.enter_context(recomputing(self.network, options.recompute))
            stack.enter_context(run.trainer.at_work())
            self.keras.on_begin()
            self.show = stack.enter_context(bar(run, self.steps, self.progress is True))
            stack.enter_context(self.world.contact())
            stack.enter_context(interruptible(self.received))
            self.begin = self.epoch_begin = time.perf_counter()
            if self._is_unmeasured():
                self.on_epoch()
            elif not self.over:
                self.keras.on_epoch_begin(self.done)
            while not self.over:
                if self.unfreezing is not None and self.unfreezing.due(self.done):
                    self._unfreeze(self.unfreezing)
                    stack.enter_context(run.trainer.at_work())
                self._fit()
            run.train_s = time.perf_counter() - self.begin - self.paused
            run.mode = run.trainer.mode
            self._note()
            changed = [run.trainer.copy_ema_to_weights(), self.stopper is not None and self.stopper.restore()]
            changed.append(self.keras.on_end())
        if any(changed):
            run.metrics = evaluate(run.trainer, run.task, run.batch_size)
        self.saver.finish(changed=any(changed))
        self.world.total(np.zeros(1))  # no worker ends, and has its launcher end the others, before the save
        for callback in self.callbacks:
            callback.on_end(run)
        return run

    def _fit(self) -> None:
        """Make the steps up to the end, or until some of them have to be repeated."""
        end = min(self.steps, self.steps if self.unfreezing is None else self.unfreezing.end)
        try:
            own = self.world.own_rows if self.world.size > 1 else None
            batches = self.run.batches(self.done, own)
            with closing(batches):  # the threads that read them end
                # No more than are used: Keras reads ahead, and a generator gives its batches once.
                self.run.trainer.fit(islice(batches, end - self.done), self)
        except Interrupted:
            self.fetch()
            self.guard.recover()
            self.over = bool(self.signals) or self.done >= self.steps or self.keras.stop
            if self.over or not self.done % self.per_epoch:
                self.on_epoch()
            else:
                self.keras.on_step_begin(self.done)

    def _is_unmeasured(self) -> bool:
        """Whether the run that is resumed was killed before its last epoch was measured."""
        epochs = self.done / self.per_epoch
        return len(self.run.history) < (ceil(epochs) if self.over else floor(epochs))

    def _unfreeze(self, unfreezing: Unfreezing) -> None:
        """Begin the phase of the next step."""
        self.run.trainer = self.keras.trainer = unfreezing.advance(self.run.trainer, self.done)
        self.saver.optimizer = unfreezing.optimizer
        self.guard.keep()

    def on_step(self, loss: Tensor) -> None:
        """After a step with this loss, which is still on the device."""
        self.pending.append(loss)
        steps = self.done
        if self.recorder is not None:
            self.recorder.on_step(number(loss))
        if steps == self.resumed + 1:
            number(loss)
            self.run.first_step_s = time.perf_counter() - self.begin
        if self.watch:
            self.watch(steps - 1, loss)
        for callback in self.callbacks:
            callback.on_step(steps, loss)
        self.show(steps, loss)
        if self.guard.due(steps):
            self.check()
        self.keras.on_step(steps, loss)
        self.over = self._is_signalled() or steps >= self.steps or self.keras.stop
        if not self.over and steps % self.per_epoch and self.saver.due(steps):
            self.check(save=True)

    def _is_signalled(self) -> bool:
        """Whether a signal stops the run; of several workers all know after the same step."""
        if self.world.stops(self.received) and not self.signals:
            self.signals += signals(self.received, SIGNALS)
        return bool(self.signals)

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
            run.metrics = evaluate(run.trainer, run.task, run.batch_size)
            trained = self._trained()
            run.history.append({**trained, **run.metrics})
            self._judge(own)
        if self.done:
            self.keras.on_epoch(self.done, trained, run.metrics)
            self.over |= self.keras.stop
        self.save()
        if self.progress == "lines" and self.done:
            epoch_line(run, self.per_epoch, self.steps, end - begin)
        for callback in self.callbacks if self.done else ():
            callback.on_epoch(self.epoch, {"step": self.done, "seconds": end - begin, **run.history[-1]})
        if not self.over:
            self.keras.on_epoch_begin(self.done)
        self.epoch_begin = time.perf_counter()
        self.paused += self.epoch_begin - end

    def _trained(self) -> dict[str, float]:
        """Of the epoch that ends: the mean loss of its steps, the last learning rate, and metrics."""
        run = self.run
        if not self.done:
            return {}
        steps = range((self.epoch - 1) * self.per_epoch, self.done)
        losses = [run.losses[i] for i in steps if i + 1 not in run.left_out] or [nan]
        return {
            "train_loss": sum(losses) / len(losses),
            "learning_rate": rate_of(self.saver.optimizer, self.done - len(run.left_out)),
            **(
                evaluate_training(run.trainer, run.task, run.batch_size)
                if self.plan.options.train_metrics
                else {}
            ),
        }

    def _judge(self, own: Sequence[np.ndarray]) -> None:
        """Decide by the metrics whether to stop, and whether to keep these weights; `own` is `keep_best`'s.

        An epoch that a signal cut will be made again, and is judged then.
        """
        whole = not self.done % self.per_epoch
        if self.signals and not whole:
            return
        if self.stopper is not None:
            self.over |= self.stopper.ends(self.run.metrics, whole=whole)
        self.saver.keep_best(own, whole=whole)

    def state_dict(self) -> State:
        """What is saved of the run beside the model and the optimizer."""
        facts, arrays = ({}, {}) if self.stopper is None else self.stopper.state_dict()
        return {
            **facts,
            IDENTITY: self.identity,
            **({} if self.saver.kept is None else {KEPT: self.saver.kept}),
        }, arrays

    def save(self, *, beside: bool = False) -> None:
        """Save the run, if it has a path; `beside` the steps that follow."""
        self._note()
        self.saver.save(beside=beside, chain=self.recorder and self.recorder.chain)
        if self.plan.options.on_nan != "stop" or self.keras.list.callbacks:
            self.guard.keep()  # a resumed run has no earlier state, and callbacks may set another rate now

    def check(self, *, save: bool = False) -> None:
        """Within an epoch, check the steps so far and save the run; the time is not that of steps."""
        self.fetch()  # waits for the steps under way
        begin = time.perf_counter()
        self.run.trainer.sync()
        self.guard.check()
        if save:
            self.save(beside=True)
        self.paused += time.perf_counter() - begin

    def _note(self) -> None:
        """Write the losses so far, and what stops the run, into it."""
        self.fetch()
        self.run.signal = self.signals[0] if self.signals else None
