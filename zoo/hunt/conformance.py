"""How much of Keras a backend computes as the others do: the command `zoo conform`.

Each case of the catalogue runs on the backend and on the references, in a process for each, in float64 where
the backend has it. A case counts if more than half of the references that compute it agree, two or more.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, storage
from zoo._version import __version__
from zoo.errors import BackendError, WrongConfiguration, nearest
from zoo.hunt.cases import VALUES, Case, cases
from zoo.ladder.bounds import relative_difference
from zoo.ladder.causes.trace import arrays
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Worker, WorkerDied

Array = np.ndarray
Record = dict[str, Any]

VERDICTS = ("passed", "different", "not implemented", "crashed")
BOUNDS = {"float64": 1e-9, "float32": 1e-4, "float16": 1e-2}  # relative to the largest value
CASE_S = 60.0  # a case that takes longer has crashed
# Keras's NumPy backend calls JAX for these groups and operations, and is no reference of its own there.
BORROWERS = {"numpy": "jax"}
BORROWED = ("convolutions", "pooling", "ops.fft", "ops.fft2")
COLOURS = {99.0: "brightgreen", 95.0: "green", 85.0: "yellowgreen", 70.0: "yellow", 50.0: "orange"}


class Conformance(dict[str, Any]):
    """The result of `conform`: see docs/conform.md for its keys."""

    @property
    def score(self) -> float:
        """The percentage of the cases that passed."""
        return self["score"]

    def badge(self) -> Record:
        """The JSON of an endpoint badge of shields.io."""
        colours = (colour for least, colour in COLOURS.items() if self.score >= least)
        return {
            "schemaVersion": 1,
            "label": f"Keras {self['keras']} on {self['backend']} {self['version']}",
            "message": f"{self.score:.1f} % of {self['cases']:,}",
            "color": next(colours, "red"),
        }

    def save(self, folder: Path) -> None:
        """Write conformance.json, badge.json and conformance.html."""
        from zoo.report.conformance import render

        folder.mkdir(parents=True, exist_ok=True)
        storage.write_text(folder / "conformance.json", storage.json_text(self))
        storage.write_text(folder / "badge.json", storage.json_text(self.badge()))
        storage.write_text(folder / "conformance.html", render(self))

    def __str__(self) -> str:
        from zoo.report.conformance import text

        return text(self)

    def __repr__(self) -> str:
        return f"<Conformance: {self['backend']}, {self.score:.1f} % of {self['cases']:,}>"


def conform(
    backend: str,
    *,
    only: str | None = None,
    values: Sequence[str] = ("normal",),
    dtype: str | None = None,
    out: str | Path | None = None,
    show: Callable[[str], None] | None = None,
) -> Conformance:
    """Run the catalogue of operations and layers on a backend of Keras, and compare with the others.

    `backend` is any that the installed Keras has: torch, tensorflow, jax, numpy, openvino ...; the
    references are those of torch, tensorflow, jax and numpy that are installed. `only` keeps the cases with
    this text in their group or operation, `values` says what inputs are filled with, of
    `zoo.hunt.cases.VALUES`. `dtype`, "float64" or "float32", is float64 by default if the backend has it.
    Gradients are compared on torch, tensorflow and jax, outputs on every backend. `out` is the folder of
    conformance.json, of the page conformance.html and of badge.json, an endpoint badge of shields.io.

    Raises BackendError for a backend that is not installed, WrongConfiguration for no case.
    """
    backend = backends.ALIASES.get(backend.lower(), backend.lower())
    check_backend(backend)
    if out is not None:
        storage.check_folder("zoo conform", out)
    chosen = _chosen(only, values, dtype)
    installed = backends.installed()
    borrowers = (name for name, lender in BORROWERS.items() if lender in installed)
    names = [name for name in (*installed, *borrowers) if name != backend]
    if len(names) < 2:
        raise BackendError(f"conform needs two references or more, here: {', '.join(names) or 'none'}")
    with scratch_folder() as scratch:
        runs = [Run(name, scratch / name, chosen, only, backend, show) for name in (backend, *names)]
        with closing(runs[0]):
            if dtype == "float32" or not runs[0].start("float64"):
                dtype = "float32"
                runs[0].close()
            found = _computed(runs, dtype or "float64")
    rows = list(_rows(backend, list(chosen.values()), found))
    result = _result(backend, dtype or "float64", names, rows, len(chosen))
    if out is not None:
        result.save(Path(out))
    return result


def check_backend(name: str) -> None:
    """Raise BackendError for a backend that Keras does not have or whose package is not installed."""
    spec = importlib.util.find_spec("keras")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()
    known = sorted(path.parent.name for path in folder.glob("src/backend/*/nn.py"))
    if name not in known:
        raise BackendError(f"conform: Keras has no backend {name!r}; {nearest(name, known)}")
    if importlib.util.find_spec(name) is None:
        raise BackendError(f"conform: {name} is not installed; pip install {name}")


def _chosen(only: str | None, values: Sequence[str], dtype: str | None) -> dict[int, Case]:
    """The cases by their numbers in the catalogue."""
    if dtype not in (None, "float64", "float32"):
        raise WrongConfiguration(f"conform: dtype {dtype!r}; expected float64 or float32")
    for name in values:
        if name not in VALUES:
            raise WrongConfiguration(f"conform: no values {name!r}; {nearest(name, VALUES)}")
    suffixes = tuple(f"({name})" for name in values)
    chosen = {n: case for n, case in enumerate(cases(only)) if case.name.endswith(suffixes)}
    if not chosen:
        raise WrongConfiguration(f"conform: no case has {only!r} in its group or operation")
    return chosen


@dataclass
class Computed:
    """What a backend computed of a case; `gradients` is None where there are none."""

    outputs: list[Array] = field(default_factory=list)
    error: str | None = None
    gradients: list[Array] | None = None
    gradient_error: str | None = None


class Run:
    """The cases on one backend, in a process that is started again after a case that ends it.

    Gradients are computed if both this backend and the one that is scored, `subject`, have them.
    """

    def __init__(
        self,
        backend: str,
        folder: Path,
        chosen: Mapping[int, Case],
        only: str | None,
        subject: str,
        show: Callable[[str], None] | None,
    ):
        self.backend, self.folder, self.numbers, self.only = backend, folder, list(chosen), only
        self.gradients = {backend, subject} <= set(backends.NAMES)
        self.show = show or (lambda text: None)
        self.worker: Worker | None = None
        self.cancelled = False

    def start(self, dtype: str) -> bool:
        """Start a process that computes in this float type; whether that is float64."""
        environment = {
            "OMP_NUM_THREADS": "1", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "",
            "JAX_ENABLE_X64": "1" if dtype == "float64" else "0",
        }  # fmt: skip
        self.worker = Worker("zoo.hunt.any_backend", self.folder, self.backend, environment)
        try:
            *_, answer = self.worker.ask("start", dtype=dtype, only=self.only, gradients=self.gradients)
        except WorkerDied as error:
            raise BackendError(f"conform: {self.backend} does not start: {error}") from None
        self.worker.limit = min(self.worker.limit, CASE_S)
        return answer["float64"]

    def cancel(self) -> None:
        """End the process, and start no other."""
        self.cancelled = True
        if self.worker is not None:
            self.worker.process.kill()

    def close(self) -> None:
        """End the process."""
        if self.worker is not None:
            self.worker.close()
            self.worker = None

    def compute(self, dtype: str) -> list[Computed]:
        """The cases, after one that ends the process in a new one."""
        found: list[Computed] = []
        with closing(self):
            while left := self.numbers[len(found) :]:
                if self.cancelled:
                    raise CancelledError
                if self.worker is None:
                    self.start(dtype)
                assert self.worker is not None
                try:
                    for answer in self.worker.ask("compute", numbers=left):
                        if "errors" in answer:
                            found.append(self.read(self.numbers[len(found)], answer["errors"]))
                            self.show(f"{self.backend}: case {len(found)} of {len(self.numbers)}")
                except WorkerDied as error:
                    found.append(Computed(error=f"the process ended: {error}"))
                    self.close()
        return found

    def read(self, number: int, errors: Mapping[str, str | None]) -> Computed:
        """What the process has written of a case."""
        path = self.folder / f"{number}.npz"
        written = arrays(path)
        path.unlink()
        outputs, gradients = (
            [x for name, x in written.items() if name.startswith(part)] for part in ("outputs", "gradients")
        )
        known = "gradients" in errors
        return Computed(outputs, errors["outputs"], gradients if known else None, errors.get("gradients"))


def _computed(runs: Sequence[Run], dtype: str) -> dict[str, list[Computed]]:
    """The cases on every backend, by its name; as many at a time as there are cores."""
    with ThreadPoolExecutor(max(1, machine.cores())) as pool:
        try:
            found = list(pool.map(lambda run: run.compute(dtype), runs))
        except BaseException:
            for run in runs:  # the pool waits for its threads, and these for their processes
                run.cancel()
            raise
    return {run.backend: computed for run, computed in zip(runs, found, strict=True)}


def _rows(backend: str, chosen: Sequence[Case], found: Mapping[str, list[Computed]]) -> Iterator[Record]:
    """A row for each case and kind that the references agree on."""
    for number, case in enumerate(chosen):
        excluded = BORROWERS if {case.group, case.operation} & set(BORROWED) else ()
        ours = found[backend][number]
        others = [
            outcomes[number] for name, outcomes in found.items() if name != backend and name not in excluded
        ]
        facts = {"case": case.name, "group": case.group, "operation": case.operation}
        if (agreed := majority([each.outputs for each in others])) is not None:
            yield {**facts, "kind": "forward", **verdict(agreed, ours.outputs, ours.error)}
        if ours.gradients is not None:
            agreed = majority([each.gradients or [] for each in others])
            if agreed is not None:
                yield {**facts, "kind": "gradients", **verdict(agreed, ours.gradients, ours.gradient_error)}


def majority(found: Sequence[list[Array]]) -> list[Array] | None:
    """What more than half of those that computed something agree on, two or more; None if they do not."""
    computed = [each for each in found if each]
    for each in computed:
        agreeing = sum(distance(each, other) <= 1 for other in computed)
        if agreeing >= 2 and 2 * agreeing > len(computed):
            return each
    return None


def distance(a: Sequence[Array], b: Sequence[Array]) -> float:
    """The largest difference in bounds of the coarser of two types; inf for other numbers of arrays."""
    if len(a) != len(b):
        return np.inf
    return max((relative_difference(x, y) / bound(x, y) for x, y in zip(a, b, strict=True)), default=0.0)


def bound(a: Array, b: Array) -> float:
    """The rounding of the coarser type of two arrays; integers are compared as floats of 64 bits."""
    return max(BOUNDS.get(x.dtype.name, BOUNDS["float64"]) for x in (a, b))


def verdict(agreed: Sequence[Array], ours: Sequence[Array], error: str | None) -> Record:
    """What a backend does with a case: one of `VERDICTS`, and why if it has not passed."""
    if error is not None:
        return {"verdict": "not implemented" if is_missing(error) else "crashed", "reason": error}
    if len(agreed) != len(ours):
        return {"verdict": "different", "reason": f"{len(ours)} arrays, expected {len(agreed)}"}
    if distance(agreed, ours) <= 1:
        return {"verdict": "passed", "reason": None}
    return {"verdict": "different", "reason": next(_differences(agreed, ours))}


def is_missing(error: str) -> bool:
    """Whether an error says that the backend has no such operation."""
    named = error.startswith(("NotImplementedError", "ImportError", "ModuleNotFoundError"))
    return named or (error.startswith("AttributeError") and "keras.src.backend" in error)


def _differences(agreed: Sequence[Array], ours: Sequence[Array]) -> Iterator[str]:
    for expected, got in zip(agreed, ours, strict=True):
        if expected.shape != got.shape:
            yield f"shape {got.shape}, expected {expected.shape}"
        elif relative_difference(expected, got) > bound(expected, got):
            with np.errstate(invalid="ignore"):
                gaps = np.abs(got.astype(np.float64) - expected.astype(np.float64))
            differs = ~((got == expected) | (np.isnan(got) & np.isnan(expected)))
            index = int(np.where(differs, np.nan_to_num(gaps, nan=np.inf), -1).argmax())
            yield f"{got.flat[index]:.9g}, expected {expected.flat[index]:.9g}"


def _result(
    backend: str, dtype: str, references: Sequence[str], rows: Sequence[Record], tried: int
) -> Conformance:
    groups: dict[str, dict[str, dict[str, int]]] = {}
    for row in rows:
        counts = groups.setdefault(row["group"], {})
        kind = counts.setdefault(row["kind"], dict.fromkeys(VERDICTS, 0))
        kind[row["verdict"]] += 1
    total = {name: sum(row["verdict"] == name for row in rows) for name in VERDICTS}
    environment = machine.environment()
    # TensorFlow's package may have another name.
    names = (name for name in (backend, f"{backend}-cpu") if name in environment["versions"])
    return Conformance(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backend=backend,
        version=version(next(names, backend)),
        keras=version("keras"),
        dtype=dtype,
        references=list(references),
        tried=tried,
        cases=len(rows),
        score=100 * total["passed"] / len(rows) if rows else 0.0,
        total=total,
        groups=groups,
        failures=[row for row in rows if row["verdict"] != "passed"],
        environment=environment,
    )
