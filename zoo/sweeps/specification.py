"""What a sweep is of: models, frameworks, settings and seeds, checked whole before any work."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from zoo import backends, registry, storage, tasks, tokenizers
from zoo.checks import integer
from zoo.errors import BackendError, UnknownName, WrongConfiguration, nearest
from zoo.sweeps.tasks import MODEL, Task
from zoo.training import plan
from zoo.training.metrics import LOWER

KEYS = (
    "models", "backends", "seeds", "settings", "metric", "direction", "search", "cpus", "gpus",
)  # fmt: skip
SEARCH = ("trials", "batch", "seed", "ranges")
RANGE = ("low", "high", "step", "log")
DIRECTIONS = ("minimize", "maximize")
SHORT = {"lr": "learning_rate"}
# What a sweep decides itself, what it does not keep, and what no file can hold.
OWN = {"model": "models", "backend": "backends", "seed": "seeds", "threads": "cpus"}
LEFT_OUT = {
    "seed", "checkpoint", "out", "checkpoint_every", "keep", "keep_best", "resume", "progress", "watch",
    "callbacks", "validation", "steps_per_epoch", "loss",
}  # fmt: skip
OPTIONS = tuple(sorted({*plan.Options.names(), "task", "device"} - LEFT_OUT))
# The options that are floats, and the most that each may be.
NUMBERS = {
    **dict.fromkeys(("learning_rate", "weight_decay", "clip_norm", "head_lr"), math.inf),
    **dict.fromkeys(("ema", "layer_decay", "label_smoothing"), 1.0),
}
OTHER_METRICS = {"loss", "train_loss", "train_s", "bits_per_character", "perplexity"}
WHO = "sweep"


@dataclass(frozen=True)
class Range:
    """The values of a setting in a search: those listed, or from `low` to `high`."""

    choices: tuple[Any, ...] = ()
    low: float = 0
    high: float = 0
    step: float | None = None
    log: bool = False

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values to check before work."""
        return self.choices or (self.low, self.high)


@dataclass(frozen=True)
class Search:
    """How settings are searched for: `batch` trials at a time, each with every seed of the sweep."""

    ranges: Mapping[str, Range]
    trials: int = 20
    batch: int = 1
    seed: int = 0


@dataclass(frozen=True)
class Specification:
    """A sweep that has been checked: every combination is a run, for each seed."""

    models: tuple[str, ...]
    backends: tuple[str, ...]
    seeds: tuple[int, ...]
    metric: str
    direction: str
    settings: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    search: Search | None = None
    cpus: int = 1
    gpus: float = 0

    def combinations(self) -> list[Task]:
        """The runs of the first seed; of a search, without the settings that are searched for."""
        values = itertools.product(self.models, self.backends, *self.settings.values())
        return [
            Task(model, backend, self.seeds[0], dict(zip(self.settings, chosen, strict=True)))
            for model, backend, *chosen in values
        ]

    def examples(self) -> list[Task]:
        """The same; of a search, with the first value of each range."""
        ranges = {} if self.search is None else self.search.ranges
        first = {name: own.ends[0] for name, own in ranges.items()}
        return [replace(task, settings={**task.settings, **first}) for task in self.combinations()]

    def tasks(self) -> list[Task]:
        """All runs of a sweep without a search, seed by seed, so that early results are of every kind."""
        return [replace(task, seed=seed) for seed in self.seeds for task in self.combinations()]

    @property
    def runs(self) -> int:
        """How many runs there are."""
        trials = 1 if self.search is None else self.search.trials
        return len(self.combinations()) * len(self.seeds) * trials

    @property
    def dimensions(self) -> list[str]:
        """What differs between runs, besides the seed: "model", "backend", names of settings."""
        found = {"model": self.models, "backend": self.backends, **self.settings}
        searched = [] if self.search is None else list(self.search.ranges)
        return [*(name for name, values in found.items() if len(values) > 1), *searched]

    def __str__(self) -> str:
        trials = [] if self.search is None else [("trial", self.search.trials)]
        settings = [(name, len(values)) for name, values in self.settings.items() if len(values) > 1]
        parts = [("model", len(self.models)), ("backend", len(self.backends)), *trials]
        parts = [_counted(n, noun) for noun, n in parts] + [f"{n} of {name}" for name, n in settings]
        return f"{_counted(self.runs, 'run')}: {' x '.join([*parts, _counted(len(self.seeds), 'seed')])}"


def _counted(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'s' * (n != 1)}"


def read(path: str | Path) -> dict[str, Any]:
    """The arguments of `zoo.sweep` in a TOML file.

    Raises DataUnavailable, UnknownName, and WrongConfiguration for a file that is not TOML.
    """
    path = Path(path)
    content = storage.read_toml(path, "no such file; expected the TOML file of a sweep")
    _check_names(str(path), content, KEYS)
    return content


