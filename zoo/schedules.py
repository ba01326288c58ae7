"""Learning rate schedules: the same learning rate at every step on every framework and with either engine.

With T steps in all, of which the first W are warm-up, peak rate a and final rate e:

    linear          e + (a - e) r                        r = (T - step) / (T - W), the remaining fraction
    cosine          e + (a - e) (1 + cos(pi (1 - r))) / 2
    polynomial      e + (a - e) r^power
    inverse root    a sqrt(W / step)
    staircase       a rate^(step // T)

A schedule is evaluated in two ways: `at(step)` is a Python float, computed by NumPy in float64, for loops
that set the learning rate from outside; `schedule(step)` is a tensor in Keras's float type, for compiled
code. Steps count from 0, and the phase of a step is determined in integers. Each curve is computed from its
lower end, so that float32 is accurate to rounding where the rate is a millionth of the peak: there 1 + cos(x)
would have lost every digit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from inspect import signature
from math import floor, inf, pi
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np

from zoo import storage
from zoo._lazy import keras, ops
from zoo.checks import integer
from zoo.errors import WrongConfiguration, nearest

Tensor = Any
STEPS = 2**31 - 1  # a step is an int32


@dataclass(frozen=True)
class Numbers:
    """A number system: NumPy's functions in float64, or Keras's operations, which have the same names."""

    functions: Any
    dtype: str

    def real(self, x: Any) -> Tensor:
        """Integers as real numbers."""
        return self.functions.array(x, self.dtype)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.functions, name)


HOST = Numbers(np, "float64")


class Schedule(keras.optimizers.schedules.LearningRateSchedule):
    """The learning rate as a function of the step; a subclass defines its formula once, as `rate`."""

    def rate(self, xp: Numbers, step: Tensor) -> Tensor:
        """The formula, for integer steps of any shape."""
        raise NotImplementedError

    def __call__(self, step: Any) -> Tensor:
        """The rate in `keras.config.floatx()`; `step` is an integer, an array or a tensor of integers.

        Raises WrongConfiguration for a number or array below 0; a tensor is not read, but clipped at 0.
        """
        return self.rate(graph(), self._steps(step))

    def at(self, step: int) -> float:
        """The learning rate in float64, without a tensor. Raises WrongConfiguration for a step below 0."""
        return float(self.rate(HOST, np.int64(integer(type(self).__name__, "step", step, 0))))

    def _steps(self, step: Any) -> Tensor:
        """Steps as int32, 0 or more."""
        if isinstance(step, int | float | np.generic | np.ndarray | list | tuple):
            given = np.asarray(step)
            if given.dtype.kind not in "iu" or (given.size and not 0 <= given.min() <= given.max() <= STEPS):
                raise WrongConfiguration(
                    f"{type(self).__name__}: step={step!r}; expected integers from 0 to {STEPS}"
                )
        return ops.maximum(ops.cast(step, "int32"), 0)

    def get_config(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in signature(type(self)).parameters}

    def __repr__(self) -> str:
        defaults = {name: p.default for name, p in signature(type(self)).parameters.items()}
        changed = (f"{name}={x!r}" for name, x in self.get_config().items() if x != defaults[name])
        return f"{type(self).__name__}({', '.join(changed)})"


def graph() -> Numbers:
    """Keras's operations in the current float type."""
    return Numbers(ops, keras.config.floatx())


