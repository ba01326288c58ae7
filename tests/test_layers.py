"""Every part that models are written in: ours in float32, theirs NumPy or SciPy in float64."""

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK_MODES, numpy
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view
from scipy import special
from scipy.signal import correlate2d

import zoo
from zoo import backends, layers, random
from zoo._lazy import keras, ops
from zoo.layers import Input, Model

Tensor = Any
BOUND = 1e-6  # float32, of the largest value


def noise(*shape: int, seed: int = 0) -> ndarray:
    return random.generator("test", seed, *shape).standard_normal(shape, dtype=np.float32)


def network(part: Callable[[Tensor], Tensor], *shape: int) -> keras.Model:
    """One part as a model, its weights moved off their initial zeros and ones."""
    inputs = Input(shape)
    model = Model(inputs, part(inputs))
    for i, variable in enumerate(model.variables):
        if variable.dtype == "float32":
            variable.assign(0.5 + np.abs(noise(*variable.shape, seed=i)))  # a running variance is positive
    return model


def weights(model: keras.Model) -> dict[str, ndarray]:
    """By name, e.g. "kernel", in float64."""
    return {v.name: numpy(v).astype(np.float64) for v in model.variables}


def off(ours: Any, theirs: ndarray) -> float:
    """The largest difference, of the largest value."""
    ours = numpy(ours)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# --- convolution and pooling ---


def padded(x: ndarray, padding: int, value: float = 0) -> ndarray:
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    return np.pad(x.astype(np.float64), sides, constant_values=value)


def correlated(x: ndarray, kernel: ndarray, stride: int, padding: int) -> ndarray:
    maps = [
        [
            sum(correlate2d(image[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1]))
            for o in range(kernel.shape[-1])
        ]
        for image in padded(x, padding)
    ]
    return np.moveaxis(np.array(maps), 1, -1)[:, ::stride, ::stride]


def windows(x: ndarray, size: int, stride: int) -> ndarray:
    return sliding_window_view(x, (size, size), axis=(1, 2))[:, ::stride, ::stride]


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [
        (1, 1, 0),
        (3, 1, None),
        (5, 1, 0),
        (3, 2, None),
        (7, 2, None),
        (3, 2, 0),
        (2, 2, 0),
        (4, 3, 1),
        (1, 2, 0),
    ],
)
def test_conv_is_a_cross_correlation_with_even_zero_padding(
    size: int, stride: int, padding: int | None
) -> None:
    x = noise(2, 11, 8, 3)
    model = network(lambda x: layers.conv(x, 4, size, stride, padding=padding, name="conv"), 11, 8, 3)
    w = weights(model)
    padding = size // 2 if padding is None else padding
    assert off(model(x), correlated(x, w["kernel"], stride, padding) + w["bias"]) <= BOUND
    assert model.output_shape == (None, *model(x).shape[1:])


def test_conv_without_a_bias_has_none() -> None:
    x = noise(2, 6, 6, 3)
    model = network(lambda x: layers.conv(x, 4, 3, use_bias=False, name="conv"), 6, 6, 3)
    assert list(weights(model)) == ["kernel"]
    assert off(model(x), correlated(x, weights(model)["kernel"], 1, 1)) <= BOUND


