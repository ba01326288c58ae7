"""PyTorch behind the zoo's contract; its functions are documented in `zoo.backends.Backend`."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import inf
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
import torch.nn.functional as F
import zoo.backends.torch_operators as operators
from zoo.backends import (
    Device,
    Loss,
    LossScaling,
    Optimizer,
    allowed,
    check_layers,
    fall_back,
    find_device,
    host_memory,
    processor,
)
from zoo.backends.torch_graph import overwrite, record, tree, use_onednn
from zoo.backends.world import WHOLE, Launch, Part, World, get_world, part, sharding

from zoo.errors import BackendError, WrongConfiguration

if TYPE_CHECKING:
    import keras

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
    return [*found, Device("cpu", "CPU", processor(), None)]


def use_device(name: str) -> None:
    device = find_device(devices(), name)
    os.environ["KERAS_TORCH_DEVICE"] = device.name  # read when Keras is imported
    if device.kind in ("CUDA", "ROCm"):
        torch.cuda.set_device(device.name)


def _in_use() -> torch.device:
    return torch.device(os.environ.get("KERAS_TORCH_DEVICE") or devices()[0].name)  # as Keras chooses


def on_device() -> AbstractContextManager[Any]:
    device = _in_use()
    return nullcontext() if device == torch.get_default_device() else device  # which slows down creation


def set_threads(count: int) -> None:
    torch.set_num_threads(count)


def threads() -> int:
    return torch.get_num_threads()


def peak_memory() -> int:
    return torch.cuda.max_memory_allocated() if _in_use().type == "cuda" else host_memory()


def set_deterministic() -> None:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def use_tf32(enabled: bool) -> bool:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = enabled
    return _in_use().type == "cuda" and torch.cuda.get_device_capability() >= (8, 0)


def enable_float64() -> None:
    """Nothing to do: torch has them."""


def float64() -> AbstractContextManager[Any]:
    return nullcontext()


def join(launch: Launch, timeout: float, device: str | None) -> World:
    if device is not None or torch.cuda.is_available():
        use_device(device or f"cuda:{launch.local_rank}")
    if _in_use().type not in ("cpu", "cuda"):
        raise BackendError(f"workers={launch.size}: gloo and NCCL do not sum on {_in_use()}; use the CPU")
    return _workers().TorchWorld(launch, _in_use(), timeout)


def check_workers(mode: str, model: keras.Model) -> None:
    del mode
    check_layers(model)


def _workers() -> Any:
    """Imported by workers only: it loads torch.distributed."""
    import zoo.backends.torch_world as workers

    return workers


def synchronize(value: torch.Tensor) -> None:
    if value.is_cuda:
        torch.cuda.synchronize(value.device)
    elif value.is_mps:
        torch.mps.synchronize()


def clear_cache() -> None:
    """Nothing to do: a graph is freed with its function."""


# Operations: the zoo's (b, h, w, c) are permuted views of torch's (b, c, h, w), nothing is copied


def tensor(array: np.ndarray) -> torch.Tensor:
    return _keras_ops().convert_to_tensor(array)  # on the device that Keras computes on


def empty(shape: Sequence[int], *, kernel: bool = False) -> np.ndarray:
    # A kernel of shape HWIO is stored as OHWI, channels last like the images, and a matrix as in
    # torch.nn.Linear: otherwise oneDNN and cuDNN copy it at every step, or read it more slowly.
    order = [*shape[-1:], *shape[:-1]] if kernel else list(shape)
    # Aligned as torch's own; NumPy's huge pages were measured to take up to five times as long to clear.
    memory = torch.empty(order, dtype=torch.float32, device="cpu")
    if not kernel:
        return memory.numpy()
    # Drawing weights accesses its pages out of order, and takes a fifth longer if they are not yet mapped.
    memory.view(-1)[:: mmap.PAGESIZE // 4] = 0
    return memory.movedim(0, -1).numpy()


def from_numpy(array: np.ndarray) -> torch.Tensor:
    return _keras_ops().convert_to_tensor(torch.from_numpy(array))  # Keras would copy an array


def _keras_ops() -> Any:
    """keras.ops, whose annotations are of every backend's tensors at once."""
    from keras import ops

    return ops


def concrete_value(x: torch.Tensor) -> np.ndarray | None:
    plain = type(x) is torch.Tensor and x.device.type == "cpu" and not torch.compiler.is_compiling()
    return x.detach().numpy() if plain else x if isinstance(x, np.ndarray) else None


