"""What a model sees: the numbers against formulas written out, the figures against the numbers."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import everywhere, numpy, python
from numpy import ndarray
from PIL import Image
from scipy.signal import correlate
from scipy.special import softmax
from sklearn.datasets import load_sample_image

import zoo
from zoo import backends, layers, random, show
from zoo._lazy import keras
from zoo.layers import Input, Model
from zoo.show import figures

pytestmark = pytest.mark.once  # every picture is compared on all three below

BOUND = 1e-5  # float32, of the largest value
CHINA = load_sample_image("china.jpg")


def noise(*shape: int) -> ndarray:
    return random.generator("show", *shape).standard_normal(shape, dtype=np.float32)


def off(ours: ndarray, theirs: ndarray) -> float:
    """The largest difference, of the largest value."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@cache
def resnet() -> keras.Model:
    return zoo.build("resnet18", seed=1, **zoo.card("resnet18").small)


@cache
def vit(pooling: str = "token") -> keras.Model:
    """Three heads, patches in 4 rows and columns."""
    small = {**zoo.card("vit").small, "heads": 4, "depth": 3}
    return zoo.build("vit", seed=1, **small, pooling=pooling)


SEEN, PATCHES = noise(32, 32, 3), noise(16, 16, 3)  # as those two see them


def inside(model: keras.Model, name: str, x: ndarray) -> ndarray:
    return numpy(zoo.features(model, name)(x[None], training=False))[0]


def weight(model: keras.Model, path: str) -> ndarray:
    return next(numpy(v) for v in model.variables if v.path == path)


# --- feature maps and filters ---


def test_a_feature_map_is_the_image_under_the_filter() -> None:
    """Theirs is SciPy's correlation, summed over the channels, and the bias."""
    image = Input((9, 9, 3))
    x = layers.conv(image, 4, 3, bias_initializer=random.ones, name="conv")
    model = Model(image, layers.dense(layers.flatten(x), 2, name="head"))
    seen = noise(9, 9, 3)
    ours, kernels = show.feature_maps(model, seen, "conv").values, show.filters(model, "conv").values
    assert ours.shape == (9, 9, 4)
    assert kernels.shape == (3, 3, 3, 4)
    padded = np.pad(seen.astype(np.float64), ((1, 1), (1, 1), (0, 0)))
    theirs = np.stack([correlate(padded, kernels[..., k], "valid")[..., 0] for k in range(4)], axis=-1) + 1
    assert off(ours, theirs) <= BOUND


def test_an_image_is_prepared_as_the_card_says(tmp_path: Path) -> None:
    Image.fromarray(CHINA).save(tmp_path / "china.png")
    seen = zoo.card("resnet18").preprocessing.at(32)(CHINA)
    expected = inside(resnet(), "stage1", seen)
    for image in (tmp_path / "china.png", CHINA, Image.fromarray(CHINA), seen):
        assert off(show.feature_maps(resnet(), image, "stage1").values, expected) <= BOUND


def test_tokens_are_laid_out_as_their_patches_are() -> None:
    """Patch (row, column) of a 4 x 4 grid is token 1 + 4 row + column: the class token comes first."""
    tokens = inside(vit(), "block2", PATCHES)
    ours = show.feature_maps(vit(), PATCHES, "block2").values
    assert ours.shape == (4, 4, 32)
    for row, column in np.ndindex(4, 4):
        assert off(ours[row, column], tokens[1 + 4 * row + column]) <= BOUND


def test_filters_are_a_copy_of_the_kernel() -> None:
    model = zoo.build("resnet18", **zoo.card("resnet18").small)
    before = weight(model, "stem/kernel").copy()
    ours = show.filters(model, "stem").values
    assert np.array_equal(ours, before)
    ours += 1
    assert np.array_equal(weight(model, "stem/kernel"), before)


# --- attention ---


def by_hand(model: keras.Model, x: ndarray, block: int) -> ndarray:
    """softmax(q k^T / sqrt(d)) of four heads, from the layer norm's output and the projections' weights."""
    z = inside(model, f"block{block}_norm1", x).astype(np.float64)

    def project(part: str) -> ndarray:
        name = f"block{block}_attention_{part}"
        y = z @ weight(model, f"{name}/kernel") + weight(model, f"{name}/bias")
        return y.reshape(len(z), 4, 8)

    scores = np.einsum("ihd,jhd->hij", project("query"), project("key")) / np.sqrt(8)
    return softmax(scores, axis=-1)


