"""The exact backend: its arithmetic against fractions and float64, its gradients, its training, its chain.

Property tests draw numbers of every exponent, cancelling sums, subnormals, infinities and NaN.
"""

import ast
import errno
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from conftest import NAME, numpy, python
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from zoo.backends import exact, exact_numbers, exact_training
from zoo.backends import load as load_backend

import zoo
from zoo import backends, layers, optimizers, random
from zoo._lazy import keras, ops
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.layers.recurrent import AttentionDecoder
from zoo.layers.transformer import Attention
from zoo.training import chain, verification

HERE = load_backend(NAME)
MODE = backends.EXACT_MODES[NAME][1 if NAME == "torch" else 0]  # torch's eager: nothing to record
FEW = settings(max_examples=25, deadline=None)
ULP = 2.0**-24
LEAST = 2.0**-126


@pytest.fixture(scope="module", autouse=True)
def float64() -> Iterator[None]:
    """JAX has float64 within these tests alone: others see what users have."""
    with HERE.float64():
        yield


def tensor(x: Any) -> Any:
    return HERE.tensor(np.asarray(x, np.float32))


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


finite = st.floats(-(2.0**60), 2.0**60, width=32, allow_subnormal=True)


def vectors(count: int) -> st.SearchStrategy[np.ndarray]:
    return arrays.arrays(np.float32, count, elements=finite)


# --- the fence ---


@given(st.floats(width=32, allow_subnormal=True))
@FEW
def test_the_fence_keeps_normal_numbers_and_makes_others_plus_zero(x: float) -> None:
    found = numpy(exact_numbers.narrow(exact_numbers.wide(tensor([x]))))[0]
    if abs(x) <= 2.0**-126:
        assert found == 0
        assert not np.signbit(found)
    else:
        assert found == np.float32(x) or (math.isnan(x) and math.isnan(found))


# --- sums and products, against fractions ---


@given(vectors(33))
@FEW
def test_a_sum_is_within_its_grid_of_the_true_one_in_every_order(x: np.ndarray) -> None:
    x = np.where(np.abs(x) <= 2.0**-126, np.float32(0), x)
    orders = [x, x[::-1], np.random.default_rng(0).permutation(x)]
    sums = {float(numpy(exact_numbers.total(tensor(each), [0]))[0]) for each in orders}
    assert len(sums) == 1
    true = sum(map(Fraction, map(float, x)), Fraction(0))
    bound = len(x) * Fraction(float(np.abs(x).max())) / 2**46  # 53 - 6 bits, of a power below the largest
    assert abs(Fraction(sums.pop()) - true) <= bound


@given(vectors(40), vectors(40))
@FEW
def test_a_product_is_within_its_grid_of_the_true_one_in_every_order(a: np.ndarray, b: np.ndarray) -> None:
    a, b = (np.where(np.abs(x) <= 2.0**-126, np.float32(0), x) for x in (a, b))
    found = set()
    for order in (np.arange(40), np.arange(40)[::-1], np.random.default_rng(1).permutation(40)):
        y = exact_numbers.product(tensor(a[order][None]), tensor(b[order][:, None]))
        found.add(float(numpy(y)[0, 0]))
    assert len(found) == 1
    true = sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(a, b, strict=True)), Fraction(0))
    largest = [Fraction(float(np.abs(x).max())) for x in (a, b)]
    bound = 40 * largest[0] * largest[1] * Fraction(1, 2**29)  # of 47 bits, 32 and twice 15
    assert abs(Fraction(found.pop()) - true) <= bound


@pytest.mark.parametrize("count", [1, 2, 3, 64, 1000, 1024, 1025, 4096])
def test_a_product_of_any_length_is_as_accurate_as_one_rounding(count: int) -> None:
    a, b = normal(20, count), normal(count, 20, seed=1)
    true, size = np.float64(a) @ np.float64(b), np.abs(np.float64(a)) @ np.abs(np.float64(b))
    found = numpy(exact_numbers.narrow(exact_numbers.product(tensor(a), tensor(b))))
    assert (np.abs(found - true) / size).max() < 1.05 * ULP


