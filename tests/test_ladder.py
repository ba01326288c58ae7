"""How the ladder compares: what counts as a difference, where it is, and known gaps."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import backends, ladder
from zoo.ladder import bounds, faults, probe, run, rungs, taps, variants
from zoo.processes.workers import WorkerDied

FACTS = {
    "order": ["conv", "relu", "head"],
    "consumers": {"conv": ["relu"], "relu": ["head"], "head": []},
    "kinds": {"conv": "Conv", "relu": "Relu", "head": "Dense"},
    "weights": {"conv": ["conv/kernel"], "relu": [], "head": ["head/kernel"]},
}


def pair(a: dict[str, Any], b: dict[str, Any], bound: float = 1e-5, dtype: str = "float32") -> rungs.Pair:
    sides = [{name: np.asarray(x) for name, x in side.items()} for side in (a, b)]
    return rungs.Pair("torch", "jax", *sides, bound, FACTS, dtype)


def compare(rung: int, a: dict[str, Any], b: dict[str, Any], **more: Any) -> rungs.Measurement:
    measurement = rungs.COMPARISONS[rung](pair(a, b, **more))
    assert measurement is not None
    return measurement


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (np.float32([1.0, 2.0]), np.float32([1.0, np.nextafter(np.float32(2), np.float32(3))])),
        (np.float32([1.0]), np.float64([1.0])),
        (np.float32([0.0]), np.float32([-0.0])),
        (np.float32([1.0]), np.float32([[1.0]])),
        (np.float32([1.0]), np.float32([np.nan])),
    ],
    ids=["last place", "type", "sign of zero", "shape", "nan"],
)
def test_the_first_rung_takes_nothing_but_equal_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    name = "initial/weights/0 a"
    assert compare(1, {name: ours}, {name: ours.copy()}).value == 0
    assert compare(1, {name: ours}, {name: theirs}).value > 0
    assert compare(1, {name: ours}, {}).value > 0
    assert compare(1, {}, {name: ours}).value > 0


def test_the_first_layer_to_differ_is_named_with_both_values() -> None:
    ours = {"forward/conv": [1.0, 2.0], "forward/relu": [1.0, 4.0], "forward/head": [3.0]}
    theirs = {**ours, "forward/relu": [1.0, 5.0], "forward/head": [9.0]}
    measurement = compare(2, ours, theirs)
    assert measurement.where == {
        "layer": "relu", "difference": 0.2, "index": [1], "a": 4.0, "b": 5.0, "suspect": "Relu",
        "rounding": 0,
    }  # fmt: skip
    assert measurement.value == pytest.approx(6 / 9)  # the largest of all layers


def test_a_gradient_is_traced_back_to_the_operation_that_made_it() -> None:
    ours = {
        "gradients/loss": 2.0, "gradients/outputs/conv": [1.0], "gradients/outputs/relu": [2.0],
        "gradients/outputs/head": [3.0], "gradients/weights/conv/kernel": [4.0],
        "gradients/weights/head/kernel": [5.0],
    }  # fmt: skip
    for wrong, suspect in {
        "gradients/loss": "the loss",
        "gradients/outputs/head": "the backward pass of the loss",
        "gradients/outputs/relu": "the backward pass of head: Dense",
        "gradients/outputs/conv": "the backward pass of relu: Relu",
        "gradients/weights/head/kernel": "the backward pass of head: Dense, for its weight",
    }.items():
        upstream = (
            {} if "weights" in wrong else {"gradients/weights/conv/kernel": [0.0]}
        )  # differs only later in the backward pass
        measurement = compare(3, ours, {**ours, **upstream, wrong: np.multiply(ours[wrong], 1.01)})
        assert measurement.where is not None
        assert measurement.where["layer"] == wrong.removeprefix("gradients/")
        assert measurement.where["suspect"].startswith(suspect)


def test_an_infinity_hides_no_other_difference() -> None:
    ours = np.array([np.inf, 1.0, 2.0, np.nan])
    theirs = np.array([np.inf, 1.0, 2.02, np.nan])
    for rung, name in ((2, "forward/conv"), (3, "gradients/outputs/conv")):
        assert compare(rung, {name: ours}, {name: ours.copy()}).value == 0
        measurement = compare(rung, {name: ours}, {name: theirs})
        assert measurement.value == pytest.approx(0.02 / 2.02)
        assert measurement.where is not None
        assert measurement.where["index"] == [2]
        for other in (
            np.array([np.inf, 1.0, np.inf, np.nan]),
            np.array([-np.inf, 1.0, 2.0, np.nan]),
            ours[::-1],
        ):
            assert compare(rung, {name: ours}, {name: other}).value == np.inf


def test_the_index_is_where_one_side_alone_is_not_finite() -> None:
    ours, theirs = np.array([1.0, np.inf, 5.0]), np.array([9.0, np.inf, np.nan])
    assert rungs.location("conv", ours, theirs)["index"] == [2]


def test_a_gradient_that_is_missing_is_found_beside_one_a_million_times_larger() -> None:
    ours = {"gradients/weights/conv/kernel": [1e6, 2e6], "gradients/weights/head/kernel": [1.0, 0.5]}
    theirs = {**ours, "gradients/weights/head/kernel": [0.0, 0.0]}
    measurement = compare(3, ours, theirs)
    assert measurement.value == 1
    assert measurement.where is not None
    assert measurement.where["layer"] == "weights/head/kernel"


def test_a_difference_within_twenty_spreads_of_the_rounding_holds() -> None:
    """A gradient that is zero in exact arithmetic, as of a bias before batch norm, is all rounding."""
    name, spread = "gradients/weights/conv/kernel", {"spread/gradients/weights/conv/kernel": 1e-9}
    ours, theirs = {name: [2e-9, -1e-9]}, {name: [-3e-9, 4e-9]}
    assert compare(3, ours, theirs).value > 1
    assert compare(3, {**ours, **spread}, theirs).value == pytest.approx(1e-5 * 5e-9 / 2e-8)
    assert compare(3, {**ours, **spread}, {name: [2e-9, 4e-8]}).value > 1e-5


def test_without_targets_no_outputs_make_the_loss_cancel() -> None:
    """If they do, rounding alone looks like a difference between the frameworks: it did once in CI."""
    draws = np.random.default_rng(0).normal(size=(300, 8, 3)).astype(np.float32)
    for y in draws:
        loss = numpy(taps._distance(None, backends.current().tensor(y)))
        assert loss > 0.1 * np.abs(y).sum()


def test_an_update_is_measured_against_itself_beyond_the_rounding_of_its_weight() -> None:
    w, update, scale = np.float32(1000.0), np.float32(0.01), np.array([0.01])
    path = np.array([[w], [w + update]], np.float32)
    off = np.array([[w], [np.nextafter(w + update, np.float32(0))]], np.float32)
    assert rungs.update_difference(path, off, scale, "float32") == 0  # a unit in the last place of 1000
    small = np.array([[0.0], [update]], np.float32)
    by = rungs.update_difference(small, small * np.float32(1.001), scale, "float32")
    assert by == pytest.approx(1e-3, rel=0.01)


def test_an_update_of_nan_never_holds() -> None:
    paths = {"a": [[0.0], [0.1]], "b": [[0.0], [0.2]]}
    ours = {f"update/SGD/native/{name}": path for name, path in paths.items()}
    theirs = {**ours, "update/SGD/native/b": [[0.0], [np.nan]]}
    assert compare(4, ours, ours).value == 0
    measurement = compare(4, ours, theirs)
    assert not measurement.value <= 1e9
    assert measurement.where is not None
    assert measurement.where["layer"] == "SGD, b (torch native and jax native)"


def test_losses_are_compared_as_they_are_and_the_step_is_named() -> None:
    ours = {f"training/{e}": np.ones(5) for e in ("native", "keras")}
    theirs = {f"training/{e}": np.ones(5) for e in ("native", "keras")}
    assert compare(5, ours, theirs).value == 0
    theirs["training/keras"][3:] += 0.5
    measurement = compare(5, ours, theirs)
    assert measurement.value == 0.5
    assert measurement.where is not None
    assert measurement.where["layer"] == "step 4, torch native and jax keras"


def test_a_run_of_nans_never_holds() -> None:
    ours = {"training/native": np.ones(3)}
    assert not compare(5, ours, {"training/native": np.array([1, np.nan, np.nan])}).value <= 1e9


def test_predictions_are_counted() -> None:
    ours = {"evaluation/native": [1, 2, 3], "evaluation/keras": [1, 2, 3]}
    assert compare(6, ours, ours).value == 0
    assert compare(6, ours, {**ours, "evaluation/native": [3, 2, 1]}).value == 2


def test_engines_are_compared_within_a_framework() -> None:
    arrays = {"training/native": np.ones(4), "training/keras": np.ones(4), "modes/eager": np.ones(2)}
    assert rungs.engines(arrays).value == 0
    assert rungs.engines({**arrays, "modes/eager": np.array([1, 1.25])}).value == 0.25


def test_what_must_be_the_same_is_compared_with_its_own_reference() -> None:
    """A wrong value in one variant alone, of which the words name the circumstance."""
    ones, two = np.ones(3), np.array([1.0, 1.0, 2.0])
    whole = {
        9: {
            "batch/together/0": ones,
            "batch/alone/0": ones,
            "batch/real/0": ones,
            "batch/front/outputs/0": ones,
        }
        | {f"batch/{name}/0": ones for name in ("cut", "behind", "masked", "tokens", "shifted")}
        | {"threads/batch/front/outputs/0": ones},
        10: {f"accumulation/{name}/w": ones for name in ("whole", "native", "keras")}
        | {f"recomputation/{name}/w": ones for name in ("stored", "recomputed")},
    }
    for rung, variant, words in (
        (9, "batch/alone/0", "output 0 of an example alone, and in a batch"),
        (9, "batch/cut/0", "output 0 without padding, and with it"),
        (9, "batch/tokens/0", "output 0 with other tokens in the padding"),
        (9, "threads/batch/front/outputs/0", "outputs/0 with eight threads, and with one"),
        (10, "accumulation/native/w", "w of native micro-batches, and of one batch"),
        (10, "recomputation/recomputed/w", "w recomputed, and stored"),
    ):
        same = rungs.WITHIN[rung]("jax", whole[rung], 1e-5, "float32")
        assert same is not None
        assert same.value == 0
        wrong = rungs.WITHIN[rung]("jax", {**whole[rung], variant: two}, 1e-5, "float32")
        assert wrong is not None
        assert wrong.value == 0.5
        assert wrong.where is not None
        assert wrong.where["layer"] == words
        assert rungs.WITHIN[rung]("jax", {}, 1e-5, "float32") is None


def test_padding_in_front_is_compared_between_frameworks() -> None:
    ours = {"batch/front/outputs/0": [1.0, 2.0], "batch/front/gradients/w": [1.0]}
    assert compare(9, ours, ours).value == 0
    assert compare(9, ours, {**ours, "batch/front/gradients/w": [1.5]}).value == pytest.approx(1 / 3)
    assert rungs.COMPARISONS[9](pair(ours, {})) is None  # it is left out there


@pytest.mark.parametrize(
    ("error", "ratio"), [(0.5, 0.5), (8.0, 8.0), (np.nan, np.nan), (0.01, np.inf), (0.0, np.inf)]
)
def test_a_format_has_its_error_neither_much_more_nor_none(error: float, ratio: float) -> None:
    """Of two outputs the larger error is measured; outputs without one are not computed in the format."""
    form = bounds.FORMATS[0]
    exact = {"precision/exact/outputs/0": np.ones(4), f"precision/{form.bits} bits/outputs/0": np.array(1e-3)}
    ours = {f"precision/{form.name}/outputs/0": np.array([1.0, 1.0, 1.0, 1 + 1e-3 * error])}
    measurement = rungs.precision(ours, exact, form)
    assert measurement is not None
    np.testing.assert_allclose(measurement.value, ratio)
    assert rungs.precision({}, exact, form) is None


def test_the_rounding_of_a_format_is_that_of_its_bits() -> None:
    """Half a unit in the last place, as numbers rounded to it have at most: float16 by NumPy."""
    x = np.random.default_rng(0).uniform(1, 2, 100_000)
    measured = np.abs(x.astype(np.float16) / x - 1).max()
    noise = np.abs(variants.half_ulps(x.shape, 11, 0)).max()
    assert measured <= noise <= 1.01 * 2.0**-11
    assert measured > 0.99 * noise / 1.01


@pytest.mark.parametrize(("bits", "like"), [(11, "float16"), (24, "float32")])
def test_numbers_are_rounded_to_a_format_as_numpy_rounds_them(bits: int, like: str) -> None:
    halves = 1 + np.arange(16) * 2.0**-bits  # half of these are in the middle of two numbers
    x = np.concatenate([np.random.default_rng(0).normal(size=10_000), halves, -halves, [0.0]])
    assert np.array_equal(
        variants.round_to(x, bits), np.where(np.abs(x) < 1e-4, variants.round_to(x, bits), x.astype(like))
    )


def test_a_gradient_whose_terms_cancel_has_the_error_of_its_kernels_rows() -> None:
    """The keys' bias of an attention: its gradient is 0 up to rounding, as softmax ignores what is added."""
    exact = {"gradients/key/kernel": np.ones((4, 3)), "gradients/key/bias": np.full(3, 1e-18)}
    errors = {"gradients/key/kernel": 1e-2, "gradients/key/bias": 1e-5}
    found = variants.error_of_cancelling("gradients/key/bias", errors, exact, 8)
    assert found == pytest.approx(5e-3)  # one of four rows
    assert variants.error_of_cancelling("gradients/key/kernel", errors, exact, 8) == 0.0
    exact["gradients/key/bias"] = np.ones(3)
    assert variants.error_of_cancelling("gradients/key/bias", errors, exact, 8) == 0.0


