"""Three frameworks, each in a process of its own, give the same numbers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from zoo import backends, ladder, registry

pytestmark = pytest.mark.parity

PAIRS = list(itertools.combinations(backends.NAMES, 2))
MODELS = registry.list_models()
Arrays = dict[str, np.ndarray]


@pytest.fixture(scope="session")
def probes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Arrays]:
    """What `probes.py` found on each framework."""
    folder = tmp_path_factory.mktemp("probes")
    found = {}
    for backend in backends.NAMES:
        environment = {**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "2"}
        script, path = Path(__file__).with_name("probes.py"), folder / f"{backend}.npz"
        done = subprocess.run(
            [sys.executable, script, path], env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{backend}: {done.stderr[-3000:]}"
        found[backend] = dict(np.load(path))
    return found


def chosen(arrays: Arrays, prefix: str) -> Arrays:
    found = {name: array for name, array in arrays.items() if name.startswith(prefix)}
    assert found, f"no probe is called {prefix}"
    return found


def assert_bit_equal(ours: Arrays, theirs: Arrays) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


@pytest.mark.parametrize("probe", ["bits", "masks"])
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_random_bits_and_masks_are_bit_equal_on_two_frameworks(
    probes: dict[str, Arrays], probe: str, a: str, b: str
) -> None:
    assert_bit_equal(chosen(probes[a], probe), chosen(probes[b], probe))


@pytest.mark.parametrize("backend", backends.NAMES)
@pytest.mark.parametrize("probe", ["bits", "masks"])
def test_random_bits_and_masks_are_bit_equal_compiled_and_eager(
    probes: dict[str, Arrays], probe: str, backend: str
) -> None:
    arrays = probes[backend]
    np.testing.assert_array_equal(arrays[f"{probe}/compiled"], arrays[f"{probe}/eager"])


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_initial_weights_are_bit_equal(probes: dict[str, Arrays], model: str, a: str, b: str) -> None:
    for probe in ("full weights", "weights"):
        assert_bit_equal(chosen(probes[a], f"{probe}/{model}/"), chosen(probes[b], f"{probe}/{model}/"))


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_layer_gives_the_same_output(probes: dict[str, Arrays], model: str, a: str, b: str) -> None:
    ours, theirs = (chosen(probes[name], f"forward/{model}/") for name in (a, b))
    assert ours.keys() == theirs.keys()
    assert ladder.first_difference(ours, theirs, bound=1e-5) is None


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("a", "b"), PAIRS)
def test_every_gradient_is_the_same(probes: dict[str, Arrays], model: str, a: str, b: str) -> None:
    ours, theirs = (chosen(probes[name], f"gradients/{model}/") for name in (a, b))
    assert ours.keys() == theirs.keys()
    # Against the model's largest gradient: a bias's own may be a sum that cancels to nearly nothing.
    largest = max(np.abs(g).max() for name, g in ours.items() if not name.endswith("/loss"))
    for name, gradient in ours.items():
        assert np.abs(gradient - theirs[name]).max() <= 1e-5 * largest, name


def ways(arrays: Arrays, model: str) -> list[str]:
    """The "engine mode" pairs that a framework trained the model by."""
    return [name.split("/")[2] for name in chosen(arrays, f"training/{model}/") if name.endswith("/losses")]


def chaos(arrays: Arrays, model: str) -> float:
    """How far torch drifts from itself when each initial weight moves by one unit in the last place."""
    run = arrays[f"training/{model}/native traced/losses"]
    nudged = chosen(arrays, f"nudged training/{model}/")
    return max(float(np.abs(losses - run).max()) for losses in nudged.values())


@pytest.mark.parametrize("model", MODELS)
def test_training_runs_give_the_same_losses_by_every_engine_and_mode(
    probes: dict[str, Arrays], model: str
) -> None:
    """30 steps of the recipe, dropout on where the model has it, a short batch at each epoch's end."""
    runs = {
        f"{backend} {way}": arrays[f"training/{model}/{way}/losses"]
        for backend, arrays in probes.items()
        for way in ways(arrays, model)
    }
    assert len(runs) == 10  # keras thrice; torch traced, eager; tensorflow graph, xla, eager; jax jit, eager
    bound = max(1e-5, 4 * chaos(probes["torch"], model))
    for (a, ours), (b, theirs) in itertools.combinations(runs.items(), 2):
        assert np.abs(ours - theirs).max() <= bound, f"{a} and {b}: {np.abs(ours - theirs).max():.1e}"


def test_the_chaos_floor_of_a_smooth_network_is_far_below_the_bound(probes: dict[str, Arrays]) -> None:
    assert 0 < chaos(probes["torch"], "lenet5") < 1e-6


@pytest.mark.parametrize("model", MODELS)
def test_trained_models_predict_the_same(probes: dict[str, Arrays], model: str) -> None:
    runs = [
        arrays[f"training/{model}/{way}/predictions"]
        for arrays in probes.values()
        for way in ways(arrays, model)
    ]
    for ours, theirs in itertools.combinations(runs, 2):
        np.testing.assert_array_equal(ours, theirs)
