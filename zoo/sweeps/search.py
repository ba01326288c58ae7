"""A search for settings by Optuna. The only module that imports it.

Each combination of model, framework and listed settings has a study of its own. `batch` trials are asked for
at once and told in the order in which they were asked for, so the search depends on its seed and on the
results alone: run again, it asks for the same trials, whose results are read from the sweep's folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from zoo.errors import BackendError
from zoo.sweeps.specification import Range, Specification
from zoo.sweeps.tasks import Record, Task


def import_optuna() -> Any:
    """The package. Raises BackendError if it is not installed."""
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise BackendError(
            "sweep: [search] needs Optuna, which is not installed. To install it: pip install "
            '"keras-zoo-parity[optuna]"'
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


@dataclass
class Trial:
    """One choice of the settings: a run for each seed."""

    number: int
    tasks: list[Task]
    value: float | None = None  # the mean of the metric over the seeds; None if a run failed


@dataclass
class Study:
    """The trials of one combination."""

    base: Task
    study: Any
    trials: list[Trial] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)  # Optuna's trials of the round


class Search:
    """The studies of a sweep: `ask` for the tasks of a round, then `tell` their results."""

    def __init__(self, sweep: Specification):
        assert sweep.search is not None
        self.sweep, self.search = sweep, sweep.search
        optuna = import_optuna()
        self.states = optuna.trial.TrialState
        self.studies = [
            Study(base, optuna.create_study(
                direction=sweep.direction,
                sampler=optuna.samplers.TPESampler(
                    seed=self.search.seed, constant_liar=self.search.batch > 1
                ),
            ))
            for base in sweep.combinations()
        ]  # fmt: skip

    def ask(self) -> list[Task]:
        """The tasks of the next trials; none when there are enough."""
        tasks: list[Task] = []
        for study in self.studies:
            count = min(self.search.batch, self.search.trials - len(study.trials))
            study.asked = [study.study.ask() for _ in range(count)]
            for asked in study.asked:
                chosen = {name: _suggest(asked, name, own) for name, own in self.search.ranges.items()}
                settings = {**study.base.settings, **chosen}
                own = [replace(study.base, seed=seed, settings=settings) for seed in self.sweep.seeds]
                study.trials.append(Trial(asked.number, own))
                tasks += own
        return tasks

    def tell(self, results: Mapping[str, Record]) -> None:
        """Give the results of the round, by the keys of their tasks. A failed run makes its trial bad."""
        for study in self.studies:
            trials = study.trials[len(study.trials) - len(study.asked) :]
            for asked, trial in zip(study.asked, trials, strict=True):
                trial.value = _mean([results[task.key] for task in trial.tasks], self.sweep.metric)
                if trial.value is None:  # TPE ranks what was pruned below all that ended
                    study.study.tell(asked, state=self.states.PRUNED)
                else:
                    study.study.tell(asked, trial.value)

    def records(self) -> list[Record]:
        """The studies with their trials, for the result."""
        return [
            {
                "model": study.base.model,
                "backend": study.base.backend,
                "settings": dict(study.base.settings),
                "trials": [
                    {"number": t.number, "value": t.value,
                     "settings": {name: t.tasks[0].settings[name] for name in self.search.ranges}}
                    for t in study.trials
                ],
            }
            for study in self.studies
        ]  # fmt: skip


def _suggest(trial: Any, name: str, own: Range) -> Any:
    if own.choices:  # by their numbers: Optuna's choices are no tuples
        return own.choices[trial.suggest_categorical(name, range(len(own.choices)))]
    suggest = trial.suggest_int if isinstance(own.low, int) else trial.suggest_float
    step = {} if own.step is None else {"step": own.step}
    return suggest(name, own.low, own.high, log=own.log, **step)


def _mean(results: Sequence[Record], metric: str) -> float | None:
    values = [None if result["error"] else result["metrics"].get(metric) for result in results]
    return None if None in values else fmean(value for value in values if value is not None)
