"""From a photograph to what a model sees, as its weights were trained and are evaluated.

    pixels = zoo.card("resnet50").preprocessing("photo.jpg")    # float32 (224, 224, 3)

The shorter side is scaled to `resize` by Pillow, which averages over all the pixels that a new one covers
(antialiasing), the centre is cut out, bytes become [0, 1], and each channel is normalized. The roundings are
torchvision's (transforms.Resize, CenterCrop, ToTensor, Normalize, on Pillow's images), so that the arrays
are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo.errors import DataUnavailable, WrongConfiguration, nearest

INTERPOLATIONS = {
    name: Image.Resampling[name.upper()]
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
}

# Of ImageNet's training images in [0, 1], red, green, blue: what torchvision's weights expect.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# To [-1, 1]: what ViT's own weights expect, and Inception's before them.
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize`, cut `size` x `size` out of the middle, scale to [0, 1], normalize.

    One mean and deviation a channel: three for colour, one for grey. Raises WrongConfiguration for what
    cannot be.
    """

    size: int = 224
    resize: int = 256
    interpolation: str = "bilinear"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        if not 1 <= self.size <= self.resize:
            raise WrongConfiguration(
                f"Preprocessing: size={self.size!r}, resize={self.resize!r}; expected 1 <= size <= resize"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise WrongConfiguration(
                f"Preprocessing: no interpolation {self.interpolation!r}; "
                f"{nearest(str(self.interpolation), INTERPOLATIONS)}"
            )
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3) or min(self.std) <= 0:
            raise WrongConfiguration(
                f"Preprocessing: mean={self.mean!r}, std={self.std!r}; expected as many, 3 for colour or 1 "
                "for grey, deviations above 0"
            )

    @property
    def channels(self) -> int:
        """3 for colour, 1 for grey."""
        return len(self.mean)

    def at(self, size: int) -> Preprocessing:
        """The same for images of another size: the part of the photograph that is seen stays."""
        return replace(self, size=size, resize=max(size, round(self.resize * size / self.size)))

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """A file, Pillow's image or bytes (h, w), (h, w, 1) or (h, w, 3) -> float32 (size, size, channels).

        Raises DataUnavailable for a file that is no image, WrongConfiguration for an array that is none.
        """
        return self.normalize(self.crop(load(image, self.channels)))

    def crop(self, image: Image.Image) -> np.ndarray:
        """Bytes (size, size, channels): the middle of the image, its shorter side scaled to `resize`."""
        short = min(image.size)
        if short != self.resize:
            width, height = (self.resize * side // short for side in image.size)
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        left, top = (round((side - self.size) / 2) for side in image.size)
        return pixels(image.crop((left, top, left + self.size, top + self.size)))

    def normalize(self, image: np.ndarray) -> np.ndarray:
        """Bytes (..., channels) -> float32: (x / 255 - mean) / std."""
        scaled = image.astype(np.float32) / np.float32(255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def plain(size: int, channels: int) -> Preprocessing:
    """The whole shorter side, pixels in [0, 1] as they are."""
    return Preprocessing(size, size, "bilinear", (0.0,) * channels, (1.0,) * channels)


def load(image: str | Path | Image.Image | np.ndarray, channels: int) -> Image.Image:
    """Pillow's image of a file, of an image, or of bytes (h, w), (h, w, 1) or (h, w, 3): RGB, or grey.

    A file is turned upright as its EXIF data say. Raises DataUnavailable for a file that is no image,
    WrongConfiguration for an array that is none.
    """
    if isinstance(image, Image.Image):
        return _convert(image, channels)
    if isinstance(image, np.ndarray):
        return _convert(of_pixels(image), channels)
    if not isinstance(image, str | Path):
        raise WrongConfiguration(
            f"image: expected a path, an image of Pillow or an array of bytes, got {type(image).__name__}"
        )
    with reading(image), Image.open(image) as opened:
        return _convert(ImageOps.exif_transpose(opened), channels)


def _convert(image: Image.Image, channels: int) -> Image.Image:
    if image.mode.startswith("I;16"):  # 16 bits of grey, which Pillow's own conversion cuts off at 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    return image.convert("RGB" if channels == 3 else "L")


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong with a file becomes DataUnavailable, which names it: Pillow raises many kinds."""
    try:
        yield
    except FileNotFoundError:
        raise DataUnavailable(f"{path}: no such file") from None
    except Exception as error:
        what = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else error
        raise DataUnavailable(f"{path}: {what}") from error


def of_pixels(image: np.ndarray) -> Image.Image:
    """Pillow's image of bytes (h, w), (h, w, 1) or (h, w, 3). Raises WrongConfiguration for others."""
    shape = image.shape
    if image.dtype != np.uint8 or not (len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))):
        raise WrongConfiguration(
            f"image: {image.dtype} of shape {shape}; expected uint8 of (h, w), (h, w, 1) or (h, w, 3)"
        )
    return Image.fromarray(image[..., 0] if shape[2:] == (1,) else image)


def pixels(image: Image.Image) -> np.ndarray:
    """Bytes (h, w, c) of Pillow's image."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
