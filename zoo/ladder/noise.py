"""The same noise on every framework, for layers that draw from Keras's own generators.

Keras draws by the framework's generator, so a `Dropout` drops other values on each. Within `same_noise`, the
draws come from `zoo.random.bits` instead, keyed by the name of the seed generator: the same numbers on every
framework, in compiled code and outside it, at every call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import Any
from unittest.mock import patch

from zoo import random
from zoo._lazy import keras, ops

Tensor = Any


@contextmanager
def same_noise() -> Iterator[set[str]]:
    """A context in which Keras's random layers draw equal numbers; yields the names of what has drawn.

    Covers uniform, normal, truncated normal, integers and dropout; gamma, beta, binomial, categorical and
    shuffles are the framework's own.
    """
    drawn: set[str] = set()
    module: Any = import_module(f"keras.src.backend.{keras.backend.backend()}.random")
    with ExitStack() as stack:
        for function in (uniform, normal, truncated_normal, randint, dropout):

            def draw(*args: Any, seed: Any = None, function: Any = function, **kwargs: Any) -> Tensor:
                name = str(seed)  # a number, of an initializer
                if isinstance(seed, keras.random.SeedGenerator):
                    drawn.add(name := seed.name)
                return function(*args, key=random.key32("noise", name), **kwargs)

            stack.enter_context(patch.object(module, function.__name__, draw))
        yield drawn


def uniform(
    shape: Any, minval: float = 0.0, maxval: float = 1.0, dtype: str | None = None, *, key: int, step: int = 0
) -> Tensor:
    """Of 24 random bits, in [minval, maxval)."""
    bits = ops.bitwise_and(ops.right_shift(random.bits(shape, key, step), 8), 2**24 - 1)
    return minval + ops.cast(bits, dtype or keras.config.floatx()) * 2.0**-24 * (maxval - minval)


def normal(
    shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: str | None = None, *, key: int
) -> Tensor:
    """The sum of twelve uniform numbers less 6: its variance is 1."""
    return mean + stddev * (sum(uniform(shape, dtype=dtype, key=key, step=i) for i in range(12)) - 6.0)


def truncated_normal(
    shape: Any, mean: float = 0.0, stddev: float = 1.0, dtype: str | None = None, *, key: int
) -> Tensor:
    """A normal number, at most two standard deviations from the mean."""
    return mean + stddev * ops.clip(normal(shape, dtype=dtype, key=key), -2, 2)


def randint(shape: Any, minval: Any, maxval: Any, dtype: str = "int32", *, key: int) -> Tensor:
    """In [minval, maxval)."""
    return ops.cast(ops.floor(uniform(shape, minval, maxval, "float32", key=key)), dtype)


def dropout(inputs: Tensor, rate: float, noise_shape: Any = None, *, key: int) -> Tensor:
    """Zero a share `rate` of the inputs and scale up the others; None in `noise_shape` is theirs."""
    sizes = ops.shape(inputs)
    shape = [n if n is not None else m for n, m in zip(noise_shape or sizes, sizes, strict=True)]
    kept = ops.cast(uniform(shape, dtype="float32", key=key) >= rate, inputs.dtype)
    return inputs * kept / (1 - rate)
