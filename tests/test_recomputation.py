"""Layers within keras.RematScope: outputs are computed again in the backward pass, to no other effect."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from conftest import QUICK_MODES, numpy

import zoo
from zoo import layers

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


def losses(build: Any, engine: str, mode: str | None) -> tuple[list[float], list[np.ndarray]]:
    rng = np.random.default_rng(0)
    x = rng.integers(1, 9, (12, 6)).astype(np.int32)
    inputs = {"token_ids": x, "padding_mask": np.int32(np.arange(6) < 1 + np.arange(12)[:, None] % 6)}
    y = np.where(inputs["padding_mask"] == 1, x % 5, -1).astype(np.int32)
    options: dict[str, Any] = {"optimizer": zoo.optimizers.SGD(0.5), "steps": 4, "batch_size": 6}
    run = zoo.train(build(), (inputs, y), engine=engine, mode=mode, progress=False, **options)
    return run.losses, [numpy(v) for v in run.model.variables]


@pytest.mark.filterwarnings("ignore:.* runs in mode 'eager'")  # torch's recorded step has no recomputation
@pytest.mark.parametrize(("engine", "mode"), WAYS)
def test_recomputation_changes_neither_losses_nor_weights_nor_state(engine: str, mode: str | None) -> None:
    """Dropout draws the same mask again: Keras's own recomputation on torch draws that of the next step."""
    names = [layer.name for layer in network()._flatten_layers()]

    def recomputing() -> keras.Model:
        with keras.RematScope(mode="list_of_layers", layer_names=names):
            return network()

    (ours, after), (theirs, expected) = losses(recomputing, engine, mode), losses(network, engine, mode)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    for a, b in zip(after, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6 * max(1, np.abs(b).max()))


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
