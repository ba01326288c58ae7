"""PyTorch behind the zoo's contract; what each function does is said in `zoo.backends.Backend`."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.fx.experimental.proxy_tensor import make_fx
from zoo.backends import Device, Loss, allowed, find_device, host_memory

if TYPE_CHECKING:
    import keras

    from zoo.optimizers import Optimizer

NAME = "torch"


# The machine


def version() -> str:
    return torch.__version__


def devices() -> list[Device]:
    kind = "ROCm" if torch.version.hip else "CUDA"
    found = [
        Device(f"cuda:{i}", kind, torch.cuda.get_device_name(i), torch.cuda.mem_get_info(i)[1])
        for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append(Device("mps", "MPS", "Apple GPU", torch.mps.recommended_max_memory()))
    return [*found, Device("cpu", "CPU", platform.processor() or platform.machine(), None)]


def use_device(name: str) -> None:
    device = find_device(devices(), name)
    os.environ["KERAS_TORCH_DEVICE"] = device.name  # read when Keras is imported
    if device.kind in ("CUDA", "ROCm"):
        torch.cuda.set_device(device.name)


def set_threads(count: int) -> None:
    torch.set_num_threads(count)


def threads() -> int:
    return torch.get_num_threads()


def peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else host_memory()


def set_deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def synchronize(value: torch.Tensor) -> None:
    if value.is_cuda:
        torch.cuda.synchronize(value.device)
    elif value.is_mps:
        torch.mps.synchronize()


# Operations: the zoo's (b, h, w, c) are permuted views of torch's (b, c, h, w), nothing is copied


def tensor(array: np.ndarray) -> torch.Tensor:
    from zoo._lazy import ops

    return ops.convert_to_tensor(array)  # on the device that Keras computes on


def kernel_memory(kernel: np.ndarray) -> np.ndarray:
    # Stored as OIHW behind the HWIO shape: copying that permutation at every step costs ResNet-18 1.6x.
    return np.ascontiguousarray(kernel.transpose(3, 2, 0, 1)).transpose(2, 3, 1, 0)


def conv(
    x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, *, stride: int, padding: int
) -> torch.Tensor:
    y = F.conv2d(_channels_first(x), kernel.permute(3, 2, 0, 1), bias, stride, padding)
    return _channels_last(y)


def max_pool(x: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
    return _channels_last(F.max_pool2d(_channels_first(x), size, stride, padding))


def average_pool(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    return _channels_last(F.avg_pool2d(_channels_first(x), size, stride))


def dense(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return F.linear(x, kernel.mT, bias)


def batch_norm(
    x: torch.Tensor,
    gamma: torch.Tensor,
    beta: torch.Tensor,
    mean: torch.Tensor,
    variance: torch.Tensor,
    *,
    momentum: float,
    epsilon: float,
    training: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    if training:
        mean, variance = mean.clone(), variance.clone()  # torch updates them in place; a step is pure
    y = F.batch_norm(x.movedim(-1, 1), mean, variance, gamma, beta, training, momentum, epsilon)
    return y.movedim(1, -1), mean, variance


def layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    return F.layer_norm(x, gamma.shape, gamma, beta, epsilon)


def gelu(x: torch.Tensor, *, approximate: bool) -> torch.Tensor:
    return F.gelu(x, approximate="tanh" if approximate else "none")


def cross_entropy(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits, labels.long())


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


# Training


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda groups, s: torch.optim.SGD(groups, s["learning_rate"], fused=True),
    "AdamW": lambda groups, s: torch.optim.AdamW(
        groups, s["learning_rate"], (s["beta_1"], s["beta_2"]), s["epsilon"], fused=True
    ),
}  # fused: the same arithmetic in one kernel, on CPU, CUDA and MPS


def optimizer(description: Optimizer, variables: Sequence[keras.Variable]) -> torch.optim.Optimizer:
    settings = description.settings()
    decayed = [v.value for v in variables if description.decays(v)]
    exempt = [v.value for v in variables if not description.decays(v)]
    groups = [{"params": decayed, "weight_decay": settings["weight_decay"]}]
    groups += [{"params": exempt, "weight_decay": 0.0}] if exempt else []
    return OPTIMIZERS[type(description).__name__](
        groups, {**settings, "learning_rate": description.rate_at(0)}
    )


def gradients(
    model: keras.Model, loss: Loss
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, list[torch.Tensor]]]:
    pure = _pure(model, loss)

    def call(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        weights, state = _values(model.trainable_variables), _values(model.non_trainable_variables)
        value, gradients, _ = pure(weights, state, x, y)
        return value.detach(), gradients

    return call


def step(model: keras.Model, loss: Loss, optimizer: Optimizer, mode: str) -> EagerStep:
    kind = {"eager": EagerStep, "traced": TracedStep, "compiled": CompiledStep}[allowed(NAME, mode)]
    return kind(model, loss, optimizer)


class EagerStep:
    """The loop a torch user writes."""

    def __init__(self, model: keras.Model, loss: Loss, description: Optimizer):
        self.model, self.loss, self.description = model, loss, description
        self.optimizer = optimizer(description, model.trainable_variables)
        self.count = 0

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss = self.loss(y, self.model(x, training=True)) + sum(self.model.losses)
        loss.backward()
        self.update()
        return loss.detach()

    def update(self) -> None:
        if self.description.scheduled:
            for group in self.optimizer.param_groups:
                group["lr"] = self.description.rate_at(self.count)
        self.optimizer.step()
        self.count += 1

    def sync(self) -> None:
        pass  # torch trains the model's own variables


class TracedStep(EagerStep):
    """The same step as one flat graph, recorded once for each shape of batch: no Keras in the loop.

    The graph is a pure function of weights, state and batch. What a layer draws at random comes from its
    step counter, which is part of the state: nothing random is baked in.
    """

    def __init__(self, model: keras.Model, loss: Loss, description: Optimizer):
        super().__init__(model, loss, description)
        self.pure = _pure(model, loss)
        self.weights = _values(model.trainable_variables)
        self.state = _values(model.non_trainable_variables)
        self.graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        key = (x.shape, x.dtype, y.shape, y.dtype)
        if key not in self.graphs:
            self.graphs[key] = self.record(x, y)
        with torch.no_grad():
            loss, gradients, state = self.graphs[key](self.weights, self.state, x, y)
            for old, new in zip(self.state, state, strict=True):
                if new is not old:
                    old.copy_(new)
        for weight, gradient in zip(self.weights, gradients, strict=True):
            # A fused optimizer walks both in memory order. Autograd's own accumulation lays a gradient out
            # like its weight; here nothing else would.
            same = gradient.stride() == weight.stride()
            weight.grad = gradient if same else torch.empty_like(weight).copy_(gradient)
        self.update()
        return loss

    def record(self, x: torch.Tensor, y: torch.Tensor) -> Callable[..., Any]:
        graph = make_fx(self.pure)(self.weights, self.state, x, y)
        for node in list(graph.graph.nodes):  # autograd's bookkeeping: outside autograd a detach is nothing
            if node.target is torch.ops.aten.detach.default:
                node.replace_all_uses_with(node.args[0])
                graph.graph.erase_node(node)
        graph.graph.eliminate_dead_code()
        graph.recompile()
        return graph


class CompiledStep(TracedStep):
    """The recorded graph through TorchInductor: seconds to compile, worth it for long runs."""

    def record(self, x: torch.Tensor, y: torch.Tensor) -> Callable[..., Any]:
        return torch.compile(super().record(x, y), dynamic=False)


def predictor(model: keras.Model, mode: str) -> Callable[[torch.Tensor], torch.Tensor]:
    if allowed(NAME, mode) == "eager":

        def eager(x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return model(x, training=False)

        return eager

    graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def forward(weights: list[torch.Tensor], state: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return model.stateless_call(weights, state, x, training=False)[0]

    def traced(x: torch.Tensor) -> torch.Tensor:
        weights, state = _values(model.trainable_variables), _values(model.non_trainable_variables)
        with torch.no_grad():
            if (key := (x.shape, x.dtype)) not in graphs:
                graph = make_fx(forward)(weights, state, x)
                graphs[key] = torch.compile(graph, dynamic=False) if mode == "compiled" else graph
            return graphs[key](weights, state, x)

    return traced


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def _values(variables: Sequence[keras.Variable]) -> list[torch.Tensor]:
    return [v.value for v in variables]


def _pure(model: keras.Model, loss: Loss) -> Callable[..., Any]:
    """(weights, state, x, y) -> (loss, gradients, new state)."""
    forward: Any = model.stateless_call

    def call(weights: list[torch.Tensor], state: list[torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> Any:
        logits, state, penalties = forward(weights, state, x, training=True, return_losses=True)
        value = loss(y, logits) + sum(penalties)
        return value, list(torch.autograd.grad(value, weights)), list(state)

    return call
