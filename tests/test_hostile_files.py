"""Files from strangers: every reader answers with a value or a ZooError, in the memory that it needs.

ZOO_FUZZ=10000 python -m pytest tests/test_hostile_files.py -k mutations    reads that many of each format
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

import zoo
from zoo import preprocessing, tokenizers
from zoo.tasks import folders, speech, text, translation
from zoo.training import checkpoints
from zoo.weights import files

pytestmark = pytest.mark.once

MUTATIONS = int(os.environ.get("ZOO_FUZZ", "400"))  # of each format
ARRAYS = {"a/kernel": np.arange(12, dtype=np.float32).reshape(3, 4), "a/bias": np.zeros(4, np.float16)}
WAVE = np.sin(np.arange(800) / 5, dtype=np.float32) / 2


# --- files that ask for too much ---


def wav(path: Path, rate: int, data: bytes) -> None:
    """16 bits, one channel: the RIFF header as Microsoft describes it."""
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", 36 + len(data), b"WAVE", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16
    )
    path.write_bytes(head + struct.pack("<4sI", b"data", len(data)) + data)


def slow_wav(folder: Path) -> Path:
    """1 MB at 1 Hz, which is 30 GiB at 16 kHz."""
    wav(folder / "slow_wav.wav", 1, bytes(2**20))
    return folder / "slow_wav.wav"


def fast_wav(folder: Path) -> Path:
    """A rate without a common divisor with 16 kHz, whose filter would have 40 billion coefficients."""
    wav(folder / "fast_wav.wav", 2**31 - 1, bytes(2000))
    return folder / "fast_wav.wav"


def silent_flac(folder: Path) -> Path:
    """Zeros of two minutes at 655 kHz: 400 MB of float32."""
    soundfile = pytest.importorskip("soundfile")
    with soundfile.SoundFile(folder / "silent_flac.flac", "w", 655_350, 1, "PCM_16") as file:
        for _ in range(12):
            file.write(np.zeros(2**23, np.int16))
    return folder / "silent_flac.flac"


def endless_flac(folder: Path) -> Path:
    """A header of 2^36 - 1 samples before a tenth of a second."""
    soundfile = pytest.importorskip("soundfile")
    path = folder / "endless_flac.flac"
    soundfile.write(path, WAVE, 8000)
    data = bytearray(path.read_bytes())
    data[21:26] = bytes([data[21] | 0x0F]) + b"\xff" * 4  # the last 36 bits of STREAMINFO before its MD5 sum
    path.write_bytes(data)
    return path


def npy(shape: tuple[int, ...], zeros: int) -> Iterator[bytes]:
    head = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
    head += b" " * (-(len(head) + 11) % 64) + b"\n"
    yield b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head
    for _ in range(zeros // 2**20):
        yield bytes(2**20)


def npz(folder: Path) -> Path:
    """2 MB of deflated zeros, 400 MiB."""
    path = folder / "npz.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("a/kernel.npy", "w") as part,
    ):
        for data in npy((100 * 2**20,), 400 * 2**20):
            part.write(data)
    return path


def long_header(folder: Path) -> Path:
    """An array whose header, in format 2 of .npy, has 400 MiB of spaces."""
    path = folder / "long_header.npz"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("a/kernel.npy", "w") as part,
    ):
        part.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 400 * 2**20))
        for _ in range(400):
            part.write(b" " * 2**20)
    return path


def chunk(folder: Path) -> Path:
    """256 bytes in a gzip chunk that decompresses to 400 MiB."""
    path = folder / "chunk.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset("layers/a", (64,), "f4", chunks=(64,), compression="gzip")
        made.id.write_direct_chunk((0,), zlib.compress(bytes(400 * 2**20)))
    return path


def wide_chunk(folder: Path) -> Path:
    """64 numbers in a chunk of 400 MiB."""
    path = folder / "wide_chunk.h5"
    with h5py.File(path, "w") as file:
        made = file.create_dataset(
            "layers/a", (64,), "f4", maxshape=(None,), chunks=(100 * 2**20,), compression="gzip"
        )
        made.id.write_direct_chunk((0,), zlib.compress(bytes(400 * 2**20)))
    return path


def packed_torch(folder: Path) -> Path:
    """A file of torch.save whose storage is deflated, 400 MiB."""
    torch = pytest.importorskip("torch")
    path, plain = folder / "packed_torch.pt", folder / "plain.pt"
    torch.save({"a": torch.zeros(4)}, plain)
    content = zipfile.ZipFile(plain)
    size = 400 * 2**20
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        for name in content.namelist():
            data = content.read(name)
            if name.endswith("data.pkl"):  # the storage's and the tensor's 4 elements
                data = data.replace(b"K\x04", b"J" + struct.pack("<i", size // 4))
            if not name.endswith("data/0"):
                file.writestr(name, data)
                continue
            with file.open(name, "w") as part:
                for _ in range(size // 2**20):
                    part.write(bytes(2**20))
    return path


def png(path: Path, width: int, height: int) -> Path:
    """RGB zeros, as the PNG specification describes the chunks."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + 3 * width)) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b""))
    return path


