"""Early stopping, and the best value of a held-out metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import inf, isfinite
from typing import Any

import numpy as np

from zoo._lazy import keras, ops
from zoo.checks import integer
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.tasks import Task
from zoo.training.metrics import LOWER
from zoo.training.run import Run

FACTS = "early_stopping"  # in the header of a checkpoint
ARRAYS = "best"  # the prefix of its arrays with the best epoch's weights


@dataclass(frozen=True)
class EarlyStopping:
    """Stop once the held-out `monitor` has not improved for `patience` epochs, as keras.callbacks does.

    An improvement is more than `min_delta`; losses and error rates are better when lower, other metrics when
    higher. `restore_best` ends with the weights of the best epoch. Of an optimizer with `use_ema` it is the
    averages that are judged after each epoch, and put back. Prechelt 1998, "Early stopping - but
    when?".
    """

    patience: int = 5
    monitor: str = "loss"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        patience = integer("EarlyStopping", "patience", self.patience, 0)
        object.__setattr__(self, "patience", patience)
        if not self.min_delta >= 0:
            raise WrongConfiguration(f"EarlyStopping: min_delta={self.min_delta!r}; expected 0 or more")

    def ends_after(self, waited: int) -> bool:
        """Whether a run ends after so many epochs without an improvement."""
        return waited >= max(1, self.patience)


class Best:
    """The best value so far of one of a task's held-out metrics. Raises UnknownName for another metric."""

    def __init__(self, who: str, metric: str, task: Task):
        of_text = set() if task.tokens_per_character is None else {"bits_per_character", "perplexity"}
        known = {"loss", task.metric, *of_text} - {None}
        if metric not in known:
            raise UnknownName(f"{who}: {task.name} has no metric {metric!r}; {nearest(metric, known)}")
        self.metric, self.sign = metric, 1 if metric in LOWER else -1
        self.lowest = inf  # of the value, or of its negative

    def improves(self, metrics: Mapping[str, float], least: float = 0.0) -> bool:
        """Whether these metrics are better than all before, by more than `least`."""
        value = metrics[self.metric] * self.sign
        better = value < self.lowest - least
        if better:
            self.lowest = value
        return better

    @property
    def value(self) -> float | None:
        """The metric's; None before the first."""
        return self.lowest * self.sign if isfinite(self.lowest) else None

    @value.setter
    def value(self, value: float | None) -> None:
        self.lowest = inf if value is None else value * self.sign


class EarlyStopper:
    """Early stopping under way."""

    def __init__(self, rule: EarlyStopping, run: Run):
        self.rule, self.run = rule, run
        self.best = Best("EarlyStopping", rule.monitor, run.task)
        self.waited, self.weights = 0, []
        self.state: tuple[dict[str, Any], list[np.ndarray]] = {"best": None, "waited": 0}, []

    def ends(self, metrics: Mapping[str, float], *, whole: bool = True) -> bool:
        """Whether training ends after an epoch with these metrics.

        An epoch that is not `whole` is left out of the state: a resumed run makes all of it.
        """
        if self.best.improves(metrics, self.rule.min_delta):
            self.waited = 0
            if self.rule.restore_best:
                self.weights = numbers(self.run.model)
        else:
            self.waited += 1
        if whole:
            self.state = {"best": self.best.value, "waited": self.waited}, self.weights
        return self.rule.ends_after(self.waited)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """The rule and its state after the last whole epoch: facts, and the best weights by name."""
        facts, weights = self.state
        paths = [f"{ARRAYS}/{v.path}" for v in self.run.model.variables]
        return {FACTS: {**asdict(self.rule), **facts}}, dict(zip(paths, weights, strict=False))

    def load_state_dict(self, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
        """Load such a state, unless it is of another metric."""
        saved = facts.get(FACTS)
        if saved is None or saved["monitor"] != self.rule.monitor:
            return
        self.best.value, self.waited = saved["best"], saved["waited"]
        paths = [f"{ARRAYS}/{v.path}" for v in self.run.model.variables]
        self.weights = [arrays[path] for path in paths] if paths[0] in arrays else []
        self.state = {"best": self.best.value, "waited": self.waited}, self.weights

    def restore(self) -> bool:
        """Put the best weights back; whether there were any."""
        if self.weights:
            assign(self.run.model, self.weights)
        return bool(self.weights)


@contextmanager
def averages(run: Run) -> Iterator[list[np.ndarray]]:
    """Within, the model has the averages of its weights, where they are kept: as the run would end.

    Yields the values of its variables before; empty where there are no averages.
    """
    if not run.trainer.averages:
        yield []
        return
    own = numbers(run.model)
    run.trainer.copy_ema_to_weights()
    try:
        yield own
    finally:
        assign(run.model, own)


def numbers(model: keras.Model) -> list[np.ndarray]:
    """Copies of the values of a model's variables."""
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables]


def assign(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    """Set a model's variables to these values."""
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
