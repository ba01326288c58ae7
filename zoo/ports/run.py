"""One comparison: the two processes, and what is computed of their arrays, step by step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import zoo.ladder.causes as causes
from zoo import random
from zoo.errors import WrongConfiguration
from zoo.ladder.causes.compare import BOUND, Difference, align, difference
from zoo.ladder.causes.trace import Anchor, Array, Trace, arrays
from zoo.ports.locate import Floor, Local, Locator, Side, compared, replacements, words
from zoo.ports.match import Matching, Pair, match
from zoo.ports.rows import Table
from zoo.ports.weights import Carried, Weights, carry, varied, with_one_bias
from zoo.processes.workers import Worker, WorkerDied

Item = TypeVar("Item")
SEED = 3
STEPS = 10  # of gradient descent
ROUNDS = 2  # of putting theirs' values in: layouts are clearer once the inputs are equal


@dataclass
class Step:
    """One thing that is compared, "outputs", "gradients" ...; `where` has both names of the worst tensor."""

    name: str
    difference: float | None
    bound: float
    where: tuple[str, str] | None = None
    note: str = ""
    arrays: list[tuple[str, str, float]] = field(default_factory=list)  # theirs, ours, their difference
    losses: list[list[float]] = field(default_factory=list)  # theirs' and ours at each step

    @property
    def holds(self) -> bool | None:
        """Whether the difference is rounding; None if it was not compared."""
        return None if self.difference is None else self.difference <= self.bound


@dataclass
class Findings:
    """What a comparison found."""

    matching: Matching
    carried: Carried
    kinds: tuple[str, str]
    our_inputs: str
    steps: list[Step] = field(default_factory=list)
    first: tuple[Pair, Difference, float] | None = None
    locals: list[Local] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)  # of zoo.ports.rows
    random: tuple[bool, bool] = (False, False)


def save_inputs(path: Path, inputs: Any) -> None:
    """One array, several, or a dict by name. Raises WrongConfiguration."""
    if isinstance(inputs, Mapping):
        named = {name: np.asarray(x) for name, x in inputs.items()}
    else:
        several = inputs if isinstance(inputs, list | tuple) else [inputs]
        named = {str(i): np.asarray(x) for i, x in enumerate(several)}
    if not named or any(x.dtype.kind not in "fiub" for x in named.values()):
        raise WrongConfiguration("inputs: expected an array of numbers, a list of them, or a dict by name")
    named = {n: x.astype(np.float64) if x.dtype.kind == "f" else x for n, x in named.items()}
    np.savez(path, allow_pickle=False, **named)  # type: ignore[arg-type]


class Comparison(AbstractContextManager["Comparison"]):
    """Two processes, theirs and ours, and the steps of comparing them."""

    def __init__(self, scratch: Path, backends: Sequence[str], show: Callable[[str], None]):
        self.scratch, self.show = scratch, show
        self.workers: list[Worker] = []
        self.counts = [0, 0]  # of the operations in a pass
        self.indices: list[dict[str, Array]] = []
        for name, backend in zip(("theirs", "ours"), backends, strict=True):
            self.workers.append(self.start(scratch / name, backend))

    def __exit__(self, *_: object) -> None:
        for worker in self.workers:
            worker.close()

    def start(self, folder: Path, backend: str) -> Worker:
        """A process for one side, on one thread of the CPU, which computes float64."""
        environment = {
            "OMP_NUM_THREADS": "1",
            "JAX_ENABLE_X64": "1",
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
        return Worker("zoo.ports.side", folder, backend, environment)

    def ask(self, side: int, command: str, **arguments: Any) -> dict[str, Any]:
        """A side's answer. Raises WrongConfiguration with the error of a side that ends."""
        name = ("theirs", "ours")[side]
        if command == "load":
            self.show(f"building {name}")
        try:
            answer: dict[str, Any] = {}
            for answer in self.workers[side].ask(command, **arguments):
                if (done := answer.get("operations")) is not None:
                    of = f" of {self.counts[side]}" if self.counts[side] else ""
                    self.show(f"running {name}: {done}{of} operations")
        except WorkerDied as error:
            text = str(error).removeprefix("WrongConfiguration: ")
            raise WrongConfiguration(f"{name}: {text}") from None
        return answer

    def counted(self, items: Iterable[Item], what: str, total: int) -> Iterator[Item]:
        """The items one by one, with how many are done as progress."""
        for number, item in enumerate(items, 1):
            self.show(f"{what}: {number} of {total} operations")
            yield item

    def path(self, side: int, name: str) -> Path:
        """A file of a side."""
        return self.workers[side].folder / name

    def record(
        self, side: int, name: str, weights: str | None = None, replacements: str | None = None
    ) -> Trace:
        """A pass of a side."""
        self.ask(side, "record", name=name, weights=weights, replacements=replacements)
        return Trace.load(self.path(side, name), self.indices[side])

    def outputs(self, side: int, name: str) -> list[Array]:
        """The model's outputs in a pass."""
        found = arrays(self.path(side, f"{name}-outputs.npz"))
        return [found[str(i)] for i in range(len(found))]

    def save(self, name: str, named: Weights) -> str:
        """Arrays for a side to read."""
        path = self.scratch / f"{name}.npz"
        np.savez(path, allow_pickle=False, **named)  # type: ignore[arg-type]
        return str(path)

    def run(
        self, sources: Sequence[str], inputs: Sequence[str], mapping: Mapping[str, str] | None
    ) -> Findings:
        """Everything, in order. Raises WrongConfiguration."""
        moves = inputs[0] == inputs[1]
        answers = [
            self.ask(side, "load", source=sources[side], inputs=inputs[side], moves=moves and side == 1)
            for side in (0, 1)
        ]
        self.indices = [arrays(self.path(side, "initial-indices.npz")) for side in (0, 1)]
        plain = [Trace.load(self.path(side, "initial"), self.indices[side]) for side in (0, 1)]
        weights = varied(plain[0], arrays(self.path(0, "initial.npz")))
        initial = arrays(self.path(1, "initial.npz"))
        self.counts = [len(trace.nodes) for trace in plain]
        self.show(f"matching {self.counts[0]} and {self.counts[1]} operations")
        matching = match(plain[0], plain[1])
        add_given(matching, mapping or {}, plain, weights, initial)
        weights = with_one_bias(matching, weights)
        given = self.save("theirs", weights)
        theirs = Side(self.record(0, "theirs", weights=given), weights, self.outputs(0, "theirs"))
        self.ask(0, "perturb", name="perturbed", weights=given)
        floor = Floor(theirs.trace.values, arrays(self.path(0, "perturbed-values.npz")))
        carried = carry(matching, weights, initial, {})
        ours, carried = self.carried(theirs, matching, carried, initial)
        kinds = answers[0]["kind"], answers[1]["kind"]
        findings = Findings(matching, carried, kinds, answers[1]["inputs"])
        self.compare(findings, theirs, ours, floor)
        if not theirs.trace.nodes or not ours.trace.nodes:
            findings.steps.append(
                Step("gradients", None, BOUND, None, "a side is a function that JAX cannot trace")
            )
            return findings
        self.train(findings, theirs, carried, training=all(a["trains"] for a in answers))
        return findings

    def carried(
        self, theirs: Side, matching: Matching, carried: Carried, initial: Weights
    ) -> tuple[Side, Carried]:
        """Ours with theirs' weights; dense layers behind a flatten with their inputs reordered."""
        ours = self.side("ours", carried.weights, self.save("carried", carried.weights))
        if orders := flatten_orders(theirs, ours, matching):
            carried = carry(matching, theirs.weights, initial, orders)
            ours = self.side("ours", carried.weights, self.save("carried", carried.weights))
        return ours, carried

    def side(
        self, name: str, weights: Weights, given: str | None = None, replaced: Weights | None = None
    ) -> Side:
        """A pass of ours with weights, which it has unless a file is given, and these values put in."""
        put_in = self.save(f"{name}-replacements", replaced) if replaced else None
        trace = self.record(1, name, weights=given, replacements=put_in)
        return Side(trace, weights, self.outputs(1, name), replaced or {})

    def compare(self, findings: Findings, theirs: Side, ours: Side, floor: Floor) -> None:
        """The outputs, the operations, and where a difference arises."""
        findings.steps.append(self.output_step(theirs, ours))
        count = len(findings.matching.pairs)
        pairs = compared(theirs, ours, findings.matching, floor)
        whole = list(self.counted(pairs, "comparing", count))
        apart = [(p, d, b) for p, _, d, b in whole if not d.within(b)]
        findings.first = apart[0] if apart else None
        for pair, _, gap, bound in whole:
            if pair.how == "order" and gap.within(bound):
                pair.how = "order, and equal values"
        worst = max(whole, key=lambda item: item[2].error / item[3], default=None)
        if worst is not None:
            pair, _, gap, bound = worst
            names = words(pair.theirs.node), words(pair.ours.node)
            findings.steps.append(Step("operations", _error(gap), bound, names))
        again = self.side("ours-again", ours.weights)
        findings.random = (False, any(
            not np.array_equal(a, b, equal_nan=True) for a, b in zip(ours.outputs, again.outputs, strict=True)
        ))  # fmt: skip
        if not theirs.trace.nodes or not ours.trace.nodes:
            return
        local = ours
        for number in range(ROUNDS):
            put_in = replacements(theirs, local, findings.matching, floor)
            local = self.side(f"local{number}", ours.weights, replaced=put_in)
        locator = Locator(theirs, local, findings.matching, floor)
        findings.locals = locator.differences(lambda pairs: self.counted(pairs, "finding causes", count))
        findings.rows = Table(theirs, ours, local, findings.matching, floor).records(
            whole,
            findings.locals,
            lambda done, total: self.show(f"aligning the others: {done} of {total} operations"),
        )

    def output_step(self, theirs: Side, ours: Side) -> Step:
        """The outputs of both, and the bound that a perturbation of theirs gives."""
        perturbed = self.outputs(0, "perturbed")
        worst = Step("outputs", 0.0, BOUND)
        if len(theirs.outputs) != len(ours.outputs):
            worst.note = f"{len(theirs.outputs)} outputs in theirs, {len(ours.outputs)} in ours"
        for number, (y, z) in enumerate(zip(theirs.outputs, ours.outputs, strict=False)):
            bound = Floor({"": y}, {"": perturbed[number]}).bound("")
            found = align(y, z, bound)
            name = (f"output {number} {y.shape}", f"output {number} {z.shape}")
            error = float("inf") if found is None else _error(found[1])
            if worst.where is None or error / bound > (worst.difference or 0) / worst.bound:
                worst = Step("outputs", error, bound, name, worst.note)
        return worst

    def train(self, findings: Findings, theirs: Side, carried: Carried, training: bool) -> None:
        """The gradients of both; in training mode too if both have it, with the state that it leaves."""
        pairs = [align(y, z) for y, z in zip(theirs.outputs, self.outputs(1, "ours"), strict=False)]
        if not pairs or any(pair is None for pair in pairs):
            return
        draws = [
            random.generator(SEED, "target", i).standard_normal(y.shape) for i, y in enumerate(theirs.outputs)
        ]
        moved = [pair[0].apply(t) for pair, t in zip(pairs, draws, strict=False) if pair]
        targets = [
            self.save(f"targets{s}", dict(zip(map(str, range(len(t))), t, strict=True)))
            for s, t in enumerate((draws[: len(moved)], moved))
        ]
        self.gradients(findings, theirs, carried, targets, "")
        if all(step.holds for step in findings.steps if step.name in ("outputs", "gradients")):
            self.descend(findings, theirs, carried, targets)
        if training:
            self.gradients(findings, theirs, carried, targets, ", training")
            for s in (0, 1):
                self.ask(s, "train", name="trained")
            states = [arrays(self.path(s, "trained-state.npz")) for s in (0, 1)]
            step = weights_step("state", states[0], states[1], theirs.weights, carried)
            step.note = step.note or state_note(findings.matching, states, theirs.weights)
            findings.steps.append(step)
        else:
            findings.steps.append(
                Step("training mode", None, BOUND, None, "not both can be set to it from outside")
            )

    def descend(self, findings: Findings, theirs: Side, carried: Carried, targets: Sequence[str]) -> None:
        """Steps of gradient descent, each side by its own gradients, without what one side alone has."""
        weights, losses = [dict(theirs.weights), dict(carried.weights)], []
        apart, alone = (carried.unused, list(carried.constants)), (set[str](), set[str]())
        rate = 0.0
        for number in range(STEPS):
            self.show(f"gradient descent: {number} of {STEPS} steps")
            losses.append([])
            for s in (0, 1):
                self.ask(s, "set", weights=self.save(f"step{s}", weights[s]))
                answer = self.ask(s, "gradients", name="step", targets=targets[s], training=False)
                losses[-1].append(answer["loss"])
                found = arrays(self.path(s, "step-gradients.npz"))
                alone[s].update(name for name in apart[s] if np.any(found.pop(name, 0.0)))
                length = sum(float(np.vdot(g, g)) for g in found.values()) or 1.0
                rate = rate or 0.01 * losses[0][0] / length  # the first step lowers the loss by about 1 %
                weights[s] |= {n: weights[s][n] - rate * g for n, g in found.items()}
        for s, kept in enumerate((theirs.weights, carried.weights)):
            self.ask(s, "set", weights=self.save(f"step{s}", kept))
        gap = difference(*(np.array([pair[s] for pair in losses]) for s in (0, 1)))
        note = (
            untied(carried)
            or trained_alone(*map(sorted, alone))
            or f"losses {losses[0][0]:.6g} to {losses[-1][0]:.6g}"
        )
        findings.steps.append(Step(f"{STEPS} steps", _error(gap), 1e-9, None, note, losses=losses))

    def gradients(
        self, findings: Findings, theirs: Side, carried: Carried, targets: Sequence[str], mode: str
    ) -> None:
        """The loss and the gradients in one mode."""
        self.show(f"gradients{mode}")
        losses = [
            self.ask(s, "gradients", name="gradients", targets=targets[s], training=bool(mode))["loss"]
            for s in (0, 1)
        ]
        found = [arrays(self.path(s, "gradients-gradients.npz")) for s in (0, 1)]
        findings.steps.append(_loss_step(f"loss{mode}", losses))
        findings.steps.append(weights_step(f"gradients{mode}", found[0], found[1], theirs.weights, carried))


