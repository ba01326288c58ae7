"""Recurrent layers written out in NumPy, and which form of them gives an output."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from zoo.ladder.causes.formulas import sigmoid

Array = np.ndarray
LSTM_GATES = {
    "input, forget, cell, output": (0, 1, 2, 3),
    "forget, input, cell, output": (1, 0, 2, 3),
    "input, forget, output, cell": (0, 1, 3, 2),
}
GRU_GATES = {"reset, update, new": (0, 1, 2), "update, reset, new": (1, 0, 2)}
LARGEST = 10**6  # numbers of an input that is recomputed


@dataclass(frozen=True)
class Form:
    """A form of a recurrent layer: the order of its gates, its initial state, and the rest in words."""

    gates: str
    state: str
    rest: str = ""


def lstm(x: Array, states: Sequence[Array], kernel: Array, recurrent: Array, bias: Array) -> Array:
    """The outputs (n, length, u) for gates in the order input, forget, cell, output; kernels (4 u, in)."""
    (h, c), outputs = states, []
    for step in np.moveaxis(x, 1, 0):
        i, f, g, o = np.split(step @ kernel.T + h @ recurrent.T + bias, 4, -1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        outputs.append(h := sigmoid(o) * np.tanh(c))
    return np.stack(outputs, 1)


def gru(
    x: Array,
    h: Array,
    kernel: Array,
    recurrent: Array,
    biases: tuple[Array, Array],
    *,
    reset_after: bool,
    inverted: bool,
) -> Array:
    """The outputs (n, length, u) for gates in the order reset, update, new; kernels (in, 3 u)."""
    u, outputs = h.shape[-1], []
    for step in np.moveaxis(x, 1, 0):
        projected, own = step @ kernel + biases[0], h @ recurrent + biases[1]
        r, z = np.split(sigmoid(projected[:, : 2 * u] + own[:, : 2 * u]), 2, -1)
        new = own[:, 2 * u :]
        if reset_after:
            candidate = np.tanh(projected[:, 2 * u :] + r * new)
        else:
            candidate = np.tanh(projected[:, 2 * u :] + biases[1][2 * u :] + (r * h) @ recurrent[:, 2 * u :])
        z = 1 - z if inverted else z
        outputs.append(h := (1 - z) * candidate + z * h)
    return np.stack(outputs, 1)


def backwards(x: Array, real: Array) -> Array:
    """The real steps of each sequence in reverse order, with the padding behind them as it is."""
    steps, ends = np.arange(x.shape[1])[None], real[..., 0].sum(1, keepdims=True)
    order = np.where(steps < ends, ends - 1 - steps, steps)
    return np.take_along_axis(x, order[..., None], 1)


def forms(kind: str, inputs: Sequence[Array], weights: Mapping[str, Array]) -> Iterator[tuple[Form, Array]]:
    """The forms of an "lstm" or a "gru" and their outputs, the usual ones first; the input is `inputs[0]`."""
    x = inputs[0]
    if x.ndim != 3 or x.size > LARGEST:
        return
    if kind == "lstm":
        weights = _with_gates_together(weights)
    recurrent = weights.get("recurrent" if kind == "lstm" else "recurrent_kernel")
    if recurrent is None:  # recorded as something else
        return
    u = recurrent.shape[1 if kind == "lstm" else 0]
    given = [s for s in inputs[1:] if s.shape == (len(x), u)]
    zeros = np.zeros((len(x), u))
    for start, gates in itertools.product(("zeros", "ones"), LSTM_GATES if kind == "lstm" else GRU_GATES):
        first = [s + (start == "ones") for s in [*given, zeros, zeros][:2]]
        words = start if not given else "the state given" if start == "zeros" else "the state given plus one"
        made = _lstms(x, first, weights, gates) if kind == "lstm" else _grus(x, first[0], weights, gates)
        for rest, y in made:
            yield Form(gates, words, rest), y


def _with_gates_together(weights: Mapping[str, Array]) -> dict[str, Array]:
    """An LSTM's weights by role, (4 units, in) or (4 units,), from those by role and gate."""
    gates: dict[str, dict[str, Array]] = {}
    for name, x in weights.items():
        role, _, gate = name.partition(".")
        gates.setdefault(role, {})[gate] = x
    return {
        role: np.concatenate([of[gate] for gate in "ifgo"])
        for role, of in gates.items()
        if set(of) == set("ifgo")
    }


def _lstms(
    x: Array, states: Sequence[Array], weights: Mapping[str, Array], gates: str
) -> Iterator[tuple[str, Array]]:
    bias = weights.get("bias", np.zeros(1)) + weights.get("second_bias", np.zeros(1))
    order = LSTM_GATES[gates]

    def ordered(w: Array) -> Array:
        return w if w.shape[0] == 1 else np.concatenate([np.split(w, 4)[i] for i in order])

    kernels = ordered(weights["kernel"]), ordered(weights["recurrent"]), ordered(bias)
    yield "", lstm(x, states, *kernels)


def _grus(x: Array, h: Array, weights: Mapping[str, Array], gates: str) -> Iterator[tuple[str, Array]]:
    order = GRU_GATES[gates]

    def ordered(w: Array) -> Array:
        return np.concatenate([np.split(w, 3, -1)[i] for i in order], -1)

    none = np.zeros(3 * h.shape[-1])
    bias = weights.get("bias", none)
    biases = (bias[0], bias[1]) if bias.ndim == 2 else (bias, weights.get("recurrent_bias", none))
    kernels = ordered(weights["kernel"]), ordered(weights["recurrent_kernel"])
    for after, inverted in itertools.product((True, False), (False, True)):
        words = f"resets {'after' if after else 'before'} the recurrent kernel"
        words += ", 1 - z for the update gate z" if inverted else ""
        both = ordered(biases[0]), ordered(biases[1])
        yield words, gru(x, h, *kernels, both, reset_after=after, inverted=inverted)