@pytest.mark.parametrize(("groups", "filters"), [(2, 6), (3, 3), (6, 6), (6, 12)])
def test_each_group_of_a_convolution_sees_its_own_channels(groups: int, filters: int) -> None:
    """Theirs: as many convolutions, side by side; with as many groups as channels it is depthwise."""
    x = noise(2, 9, 8, 6)
    model = network(lambda x: layers.conv(x, filters, 3, 2, groups=groups, name="conv"), 9, 8, 6)
    w = weights(model)
    assert w["kernel"].shape == (3, 3, 6 // groups, filters)
    parts = zip(np.split(x, groups, -1), np.split(w["kernel"], groups, -1), strict=True)
    theirs = np.concatenate([correlated(part, kernel, 2, 1) for part, kernel in parts], -1)
    assert off(model(x), theirs + w["bias"]) <= BOUND
    assert off(model.predict(x, verbose=0), theirs + w["bias"]) <= BOUND  # compiled, as a graph fuses them


def test_groups_that_do_not_divide_are_refused_by_name() -> None:
    with pytest.raises(
        zoo.WrongConfiguration, match=r"^conv: 4 groups; expected a divisor of its 6 channels"
    ):
        layers.conv(Input((8, 8, 6)), 8, 3, groups=4, name="conv")


@pytest.mark.parametrize("filters", [1, 3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])  # float32 on JAX, unless it is told otherwise
def test_a_kernels_gradient_is_a_correlation_of_what_came_in_with_what_comes_back(
    filters: int, dtype: str
) -> None:
    """torch's float64 refuses a kernel whose last axis, of one filter, has no stride of its own."""
    x, back = noise(2, 9, 8, 4).astype(dtype), noise(2, 7, 6, filters, seed=1).astype(dtype)
    here = backends.current()
    kernel = here.tensor(noise(3, 3, 4, filters, seed=2).astype(dtype))

    def weighed(kernel: Tensor) -> Tensor:
        return ops.sum(here.conv(here.tensor(x), kernel, None, stride=1, padding=0) * here.tensor(back))

    theirs = np.einsum("bhwcij,bhwo->ijco", sliding_window_view(x, (3, 3), axis=(1, 2)), back)
    assert off(here.input_gradient(weighed, kernel), theirs) <= BOUND


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize(
    ("size", "stride", "sides"),
    [
        # TensorFlow's documentation of "SAME", for 11 rows and 8 columns: (rows before, after), (columns ...)
        (3, 1, ((1, 1), (1, 1))),
        (3, 2, ((1, 1), (0, 1))),
        (5, 2, ((2, 2), (1, 2))),
        (4, 3, ((1, 2), (1, 1))),
        (1, 2, ((0, 0), (0, 0))),
    ],
)
def test_same_pads_as_tensorflow_does(size: int, stride: int, sides: Any, groups: int) -> None:
    x = noise(2, 11, 8, 3)
    model = network(
        lambda x: layers.conv(x, 3, size, stride, padding="same", groups=groups, name="c"), 11, 8, 3
    )
    around, w = np.pad(x, ((0, 0), *sides, (0, 0))), weights(model)
    parts = zip(np.split(around, groups, -1), np.split(w["kernel"], groups, -1), strict=True)
    theirs = np.concatenate([correlated(part, kernel, stride, 0) for part, kernel in parts], -1)
    assert off(model(x), theirs + w["bias"]) <= BOUND
    assert model.output_shape == (None, *theirs.shape[1:])


def test_a_convolutions_and_a_dense_layers_bias_start_where_they_are_told() -> None:
    image = Input((4, 4, 2))
    x = layers.conv(image, 3, 3, bias_initializer=random.constant(0.5), name="conv")
    model = Model(image, layers.dense(x, 2, bias_initializer=random.ones, name="dense"))
    assert {v.path: set(numpy(v).ravel()) for v in model.variables if v.name == "bias"} == {
        "conv/bias": {0.5}, "dense/bias": {1.0}
    }  # fmt: skip


@pytest.mark.parametrize(("height", "width"), [(14, 7), (9, 13), (1, 3), (7, 7)])
def test_adaptive_average_pool_gives_the_size_from_any_other(height: int, width: int) -> None:
    """Cell i, as torch.nn.AdaptiveAvgPool2d: the mean from floor(i n / 7) to ceil((i + 1) n / 7)."""
    x = noise(2, height, width, 3)
    model = network(lambda x: layers.adaptive_average_pool(x, 7), height, width, 3)

    def runs(n: int) -> list[slice]:
        return [slice(i * n // 7, math.ceil((i + 1) * n / 7)) for i in range(7)]

    cells = [[x[:, r, c].astype(np.float64).mean((1, 2)) for c in runs(width)] for r in runs(height)]
    assert off(model(x), np.moveaxis(np.array(cells), 2, 0)) <= BOUND
    assert model.output_shape == (None, 7, 7, 3)


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(2, None, 0), (3, 2, 1), (3, 2, 0), (3, 1, 1), (2, 3, 1)]
)
def test_max_pool_takes_the_largest_and_padding_never_wins(
    size: int, stride: int | None, padding: int
) -> None:
    x = noise(2, 11, 8, 3) - 9  # all negative: a padding of zeros would win
    model = network(lambda x: layers.max_pool(x, size, stride, padding=padding), 11, 8, 3)
    theirs = windows(padded(x, padding, -np.inf), size, stride or size).max((-2, -1))
    assert np.array_equal(numpy(model(x)), theirs)
    assert model.output_shape == (None, *theirs.shape[1:])


@pytest.mark.parametrize(("size", "stride"), [(2, None), (3, 2), (3, 1), (2, 3)])
def test_average_pool_takes_the_mean(size: int, stride: int | None) -> None:
    x = noise(2, 11, 8, 3)
    model = network(lambda x: layers.average_pool(x, size, stride), 11, 8, 3)
    theirs = windows(padded(x, 0), size, stride or size).mean((-2, -1))
    assert off(model(x), theirs) <= BOUND
    assert model.output_shape == (None, *theirs.shape[1:])


def test_global_average_pool_takes_the_mean_of_each_map() -> None:
    x = noise(2, 11, 8, 3)
    model = network(layers.global_average_pool, 11, 8, 3)
    assert off(model(x), x.astype(np.float64).mean((1, 2))) <= BOUND


def test_flatten_keeps_the_last_axis_fastest() -> None:
    x = noise(2, 4, 3, 5)
    assert np.array_equal(numpy(network(layers.flatten, 4, 3, 5)(x)), x.reshape(2, 60))


@pytest.mark.parametrize(
    ("part", "name"),
    [
        (lambda x: layers.conv(x, 4, 7, padding=0, name="stem"), "stem"),
        (lambda x: layers.conv(x, 4, 9, padding=1, name="stem"), "stem"),
        (lambda x: layers.max_pool(x, 7), "max_pool"),
        (lambda x: layers.average_pool(x, 7), "average_pool"),
    ],
)
def test_a_window_that_does_not_fit_is_refused_by_name(part: Callable[[Tensor], Tensor], name: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=rf"^{name}: a (\d) x \1 window does not fit into 8 x 6"):
        part(Input((8, 6, 3)))


def test_a_window_as_large_as_the_padded_image_fits() -> None:
    assert layers.conv(Input((2, 3, 1)), 4, 5, name="conv").shape == (None, 2, 3, 4)
    assert layers.max_pool(Input((1, 2, 3)), 3, 1, padding=1).shape == (None, 1, 2, 3)
    assert layers.conv(Input((8, 6, 3)), 4, 6, padding=0, name="conv").shape == (None, 3, 1, 4)
    assert layers.average_pool(Input((6, 6, 3)), 6).shape == (None, 1, 1, 3)


# --- attention ---


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_vaswanis(heads: int) -> None:
    """softmax(q k^T / sqrt(d)) v in each head, the heads side by side, projected (eq. 1, section 3.2.2)."""
    x = noise(3, 5, 8)
    inputs = Input((5, 8))
    model = Model(inputs, layers.attention(inputs, heads, name="a"))
    for i, variable in enumerate(model.variables):
        variable.assign(noise(*variable.shape, seed=i))
    w = {v.path: numpy(v).astype(np.float64) for v in model.variables}
    query, key, value = (x @ w[f"a_{p}/kernel"] + w[f"a_{p}/bias"] for p in ("query", "key", "value"))
    parts = []
    for q, k, v in zip(*(np.split(y, heads, -1) for y in (query, key, value)), strict=True):
        parts.append(special.softmax(q @ k.transpose(0, 2, 1) / np.sqrt(8 / heads), -1) @ v)
    theirs = np.concatenate(parts, -1) @ w["a_output/kernel"] + w["a_output/bias"]
    assert off(model(x), theirs) <= BOUND
    assert model.output_shape == (None, 5, 8)


def test_heads_that_do_not_divide_the_width_are_refused_by_name() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"^a: 3 heads; expected a divisor of the width, 8"):
        layers.attention(Input((5, 8)), 3, name="a")