# A few lengths: JAX compiles its operations for each.
@given(
    st.sampled_from([1, 2, 3, 17, 256, 1025, 4096]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 120),
    st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_product_of_any_exponents_is_within_its_grid(k: int, seed: int, span: int, cancel: bool) -> None:
    """Numbers from subnormal to 2^127, sums that cancel; a row's largest is what its error is relative to."""
    rng = np.random.default_rng(seed)
    a, b = (np.ldexp(rng.uniform(-1, 1, k), rng.integers(-span, span // 8 + 1, k)) for _ in range(2))
    a, b = (np.float32(np.ldexp(x, int(rng.integers(-100, 100)))) for x in (a, b))
    if cancel and k > 1:
        half = k // 2
        a[half : 2 * half], b[half : 2 * half] = a[:half], -b[:half]
    a, b = (numpy(exact.fence(tensor(x))) for x in (a, b))
    order = rng.permutation(k)
    found, again = (
        float(numpy(exact_numbers.product(tensor(a[i][None]), tensor(b[i][:, None])))[0, 0])
        for i in (np.arange(k), order)
    )
    assert found == again
    true = sum((Fraction(float(p)) * Fraction(float(q)) for p, q in zip(a, b, strict=True)), Fraction(0))
    largest = Fraction(float(np.abs(a).max())) * Fraction(float(np.abs(b).max()))
    p, q = exact_numbers.shares(k)  # bits of one, and twice of the other
    bound = k * largest * (Fraction(2) ** (1 - p) + Fraction(2) ** (1 - 2 * q) + Fraction(2) ** -50)
    assert abs(Fraction(found) - true) <= bound


@given(st.sampled_from([1, 7, 301]), st.integers(0, 2**32 - 1), st.sampled_from([1, 5]))
@FEW
def test_gradients_of_an_embedding_are_added_in_any_order(n: int, seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, rows, n).astype(np.int32)
    weights = np.float32(np.ldexp(rng.uniform(-1, 1, (n, 2)), rng.integers(-30, 30, (n, 1))))
    half = n // 2  # cancels but for the last
    ids[half : 2 * half], weights[half : 2 * half] = ids[:half], -weights[:half]

    def gradient(order: np.ndarray) -> np.ndarray:
        def scalar(tables: list[Any]) -> tuple[Any, Any]:
            y = exact.embed(tables[0], HERE.tensor(ids[order]), batch=False)
            return ops.sum(y * tensor(weights[order])), y

        return numpy(HERE.value_and_gradients(scalar, [tensor(np.ones((rows, 2)))])[2][0])

    found = gradient(np.arange(n))
    assert found.tobytes() == gradient(rng.permutation(n)).tobytes()
    for row, column in np.ndindex(rows, 2):
        own = weights[:, column]
        true = float(sum(map(Fraction, map(float, own[ids == row])), Fraction(0)))
        assert abs(found[row, column] - true) <= ULP * abs(true) + n * np.abs(own).max() * 2.0**-43


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_infinity_and_nan_are_never_hidden(bad: float) -> None:
    a, b = normal(3, 8), normal(8, 4, seed=1)
    a[1, 2] = bad
    found = numpy(exact_numbers.narrow(exact_numbers.product(tensor(a), tensor(b))))
    assert np.isnan(found[1]).all()
    assert np.isfinite(found[[0, 2]]).all()
    assert np.isnan(numpy(exact_numbers.total(tensor(a[1]), [0]))).all()
    assert not np.isfinite(numpy(exact.relu(tensor([np.nan])))).any()
    pooled = numpy(exact.max_pool(tensor(np.full((1, 2, 2, 1), np.nan)), 2, 2, 0))
    assert np.isnan(pooled).all()


def test_a_row_of_zeros_and_an_example_alone_or_among_others() -> None:
    a, b = normal(5, 30), normal(30, 7, seed=1)
    a[2] = 0
    together = numpy(exact_numbers.narrow(exact_numbers.product(tensor(a), tensor(b))))
    alone = numpy(exact_numbers.narrow(exact_numbers.product(tensor(a[1:2]), tensor(b))))
    assert not together[2].any()
    assert together[1].tobytes() == alone[0].tobytes()


# --- functions, against mpmath ---

FUNCTIONS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], float, float]] = {
    # ours, mpmath's, and the limits at -infinity and infinity
    "exp": (exact_numbers.exp, mpmath.exp, 0, math.inf),
    "log": (exact_numbers.log, mpmath.log, math.nan, math.nan),
    "tanh": (exact_numbers.tanh, mpmath.tanh, -1, 1),
    "logistic": (exact_numbers.logistic, lambda x: 1 / (1 + mpmath.exp(-x)), 0, 1),
    "sqrt": (exact_numbers.sqrt, mpmath.sqrt, math.nan, math.inf),
}
anything = st.floats(width=32, allow_subnormal=True, allow_nan=False, allow_infinity=False)
near_zero_and_one = st.one_of(st.floats(-20, 20, width=32), st.floats(0.5, 2, width=32))


def true_value(function: Callable[[Any], Any], x: float) -> float:
    """Of the fenced x, by mpmath with 40 digits: a float64, or NaN where it is no real number or infinite."""
    with mpmath.workdps(40):
        try:
            y = function(mpmath.mpf(x if abs(x) > LEAST else 0.0))
        except ValueError:
            return math.nan
        return float(y) if isinstance(y, mpmath.mpf) and mpmath.isfinite(y) else math.nan


@pytest.mark.parametrize("name", FUNCTIONS)
@given(arrays.arrays(np.float32, 20, elements=st.one_of(anything, near_zero_and_one)))
@FEW
def test_a_function_is_accurate_to_rounding(name: str, x: np.ndarray) -> None:
    function, true, _, _ = FUNCTIONS[name]
    x = numpy(exact.fence(tensor(x)))
    found = numpy(function(tensor(x)))
    for value, y in zip(map(float, x), map(float, found), strict=True):
        expected = true_value(true, value)
        if abs(expected) >= 2.0**128:
            assert y == math.copysign(math.inf, expected)
        elif math.isnan(expected):
            assert math.isnan(y)
        else:
            assert abs(y - expected) <= 2.5 * ULP * abs(expected) + LEAST


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_keeps_nan_and_has_its_limits(name: str) -> None:
    function, _, low, high = FUNCTIONS[name]
    found = numpy(function(tensor([np.nan, -np.inf, np.inf])))
    np.testing.assert_array_equal(found, np.float32([np.nan, low, high]))


@given(vectors(20), vectors(20))
@FEW
def test_a_quotient_is_within_one_rounding(x: np.ndarray, y: np.ndarray) -> None:
    x, y = (numpy(exact.fence(tensor(v))) for v in (x, y))
    y = np.where(y == 0, np.float32(1), y)
    for a, b, found in zip(x, y, numpy(exact_numbers.divide(tensor(x), tensor(y))), strict=True):
        true = Fraction(float(a)) / Fraction(float(b))
        if np.isinf(found):
            assert abs(true) > float(np.finfo(np.float32).max)
            continue
        assert abs(Fraction(float(found)) - true) <= abs(true) * Fraction(1.01 * ULP) + Fraction(LEAST)


@pytest.mark.parametrize("approximate", [False, True])
@given(arrays.arrays(np.float32, 20, elements=near_zero_and_one))
@FEW
def test_gelu_is_accurate_to_rounding(approximate: bool, x: np.ndarray) -> None:
    def true(x: Any) -> Any:
        if approximate:
            return x * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf("0.044715") * x**3))) / 2
        return x * mpmath.ncdf(x)

    x = numpy(exact.fence(tensor(x)))
    expected = np.array([true_value(true, float(v)) for v in x])
    found = numpy(exact.gelu(tensor(x), approximate=approximate))
    assert (np.abs(found - expected) <= 4 * ULP * np.maximum(np.abs(x), LEAST)).all()


