"""Optimizers: torch.optim's, step for step, by Keras's `apply` and by the native twin."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

import zoo
from zoo import backends, layers, optimizers, training

STEPS, SHAPE = 20, (4, 3)
CASES = [
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.1, "weight_decay": 0.2}),
    ("AdamW", {"learning_rate": 1e-2}),
    ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.5, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.0, "beta_1": 0.0}),
]


def start() -> tuple[np.ndarray, list[np.ndarray]]:
    rng = np.random.default_rng(0)
    return rng.normal(size=SHAPE).astype(np.float32), [
        rng.normal(size=SHAPE).astype(np.float32) for _ in range(STEPS)
    ]


def ours(name: str, settings: dict[str, Any]) -> list[np.ndarray]:
    """The weight after every step by the zoo's optimizer, as Keras applies it."""
    weight, gradients = start()
    variable = keras.Variable(weight, name="weight")
    optimizer = getattr(optimizers, name)(**settings)
    path = []
    for gradient in gradients:
        optimizer.apply([keras.ops.convert_to_tensor(gradient)], [variable])
        path.append(np.array(keras.ops.convert_to_numpy(variable)))
    return path


def formula(name: str, settings: dict[str, Any]) -> list[np.ndarray]:
    """The same in NumPy float64, from torch.optim's documentation."""
    weight, gradients = start()
    w, rate, decay = np.float64(weight), settings["learning_rate"], settings.get("weight_decay")
    m, v, path = np.zeros(SHAPE), np.zeros(SHAPE), []
    b1, b2, e = settings.get("beta_1", 0.9), settings.get("beta_2", 0.999), settings.get("epsilon", 1e-8)
    for t, gradient in enumerate(gradients, start=1):
        g = np.float64(gradient)
        if name == "SGD":
            w = w - rate * (g + (decay or 0) * w)
        else:
            w = w * (1 - rate * (0.01 if decay is None else decay))
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            w = w - rate * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + e)
        path.append(w)
    return path


def theirs(name: str, settings: dict[str, Any]) -> list[np.ndarray]:
    """The same by torch.optim."""
    torch = pytest.importorskip("torch")
    weight, gradients = start()
    w = torch.nn.Parameter(torch.tensor(weight))
    words = {"learning_rate": "lr", "weight_decay": "weight_decay", "epsilon": "eps"}
    arguments = {words[k]: x for k, x in settings.items() if k in words}
    if name == "AdamW":
        arguments["betas"] = (settings.get("beta_1", 0.9), settings.get("beta_2", 0.999))
    optimizer, path = getattr(torch.optim, name)([w], **arguments), []
    for gradient in gradients:
        w.grad = torch.tensor(gradient)
        optimizer.step()
        path.append(w.detach().numpy().copy())
    return path


def assert_same_updates(a: list[np.ndarray], b: list[np.ndarray]) -> None:
    """Every update within 1e-6 of the largest, and a rounding of the weight it is added to."""
    weight, _ = start()
    for before_a, after_a, before_b, after_b in zip([weight, *a], a, [weight, *b], b, strict=False):
        update_a, update_b = np.float64(after_a) - before_a, np.float64(after_b) - before_b
        rounding = 4 * np.spacing(np.float32(np.abs(before_a).max()))
        assert np.abs(update_a - update_b).max() <= 1e-6 * np.abs(update_b).max() + rounding


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("witness", [formula, theirs])
def test_every_update_equals_the_formula_and_torch(name: str, settings: dict[str, Any], witness: Any) -> None:
    assert_same_updates(ours(name, settings), witness(name, settings))


def test_the_first_step_of_adam_corrects_its_bias_exactly() -> None:
    """1 - 0.999 in float32 is off by 1.3e-5; Adam's first update is the rate times the gradient's sign."""
    weight, gradients = np.zeros(SHAPE, np.float32), start()[1]
    variable = keras.Variable(weight, name="weight")
    optimizers.AdamW(1.0).apply([keras.ops.convert_to_tensor(gradients[0])], [variable])
    expected = -np.float64(gradients[0]) / (np.abs(np.float64(gradients[0])) + 1e-8)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), expected, rtol=5e-7)


@pytest.mark.parametrize("exempt", [False, True])
@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_native_twin_makes_the_same_updates_as_keras_applies(
    name: str, settings: dict[str, Any], exempt: bool
) -> None:
    """A conv (its kernel's memory is turned on torch) and a dense layer, biases exempt from decay or not."""

    def run(engine: str) -> list[np.ndarray]:
        image = layers.Input((6, 6, 2))
        x = layers.tanh(layers.conv(image, 5, 3, 2, name="conv"))
        model = layers.Model(image, layers.dense(layers.flatten(x), 3, name="head"))
        optimizer = getattr(optimizers, name)(**settings)
        if exempt:
            optimizer.exclude_from_weight_decay(var_names=["bias"])
        rng = np.random.default_rng(1)
        data = rng.normal(size=(20, 6, 6, 2)), rng.integers(0, 3, 20)
        zoo.train(model, data, engine=engine, optimizer=optimizer, steps=15, batch_size=5, progress=False)
        return [np.array(keras.ops.convert_to_numpy(v)) for v in model.trainable_variables]

    for native, fit in zip(run("native"), run("keras"), strict=True):
        np.testing.assert_allclose(native, fit, atol=2e-6)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_what_is_excluded_does_not_decay(engine: str) -> None:
    """Examples of zeros, a loss that ignores the bias: whatever moves is moved by decay alone."""
    image = layers.Input((4,))
    x = layers.dense(image, 3, initializer=zoo.random.ones, name="head")
    model = layers.Model(image, x - x)
    model.layers[1].bias.assign(np.ones(3, np.float32))
    optimizer = optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    data = np.zeros((4, 4), np.float32), np.zeros(4, int)
    zoo.train(model, data, engine=engine, optimizer=optimizer, steps=2, progress=False)
    kernel, bias = (keras.ops.convert_to_numpy(v) for v in model.trainable_variables)
    np.testing.assert_allclose(kernel, 0.95**2, rtol=1e-6)
    np.testing.assert_array_equal(bias, 1)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("SGD", {"learning_rate": -0.1}, "learning_rate=-0.1"),
        ("AdamW", {"weight_decay": -1.0}, "weight_decay=-1.0"),
        ("AdamW", {"beta_1": 1.0}, "beta_1=1.0"),
        ("AdamW", {"beta_2": -0.1}, "beta_2=-0.1"),
        ("AdamW", {"epsilon": float("nan")}, "epsilon=nan"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said):
        getattr(optimizers, name)(**settings)


@pytest.mark.parametrize("name", ["SGD", "AdamW"])
def test_an_optimizer_survives_saving(name: str) -> None:
    optimizer = getattr(optimizers, name)(0.125, weight_decay=0.25)
    config = keras.optimizers.serialize(optimizer)
    again = keras.optimizers.deserialize(config)
    assert type(again) is type(optimizer)
    assert (
        float(again.learning_rate.numpy() if hasattr(again.learning_rate, "numpy") else again.learning_rate)
        == 0.125
    )
    assert again.weight_decay == 0.25


def test_the_native_optimizer_is_the_frameworks_own() -> None:
    model = zoo.build("mlp", **zoo.card("mlp").small)
    native = backends.current().optimizer(optimizers.AdamW(), model.trainable_variables)
    home = {"torch": "torch.optim", "jax": "optax", "tensorflow": "zoo.optimizers"}[backends.current().NAME]
    assert type(native).__module__.startswith(home)
