"""Folders of images as people have them: nothing is left out or taken in without a word."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run
from PIL import Image

import zoo
from zoo import backends, tasks
from zoo.tasks import folders

pytestmark = pytest.mark.once


def put(root: Path, *names: str) -> Path:
    """Images of these names, each of a grey of its own; other files are empty."""
    for i, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() in folders.SUFFIXES:
            Image.fromarray(np.full((8, 8, 3), i % 256, np.uint8)).save(path)
        else:
            path.write_bytes(b"")
    return root


def classes(root: Path, *names: str, count: int = 10) -> Path:
    return put(root, *(f"{name}/{i}.png" for name in names for i in range(count)))


def names(split: Any, root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in split[0]]


def loaded(root: Path, *said: str) -> tasks.Task:
    """As a task, with a warning that says all of this; with none if there is nothing to say."""
    if not said:
        return tasks.folder(root, (8, 8, 3))  # a warning is an error in these tests
    with pytest.warns(UserWarning, match="^photos: ") as caught:
        task = tasks.folder(root, (8, 8, 3))
    (message,) = {str(w.message) for w in caught}
    for text in said:
        assert text in message
    return task


# --- splits ---


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING"])
@pytest.mark.parametrize(
    "held", ["val", "valid", "Validation", "DEV", "eval", "evaluation", "Test", "testing"]
)
def test_splits_are_known_by_the_usual_names_in_any_capitals(train: str, held: str, tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", f"{train}/cat", f"{train}/dog", count=5)
    put(root, f"{held}/cat/9.png", f"{held}/dog/9.png")
    task = loaded(root)
    assert task.names == ("cat", "dog")
    assert len(task.train[0]) == 10
    assert sorted(p.parent.parent.name for p in task.test[0].paths) == [held, held]


def test_the_split_that_is_not_used_is_said(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", *(f"{split}/{name}" for split in ("train", "valid", "test")
                                          for name in ("cat", "dog")))  # fmt: skip
    task = loaded(root, "folder 'test' skipped, because 'valid' is held out")
    assert {p.parent.parent.name for p in task.test[0].paths} == {"valid"}


def test_a_test_without_folders_of_classes_is_left_out_and_a_fifth_held_out(tmp_path: Path) -> None:
    """As competitions publish it, without labels."""
    root = classes(tmp_path / "photos", "train/cat", "train/dog")
    put(root, "test/1.png", "test/2.png")
    task = loaded(root, "folder 'test' has no folders of classes")
    assert len(task.train[0]) + len(task.test[0]) == 20
    assert {p.parent.parent.name for p in task.test[0].paths} == {"train"}


@pytest.mark.parametrize("held", ["test", "Val", "DEV"])
def test_held_out_classes_without_a_train_are_refused(held: str, tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", f"{held}/cat", f"{held}/dog")
    with pytest.raises(zoo.DataUnavailable, match=rf"a folder '{held}' with classes, but none named 'train'"):
        folders.find(root)
    classes(root, "cat", "dog")
    with pytest.raises(zoo.DataUnavailable, match="put the classes to train on into"):
        folders.find(root)


def test_a_class_of_a_splits_name_is_taken_for_one_with_a_word(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "valid", "invalid")
    task = loaded(root, "folder 'valid' is treated as a class")
    assert task.names == ("invalid", "valid")


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "train/cat", "train/dog", "training/cat")
    with pytest.raises(zoo.DataUnavailable, match="'train' and 'training' are the same split"):
        folders.find(root)


def test_a_class_beside_train_is_said(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "train/cat", "train/dog", "bird")
    assert loaded(root, "folder 'bird' beside 'train' skipped").names == ("cat", "dog")


# --- files ---


def test_hidden_images_are_left_out_with_a_word(tmp_path: Path) -> None:
    """What macOS puts into archives, notebooks beside their images, and folders of one's own."""
    root = classes(tmp_path / "photos", "cat", "dog")
    hidden = [
        "cat/._1.png", "__MACOSX/cat/._1.png", ".ipynb_checkpoints/1-checkpoint.png",
        "dog/.ipynb_checkpoints/1-checkpoint.png", "dog/.old/deep/1.png", "dog/@eaDir/1.png",
    ]  # fmt: skip
    put(root, *hidden)
    task = loaded(root, "6 files hidden skipped", "cat/._1.png", "__MACOSX/cat/._1.png")
    assert task.names == ("cat", "dog")
    assert len(task.train[0]) + len(task.test[0]) == 20
    kept = {str(p.relative_to(root)) for split in (task.train, task.test) for p in split[0].paths}
    assert not kept & set(hidden)


def test_files_beside_the_folders_of_classes_are_left_out_with_a_word(tmp_path: Path) -> None:
    root = put(classes(tmp_path / "photos", "cat", "dog"), "1.png", "README.md")
    loaded(root, "2 files beside the folders of classes skipped: 1.png, README.md")


def test_files_that_are_not_named_as_images_are_left_out_with_a_word(tmp_path: Path) -> None:
    root = put(classes(tmp_path / "photos", "cat", "dog"), *(f"cat/{i}.heic" for i in range(7)))
    loaded(root, "7 files without an image suffix skipped: cat/0.heic, ", ", and 2 more")


@pytest.mark.parametrize("name", ["Thumbs.db", ".DS_Store", "desktop.ini", "cat/Thumbs.db", "cat/.DS_Store"])
def test_files_of_operating_systems_are_no_matter(name: str, tmp_path: Path) -> None:
    task = loaded(put(classes(tmp_path / "photos", "cat", "dog"), name))
    assert len(task.train[0]) + len(task.test[0]) == 20


