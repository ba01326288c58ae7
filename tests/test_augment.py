"""Augmentation: ours against NumPy, SciPy, Pillow, colorsys, and the papers' formulas written out."""

from __future__ import annotations

import colorsys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import assert_same_everywhere, numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy import ndarray
from PIL import Image
from scipy import ndimage, stats
from sklearn.datasets import load_sample_images
from typer.testing import CliRunner

import zoo
from zoo import augment, backends, random, tasks, training
from zoo._lazy import keras, ops
from zoo.augment import image
from zoo.augment.image import (
    CenterCrop,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    MixUp,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    VerticalFlip,
)
from zoo.cli import app
from zoo.tasks import Task
from zoo.training import metrics, objectives

PHOTO = load_sample_images().images[0][:200, 100:340]  # bytes (200, 240, 3)
GREY = np.asarray(Image.fromarray(PHOTO).convert("L"))[..., None]
LEVEL = 1.001  # one of 255: what rounding to bytes may cost


def rng(*key: int | str) -> np.random.Generator:
    return random.generator("test", *key)


def floats(x: ndarray) -> ndarray:
    return x.astype(np.float32) / np.float32(255)


def by(operation: Callable[[Image.Image], Image.Image], x: ndarray) -> ndarray:
    """A change of a Pillow image as one of bytes (h, w, c)."""
    return image.by_pillow(x, operation)


def level_off(ours: ndarray, theirs: ndarray) -> float:
    return float(np.abs(ours.astype(float) - theirs.astype(float)).max())


def share_within(found: float, rate: float, n: int) -> bool:
    """Whether a share of n draws is one that this rate gives, within 4 deviations."""
    return abs(found - rate) <= 4 * np.sqrt(rate * (1 - rate) / n)


# --- flips, rotation, crops ---


@pytest.mark.parametrize(("flip", "theirs"), [(HorizontalFlip, np.fliplr), (VerticalFlip, np.flipud)])
def test_flips_are_numpys(flip: Any, theirs: Callable[[ndarray], ndarray]) -> None:
    assert np.array_equal(flip(1.0)(PHOTO, rng()), theirs(PHOTO))
    assert np.array_equal(flip(0.0)(PHOTO, rng()), PHOTO)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("flip", [HorizontalFlip, VerticalFlip])
def test_flips_keep_their_rate(flip: Any, rate: float) -> None:
    x = np.arange(4, dtype=np.float32).reshape(2, 2, 1)
    flipped = np.mean([not np.array_equal(flip(rate)(x, rng(i)), x) for i in range(2000)])
    assert share_within(flipped, rate, 2000)


@pytest.mark.parametrize("x", [PHOTO, GREY, floats(PHOTO)], ids=["colour", "grey", "floats"])
@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_rotation_by_a_quarter_is_rot90(x: ndarray, quarter: int) -> None:
    square = x[:, :200]
    assert np.array_equal(image.rotate(square, 90 * quarter), np.rot90(square, quarter))


@pytest.mark.parametrize("degrees", [-30.0, 7.5, 45.0])
def test_a_rotation_is_scipys(degrees: float) -> None:
    """Inside; at the border Pillow has whole pixels of the fill and SciPy mixes them in."""
    ours = image.rotate(PHOTO, degrees)
    theirs = ndimage.rotate(PHOTO.astype(float), degrees, reshape=False, order=1)
    inside = ndimage.rotate(np.ones(PHOTO.shape[:2]), degrees, reshape=False, order=1) > 0.999
    inside = ndimage.binary_erosion(inside, iterations=2)
    assert inside.sum() > 10_000
    assert level_off(ours[inside], theirs[inside]) <= LEVEL


@pytest.mark.parametrize("fill", [0.0, 0.5, 1.0])
def test_corners_that_a_rotation_uncovers_are_filled(fill: float) -> None:
    for x in (PHOTO, GREY):
        assert (image.rotate(x, 45, fill)[[0, 0, -1, -1], [0, -1, 0, -1]] == round(255 * fill)).all()


def test_angles_are_uniform_up_to_the_degrees(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    monkeypatch.setattr(image, "rotate", lambda x, degrees, fill: seen.append(degrees))
    for i in range(2000):
        Rotation(20.0)(PHOTO, rng(i))
    assert stats.kstest(seen, stats.uniform(-20, 40).cdf).pvalue > 1e-4


def test_a_centre_crop_is_the_middle() -> None:
    ours = CenterCrop(64)(PHOTO, rng())
    assert np.array_equal(ours, PHOTO[68:132, 88:152])


def test_a_random_crop_is_any_window_of_the_padded_image_alike_often() -> None:
    x = rng().random((6, 6, 1), dtype=np.float32)
    padded = np.pad(x, ((2, 2), (2, 2), (0, 0)))
    windows = {padded[i : i + 6, j : j + 6].tobytes(): (i, j) for i in range(5) for j in range(5)}
    assert len(windows) == 25
    seen = Counter(windows[RandomCrop(6, padding=2)(x, rng(i)).tobytes()] for i in range(2500))
    assert len(seen) == 25
    assert stats.chisquare(list(seen.values())).pvalue > 1e-4


def test_a_random_resized_crop_of_everything_is_pillows_resize() -> None:
    square = PHOTO[:, :200]
    theirs = np.asarray(Image.fromarray(square).resize((48, 48), Image.Resampling.BILINEAR))
    whole = RandomResizedCrop(48, area=(1.0, 1.0), aspect=(1.0, 1.0))
    assert np.array_equal(whole(square, rng()), theirs)
    assert np.array_equal(whole(floats(square), rng()), floats(theirs))


def test_a_random_resized_crop_is_the_part_it_draws() -> None:
    crop = RandomResizedCrop(24, area=(0.1, 0.5))
    for i in range(5):
        top, left, height, width = crop.box(200, 240, rng(i))
        part = Image.fromarray(PHOTO[top : top + height, left : left + width])
        assert np.array_equal(
            crop(PHOTO, rng(i)), np.asarray(part.resize((24, 24), Image.Resampling.BILINEAR))
        )


def test_random_resized_crops_have_the_areas_and_aspects_of_szegedy_et_al() -> None:
    """On an image so large that rounding is nothing and so wide a range fits often enough to see it."""
    crop = RandomResizedCrop(8, area=(0.1, 0.3), aspect=(1 / 2, 2))
    boxes = np.array([crop.box(3000, 3000, rng(i)) for i in range(2000)])
    top, left, height, width = boxes.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 3000).all()
    assert (left + width <= 3000).all()
    assert stats.kstest(height * width / 3000**2, stats.uniform(0.1, 0.2).cdf).pvalue > 1e-4
    assert stats.kstest(np.log2(width / height), stats.uniform(-1, 2).cdf).pvalue > 1e-4
    assert stats.kstest(top / (3000 - height), stats.uniform().cdf).pvalue > 1e-4
    assert stats.kstest(left / (3000 - width), stats.uniform().cdf).pvalue > 1e-4


