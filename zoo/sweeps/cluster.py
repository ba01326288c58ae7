"""The runs of a sweep as tasks of Ray, on one machine or many. The only module that imports Ray.

A task is a process of its own, which ends with it, so that two frameworks never share one. Results come back
to this process, which alone writes files: the nodes need no common folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo import storage
from zoo.errors import BackendError
from zoo.sweeps.pool import ATTEMPTS, Done, Execute
from zoo.sweeps.tasks import Record, Task, failure
from zoo.sweeps.worker import execute_alone

PATHS = ("task", "weights", "tokenizer")  # settings that may be files and folders
# Before Ray is imported: no report of its use, workers at the niceness of this process, and a minute for a
# node to start on a busy machine.
VARIABLES = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",
    "RAY_raylet_start_wait_time_s": "120",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


def import_ray() -> Any:
    """The package. Raises BackendError if it is not installed."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise BackendError(
            'sweep: --address needs Ray, which is not installed. To install it: pip install "keras-zoo-parity'
            '[ray]". Without --address the runs are processes of this machine'
        ) from None
    return ray


@contextmanager
def ray_tasks(address: str, jobs: int, cpus: int, gpus: float) -> Iterator[Execute]:
    """Run tasks on the cluster at this address: "auto", "ray://host:10001", "host:6379", or "local".

    "local" starts a cluster of one node on loopback, for `jobs` runs at a time. Raises BackendError if there
    is no cluster.
    """
    ray = import_ray()
    arguments: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        own = {"num_cpus": jobs * cpus, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
        arguments |= own
    started = not ray.is_initialized()
    if started:
        try:
            ray.init(**arguments)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise BackendError(
                f"sweep: no Ray cluster at {address!r}: {storage.reason(error)}; `ray start --head` starts "
                "one, --address local one for this sweep alone"
            ) from None
    try:
        yield Tasks(ray, cpus, gpus)
    finally:
        if started:
            ray.shutdown()


def _located(facts: Record) -> Record:
    """The task with whole paths: a task of Ray's starts in another folder."""
    settings = {
        name: str(Path(value).absolute()) if name in PATHS and Path(value).exists() else value
        for name, value in facts["settings"].items()
    }
    return {**facts, "settings": settings}


class Tasks:
    """Tasks of Ray with their share of CPUs and GPUs."""

    def __init__(self, ray: Any, cpus: int, gpus: float):
        self.ray, self.cpus, self.gpus = ray, cpus, gpus
        self.jobs = max(1, int(ray.cluster_resources().get("CPU", 1) // cpus))
        options = {"num_cpus": cpus, "num_gpus": gpus, "max_calls": 1, "max_retries": ATTEMPTS - 1}
        self.remote = ray.remote(**options)(execute_alone)

    def __call__(self, tasks: Sequence[Task], done: Done) -> None:
        """Run all; `done` is called in this thread, in the order in which they end."""
        waiting = {self.remote.remote(_located(task.facts), self.cpus, self.gpus): task for task in tasks}
        try:
            while waiting:
                for ready in self.ray.wait(list(waiting), num_returns=1)[0]:
                    task = waiting.pop(ready)
                    done(task, self._result(ready))
        finally:
            for reference in waiting:
                self.ray.cancel(reference, force=True)

    def _result(self, reference: Any) -> Record:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            reason = f"{type(error).__name__}: {storage.reason(error)}"
            return failure(f"{reason} (in each of {ATTEMPTS} attempts)")
