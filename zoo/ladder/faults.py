"""Faults to seed: each breaks one thing in one framework, and must be caught by the rung that it belongs to.

`zoo parity --faults` climbs the ladder with a small network that has a bit of everything, on two frameworks,
once for each fault, and lists which rung caught it first. A ladder that lets one through proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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
    """What is broken, and the first rung that must see it. `seed` makes the patches."""

    name: str
    rung: int
    seed: Callable[[], Patches]


def specimen() -> keras.Model:
    """(b, 8, 8, 1) -> (b, 10): convolutions, pools, norms, recurrences, drop-path, dropout, GELU, a penalty."""
    from zoo import layers as z

    image = z.Input((8, 8, 1))
    rows = image[..., 0]  # (b, 8, 8): a sequence, which ends with the last row that begins above zero
    real = z.lengths(z.relu(rows[..., 0]))  # (b,)
    read, first = z.gru(rows, 4, lengths=real, reverse=True, name="rows_gru")  # (b, 8, 4), (b, 4)
    _, *states = z.lstm(read, 4, lengths=real, states=(first, None), name="rows_lstm")  # (b, 4) twice
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
def seeded(name: str | None) -> Iterator[None]:
    """The fault of that name, while it lasts; None breaks nothing."""
    with ExitStack() as stack:
        if name is not None:
            for each in next(fault for fault in FAULTS if fault.name == name).seed():
                stack.enter_context(each)
        yield


# How things are broken


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
    """The same output, its gradient scaled: y + (f - 1)(y - stop(y))."""

    def around(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        y = original(*args, **kwargs)
        return y + (factor - 1) * (y - ops.stop_gradient(y))

    return around


def setting(**changes: Any) -> Callable[..., Any]:
    """The operation with other settings."""
    return lambda original, *args, **kwargs: original(*args, **{**kwargs, **changes})


def _other_gelu(original: Any, x: Any, *, approximate: bool) -> Any:
    return original(x, approximate=not approximate)


def _transposed(original: Any, x: Any, kernel: Any, bias: Any, **kwargs: Any) -> Any:
    return original(x, ops.transpose(kernel, (1, 0, 2, 3)), bias, **kwargs)


def _uneven(original: Any, x: Any, kernel: Any, bias: Any, *, stride: int, padding: int, groups: int) -> Any:
    """Padding as TensorFlow's "same" under a stride: all of it on one side."""
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
    fresh = (new_variance - (1 - kwargs["momentum"]) * variance) * ((n - 1) / n)
    return y, new_mean, (1 - kwargs["momentum"]) * variance + fresh


def _swapped_gates(original: Any, x: Any, h: Any, c: Any, *weights: Any) -> Any:
    """The forget gate first."""

    def swapped(w: Any) -> Any:
        i, f, *rest = ops.split(w, 4, axis=-1)
        return ops.concatenate([f, i, *rest], axis=-1)

    return original(x, h, c, *map(swapped, weights))


def _turned_update(original: Any, x: Any, h: Any, *weights: Any) -> Any:
    """(1 - z) h + z n, as Chung et al. 2014 have it: sigmoid(-a) is 1 - sigmoid(a)."""

    def turned(w: Any) -> Any:
        r, z, n = ops.split(w, 3, axis=-1)
        return ops.concatenate([r, -z, n], axis=-1)

    return original(x, h, *map(turned, weights))


def _reset_before(
    original: Any, x: Any, h: Any, kernel: Any, recurrent_kernel: Any, bias: Any, recurrent_bias: Any
) -> Any:
    return original(x, h, kernel, recurrent_kernel, bias + recurrent_bias, None)


def _fading() -> Patches:
    """In the padding the forget gate is left to what it learnt."""
    return [
        patch.object(import_module("zoo.layers.recurrent").LSTM, "PADDING_GATES", (-200.0, 0.0, 0.0, -200.0))
    ]


