"""Figures of models, drawn from the Keras graph: an overview, and each kind of block in detail.

A figure is a column of boxes in the order data meets them. What skips a box is beside the column: a line, or
a shortcut's own box. It is plain SVG in the page, coloured by the page's own style, and needs no script.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html import escape
from math import prod
from typing import Any

BLOCK = re.compile(r"(.*?block\d+)(?=_|$)")
QUIET = ("BatchNorm",)  # has weights, and still is said in the line of what it follows

# Pixels: of a box, of a line in it, between boxes, between the lines beside them.
WIDTH, LINE, GAP, LANE = 430, 15, 16, 11
NARROW, SIDE = 300, 160  # of a box where a shortcut's is beside it, and of that


@dataclass
class Box:
    """One operation, with those that only follow it; or a run of blocks that are alike."""

    kinds: list[str]
    name: str = ""
    shape: str = ""
    parameters: int = 0
    inputs: list[int] = field(default_factory=list)  # ids of boxes
    id: int = 0
    block: str | None = None
    times: int = 1
    source: bool = False  # where data comes in

    @property
    def plain(self) -> bool:
        """Whether it owns no weights."""
        return not self.parameters


def figures(model: Any) -> list[tuple[str, str]]:
    """(caption, SVG) of the whole model, then of each kind of block."""
    overview, kinds = outline(model)
    drawings = [("The whole", draw(overview, f"The layers of {model.name}"))]
    for letter, (name, inside) in kinds.items():
        drawings.append((f"Block {letter}, as {name}", draw(inside, f"Block {letter} of {model.name}")))
    return drawings


def outline(model: Any) -> tuple[list[Box], dict[str, tuple[str, list[Box]]]]:
    """The boxes of the whole model; of each kind of block, by its letter, its first name and its boxes."""
    boxes = merge(collapse(merge(read(model))))
    assign(boxes)
    return group(boxes)


def read(model: Any) -> list[Box]:
    """A box for each call of an operation, depth first, so that a box mostly follows its input."""
    positions = {id(operation): i for i, operation in enumerate(model.operations)}
    depths = [(-depth, node) for depth, nodes in model._nodes_by_depth.items() for node in nodes]
    nodes = [node for _, node in sorted(depths, key=lambda pair: (pair[0], positions[id(pair[1].operation)]))]
    makers = {id(tensor): i for i, node in enumerate(nodes) for tensor in node.outputs}
    boxes = []
    for i, node in enumerate(nodes):
        operation, kind = node.operation, type(node.operation).__name__
        first = operation._inbound_nodes[0] is node  # of a layer that is called twice
        weights = getattr(operation, "trainable_variables", [])
        named = weights or kind in ("Identity", "InputLayer")
        boxes.append(
            Box(
                [describe(operation)],
                operation.name + ("" if first else ", the same weights") if named else "",
                axes(node.outputs[0].shape),
                sum(prod(v.shape) for v in weights) if first else 0,
                list(dict.fromkeys(makers[id(tensor)] for tensor in node.input_tensors)),
                i,
                source=kind == "InputLayer",
            )
        )
    starts = [makers[id(tensor)] for tensor in model.inputs]
    return order(boxes, starts)


def describe(operation: Any) -> str:
    """An operation in a few words."""
    kind = type(operation).__name__
    words = {"InputLayer": "Input", "GetItem": "Take", "ExpandDims": "Expand", "Concatenate": "Join"}.get(
        kind, kind
    )
    if kind in ("Conv", "MaxPool", "AveragePool"):
        words += f" {operation.size} × {operation.size}"
        if kind == "Conv" and operation.groups > 1:
            words += ", depthwise" if operation.kernel.shape[2] == 1 else f", {operation.groups} groups"
        if operation.stride > 1:
            words += f", stride {operation.stride}"
    return words


def axes(shape: Any) -> str:
    """A shape with b for the batch and n for a length."""
    batch, *sizes = ("n" if size is None else str(size) for size in shape)
    return f"({', '.join(['b' if batch == 'n' else batch, *sizes])})"


def order(boxes: list[Box], starts: list[int] | None = None) -> list[Box]:
    """Each box after its inputs, and as often as can be right after one of them."""
    by_id = {box.id: box for box in boxes}
    waiting = {box.id: {i for i in box.inputs if i in by_id} for box in boxes}
    readers: dict[int, list[int]] = {}
    for box in boxes:
        for i in waiting[box.id]:
            readers.setdefault(i, []).append(box.id)
    ready = [box.id for box in boxes if not waiting[box.id]]
    stack = sorted(ready, key=lambda i: -starts.index(i) if starts and i in starts else -i)
    column = []
    while stack:
        box = by_id[stack.pop()]
        column.append(box)
        for reader in reversed(readers.get(box.id, [])):
            waiting[reader].discard(box.id)
            if not waiting[reader]:
                stack.append(reader)
    assert len(column) == len(boxes), "the blocks of a figure feed each other"
    return column


def find_readers(boxes: list[Box]) -> dict[int, set[int]]:
    readers: dict[int, set[int]] = {}
    for box in boxes:
        for i in box.inputs:
            readers.setdefault(i, set()).add(box.id)
    return readers


def rename(boxes: list[Box], old: int, new: int) -> None:
    """Whoever read `old` reads `new`."""
    for box in boxes:
        box.inputs = list(
            dict.fromkeys(new if i == old else i for i in box.inputs if box.id != new or i != old)
        )


def merge(boxes: list[Box]) -> list[Box]:
    """What has no weights, keeps the shape, and alone reads the box before is said in that box."""
    column: list[Box] = []
    for place, box in enumerate(boxes):
        before = next((b for b in column if box.inputs and b.id == box.inputs[0]), None)
        again = next((b for b in column if b.id in box.inputs and b.kinds[-1] == box.kinds[0]), None)
        readers = find_readers([*column, *boxes[place:]])
        follows = (
            before is not None
            and len(box.inputs) == 1
            and readers.get(before.id, set()) <= {box.id}
            and before.shape == box.shape
            and not before.source
            and before.times == 1
            and (box.plain or box.kinds[0] in QUIET)
        )
        repeats = (
            again is not None
            and box.plain
            and again.plain
            and set(box.inputs) <= {again.id, *again.inputs}
            and readers.get(again.id, set()) <= {box.id}
        )
        into = before if follows else again if repeats else None
        if into is None:
            column.append(box)
            continue
        if box.kinds == ["Identity"]:
            into.name = into.name or box.name
        elif repeats and not follows:
            into.times += 1
        else:
            into.kinds += box.kinds
        into.parameters += box.parameters
        rename(boxes, box.id, into.id)
    return column


def collapse(boxes: list[Box]) -> list[Box]:
    """Three boxes or more of one kind that read the same become one."""
    column: list[Box] = []
    gone: set[int] = set()
    for box in boxes:
        if box.id in gone:
            continue
        alike = [b for b in boxes if b.id not in gone and likeness(b) == likeness(box)]
        alike.sort(key=lambda b: b.id)
        if len(alike) >= 3 and not box.source:
            first, last = alike[0].name, alike[-1].name
            box.name = first and (
                between(first, last) if len(alike) > 3 else short_names([b.name for b in alike])
            )
            box.times, box.parameters = len(alike), sum(b.parameters for b in alike)
            if len({b.shape for b in alike}) > 1:
                box.shape = f"{alike[0].shape} to {alike[-1].shape.split(', ')[-1].rstrip(')')}"
            for other in alike:
                if other is not box:
                    gone.add(other.id)
                    rename(boxes, other.id, box.id)
        column.append(box)
    return column


def likeness(box: Box) -> tuple[Any, ...]:
    """What boxes have in common that become one."""
    block = BLOCK.match(box.name)
    return box.kinds, box.inputs, box.source, block and block.group(1)


def short_names(names: list[str]) -> str:
    """a_query, a_key, a_value -> a_query, key, value."""
    stem = names[0].rpartition("_")[0] + "_"
    if stem == "_" or not all(name.startswith(stem) for name in names):
        return ", ".join(names)
    return ", ".join([names[0], *(name.removeprefix(stem) for name in names[1:])])


def between(first: str, last: str) -> str:
    """stage1_block2, stage1_block3 -> stage1_block2 to 3."""
    end = re.search(r"\d+$", last)
    return f"{first} to {end.group()}" if end else f"{first} to {last}"


def assign(boxes: list[Box]) -> None:
    """Say which block each box is of: by its name, or by those around it."""
    by_id, readers = {box.id: box for box in boxes}, find_readers(boxes)
    for box in boxes:
        match = BLOCK.match(box.name)
        box.block = match.group(1) if match else None

    def downstream(box: Box) -> set[str | None]:
        names: set[str | None] = set()
        for i in readers.get(box.id, set()):
            names |= {by_id[i].block} if by_id[i].block or by_id[i].parameters else downstream(by_id[i])
        return names

    for box in boxes:
        if box.block or box.parameters or box.source:
            continue
        blocks = [by_id[i].block for i in box.inputs if by_id[i].block]
        if blocks and (len(box.inputs) > 1 or downstream(box) == {blocks[-1]}):
            box.block = max(blocks, key=lambda name: [int(n) for n in re.findall(r"\d+", name or "")])


def group(boxes: list[Box]) -> tuple[list[Box], dict[str, tuple[str, list[Box]]]]:
    """The boxes with each block as one box, equal blocks in a row as one; each kind of block by letter."""
    by_id = {box.id: box for box in boxes}
    members: dict[str, list[Box]] = {}
    for box in boxes:
        if box.block:
            members.setdefault(box.block, []).append(box)
    kinds: dict[str, tuple[str, list[Box]]] = {}
    letters: dict[str, str] = {}
    blocks: dict[str, Box] = {}
    for name, inside in members.items():
        ids = {box.id for box in inside}
        outer = list(dict.fromkeys(i for box in inside for i in box.inputs if i not in ids))
        kind = structure(inside, outer)
        if kind not in letters:
            letters[kind] = "ABCDEFGHIJ"[len(letters)]
            kinds[letters[kind]] = (name, detail(name, inside, outer, by_id))
        parameters = sum(box.parameters for box in inside)
        blocks[name] = Box(
            [f"Block {letters[kind]}"], name, inside[-1].shape, parameters, id=-1 - len(blocks)
        )
    return repetitions(order(contract(boxes, blocks))), kinds


def structure(inside: list[Box], outer: list[int]) -> str:
    """What blocks of one kind have in common: their operations and connections, without sizes and strides."""
    positions = {box.id: i for i, box in enumerate(inside)} | {i: f"in{n}" for n, i in enumerate(outer)}
    built = str([(box.kinds, box.times, [positions[i] for i in box.inputs]) for box in inside])
    return re.sub(r", stride \d+|\d+ × \d+", "", built)


def contract(boxes: list[Box], blocks: dict[str, Box]) -> list[Box]:
    """The boxes, those of a block replaced by the block's."""
    owner = {box.id: blocks[box.block] if box.block else box for box in boxes}
    inputs: dict[int, list[int]] = {}
    for box in boxes:
        own = inputs.setdefault(owner[box.id].id, [])
        own += [owner[i].id for i in box.inputs if owner[i] is not owner[box.id]]
    whole = list({box.id: box for box in owner.values()}.values())
    for box in whole:
        box.inputs = list(dict.fromkeys(inputs[box.id]))
    return whole


