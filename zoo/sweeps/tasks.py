"""A run of a sweep: what it is, its key, and the file of its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from zoo import storage

Record = dict[str, Any]
MODEL = "model."  # what a setting of the model begins with; others are options of `zoo.train`
FOLDER = "runs"  # of a sweep's folder, with a file for each result


@dataclass(frozen=True)
class Task:
    """One training run.

    `settings` are options of `zoo.train` and, as "model.widths", arguments of the model.
    """

    model: str
    backend: str
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def facts(self) -> Record:
        """The task as JSON has it."""
        return asdict(self)

    @property
    def options(self) -> Record:
        """The settings that are options of `zoo.train`."""
        return {name: value for name, value in self.settings.items() if not name.startswith(MODEL)}

    @property
    def arguments(self) -> Record:
        """The settings that are arguments of the model, by its names."""
        return {k.removeprefix(MODEL): v for k, v in self.settings.items() if k.startswith(MODEL)}

    @property
    def key(self) -> str:
        """A hash of all that decides the result."""
        text = json.dumps(self.facts, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def __str__(self) -> str:
        settings = [f"{name}={value}" for name, value in self.settings.items()]
        return " ".join([self.model, self.backend, *settings, f"seed={self.seed}"])


def failure(error: str, *, diverged: bool = False) -> Record:
    """The result of a run that failed. One that `diverged` would do so again and is not repeated."""
    return {"error": error, "diverged": diverged, "metrics": {}}


class Results:
    """The results in a sweep's folder, one file each, which is written whole."""

    def __init__(self, folder: Path):
        self.folder = folder / FOLDER

    def read(self, task: Task) -> Record | None:
        """The result of a task; None if there is none yet, it failed, or its file is damaged."""
        try:
            result = json.loads((self.folder / f"{task.key}.json").read_text(encoding="utf-8"))
            return result if not result["error"] or result["diverged"] else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, task: Task, result: Record) -> None:
        """Keep the result of a task."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = storage.json_text({"task": task.facts, **result})
        storage.write_text(self.folder / f"{task.key}.json", text)
