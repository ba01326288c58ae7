"""zoo hunt: a search for operations and layers that differ between Keras's backends."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import zoo.cli.terminal as terminal
from zoo.cli.options import BackendsOption, JsonOption, QuietOption, count, number, option, split_names

Record = dict[str, Any]


def hunt(
    minutes: Annotated[float, number("How long to search.", "--minutes")] = 10.0,
    seed: Annotated[int, count("Of the order of the cases and of the random models.", least=0)] = 0,
    only: Annotated[
        str | None, option("Only operations, layers and groups with this in their name, e.g. conv.", "TEXT")
    ] = None,
    backends: BackendsOption = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Print programs of documented differences and of rounding too.")
    ] = False,
    output: Annotated[Path | None, option("File for the findings, as JSON.", "FILE")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Search for operations and layers of Keras that differ between the backends, for a fixed time."""
    from zoo import storage
    from zoo.hunt.run import hunt

    with terminal.status(quiet=quiet) as show:
        result = hunt(minutes, seed=seed, only=only, backends=split_names(backends), show=show)
    if output is not None:
        storage.write_text(output, storage.json_text(result))
    if as_json:
        terminal.print_json(result)
    else:
        summary(result, everything=everything)


def summary(result: Record, *, everything: bool) -> None:
    """Print the findings: a table, then the program of each."""
    from rich.markup import escape

    out = terminal.console()
    rows = terminal.table("sort", "operation", "differs in", "on", "cases>")
    for found in result["findings"]:
        on = ", ".join(found["backends"])
        rows.add_row(found["sort"], escape(found["operation"]), found["kind"], on, str(found["count"]))
    out.print(rows)
    for found in result["findings"]:
        if found["sort"] != "defect" and not everything:
            continue
        out.print(
            f"[bold]{escape(found['operation'])}[/]: {found['kind']}, {found['sort']} {found['reason']}"
        )
        for backend, value in found["values"].items():
            out.print(f"  {backend}: {value}", highlight=False, markup=False, soft_wrap=True)
        out.print(found["program"], highlight=False, markup=False, soft_wrap=True)
    counts, sorts = result["counts"], [found["sort"] for found in result["findings"]]
    kinds = ", ".join(f"{sorts.count(sort)} {sort}" for sort in ("defect", "documented", "rounding"))
    out.print(
        f"{counts['cases']:,} cases of the catalogue, {counts['compiled']:,} compiled, {counts['models']:,} "
        f"random models in {result['seconds']:.0f} s: {counts['differences']:,} differ, "
        f"in {len(sorts)} ways: {kinds}",
        highlight=False,
    )
