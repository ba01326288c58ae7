"""Fault injection: does each rung catch the faults that it is there for? (`zoo parity --faults`)"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from zoo.ladder.bounds import NUMBERS, Process, Record
from zoo.ladder.explain import explain
from zoo.ladder.faults import FAULTS, Fault, network
from zoo.ladder.networks import save_network
from zoo.ladder.run import QUICK_MODES, Model, ParityRun, Settings, compared_backends
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
    chosen = [fault for fault in FAULTS if names is None or fault.name in names]
    with scratch_folder() as scratch:
        folder = scratch / "user"
        save_network(folder, network, x, y, None)
        models: list[Model] = [(NAME, folder), *((name, None) for name in _models(chosen))]
        with ParityRun(scratch, models, Settings((faulty, sound), (DTYPE,))) as run:
            progress(f"the network on {sound}")
            every = {n for fault in (None, *chosen) for n in _rungs(fault).get(DTYPE, ())}
            for run.models, rungs in ((models[:1], every), (models[1:], every - {5, 6, 7, 8})):
                run.settings = replace(run.settings, rungs=sorted(rungs))
                run.compute(Process(sound, DTYPE))
            run.models = [(name, None) for name in _models([f for f in chosen if f.rung == 0])]
            run.bits(Process(sound, "float32"))
            run.models = models[:1]
            run.reference()
            for error in run.errors.values():
                raise WorkerDied(f"the network on {sound}: {error}")
            rows = []
            for fault in (None, *chosen):
                progress(fault.name if fault else "no fault")
                run.models = [model for model in models if fault is None or model[0] == (fault.model or NAME)]
                rows.append(_row(run, faulty, fault))
            return rows


def _models(faults: Sequence[Fault]) -> list[str]:
    """The models of the zoo that these are injected into."""
    return list(dict.fromkeys(fault.model for fault in faults if fault.model is not None))


def _rungs(fault: Fault | None) -> dict[str, list[int]]:
    """By float type: the rungs that are run with a fault.

    All up to the one that it belongs to, in float64; above rung 8 without the training runs of rungs 5 to 8.
    The number formats of rung 11 are those of a process of float32, in which it is run alone.
    """
    if fault is None:
        return {DTYPE: [n for n in NUMBERS if n != 11], "float32": [11]}
    if fault.rung in (0, 11):
        return {"float32": [fault.rung]}
    return {DTYPE: [n for n in NUMBERS if n <= fault.rung and (fault.rung <= 8 or not 5 <= n <= 8)]}


def _row(run: ParityRun, faulty: str, fault: Fault | None) -> Record:
    """The first rung that catches a fault."""
    row: Record = {}
    run.errors.clear()
    for dtype, rungs in _rungs(fault).items():
        process, name = Process(faulty, dtype), fault and fault.name
        # The modes are compared with the default one of the same framework.
        run.settings = replace(run.settings, rungs=rungs, modes=QUICK_MODES if 7 in rungs else ())
        for file in run.folder(*process).glob("*[!e].npz"):  # not the reference
            file.unlink()
        run.compute(process, name)
        if 0 in rungs:
            run.bits(process, name)
        if 8 in rungs:
            run.resume(process, name)
        if 9 in rungs:
            run.threads(process, name)
        tables = (run.table(model, dtype) for model, _ in run.models)
        row = row or next((row for rows in tables for row in rows if row["verdict"] == "fails"), {})
    if row and fault is not None and 1 <= fault.rung <= 8:
        explain(run, [row], {faulty: fault.name})
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
