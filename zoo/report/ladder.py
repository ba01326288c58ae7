"""The parity ladder as a table: on the terminal, and as a section of the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from zoo.report.results import Location, ParityRow
from zoo.report.words import Record, bound_text, scientific

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

FAILURES = ("fails", "closed")  # verdicts


def cell(row: ParityRow) -> str:
    """The measurement of a row: "equal", a difference, or a number of predictions or of roundings."""
    value = row["measured"]
    if value is None or value == float("inf"):
        return "inf"
    if value == 0:
        return "equal"
    if row["name"] == "precision":
        return f"{value:.1f}"
    return f"{value:.0f}" if row["name"] == "evaluation" else scientific(value)


def grid(result: Record) -> Iterator[tuple[str, str, str, dict[int, ParityRow]]]:
    """(model, float type, pair, its rows by rung), the pairs of a model together."""
    rows: dict[tuple[str, str, str], dict[int, ParityRow]] = {}
    for row in result["rows"]:
        pair = row["a"] if row["a"] == row["b"] else f"{row['a']}, {row['b']}"
        rows.setdefault((row["model"], row["dtype"], pair), {})[row["rung"]] = row
    for model, dtype, pair in sorted(
        rows, key=lambda key: (result["models"].index(key[0]), key[1], ", " not in key[2])
    ):
        yield model, dtype, pair, rows[model, dtype, pair]


def limit(bound: float) -> str:
    """The bound of a rung that has one: "equal", a power of ten, or so many roundings."""
    return "equal" if bound == 0 else f"{bound:g}" if bound >= 1 else bound_text(bound)


def tables(result: Record) -> Iterator[tuple[str, str, list[str], dict[str, dict[str, ParityRow]]]]:
    """(model, title, columns, rows by pair and column), each at most eight columns wide.

    A float type has a column for each rung, and number formats have a table of rung 11.
    """
    found: dict[tuple[str, str], dict[str, dict[str, ParityRow]]] = {}
    for model, dtype, pair, rows in grid(result):
        title = "rung 11" if set(rows) == {11} else dtype
        line = {dtype: rows[11]} if set(rows) == {11} else {str(n): row for n, row in rows.items()}
        found.setdefault((model, title), {}).setdefault(pair, {}).update(line)
    last = sorted(found, key=lambda key: (result["models"].index(key[0]), key[1] == "rung 11"))
    for (model, title), lines in ((key, found[key]) for key in last):
        named = ((column, row) for line in lines.values() for column, row in line.items())
        columns = list(dict.fromkeys(column for column, row in named if not row["error"]))
        columns = columns if title == "rung 11" else sorted(columns, key=int)
        for start in range(0, max(1, len(columns)), 8):
            yield model, title, columns[start : start + 8], lines


def claims(result: Record) -> list[str]:
    """The claim of each rung with its bounds, one line each."""
    lines = []
    for rung in result["rungs"]:
        bounds = {
            dtype: "five times the chaos floor" if rung[dtype] is None else limit(rung[dtype])
            for dtype in dict.fromkeys(row["dtype"] for row in result["rows"])
            if dtype in rung  # no number format of rung 11
        }  # fmt: skip
        same = len(set(bounds.values())) == 1
        text = next(iter(bounds.values())) if same else "; ".join(f"{d} {x}" for d, x in bounds.items())
        lines.append(f"{rung['number']} {rung['name']}: {rung['claim']} ({text})")
    return lines


def verdicts(result: Record) -> Iterator[str]:
    """A line for each pair of frameworks: equal, rounding, or DIFFERENT and where first; then the notes.

    A framework that differs from itself has a line too.
    """
    for row in result["rows"]:
        if row["error"]:
            yield f"{row['model']}, {row['a']} {row['dtype']}: not compared: {row['error']}"
    pairs: dict[tuple[str, str, str], list[ParityRow]] = {}
    for row in result["rows"]:
        if row["a"] != row["b"]:
            pairs.setdefault((row["model"], row["a"], row["b"]), []).append(row)
    for (model, a, b), rows in pairs.items():
        yield f"{model}, {a} and {b}: {_verdict(rows)}"
    for row in result["rows"]:
        if row["a"] == row["b"] and row["verdict"] == "fails" and not row["error"]:
            head = f"{row['model']}, {row['a']} {row['dtype']}: DIFFERENT: rung {row['rung']}, {row['name']}"
            yield f"{head}, {location(row['where'])}"
    for model, notes in result.get("notes", {}).items():
        yield from (f"{model}: {note}" for note in notes)


def _verdict(rows: list[ParityRow]) -> str:
    """The verdict on a pair of frameworks, in words."""
    failed = [row for row in rows if row["verdict"] == "fails"]
    if not failed:
        flow = [row for row in rows if row["rung"] in (2, 3)]
        largest = {row["dtype"]: 0.0 for row in flow}
        for row in flow:
            largest[row["dtype"]] = max(largest[row["dtype"]], row["measured"] or 0.0)
        text = ", ".join(f"{scientific(x)} in {dtype}" for dtype, x in largest.items() if x)
        return f"rounding: outputs and gradients differ by {text}" if text else "equal"
    double = [row for row in failed if row["dtype"] == "float64"]
    first = min(double or failed, key=lambda row: row["rung"])
    text = f"DIFFERENT: rung {first['rung']}, {first['name']}, {location(first['where'])}"
    if not double and any(row["dtype"] == "float64" for row in rows):
        text += " In float64 they agree: an operation rounds more in float32 on one of them."
    return text


def failures(result: Record) -> Iterator[str]:
    """The rows that exceed their bound, known gaps included, one line each."""
    for row in result["rows"]:
        pair = row["a"] if row["a"] == row["b"] else f"{row['a']} and {row['b']}"
        head = f"{row['model']}, {row['dtype']}, rung {row['rung']}, {pair}"
        if row["error"]:
            yield f"{row['model']}, {row['dtype']}, {row['a']}: the process crashed: {row['error']}"
        elif row["verdict"] == "closed":
            yield f"{head}: a closed gap; remove it from zoo.ladder.bounds.GAPS. It was: {row['reason']}"
        elif row["verdict"] != "holds":
            reason = f" Known gap: {row['reason']}." if row["verdict"] == "gap" else ""
            yield f"{head}: {location(row['where'])} Bound {scientific(row['bound'])}.{reason}"


def location(where: Location | None) -> str:
    """The first layer that differs, both values, their difference, and the suspected operation."""
    if not where:
        return "first differs at an unknown layer."
    text, index, difference = f"first differs at {where['layer']}", where.get("index"), where["difference"]
    if index is not None and "a" in where:
        text += f"{index}: {where['a']:.9g} against {where.get('b'):.9g}"
    elif "a" in where:
        text += f": {where['a']} against {where.get('b')}"
    if difference is not None:
        text += f", by {scientific(difference)}"
    if (rounding := where.get("rounding")) is not None:
        text += f" where rounding is {scientific(rounding)}"
    text += "."
    if suspect := where.get("suspect"):
        text += f" Suspect: {suspect}."
    return text + (f" Cause: {cause}." if (cause := where.get("explanation")) else "")


def failure_count(result: Record) -> int:
    """How many comparisons failed."""
    return sum(row["verdict"] in FAILURES for row in result["rows"])


def section(result: Record) -> Record:
    """The variables of ladder.html."""
    numbers = [rung["number"] for rung in result["rungs"]]
    lines = []
    for model, dtype, pair, rows in grid(result):
        error = rows[0]["error"] if 0 in rows else None
        cells = [
            (cell(row), row["verdict"] != "holds") if row else ("", False) for row in map(rows.get, numbers)
        ]
        lines.append((f"{model} {dtype}: {pair}", error, cells))
    total, failed = len(result["rows"]), failure_count(result)
    verdict = f"{failed} of {total} comparisons beyond their bound"
    return {
        "verdict": verdict if failed else f"all {total} comparisons hold",
        "columns": [f"{rung['number']} {rung['name']}" for rung in result["rungs"]],
        "rows": lines,
        "claims": claims(result),
        "failures": list(failures(result)),
    }


# On the terminal


def summary(result: Record, console: Console) -> None:
    """Print the table, the meaning of each column, and the failures."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for model, title, columns, lines in tables(result):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
        table.add_column(f"{model}\n{title}", width=max(11, len(model)), no_wrap=True)
        for column in columns:
            table.add_column(f"\n{column}", justify="right", width=max(7, len(column)), no_wrap=True)
        for pair, rows in lines.items():
            short = pair.replace("tensorflow", "tf")  # eighty columns hold eight rungs
            if any(row["error"] for row in rows.values()):
                table.add_row(short, Text("crashed", style="bold red"))
            elif any(map(rows.get, columns)):
                table.add_row(short, *map(_text, map(rows.get, columns)))
        console.print(table)
    for line in claims(result):
        console.print(line, highlight=False, markup=False)
    if len(result["models"]) == 1:
        for line in verdicts(result):
            console.print(line, style="bold", highlight=False, markup=False)
    for line in failures(result):
        console.print(line, style="bold red", highlight=False, markup=False)
    total, failed = len(result["rows"]), failure_count(result)
    console.print(f"{total} comparisons, {failed or 'none'} beyond its bound", highlight=False, markup=False)


def _text(row: ParityRow | None) -> Text:
    from rich.text import Text

    return Text(cell(row) if row else "", style="bold red" if row and row["verdict"] != "holds" else "")


def faults(rows: list[Record], console: Console) -> None:
    """Print which rung detected which fault."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    control = next(row for row in rows if row["fault"] is None)
    seeded = [row for row in rows if row["fault"] is not None]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("rung", "fault", "caught by", "first differs at"):
        table.add_column(heading)
    for row in seeded:
        rung = Text(
            "missed" if row["caught"] is None else f"rung {row['caught']}",
            style="" if row["caught"] == row["rung"] else "bold red",
        )
        table.add_row(str(row["rung"]), row["fault"], rung, row["error"] or row["where"] or "")
    console.print(table)
    missed = sum(row["caught"] is None for row in seeded)
    wrong = sum(row["caught"] not in (None, row["rung"]) for row in seeded)
    console.print(
        f"{len(seeded)} faults, {missed or 'none'} missed, {wrong or 'none'} caught by another rung; "
        "without a fault "
        + ("every rung holds" if control["caught"] is None else f"rung {control['caught']} fails"),
        highlight=False,
    )
