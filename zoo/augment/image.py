"""Random changes of images that keep their label.

Flips and crops use NumPy; interpolation and colour changes use Pillow, which works on bytes: float32 images
are converted, rounded to 255 levels, and must be in [0, 1]. Grey images (c = 1) and colour images (c = 3) are
supported; changes of hue and saturation leave grey unchanged. Axes: h height, w width, c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import exp, log, sqrt
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from zoo.augment.base import Example, Mix, Transform
from zoo.errors import WrongConfiguration
from zoo.preprocessing import of_pixels, pixels

Generator = np.random.Generator
BILINEAR = Image.Resampling.BILINEAR

# Geometry


@dataclass(frozen=True)
class HorizontalFlip(Transform):
    """Flip left and right with this probability."""

    rate: float = 0.5

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        return image[:, ::-1] if rng.random() < self.rate else image


@dataclass(frozen=True)
class VerticalFlip(Transform):
    """Flip top and bottom with this probability."""

    rate: float = 0.5

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        return image[::-1] if rng.random() < self.rate else image


@dataclass(frozen=True)
class Rotation(Transform):
    """Rotate about the centre by an angle uniform in [-degrees, degrees]; corners become `fill`."""

    degrees: float = 15.0
    fill: float = 0.0

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        return rotate(image, rng.uniform(-self.degrees, self.degrees), self.fill)


def rotate(image: np.ndarray, degrees: float, fill: float = 0.0) -> np.ndarray:
    """The image rotated counter-clockwise about its centre, with bilinear interpolation."""
    return by_pillow(image, lambda i: i.rotate(degrees, BILINEAR, fillcolor=_colour(i, fill)))


@dataclass(frozen=True)
class CenterCrop(Transform):
    """Crop size x size from the centre. Raises WrongConfiguration for a smaller image."""

    size: int

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        del rng
        return _cut(self, image, *(round((side - self.size) / 2) for side in image.shape[:2]))


@dataclass(frozen=True)
class RandomCrop(Transform):
    """Crop size x size at a random position from the image with `padding` zeros around it.

    He et al. 2015, section 4.2, for CIFAR: 32 with padding 4. Raises WrongConfiguration for a smaller image.
    """

    size: int
    padding: int = 4

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        padded = np.pad(image, ((self.padding, self.padding), (self.padding, self.padding), (0, 0)))
        room = (max(0, side - self.size) for side in padded.shape[:2])
        return _cut(self, padded, *(int(rng.integers(n + 1)) for n in room))


@dataclass(frozen=True)
class RandomResizedCrop(Transform):
    """Crop a random area with a random aspect ratio and resize it to size x size.

    Szegedy et al. 2014, "Going deeper with convolutions", section 6, as in torchvision: `area` is a fraction
    of the image, drawn uniformly; `aspect` is w / h, its logarithm drawn uniformly; after ten draws that do
    not fit, the largest centred crop that does. An image from a folder is cropped before it is resized.
    """

    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        top, left, height, width = self.box(image.shape[0], image.shape[1], rng)
        part = image[top : top + height, left : left + width]
        return by_pillow(part, lambda i: i.resize((self.size, self.size), BILINEAR))

    def box(self, height: int, width: int, rng: Generator) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random crop of an image of this size."""
        for _ in range(10):
            area = height * width * rng.uniform(*self.area)
            aspect = exp(rng.uniform(log(self.aspect[0]), log(self.aspect[1])))
            h, w = round(sqrt(area / aspect)), round(sqrt(area * aspect))
            if 0 < h <= height and 0 < w <= width:
                return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
        aspect = min(max(width / height, self.aspect[0]), self.aspect[1])
        h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
        return (height - h) // 2, (width - w) // 2, h, w


# Colour


