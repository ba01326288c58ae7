"""Regularization: drop-path, label smoothing, penalties and weight decay, early stopping."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import layers, optimizers, random, tasks, training
from zoo.training import stopping

SMALL = {**zoo.card("mlp").small, "widths": (8,)}


def toy(n: int = 48, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, n).astype(np.int32)


def train(model: keras.Model, data: Any = None, **arguments: Any) -> zoo.Run:
    settings = {"batch_size": 16, "progress": False, **arguments}
    return zoo.train(model, data or toy(), **settings)


def weights(model: keras.Model) -> list[np.ndarray]:
    return [np.array(numpy(v)) for v in model.variables]


# --- drop-path ---


def dropping(rate: float, *shape: int) -> keras.Model:
    x = layers.Input(shape)
    return layers.Model(x, layers.drop_path(x, rate, name="path"))


@pytest.mark.parametrize("shape", [(), (5,), (6, 7), (4, 4, 3)], ids=str)
def test_drop_path_zeroes_whole_examples_and_scales_the_rest(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).uniform(1, 2, (200, *shape)).astype(np.float32)
    y = numpy(dropping(0.25, *shape)(x, training=True))
    dropped = (y == 0).reshape(200, -1)
    assert np.array_equal(dropped.any(1), dropped.all(1))
    assert 0 < dropped.all(1).sum() < 200
    np.testing.assert_allclose(y[~dropped.all(1)], x[~dropped.all(1)] / 0.75, rtol=1e-6)


def test_drop_paths_mask_is_that_of_its_key_and_step() -> None:
    """`random.keep` itself is held against NumPy in test_random.py."""
    x = np.random.default_rng(0).normal(size=(50, 6, 7)).astype(np.float32)
    key = random.key32(0, "path", "dropout")
    model = dropping(0.4, 6, 7)
    for step in range(3):
        kept = numpy(random.keep((50, 1, 1), 0.4, key, np.int32(step)))
        assert np.array_equal(numpy(model(x, training=True)), np.where(kept, x * np.float32(1 / 0.6), 0))


def test_drop_path_draws_a_new_mask_each_step() -> None:
    model, x = dropping(0.5, 1), np.ones((64, 1), np.float32)
    masks = {numpy(model(x, training=True)).tobytes() for _ in range(10)}
    assert len(masks) == 10


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_drop_path_drops_its_rate_of_the_examples(rate: float) -> None:
    """Of 20,000, in 40 steps: within 4 sigma, and the steps differ as independent draws do."""
    model, x = dropping(rate, 1), np.ones((500, 1), np.float32)
    dropped = np.array([(numpy(model(x, training=True)) == 0).mean() for _ in range(40)])
    sigma = (rate * (1 - rate) / 500) ** 0.5
    assert abs(dropped.mean() - rate) < 4 * sigma / 40**0.5
    assert dropped.std(ddof=1) == pytest.approx(sigma, rel=4 / (2 * 39) ** 0.5)


def test_drop_path_in_inference_does_nothing_and_counts_no_step() -> None:
    x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
    model = dropping(0.4, 6)
    assert np.array_equal(numpy(model(x)), x)
    assert np.array_equal(numpy(model(x, training=False)), x)
    assert numpy(model.get_layer("path").step) == 0


def test_drop_path_at_rate_0_is_no_layer() -> None:
    x = layers.Input((6,))
    assert layers.drop_path(x, 0.0, name="path") is x


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_drop_path_rate_that_is_no_probability_below_1_is_refused(rate: float) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=f"^path: drop-path rate {rate}; expected 0 <= rate < 1"):
        layers.drop_path(layers.Input((6,)), rate, name="path")


def test_both_engines_drop_the_same_paths() -> None:
    """A residual block, and batches of 16 and of 4: in `fit` the batch axis is unknown where it can be."""

    def residual() -> keras.Model:
        image = layers.Input((8, 8, 1))
        x = layers.flatten(image)
        x = x + layers.drop_path(layers.dense(x, 64, name="branch"), 0.5, name="path")
        return layers.Model(image, layers.dense(x, 10, name="head"))

    native, fit = (
        train(residual(), toy(20), engine=engine, steps=5, optimizer=optimizers.SGD(0.05))
        for engine in training.ENGINES
    )
    np.testing.assert_allclose(native.losses, fit.losses, rtol=0, atol=2e-6)


# --- label smoothing ---


@cache
def smoothed(engine: str) -> zoo.Run:
    model = zoo.build("mlp", **{**SMALL, "dropout_rate": 0.0})
    return train(model, engine=engine, label_smoothing=0.1, steps=12, optimizer=optimizers.Momentum(0.05))


def first_batch(run: zoo.Run) -> tuple[np.ndarray, np.ndarray]:
    """The logits before the first step, and the labels."""
    x, y = next(iter(run.task.batches(run.batch_size, run.seed, 0)))
    return np.float64(numpy(zoo.build("mlp", **{**SMALL, "dropout_rate": 0.0})(x))), y


@pytest.mark.parametrize("engine", training.ENGINES)
def test_label_smoothing_is_that_of_szegedy_et_al(engine: str) -> None:
    """2016, section 7: targets q' = (1 - e) q + e / K, here with e = 0.1 and K = 10."""
    logits, y = first_batch(smoothed(engine))
    log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    targets = 0.9 * np.eye(10)[y] + 0.1 / 10
    assert smoothed(engine).losses[0] == pytest.approx(-(targets * log_p).sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_label_smoothing_is_torchs(engine: str) -> None:
    torch = pytest.importorskip("torch")
    logits, y = (torch.tensor(a) for a in first_batch(smoothed(engine)))
    theirs = torch.nn.CrossEntropyLoss(label_smoothing=0.1)(logits, y.long()).item()
    assert smoothed(engine).losses[0] == pytest.approx(theirs, rel=1e-6)


def test_both_engines_train_alike_on_smoothed_labels() -> None:
    native, fit = (smoothed(engine) for engine in training.ENGINES)
    np.testing.assert_allclose(native.losses, fit.losses, rtol=0, atol=2e-6)
    for ours, theirs in zip(weights(native.model), weights(fit.model), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("share", [1.0, 1.5, -0.1, float("nan")])
def test_label_smoothing_that_is_no_share_is_refused(share: float) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=f"label_smoothing={share}; expected 0 <="):
        train(zoo.build("mlp", **SMALL), steps=1, label_smoothing=share)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_label_smoothing_without_labels_is_refused(engine: str) -> None:
    x, _ = toy()
    y = np.zeros((48, 10), np.float32)
    with pytest.raises(
        zoo.WrongConfiguration, match="goes with cross_entropy, not with 'mean_squared_error'"
    ):
        train(zoo.build("mlp", **SMALL), (x, y), engine=engine, steps=1, label_smoothing=0.1)


# --- penalties and weight decay ---

D = 0.5  # weight decay
L1, L2 = (lambda: layers.l1(0.3)), (lambda: layers.l2(0.3))


def linear(regularizer: Any = None) -> keras.Model:
    """Without a bias, which weight decay would act on and a penalty would not. One weight is exactly 0."""
    image = layers.Input((8, 8, 1))
    x = layers.dense(layers.flatten(image), 10, use_bias=False, regularizer=regularizer, name="head")
    model = layers.Model(image, x)
    (kernel,) = model.trainable_variables
    start = np.array(numpy(kernel))
    start[0, 0] = 0
    kernel.assign(start)
    return model


def start() -> np.ndarray:
    return weights(linear())[0]


def nothing(y: Any, logits: Any) -> Any:
    """No loss but the penalties."""
    del y
    return 0 * keras.ops.sum(logits)


def trained(regularizer: Any, optimizer: Any, **arguments: Any) -> np.ndarray:
    """The kernel after these steps, or after one on the penalty alone."""
    settings = {"loss": nothing, "steps": 1, **arguments}
    (kernel,) = weights(train(linear(regularizer), optimizer=optimizer, **settings).model)
    return np.float64(kernel)


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize(
    ("penalty", "gradient"), [(L1, lambda w: 0.3 * np.sign(w)), (L2, lambda w: 0.6 * w)], ids=["l1", "l2"]
)
def test_the_gradient_of_a_penalty(
    engine: str, penalty: Callable[[], Any], gradient: Callable[[np.ndarray], np.ndarray]
) -> None:
    """weight sign(w), 2 weight w; one step of SGD with no other loss."""
    w = np.float64(start())
    moved = trained(penalty(), optimizers.SGD(0.1), engine=engine)
    np.testing.assert_allclose(moved, w - 0.1 * gradient(w), rtol=0, atol=1e-7)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_an_l2_penalty_of_half_is_sgds_weight_decay(engine: str) -> None:
    settings = {"engine": engine, "loss": None, "steps": 6}
    penalty = trained(layers.l2(D / 2), optimizers.SGD(0.1), **settings)
    decay = trained(None, optimizers.SGD(0.1, weight_decay=D), **settings)
    np.testing.assert_allclose(penalty, decay, rtol=0, atol=2e-7)
    assert np.abs(penalty - trained(None, optimizers.SGD(0.1), **settings)).max() > 0.02  # than without


@pytest.mark.parametrize("engine", training.ENGINES)
def test_an_l2_penalty_of_half_is_adams_weight_decay(engine: str) -> None:
    settings = {"engine": engine, "loss": None, "steps": 6}
    penalty = trained(layers.l2(D / 2), optimizers.Adam(0.01), **settings)
    decay = trained(None, optimizers.Adam(0.01, weight_decay=D), **settings)
    np.testing.assert_allclose(penalty, decay, rtol=0, atol=2e-6)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_under_adam_an_l2_penalty_moves_every_weight_alike_and_adamws_decay_in_proportion(
    engine: str,
) -> None:
    """Loshchilov and Hutter 2019: with no other loss Adam's first step is rate sign(w), whatever the size of
    w and of the penalty; AdamW's is rate d w."""
    w = np.float64(start())
    coupled = trained(layers.l2(D / 2), optimizers.Adam(0.01), engine=engine)
    decoupled = trained(None, optimizers.AdamW(0.01, weight_decay=D), engine=engine)
    large = np.abs(w) > 1e-3  # Adam's epsilon
    np.testing.assert_allclose((w - coupled)[large], 0.01 * np.sign(w[large]), rtol=0, atol=1e-6)
    np.testing.assert_allclose(w - decoupled, 0.01 * D * w, rtol=0, atol=1e-7)


# --- early stopping ---


def made_up(rng: np.random.Generator) -> list[float]:
    """Twelve values that fall and rise again, in 64ths: with ties, and differences without rounding."""
    return (np.cumsum(rng.integers(-4, 5, 12)) / 64 + 2).tolist()


SEQUENCES = [made_up(np.random.default_rng(i)) for i in range(12)]
SEQUENCES += [[1.0] * 6, [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0], [1.0, float("nan"), float("nan"), 0.5], [3.0]]
SEQUENCES += [[2 - i / 8 for i in range(12)]]


def by_keras(rule: zoo.EarlyStopping, values: Sequence[float]) -> tuple[int, float]:
    """Epochs made, and which one's weights are kept (its number stands in for them)."""
    x = layers.Input((1,))
    model = layers.Model(x, layers.dense(x, 1, use_bias=False, name="epoch"))
    witness = keras.callbacks.EarlyStopping(
        monitor=rule.monitor,
        min_delta=rule.min_delta,
        patience=rule.patience,
        mode="min" if rule.monitor == "loss" else "max",
        restore_best_weights=rule.restore_best,
    )
    witness.set_model(model)
    model.stop_training = False
    witness.on_train_begin()
    epoch = -1
    for epoch, value in enumerate(values):
        model.set_weights([np.full((1, 1), epoch, np.float32)])
        witness.on_epoch_end(epoch, {rule.monitor: value})
        if model.stop_training:
            break
    witness.on_train_end()
    return epoch + 1, float(weights(model)[0][0, 0])


def by_us(rule: zoo.EarlyStopping, values: Sequence[float]) -> tuple[int, float]:
    """The same by `stopping.EarlyStopper`, as `zoo.train` calls it."""
    x = layers.Input((1,))
    model = layers.Model(x, layers.dense(x, 1, use_bias=False, name="epoch"))
    task = tasks.Task("made up", (None, None), None, "cross_entropy", "accuracy")
    run: Any = SimpleNamespace(model=model, task=task)
    patience = stopping.EarlyStopper(rule, run)
    epoch = -1
    for epoch, value in enumerate(values):
        model.set_weights([np.full((1, 1), epoch, np.float32)])
        if patience.ends({"loss": 1.0, "accuracy": 0.5, rule.monitor: value}):
            break
    patience.restore()
    return epoch + 1, float(weights(model)[0][0, 0])


@pytest.mark.once
@pytest.mark.parametrize("restore_best", [True, False])
@pytest.mark.parametrize("monitor", ["loss", "accuracy"])
@pytest.mark.parametrize("min_delta", [0.0, 2 / 64])
@pytest.mark.parametrize("patience", [0, 1, 2, 4])
def test_early_stopping_is_kerass(patience: int, min_delta: float, monitor: str, restore_best: bool) -> None:
    """It ends after the same epoch of a made-up sequence, with the same epoch's weights."""
    rule = zoo.EarlyStopping(patience, monitor, min_delta, restore_best)
    for values in SEQUENCES:
        assert by_us(rule, values) == by_keras(rule, values), values


def test_the_made_up_sequences_stop_early_and_late_and_not_at_all() -> None:
    epochs = {by_keras(zoo.EarlyStopping(2), values)[0] for values in SEQUENCES}
    assert {1, 3, 4, 12} <= epochs


@cache
def overfitted(engine: str, *, restore_best: bool = True) -> zoo.Run:
    """Sixteen examples learnt by heart, 48 others held out: the held-out loss falls, then rises."""
    rule = zoo.EarlyStopping(patience=3, restore_best=restore_best)
    return overfitting(engine, early_stopping=rule, epochs=60)


def overfitting(engine: str, optimizer: Any = None, **arguments: Any) -> zoo.Run:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 64).astype(np.int32)
    x = rng.normal(size=(64, 8, 8, 1)).astype(np.float32) + np.eye(64)[y].reshape(64, 8, 8, 1) * 2
    x = x.astype(np.float32)
    settings = {"engine": engine, "optimizer": optimizer or optimizers.Adam(0.02), **arguments}
    return train(zoo.build("mlp", **SMALL), (x[:16], y[:16]), validation=(x[16:], y[16:]), **settings)