def test_attention_weights_are_those_written_out() -> None:
    ours = show.attention_weights(vit(), PATCHES)
    assert ours.shape == (3, 4, 17, 17)
    assert np.abs(ours.sum(-1) - 1).max() <= 1e-6
    for block in (1, 2, 3):
        assert off(ours[block - 1], by_hand(vit(), PATCHES, block)) <= BOUND


def test_attention_weights_times_the_values_are_what_the_layer_gives() -> None:
    ours = show.attention_weights(vit(), PATCHES)[1]
    value = inside(vit(), "block2_attention_value", PATCHES).reshape(17, 4, 8)
    given = inside(vit(), "block2_attention", PATCHES)
    assert off(np.einsum("hij,jhd->ihd", ours, value).reshape(17, 32), given) <= BOUND


def test_attention_is_the_class_tokens_to_each_patch() -> None:
    for block, asked in ((2, 2), (3, None)):
        ours = show.attention(vit(), PATCHES, block=asked).values
        theirs = by_hand(vit(), PATCHES, block)
        assert ours.shape == (4, 4, 4)
        for head, row, column in np.ndindex(4, 4, 4):
            assert ours[head, row, column] == pytest.approx(theirs[head, 0, 1 + 4 * row + column], rel=1e-4)


def test_without_a_class_token_attention_is_the_mean_patchs() -> None:
    model = vit("average")
    theirs = by_hand(model, PATCHES, 3).mean(1).reshape(4, 4, 4)
    assert off(show.attention(model, PATCHES).values, theirs) <= BOUND


def test_rollout_is_the_product_of_half_attended_blocks() -> None:
    """Abnar and Zuidema's eq. 1, one path at a time: sum over i, j of A3[0, i] A2[i, j] A1[j, patch]."""
    one, two, three = (by_hand(vit(), PATCHES, block).mean(0) for block in (1, 2, 3))
    half = [0.5 * a + 0.5 * np.eye(17) for a in (one, two, three)]
    theirs = np.einsum("i,ij,jk->k", half[2][0], half[1], half[0])[1:].reshape(4, 4)
    assert off(show.attention_rollout(vit(), PATCHES).values, theirs) <= BOUND


def test_rollout_of_uniform_attention_has_a_closed_form() -> None:
    """Queries of 0 ask all n tokens alike: each block halves what has not spread, (1 - 2^-blocks) / n."""
    model = zoo.build("vit", **{**zoo.card("vit").small, "depth": 3})
    for variable in model.variables:
        if "_query/" in variable.path:
            variable.assign(np.zeros(variable.shape))
    ours = show.attention_rollout(model, PATCHES).values
    assert off(ours, np.full((4, 4), (1 - 2**-3) / 17)) <= BOUND


# --- Grad-CAM ---


def linear() -> keras.Model:
    """A convolution, its mean over the map, and a dense layer: what CAM was made for (Zhou et al. 2015)."""
    image = Input((6, 6, 3))
    maps = layers.conv(image, 5, 3, name="maps")
    return Model(image, layers.dense(layers.global_average_pool(maps), 4, name="head"))


@pytest.mark.parametrize("label", [0, 3])
def test_grad_cam_of_a_linear_head_is_the_maps_by_its_weights(label: int) -> None:
    """alpha_k is W[k, label] / (h w), whatever the image."""
    seen, model = noise(6, 6, 3), linear()
    maps = inside(model, "maps", seen).astype(np.float64)
    theirs = np.maximum(maps @ weight(model, "head/kernel")[:, label], 0) / 36
    ours = show.grad_cam(model, seen, label, at="maps").values
    assert theirs.max() > 0
    assert off(ours, theirs) <= BOUND


def test_grad_cam_explains_the_likeliest_class_on_the_last_map() -> None:
    label = int(numpy(resnet()(SEEN[None], training=False)).argmax())
    ours, theirs = show.grad_cam(resnet(), SEEN), show.grad_cam(resnet(), SEEN, label, at="stage2")
    assert f"stage2: Grad-CAM of class {label}" in ours.title
    assert np.array_equal(ours.values, theirs.values)
    others = [show.grad_cam(resnet(), SEEN, k).values for k in range(3) if k != label]
    assert all(off(other, theirs.values) > 0.01 for other in others)


