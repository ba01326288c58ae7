"""The comparison of two frameworks, rung by rung, from the arrays that their processes wrote."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf

import numpy as np

from zoo.ladder.bounds import GAPS, Arrays, Record, Rung, difference, first_difference, gap


def chaos_of(arrays: Arrays) -> float:
    """How far a framework drifts from itself, its weights a unit in the last place off; 0 if not measured."""
    nudged = part(arrays, "nudged/").values()
    return max((gap(x, arrays["training/native"]) for x in nudged), default=0.0)


@dataclass(frozen=True)
class Measured:
    """The largest difference of a rung, and where it first goes beyond the bound."""

    value: float
    where: Record | None = None


def row(
    model: str, dtype: str, rung: Rung, a: str, b: str, found: Measured, bound: float, chaos: float
) -> Record:
    """A row of the table, with its verdict: holds, fails, gap (known), closed (a gap that holds now)."""
    holds = bool(found.value <= bound)
    gap_ = next(
        (g for g in GAPS if (g.model, g.rung, g.dtype, g.pair) == (model, rung.number, dtype, (a, b))), None
    )
    verdict = ("closed" if gap_ else "holds") if holds else ("gap" if gap_ else "fails")
    return {
        "model": model, "dtype": dtype, "rung": rung.number, "name": rung.name, "a": a, "b": b,
        "measured": found.value, "bound": bound, "verdict": verdict, "where": None if holds else found.where,
        "chaos": chaos if rung.float32 is None and dtype == "float32" else None,
        "reason": gap_ and f"{gap_.reason} ({gap_.upstream})", "error": None,
    }  # fmt: skip


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, without it."""
    return {name[len(prefix) :]: x for name, x in arrays.items() if name.startswith(prefix)}


def apart(layer: str, a: np.ndarray, b: np.ndarray, scale: float | None = None) -> Record:
    """Where two arrays differ most: the place, both values, by how much."""
    if a.shape != b.shape:
        return {"layer": layer, "difference": None, "a": f"shape {a.shape}", "b": f"shape {b.shape}"}
    wide = np.abs(
        np.nan_to_num(a.astype(np.float64), nan=np.inf) - np.nan_to_num(b.astype(np.float64), nan=-np.inf)
    )
    place = np.unravel_index(np.nanargmax(wide), wide.shape) if wide.size else ()
    by = difference(a, b) if scale is None else gap(a, b) / scale
    values = {"a": float(a[place]), "b": float(b[place])}
    return {"layer": layer, "difference": by, "index": [int(i) for i in place], **values}


