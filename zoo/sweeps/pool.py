"""The runs of a sweep on this machine: so many processes at a time, one for each run."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Protocol

from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Worker, WorkerDied
from zoo.sweeps.tasks import Record, Task, failure
from zoo.sweeps.worker import environment

ATTEMPTS = 3  # of a run whose process ended without a result
Done = Callable[[Task, Record], None]


class Execute(Protocol):
    """Runs tasks, `jobs` at a time, and calls a function with each and its result when it ends."""

    jobs: int

    def __call__(self, tasks: Sequence[Task], done: Done) -> None:
        """Run all; `done` is called in this thread, in the order in which they end."""
        ...


@contextmanager
def processes(jobs: int, cpus: int, gpus: float) -> Iterator[Execute]:
    """Run tasks in processes of this machine, `jobs` at a time with `cpus` threads each.

    The processes end with this one, however it ends; on an exception within, Ctrl-C included, at once.
    """
    with scratch_folder() as scratch:
        pool = Pool(jobs, cpus, gpus, scratch)
        try:
            yield pool
        finally:
            pool.close()


class Pool:
    """Threads that start a process for each task and wait for its result."""

    def __init__(self, jobs: int, cpus: int, gpus: float, scratch: Path):
        self.jobs, self.threads = jobs, ThreadPoolExecutor(jobs)
        self.cpus, self.gpus, self.scratch = cpus, gpus, scratch
        self.running: set[Worker] = set()
        self.closed, self.lock = False, threading.Lock()
        self.started = 0

    def __call__(self, tasks: Sequence[Task], done: Done) -> None:
        """Run all; `done` is called in this thread, in the order in which they end."""
        waiting: dict[Future[Record], Task] = {self.threads.submit(self._run, task): task for task in tasks}
        while waiting:
            for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                done(waiting.pop(future), future.result())

    def _run(self, task: Task) -> Record:
        """The result; a process that ends without one is started again."""
        error = ""
        for _ in range(ATTEMPTS):
            worker = self._start(task)
            with closing(worker):
                try:
                    *_, answer = worker.ask("run", task=task.facts, cpus=self.cpus, gpus=self.gpus)
                    return answer
                except WorkerDied as ended:
                    error = str(ended)
                finally:
                    with self.lock:
                        self.running.discard(worker)
        return failure(f"{error} (in each of {ATTEMPTS} attempts)")

    def _start(self, task: Task) -> Worker:
        with self.lock:
            if self.closed:
                raise CancelledError
            self.started += 1
            folder = self.scratch / f"{self.started}"
            variables = environment(self.cpus, self.gpus)
            worker = Worker("zoo.sweeps.worker", folder, task.backend, variables)
            self.running.add(worker)
            return worker

    def close(self) -> None:
        """End the processes that run; no other is started."""
        with self.lock:
            self.closed = True
            for worker in self.running:
                worker.process.kill()
        self.threads.shutdown(cancel_futures=True)
