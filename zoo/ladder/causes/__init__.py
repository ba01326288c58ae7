"""The likely cause of a difference: hypotheses recomputed in NumPy.

A cause is claimed only if the recomputation gives the outputs of both sides. Where only the declared settings
differ, or one side alone is explained, the cause is said to be unconfirmed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import zoo.ladder.causes.formulas as formulas
import zoo.ladder.causes.recurrent as recurrent
from zoo.backends.recording import Node
from zoo.ladder.causes.compare import align, difference, layouts
from zoo.ladder.causes.trace import Anchor

Array = np.ndarray
BOUND = 1e-10  # of a recomputation, whose order of summation is NumPy's
ACTIVATED = {
    f" after an activation, {name}": formulas.FUNCTIONS[name] for name in ("relu", "silu", "gelu (erf)")
}
FORMATS = {"TF32 (10 bits of mantissa)": 11, "bfloat16 (7 bits of mantissa)": 8}  # bits with the first
TINY = 1e-60  # an output in the padding: an LSTM's output gate is closed there
CONSTANT = 2.0**-23  # by which a constant changes that is rounded to float32
EPSILONS = (0.0, 1e-12, 1e-8, 1e-7, 1e-6, 1e-5, 1.001e-5, 1e-3)


@dataclass(frozen=True)
class Cause:
    """`name` is for sorting, `text` for reading; `confirmed` says that both outputs were recomputed."""

    name: str
    text: str
    confirmed: bool = True

    def exchanged(self) -> Cause:
        """The cause of theirs' difference from ours."""
        return replace(self, text=self.of_sides("ours", "theirs"))

    def of_sides(self, theirs: str, ours: str) -> str:
        """The text with the names of two frameworks for theirs and ours."""
        names = {"theirs": theirs, "ours": ours}
        return re.sub(
            r"\b(theirs|ours)\b", lambda found: names[found[0]], self.text.replace("theirs'", "theirs")
        )


@dataclass(frozen=True)
class Case:
    """An operation on both sides with the same inputs: ours' values in theirs' layout."""

    theirs: Anchor
    ours: Anchor
    inputs: list[Array]
    their_weights: Mapping[str, Array]
    our_weights: Mapping[str, Array]
    their_output: Array
    our_output: Array
    bound: float = BOUND  # of a product in a coarser number format

    def exchanged(self) -> Case:
        """Ours as theirs, and theirs as ours."""
        return Case(
            self.ours, self.theirs, self.inputs, self.our_weights, self.their_weights, self.our_output,
            self.their_output, self.bound,
        )  # fmt: skip


def close(a: Array, b: Array) -> bool:
    """Whether a recomputed output is that of a side."""
    return a.shape == b.shape and difference(b, a).within(BOUND)


def of_operation(case: Case) -> Cause | None:
    """The cause of a difference within one operation, whose inputs are equal."""
    kind = case.theirs.kind
    hypotheses: dict[str, Callable[[Case], Cause | None]] = {
        "batch_norm": _batch_norm, "layer_norm": _layer_norm, "rms_norm": _layer_norm, "conv": _conv,
        "affine": _layer_norm, "dense": _dense, "embedding": _embedding, "attention": _attention,
        "lstm": _recurrent, "gru": _recurrent, "pad": _pad,
    }  # fmt: skip
    found = hypotheses[kind](case) if kind in hypotheses else None
    return (
        found
        or of_values(case.inputs, case.their_output, case.our_output)
        or declared(case.theirs, case.ours)
    )


def of_values(inputs: list[Array], theirs: Array, ours: Array) -> Cause | None:
    """A cause that the values alone show, whatever the operation."""
    if theirs.shape != ours.shape:
        return None
    if close(theirs.astype(np.float32).astype(np.float64), ours) or _is_float32(ours, theirs):
        return Cause("precision", "ours is computed or stored in float32: its values have 24 bits, theirs 53")
    if _is_float32(theirs, ours):
        return Cause("precision", "theirs is computed or stored in float32: its values have 24 bits, ours 53")
    norm = float(np.vdot(theirs, theirs))
    if norm > 0 and np.isfinite(norm):
        factor = float(np.vdot(theirs, ours)) / norm
        if close(theirs * factor, ours):
            if abs(factor - 1) < CONSTANT:
                return Cause(
                    "precision",
                    f"the values of ours are those of theirs times {factor:.12g}: a constant in float32",
                )
            return Cause("factor", f"the values of ours are those of theirs times {factor:.9g}")
    for axis in range(1, theirs.ndim):
        if theirs.shape[axis] > 1 and close(np.flip(theirs, axis), ours):
            return Cause(
                "order", f"the values of ours are those of theirs in reverse order along axis {axis}"
            )
    offset = ours - theirs
    if close(np.full_like(theirs, offset.flat[0]), offset) and offset.flat[0] != 0:
        return Cause("offset", f"the values of ours are those of theirs plus {offset.flat[0]:.9g}")
    return _branches(inputs, theirs, ours)


