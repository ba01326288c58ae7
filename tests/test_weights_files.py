"""Files that cannot be read whole change nothing; those that training scripts write are read, with a note."""

from __future__ import annotations

import importlib.util
import json
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import keras
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from conftest import numpy
from test_weights import network

import zoo
from zoo.training import checkpoints

pytestmark = pytest.mark.once

needs_torch = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch's own tensors")
LAST = "classifier.6.bias"  # every other array is read before it


def counted(*shape: int) -> np.ndarray:
    """Every number another; none is 0, which biases are at first."""
    return 1 + np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


NETWORK = {
    "features.0.weight": counted(3, 2, 3, 3),
    "features.0.bias": counted(3),
    "classifier.1.weight": counted(4, 3 * 6 * 6),
    "classifier.1.bias": counted(4),
    "classifier.6.weight": counted(5, 4),
    LAST: counted(5),
}


def values(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.variables}


def unchanged(load: Callable[[keras.Model], Any], *said: str, error: type = zoo.ZooError) -> None:
    """The error says so, and every weight is what it was."""
    model = network()
    before = values(model)
    with pytest.raises(error) as caught:
        load(model)
    for text in said:
        assert text in str(caught.value)
    for path, value in values(model).items():
        np.testing.assert_array_equal(value, before[path], err_msg=path)


