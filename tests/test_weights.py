"""Weights by others' names: arrangements written out, Keras's and torch's own files, a hub of the test."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import logging
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from conftest import numpy, python, run

import zoo
from zoo import backends, layers
from zoo.training import checkpoints
from zoo.weights import SCHEMES, Layout, Row, hub
from zoo.weights.layouts import CONV, DENSE, resample, resample_centres, resample_corners

pytestmark = pytest.mark.once  # against the originals they are on every framework

LAYOUTS = {
    **dict.fromkeys(("alexnet", "vgg11", "vgg11-bn"), ("zoo", "torchvision")),
    **dict.fromkeys(("resnet18", "resnet50", "efficientnet-b0"), ("zoo", "torchvision", "timm")),
    "vit-b16": ("zoo", "torchvision", "timm", "transformers"),
}
needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch's own tensors")


def small(name: str, *, seed: int = 0, **changes: Any) -> keras.Model:
    return zoo.build(name, seed=seed, **{**zoo.card(name).small, **changes})


def values(model: keras.Model) -> dict[str, np.ndarray]:
    """Every variable but the steps that dropout counts."""
    return {v.path: np.array(numpy(v)) for v in model.variables if not v.path.endswith("/step")}


def assert_equal(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> None:
    assert list(ours) == list(theirs)
    for name, x in ours.items():
        np.testing.assert_array_equal(x, theirs[name], err_msg=name)


def assert_same_weights(ours: keras.Model, theirs: keras.Model) -> None:
    assert_equal(values(ours), values(theirs))


def exported(model: keras.Model, layout: str, folder: Path) -> dict[str, np.ndarray]:
    file = folder / "exported.safetensors"
    zoo.weights.save(model, file, layout)
    return safetensors.numpy.load_file(file)


def moved(model: keras.Model) -> keras.Model:
    """The same, its running statistics no longer 0 and 1."""
    for i, variable in enumerate(model.non_trainable_variables):
        if not variable.path.endswith("/step"):
            variable.assign(np.linspace(0.5, 1 + i, variable.shape[0], dtype=np.float32))
    return model


# --- arrangements, written out ---


def counted(*shape: int) -> np.ndarray:
    """Every number another."""
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def network() -> keras.Model:
    """A convolution, and a dense layer over its map of 6 x 6."""
    image = x = layers.Input((6, 6, 2))
    x = layers.conv(x, 3, 3, name="conv1")
    x = layers.dense(layers.flatten(x), 4, name="dense1")
    model = layers.Model(image, layers.dense(x, 5, name="head"))
    model.name = "alexnet"
    return model


NETWORK = {
    "features.0.weight": counted(3, 2, 3, 3),
    "features.0.bias": counted(3),
    "classifier.1.weight": counted(4, 3 * 6 * 6),
    "classifier.1.bias": counted(4),
    "classifier.6.weight": counted(5, 4),
    "classifier.6.bias": counted(5),
}


@pytest.fixture(scope="module")
def loaded() -> keras.Model:
    model = network()
    zoo.weights.from_torch(model, NETWORK)
    return model


def test_a_convolutions_kernel_o_i_h_w_is_ours_at_h_w_i_o(loaded: keras.Model) -> None:
    ours, theirs = numpy(loaded.get_layer("conv1").kernel), NETWORK["features.0.weight"]
    assert ours.shape == (3, 3, 2, 3)
    assert all(ours[h, w, i, o] == x for (o, i, h, w), x in np.ndenumerate(theirs))


def test_a_dense_kernel_out_in_is_ours_at_in_out(loaded: keras.Model) -> None:
    ours, theirs = numpy(loaded.get_layer("head").kernel), NETWORK["classifier.6.weight"]
    assert all(ours[i, o] == x for (o, i), x in np.ndenumerate(theirs))


def test_a_dense_kernel_over_a_map_c_h_w_is_ours_over_h_w_c(loaded: keras.Model) -> None:
    ours, theirs = numpy(loaded.get_layer("dense1").kernel), NETWORK["classifier.1.weight"]
    maps = theirs.reshape(4, 3, 6, 6)
    for (o, c, h, w), x in np.ndenumerate(maps):
        assert ours[(h * 6 + w) * 3 + c, o] == x


def test_torchvisions_weights_in_memory_order_compute_the_same_map(loaded: keras.Model) -> None:
    """The dense layer's output, its sum over (c, h, w) written out."""
    x = zoo.example(loaded)
    maps = numpy(zoo.features(loaded, "conv1")(x))  # (b, h, w, c)
    theirs = np.einsum("bhwc,ochw->bo", maps, NETWORK["classifier.1.weight"].reshape(4, 3, 6, 6))
    np.testing.assert_allclose(
        numpy(zoo.features(loaded, "dense1")(x)), theirs + NETWORK["classifier.1.bias"], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("layout", "name"),
    [
        ("timm", "blocks.1.attn.qkv.{}"),
        ("torchvision", "encoder.layers.encoder_layer_1.self_attention.in_proj_{}"),
    ],
)
def test_query_key_and_value_are_the_thirds_of_one_array(layout: str, name: str, tmp_path: Path) -> None:
    model = small("vit-b16")
    theirs = exported(model, layout, tmp_path)
    for kind in ("weight", "bias"):
        theirs[name.format(kind)] = counted(*theirs[name.format(kind)].shape)
    zoo.weights.from_torch(model, theirs)
    for i, part in enumerate(("query", "key", "value")):
        layer, rows = model.get_layer(f"block2_attention_{part}"), slice(32 * i, 32 * (i + 1))
        np.testing.assert_array_equal(numpy(layer.kernel), theirs[name.format("weight")][rows].T)
        np.testing.assert_array_equal(numpy(layer.bias), theirs[name.format("bias")][rows])


