"""The charts of the report as Vega-Lite specifications. Colours, fonts and widths are CSS and JavaScript."""

import math
from collections.abc import Callable
from typing import Any

from zoo.report.results import Number
from zoo.report.words import FRAMEWORKS, Record, Run, bound_text, conjunction, framework


def mark(kind: str, style: str, **encoding: Any) -> Record:
    """A layer: marks of a kind, in a style that report.js defines."""
    return {"mark": {"type": kind, "style": style, "clip": kind in ("line", "point")}, "encoding": encoding}


def values(name: str, **options: Any) -> Record:
    """A channel that encodes a numeric column."""
    return {"field": name, "type": "quantitative", "title": None, **options}


def identity(run: Run) -> Record:
    """The columns of a chart's data that say which run a row belongs to."""
    return {"run": run.id, "name": run.name, "framework": framework(run.backend), "dash": run.dash}


HUE = {"field": "framework", "scale": {"domain": list(FRAMEWORKS.values())}, "legend": None}
# The id of the run selected in the legend, which is HTML.
SELECTION = {"name": "selection", "value": None}
OPACITY = {"condition": {"test": "!selection || datum.run === selection", "value": 1}, "value": 0.2}
SOLID = {"test": "datum.run === selection", "value": []}
DASH = {"field": "dash", "type": "nominal", "scale": None, "condition": SOLID}
CURVE = {"color": HUE, "opacity": OPACITY, "strokeDash": DASH, "detail": {"field": "run"}}
TIGHT = {"zero": False, "nice": False}
STEP = values("step", title="step", scale=TIGHT, axis={"grid": False, "format": ",d", "tickMinStep": 1})
# The wheel scrolls the page; with the shift key it zooms.
WHEEL = {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"}
ZOOM = {"name": "zoom", "select": WHEEL, "bind": "scales"}


def loss_chart(runs: list[Run], points: int) -> Record:
    """The loss of each run over the steps, at most `points` values per curve."""
    runs = sorted(runs, key=lambda run: run.engine != "keras")
    every = math.ceil(max(len(run.losses) for run in runs) / points)
    chart = line_chart(runs, [thin(run.losses, every, lambda some: some[0]) for run in runs], every)
    # Equal curves hide each other, so each is drawn over the previous one with one dash less per period:
    # where they are equal, their colours alternate along one line.
    for i, row in enumerate(chart["data"]["values"]):
        row["dash"] = [7 * (len(runs) - i), 7 * i]
    curve = mark("line", "curve", x=STEP, y=values("value"), **CURVE)
    names = conjunction(run.name for run in runs)
    return chart | {
        "description": f"Line chart: the training loss at each step of {names}.",
        "layer": [curve, crosshair(runs, ".8f"), *breaks(runs)],
    }


def breaks(runs: list[Run]) -> list[Record]:
    """A cross where losses become NaN, which the end of a line alone would not explain."""
    rows: list[Record] = [
        identity(run) | {"step": run.nan_step, "value": run.losses[run.nan_step - 2], "text": "NaN"}
        for run in runs
        if run.nan_step and run.nan_step > 1
    ]
    where = {"x": STEP, "y": values("value"), "color": HUE, "opacity": OPACITY}
    layer = [mark("point", "break"), mark("text", "break-name", text={"field": "text"})]
    return [{"data": {"values": rows}, "encoding": where, "layer": layer}] if rows else []


def difference_chart(runs: list[Run], bound: float) -> Record:
    """The differences of the losses from those of the first run, on a logarithmic axis."""
    first, *others = runs
    every = math.ceil(len(first.losses) / 120)
    gaps = [[gap(a, b) for a, b in zip(first.losses, run.losses, strict=False)] for run in others]
    columns = [thin(column, every, max) for column in gaps]
    # A logarithmic axis has no zero, so zero is drawn a decade below the least difference.
    positive = [value for column in columns for value in column if value] + [bound or 1e-6]
    floor, top = math.floor(math.log10(min(positive))) - 1, math.log10(3 * max(positive))
    decades = [10.0**n for n in range(floor, math.floor(top) + 1, math.ceil((top - floor) / 8))]
    labels = "datum.index ? format(datum.value, '.0e') : '0'"
    axis = {
        "scale": {"type": "log", "domain": [10.0**floor, 10.0**top], "nice": False},
        "axis": {"values": decades, "labelExpr": labels, "labelOverlap": False},
    }
    chart = line_chart(others, columns, every)
    chart["transform"] += [
        {"calculate": f"isValid(datum.value) ? max(datum.value, {10.0**floor}) : null", "as": "drawn"},
        {"window": [{"op": "max", "field": "drawn", "as": "top"}], "groupby": ["run"]},
        {"calculate": "isValid(datum.drawn) ? datum.top : null", "as": "largest"},  # a gap stays a gap
    ]
    limit = {
        "data": {"values": [{"bound": bound, "text": f"bound {bound_text(bound)}"}]},
        "encoding": {"y": values("bound", **axis)},
        "layer": [
            mark("rule", "bound"),
            mark("text", "bound-name", x={"value": "width"}, text={"field": "text"}),
        ],
    }
    names = conjunction(run.name for run in others)
    return chart | {
        "description": f"Line chart, logarithmic: the difference of the losses of {names} from {first.name}.",
        "layer": [
            mark("point", "gap", x=STEP, y=values("drawn", **axis), color=HUE, opacity=OPACITY),
            mark("line", "largest", x=STEP, y=values("largest", **axis), **CURVE),
            crosshair(others, ".1e"),
            *([limit] if bound else []),
        ],
    }


def line_chart(runs: list[Run], columns: list[list[Number]], every: int) -> Record:
    """One row per run with its values in a list, a third of the size of one row per point."""
    rows: list[Record] = [
        identity(run)
        | {"step": [1 + every * i for i in range(len(column))]}
        | {"value": [None if value is None else float(f"{value:.9g}") for value in column]}
        for run, column in zip(runs, columns, strict=True)
    ]
    flat = [{"flatten": ["step", "value"]}]
    return {"params": [SELECTION], "data": {"values": rows}, "transform": flat, "height": 260}


def crosshair(runs: list[Run], form: str) -> Record:
    """A vertical line at the step nearest to the pointer, and the value of every run at that step."""
    hover = {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True, "fields": ["step"]}
    columns = [values(run.id, title=run.name, format=form) for run in runs]
    near = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0}
    line = mark("rule", "crosshair", x=STEP, opacity=near, tooltip=[values("step", title="step"), *columns])
    return line | {
        "transform": [{"pivot": "run", "value": "value", "groupby": ["step"], "op": "max"}],
        "params": [{"name": "hover", "select": hover}, ZOOM],
    }


