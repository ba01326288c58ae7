"""A run's optimizer and frozen layers from words and numbers, and from a run file."""

from __future__ import annotations

import csv
import json
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import zoo
from zoo import optimizers, schedules
from zoo.cli import app
from zoo.training import nonfinite
from zoo.training.engines import ENGINES
from zoo.training.loop import Loop

engines = pytest.mark.parametrize("engine", ENGINES)
RATE = 2e-3  # of LeNet-5's recipe, AdamW with a weight decay of 0.01


def losses(engine: str = "native", **options: Any) -> list[float]:
    return zoo.train("lenet5", "digits", engine=engine, steps=6, progress=False, **options).losses


SAME = {
    "a rate": ({"learning_rate": 0.01}, lambda: optimizers.AdamW(0.01)),
    "a decay": ({"weight_decay": 0.3}, lambda: optimizers.AdamW(RATE, weight_decay=0.3)),
    "clipping": ({"clip_norm": 0.1}, lambda: optimizers.AdamW(RATE, global_clipnorm=0.1)),
    "accumulation": ({"accumulate": 2}, lambda: optimizers.AdamW(RATE, gradient_accumulation_steps=2)),
    "averages": ({"ema": 0.9}, lambda: optimizers.AdamW(RATE, use_ema=True, ema_momentum=0.9)),
    "a name": ({"optimizer": "sgd", "learning_rate": 0.1}, lambda: optimizers.SGD(0.1)),
    "the recipe's class": ({"optimizer": "AdamW(beta_2=0.9)"}, lambda: optimizers.AdamW(RATE, beta_2=0.9)),
    "a call": (
        {"optimizer": "Momentum(0.1, nesterov=True)"},
        lambda: optimizers.Momentum(0.1, nesterov=True),
    ),
    "a schedule": (
        {"schedule": "OneCycle(0.01)"},
        lambda: optimizers.AdamW(schedules.OneCycle(0.01, total_steps=6)),
    ),
    "a schedule of the recipe's rate": (
        {"schedule": "CosineAnnealing"},
        lambda: optimizers.AdamW(schedules.CosineAnnealing(RATE, decay_steps=6)),
    ),
    "a schedule with a rate": (
        {"schedule": "StepDecay(decay_steps=2, decay_rate=0.5)", "learning_rate": 0.01},
        lambda: optimizers.AdamW(schedules.StepDecay(0.01, 2, 0.5)),
    ),
}


@engines
@pytest.mark.parametrize(("options", "optimizer"), SAME.values(), ids=SAME)
def test_settings_are_those_of_the_optimizer_written_out(engine: str, options: Any, optimizer: Any) -> None:
    assert losses(engine, **options) == losses(engine, optimizer=optimizer())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"optimizer": "Adamm"}, zoo.UnknownName, "nearest: Adam"),
        ({"optimizer": "SGD"}, zoo.WrongConfiguration, "no learning rate"),
        (
            {"optimizer": "SGD(0.1)", "learning_rate": 0.1},
            zoo.WrongConfiguration,
            "learning_rate; give it once",
        ),
        ({"optimizer": "SGD(0.1, 0.2)"}, zoo.WrongConfiguration, "then arguments by name"),
        ({"schedule": "Cosine"}, zoo.UnknownName, "CosineAnnealing"),
        (
            {"schedule": "OneCycle(0.1, peak=2)"},
            zoo.WrongConfiguration,
            "expected OneCycle.max_learning_rate",
        ),
        ({"schedule": "OneCycle(0.1)", "learning_rate": 0.1}, zoo.WrongConfiguration, "two rates"),
        ({"accumulate": 1}, zoo.WrongConfiguration, "accumulate=1; expected an integer, 2 or more"),
        ({"clip_norm": -1.0}, zoo.WrongConfiguration, "global_clipnorm"),
        ({"freeze": "conv9"}, zoo.UnknownName, "no such layer; nearest: conv"),
        ({"freeze": "*"}, zoo.WrongConfiguration, "no trainable weights"),
        ({"dtype": "float17"}, zoo.WrongConfiguration, "float17"),
        ({"early_stopping": -1}, zoo.WrongConfiguration, "patience=-1"),
    ],
)
def test_what_is_wrong_is_named_before_any_step(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        losses(**options)


def test_settings_of_an_optimizer_of_ones_own_and_of_a_resumed_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match="ema= is a setting of the recipe's optimizer"):
        losses(optimizer=optimizers.SGD(0.1), ema=0.9)
    file = tmp_path / "run.safetensors"
    zoo.train("lenet5", "digits", steps=2, checkpoint=file, progress=False)
    with pytest.raises(zoo.WrongConfiguration, match="leave clip_norm= out"):
        losses(resume=file, clip_norm=1.0)


