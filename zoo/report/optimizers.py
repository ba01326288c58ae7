"""A comparison of two optimizers in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo.report.words import scientific

Record = dict[str, Any]
SHOWN = 6  # names in a list


def text(result: Record) -> str:
    """The result of `zoo.diff_optimizers` in plain text."""
    return "\n".join(_whole(result))


def _whole(result: Record) -> Iterator[str]:
    for side in ("theirs", "ours"):
        yield f"{side + ':':7} {result[side]['source']} ({result[side]['kind']})"
    if result["verdict"] == "equal":
        yield "EQUAL: no difference beyond rounding in float64"
    else:
        yield "DIFFERENT"
    yield from lines(result)
    for step in result["steps"]:
        verdict = "equal" if step["holds"] else "DIFFERENT"
        where = "" if step["holds"] else f", most at {' / '.join(dict.fromkeys(step['where']))}"
        yield f"{step['name']}: {verdict}, {_number(step['difference'])}{where}"


def lines(found: Record) -> Iterator[str]:
    """The first weight that two optimizers change differently, and why."""
    first = found["first"]
    if first is None:
        return
    names = " / ".join(dict.fromkeys((first["theirs"], first["ours"])))
    index = ", ".join(map(str, first["index"]))
    yield (
        f"The optimizers part at step {first['step']}, at {names} [{index}]: theirs changes it by "
        f"{first['their_update']:.9g}, ours by {first['our_update']:.9g} "
        f"({found['apart']} of {found['weights']} weights differ)"
    )
    for cause in found["causes"]:
        names = cause["weights"]
        of = ", ".join(names[:SHOWN]) + (f" ... ({len(names)})" if len(names) > SHOWN else "")
        of = "all" if len(names) == found["apart"] else of
        if cause["cause"] is None:
            yield f"  cause: not found, for {of}"
        else:
            sure = "" if cause["confirmed"] else " (not confirmed by a recomputation)"
            yield f"  cause: {cause['cause']}: {cause['explanation']}{sure}; weights: {of}"


def _number(value: float) -> str:
    return "inf" if value == float("inf") else "0" if value == 0 else scientific(float(value))
