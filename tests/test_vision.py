"""The vision models against their papers; theirs: equations in NumPy and the papers' tables.

tests/test_originals.py holds them against torchvision, timm and transformers.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from scipy import special

import zoo
from zoo import random
from zoo._lazy import keras
from zoo.layers import Input, Model
from zoo.models import alexnet, efficientnet

FAMILIES = (
    "alexnet",
    "alexnet-2012",
    "vgg11",
    "vgg11-bn",
    "resnet18",
    "resnet50",
    "efficientnet-b0",
    "vit-ti16",
)
BOUND = 1e-5


def small(name: str, **changes: Any) -> keras.Model:
    return zoo.build(name, **{**zoo.card(name).small, **changes})


@lru_cache(maxsize=2)
def full(name: str) -> keras.Model:
    return zoo.build(name)


def weights(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: numpy(v).astype(np.float64) for v in model.variables}


def off(ours: Any, theirs: ndarray) -> float:
    ours = numpy(ours)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def shapes(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Of what a model names, without the batch."""
    return {
        layer.name: layer.output.shape[1:] for layer in model.layers if type(layer).__name__ == "Identity"
    }


# --- stages, as the papers' tables have them ---


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Krizhevsky 2012, figure 2, after pooling
        ("alexnet-2012", {"stage1": (27, 27, 96), "stage2": (13, 13, 256), "stage3": (6, 6, 256)}),
        # Simonyan 2014, table 1
        ("vgg11", {f"stage{i}": (224 >> i, 224 >> i, c) for i, c in enumerate((64, 128, 256, 512, 512), 1)}),
        # He 2015, table 1
        ("resnet50", {f"stage{i + 1}": (56 >> i, 56 >> i, 256 << i) for i in range(4)}),
        ("resnet18", {f"stage{i + 1}": (56 >> i, 56 >> i, 64 << i) for i in range(4)}),
        # Tan 2019, table 1: the resolution there is a stage's input
        (
            "efficientnet-b0",
            {
                f"stage{i}": (size, size, c)
                for i, (size, c) in enumerate(
                    ((112, 16), (56, 24), (28, 40), (14, 80), (14, 112), (7, 192), (7, 320)), 1
                )
            },
        ),
        ("vit-ti16", {f"block{i}": (197, 192) for i in range(1, 13)}),
    ],
)
def test_maps_have_the_sizes_of_the_papers_table(name: str, expected: dict[str, tuple[int, ...]]) -> None:
    ours = shapes(full(name))
    features = ours.pop("features")
    assert ours == expected
    assert len(features) == 1


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "layers"),
    [("resnet18", 18), ("resnet34", 34), ("resnet50", 50), ("resnet101", 101), ("vgg16", 16), ("alexnet", 8)],
)
def test_a_name_counts_its_layers(name: str, layers: int) -> None:
    """Convolutions and dense layers with weights, projections of shortcuts apart."""
    owned = [x.name for x in full(name).layers if hasattr(x, "kernel") and "shortcut" not in x.name]
    assert len(owned) == layers


# --- alexnet ---


def test_local_response_norm_is_the_papers_formula() -> None:
    """Section 3.3, with the sum written out; k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    image = Input((3, 2, 7))
    x = 30 * random.generator("lrn").standard_normal((2, 3, 2, 7), dtype=np.float32)
    theirs = np.zeros(x.shape)
    for i in range(7):
        near = x[..., max(0, i - 2) : min(6, i + 2) + 1].astype(np.float64)
        theirs[..., i] = x[..., i] / (2 + 1e-4 * (near**2).sum(-1)) ** 0.75
    assert off(Model(image, alexnet.local_response_norm(image))(x), theirs) <= BOUND


def test_alexnets_biases_start_at_one_where_the_paper_says() -> None:
    """Section 5: in the second, fourth and fifth convolutions and the hidden dense layers."""
    w = weights(small("alexnet-2012"))
    ones = {path.split("/")[0] for path, value in w.items() if path.endswith("bias") and (value == 1).all()}
    zeros = {path.split("/")[0] for path, value in w.items() if path.endswith("bias") and not value.any()}
    assert ones == {"conv2", "conv4", "conv5", "dense1", "dense2"}
    assert zeros == {"conv1", "conv3", "head"}


# --- initial weights ---


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "path", "deviation"),
    [
        ("alexnet", "conv2/kernel", 0.01),
        ("alexnet", "dense2/kernel", 0.01),
        # Glorot and Bengio: uniform in +-sqrt(6 / (fan-in + fan-out)), a deviation of sqrt(2 / (...))
        ("vgg11", "stage4_conv1/kernel", (2 / (9 * 256 + 9 * 512)) ** 0.5),
        # He: sqrt(2 / fan-in)
        ("resnet50", "stage4_block2_conv2/kernel", (2 / (9 * 512)) ** 0.5),
        # The authors of EfficientNet: He's by the fan-out, which is k x k where each channel is by itself
        ("efficientnet-b0", "stage6_block2_depthwise/kernel", (2 / 25) ** 0.5),
        ("efficientnet-b0", "stage6_block2_project/kernel", (2 / 192) ** 0.5),
        ("vit-ti16", "position_embedding/value", 0.02),
    ],
)
def test_weights_start_as_the_paper_says(name: str, path: str, deviation: float) -> None:
    (found,) = (v for v in full(name).variables if v.path == path)
    value = numpy(found).astype(np.float64)
    assert value.std() == pytest.approx(deviation, rel=5 / (2 * value.size) ** 0.5)
    assert abs(value.mean()) <= 5 * deviation / value.size**0.5


# --- residual networks ---


@pytest.mark.once
def test_a_residual_network_projects_only_where_the_shape_changes() -> None:
    def projected(name: str) -> list[str]:
        return [x.name for x in full(name).layers if x.name.endswith("_shortcut")]

    assert projected("resnet18") == [f"stage{s}_block1_shortcut" for s in (2, 3, 4)]
    assert projected("resnet50") == [f"stage{s}_block1_shortcut" for s in (1, 2, 3, 4)]


def test_a_block_that_adds_nothing_passes_a_rectified_map_on() -> None:
    """y = relu(x + f(x)): with f's last gamma at 0, f is 0; what comes in is positive already."""
    model = small("resnet18", depths=(2, 1))
    for variable in model.trainable_variables:
        if variable.path in ("stage1_block2_conv2_norm/gamma", "stage1_block1_conv2_norm/gamma"):
            variable.assign(np.zeros(variable.shape, np.float32))
    x = zoo.example(model)
    stem = keras.Model(model.input, next(x for x in model.layers if type(x).__name__ == "MaxPool").output)
    assert np.array_equal(numpy(zoo.features(model, "stage1")(x)), numpy(stem(x)))


