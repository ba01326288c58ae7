"""What each framework finds on this machine, each in a process of its own: for `zoo doctor`."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

from zoo import backends
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Answer, Worker, WorkerDied, serve


def frameworks() -> dict[str, dict[str, Any]]:
    """What `machine.describe` says of each framework, in a process of its own, or {"error": the reason}."""
    with scratch_folder() as folder:
        return {name: _ask(name, folder) for name in backends.NAMES}


def _ask(name: str, folder: Path) -> dict[str, Any]:
    if name not in backends.installed():
        return {"error": f'not installed: pip install "keras-zoo-parity[{name}]"'}
    with closing(Worker("zoo.processes.frameworks", folder / name, name)) as worker:
        try:
            (answer,) = worker.ask("describe")
        except WorkerDied as error:
            return {"error": str(error)}
    return answer


class Service:
    """Answers `frameworks` for one of them."""

    def __init__(self, folder: Path, answer: Answer):
        del folder
        self.answer = answer

    def describe(self) -> None:
        """`machine.describe` of the framework of this process."""
        self.answer(last=True, **machine.describe(os.environ["KERAS_BACKEND"]))


if __name__ == "__main__":
    serve(Service)
