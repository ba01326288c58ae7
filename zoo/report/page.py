"""The report of a comparison or a parity ladder: one HTML file that needs no network.

Text, tables and numbers are HTML, so that the page can be read, printed and searched without JavaScript; only
the charts need it (Vega-Lite, embedded). The templates beside this module escape every value they print.
"""

import base64
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import vl_convert
from markupsafe import Markup, escape
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

from zoo import storage
from zoo.report import ladder as ladder_report
from zoo.report.charts import COMPILE_TIME, QUARTILES, bar_chart, difference_chart, loss_chart
from zoo.report.results import ComparisonResult, ModelResult, Number, PairResult
from zoo.report.templates import HERE, POLICY, environment, style
from zoo.report.templates import iframe as element
from zoo.report.words import (
    PARITY,
    Evidence,
    Record,
    Run,
    baseline_text,
    bound_text,
    conjunction,
    findings,
    framework,
    integer,
    machine_facts,
    megabytes,
    milliseconds,
    number,
    scientific,
    seconds,
)

__all__ = ["iframe", "render", "save"]

Figure = tuple[str, str, Record]  # title, note, chart


def render(result: Record, ladder: Record | None = None) -> str:
    """The page with its style, charts and JavaScript.

    `result` is a comparison, or a parity ladder alone; `ladder` one that is added to a comparison.
    """
    comparison, parity = storage.finite(result), storage.finite(ladder)
    if "rungs" in comparison:
        comparison, parity = None, comparison
        names, backends = parity["models"], parity["backends"]
    else:
        names = [model["name"] for model in comparison["models"]]
        backends = [run["backend"] for run in comparison["runs"]]
    scripts = [library(), Markup((HERE / "report.js").read_text("utf-8"))]
    return TEMPLATES.get_template("report.html").render(
        zoo=result["zoo"],
        names=names,
        frameworks=list(dict.fromkeys(map(framework, backends))),
        created=datetime.fromisoformat(result["created"]).astimezone(UTC),
        models=[section(model, comparison) for model in comparison["models"]] if comparison else [],
        ladder=parity and ladder_report.section(parity),
        environment=machine_facts((comparison or parity)["environment"]),
        data="result.json" if comparison else "parity.json",
        style=style(),
        scripts=scripts,
        policy=policy(scripts),
    )


def save(result: Record, folder: Path) -> Path:
    """Write `result.json` (`parity.json` for a ladder) and `report.html`, each whole or not at all.

    Returns the page's path. A comparison and a ladder saved into one folder share the page.
    """
    own, other = ("parity.json", "result.json") if "rungs" in result else ("result.json", "parity.json")
    saved = json.loads((folder / other).read_text("utf-8")) if (folder / other).is_file() else None
    page = render(saved, result) if saved and own == "parity.json" else render(result, saved)
    folder.mkdir(parents=True, exist_ok=True)
    storage.write_text(folder / own, storage.json_text(result))
    storage.write_text(folder / "report.html", page)
    return folder / "report.html"


def iframe(result: Record, height: int = 720) -> str:
    """The page as one element, for a notebook's `_repr_html_`; height in CSS pixels."""
    title = "zoo parity" if "rungs" in result else "zoo compare"
    return element(title, render(result), height)


# One model's section