def test_a_crop_that_never_fits_is_the_largest_in_the_middle() -> None:
    wide = RandomResizedCrop(8, area=(1.0, 1.0), aspect=(2.0, 2.0))
    assert wide.box(100, 100, rng()) == (25, 0, 50, 100)
    assert wide.box(100, 400, rng()) == (0, 100, 100, 200)


def test_a_crop_of_a_smaller_image_is_refused() -> None:
    for crop in (CenterCrop(64), RandomCrop(64, padding=1)):
        with pytest.raises(zoo.WrongConfiguration, match=r"Crop\(size=64.*6. x 6. pixels; expected 64 x 64"):
            crop(PHOTO[:60, :60], rng())


# --- colour ---


LUMA = np.array([299, 587, 114]) / 1000  # ITU-R 601-2


@pytest.mark.parametrize("factor", [0.0, 0.4, 1.0, 1.7])
@pytest.mark.parametrize("x", [PHOTO, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize(
    ("what", "other"),
    [
        ("brightness", lambda x, grey: 0),
        ("contrast", lambda x, grey: np.floor(grey.mean() + 0.5)),
        ("color", lambda x, grey: grey),
    ],
)
def test_an_enhanced_image_is_a_blend_with_its_opposite(
    what: str, other: Callable[..., Any], x: ndarray, factor: float
) -> None:
    """Black, the mean grey, the grey image: other + factor (x - other)."""
    ours = by(lambda i: image.enhance(i, what, factor), x)
    base = other(x, np.round(x @ LUMA)[..., None] if x.shape[2] == 3 else x.astype(float))
    theirs = np.clip(base + factor * (x - base), 0, 255)
    assert level_off(ours, theirs) <= 2 * LEVEL  # Pillow rounds the grey, and again the blend


@pytest.mark.parametrize("share", [0.1, -0.1, 0.25, 0.5])
def test_a_turned_hue_is_colorsys(share: float) -> None:
    pixels = rng().integers(0, 256, (1, 300, 3), dtype=np.uint8)
    ours = by(lambda i: image.turn_hue(i, share), pixels)
    for mine, old in zip(ours[0] / 255, pixels[0] / 255, strict=True):
        h, s, v = colorsys.rgb_to_hsv(*old)
        theirs = colorsys.hsv_to_rgb((h + share) % 1, s, v)
        # Hues are 256, up to 6 levels of a channel apart: one is lost on the way, half a turn's rounding.
        assert np.abs(mine - theirs).max() <= 1.5 * 6 / 256 + 2 / 255


def test_grey_has_no_hue_to_turn() -> None:
    assert np.array_equal(by(lambda i: image.turn_hue(i, 0.3), GREY), GREY)


@pytest.mark.parametrize(
    ("jitter", "factor"),
    [
        (ColorJitter(0.3, 0, 0, 0), lambda ours: ours.mean() / 100),
        (ColorJitter(0, 0.3, 0, 0), lambda ours: np.ptp(ours) / 100),
    ],
    ids=["brightness", "contrast"],
)
def test_jitter_is_uniform_around_1(jitter: ColorJitter, factor: Callable[[ndarray], float]) -> None:
    x = np.array([50, 150], np.uint8).repeat(2)[:, None, None]
    seen = np.array([factor(jitter(x, rng(i)).astype(float)) for i in range(1000)])
    assert 0.67 < seen.min() < 0.72
    assert 1.28 < seen.max() < 1.33
    assert stats.kstest(seen, stats.uniform(0.7, 0.6).cdf).statistic < 0.08  # levels are steps of 1/50


def test_jitter_of_nothing_changes_nothing() -> None:
    assert np.array_equal(ColorJitter(0, 0, 0, 0)(GREY, rng()), GREY)
    assert level_off(ColorJitter(0, 0, 0, 0)(PHOTO, rng()), PHOTO) <= 6  # through 256 hues and back


def test_jitter_changes_in_random_order() -> None:
    """Contrast after brightness or before it: both occur, and nothing else."""
    x = PHOTO[::8, ::8]
    jitter = ColorJitter(0.4, 0.4, 0, 0)
    orders = set()
    for i in range(20):
        draws = rng(i)
        b, c = (draws.uniform(0.6, 1.4) for _ in range(2))
        one, other = (
            by(lambda p, first=first, then=then: image.enhance(image.enhance(p, *first), *then), x)
            for first, then in (
                (("brightness", b), ("contrast", c)),
                (("contrast", c), ("brightness", b)),
            )
        )
        ours = jitter(x, rng(i))
        off = level_off(ours, one), level_off(ours, other)
        assert min(off) <= 6
        if max(off) > 6:
            orders.add(off.index(min(off)))
    assert orders == {0, 1}


# --- RandAugment ---


def shifted(x: ndarray, matrix: Any, offset: Any) -> ndarray:
    """SciPy's: output (y, x) from matrix (y, x) + offset, zeros from outside."""
    return np.stack(
        [ndimage.affine_transform(c.astype(float), matrix, offset, order=1) for c in np.moveaxis(x, 2, 0)], 2
    )


def equalized(x: ndarray) -> ndarray:
    """Each channel's levels by their share of darker pixels, as ImageOps documents it."""
    out = np.empty_like(x)
    for c in range(x.shape[2]):
        counts = np.bincount(x[..., c].ravel(), minlength=256)
        step = (counts.sum() - counts[counts > 0][-1]) // 255
        table = np.clip((step // 2 + np.concatenate([[0], np.cumsum(counts)[:-1]])) // step, 0, 255)
        out[..., c] = table[x[..., c]]
    return out


def stretched(x: ndarray) -> ndarray:
    low, high = x.min((0, 1)).astype(float), x.max((0, 1)).astype(float)
    return (x - low) * 255 / (high - low)


def sharpened(x: ndarray, factor: float) -> ndarray:
    """Away from a 3 x 3 mean that weighs its centre 5; the border stays."""
    kernel = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]]) / 13
    planes = [np.round(ndimage.convolve(c.astype(float), kernel)) for c in np.moveaxis(x, 2, 0)]
    smooth = np.stack(planes, 2)
    smooth[[0, -1]], smooth[:, [0, -1]] = x[[0, -1]], x[:, [0, -1]]
    return np.clip(smooth + factor * (x - smooth), 0, 255)


M = 0.5  # magnitude 15 of 30
FORMULAS: dict[str, Callable[[ndarray, int], ndarray]] = {
    "identity": lambda x, sign: x,
    "autocontrast": lambda x, sign: stretched(x),
    "equalize": lambda x, sign: equalized(x),
    "rotate": lambda x, sign: image.rotate(x, sign * 15),  # held against SciPy above
    "solarize": lambda x, sign: np.where(x < 128, x, 255 - x),
    "posterize": lambda x, sign: x & 0b11111100,
    "color": lambda x, sign: by(lambda i: image.enhance(i, "color", 1 + sign * 0.45), x),
    "contrast": lambda x, sign: by(lambda i: image.enhance(i, "contrast", 1 + sign * 0.45), x),
    "brightness": lambda x, sign: by(lambda i: image.enhance(i, "brightness", 1 + sign * 0.45), x),
    "sharpness": lambda x, sign: sharpened(x, 1 + sign * 0.45),
    # A pixel's centre lies half a pixel in: Pillow shears about the corner, SciPy about the first centre.
    "shear_x": lambda x, sign: shifted(x, [[1, 0], [sign * 0.15, 1]], [0, sign * 0.075]),
    "shear_y": lambda x, sign: shifted(x, [[1, sign * 0.15], [0, 1]], [sign * 0.075, 0]),
    "translate_x": lambda x, sign: shifted(x, np.eye(2), [0, sign * 150 / 331 * 0.5 * x.shape[1]]),
    "translate_y": lambda x, sign: shifted(x, np.eye(2), [sign * 150 / 331 * 0.5 * x.shape[0], 0]),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("x", [PHOTO, GREY], ids=["colour", "grey"])
@pytest.mark.parametrize("name", FORMULAS)
def test_an_operation_of_rand_augment_is_its_formula(name: str, x: ndarray, sign: int) -> None:
    ours = by(lambda i: image.OPERATIONS[name](i, M, sign, 0.0), x)
    theirs = FORMULAS[name](x, sign)
    if name.startswith(("shear", "translate")):
        edges = shifted(np.full_like(x, 100), *affine(name, x, sign)) > 99.9
        kept = ndimage.binary_erosion(edges[..., 0], iterations=2)
        assert kept.mean() > 0.6
        ours, theirs = ours[kept], theirs[kept]
    assert level_off(ours, theirs) <= (0 if theirs.dtype == np.uint8 else LEVEL)


def affine(name: str, x: ndarray, sign: int) -> tuple[Any, Any]:
    """The matrix and offset that FORMULAS gives SciPy."""
    seen: list[tuple[Any, Any]] = []
    original = globals()["shifted"]
    globals()["shifted"] = lambda image, matrix, offset: seen.append((matrix, offset))
    try:
        FORMULAS[name](x, sign)
    finally:
        globals()["shifted"] = original
    return seen[0]


def test_rand_augment_has_the_papers_fourteen_operations() -> None:
    assert set(image.OPERATIONS) == set(FORMULAS)
    assert len(FORMULAS) == 14


@pytest.mark.parametrize("name", sorted(set(FORMULAS) - {"autocontrast", "equalize"}))
def test_magnitude_0_changes_nothing(name: str) -> None:
    for x in (PHOTO, GREY):
        for sign in (1, -1):
            assert np.array_equal(by(lambda i, s=sign: image.OPERATIONS[name](i, 0.0, s, 0.5), x), x)


def test_rand_augment_draws_its_operations_alike_often_and_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float, int, float]] = []
    for name in image.OPERATIONS:

        def record(i: Image.Image, m: float, sign: int, fill: float, name: str = name) -> Image.Image:
            seen.append((name, m, sign, fill))
            return i

        monkeypatch.setitem(image.OPERATIONS, name, record)
    for i in range(1000):
        RandAugment(3, 12, fill=0.25)(GREY[:4, :4], rng(i))
    assert len(seen) == 3000
    counts = Counter(name for name, *_ in seen)
    assert len(counts) == 14
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    assert share_within(np.mean([sign == 1 for *_, sign, _ in seen]), 0.5, 3000)
    assert {(m, sign, fill) for _, m, sign, fill in seen} == {(0.4, 1, 0.25), (0.4, -1, 0.25)}


