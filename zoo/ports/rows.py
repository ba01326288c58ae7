"""The operations of both sides in rows, as a page shows them: what corresponds is side by side.

Matched pairs come first. The operations between them are paired if they depend on the same pairs and inputs,
and their values agree once theirs' values are put in at every pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo.backends.recording import Node
from zoo.ladder.bounds import non_finite_mismatch
from zoo.ladder.causes.compare import Array, Difference, Layout, align, difference
from zoo.ladder.causes.trace import Trace
from zoo.ports.locate import Compared, Floor, Local, Side, image_orders, part_of
from zoo.ports.match import Matching, Pair

REARRANGEMENTS = ("move", "cast", "flatten", "dropout")  # in inference mode they compute nothing
AROUND = 2  # values shown before and behind the largest difference
SEPARATE = ("channels",)  # settings that are the layout's

Record = dict[str, Any]


@dataclass
class Row:
    """Two operations that correspond, or one that has no counterpart."""

    theirs: Node | None
    ours: Node | None
    how: str | None = None
    pair: Pair | None = None
    layout: Layout | None = None
    gap: Difference | None = None
    bound: float = 0.0
    alone: float | None = None  # the difference with theirs' values put in before the operation

    def settings(self) -> dict[str, list[Any]]:
        """What both declare, and declare differently."""
        if self.theirs is None or self.ours is None:
            return {}
        a, b = self.theirs.attributes, self.ours.attributes
        return {n: [a[n], b[n]] for n in a if n in b and a[n] != b[n] and n not in SEPARATE}


class Table:
    """The rows of a comparison; `local` is ours with theirs' values put in."""

    def __init__(self, theirs: Side, ours: Side, local: Side, matching: Matching, floor: Floor):
        self.theirs, self.ours, self.local = theirs, ours, local
        self.matching, self.floor, self.orders = matching, floor, image_orders(matching)
        self.rows: list[Row] = []
        self.producers: list[dict[str, int]] = []  # the row of each value, by side

    def records(
        self, whole: Sequence[Compared], found: Sequence[Local], progress: Callable[[int, int], None]
    ) -> list[Record]:
        """The rows as JSON, in theirs' order; `whole` are the pairs compared, `found` the differences."""
        known = {id(each[0]): each[1:] for each in whole}
        for pair in self.matching.pairs:
            row = Row(pair.theirs.node, pair.ours.node, pair.how, pair)
            if (facts := known.get(id(pair))) is not None:
                row.layout, row.gap, row.bound = facts
            row.alone = self.local_difference(row)
            self.rows.append(row)
        self.pair_others({each.at[0]: each.at[1] for each in found}, progress)
        self.in_order()
        self.producers = [
            {label: i for i, row in enumerate(self.rows) if (label := self.label(row, side))}
            for side in (0, 1)
        ]
        return [self.record(row) for row in self.rows]

    # Which operations correspond

    def pair_others(self, given: dict[int | None, int | None], progress: Callable[[int, int], None]) -> None:
        """Rows of the operations between the pairs: by their values, else by their kind where one alone has
        it, else as a difference was found at them (`given`).
        """
        groups = self.groups()
        left: list[Node] = []
        count = sum(len(first) for first, _ in groups)
        for first, second in groups:
            kinds = [Counter(node.kind for node in side) for side in (first, second)]
            for node in first:
                progress(len(self.rows) - len(self.matching.pairs), count)
                near = sorted(second, key=lambda n, kind=node.kind: n.kind != kind)
                options = [self.compared(Row(node, other, "values")) for other in near]
                row = next((row for row in options if self.agrees(row)), None)
                if row is None and given and kinds[0][node.kind] == kinds[1][node.kind] == 1:
                    row = next((row for row in options if row.ours and row.ours.kind == node.kind), None)
                if row is None or row.ours is None:
                    left.append(node)
                    continue
                second.remove(row.ours)
                self.rows.append(row)
        free: dict[int | None, Node] = {node.index: node for _, second in groups for node in second}
        for node in left:
            other = free.pop(given.get(node.index, -1), None)
            self.rows.append(self.compared(Row(node, other, "values")) if other else Row(node, None))

    def groups(self) -> Iterable[tuple[list[Node], list[Node]]]:
        """The operations between the pairs, together those of both sides that depend on the same pairs."""
        found: dict[frozenset[int], tuple[list[Node], list[Node]]] = {}
        for number, side in enumerate((self.theirs, self.ours)):
            pairs = ((p.theirs, p.ours)[number] for p in self.matching.pairs)
            ends = {anchor.output: i for i, anchor in enumerate(pairs)}
            before = _before(side.trace, ends)
            taken = {n.index for row in self.rows if (n := (row.theirs, row.ours)[number]) is not None}
            for node in _others(side.trace):
                if node.index not in taken:
                    found.setdefault(before[node.outputs[0]], ([], []))[number].append(node)
        return list(found.values())

    def compared(self, row: Row) -> Row:
        """A row with its difference, in the layout in which the two agree alone."""
        assert row.theirs is not None
        row.bound = self.floor.bound(row.theirs.outputs[0])
        row.alone = self.local_difference(row)
        a, b = self.values(row)
        if a is None or b is None or a.size != b.size:
            return row
        if row.layout is None and (found := align(a, b, row.bound, self.orders.get(a.ndim))) is not None:
            row.layout = found[0]
        if row.layout is not None:
            row.gap = difference(a, row.layout.undo(b, a.shape))
        return row

    def agrees(self, row: Row) -> bool:
        """Whether the values are equal but for rounding, in either pass."""
        alone = row.alone is not None and row.alone <= row.bound
        return alone or (row.gap is not None and row.gap.within(row.bound))

    def local_difference(self, row: Row) -> float | None:
        """The difference that arises in the operation, or between it and the pairs before."""
        a, b = self.values(row, self.local)
        if a is None or b is None or a.size != b.size:
            return None
        found = align(a, b, row.bound or self.floor.bound(self.label(row, 0)), self.orders.get(a.ndim))
        if found is None:
            return None
        if row.pair is None:
            row.layout = found[0]
        return float("inf") if found[1].masks_differ else found[1].error

    def label(self, row: Row, side: int) -> str:
        """The value of a row's operation on a side."""
        if row.pair is not None:
            return (row.pair.theirs, row.pair.ours)[side].output
        node = (row.theirs, row.ours)[side]
        return node.outputs[0] if node and node.outputs else ""

    def values(self, row: Row, ours: Side | None = None) -> tuple[Array | None, Array | None]:
        """What both sides computed."""
        a = self.theirs.trace.values.get(self.label(row, 0))
        b = (ours or self.ours).trace.values.get(self.label(row, 1))
        if a is not None and b is not None and row.pair is not None:
            return part_of(row.pair, a, b)
        return a, b

    # The order and the facts

    def in_order(self) -> None:
        """Sort the rows by theirs, and put what is only in ours behind what comes before it there."""
        number = {id(row): i for i, row in enumerate(self.rows)}
        self.rows.sort(key=lambda row: (row.theirs.index if row.theirs else -1, number[id(row)]))
        places = {row.ours.index: row for row in self.rows if row.ours is not None}
        last: Row | None = None
        for node in _others(self.ours.trace):
            row = places.get(node.index)
            if row is None:
                row = Row(None, node)
                at = next((i for i, r in enumerate(self.rows) if r is last), -1)
                self.rows.insert(at + 1, row)
            last = row

    def record(self, row: Row) -> Record:
        """A row as JSON."""
        facts = row.gap.facts() if row.gap else Difference(0.0).facts() | {"difference": None}
        return {
            "theirs": row.theirs and self.side_facts(row, 0),
            "ours": row.ours and self.side_facts(row, 1),
            "how": row.how, "bound": row.bound, **facts,
            "holds": None if row.gap is None else row.gap.within(row.bound),
            "difference_alone": row.alone,
            "settings": row.settings(),
            "values": self.around(row),
        }  # fmt: skip

    def side_facts(self, row: Row, side: int) -> Record:
        """An operation: its name, its shape, and the rows that it reads."""
        node, trace = (row.theirs, row.ours)[side], (self.theirs, self.ours)[side].trace
        assert node is not None
        value = trace.values.get(self.label(row, side))
        return {
            "name": node.name, "operation": node.operation, "kind": node.kind, "index": node.index,
            "shape": None if value is None else list(value.shape),
            "weights": sorted({n for n, _ in trace.anchors[node.index].weights.values()})
            if node.index in trace.anchors else [],
            "reads": sorted(_reads(trace, node, self.producers[side])),
        }  # fmt: skip

    def around(self, row: Row) -> list[list[Any]]:
        """[index, theirs, ours] at the largest difference, or the first value finite on one side alone, and
        beside it along the last axis.
        """
        a, b = self.values(row)
        if a is None or b is None or row.gap is None or row.layout is None:
            return []
        b = row.layout.undo(b, a.shape)
        index = row.gap.index
        if row.gap.masks_differ:
            index = tuple(int(i) for i in np.argwhere(non_finite_mismatch(a, b))[0])
        if not index:
            return []
        *rest, last = index
        near = range(max(0, last - AROUND), min(a.shape[-1], last + AROUND + 1))
        return [[[*rest, i], _plain(a[(*rest, i)]), _plain(b[(*rest, i)])] for i in near]


