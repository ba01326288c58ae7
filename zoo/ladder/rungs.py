"""The comparison of two frameworks, rung by rung, from the arrays that their processes wrote."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from math import inf

import numpy as np

from zoo.ladder.bounds import (
    GAPS,
    LEAST_ERROR,
    Arrays,
    Format,
    Record,
    Rung,
    absolute_difference,
    finite_values,
    magnitude,
    non_finite_mismatch,
    relative_difference,
)

# How many spreads of an array under 1-ulp perturbations still count as rounding. A sum of n terms moves up
# to sqrt(n) times further in another order than by perturbed terms: the partial sums are rounded, too.
SPREADS = 20


def chaos_of(arrays: Arrays) -> float:
    """How far the losses diverge under 1-ulp perturbations of the initial weights; 0 if not measured."""
    perturbed = part(arrays, "perturbed/").values()
    return max((absolute_difference(x, arrays["training/native"]) for x in perturbed), default=0.0)


@dataclass(frozen=True)
class Measurement:
    """The largest difference of a rung, and where it first goes beyond the bound."""

    value: float
    where: Record | None = None


def row(
    model: str, dtype: str, rung: Rung, pair: tuple[str, str], measurement: Measurement, chaos: float
) -> Record:
    """A row of the table, with its verdict: holds, fails, gap (known), closed (a gap that holds now)."""
    bound = rung.bound(dtype, chaos)
    holds = bool(measurement.value <= bound)
    gap = next(
        (g for g in GAPS if (g.model, g.rung, g.dtype, g.pair) == (model, rung.number, dtype, pair)), None
    )
    verdict = ("closed" if gap else "holds") if holds else ("gap" if gap else "fails")
    return {
        "model": model, "dtype": dtype, "rung": rung.number, "name": rung.name, "a": pair[0], "b": pair[1],
        "measured": measurement.value, "bound": bound, "verdict": verdict,
        "where": None if holds else measurement.where,
        "chaos": chaos if rung.float32 is None and dtype == "float32" else None,
        "reason": gap and f"{gap.reason} ({gap.upstream})", "error": None,
    }  # fmt: skip


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, without it."""
    return {name[len(prefix) :]: x for name, x in arrays.items() if name.startswith(prefix)}


def location(layer: str, a: np.ndarray, b: np.ndarray) -> Record:
    """Where two arrays differ most: the index, both values, and the relative difference."""
    if a.shape != b.shape:
        return {"layer": layer, "difference": None, "a": f"shape {a.shape}", "b": f"shape {b.shape}"}
    distance = np.abs(finite_values(a) - finite_values(b))
    distance = np.where(non_finite_mismatch(a, b), inf, distance)
    index = np.unravel_index(np.argmax(distance), distance.shape) if distance.size else ()
    values = {"a": float(a[index]), "b": float(b[index])}
    difference = relative_difference(a, b)
    return {"layer": layer, "difference": difference, "index": [int(i) for i in index], **values}


@dataclass(frozen=True)
class Pair:
    """The arrays of one model from two frameworks, to be compared within a bound."""

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

    def difference(self, name: str) -> float:
        """The relative difference of an array; inf where one side lacks it.

        It is relative to the array's largest value or, where rounding moves it further than the bound (the
        spread under 1-ulp perturbations of weights and inputs), to that rounding, so that the bound is
        `SPREADS` times the spread.
        """
        if name not in self.a or name not in self.b:
            return inf
        largest = absolute_difference(self.a[name], self.b[name])
        if not largest or largest == inf:
            return largest
        return largest / max(self._magnitude(name), SPREADS * self._spread(name) / self.bound)

    def rounding(self, name: str) -> float:
        """How far 1-ulp perturbations move an array, relative to its largest value."""
        return self._spread(name) / (self._magnitude(name) or 1)

    def _spread(self, name: str) -> float:
        return max(float(side.get(f"spread/{name}", 0)) for side in (self.a, self.b))

    def _magnitude(self, name: str) -> float:
        return max(magnitude(side[name]) for side in (self.a, self.b) if name in side)

    def engines(self, name: str) -> dict[str, np.ndarray]:
        """The array of that name from each engine of both frameworks, where there is one."""
        sides = ((self.name_a, self.a), (self.name_b, self.b))
        return {
            f"{backend} {engine}": arrays[key]
            for backend, arrays in sides
            for engine in ("native", "keras")
            if (key := name.format(engine=engine)) in arrays
        }


