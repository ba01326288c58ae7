"""`zoo compare`: the same training run on every framework, with both engines, side by side.

The main process imports no framework. It starts one process for each (model, framework, engine, mode), trains
in them one after another so that they do not compete for the CPU, then measures the time of a step in all of
them in turn, round after round. A run that fails becomes a row with its error.
"""

from __future__ import annotations

import inspect
import itertools
import math
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from zoo import backends, registry, storage, tasks, tokenizers
from zoo.checks import integer
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.ladder import bounds
from zoo.processes import machine
from zoo.processes.workers import Worker, WorkerDied
from zoo.tasks import baselines
from zoo.training.recipes import recipe

Record = dict[str, Any]  # a JSON object: docs/result.md describes them
ENGINES = ("keras", "native")
ROUNDS = 7  # of timing, each SECONDS long
SECONDS = 0.4


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
    `show` is a callback that receives the rows whenever one changes.

    Raises subclasses of ZooError for a wrong name before any process is started. An error in a run becomes
    its `error`.
    """
    cards = [registry.card(name) for name in models]
    if not cards:
        raise WrongConfiguration("compare: no model given; `zoo list` shows them")
    code = tokenizers.found(tokenizer)
    if out is not None:
        storage.check_folder("out", out)
    for card in cards:
        tasks.source(task or card.task, code)
        tasks.check_errors(task or card.task, errors)
    rows = [
        {"model": card.name, **choice, "error": None, "status": "waiting"}
        for card in cards
        for choice in choices(backends, engines, modes)
    ]
    counts = {"epochs": epochs, "steps": steps, "batch_size": batch_size, "threads": threads}
    counts = {name: x if x is None else integer("compare", name, x) for name, x in counts.items()}
    settings = {
        "task": task, **counts, "seed": integer("compare", "seed", seed, 0),
        "tokenizer": None if tokenizer is None else str(tokenizer), "errors": errors,
        "threads": counts["threads"] or machine.cores(), "device": device,
    }  # fmt: skip
    show = show or (lambda rows: None)
    models_, differences = [], []
    with tempfile.TemporaryDirectory(prefix="zoo-") as scratch:
        for card in cards:
            own = [row for row in rows if row["model"] == card.name]
            folders = [Path(scratch, f"{card.name}-{i}") for i in range(len(own))]
            _measure(own, folders, settings, lambda: show(rows))
            pairs = _differences(own, folders)
            differences += pairs
            drift = _drift(own, pairs, Path(scratch, f"{card.name}-drift"), settings, lambda: show(rows))
            models_.append({**_describe(card, own, settings), **drift})
    for row in rows:
        del row["status"]
    environment = {
        **machine.environment(),
        "threads": settings["threads"],
        "devices": {row["backend"]: row["device"] for row in rows if row.get("device")},
    }
    from zoo._version import __version__

    result = Comparison(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        models=models_,
        runs=rows,
        differences=differences,
        environment=environment,
    )
    if out is not None:
        from zoo.report.page import save

        save(result, Path(out))
    return result


def choices(
    names: Sequence[str] | None, engines: Sequence[str], modes: Sequence[str] | None
) -> list[dict[str, str]]:
    """The (backend, engine, mode) to run. Raises BackendError or UnknownName for what there is not."""
    names = [backends.checked(name, "compare") for name in names or backends.installed()]
    if not names:
        raise backends.BackendError(
            'no framework is installed; pip install "keras-zoo-parity[all]" brings all'
        )
    for engine in engines:
        if engine not in ENGINES:
            raise UnknownName(f"no engine {engine!r}; {nearest(engine, ENGINES)}")
    every = {mode for name in names for mode in backends.MODES[name]}
    for mode in modes or ():
        if mode not in every:
            raise backends.BackendError(f"no mode {mode!r} on {', '.join(names)}; {nearest(mode, every)}")
    found = []
    for name, engine in itertools.product(names, engines):
        own = ["fit"] if engine == "keras" else [m for m in backends.MODES[name] if not modes or m in modes]
        found += [{"backend": name, "engine": engine, "mode": m} for m in (own if modes else own[:1])]
    return found


def _measure(rows: list[Record], folders: list[Path], settings: Record, changed: Callable[[], None]) -> None:
    """Train every row in a process of its own, one after another, then time them all in turn."""
    with ExitStack() as stack:
        workers = []
        for row, folder in zip(rows, folders, strict=True):
            worker = Worker("zoo.comparison.worker", folder, row["backend"])
            stack.callback(worker.close)
            workers.append(worker)
            row["status"] = "starting"
            changed()
            try:
                _train(row, worker, settings, changed)
            except WorkerDied as error:
                row |= {"error": str(error), "status": "failed"}
            changed()
        alive = [(row, worker) for row, worker in zip(rows, workers, strict=True) if not row["error"]]
        times: dict[int, list[float]] = {id(row): [] for row in rows}
        for round_ in range(ROUNDS):
            for row, worker in alive:
                row["status"] = f"timing {round_ + 1}/{ROUNDS}"
                changed()
                guess = times[id(row)][-1] if times[id(row)] else 1e3 * row["train_s"] / row["steps"]
                count = max(5, min(1000, round(SECONDS * 1e3 / guess)))
                try:
                    *_, answer = worker.ask("time", steps=count)
                    times[id(row)].append(answer["ms"])
                except WorkerDied as error:
                    row |= {"error": str(error), "status": "failed"}
            alive = [(row, worker) for row, worker in alive if not row["error"]]
        for row in rows:
            row.pop("watched", None)
        for row, _ in alive:
            row |= _timings(times[id(row)], row) | {"status": "done"}
        changed()


def _train(row: Record, worker: Worker, settings: Record, changed: Callable[[], None]) -> None:
    watched: list[float] = []
    for answer in worker.ask("train", **_training(row, settings)):
        if "step" in answer:
            watched.append(answer["loss"])
            row |= {"status": f"step {answer['step']}, loss {answer['loss']:.4f}", "watched": watched}
        else:
            row |= {**answer, "status": "trained"}
        changed()


def _training(row: Record, settings: Record) -> Record:
    """What a process needs to know of a run."""
    mode = None if row["engine"] == "keras" else row["mode"]
    return {
        "subject": {
            **{key: row[key] for key in ("model", "backend")},
            **{key: settings[key] for key in ("threads", "device", "task", "tokenizer", "errors", "seed")},
        },
        "how": {
            **{key: settings[key] for key in ("epochs", "steps", "batch_size", "seed")},
            "engine": row["engine"],
            "mode": mode,
        },
    }


def _drift(
    rows: list[Record], pairs: list[Record], folder: Path, settings: Record, changed: Callable[[], None]
) -> Record:
    """How far the quickest run drifts from itself, if losses part beyond the bound, and the bound then.

    It trains again from weights a unit in the last place off, a few times, until it has drifted far enough
    to explain what was found: what one framework does to itself is no difference of two.
    """
    apart = max((pair["losses"] for pair in pairs if math.isfinite(pair["losses"])), default=0.0)
    if apart <= bounds.BOUNDS["losses"]:
        return {}
    row = min((row for row in rows if not row["error"]), key=lambda row: row["train_s"])
    found, runs = 0.0, 0
    with closing(Worker("zoo.comparison.worker", folder, row["backend"])) as worker, suppress(WorkerDied):
        while runs < bounds.PERTURBED_RUNS and bounds.floor(found) < apart:
            row["status"] = f"drift from itself, {runs + 1} of up to {bounds.PERTURBED_RUNS}"
            changed()
            *_, answer = worker.ask("drift", **_training(row, settings), nudge=runs)
            found = max(
                found, bounds.absolute_difference(np.array(row["losses"]), np.array(answer["losses"]))
            )
            runs += 1
    row["status"] = "done"
    return {
        "drift": {"run": _name(row), "runs": runs, "losses": found},
        "bounds": {"losses": max(bounds.BOUNDS["losses"], bounds.floor(found))},
    }


def _timings(times: list[float], row: Record) -> Record:
    """Times of a step in milliseconds, one a round: what they say in all. The first round warms up."""
    low, middle, high = quantiles(times[1:], n=4, method="inclusive")
    return {
        "step_ms": middle,
        "step_ms_quartiles": [low, high],
        "examples_per_second": row["batch_size"] / middle * 1e3,
        "compile_s": max(0.0, row["first_step_s"] - median(times[1:]) / 1e3),
    }


def _differences(rows: list[Record], folders: list[Path]) -> list[Record]:
    """Every pair of runs that ended well."""
    done = [(row, folder) for row, folder in zip(rows, folders, strict=True) if not row["error"]]
    return [_difference(*a, *b) for a, b in itertools.combinations(done, 2)]


def _difference(a: Record, folder_a: Path, b: Record, folder_b: Path) -> Record:
    outputs_a, outputs_b = (dict(np.load(folder / "outputs.npz")) for folder in (folder_a, folder_b))
    last = next(reversed(outputs_a))
    predictions = [np.load(folder / "predictions.npz")["predictions"] for folder in (folder_a, folder_b)]
    return {
        "model": a["model"],
        "a": _name(a),
        "b": _name(b),
        "initial_weights": _largest(folder_a, folder_b, "initial_weights"),
        "outputs": bounds.relative_difference(outputs_a[last], outputs_b[last]),
        "losses": float(np.max(np.abs(np.subtract(a["losses"], b["losses"])))),
        "final_weights": _largest(folder_a, folder_b, "final_weights"),
        "predictions": int((predictions[0] != predictions[1]).sum()),
        "first_layer": bounds.first_difference(outputs_a, outputs_b),
    }


def _largest(folder_a: Path, folder_b: Path, name: str) -> float:
    """The largest absolute difference between the weights of two runs."""
    from safetensors.numpy import load_file

    a, b = (load_file(folder / f"{name}.safetensors") for folder in (folder_a, folder_b))
    if a.keys() != b.keys():
        return float("inf")
    return max(float(np.abs(np.subtract(a[k], b[k], dtype=np.float64)).max(initial=0)) for k in a)


def _name(row: Record) -> str:
    return f"{row['backend']}/{row['engine']}/{row['mode']}"


def _describe(card: registry.Card, rows: list[Record], settings: Record) -> Record:
    plan = recipe(card.recipe)
    done: Record = next((row for row in rows if not row["error"]), {})
    steps = done.get("steps")
    baseline = baselines.baseline(settings["task"] or card.task)
    return {
        **{
            key: getattr(card, key) for key in ("name", "paper", "url", "idea", "parameters", "multiply_adds")
        },
        "task": settings["task"] or card.task,
        "metric": next(iter(done.get("metrics", {})), None),
        "baseline": baseline and asdict(baseline),
        "seed": settings["seed"],
        "recipe": {
            "optimizer": str(plan),
            "epochs": None if settings["steps"] else settings["epochs"] or plan.epochs,
            "batch_size": done.get("batch_size"),
            "steps": steps,
        },
        "definition": {"file": f"zoo/models/{card.file.name}", "code": inspect.getsource(card.builder)},
    }
