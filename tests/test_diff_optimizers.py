"""Two optimizers on the same gradients: equal, or the setting in which they differ, confirmed."""

from collections.abc import Callable
from functools import partial
from math import sqrt
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import NAME
from zoo.backends.stepping import stepper_of

import zoo
from zoo.ports.optimizers import Link, Record, draw_gradients, report

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.once, pytest.mark.skipif(NAME != "torch", reason="theirs is torch's here")]

DRAW = np.random.default_rng(0).normal
WEIGHTS = {"dense/kernel": DRAW(size=(5, 3)), "dense/bias": DRAW(size=3)}
STEPS = 10


def steps(build: Any) -> Record:
    """The steps of an optimizer of this process."""
    gradients, stepper = draw_gradients(WEIGHTS, STEPS), stepper_of(build, WEIGHTS)
    rates, weights = [], [WEIGHTS]
    for each in gradients:
        rates.append(stepper.rate())
        weights.append(stepper.step(each))
    settings = {name: stepper.settings(name) for name in WEIGHTS}
    return Record(stepper.kind, settings, rates, weights, gradients)


def compared(theirs: Any, ours: Any) -> dict[str, Any]:
    return report(steps(theirs), steps(ours), [Link(name, name) for name in WEIGHTS])


def causes(result: dict[str, Any]) -> list[tuple[Any, ...]]:
    return sorted((c["cause"], c["confirmed"]) for c in result["causes"])


def scheduled(optimizer: Callable[..., Any], **settings: Any) -> Callable[[Any], Any]:
    """An optimizer of torch with a schedule."""

    def build(named: Any) -> Any:
        made = optimizer(named, **settings)
        return made, torch.optim.lr_scheduler.ExponentialLR(made, 0.8)

    return build


def decayed(rate: float) -> Any:
    return keras.optimizers.schedules.ExponentialDecay(rate, 1, 0.8)


class Written(torch.optim.Optimizer):
    """Adam with decoupled decay, written out from its paper; a fault changes one thing."""

    def __init__(self, params: Any, fault: str = "", lr: float = 0.01, weight_decay: float = 0.1):
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": (0.9, 0.99), "eps": 1e-6})
        self.fault = fault

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        fault = self.fault
        for group in self.param_groups:
            rate, decay, (b1, b2), eps = (group[n] for n in ("lr", "weight_decay", "betas", "eps"))
            b1, b2 = (0.8 if fault == "beta 1" else b1), (0.999 if fault == "beta 2" else b2)
            for w in group["params"]:
                if w.grad is None:
                    continue
                state, g = self.state[w], w.grad
                if not state:
                    state |= {
                        "t": 0,
                        "m": torch.zeros_like(w),
                        "v": torch.zeros_like(w),
                        "u": torch.zeros_like(w),
                    }
                state["t"] += 1
                g = g + decay * w if fault == "coupled" else g
                d = 0.0 if fault in ("coupled", "no decay") else decay
                state["m"] = b1 * state["m"] + (1 - b1) * g
                state["v"] = b2 * state["v"] + (1 - b2) * g * g
                c1, c2 = 1 - b1 ** state["t"], 1 - b2 ** state["t"]
                if fault == "no correction":
                    c1 = c2 = 1.0
                c1 = 1.0 if fault == "no correction of m" else c1
                m, v = state["m"] / c1, state["v"] / c2
                if fault == "amsgrad":
                    v = state["u"] = torch.maximum(state["u"], v)
                if fault == "inside":
                    x = m / (v + eps).sqrt()
                elif fault == "before":
                    x = m * sqrt(c2) / (state["v"].sqrt() + eps)
                else:
                    x = m / (v.sqrt() + (1e-8 if fault == "epsilon" else eps))
                if fault == "nesterov":
                    t = state["t"]
                    x = (b1 * state["m"] / (1 - b1 ** (t + 1)) + (1 - b1) * g / c1) / (v.sqrt() + eps)
                x = 3 * x if fault == "rate" else x
                w -= rate * x + (d if fault == "decay without the rate" else rate * d) * w


FAULTS = {
    "epsilon": "epsilon", "inside": "epsilon's place", "before": "epsilon's place", "beta 1": "beta 1",
    "beta 2": "beta 2", "no correction": "bias correction", "no correction of m": "bias correction",
    "coupled": "weight decay's form", "no decay": "weight decay", "amsgrad": "AMSGrad's maximum",
    "decay without the rate": "weight decay's form", "nesterov": "Nesterov",
}  # fmt: skip
ADAMW = partial(torch.optim.AdamW, lr=0.01, weight_decay=0.1, betas=(0.9, 0.99), eps=1e-6)


