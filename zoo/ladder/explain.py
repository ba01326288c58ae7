"""The likely cause of a difference, from a recorded pass of both frameworks.

The first operation whose output differs has equal inputs. `zoo.ladder.causes` recomputes it in NumPy with
other settings, until the recomputation gives the outputs of both frameworks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

import zoo.ladder.causes as causes
import zoo.ladder.causes.training as of_training
from zoo._lazy import keras, ops
from zoo.backends.recording import Node
from zoo.ladder.bounds import Arrays, Process, Record
from zoo.ladder.causes import Case, Cause
from zoo.ladder.causes.compare import difference
from zoo.ladder.causes.trace import Anchor
from zoo.ladder.networks import Network
from zoo.ladder.run import ParityRun, load
from zoo.processes.workers import WorkerDied

Array = np.ndarray
# What counts as another output of an operation, and by how much a product in a coarser format may be off.
DIFFERENT = {"float64": 1e-10, "float32": 1e-5}
FORMAT = {"float64": causes.BOUND, "float32": 5e-6}


def record(network: Network, path: Path) -> None:
    """Write the operations and values of a pass in inference and one in training mode, run eagerly."""
    from zoo.backends.record_keras import load

    arrays: dict[str, Array] = {}
    nodes: dict[str, Any] = {}
    x, y = network.first(8)
    for mode in ("inference", "training"):
        model = network.build()
        given = x if isinstance(x, Mapping) else [x]
        recorded = load(model, given)
        arrays |= {f"weights/{name}": value for name, value in recorded.weights().items()}
        _, recorder = recorded.run(given, training=mode == "training")
        nodes[mode] = recorder.facts()
        arrays |= {f"{mode}/{label}": value for label, value in recorder.values.items()}
        arrays |= {f"indices/{mode}/{key}": indices for key, indices in recorder.indices.items()}
        arrays |= {f"state/{name}": value for name, value in recorded.weights().items()}
        arrays["penalty"] = np.array(float(ops.convert_to_numpy(sum(model.losses, start=ops.zeros(())))))
    if y is not None:
        arrays["targets"] = y
    path.with_suffix(".json").write_text(json.dumps(nodes, default=str))
    np.savez(path.with_suffix(".npz"), allow_pickle=False, **arrays)
    keras.utils.clear_session()


def initial_cause(layer: str, theirs: Arrays, ours: Arrays) -> Cause | None:
    """The cause of a difference on rung 1, in initial weights or dropout masks."""
    a, b = (side.get(f"initial/{layer}") for side in (theirs, ours))
    return None if a is None or b is None else of_training.of_initial(a, b)


class Recording:
    """What `record` wrote."""

    def __init__(self, path: Path):
        with np.load(path.with_suffix(".npz")) as stored:
            self.arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(path.with_suffix(".json").read_text())
        self.nodes = {mode: [Node(**node) for node in own] for mode, own in facts.items()}

    def weights(self, mode: str, node: Node, stored: str = "weights") -> dict[str, Array]:
        """The weights of an operation by role, before the pass or, if `stored` is "state", after training."""
        return {
            role: self.arrays[f"{stored}/{name}"].ravel()[self.arrays[f"indices/{mode}/{node.index}/{role}"]]
            for role, name in node.weights.items()
        }


@dataclass(frozen=True)
class Explanation:
    """The recordings of two frameworks, theirs and ours, in one float type."""

    theirs: Recording
    ours: Recording
    dtype: str

    def cause(self, row: Record, arrays: tuple[Arrays, Arrays]) -> Cause | None:
        """The cause of the difference in a row of rung 2 or 3; `arrays` are what both processes computed."""
        layer = row["where"]["layer"]
        if row["rung"] == 2 and layer.startswith("state/"):
            return self.of_state(layer.removeprefix("state/"))
        found = self.of_pass("inference") or self.of_pass("training")
        if found is not None or row["rung"] == 2 or self.dtype == "float32":
            return found
        loss, other = (float(side["gradients/loss"]) for side in arrays)
        penalties = float(self.theirs.arrays["penalty"]), float(self.ours.arrays["penalty"])
        *_, last = self.theirs.nodes["training"]
        logits = self.theirs.arrays.get(f"training/{last.outputs[0]}")
        targets = self.theirs.arrays.get("targets")
        if (found := of_training.of_loss(loss, other, penalties, logits, targets)) is not None:
            return found
        a, b = (side.get(f"gradients/{layer}") for side in arrays)
        if a is None or b is None:
            return None
        return of_training.of_gradient(a, b) or causes.of_values([], a, b)

    def of_pass(self, mode: str) -> Cause | None:
        """The cause of the first difference in a pass."""
        for mine, other, label, z_label in self.paired(mode):
            y, z = self.theirs.arrays[f"{mode}/{label}"], self.ours.arrays[f"{mode}/{z_label}"]
            if y.shape == z.shape and difference(y, z).within(DIFFERENT[self.dtype]):
                continue
            return self.of_operation(mode, mine, other, (y, z)) if y.shape == z.shape else None
        return None

    def paired(self, mode: str) -> Iterator[tuple[Node, Node, str, str]]:
        """The outputs of operations that both frameworks have, in order."""
        mine, other = self.theirs.nodes[mode], self.ours.nodes[mode]
        keys = [[(n.name, n.operation) for n in nodes] for nodes in (mine, other)]
        for block in SequenceMatcher(None, *keys, autojunk=False).get_matching_blocks():
            for i in range(block.size):
                a, b = mine[block.a + i], other[block.b + i]
                for label, z_label in zip(a.outputs, b.outputs, strict=False):
                    if f"{mode}/{label}" in self.theirs.arrays and f"{mode}/{z_label}" in self.ours.arrays:
                        yield a, b, label, z_label

    def of_operation(self, mode: str, mine: Node, other: Node, outputs: tuple[Array, Array]) -> Cause | None:
        """The cause of a difference within one operation."""
        arrays = self.theirs.arrays
        inputs = [x for x in (arrays.get(f"{mode}/{label}") for label in mine.inputs) if x is not None]
        if "drop" in mine.kind and inputs:
            return of_training.of_dropout(inputs[0], *outputs)
        a, b = (Anchor(n.index, n, n.kind, n.outputs[0], [n.inputs]) for n in (mine, other))
        weights, our_weights = self.theirs.weights(mode, mine), self.ours.weights(mode, other)
        found = None
        if inputs or mine.kind == "embedding":
            case = Case(a, b, inputs, weights, our_weights, *outputs, FORMAT[self.dtype])
            found = causes.of_operation(case)
            if found is None and (swapped := causes.of_operation(case.exchanged())) is not None:
                found = swapped.exchanged()
        if found is None and len(inputs) == 1 and inputs[0].shape == outputs[0].shape:
            found = causes.of_function(inputs[0], *outputs)
        if found is None and "pool" in mine.kind and len(inputs) == 1 and inputs[0].ndim > 2:
            settings = [causes.pool_settings(n, inputs[0].ndim - 2) for n in (mine, other)]
            x, y, z = (np.moveaxis(a, -1, 1) for a in (inputs[0], *outputs))
            if None not in settings and x.ndim == y.ndim:
                found = causes.of_pool(x, y, z, [s for s in settings if s is not None])
        if found is None or not found.confirmed:
            return None
        return found if self.dtype == "float64" or found.name in ("TF32", "precision") else None

    def of_state(self, layer: str) -> Cause | None:
        """The cause of a difference in the running statistics of a layer."""
        mode = "training"
        for mine, other, *_ in self.paired(mode):
            x = self.theirs.arrays.get(f"{mode}/{mine.inputs[0]}") if mine.inputs else None
            owners = {name.rpartition("/")[0] for name in mine.weights.values()}
            if mine.kind != "batch_norm" or layer not in owners or x is None:
                continue
            before = self.theirs.weights(mode, mine)
            after = self.theirs.weights(mode, mine, "state"), self.ours.weights(mode, other, "state")
            axis = mine.attributes.get("axis", -1)
            return of_training.of_statistics(x, axis if isinstance(axis, int) else -1, before, *after)
        return None


# In the main process


def explain(run: ParityRun, rows: Sequence[Record], faults: Mapping[str, str | None] | None = None) -> None:
    """Add the likely cause to the first row of each model and pair that fails on rungs 1 to 3.

    `faults` are those injected, by framework.
    """
    flow = [row for row in rows if row["verdict"] == "fails" and row["rung"] in (1, 2, 3) and row["where"]]
    first: dict[tuple[str, str, str], Record] = {}
    for row in sorted(flow, key=lambda row: (row["dtype"] != "float64", row["rung"])):
        first.setdefault((row["model"], row["a"], row["b"]), row)
    recordings: dict[tuple[str, str, str], Recording] = {}
    for (model, *pair), row in first.items():
        run.settings.progress(f"{model} · the cause of the difference on {' and '.join(pair)}")
        dtype, where = row["dtype"], row["where"]
        theirs, ours = (load(run.folder(name, dtype), model) for name in pair)
        if row["rung"] == 1:
            cause = initial_cause(where["layer"], theirs, ours)
        else:
            keys = [(model, name, dtype) for name in pair]
            try:
                recordings |= {
                    key: _recorded(run, *key, (faults or {}).get(key[1]))
                    for key in keys
                    if key not in recordings
                }
            except WorkerDied:  # a model that runs as a compiled graph alone
                continue
            a, b = (recordings[key] for key in keys)
            cause = Explanation(a, b, dtype).cause(row, (theirs, ours))
        if cause is not None:
            where |= {"cause": cause.name, "explanation": cause.of_sides(*pair)}


def _recorded(run: ParityRun, model: str, backend: str, dtype: str, fault: str | None) -> Recording:
    """The operations that a process computes of a model; those of a sound process are kept."""
    path = run.folder(backend, dtype) / f"{model}-recorded"
    if fault is not None or not path.with_suffix(".npz").exists():
        folder = dict(run.models)[model]
        run.ask(Process(backend, dtype), "record", model=model, folder=folder and str(folder), fault=fault)
    return Recording(path)
