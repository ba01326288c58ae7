"""Faults to inject: each breaks one thing in one framework, and must be caught by the rung that it belongs to.

`zoo parity --faults` runs the ladder on a small network that has layers of every kind, on two frameworks, once
for each fault, and lists which rung caught it first (`zoo.ladder.injection`). A ladder that misses a fault
proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any
from unittest.mock import patch

import numpy as np

from zoo import backends, random
from zoo._lazy import keras, ops

Patches = list[Any]  # of unittest.mock.patch


@dataclass(frozen=True)
class Fault:
    """What is broken, and the first rung that must catch it."""

    name: str
    rung: int
    patches: Callable[[], Patches]
    model: str | None = None  # of the zoo, that it is injected into; by default `network`


def network() -> keras.Model:
    """(b, 8, 8, 1) -> (b, 10): convolutions, pools, norms, recurrences, drop-path, dropout, GELU, a penalty."""
    from zoo import layers as z

    image = z.Input((8, 8, 1))
    rows = image[..., 0]  # (b, 8, 8): a sequence, which ends with the last row whose first value is positive
    lengths = z.lengths(z.relu(rows[..., 0]))  # (b,)
    y, state = z.gru(rows, 4, lengths=lengths, reverse=True, name="rows_gru")  # (b, 8, 4), (b, 4)
    _, *states = z.lstm(y, 4, lengths=lengths, states=(state, None), name="rows_lstm")  # (b, 4) twice
    x = z.conv(image, 4, 3, name="stem")  # (b, 8, 8, 4)
    x = z.relu(z.batch_norm(x, name="stem_norm"))
    y = z.conv(x, 4, 3, name="block_conv", regularizer=z.l2(1e-3))  # (b, 8, 8, 4)
    x = x + z.drop_path(z.gelu(y), 0.2, name="block_drop")
    x = z.conv(z.max_pool(x, 2), 6, 3, 2, name="down")  # (b, 4, 4, 4) -> (b, 2, 2, 6)
    x = z.flatten(z.average_pool(z.tanh(x), 2))  # (b, 6)
    x = ops.concatenate([x, *states], axis=-1)  # (b, 14)
    x = z.layer_norm(z.dense(x, 12, name="hidden"), name="hidden_norm")  # (b, 12)
    x = z.dropout(z.gelu_tanh(x), 0.2, name="hidden_drop")
    return z.Model(image, z.dense(x, 10, name="head"))


@contextmanager
def injected(name: str | None) -> Iterator[None]:
    """A context in which the fault of that name is injected; None injects nothing."""
    with ExitStack() as stack:
        if name is not None:
            for each in next(fault for fault in FAULTS if fault.name == name).patches():
                stack.enter_context(each)
        yield


# How something is broken


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> Any:
    """`owner.name` called through `around(original, *args, **kwargs)`."""
    original = getattr(owner, name)
    return patch.object(owner, name, lambda *args, **kwargs: around(original, *args, **kwargs))


def operation(name: str, around: Callable[..., Any]) -> Callable[[], Patches]:
    """One of the backend's functions."""
    return lambda: [wrap(backends.current(), name, around)]


def method(module: str, owner: str, name: str, around: Callable[..., Any]) -> Callable[[], Patches]:
    """A method of one of the zoo's classes, `around(original, self, ...)`."""
    return lambda: [_method(getattr(import_module(f"zoo.{module}"), owner), name, around)]


def _method(owner: Any, name: str, around: Callable[..., Any]) -> Any:
    original = getattr(owner, name)

    def broken(self: Any, *args: Any, **kwargs: Any) -> Any:
        return around(lambda *a, **k: original(self, *a, **k), self, *args, **kwargs)

    return patch.object(owner, name, broken)


def backward(factor: float) -> Callable[..., Any]:
    """The same output with its gradient scaled: y + (f - 1)(y - stop(y))."""

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = original(*args, **kwargs)
        return y + (factor - 1) * (y - ops.stop_gradient(y))

    return around


