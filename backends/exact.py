"""The same bits on every framework: the contract's operations by the arithmetic of `exact_numbers`.

A fourth column beside `torch`, `tensorflow` and `jax`, in keras.ops. Each operation has its gradient here
too, by the same arithmetic: no framework's backward formula is used, only its chain of calls. Tensors between
the operations are float32 and fenced. Machine and tensors are left to the framework in use; an operation that
is missing here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from importlib import import_module
from math import ceil, log2
from typing import Any

import numpy as np
from zoo.backends import exact_numbers as numbers
from zoo.backends import load, start
from zoo.backends.exact_numbers import (
    BITS,
    constant,
    divide,
    grid,
    joined,
    keras_ops,
    narrow,
    parts,
    product,
    shares,
    sliced_product,
    sqrt,
    table,
    total,
    wide,
)

from zoo.errors import WrongConfiguration

Tensor = Any
MASKED = -1e30  # the score of a later key
# Of the framework in use, as they round nothing
DELEGATED = (
    "NAME", "version", "devices", "use_device", "on_device", "set_threads", "threads", "peak_memory",
    "set_deterministic", "use_tf32", "enable_float64", "float64", "synchronize", "clear_cache", "tensor",
    "empty", "from_numpy", "concrete_value", "stream", "custom_gradient", "value_and_gradients", "join",
)  # fmt: skip

_active: ContextVar[bool] = ContextVar("exact", default=False)


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    if name not in DELEGATED:
        raise WrongConfiguration(f"exact: {name} is not offered; leave exact out to use it")
    return getattr(_native(), name)


def _native() -> Any:
    """The module of the framework in use."""
    return load(start())


@contextmanager
def active() -> Iterator[None]:
    """Within, `zoo.backends.current()` is this module."""
    token = _active.set(True)
    try:
        yield
    finally:
        _active.reset(token)


def is_active() -> bool:
    """Whether the code runs within `active`."""
    return _active.get()


def program(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """`Backend.program`, which computes in float64 also after the run that made it."""
    run = _native().program(function, mode)

    def call(*arguments: Any) -> Any:
        with _native().float64():
            return run(*arguments)

    return call


def check_workers(mode: str, model: Any) -> None:
    if mode == "xla":
        raise WrongConfiguration(
            f"exact: mode={mode!r} with several workers: XLA compiles no sums over them; use 'graph'"
        )
    _native().check_workers(mode, model)


def _custom(function: Callable[..., tuple[Any, Callable]], *tensors: Tensor) -> Any:
    return _native().custom_gradient(function, *tensors)


# Elementwise


def fence(x: Tensor) -> Tensor:
    """Data from outside: float32, fenced; integers as they are."""
    ops = keras_ops()
    kind = str(x.dtype)
    return narrow(ops.cast(x, "float64")) if "float" in kind else x


def fork(x: Tensor, count: int) -> Sequence[Tensor]:
    """x for each of so many readers, whose gradients are added exactly."""

    def function(x: Tensor) -> tuple:
        def backward(*gradients: Tensor) -> Tensor:
            return narrow(total(keras_ops().stack(gradients), [0]))[0]

        return tuple(keras_ops().copy(x) for _ in range(count)), backward

    return (x,) if count == 1 else _custom(function, x)


def _reduced(gradient: Tensor, shape: Sequence[int]) -> Tensor:
    """The sum of a gradient over the axes along which a tensor of this shape was broadcast."""
    extra = len(gradient.shape) - len(shape)
    repeated = [i for i, n in enumerate(shape, extra) if n == 1 and gradient.shape[i] != 1]
    axes = [*range(extra), *repeated]
    summed = narrow(total(gradient, axes, batch=0 in axes)) if axes else gradient
    return keras_ops().reshape(summed, tuple(shape))


def add(x: Tensor, y: Tensor) -> Tensor:
    def function(x: Tensor, y: Tensor) -> tuple:
        x_shape, y_shape = tuple(x.shape), tuple(y.shape)

        def backward(gradient: Tensor) -> tuple:
            return _reduced(gradient, x_shape), _reduced(gradient, y_shape)

        return narrow(wide(x) + wide(y)), backward

    return _custom(function, x, y)


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """x y, of shapes that are broadcast."""

    def function(x: Tensor, y: Tensor) -> tuple:
        def backward(gradient: Tensor) -> tuple:
            of_x, of_y = narrow(wide(gradient) * wide(y)), narrow(wide(gradient) * wide(x))
            return _reduced(of_x, tuple(x.shape)), _reduced(of_y, tuple(y.shape))

        return narrow(wide(x) * wide(y)), backward

    return _custom(function, x, y)


def scaled(x: Tensor, factor: float) -> Tensor:
    """x times a constant, which is rounded to float32."""
    factor = constant(factor)

    def function(x: Tensor) -> tuple:
        return narrow(wide(x) * factor), lambda gradient: narrow(wide(gradient) * factor)

    return _custom(function, x)


def _elementwise(x: Tensor, value: Callable[[Tensor], tuple[Tensor, Callable[[], Tensor]]]) -> Tensor:
    """A function of one number: `value(x)` gives it and its slope."""

    def function(x: Tensor) -> tuple:
        y, slope = value(x)
        return y, lambda gradient: narrow(wide(gradient) * wide(slope()))

    return _custom(function, x)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); NaN stays."""
    return keras_ops().where(x <= 0, keras_ops().zeros((), "float32"), x)


