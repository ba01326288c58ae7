"""The learning rate finder: its losses by a formula in NumPy, its suggestions, and no trace of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy
from typer.testing import CliRunner

import zoo
from zoo import layers, optimizers
from zoo.cli import app
from zoo.training.engines import ENGINES
from zoo.training.finder import DIVERGED, SMOOTHING, LearningRates

engines = pytest.mark.parametrize("engine", ENGINES)
SIZE, STEPS, LOWEST, HIGHEST = 8, 60, 1e-4, 1e3


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40).astype(np.int32)
    return rng.normal(size=(40, 4)).astype(np.float32) + 2 * np.eye(4, dtype=np.float32)[y], y


def linear() -> keras.Model:
    x = layers.Input((4,), name="x")
    return layers.Model(x, layers.dense(x, 3, name="head"))


def find(model: keras.Model, engine: str = "native", **options: Any) -> LearningRates:
    settings: dict[str, Any] = {"lowest": LOWEST, "highest": HIGHEST, "steps": STEPS, "batch_size": SIZE}
    return zoo.find_learning_rate(model, data(), engine=engine, **{**settings, **options})


def by_hand(model: keras.Model, momentum: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The rates, the losses of softmax regression, and their rounding errors in float32: of 32 operations on
    the largest logit so far, which a velocity sums up."""
    w, b = (np.float64(numpy(v)) for v in model.trainable_variables)
    velocity_w, velocity_b = np.zeros_like(w), np.zeros_like(b)
    rates, losses, logit = np.geomspace(LOWEST, HIGHEST, STEPS), [], []
    task = zoo.tasks.from_arrays(data(), loss=None)
    batches = [batch for epoch in range(STEPS) for batch in task.batches(SIZE, 0, epoch)]
    for rate, (x, y) in zip(rates, batches, strict=False):
        logits = x @ w + b
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        logit.append(np.abs(logits).max())
        losses.append(-log_p[np.arange(len(y)), y].mean())
        p = np.exp(log_p)
        error = (p - np.eye(3)[y]) / len(y)
        velocity_w, velocity_b = momentum * velocity_w + x.T @ error, momentum * velocity_b + error.sum(0)
        w, b = w - rate * velocity_w, b - rate * velocity_b
    rounding = 32 * np.finfo(np.float32).eps / (1 - momentum) * np.maximum.accumulate(logit)
    return rates, np.array(losses), rounding


@engines
@pytest.mark.parametrize(("optimizer", "momentum"), [("SGD", 0.0), ("Momentum(0.5, momentum=0.9)", 0.9)])
def test_the_losses_are_those_of_the_formula_on_every_framework(
    engine: str, optimizer: str, momentum: float
) -> None:
    """Also where they are larger than at the beginning: until the run ends, by the rule written out."""
    model = linear()
    found = find(model, engine, optimizer=optimizer)
    rates, losses, rounding = by_hand(model, momentum)
    weights = SMOOTHING ** np.arange(STEPS)[::-1]
    smoothed = np.array([np.average(losses[: i + 1], weights=weights[-i - 1 :]) for i in range(STEPS)])
    over = [i for i in range(1, STEPS) if smoothed[i] > DIVERGED * smoothed[: i + 1].min()]
    done = over[0] + 1 if over else STEPS
    assert found.diverged == bool(over)
    assert over  # the case is of use
    np.testing.assert_allclose(found.rates, rates[:done], rtol=1e-12)
    assert (np.abs(found.losses - losses[:done]) <= rounding[:done]).all()
    assert (np.abs(found.smoothed - smoothed[:done]) <= rounding[:done]).all()


def test_the_suggestion_is_where_the_smoothed_loss_falls_fastest() -> None:
    """A loss that is flat, falls, and rises: by hand, and a lowest rate behind it."""
    rates = np.geomspace(1e-6, 1, 61)
    means = np.r_[np.full(20, 2.0), np.linspace(2.0, 1.0, 11)[1:], np.full(21, 1.0), np.linspace(1.1, 5, 10)]
    sums = means * (1 - SMOOTHING ** np.arange(1, 62)) / (1 - SMOOTHING)  # the losses with these averages
    losses = np.diff(np.r_[0.0, sums]) + (1 - SMOOTHING) * np.r_[0.0, sums[:-1]]
    found = LearningRates(rates, losses, "")
    np.testing.assert_allclose(found.smoothed, means, rtol=1e-9)
    assert rates[19] < found.suggestion < rates[30]
    assert rates[29] <= found.lowest <= rates[50]
    with pytest.raises(zoo.WrongConfiguration, match="the loss falls at no rate"):
        _ = LearningRates(rates, np.linspace(1, 2, 61), "").suggestion


def optimizer(name: str) -> optimizers.Optimizer:
    return getattr(optimizers, name)(0.1)


@engines
@pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW", "LAMB"])
def test_every_optimizer_by_name_and_as_an_object(engine: str, name: str) -> None:
    by_name = find(linear(), engine, optimizer=name, steps=12)
    assert np.array_equal(by_name.losses, find(linear(), engine, optimizer=optimizer(name), steps=12).losses)
    assert len(by_name.losses) == 12 or by_name.diverged


@engines
def test_a_model_is_left_as_it_was(engine: str) -> None:
    model = zoo.build("resnet18", **{**zoo.card("resnet18").small, "classes": 10})
    before = [np.array(numpy(v)) for v in model.variables]
    zoo.find_learning_rate(model, "digits", engine=engine, steps=10, freeze="backbone", layer_decay=0.5)
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(numpy(variable), value)
    assert all(layer.trainable for layer in model.layers)


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"learning_rate": 0.1}, zoo.WrongConfiguration, "takes no learning_rate="),
        ({"out": "runs"}, zoo.WrongConfiguration, "takes no out="),
        ({"optimiser": "SGD"}, zoo.UnknownName, "nearest: optimizer"),
        ({"lowest": 1.0, "highest": 0.1}, zoo.WrongConfiguration, "expected 0 < lowest < highest"),
        ({"steps": 3}, zoo.WrongConfiguration, "steps=3; expected an integer, 10 or more"),
        ({"optimizer": keras.optimizers.SGD()}, zoo.WrongConfiguration, "expected one of zoo.optimizers"),
    ],
)
def test_what_is_wrong_is_named_before_any_step(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find(linear(), **options)


@pytest.mark.once
def test_the_command_prints_the_curve_and_draws_it(tmp_path: Path) -> None:
    """Its object for scripts, and the figure, have the numbers of the function."""
    file = tmp_path / "rates.svg"
    words = ["lr", "lenet5", "digits", "--steps", "40", "--highest", "1"]
    found = zoo.find_learning_rate("lenet5", "digits", steps=40, highest=1.0)
    printed = CliRunner().invoke(app, [*words, "-q", "--json", "--out", str(file)])
    assert printed.exit_code == 0, printed.output
    facts = json.loads(printed.stdout)
    assert facts["losses"] == found.losses.tolist()
    assert facts["suggestion"] == found.suggestion
    assert "learning rate" in file.read_text()
    shown = CliRunner().invoke(app, [*words, "-q"]).stdout
    assert f"--lr {found.suggestion:.2g}" in shown
    picture = zoo.show.learning_rates(found)
    np.testing.assert_array_equal(picture.values, np.stack([found.rates, found.losses, found.smoothed], 1))