def large_png(folder: Path) -> Path:
    """270 kB for 90 million pixels, of which Pillow only warns."""
    return png(folder / "large_png.png", 9_500, 9_500)


def thin_png(folder: Path) -> Path:
    """One pixel wide: its shorter side scaled to 256 makes 20 billion pixels, 60 GB."""
    return png(folder / "thin_png.png", 1, 312_500)


# As a model does that has one weight, of 64 numbers.
ARRAYS_OF = """with files.reading(path) as arrays:
        [files.read(name, x, "") for name, x in arrays.items() if x.shape == (64,)]"""
# A file -> what reads it in a process of its own; torch is imported last.
BOMBS: dict[Callable[[Path], Path], str] = {
    slow_wav: "speech.load(path)",
    fast_wav: "speech.load(path)",
    silent_flac: "speech.load(path)",
    endless_flac: "speech.load(path)",
    npz: ARRAYS_OF,
    long_header: ARRAYS_OF,
    chunk: ARRAYS_OF,
    wide_chunk: ARRAYS_OF,
    large_png: "preprocessing.Preprocessing()(path)",
    thin_png: "preprocessing.Preprocessing()(path)",
    packed_torch: ARRAYS_OF,
}
MEASURED = """
import json, resource, sys, warnings
from pathlib import Path
import zoo, zoo.backends
from zoo import preprocessing
from zoo.tasks import speech
from zoo.weights import files
import h5py, scipy.signal, soundfile

def peak():
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used // (2**20 if sys.platform == "darwin" else 2**10)

warnings.simplefilter("ignore")
for path, read in json.loads(sys.argv[1]):
    path, error = Path(path), ""
    if path.suffix == ".pt":
        import torch
    before = peak()
    try:
        exec(read)
    except zoo.ZooError as caught:
        error = str(caught)
    except BaseException as caught:
        error = f"uncaught: {caught!r}"
    print(path.stem, peak() - before, error, sep="\\t")
"""
MOST = 256  # MiB


def test_small_files_do_not_take_much_memory(tmp_path: Path) -> None:
    """They are refused, or read in what their few bytes need."""
    made = [(make(tmp_path), read) for make, read in BOMBS.items()]
    assert max(path.stat().st_size for path, _ in made) < 3 * 2**20
    jobs = json.dumps([(str(path), read) for path, read in made])
    done = subprocess.run([sys.executable, "-c", MEASURED, jobs], capture_output=True, text=True, check=False)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [name for name, _, _ in lines] == [path.stem for path, _ in made], done.stderr[-2000:]
    assert [line for line in lines if int(line[1]) > MOST] == []
    assert [line for line in lines if line[2].startswith("uncaught")] == []
    assert [name for name, _, error in lines if not error] == ["npz"]  # names and shapes


# --- other files and folders than the one that is given ---


def refused(read: Callable[[], Any], *said: str) -> None:
    with pytest.raises(zoo.ZooError) as caught:
        read()
    assert [text for text in said if text not in str(caught.value)] == [], caught.value


