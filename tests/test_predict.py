"""Photographs in, classes out: what is seen, how it is named, what is refused."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from PIL import Image
from scipy.special import softmax
from sklearn.datasets import load_sample_image
from typer.testing import CliRunner

import zoo
from zoo import registry
from zoo.cli import app
from zoo.weights import hub

pytestmark = pytest.mark.once

CHINA, FLOWER = load_sample_image("china.jpg"), load_sample_image("flower.jpg")
SMALL = dict(zoo.card("resnet18").small)
SIZE = SMALL["image_size"]


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "china.png"
    Image.fromarray(CHINA).save(path)
    return path


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Weights that are not those that `predict` would start from."""
    folder = tmp_path / "weights"
    folder.mkdir()
    zoo.weights.save(zoo.build("resnet18", seed=5, **SMALL), folder / "model.safetensors")
    return folder / "model.safetensors"


def pillow(pixels: np.ndarray) -> np.ndarray:
    """As torchvision evaluates on ImageNet, at SIZE instead of 224: written out."""
    image, short = Image.fromarray(pixels), round(256 * SIZE / 224)
    scale = short / min(image.size)
    image = image.resize([int(side * scale + 1e-9) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (round((side - SIZE) / 2) for side in image.size)
    array = np.asarray(image.crop((left, top, left + SIZE, top + SIZE))) / 255
    return ((array - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)


def test_probabilities_are_the_softmax_of_the_photographs_logits(photo: Path) -> None:
    model = zoo.build("resnet18", seed=1, **SMALL)
    theirs = softmax(numpy(model(np.stack([pillow(CHINA), pillow(FLOWER)]), training=False)), axis=1)
    for row, expected in zip(zoo.predict(model, [photo, FLOWER]), theirs, strict=True):
        order = sorted(range(3), key=lambda k: -expected[k])
        assert [label for label, _ in row] == [str(k) for k in order]
        assert [p for _, p in row] == pytest.approx(expected[order], rel=1e-5)


def test_every_form_of_an_image_is_the_same_image(photo: Path) -> None:
    model = zoo.build("resnet18", **SMALL)
    forms: list[Any] = [photo, str(photo), CHINA, Image.fromarray(CHINA), pillow(CHINA)]
    (first,) = zoo.predict(model, photo)
    for form in forms:
        for ours in (zoo.predict(model, form), zoo.predict(model, [form])):
            assert [label for label, _ in ours[0]] == [label for label, _ in first]
            assert [p for _, p in ours[0]] == pytest.approx([p for _, p in first], rel=1e-4)


def test_more_photographs_than_a_batch_come_back_in_order() -> None:
    model = zoo.build("resnet18", **SMALL)
    many = zoo.predict(model, [CHINA, FLOWER] * 20, top=1)
    alone = [zoo.predict(model, image, top=1)[0][0] for image in (CHINA, FLOWER)]
    assert len(many) == 40
    for i, ((label, probability),) in enumerate(many):
        assert label == alone[i % 2][0]
        assert probability == pytest.approx(alone[i % 2][1], rel=1e-5)


def test_top_keeps_the_likeliest() -> None:
    model = zoo.build("resnet18", **SMALL)
    (whole,), (two,) = zoo.predict(model, CHINA, top=9), zoo.predict(model, CHINA, top=2)
    assert two == whole[:2]
    assert sum(p for _, p in whole) == pytest.approx(1)


@pytest.mark.parametrize("name", ["lenet5", "resnet18"])
def test_a_grey_model_sees_photographs_in_grey(name: str) -> None:
    """Its pixels in [0, 1]: the card's mean and deviation are those of colours."""
    model = zoo.build(name, **({**SMALL, "channels": 1} if name == "resnet18" else {}))
    short = Image.fromarray(CHINA).convert("L").resize((32 * 640 // 427, 32), Image.Resampling.BILINEAR)
    left = round((short.width - 32) / 2)
    x = np.asarray(short)[None, :, left : left + 32, None] / np.float32(255)
    theirs = softmax(numpy(model(x, training=False))[0])
    ((label, probability),) = zoo.predict(model, CHINA, top=1)[0]
    assert label == str(theirs.argmax())
    assert probability == pytest.approx(theirs.max(), rel=1e-5)


# --- names ---


def test_names_come_from_a_list_or_a_file_and_decide_how_many_classes(tmp_path: Path) -> None:
    names = ["cat", "dog", "bird", "white wolf"]
    (tmp_path / "names.txt").write_text("\n".join(names) + "\n")
    small = {key: value for key, value in SMALL.items() if key != "classes"}
    model = zoo.build("resnet18", **small, classes=4)
    numbers = [[(int(label), p) for label, p in row] for row in zoo.predict(model, CHINA)]
    for labels in (names, str(tmp_path / "names.txt"), tmp_path / "names.txt"):
        for found in (
            zoo.predict(model, CHINA, labels=labels),
            zoo.predict("resnet18", CHINA, labels=labels, **small),
        ):
            assert found == [[(names[k], pytest.approx(p)) for k, p in row] for row in numbers]


CONFIGS = {
    "transformers": {"id2label": {"0": "tench", "2": "shark", "1": "goldfish"}},
    "timm": {"label_names": ["tench", "n2", "shark"], "label_descriptions": {"n2": "goldfish"}},
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("whole", [False, True], ids=["file", "folder"])
def test_names_stand_beside_the_weights(saved: Path, config: dict[str, Any], whole: bool) -> None:
    source = saved.parent if whole else saved
    numbers = zoo.predict("resnet18", CHINA, weights=source, **SMALL)[0]
    (saved.parent / "config.json").write_text(json.dumps(config))
    names = ["tench", "goldfish", "shark"]
    found = zoo.predict("resnet18", CHINA, weights=source, **SMALL)[0]
    assert found == [(names[int(k)], pytest.approx(p)) for k, p in numbers]


@pytest.mark.parametrize(
    "config",
    ["{", "[1]", '{"id2label": {"7": "x"}}', '{"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}'],
)
def test_a_config_that_names_other_classes_is_left_alone(saved: Path, config: str) -> None:
    (saved.parent / "config.json").write_text(config)
    model = zoo.build("resnet18", **SMALL)
    assert {label for label, _ in zoo.predict(model, CHINA, weights=saved)[0]} == {"0", "1", "2"}


@pytest.mark.parametrize(
    ("source", "config"),
    [
        ("hf://owner/name", "hf://owner/name/config.json"),
        ("hf://owner/name@v1", "hf://owner/name/config.json@v1"),
        ("hf://owner/name/deep/x.safetensors@v1", "hf://owner/name/deep/config.json@v1"),
    ],
)
def test_names_of_the_hub_stand_beside_its_weights(
    saved: Path, monkeypatch: pytest.MonkeyPatch, source: str, config: str
) -> None:
    names = saved.with_name("anything")
    names.write_text(json.dumps(CONFIGS["transformers"]))
    monkeypatch.setattr(hub, "fetch", {source: saved, config: names}.__getitem__)
    found = zoo.predict("resnet18", CHINA, weights=source, **SMALL)[0]
    assert {label for label, _ in found} == {"tench", "goldfish", "shark"}


# --- weights ---


def test_weights_are_loaded_and_random_ones_are_told(saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = zoo.predict(zoo.build("resnet18", seed=5, **SMALL), CHINA)[0]
    with caplog.at_level(logging.WARNING, "zoo"):
        ours = zoo.predict("resnet18", CHINA, weights=saved, **SMALL)[0]
        assert not caplog.messages
        chance = zoo.predict("resnet18", CHINA, **SMALL)[0]
    assert ours == [(label, pytest.approx(p)) for label, p in theirs]
    assert [p for _, p in chance] != pytest.approx([p for _, p in theirs], rel=1e-2)
    assert caplog.messages == [
        "resnet18 has random weights: its classes are chance. Give weights to load trained ones."
    ]


def test_a_head_of_other_classes_is_no_guess(saved: Path) -> None:
    small = {**SMALL, "classes": 7}
    with pytest.raises(zoo.WeightsMismatch, match=r"head.*\(32, 3\), resnet18 needs \(32, 7\)"):
        zoo.predict("resnet18", CHINA, weights=saved, **small)


# --- errors, before any model is built ---

BREAKS: dict[str, tuple[Callable[[Path], dict[str, Any]], type[Exception], str]] = {
    "missing": (lambda p: {"images": [CHINA, p / "nix.jpg"]}, zoo.DataUnavailable, r"nix\.jpg: no such file"),
    "broken": (lambda p: {"images": p / "text.jpg"}, zoo.DataUnavailable, r"text\.jpg: not an image"),
    "shape": (
        lambda p: {"images": np.zeros((8, 8, 3), np.float32)},
        zoo.WrongConfiguration,
        r"float32 of shape \(8, 8, 3\); expected \(32, 32, 3\)",
    ),
    "none": (lambda p: {"images": []}, zoo.WrongConfiguration, "images: none"),
    "top": (lambda p: {"top": 0}, zoo.WrongConfiguration, "top=0; expected an integer, 1 or more"),
    "weights": (lambda p: {"weights": p / "nix.npz"}, zoo.DataUnavailable, r"nix\.npz: no such file"),
    "labels": (lambda p: {"labels": p / "nix.txt"}, zoo.DataUnavailable, r"nix\.txt: not a file of names"),
    "change": (lambda p: {"clases": 3}, zoo.WrongConfiguration, "no argument 'clases'; nearest: classes"),
}  # fmt: skip


@pytest.mark.parametrize(("words", "error", "said"), BREAKS.values(), ids=BREAKS)
def test_what_is_wrong_is_said_before_a_model_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any, error: type[Exception], said: str
) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    monkeypatch.setattr(registry, "build", lambda *_, **__: pytest.fail("built"))
    with pytest.raises(error, match=said):
        zoo.predict("resnet18", **{"images": CHINA, **SMALL, **words(tmp_path)})


def test_a_model_that_takes_no_square_images_says_what_it_takes() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"mlp takes examples of shape \(5,\); images are"):
        zoo.predict("mlp", CHINA, shape=(5,))


def test_names_that_are_not_as_many_as_classes_are_refused() -> None:
    model = zoo.build("resnet18", **SMALL)
    with pytest.raises(zoo.WrongConfiguration, match="labels: 2 names; resnet18 has 3 classes"):
        zoo.predict(model, CHINA, labels=["a", "b"])
    with pytest.raises(zoo.WrongConfiguration, match="resnet18 is built already; classes cannot change"):
        zoo.predict(model, CHINA, classes=2)


# --- the command ---


def test_the_command_prints_the_classes_of_each_photograph(photo: Path, saved: Path) -> None:
    (photo.parent / "names.txt").write_text("pagoda\n[b]\nlake\n")
    Image.fromarray(FLOWER).save(flower := photo.with_name("flower.png"))
    words = ["predict", "resnet18", str(photo), str(flower), "--small", "--weights", str(saved)]
    done = CliRunner().invoke(
        app, [*words, "--labels", str(photo.parent / "names.txt"), "--top", "2"], env={"COLUMNS": "300"}
    )
    assert done.exit_code == 0, done.output
    model = zoo.build("resnet18", seed=5, **SMALL)
    theirs = zoo.predict(model, [photo, flower], top=2, labels=["pagoda", "[b]", "lake"])
    rows = re.findall(r"^\s*(\S+\.png)?\s+(pagoda|\[b\]|lake)\s+([\d.]+) %", done.output, re.MULTILINE)
    assert [name for name, _, _ in rows] == [str(photo), "", str(flower), ""]
    expected = [(label, f"{100 * p:.2f}") for row in theirs for label, p in row]
    assert [row[1:] for row in rows] == expected


@pytest.mark.once
def test_the_command_says_that_weights_are_random_and_names_a_file_that_is_missing(photo: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", "from zoo.cli import main; main()", "predict", "resnet18", "--small"]
        return subprocess.run(
            [*command, *words], cwd=photo.parent, capture_output=True, text=True, check=False
        )

    done = run("china.png")
    assert done.returncode == 0, done.stderr
    assert "resnet18 has random weights: its classes are chance" in done.stderr
    done = run("china.png", "chian.png")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "zoo: DataUnavailable: chian.png: no such file"
