"""What backends computed of a case, compared: who differs, where, by how much."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from zoo.hunt.cases import Array, Case, Outcome

# Of the largest value: rounding in units of the type, and what float32 within float64 does.
ROUNDING_ULPS = {8: 200.0, 4: 200.0, 2: 8.0}
ROUNDING, PRECISION = 1e-10, 1e-5
TINY = 1e-290  # not compared below: subnormal numbers are flushed to zero by some


@dataclass
class Finding:
    """A difference: `odd` are the backends that differ from the majority, or all of them."""

    kind: str
    odd: tuple[str, ...]
    case: Case
    modes: dict[str, str]
    where: str = ""
    error: float | None = None
    values: dict[str, str] = field(default_factory=dict)
    weights: bool = False
    sort: str = "defect"
    reason: str = ""
    float64: bool = True
    count: int = 1

    @property
    def key(self) -> tuple[str, str, tuple[str, ...]]:
        """What findings are deduplicated by."""
        return self.case.operation, self.kind, self.odd


def difference(x: Array, y: Array, floor: float = 0.0) -> tuple[str, float] | None:
    """The kind and size of the difference of two arrays; None if they are equal up to rounding.

    It is relative to the largest value, or to `floor`, if that is larger.
    """
    if x.shape != y.shape:
        return "shape", np.inf
    if _class(x) != _class(y):
        return "dtype", np.inf
    eps = max(
        (float(np.finfo(a.dtype).eps) * ROUNDING_ULPS[a.dtype.itemsize] for a in (x, y) if _class(a) == "f"),
        default=0,
    )
    x, y = x.astype(np.float64), y.astype(np.float64)
    if not (np.array_equal(np.isnan(x), np.isnan(y)) and np.array_equal(x[np.isinf(x)], y[np.isinf(y)])):
        return "nonfinite", np.inf
    finite = np.isfinite(x) & np.isfinite(y)
    if not np.array_equal(np.isinf(x), np.isinf(y)):
        return "nonfinite", np.inf
    x, y = x[finite], y[finite]
    scale = max(np.abs(x).max(initial=0), np.abs(y).max(initial=0), floor)
    with np.errstate(all="ignore"):
        error = float(np.max(np.abs(x / scale - y / scale), initial=0)) if scale > TINY else 0.0
    if error <= eps:
        return None
    if error <= max(ROUNDING, 20 * eps):
        return "rounding", error
    return ("precision" if error <= PRECISION else "value"), error


def _class(x: Array) -> str:
    return {"u": "i", "b": "b"}.get(x.dtype.kind, x.dtype.kind)


Measure = Callable[[Outcome, Outcome, float], tuple[str, float, str] | None]
SMALL = ("precision", "rounding")
KINDS = ("error", "shape", "dtype", "nonfinite", "value", "precision", "rounding")


def _forward(a: Outcome, b: Outcome, floor: float) -> tuple[str, float, str] | None:
    """The worst difference of two outcomes' outputs: kind, size, which output."""
    if (a.error is None) != (b.error is None):
        return "error", np.inf, ""
    if a.error is not None:
        return None
    if len(a.outputs) != len(b.outputs):
        return "shape", np.inf, ""
    return _worst({str(i): (x, y) for i, (x, y) in enumerate(zip(a.outputs, b.outputs, strict=True))}, floor)


def _backward(a: Outcome, b: Outcome, floor: float) -> tuple[str, float, str] | None:
    """The worst difference of two outcomes' gradients: kind, size, of which input or weight."""
    if (a.gradient_error is None) != (b.gradient_error is None):
        return "error", np.inf, ""
    if a.gradients is None or b.gradients is None:
        return None
    return _worst(
        {name: (a.gradients[name], b.gradients[name]) for name in a.gradients if name in b.gradients}, floor
    )


def _worst(pairs: Mapping[str, tuple[Array, Array]], floor: float) -> tuple[str, float, str] | None:
    found = [(*d, name) for name, (x, y) in pairs.items() if (d := difference(x, y, floor)) is not None]
    return min(found, key=_seriousness, default=None)


def compare(
    case: Case, outcomes: Mapping[str, Outcome], modes: Mapping[str, str], prefix: str = ""
) -> Finding | None:
    """The finding of a case, of its outputs or, if they are equal, its gradients; None if all agree."""
    small: Finding | None = None
    floor = 0.1 * _size(case)
    for what, measure in (("", _forward), ("gradient ", _backward)):
        found = _partition(what, measure, outcomes, floor)
        if found is None:
            continue
        (kind, error, where), odd = found
        values = {name: _shown(outcome, what, where) for name, outcome in outcomes.items()}
        error = error if np.isfinite(error) else None
        weights = any(outcome.weights for outcome in outcomes.values())
        new = Finding(prefix + what + kind, odd, case, dict(modes), where, error, values, weights)
        if kind not in SMALL:
            return new
        small = small or new
    return small


def _partition(
    what: str, measure: Measure, outcomes: Mapping[str, Outcome], floor: float
) -> tuple[tuple[str, float, str], tuple[str, ...]] | None:
    """The worst difference, and who differs from the majority: all, if no two agree."""
    names = list(outcomes)
    gaps = {(a, b): measure(outcomes[a], outcomes[b], floor) for a in names for b in names if a != b}
    worst = min((g for g in gaps.values() if g), key=_seriousness, default=None)
    if worst is None:
        return None
    for pair, gap in gaps.items():  # beside a large difference a small one is agreement
        if gap and gap[0] in SMALL and KINDS.index(gap[0]) > KINDS.index(worst[0]):
            gaps[pair] = None
    agreeing = {a: sum(gaps[a, b] is None for b in names if b != a) for a in names}
    failed = {a: outcomes[a].gradient_error if what else outcomes[a].error for a in names}
    reference = max(names, key=lambda a: (agreeing[a], failed[a] is None))
    different = {b: gap for b in names if b != reference and (gap := gaps[reference, b])}
    if not different:  # two that are apart, and both near the reference
        return worst, tuple(sorted({name for pair, gap in gaps.items() if gap for name in pair}))
    odd = different if agreeing[reference] or len(names) == 2 else names
    return min(different.values(), key=_seriousness), tuple(sorted(odd))


def _size(case: Case) -> float:
    """The largest finite input, at most 1: what cancels to zero is as far off as rounding of the inputs."""
    finite = [np.abs(x[np.isfinite(x)]).max(initial=0) for x in case.inputs.values() if x.dtype.kind == "f"]
    return min(1.0, float(max(finite, default=0)))


def _seriousness(gap: tuple[str, float, str]) -> tuple[int, float]:
    return KINDS.index(gap[0]), -gap[1]


def _shown(outcome: Outcome, what: str, where: str) -> str:
    """A value of an outcome as text."""
    error = outcome.gradient_error if what else outcome.error
    if error:
        return re.sub(r"\x1b\[\d*m", "", error)
    if what:
        found = (outcome.gradients or {}).get(where)
    else:
        found = outcome.outputs[int(where)] if where else None
        if not where:
            return f"{len(outcome.outputs)} outputs"
    if found is None:
        return "none"
    text = np.array2string(found, precision=6, threshold=12, separator=", ").replace("\n", "")
    return f"{re.sub(r' +', ' ', text)} {found.dtype}{list(found.shape) if found.size != 1 else ''}"
