"""Batches of somebody else's: tf.data, DataLoader, PyDataset, iterables and functions as tasks."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import WrongConfiguration, layers, optimizers, tasks, training

SIZE, CLASSES = 4, 3
RNG = np.random.default_rng(0)
X = RNG.standard_normal((11, 5), dtype=np.float32)
Y = RNG.integers(0, CLASSES, 11).astype(np.int64)
BATCHES = [(X[i : i + SIZE], Y[i : i + SIZE]) for i in range(0, 11, SIZE)]  # of 4, 4 and 3
engines = pytest.mark.parametrize("engine", training.ENGINES)


def tf_data() -> Any:
    tf = pytest.importorskip("tensorflow")
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(SIZE)


def data_loader(shuffle: bool = False) -> Any:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    return torch.utils.data.DataLoader(
        data, SIZE, shuffle=shuffle, generator=torch.Generator().manual_seed(3)
    )


class PyData(keras.utils.PyDataset):
    """Batches by index, in another order after each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.order = np.arange(3)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return BATCHES[self.order[index]]

    def on_epoch_end(self) -> None:
        self.order = np.roll(self.order, 1)


def of_epoch(epoch: int) -> Iterator[Any]:
    yield from (BATCHES[i] for i in np.roll(range(3), epoch))


def tensors() -> Iterator[Any]:
    return ((keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y)) for x, y in BATCHES)


# How the batches are given -> (what gives them, the other arguments of `zoo.train`).
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "tf.data": (tf_data, {}),
    "DataLoader": (data_loader, {}),
    "list": (lambda: BATCHES, {}),
    "function": (lambda: lambda: iter(BATCHES), {"steps_per_epoch": 3}),
    "function of tensors": (lambda: tensors, {"steps_per_epoch": 3}),
}


def model() -> keras.Model:
    return zoo.build("mlp", shape=(5,), widths=(6,), classes=CLASSES)


def train(task: Any, **options: Any) -> zoo.Run:
    options = {"optimizer": optimizers.Momentum(0.1), "progress": False, **options}
    return zoo.train(options.pop("model", None) or model(), task, **options)


def by_hand(batches: list[Any]) -> list[float]:
    """The losses of Keras's own `train_on_batch` over these batches."""
    own, optimizer, losses = model(), optimizers.Momentum(0.1), []
    own.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for x, y in batches:
        losses.append(float(own.train_on_batch(x, y)))
        own.reset_metrics()
    return losses


@engines
@pytest.mark.parametrize("kind", KINDS)
def test_the_batches_are_used_as_they_come(kind: str, engine: str) -> None:
    make, options = KINDS[kind]
    run = train(make(), engine=engine, epochs=2, validation=make(), **options)
    np.testing.assert_allclose(run.losses, by_hand(2 * BATCHES), rtol=1e-5)
    assert len(run.history) == 2
    logits = numpy(run.model(X))
    assert run.metrics["accuracy"] == pytest.approx((logits.argmax(1) == Y).mean())
    measured = zoo.evaluate(run.model, make())
    assert measured["examples"] == 11
    assert measured["loss"] == pytest.approx(run.metrics["loss"], rel=1e-6)


def test_a_generator_is_read_once() -> None:
    run = train(iter(BATCHES), steps_per_epoch=3, epochs=1)
    np.testing.assert_allclose(run.losses, by_hand(BATCHES), rtol=1e-5)
    with pytest.raises(WrongConfiguration, match=r"once.*function"):
        train((each for each in BATCHES), steps_per_epoch=3, epochs=2)


@engines
def test_a_generator_is_read_on_where_another_phase_begins(engine: str) -> None:
    """An engine that reads ahead, as Keras's on TensorFlow, does not take the next phase's batches."""
    options = {"engine": engine, "steps_per_epoch": 3, "epochs": 3, "optimizer": "SGD(0.05)"}
    phases = {"freeze": "hidden*", "unfreeze": "1 epoch"}
    expected = train(lambda: iter(BATCHES), **options, **phases)
    assert train((each for each in 3 * BATCHES), **options, **phases).losses == expected.losses


