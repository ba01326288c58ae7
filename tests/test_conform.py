"""A backend of Keras beside the others: what counts, what is reported, and a backend that the zoo lacks."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zoo.errors import BackendError, WrongConfiguration
from zoo.hunt.cases import Case
from zoo.hunt.conformance import Computed, Conformance, _result, _rows, conform, majority, verdict

pytestmark = pytest.mark.once
ONE, TWO, NAN = [np.array([1.0])], [np.array([2.0])], [np.array([np.nan])]


def found(**outputs: Any) -> dict[str, list[Computed]]:
    """One case on each backend: its outputs, or an error."""
    return {
        name: [Computed(error=y) if isinstance(y, str) else Computed(outputs=y)]
        for name, y in outputs.items()
    }


def result_of(case: str = "ops.f(x)", **outputs: Any) -> Conformance:
    rows = list(_rows("numpy", [Case(case, "group", "ops.f", ())], found(**outputs)))
    return _result("numpy", "float64", ["torch", "tensorflow", "jax"], rows, 1)


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ([ONE, ONE, TWO], ONE),
        ([TWO, ONE, ONE], ONE),
        ([ONE, TWO], None),
        ([ONE, ONE, TWO, TWO], None),  # half is no majority
        ([ONE, [], []], None),  # one alone is no witness
        ([ONE, ONE, []], ONE),  # who computes nothing has no vote
        ([NAN, NAN, ONE], NAN),
    ],
)
def test_the_reference_is_what_more_than_half_of_two_or_more_compute(outputs: list, expected: list | None):
    agreed = majority(outputs)
    assert (agreed is None) == (expected is None)
    assert np.array_equal(agreed or [], expected or [], equal_nan=True)


@pytest.mark.parametrize(
    ("dtype", "off", "expected"),
    [
        ("float64", 1e-10, "passed"),
        ("float64", 1e-8, "different"),
        ("float32", 1e-5, "passed"),
        ("float32", 1e-3, "different"),
        ("float16", 2e-3, "passed"),
        ("float16", 5e-2, "different"),
    ],
)
def test_rounding_is_that_of_the_type_which_the_backend_returns(dtype: str, off: float, expected: str):
    ours = [np.array([1 + off, 0.5], dtype)]
    assert verdict([np.array([1.0, 0.5])], ours, None)["verdict"] == expected


def test_a_difference_is_reported_with_both_values_of_its_element():
    expected, ours = np.array([1.0, np.inf, 3.0]), np.array([1.0, np.inf, 3.5])
    assert verdict([expected], [ours], None) == {"verdict": "different", "reason": "3.5, expected 3"}
    expected, ours = np.array([1.0, np.nan, 3.0]), np.array([1.0, 2.0, 3.0])
    assert verdict([expected], [ours], None)["reason"] == "2, expected nan"
    assert verdict([np.ones(3)], [np.ones((3, 1))], None)["reason"] == "shape (3, 1), expected (3,)"
    assert verdict([np.ones(3)] * 2, [np.ones(3)], None)["reason"] == "1 arrays, expected 2"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("NotImplementedError: `svd` is not supported with openvino backend", "not implemented"),
        ("AttributeError: module 'keras.src.backend.numpy.nn' has no attribute 'f'", "not implemented"),
        ("AttributeError: 'int' object has no attribute 'shape'", "crashed"),
        ("the process ended: killed by the system", "crashed"),
    ],
)
def test_what_is_missing_is_not_what_fails(error: str, expected: str):
    result = result_of(numpy=error, torch=ONE, tensorflow=ONE, jax=ONE)
    (failure,) = result["failures"]
    assert (failure["verdict"], failure["reason"]) == (expected, error)
    assert result["total"][expected] == 1
    assert result.score == 0


def test_a_case_without_a_reference_says_nothing():
    result = result_of(numpy=TWO, torch=ONE, tensorflow=TWO, jax="ValueError: no")
    assert (result["cases"], result["tried"], result["failures"]) == (0, 1, [])


def test_numpy_is_no_witness_of_convolutions_which_it_computes_by_jax():
    """Witness: its source imports jax and calls jax.lax.conv_general_dilated."""
    case = Case("layers.Conv1D(2, 3)", "convolutions", "layers.Conv1D", ())
    outcomes = found(torch=TWO, tensorflow=TWO, jax=ONE, numpy=ONE)
    (row,) = _rows("torch", [case], {**outcomes, "tensorflow": outcomes["jax"]})
    assert row["verdict"] == "different"  # TensorFlow and JAX agree
    assert list(_rows("torch", [case], outcomes)) == []  # JAX and its double are no two


@pytest.mark.parametrize(
    ("name", "message"),
    [("numpyy", "no backend 'numpyy'; nearest: numpy"), ("mlx", "no backend 'mlx'; there are: .*numpy")],
)
def test_a_backend_that_keras_has_not_is_refused(name: str, message: str):
    with pytest.raises(BackendError, match=message):
        conform(name)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"only": "no such"}, "no case has 'no such'"),
        ({"values": ["tie"]}, "no values 'tie'; nearest: ties"),
        ({"dtype": "float16"}, "expected float64 or float32"),
    ],
)
def test_wrong_arguments_are_refused_before_any_process(arguments: dict[str, Any], message: str):
    with pytest.raises(WrongConfiguration, match=message):
        conform("numpy", **arguments)


class Text(HTMLParser):
    """The cells of a page's tables, and its tags."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: set[str] = set()
        self.data: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):  # noqa: ARG002
        self.tags.add(tag)

    def handle_data(self, data: str):
        self.data.append(data.strip())


def test_the_page_shows_every_failure_and_runs_nothing(tmp_path: Path):
    result = result_of("ops.<script>(x)", numpy=TWO, torch=ONE, tensorflow=ONE, jax=ONE)
    result.save(tmp_path)
    html = (tmp_path / "conformance.html").read_text("utf-8")
    page = Text(html)
    assert "ops.<script>(x)" in page.data
    assert "2, expected 1" in page.data
    assert "script" not in page.tags
    assert "http" not in html.replace("http-equiv", "")
    assert json.loads((tmp_path / "conformance.json").read_text("utf-8"))["failures"] == result["failures"]
    assert "different: ops.<script>(x): 2, expected 1" in str(result)


@pytest.mark.parametrize(("passed", "colour"), [(99, "brightgreen"), (96, "green"), (49, "red")])
def test_the_badge_is_an_endpoint_of_shields(passed: int, colour: str):
    row = {"group": "g", "kind": "forward"}
    rows = [{**row, "verdict": "passed"}] * passed + [{**row, "verdict": "crashed"}] * (100 - passed)
    result = _result("numpy", "float64", [], rows, 100)
    badge = result.badge()
    assert {"schemaVersion", "label", "message"} <= badge.keys()  # required
    assert badge["schemaVersion"] == 1
    assert badge["message"] == f"{passed}.0 % of 100"
    assert badge["color"] == colour


@pytest.mark.parity
def test_a_backend_that_the_zoo_does_not_support_is_compared_with_three_frameworks():
    """Witness: 1 / 2 is 0.5, and Keras's NumPy gives 0 for the reciprocal of an integer."""
    result = conform("numpy", only="ops.reciprocal")
    assert (result["dtype"], result["references"]) == ("float64", ["torch", "tensorflow", "jax"])
    (failure,) = result["failures"]
    assert "int" in failure["case"]
    assert failure["verdict"] == "different"
    assert failure["reason"].startswith("0, expected 0.")
    assert result["total"]["passed"] == result["cases"] - 1 > 0