def everything(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file, but those that no model of the tests would have room for."""
    with files.reading(path) as arrays:
        small = {name: x for name, x in arrays.items() if np.prod(x.shape, dtype=float) <= 1000}
        return {name: files.read(name, x, "") for name, x in small.items()}


@pytest.mark.parametrize("how", ["external", "virtual", "linked", "linked group"])
def test_a_file_of_weights_reads_no_other_file(how: str, tmp_path: Path) -> None:
    secret, path = tmp_path / "secret", tmp_path / "x.weights.h5"
    with h5py.File(secret, "w") as file:
        file["layers/a"] = np.arange(4.0)
    with h5py.File(path, "w") as file:
        layers = file.create_group("layers") if how != "linked group" else file
        if how == "external":
            layers.create_dataset("a", (8,), "f4", external=[(str(secret), 0, 32)])
        elif how == "virtual":
            layout = h5py.VirtualLayout((4,), "f8")
            layout[:] = h5py.VirtualSource(str(secret), "layers/a", (4,))
            layers.create_virtual_dataset("a", layout)
        else:
            layers["layers" if how == "linked group" else "a"] = h5py.ExternalLink(
                str(secret), "layers" if how == "linked group" else "layers/a"
            )
    if how == "linked":
        assert everything(path) == {}  # not visited: a weight that the model then lacks
    else:
        refused(lambda: everything(path), str(path), "of its own" if how == "linked group" else "other files")


def test_linked_groups_of_the_same_file_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "x.weights.h5"
    with h5py.File(path, "w") as file:
        file["optimizer/a"] = np.arange(4.0)
        file["layers"] = h5py.SoftLink("/optimizer")
    refused(lambda: everything(path), "of its own")


@pytest.mark.parametrize(
    "part",
    ["../x.safetensors", "/x.safetensors", "sub/x.safetensors", "..\\x.safetensors", "..", "x.json", 3, [1]],
)
def test_the_parts_of_an_index_stay_in_its_folder(part: Any, tmp_path: Path) -> None:
    (tmp_path / "inner" / "sub").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "inner", tmp_path / "inner" / "sub"):
        safetensors.numpy.save_file({"a": np.zeros(3, np.float32)}, folder / "x.safetensors")
    path = tmp_path / "inner" / "model.safetensors.index.json"
    name = str(tmp_path / part[1:]) if part == "/x.safetensors" else part
    path.write_text(json.dumps({"weight_map": {"a": name}}))
    refused(lambda: everything(path), str(path))
    path.write_text(json.dumps({"weight_map": {"a": "x.safetensors"}}))
    assert everything(path).keys() == {"a"}


@pytest.mark.parametrize(
    "content",
    ["[]", "3", '{"weight_map": []}', '{"weight_map": [["a"]]}', '{"weight_map": null}', "[" * 10**5],
)
def test_an_index_of_another_form_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(content)
    refused(lambda: everything(path), str(path))


def test_no_text_is_looked_for_in_the_heap_of_an_h5(tmp_path: Path) -> None:
    """HDF5 does not come back from a heap whose objects have no size."""
    path = tmp_path / "x.weights.h5"
    of_keras(path)
    data = bytearray(path.read_bytes())
    heap = data.index(b"GCOL") + 16  # its first object: index, count of references, reserved, size
    data[heap : heap + 16] = struct.pack("<HHIQ", 7, 1, 0, 2**64 - 16)
    path.write_bytes(data)
    program = (
        "import sys, zoo.weights.files as f\nwith f.reading(f.Path(sys.argv[1])) as arrays: print(*arrays)"
    )
    command = [sys.executable, "-c", program, path]
    done = subprocess.run(command, timeout=60, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["dense/vars/0", "dense/vars/1"]


def test_an_image_in_postscript_starts_no_other_program(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    refused(lambda: preprocessing.load(path, 3), str(path), "not an image that Pillow can read")


class Waited(BaseException):
    """No reader catches it."""


@pytest.fixture
def impatient() -> Iterator[None]:
    """Interrupts the test after three seconds."""

    def stop(*_: Any) -> None:
        raise Waited

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(3)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


# A file's name -> what reads it.
BY_PATH: dict[str, Callable[[Path], Any]] = {
    "x.safetensors": everything,
    "x.npz": everything,
    "x.weights.h5": everything,
    "x.pt": everything,
    "model.safetensors.index.json": everything,
    "run.zoo": checkpoints.read,
    "tokenizer.json": tokenizers.load,
    "vocab.txt": tokenizers.load,
    "corpus.txt": lambda path: tokenizers.train("bpe", path),
    "x.csv": text.table,
    "x.jsonl": text.table,
    "images.csv": folders.find,
    "book.txt": text.read,
    "pairs.tsv": translation.pairs,
    "x.wav": speech.load,
    "x.png": lambda path: preprocessing.load(path, 3),
}


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("name", BY_PATH)
def test_fifos_and_devices_are_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    refused(lambda: BY_PATH[name](path), str(path))
    path.unlink()
    path.symlink_to("/dev/zero")
    refused(lambda: BY_PATH[name](path), str(path))


@pytest.mark.usefixtures("impatient")
def test_and_so_are_those_that_a_folder_or_a_table_lists(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        os.mkfifo(tmp_path / "images" / label / "x.png")
    refused(lambda: folders.find(tmp_path / "images").read((8, 8, 3)), "x.png", "FIFO")
    (tmp_path / "sounds").mkdir()
    os.mkfifo(tmp_path / "sounds" / "x.wav")
    (tmp_path / "sounds" / "transcripts.csv").write_text("path,text\nx.wav,one\n")
    refused(lambda: speech.recordings(tmp_path / "sounds"), "x.wav", "FIFO")
    shard = tmp_path / "model-1.safetensors"
    os.mkfifo(shard)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": shard.name}}))
    refused(lambda: everything(index), shard.name)


# --- what is legitimate, and unusual ---


def test_a_recording_read_in_blocks_is_the_whole_one(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    rng = np.random.Generator(np.random.Philox(3))
    soundfile.write(tmp_path / "x.wav", rng.uniform(-1, 1, (speech.BLOCK, 3)), 16_000)
    theirs = soundfile.read(tmp_path / "x.wav", dtype="float32")[0].mean(axis=1)
    np.testing.assert_array_equal(speech.load(tmp_path / "x.wav"), theirs)


@pytest.mark.parametrize(
    "options", [{"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True}]
)
def test_compressed_datasets_of_h5_are_read(options: dict[str, bool], tmp_path: Path) -> None:
    noise = np.random.Generator(np.random.Philox(3)).random((300, 70), np.float32)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("layers/a", data=noise, compression="gzip", chunks=(64, 64), **options)
    with files.reading(tmp_path / "x.h5") as arrays:
        np.testing.assert_array_equal(files.read("a", arrays["a"], ""), noise)


def test_an_image_up_to_pillows_limit_is_read_and_the_limit_is_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = png(tmp_path / "x.png", 40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30)
    assert preprocessing.load(path, 3).size == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 - 1)
    with warnings.catch_warnings(action="ignore"):
        refused(lambda: preprocessing.load(path, 3), str(path), "40 x 30", "MAX_IMAGE_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert preprocessing.load(path, 3).size == (40, 30)


def test_a_field_longer_than_pythons_csv_reads_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "transcripts.csv"
    path.write_text("path,text\na.wav," + "a" * 200_000 + "\n")
    refused(lambda: speech.texts(tmp_path), str(path), "field")


def test_labels_of_more_digits_than_python_converts_are_names(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f"text,label\na,{'1' * 5000}\nb,2\n")
    assert text.table(path).classes == ("1" * 5000, "2")


def test_embeddings_of_any_number_of_positions_are_not_interpolated() -> None:
    """A small file can claim 2^24 of them: 2 GiB at a width of 32."""
    model = zoo.build("vit-b16", **zoo.card("vit-b16").small)
    variable = next(v for v in model.variables if "position_embedding" in v.path)
    state = {v.path: files.stored(np.zeros(tuple(v.shape), np.float32)) for v in model.variables}
    width = variable.shape[-1]

    def read() -> np.ndarray:
        raise AssertionError("read")

    shape = (1, 4096**2 + 1, width)
    state[variable.path] = files.Stored(shape, "float32", read)
    refused(lambda: zoo.weights._fill(model, files.Arrays(state), "zoo", "auto"), variable.path, "needs")


# --- damaged bytes ---


def altered(data: bytes, rng: np.random.Generator) -> bytes:
    """One to three changes: bits, huge lengths, pages of zeros, insertions, missing ends."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 4)):
        at = (
            int(rng.integers(len(changed) + 1))
            if rng.random() < 0.5
            else int(rng.integers(min(len(changed), 128) + 1))
        )
        size = int(2 ** rng.uniform(0, 9))
        match rng.integers(6):
            case 0:
                for i in rng.integers(len(changed) or 1, size=8)[: len(changed)]:
                    changed[i] ^= 1 << int(rng.integers(8))
            case 1:
                huge = [2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 2**30, 2**40][rng.integers(6)]
                width = 8 if huge >= 2**32 else 4
                changed[at : at + width] = huge.to_bytes(width, "little" if rng.random() < 0.5 else "big")
            case 2:
                changed[at : at + size] = bytes(len(changed[at : at + size]))
            case 3:
                changed[at:at] = rng.bytes(size)
            case 4:
                changed[at:at] = changed[at : at + size]
            case 5:
                del changed[at : None if rng.random() < 0.5 else at + size]
    return bytes(changed)


def of_arrays(path: Path) -> None:
    save = np.savez_compressed if "packed" in path.name else np.savez
    save(path, **ARRAYS) if path.suffix == ".npz" else safetensors.numpy.save_file(ARRAYS, path)


def of_keras(path: Path) -> None:
    """As Keras writes it, with one array compressed."""
    with h5py.File(path, "w") as file:
        file.create_dataset("layers/dense/vars/0", data=ARRAYS["a/kernel"], compression="gzip", shuffle=True)
        file.create_dataset("layers/dense/vars/1", data=np.zeros(4, "u2")).attrs["dtype"] = "bfloat16"


def of_torch(path: Path) -> None:
    torch = pytest.importorskip("torch")
    state = {"model": {name: torch.from_numpy(x) for name, x in ARRAYS.items()}, "epoch": 3}
    torch.save(state, path, _use_new_zipfile_serialization=path.suffix == ".pt")


def of_parts(path: Path) -> None:
    safetensors.numpy.save_file(ARRAYS, path.parent / "model-1.safetensors")
    path.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(ARRAYS, "model-1.safetensors")}))