def _padding_first() -> Patches:
    """A padded sequence is turned as a whole."""
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
    """The memory of a moment is lost at every fifth update."""
    found = original(gradients)
    self.forgotten = getattr(self, "forgotten", 0) + 1
    if self.forgotten % 5 == 0:
        memory = self.state_dict()
        self.load_state_dict(
            {k: np.zeros_like(x) if k.startswith("momentum/") else x for k, x in memory.items()}
        )
    return found


def _unclipped(original: Any, self: Any, gradients: Any) -> Any:
    return gradients


def _dropped_batch(original: Any, self: Any, batch_size: int, seed: int, epoch: int) -> Any:
    """The short batch at an epoch's end is a batch of the next epoch's order."""
    found = list(original(batch_size, seed, epoch))
    first = next(iter(original(batch_size, seed, epoch + 1)))
    return iter([*found[:-1], tuple(part[: len(found[-1][0])] for part in first)])


def _no_penalty() -> Patches:
    return [patch.object(import_module("zoo.layers.common").L2, "__call__", lambda self, x: 0 * ops.sum(x))]


def _constructed(module: str, owner: str, name: str, value: Any) -> Callable[[], Patches]:
    """Objects of a class whose attribute is another than they were asked for."""

    def around(original: Any, self: Any, *args: Any, **kwargs: Any) -> None:
        original(*args, **kwargs)
        setattr(self, name, value)

    return method(module, owner, "__init__", around)


def _native(around: Callable[..., Any]) -> Callable[[], Patches]:
    """The native updater alone: Keras's engine goes on as it should."""

    def update(original: Any, self: Any, gradients: Any, *weight: Any) -> Any:
        return around(lambda gradients: original(gradients, *weight), self, gradients)

    def make() -> Patches:
        backend: Any = backends.current()
        return [_method(backend.Updater, "__call__", update)]

    return make


def _engine(name: str, around: Callable[..., Any]) -> Callable[[], Patches]:
    return method("training.engines", "NativeEngine", name, around)


def _lost_memory(original: Any, self: Any, memory: Any) -> Any:
    return original({k: np.zeros_like(x) if k.startswith("velocity/") else x for k, x in memory.items()})


def _lost_count(original: Any, self: Any, memory: Any) -> Any:
    return original({**memory, "batches": np.array(0)})


def _twice(original: Any, self: Any, batches: Any, per_epoch: int, *rest: Any) -> Any:
    def doubled() -> Iterator[Any]:
        last = None
        for i, batch in enumerate(batches):
            yield last if i % per_epoch == 3 else batch
            last = batch

    return original(doubled(), per_epoch, *rest)


def _once_more(original: Any, self: Any, gradients: Any) -> Any:
    """Beyond the twelve updates of the fourth rung."""
    found = original(gradients)
    self.counted = getattr(self, "counted", 0) + 1
    return original([0 * g for g in gradients]) if self.counted % 20 == 0 else found


def _other_mode(original: Any, model: Any, loss: Any, optimizer: Any, mode: str, *rest: Any) -> Any:
    default = backends.MODES[backends.current().NAME][0]
    return original(
        model, loss if mode == default else lambda y, x: 1.001 * loss(y, x), optimizer, mode, *rest
    )


def _half_prediction(original: Any, self: Any, x: Any) -> Any:
    logits = original(x)
    return np.roll(logits, 1, axis=-1)


