"""The fields of results: real ones against the documented types, and docs/result.md against those."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NotRequired, get_args, get_origin, get_type_hints, is_typeddict

import pytest

import zoo
from zoo import backends, storage
from zoo.report import results

DOCS = Path(__file__).parents[1] / "docs"
HERE = backends.settle()


def errors(value: Any, hint: Any, path: str = "") -> Iterator[str]:
    """Where a JSON value is not of a type; objects have the documented keys and no other."""
    kind, arguments = get_origin(hint), get_args(hint)
    if kind is NotRequired:
        yield from errors(value, arguments[0], path)
    elif is_typeddict(hint):
        types = get_type_hints(hint, include_extras=True)
        if not isinstance(value, dict):
            yield f"{path}: {value!r} is not {hint}"
            return
        yield from (f"{path}.{name} is not documented" for name in value.keys() - types.keys())
        yield from (f"{path}.{name} is missing" for name in hint.__required_keys__ - value.keys())
        for name in value.keys() & types.keys():
            yield from errors(value[name], types[name], f"{path}.{name}")
    elif kind is UnionType:
        if not any(not list(errors(value, each)) for each in arguments):
            yield f"{path}: {value!r} is not {hint}"
    elif kind is Literal:
        yield from () if value in arguments else (f"{path}: {value!r} is not {hint}",)
    elif kind in (list, dict):
        if not isinstance(value, kind):
            yield f"{path}: {value!r} is not {hint}"
            return
        for part in value.values() if isinstance(value, dict) else value:
            yield from errors(part, arguments[-1], f"{path}[]")
    elif not isinstance(value, (int, float) if hint is float else hint) or isinstance(value, bool):
        yield f"{path}: {value!r} is not {hint}"


def optional(kind: Any) -> set[str]:
    return set(kind.__optional_keys__)


def as_saved(result: Any) -> Any:
    return json.loads(storage.json_text(result))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"layer": "a"}, ".difference is missing"),
        ({"layer": "a", "difference": None, "more": 1}, ".more is not documented"),
        ({"layer": 1, "difference": 1.0}, ".layer: 1 is not <class 'str'>"),
        ({"layer": "a", "difference": "b"}, ".difference: 'b' is not float | None"),
    ],
)
def test_a_value_of_another_type_is_found(value: Any, message: str) -> None:
    assert list(errors(value, results.LayerDifference)) == [message]
    assert not list(errors({"layer": "a", "difference": 1.0}, results.LayerDifference))


def test_a_comparison_has_the_documented_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.comparison.runs.SECONDS", 0.02)
    result = as_saved(zoo.compare("mlp", backends=[HERE], steps=3, threads=1, out=None))
    assert list(errors(result, results.ComparisonResult)) == []
    for run in result["runs"]:
        assert optional(results.RunResult) - {"workers"} <= run.keys()  # which are on request


@pytest.mark.parity
def test_a_ladder_has_the_documented_fields() -> None:
    result = as_saved(zoo.parity("mlp", rungs=(1, 2), modes=()))
    assert list(errors(result, results.ParityResult)) == []


@pytest.mark.long
@pytest.mark.skipif("jax" not in backends.installed(), reason="compilation takes minutes elsewhere")
def test_a_benchmark_has_the_documented_fields() -> None:
    rows = as_saved(zoo.bench("mlp", what=("infer", "build"), backends=["jax"], batch_size=2))
    assert [error for row in rows for error in errors(row, results.BenchmarkRow)] == []
    assert optional(results.BenchmarkRow) <= set().union(*rows)


@pytest.mark.once
def test_the_documented_fields_are_those_of_the_types(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    page = (DOCS / "result.md").read_text(encoding="utf-8")
    assert "| `losses` | list of number or null, optional |" in page
    assert page == import_module("_results").updated(page), "python docs/_results.py writes the fields again"


@pytest.mark.once
def test_every_field_has_a_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    module = import_module("_results")
    kinds = {kind for kind in vars(results).values() if is_typeddict(kind)}
    assert kinds == set(module.HEADINGS)
    for kind in kinds:
        assert module.descriptions(kind).keys() == get_type_hints(kind).keys()
