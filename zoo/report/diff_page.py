"""The page of a comparison of two implementations, diff.html: their operations side by side.

One HTML file that needs no network and no JavaScript: the cursor is a group of radio buttons, which the arrow
keys move. `page` takes the result of `zoo.diff`, or what diff.json holds of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from typing import Any

from zoo import storage
from zoo.report.curves import Curve, line_chart
from zoo.report.diff import Record, amount, gap, groups, unmatched
from zoo.report.rails import rails
from zoo.report.templates import POLICY, environment, style
from zoo.report.words import machine_facts, number

LOWEST = -16  # the power of ten at which the scale of differences begins; it ends at 1
SIDES = ("theirs", "ours")
HOW = {
    "graph": "what it computes and its neighbours",
    "values": "its values, or kind, between matched operations",
}


@cache
def _templates() -> Any:
    templates = environment()
    templates.filters["sizes"] = sizes
    return templates


def page(result: Record) -> str:
    """The page with its style."""
    result = storage.finite(dict(result))
    shown = list(rows(result))
    return _templates().get_template("diff.html").render(
        result=result,
        created=datetime.fromisoformat(result["created"]).astimezone(UTC),
        headline=headline(result),
        lead=lead(result),
        rows=shown,
        scale=[(f"1e{power}" if power else "1", share(10.0**power)) for power in range(LOWEST, 1, 4)],
        differences=list(differences(result)),
        steps=list(steps(result)),
        figures=list(figures(result)),
        unmatched=[line.strip() for line in unmatched(result)],
        weights=list(weights(result)),
        environment=machine_facts(result["environment"]),
        style=style(),
        policy=POLICY,
    )  # fmt: skip


def headline(result: Record) -> str:
    """The verdict in a line."""
    if result["verdict"] == "equal":
        return "Equal: no difference beyond rounding in float64"
    if not result["differences"]:
        failed = [step["name"] for step in result["steps"] if step["holds"] is False]
        return f"Different: {', '.join(failed)}"
    first = result["differences"][0]
    where = first["theirs"] or first["ours"] or "an unknown operation"
    return f"Different: first at {where}" + (f"; cause: {first['cause']}" if first["cause"] else "")


def lead(result: Record) -> str:
    """What was compared."""
    theirs, ours = (result[side] for side in SIDES)
    moved = "" if ours["inputs"] == "as given" else f", inputs with {ours['inputs']}"
    noise = " Ours draws random numbers in inference mode." if result["random"] else ""
    return (
        f"Theirs is {theirs['source']} ({theirs['kind']}), ours {ours['source']} ({ours['kind']}{moved}). "
        f"{len(result['matched']['pairs'])} operations were matched, and {len(result['weights']['mapping'])} "
        f"arrays carried over; both ran in float64.{noise}"
    )


# The operations


def rows(result: Record) -> Iterator[Record]:
    """The variables of the rows; the first difference is selected."""
    operations, found = result["operations"], result["differences"]
    drawn = [rails([row[side] and row[side]["reads"] for row in operations]) for side in SIDES]
    places = [each["rows"][0] for each in found if each["rows"]]
    failing = (i for i, row in enumerate(operations) if row["holds"] is False)
    selected = min(places, default=next(failing, 0))
    for i, row in enumerate(operations):
        here = [each for each in found if i in each["rows"]]
        yield {
            **{side: row[side] for side in SIDES},
            "rails": [each[i] for each in drawn],
            "share": share(row["difference"]) if both(row) else 0,
            "fails": row["holds"] is False,
            "selected": i == selected,
            "arises": bool(here),
            "text": mark(row),
            "title": " and ".join(dict.fromkeys(name(row[side]) for side in SIDES if row[side])),
            "summary": summary(row),
            "causes": [cause(each) for each in here],
            "around": list(around(row)),
            "facts": facts(row),
        }


def both(row: Record) -> bool:
    """Whether an operation has a counterpart."""
    return bool(row["theirs"] and row["ours"])


def share(difference: float | None) -> int:
    """Where a difference is on the logarithmic scale, in percent; None is infinite."""
    if difference is None:
        return 100
    power = math.log10(difference) if difference > 0 else LOWEST
    return round(100 * min(1.0, max(0.0, 1 - power / LOWEST)))


def mark(row: Record) -> str:
    """The difference of a row in a few characters."""
    if not both(row):
        return "only theirs" if row["theirs"] else "only ours"
    if row["holds"] is None:
        return "not compared"
    if row["masks_differ"]:
        return "✗ not finite"
    text = "other shape" if row["difference"] is None else amount(row["difference"])
    return f"✗ {text}" if not row["holds"] else "equal" if row["difference"] == 0 else text


def name(side: Record) -> str:
    """An operation as the text of the result names it."""
    return (
        f"{side['name']} ({side['operation']})"
        if side["name"]
        else f"{side['operation']} (operation {side['index']})"
    )


def summary(row: Record) -> str:
    """What a row says, in a sentence or two."""
    if not both(row):
        here, there = ("theirs", "ours") if row["theirs"] else ("ours", "theirs")
        return f"Only in {here}; no operation of {there} computes the same."
    if row["holds"] is None:
        return "Not compared: the shapes differ, or the values are integers."
    alone = row["difference_alone"]
    text = (
        f"The two differ {gap(row)}."
        if row["difference"] != 0 or row["masks_differ"]
        else "The two are equal."
    )
    if not row["holds"] and alone is not None and alone <= row["bound"]:
        text += (
            f" With theirs' values put in before it the difference is {amount(alone)}: "
            "it comes from an earlier operation."
        )
    return text


def cause(found: Record) -> tuple[str, str]:
    """The likely cause of a difference, and what confirmed it."""
    if not found["cause"]:
        return "The difference arises here; its cause was not found.", ""
    evidence = (
        "Confirmed: recomputed in NumPy with this, the outputs of both sides are reproduced."
        if found["confirmed"]
        else "Not confirmed by a recomputation: the settings differ as declared."
    )
    return f"Likely cause, {found['cause']}: {found['explanation']}.", evidence


def around(row: Record) -> Iterator[tuple[str, str, str, str, bool]]:
    """(index, theirs, ours, their difference, whether it is the largest) of the values that are shown."""
    largest = row["index"]
    if row["masks_differ"]:
        largest = next((i for i, a, b in row["values"] if isinstance(a, str) != isinstance(b, str)), largest)
    for index, a, b in row["values"]:
        names = isinstance(a, str) or isinstance(b, str)  # "nan", "inf" or "-inf"
        text = amount(abs(float(a) - float(b))) if not names else "" if a == b else "✗"
        yield f"[{', '.join(map(str, index))}]", _value(a), _value(b), text, a != b and index == largest


def _value(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.11g}"


def facts(row: Record) -> Record:
    """What is known of both operations."""
    found: Record = {}
    for side in SIDES:
        if (each := row[side]) is not None:
            found[f"Shape of {side}"] = sizes(each["shape"]) or "not recorded"
            if each["weights"]:
                found[f"Weights of {side}"] = ", ".join(each["weights"])
    if row["how"]:
        found["Matched by"] = HOW.get(row["how"], row["how"])
        found["Expected rounding"] = amount(row["bound"])
    for setting, values in row["settings"].items():
        found[f"Setting {setting}"] = " and ".join(map(str, values))
    return found


def sizes(shape: list[int] | None) -> str:
    """A shape with a multiplication sign."""
    return "" if shape is None else "×".join(map(str, shape)) or "scalar"


# The other sections


def differences(result: Record) -> Iterator[Record]:
    """The rows of the table of causes; those of one cause together."""
    for group in groups(result["differences"]):
        first = group[0]
        yield {
            **{side: first[side] for side in SIDES},
            "count": len(group),
            "gap": gap(first),
            "cause": f"{first['cause']}: {first['explanation']}" if first["cause"] else "not found",
            "confirmed": "–" if not first["cause"] else "yes" if first["confirmed"] else "no",
        }


def steps(result: Record) -> Iterator[Record]:
    """The rows of the table of steps, with the arrays that each compared, the largest difference first."""
    for step in result["steps"]:
        compared = step["holds"] is not None
        arrays = sorted(
            step["arrays"], key=lambda a: -math.inf if a["difference"] is None else -a["difference"]
        )
        yield {
            "name": step["name"],
            "text": gap_text(step["difference"]) if compared else "not compared",
            "fails": step["holds"] is False,
            "bound": amount(step["bound"]) if compared else "–",
            "where": " / ".join(step["where"] or ()),
            "note": step["note"],
            "arrays": [
                (a["theirs"], a["ours"], gap_text(a["difference"]), share(a["difference"])) for a in arrays
            ],
        }


def gap_text(difference: float | None) -> str:
    """A difference of a table; in a file, infinity is null."""
    return "infinite" if difference is None else "equal" if difference == 0 else amount(difference)


def figures(result: Record) -> Iterator[tuple[str, list[Curve], Any]]:
    """(title, curves, chart) of the losses of each step that has them."""
    for step in result["steps"]:
        if step["losses"]:
            hues = (("theirs", "tensorflow", ()), ("ours", "torch", (5, 3)))
            curves = [
                Curve(side, hue, [(i + 1, pair[k]) for i, pair in enumerate(step["losses"])], dash=dash)
                for k, (side, hue, dash) in enumerate(hues)
            ]
            ends = [number(pair[0]) for pair in (step["losses"][0], step["losses"][-1])]
            words = f"Line chart: the losses of theirs and ours, from {ends[0]} to {ends[1]}."
            yield f"Loss of {step['name']}", curves, line_chart(words, "step", curves)


def weights(result: Record) -> Iterator[tuple[str, str, str, str]]:
    """(ours, theirs, layout, how it was found) of each array of ours, the ambiguous ones first."""
    carried = result["weights"]
    guessed, constants = carried["guessed"], carried["constants"]
    for ours, each in sorted(carried["mapping"].items(), key=lambda item: item[0] not in guessed):
        how = f"{guessed[ours]} alone" if ours in guessed else "use"
        yield ours, ", ".join(each["theirs"]), each["layout"], how
    for ours, value in constants.items():
        yield ours, "none", f"set to {value:g}", "use"
    for ours in carried["only_ours"]:
        yield ours, "none", "its initial values", "–"
