"""Every pair of `zoo.train`'s options in some run: the native engine against `fit`, whole and resumed.

Most faults lie between two features that work alone. The rows are a covering array: each value of each option
meets each value of every other one (Cohen et al. 1997, "The AETG system").
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from allpairspy import AllPairs
from conftest import QUICK_MODES, numpy

import zoo
from zoo._lazy import keras
from zoo.layers import signature

STEPS, BATCH, EXAMPLES = 7, 8, 28  # an epoch is 4 batches, the last one shorter; 7 steps end in the second

# What a few steps may lose of the losses: float32 has 24 bits, bfloat16 8, float16 11.
BOUNDS = {"float32": 2e-5, "mixed_bfloat16": 2**-6, "mixed_float16": 2**-8}

SCHEDULES = {
    "constant": lambda: 2e-3,
    "warmup": lambda: zoo.schedules.WarmupDecay(2e-3, 2, STEPS, "cosine"),
    "cycle": lambda: zoo.schedules.OneCycle(2e-3, STEPS),  # of the momentum as well
}
AVERAGE = {"use_ema": True, "ema_momentum": 0.5}
STOPPING = {"early_stopping": zoo.EarlyStopping(patience=1)}

OPTIONS: dict[str, list[Any]] = {
    "model": ["mlp", "resnet18", "lstm", "bert-tiny", "gpt-nano"],
    "optimizer": ["SGD", "Momentum", "Adam", "AdamW", "LAMB"],
    "schedule": list(SCHEDULES),
    "precision": [*((policy, None) for policy in BOUNDS), ("float32", 64.0)],  # policy, loss scale
    "mode": QUICK_MODES,
    "clipping": [{}, {"clipvalue": 0.01}, {"clipnorm": 0.05}, {"global_clipnorm": 0.1}],
    "ending": [{}, AVERAGE, STOPPING],
    "accumulate": [None, 2],
    "groups": [None, {"bias|gamma|beta": {"weight_decay": 0.0}, "kernel": {"learning_rate_multiplier": 2.0}}],
    "frozen": [False, True],
    "smoothing": [0.0, 0.1],
    "resumed": [None, "native", "keras"],  # after three steps of the other engine
}
ROWS = [dict(zip(OPTIONS, row, strict=True)) for row in AllPairs(list(OPTIONS.values()))]


def build(row: dict[str, Any]) -> keras.Model:
    card = zoo.card(row["model"])
    changes = {"vocabulary": 16} if "vocabulary" in card.arguments else {}
    if card.name == "bert-tiny":
        changes["head"] = "classifier"
    model = zoo.build(card.name, **{**card.small, **changes})
    if row["frozen"]:
        with_weights = [layer for layer in model.layers if layer.trainable_variables]
        for layer in with_weights[: len(with_weights) // 2]:
            layer.trainable = False
    return model


def data(model: keras.Model) -> tuple[Any, np.ndarray]:
    """Noise and labels; half of the texts are shorter, and a language model's labels are each next token."""
    rng, shape = np.random.default_rng(0), signature.input_shapes(model)
    y = rng.integers(0, model.output_shape[-1], EXAMPLES).astype(np.int32)
    if not (isinstance(shape, dict) or shape == (None,)):
        return rng.normal(size=(EXAMPLES, *shape)).astype(np.float32), y
    tokens = rng.integers(1, 16, (EXAMPLES, 6)).astype(np.int32)
    tokens[: EXAMPLES // 2, 4:] = 0
    if len(model.output_shape) == 3:
        y = np.where(tokens > 0, np.roll(tokens, -1, 1), -1)
    return ({"token_ids": tokens} if isinstance(shape, dict) else tokens), y


def train(row: dict[str, Any], engine: str, **options: Any) -> zoo.Run:
    model = build(row)
    x, y = data(model)
    optimizer = getattr(zoo.optimizers, row["optimizer"])(
        SCHEDULES[row["schedule"]](),
        weight_decay=0.01,
        groups=row["groups"],
        gradient_accumulation_steps=row["accumulate"],
        loss_scale_factor=row["precision"][1],
        **row["clipping"],
        **(AVERAGE if row["ending"] is AVERAGE else {}),
    )
    return zoo.train(
        model,
        (x, y),
        engine=engine,
        mode=row["mode"] if engine == "native" else None,
        optimizer=optimizer,
        label_smoothing=row["smoothing"] if y.ndim == 1 else 0.0,
        validation=(x, y),
        batch_size=BATCH,
        progress=False,
        **(STOPPING if row["ending"] is STOPPING else {}),
        **{"steps": STEPS, **options},
    )


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: numpy(v) for v in model.variables}


