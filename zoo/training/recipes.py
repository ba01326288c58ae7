"""How each model is trained when nothing else is said: optimizer and length, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
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

    @property
    def summary(self) -> str:
        """The optimizer, the schedule and the length, in words."""
        schedule = "" if self.decay is None else f", {self.decay.replace('_', ' ')} decay"
        warmup = f" after a warmup of {self.warmup:.0%}" if self.warmup else ""
        return f"{self}{schedule}{warmup}, {self.epochs} epochs, batches of {self.batch_size}"


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


# Fine-tuning: what `zoo.train` changes of a recipe when it starts from trained weights. A rate that suits
# random weights would undo what these have learned within an epoch.
FINE_TUNING: dict[str, dict[str, Any]] = {
    # AdamW at 5e-5 with cosine decay, Liu et al. 2022, arXiv:2201.03545, appendix A.2, for batches of 512; a
    # new head on a small data set has few steps to learn in, so twice that, and a warmup for it.
    "images": {"learning_rate": 1e-4, "epochs": 10, "batch_size": 32, "warmup": 0.1, "decay": "cosine"},
    # Devlin et al. 2018, appendix A.3: 2e-5 to 5e-5, 2 to 4 epochs, batches of 16 or 32.
    "bert": {"learning_rate": 5e-5, "epochs": 4, "batch_size": 32, "warmup": 0.1, "decay": "linear"},
    # Radford et al. 2018, section 4.1: 6.25e-5, 3 epochs, linear decay, a warmup over 0.2 % of the steps.
    "gpt": {"learning_rate": 6.25e-5, "epochs": 3, "warmup": 0.002, "decay": "linear"},
    # Raffel et al. 2019, section 3.1.3: 1e-3 with Adafactor, whose steps are relative; 1e-4 with AdamW.
    "t5": {"learning_rate": 1e-4, "epochs": 4, "warmup": 0.1, "decay": "linear"},
    # Howard and Ruder 2018, arXiv:1801.06146, section 3.2: a triangle that rises over the first tenth.
    "recurrent": {"learning_rate": 5e-4, "epochs": 4, "warmup": 0.1, "decay": "linear"},
    "seq2seq": {"learning_rate": 3e-4, "epochs": 4, "warmup": 0.1, "decay": "linear"},
    "speech": {"learning_rate": 3e-4, "epochs": 4, "warmup": 0.1, "decay": "linear"},
}


def settings_of(optimizer: Any) -> dict[str, Any]:
    """An optimizer's name, learning rate or schedule, and what else shapes its updates."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)
    config = optimizer.get_config()
    rate = config.pop("learning_rate")
    if isinstance(rate, Mapping):  # a schedule
        numbers = {
            k: v for k, v in rate["config"].items() if v is not None and k not in ("name", "power", "end")
        }
        rate = f"{rate['class_name']}({', '.join(f'{k}={_short(v)}' for k, v in numbers.items())})"
    others = {name: config[name] for name in SAID if config.get(name)}
    return {"optimizer": type(optimizer).__name__, "learning_rate": rate, **others}


def described(optimizer: Any) -> str:
    """An optimizer in words: its `settings_of`, and by how much rates differ from layer to layer."""
    settings = settings_of(optimizer)
    name = settings.pop("optimizer")
    words = [name, *(f"{key.replace('_', ' ')} {_short(x)}" for key, x in settings.items())]
    groups = getattr(optimizer, "inner_optimizer", optimizer).get_config().get("groups", {}).values()
    factors = [own.get("learning_rate_multiplier", 1.0) for own in groups]
    if len(set(factors)) > 1:
        words.append(f"times {_short(min(factors))} to {_short(max(factors))} by layer")
    return ", ".join(words)


SAID = ("momentum", "weight_decay", "clipnorm", "global_clipnorm", "clipvalue", "gradient_accumulation_steps")


def _short(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def recipe(name: str) -> Recipe:
    """The recipe of that name. Raises UnknownName."""
    if name not in RECIPES:
        raise UnknownName(f"no recipe {name!r}; {nearest(name, RECIPES)}")
    return RECIPES[name]


def fine_tuning(name: str | None) -> Recipe:
    """The recipe of that name as it is for trained weights; None is a model that is not the zoo's."""
    plan = Recipe("AdamW") if name is None else recipe(name)
    changes = dict(FINE_TUNING.get(name or "images", FINE_TUNING["images"]))
    rate = changes.pop("learning_rate")
    return replace(plan, settings={**plan.settings, "learning_rate": rate}, **changes)
