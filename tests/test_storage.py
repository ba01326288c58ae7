"""Files that users name: refused before any work, written whole or not at all, with the umask's mode."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import zoo
from zoo import storage
from zoo.comparison import runs
from zoo.ladder import run
from zoo.training import checkpoints

pytestmark = pytest.mark.once
SMALL = zoo.card("mlp").small
FALLING = zoo.schedules.StepDecay(0.1, 3, 0.5)
LONG = "a" * 300  # file systems allow 255 bytes for a name


def model() -> object:
    return zoo.build("mlp", **SMALL)


def train(**options: object) -> zoo.Run:
    x = np.zeros((8, 8, 8, 1), np.float32)
    return zoo.train(model(), (x, np.zeros(8, np.int32)), steps=1, progress=False, **options)


def figure() -> object:
    return zoo.show.filters(zoo.build("lenet5"), "conv1")


WRITERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "checkpoint": ("run.zoo", lambda path: train(checkpoint=path)),
    "weights": ("w.safetensors", lambda path: zoo.weights.save(model(), path)),
    "arrays": ("w.npz", lambda path: zoo.weights.save(model(), path)),
    "keras": ("w.weights.h5", lambda path: zoo.weights.save(model(), path)),
    "tokenizer": ("tokenizer.json", lambda path: zoo.tokenizers.load("default").save(path)),
    "figure": ("figure.png", lambda path: figure().save(path)),
    "schedule": ("rates.svg", lambda path: zoo.schedules.plot(FALLING, steps=9, path=path)),
}  # fmt: skip

READERS: dict[str, Callable[[Path], object]] = {
    "resume": lambda path: train(resume=path),
    "weights": lambda path: zoo.weights.load(model(), path.with_suffix(".npz")),
    "weights by name": lambda path: zoo.build("mlp", weights=path),
    "weights to train from": lambda path: zoo.train("mlp", weights=path.with_suffix(".npz"), steps=1),
    "tokenizer": lambda path: zoo.tokenizers.load(path.with_suffix(".json")),
    "task": lambda path: zoo.train("mlp", path.with_suffix(".csv"), steps=1),
    "texts": lambda path: zoo.train("lstm", path.with_suffix(".txt"), steps=1),
    "folder": lambda path: zoo.tasks.load(str(path), (8, 8, 1)),
    "image": lambda path: zoo.predict("lenet5", path.with_suffix(".png")),
}


@pytest.fixture
def no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever makes a training engine has begun to work."""

    def begun(*_: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(import_module("zoo.training.start"), "make_engine", begun)


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("wrong", ["a folder", "a name too long", "a path too long", "no such folder"])
def test_a_path_that_cannot_be_written_is_refused_before_work(kind: str, wrong: str, tmp_path: Path) -> None:
    name, write = WRITERS[kind]
    path = {
        "a folder": tmp_path / name,
        "a name too long": tmp_path / f"{LONG}{name}",
        "a path too long": tmp_path.joinpath(*["a" * 200] * 30, name),
        "no such folder": tmp_path / "nowhere" / name,
    }[wrong]
    if wrong == "a folder":
        path.mkdir()
    # A tokenizer takes a folder, for a tokenizer.json within: there this one is no file.
    if wrong == "a folder" and kind == "tokenizer":
        (path / name).mkdir()
    with pytest.raises(
        zoo.WrongConfiguration, match=r"is a folder|cannot be written: .*long|no folder .* written"
    ):
        write(path)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.usefixtures("no_step")
@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("folders", [(), ("b" * 200,) * 30])
def test_a_path_too_long_to_be_read_is_an_error_of_the_zoo(
    kind: str, folders: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(zoo.ZooError):
        READERS[kind](tmp_path.joinpath(*folders, LONG))


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_has_the_umasks_mode_and_the_longest_name(kind: str, tmp_path: Path, umask: int) -> None:
    """Witness: `open` itself. Some writers make files of mode 600, which shuts a team out."""
    name, write = WRITERS[kind]
    path = tmp_path / ("a" * (255 - len(name)) + name)
    write(path)
    (tmp_path / "plain").touch()
    assert (
        stat.S_IMODE(path.stat().st_mode)
        == stat.S_IMODE((tmp_path / "plain").stat().st_mode)
        == 0o666 & ~umask
    )
    assert {p.name for p in tmp_path.iterdir()} == {path.name, "plain"}


@pytest.fixture(params=(0o022, 0o002))
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("command", ["compare", "parity"])
def test_a_report_into_a_file_is_refused_before_any_process_starts(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    for module in (run, runs):
        monkeypatch.setattr(module, "Worker", None)
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / LONG):
        with pytest.raises(zoo.WrongConfiguration, match=r"out: "):
            getattr(zoo, command)("mlp", out=out)


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def write() -> None:
        with storage.replacing(path) as part:
            part.write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link_to_the_new_file(tmp_path: Path) -> None:
    """As a checkpoint that is kept on another disk."""
    target, link = tmp_path / "disk.zoo", tmp_path / "run.zoo"
    target.write_text("old")
    link.symlink_to(target)
    train(checkpoint=link)
    assert link.is_symlink()
    assert len(checkpoints.read(target).arrays["losses"]) == 1
