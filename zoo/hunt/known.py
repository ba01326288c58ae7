"""Differences between the frameworks that are documented or agreed on, as data."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """A difference by regular expressions of its operation, kind, backends, errors and case."""

    reason: str
    operation: str = ""
    kind: str = ""
    backends: str = ""
    error: str = ""
    case: str = ""


SHARP_BITS = "https://docs.jax.dev/en/latest/notebooks/Common_Gotchas_in_JAX.html"
KNOWN = (
    Known(
        "refused with a message that says so",
        kind="error",
        error=r"(?i)(not|un)[ -]?supported|not support|not implemented|unimplemented|only support"
        r"|no entry for|when using the \w+ backend",
    ),
    Known(
        f"JAX compiles programs for shapes that do not depend on values: {SHARP_BITS}",
        kind="compiled",
        backends="jax",
        error="Concretization|Tracer|NonConcrete",
    ),
    Known(
        f"an index out of range: an error on torch, clamped or left out on JAX: {SHARP_BITS}",
        operation=r"take|gather|slice|scatter|Embedding|unravel_index|get_item|segment|in_top_k|crossentropy",
        case=r"-1|-7|-8|5,|7\]|9\]|\[2, 3\]|12\]",
    ),
    Known("a float out of the integer's range: undefined in C", operation=r"ops\.(cast|saturate_cast)"),
    Known("division of an integer by zero: undefined in C", case=r"y=\[0,0,0\]"),
    Known("a shift by a number of bits that is none of the type's: undefined in C", operation="shift"),
    Known("a factor Q with any signs is right", operation=r"ops\.qr"),
    Known(
        "an input that is not symmetric or not positive definite", operation=r"cholesky|eigh", case=r"x=\[\["
    ),
    Known("which of equal elements comes first is left open", operation=r"argpartition"),
    Known("an intermediate result out of float64's range", case=r"\((large|small)\)$"),
)


def known(operation: str, kind: str, backends: str, error: str, case: str) -> str | None:
    """The reason for which a difference needs no report; None if there is none."""
    for entry in KNOWN:
        texts = ((entry.operation, operation), (entry.kind, kind), (entry.backends, backends))
        if all(re.search(p, t) for p, t in (*texts, (entry.error, error), (entry.case, case))):
            return entry.reason
    return None