def leaky_relu(x: Tensor, slope: float = 0.01) -> Tensor:
    """max(x, 0) + slope min(x, 0)."""
    return keras_ops().where(x < 0, scaled(x, slope), x)


def tanh(x: Tensor) -> Tensor:
    """tanh."""

    def value(x: Tensor) -> tuple:
        y = numbers.tanh(x)
        return y, lambda: narrow(1.0 - wide(y) * wide(y))

    return _elementwise(x, value)


def sigmoid(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""

    def value(x: Tensor) -> tuple:
        y = numbers.logistic(x)
        return y, lambda: narrow(wide(y) * wide(narrow(1.0 - wide(y))))

    return _elementwise(x, value)


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x)."""

    def value(x: Tensor) -> tuple:
        y = wide(numbers.logistic(x))

        def slope() -> Tensor:  # y + x y (1 - y)
            rest = wide(narrow(y * wide(narrow(1.0 - y))))
            return narrow(y + wide(x) * rest)

        return narrow(wide(x) * y), slope

    return _elementwise(x, value)


def square(x: Tensor) -> Tensor:
    """x^2."""
    return _elementwise(x, lambda x: (narrow(wide(x) * wide(x)), lambda: narrow(wide(x) * 2.0)))


def gelu(x: Tensor, *, approximate: bool) -> Tensor:
    return _elementwise(x, _gelu_tanh if approximate else _gelu)


def _gelu(x: Tensor) -> tuple:
    far = keras_ops().where(x > 14, 14 * keras_ops().ones((), "float32"), x)
    below = x < -14  # where x Phi(x) is below float32's range
    value = narrow(wide(x) * wide(narrow(table("normal")(wide(far)))))
    zero = keras_ops().zeros((), "float32")
    return keras_ops().where(below, zero, value), lambda: narrow(table("gelu_slope")(wide(far)))


ROOT_2_PI, CUBIC = constant((2 / np.pi) ** 0.5), constant(0.044715)


def _gelu_tanh(x: Tensor) -> tuple:
    """x (1 + t) / 2, t = tanh(u), u = r (x + c x^3)."""
    square = wide(narrow(wide(x) * wide(x)))
    inner = wide(narrow(1.0 + CUBIC * square))
    u = narrow(ROOT_2_PI * wide(narrow(wide(x) * inner)))
    t = wide(numbers.tanh(u))
    half = wide(narrow(1.0 + t)) * 0.5

    def slope() -> Tensor:  # (1 + t) / 2 + x (1 - t^2) / 2 r (1 + 3 c x^2)
        du = wide(narrow(ROOT_2_PI * wide(narrow(1.0 + constant(3 * 0.044715) * square))))
        dt = wide(narrow((1.0 - t * t) * 0.5))
        return narrow(half + wide(x) * wide(narrow(dt * du)))

    return narrow(wide(x) * half), slope


# Sums and products


def mean(x: Tensor, axes: Sequence[int], *, keepdims: bool = False) -> Tensor:
    """The mean over these axes."""
    axes = sorted(axis % len(x.shape) for axis in axes)

    def function(x: Tensor) -> tuple:
        shape = tuple(x.shape)
        part = _inverse(shape, axes)

        def backward(gradient: Tensor) -> Tensor:
            kept = [1 if i in axes else n for i, n in enumerate(shape)]
            each = narrow(wide(keras_ops().reshape(gradient, kept)) * part)
            return keras_ops().broadcast_to(each, shape)

        y = narrow(total(x, axes) * part)
        return (y if keepdims else keras_ops().squeeze(y, tuple(axes))), backward

    return _custom(function, x)


def add_up(x: Tensor, axes: Sequence[int], *, keepdims: bool = False) -> Tensor:
    """The sum over these axes."""
    axes = sorted(axis % len(x.shape) for axis in axes)

    def function(x: Tensor) -> tuple:
        shape = tuple(x.shape)

        def backward(gradient: Tensor) -> Tensor:
            kept = [1 if i in axes else n for i, n in enumerate(shape)]
            return keras_ops().broadcast_to(keras_ops().reshape(gradient, kept), shape)

        y = narrow(total(x, axes))
        return (y if keepdims else keras_ops().squeeze(y, tuple(axes))), backward

    return _custom(function, x)


def _inverse(shape: Sequence[int], axes: Sequence[int], *, batch: bool = False) -> float:
    """1 / count of the numbers along these axes, of all parts of a `batch`, in float32."""
    return constant(1 / (parts(batch=batch) * np.prod([shape[axis] for axis in axes])))


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """(..., m, k) x (..., k, n) -> (..., m, n)."""
    turn = partial(keras_ops().swapaxes, axis1=-1, axis2=-2)

    def function(a: Tensor, b: Tensor) -> tuple:
        def backward(gradient: Tensor) -> tuple:
            return narrow(product(gradient, turn(b))), narrow(product(turn(a), gradient))

        return narrow(product(a, b)), backward

    return _custom(function, a, b)


def dense(x: Tensor, kernel: Tensor, bias: Tensor | None, *, transposed: bool = False) -> Tensor:
    ops = keras_ops()
    kernel = ops.transpose(kernel) if transposed else kernel
    y = _affine(ops.reshape(x, (-1, x.shape[-1])), kernel, bias)
    return ops.reshape(y, (*x.shape[:-1], kernel.shape[-1]))


def _affine(x: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """x kernel + bias, rounded once."""

    def function(x: Tensor, kernel: Tensor, *bias: Tensor) -> tuple:
        def backward(gradient: Tensor) -> tuple:
            of_x = narrow(product(gradient, keras_ops().transpose(kernel)))
            of_kernel = narrow(product(keras_ops().transpose(x), gradient, batch=True))
            return of_x, of_kernel, *(_reduced(gradient, tuple(b.shape)) for b in bias)

        y = product(x, kernel)
        return narrow(y + wide(bias[0]) if bias else y), backward

    return _custom(function, x, kernel, *(() if bias is None else (bias,)))


def softmax(x: Tensor) -> Tensor:
    """Over the last axis."""

    def function(x: Tensor) -> tuple:
        e, z, _ = _exponentials(x)
        y = divide(e, z)

        def backward(gradient: Tensor) -> Tensor:  # y (g - sum y g)
            mixed = wide(narrow(total(narrow(wide(y) * wide(gradient)), [-1])))
            return narrow(wide(y) * wide(narrow(wide(gradient) - mixed)))

        return y, backward

    return _custom(function, x)


def _exponentials(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """exp(x - max), its sum, and x - max, over the last axis."""
    shifted = narrow(wide(x) - wide(keras_ops().max(x, axis=-1, keepdims=True)))
    e = numbers.exp(shifted)
    return e, narrow(total(e, [-1])), shifted


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float,
    drop: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    ops = keras_ops()
    query, key, value = (ops.swapaxes(x, 1, 2) for x in (query, key, value))  # (b, heads, n, d)
    scores = scaled(matmul(query, ops.swapaxes(key, -1, -2)), scale)
    scores = scores if bias is None else add(scores, bias)
    if causal:
        n = query.shape[2]
        scores = ops.where(np.tri(n, dtype=bool), scores, MASKED * ops.ones((), "float32"))
    weights = softmax(scores)
    return ops.swapaxes(matmul(weights if drop is None else drop(weights), value), 1, 2)


def drop(x: Tensor, keep: Tensor, factor: float) -> Tensor:
    """x times a factor where `keep`, else 0: dropout."""
    return keras_ops().where(keep, scaled(x, factor), keras_ops().zeros((), "float32"))


def embed(matrix: Tensor, ids: Tensor, *, batch: bool) -> Tensor:
    """(v, d), (...) -> (..., d): the rows of these numbers, which a `batch` has; their gradients are added
    exactly."""
    ops = keras_ops()

    def function(matrix: Tensor) -> tuple:
        rows, width = matrix.shape

        def backward(gradient: Tensor) -> Tensor:
            flat = wide(ops.reshape(gradient, (-1, width)))
            count = flat.shape[0] * parts(batch=batch)
            integers, unit = grid(flat, [0], BITS - ceil(log2(max(2, count))), batch=batch)
            # Not segment_sum, which adds in float32 on torch.
            index = ops.expand_dims(ops.cast(ops.reshape(ids, (-1,)), "int32"), 0)
            reads = ops.equal(index, np.arange(rows, dtype=np.int32)[:, None])  # (v, n)
            sums = joined(ops.cast(reads, "float64") @ integers, "sum", batch=batch)
            return narrow(sums * unit)

        return ops.take(matrix, ids, axis=0), backward

    return _custom(function, matrix)


# Windows of images


def _spans(length: int, size: int, stride: int) -> list[slice]:
    """For each tap of a window, the positions that it sees along an axis of that length."""
    last = stride * ((length - size) // stride) + 1
    return [slice(i, i + last, stride) for i in range(size)]


def _windows(x: Tensor, size: int, stride: int) -> list[Tensor]:
    """(b, h, w, c) -> for each tap of a window, row by row, the pixels that it sees (b, h', w', c)."""
    rows, columns = (_spans(n, size, stride) for n in x.shape[1:3])
    return [x[:, row, column] for row in rows for column in columns]


def _patches(x: Tensor, size: int, stride: int) -> Tensor:
    """(b, h, w, c) -> (b, h', w', k k c): `_windows` side by side, along each row first: faster."""
    ops = keras_ops()
    x = ops.concatenate([x[:, :, column] for column in _spans(x.shape[2], size, stride)], -1)
    return ops.concatenate([x[:, row] for row in _spans(x.shape[1], size, stride)], -1)


def _folded(taps: Sequence[Tensor], shape: Sequence[int], size: int, stride: int) -> Tensor:
    """The transpose of `_windows`: integers of each tap, added in an image of this shape."""
    ops = keras_ops()
    result = None
    for tap, (i, j) in zip(taps, np.ndindex(size, size), strict=True):
        tap = _dilated(tap, stride)
        above, left = shape[1] - i - tap.shape[1], shape[2] - j - tap.shape[2]
        tap = ops.pad(tap, ((0, 0), (i, above), (j, left), (0, 0)))
        result = tap if result is None else result + tap
    return result


def _sides(x: Tensor, padding: int) -> Tensor:
    """x with so many zeros around each image."""
    around = (padding, padding)
    return keras_ops().pad(x, ((0, 0), around, around, (0, 0))) if padding else x


def conv(
    x: Tensor, kernel: Tensor, bias: Tensor | None, *, stride: int, padding: int, groups: int = 1
) -> Tensor:
    ops = keras_ops()
    x = _sides(x, padding)
    if groups == 1:
        y = _conv(x, kernel, stride)
    elif kernel.shape[2] == 1 and groups == kernel.shape[3]:
        y = _depthwise(x, kernel, stride)
    else:
        raise WrongConfiguration(f"exact: a convolution of {groups} groups is not offered")
    return y if bias is None else add(y, ops.reshape(bias, (-1,)))


def _conv(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """(b, h, w, c) * (k, k, c, f) -> (b, h', w', f)."""

    def function(x: Tensor, kernel: Tensor) -> tuple:
        def backward(gradient: Tensor) -> tuple:
            of_x = _input_gradient(gradient, kernel, x.shape, stride)
            return of_x, _kernel_gradient(x, gradient, kernel.shape[0], stride)

        return _correlation(x, kernel, stride), backward

    return _custom(function, x, kernel)


def _correlation(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """The convolution's values: each image is on one grid, and so is each filter."""
    ops = keras_ops()
    size, _, inputs, filters = kernel.shape
    length = size * size * inputs
    p, q = shares(length)
    images, unit = grid(wide(x), [1, 2, 3], p)
    columns = _patches(images, size, stride)  # (b, h', w', k k c)
    shape = tuple(columns.shape[:3])
    weights = wide(ops.reshape(kernel, (length, filters)))
    sums = sliced_product(ops.reshape(columns, (-1, length)), weights, [0], q)
    return narrow(ops.reshape(sums, (*shape, filters)) * unit)


