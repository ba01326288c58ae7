"""A multilayer perceptron the PyTorch way: an nn.Module, autograd, an optimizer that updates in place."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.benchmarks.references import Weights, choose

# fullgraph: an error rather than a model that silently runs in part in Python.
MODES = {"eager": lambda function: function, "compiled": partial(torch.compile, fullgraph=True)}


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.dense1 = nn.Linear(28 * 28, 256)
        self.dense2 = nn.Linear(256, 128)
        self.logits = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:  # (b, 1, 28, 28)
        x = F.relu(self.dense1(x.flatten(1)))  # (b, 256)
        x = F.relu(self.dense2(x))  # (b, 128)
        return self.logits(x)  # (b, 10)


def prepare(x: np.ndarray, y: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.tensor(x).permute(0, 3, 1, 2).contiguous(), torch.tensor(y, dtype=torch.int64)


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


def load(weights: Weights) -> MLP:
    """The zoo's (in, out) kernels are (out, in) here. With one channel, (h, w, c) is (c, h, w)."""
    model = MLP()
    arrays = [weight.T for weight in weights]
    model.load_state_dict({name: torch.tensor(a) for name, a in zip(model.state_dict(), arrays, strict=True)})
    return model


def read(model: MLP) -> Weights:
    arrays = [p.numpy(force=True).T for p in model.parameters()]
    return [np.array(array, order="C") for array in arrays]  # copies: the next step updates in place