def conv(
    x: torch.Tensor,
    kernel: torch.Tensor,
    bias: torch.Tensor | None,
    *,
    stride: int,
    padding: int,
    groups: int = 1,
) -> torch.Tensor:
    if kernel.shape[3] == 1:  # torch's float64 rejects the stride of a last axis of length 1
        kernel = kernel.reshape(1, *kernel.shape[:3]).movedim(0, 3)
    y = F.conv2d(_channels_first(x), kernel.permute(3, 2, 0, 1), bias, stride, padding, groups=groups)
    return _channels_last(y)


def max_pool(x: torch.Tensor, size: int, stride: int, padding: int) -> torch.Tensor:
    return _channels_last(F.max_pool2d(_channels_first(x), size, stride, padding))


def average_pool(x: torch.Tensor, size: int, stride: int) -> torch.Tensor:
    return _channels_last(F.avg_pool2d(_channels_first(x), size, stride))


def dense(
    x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor | None, *, transposed: bool = False
) -> torch.Tensor:
    return F.linear(x, kernel if transposed else _turned(kernel), bias)


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
    count = x.numel() // x.shape[-1]
    training = training and count > 0
    if training and part().of > 1:
        return _workers().batch_norm(
            x, gamma, beta, mean, variance, momentum=momentum, epsilon=epsilon, of=part().of
        )
    if training and count == 1:  # an error in F.batch_norm
        batch_mean = x.mean(list(range(x.ndim - 1)))
        y = (x - batch_mean) * (gamma * epsilon**-0.5) + beta
        return y, (1 - momentum) * mean + momentum * batch_mean.detach(), (1 - momentum) * variance
    if training:
        mean, variance = mean.clone(), variance.clone()  # torch updates them in place; a step is pure
    last = x.ndim - 1  # not `movedim`, which torch's ONNX exporter gets wrong
    y = F.batch_norm(
        x.permute(0, last, *range(1, last)), mean, variance, gamma, beta, training, momentum, epsilon
    )
    return y.permute(0, *range(2, x.ndim), 1), mean, variance


def layer_norm(x: torch.Tensor, gamma: torch.Tensor, beta: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    if x.shape[-1] == 1:  # torch's x * scale - mean * scale leaves a rounding error, times epsilon^-1/2
        return (x - x.mean(-1, keepdim=True)) * epsilon**-0.5 * gamma + beta
    if (
        x.itemsize < 4 and x.device.type == "cpu"
    ):  # its kernel adds up the gradients of gamma and beta in 16 bits
        return F.layer_norm(x.float(), gamma.shape, gamma.float(), beta.float(), epsilon).to(x.dtype)
    return F.layer_norm(x, gamma.shape, gamma, beta, epsilon)


def rms_norm(x: torch.Tensor, gamma: torch.Tensor, *, epsilon: float) -> torch.Tensor:
    if torch.onnx.is_in_onnx_export():  # torch's exporter does not support that operation
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon) * gamma
    return F.rms_norm(x, gamma.shape, gamma, epsilon)


def attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bias: torch.Tensor | None = None,
    *,
    causal: bool = False,
    scale: float,
    drop: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))  # (b, heads, n, d)
    if causal and (drop is not None or bias is not None):  # torch's own does not support both
        later = torch.full((query.shape[2],) * 2, -inf, dtype=query.dtype, device=query.device).triu(1)
        bias, causal = later if bias is None else bias + later, False
    if drop is None:
        y = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale)
    else:
        scores = query * scale @ _turned(key)
        y = drop(F.softmax(scores if bias is None else scores + bias, -1)) @ value
    return y.transpose(1, 2)