def _input_gradient(gradient: Tensor, kernel: Tensor, shape: Sequence[int], stride: int) -> Tensor:
    """Of `_conv` with respect to x: the gradient, zeros between its pixels, with the kernel turned around."""
    ops = keras_ops()
    size, gradient = kernel.shape[0], _dilated(gradient, stride)
    sides = [(size - 1, n - g) for n, g in zip(shape[1:3], gradient.shape[1:3], strict=True)]
    turned = ops.transpose(ops.flip(kernel, (0, 1)), (0, 1, 3, 2))
    return _correlation(ops.pad(gradient, ((0, 0), *sides, (0, 0))), turned, 1)


def _dilated(x: Tensor, stride: int) -> Tensor:
    """(b, h, w, c) with stride - 1 zeros between the pixels."""
    if stride == 1:
        return x
    ops, (b, h, w, c) = keras_ops(), x.shape
    x = ops.pad(
        ops.reshape(x, (b, h, 1, w, 1, c)), ((0, 0), (0, 0), (0, stride - 1), (0, 0), (0, stride - 1), (0, 0))
    )
    return ops.reshape(x, (b, h * stride, w * stride, c))[:, : stride * (h - 1) + 1, : stride * (w - 1) + 1]


def _kernel_gradient(x: Tensor, gradient: Tensor, size: int, stride: int) -> Tensor:
    """Of `_conv` with respect to the kernel: each channel of the images is on one grid."""
    ops = keras_ops()
    filters, inputs = gradient.shape[-1], x.shape[-1]
    p, q = shares(int(np.prod(gradient.shape[:3])), batch=True)
    pixels, unit = grid(wide(x), [0, 1, 2], p, batch=True)
    columns = _patches(pixels, size, stride)
    columns = ops.transpose(ops.reshape(columns, (-1, size * size * inputs)))
    sums = sliced_product(columns, wide(ops.reshape(gradient, (-1, filters))), [0], q, batch=True)
    return narrow(ops.reshape(sums, (size, size, inputs, filters)) * ops.reshape(unit, (1, 1, inputs, 1)))


