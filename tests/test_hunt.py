"""The hunt: cases, how outcomes are compared, how a finding is shrunk, sorted and written as a program."""

import contextlib
import os
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import NAME

from zoo.errors import WrongConfiguration
from zoo.hunt.cases import Case, Outcome, cases
from zoo.hunt.findings import Finding, compare, difference
from zoo.hunt.models import models
from zoo.hunt.programs import array_text
from zoo.hunt.run import hunt, scheduled
from zoo.hunt.shrink import shrink
from zoo.processes.machine import PYTHON, quiet

once = pytest.mark.skipif(NAME != "torch", reason="the same on every framework")
X = np.array([[0.5, -1.25, 2.0], [3.5, 0.25, -0.75]])
SINE = Case("sine", "elementwise", "ops.sin", ("y = ops.sin(x)",), {"x": X})


@once
def test_every_case_has_a_name_of_its_own_and_python_can_parse_it() -> None:
    listed = list(cases())
    assert not [name for name, n in Counter(c.name for c in listed).items() if n > 1]
    for case in listed:
        compile("\n".join([*case.lines, *case.layers.values()]), case.name, "exec")
    groups = {case.operation.split(".")[0] for case in listed}
    assert groups == {"ops", "layers", "keras"}


@once
@pytest.mark.parametrize(
    ("x", "y", "kind"),
    [
        ([1.0, 2.0], [1.0, 2.0 + 4e-16], None),
        ([1.0, 2.0], [1.0, 2.0 + 4e-12], "rounding"),
        ([1.0, 2.0], [1.0, 2.0 + 4e-8], "precision"),
        ([1.0, 2.0], [1.0, 2.1], "value"),
        ([1.0, np.inf, np.nan], [1.0, np.inf, np.nan], None),
        ([1.0, np.inf], [1.0, -np.inf], "nonfinite"),
        ([1.0, np.inf], [1.5, np.inf], "value"),
        ([1.0, np.nan], [1.0, 0.0], "nonfinite"),
        ([1.0, 2.0], [1, 2], "dtype"),
        ([1.0, 2.0], [[1.0, 2.0]], "shape"),
        ([], [], None),
    ],
)
def test_a_difference_has_a_kind(x: list, y: list, kind: str | None) -> None:
    found = difference(np.array(x), np.array(y))
    assert (found and found[0]) == kind


def outcomes(**values: np.ndarray | str) -> dict[str, Outcome]:
    """Outcomes by backend: outputs, or an error."""
    return {
        name: Outcome(error=value) if isinstance(value, str) else Outcome(outputs=[value])
        for name, value in values.items()
    }


@once
def test_the_backend_that_differs_from_the_others_is_named() -> None:
    noise = X * (1 + 1e-12)  # rounding does not count beside a real difference
    found = compare(SINE, outcomes(torch=X, tensorflow=X + 1, jax=noise), {})
    assert found is not None
    assert (found.kind, found.odd) == ("value", ("tensorflow",))
    found = compare(SINE, outcomes(torch="ValueError: no", tensorflow=X, jax=X), {})
    assert found is not None
    assert (found.kind, found.odd) == ("error", ("torch",))
    found = compare(SINE, outcomes(torch=X * (1 + 0.7e-5), tensorflow=X, jax=X * (1 + 1.4e-5)), {})
    assert found is not None  # torch is near both, which are apart
    assert (found.kind, found.odd) == ("value", ("jax", "tensorflow"))
    assert compare(SINE, outcomes(torch="ValueError: no", tensorflow="TypeError: no", jax="x"), {}) is None
    gradients = {
        b: Outcome(outputs=[X], gradients={"x": X * (b != "jax")}) for b in ("torch", "tensorflow", "jax")
    }
    found = compare(SINE, gradients, {})
    assert found is not None
    assert (found.kind, found.odd, found.where) == ("gradient value", ("jax",), "x")


@once
def test_a_finding_is_shrunk_to_what_shows_it() -> None:
    lines = ("y = x = ops.relu(x)", "y = x = ops.sin(x)", "y = x = ops.exp(x)")
    case = Case("model", "models", "ops.sin", lines, {"x": np.random.default_rng(0).normal(size=(4, 5))})

    def sine_is_wrong(candidates: list[Case]) -> list[Finding | None]:
        return [
            Finding("value", ("jax",), c, {})
            if any("sin" in line for line in c.lines) and c.inputs["x"].size
            else None
            for c in candidates
        ]

    found = shrink(Finding("value", ("jax",), case, {}), sine_is_wrong, lambda: False)
    assert found.case.lines == ("y = x = ops.sin(x)",)
    assert found.case.operation == "ops.sin"
    assert found.case.inputs["x"].shape == (1, 1)


@once
@pytest.mark.parametrize(
    "x", [X, np.zeros((2, 3)), np.array([np.nan, np.inf, 1.0]), np.array([True]), np.arange(3.0)]
)
def test_a_program_holds_the_same_array(x: np.ndarray) -> None:
    written = eval(array_text(x), {"np": np})
    assert written.shape == x.shape
    assert np.array_equal(written, x, equal_nan=x.dtype.kind == "f")


