"""zoo sweep: models x frameworks x settings x seeds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import zoo.cli.terminal as terminal
from zoo.cli.options import FINDING, JsonOption, QuietOption, count, option

if TYPE_CHECKING:
    from zoo.sweeps.specification import Specification

AddressOption = Annotated[
    str | None,
    option("Ray cluster: auto, ray://HOST:10001, or local; without, processes of this machine.", "ADDRESS"),
]
JobsOption = Annotated[int | None, count("Runs at a time; as many as the processors allow by default.")]


def sweep(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="sweep.toml: models, backends, seeds, [settings], [search]."),
    ],
    out: Annotated[
        Path | None, option("Folder of the results.", "PATH", show_default="sweeps/NAME of the file")
    ] = None,
    address: AddressOption = None,
    jobs: JobsOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the file and list the runs.")] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train every combination of models, frameworks, settings, seeds."""
    from zoo import sweeps

    specification = sweeps.specify_file(file)
    folder = sweeps.folder_of(file, out)
    if dry_run:
        terminal.note(str(specification), quiet=quiet)
        tasks = specification.combinations() if specification.search else specification.tasks()
        if as_json:
            terminal.print_json([{"key": task.key, **task.facts} for task in tasks])
        else:
            print("\n".join(map(str, tasks)))
        return
    run(specification, folder, address=address, jobs=jobs, quiet=quiet, as_json=as_json)


def run(
    specification: Specification,
    folder: Path,
    *,
    address: str | None,
    jobs: int | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Run a sweep and print its result; exit with 1 if a run failed."""
    from zoo import sweeps

    terminal.note(str(specification), quiet=quiet)

    def show(line: str) -> None:
        terminal.note(line, quiet=quiet)

    try:
        result: Any = sweeps.run(specification, folder, address=address, jobs=jobs, show=show)
    except KeyboardInterrupt:
        terminal.note(
            f"interrupted; the results so far are in {folder / sweeps.PAGE}, and the same command goes on"
        )
        raise
    if as_json:
        terminal.print_json(result)
    else:
        print(result)
        print(f"Page: {folder / sweeps.PAGE}")
    if any(row["error"] for row in result.runs):
        raise typer.Exit(FINDING)
