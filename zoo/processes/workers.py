"""Worker processes, one for each framework: commands and answers are lines of JSON.

Keras runs on one framework in a process, so whatever compares frameworks starts a process for each. `Worker`
is the side of the main process, `serve` that of the worker.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from zoo import _lazy
from zoo.errors import ZooError
from zoo.processes.machine import PYTHON, last_error, quiet

Record = dict[str, Any]


class WorkerDied(ZooError):
    """A worker process ended before it answered."""


class Worker:
    """`python -m MODULE FOLDER` with Keras on this backend; files are exchanged through the folder."""

    def __init__(self, module: str, folder: Path, backend: str, environment: Mapping[str, str] | None = None):
        self.folder, self.backend = folder, backend
        folder.mkdir(exist_ok=True)
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [*PYTHON, "-m", module, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**quiet(), "KERAS_BACKEND": backend, **(environment or {})},
        )

    def ask(self, command: str, **arguments: Any) -> Iterator[Record]:
        """Send a command and yield its answers up to the last. Raises WorkerDied with the error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"command": command, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerDied(self.error()) from None
        for line in self.process.stdout:
            answer = json.loads(line)
            last = answer.pop("last")
            yield answer
            if last:
                return
        raise WorkerDied(self.error())

    def error(self) -> str:
        """Why the process ended, in one line."""
        status = self.process.wait()
        if status == -9:
            return "killed by the system, most likely out of memory"
        self.errors.seek(0)
        return last_error(self.errors.read()) or f"ended with status {status}"

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class Answer(Protocol):
    """Answers the main process."""

    def __call__(self, *, last: bool = False, **facts: Any) -> None:
        """Send these facts; `last` ends the answer to a command."""
        ...


def serve(service: Callable[[Path, Answer], Any]) -> None:
    """Execute commands until the input ends; each names a method of `service(folder, answer)`.

    What frameworks print goes to standard error.
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
        getattr(worker, arguments.pop("command"))(**arguments)
