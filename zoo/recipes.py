"""How each model is trained when nothing else is said: optimizer and length, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zoo.errors import UnknownName, nearest


@dataclass(frozen=True)
class Recipe:
    """The arguments of `zoo.train` that belong to a model rather than to a run."""

    optimizer: str  # a class of zoo.optimizers
    settings: Mapping[str, Any] = field(default_factory=dict)  # its arguments
    epochs: int = 15
    batch_size: int = 64
    label_smoothing: float = 0.0

    def make_optimizer(self, schedule: Any = None) -> Any:
        """The optimizer, with a schedule in place of its learning rate if one is given."""
        from zoo import optimizers

        changes = {} if schedule is None else {"learning_rate": schedule}
        return getattr(optimizers, self.optimizer)(**{**self.settings, **changes})

    def __str__(self) -> str:
        return f"{self.optimizer}({', '.join(f'{k}={v}' for k, v in self.settings.items())})"


RECIPES = {
    "mlp": Recipe("AdamW", {"learning_rate": 1e-3, "weight_decay": 0.01}),
    "lenet5": Recipe("AdamW", {"learning_rate": 2e-3, "weight_decay": 0.01}),
    "lenet5-1998": Recipe("AdamW", {"learning_rate": 2e-3, "weight_decay": 0.01}),
    "alexnet": Recipe("AdamW", {"learning_rate": 1e-3, "weight_decay": 0.01}),
    "vgg": Recipe("AdamW", {"learning_rate": 1e-3, "weight_decay": 0.01}),
    "resnet": Recipe("AdamW", {"learning_rate": 2e-3, "weight_decay": 0.01}),
    "efficientnet": Recipe("AdamW", {"learning_rate": 2e-3, "weight_decay": 0.01}),
    "vit": Recipe("AdamW", {"learning_rate": 2e-3, "weight_decay": 0.01}, epochs=30),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName(f"no recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]