@dataclass(frozen=True)
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue, in random order.

    The first three are scaled by a factor uniform in [1 - x, 1 + x], never below 0, as in Pillow's
    ImageEnhance; the hue is rotated by up to that fraction of the colour circle.
    """

    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        spans = {"brightness": self.brightness, "contrast": self.contrast, "color": self.saturation}
        changes = [
            partial(enhance, what=what, factor=rng.uniform(max(0, 1 - x), 1 + x)) for what, x in spans.items()
        ]
        changes.append(partial(turn_hue, share=rng.uniform(-self.hue, self.hue)))

        def change(picture: Image.Image) -> Image.Image:
            for i in rng.permutation(len(changes)):
                picture = changes[i](picture)
            return picture

        return by_pillow(image, change)


def enhance(image: Image.Image, what: str, factor: float) -> Image.Image:
    """Multiply brightness, contrast, color or sharpness by a factor; 1 leaves the image unchanged."""
    return ENHANCERS[what](image).enhance(factor)


ENHANCERS: dict[str, Any] = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "color": ImageEnhance.Color,
    "sharpness": ImageEnhance.Sharpness,
}


def turn_hue(image: Image.Image, share: float) -> Image.Image:
    """Rotate the hue by a fraction of the colour circle; grey images are unchanged."""
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = hue.point([(level + round(256 * share)) % 256 for level in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


@dataclass(frozen=True)
class RandAugment(Transform):
    """Apply `operations` out of fourteen, drawn uniformly with replacement, all with one magnitude out of 30.

    Cubuk et al. 2019, arXiv:1909.13719; the ranges are AutoAugment's (arXiv:1805.09501, table 6), as in
    torchvision. Operations with a direction take either with probability 1/2; pixels from outside the image
    are `fill`.
    """

    operations: int = 2
    magnitude: float = 9
    fill: float = 0.0

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        names = list(OPERATIONS)

        def change(picture: Image.Image) -> Image.Image:
            for _ in range(self.operations):
                operation = OPERATIONS[names[rng.integers(len(names))]]
                sign = 1 if rng.random() < 0.5 else -1
                picture = operation(picture, self.magnitude / 30, sign, self.fill)
            return picture

        return by_pillow(image, change)


def _affine(image: Image.Image, fill: float, *rows: float) -> Image.Image:
    """Output (x, y) is taken from (a x + b y + c, d x + e y + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, rows, BILINEAR, fillcolor=_colour(image, fill))


def _enhanced(what: str) -> Operation:
    return lambda image, m, sign, fill: enhance(image, what, 1 + sign * 0.9 * m)


Operation = Callable[[Image.Image, float, int, float], Image.Image]

# (image, magnitude m in [0, 1], direction, fill) -> image; at m = 0 all but two are the identity.
OPERATIONS: dict[str, Operation] = {
    "identity": lambda i, m, sign, fill: i,
    "autocontrast": lambda i, m, sign, fill: ImageOps.autocontrast(i),
    "equalize": lambda i, m, sign, fill: ImageOps.equalize(i),
    "rotate": lambda i, m, sign, fill: i.rotate(sign * 30 * m, BILINEAR, fillcolor=_colour(i, fill)),
    "solarize": lambda i, m, sign, fill: ImageOps.solarize(i, round(256 * (1 - m))),
    "posterize": lambda i, m, sign, fill: ImageOps.posterize(i, 8 - round(4 * m)),
    "color": _enhanced("color"),
    "contrast": _enhanced("contrast"),
    "brightness": _enhanced("brightness"),
    "sharpness": _enhanced("sharpness"),
    "shear_x": lambda i, m, sign, fill: _affine(i, fill, 1, sign * 0.3 * m, 0, 0, 1, 0),
    "shear_y": lambda i, m, sign, fill: _affine(i, fill, 1, 0, 0, sign * 0.3 * m, 1, 0),
    "translate_x": lambda i, m, sign, fill: _affine(i, fill, 1, 0, sign * 150 / 331 * m * i.width, 0, 1, 0),
    "translate_y": lambda i, m, sign, fill: _affine(i, fill, 1, 0, 0, 0, 1, sign * 150 / 331 * m * i.height),
}


# Erasing and mixing


