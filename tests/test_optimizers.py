"""Optimizers: torch.optim's, step for step, by Keras's `apply` and by the native optimizer.

The witnesses are the formulas of `zoo.optimizers` in NumPy float64, torch.optim, and optax in float64.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from math import cos, inf, nan, pi
from typing import Any

import keras
import numpy as np
import pytest
from conftest import QUICK_MODES, numpy

import zoo
from zoo import backends, layers, optimizers, schedules, training

LossScaling = backends.LossScaling
Settings = dict[str, Any]
Arrays = list[np.ndarray]
Witness = Callable[[str, Settings], Arrays]

STEPS, SHAPE = 20, (4, 3)
CASES = [
    ("SGD", {"learning_rate": 0.1}),
    ("SGD", {"learning_rate": 0.1, "weight_decay": 0.2}),
    ("Momentum", {"learning_rate": 0.1}),
    ("Momentum", {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.2}),
    ("Momentum", {"learning_rate": 0.1, "momentum": 0.8, "weight_decay": 0.2, "nesterov": True}),
    ("Adam", {"learning_rate": 1e-2}),
    ("Adam", {"learning_rate": 1e-2, "weight_decay": 0.5, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    ("Adam", {"learning_rate": 1e-2, "weight_decay": 0.5, "beta_2": 0.5, "amsgrad": True}),
    ("AdamW", {"learning_rate": 1e-2}),
    ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.5, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.0, "beta_1": 0.0}),
    ("AdamW", {"learning_rate": 1.0, "weight_decay": 0.5}),  # so large that no rounding hides an error
    ("AdamW", {"learning_rate": 1e-2, "weight_decay": 0.5, "beta_2": 0.5, "amsgrad": True}),
    ("LAMB", {"learning_rate": 1e-2}),
    ("LAMB", {"learning_rate": 1e-2, "weight_decay": 0.5, "beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3}),
    ("LAMB", {"learning_rate": 1e-2, "bias_correction": False}),
]
DECAYS = {"AdamW": 0.01, "LAMB": 0.01}  # the defaults that are not 0
PLAIN = [
    ("SGD", {"learning_rate": 0.1}),
    ("Momentum", {"learning_rate": 0.1, "nesterov": True}),
    ("Adam", {"learning_rate": 1e-2}),
    ("Adam", {"learning_rate": 1e-2, "amsgrad": True}),
    ("AdamW", {"learning_rate": 1e-2}),
    ("LAMB", {"learning_rate": 1e-2}),
]


def start() -> tuple[np.ndarray, Arrays]:
    rng = np.random.default_rng(0)
    return rng.normal(size=SHAPE).astype(np.float32), [
        rng.normal(size=SHAPE).astype(np.float32) for _ in range(STEPS)
    ]


# Ours


class Driver:
    """Variables, and what updates them: the optimizer as Keras applies it, or the native optimizer.

    On JAX as `fit` and the native step run them: one compiled pure function.
    """

    def __init__(
        self,
        engine: str,
        optimizer: Any,
        weights: Mapping[str, np.ndarray],
        scaling: LossScaling | None = None,
    ):
        self.variables = [variable(path, weight) for path, weight in weights.items()]
        self.optimizer: Any = optimizer
        if engine == "native":
            self.optimizer = backends.current().updater(optimizer, self.variables, scaling)
            self.apply: Callable[[list], None] = self.optimizer
            if backends.current().NAME == "jax":
                self.optimizer.pure = compiled(self.optimizer.pure)
            return
        if scaling is not None:
            self.optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, initial_scale=scaling.initial_scale, dynamic_growth_steps=scaling.growth_steps
            )
        self.optimizer.build(self.variables)
        if backends.current().NAME == "jax":
            self.pure = compiled(self.optimizer.stateless_apply)
            self.apply = self.apply_pure
        else:
            self.apply = lambda gradients: self.optimizer.apply(gradients, self.variables)

    def apply_pure(self, gradients: list) -> None:
        state = self.optimizer.variables
        weights, others = self.pure([v.value for v in state], gradients, [v.value for v in self.variables])
        for v, value in zip([*self.variables, *state], [*weights, *others], strict=True):
            v.assign(value)

    def __call__(self, *gradients: np.ndarray) -> Arrays:
        """The weights after a batch with these gradients."""
        self.apply([keras.ops.convert_to_tensor(g) for g in gradients])
        return self.weights()

    def weights(self) -> Arrays:
        return [np.array(numpy(v)) for v in self.variables]

    def state_dict(self) -> dict[str, np.ndarray]:
        return {name: np.array(x) for name, x in self.optimizer.state_dict().items()}

    def finish(self) -> Arrays:
        """The weights once training has ended."""
        if hasattr(self.optimizer, "copy_ema_to_weights"):
            self.optimizer.copy_ema_to_weights()
        else:
            self.optimizer.finalize_variable_values(self.variables)
        return self.weights()


def compiled(function: Callable) -> Callable:
    import jax

    return jax.jit(function)


def variable(path: str, value: np.ndarray) -> keras.Variable:
    *scope, name = path.split("/")
    if not scope:
        return keras.Variable(value, name=name)
    with keras.name_scope("/".join(scope)):
        return keras.Variable(value, name=name)


def make(name: str, settings: Settings) -> optimizers.Optimizer:
    return getattr(optimizers, name)(**settings)


PATHS: dict[str, Arrays] = {}


def ours(
    name: str, settings: Settings, engine: str = "keras", gradients: Sequence[np.ndarray] | None = None
) -> Arrays:
    """The weight after every batch by the zoo's optimizer; found once for each of a test's witnesses."""
    weight, usual = start()
    key = f"{name} {settings} {engine}"
    if gradients is not None or key not in PATHS:
        step = Driver(engine, make(name, settings), {"weight": weight})
        path = [step(gradient)[0] for gradient in (usual if gradients is None else gradients)]
        if gradients is not None:
            return path
        PATHS[key] = path
    return PATHS[key]


# Witnesses


def formula(
    name: str,
    settings: Settings,
    gradients: Sequence[np.ndarray] | None = None,
    weight: np.ndarray | None = None,
) -> Arrays:
    """The same in NumPy float64, as the papers and torch.optim's documentation have it.

    The rate and the momentum (Adam's beta_1) may be lists, one number an update.
    """

    def now(setting: Any) -> float:
        return setting[t - 1] if isinstance(setting, list) else setting

    first, usual = start()
    w = np.float64(first if weight is None else weight)
    decay = settings.get("weight_decay", DECAYS.get(name, 0.0))
    e = settings.get("epsilon", 1e-6 if name == "LAMB" else 1e-8)
    m, v, largest, path = np.zeros(w.shape), np.zeros(w.shape), np.zeros(w.shape), []
    for t, gradient in enumerate(usual if gradients is None else gradients, start=1):
        rate, g = now(settings["learning_rate"]), np.float64(gradient)
        if name in ("SGD", "Momentum", "Adam"):
            g = g + decay * w
        if name in ("SGD", "Momentum"):
            mu = now(settings.get("momentum", 0.9)) if name == "Momentum" else 0.0
            m = mu * m + g
            w = w - rate * (g + mu * m if settings.get("nesterov") else m)
        else:
            b1, b2 = now(settings.get("beta_1", 0.9)), settings.get("beta_2", 0.999)
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            largest = np.maximum(largest, v)
            top = largest if settings.get("amsgrad") else v
            if settings.get("bias_correction", True):
                r = (m / (1 - b1**t)) / (np.sqrt(top / (1 - b2**t)) + e)
            else:
                r = m / (np.sqrt(top) + e)
            if name == "LAMB":
                r = r + decay * w
                size, length = np.sqrt(np.sum(w * w)), np.sqrt(np.sum(r * r))
                w = w - rate * (size / length if size > 0 and length > 0 else 1.0) * r
            else:
                w = w * (1 - rate * decay if name == "AdamW" else 1) - rate * r
        path.append(w)
    return path


def theirs(
    name: str,
    settings: Settings,
    gradients: Sequence[np.ndarray] | None = None,
    schedule: Callable[[Any, Any], Any] | None = None,
) -> Arrays:
    """The same by torch.optim; `schedule` makes one of torch.optim.lr_scheduler's."""
    torch = pytest.importorskip("torch")
    weight, usual = start()
    w = torch.nn.Parameter(torch.tensor(weight))
    optimizer = torch_optimizer(name, settings, [w])
    scheduler = schedule(torch.optim.lr_scheduler, optimizer) if schedule else None
    path = []
    for gradient in usual if gradients is None else gradients:
        w.grad = torch.tensor(gradient)
        optimizer.step()
        if scheduler:
            scheduler.step()
        path.append(w.detach().numpy().copy())
    return path


def torch_optimizer(name: str, settings: Settings, weights: list) -> Any:
    """torch.optim's, of parameters or of groups of them."""
    import torch

    words = {"learning_rate": "lr", "epsilon": "eps"}
    same = ("weight_decay", "nesterov", "amsgrad")
    arguments = {words.get(k, k): x for k, x in settings.items() if k in words or k in same}
    if name == "Momentum":
        return torch.optim.SGD(weights, momentum=settings.get("momentum", 0.9), **arguments)
    if name in ("Adam", "AdamW"):
        arguments["betas"] = (settings.get("beta_1", 0.9), settings.get("beta_2", 0.999))
    return getattr(torch.optim, name)(weights, **arguments)


def optax_s(name: str, settings: Settings) -> Arrays:
    """The same by optax, in float64: in float32 its bias correction is 6e-6 off at first."""
    jax, optax = pytest.importorskip("jax"), pytest.importorskip("optax")
    rate, decay = settings["learning_rate"], settings.get("weight_decay", DECAYS.get(name, 0.0))
    words = {"beta_1": "b1", "beta_2": "b2", "epsilon": "eps"}
    moments = {"eps": 1e-6 if name == "LAMB" else 1e-8}
    moments |= {words[k]: x for k, x in settings.items() if k in words}
    momentum = settings.get("momentum", 0.9) if name == "Momentum" else None
    transform = {
        "SGD": lambda: optax.sgd(rate),
        "Momentum": lambda: optax.sgd(rate, momentum, settings.get("nesterov", False)),
        "Adam": lambda: optax.adam(rate, **moments),
        "AdamW": lambda: optax.adamw(rate, weight_decay=decay, **moments),
        "LAMB": lambda: optax.lamb(rate, weight_decay=decay, **moments),
    }[name]()
    if decay and name in ("SGD", "Momentum", "Adam"):
        transform = optax.chain(optax.add_decayed_weights(decay), transform)
    weight, gradients = start()
    path = []
    with jax.enable_x64(True):
        w = jax.numpy.asarray(weight, "float64")
        state = transform.init(w)
        for gradient in gradients:
            updates, state = transform.update(jax.numpy.asarray(gradient, "float64"), state, w)
            w = optax.apply_updates(w, updates)
            path.append(np.array(w))
    assert path[0].dtype == np.float64
    return path


def witnesses() -> Iterator[Any]:
    for name, settings in CASES:
        plain = not settings.get("amsgrad") and settings.get("bias_correction", True)
        yield formula, name, settings
        if name != "LAMB":  # torch.optim has none
            yield theirs, name, settings
        if plain:  # optax defines AMSGrad otherwise, and always corrects the bias
            yield optax_s, name, settings


def assert_same_updates(a: Arrays, b: Arrays, weight: np.ndarray | None = None) -> None:
    """Every update within 1e-6 of the largest, and a rounding of the weight it is added to."""
    assert len(a) == len(b)
    first = start()[0] if weight is None else weight
    for before_a, after_a, before_b, after_b in zip([first, *a], a, [first, *b], b, strict=False):
        update_a, update_b = np.float64(after_a) - before_a, np.float64(after_b) - before_b
        rounding = 4 * np.spacing(np.float32(np.abs(before_a).max()))
        assert np.abs(update_a - update_b).max() <= 1e-6 * np.abs(update_b).max() + rounding


engines = pytest.mark.parametrize("engine", training.ENGINES)


# The update


@engines
@pytest.mark.parametrize(("witness", "name", "settings"), list(witnesses()))
def test_every_update_equals_the_formula_torch_and_optax(
    witness: Witness, name: str, settings: Settings, engine: str
) -> None:
    assert_same_updates(ours(name, settings, engine), witness(name, settings))


@engines
@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_the_first_step_of_adam_corrects_its_bias_exactly(name: str, engine: str) -> None:
    """1 - 0.999 in float32 is off by 1.3e-5; Adam's first update is the rate times the gradient's sign."""
    gradient = start()[1][0]
    (weight,) = Driver(engine, make(name, {"learning_rate": 1.0}), {"w": np.zeros(SHAPE, np.float32)})(
        gradient
    )
    expected = -np.float64(gradient) / (np.abs(np.float64(gradient)) + 1e-8)
    np.testing.assert_allclose(weight, expected, rtol=5e-7)


@pytest.mark.parametrize("settings", [{}, {"amsgrad": True}, {"beta_1": 0.5, "beta_2": 0.99}])
def test_an_updater_called_outside_a_compiled_step_is_as_exact(settings: Settings) -> None:
    """As in the mode "eager", where JAX compiles each operation alone and may round it otherwise."""
    ones = [np.ones(SHAPE, np.float32)] * 8
    variable = keras.Variable(np.zeros(SHAPE, np.float32), name="weight")
    updater = backends.current().updater(optimizers.Adam(1.0, **settings), [variable])
    for t, gradient in enumerate(ones, start=1):  # by a constant gradient it moves by the rate
        updater([keras.ops.convert_to_tensor(gradient)])
        np.testing.assert_allclose(numpy(variable), -t, rtol=1e-6)


@engines
def test_the_trust_ratio_of_lamb_is_one_where_the_weight_or_the_update_is_zero(engine: str) -> None:
    zeros, (gradient, *_) = np.zeros(SHAPE, np.float32), start()[1]
    (weight,) = Driver(engine, optimizers.LAMB(0.5), {"w": zeros})(gradient)
    np.testing.assert_allclose(weight, -0.5 * np.sign(gradient), rtol=1e-5)
    ones = np.ones(SHAPE, np.float32)
    (weight,) = Driver(engine, optimizers.LAMB(0.5, weight_decay=0.0), {"w": ones})(zeros)
    np.testing.assert_array_equal(weight, ones)


# Schedules


@engines
@pytest.mark.parametrize("nesterov", [False, True])
def test_a_change_of_rate_acts_on_all_of_the_velocity(nesterov: bool, engine: str) -> None:
    """The velocity sums gradients, as torch's: under a constant gradient the steps shrink tenfold at once."""
    gradients = [start()[1][0]] * STEPS
    rest = {"momentum": 0.9, "nesterov": nesterov}
    schedule = schedules.StepDecay(0.1, [10], 0.1)
    found = ours("Momentum", {"learning_rate": schedule, **rest}, engine, gradients)
    rates = [0.1] * 10 + [0.01] * (STEPS - 10)
    assert_same_updates(found, formula("Momentum", {"learning_rate": rates, **rest}, gradients))
    shrunk = np.abs(found[10] - found[9]).max() / np.abs(found[9] - found[8]).max()
    assert 0.1 < shrunk < 0.11


@engines
@pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW"])
def test_a_schedule_of_rates_follows_torch(name: str, engine: str) -> None:
    settings = {"weight_decay": 0.3}
    found = ours(name, {"learning_rate": schedules.StepDecay(0.1, [5, 12], 0.1), **settings}, engine)
    expected = theirs(
        name,
        {"learning_rate": 0.1, **settings},
        schedule=lambda kinds, optimizer: kinds.MultiStepLR(optimizer, [5, 12], 0.1),
    )
    assert_same_updates(found, expected)


CYCLED = [
    ("Momentum", {"weight_decay": 0.1}),
    ("Momentum", {"nesterov": True}),
    ("Adam", {"amsgrad": True}),
    ("AdamW", {"weight_decay": 0.1}),
    ("LAMB", {}),
]


def one_cycle(peak: float) -> tuple[list[float], list[float]]:
    """Smith and Topin's rates and momentums of every step, half a cosine up, half a cosine down."""

    def between(a: float, b: float, share: float) -> float:
        return b + (a - b) / 2 * (1 + cos(pi * share))

    top, last = 0.3 * STEPS - 1, STEPS - 1
    rates, momentums = [], []
    for step in range(STEPS):
        if step <= top:
            rates.append(between(peak / 25, peak, step / top))
            momentums.append(between(0.95, 0.85, step / top))
        else:
            share = (step - top) / (last - top)
            rates.append(between(peak, peak / 25 / 1e4, share))
            momentums.append(between(0.85, 0.95, share))
    return rates, momentums


@engines
@pytest.mark.parametrize("cycled", [True, False])
@pytest.mark.parametrize(
    ("name", "settings", "witness"),
    [(*case, witness) for case in CYCLED for witness in ("formula", "torch")[: 1 + (case[0] != "LAMB")]],
)
def test_one_cycle_cycles_the_momentum_unless_told_not_to(
    name: str, settings: Settings, witness: str, cycled: bool, engine: str
) -> None:
    """Momentum's momentum, Adam's beta_1: torch.optim.lr_scheduler.OneCycleLR(cycle_momentum=...)."""
    schedule = schedules.OneCycle(0.02, STEPS, cycle_momentum=cycled)
    found = ours(name, {"learning_rate": schedule, **settings}, engine)
    if witness == "formula":
        rates, momentums = one_cycle(0.02)
        cycle = {"momentum" if name == "Momentum" else "beta_1": momentums} if cycled else {}
        expected = formula(name, {**settings, "learning_rate": rates, **cycle})
    else:
        expected = theirs(
            name,
            {**settings, "learning_rate": 0.02},
            schedule=lambda kinds, optimizer: kinds.OneCycleLR(
                optimizer, 0.02, total_steps=STEPS, cycle_momentum=cycled
            ),
        )
    assert_same_updates(found, expected)


# Clipping


def three() -> dict[str, np.ndarray]:
    """Gradients of three variables: two longer than 1, one all zeros."""
    rng = np.random.default_rng(2)
    return {
        "a/kernel": rng.normal(size=(3, 4)).astype(np.float32),
        "a/bias": 5 * rng.normal(size=4).astype(np.float32),
        "b/kernel": np.zeros((2, 2), np.float32),
    }


def clipped(engine: str, **settings: Any) -> Arrays:
    """What SGD with rate 1 takes from weights of 0: the clipped gradients."""
    gradients = three()
    weights = {path: np.zeros_like(g) for path, g in gradients.items()}
    return [-w for w in Driver(engine, optimizers.SGD(1.0, **settings), weights)(*gradients.values())]


def assert_all_close(found: Sequence[Any], expected: Sequence[Any], rtol: float = 1e-6) -> None:
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=0)


