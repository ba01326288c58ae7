"""Gradual unfreezing: what is frozen when, and torch.optim's updates with a group added at each phase."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import backends, layers
from zoo.training.engines import ENGINES

engines = pytest.mark.parametrize("engine", ENGINES)
PER_EPOCH, SIZE = 3, 4
NAMES = ["one", "two", "three", "head"]  # in three phases: the head, then three, then two, then one
RATE, DECAY, EMA = 0.05, 0.2, 0.7


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, PER_EPOCH * SIZE).astype(np.int32)
    return rng.normal(size=(len(y), 4)).astype(np.float32) + y[:, None], y


def network(*, norm: bool = False) -> keras.Model:
    inputs = x = layers.Input((4,), name="x")
    for name in NAMES[:-1]:
        x = layers.dense(x, 5, name=name)
        x = (
            layers.dropout(layers.batch_norm(x, name=f"{name}_norm"), 0.2, name=f"{name}_dropout")
            if norm
            else x
        )
        x = layers.relu(x)
    return layers.Model(inputs, layers.dense(x, 3, name=NAMES[-1]))


def train(engine: str, model: keras.Model | None = None, steps: int | None = None, **options: Any) -> zoo.Run:
    settings: dict[str, Any] = {
        "optimizer": f"AdamW({RATE}, weight_decay={DECAY}, epsilon=0.001)",
        "freeze": ["one*", "two*", "three*"], "unfreeze": "1 epoch", "batch_size": SIZE,
    }  # fmt: skip
    if "resume" in options:
        settings = {}
    return zoo.train(
        model or network(), data(), engine=engine, steps=steps, progress=False, **{**settings, **options}
    )


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.variables}


@engines
def test_a_block_more_learns_in_each_phase_and_the_frozen_ones_are_in_inference_mode(engine: str) -> None:
    """Running statistics and dropout's counters are unchanged to the bit until their block joins."""
    for epochs in (1, 2, 3, 4):
        model = network(norm=True)
        before = values(model)
        train(engine, model, epochs=epochs)
        moved = {
            path.split("/")[0] for path, x in values(model).items() if not np.array_equal(x, before[path])
        }
        expected = {f"{name}{part}" for name in NAMES[4 - epochs : 3] for part in ("", "_norm", "_dropout")}
        assert moved == {*expected, "head"}


@engines
def test_callbacks_of_keras_do_not_end_the_run_with_a_phase(engine: str) -> None:
    """`fit` ends with a phase, by the attribute with which a callback ends the run."""
    run = train(engine, epochs=3, callbacks=[keras.callbacks.Callback()])
    assert len(run.losses) == 3 * PER_EPOCH