def test_losses_are_held_to_a_few_times_the_chaos_floor_or_the_last_place() -> None:
    assert bounds.floor(1e-3) == 5e-3
    assert bounds.floor(0.0) == 5 * np.spacing(np.float32(2.3))


@pytest.mark.parametrize(
    ("measured", "listed", "verdict"),
    [(0.0, False, "holds"), (1.0, False, "fails"), (1.0, True, "gap"), (0.0, True, "closed")],
)
def test_a_known_gap_is_shown_and_fails_once_it_holds(
    monkeypatch: pytest.MonkeyPatch, measured: float, listed: bool, verdict: str
) -> None:
    gap = bounds.Gap("m", 2, "float64", ("torch", "jax"), "float32 inside", "https://example.org/1")
    monkeypatch.setattr(rungs, "GAPS", (gap,) if listed else ())
    measurement = rungs.Measurement(measured)
    row = rungs.row("m", "float64", bounds.RUNGS[1], ("torch", "jax"), measurement, 0.0)
    assert row["verdict"] == verdict
    result = ladder.Parity(rows=[row])
    assert bool(result.failed) == (verdict in ("fails", "closed"))


def test_there_are_25_faults_or_more_across_every_rung() -> None:
    assert len(faults.FAULTS) >= 25
    assert {fault.rung for fault in faults.FAULTS} == {0, *bounds.NUMBERS}
    assert len({fault.name for fault in faults.FAULTS}) == len(faults.FAULTS)


