"""Sweeps: models x frameworks x settings x seeds, on this machine or a cluster, and what they say.

    zoo sweep sweep.toml

Each run is a process of its own with one framework (`worker`), in a local pool (`pool`) or as a task of Ray
(`cluster`). Its result is a file in the sweep's folder, named by a hash of the run's settings (`tasks`), so a
sweep that was interrupted, or extended, runs what is missing. `summary` and `statistics` compute means,
spreads and paired tests; `search` takes settings from Optuna.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo import backends, storage
from zoo._version import __version__
from zoo.checks import integer
from zoo.errors import WrongConfiguration
from zoo.processes import machine
from zoo.sweeps import cost
from zoo.sweeps.cost import duration
from zoo.sweeps.pool import Execute, processes
from zoo.sweeps.specification import Specification, read, specify
from zoo.sweeps.summary import command, row_of, summarize
from zoo.sweeps.tasks import Record, Results, Task

FILE, PAGE = "sweep.json", "sweep.html"
PAGE_S, PAGE_SHARE = 2.0, 20  # between two versions of the page: seconds, and times what one takes


class Sweep(dict[str, Any]):
    """The result, as described in docs/sweep.md; a notebook displays its page."""

    @property
    def runs(self) -> list[Record]:
        """One for each run that has ended: its task, metrics, or its error."""
        return self["runs"]

    @property
    def cells(self) -> list[Record]:
        """One for each combination, the best first: mean and spread over the seeds."""
        return self["cells"]

    @property
    def tests(self) -> list[Record]:
        """Paired tests between the values of a dimension."""
        return self["tests"]

    def __repr__(self) -> str:
        failed = sum(bool(run["error"]) for run in self.runs)
        return f"<Sweep: {len(self.runs)} of {self['planned']} runs, {failed} failed>"

    def __str__(self) -> str:
        from zoo.report.sweep import text

        return text(self)

    def _repr_html_(self) -> str:
        from zoo.report.sweep import render
        from zoo.report.templates import iframe

        return iframe("Sweep", render(self))


def sweep(
    file: str | Path | None = None,
    *,
    models: str | Sequence[str] | None = None,
    backends: str | Sequence[str] | None = None,
    seeds: int | Sequence[int] | None = None,
    settings: Mapping[str, Any] | None = None,
    metric: str | None = None,
    direction: str | None = None,
    search: Mapping[str, Any] | None = None,
    cpus: int | None = None,
    gpus: float | None = None,
    out: str | Path | None = None,
    address: str | None = None,
    jobs: int | None = None,
    show: Callable[[str], None] | None = None,
) -> Sweep:
    """Train every combination of models, frameworks, settings and seeds, and test what differs.

    `file` is a TOML file with these arguments, which take precedence over it. `backends` are by default those
    installed; `seeds` a number of seeds, 0 and up, or a list; `settings` options of `zoo.train` and, as
    "model.widths", arguments of the model: a list has a value for each run. `metric` is what is compared, by
    default the first task's; `direction` "minimize" or "maximize", by default as the metric needs it.

    `search`: settings are chosen by Optuna instead: {"ranges": {"learning_rate": {"low": 1e-4, "high": 0.1,
    "log": True}, "optimizer": ["Adam", "AdamW"]}, "trials": 20, "batch": 1, "seed": 0}.

    A run has `cpus` threads and a share `gpus` of a GPU, by default none. Without `address` the runs are
    processes of this machine, `jobs` at a time, by default as many as its processors, or the shares of a GPU,
    allow; with it, tasks of the Ray cluster there: "auto", "ray://host:10001", or "local" for one of this
    machine.

    Each result is a file in the folder `out`, by default sweeps/NAME of the file; called again, a sweep runs
    what is missing there or failed. sweep.json and the page sweep.html are written while runs end. `show` is
    called with a line for each.

    A run that fails has an `error` in its row and stops no other. Raises ZooError's kinds, before any work,
    for what cannot be run; BackendError without Ray or Optuna where they are needed.
    """
    given = {
        "models": models, "backends": backends, "seeds": seeds, "settings": settings, "metric": metric,
        "direction": direction, "search": search, "cpus": cpus, "gpus": gpus,
    }  # fmt: skip
    specification = specify_file(file, **{name: x for name, x in given.items() if x is not None})
    return run(specification, folder_of(file, out), address=address, jobs=jobs, show=show)


def specify_file(file: str | Path | None, **given: Any) -> Specification:
    """The sweep of a file and of arguments, which take precedence. Raises ZooError's kinds."""
    arguments = {**({} if file is None else read(file)), **given}
    if "models" not in arguments:
        raise WrongConfiguration('sweep: no models; expected, for example, models = ["lenet5", "mlp"]')
    return specify(**arguments)


def folder_of(file: str | Path | None, out: str | Path | None) -> Path:
    """The folder of a sweep's results. Raises WrongConfiguration unless it can be written to."""
    folder = Path(out) if out is not None else Path("sweeps", "sweep" if file is None else Path(file).stem)
    storage.check_folder("sweep", folder)
    return folder


