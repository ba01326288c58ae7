"""A chain of hashes: what an exact run computed, step by step, so that any machine can repeat and check it.

    runs/lenet5-2026-11-30/chain.json

has the options of the run, for every step its loss and a hash of its state (all variables and the optimizer's
arrays), and every `EVERY` steps a hash of each of them. The hash of a step is the SHA-256 of the one before
and of its own content: a change anywhere is found at its step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import storage
from zoo._lazy import keras, ops
from zoo.errors import DataUnavailable

if TYPE_CHECKING:
    from zoo.training.plan import Plan
    from zoo.training.run import Run

FILE = "chain.json"
EVERY = 25  # steps between two hashes of each variable


def fingerprint(arrays: Iterable[Any]) -> str:
    """The SHA-256 of arrays' shapes and bits, as hexadecimal digits; every NaN counts as the same."""
    found = hashlib.sha256()
    for array in arrays:
        x = np.array(array, order="C")
        if x.dtype.kind == "f":
            x[np.isnan(x)] = np.nan
        found.update(f"{x.dtype.str} {x.shape}".encode() + x.tobytes())
    return found.hexdigest()


def of_variables(model: keras.Model) -> dict[str, str]:
    """The hash of each variable, by its path."""
    return {v.path: fingerprint([ops.convert_to_numpy(v)]) for v in model.variables}


def of_run(run: Run) -> dict[str, str]:
    """Those of its model, and of the arrays of the optimizer state ("optimizer/momentum/head/kernel")."""
    run.trainer.sync()
    kept = {f"optimizer/{name}": fingerprint([x]) for name, x in run.trainer.state_dict().items()}
    return {**of_variables(run.model), **kept}


class Chain:
    """The steps of a run: `add` one after another."""

    def __init__(self, options: Mapping[str, Any], links: Sequence[Mapping[str, Any]] = ()):
        self.options, self.links = dict(options), [dict(link) for link in links]

    def add(self, loss: float, variables: Mapping[str, str]) -> dict[str, Any]:
        """The next step: its loss, and hashes of variables and optimizer state after it."""
        number, state = len(self.links) + 1, json.dumps(variables, sort_keys=True)
        link: dict[str, Any] = {
            "step": number,
            "loss": float(loss).hex(),
            "state": hashlib.sha256(state.encode()).hexdigest(),
        }
        if number % EVERY == 0:
            link["variables"] = dict(variables)
        link["hash"] = self._hash(link)
        self.links.append(link)
        return link

    def _hash(self, link: Mapping[str, Any], number: int | None = None) -> str:
        """The hash of a link after the first `number` ones."""
        before = self.links[:number]
        content = {name: value for name, value in link.items() if name != "hash"}
        text = json.dumps([before[-1]["hash"] if before else self.options, content], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def broken(self) -> int | None:
        """The first step that does not follow from those before; None if all do."""
        for number, link in enumerate(self.links):
            if link.get("step") != number + 1 or link.get("hash") != self._hash(link, number):
                return number + 1
        return None

    def write(self, folder: Path) -> None:
        """Write it into a run's folder."""
        content = {"options": self.options, "links": self.links}
        storage.write_text(folder / FILE, json.dumps(content, indent=0) + "\n")


def read(folder: Path) -> Chain:
    """The chain of a run's folder. Raises DataUnavailable where there is none, or none that can be read."""
    if not storage.is_file(folder / FILE):
        raise DataUnavailable(f"{folder}: no {FILE} in it; zoo train --exact writes one")
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return Chain(content["options"], content["links"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataUnavailable(f"{folder / FILE}: not a chain of hashes: {error}") from None


class Recorder:
    """Adds every step of a run to its chain."""

    def __init__(self, run: Run, chain: Chain):
        self.run, self.chain = run, chain

    def on_step(self, loss: float) -> dict[str, Any]:
        """After a step."""
        return self.chain.add(loss, of_run(self.run))


def recorder(plan: Plan, run: Run) -> Recorder | None:
    """The recorder of an exact run that is saved in a folder; None for others, and without earlier steps."""
    if not run.exact or plan.folder is None:
        return None
    if not run.losses:
        return Recorder(run, Chain(settings(plan)))
    try:
        earlier = read(plan.folder)
    except DataUnavailable:
        return None
    if len(earlier.links) < len(run.losses):
        return None
    return Recorder(run, Chain(earlier.options, earlier.links[: len(run.losses)]))


# Options that do not change what a run computes
INDIFFERENT = (
    "mode",
    "checkpoint",
    "out",
    "checkpoint_every",
    "keep",
    "keep_best",
    "resume",
    "progress",
    "watch",
    "callbacks",
)


def settings(plan: Plan) -> dict[str, Any]:
    """The model, the task and the options of a run as JSON has them, and the names of those it has not."""
    options = {
        name: getattr(plan.options, name) for name in type(plan.options).names() if name not in INDIFFERENT
    }
    plain = {name: x for name, x in options.items() if isinstance(x, str | int | float | bool)}
    other = sorted(name for name, x in options.items() if x is not None and name not in plain)
    task = plan.task if isinstance(plan.task, str) else None
    return {"model": plan.name, "task": task, "options": {**plain, "exact": True}, "objects": other}
