"""The registered models: their cards, and how they are built.

A model file ends with one `register` call for each variant. `zoo.build`, `zoo list`, the model cards, the
tests and the tables of the documentation are generated from these calls.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any

from zoo import pretrained, random
from zoo._lazy import keras
from zoo.checks import integer, is_integer, python_value
from zoo.errors import UnknownModel, WrongConfiguration, nearest
from zoo.preprocessing import Preprocessing

FAMILIES = (
    "mlp",
    "lenet",
    "alexnet",
    "vgg",
    "resnet",
    "efficientnet",
    "recurrent",
    "bert",
    "gpt",
    "t5",
    "vit",
)  # zoo/models/*.py, in the order of the primer


@dataclass(frozen=True)
class Card:
    """The facts about a model that are known before it is built."""

    name: str
    builder: Callable[..., keras.Model]
    parameters: int  # trainable, with the default configuration
    multiply_adds: int  # of one example's forward pass, with the default configuration
    paper: str
    url: str
    year: int
    idea: str
    task: str  # the default of zoo.train
    recipe: str  # a name of zoo.training.recipes
    small: Mapping[str, Any] = field(default_factory=dict)  # changes that make it quick to test
    config: Mapping[str, Any] = field(default_factory=dict)  # how this variant differs from its builder
    fixed_input: tuple[int | None, ...] | None = None  # where no argument of the builder says it
    receptive_field: int | None = None  # pixels across that one number of the last map depends on
    tokens: int | None = None  # of a sequence, with the default configuration
    preprocessing: Preprocessing | None = None  # of photographs, as the best known weights expect

    @property
    def arguments(self) -> dict[str, Any]:
        """Every argument of `zoo.build` for this model, with its default."""
        signature = inspect.signature(self.builder).parameters
        return {name: self.config.get(name, p.default) for name, p in signature.items()}

    @property
    def input(self) -> tuple[Any, ...]:
        """The shape of one example in the default configuration; None where its length varies."""
        arguments = self.arguments
        if "mels" in arguments:
            return None, arguments["mels"]
        if "shape" in arguments:
            return tuple(arguments["shape"])
        return self.fixed_input or (arguments["image_size"], arguments["image_size"], arguments["channels"])

    @property
    def file(self) -> Path:
        """The file that defines it."""
        return Path(inspect.getfile(self.builder))


_cards: dict[str, Card] = {}
_aliases: dict[str, str] = {}  # what people type, without its hyphens
_families: set[str] = set()


def register(
    name: str,
    builder: Callable[..., keras.Model],
    *,
    parameters: int,
    multiply_adds: int,
    about: Mapping[str, Any],
    small: Mapping[str, Any] | None = None,
    family: str | None = None,
    fixed_input: tuple[int | None, ...] | None = None,
    receptive_field: int | None = None,
    tokens: int | None = None,
    preprocessing: Preprocessing | None = None,
    **config: Any,
) -> None:
    """Add a model: `builder(**config)` builds it.

    `about` contains what the variants in a file share (paper, url, year, idea, task, recipe); `family` is a
    second name for the model, such as "resnet" for resnet50. Raises ValueError if the name is taken.
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
        receptive_field=receptive_field,
        tokens=tokens,
        preprocessing=preprocessing,
        **about,
    )
    _aliases[_plain(name)] = name
    if family is not None:
        _aliases[_plain(family)] = name
        _families.add(family)


def list_models(pattern: str = "*") -> list[str]:
    """The names of the models that match a shell pattern, e.g. "vit*".

    The zoo's own models come first, in the order of `FAMILIES`, then those that others have registered.
    """
    place = {f"zoo.models.{family}": i for i, family in enumerate(FAMILIES)}
    cards = sorted(_all().values(), key=lambda card: place.get(card.builder.__module__, len(place)))
    return [card.name for card in cards if fnmatch(card.name, pattern.lower())]


def families() -> dict[str, str]:
    """The model that a family's name stands for, e.g. "resnet" -> "resnet50"."""
    _all()
    return {family: _aliases[_plain(family)] for family in sorted(_families)}


