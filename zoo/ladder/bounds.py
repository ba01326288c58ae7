"""The claim and the bounds of each rung, and how different two arrays are.

NumPy only: the report reads the same bounds as the ladder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

import numpy as np

Record = dict[str, Any]
Arrays = Mapping[str, np.ndarray]

# The largest difference that counts as equal in `zoo compare`, in float32.
BOUNDS = {"initial_weights": 0.0, "outputs": 1e-5, "losses": 1e-5}
DTYPES = ("float32", "float64")


class Process(NamedTuple):
    """A process: its framework, float type, "exact" for that of rung 0, and number of threads."""

    backend: str
    dtype: str
    threads: int = 1


@dataclass(frozen=True)
class Rung:
    """A claim and its bounds; None is the chaos floor, which is measured (see `floor`)."""

    number: int
    name: str
    claim: str
    float32: float | None
    float64: float

    def bound(self, dtype: str, chaos: float) -> float:
        """The bound in a float type, if losses diverge by `chaos` under 1-ulp perturbations."""
        bound = self.float64 if dtype == "float64" else self.float32
        return floor(chaos) if bound is None else bound


RUNGS = (
    Rung(1, "initial", "initial weights, batches and dropout masks, bit for bit", 0.0, 0.0),
    Rung(2, "forward", "the output of every layer, relative to its largest value", 1e-5, 1e-12),
    Rung(
        3, "gradients", "the gradient of every output and weight, relative to its largest value", 1e-5, 1e-12
    ),
    Rung(
        4, "update", "the updates of every optimizer along a schedule, relative to the largest", 1e-6, 1e-12
    ),
    Rung(5, "training", "the losses of 100 training steps", None, 1e-9),
    Rung(6, "evaluation", "the number of predictions after training that differ", 0.0, 0.0),
    Rung(7, "engines", "the losses of one framework's engines and modes", None, 1e-9),
    Rung(8, "resume", "the losses after resuming from another framework's checkpoint", None, 1e-9),
    Rung(
        9,
        "batch",
        "outputs of an example alone, in a batch, padded; gradients padded in front, with 1 and 8 threads",
        1e-5,
        1e-12,
    ),
    Rung(
        10,
        "accumulation",
        "the gradients of micro-batches and of one batch; of stored and of recomputed outputs",
        1e-5,
        1e-12,
    ),
    Rung(
        11,
        "precision",
        "errors of outputs and gradients in 16 bits, relative to what the format's rounding makes",
        10.0,
        10.0,
    ),
)
NUMBERS = tuple(rung.number for rung in RUNGS)
# Only where asked for: exact arithmetic takes a multiple of the time.
BITS = Rung(0, "bits", "gradients, losses, weights and optimizer state of exact runs, bit for bit", 0.0, 0.0)
FLOORS = 5  # times the chaos floor
PERTURBED_RUNS = 4  # that measure it
LOSS_ULP = 2.0**-22  # one ulp of a loss between 2 and 4 in float32: the least chaos floor


@dataclass(frozen=True)
class Format:
    """A number format of rung 11; `bits` of the significand, the leading one included."""

    name: str
    bits: int
    policy: str  # Keras's
    scaled: bool = False  # loss scaling


FORMATS = (
    Format("bfloat16", 8, "bfloat16"),
    Format("mixed_bfloat16", 8, "mixed_bfloat16"),
    Format("mixed_float16", 11, "mixed_float16", scaled=True),
    Format("tf32", 11, "float32"),
)
LEAST_ERROR = 1 / 30  # of what the format's rounding makes: outputs with less are not computed in it


@dataclass(frozen=True)
class Gap:
    """A known exception to a rung. One that holds again fails the ladder until it is removed."""

    model: str
    rung: int
    dtype: str
    pair: tuple[str, str]
    reason: str
    upstream: str  # the address of the issue


GAPS: tuple[Gap, ...] = ()


def floor(chaos: float) -> float:
    """The bound of the losses of a training run in float32."""
    return FLOORS * max(chaos, LOSS_ULP)


# Two arrays


def relative_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The max-norm relative difference of the finite values; inf where shapes, NaNs or infinities differ."""
    largest = absolute_difference(a, b)
    return largest if not largest or largest == inf else largest / max(magnitude(a), magnitude(b))


def absolute_difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference of the finite values; inf where shapes, NaNs or infinities differ."""
    if a.shape != b.shape or non_finite_mismatch(a, b).any():
        return inf
    return float(np.abs(finite_values(a) - finite_values(b)).max(initial=0))


def magnitude(x: np.ndarray) -> float:
    """The largest absolute value of the finite ones."""
    return float(np.abs(finite_values(x)).max(initial=0))


def non_finite_mismatch(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Where one array is NaN or infinite, and the other is not the same."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return np.any([kind(a) != kind(b) for kind in (np.isnan, np.isposinf, np.isneginf)], axis=0)


def finite_values(x: np.ndarray) -> np.ndarray:
    """In float64, with 0 for what is not finite: such a value would hide all others in a scale."""
    return np.nan_to_num(x.astype(np.float64), nan=0, posinf=0, neginf=0)


def first_difference(a: Arrays, b: Arrays, bound: float = BOUNDS["outputs"]) -> Record | None:
    """The first layer, in the order of `a`, that differs by more than the bound; None if none does."""
    for layer, value in a.items():
        difference = relative_difference(value, b[layer]) if layer in b else inf
        if difference > bound:
            return {"layer": layer, "difference": difference}
    return None