def _depthwise(x: Tensor, kernel: Tensor, stride: int) -> Tensor:
    """(b, h, w, c) * (k, k, 1, c): the taps of each channel are added on its grid."""
    ops = keras_ops()
    size = kernel.shape[0]

    def function(x: Tensor, kernel: Tensor) -> tuple:
        p = q = (BITS - ceil(log2(size * size))) // 2

        def backward(gradient: Tensor) -> tuple:
            images, image_unit = grid(wide(gradient), [1, 2], p)
            weights, weight_unit = grid(wide(kernel), [0, 1], q)
            taps = [images * weights[i, j] for i, j in np.ndindex(size, size)]
            of_x = narrow(_folded(taps, x.shape, size, stride) * (image_unit * weight_unit))
            seen = _windows(x, size, stride)
            taps = ops.stack([narrow(wide(gradient) * wide(tap)) for tap in seen])
            return of_x, ops.reshape(narrow(total(taps, [1, 2, 3], batch=True)), kernel.shape)

        images, image_unit = grid(wide(x), [1, 2], p)
        weights, weight_unit = grid(wide(kernel), [0, 1], q)
        taps = zip(_windows(images, size, stride), np.ndindex(size, size), strict=True)
        y = sum(tap * weights[i, j] for tap, (i, j) in taps)
        return narrow(y * (image_unit * weight_unit)), backward

    return _custom(function, x, kernel)


