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
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from string import Template

import vl_convert
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from zoo import storage
from zoo.ladder.bounds import BOUNDS
from zoo.report import ladder as ladder_report
from zoo.report.charts import COMPILING, WHISKER, bar_chart, difference_chart, loss_chart
from zoo.report.words import (
    FRAMEWORKS,
    PARITY,
    Record,
    Run,
    beyond,
    finding,
    framework,
    integer,
    listed,
    megabytes,
    milliseconds,
    number,
    power,
    read_runs,
    scientific,
    seconds,
)
from zoo.storage import finite
from zoo.tasks.baselines import Baseline

__all__ = ["iframe", "render", "save"]

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
        own: storage.json_text(result),
        "report.html": render(*pages[own]),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        storage.write_text(folder / name, text)
    return folder / "report.html"


def iframe(result: Record, height: int = 720) -> str:
    """The page as one element, for a notebook's `_repr_html_`; height in CSS pixels."""
    title = "zoo parity" if "rungs" in result else "zoo compare"
    return (
        f'<iframe title="{title}" sandbox="allow-scripts allow-popups" srcdoc="{escape(render(result))}" '
        f'style="width: 100%; height: {height}px; border: 0"></iframe>'
    )


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


# What keeps the page safe: no script but ours, no request


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