def setting(**settings: Any) -> Callable[..., Any]:
    """The operation with other settings."""
    return lambda original, *args, **kwargs: original(*args, **{**kwargs, **settings})


def _other_gelu(original: Any, x: Any, *, approximate: bool) -> Any:
    return original(x, approximate=not approximate)


def _transposed(original: Any, x: Any, kernel: Any, bias: Any, **kwargs: Any) -> Any:
    return original(x, ops.transpose(kernel, (1, 0, 2, 3)), bias, **kwargs)


def _uneven(original: Any, x: Any, kernel: Any, bias: Any, *, stride: int, padding: int, groups: int) -> Any:
    """All padding on one side, as with TensorFlow's "same" and a stride."""
    if stride > 1:
        x, padding = ops.pad(x, ((0, 0), (0, 2 * padding), (0, 2 * padding), (0, 0))), 0
    return original(x, kernel, bias, stride=stride, padding=padding, groups=groups)


def _biased_variance(
    original: Any, x: Any, gamma: Any, beta: Any, mean: Any, variance: Any, **kwargs: Any
) -> Any:
    y, new_mean, new_variance = original(x, gamma, beta, mean, variance, **kwargs)
    if not kwargs["training"]:
        return y, new_mean, new_variance
    n = x.shape[0] * x.shape[1] * x.shape[2]
    batch = (new_variance - (1 - kwargs["momentum"]) * variance) * ((n - 1) / n)
    return y, new_mean, (1 - kwargs["momentum"]) * variance + batch


def _swapped_gates(original: Any, x: Any, h: Any, c: Any, *weights: Any) -> Any:
    """The forget gate first."""

    def swapped(w: Any) -> Any:
        i, f, *rest = ops.split(w, 4, axis=-1)
        return ops.concatenate([f, i, *rest], axis=-1)

    return original(x, h, c, *map(swapped, weights))


def _inverted_update(original: Any, x: Any, h: Any, *weights: Any) -> Any:
    """(1 - z) h + z n, as in Chung et al. 2014: sigmoid(-a) is 1 - sigmoid(a)."""

    def inverted(w: Any) -> Any:
        r, z, n = ops.split(w, 3, axis=-1)
        return ops.concatenate([r, -z, n], axis=-1)

    return original(x, h, *map(inverted, weights))


def _reset_before(
    original: Any, x: Any, h: Any, kernel: Any, recurrent_kernel: Any, bias: Any, recurrent_bias: Any
) -> Any:
    return original(x, h, kernel, recurrent_kernel, bias + recurrent_bias, None)


def _short_constant(original: Any, x: Any, *, approximate: bool) -> Any:
    """sqrt(1/2) rounded to float32: gelu(s x) / s with s = 1 + 2e-8."""
    scale = float(np.float32(0.5**0.5)) / 0.5**0.5
    return original(scale * x, approximate=approximate) / scale


def _tf32(original: Any, x: Any, kernel: Any, bias: Any) -> Any:
    """The operands rounded to 11 bits: adding and subtracting a number 2^42 times larger drops 42 of 53."""

    def rounded(a: Any) -> Any:
        large = a * (2.0**42 + 1)
        return large - (large - a)

    return original(rounded(x), rounded(kernel), bias)


def _fading() -> Patches:
    """The forget gate is not saturated in the padding."""
    return [
        patch.object(import_module("zoo.layers.recurrent").LSTM, "PADDING_GATES", (-200.0, 0.0, 0.0, -200.0))
    ]


def _padding_first() -> Patches:
    """A padded sequence is reversed with its padding."""
    return [wrap(import_module("zoo.layers.recurrent"), "_reversed", lambda f, x, lengths: f(x, None))]


def _missing_gradient(original: Any, x: Any, kernel: Any, bias: Any) -> Any:
    return original(x, ops.stop_gradient(kernel), bias) + 0 * ops.sum(kernel)


