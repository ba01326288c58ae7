"""Files of arrays by name: safetensors, whole or sharded, NumPy's .npz, Keras's .weights.h5, torch's own.

Shapes and types are known before any array is read; safetensors and HDF5 files are read array by array.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from zoo import backends, storage
from zoo._lazy import keras
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.weights.layouts import Plain

# Names of the file of weights in a folder or a repository of the hub; the first that exists is used.
NAMES = (
    "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json",
)  # fmt: skip
# Keys of a state dict in training scripts' dicts; the first that exists is used; averaged weights come last.
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "module", "net", "ema", "model_ema", "state_dict_ema",
    "ema_state_dict",
)  # fmt: skip
FLOATS = {"float16", "bfloat16", "float32", "float64", "float128", "longdouble"}  # types of weights
SAFETENSORS = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
DAMAGED = "not a file of arrays, or damaged"
FILTERS = {"gzip": 1, "shuffle": 2, "fletcher32": 3}  # of HDF5's datasets, those that are read


@dataclass(frozen=True)
class Stored:
    """An array to be read; its type has the name that its file or framework uses."""

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]

    @property
    def floating(self) -> bool:
        """Whether it can be a weight: a float of 16 bits or more. float8 and smaller types are not read."""
        return self.dtype in FLOATS

    @property
    def integer(self) -> bool:
        """Whether it contains integers or bools (`num_batches_tracked`, masks)."""
        return re.match(r"(u?int|bool|[IU]\d|BOOL)", self.dtype) is not None


class Arrays(dict[str, Stored]):
    """Arrays by name, with notes on how they were found."""

    def __init__(self, arrays: Mapping[str, Stored], notes: Sequence[str] = ()):
        super().__init__(arrays)
        self.notes = tuple(notes)


@contextmanager
def reading(path: Path) -> Iterator[Arrays]:
    """The arrays of a file while it is open. Raises DataUnavailable for a missing or damaged file."""
    if storage.is_dir(path):
        inside = [path / name for name in NAMES if (path / name).is_file()]
        if not inside:
            raise DataUnavailable(
                f"{path}: the folder contains none of {', '.join(NAMES)}; give the path of a file"
            )
        path = inside[0]
    if (ending := path.suffix.lower()) not in READERS:
        raise WrongConfiguration(f"{path}: unknown ending; expected a file that ends in {', '.join(READERS)}")
    with ExitStack() as stack:
        with storage.reading(path, DAMAGED):
            arrays = READERS[ending](path, stack)
        yield arrays


def read(name: str, stored: Stored, source: str) -> np.ndarray:
    """Read the array. Raises DataUnavailable that names it and its type if it cannot be read."""
    try:
        return stored.read()
    except Exception as error:  # of whichever format
        raise DataUnavailable(
            f"{source}{name}, {stored.dtype} of shape {stored.shape}, cannot be read "
            f"({storage.reason(error)}). Nothing was loaded."
        ) from error


def stored(value: Any) -> Stored:
    """A torch tensor or an array as a `Stored`."""
    if isinstance(value, np.ndarray):
        return Stored(value.shape, value.dtype.name, lambda: value)
    numpy = import_module("zoo.backends.torch_tensors").numpy
    return Stored(tuple(value.shape), str(value.dtype).removeprefix("torch."), lambda: numpy(value))


def unwrapped(found: Mapping[Any, Any]) -> Arrays:
    """The arrays of a state dict, or of one inside a training script's dict, under one of `WRAPPERS`.

    Other values are ignored. Raises ValueError if there are no arrays.
    """
    path: list[str] = []
    others: list[str] = []
    while inside := [key for key in WRAPPERS if _has_arrays(found.get(key))]:
        found, others = found[inside[0]], others + inside[1:]
        path.append(inside[0])
    if not _has_arrays(found):
        names = ", ".join(map(str, [*path, *list(found)[:5]])) or "nothing"
        raise ValueError(f"found {names}; expected arrays by name, or under one of {', '.join(WRAPPERS)}")
    notes = [f"read from {'.'.join(path)!r}"] if path else []
    if others:
        notes[-1] += f"; {' and '.join(map(repr, others))} not used"
    return Arrays({name: stored(value) for name, value in found.items() if _is_array(value)}, notes)


def _is_array(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (hasattr(value, "shape") and hasattr(value, "detach"))


def _has_arrays(found: Any) -> bool:
    """Whether this contains arrays by name, directly or under one of `WRAPPERS`."""
    if not isinstance(found, Mapping):
        return False
    return any(map(_is_array, found.values())) or any(_has_arrays(found.get(key)) for key in WRAPPERS)


def _safetensors(path: Path, stack: ExitStack) -> Arrays:
    file: Any = stack.enter_context(safe_open(path, "numpy"))
    # A checkpoint of zoo.train has the model's arrays under this prefix.
    metadata = file.metadata() or {}
    prefix, digests = ("model/", checked_facts(metadata)[1]) if "zoo" in metadata else ("", {})
    found = {}
    for name in file.keys():  # noqa: SIM118
        if name.startswith(prefix):
            found[name[len(prefix) :]] = entry(file, name, digests.get(name))
    return Arrays(found)


def entry(file: Any, name: str, expected: str | None = None) -> Stored:
    """An array of an open safetensors file; reading it raises ValueError unless its digest is as expected."""
    part = file.get_slice(name)
    shape, dtype = tuple(part.get_shape()), str(part.get_dtype())

    def read() -> np.ndarray:
        x = file.get_tensor(name)
        if expected is not None and digest(x) != expected:
            raise ValueError("damaged: its bytes are not those that were saved")
        return x

    return Stored(shape, SAFETENSORS.get(dtype, dtype), read)


def digest(x: np.ndarray | str) -> str:
    """SHA-256 of a text, or of an array's type, shape and bytes: its first 32 hexadecimal digits."""
    if isinstance(x, str):
        return hashlib.sha256(x.encode()).hexdigest()[:32]
    found = hashlib.sha256(f"{x.dtype.name} {x.shape} ".encode())
    found.update(np.ascontiguousarray(x).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:32]


