"""EfficientNet: depth, width and resolution are scaled together by one coefficient.

Tan and Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks", arXiv:1905.11946

    depth x 1.2^phi      width x 1.1^phi      resolution x 1.15^phi      1.2 x 1.1^2 x 1.15^2 = 1.92, about 2

so that each step of phi about doubles the multiply-adds. The block is MobileNetV2's (Sandler et al. 2018,
arXiv:1801.04381): expand the channels, apply a depthwise convolution, project back; with squeeze and
excitation (Hu et al. 2017, arXiv:1709.01507) between, and a shortcut around where the shapes allow.
Axes: b batch, h height, w width, c channels.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Any

from zoo._lazy import ops
from zoo.errors import WrongConfiguration
from zoo.layers import (
    Input,
    Model,
    add,
    batch_norm,
    conv,
    dense,
    drop_path,
    dropout,
    global_average_pool,
    identity,
    intermediate,
    sigmoid,
    silu,
)
from zoo.preprocessing import Preprocessing
from zoo.random import normal, uniform
from zoo.registry import register

if TYPE_CHECKING:
    from collections.abc import Callable

    import keras

    Tensor = Any

# Table 1, the stages between the first and the last: expansion, kernel, stride, channels, blocks.
STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)


def efficientnet(
    width: float,
    depth: float,
    *,
    stages: tuple[tuple[int, ...], ...] = STAGES,
    dropout_rate: float = 0.2,
    drop_path_rate: float = 0.2,
    padding: str = "symmetric",
    norm_momentum: float = 0.1,
    norm_epsilon: float = 1e-5,
    image_size: int = 224,
    channels: int = 3,
    classes: int = 1000,
) -> keras.Model:
    """Build an EfficientNet whose channels and blocks are those of B0 times `width` and `depth`.

    `padding` is "symmetric", as torchvision's weights need, or "same" as in TensorFlow, for weights ported
    from there (timm's `tf_efficientnet`, with norm_epsilon=1e-3). The drop-path rate increases linearly to
    `drop_path_rate`.
    """
    if padding not in ("symmetric", "same"):
        raise WrongConfiguration(f'efficientnet: padding={padding!r}; expected "symmetric" or "same"')

    def unit(
        x: Tensor, filters: int, size: int, stride: int = 1, *,
        groups: int = 1, activation: Callable[[Tensor], Tensor] = silu, name: str,
    ) -> Tensor:  # fmt: skip
        """A convolution, batch norm, and an activation."""
        x = conv(
            x, filters, size, stride, groups=groups, use_bias=False,
            padding="same" if padding == "same" else None,
            initializer=normal((2 * groups / (size**2 * filters)) ** 0.5),  # He's, by the fan-out
            name=name,
        )  # fmt: skip
        return activation(batch_norm(x, momentum=norm_momentum, epsilon=norm_epsilon, name=f"{name}_norm"))

    image = x = Input((image_size, image_size, channels))  # (b, 224, 224, 3)
    x = unit(x, round_channels(32 * width), 3, 2, name="stem")  # (b, 112, 112, 32)
    repeats = [ceil(depth * blocks) for *_, blocks in stages]
    index = 0
    for stage, (expansion, size, stride, filters, _) in enumerate(stages, start=1):
        for i in range(1, repeats[stage - 1] + 1):
            x = block(
                x, unit, expansion, size, stride if i == 1 else 1, round_channels(filters * width),
                drop_path_rate * index / sum(repeats), name=f"stage{stage}_block{i}",
            )  # fmt: skip
            index += 1
        x = intermediate(x, f"stage{stage}")  # (b, h, w, c): 112, 56, 28, 14, 14, 7, 7
    x = unit(x, 4 * x.shape[-1], 1, name="top")  # (b, 7, 7, 1280)
    x = intermediate(global_average_pool(x), "features")  # (b, 1280)
    x = dropout(x, dropout_rate, name="dropout")
    return Model(image, dense(x, classes, initializer=uniform(classes**-0.5), name="head"))  # (b, classes)


def block(
    x: Tensor, unit: Callable[..., Tensor], expansion: int, size: int, stride: int, filters: int,
    rate: float, *, name: str,
) -> Tensor:  # fmt: skip
    """x + f(x), or f(x) where its shape is another."""
    c = x.shape[-1]
    y = unit(x, expansion * c, 1, name=f"{name}_expand") if expansion > 1 else x  # (b, h, w, 6c)
    y = unit(y, expansion * c, size, stride, groups=expansion * c, name=f"{name}_depthwise")
    y = squeeze_excite(y, max(1, c // 4), name=name)  # (b, h/s, w/s, 6c)
    y = unit(y, filters, 1, activation=identity, name=f"{name}_project")  # (b, h/s, w/s, filters)
    return add(x, drop_path(y, rate, name=f"{name}_drop_path")) if x.shape == y.shape else y


def squeeze_excite(x: Tensor, squeezed: int, *, name: str) -> Tensor:
    """(b, h, w, c) -> (b, h, w, c): each channel scaled by a gate computed from the means of all channels."""
    channels = x.shape[-1]
    y = ops.mean(x, axis=(1, 2), keepdims=True)  # (b, 1, 1, c)
    y = silu(conv(y, squeezed, 1, initializer=normal((2 / squeezed) ** 0.5), name=f"{name}_squeeze"))
    return x * sigmoid(conv(y, channels, 1, initializer=normal((2 / channels) ** 0.5), name=f"{name}_excite"))


def round_channels(channels: float) -> int:
    """Round to the nearest multiple of 8, but not down by more than 10%."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


ABOUT = {
    "paper": 'Tan, Le 2019, "EfficientNet: rethinking model scaling for convolutional neural networks"',
    "url": "https://arxiv.org/abs/1905.11946",
    "year": 2019,
    "idea": "Depth, width and resolution are scaled together.",
    "task": "digits",
    "recipe": "efficientnet",
}
# name; width, depth, image size and dropout (the authors' code); the size to which torchvision resizes;
# parameters; multiply-adds; receptive field. The largest three have TensorFlow's batch norm constants, as in
# torchvision.
TENSORFLOW: dict[str, Any] = {"norm_momentum": 0.01, "norm_epsilon": 1e-3}
PLAIN = {"dropout_rate": 0.2, "norm_momentum": 0.1, "norm_epsilon": 1e-5}
VARIANTS = (
    ("efficientnet-b0", (1.0, 1.0, 224, 0.2), 256, 5_288_548, 385_814_752, 851),
    ("efficientnet-b1", (1.0, 1.1, 240, 0.2), 256, 7_794_184, 686_802_832, 1183),
    ("efficientnet-b2", (1.1, 1.2, 260, 0.3), 260, 9_109_994, 993_561_872, 1183),
    ("efficientnet-b3", (1.2, 1.4, 300, 0.3), 320, 12_233_232, 1_827_141_392, 1407),
    ("efficientnet-b4", (1.4, 1.8, 380, 0.4), 384, 19_341_616, 4_393_771_024, 1799),
    ("efficientnet-b5", (1.6, 2.2, 456, 0.4), 456, 30_389_784, 10_266_384_752, 2131),
    ("efficientnet-b6", (1.8, 2.6, 528, 0.5), 528, 43_040_704, 19_067_593_536, 2523),
    ("efficientnet-b7", (2.0, 3.1, 600, 0.5), 600, 66_347_960, 37_745_884_192, 3079),
)
for name, (width, depth, image_size, dropout_rate), resize, parameters, multiply_adds, field in VARIANTS:
    register(
        name,
        efficientnet,
        family="efficientnet" if name == "efficientnet-b0" else None,
        parameters=parameters,
        multiply_adds=multiply_adds,
        receptive_field=field,
        preprocessing=Preprocessing(image_size, resize, "bicubic"),
        small={"stages": STAGES[:2], "width": 0.5, "depth": 1.0, "image_size": 32, "classes": 3, **PLAIN},
        width=width,
        depth=depth,
        image_size=image_size,
        dropout_rate=dropout_rate,
        **(TENSORFLOW if image_size > 400 else {}),
        about=ABOUT,
    )
