"""LeNet-5 the PyTorch way: an nn.Module, autograd, an optimizer that updates the weights in place.

LeCun et al. 1998, "Gradient-based learning applied to document recognition", as it is taught today:
tanh, average pooling, every map of the first convolution connected to every map of the second.

Images are (b, c, h, w). `channels_last` changes only the strides of that shape; on a CPU it is faster here,
by a tenth to a third.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.benchmarks.references import Weights, choose

# fullgraph: an error rather than a model that silently runs in part in Python.
MODES = {"eager": lambda function: function, "compiled": partial(torch.compile, fullgraph=True)}


class LeNet5(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.dense1 = nn.Linear(16 * 5 * 5, 120)
        self.dense2 = nn.Linear(120, 84)
        self.logits = nn.Linear(84, 10)

    def forward(self, x: Tensor) -> Tensor:  # (b, 1, 32, 32)
        x = F.avg_pool2d(torch.tanh(self.conv1(x)), 2)  # (b, 6, 14, 14)
        x = F.avg_pool2d(torch.tanh(self.conv2(x)), 2)  # (b, 16, 5, 5)
        x = torch.tanh(self.dense1(x.flatten(1)))  # (b, 120)
        x = torch.tanh(self.dense2(x))  # (b, 84)
        return self.logits(x)  # (b, 10)


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    images = torch.tensor(x).permute(0, 3, 1, 2)  # (b, c, h, w)
    return images.contiguous(memory_format=torch.channels_last), torch.tensor(y, dtype=torch.int64)


def trainer(
    weights: Weights, *, learning_rate: float = 1e-3, weight_decay: float = 0.01, mode: str = "eager"
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[], Weights]]:
    model = load(weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)
    cross_entropy = choose(mode, MODES)(lambda x, y: F.cross_entropy(model(x), y))

    def step(x: Tensor, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()  # .item() would wait for the device

    return step, lambda: read(model)


def predictor(weights: Weights, *, mode: str = "eager") -> Callable[[Tensor], Tensor]:
    model = choose(mode, MODES)(load(weights).eval())

    @torch.inference_mode()
    def predict(x: Tensor) -> Tensor:
        return model(x)

    return predict


def load(weights: Weights) -> LeNet5:
    """The zoo's (h, w, in, out) kernels are (out, in, h, w) here, its (in, out) ones (out, in)."""
    conv1, bias1, conv2, bias2, dense1, *rest = weights
    # Its rows stand for pixels, flattened from (h, w, c) there and from (c, h, w) here.
    dense1 = dense1.reshape(5, 5, 16, 120).transpose(2, 0, 1, 3).reshape(400, 120)
    arrays = [conv1.transpose(3, 2, 0, 1), bias1, conv2.transpose(3, 2, 0, 1), bias2, dense1.T]
    arrays += [array.T for array in rest]
    model = LeNet5()
    model.load_state_dict({name: torch.tensor(a) for name, a in zip(model.state_dict(), arrays, strict=True)})
    return model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]


def read(model: LeNet5) -> Weights:
    conv1, bias1, conv2, bias2, dense1, *rest = (p.numpy(force=True) for p in model.parameters())
    dense1 = dense1.reshape(120, 16, 5, 5).transpose(2, 3, 1, 0).reshape(400, 120)
    arrays = [conv1.transpose(2, 3, 1, 0), bias1, conv2.transpose(2, 3, 1, 0), bias2, dense1]
    arrays += [array.T for array in rest]
    return [np.array(array, order="C") for array in arrays]  # copies: the next step updates in place
