"""One process for each backend that stays alive; a case that ends it costs that case alone."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from zoo.hunt.cases import Case, Outcome
from zoo.processes.workers import Worker, WorkerDied

LIMIT_S = 60.0  # for one case; a process also has this long to start
ENDED = "the process ended:"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "JAX_ENABLE_X64": "1",
    "JAX_PLATFORMS": "cpu",
    "CUDA_VISIBLE_DEVICES": "",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    # Compiling takes most of JAX's time; what LLVM optimizes is not what is compared.
    "XLA_FLAGS": "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
}


class TimeOver(Exception):
    """The deadline has passed; a process that was at work has been ended."""


class Workers:
    """The processes; `run` gives cases to some of them at the same time."""

    def __init__(self, folder: Path, backends: Sequence[str], deadline: float):
        self.folder, self.backends, self.deadline = folder, tuple(backends), deadline
        self.workers: dict[str, Worker] = {}
        self.restarts = 0

    def close(self) -> None:
        """End the processes."""
        for worker in self.workers.values():
            worker.close()

    def run(
        self,
        cases: Sequence[Case],
        modes: dict[str, str],
        *,
        gradients: bool = True,
        float64: bool = True,
        fallback: bool = True,
    ) -> dict[str, list[Outcome]]:
        """The outcomes of the cases by backend, each in its mode. Raises TimeOver at the deadline."""
        options = {"gradients": gradients, "float64": float64, "fallback": fallback}
        with ThreadPoolExecutor(len(modes)) as pool:
            found = pool.map(lambda b: self._run(b, cases, modes[b], options), modes)
            return dict(zip(modes, found, strict=True))

    def _run(self, backend: str, cases: Sequence[Case], mode: str, options: dict[str, bool]) -> list[Outcome]:
        """The outcomes of one backend, whose process is started again after a case that ended it."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(cases):
            rest = self.folder / f"cases-{backend}.pkl"
            rest.write_bytes(pickle.dumps(list(cases[len(outcomes) :])))
            worker = self._worker(backend)
            answers, error = 0, None
            try:
                for _ in worker.ask("run", path=str(rest), mode=mode, **options):
                    answers += 1
                    self._check_time(backend)
                    worker.limit = min(LIMIT_S, max(1.0, self.deadline - time.monotonic()))
            except WorkerDied as died:
                self._check_time(backend)
                if not answers:
                    raise
                error = str(died)
            outcomes += _results(worker.folder / "results")
            if error is not None:
                self.workers.pop(backend).close()
                self.restarts += 1
                outcomes.append(Outcome(error=f"{ENDED} {error}"))
        return outcomes

    def _check_time(self, backend: str) -> None:
        if time.monotonic() > self.deadline:
            self.workers.pop(backend).close()
            raise TimeOver

    def _worker(self, backend: str) -> Worker:
        if backend not in self.workers:
            worker = Worker("zoo.hunt.worker", self.folder / backend, backend, ENVIRONMENT)
            self.workers[backend] = worker
        return self.workers[backend]


def _results(path: Path) -> list[Outcome]:
    """The complete results of a file, the last of which may be cut off."""
    found: list[Outcome] = []
    with path.open("rb") as file:
        while True:
            try:
                found.append(pickle.load(file))
            except (EOFError, pickle.UnpicklingError):
                return found