@engines
@pytest.mark.parametrize("stops", ["error", "callback"])
def test_a_run_ends_while_the_next_batch_is_read(engine: str, stops: str) -> None:
    """Which Keras does in a thread of TensorFlow's."""

    def slow() -> Iterator[Any]:
        while True:
            time.sleep(0.05)
            yield BATCHES[0]

    def fail(step: int, _: Any) -> None:
        if step == 3:
            raise InterruptedError

    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            del logs
            assert self.model is not None
            self.model.stop_training = batch == 3

    options = {"engine": engine, "steps_per_epoch": 10, "epochs": 2}
    if stops == "error":
        with pytest.raises(InterruptedError):
            train(slow, watch=fail, **options)
    else:
        assert len(train(slow, callbacks=[Stop()], **options).losses) == 4


def test_an_infinite_generator_has_epochs_of_so_many_batches() -> None:
    def endless() -> Iterator[Any]:
        while True:
            yield from BATCHES

    run = train(endless(), steps_per_epoch=2, epochs=3, validation=(X, Y))
    np.testing.assert_allclose(run.losses, by_hand(2 * BATCHES), rtol=1e-5)
    assert len(run.history) == 3


def test_a_pass_that_ends_within_an_epoch_is_followed_by_another() -> None:
    run = train(data_loader(), steps_per_epoch=5, epochs=1)
    np.testing.assert_allclose(run.losses, by_hand([*BATCHES, *BATCHES[:2]]), rtol=1e-5)


@engines
def test_a_py_dataset_is_told_of_the_end_of_its_epochs(engine: str) -> None:
    run = train(PyData(), engine=engine, epochs=2)
    np.testing.assert_allclose(run.losses, by_hand([*BATCHES, *(BATCHES[i] for i in (2, 0, 1))]), rtol=1e-5)


def test_a_loader_shuffles_as_in_a_loop_of_torchs() -> None:
    loader = data_loader(shuffle=True)
    theirs = [(x.numpy(), y.numpy()) for _ in range(2) for x, y in loader]
    run = train(data_loader(shuffle=True), epochs=2)
    np.testing.assert_allclose(run.losses, by_hand(theirs), rtol=1e-5)


RESUMED: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    **KINDS,
    "shuffled DataLoader": (lambda: data_loader(shuffle=True), {}),
    "PyDataset": (PyData, {}),
    "function of the epoch": (lambda: of_epoch, {"steps_per_epoch": 3}),
    "generator": (lambda: iter(3 * BATCHES), {"steps_per_epoch": 4}),
}


@engines
@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_is_resumed_within_an_epoch_at_its_batch(kind: str, engine: str, tmp_path: Path) -> None:
    make, options = RESUMED[kind]
    file = tmp_path / "run.safetensors"
    whole = train(make(), engine=engine, steps=7, **options)
    train(make(), engine=engine, steps=5, checkpoint=file, **options)
    ours = train(make(), engine=engine, steps=7, resume=file, optimizer=None, **options)
    assert ours.losses == whole.losses


def test_a_function_of_the_epoch_is_not_read_before_the_epoch_that_is_resumed(tmp_path: Path) -> None:
    epochs: list[int] = []

    def batches(epoch: int) -> Iterator[Any]:
        epochs.append(epoch)
        yield from BATCHES

    file = tmp_path / "run.safetensors"
    train(batches, steps_per_epoch=3, steps=7, checkpoint=file)
    del epochs[:]
    train(batches, steps_per_epoch=3, steps=9, resume=file, optimizer=None)
    assert epochs == [0, 2]  # the first one for its shapes


@engines
def test_several_inputs_are_named_as_those_of_arrays(engine: str) -> None:
    def two() -> keras.Model:
        inputs = [layers.Input((2,), name="a"), layers.Input((3,), name="b")]
        keras.utils.set_random_seed(0)
        return keras.Model(inputs, keras.layers.Dense(CLASSES)(keras.layers.Concatenate()(inputs)))

    def parts(x: np.ndarray) -> list[np.ndarray]:
        return [x[:, :2], x[:, 2:]]

    lists = [(parts(x), y) for x, y in BATCHES]
    dicts = [(dict(zip("ab", x, strict=True)), y) for x, y in lists]
    ours = [train(each, model=two(), engine=engine, epochs=1).losses for each in (lists, dicts)]
    assert ours[0] == ours[1]
    arrays = train((parts(X[:4]), Y[:4]), model=two(), engine=engine, epochs=1, batch_size=4)
    assert ours[0][0] == pytest.approx(arrays.losses[0], rel=1e-6)


