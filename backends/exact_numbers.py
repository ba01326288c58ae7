"""Arithmetic with the same bits everywhere: float32 between operations, float64 inside them.

A framework may add in any order, fuse a product with a sum, vectorize, or call its own exp. Each of these
changes the last bits of a result. Here nothing that is free to vary can reach a result, by three rules.

1. The fence. An operation takes float32 numbers and computes in float64. Two of them, of 24 bits each, have
   a product of at most 48, which float64's 53 hold exactly: whether a processor rounds it before it adds to
   it (two instructions) or not (a fused one) makes no difference. What is rounded leaves through `narrow`: a
   cast to float32, and numbers of magnitude 2^-126 or less become +0, since some frameworks flush subnormals
   and others do not. No compiler moves arithmetic across it.
2. The grid. Integers below 2^53 are added exactly in float64, in any order. `grid` rounds numbers to integer
   multiples of a common power of two, found from the largest of them, with as many bits as their number
   leaves: n numbers of 53 - log2 n bits have an exact sum (Demmel and Nguyen 2015, "Parallel reproducible
   summation"). For a matrix product both factors are rounded so that p + q + log2 k <= 53, and the
   framework's own float64 product is exact, whatever its blocking and threads; the second factor is in two
   slices of q bits (Ozaki et al. 2012, "Error-free transformations of matrix multiplication").
3. The table. exp, log, tanh, the logistic and the normal distribution are third-order expansions around
   points of a table, f(a) + s (c1 + s (c2 + s c3)), each inner value fenced; the entries are from Python's
   `decimal`, which is correctly rounded. Division and square root are those of IEEE 754.

Infinity and NaN are never hidden: a sum or product that has one of them among its numbers is NaN.

Several workers agree on the largest number of a sum over the batch, and add their integers: exact again, and
the same as of one process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from importlib import import_module
from math import ceil, log2, prod
from typing import Any

import numpy as np
from zoo.backends.world import get_world, part

Tensor = Any
LEAST = 2.0**-126  # the smallest normal float32
BITS = 53  # of float64


def keras_ops() -> Any:
    """keras.ops, imported with the framework."""
    return import_module("keras.ops")


# The fence


def wide(x: Tensor) -> Tensor:
    """float32 -> float64."""
    return keras_ops().cast(x, "float64")


def narrow(x: Tensor) -> Tensor:
    """float64 -> float32, rounded to nearest; magnitudes up to 2^-126, and -0, become +0."""
    ops = keras_ops()
    x = ops.cast(x, "float32")
    return ops.where(ops.abs(x) <= LEAST, ops.zeros((), "float32"), x)


def constant(value: float) -> float:
    """A number rounded to float32, as a factor of float32 tensors."""
    return float(np.float32(value))


# The grid


def power_of_two(x: Tensor) -> Tensor:
    """The largest power of two up to x >= 0, float64; 0 for 0, infinity for infinity and NaN."""
    ops = keras_ops()
    return ops.view(ops.view(x, "int64") & 0x7FF0000000000000, "float64")


def parts(*, batch: bool) -> int:
    """How many workers add numbers of their own: those of a batch's equal parts, if its rows are added."""
    return part().of if batch else 1


def joined(x: Tensor, by: str, *, batch: bool) -> Tensor:
    """The "sum" or "max" of float64 numbers over these workers."""
    return get_world().reduce(x, by) if parts(batch=batch) > 1 else x


def grid(x: Tensor, axes: Sequence[int], bits: int, *, batch: bool = False) -> tuple[Tensor, Tensor]:
    """float64 -> integers of magnitude up to 2^bits, and the unit that they count, common along `axes`."""
    ops = keras_ops()
    power = power_of_two(ops.max(ops.abs(x), axis=tuple(axes), keepdims=True))
    power = joined(power, "max", batch=batch)
    power = ops.where(power == 0, ops.ones((), "float64"), power)
    return ops.round(x * (2.0 ** (bits - 1) / power)), power * 2.0 ** (1 - bits)