def repetitions(boxes: list[Box]) -> list[Box]:
    """The boxes with equal blocks that follow one another as one box."""
    column: list[Box] = []
    for box in boxes:
        last = column[-1] if column else None
        if (
            last is not None
            and last.id < 0
            and box.id < 0
            and (last.kinds, last.shape, last.parameters / last.times)
            == (box.kinds, box.shape, box.parameters)
            and set(box.inputs) <= {last.id, *last.inputs}
        ):
            last.times += 1
            last.parameters += box.parameters
            last.name = between(last.name.split(" to ")[0], box.name)
            rename(boxes, box.id, last.id)
        else:
            column.append(box)
    return column


def detail(name: str, inside: list[Box], outer: list[int], by_id: dict[int, Box]) -> list[Box]:
    """A block on its own: what it reads first, then its boxes, by names without the block's."""
    column = []

    def read(i: int) -> tuple[bool, int]:
        by = [box for box in inside if i in box.inputs]
        return any(box.kinds[0] == "Add" for box in by), len(by)

    x = max(outer, key=read)  # a shortcut adds it, else most boxes read it
    for i in [x, *(i for i in outer if i != x)]:
        box = by_id[i]
        label = "x" if i == x else box.name or box.kinds[0]
        column.append(Box([label], "", box.shape, 0, [], i, source=True))
    for box in inside:
        short = box.name.removeprefix(name).lstrip("_") if box.name.startswith(name) else ""
        column.append(
            Box(list(box.kinds), short, box.shape, box.parameters, list(box.inputs), box.id, times=box.times)
        )
    return order(column, [x])