def max_pool(x: Tensor, size: int, stride: int, padding: int) -> Tensor:
    """Of equal numbers the first of a window, row by row, is the maximum, and gets the gradient."""
    ops = keras_ops()
    if padding:
        around, lowest = (padding, padding), float(np.finfo(np.float32).min)
        x = ops.pad(x, ((0, 0), around, around, (0, 0)), constant_values=lowest)

    def function(x: Tensor) -> tuple:
        first, *rest = _windows(x, size, stride)
        y, winner = first, ops.zeros(first.shape, "int32")
        for i, tap in enumerate(rest, 1):
            better = ops.logical_or(tap > y, tap != tap)
            y, winner = ops.where(better, tap, y), ops.where(better, i, winner)

        def backward(gradient: Tensor) -> Tensor:
            return _pool_gradient(gradient, x.shape, size, stride, winner)

        return y, backward

    return _custom(function, x)


def average_pool(x: Tensor, size: int, stride: int) -> Tensor:
    part = constant(1 / size**2)

    def function(x: Tensor) -> tuple:
        images, unit = grid(wide(x), [1, 2], BITS - ceil(log2(max(2, size * size))))
        y = narrow(sum(_windows(images, size, stride)) * unit * part)

        def backward(gradient: Tensor) -> Tensor:
            return _pool_gradient(narrow(wide(gradient) * part), x.shape, size, stride)

        return y, backward

    return _custom(function, x)


def _pool_gradient(
    gradient: Tensor, shape: Sequence[int], size: int, stride: int, winner: Tensor | None = None
) -> Tensor:
    """The gradient at each tap of its window, or at the winning one, added where windows overlap."""
    ops = keras_ops()
    integers, unit = grid(wide(gradient), [1, 2], BITS - ceil(log2(max(2, size * size))))
    zero = ops.zeros((), "float64")
    taps = [integers if winner is None else ops.where(winner == i, integers, zero) for i in range(size**2)]
    return narrow(_folded(taps, shape, size, stride) * unit)


# Norms


