"""Evaluation: in batches of any size, by the command's options, and with test-time augmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from PIL import Image
from typer.testing import CliRunner

import zoo
from zoo import WrongConfiguration, tasks
from zoo.cli import app
from zoo.training.engines import NativeEngine

RNG = np.random.default_rng(0)
X = RNG.random((22, 32, 32, 1), dtype=np.float32)
Y = RNG.integers(0, 10, 22)


def softmax(logits: np.ndarray) -> np.ndarray:
    p = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("name", ["lenet5", "lstm"])
def test_results_do_not_depend_on_the_batch_size(name: str) -> None:
    run = zoo.train(name, steps=1, progress=False)
    theirs = zoo.evaluate(run, split="held-out", batch_size=512)
    for size in (7, 64):
        ours = zoo.evaluate(run, split="held-out", batch_size=size)
        for metric in ("loss", "accuracy", "examples"):
            assert ours[metric] == pytest.approx(theirs[metric], rel=1e-5)


def test_a_run_is_evaluated_in_batches_of_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes, predict = [], NativeEngine.predict
    monkeypatch.setattr(NativeEngine, "predict", lambda self, x: sizes.append(len(x)) or predict(self, x))
    zoo.train("lenet5", (X, Y), validation=(X, Y), batch_size=8, steps=1, progress=False)
    assert sizes == [8, 8, 6]


@pytest.mark.parametrize("size", [5, 64])
def test_copies_are_averaged_by_their_probabilities(size: int) -> None:
    model = zoo.build("lenet5", seed=1)
    copies = [X, X[:, :, ::-1], X[:, ::-1]]
    p = np.mean([softmax(numpy(model(np.ascontiguousarray(x)))) for x in copies], axis=0)
    ours = zoo.evaluate(model, (X, Y), tta="HorizontalFlip, VerticalFlip", batch_size=size)
    assert ours["loss"] == pytest.approx(-np.log(p[np.arange(22), Y]).mean(), rel=1e-5)
    assert ours["accuracy"] == (p.argmax(1) == Y).mean()
    assert ours["examples"] == 22


def test_outputs_of_a_regression_are_averaged() -> None:
    model, targets = zoo.build("lenet5", seed=1), RNG.random((22, 10), dtype=np.float32)
    outputs = np.mean([numpy(model(x)) for x in (X, np.ascontiguousarray(X[:, :, ::-1]))], axis=0)
    ours = zoo.evaluate(model, (X, targets), tta="HorizontalFlip")
    assert ours["loss"] == pytest.approx(((outputs - targets) ** 2).mean(), rel=1e-5)


def test_draws_depend_on_nothing_but_the_example(tmp_path: Path) -> None:
    for i in range(8):
        file = tmp_path / "ab"[i % 2] / f"{i}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(RNG.integers(0, 255, (40, 40, 3), np.uint8)).save(file)
    task = tasks.folder(tmp_path, (32, 32, 3))
    model = zoo.build("lenet5", channels=3, classes=2)
    tta = "RandomCrop(32, padding=2), Rotation(20)"
    found = [zoo.evaluate(model, task, tta=tta, split="all", batch_size=size) for size in (3, 64)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], rel=1e-5)
    assert found[0]["loss"] != zoo.evaluate(model, task, split="all")["loss"]


@pytest.mark.parametrize(
    ("task", "tta", "message"),
    [
        ((X, Y), "MixUp(0.2)", "MixUp does not"),
        ((X, Y), "RandomDeletion", "RandomDeletion does not"),
        ((X, Y), "CenterCrop(16)", r"CenterCrop makes images of shape \(16, 16, 1\)"),
        ([(X, Y)], "HorizontalFlip", "images, in files or arrays; list"),
    ],
)
def test_what_are_no_copies_of_images_is_refused(task: Any, tta: str, message: str) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        zoo.evaluate(zoo.build("lenet5"), task, tta=tta)


def test_texts_are_refused() -> None:
    run = zoo.train("lstm", steps=1, progress=False)
    with pytest.raises(WrongConfiguration, match="tta= goes with images"):
        zoo.evaluate(run, tta="HorizontalFlip", split="held-out")


def test_the_command_takes_weights_a_checkpoint_and_a_task_by_name(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    run = zoo.train("lenet5", "digits", steps=2, progress=False, checkpoint=file)

    def measured(*words: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, ["evaluate", *words, "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    for words in (
        ["lenet5", "--checkpoint", str(file), "--task", "digits"],
        ["lenet5", "--weights", str(file), "--task", "digits"],
        ["--checkpoint", str(file)],
        ["--run", str(file), "--task", "digits"],
        [str(file), "--task", "digits"],
    ):
        assert measured(*words)["loss"] == pytest.approx(run.metrics["loss"], rel=1e-6)
    averaged = measured(str(file), "--tta", "HorizontalFlip")
    assert averaged["loss"] == zoo.evaluate(file, tta="HorizontalFlip")["loss"]
    for words in (
        ["resnet18", "--checkpoint", str(file)],
        ["lenet5", "digits", "--task", "digits"],
        ["--run", str(file), "--checkpoint", str(file)],
    ):
        assert CliRunner().invoke(app, ["evaluate", *words]).exit_code