@engines
def test_clipvalue_clips_each_number_as_torch_does(engine: str) -> None:
    found, gradients = clipped(engine, clipvalue=0.5), list(three().values())
    assert_all_close(found, [np.clip(g, -0.5, 0.5) for g in gradients])
    torch = pytest.importorskip("torch")
    parameters = [torch.nn.Parameter(torch.zeros(g.shape)) for g in gradients]
    for parameter, g in zip(parameters, gradients, strict=True):
        parameter.grad = torch.tensor(g)
    torch.nn.utils.clip_grad_value_(parameters, 0.5)
    assert_all_close(found, [p.grad.numpy() for p in parameters])


@engines
@pytest.mark.parametrize("clip", [1.0, 4.0, 100.0])
def test_clipnorm_clips_each_gradient_by_its_own_norm(clip: float, engine: str) -> None:
    def alone(g: np.ndarray) -> np.ndarray:
        length = np.linalg.norm(np.float64(g))
        return g * (clip / length if length > clip else 1.0)

    assert_all_close(clipped(engine, clipnorm=clip), [alone(g) for g in three().values()])


@engines
@pytest.mark.parametrize("clip", [1.0, 4.0, 100.0])
def test_global_clipnorm_clips_all_by_the_norm_of_all_as_optax_does(clip: float, engine: str) -> None:
    found, gradients = clipped(engine, global_clipnorm=clip), list(three().values())
    length = np.sqrt(sum(np.sum(np.float64(g) ** 2) for g in gradients))
    assert_all_close(found, [g * min(1.0, clip / length) for g in gradients])
    optax = pytest.importorskip("optax")
    expected = optax.clip_by_global_norm(clip).update(gradients, optax.EmptyState())[0]
    assert_all_close(found, [np.asarray(g) for g in expected])


