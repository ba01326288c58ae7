"""The table of costs in docs/exact.md: `python docs/_exact.py` measures and writes it (10 minutes)."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from _measured import row

import zoo

PAGE = Path(__file__).parent / "exact.md"
BEGIN, END = "<!-- python docs/_exact.py -->\n", "<!-- end -->\n"
MODELS = ("mlp", "lenet5")
MODES = {"torch": "traced", "tensorflow": "graph", "jax": "jit"}
NAMES = {"torch": "torch", "tensorflow": "TensorFlow", "jax": "JAX"}
STEPS = 40


def measure(model: str, backend: str, *, exact: bool) -> dict[str, float]:
    """Of a run in this process: milliseconds of processor time of a step, and the peak of memory in MB."""
    zoo.use(backend, threads=1, exact=exact)
    marks: list[float] = []

    def mark(_: int, loss: Any) -> None:
        float(loss)  # waits for the step
        marks.append(time.process_time())

    zoo.train(model, steps=STEPS, mode=MODES[backend], progress=False, watch=mark)
    steps = np.diff(marks)[STEPS // 3 :]
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"ms": 1e3 * float(np.median(steps)), "mb": kilobytes / 1024}


def measured(model: str, backend: str, *, exact: bool) -> dict[str, float]:
    """The same, in a process of its own."""
    command = [sys.executable, __file__, model, backend, str(int(exact))]
    environment = {**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure all, and write the page."""
    lines = [
        row(["model", "framework", "ordinary", "exact", "ratio", "memory, ordinary", "exact", "ratio"]),
        row(["---"] * 8),
    ]
    for model, backend in product(MODELS, MODES):
        ours, theirs = (measured(model, backend, exact=exact) for exact in (True, False))
        cells = [f"`{model}`", f"{NAMES[backend]}, {MODES[backend]}"]
        for unit, form in (("ms", "{:.3g} ms"), ("mb", "{:.0f} MB")):
            cells += [form.format(theirs[unit]), form.format(ours[unit])]
            cells.append(f"{ours[unit] / theirs[unit]:.1f}")
        lines.append(row(cells))
        print(lines[-1], flush=True)
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(before + BEGIN + "\n".join([*lines, END]) + rest.partition(END)[2], encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        name, framework, exactly = sys.argv[1:]
        print(json.dumps(measure(name, framework, exact=exactly == "1")))
    else:
        main()