def of_function(x: Array, theirs: Array, ours: Array) -> Cause | None:
    """Which functions of one tensor give theirs and ours."""
    named: list[str | None] = []
    for side in (theirs, ours):
        fitting = (n for n, f in formulas.FUNCTIONS.items() if close(_quiet(f, x), side))
        named.append(next(fitting, None))
    a, b = named
    if a is None or b is None or a == b:
        return None
    name = "activation" if "softmax" not in (a + b) else "softmax"
    if formulas.FLOAT32 in a + b and a.split(",")[0].strip(")") == b.split(",")[0].strip(")"):
        return Cause("precision", f"theirs applies {a}, ours {b}")
    return Cause("gelu" if "gelu" in a and "gelu" in b else name, f"theirs applies {a}, ours {b}")


def of_pool(x: Array, theirs: Array, ours: Array, settings: list[dict[str, Any]]) -> Cause | None:
    """Which pooling gives theirs and ours, of (n, c, ...)."""
    named: list[str | None] = []
    for side, setting in zip((theirs, ours), settings, strict=True):
        name = None
        for kind in ("max", "max of zeros", "mean", "mean without padding"):
            for words, padding in _paddings(x.shape, side.shape, setting):
                y = _quiet(
                    lambda x, p=padding, k=kind, s=setting: formulas.pool(x, s["size"], s["stride"], p, k), x
                )
                if name is None and close(y, side):
                    name = f"{kind}, padding {words}"
        named.append(name)
    a, b = named
    return Cause("pool", f"theirs pools by {a}, ours by {b}") if a and b and a != b else None