def _doubled_softmax(original: Any, labels: Any, logits: Any, **kwargs: Any) -> Any:
    return original(labels, ops.softmax(logits), **kwargs)


def _summed_loss(original: Any, labels: Any, logits: Any, **kwargs: Any) -> Any:
    return original(labels, logits, **kwargs) * logits.shape[0]


def _late(original: Any, self: Any, xp: Any, step: Any) -> Any:
    return original(xp, step + 1)


def _decays_everything(original: Any, self: Any, variable: Any) -> Any:
    return original(variable)[0], self.weight_decay


def _reused_mask(original: Any, shape: Any, rate: Any, key: Any, step: Any) -> Any:
    return original(shape, rate, key, 0 * step)


def _inverted_mask(original: Any, *args: Any) -> Any:
    return ops.logical_not(original(*args))


def _no_order(original: Any, self: Any, batch_size: int, seed: int, epoch: int) -> Any:
    return original(batch_size, seed, 0)


def _other_seed(original: Any, self: Any, key: Any, shape: Any, out: Any) -> Any:
    return original((key[0] + 1, *key[1:]) if key[1] == "down" else key, shape, out)


def _transposed_draw(original: Any, self: Any, key: Any, shape: Any, out: Any) -> Any:
    if len(shape) == 2 and key[-1] == "kernel":
        out[...] = original(key, shape[::-1]).transpose()
        return out
    return original(key, shape, out)


def _forgets(original: Any, self: Any, gradients: Any) -> Any:
    """The momentum is reset at every fifth update."""
    result = original(gradients)
    self.calls = getattr(self, "calls", 0) + 1
    if self.calls % 5 == 0:
        self.load_state_dict(_zeroed("momentum/", self.state_dict()))
    return result


def _zeroed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {name: np.zeros_like(x) if name.startswith(prefix) else x for name, x in state.items()}


def _unclipped(original: Any, self: Any, gradients: Any) -> Any:
    return gradients


def _dropped_batch(original: Any, self: Any, batch_size: int, seed: int, epoch: int) -> Any:
    """The short batch at the end of an epoch has examples of the next epoch's first batch."""
    *batches, short = original(batch_size, seed, epoch)
    first = next(iter(original(batch_size, seed, epoch + 1)))
    return iter([*batches, tuple(part[: len(short[0])] for part in first)])


def _no_penalty() -> Patches:
    return [patch.object(import_module("zoo.layers.common").L2, "__call__", lambda self, x: 0 * ops.sum(x))]


def _constructed(module: str, owner: str, name: str, value: Any) -> Callable[[], Patches]:
    """Objects of a class with another value of an attribute than they were constructed with."""

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        setattr(self, name, value)

    return method(module, owner, "__init__", around)


def _native(around: Callable[..., Any]) -> Callable[[], Patches]:
    """Only the native updater: Keras's engine works as it should."""

    def update(original: Any, self: Any, gradients: Any, *weight: Any) -> Any:
        return around(lambda gradients: original(gradients, *weight), self, gradients)

    def make() -> Patches:
        backend: Any = backends.current()
        return [_method(backend.Updater, "__call__", update)]

    return make


def _engine(name: str, around: Callable[..., Any]) -> Callable[[], Patches]:
    return method("training.engines", "NativeEngine", name, around)


def _lost_velocity(original: Any, self: Any, state: Any) -> Any:
    return original(_zeroed("velocity/", state))


def _lost_count(original: Any, self: Any, state: Any) -> Any:
    return original({**state, "batches": np.array(0)})


def _repeated_batch(original: Any, self: Any, batches: Any, steps: Any) -> Any:
    def repeated() -> Iterator[Any]:
        last = None
        for i, batch in enumerate(batches):
            yield last if i % steps.per_epoch == 3 else batch
            last = batch

    return original(repeated(), steps)


