"""A recorded pass of one side: its operations, and the anchors, by which two implementations are matched.

An anchor is an operation with weights or an attention. A bias that is added by itself belongs to the product
before it, and two products with a softmax between them are one attention: a fused operation of one side then
has one anchor as the separate operations of the other.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo.backends.recording import Node

Array = np.ndarray
NORMS = ("batch_norm", "layer_norm", "rms_norm", "group_norm")
KNOWN = ("conv", "dense", "embedding", "lstm", *NORMS)


@dataclass
class Anchor:
    """An operation that is matched: `slots` are the ids of its data inputs, `weights` by role."""

    key: int
    node: Node
    kind: str
    output: str
    slots: list[list[str]]
    weights: dict[str, tuple[str, Array]] = field(default_factory=dict)

    @property
    def signature(self) -> tuple[Any, ...]:
        """What does not depend on the layout: the kind, and the shape of the kernel as (out, in, ...)."""
        if self.kind in ("conv", "dense") and "kernel" in self.weights:
            return ("linear", *(n for n in self.weights["kernel"][1].shape if n > 1))
        if self.kind == "embedding":
            return (self.kind, *self.weights["kernel"][1].shape)
        if self.kind in ("layer_norm", "rms_norm", "affine"):  # written out, a norm ends in its scale
            return ("scale", max((i.size for _, i in self.weights.values()), default=0))
        if self.kind in KNOWN:
            return (self.kind, max((i.size for _, i in self.weights.values()), default=0))
        if self.kind == "attention":
            return (self.kind,)
        return ("parameter", *sorted(i.size for _, i in self.weights.values()))


class Trace:
    """The operations and values of one pass, as a recorder wrote them."""

    def __init__(self, nodes: list[Node], indices: dict[str, Array], values: dict[str, Array]):
        self.nodes, self.indices, self.values = nodes, indices, values
        self.producer = {label: node for node in nodes for label in node.outputs}
        self.consumers: dict[str, list[Node]] = {}
        for node in nodes:
            for label in node.inputs:
                self.consumers.setdefault(label, []).append(node)
        self.anchors: dict[int, Anchor] = {}
        self._find_anchors()
        self.by_output = {anchor.output: anchor for anchor in self.anchors.values()}

    @classmethod
    def load(cls, path: Path, indices: dict[str, Array]) -> Trace:
        """Read PATH.json and PATH-values.npz; `indices` are those of the first pass."""
        nodes = [Node(**facts) for facts in json.loads(path.with_suffix(".json").read_text())]
        return cls(nodes, indices, arrays(Path(f"{path}-values.npz")))

    def sources(self, node: Node) -> list[str]:
        """The inputs of an operation; one of unknown origin is taken for the output before it."""
        before = self.nodes[node.index - 1].outputs[0] if node.index else "input0"
        return [label or before for label in node.inputs]

    def ancestors(self, label: str, ends: Container[str] | None = None) -> Iterator[Node]:
        """The operations that a value is computed by, up to `ends`, by default the anchors, left out."""
        ends = self.by_output if ends is None else ends
        seen, stack = set(), [label]
        while stack:
            node = self.producer.get(current := stack.pop())
            if node is None or node.index in seen or current in ends:
                continue
            seen.add(node.index)
            yield node
            stack += self.sources(node)

    def before(self, label: str) -> set[int]:
        """The keys of the anchors that a value depends on directly; -1 - n is input n."""
        found, seen, stack = set(), set(), [label]
        while stack:
            current = stack.pop()
            if current in seen:
                continue
            seen.add(current)
            if current in self.by_output:
                found.add(self.by_output[current].key)
            elif current in self.producer:
                stack += self.sources(self.producer[current])
            elif current.startswith("input"):
                found.add(-1 - int(current.removeprefix("input")))
        return found

    def _find_anchors(self) -> None:
        for node in self.nodes:
            if node.weights or node.kind in ("attention", "product"):
                self._add(node)
        for anchor in self.anchors.values():
            if anchor.kind == "parameter" and anchor.node.kind == "mul" and len(anchor.weights) == 1:
                name, indices = next(iter(anchor.weights.values()))
                if indices.size == max(indices.shape, default=0) > 1:
                    anchor.kind, anchor.weights = "affine", {"scale": (name, indices.ravel())}
        for anchor in list(self.anchors.values()):
            self._join_shift(anchor)
        self.by_output = {anchor.output: anchor for anchor in self.anchors.values()}
        for anchor in list(self.anchors.values()):
            if anchor.kind == "product":
                self._join_attention(anchor)
        self.anchors = {k: a for k, a in self.anchors.items() if a.kind != "product"}

    def _add(self, node: Node) -> None:
        weights = {r: (name, self.indices[f"{node.index}/{r}"]) for r, name in node.weights.items()}
        labels = self.sources(node)
        bias = next(iter(weights.values()), None)
        before = self.producer.get(labels[0]) if labels else None
        last = self.anchors.get(before.index) if before else None
        if (
            node.kind in ("add", "bias_add") and len(weights) == 1 and bias is not None and len(labels) == 1
            and last is not None and last.kind in ("conv", "dense") and "bias" not in last.weights
            and last.output == labels[0] and bias[1].size == last.weights["kernel"][1].shape[0]
        ):  # fmt: skip
            last.weights["bias"] = (bias[0], bias[1].ravel())
            last.output = node.outputs[0]
            return
        kind = node.kind if node.kind in KNOWN or not weights else "parameter"
        slots = [[label] for label in labels[:3]] if kind in ("attention", "product") else [labels]
        self.anchors[node.index] = Anchor(node.index, node, kind, node.outputs[0], slots, weights)

    def _join_shift(self, anchor: Anchor) -> None:
        """A scale and the shift that is added to it are one anchor."""
        if anchor.node.kind != "add" or len(anchor.weights) != 1 or len(anchor.slots[0]) != 1:
            return
        scale = next((a for a in self.anchors.values() if a.output == anchor.slots[0][0]), None)
        name, indices = next(iter(anchor.weights.values()))
        if scale is not None and scale.kind == "affine" and indices.size == scale.weights["scale"][1].size:
            scale.weights["shift"] = (name, indices.ravel())
            scale.output = anchor.output
            del self.anchors[anchor.key]

    def _join_attention(self, second: Anchor) -> None:
        """Two products with a softmax between them are one attention, at the second."""
        for slot in range(len(second.slots)):
            softmax, first = False, None
            for node in self.ancestors(second.slots[slot][0]):
                softmax = softmax or node.kind == "softmax" or node.kind == "exp"
                found = [self.by_output[s] for s in self.sources(node) if s in self.by_output]
                first = first or next((a for a in found if a.kind == "product"), None)
            if softmax and first is not None and len(first.slots) == 2:
                value = second.slots[1 - slot]
                second.kind, second.slots = "attention", [*first.slots, value]
                self.anchors.pop(first.key, None)
                self.by_output.pop(first.output, None)
                return


def arrays(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name."""
    with np.load(path) as data:
        return {name: data[name] for name in data.files}


def steps_of(named: Mapping[str, Array]) -> list[dict[str, Array]]:
    """The arrays of each step, from names as STEP/WEIGHT."""
    steps: dict[int, dict[str, Array]] = {}
    for name, x in named.items():
        number, _, weight = name.partition("/")
        steps.setdefault(int(number), {})[weight] = x
    return [steps[t] for t in range(len(steps))]


def named_by_step(steps: Iterable[Mapping[str, Array]]) -> dict[str, Array]:
    """The arrays of all steps by names as STEP/WEIGHT, of which `steps_of` makes the steps again."""
    return {f"{t}/{name}": x for t, each in enumerate(steps) for name, x in each.items()}
