"""The data flow of a list of operations as lines beside it: one small drawing a row, without JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

STEP, MOST = 10, 8  # CSS pixels between two lines, and lines beside each other; more are drawn as one


@dataclass(frozen=True)
class Rail:
    """The part of a row: a path in a box `width` by 100, and the position of the operation, if it has one."""

    path: str
    width: int
    dot: int | None

    def drawing(self) -> Markup:
        """As SVG that is stretched to its row."""
        dot = Markup("") if self.dot is None else Markup('<i style="left:{}px"></i>').format(self.dot)
        box = (
            '<span class="rail" style="width:{0}px"><svg viewBox="0 0 {0} 100" width="{0}" '
            'preserveAspectRatio="none" aria-hidden="true"><path d="{1}"/></svg>{2}</span>'
        )
        return Markup(box).format(self.width, self.path, dot)


def rails(reads: Sequence[Sequence[int] | None]) -> list[Rail]:
    """The lines of one side. `reads` has for each row the rows that it reads, None without an operation."""
    last: dict[int, int] = {}
    for row, sources in enumerate(reads):
        last |= {source: row for source in sources or () if source < row}
    lanes: list[int | None] = []  # the row whose value each line carries
    found: list[tuple[list[str], int | None]] = []
    most = 1
    for row, sources in enumerate(reads):
        before = list(lanes)
        lanes = [value if value is not None and last[value] > row else None for value in lanes]
        lane = None
        if sources is not None:
            ended = [k for k, value in enumerate(before) if value in sources and lanes[k] is None]
            lane = next(iter(ended), None)
            if lane is None:
                lane = lanes.index(None) if None in lanes else len(lanes)
            lanes += [None] * (lane + 1 - len(lanes))
            lanes[lane] = row if row in last else None
        found.append((_paths(row, before, lanes, sources or (), lane), lane))
        most = max(most, len(lanes))
    width = STEP * (min(most, MOST) + 1)
    return [Rail("".join(paths), width, None if lane is None else _x(lane)) for paths, lane in found]


def _paths(
    row: int, before: list[int | None], after: list[int | None], sources: Sequence[int], lane: int | None
) -> list[str]:
    paths = []
    for k, value in enumerate(before):
        if value is None:
            continue
        if lane is not None and value in sources:
            paths.append(f"M{_x(k)} 0L{_x(lane)} 50")
        if after[k] == value:
            paths.append(f"M{_x(k)} 0V100")
    if lane is not None and after[lane] == row:
        paths.append(f"M{_x(lane)} 50V100")
    return paths


def _x(lane: int) -> int:
    return STEP * (min(lane, MOST - 1) + 1)
