"""Two optimizers on the same gradients: the first weight that they change differently, and why.

The rule of each side is the one that its settings declare, if the recorded steps follow it, else one near it
or near the other side's that they do follow. A cause is a setting in which the two rules differ. It is
confirmed: theirs' rule with only these settings changed gives ours' steps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from math import hypot, inf
from typing import Any

import numpy as np

from zoo import random
from zoo.ports.declared import rule_of
from zoo.ports.rules import (
    BEFORE,
    COUPLED,
    DECOUPLED,
    INSIDE,
    INSIDE_BEFORE,
    OUTSIDE,
    UNSCALED,
    WITHIN,
    Rule,
    elementwise,
    error,
    update,
    with_fields,
)

Array = np.ndarray
Arrays = Mapping[str, Array]
BOUND = 1e-9  # of the largest change of a weight in a step
FLOAT32 = 5e-7  # the same for an optimizer that computes a part of its update in float32
TORCH_ADDS = 1e-6  # to the norm, in torch.nn.utils.clip_grad_norm_
SEED = 3
SAMPLE = 2048  # elements of a weight that rules are tried on
EXPLAINED, UNEXPLAINED = 64, 2  # weights whose causes are sought, and of these without one


@dataclass
class Record:
    """The steps of one side: its weights before the first step and after each, and the gradients."""

    kind: str
    settings: dict[str, dict[str, Any]]
    rates: list[float | None]
    weights: Sequence[Arrays]
    gradients: Sequence[Arrays]

    @cached_property
    def known_rates(self) -> tuple[float, ...]:
        """The learning rates, 1 where they are not declared."""
        return tuple(1.0 if rate is None else rate for rate in self.rates)

    @cached_property
    def norms(self) -> tuple[float, ...]:
        """The norm of all gradients at each step."""
        return tuple(hypot(*(float(np.linalg.norm(g)) for g in each.values())) for each in self.gradients)


@dataclass(frozen=True)
class Link:
    """A weight of ours and the one of theirs that it comes from.

    `placed` has the elements of ours that come from theirs; None stands for all.
    """

    theirs: str
    ours: str
    placed: Array | None = None


@dataclass(frozen=True)
class Gap:
    """A difference of two updates, of the largest change in its step."""

    step: int
    link: Link
    error: float
    index: tuple[int, ...]
    values: tuple[float, float]  # the changes of the element in the step

    def facts(self) -> dict[str, Any]:
        """The gap as JSON."""
        return {
            "step": self.step, "theirs": self.link.theirs, "ours": self.link.ours, "difference": self.error,
            "index": list(self.index), "their_update": self.values[0], "our_update": self.values[1],
        }  # fmt: skip


def gaps(expected: Sequence[Arrays], ours: Record, links: Sequence[Link]) -> list[list[Gap]]:
    """For each step the gap of each weight. `expected` are theirs' weights with ours' names and layout."""
    return [[_gap(expected, ours, link, step) for link in links] for step in range(1, len(expected))]


def _gap(theirs: Sequence[Arrays], ours: Record, link: Link, step: int) -> Gap:
    now, before = (ours.weights[i][link.ours] for i in (step, step - 1))
    expected, first = (theirs[i][link.ours] for i in (step, step - 1))
    if link.placed is not None:
        expected, first = np.where(link.placed, expected, now), np.where(link.placed, first, before)
    apart = np.abs(expected - now)
    apart = np.where(np.isfinite(apart), apart, np.where(np.isfinite(expected) == np.isfinite(now), 0.0, inf))
    index = tuple(int(i) for i in np.unravel_index(int(apart.argmax()), apart.shape))
    rounding = 8 * step * np.finfo(np.float64).eps * float(np.abs(expected).max(initial=0.0))
    change = max(
        float(np.abs(expected - first).max(initial=0.0)), float(np.abs(now - before).max(initial=0.0))
    )
    gap = max(0.0, float(apart[index]) - rounding)
    values = (float((expected - first)[index]), float((now - before)[index]))
    return Gap(step, link, gap / change if change else float(gap > 0), index, values)


@dataclass(frozen=True)
class Cause:
    """A setting in which the two rules differ, in words."""

    name: str
    text: str
    confirmed: bool = True


def explain(theirs: Record, ours: Record, link: Link) -> list[Cause]:
    """Why a weight is changed differently; empty if it is not found."""
    mine, other = _steps(ours, link.ours), _steps(theirs, link.theirs)
    declared = [_declared(theirs, link.theirs), _declared(ours, link.ours)]
    their_rule = fitted(declared[0], declared[1], *other)
    our_rule = fitted(declared[1], their_rule or declared[0], *mine)
    if their_rule is None or our_rule is None:
        return []
    errors = error(their_rule, *other), error(our_rule, *mine)
    bound = max(BOUND, 2 * errors[1])
    changed = [
        f.name for f in fields(Rule) if not _same(getattr(their_rule, f.name), getattr(our_rule, f.name))
    ]
    for name in list(changed):  # what makes no difference here is no cause
        fewer = [n for n in changed if n != name]
        if error(with_fields(their_rule, our_rule, fewer), *mine) <= bound:
            changed = fewer
    confirmed = error(with_fields(their_rule, our_rule, changed), *mine) <= bound
    if max(errors) > BOUND and np.allclose(their_rule.rates, our_rule.rates, rtol=FLOAT32, atol=0):
        changed = [name for name in changed if name != "rates"]  # the same rates, as float32 has them
    causes = [_cause(name, their_rule, our_rule, confirmed) for name in changed]
    for side, value in zip(("theirs", "ours"), errors, strict=True):
        if value > BOUND:
            causes.append(Cause("precision", f"{side} computes a part of its update in float32"))
    return causes


def _declared(record: Record, name: str) -> Rule | None:
    rule = rule_of(record.kind, record.settings[name], record.known_rates, record.weights[0][name].ndim)
    return rule and replace(rule, norms=record.norms)


def _steps(record: Record, name: str) -> tuple[list[Array], list[Array]]:
    return [w[name] for w in record.weights], [g[name] for g in record.gradients]


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple):
        return len(a) == len(b) and bool(np.allclose(a, b, rtol=BOUND, atol=0))
    return a == b


NUMBERS: dict[str, tuple[float, ...]] = {
    "epsilon": (0.0, 1e-16, 1e-12, 1e-10, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3),
    "decay": (0.0, 1e-4, 1e-3, 5e-4, 4e-3, 1e-2, 5e-2, 0.1),
    "momentum": (0.0, 0.8, 0.9, 0.95, 0.99),
    "dampening": (0.0, 0.1, 0.5, 0.9),
    "beta1": (0.0, 0.5, 0.8, 0.9, 0.95, 0.99),
    "beta2": (0.9, 0.95, 0.98, 0.99, 0.995, 0.999),
    "initial": (0.0, 0.1, 1.0),
}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "epsilon_place": (OUTSIDE, BEFORE, INSIDE, INSIDE_BEFORE, WITHIN),
    "correction": ("of both moments", "of the first moment", "of the second moment", "none"),
    "decay_form": (COUPLED, DECOUPLED, UNSCALED),
    "amsgrad": (
        "no", "of the second moment before its bias correction",
        "of the second moment after its bias correction",
    ),
    "nesterov": (False, True),
    "rate_in_velocity": (False, True),
    "dampens_first": (False, True),
    "trust": ("no", "with the decay", "without the decay"),
    "decay_first": (False, True),
    "centered": (False, True),
    "maximize": (False, True),
    "late": (False, True),
    "clip_value": (inf, 0.5, 1.0, 5.0),
    "clip_norm": (),  # only those declared on one side, as for the average
    "clip_global": ((inf, 0.0), (0.5, 0.0), (1.0, 0.0), (5.0, 0.0)),
    "average": (),
    "average_every": (0,),
    **NUMBERS,
}  # fmt: skip


# Changes, bound, and whether rates are fitted: last, as a schedule of rates can do what clipping does.
SEARCH = (
    (1, BOUND, False), (0, FLOAT32, False), (0, BOUND, True), (1, BOUND, True), (0, FLOAT32, True),
    (2, BOUND, True),
)  # fmt: skip


def fitted(
    declared: Rule | None, other: Rule | None, weights: Sequence[Array], gradients: Sequence[Array]
) -> Rule | None:
    """The rule that the steps follow: as declared, or changed in one or two settings; None if not found."""
    known = [rule for rule in (declared, other) if rule is not None]
    if declared is not None and error(declared, weights, gradients) <= BOUND:
        return declared
    small = _sample(known, weights, gradients)
    for changes, bound, fit in SEARCH:
        for rule in known:
            for candidate in _variants(rule, known, changes):
                for tried in (candidate, _with_rates(candidate, *small))[: 1 + fit]:
                    if error(tried, *small) <= bound and error(tried, weights, gradients) <= bound:
                        return tried
    return None


def _sample(
    rules: Sequence[Rule], weights: Sequence[Array], gradients: Sequence[Array]
) -> tuple[list[Array], list[Array]]:
    """Some elements of each array if the update of an element depends on no other."""
    if not all(map(elementwise, rules)):
        return list(weights), list(gradients)
    size = weights[0].size
    chosen = random.generator(SEED, "elements").permutation(size)[:SAMPLE] if size > SAMPLE else slice(None)
    return [w.ravel()[chosen] for w in weights], [g.ravel()[chosen] for g in gradients]


def _variants(rule: Rule, known: Sequence[Rule], changes: int) -> Iterator[Rule]:
    """The rule with that many settings changed, in turn."""
    values = {
        name: tuple(dict.fromkeys((*(getattr(r, name) for r in known), *options)))
        for name, options in OPTIONS.items()
    }
    values["clip_global"] += tuple((limit, TORCH_ADDS) for limit, _ in values["clip_global"] if limit < inf)
    for names in itertools.combinations(values, changes):
        for combination in itertools.product(*(values[name] for name in names)):
            pairs = dict(zip(names, combination, strict=True))
            if all(getattr(rule, name) != value for name, value in pairs.items()):
                yield replace(rule, **pairs)


def _with_rates(rule: Rule, weights: Sequence[Array], gradients: Sequence[Array]) -> Rule:
    """The rule with the learning rates that fit best, for a rule whose update is proportional to them."""
    if (
        rule.rate_in_velocity
        or rule.relative_step
        or rule.average_every
        or (rule.decay and rule.decay_form == UNSCALED)
    ):
        return rule
    unit, state, rates = replace(rule, rates=(1.0,) * len(gradients)), {}, []
    for t, g in enumerate(gradients, 1):
        with np.errstate(all="ignore"):
            full = weights[t - 1] - update(unit, state, weights[t - 1], g, t)
        norm = float(np.vdot(full, full))
        fit = float(np.vdot(full, weights[t - 1] - weights[t])) / norm if norm and np.isfinite(norm) else 0.0
        rates.append(fit)
    return replace(rule, rates=tuple(rates))


def _cause(name: str, theirs: Rule, ours: Rule, confirmed: bool) -> Cause:
    if name == "rates":
        return Cause(*_rates(theirs.rates, ours.rates), confirmed)
    words = NAMES.get(name, name.replace("_", " "))
    if name == "epsilon_place":
        text = f"theirs adds epsilon {theirs.epsilon_place}, ours {ours.epsilon_place}"
    elif name in FLAGS:
        verb, true, false = FLAGS[name]
        choice = [true if getattr(rule, name) else false for rule in (theirs, ours)]
        text = f"theirs {verb}{choice[0]}, ours {choice[1]}"
    else:
        text = f"{words} is {_value(name, theirs)} in theirs, {_value(name, ours)} in ours"
    return Cause(words, text, confirmed)


NAMES = {
    "family": "algorithm", "decay": "weight decay", "decay_form": "weight decay's form",
    "decay_first": "order of the decay", "rate_in_velocity": "rate in the velocity", "beta1": "beta 1",
    "beta2": "beta 2", "epsilon_place": "epsilon's place", "epsilon_root": "epsilon inside the root",
    "correction": "bias correction", "amsgrad": "AMSGrad's maximum", "initial": "initial accumulator",
    "momentum_decay": "decay of Nadam's momentum schedule", "trust": "trust ratio",
    "clip": "clipping of the update", "minimum_scale": "scale by the weight",
    "relative_step": "relative step",
    "beta2_decay": "decay of beta 2", "factored_from": "smallest factored size",
    "dampens_first": "first step",
    "momentum_correction": "bias correction of the momentum", "nesterov": "Nesterov",
    "scale": "scale by the shape",
    "late": "update one step late", "float32_product": "precision",
    "clip_value": "largest element of a gradient", "clip_norm": "largest norm of a gradient",
    "clip_global": "largest norm of all gradients", "norms": "norm of all gradients",
    "average": "momentum of the weights' average", "average_every": "a weight's replacement by its average",
}  # fmt: skip
FLAGS = {
    "decay_first": ("decays the weight ", "before its norm is computed", "afterwards"),
    "rate_in_velocity": (
        "multiplies ", "the gradient by the rate before it enters the velocity", "the velocity by the rate",
    ),
    "dampens_first": ("", "dampens the first gradient", "does not dampen the first gradient"),
    "nesterov": ("", "has Nesterov's momentum", "has none of Nesterov's"),
    "centered": ("", "subtracts the squared mean gradient", "subtracts no mean gradient"),
    "relative_step": ("", "limits the rate to 1 / sqrt(step)", "does not limit the rate"),
    "momentum_correction": ("", "corrects the momentum's bias", "does not correct the momentum's bias"),
    "late": ("applies ", "the update of the step before", "the update of the step itself"),
    "float32_product": ("", "multiplies the momenta in float32", "in float64"),
    "maximize": ("", "adds the update (it maximizes)", "subtracts it"),
}  # fmt: skip


def _value(name: str, rule: Rule) -> str:
    value = getattr(rule, name)
    if name == "clip_global":
        limit, added = value
        return "none" if limit == inf else f"{limit:g}" + f" (with {added:g} added to it)" * bool(added)
    if name == "average_every":
        return f"every {value} steps" if value else "never"
    if isinstance(value, float):
        return "none" if value == inf else f"{value:g}"
    return f"({', '.join(f'{v:g}' for v in value)})" if isinstance(value, tuple) else str(value)


def _rates(theirs: Sequence[float], ours: Sequence[float]) -> tuple[str, str]:
    apart = [t for t, (a, b) in enumerate(zip(theirs, ours, strict=True)) if abs(a - b) > BOUND * abs(a)]
    first = apart[0]
    factors = {round(b / a, 9) for a, b in zip(theirs, ours, strict=True) if a}
    if len(factors) == 1:
        return "learning rate", f"theirs' is {theirs[first]:.9g}, ours' {ours[first]:.9g}"
    where = f"at step {first + 1} theirs' rate is {theirs[first]:.9g}, ours' {ours[first]:.9g}"
    if len(theirs) > first + 1 and theirs[first] == ours[first + 1]:
        where += ": ours' schedule is one step behind"
    return "schedule", where


def report(
    theirs: Record, ours: Record, links: Sequence[Link], expected: Sequence[Arrays] | None = None
) -> dict[str, Any]:
    """What two optimizers do on the same gradients: steps, the first difference and its causes, as JSON.

    `expected` are theirs' weights by ours' names, in ours' layout; by default the names are the same.
    """
    found = gaps(theirs.weights if expected is None else expected, ours, links)
    steps = []
    for number in dict.fromkeys((1, len(found))):
        worst = max(found[number - 1], key=lambda gap: gap.error)
        steps.append(
            {
                "name": f"{number} optimizer step{'s' * (number > 1)}", "difference": worst.error,
                "bound": BOUND,
                "holds": worst.error <= BOUND, "where": [worst.link.theirs, worst.link.ours], "note": "",
            }
        )  # fmt: skip
    apart: dict[str, Gap] = {}
    for step in found:
        for gap in step:
            if gap.error > BOUND:
                apart.setdefault(gap.link.ours, gap)
    first = min(apart.values(), key=lambda gap: gap.step, default=None)
    causes: dict[Cause | None, list[str]] = {}
    for gap in sorted(apart.values(), key=lambda gap: gap.step)[:EXPLAINED]:
        if len(causes.get(None, ())) < UNEXPLAINED:  # a search in vain is long
            for cause in explain(theirs, ours, gap.link) or [None]:
                causes.setdefault(cause, []).append(gap.link.ours)
    return {
        "theirs": {"kind": theirs.kind}, "ours": {"kind": ours.kind}, "steps": steps,
        "first": first and first.facts(),
        "weights": len(links), "apart": len(apart),
        "causes": [
            {
                "cause": cause and cause.name, "explanation": cause and cause.text,
                "confirmed": bool(cause and cause.confirmed), "weights": names,
            }
            for cause, names in causes.items()
        ],
    }  # fmt: skip


def draw_gradients(weights: Arrays, steps: int) -> list[dict[str, Array]]:
    """Random gradients over many orders of magnitude, as small ones show an epsilon; some have zeros."""
    drawn = []
    for step in range(steps):
        drawn.append({})
        for name, w in weights.items():
            draw = random.generator(SEED, name, step)
            scales = 10.0 ** random.generator(SEED, name).uniform(
                -8, 1, w.shape
            )  # of an element, in all steps
            drawn[-1][name] = draw.standard_normal(w.shape) * scales
    return drawn