def run(
    specification: Specification,
    folder: Path,
    *,
    address: str | None = None,
    jobs: int | None = None,
    show: Callable[[str], None] | None = None,
) -> Sweep:
    """Run what is missing of a sweep. On an exception, Ctrl-C included, the page shows what is done."""
    cpus = specification.cpus
    most = backends.cores() // cpus if not specification.gpus else int(1 / specification.gpus)
    jobs = max(1, most) if jobs is None else integer("sweep", "jobs", jobs)
    with storage.held("sweep", folder / FILE), _executor(specification, address, jobs) as execute:
        progress = Progress(specification, folder, execute, show)
        try:
            progress.run()
        finally:
            result = progress.save()
    return result


@contextmanager
def _executor(sweep: Specification, address: str | None, jobs: int) -> Iterator[Execute]:
    if address is None:
        with processes(jobs, sweep.cpus, sweep.gpus) as execute:
            yield execute
        return
    from zoo.sweeps.cluster import ray_tasks

    with ray_tasks(address, jobs, sweep.cpus, sweep.gpus) as execute:
        yield execute


def _search(sweep: Specification) -> Any:
    from zoo.sweeps.search import Search

    return Search(sweep)


class Progress:
    """The results so far, and the files that show them."""

    def __init__(
        self, sweep: Specification, folder: Path, execute: Execute, show: Callable[[str], None] | None
    ):
        self.sweep, self.folder, self.execute = sweep, folder, execute
        self.show = show or (lambda line: None)
        self.results = Results(folder)
        self.order: dict[str, Task] = {}  # by key
        self.rows: dict[str, Record] = {}
        self.found: dict[str, Record] = {}
        self.search: Any = None if sweep.search is None else _search(sweep)
        self.due, self.started, self.new = 0.0, time.perf_counter(), 0

    def run(self) -> None:
        """All runs; of a search, round by round."""
        self._estimate()
        self.started = time.perf_counter()
        if self.search is None:
            self._run(self.sweep.tasks())
            return
        while tasks := self.search.ask():
            self._run(tasks)
            self.search.tell(self.found)

    def _estimate(self) -> None:
        """Say what the sweep costs, from a few steps of each kind of run if they are little of it."""
        missing, probes = cost.missing(self.sweep, self.results), cost.probes(self.sweep)
        timed: dict[cost.Kind, Record] = {}

        def keep(task: Task, result: Record) -> None:
            self.results.write(task, result)
            timed[cost.kind_of(task)] = result

        if sum(count for _, count in missing) >= cost.WORTH * len(probes):
            known = {kind: self.results.read(task) for kind, task in probes.items()}
            timed |= {kind: result for kind, result in known.items() if result is not None}
            self.execute([task for kind, task in probes.items() if kind not in timed], keep)
        self.show(cost.sentence(self.sweep, missing, timed, self.execute.jobs))

    def _run(self, tasks: Sequence[Task]) -> None:
        waiting: dict[str, Task] = {}
        for task in tasks:
            self.order[task.key] = task
            result = self.found.get(task.key) or self.results.read(task)
            if result is None:
                waiting[task.key] = task
            else:
                self._add(task, result)
        self.execute(list(waiting.values()), self._done)

    def _add(self, task: Task, result: Record) -> None:
        if not result["error"] and self.sweep.metric not in result["metrics"]:
            there = ", ".join(result["metrics"])
            result = {**result, "error": f"no metric {self.sweep.metric!r}; there are: {there}"}
        self.found[task.key], self.rows[task.key] = result, row_of(task, result)

    def _done(self, task: Task, result: Record) -> None:
        """Keep a result, and show it."""
        self.results.write(task, result)
        self._add(task, storage.finite(result))
        self.new += 1
        said = self._said(self.found[task.key])
        self.show(f"[{len(self.rows)}/{self.sweep.runs}] {task}: {said}{self._left()}")
        if time.perf_counter() > self.due:
            self.save()

    def _said(self, result: Record) -> str:
        if result["error"]:
            return f"failed: {result['error']}"
        return f"{self.sweep.metric} {result['metrics'][self.sweep.metric]:.4g}"

    def _left(self) -> str:
        """The time that is left, at the rate so far."""
        left = self.sweep.runs - len(self.rows)
        seconds = (time.perf_counter() - self.started) / self.new * left
        return f"; about {duration(seconds)} left" if left else ""

    def save(self) -> Sweep:
        """Write sweep.json and the page, and return the result."""
        from zoo.report.sweep import render

        start = time.perf_counter()
        rows = [self.rows[key] for key in self.order if key in self.rows]
        found = summarize(self.sweep, rows)
        best = next((cell for cell in found["cells"] if cell["mean"] is not None), None)
        result = Sweep(
            zoo=__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            planned=self.sweep.runs,
            metric=self.sweep.metric,
            direction=self.sweep.direction,
            seeds=list(self.sweep.seeds),
            dimensions=self.sweep.dimensions,
            **found,
            command=None if best is None else command(self.sweep, best["choices"]),
            studies=[] if self.search is None else self.search.records(),
            runs=rows,
            environment={**machine.environment(), "threads": self.sweep.cpus, "devices": devices(rows)},
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        storage.write_text(self.folder / FILE, storage.json_text(result))
        storage.write_text(self.folder / PAGE, render(storage.finite(result)))
        end = time.perf_counter()
        self.due = end + max(PAGE_S, PAGE_SHARE * (end - start))
        return result


def devices(rows: Sequence[Record]) -> dict[str, str]:
    """The device of each framework."""
    return {row["backend"]: row["device"] for row in rows if row["device"]}
