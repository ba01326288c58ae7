"""Gradual unfreezing: frozen blocks become trainable one after the other, from the top.

zoo.train("resnet18", "photos/", weights="r18.pth", unfreeze="1 epoch")

Howard and Ruder 2018, arXiv:1801.06146, section 3.3. A block is one depth of `zoo.training.depth`; layers
between the last block and the head join with that block. The optimizer keeps the state of what was trained
before; moments of what joins begin at 0, and their bias correction at 1, as of torch's `add_param_group`.
Averages of the weights (`ema`) count a frozen weight as constant, accumulated gradients as 0.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration
from zoo.layers.signature import layers_of
from zoo.training.depth import depths, weights
from zoo.training.engines import Engine

Layer = Any


def parse_epochs(given: int | str) -> int:
    """The epochs of a text such as "2 epochs". Raises WrongConfiguration."""
    match = re.fullmatch(r"0*([1-9]\d*)(\s*epochs?)?", str(given).strip())
    if match is None or isinstance(given, bool):
        raise WrongConfiguration(f'unfreeze={given!r}; expected the epochs from block to block, "1 epoch"')
    return int(match[1])


class Unfreezing:
    """The phases of a run: in phase 0 all of these layers are frozen, in each later one a block fewer.

    `make(optimizer, mode)` is an engine for what is then trainable.
    """

    def __init__(
        self, model: keras.Model, frozen: Sequence[Layer], interval: int, optimizer: Any,
        make: Callable[[Any, str], Engine],
    ):  # fmt: skip
        self.model, self.frozen, self.interval = model, frozen, interval
        self.optimizer, self.make, self.phase = optimizer, make, 0
        inside = {id(layer) for layer in layers_of(frozen)}
        levels = depths(model)
        self.layers = [(layer, depth) for layer, depth in levels if id(layer) in inside]
        found = sorted({depth for layer, depth in self.layers if weights(layer)}, reverse=True)
        head = max(depth for _, depth in levels)
        self.levels = found[1:] if len(found) > 1 and found[0] == head else found

    def phase_at(self, step: int) -> int:
        """The phase of a step, counted from 0."""
        return min(step // self.interval, len(self.levels))

    def due(self, step: int) -> bool:
        """Whether a phase begins with this step."""
        return self.phase_at(step) != self.phase

    @property
    def end(self) -> int:
        """The step that begins the next phase; `sys.maxsize` in the last one."""
        return (self.phase + 1) * self.interval if self.phase < len(self.levels) else sys.maxsize

    def enter(self, phase: int) -> None:
        """Make the layers of a phase trainable, and no others of those that were frozen."""
        self.phase = phase
        for layer in self.frozen:
            layer.trainable = phase > 0
        for layer, depth in self.layers if phase else ():
            layer.trainable = depth >= self.levels[phase - 1]

    def advance(self, engine: Engine, step: int) -> Engine:
        """The engine of the phase that begins with this step; the optimizer keeps its state."""
        state, before = engine.state_dict(), {id(v) for v in self.model.trainable_variables}
        self.enter(self.phase_at(step))
        joined = [v for v in self.model.trainable_variables if id(v) not in before]
        updates = int(state["batches"]) // (self.optimizer.gradient_accumulation_steps or 1)
        self.optimizer = self.optimizer.regrouped({v.path: {"start": updates} for v in joined})
        following = self.make(self.optimizer, engine.mode)
        averages = {f"average/{v.path}": ops.convert_to_numpy(v) for v in joined if engine.averages}
        following.load_state_dict({**following.state_dict(), **averages, **state})
        return following