@once
def test_the_seed_decides_the_order_and_the_models() -> None:
    listed = list(cases("pooling"))
    orders = [[row[0].name for row in scheduled(listed, seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    first, again, other = (
        [next(drawn).lines for _ in range(5)] for drawn in (models(0), models(0), models(1))
    )
    assert first == again != other


@pytest.mark.parity
def test_a_hunt_without_cases_time_or_a_second_backend_is_refused() -> None:
    with pytest.raises(WrongConfiguration, match="--only nothing: in no name"):
        hunt(1, only="nothing", backends=["torch", "torch", "jax"])
    with pytest.raises(WrongConfiguration, match="0 minutes; expected a number above 0"):
        hunt(0)
    with pytest.raises(WrongConfiguration, match="torch; expected two or more"):
        hunt(1, backends=["torch"])


@pytest.mark.parity
def test_a_seeded_fault_is_found_and_shrunk_and_a_crash_costs_one_case(tmp_path: Path) -> None:
    backend = "keras.backend.backend()"
    fault = f"y = x = x * (1.01 if {backend} == 'tensorflow' else 1.0)"
    wrong = Case("wrong", "models", "ops.exp > wrong", ("y = x = ops.exp(x)", fault), {"x": np.ones((3, 4))})
    line = f"import os; y = os._exit(3) if {backend} == 'torch' else x"
    crash = Case("crash", "models", "crash", (line,), {"x": X})
    result = hunt(3, backends=["torch", "tensorflow"], given=[crash, SINE, wrong])
    found = {(f["kind"], *f["backends"]): f for f in result["findings"]}
    assert set(found) == {("value", "tensorflow"), ("error", "torch")}
    assert "the process ended" in found["error", "torch"]["values"]["torch"]
    assert result["counts"]["cases"] == 3
    text = found["value", "tensorflow"]["program"]
    assert "exp" not in text
    (file := tmp_path / "program.py").write_text(text)
    there = {**quiet(), "KERAS_BACKEND": "tensorflow"}
    run = subprocess.run([*PYTHON, str(file)], env=there, capture_output=True, text=True)
    assert "1.01" in run.stdout, run.stderr


# Differences that are known: (text of the catalogue's row, kind of the finding, backend).
LISTED = [
    ("layers.AveragePooling2D(3, strides=2, padding='same') ; x=2,5,6,2 (normal)", "value", "torch"),
    ("ops.pad(x, ((2, 2), (2, 2)), mode='symmetric') ; x=3,4 (normal)", "value", "torch"),
    ("layers.LayerNormalization(axis=1) ; x=2,3,4 (normal)", "error", "torch"),
    ("ops.top_k(x, 3) ; x=[2.,2.,2.,1.,2.] (normal)", "value", "torch"),
    ("ops.image.resize(x, (9, 7), interpolation='bicubic', antialias=False) ; x=1,5,6,2 (normal)", "value", "torch"),  # noqa: E501
    ("ops.logaddexp(x, y) ; x=3,4 y=3,4 (ones)", "gradient value", "tensorflow"),
    ("ops.hypot(x, y) ; x=3,4 y=3,4 (ones)", "gradient value", "tensorflow"),
    ("ops.cumprod(x) ; x=[2.,0.,3.,0.,4.] (normal)", "gradient value", "tensorflow"),
    ("ops.sinc(x) ; x=3,4 (zeros)", "gradient nonfinite", "tensorflow"),
    ("ops.norm(x) ; x=3,4 (zeros)", "gradient nonfinite", ""),
    ("ops.std(x) ; x=3,4 (zeros)", "gradient nonfinite", ""),
    ("ops.image.map_coordinates(x, c, order=1, fill_mode='reflect') ; x=4 c=[[-9.5,-4.,-0.5,0.5,1.5,3.,3.5,4.,8.,12.7]] (normal)", "value", "tensorflow"),  # noqa: E501
    ("ops.norm(x) ; x=thousands:8 (normal)", "nonfinite", "torch"),
    ("ops.one_hot(i, 4) ; i=[0,4,-1,9] (normal)", "error", "torch"),
    ("ops.selu(x) ; x=[-6.,-3.,-1.,-0.5,-0.,0.,0.5,1.,3.,6.] (normal)", "gradient value", ""),
    ("ops.clip(x, -1, 1) ; x=3,4 (ties)", "gradient value", ""),
]  # fmt: skip


@pytest.mark.parity
@pytest.mark.skipif("ZOO_HUNT" not in os.environ, reason="minutes: set ZOO_HUNT=1")
def test_the_differences_that_are_known_are_found_again() -> None:
    names = {name for name, _, _ in LISTED}
    chosen = [case for case in cases() if case.name in names]
    assert {case.name for case in chosen} == names
    result = hunt(10, given=chosen)
    found = {f["case"]: f for f in result["findings"]}
    missing = []
    for name, kind, backend in LISTED:
        with contextlib.suppress(KeyError):
            if kind in found[name]["kind"] and (not backend or backend in found[name]["backends"]):
                continue
        missing.append(
            (name, kind, backend, found.get(name, {}).get("kind"), found.get(name, {}).get("backends"))
        )
    assert not missing
