"""Images of every mode and depth: each gives what the same ramp in 8 bits gives, or is refused by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import preprocessing, tasks

pytestmark = pytest.mark.once

LEVELS = np.arange(256, dtype=np.uint8).reshape(16, 16)
GREY = Image.fromarray(LEVELS)
COLOUR = Image.fromarray(np.stack([LEVELS, LEVELS.T, 255 - LEVELS], axis=2))
SHORTS = LEVELS.astype(np.uint16) * 257  # 255 becomes 65535


def seen(image: Any, channels: int) -> np.ndarray:
    """As a model of 16 x 16 pixels sees it, in levels of 8 bits."""
    return preprocessing.plain(16, channels)(image) * 255


def with_alpha(image: Image.Image, mode: str) -> Image.Image:
    """Opaque: with premultiplied colours there is no other way back without a loss."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(mode, mode)).convert(mode)


GREYS: dict[str, Callable[[], Image.Image]] = {
    "L": lambda: GREY,
    "LA": lambda: with_alpha(GREY, "LA"),
    "La": lambda: with_alpha(GREY, "La"),
    "P": lambda: GREY.convert("P"),
    "PA": lambda: GREY.convert("P").convert("PA"),
    "RGB": lambda: GREY.convert("RGB"),
    "CMYK": lambda: GREY.convert("RGB").convert("CMYK"),
    "HSV": lambda: GREY.convert("RGB").convert("HSV"),
    "I;16": lambda: Image.fromarray(SHORTS),
    "I;16L": lambda: Image.frombytes("I;16L", (16, 16), SHORTS.astype("<u2").tobytes()),
    "I;16B": lambda: Image.frombytes("I;16B", (16, 16), SHORTS.astype(">u2").tobytes()),
    "I;16N": lambda: Image.frombytes("I;16N", (16, 16), SHORTS.tobytes()),
}
COLOURS: dict[str, Callable[[], Image.Image]] = {
    "RGBA": lambda: with_alpha(COLOUR, "RGBA"),
    "RGBa": lambda: with_alpha(COLOUR, "RGBa"),
    "RGBX": lambda: COLOUR.convert("RGBX"),
    "CMYK": lambda: COLOUR.convert("CMYK"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", GREYS)
def test_grey_of_every_mode_is_the_ramp(mode: str, channels: int) -> None:
    image = GREYS[mode]()
    assert image.mode == mode
    assert np.abs(seen(image, channels) - LEVELS[..., None]).max() <= 1e-4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", COLOURS)
def test_colour_of_every_mode_is_the_ramp(mode: str, channels: int) -> None:
    image = COLOURS[mode]()
    assert image.mode == mode
    assert np.abs(seen(image, channels) - seen(COLOUR, channels)).max() <= 1e-4


@pytest.mark.parametrize("channels", [1, 3])
def test_black_and_white_stays_black_and_white(channels: int) -> None:
    image = Image.fromarray(LEVELS >= 128)
    assert image.mode == "1"
    assert np.array_equal(seen(image, channels) > 127, np.repeat(LEVELS[..., None] >= 128, channels, axis=2))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("mode", "levels"), [("YCbCr", 1), ("LAB", 2)])
def test_modes_that_round_are_the_ramp_as_far_as_their_8_bits_tell(
    mode: str, levels: int, channels: int
) -> None:
    """Pillow rounds Y on the way there, and of L*'s 256 levels some are of two shades of grey."""
    image = GREY.convert("RGB").convert(mode)
    assert np.abs(seen(image, channels) - LEVELS[..., None]).max() <= levels + 1e-4


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("transparency", [7, bytes(range(256))], ids=["one", "of each"])
def test_a_palette_with_transparency_is_its_colours(transparency: Any, channels: int, tmp_path: Path) -> None:
    GREY.convert("P").save(tmp_path / "x.png", transparency=transparency)
    assert np.abs(seen(tmp_path / "x.png", channels) - LEVELS[..., None]).max() <= 1e-4


# --- files of more than 8 bits ---


def tiff(bits: int, data: bytes, photometric: int = 1, kind: int = 1, order: str = "<") -> bytes:
    """A TIFF of 16 x 16 grey pixels: header, pixels, one directory of ten tags (TIFF 6.0, section 2)."""
    tags = [
        (256, 3, 16), (257, 3, 16), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8),
        (277, 3, 1), (278, 3, 16), (279, 4, len(data)), (339, 3, kind),
    ]  # fmt: skip
    found = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(data)) + data
    found += struct.pack(order + "H", len(tags))
    for tag, short, value in tags:
        packed = struct.pack(order + "HH", value, 0) if short == 3 else struct.pack(order + "I", value)
        found += struct.pack(order + "HHI", tag, short, 1) + packed
    return found + bytes(4)


