"""The runs of a comparison: each trained in a process of its own, then timed in turn with the others."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import numpy as np

from zoo.ladder.bounds import BOUNDS, PERTURBED_RUNS, absolute_difference, floor
from zoo.processes.workers import Worker, WorkerDied, finish

Record = dict[str, Any]
Progress = Callable[[], None]  # called when a row has changed
ROUNDS = 7  # of timing, each of SECONDS
SECONDS = 0.4


def measure(rows: list[Record], folders: list[Path], settings: Record, progress: Progress) -> None:
    """Train every row in a process of its own, one after another, then time them in turn."""
    with ExitStack() as stack:
        workers = []
        for row, folder in zip(rows, folders, strict=True):
            worker = stack.enter_context(closing(Worker("zoo.comparison.worker", folder, row["backend"])))
            workers.append(worker)
            row["status"] = "starting"
            progress()
            with _errors_in(row):
                _train(row, worker, settings, progress)
            progress()
        _time(rows, workers, progress)
    for row, folder in zip(rows, folders, strict=True) if (settings["workers"] or 1) > 1 else ():
        if row["engine"] == "native" and not row["error"]:
            row["status"] = f"on {settings['workers']} workers"
            progress()
            with _errors_in(row):
                row |= {"workers": _share(row, folder / "workers", settings), "status": "done"}
    for row in rows:
        row.pop("watched", None)
    progress()


def _train(row: Record, worker: Worker, settings: Record, progress: Progress) -> None:
    losses: list[float] = []
    for answer in worker.ask("train", **_arguments(row, settings)):
        if "step" in answer:
            losses.append(answer["loss"])
            row |= {"status": f"step {answer['step']}, loss {answer['loss']:.4f}", "watched": losses}
        else:
            row |= {**answer, "status": "trained"}
        progress()


def _share(row: Record, folder: Path, settings: Record) -> Record:
    """Train a row once more, on several workers, and compare them with its one process."""
    folder.mkdir()
    count, asked = settings["workers"], _arguments(row, settings)
    asked["setup"]["threads"] = max(1, settings["threads"] // count)
    (folder / "run.json").write_text(json.dumps(asked))
    program = ["-m", "zoo.processes.launcher", str(count), "-m", "zoo.comparison.shared", str(folder)]
    finish(program, folder, row["backend"])
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(count)]
    alone = np.array(row["losses"])
    differences = [np.max(np.abs(np.array(each["losses"]) - alone) / np.abs(alone)) for each in found]
    return {
        "count": count,
        "losses": float(max(differences)),
        "equal_weights": len({each["weights"] for each in found}) == 1,
    }


def _time(rows: list[Record], workers: list[Worker], progress: Progress) -> None:
    """Time steps of all that were trained, round after round. The first round is a warm-up."""
    times: list[list[float]] = [[] for _ in rows]
    for round_ in range(ROUNDS):
        for row, worker, own in zip(rows, workers, times, strict=True):
            if row["error"]:
                continue
            row["status"] = f"timing {round_ + 1}/{ROUNDS}"
            progress()
            step_ms = own[-1] if own else 1e3 * row["train_s"] / row["steps"]
            with _errors_in(row):
                *_, answer = worker.ask("time", steps=max(5, min(1000, round(SECONDS * 1e3 / step_ms))))
                own.append(answer["ms"])
    for row, own in zip(rows, times, strict=True):
        if not row["error"]:
            low, middle, high = quantiles(own[1:], n=4, method="inclusive")
            row |= {
                "step_ms": middle,
                "step_ms_quartiles": [low, high],
                "examples_per_second": row["batch_size"] / middle * 1e3,
                "compile_s": max(0.0, row["first_step_s"] - median(own[1:]) / 1e3),
                "status": "done",
            }


@contextmanager
def _errors_in(row: Record) -> Iterator[None]:
    """A process that ends becomes the error of its row."""
    try:
        yield
    except WorkerDied as error:
        row.update(error=str(error), status="failed")


def _arguments(row: Record, settings: Record) -> Record:
    """Of the worker's commands: `setup` for the model and its data, `options` for `zoo.train`."""
    setup = ("threads", "device", "task", "tokenizer", "errors", "seed")
    options = ("epochs", "steps", "batch_size", "seed", "exact")
    return {
        "setup": {key: row[key] for key in ("model", "backend")} | {key: settings[key] for key in setup},
        "options": {key: settings[key] for key in options}
        | {"engine": row["engine"], "mode": None if row["engine"] == "keras" else row["mode"]},
    }


def drift(
    rows: list[Record], pairs: list[Record], folder: Path, settings: Record, progress: Progress
) -> Record:
    """How far the fastest run diverges from itself, and the bound of losses that follows; {} if not needed.

    It is measured if losses differ by more than the bound. The run is trained again from 1-ulp perturbations
    of its initial weights until its own divergence explains the difference: differences caused by rounding
    alone are not differences between frameworks.
    """
    difference = max((pair["losses"] for pair in pairs if math.isfinite(pair["losses"])), default=0.0)
    if difference <= BOUNDS["losses"]:
        return {}
    row = min((row for row in rows if not row["error"]), key=lambda row: row["train_s"])
    largest, runs = 0.0, 0
    with closing(Worker("zoo.comparison.worker", folder, row["backend"])) as worker, suppress(WorkerDied):
        while runs < PERTURBED_RUNS and floor(largest) < difference:
            row["status"] = f"1-ulp perturbation, run {runs + 1} of up to {PERTURBED_RUNS}"
            progress()
            *_, answer = worker.ask("drift", **_arguments(row, settings), perturbation=runs)
            losses = np.array(answer["losses"])
            largest = max(largest, absolute_difference(np.array(row["losses"]), losses))
            runs += 1
    row["status"] = "done"
    return {
        "drift": {"run": run_name(row), "runs": runs, "losses": largest},
        "bounds": {"losses": max(BOUNDS["losses"], floor(largest))},
    }


def run_name(row: Record) -> str:
    """Backend, engine and mode of a run, as in "torch/native/traced"."""
    return f"{row['backend']}/{row['engine']}/{row['mode']}"
