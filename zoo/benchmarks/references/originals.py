"""The originals whose weights the zoo loads: torchvision's, timm's and transformers' own models.

`MODELS` builds them, narrower or shallower; `fill` sets random weights and running statistics; `logits` and
`learn` take images (b, h, w, c) and labels (b,) as NumPy arrays.
"""

# pyright: reportMissingImports=false
# They are installed only in tox's environment "peers".

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.benchmarks.references import vision_torch  # noqa: F401  before torchvision, whose operators it declares

# isort: split
import timm
import torchvision
import transformers
from torchvision.models import efficientnet, resnet
from torchvision.models import vgg as vgg_

CLASSES = 5


def alexnet() -> nn.Module:
    return narrow(torchvision.models.AlexNet(), 256 * 6 * 6)


def vgg(plan: list[Any], *, norm: bool) -> nn.Module:
    return narrow(vgg_.VGG(vgg_.make_layers(plan, norm), init_weights=False), 32 * 7 * 7)


def narrow(model: Any, inputs: int) -> nn.Module:
    """With dense layers of 24 units, which otherwise have nine tenths of the weights, and without dropout."""
    for i, layer in enumerate(model.classifier):
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
        elif isinstance(layer, nn.Linear):
            units = CLASSES if i == len(model.classifier) - 1 else 24
            model.classifier[i], inputs = nn.Linear(inputs, units), units
    return model


