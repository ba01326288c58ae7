"""The update rules of optimizers in NumPy, with the conventions in which implementations differ.

With gradient g, weight w, rate a, decay d, and step t counted from 1:

    coupled decay        g <- g + d w
    direction            of a family, below: g; g / root; m / root ...
    trust ratio          x <- x |w| / |x|
    momentum             v <- mu v + (1 - dampening) x          (or of a x: the rate in the velocity)
    update               w <- w - a x - a d w                   (or - d w: decay that the rate does not scale)

The gradient may be clipped before all this, and the weight replaced by its moving average after some steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import Any

import numpy as np

Array = np.ndarray
State = dict[str, Any]

OUTSIDE, INSIDE = "outside the root", "inside the root"
BEFORE, INSIDE_BEFORE = f"{OUTSIDE}, before the bias correction", f"{INSIDE}, before the bias correction"
FLOOR, WITHIN, AFTER = "as a lower bound", "within the maximum", "after the maximum"
COUPLED, DECOUPLED = "coupled: added to the gradient", "decoupled, scaled by the rate"
UNSCALED = "decoupled, not scaled by the rate"


@dataclass(frozen=True)
class Rule:
    """One optimizer's formula for one weight. `rates` has the learning rate of each step."""

    family: str
    rates: tuple[float, ...]
    decay: float = 0.0
    decay_form: str = DECOUPLED
    decay_first: bool = False  # before the norm of the weight is computed
    momentum: float = 0.0
    dampening: float = 0.0
    dampens_first: bool = False
    nesterov: bool = False
    rate_in_velocity: bool = False
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 0.0
    epsilon_place: str = OUTSIDE
    epsilon_root: float = 0.0  # a second one, inside the root
    correction: str = "of both moments"
    amsgrad: str = "no"
    initial: float = 0.0
    centered: bool = False
    momentum_decay: float = inf  # of Nadam's schedule of beta 1
    trust: str = "no"
    clip: float = inf  # of the root mean square of the direction
    minimum_scale: float = 0.0  # of the weight's root mean square, by which the direction is multiplied
    relative_step: bool = False
    beta2_decay: float = 0.8
    factored_from: int = 2
    iterations: int = 5
    coefficients: tuple[float, ...] = (3.4445, -4.775, 2.0315)
    scale: str = "none"
    momentum_correction: bool = False
    maximize: bool = False
    late: bool = False  # each step applies the update of the one before
    float32_product: bool = False  # of the momenta of Nadam's schedule
    clip_value: float = inf  # of the gradient's elements
    clip_norm: float = inf  # of the gradient of each weight
    clip_global: tuple[float, float] = (inf, 0.0)  # of all gradients; and what is added to their norm
    norms: tuple[float, ...] = ()  # of all gradients, at each step
    average: float = 0.0  # momentum of the weight's moving average
    average_every: int = 0  # steps after which it replaces the weight; 0: never

    def rate(self, t: int) -> float:
        """The learning rate of a step."""
        return min(self.rates[t - 1], 1 / sqrt(t)) if self.relative_step else self.rates[t - 1]