# --- random erasing ---


def erased(x: ndarray, ours: ndarray) -> tuple[int, int, int, int]:
    """Top, left, bottom and right of the smallest rectangle that holds every change."""
    rows, columns = np.nonzero((ours != x).any(2))
    return rows.min(), columns.min(), rows.max() + 1, columns.max() + 1


def test_random_erasing_keeps_its_rate_area_and_aspect() -> None:
    """Zhong et al. 2017, algorithm 1, on a black image: of three channels of noise hardly any is black."""
    x = np.zeros((200, 200, 3), np.uint8)
    erasing = RandomErasing(0.7, area=(0.02, 0.2), aspect=(0.5, 2.0))
    results = [erasing(x, rng(i)) for i in range(1000)]
    changed = [ours for ours in results if ours.any()]
    assert share_within(len(changed) / 1000, 0.7, 1000)
    boxes = np.array([erased(x, ours) for ours in changed])
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert stats.kstest(height * width / 200**2, stats.uniform(0.02, 0.18).cdf).pvalue > 1e-4
    assert stats.kstest(width / height, stats.uniform(0.5, 1.5).cdf).pvalue > 1e-4
    for ours, (top, left, bottom, right) in zip(changed[:20], boxes[:20], strict=True):
        inside = ours[top:bottom, left:right].any(2)
        assert inside.mean() > 0.999  # a rectangle, whole
        assert ours.any(2).sum() == inside.sum()


