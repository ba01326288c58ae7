"""`zoo compare` and `zoo bench`: each framework in its own process, also one that crashes."""

from __future__ import annotations

import itertools
import json
import math
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import zoo
from zoo import backends, benchmarks, comparison
from zoo.cli import app
from zoo.comparison import runs as comparison_runs
from zoo.ladder import bounds, taps
from zoo.layers import signature
from zoo.processes import workers
from zoo.report import terminal
from zoo.training import plan

KEYS = {
    "model", "backend", "engine", "mode", "losses", "metrics", "step_ms", "compile_s", "first_step_s",
    "peak_mb", "error", "step_ms_quartiles", "examples_per_second", "train_s", "version", "code",
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick_timing() -> Iterator[None]:
    """Steps are timed, but no test claims a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison_runs, "SECONDS", 0.02)
        yield


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[comparison.Comparison, Path]:
    folder = tmp_path_factory.mktemp("report")
    return zoo.compare("mlp", steps=30, threads=1, out=folder), folder


@pytest.mark.parity
def test_three_frameworks_and_two_engines_make_six_rows(compared: tuple[Any, Path]) -> None:
    result, _ = compared
    engines = {(run["backend"], run["engine"]) for run in result.runs}
    assert engines == set(itertools.product(backends.NAMES, ("keras", "native")))
    for run in result.runs:
        assert run["error"] is None
        assert run.keys() >= KEYS
        assert len(run["losses"]) == 30
        low, high = run["step_ms_quartiles"]
        assert 0 < low <= run["step_ms"] <= high
        assert run["first_step_s"] >= run["compile_s"] >= 0


@pytest.mark.parity
def test_differences_are_those_of_the_losses_and_the_weights_are_bit_equal(
    compared: tuple[Any, Path],
) -> None:
    result, _ = compared
    losses = {f"{r['backend']}/{r['engine']}/{r['mode']}": r["losses"] for r in result.runs}
    assert len(result.differences) == 15
    for pair in result.differences:
        assert pair["losses"] == np.abs(np.subtract(losses[pair["a"]], losses[pair["b"]])).max() <= 1e-5
        assert pair["initial_weights"] == 0
        assert pair["outputs"] <= 1e-5
        assert pair["predictions"] == 0
        assert pair["first_layer"] is None


@pytest.mark.parity
def test_the_folder_holds_the_result_and_the_page(compared: tuple[Any, Path]) -> None:
    result, folder = compared
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    assert "<html" in (folder / "report.html").read_text()
    assert "<iframe" in result._repr_html_()


@pytest.mark.parity
def test_a_framework_that_fails_to_import_becomes_a_row_and_the_others_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "optax"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('this optax is broken')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    out = tmp_path / "report"
    done = CliRunner().invoke(
        app,
        ["compare", "mlp", "--steps", "3", "--threads", "1", "--backends", "jax,torch", "--out", str(out)],
    )
    assert done.exit_code == 1
    runs = json.loads((out / "result.json").read_text())["runs"]
    assert [run["error"] for run in runs if run["backend"] == "torch"] == [None, None]
    assert all("this optax is broken" in run["error"] for run in runs if run["backend"] == "jax")
    assert "this optax is broken" in done.output


def test_a_worker_that_the_system_kills_says_so(tmp_path: Path) -> None:
    worker = workers.Worker("zoo.comparison.worker", tmp_path / "worker", backends.installed()[0])
    os.kill(worker.process.pid, signal.SIGKILL)
    with pytest.raises(workers.WorkerDied, match="out of memory"):
        list(worker.ask("time", steps=1))
    worker.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "no model given"),
        ({"models": ["lenet6"]}, "nearest: lenet"),
        ({"task": "digitz"}, "nearest: digits"),
        ({"backends": ["torhc"]}, "nearest: torch"),
        ({"engines": ["kears"]}, "nearest: keras"),
        ({"modes": ["warp"]}, "no mode 'warp'"),
    ],
)
def test_wrong_names_are_errors_before_any_process(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison_runs, "Worker", lambda *_: pytest.fail("a process was started"))
    models = arguments.pop("models", ["mlp"])
    with pytest.raises(zoo.ZooError, match=message):
        zoo.compare(*models, out=None, **arguments)


def test_curves_of_the_terminal_are_logarithmic_and_on_one_scale() -> None:
    falling = [float(2.0**-k) for k in range(8)]  # an eighth of the height each
    rows = [
        {"model": "mlp", "losses": falling},
        {"model": "mlp", "watched": [1.0, 2.0**-7]},  # so far
        {"model": "mlp", "losses": [2.0**-7, math.nan, 0.0]},  # what has no logarithm is left out
        {"model": "mlp"},
        {"model": "vit", "losses": [100.0, 99.0]},  # another model, another scale
    ]
    assert [terminal.curve(row, rows) for row in rows] == ["█▇▆▅▄▃▂▁", "█▁", "▁", "", "█▁"]
    long = {"model": "mlp", "losses": [4.0] * 600 + [1.0] * 600}
    assert terminal.curve(long, [long]) == "██████▁▁▁▁▁▁"


def test_the_first_layer_that_differs_is_the_one_where_the_fault_is() -> None:
    """Scale one layer's kernel by 1 + 1e-3: every layer from there on differs, none before."""
    model = zoo.build("mlp", **zoo.card("mlp").small)
    inputs = zoo.example(model)
    good = taps.layer_outputs(model, inputs)
    assert bounds.first_difference(good, taps.layer_outputs(model, inputs)) is None
    layer = model.get_layer("hidden2")
    layer.kernel.assign(layer.kernel * 1.001)
    difference = bounds.first_difference(good, taps.layer_outputs(model, inputs))
    assert difference is not None
    assert difference["layer"] == "hidden2"
    assert difference["difference"] == pytest.approx(1e-3, rel=0.01)


@pytest.mark.once
@pytest.mark.parametrize(
    ("model", "task"), [("gpt-nano", "topics"), ("bert-tiny", "topics-masked"), ("t5-tiny", "topics-spans")]
)
def test_inputs_that_a_task_leaves_out_change_no_layer(model: str, task: str) -> None:
    """Every operation is compared, also those of masks; the last gives the model's own logits."""
    small = {**zoo.card(model).small, **plan.task_arguments(zoo.card(model), task), "positions": 160}
    built = zoo.build(model, **{k: v for k, v in small.items() if k in zoo.card(model).arguments})
    x = zoo.tasks.load(task, signature.input_shapes(built)).first(3)
    outputs = taps.layer_outputs(built, x)
    logits = built.predict_on_batch(x)
    assert bounds.relative_difference(next(reversed(outputs.values())), logits) < 1e-6


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        ([0.0, 2.0], [0.0, 2.0], 0.0),
        ([1.0, -4.0], [1.1, -4.0], 0.025),
        ([0.0, 0.0], [0.0, 0.0], 0.0),
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0], [1.0, 2.0], np.inf),
    ],
)
def test_a_difference_is_relative_to_the_largest_value(
    a: list[float], b: list[float], expected: float
) -> None:
    assert bounds.relative_difference(np.array(a), np.array(b)) == pytest.approx(expected)


