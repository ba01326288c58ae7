"""docs/reliability.md, and in small what `docs/_reliability.py` measures for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME

from zoo import backends

DOCS = Path(__file__).parents[1] / "docs"
PARTS = ("kills", "flips", "resume", "files")


@pytest.fixture(scope="module")
def reliability() -> Iterator[Any]:
    """The module that measures."""
    sys.path.insert(0, str(DOCS))
    yield import_module("_reliability")
    sys.path.remove(str(DOCS))


@pytest.fixture(scope="module")
def workers(reliability: Any) -> Iterator[Any]:
    with reliability.working() as workers:
        yield workers


def assert_survived(row: dict[str, Any]) -> None:
    """A run that was killed has lost nothing, left nothing, and is the run that was never cut."""
    assert "error" not in row, row
    assert row["found"] >= row["announced"], row
    assert (row["damaged"], row["left"], row["processes"], row["equal"]) == (0, [], False, True), row


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks in /proc")
def test_a_run_that_is_killed_is_resumed_as_if_it_had_not_been(reliability: Any, workers: Any) -> None:
    """SIGTERM and SIGKILL within a save, SIGINT at a random time, by either engine."""
    cases = list(reliability.kills(4, (NAME,)))[2:]
    # Before a written file takes its name: the writer's other calls are not in one order with the run's.
    killed = {"framework": NAME, "signal": "SIGKILL", "step": 3, "call": 1, "event": "os.rename", "delay": 0}
    cases += [{**killed, "engine": engine} for engine in ("keras", "native")]
    rows = [{**case, **reliability.kill(workers, case)} for case in cases]
    assert all(row["partial"] for row in rows if "event" in row)
    assert {(row["engine"], row["signal"]) for row in rows} == {
        (engine, signal) for engine in ("keras", "native") for signal in ("SIGKILL", "SIGTERM", "SIGINT")
    }
    for row in rows:
        assert_survived(row)
        ended = {"SIGKILL": [-9], "SIGTERM": [143, -15], "SIGINT": [130]}  # -15: before its first step
        assert row["status"] in ended[row["signal"]], row


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and looks in /proc")
@pytest.mark.parametrize("engine", ["keras", "native"])
def test_a_run_that_is_resumed_has_the_bits_of_the_uncut_one(
    engine: str, reliability: Any, workers: Any
) -> None:
    case = {"kind": "mixed_float16", "engine": engine, "saved": NAME, "resumed": NAME}
    assert reliability.resume(workers, case)["equal"]


@pytest.mark.parity
def test_a_run_that_is_resumed_elsewhere_differs_by_rounding(reliability: Any, workers: Any) -> None:
    case = {"kind": "AdamW", "engine": "native", "saved": "torch", "resumed": "jax"}
    found = reliability.resume(workers, case)
    assert 0 < found["losses"] < 1e-5
    assert found["weights"] < 1e-5


@pytest.mark.long
@pytest.mark.parity
def test_runs_survive_kills_and_other_frameworks_everywhere(reliability: Any, workers: Any) -> None:
    for case in reliability.kills(2):
        assert_survived(reliability.kill(workers, case))
    for case in reliability.resumes(("AdamW",)):
        found = reliability.resume(workers, case)
        assert found["equal"] == (case["saved"] == case["resumed"]), (case, found)
        assert max(found["losses"], found["weights"]) < 1e-5, (case, found)


@pytest.mark.once
def test_damage_is_found_and_named_and_the_checkpoint_before_it_offered(
    reliability: Any, workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred bits, pages of zeros, missing ends."""
    monkeypatch.setattr(reliability, "DAMAGED", {"AdamW": (NAME, "native")})
    for case in reliability.flips(12, ("AdamW",)):
        found = reliability.flip(workers, case)
        assert found["made"] >= 12
        assert len(set(found.values())) == 1, (case, found)


@pytest.mark.once
def test_an_interrupted_measurement_continues(
    reliability: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def measure(_: Any, case: dict[str, int]) -> dict[str, int]:
        calls.append(case["number"])
        if calls == [0, 1, 2]:
            raise KeyboardInterrupt
        return {"found": 2 * case["number"]}

    cases = [{"number": number} for number in range(4)]
    monkeypatch.setitem(reliability.PARTS, "kills", (lambda: iter(cases), measure))
    path = tmp_path / "kills.json"
    with pytest.raises(KeyboardInterrupt):
        reliability.record("kills", path, None)
    reliability.record("kills", path, None)
    assert calls == [0, 1, 2, 2, 3]
    assert reliability.read(path)["rows"] == [{**case, "found": 2 * case["number"]} for case in cases]


# --- the page ---


@pytest.fixture(scope="module")
def measured(reliability: Any) -> dict[str, Any]:
    """What the page shows, by part."""
    return {part: reliability.read(DOCS / "measured" / f"reliability-{part}.json") for part in PARTS}


@pytest.mark.once
def test_the_page_shows_what_was_measured(reliability: Any, measured: dict[str, Any]) -> None:
    text = reliability.PAGE.read_text(encoding="utf-8")
    assert text == reliability._reliability_page.text(measured), "python docs/_reliability.py writes it"


@pytest.mark.once
def test_200_kills_lost_no_run_and_no_checkpoint(measured: dict[str, Any]) -> None:
    rows = measured["kills"]["rows"]
    assert len(rows) >= 200
    assert {row["framework"] for row in rows} == set(backends.NAMES)
    for row in rows:
        assert_survived(row)
    within = [row for row in rows if row["moment"].startswith("at")]
    assert len(within) >= 90
    assert sum(row["partial"] for row in rows) >= 30


@pytest.mark.once
def test_2000_flipped_bits_were_found(reliability: Any, measured: dict[str, Any]) -> None:
    rows = measured["flips"]["rows"]
    assert sum(row["made"] for row in rows if row["region"] in reliability.REGIONS) >= 2000
    for row in rows:
        assert row["made"] == row["found"] == row["named"] == row["offered"], row


@pytest.mark.once
def test_runs_were_resumed_with_their_bits_or_by_rounding(measured: dict[str, Any]) -> None:
    rows = measured["resume"]["rows"]
    assert len(rows) == 3 * 2 * 9
    for row in rows:
        if row["saved"] == row["resumed"]:
            assert row["equal"], row
        elif row["kind"] == "mixed_float16":  # two runs of half precision that were never cut differ as much
            assert row["losses"] <= 2 * row["apart"] < 1e-3, row
        else:
            assert max(row["losses"], row["weights"]) < 1e-5, row


@pytest.mark.once
def test_no_error_of_a_reader_was_uncaught(measured: dict[str, Any]) -> None:
    rows = measured["files"]["rows"]
    formats = import_module("test_hostile_files").FORMATS
    assert [row["format"] for row in rows] == list(formats)
    assert all(row["mutations"] >= 10_000 and row["uncaught"] == [] and row["refused"] for row in rows)
