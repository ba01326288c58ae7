"""One step of an LSTM and of a GRU in keras.ops, for recurrences that are a framework's loop over steps."""

from __future__ import annotations

from importlib import import_module
from typing import Any

Tensor = Any


def lstm_cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Gates (b, 4u) before their activations and the cell state (b, u) -> h and c."""
    ops: Any = import_module("keras.ops")  # here: what a backend says of the machine needs no Keras
    i, f, g, o = ops.split(gates, 4, -1)
    c = ops.sigmoid(f) * c + ops.sigmoid(i) * ops.tanh(g)
    return ops.sigmoid(o) * ops.tanh(c), c


def gru_cell(projected: Tensor, h: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """The projected input (b, 3u) and the state (b, u) -> h; see `Backend.gru`."""
    ops: Any = import_module("keras.ops")
    two = 2 * kernel.shape[0]  # the gates, before the new state
    if bias is None:
        r, z = ops.split(ops.sigmoid(projected[:, :two] + h @ kernel[:, :two]), 2, -1)
        recurrent = (r * h) @ kernel[:, two:]
    else:
        rest = h @ kernel + bias
        r, z = ops.split(ops.sigmoid(projected[:, :two] + rest[:, :two]), 2, -1)
        recurrent = r * rest[:, two:]
    return (1 - z) * ops.tanh(projected[:, two:] + recurrent) + z * h