def _equal(prefix: str, pair: Pair) -> Measurement | None:
    """Rungs 0 and 1. Values are equal bit for bit, and of the same type; integers of any width."""
    ours, theirs = pair.parts(prefix)
    if prefix == "bits/" and not ours and not theirs:  # a model that has no exact form
        return None
    worst, where = 0.0, None
    for name in dict.fromkeys([*ours, *theirs]):
        x, y = (_wide(side.get(name)) for side in (ours, theirs))
        if x is None or y is None:
            worst, where = inf, where or {"layer": name, "difference": None, "suspect": "missing on one side"}
        elif x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
            x, y = x.astype(np.float64), y.astype(np.float64)
            worst = max(worst, absolute_difference(x, y) or inf)  # inf: another type, or -0 for 0
            where = where or location(name, x, y)
    return Measurement(worst, where)


def _wide(x: np.ndarray | None) -> np.ndarray | None:
    return x if x is None or x.dtype.kind != "i" else x.astype(np.int64)


def _forward(pair: Pair) -> Measurement:
    """Rung 2. The first operation whose output differs is the suspect: its inputs are equal."""
    names = dict.fromkeys(name for side in (pair.a, pair.b) for name in side if name.startswith("forward/"))
    differences = {name: pair.difference(name) for name in names}
    where = None
    if (first := next((n for n, x in differences.items() if not x <= pair.bound), None)) is not None:
        label = first.removeprefix("forward/")
        suspect = pair.facts.get("kinds", {}).get(
            label, "the non-trainable state, such as running statistics"
        )
        sides = (side.get(first, np.zeros(0)) for side in (pair.a, pair.b))
        where = {**location(label, *sides), "suspect": suspect, "rounding": pair.rounding(first)}
    return Measurement(max(differences.values()), where)


def _gradients(pair: Pair) -> Measurement:
    """Rung 3. Backwards from the loss: an output's gradient is computed by the operations that read it."""
    ours, theirs = pair.parts("gradients/")
    if unpaired := sorted(ours.keys() ^ theirs.keys()):
        layers = ", ".join(unpaired[:3])
        return Measurement(inf, {"layer": layers, "difference": None, "suspect": "on one side only"})
    facts, differences = pair.facts, {name: pair.difference(f"gradients/{name}") for name in ours}
    worst = max(differences.values())

    backward = [("loss", "the loss, or the forward pass before it")]
    for label in reversed(facts["order"]):
        readers = [f"{reader}: {facts['kinds'][reader]}" for reader in facts["consumers"][label]]
        backward.append((f"outputs/{label}", "the backward pass of " + (", ".join(readers) or "the loss")))
        own = f"the backward pass of {label}: {facts['kinds'][label]}, for its weight"
        backward += [(f"weights/{path}", own) for path in facts["weights"][label]]
    for name, suspect in backward:
        if name in ours and not differences[name] <= pair.bound:
            where = location(name, ours[name], theirs[name])
            own = {"difference": differences[name], "rounding": pair.rounding(f"gradients/{name}")}
            return Measurement(worst, {**where, **own, "suspect": suspect})
    return Measurement(worst)


def _updates(pair: Pair) -> Measurement:
    """Rung 4. The schedules, then the updates by both engines of both frameworks, each pair of the four."""
    differences: list[tuple[float, str, str]] = []  # of (difference, suspect, where)
    paths: dict[str, list[str]] = {}  # of weights, by optimizer
    for name in (name for name in pair.a if name.startswith("update/")):
        _, optimizer, *rest = name.split("/")
        if optimizer == "rates":
            for difference in _rate_differences(pair.a[name], pair.b[name]):
                differences.append((difference, rest[0], f"the schedule of {rest[0]}"))
        elif rest[0] == "native":
            paths.setdefault(optimizer, []).append("/".join(rest[1:]))
    for optimizer, own in paths.items():
        four = [pair.engines(f"update/{optimizer}/{{engine}}/{path}") for path in own]
        any_run = [next(iter(runs.values())) for runs in four]
        scale = np.max([np.abs(x - x[:1]).reshape(len(x), -1).max(1) for x in any_run], axis=0)[1:]
        for path, runs in zip(own, four, strict=True):
            for m, n in itertools.combinations(runs, 2):
                difference = update_difference(runs[m], runs[n], scale, pair.dtype)
                differences.append((difference, optimizer, f"{optimizer}, {path} ({m} and {n})"))
    worst = float(np.max([difference for difference, _, _ in differences], initial=0))  # keeps NaN
    for difference, suspect, where in differences:
        if not difference <= pair.bound:
            return Measurement(worst, {"layer": where, "difference": difference, "suspect": suspect})
    return Measurement(worst)