@engines
def test_what_is_clipped_is_the_mean_of_the_unscaled_gradients(engine: str) -> None:
    """After the loss's scale is divided out, and after accumulation: not the clipped parts' mean."""
    settings = {"clipnorm": 1.0, "gradient_accumulation_steps": 2, "loss_scale_factor": 4.0}
    step = Driver(engine, optimizers.SGD(1.0, **settings), {"w": np.zeros(2, np.float32)})
    step(np.array([16, 0], np.float32))
    (weight,) = step(np.array([-16, 2], np.float32))  # the mean, unscaled: 0, 0.25
    np.testing.assert_allclose(weight, [0, -0.25], rtol=1e-6)


# Accumulation


@engines
@pytest.mark.parametrize(("name", "settings"), PLAIN)
def test_accumulated_gradients_make_the_update_of_their_mean(
    name: str, settings: Settings, engine: str
) -> None:
    """In between the weights rest; t and the schedule count updates; what is left over changes nothing."""
    every, gradients = 3, start()[1]
    rate = settings["learning_rate"]
    schedule = schedules.StepDecay(rate, [2, 5], 0.5)
    found = ours(
        name,
        {**settings, "learning_rate": schedule, "weight_decay": 0.1, "gradient_accumulation_steps": every},
        engine,
    )
    before = [start()[0], *found]
    for batch in range(STEPS):
        if (batch + 1) % every:
            np.testing.assert_array_equal(before[batch + 1], before[batch])
    assert STEPS % every == 2
    groups = [gradients[i : i + every] for i in range(0, STEPS - 2, every)]
    means = [np.mean(np.float64(group), axis=0) for group in groups]
    rates = [rate * 0.5 ** ((i >= 2) + (i >= 5)) for i in range(len(means))]
    expected = formula(name, {**settings, "learning_rate": rates, "weight_decay": 0.1}, means)
    assert_same_updates(found[every - 1 :: every], expected)


