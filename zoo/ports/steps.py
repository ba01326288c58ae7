"""Two optimizers in processes of their own: on given gradients, and in the two models of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends as frameworks
from zoo import random, storage
from zoo._version import __version__
from zoo.errors import WrongConfiguration
from zoo.ladder.causes.compare import difference
from zoo.ladder.causes.trace import Array, arrays, named_by_step, steps_of
from zoo.ports.optimizers import Link, Record, draw_gradients, report
from zoo.ports.run import STEPS, Comparison, Findings, Step
from zoo.ports.weights import Carried
from zoo.processes import machine
from zoo.processes.builders import save_builder
from zoo.processes.scratch import scratch_folder

Arrays = Mapping[str, Array]
Optimizers = tuple[Any, Any]
TRAINED = 1e-9  # of the losses
SEED = 3
SHAPES = {"dense/kernel": (6, 4), "dense/bias": (4,)}


class OptimizerDiff(dict[str, Any]):
    """The result of `diff_optimizers`: see docs/diff.md for its keys."""

    @property
    def equal(self) -> bool:
        """Whether no difference beyond rounding was found."""
        return self["verdict"] == "equal"

    def __str__(self) -> str:
        from zoo.report.optimizers import text

        return text(self)

    def __repr__(self) -> str:
        return f"<OptimizerDiff: {self['verdict']}, {len(self['causes'])} causes>"


def diff_optimizers(
    theirs: Any,
    ours: Any,
    weights: Mapping[str, Any] | None = None,
    *,
    gradients: Sequence[Mapping[str, Any]] | None = None,
    backends: Sequence[str | None] = (None, None),
    out: str | Path | None = None,
    show: Callable[[str], None] | None = None,
) -> OptimizerDiff:
    """Compare two optimizers on the same gradients: the first step that differs, and why.

    `theirs` and `ours` are functions that return an optimizer, or "FILE.py:FUNCTION" or "MODULE:FUNCTION": of
    torch's a function of a module's `named_parameters()` that returns a torch.optim.Optimizer, or one with
    its scheduler, which steps after it; without arguments of an optax transformation or a Keras optimizer. An
    optax transformation can be given itself. Each runs in a process of its own, in float64; `backends` are
    those of Keras for each, by default KERAS_BACKEND's.

    `weights` are arrays by name, by default random ones of a dense layer; `gradients` one dict of arrays for
    each step, by default ten of random numbers of many orders of magnitude, as small ones show an epsilon.
    A cause is confirmed if theirs' formula, recomputed in NumPy with these settings of ours', gives ours'.

    Writes optimizers.json into `out`. `show` is a callback that receives what is being computed. Raises
    subclasses of ZooError: for wrong arguments before any process starts, and for a side that fails.
    """
    if out is not None:
        storage.check_folder("out", out)
    names = checked_backends(backends)
    given = weights or {n: random.generator(SEED, n).standard_normal(s) for n, s in SHAPES.items()}
    start = {name: np.asarray(x, np.float64) for name, x in given.items()}
    steps = _checked_gradients(start, gradients)
    with scratch_folder() as scratch:
        sources = save_optimizers(scratch, (theirs, ours))
        with Comparison(scratch, names, show or (lambda text: None)) as comparison:
            files = comparison.save("weights", start), comparison.save("gradients", named_by_step(steps))
            records = [on_gradients(comparison, s, sources[s], files[0], files[1]) for s in (0, 1)]
    found = report(records[0], records[1], [Link(name, name) for name in start])
    for side, source in (("theirs", theirs), ("ours", ours)):
        found[side]["source"] = name_of(source)
    holds = all(step["holds"] for step in found["steps"])
    result = OptimizerDiff(
        zoo=__version__, created=datetime.now(UTC).isoformat(timespec="seconds"),
        verdict="equal" if holds else "different", **found, environment=machine.environment(),
    )  # fmt: skip
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        storage.write_text(Path(out) / "optimizers.json", storage.json_text(result, default=str))
    return result


def checked_backends(backends: Sequence[str | None]) -> list[str]:
    """Theirs' and ours'. Raises WrongConfiguration, BackendError."""
    if len(backends) != 2:
        raise WrongConfiguration(f"backends: {len(backends)} names; expected two, theirs' and ours'")
    return [frameworks.checked(name, "diff") if name else frameworks.prefer() for name in backends]


def name_of(source: Any) -> str:
    """A function's name, or the text that names it."""
    return (
        source if isinstance(source, str) else getattr(source, "__name__", type(source).__name__).strip("<>")
    )


def save_optimizers(scratch: Path, optimizers: Sequence[Any]) -> list[str]:
    """Where each side finds the function of its optimizer."""
    if len(optimizers) != 2:
        raise WrongConfiguration(f"optimizers: {len(optimizers)} of them; expected two, theirs' and ours'")
    folders = [scratch / name for name in ("their-optimizer", "our-optimizer")]
    for folder in folders:
        folder.mkdir()
    return [save_builder(*pair) for pair in zip(folders, optimizers, strict=True)]


