"""The Vision Transformer: an image is a sequence of patches.

Dosovitskiy et al. 2020, "An image is worth 16x16 words: transformers for image recognition at scale",
arXiv:2010.11929

    z_0 = [class; x_1 E; ...; x_n E] + positions                          (1)
    z' = z + attention(norm(z))      z = z' + mlp(norm(z'))               (2, 3)
    logits = norm(z's class token) W                                      (4)

Axes: b batch, n tokens, c channels (the paper's D).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo._lazy import ops
from zoo.errors import WrongConfiguration
from zoo.layers import (
    Input,
    Model,
    add,
    attention,
    conv,
    dense,
    dropout,
    gelu,
    intermediate,
    layer_norm,
    parameter,
    token,
)
from zoo.preprocessing import HALF, Preprocessing
from zoo.random import normal, truncated_normal
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any


def vit(
    width: int,
    depth: int,
    heads: int,
    *,
    patch_size: int = 16,
    pooling: str = "token",
    dropout_rate: float = 0.0,
    norm_epsilon: float = 1e-6,
    image_size: int = 224,
    channels: int = 3,
    classes: int = 1000,
) -> keras.Model:
    """Build a Vision Transformer.

    `pooling` determines the head's input: the class "token", or the "average" of all patches, without a class
    token. Raises WrongConfiguration for another value, or an image size that is not a multiple of the patch
    size.
    """
    if pooling not in ("token", "average"):
        raise WrongConfiguration(f'vit: pooling={pooling!r}; expected "token" or "average"')
    if image_size % patch_size:
        raise WrongConfiguration(
            f"vit: image_size={image_size!r}; expected a multiple of patch_size={patch_size!r}"
        )
    image = Input((image_size, image_size, channels))  # (b, 224, 224, 3)
    x = conv(image, width, patch_size, patch_size, padding=0, name="patch_embedding")  # (b, 14, 14, c)
    x = ops.reshape(x, (-1, x.shape[1] * x.shape[2], width))  # (b, 196, c)
    if pooling == "token":
        x = token(x, name="class_token")  # (b, 197, c)
    positions = (1, x.shape[1], width)
    x = x + parameter(x, positions, initializer=normal(0.02), name="position_embedding")  # (b, n, c)
    x = dropout(x, dropout_rate, name="dropout")
    for i in range(1, depth + 1):
        x = intermediate(block(x, heads, dropout_rate, norm_epsilon, name=f"block{i}"), f"block{i}")
    x = layer_norm(x, epsilon=norm_epsilon, name="norm")  # (b, n, c)
    x = x[:, 0] if pooling == "token" else ops.mean(x, axis=1)  # (b, c)
    x = intermediate(x, "features")
    return Model(image, dense(x, classes, initializer=truncated_normal(0.02), name="head"))  # (b, classes)


def block(x: Tensor, heads: int, dropout_rate: float, epsilon: float, *, name: str) -> Tensor:
    """(b, n, c) -> (b, n, c)."""
    y = attention(layer_norm(x, epsilon=epsilon, name=f"{name}_norm1"), heads, name=f"{name}_attention")
    x = add(x, dropout(y, dropout_rate, name=f"{name}_dropout1"))
    y = layer_norm(x, epsilon=epsilon, name=f"{name}_norm2")
    width, nearly_zero = x.shape[-1], normal(1e-6)
    y = gelu(dense(y, 4 * width, bias_initializer=nearly_zero, name=f"{name}_mlp1"))  # (b, n, 4c)
    y = dropout(y, dropout_rate, name=f"{name}_dropout2")
    y = dense(y, width, bias_initializer=nearly_zero, name=f"{name}_mlp2")  # (b, n, c)
    return add(x, dropout(y, dropout_rate, name=f"{name}_dropout3"))


ABOUT = {
    "paper": 'Dosovitskiy et al. 2020, "An image is worth 16x16 words: transformers for image '
    'recognition at scale"',
    "url": "https://arxiv.org/abs/2010.11929",
    "year": 2020,
    "idea": "An image is a sequence of patches.",
    "task": "digits",
    "recipe": "vit",
}
# Table 1 of the paper, and Touvron et al. 2021 (arXiv:2012.12877) for the two smaller: name, width, depth,
# heads, patch size, parameters, multiply-adds, and the preprocessing of torchvision's weights; for the
# two smaller, that of Steiner et al. 2021 (arXiv:2106.10270).
AUGREG = Preprocessing(224, 248, "bicubic", HALF, HALF)
TABLE_1 = (
    ("vit-ti16", 192, 12, 3, 16, 5_717_416, 1_253_683_200, AUGREG),
    ("vit-s16", 384, 12, 6, 16, 22_050_664, 4_598_882_304, AUGREG),
    ("vit-b16", 768, 12, 12, 16, 86_567_656, 17_563_828_224, Preprocessing()),
    ("vit-b32", 768, 12, 12, 32, 88_224_232, 4_409_186_304, Preprocessing()),
    ("vit-l16", 1024, 24, 16, 16, 304_326_632, 61_554_712_576, Preprocessing(224, 242)),
    ("vit-l32", 1024, 24, 16, 32, 306_535_400, 15_377_539_072, Preprocessing()),
)
for name, width, depth, heads, patch_size, parameters, multiply_adds, preprocessing in TABLE_1:
    register(
        name,
        vit,
        family="vit" if name == "vit-b16" else None,
        parameters=parameters,
        multiply_adds=multiply_adds,
        preprocessing=preprocessing,
        tokens=(224 // patch_size) ** 2 + 1,
        small={
            "width": 32,
            "depth": 2,
            "heads": 2,
            "patch_size": 4,
            "dropout_rate": 0.1,
            "image_size": 16,
            "classes": 3,
        },
        width=width,
        depth=depth,
        heads=heads,
        patch_size=patch_size,
        about=ABOUT,
    )
