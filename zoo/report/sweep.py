"""The result of `zoo sweep` in words, and as a page without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from markupsafe import Markup

from zoo.report.curves import Axes, Curve, element, line_chart
from zoo.report.templates import POLICY, environment, style
from zoo.report.words import FRAMEWORKS, Number, count, machine_facts, number

Record = Mapping[str, Any]
SHOWN = 20  # cells on the terminal
LEVEL = 0.05  # a p value that no test can be below is remarked on


def text(result: Record) -> str:
    """The headline, the table of cells, the tests and the failures, in plain text."""
    return "\n".join(lines(result))


def lines(result: Record) -> Iterator[str]:
    """The lines of `text`."""
    yield f"{state(result)}: {headline(result)}"
    header, rows = columns(result), [cells for _, cells in cell_rows(result)][:SHOWN]
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    names = len(result["dimensions"])
    for row in table:
        yield "  ".join(
            cell.ljust(width) if i < names else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
    if (more := len(result["cells"]) - SHOWN) > 0:
        yield f"... and {more:,} more in the page"
    for test in result["tests"]:
        yield sentence(test)
    if remark := power(result):
        yield remark
    for run in failures(result):
        yield f"failed: {name_of(run)}: {run['error']}"
    if result["command"]:
        yield f"Best: {result['command']}"


def state(result: Record) -> str:
    """How many runs have ended."""
    failed = sum(bool(run["error"]) for run in result["runs"])
    ended, planned = len(result["runs"]), result["planned"]
    text = f"{ended:,} of {planned:,} runs" if ended != planned else count(planned, "run")
    return f"{text}, {failed:,} failed" if failed else text


def metric(result: Record) -> str:
    """The metric's name in words."""
    return result["metric"].replace("_", " ")


def headline(result: Record) -> str:
    """The best cell."""
    best = next((cell for cell in result["cells"] if cell["mean"] is not None), None)
    if best is None:
        return "no result yet"
    where = f" with {choices(best['choices'])}" if best["choices"] else ""
    return f"{metric(result)} {mean(best)} over {count(best['runs'], 'seed')}{where}"


def mean(cell: Record) -> str:
    """Mean and standard deviation."""
    spread = "" if cell["deviation"] is None else f" ± {cell['deviation']:.2g}"
    return f"{figure(cell['mean'])}{spread}"


def figure(value: Number) -> str:
    """Four significant digits; a dash for None."""
    return "–" if value is None else f"{value:.4g}"


def choices(chosen: Record) -> str:
    """Choices in words."""
    return ", ".join(f"{name.replace('_', ' ')} {shown(value)}" for name, value in chosen.items())


def shown(value: Any) -> str:
    """A value of a dimension."""
    if isinstance(value, list | tuple):
        return f"({', '.join(map(shown, value))})"
    if isinstance(value, float):
        return f"{value:.4g}"
    return (
        "default"
        if value is None
        else FRAMEWORKS.get(value, str(value))
        if isinstance(value, str)
        else str(value)
    )


def columns(result: Record) -> list[str]:
    """The headings of the table of cells."""
    return [
        *(name.replace("_", " ") for name in result["dimensions"]),
        metric(result), "deviation", "least", "largest", "runs", "failed", "p against the best",
    ]  # fmt: skip


def cell_rows(result: Record) -> Iterator[tuple[Record, list[str]]]:
    """Each cell with its row of the table."""
    for cell in result["cells"]:
        test = cell.get("against_best") or {}
        yield cell, [
            *(shown(cell["choices"][name]) for name in result["dimensions"]),
            figure(cell["mean"]), short(cell["deviation"]), figure(cell["least"]), figure(cell["largest"]),
            str(cell["runs"]), str(cell["failed"]), short(test.get("p_adjusted")),
        ]  # fmt: skip


def short(value: Number) -> str:
    """Two digits; a dash for None."""
    return "–" if value is None else f"{value:.2g}"


def sentence(test: Record) -> str:
    """A paired test in words."""
    a, b = shown(test["a"]), shown(test["b"])
    what = f"{test['dimension'].replace('_', ' ')}: {b} - {a}: {test['difference']:+.3g}"
    pairs = f"{test['test']} test, {count(test['pairs'], 'pair')}"
    return f"{what}, p = {short(test['p'])} ({pairs}; {short(test['p_adjusted'])} adjusted by Holm)"


def power(result: Record) -> str:
    """What the number of seeds allows."""
    others = [cell.get("against_best") for cell in result["cells"]]
    tests = [test for test in [*result["tests"], *others] if test]
    least = max((test["p_least"] for test in tests), default=0.0)
    if least <= LEVEL:
        return ""
    pairs = min(test["pairs"] for test in tests)
    return (
        f"With {count(pairs, 'pair')} no p value can be below {short(least)}, however large the "
        "difference; six seeds or more allow one below 0.05."
    )


