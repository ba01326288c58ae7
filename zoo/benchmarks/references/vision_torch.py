"""Vision models the PyTorch way: torchvision's models, in a training loop as its users write it.

torchvision 0.28, https://github.com/pytorch/vision. Images are (b, c, h, w), channels last in memory.
"""

# pyright: reportMissingImports=false
# torchvision is installed only in tox's environment "peers".

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.benchmarks.references import Reference, choose

try:
    from torchvision.models import VisionTransformer, get_model
except RuntimeError:
    # Its compiled operators load only with the torch that they were built for. No model needs them: otherwise
    # those that torchvision registers something for are declared.
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    library.define("qnms(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    library.define("roi_align(Tensor input) -> Tensor")
    from torchvision.models import VisionTransformer, get_model
from torchvision.ops import StochasticDepth

# fullgraph: an error rather than a model that silently runs in part in Python.
MODES = {"eager": lambda function: function, "compiled": partial(torch.compile, fullgraph=True)}
# Touvron et al. 2021, arXiv:2012.12877, table 1: width and heads. torchvision has no ViT as small.
SMALL_VITS = {"vit-ti16": (192, 3), "vit-s16": (384, 6)}
VITS = {"vit-b16": "vit_b_16", "vit-b32": "vit_b_32", "vit-l16": "vit_l_16", "vit-l32": "vit_l_32"}

State = Mapping[str, Tensor]


def reference(model: str) -> Reference:
    make = partial(build, model)
    return Reference(prepare, partial(trainer, make), partial(predictor, make), make, layout="torchvision")


def build(model: str) -> nn.Module:
    if model in SMALL_VITS:
        width, heads = SMALL_VITS[model]
        return VisionTransformer(224, 16, num_layers=12, num_heads=heads, hidden_dim=width, mlp_dim=4 * width)
    return get_model(VITS.get(model, model.replace("-", "_")))


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    images = torch.tensor(x).permute(0, 3, 1, 2)  # (b, c, h, w)
    return images.contiguous(memory_format=torch.channels_last), torch.tensor(y, dtype=torch.int64)


def trainer(
    make: Callable[[], nn.Module],
    weights: State,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "eager",
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], dict[str, np.ndarray]]]:
    model = load(make(), weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    cross_entropy = choose(mode, MODES)(lambda x, y: F.cross_entropy(model(x), y))

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()  # .item() would wait for the device

    return step, lambda: {name: x.numpy(force=True).copy() for name, x in model.state_dict().items()}


def predictor(
    make: Callable[[], nn.Module], weights: State, *, mode: str = "eager"
) -> Callable[[Tensor], Tensor]:
    model = choose(mode, MODES)(load(make(), weights).eval())

    @torch.inference_mode()
    def predict(x: Tensor) -> Tensor:
        return model(x)

    return predict


def load(model: nn.Module, weights: State) -> nn.Module:
    for layer in model.modules():
        if isinstance(layer, nn.Dropout | StochasticDepth):
            layer.p = 0.0  # pyright: ignore[reportArgumentType]
    model.load_state_dict(weights)
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