def _normalized(
    x: Tensor, gamma: Tensor, beta: Tensor | None, axes: Sequence[int], epsilon: float, *, centre: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """(x - mean) / sqrt(variance + epsilon) gamma + beta over `axes`, and that mean and variance.

    Without `centre` the mean is 0. `gamma` and `beta` are (c,), of the last axis.
    """
    ops = keras_ops()
    batch, others = 0 in axes, list(range(len(x.shape) - 1))
    part = _inverse(x.shape, axes, batch=batch)

    def average(x: Tensor) -> Tensor:
        return wide(narrow(total(x, axes, batch=batch) * part))

    def function(x: Tensor, gamma: Tensor, *beta: Tensor) -> tuple:
        middle = average(x)
        centred = narrow(wide(x) - middle) if centre else x
        variance = average(narrow(wide(centred) * wide(centred)))
        root = sqrt(narrow(variance + constant(epsilon)))
        inverse = wide(divide(ops.ones_like(root), root))
        unit = wide(narrow(wide(centred) * inverse))
        y = unit * wide(gamma)
        y = narrow(y + wide(beta[0])) if beta else narrow(y)

        def backward(gradient: Tensor, *unused: Tensor) -> tuple:
            del unused
            inner = wide(narrow(wide(gradient) * wide(gamma)))
            along = average(narrow(inner * unit))
            rest = wide(narrow(inner - average(narrow(inner)))) if centre else inner
            of_x = narrow(wide(narrow(rest - wide(narrow(unit * along)))) * inverse)
            of_gamma = narrow(total(narrow(wide(gradient) * unit), others, batch=True))
            of_beta = [ops.reshape(narrow(total(gradient, others, batch=True)), (-1,))] if beta else []
            return of_x, ops.reshape(of_gamma, (-1,)), *of_beta

        return (y, narrow(middle), narrow(variance)), backward

    return _custom(function, x, gamma, *(() if beta is None else (beta,)))


def batch_norm(
    x: Tensor,
    gamma: Tensor,
    beta: Tensor,
    mean: Tensor,
    variance: Tensor,
    *,
    momentum: float,
    epsilon: float,
    training: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    ops = keras_ops()
    if not training:
        root = sqrt(narrow(wide(variance) + constant(epsilon)))
        factor = multiply(divide(ops.ones_like(root), root), gamma)
        return add(multiply(add(x, -mean), factor), beta), mean, variance
    axes = list(range(len(x.shape) - 1))
    count = int(np.prod(x.shape[:-1])) * parts(batch=True)
    y, batch_mean, batch_variance = _normalized(x, gamma, beta, axes, epsilon, centre=True)
    kept, new = constant(1 - momentum), constant(momentum)
    unbiased = constant(momentum * count / max(count - 1, 1))
    batch_mean, batch_variance = (wide(ops.reshape(s, (-1,))) for s in (batch_mean, batch_variance))
    mean = narrow(wide(mean) * kept + batch_mean * new)
    variance = narrow(wide(variance) * kept + batch_variance * unbiased)
    return y, ops.stop_gradient(mean), ops.stop_gradient(variance)


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, *, epsilon: float) -> Tensor:
    return _normalized(x, gamma, beta, [-1], epsilon, centre=True)[0]


def rms_norm(x: Tensor, gamma: Tensor, *, epsilon: float) -> Tensor:
    return _normalized(x, gamma, None, [-1], epsilon, centre=False)[0]


# Recurrence, by back-propagation through time


def lstm(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    ops = keras_ops()
    projected = ops.swapaxes(_projected(x, kernel, add(bias, recurrent_bias)), 0, 1)  # (n, b, 4u)
    outputs, cells = _custom(_lstm, projected, h, c, recurrent_kernel)
    return ops.swapaxes(outputs, 0, 1), outputs[-1], cells[-1]


def _projected(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """x kernel + bias. The last input is apart: in a padded sequence it has weights of 200, on whose grid the
    others would lose their digits."""
    ops = keras_ops()
    if kernel.shape[0] == 1:
        return add(multiply(x, ops.reshape(kernel, (-1,))), bias)
    last = multiply(x[..., -1:], kernel[-1])
    return add(dense(x[..., :-1], kernel[:-1], bias), last)


def lstm_cell(z: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """(b, 4u), (b, u) -> h and c after a step whose gates are these sums."""
    i, f, g, o = keras_ops().split(z, 4, -1)
    kept = multiply(sigmoid(f), c)
    c, shown = fork(add(kept, multiply(sigmoid(i), tanh(g))), 2)
    return multiply(sigmoid(o), tanh(shown)), c


def _lstm(projected: Tensor, h: Tensor, c: Tensor, kernel: Tensor) -> tuple:
    """(n, b, 4u), states (b, u) -> h and c at every step (n, b, u)."""
    ops = keras_ops()

    def forward(states: Sequence[Tensor], z: Tensor) -> Sequence[Tensor]:
        h, c, _ = states
        z = narrow(wide(z) + product(h, kernel))
        i, f, g, o = ops.split(z, 4, -1)
        i, f, o, g = (*map(numbers.logistic, (i, f, o)), numbers.tanh(g))
        c = narrow(wide(f) * wide(c) + wide(i) * wide(g))
        h = narrow(wide(o) * wide(numbers.tanh(c)))
        return h, c, ops.concatenate([i, f, g, o], -1)

    first = ops.zeros_like(projected[0])
    outputs, cells, gates = _native().scan(forward, (h, c, first), projected)

    def backward(of_outputs: Tensor, of_cells: Tensor) -> tuple:
        def back(states: Sequence[Tensor], now: Tensor) -> Sequence[Tensor]:
            dh, dc, _ = states
            of_h, of_c, cell, before, i, f, g, o = map(wide, ops.split(now, 8, -1))
            dh = wide(narrow(wide(dh) + of_h))
            t = wide(numbers.tanh(narrow(cell)))
            through = wide(narrow(o * wide(narrow(1.0 - t * t))))
            dc = wide(narrow(wide(dc) + of_c))
            dc = wide(narrow(dc + dh * through))
            found = []
            for own, value in ((g, i), (before, f)):
                found.append(narrow(wide(narrow(dc * own)) * _bell(value)))
            found.append(narrow(wide(narrow(dc * i)) * wide(narrow(1.0 - g * g))))
            found.append(narrow(wide(narrow(dh * t)) * _bell(o)))
            dz = ops.concatenate(found, -1)
            return narrow(product(dz, ops.transpose(kernel))), narrow(dc * f), dz

        previous = ops.concatenate([ops.expand_dims(c, 0), cells[:-1]])
        seen = [fence(of_outputs), fence(of_cells), cells, previous, gates]
        zero = ops.zeros_like(h)
        steps = ops.flip(ops.concatenate(seen, -1), 0)
        dh, dc, dz = _native().scan(back, (zero, zero, first), steps)
        dz = ops.flip(dz, 0)
        return dz, dh[-1], dc[-1], _recurrent_gradient(h, outputs, dz)

    return (outputs, cells), backward


def _bell(y: Tensor) -> Tensor:
    """y (1 - y), the slope of the logistic function, float64."""
    return wide(narrow(y * wide(narrow(1.0 - y))))


def _recurrent_gradient(h: Tensor, outputs: Tensor, dz: Tensor) -> Tensor:
    """Of the recurrent kernel: the states before each step (n, b, u), times its gradients."""
    ops = keras_ops()
    before = ops.concatenate([ops.expand_dims(h, 0), outputs[:-1]])
    before = ops.reshape(before, (-1, h.shape[-1]))
    return narrow(product(ops.transpose(before), ops.reshape(dz, (-1, dz.shape[-1])), batch=True))


def gru(
    x: Tensor,
    h: Tensor,
    kernel: Tensor,
    recurrent_kernel: Tensor,
    bias: Tensor,
    recurrent_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    ops = keras_ops()
    if recurrent_bias is None:
        raise WrongConfiguration("exact: a GRU that resets before the recurrent kernel is not offered")
    projected = ops.swapaxes(dense(x, kernel, bias), 0, 1)  # (n, b, 3u)
    outputs = _custom(_gru, projected, h, recurrent_kernel, recurrent_bias)
    return ops.swapaxes(outputs, 0, 1), outputs[-1]


def _gru(projected: Tensor, h: Tensor, kernel: Tensor, bias: Tensor) -> tuple:
    """(n, b, 3u), state (b, u) -> h at every step (n, b, u)."""
    ops = keras_ops()

    def forward(states: Sequence[Tensor], z: Tensor) -> Sequence[Tensor]:
        h, _ = states
        a, b, c = map(wide, ops.split(z, 3, -1))
        rest = narrow(product(h, kernel) + wide(bias))
        ra, rb, rc = map(wide, ops.split(rest, 3, -1))
        r, u = (wide(numbers.logistic(narrow(v))) for v in (a + ra, b + rb))
        new = wide(numbers.tanh(narrow(c + r * rc)))
        h = narrow(wide(narrow(1.0 - u)) * new + u * wide(h))
        return h, ops.concatenate([*map(narrow, (r, u, new, rc))], -1)

    first = ops.zeros((*h.shape[:-1], 4 * h.shape[-1]), "float32")
    outputs, seen = _native().scan(forward, (h, first), projected)

    def backward(of_outputs: Tensor) -> tuple:
        def back(states: Sequence[Tensor], now: Tensor) -> Sequence[Tensor]:
            of_h, before, r, u, new, rc = map(wide, ops.split(now, 6, -1))
            dh = wide(narrow(wide(states[0]) + of_h))
            da = narrow(wide(narrow(dh * wide(narrow(1.0 - u)))) * wide(narrow(1.0 - new * new)))
            du = narrow(wide(narrow(dh * wide(narrow(before - new)))) * _bell(u))
            dr = narrow(wide(narrow(wide(da) * rc)) * _bell(r))
            inner = ops.concatenate([dr, du, narrow(wide(da) * r)], -1)  # of h kernel + bias
            through = wide(narrow(product(inner, ops.transpose(kernel))))
            return narrow(through + dh * u), ops.concatenate([dr, du, da], -1), inner

        before = ops.concatenate([ops.expand_dims(h, 0), outputs[:-1]])
        steps = ops.flip(ops.concatenate([fence(of_outputs), before, seen], -1), 0)
        zero = ops.zeros_like(projected[0])
        dh, dz, inner = _native().scan(back, (ops.zeros_like(h), zero, zero), steps)
        dz, inner = ops.flip(dz, 0), ops.flip(inner, 0)
        of_bias = ops.reshape(narrow(total(inner, [0, 1], batch=True)), (-1,))
        return dz, dh[-1], _recurrent_gradient(h, outputs, inner), of_bias

    return outputs, backward


# Losses


def cross_entropy(labels: Tensor, logits: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    ops = keras_ops()
    classes = logits.shape[-1]
    if len(labels.shape) == len(logits.shape):
        targets, counted = fence(ops.cast(labels, "float32")), None
    else:
        counted = labels >= 0
        labels = ops.cast(ops.where(counted, labels, 0), "int32")
        targets = ops.cast(ops.expand_dims(labels, -1) == np.arange(classes, dtype=np.int32), "float32")
        counted = None if len(labels.shape) == 1 else ops.cast(counted, "float32")
    if label_smoothing:
        targets = narrow(wide(targets) * constant(1 - label_smoothing) + constant(label_smoothing / classes))
    if counted is not None:
        targets = ops.where(ops.expand_dims(counted, -1) > 0, targets, ops.zeros((), "float32"))
        count = ops.cast(joined(ops.sum(wide(counted)), "sum", batch=True), "float32")
        count = ops.maximum(count, 1.0)
    else:
        count = float(logits.shape[0] * parts(batch=True)) * ops.ones((), "float32")
    return _cross_entropy(targets, logits, count)


def _cross_entropy(targets: Tensor, logits: Tensor, count: Tensor) -> Tensor:
    """- sum targets log softmax(logits) / count."""
    ops = keras_ops()

    def function(logits: Tensor) -> tuple:
        e, z, shifted = _exponentials(logits)
        log_p = narrow(wide(shifted) - wide(numbers.log(z)))
        every = list(range(len(logits.shape)))
        rows = narrow(total(narrow(-wide(targets) * wide(log_p)), [-1]))
        loss = divide(ops.reshape(narrow(total(rows, every, batch=True)), ()), count)

        def backward(gradient: Tensor) -> Tensor:
            weight = narrow(total(targets, [-1]))
            expected = wide(narrow(wide(divide(e, z)) * wide(weight)))
            part = divide(gradient, count)
            return narrow(wide(narrow(expected - wide(targets))) * wide(part))

        return loss, backward

    return _custom(function, logits)


# Logarithms of probabilities in CTC, as integers: they are added exactly, and never below `NEVER`, that of 0
LOG_UNIT = 2.0**-30
NEVER = -(2.0**51)


def ctc_loss(labels: Tensor, logits: Tensor) -> Tensor:
    ops, (size, steps, classes) = keras_ops(), logits.shape
    zeros = ops.zeros((size, 1), "int32")
    pairs = ops.stack([ops.zeros_like(labels), labels], -1)
    path = ops.concatenate([ops.reshape(pairs, (size, -1)), zeros], 1)  # blanks around the labels
    places = np.arange(path.shape[1], dtype=np.int32)
    last = 2 * ops.sum(ops.cast(labels > 0, "int32"), axis=1, keepdims=True)
    count = float(size * parts(batch=True)) * ops.ones((), "float32")

    def function(logits: Tensor) -> tuple:
        e, z, shifted = _exponentials(logits)
        log_p = wide(narrow(wide(shifted) - wide(numbers.log(z))))
        index = ops.broadcast_to(ops.expand_dims(path, 1), (size, steps, len(places)))
        seen = _bounded(ops.round(ops.take_along_axis(log_p, index, axis=2) / LOG_UNIT), NEVER / 2)
        seen = ops.swapaxes(seen, 0, 1)  # (n, b, s)
        other = ops.logical_and(path[:, 2:] != path[:, :-2], path[:, 2:] != 0)
        never = ops.zeros_like(path[:, :2]) > 0
        before = _paths(seen, places == 0, ops.concatenate([never, other], 1))
        turned = ops.flip(ops.concatenate([other, never], 1), 1)
        after = ops.flip(_paths(ops.flip(seen, (0, 2)), ops.flip(places == last, 1), turned), (0, 2))
        ends = [ops.max(ops.where(places == last - i, before[-1], NEVER), axis=1) for i in (0, 1)]
        whole = _log_of_sum([*ends, ops.full_like(ends[0], NEVER)])  # (b,)
        possible = ops.logical_not(whole < NEVER / 2)
        losses = ops.where(possible, narrow(-whole * LOG_UNIT), float("inf") * ops.ones((), "float32"))

        def backward(gradient: Tensor) -> Tensor:
            weights = ops.swapaxes(narrow((before + after - seen - whole[:, None]) * LOG_UNIT), 0, 1)
            reads = ops.cast(ops.expand_dims(path, -1) == np.arange(classes, dtype=np.int32), "float32")
            found = wide(narrow(product(numbers.exp(weights), reads)))  # (b, n, classes)
            part = wide(divide(gradient, count))
            of_logits = narrow(wide(narrow(wide(divide(e, z)) - found)) * part)
            return ops.where(possible[:, None, None], of_logits, ops.zeros((), "float32"))

        return divide(ops.reshape(narrow(total(losses, [0], batch=True)), ()), count), backward

    return _custom(function, logits)


def _paths(seen: Tensor, start: Tensor, skips: Tensor) -> Tensor:
    """For each step and place (n, b, s) the sum of all paths that lead there from `start`: from the place
    itself, the one before and, where it `skips`, the one before that."""
    ops = keras_ops()
    first = ops.where(start, ops.zeros(seen.shape[1:], "float64"), NEVER)

    def forward(states: Sequence[Tensor], now: Tensor) -> Sequence[Tensor]:
        (own,) = states
        one, two = (ops.pad(own[:, :-i], ((0, 0), (i, 0)), constant_values=NEVER) for i in (1, 2))
        return (_bounded(_log_of_sum([own, one, ops.where(skips, two, NEVER)]) + now, NEVER),)

    (found,) = _native().scan(forward, (first,), seen)
    return found


def _log_of_sum(logs: Sequence[Tensor]) -> Tensor:
    """ln (e^a + e^b + ...), all in units of LOG_UNIT."""
    ops = keras_ops()
    logs = ops.stack(logs)
    largest = ops.max(logs, axis=0)
    sums = narrow(total(numbers.exp(narrow((logs - largest) * LOG_UNIT)), [0]))[0]
    return largest + ops.round(wide(numbers.log(sums)) / LOG_UNIT)


def _bounded(x: Tensor, low: float) -> Tensor:
    """At least `low`; NaN stays."""
    return keras_ops().where(x < low, low * keras_ops().ones((), "float64"), x)


# Training


def predictor(model: Any, mode: str) -> Callable[[Tensor], Tensor]:
    return _training().predictor(model, mode)


def step(model: Any, loss: Any, optimizer: Any, mode: str, scaling: Any = None) -> Any:
    return _training().ExactStep(model, loss, optimizer, mode, scaling)


def _training() -> Any:
    return import_module("zoo.backends.exact_training")