@engines
def test_frozen_layers_keep_their_weights_and_others_learn(engine: str, tmp_path: Path) -> None:
    start = zoo.build("lenet5", classes=10)
    file = tmp_path / "run.safetensors"
    options: Any = {"engine": engine, "progress": False}
    run = zoo.train("lenet5", "digits", steps=2, freeze="conv*", checkpoint=file, **options)
    for before, after in zip(start.layers, run.model.layers, strict=True):
        same = [np.array_equal(*pair) for pair in zip(before.get_weights(), after.get_weights(), strict=True)]
        assert all(same) if before.name.startswith("conv") else not any(same) or not same
    # A resumed run freezes the same layers, and is refused others.
    whole = zoo.train("lenet5", "digits", steps=4, freeze=["conv*"], **options)
    resumed = zoo.train("lenet5", "digits", steps=4, resume=file, **options)
    np.testing.assert_allclose(resumed.losses, whole.losses, rtol=1e-6)
    with pytest.raises(zoo.WrongConfiguration, match="freeze=conv"):
        zoo.train("lenet5", "digits", steps=4, resume=file, freeze="backbone", **options)


def test_the_backbone_is_everything_but_the_head() -> None:
    run = zoo.train("resnet18", "digits", steps=1, freeze="backbone", progress=False)
    assert {v.path.split("/")[0] for v in run.model.trainable_variables} == {"head"}


def test_a_dtype_is_that_of_the_build() -> None:
    run = zoo.train("mlp", "digits", steps=1, dtype="mixed_bfloat16", progress=False)
    assert run.model.dtype_policy.name == "mixed_bfloat16"
    with pytest.raises(zoo.WrongConfiguration, match="built already"):
        zoo.train(zoo.build("mlp"), "digits", steps=1, dtype="bfloat16", progress=False)


def test_patience_is_early_stopping() -> None:
    # Nothing can be learned at rate 0: the run ends after its second epoch.
    run = zoo.train("mlp", "digits", epochs=5, learning_rate=0.0, early_stopping=1, progress=False)
    assert len(run.history) == 2


def command(*words: str) -> Any:
    return CliRunner().invoke(app, ["train", *words, "--no-save", "-q", "--json"], catch_exceptions=True)


@pytest.mark.once
def test_a_run_file_gives_the_options_and_the_command_line_overrides_them(tmp_path: Path) -> None:
    file, again = tmp_path / "run.toml", tmp_path / "again.toml"
    file.write_text('model = "lenet5"\ntask = "digits"\nsteps = 50\nlr = 0.01\nbatch-size = 32\n')
    first = command(str(file), "--steps", "4", "--save-config", str(again))
    assert first.exit_code == 0, first.output
    options = tomllib.loads(again.read_text())
    assert (options["steps"], options["learning-rate"], options["batch-size"]) == (4, 0.01, 32)
    second = command(str(again))
    ours = zoo.train("lenet5", "digits", steps=4, learning_rate=0.01, batch_size=32, progress=False)
    assert f'"loss": {ours.metrics["loss"]}' in first.output
    assert f'"loss": {ours.metrics["loss"]}' in second.output