@dataclass(frozen=True)
class RandomErasing(Transform):
    """With this probability, replace a rectangle by noise, uniform in every channel.

    Zhong et al. 2017, arXiv:1708.04896, algorithm 1: `area` is a fraction of the image, `aspect` is the
    rectangle's w / h, both drawn uniformly, and again until it fits (a hundred times at most).
    """

    rate: float = 0.5
    area: tuple[float, float] = (0.02, 0.4)
    aspect: tuple[float, float] = (0.3, 1 / 0.3)

    def __call__(self, image: np.ndarray, rng: Generator) -> np.ndarray:
        if rng.random() >= self.rate:
            return image
        height, width, channels = image.shape
        for _ in range(100):
            area, aspect = height * width * rng.uniform(*self.area), rng.uniform(*self.aspect)
            h, w = round(sqrt(area / aspect)), round(sqrt(area * aspect))
            if 0 < h <= height and 0 < w <= width:
                top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
                noise = rng.integers(256, size=(h, w, channels), dtype=np.uint8)
                erased = image.copy()
                erased[top : top + h, left : left + w] = _like(noise, image)
                return erased
        return image


@dataclass(frozen=True)
class MixUp(Mix):
    """With this probability, l x + (1 - l) x' with targets l y + (1 - l) y', l drawn from Beta(alpha, alpha).

    Zhang et al. 2017, arXiv:1710.09412, section 2.
    """

    alpha: float = 0.2
    rate: float = 1.0

    def mix(self, example: Example, other: Example, rng: Generator) -> Example:
        """The image and the target, mixed with the same weight."""
        share = np.float32(rng.beta(self.alpha, self.alpha))
        if rng.random() >= self.rate:
            return example
        (x, y), (other_x, other_y) = example, other
        mixed = x * share + other_x * (1 - share)
        x = np.round(mixed).astype(x.dtype) if x.dtype == np.uint8 else mixed
        return x, y * share + other_y * (1 - share)


@dataclass(frozen=True)
class CutMix(Mix):
    """With this probability, paste a rectangle from another image; the targets are mixed by area.

    Yun et al. 2019, arXiv:1905.04899, section 3.1: the rectangle has the image's aspect ratio and the area 1
    - l, l drawn from Beta(alpha, alpha); its centre is uniform, and it is clipped to the image.
    """

    alpha: float = 1.0
    rate: float = 1.0

    def mix(self, example: Example, other: Example, rng: Generator) -> Example:
        """The image with the rectangle, and the targets weighted by the fractions of its pixels."""
        side = sqrt(1 - rng.beta(self.alpha, self.alpha))
        (x, y), (other_x, other_y) = example, other
        rows, columns = (_around(int(rng.integers(n)), int(n * side), n) for n in x.shape[:2])
        if rng.random() >= self.rate:
            return example
        x = x.copy()
        x[rows, columns] = other_x[rows, columns]
        share = np.float32(
            (rows.stop - rows.start) * (columns.stop - columns.start) / (x.shape[0] * x.shape[1])
        )
        return x, y * (1 - share) + other_y * share


def _around(centre: int, length: int, limit: int) -> slice:
    return slice(max(0, centre - length // 2), min(limit, centre - length // 2 + length))


# Between NumPy and Pillow


def by_pillow(image: np.ndarray, change: Callable[[Image.Image], Image.Image]) -> np.ndarray:
    """An image changed by Pillow, in its own type.

    Raises WrongConfiguration for values outside [0, 1].
    """
    if image.dtype == np.uint8:
        return pixels(change(of_pixels(image)))
    if not (image.min() >= 0 and image.max() <= 1):
        raise WrongConfiguration(
            f"augment: an image has values from {image.min():.3g} to {image.max():.3g}; expected floats in "
            "[0, 1], or bytes"
        )
    return _like(pixels(change(of_pixels(np.round(image * 255).astype(np.uint8)))), image)


def _like(bytes_: np.ndarray, image: np.ndarray) -> np.ndarray:
    return bytes_ if image.dtype == np.uint8 else bytes_.astype(image.dtype) / image.dtype.type(255)


def _colour(image: Image.Image, fill: float) -> Any:
    level = round(255 * fill)
    return level if image.mode == "L" else (level,) * 3


def _cut(transform: Any, image: np.ndarray, top: int, left: int) -> np.ndarray:
    size = transform.size
    if min(image.shape[:2]) < size:
        raise WrongConfiguration(
            f"{transform}: an image has {image.shape[0]} x {image.shape[1]} pixels; expected {size} x {size} "
            "or more"
        )
    return image[top : top + size, left : left + size]
