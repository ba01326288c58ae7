"""VGG: deep stacks of 3 x 3 convolutions; three have the receptive field of one 7 x 7, with fewer weights.

Simonyan and Zisserman 2014, "Very deep convolutional networks for large-scale image recognition",
arXiv:1409.1556

Axes: b batch, h height, w width, c channels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoo.layers import (
    Input,
    Model,
    adaptive_average_pool,
    batch_norm,
    conv,
    dense,
    dropout,
    flatten,
    intermediate,
    max_pool,
    relu,
)
from zoo.preprocessing import Preprocessing
from zoo.registry import register

if TYPE_CHECKING:
    import keras


def vgg(
    depths: tuple[int, ...],
    *,
    width: int = 64,
    norm: bool = False,
    units: int = 4096,
    dropout_rate: float = 0.5,
    image_size: int = 224,
    channels: int = 3,
    classes: int = 1000,
) -> keras.Model:
    """Build a VGG with `depths` convolutions in the stages, each followed by batch norm if `norm`.

    Weights are initialized as by Glorot and Bengio, which makes it unnecessary to train a shallower network
    first (section 3.1).
    """
    image = x = Input((image_size, image_size, channels))  # (b, 224, 224, 3)
    for stage, depth in enumerate(depths, start=1):
        filters = min(width * 2 ** (stage - 1), 8 * width)
        for i in range(1, depth + 1):
            x = conv(x, filters, 3, name=f"stage{stage}_conv{i}")  # (b, h, w, filters)
            x = relu(batch_norm(x, name=f"stage{stage}_conv{i}_norm") if norm else x)
        x = intermediate(max_pool(x, 2), f"stage{stage}")  # (b, h/2, w/2, filters)
    x = flatten(adaptive_average_pool(x, 7))  # (b, 7, 7, 512) -> (b, 25088)
    x = dropout(relu(dense(x, units, name="dense1")), dropout_rate, name="dropout1")  # (b, 4096)
    x = dropout(relu(dense(x, units, name="dense2")), dropout_rate, name="dropout2")  # (b, 4096)
    return Model(image, dense(intermediate(x, "features"), classes, name="head"))  # (b, classes)


ABOUT = {
    "paper": 'Simonyan, Zisserman 2014, "Very deep convolutional networks for large-scale image recognition"',
    "url": "https://arxiv.org/abs/1409.1556",
    "year": 2014,
    "idea": "Only 3 x 3 convolutions, and many of them.",
    "task": "digits",
    "recipe": "vgg",
}
# Table 1 of the paper, columns A, B, D and E: name, convolutions per stage, parameters without and with batch
# norm (arXiv:1502.03167, published a year later), multiply-adds, receptive field.
TABLE_1 = (
    ("vgg11", (1, 1, 2, 2, 2), 132_863_336, 132_868_840, 7_609_090_048, 150),
    ("vgg13", (2, 2, 2, 2, 2), 133_047_848, 133_053_736, 11_308_466_176, 156),
    ("vgg16", (2, 2, 3, 3, 3), 138_357_544, 138_365_992, 15_470_264_320, 212),
    ("vgg19", (2, 2, 4, 4, 4), 143_667_240, 143_678_248, 19_632_062_464, 268),
)
for name, depths, plain, normed, multiply_adds, receptive_field in TABLE_1:
    for norm in (False, True):
        register(
            f"{name}-bn" if norm else name,
            vgg,
            family="vgg" if name == "vgg16" and not norm else None,
            parameters=normed if norm else plain,
            multiply_adds=multiply_adds,
            receptive_field=receptive_field,
            preprocessing=Preprocessing(),
            small={
                "depths": (1, 1, 2),
                "width": 8,
                "units": 64,
                "dropout_rate": 0.1,
                "image_size": 16,
                "classes": 3,
            },
            depths=depths,
            norm=norm,
            about=ABOUT,
        )