def failures(result: Record) -> list[Record]:
    """The runs that failed."""
    return [run for run in result["runs"] if run["error"]]


def name_of(run: Record) -> str:
    """A run in words."""
    return f"{run['model']} on {shown(run['backend'])}, {choices({**run['settings'], 'seed': run['seed']})}"


# The page


def figures(result: Record) -> list[tuple[str, list[Curve], Markup]]:
    """(title, curves, chart): the runs of each cell, and of a search its trials."""
    found = []
    if drawn := [cell for cell in result["cells"] if cell["values"]]:
        title = f"{metric(result).capitalize()} of each run, by rank of its combination"
        found.append((title, [], dots(result, drawn)))
    for study in result["studies"]:
        if values := [(trial["number"] + 1.0, trial["value"]) for trial in study["trials"]]:
            chosen = choices({"model": study["model"], "backend": study["backend"], **study["settings"]})
            curves = trials(result, values)
            words = f"Line chart: {metric(result)} by trial, {chosen}. "
            words += f"The best: {figure(curves[0].points[-1][1])}."
            found.append((f"Trials: {chosen}", curves, line_chart(words, "trial", curves)))
    return found


def dots(result: Record, cells: Sequence[Record]) -> Markup:
    """A dot for each run over the rank of its cell, and a line at each mean."""
    values = [value for cell in cells for value in cell["values"].values()]
    low, high = min(values), max(values)
    margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
    axes, marks = Axes(len(cells) + 1.0, low - margin, high + margin), []
    for rank, cell in enumerate(cells, start=1):
        label = choices(cell["choices"]) or metric(result)
        y, half = axes.y(cell["mean"]), 0.3
        line = f"M{axes.x(rank - half):g} {y:g}H{axes.x(rank + half):g}"
        title = element("title", f"{label}: {mean(cell)}")
        marks.append(element("path", title, d=line, stroke="var(--ink)", stroke_width=1.75))
        for seed, value in cell["values"].items():
            title = element("title", f"{label}, seed {seed}: {figure(value)}")
            at = {"cx": axes.x(rank), "cy": axes.y(value)}
            marks.append(element("circle", title, **at, r=2.5, fill="var(--tensorflow)", fill_opacity=0.7))
    best = f"The best, {choices(cells[0]['choices']) or 'the only one'}: {mean(cells[0])}."
    words = (
        f"Dots: {metric(result)} of {count(len(values), 'run')} in {count(len(cells), 'combination')}. {best}"
    )
    return axes.chart(words, "rank", marks)


def trials(result: Record, values: Sequence[tuple[float, Number]]) -> list[Curve]:
    """The best so far, and the value of each trial."""
    pick = min if result["direction"] == "minimize" else max
    best: list[tuple[float, Number]] = []
    for x, y in values:
        known = [value for value in (y, best[-1][1] if best else None) if value is not None]
        best.append((x, pick(known) if known else None))
    return [
        Curve("best so far", "torch", best, dots=False),
        Curve("trial", "tensorflow", values, dash=(1, 5)),
    ]


def test_rows(result: Record) -> list[list[str]]:
    """A row for each paired test."""
    return [
        [
            f"{test['dimension'].replace('_', ' ')}: {shown(test['b'])} - {shown(test['a'])}",
            f"{test['difference']:+.3g}", str(test["pairs"]), str(test["contexts"]), short(test["p"]),
            short(test["p_adjusted"]), short(test["p_least"]), test["test"],
        ]
        for test in result["tests"]
    ]  # fmt: skip


def render(result: Record) -> str:
    """The page."""
    best = "lower" if result["direction"] == "minimize" else "higher"
    return (
        environment()
        .get_template("sweep.html")
        .render(
            title=headline(result),
            state=state(result),
            best=best,
            metric=metric(result),
            zoo=result["zoo"],
            created=datetime.fromisoformat(result["created"]).astimezone(UTC),
            columns=columns(result),
            names=len(result["dimensions"]),
            cells=[cells for _, cells in cell_rows(result)],
            figures=figures(result),
            tests=test_rows(result),
            power=power(result),
            command=result["command"],
            failures=[(name_of(run), run["error"]) for run in failures(result)],
            runs=[
                (name_of(run), figure(run["metrics"].get(result["metric"])), run["steps"] or "–",
                 number(run["seconds"], " s"), run["host"] or "–")
                for run in result["runs"]
            ],
            environment=machine_facts(result["environment"]),
            style=style(),
            policy=POLICY,
        )
    )  # fmt: skip