def _checked_gradients(
    weights: Arrays, gradients: Sequence[Mapping[str, Any]] | None
) -> list[dict[str, Array]]:
    if gradients is None:
        return draw_gradients(weights, STEPS)
    steps = [{name: np.asarray(x, np.float64) for name, x in each.items()} for each in gradients]
    for each in steps or [{}]:
        shapes, needed = ({n: x.shape for n, x in some.items()} for some in (each, weights))
        if shapes != needed:
            raise WrongConfiguration(f"gradients: shapes {shapes}; expected those of the weights, {needed}")
    return steps


def on_gradients(comparison: Comparison, side: int, source: str, weights: str, gradients: str) -> Record:
    """The steps of a side's optimizer on these gradients."""
    comparison.show(f"steps of {('theirs', 'ours')[side]}")
    answer = comparison.ask(
        side, "optimize", name="optimizer", source=source, weights=weights, gradients=gradients
    )
    return _record(comparison, side, answer)


def _record(comparison: Comparison, side: int, answer: Mapping[str, Any]) -> Record:
    found = [steps_of(arrays(comparison.path(side, f"optimizer-{n}.npz"))) for n in ("steps", "gradients")]
    return Record(answer["kind"], answer["settings"], answer["rates"], found[0], found[1])


def train_both(comparison: Comparison, findings: Findings, sources: Sequence[str]) -> dict[str, Any] | None:
    """What the two optimizers do in the two models: on theirs' gradients, then each on its model's own.

    Adds the steps to the findings. None if the outputs of the two have no common layout.
    """
    scratch, carried = comparison.scratch, findings.carried
    if not (scratch / "targets1.npz").exists():
        findings.steps.append(
            Step("optimizer steps", None, TRAINED, None, "the outputs have no common layout")
        )
        return None
    files = [scratch / "theirs.npz", scratch / "carried.npz"]

    def descend(side: int) -> dict[str, Any]:
        comparison.show(f"{STEPS} steps of {('theirs', 'ours')[side]}'s optimizer")
        return comparison.ask(
            side, "descend", name="optimizer", source=sources[side], weights=str(files[side]),
            targets=str(scratch / f"targets{side}.npz"), steps=STEPS,
            constants=(carried.unused, list(carried.constants))[side],
        )  # fmt: skip

    answers = [descend(0), descend(1)]
    theirs = _record(comparison, 0, answers[0])
    trained = _record(comparison, 1, answers[1]).weights[0]
    moved = Moved(carried, list(arrays(files[0])), theirs.weights[0], trained)
    start = comparison.save("trained", dict(trained))
    gradients = comparison.save("gradients", named_by_step(map(moved, theirs.gradients)))
    ours = on_gradients(comparison, 1, sources[1], start, gradients)
    found = report(theirs, ours, moved.links, [moved(each) for each in theirs.weights])
    findings.steps += [
        Step(s["name"], s["difference"], s["bound"], tuple(s["where"])) for s in found["steps"]
    ]
    losses = [answer["losses"] for answer in answers]
    gap = difference(*(np.array(each) for each in losses))
    note = f"losses {losses[0][0]:.6g} to {losses[0][-1]:.6g} and {losses[1][-1]:.6g}"
    findings.steps.append(Step(f"{STEPS} steps, each on its own gradients", gap.error, TRAINED, None, note))
    return found


class Moved:
    """Moves theirs' arrays to ours' names and layout, along the positions that weights were carried along."""

    def __init__(self, carried: Carried, names: Sequence[str], theirs: Arrays, ours: Arrays):
        self.carried, self.names = carried, names
        self.shapes = {n: ours[n].shape for n in carried.mapping if n in ours}
        self.links = []
        for name, shape in self.shapes.items():
            sources = [s for s in carried.mapping[name] if s in theirs]
            which = carried.positions[name][0].reshape(shape)
            placed = np.isin(which, [names.index(s) for s in sources])
            if sources:
                self.links.append(Link(sources[0], name, None if placed.all() else placed))
        order = {name: number for number, name in enumerate(names)}
        self.links.sort(key=lambda link: order[link.theirs])

    def __call__(self, arrays: Arrays) -> dict[str, Array]:
        """The arrays in ours' layout; elements that theirs lacks are 0."""
        found = {}
        for name, shape in self.shapes.items():
            which, where = self.carried.positions[name]
            flat = np.zeros(which.size)
            for source in self.carried.mapping[name]:
                here = which == self.names.index(source)
                if source in arrays:
                    flat[here] = arrays[source].ravel()[where[here]]
            found[name] = flat.reshape(shape)
        return found