def specify(
    models: str | Sequence[str],
    backends: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] = 1,
    settings: Mapping[str, Any] | None = None,
    metric: str | None = None,
    direction: str | None = None,
    search: Mapping[str, Any] | None = None,
    cpus: int = 1,
    gpus: float = 0,
) -> Specification:
    """The sweep of these arguments, see `zoo.sweep`. Raises ZooError's kinds for whatever cannot be run."""
    names = dict.fromkeys(registry.card(name).name for name in _listed("models", models, str))
    if not names:
        raise WrongConfiguration(f"{WHO}: no model; `zoo list` shows them")
    chosen = _settings(settings or {})
    found = Specification(
        models=tuple(names),
        backends=_backends(backends),
        seeds=_seeds(seeds),
        metric="",
        direction="",
        settings=chosen,
        search=None if search is None else _search(search, chosen),
        cpus=integer(WHO, "cpus", cpus),
        gpus=_share("gpus", gpus),
    )
    for task in _checked(found):
        _check(task)
    own = _metric(metric, found)
    return replace(found, metric=own, direction=_direction(direction, own))


def _check_names(who: str, given: Any, known: Iterable[str]) -> None:
    if not isinstance(given, Mapping):
        raise WrongConfiguration(f"{who}={given!r}; expected a table with the keys {', '.join(known)}")
    for key in given:
        if key not in known:
            raise UnknownName(f"{who}: no key {key!r}; {nearest(str(key), known)}")


def _listed(key: str, given: Any, kind: type) -> list[Any]:
    values = [given] if isinstance(given, kind) else given
    if not isinstance(values, list | tuple | range) or not all(isinstance(x, kind) for x in values):
        raise WrongConfiguration(f"{WHO}: {key}={given!r}; expected a list of {kind.__name__}")
    return list(values)


def _backends(given: str | Sequence[str] | None) -> tuple[str, ...]:
    names = _listed("backends", given, str) if given is not None else backends.installed()
    found = tuple(dict.fromkeys(backends.checked(name, WHO) for name in names))
    if not found:
        raise BackendError(f"{WHO}: no framework; expected backends, {', '.join(backends.NAMES)}")
    return found


def _seeds(given: int | Sequence[int]) -> tuple[int, ...]:
    if isinstance(given, int):
        return tuple(range(integer(WHO, "seeds", given)))
    seeds = [integer(WHO, "seeds", seed, 0) for seed in _listed("seeds", given, int)]
    if not seeds or len(set(seeds)) < len(seeds):
        raise WrongConfiguration(f"{WHO}: seeds={given!r}; expected a number of seeds, or different integers")
    return tuple(seeds)


def _share(key: str, given: Any) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given < 1e6:
        raise WrongConfiguration(f"{WHO}: {key}={given!r}; expected a number, 0 or more, such as 0.5")
    return given


