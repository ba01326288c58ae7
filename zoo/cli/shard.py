"""zoo shard."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

import zoo.cli.terminal as terminal
from zoo.cli.options import JsonOption, QuietOption, TokenizerOption, count, option


def shard(
    source: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A folder or table of images, a .csv, .tsv or .jsonl of labelled texts, a .txt.",
        ),
    ],
    out: Annotated[str, typer.Argument(metavar="OUT", help="A new folder, or a URL: s3://bucket/folder ...")],
    rows: Annotated[int | None, count("Rows of a row group; by default 64 images, 1,024 others.")] = None,
    lanes: Annotated[
        int, count("Pieces of an epoch that are read together, 8 to 64; workers should divide it.")
    ] = 16,
    test: Annotated[
        str | None, option("Held-out examples, instead of the part that zoo train holds out.", "PATH")
    ] = None,
    tokenizer: TokenizerOption = None,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out images that cannot be read, and invalid lines.")
    ] = False,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a data set as Parquet shards, to train on from a disk or an object store."""
    from zoo import tokenizers
    from zoo.tasks.shards_writing import write

    with _bar(quiet=quiet) as progress:
        written = write(
            source, out, rows=rows, lanes=lanes, test=test, tokenizer=tokenizers.resolve(tokenizer),
            skip_bad=skip_bad, progress=progress,
        )  # fmt: skip
    for line in written["skipped"]:
        terminal.note(f"skipped: {line}", quiet=quiet)
    if as_json:
        terminal.print_json(written)
        return
    sizes = ", ".join(
        f"{split} {number:,} rows in {written['groups'][split]} groups"
        for split, number in written["rows"].items()
    )
    left_out = f"; {len(written['skipped'])} bad rows skipped" if written["skipped"] else ""
    print(
        f"{out}: {written['kind']}, {sizes}, {written['lanes']} lanes, {written['bytes']:,} bytes{left_out}"
    )


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Callable[[int, int], Any] | None]:
    """A progress bar on a terminal; called with the rows done, and of how many."""
    if quiet or not (console := terminal.console(stderr=True)).is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [TextColumn("rows"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task("rows", total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)