def _extra_update(original: Any, self: Any, gradients: Any) -> Any:
    """At every twentieth update: rung 4 makes twelve."""
    result = original(gradients)
    self.calls = getattr(self, "calls", 0) + 1
    return original([0 * g for g in gradients]) if self.calls % 20 == 0 else result


def _other_mode(original: Any, model: Any, loss: Any, optimizer: Any, mode: str, *rest: Any) -> Any:
    default = backends.MODES[backends.current().NAME][0]
    return original(
        model, loss if mode == default else lambda y, x: 1.001 * loss(y, x), optimizer, mode, *rest
    )


def _shifted_classes(original: Any, self: Any, x: Any) -> Any:
    return np.roll(original(x), 1, axis=-1)


def _sees_padding(original: Any, self: Any, real: Any, cache: Any, count: Any) -> Any:
    """A query that sees padding alone attends to it."""
    return ops.ones_like(original(real, cache, count))


def _padding_behind(original: Any, unmasked: Any, dtype: str) -> Any:
    """The mask is a number of tokens: as if padding were always behind them."""
    real = ops.cast(unmasked, "int32")
    count = ops.sum(real, axis=-1, keepdims=True)
    return original(ops.cumsum(ops.ones_like(real), axis=-1) <= count, dtype)


def _alone_scaled(original: Any, x: Any, *weights: Any, **kwargs: Any) -> Any:
    return original(x * 1.001 if x.shape[0] == 1 else x, *weights, **kwargs)


def _lost_chunk(original: Any, x: Any, kernel: Any, bias: Any, **kwargs: Any) -> Any:
    """With more threads than one, the last product of each sum is lost."""
    if backends.current().threads() > 1:
        kernel = ops.concatenate([kernel[:-1], ops.zeros_like(kernel[-1:])], axis=0)
    return original(x, kernel, bias, **kwargs)


def _equal_weights(original: Any, self: Any, y: Any) -> int:
    return 1


def _padding_counted(original: Any, self: Any, y: Any) -> int:
    return y.size


def _equal_batches() -> Patches:
    """Keras's engine alone: `zoo.training.objectives.weighing` gives an optimizer the weight of a batch."""
    around = lambda f, loss, objective, optimizer: loss  # noqa: E731
    return [wrap(import_module("zoo.training.engines"), "weighing", around)]


def _first_lost() -> Patches:
    """The first micro-batch of a window counts, but its gradients are zero."""

    def update(original: Any, self: Any, gradients: Any, weight: Any = None) -> Any:
        self.seen = getattr(self, "seen", 0) + 1
        if weight is not None and self.seen == 1:
            gradients = [0 * g for g in gradients]
        return original(gradients, weight)

    backend: Any = backends.current()
    return [_method(backend.Updater, "__call__", update)]


def _inexact_recomputation() -> Patches:
    """What is computed again has another gradient."""

    def remat(original: Any, function: Any) -> Any:
        def call(*args: Any) -> Any:
            outputs, state = function(*args)
            return keras.tree.map_structure(lambda y: backward(0.999)(lambda: y), outputs), state

        return original(call)

    return [wrap(keras, "remat", remat)]


def _small_scale() -> Patches:
    return [wrap(backends, "LossScaling", lambda original: original(initial_scale=2.0**-14))]


def _unscaled(original: Any, self: Any, gradients: Any) -> Any:
    """The gradients are those of another multiple of the loss than they are divided by."""
    scaling = getattr(self, "scaling", None) or getattr(self, "scaler", None)
    return original([1.25 * g for g in gradients] if scaling else gradients)


def _two_bits(original: Any, x: Any, kernel: Any, bias: Any, **kwargs: Any) -> Any:
    """In 16 bits, of factors with two bits (Dekker 1971, "A floating-point technique", section 5)."""
    if keras.backend.standardize_dtype(x.dtype) == "bfloat16":
        x, kernel = (65 * v - (65 * v - v) for v in (x, kernel))
    return original(x, kernel, bias, **kwargs)