def test_a_model_by_name_is_built_for_the_first_batch() -> None:
    images = [(np.zeros((2, 32, 32, 3), np.float32), np.int32([0, 9]))]
    assert train(images, model="lenet5", steps=1).model.input_shape == (None, 32, 32, 3)


def test_targets_of_floats_are_regression() -> None:
    run = train([(X[:4], X[:4, :3]), (X[4:8], X[4:8, :3])], epochs=1)
    assert run.task.loss == "mean_squared_error"


RAGGED: Any = [[1], [1, 2], [3], [4]]


def changed(**changes: Any) -> list[Any]:
    """The second batch changed."""
    x, y = BATCHES[1]
    return [BATCHES[0], (changes.get("x", x), changes.get("y", y)), BATCHES[2]]


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (lambda: (x for x, _ in BATCHES), {"steps_per_epoch": 3}, "batch 0 of generator.*labels"),
        (lambda: iter([(X, Y, Y)]), {"steps_per_epoch": 1}, "sample weights"),
        (lambda: iter(zip(X, Y, strict=True)), {"steps_per_epoch": 3}, r"one example.*batch\("),
        (lambda: iter(BATCHES), {}, "list_iterator is of unknown length; give steps_per_epoch="),
        (lambda: lambda: iter(()), {"steps_per_epoch": 1}, "0 batches"),
        (lambda: changed(x=X[:4, :3]), {}, r"batch 1 of list: .*\(5,\).*\(3,\)"),
        (lambda: changed(x=X[:4, :, None]), {}, r"batch 1 of list: .*\(5,\).*\(5, 1\)"),
        (lambda: changed(y=np.full(4, 3)), {}, "batch 1 of list: .*labels up to 3"),
        (lambda: changed(y=np.zeros(3)), {}, "batch 1 of list: .*4 examples and 3 labels"),
        (lambda: changed(x=np.array(["a"] * 4)), {}, "batch 1 of list has an array of <U1"),
        (lambda: changed(x=RAGGED), {}, "batch 1 of list has a list of 4, which is not"),
        (lambda: BATCHES, {"batch_size": 4}, "batch_size= goes with examples"),
        (lambda: BATCHES, {"readers": 2}, "readers= goes with examples; list"),
        (lambda: BATCHES, {"augment": "HorizontalFlip"}, "augment= goes with examples"),
        (lambda: BATCHES, {"validation": iter(BATCHES)}, "validation: list_iterator cannot be read"),
        (lambda: (X, Y), {"steps_per_epoch": 3}, "steps_per_epoch= goes with"),
        (lambda: lambda epoch: iter(BATCHES[:2]), {"steps_per_epoch": 3}, "gave 2 batches; expected 3"),
    ],
)  # fmt: skip
@engines
def test_what_are_no_batches_is_refused_by_the_batchs_number(
    make: Callable[[], Any], options: dict[str, Any], message: str, engine: str
) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        train(make(), engine=engine, epochs=1, **options)


def test_an_infinite_data_set_is_not_evaluated_on() -> None:
    with pytest.raises(WrongConfiguration, match="infinite"):
        zoo.evaluate(model(), tf_data().repeat())
    with pytest.raises(WrongConfiguration, match="infinite; give steps_per_epoch"):
        train(tf_data().repeat())
    assert len(train(tf_data().repeat(), steps_per_epoch=2, epochs=2).losses) == 4


def test_a_data_set_of_torchs_that_is_no_loader_is_refused() -> None:
    with pytest.raises(WrongConfiguration, match="DataLoader"):
        tasks.as_stream("task", data_loader().dataset)


def test_no_framework_is_imported_to_know_what_data_are() -> None:
    code = (
        "import sys; from zoo import tasks; tasks.as_stream('task', [([[1.0]], [0])])\n"
        "print({'torch', 'tensorflow', 'jax', 'keras'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