FINITE_DIFFERENCES = """
import numpy as np
import zoo
from zoo import show
from zoo.ladder import probe
from zoo._lazy import keras
probe.use_float64()
model = zoo.build("resnet18", seed=1, **zoo.card("resnet18").small)
rng = np.random.default_rng(0)
for v in model.variables:
    if "moving_" in v.path:
        v.assign(rng.uniform(0.5, 2, v.shape))
x = rng.normal(size=(32, 32, 3))
rest = keras.Model(model.get_layer("stage1").output, model.output)
maps = np.asarray(zoo.features(model, "stage1").predict_on_batch(x[None]))
h, w, channels = maps.shape[1:]
step = 1e-5
moved = [maps + sign * step * (np.arange(channels) == k) for k in range(channels) for sign in (1, -1)]
logits = np.asarray(rest.predict_on_batch(np.concatenate(moved)))[:, 2].reshape(channels, 2)
alpha = (logits[:, 0] - logits[:, 1]) / (2 * step) / (h * w)
theirs = np.maximum((maps[0] * alpha).sum(-1), 0)
ours = show.grad_cam(model, x, 2, at="stage1").values
assert ours.dtype == np.float64 and theirs.max() > 0
print(np.abs(ours - theirs).max() / theirs.max())
"""


def test_grad_cam_is_the_formula_with_finite_differences() -> None:
    """In float64, through batch norm in inference: moving a whole map by one step is the sum of eq. 1."""
    assert float(python(FINITE_DIFFERENCES, JAX_ENABLE_X64="1").splitlines()[-1]) <= 1e-8


def test_looking_changes_nothing() -> None:
    """Not a weight, not batch norm's statistics, not dropout's step, not the graph that is saved."""
    for model, seen, look in (
        (resnet(), SEEN, show.grad_cam),
        (vit(), PATCHES, show.attention_rollout),
        (vit(), PATCHES, lambda m, x: show.grad_cam(m, x, at="patch_embedding")),
    ):
        before, graph = [numpy(v).copy() for v in model.variables], model.to_json()
        first = look(model, seen).values
        assert np.array_equal(look(model, seen).values, first)
        assert all(np.array_equal(numpy(v), old) for v, old in zip(model.variables, before, strict=True))
        assert model.to_json() == graph


def test_an_input_gradient_is_the_derivative_of_a_cubic() -> None:
    """d/dx sum x^3 = 3 x^2."""
    x, here = noise(3, 4), backends.current()
    ours = numpy(here.input_gradient(lambda t: keras.ops.sum(t**3), here.tensor(x)))
    assert off(ours, 3 * x**2) <= 1e-6


# --- the same on every framework ---

EVERYTHING = """
import keras
import numpy as np
import zoo
from zoo import show
resnet = zoo.build("resnet18", seed=1, **zoo.card("resnet18").small)
vit = zoo.build("vit", seed=1, **{**zoo.card("vit").small, "depth": 3})
image = zoo.random.generator("show").integers(0, 256, (60, 80, 3)).astype(np.uint8)
np.savez(
    f"{FOLDER}/{keras.backend.backend()}.npz",
    maps=show.feature_maps(resnet, image, "stage2_block1_conv2").values,
    tokens=show.feature_maps(vit, image, "block2").values,
    filters=show.filters(resnet, "stem").values,
    weights=show.attention_weights(vit, image),
    attention=show.attention(vit, image).values,
    rollout=show.attention_rollout(vit, image).values,
    cam=show.grad_cam(resnet, image, 1).values,
    cam_inside=show.grad_cam(resnet, image, 0, at="stage1_block1_conv1").values,
    predictions=np.array(zoo.predict(resnet, [image, 255 - image]), float),
)
"""


