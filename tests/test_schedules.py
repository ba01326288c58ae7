"""Schedules: torch.optim's and optax's rate at every step, in float64, in float32 and in compiled code."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext
from functools import partial
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import numpy
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import zoo
from zoo import backends, optimizers
from zoo._lazy import keras, ops
from zoo.schedules import CosineAnnealing, OneCycle, Schedule, StepDecay, WarmupDecay, plot

hundreds = partial(settings, deadline=None, derandomize=True, max_examples=200, database=None)

SMALL = 30  # the longest schedule that is walked step by step
WALK = range(48)  # far enough past its end
rates = st.floats(1e-6, 10)
fractions = st.floats(0, 1)
steps = st.integers(1, SMALL)
boundaries = st.lists(st.integers(1, SMALL), max_size=5, unique=True).map(sorted)


def assert_same(ours: Any, theirs: Any, largest: float) -> None:
    """Within 1e-12 of each rate, and the rounding of the largest, which theirs subtract from each other."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-14 * largest)


def walk(schedule: Schedule, count: int = len(WALK)) -> list[float]:
    return [schedule.at(step) for step in range(count)]


# --- theirs ---


def torch_walk(
    rate: float, make: Callable[[Any, Any], Any], count: int = len(WALK), setting: str = "lr"
) -> list[float]:
    """What torch's scheduler sets at each step; `make` takes its module of schedulers and an optimizer."""
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate, momentum=0.5)
    scheduler, path = make(torch.optim.lr_scheduler, optimizer), []
    for step in range(count):
        path.append(optimizer.param_groups[0][setting])
        optimizer.step()
        if step + 1 < count:
            scheduler.step()
    return path


def optax_walk(make: Callable[[Any], Any]) -> np.ndarray:
    """What optax's schedule gives for each step of WALK; `make` takes its module."""
    optax, jax = pytest.importorskip("optax"), pytest.importorskip("jax")
    with jax.enable_x64(True):
        return np.asarray(jax.vmap(make(optax))(np.arange(len(WALK))))


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


def cosine(x: Decimal) -> Decimal:
    """The recipe of Python's `decimal` documentation."""
    power, last, total, term = 0, Decimal(0), Decimal(1), Decimal(1)
    while total != last:
        last, power = total, power + 2
        term *= -x * x / (power * (power - 1))
        total += term
    return total


def anneal(kind: str, first: Decimal, last: Decimal, done: Decimal, power: float = 1) -> Decimal:
    if kind == "cosine":
        return last + (first - last) * (1 + cosine(PI * done)) / 2
    return last + (first - last) * (1 - done) ** Decimal(power)


def exact(schedule: Schedule, step: int) -> Decimal:
    """The rate by the papers' formulas, to 40 digits."""
    s: dict[str, Any] = {
        name: Decimal(x) if isinstance(x, float) else x for name, x in schedule.get_config().items()
    }
    kind, total = type(schedule).__name__, cast(Any, s.get("decay_steps"))
    if kind == "StepDecay":
        times = bisect_right(total, step) if isinstance(total, list) else step // total
        return s["initial_learning_rate"] * (s["decay_rate"] ** times if times else 1)
    if kind == "CosineAnnealing":
        while s["restarts"] and step >= total:
            step, total = step - total, total * s["multiplier"]
        done = Decimal(min(step, total)) / total
        return anneal("cosine", s["initial_learning_rate"], s["minimum"], done)
    if kind == "WarmupDecay":
        warmup, decay, step = s["warmup_steps"], s["decay"], min(step, total or step)
        if step < warmup:
            return s["peak"] * step / warmup
        if decay == "constant":
            return s["peak"]
        if decay == "inverse_square_root":
            return s["peak"] * (Decimal(max(warmup, 1)) / max(step, warmup, 1)).sqrt()
        done = Decimal(step - warmup) / (total - warmup) if total > warmup else Decimal(step == total)
        return anneal(decay, s["peak"], s["end"], done, s["power"])
    total, top = s["total_steps"], s["max_learning_rate"]
    first, step = top / s["div_factor"], min(step, total - 1)
    peak = Decimal(float(s["warmup_fraction"]) * total) - 1  # rounded, as torch decides a step's phase by it
    if step <= peak:
        return anneal(s["anneal"], first, top, step / peak if peak else Decimal(1))
    if s["three_phase"]:
        if step <= 2 * peak:
            return anneal(s["anneal"], top, first, (step - peak) / peak)
        top, peak = first, 2 * peak
    length = total - 1 - peak
    return anneal(
        s["anneal"], top, first / s["final_div_factor"], (step - peak) / length if length else Decimal(1)
    )


