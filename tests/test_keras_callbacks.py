"""Keras's callbacks in a run of either engine. Witness: Keras's own `fit`, and its callbacks themselves."""

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import zoo
from zoo import backends

engines = pytest.mark.parametrize("engine", ["keras", "native"])
RNG = np.random.default_rng(0)
X = RNG.normal(size=(48, 8)).astype("float32")
Y = RNG.integers(0, 3, 48)
HELD_OUT = X[:16] + 0.1, Y[:16]


def network() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8,))
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(inputs)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden), name="small")


def train(engine: str, *callbacks: Any, model: Any = None, epochs: int = 3, **options: Any) -> zoo.Run:
    options = {
        "optimizer": "SGD(0.5)",
        "loss": "cross_entropy",
        "batch_size": 16,
        "progress": False,
    } | options
    model = network() if model is None else model
    return zoo.train(
        model, (X, Y), validation=HELD_OUT, engine=engine, epochs=epochs, callbacks=callbacks, **options
    )


class Record(keras.callbacks.Callback):
    """The events in their order, with their numbers and logs."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[tuple[str, int, dict[str, float]]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self.events.append(("begin", 0, logs or {}))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.events.append(("epoch begin", epoch, logs or {}))

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch begin", batch, logs or {}))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.events.append(("batch end", batch, dict(logs)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.events.append(("epoch end", epoch, dict(logs)))

    def on_train_end(self, logs: Any = None) -> None:
        self.events.append(("end", 0, dict(logs)))

    def order(self) -> list[tuple[str, int]]:
        return [(event, count) for event, count, _ in self.events]

    def logs(self, event: str) -> list[dict[str, float]]:
        return [logs for kind, _, logs in self.events if kind == event]


@cache
def fitted() -> Record:
    """The events of Keras's own fit, of two epochs of three batches."""
    model, record = network(), Record()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(X, Y, batch_size=16, epochs=2, verbose="0", callbacks=[record], validation_data=HELD_OUT)
    return record


@engines
def test_events_come_in_the_order_of_fit_with_its_logs(engine: str) -> None:
    record = Record()
    run = train(engine, record, epochs=2)
    assert record.order() == fitted().order()
    assert [logs["loss"] for logs in record.logs("batch end")] == run.losses
    for ours, theirs, history in zip(
        record.logs("epoch end"), fitted().logs("epoch end"), run.history, strict=True
    ):
        assert theirs.keys() <= ours.keys()
        assert ours["val_loss"] == history["loss"]
        assert ours["loss"] == history["train_loss"]
        assert ours["learning_rate"] == history["learning_rate"] == 0.5


def test_both_engines_give_the_same_logs() -> None:
    records = {engine: Record() for engine in zoo.training.ENGINES}
    for engine, record in records.items():
        train(engine, record)
    keras_logs, native_logs = (records[e].logs("epoch end") for e in ("keras", "native"))
    for ours, theirs in zip(native_logs, keras_logs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)


@engines
def test_a_resumed_run_continues_the_numbers_of_epochs_and_batches(engine: str, tmp_path: Path) -> None:
    path, first, rest, whole = tmp_path / "run.safetensors", Record(), Record(), Record()
    uncut = train(engine, whole)
    train(engine, first, steps=4, checkpoint=path)
    resumed = train(engine, rest, resume=path, optimizer=None)
    assert resumed.history == uncut.history
    batches = [count for event, count in whole.order() if event == "batch end"]
    assert [count for event, count in (first.order() + rest.order()) if event == "batch end"] == batches
    assert [count for event, count in rest.order() if event == "epoch begin"] == [1, 2]
    assert rest.logs("epoch end") == whole.logs("epoch end")[1:]


@engines
def test_the_functions_of_a_lambda_callback_are_called_at_every_step(engine: str) -> None:
    batches: list[int] = []
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda i, logs: batches.append(i))
    train(engine, callback, epochs=2)
    assert batches == [0, 1, 2, 0, 1, 2]


@engines
@pytest.mark.parametrize(("hook", "steps"), [("on_train_batch_end", 1), ("on_epoch_end", 3)])
def test_a_callback_may_stop_the_run(engine: str, hook: str, steps: int) -> None:
    class Stop(keras.callbacks.Callback):
        pass

    setattr(Stop, hook, lambda self, number, logs=None: setattr(self.model, "stop_training", True))
    stop = Stop()
    run = train(engine, stop)
    assert len(run.losses) == steps
    assert len(run.history) == 1
    assert len(train(engine, model=stop.model, steps=5).losses) == 5  # it is not stopped for ever


class Halve(keras.callbacks.Callback):
    model: Any

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        self.model.set_weights([w / 2 for w in self.model.get_weights()])

    def on_train_batch_end(self, *_: Any, **__: Any) -> None:
        self.model.get_layer("head").bias.assign_add([1.0, 0.0, 0.0])


def cross_entropy(weights: list[np.ndarray], x: np.ndarray, y: np.ndarray) -> float:
    hidden = np.maximum(x @ weights[0] + weights[1], 0)
    logits = (hidden @ weights[2] + weights[3]).astype("float64")
    return float((np.log(np.exp(logits).sum(-1)) - logits[range(len(y)), y]).mean())