def test_numbers_of_a_pattern_count_from_one_or_from_zero() -> None:
    model = layers.Model(x := layers.Input((4,)), layers.dense(x, 2, name="level3_unit10"))
    table = Layout("mine", "*", [Row("level{i}_unit{k}", "{k}.{i:0}.{i:1}.{k:5}", DENSE)])
    assert list(table.plan(model)[0]) == ["10.2.3.14.weight", "10.2.3.14.bias"]


def test_a_table_of_ones_own_is_a_layout() -> None:
    model = network()
    rows = [Row("conv1", "a", CONV), Row("dense1", "b", DENSE), Row("head", "c", DENSE)]
    arrays = {name.replace("features.0", "a").replace("classifier.1", "b").replace("classifier.6", "c"): x
              for name, x in NETWORK.items()}  # fmt: skip
    done = zoo.weights.from_torch(model, arrays, Layout("mine", "*", rows))
    assert (done.layout, done.tensors) == ("mine", 6)
    np.testing.assert_array_equal(numpy(model.get_layer("dense1").kernel), NETWORK["classifier.1.weight"].T)


# --- there and back ---

PAIRS = [(name, layout) for name, layouts in LAYOUTS.items() for layout in layouts]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_model_is_exported_in_each_layout_that_is_known_of_it(name: str) -> None:
    model = small(name)
    assert tuple(s.name for s in SCHEMES if s.name != "keras" and s.suits(model)) == LAYOUTS[name]


@pytest.mark.parametrize(("name", "layout"), PAIRS)
def test_what_is_exported_is_recognized_and_loaded_bit_for_bit(
    name: str, layout: str, tmp_path: Path
) -> None:
    ours, other = moved(small(name, seed=1)), small(name, seed=2)
    done = zoo.weights.from_torch(other, exported(ours, layout, tmp_path))
    alike = name.startswith("resnet") and layout == "timm"  # it calls everything as torchvision does
    assert done.layout == ("torchvision" if alike else layout)
    assert done.notes == ()
    assert_same_weights(ours, other)


@pytest.mark.parametrize(("name", "layout"), [pair for pair in PAIRS if pair[1] != "zoo"])
def test_an_export_has_every_number_once(name: str, layout: str, tmp_path: Path) -> None:
    ours = moved(small(name, seed=1))
    theirs = [x for x in exported(ours, layout, tmp_path).values() if x.dtype == np.float32]
    flat = [
        np.sort(np.concatenate([x.ravel() for x in arrays])) for arrays in (theirs, values(ours).values())
    ]
    np.testing.assert_array_equal(*flat)


def test_torchs_count_of_batches_is_zero_when_written_and_ignored_when_read(tmp_path: Path) -> None:
    model = small("resnet18")
    theirs = exported(model, "torchvision", tmp_path)
    counts = [name for name in theirs if name.endswith("num_batches_tracked")]
    assert len(counts) == sum(type(layer).__name__ == "BatchNorm" for layer in model.layers)
    assert all(theirs[name].dtype == np.int64 and theirs[name] == 0 for name in counts)
    theirs[counts[0]] += 7
    zoo.weights.from_torch(model, {k: x for k, x in theirs.items() if k not in counts[1:]})


OLDER = {
    "torchvision": ((r"\.mlp\.0\.", ".mlp.linear_1."), (r"\.mlp\.3\.", ".mlp.linear_2.")),
    "transformers": (
        (r"vit\.layers\.", "vit.encoder.layer."),
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
    ),
}


@pytest.mark.parametrize("layout", OLDER)
def test_older_files_of_theirs_are_read(layout: str, tmp_path: Path) -> None:
    ours, other = small("vit-b16", seed=1), small("vit-b16", seed=2)
    theirs = exported(ours, layout, tmp_path)
    for new, old in OLDER[layout]:
        theirs = {re.sub(new, old, name): x for name, x in theirs.items()}
    zoo.weights.from_torch(other, theirs)
    assert_same_weights(ours, other)


# --- types ---


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_of_any_width_are_loaded(dtype: Any) -> None:
    model = network()
    theirs = {name: (x / 7).astype(dtype) for name, x in NETWORK.items()}
    zoo.weights.from_torch(model, theirs)
    for part, ours in (("weight", "kernel"), ("bias", "bias")):
        x = theirs[f"classifier.6.{part}"].astype(np.float32)
        np.testing.assert_array_equal(numpy(getattr(model.get_layer("head"), ours)), x.T)


