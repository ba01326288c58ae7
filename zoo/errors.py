"""The errors of the zoo. Each message states what was given, what was expected, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any


class ZooError(Exception):
    """The base class of all deliberate errors of the zoo: `except zoo.ZooError` catches them all."""


class BackendError(ZooError):
    """A framework that is unknown, not installed, or not the one already in use in this process."""


class UnknownName(ZooError, LookupError):
    """An unknown name of a task, recipe, metric or similar."""


class UnknownModel(UnknownName):
    """A name under which no model is registered."""


class WrongConfiguration(ZooError, ValueError):
    """An argument that is not supported, or not with this value."""


class DataUnavailable(ZooError):
    """Data that could not be obtained: no network connection, or a missing or invalid file."""


class WeightsMismatch(ZooError, ValueError):
    """Weights that do not match the model by name and shape; nothing was loaded."""


class NotSaved(ZooError):
    """A training run that ended, and could not be saved; it is the attribute `run`."""

    def __init__(self, message: str, run: Any = None):
        super().__init__(message)
        self.run = run


class WorkerLost(ZooError):
    """Another worker of a run has ended, or did not answer in time."""

    @classmethod
    def of(cls, error: Exception) -> WorkerLost:
        """The error for a framework's own."""
        first = str(error).strip().partition("\n")[0][:200]
        return cls(f"a worker has ended, or did not answer in time; resume the run. {first}")


class NonFinite(ZooError, ArithmeticError):
    """A training run whose loss or weights became NaN or infinite.

    Attributes: the `step`, counted from 1; `where` it was first, a layer's output, the loss or a gradient;
    and the `run`, with the weights before that step.
    """

    def __init__(self, message: str, step: int | None = None, where: str = "", run: Any = None):
        super().__init__(message)
        self.step, self.where, self.run = step, where, run


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of an error message: "nearest: a, b" or, with nothing near, "there are: a, b, c"."""
    known = sorted(known)
    close = get_close_matches(name.lower(), known, n=3, cutoff=0.5)
    return f"nearest: {', '.join(close)}" if close else f"there are: {', '.join(known)}"


def shortlist(names: Iterable[object], most: int = 5, separator: str = ", ") -> str:
    """The first names, and how many more there are: "a, b, and 4 more"."""
    texts = list(map(str, names))
    more = [f"and {len(texts) - most:,} more"] if len(texts) > most else []
    return separator.join([*texts[:most], *more])