@engines
def test_weights_are_read_and_assigned_between_steps(engine: str) -> None:
    one, epoch, run = (
        train(engine, steps=1),
        train(engine, Halve(), epochs=1),
        train(engine, Halve(), epochs=2),
    )
    batches = list(run.task.batches(16, 0, 0)), list(run.task.batches(16, 0, 1))
    shifted = [np.array(w) for w in one.model.get_weights()]
    shifted[-1] += [1, 0, 0]
    assert run.losses[1] == pytest.approx(cross_entropy(shifted, *batches[0][1]), rel=1e-6)
    halved = [np.array(w) for w in epoch.model.get_weights()]
    assert run.losses[3] == pytest.approx(cross_entropy(halved, *batches[1][0]), rel=1e-6)


@engines
def test_early_stopping_stops_where_the_zoos_does_and_restores_the_best(engine: str) -> None:
    theirs = train(
        engine,
        keras.callbacks.EarlyStopping("val_loss", patience=2, restore_best_weights=True),
        epochs=30,
        optimizer="SGD(5.0)",
    )
    ours = train(engine, early_stopping=2, epochs=30, optimizer="SGD(5.0)")
    assert len(theirs.losses) < 90
    assert theirs.losses == ours.losses
    assert theirs.metrics == ours.metrics
    for a, b in zip(theirs.model.get_weights(), ours.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@engines
def test_model_checkpoint_saves_the_weights_of_each_epoch(engine: str, tmp_path: Path) -> None:
    path = tmp_path / "{epoch}.weights.h5"
    run = train(engine, keras.callbacks.ModelCheckpoint(str(path), save_weights_only=True), epochs=2)
    loaded = network()
    loaded.load_weights(tmp_path / "2.weights.h5")
    for a, b in zip(loaded.get_weights(), run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (tmp_path / "1.weights.h5").is_file()


@engines
def test_keras_own_history_and_log_work(engine: str, tmp_path: Path) -> None:
    history, file = keras.callbacks.History(), tmp_path / "log.csv"
    run = train(engine, history, keras.callbacks.CSVLogger(str(file)), epochs=2)
    assert history.history["val_accuracy"] == [epoch["accuracy"] for epoch in run.history]
    assert len(file.read_text().splitlines()) == 3


def test_the_rate_is_set_by_callbacks_with_keras_engine() -> None:
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch: [0.5, 0.25, 0.125][epoch])
    run = train("keras", schedule)
    assert [epoch["learning_rate"] for epoch in run.history] == [0.5, 0.25, 0.125]
    words = train("keras", optimizer=zoo.optimizers.SGD(zoo.schedules.StepDecay(0.5, 3, 0.5)))
    assert run.losses == words.losses
    plateau = train("keras", keras.callbacks.ReduceLROnPlateau(patience=1, min_delta=100, factor=0.5))
    assert [epoch["learning_rate"] for epoch in plateau.history] == [0.5, 0.5, 0.25]


class Reads(keras.callbacks.Callback):
    model: Any

    def on_epoch_end(self, *_: Any, **__: Any) -> None:
        print(self.model.optimizer.iterations)


def prints(*_: Any, model: Any = None) -> None:
    print(model.optimizer)


k = keras.callbacks
REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    ("native", k.ReduceLROnPlateau, {}, r"ReduceLROnPlateau uses model.optimizer.*schedule="),
    ("native", lambda: k.LearningRateScheduler(abs), {}, "LearningRateScheduler uses model.optimizer"),
    ("native", Reads, {}, "Reads uses model.optimizer"),
    ("native", lambda: k.LambdaCallback(on_epoch_end=prints), {}, "LambdaCallback uses model.optimizer"),
    ("native", lambda: k.TensorBoard("logs"), {}, "zoo.TensorBoard"),
    ("keras", lambda: k.BackupAndRestore("backup"), {}, "resume='auto'"),
    ("native", k.TerminateOnNaN, {}, "on_nan="),
    ("keras", k.TerminateOnNaN, {}, "on_nan="),
    ("keras", k.SwapEMAWeights, {}, "ema="),
    ("keras", k.EarlyStopping, {"resume": "run"}, "early_stopping="),
    ("native", lambda: k.ModelCheckpoint("best.keras", save_best_only=True), {"resume": "run"}, "threshold="),
    ("keras", lambda: k.LearningRateScheduler(abs), {"schedule": "OneCycle(0.1)"}, "constant rate"),
]


@pytest.mark.parametrize(("engine", "make", "options", "message"), REFUSED)
def test_what_cannot_work_is_refused_by_name(engine: str, make: Any, options: Any, message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        train(engine, make(), **options)


def test_the_modes_of_the_native_engine_agree() -> None:
    losses = [
        train("native", Halve(), mode=mode).losses
        for mode in backends.MODES[backends.current().NAME]
        if mode != "compiled"
    ]
    for other in losses[1:]:
        np.testing.assert_allclose(other, losses[0], rtol=1e-5)
    np.testing.assert_allclose(train("keras", Halve()).losses, losses[0], rtol=1e-5)
