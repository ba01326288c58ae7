"""Labelled images: the digits that scikit-learn ships, and the data sets of keras.datasets.

Pixels are float32 in [0, 1], axes (n, h, w, c).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from zoo import random
from zoo._lazy import keras
from zoo.errors import DataUnavailable, WrongConfiguration

Shape = tuple[int, ...]
Pair = tuple[np.ndarray, np.ndarray]


def digits(shape: Shape) -> dict[str, Pair]:
    """1,797 handwritten digits (Alpaydin and Kaynak 1998, UCI), 8 x 8, scaled to `shape`; a fifth held out.

    The split is fixed and stratified: the same examples are held out for every seed.
    """
    from sklearn.datasets import load_digits

    bunch: Any = load_digits()
    x = fit(bunch.images[..., None] / np.float32(16), shape, "digits")
    y = bunch.target.astype(np.int32)
    apart = held_out(y, "digits")
    return {"train": (x[~apart], y[~apart]), "test": (x[apart], y[apart])}


def held_out(labels: np.ndarray, name: str) -> np.ndarray:
    """Booleans (n,): a fifth of the examples of each label, the same ones for every seed."""
    apart = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        where = np.flatnonzero(labels == label)
        apart[random.generator(name, int(label)).permutation(where)[: round(len(where) / 5)]] = True
    return apart


def keras_dataset(name: str) -> Callable[[Shape], dict[str, Pair]]:
    """A data set of keras.datasets, downloaded on first use to Keras's cache."""

    def load(shape: Shape) -> dict[str, Pair]:
        try:
            train, test = getattr(keras.datasets, name).load_data()
        except Exception as error:  # Keras raises a bare Exception when a download fails
            raise DataUnavailable(
                f"{name}: {error}. It is downloaded on first use: connect to the network, or copy the file "
                "to ~/.keras/datasets. The task digits needs no download."
            ) from error

        def prepare(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            x = x.reshape(*x.shape[:3], -1) / np.float32(255)
            return fit(x, shape, name), y.reshape(-1).astype(np.int32)

        return {"train": prepare(*train), "test": prepare(*test)}

    return load


def fit(x: np.ndarray, shape: Shape, name: str) -> np.ndarray:
    """Images (n, h, w, c) at the size and channels of a model's input (h, w, c), by bilinear interpolation.

    Grey becomes colour by repetition. Raises WrongConfiguration for a model that takes no images, or takes
    grey images where these have colour.
    """
    if len(shape) != 3:
        raise WrongConfiguration(
            f"{name} consists of images; the model takes examples of shape {shape}, expected (h, w, channels)"
        )
    height, width, channels = shape
    if x.shape[3] not in (1, channels):
        raise WrongConfiguration(
            f"{name} has {x.shape[3]} channels, the model takes {channels}; build it with "
            f"channels={x.shape[3]}"
        )
    if x.shape[1:3] != (height, width):
        x = _scaled(x, height, width)
    if x.shape[3] != channels:
        x = np.repeat(x, channels, axis=3)
    return np.ascontiguousarray(x, np.float32)


def _scaled(x: np.ndarray, height: int, width: int) -> np.ndarray:
    """float32 (n, height, width, c), bit-equal to scipy.ndimage.zoom in a thirtieth of its time.

    Interpolation is linear in the pixels and one axis at a time: a matrix for the columns, one for the rows.
    """
    rows, columns = _interpolation(x.shape[1], height), _interpolation(x.shape[2], width)
    scaled = np.empty((len(x), height, width, x.shape[3]), np.float32)
    for start in range(0, len(x), 256):  # in float64, in parts that limit memory
        part = slice(start, start + 256)
        scaled[part] = np.einsum("ih,nhwc,jw->nijc", rows, x[part], columns, optimize=True)
    return scaled


def _interpolation(size: int, new_size: int) -> np.ndarray:
    """(new_size, size): the weight of each pixel in each scaled one; edge pixels extend beyond the image."""
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    distances = np.abs(np.clip(centres, 0, size - 1)[:, None] - np.arange(size))
    return np.maximum(1 - distances, 0)