def total(x: Tensor, axes: Sequence[int], *, batch: bool = False) -> Tensor:
    """The sum over `axes`, kept with length 1, in float64 and in any order the same."""
    axes = [axis % len(x.shape) for axis in axes]
    count = prod(x.shape[axis] for axis in axes) * parts(batch=batch)
    if count == 1:
        return wide(x)
    integers, unit = grid(wide(x), axes, BITS - ceil(log2(max(count, 2))), batch=batch)
    sums = keras_ops().sum(integers, axis=tuple(axes), keepdims=True)
    return joined(sums, "sum", batch=batch) * unit


def product(a: Tensor, b: Tensor, *, batch: bool = False) -> Tensor:
    """(..., m, k) x (..., k, n) -> (..., m, n) in float64; the factors are float32, a row and a column on a
    grid each."""
    p, q = shares(a.shape[-1], batch=batch)
    a, a_unit = grid(wide(a), [-1], p, batch=batch)
    return sliced_product(a, wide(b), [-2], q, batch=batch) * a_unit


def sliced_product(a: Tensor, b: Tensor, axes: Sequence[int], bits: int, *, batch: bool = False) -> Tensor:
    """Integers (..., m, k) times float64 numbers (..., k, n), on a grid along `axes` in two slices of `bits`.

    The second slice has what the first left over, on a grid that is finer by 2^bits: b has twice the bits
    that one exact product leaves for it.
    """
    ops = keras_ops()
    high, unit = grid(b, axes, bits, batch=batch)
    low = ops.round((b / unit - high) * 2.0**bits)
    n = b.shape[-1]
    both = joined(a @ ops.concatenate([high, low], -1), "sum", batch=batch)
    return (both[..., :n] + both[..., n:] * 2.0**-bits) * unit


def shares(count: int, *, batch: bool = False) -> tuple[int, int]:
    """The bits of the two factors of so many products whose sum is exact, the second's for each slice."""
    bits = BITS - ceil(log2(max(2, count * parts(batch=batch))))
    return bits - bits // 3, bits // 3


# The table


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
PRECISE = Context(prec=110)


class Table:
    """A function of one number between `low` and `high`, by its expansions around multiples of `step`.

    `expansion(a)` gives f(a), f'(a), f''(a) / 2, f'''(a) / 6. Arguments outside are taken as the nearer end.
    """

    def __init__(
        self, expansion: Callable[[Decimal], tuple[Decimal, ...]], low: float, high: float, step: float
    ):
        self.low, self.high, self.step = low, high, step
        with localcontext(PRECISE):
            points = (low + i * step for i in range(round((high - low) / step) + 1))
            rows = [[float(c) for c in expansion(Decimal(a))] for a in points]
        self.rows = np.array(rows)
        self.rows[:, 1:] = self.rows[:, 1:].astype(np.float32)

    def __call__(self, x: Tensor) -> Tensor:
        """float64 numbers that are float32's -> float64, to be fenced."""
        ops = keras_ops()
        x = ops.where(x > self.high, self.high * ops.ones((), "float64"), x)
        x = ops.where(x < self.low, self.low * ops.ones((), "float64"), x)
        known = ops.where(x == x, x, self.low * ops.ones((), "float64"))
        index = ops.round((known - self.low) * (1 / self.step))
        s = x - (index * self.step + self.low)
        row = ops.take(ops.convert_to_tensor(self.rows, "float64"), ops.cast(index, "int32"), axis=0)
        inner = wide(narrow(row[..., 2] + s * row[..., 3]))
        inner = wide(narrow(row[..., 1] + s * inner))
        return row[..., 0] + s * inner


def _logistic(a: Decimal) -> tuple[Decimal, ...]:
    y = 1 / (1 + (-a).exp())
    slope = y * (1 - y)
    return y, slope, slope * (1 - 2 * y) / 2, slope * (1 - 6 * y + 6 * y * y) / 6


def _tanh(a: Decimal) -> tuple[Decimal, ...]:
    y = 1 - 2 / (1 + (2 * a).exp())
    slope = 1 - y * y
    return y, slope, -y * slope, -slope * (1 - 3 * y * y) / 3


def _exp(a: Decimal) -> tuple[Decimal, ...]:
    y = a.exp()
    return y, y, y / 2, y / 6


def _log(a: Decimal) -> tuple[Decimal, ...]:
    return a.ln(), 1 / a, -1 / (2 * a * a), 1 / (3 * a**3)


