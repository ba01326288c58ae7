"""Gradient accumulation: k micro-batches are one batch of all, by whatever their losses are the mean of."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import QUICK_MODES, numpy
from safetensors import safe_open
from safetensors.numpy import save_file

import zoo
from zoo import layers, optimizers, training
from zoo.tasks.sequences import Sequences

EXAMPLES, MICRO, LENGTH, CLASSES = 10, 3, 6, 5  # micro-batches of 3, 3, 3 and 1
EVERY = 4
WAYS = [*(("native", mode) for mode in QUICK_MODES), ("keras", None)]
SETTINGS: dict[str, Any] = {"weight_decay": 0.1, "global_clipnorm": 0.3}

ways = pytest.mark.parametrize(("engine", "mode"), WAYS)
default_ways = pytest.mark.parametrize(("engine", "mode"), [WAYS[0], WAYS[-1]])


def labels_of_steps() -> tuple[np.ndarray, np.ndarray]:
    """Tokens with a label at few steps, as masked language models have them; some examples have none."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 9, (EXAMPLES, LENGTH)).astype(np.int32)
    y = np.where(rng.random(x.shape) < 0.3, x % CLASSES, -1).astype(np.int32)
    y[:4] = -1
    return x, y


def padded_labels_of_steps() -> Any:
    """Texts of 2 to 11 tokens, with a label at each; batches of them are padded to different lengths."""
    rng = np.random.default_rng(3)
    x = [rng.integers(1, 9, 2 + i).astype(np.int32) for i in rng.permutation(EXAMPLES)]
    return Sequences(x), Sequences([each % CLASSES for each in x], fill=-1)


def tagger(length: int | None = LENGTH) -> keras.Model:
    tokens = layers.Input((length,), dtype="int32", name="token_ids")
    x = layers.embedding(tokens, 9, 4, name="embedding")
    return layers.Model(tokens, layers.dense(x, CLASSES, regularizer=layers.l2(0.1), name="head"))


def labels_of_examples() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(EXAMPLES, LENGTH)).astype(np.float32)
    return x, rng.integers(0, CLASSES, EXAMPLES).astype(np.int32)


def classifier(out: int = CLASSES) -> keras.Model:
    x = layers.Input((LENGTH,), name="x")
    return layers.Model(x, layers.dense(x, out, regularizer=layers.l2(0.1), name="head"))


def numbers() -> tuple[np.ndarray, np.ndarray]:
    x, y = labels_of_examples()
    return x, x[:, :2] + y[:, None].astype(np.float32)


def shares() -> tuple[np.ndarray, np.ndarray]:
    x, _ = labels_of_examples()
    return x, np.random.default_rng(2).dirichlet(np.ones(CLASSES), EXAMPLES).astype(np.float32)


Case = tuple[Callable[[], keras.Model], Callable[[], tuple[Any, Any]], dict[str, Any]]
CASES: dict[str, Case] = {
    "labels of steps": (tagger, labels_of_steps, {}),
    "smoothed labels of steps": (tagger, labels_of_steps, {"label_smoothing": 0.2}),
    "padded labels of steps": (lambda: tagger(None), padded_labels_of_steps, {}),
    "labels of examples": (classifier, labels_of_examples, {}),
    "soft labels": (classifier, shares, {"loss": "cross_entropy"}),
    "numbers": (lambda: classifier(2), numbers, {}),
}


def weights(run: zoo.Run) -> list[np.ndarray]:
    return [np.array(numpy(v)) for v in run.model.variables]


def train(case: Case, engine: str, mode: str | None, batch_size: int, optimizer: Any, **how: Any) -> zoo.Run:
    model, data, arguments = case
    how = {"epochs": 2, "batch_size": batch_size, "optimizer": optimizer, "progress": False, **how}
    return zoo.train(model(), data(), engine=engine, mode=mode, **arguments, **how)


def momentum(every: int | None = EVERY, **changes: Any) -> optimizers.Optimizer:
    return optimizers.Momentum(0.3, gradient_accumulation_steps=every, **{**SETTINGS, **changes})