def test_a_model_in_bfloat16_takes_the_nearest_numbers() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        model = network()
        zoo.weights.from_torch(model, {name: x / 7 for name, x in NETWORK.items()})
        ours = numpy(keras.ops.cast(model.get_layer("head").kernel, "float32"))
    finally:
        keras.config.set_dtype_policy(before)
    theirs = (NETWORK["classifier.6.weight"].T / 7).astype(ml_dtypes.bfloat16)
    np.testing.assert_array_equal(ours, theirs.astype(np.float32))


@needs_torch
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_torch_tensors_of_any_type_are_loaded(dtype: str) -> None:
    import torch

    model = network()
    tensors = {name: torch.from_numpy(x / 7).to(getattr(torch, dtype)) for name, x in NETWORK.items()}
    tensors["features.0.weight"] = torch.nn.Parameter(tensors["features.0.weight"])
    zoo.weights.from_torch(model, tensors)
    theirs = tensors["classifier.1.bias"].float().numpy()
    np.testing.assert_array_equal(numpy(model.get_layer("dense1").bias), theirs)


@needs_torch
def test_to_torch_gives_tensors_that_own_their_memory() -> None:
    model = network()
    before = values(model)
    for tensor in zoo.weights.to_torch(model, "torchvision").values():
        tensor.zero_()
    assert_equal(values(model), before)


@pytest.mark.skipif(backends.current().NAME == "torch", reason="torch runs here: it is installed")
def test_without_torch_it_is_said_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    model = network()
    monkeypatch.setattr(backends, "installed", lambda: ("jax",))
    with pytest.raises(zoo.BackendError, match=r"torch is not installed.*zoo\.weights\.save"):
        zoo.weights.to_torch(model, "torchvision")


# --- what does not fit ---


def refused(model: keras.Model, arrays: Mapping[str, Any], *said: str, error: Any = None, **how: Any) -> None:
    """The error says so, and the model is as it was."""
    before = values(model)
    with pytest.raises(error or zoo.WeightsMismatch) as caught:
        zoo.weights.from_torch(model, arrays, **how)
    for text in said:
        assert text in str(caught.value)
    assert_equal(values(model), before)


def test_all_that_does_not_fit_is_listed_and_nothing_is_loaded() -> None:
    arrays = {name: x + 1 for name, x in NETWORK.items() if name != "features.0.bias"}
    arrays |= {"classifier.1.weight": counted(4, 3), "classifier.4.bias": counted(2)}
    refused(
        network(),
        arrays,
        "classifier.1.weight is (4, 3), alexnet needs (4, 108)",
        "1 tensor is missing: features.0.bias",
        "1 tensor is unexpected: classifier.4.bias",
        "Nothing was loaded",
    )


def test_a_long_list_is_cut_and_counted() -> None:
    arrays = NETWORK | {f"more.{i}": counted(2) for i in range(100, 120)}
    refused(network(), arrays, "20 tensors are unexpected: more.100, more.101", "and 15 more")


def test_names_that_nobody_uses_are_refused_with_those_that_are_known() -> None:
    refused(
        network(), {"block.kernel": counted(2)}, "block.kernel", "zoo", "torchvision", "features.0.weight"
    )


def test_weights_of_another_depth_are_refused(tmp_path: Path) -> None:
    deeper = exported(small("resnet18", depths=(1, 2)), "timm", tmp_path)
    refused(small("resnet18"), deeper, "unexpected: layer2.1.bn1.bias, layer2.1.bn1.running_mean")


def test_a_layout_that_the_model_has_not_is_an_error_with_those_it_has() -> None:
    refused(network(), NETWORK, "no layout 'torchvison' of alexnet; nearest: torchvision",
            error=zoo.UnknownName, layout="torchvison")  # fmt: skip
    refused(network(), NETWORK, "no layout 'timm' of alexnet", error=zoo.UnknownName, layout="timm")


def test_a_weight_that_a_layout_does_not_know_is_an_error() -> None:
    x = layers.Input((4,))
    model = layers.Model(x, layers.dense(layers.dense(x, 3, name="adapter"), 5, name="head"))
    model.name = "alexnet"
    refused(model, NETWORK, "no row for adapter/kernel", error=zoo.WrongConfiguration, layout="torchvision")


def test_a_table_that_gives_two_weights_one_name_is_an_error() -> None:
    table = Layout(
        "mine", "*", [Row("conv{i}", "a", CONV), Row("dense{i}", "b", DENSE), Row("head", "b", DENSE)]
    )
    said = "dense1/kernel and head/kernel are both b"
    refused(network(), {"b.weight": counted(2)}, said, error=zoo.WrongConfiguration, layout=table)


def test_a_model_in_place_of_its_state_dict_is_an_error() -> None:
    refused(network(), network(), "got a Functional, expected a state dict",  # type: ignore[arg-type]
            error=zoo.WrongConfiguration)  # fmt: skip


# --- the head ---


