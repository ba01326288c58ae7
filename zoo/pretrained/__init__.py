"""Pretrained weights of small models, included with the zoo.

    model = zoo.build("lenet5", weights="digits")
    zoo.predict("lenet5", "seven.png", weights="digits")
    zoo.translate(zoo.build("seq2seq", weights="dates"), "24 novembre 2026")

Weights are named after the task they were trained on. Each is a file of 16-bit floats beside this module,
whose header contains its card: the training data, the recipe, and the metrics, measured after rounding.

    python docs/_pretrained.py lenet5 digits

trains it again, on any framework: the recipe is the table below.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from platform import python_version
from typing import Any

from zoo import storage
from zoo.errors import UnknownName, WrongConfiguration, nearest

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Trained:
    """How pretrained weights were trained; unspecified options are those of the model's recipe."""

    model: str
    name: str  # of the task
    data: str
    limits: str
    changes: Mapping[str, Any] = field(default_factory=dict)  # of the builder's arguments, beside the task's
    settings: Mapping[str, Any] = field(default_factory=dict)  # arguments of zoo.train

    @property
    def path(self) -> Path:
        return HERE / f"{self.model}-{self.name}.safetensors"

    @property
    def command(self) -> str:
        """The command that trains them again."""
        return f"python docs/_pretrained.py {self.model} {self.name}"

    def card(self) -> dict[str, Any]:
        """The card of the weights: "model", "weights", "arguments" of the builder, "data", "recipe",
        "command", "metrics", "parameters", "limits".
        """
        from safetensors import safe_open

        with safe_open(self.path, "numpy") as file:
            return json.loads(file.metadata()["card"])


DIGITS = "1,797 handwritten digits, 8 x 8 pixels (UCI, as scikit-learn ships them); every fifth held out"
# Releases of Python reword parts of it. The card names the release that the weights were trained on.
PYTHONS = (
    f"the topics text of Python {python_version()}'s own documentation, 465 thousand characters; "
    "its last tenth held out"
)
ONLY_DIGITS = "Knows centred single digits on an empty ground, nothing else."

TRAINED = (
    Trained("lenet5", "digits", DIGITS, ONLY_DIGITS),
    Trained("resnet18", "digits", DIGITS, f"{ONLY_DIGITS} Two blocks of 16 and 32 channels."),
    Trained("vit-ti16", "digits", DIGITS, f"{ONLY_DIGITS} Two blocks of width 32, patches of 4 x 4 pixels."),
    Trained(
        "gpt-nano",
        "topics",
        PYTHONS,
        "Writes bytes in the manner of that text: words and phrases, without sense.",
        {"width": 96, "depth": 4, "heads": 4, "positions": 256},
    ),
    Trained(
        "seq2seq",
        "dates",
        "dates as people write them in ten locales (CLDR, which Babel ships), and ISO 8601",
        "Translates such dates, nothing else; no other language and no other order is known to it.",
        {"width": 64, "embedding_width": 32},
    ),
)


def of(model: str) -> list[Trained]:
    """The pretrained weights of a model."""
    return [trained for trained in TRAINED if trained.model == model]


def find(model: str, weights: str | Path | None) -> Trained | None:
    """The pretrained weights with this name, or None for a file or a reference to the hub.

    Raises UnknownName for a word that is neither.
    """
    known = {trained.name: trained for trained in of(model)}
    if weights is None or str(weights) in known:
        return known.get(str(weights))
    path = Path(weights)
    here = storage.is_file(path) or storage.is_dir(path)
    if path.suffix or len(path.parts) > 1 or str(weights).startswith("hf:") or here:
        return None
    have = nearest(str(weights), known) if known else f"{model} has none"
    raise UnknownName(f"no pretrained weights {str(weights)!r} of {model}; {have}. For a file, give its path")


def needed(model: str, weights: str | Path | None) -> dict[str, Any]:
    """The builder arguments that pretrained weights require; none for a file."""
    trained = find(model, weights)
    arguments = trained.card()["arguments"] if trained else {}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in arguments.items()}


def allowed(model: str, weights: str | Path | None, changes: Mapping[str, Any]) -> dict[str, Any]:
    """The changes with the arguments that the weights require. Raises WrongConfiguration if they conflict."""
    fixed = needed(model, weights)
    for name, value in changes.items():
        if fixed.get(name, value) != value:
            raise WrongConfiguration(
                f"{model}: {name}={value!r}, but its weights {str(weights)!r} need {name}={fixed[name]!r}; "
                f"leave {name}= out"
            )
    return {**fixed, **changes}
