"""The two engines: the same run from either, by every mode, whole or cut short."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import LEAN

import zoo
from zoo import backends, layers, tasks, training
from zoo.training import engines, metrics, objectives

SMALL = zoo.card("mlp").small  # with dropout
NATIVE = [m for m in backends.MODES[backends.current().NAME] if m != "compiled"]


def toy(n: int = 50, classes: int = 10) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, classes, n).astype(np.int32)
    x = rng.normal(size=(n, 8, 8, 1)).astype(np.float32) + y[:, None, None, None] / 4
    return x, y


def train(**arguments: object) -> zoo.Run:
    settings = {"steps": 12, "batch_size": 16, "progress": False} | arguments
    return zoo.train(zoo.build("mlp", **SMALL), toy(), **settings)


def weights(run: zoo.Run) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(v)) for v in run.model.trainable_variables]


def plain_sgd(model: keras.Model, run: zoo.Run, rate: float) -> tuple[list[float], list[np.ndarray]]:
    """The same run in NumPy float64 for a linear softmax classifier: batches, loss, gradient, update."""
    kernel, bias = (np.float64(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables)
    losses: list[float] = []
    for epoch in range(100):
        for x, y in run.task.batches(run.batch_size, run.seed, epoch):
            flat = np.float64(x.reshape(len(x), -1))
            logits = flat @ kernel + bias
            p = np.exp(logits - logits.max(1, keepdims=True))
            p /= p.sum(1, keepdims=True)
            losses.append(float(-np.log(p[np.arange(len(y)), y]).mean()))
            p[np.arange(len(y)), y] -= 1
            kernel, bias = kernel - rate * flat.T @ p / len(y), bias - rate * p.mean(0)
            if len(losses) == len(run.losses):
                return losses, [kernel, bias]
    raise AssertionError("the run is longer than 100 epochs")


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_equals_gradient_descent_written_out_in_float64(engine: str) -> None:
    def linear() -> keras.Model:
        image = layers.Input((8, 8, 1))
        return layers.Model(image, layers.dense(layers.flatten(image), 10, name="head"))

    optimizer = zoo.optimizers.SGD(0.1)
    run = zoo.train(
        linear(), toy(), engine=engine, optimizer=optimizer, steps=11, batch_size=16, progress=False
    )
    losses, expected = plain_sgd(linear(), run, 0.1)
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    for ours, theirs in zip(weights(run), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


@pytest.mark.parametrize("mode", NATIVE)
def test_the_native_engine_equals_the_keras_engine_with_dropout_on(mode: str) -> None:
    native, fit = train(mode=mode), train(engine="keras")
    assert np.abs(np.subtract(native.losses, fit.losses)).max() < 2e-6
    for ours, theirs in zip(weights(native), weights(fit), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.usefixtures("compiler")
def test_torch_compiled_equals_torch_traced() -> None:
    if backends.current().NAME != "torch":
        pytest.skip("a mode of torch")
    compiled, traced = train(mode="compiled", steps=5), train(mode="traced", steps=5)
    assert np.abs(np.subtract(compiled.losses, traced.losses)).max() < 2e-6


@pytest.mark.parametrize("mode", NATIVE)
def test_every_step_draws_a_new_dropout_mask(mode: str) -> None:
    """One example, rate 0: the loss changes from step to step by nothing but the mask."""
    x, y = toy(1)
    optimizer = zoo.optimizers.SGD(0.0)
    model = zoo.build("mlp", **{**SMALL, "widths": (64,), "dropout_rate": 0.5})
    run = zoo.train(model, (x, y), optimizer=optimizer, mode=mode, steps=8, progress=False)
    assert len(set(run.losses)) == 8


@pytest.mark.parametrize("mode", NATIVE)
def test_a_new_batch_shape_is_a_new_graph_not_an_old_one(mode: str) -> None:
    backend = backends.current()
    model = zoo.build("mlp", **{**SMALL, "dropout_rate": 0.0})
    step = backend.step(model, backend.cross_entropy, zoo.optimizers.SGD(0.0), mode)
    predict = backend.predictor(model, mode)
    for n in (4, 7, 4, 1):
        x, y = toy(n)
        loss = engines.number(step(backend.tensor(x), backend.tensor(y)))
        step.sync()
        logits = np.float64(keras.ops.convert_to_numpy(predict(backend.tensor(x))))
        chosen = logits[np.arange(n), y]
        assert loss == pytest.approx((np.log(np.exp(logits).sum(1)) - chosen).mean(), rel=1e-5)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_penalties_are_part_of_the_loss(engine: str) -> None:
    image = layers.Input((8, 8, 1))
    logits = layers.dense(layers.flatten(image), 10, regularizer=layers.l2(0.5), name="head")
    model = layers.Model(image, logits)
    kernel = np.float64(keras.ops.convert_to_numpy(model.trainable_variables[0]))
    x, y = toy()
    p = x.reshape(50, -1) @ kernel
    data_loss = (np.log(np.exp(p).sum(1)) - p[np.arange(50), y]).mean()
    run = zoo.train(model, (x, y), engine=engine, steps=1, batch_size=50, progress=False)
    assert run.losses[0] == pytest.approx(data_loss + 0.5 * (kernel**2).sum(), rel=1e-5)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_mean_squared_error_is_the_mean_of_squares(engine: str) -> None:
    image = layers.Input((8, 8, 1))
    model = layers.Model(image, layers.dense(layers.flatten(image), 3, name="head"))
    kernel = np.float64(keras.ops.convert_to_numpy(model.trainable_variables[0]))
    x, _ = toy()
    y = np.random.default_rng(1).normal(size=(50, 3))
    run = zoo.train(model, (x, y), engine=engine, steps=1, batch_size=50, progress=False)
    assert run.losses[0] == pytest.approx(((x.reshape(50, -1) @ kernel - y) ** 2).mean(), rel=1e-5)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_every_engine_stops_after_exactly_the_steps_asked_for(engine: str) -> None:
    for steps in (1, 4, 5):  # an epoch has four
        run = train(engine=engine, steps=steps)
        assert len(run.losses) == steps


def test_epochs_are_passes_over_the_data() -> None:
    run = train(steps=None, epochs=2)
    assert len(run.losses) == 2 * 4
    assert len(run.history) == 2


@pytest.mark.parametrize("engine", training.ENGINES)
def test_the_metric_is_of_the_trained_model_on_the_held_out_examples(engine: str) -> None:
    x, y = toy(80)
    run = train(engine=engine, validation=(x, y), steps=40)
    logits = keras.ops.convert_to_numpy(run.model(x))
    assert run.metrics["accuracy"] == np.mean(logits.argmax(-1) == y)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_the_model_holds_what_was_learnt(engine: str) -> None:
    run = train(engine=engine)
    before = zoo.build("mlp", **SMALL)
    moved = [
        np.abs(a - keras.ops.convert_to_numpy(b)).max()
        for a, b in zip(weights(run), before.trainable_variables, strict=True)
    ]
    assert min(moved) > 1e-4
    steps = [v for v in run.model.variables if v.path.endswith("step")]
    assert [int(v.numpy()) if hasattr(v, "numpy") else int(v) for v in steps] == [12, 12]  # two dropouts


def test_lenet5_learns_to_read_digits() -> None:
    run = zoo.train("lenet5", epochs=6, progress=False)
    assert run.metrics["accuracy"] >= 0.95


@pytest.mark.once  # the ladder compares its gradients, and LeNet-5 learns on every framework
def test_lenet5_of_1998_learns_to_read_digits() -> None:
    run = zoo.train("lenet5-1998", epochs=6, progress=False)
    assert run.metrics["accuracy"] >= 0.95


def test_a_schedule_sets_the_rate_of_each_step() -> None:
    """Rate 0 from the second step on: the model stays where the first step took it."""
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0], [0.1, 0.0])
    one = train(optimizer=zoo.optimizers.SGD(0.1), steps=1)
    for engine in training.ENGINES:
        many = train(optimizer=zoo.optimizers.SGD(schedule), steps=5, engine=engine)
        for ours, theirs in zip(weights(many), weights(one), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-7)


def test_a_native_run_starts_with_an_optimizer_that_remembers_nothing() -> None:
    optimizer = zoo.optimizers.AdamW(0.01)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    assert train(optimizer=optimizer).losses == train(optimizer=optimizer).losses


def test_a_model_is_built_to_fit_the_data() -> None:
    x, y = toy(40, classes=4)
    run = zoo.train("mlp", (x, y), steps=1, progress=False)
    assert run.model.input_shape == (None, 8, 8, 1)
    assert run.model.output_shape == (None, 4)


def test_watch_sees_every_step_in_order() -> None:
    seen = []
    run = train(watch=lambda step, loss: seen.append((step, engines.number(loss))))
    assert seen == list(enumerate(run.losses))


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"engine": "nativ"}, zoo.UnknownName, "nearest: native"),
        ({"mode": "warp"}, zoo.BackendError, "no mode 'warp'"),
        ({"engine": "keras", "mode": "jit"}, zoo.BackendError, "keras engine has no mode"),
        ({"steps": 0}, zoo.WrongConfiguration, "steps=0"),
        ({"epochs": 1.5, "steps": None}, zoo.WrongConfiguration, "epochs=1.5"),
        ({"batch_size": -1}, zoo.WrongConfiguration, "batch_size=-1"),
        ({"loss": "crossentropy"}, zoo.UnknownName, "nearest: cross_entropy"),
        ({"optimizer": "adam"}, zoo.WrongConfiguration, "has no learning rate"),
    ],
)
def test_wrong_arguments_are_named_before_any_step(
    arguments: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        train(**arguments, watch=lambda *_: pytest.fail("a step was made"))


def test_labels_the_model_cannot_tell_apart_are_an_error() -> None:
    model = zoo.build("mlp", **{**SMALL, "classes": 3})
    with pytest.raises(zoo.WrongConfiguration, match="build it with classes=10"):
        zoo.train(model, toy(), steps=1)


def test_examples_of_another_shape_are_an_error() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"\(8, 8, 1\), arrays has \(5,\)"):
        zoo.train(zoo.build("mlp", **SMALL), (np.zeros((4, 5)), np.zeros(4, int)), steps=1)


def test_a_keras_optimizer_is_for_the_keras_engine() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="engine='keras' takes any"):
        train(optimizer=keras.optimizers.Adam())
    assert len(train(optimizer=keras.optimizers.Adam(), engine="keras").losses) == 12


@pytest.mark.once
@pytest.mark.parametrize("engine", training.ENGINES)
def test_ctrl_c_stops_after_the_step_and_keeps_what_was_learnt(engine: str) -> None:
    def interrupt(step: int, _: object) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    run = train(engine=engine, watch=interrupt, steps=100)
    assert run.interrupted
    assert len(run.losses) in (6, 7)  # the signal may arrive a step late
    whole = train(engine=engine, steps=len(run.losses))
    assert run.losses == whole.losses
    for ours, theirs in zip(weights(run), weights(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.once
def test_a_run_off_a_terminal_prints_nothing(tmp_path: Path) -> None:
    script = LEAN + "import zoo; zoo.train('mlp', steps=2)"
    environment = {**os.environ, "KERAS_BACKEND": backends.current().NAME, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == ""
    assert "steps/s" not in done.stderr


def test_tasks_and_training_agree_on_the_names_of_losses_and_metrics() -> None:
    task = tasks.load("digits", (8, 8, 1))
    assert task.loss in objectives.LOSSES
    assert task.metric in metrics.METRICS