def _density(a: Decimal) -> Decimal:
    """The standard normal distribution's."""
    return (-a * a / 2).exp() / (2 * PI).sqrt()


def _distribution(a: Decimal) -> Decimal:
    """The standard normal distribution function: 1/2 + density(a) (a + a^3 / 3 + a^5 / 15 + ...)."""
    term = terms = a
    n = 1
    while term and abs(term) > abs(terms) * Decimal(10) ** -108:
        n += 2
        term = term * a * a / n
        terms += term
    return Decimal("0.5") + _density(a) * terms


def _normal(a: Decimal) -> tuple[Decimal, ...]:
    y = _density(a)
    return _distribution(a), y, -a * y / 2, (a * a - 1) * y / 6


def _gelu_slope(a: Decimal) -> tuple[Decimal, ...]:
    """Of x Phi(x): Phi(x) + x phi(x)."""
    y, square = _density(a), a * a
    third = (-4 + 7 * square - square * square) * y / 6
    return _distribution(a) + a * y, (2 - square) * y, (square - 4) * a * y / 2, third


TABLES: dict[str, tuple[Callable[[Decimal], tuple[Decimal, ...]], float, float, float]] = {
    "logistic": (_logistic, -88, 18, 2**-5),
    "tanh": (_tanh, 0, 10, 2**-6),
    "exp": (_exp, -0.375, 0.375, 2**-6),
    "log": (_log, 0.6875, 1.4375, 2**-7),
    "normal": (_normal, -14, 6, 2**-6),
    "gelu_slope": (_gelu_slope, -14, 6, 2**-6),
}


@lru_cache
def table(name: str) -> Table:
    """The table of that name, computed when it is first needed."""
    return Table(*TABLES[name])


# Functions of float32 numbers


def sqrt(x: Tensor) -> Tensor:
    """The square root."""
    return narrow(keras_ops().sqrt(wide(x)))


def divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, correctly rounded twice; y is no constant, which a compiler may invert."""
    return narrow(wide(x) / wide(y))


def exp(x: Tensor) -> Tensor:
    """e^x = 2^n e^r, n the nearest integer to x / ln 2 and r = x - n ln 2, near a point of the table.

    ln 2 is in two parts, the first of 42 bits: n times it is exact, and so is the difference from x.
    """
    ops = keras_ops()
    x = wide(x)
    x = ops.where(x > 90.0, 90.0 * ops.ones((), "float64"), x)
    x = ops.where(x < -90.0, -90.0 * ops.ones((), "float64"), x)
    known = ops.where(x == x, x, ops.zeros((), "float64"))
    n = ops.round(known * (1 / float(LN_2)))
    r = wide(narrow((x - n * LN_2_HIGH) - n * LN_2_LOW))
    powers = ops.convert_to_tensor(2.0 ** np.arange(-131, 132), "float64")
    return narrow(table("exp")(r) * ops.take(powers, ops.cast(n, "int32") + 131, axis=0))


with localcontext(PRECISE):
    LN_2 = Decimal(2).ln()
    LN_2_HIGH = float(int(LN_2 * 2**42)) / 2**42
    LN_2_LOW = constant(float(LN_2 - Decimal(LN_2_HIGH)))


def log(x: Tensor) -> Tensor:
    """ln x = e ln 2 + ln m for x = 2^e m, m about 1; NaN unless x is at least 2^-126 and finite."""
    ops = keras_ops()
    x = wide(x)
    usual = ops.logical_and(x >= LEAST, x < float("inf"))
    x = ops.where(usual, x, float("nan") * ops.ones((), "float64"))
    power = power_of_two(ops.where(x == x, x, ops.ones((), "float64")))
    exponent = ops.cast(ops.right_shift(ops.view(power, "int64"), 52), "float64") - 1023.0
    m = x / power
    high = m > 1.40625
    m, exponent = ops.where(high, m * 0.5, m), ops.where(high, exponent + 1.0, exponent)
    return narrow(exponent * LN_2_HIGH + table("log")(m))


def tanh(x: Tensor) -> Tensor:
    """tanh, odd."""
    ops = keras_ops()
    y = narrow(table("tanh")(ops.abs(wide(x))))
    return ops.where(x < 0, -y, y)


def logistic(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return narrow(table("logistic")(wide(x)))