def _nudged(original: Any, self: Any, gradients: list) -> Any:
    """The largest number of the first gradient is one ulp larger."""
    del self
    first, *others = gradients
    largest = ops.cast(ops.abs(first) == ops.max(ops.abs(first)), "int32")
    first = ops.view(ops.view(first, "int32") + largest, "float32")
    return original([first, *others])


def _ordinary_sum(original: Any, x: Any, axes: Any, **rest: Any) -> Any:
    del original, rest
    return ops.cast(ops.sum(x, axis=tuple(axes), keepdims=True), "float64")


def _exact(module: str, name: str, around: Callable[..., Any]) -> Callable[[], Patches]:
    """A function of the exact backend."""
    return lambda: [wrap(import_module(f"zoo.backends.{module}"), name, around)]


FAULTS = (
    # 0 bits: below the rounding of float32
    Fault(
        "one ulp in one weight's gradient",
        0,
        method("backends.exact_training", "Updater", "clipped", _nudged),
        "mlp",
    ),
    Fault("sums of float32, in a framework's order", 0, _exact("exact", "total", _ordinary_sum), "mlp"),
    Fault(
        "a framework's exponential function",
        0,
        _exact("exact_numbers", "exp", lambda _, x: ops.exp(x)),
        "mlp",
    ),
    # 1 initial
    Fault("one layer's weights from another seed", 1, method("random", "Initializer", "draw", _other_seed)),
    Fault("dense kernels drawn transposed", 1, method("random", "Initializer", "draw", _transposed_draw)),
    Fault("batches in the same order every epoch", 1, method("tasks", "Task", "batches", _no_order)),
    Fault("the short batch of another epoch", 1, method("tasks", "Task", "batches", _dropped_batch)),
    Fault("dropout reuses its first mask", 1, lambda: [wrap(random, "keep", _reused_mask)]),
    Fault("a dropout mask inverted", 1, lambda: [wrap(random, "keep", _inverted_mask)]),
    # 2 forward
    Fault("convolution kernels transposed", 2, operation("conv", _transposed)),
    Fault("a strided convolution padded on one side", 2, operation("conv", _uneven)),
    Fault("max pooling off by one", 2, operation("max_pool", lambda f, x, *a: f(ops.roll(x, 1, axis=1), *a))),
    Fault("GELU's other form", 2, operation("gelu", _other_gelu)),
    Fault("layer norm's epsilon 1e-3", 2, operation("layer_norm", setting(epsilon=1e-3))),
    Fault("batch norm's epsilon 1e-3", 2, operation("batch_norm", setting(epsilon=1e-3))),
    Fault("a biased running variance", 2, operation("batch_norm", _biased_variance)),
    Fault("batch norm's momentum inverted", 2, operation("batch_norm", setting(momentum=0.9))),
    Fault(
        "activation before normalization",
        2,
        operation("batch_norm", lambda f, x, *a, **k: f(ops.relu(x), *a, **k)),
    ),
    Fault("an LSTM's input and forget gates swapped", 2, operation("lstm", _swapped_gates)),
    Fault("a GRU's update gate inverted", 2, operation("gru", _inverted_update)),
    Fault("a GRU's reset gate before its kernel", 2, operation("gru", _reset_before)),
    Fault("an LSTM's cell state changed in the padding", 2, _fading),
    Fault(
        "a GRU's outputs not zero in the padding",
        2,
        method("layers.recurrent", "GRU", "mask_outputs", lambda f, self, outputs, lengths: outputs),
    ),
    Fault("a sequence read backwards from its padding", 2, _padding_first),
    Fault("a constant of GELU in float32", 2, operation("gelu", _short_constant)),
    Fault("matrix products in TF32", 2, operation("dense", _tf32)),
    Fault(
        "an LSTM's initial state of ones", 2, operation("lstm", lambda f, x, h, c, *w: f(x, h + 1, c + 1, *w))
    ),
    # 3 gradients
    Fault("the gradient of dense layers scaled by 1.001", 3, operation("dense", backward(1.001))),
    Fault("no gradient for dense kernels", 3, operation("dense", _missing_gradient)),
    Fault("the gradient of GELU scaled by 0.999", 3, operation("gelu", backward(0.999))),
    Fault("softmax twice", 3, operation("cross_entropy", _doubled_softmax)),
    Fault("the loss summed, not averaged", 3, operation("cross_entropy", _summed_loss)),
    Fault("dropout without its scale", 3, _constructed("layers.common", "Dropout", "scale", 1.0)),
    Fault("no penalty in the loss", 3, _no_penalty),
    # 4 update
    Fault("Adam's epsilon 1e-7", 4, _constructed("optimizers", "Adam", "epsilon", 1e-7)),
    Fault("Adam's beta_2 0.99", 4, _constructed("optimizers", "Adam", "beta_2", 0.99)),
    # As reported of Keras 3.0.2 on torch and TensorFlow alone (keras-team/keras#19051).
    Fault("AdamW's decay added to the gradient", 4, _constructed("optimizers", "AdamW", "DECOUPLED", False)),
    Fault(
        "weight decay on biases and norms", 4, method("optimizers", "Optimizer", "group", _decays_everything)
    ),
    Fault("schedules one step ahead", 4, method("schedules", "WarmupDecay", "rate", _late)),
    Fault("momentum reset at every fifth update", 4, _native(_forgets)),
    Fault("gradients not clipped", 4, method("optimizers", "Optimizer", "_clip_gradients", _unclipped)),
    Fault("Nesterov momentum ignored", 4, _constructed("optimizers", "Momentum", "nesterov", False)),
    Fault("LAMB with a bias correction", 4, _constructed("optimizers", "LAMB", "bias_correction", True)),
    # 5 training
    Fault("one batch of each epoch repeated", 5, _engine("fit", _repeated_batch)),
    Fault("an additional update in each epoch", 5, _native(_extra_update)),
    # 6 evaluation
    Fault("predictions of the neighbouring class", 6, _engine("predict", _shifted_classes)),
    # 7 engines
    Fault("another loss in other modes", 7, operation("step", _other_mode)),
    # 8 resume
    Fault("second moments lost on resuming", 8, _engine("load_state_dict", _lost_velocity)),
    Fault("the count of updates lost on resuming", 8, _engine("load_state_dict", _lost_count)),
    # 9 batch
    Fault("a batch of one example scaled by 1.001", 9, operation("conv", _alone_scaled)),
    Fault("a product lost with more threads than one", 9, operation("dense", _lost_chunk)),
    Fault(
        "a query before the first token attends to padding",
        9,
        method("layers.transformer", "Attention", "has_keys", _sees_padding),
        "gpt-nano",
    ),
    Fault(
        "a mask as if padding were always behind",
        9,
        lambda: [wrap(import_module("zoo.layers.cache"), "additive_mask", _padding_behind)],
        "t5-tiny",
    ),
    # 10 accumulation
    Fault(
        "micro-batches of different sizes counted alike",
        10,
        method("training.objectives", "Objective", "weight", _equal_weights),
    ),
    Fault(
        "masked tokens counted in micro-batches",
        10,
        method("training.objectives", "Objective", "weight", _padding_counted),
        "gpt-nano",
    ),
    Fault("micro-batches counted alike by Keras's engine", 10, _equal_batches),
    Fault("the gradients of the first micro-batch lost", 10, _first_lost),
    Fault("the gradients of recomputed layers scaled by 0.999", 10, _inexact_recomputation),
    # 11 precision
    Fault("the dtype policy ignored", 11, lambda: [patch.object(keras.config, "set_dtype_policy", id)]),
    Fault("a loss scale of 2^-14", 11, _small_scale),
    Fault(
        "gradients divided by another factor than the loss scale",
        11,
        _native(_unscaled),
    ),
    Fault("matrix products of numbers with two bits", 11, operation("dense", _two_bits)),
)
