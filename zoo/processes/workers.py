"""Worker processes, one for each framework: commands and answers are lines of JSON.

Keras runs on one framework in a process, so whatever compares frameworks starts a process for each. `Worker`
is the side of the main process, `serve` that of the worker. Workers in a `scratch_folder` end with the main
process, and one that sends nothing for `time_limit()` seconds is ended.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Protocol

from zoo import _lazy
from zoo.errors import WrongConfiguration, ZooError
from zoo.processes.machine import PYTHON, last_error, quiet
from zoo.processes.scratch import PID

Record = dict[str, Any]
LIMIT, LIMIT_S = "ZOO_WORKER_TIMEOUT", 1800.0


class WorkerDied(ZooError):
    """A worker process ended before it answered."""


def time_limit() -> float:
    """The seconds in which a worker must send something: ZOO_WORKER_TIMEOUT, or half an hour.

    Raises WrongConfiguration.
    """
    text = os.environ.get(LIMIT, str(LIMIT_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise WrongConfiguration(f"{LIMIT}={text}: expected a number of seconds above 0")
    return seconds


class Process:
    """A process of Python with Keras on this backend; what it prints is read line by line.

    Its folder holds its number, for the keeper of a `scratch_folder`, and its errors. Raises
    WrongConfiguration for a wrong time limit.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        backend: str,
        environment: Mapping[str, str] | None = None,
    ):
        self.folder, self.backend = folder, backend
        self.limit, self.hung = time_limit(), False
        folder.mkdir(exist_ok=True)
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [*PYTHON, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**quiet(), "KERAS_BACKEND": backend, **(environment or {})},
        )
        (folder / PID).write_text(str(self.process.pid))

    def line(self) -> str:
        """The next line of the process; "" if it has ended, which it has after the time limit."""
        assert self.process.stdout is not None
        timer = threading.Timer(self.limit, self._end_hung)
        timer.daemon = True
        timer.start()
        try:
            return self.process.stdout.readline()
        finally:
            timer.cancel()

    def _end_hung(self) -> None:
        self.hung = True
        self.process.kill()

    def error(self) -> str:
        """Why the process ended, in one line."""
        status = self.process.wait()
        if self.hung:
            return f"sent nothing for {self.limit:g} s and was ended; {LIMIT} sets the limit in seconds"
        if status == -9:
            return "killed by the system, most likely out of memory"
        self.errors.seek(0)
        return last_error(self.errors.read()) or f"ended with status {status}"

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        (self.folder / PID).unlink(missing_ok=True)  # its number may be another's once it is waited for
        self.process.communicate()
        self.errors.close()


class Worker(Process):
    """`python -m MODULE FOLDER`, which answers commands; files are exchanged through the folder.

    Raises WrongConfiguration for a wrong time limit.
    """

    def __init__(self, module: str, folder: Path, backend: str, environment: Mapping[str, str] | None = None):
        super().__init__(["-m", module, str(folder)], folder, backend, environment)

    def ask(self, command: str, **arguments: Any) -> Iterator[Record]:
        """Send a command and yield its answers up to the last. Raises WorkerDied with the error."""
        assert self.process.stdin is not None
        try:
            print(json.dumps({"command": command, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerDied(self.error()) from None
        while line := self.line():
            answer = json.loads(line)
            last = answer.pop("last")
            yield answer
            if last:
                return
        raise WorkerDied(self.error())


def run(code: str, arguments: Sequence[str], folder: Path, backend: str) -> None:
    """Run a program to its end. Raises WorkerDied with its error, and after the time limit."""
    finish(["-c", code, *arguments], folder, backend)


def finish(arguments: Sequence[str], folder: Path, backend: str) -> None:
    """Run Python with these arguments to its end; raises as `run` does."""
    with closing(Process(arguments, folder, backend)) as process:
        while process.line():
            pass
        if process.process.wait():
            raise WorkerDied(process.error())


class Answer(Protocol):
    """Answers the main process."""

    def __call__(self, *, last: bool = False, **facts: Any) -> None:
        """Send these facts; `last` ends the answer to a command."""
        ...


def serve(service: Callable[[Path, Answer], Any]) -> None:
    """Execute commands until the input ends; each names a method of `service(folder, answer)`.

    What frameworks print goes to standard error. An error of the zoo ends the process with one line.
    """
    _lazy.leave_out_extras()
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(*, last: bool = False, **facts: Any) -> None:
        print(json.dumps({"last": last, **facts}), file=output, flush=True)

    worker = service(Path(sys.argv[1]), answer)
    for line in sys.stdin:
        gc.collect()
        gc.freeze()  # no later collection scans a framework's half a million objects
        arguments = json.loads(line)
        try:
            getattr(worker, arguments.pop("command"))(**arguments)
        except ZooError as error:
            sys.exit(f"{type(error).__name__}: {error}")
