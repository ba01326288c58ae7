"""Early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf

import numpy as np

from zoo._lazy import keras, ops
from zoo.checks import integer
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.training.metrics import LOWER
from zoo.training.run import Run


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


class EarlyStopper:
    """Early stopping under way."""

    def __init__(self, rule: EarlyStopping, run: Run):
        of_text = set() if run.task.tokens_per_character is None else {"bits_per_character", "perplexity"}
        monitored = {"loss", run.task.metric, *of_text} - {None}
        if rule.monitor not in monitored:
            raise UnknownName(
                f"EarlyStopping: {run.task.name} has no metric {rule.monitor!r}; "
                f"{nearest(rule.monitor, monitored)}"
            )
        self.rule, self.run = rule, run
        self.best, self.waited, self.weights = inf, 0, []

    def ends(self, metrics: dict[str, float]) -> bool:
        """Whether training ends after an epoch with these metrics."""
        value = metrics[self.rule.monitor] * (1 if self.rule.monitor in LOWER else -1)
        if value < self.best - self.rule.min_delta:
            self.best, self.waited = value, 0
            if self.rule.restore_best:
                self.weights = _numbers(self.run.model)
        else:
            self.waited += 1
        return self.waited >= max(1, self.rule.patience)

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Within, the model has the averages of its weights, where they are kept: as the run would end."""
        if not self.run.trainer.averages:
            yield
            return
        own = _numbers(self.run.model)
        self.run.trainer.copy_ema_to_weights()
        try:
            yield
        finally:
            _assign(self.run.model, own)

    def restore(self) -> bool:
        """Put the best weights back; whether there were any."""
        if self.weights:
            _assign(self.run.model, self.weights)
        return bool(self.weights)


def _numbers(model: keras.Model) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables]


def _assign(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)