@engines
def test_accumulation_cycles_the_momentum_by_updates(engine: str) -> None:
    schedule = schedules.OneCycle(0.02, STEPS)
    settings = {"learning_rate": schedule, "gradient_accumulation_steps": 2}
    doubled = [g for gradient in start()[1] for g in (gradient, gradient)]
    found = ours("AdamW", settings, engine, doubled)
    assert_same_updates(found[1::2], ours("AdamW", {"learning_rate": schedule}, engine))


# Averages


def averages(weights: Sequence[np.ndarray], momentum: float) -> Arrays:
    """The average after each of these weights, in float64; the first is the first weight itself."""
    path = [np.float64(weights[0])]
    for weight in weights[1:]:
        path.append(momentum * path[-1] + (1 - momentum) * np.float64(weight))
    return path


def averaged_model_s(weights: Sequence[np.ndarray], momentum: float) -> Arrays:
    """The same by torch."""
    torch = pytest.importorskip("torch")
    utils = torch.optim.swa_utils
    model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor(weights[0]))])
    average = utils.AveragedModel(model, multi_avg_fn=utils.get_ema_multi_avg_fn(momentum))
    path = []
    for weight in weights:
        with torch.no_grad():
            model[0].copy_(torch.tensor(weight))
        average.update_parameters(model)
        path.append(average.module[0].detach().numpy().copy())
    return path


@engines
@pytest.mark.parametrize("every", [None, 3])
@pytest.mark.parametrize(("name", "settings"), [PLAIN[0], PLAIN[1], PLAIN[4]])
def test_the_average_moves_once_an_update_as_torch_s_does(
    name: str, settings: Settings, every: int | None, engine: str
) -> None:
    weight, gradients = start()
    plain = {**settings, "gradient_accumulation_steps": every}
    step = Driver(engine, make(name, {**plain, "use_ema": True, "ema_momentum": 0.8}), {"weight": weight})
    found, path = [], []
    for batch, gradient in enumerate(gradients, start=1):
        (after,) = step(gradient)
        if batch % (every or 1) == 0:
            path.append(after)
            found.append(step.state_dict()["average/weight"])
    np.testing.assert_allclose(found, averages(path, 0.8), rtol=0, atol=1e-6)
    for a, b in zip(path, ours(name, plain, engine)[(every or 1) - 1 :: every or 1], strict=True):
        np.testing.assert_array_equal(a, b)  # the weights themselves go on as without an average
    last = step.state_dict()["average/weight"]
    np.testing.assert_array_equal(step.finish()[0], last)
    np.testing.assert_allclose(found, averaged_model_s(path, 0.8), rtol=0, atol=1e-6)  # where torch is