def test_a_token_stands_before_every_sequence_and_is_trained() -> None:
    model = network(lambda x: layers.token(x, name="token"), 4, 3)
    x, y = noise(2, 4, 3), numpy(model(noise(2, 4, 3)))
    assert np.array_equal(y[:, 1:], x)
    assert np.array_equal(y[:, 0], np.tile(numpy(model.trainable_variables[0])[0], (2, 1)))
    assert model.output_shape == (None, 5, 3)


# --- dense, norms, parameters ---


@pytest.mark.parametrize("shape", [(7,), (5, 7), (3, 5, 7)])
def test_dense_is_an_affine_map_of_the_last_axis(shape: tuple[int, ...]) -> None:
    x = noise(4, *shape)
    model = network(lambda x: layers.dense(x, 6, name="dense"), *shape)
    w = weights(model)
    assert off(model(x), x.astype(np.float64) @ w["kernel"] + w["bias"]) <= BOUND
    assert model.output_shape == (None, *shape[:-1], 6)


@pytest.mark.parametrize("shape", [(2, 3), (2, 4, 3), (2, 4, 5, 3)])
def test_a_dense_kernel_may_be_given_transposed(shape: tuple[int, ...]) -> None:
    x, kernel, here = noise(*shape), noise(6, 3), backends.current()
    y = here.dense(here.tensor(x), here.tensor(kernel), None, transposed=True)
    np.testing.assert_allclose(numpy(y), np.einsum("...i,oi->...o", x, kernel), rtol=1e-5, atol=1e-6)