def _loss_step(name: str, losses: Sequence[float]) -> Step:
    gap = difference(np.array([losses[0]]), np.array([losses[1]]))
    return Step(name, _error(gap), 1e-11)


def _error(gap: Difference) -> float:
    return float("inf") if gap.masks_differ else gap.error


def weights_step(name: str, theirs: Weights, ours: Weights, shapes: Weights, carried: Carried) -> Step:
    """Compare arrays named like weights in theirs' layout, through the positions they were carried along.

    An array is judged against the largest value of its operation's: in exact arithmetic the gradient of a
    key's bias is zero. Of a weight that is tied in theirs alone, ours' arrays are summed.
    """
    step = Step(name, 0.0, 1e-9)
    pairs = [(mine, source) for mine, sources in carried.mapping.items() for source in sources]
    lacking = {
        "ours": [m for m, s in pairs if s in theirs and m not in ours and np.any(theirs[s])],
        "theirs": [m for m, s in pairs if s not in theirs and m in ours and np.any(ours[m])],
    }
    for side, names in lacking.items():
        if names:
            step.note, step.difference = f"{side} lacks {', '.join(names[:4])}", float("inf")
            return step
    for source, expected in theirs.items():
        mine = [m for m, s in pairs if s == source and m in ours]
        if not mine:
            continue
        found, placed = _gathered(list(shapes).index(source), expected.shape, mine, ours, carried)
        scale = _scale(source, theirs)
        error = float(_error(difference(expected[placed] / scale, found[placed] / scale)))
        error *= min(1.0, float(np.abs(expected[placed]).max(initial=0)) / scale or 1.0)
        step.arrays.append((source, ", ".join(mine), error))
        if error > (step.difference or 0.0):
            step.difference, step.where = error, (source, ", ".join(mine))
    step.note = "" if theirs else "theirs changes nothing"
    return step


