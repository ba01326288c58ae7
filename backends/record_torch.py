"""A `torch.nn.Module`, recorded by a `TorchFunctionMode`: every call of torch, and the module it is in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode
from zoo.backends.recording import Array, Recorder, View, kind_of, lstm_gates

# The arguments of operations with weights, by position; from the second on they are attributes or weights.
CONV = ("input", "kernel", "bias", "stride", "padding", "dilation", "groups")
ARGUMENTS = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), CONV),
    "linear": ("input", "kernel", "bias"),
    "addmm": ("bias", "input", "kernel"),
    "matmul": ("input", "kernel"),
    "mm": ("input", "kernel"),
    "batch_norm": ("input", "scale", "shift", "mean", "variance", "training", "momentum", "epsilon"),
    "layer_norm": ("input", "shape", "scale", "shift", "epsilon"),
    "rms_norm": ("input", "shape", "scale", "epsilon"),
    "group_norm": ("input", "groups", "scale", "shift", "epsilon"),
    "embedding": ("kernel", "input"),
    "gelu": ("input", "approximate"),
    "leaky_relu": ("input", "slope"),
    "elu": ("input", "alpha"),
    "hardtanh": ("input", "low", "high"),
    "dropout": ("input", "rate", "training"),
    "softmax": ("input", "axis"),
    "max_pool2d": ("input", "size", "stride", "padding", "dilation", "ceil"),
    "avg_pool2d": ("input", "size", "stride", "padding", "ceil", "count_padding"),
    "scaled_dot_product_attention": ("query", "key", "value", "mask", "rate", "causal", "scale"),
}
RENAMED = {
    "weight": "kernel",
    "eps": "epsilon",
    "running_mean": "mean",
    "running_var": "variance",
    "dim": "axis",
}
MOVES = {
    *("t", "transpose", "permute", "swapaxes", "movedim", "mT", "T", "flip", "roll"),
    *("view", "reshape", "flatten", "unflatten", "unsqueeze", "squeeze", "view_as", "contiguous", "clone"),
    *("chunk", "split", "split_with_sizes", "unbind", "getitem", "narrow", "select"),
    *("expand", "expand_as", "repeat", "detach", "data", "alias"),
}
CASTS = {"to", "type", "type_as", "float", "double", "half", "bfloat16"}


def load(built: torch.nn.Module, inputs: Any) -> TorchModel:
    """The module in float64 and inference mode."""
    del inputs
    return TorchModel(built)


class TorchModel:
    """See `zoo.backends.recording.Model`."""

    kind, trains = "torch.nn.Module", True

    def __init__(self, module: torch.nn.Module):
        torch.backends.mha.set_fastpath_enabled(False)  # it hides its weights from hooks
        self.module = module.double().eval()

    def stored(self) -> dict[str, torch.Tensor]:
        """Parameters and buffers with numbers in them, each once."""
        named = [*self.module.named_parameters(), *self.module.named_buffers()]
        return {name: x for name, x in named if x.is_floating_point()}

    def weights(self) -> dict[str, Array]:
        return {name: _numpy(x) for name, x in self.stored().items()}

    def set_weights(self, weights: Mapping[str, Array]) -> None:
        stored = self.stored()
        with torch.no_grad():
            for name, array in weights.items():
                stored[name].copy_(torch.from_numpy(np.array(array)))

    def call(self, inputs: Any) -> Any:
        """The module's output for arrays: positional, or named."""
        if isinstance(inputs, Mapping):
            return self.module(**{name: _tensor(x) for name, x in inputs.items()})
        return self.module(*(x if isinstance(x, torch.Tensor) else _tensor(x) for x in inputs))

    def run(
        self, inputs: Any, replacements: Mapping[str, Array] | None = None
    ) -> tuple[list[Array], Recorder]:
        recorder = Recorder(_numpy, lambda array, like: torch.from_numpy(array).to(like), replacements)
        given = inputs.values() if isinstance(inputs, Mapping) else inputs
        tensors = [_tensor(x) for x in given]
        for number, x in enumerate(tensors):
            recorder.input(number, x)
        named = dict(zip(inputs, tensors, strict=True)) if isinstance(inputs, Mapping) else None
        with torch.no_grad(), recording(self, recorder):
            result = self.module(**named) if named is not None else self.module(*tensors)
        return [_numpy(x) for x in tensors_in(result) if x.is_floating_point()], recorder

    def gradients(
        self, inputs: Any, targets: Sequence[Array], training: bool
    ) -> tuple[float, dict[str, Array]]:
        before = self.weights()
        with self.mode(training):
            value, found = self.differentiated(inputs, targets)
        self.set_weights(before)
        return value, found

    def differentiated(self, inputs: Any, targets: Sequence[Array]) -> tuple[float, dict[str, Array]]:
        """The loss and its gradients in the mode that the module is in."""
        trained = {name: x for name, x in self.stored().items() if x.requires_grad}
        outputs = [y for y in tensors_in(self.call(inputs)) if y.is_floating_point()]
        loss = sum(
            ((y - torch.from_numpy(t).reshape(y.shape)) ** 2).sum() / 2
            for y, t in zip(outputs, targets, strict=False)
        )
        assert isinstance(loss, torch.Tensor)
        found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        return loss.item(), {
            name: _numpy(torch.zeros_like(x) if g is None else g)
            for (name, x), g in zip(trained.items(), found, strict=True)
        }

    @contextmanager
    def mode(self, training: bool) -> Iterator[None]:
        """Training or inference mode, without dropout."""
        self.module.train(training)
        for module in self.module.modules():
            if re.search("drop|stochasticdepth", type(module).__name__.lower()):
                module.eval()
        with entered_functions(), _NoDropout():
            yield
        self.module.eval()

    def train(self, inputs: Any) -> dict[str, Array]:
        before = self.weights()
        with self.mode(training=True), torch.no_grad():
            self.call(inputs)
        after = self.weights()
        self.set_weights(before)
        return {name: x for name, x in after.items() if not np.array_equal(x, before[name], equal_nan=True)}