CARRIERS: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: exact.add(x, x * 0 + 1),
    "multiply": lambda x: exact.multiply(x, x * 0),
    "square": exact.square,
    "leaky relu": lambda x: exact.leaky_relu(x + x),
    "sigmoid": exact.sigmoid,
    "silu": exact.silu,
    "gelu": lambda x: exact.gelu(x, approximate=False),
    "tanh gelu": lambda x: exact.gelu(x, approximate=True),
    "mean": lambda x: exact.mean(x, [-1]),
    "sum": lambda x: exact.add_up(x, [-1]),
    "softmax": exact.softmax,
    "layer norm": lambda x: exact.layer_norm(x, tensor(np.ones(4)), tensor(np.zeros(4)), epsilon=1e-5),
    "rms norm": lambda x: exact.rms_norm(x, tensor(np.ones(4)), epsilon=1e-5),
    "product": lambda x: exact.dense(x, tensor(np.eye(4)), None),
    "convolution": lambda x: exact.conv(
        x[None, None], tensor(np.ones((1, 1, 4, 1))), None, stride=1, padding=0
    ),
    "average pool": lambda x: exact.average_pool(x[None, ..., None], 2, 1),
    "cross-entropy": lambda x: exact.cross_entropy(HERE.tensor(np.zeros(2, np.int32)), x),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_nan_goes_through_every_operation(name: str) -> None:
    x = normal(2, 4)
    x[0, 1] = np.nan
    assert np.isnan(numpy(CARRIERS[name](tensor(x)))).any()


