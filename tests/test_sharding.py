"""Weights sharded over workers, on JAX: the losses of one process, each holding its share of the state."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import zoo.backends
from conftest import NAME
from test_workers import FAMILIES, OPTIONS, check, environment, train
from typer.testing import CliRunner

import zoo
from zoo.cli import app
from zoo.processes.machine import PYTHON

on_jax = pytest.mark.skipif(NAME != "jax", reason="the others refuse it, which is tested")


@pytest.mark.parametrize(
    ("name", "shard", "workers", "message"),
    [
        (NAME, "batches", 2, "shard='batches'; expected 'weights'"),
        ("jax", "weights", 1, "with one worker, which holds them all; give workers=2"),
        ("torch", "weights", 2, "shard='weights' on torch: .* use jax"),
        ("tensorflow", "weights", 2, "shard='weights' on tensorflow: .* use jax"),
    ],
)
def test_what_cannot_be_sharded_is_refused(name: str, shard: str, workers: int, message: str) -> None:
    if name not in zoo.backends.installed():
        pytest.skip(f"{name} is not installed")
    with pytest.raises(zoo.BackendError, match=message):
        zoo.backends.check_shard(name, shard, workers)


@pytest.mark.skipif(NAME == "jax", reason="JAX shards")
def test_the_command_refuses_it_before_it_starts_workers() -> None:
    done = CliRunner().invoke(app, ["train", "mlp", "--workers", "2", "--shard", "weights", "--no-save"])
    assert isinstance(done.exception, zoo.BackendError)
    assert f"shard='weights' on {NAME}" in str(done.exception)


@on_jax
@pytest.mark.workers
def test_exact_training_with_sharded_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="exact: shard='weights' is not offered"):
        train(tmp_path, 2, models=["mlp"], shard="weights", options={"exact": True})


@on_jax
def test_sharded_weights_give_the_losses_of_one_process(tmp_path: Path) -> None:
    """And a worker of two holds half of the state, but for what is too small or does not divide."""
    (alone,) = train(tmp_path, 1, models=["mlp"], float64=True)
    group = train(tmp_path, 2, models=["mlp"], float64=True, shard="weights")
    check(group, alone, 1e-12)
    assert 0.5 <= group[0]["mlp"]["held"] / alone["mlp"]["held"] < 0.6  # callbacks are of worker 0


@on_jax
@pytest.mark.workers
@pytest.mark.parametrize("workers", [2, 4])
def test_every_family_has_the_losses_of_one_process(workers: int, tmp_path: Path) -> None:
    (alone,) = train(tmp_path, 1, models=FAMILIES, float64=True)
    check(train(tmp_path, workers, models=FAMILIES, float64=True, shard="weights"), alone, 1e-12)


@on_jax
@pytest.mark.workers
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_have_the_losses_of_one_process(options: dict[str, Any], tmp_path: Path) -> None:
    asked = {"models": ["vit-ti16"], "options": options, "float64": True}
    (alone,) = train(tmp_path, 1, **asked)
    check(train(tmp_path, 2, **asked, shard="weights"), alone, 1e-12)


@on_jax
@pytest.mark.workers
def test_a_run_with_sharded_weights_is_resumed_with_whole_ones_and_the_reverse(tmp_path: Path) -> None:
    asked = {"models": ["vit-ti16"], "float64": True}
    (whole,) = train(tmp_path, 1, options={"steps": 30}, **asked)
    saved = str(tmp_path / "saved.safetensors")
    train(tmp_path, 2, options={"steps": 12, "checkpoint": saved}, shard="weights", **asked)
    for workers, shard in ((4, "weights"), (2, None), (1, None)):
        for each in train(tmp_path, workers, options={"steps": 30, "resume": saved}, shard=shard, **asked):
            tail = {**whole["vit-ti16"], "losses": whole["vit-ti16"]["losses"][12:]}
            assert each["vit-ti16"]["losses"][-18:] == pytest.approx(tail["losses"], rel=1e-12)


@on_jax
@pytest.mark.workers
def test_the_command_trains_with_sharded_weights_and_saves_whole_ones(tmp_path: Path) -> None:
    command = [*PYTHON, "-m", "zoo", "train", "mlp", "digits", "--epochs", "2", "--learning-rate", "1e-4"]
    shard = ["--workers", "2", "--shard", "weights"]
    for name, options in (("alone", []), ("sharded", shard)):
        subprocess.run([*command, "--out", str(tmp_path / name), *options], env=environment(), check=True)
    runs = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("alone", "sharded")]
    ours, theirs = ([epoch["train_loss"] for epoch in run["history"]] for run in runs)
    assert ours == pytest.approx(theirs, rel=1e-6)
    whole, gathered = (zoo.load_run(tmp_path / name).model.get_weights() for name in ("alone", "sharded"))
    for one, other in zip(whole, gathered, strict=True):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-6)