def draw(boxes: list[Box], title: str) -> str:
    """A column of boxes, joined by arrows; beside it a shortcut's box, and lines where one skips a box."""
    side = shortcuts(boxes)
    wide = NARROW if side else WIDTH
    column = [box for box in boxes if box.id not in side]
    positions = {box.id: i for i, box in enumerate(column)}
    lines = [
        1 if box.source or not (box.name or box.parameters or is_crowded(box, wide)) else 2 for box in column
    ]
    heights = [10 + LINE * n for n in lines]
    tops = [4 + sum(heights[:i]) + GAP * i for i in range(len(column))]
    arcs = [
        (positions[i], place)
        for place, box in enumerate(column)
        for i in box.inputs
        if i in positions and positions[i] != place - 1
    ]
    lane_of, lanes = in_lanes(arcs)
    right = 4 + wide
    width, height = right + 8 + LANE * lanes + 4 + (GAP + SIDE) * bool(side), tops[-1] + heights[-1] + 4
    parts = [
        f'<svg class="zoo-figure" viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" '
        f'aria-label="{escape(title)}"><title>{escape(title)}</title>'
    ]
    for place, box in enumerate(column):
        arrow = place > 0 and column[place - 1].id in box.inputs
        parts += box_svg(box, tops[place], heights[place], wide, lines[place], arrow=arrow)
    middles = [top + height / 2 for top, height in zip(tops, heights, strict=True)]
    for (start, end), lane in lane_of.items():
        x = right + 10 + LANE * lane
        y1, y2 = middles[start], middles[end]
        bend = f"H{x - 5}Q{x} {y1} {x} {y1 + 5}V{y2 - 5}Q{x} {y2} {x - 5} {y2}"
        parts.append(f'<path class="line" d="M{right} {y1}{bend}H{right + 4}"/>{head(right, y2, "left")}')
    for box, start, end in side.values():
        parts += shortcut_svg(
            box, right, width - 4 - SIDE, middles[positions[start]], middles[positions[end]]
        )
    return "".join([*parts, "</svg>"])