@pytest.mark.once
@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ('model = "lenet5"\nrate = 1', zoo.UnknownName, "no option 'rate'"),
        ('model = "lenet5"\nlr = [1]', zoo.WrongConfiguration, "expected a string, a number"),
        ("steps = 1", zoo.WrongConfiguration, "no model"),
        ("model =", zoo.WrongConfiguration, "not a TOML file"),
        ('model = "lenet5"\nsteps = "many"', zoo.WrongConfiguration, "expected an integer"),
        (None, zoo.DataUnavailable, "no such run file"),
    ],
)
def test_a_wrong_run_file_is_named(
    text: str | None, error: type[Exception], message: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.toml"
    if text is not None:
        file.write_text(text)
    raised = command(str(file)).exception
    assert isinstance(raised, error)
    assert message in str(raised)


class Recorder(zoo.Callback):
    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []
        self.epochs: list[tuple[int, dict[str, float]]] = []
        self.runs: list[Any] = []

    def on_step(self, step: int, loss: Any) -> None:
        self.steps.append((step, float(loss)))

    def on_epoch(self, epoch: int, facts: Any) -> None:
        self.epochs.append((epoch, dict(facts)))

    def on_end(self, run: Any) -> None:
        self.runs.append(run)


@engines
def test_callbacks_are_called_after_steps_and_epochs_and_at_the_end(engine: str, tmp_path: Path) -> None:
    recorder, file, lines = Recorder(), tmp_path / "log.csv", tmp_path / "log.jsonl"
    loggers = [zoo.CSVLogger(file), zoo.JSONLinesLogger(lines)]
    run = zoo.train(
        "mlp", "digits", engine=engine, steps=30, progress=False, callbacks=[recorder, *loggers]
    )  # 23 steps an epoch
    assert [step for step, _ in recorder.steps] == list(range(1, 31))
    np.testing.assert_allclose([loss for _, loss in recorder.steps], run.losses, rtol=1e-6)
    assert [epoch for epoch, _ in recorder.epochs] == [1, 2]
    for (_, facts), (first, end), metrics in zip(
        recorder.epochs, [(0, 23), (23, 30)], run.history, strict=True
    ):
        assert facts["step"] == end
        assert facts["train_loss"] == pytest.approx(np.mean(run.losses[first:end]), rel=1e-6)
        assert metrics.items() <= facts.items()
    assert recorder.runs == [run]
    with file.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["train_loss"]) for row in rows] == [f["train_loss"] for _, f in recorder.epochs]
    assert [json.loads(line)["accuracy"] for line in lines.read_text().splitlines()] == [
        metrics["accuracy"] for metrics in run.history
    ]


def test_losses_are_fetched_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(nonfinite.EVERY, "stop", 4)
    waiting: list[int] = []
    monkeypatch.setattr(
        Loop, "fetch", lambda loop, own=Loop.fetch: (waiting.append(len(loop.pending)), own(loop))
    )
    run = zoo.train("mlp", "digits", steps=30, progress=False)
    assert max(waiting) == 4
    assert run.losses == zoo.train("mlp", "digits", steps=30, progress=False).losses
    assert len(run.losses) == 30


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--log", "wondb:x"], zoo.UnknownName, "log='wondb:x'; nearest: wandb"),
        (["--log", "csv"], zoo.WrongConfiguration, "expected a path"),
        (["--log", "csv:nowhere/log.csv"], zoo.WrongConfiguration, "nowhere"),
    ],
)
def test_a_wrong_log_is_named(options: list[str], error: type[Exception], message: str) -> None:
    raised = command("mlp", "--steps", "1", *options).exception
    assert isinstance(raised, error)
    assert message in str(raised)


def test_what_is_no_callback_is_refused() -> None:
    callbacks: Any = [print]
    with pytest.raises(zoo.WrongConfiguration, match=r"expected objects of zoo\.Callback"):
        losses(callbacks=callbacks)


@engines
def test_metrics_on_the_training_examples_are_those_of_an_evaluation(engine: str) -> None:
    run = zoo.train("mlp", "digits", engine=engine, steps=30, progress=False, train_metrics=True)
    assert [set(epoch) for epoch in run.history] == [
        {"train_loss", "learning_rate", "train_accuracy", "accuracy", "loss"}
    ] * 2
    assert run.history[-1]["train_accuracy"] == zoo.evaluate(run, split="train")["accuracy"]
    assert run.metrics.keys() == {"accuracy", "loss"}
    assert run.losses == zoo.train("mlp", "digits", engine=engine, steps=30, progress=False).losses
