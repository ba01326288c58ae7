"""A learning rate from the losses of a short run in which the rate rises.

found = zoo.find_learning_rate("resnet18", "photos/", weights="resnet18.pth")
run = zoo.train("resnet18", "photos/", weights="resnet18.pth", learning_rate=found.suggestion)
zoo.show.learning_rates(found).save("rates.png")

Smith 2017, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3, with a rate
that grows by a factor at each step, smoothed losses and an early end as in fastai and Lightning.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from math import inf, isfinite
from pathlib import Path
from typing import Any

import numpy as np

from zoo import lora
from zoo._lazy import keras, ops
from zoo.checks import integer
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.layers.signature import layers_of
from zoo.optimizers import Optimizer, at_least_zero
from zoo.schedules import Numbers, Schedule
from zoo.tasks import Task
from zoo.training.engines import number
from zoo.training.plan import Options, Plan, plan_run
from zoo.training.settings import OPTIMIZERS, parse_one
from zoo.training.startup import Start, start

Tensor = Any
SMOOTHING, DIVERGED = 0.98, 4.0  # as in fastai and Lightning
BEGINNING = 0.1  # the share of the steps that is not looked at: of few losses, their mean says little
# Options of zoo.train that are about the rate itself, or about a run that is longer or kept.
REFUSED = (
    "learning_rate", "schedule", "head_lr", "accumulate", "ema", "unfreeze", "epochs", "validation",
    "early_stopping", "checkpoint", "out", "checkpoint_every", "keep", "resume", "progress", "watch",
    "callbacks",
)  # fmt: skip


@dataclass(frozen=True)
class LearningRates:
    """The losses of a run whose learning rate rises: one of each for every step."""

    rates: np.ndarray
    losses: np.ndarray  # of the batch, before its update
    recipe: str  # the optimizer and the batch size, in words
    diverged: bool = field(default=False)  # whether it ended early

    @property
    def smoothed(self) -> np.ndarray:
        """Exponential averages of the losses, corrected for their start at 0."""
        mean, found = 0.0, []
        for i, loss in enumerate(self.losses, 1):
            mean = SMOOTHING * mean + (1 - SMOOTHING) * float(loss)
            found.append(mean / (1 - SMOOTHING**i))
        return np.array(found)

    @property
    def lowest(self) -> float:
        """The rate of the lowest smoothed loss; a tenth of it is the older suggestion."""
        return float(self.rates[self._lowest])

    @property
    def suggestion(self) -> float:
        """The rate at which the smoothed loss falls fastest, before it is lowest.

        Raises WrongConfiguration for losses that never fall.
        """
        first = int(BEGINNING * len(self.losses))
        slopes = np.gradient(self.smoothed)[first : self._lowest + 1] if self._lowest > first else []
        if not len(slopes) or min(slopes) >= 0:
            raise WrongConfiguration(
                f"the loss falls at no rate from {self.rates[0]:.3g} to {self.rates[-1]:.3g}; give a larger "
                "range, or more steps"
            )
        return float(self.rates[first + int(np.argmin(slopes))])

    @property
    def _lowest(self) -> int:
        first = int(BEGINNING * len(self.losses))
        return first + int(np.nanargmin(np.where(np.isfinite(self.smoothed), self.smoothed, inf)[first:]))


def find_learning_rate(
    model: str | keras.Model,
    task: str | Path | Task | tuple[Any, Any] | None = None,
    *,
    lowest: float = 1e-7,
    highest: float = 10.0,
    steps: int = 100,
    **options: Any,
) -> LearningRates:
    """Train for some steps with a rate that rises from `lowest` to `highest`, and return the losses.

    It grows by the same factor at each step, and the run ends early when the smoothed loss is 4 times its
    lowest value, or not finite. `options` are those of `zoo.train`: weights, optimizer, freeze, layer_decay,
    batch_size, engine and others. A model that you built is left as it was, with its weights.

    Raises WrongConfiguration for an option about the rate or about what a run keeps, then what `zoo.train`
    raises.
    """
    _check(lowest, highest, steps, options)
    sweep = Sweep(float(lowest), float(highest), steps)
    plan = _plan(model, task, sweep, options)
    before = _State(model) if isinstance(model, keras.Model) else None
    try:
        begin = start(plan)
        if before is not None:
            before.add()
        losses = _Losses(begin, steps)
        with closing(begin.run.batches()) as batches:
            begin.run.trainer.fit(islice(batches, steps), losses)
    finally:
        if before is not None:
            before.restore()
    done = len(losses.values)
    words = f"{type(begin.optimizer).__name__}, batches of {begin.run.batch_size}"
    rates = np.array(sweep.rates[:done])
    return LearningRates(rates, np.array(losses.values), words, diverged=losses.diverged)


def _check(lowest: float, highest: float, steps: int, options: dict[str, Any]) -> None:
    """Raise WrongConfiguration or UnknownName for a wrong range or option."""
    at_least_zero("find_learning_rate", lowest=lowest, highest=highest)
    integer("find_learning_rate", "steps", steps, 10)
    if not 0 < lowest < highest:
        raise WrongConfiguration(f"lowest={lowest}, highest={highest}; expected 0 < lowest < highest")
    for name in options:
        if name in REFUSED:
            raise WrongConfiguration(f"find_learning_rate takes no {name}=; leave it out")
        if name not in Options.names():
            raise UnknownName(f"find_learning_rate: no option {name!r}; {nearest(name, Options.names())}")


def _plan(model: Any, task: Any, sweep: Sweep, options: dict[str, Any]) -> Plan:
    """The plan of the run, whose optimizer has the sweep for its rate."""
    optimizer = options.get("optimizer")
    if isinstance(optimizer, Optimizer):
        options = {**options, "optimizer": optimizer.fresh(learning_rate=sweep)}
    elif not isinstance(optimizer, str | None):
        raise WrongConfiguration(
            f"optimizer={type(optimizer).__name__}; expected one of zoo.optimizers, or its name"
        )
    elif optimizer is not None:
        call = parse_one("optimizer", optimizer, OPTIMIZERS)
        if not call.args and "learning_rate" not in call.kwargs:
            options = {**options, "learning_rate": sweep.rates[0]}  # which the sweep replaces
    plan = plan_run(model, task, Options(steps=len(sweep.rates), progress=False, **options))
    if isinstance(optimizer, Optimizer):
        return plan
    return replace(plan, options=replace(plan.options, learning_rate=None, schedule=sweep))


class Sweep(Schedule):
    """The rates of the finder: lowest * (highest / lowest)^(step / (steps - 1))."""

    def __init__(self, lowest: float, highest: float, steps: int):
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self.rates = [lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)]

    def rate(self, xp: Numbers, step: Tensor) -> Tensor:
        return xp.take(xp.real(self.rates), xp.minimum(step, self.steps - 1))


class _Losses:
    """The steps of a sweep, see `zoo.training.engines.Steps`."""

    def __init__(self, begin: Start, steps: int):
        self.steps, self.per_epoch = steps, begin.run.per_epoch
        self.values: list[float] = []
        self.mean, self.best, self.diverged = 0.0, inf, False

    @property
    def remaining(self) -> int:
        return self.per_epoch - len(self.values) % self.per_epoch

    @property
    def stopped(self) -> bool:
        return self.diverged or len(self.values) >= self.steps

    def on_step(self, loss: Tensor) -> None:
        self.values.append(number(loss))
        self.mean = SMOOTHING * self.mean + (1 - SMOOTHING) * self.values[-1]
        smoothed = self.mean / (1 - SMOOTHING ** len(self.values))
        self.best = min(self.best, smoothed)
        self.diverged = not isfinite(smoothed) or (len(self.values) > 1 and smoothed > DIVERGED * self.best)

    def on_epoch(self) -> None:
        pass


class _State:
    """The weights of a model and what of it is frozen or has adapters, to be put back."""

    def __init__(self, model: keras.Model):
        self.model = model
        self.adapted = bool(lora.adapters(model))
        self.frozen = [(layer, layer.trainable) for layer in (*model.layers, *layers_of(model.layers))]
        self.values: dict[int, tuple[keras.Variable, np.ndarray]] = {}
        self.add()

    def add(self) -> None:
        """Keep the variables that were not there before, of a model that was not built."""
        for variable in self.model.variables:
            if id(variable) not in self.values:
                self.values[id(variable)] = (variable, np.array(ops.convert_to_numpy(variable)))

    def restore(self) -> None:
        if not self.adapted and lora.adapters(self.model):
            lora.merge(self.model)
        for layer, trainable in self.frozen:
            layer.trainable = trainable
        for variable, value in self.values.values():
            variable.assign(value)