def checked_facts(metadata: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The facts of a checkpoint of zoo.train, and the digests of its arrays; older ones have none.

    Raises ValueError for another file, and for facts that are damaged.
    """
    text, checksum = metadata.get("zoo"), metadata.get("checksum")
    if text is None:
        raise ValueError("no facts of a run in its header")
    if checksum not in (None, digest(text)):
        raise ValueError("damaged: its facts are not those that were saved")
    facts = json.loads(text)
    digests = facts.pop("digests", None)
    if digests is not None and checksum is None:
        raise ValueError("damaged: its facts have no checksum")
    return facts, digests or {}


def _sharded(path: Path, stack: ExitStack) -> Arrays:
    index, shards = parts(path), {}
    for shard in sorted(set(index.values())):
        if not storage.is_file(path.parent / shard):
            raise DataUnavailable(f"{path}: its part {shard} is missing")
        shards[shard] = READERS[Path(shard).suffix.lower()](path.parent / shard, stack)
    if gone := [name for name, shard in index.items() if name not in shards[shard]]:
        raise DataUnavailable(f"{path}: its part {index[gone[0]]} has no {gone[0]}; {len(gone)} missing")
    return Arrays({name: shards[shard][name] for name, shard in index.items()})


def parts(path: Path) -> dict[str, str]:
    """The index of a sharded model: the name of each array's file, which is in the index's own folder.

    Raises DataUnavailable for anything else, and for a part in another folder.
    """
    with storage.reading(path, DAMAGED):
        index = {**json.loads(path.read_text(encoding="utf-8"))["weight_map"]}
        for part in set(index.values()):
            if re.search(r"[/\\:\0]", part) or Path(part).suffix.lower() not in READERS.keys() - {".json"}:
                raise DataUnavailable(
                    f"{path}: its part {part!r}; expected a file of arrays in its own folder"
                )
    return index


def _npz(path: Path, stack: ExitStack) -> Arrays:
    file, found = stack.enter_context(zipfile.ZipFile(path)), {}
    for info in file.infolist():
        name = info.filename.removesuffix(".npy")
        try:
            found[name] = _member(file, info)
        except Exception as error:  # of whichever kind
            raise ValueError(f"{name}: {storage.reason(error)}") from error
    return Arrays(found)


def _member(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> Stored:
    """An array of an open .npz file. Raises ValueError for what NumPy's savez does not write."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"compression {info.compress_type}; expected none or deflate")
    with file.open(info) as part:
        # Headers of format 2 may have 4 GiB; NumPy writes them for long lists of named fields alone.
        if (version := np.lib.format.read_magic(part)) != (1, 0):
            raise ValueError(f"format {version} of .npy; expected 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(part)
    if dtype.hasobject:
        raise ValueError("Python objects, which are not loaded because that runs code")

    def read() -> np.ndarray:
        with file.open(info) as part:
            return np.lib.format.read_array(part, allow_pickle=False)

    return Stored(shape, dtype.name, read)


def _h5(path: Path, stack: ExitStack) -> Arrays:
    import h5py

    found, file = {}, stack.enter_context(h5py.File(path))

    def visit(name: str, item: Any) -> None:  # links to other places and files are not visited
        if isinstance(item, h5py.Dataset):
            found[name] = _dataset(name, item)

    if file.get("layers", getclass=True, getlink=True) is not h5py.HardLink:
        raise ValueError("no group 'layers' of its own; expected a file of Keras's save_weights")
    layers: Any = file["layers"]
    layers.visititems(visit)  # the file of a compiled model also contains the optimizer
    return Arrays(found)


def _dataset(name: str, item: Any) -> Stored:
    """An array of an open HDF5 file. Raises ValueError for data of other files, and for unusual storage."""
    if item.external or item.is_virtual:
        raise ValueError(f"{name}: its data is in other files, which are not read")
    settings = item.id.get_create_plist()
    filters = [settings.get_filter(i)[0] for i in range(settings.get_nfilters())]
    if len(set(filters)) < len(filters) or not set(filters) <= set(FILTERS.values()):
        raise ValueError(f"{name}: HDF5's filters {filters}; expected each of {FILTERS} once at most")
    if item.shape is None or (item.chunks and math.prod(item.chunks) > max(item.size, 2**20)):
        raise ValueError(f"{name}: of shape {item.shape} in chunks of {item.chunks}")

    def read() -> np.ndarray:
        if FILTERS["gzip"] in filters:
            _check_chunks(item, 1 << filters.index(FILTERS["gzip"]))
        return item[()].view("bfloat16") if sixteen else item[()]

    # Keras marks bfloat16, and nothing else, by this attribute. Its text is not read: HDF5 looks for it in a
    # heap, in which an object without a size keeps it for ever.
    sixteen = item.dtype.itemsize == 2 and "dtype" in item.attrs
    return Stored(item.shape, "bfloat16" if sixteen else item.dtype.name, read)


def _check_chunks(item: Any, skipped: int) -> None:
    """Raise ValueError for a chunk larger than its dataset says: HDF5 itself decompresses to any size."""
    most = math.prod(item.chunks) * item.dtype.itemsize + 4  # the checksum of fletcher32
    for i in range(item.id.get_num_chunks()):
        mask, data = item.id.read_direct_chunk(item.id.get_chunk_info(i).chunk_offset)
        if not mask & skipped and len(zlib.decompressobj().decompress(data, most + 1)) > most:
            raise ValueError(f"chunk {i} has more than {most} bytes")


def _torch(path: Path, stack: ExitStack) -> Arrays:
    del stack
    backends.checked("torch", str(path))
    if zipfile.is_zipfile(path):  # torch.save compresses nothing
        with zipfile.ZipFile(path) as file:
            unpacked = sum(info.file_size for info in file.infolist())
        if unpacked > 2 * (size := path.stat().st_size):
            raise ValueError(f"{size:,} bytes that unpack to {unpacked:,}; expected a file of torch.save")
    try:
        return unwrapped(import_module("zoo.backends.torch_tensors").read(path))
    except pickle.UnpicklingError as error:
        if (match := re.search(r"Unsupported \w+: GLOBAL (\S+)", str(error))) is None:
            raise
        raise ValueError(
            f"it contains Python objects of {match[1]}, which are not loaded because that runs code; save "
            "only the state_dict where the file was created"
        ) from None


READERS: dict[str, Callable[[Path, ExitStack], Arrays]] = {
    ".safetensors": _safetensors, ".json": _sharded, ".npz": _npz, ".h5": _h5,
    ".pt": _torch, ".pth": _torch, ".bin": _torch, ".ckpt": _torch, ".tar": _torch,
}  # fmt: skip


def keras_names(model: keras.Model) -> dict[str, keras.Variable]:
    """The names of variables in `save_weights`: each layer by its class and its index among those."""
    found, count = {}, Counter()
    for layer in model.layers:
        kind = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", type(layer).__name__).lower()
        name = f"{kind}_{count[kind]}" if count[kind] else kind
        count[kind] += 1
        own = enumerate(layer.variables)
        found |= {f"{name}/vars/{i}": v for i, v in own if keras.backend.is_float_dtype(v.dtype)}
    return found


KERAS = Plain("keras", keras_names)


def check(path: Path) -> None:
    """Raise WrongConfiguration, before any work, unless weights can be written there."""
    if not path.name.endswith((".safetensors", ".npz", ".weights.h5")):
        raise WrongConfiguration(
            f"{path}: unknown ending; expected a file that ends in .safetensors, .npz or .weights.h5"
        )
    storage.check_file("save", path)


def header(path: Path) -> dict[str, str]:
    """The texts in the header of a safetensors file."""
    with storage.reading(path, DAMAGED):
        file: Any = safe_open(path, "numpy")
        with file:
            return dict(file.metadata() or {})


def write(path: Path, arrays: Mapping[str, np.ndarray], header: Mapping[str, str] | None = None) -> None:
    """Write arrays to a .safetensors or .npz file, atomically; `header` are texts for safetensors'."""
    arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    with storage.replacing(path) as part:
        if path.suffix == ".npz":  # which does not support bfloat16: float32 represents every value
            own = {name: x if x.dtype.isbuiltin != 2 else x.astype(np.float32) for name, x in arrays.items()}
            np.savez(part, allow_pickle=False, **own)
        else:
            save_file(
                arrays, part, {"format": "pt", **(header or {})}
            )  # the format is required by transformers