def _rate_differences(x: np.ndarray, y: np.ndarray) -> Iterator[float]:
    """Relative differences of schedules, (steps, 2): of two frameworks, and of a tensor's and a float's."""
    for u, v in ((x, y), (x[:, :1], x[:, 1:])):
        scale = np.where(v == 0, np.abs(v).max(), np.abs(v))
        yield float((np.abs(u - v) / scale).max())


def update_difference(x: np.ndarray, y: np.ndarray, scale: np.ndarray, dtype: str) -> float:
    """The largest difference of a weight's updates, each relative to its scale.

    Row 0 of each array is the weight before, the others are the weight after one update. Differences count
    beyond two ulps of the weight: the rounding of the sum of weight and update.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    rounding = 2 * np.spacing(np.maximum(np.abs(x[:1]), np.abs(x[1:])).astype(dtype)).astype(np.float64)
    beyond = np.maximum(0, np.abs((x[1:] - x[0]) - (y[1:] - y[0])) - rounding)
    return float((beyond.reshape(len(beyond), -1).max(1) / np.where(scale == 0, 1, scale)).max())


def _training(pair: Pair) -> Measurement | None:
    """Rung 5. Both engines of both frameworks."""
    runs = pair.engines("training/{engine}")
    pairs = [(m, n) for m, n in itertools.combinations(runs, 2) if m.split()[0] != n.split()[0]]
    return _losses({f"{m} and {n}": (runs[m], runs[n]) for m, n in pairs})


def _losses(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Measurement | None:
    """The largest difference of any pair's losses, and the first step with a tenth of it."""
    if not pairs:
        return None
    differences = {name: absolute_difference(x, y) for name, (x, y) in pairs.items()}
    name, largest = max(differences.items(), key=lambda item: item[1])
    x, y = pairs[name]
    if x.shape != y.shape:
        return Measurement(inf, {"layer": f"{name}: {len(x)} and {len(y)} steps", "difference": None})
    step = int(np.argmax(~(np.abs(x - y) <= largest / 10)))
    where = {"layer": f"step {step + 1}, {name}", "difference": largest}
    return Measurement(largest, {**where, "a": float(x[step]), "b": float(y[step])})


def _evaluation(pair: Pair) -> Measurement | None:
    """Rung 6. How many predictions differ."""
    runs = pair.engines("evaluation/{engine}")
    counts = {f"{m} and {n}": float((runs[m] != runs[n]).sum()) for m, n in itertools.combinations(runs, 2)}
    if not counts:
        return None
    names, count = max(counts.items(), key=lambda item: item[1])
    return Measurement(count, {"layer": names, "difference": count})


def engines(arrays: Arrays) -> Measurement:
    """Rung 7. The losses of Keras and of every other mode against those of the native engine."""
    native = arrays["training/native"]
    others = {"keras": arrays["training/keras"], **part(arrays, "modes/")}
    measurement = _losses({f"native and {name}": (native[: len(x)], x) for name, x in others.items()})
    assert measurement is not None
    return measurement


def _resume(pair: Pair) -> Measurement | None:
    """Rung 8. A run resumed from the other's checkpoint has the losses of the other's own run."""
    sides = ((pair.name_a, pair.a, pair.name_b, pair.b), (pair.name_b, pair.b, pair.name_a, pair.a))
    return _losses(
        {
            f"{source} resumed on {backend}": (arrays[f"resume/{source}"], own["training/native"])
            for backend, arrays, source, own in sides
            if f"resume/{source}" in arrays
        }
    )


def _padded_batch(pair: Pair) -> Measurement | None:
    """Rung 9. Outputs and gradients of a batch that is padded in front."""
    ours, theirs = pair.parts("batch/front/")
    if not (ours and theirs):  # it is left out on one side
        return None
    names = [f"batch/front/{name}" for name in dict.fromkeys([*ours, *theirs])]
    return _largest(pair, {name: name.removeprefix("batch/front/") for name in names})


