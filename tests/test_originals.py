"""Ours against the originals: torchvision's, timm's and transformers' own models, their weights random.

Each is built by its library, filled, and loaded into ours; then ours is exported and loaded by its library,
strictly: in float32, on the framework of KERAS_BACKEND. Both also train for a step in float64, for which JAX
needs JAX_ENABLE_X64=1.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import backends, random
from zoo._lazy import keras
from zoo.models.efficientnet import STAGES
from zoo.weights.layouts import resample

pytestmark = pytest.mark.peers

HERE = backends.current()
MODE = backends.MODES[HERE.NAME][0]
BOUNDS = {"float32": 1e-5, "float64": 1e-12}  # of the largest value
COMMON = {"classes": 5, "image_size": 36}
RESNET = {**COMMON, "width": 16}
VGG = {**COMMON, "depths": (1, 2, 1), "width": 8, "units": 24, "dropout_rate": 0.0, "image_size": 32}
EFFICIENTNET = {**COMMON, "dropout_rate": 0.0, "drop_path_rate": 0.0}
HALVED = {**EFFICIENTNET, "width": 0.5, "depth": 0.5}
VIT = {"classes": 5, "image_size": 32, "patch_size": 8, "width": 64, "depth": 2, "heads": 4}

# the original -> ours: a model and its arguments
OURS: dict[str, tuple[str, dict[str, Any]]] = {
    "torchvision alexnet": ("alexnet", {**COMMON, "units": 24, "dropout_rate": 0.0, "image_size": 67}),
    "torchvision vgg": ("vgg16", VGG),
    "torchvision vgg_bn": ("vgg16-bn", VGG),
    "torchvision resnet": ("resnet18", RESNET),
    "torchvision resnet, bottlenecks": ("resnet50", {**RESNET, "depths": (1, 2, 1, 1)}),
    "torchvision efficientnet": ("efficientnet-b0", {**EFFICIENTNET, "stages": STAGES[:4]}),
    "torchvision efficientnet, b5's norm": (
        "efficientnet-b5", {**EFFICIENTNET, "width": 1.0, "depth": 1.0, "stages": STAGES[:3]},
    ),
    "torchvision vit": ("vit-b16", VIT),
    "timm resnet": ("resnet50", {**RESNET, "depths": (2, 1, 1, 1)}),
    "timm efficientnet": ("efficientnet-b0", HALVED),
    "timm tf_efficientnet": (  # feature maps of odd and even sizes: TensorFlow pads even ones asymmetrically
        "efficientnet-b0", {**HALVED, "padding": "same", "norm_epsilon": 1e-3, "image_size": 37},
    ),
    "timm vit": ("vit-s16", VIT),
    "timm vit, averaged": ("vit-s16", {**VIT, "pooling": "average"}),
    "transformers vit": ("vit-l16", VIT),
}  # fmt: skip

# ours in full size -> the originals, one of each library that has it
VARIANTS = {
    "alexnet": ["torchvision alexnet"],
    **{f"vgg{n}": [f"torchvision vgg{n}"] for n in (11, 13, 16, 19)},
    **{f"vgg{n}-bn": [f"torchvision vgg{n}_bn"] for n in (11, 13, 16, 19)},
    **{f"resnet{n}": [f"torchvision resnet{n}", f"timm resnet{n}"] for n in (18, 34, 50, 101, 152)},
    **{
        f"efficientnet-b{n}": [
            f"{library}efficientnet_b{n}" for library in ("torchvision ", "timm ", "timm tf_")
        ]
        for n in range(8)
    },
    "vit-ti16": ["timm vit_tiny_patch16_224"],
    "vit-s16": ["timm vit_small_patch16_224"],
    "vit-b16": ["torchvision vit_b_16", "timm vit_base_patch16_224"],
    "vit-b32": ["torchvision vit_b_32", "timm vit_base_patch32_224"],
    "vit-l16": ["torchvision vit_l_16", "timm vit_large_patch16_224"],
    "vit-l32": ["torchvision vit_l_32", "timm vit_large_patch32_224"],
}


@pytest.fixture(scope="session")
def originals() -> Any:
    return import_module("zoo.benchmarks.references.originals")


def build(name: str, seed: int = 0) -> keras.Model:
    model, arguments = OURS[name]
    return zoo.build(model, seed=seed, **arguments)


def library(name: str) -> str:
    return name.partition(" ")[0]


def distance(ours: Any, theirs: np.ndarray, largest: float | None = None) -> float:
    ours = numpy(ours)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / (largest or np.abs(theirs).max())


def logits(model: keras.Model, x: np.ndarray) -> np.ndarray:
    return numpy(HERE.predictor(model, MODE)(HERE.tensor(x)))


def images(model: keras.Model, dtype: str) -> np.ndarray:
    x = zoo.example(model, batch=4)
    assert isinstance(x, np.ndarray)
    return x.astype(dtype)


@pytest.mark.parametrize("name", OURS)
def test_weights_convert_both_ways_with_the_same_logits(name: str, originals: Any) -> None:
    theirs, ours = originals.fill(originals.MODELS[name](), "float32"), build(name)
    done = zoo.weights.from_torch(ours, theirs.state_dict())
    assert done.tensors == sum(x.is_floating_point() for x in theirs.state_dict().values())
    assert done.notes == ()
    x, predict = images(ours, "float32"), HERE.predictor(ours, MODE)
    for back in (False, True):
        if back:
            reset(ours)
            theirs.load_state_dict(zoo.weights.to_torch(ours, library(name)), strict=True)
        assert distance(predict(HERE.tensor(x)), originals.logits(theirs, x)) <= BOUNDS["float32"]


def reset(model: keras.Model) -> None:
    """Set other weights and running statistics."""
    for v in model.variables:
        mean = 1 if v.path.endswith(("variance", "gamma")) else 0
        v.assign(random.generator(v.path).normal(mean, 0.1, v.shape))


@pytest.mark.once  # the ladder compares the gradients of the same models
@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", OURS)
def test_ours_with_their_weights_trains_like_theirs(name: str, originals: Any) -> None:
    """One step of gradient descent: every update, which is its gradient, and all running statistics.

    In float64: in float32, a ReLU at its kink before a batch norm over the 16 numbers of the last maps
    amplifies rounding to 1e-3, and theirs differ by as much from themselves.
    """
    theirs, model = originals.fill(originals.MODELS[name](), "float64"), build(name)
    x, y = images(model, "float64"), np.arange(4, dtype=np.int32)

    def weights() -> list[np.ndarray]:
        return [numpy(v).copy() for v in model.variables]

    zoo.weights.from_torch(model, theirs.state_dict())
    before = weights()
    step = HERE.step(model, HERE.cross_entropy, zoo.optimizers.SGD(1.0), MODE)
    step(HERE.tensor(x), HERE.tensor(y))
    step.sync()
    ours = weights()
    originals.learn(theirs, x, y)
    zoo.weights.from_torch(model, theirs.state_dict())

    moved = [v - w for v, w in zip(weights(), before, strict=True)]
    largest = max(np.abs(update).max() for update in moved)
    for v, w, update, variable in zip(ours, before, moved, model.variables, strict=True):
        assert distance(v - w, update, largest) <= BOUNDS["float64"], variable.path


# --- every variant in full size ---


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_originals_parameters_and_multiply_adds(name: str, originals: Any) -> None:
    card, original = zoo.card(name), originals.full(VARIANTS[name][0])
    assert originals.count(original, card.input[0]) == (card.parameters, card.multiply_adds)


@pytest.mark.long
@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_exports_the_originals_names_and_shapes(
    name: str, originals: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them, in full size, with weights of zero, which are fast to create."""
    monkeypatch.setattr(random.Initializer, "draw", lambda self, key, shape, out: np.zeros(shape, np.float32))
    ours = zoo.build(name)
    for original in VARIANTS[name]:
        scheme = next(s for s in zoo.weights.SCHEMES if s.name == library(original) and s.suits(ours))
        plan, counters = scheme.plan(ours)
        shapes = {n: tensor.shape for n, tensor in plan.items()} | dict.fromkeys(counters, ())
        assert shapes == {n: tuple(x.shape) for n, x in originals.full(original).state_dict().items()}