def _plain(value: Any) -> float | str:
    """A number, or the name of what JSON cannot hold."""
    return float(value) if np.isfinite(value) else str(float(value))


def _others(trace: Trace) -> list[Node]:
    """The operations to be shown: no rearrangements, constants, or parts of others (an added bias)."""
    parts = {label for label, a in trace.by_output.items() if label not in a.node.outputs}
    before = _before(trace, {label: i for i, label in enumerate(trace.by_output)})
    return [
        node for node in trace.nodes
        if node.index in trace.anchors
        or (node.kind not in REARRANGEMENTS and node.outputs and node.outputs[0] not in parts
            and before[node.outputs[0]])
    ]  # fmt: skip


def _before(trace: Trace, ends: dict[str, int]) -> dict[str, frozenset[int]]:
    """The pairs (their number) and inputs (-1 - n) that each value depends on directly."""
    found: dict[str, frozenset[int]] = {}
    for node in trace.nodes:
        reached: set[int] = set()
        for label in trace.sources(node):
            if label in ends:
                reached.add(ends[label])
            elif label.startswith("input"):
                reached.add(-1 - int(label.removeprefix("input")))
            else:
                reached |= found.get(label, frozenset())
        found |= dict.fromkeys(node.outputs, frozenset(reached))
    return found


def _reads(trace: Trace, node: Node, producers: dict[str, int]) -> Iterable[int]:
    """The rows whose values an operation reads, rearranged or not."""
    found, stack, seen = set(), list(trace.sources(node)), set()
    while stack:
        label = stack.pop()
        if label in producers:
            found.add(producers[label])
        elif label not in seen and (before := trace.producer.get(label)) is not None:
            seen.add(label)
            stack += trace.sources(before)
    return found