def complete(model: keras.Model) -> None:
    """Every weight is the network's, transposed as AlexNet's."""
    theirs = NETWORK["features.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(numpy(model.get_layer("conv1").kernel), theirs)
    np.testing.assert_array_equal(numpy(model.get_layer("head").kernel), NETWORK["classifier.6.weight"].T)
    np.testing.assert_array_equal(numpy(model.get_layer("head").bias), NETWORK[LAST])


# --- types that no weight has here ---

# safetensors' types that NumPy has none for -> bits
UNREAD = {"F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def safetensors_file(path: Path, kind: str, bits: int, arrays: Mapping[str, np.ndarray] = NETWORK) -> Path:
    """The arrays, the last of a type that safetensors' own writer for NumPy does not know; zeros, 8 of them.

    A header's length (8 bytes), the header, the bytes: the format as its specification describes it.
    """
    header, body = {}, b""
    for name, x in arrays.items():
        last = name == LAST
        data = bytes(8 * bits // 8) if last else x.tobytes()
        shape, dtype = ([8], kind) if last else (list(x.shape), "F32")
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


@pytest.mark.parametrize("kind", UNREAD)
def test_a_type_that_numpy_has_not_is_refused_by_name_in_a_safetensors_file(
    kind: str, tmp_path: Path
) -> None:
    path = safetensors_file(tmp_path / "x.safetensors", kind, UNREAD[kind])
    unchanged(lambda m: zoo.weights.load(m, path, head="require"), LAST, kind, "Nothing was loaded")


def test_and_in_a_part_of_a_sharded_model(tmp_path: Path) -> None:
    safetensors.numpy.save_file({k: x for k, x in NETWORK.items() if k != LAST}, tmp_path / "a.safetensors")
    safetensors_file(tmp_path / "b.safetensors", "F8_E4M3", 8, {LAST: NETWORK[LAST]})
    index = {name: "b.safetensors" if name == LAST else "a.safetensors" for name in NETWORK}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    unchanged(lambda m: zoo.weights.load(m, tmp_path, head="require"), LAST, "F8_E4M3", "Nothing was loaded")


OTHERS = [ml_dtypes.float8_e4m3fn, ml_dtypes.float4_e2m1fn, np.complex64, np.int8, np.bool_]


@pytest.mark.parametrize("dtype", OTHERS)
def test_arrays_of_a_type_that_no_weight_has_are_refused_by_name(dtype: Any) -> None:
    arrays = NETWORK | {LAST: np.ones(5, dtype)}
    unchanged(lambda m: zoo.weights.from_torch(m, arrays), f"{LAST} has type {np.dtype(dtype).name}")


@needs_torch
@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", "complex64", "int8", "bool"])
@pytest.mark.parametrize("file", [True, False])
def test_and_so_are_torchs_tensors_in_memory_and_in_files(dtype: str, file: bool, tmp_path: Path) -> None:
    import torch

    tensors = {name: torch.from_numpy(x) for name, x in NETWORK.items()}
    tensors[LAST] = torch.ones(5).to(getattr(torch, dtype))
    torch.save(tensors, tmp_path / "x.pt")
    load = (lambda m: zoo.weights.load(m, tmp_path / "x.pt")) if file else (
        lambda m: zoo.weights.from_torch(m, tensors)
    )  # fmt: skip
    unchanged(load, f"{LAST} has type {dtype}", "Nothing was loaded")


@needs_torch
@pytest.mark.parametrize("what", ["sparse", "without data"])
def test_a_tensor_that_has_no_array_leaves_the_model_as_it_was(what: str) -> None:
    import torch

    tensor = torch.ones(5).to_sparse() if what == "sparse" else torch.ones(5, device="meta")
    tensors = {name: torch.from_numpy(x) for name, x in NETWORK.items()} | {LAST: tensor}
    unchanged(lambda m: zoo.weights.from_torch(m, tensors), LAST, "float32", "Nothing was loaded")


# --- what breaks while it is read ---


def test_a_damaged_chunk_of_an_h5_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    """Keras's file, one array of it compressed, which HDF5 decompresses when it is read."""
    path, name = tmp_path / "x.weights.h5", "layers/dense_1/vars/1"
    zoo.weights.save(network(), path)
    with h5py.File(path, "r+") as file:
        del file[name]
        chunk = file.create_dataset(name, data=NETWORK[LAST], chunks=(5,), compression="gzip").id
        file.flush()
        start, size = chunk.get_chunk_info(0).byte_offset, chunk.get_chunk_info(0).size
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(size)
    path.write_bytes(data)
    with h5py.File(path) as file, pytest.raises(OSError, match="filter returned failure"):
        file[name][()]
    unchanged(lambda m: zoo.weights.load(m, path), "dense_1/vars/1", "float32", error=zoo.DataUnavailable)


@pytest.mark.parametrize("packed", [True, False])
def test_a_damaged_array_of_an_npz_is_named(packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    (np.savez_compressed if packed else np.savez)(path, **NETWORK)
    data = bytearray(path.read_bytes())
    place = data.rindex(f"{LAST}.npy".encode(), 0, data.index(b"PK\x01\x02")) + len(f"{LAST}.npy") + 24
    for i in range(place, place + 16):
        data[i] ^= 0xFF
    path.write_bytes(data)
    unchanged(lambda m: zoo.weights.load(m, path), str(path), LAST, error=zoo.DataUnavailable)


def test_reading_that_fails_in_the_middle_leaves_the_model_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a disk does that answers no more: every reader is one of `Stored`."""
    path = tmp_path / "x.safetensors"
    safetensors.numpy.save_file(NETWORK, path)
    opened = safetensors.safe_open

    class Failing:
        def __init__(self, *how: Any):
            self.file = opened(*how)

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: Any) -> None: ...

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def get_tensor(self, name: str) -> np.ndarray:
            if name == LAST:
                raise OSError(5, "Input/output error")
            return self.file.get_tensor(name)

    monkeypatch.setattr("zoo.weights.files.safe_open", Failing)
    unchanged(
        lambda m: zoo.weights.load(m, path),
        f"{path}: {LAST}",
        "Input/output error",
        error=zoo.DataUnavailable,
    )


def test_bfloat16_goes_into_an_npz_and_comes_back(tmp_path: Path) -> None:
    """NumPy's format has no name for the type: it would come back as bytes."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        ours, other = network(), network()
    finally:
        keras.config.set_dtype_policy(before)
    zoo.weights.from_torch(ours, {name: x / 7 for name, x in NETWORK.items()})
    zoo.weights.save(ours, tmp_path / "x.npz")
    zoo.weights.load(other, tmp_path / "x.npz")
    for one, two in zip(ours.variables, other.variables, strict=True):
        np.testing.assert_array_equal(*(numpy(keras.ops.cast(v, "float32")) for v in (one, two)))


# --- a checkpoint to resume ---


def checkpoint(folder: Path) -> tuple[Path, dict[str, Any], dict[str, np.ndarray]]:
    """A run's file, its header and its arrays."""
    path = folder / "run.safetensors"
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
    model = zoo.build("mlp", **zoo.card("mlp").small)
    zoo.train(model, (x, np.arange(32) % 10), steps=2, batch_size=16, checkpoint=path, progress=False)
    with safetensors.safe_open(path, "numpy") as file:
        return path, file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def resumed(path: Path, *said: str) -> None:
    x = np.random.default_rng(0).normal(size=(32, 8, 8, 1)).astype(np.float32)
    model = zoo.build("mlp", seed=5, **zoo.card("mlp").small)
    before = values(model)
    with pytest.raises(zoo.ZooError) as caught:
        zoo.train(model, (x, np.arange(32) % 10), steps=4, resume=path, progress=False)
    for text in said:
        assert text in str(caught.value)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize("part", ["model", "optimizer"])
def test_a_checkpoint_with_an_array_of_another_type_changes_nothing(part: str, tmp_path: Path) -> None:
    path, facts, arrays = checkpoint(tmp_path)
    name = [n for n in arrays if n.startswith(f"{part}/") and arrays[n].ndim][-1]
    arrays[name] = arrays[name].astype(np.complex64)
    safetensors.numpy.save_file(arrays, path, facts)
    resumed(path, f"{name} is of type C64")


def test_a_checkpoint_with_an_array_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    path, facts, arrays = checkpoint(tmp_path)
    name = next(reversed(arrays))
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header[name] |= {"dtype": "F8_E4M3", "shape": [arrays[name].nbytes]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    del facts
    resumed(path, name, "F8_E4M3")


@pytest.mark.parametrize("gone", ["losses", "version", "optimizer", "history"])
def test_a_checkpoint_that_lacks_a_part_is_named(gone: str, tmp_path: Path) -> None:
    path, facts, arrays = checkpoint(tmp_path)
    kept = {k: v for k, v in json.loads(facts["zoo"]).items() if k not in (gone, "digests")}
    arrays = {name: x for name, x in arrays.items() if name != gone}
    safetensors.numpy.save_file(arrays, path, {"zoo": json.dumps(kept)})
    resumed(path, str(path), gone)
    if gone != "losses":
        with pytest.raises(zoo.WrongConfiguration, match=gone):
            checkpoints.read(path)


# --- names and files as training scripts leave them ---

PREFIXES = ["module.", "_orig_mod.", "model.", "module._orig_mod.", "_orig_mod.module.", "model.module."]


def under(prefix: str, arrays: Mapping[str, Any] = NETWORK) -> dict[str, Any]:
    return {prefix + name: x for name, x in arrays.items()}


@pytest.mark.parametrize("prefix", PREFIXES)
def test_what_wrappers_put_before_every_name_is_taken_off_and_said(prefix: str) -> None:
    model = network()
    done = zoo.weights.from_torch(model, under(prefix))
    complete(model)
    assert (done.layout, done.tensors) == ("torchvision", 6)
    assert any(repr(prefix) in note for note in done.notes)


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("layout", ["torchvision", "zoo"])
def test_and_before_the_names_of_a_layout_that_is_given(prefix: str, layout: str, tmp_path: Path) -> None:
    ours, other = network(), network()
    zoo.weights.from_torch(ours, NETWORK)
    zoo.weights.save(ours, tmp_path / "x.npz", layout)
    with np.load(tmp_path / "x.npz") as file:
        zoo.weights.from_torch(other, under(prefix, dict(file)), layout)
    complete(other)


def test_a_name_that_lacks_the_prefix_keeps_it_on_all() -> None:
    arrays = under("module.") | {"criterion.weight": counted(3)}
    unchanged(lambda m: zoo.weights.from_torch(m, arrays), "module.features.0.weight", "Nothing was loaded")


def test_an_average_of_torch_has_a_count_beside_its_names() -> None:
    """torch.optim.swa_utils.AveragedModel's state: `n_averaged`, and the module's."""
    model = network()
    zoo.weights.from_torch(model, under("module.") | {"n_averaged": np.array(7)})
    complete(model)


def test_a_layouts_own_prefix_stays() -> None:
    table = zoo.weights.Layout(
        "mine",
        "*",
        [
            zoo.weights.Row("conv1", "model.features.0", layers_kind("CONV")),
            zoo.weights.Row("dense1", "model.classifier.1", layers_kind("DENSE")),
            zoo.weights.Row("head", "model.classifier.6", layers_kind("DENSE")),
        ],
    )
    done = zoo.weights.from_torch(network(), under("model."), table)
    assert (done.tensors, done.notes) == (6, ())


def layers_kind(name: str) -> Any:
    from zoo.weights import layouts

    return getattr(layouts, name)


WRAPS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "state_dict": lambda x: {"state_dict": x, "epoch": 3, "optimizer": {"state": {}, "param_groups": [{}]}},
    "model_state_dict": lambda x: {"model_state_dict": x, "loss": 0.5},
    "model": lambda x: {"model": x, "args": {"lr": 0.1}},
    "ema": lambda x: {"ema": x, "updates": 7},
    "model_ema": lambda x: {"model_ema": x},
    "state_dict_ema": lambda x: {"state_dict_ema": x},
    "ema of a module": lambda x: {"ema": {"module": x, "decay": 0.99}},
    "lightning": lambda x: {"state_dict": under("model.", x), "hyper_parameters": {"model": {"depth": 3}}},
    "accelerate": lambda x: {"model": under("_orig_mod.module.", x), "iter_num": 3},
}


ENDINGS = (".ckpt", ".pt.tar", ".pth.tar", ".PTH", ".Bin")
SCRIPTS = [
    *((wrap, None) for wrap in WRAPS),
    *(("model", ending) for ending in ENDINGS),
    ("lightning", ".ckpt"),
]


@needs_torch
@pytest.mark.parametrize(("wrap", "ending"), SCRIPTS)
def test_what_a_training_script_saves_is_read_with_a_note(
    wrap: str, ending: str | None, tmp_path: Path
) -> None:
    import torch

    saved = WRAPS[wrap]({name: torch.from_numpy(x) for name, x in NETWORK.items()})
    model = network()
    if ending is None:
        done = zoo.weights.from_torch(model, saved)
    else:
        torch.save(saved, tmp_path / f"x{ending}")
        done = zoo.weights.load(model, tmp_path / f"x{ending}")
    complete(model)
    key = next(iter(saved))
    assert any(f"read from '{key}" in note for note in done.notes)


@needs_torch
def test_of_a_model_and_its_average_the_model_is_taken_and_the_other_said(tmp_path: Path) -> None:
    """timm's checkpoints have both."""
    import torch

    tensors = {name: torch.from_numpy(x) for name, x in NETWORK.items()}
    saved = {"state_dict_ema": {k: 0 * x for k, x in tensors.items()}, "state_dict": tensors}
    torch.save(saved, tmp_path / "x.pth.tar")
    for load in (
        lambda m: zoo.weights.load(m, tmp_path / "x.pth.tar"),
        lambda m: zoo.weights.from_torch(m, saved),
    ):
        model = network()
        (note,) = load(model).notes
        complete(model)
        assert "'state_dict'" in note
        assert "'state_dict_ema'" in note


def test_a_dict_without_arrays_is_refused_with_its_names() -> None:
    found = {"generator": dict(NETWORK), "epoch": 3}
    unchanged(lambda m: zoo.weights.from_torch(m, found), "generator", "epoch")


class Settings:
    """A class of a training script's own."""


@needs_torch
def test_objects_of_python_beside_the_tensors_are_named(tmp_path: Path) -> None:
    import torch

    torch.save({"state_dict": {}, "args": Settings()}, tmp_path / "x.ckpt")
    unchanged(lambda m: zoo.weights.load(m, tmp_path / "x.ckpt"), "test_weights_files.Settings", "state_dict")


@pytest.mark.parametrize("ending", [".SAFETENSORS", ".Npz"])
def test_endings_in_capitals_are_read(ending: str, tmp_path: Path) -> None:
    ours, other = network(), network()
    zoo.weights.from_torch(ours, NETWORK)
    zoo.weights.save(ours, tmp_path / f"x{ending.lower()}")
    zoo.weights.load(other, (tmp_path / f"x{ending.lower()}").rename(tmp_path / f"x{ending}"))
    complete(other)


@needs_torch
def test_a_sharded_file_of_torchs_is_read(tmp_path: Path) -> None:
    import torch

    names = list(NETWORK)
    for i, own in enumerate((names[:3], names[3:])):
        torch.save({name: torch.from_numpy(NETWORK[name]) for name in own}, tmp_path / f"part{i}.bin")
    index = {name: f"part{names.index(name) // 3}.bin" for name in names}
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    model = network()
    zoo.weights.load(model, tmp_path)
    complete(model)


def test_an_index_that_names_the_wrong_part_is_refused(tmp_path: Path) -> None:
    safetensors.numpy.save_file({k: x for k, x in NETWORK.items() if k != LAST}, tmp_path / "a.safetensors")
    safetensors.numpy.save_file({"other": counted(2)}, tmp_path / "b.safetensors")
    index = {name: "b.safetensors" if name == LAST else "a.safetensors" for name in NETWORK}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    unchanged(lambda m: zoo.weights.load(m, tmp_path), LAST, "b.safetensors", error=zoo.DataUnavailable)
