"""Models that the zoo did not build: sequential, subclassed, of several inputs, of layers that draw."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from conftest import NAME, QUICK_MODES, numpy

import zoo
from zoo import WrongConfiguration

WAYS = [*(("native", mode) for mode in QUICK_MODES), ("keras", None)]
X = np.random.default_rng(0).standard_normal((6, 5), dtype=np.float32)
Y = np.int32([0, 1, 2, 2, 1, 0])


def dense() -> keras.Layer:
    return keras.layers.Dense(3, name="head")


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.head = dense()

    def call(self, x: Any) -> Any:
        return self.head(x)


def built() -> keras.Model:
    model = Subclassed()
    model(X[:1])
    return model


def of_a_list() -> keras.Model:
    inputs = keras.Input((2,)), keras.Input((3,))
    return keras.Model(inputs, dense()(keras.layers.Concatenate()(inputs)))


KINDS: dict[str, Callable[[], keras.Model]] = {
    "sequential": lambda: keras.Sequential([keras.Input((5,)), dense()]),
    "sequential, not built": lambda: keras.Sequential([dense()]),
    "subclassed": Subclassed,
    "subclassed, called": built,
    "a list of inputs": of_a_list,
}


def weights(model: keras.Model) -> list[np.ndarray]:
    return [numpy(v).astype(np.float64) for v in model.trainable_variables]


@pytest.mark.parametrize(("engine", "mode"), WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_kind_of_model_trains_as_gradient_descent_written_out(kind: str, engine: str, mode: str) -> None:
    model = KINDS[kind]()
    x: Any = [X[:, :2], X[:, 2:]] if kind == "a list of inputs" else X
    model(x)  # draws the weights; a step below would do so as well
    kernel, bias = weights(model)
    losses, wide = [], X.astype(np.float64)
    for _ in range(3):
        logits = wide @ kernel + bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        losses.append(-np.log(p[np.arange(6), Y]).mean())
        error = (p - np.eye(3)[Y]) / 6
        kernel, bias = kernel - 0.5 * wide.T @ error, bias - 0.5 * error.sum(0)
    if kind == "sequential, not built":
        drawn, model = model.get_weights(), KINDS[kind]()
        model(x)
        model.set_weights(drawn)
    run = zoo.train(
        model, (x, Y), validation=(x, Y), engine=engine, mode=mode, optimizer=zoo.optimizers.SGD(0.5),
        steps=3, batch_size=6, progress=False,
    )  # fmt: skip
    np.testing.assert_allclose(run.losses, losses, rtol=1e-5)
    assert run.model is model
    for ours, theirs in zip(weights(model), [kernel, bias], strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    best = (wide @ kernel + bias).argmax(1)
    assert run.metrics["accuracy"] == pytest.approx((best == Y).mean())


def test_a_model_that_is_not_built_is_built_for_the_examples() -> None:
    for model in (Subclassed(), keras.Sequential([dense()])):
        zoo.train(model, (X, Y), steps=1, batch_size=6, progress=False)
        assert weights(model)[0].shape == (5, 3)


IMAGES = np.random.default_rng(1).standard_normal((4, 6, 6, 1), dtype=np.float32)
DRAWING: dict[str, Callable[[], keras.Layer]] = {
    "Dropout": lambda: keras.layers.Dropout(0.5),
    "Dropout(seed)": lambda: keras.layers.Dropout(0.5, seed=1),
    "SpatialDropout2D": lambda: keras.layers.SpatialDropout2D(0.5),
    "GaussianNoise": lambda: keras.layers.GaussianNoise(0.5),
    "GaussianDropout": lambda: keras.layers.GaussianDropout(0.5),
    "AlphaDropout": lambda: keras.layers.AlphaDropout(0.5, seed=1),
    "RandomFlip": lambda: keras.layers.RandomFlip(),
    "RandomRotation": lambda: keras.layers.RandomRotation(0.3),
    "RandomContrast": lambda: keras.layers.RandomContrast(0.5, value_range=(-4, 4)),
}
# What a mode cannot compile runs in the next.
SIMPLER = {"traced": "eager", "xla": "graph"}


def drawing(layer: keras.Layer, classes: int = 3) -> keras.Model:
    keras.utils.set_random_seed(0)
    channels = keras.layers.Conv2D(4, 1)
    rest = [channels, layer] if isinstance(layer, keras.layers.SpatialDropout2D) else [layer]
    return keras.Sequential(
        [keras.Input((6, 6, 1)), *rest, keras.layers.Flatten(), keras.layers.Dense(classes)]
    )


def without_learning(model: keras.Model, **options: Any) -> zoo.Run:
    data = (IMAGES, np.int32([0, 1, 2, 0]))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cannot compile it")
        return zoo.train(
            model, data, optimizer=zoo.optimizers.SGD(0.0), steps=4, batch_size=4, progress=False, **options
        )


@pytest.mark.parametrize(("engine", "mode"), WAYS)
@pytest.mark.parametrize("name", DRAWING)
def test_keras_layers_that_draw_draw_anew_at_every_step(name: str, engine: str, mode: str | None) -> None:
    """The weights stay, the batch is the same but for its order: the losses differ by the draws alone."""
    run = without_learning(drawing(DRAWING[name]()), engine=engine, mode=mode)
    assert len({round(loss, 4) for loss in run.losses}) >= 3
    simpler = (NAME == "torch" and name != "Dropout") or (mode == "xla" and name == "RandomRotation")
    assert run.mode == ((SIMPLER.get(mode, mode) if simpler else mode) if engine == "native" else "fit")


def test_a_seed_gives_the_same_draws_in_whichever_mode() -> None:
    """But XLA on TensorFlow, whose stateless generator is by another algorithm there."""
    modes = [mode for mode in QUICK_MODES if mode != "xla"]
    found = [without_learning(drawing(DRAWING["Dropout(seed)"]()), mode=mode).losses for mode in modes]
    for losses in found[1:]:
        np.testing.assert_allclose(losses, found[0], rtol=1e-5)


class Noise(keras.layers.Layer):
    """x + what a function gives, in training."""

    def __init__(self, draw: Callable[[], Any], always: bool = False):
        super().__init__()
        self.draw, self.always = draw, always

    def call(self, x: Any, training: bool = False) -> Any:
        return x + self.draw() if training or self.always else x

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


@pytest.mark.parametrize("mode", QUICK_MODES)
@pytest.mark.parametrize("draw", [random.random, lambda: float(np.random.rand())], ids=["Python", "NumPy"])  # noqa: NPY002
def test_what_python_draws_is_not_repeated_by_a_compiled_step(draw: Callable[[], Any], mode: str) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run = zoo.train(
            drawing(Noise(draw)), (IMAGES, np.int32([0, 1, 2, 0])), optimizer=zoo.optimizers.SGD(0.0),
            mode=mode, steps=4, batch_size=4, progress=False,
        )  # fmt: skip
    said = [str(each.message) for each in caught if "runs in mode 'eager'" in str(each.message)]
    assert len(said) == (mode != "eager")
    assert all("global generator" in message for message in said)
    assert run.mode == "eager"
    assert len({round(loss, 4) for loss in run.losses}) == 4


@pytest.mark.parametrize("mode", QUICK_MODES)
def test_draws_without_a_seed_differ_at_every_step_or_are_refused(mode: str) -> None:
    """On JAX a step is a pure function, which knows no generator but the model's own."""
    model = drawing(Noise(lambda: keras.random.normal((6, 6, 1))))
    if NAME == "jax":
        before = weights(model)
        with pytest.raises(WrongConfiguration, match="SeedGenerator as an attribute"):
            without_learning(model, mode=mode)
        assert all(np.array_equal(a, b) for a, b in zip(weights(model), before, strict=True))
    else:
        losses = without_learning(model, mode=mode).losses
        assert len({round(loss, 4) for loss in losses}) == 4


