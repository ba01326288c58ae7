"""A model in the formats of others: what was written is run and compared before it is kept.

    zoo.export(model, "resnet18.onnx")           on PyTorch; onnxruntime runs it
    zoo.export(model, "resnet18.pt2")            on PyTorch; torch alone runs it (torch.export)
    zoo.export(model, "resnet18-saved")          on TensorFlow and JAX: a SavedModel, a folder
    zoo.export(model, "resnet18.keras")          on all three; the zoo and Keras run it
    zoo.export(model, "resnet18.safetensors")    weights alone, also .npz and .weights.h5: `zoo.weights.save`

Batch size and lengths are free. The class names, and how images are prepared, are in the file's metadata as
JSON: "zoo" of ONNX's metadata_props, `extra/zoo.json` in .pt2, `assets.extra/zoo.json` in a SavedModel,
`zoo.json` in .keras.
"""

from __future__ import annotations

import json
import re
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backends, registry, storage, weights
from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration, ZooError, nearest
from zoo.layers import signature
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import WorkerDied
from zoo.processes.workers import run as run_program
from zoo.training import runs

if TYPE_CHECKING:
    from zoo.training.run import Run
    from zoo.training.runs import SavedRun

BOUND = 1e-5  # of the largest output, in float32

# What each process runs: `run(inputs)` gives the outputs of inputs by name. Only Keras's imports the zoo.
RUNNERS = {
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession(artifact, providers=["CPUExecutionProvider"])
run = lambda inputs: session.run(None, inputs)
""",
    "pt2": """
import torch
program = torch.export.load(artifact).module()
def run(inputs):
    tensors = {name: torch.tensor(x) for name, x in inputs.items()}
    outputs = program(tensors if named else next(iter(tensors.values())))
    return [x.detach().numpy() for x in (outputs.values() if isinstance(outputs, dict) else [outputs])]
""",
    "saved_model": """
import tensorflow as tf
program = tf.saved_model.load(artifact)
def run(inputs):
    outputs = program.serve(inputs if named else next(iter(inputs.values())))
    return [x.numpy() for x in (outputs.values() if isinstance(outputs, dict) else [outputs])]
""",
    "keras": """
import zoo, keras
model = keras.models.load_model(artifact, compile=False)
def run(inputs):
    outputs = model.predict(inputs if named else next(iter(inputs.values())), verbose=0)
    return list(outputs.values()) if isinstance(outputs, dict) else [outputs]
""",
}
RUNNER = """
import sys
import numpy as np
artifact, given, found, named = sys.argv[1:4] + [sys.argv[4] == "named"]
{run}
arrays, outputs = dict(np.load(given)), {{}}
for i in sorted({{name.split("/", 1)[0] for name in arrays}}):
    inputs = {{name.split("/", 1)[1]: x for name, x in arrays.items() if name.split("/", 1)[0] == i}}
    outputs |= {{f"{{i}}/{{k}}": x for k, x in enumerate(run(inputs))}}
np.savez(found, **outputs)
"""


@dataclass(frozen=True)
class Format:
    """A format: its ending, the frameworks that write it, and the packages that it takes besides."""

    ending: str
    frameworks: tuple[str, ...]
    packages: tuple[str, ...] = ()
    install: str = ""


FORMATS = {
    "onnx": Format(".onnx", ("torch",), ("onnx", "onnxscript", "onnxruntime"), "keras-zoo-parity[export]"),
    "pt2": Format(".pt2", ("torch",)),
    "keras": Format(".keras", ("torch", "tensorflow", "jax")),
    "saved_model": Format("", ("tensorflow", "jax"), ("tensorflow",), "keras-zoo-parity[tensorflow]"),
}
# What is known of those that fail, and what to do.
INSTEAD = {
    "pt2": "torch.export fixes the length of a recurrence and the batch size of adaptive pooling; use ONNX",
}
WEIGHTS = (".safetensors", ".npz", ".h5")
# A program that predicts needs no gradient, which JAX does not have for a convolution at any length.
OPTIONS: Mapping[str, dict[str, Any]] = {"jax": {"jax2tf_kwargs": {"with_gradient": False}}}


@dataclass(frozen=True)
class Artifact:
    """What was written, and how far what it computes is from the model."""

    path: Path
    format: str  # a name of `FORMATS`, or "weights"
    difference: float | None = None  # see `relative`; None of weights

    def __str__(self) -> str:
        if self.difference is None:
            return f"{self.path}: weights"
        return (
            f"{self.path}: {self.format}, runs in a process of its own, outputs within {self.difference:.1e}"
        )


def export(
    model: keras.Model | Run | SavedRun | str | Path, path: str | Path, format: str | None = None
) -> Artifact:
    """Write a model, a run, or the run at a path, to `path`, in a format by its ending or of that name.

    `format` is "onnx", "pt2", "keras" or "saved_model"; see this module. What was written is run in another
    process on two batches, of different sizes and lengths, and compared with the model's outputs: within
    1e-5 of the largest, or nothing is written and ZooError says how far they are apart. Raises
    WrongConfiguration, before any work, for a format that the framework in use cannot write, a package that
    is missing, or a path that cannot be written.
    """
    path = Path(path)
    if isinstance(model, str) and not runs.is_run(model):
        raise WrongConfiguration(
            f"export: {model!r} is a name; give zoo.build({model!r}, weights=...) or a run"
        )
    name = format_of(path, format)
    if name is None:
        weights.save(runs.model_of(model), path)
        return Artifact(path, "weights")
    check(path, name)
    built = runs.model_of(model)
    inputs = _examples(built)
    expected = [[ops.convert_to_numpy(x) for x in keras.tree.flatten(built(each))] for each in inputs]
    with _writing(path, name) as part:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of tracing: what was written is compared
                WRITERS[name](built, part)
        except ZooError as error:  # of a layer's: Keras frames it with the layer's arguments
            framed = re.search(r"\x1b\[1m(.*?)\x1b\[0m", str(error), re.DOTALL)
            raise WrongConfiguration(f"export: {framed[1] if framed else error}") from None
        _annotate(part, name, facts(built))
        difference = _difference(part, name, built, inputs, expected)
    return Artifact(path, name, difference)


def check(path: Path, format: str) -> None:
    """Raise WrongConfiguration, before a model is built, unless the framework in use can write this there."""
    spec, here = FORMATS[format], backends.settle()
    if here not in spec.frameworks:
        raise WrongConfiguration(
            f"export: {here} writes no {format}; {' and '.join(spec.frameworks)} do: start a process with "
            f"KERAS_BACKEND={spec.frameworks[0]}, where the weights of a run or a file are the same"
        )
    if missing := [package for package in spec.packages if find_spec(package) is None]:
        raise WrongConfiguration(
            f'export: {format} takes {", ".join(missing)}. To install: pip install "{spec.install}"'
        )
    if format != "saved_model":
        storage.check_file("export", path)
        return
    storage.check_folder("export", path)
    if path.exists() and any(path.iterdir()):
        raise WrongConfiguration(f"export: {path} is not empty; give the name of a new folder")


def facts(model: keras.Model) -> dict[str, Any]:
    """What is said of a model in a file's metadata: its name, class names, and how images are prepared."""
    run, is_zoo = runs.run_of(model), model.name in registry.list_models()
    prepared = run.preprocessing if run else registry.card(model.name).preprocessing if is_zoo else None
    return {
        "model": model.name,
        "classes": list(run.classes) if run else [],
        "preprocessing": prepared and asdict(prepared),
    }


def format_of(path: Path, format: str | None = None) -> str | None:
    """The name of the format that is meant, by the path's ending unless one is given; None for weights alone.

    Raises WrongConfiguration for none of them.
    """
    if format is not None:
        name = format.lower().replace("-", "_")
        if name not in FORMATS:
            raise WrongConfiguration(f"export: no format {format!r}; {nearest(name, FORMATS)}")
        return name
    if path.suffix in WEIGHTS:
        return None
    matching = [name for name, each in FORMATS.items() if each.ending == path.suffix]
    if not matching:
        endings = ", ".join([*(each.ending for each in FORMATS.values() if each.ending), *WEIGHTS])
        raise WrongConfiguration(
            f"export: {path}: expected a name that ends in {endings}, or a folder's name for a SavedModel"
        )
    return matching[0]


def _examples(model: keras.Model) -> list[Any]:
    """Two batches, as `model` takes them: of other sizes and, where they are free, of other lengths."""
    found = []
    for batch, length in ((2, signature.LENGTH), (3, signature.LENGTH // 2)):
        x = signature.example(model, batch, seed=length)
        parts = x if isinstance(x, dict) else {model.inputs[0].name: x}
        for tensor in model.inputs:
            if None in tensor.shape[1:]:
                parts[tensor.name] = parts[tensor.name][:, :length]
        found.append(parts if isinstance(x, dict) else parts[model.inputs[0].name])
    return found


@contextmanager
def _writing(path: Path, format: str) -> Iterator[Path]:
    """A file, or of a SavedModel a folder, beside `path`, whose place it takes once the block ends."""
    if format != "saved_model":
        with storage.replacing(path) as part:
            yield part
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as scratch:
        yield (part := Path(scratch) / "model")
        if path.exists():
            path.rmdir()
        part.rename(path)


def _onnx(model: keras.Model, path: Path) -> None:
    model.export(path, format="onnx", verbose=False)


def _pt2(model: keras.Model, path: Path) -> None:
    shapes = import_module("zoo.backends.torch_tensors").free_shapes(model)
    model.export(path, format="torch", verbose=False, dynamic_shapes=shapes)


def _saved_model(model: keras.Model, path: Path) -> None:
    options = OPTIONS.get(backends.current().NAME, {})
    model.export(path, format="tf_saved_model", verbose=False, **options)


def _keras(model: keras.Model, path: Path) -> None:
    with backends.without_tensorflow():
        model.save(path)


WRITERS: dict[str, Callable[[keras.Model, Path], None]] = {
    "onnx": _onnx, "pt2": _pt2, "saved_model": _saved_model, "keras": _keras,
}  # fmt: skip


def _annotate(path: Path, format: str, facts: dict[str, Any]) -> None:
    """Add the facts to a file's metadata."""
    text = json.dumps(facts, ensure_ascii=False)
    if format == "onnx":
        onnx = import_module("onnx")
        onnx_model = onnx.load(path)
        onnx.helper.set_model_props(onnx_model, {"zoo": text})
        onnx.save(onnx_model, path)
    elif format == "saved_model":
        (folder := path / "assets.extra").mkdir(exist_ok=True)
        (folder / "zoo.json").write_text(text, encoding="utf-8")
    else:
        with zipfile.ZipFile(path, "a") as archive:
            top = f"{archive.namelist()[0].split('/')[0]}/extra/" if format == "pt2" else ""
            archive.writestr(f"{top}zoo.json", text)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference of two outputs (..., c), relative to the largest value of its vector of c.

    Of each vector, as the blank's score in the padding of speech is far larger than any other; values below
    0.01 count as 0.01.
    """
    scale = np.maximum(np.abs(theirs).max(-1, keepdims=True), 1e-2)
    return float((np.abs(ours - theirs) / scale).max())


def _difference(
    path: Path, format: str, model: keras.Model, inputs: list[Any], expected: list[list[np.ndarray]]
) -> float:
    """How far the outputs are from the model's, see `relative`.

    Raises ZooError for what does not run on every batch, or differs by more than `BOUND`.
    """
    single, here = model.inputs[0].name, backends.current().NAME
    with scratch_folder() as scratch:
        given, found = scratch / "given.npz", scratch / "found.npz"
        parts = [x if isinstance(x, dict) else {single: x} for x in inputs]
        np.savez(given, **{f"{i}/{name}": x for i, each in enumerate(parts) for name, x in each.items()})
        named = "named" if isinstance(model.input, dict) or len(model.inputs) > 1 else "single"
        script = RUNNER.format(run=RUNNERS[format])
        try:
            run_program(script, [str(path), str(given), str(found), named], scratch / "worker", here)
        except WorkerDied as error:
            raise ZooError(
                f"export: {format} of {model.name} does not run at every batch size and length, nothing was "
                f"written: {str(error)[:300]}. {INSTEAD.get(format, '')}"
            ) from None
        arrays = dict(np.load(found))
    differences = []
    for i, outputs in enumerate(expected):
        for k, theirs in enumerate(outputs):
            ours = arrays[f"{i}/{k}"].astype(np.float64)
            differences.append(relative(ours, theirs) if ours.shape == theirs.shape else np.inf)
    if not (worst := max(differences)) <= BOUND:
        raise ZooError(
            f"export: what {format} of {model.name} computes is {worst:.1e} off, relative to its largest "
            f"output, more than {BOUND:.0e}; nothing was written"
        )
    return worst
