"""AlexNet: a deep convolutional network with ReLU and dropout, for natural images.

Krizhevsky, Sutskever and Hinton 2012, "ImageNet classification with deep convolutional neural networks",
https://doi.org/10.1145/3065386

`alexnet` is the network as in torchvision: one column, after Krizhevsky 2014, "One weird trick for
parallelizing convolutional neural networks", arXiv:1404.5997, padded to take any size. `alexnet-2012` is that
of the first paper: two columns that meet in the third convolution, and local response normalization:

    b_i = a_i / (2 + 1e-4 sum_j a_j^2)^0.75      j over the five channels around i

Both use overlapping pooling (size 3, stride 2). Weights are initialized from N(0, 0.01); the biases of the
second, fourth and fifth convolution and of the hidden dense layers to 1, so that the ReLUs have positive
inputs initially (section 5). Axes: b batch, h height, w width, c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo._lazy import ops
from zoo.layers import (
    Input,
    Model,
    adaptive_average_pool,
    conv,
    dense,
    dropout,
    flatten,
    intermediate,
    max_pool,
    relu,
)
from zoo.preprocessing import Preprocessing
from zoo.random import Initializer, he_normal, normal, ones
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any


GAUSSIAN = normal(0.01)


def alexnet(
    widths: tuple[int, ...] = (64, 192, 384, 256, 256),
    *,
    units: int = 4096,
    dropout_rate: float = 0.5,
    start: Initializer = GAUSSIAN,
    image_size: int = 224,
    channels: int = 3,
    classes: int = 1000,
) -> keras.Model:
    """Build the AlexNet of one column."""
    zero, one = with_bias(start)
    image = x = Input((image_size, image_size, channels))  # (b, 224, 224, 3)
    x = relu(conv(x, widths[0], 11, 4, padding=2, **zero, name="conv1"))  # (b, 55, 55, 64)
    x = intermediate(max_pool(x, 3, 2), "stage1")  # (b, 27, 27, 64)
    x = relu(conv(x, widths[1], 5, **one, name="conv2"))  # (b, 27, 27, 192)
    x = intermediate(max_pool(x, 3, 2), "stage2")  # (b, 13, 13, 192)
    x = relu(conv(x, widths[2], 3, **zero, name="conv3"))  # (b, 13, 13, 384)
    x = relu(conv(x, widths[3], 3, **one, name="conv4"))  # (b, 13, 13, 256)
    x = relu(conv(x, widths[4], 3, **one, name="conv5"))  # (b, 13, 13, 256)
    x = intermediate(max_pool(x, 3, 2), "stage3")  # (b, 6, 6, 256)
    x = flatten(adaptive_average_pool(x, 6))  # (b, 9216)
    return Model(image, classify(x, units, dropout_rate, start, classes))


def alexnet_2012(
    widths: tuple[int, ...] = (96, 256, 384, 384, 256),
    *,
    units: int = 4096,
    dropout_rate: float = 0.5,
    start: Initializer = GAUSSIAN,
    image_size: int = 227,
    channels: int = 3,
    classes: int = 1000,
) -> keras.Model:
    """Build the AlexNet of two columns; 227 is what the paper's "224" must have been for its shapes."""
    zero, one = with_bias(start)
    image = x = Input((image_size, image_size, channels))  # (b, 227, 227, 3)
    x = relu(conv(x, widths[0], 11, 4, padding=0, **zero, name="conv1"))  # (b, 55, 55, 96)
    x = intermediate(max_pool(local_response_norm(x), 3, 2), "stage1")  # (b, 27, 27, 96)
    x = relu(conv(x, widths[1], 5, groups=2, **one, name="conv2"))  # (b, 27, 27, 256)
    x = intermediate(max_pool(local_response_norm(x), 3, 2), "stage2")  # (b, 13, 13, 256)
    x = relu(conv(x, widths[2], 3, **zero, name="conv3"))  # (b, 13, 13, 384)
    x = relu(conv(x, widths[3], 3, groups=2, **one, name="conv4"))  # (b, 13, 13, 384)
    x = relu(conv(x, widths[4], 3, groups=2, **one, name="conv5"))  # (b, 13, 13, 256)
    x = flatten(intermediate(max_pool(x, 3, 2), "stage3"))  # (b, 6, 6, 256) -> (b, 9216)
    return Model(image, classify(x, units, dropout_rate, start, classes))


def local_response_norm(x: Tensor) -> Tensor:
    """(b, h, w, c) -> the same: section 3.3, k = 2, n = 5, alpha = 1e-4, beta = 0.75."""
    channels = x.shape[-1]
    around = ops.pad(ops.square(x), ((0, 0), (0, 0), (0, 0), (2, 2)))
    energy = sum((around[..., i : i + channels] for i in range(1, 5)), around[..., :channels])
    return x * ops.power(2 + 1e-4 * energy, -0.75)


def classify(x: Tensor, units: int, dropout_rate: float, start: Initializer, classes: int) -> Tensor:
    """(b, n) -> (b, classes)."""
    zero, one = with_bias(start)
    for i in (1, 2):
        x = dropout(x, dropout_rate, name=f"dropout{i}")
        x = relu(dense(x, units, **one, name=f"dense{i}"))  # (b, 4096)
    return dense(intermediate(x, "features"), classes, **zero, name="head")


def with_bias(start: Initializer) -> tuple[dict[str, Any], dict[str, Any]]:
    """The initializers of a layer's kernel, with biases of 0 and of 1."""
    return {"initializer": start}, {"initializer": start, "bias_initializer": ones}


ABOUT = {
    "paper": 'Krizhevsky, Sutskever, Hinton 2012, "ImageNet classification with deep convolutional neural '
    'networks"',
    "url": "https://doi.org/10.1145/3065386",
    "year": 2012,
    "task": "digits",
    "recipe": "alexnet",
}
small = {
    "widths": (8, 16, 16, 16, 16), "units": 64, "dropout_rate": 0.1, "image_size": 67, "classes": 3,
    "start": he_normal,  # with so few channels N(0, 0.01) would shrink the signal to nothing
}  # fmt: skip

register(
    "alexnet",
    alexnet,
    preprocessing=Preprocessing(),
    parameters=61_100_840,
    multiply_adds=714_188_480,
    receptive_field=195,
    small=small,
    about={
        **ABOUT,
        "idea": "Deep convolutions, ReLU and dropout, trained on GPUs on natural images.",
    },
)
register(
    "alexnet-2012",
    alexnet_2012,
    preprocessing=Preprocessing(227),
    parameters=60_965_224,
    multiply_adds=724_406_816,
    receptive_field=195,
    small=small,
    about={**ABOUT, "idea": "The paper's version: two columns, local response normalization."},
)
