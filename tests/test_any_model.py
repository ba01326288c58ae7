"""Any `keras.Model` trains, in every mode and by both engines, or is refused before any step."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import QUICK_MODES, numpy

import zoo
from zoo import WrongConfiguration, ZooError, training

WAYS = [*(("native", mode) for mode in QUICK_MODES), ("keras", None)]
default_ways = pytest.mark.parametrize(("engine", "mode"), [WAYS[0], WAYS[-1]])
ways = pytest.mark.parametrize(("engine", "mode"), WAYS)
RNG = np.random.default_rng(0)
IMAGES = RNG.standard_normal((10, 8, 8, 3), dtype=np.float32)
STEPS = RNG.standard_normal((10, 6, 4), dtype=np.float32)
VECTORS = RNG.standard_normal((10, 5), dtype=np.float32)
TOKENS = RNG.integers(1, 9, (10, 6)).astype(np.int32)
Y = RNG.integers(0, 3, 10).astype(np.int32)
L = keras.layers


def head() -> keras.Layer:
    return L.Dense(3)


def images(*layers: keras.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 3)), *layers, L.Flatten(), head()])


class Residual(keras.Model):
    """A subclass with a branch, a batch norm and dropout, which is built by its first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop = (
            L.Conv2D(3, 3, padding="same"),
            L.BatchNormalization(),
            L.Dropout(0.3),
        )
        self.pool, self.head = L.GlobalAveragePooling2D(), head()

    def call(self, x: Any, training: bool | None = None) -> Any:
        x = x + self.drop(self.norm(self.conv(x), training=training), training=training)
        return self.head(self.pool(x))


