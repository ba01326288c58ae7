"""Every model by its name: what it is, how it is built, and what is known about it.

A model file ends with one `register` a variant. That line feeds `zoo.build`, `zoo list`, the cards, the
tests and the tables of the documentation.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import random
from zoo.errors import UnknownModel, WrongConfiguration, nearest

if TYPE_CHECKING:
    import keras

FAMILIES = ("mlp", "lenet")  # zoo/models/*.py, in the order of the primer


@dataclass(frozen=True)
class Card:
    """What is known of a model before it is built."""

    name: str
    builder: Callable[..., keras.Model]
    parameters: int  # trainable, with the default configuration
    multiply_adds: int  # of one example's forward pass, with the default configuration
    paper: str
    url: str
    year: int
    idea: str
    task: str  # the default of zoo.train
    recipe: str  # a name of zoo.recipes
    small: Mapping[str, Any] = field(default_factory=dict)  # changes that make it quick to test
    config: Mapping[str, Any] = field(default_factory=dict)  # how this variant differs from its builder
    fixed_input: tuple[int, ...] | None = None  # where no argument of the builder says it

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument of `zoo.build` for this model, with its default."""
        signature = inspect.signature(self.builder).parameters
        return {name: self.config.get(name, p.default) for name, p in signature.items()}

    @property
    def input(self) -> tuple[int, ...]:
        """The shape of one example, with the default configuration."""
        arguments = self.arguments
        if "shape" in arguments:
            return tuple(arguments["shape"])
        return self.fixed_input or (arguments["image_size"], arguments["image_size"], arguments["channels"])

    @property
    def file(self) -> Path:
        """The file that defines it."""
        return Path(inspect.getfile(self.builder))


_cards: dict[str, Card] = {}
_aliases: dict[str, str] = {}


def register(
    name: str,
    builder: Callable[..., keras.Model],
    *,
    parameters: int,
    multiply_adds: int,
    about: Mapping[str, Any],
    small: Mapping[str, Any] | None = None,
    family: str | None = None,
    fixed_input: tuple[int, ...] | None = None,
    **config: Any,
) -> None:
    """Add a model: `builder(**config)` builds it.

    `about` is what the variants of a file share (paper, url, year, idea, task, recipe); `family` a second
    name for it, e.g. "resnet" for resnet50. Raises ValueError for a name that is taken.
    """
    if name in _cards:
        raise ValueError(f"two models are named {name!r}")
    _cards[name] = Card(
        name,
        builder,
        parameters,
        multiply_adds,
        small=small or {},
        config=config,
        fixed_input=fixed_input,
        **about,
    )
    for alias in (name, family):
        if alias:
            _aliases[_plain(alias)] = name


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match a shell pattern, e.g. "vit*"."""
    return [name for name in _all() if fnmatch(name, pattern.lower())]


def card(name: str) -> Card:
    """The card of a model, by its name or its family's. Raises UnknownModel, naming the nearest."""
    cards = _all()
    if not isinstance(name, str) or _plain(name) not in _aliases:
        near = nearest(str(name), {*cards, *_aliases})
        raise UnknownModel(f"no model {str(name)!r}; {near}. `zoo list` shows all {len(cards)}.")
    return cards[_aliases[_plain(name)]]


def build(name: str, *, seed: int = 0, **changes: Any) -> keras.Model:
    """Build a model: a plain `keras.Model`, on torch also a `torch.nn.Module`, that returns logits.

    `changes` are arguments of its builder (`zoo info NAME` lists them), e.g. classes=10, image_size=32.
    The same seed gives the same weights, bit for bit, on every framework. Raises UnknownModel, or
    WrongConfiguration naming the argument and what is allowed.
    """
    chosen = card(name)
    check(chosen, changes)
    if not isinstance(seed, int) or seed < 0:
        raise WrongConfiguration(f"{chosen.name}: seed={seed!r}; expected an integer, 0 or more")
    with random.seeded(seed):
        model = chosen.builder(**{**chosen.config, **changes})
    model.name = chosen.name
    return model


def check(chosen: Card, changes: Mapping[str, Any]) -> None:
    """Raise WrongConfiguration unless these are arguments of the model, of the right kind."""
    kinds = typing.get_type_hints(chosen.builder)
    for name, value in changes.items():
        if name not in chosen.arguments:
            raise WrongConfiguration(
                f"{chosen.name} takes no argument {name!r}; {nearest(name, chosen.arguments)}. "
                f"It takes: {', '.join(f'{k}={v!r}' for k, v in chosen.arguments.items())}"
            )
        if (expected := _unfit(value, kinds[name])) is not None:
            raise WrongConfiguration(f"{chosen.name}: {name}={value!r}; expected {expected}")


def example(model: keras.Model, batch: int = 2, seed: int = 0) -> np.ndarray | dict[str, np.ndarray]:
    """Inputs that fit a model: standard normal float32, one array, or a dict by input name."""
    arrays = {
        tensor.name: random.generator(seed, "example", tensor.name).standard_normal(
            (batch, *tensor.shape[1:]), dtype=np.float32
        )
        for tensor in model.inputs
    }
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def multiply_adds(model: keras.Model) -> int:
    """Multiply-adds of one example's forward pass in convolutions and dense layers, as fvcore counts."""
    total = 0
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if kernel is not None:
            positions = np.prod([n for n in layer.output.shape[1:-1]], dtype=np.int64)
            total += int(positions) * int(np.prod(kernel.shape))
    return total


def _all() -> dict[str, Card]:
    for family in FAMILIES:
        import_module(f"zoo.models.{family}")
    return _cards


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


def _unfit(value: Any, kind: Any) -> str | None:
    """What was expected, if the value is not of an argument's kind. Every int of a builder is a size."""
    if kind is int and not (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return "an integer, 1 or more"
    if kind is float and not (isinstance(value, int | float) and not isinstance(value, bool)):
        return "a number"
    if kind is str and not isinstance(value, str):
        return "a string"
    if kind is bool and not isinstance(value, bool):
        return "True or False"
    if typing.get_origin(kind) is tuple and not (
        isinstance(value, tuple | list) and all(_unfit(v, int) is None for v in value)
    ):
        return "a tuple of integers, 1 or more each"
    return None