def test_what_is_erased_is_uniform_noise_in_every_channel() -> None:
    for x in (np.full((100, 100, 3), 2, np.int16).astype(np.uint8), np.full((100, 100, 1), 0.5, np.float32)):
        ours = RandomErasing(1.0, area=(1.0, 1.0), aspect=(1.0, 1.0))(x, rng())
        scale = 256 if x.dtype == np.uint8 else 256 / 255
        for c in range(x.shape[2]):
            assert stats.kstest(ours[..., c].ravel() / scale, stats.uniform().cdf).statistic < 0.03
        assert ours.dtype == x.dtype


# --- mixtures ---


def toy(classes: int = 5, n: int = 12, size: int = 8, channels: int = 1) -> Task:
    draws = rng("toy")
    x = draws.random((n, size, size, channels), dtype=np.float32)
    return Task(
        "toy", (x, (np.arange(n) % classes).astype(np.int32)), None, "cross_entropy", "accuracy", classes
    )


def mixed(transform: augment.Mix, n: int, **shape: int) -> tuple[ndarray, ...]:
    """Images and targets of n pairs before and after: x, x', y, y', ours, our targets."""
    first, other = (rng(side).random((n, 9, 7, 2), dtype=np.float32) for side in ("first", "other"))
    y, other_y = (
        np.eye(4, dtype=np.float32)[rng(side, "y").integers(0, 4, n)] for side in ("first", "other")
    )
    made = [
        transform.mix((first[i], y[i]), (other[i], other_y[i]), rng(i, *shape.values())) for i in range(n)
    ]
    return first, other, y, other_y, np.stack([m[0] for m in made]), np.stack([m[1] for m in made])


def test_mixup_is_zhangs_formula_with_one_weight_for_image_and_target() -> None:
    """Eq. 1: l x + (1 - l) x', l y + (1 - l) y'."""
    x, other, y, other_y, ours, targets = mixed(MixUp(0.4), 300)
    shares = np.array([((a - c) * (b - c)).sum() / ((b - c) ** 2).sum() for a, b, c in zip(ours, x, other)])  # noqa: B905
    s = shares[:, None, None, None]
    np.testing.assert_allclose(ours, s * x + (1 - s) * other, atol=1e-6)
    np.testing.assert_allclose(targets, shares[:, None] * y + (1 - shares[:, None]) * other_y, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 3.0])
def test_the_weights_of_mixup_are_betas(alpha: float) -> None:
    first = (np.ones((1, 1, 1), np.float32), np.array([1, 0], np.float32))
    other = (np.zeros((1, 1, 1), np.float32), np.array([0, 1], np.float32))
    shares = [float(MixUp(alpha).mix(first, other, rng(i))[1][0]) for i in range(2000)]
    assert stats.kstest(shares, stats.beta(alpha, alpha).cdf).pvalue > 1e-4


def test_cutmix_targets_are_the_shares_of_the_pixels() -> None:
    x, other, y, other_y, ours, targets = mixed(CutMix(1.0), 300)
    theirs = (ours == other).all(3)
    assert ((ours == x).all(3) | theirs).all()
    for mask, target, a, b in zip(theirs, targets, y, other_y, strict=True):
        share = mask.sum() / mask.size
        np.testing.assert_allclose(target, (1 - share) * a + share * b, atol=1e-6)
        rows, columns = mask.any(1), mask.any(0)
        assert np.array_equal(mask, np.outer(rows, columns))  # a rectangle
        for line in (rows, columns):
            assert np.abs(np.diff(line.astype(int))).sum() <= 2  # in one piece