def test_images_in_folders_below_a_class_are_its(tmp_path: Path) -> None:
    root = put(classes(tmp_path / "photos", "cat", "dog"), "cat/old/deep/1.png", "cat/x.png.d/2.JPEG")
    found = folders.find(root)
    assert len(found.train[0]) + len(found.test[0]) == 22


def test_links_are_followed_once(tmp_path: Path) -> None:
    """A class, a folder in it and a file may be links; one to a folder above does not go round for ever."""
    elsewhere = classes(tmp_path / "elsewhere", "dog", "more")
    root = classes(tmp_path / "photos", "cat")
    (root / "dog").symlink_to(elsewhere / "dog")
    (root / "cat" / "more").symlink_to(elsewhere / "more")
    (root / "cat" / "one.png").symlink_to(elsewhere / "dog" / "0.png")
    (root / "cat" / "loop").symlink_to(root / "cat")
    task = loaded(root)
    assert len(task.train[0]) + len(task.test[0]) == 31


def test_a_link_to_nowhere_is_named(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "cat", "dog")
    (root / "cat" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(zoo.DataUnavailable, match=r"1 broken images: .*gone\.png: no such file"):
        tasks.folder(root, (8, 8, 3))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", "cat/closed", "dog")
    (root / "cat" / "closed").chmod(0)
    with pytest.raises(zoo.DataUnavailable, match="closed: Permission denied"):
        folders.find(root)


# --- names of classes ---


def test_classes_that_are_integers_sort_as_numbers(tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", *(str(i) for i in range(12)), count=5)
    found = folders.find(root)
    assert found.classes == tuple(map(str, range(12)))
    for path, label in zip(*found.train, strict=True):
        assert int(path.parent.name) == label


def test_other_classes_sort_as_text(tmp_path: Path) -> None:
    assert folders.find(classes(tmp_path / "photos", "10", "2", "b", count=3)).classes == ("10", "2", "b")


# --- images that cannot be read ---


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Twenty images and two files that are none."""
    root = classes(tmp_path / "photos", "cat", "dog")
    for name in ("cat/broken.png", "dog/broken.png"):
        (root / name).write_text("not an image")
    return root


SKIPPED = r"^photos: skipped 2 broken images: .*cat/broken\.png.*dog/broken\.png"


def model() -> Any:
    return zoo.build("mlp", shape=(8, 8, 3), widths=(4,), classes=2)


@pytest.mark.filterwarnings("ignore:photos. skipped 2")
def test_what_the_error_advises_is_an_argument_where_it_is_given(broken: Path) -> None:
    with pytest.raises(zoo.DataUnavailable, match=r"2 broken images: .*errors='skip' \(--errors skip\)"):
        zoo.train(model(), str(broken), steps=1, progress=False)
    with pytest.warns(UserWarning, match=SKIPPED):
        tasks.load(str(broken), (8, 8, 3), errors="skip")
    run = zoo.train(model(), str(broken), steps=1, progress=False, errors="skip")
    assert len(run.task.train[0]) + len(run.task.test[0]) == 20
    found = zoo.evaluate(run.model, str(broken), split="all", errors="skip")
    assert found["examples"] == 20


@pytest.mark.filterwarnings("ignore:photos. skipped 2")
def test_and_of_a_comparison(broken: Path) -> None:
    """Each process reads the folder for itself."""
    name = backends.current().NAME
    arguments: dict[str, Any] = {"backends": [name], "engines": ["native"], "steps": 1, "out": None}
    (row,) = zoo.compare("lenet5", task=str(broken), errors="skip", **arguments).runs
    assert row["error"] is None


@pytest.mark.filterwarnings("ignore:photos. skipped 2")
def test_and_an_option_of_the_commands(broken: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run("train", "lenet5", str(broken), "--errors", "skip", "--steps", "1", "--out", str(out), "--quiet")
    said = json.loads(run("evaluate", str(out), str(broken), "--errors", "skip", "--json"))
    assert said["examples"] == 20 - 16


@pytest.mark.parametrize("task", ["digits", (np.zeros((4, 8, 8, 3)), np.arange(4) % 2)])
def test_skipping_is_refused_where_there_are_no_files_of_images(task: Any) -> None:
    with pytest.raises(zoo.WrongConfiguration, match="errors='skip' skips images"):
        zoo.train(model(), task, steps=1, progress=False, errors="skip")


def test_another_way_with_errors_is_refused_by_name(broken: Path) -> None:
    with pytest.raises(zoo.UnknownName, match="errors='ignore'; there are: skip, stop"):
        zoo.train(model(), str(broken), steps=1, progress=False, errors="ignore")
    with pytest.raises(zoo.UnknownName, match="errors='ignore'; there are: skip, stop"):
        zoo.compare("lenet5", task=str(broken), errors="ignore", out=None)


@pytest.mark.parametrize("name", ["train", "Training", "TRAIN"])
def test_evaluation_measures_what_a_folder_with_splits_holds_out(name: str, tmp_path: Path) -> None:
    root = classes(tmp_path / "photos", f"{name}/cat", f"{name}/dog")
    put(root, "Valid/cat/1.png", "Valid/dog/1.png")
    found = zoo.evaluate(zoo.train(model(), str(root), steps=1, progress=False).model, str(root))
    assert (found["examples"], found["split"]) == (2, "held-out")
