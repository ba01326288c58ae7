"""A file of benchmarks that grows: what it has is not measured again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo import storage
from zoo.errors import WrongConfiguration
from zoo.processes import machine

Record = dict[str, Any]
SAME = ("platform", "processor", "cores", "versions")  # of the environment: times of others do not compare


@contextmanager
def opened(path: str | Path | None) -> Iterator[Records]:
    """The rows of a file, which this process alone writes within; without a file, none.

    Raises WrongConfiguration for a file of another machine, other versions or another program.
    """
    path = None if path is None else Path(path)
    if path is not None:
        storage.check_file("bench", path)
    with storage.held("bench", path):
        records = Records(path)
        if path is not None and storage.is_file(path):
            records.read(path)
        yield records


class Records:
    """Rows of `zoo.bench`, and the file {"environment", "rows"} that they are kept in."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.rows = path, list[Record]()
        here = machine.environment()
        self.environment = {name: here[name] for name in SAME}

    def of(self, job: Record) -> list[Record]:
        """The rows of a job if all of them were measured; else none."""
        rows = [row for row in self.rows if job.items() <= row.items()]
        return [] if any(row["error"] for row in rows) else rows

    def add(self, rows: list[Record]) -> list[Record]:
        """Write the rows of a job in place of those that failed."""
        if self.path is not None:
            keys = [{k: row[k] for k in ("model", "backend", "what", "contestant")} for row in rows]
            kept = [row for row in self.rows if not any(key.items() <= row.items() for key in keys)]
            self.rows = [*kept, *rows]
            storage.write_text(
                self.path, storage.json_text({"environment": self.environment, "rows": self.rows})
            )
        return rows

    def read(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            environment, self.rows = found["environment"], found["rows"]
        except (ValueError, TypeError, KeyError):
            raise WrongConfiguration(
                f"bench: {path}: not a file of `zoo bench --out`; choose a name that is not taken"
            ) from None
        for name, here in self.environment.items():
            if (there := environment.get(name)) != here:
                raise WrongConfiguration(
                    f"bench: {path} was measured with {name} {there}; here: {here}. Times compare on one "
                    "machine alone: choose another file"
                )