def test_dense_without_a_bias_has_none() -> None:
    x = noise(4, 7)
    model = network(lambda x: layers.dense(x, 6, use_bias=False, name="dense"), 7)
    assert list(weights(model)) == ["kernel"]
    assert off(model(x), x.astype(np.float64) @ weights(model)["kernel"]) <= BOUND


SHAPES = [(6, 3), (5, 6, 3)]  # of one example, channels last; (3,) alone has only the batch to average over


@pytest.mark.parametrize("shape", [(3,), *SHAPES])
@pytest.mark.parametrize(("momentum", "epsilon"), [(0.1, 1e-5), (0.3, 1e-3)])
def test_batch_norm_in_training_takes_the_batchs_statistics(
    shape: tuple[int, ...], momentum: float, epsilon: float
) -> None:
    """Ioffe and Szegedy's algorithm 1; running statistics as torch keeps them, the variance unbiased."""
    x = 2 + 3 * noise(4, *shape)
    model = network(lambda x: layers.batch_norm(x, momentum=momentum, epsilon=epsilon, name="norm"), *shape)
    w, rows = weights(model), x.astype(np.float64).reshape(-1, 3)
    mean, variance = rows.mean(0), rows.var(0)

    y = (x - mean) / np.sqrt(variance + epsilon) * w["gamma"] + w["beta"]
    assert off(model(x, training=True), y) <= BOUND

    new = weights(model)
    unbiased = ((rows - mean) ** 2).sum(0) / (len(rows) - 1)
    assert off(new["moving_mean"], (1 - momentum) * w["moving_mean"] + momentum * mean) <= BOUND
    assert off(new["moving_variance"], (1 - momentum) * w["moving_variance"] + momentum * unbiased) <= BOUND


@pytest.mark.parametrize("shape", [(3,), *SHAPES])
def test_batch_norm_in_inference_takes_the_running_statistics_and_leaves_them(shape: tuple[int, ...]) -> None:
    x = 2 + 3 * noise(4, *shape)
    model = network(lambda x: layers.batch_norm(x, name="norm"), *shape)
    w = weights(model)
    y = (x - w["moving_mean"]) / np.sqrt(w["moving_variance"] + 1e-5) * w["gamma"] + w["beta"]
    assert off(model(x, training=False), y) <= BOUND
    assert all(np.array_equal(w[name], value) for name, value in weights(model).items())