def test_a_fault_lasts_as_long_as_its_context() -> None:
    backend = backends.current()
    whole = backend.gelu
    with faults.injected("GELU's other form"):
        assert backend.gelu is not whole
    assert backend.gelu is whole


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rungs": (12,)}, "no rung 12"),
        ({"inputs": np.zeros(3)}, "for a model of your own"),
        ({"modes": ("compild",)}, "compiled"),
    ],
)
def test_wrong_arguments_are_named_before_a_process_starts(
    monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], message: str
) -> None:
    monkeypatch.setattr(ladder, "compared_backends", lambda names: list(backends.NAMES))
    monkeypatch.setattr(ladder, "ParityRun", None)
    with pytest.raises(zoo.ZooError, match=message):
        zoo.parity("mlp", **arguments)


def test_a_builder_without_inputs_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "compared_backends", lambda names: list(backends.NAMES))
    for arguments in ((faults.network,), (faults.network, "mlp", np.zeros(3))):
        with pytest.raises(zoo.WrongConfiguration, match="one model of your own and inputs for it"):
            zoo.parity(*arguments)


def test_inputs_and_targets_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ladder, "compared_backends", lambda names: list(backends.NAMES))
    monkeypatch.setattr(ladder, "ParityRun", None)
    for inputs, targets in (
        (np.zeros((3, 2)), np.zeros(4)),
        (np.zeros((0, 2)), None),
        ({"a": np.zeros(2), "b": np.zeros(3)}, np.zeros(2)),
    ):
        with pytest.raises(zoo.WrongConfiguration, match="targets"):
            zoo.parity(faults.network, inputs, targets=targets)