@keras.saving.register_keras_serializable("zoo")
class StepDecay(Schedule):
    """Multiply the rate by `decay_rate` every `decay_steps` steps, or at each step of a list.

        initial_learning_rate * decay_rate^k    k = step // decay_steps, or the number of listed steps <= step

    An empty list gives a constant rate. Raises WrongConfiguration for a negative rate, a decay rate
    outside [0, 1], and steps that are below 1 or do not increase. As torch.optim's StepLR and MultiStepLR,
    optax's exponential_decay(staircase=True) and piecewise_constant_schedule.
    """

    def __init__(self, initial_learning_rate: float, decay_steps: int | Sequence[int], decay_rate: float):
        self.initial_learning_rate = number(self, initial_learning_rate=initial_learning_rate)
        self.decay_steps = (
            [whole(self, 1, decay_steps=step) for step in decay_steps]
            if isinstance(decay_steps, Sequence | np.ndarray)
            else whole(self, 1, decay_steps=decay_steps)
        )
        if isinstance(self.decay_steps, list) and self.decay_steps != sorted(set(self.decay_steps)):
            raise WrongConfiguration(
                f"StepDecay: decay_steps={self.decay_steps!r}; expected increasing steps"
            )
        self.decay_rate = number(self, 1, decay_rate=decay_rate)

    def rate(self, xp: Numbers, step: Tensor) -> Tensor:
        if isinstance(self.decay_steps, list):
            times = passed(xp, step, self.decay_steps)
        else:
            times = step // self.decay_steps
        return self.initial_learning_rate * integer_power(xp, self.decay_rate, times)


@keras.saving.register_keras_serializable("zoo")
class CosineAnnealing(Schedule):
    """Half a cosine from the initial rate down to a minimum, once or with warm restarts.

        minimum + (initial_learning_rate - minimum) (1 + cos(pi t / T)) / 2

    Without restarts t is the step and T `decay_steps`; after T the rate stays at the minimum. With restarts
    t restarts at 0 whenever it reaches T, and T is multiplied by the integer `multiplier` each time. Raises
    WrongConfiguration for a negative rate, a minimum above the initial rate, steps or a multiplier below 1,
    a multiplier without restarts. Loshchilov and Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5; as
    torch.optim's CosineAnnealingWarmRestarts(T_0, T_mult), and up to T as its CosineAnnealingLR, which then
    rises again; optax's cosine_decay_schedule stays at the minimum.
    """

    def __init__(
        self,
        initial_learning_rate: float,
        decay_steps: int,
        minimum: float = 0.0,
        restarts: bool = False,
        multiplier: int = 1,
    ):
        self.initial_learning_rate = number(self, initial_learning_rate=initial_learning_rate)
        self.decay_steps = whole(self, 1, decay_steps=decay_steps)
        self.minimum = number(self, self.initial_learning_rate, minimum=minimum)
        self.restarts, self.multiplier = bool(restarts), whole(self, 1, multiplier=multiplier)
        if self.multiplier > 1 and not self.restarts:
            raise WrongConfiguration(
                f"CosineAnnealing: multiplier={multiplier!r} multiplies the steps between restarts; it "
                "needs restarts=True"
            )
        self.starts, self.lengths = [0], [self.decay_steps]
        while self.multiplier > 1 and self.starts[-1] + self.lengths[-1] <= STEPS:
            self.starts.append(self.starts[-1] + self.lengths[-1])
            self.lengths.append(self.lengths[-1] * self.multiplier)

    def rate(self, xp: Numbers, step: Tensor) -> Tensor:
        length: Any = float(self.decay_steps)
        if not self.restarts:
            step = xp.minimum(step, self.decay_steps)
        elif self.multiplier == 1:
            step = step % self.decay_steps
        else:
            cycle = passed(xp, step, self.starts[1:])
            length = xp.take(xp.real(self.lengths), cycle)
            step = step - xp.take(xp.array(self.starts, "int32"), cycle)
        left = (length - xp.real(step)) / length
        return self.minimum + (self.initial_learning_rate - self.minimum) * CURVES["cosine"](xp, left)