def test_the_rectangles_of_cutmix_are_yuns() -> None:
    """Section 3.1: sides sqrt(1 - l), the image's aspect, centre uniform, cut off at the border."""
    n, side = 3000, 100
    first = (np.ones((side, side, 1), np.float32), np.array([1, 0], np.float32))
    other = (np.zeros((side, side, 1), np.float32), np.array([0, 1], np.float32))
    shares = np.array([float(CutMix(1.0).mix(first, other, rng(i))[1][1]) for i in range(n)])
    draws = rng("theirs")
    r = np.sqrt(1 - draws.beta(1.0, 1.0, (n, 1))) / 2
    centre = draws.random((n, 2))
    theirs = (np.minimum(centre + r, 1) - np.maximum(centre - r, 0)).prod(1)
    assert stats.ks_2samp(shares, theirs).pvalue > 1e-4


@pytest.mark.parametrize("made", [MixUp, CutMix])
def test_mixtures_keep_their_rate(made: Any) -> None:
    x, _, y, _, ours, targets = mixed(made(alpha=1.0, rate=0.3), 1000)
    changed = (ours != x).any((1, 2, 3))
    assert share_within(changed.mean(), 0.3, 1000) or made is CutMix  # whose rectangle may be empty
    assert share_within(changed.mean(), 0.3 * 0.95, 1000) or made is MixUp
    assert np.array_equal(targets[~changed], y[~changed])


def test_in_a_batch_each_example_is_mixed_with_the_one_before_it() -> None:
    task = replace(toy(), augment=augment.parse("MixUp(1.0)"))
    chosen = [3, 7, 1]
    x, y = augment.batch(task, chosen, seed=0, epoch=2)
    hard = np.eye(5, dtype=np.float32)[task.train[1]]
    for k, i in enumerate(chosen):
        before = chosen[k - 1]
        share = np.float32(random.generator(0, "augment", 2, i).beta(1.0, 1.0))
        np.testing.assert_allclose(
            x[k], share * task.train[0][i] + (1 - share) * task.train[0][before], atol=1e-6
        )
        np.testing.assert_allclose(y[k], share * hard[i] + (1 - share) * hard[before], atol=1e-6)


def test_targets_that_are_numbers_are_mixed_as_they_are() -> None:
    x, y = rng().random((2, 4, 4, 1), dtype=np.float32), np.array([[0.0], [10.0]], np.float32)
    task = replace(tasks.from_arrays((x, y), loss=None), augment=(MixUp(1.0),))
    share = random.generator(0, "augment", 0, 1).beta(1.0, 1.0)
    assert augment.batch(task, [0, 1], 0, 0)[1][1, 0] == pytest.approx(10 * share, rel=1e-5)


def test_bytes_are_mixed_to_the_nearest_level() -> None:
    first, other = (np.full((2, 2, 1), level, np.uint8) for level in (0, 200))
    for i in range(10):
        ours, target = MixUp(1.0).mix((first, np.array([1.0, 0])), (other, np.array([0, 1.0])), rng(i))
        assert ours.dtype == np.uint8
        assert (ours == round(200 * target[1])).all()


# --- what holds for every transform ---


EVERY = (
    HorizontalFlip(),
    VerticalFlip(),
    Rotation(),
    CenterCrop(5),
    RandomCrop(5),
    RandomResizedCrop(5),
    ColorJitter(),
    RandAugment(),
    RandomErasing(1.0),
    MixUp(),
    CutMix(),
)
SHAPES = st.tuples(st.integers(5, 20), st.integers(5, 20), st.sampled_from([1, 3]))
IMAGES = st.one_of(
    arrays(np.uint8, SHAPES),
    arrays(np.float32, SHAPES, elements=st.floats(0, 1, width=32), fill=st.nothing()),
)


def apply(transform: augment.Transform, x: ndarray, draws: np.random.Generator) -> ndarray:
    if isinstance(transform, augment.Mix):
        y = np.array([1, 0], np.float32)
        return transform.mix((x, y), (np.flip(x), y[::-1]), draws)[0]
    return transform(x, draws)


def test_every_transform_is_tried() -> None:
    """Of images; text and sound have tests/test_augment_text.py and tests/test_augment_audio.py."""
    of_images = {name for name, made in augment.TRANSFORMS.items() if made.__module__ == "zoo.augment.image"}
    assert {type(t).__name__ for t in EVERY} == of_images