# --- StepDecay ---


@hundreds()
@given(rate=rates, every=steps | boundaries, factor=fractions)
@example(rate=0.1, every=[], factor=0.1)
@example(rate=0.1, every=1, factor=0.0)
def test_step_decay_is_torchs(rate: float, every: int | list[int], factor: float) -> None:
    def make(schedulers: Any, optimizer: Any) -> Any:
        if isinstance(every, list):
            return schedulers.MultiStepLR(optimizer, every, factor)
        return schedulers.StepLR(optimizer, every, factor)

    assert_same(walk(StepDecay(rate, every, factor)), torch_walk(rate, make), 0)


@hundreds(max_examples=100)
@given(rate=rates, every=steps | boundaries, factor=st.floats(1e-3, 1))
def test_step_decay_is_optaxs(rate: float, every: int | list[int], factor: float) -> None:
    def make(optax: Any) -> Any:
        if isinstance(every, list):
            return optax.piecewise_constant_schedule(rate, dict.fromkeys(every, factor))
        return optax.exponential_decay(rate, every, factor, staircase=True)

    assert_same(walk(StepDecay(rate, every, factor)), np.broadcast_to(optax_walk(make), len(WALK)), 0)


def test_a_boundary_is_met_where_float32_has_no_such_number() -> None:
    step = 2**24 + 1
    for schedule in (
        StepDecay(1.0, [step], 0.5),
        StepDecay(1.0, step, 0.5),
        WarmupDecay(1.0, 0, step, "linear"),
    ):
        before, after = numpy(schedule(np.array([step - 1, step])))
        assert before > after == schedule.at(step)


# --- CosineAnnealing ---


@hundreds()
@given(rate=rates, total=steps, bottom=fractions)
def test_cosine_annealing_is_torchs_and_stays_at_its_minimum(rate: float, total: int, bottom: float) -> None:
    minimum = rate * bottom
    ours = walk(CosineAnnealing(rate, total, minimum))
    theirs = torch_walk(rate, lambda s, o: s.CosineAnnealingLR(o, total, minimum), total + 1)
    assert_same(ours[: total + 1], theirs, rate)
    assert set(ours[total:]) == {minimum}


@hundreds(max_examples=100)
@given(rate=rates, total=steps, bottom=fractions)
def test_cosine_annealing_is_optaxs(rate: float, total: int, bottom: float) -> None:
    theirs = optax_walk(lambda optax: optax.cosine_decay_schedule(rate, total, bottom))
    assert_same(walk(CosineAnnealing(rate, total, rate * bottom)), theirs, rate)


@hundreds()
@given(rate=rates, total=steps, bottom=fractions, multiplier=st.integers(1, 4))
@example(rate=0.1, total=1, bottom=0.0, multiplier=1)
@example(rate=0.1, total=1, bottom=0.0, multiplier=2)
def test_warm_restarts_are_torchs(rate: float, total: int, bottom: float, multiplier: int) -> None:
    minimum = rate * bottom
    ours = walk(CosineAnnealing(rate, total, minimum, restarts=True, multiplier=multiplier))
    make = lambda s, o: s.CosineAnnealingWarmRestarts(o, total, multiplier, minimum)  # noqa: E731
    assert_same(ours, torch_walk(rate, make), rate)