# --- gradients, against the framework's own ---


def _conv(of: Any, stride: int, padding: int, groups: int = 1) -> Callable[..., Any]:
    return lambda x, k: of.conv(x, k, None, stride=stride, padding=padding, groups=groups)


OPERATIONS: dict[str, tuple[Callable[[Any], Callable[..., Any]], list[tuple[int, ...]]]] = {
    "dense": (lambda of: of.dense, [(8, 30), (30, 12), (12,)]),
    "conv": (lambda of: _conv(of, 1, 1), [(4, 9, 9, 3), (3, 3, 3, 5)]),
    "strided conv": (lambda of: _conv(of, 2, 1), [(4, 8, 8, 3), (3, 3, 3, 5)]),
    "depthwise conv": (lambda of: _conv(of, 2, 1, 6), [(4, 9, 9, 6), (3, 3, 1, 6)]),
    "overlapping max pool": (lambda of: lambda x: of.max_pool(x, 3, 2, 1), [(4, 9, 9, 6)]),
    "average pool": (lambda of: lambda x: of.average_pool(x, 2, 2), [(4, 8, 8, 6)]),
    "layer norm": (lambda of: lambda *x: of.layer_norm(*x, epsilon=1e-5), [(4, 3, 16), (16,), (16,)]),
    "rms norm": (lambda of: lambda *x: of.rms_norm(*x, epsilon=1e-5), [(4, 3, 16), (16,)]),
    "gelu": (lambda of: lambda x: of.gelu(x, approximate=False), [(200,)]),
    "tanh gelu": (lambda of: lambda x: of.gelu(x, approximate=True), [(200,)]),
    "attention": (lambda of: lambda *x: of.attention(*x, causal=True, scale=0.5), [(2, 7, 3, 4)] * 3),
    "lstm": (
        lambda of: lambda x, *w: of.lstm(x, ops.zeros((3, 5)), ops.zeros((3, 5)), *w)[0],
        [(3, 6, 4), (4, 20), (5, 20), (20,), (20,)],
    ),
    "gru": (
        lambda of: lambda x, *w: of.gru(x, ops.zeros((3, 5)), *w)[0],
        [(3, 6, 4), (4, 15), (5, 15), (15,), (15,)],
    ),
    "cross-entropy": (
        lambda of: lambda x: of.cross_entropy(HERE.tensor(np.array([1, 2, 3, 0], np.int32)), x),
        [(4, 5)],
    ),
    # Labels that repeat, are padded or too long, and none at all
    "CTC": (
        lambda of: (
            lambda x: of.ctc_loss(HERE.tensor(np.array([[1, 2, 2], [3, 0, 0], [0, 0, 0]], np.int32)), x)
        ),
        [(3, 7, 5)],
    ),
    "masked, smoothed cross-entropy": (
        lambda of: (
            lambda x: of.cross_entropy(
                HERE.tensor(np.array([[1, 2], [3, -1]], np.int32)), x, label_smoothing=0.1
            )
        ),
        [(2, 2, 5)],
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_and_its_gradients_are_the_frameworks_to_rounding(name: str) -> None:
    operation, shapes = OPERATIONS[name]
    inputs = [normal(*shape, seed=i) for i, shape in enumerate(shapes)]

    def results(of: Any) -> list[np.ndarray]:
        def scalar(tensors: list[Any]) -> tuple[Any, Any]:
            y = operation(of)(*tensors)
            weights = np.cos(np.arange(math.prod(y.shape), dtype=np.float32)).reshape(tuple(y.shape))
            return ops.sum(y * tensor(weights)), y

        program = HERE.program(lambda own: HERE.value_and_gradients(scalar, own), MODE)
        _, y, gradients = program(list(map(tensor, inputs)))
        return [numpy(x) for x in (y, *gradients)]

    for ours, theirs in zip(results(exact), results(HERE), strict=True):
        assert np.abs(ours - theirs).max() <= 3e-6 * np.abs(theirs).max()


def test_gradients_of_a_bias_that_examples_share_are_added_exactly() -> None:
    layer: Any = Attention(heads=1, causal=False, scaled=True, dropout_rate=0.0)
    x, weights, mask = normal(40, 3, 4), normal(40, 3, 4, seed=1), np.ones((40, 3), np.int32)

    def gradient(order: np.ndarray) -> np.ndarray:
        q, w, m = tensor(x[order]), tensor(weights[order]), HERE.tensor(mask[order])

        def scalar(bias: list[Any]) -> tuple[Any, Any]:
            y = exact_training.rule(layer)(q, q, q, padding_mask=m, bias=bias[0])
            return ops.sum(exact.multiply(y, w)), y

        with exact.active():
            return numpy(HERE.value_and_gradients(scalar, [tensor(normal(1, 1, 3, 3, seed=2))])[2][0])

    found = gradient(np.arange(40))
    assert all(
        found.tobytes() == gradient(np.random.default_rng(i).permutation(40)).tobytes() for i in range(3)
    )


def test_a_decoder_with_attention_is_the_ordinary_one_to_rounding() -> None:
    layer: Any = AttentionDecoder(units=3, initializer=random.uniform(0.5), name="decoder")
    shapes = (2, 2, 4), (2, 5, 6), (2, 3), (2, 3)  # x, encoder output, h, c
    inputs, lengths = [normal(*shape, seed=i) for i, shape in enumerate(shapes)], np.array([5, 3], np.int32)

    def results(call: Callable[..., Any]) -> list[np.ndarray]:
        def scalar(tensors: list[Any]) -> tuple[Any, Any]:
            x, encoder_output, h, c = tensors[:4]
            weights = list(zip(layer.trainable_variables, tensors[4:], strict=True))
            with keras.StatelessScope(state_mapping=weights):
                y = call(x, encoder_output, HERE.tensor(lengths), h, c)
            return ops.sum(y * tensor(normal(*y.shape, seed=9))), y

        own = [*map(tensor, inputs), *(tensor(numpy(v)) for v in layer.trainable_variables)]
        program = HERE.program(lambda own: HERE.value_and_gradients(scalar, own), MODE)
        _, y, gradients = program(own)
        return [numpy(x) for x in (y, *gradients)]

    layer.build(*shapes[:2])
    theirs = results(layer)
    with exact.active():
        ours = results(exact_training.rule(layer))
    for a, b in zip(ours, theirs, strict=True):
        assert np.abs(a - b).max() <= 3e-6 * np.abs(b).max()


def test_the_first_of_equal_numbers_is_the_maximum() -> None:
    x = tensor(np.ones((1, 2, 2, 1)))
    _, _, (gradient,) = HERE.value_and_gradients(
        lambda xs: (ops.sum(exact.max_pool(xs[0], 2, 2, 0)), xs[0]), [x]
    )
    assert numpy(gradient).ravel().tolist() == [1, 0, 0, 0]


# --- training ---


def train(**options: Any) -> zoo.Run:
    options = {"exact": True, "mode": MODE, "steps": 4, "batch_size": 32, **options}
    return zoo.train("mlp", progress=False, **options)


OPTIMIZERS = {
    "SGD": {"weight_decay": 0.01},
    "Momentum": {"nesterov": True, "weight_decay": 0.01, "global_clipnorm": 0.5},
    "Adam": {"amsgrad": True, "clipnorm": 0.1},
    "AdamW": {"use_ema": True, "ema_momentum": 0.9, "clipvalue": 0.01},
    "LAMB": {"gradient_accumulation_steps": 2},
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_is_the_ordinary_one_to_rounding(name: str) -> None:
    def weights(*, exactly: bool) -> list[np.ndarray]:
        optimizer = getattr(optimizers, name)(0.01, **OPTIMIZERS[name])
        options = {} if exactly else {"exact": False, "mode": None}
        return [numpy(v) for v in train(optimizer=optimizer, **options).model.trainable_variables]

    for ours, theirs in zip(weights(exactly=True), weights(exactly=False), strict=True):
        # Adam's first updates divide a gradient by its own size, however small it is.
        assert np.abs(ours - theirs).mean() < 1e-6
        assert np.abs(ours - theirs).max() < 1e-3


def test_a_layer_that_is_called_several_times_gets_all_its_gradients() -> None:
    def weights(*, exactly: bool) -> list[np.ndarray]:
        x = layers.Input((4,))
        table = layers.shared_embedding(4, 4, name="table")  # its logits are x times the table's transpose
        shift = layers.parameter(x, (4,), name="shift")
        model = layers.Model(x, table.logits(table.logits(table.logits(x)), shift))
        data = normal(16, 4), np.arange(16, dtype=np.int32) % 4
        sgd = optimizers.SGD(0.1)
        zoo.train(model, data, steps=2, batch_size=8, optimizer=sgd, exact=exactly, progress=False)
        return [numpy(v) for v in sorted(model.variables, key=lambda v: v.path)]

    (shift, table), theirs = weights(exactly=True), weights(exactly=False)
    assert np.abs(shift - theirs[0]).max() < 1e-5 * np.abs(theirs[0]).max()
    assert np.abs(table - theirs[1]).max() < 1e-5 * np.abs(theirs[1]).max()
    assert np.abs(table - numpy(layers.shared_embedding(4, 4, name="table")(np.arange(4)))).max() > 1e-2


def test_a_resumed_run_has_the_bits_of_one_that_was_not_interrupted(tmp_path: Path) -> None:
    optimizer = {"optimizer": optimizers.AdamW(0.01, use_ema=True, gradient_accumulation_steps=3)}
    whole = train(steps=7, **optimizer)
    train(steps=4, checkpoint=tmp_path / "run.safetensors", **optimizer)
    resumed = train(steps=7, resume=tmp_path / "run.safetensors", batch_size=None, **optimizer)
    assert resumed.losses == whole.losses
    assert chain.of_variables(resumed.model) == chain.of_variables(whole.model)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("mlp", {"engine": "keras", "mode": None}, "keras engine"),
        ("mlp", {"dtype": "mixed_bfloat16"}, "mixed_bfloat16"),
        ("mlp", {"loss": len}, "the loss <built-in function len>"),
        ("mlp", {"optimizer": optimizers.SGD(0.1, loss_scale_factor=8.0)}, "loss_scale_factor"),
    ],
)
def test_what_is_not_exact_is_refused_by_name(model: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        zoo.train(model, exact=True, steps=1, progress=False, **options)


def test_an_operation_that_is_missing_is_refused_by_name() -> None:
    with pytest.raises(WrongConfiguration, match="local_response_norm"):
        exact.local_response_norm(None)
    assert not backends.is_exact()


# --- the chain ---


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "mlp"
    train(steps=27, out=folder)
    return folder


def test_a_run_is_repeated_with_the_same_bits(saved: Path) -> None:
    assert zoo.verify(saved) == verification.Verdict(27)


def test_a_run_is_repeated_whatever_it_saved_and_with_the_steps_it_was_resumed_for(tmp_path: Path) -> None:
    folder = tmp_path / "mlp"
    train(steps=2, out=folder, keep_best="accuracy")
    train(steps=3, out=folder, keep_best="accuracy", resume=folder, batch_size=None)
    assert zoo.verify(folder) == verification.Verdict(3)


def test_a_full_disk_does_not_end_a_run_by_its_chain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(chain.Chain, "write", full)
    assert len(train(steps=2, out=tmp_path / "mlp").losses) == 2
    assert "its chain is not saved: [Errno 28] No space left" in caplog.text


def test_a_flipped_bit_in_memory_is_found_at_its_step(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    step = exact_training.ExactStep.__call__

    def flipping(self: Any, *batch: Any) -> Any:
        loss = step(self, *batch)
        if self.updater.batches == 5:  # the lowest bit of one weight
            bits = numpy(self.state[0][0]).copy().view(np.int32)
            bits[3, 1] ^= 1
            self.state[0][0] = HERE.tensor(bits.view(np.float32))
        return loss

    monkeypatch.setattr(exact_training.ExactStep, "__call__", flipping)
    assert zoo.verify(saved) == verification.Verdict(4, "step 5: the weights or the optimizer state")


@pytest.mark.parametrize("flips", [4, pytest.param(40, marks=pytest.mark.parity)])  # at each step
def test_flipped_bits_in_memory_are_found_at_their_steps(
    saved: Path, monkeypatch: pytest.MonkeyPatch, flips: int
) -> None:
    on_step, rng, found = verification._Comparer.on_step, np.random.default_rng(0), []

    def flipped(x: Any) -> np.ndarray:
        x = numpy(x).copy()
        x.reshape(-1).view(np.uint8)[rng.integers(x.nbytes)] ^= np.uint8(1 << rng.integers(8))
        return x

    def flipping(self: Any, loss: float) -> Any:
        self.run.trainer.sync()
        slots = self.run.trainer.step.updater.slots
        for i in range(flips):
            variable = self.run.model.variables[rng.integers(len(self.run.model.variables))]
            kind = rng.choice(list(slots))
            before = [numpy(variable).copy(), slots[kind]]
            if i % 2:
                variable.assign(flipped(before[0]))
            else:
                at = rng.integers(len(before[1]))
                slots[kind] = [HERE.tensor(flipped(x)) if j == at else x for j, x in enumerate(before[1])]
            link = chain.Chain({}, self.chain.links).add(loss, chain.of_run(self.run))
            found.append(bool(verification._difference(link, self.saved[len(self.chain.links)])))
            variable.assign(before[0])
            slots[kind] = before[1]
        return on_step(self, loss)

    monkeypatch.setattr(verification._Comparer, "on_step", flipping)
    assert zoo.verify(saved) == verification.Verdict(27)
    assert len(found) == flips * 27
    assert all(found)


def test_a_flipped_bit_in_the_file_is_found_at_its_step(saved: Path) -> None:
    links = json.loads((saved / chain.FILE).read_text())
    rng, found = np.random.default_rng(0), 0
    for _ in range(1000):
        step = int(rng.integers(27))
        link = dict(links["links"][step])
        name = str(rng.choice(["loss", "hash"]))
        text = bytearray(link[name].encode())
        text[rng.integers(len(text))] ^= 1 << int(rng.integers(7))
        link[name] = text.decode("ascii")
        changed = [*links["links"][:step], link, *links["links"][step + 1 :]]
        found += chain.Chain(links["options"], changed).broken() == step + 1
    assert found == 1000


def test_a_folder_without_a_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match=r"chain\.json"):
        zoo.verify(tmp_path)


# --- the frameworks ---

RUN = """
import zoo
from zoo.training.chain import fingerprint
from keras import ops
name, mode, threads = "{arguments}".split()
zoo.use(name, threads=int(threads), exact=True)
run = zoo.train("{model}", steps={steps}, mode=mode, progress=False)
(x, _), *_ = run.task.held_out(512)
weights = [ops.convert_to_numpy(v) for v in run.model.variables]
print(fingerprint([*weights, run.losses, run.trainer.predict(x)]))
"""
RUNS = [
    ("torch", "eager", 1), ("torch", "traced", 2), ("jax", "jit", 1), ("jax", "jit", 2),
    ("tensorflow", "graph", 1), ("tensorflow", "xla", 2),
]  # fmt: skip


STEPS = {"mlp": 25, "lenet5": 5}


@pytest.mark.parity
@pytest.mark.parametrize("model", STEPS)
def test_training_has_one_hash(model: str) -> None:
    hashes = set()
    for name, mode, threads in RUNS:
        if name in backends.installed():
            code = RUN.format(model=model, steps=STEPS[model], arguments=f"{name} {mode} {threads}")
            hashes.add(python(code, KERAS_BACKEND=name, OMP_NUM_THREADS=str(threads)).splitlines()[-1])
    assert len(hashes) == 1


RESUMED = """
import zoo
from zoo.training.chain import fingerprint
name, threads, steps, resume, save = "{arguments}".split()
zoo.use(name, threads=int(threads), exact=True)
more = dict(resume=resume) if resume != "-" else dict(batch_size=32, ema=0.9, accumulate=2, clip_norm=0.5)
run = zoo.train("mlp", steps=int(steps), checkpoint=save, schedule="WarmupDecay(0.001, 5, 20)",
                mode="eager" if name == "torch" else None, progress=False, **more)
print(fingerprint([run.losses, *map(zoo._lazy.ops.convert_to_numpy, run.model.variables)]))
"""


@pytest.mark.parity
def test_a_run_resumed_on_other_frameworks_has_the_bits_of_one_that_was_not_interrupted(
    tmp_path: Path,
) -> None:
    """Among the batches of an update, with other threads, an average of the weights and clipping."""

    def trained(*arguments: object) -> str:
        code = RESUMED.format(arguments=" ".join(map(str, arguments)))
        return python(code, KERAS_BACKEND=str(arguments[0])).splitlines()[-1]

    files = [tmp_path / f"{i}.safetensors" for i in range(4)]
    whole = trained("torch", 4, 20, "-", files[3])
    trained("torch", 1, 9, "-", files[0])
    trained("jax", 4, 15, files[0], files[1])
    assert trained("tensorflow", 2, 20, files[1], files[2]) == whole


@pytest.mark.parity
def test_an_exact_comparison_says_so() -> None:
    from zoo.report.words import Evidence, findings

    result = zoo.compare("mlp", exact=True, steps=3, threads=1, out=None)
    assert len(result.runs) == sum(len(backends.EXACT_MODES[name]) for name in backends.installed())
    assert len({run["hash"] for run in result.runs}) == 1
    headline = next(iter(findings(Evidence(result["models"][0], result))))  # pyright: ignore[reportArgumentType]
    assert "the same bits" in headline


def test_exact_is_off_after_a_run() -> None:
    assert not backends.is_exact()
    assert backends.current() is HERE
    assert os.environ["KERAS_BACKEND"] == keras.backend.backend()


AFTER = """
import zoo
from zoo._lazy import ops
from zoo.training.chain import fingerprint

def train(**options):
    run = zoo.train("mlp", "digits", steps=12, learning_rate=0.003, seed=4, progress=False, **options)
    return fingerprint([*map(ops.convert_to_numpy, run.model.variables), run.losses])

print([train(), train(exact=True), train()])
"""


@pytest.mark.skipif(NAME != "jax", reason="the others have float64 in any case")
def test_a_run_after_an_exact_one_has_the_bits_of_one_before() -> None:
    """In a process of its own, which this file has not set to 64 bits."""
    done = subprocess.run([sys.executable, "-c", AFTER], capture_output=True, text=True, check=True)
    before, exact, after = ast.literal_eval(done.stdout.splitlines()[-1])
    assert before == after != exact
