"""Learning rates by layer: lower ones for lower layers, and the head's own.

zoo.train("vit-b16", "photos/", weights="vit.safetensors", layer_decay=0.75, head_lr=1e-3)
"""

from __future__ import annotations

import inspect
from math import inf
from numbers import Real
from typing import Any

from zoo._lazy import keras
from zoo.errors import WrongConfiguration
from zoo.training.depth import depths, head, weights


def with_rates(
    optimizer: Any, model: keras.Model, layer_decay: float | None = None, head_lr: float | None = None
) -> Any:
    """The optimizer with a rate for each layer: rate * layer_decay^(D - d) at depth d of D (see `depths`).

    Howard and Ruder 2018, arXiv:1801.06146, section 3.1; depths and exponents are those of BEiT and timm.
    `head_lr` is the head's rate, or the peak of its schedule. Raises WrongConfiguration for a head without
    weights of its own.
    """
    if layer_decay is None and head_lr is None:
        return optimizer
    levels = depths(model)
    top = max(depth for _, depth in levels)
    multipliers: dict[int, float] = {}
    variables: dict[int, keras.Variable] = {}
    for layer, depth in levels:
        for variable in weights(layer):  # the lowest layer of a tied weight decides
            variables[id(variable)] = variable
            multipliers.setdefault(
                id(variable), (1.0 if layer_decay is None else layer_decay) ** (top - depth)
            )
    if head_lr is not None:
        own = [variable for layer in head(model) for variable in weights(layer)]
        if not own:
            raise WrongConfiguration(
                f"head_lr={head_lr}: the head of {model.name} has no weights of its own; leave it out"
            )
        multipliers |= dict.fromkeys(map(id, own), head_lr / peak(optimizer))
    settings: dict[str, dict[str, float]] = {}
    for key, multiplier in multipliers.items():
        path, own = variables[key].path, {"learning_rate_multiplier": multiplier}
        if settings.setdefault(path, own) != own:
            raise WrongConfiguration(
                f"{model.name} has two weights of the path {path}, whose rates differ; give its layers names"
            )
    return optimizer.regrouped(settings)


def check_rates(layer_decay: float | None, head_lr: float | None) -> None:
    """Raise WrongConfiguration for a decay outside (0, 1], or a rate below 0."""
    if layer_decay is not None and not (_is_number(layer_decay) and 0 < layer_decay <= 1):
        raise WrongConfiguration(f"layer_decay={layer_decay!r}; expected 0 < layer_decay <= 1")
    if head_lr is not None and not (_is_number(head_lr) and 0 <= head_lr < inf):
        raise WrongConfiguration(f"head_lr={head_lr!r}; expected a learning rate, 0 or more")


def _is_number(x: Any) -> bool:
    return isinstance(x, Real) and not isinstance(x, bool)


def peak(optimizer: Any) -> float:
    """The optimizer's rate, or the peak of its schedule. Raises WrongConfiguration where there is none."""
    rate = optimizer.rate
    if optimizer.scheduled:
        first = next(iter(inspect.signature(type(rate)).parameters))
        rate = getattr(rate, first, None)
    if not rate:
        raise WrongConfiguration(
            f"head_lr= is relative to the other layers' rate, and {optimizer.rate!r} has no peak above 0; "
            "give learning_rate=, or one of zoo.schedules"
        )
    return float(rate)