@keras.saving.register_keras_serializable("zoo")
class WarmupDecay(Schedule):
    """Linear warm-up from 0 to a peak, then a decay over what remains of `decay_steps`.

        step < warmup_steps     peak step / warmup_steps          (so the rate of step 0 is 0)
        then, by `decay`,       r = (decay_steps - step) / (decay_steps - warmup_steps)
          linear                end + (peak - end) r
          cosine                end + (peak - end) (1 + cos(pi (1 - r))) / 2
          polynomial            end + (peak - end) r^power
          inverse_square_root   peak sqrt(warmup_steps / step)    (a warm-up of 0 counts as 1)
          constant              peak

    From `decay_steps` on the rate is constant. The last two decays never end if `decay_steps` is None, and
    take no `end`. Raises WrongConfiguration for a negative peak, an end above the peak, a negative warm-up,
    `decay_steps` below 1 or below the warm-up, a power of 0 or less, an unknown decay, and for a `power` or
    `end` that the decay does not use. As optax's linear_schedule joined with polynomial_schedule, and its
    warmup_cosine_decay_schedule; the inverse root is Vaswani et al. 2017, "Attention is all you need",
    arXiv:1706.03762, eq. 3, whose d_model^-0.5 is peak sqrt(warmup_steps).
    """

    def __init__(
        self,
        peak: float,
        warmup_steps: int,
        decay_steps: int | None = None,
        decay: str = "linear",
        power: float = 1.0,
        end: float = 0.0,
    ):
        self.peak = number(self, peak=peak)
        self.decay = one_of(self, (*CURVES, "polynomial", *ENDLESS), decay=decay)
        self.warmup_steps = whole(self, 0, warmup_steps=warmup_steps)
        if decay_steps is None and decay in ENDLESS:
            self.decay_steps = None
        else:
            self.decay_steps = whole(self, 1, decay_steps=decay_steps)
            if self.decay_steps < self.warmup_steps:
                raise WrongConfiguration(
                    f"WarmupDecay: decay_steps={decay_steps!r} is below warmup_steps="
                    f"{warmup_steps!r}; expected more, as decay_steps includes the warm-up"
                )
        self.power, self.end = number(self, power=power), number(self, self.peak, end=end)
        if self.power == 0:
            raise WrongConfiguration(f"WarmupDecay: power={power!r}; expected more than 0")
        unused = {"power": decay != "polynomial" and power != 1, "end": decay in ENDLESS and end != 0}
        for name in (name for name, given in unused.items() if given):
            raise WrongConfiguration(
                f"WarmupDecay: {name}={getattr(self, name)!r} has no effect with decay={decay!r}; "
                "leave it out"
            )

    def rate(self, xp: Numbers, step: Tensor) -> Tensor:
        last = STEPS if self.decay_steps is None else self.decay_steps
        step = xp.minimum(step, last)
        rising = between(xp, step, 0, self.warmup_steps, 0.0, self.peak, CURVES["linear"])
        return xp.where(step < self.warmup_steps, rising, self._decayed(xp, step, last))

    def _decayed(self, xp: Numbers, step: Tensor, last: int) -> Tensor | float:
        """The rate after the warm-up."""
        if self.decay == "constant":
            return self.peak
        if self.decay == "inverse_square_root":
            first = max(self.warmup_steps, 1)
            return self.peak * xp.sqrt(first / xp.real(xp.maximum(step, first)))
        curve = CURVES.get(self.decay, lambda xp, x: x**self.power)
        return between(xp, step, self.warmup_steps, last, self.peak, self.end, curve)


