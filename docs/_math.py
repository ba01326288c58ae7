"""Equations as MathML, which browsers draw: TeX in the chapters, plain text in the models' docstrings."""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert

# What an equation in plain text consists of.
TOKEN = re.compile(
    r"(?P<power>1e-?\d+)|(?P<number>\d+(?:\.\d+)?)|(?P<words>(?:[A-Za-z]+'s|[A-Za-z]{2,})(?: [A-Za-z]{2,})*)"
    r"|(?P<symbol>[A-Za-z])|(?P<dots>\.\.\.)|(?P<blank> +)|(?P<rest>.)"
)
PRIME = re.compile(r"<msup>(<mi>[^<]*</mi>)<mi>&#x02032;</mi></msup>")  # as large as a font draws it
GREEK = {"phi": r"\phi", "sum": r"\sum"}
GAP = re.compile(r" {3,}")  # between two equations of a line
SYMBOL = re.compile(
    r"\b\d+ x \d+\b|(?<!')\b(?!a\b)[A-Za-z]\b'?(?!s)"
)  # in a remark: 3 x 3, or a letter that is no word


def mathml(tex: str, display: str) -> str:
    """TeX as MathML. A command that the converter does not know is an error, not text on the page."""
    tex = re.sub(r"\\mathrm\{(\w\w+)\}", r"\\text{\1}", tex).replace(r"\!", "")  # a word is one thing
    text = convert(tex, display=display)
    text = PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">&#x02032;</mo></mrow>', text)
    if "\\" in text:
        raise ValueError(f"no MathML for {tex}")
    return text


def inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(mathml(node.astext(), "inline"))
    raise nodes.SkipNode


def block(translator: Any, node: nodes.math_block) -> None:
    """Equations wider than the page are scrolled, by the keyboard too."""
    formula = mathml(node.astext(), "block")
    translator.body.append(f'<div class="math" tabindex="0" role="group">{formula}</div>\n')
    raise nodes.SkipNode


def equations(text: str) -> str:
    """A docstring's Markdown, its indented equations as formulas, each line of them a paragraph."""
    return "\n\n".join(map(paragraph, text.split("\n\n")))


def paragraph(text: str) -> str:
    rows = text.splitlines()
    if not rows or not all(row.startswith("    ") for row in rows):
        return text
    lines = ["\N{EM SPACE} ".join(map(piece, GAP.split(row.strip()))) for row in rows]
    return "\n".join(["```{container} equations", "", *(line + "\n" for line in lines), "```"])


def piece(text: str) -> str:
    """An equation as a formula, what is said after it as words with formulas in them."""
    return " ".join(
        f"${tex(clause)}$"
        if re.search(r" = |\^", clause)
        else SYMBOL.sub(lambda found: f"${tex(found[0])}$", clause)
        for clause in clauses(text)
    )


def clauses(text: str) -> list[str]:
    """Parts between which a line may break: after a comma before a word, outside of parentheses."""
    found, depth = [""], 0
    for i, character in enumerate(text):
        depth += (character in "([") - (character in ")]")
        if character == " " and depth == 0 and text[i - 1] == "," and re.match(r" [a-z]{2,} ", text[i:]):
            found.append("")
        else:
            found[-1] += character
    return found


def tex(text: str) -> str:
    """An equation in plain text as TeX: x_(t-1), W^T, 1e-4, 3 x 3; a word is upright."""
    text = re.sub(r"(?<=[\w)]) x (?=\d)", " × ", text)
    text = re.sub(r"_\(([^)]*)\)", r"_{\1}", text)
    text = re.sub(r"([_^])([A-Za-z]+|[\d.]+)", r"\1{\2}", text)
    return "".join(map(symbol, TOKEN.finditer(text)))


def symbol(token: re.Match[str]) -> str:
    kind, text = token.lastgroup, token[0]
    if kind == "power":
        return f"10^{{{text[2:]}}}"
    if kind == "words" and text not in GREEK:
        before = " " if re.search(r"[\w\])] $", token.string[: token.start()]) else ""
        after = " " if re.match(r" [\w\[(]", token.string[token.end() :]) else ""
        return rf"\text{{{before}{text}{after}}}"
    return GREEK.get(text) or {"...": r"\ldots", "×": r"\times"}.get(text, text)