def test_progress_counts_rungs_and_finished_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Computes:
        """A process that answers as zoo.ladder.probe does."""

        def ask(self, command: str, **_: Any) -> Iterator[dict[str, Any]]:
            assert command == "compute"
            yield from ({"rungs_done": 1}, {"rungs_done": 2}, {"facts": {"left_out": []}})

        def close(self) -> None:
            pass

    shown: list[str] = []
    monkeypatch.setattr(run.ParityRun, "start", lambda *_: Computes())
    monkeypatch.setattr(run.ParityRun, "table", lambda *_: iter(()))
    monkeypatch.setattr("zoo.processes.machine.cores", lambda: 1)
    settings = run.Settings(["torch", "jax"], ["float32"], rungs=(1, 4), progress=shown.append)
    with run.ParityRun(tmp_path, [("mlp", None)], settings) as ladder_run:
        ladder_run.rows()
    assert shown == [
        f"mlp · {name} float32: {done} of 2 rungs ({finished} of 2 finished)"
        for finished, name in enumerate(("jax", "torch"))
        for done in (0, 1, 2)
    ]


def test_one_framework_is_no_pair() -> None:
    with pytest.raises(zoo.BackendError, match="two frameworks or more"):
        zoo.parity("mlp", backends=[backends.current().NAME])


