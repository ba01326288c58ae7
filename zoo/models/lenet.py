"""LeNet-5: convolutions share weights across the image, and subsampling reduces the resolution.

LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
https://doi.org/10.1109/5.726791

`lenet5` is the network as taught today: every map is connected to all maps of the layer before, with plain
average pooling and a linear output. `lenet5-1998` is the paper's: a sparse table of connections, trainable
subsampling, a scaled tanh, and outputs that measure the distance to a drawn bitmap of each digit.
Axes: b batch, h height, w width, c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from zoo._lazy import keras, ops
from zoo.layers import Input, Model, activate, average_pool, conv, dense, flatten, parameter, tanh
from zoo.random import lecun_1998, uniform, zeros
from zoo.registry import register

if TYPE_CHECKING:
    Tensor = Any


def lenet5(
    *, activation: str = "tanh", image_size: int = 32, channels: int = 1, classes: int = 10
) -> keras.Model:
    """Build today's LeNet-5."""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = activate(conv(image, 6, 5, padding=0, name="conv1"), activation)  # (b, 28, 28, 6)
    x = average_pool(x, 2)  # (b, 14, 14, 6)
    x = activate(conv(x, 16, 5, padding=0, name="conv2"), activation)  # (b, 10, 10, 16)
    x = flatten(average_pool(x, 2))  # (b, 5, 5, 16) -> (b, 400)
    x = activate(dense(x, 120, name="dense1"), activation)  # (b, 120)
    x = activate(dense(x, 84, name="dense2"), activation)  # (b, 84)
    return Model(image, dense(x, classes, name="head"))  # (b, classes)


def lenet5_1998() -> keras.Model:
    """Build the paper's LeNet-5: 32 x 32 images of ten digits; the logits are minus the RBF outputs.

    Softmax cross-entropy of these logits is the paper's discriminative criterion (eq. 9, j = 0).
    """
    image = Input((32, 32, 1))  # (b, 32, 32, 1)
    x = squash(conv(image, 6, 5, padding=0, initializer=lecun_1998, name="c1"))  # (b, 28, 28, 6)
    x = squash(subsample(x, name="s2"))  # (b, 14, 14, 6)
    x = squash(sparse_conv(x, TABLE_1, name="c3"))  # (b, 10, 10, 16)
    x = squash(subsample(x, name="s4"))  # (b, 5, 5, 16)
    x = squash(conv(x, 120, 5, padding=0, initializer=lecun_1998, name="c5"))  # (b, 1, 1, 120)
    x = squash(dense(flatten(x), 84, initializer=lecun_1998, name="f6"))  # (b, 84)
    return Model(image, -squared_distance(x, bitmaps()))  # (b, 10)


def squash(x: Tensor) -> Tensor:
    """1.7159 tanh(2/3 x): f(1) = 1 and f(-1) = -1 (appendix A)."""
    return 1.7159 * tanh(2 / 3 * x)


def subsample(x: Tensor, *, name: str) -> Tensor:
    """(b, h, w, c) -> (b, h/2, w/2, c): the sum of each 2 x 2 window, times a weight plus a bias per map."""
    channels = x.shape[-1:]
    weight = parameter(x, channels, initializer=uniform(2.4 / 4), name=f"{name}_weight")
    return 4 * average_pool(x, 2) * weight + parameter(x, channels, initializer=zeros, name=f"{name}_bias")


def sparse_conv(x: Tensor, table: tuple[str, ...], *, name: str) -> Tensor:
    """(b, h, w, c) -> (b, h-4, w-4, rows): map i is a 5 x 5 convolution of the maps listed in row i."""
    maps = [ops.take(x, [int(m) for m in row], axis=-1) for row in table]
    return ops.concatenate(
        [conv(m, 1, 5, padding=0, initializer=lecun_1998, name=f"{name}_{i}") for i, m in enumerate(maps)],
        axis=-1,
    )


def squared_distance(x: Tensor, centres: np.ndarray) -> Tensor:
    """(b, n), (k, n) -> (b, k): the radial basis function units of eq. 7."""
    return ops.sum(ops.square(ops.expand_dims(x, 1) - centres), axis=-1)


# Table I of the paper: for each of the sixteen maps of C3, its inputs among the six maps of S2.
TABLE_1 = (
    "012", "123", "234", "345", "045", "015", "0123", "1234",
    "2345", "0345", "0145", "0125", "0134", "1245", "0235", "012345",
)  # fmt: skip

# The target of each digit, 7 wide and 12 high, in the style of the paper's figure 3.
BITMAPS = """
..###.. ...##.. .#####. .#####. .....#. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## ##...## ....##. ##..... .##.... ##...## ##...## ##...##
##...## .####.. .....## .....## ....##. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## .....## ...###. ##..... ##..... .....## ##...## ##...##
##...## ...##.. ....##. .....## ..#.##. ######. ##..... ....##. .##.##. ##...##
##...## ...##.. ...##.. ..####. .#..##. .....## ######. ....##. ..###.. .######
##...## ...##.. ..##... .....## .#..##. .....## ##...## ...##.. .##.##. .....##
##...## ...##.. .##.... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
##...## ...##.. ##..... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## .##.##. .##.... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. ..###.. .##.... .#####. .####..
"""


def bitmaps() -> np.ndarray:
    """(10, 84): +1 for ink and -1 for paper, row by row."""
    rows = [line.split() for line in BITMAPS.strip().splitlines()]  # 12 rows of 10 digits
    digits = np.array([[[dot == "#" for dot in row] for row in digit] for digit in zip(*rows, strict=True)])
    return np.where(digits, 1, -1).reshape(10, 84).astype(np.float32)


ABOUT = {
    "paper": 'LeCun, Bottou, Bengio, Haffner 1998, "Gradient-based learning applied to document recognition"',
    "url": "https://doi.org/10.1109/5.726791",
    "year": 1998,
    "task": "digits",
}

register(
    "lenet5",
    lenet5,
    family="lenet",
    parameters=61_706,
    multiply_adds=416_520,
    small={"image_size": 16, "classes": 3},
    about={
        **ABOUT,
        "idea": "Convolutions share weights across the image, pooling reduces the resolution.",
        "recipe": "lenet5",
    },
)
register(
    "lenet5-1998",
    lenet5_1998,
    parameters=60_000,
    multiply_adds=325_680,
    fixed_input=(32, 32, 1),
    about={
        **ABOUT,
        "idea": "The paper's version: sparse connections, trainable subsampling, outputs as distances.",
        "recipe": "lenet5-1998",
    },
)