# --- their files, and interpolation ---


def test_a_folder_that_transformers_saved_is_loaded(tmp_path: Path, originals: Any) -> None:
    """Its files have the names of the hub's files, which are not those of its modules."""
    name = "transformers vit"
    theirs, ours = originals.fill(originals.MODELS[name](), "float32"), build(name)
    theirs.save_pretrained(tmp_path)
    zoo.weights.load(ours, tmp_path)
    x = images(ours, "float32")
    assert distance(logits(ours, x), originals.logits(theirs, x)) <= BOUNDS["float32"]


def test_transformers_loads_a_file_that_we_saved(tmp_path: Path, originals: Any) -> None:
    name = "transformers vit"
    ours, theirs = build(name, seed=3), originals.MODELS[name]()
    theirs.config.save_pretrained(tmp_path)
    zoo.weights.save(ours, tmp_path / "model.safetensors", layout="transformers")
    x = images(ours, "float32")
    read = originals.transformers.ViTForImageClassification.from_pretrained(tmp_path)
    assert distance(logits(ours, x), originals.logits(read, x)) <= BOUNDS["float32"]


@pytest.mark.parametrize("size", [3, 7, 14])
def test_position_embeddings_are_interpolated_as_timm_and_jax_do(size: int, originals: Any) -> None:
    x = np.random.default_rng(0).normal(size=(1, 26, 8)).astype(np.float32)
    ours = resample(x, 1 + size**2)
    tensor = originals.torch.from_numpy(x)
    timms = originals.timm.layers.resample_abs_pos_embed(tensor, (size, size)).numpy()
    image = import_module("jax.image")
    jaxs = image.resize(x[0, 1:].reshape(5, 5, 8), (size, size, 8), "cubic", antialias=True)
    assert distance(ours, timms) <= 1e-6
    assert distance(ours[:, 1:], np.asarray(jaxs).reshape(1, -1, 8)) <= 1e-6


@pytest.mark.parametrize("size", [16, 24, 56, 64])
@pytest.mark.parametrize("name", ["torchvision vit", "timm vit", "transformers vit"])
def test_a_vit_at_another_image_size_gives_the_logits_of_its_own_library(
    name: str, size: int, originals: Any
) -> None:
    """Their models of 32 pixels at another size, by the function of each library."""
    theirs, model = originals.fill(originals.MODELS[name](), "float32"), OURS[name][0]
    ours = zoo.build(model, **{**VIT, "image_size": size})
    (note,) = zoo.weights.from_torch(ours, theirs.state_dict()).notes
    assert f"as {library(name)} does" in note
    x = images(ours, "float32")
    assert distance(logits(ours, x), originals.logits_at(theirs, library(name), x)) <= BOUNDS["float32"]
