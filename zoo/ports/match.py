"""The anchors of two implementations, matched by what they are and by their neighbours.

An anchor's colour is its kind and shape, refined by the colours around it (Weisfeiler and Lehman 1968): the
widest neighbourhood first, then narrower ones, which a change nearby does not reach. Pairs that were found
tell their neighbours apart. What stays ambiguous is matched by the order of execution, and said.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field

from zoo.ladder.causes.trace import Anchor, Trace

DEPTHS = (8, 4, 2, 1, 0)
Edges = dict[int, list[tuple[int, int]]]  # an anchor -> (slot, another anchor)


@dataclass
class Pair:
    """An anchor of theirs and one of ours. `how` they were matched: "graph", "order" or "given"."""

    theirs: Anchor
    ours: Anchor
    how: str = "graph"
    part: tuple[int, int] | None = None  # (number, of how many): the side with one anchor has them all
    whole: str = ""  # which side is whole, if split: "theirs" or "ours"


@dataclass
class Matching:
    """The pairs in theirs' order, and what has none."""

    pairs: list[Pair] = field(default_factory=list)
    only_theirs: list[Anchor] = field(default_factory=list)
    only_ours: list[Anchor] = field(default_factory=list)


def match(theirs: Trace, ours: Trace) -> Matching:
    """Pair the anchors of two traces."""
    found = _Matcher(theirs, ours)
    for depth in DEPTHS:
        while found.round(depth):
            pass
    found.by_order()
    result = Matching([Pair(theirs.anchors[a], ours.anchors[b], how) for a, b, how in found.pairs])
    rest_a = [a for key, a in theirs.anchors.items() if key not in found.ids[0]]
    rest_b = [b for key, b in ours.anchors.items() if key not in found.ids[1]]
    splits = [*_splits(rest_a, rest_b, "theirs", found), *_splits(rest_b, rest_a, "ours", found)]
    used = {id(p.theirs) for p in splits} | {id(p.ours) for p in splits}
    result.pairs += splits
    result.pairs.sort(key=lambda pair: (pair.theirs.key, pair.part or (0, 0)))
    result.only_theirs = [a for a in rest_a if id(a) not in used]
    result.only_ours = [b for b in rest_b if id(b) not in used]
    return result