def test_every_process_gets_the_device_and_the_result_states_it(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = []

    class Dying:
        def __init__(self, _module: str, _folder: Path, backend: str, environment: dict[str, str]) -> None:
            devices.append((backend, environment["ZOO_PARITY_DEVICE"]))

        def ask(self, command: str, **_: Any) -> None:
            raise WorkerDied(f"no {command}")

        def close(self) -> None: ...

    monkeypatch.setattr(backends, "installed", lambda: ("torch", "jax"))
    monkeypatch.setattr(run, "Worker", Dying)
    for options, device in (({}, "cpu"), ({"device": "cuda:1"}, "cuda:1")):
        result = ladder.parity("mlp", rungs=(1,), **options)
        assert sorted(devices) == [("jax", device), ("torch", device)]
        assert result["environment"]["devices"] == {"torch": device, "jax": device}
        devices.clear()


def test_a_process_computes_on_the_device_of_its_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    monkeypatch.setattr(backends.current(), "use_device", used.append)
    monkeypatch.setenv("KERAS_BACKEND", backends.current().NAME)
    monkeypatch.setenv("ZOO_PARITY_DTYPE", "float32")
    monkeypatch.setenv("ZOO_PARITY_DEVICE", "cuda:1")
    probe.Probe(tmp_path, lambda **_: None)
    assert used == ["cuda:1"]


def rows_of(*measured: float, **changes: Any) -> list[dict[str, Any]]:
    """The rows of rungs 2 and 3 for one pair."""
    return [
        {**rungs.row("m", "float32", bounds.RUNGS[n], ("torch", "jax"), rungs.Measurement(x), 0.0), **changes}
        for n, x in zip((1, 2), measured, strict=True)
    ]


@pytest.mark.parametrize(
    ("measured", "words"),
    [
        ((0.0, 0.0), "m, torch and jax: equal"),
        ((1e-7, 3e-7), "m, torch and jax: rounding: outputs and gradients differ by 3.0e-7 in float32"),
    ],
)
def test_a_result_is_printed_in_words(measured: tuple[float, float], words: str) -> None:
    assert str(ladder.Parity(rows=rows_of(*measured), notes={})) == words


def test_the_words_name_where_two_frameworks_differ_and_what_rounding_would_be() -> None:
    where = {
        "layer": "block3/conv", "suspect": "Conv2D", "index": [0, 3], "a": 1.5, "b": 1.25, "difference": 0.1,
        "rounding": 1e-7,
    }  # fmt: skip
    measurement = rungs.Measurement(0.1, where)
    row = rungs.row("m", "float32", bounds.RUNGS[1], ("torch", "jax"), measurement, 0.0)
    words = str(ladder.Parity(rows=[row], notes={"m": ["3 random generators drew the same numbers"]}))
    assert words.splitlines() == [
        "m, torch and jax: DIFFERENT: rung 2, forward, first differs at block3/conv[0, 3]: 1.5 against "
        "1.25, by 1.0e-1 where rounding is 1.0e-7. Suspect: Conv2D.",
        "m: 3 random generators drew the same numbers",
    ]
    agreed = {**row, "dtype": "float64", "verdict": "holds", "where": None}
    assert "In float64 they agree" in str(ladder.Parity(rows=[row, agreed], notes={}))


def test_the_words_name_a_framework_that_differs_from_itself() -> None:
    where = {"layer": "output 0 of an example alone, and in a batch", "difference": 0.5}
    row = rungs.row(
        "m", "float32", bounds.RUNGS[8], ("jax", "jax"), rungs.Measurement(0.5, where), 0.0
    )  # rung 9
    assert str(ladder.Parity(rows=[row], notes={})) == (
        "m, jax float32: DIFFERENT: rung 9, batch, first differs at output 0 of an example alone, and in a "
        "batch, by 5.0e-1."
    )


def test_every_rung_says_its_claim_and_bounds() -> None:
    assert [rung.number for rung in bounds.RUNGS] == list(range(1, 12))
    for rung in bounds.RUNGS:
        assert set(dataclasses.asdict(rung)) == {"number", "name", "claim", "float32", "float64"}
        assert rung.float64 <= (1e-9 if rung.name != "precision" else 10)
