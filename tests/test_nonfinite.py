"""Losses and gradients that are not finite: found, named, and stopped at, skipped or rolled back from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import optimizers, schedules, tasks, training
from zoo._lazy import ops
from zoo.training import checkpoints, nonfinite, runs

SMALL = {**zoo.card("mlp").small, "widths": (8,)}  # with dropout
STEPS = 14  # an epoch has four


def toy(bad: float = np.nan) -> tuple[np.ndarray, np.ndarray]:
    """64 images, one of which has a pixel that is not finite: a step of every epoch has it in its batch."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(64, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)
    x[20, 2, 3, 0] = bad
    return x, y


def overflow() -> tuple[np.ndarray, np.ndarray]:
    """The same with one image of finite pixels whose sums are not."""
    x, y = toy(1.0)
    x[20] = np.float32(3e38) * np.sign(x[20])
    return x, y


def marked() -> tuple[np.ndarray, np.ndarray]:
    """The same with finite pixels; one label of 100."""
    x, _ = toy(1.0)
    y = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
    y[20] = 100
    return x, y


def root_of_zero(y: Any, logits: Any) -> Any:
    """Finite, with a gradient that is NaN where a label is 100."""
    others = ops.clip(100 - y, 0, 1)  # XLA would make a choice of a product with y < 100
    return ops.mean(ops.square(logits - y) * others) + ops.mean(ops.sqrt(ops.square(logits) * others))


def bad_steps() -> list[int]:
    """The steps whose batch has example 20, counted from 1."""
    x, y = np.arange(64, dtype=np.float32)[:, None], np.zeros(64, np.int32)
    task = tasks.from_arrays((x, y), loss=None)
    batches = [20 in batch for epoch in range(4) for batch, _ in task.batches(16, 0, epoch)]
    return [i for i, has_it in enumerate(batches[:STEPS], 1) if has_it]


def train(data: Any, **arguments: Any) -> zoo.Run:
    """With everything an optimizer keeps: moments, an average, sums of gradients, a schedule."""
    adamw = optimizers.AdamW(
        schedules.CosineAnnealing(0.01, STEPS), use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=2
    )
    model = zoo.build("mlp", **(SMALL if data is not marked else {**SMALL, "classes": 1}))
    settings = {"optimizer": adamw, "steps": STEPS, "batch_size": 16, "progress": False, **arguments}
    return zoo.train(model, data(), **settings)


def without(left_out: list[int], monkeypatch: pytest.MonkeyPatch, data: Any, **arguments: Any) -> zoo.Run:
    """The witness: a run that is never given the batches of these steps."""
    batches = tasks.Task.batches

    def fewer(task: tasks.Task, size: int, seed: int, epoch: int, first: int = 0) -> Iterator[Any]:
        steps = range(epoch * 4 + first + 1, epoch * 4 + 5)
        pairs = zip(steps, batches(task, size, seed, epoch, first), strict=True)
        return (pair for step, pair in pairs if step not in left_out)

    monkeypatch.setattr(tasks.Task, "batches", fewer)
    run = train(data, steps=STEPS - len(left_out), **arguments)
    monkeypatch.undo()
    return run


def assert_weights(run: zoo.Run, witness: zoo.Run) -> None:
    for ours, theirs in zip(run.model.variables, witness.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs), err_msg=ours.path)


@pytest.fixture(autouse=True)
def blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three steps, which are not the epochs'."""
    monkeypatch.setattr(nonfinite, "EVERY", {"stop": 3, "skip": 3, "rollback": 3})


