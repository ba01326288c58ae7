"""The result of `zoo conform` in words, and as a page without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from zoo.report.templates import POLICY, environment, style
from zoo.report.words import FRAMEWORKS, conjunction, count, integer, machine_facts

Record = Mapping[str, Any]
NAMES = {**FRAMEWORKS, "numpy": "NumPy", "openvino": "OpenVINO", "mlx": "MLX"}
SHOWN = 40  # failures on the terminal


def text(result: Record) -> str:
    """The score, the table of groups and the first failures, in plain text."""
    return "\n".join(lines(result))


def lines(result: Record) -> Iterator[str]:
    """The lines of `text`."""
    yield f"{subject(result)}: {score(result)}"
    yield compared(result)
    columns = ["", *result["total"]]
    table = [columns, *([name, *cells] for name, cells in rows(result))]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for first, *rest in table:
        cells = (cell.rjust(width) for cell, width in zip(rest, widths[1:], strict=True))
        yield "  ".join([first.ljust(widths[0]), *cells])
    failures = result["failures"]
    for row in failures[:SHOWN]:
        what = "" if row["kind"] == "forward" else "gradient of "
        yield f"{row['verdict']}: {what}{row['case']}: {row['reason']}"
    if len(failures) > SHOWN:
        yield f"... and {integer(len(failures) - SHOWN)} more"


def title(backend: str) -> str:
    """The name of a backend as its authors write it."""
    return NAMES.get(backend, backend)


def subject(result: Record) -> str:
    """The backend, with versions."""
    return f"Keras {result['keras']} on {title(result['backend'])} {result['version']}"


def score(result: Record) -> str:
    """The score in words."""
    return f"{result['score']:.1f} % of {integer(result['cases'])} comparisons passed"


def compared(result: Record) -> str:
    """What the backend was compared with."""
    others = conjunction(title(name) for name in result["references"])
    return (
        f"{integer(result['tried'])} cases in {result['dtype']}; "
        f"a comparison counts if more than half of {others} agree, two or more"
    )


def rows(result: Record) -> Iterator[tuple[str, list[str]]]:
    """A row of the table for each group, and for its gradients; the last one is the total."""
    for group, kinds in result["groups"].items():
        for kind, counts in kinds.items():
            name = group if kind == "forward" else f"{group}, gradients"
            yield name, [integer(n) for n in counts.values()]
    yield "total", [integer(n) for n in result["total"].values()]


def render(result: Record) -> str:
    """The page."""
    return (
        environment()
        .get_template("conformance.html")
        .render(
            subject=subject(result),
            score=score(result),
            compared=compared(result),
            zoo=result["zoo"],
            created=datetime.fromisoformat(result["created"]).astimezone(UTC),
            columns=list(result["total"]),
            rows=list(rows(result)),
            failures=result["failures"],
            number=count(len(result["failures"]), "comparison"),
            environment=machine_facts(result["environment"]),
            style=style(),
            policy=POLICY,
        )
    )
