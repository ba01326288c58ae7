"""Reference implementations: the same networks as each framework's users write them, without Keras.

There is one file for a network and framework, to be read side by side. `zoo bench` measures against them, and
tests compare our models with them. A file named after one model defines, in this order:

    prepare(x, y)       a NumPy batch, images (b, h, w, c) and labels (b,), as the framework's tensors
    trainer(weights, *, learning_rate=1e-3, weight_decay=0.01, mode=...) -> (step, read)
                        step(x, y) takes one step of AdamW on the mean cross-entropy and returns that loss,
                        a scalar tensor that has not been waited for;
                        read() returns a copy of the weights
    predictor(weights, *, mode=...) -> predict
                        predict(x) returns the logits, (b, 10)

Weights are NumPy arrays in the zoo's order and layout: for each layer, in data-flow order, its kernel, then
its bias; the kernel of a convolution is (h, w, in, out), that of a dense layer (in, out), and the first dense
layer after a convolution has its rows in (h, w, c) order.

AdamW is that of torch.optim.AdamW: weight decay decoupled from the gradient, on every weight, and epsilon
added to the root of the bias-corrected second moment.

`MODES` are the ways a step can run. The first is the default; an unknown one raises ValueError.

A file for several models, see `SHARED`, defines `reference(model) -> Reference`, which has the same functions
for one of them by its name in the zoo. Its weights are named: `Reference.layout` is the layout of the names,
as `zoo.weights` calls it. Dropout is off, because each framework would draw its own masks.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import util
from typing import Any, TypeVar

import numpy as np

Weights = list[np.ndarray]
T = TypeVar("T")

RECURRENT = ("lstm", "gru", "birnn")
VISION = ("alexnet", "vgg*", "resnet*", "efficientnet-*", "vit-*")
TRANSFORMERS = ("bert-*", "gpt-*", "gpt2", "t5-tiny", "t5-mini", "t5-small")

# file -> shell patterns of its models
SHARED = {
    "recurrent_torch": RECURRENT,
    "recurrent_tensorflow": RECURRENT,
    "recurrent_jax": RECURRENT,
    "transformers_torch": TRANSFORMERS,  # Hugging Face's; the others are written out, and do not generate
    "transformers_tensorflow": TRANSFORMERS,
    "transformers_jax": TRANSFORMERS,
    "vision_torch": VISION,  # torchvision's
    "vision_tensorflow": VISION,
    "vision_flax": VISION,
}


@dataclass(frozen=True)
class Reference:
    """The functions of a file named after one model, for a model of a shared file."""

    prepare: Callable[[np.ndarray, np.ndarray], tuple[Any, Any]]
    trainer: Callable[..., tuple[Callable[[Any, Any], Any], Callable[[], Mapping[str, np.ndarray]]]]
    predictor: Callable[..., Callable[[Any], Any]]
    build: Callable[[], Any]  # the network with its own initial weights
    layout: str  # of the weights' names, see `zoo.weights`
    # weights -> generate(prompt (n,), count) -> count tokens, the most likely each time
    generator: Callable[[Any], Callable[[np.ndarray, int], np.ndarray]] | None = None


def shared_file(model: str, *libraries: str) -> str | None:
    """The shared file of a model for one of "torch", "tensorflow", "flax", "jax"; None if there is none."""
    for file, patterns in SHARED.items():
        if file.rpartition("_")[2] in libraries and any(fnmatchcase(model, pattern) for pattern in patterns):
            return file
    return None


def find_module(model: str, *libraries: str) -> str | None:
    """The module of a model's reference, its own or shared, without importing it; None if there is none."""
    name = model.replace("-", "_").replace(".", "_")
    own = next((f"{name}_{each}" for each in libraries if util.find_spec(f"{__name__}.{name}_{each}")), None)
    file = own or shared_file(model, *libraries)
    return file and f"{__name__}.{file}"


def choose(mode: str, modes: Mapping[str, T]) -> T:
    """The transformation of a step for this mode."""
    if mode not in modes:
        raise ValueError(f'no mode "{mode}"; this reference has: {", ".join(modes)}')
    return modes[mode]