# oneDNN's ReLU, TensorFlow's, makes 0 of NaN: the loss is finite then, and the gradient is not.
CASES = [
    (toy, {}, r"the (loss is nan|update is not finite), first in the batch, input_layer\w*"),
    (overflow, {}, "the loss is nan, first in the output of layer hidden1"),
    (marked, {"loss": root_of_zero}, "the update is not finite, first in the gradient of hidden1/kernel"),
]


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize(("data", "options", "said"), CASES, ids=["batch", "layer", "gradient"])
def test_a_run_stops_at_the_first_step_that_is_not_finite_and_names_it(
    engine: str, data: Any, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """The last checkpoint is of the step before it; the error has the run, with the weights before it."""
    path, first = tmp_path / "run.safetensors", bad_steps()[0]
    with pytest.raises(zoo.NonFinite, match=rf"mlp: step {first}, epoch 1: {said}\. Lower") as error:
        train(data, engine=engine, checkpoint=path, checkpoint_every=1, **options)
    assert error.value.step == first
    assert len(checkpoints.read(path).arrays["losses"]) == first - 1
    assert len(error.value.run.losses) == first
    saved = checkpoints.read(path).part("model")
    for variable in error.value.run.model.variables:
        np.testing.assert_array_equal(numpy(variable), saved[variable.path])


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize(("data", "options", "said"), CASES[::2], ids=["batch", "gradient"])
def test_a_step_that_is_skipped_is_as_if_its_batch_were_not_there(
    engine: str, data: Any, options: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    del said
    run = train(data, engine=engine, on_nan="skip", **options)
    assert run.left_out == bad_steps()
    assert "the step is left out" in caplog.text
    assert len(run.losses) == STEPS
    witness = without(bad_steps(), monkeypatch, data, engine=engine, **options)
    assert [loss for i, loss in enumerate(run.losses, 1) if i not in run.left_out] == witness.losses
    assert run.history[-1]["learning_rate"] == witness.history[-1]["learning_rate"]
    assert_weights(run, witness)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_that_rolls_back_is_as_if_the_block_were_not_there(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the last good block's end to the check that found it."""
    run = train(toy, engine=engine, on_nan="rollback")
    assert set(bad_steps()) <= set(run.left_out)
    assert len(run.left_out) < STEPS
    assert_weights(run, without(run.left_out, monkeypatch, toy, engine=engine))


def test_a_run_that_skips_is_resumed_bit_for_bit(tmp_path: Path) -> None:
    path, last = tmp_path / "run.safetensors", bad_steps()[1]
    uncut = train(toy, on_nan="skip")
    train(toy, on_nan="skip", steps=last + 1, checkpoint=path)
    run = train(toy, on_nan="skip", resume=path, optimizer=None, batch_size=None)
    np.testing.assert_array_equal(run.losses, uncut.losses)
    assert run.left_out == uncut.left_out
    assert_weights(run, uncut)
    copy = runs.facts_of(run)  # which is written while the run goes on
    run.left_out.append(STEPS)
    assert copy["left_out"] == uncut.left_out


def test_a_run_that_rolls_back_is_resumed_bit_for_bit_from_the_end_of_an_epoch(tmp_path: Path) -> None:
    """Which is within a block of the run that is not cut."""
    path = tmp_path / "run.safetensors"
    uncut = train(toy, on_nan="rollback")
    train(toy, on_nan="rollback", steps=4, checkpoint=path)
    run = train(toy, on_nan="rollback", resume=path, optimizer=None, batch_size=None)
    assert run.left_out == uncut.left_out
    np.testing.assert_array_equal(run.losses, uncut.losses)
    assert_weights(run, uncut)


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize("policy", ["skip", "rollback"])
def test_callbacks_of_keras_are_called_before_every_step_of_a_run_that_goes_back(
    engine: str, policy: str
) -> None:
    events: list[tuple[str, int]] = []
    callback = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: events.append(("begin", batch)),
        on_train_batch_end=lambda batch, logs: events.append(("end", batch)),
    )
    train(toy, engine=engine, on_nan=policy, callbacks=[callback])
    for before, (event, batch) in itertools.pairwise(events):
        assert event == "begin" or before == ("begin", batch)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_callback_of_keras_stops_a_run_that_goes_back(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bad step, which is found where the run ends."""
    monkeypatch.setitem(nonfinite.EVERY, "skip", 100)
    step = bad_steps()[0]

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del logs
            assert self.model is not None
            self.model.stop_training = batch == step - 1

    assert len(train(toy, engine=engine, on_nan="skip", callbacks=[Stop()]).losses) == step


def test_the_bad_step_is_found_where_a_callback_has_changed_the_rate() -> None:
    """In the second epoch, whose first step is in a block with the last one of the first."""
    x, y = toy(1.0)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: [0.01, 1e30][epoch])
    options = {"optimizer": "SGD(0.01)", "engine": "keras", "batch_size": 16, "progress": False}
    with pytest.raises(zoo.NonFinite, match="step 6, epoch 2") as error:
        zoo.train(zoo.build("mlp", **SMALL), (x, y), epochs=2, callbacks=[rate], **options)
    assert np.isfinite(error.value.run.losses).tolist() == 5 * [True] + [False]


def test_a_run_in_which_nothing_is_finite_ends() -> None:
    x, y = toy()
    with pytest.raises(zoo.NonFinite, match="It is the 11th in succession; lower the learning rate"):
        train(lambda: (np.full_like(x, np.nan), y), on_nan="skip")


def test_steps_that_a_loss_scale_skips_are_normal() -> None:
    """mixed_float16 from a scale of 2^40: gradients overflow until it has come down."""
    x, y = toy(0.0)
    own = keras.optimizers.LossScaleOptimizer(optimizers.Momentum(0.01), initial_scale=2.0**40)
    model = zoo.build("mlp", dtype="mixed_float16", **SMALL)
    run = zoo.train(model, (x, y), optimizer=own, steps=30, batch_size=16, progress=False)
    assert run.left_out == []
    assert np.isfinite(run.losses).all()
    assert run.trainer.state_dict()["scale"] < 2.0**40


def test_kerass_own_optimizer_stops_and_cannot_skip() -> None:
    with pytest.raises(
        zoo.NonFinite, match=rf"step (up to )?{bad_steps()[0]}, epoch 1: the (loss|update) is n"
    ):
        train(toy, engine="keras", optimizer=keras.optimizers.Adam(0.01))
    with pytest.raises(zoo.WrongConfiguration, match="Adam"):
        train(toy, engine="keras", optimizer=keras.optimizers.Adam(0.01), on_nan="skip")


@pytest.mark.once
def test_an_unknown_policy_names_the_known() -> None:
    with pytest.raises(zoo.UnknownName, match="on_nan='skipp'; nearest: skip"):
        train(toy, on_nan="skipp")
