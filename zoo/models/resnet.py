"""Residual networks: a block learns what to add to its input.

He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", arXiv:1512.03385

    y = relu(x + f(x))      f: 3 x 3, 3 x 3 (basic) or 1 x 1, 3 x 3, 1 x 1 (bottleneck) convolutions

The bottleneck strides in its 3 x 3 convolution ("v1.5"), as torchvision's weights do.
Axes: b batch, h height, w width, c channels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zoo.layers import (
    Input,
    Model,
    add,
    batch_norm,
    conv,
    dense,
    global_average_pool,
    intermediate,
    max_pool,
    relu,
)
from zoo.preprocessing import Preprocessing
from zoo.random import he_normal
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any


def conv_norm(x: Tensor, filters: int, size: int, stride: int = 1, *, name: str) -> Tensor:
    """(b, h, w, c) -> (b, h/stride, w/stride, filters): convolution and batch norm."""
    x = conv(x, filters, size, stride, use_bias=False, initializer=he_normal, name=name)
    return batch_norm(x, name=f"{name}_norm")


def basic(x: Tensor, width: int, stride: int, *, name: str) -> Tensor:
    """f of the shallower networks: two 3 x 3 convolutions."""
    y = relu(conv_norm(x, width, 3, stride, name=f"{name}_conv1"))  # (b, h/s, w/s, width)
    return conv_norm(y, width, 3, name=f"{name}_conv2")  # (b, h/s, w/s, width)


def bottleneck(x: Tensor, width: int, stride: int, *, name: str) -> Tensor:
    """f of the deeper networks: the 3 x 3 convolution has a quarter of the channels."""
    y = relu(conv_norm(x, width, 1, name=f"{name}_conv1"))  # (b, h, w, width)
    y = relu(conv_norm(y, width, 3, stride, name=f"{name}_conv2"))  # (b, h/s, w/s, width)
    return conv_norm(y, 4 * width, 1, name=f"{name}_conv3")  # (b, h/s, w/s, 4 width)


def residual(x: Tensor, block: Callable[..., Tensor], width: int, stride: int, *, name: str) -> Tensor:
    """relu(x + f(x)), with a projection of x if f changes the shape (option B)."""
    y = block(x, width, stride, name=name)
    if x.shape != y.shape:
        x = conv_norm(x, y.shape[-1], 1, stride, name=f"{name}_shortcut")
    return relu(add(x, y))


def resnet(
    depths: tuple[int, ...],
    block: Callable[..., Tensor],
    *,
    width: int = 64,
    image_size: int = 224,
    channels: int = 3,
    classes: int = 1000,
) -> keras.Model:
    """Build a residual network with `depths` blocks in the stages."""
    image = x = Input((image_size, image_size, channels))  # (b, 224, 224, 3)
    x = relu(conv_norm(x, width, 7, 2, name="stem"))  # (b, 112, 112, 64)
    x = max_pool(x, 3, 2, padding=1)  # (b, 56, 56, 64)
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            stride = 2 if stage > 1 and i == 1 else 1
            x = residual(x, block, width * 2 ** (stage - 1), stride, name=f"stage{stage}_block{i}")
        x = intermediate(x, f"stage{stage}")  # (b, h, w, c): 56, 28, 14, 7
    x = intermediate(global_average_pool(x), "features")  # (b, 512 or 2048)
    return Model(image, dense(x, classes, initializer=he_normal, name="head"))  # (b, classes)


ABOUT = {
    "paper": 'He, Zhang, Ren, Sun 2015, "Deep residual learning for image recognition"',
    "url": "https://arxiv.org/abs/1512.03385",
    "year": 2015,
    "idea": "A block learns what to add to its input.",
    "task": "digits",
    "recipe": "resnet",
}
# Table 1 of the paper: name, blocks per stage, kind of block, parameters, multiply-adds, receptive field.
TABLE_1 = (
    ("resnet18", (2, 2, 2, 2), basic, 11_689_512, 1_814_073_344, 435),
    ("resnet34", (3, 4, 6, 3), basic, 21_797_672, 3_663_761_408, 899),
    ("resnet50", (3, 4, 6, 3), bottleneck, 25_557_032, 4_089_184_256, 427),
    ("resnet101", (3, 4, 23, 3), bottleneck, 44_549_160, 7_801_405_440, 971),
    ("resnet152", (3, 8, 36, 3), bottleneck, 60_192_808, 11_513_626_624, 1451),
)
for name, depths, block, parameters, multiply_adds, receptive_field in TABLE_1:
    register(
        name,
        resnet,
        family="resnet" if name == "resnet50" else None,
        parameters=parameters,
        multiply_adds=multiply_adds,
        receptive_field=receptive_field,
        preprocessing=Preprocessing(),
        small={"depths": (1, 1), "width": 16, "image_size": 32, "classes": 3},
        depths=depths,
        block=block,
        about=ABOUT,
    )
