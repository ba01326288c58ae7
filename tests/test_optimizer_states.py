"""A run that is cut goes on in another framework's optimizer as the uncut run does."""

from typing import Any

import keras
import numpy as np
import pytest
from conftest import NAME
from zoo.backends.stepping import stepper_of

import zoo
from zoo.ports.optimizers import draw_gradients
from zoo.weights import OptimizerState, WeightsMapping
from zoo.weights.mappings import Entry

torch = pytest.importorskip("torch")
pytestmark = [pytest.mark.once, pytest.mark.skipif(NAME != "torch", reason="torch's state is loaded here")]

DRAW = np.random.default_rng(0).normal
WEIGHTS = {"dense/kernel": DRAW(size=(5, 3)), "dense/bias": DRAW(size=3)}
CUT, END = 3, 7
O, Z = keras.optimizers, zoo.optimizers  # noqa: E741
TINY = 1e-30  # an epsilon whose place makes no difference
PAIRS: dict[str, tuple[Any, Any, Any]] = {
    "SGD": (
        lambda named: torch.optim.SGD(named, 0.1, momentum=0.9), lambda: O.SGD(0.1, 0.9),
        ("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
    ),
    "Momentum": (
        lambda named: torch.optim.SGD(named, 0.1, momentum=0.9), lambda: Z.Momentum(0.1),
        ("sgd", {"learning_rate": 0.1, "momentum": 0.9}),
    ),
    "Adam": (
        lambda named: torch.optim.Adam(named, 0.1, eps=TINY), lambda: O.Adam(0.1, epsilon=TINY),
        ("adam", {"learning_rate": 0.1, "eps": TINY}),
    ),
    "AdamW": (
        lambda named: torch.optim.AdamW(named, 0.1, weight_decay=0.1), lambda: Z.AdamW(0.1, weight_decay=0.1),
        ("adamw", {"learning_rate": 0.1, "weight_decay": 0.1}),
    ),
    "AMSGrad": (
        lambda named: torch.optim.Adam(named, 0.1, eps=TINY, amsgrad=True),
        lambda: O.Adam(0.1, epsilon=TINY, amsgrad=True), None,
    ),
}  # fmt: skip


def state_of(stepper: Any) -> OptimizerState:
    if hasattr(stepper, "state"):
        return OptimizerState.from_optax(stepper.state)
    if hasattr(stepper, "scheduler"):
        return OptimizerState.from_torch(stepper.optimizer.state_dict())
    return OptimizerState.from_keras(stepper.optimizer)


def set_state(stepper: Any, state: OptimizerState) -> None:
    if hasattr(stepper, "state"):
        stepper.state = state.to_optax(stepper.state)
    elif hasattr(stepper, "scheduler"):
        stepper.optimizer.load_state_dict(state.to_torch(stepper.optimizer.state_dict()))
    else:
        state.to_keras(stepper.optimizer)


def continued(first: Any, second: Any) -> None:
    """A run of `first` that is cut and goes on as `second` against the uncut run."""
    gradients = draw_gradients(WEIGHTS, END)
    whole, other, weights = stepper_of(first, WEIGHTS), stepper_of(second, WEIGHTS), WEIGHTS
    for number, each in enumerate(gradients):
        if number == CUT:
            other = stepper_of(second, weights)
            set_state(other, state_of(whole))
        weights = whole.step(each)
        if number >= CUT:
            for name, x in other.step(each).items():
                np.testing.assert_allclose(
                    x, weights[name], rtol=1e-12, atol=1e-13, err_msg=f"{name}, {number}"
                )


@pytest.mark.parametrize("name", PAIRS)
def test_a_run_of_torch_goes_on_in_keras_and_back(name: str) -> None:
    torchs, keras_s, _ = PAIRS[name]
    continued(torchs, keras_s)
    continued(keras_s, torchs)


@pytest.mark.parametrize("name", [name for name, pair in PAIRS.items() if pair[2]])
def test_a_run_of_torch_goes_on_in_optax_and_back(name: str) -> None:
    optax = pytest.importorskip("optax")
    torchs, keras_s, (factory, settings) = PAIRS[name]
    ours = lambda: getattr(optax, factory)(**settings)  # noqa: E731
    continued(torchs, ours)
    continued(ours, torchs)
    continued(keras_s, ours)


def test_a_state_is_converted_by_a_mapping_of_weights() -> None:
    theirs = stepper_of(PAIRS["Adam"][0], {"w": DRAW(size=(3, 5))})
    for each in draw_gradients({"w": np.zeros((3, 5))}, CUT):
        theirs.step(each)
    mapping = WeightsMapping({"w": (3, 5)}, {"kernel": Entry((5, 3), ("w",), transpose=(1, 0))})
    state = state_of(theirs)
    found = state.convert(mapping)
    for kind in ("first_moment", "second_moment"):
        np.testing.assert_array_equal(found.slots[kind]["kernel"], state.slots[kind]["w"].T)
    back = found.convert(mapping, reverse=True)
    np.testing.assert_array_equal(back.slots["first_moment"]["w"], state.slots["first_moment"]["w"])


def test_a_state_of_other_weights_changes_nothing() -> None:
    theirs, ours = stepper_of(PAIRS["Adam"][0], WEIGHTS), stepper_of(PAIRS["Adam"][1], WEIGHTS)
    theirs.step(draw_gradients(WEIGHTS, 1)[0])
    state = state_of(theirs)
    del state.slots["first_moment"]["dense/bias"]
    with pytest.raises(zoo.WeightsMismatch, match="first_moment lacks dense/bias, for Keras's optimizer"):
        set_state(ours, state)
    with pytest.raises(zoo.WrongConfiguration, match="1 names of 2 parameters"):
        OptimizerState.from_torch(theirs.optimizer.state_dict(), ["w"])  # type: ignore[attr-defined]
