"""`zoo bench`: the zoo's step against the same network written plainly in each framework, and Keras's `fit`.

Times are ratios within one process: all implementations of a framework run there in turn, burst after burst,
so that a busy machine slows them alike; a step before each burst is not timed. Compile time and peak memory
are measured in a process of its own for each. All start from the same weights, take the same batch, and must
arrive at the same loss; dropout is off, because its masks differ between frameworks. Building is timed in a
new process each time, the implementations in turn.

    implementations     what is timed beside what
    records             a file of results that grows
    workload            batch sizes, batches, the number of steps
    worker              what runs in a process
    references          the networks written plainly in each framework
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import product
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from zoo import backends, registry
from zoo.benchmarks.implementations import list_implementations
from zoo.benchmarks.records import opened
from zoo.benchmarks.workload import batch_for, rounds_and_burst
from zoo.checks import integer
from zoo.errors import WrongConfiguration
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Worker, WorkerDied

Record = dict[str, Any]
Progress = Callable[[str], None]
KINDS = ("train", "infer", "generate", "build")
BUILDS = 5  # of each implementation


def bench(
    *models: str,
    what: Sequence[str] = ("train", "infer"),
    backends: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    show: Callable[[str], None] | None = None,
    report: Callable[[list[Record]], None] | None = None,
    out: str | Path | None = None,
) -> list[Record]:
    """Measure the time of models' steps, or of building them, beside reference implementations.

    Returns a row for each implementation, with "model", "backend", "device" (`device`, None for the
    framework's first), "what" ("train", "infer", "generate" or "build"), "contestant" (the implementation),
    "step_ms" (median), "step_ms_quartiles", "ratio" (to the framework's plain implementation in its first
    mode, the median over bursts that ran side by side; None without one), "ratio_fastest" (to its fastest
    mode), "compile_s" (first step minus a later one), "peak_mb", "loss" (after a burst of steps; None for
    inference) and "error". For building, "build_s" and "build_s_quartiles" replace the times of steps, and
    there is no batch. `show` is a callback that receives what is being measured; `report` receives the rows
    of one model and one "what" as soon as they are complete.

    `out` is a file of JSON that grows by a model, a framework and a "what" at a time. What it has already is
    not measured again, so that a benchmark that was interrupted goes on where it was; rows with an error are.

    A generation step generates 64 tokens after a prompt, the most likely each time. The default
    `batch_size` is the recipe's, or for a model for natural images what two cores process in about a second;
    its images are noise, because speed does not depend on them.

    Raises subclasses of ZooError before anything is measured: for a wrong name, and for an `out` that is of
    another machine, other versions or another program.
    """
    if not models:
        raise WrongConfiguration("bench: no model given; `zoo list` shows them")
    for kind in what:
        if kind not in KINDS:
            raise WrongConfiguration(f"bench: what={kind!r}; expected {' or '.join(KINDS)}")
    batch_size = None if batch_size is None else integer("bench", "batch_size", batch_size)
    threads = machine.cores() if threads is None else integer("bench", "threads", threads)
    names, progress = _checked_backends(backends), show or (lambda text: None)
    cards = [registry.card(name) for name in models]
    with opened(out) as records:
        rows: list[Record] = []
        for card, kind in product(cards, what):
            own: list[Record] = []
            for name in names:
                job = {
                    "model": card.name,
                    "backend": name,
                    "device": device,
                    "threads": threads,
                    "what": kind,
                }
                measure = _time_builds
                if kind != "build":
                    measure, size = _time_steps, 1 if kind == "generate" else batch_size or batch_for(card)
                    rounds, burst = (10, 1) if kind == "generate" else rounds_and_burst(card, size)
                    job |= {"batch_size": size, "rounds": rounds, "burst": burst}
                own += records.of(job) or records.add(measure(job, progress))
            if report:
                report(own)
            rows += own
        return rows


def _checked_backends(names: Sequence[str] | None) -> list[str]:
    return [backends.checked(name, "bench") for name in names or backends.installed()]


def _time_steps(job: Record, progress: Progress) -> list[Record]:
    """One model on one framework: each implementation alone, then all in turn."""
    title = f"{job['model']} on {job['backend']}, {job['what']}"
    rows = []
    for name in (each.name for each in list_implementations(job["model"], job["backend"], job["what"])):
        progress(f"{title}: {name} alone")
        alone = _run("alone", {**job, "implementations": [name]})
        rows.append({**job, "contestant": name, **alone, "error": alone.get("error")})
    for group in _groups([row for row in rows if not row["error"]]):
        progress(f"{title}: {len(group)} implementations in turn")
        # The first to be made is slower, 2 % among three equal programs: the two of the ratio swap.
        names, times = list(group), {name: [] for name in group}
        for order in (names, [*names[1::-1], *names[2:]]):
            timed = _run("interleaved", {**job, "implementations": order, "rounds": job["rounds"] // 2})
            if "error" in timed:
                return [{**row, "error": row["error"] or timed["error"]} for row in rows]
            for name in names:
                times[name] += timed[name]
        for name, row in group.items():
            if "step_ms" not in row:  # references are in every group
                row |= _summary("step_ms", times[name], times)
                row["compile_s"] = max(0.0, row.pop("first_step_s") - row["step_ms"] / 1e3)
    return rows


def _groups(rows: Sequence[Record]) -> list[dict[str, Record]]:
    """The rows that are timed in one process, by name: all where memory holds them together, else one of ours
    with the references."""
    named = {row["contestant"]: row for row in rows}
    memory = machine.environment()["memory_gb"]
    if memory is None or sum(row["peak_mb"] for row in rows) < 0.8 * 1024 * memory:
        return [named]
    references = {name: row for name, row in named.items() if name.startswith("plain")}
    return [{name: row, **references} for name, row in named.items() if name not in references]


def _time_builds(job: Record, progress: Progress) -> list[Record]:
    """One model on one framework, built by each implementation in turn, each time in a new process."""
    names = [each.name for each in list_implementations(job["model"], job["backend"], "build")]
    rows = {name: {**job, "contestant": name, "error": None} for name in names}
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(BUILDS):
        for name, row in rows.items():
            progress(f"{job['model']} on {job['backend']}, {name}: {i + 1} of {BUILDS}")
            if not row["error"]:
                built = _run("build", {**job, "implementations": [name]})
                row |= {"error": built.get("error"), "peak_mb": built.get("peak_mb")}
                times[name].append(built.get("build_s", 0.0))
    times = {name: own for name, own in times.items() if not rows[name]["error"]}
    for name, own in times.items():
        rows[name] |= _summary("build_s", own, times)
    return list(rows.values())


def _summary(key: str, own: Sequence[float], times: Mapping[str, Sequence[float]]) -> Record:
    """Median and quartiles, and the ratios to the reference's first mode and to its fastest."""
    low, middle, high = quantiles(own, n=4, method="inclusive")
    references = [other for name, other in times.items() if name.startswith("plain")]
    ratio = fastest = None
    if references:
        ratio, fastest = _ratio(own, references[0]), _ratio(own, min(references, key=median))
    return {key: middle, f"{key}_quartiles": [low, high], "ratio": ratio, "ratio_fastest": fastest}


def _ratio(own: Sequence[float], other: Sequence[float]) -> float:
    """The median over bursts that ran side by side."""
    return median(a / b for a, b in zip(own, other, strict=True))


def _run(command: str, job: Record) -> Record:
    """The answer of `zoo.benchmarks.worker` to a job, in a new process, or {"error": the reason}."""
    with scratch_folder() as scratch:
        worker = Worker("zoo.benchmarks.worker", scratch / "worker", job["backend"])
        with closing(worker):
            try:
                *_, answer = worker.ask(command, job=job)
            except WorkerDied as error:
                return {"error": str(error)}
    return answer