@pytest.fixture
def default_policy() -> Iterator[None]:
    yield
    keras.config.set_dtype_policy("float32")


@pytest.mark.usefixtures("default_policy")
@pytest.mark.parametrize("number", range(len(ROWS)))
def test_engines_agree_whichever_options_meet(number: int, tmp_path: Path) -> None:
    row = ROWS[number]
    policy, resumed_by = row["precision"][0], row["resumed"]
    keras.config.set_dtype_policy(policy)
    start = build(row)
    native, fit = train(row, "native"), train(row, "keras")
    assert len(native.losses) == len(fit.losses) == STEPS
    np.testing.assert_allclose(native.losses, fit.losses, rtol=BOUNDS[policy], err_msg=str(row))
    np.testing.assert_allclose(
        native.metrics["loss"], fit.metrics["loss"], rtol=BOUNDS[policy], err_msg=str(row)
    )
    frozen = {v.path for layer in start.layers if not layer.trainable for v in layer.variables}
    before = weights(start)
    for run in (native, fit):
        after = weights(run.model)
        assert [path for path in frozen if not np.array_equal(before[path], after[path])] == [], row
    if resumed_by is not None:
        first = "keras" if resumed_by == "native" else "native"
        train(row, first, steps=3, checkpoint=tmp_path / "run.zoo")
        resumed = train(row, resumed_by, resume=tmp_path / "run.zoo")
        np.testing.assert_allclose(resumed.losses, native.losses, rtol=BOUNDS[policy], err_msg=str(row))


@pytest.mark.once
def test_every_pair_of_values_is_in_some_row() -> None:
    for (first, values), (second, others) in combinations(OPTIONS.items(), 2):
        for a, b in product(values, others):
            assert any(row[first] == a and row[second] == b for row in ROWS), (first, a, second, b)


# Options in words, all at once: a run is cut within an epoch, and continued by the same call.
EVERYTHING: dict[str, Any] = {
    "optimizer": "AdamW(0.01)",
    "schedule": "CosineAnnealing",
    "clip_norm": 1.0,
    "accumulate": 2,
    "ema": 0.5,
    "layer_decay": 0.8,
    "unfreeze": "1 epoch",
    "class_weights": "balanced",
    "augment": "HorizontalFlip",
    "readers": 2,
    "on_nan": "rollback",
    "early_stopping": 9,
    "keep_best": "accuracy",
    "checkpoint_every": 1,
    "keep": 2,
    "train_metrics": True,
    "batch_size": 8,
    "progress": False,
}


@pytest.mark.parametrize("engine", ["native", "keras"])
def test_a_run_with_every_option_resumes_bit_for_bit(tmp_path: Path, engine: str) -> None:
    """Three phases of four steps; it is cut in the second."""
    rng = np.random.default_rng(0)
    y = np.arange(60) % 10
    x = rng.normal(y[:, None, None, None] / 4, size=(60, 32, 32, 1)).astype(np.float32)
    data = {"task": (x[:28], y[:28]), "validation": (x[28:], y[28:])}

    def train(path: str, steps: int, **options: Any) -> zoo.Run:
        model = zoo.build("lenet5", seed=1)
        where = {"checkpoint": tmp_path / path, "engine": engine, "steps": steps}
        return zoo.train(model, **data, **EVERYTHING, **where, **options)

    def stop(step: int, _: Any) -> None:
        if step == 6:
            raise InterruptedError

    whole = train("whole.safetensors", 12)
    with pytest.raises(InterruptedError):
        train("cut.safetensors", 12, watch=stop)
    cut = train("cut.safetensors", 12, resume="auto")
    assert whole.losses == cut.losses
    assert whole.history == cut.history
    for ours, theirs in zip(whole.model.variables, cut.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    assert len(set(whole.losses)) == 12