@hundreds(max_examples=50)
@given(rate=rates, total=st.integers(10, SMALL), bottom=fractions, multiplier=st.integers(1, 3))
def test_warm_restarts_are_optaxs(rate: float, total: int, bottom: float, multiplier: int) -> None:
    ours = walk(CosineAnnealing(rate, total, rate * bottom, restarts=True, multiplier=multiplier))
    cycle = {"init_value": rate, "peak_value": rate, "warmup_steps": 0, "end_value": rate * bottom}
    cycles = [{**cycle, "decay_steps": total * multiplier**i} for i in range(7)]
    assert_same(ours, optax_walk(lambda optax: optax.sgdr_schedule(cycles)), rate)


# --- WarmupDecay ---

warmups = st.tuples(st.integers(0, SMALL), st.integers(0, SMALL)).map(sorted).filter(lambda w: w[1] > w[0])


@hundreds()
@given(
    peak=rates,
    lengths=warmups,
    decay=st.sampled_from(["linear", "cosine", "polynomial", "constant"]),
    bottom=fractions,
    power=st.floats(0.5, 4),
)
@example(peak=0.1, lengths=[0, 1], decay="linear", bottom=0.0, power=1.0)
@example(peak=0.1, lengths=[0, 1], decay="cosine", bottom=0.0, power=1.0)
def test_warmup_and_decay_are_torchs_sequence(
    peak: float, lengths: list[int], decay: str, bottom: float, power: float
) -> None:
    (warmup, total), settings = lengths, {}
    if decay in ("linear", "cosine"):
        settings["end"] = peak * bottom
    if decay == "polynomial":
        settings["power"] = power  # torch's ends at 0

    def make(schedulers: Any, optimizer: Any) -> Any:
        # torch's linear warm-up multiplies, and so cannot start from 0 itself
        rise = [schedulers.LinearLR(optimizer, 1e-20, 1.0, warmup)] if warmup else []
        fall = {
            "linear": lambda: schedulers.LinearLR(optimizer, 1.0, bottom, total - warmup),
            "cosine": lambda: schedulers.CosineAnnealingLR(optimizer, total - warmup, peak * bottom),
            "polynomial": lambda: schedulers.PolynomialLR(optimizer, total - warmup, power),
            "constant": lambda: schedulers.ConstantLR(optimizer, 1.0, 1),
        }[decay]()
        return schedulers.SequentialLR(optimizer, [*rise, fall], [warmup]) if rise else fall

    ours = walk(WarmupDecay(peak, warmup, total, decay, **settings), total + 1)
    assert_same(ours, torch_walk(peak, make, total + 1), peak)


@hundreds(max_examples=100)
@given(
    peak=rates,
    lengths=warmups,
    decay=st.sampled_from(["linear", "cosine", "polynomial"]),
    bottom=fractions,
    power=st.floats(0.5, 4),
)
@example(peak=0.1, lengths=[0, 1], decay="linear", bottom=0.0, power=1.0)
@example(peak=0.1, lengths=[0, 1], decay="cosine", bottom=0.5, power=1.0)
def test_warmup_and_decay_are_optaxs(
    peak: float, lengths: list[int], decay: str, bottom: float, power: float
) -> None:
    warmup, total = lengths
    power = power if decay == "polynomial" else 1.0

    def make(optax: Any) -> Any:
        if decay == "cosine":
            return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, total, peak * bottom)
        rise = optax.linear_schedule(0.0, peak, warmup)
        fall = optax.polynomial_schedule(peak, peak * bottom, power, total - warmup)
        return optax.join_schedules([rise, fall], [warmup])

    ours = walk(WarmupDecay(peak, warmup, total, decay, power=power, end=peak * bottom))
    assert_same(ours, optax_walk(make), peak)


