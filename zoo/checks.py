"""Checks of arguments, made before any work is done."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from zoo.errors import WrongConfiguration

P = ParamSpec("P")
R = TypeVar("R")


def is_integer(value: Any, least: int = 1) -> bool:
    """Whether this is a Python or NumPy integer of `least` or more. Bools are not."""
    try:
        return not isinstance(value, bool) and operator.index(value) >= least
    except TypeError:  # NumPy's bool, too
        return False


def integer(who: str, name: str, value: Any, least: int = 1, most: int | None = None) -> int:
    """The argument as a Python int. Raises WrongConfiguration, naming it, unless least <= value <= most.

    NumPy's integers are accepted; bools and floats are not.
    """
    if is_integer(value, least) and (most is None or operator.index(value) <= most):
        return operator.index(value)
    bounds = f", {least} or more" if most is None else f" from {least} to {most}"
    raise WrongConfiguration(f"{who}: {name}={value!r}; expected an integer{bounds}")


def python_value(value: Any) -> Any:
    """NumPy numbers as Python numbers, also in tuples and lists, to print and save."""
    if isinstance(value, tuple):
        return tuple(map(python_value, value))
    if isinstance(value, list):
        return list(map(python_value, value))
    item = getattr(value, "item", None)
    return item() if isinstance(value, Real) and item is not None else value


def renamed_argument(old: str, new: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: the function also accepts an argument by its old name, with a DeprecationWarning."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            if old in kwargs:
                message = f"{function.__name__}: the argument {old}= is now {new}="
                warnings.warn(message, DeprecationWarning, stacklevel=2)
                kwargs[new] = kwargs.pop(old)
            return function(*args, **kwargs)

        return call

    return decorate