def twelve(levels: np.ndarray) -> bytes:
    """Two numbers of 12 bits in three bytes."""
    pairs = levels.reshape(-1, 2).astype(int)
    return b"".join(int(a << 12 | b).to_bytes(3, "big") for a, b in pairs)


def pgm(largest: int) -> bytes:
    levels = np.round(LEVELS * (largest / 255)).astype(">u2")
    return b"P5\n16 16\n%d\n" % largest + levels.tobytes()


DEEP = {
    "16-bit.pgm": pgm(65535),
    "10-bit.pgm": pgm(1023),
    "12-bit.pgm": pgm(4095),
    "16-bit.tif": tiff(16, SHORTS.astype("<u2").tobytes()),
    "16-bit, big-endian.tif": tiff(16, SHORTS.astype(">u2").tobytes(), order=">"),
    "16-bit, white is 0.tif": tiff(16, (65535 - SHORTS).astype("<u2").tobytes(), photometric=0),
    "12-bit.tif": tiff(12, twelve(LEVELS * 16.0 + LEVELS // 16)),
    "8-bit, white is 0.tif": tiff(8, (255 - LEVELS).tobytes(), photometric=0),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", DEEP)
def test_files_of_more_than_8_bits_are_the_ramp(name: str, channels: int, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(DEEP[name])
    assert np.abs(seen(tmp_path / name, channels) - LEVELS[..., None]).max() <= 1e-4
    with Image.open(tmp_path / name) as image:  # and Pillow's image of it
        assert np.abs(seen(image, channels) - LEVELS[..., None]).max() <= 1e-4


@pytest.mark.parametrize("ending", ["png", "tif", "jp2"])
def test_16_bits_that_pillow_wrote_are_the_ramp(ending: str, tmp_path: Path) -> None:
    Image.fromarray(SHORTS).save(tmp_path / f"x.{ending}")
    assert np.abs(seen(tmp_path / f"x.{ending}", 1) - LEVELS[..., None]).max() <= 1e-4


def test_a_deep_image_is_turned_upright_as_its_camera_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by a quarter clockwise
    Image.fromarray(SHORTS).save(tmp_path / "x.png", exif=exif)
    assert np.abs(seen(tmp_path / "x.png", 1)[..., 0] - np.rot90(LEVELS, -1)).max() <= 1e-4


# --- refused ---

RANGELESS = {
    "float.tif": (tiff(32, (LEVELS / 255).astype("<f4").tobytes(), kind=3), "mode F, floats"),
    "32-bit.tif": (tiff(32, (LEVELS.astype("<u4") * 16843009).tobytes()), "mode I, 32-bit integers"),
    "signed.tif": (tiff(16, (LEVELS.astype("<i2") * 128).tobytes(), kind=2), "mode I, 32-bit integers"),
    "float.pfm": (b"Pf\n16 16\n-1.0\n" + (LEVELS / 255).astype("<f4").tobytes(), "mode F, floats"),
}


@pytest.mark.parametrize("name", RANGELESS)
def test_a_file_whose_white_is_not_known_is_refused_by_its_mode(name: str, tmp_path: Path) -> None:
    data, said = RANGELESS[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(zoo.DataUnavailable, match=rf"{name}: image: Pillow's {said}, whose range"):
        seen(tmp_path / name, 3)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_whose_white_is_not_known_is_refused_by_its_mode(mode: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=f"Pillow's mode {mode}, "):
        seen(GREY.convert(mode), 1)


def test_a_folder_names_such_files_before_training(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        GREY.save(tmp_path / name / "1.png")
    (tmp_path / "cat" / "2.tif").write_bytes(RANGELESS["float.tif"][0])
    with pytest.raises(zoo.DataUnavailable, match=r"1 broken images: .*2\.tif: image: Pillow's mode F"):
        tasks.folder(tmp_path, (16, 16, 3))
    with pytest.warns(UserWarning, match=r"skipped 1 broken images: .*2\.tif"):
        assert len(tasks.folder(tmp_path, (16, 16, 3), errors="skip").train[0]) == 2


DTYPES = [np.uint16, np.int64, np.int32, np.int8, np.bool_, np.complex64, ml_dtypes.bfloat16, object]


@pytest.mark.parametrize("dtype", DTYPES)
def test_predict_refuses_arrays_of_other_types_by_name(dtype: Any) -> None:
    image = np.repeat(LEVELS[..., None], 3, axis=2).astype(dtype)
    with pytest.raises(zoo.WrongConfiguration, match=rf"{np.dtype(dtype)} of shape \(16, 16, 3\); expected"):
        zoo.predict("lenet5", image)


@pytest.mark.parametrize("shape", [(0, 8, 3), (8, 0), (0, 0, 1)])
def test_an_array_without_a_pixel_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(zoo.WrongConfiguration, match="at least one pixel"):
        seen(np.zeros(shape, np.uint8), 3)