@engines
@pytest.mark.parametrize("every", [1, 2])
def test_the_average_replaces_the_weights_every_so_many_updates(every: int, engine: str) -> None:
    weight, gradients = start()
    settings = {"use_ema": True, "ema_momentum": 0.5, "ema_overwrite_frequency": 3}
    if every > 1:
        settings["gradient_accumulation_steps"] = every
    step = Driver(engine, optimizers.SGD(0.1, **settings), {"weight": weight})
    w, average = np.float64(weight), None
    for update, gradient in enumerate(gradients[: STEPS // every], start=1):
        for _ in range(every):
            (found,) = step(gradient)
        w = w - 0.1 * np.float64(gradient)
        average = w if average is None else 0.5 * average + 0.5 * w
        w = average if update % 3 == 0 else w
        np.testing.assert_allclose(found, w, rtol=0, atol=2e-6)


@engines
def test_without_an_update_there_is_no_average_to_end_with(engine: str) -> None:
    weight, gradients = start()
    settings = {"use_ema": True, "gradient_accumulation_steps": 2}
    step = Driver(engine, optimizers.SGD(0.1, **settings), {"weight": weight})
    step(gradients[0])
    np.testing.assert_array_equal(step.finish()[0], weight)


# Groups


GROUPS = {
    "bias": {"weight_decay": 0.0},
    "^head/": {"learning_rate_multiplier": 10.0, "weight_decay": 0.3},
    "frozen": {"learning_rate_multiplier": 0.0},
    "kernel|bias": {"learning_rate_multiplier": 99.0},
}
# path -> what the first pattern found in it says; the last is found in none
OWN = {
    "body/bias": {"weight_decay": 0.0},
    "head/kernel": {"learning_rate_multiplier": 10.0, "weight_decay": 0.3},
    "head/bias": {"weight_decay": 0.0},
    "body/frozen": {"learning_rate_multiplier": 0.0},
    "body/scale": {},
}


def grouped(name: str, settings: Settings, engine: str) -> tuple[list[Arrays], dict[str, np.ndarray], list]:
    """Each variable's path through two rates, their weights at first, their gradients."""
    rng = np.random.default_rng(3)
    weights = {path: rng.normal(size=SHAPE).astype(np.float32) for path in OWN}
    batches = [[rng.normal(size=SHAPE).astype(np.float32) for _ in OWN] for _ in range(10)]
    schedule = schedules.StepDecay(settings["learning_rate"], [5], 0.1)
    optimizer = make(name, {**settings, "learning_rate": schedule, "weight_decay": 0.1, "groups": GROUPS})
    step = Driver(engine, optimizer, weights)
    paths = list(zip(*(step(*gradients) for gradients in batches), strict=True))
    return [list(path) for path in paths], weights, batches


@engines
@pytest.mark.parametrize(("name", "settings"), PLAIN)
def test_groups_set_rate_and_decay_by_pattern_and_the_first_match_wins(
    name: str, settings: Settings, engine: str
) -> None:
    paths, weights, batches = grouped(name, settings, engine)
    for path, found, gradients in zip(OWN, paths, zip(*batches, strict=True), strict=True):
        own = {"weight_decay": 0.1, **OWN[path]}
        rate = settings["learning_rate"] * own.pop("learning_rate_multiplier", 1.0)
        rates = [rate] * 5 + [rate * 0.1] * 5
        expected = formula(name, {**settings, **own, "learning_rate": rates}, gradients, weights[path])
        assert_same_updates(found, expected, weights[path])
        if path == "body/frozen":
            np.testing.assert_array_equal(found[-1], weights[path])


@engines
@pytest.mark.parametrize(("name", "settings"), [case for case in PLAIN if case[0] != "LAMB"])
def test_groups_are_torch_s_parameter_groups(name: str, settings: Settings, engine: str) -> None:
    torch = pytest.importorskip("torch")
    paths, weights, batches = grouped(name, settings, engine)
    parameters = {path: torch.nn.Parameter(torch.tensor(w)) for path, w in weights.items()}
    rate = settings["learning_rate"]
    groups = [
        {
            "params": [parameters[path]],
            "lr": rate * own.get("learning_rate_multiplier", 1.0),
            "weight_decay": own.get("weight_decay", 0.1),
        }
        for path, own in OWN.items()
    ]
    optimizer = torch_optimizer(name, settings, groups)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [5], 0.1)
    expected: list[Arrays] = [[] for _ in OWN]
    for gradients in batches:
        for parameter, gradient in zip(parameters.values(), gradients, strict=True):
            parameter.grad = torch.tensor(gradient)
        optimizer.step()
        scheduler.step()
        for path, parameter in zip(expected, parameters.values(), strict=True):
            path.append(parameter.detach().numpy().copy())
    for found, path, weight in zip(paths, expected, weights.values(), strict=True):
        assert_same_updates(found, path, weight)


# Loss scaling


@engines
@pytest.mark.parametrize(("name", "settings"), PLAIN)
def test_a_fixed_loss_scale_is_divided_out_of_the_gradients(
    name: str, settings: Settings, engine: str
) -> None:
    """Of gradients so many times as large."""
    scaled = [1024 * g for g in start()[1]]
    found = ours(name, {**settings, "loss_scale_factor": 1024.0}, engine, scaled)
    assert_same_updates(found, ours(name, settings, engine))


def faint(engine: str, mode: str | None = None, **settings: Any) -> np.ndarray:
    """A kernel after a step whose gradient, 1e-30, has underflown on its way: 1e30 (1e-30 (1e-30))."""
    image = layers.Input((1,))
    model = layers.Model(image, layers.dense(image, 1, initializer=zoo.random.zeros, name="head"))
    x, y = np.full((2, 1), 1e30, np.float32), np.full((2, 1), 1e-30, np.float32)

    def loss(y: Any, logits: Any) -> Any:
        return keras.ops.mean(logits * y * y)

    optimizer = optimizers.SGD(1e30, **settings)
    zoo.train(
        model, (x, y), engine=engine, mode=mode, loss=loss, optimizer=optimizer, steps=1, progress=False
    )
    return numpy(model.trainable_variables[0])


WAYS = [*(("native", mode) for mode in QUICK_MODES), ("keras", None)]


@pytest.mark.parametrize(("engine", "mode"), WAYS)
def test_a_fixed_loss_scale_reaches_the_gradients(engine: str, mode: str | None) -> None:
    np.testing.assert_array_equal(faint(engine, mode), 0)
    np.testing.assert_allclose(faint(engine, mode, loss_scale_factor=1e30), -1, rtol=1e-5)


def test_the_updater_s_scale_multiplies_the_loss() -> None:
    def scaled(scaling: LossScaling | None, **settings: Any) -> float:
        updater: Any = backends.current().updater(
            optimizers.SGD(0.1, **settings), [keras.Variable(np.zeros(2, np.float32), name="w")], scaling
        )
        state = [updater.state] if backends.current().NAME == "jax" else []  # there it is no attribute's
        return float(numpy(updater.scale(keras.ops.convert_to_tensor(np.float32(3)), *state)))

    assert scaled(None) == 3
    assert scaled(None, loss_scale_factor=4.0) == 12
    assert scaled(LossScaling(initial_scale=8.0)) == 24
    assert scaled(LossScaling(initial_scale=8.0), loss_scale_factor=4.0) == 24  # one scale, not both


# What a batch's gradients hold besides numbers
SPOILT = (None, None, inf, None, nan, None, None, None, None, -inf, inf, None, None)


def corrupt(gradient: np.ndarray, by: float | None) -> np.ndarray:
    out = np.array(gradient)
    if by is not None:
        out[1, 1] = by
    return out


def rule(initial: float, growth: int) -> list[tuple[float, int]]:
    """torch.amp.GradScaler's scale and count after each batch: half, or double after so many good ones."""
    scale, good, path = initial, 0, []
    for by in SPOILT:
        if by is not None:
            scale, good = scale / 2, 0
        elif good + 1 == growth:
            scale, good = scale * 2, 0
        else:
            good += 1
        path.append((scale, good))
    return path


@pytest.mark.parametrize(("name", "settings"), PLAIN)
def test_dynamic_loss_scaling_is_grad_scaler_s_rule(name: str, settings: Settings) -> None:
    """What is not finite halves the scale, is skipped, starts the count anew; good steps double it."""
    weight, gradients = start()
    step = Driver("native", make(name, settings), {"weight": weight}, LossScaling(8.0, 2))
    expected = iter(
        formula(name, settings, [g for g, by in zip(gradients, SPOILT, strict=False) if by is None])
    )
    scale, before, path, good = 8.0, weight, [], rule(8.0, 2)
    for gradient, by, (new, count) in zip(gradients, SPOILT, good, strict=False):
        (after,) = step(corrupt(gradient * np.float32(scale), by))
        if by is None:
            path.append(after)
        else:
            np.testing.assert_array_equal(after, before)
        state = step.state_dict()
        assert (float(state["scale"]), int(state["scale_steps"])) == (new, count)
        assert int(state["batches"]) == len(path)
        scale, before = new, after
    assert_same_updates(path, list(expected))


def test_dynamic_loss_scaling_equals_keras_s_and_torch_s() -> None:
    """keras.optimizers.LossScaleOptimizer and torch.amp.GradScaler, batch by batch."""

    def scales(step: Driver, scale: Callable[[], float]) -> list[tuple[float, np.ndarray]]:
        path = []
        for gradient, by in zip(start()[1], SPOILT, strict=False):
            (weight,) = step(corrupt(gradient * np.float32(scale()), by))
            path.append((scale(), weight))
        return path

    weight, scaling = start()[0], LossScaling(8.0, 2)
    native = Driver("native", optimizers.Momentum(0.1), {"weight": weight}, scaling)
    fit = Driver("keras", optimizers.Momentum(0.1), {"weight": weight}, scaling)
    found = scales(native, lambda: float(native.state_dict()["scale"]))
    expected = scales(fit, lambda: float(numpy(fit.optimizer.dynamic_scale)))
    assert [scale for scale, _ in found] == [scale for scale, _ in expected]
    for (_, a), (_, b) in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)

    torch = pytest.importorskip("torch")
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    w = torch.nn.Parameter(torch.tensor(weight))
    optimizer = torch.optim.SGD([w], 0.1, momentum=0.9)
    for gradient, by, (scale, after) in zip(start()[1], SPOILT, found, strict=False):
        scaler.scale(torch.zeros(()))
        w.grad = torch.tensor(corrupt(gradient * np.float32(scaler.get_scale()), by))
        scaler.step(optimizer)
        scaler.update()
        assert scaler.get_scale() == scale
        np.testing.assert_allclose(after, w.detach().numpy(), rtol=0, atol=1e-6)


