"""Files and runs that survive: kills, full disks, flipped bits, two runs on one path."""

from __future__ import annotations

import errno
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import numpy
from typer.testing import CliRunner

import zoo
from zoo import optimizers, storage, training
from zoo.cli import app
from zoo.training import checkpoints, runs
from zoo.training.metrics import evaluate

SMALL = {**zoo.card("mlp").small, "widths": (8,)}  # with dropout


def process(code: str, *words: object) -> subprocess.Popen[str]:
    """A fresh interpreter that runs this code, `words` its arguments."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- files ---

HALF = """
import sys, time
from pathlib import Path
from zoo import storage
with storage.replacing(sys.argv[1]) as part:
    part.write_text("half")
    part.with_name(".tmpA1b2C3").write_text("as safetensors' own writer leaves it")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leftovers are removed at once, and not after the second in which they may be new."""
    monkeypatch.setattr(storage, "RECENT", 0.0)


@pytest.mark.once
@pytest.mark.usefixtures("old")
def test_what_a_killed_writer_leaves_is_removed_when_the_file_is_saved_again(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_text("old")
    writer = process(HALF, path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    storage.write_text(path, "another's")  # a writer that is at work keeps what it has
    assert len(list(tmp_path.iterdir())) == 2
    writer.kill()
    writer.communicate()
    assert path.read_text() == "another's"
    assert len(list(tmp_path.iterdir())) == 2
    storage.write_text(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "new"


@pytest.mark.once
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    events: list[int | str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replaced(part: Path, target: Path) -> Path:
        events.append("rename")
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    storage.write_text(path, "new")
    assert events == [path.stat().st_ino, "rename", tmp_path.stat().st_ino]


# --- damage ---


def toy() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(64, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)


def train(**arguments: Any) -> zoo.Run:
    """Four steps an epoch; with dropout and momentum."""
    settings: dict[str, Any] = {"batch_size": None if arguments.get("resume") else 16, "progress": False}
    if not arguments.get("resume"):
        settings["optimizer"] = optimizers.Momentum(0.05)
    model = zoo.build("mlp", **SMALL)
    return zoo.train(model, toy(), **{**settings, **arguments})


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A checkpoint's file."""
    path = tmp_path_factory.mktemp("saved") / "run.safetensors"
    train(steps=3, checkpoint=path)
    return path.read_bytes()


def assert_refused(path: Path, content: bytes) -> str:
    """The file of this content is not resumed; what the error says."""
    path.write_bytes(content)
    with pytest.raises(zoo.ZooError) as error:
        checkpoints.read(path)
    return str(error.value)


def test_every_flipped_bit_of_a_checkpoint_is_found(saved: bytes, tmp_path: Path) -> None:
    """300 in the arrays and 300 in the header, by a fixed seed."""
    rng, header = np.random.default_rng(27), 8 + int.from_bytes(saved[:8], "little")
    places = [*rng.integers(0, header, 300), *rng.integers(header, len(saved), 300)]
    for place, bit in zip(places, rng.integers(0, 8, 600), strict=True):
        content = bytearray(saved)
        content[place] ^= 1 << bit
        said = assert_refused(tmp_path / "run.safetensors", bytes(content))
        part = r"': (\w+/|losses).* cannot be read \(damaged" if place >= header else "header|facts|digests"
        assert re.search(part, said), (place, said)


def test_a_page_of_zeros_in_a_checkpoint_is_found(saved: bytes, tmp_path: Path) -> None:
    """As a disk loses a block; every block that was not zero before."""
    for start in range(0, len(saved), 512):
        if any(saved[start : start + 512]):
            content = saved[:start] + bytes(len(saved[start : start + 512])) + saved[start + 512 :]
            assert_refused(tmp_path / "run.safetensors", content)


def test_weights_of_a_damaged_checkpoint_are_not_loaded(saved: bytes, tmp_path: Path) -> None:
    path, content = tmp_path / "run.safetensors", bytearray(saved)
    header = 8 + int.from_bytes(saved[:8], "little")
    start, _ = json.loads(saved[8:header])["model/head/kernel"]["data_offsets"]
    content[header + start + 5] ^= 16
    path.write_bytes(bytes(content))
    model = zoo.build("mlp", **SMALL)
    with pytest.raises(zoo.DataUnavailable, match=r"head/kernel.*damaged"):
        zoo.weights.load(model, path)