@pytest.mark.parametrize("warmup", [1, 4, 4000])
def test_the_inverse_square_root_is_the_transformers(warmup: int) -> None:
    """Vaswani et al. 2017, eq. 3: lrate = d_model^-0.5 min(step^-0.5, step warmup^-1.5)."""
    width = 512
    schedule = WarmupDecay(width**-0.5 * warmup**-0.5, warmup, decay="inverse_square_root")
    for step in (1, 2, 3, 4, 5, 3999, 4000, 4001, 100_000):
        assert schedule.at(step) == pytest.approx(
            width**-0.5 * min(step**-0.5, step * warmup**-1.5), rel=1e-12
        )


# --- OneCycle ---


@hundreds()
@given(
    rate=rates,
    total=steps,
    fraction=fractions | st.integers(0, 20).map(lambda n: n / 20),
    anneal=st.sampled_from(["cosine", "linear"]),
    div=st.floats(0.5, 100),
    final_div=st.floats(0.5, 1e5),
    three=st.booleans(),
    momentums=st.tuples(fractions, fractions).map(sorted),
)
@example(
    rate=1.0, total=1, fraction=0.3, anneal="cosine", div=25.0, final_div=1e4, three=False, momentums=[0, 1]
)
@example(
    rate=1.0, total=9, fraction=0.0, anneal="cosine", div=25.0, final_div=1e4, three=True, momentums=[0, 1]
)
@example(
    rate=1.0, total=9, fraction=1.0, anneal="linear", div=25.0, final_div=1e4, three=False, momentums=[0, 1]
)
def test_one_cycle_is_torchs_in_rate_and_momentum(
    rate: float,
    total: int,
    fraction: float,
    anneal: str,
    div: float,
    final_div: float,
    three: bool,
    momentums: list[float],
) -> None:
    fraction = fraction / 2 if three else fraction
    assume(fraction * total != 1)  # torch divides by the phase's length, 0
    base, most = momentums

    def make(schedulers: Any, optimizer: Any) -> Any:
        return schedulers.OneCycleLR(
            optimizer,
            rate,
            total_steps=total,
            pct_start=fraction,
            anneal_strategy={"cosine": "cos"}.get(anneal, anneal),
            base_momentum=base,
            max_momentum=most,
            div_factor=div,
            final_div_factor=final_div,
            three_phase=three,
        )

    ours = OneCycle(rate, total, fraction, anneal, div, final_div, three, base, most)
    assert_same(walk(ours, total), torch_walk(rate, make, total), rate * max(1, 1 / div, 1 / div / final_div))
    momentum = [ours.momentum_at(step) for step in range(total)]
    assert_same(momentum, torch_walk(rate, make, total, "momentum"), 1)
    assert ours.at(total) == ours.at(total + 99) == ours.at(total - 1)
    assert ours.momentum_at(total) == ours.momentum_at(total - 1)