@pytest.mark.once
@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
@given(x=IMAGES, seed=st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_an_image_stays_one_and_the_same_draws_change_it_alike(
    transform: augment.Transform, x: ndarray, seed: int
) -> None:
    """Its kind, channels and range; the original is left alone."""
    before = x.copy()
    ours, again = (apply(transform, x, rng(seed)) for _ in range(2))
    assert np.array_equal(x, before)
    assert np.array_equal(ours, again)
    assert ours.dtype == x.dtype
    resized = hasattr(transform, "size")
    assert ours.shape == ((5, 5, x.shape[2]) if resized else x.shape)
    assert ours.min() >= 0
    assert ours.max() <= (255 if x.dtype == np.uint8 else 1)


@pytest.mark.parametrize("transform", EVERY, ids=lambda t: type(t).__name__)
def test_floats_are_changed_as_bytes_are(transform: augment.Transform) -> None:
    ours, theirs = (apply(transform, x, rng(3)) for x in (floats(PHOTO), PHOTO))
    assert level_off(ours * 255, theirs) <= 0.501  # mixtures of bytes are rounded


def test_floats_go_to_the_nearest_level_and_back() -> None:
    x = rng().random((9, 9, 1), dtype=np.float32)
    assert np.abs(by(lambda i: i, x) - x).max() * 255 <= 0.501


def test_images_that_are_not_0_to_1_are_refused_where_they_would_be_cut_off() -> None:
    x = rng().standard_normal((8, 8, 3), dtype=np.float32)
    with pytest.raises(
        zoo.WrongConfiguration,
        match=r"^augment: an image has values from -.* to .*; expected floats in \[0, 1\]",
    ):
        RandAugment()(x, rng())
    assert np.array_equal(HorizontalFlip(1.0)(x, rng()), x[:, ::-1])
    with pytest.raises(zoo.WrongConfiguration, match=r"float32 of shape|uint8 of shape \(4, 4, 2\)"):
        Rotation()(np.zeros((4, 4, 2), np.uint8), rng())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HorizontalFlip(1.5), "^HorizontalFlip: rate=1.5; expected a probability"),
        (lambda: Rotation(-3), "^Rotation: degrees=-3; expected 0 to 180"),
        (lambda: RandomResizedCrop(0), "^RandomResizedCrop: size=0; expected pixels"),
        (lambda: RandomResizedCrop(32.0), "size=32.0"),
        (lambda: RandomResizedCrop(32, area=(0.5, 0.2)), r"area=\(0.5, 0.2\); expected two fractions"),
        (lambda: RandomErasing(aspect=3), "aspect=3; expected two ratios"),
        (lambda: ColorJitter(hue=0.7), "hue=0.7; expected a fraction of the colour circle"),
        (lambda: ColorJitter("much"), "brightness='much'; expected 0 or more"),
        (lambda: RandAugment(2, 31), "^RandAugment: magnitude=31; expected 0 to 30"),
        (lambda: RandAugment(2.5), "operations=2.5; expected an integer"),
        (lambda: MixUp(0), "^MixUp: alpha=0; expected more than 0"),
        (lambda: CutMix(float("nan")), "alpha=nan"),
        (lambda: RandomCrop(8, padding=-1), "padding=-1"),
    ],
)
def test_a_number_that_cannot_be_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        make()


# --- by name ---


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("HorizontalFlip", (HorizontalFlip(),)),
        ("horizontal_flip, rand-augment(2, magnitude=14.5)", (HorizontalFlip(), RandAugment(2, 14.5))),
        ("RandomErasing(area=(0.1, 0.2)), CUTMIX()", (RandomErasing(area=(0.1, 0.2)), CutMix())),
        (
            ["MixUp(0.4)", VerticalFlip(0.1), "RandomCrop(32)"],
            (MixUp(0.4), VerticalFlip(0.1), RandomCrop(32)),
        ),
        (Rotation(5), (Rotation(5),)),
        ("", ()),
        ((), ()),
    ],
)
def test_transforms_are_what_is_written(written: Any, meant: tuple) -> None:
    assert augment.parse(written) == meant


def test_what_a_transform_prints_is_itself() -> None:
    assert augment.parse(", ".join(map(repr, EVERY))) == EVERY