def lstm(
    x: torch.Tensor,
    h: torch.Tensor,
    c: torch.Tensor,
    kernel: torch.Tensor,
    recurrent_kernel: torch.Tensor,
    bias: torch.Tensor,
    recurrent_bias: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    weights = [_turned(kernel), _turned(recurrent_kernel), bias, recurrent_bias]
    if operators.has_cudnn(x):
        outputs, h, c, *_ = operators.cudnn(operators.LSTM, x.transpose(0, 1), h[None], c[None], weights)
    else:
        outputs, h, c = torch.lstm(x.transpose(0, 1), [h[None], c[None]], weights, *operators.RECURRENT)
    return outputs.transpose(0, 1), h[0], c[0]


def gru(
    x: torch.Tensor,
    h: torch.Tensor,
    kernel: torch.Tensor,
    recurrent_kernel: torch.Tensor,
    bias: torch.Tensor,
    recurrent_bias: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    if recurrent_bias is not None:
        weights = [_turned(kernel), _turned(recurrent_kernel), bias, recurrent_bias]
        if operators.has_cudnn(x):
            outputs, h, *_ = operators.cudnn(operators.GRU, x.transpose(0, 1), h[None], None, weights)
        elif torch.is_grad_enabled() or _is_exported():  # autograd and exporters need the single operations
            outputs, h = torch.gru(x.transpose(0, 1), h[None], weights, *operators.RECURRENT)
        else:
            outputs, h = operators.gru(x.transpose(0, 1), h[None], weights)
        return outputs.transpose(0, 1), h[0]
    _check_unrolled("a GRU that resets before the recurrent kernel")
    two, outputs = 2 * h.shape[-1], []
    for projected in dense(x, kernel, bias).unbind(1):
        r, z = (projected[:, :two] + h @ recurrent_kernel[:, :two]).sigmoid().chunk(2, -1)
        h = (1 - z) * torch.tanh(projected[:, two:] + (r * h) @ recurrent_kernel[:, two:]) + z * h
        outputs.append(h)
    return torch.stack(outputs, 1), h


def scan(
    step: Callable[[Sequence[torch.Tensor], torch.Tensor], Sequence[torch.Tensor]],
    states: Sequence[torch.Tensor],
    x: torch.Tensor,
) -> Sequence[torch.Tensor]:
    _check_unrolled("attention before every step of a decoder")
    found = []
    for now in x.unbind(0):
        found.append(states := step(states, now))
    return [torch.stack(every) for every in zip(*found, strict=True)]


def _check_unrolled(what: str) -> None:
    """Raise WrongConfiguration if a loop over steps is exported: ONNX would fix their number."""
    if torch.onnx.is_in_onnx_export():
        raise WrongConfiguration(
            f"{what} is a loop in Python, of which torch's exporter to ONNX keeps as many steps as its "
            "example has; export on TensorFlow or JAX"
        )


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def gelu(x: torch.Tensor, *, approximate: bool) -> torch.Tensor:
    return F.gelu(x, approximate="tanh" if approximate else "none")


def cross_entropy(
    labels: torch.Tensor, logits: torch.Tensor, *, label_smoothing: float = 0.0
) -> torch.Tensor:
    if labels.ndim == logits.ndim:
        return F.cross_entropy(logits, labels.to(logits.dtype), label_smoothing=label_smoothing)
    steps = labels.ndim > 1
    logits, targets = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1).long()
    if not steps:
        return F.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    total = F.cross_entropy(
        logits, targets, ignore_index=-1, reduction="sum", label_smoothing=label_smoothing
    )
    return total / (targets >= 0).sum().clamp(min=1)


def ctc_loss(labels: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return operators.ctc(labels, logits)[0].mean()


def _is_exported() -> bool:
    return torch.onnx.is_in_onnx_export() or torch.compiler.is_exporting()


def _turned(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(-1, -2)  # not `mT`, which torch's ONNX exporter does not support


def _channels_first(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 3, 1, 2)


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1)


# Training


class LAMB(torch.optim.Optimizer):
    """You et al. 2019, algorithm 2, which torch.optim does not have; see `zoo.optimizers.LAMB`."""

    def __init__(
        self, groups: Any, lr: float, betas: tuple[float, float], eps: float, *, bias_correction: bool
    ):
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.bias_correction = bias_correction

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        del closure
        for group in self.param_groups:
            (beta_1, beta_2), decay = group["betas"], group["weight_decay"]
            for weight in group["params"]:
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros(())
                    state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
                state["step"] += 1
                t, m, v = state["step"].item(), state["exp_avg"], state["exp_avg_sq"]
                m.mul_(beta_1).add_(weight.grad, alpha=1 - beta_1)
                v.mul_(beta_2).addcmul_(weight.grad, weight.grad, value=1 - beta_2)
                first, second = (1 - beta_1**t, 1 - beta_2**t) if self.bias_correction else (1.0, 1.0)
                update = m / first / (v.sqrt() / second**0.5 + group["eps"])
                if decay:
                    update.add_(weight, alpha=decay)
                size, length = weight.norm(), update.norm()
                ratio = torch.where((size > 0) & (length > 0), size / length, 1.0)
                weight.sub_(group["lr"] * ratio * update)


def _is_fused(groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether torch's fused SGD is correct: on a CPU, that of 2.13 does not update most 16-bit weights."""
    return all(
        w.dtype in (torch.float32, torch.float64) or w.device.type != "cpu"
        for group in groups
        for w in group["params"]
    )


# At momentum 0 torch.optim.SGD keeps no velocity and rejects Nesterov's: this value rounds to 0.
NO_MOMENTUM = 5e-324
# fused: the same arithmetic in one kernel, on CPU, CUDA and MPS
OPTIMIZERS: dict[str, Callable[[Any, float, Any], torch.optim.Optimizer]] = {
    "SGD": lambda groups, rate, o: torch.optim.SGD(groups, rate, fused=_is_fused(groups)),
    "Momentum": lambda groups, rate, o: torch.optim.SGD(
        groups, rate, max(o.momentum, NO_MOMENTUM), nesterov=o.nesterov, fused=_is_fused(groups)
    ),
    "Adam": lambda groups, rate, o: torch.optim.Adam(
        groups, rate, (o.beta_1, o.beta_2), o.epsilon, amsgrad=o.amsgrad, fused=True
    ),
    "AdamW": lambda groups, rate, o: torch.optim.AdamW(
        groups, rate, (o.beta_1, o.beta_2), o.epsilon, amsgrad=o.amsgrad, fused=True
    ),
    "LAMB": lambda groups, rate, o: LAMB(
        groups, rate, (o.beta_1, o.beta_2), o.epsilon, bias_correction=o.bias_correction
    ),
}
# the zoo's names of the state of Adam and its variants -> torch's
STATE = {"momentum": "exp_avg", "velocity": "exp_avg_sq", "largest": "max_exp_avg_sq"}


def optimizer(spec: Optimizer, variables: Sequence[keras.Variable]) -> torch.optim.Optimizer:
    return _optimizer(spec, variables, _values(variables))


def _optimizer(
    spec: Optimizer, variables: Sequence[keras.Variable], weights: Sequence[torch.Tensor]
) -> torch.optim.Optimizer:
    groups: dict[tuple[float, float], list[torch.Tensor]] = {}
    for variable, weight in zip(variables, weights, strict=True):
        groups.setdefault(spec.group(variable), []).append(weight)
    rate = spec.rate_at(0)
    return OPTIMIZERS[type(spec).__name__](
        [
            {"params": weights, "multiplier": multiplier, "weight_decay": decay, "lr": rate * multiplier}
            for (multiplier, decay), weights in groups.items()
        ],
        rate,
        spec,
    )


def updater(
    spec: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None = None
) -> Updater:
    return Updater(spec, variables, scaling)


class Updater:
    """torch.optim with loss scaling, accumulation, clipping, a schedule and averaging."""

    def __init__(self, spec: Optimizer, variables: Sequence[keras.Variable], scaling: LossScaling | None):
        self.spec, self.scaling = spec, scaling
        self.paths, self.weights = [v.path for v in variables], _values(variables)
        self.starts = [spec.start(v) for v in variables]
        # torch's fused kernels walk memory in order, and copy a gradient that they find permuted.
        self.flat = [_flat(weight.detach()) for weight in self.weights]
        self.optimizer = _optimizer(spec, variables, self.flat)
        self.updates = self.batches = self.good = 0
        self.loss_scale = scaling.initial_scale if scaling else spec.loss_scale_factor
        self.mean: list[torch.Tensor] | None = None  # of the accumulated gradients
        self.weight_sum = 0
        self.average: list[torch.Tensor] | None = None

    def scale(self, loss: torch.Tensor) -> torch.Tensor:
        return loss if self.loss_scale is None else loss * self.loss_scale

    @torch.no_grad()
    def __call__(self, gradients: Sequence[torch.Tensor], weight: int | None = None) -> None:
        o, gradients = self.spec, list(gradients)
        if self.loss_scale is not None:
            gradients = list(torch._foreach_div(gradients, self.loss_scale))
            if self.scaling and not self.rescale(gradients):
                return
        self.batches += 1
        if every := o.gradient_accumulation_steps:
            gradients = self.accumulate(gradients, 1 if weight is None else weight)
            if self.batches % every:
                return
            self.mean, self.weight_sum = None, 0
        for trained, flat, gradient in zip(self.weights, self.flat, self.clip(gradients), strict=True):
            # Autograd's own accumulation gives a gradient its weight's layout; a traced graph does not.
            same = gradient.squeeze().stride() == trained.squeeze().stride()
            flat.grad = _flat(gradient if same else torch.empty_like(trained).copy_(gradient))
        if o.scheduled:
            rate = o.rate_at(self.updates)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["multiplier"]
            if o.cycles:
                self.cycle(o.momentum_at(self.updates))
        self.optimizer.step()
        self.optimizer.zero_grad()  # frees them
        self.updates += 1
        if o.use_ema:
            self.remember()

    def accumulate(self, gradients: list[torch.Tensor], weight: int) -> list[torch.Tensor]:
        """The mean of the gradients since the last update, weighted by batch."""
        self.weight_sum += weight
        share = weight / self.weight_sum if self.weight_sum else 1.0
        if self.mean is None:
            self.mean = gradients
        else:
            self.mean = list(torch._foreach_mul(self.mean, 1 - share))
            torch._foreach_add_(self.mean, gradients, alpha=share)
        return self.mean

    def rescale(self, gradients: list[torch.Tensor]) -> bool:
        """Whether the gradients are finite; adjusts the loss scale."""
        assert self.scaling is not None
        assert self.loss_scale is not None
        finite = bool(torch.stack([g.isfinite().all() for g in gradients]).all())
        self.good = self.good + 1 if finite else 0
        if not finite:
            self.loss_scale /= 2
        elif self.good == self.scaling.growth_steps:
            self.loss_scale, self.good = self.loss_scale * 2, 0
        return finite

    def clip(self, gradients: list[torch.Tensor]) -> list[torch.Tensor]:
        o = self.spec
        if o.clipvalue:
            return [g.clamp(-o.clipvalue, o.clipvalue) for g in gradients]
        if o.clipnorm:
            return [g * (o.clipnorm / g.norm().clamp(min=o.clipnorm)) for g in gradients]
        if o.global_clipnorm:  # torch.nn.utils.clip_grad_norm_ adds 1e-6 to the norm
            total = torch.nn.utils.get_total_norm(gradients)
            return list(torch._foreach_mul(gradients, o.global_clipnorm / total.clamp(min=o.global_clipnorm)))
        return gradients

    def cycle(self, momentum: float) -> None:
        for group in self.optimizer.param_groups:
            if "momentum" in group:
                group["momentum"] = max(momentum, NO_MOMENTUM)
            else:
                group["betas"] = momentum, group["betas"][1]

    def remember(self) -> None:
        o = self.spec
        if self.average is None:
            self.average = [weight.detach().clone() for weight in self.weights]
        else:
            torch._foreach_lerp_(self.average, self.weights, 1 - o.ema_momentum)
        if o.ema_overwrite_frequency and self.updates % o.ema_overwrite_frequency == 0:
            self.copy_ema_to_weights()

    @torch.no_grad()
    def copy_ema_to_weights(self) -> None:
        for weight, average in zip(self.weights, self.average or self.weights, strict=True):
            weight.copy_(average)

    def state_name(self, kind: str) -> str:
        return "momentum_buffer" if isinstance(self.optimizer, torch.optim.SGD) else STATE[kind]

    def state_dict(self) -> dict[str, np.ndarray]:
        from keras.ops import convert_to_numpy

        zeros = [torch.zeros_like(w) for w in self.weights]
        kept: dict[str, list[torch.Tensor]] = {
            kind: [
                self.optimizer.state[flat][self.state_name(kind)].as_strided(w.shape, w.stride())
                for w, flat in zip(self.weights, self.flat, strict=True)
            ]
            if self.updates
            else zeros
            for kind in self.spec.SLOTS
        }
        if self.spec.use_ema:
            kept["average"] = self.average or zeros
        if self.spec.gradient_accumulation_steps:
            kept["gradients"] = self.mean or zeros
        found: dict[str, np.ndarray] = {"batches": np.array(self.batches)}
        if self.spec.gradient_accumulation_steps:
            found["weight_sum"] = np.array(self.weight_sum, np.int32)
        for kind, tensors in kept.items():
            pairs = zip(self.paths, tensors, strict=True)
            # By Keras's function, which copies: torch's own takes no bfloat16.
            found |= {f"{kind}/{path}": np.asarray(convert_to_numpy(x.detach())) for path, x in pairs}
        if self.scaling:
            found |= {"scale": np.array(self.loss_scale, np.float32), "scale_steps": np.array(self.good)}
        return found

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        def kept(kind: str) -> list[torch.Tensor]:
            return [
                torch.empty_like(w).copy_(torch.tensor(state[f"{kind}/{path}"])).detach()
                for path, w in zip(self.paths, self.weights, strict=True)
            ]

        o, every = self.spec, self.spec.gradient_accumulation_steps or 1
        self.batches = int(state["batches"])
        self.updates = self.batches // every
        self.average = kept("average") if o.use_ema and self.updates else None
        self.mean = kept("gradients") if self.batches % every else None
        self.weight_sum = int(state["weight_sum"]) if self.batches % every else 0
        slots = {self.state_name(kind): kept(kind) for kind in o.SLOTS} if self.updates else {}
        self.optimizer.state.clear()
        for i, flat in enumerate(self.flat if slots else ()):
            step = torch.tensor(float(self.updates - self.starts[i]), device=flat.device)
            self.optimizer.state[flat] = {"step": step, **{name: _flat(xs[i]) for name, xs in slots.items()}}
        if self.scaling:
            self.loss_scale, self.good = float(state["scale"]), int(state["scale_steps"])


def gradients(
    model: keras.Model, loss: Loss
) -> Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, list, list]]:
    pure = _pure(model, loss)

    def call(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, list, list]:
        weights, state = _values(model.trainable_variables), _values(model.non_trainable_variables)
        value, gradients, state = pure(weights, state, x, y, {})
        return value.detach(), gradients, state

    return call


def input_gradient(function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(function(x), x)[0]


def step(
    model: keras.Model, loss: Loss, optimizer: Optimizer, mode: str, scaling: LossScaling | None = None
) -> EagerStep:
    kind = {"eager": EagerStep, "traced": TracedStep, "compiled": CompiledStep}[allowed(NAME, mode)]
    return kind(model, loss, optimizer, scaling)


class EagerStep:
    """The training step that a torch user writes."""

    mode = "eager"

    def __init__(self, model: keras.Model, loss: Loss, spec: Optimizer, scaling: LossScaling | None):
        self.model, self.loss, self.world = model, loss, get_world()
        self.updater = Updater(spec, model.trainable_variables, scaling)

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, weight: int | None = None, part: Part = WHOLE
    ) -> torch.Tensor:
        with sharding(part):
            loss = self.loss(y, self.model(x, training=True)) + sum(self.model.losses)
            loss = loss if self.world.size == 1 else loss * part.weight
            self.updater.scale(loss).backward()
        found = ((x, x.grad) for x in self.updater.weights)
        gradients = [torch.zeros_like(x) if grad is None else grad for x, grad in found]
        for trained in self.updater.weights:
            trained.grad = None  # the next backward pass does not accumulate
        return self.updated(loss.detach(), gradients, weight)

    def updated(self, loss: torch.Tensor, gradients: list[torch.Tensor], weight: int | None) -> torch.Tensor:
        """Update by the gradients of all workers; the loss of the whole batch."""
        if self.world.size > 1:
            loss, gradients = cast(Any, self.world).sums(loss, gradients, self.updater.weights)
        self.updater(gradients, weight)
        return loss

    def sync(self) -> None:
        pass  # torch trains the model's own variables


FACTORS = {"scale": torch.float32, "share": torch.float64}  # of `_pure`


class TracedStep(EagerStep):
    """The same step as one flat graph, recorded once per batch shape, without Keras in the loop.

    The graph is a pure function of weights, state and batch. What a layer draws at random comes from its
    step counter, which is part of the state: nothing random is baked in. A model that cannot be recorded, as
    one whose Keras layers draw from a seed, is trained eagerly.
    """

    mode = "traced"

    def __init__(self, model: keras.Model, loss: Loss, spec: Optimizer, scaling: LossScaling | None):
        super().__init__(model, loss, spec, scaling)
        self.pure = _pure(model, loss)
        self.weights = [weight.detach() for weight in self.updater.weights]
        self.state = _values(model.non_trainable_variables)
        self.graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def __call__(
        self, x: torch.Tensor, y: torch.Tensor, weight: int | None = None, part: Part = WHOLE
    ) -> torch.Tensor:
        if self.mode == "eager":
            return super().__call__(x, y, weight, part)
        # Inputs of the graph: dynamic scaling changes the loss scale, and the weight is the batch's.
        numbers = {"scale": self.updater.loss_scale, "share": part.weight if self.world.size > 1 else None}
        factors = {
            name: torch.tensor(number, dtype=FACTORS[name], device=y.device)
            for name, number in numbers.items()
            if number is not None
        }
        key = (*_shapes(x, y), part.index, part.of)
        # Not under no_grad, where torch's LSTM keeps nothing for its backward pass, which the graph holds.
        if key not in self.graphs:
            try:
                with sharding(part):
                    graph = self.recorded(self.updater.weights, self.state, x, y, factors)
                results = graph(x, y, factors)
            except Exception as error:
                loss = super().__call__(x, y, weight, part)  # raises for a batch that does not fit
                self.mode = fall_back(self.model, self.mode, "eager", error)
                return loss
            self.graphs[key] = graph
        else:
            results = self.graphs[key](x, y, factors)
        loss, gradients, state = results
        for old, new in zip(self.state, state, strict=True):
            if new is not old:
                old.copy_(new)
        return self.updated(loss, gradients, weight)

    def recorded(self, *arguments: Any) -> Callable[..., Any]:
        return overwrite(record(self.pure, *arguments)).bound(self.weights, self.state)


def fit_step(model: keras.Model) -> Callable[[Any], Any] | None:
    return None if _has_own_step(model) else FitStep(model)


def _has_own_step(model: keras.Model) -> bool:
    """Whether a model's class defines a part of the training step itself."""
    import keras

    parts = "train_step", "compute_loss", "compute_metrics", "_compute_loss"
    return any(getattr(type(model), part) is not getattr(keras.Model, part) for part in parts)


class FitStep:
    """The training step of Keras's `fit`, whose loss and gradients come from a recorded graph.

    The loss, the metrics and the optimizer are the compiled model's. A step that cannot be recorded is
    Keras's own `train_step`.
    """

    def __init__(self, model: keras.Model):
        self.model: Any = model
        self.variables = model.trainable_variables
        self.weights, self.state = _values(self.variables), _values(model.non_trainable_variables)
        self.graphs: dict[tuple[Any, ...], Callable[..., Any]] | None = {}

    def __call__(self, data: Any) -> Any:
        (batch,) = data
        if self.graphs is None or len(batch) != 2:  # with sample weights
            return self.model.train_step(batch)
        x, y = _keras_tensors(batch)
        scale = self.model.optimizer.scale_loss(torch.ones((), device=y.device))
        if (key := _shapes(x, y)) not in self.graphs:
            try:
                graph = overwrite(record(self.pure, self.weights, self.state, x, y, scale))
                run = graph.bound([w.detach() for w in self.weights], self.state)
                loss, gradients, state = run(x, y, scale)
            except Exception:
                self.graphs = None
                return self.model.train_step(batch)
            self.graphs[key] = run
        else:
            loss, gradients, state = self.graphs[key](x, y, scale)
        with torch.no_grad():
            for old, new in zip(self.state, state, strict=True):
                if new is not old:
                    old.copy_(new)
            self.model._loss_tracker.update_state(loss)
            self.model.optimizer.apply(gradients, self.variables)
        return self.model.compute_metrics(x, y, None)

    def pure(
        self, weights: list[torch.Tensor], state: list[torch.Tensor], x: Any, y: torch.Tensor, scale: Any
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """(loss, gradients of the loss times `scale`, new state), without a change of the model."""
        import keras

        others = self.model.non_trainable_variables
        values = [*zip(self.variables, weights, strict=True), *zip(others, state, strict=True)]
        with keras.StatelessScope(state_mapping=values, collect_losses=True) as scope:
            loss = self.model._compute_loss(x=x, y=y, y_pred=self.model(x, training=True), training=True)
        if len(scope.state_mapping) > len(values):
            raise RuntimeError("a variable is assigned that is none of the model's")
        gradients = torch.autograd.grad(loss * scale, weights)  # raises for an unused weight: Keras skips it
        return loss, list(gradients), [cast(torch.Tensor, scope.get_current_value(v)) for v in others]


class CompiledStep(TracedStep):
    """The recorded graph compiled by TorchInductor: takes seconds, worthwhile for long runs."""

    mode = "compiled"

    def recorded(self, *arguments: Any) -> Callable[..., Any]:
        return record(self.pure, *arguments).bound(self.weights, self.state, compiled=True)


def stream(model: keras.Model, batches: Iterator[tuple[Any, np.ndarray]]) -> Any:
    del model
    return batches


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
        nonlocal mode
        with torch.no_grad():
            if mode == "eager":
                return model(x, training=False)
            if (key := _shapes(x)) not in graphs:
                known = _values(model.trainable_variables), _values(model.non_trainable_variables)
                try:
                    graph, compiled = record(forward, *known, x), mode == "compiled"
                except Exception as error:
                    logits = model(x, training=False)
                    mode = fall_back(model, mode, "eager", error)
                    return logits
                if not compiled:
                    # Not in training, where the traced step is bit-equal to the eager one.
                    graph = overwrite(use_onednn(graph) if _is_mkl_abroad() else graph)
                graphs[key] = graph.bound(*known, compiled=compiled)
            return graphs[key](x)

    return traced


def compile(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def program(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    if allowed(NAME, mode) == "eager":
        return function
    graphs: dict[tuple[Any, ...], Callable[..., Any]] = {}

    def traced(*arguments: Any) -> Any:
        if (key := _shapes(arguments)) not in graphs:
            graph, compiled = record(function, *arguments), mode == "compiled"
            graphs[key] = (graph if compiled else overwrite(graph)).bound(compiled=compiled)
        return graphs[key](*arguments)

    return traced


class _Custom(torch.autograd.Function):
    """`custom_gradient`; the first argument is its function."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., tuple[Any, Callable]], *tensors: torch.Tensor) -> Any:
        result, ctx.backward_function = function(*tensors)
        return result

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        found = ctx.backward_function(*gradients)
        return None, *(found if isinstance(found, tuple | list) else (found,))


def custom_gradient(function: Callable[..., tuple[Any, Callable]], *tensors: torch.Tensor) -> Any:
    return _Custom.apply(function, *tensors)


def value_and_gradients(
    function: Callable[[list], tuple[torch.Tensor, Any]], tensors: Sequence[torch.Tensor]
) -> tuple[torch.Tensor, Any, list]:
    weights = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        value, rest = function(weights)
        found = torch.autograd.grad(value, weights, materialize_grads=True)
    detached: Any = tree.tree_map(torch.Tensor.detach, rest)
    return value.detach(), detached, list(found)


def _is_mkl_abroad() -> bool:
    """Whether torch uses MKL for matrix products on a processor for which MKL does not use AVX-512.

    On an EPYC with AVX-512 oneDNN was measured to take half as long; Intel processors were not measured.
    """
    here = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    wide = torch.backends.cpu.get_cpu_capability() == "AVX512"
    return here and wide and "Intel" not in processor()


def _values(variables: Sequence[keras.Variable]) -> list[torch.Tensor]:
    return [v.value for v in variables]


def _shapes(*inputs: Any) -> tuple[Any, ...]:
    """The key of a recorded graph: the shapes and types of these tensors, or dicts of them."""
    return tuple((x.shape, x.dtype) for x in tree.tree_leaves(inputs))


def _keras_tensors(batch: Any) -> Any:
    """The arrays of a batch as tensors on the device that Keras computes on."""
    return tree.tree_map(_keras_ops().convert_to_tensor, tuple(batch))


def _flat(x: torch.Tensor) -> torch.Tensor:
    """A flat view of a tensor in memory order."""
    return x.as_strided((x.numel(),), (1,))


def _pure(model: keras.Model, loss: Loss) -> Callable[..., Any]:
    """(weights, state, x, y, factors) -> (loss times "share", its gradients times "scale", new state)."""
    forward: Any = model.stateless_call

    def call(
        weights: list[torch.Tensor],
        state: list[torch.Tensor],
        x: torch.Tensor,
        y: torch.Tensor,
        factors: Mapping[str, torch.Tensor],
    ) -> Any:
        logits, state, penalties = forward(weights, state, x, training=True, return_losses=True)
        value = loss(y, logits) + sum(penalties)
        value = value * factors["share"].to(value.dtype) if "share" in factors else value
        scaled = value * factors["scale"] if "scale" in factors else value
        return value, list(torch.autograd.grad(scaled, weights, materialize_grads=True)), list(state)

    return call