# --- efficientnet ---


def test_depth_width_and_resolution_grow_by_the_papers_formula() -> None:
    """Eq. 3 with alpha 1.2, beta 1.1, gamma 1.15: B1 is phi = 0.5, then 1, 2, ...; sizes rounded by hand."""
    for i, phi in enumerate((0, 0.5, 1, 2, 3.5, 5, 6, 7)):
        arguments = zoo.card(f"efficientnet-b{i}").arguments
        assert arguments["width"] == pytest.approx(1.1**phi, rel=0.08)
        assert arguments["depth"] == pytest.approx(1.2**phi, rel=0.16)
        assert arguments["image_size"] == pytest.approx(224 * 1.15**phi, rel=0.05)


@pytest.mark.parametrize(
    ("channels", "rounded"),
    [(32, 32), (35.2, 32), (17.6, 16), (38.4, 40), (44.8, 48), (28.8, 32), (19.2, 24), (8.8, 8), (3, 8)],
)
def test_channels_are_multiples_of_eight_never_a_tenth_less(channels: float, rounded: int) -> None:
    assert efficientnet.round_channels(channels) == rounded
    assert rounded % 8 == 0
    assert rounded >= 0.9 * channels


def test_drop_path_grows_with_the_blocks_place() -> None:
    """A block's rate is 0.2 times its place over their number; only where a shortcut goes around it."""
    model = full("efficientnet-b0")
    blocks = [x.name.removesuffix("_project") for x in model.layers if x.name.endswith("_project")]
    rates = {x.name: x.rate for x in model.layers if x.name.endswith("drop_path")}
    assert rates == {
        f"{block}_drop_path": pytest.approx(0.2 * i / 16)
        for i, block in enumerate(blocks)
        if not block.endswith("block1")
    }
    assert len(blocks) == 16


def test_squeeze_and_excitation_scales_each_channel_by_what_all_means_say() -> None:
    """Hu et al. 2017, eq. 2-4, with SiLU between and biases."""
    image = Input((4, 5, 6))
    model = Model(image, efficientnet.squeeze_excite(image, 2, name="se"))
    for i, v in enumerate(model.variables):
        v.assign(random.generator("se", i).standard_normal(v.shape, dtype=np.float32))
    w, x = weights(model), zoo.example(model, batch=3)
    s = x.astype(np.float64).mean((1, 2)) @ w["se_squeeze/kernel"][0, 0] + w["se_squeeze/bias"]
    s = special.expit((s * special.expit(s)) @ w["se_excite/kernel"][0, 0] + w["se_excite/bias"])
    assert off(model(x), x * s[:, None, None]) <= BOUND


# --- vit ---


