"""Fault injection: does each rung catch the faults that it is there for? (`zoo parity --faults`)"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo.ladder import networks
from zoo.ladder.bounds import NUMBERS, Record
from zoo.ladder.faults import FAULTS, network
from zoo.ladder.run import QUICK_MODES, ParityRun, Settings, compared_backends
from zoo.processes.workers import WorkerDied

NAME, DTYPE = "network", "float64"


def inject_faults(
    names: Sequence[str] | None = None,
    *,
    backends: Sequence[str] | None = None,
    show: Callable[[str], None] | None = None,
) -> list[Record]:
    """Inject each fault into the first of two frameworks: one row each, with the first rung that caught it.

    `caught` is None for a fault that no rung caught. In the first row nothing is injected: every rung must
    hold there. `show` is a callback that receives what is being computed.
    """
    x = np.random.default_rng(0).normal(size=(100, 8, 8, 1)).astype(np.float32)
    y = (np.arange(100) % 10).astype(np.int32)
    with FaultInjection(network, x, y, backends=backends, progress=show) as injection:
        faults = [fault for fault in FAULTS if names is None or fault.name in names]
        return [injection.row(None, 0), *(injection.row(fault.name, fault.rung) for fault in faults)]


class FaultInjection:
    """One network on two frameworks in float64, with another fault in the first each time."""

    def __init__(
        self,
        build: Any,
        x: np.ndarray,
        y: np.ndarray,
        *,
        backends: Sequence[str] | None = None,
        progress: Callable[[str], None] | None = None,
    ):
        self.progress = progress or (lambda text: None)
        self.faulty, self.sound = ((name, DTYPE) for name in compared_backends(backends)[:2])
        self.stack = ExitStack()
        scratch = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="zoo-")))
        networks.save(scratch / "user", build, x, y, None)
        settings = Settings((self.faulty[0], self.sound[0]), (DTYPE,))
        self.run = self.stack.enter_context(ParityRun(scratch, [(NAME, scratch / "user")], settings))

    def __enter__(self) -> FaultInjection:
        self.progress(f"the network on {self.sound[0]}")
        self.run.compute(self.sound)
        for error in self.run.errors.values():
            raise WorkerDied(f"the network on {self.sound[0]}: {error}")
        return self

    def __exit__(self, *_: Any) -> None:
        self.stack.close()

    def row(self, fault: str | None, rung: int) -> Record:
        """The first rung that catches a fault, of those up to the one it belongs to; of all without one."""
        self.progress(fault or "no fault")
        rungs = [n for n in NUMBERS if fault is None or n <= rung]
        # The modes are compared with the default one of the same framework.
        self.run.settings = replace(self.run.settings, rungs=rungs, modes=QUICK_MODES)
        self.run.errors.clear()
        for file in self.run.folder(*self.faulty).glob(f"{NAME}*.npz"):
            file.unlink()
        self.run.compute(self.faulty, fault)
        if 8 in rungs:
            self.run.resume(self.faulty, fault)
        caught = next((row for row in self.run.table(NAME, DTYPE) if row["verdict"] == "fails"), None)
        row = caught or {}
        where = row.get("where") or {}
        return {
            "fault": fault,
            "rung": rung or None,
            "caught": row.get("rung"),
            "measured": row.get("measured"),
            "bound": row.get("bound"),
            "where": where.get("layer"),
            "suspect": where.get("suspect"),
            "error": row.get("error"),
        }