def in_lanes(arcs: list[tuple[int, int]]) -> tuple[dict[tuple[int, int], int], int]:
    """The lane of each line beside the column, so that none crosses another; and how many lanes there are."""
    lanes: list[list[tuple[int, int]]] = []
    lane_of = {}
    for start, end in sorted(arcs, key=lambda arc: (arc[1] - arc[0], arc)):
        # Lines from one box share a lane.
        free = [all(end < s or e < start or s == start for s, e in lane) for lane in [*lanes, []]]
        lane_of[start, end] = number = free.index(True)
        if number == len(lanes):
            lanes.append([])
        lanes[number].append((start, end))
    return lane_of, len(lanes)


def shortcuts(boxes: list[Box]) -> dict[int, tuple[Box, int, int]]:
    """The boxes that are shortcuts around two boxes or more, by id: box, its input, the sum it goes to."""
    by_id, readers = {box.id: box for box in boxes}, find_readers(boxes)
    positions = {box.id: i for i, box in enumerate(boxes)}
    sides = {}
    for box in boxes:
        to = readers.get(box.id, set())
        if box.source or len(box.inputs) != 1 or len(to) != 1:
            continue
        start, end = box.inputs[0], next(iter(to))
        around = positions[end] - positions[start] - 2  # the boxes of the other way
        alone = len(by_id[end].inputs) == 2 and len(readers[start]) == 2
        if by_id[end].kinds[0] == "Add" and alone and around >= 2 and not readers[start] & readers[box.id]:
            ends = [boxes[positions[end] - 1].id, boxes[positions[start] + 1].id]
            if box.id in ends:  # the other way is one column, unbroken
                sides[box.id] = (box, start, end)
    return {} if len({(start, end) for _, start, end in sides.values()}) < len(sides) else sides