def update(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    """The weight after step t, and the state in place."""
    w = _step(rule, state, w, _clipped(rule, g, t), t)
    if not rule.average_every:
        return w
    momentum = rule.average if t > 1 else 0.0
    state["average"] = momentum * state.get("average", 0.0) + (1 - momentum) * w
    return w if t % rule.average_every else state["average"]


def _clipped(rule: Rule, g: Array, t: int) -> Array:
    """The gradient, clipped."""
    if rule.clip_value < inf:
        g = np.clip(g, -rule.clip_value, rule.clip_value)
    if rule.clip_norm < inf:
        g = g * min(1.0, rule.clip_norm / float(np.linalg.norm(g)))
    limit, added = rule.clip_global
    return g * min(1.0, limit / (rule.norms[t - 1] + added)) if limit < inf else g


def _step(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    """The weight after step t without its average."""
    rate = rule.rate(t)
    g = -g if rule.maximize else g
    if rule.decay and rule.decay_form == COUPLED:
        g = g + rule.decay * w
    decayed = {COUPLED: 0.0, DECOUPLED: rule.rates[t - 1] * rule.decay, UNSCALED: rule.decay}[
        rule.decay_form
    ] * w
    if rule.decay_first:
        w, decayed = w - decayed, 0.0
    x = FAMILIES[rule.family](rule, state, w, g, t)
    if rule.trust == "with the decay":
        x, decayed = x + rule.decay * w, 0.0
    if rule.trust != "no":
        norms = float(np.linalg.norm(w)), float(np.linalg.norm(x))
        x = x * (norms[0] / norms[1] if all(norms) else 1.0)
    if rule.momentum and rule.family != "muon":
        return w - _velocity(rule, state, x, rate) - decayed
    return w - rate * x - decayed


def _velocity(rule: Rule, state: State, x: Array, rate: float) -> Array:
    """Momentum's step."""
    x = rate * x if rule.rate_in_velocity else x
    damped = (1 - rule.dampening) * x
    if "velocity" in state:
        velocity = rule.momentum * state["velocity"] + damped
    else:
        velocity = damped if rule.dampens_first else x
    state["velocity"] = velocity
    step = x + rule.momentum * velocity if rule.nesterov else velocity
    return step if rule.rate_in_velocity else rate * step


def _root(rule: Rule, v: Array, c: float = 1.0) -> Array:
    """The root of the second moment, with epsilon; c is the bias correction's divisor."""
    e = rule.epsilon
    if rule.epsilon_place == INSIDE:
        return np.sqrt(v / c + e)
    if rule.epsilon_place == INSIDE_BEFORE:
        return np.sqrt((v + e) / c)
    if rule.epsilon_place == BEFORE:
        return (np.sqrt(v) + e) / sqrt(c)
    return np.sqrt(v / c + rule.epsilon_root) + e


def _moments(rule: Rule, state: State, g: Array) -> tuple[Array, Array]:
    state["m"] = rule.beta1 * state.get("m", 0.0) + (1 - rule.beta1) * g
    state["v"] = rule.beta2 * state.get("v", rule.initial) + (1 - rule.beta2) * g * g
    return state["m"], state["v"]


def _sgd(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    return g


def _adam(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    m, v = _moments(rule, state, g)
    c2 = 1 - rule.beta2**t if rule.correction in ("of both moments", "of the second moment") else 1.0
    x = _first_moment(rule, state, m, g, t)
    if rule.amsgrad == "of the second moment before its bias correction":
        v = state["highest"] = np.maximum(state.get("highest", 0.0), v)
    elif rule.amsgrad == "of the second moment after its bias correction":
        v = c2 * np.maximum(state.get("highest", 0.0), v / c2)
        state["highest"] = v / c2
    return x / _root(rule, v, c2)


def _first_moment(rule: Rule, state: State, m: Array, g: Array, t: int) -> Array:
    """Adam's, or Nadam's with its schedule of beta 1."""
    b = rule.beta1
    if not rule.nesterov:
        return m / (1 - b**t if rule.correction in ("of both moments", "of the first moment") else 1.0)
    now, after = (
        b if rule.momentum_decay == inf else b * (1 - 0.5 * 0.96 ** (s * rule.momentum_decay))
        for s in (t, t + 1)
    )
    real = np.float32 if rule.float32_product else np.float64
    product = state["product"] = real(state.get("product", 1.0)) * real(now)
    product = float(product)
    return after * m / (1 - product * after) + (1 - now) * g / (1 - product)


def _radam(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    m, v = _moments(rule, state, g)
    c2, longest = 1 - rule.beta2**t, 2 / (1 - rule.beta2) - 1
    x, length = m / (1 - rule.beta1**t), longest - 2 * t * rule.beta2**t / c2
    if length <= 5:
        return x
    ratio = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
    return x * sqrt(ratio) / _root(rule, v, c2)


def _adamax(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    m = state["m"] = rule.beta1 * state.get("m", 0.0) + (1 - rule.beta1) * g
    within = rule.epsilon if rule.epsilon_place == WITHIN else 0.0
    u = state["u"] = np.maximum(rule.beta2 * state.get("u", 0.0), np.abs(g) + within)
    return m / (1 - rule.beta1**t) / (u + rule.epsilon - within)


def _rmsprop(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    v = state["v"] = rule.beta2 * state.get("v", rule.initial) + (1 - rule.beta2) * g * g
    if rule.centered:
        m = state["m"] = rule.beta2 * state.get("m", 0.0) + (1 - rule.beta2) * g
        v = v - m * m
    return g / _root(rule, v)


def _adagrad(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    total = state["sum"] = state.get("sum", rule.initial) + g * g
    return g / _root(rule, total)


def _adadelta(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    b = rule.beta2
    v = state["v"] = b * state.get("v", 0.0) + (1 - b) * g * g
    x = _root(rule, np.asarray(state.get("u", np.zeros_like(g)))) / _root(rule, v) * g
    state["u"] = b * state.get("u", 0.0) + (1 - b) * x * x
    return x


def _lion(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    m = state.get("m", 0.0)
    state["m"] = rule.beta2 * m + (1 - rule.beta2) * g
    return np.sign(rule.beta1 * m + (1 - rule.beta1) * g)


def _adafactor(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    share = t**-rule.beta2_decay
    added = rule.epsilon_place == INSIDE  # to the squares; else it is a lower bound
    squares = g * g + (rule.epsilon if added else 0.0)
    if g.ndim < 2 or sorted(g.shape)[-2] < rule.factored_from:
        v = state["v"] = (1 - share) * state.get("v", 0.0) + share * squares
    else:
        rows = state["rows"] = (1 - share) * state.get("rows", 0.0) + share * squares.mean(-1, keepdims=True)
        columns = state["columns"] = (1 - share) * state.get("columns", 0.0) + share * squares.mean(
            -2, keepdims=True
        )
        mean = rows.mean(-2, keepdims=True)
        v = rows * columns / (mean if added else np.maximum(mean, rule.epsilon))
    x = g / np.sqrt(v if added else np.maximum(v, rule.epsilon**2))
    x = x / max(1.0, _rms(x) / rule.clip)
    return x * max(rule.minimum_scale, _rms(w)) if rule.minimum_scale else x


def _rms(x: Array) -> float:
    return float(np.sqrt(np.mean(x * x)))


def _muon(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    b, bare = rule.momentum, (1 - rule.dampening) * g
    m = state["m"] = b * state.get("m", 0.0) + bare
    corrected = rule.momentum_correction
    x = m / (1 - b**t) if corrected else m
    if rule.nesterov:
        x = b * m / (1 - b ** (t + 1)) + bare / (1 - b**t) if corrected else b * m + bare
    rows, columns = x.shape
    x = x.T if rows > columns else x
    norm = float(np.linalg.norm(x))
    x = x / (max(norm, rule.epsilon) if rule.epsilon_place == FLOOR else norm + rule.epsilon)
    first, third, fifth = rule.coefficients
    for _ in range(rule.iterations):
        square = x @ x.T
        x = first * x + (third * square + fifth * square @ square) @ x
    return (x.T if rows > columns else x) * SCALES[rule.scale](rows, columns)


def _rprop(rule: Rule, state: State, w: Array, g: Array, t: int) -> Array:
    """`coefficients` are the two factors of an element's step, and its limits; `initial` is the first."""
    lower, higher, least, most = rule.coefficients
    before, size = state.get("g", np.zeros_like(g)), state.get("size", np.full_like(g, rule.initial))
    turn = g * before
    factor = np.where(turn > 0, higher, lower)
    size = state["size"] = np.where(turn == 0, size, np.clip(size * factor, least, most))
    state["g"] = np.where(turn < 0, 0.0, g)
    now, last = size * np.sign(state["g"]), state.get("x", np.zeros_like(g))
    state["x"] = now
    return np.where(turn < 0, 0.0, last) if rule.late else now


SCALES: dict[str, Callable[[int, int], float]] = {
    "none": lambda rows, columns: 1.0,
    "sqrt(max(1, rows / columns))": lambda rows, columns: sqrt(max(1.0, rows / columns)),
    "sqrt(max(1, columns / rows))": lambda rows, columns: sqrt(max(1.0, columns / rows)),
    "0.2 sqrt(max(rows, columns))": lambda rows, columns: 0.2 * sqrt(max(rows, columns)),
}
FAMILIES: dict[str, Callable[[Rule, State, Array, Array, int], Array]] = {
    "sgd": _sgd, "adam": _adam, "radam": _radam, "adamax": _adamax, "rmsprop": _rmsprop, "adagrad": _adagrad,
    "adadelta": _adadelta, "lion": _lion, "rprop": _rprop, "adafactor": _adafactor, "muon": _muon,
}  # fmt: skip


def elementwise(rule: Rule) -> bool:
    """Whether an element's update depends on no other element."""
    return rule.trust == "no" and rule.clip_norm == inf and rule.family not in ("adafactor", "muon")


def error(rule: Rule, weights: Sequence[Array], gradients: Sequence[Array]) -> float:
    """The largest error of the rule in steps from weights[t] to weights[t + 1], each from that recorded.

    Of the largest change in its step; rounding of the weight itself is left out.
    """
    state: State = {}
    worst = 0.0
    for t, g in enumerate(gradients, 1):
        before, after = weights[t - 1], weights[t]
        with np.errstate(all="ignore"):
            gap = np.abs(update(rule, state, before, g, t) - after).max(initial=0.0)
        rounding = 4 * np.finfo(np.float64).eps * float(np.abs(before).max(initial=0.0))
        change = float(np.abs(after - before).max(initial=0.0))
        gap = max(0.0, float(gap) - rounding) if np.isfinite(gap) else inf
        worst = max(worst, gap / change if change else (0.0 if gap == 0 else inf))
    return worst


def with_fields(rule: Rule, other: Rule, names: Sequence[str]) -> Rule:
    """The rule with these fields of another."""
    return replace(rule, **{name: getattr(other, name) for name in names})
