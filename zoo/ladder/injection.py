"""Fault injection: does each rung catch the faults that it is there for? (`zoo parity --faults`)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from zoo.ladder.bounds import NUMBERS, Record
from zoo.ladder.explain import explain
from zoo.ladder.faults import FAULTS, Fault, network
from zoo.ladder.networks import save_network
from zoo.ladder.run import QUICK_MODES, ParityRun, Process, Settings, compared_backends
from zoo.processes.scratch import scratch_folder
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
    progress = show or (lambda text: None)
    faulty, sound = compared_backends(backends)[:2]
    x = np.random.default_rng(0).normal(size=(100, 8, 8, 1)).astype(np.float32)
    y = (np.arange(100) % 10).astype(np.int32)
    with scratch_folder() as scratch:
        folder = scratch / "user"
        save_network(folder, network, x, y, None)
        with ParityRun(scratch, [(NAME, folder)], Settings((faulty, sound), (DTYPE,))) as run:
            progress(f"the network on {sound}")
            run.compute((sound, DTYPE))
            for error in run.errors.values():
                raise WorkerDied(f"the network on {sound}: {error}")
            rows = []
            for fault in (None, *(fault for fault in FAULTS if names is None or fault.name in names)):
                progress(fault.name if fault else "no fault")
                rows.append(_row(run, (faulty, DTYPE), fault))
            return rows


def _row(run: ParityRun, process: Process, fault: Fault | None) -> Record:
    """The first rung that catches a fault, of those up to the one it belongs to; of all without one."""
    rungs = [n for n in NUMBERS if fault is None or n <= fault.rung]
    # The modes are compared with the default one of the same framework.
    run.settings = replace(run.settings, rungs=rungs, modes=QUICK_MODES)
    run.errors.clear()
    for file in run.folder(*process).glob(f"{NAME}*.npz"):
        file.unlink()
    run.compute(process, fault and fault.name)
    if 8 in rungs:
        run.resume(process, fault and fault.name)
    row = next((row for row in run.table(NAME, DTYPE) if row["verdict"] == "fails"), {})
    if row:
        explain(run, [row], {process[0]: fault and fault.name})
    where = row.get("where") or {}
    return {
        "fault": fault and fault.name,
        "rung": fault and fault.rung,
        "caught": row.get("rung"),
        "measured": row.get("measured"),
        "bound": row.get("bound"),
        "where": where.get("layer"),
        "suspect": where.get("suspect"),
        "cause": where.get("cause"),
        "explanation": where.get("explanation"),
        "error": row.get("error"),
    }
