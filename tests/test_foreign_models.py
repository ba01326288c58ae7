"""The ladder on models from elsewhere: no false alarm, and each fault by its name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from foreign import APPLICATIONS, HUB, KIMM, NOT_ON_TORCH, SMALL, Case

from zoo import backends, ladder
from zoo.ladder.run import Settings

pytestmark = pytest.mark.parity


def compare(
    cases: Mapping[str, Case],
    *rungs: int,
    names: tuple[str, ...] = backends.NAMES,
    dtype: str = "float32",
) -> ladder.Parity:
    networks = {name: (build, inputs, None, None) for name, (build, inputs) in cases.items()}
    return ladder.own_models(networks, Settings(names, (dtype,), rungs=rungs))


def check(result: ladder.Parity, names: Mapping[str, Case]) -> None:
    assert not result.failed, str(result)
    assert {row["model"] for row in result.rows} == set(names)


@pytest.mark.long
def test_there_is_no_false_alarm_on_models_of_every_kind_of_layer() -> None:
    cases = {**SMALL, "MobileNetV3Small": APPLICATIONS["MobileNetV3Small"]}
    result = compare(cases, 1, 2, 3)
    check(result, cases)
    assert "drew the same numbers" in result["notes"]["noise"][0]
    assert "nested" not in result["notes"]


@pytest.mark.long
@pytest.mark.skipif("ZOO_APPLICATIONS" not in os.environ, reason="20 minutes; ZOO_APPLICATIONS=1 runs it")
@pytest.mark.parametrize("name", APPLICATIONS)
def test_there_is_no_false_alarm_on_keras_applications(name: str) -> None:
    names = tuple(each for each in backends.NAMES if each != "torch" or name not in NOT_ON_TORCH)
    check(compare({name: APPLICATIONS[name]}, 1, 2, 3, names=names), {name: APPLICATIONS[name]})


@pytest.mark.long
@pytest.mark.skipif("ZOO_APPLICATIONS" not in os.environ, reason="needs kimm and keras-hub, 20 minutes")
@pytest.mark.parametrize(("package", "cases"), [("kimm", KIMM), ("keras_hub", HUB)])
def test_there_is_no_false_alarm_on_models_of_other_packages(package: str, cases: dict[str, Case]) -> None:
    pytest.importorskip(package)
    check(compare(cases, 1, 2, 3), cases)


def faulty(build: Callable[[], Any], inputs: Any, share: float) -> Callable[[], Any]:
    """The model with one layer, at this share of its depth, whose output is 0.1 % larger on JAX."""

    def broken() -> Any:
        import keras

        model = built(build, inputs)
        layer = victim(model, share)
        if keras.backend.backend() == "jax":
            call = layer.call
            layer.call = lambda *args, **kwargs: keras.tree.map_structure(
                lambda y: y * 1.001, call(*args, **kwargs)
            )
        return model

    return broken


def built(build: Callable[[], Any], inputs: Any) -> Any:
    """The model, with weights."""
    model = build()
    if not model.built:
        model(inputs)
    return model


def victim(model: Any, share: float) -> Any:
    """The layer with weights at this share of the model's depth."""
    import keras

    layers = [part for layer in model.layers for part in getattr(layer, "layers", [layer])]
    if not hasattr(model, "operations"):  # of a subclass, those that Keras has
        layers = [x for x in model._flatten_layers() if type(x).__module__.startswith("keras.src.layers")]
    weighted = [layer for layer in layers if layer.weights and not isinstance(layer, keras.Model)]
    return weighted[int(share * len(weighted))]


@pytest.mark.long
def test_a_fault_in_any_of_them_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {name: case for name, case in SMALL.items() if name != "untrained"}
    check_faults(cases, monkeypatch)


@pytest.mark.long
@pytest.mark.skipif("ZOO_APPLICATIONS" not in os.environ, reason="20 minutes; ZOO_APPLICATIONS=1 runs it")
def test_a_fault_in_keras_applications_is_found_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {name: case for name, case in APPLICATIONS.items() if name not in NOT_ON_TORCH}
    check_faults(cases, monkeypatch)


def check_faults(cases: Mapping[str, Case], monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64, where no rounding hides a fault; its cause is tested in tests/test_climb.py."""
    import keras

    monkeypatch.setattr(ladder, "explain", lambda *_: None)
    rng, networks, expected = np.random.default_rng(0), {}, {}
    for name, (build, inputs) in cases.items():
        share = rng.random()
        networks[name] = faulty(build, inputs, share), inputs
        keras.utils.clear_session()
        layer = victim(built(build, inputs), share)
        expected[name] = layer.name, type(layer).__name__
    result = compare(networks, 2, names=("torch", "jax"), dtype="float64")
    first = {row["model"]: row["where"] for row in result.failed}
    found = {name: (re.split("[ ,]", where["layer"])[0], where["suspect"]) for name, where in first.items()}
    assert found == expected