def test_a_model_that_draws_in_inference_is_evaluated() -> None:
    model = drawing(Noise(random.random, always=True))
    run = without_learning(model, validation=(IMAGES, np.int32([0, 1, 2, 0])))
    assert np.isfinite(run.metrics["loss"])


class OwnStep(keras.Model):
    made = 0

    def train_step(self, *arguments: Any) -> Any:
        OwnStep.made += 1
        return super().train_step(*arguments)


def own_step() -> keras.Model:
    x = keras.Input((5,))
    return OwnStep(x, dense()(x))


def test_the_keras_engine_makes_the_step_of_a_functional_model_that_has_its_own() -> None:
    OwnStep.made = 0
    zoo.train(own_step(), (X, Y), engine="keras", steps=1, batch_size=6, progress=False)
    assert OwnStep.made


class Branching(Subclassed):
    def call(self, x: Any) -> Any:
        return self.head(x) if float(x[0, 0]) > 0 else self.head(-x)


def two_outputs() -> keras.Model:
    x = keras.Input((5,))
    return keras.Model(x, [dense()(x), keras.layers.Dense(3)(x)])


@pytest.mark.parametrize(
    ("make", "data", "message"),
    [
        (own_step, (X, Y), "own train_step"),
        (two_outputs, (X, Y), "2 outputs"),
        pytest.param(
            Branching,
            (X, Y),
            r"symbolic inputs of shape \(None, 5\)",
            marks=pytest.mark.skipif(NAME == "torch", reason="torch calls it on numbers to learn shapes"),
        ),
        (Subclassed, "digits", "not built"),
        (KINDS["sequential"], (X[:, :4], Y), r"\(5,\).*\(4,\)"),
    ],
    ids=["own step", "two outputs", "branching", "not built", "another size"],
)
def test_a_model_that_cannot_be_trained_is_refused_before_any_step(
    make: Callable[[], keras.Model], data: Any, message: str
) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        zoo.train(make(), data, steps=1, progress=False)
