"""Files of arrays by name: safetensors, whole or sharded, NumPy's .npz, Keras's .weights.h5, torch's own.

Shapes are known before any array is read, and safetensors and HDF5 read one array at a time.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from zoo import backends, storage
from zoo._lazy import keras
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.weights.layouts import Plain

# What a repository of the hub, or a folder, calls its weights; the first that is there counts.
NAMES = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")

# What readers raise for a file that is none of theirs, or cut short; torch's refuses what is no tensor.
DAMAGE = (
    SafetensorError, OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile,
    pickle.UnpicklingError,
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """An array that can be read."""

    shape: tuple[int, ...]
    floating: bool  # integers count and index: they are no weights
    read: Callable[[], np.ndarray]


Arrays = dict[str, Stored]


@contextmanager
def reading(path: Path) -> Iterator[Arrays]:
    """The arrays of a file, while it is open. Raises DataUnavailable for one that is missing or damaged."""
    if storage.is_dir(path):
        inside = [path / name for name in NAMES if (path / name).is_file()]
        if not inside:
            raise DataUnavailable(f"{path}: a folder with none of {', '.join(NAMES)}; give the file itself")
        path = inside[0]
    if path.suffix not in READERS:
        raise WrongConfiguration(f"{path}: expected a file that ends in {', '.join(READERS)}")
    if not storage.is_file(path):
        raise DataUnavailable(f"{path}: no such file")
    with ExitStack() as stack:
        try:
            arrays = READERS[path.suffix](path, stack)
        except DAMAGE as error:
            reason = str(error).strip().partition("\n")[0]
            raise DataUnavailable(f"{path}: not a file of arrays, or a damaged one ({reason})") from error
        yield arrays


def floating(dtype: np.dtype) -> bool:
    """Whether this is a type of floats; bfloat16, which is none of NumPy's own, is."""
    return np.issubdtype(dtype, np.floating) or dtype.name == "bfloat16"


def _safetensors(path: Path, stack: ExitStack) -> Arrays:
    file: Any = stack.enter_context(safe_open(path, "numpy"))
    # A checkpoint of zoo.train keeps the model's part of its arrays under this name.
    prefix = "model/" if "zoo" in (file.metadata() or {}) else ""
    found = {}
    for name in file.keys():  # noqa: SIM118
        if name.startswith(prefix):
            part = file.get_slice(name)
            read = lambda name=name: file.get_tensor(name)  # noqa: E731
            found[name[len(prefix) :]] = Stored(tuple(part.get_shape()), "F" in part.get_dtype(), read)
    return found


def _sharded(path: Path, stack: ExitStack) -> Arrays:
    index = json.loads(path.read_text())["weight_map"]
    shards = {}
    for shard in sorted(set(index.values())):
        if not (path.parent / shard).is_file():
            raise DataUnavailable(f"{path}: its part {shard} is not there")
        shards[shard] = _safetensors(path.parent / shard, stack)
    return {name: stored for arrays in shards.values() for name, stored in arrays.items()}


def _npz(path: Path, stack: ExitStack) -> Arrays:
    del stack
    with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    return _held(arrays)


def _h5(path: Path, stack: ExitStack) -> Arrays:
    import h5py

    found, file = {}, stack.enter_context(h5py.File(path))

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            sixteen = item.attrs.get("dtype") == "bfloat16"
            read = lambda: item[()].view("bfloat16") if sixteen else item[()]  # noqa: E731
            found[name] = Stored(item.shape, sixteen or floating(item.dtype), read)

    file["layers"].visititems(visit)  # beside them a compiled model's file has the optimizer's
    return found


def _torch(path: Path, stack: ExitStack) -> Arrays:
    del stack
    backends.checked("torch", str(path))
    return _held(import_module("zoo.backends.torch_tensors").read(path))


def _held(arrays: Mapping[str, np.ndarray]) -> Arrays:
    return {name: Stored(x.shape, floating(x.dtype), lambda x=x: x) for name, x in arrays.items()}


READERS: dict[str, Callable[[Path, ExitStack], Arrays]] = {
    ".safetensors": _safetensors, ".json": _sharded, ".npz": _npz, ".h5": _h5,
    ".pt": _torch, ".pth": _torch, ".bin": _torch,
}  # fmt: skip


def keras_names(model: keras.Model) -> dict[str, keras.Variable]:
    """What `save_weights` calls the variables: each layer by its class and how many came before of that."""
    found, count = {}, Counter()
    for layer in model.layers:
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()
        name = f"{kind}_{count[kind]}" if count[kind] else kind
        count[kind] += 1
        own = enumerate([*layer.trainable_variables, *layer.non_trainable_variables])
        found |= {f"{name}/vars/{i}": v for i, v in own if keras.backend.is_float_dtype(v.dtype)}
    return found


KERAS = Plain("keras", keras_names)


def check(path: Path) -> None:
    """Raise WrongConfiguration, before any work, unless weights can be written there."""
    if not path.name.endswith((".safetensors", ".npz", ".weights.h5")):
        raise WrongConfiguration(f"{path}: expected a file that ends in .safetensors, .npz or .weights.h5")
    storage.check_file("save", path)


def write(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a .safetensors or .npz, whole or not at all."""
    arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    with storage.replacing(path) as part:
        if path.suffix == ".npz":
            np.savez(part, allow_pickle=False, **arrays)
        else:
            save_file(arrays, part, {"format": "pt"})  # transformers reads no file without it
