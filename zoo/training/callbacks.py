"""Callbacks: what happens after a step, after an epoch and at the end of a run, with either engine.

class Printer(zoo.Callback):
    def on_epoch(self, epoch, facts):
        print(epoch, facts["train_loss"])

zoo.train("lenet5", callbacks=[Printer(), zoo.CSVLogger("log.csv")])
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import storage
from zoo.errors import UnknownName, WrongConfiguration, nearest

if TYPE_CHECKING:
    from zoo.training.run import Run

Tensor = Any


class Callback:
    """The base class; a subclass overrides what it needs. An error in a callback ends the run."""

    def on_begin(self, run: Run) -> None:
        """Before the first step, with the run that starts, or the resumed one so far."""

    def on_step(self, step: int, loss: Tensor) -> None:
        """After a step, counted from 1 over the run; `loss` is on the device, float(loss) waits for it."""

    def on_epoch(self, epoch: int, facts: Mapping[str, float]) -> None:
        """After an epoch, counted from 1, and at the end of a run within one.

        `facts`: "step", "seconds", "train_loss" (the mean over the epoch's steps), "learning_rate" (of its
        last update), and the held-out metrics.
        """

    def on_end(self, run: Run) -> None:
        """At the end of training, with the finished run."""


class CSVLogger(Callback):
    """A row per epoch in a CSV file: epoch, step, train_loss, seconds, held-out metrics."""

    def __init__(self, path: str | Path):
        storage.check_file(type(self).__name__, path)
        self.path, self.rows = Path(path), []

    def on_epoch(self, epoch: int, facts: Mapping[str, float]) -> None:
        self.rows.append({"epoch": epoch, **facts})
        storage.write_text(self.path, self.text(self.rows))

    def text(self, rows: Sequence[Mapping[str, float]]) -> str:
        """The content of the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


class JSONLinesLogger(CSVLogger):
    """A JSON object per epoch, one a line, with the fields of `CSVLogger`; NaN and infinity become null."""

    def text(self, rows: Sequence[Mapping[str, float]]) -> str:
        return "".join(json.dumps(storage.finite(dict(row)), allow_nan=False) + "\n" for row in rows)


LOGGERS = {"csv": CSVLogger, "jsonl": JSONLinesLogger}


def logger(text: str) -> Callback:
    """The logger of a text, "csv:log.csv" or "jsonl:log.jsonl". Raises UnknownName or WrongConfiguration."""
    kind, _, path = text.partition(":")
    if kind not in LOGGERS:
        raise UnknownName(f"log={text!r}; {nearest(kind, LOGGERS)}, as in csv:log.csv")
    if not path:
        raise WrongConfiguration(f"log={text!r}; expected a path, as in {kind}:log.{kind}")
    return LOGGERS[kind](path)