class Drifting:
    """A process whose perturbed runs differ from the first by these losses."""

    perturbations: list[int]
    losses: tuple[float, ...]

    def __init__(self, *_: Any) -> None: ...

    def ask(self, command: str, *, perturbation: int, **_: Any) -> Iterator[dict[str, Any]]:
        assert command == "drift"
        self.perturbations.append(perturbation)
        yield {"losses": [1.0, 0.5 + self.losses[perturbation]]}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("difference", "losses", "count", "drift"),
    [
        (1e-5, (1.0,), 0, None),  # within the bound: not measured
        (4e-3, (1e-3, 1.0), 1, 1e-3),  # five times a thousandth explains four
        (4e-3, (1e-6, 0.0, 2e-3, 1.0), 3, 2e-3),
        (4e-1, (1e-6, 1e-4, 2e-3, 1e-5), 4, 2e-3),  # nothing explains it
    ],
)
def test_where_losses_differ_the_divergence_of_one_run_from_itself_is_measured(
    difference: float, losses: tuple[float, ...], count: int, drift: float | None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(comparison_runs, "Worker", Drifting)
    monkeypatch.setattr(Drifting, "perturbations", [], raising=False)
    monkeypatch.setattr(Drifting, "losses", losses, raising=False)
    run = {"model": "mlp", "engine": "native", "mode": "jit", "error": None, "losses": [1.0, 0.5]}
    rows = [{**run, "backend": name, "train_s": s} for name, s in (("torch", 9.0), ("jax", 2.0))]
    settings = dict.fromkeys(
        ("threads", "device", "task", "tokenizer", "seed", "epochs", "steps", "batch_size", "errors", "exact")
    )
    pairs = [{"losses": difference}, {"losses": float("nan")}]
    divergence = comparison_runs.drift(rows, pairs, tmp_path, settings, lambda: None)
    assert Drifting.perturbations == list(range(count))
    if drift is None:
        assert divergence == {}
    else:
        assert divergence["drift"] == {"run": "jax/native/jit", "runs": count, "losses": pytest.approx(drift)}
        assert divergence["bounds"] == {"losses": pytest.approx(5 * drift)}


@pytest.mark.parity
def test_a_drift_is_that_of_1_ulp_perturbations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(bounds.BOUNDS, "losses", 0.0)  # measured, however small the difference
    monkeypatch.setattr(bounds, "LOSS_ULP", 0.0)
    result = zoo.compare("mlp", steps=30, backends=["jax", "torch"], engines=["native"], out=None)
    (model,) = result["models"]
    assert 0 < result.differences[0]["losses"] <= model["bounds"]["losses"]
    assert 0 < model["drift"]["losses"] < 1e-5
    assert 1 <= model["drift"]["runs"] <= 4


@pytest.mark.parity
def test_every_implementation_of_a_benchmark_arrives_at_the_same_loss(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process, timed = benchmarks._run, []

    def run(command: str, job: dict[str, Any]) -> dict[str, Any]:
        """Only JAX's first timing is run: the others would compile everything again."""
        if command == "interleaved" and (job["backend"] != "jax" or timed):
            return {name: [1.0] * 11 for name in job["implementations"]}
        if command == "interleaved":
            timed.append(job)
        return process(command, job)

    monkeypatch.setattr(benchmarks, "_run", run)
    rows = zoo.bench("mlp", what=["train"], threads=1)
    assert {(row["backend"], row["contestant"]) for row in rows} == {
        *(("torch", f"zoo {mode}") for mode in ("traced", "eager", "compiled")),
        *(("tensorflow", f"zoo {mode}") for mode in ("graph", "xla", "eager")),
        *(("jax", f"zoo {mode}") for mode in ("jit", "eager")),
        ("torch", "plain eager"), ("torch", "plain compiled"), ("torch", "keras fit"),
        ("tensorflow", "plain graph"), ("tensorflow", "plain xla"), ("tensorflow", "keras fit"),
        ("jax", "plain jit"), ("jax", "keras fit"),
    }  # fmt: skip
    assert [row["error"] for row in rows] == [None] * len(rows)
    losses = [row["loss"] for row in rows]
    assert max(losses) - min(losses) <= 1e-5
    references = [row for row in rows if row["contestant"] in ("plain eager", "plain graph", "plain jit")]
    assert [row["ratio"] for row in references] == [1.0, 1.0, 1.0]
    assert len(timed) == 1


def test_a_benchmark_of_nothing_known_is_an_error() -> None:
    with pytest.raises(zoo.UnknownModel, match="nearest: mlp"):
        benchmarks.bench("mpl")
    with pytest.raises(zoo.WrongConfiguration, match="expected train or infer"):
        benchmarks.bench("mlp", what=["trian"])


@pytest.mark.parametrize(
    ("predictions", "text"),
    [((0, 0), "no predictions differ"), ((0, 2), "at most 2 predictions differ")],
)
def test_the_summary_says_how_many_predictions_differ(
    predictions: tuple[int, int], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = {"model": "mlp", "initial_weights": 0, "outputs": 1e-7, "losses": 1e-7, "first_layer": None}
    models = [{"name": "mlp", "task": "digits"}]
    pairs = [{**pair, "predictions": count} for count in predictions]
    terminal.summary({"runs": [], "models": models, "differences": pairs}, Console(width=200))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("mlp, 2 pairs")]
    assert line.endswith(f"at every step, {text}")


def test_no_number_is_cut_on_a_narrow_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {
            "model": "seq2seq", "backend": "tensorflow", "engine": "native", "mode": "graph", "error": None,
            "losses": [1.0, 0.0062], "metrics": {"exact_match": 0.998}, "first_step_s": 8.44,
            "step_ms": 339.47, "peak_mb": 1332.0, "status": "done", "train_s": 168.9,
        }
    ]  # fmt: skip
    console = Console(width=60)
    terminal.summary({"runs": rows, "models": [], "differences": []}, console)
    printed = capsys.readouterr().out
    assert "…" not in printed
    for number in ("0.0062", "0.9980", "8.44 s", "339.47 ms", "1,332 MB"):
        assert number in printed
