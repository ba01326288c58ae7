"""An option that is accepted is honoured, by both engines, or refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import layers, optimizers, schedules, tasks, training

engines = pytest.mark.parametrize("engine", training.ENGINES)


def toy() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(12, 4)).astype(np.float32), rng.integers(0, 3, 12).astype(np.int32)


def train(engine: str = "native", task: Any = None, **arguments: Any) -> zoo.Run:
    x = layers.Input((4,), name="x")
    model = layers.Model(x, layers.dense(x, 3, name="head"))
    x, y = toy()
    if task is None:  # eight examples to learn from, four whose labels are others'
        task, arguments["validation"] = (x[:8], y[:8]), (x[8:], (y[8:] + 1) % 3)
    return zoo.train(model, task, engine=engine, batch_size=4, progress=False, **arguments)


@engines
def test_early_stopping_ends_with_the_averages_of_the_best_epoch(engine: str) -> None:
    """As a run that had as many epochs as led there."""

    def momentum() -> optimizers.Optimizer:
        return optimizers.Momentum(0.3, use_ema=True, ema_momentum=0.7)

    stopping = zoo.EarlyStopping(patience=2)
    run = train(engine, optimizer=momentum(), epochs=9, early_stopping=stopping)
    best = int(np.argmin([epoch["loss"] for epoch in run.history])) + 1
    assert best < len(run.history)
    witness = train(engine, optimizer=momentum(), epochs=best)
    for ours, theirs in zip(run.model.variables, witness.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))
    assert run.metrics == witness.metrics
    plain = train(engine, optimizer=optimizers.Momentum(0.3), epochs=best)
    assert not np.array_equal(numpy(plain.model.variables[0]), numpy(run.model.variables[0]))


MADE: dict[str, Callable[[], schedules.Schedule]] = {
    "StepDecay": lambda: schedules.StepDecay(0.1, 3, 0.5),
    "CosineAnnealing": lambda: schedules.CosineAnnealing(0.1, 5, restarts=True, multiplier=2),
    "WarmupDecay": lambda: schedules.WarmupDecay(0.1, 2, 5),
    "OneCycle": lambda: schedules.OneCycle(0.1, 7),
}


@pytest.mark.parametrize("step", [-1, True, 1.0, np.int64(-3), np.array([0, -1])], ids=repr)
@pytest.mark.parametrize("name", MADE)
def test_a_schedule_has_no_rate_before_its_first_step(name: str, step: Any) -> None:
    schedule = MADE[name]()
    for rate in (schedule, schedule.at):
        with pytest.raises(zoo.WrongConfiguration, match=f"^{name}: step=.*expected .*integer"):
            rate(step)
    if name == "OneCycle":
        with pytest.raises(zoo.WrongConfiguration, match=r"^OneCycle: step="):
            schedules.OneCycle(0.1, 7).momentum_at(step)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "an average's momentum without an average": (
        lambda: optimizers.SGD(ema_momentum=0.9),
        "SGD: ema_momentum=0.9 needs use_ema=True",
    ),
    "an average's frequency without an average": (
        lambda: optimizers.Adam(ema_overwrite_frequency=3),
        "Adam: ema_overwrite_frequency=3 needs use_ema=True",
    ),
    "AMSGrad of LAMB": (lambda: optimizers.LAMB(amsgrad=True), "LAMB takes no argument 'amsgrad'"),
    "validation of a task": (
        lambda: train(task=tasks.from_arrays(toy(), loss=None), validation=toy()),
        "validation= goes with arrays or batches; a task holds out its own",
    ),
    "a loss that a task's targets do not fit": (
        lambda: train(task=tasks.from_arrays(toy(), loss=None), loss="mean_squared_error"),
        "arrays has targets of shape",
    ),
    "a loss that is not there": (
        lambda: zoo.train("mlp", "digits", loss="cross_entrop"),
        "no loss 'cross_entrop'; nearest: cross_entropy",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_would_be_dropped_is_refused(name: str) -> None:
    make, said = WRONG[name]
    with pytest.raises(zoo.ZooError) as caught:
        make()
    assert said in str(caught.value)