def test_a_checkpoint_without_digests_is_read(saved: bytes, tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    path = tmp_path / "run.safetensors"
    path.write_bytes(saved)
    whole = checkpoints.read(path)
    facts = json.dumps(dict(whole.facts))
    safetensors.numpy.save_file(dict(whole.arrays), path, {"zoo": facts})
    assert len(checkpoints.read(path).arrays["losses"]) == 3
    assert len(train(resume=path, steps=5).losses) == 5


# --- signals ---


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1"])
@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_signal_ends_the_step_saves_the_run_and_is_in_the_exit_status(
    engine: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within the second epoch: the file has the steps made, and the resumed run is the one never cut."""
    number, train_run = getattr(signal, name), training.train
    before = signal.getsignal(number)

    def send(step: int, _: object) -> None:
        if step == 4:
            signal.raise_signal(number)

    def signalled(*_: Any, **options: Any) -> zoo.Run:
        return train_run(zoo.build("mlp", **SMALL), toy(), **{**options, "batch_size": 16, "watch": send})

    monkeypatch.setattr(training, "train", signalled)
    path = tmp_path / "run.safetensors"
    words = ["train", "mlp", "--engine", engine, "--steps", "11", "--checkpoint", str(path), "--json"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 128 + number
    facts = json.loads(done.stdout)
    assert (facts["steps"], facts["interrupted"]) == (5, True)
    assert signal.getsignal(number) is before
    monkeypatch.undo()
    assert checkpoints.read(path).arrays["losses"].tolist() == facts["losses"]
    model, uncut = zoo.build("mlp", **SMALL), zoo.build("mlp", **SMALL)
    resumed = zoo.train(model, toy(), engine=engine, resume=path, steps=11, progress=False)
    uncut = zoo.train(uncut, toy(), engine=engine, steps=11, batch_size=16, progress=False)
    assert resumed.losses == uncut.losses


def test_a_signal_with_a_handler_of_the_programs_own_is_left_to_it() -> None:
    received = []
    before = signal.signal(signal.SIGUSR1, lambda *_: received.append("ours"))
    try:
        run = train(steps=3, watch=lambda step, _: signal.raise_signal(signal.SIGUSR1))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(run.losses) == len(received) == 3
    assert not run.interrupted


def test_a_run_that_is_stopped_is_saved_before_it_is_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who sends SIGTERM sends SIGKILL 30 seconds later."""
    path = tmp_path / "run.safetensors"
    monkeypatch.setattr("zoo.training.loop.evaluate", lambda *_: pytest.fail("killed"))
    with pytest.raises(pytest.fail.Exception, match="killed"):
        train(steps=9, checkpoint=path, watch=lambda step, _: signal.raise_signal(signal.SIGTERM))
    assert len(checkpoints.read(path).arrays["losses"]) == 1


# --- saves within an epoch ---


class Killed(BaseException):
    """The process ends here, without another save."""


def kill(at: int) -> Callable[[int, object], None]:
    def watch(step: int, _: object) -> None:
        if step == at:
            raise Killed

    return watch


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize(("every", "left"), [(2, 6), ("3 steps", 6), ("1 s", 7)])
def test_a_run_killed_within_an_epoch_resumes_from_its_last_save_as_if_never_cut(
    engine: str, every: int | str, left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four steps an epoch; killed in the eighth. A time is always over: the clock goes by a second a step."""
    path, uncut = tmp_path / "run.safetensors", train(engine=engine, steps=11)
    if every == "1 s":
        monkeypatch.setattr("zoo.training.saving.time.perf_counter", itertools.count().__next__)
    with pytest.raises(Killed):
        train(engine=engine, steps=11, checkpoint=path, checkpoint_every=every, watch=kill(7))
    monkeypatch.undo()
    assert len(checkpoints.read(path).arrays["losses"]) == left
    run = train(engine=engine, steps=11, resume=path)
    assert run.losses == uncut.losses
    assert run.history == uncut.history
    for ours, theirs in zip(run.model.variables, uncut.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@pytest.mark.parametrize("engine", training.ENGINES)
def test_saves_within_an_epoch_change_nothing_of_a_run(engine: str, tmp_path: Path) -> None:
    plain = train(engine=engine, steps=7)
    run = train(engine=engine, steps=7, checkpoint=tmp_path / "run.safetensors", checkpoint_every=1)
    assert run.losses == plain.losses


@pytest.mark.once
def test_the_last_checkpoints_are_kept_and_a_damaged_one_names_the_one_before_it(tmp_path: Path) -> None:
    train(steps=8, out=tmp_path / "r", checkpoint_every=1, keep=3)
    path = tmp_path / "r" / checkpoints.FILE
    kept = [path.with_name(f"checkpoint-0000000{step}.safetensors") for step in (8, 7, 6)]
    assert checkpoints.numbered(path) == kept
    assert [len(checkpoints.read(file).arrays["losses"]) for file in kept] == [8, 7, 6]
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(bytes(content))  # the numbered name is the same file
    with pytest.raises(zoo.DataUnavailable, match=r"loaded\. An earlier .*'.*checkpoint-00000007\.s"):
        checkpoints.read(path)
    run = train(steps=12, out=tmp_path / "r", resume=kept[1])
    assert len(run.losses) == 12


@pytest.mark.once
@pytest.mark.parametrize("wrong", [0, "0 s", "ten", "5 days", -1, True, 2.5])
def test_an_interval_that_is_none_is_refused(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"checkpoint_every=.*; expected steps"):
        train(steps=2, checkpoint=tmp_path / "r", checkpoint_every=wrong)


@pytest.mark.once
@pytest.mark.parametrize(
    "option", [{"checkpoint_every": 5}, {"keep": 2}, {"keep_best": "loss"}, {"resume": "auto"}]
)
def test_options_of_a_path_without_one_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(zoo.WrongConfiguration, match="give out= or checkpoint="):
        train(steps=2, **option)


# --- resume auto ---


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize("place", ["out", "checkpoint"])
def test_the_same_command_starts_a_run_and_continues_it(
    engine: str, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With settings of the optimizer, which a resumed run refuses otherwise."""
    path = tmp_path / ("r" if place == "out" else "r.safetensors")
    settings = {
        "optimizer": "Momentum",
        "learning_rate": 0.05,
        "schedule": "CosineAnnealing",
        "batch_size": 16,
    }
    again = {**settings, "engine": engine, "steps": 11, place: path, "resume": "auto", "checkpoint_every": 2}
    model = lambda: zoo.build("mlp", **SMALL)  # noqa: E731
    with pytest.raises(Killed):
        zoo.train(model(), toy(), **again, watch=kill(6), progress="lines")
    assert "no checkpoint in" in capsys.readouterr().err
    run = zoo.train(model(), toy(), **again, progress="lines")
    assert "is continued after step 6" in capsys.readouterr().err
    uncut = zoo.train(model(), toy(), **settings, engine=engine, steps=11, progress=False)
    assert run.losses == uncut.losses


@pytest.mark.once
def test_auto_takes_the_newest_that_is_whole_and_overwrites_none_that_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    train(steps=6, checkpoint=path, checkpoint_every=1, keep=2)
    older = tmp_path / "run-00000005.safetensors"
    path.write_bytes(path.read_bytes()[:-9])
    (tmp_path / "run-00000006.safetensors").unlink()
    saved, note = checkpoints.newest(path)
    assert saved is not None
    assert saved.path == older
    assert "damaged" in note
    older.unlink()
    with pytest.raises(zoo.WrongConfiguration, match="damaged"):
        train(steps=9, checkpoint=path, resume="auto")


# --- saves that fail, and two runs on one path ---


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_save_that_fails_is_reported_and_the_next_one_tries_again(
    engine: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()

    def unplug(step: int, _: object) -> None:
        if step == 1:
            shutil.rmtree(folder)
        if step == 5:
            folder.mkdir()

    path = folder / "run.safetensors"
    run = train(engine=engine, steps=11, checkpoint=path, watch=unplug)
    assert "not saved after step 4: [Errno 2] No such file or directory" in caplog.text
    assert run.losses == train(engine=engine, steps=11).losses
    assert len(checkpoints.read(path).arrays["losses"]) == 11


def test_a_run_that_could_not_be_saved_at_its_end_raises_with_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(zoo.NotSaved, match=r"ended after step 9 and could not be saved: .*No space") as error:
        train(steps=9, out=tmp_path / "r")
    monkeypatch.undo()
    assert error.value.run.losses == train(steps=9).losses
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
def test_two_runs_on_one_path_are_refused_and_a_dead_ones_lock_is_not(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    code = (
        "import sys, time\nfrom zoo import storage\n"
        "with storage.held('train', sys.argv[1]):\n    print('held', flush=True)\n    time.sleep(60)"
    )
    other = process(code, path)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(
        zoo.WrongConfiguration, match=rf"is being written by another run, process {other.pid};"
    ):
        train(steps=2, checkpoint=path)
    other.kill()
    other.communicate()
    assert len(train(steps=2, checkpoint=path).losses) == 2
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.once
def test_a_run_killed_in_the_midst_of_saving_is_resumed_and_leaves_nothing(tmp_path: Path) -> None:
    """SIGKILL at three moments of a run that saves after every step."""
    folder = tmp_path / "r"
    code = (
        "import sys, zoo, numpy as np\n"
        "x, y = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype('f4'), np.arange(64) % 10\n"
        "def said(step, _): print(step, flush=True)\n"
        "zoo.train(zoo.build('mlp', **zoo.card('mlp').small), (x, y), batch_size=16, steps=10**6, "
        "out=sys.argv[1], checkpoint_every=1, resume='auto', watch=said, progress=False)"
    )
    steps, rng = 0, np.random.default_rng(0)
    for _ in range(3):
        run = process(code, folder)
        assert run.stdout is not None
        first = int(run.stdout.readline())
        assert first >= steps - 1
        for _ in range(3):
            run.stdout.readline()
        time.sleep(rng.uniform(0, 0.05))
        run.kill()
        _, error = run.communicate()
        assert "Error" not in error, error
        steps = len(checkpoints.read(folder).arrays["losses"])
        assert steps >= first + 2  # step first + 3 is announced before it is saved, beside the one before
    time.sleep(storage.RECENT)
    x, y = np.random.default_rng(0).normal(size=(64, 8, 8, 1)).astype("f4"), np.arange(64) % 10
    model = zoo.build("mlp", **zoo.card("mlp").small)
    zoo.train(model, (x, y), steps=steps + 2, out=folder, resume="auto", progress=False)
    assert sorted(file.name for file in folder.iterdir()) == [checkpoints.FILE, "run.html", "run.json"]


# --- early stopping and the best checkpoint ---


def overfit(**arguments: Any) -> zoo.Run:
    """Sixteen examples of noise, four steps an epoch: the loss on those held out falls, then rises."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 64).astype(np.int32)
    x = (rng.normal(size=(64, 64)) + np.eye(64)[y] * 2).astype(np.float32).reshape(64, 8, 8, 1)
    settings: dict[str, Any] = {"early_stopping": zoo.EarlyStopping(3), "epochs": 40, "progress": False}
    if not arguments.get("resume"):
        settings |= {"batch_size": 4, "optimizer": optimizers.Adam(0.01)}
    data = {"task": (x[:16], y[:16]), "validation": (x[16:], y[16:])}
    return zoo.train(zoo.build("mlp", **SMALL), **{**data, **settings, **arguments})


def assert_same(run: zoo.Run, uncut: zoo.Run) -> None:
    """Bit for bit: losses, metrics, and the weights at the end."""
    assert run.losses == uncut.losses
    assert run.history == uncut.history
    assert run.metrics == uncut.metrics
    for ours, theirs in zip(run.model.variables, uncut.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@pytest.fixture(scope="module", params=training.ENGINES)
def stopped(request: pytest.FixtureRequest) -> zoo.Run:
    """The run that is never cut."""
    run = overfit(engine=request.param)
    best = int(np.argmin([metrics["loss"] for metrics in run.history]))
    assert 1 < best == len(run.history) - 4 < 36
    return run


@pytest.mark.parametrize("cut", ["before the best", "after the best", "within an epoch", "in evaluation"])
def test_a_resumed_run_stops_early_as_the_one_never_cut(
    stopped: zoo.Run, cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the same epoch, with the best epoch's weights; the rule is the saved run's."""
    path, best = (
        tmp_path / "run.safetensors",
        len(stopped.history) - 3,
    )  # epochs up to the best, counted from 1
    steps = {"before the best": best - 2, "within an epoch": best + 0.5}.get(cut, best + 2) * 4
    options: dict[str, Any] = {"engine": stopped.engine, "checkpoint": path}
    if cut == "in evaluation":
        calls, measure = itertools.count(1), evaluate
        monkeypatch.setattr(
            "zoo.training.loop.evaluate",
            lambda *given: pytest.fail("killed") if next(calls) == best + 2 else measure(*given),
        )
        kill_it = lambda step, _: signal.raise_signal(signal.SIGTERM) if step == steps - 1 else None  # noqa: E731
        with pytest.raises(pytest.fail.Exception, match="killed"):
            overfit(**options, watch=kill_it)
        monkeypatch.undo()
        assert len(checkpoints.read(path).facts["history"]) == best + 1
    elif cut == "within an epoch":
        overfit(
            **options, watch=lambda step, _: signal.raise_signal(signal.SIGINT) if step == steps - 1 else None
        )
    else:
        with pytest.raises(Killed):
            overfit(**options, watch=kill(int(steps)))
    assert len(checkpoints.read(path).arrays["losses"]) == steps
    assert_same(overfit(engine=stopped.engine, resume=path, early_stopping=None), stopped)


def test_early_stopping_of_averages_is_resumed(tmp_path: Path) -> None:
    path, uncut = tmp_path / "run.safetensors", overfit(optimizer=optimizers.Adam(0.01, use_ema=True))
    with pytest.raises(Killed):
        overfit(
            optimizer=optimizers.Adam(0.01, use_ema=True), checkpoint=path, watch=kill(len(uncut.losses) - 6)
        )
    assert_same(overfit(resume=path), uncut)


# --- runs that have ended ---


def test_a_run_that_stopped_early_makes_no_more_steps_without_more_patience(
    stopped: zoo.Run, tmp_path: Path
) -> None:
    path, fail = tmp_path / "run.safetensors", lambda *_: pytest.fail("a step was made")
    overfit(engine=stopped.engine, checkpoint=path)
    before = path.read_bytes()
    with pytest.raises(
        zoo.WrongConfiguration, match=r"stopped early after \d+ steps, 3 epochs without a better loss; give"
    ):
        overfit(engine=stopped.engine, resume=path, early_stopping=None, watch=fail)
    run = overfit(engine=stopped.engine, checkpoint=path, resume="auto", batch_size=4, watch=fail)
    assert_same(run, stopped)
    assert path.read_bytes() == before
    more = overfit(engine=stopped.engine, resume=path, early_stopping=5)
    assert len(more.losses) == len(stopped.losses) + 8


@pytest.mark.parametrize("place", ["out", "checkpoint"])
@pytest.mark.parametrize("steps", [8, 11])
@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_that_has_ended_is_returned_by_auto_without_a_step(
    engine: str, steps: int, place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With averages, which a run ends with."""
    options = {
        "engine": engine,
        "steps": steps,
        place: tmp_path / "r.safetensors",
        "resume": "auto",
        "progress": "lines",
        "batch_size": 16,
    }
    first = train(**options, optimizer=optimizers.Momentum(0.05, use_ema=True), validation=toy())
    fail = lambda *_: pytest.fail("a step was made")  # noqa: E731
    again = train(**options, optimizer=None, validation=toy(), watch=fail)
    assert f"has ended after step {steps}; no step is made" in capsys.readouterr().err
    assert_same(again, first)
    assert not again.interrupted


@pytest.mark.once
def test_the_command_of_a_run_that_has_ended_has_status_0(tmp_path: Path) -> None:
    words = [
        "train",
        "mlp",
        "digits",
        "--steps",
        "5",
        "--out",
        str(tmp_path / "r"),
        "--resume",
        "auto",
        "--json",
    ]
    first, again = (CliRunner().invoke(app, words) for _ in range(2))
    assert again.exit_code == 0
    ours, theirs = (json.loads(done.stdout) for done in (again, first))
    assert (ours["losses"], ours["metrics"]) == (theirs["losses"], theirs["metrics"])


# --- the best checkpoint ---


@pytest.mark.parametrize("ema", [False, True])
@pytest.mark.parametrize("engine", training.ENGINES)
def test_the_best_checkpoint_is_the_run_after_its_best_epoch(engine: str, ema: bool, tmp_path: Path) -> None:
    """Its weights, or their averages, give the metrics recorded; resumed from it, the run is the same."""
    path, kept = tmp_path / "run.safetensors", tmp_path / "run-best.safetensors"
    average = {"use_ema": True, "ema_momentum": 0.5} if ema else {}
    adam = lambda: optimizers.Adam(0.01, **average)  # noqa: E731
    options: dict[str, Any] = {"engine": engine, "early_stopping": None, "epochs": 9}
    run = overfit(**options, optimizer=adam(), checkpoint=path, keep_best="loss")
    losses = [metrics["loss"] for metrics in run.history]
    best = int(np.argmin(losses))
    assert best < 8
    recorded = {"metric": "loss", "value": min(losses), "step": 4 * best + 4, "file": kept.name}
    assert run.best == recorded
    assert zoo.load_run(path).facts["best"] == recorded
    assert len(checkpoints.read(kept).arrays["losses"]) == recorded["step"]
    model, task = zoo.build("mlp", **SMALL), run.task.test
    zoo.load_run(kept, model)
    assert task is not None
    measured = zoo.evaluate(model, (task[0], task[1]))
    assert measured["loss"] == pytest.approx(min(losses), rel=1e-6)
    again = tmp_path / "again.safetensors"
    assert_same(overfit(**options, resume=kept, checkpoint=again, keep_best="loss"), run)


def test_a_best_checkpoint_that_could_not_be_saved_is_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The disk is full after the best epoch: the best that is recorded is the one in the file."""
    path, kept = tmp_path / "run.safetensors", tmp_path / "run-best.safetensors"
    options: dict[str, Any] = {"early_stopping": None, "epochs": 9, "keep_best": "loss"}
    best = overfit(**options, checkpoint=tmp_path / "other.safetensors").best
    assert best is not None
    write = checkpoints.write_contents

    def full(file: Path, contents: checkpoints.Contents) -> None:
        if file == kept and len(contents[0]["losses"]) == best["step"]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, contents)

    monkeypatch.setattr(runs, "write_contents", full)
    run = overfit(**options, checkpoint=path)
    assert f"{kept}: not saved after step {best['step']}" in caplog.text
    assert run.best is not None
    assert run.best == checkpoints.read(kept).facts["run"]["best"] == zoo.load_run(path).facts["best"]
    assert len(checkpoints.read(kept).arrays["losses"]) == run.best["step"] != best["step"]


def test_a_resumed_run_knows_the_best_epoch_before_it(tmp_path: Path) -> None:
    uncut, cut = (
        tmp_path / "a" / "checkpoint-best.safetensors",
        tmp_path / "b" / "checkpoint-best.safetensors",
    )
    options: dict[str, Any] = {"early_stopping": None, "epochs": 9, "keep_best": "accuracy"}
    run = overfit(**options, out=uncut.parent)
    assert run.best is not None
    with pytest.raises(Killed):
        overfit(**options, out=cut.parent, watch=kill(30))
    resumed = overfit(**options, out=cut.parent, resume="auto", batch_size=4)
    assert resumed.best == run.best
    assert zoo.load_run(cut.parent).facts["best"] == run.best
    ours, theirs = checkpoints.read(cut), checkpoints.read(uncut)
    assert {name: x.tolist() for name, x in ours.arrays.items()} == {
        name: x.tolist() for name, x in theirs.arrays.items()
    }


def test_the_metric_of_the_best_checkpoint_is_one_of_the_tasks() -> None:
    fail = lambda *_: pytest.fail("a step was made")  # noqa: E731
    with pytest.raises(zoo.UnknownName, match="keep_best: arrays has no metric 'acuracy'; nearest: accuracy"):
        overfit(checkpoint="run.safetensors", keep_best="acuracy", watch=fail)
    with pytest.raises(zoo.WrongConfiguration, match="keep_best= needs held-out examples"):
        train(steps=2, checkpoint="run.safetensors", keep_best="accuracy", watch=fail)
