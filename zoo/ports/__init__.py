"""Two independent implementations of a model: whether they are equal, where they first differ, and why.

trace       the operations of a recorded pass
match       the operations of both, paired by what they are and by their neighbours
weights     theirs' weights carried over to ours
compare     two tensors in different layouts
locate      the operations at which differences arise
rows        the operations of both sides next to each other
causes      what explains a difference, recomputed in NumPy (formulas)
side        one implementation in a process of its own
run         the two processes and the steps of a comparison
steps       two optimizers, in the models or alone
optimizers  where two optimizers differ, and why
rules       the update rules of optimizers in NumPy; declared, those that their settings stand for
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo import storage
from zoo._version import __version__
from zoo.ladder.causes.trace import arrays
from zoo.ports.locate import words
from zoo.ports.run import Comparison, Findings, save_inputs
from zoo.ports.steps import OptimizerDiff as OptimizerDiff
from zoo.ports.steps import checked_backends, name_of, save_optimizers, train_both
from zoo.ports.steps import diff_optimizers as diff_optimizers
from zoo.ports.weights import mapping_of
from zoo.processes import machine
from zoo.processes.builders import save_builder
from zoo.processes.scratch import scratch_folder


class Diff(dict[str, Any]):
    """The result of `diff`: see docs/diff.md for its keys."""

    @property
    def equal(self) -> bool:
        """Whether no difference beyond rounding was found."""
        return self["verdict"] == "equal"

    def __str__(self) -> str:
        from zoo.report.diff import text

        return text(self)

    def page(self) -> str:
        """The HTML page of the result: both sides' operations next to each other, in one file."""
        from zoo.report.diff_page import page

        return page(self)

    def _repr_html_(self) -> str:
        from zoo.report.templates import iframe

        return iframe("zoo diff", self.page())

    def __repr__(self) -> str:
        return f"<Diff: {self['verdict']}, {len(self['differences'])} differences>"


def diff(
    theirs: Any,
    ours: Any,
    inputs: Any,
    *,
    our_inputs: Any = None,
    mapping: Mapping[str, str] | None = None,
    optimizers: tuple[Any, Any] | None = None,
    save_mapping: str | Path | None = None,
    backends: Sequence[str | None] = (None, None),
    out: str | Path | None = None,
    show: Callable[[str], None] | None = None,
) -> Diff:
    """Compare two implementations of a model: where they first differ, and why.

    `theirs` and `ours` are functions that build a model, or "FILE.py:FUNCTION" or "MODULE:FUNCTION". A model
    is a torch.nn.Module, a Keras model on any backend, a tf.Module, a Flax NNX module, a Linen module with
    its variables, or a function of (weights, *inputs) with a dict of its weights. Each runs in a process of
    its own, in float64 and inference mode; `backends` are those of Keras for each, by default
    KERAS_BACKEND's.

    `inputs` is one array, a list, or a dict by name, in theirs' layout; where ours does not take them,
    channels are moved to the other end. `our_inputs` are ours' own. Theirs' weights are carried over, with
    random numbers in place of constant biases, scales and statistics. `mapping` names the weights of ours
    that come from one of theirs, {ours: theirs}, where the match that is found is wrong. `optimizers` are
    theirs' and ours', as of `diff_optimizers`: one step and ten are compared too. `save_mapping` is a file
    for the mapping that was found, with which `zoo.weights.convert` converts checkpoints.

    Writes diff.json and diff.html, a page with both sides' operations next to each other, into `out`. `show`
    is a callback that receives what is being computed. Raises subclasses of ZooError: for wrong arguments
    before any process starts, and for a side that fails with its error.
    """
    if out is not None:
        storage.check_folder("out", out)
    if save_mapping is not None:
        storage.check_folder("save_mapping", Path(save_mapping).parent)
    names = checked_backends(backends)
    with scratch_folder() as scratch:
        folders = [scratch / name for name in ("their-builder", "our-builder")]
        for folder in folders:
            folder.mkdir()
        sources = [save_builder(*pair) for pair in zip(folders, (theirs, ours), strict=True)]
        steppers = optimizers and save_optimizers(scratch, optimizers)
        files = [scratch / "inputs0.npz", scratch / "inputs0.npz"]
        save_inputs(files[0], inputs)
        if our_inputs is not None:
            files[1] = scratch / "inputs1.npz"
            save_inputs(files[1], our_inputs)
        with Comparison(scratch, names, show or (lambda text: None)) as comparison:
            findings = comparison.run(sources, [str(f) for f in files], mapping)
            if save_mapping is not None:
                mapping_of(findings.carried, arrays(scratch / "theirs.npz")).save(save_mapping)
            trained = steppers and train_both(comparison, findings, steppers)
    result = _result(findings, [name_of(theirs), name_of(ours)])
    result["optimizers"] = trained or None
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        storage.write_text(Path(out) / "diff.json", storage.json_text(result, default=str))
        storage.write_text(Path(out) / "diff.html", result.page())
    return result


def _rows(rows: Sequence[Mapping[str, Any]], *at: int | None) -> list[int]:
    """The numbers of the rows of an operation of theirs and one of ours."""
    found = (
        next((i for i, row in enumerate(rows) if row[side] and row[side]["index"] == index), None)
        for side, index in zip(("theirs", "ours"), at, strict=True)
    )
    return list(dict.fromkeys(i for i in found if i is not None))


def _result(findings: Findings, names: list[str]) -> Diff:
    differences = [{**each.facts(), "rows": _rows(findings.rows, *each.at)} for each in findings.locals]
    holds = all(step.holds is not False for step in findings.steps) and not differences
    first = findings.first
    carried = findings.carried
    return Diff(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        theirs={"source": names[0], "kind": findings.kinds[0]},
        ours={"source": names[1], "kind": findings.kinds[1], "inputs": findings.our_inputs},
        verdict="equal" if holds else "different",
        random=findings.random[1],
        steps=[
            {
                "name": s.name, "difference": s.difference, "bound": s.bound, "holds": s.holds,
                "where": s.where and list(s.where), "note": s.note,
                "arrays": [{"theirs": a, "ours": b, "difference": gap} for a, b, gap in s.arrays],
                "losses": s.losses,
            }
            for s in findings.steps
        ],
        first=first and {
            "theirs": words(first[0].theirs.node), "ours": words(first[0].ours.node), "bound": first[2],
            **first[1].facts(), "rows": _rows(findings.rows, first[0].theirs.node.index, None),
        },
        differences=differences,
        operations=findings.rows,
        matched={
            "pairs": [
                {"theirs": words(p.theirs.node), "ours": words(p.ours.node), "how": p.how}
                for p in findings.matching.pairs
            ],
            "only_theirs": [words(a.node) for a in findings.matching.only_theirs],
            "only_ours": [words(b.node) for b in findings.matching.only_ours],
        },
        weights={
            "mapping": {
                name: {"theirs": sources, "layout": carried.layouts[name]}
                for name, sources in carried.mapping.items()
            },
            "constants": carried.constants,
            "only_theirs": carried.unused,
            "only_ours": carried.initial,
            "conflicts": carried.conflicts,
            "guessed": carried.guessed,
        },
        environment=machine.environment(),
    )  # fmt: skip
