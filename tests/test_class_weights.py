"""Class weights in the loss, against Keras's `fit(class_weight=)`, scikit-learn, and formulas written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import QUICK_MODES, numpy
from sklearn.utils.class_weight import compute_class_weight
from test_accumulation import labels_of_steps, tagger

import zoo
from zoo import UnknownName, WrongConfiguration, optimizers, tasks
from zoo.training.weighting import class_weights, parse_weights

WAYS = [*(("native", mode) for mode in QUICK_MODES), ("keras", None)]
ways = pytest.mark.parametrize(("engine", "mode"), WAYS)
default_ways = pytest.mark.parametrize(("engine", "mode"), [WAYS[0], WAYS[-1]])
RNG = np.random.default_rng(0)
X = RNG.standard_normal((24, 5), dtype=np.float32)
Y = np.repeat([0, 1, 2], [14, 8, 2]).astype(np.int32)[RNG.permutation(24)]
WEIGHTS = {0: 0.5, 1: 1.5, 2: 4.0}


def model() -> keras.Model:
    return zoo.build("mlp", shape=(5,), widths=(6,), classes=3)


def train(data: Any = (X, Y), **options: Any) -> zoo.Run:
    options = {"optimizer": optimizers.SGD(0.3), "batch_size": 24, "steps": 3, "progress": False, **options}
    return zoo.train(options.pop("model", None) or model(), data, **options)


@ways
@pytest.mark.parametrize("given", [WEIGHTS, [0.5, 1.5, 4.0], "0=0.5, 1=1.5, 2=4", "balanced"])
def test_the_losses_are_those_of_keras_with_class_weight(given: Any, engine: str, mode: str | None) -> None:
    weights = WEIGHTS
    if given == "balanced":
        weights = dict(enumerate(compute_class_weight("balanced", classes=np.arange(3), y=Y)))
    theirs = model()
    theirs.compile(optimizers.SGD(0.3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = [theirs.fit(X, Y, 24, class_weight=weights, verbose=0).history["loss"][0] for _ in range(3)]  # pyright: ignore
    ours = train(class_weights=given, engine=engine, mode=mode)
    np.testing.assert_allclose(ours.losses, losses, rtol=1e-5)
    for a, b in zip(ours.model.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-6)


def smoothed(logits: np.ndarray, targets: np.ndarray, smoothing: float) -> np.ndarray:
    """The losses, written out in float64."""
    logits = logits.astype(np.float64)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -((targets * (1 - smoothing) + smoothing / targets.shape[-1]) * log_p).sum(-1)


@default_ways
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("soft", [False, True])
def test_smoothed_and_soft_labels(soft: bool, smoothing: float, engine: str, mode: str | None) -> None:
    targets = np.random.default_rng(1).dirichlet(np.ones(3), 24) if soft else np.eye(3)[Y]
    logits, weights = numpy(model()(X)), targets @ np.array(list(WEIGHTS.values()))
    data = (X, targets.astype(np.float32)) if soft else (X, Y)
    run = train(
        data, class_weights=WEIGHTS, engine=engine, mode=mode, steps=1, label_smoothing=smoothing,
        loss="cross_entropy",
    )  # fmt: skip
    assert run.losses[0] == pytest.approx((weights * smoothed(logits, targets, smoothing)).mean(), rel=1e-5)


@default_ways
def test_mixed_examples_have_the_mean_of_their_classes_weights(engine: str, mode: str | None) -> None:
    x = RNG.random((24, 4, 4, 1), dtype=np.float32)
    task = tasks.from_arrays((x, Y), loss=None)
    own = zoo.build("mlp", shape=(4, 4, 1), widths=(6,), classes=3)
    run = zoo.train(
        own, (x, Y), augment="MixUp(0.4)", class_weights=WEIGHTS, steps=1, batch_size=24, progress=False,
        optimizer=optimizers.SGD(0.0), engine=engine, mode=mode,
    )  # fmt: skip
    (mixed, targets), *_ = tasks.replace(task, augment=run.task.augment).batches(24, 0, 0)
    weights = targets @ np.array(list(WEIGHTS.values()))
    assert run.losses[0] == pytest.approx(
        (weights * smoothed(numpy(own(mixed)), targets, 0)).mean(), rel=1e-5
    )


@default_ways
def test_labels_of_steps_are_weighted_but_for_those_ignored(engine: str, mode: str | None) -> None:
    x, y = labels_of_steps()
    given = np.arange(5) + 0.5
    own = tagger()
    logits, counted = numpy(own(x)), y >= 0
    losses = smoothed(logits, np.eye(5)[np.maximum(y, 0)], 0) * given[np.maximum(y, 0)]
    penalty = sum(float(numpy(loss)) for loss in own.losses)
    run = train((x, y), model=own, class_weights=given, batch_size=10, steps=1, engine=engine, mode=mode)
    assert run.losses[0] == pytest.approx(losses[counted].mean() + penalty, rel=1e-5)


@default_ways
def test_micro_batches_are_one_batch_of_all(engine: str, mode: str | None) -> None:
    def accumulated(size: int, every: int | None) -> zoo.Run:
        optimizer = optimizers.Momentum(0.3, gradient_accumulation_steps=every)
        return train(
            class_weights="balanced", engine=engine, mode=mode, batch_size=size, optimizer=optimizer,
            steps=24 // size,
        )  # fmt: skip

    for a, b in zip(accumulated(6, 4).model.variables, accumulated(24, None).model.variables, strict=True):
        np.testing.assert_allclose(numpy(a), numpy(b), atol=1e-6)


@default_ways
def test_a_resumed_run_keeps_its_class_weights(engine: str, mode: str | None, tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    whole = train(class_weights=WEIGHTS, engine=engine, mode=mode)
    train(class_weights=WEIGHTS, engine=engine, mode=mode, steps=2, checkpoint=file)
    options: Any = {"engine": engine, "mode": mode, "optimizer": None, "batch_size": None}
    assert train(resume=file, **options).losses == whole.losses
    with pytest.raises(WrongConfiguration, match="class_weights"):
        train(resume=file, class_weights="balanced", **options)


def test_balanced_is_scikit_learns_where_a_class_is_missing() -> None:
    task = tasks.from_arrays((X[:4], [0, 3, 3, 3]), loss=None)
    theirs = compute_class_weight("balanced", classes=np.array([0, 3]), y=[0, 3, 3, 3])
    assert class_weights("balanced", task, 5) == pytest.approx([theirs[0], 1, 1, theirs[1], 1])


def test_classes_go_by_their_names() -> None:
    task = tasks.replace(tasks.from_arrays((X, Y), loss=None), names=("cat", "dog, old", "=b"))
    for given in ({"dog, old": 3, "=b": 0.5}, {1: 3, 2: 0.5}):
        assert class_weights(parse_weights(given), task, 3) == (1, 3, 0.5)
    assert class_weights(parse_weights("cat=2"), task, 3) == (2, 1, 1)
    with pytest.raises(UnknownName, match=r"no class 'cot'.*cat"):
        class_weights(parse_weights({"cot": 1}), task, 3)


@pytest.mark.parametrize("given", ["cat", "cat=", "cat=-1", {}, {"a": None}, [float("nan")], 3, "=2"])
def test_what_are_no_weights_is_refused(given: Any) -> None:
    with pytest.raises(WrongConfiguration, match=r"class_weights=.*balanced"):
        train(class_weights=given)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ((X, X[:, :3]), {"class_weights": WEIGHTS}, "not with 'mean_squared_error'"),
        ((X, Y), {"class_weights": WEIGHTS, "loss": lambda y, x: keras.ops.mean(x)}, "not with <function"),
        ([(X, Y)], {"class_weights": "balanced", "batch_size": None}, "not known before training"),
    ],
)
def test_what_has_no_classes_or_unknown_labels_is_refused(
    data: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        train(data, **options)
