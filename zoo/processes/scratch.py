"""The temporary folder of worker processes, which goes with them when the main process ends, however it ends.

A small process, the keeper, makes the folder, waits for the main process to end, ends the workers that are
left, and removes the folder. The system closes the pipe between the two even if the main process is killed.
Run as a script, without the zoo, so that it starts in milliseconds.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PID = "pid"  # the file with the number of a worker, in the worker's folder
SIGKILL = 9
ATTEMPTS, PAUSE_S = 100, 0.1  # to remove a folder in which a process may still be ending


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A temporary folder, removed at the end with the workers (`zoo.processes.workers`) that run in it.

    Raises OSError if none can be made.
    """
    keeper = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, tempfile.gettempdir()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the main process, which ends the keeper
    )
    assert keeper.stdout is not None
    try:
        folder = os.fsdecode(keeper.stdout.read())
        if not folder:
            _, error = keeper.communicate()
            raise OSError(os.fsdecode(error).strip().rpartition("\n")[2])
        yield Path(folder)
    finally:
        keeper.communicate()


def keep(parent: str) -> None:
    """Make a folder, print its name, and remove it, with its workers, when the input ends."""
    folder = Path(tempfile.mkdtemp(prefix="zoo-", dir=parent))
    try:
        sys.stdout.buffer.write(os.fsencode(folder))
        sys.stdout.buffer.flush()
        os.close(sys.stdout.fileno())
        sys.stdin.buffer.read()
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    for _ in range(ATTEMPTS):
        for file in folder.glob(f"*/{PID}"):
            with suppress(OSError, ValueError):
                os.kill(int(file.read_text()), SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(PAUSE_S)


if __name__ == "__main__":
    keep(sys.argv[1])