LENGTH = {"axis": None, "scale": {"nice": False}}
QUARTILES = mark("rule", "whisker", x=values("low", **LENGTH), x2={"field": "high"})
COMPILE_TIME = mark("bar", "part", x=values("compile_s", **LENGTH), color=HUE)
BAR_TOOLTIP = [
    {"field": "name", "title": "run"},
    values("step_ms", title="step, ms", format=",.3r"),
    values("low", title="lower quartile, ms", format=",.3r"),
    values("high", title="upper quartile, ms", format=",.3r"),
    values("first_step_s", title="first step, s", format=",.3r"),
    values("compile_s", title="compilation, s", format=",.3r"),
    values("peak_mb", title="memory, MB", format=",.0f"),
]


def bar_chart(
    runs: list[Run], title: str, length: str, text: Callable[[Number], str], *layers: Record
) -> Record:
    """A bar per run with its name and value above it; `layers` are drawn over the bars."""
    rows: list[Record] = [
        identity(run)
        | {name: getattr(run, name) for name in ("step_ms", "first_step_s", "compile_s", "peak_mb")}
        | dict(zip(("low", "high"), run.step_ms_quartiles, strict=True))
        | {"text": text(getattr(run, length))}
        for run in runs
    ]
    names = conjunction(f"{row['name']} {row['text']}" for row in rows)
    y = {"field": "run", "type": "nominal", "sort": None, "axis": None, "scale": {"padding": 0}}
    return {
        "description": f"Bar chart: {title} of {names}.",
        "params": [SELECTION],
        "data": {"values": rows},
        "height": 42 * len(rows),
        "encoding": {"y": y, "opacity": OPACITY},
        "layer": [
            mark("bar", length, x=values(length, **LENGTH), color=HUE, tooltip=BAR_TOOLTIP),
            *layers,
            mark("text", "name", x={"value": 0}, text={"field": "name"}),
            mark("text", "amount", x={"value": "width"}, text={"field": "text"}),
        ],
    }


def gap(a: Number, b: Number) -> Number:
    """The absolute difference; None if either is not a number."""
    return None if a is None or b is None else abs(a - b)


def thin(column: list[Number], every: int, pick: Callable[[list[float]], float]) -> list[Number]:
    """One value for each `every` values, None if any of them is None, so that gaps remain visible."""
    chunks = [column[i : i + every] for i in range(0, len(column), every)]
    return [
        None if None in chunk else pick([value for value in chunk if value is not None]) for chunk in chunks
    ]
