"""`zoo compare`: the same training run on every framework, with both engines, side by side.

The main process imports no framework. It starts one process for each (model, framework, engine, mode), trains
in them one after another so that they do not compete for the CPU, then measures the time of a step in all of
them in turn, round after round (`runs`, `worker`), and compares what they computed (`differences`). A run
that fails becomes a row with its error.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo import backends, registry, storage, tasks, tokenizers
from zoo._version import __version__
from zoo.checks import integer
from zoo.comparison.differences import run_differences
from zoo.comparison.runs import Progress, Record, drift, measure
from zoo.errors import BackendError, UnknownName, WrongConfiguration, nearest
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder
from zoo.tasks import baselines
from zoo.training.recipes import recipe

ENGINES = ("keras", "native")


class Comparison(dict[str, Any]):
    """The result, as described in docs/result.md; a notebook displays its report."""

    @property
    def runs(self) -> list[Record]:
        """One per process: losses, metrics, times."""
        return self["runs"]

    @property
    def differences(self) -> list[Record]:
        """One per pair of runs of the same model."""
        return self["differences"]

    def __repr__(self) -> str:
        names = ", ".join(model["name"] for model in self["models"])
        failed = sum(bool(run["error"]) for run in self.runs)
        return f"<Comparison of {names}: {len(self.runs)} runs, {failed} failed>"

    def _repr_html_(self) -> str:
        from zoo.report.page import iframe

        return iframe(self)


def compare(
    *models: str,
    task: str | None = None,
    backends: Sequence[str] | None = None,
    engines: Sequence[str] = ENGINES,
    modes: Sequence[str] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    tokenizer: str | Path | None = None,
    errors: str = "stop",
    seed: int = 0,
    threads: int | None = None,
    device: str | None = None,
    exact: bool = False,
    workers: int | None = None,
    out: str | Path | None = "zoo-report",
    show: Callable[[list[Record]], None] | None = None,
) -> Comparison:
    """Train models on every framework, and measure where and how much their results differ.

    `backends` are by default those installed; `modes` are additional modes of the native engine
    (`zoo.backends.MODES`); `threads` the CPU threads of each process; `tokenizer` what `zoo.tokenizers.load`
    takes, for texts, which are bytes otherwise; `errors` that of `zoo.train`. The result of a non-neural
    baseline (`zoo.tasks.baselines`) is shown beside the runs, if the task has one. If losses differ by more
    than the bound, up to four more runs measure how much one run differs from itself under 1-ulp
    perturbations of its initial weights, because differences caused by rounding alone are not differences
    between frameworks. Writes result.json and report.html into `out` (None: nowhere) and returns the result.
    `workers` trains the native engine's runs on so many processes of this machine too, and compares their
    losses with those of the one (docs/scale.md). `exact` trains with the same bits on every framework, in two
    modes of each, and compares the hashes.
    `show` is a callback that receives the rows whenever one changes.

    Raises subclasses of ZooError for a wrong name before any process is started. An error in a run becomes
    its `error`.
    """
    cards = [registry.card(name) for name in models]
    if not cards:
        raise WrongConfiguration("compare: no model given; `zoo list` shows them")
    if exact and workers not in (None, 1):
        raise WrongConfiguration(f"compare: exact=True with workers={workers}; leave out one of the two")
    if out is not None:
        storage.check_folder("out", out)
    _check_tasks([task or card.task for card in cards], tokenizer, errors)
    rows = [
        {"model": card.name, **choice, "error": None, "status": "waiting"}
        for card in cards
        for choice in (exact_choices(backends, modes) if exact else choices(backends, engines, modes))
    ]
    counts = {
        "epochs": epochs,
        "steps": steps,
        "batch_size": batch_size,
        "threads": threads,
        "workers": workers,
    }
    counts = {name: x if x is None else integer("compare", name, x) for name, x in counts.items()}
    settings = {
        "task": task, **counts, "seed": integer("compare", "seed", seed, 0),
        "tokenizer": None if tokenizer is None else str(tokenizer), "errors": errors,
        "threads": counts["threads"] or machine.cores(), "device": device, "exact": exact,
    }  # fmt: skip
    progress = (lambda: show(rows)) if show else (lambda: None)
    result = _result(cards, rows, settings, progress)
    if out is not None:
        from zoo.report.page import save

        save(result, Path(out))
    return result


def _check_tasks(names: Sequence[str], tokenizer: str | Path | None, errors: str) -> None:
    loaded = tokenizers.resolve(tokenizer)
    for name in names:
        tasks.source(name, loaded)
        tasks.check_errors(name, errors)


def _result(
    cards: Sequence[registry.Card], rows: list[Record], settings: Record, progress: Progress
) -> Comparison:
    """Runs all rows, one model after another."""
    models, pairs = [], []
    with scratch_folder() as scratch:
        for card in cards:
            own = [row for row in rows if row["model"] == card.name]
            folders = [scratch / f"{card.name}-{i}" for i in range(len(own))]
            measure(own, folders, settings, progress)
            own_pairs = run_differences(own, folders)
            divergence = drift(own, own_pairs, scratch / f"{card.name}-drift", settings, progress)
            models.append({**_describe(card, own, settings), **divergence})
            pairs += own_pairs
    for row in rows:
        del row["status"]
    return Comparison(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=models,
        runs=rows,
        differences=pairs,
        environment={
            **machine.environment(),
            "threads": settings["threads"],
            "devices": {row["backend"]: row["device"] for row in rows if row.get("device")},
        },
    )


def choices(
    names: Sequence[str] | None, engines: Sequence[str], modes: Sequence[str] | None
) -> list[dict[str, str]]:
    """The (backend, engine, mode) of each run of a model. Raises BackendError or UnknownName."""
    names = [backends.checked(name, "compare") for name in names or backends.installed()]
    if not names:
        raise BackendError('no framework is installed; pip install "keras-zoo-parity[all]" brings all')
    for engine in engines:
        if engine not in ENGINES:
            raise UnknownName(f"no engine {engine!r}; {nearest(engine, ENGINES)}")
    supported = {mode for name in names for mode in backends.MODES[name]}
    for mode in modes or ():
        if mode not in supported:
            raise BackendError(f"no mode {mode!r} on {', '.join(names)}; {nearest(mode, supported)}")
    runs = []
    for name, engine in itertools.product(names, engines):
        default, *_ = backends.MODES[name]
        own = ["fit"] if engine == "keras" else [m for m in backends.MODES[name] if m in (modes or [default])]
        runs += [{"backend": name, "engine": engine, "mode": mode} for mode in own]
    return runs


def exact_choices(names: Sequence[str] | None, modes: Sequence[str] | None) -> list[dict[str, str]]:
    """Those of an exact comparison: by default every exact mode of each framework's native engine."""
    found = choices(names, ["native"], modes or sorted({m for own in backends.MODES.values() for m in own}))
    exact = [run for run in found if run["mode"] in backends.EXACT_MODES[run["backend"]]]
    if not exact:
        raise WrongConfiguration(f"compare: {', '.join(modes or ())}: no exact mode; leave it out")
    return exact


def _describe(card: registry.Card, rows: list[Record], settings: Record) -> Record:
    facts = ("name", "paper", "url", "idea", "parameters", "multiply_adds")
    default = recipe(card.recipe)
    run: Record = next((row for row in rows if not row["error"]), {})
    task = settings["task"] or card.task
    baseline = baselines.baseline(task)
    return {
        **{name: getattr(card, name) for name in facts},
        "task": task,
        "metric": next(iter(run.get("metrics", {})), None),
        "baseline": baseline and asdict(baseline),
        "seed": settings["seed"],
        "recipe": {
            "optimizer": str(default),
            "epochs": None if settings["steps"] else settings["epochs"] or default.epochs,
            "batch_size": run.get("batch_size"),
            "steps": run.get("steps"),
        },
        "definition": {"file": f"zoo/models/{card.file.name}", "code": inspect.getsource(card.builder)},
    }
