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
    warmup: float = 0.0  # the share of the run in which the learning rate rises to its peak
    decay: str | None = None  # how it falls in the rest, see zoo.schedules.WarmupDecay

    def make_optimizer(self, schedule: Any = None, steps: int | None = None) -> Any:
        """The optimizer of a run of so many steps, with a schedule for its learning rate if one is given."""
        from zoo import optimizers, schedules

        if schedule is None and self.decay is not None and steps is not None:
            rising = round(self.warmup * steps)
            schedule = schedules.WarmupDecay(self.settings["learning_rate"], rising, steps, self.decay)
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
    "recurrent": Recipe("AdamW", {"learning_rate": 5e-3, "weight_decay": 0.1}, epochs=10, decay="cosine"),
    "seq2seq": Recipe("AdamW", {"learning_rate": 3e-3, "weight_decay": 0.01}, epochs=8, decay="cosine"),
    "speech": Recipe(
        "AdamW", {"learning_rate": 3e-3, "weight_decay": 0.01}, epochs=8, batch_size=32, decay="cosine"
    ),
    # The papers', scaled down: Devlin et al. 2018, section A.2; Radford et al. 2018, section 4.1, with the
    # beta_2 of Brown et al. 2020, appendix B; Raffel et al. 2019, section 3.1.2, with AdamW for Adafactor.
    "bert": Recipe(
        "AdamW",
        {"learning_rate": 1e-3, "weight_decay": 0.01},
        epochs=10,
        batch_size=32,
        warmup=0.1,
        decay="linear",
    ),
    "gpt": Recipe(
        "AdamW",
        {"learning_rate": 3e-3, "weight_decay": 0.1, "beta_2": 0.95},
        epochs=10,
        batch_size=8,
        warmup=0.05,
        decay="cosine",
    ),
    "t5": Recipe(
        "AdamW",
        {"learning_rate": 5e-4, "weight_decay": 0.01},
        epochs=8,
        batch_size=32,
        warmup=0.1,
        decay="inverse_square_root",
    ),
    "vit": Recipe("AdamW", {"learning_rate": 2e-3, "weight_decay": 0.01}, epochs=30),
}


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName(f"no recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]
