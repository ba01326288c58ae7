"""The base classes of transforms, and the valid ranges of their arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from zoo.checks import is_integer, python_value
from zoo.errors import WrongConfiguration

Example = tuple[np.ndarray, np.ndarray]  # an image (h, w, c) and its target


@dataclass(frozen=True)
class Transform:
    """Changes one image (h, w, c), using only the random generator it is given.

    Images are float32 in [0, 1] or bytes, and keep their type. Raises WrongConfiguration for invalid
    arguments.
    """

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            expected, fits = RANGES[field.name]
            try:
                valid = fits(value)
            except (TypeError, ValueError):
                valid = False
            if not valid:
                raise WrongConfiguration(
                    f"{type(self).__name__}: {field.name}={value!r}; expected {expected}"
                )
            object.__setattr__(self, field.name, python_value(value))

    def __call__(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The changed image."""
        raise NotImplementedError


@dataclass(frozen=True)
class Mix(Transform):
    """Mixes an example and its target with another of the same batch."""

    def mix(self, example: Example, other: Example, rng: np.random.Generator) -> Example:
        """The mixed image and target."""
        raise NotImplementedError


def _share(value: float) -> bool:
    return 0 <= value <= 1


def _span(least: float, most: float) -> bool:
    return 0 < least <= most


def _synonyms(value: Any) -> bool:
    """Whether this is None or a table of lists without blank synonyms, which could remove a last word."""
    return value is None or (
        isinstance(value, Mapping)
        and all(isinstance(word, str) for word in value)
        and all(isinstance(others, list | tuple) and all(map(str.strip, others)) for others in value.values())
    )


# The name of a transform's argument -> its range in words, and a function that checks it.
RANGES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "rate": ("a probability, 0 to 1", _share),
    "degrees": ("0 to 180", lambda v: 0 <= v <= 180),
    "size": ("pixels, an integer of 1 or more", lambda v: is_integer(v, 1)),
    "padding": ("pixels, an integer of 0 or more", lambda v: is_integer(v, 0)),
    "area": ("two fractions of the image, 0 < first <= second <= 1", lambda v: _span(*v) and v[1] <= 1),
    "aspect": ("two ratios of width to height, 0 < first <= second", lambda v: _span(*v)),
    "brightness": ("0 or more", lambda v: v >= 0),
    "contrast": ("0 or more", lambda v: v >= 0),
    "saturation": ("0 or more", lambda v: v >= 0),
    "hue": ("a fraction of the colour circle, 0 to 0.5", lambda v: 0 <= v <= 0.5),
    "operations": ("an integer of 0 or more", lambda v: is_integer(v, 0)),
    "magnitude": ("0 to 30", lambda v: 0 <= v <= 30),
    "fill": ("a brightness, 0 to 1", _share),
    "alpha": ("more than 0", lambda v: v > 0),
    "table": ("the synonyms of each word, {'quick': ['fast', 'swift']}, or None for WordNet", _synonyms),
    "there": ("a function of a text", callable),
    "back": ("a function of a text", callable),
    "rates": ("two speeds, 0.1 <= first <= second <= 10", lambda v: _span(*v) and v[0] >= 0.1 and v[1] <= 10),
    "semitones": ("0 to 24", lambda v: 0 <= v <= 24),
    "snr": ("two ratios in dB, first <= second", lambda v: -200 <= v[0] <= v[1] <= 200 and len(v) == 2),
    "share": ("a fraction of the length, 0 to 1", _share),
    "time_masks": ("an integer of 0 or more", lambda v: is_integer(v, 0)),
    "time_width": ("frames, an integer of 0 or more", lambda v: is_integer(v, 0)),
    "frequency_masks": ("an integer of 0 or more", lambda v: is_integer(v, 0)),
    "frequency_width": ("bands, an integer of 0 or more", lambda v: is_integer(v, 0)),
}  # fmt: skip
