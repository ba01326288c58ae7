"""What the report says: the names of runs, numbers, and the findings as sentences."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any

from zoo.ladder.bounds import FLOORS

Number = float | None
Record = dict[str, Any]  # what JSON calls an object: a result, or a part of one

FRAMEWORKS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
ENGINES = {"keras": "Keras", "native": "native"}
PARITY = {
    "initial_weights": "Initial weights",
    "outputs": "Outputs",
    "losses": "Losses",
    "final_weights": "Final weights",
    "predictions": "Predictions that differ",
}

# A run, and what it is called


@dataclass
class Run:
    """A row of `result["runs"]`; what is missing or null there is None or empty here."""

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
    # Ours: a name that is safe in an expression, and the pattern of its line.
    id: str = ""
    dash: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.backend}/{self.engine}/{self.mode}"

    @property
    def way(self) -> str:
        return ENGINES.get(self.engine, self.engine) + (f" ({self.mode})" if self.mode else "")

    @property
    def name(self) -> str:
        return f"{framework(self.backend)} {self.way}"

    @property
    def broken_at(self) -> int | None:
        """The first step, counted from 1, whose loss is not a number."""
        return self.losses.index(None) + 1 if None in self.losses else None


def framework(backend: str) -> str:
    return FRAMEWORKS.get(backend, backend)


def read_runs(rows: Iterable[Record]) -> list[Run]:
    # The hue tells the framework, the dash tells that framework's runs apart: solid is Keras.
    dashes = {"keras": [(), (14, 3)], "native": [(6, 4), (2, 3), (10, 3, 2, 3)]}
    known = {f.name for f in fields(Run)}
    runs: list[Run] = []
    for row in rows:
        run = Run(**{name: value for name, value in row.items() if name in known and value is not None})
        patterns = dashes.get(run.engine, [(2, 8)])
        before = sum((r.backend, r.engine) == (run.backend, run.engine) for r in runs)
        run.id, run.dash = f"run{len(runs)}", patterns[before % len(patterns)]
        runs.append(run)
    return runs


# The finding, in words


def finding(
    runs: list[Run], pairs: list[Record], bounds: dict[str, float], drift: Record | None
) -> Iterator[str]:
    """What the numbers say, a sentence at a time, the most important first."""
    yield from agreement(runs, pairs, bounds["losses"], drifts=drift is not None)
    if drift:
        who = next(run.name for run in runs if run.key == drift["run"])
        by, asked = scientific(drift["losses"]), count(drift["runs"], "run")
        yield (
            f"With initial weights a unit in the last place off, {who} drifts up to {by} from itself "
            f"({asked}): {word(FLOORS)} times that is the bound."
        )
    for quantity in ("initial_weights", "outputs"):
        over = [pair for pair in pairs if beyond(pair, quantity, bounds)]
        if over:
            yield f"{PARITY[quantity]} differ beyond the bound in {len(over)} of {count(len(pairs), 'pair')}."
    timed = sorted((run.step_ms, run.name) for run in runs if run.step_ms and not run.error)
    if len(timed) > 1:
        (least, fastest), (most, slowest) = timed[0], timed[-1]
        times = f"{most / least:.1f} times as fast as the slowest, {slowest}"
        yield f"{fastest} is fastest, {milliseconds(least)} a step: {times}."
    for run in runs:
        if run.error:
            yield f"{run.name} failed."
        elif run.broken_at:
            yield f"The loss of {run.name} is not a number from step {run.broken_at:,}."


def agreement(runs: list[Run], pairs: list[Record], bound: float, *, drifts: bool = False) -> Iterator[str]:
    sound = {run.key: run.name for run in runs if run.losses and not run.error and not run.broken_at}
    compared = [p for p in pairs if p["a"] in sound and p["b"] in sound and p.get("losses") is not None]
    total = count(len(runs), "run")
    some = f"{total}," if len(sound) == len(runs) else f"{word(len(sound))} of {total}"
    if not sound:
        yield f"none of {total} gave numbers to compare"
    elif not compared:
        yield f"{some.rstrip(',')}, nothing to compare"
    else:
        worst = max(compared, key=lambda pair: pair["losses"])
        if worst["losses"] == 0:
            yield f"{some} equal to the last bit at every step"
        elif worst["losses"] <= bound and drifts:
            yield f"{some} up to {scientific(worst['losses'])} apart, which rounding alone explains"
        elif worst["losses"] <= bound:
            yield f"{some} equal within {scientific(worst['losses'])} at every step"
        else:
            yield f"{some} up to {scientific(worst['losses'])} apart, beyond the bound of {power(bound)}"
            layer = worst.get("first_layer")
            where = f", first in the layer {layer['layer']}" if layer else ""
            yield f"Furthest apart are {sound[worst['a']]} and {sound[worst['b']]}{where}."


def beyond(pair: Record, quantity: str, bounds: dict[str, float]) -> bool:
    """Whether a pair breaks a bound, as a difference that is not a number does."""
    if quantity not in bounds or quantity not in pair:
        return False
    return pair[quantity] is None or pair[quantity] > bounds[quantity]


# Numbers and words


def scientific(value: float | None) -> str:
    """Two digits, rounded up: "within 4.6e-7" has to be true."""
    if value is None:
        return "not a number"
    return f"{Context(prec=2, rounding=ROUND_CEILING).create_decimal(Decimal(repr(value))):.1e}"


def power(bound: float) -> str:
    return scientific(bound).replace(".0e", "e")


def number(value: Number, unit: str = "") -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}{unit}"


def milliseconds(value: Number) -> str:
    return number(value, " ms")


def seconds(value: Number) -> str:
    return number(value, " s")


def megabytes(value: Number) -> str:
    return number(value, " MB")


def integer(value: Number) -> str:
    return "–" if value is None else f"{value:,.0f}"


def word(n: int) -> str:
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    return words[n] if n < len(words) else f"{n:,}"


def count(n: int, noun: str) -> str:
    return f"{word(n)} {noun}" if n == 1 else f"{word(n)} {noun}s"


def listed(names: Iterable[str]) -> str:
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last
