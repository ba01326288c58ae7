"""Norms over a single value: a last batch of one example, one channel; and over none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import QUICK_MODES, numpy
from numpy import ndarray
from scipy.special import log_softmax

import zoo
from zoo import backends, layers, random
from zoo._lazy import keras, ops
from zoo.layers import Input, Model

HERE = backends.current()
BOUND = 1e-6  # float32, of the largest value


def noise(*shape: int) -> ndarray:
    return random.generator("test", *shape).standard_normal(shape, dtype=np.float32)


def network(part: Callable[..., Any], *shape: int) -> keras.Model:
    """One norm as a model, its weights moved off their initial zeros and ones."""
    inputs = Input(shape)
    model = Model(inputs, part(inputs, name="norm"))
    for variable in model.variables:
        variable.assign(0.5 + np.abs(noise(*variable.shape)))
    return model


def weights(model: keras.Model) -> dict[str, ndarray]:
    return {v.name: numpy(v).astype(np.float64) for v in model.variables}


def inner_product(y: Any, outputs: Any) -> Any:
    """A loss whose gradient with respect to the outputs is y."""
    return ops.sum(y * outputs)


@pytest.mark.parametrize("shape", [(3,), (1, 3), (1, 1, 3)])
def test_one_value_per_channel_gives_beta_and_the_biased_variance(shape: tuple[int, ...]) -> None:
    """(x - mean) / sqrt(0 + epsilon) is 0; the running variance decays, as Keras's and Flax's."""
    model, x = network(layers.batch_norm, *shape), 2 + noise(1, *shape)
    w = weights(model)
    y = numpy(model(x, training=True))
    assert np.array_equal(y, np.broadcast_to(np.float32(w["beta"]), y.shape))
    new = weights(model)
    assert np.abs(new["moving_mean"] - (0.9 * w["moving_mean"] + 0.1 * x.reshape(3))).max() <= BOUND
    assert np.abs(new["moving_variance"] - 0.9 * w["moving_variance"]).max() <= BOUND


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3)])
def test_the_gradient_of_one_value_per_channel_is_betas_alone(shape: tuple[int, ...]) -> None:
    """The outputs are beta whatever x and gamma are."""
    inputs = Input(shape)
    shifted = layers.parameter(inputs, (3,), name="shift")
    model = Model(inputs, layers.batch_norm(inputs + shifted, name="norm"))
    upstream = noise(1, *shape)
    _, gradients, state = HERE.gradients(model, inner_product)(
        *map(HERE.tensor, (noise(1, *shape), upstream))
    )
    found = {v.name: numpy(g) for v, g in zip(model.trainable_variables, gradients, strict=True)}
    assert np.array_equal(found["value"], np.zeros(3))
    assert np.array_equal(found["gamma"], np.zeros(3))
    assert np.array_equal(found["beta"], upstream.reshape(3))
    assert all(np.isfinite(numpy(s)).all() for s in state)


def test_an_empty_batch_leaves_the_running_statistics_unchanged() -> None:
    model = network(layers.batch_norm, 2, 2, 3)
    w = weights(model)
    assert model(np.zeros((0, 2, 2, 3), np.float32), training=True).shape == (0, 2, 2, 3)
    assert all(np.array_equal(w[name], value) for name, value in weights(model).items())


@pytest.mark.parametrize("engine", ["native", "keras"])
@pytest.mark.parametrize("mode", QUICK_MODES)
def test_a_last_batch_of_one_example_trains_and_leaves_no_nan(engine: str, mode: str) -> None:
    """Two epochs of batches of 4 and 1 at a rate of 0: losses and statistics in float64."""
    if engine == "keras" and mode != QUICK_MODES[0]:
        return
    inputs = Input((1, 1, 3))
    x = layers.flatten(layers.batch_norm(inputs, name="norm"))
    model = Model(inputs, layers.dense(x, 3, name="head"))
    w = weights(model)
    images, labels = noise(5, 1, 1, 3), np.array([0, 1, 2, 1, 0])
    run = zoo.train(
        model,
        (images, labels),
        engine=engine,
        mode=mode if engine == "native" else None,
        batch_size=4,
        epochs=2,
        optimizer=zoo.optimizers.SGD(0.0),
        progress=False,
    )
    mean, variance, losses = np.zeros(3), np.ones(3), []
    for epoch in range(2):
        for x, y in run.task.batches(4, 0, epoch, 0):
            x = x.reshape(-1, 3).astype(np.float64)
            n, batch_mean, batch_variance = len(x), x.mean(0), x.var(0)
            logits = (x - batch_mean) / np.sqrt(batch_variance + 1e-5) @ w["kernel"] + w["bias"]
            losses.append(-log_softmax(logits, 1)[np.arange(n), y].mean())
            mean = 0.9 * mean + 0.1 * batch_mean
            variance = 0.9 * variance + 0.1 * batch_variance * n / max(n - 1, 1)
    assert np.abs(np.array(run.losses) - losses).max() <= BOUND * max(losses)
    assert np.abs(weights(model)["moving_mean"] - mean).max() <= BOUND
    assert np.abs(weights(model)["moving_variance"] - variance).max() <= BOUND


@pytest.mark.parametrize("epsilon", [1e-5, 1e-12])
def test_a_layer_norm_over_one_channel_gives_beta_and_gradients_that_are_finite(epsilon: float) -> None:
    inputs = Input((2, 1))
    x = inputs + layers.parameter(inputs, (1,), name="shift")
    model = Model(inputs, layers.layer_norm(x, epsilon=epsilon, name="norm"))
    for variable in model.variables:
        variable.assign([0.75])
    x, upstream = noise(3, 2, 1), noise(3, 2, 1)
    assert np.array_equal(numpy(model(x)), np.full((3, 2, 1), np.float32(0.75)))
    _, gradients, _ = HERE.gradients(model, inner_product)(HERE.tensor(x), HERE.tensor(upstream))
    shift, gamma, beta = map(numpy, gradients)
    assert np.array_equal(shift, [0])
    assert np.array_equal(gamma, [0])
    assert np.abs(beta - upstream.sum()).max() <= BOUND * np.abs(upstream).sum()


@pytest.mark.parametrize("name", ["conv", "dense", "batch_norm", "layer_norm"])
def test_a_gradient_in_16_bits_is_the_sum_rounded_once(name: str) -> None:
    """Of a bias over 2,048 places, against the sum in float64: within a unit of bfloat16's last place."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        inputs = Input((16, 16, 3))
        sizes = {"conv": (3, 1), "dense": (3,)}.get(name, ())
        model = Model(inputs, getattr(layers, name)(inputs, *sizes, name="part"))
    finally:
        keras.config.set_dtype_policy(before)
    upstream = ops.cast(noise(8, 16, 16, 3), "bfloat16")
    exact = numpy(ops.cast(upstream, "float32")).astype(np.float64).sum((0, 1, 2))
    x = ops.cast(noise(8, 16, 16, 3), "bfloat16")
    _, gradients, _ = HERE.gradients(model, inner_product)(x, upstream)
    found = {v.name: g for v, g in zip(model.trainable_variables, gradients, strict=True)}
    bias = numpy(ops.cast(found["beta" if name.endswith("norm") else "bias"], "float32"))
    assert np.abs(bias - exact).max() <= 2.0**-8 * np.abs(exact).max()