@engines
def test_a_loss_scale_optimizer_is_taken_by_both_engines(engine: str) -> None:
    """Its scale doubles as it says, and the losses are those of what it wraps."""
    wrapped = keras.optimizers.LossScaleOptimizer(
        optimizers.Momentum(0.1), initial_scale=8.0, dynamic_growth_steps=2
    )
    run = trained(engine, wrapped, steps=6)
    assert float(run.trainer.state_dict()["scale"]) == 64
    np.testing.assert_allclose(
        run.losses, trained(engine, optimizers.Momentum(0.1), steps=6).losses, rtol=1e-5
    )


@pytest.fixture(params=["mixed_float16", "mixed_bfloat16"])
def policy(request: pytest.FixtureRequest) -> Iterator[str]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(request.param)
    try:
        yield request.param
    finally:
        keras.config.set_dtype_policy(before)


def test_a_mixed_policy_trains_alike_by_both_engines(policy: str) -> None:
    """Dynamic loss scaling with float16, none with bfloat16; the weights stay in full precision."""
    runs = [trained(engine, optimizers.Adam(3e-3), steps=30) for engine in training.ENGINES]
    native, fit = (run.losses for run in runs)
    assert np.abs(np.subtract(native, fit)).max() < 2e-2
    assert native[-1] < 0.8 * native[0]
    for run in runs:
        assert run.model.get_layer("conv").compute_dtype == policy.removeprefix("mixed_")
        assert all(keras.backend.standardize_dtype(v.dtype) == "float32" for v in run.model.variables)
        assert ("scale" in run.trainer.state_dict()) == (policy == "mixed_float16")


# Both engines


def trained(
    engine: str,
    optimizer: Any,
    steps: int = 15,
    batch_size: int = 5,
    exempt: bool = False,
    **rest: Any,
) -> zoo.Run:
    """A conv (its kernel's memory is turned on torch) and a dense layer, biases exempt from decay or not."""
    image = layers.Input((6, 6, 2))
    x = layers.tanh(layers.conv(image, 5, 3, 2, name="conv"))
    model = layers.Model(image, layers.dense(layers.flatten(x), 3, name="head"))
    if exempt:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    rng = np.random.default_rng(1)
    data = rng.normal(size=(20, 6, 6, 2)), rng.integers(0, 3, 20)
    return zoo.train(
        model,
        data,
        engine=engine,
        optimizer=optimizer,
        steps=steps,
        batch_size=batch_size,
        progress=False,
        **rest,
    )


def weights_of(run: zoo.Run) -> Arrays:
    return [np.array(numpy(v)) for v in run.model.trainable_variables]