def box_svg(box: Box, y: int, h: int, wide: int, lines: int, *, arrow: bool) -> list[str]:
    """A box of the column, and the arrow to it from the one above."""
    parts, middle = [], 4 + wide / 2
    if arrow:
        parts.append(f'<path class="line" d="M{middle} {y - GAP}V{y - 4}"/>{head(middle, y, "down")}')
    kind = "source" if box.source else "plain" if box.plain else "owner"
    round_ = h / 2 if box.source else 5
    parts.append(f'<rect class="{kind}" x="4" y="{y}" width="{wide}" height="{h}" rx="{round_}"/>')
    facts = [box.shape] if box.source or not is_crowded(box, wide) else []
    parts.append(text(14, y + 17, heading(box), "kind"))
    parts += [text(wide - 6, y + 17, fact, "shape", end=True) for fact in facts]
    if lines > 1:
        below = [box.shape] * (not facts) + [f"{box.parameters:,}"] * bool(box.parameters)
        parts.append(text(14, y + 32, box.name, "name"))
        parts.append(text(wide - 6, y + 32, " · ".join(below), "count", end=True))
    return parts


def shortcut_svg(box: Box, right: float, x: float, y1: float, y2: float) -> list[str]:
    """A shortcut's box beside the column, with the lines from where it starts and to where it ends."""
    arrows = [f"→ {kind}" if i else kind for i, kind in enumerate(box.kinds)]
    words = [(line, "kind") for line in arrows] + [(box.name, "name"), (box.shape, "shape")]
    words += [(f"{box.parameters:,}", "count")] * bool(box.parameters)
    words = [(line, style) for line, style in words if line]
    h, kind = 10 + LINE * len(words), "plain" if box.plain else "owner"
    y, middle = (y1 + y2 - h) / 2, x + SIDE / 2
    parts = [
        f'<path class="line" d="M{right} {y1}H{middle - 5}Q{middle} {y1} {middle} {y1 + 5}V{y - 4}"/>',
        head(middle, y, "down"),
        f'<rect class="{kind}" x="{x}" y="{y}" width="{SIDE}" height="{h}" rx="5"/>',
    ]
    parts += [text(x + 10, y + 17 + LINE * i, line, style) for i, (line, style) in enumerate(words)]
    bend = f"V{y2 - 5}Q{middle} {y2} {middle - 5} {y2}H{right + 4}"
    return [*parts, f'<path class="line" d="M{middle} {y + h}{bend}"/>', head(right, y2, "left")]


def heading(box: Box) -> str:
    """The first line of a box."""
    if box.source and box.name:
        return "input" if box.name.startswith(("input_layer", "keras_tensor")) else box.name
    return " → ".join(box.kinds) + (f" ({box.times} times)" if box.times > 1 else "")


def is_crowded(box: Box, wide: int) -> bool:
    """Whether its shape does not fit beside what it is."""
    return 7.2 * len(heading(box)) + 6.8 * len(box.shape) > wide - 30


def head(x: float, y: float, way: str) -> str:
    """The head of an arrow that ends here."""
    if way == "down":
        return f'<path class="head" d="M{x - 4} {y - 6}L{x + 4} {y - 6}L{x} {y}Z"/>'
    return f'<path class="head" d="M{x + 6} {y - 4}L{x + 6} {y + 4}L{x} {y}Z"/>'


def text(x: float, y: float, words: str, kind: str, *, end: bool = False) -> str:
    anchor = ' text-anchor="end"' if end else ""
    return f'<text class="{kind}" x="{x}" y="{y}"{anchor}>{escape(words)}</text>' if words else ""