def best(run: zoo.Run) -> int:
    """The epoch, counted from 0, of the smallest held-out loss."""
    return int(np.argmin([metrics["loss"] for metrics in run.history]))


@pytest.mark.once
@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_that_overfits_stops_where_keras_would_stop_it(engine: str) -> None:
    run = overfitted(engine)
    losses = [metrics["loss"] for metrics in run.history]
    assert 0 < best(run) < len(losses) - 1 < 59
    assert len(run.losses) == len(losses)  # an epoch is one step
    assert by_keras(zoo.EarlyStopping(3), [*losses, 0.0, 0.0]) == (len(losses), best(run))


def held_out(run: zoo.Run, epoch: int) -> dict[str, float]:
    return {name: run.history[epoch][name] for name in run.metrics}


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_that_is_stopped_ends_with_the_weights_of_its_best_epoch(engine: str) -> None:
    run = overfitted(engine)
    short = overfitting(engine, epochs=best(run) + 1)
    for ours, theirs in zip(weights(run.model), weights(short.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_the_metrics_of_a_run_that_is_stopped_are_of_the_weights_it_ends_with(engine: str) -> None:
    run = overfitted(engine)
    assert run.metrics == pytest.approx(held_out(run, best(run)), rel=1e-6)


def test_without_restore_best_a_run_ends_with_the_weights_of_its_last_epoch() -> None:
    run = overfitted("native", restore_best=False)
    whole = overfitting("native", epochs=len(overfitted("native").history))
    assert run.metrics == held_out(run, -1)
    for ours, theirs in zip(weights(run.model), weights(whole.model), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_best_epochs_weights_are_put_back_under_an_average_too() -> None:
    """What is put back is what was monitored: the averages, which a run ends with."""
    average = optimizers.Adam(0.02, use_ema=True)
    run = overfitting("native", average, early_stopping=zoo.EarlyStopping(3), epochs=60)
    assert run.metrics == pytest.approx(held_out(run, best(run)), rel=1e-6)


@pytest.mark.parametrize(("monitor", "said"), [("acuracy", "nearest: accuracy"), ("los", "nearest: loss")])
def test_an_unknown_metric_names_the_nearest(monitor: str, said: str) -> None:
    with pytest.raises(zoo.UnknownName, match=f"arrays has no metric '{monitor}'; {said}"):
        train(
            zoo.build("mlp", **SMALL),
            validation=toy(),
            steps=1,
            early_stopping=zoo.EarlyStopping(monitor=monitor),
            watch=lambda *_: pytest.fail("a step was made"),
        )


def test_early_stopping_without_held_out_examples_is_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"early_stopping= needs held-out .* give validation="):
        train(zoo.build("mlp", **SMALL), steps=1, early_stopping=zoo.EarlyStopping())


@pytest.mark.parametrize(
    "setting",
    [{"patience": -1}, {"patience": 1.5}, {"min_delta": -0.1}, {"min_delta": float("nan")}],
    ids=str,
)
def test_a_setting_of_early_stopping_that_makes_no_sense_is_refused(setting: dict[str, Any]) -> None:
    ((name, value),) = setting.items()
    with pytest.raises(zoo.WrongConfiguration, match=rf"EarlyStopping: {name}={value}; expected .*0 or more"):
        zoo.EarlyStopping(**setting)
