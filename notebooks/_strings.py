"""A chapter's strings and comments in Chinese, by tables: the rest of its code stays as the English has it.

zh/01-neuron.json maps the text of a literal, as it stands between the quotes of the English code, or of a
comment, as it stands after "# ", to the Chinese; zh/common.json holds what several chapters share.
"""

from __future__ import annotations

import io
import json
import re
import tokenize
from pathlib import Path

QUOTES = re.compile(r"""[a-zA-Z]*('''|\"\"\"|'|")""")
NESTED = {getattr(tokenize, name, None): step for name, step in (("FSTRING_START", 1), ("FSTRING_END", -1))}


def spans(code: str) -> list[tuple[int, int]]:
    """Where the texts of a cell's literals and comments begin and end; an f-string is one literal."""
    lines = [0, *(match.end() for match in re.finditer("\n", code)), len(code)]
    found, opened, depth = [], 0, 0
    for token in tokenize.generate_tokens(io.StringIO(code).readline):
        start, end = (lines[row - 1] + column for row, column in (token.start, token.end))
        if token.type in NESTED:  # from Python 3.12 on
            opened = opened if depth else start
            depth += NESTED[token.type]
            if depth:
                continue
            start = opened
        elif depth or token.type not in (tokenize.STRING, tokenize.COMMENT):
            continue
        if code[start] == "#":
            found.append((min(start + 2, end), end))
        else:
            quote = QUOTES.match(code, start)
            assert quote is not None
            found.append((quote.end(), end - len(quote[1])))
    return found


def texts(code: str) -> list[str]:
    """The literals and comments of a cell, in their order."""
    return [code[start:end] for start, end in spans(code)]


def table(chapter: Path) -> dict[str, str]:
    """The strings of a chapter, zh/NAME.py: what is shared, and its own."""
    found = {}
    for path in (chapter.with_name("common.json"), chapter.with_suffix(".json")):
        found |= json.loads(path.read_text(encoding="utf-8"))
    return found


def translated(code: str, strings: dict[str, str]) -> str:
    """A cell's code with the literals and comments that the table has replaced."""
    for start, end in reversed(spans(code)):
        code = code[:start] + strings.get(code[start:end], code[start:end]) + code[end:]
    return code