@pytest.mark.parity
def test_every_picture_is_the_same_on_every_framework(tmp_path: Path) -> None:
    everywhere(f"FOLDER = {str(tmp_path)!r}\n{EVERYTHING}")
    found = {}
    for name in backends.NAMES:
        with np.load(tmp_path / f"{name}.npz") as file:
            found[name] = {key: file[key] for key in file.files}
    for name in backends.NAMES[1:]:
        for key, theirs in found[backends.NAMES[0]].items():
            assert np.abs(theirs).max() > 0
            assert off(found[name][key], theirs) <= BOUND, (name, key)
    assert np.array_equal(found["torch"]["filters"], found["jax"]["filters"])


# --- figures ---


def drawn(picture: show.Picture, panel: int = 0, image: int = 0) -> ndarray:
    return np.ma.filled(picture.figure.axes[panel].images[image].get_array(), np.nan)


def test_a_mosaic_lays_tiles_out_row_by_row_with_paper_between() -> None:
    """Three tiles of 24 x 24 in rows of two: a pixel between them, nothing where a fourth would be."""
    tiles = noise(3, 24, 24)
    sheet = figures.mosaic(tiles, 2)
    assert sheet.shape == (49, 49)
    assert np.array_equal(sheet[:24, :24], tiles[0])
    assert np.array_equal(sheet[:24, 25:], tiles[1])
    assert np.array_equal(sheet[25:, :24], tiles[2])
    assert np.isnan(sheet[24]).all()
    assert np.isnan(sheet[:, 24]).all()
    assert np.isnan(sheet[25:, 25:]).all()


def test_maps_are_drawn_in_the_order_of_their_channels() -> None:
    picture = show.feature_maps(resnet(), SEEN, "stage1")  # 16 maps of 8 x 8
    sheet = drawn(picture)
    assert sheet.shape == (2 * 9 - 1, 8 * 9 - 1)
    assert np.array_equal(sheet[9:, 18:26], picture.values[..., 8 + 2].astype(np.float64))
    axes = picture.figure.axes[0]
    assert axes.get_title() == picture.title == "resnet18, stage1: 16 maps of 8 × 8"
    assert [t.get_text() for t in axes.get_yticklabels()] == ["0", "8"]
    assert [t.get_text() for t in axes.get_xticklabels()] == [f"+{i}" for i in range(8)]


def test_filters_over_colours_are_drawn_in_colours_and_grey_where_they_are_zero() -> None:
    picture = show.filters(resnet(), "stem")  # 16 filters of 7 x 7
    sheet, kernel = drawn(picture), picture.values.astype(np.float64)
    assert np.abs(sheet[:7, 8:15] - (0.5 + 0.5 * kernel[..., 1] / np.abs(kernel).max())).max() <= 1e-6


def test_filters_over_channels_are_a_table_of_both() -> None:
    picture = show.filters(resnet(), "stage2_block1_conv1")  # 32 filters over 16 channels, 16 are drawn
    assert picture.title == "resnet18, stage2_block1_conv1: 16 of 32 filters of 3 × 3, 16 channels"
    sheet = drawn(picture)
    assert sheet.shape == (16 * 4 - 1, 16 * 4 - 1)
    assert np.array_equal(
        sheet[4 * 5 : 4 * 5 + 3, 4 * 2 : 4 * 2 + 3], picture.values[:, :, 2, 5].astype(float)
    )


def test_heat_lies_over_the_photograph() -> None:
    picture = show.attention(vit(), CHINA)
    panels = picture.figure.axes
    assert [axes.get_title() for axes in panels[:5]] == ["image", "head 0", "head 1", "head 2", "head 3"]
    pixels = zoo.card("vit").preprocessing.at(16).crop(Image.fromarray(CHINA))
    assert np.array_equal(drawn(picture), pixels / 255)
    for head in range(4):
        assert np.array_equal(drawn(picture, 1 + head, 1), picture.values[head])
        photograph, heat = panels[1 + head].images
        assert photograph.get_extent() == heat.get_extent() == [0, 16, 16, 0]
        assert heat.get_clim() == (0, picture.values.max())


def test_a_picture_is_saved_and_shown_in_a_notebook(tmp_path: Path) -> None:
    picture = show.grad_cam(resnet(), SEEN)
    picture.save(tmp_path / "cam.png")
    with Image.open(tmp_path / "cam.png") as saved, Image.open(io.BytesIO(picture._repr_png_())) as shown:
        assert saved.size == shown.size
        assert saved.size[0] == figures.WIDTH * figures.DPI
        assert np.ptp(np.asarray(saved)) > 0
    picture.save(tmp_path / "cam.svg")
    assert "<svg" in (tmp_path / "cam.svg").read_text()
    assert repr(picture) == f"<Picture: {picture.title}; values (4, 4)>"