def test_batch_norm_keeps_its_precision_far_from_zero() -> None:
    """A variance taken as E[x^2] - E[x]^2 in float32 would lose all but two digits here."""
    x = 300 + noise(64, 4, 4, 2)
    model = network(lambda x: layers.batch_norm(x, momentum=1, name="norm"), 4, 4, 2)
    model(x, training=True)
    theirs = x.astype(np.float64).reshape(-1, 2).var(0, ddof=1)
    assert off(weights(model)["moving_variance"], theirs) <= BOUND


@pytest.mark.parametrize("shape", [(8,), (5, 8)])
@pytest.mark.parametrize("epsilon", [1e-5, 1e-2])
def test_layer_norm_normalizes_each_vector(shape: tuple[int, ...], epsilon: float) -> None:
    """Ba et al., eq. 4, in training and in inference."""
    x = 2 + 3 * noise(4, *shape)
    model = network(lambda x: layers.layer_norm(x, epsilon=epsilon, name="norm"), *shape)
    w, x64 = weights(model), x.astype(np.float64)
    y = (x64 - x64.mean(-1, keepdims=True)) / np.sqrt(x64.var(-1, keepdims=True) + epsilon)
    y = y * w["gamma"] + w["beta"]
    assert off(model(x), y) <= BOUND
    assert off(model(x, training=True), y) <= BOUND


def test_a_parameter_is_the_same_for_every_example_and_trainable() -> None:
    inputs = Input((3,))
    token = layers.parameter(inputs, (3,), initializer=random.normal(1), name="token")
    model = Model(inputs, inputs * token)
    drawn = random.normal(1).draw((0, "token", "value"), (3,))
    x = noise(4, 3)
    assert [v.path for v in model.trainable_variables] == ["token/value"]
    assert np.array_equal(numpy(model(x)), x * drawn)


@pytest.mark.parametrize(
    ("penalty", "theirs"),
    [
        (lambda: layers.l1(0.3), lambda w: 0.3 * np.abs(w).sum()),
        (lambda: layers.l2(0.3), lambda w: 0.3 * (w**2).sum()),
    ],
)
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_penalties_of_the_kernel_alone_are_added_to_the_loss(
    kind: str, penalty: Callable, theirs: Callable
) -> None:
    def part(x: Tensor) -> Tensor:
        if kind == "dense":
            return layers.dense(x, 4, regularizer=penalty(), name="layer")
        return layers.conv(x, 4, 3, regularizer=penalty(), name="layer")

    model = network(part, 5, 5, 3)
    (ours,) = model.losses
    assert off(ours, theirs(weights(model)["kernel"])) <= BOUND


# --- dropout ---


def test_dropout_in_training_keeps_the_masks_elements_scaled() -> None:
    """y = x / (1 - rate) or 0; the mask is `random.keep`, which test_random.py holds against NumPy."""
    x = noise(5, 6, 7)
    model = network(lambda x: layers.dropout(x, 0.4, name="drop"), 6, 7)
    key = random.key32(0, "drop", "dropout")
    for step in range(3):
        kept = numpy(random.keep(x.shape, 0.4, key, np.int32(step)))
        assert np.array_equal(numpy(model(x, training=True)), np.where(kept, x * np.float32(1 / 0.6), 0))


def test_dropout_in_inference_does_nothing_and_counts_no_step() -> None:
    x = noise(5, 6)
    model = network(lambda x: layers.dropout(x, 0.4, name="drop"), 6)
    assert np.array_equal(numpy(model(x)), x)
    assert np.array_equal(numpy(model(x, training=False)), x)
    assert numpy(model.get_layer("drop").step) == 0


def test_dropout_draws_the_same_mask_for_the_same_step() -> None:
    x = noise(50, 60)
    model = network(lambda x: layers.dropout(x, 0.4, name="drop"), 60)
    first, second = (numpy(model(x, training=True)) for _ in range(2))
    assert numpy(model.get_layer("drop").step) == 2
    model.get_layer("drop").step.assign(0)
    assert np.array_equal(numpy(model(x, training=True)), first)
    assert not np.array_equal(first, second)


