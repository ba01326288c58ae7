"""What the report says: the names of runs, numbers as text, and the findings as sentences."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from zoo.ladder.bounds import BOUNDS, FLOORS
from zoo.report.results import (
    Baseline,
    ComparisonResult,
    Drift,
    Environment,
    ModelResult,
    Number,
    PairResult,
    RunResult,
)

Record = dict[str, Any]  # a JSON object

FRAMEWORKS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
ENGINES = {"keras": "Keras", "native": "native"}
PARITY = {
    "initial_weights": "Initial weights",
    "outputs": "Outputs",
    "losses": "Losses",
    "final_weights": "Final weights",
    "predictions": "Predictions that differ",
}
# The line pattern distinguishes the runs of one framework, the hue the frameworks; Keras has solid lines.
DASHES = {"keras": [(), (14, 3)], "native": [(6, 4), (2, 3), (10, 3, 2, 3)]}


@dataclass
class Run:
    """A row of `result["runs"]`; a field that is missing or null there is None or empty here."""

    backend: str
    engine: str
    mode: str = ""
    losses: list[Number] = field(default_factory=list)
    metrics: dict[str, Number] = field(default_factory=dict)
    step_ms: Number = None
    step_ms_quartiles: tuple[Number, Number] = (None, None)
    examples_per_second: Number = None
    compile_s: Number = None
    first_step_s: Number = None
    train_s: Number = None
    peak_mb: Number = None
    version: str = ""
    code: str = ""
    error: str = ""
    workers: Record = field(default_factory=dict)  # the same run on several
    hash: str = ""  # of an exact run's weights, losses and logits
    # Not in the row: a name that is safe in a Vega expression, and the pattern of the run's line.
    id: str = ""
    dash: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.backend}/{self.engine}/{self.mode}"

    @property
    def variant(self) -> str:
        return ENGINES.get(self.engine, self.engine) + (f" ({self.mode})" if self.mode else "")

    @property
    def name(self) -> str:
        return f"{framework(self.backend)} {self.variant}"

    @property
    def hue(self) -> str:
        """The CSS variable of its colour, without the dashes before it."""
        return self.backend if self.backend in FRAMEWORKS else "muted"

    @property
    def nan_step(self) -> int | None:
        """The first step, counted from 1, whose loss is not a number."""
        return self.losses.index(None) + 1 if None in self.losses else None


class Evidence:
    """The results of one model: its runs, the differences of their pairs, its bounds and its drift."""

    def __init__(self, model: ModelResult, result: ComparisonResult) -> None:
        self.runs = read_runs(row for row in result["runs"] if row["model"] == model["name"])
        self.pairs = [pair for pair in result["differences"] if pair["model"] == model["name"]]
        # A chaotic model has bounds of its own: its drift under rounding is not a difference of frameworks.
        self.bounds: dict[str, float] = BOUNDS | (model.get("bounds") or {})
        self.drift: Drift | None = model.get("drift")

    def exceeds(self, pair: PairResult, quantity: str) -> bool:
        """Whether a difference violates its bound, as one that is not finite does."""
        difference: Number = pair.get(quantity, 0.0)
        return quantity in self.bounds and (difference is None or difference > self.bounds[quantity])


def framework(backend: str) -> str:
    """The name of a framework as its authors write it."""
    return FRAMEWORKS.get(backend, backend)


def machine_facts(machine: Environment) -> Record:
    """The machine and the software, as a page lists them."""
    memory = machine.get("memory_gb")
    return {
        "Platform": machine.get("platform"),
        "Processor": machine.get("processor"),
        "Cores": machine.get("cores"),
        "Threads": machine.get("threads"),
        "Memory": memory and f"{memory:.1f} GB",
        "Python": machine.get("python"),
        **(machine.get("versions") or {}),
        **{f"{framework(name)} device": device for name, device in (machine.get("devices") or {}).items()},
    }


def read_runs(rows: Iterable[RunResult]) -> list[Run]:
    """The rows of one model as runs, with identifiers and line patterns."""
    names = {f.name for f in fields(Run)}
    runs: list[Run] = []
    for row in rows:
        values: Record = {name: x for name, x in row.items() if name in names and x is not None}
        run = Run(**values)
        patterns = DASHES.get(run.engine, [(2, 8)])
        before = sum((r.backend, r.engine) == (run.backend, run.engine) for r in runs)
        run.id, run.dash = f"run{len(runs)}", patterns[before % len(patterns)]
        runs.append(run)
    return runs


# The findings


def findings(evidence: Evidence) -> Iterator[str]:
    """What the numbers say, one sentence each, the most important first."""
    runs, pairs, drift = evidence.runs, evidence.pairs, evidence.drift
    yield from agreement(evidence)
    if drift:
        name = next(run.name for run in runs if run.key == drift["run"])
        yield (
            f"Under 1-ulp perturbations of its initial weights, {name} differs from itself by up to "
            f"{scientific(drift['losses'])} ({count(drift['runs'], 'run')}); the bound is "
            f"{number_word(FLOORS)} times that."
        )
    for quantity in ("initial_weights", "outputs"):
        if n := sum(evidence.exceeds(pair, quantity) for pair in pairs):
            yield f"{PARITY[quantity]} differ by more than the bound in {n} of {count(len(pairs), 'pair')}."
    times = sorted((run.step_ms, run.name) for run in runs if run.step_ms and not run.error)
    if len(times) > 1:
        (least, fastest), (most, slowest) = times[0], times[-1]
        ratio = f"{most / least:.1f} times as fast as the slowest, {slowest}"
        yield f"{fastest} is the fastest at {milliseconds(least)} per step, {ratio}."
    for run in runs:
        if run.error:
            yield f"{run.name} failed."
        elif run.nan_step:
            yield f"The loss of {run.name} is NaN from step {run.nan_step:,} on."


def agreement(evidence: Evidence) -> Iterator[str]:
    """How far the losses are apart."""
    runs, bound = evidence.runs, evidence.bounds["losses"]
    names = {run.key: run.name for run in runs if run.losses and not run.error and not run.nan_step}
    differences = [
        (losses, pair)
        for pair in evidence.pairs
        if pair["a"] in names and pair["b"] in names and (losses := pair["losses"]) is not None
    ]
    total = count(len(runs), "run")
    subject = f"{total}," if len(names) == len(runs) else f"{number_word(len(names))} of {total}"
    if not names:
        yield f"none of {total} produced losses to compare"
        return
    if not differences:
        yield f"{subject.rstrip(',')}, nothing to compare"
        return
    most, pair = max(differences, key=lambda item: item[0])
    hashes = {run.hash for run in runs}
    if len(hashes) == 1 and "" not in hashes:
        yield f"{subject} the same bits: SHA-256 {hashes.pop()} of weights, losses and logits"
    elif most == 0:
        yield f"{subject} bit-for-bit equal at every step"
    elif most <= bound and evidence.drift:
        yield f"{subject} up to {scientific(most)} apart, which rounding alone explains"
    elif most <= bound:
        yield f"{subject} equal within {scientific(most)} at every step"
    else:
        yield f"{subject} up to {scientific(most)} apart, beyond the bound of {bound_text(bound)}"
        layer = pair.get("first_layer")
        where = f"; the first layer that differs is {layer['layer']}" if layer else ""
        yield f"The largest difference is between {names[pair['a']]} and {names[pair['b']]}{where}."


# Numbers and lists as text


def scientific(value: Number) -> str:
    """Two digits, rounded up, because "within 4.6e-7" has to be true."""
    if value is None or not math.isfinite(value):
        return "not finite"
    return f"{Context(prec=2, rounding=ROUND_CEILING).create_decimal(Decimal(repr(value))):.1e}"


def bound_text(bound: float) -> str:
    """A bound, in most cases a power of ten: 1e-5."""
    return scientific(bound).replace(".0e", "e")


def number(value: Number, unit: str = "") -> str:
    """Three digits, or all digits before the point."""
    if value is None:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}{unit}"


def milliseconds(value: Number) -> str:
    """With its unit; a dash for None."""
    return number(value, " ms")


def seconds(value: Number) -> str:
    """With its unit; a dash for None."""
    return number(value, " s")


def megabytes(value: Number) -> str:
    """With its unit; a dash for None."""
    return number(value, " MB")


def integer(value: Number) -> str:
    """With commas; a dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def number_word(n: int) -> str:
    """A small number as a word."""
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    return words[n] if n < len(words) else f"{n:,}"


def count(n: int, noun: str) -> str:
    """A number of things, in words: two runs."""
    return f"{number_word(n)} {noun}" if n == 1 else f"{number_word(n)} {noun}s"


def conjunction(names: Iterable[str]) -> str:
    """a, b and c."""
    *others, last = [*names] or [""]
    return f"{', '.join(others)} and {last}" if others else last


def baseline_text(baseline: Baseline) -> str:
    """The metric, value and method of a non-neural baseline."""
    return f"{baseline['metric'].replace('_', ' ')} {baseline['value']:.4g} by {baseline['method']}"