def of_a_run(path: Path) -> None:
    facts = {"version": "2", "seed": 0, "batch_size": 4, "history": [], "augment": "", "optimizer": {}}
    arrays = {"losses": np.zeros(3), "model/a": np.zeros(4, np.float32)}
    safetensors.numpy.save_file(arrays, path, {"zoo": json.dumps(facts)})


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", "##a", "##b", "cab", "\u00e9"]


def of_words(path: Path) -> None:
    if path.name == "vocab.txt":
        path.write_text("\n".join(WORDS), encoding="utf-8")
    elif path.name == "vocab.json":
        path.write_text(json.dumps({word: i for i, word in enumerate([*WORDS, "ab", "<|endoftext|>"])}))
        (path.parent / "merges.txt").write_text("#version: 0.2\na b\n")
    else:
        of_words(path.parent / "vocab.txt")
        tokenizers.load(path.parent / "vocab.txt").save(path)


def of_text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8")


def of_sound(path: Path) -> None:
    pytest.importorskip("soundfile").write(path, WAVE, 8000)


def of_pixels(path: Path) -> None:
    pixels = (np.arange(12 * 10 * 3) * 7 % 256).astype(np.uint8).reshape(12, 10, 3)
    Image.fromarray(pixels).save(path, **({"exif": Image.Exif()} if path.suffix == ".jpg" else {}))


