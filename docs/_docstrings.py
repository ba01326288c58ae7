"""Docstrings are plain text with a little Markdown; Sphinx reads reStructuredText."""

from __future__ import annotations

import re
from typing import Any

from sphinx.util.inspect import signature, stringify_signature

CODE = re.compile(r"(`[^`]+`)")
NAME = re.compile(r"`[A-Za-z_][\w.]*`")


def convert(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Rewrite a docstring in place, as Sphinx's event asks."""
    del app, what, name, thing, options
    paragraphs = "\n".join(lines).split("\n\n")
    lines[:] = "\n\n".join(map(paragraph, paragraphs)).splitlines()


def paragraph(text: str) -> str:
    """Code and aligned columns as they stand; prose with its special characters escaped."""
    rows = [row for row in text.splitlines() if row.strip()]
    aligned = sum(bool(re.search(r"\S {3,}\S", row)) for row in rows) > 1
    if rows and (aligned or all(row.startswith("    ") for row in rows)):
        language = "python" if "zoo." in text or "tokenizer" in text else "text"
        return f".. code-block:: {language}\n\n" + "\n".join(f"    {row}" for row in rows)
    return "".join(inline(part) for part in CODE.split(text))


def inline(part: str) -> str:
    """A piece of prose, or of `code`: a name may be a link, anything else stands as it is."""
    if CODE.fullmatch(part):
        return part if NAME.fullmatch(part) else f"`{part}`"
    part = re.sub(r"([*|\\])", r"\\\1", part)
    part = re.sub(r"(?<=\w)_(?=\W|$)", r"\\_", part)
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", part)


def call(
    app: Any, what: str, name: str, thing: Any, options: Any, arguments: str | None, result: str | None
) -> tuple[str | None, str | None]:
    """A class's arguments are those of its `__init__`, and dots stand for defaults that are no Python."""
    del app, name, options
    if what == "class" and arguments == "(*args, **kwargs)":  # Keras's classes and protocols say no more
        arguments = stringify_signature(
            signature(thing.__init__, bound_method=True), unqualified_typehints=True
        )
        arguments = "" if arguments == "(*args, **kwargs)" else arguments
    if arguments:
        arguments = re.sub(r"<(?:factory|function [^>]*>|function|[^<>]*object[^<>]*)>", "...", arguments)
    return arguments, result
