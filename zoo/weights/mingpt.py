"""The names of minGPT (github.com/karpathy/minGPT) and nanoGPT (github.com/karpathy/nanoGPT): GPT.

They are GPT-2's, but kernels are stored as in torch.nn.Linear, (out, in). Differences:

- minGPT's head is not tied to its embedding, so the two differ after training; ours is tied unless built with
  tied=False, which such files need. Its GELU is the same, GPT-2's with tanh.
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
    """A layout of GPTs with torch.nn.Linear."""

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """Advice for a model without biases."""
        del left_over
        if missing and all(name.endswith(".bias") for name in missing):
            return " It has no biases (bias=False), but the model has; zeros give the same numbers."
        return ""


def causal_mask(model: keras.Model) -> Array:
    """minGPT's causal mask (1, 1, n, n) for the model's number of positions: 1 where a token may attend."""
    n = model.get_layer("position_embedding").limit
    return np.tril(np.ones((1, 1, n, n), np.float32))


MASKED = Kind(
    {"kernel": (".c_attn.weight", TRANSPOSED), "bias": (".c_attn.bias", SAME)},
    constants={".bias": causal_mask},
)
TRUNK, HEAD = "(|_orig_mod.)transformer.", "(|_orig_mod.)lm_head"

NANOGPT = Linear("nanogpt", "gpt*", gpt2(TRUNK, HEAD, DENSE, ("attn.c_attn", DENSE)), spare=MASKS)
MINGPT = Linear("mingpt", "gpt*", gpt2(TRUNK, HEAD, DENSE, ("attn", MASKED)), spare=MASKS)

LAYOUTS = (NANOGPT, MINGPT)
