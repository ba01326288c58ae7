"""`zoo hunt`: cases are run on the backends for a fixed time; what differs is shrunk, sorted and counted."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from typing import Any

import numpy as np

from zoo import backends as frameworks
from zoo import random
from zoo.errors import WrongConfiguration
from zoo.hunt.cases import Case, Outcome, cases
from zoo.hunt.findings import Finding, compare
from zoo.hunt.known import known
from zoo.hunt.models import models
from zoo.hunt.programs import program
from zoo.hunt.shrink import shrink
from zoo.hunt.worker import MODES
from zoo.hunt.workers import ENDED, TimeOver, Workers
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder

Record = dict[str, Any]
BATCH = 24
SHARES = {
    "catalogue": 0.55,
    "shrink": 0.75,
    "compiled": 0.82,
    "models": 0.93,
    "rest": 1.0,
}  # of the time, at the end of each part
COMPILING = {"jax"}  # eagerly, too: slow to try many cases on
STEP = 1e-6  # of a difference quotient
SHRINK_S = 8.0  # for one finding, at most
KINK = "the derivative at a kink is a convention: the difference quotients of both sides differ"


def hunt(
    minutes: float,
    *,
    seed: int = 0,
    only: str | None = None,
    backends: Sequence[str] | None = None,
    given: Iterable[Case] | None = None,
    show: Callable[[str], None] | None = None,
) -> Record:
    """Search for differences for so many minutes; `given`: only in these cases.

    Raises WrongConfiguration for fewer than two backends, for an `only` that is in no name, and for a time
    that is not above 0.
    """
    chosen = list(
        dict.fromkeys(frameworks.checked(b, "zoo hunt") for b in backends or frameworks.installed())
    )
    if len(chosen) < 2:
        raise WrongConfiguration(f"zoo hunt: backends {', '.join(chosen) or 'none'}; expected two or more")
    if not 0 < minutes < float("inf"):
        raise WrongConfiguration(f"zoo hunt: {minutes:g} minutes; expected a number above 0")
    only = only.lower() if only else None
    listed = list(cases(only) if given is None else given)
    if not listed:
        raise WrongConfiguration(
            f"zoo hunt: --only {only}: in no name of an operation or group; e.g. conv, ops.sort"
        )
    deadline = time.monotonic() + 60 * minutes
    with scratch_folder() as folder, closing(Workers(folder, chosen, deadline)) as workers:
        run = Hunt(workers, deadline, 60 * minutes, show or (lambda text: None))
        with suppress(TimeOver):
            run.sweep(scheduled(listed, seed))
            run.shrink("shrink")
            if given is None:
                run.compiled(scheduled(listed, seed))
                run.models(models(seed, only))
                run.shrink("rest")
        return {**run.result(), "seed": seed, "only": only, "backends": chosen, **machine.environment()}


def scheduled(listed: Sequence[Case], seed: int) -> list[list[Case]]:
    """The cases row by row, one row of each operation before the next of any, the order by the seed."""
    rows = [
        list(row) for _, row in itertools.groupby(listed, key=lambda c: c.name.rpartition(" (")[0] or c.name)
    ]
    order = random.generator(seed, "rows").permutation(len(rows))
    counts: dict[str, int] = {}
    ranked = []
    for i in order:
        operation = rows[i][0].operation
        counts[operation] = counts.get(operation, 0) + 1
        ranked.append((counts[operation], len(ranked), rows[i]))
    return [row for _, _, row in sorted(ranked, key=lambda r: r[:2])]


class Hunt:
    """One hunt: the findings by key, and how much was run."""

    def __init__(self, workers: Workers, deadline: float, seconds: float, show: Callable[[str], None]):
        self.workers, self.deadline, self.seconds, self.show = workers, deadline, seconds, show
        self.findings: dict[Any, Finding] = {}
        self.counts = {"cases": 0, "compiled": 0, "models": 0}
        self.total = 0
        self.queue: list[Finding] = []
        self.modes = {b: MODES[b][0] for b in workers.backends}

    def left(self, part: str = "rest") -> float:
        """The seconds left for a part."""
        return self.deadline - time.monotonic() - (1 - SHARES[part]) * self.seconds

    def report(self, part: str) -> None:
        """Show how far it is."""
        defects = sum(f.sort == "defect" for f in self.findings.values())
        done = self.counts["cases"] + self.counts["compiled"] + self.counts["models"]
        left = max(0, self.left())
        found = f"{len(self.findings)} findings, {defects} defects"
        self.show(f"{part}: {done} cases, {found}, {left / 60:.1f} min left")

    def sweep(self, rows: Iterable[list[Case]]) -> None:
        """The cases of the catalogue, each on all backends."""
        for batch in batches(rows):
            if self.left("catalogue") <= 0:
                return
            self.report("catalogue")
            self.judge(batch, self.workers.run(batch, self.modes), "cases")

    def compiled(self, rows: Iterable[list[Case]]) -> None:
        """The first case of each row in each backend's other mode, against the one it was first run in."""
        for batch in batches(([row[0]] for row in rows), BATCH // 4):  # each is compiled
            if self.left("compiled") <= 0:
                return
            self.report("compiled")
            self.judge_modes(batch)

    def models(self, drawn: Iterator[Case]) -> None:
        """Random models, until the time is over; every other batch compiled too."""
        for number in itertools.count():
            batch = list(itertools.islice(drawn, BATCH // 3))
            if self.left("models") <= 0:
                return
            self.report("models")
            self.judge(batch, self.workers.run(batch, self.modes), "models")
            self.shrink("models")
            if number % 4 == 3 and self.left("models") > 0:
                self.judge_modes(batch[:2], index=-1 if number % 8 == 7 else 1)

    def judge(self, batch: Sequence[Case], outcomes: dict[str, list[Outcome]], count: str) -> None:
        """Compare the outcomes of a batch, and take up what is new."""
        self.counts[count] += len(batch)
        for i, case in enumerate(batch):
            found = compare(case, {b: outcomes[b][i] for b in outcomes}, self.modes)
            if found is not None:
                self.add(found)

    def judge_modes(self, batch: Sequence[Case], index: int = 1) -> None:
        """Compare each backend with itself in another mode."""
        self.counts["compiled"] += len(batch)
        others = {b: MODES[b][index] for b in self.workers.backends}
        first = self.workers.run(batch, self.modes, fallback=False)
        second = self.workers.run(batch, others, fallback=False)
        for b in self.workers.backends:
            pair = (self.modes[b], others[b])
            for i, case in enumerate(batch):
                both = {f"{b} {mode}": o[b][i] for mode, o in zip(pair, (first, second), strict=True)}
                found = compare(case, both, dict.fromkeys(both, b), "compiled ")
                if found is not None:
                    found.odd = (b,)
                    self.add(found)

    def add(self, finding: Finding) -> None:
        """Count a finding that is known; shrink and sort a new one."""
        self.total += 1
        if finding.key in self.findings:
            self.findings[finding.key].count += 1
            return
        self.findings[finding.key] = finding
        finding.sort, finding.reason = self.sort(finding)
        if finding.sort == "defect" and "compiled" not in finding.kind and not crashed(finding):
            self.queue.append(finding)

    def shrink(self, part: str) -> None:
        """Shrink the findings that wait for it, the most serious first, within the time of a part."""
        self.queue.sort(key=lambda f: f.kind.endswith("precision"))
        while self.queue and self.left(part) > 0:
            self.report(f"shrinking {self.queue[0].case.operation}")
            self.shrink_one(self.queue.pop(0))

    def shrink_one(self, finding: Finding) -> None:
        """Put the simplest case of a finding in its place, or count it to the finding that this one is."""
        over = min(self.deadline, time.monotonic() + SHRINK_S)
        small = shrink(finding, lambda c: self.again(finding, c), lambda: time.monotonic() > over)
        if "gradient" in small.kind:
            small.sort, small.reason = self.kink(small)
        small = self.in_float32(small)
        del self.findings[finding.key]
        if small.key in self.findings:
            self.findings[small.key].count += finding.count
        else:
            self.findings[small.key] = replace(small, count=finding.count)

    def sort(self, finding: Finding) -> tuple[str, str]:
        """rounding, documented or defect, and the reason."""
        if finding.kind.endswith("rounding"):
            return "rounding", ""
        if crashed(finding):
            return "defect", "the framework ends the process"
        errors = " ".join(finding.values.values())
        reason = known(finding.case.operation, finding.kind, ",".join(finding.odd), errors, finding.case.name)
        return ("documented", reason) if reason else ("defect", "")

    def again(self, finding: Finding, candidates: list[Case]) -> list[Finding | None]:
        """The same finding in other cases, run on the backends that differ and on one of the others."""
        others = [b for b in self.workers.backends if b not in finding.odd]
        others.sort(key=lambda b: self.modes[b] != "eager")  # a case that is compiled takes longer
        names = [*finding.odd, *others[:1]]
        modes = {b: self.modes[b] for b in names}
        outcomes = self.workers.run(candidates, modes, gradients="gradient" in finding.kind)
        found: list[Finding | None] = []
        for i, case in enumerate(candidates):
            new = compare(case, {b: outcomes[b][i] for b in names}, self.modes)
            if (
                new is None
                or new.kind != finding.kind
                or (finding.kind.endswith("error") and not same_error(new, finding))
            ):
                found.append(None)
            else:
                found.append(replace(new, odd=finding.odd))
        return found

    def in_float32(self, finding: Finding) -> Finding:
        """The finding with what all backends compute, in float32 as Keras is by default if it shows there."""
        halves = {
            n: x.astype(np.float32) if x.dtype == np.float64 else x for n, x in finding.case.inputs.items()
        }
        for float64 in (False, True):
            case = finding.case if float64 else finding.case.with_inputs(halves)
            outcomes = self.workers.run(
                [case], self.modes, gradients="gradient" in finding.kind, float64=float64
            )
            new = compare(case, {b: outcomes[b][0] for b in outcomes}, self.modes)
            if new is not None and new.kind == finding.kind and new.odd == finding.odd:
                return replace(
                    finding,
                    case=replace(case, inputs=finding.case.inputs),
                    values=new.values,
                    where=new.where,
                    float64=float64,
                    error=new.error,
                )
        return finding

    def kink(self, finding: Finding) -> tuple[str, str]:
        """Whether the function of an input has a derivative, by difference quotients from both sides."""
        case, name = finding.case, finding.where
        x = case.inputs.get(name)
        if x is None or x.size > 12 or "nan" in " ".join(finding.values.values()).lower():
            return "defect", ""
        moved = [case]
        for i, step in itertools.product(range(x.size), (STEP, -STEP)):
            there = x.copy()
            there.flat[i] += step
            moved.append(case.with_inputs({**case.inputs, name: there}))
        backend = next((b for b in self.workers.backends if b not in finding.odd), self.workers.backends[0])
        outcomes = self.workers.run(moved, {backend: self.modes[backend]}, gradients=False)[backend]
        values = [weighted_sum(o) for o in outcomes]
        if any(v is None for v in values):
            return "defect", ""
        ahead, behind = ((np.array(values[k::2], float) - values[0]) / s for k, s in ((1, STEP), (2, -STEP)))
        scale = max(1.0, float(np.abs(ahead).max()))
        if np.abs(ahead - behind).max() > 1e-3 * scale:
            return "documented", KINK
        return "defect", f"difference quotients: {np.round((ahead + behind) / 2, 4).tolist()}"

    def result(self) -> Record:
        """What was found, the most serious first."""
        order = {"defect": 0, "documented": 1, "rounding": 2}
        found = sorted(self.findings.values(), key=lambda f: (order[f.sort], f.case.operation, f.kind))
        return {
            "seconds": round(self.seconds - (self.deadline - time.monotonic()), 1),
            "counts": {**self.counts, "differences": self.total, "crashes": self.workers.restarts},
            "findings": [_record(f) for f in found],
        }


def crashed(finding: Finding) -> bool:
    """Whether a process ended; shrinking would end it again and again."""
    return any(value.startswith(ENDED) for value in finding.values.values())


def same_error(a: Finding, b: Finding) -> bool:
    """Whether the errors of two findings are of one type and begin alike."""
    first = [
        sorted(v.split(" ")[0] for k, v in f.values.items() if k in f.odd or ":" in v[:40]) for f in (a, b)
    ]
    return first[0] == first[1] or bool(set(first[0]) & set(first[1]))


def weighted_sum(outcome: Outcome) -> float | None:
    """The number whose gradients are compared; None after an error."""
    floats = [y.astype(np.float64).ravel() for y in outcome.outputs if y.dtype.kind == "f"]
    return None if outcome.error else float(sum(y @ np.cos(np.arange(y.size)) for y in floats))


def batches(rows: Iterable[list[Case]], size: int = BATCH) -> Iterator[list[Case]]:
    """Whole rows, about `size` cases at a time."""
    batch: list[Case] = []
    for row in rows:
        batch += row
        if len(batch) >= size:
            yield batch
            batch = []
    if batch:
        yield batch


def _record(finding: Finding) -> Record:
    return {
        "operation": finding.case.operation,
        "kind": finding.kind,
        "backends": list(finding.odd),
        "sort": finding.sort,
        "reason": finding.reason,
        "error": finding.error,
        "count": finding.count,
        "case": finding.case.name,
        "values": finding.values,
        "dtype": "float64" if finding.float64 else "float32",
        "program": program(finding),
    }
