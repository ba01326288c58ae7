"""The comparison on the terminal: rows that fill while it runs, and what they say at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.live import Live
from rich.table import Table

from zoo.ladder.bounds import BOUNDS
from zoo.tasks.baselines import Baseline

if TYPE_CHECKING:
    from rich.console import Console

Record = dict[str, Any]

BARS, WIDTH = "▁▂▃▄▅▆▇█", 12


@contextmanager
def live(console: Console) -> Iterator[Callable[[list[Record]], None]]:
    """Shows the rows as they change on a terminal; elsewhere a line as each run ends."""
    if not console.is_terminal:
        told: set[int] = set()

        def tell(rows: list[Record]) -> None:
            for row in rows:
                if id(row) not in told and row["status"] in ("trained", "failed"):
                    told.add(id(row))
                    console.print(
                        f"{_name(row)}: {row['error'] or _state(row)}", highlight=False, markup=False
                    )

        yield tell
        return
    with Live(console=console, auto_refresh=False, transient=True) as display:
        yield lambda rows: display.update(_table(rows, running=True), refresh=True)


def summary(result: Record, console: Console) -> None:
    """The rows, what failed and of what, and for each model how far apart its runs are."""
    console.print(_table(result["runs"]))
    for row in result["runs"]:
        if row["error"]:
            console.print(f"{_name(row)} failed: {row['error']}", highlight=False, markup=False)
    for model in result["models"]:
        if model.get("baseline"):
            reached = Baseline(**model["baseline"])
            console.print(f"{model['task']}, non-neural baseline: {reached}", highlight=False)
        pairs = [d for d in result["differences"] if d["model"] == model["name"]]
        if not pairs:
            continue
        worst = {
            key: max(d[key] for d in pairs) for key in ("initial_weights", "outputs", "losses", "predictions")
        }
        weights = "bit-equal" if worst["initial_weights"] == 0 else f"{worst['initial_weights']:.1e} apart"
        console.print(
            f"{model['name']}, {len(pairs)} pairs: initial weights {weights}, outputs within "
            f"{worst['outputs']:.1e}, losses within {worst['losses']:.1e} at every step, "
            + differing(worst["predictions"]),
            highlight=False,
        )
        if drift := model.get("drift"):
            console.print(
                f"  with 1-ulp perturbations of the initial weights {drift['run']} differs from itself by "
                f"up to {drift['losses']:.1e}: the bound of the losses is {model['bounds']['losses']:.1e}",
                highlight=False,
            )
        for pair in pairs:
            if pair["first_layer"]:
                first, bound = pair["first_layer"], BOUNDS["outputs"]
                console.print(
                    f"  {pair['a']} and {pair['b']} first differ at {first['layer']}: "
                    f"{first['difference']:.1e}, bound {bound:.0e}",
                    highlight=False,
                )


def differing(predictions: int) -> str:
    """The largest number of predictions that differ, in words."""
    return f"at most {predictions} predictions differ" if predictions else "no predictions differ"


# heading -> how a trained row says it; the metric's heading is its name
FIGURES: dict[str, Callable[[Record], str]] = {
    "loss": lambda row: f"{row['losses'][-1]:.4f}",
    "metric": lambda row: next((f"{value:.4f}" for value in row["metrics"].values()), ""),
    "first step": lambda row: f"{row['first_step_s']:.2f} s",
    "step": lambda row: f"{row['step_ms']:.2f} ms" if "step_ms" in row else "",
    "peak": lambda row: f"{row['peak_mb']:,.0f} MB",
}


def _table(rows: list[Record], *, running: bool = False) -> Table:
    """A row a run; while they run, with what each is doing."""
    several = len({row["model"] for row in rows}) > 1
    metric = next((name for row in rows for name in row.get("metrics", {})), "metric")
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    figures = {name: FIGURES[name] for name in (("metric",) if running else FIGURES)}
    table.add_column("run")  # where it is narrow this wraps, and no number is cut
    if running:
        table.add_column("losses", no_wrap=True)
    for heading in figures:
        table.add_column(metric if heading == "metric" else heading, justify="right", no_wrap=True)
    if running:
        table.add_column("", no_wrap=True)
    for row in rows:
        run = " ".join(row[key] for key in ("backend", "engine", "mode") if row[key] != "fit")
        said = [say(row) if "losses" in row else "" for say in figures.values()]
        now = [curve(row, rows)] if running else []
        state = [_state(row)] if running else []
        table.add_row(f"{row['model']} {run}" if several else run, *now, *said, *state)
    return table


def curve(row: Record, rows: list[Record]) -> str:
    """The losses so far as bars of eighths, logarithmic, on one scale for all runs of a model."""
    own = [_thinned(other) for other in rows if other["model"] == row["model"]]
    heights = [math.log(loss) for losses in own for loss in losses]
    if not heights:
        return ""
    low, span = min(heights), (max(heights) - min(heights)) or 1.0
    return "".join(BARS[round(7 * (math.log(loss) - low) / span)] for loss in _thinned(row))


def _thinned(row: Record) -> list[float]:
    """A dozen of the losses, each the mean of those around it; what is no positive number is left out."""
    losses = [x for x in row.get("losses") or row.get("watched") or [] if math.isfinite(x) and x > 0]
    ends = [round(i * len(losses) / WIDTH) for i in range(WIDTH + 1)]
    return [fmean(losses[a:b]) for a, b in pairwise(ends) if b > a]


def _state(row: Record) -> str:
    if row["error"]:
        return "failed"
    if row["status"] == "trained":
        return f"trained in {row['train_s']:.1f} s"
    return row["status"]


def _name(row: Record) -> str:
    return f"{row['model']} {row['backend']}/{row['engine']}/{row['mode']}"
