"""The report of a comparison: one page that opens anywhere and asks the network for nothing.

Words, tables and numbers are HTML made here, so that the page reads, prints and searches without
JavaScript; only the charts need it (Vega-Lite, inlined). `docs/result.md` describes what comes in.
"""

import base64
import hashlib
import html
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from string import Template
from typing import Any

import vl_convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from zoo import storage
from zoo.ladder.bounds import BOUNDS, FLOORS
from zoo.report import ladder as ladder_report
from zoo.report.ladder import scientific
from zoo.tasks.baselines import Baseline

Number = float | None
Record = dict[str, Any]  # what JSON calls an object: a result, a part of one, a chart's specification

__all__ = ["iframe", "render", "save"]

FRAMEWORKS = {"torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
ENGINES = {"keras": "Keras", "native": "native"}
PARITY = {
    "initial_weights": "Initial weights",
    "outputs": "Outputs",
    "losses": "Losses",
    "final_weights": "Final weights",
    "predictions": "Predictions that differ",
}

here = Path(__file__).parent
escape = html.escape


def render(result: Record, ladder: Record | None = None) -> str:
    """The page, complete: its style, its charts and their JavaScript are inside it.

    `result` is a comparison, or a parity ladder by itself; `ladder` one that joins a comparison.
    """
    result, ladder = finite(result), finite(ladder)
    if "rungs" in result:
        ladder, sections = result, []
        names, links = result["models"], [escape(name) for name in result["models"]]
        frameworks = listed(map(framework, result["backends"]))
    else:
        names = [model["name"] for model in result["models"]]
        links = [f'<a href="#model{i}">{escape(name)}</a>' for i, name in enumerate(names)]
        frameworks = listed(dict.fromkeys(framework(row["backend"]) for row in result["runs"]))
        sections = [section(model, result) for model in result["models"]]
        sections = [index(result), *sections] if len(names) > 1 else sections
    sections += [ladder_report.section(ladder)] if ladder else []
    scripts = [library(), (here / "report.js").read_text("utf-8")]
    return Template((here / "report.html").read_text("utf-8")).substitute(
        policy=escape(policy(scripts)),
        style=(here / "report.css").read_text("utf-8"),
        title=escape(f"{listed(names)} on {frameworks}"),
        heading=f"{listed(links)} on {escape(frameworks)}",
        made=made(result),
        sections="\n".join(sections),
        environment=environment(result["environment"]),
        data="parity.json" if result is ladder else "result.json",
        library=scripts[0],
        script=scripts[1],
    )


def save(result: Record, folder: Path) -> Path:
    """Writes `result.json` (`parity.json` of a ladder) and `report.html`, each whole or not at all.

    Returns the page's path. A comparison and a ladder saved into one folder share the page.
    """
    own, other = ("parity.json", "result.json") if "rungs" in result else ("result.json", "parity.json")
    beside = json.loads((folder / other).read_text("utf-8")) if (folder / other).is_file() else None
    pages = {"parity.json": (beside, result) if beside else (result, None), "result.json": (result, beside)}
    texts = {
        own: json.dumps(finite(result), indent=1, allow_nan=False) + "\n",
        "report.html": render(*pages[own]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        with storage.replacing(folder / name) as part:
            part.write_text(text, encoding="utf-8", newline="\n")
    return folder / "report.html"


def iframe(result: Record, height: int = 720) -> str:
    """The page as one element, for a notebook's `_repr_html_`; height in CSS pixels."""
    title = "zoo parity" if "rungs" in result else "zoo compare"
    return (
        f'<iframe title="{title}" sandbox="allow-scripts allow-popups" srcdoc="{escape(render(result))}" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


# A run, and what it is called


@dataclass
class Run:
    """A row of `result["runs"]`; what is missing or null there is None or empty here."""

    backend: str
    engine: str
    mode: str = ""
    losses: list[Number] = field(default_factory=list)
    metrics: dict[str, Number] = field(default_factory=dict)
    step_ms: Number = None
    step_ms_quartiles: tuple[Number, Number] = (None, None)
    examples_per_second: Number = None
    compile_s: Number = None
    first_step_s: Number = None
    train_s: Number = None
    peak_mb: Number = None
    version: str = ""
    code: str = ""
    error: str = ""
    # Ours: a name that is safe in an expression, and the pattern of its line.
    id: str = ""
    dash: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        return f"{self.backend}/{self.engine}/{self.mode}"

    @property
    def way(self) -> str:
        return ENGINES.get(self.engine, self.engine) + (f" ({self.mode})" if self.mode else "")

    @property
    def name(self) -> str:
        return f"{framework(self.backend)} {self.way}"

    @property
    def broken_at(self) -> int | None:
        """The first step, counted from 1, whose loss is not a number."""
        return self.losses.index(None) + 1 if None in self.losses else None


def framework(backend: str) -> str:
    return FRAMEWORKS.get(backend, backend)


def read_runs(rows: Iterable[Record]) -> list[Run]:
    # The hue tells the framework, the dash tells that framework's runs apart: solid is Keras.
    dashes = {"keras": [(), (14, 3)], "native": [(6, 4), (2, 3), (10, 3, 2, 3)]}
    known = {f.name for f in fields(Run)}
    runs: list[Run] = []
    for row in rows:
        run = Run(**{name: value for name, value in row.items() if name in known and value is not None})
        patterns = dashes.get(run.engine, [(2, 8)])
        before = sum((r.backend, r.engine) == (run.backend, run.engine) for r in runs)
        run.id, run.dash = f"run{len(runs)}", patterns[before % len(patterns)]
        runs.append(run)
    return runs


# The finding, in words


def finding(
    runs: list[Run], pairs: list[Record], bounds: dict[str, float], drift: Record | None
) -> Iterator[str]:
    """What the numbers say, a sentence at a time, the most important first."""
    yield from agreement(runs, pairs, bounds["losses"], drifts=drift is not None)
    if drift:
        who = next(run.name for run in runs if run.key == drift["run"])
        by, asked = scientific(drift["losses"]), count(drift["runs"], "run")
        yield (
            f"With initial weights a unit in the last place off, {who} drifts up to {by} from itself "
            f"({asked}): {word(FLOORS)} times that is the bound."
        )
    for quantity in ("initial_weights", "outputs"):
        over = [pair for pair in pairs if beyond(pair, quantity, bounds)]
        if over:
            yield f"{PARITY[quantity]} differ beyond the bound in {len(over)} of {count(len(pairs), 'pair')}."
    timed = sorted((run.step_ms, run.name) for run in runs if run.step_ms and not run.error)
    if len(timed) > 1:
        (least, fastest), (most, slowest) = timed[0], timed[-1]
        times = f"{most / least:.1f} times as fast as the slowest, {slowest}"
        yield f"{fastest} is fastest, {milliseconds(least)} a step: {times}."
    for run in runs:
        if run.error:
            yield f"{run.name} failed."
        elif run.broken_at:
            yield f"The loss of {run.name} is not a number from step {run.broken_at:,}."


def agreement(runs: list[Run], pairs: list[Record], bound: float, *, drifts: bool = False) -> Iterator[str]:
    sound = {run.key: run.name for run in runs if run.losses and not run.error and not run.broken_at}
    compared = [p for p in pairs if p["a"] in sound and p["b"] in sound and p.get("losses") is not None]
    total = count(len(runs), "run")
    some = f"{total}," if len(sound) == len(runs) else f"{word(len(sound))} of {total}"
    if not sound:
        yield f"none of {total} gave numbers to compare"
    elif not compared:
        yield f"{some.rstrip(',')}, nothing to compare"
    else:
        worst = max(compared, key=lambda pair: pair["losses"])
        if worst["losses"] == 0:
            yield f"{some} equal to the last bit at every step"
        elif worst["losses"] <= bound and drifts:
            yield f"{some} up to {scientific(worst['losses'])} apart, which rounding alone explains"
        elif worst["losses"] <= bound:
            yield f"{some} equal within {scientific(worst['losses'])} at every step"
        else:
            yield f"{some} up to {scientific(worst['losses'])} apart, beyond the bound of {power(bound)}"
            layer = worst.get("first_layer")
            where = f", first in the layer {layer['layer']}" if layer else ""
            yield f"Furthest apart are {sound[worst['a']]} and {sound[worst['b']]}{where}."


def beyond(pair: Record, quantity: str, bounds: dict[str, float]) -> bool:
    """Whether a pair breaks a bound, as a difference that is not a number does."""
    if quantity not in bounds or quantity not in pair:
        return False
    return pair[quantity] is None or pair[quantity] > bounds[quantity]


# The charts, in Vega-Lite: what is drawn. Its colours, fonts and widths are in report.css and report.js.


def mark(kind: str, style: str, **encoding: Any) -> Record:
    return {"mark": {"type": kind, "style": style, "clip": kind in ("line", "point")}, "encoding": encoding}


def values(name: str, **more: Any) -> Record:
    return {"field": name, "type": "quantitative", "title": None, **more}


def identity(run: Run) -> Record:
    # A row of a chart's data.
    return {"run": run.id, "name": run.name, "framework": framework(run.backend), "dash": run.dash}


HUE = {"field": "framework", "scale": {"domain": list(FRAMEWORKS.values())}, "legend": None}
# `chosen` is the run picked in the legend, which is HTML.
CHOSEN = {"name": "chosen", "value": None}
OPACITY = {"condition": {"test": "!chosen || datum.run === chosen", "value": 1}, "value": 0.2}
WHOLE = {"test": "datum.run === chosen", "value": []}
DASH = {"field": "dash", "type": "nominal", "scale": None, "condition": WHOLE}
CURVE = {"color": HUE, "opacity": OPACITY, "strokeDash": DASH, "detail": {"field": "run"}}
FITTED = {"zero": False, "nice": False}
STEP = values("step", title="step", scale=FITTED, axis={"grid": False, "format": ",d", "tickMinStep": 1})
# The wheel belongs to the page; with the shift key it zooms.
WHEEL = {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"}
ZOOM = {"name": "zoom", "select": WHEEL, "bind": "scales"}


def loss_chart(runs: list[Run], points: int) -> Record:
    runs = sorted(runs, key=lambda run: run.engine != "keras")
    every = math.ceil(max(len(run.losses) for run in runs) / points)
    chart = line_chart(runs, [thin(run.losses, every, lambda some: some[0]) for run in runs], every)
    # Equal curves hide each other. So each is drawn over the last with one dash less in every period:
    # where they are equal the colours alternate along one line, where they part each is a line of its own.
    for i, row in enumerate(chart["data"]["values"]):
        row["dash"] = [7 * (len(runs) - i), 7 * i]
    curve = mark("line", "curve", x=STEP, y=values("value"), **CURVE)
    return chart | {
        "description": f"Lines: the training loss at each step, of {listed(run.name for run in runs)}.",
        "layer": [curve, crosshair(runs, ".8f"), *breaks(runs)],
    }


def breaks(runs: list[Run]) -> list[Record]:
    """A cross where losses stop being numbers: the line alone would end there without a word."""
    rows: list[Record] = [
        identity(run) | {"step": run.broken_at, "value": run.losses[run.broken_at - 2], "text": "NaN"}
        for run in runs
        if run.broken_at and run.broken_at > 1
    ]
    where = {"x": STEP, "y": values("value"), "color": HUE, "opacity": OPACITY}
    layer = [mark("point", "break"), mark("text", "break-name", text={"field": "text"})]
    return [{"data": {"values": rows}, "encoding": where, "layer": layer}] if rows else []


def difference_chart(runs: list[Run], bound: float) -> Record:
    first, *others = runs
    every = math.ceil(len(first.losses) / 120)
    gaps = [[gap(a, b) for a, b in zip(first.losses, run.losses, strict=False)] for run in others]
    columns = [thin(some, every, max) for some in gaps]
    # A logarithmic axis has no zero: what is equal is drawn a decade below all that is not.
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
        "data": {"values": [{"bound": bound, "text": f"bound {power(bound)}"}]},
        "encoding": {"y": values("bound", **axis)},
        "layer": [
            mark("rule", "bound"),
            mark("text", "bound-name", x={"value": "width"}, text={"field": "text"}),
        ],
    }
    names = listed(run.name for run in others)
    return chart | {
        "description": f"Lines, logarithmic: how far the losses of {names} are from that of {first.name}.",
        "layer": [
            mark("point", "gap", x=STEP, y=values("drawn", **axis), color=HUE, opacity=OPACITY),
            mark("line", "largest", x=STEP, y=values("largest", **axis), **CURVE),
            crosshair(others, ".1e"),
            *([limit] if bound else []),
        ],
    }


def line_chart(runs: list[Run], columns: list[list[Number]], every: int) -> Record:
    """A row a run, its values in a list, which is a third as long as a row a point."""
    rows: list[Record] = [
        identity(run)
        | {"step": [1 + every * i for i in range(len(column))]}
        | {"value": [None if value is None else float(f"{value:.9g}") for value in column]}
        for run, column in zip(runs, columns, strict=True)
    ]
    flat = [{"flatten": ["step", "value"]}]
    return {"params": [CHOSEN], "data": {"values": rows}, "transform": flat, "height": 260}


def crosshair(runs: list[Run], form: str) -> Record:
    """A vertical line at the step nearest to the pointer, and every run's value there."""
    hover = {"type": "point", "on": "pointerover", "clear": "pointerout", "nearest": True, "fields": ["step"]}
    shown = [values(run.id, title=run.name, format=form) for run in runs]
    near = {"condition": {"param": "hover", "empty": False, "value": 1}, "value": 0}
    line = mark("rule", "crosshair", x=STEP, opacity=near, tooltip=[values("step", title="step"), *shown])
    return line | {
        "transform": [{"pivot": "run", "value": "value", "groupby": ["step"], "op": "max"}],
        "params": [{"name": "hover", "select": hover}, ZOOM],
    }


LENGTH = {"axis": None, "scale": {"nice": False}}
WHISKER = mark("rule", "whisker", x=values("low", **LENGTH), x2={"field": "high"})
COMPILING = mark("bar", "part", x=values("compile_s", **LENGTH), color=HUE)
BAR_TOOLTIP = [
    {"field": "name", "title": "run"},
    values("step_ms", title="step, ms", format=",.3r"),
    values("low", title="lower quartile, ms", format=",.3r"),
    values("high", title="upper quartile, ms", format=",.3r"),
    values("first_step_s", title="first step, s", format=",.3r"),
    values("compile_s", title="of it compiling, s", format=",.3r"),
    values("peak_mb", title="memory, MB", format=",.0f"),
]


def bar_chart(
    runs: list[Run], what: str, length: str, form: Callable[[Number], str], *over: Record
) -> Record:
    """A bar a run, its name and its number above it, and `over` drawn on it."""
    rows: list[Record] = [
        identity(run)
        | {name: getattr(run, name) for name in ("step_ms", "first_step_s", "compile_s", "peak_mb")}
        | dict(zip(("low", "high"), run.step_ms_quartiles, strict=True))
        | {"text": form(getattr(run, length))}
        for run in runs
    ]
    y = {"field": "run", "type": "nominal", "sort": None, "axis": None, "scale": {"padding": 0}}
    return {
        "description": f"Bars: {what}, of {listed(row['name'] + ' ' + row['text'] for row in rows)}.",
        "params": [CHOSEN],
        "data": {"values": rows},
        "height": 42 * len(rows),
        "encoding": {"y": y, "opacity": OPACITY},
        "layer": [
            mark("bar", length, x=values(length, **LENGTH), color=HUE, tooltip=BAR_TOOLTIP),
            *over,
            mark("text", "name", x={"value": 0}, text={"field": "name"}),
            mark("text", "amount", x={"value": "width"}, text={"field": "text"}),
        ],
    }


# The page's parts


def of(model: Record, result: Record) -> tuple[list[Run], list[Record], dict[str, float], Record | None]:
    """A model's runs, pairs, bounds and drift: what `finding` reads."""
    runs = read_runs(row for row in result["runs"] if row["model"] == model["name"])
    pairs = [pair for pair in result["differences"] if pair["model"] == model["name"]]
    # A model may bring bounds of its own: what a chaotic one drifts from itself is no framework's fault.
    return runs, pairs, BOUNDS | (model.get("bounds") or {}), model.get("drift")


def index(result: Record) -> str:
    """What was found of each model, in a line that leads to it."""
    rows = []
    for i, model in enumerate(result["models"]):
        first = next(finding(*of(model, result)))
        rows.append(f'<li><a href="#model{i}">{escape(model["name"])}</a>: {prose(first)}</li>')
    return f'<nav aria-label="Models"><ol>{"".join(rows)}</ol></nav>'


def section(model: Record, result: Record) -> str:
    """All that the page says of one model."""
    runs, pairs, bounds, drift = of(model, result)
    finished = [run for run in runs if not run.error]
    first, *rest = finding(runs, pairs, bounds, drift)
    title = f"model{result['models'].index(model)}"
    # The whole page draws some 20,000 points a chart at most: a long training must not make it heavy.
    points = min(600, 20_000 // max(1, len(result["runs"])))
    return f"""<section class="model" aria-labelledby="{title}">
<h2 id="{title}">{escape(model["name"])}: {prose(first)}</h2>
<p class="lead">{prose(" ".join(rest))}</p>
{facts(model)}
{legend(finished) if finished else ""}
<div class="figures">{"".join(figures(finished, bounds["losses"], points))}</div>
<h3>Runs</h3>
{runs_table(model["name"], runs)}
<h3>Parity</h3>
{parity_table(model["name"], runs, pairs, bounds)}
<h3>One definition, and the loops that trained it</h3>
{code(model, finished)}
</section>"""


def prose(text: str) -> str:
    """Text in which no line ends inside a number such as 4.6e-7."""
    return re.sub(r"[\d.]+e-\d+", r'<span class="number">\g<0></span>', escape(text))


def facts(model: Record) -> str:
    baseline = model.get("baseline")
    rows = {
        "Parameters": integer(model["parameters"]),
        "Multiply-adds": integer(model["multiply_adds"]),
        "Task": model["task"],
        **({"Non-neural baseline": str(Baseline(**baseline))} if baseline else {}),
        **{name.replace("_", " ").capitalize(): value for name, value in model["recipe"].items()},
        "Seed": model["seed"],
    }
    paper, url = escape(model["paper"]), model["url"] or ""
    if url.startswith(("https://", "http://")):  # and never "javascript:"
        paper = f'<a href="{escape(url)}" target="_blank" rel="noreferrer">{paper}</a>'
    return f'<p class="idea">{escape(model["idea"])} <cite>{paper}</cite></p>{description_list(rows)}'


def legend(runs: list[Run]) -> str:
    button = '<button type="button" aria-pressed="false" data-run="{}">{}{}</button>'
    buttons = "".join(button.format(run.id, swatch(run), escape(run.name)) for run in runs)
    return f"""<div class="legend" role="group" aria-label="Highlight a run in the charts">{buttons}</div>
<p class="note hint">Select a run to highlight it. Hover over a curve to read its values; shift+scroll to
zoom, drag to pan, double-click to reset.</p>"""


def swatch(run: Run) -> str:
    hue = f"var(--{run.backend})" if run.backend in FRAMEWORKS else "var(--muted)"
    dash = " ".join(map(str, run.dash)) or "none"
    line = f'<line x1="1" y1="5" x2="29" y2="5" stroke="{hue}" stroke-dasharray="{dash}"/>'
    return f'<svg class="swatch" viewBox="0 0 30 10" aria-hidden="true">{line}</svg>'


def figures(runs: list[Run], bound: float, points: int) -> Iterator[str]:
    curves = [run for run in runs if run.losses]
    timed = [run for run in runs if run.step_ms is not None]
    started = [run for run in runs if run.first_step_s is not None]
    measured = [run for run in runs if run.peak_mb is not None]
    if curves:
        note = "Of each batch. Where runs are equal, their colours alternate along one line."
        yield figure("Loss", note, loss_chart(curves, points))
    if len(curves) > 1:
        note = f"From {curves[0].name}: each point a difference, each line the largest so far."
        yield figure("Loss difference", note, difference_chart(curves, bound))
    if timed:
        chart = bar_chart(timed, "median time of a step", "step_ms", milliseconds, WHISKER)
        yield figure("One step", "Median time; the whisker spans the quartiles.", chart)
    if started:
        chart = bar_chart(started, "time of the first step", "first_step_s", seconds, COMPILING)
        yield figure("The first step", "The dark part is tracing and compiling.", chart)
    if measured:
        chart = bar_chart(measured, "peak memory", "peak_mb", megabytes)
        yield figure("Memory", "The peak memory of the process.", chart)


def figure(title: str, note: str, chart: Record) -> str:
    # "</script>" would end the element, whatever the JSON around it.
    data = json.dumps(chart, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return f"""<figure><figcaption><strong>{escape(title)}</strong> {escape(note)}</figcaption>
<div class="chart"></div><script type="application/json">{data}</script></figure>"""


def runs_table(model: str, runs: list[Run]) -> str:
    fastest = min((run.step_ms for run in runs if run.step_ms), default=math.nan)
    columns: dict[str, Callable[[Run], str]] = {
        "Step, quartiles": lambda run: "\n".join(
            (milliseconds(run.step_ms), " – ".join(map(number, run.step_ms_quartiles)))
        ),
        "×\u00a0fastest": lambda run: f"{run.step_ms / fastest:.2f}" if run.step_ms else "–",
        "Examples per second": lambda run: integer(run.examples_per_second),
        "Compiling": lambda run: seconds(run.compile_s),
        "First step": lambda run: seconds(run.first_step_s),
        "Training": lambda run: seconds(run.train_s),
        "Peak memory": lambda run: megabytes(run.peak_mb),
    }
    for metric in dict.fromkeys(name for run in runs for name in run.metrics):
        columns[f"Test {metric.replace('_', ' ')}"] = lambda run, name=metric: (
            "NaN" if name in run.metrics and run.metrics[name] is None else number(run.metrics.get(name))
        )
    columns["Version"] = lambda run: run.version
    rows = []
    for run in runs:
        cells = "".join(f"<td>{escape(show(run)).replace(chr(10), '<br>')}</td>" for show in columns.values())
        failure = f'<td class="fail wide" colspan="{len(columns)}">✗ failed: {escape(run.error)}</td>'
        rows.append(f'<th scope="row">{swatch(run)}{escape(run.name)}</th>{failure if run.error else cells}')
    note = "Step times exclude the first step. Test metrics are measured on held-out examples."
    return table(f"Runs of {model}", note, ["Run", *columns], rows)


def parity_table(model: str, runs: list[Run], pairs: list[Record], bounds: dict[str, float]) -> str:
    names = {run.key: run.name for run in runs}
    header = ["Pair", *PARITY.values(), "First layer to differ"]
    rows = []
    for pair in pairs:
        a, b = (escape(names.get(pair[side], str(pair[side]))) for side in "ab")
        cells = "".join(parity_cell(pair, quantity, bounds) for quantity in PARITY)
        layer = pair.get("first_layer")
        where = f"{layer['layer']}, by {scientific(layer['difference'])}" if layer else "–"
        rows.append(f'<th scope="row">{a} <span>and</span> {b}</th>{cells}<td>{escape(where)}</td>')
    limits = listed(
        f"{PARITY[name].lower()} {power(bounds[name]) if bounds[name] else 'equal'}" for name in bounds
    )
    note = f"Each pair's largest differences. Bounds: {limits}. ✗ marks what is beyond."
    return table(f"Pairs of {model}'s runs", note, header, rows)


def parity_cell(pair: Record, quantity: str, bounds: dict[str, float]) -> str:
    value = pair.get(quantity, math.nan)
    if quantity == "predictions":
        text = integer(pair.get(quantity))
    elif quantity not in pair:
        text = "–"
    else:
        text = "equal" if value == 0 else scientific(value)
    return f'<td class="fail">✗ {text}</td>' if beyond(pair, quantity, bounds) else f"<td>{text}</td>"


def table(label: str, note: str, header: list[str], rows: list[str]) -> str:
    """A table in a box of its own, which scrolls where the page is too narrow."""
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in header)
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"""<p class="note">{prose(note)}</p>
<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>
<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"""


def code(model: Record, runs: list[Run]) -> str:
    """The definition, and beside it the loops in tabs; frameworks that share a text share a tab."""
    loops: dict[str, list[Run]] = {}
    for run in runs:
        loops.setdefault(run.code, []).append(run)
    tabs = []
    for text, users in loops.items():
        alone = len(users) == 1
        name = users[0].name if alone else f"{users[0].way} on {listed(framework(r.backend) for r in users)}"
        radio = f'<input type="radio" name="{escape(model["name"])}"{"" if tabs else " checked"}>'
        tabs.append(f'<label>{radio}{escape(name)}</label><div class="panel">{python(text)}</div>')
    return f"""<div class="code">
<div><p class="file">{escape(model["definition"]["file"])}</p>{python(model["definition"]["code"])}</div>
<div class="tabs" role="radiogroup" aria-label="Training loops">{"".join(tabs)}</div>
</div>"""


def python(text: str) -> str:
    lines = highlight(text, PythonLexer(), HtmlFormatter(nowrap=True))
    return f'<pre tabindex="0"><code>{lines}</code></pre>'


def environment(machine: Record) -> str:
    memory = machine.get("memory_gb")
    rows = {
        "Platform": machine.get("platform"),
        "Processor": machine.get("processor"),
        "Cores": machine.get("cores"),
        "Threads used": machine.get("threads"),
        "Memory": memory and f"{memory:.1f} GB",
        "Python": machine.get("python"),
        **(machine.get("versions") or {}),
        **{f"{framework(name)} ran on": place for name, place in (machine.get("devices") or {}).items()},
    }
    return description_list(rows)


def description_list(rows: Record) -> str:
    shown = {escape(name): "–" if value is None else escape(str(value)) for name, value in rows.items()}
    return (
        f"<dl>{''.join(f'<div><dt>{name}</dt><dd>{value}</dd></div>' for name, value in shown.items())}</dl>"
    )


def made(result: Record) -> str:
    moment = datetime.fromisoformat(result["created"]).astimezone(UTC)
    text = f"{moment.day} {moment:%B %Y, %H:%M} UTC"
    return f'zoo {escape(result["zoo"])}, <time datetime="{moment.isoformat()}">{text}</time>'


# Numbers and words


def gap(a: Number, b: Number) -> Number:
    return None if a is None or b is None else abs(a - b)


def thin(column: list[Number], every: int, pick: Callable[[list[float]], float]) -> list[Number]:
    """One value for each `every`; None where any is None, for a gap must not be thinned away."""
    chunks = [column[i : i + every] for i in range(0, len(column), every)]
    return [
        None if None in chunk else pick([value for value in chunk if value is not None]) for chunk in chunks
    ]


def power(bound: float) -> str:
    return scientific(bound).replace(".0e", "e")


def number(value: Number, unit: str = "") -> str:
    """Three digits, or all before the point."""
    if value is None:
        return "–"
    digits = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    return f"{value:,.{digits}f}{unit}"


def milliseconds(value: Number) -> str:
    return number(value, " ms")


def seconds(value: Number) -> str:
    return number(value, " s")


def megabytes(value: Number) -> str:
    return number(value, " MB")


def integer(value: Number) -> str:
    return "–" if value is None else f"{value:,.0f}"


def word(n: int) -> str:
    words = ["none", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"]
    return words[n] if n < len(words) else f"{n:,}"


def count(n: int, noun: str) -> str:
    return f"{word(n)} {noun}" if n == 1 else f"{word(n)} {noun}s"


def listed(names: Iterable[str]) -> str:
    *most, last = [*names] or [""]
    return f"{', '.join(most)} and {last}" if most else last


# What keeps the page safe: strict JSON, no script but ours, no request


def finite(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def library() -> str:
    """Vega, Vega-Lite and vega-embed; made in two seconds, once."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return re.sub("<(/script|!--)", r"\\x3c\1", bundle, flags=re.IGNORECASE)


def policy(scripts: list[str]) -> str:
    """The browser's own guard: no script but these, and nothing fetched. Vega compiles its expressions."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-eval' {allowed}"