def test_an_optimizer_that_was_written_out_is_equal() -> None:
    result = compared(ADAMW, Written)
    assert result["causes"] == []
    assert result["first"] is None
    assert [step["holds"] for step in result["steps"]] == [True, True]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_an_optimizer_is_named_and_confirmed(fault: str) -> None:
    result = compared(ADAMW, partial(Written, fault=fault))
    assert causes(result) == [(FAULTS[fault], True)]
    assert result["first"]["theirs"] == "dense/kernel"


def test_the_step_at_which_a_maximum_shows_is_the_first() -> None:
    assert compared(ADAMW, partial(Written, fault="epsilon"))["first"]["step"] == 1
    assert compared(ADAMW, partial(Written, fault="amsgrad"))["first"]["step"] > 1


def test_a_factor_of_three_is_the_learning_rates() -> None:
    result = compared(partial(ADAMW, weight_decay=0.0), partial(Written, fault="rate", weight_decay=0.0))
    assert causes(result) == [("learning rate", True)]
    assert result["causes"][0]["explanation"] == "theirs' is 0.01, ours' 0.03"


def test_a_schedule_that_is_a_step_behind() -> None:
    def behind(named: Any) -> Any:
        made = torch.optim.SGD(named, lr=0.1)
        return made, torch.optim.lr_scheduler.LambdaLR(made, lambda t: 0.8 ** max(0, t - 1))

    result = compared(scheduled(torch.optim.SGD, lr=0.1), behind)
    assert causes(result) == [("schedule", True)]
    assert result["first"]["step"] == 2
    assert "at step 2 theirs' rate is 0.08, ours' 0.1" in result["causes"][0]["explanation"]


def test_a_decay_that_one_side_applies_to_some_weights_is_said_of_these() -> None:
    def grouped(named: Any) -> Any:
        matrices, rest = ([p for _, p in named if (p.ndim > 1) == big] for big in (True, False))
        return ADAMW([{"params": matrices}, {"params": rest, "weight_decay": 0.0}])

    result = compared(ADAMW, grouped)
    assert [(c["cause"], c["weights"]) for c in result["causes"]] == [("weight decay", ["dense/bias"])]