def _paddings(
    x: tuple[int, ...], y: tuple[int, ...], setting: dict[str, Any]
) -> Iterator[tuple[str, list[list[int]]]]:
    need = [
        max(0, (m - 1) * s + k - n)
        for n, m, k, s in zip(x[2:], y[2:], setting["size"], setting["stride"], strict=True)
    ]
    yield "none or behind", [[0, t] for t in need]
    yield "on both sides", [[t - t // 2, t // 2] for t in need]
    yield "on both sides, more behind", [[t // 2, t - t // 2] for t in need]
    yield "before", [[t, 0] for t in need]
    even = [[(k - 1) // 2] * 2 for k in setting["size"]]
    yield "of half a window", even


def of_state(
    theirs: Anchor, ours: Anchor, before: Mapping[str, Array], after: tuple[Any, Any]
) -> list[Cause]:
    """Why running statistics differ after a pass in training mode: the momentum, or a biased variance.

    `before` are the statistics of both by role, `after` theirs and ours.
    """
    found = [anchor.node.attributes.get("momentum") for anchor in (theirs, ours)]
    weights = [m for m in found if isinstance(m, float) and 0 <= m < 1]
    if len(weights) < 2:
        return []
    means, variances = (
        [(new[role] - m * before[role]) / (1 - m) for new, m in zip(after, weights, strict=True)]
        for role in ("mean", "variance")
    )
    causes, (a, b) = [], weights
    if not np.isclose(a, b, rtol=1e-9):
        causes.append(Cause("momentum", weighted(a, b), difference(means[0], means[1]).within(1e-8)))
    with np.errstate(all="ignore"):
        ratio = variances[1] / variances[0]
    if np.allclose(ratio, ratio.flat[0], rtol=1e-8) and not np.isclose(ratio.flat[0], 1, rtol=1e-8):
        biased = "ours" if ratio.flat[0] < 1 else "theirs"
        text = f"the running variance of {biased} is the biased one: ours is {ratio.flat[0]:.9g} times theirs"
        causes.append(Cause("biased variance", text))
    return causes


def weighted(theirs: float, ours: float) -> str:
    """The momenta of running statistics, in words."""
    complement = ", its complement" if np.isclose(theirs, 1 - ours, rtol=1e-6) else ""
    return f"the old statistics weigh {short(theirs)} in theirs, {short(ours)} in ours{complement}"


def _quiet(function: Callable[[Array], Array], x: Array) -> Array:
    with np.errstate(all="ignore"):
        try:
            return function(x)
        except (ValueError, IndexError):  # the shape does not fit
            return np.zeros(())


def _is_float32(array: Array, other: Array) -> bool:
    """Whether all values are float32's, those of the other side are not, and they agree to float32."""
    if array.dtype == np.float32:
        return difference(other, array).error < 1e-5
    rounded = array.astype(np.float32).astype(array.dtype)
    exact = np.array_equal(rounded, array, equal_nan=True)
    return (
        exact
        and array.size > 8
        and difference(other, array).error < 1e-5
        and not _is_float32(other, other[:0])
    )


def _branches(inputs: list[Array], theirs: Array, ours: Array) -> Cause | None:
    """Coefficients of the sum that each output is of the inputs."""
    terms = [x for x in inputs if x.shape == theirs.shape]
    if len(terms) < 2:
        return None
    matrix = np.stack([t.ravel() for t in terms], 1)
    found = [np.linalg.lstsq(matrix, y.ravel(), rcond=None)[0] for y in (theirs, ours)]
    fits = [close((matrix @ c).reshape(theirs.shape), y) for c, y in zip(found, (theirs, ours), strict=True)]
    if not all(fits) or np.allclose(found[0], found[1], rtol=1e-9):
        return None
    a, b = (", ".join(f"{v:.6g}" for v in c) for c in found)
    return Cause("coefficients", f"a sum of branches with coefficients {a} in theirs, {b} in ours")


def _batch_norm(case: Case) -> Cause | None:
    x, axis = case.inputs[0], _channel_axis(case)
    if axis is None:
        return None
    weights = (case.their_weights, case.our_weights)
    outputs = (case.their_output, case.our_output)
    anchors = (case.theirs, case.ours)
    found: list[tuple[str, float]] = []
    for w, y, anchor in zip(weights, outputs, anchors, strict=True):
        declared = anchor.node.attributes.get("epsilon")
        options = [declared] if isinstance(declared, float) else []
        options += [*EPSILONS, _fitted(x, w, y, axis)]
        ways = [("", x, w), (" of the batch", x, {**w, **formulas.batch_statistics(x, axis)})]
        for how, z, values in [*ways, *((n, f(x), w) for n, f in ACTIVATED.items())]:
            for epsilon in options:
                if close(formulas.batch_norm(z, values, epsilon, axis), y):
                    found.append((how, epsilon))
                    break
            else:
                continue
            break
    if len(found) < 2:
        return None
    (how, a), (our_how, b) = found
    if how != our_how and (first := next((n for n in ACTIVATED if n in (how, our_how)), None)):
        side = "theirs" if how == first else "ours"
        return Cause("order", f"{side} normalizes{first}")
    if how != our_how:
        side = "ours" if our_how else "theirs"
        return Cause("training mode", f"{side} normalizes by the statistics of the batch, as in training")
    if not np.isclose(a, b, rtol=1e-6, atol=0):
        return Cause(
            "epsilon",
            _epsilon(a, b),
        )
    return None


def _fitted(x: Array, w: Mapping[str, Array], y: Array, axis: int) -> float:
    """The epsilon that the output was computed with."""
    rank = x.ndim
    v = {role: formulas.channels(a, axis, rank) for role, a in w.items()}
    with np.errstate(all="ignore"):
        root = (x - v["mean"]) * v.get("scale", 1.0) / (y - v.get("shift", 0.0))
        each = np.square(root) - v["variance"]
    each = each[np.isfinite(each) & (np.abs(y - v.get("shift", 0.0)) > 0.1 * np.abs(y).max())]
    return max(0.0, float(np.median(each))) if each.size else 0.0


def _layer_norm(case: Case) -> Cause | None:
    x = case.inputs[0]
    if x.shape != case.their_output.shape:
        return None
    found: list[tuple[str, float]] = []
    sides = (
        (case.theirs, case.their_weights, case.their_output), (case.ours, case.our_weights, case.our_output),
    )  # fmt: skip
    for anchor, weights, y in sides:
        declared = anchor.node.attributes.get("epsilon")
        options = [declared] if isinstance(declared, float) else []
        options += [e for e in EPSILONS if e not in options]
        match = next(
            ((n, e) for e in options for n, z in formulas.layer_norms(x, weights, e) if close(z, y)), None
        )
        if match:
            found.append(match)
    if len(found) < 2:
        return None
    (a, epsilon), (b, other) = found
    if a != b:
        name = "biased variance" if "unbiased" in a + b else "normalization"
        return Cause(
            name, f"theirs computes {a} (epsilon {short(epsilon)}), ours {b} (epsilon {short(other)})"
        )
    if epsilon != other:
        return Cause(
            "epsilon",
            _epsilon(epsilon, other),
        )
    return None


def _conv(case: Case) -> Cause | None:
    x, w = case.inputs[0], case.their_weights
    axis = case.theirs.node.attributes.get("channels", 1)
    x, y, z = (np.moveaxis(a, axis, 1) for a in (x, case.their_output, case.our_output))
    mine, other = _settings(case.theirs), _settings(case.ours)
    if mine is None or other is None:
        return None
    kernel, bias = w["kernel"], w.get("bias")

    def agrees(target: Array, k: Array = kernel, b: Array | None = bias, **changed: Any) -> bool:
        settings = {**mine, **changed}
        return close(_quiet(lambda x: formulas.conv(x, k, b, **settings), x), target)

    if not agrees(y):
        return of_format(lambda x, k: formulas.conv(x, k, bias, **mine), (x, kernel), (y, z), case.bound)
    for name in ("padding", "stride", "dilation"):
        if mine[name] != other[name] and agrees(z, **{name: other[name]}):
            name_of = "padding side" if name == "padding" and _total(mine) == _total(other) else name
            return Cause(
                name_of,
                f"{name} is {mine[name]} in theirs, {other[name]} in ours; with that of theirs the two agree",
            )
    if mine != other and agrees(z, **{n: other[n] for n in ("padding", "stride", "dilation")}):
        text = ", ".join(
            f"{n} {mine[n]} in theirs and {other[n]} in ours" for n in mine if mine[n] != other[n]
        )
        return Cause(next(n for n in ("dilation", "stride", "padding") if mine[n] != other[n]), text)
    if bias is not None and agrees(z, b=None):
        return Cause("bias", "ours has no bias")
    flipped = kernel[(slice(None), slice(None), *(slice(None, None, -1),) * (kernel.ndim - 2))]
    if agrees(z, k=flipped):
        return Cause(
            "layout", "ours applies the kernel flipped (a convolution; theirs is a cross-correlation)"
        )
    if kernel.ndim == 4 and kernel.shape[2] == kernel.shape[3] and agrees(z, k=kernel.swapaxes(2, 3)):
        return Cause("layout", "ours applies the kernel with height and width exchanged")
    for padding in _other_sides(mine["padding"]):
        if agrees(z, padding=padding):
            text = f"padding is {mine['padding']} in theirs, {padding} in ours; with either the two agree"
            return Cause("padding side", text)
    return of_format(lambda x, k: formulas.conv(x, k, bias, **mine), (x, kernel), (y, z), case.bound)


def _other_sides(padding: list[list[int]]) -> Iterator[list[list[int]]]:
    """The same amount of padding, divided otherwise between the two sides."""
    total = [sum(p) for p in padding]
    options = ([[0, t] for t in total], [[t, 0] for t in total], [[t // 2, t - t // 2] for t in total],
               [[t - t // 2, t // 2] for t in total])  # fmt: skip
    yield from (option for option in options if option != [list(p) for p in padding])


def of_format(
    product: Callable[[Array, Array], Array],
    operands: tuple[Array, Array],
    outputs: tuple[Array, Array],
    bound: float,
) -> Cause | None:
    """The number format that one side rounds the operands of a product to."""
    exact = product(*operands)
    for side, y, other in (("theirs", *outputs), ("ours", *outputs[::-1])):
        for name, bits in FORMATS.items():
            coarse = product(*(formulas.rounded(a, bits) for a in operands))
            if difference(y, coarse).within(bound) and difference(other, exact).within(bound):
                return Cause("TF32" if "TF32" in name else "precision", f"{side} multiplies in {name}")
    return None


def is_conv(anchor: Anchor, x: Array, weights: Mapping[str, Array], y: Array, stride: list[int]) -> bool:
    """Whether this convolution with another stride gives y."""
    settings, axis = _settings(anchor), anchor.node.attributes["channels"]
    if settings is None:
        return False
    x, y = (np.moveaxis(a, axis, 1) for a in (x, y))
    changed = {**settings, "stride": stride}
    return close(_quiet(lambda x: formulas.conv(x, weights["kernel"], weights.get("bias"), **changed), x), y)


def _settings(anchor: Anchor) -> dict[str, Any] | None:
    found = {n: anchor.node.attributes.get(n) for n in ("stride", "padding", "dilation", "groups")}
    return None if None in found.values() else found


def _total(settings: Mapping[str, Any]) -> list[int]:
    return [sum(p) for p in settings["padding"]]


def _dense(case: Case) -> Cause | None:
    x, w, v = case.inputs[0], case.their_weights, case.our_weights
    y, z = case.their_output, case.our_output
    kernel, bias = w["kernel"], w.get("bias", 0.0)
    if x.shape[-1] != kernel.shape[1]:
        return None
    found = of_format(lambda x, k: (x @ k.T + bias).reshape(y.shape), (x, kernel), (y, z), case.bound)
    if found is not None or not close((x @ kernel.T + bias).reshape(y.shape), y):
        return found

    def gives(value: Array) -> bool:
        return value.size == z.size and close(value.reshape(z.shape), z)

    if "bias" in w and gives(x @ kernel.T):
        return Cause("bias", "ours has no bias")
    if kernel.shape[0] == kernel.shape[1] and gives(x @ kernel + bias):
        return Cause("layout", "ours multiplies by the transposed matrix")
    other = v.get("kernel", kernel)
    if other.shape == kernel.shape and not np.array_equal(other, kernel):
        used = gives(x @ other.T + v.get("bias", 0.0))
        return Cause("weights", "the weights differ: those of ours could not be set") if used else None
    return None


def _pad(case: Case) -> Cause | None:
    """Zeros around an image: where its values are in both outputs says how many are in front."""
    x, y, z = case.inputs[0], case.their_output, case.our_output
    if x.ndim != y.ndim or not x.any():
        return None
    starts = []
    for side in (y, z):
        value = np.flatnonzero(x)[0]
        index = np.unravel_index(value, x.shape)
        found = (
            np.subtract(where, index)
            for where in np.argwhere(side == x.flat[value])
            if np.array_equal(
                side[tuple(slice(b - i, b - i + n) for b, i, n in zip(where, index, x.shape, strict=True))], x
            )
        )
        starts.append(next(found, None))
    if any(start is None for start in starts):
        return None
    a, b = ([int(n) for n in start] for start in starts if start is not None)
    return Cause("padding side", f"in front are {a} zeros by axis in theirs, {b} in ours") if a != b else None


def _recurrent(case: Case) -> Cause | None:
    (x, *states), y, z = case.inputs, case.their_output, case.our_output
    real, z_real = (np.any(np.abs(a) > TINY, axis=-1, keepdims=True) for a in (y, z))
    padded, real = bool(np.any(real != z_real)), real & z_real
    if case.theirs.node.attributes.get("reverse"):
        x, y, z = (recurrent.backwards(a, real) for a in (x, y, z))
    found: list[recurrent.Form | None] = [None, None]
    for form, made in recurrent.forms(case.theirs.kind, [x, *states], case.their_weights):
        made = made[:, -1] if y.ndim == 2 else made
        for i, side in enumerate((y, z)):
            if found[i] is None and made.shape == y.shape and close(made * real, side * real):
                found[i] = form
    a, b = found
    if a is None or b is None:
        return None
    if a == b:
        return Cause("padding", "they differ in the padding alone") if padded else None
    for name, what in (("gates", "layout"), ("state", "initial state"), ("rest", "recurrence")):
        if (mine := getattr(a, name)) != (other := getattr(b, name)):
            words = {"gates": "the order of gates is ", "state": "the initial state is ", "rest": ""}[name]
            return Cause(what, f"{words}{mine} in theirs, {other} in ours")
    return None


def _embedding(case: Case) -> Cause | None:
    table = case.their_weights.get("kernel")
    if table is None or table.ndim != 2:
        return None
    y, z = (a.reshape(-1, table.shape[1]) for a in (case.their_output, case.our_output))
    if len(y) * len(table) > 10**6:
        return None
    rows = []
    for side in (y, z):
        gap = np.abs(side[:, None] - table[None]).max(-1)
        if gap.min(1).max() > BOUND:
            return None
        rows.append(gap.argmin(1))
    shift = np.unique(rows[1] - rows[0])
    if len(shift) == 1 and shift[0] != 0:
        return Cause("position", f"ours reads the rows {shift[0]:+d} from theirs' in the table")
    return Cause("position", "ours reads other rows of the table")


def _attention(case: Case) -> Cause | None:
    if len(case.inputs) < 3:
        return None
    y, z = case.their_output, case.our_output
    for order in ((0, 1, 2, 3), (0, 2, 1, 3)):
        if any(a.ndim != 4 for a in case.inputs[:3]):
            return None
        q, k, v = (a.transpose(order) for a in case.inputs[:3])
        if k.shape[-1] != q.shape[-1]:
            k = k.swapaxes(-1, -2)
        if k.shape[-1] != q.shape[-1] or k.shape[:2] != q.shape[:2]:
            continue
        named: list[str | None] = []
        for side in (y, z):
            options = ((n, a) for n, a in formulas.attentions(q, k, v))
            named.append(next((n for n, a in options if _rearranged(a, side)), None))
        a, b = named
        if a and b and a != b:
            return Cause("attention", f"theirs: {a}; ours: {b}")
    return None


def _rearranged(a: Array, b: Array) -> bool:
    if a.size != b.size:
        return False
    return any(close(layout.apply(a), b) for layout in layouts(a.shape, b.shape))


def declared(theirs: Anchor, ours: Anchor) -> Cause | None:
    """Settings that differ as declared, where no recomputation confirms them."""
    a, b = theirs.node.attributes, ours.node.attributes
    known = ("epsilon", "stride", "padding", "dilation", "groups", "causal", "approximate")
    differing = [n for n in known if n in a and n in b and a[n] != b[n]]
    if not differing:
        return None
    text = ", ".join(f"{n} {a[n]} in theirs and {b[n]} in ours" for n in differing)
    return Cause(differing[0], f"declared: {text}", confirmed=False)


def _channel_axis(case: Case) -> int | None:
    x, size = case.inputs[0], max(w.size for w in case.their_weights.values())
    for axis in (1, x.ndim - 1):
        if x.shape[axis] == size and close(
            formulas.batch_norm(
                x, case.their_weights, _fitted(x, case.their_weights, case.their_output, axis), axis
            ),
            case.their_output,
        ):
            return axis
    return next((axis for axis in (1, x.ndim - 1) if x.shape[axis] == size), None)


def _epsilon(theirs: float, ours: float) -> str:
    a, b = short(theirs), short(ours)
    return f"epsilon is {a} in theirs, {b} in ours; with epsilon {a} the two agree"


def short(value: float) -> str:
    """A number as people write it: 1e-5, 0.001, 1.001e-05."""
    return f"{float(f'{value:.4g}'):g}"


def aligned(theirs: Array, ours: Array) -> Array | None:
    """Ours in theirs' layout; None if it has no such layout."""
    found = align(theirs, ours)
    return None if found is None else found[0].undo(ours, theirs.shape)


def pool_settings(node: Node, rank: int) -> dict[str, Any] | None:
    """The window and the stride of a pooling, one number for each axis; None if they are not known."""
    size = node.attributes.get("size") or node.attributes.get("pool_size")
    stride = node.attributes.get("stride") or node.attributes.get("strides") or size
    if size is None:
        return None
    return {
        n: list(v) if isinstance(v, list | tuple) else [v] * rank
        for n, v in (("size", size), ("stride", stride))
    }
