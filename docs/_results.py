"""The fields on docs/result.md, from zoo.report.results: `python docs/_results.py` writes them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints

from _measured import row

from zoo.report import results

PAGE = Path(__file__).with_name("result.md")
BEGIN, END = "<!-- fields: written by python docs/_results.py -->", "<!-- fields end -->"
HEADINGS: dict[Any, str] = {
    results.ComparisonResult: "## The comparison",
    results.ModelResult: "### models",
    results.Recipe: "### recipe",
    results.Baseline: "### baseline",
    results.Definition: "### definition",
    results.Drift: "### drift",
    results.RunResult: "### runs",
    results.WorkersResult: "### workers",
    results.PairResult: "### differences",
    results.LayerDifference: "### first_layer",
    results.Environment: "### environment",
    results.ParityResult: "## The parity ladder",
    results.RungResult: "### rungs",
    results.ParityRow: "### rows",
    results.Location: "### where",
    results.FaultRow: "### Faults",
    results.BenchmarkRow: "## Benchmarks",
}
NAMES = {str: "string", bool: "boolean", int: "integer", float: "number", NoneType: "null"}


def updated(text: str) -> str:
    """The text of the page with the fields as they should be."""
    before, _, rest = text.partition(BEGIN)
    return "\n\n".join([f"{before}{BEGIN}", *map(section, HEADINGS), f"{END}{rest.partition(END)[2]}"])


def section(kind: Any) -> str:
    """The heading, description and fields of an object."""
    types, meanings = get_type_hints(kind, include_extras=True), descriptions(kind)
    rows = [row([f"`{name}`", json_type(hint), meanings[name]]) for name, hint in types.items()]
    table = "\n".join([row(["field", "type", "meaning"]), row(["---", "---", "---"]), *rows])
    return f"{HEADINGS[kind]}\n\n{inspect.getdoc(kind)}\n\n{table}"


def descriptions(kind: Any) -> dict[str, str]:
    """The string below each field."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    pairs = zip(definition.body, definition.body[1:], strict=False)
    return {
        ast.unparse(field.target): ast.literal_eval(text.value)
        for field, text in pairs
        if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def json_type(hint: Any) -> str:
    """A type in the terms of JSON."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is NotRequired:
        return f"{json_type(arguments[0])}, optional"
    if kind is UnionType:
        return " or ".join(map(json_type, arguments))
    if kind is Literal:
        return " or ".join(f'`"{value}"`' for value in arguments)
    if kind in (list, dict):
        return f"{'list' if kind is list else 'object'} of {json_type(arguments[-1])}"
    if hint in HEADINGS:
        title = HEADINGS[hint].lstrip("# ")
        return f"[object](#{re.sub(' ', '-', title.lower())})"
    return NAMES[hint]


if __name__ == "__main__":
    PAGE.write_text(updated(PAGE.read_text(encoding="utf-8")), encoding="utf-8", newline="\n")