O = keras.optimizers  # noqa: E741
PAIRS: dict[str, tuple[Any, Any, list[str]]] = {
    "SGD": (scheduled(torch.optim.SGD, lr=0.1), lambda: O.SGD(decayed(0.1)), []),
    "momentum": (
        scheduled(torch.optim.SGD, lr=0.1, momentum=0.9), lambda: O.SGD(decayed(0.1), 0.9),
        ["rate in the velocity"],
    ),
    "Adam": (
        scheduled(torch.optim.Adam, lr=0.1, eps=1e-7), lambda: O.Adam(decayed(0.1)), ["epsilon's place"],
    ),
    "Adam's decay": (
        scheduled(torch.optim.Adam, lr=0.1, eps=1e-20, weight_decay=0.1),
        lambda: O.Adam(decayed(0.1), epsilon=1e-20, weight_decay=0.1), ["weight decay's form"],
    ),
    "RMSprop": (
        scheduled(torch.optim.RMSprop, lr=0.1, alpha=0.9, eps=1e-7), lambda: O.RMSprop(decayed(0.1)),
        ["epsilon's place"],
    ),
    "Adadelta": (
        scheduled(torch.optim.Adadelta, lr=1.0, rho=0.95, eps=1e-7), lambda: O.Adadelta(decayed(1.0)), [],
    ),
    "zoo's Momentum": (
        scheduled(torch.optim.SGD, lr=0.1, momentum=0.9), lambda: zoo.optimizers.Momentum(decayed(0.1)), [],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_keras_beside_torch_with_a_schedule(name: str) -> None:
    theirs, ours, expected = PAIRS[name]
    assert causes(compared(theirs, ours)) == [(cause, True) for cause in expected]


def clipped(clip: Callable[..., Any], *limit: float) -> Callable[[Any], Any]:
    """An optimizer of torch that clips its gradients before each step, as training loops do."""

    def build(named: Any) -> Any:
        made = torch.optim.SGD(named, lr=0.1)
        weights = [weight for group in made.param_groups for weight in group["params"]]
        made.register_step_pre_hook(lambda *_: clip(weights, *limit) and None)
        return made

    return build


BY_NORM, BY_VALUE = torch.nn.utils.clip_grad_norm_, torch.nn.utils.clip_grad_value_
NO_NORM = "largest norm of all gradients is none in theirs, {} in ours"
SURROUNDED: dict[str, tuple[Any, Any, list[str]]] = {
    "torch's, not declared": (
        partial(torch.optim.SGD, lr=0.1), clipped(BY_NORM, 1.0),
        [NO_NORM.format("1 (with 1e-06 added to it)")],
    ),
    "by value, not declared": (
        partial(torch.optim.SGD, lr=0.1), clipped(BY_VALUE, 0.5),
        ["largest element of a gradient is none in theirs, 0.5 in ours"],
    ),
    "Keras's": (
        partial(torch.optim.SGD, lr=0.1), lambda: O.SGD(0.1, global_clipnorm=3.0),
        [NO_NORM.format(3)],
    ),
    "Adam's": (
        partial(torch.optim.Adam, lr=0.1, eps=1e-20), lambda: O.Adam(0.1, epsilon=1e-20, global_clipnorm=3.0),
        [NO_NORM.format(3)],
    ),
    "of each": (
        lambda: O.SGD(0.1, clipnorm=2.0), lambda: O.SGD(0.1, clipvalue=2.0),
        [
            "largest element of a gradient is none in theirs, 2 in ours",
            "largest norm of a gradient is 2 in theirs, none in ours",
        ],
    ),
    "averages": (
        partial(torch.optim.SGD, lr=0.1),
        lambda: O.SGD(0.1, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3),
        [
            "a weight's replacement by its average is never in theirs, every 3 steps in ours",
            "momentum of the weights' average is 0 in theirs, 0.9 in ours",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SURROUNDED)
def test_clipping_and_averages_are_named_and_confirmed(name: str) -> None:
    theirs, ours, expected = SURROUNDED[name]
    found = compared(theirs, ours)["causes"]
    assert sorted(cause["explanation"] for cause in found) == expected
    assert all(cause["confirmed"] for cause in found)


def test_optax_clipping_is_read_from_its_chain() -> None:
    optax = pytest.importorskip("optax")
    pairs = {NO_NORM.format(3): optax.clip_by_global_norm(3.0)}
    pairs["largest element of a gradient is none in theirs, 3 in ours"] = optax.clip(3.0)
    for expected, clip in pairs.items():
        found = compared(partial(torch.optim.Adam, lr=0.1), optax.chain(clip, optax.adam(0.1)))["causes"]
        assert [cause["explanation"] for cause in found] == [expected]
    chain = optax.chain(optax.clip_by_global_norm(2.0), optax.sgd(0.1))
    found = compared(clipped(BY_NORM, 2.0), chain)["causes"]
    assert [cause["explanation"] for cause in found] == [
        "largest norm of all gradients is 2 (with 1e-06 added to it) in theirs, 2 in ours"
    ]


SOURCE = """
import torch

def theirs(named):
    return torch.optim.SGD(named, lr=0.1, momentum=0.9)

def ours(named):
    return torch.optim.SGD(named, lr=0.1, momentum=0.9, dampening=0.5)

def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
"""


def test_the_command_compares_optimizers_in_models(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from zoo.cli import app

    (file := tmp_path / "pair.py").write_text(SOURCE)
    words = ["diff", f"{file}:model", f"{file}:model", "--shape", "5,3", "-q"]
    done = CliRunner().invoke(app, [*words, "--optimizers", f"{file}:theirs,{file}:ours"])
    assert done.exit_code == 1
    assert "The optimizers part at step 2, at 0.weight" in done.stdout
    assert "cause: dampening: dampening is 0 in theirs, 0.5 in ours; weights: all" in done.stdout
    wrong = CliRunner().invoke(app, ["diff", "--optimizers", f"{file}:theirs"])
    assert "expected two functions, THEIRS,OURS" in str(wrong.exception)


@pytest.mark.parity
def test_optimizers_alone_in_processes_of_their_own(tmp_path: Path) -> None:
    optax = pytest.importorskip("optax")
    assert zoo.diff_optimizers(ADAMW, optax.adamw(0.01, 0.9, 0.99, 1e-6, weight_decay=0.1)).equal
    result = zoo.diff_optimizers(ADAMW, optax.adamw(0.01, 0.9, 0.99, 1e-6), out=tmp_path)
    assert causes(result) == [("weight decay", True)]
    assert "cause: weight decay: weight decay is 0.1 in theirs, 0.0001 in ours" in str(result)
    assert (tmp_path / "optimizers.json").exists()


def test_what_is_no_optimizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match="the optimizer is a int; expected a function of"):
        stepper_of(lambda: 3, WEIGHTS)
    (file := tmp_path / "pair.py").write_text(SOURCE)
    with pytest.raises(zoo.WrongConfiguration, match="gradients: shapes"):
        zoo.diff_optimizers(f"{file}:theirs", f"{file}:ours", gradients=[{"w": np.zeros(3)}])