class _Matcher:
    def __init__(self, theirs: Trace, ours: Trace):
        self.traces = (theirs, ours)
        self.before: list[Edges] = []
        self.after: list[Edges] = []
        for trace in self.traces:
            before: Edges = {}
            after: Edges = defaultdict(list)
            for key, anchor in trace.anchors.items():
                reached = [(s, k) for s, ids in enumerate(anchor.slots) for i in ids for k in trace.before(i)]
                before[key] = sorted(set(reached))
                for slot, k in before[key]:
                    after[k].append((slot, key))
            self.before.append(before)
            self.after.append(after)
        self.ids: tuple[dict[int, int], dict[int, int]] = ({}, {})  # an anchor -> the number of its pair
        self.pairs: list[tuple[int, int, str]] = []

    def pair(self, a: int, b: int, how: str) -> None:
        self.ids[0][a] = self.ids[1][b] = len(self.pairs)
        self.pairs.append((a, b, how))

    def round(self, depth: int) -> bool:
        """Pair what has a colour of its own on both sides; whether any was found.

        First by the colours before and after; then by either, unless the two contradict each other, as around
        an operation that one side lacks.
        """
        both = self.proposals(depth, True, True)
        either = self.proposals(depth, True, False) | self.proposals(depth, False, True) if depth else set()
        firsts, seconds = Counter(a for a, _ in either), Counter(b for _, b in either)
        clear = sorted(p for p in either if firsts[p[0]] == seconds[p[1]] == 1)
        count = len(self.pairs)
        for a, b in [p for p in sorted(both) if self.in_order(*p)] or clear:
            if self.in_order(a, b):
                self.pair(a, b, "graph")
        return len(self.pairs) > count

    def proposals(self, depth: int, forward: bool, backward: bool) -> set[tuple[int, int]]:
        """The anchors that alone have their colour on either side."""
        groups = [self.groups(side, depth, forward, backward) for side in (0, 1)]
        found = set()
        for colour, first in groups[0].items():
            second = groups[1].get(colour, [])
            if len(first) == len(second) == 1:
                found.add((first[0], second[0]))
        return found

    def in_order(self, a: int, b: int) -> bool:
        """Whether no pair contradicts this one: what reads a's output is paired with what comes after b."""
        for edges, later in ((self.before, False), (self.after, True)):
            for _, k in edges[0].get(a, []):
                if (n := self.ids[0].get(k)) is not None:
                    other = self.pairs[n][1]
                    if (other > b) != later:
                        return False
        return True

    def groups(self, side: int, depth: int, forward: bool, backward: bool) -> dict[Hashable, list[int]]:
        """The anchors without a pair by colour."""
        ids, anchors = self.ids[side], self.traces[side].anchors
        colours: dict[int, int] = {
            key: hash(("pair", ids[key]) if key in ids else anchor.signature)
            for key, anchor in anchors.items()
        }
        colours |= {-1 - n: hash(("input", n)) for n in range(16)}
        for _ in range(depth):
            # The colour of a pair stays: it stands for all that lies behind it.
            colours |= {
                key: hash(
                    (
                        colours[key],
                        _around(self.before[side].get(key, []), colours) if backward else (),
                        _around(self.after[side].get(key, []), colours) if forward else (),
                    )
                )
                for key in anchors
                if key not in ids
            }
        found: dict[Hashable, list[int]] = defaultdict(list)
        for key in anchors:
            if key not in ids:
                found[colours[key]].append(key)
        return found

    def by_order(self) -> None:
        """What is left, by shape and the order of execution, where it agrees with the pairs."""
        groups = [self.groups(side, 0, False, False) for side in (0, 1)]
        for colour, first in groups[0].items():
            second = list(groups[1].get(colour, []))
            for a in first:
                b = next((b for b in second if self.in_order(a, b)), None)
                if b is not None and (len(first) == len(groups[1][colour]) or self.beside(a, b)):
                    self.pair(a, b, "order")
                    second.remove(b)

    def beside(self, a: int, b: int) -> bool:
        """Whether a pair is next to both."""

        def neighbours(side: int, key: int) -> set[int]:
            edges = [*self.before[side].get(key, []), *self.after[side].get(key, [])]
            return {self.ids[side][k] for _, k in edges if k in self.ids[side]}

        return bool(neighbours(0, a) & neighbours(1, b))


def _around(edges: Iterable[tuple[int, int]], colours: dict[int, int]) -> tuple[int, ...]:
    return tuple(sorted({hash((slot, colours[key])) for slot, key in edges}))


def _splits(wholes: list[Anchor], parts: list[Anchor], side: str, found: _Matcher) -> list[Pair]:
    """A fused projection of one side and the three that the other has in its place."""
    number = 0 if side == "theirs" else 1
    pairs: list[Pair] = []
    consumers: Callable[[int, int], set[int]] = lambda s, key: {  # noqa: E731
        found.ids[s][k] for _, k in found.after[s].get(key, []) if k in found.ids[s]
    }
    free = list(parts)
    for whole in wholes:
        if whole.signature[0] != "linear":
            continue
        rows = whole.signature[1] // 3
        near = [
            p for p in free
            if p.signature == ("linear", rows, *whole.signature[2:])
            and consumers(1 - number, p.key) & consumers(number, whole.key)
        ]  # fmt: skip
        near.sort(key=lambda p: min((slot for slot, _ in found.after[1 - number].get(p.key, [])), default=0))
        if len(near) == 3 and whole.signature[1] == 3 * rows:
            for i, part in enumerate(near):
                both = (whole, part) if number == 0 else (part, whole)
                pairs.append(Pair(*both, how="graph", part=(i, 3), whole=side))
                free.remove(part)
    return pairs