def test_dropouts_of_another_seed_or_name_drop_others() -> None:
    x = np.ones((50, 60), np.float32)

    def dropped(name: str, seed: int) -> ndarray:
        with random.seeded(seed):
            return numpy(network(lambda x: layers.dropout(x, 0.4, name=name), 60)(x, training=True)) == 0

    same, seed, name = dropped("a", 0), dropped("a", 1), dropped("b", 0)
    assert np.array_equal(same, dropped("a", 0))
    assert not np.array_equal(same, seed)
    assert not np.array_equal(same, name)


def test_dropout_steps_on_inside_a_compiled_fit_with_batches_of_any_size() -> None:
    """Keras's `fit` from a generator leaves the batch axis unknown where the framework can."""
    x = np.ones((4, 6), np.float32)
    inputs = Input((6,))
    model = Model(
        inputs, layers.dense(layers.dropout(inputs, 0.5, name="drop"), 1, initializer=random.ones, name="sum")
    )
    model.compile(
        keras.optimizers.SGD(0.0), loss=lambda y, logits: keras.ops.mean(logits) + 0 * keras.ops.mean(y)
    )
    sizes = [4, 3, 2]
    data = ((x[:n], np.zeros((n, 1), np.float32)) for n in sizes)
    ours = model.fit(data, steps_per_epoch=1, epochs=3, shuffle=False, verbose=0).history["loss"]
    key = random.key32(0, "drop", "dropout")
    masks = [numpy(random.keep((n, 6), 0.5, key, np.int32(step))) for step, n in enumerate(sizes)]
    assert ours == [pytest.approx(2 * mask.sum() / len(mask), rel=BOUND) for mask in masks]


def test_dropout_at_rate_0_is_no_layer() -> None:
    x = Input((6,))
    assert layers.dropout(x, 0.0, name="drop") is x


@pytest.mark.parametrize("rate", [-0.1, 1, 1.5, float("nan")])
def test_a_rate_that_is_no_probability_below_1_is_refused_by_name(rate: float) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=f"^drop: dropout rate {rate}; expected 0 <= rate < 1"):
        layers.dropout(Input((6,)), rate, name="drop")


# --- activations ---

ACTIVATIONS: dict[str, Callable[[ndarray], ndarray]] = {
    "identity": lambda x: x,
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * special.expit(x),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def test_every_activation_has_a_witness() -> None:
    assert list(layers.ACTIVATIONS) == list(ACTIVATIONS)


@pytest.mark.parametrize("top", [1, 12])  # near 0, and out to where all of them are flat
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name: str, top: float) -> None:
    x = np.linspace(-top, top, 4001, dtype=np.float32)[None]
    model = network(lambda x: layers.activate(x, name), 4001)
    assert off(model(x), ACTIVATIONS[name](x.astype(np.float64))) <= BOUND


def test_leaky_relu_takes_another_slope() -> None:
    x = noise(4, 9)
    theirs = np.where(x > 0, x, 0.2 * x.astype(np.float64))
    assert off(network(lambda x: layers.leaky_relu(x, 0.2), 9)(x), theirs) <= BOUND


def test_an_unknown_activation_names_the_nearest() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"^no activation 'geluu'; nearest: gelu"):
        layers.activate(Input((6,)), "geluu")


# --- what every layer does ---


def everything(image: Tensor) -> Tensor:
    """Each layer of `zoo.layers.classes` once."""
    x = layers.conv(image, 4, 3, 2, regularizer=layers.l2(0.1), initializer=random.lecun_1998, name="conv")
    x = layers.gelu(layers.batch_norm(x, momentum=0.2, epsilon=1e-3, name="batch_norm"))
    x = layers.average_pool(layers.max_pool(x, 3, 1, padding=1), 2)
    x = layers.conv(x, 4, 3, padding="same", groups=2, bias_initializer=random.ones, name="grouped")
    x = layers.intermediate(layers.adaptive_average_pool(x, 3), "map")
    x = layers.token(keras.ops.reshape(x, (-1, 9, 4)), initializer=random.normal(0.1), name="token")
    x = layers.sinusoidal_positions(x)
    x = layers.drop_path(layers.attention(x, 2, name="attention"), 0.25, name="drop_path")
    x = layers.dropout(layers.flatten(x), 0.25, name="dropout")
    x = layers.gelu_tanh(layers.layer_norm(x, epsilon=1e-3, name="layer_norm"))
    x = x * layers.parameter(x, x.shape[-1:], initializer=random.truncated_normal(0.5), name="scale")
    return layers.dense(x, 3, use_bias=False, regularizer=layers.l1(0.1), name="head")


