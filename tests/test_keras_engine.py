"""The keras engine borrows a model's `compile` and `fit`: the model is given back as it was."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import layers, optimizers
from zoo.training import engines


def toy() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(8, 4)).astype(np.float32), rng.integers(0, 3, 8).astype(np.int32)


def build() -> keras.Model:
    x = layers.Input((4,), name="x")
    return layers.Model(x, layers.dense(x, 3, name="head"))


def state(model: keras.Model) -> dict[str, Any]:
    """What `compile` and `fit` set."""
    return {name: vars(model)[name] for name in engines.COMPILED if name in vars(model)}


def train(model: keras.Model, optimizer: Any = None, **arguments: Any) -> zoo.Run:
    how = {"steps": 3, "batch_size": 4, "progress": False, **arguments}
    return zoo.train(model, toy(), engine="keras", optimizer=optimizer or optimizers.SGD(0.1), **how)


def stop(step: int, loss: Any) -> None:
    del loss
    if step == 1:
        raise RuntimeError("on purpose")


@pytest.mark.parametrize("raises", [False, True])
def test_a_model_that_was_not_compiled_is_not_compiled_afterwards(*, raises: bool) -> None:
    model = build()
    before = state(model)
    if raises:
        with pytest.raises(RuntimeError, match="on purpose"):
            train(model, watch=stop)
    else:
        train(model)
    assert state(model) == before
    assert not model.compiled
    assert not hasattr(model, "optimizer")
    assert np.isfinite(numpy(model.trainable_variables[0])).all()


@pytest.mark.parametrize("raises", [False, True])
def test_a_compiled_model_keeps_its_own_loss_metrics_and_optimizer(*, raises: bool) -> None:
    model, (x, y) = build(), toy()
    own = keras.optimizers.SGD(0.0)
    model.compile(own, keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(x, y, verbose=engines.SILENT)
    tracker, function = model._loss_tracker, model.train_function
    if raises:
        with pytest.raises(RuntimeError, match="on purpose"):
            train(model, watch=stop)
    else:
        train(model)
    assert (model.optimizer, model._loss_tracker) == (own, tracker)
    assert (model.train_function, model.history) == (function, history)
    assert model.stop_training is False
    assert [metric.name for metric in model.metrics] == ["loss", "compile_metrics"]
    logs = model.evaluate(x, y, return_dict=True, verbose=engines.SILENT)
    logits = np.float64(numpy(model(x)))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    np.testing.assert_allclose(logs["loss"], -log_p[np.arange(8), y].mean(), rtol=1e-5)
    assert logs["accuracy"] == np.mean(logits.argmax(1) == y)


@pytest.mark.parametrize("kind", [optimizers.SGD, keras.optimizers.SGD])
def test_an_optimizer_finishes_its_averages_as_before(kind: Any) -> None:
    optimizer = kind(0.5, use_ema=True, ema_momentum=0.5)
    names = set(vars(optimizer))
    model = build()
    train(model, optimizer)
    assert "finalize_variable_values" not in set(vars(optimizer)) - names
    average = [np.array(numpy(v)) for v in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape, np.float32))
    optimizer.finalize_variable_values(model.trainable_variables)
    for variable, expected in zip(model.trainable_variables, average, strict=True):
        np.testing.assert_array_equal(numpy(variable), expected)


def test_a_run_predicts_and_goes_on_after_the_model_was_given_back() -> None:
    model = build()
    run = train(model)
    x, _ = toy()
    np.testing.assert_allclose(run.trainer.predict(x), numpy(model(x)), rtol=0, atol=1e-6)
    longer = train(build(), steps=5)

    class FromTheFourthStep:
        """Two steps: the second of an epoch of two, and the first of the next."""

        per_epoch = 2

        def __init__(self) -> None:
            self.losses: list[float] = []

        @property
        def remaining(self) -> int:
            return 2 - (3 + len(self.losses)) % 2

        @property
        def stopped(self) -> bool:
            return len(self.losses) == 2

        def on_step(self, loss: Any) -> None:
            self.losses.append(engines.number(loss))

        def on_epoch(self) -> None:
            pass

    # From where the run stopped, the second batch of its second epoch and the first of its third.
    batches = [b for epoch in (1, 2) for b in run.task.batches(4, 0, epoch)][1:]
    steps = FromTheFourthStep()
    run.trainer.fit(iter(batches), steps)
    np.testing.assert_allclose(steps.losses, longer.losses[3:], rtol=1e-5)


def network(seeded: bool) -> keras.Model:
    x = image = layers.Input((9, 9, 3), name="x")
    x = layers.relu(layers.batch_norm(layers.conv(x, 4, 3, name="conv"), name="norm"))
    x = keras.layers.Dropout(0.4, seed=1)(x) if seeded else layers.dropout(x, 0.4, name="drop")
    return layers.Model(image, layers.dense(layers.global_average_pool(x), 3, name="head"))


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(
    "settings",
    [{}, {"loss_scale_factor": 8.0, "global_clipnorm": 0.1, "use_ema": True, "ema_overwrite_frequency": 2}],
)
def test_a_recorded_fit_gives_the_numbers_of_keras_own_step(
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    *,
    seeded: bool,
) -> None:
    """Theirs: the same run by Keras's `train_step`. A Keras layer that draws from a seed is not recorded."""
    rng = np.random.default_rng(0)
    data = rng.normal(size=(10, 9, 9, 3)).astype(np.float32), rng.integers(0, 3, 10).astype(np.int32)
    steps, make = [], zoo.backends.current().fit_step
    start: list[np.ndarray] = []

    def run(fit_step: Any) -> tuple[list[float], list[np.ndarray]]:
        model = network(seeded)
        start.extend(model.get_weights() if not start else [])
        model.set_weights(start)
        with monkeypatch.context() as patch:
            patch.setattr(zoo.backends.current(), "fit_step", fit_step)
            found = zoo.train(
                model, data, engine="keras", optimizer=optimizers.Adam(0.01, **settings),
                steps=6, batch_size=4, progress=False,
            )  # fmt: skip
        return found.losses, model.get_weights()

    def kept(model: keras.Model) -> Any:
        steps.append(make(model))
        return steps[-1]

    (ours, weights), (theirs, expected) = run(kept), run(lambda model: None)
    assert ours == theirs
    for a, b in zip(weights, expected, strict=True):
        np.testing.assert_array_equal(a, b)
    if keras.backend.backend() == "torch":
        assert bool(steps[0].graphs) is not seeded