def test_a_head_of_other_classes_is_left_out_and_this_is_said(caplog: pytest.LogCaptureFixture) -> None:
    arrays = NETWORK | {"classifier.6.weight": counted(1000, 4), "classifier.6.bias": counted(1000)}
    model = network()
    before = values(model)
    with caplog.at_level(logging.WARNING, "zoo"):
        done = zoo.weights.from_torch(model, arrays)
    said = "the head was not loaded: it has 1,000 classes, the model's 5"
    assert (done.notes, done.tensors) == ((said,), 4)
    assert [record.getMessage() for record in caplog.records] == [str(done)]
    for path in ("head/kernel", "head/bias"):
        np.testing.assert_array_equal(values(model)[path], before[path])
    np.testing.assert_array_equal(values(model)["dense1/bias"], NETWORK["classifier.1.bias"])


def test_nothing_is_said_when_all_is_loaded(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "zoo"):
        zoo.weights.from_torch(network(), NETWORK)
    assert caplog.records == []


def test_a_head_of_other_classes_is_an_error_where_it_is_required() -> None:
    arrays = NETWORK | {"classifier.6.weight": counted(9, 4), "classifier.6.bias": counted(9)}
    refused(network(), arrays, "classifier.6.weight is (9, 4), alexnet needs (5, 4)", head="require")


def test_a_head_over_another_width_is_an_error() -> None:
    arrays = NETWORK | {"classifier.6.weight": counted(9, 3), "classifier.6.bias": counted(9)}
    refused(network(), arrays, "classifier.6.weight is (9, 3), alexnet needs (5, 4)")


def test_a_head_that_is_skipped_stays_as_it_was() -> None:
    model = network()
    before = values(model)
    assert zoo.weights.from_torch(model, NETWORK, head="skip").tensors == 4
    np.testing.assert_array_equal(values(model)["head/kernel"], before["head/kernel"])


def test_a_file_without_a_head_needs_head_skip() -> None:
    arrays = {name: x for name, x in NETWORK.items() if not name.startswith("classifier.6")}
    model = network()
    refused(model, arrays, "2 tensors are missing: classifier.6.weight, classifier.6.bias", 'head="skip"')
    assert zoo.weights.from_torch(model, arrays, head="skip").tensors == 4


def test_an_unknown_choice_of_head_is_an_error() -> None:
    refused(network(), NETWORK, "head='keep'; expected 'auto', 'require', 'skip'",
            error=zoo.WrongConfiguration, head="keep")  # fmt: skip


# --- position embeddings of another image size ---


def bicubic(side: int, wanted: int) -> np.ndarray:
    """(wanted, side): Keys 1981 with a = -0.5, its support widened where the image shrinks."""
    a, scale = -0.5, max(1.0, side / wanted)
    centres = (np.arange(wanted) + 0.5) * side / wanted - 0.5
    t = np.abs(np.arange(side) - centres[:, None]) / scale
    near = (a + 2) * t**3 - (a + 3) * t**2 + 1
    far = a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
    weights = np.where(t < 1, near, np.where(t < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize("wanted", [7, 4, 3, 12])
@pytest.mark.parametrize("tokens", [0, 1])
def test_position_embeddings_are_interpolated_by_the_formula(wanted: int, tokens: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, tokens + 25, 6)).astype(np.float32)
    ours = resample(x, tokens + wanted**2)
    matrix = bicubic(5, wanted)
    grid = np.einsum("ih,hwc,jw->ijc", matrix, x[0, tokens:].reshape(5, 5, 6), matrix)
    assert ours.shape == (1, tokens + wanted**2, 6)
    np.testing.assert_array_equal(ours[:, :tokens], x[:, :tokens])
    np.testing.assert_allclose(ours[0, tokens:], grid.reshape(-1, 6), atol=2e-6)


def cubic(points: np.ndarray, side: int) -> np.ndarray:
    """(len(points), side): Keys 1981 with a = -0.75, what lies beyond an edge being the edge's."""
    a, found = -0.75, np.zeros((len(points), side))
    for i, k in np.ndindex(len(points), side + 8):
        t = abs(points[i] - (k - 4))
        near, far = (a + 2) * t**3 - (a + 3) * t**2 + 1, a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a
        found[i, min(max(k - 4, 0), side - 1)] += near if t < 1 else far if t < 2 else 0
    return found


@pytest.mark.parametrize("wanted", [7, 4, 3, 12, 1])
@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize("rule", ["corners", "centres"])
def test_position_embeddings_are_interpolated_by_torchs_formula(rule: str, wanted: int, tokens: int) -> None:
    x = np.random.default_rng(0).normal(size=(1, tokens + 25, 6)).astype(np.float32)
    ours = {"corners": resample_corners, "centres": resample_centres}[rule](x, tokens + wanted**2)
    places = np.arange(wanted)
    points = places * 4 / max(1, wanted - 1) if rule == "corners" else (places + 0.5) * 5 / wanted - 0.5
    matrix = cubic(points, 5)
    grid = np.einsum("ih,hwc,jw->ijc", matrix, x[0, tokens:].reshape(5, 5, 6), matrix)
    assert ours.shape == (1, tokens + wanted**2, 6)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours[:, :tokens], x[:, :tokens])
    np.testing.assert_allclose(ours[0, tokens:], grid.reshape(-1, 6), atol=2e-6)


