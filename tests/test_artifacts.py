"""`zoo.export`: what was written runs without the zoo, has metadata, and computes the same, or is deleted."""

from __future__ import annotations

import importlib.util
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME, run

import zoo
from zoo import WrongConfiguration, ZooError, artifacts

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own, by the dozen

HAS_TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
SMALLER: dict[str, dict[str, Any]] = {"gpt-nano": {"depth": 1}}
# On each framework the formats that it writes; of an image and of two inputs of free lengths.
FORMATS = [
    name
    for name, each in artifacts.FORMATS.items()
    if NAME in each.frameworks and (HAS_TENSORFLOW or name != "saved_model")
]


def small(name: str) -> Any:
    return zoo.build(name, **{**zoo.card(name).small, **SMALLER.get(name, {})})


def metadata(path: Path, format: str) -> dict[str, Any]:
    """Read as somebody without the zoo would."""
    if format == "onnx":
        onnx = pytest.importorskip("onnx")
        return json.loads({each.key: each.value for each in onnx.load(path).metadata_props}["zoo"])
    if format == "saved_model":
        return json.loads((path / "assets.extra" / "zoo.json").read_text())
    with zipfile.ZipFile(path) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("zoo.json"))
        return json.loads(archive.read(name))


@pytest.mark.parametrize("format", FORMATS)
def test_what_is_exported_runs_and_says_what_it_is(format: str, tmp_path: Path) -> None:
    ending = artifacts.FORMATS[format].ending
    found = zoo.export(small("gpt-nano"), path := tmp_path / f"model{ending}")
    assert (found.path, found.format) == (path, format)
    assert found.difference is not None
    assert found.difference <= 1e-5
    assert metadata(path, format) == {"model": "gpt-nano", "classes": [], "preprocessing": None}
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_a_run_is_exported_with_its_class_names_and_preprocessing(tmp_path: Path) -> None:
    from PIL import Image

    for label in ("cat", "dog"):
        for i in range(5):
            (tmp_path / "photos" / label).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (i, 0, 90)).save(tmp_path / "photos" / label / f"{i}.png")
    model = zoo.build("resnet18", **{**zoo.card("resnet18").small, "channels": 3, "classes": 2})
    zoo.train(model, tmp_path / "photos", steps=1, batch_size=4, out=tmp_path / "run", progress=False)
    format = FORMATS[0]
    path = tmp_path / f"model{artifacts.FORMATS[format].ending}"
    printed = run("export", str(tmp_path / "run"), str(path))
    assert str(path) in printed.replace("\n", "")
    said = metadata(path, format)
    assert said["classes"] == ["cat", "dog"]
    assert said["preprocessing"]["size"] == model.input_shape[1]


def test_what_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    format = FORMATS[0]

    def corrupted(model: Any, path: Path) -> None:
        weight = model.trainable_variables[0]
        before = np.array(zoo.layers.ops.convert_to_numpy(weight))
        weight.assign(before + 0.01)
        write(model, path)
        weight.assign(before)

    write = artifacts.WRITERS[format]
    monkeypatch.setitem(artifacts.WRITERS, format, corrupted)
    with pytest.raises(ZooError, match=rf"what {format} of mlp computes is .* off, .* more than 1e-05"):
        zoo.export(small("mlp"), tmp_path / f"model{artifacts.FORMATS[format].ending}")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("format", [name for name in artifacts.FORMATS if name not in FORMATS])
def test_a_format_of_other_frameworks_names_them(format: str, tmp_path: Path) -> None:
    if NAME in artifacts.FORMATS[format].frameworks:
        pytest.skip("it lacks a package alone")
    first = artifacts.FORMATS[format].frameworks[0]
    with pytest.raises(
        WrongConfiguration, match=f"{NAME} writes no {format}; {first}.* KERAS_BACKEND={first}"
    ):
        zoo.export(small("mlp"), tmp_path / f"model{artifacts.FORMATS[format].ending}")


@pytest.mark.once
@pytest.mark.skipif(NAME != "torch", reason="PyTorch writes ONNX and pt2")
def test_what_torch_cannot_export_of_any_length_is_refused_and_names_what_can(tmp_path: Path) -> None:
    with pytest.raises(ZooError, match=r"pt2 of lstm does not run at every batch size and length.*use ONNX"):
        zoo.export(small("lstm"), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


@pytest.mark.once
@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("model.tflite", {}, r"expected a name that ends in \.onnx, \.pt2, \.keras"),
        ("model.onnx", {"format": "onxx"}, "no format 'onxx'; nearest: onnx"),
        ("nowhere/model.keras", {}, "no folder .*nowhere"),
    ],
)
def test_bad_requests_are_refused(path: str, options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(WrongConfiguration, match=message):
        zoo.export(small("mlp"), tmp_path / path, **options)


@pytest.mark.once
@pytest.mark.skipif(NAME != "torch", reason="PyTorch writes ONNX and pt2")
def test_a_loop_that_onnx_would_cut_is_refused_in_a_line(tmp_path: Path) -> None:
    with pytest.raises(
        WrongConfiguration, match=r"^export: attention before every step .* TensorFlow or JAX$"
    ):
        zoo.export(small("seq2seq"), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.once
def test_differences_are_relative_to_each_vector() -> None:
    """A vector of huge scores, as of speech's padding, hides no other's difference."""
    theirs = np.array([[1.0, 2.0], [3e4, 0.0]])
    assert artifacts.relative(theirs + np.array([[0.0, 0.02], [0.0, 0.0]]), theirs) == pytest.approx(0.01)
    assert artifacts.relative(theirs * 0, theirs * 0) == 0.0


@pytest.mark.once
def test_weights_alone_are_written_as_before(tmp_path: Path) -> None:
    model = small("mlp")
    found = zoo.export(model, tmp_path / "w.safetensors")
    assert (found.format, found.difference) == ("weights", None)
    zoo.weights.load(small("mlp"), tmp_path / "w.safetensors", head="require")
