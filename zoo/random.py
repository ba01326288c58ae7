"""Portable randomness: the same seed gives the same bits on every framework, eager or compiled.

Initial weights come from NumPy's Philox generator (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), keyed by the seed and the variable's name. They do not depend on the order in which layers are
built, or on other layers.

Masks inside a model (dropout, drop-path, noise) come from a counter-based hash of 32-bit integer operations,
which are the same on every framework. Element i of a draw is

    bits(i) = mix(mix(i xor key) + step)     key from (seed, layer name)

where mix is a bijection of 32-bit words (Wellons, "Hash function prospecting", the `lowbias32` constants):
xor-shift 16, multiply, xor-shift 15, multiply, xor-shift 16. Only the step is stored.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from zoo._lazy import ops
from zoo.backends.world import part as part_of_batch

Tensor = Any

_seed: ContextVar[int] = ContextVar("seed", default=0)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Layers created inside use this seed (0 outside): `zoo.build(..., seed=1)` builds within it."""
    token = _seed.set(seed)
    try:
        yield
    finally:
        _seed.reset(token)


def current_seed() -> int:
    """The seed that a layer created now would use."""
    return _seed.get()


def generator(*key: int | str) -> np.random.Generator:
    """NumPy's generator for this key, e.g. `generator(seed, "conv1/kernel")`; equal keys give equal bits."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))


# Initial weights


@dataclass(frozen=True)
class Initializer:
    """A distribution of initial weights: a name in `DISTRIBUTIONS` and its parameters."""

    distribution: str
    scale: float = 1.0

    def draw(
        self, key: Sequence[int | str], shape: Sequence[int], out: np.ndarray | None = None
    ) -> np.ndarray:
        """Draw float32 of this shape; the fan-in and fan-out follow from the shape (..., in, out).

        `out` is an array to fill and return, which is contiguous, or as a kernel of `zoo.backends`,
        contiguous for each output.
        """
        *window, fan_in, fan_out = (1, 1, *shape)
        fans = fan_in * prod(window), fan_out * prod(window)
        out = np.empty(shape, np.float32) if out is None else out
        DISTRIBUTIONS[self.distribution](generator(*key), out, self.scale, *fans)
        return out


# In place, in parts that fit a cache: large models would spend as much time on memory access as on drawing.


def _parts(x: np.ndarray) -> Iterator[np.ndarray]:
    """Contiguous parts of x, or buffers copied to it; filled in order they get the same numbers as x would.

    All but the last have an even size, since a generator produces two 32-bit numbers at once.
    """
    size = 2**16
    if x.flags.c_contiguous:
        flat = x.reshape(-1)
        yield from (flat[i : i + size] for i in range(0, flat.size, size))
        return
    columns = x.shape[-1]
    rows, count = np.reshape(x, (-1, columns), copy=False), 2 * max(1, size // 2 // columns)
    for i in range(0, len(rows), count):
        there = rows[i : i + count]
        part = np.empty(there.shape, x.dtype)
        yield part.reshape(-1)
        for j in range(0, len(part), 16):  # a cache line at a time, as columns are contiguous
            there[j : j + 16] = part[j : j + 16]


def _constant(x: np.ndarray, value: float) -> None:
    x[...] = value


def _uniform(rng: np.random.Generator, x: np.ndarray, limit: float) -> None:
    """(rng.random() - 1/2) 2 limit from the same random words, a quarter faster, rounded once."""
    for part in _parts(x):
        words = rng.bit_generator.random_raw(-(-part.size // 2)).view(np.uint32)[: part.size]
        words >>= 8  # the 24 bits of a float32
        numbers = words.view(np.int32)
        numbers -= 2**23
        np.multiply(numbers, np.float32(limit * 2**-23), out=part, dtype=np.float32, casting="unsafe")


def _normal(rng: np.random.Generator, x: np.ndarray, deviation: float) -> None:
    for part in _parts(x):
        rng.standard_normal(out=part, dtype=np.float32)
        part *= np.float32(deviation)


def _truncated_normal(rng: np.random.Generator, x: np.ndarray, deviation: float) -> None:
    """Normal; values beyond two standard deviations are redrawn, after the rest."""
    far, start = [], 0
    for part in _parts(x):
        rng.standard_normal(out=part, dtype=np.float32)
        far.append(start + np.flatnonzero(np.abs(part) > 2))
        start += part.size
        part *= np.float32(deviation)
    far = np.concatenate(far)
    while far.size:
        again = rng.standard_normal(far.size, dtype=np.float32)
        x.flat[far] = again * np.float32(deviation)
        far = far[np.abs(again) > 2]


def _orthogonal(rng: np.random.Generator, x: np.ndarray, scale: float) -> None:
    """(n, k n): k orthogonal matrices side by side, each drawn uniformly (Haar)."""
    rows, columns = x.shape
    q, r = np.linalg.qr(rng.standard_normal((columns // rows, rows, rows)))
    q *= np.sign(np.diagonal(r, axis1=1, axis2=2))[:, None]  # Mezzadri 2007, arXiv:math-ph/0609050, section 5
    x[...] = np.concatenate(list(q), axis=1)
    x *= np.float32(scale)


def _forget(x: np.ndarray, value: float) -> None:
    """Zeros, except for `value` in the second quarter."""
    x[...] = np.repeat([0, value, 0, 0], x.size // 4)


# Each fills x.
DISTRIBUTIONS = {
    "zeros": lambda rng, x, scale, n, m: _constant(x, 0),
    "constant": lambda rng, x, scale, n, m: _constant(x, scale),
    "uniform": lambda rng, x, scale, n, m: _uniform(rng, x, scale),
    "normal": lambda rng, x, scale, n, m: _normal(rng, x, scale),
    "truncated_normal": lambda rng, x, scale, n, m: _truncated_normal(rng, x, scale),
    # Glorot and Bengio 2010, eq. 16
    "glorot_uniform": lambda rng, x, scale, n, m: _uniform(rng, x, scale * (6 / (n + m)) ** 0.5),
    # He et al. 2015, "Delving deep into rectifiers", eq. 10
    "he_normal": lambda rng, x, scale, n, m: _normal(rng, x, scale * (2 / n) ** 0.5),
    "he_uniform": lambda rng, x, scale, n, m: _uniform(rng, x, scale * (6 / n) ** 0.5),
    # LeCun et al. 1998, appendix A: uniform in +-2.4 / fan-in
    "lecun_1998": lambda rng, x, scale, n, m: _uniform(rng, x, scale * 2.4 / n),
    # Saxe et al. 2013, arXiv:1312.6120
    "orthogonal": lambda rng, x, scale, n, m: _orthogonal(rng, x, scale),
    # Jozefowicz et al. 2015, "An empirical exploration of recurrent network architectures", section 2.2
    "forget": lambda rng, x, scale, n, m: _forget(x, scale),
}

zeros = Initializer("zeros")
ones = Initializer("constant", 1.0)
glorot_uniform = Initializer("glorot_uniform")
he_normal = Initializer("he_normal")
he_uniform = Initializer("he_uniform")
lecun_1998 = Initializer("lecun_1998")
standard_normal = Initializer("normal")
orthogonal = Initializer("orthogonal")  # for a recurrent kernel, one matrix per gate
forget_one = Initializer("forget", 1.0)  # for an LSTM's bias: the forget gates start open


def constant(value: float) -> Initializer:
    """The same value for every weight."""
    return Initializer("constant", value)


def uniform(limit: float) -> Initializer:
    """Uniform in [-limit, limit)."""
    return Initializer("uniform", limit)


def normal(deviation: float) -> Initializer:
    """Normal with mean 0."""
    return Initializer("normal", deviation)


def truncated_normal(deviation: float) -> Initializer:
    """Normal with mean 0, redrawn beyond two standard deviations; `deviation` is that before truncation."""
    return Initializer("truncated_normal", deviation)


# Draws inside a model


def key32(*key: int | str) -> int:
    """A signed 32-bit key for `bits`."""
    return int(generator(*key).integers(-(2**31), 2**31))


def bits(shape: Sequence[int | Tensor], key: int, step: Tensor) -> Tensor:
    """Portable random 32-bit words: int32 of this shape, different for each `step` (an int32 scalar).

    A worker that computes a part of a batch draws the part's words of the whole batch's.
    """
    count = prod(shape) if all(isinstance(n, int) for n in shape) else ops.prod(ops.stack(list(shape)))
    index = ops.arange(count, dtype="int32")
    if first := part_of_batch().index:
        index = index + first * count
    index = ops.bitwise_xor(index, key)
    return ops.reshape(_mix(_mix(index) + ops.cast(step, "int32")), shape)


def keep(shape: Sequence[int | Tensor], rate: float, key: int, step: Tensor) -> Tensor:
    """A boolean mask, False with probability `rate` (to the nearest 2^-24), compared in integers."""
    return ops.greater_equal(_shift(bits(shape, key, step), 8), round(rate * 2**24))


def _mix(x: Tensor) -> Tensor:
    xor = ops.bitwise_xor
    x = xor(x, _shift(x, 16)) * 0x7FEB352D
    x = xor(x, _shift(x, 15)) * (0x846CA68B - 2**32)  # the same bits as a signed number
    return xor(x, _shift(x, 16))


def _shift(x: Tensor, n: int) -> Tensor:
    """Shift right and fill with zeros: int32's own shift would copy the sign."""
    return ops.bitwise_and(ops.right_shift(x, n), 2 ** (32 - n) - 1)