def by_torch(steps: int, every: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The weights after so many batches, and their averages: torch.optim in float64, on our gradients."""
    torch = pytest.importorskip("torch")

    model, here = network(), backends.current()
    gradients = here.gradients(model, here.cross_entropy)
    parameters = {v.path: torch.tensor(numpy(v), dtype=torch.float64) for v in model.trainable_variables}
    of = {name: [p for path, p in parameters.items() if path.startswith(f"{name}/")] for name in NAMES}
    optimizer = torch.optim.AdamW(of["head"], RATE, eps=1e-3, weight_decay=DECAY)
    trained, averages, updates = ["head"], {}, 0
    task = zoo.tasks.from_arrays(data(), loss=None)
    batches = (batch for epoch in range(9) for batch in task.batches(SIZE, 0, epoch))
    for step, (x, y) in zip(range(steps), batches, strict=False):
        phase = step // PER_EPOCH
        if step % PER_EPOCH == 0 and 1 <= phase <= 3:
            trained.append(NAMES[3 - phase])
            optimizer.add_param_group({"params": of[NAMES[3 - phase]]})
        _, found, _ = gradients(here.tensor(x), here.tensor(y))
        for (path, p), g in zip(parameters.items(), found, strict=True):
            if path.split("/")[0] in trained:
                mean = torch.tensor(numpy(g), dtype=torch.float64) / every
                p.grad = mean if p.grad is None else p.grad + mean
        if (step + 1) % every == 0:
            optimizer.step()
            optimizer.zero_grad()
            updates += 1
            for path, p in parameters.items():
                average = p if updates == 1 else EMA * averages[path] + (1 - EMA) * p
                averages[path] = average.clone()
        for v in model.trainable_variables:
            v.assign(parameters[v.path].numpy())
    return ({path: p.numpy() for path, p in which.items()} for which in (parameters, averages))  # type: ignore


@engines
@pytest.mark.parametrize(
    "options", [{}, {"accumulate": 2}, {"ema": EMA}, {"ema": EMA, "accumulate": 2}], ids=str
)
def test_what_joins_is_updated_as_a_parameter_group_that_is_added(engine: str, options: Any) -> None:
    """The state of the others is kept; bias correction counts a weight's own updates. With two batches an
    update the phases begin between the two, as an epoch has three."""
    model = network()
    train(engine, model, steps=11, **options)
    weights, averages = by_torch(11, options.get("accumulate", 1))
    expected = averages if "ema" in options else weights
    for path, ours in values(model).items():
        np.testing.assert_allclose(ours, expected[path], atol=3e-6, rtol=0, err_msg=path)


@engines
@pytest.mark.parametrize("cut", [2, 3, 4, 6, 8])
def test_a_run_resumed_in_any_phase_is_the_one_that_was_never_cut(
    engine: str, cut: int, tmp_path: Path
) -> None:
    options = {"ema": EMA, "accumulate": 2, "layer_decay": 0.5}
    file = tmp_path / "run.safetensors"
    whole = train(engine, network(norm=True), 11, **options)
    train(engine, network(norm=True), cut, checkpoint=file, **options)
    resumed = train(engine, network(norm=True), 11, resume=file)
    assert resumed.losses == whole.losses
    for path, ours in values(resumed.model).items():
        np.testing.assert_array_equal(ours, values(whole.model)[path])


@engines
def test_a_backbone_is_frozen_unless_patterns_are_given(engine: str) -> None:
    run = zoo.train("lenet5", "digits", steps=1, engine=engine, unfreeze=2, progress=False)
    assert (run.freeze, run.unfreeze) == ("backbone", "2 epochs")
    assert {v.path.split("/")[0] for v in run.model.trainable_variables} == {"head"}


@pytest.mark.once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unfreeze": "soon"}, "unfreeze='soon'; expected the epochs"),
        ({"unfreeze": 0}, "unfreeze=0; expected"),
        ({"optimizer": zoo.optimizers.SGD(0.1)}, "leave optimizer= out, or give it in words"),
    ],
)
def test_what_is_wrong_is_named_before_any_step(options: Any, message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        train("native", steps=1, **options)


@pytest.mark.once
def test_a_resumed_run_keeps_its_phases(tmp_path: Path) -> None:
    file = tmp_path / "run.safetensors"
    train("native", steps=2, checkpoint=file)
    with pytest.raises(zoo.WrongConfiguration, match="trained with unfreeze=1 epoch, not 2 epochs"):
        train("native", steps=4, resume=file, unfreeze="2 epochs", freeze=None)


@engines
def test_a_model_in_a_model_is_unfrozen_from_its_top(engine: str) -> None:
    """Its backbone is all but the last layer with weights, where no layer is named features."""
    inside = keras.Sequential(
        [keras.Input((4,)), *(keras.layers.Dense(5, name=name) for name in "ab")], name="base"
    )
    model = keras.Sequential([keras.Input((4,)), inside, keras.layers.Dense(3, name="top")])
    for epochs, names in enumerate(("top", "b top", "a b top", "a b top"), 1):
        before = values(model)
        train(engine, model, epochs=epochs, freeze="backbone")
        moved = [path for path, x in values(model).items() if not np.array_equal(x, before[path])]
        assert {path.split("/")[-2] for path in moved} == set(names.split())
        for layer in inside.layers:
            layer.trainable = True