def _gathered(
    number: int, shape: tuple[int, ...], names: list[str], ours: Weights, carried: Carried
) -> tuple[Array, Array]:
    """The sum of ours' arrays in theirs' layout, and which elements they have."""
    found, placed = np.zeros(shape), np.zeros(shape, bool)
    for name in names:
        which, where = carried.positions[name]
        here = which == number
        np.add.at(found.reshape(-1), where[here], ours[name].ravel()[here])
        placed.reshape(-1)[where[here]] = True
    return found, placed


def _scale(name: str, arrays: Weights) -> float:
    """The largest value of the arrays of one operation."""
    owner = [part.rpartition("/" if "/" in part else ".")[0] for part in (name, *arrays)]
    values = (
        np.abs(a[np.isfinite(a)]).max(initial=0.0)
        for o, a in zip(owner[1:], arrays.values(), strict=True)
        if o == owner[0]
    )
    return float(max(values, default=0.0)) or 1.0


def untied(carried: Carried) -> str:
    """The weights that are one array in theirs and several in ours, in words."""
    users: dict[str, list[str]] = {}
    for mine, sources in carried.mapping.items():
        for source in sources:
            if np.array_equal(np.sort(carried.positions[mine][1]), np.arange(carried.weights[mine].size)):
                users.setdefault(source, []).append(mine)
    several = [f"{source} is {' and '.join(mine)}" for source, mine in users.items() if len(mine) > 1]
    return f"tied in theirs alone: {'; '.join(several)}" if several else ""