def _largest(pair: Pair, names: Mapping[str, str]) -> Measurement | None:
    """The largest difference of these arrays, each with its name in words, and where it is."""
    if not names:
        return None
    differences = {name: pair.difference(name) for name in names}
    where = None
    if (worst := next((n for n, x in differences.items() if not x <= pair.bound), None)) is not None:
        sides = (side.get(worst, np.zeros(0)) for side in (pair.a, pair.b))
        own = {"difference": differences[worst], "rounding": pair.rounding(worst)}
        where = {**location(names[worst], *sides), **own}
    return Measurement(float(np.max(list(differences.values()))), where)


# Of rungs 9 and 10: what is compared within a framework, (array, the one it must equal, in words); {} is the
# rest of a name.
SAME = {
    9: (
        ("batch/alone/{}", "batch/together/{}", "output {} of an example alone, and in a batch"),
        ("batch/cut/{}", "batch/real/{}", "output {} without padding, and with it"),
        ("batch/behind/{}", "batch/real/{}", "output {} with more padding behind"),
        ("batch/shifted/{}", "batch/real/{}", "output {} with padding in front"),
        ("batch/tokens/{}", "batch/masked/{}", "output {} with other tokens in the padding"),
        ("threads/batch/front/{}", "batch/front/{}", "{} with eight threads, and with one"),
    ),
    10: (
        ("accumulation/native/{}", "accumulation/whole/{}", "{} of native micro-batches, and of one batch"),
        ("accumulation/keras/{}", "accumulation/whole/{}", "{} of Keras's micro-batches, and of one batch"),
        ("recomputation/recomputed/{}", "recomputation/stored/{}", "{} recomputed, and stored"),
    ),
}


def _same(rung: int, name: str, arrays: Arrays, bound: float, dtype: str) -> Measurement | None:
    """Rungs 9 and 10 within a framework."""
    ours: dict[str, np.ndarray] = {}
    theirs: dict[str, np.ndarray] = {}
    words: dict[str, str] = {}
    for variant, same, text in SAME[rung]:
        variant, same = variant.removesuffix("{}"), same.removesuffix("{}")
        for rest, value in part(arrays, variant).items():
            key = variant + rest
            ours[key], theirs[key], words[key] = arrays[same + rest], value, text.format(rest)
            spread = f"spread/{same}{rest}".replace("recomputation/stored", "accumulation/whole")
            if spread in arrays:
                ours[f"spread/{key}"] = arrays[spread]
    return _largest(Pair(name, name, ours, theirs, bound, {}, dtype), words)


def precision(arrays: Arrays, exact: Arrays, form: Format) -> Measurement | None:
    """Rung 11. The errors of a number format, in those that its rounding makes; inf for none at all."""
    known = part(exact, "precision/exact/")
    own = {name: x for name, x in part(arrays, f"precision/{form.name}/").items() if name in known}
    if not own:
        return None
    ratios, errors = {}, {}
    for name, value in own.items():
        expected = float(exact[f"precision/{form.bits} bits/{name}"])
        errors[name] = float(np.linalg.norm(value - known[name]))
        ratios[name] = errors[name] / expected if expected else (inf if errors[name] else 0.0)
    outputs = [ratio for name, ratio in ratios.items() if name.startswith("outputs/")]
    if max(outputs, default=inf) < LEAST_ERROR:
        where = {"layer": "outputs", "difference": max(outputs)}
        return Measurement(inf, {**where, "suspect": f"more bits than the {form.bits} of {form.name}"})
    worst = max(ratios, key=lambda name: inf if np.isnan(ratios[name]) else ratios[name])
    return Measurement(ratios[worst], {"layer": worst, "difference": ratios[worst]})


COMPARISONS: dict[int, Callable[[Pair], Measurement | None]] = {
    0: partial(_equal, "bits/"),
    1: partial(_equal, "initial/"),
    2: _forward,
    3: _gradients,
    4: _updates,
    5: _training,
    6: _evaluation,
    7: lambda _: None,  # within one framework: see `WITHIN`
    8: _resume,
    9: _padded_batch,
    10: lambda _: None,
    11: lambda _: None,
}
# Within one framework, of its name, arrays, the bound and the float type.
WITHIN: dict[int, Callable[[str, Arrays, float, str], Measurement | None]] = {
    7: lambda _name, arrays, *_: engines(arrays) if "training/native" in arrays else None,
    9: partial(_same, 9),
    10: partial(_same, 10),
}