def drawn() -> keras.Model:
    """Of everything, from seed 4."""
    with random.seeded(4):
        inputs = Input((8, 8, 2))
        return Model(inputs, everything(inputs))


@pytest.fixture
def trained() -> keras.Model:
    """Three training passes behind it: running statistics and dropout steps have moved."""
    model = drawn()
    for _ in range(3):
        model(noise(5, 8, 8, 2), training=True)
    return model


def test_each_layer_is_in_the_model_that_tests_them_all(trained: keras.Model) -> None:
    ours = {type(layer).__name__ for layer in trained.layers}
    folder = Path(zoo.__file__).parent / "layers"
    source = "\n".join(path.read_text() for path in folder.glob("*.py"))
    theirs = {
        line.split("(")[0].removeprefix("class ") for line in source.splitlines() if line.endswith("(Layer):")
    }
    for name in SEQUENCES:
        ours |= {type(layer).__name__ for layer in zoo.build(name, **zoo.card(name).small).layers}
    assert theirs <= ours | {"Recurrent"}  # which LSTM and GRU are
    assert "Conv" in theirs


@pytest.mark.parametrize("mode", QUICK_MODES[1:])
def test_each_layer_trains_in_each_mode_as_in_the_default(mode: str) -> None:
    def losses(mode: str | None) -> list[float]:
        data = noise(12, 8, 8, 2), np.arange(12) % 3
        return zoo.train(drawn(), data, mode=mode, steps=4, batch_size=6, progress=False).losses

    assert np.abs(np.subtract(losses(mode), losses(None))).max() <= 1e-5


SEQUENCES = ("lstm", "gru", "seq2seq", "speech", "bert-tiny", "gpt-nano", "t5-tiny")


@pytest.mark.once
@pytest.mark.parametrize("name", SEQUENCES)
def test_a_saved_model_of_sequences_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    """And goes on training as the original would."""
    model = zoo.build(name, **{**zoo.card(name).small, "dropout_rate": 0.5})
    x = zoo.example(model, 4)
    model(x, training=True)
    model.save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras")
    for ours, theirs in zip(back.variables, model.variables, strict=True):
        assert ours.path == theirs.path
        assert np.array_equal(numpy(ours), numpy(theirs))
    assert np.array_equal(numpy(back(x)), numpy(model(x)))
    assert np.array_equal(numpy(back(x, training=True)), numpy(model(x, training=True)))


def test_a_saved_model_comes_back_bit_for_bit(trained: keras.Model, tmp_path: Path) -> None:
    trained.save(tmp_path / "model.keras")
    back = keras.models.load_model(tmp_path / "model.keras")
    x = noise(5, 8, 8, 2, seed=1)
    for ours, theirs in zip(back.variables, trained.variables, strict=True):
        assert ours.path == theirs.path
        assert np.array_equal(numpy(ours), numpy(theirs))
    assert np.array_equal(numpy(back(x)), numpy(trained(x)))
    # ... and goes on training as the original would: the same dropout mask, the same statistics.
    assert np.array_equal(numpy(back(x, training=True)), numpy(trained(x, training=True)))
    assert np.array_equal(numpy(sum(back.losses)), numpy(sum(trained.losses)))


def test_a_clone_draws_the_weights_that_the_original_drew(trained: keras.Model) -> None:
    fresh, clone = drawn(), keras.models.clone_model(trained)
    for ours, theirs in zip(clone.variables, fresh.variables, strict=True):
        assert np.array_equal(numpy(ours), numpy(theirs))


def test_models_of_the_same_weights_share_none(tmp_path: Path) -> None:
    """A change of one leaves a second model, a clone and what comes back from a file as they were."""
    small = zoo.card("lenet5").small
    first = zoo.build("lenet5", **small)
    first.save(tmp_path / "model.keras")
    others = [
        zoo.build("lenet5", **small),
        keras.models.clone_model(first),
        keras.models.load_model(tmp_path / "model.keras"),
    ]
    before = [numpy(v).copy() for v in first.variables]
    for variable in first.variables:
        variable.assign(numpy(variable) + 7)
    for other in others:
        for ours, theirs in zip(other.variables, before, strict=True):
            assert np.array_equal(numpy(ours), theirs)


