"""A comparison on the terminal: a table that is updated while it runs, and a summary at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from zoo.ladder.bounds import BOUNDS
from zoo.report.words import Record, baseline_text, bound_text, scientific

if TYPE_CHECKING:
    from rich.console import Console

BARS, WIDTH = "▁▂▃▄▅▆▇█", 12


@contextmanager
def live(console: Console) -> Iterator[Callable[[list[Record]], None]]:
    """A callback that displays the rows on a terminal; elsewhere it prints a line when a run ends."""
    if not console.is_terminal:
        finished: set[int] = set()

        def update(rows: list[Record]) -> None:
            for row in rows:
                if id(row) not in finished and row["status"] in ("trained", "failed"):
                    finished.add(id(row))
                    _print(console, f"{_name(row)}: {row['error'] or _status(row)}")

        yield update
        return
    with Live(console=console, auto_refresh=False, transient=True) as display:
        yield lambda rows: display.update(_table(rows, running=True), refresh=True)


def summary(result: Record, console: Console) -> None:
    """Print the runs, the errors of those that failed, and for each model how far its runs are apart."""
    console.print(_table(result["runs"]))
    for row in result["runs"]:
        if row["error"]:
            _print(console, f"{_name(row)} failed: {row['error']}")
        if found := row.get("workers"):
            same = "equal" if found["equal_weights"] else "not equal"
            _print(
                console,
                f"{_name(row)} on {found['count']} workers: losses within {scientific(found['losses'])}, "
                f"relative, of one process's; weights of the workers {same}",
            )
    for model in result["models"]:
        pairs, runs = (
            [each for each in result[key] if each["model"] == model["name"]]
            for key in ("differences", "runs")
        )
        for line in _parity(model, pairs, runs):
            _print(console, line)


def _parity(model: Record, pairs: list[Record], runs: list[Record]) -> Iterator[str]:
    """The baseline of a model's task, the largest differences of its runs, the layers that differ first."""
    if baseline := model.get("baseline"):
        yield f"{model['task']}, non-neural baseline: {baseline_text(baseline)}"
    if not pairs:
        return
    hashes = {run.get("hash") for run in runs}
    if None not in hashes:
        same = len(hashes) == 1
        yield f"{model['name']}, {len(runs)} runs: {'the same bits' if same else 'different bits'}"
        for run in runs:
            yield f"  {_name(run)}: SHA-256 {run['hash']}"
    outputs, losses = (scientific(max(pair[key] for pair in pairs)) for key in ("outputs", "losses"))
    weights, predictions = (max(pair[key] for pair in pairs) for key in ("initial_weights", "predictions"))
    yield (
        f"{model['name']}, {len(pairs)} pairs: initial weights "
        f"{f'{scientific(weights)} apart' if weights else 'bit-equal'}, outputs within {outputs}, "
        f"losses within {losses} at every step, "
        + (f"at most {predictions} predictions differ" if predictions else "no predictions differ")
    )
    if drift := model.get("drift"):
        yield (
            f"  with 1-ulp perturbations of the initial weights {drift['run']} differs from itself by up "
            f"to {scientific(drift['losses'])}; the bound is {scientific(model['bounds']['losses'])}"
        )
    for pair in pairs:
        if layer := pair["first_layer"]:
            yield (
                f"  {pair['a']} and {pair['b']} first differ at {layer['layer']}: "
                f"{scientific(layer['difference'])}, bound {bound_text(BOUNDS['outputs'])}"
            )


def _print(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False)


# By heading, the cell of a trained run; the heading of the metric is replaced by its name.
FIGURES: dict[str, Callable[[Record], str]] = {
    "loss": lambda row: f"{row['losses'][-1]:.4f}",
    "metric": lambda row: next((f"{value:.4f}" for value in row["metrics"].values()), ""),
    "first step": lambda row: f"{row['first_step_s']:.2f} s",
    "step": lambda row: f"{row['step_ms']:.2f} ms" if "step_ms" in row else "",
    "peak": lambda row: f"{row['peak_mb']:,.0f} MB",
}


def _table(rows: list[Record], *, running: bool = False) -> Table:
    """A row per run; while they run, with their losses and status."""
    several = len({row["model"] for row in rows}) > 1
    metric = next((name for row in rows for name in row.get("metrics", {})), "metric")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    figures = {name: FIGURES[name] for name in (("metric",) if running else FIGURES)}
    table.add_column("run")  # wraps on a narrow terminal, so that no number is cut
    if running:
        table.add_column("losses", no_wrap=True)
    for heading in figures:
        table.add_column(metric if heading == "metric" else heading, justify="right", no_wrap=True)
    if running:
        table.add_column("", no_wrap=True)
    for row in rows:
        run = " ".join(row[key] for key in ("backend", "engine", "mode") if row[key] != "fit")
        cells = [figure(row) if "losses" in row else "" for figure in figures.values()]
        if running:
            cells = [curve(row, rows), *cells, _status(row)]
        table.add_row(f"{row['model']} {run}" if several else run, *cells)
    return table


def curve(row: Record, rows: list[Record]) -> str:
    """The losses so far as bars on a logarithmic scale, the same for all runs of a model."""
    own = [_means(other) for other in rows if other["model"] == row["model"]]
    heights = [math.log(loss) for losses in own for loss in losses]
    if not heights:
        return ""
    low, span = min(heights), (max(heights) - min(heights)) or 1.0
    return "".join(BARS[round(7 * (math.log(loss) - low) / span)] for loss in _means(row))


def _means(row: Record) -> list[float]:
    """The losses as at most `WIDTH` means of neighbours, without those that are not finite and positive."""
    losses = [x for x in row.get("losses") or row.get("watched") or [] if math.isfinite(x) and x > 0]
    ends = [round(i * len(losses) / WIDTH) for i in range(WIDTH + 1)]
    return [fmean(losses[a:b]) for a, b in pairwise(ends) if b > a]


def _status(row: Record) -> str:
    if row["error"]:
        return "failed"
    if row["status"] == "trained":
        return f"trained in {row['train_s']:.1f} s"
    return row["status"]


def _name(row: Record) -> str:
    return f"{row['model']} {row['backend']}/{row['engine']}/{row['mode']}"