@hundreds(max_examples=50)
@given(
    rate=rates, total=st.integers(4, SMALL), part=fractions, div=st.floats(2, 99), final_div=st.floats(2, 1e5)
)
def test_one_cycle_is_optaxs_with_a_step_more(
    rate: float, total: int, part: float, div: float, final_div: float
) -> None:
    """optax's peaks at int(fraction total) and ends at `total`, where torch's do a step earlier."""
    peak = 1 + round(part * (total // 2 - 2))
    longer = (rate, total + 1, (peak + 1) / (total + 1))
    fraction = (peak + 0.5) / total  # safely what int() makes the peak of
    theirs = optax_walk(lambda o: o.cosine_onecycle_schedule(total, rate, fraction, div, final_div))
    assert_same(walk(OneCycle(*longer, div_factor=div, final_div_factor=final_div)), theirs, rate)
    theirs = optax_walk(
        lambda o: o.linear_onecycle_schedule(total, rate, fraction, (2 * peak + 0.5) / total, div, final_div)
    )
    assert_same(walk(OneCycle(*longer, "linear", div, final_div, three_phase=True)), theirs, rate)


def test_one_cycle_without_room_for_a_phase_skips_it() -> None:
    """Where torch divides by zero: one step in all, or a warm-up that ends at the step it starts."""
    assert OneCycle(1.0, 1, 1.0).at(0) == OneCycle(1.0, 1, 1.0).at(1) == 1.0
    assert OneCycle(1.0, 10, 0.1).at(0) == 1.0
    assert OneCycle(1.0, 10, 0.1, three_phase=True).at(0) == 1.0


# --- every schedule: long, in float32, compiled ---

long = st.integers(1, 1_000_000)
phases = st.tuples(st.integers(0, 1_000_000), long).map(sorted)
SCHEDULES = st.one_of(
    st.builds(StepDecay, rates, long, st.floats(0.5, 1)),
    st.builds(StepDecay, rates, st.integers(1, 1000), st.floats(0.99, 1)),  # thousands of decays
    st.builds(StepDecay, rates, st.lists(long, max_size=3, unique=True).map(sorted), fractions),
    st.builds(CosineAnnealing, rates, long),
    st.builds(lambda r, n, x: CosineAnnealing(r, n, r * x), rates, long, fractions),
    st.builds(CosineAnnealing, rates, long, restarts=st.just(True)),
    st.builds(CosineAnnealing, rates, long, restarts=st.just(True), multiplier=st.just(2)),
    st.builds(
        lambda r, p, decay: WarmupDecay(r, p[0], p[1], decay),
        rates,
        phases,
        st.sampled_from(["linear", "cosine", "inverse_square_root", "constant"]),
    ),
    st.builds(
        lambda r, p, power, x: WarmupDecay(r, p[0], p[1], "polynomial", power, r * x),
        rates,
        phases,
        st.floats(0.25, 4),
        fractions,
    ),
    st.builds(OneCycle, rates, long, fractions, st.sampled_from(["cosine", "linear"])),
    st.builds(OneCycle, rates, long, st.floats(0, 0.5), three_phase=st.just(True)),
)


def places(schedule: Schedule, somewhere: Sequence[int]) -> list[int]:
    """Twelve steps: the first, the last and one past it, around the turns, and anywhere."""
    config: Any = schedule.get_config()
    ends = config.get("decay_steps", config.get("total_steps"))
    end = (ends[-1] if ends else 1) if isinstance(ends, list) else ends
    turn = config.get("warmup_steps", int(config.get("warmup_fraction", 0.5) * end))
    return [max(0, n) for n in (0, 1, turn - 1, turn, turn + 1, end - 2, end - 1, end, end + 1, *somewhere)]


anywhere = st.lists(st.integers(0, 1_000_000), min_size=3, max_size=3)


@hundreds()
@given(schedule=SCHEDULES, somewhere=anywhere)
def test_a_long_schedule_is_the_papers_formula(schedule: Schedule, somewhere: list[int]) -> None:
    for step in places(schedule, somewhere):
        with localcontext(prec=50):
            theirs = float(exact(schedule, step))
        assert schedule.at(step) == pytest.approx(theirs, rel=1e-12, abs=1e-40), (schedule, step)


@hundreds()
@given(schedule=SCHEDULES, somewhere=anywhere)
def test_float32_is_exact_to_rounding(schedule: Schedule, somewhere: list[int]) -> None:
    """Relative to each rate, not to the largest: the last steps of a cosine too."""
    where = places(schedule, somewhere)
    rate = numpy(schedule(np.array(where)))
    assert rate.dtype == np.float32
    np.testing.assert_allclose(
        rate, [schedule.at(step) for step in where], rtol=2e-6, atol=1e-36, err_msg=repr(schedule)
    )
    if isinstance(schedule, OneCycle):
        momentum = numpy(schedule.momentum(np.array(where)))
        np.testing.assert_allclose(momentum, [schedule.momentum_at(step) for step in where], rtol=2e-6)


EACH = [
    StepDecay(0.1, 30, 0.97),
    StepDecay(0.1, [3, 1000], 0.1),
    CosineAnnealing(0.1, 1000, 0.01),
    CosineAnnealing(0.1, 7, restarts=True),
    CosineAnnealing(0.1, 7, restarts=True, multiplier=3),
    WarmupDecay(0.1, 10, 1000, "linear"),
    WarmupDecay(0.1, 0, 100_000, "cosine"),
    WarmupDecay(0.1, 10, 1000, "polynomial", power=1.5, end=0.001),
    WarmupDecay(0.1, 10, decay="inverse_square_root"),
    WarmupDecay(0.1, 10, decay="constant"),
    OneCycle(0.1, 1001),
    OneCycle(0.1, 1001, 0.37, "linear", three_phase=True),
]


def test_compiled_code_computes_the_same_rates() -> None:
    each = [EACH[i] for i in (0, 1, 4, 6, 7, 8, 11)]  # every branch once: torch compiles for seconds
    compiled = backends.current().compile(lambda step: ops.stack([schedule(step) for schedule in each]))
    for step in (0, 1, 3, 7, 9, 10, 369, 370, 739, 999, 1000, 1001, 123_456):
        rate = numpy(compiled(ops.convert_to_tensor(step, dtype="int32")))
        ours = [schedule.at(step) for schedule in each]
        np.testing.assert_allclose(rate, ours, rtol=2e-6, atol=1e-36, err_msg=f"step {step}")


@pytest.mark.parametrize("kind", [int, np.int64, np.array, lambda n: ops.convert_to_tensor(n, dtype="int32")])
def test_a_step_may_be_any_integer(kind: Any) -> None:
    for schedule in EACH:
        assert float(schedule(kind(12))) == pytest.approx(schedule.at(12), rel=2e-6)


@pytest.mark.parametrize("schedule", EACH, ids=repr)
def test_an_optimizer_takes_the_first_rate_at_its_first_step(schedule: Schedule) -> None:
    """On a gradient of 1, SGD moves by the rates it was given."""
    weight = keras.Variable(np.zeros(1, np.float32), name="weight")
    optimizer, total = optimizers.SGD(schedule), 0.0
    for step in range(15):
        optimizer.apply([ops.ones((1,))], [weight])
        total += schedule.at(step)
        assert float(numpy(weight)[0]) == pytest.approx(-total, rel=3e-6)


@pytest.mark.parametrize("schedule", EACH, ids=repr)
def test_a_schedule_survives_saving_with_its_optimizer(schedule: Schedule) -> None:
    config = keras.optimizers.serialize(optimizers.AdamW(schedule))
    again = keras.optimizers.deserialize(config).rate
    assert type(again) is type(schedule)
    assert again.get_config() == schedule.get_config()
    for copy in (again, eval(repr(schedule))):
        for step in (*WALK, 999, 1000, 2000):  # past every turn
            assert copy.at(step) == schedule.at(step)


# --- what is refused ---


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: StepDecay(-0.1, 10, 0.5), "initial_learning_rate=-0.1"),
        (lambda: StepDecay(float("nan"), 10, 0.5), "initial_learning_rate=nan"),
        (lambda: StepDecay(float("inf"), 10, 0.5), "initial_learning_rate=inf"),
        (lambda: StepDecay(0.1, 0, 0.5), "decay_steps=0"),
        (lambda: StepDecay(0.1, 2.5, 0.5), "decay_steps=2.5"),  # pyright: ignore[reportArgumentType]
        (lambda: StepDecay(0.1, 2**31, 0.5), "decay_steps=2147483648"),
        (lambda: StepDecay(0.1, [0, 3], 0.5), "decay_steps=0"),
        (lambda: StepDecay(0.1, [3, 3], 0.5), r"decay_steps=\[3, 3\]"),
        (lambda: StepDecay(0.1, [5, 3], 0.5), r"decay_steps=\[5, 3\]"),
        (lambda: StepDecay(0.1, 10, 1.5), "decay_rate=1.5"),
        (lambda: CosineAnnealing(0.1, 0), "decay_steps=0"),
        (lambda: CosineAnnealing(0.1, 10, 0.2), "minimum=0.2"),
        (lambda: CosineAnnealing(0.1, 10, multiplier=2), "multiplier=2 .* needs restarts=True"),
        (lambda: CosineAnnealing(0.1, 10, restarts=True, multiplier=0), "multiplier=0"),
        (lambda: WarmupDecay(-1.0, 1, 10), "peak=-1.0"),
        (lambda: WarmupDecay(0.1, -1, 10), "warmup_steps=-1"),
        (lambda: WarmupDecay(0.1, 11, 10), "decay_steps=10 is below warmup_steps=11"),
        (lambda: WarmupDecay(0.1, 0, 0), "decay_steps=0"),
        (lambda: WarmupDecay(0.1, 1), "decay_steps=None"),
        (lambda: WarmupDecay(0.1, 1, 10, "cosin"), "no decay 'cosin'; nearest: cosine"),
        (lambda: WarmupDecay(0.1, 1, 10, end=0.2), "end=0.2"),
        (
            lambda: WarmupDecay(0.1, 1, 10, "constant", end=0.05),
            "end=0.05 has no effect with decay='constant'",
        ),
        (lambda: WarmupDecay(0.1, 1, 10, power=2.0), "power=2.0 has no effect with decay='linear'"),
        (lambda: WarmupDecay(0.1, 1, 10, "polynomial", power=0.0), "power=0.0"),
        (lambda: OneCycle(-0.1, 10), "max_learning_rate=-0.1"),
        (lambda: OneCycle(0.1, 0), "total_steps=0"),
        (lambda: OneCycle(0.1, 10, -0.1), "warmup_fraction=-0.1"),
        (lambda: OneCycle(0.1, 10, 1.1), "warmup_fraction=1.1"),
        (lambda: OneCycle(0.1, 10, 0.6, three_phase=True), "warmup_fraction=0.6; .* 0.5"),
        (lambda: OneCycle(0.1, 10, anneal="linaer"), "no anneal 'linaer'; nearest: linear"),
        (lambda: OneCycle(0.1, 10, div_factor=0), "div_factor=0"),
        (lambda: OneCycle(0.1, 10, final_div_factor=-1.0), "final_div_factor=-1.0"),
        (lambda: OneCycle(0.1, 10, max_momentum=1.5), "max_momentum=1.5"),
        (lambda: OneCycle(0.1, 10, base_momentum=0.99), "base_momentum=0.99"),
        (lambda: plot(steps=10), "no schedule given; expected one"),
        (lambda: plot(OneCycle(0.1, 10), steps=0), "steps=0"),
        (lambda: plot(OneCycle(0.1, 10), steps=10, path="rate.jpg"), r"rate\.jpg"),
    ],
)
def test_bad_settings_are_named(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said):
        make()