def assert_same(ours: zoo.Run, theirs: zoo.Run, bound: float) -> None:
    for a, b in zip(weights(ours), weights(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=bound)


def assert_one_batch(name: str, engine: str, mode: str | None, bound: float) -> None:
    ours = train(CASES[name], engine, mode, MICRO, momentum())
    assert_same(ours, train(CASES[name], engine, mode, EXAMPLES, momentum(None)), bound)


@default_ways
@pytest.mark.parametrize("name", CASES)
def test_micro_batches_are_one_batch_of_all(
    name: str, engine: str, mode: str | None, request: pytest.FixtureRequest
) -> None:
    """With a penalty, weight decay and clipping, over two updates; in float64 where the process has it."""
    wide = keras.backend.backend() != "jax" or os.environ.get("JAX_ENABLE_X64") == "1"
    if wide:
        request.getfixturevalue("float64")
    assert_one_batch(name, engine, mode, 1e-13 if wide else 1e-6)


@ways
def test_micro_batches_are_one_batch_of_all_in_every_mode(engine: str, mode: str | None) -> None:
    assert_one_batch("labels of steps", engine, mode, 1e-6)


@default_ways
def test_a_scaled_loss_and_an_average_see_the_same_gradients(engine: str, mode: str | None) -> None:
    def scaled(every: int | None) -> Any:
        return keras.optimizers.LossScaleOptimizer(momentum(every, use_ema=True, ema_momentum=0.6))

    case = CASES["labels of steps"]
    assert_same(
        train(case, engine, mode, MICRO, scaled(EVERY)),
        train(case, engine, mode, EXAMPLES, scaled(None)),
        1e-6,
    )


@pytest.mark.parametrize("saved", training.ENGINES)
@pytest.mark.parametrize("resumed", training.ENGINES)
def test_a_run_cut_within_a_window_goes_on_with_its_weights(saved: str, resumed: str, tmp_path: Path) -> None:
    """After two of four micro-batches, and an unfinished window of one at the end."""
    case, file = CASES["labels of steps"], tmp_path / "run.safetensors"
    whole = train(case, "native", None, MICRO, momentum(), steps=10)
    train(case, saved, None, MICRO, momentum(), steps=6, checkpoint=file)
    model, data, _ = case
    ours = zoo.train(model(), data(), engine=resumed, steps=10, resume=file, progress=False)
    assert_same(ours, whole, 1e-6)
    a, b = ours.trainer.state_dict(), whole.trainer.state_dict()
    assert int(a["weight_sum"]) == int(b["weight_sum"]) > 0
    assert a.keys() == b.keys()
    for name, x in a.items():
        np.testing.assert_allclose(x, b[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_file_without_weights_goes_on_from_its_sums(tmp_path: Path) -> None:
    """As checkpoints were written once: batches of a window count alike."""
    case, file = CASES["labels of examples"], tmp_path / "run.safetensors"
    train(case, "native", None, MICRO, momentum(), steps=2, checkpoint=file)
    with safe_open(file, "numpy") as saved:
        facts, arrays = saved.metadata(), {name: saved.get_tensor(name) for name in saved.keys()}  # noqa: SIM118
    del arrays["optimizer/weight_sum"]
    sums = {k: 2 * x if k.startswith("optimizer/gradients/") else x for k, x in arrays.items()}
    kept = {name: value for name, value in json.loads(facts["zoo"]).items() if name != "digests"}
    save_file(sums, file, {"zoo": json.dumps(kept)})
    model, data, _ = case
    ours = zoo.train(model(), data(), steps=4, resume=file, progress=False)
    assert_same(ours, train(case, "native", None, MICRO, momentum(), steps=4), 1e-6)


@ways
def test_a_batch_without_labels_has_no_loss_and_changes_nothing(engine: str, mode: str | None) -> None:
    x, y = labels_of_steps()
    run = zoo.train(
        tagger(), (x, np.full_like(y, -1)), engine=engine, mode=mode, steps=1, batch_size=5,
        optimizer=optimizers.SGD(1.0), progress=False,
    )  # fmt: skip
    penalty = 0.1 * np.sum(np.square(numpy(tagger().get_layer("head").kernel)))
    np.testing.assert_allclose(run.losses, penalty, rtol=1e-6)
    assert all(np.isfinite(w).all() for w in weights(run))
