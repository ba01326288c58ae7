"""Recomputation, of layers within keras.RematScope and by zoo.train(recompute=): it has no other effect."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from conftest import QUICK_MODES, numpy

import zoo
from zoo import layers
from zoo.training import recomputation

WAYS = [*(("native", mode) for mode in QUICK_MODES), ("keras", None)]


def network() -> keras.Model:
    """Dropout within and between layers, running statistics, a recurrence, a penalty."""
    tokens = layers.Input((6,), dtype="int32", name="token_ids")
    mask = layers.Input((6,), dtype="int32", name="padding_mask")
    x = layers.embedding(tokens, 9, 8, name="embedding")
    x = layers.attention(x, 2, padding_mask=mask, causal=True, dropout_rate=0.3, name="attention")
    x = layers.batch_norm(layers.dense(x, 8, regularizer=layers.l2(0.1), name="middle"), name="norm")
    x, _ = layers.gru(layers.dropout(x, 0.3, name="dropout"), 8, name="gru")
    return layers.Model({"token_ids": tokens, "padding_mask": mask}, layers.dense(x, 5, name="head"))


def losses(build: Any, engine: str, mode: str | None, **more: Any) -> tuple[list[float], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (12, 6)).astype(np.int32)
    inputs = {"token_ids": x, "padding_mask": np.int32(np.arange(6) < 1 + np.arange(12)[:, None] % 6)}
    y = np.where(inputs["padding_mask"] == 1, x % 5, -1).astype(np.int32)
    options: dict[str, Any] = {"optimizer": zoo.optimizers.SGD(0.5), "steps": 4, "batch_size": 6}
    run = zoo.train(build(), (inputs, y), engine=engine, mode=mode, progress=False, **options, **more)
    return run.losses, [numpy(v) for v in run.model.variables]


@pytest.mark.parametrize(("engine", "mode"), WAYS)
def test_recomputation_changes_neither_losses_nor_weights_nor_state(engine: str, mode: str | None) -> None:
    """Dropout draws the same mask again: Keras's own recomputation on torch draws that of the next step."""
    names = [layer.name for layer in network()._flatten_layers()]

    def recomputing() -> keras.Model:
        with keras.RematScope(mode="list_of_layers", layer_names=names):
            return network()

    expect_equal(losses(recomputing, engine, mode), losses(network, engine, mode))


def expect_equal(
    found: tuple[list[float], list[np.ndarray]], plain: tuple[list[float], list[np.ndarray]]
) -> None:
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-6)
    for a, b in zip(found[1], plain[1], strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1, np.abs(b).max()))


@pytest.mark.parametrize(("engine", "mode"), WAYS)
def test_the_option_changes_neither_losses_nor_weights_nor_state(engine: str, mode: str | None) -> None:
    expect_equal(losses(network, engine, mode, recompute=True), losses(network, engine, mode))


def test_the_option_recomputes_segments_but_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """In training; the model is afterwards as it was before."""
    remat, calls, models = keras.remat, [], []
    monkeypatch.setattr(keras, "remat", lambda f: (calls.append(f), remat(f))[1])

    def build() -> keras.Model:
        models.append(network())
        return models[0]

    losses(build, "native", "eager", recompute=True)
    segments = recomputation.split(models[0])
    assert len(calls) == 4 * (len(segments) - 1) > 4  # four steps
    assert [node for segment in segments for node in segment.nodes] == recomputation._nodes(models[0])
    calls.clear()
    losses(lambda: models[0], "native", "eager")
    assert calls == []


class Sown(keras.layers.Layer):
    """Half of the mean square as a loss."""

    def call(self, x: Any) -> Any:
        self.add_loss(keras.ops.mean(x * x) / 2)
        return x


def test_losses_of_activities_in_a_sequential_model_stay() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 5)).astype(np.float32), rng.integers(0, 3, 8)
    found = []
    for recompute in (False, True):
        keras.utils.set_random_seed(0)
        middle = keras.layers.Dense(7, activity_regularizer=keras.regularizers.L2(0.1))
        model = keras.Sequential(
            [keras.Input((5,)), Sown(), middle, Sown(), keras.layers.Dense(4), keras.layers.Dense(3)]
        )
        run = zoo.train(model, (x, y), steps=3, batch_size=8, optimizer="SGD(0.1)", recompute=recompute)
        found.append(run.losses)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6)
    assert found[0][0] > np.mean(x * x) / 2  # which is a part of it


def test_what_cannot_be_recomputed_is_refused() -> None:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    data = np.ones((4, 3), np.int32), np.zeros(4, np.int32)
    with pytest.raises(zoo.WrongConfiguration, match="own is a Own; expected a functional or Sequential"):
        zoo.train(Own(), data, steps=1, recompute=True)
    masked = keras.Sequential(
        [keras.Input((3,)), keras.layers.Embedding(4, 2, mask_zero=True), keras.layers.LSTM(2)]
    )
    with pytest.raises(zoo.WrongConfiguration, match=r"layer embedding.* sends a mask beside its output"):
        zoo.train(masked, data, steps=1, recompute=True)


def test_layers_within_the_scope_are_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is what recomputation is: otherwise the tests above would compare a model with itself."""
    calls = []
    remat = keras.remat
    monkeypatch.setattr(keras, "remat", lambda f: (calls.append(f), remat(f))[1])
    with keras.RematScope(mode="list_of_layers", layer_names=["attention", "middle"]):
        model = network()
    shape = np.ones((2, 6), np.int32)
    model({"token_ids": shape, "padding_mask": shape}, training=True)
    assert len(calls) == 2
