"""Losses and gradients that are NaN or infinite: where they arise; the policies stop, skip and rollback.

No step waits for them. Losses are fetched from the device in blocks anyway; with each block, at the end of
each epoch and before each save they are checked, and so are the weights, in which a non-finite gradient
leaves its trace. If one is not finite, the run goes back to its state at the last check of a whole block,
or at the last epoch's end or save, if it is not to stop or has callbacks of Keras; the steps since then are
repeated, each checked: they are the same bit for bit, so the first bad one is found. Its batch is run once
more, layer by layer, before its update.

Under a dynamic loss scale (mixed_float16) the optimizer itself leaves out updates that are not finite; these
steps are normal, and the weights alone count, or a whole block of such losses. The CTC loss of a label that
does not fit into its frames is infinite, and its gradient 0: of this loss, NaN alone counts.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.errors import NonFinite, WrongConfiguration
from zoo.tasks import Pair
from zoo.training.engines import Countdown, number
from zoo.training.objectives import Objective
from zoo.training.run import Run
from zoo.training.stopping import assign, numbers

logger = logging.getLogger(__name__)

Tensor = Any
EVERY = {"stop": 1_000, "skip": 100, "rollback": 100}  # policy -> steps of a block
MOST = 10  # times in succession, without a good block between them, that a run skips or goes back


class Interrupted(Exception):
    """Raised within `Engine.fit`, which leaves it: the steps since the last good state are to be repeated."""


@dataclass(frozen=True)
class State:
    """Of the model and the optimizer, in host memory."""

    variables: Sequence[np.ndarray]
    optimizer: Mapping[str, np.ndarray]


class Guard:
    """Checks a run under way.

    `start` is the step after which the losses are not checked yet; `state` is that with which the next step
    is made then, None where the optimizer's is not known.
    """

    def __init__(self, policy: str, run: Run, network: keras.Model, objective: Objective):
        self.policy, self.run, self.network, self.objective = policy, run, network, objective
        self.every = EVERY[policy]
        self.failures, self.failed = 0, 0  # in succession, and the step after the last one
        stream = run.task.streams.get("train")
        self.repeats = stream is None or not stream.once  # whether steps can be made again
        if policy != "stop" and not self.repeats:
            raise WrongConfiguration(
                f"on_nan={policy!r} makes steps again, and a generator gives its batches once; give a "
                "function that returns it"
            )

    def begin(self) -> None:
        """Keep the state before the first step. Raises NonFinite if its weights are not finite."""
        if (path := non_finite(self.run.model)) is not None:
            raise NonFinite(
                f"{self.run.model.name}: the weights of {path} are not finite before the first step"
            )
        self.keep()

    def due(self, step: int) -> bool:
        """Whether a whole block has been made since the last good state."""
        return step - self.start >= self.every

    def keep(self) -> None:
        """Keep the state after the run's losses so far; the model is in step (`Engine.sync`)."""
        self.start, self.state = len(self.run.losses), None
        self.scaled = self.accumulates = False
        if not self.repeats:
            return
        try:
            optimizer = self.run.trainer.state_dict()
        except WrongConfiguration:  # Keras's own optimizer: it can stop, and not go back
            if self.policy != "stop":
                raise
            return
        self.state, self.scaled = State(numbers(self.run.model), optimizer), "scale" in optimizer
        self.accumulates = "weight_sum" in optimizer

    def check(self) -> None:
        """Check the losses since the last good state, and the weights. Raises Interrupted."""
        losses = self.run.losses[self.start :]
        bad = [] if np.isfinite(losses).all() else list(map(self.is_bad, losses))
        found = all(bad) and len(bad) >= EVERY["skip"] if self.scaled else any(bad)
        if found or self.fault() is not None:
            raise Interrupted
        if len(self.run.losses) - self.failed >= self.every:
            self.failures = 0
        if self.due(len(self.run.losses)):
            self.keep()

    def fault(self) -> str | None:
        """The first weight that is not finite, or sum of gradients."""
        sums = self.run.trainer.state_dict() if self.accumulates else {}
        names = (
            name for name, x in sums.items() if name.startswith("gradients/") and not np.isfinite(x).all()
        )
        return non_finite(self.run.model) or next(names, None)

    def is_bad(self, loss: float) -> bool:
        """Whether a loss is not finite."""
        return math.isnan(loss) if self.objective.loss == "ctc" else not math.isfinite(loss)

    def recover(self) -> None:
        """Go back to before the first bad step, and on as the policy says. Raises NonFinite."""
        losses, start = self.run.losses, self.start
        step, where = self.locate()
        value = losses[step - 1]
        at = "step" if self.state is not None or self.is_bad(value) else "a step up to"
        what = f"the loss is {value}" if self.is_bad(value) else "the update is not finite"
        said = f"{self.run.model.name}: {at} {step}, epoch {(step - 1) // self.run.per_epoch + 1}: {what}"
        said += where and f", first in {where}"
        self.failures += 1
        if self.policy == "stop" or self.failures > MOST or self.state is None:
            del losses[step:]
            raise NonFinite(f"{said}. {self.advice()}", step, where, self.run)
        if self.policy == "skip":
            del losses[step:]
            self.keep()
            self.run.left_out.append(step)
            logger.warning("%s; the step is left out (on_nan=skip)", said)
        else:
            self.load(self.state)
            self.run.left_out += range(start + 1, len(losses) + 1)
            logger.warning("%s; back to the state after step %d, and on with the data after step %d "
                           "(on_nan=rollback)", said, start, len(losses))  # fmt: skip
        self.start = self.failed = len(losses)

    def advice(self) -> str:
        """What to do about it."""
        if self.failures > MOST:
            return f"It is the {self.failures}th in succession; lower the learning rate, or give clip_norm="
        saved = "; the last good checkpoint is as it was" if self.run.saved is not None else ""
        return f"Lower the learning rate, give clip_norm=, or on_nan='skip' or 'rollback'{saved}"

    # Locating the first bad step

    def locate(self) -> tuple[int, str]:
        """The first bad step, counted from 1, and what was at fault; the model is then as before it."""
        losses, state = self.run.losses, self.state
        by_loss = next((i for i, x in enumerate(losses[self.start :]) if self.is_bad(x)), None)
        if state is None:
            return self.start + 1 + (len(losses) - self.start - 1 if by_loss is None else by_loss), ""
        self.load(state)
        replay = Replay(len(losses) - self.start, self.is_faulty)
        self.repeat(replay)
        if replay.bad is None:
            raise NonFinite(
                f"{self.run.model.name}: a loss or a weight is not finite after step {len(losses)}; repeated "
                f"from step {self.start + 1} on, all are: the steps are not deterministic"
            )
        fault = self.fault()
        self.load(state)
        step = self.start + replay.bad
        if replay.bad > 1:
            self.repeat(Countdown(replay.bad - 1))
        before = State(numbers(self.run.model), self.run.trainer.state_dict())
        with closing(self.run.batches(step - 1)) as batches:
            where = culprit(self.network, self.objective, next(batches))
        self.load(before)
        return step, where or ("" if fault is None else f"the update of {fault}")

    def repeat(self, steps: Countdown) -> None:
        """Make so many steps from the good state on."""
        with closing(self.run.batches(self.start)) as batches:
            self.run.trainer.fit(islice(batches, steps.remaining), steps)

    def is_faulty(self, loss: Tensor) -> bool:
        """Whether a step that was repeated is bad."""
        self.run.trainer.sync()
        return self.is_bad(number(loss)) or self.fault() is not None

    def load(self, state: State) -> None:
        """Put the model and the optimizer into this state."""
        assign(self.run.model, state.variables)
        self.run.trainer.load_state_dict(state.optimizer)


