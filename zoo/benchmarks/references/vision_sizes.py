"""The sizes of the vision references that are written out, from the papers' tables."""

from functools import partial
from math import ceil

from zoo.benchmarks.references.transformers_sizes import Shapes, dense, norm

# He et al. 2015, arXiv:1512.03385, table 1: blocks a stage
RESNETS = {
    "resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3), "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3), "resnet152": (3, 8, 36, 3),
}  # fmt: skip
# Simonyan and Zisserman 2014, arXiv:1409.1556, table 1: convolutions a stage
VGGS = {
    "vgg11": (1, 1, 2, 2, 2), "vgg13": (2, 2, 2, 2, 2), "vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4),
}  # fmt: skip
# Tan and Le 2019, arXiv:1905.11946: width, depth, and the authors' image size
EFFICIENTNETS = {
    "efficientnet-b0": (1.0, 1.0, 224),
    "efficientnet-b1": (1.0, 1.1, 240),
    "efficientnet-b2": (1.1, 1.2, 260),
    "efficientnet-b3": (1.2, 1.4, 300),
    "efficientnet-b4": (1.4, 1.8, 380),
    "efficientnet-b5": (1.6, 2.2, 456),
    "efficientnet-b6": (1.8, 2.6, 528),
    "efficientnet-b7": (2.0, 3.1, 600),
}
# Table 1 there: expansion, kernel, stride, channels, blocks
STAGES = (
    (1, 3, 1, 16, 1), (6, 3, 2, 24, 2), (6, 5, 2, 40, 2), (6, 3, 2, 80, 3), (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4), (6, 3, 1, 320, 1),
)  # fmt: skip
# Dosovitskiy et al. 2020, arXiv:2010.11929, table 1; Touvron et al. 2021, arXiv:2012.12877, table 1:
# width, blocks, heads, patch size
VITS = {
    "vit-ti16": (192, 12, 3, 16), "vit-s16": (384, 12, 6, 16), "vit-b16": (768, 12, 12, 16),
    "vit-b32": (768, 12, 12, 32), "vit-l16": (1024, 24, 16, 16), "vit-l32": (1024, 24, 16, 32),
}  # fmt: skip


def norm_constants(image_size: int) -> tuple[float, float]:
    """EfficientNet's batch norm: the weight of the new batch, and epsilon. From B5 on as in TensorFlow."""
    return (0.01, 1e-3) if image_size > 400 else (0.1, 1e-5)


def round_channels(channels: float) -> int:
    """Round to the nearest multiple of 8, but not down by more than 10%."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


def shapes(model: str) -> Shapes:
    """The shape of each weight by its name in the zoo."""
    if model in RESNETS:
        return resnet(RESNETS[model], bottleneck=model not in ("resnet18", "resnet34"))
    if model in EFFICIENTNETS:
        width, depth, _ = EFFICIENTNETS[model]
        return efficientnet(width, depth)
    if model in VITS:
        return vit(*VITS[model])
    name = model.removesuffix("-bn")
    return vgg(VGGS[name], norm=name != model) if name in VGGS else alexnet()


def conv(name: str, size: int, inputs: int, filters: int, *, bias: bool = True, norm: bool = False) -> Shapes:
    """A convolution, and the batch norm after it."""
    named: Shapes = {f"{name}/kernel": (size, size, inputs, filters)}
    named |= {f"{name}/bias": (filters,)} if bias else {}
    parts = ("gamma", "beta", "moving_mean", "moving_variance") if norm else ()
    return named | {f"{name}_norm/{part}": (filters,) for part in parts}


def classifier(inputs: int) -> Shapes:
    named = dense("dense1", inputs, 4096) | dense("dense2", 4096, 4096)
    return named | dense("head", 4096, 1000)


def alexnet() -> Shapes:
    named, inputs = Shapes(), 3
    for i, (size, filters) in enumerate(((11, 64), (5, 192), (3, 384), (3, 256), (3, 256)), start=1):
        named |= conv(f"conv{i}", size, inputs, filters)
        inputs = filters
    return named | classifier(inputs * 6 * 6)


def vgg(depths: tuple[int, ...], *, norm: bool) -> Shapes:
    named, inputs = Shapes(), 3
    for stage, depth in enumerate(depths, start=1):
        for i in range(1, depth + 1):
            filters = min(64 * 2 ** (stage - 1), 512)
            named |= conv(f"stage{stage}_conv{i}", 3, inputs, filters, norm=norm)
            inputs = filters
    return named | classifier(inputs * 7 * 7)


def resnet(depths: tuple[int, ...], *, bottleneck: bool) -> Shapes:
    unit = partial(conv, bias=False, norm=True)
    named, inputs = unit("stem", 7, 3, 64), 64
    for stage, depth in enumerate(depths, start=1):
        width = 64 * 2 ** (stage - 1)
        filters = 4 * width if bottleneck else width
        for i in range(1, depth + 1):
            name, first = f"stage{stage}_block{i}", 1 if bottleneck else 3
            named |= unit(f"{name}_conv1", first, inputs, width) | unit(f"{name}_conv2", 3, width, width)
            named |= unit(f"{name}_conv3", 1, width, filters) if bottleneck else {}
            if i == 1 and (stage > 1 or bottleneck):
                named |= unit(f"{name}_shortcut", 1, inputs, filters)
            inputs = filters
    return named | dense("head", inputs, 1000)


def efficientnet(width: float, depth: float) -> Shapes:
    unit, inputs = partial(conv, bias=False, norm=True), round_channels(32 * width)
    named = unit("stem", 3, 3, inputs)
    for stage, (expansion, size, _, channels, blocks) in enumerate(STAGES, start=1):
        for name in (f"stage{stage}_block{i}" for i in range(1, ceil(depth * blocks) + 1)):
            wide, squeezed, filters = (
                expansion * inputs,
                max(1, inputs // 4),
                round_channels(channels * width),
            )
            named |= unit(f"{name}_expand", 1, inputs, wide) if expansion > 1 else {}
            named |= unit(f"{name}_depthwise", size, 1, wide) | unit(f"{name}_project", 1, wide, filters)
            named |= conv(f"{name}_squeeze", 1, wide, squeezed) | conv(f"{name}_excite", 1, squeezed, wide)
            inputs = filters
    return named | unit("top", 1, inputs, 4 * inputs) | dense("head", 4 * inputs, 1000)


def vit(width: int, depth: int, heads: int, patch_size: int) -> Shapes:
    del heads  # their number does not change the shapes
    named = conv("patch_embedding", patch_size, 3, width)
    tokens = 1 + (224 // patch_size) ** 2
    named |= {"class_token/value": (1, 1, width), "position_embedding/value": (1, tokens, width)}
    for block in (f"block{i + 1}" for i in range(depth)):
        for part in ("query", "key", "value", "output"):
            named |= dense(f"{block}_attention_{part}", width, width)
        named |= dense(f"{block}_mlp1", width, 4 * width) | dense(f"{block}_mlp2", 4 * width, width)
        named |= norm(f"{block}_norm1", width) | norm(f"{block}_norm2", width)
    return named | norm("norm", width) | dense("head", width, 1000)
