"""The parity ladder as a table: on the terminal, and as a section of the report's page."""

from __future__ import annotations

import html
import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zoo.report.words import scientific

if TYPE_CHECKING:
    from rich.console import Console

Record = dict[str, Any]
escape = html.escape


def cell(row: Record) -> str:
    """What was measured: "equal", a difference, a count of predictions."""
    if row["measured"] is None:
        return "beyond any"
    if row["measured"] == 0:
        return "equal"
    return f"{row['measured']:.0f}" if row["name"] == "evaluation" else scientific(row["measured"])


def grid(result: Record) -> Iterator[tuple[str, str, str, dict[int, Record]]]:
    """(model, float type, pair, its row by rung), the pairs of a model together."""
    found: dict[tuple[str, str, str], dict[int, Record]] = {}
    for row in result["rows"]:
        pair = row["a"] if row["a"] == row["b"] else f"{row['a']}, {row['b']}"
        found.setdefault((row["model"], row["dtype"], pair), {})[row["rung"]] = row
    for (model, dtype, pair), rows in sorted(
        found.items(),
        key=lambda item: (result["models"].index(item[0][0]), item[0][1], ", " not in item[0][2]),
    ):
        yield model, dtype, pair, rows


def bounds(result: Record) -> list[str]:
    """Each rung's claim, with its bounds, in a line."""
    said = []
    for rung in result["rungs"]:
        limits = {
            dtype: "five times the chaos floor"
            if rung[dtype] is None
            else "equal" if rung[dtype] == 0 else f"{rung[dtype]:.0e}"
            for dtype in dict.fromkeys(row["dtype"] for row in result["rows"])
        }  # fmt: skip
        alike = len(set(limits.values())) == 1
        text = next(iter(limits.values())) if alike else "; ".join(f"{d} {x}" for d, x in limits.items())
        said.append(f"{rung['number']} {rung['name']}: {rung['claim']} ({text})")
    return said


def failures(result: Record) -> Iterator[str]:
    """What is beyond its bound, or known to be, a line each."""
    for row in result["rows"]:
        who = row["a"] if row["a"] == row["b"] else f"{row['a']} and {row['b']}"
        head = f"{row['model']}, {row['dtype']}, rung {row['rung']}, {who}"
        if row["error"]:
            yield f"{row['model']}, {row['dtype']}, {row['a']}: the process crashed: {row['error']}"
        elif row["verdict"] == "closed":
            yield f"{head}: a known gap that holds now; take it off zoo.ladder.GAPS. It was: {row['reason']}"
        elif row["verdict"] != "holds":
            known = f" Known: {row['reason']}." if row["verdict"] == "gap" else ""
            yield f"{head}: {place(row['where'] or {})} Bound {scientific(row['bound'])}.{known}"


def place(where: Record) -> str:
    """The first layer that differs, both values, by how much, and what is suspected."""
    text = f"first differs at {where.get('layer', 'an unknown place')}"
    if where.get("index") is not None and "a" in where:
        text += f"{where['index']}: {where['a']:.9g} against {where['b']:.9g}"
    elif "a" in where:
        text += f": {where['a']} against {where['b']}"
    by = where.get("difference")
    text += f", by {scientific(by)}." if by is not None else "."
    return text + (f" Suspect: {where['suspect']}." if where.get("suspect") else "")