class TwoInputs(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = L.Dense(4), L.Dense(4), head()

    def call(self, x: Any) -> Any:
        return self.head(keras.ops.relu(self.a(x["a"]) + self.b(x["b"])))


class OwnVariable(keras.Model):
    """With a weight of its own, and a count of its calls, which is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.head = head()
        self.scale = self.add_weight(shape=(5,), initializer="ones", name="scale")
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1)
        return self.head(x * self.scale)


class Outputs(keras.Model):
    def __init__(self, outputs: Any) -> None:
        super().__init__()
        self.head, self.outputs_of = head(), outputs

    def call(self, x: Any) -> Any:
        return self.outputs_of(self.head(x))


def two_branches() -> keras.Model:
    a, b = keras.Input((5,), name="a"), keras.Input((6, 4), name="b")
    return keras.Model({"a": a, "b": b}, head()(L.Concatenate()([a, L.LSTM(3)(b)])))


def shared() -> keras.Model:
    x, layer = keras.Input((5,)), L.Dense(5, activation="tanh")
    return keras.Model(x, head()(layer(layer(x))))


def nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(), L.Dropout(0.2)])
    x = keras.Input((8, 8, 3))
    return keras.Model(x, head()(L.Flatten()(keras.Sequential([inner, L.ReLU()])(x))))


def frozen() -> keras.Model:
    model = nested()
    model.layers[1].trainable = False
    return model


def chain(*layers: keras.Layer, shape: tuple[int | None, ...] | None = None) -> keras.Model:
    """These layers and a head, built by its first batch without a shape."""
    return keras.Sequential([*([] if shape is None else [keras.Input(shape)]), *layers, head()])


MODELS: dict[str, tuple[Callable[[], keras.Model], Any]] = {
    "dropout": (lambda: images(L.Conv2D(4, 3), L.Dropout(0.4)), IMAGES),
    "dropout of a seed": (lambda: images(L.Conv2D(4, 3), L.Dropout(0.4, seed=3)), IMAGES),
    "noise": (lambda: images(L.GaussianNoise(0.3)), IMAGES),
    "random flips": (lambda: images(L.RandomFlip("horizontal"), L.Conv2D(4, 3)), IMAGES),
    "random rotations": (lambda: images(L.RandomRotation(0.1), L.Conv2D(4, 3)), IMAGES),
    "batch norm": (lambda: images(L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU()), IMAGES),
    "group norm": (lambda: images(L.Conv2D(4, 3), L.GroupNormalization(2), L.MaxPooling2D()), IMAGES),
    "spectral norm": (lambda: images(L.SpectralNormalization(L.Conv2D(4, 3))), IMAGES),
    "LSTM": (lambda: chain(L.LSTM(5), shape=(6, 4)), STEPS),
    "LSTM with dropout": (lambda: chain(L.LSTM(5, dropout=0.3, recurrent_dropout=0.2)), STEPS),
    "GRU both ways": (lambda: chain(L.Bidirectional(L.GRU(3)), shape=(None, 4)), STEPS),
    "tokens": (lambda: chain(L.Embedding(9, 8), L.Conv1D(8, 2), L.GlobalMaxPooling1D()), TOKENS),
    "masked tokens": (lambda: chain(L.Embedding(9, 8, mask_zero=True), L.LSTM(4)), TOKENS),
    "subclassed": (Residual, IMAGES),
    "subclassed, two inputs": (TwoInputs, {"a": VECTORS, "b": STEPS[:, 0]}),
    "variables of its own": (OwnVariable, VECTORS),
    "two inputs by name": (two_branches, {"a": VECTORS, "b": STEPS}),
    "shared": (shared, VECTORS),
    "nested": (nested, IMAGES),
    "frozen within": (frozen, IMAGES),
    "regularized": (lambda: chain(L.Dense(4, kernel_regularizer="l2")), VECTORS),
    "activity regularized": (lambda: chain(L.Dense(4, activity_regularizer="l2")), VECTORS),
    "constrained": (lambda: chain(L.Dense(4, kernel_constraint="non_neg")), VECTORS),
    "Lambda": (lambda: chain(L.Lambda(lambda x: x * 2)), VECTORS),
    "normalization": (lambda: chain(adapted()), VECTORS),
    "one output in a list": (lambda: Outputs(lambda x: [x]), VECTORS),
    "one input and output in lists": (lambda: listed(), VECTORS),
}


def listed() -> keras.Model:
    x = keras.Input((5,))
    return keras.Model([x], [head()(x)])


def adapted() -> keras.Layer:
    layer = L.Normalization()
    layer.adapt(VECTORS)
    return layer


def make(name: str) -> tuple[keras.Model, Any]:
    keras.utils.set_random_seed(0)
    model, x = MODELS[name]
    return model(), x


def train(model: keras.Model, x: Any, engine: str, mode: str | None, **options: Any) -> zoo.Run:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cannot compile it")
        options = {"optimizer": zoo.optimizers.SGD(0.1), "batch_size": 4, "epochs": 2, **options}
        return zoo.train(
            model, (x, Y), validation=(x, Y), engine=engine, mode=mode, progress=False, **options
        )  # fmt: skip


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.variables}


@ways
@pytest.mark.parametrize("name", MODELS)
def test_a_model_trains_and_is_measured(name: str, engine: str, mode: str | None) -> None:
    """Weights move, frozen ones stay, and `zoo.evaluate` measures what the run did at its end."""
    model, x = make(name)
    if not model.built:
        model(x)
    before, trained = values(model), {v.path for v in model.trainable_variables}
    if name == "constrained" and engine == "native":
        with pytest.raises(WrongConfiguration, match="only engine='keras' applies constraints"):
            train(model, x, engine, mode)
        return
    run, still = train(model, x, engine, mode), frozen_paths(model)
    assert len(run.losses) == 6
    assert np.isfinite(run.losses).all()
    after = values(model)
    assert trained
    assert not [path for path in trained if np.array_equal(before[path], after[path])]
    assert all(np.array_equal(before[path], after[path]) for path in still)
    measured = zoo.evaluate(model, (x, Y))
    assert measured["loss"] == pytest.approx(run.metrics["loss"], rel=1e-4)
    assert measured["accuracy"] == run.metrics["accuracy"]


def frozen_paths(model: keras.Model) -> set[str]:
    """The variables of frozen layers."""
    layers = [layer for layer in model._flatten_layers() if not layer.trainable]
    return {v.path for layer in layers for v in layer.variables if "seed" not in v.path}


DRAWING = ["dropout", "dropout of a seed", "noise", "random flips", "LSTM with dropout", "subclassed"]
# Keras's layers without a seed draw from generators of their own or the framework's: not resumed bit for bit.
RESUMED = ["dropout of a seed", "batch norm", "variables of its own"]


@default_ways
@pytest.mark.parametrize("name", RESUMED)
def test_a_run_is_resumed_with_the_draws_it_would_have_made(
    name: str, engine: str, mode: str | None, tmp_path: Path
) -> None:
    file, losses = tmp_path / "run.safetensors", []
    for options in ({}, {"steps": 4, "checkpoint": file}, {"resume": file, "optimizer": None}):
        keras.backend.clear_session()  # else layers without names have others
        losses.append(train(*make(name), engine, mode, **options).losses)
    assert losses[2] == losses[0]


@default_ways
@pytest.mark.parametrize(
    "name", [n for n in MODELS if n not in (*DRAWING, "random rotations", "nested", "frozen within")]
)
def test_the_losses_are_those_of_keras_fit(name: str, engine: str, mode: str | None) -> None:
    if name == "constrained" and engine == "native":
        return
    theirs, x = make(name)
    theirs.compile(keras.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    history = theirs.fit(x, Y, 10, 3, shuffle=False, verbose=0).history["loss"]  # pyright: ignore
    model, x = make(name)
    run = train(model, x, engine, mode, batch_size=10, epochs=3)
    np.testing.assert_allclose(run.losses, history, rtol=2e-5)


class Wrong(keras.Model):
    def call(self, x: Any) -> Any:
        raise ValueError(f"no such thing as a {type(x).__name__}")


def two_outputs() -> keras.Model:
    x = keras.Input((5,))
    return keras.Model(x, [head()(x), head()(x)])


def named_outputs() -> keras.Model:
    x = keras.Input((5,))
    return keras.Model(x, {"a": head()(x), "b": head()(x)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (two_outputs, "2 outputs"),
        (named_outputs, "a and b"),
        (lambda: Outputs(lambda x: [x, x]), "2 outputs"),
        (lambda: Outputs(lambda x: {"a": x, "b": x}), "a and b"),
        (lambda: keras.Sequential([keras.Input((5,)), L.ReLU()]), "no trainable weights"),
        (lambda: keras.Sequential([L.ReLU()]), "no trainable weights"),
        (lambda: keras.Sequential([]), "no layers|no trainable"),
        (Wrong, r"(?s)ValueError.*no such thing"),
    ],
)
@pytest.mark.parametrize("engine", training.ENGINES)
def test_what_cannot_be_trained_is_refused(
    build: Callable[[], keras.Model], message: str, engine: str
) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        train(build(), VECTORS, engine, None)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_inputs_in_a_list_that_the_model_does_not_name_are_refused(engine: str) -> None:
    with pytest.raises(ZooError, match="dict"):
        train(TwoInputs(), [VECTORS, STEPS[:, 0]], engine, None)