def trained_alone(theirs: Sequence[str], ours: Sequence[str]) -> str:
    """The weights with a gradient that the other side lacks, in words."""
    names = [*theirs, *ours]
    return f"without training what one side alone has: {', '.join(names[:4])}" if names else ""


def state_note(matching: Matching, states: Sequence[Weights], weights: Weights) -> str:
    """Why running statistics differ, with how many layers each reason explains."""
    counts: dict[str, int] = {}
    for pair in matching.pairs:
        names = [
            {r: n for r, (n, _) in a.weights.items() if r in ("mean", "variance")}
            for a in (pair.theirs, pair.ours)
        ]
        if pair.theirs.kind != "batch_norm" or any(
            len(n) < 2 or not set(n.values()) <= set(s) for n, s in zip(names, states, strict=True)
        ):
            continue
        after = [{r: s[n] for r, n in each.items()} for each, s in zip(names, states, strict=True)]
        before = {r: weights[n] for r, n in names[0].items()}
        for cause in causes.of_state(pair.theirs, pair.ours, before, (after[0], after[1])):
            sure = "" if cause.confirmed else " (not confirmed)"
            counts[f"{cause.name}: {cause.text}{sure}"] = (
                counts.get(f"{cause.name}: {cause.text}{sure}", 0) + 1
            )
    return "; ".join(f"{text}, {count} layers" for text, count in counts.items())