@keras.saving.register_keras_serializable("zoo")
class OneCycle(Schedule):
    """Rise to a maximum and fall to almost zero, with the momentum changing in the opposite direction.

        step                                 rate                             momentum
        0                                    max_learning_rate / div_factor   max_momentum
        warmup_fraction total_steps - 1      max_learning_rate                base_momentum
        (2 warmup_fraction total_steps - 2   max_learning_rate / div_factor   max_momentum)
        total_steps - 1                      the first / final_div_factor     max_momentum

    Between two rows both follow half a cosine or, with anneal="linear", a line; the row in brackets exists
    only with `three_phase`. After the last row both are constant. The zoo's optimizers follow the momentum
    too (Adam's beta_1), unless `cycle_momentum` is off. Raises WrongConfiguration for a negative rate, fewer
    steps than 1, a fraction outside [0, 1] (in three phases [0, 0.5]), factors of 0 or less, momentums
    outside [0, 1] or base above maximum, an unknown anneal. Smith and Topin 2018, "Super-Convergence",
    arXiv:1708.07120; equal to torch.optim's OneCycleLR at every step, but torch has no rate for a phase of
    length 0, overshoots its last rate at step `total_steps`, and raises after that.
    """

    def __init__(
        self,
        max_learning_rate: float,
        total_steps: int,
        warmup_fraction: float = 0.3,
        anneal: str = "cosine",
        div_factor: float = 25.0,
        final_div_factor: float = 1e4,
        three_phase: bool = False,
        base_momentum: float = 0.85,
        max_momentum: float = 0.95,
        cycle_momentum: bool = True,
    ):
        self.max_learning_rate = number(self, max_learning_rate=max_learning_rate)
        self.total_steps = whole(self, 1, total_steps=total_steps)
        self.three_phase = bool(three_phase)
        self.warmup_fraction = number(self, 0.5 if three_phase else 1, warmup_fraction=warmup_fraction)
        self.anneal = one_of(self, CURVES, anneal=anneal)
        self.div_factor = number(self, div_factor=div_factor)
        self.final_div_factor = number(self, final_div_factor=final_div_factor)
        for name in ("div_factor", "final_div_factor"):
            if getattr(self, name) == 0:
                raise WrongConfiguration(f"OneCycle: {name}=0; expected more than 0, as it divides a rate")
        self.cycle_momentum = bool(cycle_momentum)
        self.max_momentum = number(self, 1, max_momentum=max_momentum)
        self.base_momentum = number(self, self.max_momentum, base_momentum=base_momentum)

    def rate(self, xp: Numbers, step: Tensor) -> Tensor:
        first = self.max_learning_rate / self.div_factor
        valley = (first,) if self.three_phase else ()
        rates = (first, self.max_learning_rate, *valley, first / self.final_div_factor)
        return self._cycle(xp, step, rates)

    def momentum(self, step: Any) -> Tensor:
        """The momentum (Adam's beta_1) of a step, as a tensor."""
        return self._cycle(graph(), self._steps(step), self._momentums())

    def momentum_at(self, step: int) -> float:
        """The momentum (Adam's beta_1) of a step, as a Python float."""
        return float(self._cycle(HOST, np.int64(integer("OneCycle", "step", step, 0)), self._momentums()))

    def _momentums(self) -> tuple[float, ...]:
        valley = (self.max_momentum,) if self.three_phase else ()
        return (self.max_momentum, self.base_momentum, *valley, self.max_momentum)

    def _cycle(self, xp: Numbers, step: Tensor, values: Sequence[float]) -> Tensor:
        """Interpolate the values, one for each row of the table above; rows may lie between two steps."""
        peak, last = self.warmup_fraction * self.total_steps - 1, self.total_steps - 1
        valley = (2 * self.warmup_fraction * self.total_steps - 2,) if self.three_phase else ()
        rows = (0, peak, *valley, last)
        step, curve = xp.minimum(step, last), CURVES[self.anneal]
        *phases, final = zip(rows, rows[1:], values, values[1:], strict=False)
        value = between(xp, step, *final, curve)
        for start, end, first, second in reversed(phases):
            value = xp.where(step <= floor(end), between(xp, step, start, end, first, second, curve), value)
        return value


# The parts of the formulas

# From 0 at the lower end of a phase to 1 at its upper end.
CURVES: dict[str, Callable[[Numbers, Tensor], Tensor]] = {
    "linear": lambda xp, x: x,
    "cosine": lambda xp, x: xp.square(xp.sin(pi / 2 * x)),  # (1 - cos(pi x)) / 2, without its cancellation
}
ENDLESS = ("inverse_square_root", "constant")  # decays without a last step


def between(
    xp: Numbers,
    step: Tensor,
    start: float,
    end: float,
    first: float,
    last: float,
    curve: Callable[[Numbers, Tensor], Tensor],
) -> Tensor:
    """From `first` at `start` to `last` at `end`; a phase of length 0 has the value `last`."""
    if start >= end:
        start, first = end - 1, last
    low, high = sorted((first, last))
    foot = start if first <= last else end  # where the value is lower: distances from there are exact
    distance = xp.abs(xp.real(step - floor(foot)) - (foot - floor(foot)))
    return low + (high - low) * curve(xp, distance / (end - start))


def passed(xp: Numbers, step: Tensor, boundaries: Sequence[int]) -> Tensor:
    """The number of boundaries at or before the step."""
    return xp.sum(xp.expand_dims(step, -1) >= xp.array(boundaries, "int32"), axis=-1)


