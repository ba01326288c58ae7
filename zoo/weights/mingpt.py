"""The names of minGPT (github.com/karpathy/minGPT) and nanoGPT (github.com/karpathy/nanoGPT): GPT.

They are GPT-2's, but kernels lie as torch.nn.Linear keeps them: (out, in). What each has of its own:

- minGPT's head is not tied to its embedding, ours is unless built with tied=False: a file in which the two
  differ, as they do after training, is refused otherwise. Its GELU is ours, GPT-2's by tanh.
- nanoGPT's head is tied. Its GELU was GPT-2's at first and is exact today: weights trained with the exact one
  need a model built with activation="gelu". In models without biases (bias=False) the zoo's biases are zeros,
  which give the same numbers until they are trained. Files of models that torch compiled, whose names begin
  with "_orig_mod.", are read as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from zoo.weights.layouts import DENSE, SAME, TRANSPOSED, Array, Kind, Layout
from zoo.weights.transformers import MASKS, gpt2

if TYPE_CHECKING:
    import keras


@dataclass(frozen=True)
class Linear(Layout):
    """A layout of GPTs of torch.nn.Linear."""

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """Of a model without biases."""
        del left_over
        if missing and all(name.endswith(".bias") for name in missing):
            return " It has no biases (bias=False), ours has; biases of zeros give the same numbers."
        return ""


def seen(model: keras.Model) -> Array:
    """minGPT's mask, (1, 1, n, n): 1 where a token is seen, for as many as there are positions."""
    n = model.get_layer("position_embedding").limit
    return np.tril(np.ones((1, 1, n, n), np.float32))


MASKED = Kind(
    {"kernel": (".c_attn.weight", TRANSPOSED), "bias": (".c_attn.bias", SAME)}, constants={".bias": seen}
)
TRUNK, HEAD = "(|_orig_mod.)transformer.", "(|_orig_mod.)lm_head"

NANOGPT = Linear("nanogpt", "gpt*", gpt2(TRUNK, HEAD, DENSE, ("attn.c_attn", DENSE)), spare=MASKS)
MINGPT = Linear("mingpt", "gpt*", gpt2(TRUNK, HEAD, DENSE, ("attn", MASKED)), spare=MASKS)

LAYOUTS = (NANOGPT, MINGPT)
