"""Optimizers where settings and gradients are at their edges: betas of 0 and just below 1, huge and tiny
rates, epsilons and gradients. The witness is the formula of `zoo.optimizers` in NumPy float64."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
from test_optimizers import Arrays, Driver, Settings, engines, formula, make, start, theirs

from zoo import optimizers, schedules

SHAPE, STEPS = (4, 3), 6
ULP = 1 - 2.0**-24  # the largest float32 below 1
BETAS = [0.0, 0.1, 0.5, 0.9, 0.999, ULP]
SCALES: dict[str, list[float]] = {  # of the gradients, one factor a step
    "of about 1": [1] * STEPS,
    "large, then small": [1e9, *[1] * (STEPS - 1)],
    "small, then large": [1e-9] * 3 + [1e6] * 3,
    "tiny": [1e-16] * STEPS,
    "denormal": [1e-41] * STEPS,
    "huge": [1e15] * STEPS,
    "zero at first": [0, *[1] * (STEPS - 1)],
}


def draws(name: str, count: int) -> Iterator[tuple[Settings, str]]:
    """Settings and the kind of gradients; the same at every run."""
    rng = random.Random(name)
    for _ in range(count):
        settings: Settings = {
            # LAMB's at a rate of 1 is the weight itself: what is left is rounding.
            "learning_rate": rng.choice([0.0, 1e-20, 1e-3, *([0.5, 2.0] if name == "LAMB" else [1.0, 1e8])]),
            "weight_decay": rng.choice([0.0, 0.0, 1e-12, 0.1, 10.0]),
        }
        if name == "Momentum":
            settings |= {"momentum": rng.choice(BETAS), "nesterov": rng.random() < 0.5}
        if name in ("Adam", "AdamW", "LAMB"):
            settings |= {"beta_1": rng.choice(BETAS), "beta_2": rng.choice(BETAS)}
            settings["epsilon"] = rng.choice([1e-30, 1e-8, 1.0, 1e10])
        if name in ("Adam", "AdamW"):
            settings["amsgrad"] = rng.random() < 0.3
        if name == "LAMB":
            settings["bias_correction"] = rng.random() < 0.6
        # What float32 cannot square has no norm in it.
        yield settings, rng.choice([kind for kind in SCALES if (name, kind) != ("LAMB", "denormal")])


def given(kind: str, seed: int = 0) -> tuple[np.ndarray, Arrays]:
    """Weights and gradients."""
    rng = np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2, SHAPE).astype(np.float32)
    signs = rng.choice([-1, 1], SHAPE)
    return weight, [(rng.uniform(0.5, 2, SHAPE) * signs * scale).astype(np.float32) for scale in SCALES[kind]]


def assert_the_formula(name: str, settings: Settings, kind: str, engine: str) -> None:
    """Within what roundings of the gradients and weights, each an ulp, make of the formula itself."""
    weight, gradients = given(kind)
    step = Driver(engine, make(name, settings), {"weight": weight})
    found = [step(gradient)[0] for gradient in gradients]
    expected = formula(name, settings, gradients, weight)
    rounded = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        off = [np.float64(x) * (1 + 2e-7 * rng.choice([-1, 1], SHAPE)) for x in (weight, *gradients)]
        rounded.append(formula(name, settings, off[1:], off[0]))
    for t, (ours, truth) in enumerate(zip(found, expected, strict=True)):
        spread = np.max([np.abs(path[t] - truth) for path in rounded], axis=0)
        before = np.abs(expected[t - 1] if t else weight)
        bound = 20 * spread + 1e-6 * np.maximum(np.abs(truth), before)
        wrong = ~(np.abs(ours - truth) <= bound)
        assert not wrong.any(), (settings, kind, t, ours[wrong][0], truth[wrong][0])


@engines
@pytest.mark.parametrize(
    ("name", "count"), [("SGD", 3), ("Momentum", 8), ("Adam", 14), ("AdamW", 8), ("LAMB", 8)]
)
def test_random_settings_at_the_edges_give_the_formula(name: str, count: int, engine: str) -> None:
    for settings, kind in draws(name, count):
        assert_the_formula(name, settings, kind, engine)


@engines
@pytest.mark.parametrize(("beta_1", "beta_2"), [(0.9, 0.0), (0.0, 0.999), (0.1, 0.1)])
@pytest.mark.parametrize("name", ["Adam", "AdamW", "LAMB"])
def test_small_betas_forget_a_large_gradient(name: str, beta_1: float, beta_2: float, engine: str) -> None:
    """As m + (g - m) (1 - b), what is left of a small g after a large m is the rounding of m."""
    settings = {"learning_rate": 0.1, "beta_1": beta_1, "beta_2": beta_2}
    assert_the_formula(name, settings, "large, then small", engine)


@engines
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_a_beta_of_0_after_a_large_gradient_is_torchs(name: str, engine: str) -> None:
    settings = {"learning_rate": 0.1, "beta_1": 0.0, "beta_2": 0.0}
    gradients = [np.full(SHAPE, x, np.float32) for x in (1e9, 1.0, 3.0)]
    step = Driver(engine, make(name, settings), {"weight": start()[0]})
    for gradient, expected in zip(gradients, theirs(name, settings, gradients), strict=True):
        np.testing.assert_allclose(step(gradient)[0], expected, rtol=0, atol=1e-6)


@engines
def test_nesterovs_momentum_of_0_is_plain_descent(engine: str) -> None:
    """torch.optim.SGD refuses it; the formula does not."""
    weight, gradients = given("of about 1")
    step = Driver(engine, optimizers.Momentum(0.1, 0.0, nesterov=True), {"weight": weight})
    for gradient in gradients:
        weight = weight - 0.1 * np.float64(gradient)
        np.testing.assert_allclose(step(gradient)[0], weight, rtol=0, atol=1e-6)
    velocity = step.state_dict()["momentum/weight"]  # at a momentum of 0 torch keeps none of its own
    np.testing.assert_allclose(velocity, gradients[-1], rtol=1e-6)


@engines
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_momentum_that_cycles_through_0_keeps_its_velocity(nesterov: bool, engine: str) -> None:
    rate = schedules.OneCycle(0.1, STEPS, 0.5, base_momentum=0.0, max_momentum=0.8)
    weight, gradients = given("of about 1")
    step = Driver(engine, optimizers.Momentum(rate, nesterov=nesterov), {"weight": weight})
    found = [step(gradient)[0] for gradient in gradients]
    rates, momenta = ([f(t) for t in range(STEPS)] for f in (rate.at, rate.momentum_at))
    assert min(momenta) == 0
    settings = {"learning_rate": rates, "momentum": momenta, "nesterov": nesterov}
    for a, b in zip(found, formula("Momentum", settings, gradients, weight), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-6)
