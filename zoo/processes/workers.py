"""Processes that each run one framework: commands in as JSON lines, answers out as JSON lines.

Only one framework's Keras runs in a process, so whatever compares frameworks starts one for each. The
orchestrator's side is `Worker`; the process's is `serve`.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from zoo import _lazy
from zoo.errors import ZooError
from zoo.processes import machine

Record = dict[str, Any]


class WorkerDied(ZooError):
    """A process ended before it had answered."""


class Worker:
    """`python -m MODULE FOLDER` with Keras on this backend; the folder is for files exchanged."""

    def __init__(self, module: str, folder: Path, backend: str, environment: Mapping[str, str] | None = None):
        self.folder, self.backend = folder, backend
        folder.mkdir(exist_ok=True)
        self.errors = (folder / "stderr").open("w+")
        self.process = subprocess.Popen(
            [*machine.PYTHON, "-m", module, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            env={**machine.quiet(), "KERAS_BACKEND": backend, **(environment or {})},
        )

    def ask(self, do: str, **arguments: Any) -> Iterator[Record]:
        """Send a command and yield its answers up to the last. Raises WorkerDied, saying of what."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
        except BrokenPipeError:
            raise WorkerDied(self.last_words()) from None
        for line in self.process.stdout:
            answer = json.loads(line)
            last = answer.pop("last")
            yield answer
            if last:
                return
        raise WorkerDied(self.last_words())

    def last_words(self) -> str:
        """What the process died of, in a line."""
        status = self.process.wait()
        if status == -9:
            return "killed by the system, most likely out of memory"
        self.errors.seek(0)
        return machine.last_words(self.errors.read()) or f"ended with status {status}"

    def close(self) -> None:
        """End the process and wait for it."""
        self.process.kill()
        self.process.communicate()
        self.errors.close()


class Tell(Protocol):
    """Answers the orchestrator."""

    def __call__(self, *, last: bool = False, **facts: Any) -> None:
        """Send these facts; `last` ends the answer to a command."""
        ...


def serve(make: Any) -> None:
    """Carry out commands until the input ends: "do" names a method of `make(folder, tell)`.

    What frameworks print goes to standard error.
    """
    _lazy.leave_out_extras()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(*, last: bool = False, **facts: Any) -> None:
        print(json.dumps({"last": last, **facts}), file=answers, flush=True)

    worker = make(Path(sys.argv[1]), tell)
    for line in sys.stdin:
        gc.collect()
        gc.freeze()  # a framework's half a million objects stay: no later collection looks at them
        command = json.loads(line)
        getattr(worker, command.pop("do"))(**command)
