"""A comparison of two implementations in words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zoo.report.optimizers import lines as optimizer_lines
from zoo.report.words import scientific

Record = dict[str, Any]
SHOWN = 12  # differences, and names in a list


def text(result: Record) -> str:
    """The result in plain text, most important first."""
    return "\n".join(lines(result))


def lines(result: Record) -> Iterator[str]:
    """The verdict, the first difference, its cause, and what was compared."""
    theirs, ours = result["theirs"], result["ours"]
    yield f"theirs: {theirs['source']} ({theirs['kind']})"
    moved = "" if ours["inputs"] == "as given" else f", inputs with {ours['inputs']}"
    yield f"ours:   {ours['source']} ({ours['kind']}{moved})"
    pairs = result["matched"]["pairs"]
    yield f"{len(pairs)} operations matched, {len(result['weights']['mapping'])} arrays carried over"
    yield from unmatched(result)
    if result["random"]:
        yield "ours gives other outputs at every call: it draws random numbers in inference mode"
    yield verdict(result)
    if first := result["first"]:
        yield f"First apart: theirs {first['theirs']}, ours {first['ours']}, {gap(first)}"
    differences = result["differences"]
    if differences:
        yield f"Where differences arise ({len(differences)}), each with theirs' values put in before it:"
    for group in groups(differences)[:SHOWN]:
        yield from _difference(group)
    if result.get("optimizers"):
        yield from optimizer_lines(result["optimizers"])
    outputs = next((s for s in result["steps"] if s["name"] == "outputs"), None)
    for step in result["steps"]:
        follows = (
            outputs is not None
            and outputs["holds"] is False
            and step["name"].startswith(("loss", "gradients"))
        )
        yield (
            f"{step['name']}: {'differ' if 'grad' in step['name'] else 'differs'}, as the outputs do"
            if follows and step["holds"] is False
            else _step(step)
        )


def verdict(result: Record) -> str:
    """In a line."""
    if result["verdict"] == "equal":
        return "EQUAL: no difference beyond rounding in float64"
    return "DIFFERENT"


def gap(facts: Record) -> str:
    """How far apart two values are, and where most."""
    if facts["masks_differ"]:
        return f"{facts['masks_differ']} elements are NaN or infinite on one side alone"
    if facts["difference"] in (None, float("inf")):  # null in a file
        return "the shapes differ"
    if facts["index"] is None:
        return f"by {amount(facts['difference'])}"
    index = ", ".join(map(str, facts["index"]))
    return f"by {amount(facts['difference'])} of the largest value (rounding: {amount(facts['bound'])})" + (
        f", most at [{index}]: {facts['their_value']:.9g} and {facts['our_value']:.9g}" if index else ""
    )


def groups(differences: list[Record]) -> list[list[Record]]:
    """Differences of one cause and kind together."""
    found: dict[tuple[Any, ...], list[Record]] = {}
    for each in differences:
        key = (each["cause"], each["explanation"]) if each["cause"] else (id(each),)
        found.setdefault(key, []).append(each)
    return list(found.values())


def _difference(group: list[Record]) -> Iterator[str]:
    first = group[0]
    names = f"theirs {first['theirs'] or 'nothing'}, ours {first['ours'] or 'nothing'}"
    more = f" and {len(group) - 1} more" if len(group) > 1 else ""
    yield f"  {names}{more}: {gap(first)}"
    if first["cause"]:
        sure = "" if first["confirmed"] else " (not confirmed by a recomputation)"
        yield f"    cause: {first['cause']}: {first['explanation']}{sure}"
    else:
        yield "    cause: not found"


def unmatched(result: Record) -> Iterator[str]:
    """What has no counterpart, and what was matched by less than its use, a line for each kind."""
    matched, weights = result["matched"], result["weights"]
    by_order = [f"{p['theirs']} = {p['ours']}" for p in matched["pairs"] if p["how"] == "order"]
    for words, names in (
        ("matched by their order alone", by_order),
        ("only in theirs", matched["only_theirs"]),
        ("only in ours", matched["only_ours"]),
        ("weights of theirs without a place in ours", weights["only_theirs"]),
        ("weights of ours that keep their initial values", weights["only_ours"]),
        ("weights found by name or shape alone", [f"{n} ({how})" for n, how in weights["guessed"].items()]),
        ("weights that do not fit", weights["conflicts"]),
        ("set, as theirs has none", [f"{n} = {v:g}" for n, v in weights["constants"].items()]),
    ):
        if names:
            more = f" ... ({len(names)})" if len(names) > SHOWN else ""
            yield f"  {words}: {', '.join(names[:SHOWN])}{more}"


def _step(step: Record) -> str:
    note = f" ({step['note']})" if step["note"] else ""
    if step["difference"] is None:
        return f"{step['name']}: not compared{note}"
    where = f", most at {' / '.join(step['where'])}" if step["where"] and not step["holds"] else ""
    verdict = "equal" if step["holds"] else "DIFFERENT"
    return f"{step['name']}: {verdict}, {amount(step['difference'])}{where}{note}"


def amount(value: float) -> str:
    """A difference, rounded up."""
    return "inf" if value == float("inf") else "0" if value == 0 else scientific(float(value))