def card(name: str) -> Card:
    """The card of a model, by its own or its family's name. Raises UnknownModel, naming similar ones."""
    cards = _all()
    if not isinstance(name, str) or _plain(name) not in _aliases:
        near = nearest(str(name), {*cards, *_families})
        raise UnknownModel(f"no model {str(name)!r}; {near}. `zoo list` shows all {len(cards)}.")
    return cards[_aliases[_plain(name)]]


def is_name(name: str) -> bool:
    """Whether this is the name of a model or of a family."""
    _all()
    return _plain(name) in _aliases


def build(
    name: str, *, seed: int = 0, dtype: str | None = None, weights: str | None = None, **changes: Any
) -> keras.Model:
    """Build a model: a plain `keras.Model`, on torch also a `torch.nn.Module`, that returns logits.

    `changes` are arguments of the model's builder (`zoo info NAME` lists them), e.g. classes=10,
    image_size=32. The same seed gives the same initial weights, bit for bit, on every framework. `dtype` is a
    Keras dtype policy ("float32", "bfloat16", "mixed_bfloat16" ...), by default that of keras.config.
    `weights` names pretrained weights included with the zoo (`zoo.pretrained`), e.g. "digits": the model is
    built with the arguments that they need. Use `zoo.weights.load` for weights in a file. Raises
    UnknownModel, UnknownName, or WrongConfiguration, which names the argument and the values allowed.
    """
    chosen = card(name)
    if weights is not None and pretrained.find(chosen.name, weights) is None:
        raise WrongConfiguration(f"{chosen.name}: weights={weights!r} is a file; zoo.weights.load takes it")
    changes = pretrained.allowed(chosen.name, weights, changes)
    check(chosen, changes)
    seed = integer(chosen.name, "seed", seed, 0)
    before = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy(before if dtype is None else dtype)
    except (ValueError, TypeError):
        raise WrongConfiguration(
            f"{chosen.name}: dtype={dtype!r}; expected one of Keras's policies, as 'mixed_bfloat16'"
        ) from None
    try:
        with random.seeded(seed):
            model = chosen.builder(**{**chosen.config, **{k: python_value(v) for k, v in changes.items()}})
    finally:
        keras.config.set_dtype_policy(before)
    model.name = chosen.name
    object.__setattr__(model, "_zoo_arguments", dict(changes))  # zoo.training.runs saves them
    if weights is not None:
        import_module("zoo.weights").load(model, weights, head="require")
    return model


def check(chosen: Card, changes: Mapping[str, Any]) -> None:
    """Raise WrongConfiguration unless these are valid arguments of the model, of the right type."""
    parameters = inspect.signature(chosen.builder).parameters
    for name, value in changes.items():
        if name not in chosen.arguments:
            raise WrongConfiguration(
                f"{chosen.name} takes no argument {name!r}; {nearest(name, chosen.arguments)}. "
                f"It takes: {', '.join(f'{k}={v!r}' for k, v in chosen.arguments.items())}"
            )
        expected, fits = KINDS.get(str(parameters[name].annotation), ("", lambda _: True))
        if not fits(value):
            raise WrongConfiguration(f"{chosen.name}: {name}={value!r}; expected {expected}")


def _all() -> dict[str, Card]:
    for family in FAMILIES:
        import_module(f"zoo.models.{family}")
    return _cards


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")


# A builder argument's annotation -> what is expected of its value. Every integer of a builder is a size.
KINDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("an integer, 1 or more", is_integer),
    "float": ("a number", lambda v: isinstance(v, Real) and not isinstance(v, bool)),
    "str": ("a string", lambda v: isinstance(v, str)),
    "bool": ("True or False", lambda v: isinstance(v, bool)),
    "tuple[int, ...]": (
        "a tuple of integers, 1 or more each",
        lambda v: isinstance(v, tuple | list) and all(map(is_integer, v)),
    ),
}
