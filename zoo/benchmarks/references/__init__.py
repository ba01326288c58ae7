"""The same network, each framework's own way: no Keras, no zoo.

One file a network and framework, read side by side. They are the baseline that `zoo bench` measures
against and an independent witness of what our models compute. A file named after one model offers, in this
order:

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

A file that serves several models, see `SHARED`, offers `peer(model) -> Peer`, which bundles the same for one
of them by its name in the zoo. Its weights go in and come out by name: `Peer.layout` says whose names, as
`zoo.weights` calls them. Dropout is off in them: each framework would draw masks of its own.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import util
from typing import Any, TypeVar

import numpy as np

Weights = list[np.ndarray]
Way = TypeVar("Way")

TRANSFORMERS = ("bert-*", "gpt-*", "gpt2", "t5-tiny", "t5-mini", "t5-small")

# file -> shell patterns of the models that it serves
SHARED = {
    "recurrent_torch": ("lstm", "gru", "birnn"),
    "transformers_torch": TRANSFORMERS,  # Hugging Face's; the others are written by hand, and do not generate
    "transformers_tensorflow": TRANSFORMERS,
    "transformers_jax": TRANSFORMERS,
    "vision_torch": ("alexnet", "vgg*", "resnet*", "efficientnet-*", "vit-*"),
    "vision_flax": ("resnet*", "vit-*"),
}


@dataclass(frozen=True)
class Peer:
    """What a file named after one model offers, for a model of a shared file."""

    prepare: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]
    trainer: Callable[..., tuple[Callable[[Any, Any], Any], Callable[[], Mapping[str, np.ndarray]]]]
    predictor: Callable[..., Callable[[Any], Any]]
    build: Callable[[], Any]  # the network with initial weights of its own, as its framework's users make it
    layout: str  # of `zoo.weights`: whose names the weights have
    # of models that write: weights -> write(prompt (n,), count) -> count tokens, the likeliest each time
    writer: Callable[[Any], Callable[[np.ndarray, int], np.ndarray]] | None = None


def shared(model: str, *libraries: str) -> str | None:
    """The shared file, of one of "torch", "tensorflow", "flax", "jax", that serves a model of the zoo."""
    for file, patterns in SHARED.items():
        if file.rpartition("_")[2] in libraries and any(fnmatchcase(model, pattern) for pattern in patterns):
            return file
    return None


def find(model: str, *libraries: str) -> str | None:
    """The module of a model's peer, of its own or shared, without importing it; None if there is none."""
    name = model.replace("-", "_").replace(".", "_")
    own = next((f"{name}_{each}" for each in libraries if util.find_spec(f"{__name__}.{name}_{each}")), None)
    file = own or shared(model, *libraries)
    return file and f"{__name__}.{file}"


def choose(mode: str, modes: Mapping[str, Way]) -> Way:
    """The way to run a step that `mode` names."""
    if mode not in modes:
        raise ValueError(f'no mode "{mode}"; this peer has: {", ".join(modes)}')
    return modes[mode]