def flatten_orders(theirs: Side, ours: Side, matching: Matching) -> dict[int, Array]:
    """For dense layers behind a flatten: the order of theirs' inputs that ours' are in, by ours' anchor."""
    found = {}
    for pair in matching.pairs:
        if pair.theirs.kind != "dense" or not pair.theirs.slots[0] or not pair.ours.slots[0]:
            continue
        a, b = (_flattened(s.trace, anchor) for s, anchor in ((theirs, pair.theirs), (ours, pair.ours)))
        if a is None or b is None or (a.shape == b.shape and difference(a, b).error < 1e-6):
            continue
        best = align(a[:1], b[:1])
        if best is None or best[0].order == tuple(range(a.ndim)) or best[0].split != a[:1].shape:
            continue
        size = int(np.prod(a.shape[1:]))
        places = np.arange(size).reshape(a.shape[1:])
        found[pair.ours.key] = places.transpose([i - 1 for i in best[0].order[1:]]).ravel()
    return found


def _flattened(trace: Trace, anchor: Anchor) -> Array | None:
    """The value of rank 3 or more that a dense layer reads flattened."""
    label = anchor.slots[0][0]
    size = anchor.weights["kernel"][1].shape[1]
    while (node := trace.producer.get(label)) is not None and node.kind in (
        "move",
        "cast",
        "dropout",
        "flatten",
    ):
        label = trace.sources(node)[0]
        value = trace.values.get(label)
        if value is None:
            return None
        if value.ndim > 2 and int(np.prod(value.shape[1:])) == size:
            return value
    return None


def add_given(
    matching: Matching, mapping: Mapping[str, str], traces: Sequence[Trace], theirs: Weights, ours: Weights
) -> None:
    """Pairs that the user names by their weights replace those found. Raises WrongConfiguration."""
    for mine, other in mapping.items():
        sides = ((mine, traces[1], ours, "ours"), (other, traces[0], theirs, "theirs"))
        anchors = []
        for name, trace, weights, side in sides:
            if name not in weights:
                raise WrongConfiguration(
                    f"mapping: {side} has no weight {name!r}; it has {', '.join(list(weights)[:8])} ..."
                )
            anchors.append(
                next((a for a in trace.anchors.values() if name in (n for n, _ in a.weights.values())), None)
            )
        b, a = anchors
        if a is None or b is None:
            raise WrongConfiguration(f"mapping: {mine} or {other} is used by no operation that was recorded")
        matching.pairs = [p for p in matching.pairs if p.ours.key != b.key and p.theirs.key != a.key]
        matching.pairs.append(Pair(a, b, "given"))
        matching.only_theirs = [x for x in matching.only_theirs if x.key != a.key]
        matching.only_ours = [x for x in matching.only_ours if x.key != b.key]
    matching.pairs.sort(key=lambda p: (p.theirs.key, p.part or (0, 0)))