# --- pictures ---


def test_a_plot_draws_every_schedule_with_its_name_and_axes(tmp_path: Path) -> None:
    schedules = StepDecay(0.1, 30, 0.5), OneCycle(0.1, 100)
    chart = plot(*schedules, steps=100, path=tmp_path / "rates.svg")
    rows = chart.specification["data"]["values"]
    assert [row["rate"] for row in rows] == [s.at(step) for s in schedules for step in range(100)]
    svg = (tmp_path / "rates.svg").read_text(encoding="utf-8")
    assert svg == chart._repr_svg_()
    drawing = ElementTree.fromstring(svg)
    said = {text.text for text in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"step", "learning rate", *map(repr, schedules)} <= said
    lines = [path for path in drawing.iter() if path.get("aria-roledescription") == "line mark"]
    assert len(lines) == len(schedules)


def test_a_plot_of_a_long_schedule_is_small_and_has_both_ends(tmp_path: Path) -> None:
    chart = plot(WarmupDecay(1.0, 1000, 1_000_000), steps=1_000_000, path=tmp_path / "rate.png")
    rows = chart.specification["data"]["values"]
    assert (len(rows), rows[0]["step"], rows[-1]["step"]) == (1000, 0, 999_999)
    assert (tmp_path / "rate.png").read_bytes().startswith(b"\x89PNG")