@pytest.fixture
def mixed() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("mixed")
def test_mixed_precision_computes_in_16_bits_and_keeps_variables_in_32(trained: keras.Model) -> None:
    for training in (False, True):
        y = trained(noise(5, 8, 8, 2), training=training)
        assert keras.backend.standardize_dtype(y.dtype) == "bfloat16"
        assert np.isfinite(numpy(y).astype(np.float32)).all()
    assert {v.dtype for v in trained.trainable_variables} == {"float32"}
    assert {v.name: v.dtype for v in trained.non_trainable_variables} == {
        "moving_mean": "float32", "moving_variance": "float32", "step": "int32",
    }  # fmt: skip


@pytest.mark.usefixtures("mixed")
def test_mixed_precision_takes_statistics_in_32_bits() -> None:
    inputs = Input((4, 3))
    model = Model(inputs, layers.batch_norm(inputs, name="norm"))
    x = numpy(keras.ops.cast(100 + noise(64, 4, 3), "bfloat16")).astype(np.float32)  # nothing left to round
    model(x, training=True)
    rows = x.astype(np.float64).reshape(-1, 3)
    w = weights(model)
    assert off(w["moving_mean"], 0.1 * rows.mean(0)) <= BOUND
    assert off(w["moving_variance"], 0.9 + 0.1 * rows.var(0, ddof=1)) <= BOUND


@pytest.mark.usefixtures("mixed")
def test_mixed_precision_draws_the_same_weights() -> None:
    drawn = random.glorot_uniform.draw((0, "dense", "kernel"), (6, 5))
    layer = Model(x := Input((6,)), layers.dense(x, 5, name="dense")).get_layer("dense")
    assert np.array_equal(numpy(layer.kernel), drawn)


def test_the_old_name_of_learned_positions_warns_and_does_the_same() -> None:
    with pytest.warns(DeprecationWarning, match="learned_positions"):
        old = layers.learnt_positions(inputs := Input((4, 3)), 4, name="positions")
    new = layers.learned_positions(inputs, 4, name="positions")
    x = noise(2, 4, 3)
    assert np.array_equal(numpy(Model(inputs, old)(x)), numpy(Model(inputs, new)(x)))


@pytest.mark.once
def test_an_argument_s_old_name_warns_and_does_the_same() -> None:
    x, y = Input((3, 4)), Input((5, 6))
    with pytest.warns(DeprecationWarning, match="attention: the argument memory= is now encoder_output="):
        old = layers.attention(x, 2, memory=y, name="a")  # pyright: ignore[reportCallIssue]
    new = layers.attention(x, 2, encoder_output=y, name="a")
    a, b = noise(2, 3, 4), noise(2, 5, 6)
    ours, theirs = (numpy(Model([x, y], out)([a, b])) for out in (old, new))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 1), (2, 0)])
def test_a_depthwise_kernels_gradient_is_a_sum_over_the_shifted_images(stride: int, padding: int) -> None:
    backend, x, kernel = zoo.backends.current(), noise(2, 9, 8, 6), noise(3, 3, 1, 6)

    def loss(tensors: list) -> tuple:
        y = backend.conv(backend.tensor(x), tensors[0], None, stride=stride, padding=padding, groups=6)
        return keras.ops.sum(y * y) / 2, y

    _, y, (ours,) = backend.value_and_gradients(loss, [backend.tensor(kernel)])
    y, padded = numpy(y), np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    theirs = np.zeros(kernel.shape)
    for i, j in np.ndindex(3, 3):
        h, w = ((n - 1) * stride + 1 for n in y.shape[1:3])
        shifted = padded[:, i : i + h : stride, j : j + w : stride]
        theirs[i, j, 0] = (shifted * y).sum((0, 1, 2))
    assert off(ours, theirs) <= BOUND