def summary(result: Record, console: Console) -> None:
    """The table, what each column means, and what is beyond its bound."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    numbers = [rung["number"] for rung in result["rungs"]]
    for (model, dtype), pairs in itertools.groupby(grid(result), key=lambda found: found[:2]):
        table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=0)
        table.add_column(f"{model}\n{dtype}", width=max(11, len(model)), no_wrap=True)
        for n in numbers:
            table.add_column(f"\n{n}", justify="right", width=7, no_wrap=True)
        for _, _, pair, rows in pairs:
            short = pair.replace("tensorflow", "tf")  # eighty columns hold all eight rungs
            cells = [Text("died", style="bold red")] if 0 in rows else [_cell(rows.get(n)) for n in numbers]
            table.add_row(short, *cells)
        console.print(table)
    for line in bounds(result):
        console.print(line, highlight=False, markup=False)
    for line in failures(result):
        console.print(line, style="bold red", highlight=False, markup=False)
    failed = sum(row["verdict"] in ("fails", "closed") for row in result["rows"])
    console.print(
        f"{len(result['rows'])} comparisons, {failed or 'none'} beyond its bound",
        highlight=False,
        markup=False,
    )


def _cell(row: Record | None) -> Any:
    from rich.text import Text

    return Text(
        "" if row is None else cell(row), style="bold red" if row and row["verdict"] != "holds" else ""
    )


def faults(rows: list[Record], console: Console) -> None:
    """Which rung caught which fault."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("rung", "fault", "caught by", "first differs at"):
        table.add_column(heading)
    for row in rows:
        if row["fault"] is None:
            continue
        right = row["caught"] == row["rung"]
        caught = "missed" if row["caught"] is None else f"rung {row['caught']}"
        where = row["error"] or row["where"] or ""
        table.add_row(str(row["rung"]), row["fault"], Text(caught, style="" if right else "bold red"), where)
    console.print(table)
    control = next(row for row in rows if row["fault"] is None)
    seeded = [row for row in rows if row["fault"] is not None]
    missed = sum(row["caught"] is None for row in seeded)
    wrong = sum(row["caught"] not in (None, row["rung"]) for row in seeded)
    console.print(
        f"{len(seeded)} faults, {missed or 'none'} missed, {wrong or 'none'} caught by another rung; "
        "with none seeded "
        + ("every rung holds" if control["caught"] is None else f"rung {control['caught']} fails"),
        highlight=False,
    )


def section(result: Record) -> str:
    """The ladder's part of the page."""
    numbers = [rung["number"] for rung in result["rungs"]]
    names = {rung["number"]: rung["name"] for rung in result["rungs"]}
    head = "".join(f'<th scope="col">{n} {escape(names[n])}</th>' for n in numbers)
    body = []
    for model, dtype, pair, rows in grid(result):
        cells = "".join(_html_cell(rows.get(n)) for n in numbers)
        if 0 in rows:
            cells = f'<td class="fail" colspan="{len(numbers)}">✗ {escape(rows[0]["error"])}</td>'
        body.append(f'<tr><th scope="row">{escape(model)} {dtype}: {escape(pair)}</th>{cells}</tr>')
    failed = sum(row["verdict"] in ("fails", "closed") for row in result["rows"])
    verdict = f"{failed} of {len(result['rows'])} comparisons beyond their bound" if failed else (
        f"all {len(result['rows'])} comparisons hold"
    )  # fmt: skip
    lines = "".join(f"<li>{escape(line)}</li>" for line in bounds(result))
    wrong = "".join(f'<li class="fail">{escape(line)}</li>' for line in failures(result))
    return f"""<section class="model" aria-labelledby="ladder">
<h2 id="ladder">The parity ladder: {verdict}</h2>
<p class="lead">Each model in its small configuration, on each pair of frameworks; rung 7 compares the engines
and modes of one framework. The columns are explained below the table. The first rung that fails names
the first layer that differs.</p>
<div class="scroll" tabindex="0" role="region" aria-label="Parity ladder"><table>
<thead><tr><th scope="col">Model and pair</th>{head}</tr></thead><tbody>{"".join(body)}</tbody></table></div>
<ul>{lines}</ul>
{f"<ul>{wrong}</ul>" if wrong else ""}
</section>"""


def _html_cell(row: Record | None) -> str:
    if row is None:
        return "<td></td>"
    text = escape(cell(row))
    return f"<td>{text}</td>" if row["verdict"] == "holds" else f'<td class="fail">✗ {text}</td>'
