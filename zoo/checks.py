"""Checks of arguments, made before any work is done."""

from __future__ import annotations

import ast
import operator
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from numbers import Real
from typing import Any, ParamSpec, TypeVar

from zoo.errors import WrongConfiguration


@dataclass(frozen=True)
class Call:
    """A call that is written in words, as RandAugment(2, magnitude=9)."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        arguments = [*map(repr, self.args), *(f"{k}={v!r}" for k, v in self.kwargs.items())]
        return f"{self.name}({', '.join(arguments)})"


def parse_calls(option: str, text: str) -> list[Call]:
    """The comma-separated calls of a text, whose arguments are Python literals; parentheses may be left out.

    Hyphens in names are ignored. Raises WrongConfiguration, naming the option.
    """
    try:
        listed = ast.parse(f"[{re.sub(r'-(?=[A-Za-z])', '', text)}]", mode="eval").body
        return [_call(node) for node in listed.elts]  # pyright: ignore[reportAttributeAccessIssue]
    except (SyntaxError, ValueError, AttributeError):
        raise WrongConfiguration(
            f"{option}={text!r}; expected names with plain arguments, e.g. 'Name, Name(2, option=9)'"
        ) from None


def _call(node: ast.expr) -> Call:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    kwargs = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    name = call.func.id  # pyright: ignore[reportAttributeAccessIssue]
    return Call(name, tuple(ast.literal_eval(a) for a in call.args), kwargs)


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