RULES = {"torchvision": resample_corners, "transformers": resample_centres}  # the others' is timm's


@pytest.mark.parametrize("layout", ["zoo", "timm", "torchvision", "transformers"])
def test_another_image_size_takes_interpolated_embeddings_and_says_so(
    layout: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ours, other = small("vit-b16", seed=1), small("vit-b16", image_size=24)
    done = zoo.weights.from_torch(other, exported(ours, layout, tmp_path))
    (note,) = done.notes
    whose = layout if layout in RULES else "timm"
    assert f"interpolated from (1, 17, 32) to (1, 37, 32), as {whose} does" in note
    assert "interpolated" in caplog.text
    before, after = values(ours), values(other)
    moved = before.pop("position_embedding/value")
    np.testing.assert_array_equal(
        after.pop("position_embedding/value"), RULES.get(layout, resample)(moved, 37)
    )
    assert_equal(after, before)


def test_embeddings_of_no_square_or_without_the_class_token_are_refused(tmp_path: Path) -> None:
    model = small("vit-b16")
    arrays = exported(model, "timm", tmp_path)
    for n in (16, 15, 19):
        refused(
            model, {**arrays, "pos_embed": counted(1, n, 32)}, f"pos_embed is (1, {n}, 32), vit-b16 needs"
        )
    refused(model, {**arrays, "pos_embed": counted(1, 17, 16)}, "pos_embed is (1, 17, 16)")


# --- files ---

ENDINGS = (".safetensors", ".npz", ".weights.h5")


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("name", ["mlp", "lenet5-1998", "resnet18", "vit-b16"])
def test_what_is_saved_is_loaded_bit_for_bit(name: str, ending: str, tmp_path: Path) -> None:
    ours, other = small(name, seed=1), small(name, seed=2)
    zoo.weights.save(ours, tmp_path / f"x{ending}")
    zoo.weights.load(other, tmp_path / f"x{ending}")
    assert_same_weights(ours, other)


@pytest.mark.parametrize("ending", [".safetensors", ".npz"])
def test_foreign_names_go_into_files_too(ending: str, tmp_path: Path) -> None:
    ours, other = small("resnet18", seed=1), small("resnet18", seed=2)
    zoo.weights.save(ours, tmp_path / f"x{ending}", layout="timm")
    assert zoo.weights.load(other, tmp_path / f"x{ending}", layout="timm").layout == "timm"
    assert_same_weights(ours, other)


def test_keras_reads_our_h5_and_we_read_keras(tmp_path: Path) -> None:
    ours, other, back = small("vit-b16", seed=1), small("vit-b16", seed=2), small("vit-b16", seed=3)
    zoo.weights.save(ours, tmp_path / "ours.weights.h5")
    other.load_weights(tmp_path / "ours.weights.h5")
    assert_same_weights(ours, other)
    other.save_weights(tmp_path / "keras.weights.h5")
    assert zoo.weights.load(back, tmp_path / "keras.weights.h5").layout == "keras"
    assert_same_weights(ours, back)


def test_the_h5_of_a_model_that_was_trained_has_an_optimizer_beside_its_weights(tmp_path: Path) -> None:
    ours, other = small("vgg11-bn", seed=1), small("vgg11-bn", seed=2)
    ours.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ours.fit(zoo.example(ours), np.zeros(2, int), verbose=0)  # type: ignore[arg-type]
    ours.save_weights(tmp_path / "x.weights.h5")
    zoo.weights.load(other, tmp_path / "x.weights.h5")
    assert_same_weights(ours, other)


def test_the_h5_of_a_model_in_bfloat16_is_read(tmp_path: Path) -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        ours, other = network(), network()
        zoo.weights.from_torch(ours, NETWORK)
        ours.save_weights(tmp_path / "x.weights.h5")
        zoo.weights.load(other, tmp_path / "x.weights.h5")
    finally:
        keras.config.set_dtype_policy(before)
    np.testing.assert_array_equal(
        *(numpy(keras.ops.cast(m.get_layer("conv1").kernel, "float32")) for m in (ours, other))
    )


def test_the_weights_of_a_checkpoint_are_loaded(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
    file = tmp_path / "run.safetensors"
    ours, other = small("mlp", seed=1), small("mlp", seed=2)
    zoo.train(ours, (x, np.arange(32) % 10), steps=2, batch_size=16, checkpoint=file, progress=False)
    assert zoo.weights.load(other, file).layout == "zoo"
    assert_same_weights(ours, other)


def shard(arrays: Mapping[str, np.ndarray], folder: Path, count: int = 3) -> Path:
    """A sharded model as the hub keeps it; the path of its index."""
    names, files = list(arrays), {}
    for i in range(count):
        part = f"model-{i + 1:05}-of-{count:05}.safetensors"
        own = {name: arrays[name] for name in names[i::count]}
        safetensors.numpy.save_file(own, folder / part, {"format": "pt"})
        files |= dict.fromkeys(own, part)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": files}))
    return index


@pytest.mark.parametrize("whole", [True, False], ids=["the folder", "the index"])
def test_a_sharded_model_is_loaded(whole: bool, tmp_path: Path) -> None:
    model = network()
    index = shard(NETWORK, tmp_path)
    assert zoo.weights.load(model, tmp_path if whole else index).tensors == 6
    np.testing.assert_array_equal(numpy(model.get_layer("head").bias), NETWORK["classifier.6.bias"])


def unreadable(path: Path, said: str, error: Any = zoo.DataUnavailable) -> None:
    model = network()
    before = values(model)
    with pytest.raises(error, match=said):
        zoo.weights.load(model, path)
    assert_equal(values(model), before)


def test_a_sharded_model_without_a_part_is_an_error_that_names_it(tmp_path: Path) -> None:
    index = shard(NETWORK, tmp_path)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    unreadable(index, r"index\.json: its part model-00002-of-00003\.safetensors is missing")


def test_a_file_is_read_one_array_at_a_time(tmp_path: Path) -> None:
    """At no moment is a quarter of it in NumPy's memory, but for arrays that JAX makes its own, uncopied."""
    x = layers.Input((256,))
    y = x
    for i in range(24):
        y = layers.dense(y, 256, name=f"dense{i}")
    ours = layers.Model(x, y)
    file = tmp_path / "x.safetensors"
    zoo.weights.save(ours, file)
    tracemalloc.start()
    try:
        zoo.weights.load(ours, file)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - kept < file.stat().st_size / 4


def made(ending: str, folder: Path) -> Path:
    file = folder / f"x{ending}"
    if ending in ENDINGS:
        zoo.weights.save(network(), file)
    elif ending == ".json":
        file = shard(NETWORK, folder)
    else:
        import torch

        torch.save({name: torch.from_numpy(x) for name, x in NETWORK.items()}, file)
    return file


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda x: b"",
    "cut short": lambda x: x[: len(x) // 2],
    "something else": lambda x: b"<!doctype html>" * 99,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("ending", [*ENDINGS, ".json", pytest.param(".pt", marks=needs_torch)])
def test_a_damaged_file_is_an_error_that_names_it(ending: str, damage: str, tmp_path: Path) -> None:
    file = made(ending, tmp_path)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    unreadable(file, re.escape(f"{file}: not a file of arrays, or damaged"))


def test_a_file_or_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    unreadable(tmp_path / "x.safetensors", "no such file")
    unreadable(tmp_path, r"the folder contains none of model\.safetensors")
    unreadable(tmp_path / "x.onnx", r"expected a file that ends in \.safetensors", zoo.WrongConfiguration)


@needs_torch
@pytest.mark.parametrize("wrap", [None, "state_dict", "model"])
@pytest.mark.parametrize("ending", [".pt", ".pth", ".bin"])
def test_torchs_own_files_are_read(ending: str, wrap: str | None, tmp_path: Path) -> None:
    import torch

    tensors = {name: torch.from_numpy(x).bfloat16() for name, x in NETWORK.items()}
    torch.save({wrap: tensors, "epoch": 3} if wrap else tensors, tmp_path / f"x{ending}")
    model = network()
    zoo.weights.load(model, tmp_path / f"x{ending}")
    np.testing.assert_array_equal(
        numpy(model.get_layer("conv1").kernel), NETWORK["features.0.weight"].transpose(2, 3, 1, 0)
    )


class Trap:
    """Unpickled, it would make a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


@needs_torch
def test_code_in_torchs_file_is_not_run(tmp_path: Path) -> None:
    import torch

    torch.save({"features.0.weight": Trap(tmp_path / "sprung")}, tmp_path / "x.pt")
    unreadable(tmp_path / "x.pt", "not a file of arrays")
    assert not (tmp_path / "sprung").exists()


def test_objects_in_an_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=True, kernel=np.array([Trap(tmp_path / "sprung")], object))
    unreadable(tmp_path / "x.npz", "not a file of arrays")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_failure_while_writing_leaves_the_old_file_alone(
    ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / f"x{ending}"
    file.write_text("the old one")
    model = network()

    def full(path: Any, *_: Any, **__: Any) -> None:
        Path(path).write_text("half of")
        raise OSError("no space left on device")

    monkeypatch.setattr("zoo.weights.files.save_file", lambda arrays, path, *_: full(path))
    monkeypatch.setattr(np, "savez", full)
    monkeypatch.setattr(model, "save_weights", full)
    with pytest.raises(OSError, match="no space left"):
        zoo.weights.save(model, file)
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_text() == "the old one"


@pytest.mark.parametrize(
    ("path", "how", "said"),
    [
        ("x.onnx", {}, r"expected a file that ends in \.safetensors, \.npz or \.weights\.h5"),
        ("x.h5", {}, "expected a file that ends in"),
        ("nowhere/x.npz", {}, "no folder .*nowhere that can be written to"),
        ("x.weights.h5", {"layout": "torchvision"}, "leave layout= out"),
    ],
)
def test_what_cannot_be_written_is_refused_before(
    path: str, how: dict[str, str], said: str, tmp_path: Path
) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said):
        zoo.weights.save(network(), tmp_path / path, **how)
    assert list(tmp_path.iterdir()) == []


# --- where they are used ---


def digits() -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
    return x, np.arange(32) % 10


def test_training_starts_from_the_weights_it_is_given(tmp_path: Path) -> None:
    file, plain = tmp_path / "x.safetensors", {"dropout_rate": 0.0}
    zoo.weights.save(small("mlp", seed=5, **plain), file)
    settings = {"steps": 3, "batch_size": 16, "progress": False}
    rate = (
        zoo.optimizers.AdamW(1e-3),
        zoo.optimizers.AdamW(1e-3),
    )  # trained weights have a recipe of their own
    ours = zoo.train(small("mlp", **plain), digits(), weights=file, optimizer=rate[0], **settings)
    theirs = zoo.train(small("mlp", seed=5, **plain), digits(), optimizer=rate[1], **settings)
    assert ours.losses == theirs.losses


def test_weights_for_a_run_that_is_resumed_are_refused(tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"resume= brings the weights.* leave weights= out"):
        zoo.train("mlp", digits(), weights=tmp_path / "x.npz", resume=tmp_path / "run.safetensors")


def test_zoo_export_writes_what_zoo_train_saved_by_anyones_names(tmp_path: Path) -> None:
    saved, out, head = tmp_path / "run.safetensors", tmp_path / "vit.safetensors", "head/kernel"
    run("train", "vit-ti16", "--task", "digits", "--steps", "1", "--checkpoint", str(saved))
    said = run("export", "vit-ti16", "--task", "digits", "--weights", str(saved), "--layout", "timm",
               "--out", str(out))  # fmt: skip
    assert f"{out}: vit-ti16 by timm's names" in said
    theirs, ours = safetensors.numpy.load_file(out), checkpoints.read(saved).part("model")
    np.testing.assert_array_equal(theirs["head.weight"], ours[head].T)


# --- the hub, of this process ---

COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """Serves files as huggingface.co does, and remembers what it was asked."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files: dict[str, bytes] = {}  # owner/name/file -> what is sent
        self.promised: dict[str, bytes] = {}  # -> what its size and checksum are said to be, if another
        self.cut: int | None = None  # hang up after so many bytes, once
        self.asked: list[str] = []

    def put(self, folder: Path, repository: str = "someone/model") -> None:
        self.files |= {f"{repository}/{p.name}": p.read_bytes() for p in folder.iterdir()}


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        repository, _, rest = self.path.lstrip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        name, start = f"{repository}/{file}", self.headers.get("Range", "")
        self.server.asked.append(" ".join(filter(None, (self.command, file or self.path, revision, start))))
        if not any(known.startswith(f"{repository}/") for known in self.server.files):
            return self.fail(401, "RepoNotFound")
        if revision not in ("main", "v2", COMMIT):
            return self.fail(404, "RevisionNotFound")
        if name not in self.server.files:
            return self.fail(404, "EntryNotFound")
        body = self.server.files[name]
        whole = self.server.promised.get(name, body)
        first = int(re.findall(r"\d+", start)[0]) if start else 0
        self.send_response(206 if first else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Size", str(len(whole)))
        self.send_header("X-Linked-Etag", f'"{hashlib.sha256(whole).hexdigest()}"')
        self.send_header("Accept-Ranges", "bytes")
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first))
        self.end_headers()
        if self.command == "GET":
            cut, self.server.cut = self.server.cut, None
            self.wfile.write(body[first:cut])
            self.close_connection = cut is not None
        return None

    def fail(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def fetch(server: Hub, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """`zoo.weights.hub.fetch` in a process of its own, since the library reads its settings once.

    Gives (path, "") or ("", the error).
    """

    def fetch(reference: str, **environment: str) -> tuple[str, str]:
        code = (
            "import sys; from zoo.errors import ZooError; from zoo.weights import hub\n"
            "try: print(hub.fetch(sys.argv[1]))\n"
            "except ZooError as error: print(type(error).__name__ + ':', error, file=sys.stderr); sys.exit(9)"
        )
        settings = {
            "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "cache"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", **environment,
        }  # fmt: skip
        command = [sys.executable, "-c", code, reference]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | settings)
        assert done.returncode in (0, 9), done.stderr
        return done.stdout.strip(), done.stderr if done.returncode else ""

    return fetch


Fetch = Callable[..., tuple[str, str]]


@pytest.fixture
def repository(server: Hub, tmp_path: Path) -> bytes:
    """One file on the hub, of two megabytes."""
    folder = tmp_path / "repository"
    folder.mkdir()
    arrays = NETWORK | {"more": np.random.default_rng(0).random(500_000, np.float32)}
    safetensors.numpy.save_file(arrays, folder / "model.safetensors")
    server.put(folder)
    return (folder / "model.safetensors").read_bytes()


def test_a_file_of_the_hub_is_fetched_once(server: Hub, fetch: Fetch, repository: bytes) -> None:
    path, error = fetch("hf://someone/model")
    assert not error
    assert Path(path).read_bytes() == repository
    assert sum(line.startswith("GET model.safetensors") for line in server.asked) == 1
    server.asked.clear()
    assert fetch("hf://someone/model") == (path, "")
    assert not any(line.startswith("GET model") for line in server.asked)


@pytest.mark.usefixtures("repository")
def test_offline_it_comes_from_the_cache(server: Hub, fetch: Fetch) -> None:
    path, _ = fetch("hf://someone/model")
    server.asked.clear()
    assert fetch("hf://someone/model", HF_HUB_OFFLINE="1") == (path, "")
    assert server.asked == []


@pytest.mark.usefixtures("repository")
def test_offline_what_was_never_fetched_is_an_error(fetch: Fetch) -> None:
    _, error = fetch("hf://someone/model", HF_HUB_OFFLINE="1")
    assert error.startswith("DataUnavailable: hf://someone/model: ")


def test_a_download_that_is_cut_goes_on_where_it_stopped(server: Hub, fetch: Fetch) -> None:
    """The library writes ten megabytes at a time; the last, unfinished piece is asked for again."""
    body = np.random.default_rng(0).bytes(24_000_000)
    server.files["someone/model/model.safetensors"], server.cut = body, 15_000_000
    path, error = fetch("hf://someone/model")
    assert not error
    assert Path(path).read_bytes() == body
    asked = [line for line in server.asked if line.startswith("GET model")]
    assert len(asked) == 2
    (start,) = re.findall(r"bytes=(\d+)-", asked[1])
    assert 0 < int(start) <= 15_000_000


def test_a_file_that_is_not_what_its_checksum_says_is_an_error(
    server: Hub, fetch: Fetch, repository: bytes
) -> None:
    damaged = bytearray(repository)
    damaged[len(damaged) // 2] ^= 1
    server.files["someone/model/model.safetensors"] = bytes(damaged)
    server.promised["someone/model/model.safetensors"] = repository
    _, error = fetch("hf://someone/model")
    assert error.startswith("DataUnavailable: hf://someone/model/model.safetensors: damaged, its SHA-256 is ")
    assert hashlib.sha256(damaged).hexdigest() in error
    assert hashlib.sha256(repository).hexdigest() in error


def test_a_file_of_another_size_is_an_error(server: Hub, fetch: Fetch, repository: bytes) -> None:
    server.files["someone/model/model.safetensors"] = repository[:-7]
    server.promised["someone/model/model.safetensors"] = repository
    _, error = fetch("hf://someone/model")
    assert error.startswith("DataUnavailable: hf://someone/model: ")
    assert f"{len(repository)}" in error
    assert f"{len(repository) - 7}" in error


def test_a_sharded_repository_is_fetched_whole(server: Hub, fetch: Fetch, tmp_path: Path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    shard(NETWORK, folder)
    server.put(folder)
    path, error = fetch("hf://someone/model")
    assert not error
    assert sorted(p.name for p in Path(path).parent.iterdir()) == sorted(p.name for p in folder.iterdir())
    model = network()
    assert zoo.weights.load(model, path).tensors == 6
    assert fetch("hf://someone/model", HF_HUB_OFFLINE="1") == (path, "")


@pytest.mark.parametrize("reference", ["hf://someone/model/other/x.npz", "hf://someone/model/other/x.npz@v2"])
def test_a_file_and_a_revision_can_be_named(server: Hub, fetch: Fetch, reference: str) -> None:
    server.files["someone/model/other/x.npz"] = b"what is in it"
    path, error = fetch(reference)
    assert not error
    assert Path(path).read_bytes() == b"what is in it"
    revision = "v2" if reference.endswith("@v2") else "main"
    assert f"HEAD other/x.npz {revision}" in server.asked


@pytest.mark.usefixtures("repository")
@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf://nobody/model", "RepositoryNotFoundError"),
        ("hf://someone/model@v3", "RevisionNotFoundError"),
        ("hf://someone/model/x.npz", "EntryNotFoundError"),
        ("hf://model", r"WrongConfiguration: 'hf://model': expected hf://owner/name\[/file\]\[@revision\]"),
    ],
)
def test_what_the_hub_has_not_is_an_error(fetch: Fetch, reference: str, said: str) -> None:
    _, error = fetch(reference)
    assert re.search(said, error)
    assert reference in error


@pytest.mark.once
def test_weights_of_the_hub_are_loaded(server: Hub, tmp_path: Path) -> None:
    """By `zoo.weights.load`, whole way."""
    folder = tmp_path / "repository"
    folder.mkdir()
    zoo.weights.save(small("lenet5", seed=3), folder / "model.safetensors")
    server.put(folder)
    code = (
        "import zoo; model = zoo.build('lenet5', **zoo.card('lenet5').small)\n"
        "zoo.weights.load(model, 'hf://someone/model'); zoo.weights.save(model, 'loaded.npz')"
    )
    endpoint = f"http://127.0.0.1:{server.server_port}"
    python(f"import os; os.chdir({str(tmp_path)!r})\n{code}", HF_ENDPOINT=endpoint, HF_HOME=str(tmp_path))
    with np.load(tmp_path / "loaded.npz") as file:
        assert_equal({name: file[name] for name in file.files}, values(small("lenet5", seed=3)))


def test_without_huggingface_hub_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", None)
    with pytest.raises(zoo.DataUnavailable, match=r'pip install "keras-zoo-parity\[hub\]"'):
        hub.fetch("hf://someone/model")
