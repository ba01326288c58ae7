"""What can go wrong, by name. Each message says what was asked, what there is, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class ZooError(Exception):
    """The base of every error the zoo raises on purpose: `except zoo.ZooError` catches them all."""


class BackendError(ZooError):
    """A framework that is unknown, not installed, or not the one that already runs in this process."""


class UnknownName(ZooError, LookupError):
    """A name of no task, recipe, metric or the like."""


class UnknownModel(UnknownName):
    """A name that no model is registered under."""


class WrongConfiguration(ZooError, ValueError):
    """An argument that the thing asked for does not take, or not with that value."""


class DataUnavailable(ZooError):
    """Data that could not be had: no network, or a file that is not what it should be."""


class WeightsMismatch(ZooError, ValueError):
    """Weights that are not the model's, name for name and shape for shape; none of them were loaded."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: "nearest: a, b" or, with nothing near, "there are: a, b, c"."""
    known = sorted(known)
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"there are: {', '.join(known)}"