def of_transcripts(path: Path) -> None:
    wav(path.parent / "a.wav", 16_000, bytes(200))
    path.write_text('path,text\na.wav,one\n"a.wav","two, ""three"""\n')


def listed(path: Path) -> Any:
    """The images of a table, of which those that exist are read."""
    return folders.find(path).read((8, 8, 3), workers=1, errors="skip")["train"][0][:]


def of_images(path: Path) -> None:
    of_pixels(path.parent / "a.png")
    path.write_text("path,label\n" + "a.png,cat\na.png,dog\n" * 3)


def seen(path: Path) -> Any:
    return preprocessing.plain(8, 3)(path)


REVIEWS = "".join(f'"a, {i}",{"good" if i % 2 else "bad"}\n' for i in range(12))
LINES = "".join(json.dumps({"text": f"a {i}", "label": i % 2}) + "\n" for i in range(12))
# A file's name -> what writes one, and what reads it.
FORMATS: dict[str, tuple[Callable[[Path], Any], Callable[[Path], Any]]] = {
    "x.safetensors": (of_arrays, everything),
    "x.npz": (of_arrays, everything),
    "packed.npz": (of_arrays, everything),
    "x.weights.h5": (of_keras, everything),
    "x.pt": (of_torch, everything),
    "legacy.pth": (of_torch, everything),
    "model.safetensors.index.json": (of_parts, everything),
    "run.zoo": (of_a_run, checkpoints.read),
    "tokenizer.json": (of_words, tokenizers.load),
    "vocab.txt": (of_words, tokenizers.load),
    "vocab.json": (of_words, tokenizers.load),
    "x.csv": (of_text(f"text,label\n{REVIEWS}"), text.table),
    "sep.tsv": (of_text("sep=;\ntext;label\na;1\nb;2\n"), text.table),
    "x.jsonl": (of_text(LINES), text.table),
    "pairs.txt": (of_text("a\tb\nc\td\ne\tf\n"), translation.pairs),
    "book.txt": (of_text("\ufeffa \u00e9\n" * 20), text.read),
    "transcripts.csv": (of_transcripts, lambda path: speech.recordings(path.parent)),
    "images.csv": (of_images, listed),
    "x.wav": (of_sound, speech.load),
    "x.flac": (of_sound, speech.load),
    "x.ogg": (of_sound, speech.load),
    "x.png": (of_pixels, seen),
    "x.jpg": (of_pixels, seen),
    "x.gif": (of_pixels, seen),
    "x.webp": (of_pixels, seen),
    "x.bmp": (of_pixels, seen),
    "x.ppm": (of_pixels, seen),
    "x.tif": (of_pixels, seen),
}


def fuzz(name: str, folder: Path, count: int) -> tuple[dict[int, str], int]:
    """Read so many mutations of a format, in a folder where the last stays.

    The errors that are not the zoo's, by the number of the mutation, and how many mutations were refused.
    """
    write, read = FORMATS[name]
    path = folder / name
    write(path)
    data, others, uncaught, refusals = path.read_bytes(), sorted(folder.iterdir()), {}, 0
    with warnings.catch_warnings(action="ignore"):
        read(path)
        for i in range(count):
            key = [zlib.crc32(name.encode()), i]
            path.unlink()  # writing over a file takes fifty times as long
            path.write_bytes(altered(data, np.random.Generator(np.random.Philox(key=key))))
            try:
                read(path)
            except zoo.ZooError:
                refusals += 1
            except BaseException as error:
                uncaught[i] = repr(error)
                if isinstance(error, KeyboardInterrupt):
                    raise
    assert sorted(folder.iterdir()) == others
    return uncaught, refusals


@pytest.mark.parametrize("name", FORMATS)
def test_mutations_are_read_or_refused(name: str, tmp_path: Path) -> None:
    uncaught, refusals = fuzz(name, tmp_path, MUTATIONS)
    assert uncaught == {}
    assert refusals > 0
