"""Callbacks of Keras in a run of either engine: called in the order, and with the logs, of `fit`."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from types import CodeType, FunctionType
from typing import Any

import numpy as np

from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration
from zoo.training.callbacks import Callback
from zoo.training.engines import Engine, number

Tensor = Any

INTERNALS = {"optimizer", "loss", "compiled", "train_function", "make_train_function", "compute_loss"}
BATCH_HOOKS = ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end")
RATE = "give schedule=, or engine='keras'"
INSTEAD = {  # of a callback that needs a compiled model
    "ReduceLROnPlateau": RATE,
    "LearningRateScheduler": RATE,
    "TensorBoard": "give zoo.TensorBoard, or engine='keras'",
}
REFUSED = {  # with both engines
    "BackupAndRestore": "it would restore weights behind the run; give checkpoint= and resume='auto'",
    "SwapEMAWeights": "it would save averages as the weights; give ema=",
    "TerminateOnNaN": "a run stops by itself at a loss that is not finite; on_nan= says how",
}
STATEFUL = {  # whose state decides about training, and is not in a checkpoint
    "EarlyStopping": "give early_stopping=",
    "ReduceLROnPlateau": "give schedule=",
}


def check_callback(callback: Any, engine: str, *, resumes: bool) -> None:
    """Raise WrongConfiguration unless it is a callback that this engine, and a resumed run, can call."""
    if isinstance(callback, Callback):
        return
    loaded = sys.modules.get("keras.callbacks")  # whoever has a callback of Keras has imported it
    if loaded is None or not isinstance(callback, loaded.Callback):
        raise WrongConfiguration(
            f"callbacks: {callback!r}; expected objects of zoo.Callback or keras.callbacks.Callback"
        )
    kinds = [kind.__name__ for kind in type(callback).__mro__ if kind.__module__.startswith("keras.")]
    name, own = f"callbacks: {type(callback).__name__}", kinds[0]
    if own in REFUSED:
        raise WrongConfiguration(f"{name}: {REFUSED[own]}")
    if engine == "native" and (used := sorted(internals(callback))):
        instead = INSTEAD.get(own, "give engine='keras'")
        raise WrongConfiguration(
            f"{name} uses model.{used[0]}, which a model has only where Keras compiled it; {instead}"
        )
    if resumes and own in STATEFUL:
        raise WrongConfiguration(f"{name}: its state is not in a checkpoint to resume from; {STATEFUL[own]}")
    if resumes and getattr(callback, "save_best_only", False) and callback.best is None:
        raise WrongConfiguration(
            f"{name}: a resumed run does not know the best value so far; give initial_value_threshold="
        )


def check_rate(callbacks: Sequence[Any], optimizer: Any) -> None:
    """Raise WrongConfiguration where a callback would assign the rate of an optimizer with a schedule."""
    if not getattr(optimizer, "scheduled", False):
        return
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ReduceLROnPlateau | keras.callbacks.LearningRateScheduler):
            raise WrongConfiguration(
                f"callbacks: {type(callback).__name__} sets the learning rate, and so does the optimizer's "
                "schedule; give an optimizer with a constant rate"
            )


def internals(callback: Any) -> set[str]:
    """The attributes in `INTERNALS` that the callback's code reads off a model."""
    methods = [
        f for kind in type(callback).__mro__ if kind.__name__ != "Callback" for f in vars(kind).values()
    ]
    functions = [f for f in [*methods, *vars(callback).values()] if isinstance(f, FunctionType)]
    return {name for function in functions for name in _read_off_a_model(function.__code__)}


def _read_off_a_model(code: CodeType) -> Iterator[str]:
    for first, second in pairwise(dis.get_instructions(code)):
        if first.argval == "model" and second.opname.startswith("LOAD_") and second.argval in INTERNALS:
            yield second.argval
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _read_off_a_model(constant)


class KerasCallbacks:
    """Callbacks of Keras during a run.

    Logs of a batch have its "loss"; those of an epoch its mean "loss", "learning_rate", and the held-out
    metrics with the prefix "val_". Epochs and batches count from 0, those of a run that is resumed included.
    """

    def __init__(self, callbacks: Sequence[Any], trainer: Engine, per_epoch: int, steps: int):
        self.trainer, self.per_epoch, self.logs = trainer, per_epoch, {}
        self.stop = False  # whether a callback has set `model.stop_training`
        self.list = keras.callbacks.CallbackList(
            list(callbacks), model=trainer.model, epochs=-(-steps // per_epoch), steps=per_epoch, verbose=0
        )
        base = keras.callbacks.Callback
        self.by_batch = any(
            hook in vars(callback) or getattr(type(callback), hook) is not getattr(base, hook)
            for callback in callbacks
            for hook in BATCH_HOOKS
        )

    def _call(self, hook: Callable[..., None], *arguments: Any) -> None:
        """Call a hook, and see whether it stops the run: the engine sets `model.stop_training` too."""
        self.trainer.model.stop_training = self.stop
        hook(*arguments)
        self.stop = bool(self.trainer.model.stop_training)

    def on_begin(self) -> None:
        """Before the first step."""
        self._call(self.list.on_train_begin)

    def on_epoch_begin(self, done: int) -> None:
        """Before the steps of an epoch, or of the rest of one, after so many of the run."""
        self._call(self.list.on_epoch_begin, done // self.per_epoch)
        self.on_step_begin(done)

    def on_step_begin(self, done: int) -> None:
        """Before a step; twice before one that is made again."""
        if self.by_batch:
            self._call(self.list.on_train_batch_begin, done % self.per_epoch)

    def on_step(self, done: int, loss: Tensor) -> None:
        """After a step, the last of `done`; the weights can be read and assigned."""
        if self.by_batch:
            self.trainer.sync()
            self._call(self.list.on_train_batch_end, (done - 1) % self.per_epoch, {"loss": number(loss)})
            if done % self.per_epoch:
                self.on_step_begin(done)

    def on_epoch(self, done: int, facts: Mapping[str, float], metrics: Mapping[str, float]) -> None:
        """After an epoch with these facts of training and held-out metrics."""
        self.logs = {name.removeprefix("train_"): value for name, value in facts.items()}
        self.logs |= {f"val_{name}": value for name, value in metrics.items()}
        self._call(self.list.on_epoch_end, (done - 1) // self.per_epoch, self.logs)

    def on_end(self) -> bool:
        """At the end of training; whether a callback has changed the weights, such as to the best epoch's."""
        if not self.list.callbacks:
            return False
        before = [np.array(ops.convert_to_numpy(v)) for v in self.trainer.model.variables]
        self.list.on_train_end(self.logs)
        after = (ops.convert_to_numpy(v) for v in self.trainer.model.variables)
        return not all(
            np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(before, after, strict=True)
        )