def flat(given: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with "model.widths" for {"model": {"widths": ...}}, underscores for hyphens."""
    found: dict[str, Any] = {}
    for key, value in given.items():
        name = key.replace("-", "_")
        if name == MODEL[:-1] and isinstance(value, Mapping):
            found |= {f"{MODEL}{inner.replace('-', '_')}": x for inner, x in value.items()}
        else:
            found[SHORT.get(name, name)] = value
    return found


def _settings(given: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    """The values of each setting; a list is one for each run."""
    if not isinstance(given, Mapping):
        raise WrongConfiguration(f"{WHO}: settings={given!r}; expected a table of options of `zoo train`")
    found = {}
    for name, value in flat(given).items():
        _check_option(name)
        values = list(value) if isinstance(value, list | tuple) else [value]
        if not values or any(values.count(x) > 1 for x in values):
            raise WrongConfiguration(f"{WHO}: settings: {name}={value!r}; expected different values")
        found[name] = tuple(_value(name, x) for x in values)
    return found


def _check_option(name: str) -> None:
    if name in OWN:
        raise WrongConfiguration(f"{WHO}: settings: {name} is not one; give {OWN[name]} beside [settings]")
    if not name.startswith(MODEL) and name not in OPTIONS:
        raise UnknownName(
            f"{WHO}: settings: no option {name!r} of a run; {nearest(name, OPTIONS)}; the model's own are "
            '"model.NAME"'
        )


def _value(name: str, value: Any) -> Any:
    """A value; of a model's arguments also a list, which is a tuple for its builder."""
    if name in NUMBERS:
        _check_number(name, value)
    if isinstance(value, str | int | float | bool):
        return value
    if name.startswith(MODEL) and isinstance(value, list | tuple):
        return tuple(_value(name, x) for x in value)
    raise WrongConfiguration(f"{WHO}: settings: {name}={value!r}; expected a string, a number, true or false")


def _check_number(name: str, value: Any) -> None:
    most = NUMBERS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        bounds = "0 or more" if most == math.inf else f"from 0 to {most:g}"
        raise WrongConfiguration(f"{WHO}: settings: {name}={value!r}; expected a number {bounds}")


def _search(given: Mapping[str, Any], settings: Mapping[str, Any]) -> Search:
    _check_names(f"{WHO}: search", given, SEARCH)
    ranges = given.get("ranges")
    if not ranges or not isinstance(ranges, Mapping):
        raise WrongConfiguration(
            f"{WHO}: search: no ranges; expected, for example, learning-rate = {{ low = 1e-4, high = 0.1, "
            "log = true } in [search.ranges]"
        )
    ranges = {name: _range(name, value) for name, value in flat(ranges).items()}
    if both := [name for name in ranges if name in settings]:
        raise WrongConfiguration(
            f"{WHO}: {both[0]} is in [settings] and in [search.ranges]; give one of them"
        )
    counts = {name: given.get(name, default) for name, default in (("trials", 20), ("batch", 1), ("seed", 0))}
    for name, value in counts.items():
        counts[name] = integer(f"{WHO}: search", name, value, 0 if name == "seed" else 1)
    return Search(ranges, **counts)


def _range(name: str, given: Any) -> Range:
    _check_option(name)
    if isinstance(given, list | tuple):
        if len(given) < 2:
            raise WrongConfiguration(f"{WHO}: search: {name}={given!r}; expected two values or more")
        return Range(tuple(_value(name, x) for x in given))
    if not isinstance(given, Mapping):
        raise WrongConfiguration(
            f"{WHO}: search: {name}={given!r}; expected a list, or {{ low = 0.001, high = 0.1, log = true }}"
        )
    _check_names(f"{WHO}: search: {name}", given, RANGE)
    low, high, step, log = (given.get(key) for key in RANGE)
    numbers = [x for x in (low, high, step) if x is not None]
    if low is None or high is None or not all(type(x) in (int, float) for x in numbers) or not low < high:
        raise WrongConfiguration(
            f"{WHO}: search: {name}={dict(given)!r}; expected numbers low < high, of one type"
        )
    whole = isinstance(low, int) and isinstance(high, int)
    if type(log) not in (bool, type(None)) or (log and (step is not None or low <= 0)):
        raise WrongConfiguration(
            f"{WHO}: search: {name}: log = {log!r}; it goes with low > 0, without a step"
        )
    if step is not None and (step <= 0 or (whole and not isinstance(step, int))):
        raise WrongConfiguration(
            f"{WHO}: search: {name}: step = {step!r}; expected one above 0, as low and high"
        )
    ends = (low, high) if whole else (float(low), float(high))
    for end in ends:
        _value(name, end)
    return Range((), *ends, step, bool(log))


def _checked(sweep: Specification) -> Iterator[Task]:
    """The combinations to check; of a search, every value of a range with the first of the others."""
    ranges = {} if sweep.search is None else sweep.search.ranges
    for base in sweep.examples():
        yield base
        for name, own in ranges.items():
            for value in own.ends[1:]:
                yield replace(base, settings={**base.settings, name: value})


def plan_of(task: Task) -> plan.Plan:
    """The plan of a run. Raises what the run would before its start, without its framework."""
    options = task.options
    where, _ = options.pop("task", None), options.pop("device", None)
    if options.get("engine", "native") == "native" and "mode" in options:
        backends.allowed(task.backend, options.pop("mode"))
    return plan.plan_run(task.model, where, plan.Options(**options, seed=task.seed))


def _check(task: Task) -> None:
    """Raise what the run would before its start, and for arguments that its model does not take."""
    where = str(plan_of(task).task)
    card, arguments = registry.card(task.model), task.arguments
    for name in arguments:
        if name not in card.arguments:
            raise UnknownName(
                f"{WHO}: settings: {card.name} has no argument {name!r}; {nearest(name, card.arguments)}"
            )
    reader = tokenizers.resolve(task.options.get("tokenizer"))
    required = tasks.source(where, reader)[1].requirements(reader)
    if decided := [name for name in arguments if required.get(name) is not None]:
        raise WrongConfiguration(f"{WHO}: settings: {MODEL}{decided[0]} is decided by the task; leave it out")


def _metric(given: str | None, sweep: Specification) -> str:
    """The metric that is compared, by default that of the first task."""
    names = sweep.settings.get("task", ()) or [registry.card(model).task for model in sweep.models]
    own = [tasks.source(str(name))[1].metric for name in names]
    known = {*own, *OTHER_METRICS}
    if given is not None and given not in known:
        raise UnknownName(f"{WHO}: no metric {given!r}; {nearest(given, known)}")
    return given or own[0] or "loss"


def _direction(given: str | None, metric: str) -> str:
    if given is not None and given not in DIRECTIONS:
        raise UnknownName(f"{WHO}: direction={given!r}; {nearest(str(given), DIRECTIONS)}")
    return given or ("minimize" if metric in {*LOWER, "train_loss", "train_s"} else "maximize")