def section(model: ModelResult, result: ComparisonResult) -> Record:
    """The variables of model.html."""
    evidence = Evidence(model, result)
    finished = [run for run in evidence.runs if not run.error]
    headline, *others = findings(evidence)
    columns = run_columns(evidence.runs)
    # At most some 20,000 points per chart on the whole page, so that a long training does not make it large.
    points = min(600, 20_000 // max(1, len(result["runs"])))
    return {
        **{name: model[name] for name in ("name", "idea", "paper", "definition")},
        "id": f"model{result['models'].index(model)}",
        "headline": headline,
        "findings": others,
        "link": model["url"] if (model["url"] or "").startswith(("https://", "http://")) else None,
        "facts": facts(model),
        "finished": finished,
        "figures": list(figures(finished, evidence.bounds["losses"], points)),
        "columns": list(columns),
        "rows": [(run, [text(run) for text in columns.values()]) for run in evidence.runs],
        "limits": limits(evidence.bounds),
        "parity_columns": ["Pair", *PARITY.values(), "First layer that differs"],
        "pairs": list(pairs(evidence)),
        "loops": loops(finished),
    }


def facts(model: ModelResult) -> Record:
    """The model, its task and its recipe in a few words each."""
    baseline = model.get("baseline")
    return {
        "Parameters": integer(model["parameters"]),
        "Multiply-adds": integer(model["multiply_adds"]),
        "Task": model["task"],
        **({"Non-neural baseline": baseline_text(baseline)} if baseline else {}),
        **{name.replace("_", " ").capitalize(): value for name, value in model["recipe"].items()},
        "Seed": model["seed"],
    }


def figures(runs: list[Run], bound: float, points: int) -> Iterator[Figure]:
    """The charts for which there is data."""
    curves = [run for run in runs if run.losses]
    timed = [run for run in runs if run.step_ms is not None]
    started = [run for run in runs if run.first_step_s is not None]
    measured = [run for run in runs if run.peak_mb is not None]
    if curves:
        note = "The loss of each batch. Where runs are equal, their colours alternate."
        yield "Loss", note, loss_chart(curves, points)
    if len(curves) > 1:
        note = f"From {curves[0].name}: points are steps, lines the largest so far."
        yield "Loss difference", note, difference_chart(curves, bound)
    if timed:
        chart = bar_chart(timed, "median time per step", "step_ms", milliseconds, QUARTILES)
        yield "Step time", "The median; the whisker spans the quartiles.", chart
    if started:
        chart = bar_chart(started, "time of the first step", "first_step_s", seconds, COMPILE_TIME)
        yield "First step", "The dark part is tracing and compilation.", chart
    if measured:
        yield (
            "Memory",
            "The peak memory of the process.",
            bar_chart(measured, "peak memory", "peak_mb", megabytes),
        )


def run_columns(runs: list[Run]) -> dict[str, Callable[[Run], str]]:
    """The columns of the table of runs: how each is written, by heading."""
    fastest = min((run.step_ms for run in runs if run.step_ms), default=math.nan)
    columns: dict[str, Callable[[Run], str]] = {
        "Step, quartiles": lambda run: (
            f"{milliseconds(run.step_ms)}\n{' – '.join(map(number, run.step_ms_quartiles))}"
        ),
        "×\u00a0fastest": lambda run: f"{run.step_ms / fastest:.2f}" if run.step_ms else "–",
        "Examples per second": lambda run: integer(run.examples_per_second),
        "Compile": lambda run: seconds(run.compile_s),
        "First step": lambda run: seconds(run.first_step_s),
        "Training": lambda run: seconds(run.train_s),
        "Peak memory": lambda run: megabytes(run.peak_mb),
    }
    for count in {run.workers["count"] for run in runs if run.workers}:
        columns[f"{count} workers"] = lambda run: workers_text(run.workers)
    for metric in dict.fromkeys(name for run in runs for name in run.metrics):
        columns[f"Test {metric.replace('_', ' ')}"] = lambda run, name=metric: (
            "NaN" if name in run.metrics and run.metrics[name] is None else number(run.metrics.get(name))
        )
    return {**columns, "Version": lambda run: run.version}


def workers_text(found: Record) -> str:
    """How far a run on several workers is from that on one."""
    if not found:
        return "–"
    apart = "" if found["equal_weights"] else "\nweights differ"
    return f"losses {scientific(found['losses']) if found['losses'] else 'equal'}{apart}"


def pairs(evidence: Evidence) -> Iterator[Record]:
    """The rows of the table of parity."""
    names = {run.key: run.name for run in evidence.runs}
    for pair in evidence.pairs:
        layer = pair.get("first_layer")
        yield {
            **{side: names.get(pair[side], pair[side]) for side in "ab"},
            "cells": [(difference(pair, name), evidence.exceeds(pair, name)) for name in PARITY],
            "layer": f"{layer['layer']}, by {scientific(layer['difference'])}" if layer else "–",
        }


def difference(pair: PairResult, quantity: str) -> str:
    """One difference of a pair."""
    if quantity not in pair:
        return "–"
    value: Number = pair.get(quantity)
    return integer(value) if quantity == "predictions" else "equal" if value == 0 else scientific(value)


def limits(bounds: dict[str, float]) -> str:
    """The bounds of the table of parity."""
    texts = [
        f"{PARITY[name].lower()} {bound_text(value) if value else 'equal'}" for name, value in bounds.items()
    ]
    return (
        f"The largest differences of each pair. Bounds: {conjunction(texts)}. ✗ marks what exceeds its bound."
    )


def loops(runs: list[Run]) -> list[tuple[str, str]]:
    """(name, code) of each training loop; frameworks with the same code share it."""
    users: dict[str, list[Run]] = {}
    for run in runs:
        users.setdefault(run.code, []).append(run)
    return [
        (
            own[0].name
            if len(own) == 1
            else f"{own[0].variant} on {conjunction(framework(run.backend) for run in own)}",
            code,
        )
        for code, own in users.items()
    ]


# HTML that is not escaped


def prose(text: str) -> Markup:
    """Text in which no line breaks inside a number such as 4.6e-7."""
    return Markup(re.sub(r"[\d.]+e-\d+", r'<span class="number">\g<0></span>', str(escape(text))))


def python(code: str) -> Markup:
    """Python source, highlighted."""
    lines = highlight(code, PythonLexer(), HtmlFormatter(nowrap=True))
    return Markup(f'<pre tabindex="0"><code>{lines}</code></pre>')


@cache
def library() -> Markup:
    """Vega, Vega-Lite and vega-embed: bundled once, in two seconds."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(re.sub("<(/script|!--)", r"\\x3c\1", bundle, flags=re.IGNORECASE))


def policy(scripts: list[Markup]) -> str:
    """The content security policy: only these scripts, and no request. Vega compiles its expressions."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return f"{POLICY}; script-src 'unsafe-eval' {allowed}"


TEMPLATES = environment()
TEMPLATES.filters |= {"prose": prose, "python": python}
TEMPLATES.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
