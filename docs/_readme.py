"""The table of models in both READMEs, from the registry: `python docs/_readme.py` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from zoo import registry

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- models: written by python docs/_readme.py -->", "<!-- models end -->"
NBSP = "\N{NO-BREAK SPACE}"  # keeps a number, and the dot after it, on the line of its model
HEADINGS = {"README.md": ("models, parameters", "paper"), "README.zh.md": ("模型与参数量", "论文")}


def table(headings: tuple[str, str]) -> str:
    """A row for each paper: its models, their exact numbers of parameters, and its authors and year."""
    papers: dict[tuple[str, str], list[str]] = {}
    for card in map(registry.card, registry.list_models()):
        authors = card.paper.partition(', "')[0]
        papers.setdefault((authors, card.url), []).append(f"`{card.name}`{NBSP}{card.parameters:,}")
    lines = [f"| {' | '.join(headings)} |", "| --- | --- |"]
    for (authors, url), names in papers.items():
        lines.append(f"| {f'{NBSP}· '.join(names)} | [{authors}]({url}) |")
    return "\n".join(lines)


def renewed(name: str) -> str:
    """The text of a README with the table as it should be."""
    text = (ROOT / name).read_text(encoding="utf-8")
    renewed, count = re.subn(
        f"{BEGIN}.*?{END}", f"{BEGIN}\n{table(HEADINGS[name])}\n{END}", text, flags=re.DOTALL
    )
    assert count == 1, f"{name}: expected one table between {BEGIN} and {END}, found {count}"
    return renewed


if __name__ == "__main__":
    for name in HEADINGS:
        (ROOT / name).write_text(renewed(name), encoding="utf-8", newline="\n")
