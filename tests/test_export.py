"""Keras's own `model.export`: ONNX, torch.export and SavedModel give the model's numbers, at any length."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import NAME, numpy

import zoo
from zoo import WrongConfiguration
from zoo.layers import signature

MODELS = (
    "mlp", "lenet5", "alexnet", "vgg11-bn", "resnet18", "efficientnet-b0", "lstm", "gru", "birnn", "speech",
    "bert-tiny", "gpt-nano", "t5-tiny", "vit-ti16",
)  # fmt: skip
SMALLER: dict[str, dict[str, Any]] = {
    "efficientnet-b0": {"stages": ((6, 3, 1, 16, 1),), "image_size": 16},
    "bert-tiny": {"depth": 1},
    "gpt-nano": {"depth": 1},
    "t5-tiny": {"depth": 1},
    "vit-ti16": {"depth": 1},
}

pytestmark = pytest.mark.filterwarnings("ignore")  # the exporters' own, by the dozen


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def small(name: str) -> keras.Model:
    model = zoo.build(name, **{**zoo.card(name).small, **SMALLER.get(name, {})})
    model(signature.example(model))  # Keras exports to ONNX what has been called
    return model


def examples(model: keras.Model) -> Iterator[Any]:
    """Batches of other sizes than an exporter's example; where lengths are free, of other lengths too."""
    for batch, length in ((3, 12), (5, 7)):
        x = signature.example(model, batch, seed=length)
        until = length if None in model.inputs[0].shape[1:] else None
        yield {name: part[:, :until] for name, part in x.items()} if isinstance(x, dict) else x[:, :until]


def differences(model: keras.Model, exported: Any) -> list[float]:
    """The largest of each batch, of its largest logit."""
    found = []
    for x in examples(model):
        expected = numpy(model(x))
        found.append(np.abs(exported(x) - expected).max() / np.abs(expected).max())
    return found


@pytest.mark.skipif(NAME != "torch", reason="TensorFlow and JAX need converters of their own")
@pytest.mark.parametrize("name", MODELS)
def test_onnx_gives_the_models_logits(name: str, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model, file = small(name), tmp_path / "model.onnx"
    model.export(file, format="onnx", verbose=False)
    session = runtime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(x: Any) -> np.ndarray:
        return session.run(None, x if isinstance(x, dict) else {names[0]: x})[0]

    assert max(differences(model, run)) < 1e-5


@pytest.mark.skipif(NAME != "torch", reason="of torch")
def test_a_loop_that_onnx_would_cut_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WrongConfiguration, match="keeps as many steps as its example"):
        small("seq2seq").export(tmp_path / "model.onnx", format="onnx", verbose=False)


# Of free lengths torch.export takes no recurrence; of any batch it takes those of one length alone.
@pytest.mark.skipif(NAME != "torch", reason="of torch")
@pytest.mark.parametrize("name", ["mlp", "resnet18", "bert-tiny", "gpt-nano", "t5-tiny"])
def test_torch_export_gives_the_models_logits_at_every_batch_and_length(name: str, tmp_path: Path) -> None:
    import torch

    def free(tensor: Any) -> dict[int, Any]:
        return {axis: torch.export.Dim.AUTO for axis, n in enumerate(tensor.shape) if n is None}

    model, file = small(name), tmp_path / "model.pt2"
    named = {tensor.name: free(tensor) for tensor in model.inputs}
    dynamic = named if len(named) > 1 else free(model.inputs[0])
    model.export(file, format="torch", verbose=False, dynamic_shapes=[(dynamic,)])
    program = torch.export.load(file)
    assert not [node for node in program.graph.nodes if str(node.target).startswith("zoo")]  # of torch alone

    def run(x: Any) -> np.ndarray:
        tensors = {n: torch.tensor(p) for n, p in x.items()} if isinstance(x, dict) else torch.tensor(x)
        return program.module()(tensors).detach().numpy()

    assert max(differences(model, run)) < 1e-5


@pytest.mark.skipif(NAME == "torch", reason="of TensorFlow and JAX")
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow writes and reads it")
@pytest.mark.parametrize("name", [*(name for name in MODELS if name not in ("gru", "birnn")), "seq2seq"])
def test_a_saved_model_gives_the_models_logits(name: str, tmp_path: Path) -> None:
    import tensorflow as tf

    model = small(name)
    # JAX's gradient of a strided convolution takes no symbolic length; a program that predicts needs none.
    options = {"jax2tf_kwargs": {"with_gradient": False}} if (NAME, name) == ("jax", "speech") else {}
    model.export(tmp_path / "saved", format="tf_saved_model", verbose=False, **options)
    program = tf.saved_model.load(tmp_path / "saved")

    def run(x: Any) -> np.ndarray:
        named = isinstance(model.input, dict) and not isinstance(x, dict)
        return program.serve({model.inputs[0].name: x} if named else x).numpy()

    assert max(differences(model, run)) < 1e-5