FAULTS = (
    # 1 initial
    Fault(
        "the weights of one layer drawn from another seed",
        1,
        method("random", "Initializer", "draw", _other_seed),
    ),
    Fault("dense kernels drawn transposed", 1, method("random", "Initializer", "draw", _transposed_draw)),
    Fault("batches in the same order every epoch", 1, method("tasks", "Task", "batches", _no_order)),
    Fault("the short batch taken from another epoch", 1, method("tasks", "Task", "batches", _dropped_batch)),
    Fault("dropout reuses its first mask", 1, lambda: [wrap(random, "keep", _reused_mask)]),
    Fault("a dropout mask inverted", 1, lambda: [wrap(random, "keep", _inverted_mask)]),
    # 2 forward
    Fault("convolution kernels transposed", 2, operation("conv", _transposed)),
    Fault("a strided convolution padded on one side", 2, operation("conv", _uneven)),
    Fault("max pooling one beside", 2, operation("max_pool", lambda f, x, *a: f(ops.roll(x, 1, axis=1), *a))),
    Fault("GELU's other form", 2, operation("gelu", _other_gelu)),
    Fault("layer norm's epsilon 1e-3", 2, operation("layer_norm", setting(epsilon=1e-3))),
    Fault("batch norm's epsilon 1e-3", 2, operation("batch_norm", setting(epsilon=1e-3))),
    Fault("a biased running variance", 2, operation("batch_norm", _biased_variance)),
    Fault("batch norm's momentum turned round", 2, operation("batch_norm", setting(momentum=0.9))),
    Fault(
        "activation before normalization",
        2,
        operation("batch_norm", lambda f, x, *a, **k: f(ops.relu(x), *a, **k)),
    ),
    Fault("an LSTM's input and forget gates swapped", 2, operation("lstm", _swapped_gates)),
    Fault("a GRU's update gate turned round", 2, operation("gru", _turned_update)),
    Fault("a GRU's reset gate before its kernel", 2, operation("gru", _reset_before)),
    Fault("an LSTM's cell not kept in the padding", 2, _fading),
    Fault(
        "a GRU that speaks in the padding",
        2,
        method("layers.recurrent", "GRU", "trimmed", lambda f, self, outputs, lengths: outputs),
    ),
    Fault("a sequence read backwards from its padding", 2, _padding_first),
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
    Fault(
        "weight decay on biases and norms", 4, method("optimizers", "Optimizer", "group", _decays_everything)
    ),
    Fault("schedules one step ahead", 4, method("schedules", "WarmupDecay", "rate", _late)),
    Fault("momentum forgotten at every fifth update", 4, _native(_forgets)),
    Fault("gradients not clipped", 4, method("optimizers", "Optimizer", "_clip_gradients", _unclipped)),
    Fault("Nesterov's momentum plain", 4, _constructed("optimizers", "Momentum", "nesterov", False)),
    Fault("LAMB always corrects its bias", 4, _constructed("optimizers", "LAMB", "bias_correction", True)),
    # 5 training
    Fault("one batch of each epoch seen twice", 5, method("training.engines", "NativeEngine", "fit", _twice)),
    Fault("an update too many at each epoch's end", 5, _native(_once_more)),
    # 6 evaluation
    Fault("predictions of the neighbouring class", 6, _engine("predict", _half_prediction)),
    # 7 engines
    Fault("another loss in other modes", 7, operation("step", _other_mode)),
    # 8 resume
    Fault("second moments lost on resuming", 8, _engine("load_state_dict", _lost_memory)),
    Fault("the count of updates lost on resuming", 8, _engine("load_state_dict", _lost_count)),
)


def hunt(
    names: Sequence[str] | None = None, *, backends: Sequence[str] | None = None, show: Any = None
) -> list[dict[str, Any]]:
    """Seed each fault in the first of two frameworks: rows of fault, expected rung, and the rung that caught it.

    `caught` is None for a fault that no rung saw. The first row seeds nothing: there every rung must hold.
    """
    from zoo import ladder

    x = np.random.default_rng(0).normal(size=(100, 8, 8, 1)).astype(np.float32)
    y = (np.arange(100) % 10).astype(np.int32)
    with ladder.Hunt(specimen, x, y, backends=backends, show=show) as climb:
        rows = [climb.fault(None, 0)]
        rows += [
            climb.fault(fault.name, fault.rung) for fault in FAULTS if names is None or fault.name in names
        ]
    return rows
