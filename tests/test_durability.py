"""Files and runs that survive: kills, full disks, flipped bits, two runs on one path."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from typer.testing import CliRunner

import zoo
from zoo import optimizers, storage, training
from zoo.cli import app
from zoo.training import checkpoints

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
        if place >= header:
            assert re.search(r"run\.safetensors': (\w+/|losses).* cannot be read \(damaged", said), place


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

    def signalled(*models: Any, **options: Any) -> zoo.Run:
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
