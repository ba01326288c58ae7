"""The same network, each framework's own way: no Keras, no zoo.

One file a network and framework, read side by side. They are the baseline that `zoo bench` measures
against and an independent witness of what our models compute. Each offers, in this order:

    prepare(x, y)       a NumPy batch, images (b, h, w, c) and labels (b,), as the framework's users hold it
    trainer(weights, *, learning_rate=1e-3, weight_decay=0.01, mode=...) -> (step, read)
                        step(x, y) takes one step of AdamW on the mean cross-entropy and returns that loss,
                        a scalar of the framework's own that nothing has waited for yet;
                        read() copies the weights back out
    predictor(weights, *, mode=...) -> predict
                        predict(x) gives the logits, (b, 10)

Weights go in and come out as NumPy arrays in the zoo's order and layout: for each layer, in the order
data meets them, its kernel, then its bias; a convolution's kernel is (h, w, in, out), a dense one
(in, out), and the first dense layer after a convolution has its rows in (h, w, c) order.

AdamW means what torch.optim.AdamW computes: weight decay apart from the gradient, on every weight, and
epsilon added to the root of the bias-corrected second moment.

`MODES` names how a step can run. The first is the default; an unknown one raises ValueError.
"""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

Weights = list[np.ndarray]
Way = TypeVar("Way")


def choose(mode: str, modes: Mapping[str, Way]) -> Way:
    """The way to run a step that `mode` names."""
    if mode not in modes:
        raise ValueError(f'no mode "{mode}"; this peer has: {", ".join(modes)}')
    return modes[mode]
