"""Recipes: how a run trains by default, from random weights or from trained ones, and how it says so."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import zoo
from zoo import optimizers, pretrained, schedules
from zoo.cli import app
from zoo.training import recipes

pytestmark = pytest.mark.once

TRAINED = {(trained.model, trained.name): trained for trained in pretrained.TRAINED}


@pytest.mark.parametrize("model", ["lenet5", "resnet18"])
def test_fine_tuning_does_not_undo_what_the_weights_have_learned(model: str) -> None:
    """After an epoch on the data they are of, they are as good as their card says.

    At the rate for random weights, 2e-3, the loss is half as large again.
    """
    card = TRAINED[model, "digits"].card()["metrics"]
    run = zoo.train(model, weights="digits", epochs=1, progress=False)
    assert run.history[0]["loss"] <= 1.1 * card["loss"]
    assert run.history[0]["accuracy"] >= card["accuracy"] - 0.01


def test_the_fine_tuning_recipe_is_the_one_of_the_table() -> None:
    """The same losses as by hand: AdamW at 1e-4, a tenth of warmup, cosine decay, batches of 32."""
    loaded = zoo.build("lenet5", weights="digits")
    schedule = schedules.WarmupDecay(1e-4, 2, 20, "cosine")
    by_hand = zoo.train(
        loaded, "digits", optimizer=optimizers.AdamW(schedule, weight_decay=0.01), batch_size=32, steps=20,
        progress=False,
    )  # fmt: skip
    run = zoo.train("lenet5", weights="digits", steps=20, progress=False)
    assert run.losses == by_hand.losses


def test_an_optimizer_or_a_schedule_overrides_it() -> None:
    settings = {"weights": "digits", "steps": 4, "batch_size": 16, "progress": False}
    loaded = lambda: zoo.build("lenet5", weights="digits")  # noqa: E731
    plain = {name: value for name, value in settings.items() if name != "weights"}
    for given in (
        {"optimizer": lambda: optimizers.SGD(0.01)},
        {"schedule": lambda: schedules.CosineAnnealing(0.01, 6)},
    ):
        ((name, make),) = given.items()
        ours = zoo.train("lenet5", **{name: make()}, **settings)
        theirs = zoo.train(loaded(), "digits", **{name: make()}, **plain)
        assert ours.losses == theirs.losses
        assert "0.01" in ours.recipe


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_fine_tuning_is_slower_and_shorter_and_warms_up(name: str) -> None:
    usual, tuned = recipes.recipe(name), recipes.fine_tuning(name)
    assert tuned.settings["learning_rate"] <= usual.settings["learning_rate"] / 5
    assert tuned.epochs < usual.epochs
    assert tuned.warmup > 0
    assert tuned.optimizer == usual.optimizer


def test_fine_tuning_is_said_in_python_too(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        zoo.train("lenet5", steps=1)
        assert caplog.text == ""
        zoo.train("lenet5", weights="digits", steps=1)
    assert "lenet5: fine-tuning, as weights are given: AdamW, learning rate" in caplog.text


@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (lambda: optimizers.SGD(0.5), "SGD, learning rate 0.5"),
        (lambda: optimizers.Momentum(0.1, momentum=0.8), "Momentum, learning rate 0.1, momentum 0.8"),
        (
            lambda: optimizers.AdamW(schedules.CosineAnnealing(0.01, 6), weight_decay=0.05, clipnorm=1.0),
            r"AdamW, learning rate CosineAnnealing\(.*0\.01.*\), weight decay 0.05, clipnorm 1",
        ),
    ],
)
def test_an_optimizer_is_described_by_what_shapes_its_steps(optimizer: Any, said: str) -> None:
    assert re.fullmatch(said, recipes.described(optimizer()))


# --- what the command says ---


def test_redirected_training_says_its_recipe_and_a_line_for_each_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "lenet5", "--epochs", "2", "--batch-size", "256"])
    recipe, *epochs = [line for line in done.stderr.splitlines() if line.startswith(("lenet5:", "epoch"))]
    assert recipe == (
        "lenet5: AdamW, learning rate 0.002, weight decay 0.01; 12 steps of 256 examples, 6 an epoch"
    )
    number = r"\d+\.\d{4}"
    pattern = (
        rf"train loss {number} · learning rate 0.002 · held out: accuracy {number}, loss {number} · \d+\.\d s"
    )
    assert [re.sub(pattern, "", line) for line in epochs] == [
        "epoch 1/2 · step 6 · ",
        "epoch 2/2 · step 12 · ",
    ]
    result = done.stdout.splitlines()[0]
    assert re.search(
        rf": 12 steps in \d+\.\d s, train loss {number} · held out: accuracy {number}, loss", result
    )
    last = re.findall(number, epochs[-1])
    assert re.findall(number, result) == last


def test_a_run_without_held_out_examples_has_no_metrics_to_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.cli import terminal

    monkeypatch.chdir(tmp_path)
    x, y = np.zeros((8, 8, 8, 1), np.float32), np.arange(8, dtype=np.int32)
    run = zoo.train("mlp", (x, y), steps=1, progress=False)
    assert terminal.run_line(run).endswith(f"train loss {run.losses[-1]:.4f}")


def test_quiet_and_json_say_nothing_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["train", "lenet5", "--weights", "digits", "--steps", "1", "--quiet"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0
    assert done.stderr == ""