class ResNet(resnet.ResNet):
    """A quarter as wide, which its constructor does not support."""

    def __init__(self, block: Any, depths: list[int]) -> None:
        super().__init__(block, depths)
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
        self.fc = nn.Linear(self.fc.in_features // 4, CLASSES)

    def _make_layer(self, block: Any, planes: int, *args: Any, **kwargs: Any) -> nn.Sequential:
        if planes == 64:  # the first stage, after the stem
            self.inplanes = 16
        return super()._make_layer(block, planes // 4, *args, **kwargs)


def timm_resnet() -> nn.Module:
    """A quarter as wide."""
    bottleneck: Any = timm.models.resnet.Bottleneck
    model: Any = timm.models.ResNet(bottleneck, (2, 1, 1, 1), CLASSES, channels=(16, 32, 64, 128))
    model.conv1, model.bn1 = nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16)
    first = model.layer1[0]
    first.conv1 = nn.Conv2d(16, 16, 1, bias=False)
    first.downsample = nn.Sequential(nn.Conv2d(16, 64, 1, bias=False), nn.BatchNorm2d(64))
    return model


def mbconv(stages: int, **changes: Any) -> nn.Module:
    """The first stages of EfficientNet-B0."""
    settings = efficientnet._efficientnet_conf("efficientnet_b0", width_mult=1.0, depth_mult=1.0)[0]
    return efficientnet.EfficientNet(settings[:stages], 0.0, 0.0, CLASSES, **changes)


def vit(**changes: Any) -> nn.Module:
    config: Any = transformers.ViTConfig
    changes |= {"image_size": 32, "patch_size": 8, "num_labels": CLASSES, "layer_norm_eps": 1e-6}
    return transformers.ViTForImageClassification(config(**changes))


# by library and name
MODELS: dict[str, Callable[[], nn.Module]] = {
    "torchvision alexnet": alexnet,
    "torchvision vgg": partial(vgg, [8, "M", 16, 16, "M", 32, "M"], norm=False),
    "torchvision vgg_bn": partial(vgg, [8, "M", 16, 16, "M", 32, "M"], norm=True),
    "torchvision resnet": partial(ResNet, resnet.BasicBlock, [2, 2, 2, 2]),
    "torchvision resnet, bottlenecks": partial(ResNet, resnet.Bottleneck, [1, 2, 1, 1]),
    "torchvision efficientnet": partial(mbconv, 4),
    "torchvision efficientnet, b5's norm": partial(
        mbconv, 3, norm_layer=partial(nn.BatchNorm2d, eps=0.001, momentum=0.01)
    ),
    "torchvision vit": lambda: torchvision.models.VisionTransformer(
        32, 8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=256, num_classes=CLASSES
    ),
    "timm resnet": timm_resnet,
    "timm efficientnet": partial(
        timm.models.efficientnet._gen_efficientnet, "efficientnet_b0", 0.5, 0.5, num_classes=CLASSES
    ),
    "timm tf_efficientnet": partial(
        timm.models.efficientnet._gen_efficientnet, "tf_efficientnet_b0", 0.5, 0.5, num_classes=CLASSES,
        pad_type="same", bn_eps=1e-3,
    ),
    "timm vit": partial(
        timm.models.VisionTransformer, 32, 8, num_classes=CLASSES, embed_dim=64, depth=2, num_heads=4
    ),
    "timm vit, averaged": partial(
        timm.models.VisionTransformer, 32, 8, num_classes=CLASSES, embed_dim=64, depth=2, num_heads=4,
        global_pool="avg", class_token=False, fc_norm=False,
    ),
    "transformers vit": partial(
        vit, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=256
    ),
}  # fmt: skip


def fill(model: nn.Module, dtype: str) -> nn.Module:
    """Random weights and running statistics, scaled so that activations keep their size."""
    model, rng = model.to(getattr(torch, dtype)), np.random.default_rng(1)
    with torch.no_grad():
        for name, x in [*model.named_parameters(), *model.named_buffers()]:
            if x.ndim > 1 and len(x) > 1:
                x.copy_(torch.from_numpy(rng.normal(0, (2 * x.shape[0] / x.numel()) ** 0.5, x.shape)))
            elif name.endswith("running_var"):
                x.copy_(torch.from_numpy(rng.uniform(0.5, 1.5, x.shape)))
            elif x.is_floating_point():
                mean = 1 if name.endswith("weight") else 0
                x.copy_(torch.from_numpy(rng.normal(mean, 0.2, x.shape)))
    return model


def logits(model: nn.Module, x: np.ndarray) -> np.ndarray:
    """(b, h, w, c) -> (b, classes), in inference."""
    with torch.no_grad():
        return output(model.eval(), x).numpy()


def logits_at(model: Any, library: str, x: np.ndarray) -> np.ndarray:
    """(b, h, w, c) -> (b, classes), of a ViT with 8 x 8 patches, converted to the size of these images."""
    size, state = x.shape[1], model.state_dict()
    if library == "transformers":
        with torch.no_grad():
            pixels = torch.from_numpy(x).permute(0, 3, 1, 2)
            return model.eval()(pixels, interpolate_pos_encoding=True).logits.numpy()
    if library == "timm":
        grid = [size // 8, size // 8]
        state["pos_embed"] = timm.layers.resample_abs_pos_embed(state["pos_embed"], grid)
        other = timm.models.VisionTransformer(
            size, 8, num_classes=CLASSES, embed_dim=64, depth=2, num_heads=4
        )
    else:
        state = torchvision.models.vision_transformer.interpolate_embeddings(size, 8, state)
        other = torchvision.models.VisionTransformer(
            size, 8, num_layers=2, num_heads=4, hidden_dim=64, mlp_dim=256, num_classes=CLASSES
        )
    other.load_state_dict(state)
    return logits(other, x)


def learn(model: nn.Module, x: np.ndarray, y: np.ndarray) -> None:
    """One step of gradient descent on the mean cross-entropy, at a rate of 1."""
    F.cross_entropy(output(model.train(), x), torch.from_numpy(y).long()).backward()
    torch.optim.SGD(model.parameters(), 1.0).step()


def output(model: nn.Module, x: np.ndarray) -> torch.Tensor:
    logits = model(torch.from_numpy(x).permute(0, 3, 1, 2))
    return getattr(logits, "logits", logits)  # transformers wraps them


def full(name: str) -> nn.Module:
    """A model of torchvision or timm in full size, on the meta device."""
    library, _, model = name.partition(" ")
    make = torchvision.models.get_model if library == "torchvision" else timm.create_model
    with torch.device("meta"):
        return make(model, num_classes=1000)


def count(model: nn.Module, size: int) -> tuple[int, float]:
    """Parameters, and multiply-adds of one image."""
    torch.backends.mha.set_fastpath_enabled(False)  # the counter does not support its operation
    with FlopCounterMode(display=False) as counter:
        model.eval()(torch.empty(1, 3, size, size, device="meta"))
    return sum(p.numel() for p in model.parameters()), counter.get_total_flops() / 2