GROUPED = {"bias": {"weight_decay": 0.0, "learning_rate_multiplier": 2.0}, "^head": {"weight_decay": 0.3}}
EVERYTHING = {
    "learning_rate": schedules.OneCycle(1e-2, 12),
    "groups": GROUPED,
    "global_clipnorm": 0.5,
    "gradient_accumulation_steps": 2,
    "loss_scale_factor": 8.0,
    "use_ema": True,
    "ema_momentum": 0.7,
    "ema_overwrite_frequency": 3,
}
OPTIONS = [
    *(CASES[i] for i in (1, 4, 9)),
    (
        "SGD",
        {"learning_rate": schedules.StepDecay(0.1, [4, 9], 0.5), "loss_scale_factor": 64.0, "use_ema": True},
    ),
    ("Momentum", {"learning_rate": 0.1, "weight_decay": 0.1, "nesterov": True, "clipnorm": 0.1}),
    ("Momentum", {"learning_rate": schedules.OneCycle(0.05, 15), "groups": GROUPED}),
    ("Adam", {"learning_rate": 1e-2, "weight_decay": 0.1, "clipvalue": 0.01}),
    ("Adam", {"learning_rate": 1e-2, "amsgrad": True, "global_clipnorm": 0.1}),
    ("AdamW", {"learning_rate": 1e-2, "amsgrad": True, "gradient_accumulation_steps": 3}),
    ("LAMB", {"learning_rate": 1e-2, "weight_decay": 0.1, "clipvalue": 0.01}),
    ("LAMB", {"learning_rate": schedules.OneCycle(1e-2, 15), "bias_correction": False, "groups": GROUPED}),
    *((name, EVERYTHING) for name in ("Momentum", "AdamW", "LAMB")),
]