@pytest.mark.parametrize(
    ("written", "error", "message"),
    [
        ("RandAugmen", zoo.UnknownName, "^no transform 'RandAugmen'; nearest: RandAugment"),
        (
            "RandAugment(size=3)",
            zoo.WrongConfiguration,
            r"^RandAugment\(size=3\): expected arguments operations, magn",
        ),
        ("RandomCrop", zoo.WrongConfiguration, r"^RandomCrop\(\): expected arguments size, padding"),
        ("RandAugment(2, 99)", zoo.WrongConfiguration, "magnitude=99; expected 0 to 30"),
        ("RandAugment(2", zoo.WrongConfiguration, "expected names with plain arguments"),
        ("RandAugment(open('x'))", zoo.WrongConfiguration, "expected names with plain arguments"),
        ("__import__('os').system('x')", zoo.WrongConfiguration, "expected names with plain arguments"),
        ("3", zoo.WrongConfiguration, "expected names with plain arguments"),
    ],
)
def test_what_is_no_transform_is_refused(written: str, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        augment.parse(written)


# --- by example ---


POLICY = "RandomCrop(8, padding=2), HorizontalFlip, RandAugment(2, 9), RandomErasing"


def test_what_an_example_becomes_depends_on_seed_epoch_and_its_place_alone() -> None:
    task = replace(toy(), augment=augment.parse(POLICY))
    alone, _ = augment.batch(task, [5], seed=1, epoch=2)
    for chosen in ([5, 3], [0, 1, 2, 5], [5, 11, 4]):
        x, _ = augment.batch(task, chosen, seed=1, epoch=2)
        assert np.array_equal(x[chosen.index(5)], alone[0])
    for seed, epoch in ((1, 3), (2, 2)):
        assert not np.array_equal(augment.batch(task, [5], seed, epoch)[0], alone)
    copies = replace(task, train=(np.repeat(task.train[0][5:6], 12, 0), task.train[1]))
    x, _ = augment.batch(copies, range(12), seed=1, epoch=2)
    assert len({image.tobytes() for image in x}) > 6  # the same image, at other places
    assert np.array_equal(x[5], alone[0])


def test_batches_keep_the_order_they_have_without_augmentation() -> None:
    plain = toy()
    flipped = replace(plain, augment=(HorizontalFlip(1.0),))
    pairs = list(zip(plain.batches(5, 0, 1), flipped.batches(5, 0, 1), strict=True))
    assert [len(x) for (x, _), _ in pairs] == [5, 5, 2]
    for (x, y), (ours, labels) in pairs:
        assert np.array_equal(ours, x[:, :, ::-1])
        assert np.array_equal(labels, y)


@pytest.mark.parametrize("policy", ["", POLICY, f"{POLICY}, MixUp(0.2), CutMix"])
def test_batches_from_the_middle_are_those_of_the_whole_epoch(policy: str) -> None:
    task = replace(toy(), augment=augment.parse(policy))
    whole, tail = list(task.batches(5, 7, 3)), list(task.batches(5, 7, 3, first=1))
    assert len(tail) == 2
    for (x, y), (ours, labels) in zip(whole[1:], tail, strict=True):
        assert np.array_equal(ours, x)
        assert np.array_equal(labels, y)


@pytest.mark.parity
def test_augmented_batches_are_the_same_bytes_on_every_framework() -> None:
    code = (
        "import hashlib, keras, zoo; from dataclasses import replace; from zoo import augment, tasks\n"
        "task = replace(tasks.load('digits', (8, 8, 1)), augment=augment.parse("
        f"'{POLICY}, ColorJitter, MixUp, CutMix'))\n"
        "d = hashlib.sha256()\n"
        "for x, y in task.batches(64, 1, 2): d.update(x.tobytes() + y.tobytes())\n"
        "print(keras.backend.backend(), d.hexdigest())"
    )
    assert_same_everywhere(code)


# --- soft labels ---


def log_softmax(x: ndarray) -> ndarray:
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def soft(n: int = 6, classes: int = 4) -> tuple[ndarray, ndarray]:
    """Logits and soft labels."""
    draws = rng("soft")
    y = draws.dirichlet(np.ones(classes), n).astype(np.float32)
    return (3 * draws.standard_normal((n, classes))).astype(np.float32), y


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("native", [True, False], ids=["native", "keras"])
def test_the_loss_of_soft_labels_is_minus_sum_y_log_p(native: bool, smoothing: float) -> None:
    logits, y = soft()
    objective = objectives.Objective("cross_entropy", smoothing)
    loss = objective.native() if native else keras.losses.get(objective.keras())
    ours = np.mean(numpy(loss(ops.convert_to_tensor(y), ops.convert_to_tensor(logits))))
    targets = (1 - smoothing) * np.float64(y) + smoothing / 4
    assert ours == pytest.approx(-(targets * log_softmax(np.float64(logits))).sum(1).mean(), rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_soft_labels_is_torchs(smoothing: float) -> None:
    torch = pytest.importorskip("torch")
    logits, y = soft()
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(logits), torch.tensor(y), label_smoothing=smoothing
    ).item()
    loss = objectives.Objective("cross_entropy", smoothing).native()
    ours = float(numpy(loss(ops.convert_to_tensor(y), ops.convert_to_tensor(logits))))
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_gradient_of_soft_labels_is_softmax_less_targets(smoothing: float) -> None:
    """d loss / d bias = mean over the batch of softmax(logits) - targets."""
    model = zoo.build("mlp", shape=(8, 8, 1), widths=(), classes=5, dropout_rate=0.0)
    task = replace(toy(), augment=(MixUp(1.0),))
    x, y = next(task.batches(12, 0, 0))
    backend = backends.current()
    loss = objectives.Objective("cross_entropy", smoothing).native()
    _, gradients, _ = backend.gradients(model, loss)(backend.tensor(x), backend.tensor(y))
    logits = np.float64(numpy(model(x)))
    theirs = (np.exp(log_softmax(logits)) - ((1 - smoothing) * y + smoothing / 5)).mean(0)
    ours = {v.path: numpy(g) for v, g in zip(model.trainable_variables, gradients, strict=True)}
    np.testing.assert_allclose(ours["head/bias"], theirs, atol=1e-6)


def test_one_hot_labels_give_the_loss_of_hard_ones() -> None:
    logits, y = soft()
    hard = y.argmax(1).astype(np.int32)
    loss = objectives.Objective("cross_entropy").native()
    ours, theirs = (
        float(numpy(loss(ops.convert_to_tensor(t), ops.convert_to_tensor(logits))))
        for t in (np.eye(4, dtype=np.float32)[hard], hard)
    )
    assert ours == pytest.approx(theirs, rel=1e-6)


def test_accuracy_takes_the_largest_share() -> None:
    logits, y = soft(200)
    theirs = np.mean([row.argmax() == own.argmax() for row, own in zip(logits, y, strict=True)])
    hits, of = metrics.accuracy(y, logits)
    assert hits / of == theirs


# --- training ---


def small(**changes: Any) -> keras.Model:
    return zoo.build("mlp", shape=(8, 8, 1), widths=(6,), classes=5, dropout_rate=0.0, **changes)


def train(model: Any, task: Any, **arguments: Any) -> zoo.Run:
    return zoo.train(model, task, **{"batch_size": 4, "steps": 7, "progress": False, **arguments})


@pytest.mark.parametrize("engine", training.ENGINES)
def test_the_first_loss_is_that_of_the_augmented_batch(engine: str) -> None:
    run = train(small(), toy(), engine=engine, augment="HorizontalFlip, MixUp(1.0)", label_smoothing=0.0)
    x, y = next(replace(toy(), augment=(HorizontalFlip(), MixUp(1.0))).batches(4, 0, 0))
    assert y.shape == (4, 5)
    theirs = -(y * log_softmax(np.float64(numpy(small()(x))))).sum(1).mean()
    assert run.losses[0] == pytest.approx(theirs, rel=1e-6)


def test_both_engines_train_alike_on_mixtures() -> None:
    native, fit = (train(small(), toy(), engine=e, augment=f"{POLICY}, CutMix") for e in training.ENGINES)
    np.testing.assert_allclose(native.losses, fit.losses, rtol=0, atol=2e-6)


@pytest.mark.once
@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_resumed_run_sees_the_batches_it_would_have_seen(engine: str, tmp_path: Path) -> None:
    """Five steps, in the middle of an epoch of three, then four more."""
    file, policy = tmp_path / "run.safetensors", f"{POLICY}, MixUp(0.5)"
    whole = train(small(), toy(), engine=engine, augment=policy, steps=9)
    train(small(), toy(), engine=engine, augment=policy, steps=5, checkpoint=file)
    ours = train(small(), toy(), engine=engine, augment=policy, steps=9, resume=file, batch_size=None)
    np.testing.assert_allclose(ours.losses, whole.losses, rtol=0, atol=1e-6)


@pytest.mark.parametrize("engine", training.ENGINES)
def test_soft_labels_of_your_own_are_learnt(engine: str) -> None:
    x, hard = toy().train
    y = np.eye(5, dtype=np.float32)[hard] * 0.8 + 0.04
    run = train(small(), (x, y), validation=(x, y), loss="cross_entropy", engine=engine, label_smoothing=0.0)
    batch = random.generator(0, "order", 0).permutation(12)[:4]
    theirs = -(y[batch] * log_softmax(np.float64(numpy(small()(x[batch]))))).sum(1).mean()
    assert run.losses[0] == pytest.approx(theirs, rel=1e-6)
    assert run.metrics["accuracy"] == np.mean(run.trainer.predict(x).argmax(1) == hard)
    built = train("mlp", (x, y), loss="cross_entropy", steps=1)
    assert built.model.output_shape == (None, 5)


@pytest.mark.parametrize(
    ("task", "arguments", "message"),
    [
        (
            toy(),
            {"augment": "CenterCrop(6)"},
            r"^augment= makes examples of shape \(6, 6, 1\), mlp takes \(8, 8",
        ),
        (toy(), {"augment": "Flip"}, "^no transform 'Flip'"),
        (toy(size=6), {}, "takes examples of shape"),
        (
            replace(toy(), classes=None),
            {"augment": MixUp()},
            "mixing labels needs a task with a number of classes",
        ),
        (
            (np.zeros((4, 8, 8, 1)), np.full((4, 3), 1 / 3)),
            {"loss": "cross_entropy"},
            "soft labels of 3 classes, mlp has 5; build it with classes=3",
        ),
        (
            (np.zeros((4, 8, 8, 1)), np.ones((4, 5))),
            {"loss": "cross_entropy"},
            r"^task: soft labels of shape \(4, 5\); expected \(n, classes\) of probabilities",
        ),
    ],
)
def test_what_cannot_be_augmented_or_learnt_is_refused_before_any_work(
    task: Any, arguments: dict[str, Any], message: str
) -> None:
    model = small()
    with pytest.raises(zoo.ZooError, match=message):
        train(model, task, **arguments)


# --- the picture ---


def test_augment_draws_a_row_for_every_set(tmp_path: Path) -> None:
    out, photo = tmp_path / "grid.png", tmp_path / "photo.png"
    Image.fromarray(PHOTO[:, 20:220]).save(photo)
    words = ["augment", str(photo), "--set", "HorizontalFlip(1.0)", "--set", "RandomErasing(1.0), mixup"]
    done = CliRunner().invoke(app, [*words, "--columns", "3", "--out", str(out)])
    assert done.exit_code == 0, done.output
    with Image.open(out) as drawn:
        page = np.asarray(drawn)
    assert f"{page.shape[1]} x {page.shape[0]} pixels" in done.output
    small = np.asarray(Image.fromarray(PHOTO[:, 20:220]).resize((160, 160), Image.Resampling.BILINEAR))

    def places(picture: ndarray) -> list[tuple[int, int]]:
        """Where on the page it stands."""
        corner = (page[: -picture.shape[0], : -picture.shape[1]] == picture[0, 0]).all(2)
        return [
            (int(i), int(j))
            for i, j in np.argwhere(corner)
            if np.array_equal(page[i : i + 160, j : j + 160], picture)
        ]

    originals, flipped = places(small), places(small[:, ::-1])
    assert len(originals) == 2  # one a row, in the same column
    assert len({column for _, column in originals}) == 1
    assert len(flipped) == 3  # one an epoch, in the first row
    assert {row for row, _ in flipped} == {originals[0][0]}


@pytest.mark.once
@pytest.mark.parametrize(
    ("words", "out", "said"),
    [
        ("augment", "x.abc", "ends in .png"),
        ("augment", "x", "ends in .png"),
        ("augment", "no/x.png", "no folder"),
        ("show lenet5 --what filters", "no/x.png", "no folder"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused(
    words: str, out: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is drawn."""
    monkeypatch.setattr("zoo.show.augmentation.draw", lambda *_, **__: pytest.fail("drawn"))
    monkeypatch.setattr("zoo.cli.inference._picture", lambda *_: pytest.fail("drawn"))
    done = CliRunner().invoke(app, [*words.split(), "--out", str(tmp_path / out)])
    assert isinstance(done.exception, zoo.WrongConfiguration)
    assert said in str(done.exception)


def test_augment_shows_the_picture_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Image.Image] = []
    monkeypatch.setattr(Image.Image, "show", lambda self: shown.append(self))
    words = ["augment", "--set", "VerticalFlip", "--columns", "1", "--out", str(tmp_path / "grid.png")]
    assert CliRunner().invoke(app, words).exit_code == 0
    assert not shown
    assert CliRunner().invoke(app, [*words, "--show"]).exit_code == 0
    with Image.open(tmp_path / "grid.png") as drawn:
        assert [picture.size for picture in shown] == [drawn.size]