@dataclass(frozen=True)
class Pair:
    """What two frameworks found of a model, to be compared within a bound."""

    name_a: str
    name_b: str
    a: Arrays
    b: Arrays
    bound: float
    facts: Record  # order, consumers, kinds and weights of `zoo.ladder.taps.Taps`
    dtype: str

    def parts(self, prefix: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Both sides' arrays below a prefix."""
        return part(self.a, prefix), part(self.b, prefix)

    def engines(self, name: str) -> dict[str, np.ndarray]:
        """The array of that name from each engine on each side, those there are."""
        sides = ((self.name_a, self.a), (self.name_b, self.b))
        return {
            f"{who} {engine}": arrays[key]
            for who, arrays in sides
            for engine in ("native", "keras")
            if (key := name.format(engine=engine)) in arrays
        }


def _exact(pair: Pair) -> Measured:
    """Rung 1. Values that are equal bit for bit, and of one type."""
    ours, theirs = pair.parts("initial/")
    worst, where = 0.0, None
    for name in dict.fromkeys([*ours, *theirs]):
        x, y = ours.get(name), theirs.get(name)
        if x is None or y is None:
            worst, where = inf, where or {"layer": name, "difference": None, "suspect": "missing on one side"}
        elif x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
            x, y = x.astype(np.float64), y.astype(np.float64)
            worst = max(worst, gap(x, y) or inf)  # of another type, or -0 for 0
            where = where or apart(name, x, y)
    return Measured(worst, where)


def _forward(pair: Pair) -> Measured:
    """Rung 2. The first operation whose output differs is the suspect: what flows into it is equal."""
    ours, theirs = pair.parts("forward/")
    names = dict.fromkeys([*ours, *theirs])
    worst = max(difference(ours[n], theirs[n]) if n in ours and n in theirs else inf for n in names)
    where = None
    if (first := first_difference(ours, theirs, pair.bound)) is not None:
        label = first["layer"]
        suspect = pair.facts.get("kinds", {}).get(
            label, "the non-trainable state, such as running statistics"
        )
        where = {**apart(label, ours[label], theirs.get(label, np.zeros(0))), "suspect": suspect}
    return Measured(worst, where)


def _gradients(pair: Pair) -> Measured:
    """Rung 3. Going back from the loss: an output's gradient is the work of the operations that read it."""
    ours, theirs = pair.parts("gradients/")
    if odd := sorted(ours.keys() ^ theirs.keys()):
        return Measured(inf, {"layer": ", ".join(odd[:3]), "difference": None, "suspect": "on one side only"})
    kinds, facts = ("loss", "outputs/", "weights/"), pair.facts
    largest = {
        k: max((np.abs(x).max() for n, x in ours.items() if n.startswith(k)), default=0) for k in kinds
    }

    def by(name: str) -> float:
        scale = next(size for kind, size in largest.items() if name.startswith(kind))
        return gap(ours[name], theirs[name]) / float(scale or 1)

    backward = [("loss", "the loss, or the forward pass before it")]
    for label in reversed(facts["order"]):
        readers = [f"{reader}: {facts['kinds'][reader]}" for reader in facts["consumers"][label]]
        backward.append((f"outputs/{label}", "the backward pass of " + (", ".join(readers) or "the loss")))
        own = f"the backward pass of {label}: {facts['kinds'][label]}, for its weight"
        backward += [(f"weights/{path}", own) for path in facts["weights"][label]]
    for name, suspect in backward:
        if name in ours and not by(name) <= pair.bound:
            where = {**apart(name, ours[name], theirs[name]), "difference": by(name), "suspect": suspect}
            return Measured(max(map(by, ours)), where)
    return Measured(max(map(by, ours)))


def _updates(pair: Pair) -> Measured:
    """Rung 4. The schedules, then the updates by both engines of both frameworks, each pair of the four."""
    found: list[tuple[float, str, str]] = []
    paths: dict[str, list[str]] = {}  # by optimizer
    for name in (name for name in pair.a if name.startswith("update/")):
        _, optimizer, *rest = name.split("/")
        if optimizer == "rates":
            x, y = pair.a[name], pair.b[name]  # (steps, 2): as a tensor, as a float
            for u, v in ((x, y), (x[:, :1], x[:, 1:])):
                scale = np.where(v == 0, np.abs(v).max(), np.abs(v))
                found.append((float((np.abs(u - v) / scale).max()), rest[0], f"the schedule of {rest[0]}"))
        elif rest[0] == "native":
            paths.setdefault(optimizer, []).append("/".join(rest[1:]))
    for optimizer, own in paths.items():
        four = [pair.engines(f"update/{optimizer}/{{engine}}/{path}") for path in own]
        scale = np.max([np.abs(x - x[:1]).reshape(len(x), -1).max(1) for x in map(_any, four)], axis=0)[1:]
        for path, runs in zip(own, four, strict=True):
            for m, n in itertools.combinations(runs, 2):
                by = update_difference(runs[m], runs[n], scale, pair.dtype)
                found.append((by, optimizer, f"{optimizer}, {path} ({m} and {n})"))
    worst = max((by for by, _, _ in found), default=0.0)
    first = next((f for f in found if not f[0] <= pair.bound), None)
    where = None if first is None else {"layer": first[2], "difference": first[0], "suspect": first[1]}
    return Measured(worst, where)


def _any(runs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(runs.values()))


def update_difference(x: np.ndarray, y: np.ndarray, scale: np.ndarray, dtype: str) -> float:
    """How far two sets of updates of a weight part, each relative to its scale.

    The first of each array is the weight before, the others that after an update. Beyond the rounding of the
    weight that an update is added to: two units in the last place.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    rounding = 2 * np.spacing(np.maximum(np.abs(x[:1]), np.abs(x[1:])).astype(dtype)).astype(np.float64)
    beyond = np.maximum(0, np.abs((x[1:] - x[0]) - (y[1:] - y[0])) - rounding)
    return float((beyond.reshape(len(beyond), -1).max(1) / np.where(scale == 0, 1, scale)).max())


def _training(pair: Pair) -> Measured | None:
    """Rung 5. Both engines of both frameworks."""
    runs = pair.engines("training/{engine}")
    pairs = [(m, n) for m, n in itertools.combinations(runs, 2) if m.split()[0] != n.split()[0]]
    return _losses({f"{m} and {n}": (runs[m], runs[n]) for m, n in pairs})


def _losses(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Measured | None:
    """The pair whose losses are furthest apart, and at which step they first are by a tenth of that."""
    if not pairs:
        return None
    by = {name: gap(x, y) for name, (x, y) in pairs.items()}
    name = max(by, key=lambda n: by[n])
    x, y = pairs[name]
    if x.shape != y.shape:
        return Measured(inf, {"layer": f"{name}: {len(x)} and {len(y)} steps", "difference": None})
    step = int(np.argmax(~(np.abs(x - y) <= by[name] / 10)))
    where = {
        "layer": f"step {step + 1}, {name}",
        "difference": by[name],
        "a": float(x[step]),
        "b": float(y[step]),
    }
    return Measured(by[name], where)


def _evaluation(pair: Pair) -> Measured | None:
    """Rung 6. How many predictions differ."""
    runs = pair.engines("evaluation/{engine}")
    found = {(m, n): int((runs[m] != runs[n]).sum()) for m, n in itertools.combinations(runs, 2)}
    if not found:
        return None
    m, n = max(found, key=lambda names: found[names])
    return Measured(float(found[m, n]), {"layer": f"{m} and {n}", "difference": float(found[m, n])})


def engines(arrays: Arrays) -> Measured:
    """Rung 7. Keras's losses and those of every other mode, against the native engine's."""
    native = arrays["training/native"]
    others = {"keras": arrays["training/keras"], **part(arrays, "modes/")}
    found = _losses({f"native and {name}": (native[: len(x)], x) for name, x in others.items()})
    assert found is not None
    return found


def _resume(pair: Pair) -> Measured | None:
    """Rung 8. Each framework goes on from the other's checkpoint as the other did itself."""
    sides = ((pair.name_a, pair.a, pair.name_b, pair.b), (pair.name_b, pair.b, pair.name_a, pair.a))
    return _losses(
        {
            f"{source} resumed on {who}": (arrays[f"resume/{source}"], own["training/native"])
            for who, arrays, source, own in sides
            if f"resume/{source}" in arrays
        }
    )


COMPARE: dict[int, Callable[[Pair], Measured | None]] = {
    1: _exact,
    2: _forward,
    3: _gradients,
    4: _updates,
    5: _training,
    6: _evaluation,
    7: lambda _: None,  # within a framework, see `engines`
    8: _resume,
}
