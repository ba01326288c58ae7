"""Image preprocessing: the steps with which a model's weights were trained and are evaluated.

    pixels = zoo.card("resnet50").preprocessing("photo.jpg")    # float32 (224, 224, 3)

The shorter side is scaled to `resize` by Pillow with antialiasing, the centre is cropped, bytes are scaled to
[0, 1], and each channel is normalized. The arrays are bit-equal to those of torchvision (transforms.Resize,
CenterCrop, ToTensor, Normalize, on PIL images).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from zoo import storage
from zoo.errors import DataUnavailable, WrongConfiguration, nearest

INTERPOLATIONS = {
    name: Image.Resampling[name.upper()]
    for name in ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")
}

# Of ImageNet's training images in [0, 1], red, green, blue: for torchvision's weights.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# To [-1, 1]: for the weights of ViT's authors, as for Inception's.
HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class Preprocessing:
    """Resize the shorter side to `resize`, crop `size` x `size` from the centre, scale to [0, 1], normalize.

    One mean and standard deviation per channel: three for colour, one for grey. Raises WrongConfiguration for
    invalid values.
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
                f"Preprocessing: mean={self.mean!r}, std={self.std!r}; expected equal lengths, 3 for "
                "colour or 1 for grey, and standard deviations above 0"
            )

    @property
    def channels(self) -> int:
        """3 for colour, 1 for grey."""
        return len(self.mean)

    def at(self, size: int) -> Preprocessing:
        """The same preprocessing for another image size, with the same field of view."""
        return replace(self, size=size, resize=max(size, round(self.resize * size / self.size)))

    def __call__(self, image: str | Path | Image.Image | np.ndarray) -> np.ndarray:
        """A file, a Pillow image or bytes (h, w), (h, w, 1) or (h, w, 3) -> float32 (size, size, channels).

        Raises DataUnavailable for a file that is not an image, WrongConfiguration for such an array.
        """
        return self.normalize(self.crop(load(image, self.channels)))

    def crop(self, image: Image.Image) -> np.ndarray:
        """Bytes (size, size, channels): the centre of the image, its shorter side scaled to `resize`."""
        short = min(image.size)
        if short != self.resize:
            width, height = (self.resize * side // short for side in image.size)
            _check_pixels(
                width, height, f"{image.width} x {image.height} pixels, scaled to {self.resize}: an image"
            )
            image = image.resize((width, height), INTERPOLATIONS[self.interpolation])
        left, top = (round((side - self.size) / 2) for side in image.size)
        return pixels(image.crop((left, top, left + self.size, top + self.size)))

    def normalize(self, image: np.ndarray) -> np.ndarray:
        """Bytes (..., channels) -> float32: (x / 255 - mean) / std."""
        scaled = image.astype(np.float32) / np.float32(255)
        return (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def plain(size: int, channels: int) -> Preprocessing:
    """The whole shorter side, with pixels in [0, 1] and no normalization."""
    return Preprocessing(size, size, "bilinear", (0.0,) * channels, (1.0,) * channels)


def load(image: str | Path | Image.Image | np.ndarray, channels: int) -> Image.Image:
    """A Pillow image, RGB or grey, from a file, an image, or bytes (h, w), (h, w, 1) or (h, w, 3).

    Files are rotated according to their EXIF data. Transparency is ignored; of grey images with 10 to 16 bits
    the upper 8 are kept. Raises DataUnavailable for a file that is not an image, WrongConfiguration for such
    an array, and one of them for pixels of unknown range, see `depth`.
    """
    if isinstance(image, Image.Image):
        return _convert(image, channels, image)
    if isinstance(image, np.ndarray):
        image = of_pixels(image)
        return _convert(image, channels, image)
    if not isinstance(image, str | Path):
        raise WrongConfiguration(
            f"image: got {type(image).__name__}; expected a path, a Pillow image or an array of bytes"
        )
    with opened(image) as source:
        return _convert(ImageOps.exif_transpose(source), channels, source)


def depth(image: Image.Image) -> int:
    """The bits per channel: 8, or 10 to 16 for grey. Raises WrongConfiguration if they are unknown.

    Modes I and F are 32-bit integers and floats, whose white may be 1, 255 or anything else. Among files that
    open as I, PGM and PNG have 16 bits by definition: Pillow scales PGM to 65,535.
    """
    if image.mode.startswith("I;"):
        bits = getattr(image, "tag_v2", {}).get(TIFF_BITS, 16)
        return bits if isinstance(bits, int) else bits[0]
    if image.mode == "I" and image.format in ("PPM", "PNG"):
        return 16
    if image.mode in ("I", "F"):
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise WrongConfiguration(
            f"image: Pillow's mode {image.mode}, {kind}, whose range is unknown; scale it to bytes, e.g. "
            "Image.fromarray((255 * x / white).astype('uint8'))"
        )
    return 8


TIFF_BITS, TIFF_PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF 6.0, section 8, and a value


def _convert(image: Image.Image, channels: int, source: Image.Image) -> Image.Image:
    """RGB or grey; `source` is the image as opened, which has the format."""
    bits = depth(source)
    if bits > 8:  # Pillow's own conversion clips at 255, and ignores inverted grey
        grey = np.asarray(image).astype(np.int32)
        if getattr(source, "tag_v2", {}).get(TIFF_PHOTOMETRIC) == WHITE_IS_ZERO:
            grey = 2**bits - 1 - grey
        return Image.fromarray((grey >> (bits - 8)).astype(np.uint8)).convert(MODES[channels])
    for mode in BETWEEN.get(image.mode, ()):
        image = image.convert(mode)
    return image.convert(MODES[channels])


MODES = {1: "L", 3: "RGB"}
# Modes that Pillow converts in two steps only, or only so without a warning.
BETWEEN = {"La": ("LA",), "LAB": ("RGB",), "P": ("RGBA",)}


@contextmanager
def opened(path: str | Path) -> Iterator[Image.Image]:
    """A file's image, whose pixels are read when they are used.

    Every error, of which Pillow has many kinds, becomes a DataUnavailable that names the file; so does an
    image of more pixels than Pillow's MAX_IMAGE_PIXELS, of which Pillow itself only warns. Images are not
    looked for in PostScript, which Pillow has another program run.
    """
    storage.check_readable(path)
    with _opened(path, path) as image:
        yield image


def decoded(data: bytes, name: object, channels: int) -> Image.Image:
    """`load` of the bytes of a file, which errors call `name`."""
    with _opened(BytesIO(data), name) as source:
        return _convert(ImageOps.exif_transpose(source), channels, source)


@contextmanager
def _opened(source: str | Path | BytesIO, name: object) -> Iterator[Image.Image]:
    try:
        Image.init()
        with Image.open(source, formats=[name for name in Image.ID if name != "EPS"]) as image:
            _check_pixels(*image.size, "an image")
            yield image
    except Exception as error:
        what = "not an image that Pillow can read" if isinstance(error, UnidentifiedImageError) else error
        raise DataUnavailable(f"{name}: {what}") from error


def _check_pixels(width: int, height: int, what: str) -> None:
    """Raise WrongConfiguration for more pixels than Pillow's limit."""
    if (most := Image.MAX_IMAGE_PIXELS) is not None and width * height > most:
        raise WrongConfiguration(
            f"{what} of {width} x {height} pixels; expected {most:,} or fewer. If you trust its source, "
            "raise PIL.Image.MAX_IMAGE_PIXELS"
        )


def of_pixels(image: np.ndarray) -> Image.Image:
    """A Pillow image from bytes (h, w), (h, w, 1) or (h, w, 3). Raises WrongConfiguration for others."""
    shape = image.shape
    fits = len(shape) == 2 or (len(shape) == 3 and shape[2] in (1, 3))
    if image.dtype != np.uint8 or not fits or not image.size:
        raise WrongConfiguration(
            f"image: {image.dtype} of shape {shape}; expected uint8 of (h, w), (h, w, 1) or (h, w, 3) with "
            "at least one pixel"
        )
    return Image.fromarray(image[..., 0] if shape[2:] == (1,) else image)


def pixels(image: Image.Image) -> np.ndarray:
    """Bytes (h, w, c) of a Pillow image."""
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
