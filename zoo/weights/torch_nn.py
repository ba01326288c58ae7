"""torch.nn's names of recurrent networks, in a module such as

    self.embedding = nn.Embedding(259, 64)
    self.rnn = nn.LSTM(64, 128, num_layers=1, batch_first=True)      # or nn.GRU; bidirectional=True for birnn
    self.head = nn.Linear(128, 20)

The gates have the same order (LSTM i f g o, GRU r z n) and the biases are pairs in both, so the layout
consists of names and transpositions. LSTMs with projections (`weight_hr_l0`) and recurrences without biases
have no counterpart here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.errors import WrongConfiguration
from zoo.weights.layouts import DENSE, EMBEDDING, SAME, TRANSPOSED, Constants, Kind, Layout, Plan, Row

if TYPE_CHECKING:
    import keras


def direction(ending: str) -> Kind:
    """The arrays of one direction of a layer; all layers are in one module."""
    return Kind(
        {
            "kernel": (".weight_ih_l{i:0}" + ending, TRANSPOSED),
            "recurrent_kernel": (".weight_hh_l{i:0}" + ending, TRANSPOSED),
            "bias": (".bias_ih_l{i:0}" + ending, SAME),
            "recurrent_bias": (".bias_hh_l{i:0}" + ending, SAME),
        }
    )


@dataclass(frozen=True)
class Recurrent(Layout):
    """A layout of recurrent networks that torch.nn can compute."""

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """Advice for LSTMs with projections, and for recurrences without biases."""
        if any(".weight_hr_" in name for name in left_over):
            return " It is an LSTM with projections (proj_size), which the zoo has not; use one without."
        if missing and all(".bias_ih_" in name or ".bias_hh_" in name for name in missing):
            return " It has no biases (bias=False), but the model has; zeros give the same numbers."
        return ""

    def plan(self, model: keras.Model) -> tuple[Plan, Constants]:
        """Raises WrongConfiguration for a GRU that resets the state before its recurrent kernel."""
        before = [layer.name for layer in model.layers if getattr(layer, "reset_after", None) is False]
        if before:
            raise WrongConfiguration(
                f"{self.name}'s layout of {self.models}: {', '.join(before)} of {model.name} has "
                "reset_after=False, but torch.nn.GRU resets after its recurrent kernel; build the model with "
                "reset_after=True"
            )
        return super().plan(model)


ROWS = (
    Row("embedding", "embedding", EMBEDDING),
    Row("layer{i}_forward", "rnn", direction("")),
    Row("layer{i}_backward", "rnn", direction("_reverse")),
    Row("head", "head", DENSE),
)

LAYOUTS = tuple(Recurrent("torch", model, ROWS) for model in ("lstm", "gru", "birnn"))
