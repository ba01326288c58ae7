"""Preprocessing: ours against Pillow and NumPy written out, and against torchvision's own transforms."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image
from sklearn.datasets import load_sample_images

import zoo
from zoo import preprocessing
from zoo.preprocessing import INTERPOLATIONS, Preprocessing

pytestmark = pytest.mark.once

TEMPLE, FLOWER = load_sample_images().images  # bytes (427, 640, 3)
PORTRAIT = np.ascontiguousarray(np.rot90(FLOWER)[:501])  # (501, 427, 3)

# As torchvision and timm publish weights: size, resize, interpolation.
PUBLISHED = [
    (224, 256, "bilinear"),
    (224, 232, "bilinear"),
    (224, 242, "bilinear"),
    (224, 256, "bicubic"),
    (240, 256, "bicubic"),
    (288, 288, "bicubic"),
    (300, 320, "bicubic"),
    (380, 384, "bicubic"),
    (456, 456, "bicubic"),
    (528, 528, "bicubic"),
    (600, 600, "bicubic"),
    (224, 248, "bicubic"),
]


def save(tmp_path: Path, image: Image.Image, name: str = "photo.png", **options: Any) -> Path:
    path = tmp_path / name
    image.save(path, **options)
    return path


# --- written out ---


@pytest.mark.parametrize("photo", [TEMPLE, FLOWER, PORTRAIT], ids=["temple", "flower", "portrait"])
@pytest.mark.parametrize(("size", "resize", "interpolation"), [*PUBLISHED, (63, 64, "lanczos")])
def test_a_photograph_is_resized_cropped_scaled_and_normalized(
    photo: ndarray, size: int, resize: int, interpolation: str
) -> None:
    """The shorter side to `resize`, the longer in proportion and cut to whole pixels, the middle of that."""
    height, width = photo.shape[:2]
    if height < width:
        height, width = resize, resize * width // height
    else:
        height, width = resize * height // width, resize
    method = Image.Resampling[interpolation.upper()]
    resized = np.asarray(Image.fromarray(photo).resize((width, height), method))
    top, left = (int(np.round((n - size) / 2)) for n in (height, width))
    cut = resized[top : top + size, left : left + size] / 255
    theirs = (cut - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    ours = Preprocessing(size, resize, interpolation)(photo)
    assert (ours.shape, ours.dtype) == ((size, size, 3), np.float32)
    assert np.abs(ours - theirs).max() <= 1e-6


def test_making_a_photograph_smaller_averages_over_all_of_its_pixels() -> None:
    """Antialiasing: lines a pixel apart become grey, which sampling would turn into black or white."""
    lines = np.zeros((256, 256), np.uint8)
    lines[:, ::2] = 255
    ours = preprocessing.plain(32, 1)(lines)
    assert np.abs(ours - 0.5).max() <= 0.03


def test_an_image_of_the_right_size_is_left_as_it_is() -> None:
    ours = preprocessing.plain(427, 3)(TEMPLE)
    assert np.array_equal(ours, np.float32(TEMPLE[:, 106:533]) / np.float32(255))


@pytest.mark.parametrize("side", [-1, 0, 1])
def test_odd_rests_are_cut_as_python_rounds(side: int) -> None:
    """Half a pixel goes to the even one: 1.5 and 2.5 both to 2."""
    width = 14 + side
    x = np.tile(np.arange(width, dtype=np.uint8) * 10, (10, 1))
    ours = np.round(preprocessing.plain(10, 1)(x)[0, :, 0] * 25.5).astype(int)
    assert ours[0] == {-1: 2, 0: 2, 1: 2}[side]


def test_a_path_an_image_and_its_pixels_are_the_same(tmp_path: Path) -> None:
    path = save(tmp_path, Image.fromarray(TEMPLE))
    prepare = Preprocessing()
    ours = prepare(TEMPLE)
    for same in (path, str(path), Image.fromarray(TEMPLE)):
        assert np.array_equal(prepare(same), ours)


def test_grey_and_colour_become_each_other() -> None:
    grey = np.asarray(Image.fromarray(TEMPLE).convert("L"))
    colour, one = preprocessing.plain(64, 3), preprocessing.plain(64, 1)
    for image in (grey, grey[..., None]):
        assert np.array_equal(colour(image), one(image).repeat(3, axis=2))
    assert np.array_equal(one(TEMPLE), one(grey))


def test_transparent_and_indexed_images_are_their_colours(tmp_path: Path) -> None:
    prepare, image = preprocessing.plain(64, 3), Image.fromarray(TEMPLE)
    clear = image.copy()
    clear.putalpha(128)
    assert np.array_equal(prepare(save(tmp_path, clear)), prepare(image))
    indexed = image.quantize(64)
    assert np.array_equal(prepare(save(tmp_path, indexed, "indexed.gif")), prepare(indexed.convert("RGB")))


def test_sixteen_bits_of_grey_keep_their_brightness(tmp_path: Path) -> None:
    levels = np.arange(0, 65536, 256, dtype=np.uint16).reshape(16, 16)
    ours = preprocessing.plain(16, 1)(save(tmp_path, Image.fromarray(levels)))
    assert np.abs(ours[..., 0] - levels / 65536).max() <= 1 / 255


def test_a_photograph_is_turned_upright_as_its_camera_says(tmp_path: Path) -> None:
    image = Image.fromarray(TEMPLE)
    exif = image.getexif()
    exif[0x0112] = 6  # shown turned by a quarter clockwise
    path = save(tmp_path, image, exif=exif)
    prepare = preprocessing.plain(64, 3)
    assert np.array_equal(prepare(path), prepare(np.ascontiguousarray(np.rot90(TEMPLE, -1))))


def test_at_another_size_the_same_part_is_seen() -> None:
    assert Preprocessing(224, 256).at(112) == Preprocessing(112, 128)
    assert Preprocessing(288, 288).at(33) == Preprocessing(33, 33)
    assert Preprocessing(380, 384).at(32) == Preprocessing(32, 32)  # 32.3 pixels


def test_one_mean_a_channel() -> None:
    grey = Preprocessing(8, 8, mean=(0.5,), std=(0.25,))
    x = np.full((8, 8), 51, np.uint8)
    assert grey(x).shape == (8, 8, 1)
    assert np.abs(grey(x) - (0.2 - 0.5) / 0.25).max() <= 1e-6


# --- refused ---


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 256, "resize": 224}, "size=256, resize=224; expected 1 <= size <= resize"),
        ({"size": 0}, "size=0"),
        ({"interpolation": "cubic"}, "no interpolation 'cubic'; nearest: bicubic"),
        ({"mean": (0.5,)}, "expected equal lengths, 3 for colour or 1 for grey"),
        ({"std": (1.0, 1.0, 0.0)}, "deviations above 0"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        Preprocessing(**arguments)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8, 3), np.float32), r"^image: float32 of shape \(8, 8, 3\); expected uint8"),
        (np.zeros((2, 8, 8, 3), np.uint8), r"^image: uint8 of shape \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 4), np.uint8), r"^image: uint8 of shape \(8, 8, 4\)"),
        ([[1, 2]], "^image: got list; expected a path, a Pillow image or an array of bytes"),
    ],
)
def test_what_is_no_image_is_refused(image: Any, message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        Preprocessing()(image)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.jpg"
    text.write_text("hello")
    whole = save(tmp_path, Image.fromarray(TEMPLE), "whole.jpg").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    for path, reason in (
        (text, "not an image that Pillow can read"),
        (cut, "image file is truncated"),
        (tmp_path / "gone.jpg", "no such file"),
        (tmp_path, "directory"),
    ):
        with pytest.raises(zoo.DataUnavailable, match=rf"^{path}: .*{reason}"):
            Preprocessing()(path)


# --- torchvision ---


@pytest.fixture(scope="module")
def torchvision() -> ModuleType:
    return import_module("zoo.benchmarks.references.originals").torchvision


def theirs(torchvision: ModuleType, photo: ndarray, p: Preprocessing) -> ndarray:
    t = torchvision.transforms
    chain = t.Compose(
        [
            t.Resize(p.resize, getattr(t.InterpolationMode, p.interpolation.upper())),
            t.CenterCrop(p.size),
            t.ToTensor(),
            t.Normalize(p.mean, p.std),
        ]
    )
    return chain(Image.fromarray(photo)).permute(1, 2, 0).numpy()


@pytest.mark.peers
@pytest.mark.parametrize("photo", [TEMPLE, FLOWER, PORTRAIT], ids=["temple", "flower", "portrait"])
@pytest.mark.parametrize(("size", "resize", "interpolation"), PUBLISHED)
def test_ours_is_torchvisions_bit_for_bit(
    torchvision: ModuleType, photo: ndarray, size: int, resize: int, interpolation: str
) -> None:
    prepare = Preprocessing(size, resize, interpolation)
    assert np.array_equal(prepare(photo), theirs(torchvision, photo, prepare))


@pytest.mark.peers
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_every_interpolation_and_odd_rest_is_torchvisions(
    torchvision: ModuleType, interpolation: str
) -> None:
    for height, width in ((97, 64), (64, 97), (64, 64), (33, 211), (128, 65)):
        for size, resize in ((32, 37), (31, 37), (32, 32), (1, 3)):
            prepare = Preprocessing(size, resize, interpolation, (0.5,) * 3, (0.5,) * 3)
            photo = TEMPLE[:height, :width]
            assert np.array_equal(prepare(photo), theirs(torchvision, photo, prepare))


# Our model -> torchvision's weights of the same, which carry their transforms.
WEIGHTS = {
    "alexnet": "AlexNet_Weights",
    **{f"vgg{n}": f"VGG{n}_Weights" for n in (11, 13, 16, 19)},
    **{f"vgg{n}-bn": f"VGG{n}_BN_Weights" for n in (11, 13, 16, 19)},
    **{f"resnet{n}": f"ResNet{n}_Weights" for n in (18, 34, 50, 101, 152)},
    **{f"efficientnet-b{n}": f"EfficientNet_B{n}_Weights" for n in range(8)},
    "vit-b16": "ViT_B_16_Weights",
    "vit-b32": "ViT_B_32_Weights",
    "vit-l16": "ViT_L_16_Weights",
    "vit-l32": "ViT_L_32_Weights",
}


@pytest.mark.peers
@pytest.mark.parametrize("name", WEIGHTS)
def test_a_card_prepares_photographs_as_the_weights_of_torchvision_ask(
    torchvision: ModuleType, name: str
) -> None:
    """At their image size: EfficientNet-B2 is the paper's 260 here, and 288 there."""
    transforms = getattr(torchvision.models, WEIGHTS[name]).IMAGENET1K_V1.transforms()
    ours = zoo.card(name).preprocessing.at(transforms.crop_size[0])(TEMPLE)
    assert np.array_equal(ours, transforms(Image.fromarray(TEMPLE)).permute(1, 2, 0).numpy())


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "theirs"), [("vit-ti16", "vit_tiny_patch16_224"), ("vit-s16", "vit_small_patch16_224")]
)
def test_a_card_prepares_photographs_as_the_weights_of_timm_ask(name: str, theirs: str) -> None:
    timm = import_module("zoo.benchmarks.references.originals").timm
    published = timm.get_pretrained_cfg(f"{theirs}.augreg_in21k_ft_in1k").to_dict()
    config = timm.data.resolve_data_config(pretrained_cfg=published)
    transforms = timm.data.create_transform(**config)
    ours = zoo.card(name).preprocessing(TEMPLE)
    assert np.array_equal(ours, transforms(Image.fromarray(TEMPLE)).permute(1, 2, 0).numpy())
