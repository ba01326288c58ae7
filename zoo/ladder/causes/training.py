"""Causes of a difference that only training has: running statistics, dropout masks, the loss, gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from zoo.ladder.causes import Cause, close, short, weighted
from zoo.ladder.causes.formulas import batch_statistics, softmax

Array = np.ndarray


def of_statistics(
    x: Array, axis: int, before: Mapping[str, Array], theirs: Mapping[str, Array], ours: Mapping[str, Array]
) -> Cause | None:
    """The momentum, or the kind of variance, by which batch norm's statistics moved for a batch `x`."""
    batch = batch_statistics(x, axis)
    count = x.size // batch["mean"].size
    momenta = [_momentum(before["mean"], batch["mean"], after["mean"]) for after in (theirs, ours)]
    a, b = momenta
    if a is None or b is None:
        return None
    if not np.isclose(a, b, rtol=1e-6, atol=1e-9):
        return Cause("momentum", weighted(a, b))
    kinds = {"biased": 1.0, "unbiased": count / max(1, count - 1)}
    found = [
        next((n for n, k in kinds.items() if close(a * old + (1 - a) * k * batch["variance"], after)), None)
        for old, after in ((before["variance"], side["variance"]) for side in (theirs, ours))
    ]
    if None in found or found[0] == found[1]:
        return None
    text = f"the running variance is the {found[0]} one in theirs, the {found[1]} one in ours"
    return Cause("biased variance", text)


def _momentum(old: Array, batch: Array, new: Array) -> float | None:
    """The weight of the old statistics."""
    moved = np.abs(old - batch) > 1e-6 * np.abs(old - batch).max(initial=0)
    if not moved.any():
        return None
    weight = float(np.median((new - batch)[moved] / (old - batch)[moved]))
    return weight if close(weight * old + (1 - weight) * batch, new) else None


def of_dropout(x: Array, theirs: Array, ours: Array) -> Cause | None:
    """How two dropouts of `x` differ: in what they keep, or in the factor that this is scaled by."""
    if x.shape != theirs.shape or x.shape != ours.shape:
        return None
    drawn = x != 0
    kept = [(y != 0) & drawn for y in (theirs, ours)]
    if np.array_equal(*kept):
        factors = [np.unique(np.round(y[kept[0]] / x[kept[0]], 10)) for y in (theirs, ours)]
        if not all(len(f) == 1 for f in factors):
            return None
        a, b = (float(f[0]) for f in factors)
        return Cause("dropout", f"what is kept is multiplied by {short(a)} in theirs, {short(b)} in ours")
    if np.array_equal(kept[0], ~kept[1] & drawn):
        return Cause("dropout", "ours keeps what theirs drops")
    shares = [100 * k.sum() / max(1, drawn.sum()) for k in kept]
    text = f"other values are dropped: {shares[0]:.0f} % are kept in theirs, {shares[1]:.0f} % in ours"
    return Cause("dropout", text)


def of_loss(
    theirs: float, ours: float, penalties: tuple[float, float], logits: Array | None, targets: Array | None
) -> Cause | None:
    """Why the losses of equal outputs differ."""
    if math.isclose(theirs, ours, rel_tol=1e-12):
        return None
    gap = ours - theirs
    for penalty, sign, side in ((penalties[0], -1, "ours"), (penalties[1], 1, "theirs")):
        if penalty and math.isclose(gap, sign * penalty, rel_tol=1e-7):
            return Cause("penalty", f"the penalties of weights, {short(penalty)}, are missing in {side}")
    if not math.isclose(*penalties, rel_tol=1e-9, abs_tol=1e-12):
        return Cause(
            "penalty", f"the penalties are {short(penalties[0])} in theirs, {short(penalties[1])} in ours"
        )
    a, b = (value - penalty for value, penalty in zip((theirs, ours), penalties, strict=True))
    if targets is not None:
        if math.isclose(b, a * len(targets), rel_tol=1e-9) or math.isclose(a, b * len(targets), rel_tol=1e-9):
            side = "ours" if abs(b) > abs(a) else "theirs"
            return Cause(
                "reduction", f"the loss of {side} is the sum of {len(targets)} examples, not their mean"
            )
        if logits is not None and logits.ndim == 2 and targets.ndim == 1 and targets.dtype.kind in "iu":
            values = {"the logits": logits, "the softmax of the logits": softmax(logits)}
            rows = np.arange(len(targets))
            losses = {n: -np.log(softmax(v)[rows, targets]).mean() for n, v in values.items()}
            named = [
                next((n for n, v in losses.items() if math.isclose(v, loss, rel_tol=1e-9)), None)
                for loss in (a, b)
            ]
            if None not in named and named[0] != named[1]:
                return Cause(
                    "softmax", f"the cross-entropy is that of {named[0]} in theirs, of {named[1]} in ours"
                )
    return Cause("loss", f"the loss is {theirs:.9g} in theirs, {ours:.9g} in ours, of equal outputs")


def of_gradient(theirs: Array, ours: Array) -> Cause | None:
    """What the values of one gradient show."""
    if theirs.shape != ours.shape:
        return None
    for side, array, other in (("theirs", theirs, ours), ("ours", ours, theirs)):
        if not array.any() and other.any():
            return Cause("missing gradient", f"the gradient is zero in {side}")
    return None


def of_initial(theirs: Array, ours: Array) -> Cause | None:
    """Why initial values differ: a mask inverted or reused, a kernel drawn transposed, another seed."""
    if theirs.shape != ours.shape:
        return None
    if set(np.unique([theirs, ours])) <= {0.0, 1.0}:
        if np.array_equal(theirs, 1 - ours):
            return Cause("dropout", "ours keeps what theirs drops")
        repeated = [s for s, m in (("theirs", theirs), ("ours", ours)) if len(m) > 1 and (m == m[:1]).all()]
        if len(repeated) == 1:
            return Cause("dropout", f"{repeated[0]} has the same mask at every step")
        return Cause("dropout", "the masks are drawn differently")
    if theirs.ndim == 2 and np.array_equal(theirs.reshape(theirs.shape[::-1]).T, ours):
        return Cause("layout", "the same numbers, drawn in the transposed order")
    if theirs.ndim == 2 and np.array_equal(ours.reshape(ours.shape[::-1]).T, theirs):
        return Cause("layout", "the same numbers, drawn in the transposed order")
    if np.array_equal(np.sort(theirs, None), np.sort(ours, None)):
        return Cause("layout", "the same numbers in another order")
    return None