@pytest.mark.parametrize(
    ("name", "settings", "exempt"),
    [
        pytest.param(name, settings, exempt, marks=[pytest.mark.once] * exempt)
        for name, settings in OPTIONS
        for exempt in (False, True)[: 1 + (settings.get("weight_decay", 0) > 0)]
    ],
)
def test_the_native_optimizer_makes_the_same_updates_as_keras_applies(
    name: str, settings: Settings, exempt: bool
) -> None:
    runs = [trained(engine, make(name, settings), exempt=exempt) for engine in ("native", "keras")]
    native, fit = runs
    np.testing.assert_allclose(native.losses, fit.losses, atol=2e-6)
    for a, b in zip(weights_of(native), weights_of(fit), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("mode", QUICK_MODES[1:])
def test_every_mode_makes_the_same_updates(mode: str) -> None:
    first, other = (trained("native", optimizers.AdamW(**EVERYTHING), 6, mode=m) for m in (None, mode))
    np.testing.assert_allclose(first.losses, other.losses, atol=2e-6)
    for a, b in zip(weights_of(first), weights_of(other), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@engines
def test_a_run_ends_with_the_averages_in_the_model_and_is_judged_by_them(engine: str) -> None:
    """Not before: 3 steps, 2 an epoch, are the average of what 1, 2 and 3 steps end with."""
    rng = np.random.default_rng(4)
    held_out = rng.normal(size=(8, 6, 6, 2)).astype(np.float32), rng.integers(0, 3, 8)
    averaging = optimizers.Momentum(0.1, use_ema=True, ema_momentum=0.6)
    run = trained(engine, averaging, steps=3, batch_size=10, validation=held_out)
    ends = [weights_of(trained(engine, optimizers.Momentum(0.1), steps=n, batch_size=10)) for n in (1, 2, 3)]
    for found, path in zip(weights_of(run), zip(*ends, strict=True), strict=True):
        np.testing.assert_allclose(found, averages(path, 0.6)[-1], atol=1e-6)
        assert np.abs(found - path[-1]).max() > 1e-4
    logits = np.float64(numpy(run.model(held_out[0], training=False)))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(run.metrics["loss"], -logs[np.arange(8), held_out[1]].mean(), rtol=1e-5)


@engines
def test_what_is_excluded_does_not_decay(engine: str) -> None:
    """Examples of zeros, a loss that ignores the bias: whatever moves is moved by decay alone."""
    image = layers.Input((4,))
    x = layers.dense(image, 3, initializer=zoo.random.ones, name="head")
    model = layers.Model(image, x - x)
    model.layers[1].bias.assign(np.ones(3, np.float32))
    optimizer = optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    data = np.zeros((4, 4), np.float32), np.zeros(4, int)
    zoo.train(model, data, engine=engine, optimizer=optimizer, steps=2, progress=False)
    kernel, bias = (keras.ops.convert_to_numpy(v) for v in model.trainable_variables)
    np.testing.assert_allclose(kernel, 0.95**2, rtol=1e-6)
    np.testing.assert_array_equal(bias, 1)


# Memory


# how many batches came before: in a first group, in the middle of one, between two updates
REMEMBERED = [
    ("SGD", {"gradient_accumulation_steps": 3}, 2),
    ("Momentum", {"nesterov": True}, 7),
    ("Momentum", {**EVERYTHING, "learning_rate": 0.05}, 1),
    ("Adam", {"learning_rate": 0.01}, 0),
    ("Adam", {"learning_rate": 0.01, "gradient_accumulation_steps": 3, "amsgrad": True, "use_ema": True}, 7),
    ("AdamW", {"learning_rate": schedules.OneCycle(0.01, STEPS), "use_ema": True, "ema_momentum": 0.7}, 7),
    ("LAMB", {"learning_rate": 0.01}, 7),
    ("LAMB", {**EVERYTHING, "bias_correction": False}, 8),
]


@pytest.mark.parametrize("second", training.ENGINES)
@pytest.mark.parametrize("first", training.ENGINES)
@pytest.mark.parametrize(("name", "settings", "stop"), REMEMBERED)
def test_an_optimizer_with_another_s_state_continues_as_the_other_would_have(
    name: str, settings: Settings, stop: int, first: str, second: str
) -> None:
    """From either engine to either."""
    weight, gradients = start()
    one = Driver(first, make(name, settings), {"body/weight": weight})
    for gradient in gradients[:stop]:
        one(gradient)
    state = one.state_dict()
    other = Driver(second, make(name, settings), {"body/weight": one.weights()[0]})
    other.optimizer.load_state_dict(state)
    again = other.state_dict()
    assert again.keys() == state.keys()
    for kind, x in again.items():
        np.testing.assert_array_equal(x, state[kind])
    for gradient in gradients[stop:]:
        np.testing.assert_allclose(other(gradient), one(gradient), rtol=0, atol=2e-6)
    np.testing.assert_allclose(other.finish(), one.finish(), rtol=0, atol=2e-6)


@engines
@pytest.mark.parametrize("settings", [{}, {"use_ema": True, "gradient_accumulation_steps": 2}])
def test_a_state_dict_is_a_copy_that_later_updates_leave_alone(settings: Settings, engine: str) -> None:
    weight, gradients = start()
    step = Driver(engine, optimizers.Adam(0.1, **settings), {"weight": weight})
    for gradient in gradients[:3]:
        step(gradient)
    state = step.optimizer.state_dict()  # not Driver.state_dict, which copies
    before = {name: np.array(x) for name, x in state.items()}
    for gradient in gradients[3:6]:
        step(gradient)
    for name, x in before.items():
        np.testing.assert_array_equal(state[name], x)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, raised again
def test_the_old_names_of_an_optimizer_s_state_warn_and_do_as_the_new_ones() -> None:
    weight, gradients = start()
    one, other = (Driver("keras", optimizers.Momentum(0.1), {"weight": weight}) for _ in range(2))
    one(gradients[0])
    with pytest.warns(DeprecationWarning, match="state_dict"):
        state = one.optimizer.memory()
    with pytest.warns(DeprecationWarning, match="load_state_dict"):
        other.optimizer.restore(state)
    np.testing.assert_array_equal(other.state_dict()["momentum/weight"], one.state_dict()["momentum/weight"])


def test_an_updater_remembers_its_loss_scale() -> None:
    weight, gradients = start()
    scaling, weights = LossScaling(8.0, 4), {"weight": weight}
    one = Driver("native", optimizers.Momentum(0.1), weights, scaling)
    for gradient, by in zip(gradients[:6], (None, inf, None, None, None, None), strict=True):
        one(corrupt(gradient, by))
    state = one.state_dict()
    assert (float(state["scale"]), int(state["scale_steps"]), int(state["batches"])) == (8, 0, 5)
    one(gradients[6])
    other = Driver("native", optimizers.Momentum(0.1), {"weight": one.weights()[0]}, scaling)
    other.optimizer.load_state_dict(one.state_dict())
    for gradient in gradients[7:12]:
        np.testing.assert_allclose(other(gradient)[0], one(gradient)[0], rtol=0, atol=1e-6)
    assert {k: float(x) for k, x in other.state_dict().items() if not x.shape} == {
        "batches": 11,
        "scale": 16,
        "scale_steps": 2,
    }


# Settings


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("SGD", {"learning_rate": -0.1}, "learning_rate=-0.1"),
        ("Momentum", {"learning_rate": "fast"}, "learning_rate='fast'"),
        ("LAMB", {"learning_rate": inf}, "learning_rate=inf"),
        ("AdamW", {"weight_decay": -1.0}, "weight_decay=-1.0"),
        ("AdamW", {"beta_1": 1.0}, "beta_1=1.0"),
        ("AdamW", {"beta_2": -0.1}, "beta_2=-0.1"),
        ("AdamW", {"epsilon": nan}, "epsilon=nan"),
        ("Momentum", {"momentum": 1}, "momentum=1;"),
        ("Momentum", {"momentum": -0.5}, "momentum=-0.5"),
        (
            "Adam",
            {"clipnorm": 1.0, "clipvalue": 1.0},
            "clipvalue and clipnorm were given; expected at most one",
        ),
        ("SGD", {"clipnorm": -1}, "clipnorm=-1"),
        ("SGD", {"clipvalue": 0.0}, "clipvalue=0.0"),
        ("SGD", {"global_clipnorm": nan}, "global_clipnorm=nan"),
        ("SGD", {"loss_scale_factor": 0}, "loss_scale_factor=0"),
        ("SGD", {"gradient_accumulation_steps": 1}, "gradient_accumulation_steps=1"),
        ("SGD", {"gradient_accumulation_steps": 2.5}, r"gradient_accumulation_steps=2\.5"),
        ("SGD", {"use_ema": True, "ema_momentum": 1.5}, "ema_momentum=1.5"),
        ("SGD", {"use_ema": True, "ema_overwrite_frequency": 0}, "ema_overwrite_frequency=0"),
        (
            "SGD",
            {"groups": {"bias": {"weight_deca": 0.0}}},
            "groups: no setting 'weight_deca'; nearest: weight_decay",
        ),
        (
            "SGD",
            {"groups": {"bias(": {"weight_decay": 0.0}}},
            r"groups: 'bias\(' is not a regular expression",
        ),
        ("SGD", {"groups": {"bias": {"learning_rate_multiplier": -2}}}, "learning_rate_multiplier=-2"),
        ("SGD", {"groups": {"bias": {"weight_decay": "none"}}}, "weight_decay='none'"),
    ],
)
def test_bad_settings_are_named(name: str, settings: Settings, said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said) as caught:
        make(name, settings)
    assert str(caught.value).startswith(name)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("SGD", {"learning_rate": 0.125, "weight_decay": 0.25}),
        ("Momentum", {"momentum": 0.5, "nesterov": True, "clipnorm": 0.5}),
        ("Adam", {"beta_1": 0.5, "beta_2": 0.75, "epsilon": 1e-3, "amsgrad": True, "global_clipnorm": 0.5}),
        ("AdamW", {"learning_rate": schedules.OneCycle(0.1, STEPS), "amsgrad": True, "groups": GROUPS}),
        ("LAMB", {"bias_correction": False, "epsilon": 1e-3, "clipvalue": 0.5}),
        ("LAMB", EVERYTHING),
    ],
)
def test_an_optimizer_survives_saving(name: str, settings: Settings) -> None:
    """Through JSON too: the same settings, and the same updates."""
    optimizer = make(name, settings)
    again = keras.optimizers.deserialize(json.loads(json.dumps(keras.optimizers.serialize(optimizer))))
    assert type(again) is type(optimizer)
    assert again.get_config() == optimizer.get_config()
    config = again.get_config()
    for setting, value in settings.items():
        if setting == "learning_rate":
            assert repr(again.rate) == repr(value)
        else:
            assert config[setting] == value
    path = "head/bias"
    weight, gradients = start()
    one, other = (Driver("native", o, {path: weight}) for o in (optimizer, again))
    for gradient in gradients[:6]:
        np.testing.assert_array_equal(other(gradient), one(gradient))


@pytest.mark.parametrize("name", ["SGD", "Momentum", "Adam", "AdamW"])
def test_the_native_optimizer_is_the_frameworks_own(name: str) -> None:
    model = zoo.build("mlp", **zoo.card("mlp").small)
    native = backends.current().optimizer(make(name, {}), model.trainable_variables)
    home = {"torch": "torch.optim", "jax": "optax", "tensorflow": "zoo.optimizers"}[backends.current().NAME]
    assert type(native).__module__.startswith(home)