def integer_power(xp: Numbers, base: float, exponent: Tensor) -> Tensor:
    """base^exponent, 0 <= base <= 1, a product of base^1, base^2, base^4, ... by the exponent's bits.

    Each factor is rounded once; float32's own power multiplies the base's rounding error by the exponent.
    """
    bits = range(31)
    squares = xp.real([base ** (2**bit) for bit in bits])
    ones = xp.bitwise_and(xp.right_shift(xp.expand_dims(exponent, -1), xp.array(list(bits), "int32")), 1)
    return xp.prod(xp.where(ones == 1, squares, xp.real(1.0)), axis=-1)


# Settings


def number(who: Schedule, most: float = inf, **setting: Any) -> float:
    """The setting as a float. Raises WrongConfiguration, naming it, unless finite and in [0, most]."""
    ((name, value),) = setting.items()
    if isinstance(value, Real) and 0 <= float(value) <= most and float(value) < inf:
        return float(value)
    expected = "0 or more" if most == inf else f"0 <= {name} <= {most:g}"
    raise WrongConfiguration(f"{type(who).__name__}: {name}={value!r}; expected {expected}")


def whole(who: Schedule | str, least: int, **setting: Any) -> int:
    """The setting as an int. Raises WrongConfiguration, naming it, unless an integer in [least, 2^31)."""
    ((name, value),) = setting.items()
    return integer(who if isinstance(who, str) else type(who).__name__, name, value, least, STEPS)


def one_of(who: Schedule, known: Sequence[str] | dict[str, Any], **setting: Any) -> str:
    """The setting. Raises WrongConfiguration, with the nearest names, unless it is known."""
    ((name, value),) = setting.items()
    if value not in known:
        raise WrongConfiguration(f"{type(who).__name__}: no {name} {value!r}; {nearest(str(value), known)}")
    return value


# Plots


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart, which a notebook displays."""

    specification: dict[str, Any]

    def svg(self) -> str:
        """The chart as SVG."""
        import vl_convert

        return vl_convert.vegalite_to_svg(self.specification)

    def png(self) -> bytes:
        """The chart as PNG, at twice its size for high-resolution screens."""
        import vl_convert

        return vl_convert.vegalite_to_png(self.specification, scale=2)

    def _repr_svg_(self) -> str:
        return self.svg()


def plot(*schedules: Schedule, steps: int, path: str | Path | None = None) -> Chart:
    """Plot the learning rates of steps 0 to `steps` - 1, one line per schedule; to a file if `path` is given.

    A notebook displays the returned chart. If there are more than a thousand steps, a thousand of them are
    drawn. Raises WrongConfiguration for no schedule, fewer steps than 1, or a path that is neither .svg nor
    .png.
    """
    steps = whole("plot", 1, steps=steps)
    if not schedules:
        raise WrongConfiguration("plot: no schedule given; expected one or more")
    file = None if path is None else Path(path)
    if file is not None and file.suffix not in (".svg", ".png"):
        raise WrongConfiguration(f"plot: path={str(path)!r}; expected a name that ends in .svg or .png")
    if file is not None:
        storage.check_file("plot", file)
    drawn = np.unique(np.linspace(0, steps - 1, min(steps, 1000)).round().astype(np.int64))
    rows = [
        {"step": int(step), "rate": float(rate), "schedule": repr(schedule)}
        for schedule in schedules
        for step, rate in zip(drawn, schedule.rate(HOST, drawn), strict=True)
    ]
    legend = {"orient": "bottom", "direction": "vertical", "title": None, "labelLimit": 0}
    chart = Chart(
        {
            "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
            "width": 480,
            "height": 240,
            "data": {"values": rows},
            "mark": {"type": "line", "interpolate": "step-after"},
            "encoding": {
                "x": {"field": "step", "type": "quantitative", "title": "step"},
                "y": {"field": "rate", "type": "quantitative", "title": "learning rate"},
                "color": {"field": "schedule", "type": "nominal", "sort": None, "legend": legend},
            },
        }
    )
    if file is not None:
        with storage.replacing(file) as part:
            part.write_bytes(chart.png() if file.suffix == ".png" else chart.svg().encode())
    return chart