@pytest.mark.parametrize("pooling", ["token", "average"])
def test_vit_is_its_equations(pooling: str) -> None:
    """Eq. 1-4 in NumPy, all weights drawn anew."""
    model = small("vit-ti16", pooling=pooling, dropout_rate=0.0)
    for v in model.variables:
        v.assign(0.3 * random.generator("vit", v.path).standard_normal(v.shape, dtype=np.float32))
    w, x = weights(model), zoo.example(model, batch=3).astype(np.float64)

    def affine(z: ndarray, name: str) -> ndarray:
        return z @ w[f"{name}/kernel"] + w[f"{name}/bias"]

    def norm(z: ndarray, name: str) -> ndarray:
        z = (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-6)
        return z * w[f"{name}/gamma"] + w[f"{name}/beta"]

    patches = x.reshape(3, 4, 4, 4, 4, -1).transpose(0, 1, 3, 2, 4, 5).reshape(3, 16, -1)
    z = patches @ w["patch_embedding/kernel"].reshape(-1, 32) + w["patch_embedding/bias"]
    if pooling == "token":
        z = np.concatenate([np.tile(w["class_token/value"], (3, 1, 1)), z], 1)
    z = z + w["position_embedding/value"]
    for i in (1, 2):
        y, parts = norm(z, f"block{i}_norm1"), []
        q, k, v = (np.split(affine(y, f"block{i}_attention_{p}"), 2, -1) for p in ("query", "key", "value"))
        for h in range(2):
            parts.append(special.softmax(q[h] @ k[h].transpose(0, 2, 1) / 4, -1) @ v[h])
        z = z + affine(np.concatenate(parts, -1), f"block{i}_attention_output")
        y = affine(norm(z, f"block{i}_norm2"), f"block{i}_mlp1")
        z = z + affine(y * special.ndtr(y), f"block{i}_mlp2")
    z = norm(z, "norm")
    z = z[:, 0] if pooling == "token" else z.mean(1)
    assert off(model(x.astype(np.float32)), affine(z, "head")) <= BOUND


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vit-b16", {"image_size": 200}, "vit: image_size=200; expected a multiple of patch_size=16"),
        ("vit-b16", {"pooling": "max"}, 'vit: pooling=\'max\'; expected "token" or "average"'),
        ("vit-b16", {"heads": 7}, "block1_attention: 7 heads; expected a divisor of the width, 768"),
        (
            "efficientnet-b0",
            {"padding": "valid"},
            'efficientnet: padding=\'valid\'; expected "symmetric" or "same"',
        ),
        (
            "alexnet",
            {"image_size": 32},
            "max_pool: a 3 x 3 window does not fit into 1 x 1; use larger images",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration) as caught:
        zoo.build(name, **changes)
    assert message in str(caught.value)


# --- features ---


@pytest.mark.once
@pytest.mark.parametrize("name", FAMILIES)
def test_the_features_are_what_the_head_sees(name: str) -> None:
    model = small(name)
    x, w = zoo.example(model), weights(model)
    inside = numpy(zoo.features(model)(x)).astype(np.float64)
    assert off(model(x), inside @ w["head/kernel"] + w["head/bias"]) <= BOUND


def test_several_intermediates_come_by_their_names() -> None:
    model = small("resnet18")
    x = zoo.example(model)
    both = zoo.features(model, ["stage1", "stage2"])(x)
    assert list(both) == ["stage1", "stage2"]
    for name, value in both.items():
        assert np.array_equal(numpy(value), numpy(zoo.features(model, name)(x)))
    one = zoo.features(model, "stage2_block1_conv1")
    assert one.output_shape == (None, 4, 4, 32)


def test_an_unknown_intermediate_gets_the_nearest_and_those_there_are() -> None:
    with pytest.raises(zoo.UnknownName) as caught:
        zoo.features(small("resnet18"), "stage9")
    assert str(caught.value) == (
        "resnet18 has no 'stage9'; nearest: stage2, stage1, stem. It names: stage1, stage2, features"
    )


# --- any size, any precision ---


@pytest.mark.once
@pytest.mark.parametrize("name", FAMILIES)
def test_any_image_size_channels_and_classes(name: str) -> None:
    size = {"alexnet": 90, "alexnet-2012": 99, "vit-ti16": 24}.get(name, 40)
    model = small(name, image_size=size, channels=2, classes=5)
    assert numpy(model(zoo.example(model, batch=3))).shape == (3, 5)


@pytest.mark.parametrize("policy", ["bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_computes_in_the_precision_it_is_asked_for(name: str, policy: str) -> None:
    """16 bits hold a fraction of 8: half a percent a layer. Variables have 32 under the mixed policy."""
    model, exact = small(name, dtype=policy), small(name)
    assert model.output.dtype == "bfloat16"
    kept = {str(v.dtype) for v in model.trainable_variables}
    assert kept == ({"float32"} if policy.startswith("mixed") else {"bfloat16"})
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    theirs = numpy(exact(x))
    ours = numpy(keras.ops.cast(model(x), "float32"))
    assert 0 < np.abs(ours - theirs).max() <= 0.1 * np.abs(theirs).max()


def test_a_precision_is_the_models_alone() -> None:
    before = keras.config.dtype_policy().name
    small("resnet18", dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == before
    with pytest.raises(zoo.WrongConfiguration, match=r"resnet18: dtype='float31'; expected"):
        zoo.build("resnet18", dtype="float31")
