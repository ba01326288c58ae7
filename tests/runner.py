"""Runs programs on one framework: `python -m runner FOLDER`, which `conftest.everywhere` starts."""

import contextlib
import io
from pathlib import Path

from zoo.processes.workers import Answer, serve


class Runner:
    """Answers with what a program prints."""

    def __init__(self, folder: Path, answer: Answer):
        del folder
        self.answer = answer

    def run(self, *, code: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            exec(code, {"__name__": "__main__"})
        self.answer(last=True, said=said.getvalue().strip())


if __name__ == "__main__":
    serve(Runner)