def tensors_in(value: Any) -> list[torch.Tensor]:
    """The tensors in nested lists, tuples, mappings and model outputs, in order."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [x for each in value.values() for x in tensors_in(each)]
    if isinstance(value, list | tuple):
        return [x for each in value for x in tensors_in(each)]
    return []


@contextmanager
def entered_functions() -> Iterator[None]:
    """Within, a mode sees what the Python functions of torch.nn.functional call, not these themselves."""
    functional: Any = torch.nn.functional
    with ExitStack() as stack:
        for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
            stack.enter_context(mock.patch.object(functional, name, return_value=False))
        yield


class _NoDropout(TorchFunctionMode):
    """Leaves dropout out, also that of functions, as of scaled_dot_product_attention."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        name, kwargs = getattr(func, "__name__", ""), dict(kwargs or {})
        if "dropout" in name:
            return args[0]
        if name == "scaled_dot_product_attention":
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return func(*args, **kwargs)


@contextmanager
def recording(model: TorchModel, recorder: Recorder) -> Iterator[None]:
    """Within, every operation of torch goes to the recorder."""
    path: list[str] = []
    with ExitStack() as stack:
        stack.enter_context(entered_functions())
        for name, module in model.module.named_modules():
            before = module.register_forward_pre_hook(lambda *_, name=name: path.append(name))
            after = module.register_forward_hook(lambda *_: (path.pop(), None)[1], always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        stack.enter_context(_Mode(model, recorder, path))
        yield


class _Mode(TorchFunctionMode):
    def __init__(self, model: TorchModel, recorder: Recorder, path: list[str]):
        super().__init__()
        self.recorder, self.path = recorder, path
        self.views = {id(x): View.whole(name, x.shape) for name, x in model.stored().items()}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name == "__get__":  # a property: x.T is a move, x.shape no tensor
            name = getattr(getattr(func, "__self__", None), "__name__", "")
        if name == "__set__" or not (outputs := tensors_in(result)):
            return result
        inputs = tensors_in([args, kwargs])
        plain = name.strip("_")
        if plain in MOVES | CASTS and inputs and id(inputs[0]) in self.views and not isinstance(result, dict):
            return self.moved(func, args, kwargs, result, inputs[0])
        try:
            return self.record(plain, args, kwargs, result, outputs, inputs)
        except RuntimeError:  # inside torch.vmap, whose tensors have no values
            return result

    def moved(
        self, func: Callable[..., Any], args: Any, kwargs: Any, result: Any, weight: torch.Tensor
    ) -> Any:
        """A weight rearranged: the same call on its indices gives the indices of the result."""
        view = self.views[id(weight)]
        indices = torch.from_numpy(view.indices)
        swapped = [indices if x is weight else x for x in args]
        new = indices if getattr(func, "__name__", "") in CASTS else func(*swapped, **kwargs)
        for tensor, moved in zip(tensors_in(result), tensors_in(new), strict=True):
            self.views[id(tensor)] = View(view.name, moved.numpy())
            self.recorder.alive.append(tensor)
        return result

    def record(
        self, name: str, args: Any, kwargs: Any, result: Any, outputs: list[torch.Tensor], inputs: list[Any]
    ) -> Any:
        kind, attributes, weights = kind_of(name), {}, {}
        if name in ARGUMENTS:
            kind, attributes, weights = self.known(name, args, kwargs)
        else:
            views = [self.views[id(x)] for x in inputs if id(x) in self.views]
            names = [f"weight{i or ''}" for i in range(len(views))]
            weights = dict(zip(names, views, strict=True))
            if name == "lstm" and len(views) in (2, 4):
                weights = lstm_gates(
                    dict(zip(("kernel", "recurrent", "bias", "second_bias"), views, strict=False))
                )
            kind = "move" if name in MOVES - {"flip", "roll"} else "cast" if name in CASTS else kind
        data = [x for x in inputs if id(x) not in self.views]
        where = self.path[-1] if self.path else ""
        new = self.recorder.add(name, where, data, outputs, kind=kind, attributes=attributes, weights=weights)
        return _refilled(result, iter(new))

    def known(self, name: str, args: Any, kwargs: Any) -> tuple[str, dict[str, Any], dict[str, View]]:
        named = dict(zip(ARGUMENTS[name], args, strict=False))
        named |= {RENAMED.get(key, key): value for key, value in kwargs.items()}
        if name.endswith("norm"):
            named = {"scale" if k == "kernel" else "shift" if k == "bias" else k: v for k, v in named.items()}
        weights = {role: self.views[id(x)] for role, x in named.items() if id(x) in self.views}
        attributes = {k: v for k, v in named.items() if not isinstance(v, torch.Tensor) and k != "input"}
        kind = kind_of(name)
        if name in ("addmm", "matmul", "mm") and "kernel" in weights and weights["kernel"].indices.ndim == 2:
            kind = "dense"
            weights["kernel"] = weights["kernel"].map(np.transpose)
        if kind == "conv":
            attributes = _conv_attributes(named)
        if kind == "batch_norm" and attributes.get("momentum") is not None:
            attributes["momentum"] = (
                1 - attributes["momentum"]
            )  # the weight of the old statistics, as Keras's
        return kind, {k: v for k, v in attributes.items() if _is_plain(v)}, weights


def _conv_attributes(named: Mapping[str, Any]) -> dict[str, Any]:
    kernel = named["kernel"].shape[2:]

    def each(name: str, default: int) -> list[int]:
        value = named.get(name, default)
        return [int(v) for v in value] if isinstance(value, Sequence) else [int(value)] * len(kernel)

    stride, dilation = each("stride", 1), each("dilation", 1)
    if isinstance(named.get("padding"), str):
        total = [
            d * (k - 1) if named["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        padding = [[t // 2, t - t // 2] for t in total]
    else:
        padding = [[p, p] for p in each("padding", 0)]
    return {
        "stride": stride, "padding": padding, "dilation": dilation, "groups": int(named.get("groups", 1)),
        "channels": 1,
    }  # fmt: skip


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _refilled(result: Any, new: Iterator[Any]) -> Any:
    """The same structure with other tensors."""
    if isinstance(result, torch.Tensor):
        return next(new)
    if (isinstance(result, tuple) and hasattr(result, "_fields")) or type(
        result
    ).__module__ == "torch.return_types":
        return type(result)([_refilled(x, new) for x in result])
    if isinstance(result, list | tuple):
        return type(result)(_refilled(x, new) for x in result)
    return result


def _tensor(array: Any) -> torch.Tensor:
    x = torch.from_numpy(np.array(array))
    return x.double() if x.is_floating_point() else x.long() if x.dtype == torch.int32 else x


def _numpy(tensor: torch.Tensor) -> Array:
    return tensor.detach().to("cpu").numpy().copy()
