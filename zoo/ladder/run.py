"""One run of the ladder: the processes that compute, and the table of what they computed."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo import backends
from zoo.backends import MODES
from zoo.errors import BackendError
from zoo.ladder.bounds import NUMBERS, RUNGS, Record
from zoo.ladder.builders import check_networks
from zoo.ladder.rungs import COMPARISONS, Pair, chaos_of, engines, row
from zoo.processes import machine
from zoo.processes.workers import Worker, WorkerDied

MODELS_PER_PROCESS = 12  # then a new one is started: TensorFlow keeps every graph, 70 MB a model
QUICK_MODES = tuple({m: None for name in MODES for m in MODES[name] if m != "compiled"})

Model = tuple[str, Path | None]  # its name, and the folder of a user's own
Process = tuple[str, str]  # its framework and float type


@dataclass(frozen=True)
class Settings:
    """What holds for every model of a run."""

    backends: Sequence[str]
    dtypes: Sequence[str]
    rungs: Sequence[int] = NUMBERS
    modes: Sequence[str] = ()
    device: str = "cpu"
    progress: Callable[[str], None] = lambda text: None


def compared_backends(names: Sequence[str] | None) -> list[str]:
    """Two frameworks or more; those installed by default. Raises BackendError."""
    checked = dict.fromkeys(backends.checked(name, "parity") for name in names or backends.installed())
    if len(checked) < 2:
        raise BackendError(
            f"parity compares two frameworks or more, here: {', '.join(checked) or 'none'}; "
            'pip install "keras-zoo-parity[all]" brings all'
        )
    return list(checked)


class ParityRun(AbstractContextManager["ParityRun"]):
    """Runs models on the ladder: one process for each framework and float type, one a core at a time."""

    def __init__(self, scratch: Path, models: Sequence[Model], settings: Settings):
        self.scratch, self.models, self.settings = scratch, models, settings
        self.workers: dict[Process, Worker] = {}
        self.lock, self.cancelled = threading.Lock(), False  # of starting workers
        self.errors: dict[tuple[str, str, str], str] = {}  # by model, framework and float type
        self.facts: dict[str, Record] = {}  # by model: those of `zoo.ladder.taps.Taps`
        self.finished = 0  # models, each process's by itself

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()

    def rows(self) -> list[Record]:
        """Computes everything, and returns the rows of the table."""
        settings, self.finished = self.settings, 0
        check_networks(self)
        longest_first = list(itertools.product(settings.dtypes, settings.backends))[::-1]  # JAX in float64
        processes = [(name, dtype) for dtype, name in longest_first]
        with ThreadPoolExecutor(max(1, machine.cores())) as pool:
            try:
                list(pool.map(self.compute, processes))
                if 8 in settings.rungs:
                    list(pool.map(self.resume, processes))
            except BaseException:
                self.cancel()  # the pool waits for its threads, and these for workers
                raise
        return [
            row for name, _ in self.models for dtype in settings.dtypes for row in self.table(name, dtype)
        ]

    # The processes

    def ask(self, process: Process, command: str, **arguments: object) -> Record:
        """The answer of a process to one command; it is started if it is not running.

        Raises WorkerDied, and CancelledError once the run is cancelled.
        """
        with self.lock:
            if self.cancelled:
                raise CancelledError
            if process not in self.workers:
                self.workers[process] = self.start(*process)
        answer: Record = {}
        try:
            for answer in self.workers[process].ask(command, **arguments):
                if (done := answer.get("rungs_done")) is not None:
                    self.report(process, str(arguments["model"]), done)
        except WorkerDied:
            self.workers.pop(process).close()
            raise
        return answer

    def report(self, process: Process, model: str, done: int) -> None:
        """Progress: the rungs of a model that a process has computed, and the models that are finished."""
        settings = self.settings
        total = len(self.models) * len(settings.dtypes) * len(settings.backends)
        settings.progress(
            f"{model} · {process[0]} {process[1]}: {done} of {len(settings.rungs)} rungs "
            f"({self.finished} of {total} finished)"
        )

    def cancel(self) -> None:
        """End the processes, and start no others."""
        with self.lock:
            self.cancelled = True
            for worker in self.workers.values():
                worker.process.kill()

    def start(self, backend: str, dtype: str) -> Worker:
        """A process of this framework, which computes in this float type."""
        environment = {
            "ZOO_PARITY_DTYPE": dtype,
            "ZOO_PARITY_DEVICE": self.settings.device,
            "OMP_NUM_THREADS": "1",
            # Most of JAX's time is compilation: what was compiled once is read from here.
            "JAX_COMPILATION_CACHE_DIR": os.environ.get(
                "JAX_COMPILATION_CACHE_DIR", str(self.scratch / "compiled")
            ),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        if dtype == "float64":
            environment["JAX_ENABLE_X64"] = "1"
        return Worker("zoo.ladder.probe", self.folder(backend, dtype), backend, environment)

    def folder(self, backend: str, dtype: str) -> Path:
        """Where a process writes its arrays."""
        return self.scratch / f"{backend}-{dtype}"

    def compute(self, process: Process, fault: str | None = None) -> None:
        """Have a process compute the rungs of every model."""
        backend, dtype = process
        settings = self.settings
        for number, (model, folder) in enumerate(self.models):
            if number and number % MODELS_PER_PROCESS == 0 and process in self.workers:
                self.workers.pop(process).close()
            self.report(process, model, 0)
            try:
                answer = self.ask(
                    process,
                    "compute",
                    model=model,
                    folder=folder and str(folder),
                    rungs=list(settings.rungs),
                    modes=list(settings.modes) if dtype == settings.dtypes[0] else [],
                    chaos=dtype == "float32" and backend == settings.backends[0],
                    fault=fault,
                )
                self.facts.setdefault(model, answer["facts"])
            except WorkerDied as error:
                self.errors[model, backend, dtype] = str(error)
            self.finished += 1

    def resume(self, process: Process, fault: str | None = None) -> None:
        """Have a process resume from the checkpoints of the others."""
        backend, dtype = process
        others = {name: self.folder(name, dtype) for name in self.settings.backends if name != backend}
        for model, folder in self.models:
            files = {name: path / f"{model}.safetensors" for name, path in others.items()}
            files = {name: str(path) for name, path in files.items() if path.exists()}
            if not files or (model, backend, dtype) in self.errors:
                continue
            self.settings.progress(f"{model} · {backend} {dtype}, resuming")
            try:
                self.ask(
                    process, "resume", model=model, folder=folder and str(folder), files=files, fault=fault
                )
            except WorkerDied as error:
                self.errors[model, backend, dtype] = str(error)

    def notes(self, model: str) -> list[str]:
        """What was done to make the frameworks comparable."""
        if not (noise := self.facts.get(model, {}).get("noise")):
            return []
        generators = "generators" if len(noise) > 1 else "generator"
        return [f"{len(noise)} random {generators} of Keras drew the same numbers on every framework"]

    # The comparison of their arrays

    def table(self, model: str, dtype: str) -> Iterator[Record]:
        """The rows of one model in one float type."""
        arrays: dict[str, dict[str, np.ndarray]] = {}
        for name in self.settings.backends:
            if error := self.errors.get((model, name, dtype)):
                yield {
                    "model": model, "dtype": dtype, "rung": 0, "name": "process", "a": name, "b": name,
                    "measured": None, "bound": None, "verdict": "fails", "where": None, "error": error,
                }  # fmt: skip
            else:
                arrays[name] = load(self.folder(name, dtype), model)
        facts, chaos = self.facts.get(model, {}), chaos_of(arrays.get(self.settings.backends[0], {}))
        for rung in RUNGS:
            if rung.number not in self.settings.rungs:
                continue
            for a, b in itertools.combinations(arrays, 2):
                pair = Pair(a, b, arrays[a], arrays[b], rung.bound(dtype, chaos), facts, dtype)
                if (measurement := COMPARISONS[rung.number](pair)) is not None:
                    yield row(model, dtype, rung, (a, b), measurement, chaos)
            if rung.number == 7 and any("training/native" in own for own in arrays.values()):
                for name, own in arrays.items():
                    yield row(model, dtype, rung, (name, name), engines(own), chaos)


def load(folder: Path, model: str) -> dict[str, np.ndarray]:
    """The arrays that a process wrote of a model; those of rung 8 begin with "resume/"."""
    arrays: dict[str, np.ndarray] = {}
    for file, prefix in ((f"{model}.npz", ""), (f"{model}-resumed.npz", "resume/")):
        if (folder / file).exists():
            with np.load(folder / file) as stored:
                arrays |= {prefix + name: stored[name] for name in stored.files}
    return arrays
