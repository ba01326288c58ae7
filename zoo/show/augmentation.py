"""Augmented versions of an image in a grid, which `zoo augment` draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from zoo.augment import AugmentSpec, RandomResizedCrop, Transform, parse
from zoo.preprocessing import of_pixels, plain
from zoo.tasks import Task

EVERY = (
    "HorizontalFlip",
    "VerticalFlip",
    "Rotation(30)",
    "RandomCrop(160, padding=16)",
    "RandomResizedCrop(160)",
    "ColorJitter",
    "RandAugment(2, 9)",
    "RandAugment(2, 20)",
    "RandomErasing(1.0)",
    "MixUp(1.0)",
    "CutMix",
)
SIZE, GAP, LABEL = 160, 8, 176  # pixels: of an image, between two, and of the names on the left
PAPER, INK, FAINT = "white", "#222222", "#777777"


def draw(
    photo: np.ndarray,
    other: np.ndarray,
    sets: Sequence[AugmentSpec] = EVERY,
    *,
    columns: int = 6,
    seed: int = 0,
) -> Image.Image:
    """A row for each set of transforms: the image, then its augmented versions in `columns` epochs.

    Both images are bytes (h, w, 3). Mixing transforms use the `other` and state the remaining weight of the
    label. Raises the errors of `zoo.augment.parse`.
    """
    rows = [parse(each) for each in sets]
    step = SIZE + GAP
    page = Image.new("RGB", (LABEL + (1 + columns) * step, len(rows) * (step + 14) + 28), PAPER)
    pen = ImageDraw.Draw(page)
    bold, small = ImageFont.load_default(15), ImageFont.load_default(13)
    pen.text((LABEL, 8), "original", FAINT, small)
    pen.text((LABEL + step, 8), f"epochs 1 to {columns}, seed {seed}", FAINT, small)
    for i, transforms in enumerate(rows):
        top = 28 + i * (step + 14)
        for j, (line, colour) in enumerate(_lines(transforms)):
            pen.text((GAP, top + 17 * j), line, colour, bold if colour == INK else small)
        # Crops are taken from the full resolution: scaled up, they would be blurred.
        cuts = any(isinstance(t, RandomResizedCrop) for t in transforms)
        prepare = plain(min(*photo.shape[:2], *other.shape[:2]) if cuts else SIZE, 3)
        x = np.stack([prepare.crop(of_pixels(image)) for image in (other, photo)])
        task = Task(
            "photographs", (x, np.array([0, 1], np.int32)), None, "cross_entropy", None, 2, (), transforms
        )
        page.paste(of_pixels(plain(SIZE, 3).crop(of_pixels(photo))), (LABEL, top))
        for epoch in range(columns):
            (_, image), (_, target) = task.augmented([0, 1], seed, epoch + 1)
            left = LABEL + (epoch + 1) * step
            picture = of_pixels(image)
            page.paste(picture, (left + (SIZE - picture.width) // 2, top + (SIZE - picture.height) // 2))
            if np.ndim(target):
                pen.text((left, top + SIZE + 1), f"{target[1]:.2f} of the label", FAINT, small)
    return page


def _lines(transforms: tuple[Transform, ...]) -> list[tuple[str, str]]:
    """Each transform's name and arguments, one per line, as many as fit."""
    lines: list[tuple[str, str]] = []
    for transform in transforms:
        lines.append((type(transform).__name__, INK))
        for field in fields(transform):
            value = getattr(transform, field.name)
            numbers = value if isinstance(value, tuple) else (value,)
            lines.append((f"{field.name} {' to '.join(f'{n:.3g}' for n in numbers)}", FAINT))
    return lines[: SIZE // 17]