class Replay(Countdown):
    """So many steps, or up to the first that is faulty: `bad`, counted from 1."""

    def __init__(self, count: int, is_faulty: Callable[[Tensor], bool]):
        super().__init__(count)
        self.count, self.is_faulty = count, is_faulty
        self.bad: int | None = None

    @property
    def stopped(self) -> bool:
        return self.bad is not None or not self.remaining

    def on_step(self, loss: Tensor) -> None:
        self.remaining -= 1
        if self.is_faulty(loss):
            self.bad = self.count - self.remaining


def non_finite(model: keras.Model) -> str | None:
    """The path of the model's first variable that has a NaN or an infinity."""
    for variable in model.variables:
        if not _is_finite(variable):
            return variable.path
    return None


def culprit(network: keras.Model, objective: Objective, batch: Pair) -> str:
    """What is not finite first in a training step: a layer's output, the loss or a gradient; else empty.

    The step's update is not made, but the layers' own state changes.
    """
    x, y = map(backends.tensors, batch)
    outputs = {str(i): operation.output for i, operation in enumerate(network.operations)}
    kind = type(network) if hasattr(network, "complete") else keras.Model  # whose inputs may be left out
    for i, output in kind(network.input, outputs)(x, training=True).items():
        if not _is_finite(output):
            operation = network.operations[int(i)]
            input_of = isinstance(operation, keras.layers.InputLayer)
            return f"the batch, {operation.name}" if input_of else f"the output of layer {operation.name}"
    value, gradients, _ = backends.current().gradients(network, objective.native())(x, y)
    if not _is_finite(value):
        return f"the loss {objective.loss}"
    found = zip(network.trainable_variables, gradients, strict=True)
    return next((f"the gradient of {v.path}" for v, gradient in found if not _is_finite(gradient)), "")


def _is_finite(x: Any) -> bool:
    """Whether a tensor, or each of several, is finite."""
    if isinstance(x, list | tuple):
        return all(map(_is_finite, x))
    x = ops.convert_to_numpy(x)
    return not keras.backend.is_float_dtype(x.dtype.name) or bool(np.isfinite(x).all())
