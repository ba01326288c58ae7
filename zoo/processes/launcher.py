"""The workers of one machine: so many processes of the same program, which end together.

    python -m zoo.processes.launcher 2 PROGRAM.py ARGUMENTS

The variables are torchrun's. Worker 0 has the terminal; what the others write on standard error is shown only
of one that fails by itself. Signals go to worker 0, which tells the others by its next step.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from zoo.backends import cores
from zoo.errors import WorkerLost
from zoo.processes.machine import PYTHON, last_error
from zoo.processes.scratch import PID, scratch_folder

FORWARDED = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]
POLL_S = 0.05
GRACE_S, LONG_GRACE_S = 2.0, 60.0  # for the others to end, after a failure and after a signal to all
LOST, SIGNALLED = 1, 128  # exit statuses: another worker has ended; and what is added to a signal's number


def launch(workers: int, arguments: Sequence[str], advice: str = "") -> int:
    """Run `python ARGUMENTS` in so many processes; the exit status of worker 0.

    Raises WorkerLost for a worker that was killed, failed alone, or did not answer; `advice` says what to do.
    """
    with scratch_folder() as folder:
        port = _free_ports(1 + workers)
        group = [_start(rank, workers, port, arguments, folder) for rank in range(workers)]
        try:
            with _forwarding(group):
                statuses = _wait(group)
        finally:
            for process in group:
                process.kill()
                process.wait()
        for rank in range(workers):  # their numbers may be others' now
            (folder / str(rank) / PID).unlink()
        problem = _problem(statuses, folder)
    if problem:
        raise WorkerLost(f"{problem}{advice}")
    return statuses[0] or 0


def _free_ports(count: int) -> int:
    """The first of so many successive ports: worker 0's, and for TensorFlow one of each worker."""
    while True:
        with ExitStack() as stack:
            try:
                first = stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
                for port in range(first + 1, first + count):
                    stack.enter_context(socket.create_server(("127.0.0.1", port)))
            except (OSError, OverflowError):  # one of them is in use, or there is none
                continue
            return first


def _start(
    rank: int, workers: int, port: int, arguments: Sequence[str], folder: Path
) -> subprocess.Popen[bytes]:
    own = folder / str(rank)
    own.mkdir()
    threads = str(max(1, cores() // workers))
    variables = {"RANK": rank, "WORLD_SIZE": workers, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": workers}
    environment = {
        "OMP_NUM_THREADS": threads,
        "NPROC": threads,  # XLA's
        **{name: value for name, value in os.environ.items() if name != "TF_CONFIG"},
        **{name: str(value) for name, value in variables.items()},
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    with (own / "stderr").open("wb") as errors:
        process = subprocess.Popen(
            [*PYTHON, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if rank else None,
            stderr=errors if rank else None,
            env=environment,
            start_new_session=True,  # Ctrl-C comes here, and is forwarded
        )
    (own / PID).write_text(str(process.pid))
    return process


@contextmanager
def _forwarding(group: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """Within, signals go to worker 0, those that are repeated to all."""
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        del frame
        for process in group if number in received else group[:1]:
            process.send_signal(number)
        received.append(number)

    before: Mapping[int, Any] = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(group: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """The exit statuses, once all have ended or one has failed; None of those that still run."""
    end = float("inf")
    while True:
        statuses = [process.poll() for process in group]
        if None not in statuses or time.monotonic() > end:
            return statuses
        if failed := [status for status in statuses if status]:
            grace = LONG_GRACE_S if all(status >= SIGNALLED for status in failed) else GRACE_S
            end = min(end, time.monotonic() + grace)
        time.sleep(POLL_S)


def _problem(statuses: Sequence[int | None], folder: Path) -> str:
    """What went wrong in the first place, unless worker 0 has said so itself."""
    of = len(statuses)
    hung = [rank for rank, status in enumerate(statuses) if status is None]
    killed = [(rank, -status) for rank, status in enumerate(statuses) if status is not None and status < 0]
    aborted = all(number == signal.SIGABRT for _, number in killed)  # as JAX does when another is lost
    alone = [(rank, status) for rank, status in enumerate(statuses) if status not in (None, 0, LOST)]
    if killed and not (aborted and hung):
        return f"worker {killed[0][0]} of {of} ended by signal {killed[0][1]}"
    if alone and not killed:
        rank, status = alone[0]
        if rank == 0:
            return ""
        return f"worker {rank} of {of} ended with status {status}: {last_error(_errors(folder, rank))}"
    if hung and any(statuses):
        return f"worker {hung[0]} of {of} did not answer"
    if lost := [rank for rank, status in enumerate(statuses) if status == LOST and rank]:
        return f"worker {lost[0]} of {of} failed: {last_error(_errors(folder, lost[0]))}"
    return ""


def _errors(folder: Path, rank: int) -> str:
    return (folder / str(rank) / "stderr").read_text(errors="replace")


if __name__ == "__main__":
    try:
        sys.exit(launch(int(sys.argv[1]), sys.argv[2:]))
    except WorkerLost as error:
        sys.exit(f"zoo: {error}")