def test_every_model_of_photographs_can_be_looked_into() -> None:
    """The last map of each family, its first filters, drawn."""
    for name in ("alexnet", "vgg11-bn", "efficientnet-b0", "lenet5"):
        model = zoo.build(name, **zoo.card(name).small)
        size, _, channels = model.input_shape[1:]
        cam = show.grad_cam(model, noise(size, size, channels), 1)
        first = next(layer.name for layer in model.layers if hasattr(layer, "kernel"))
        for picture in (cam, show.filters(model, first)):
            assert np.isfinite(picture.values).all()
            assert picture._repr_png_().startswith(b"\x89PNG")


# --- errors ---


def sequential() -> keras.Model:
    return keras.Sequential(
        [keras.Input((6, 6, 3)), keras.layers.Conv2D(2, 3, name="c"), keras.layers.Flatten()]
    )


class Subclass:
    """A model without a graph."""

    def __new__(cls) -> Any:
        class Bare(keras.Model):
            def call(self, x: Any) -> Any:
                return x

        return Bare(name="bare")


BREAKS: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "name": (lambda: show.feature_maps(resnet(), SEEN, "stage9"), zoo.UnknownName, "no 'stage9'; nearest"),
    "no map": (
        lambda: show.feature_maps(resnet(), SEEN, "features"),
        zoo.WrongConfiguration,
        r"features gives \(32,\); expected a map",
    ),
    "no kernel": (lambda: show.filters(resnet(), "stage1"), zoo.WrongConfiguration, "stage1 is a Identity"),
    "dense": (lambda: show.filters(resnet(), "head"), zoo.WrongConfiguration, "head is a Dense; filters are"),
    "no attention": (lambda: show.attention(resnet(), SEEN), zoo.WrongConfiguration, "not attend to patches"),
    "block": (lambda: show.attention(vit(), PATCHES, 4), zoo.UnknownName, "no block 4; there are 1 to 3"),
    "tokens": (
        lambda: show.grad_cam(vit(), PATCHES, at="block3"),
        zoo.WrongConfiguration,
        r"block3 gives \(17, 32\); Grad-CAM takes a map .* attention_rollout",
    ),
    "label": (lambda: show.grad_cam(resnet(), SEEN, 3), zoo.WrongConfiguration, "label=3; .* classes 0 to 2"),
    "size": (lambda: show.grad_cam(resnet(), PATCHES), zoo.WrongConfiguration, r"expected \(32, 32, 3\)"),
    "file": (lambda: show.grad_cam(resnet(), "nix.jpg"), zoo.DataUnavailable, "nix.jpg: no such file"),
    "graph": (lambda: show.filters(Subclass(), "x"), zoo.WrongConfiguration, "bare: a Bare has no graph"),
}  # fmt: skip


@pytest.mark.parametrize(("ask", "error", "said"), BREAKS.values(), ids=BREAKS)
def test_what_cannot_be_shown_says_what_can(
    ask: Callable[[], Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ask()


def test_a_sequential_model_can_be_looked_into() -> None:
    model, seen = sequential(), noise(6, 6, 3)
    maps = numpy(model.layers[0](seen[None]))[0]
    assert off(show.feature_maps(model, seen, "c").values, maps) <= BOUND
    cam = show.grad_cam(model, seen, 1, at="c").values  # logit 1 is number (0, 0) of map 1
    assert off(cam, np.maximum(maps[..., 1], 0) / 16) <= BOUND


@pytest.mark.parametrize(
    ("name", "said"),
    [("cam.doc", r"cam\.doc: expected a file that ends in .*\.png"), ("nix/a.png", "no folder")],
)
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=said):
        show.filters(resnet(), "stem").save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_there_are_numbers_and_the_line_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    picture = show.filters(resnet(), "stem")
    assert picture.values.shape == (7, 7, 3, 16)
    with pytest.raises(zoo.ZooError, match=r'pip install "keras-zoo-parity\[show\]"'):
        picture.save("x.png")
