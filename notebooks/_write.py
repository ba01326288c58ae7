"""Every notebook's .ipynb from its plain .py, and the code of the Chinese from the English.

    python notebooks/_write.py

The .py files (jupytext's percent format) are what is edited: of the English all, of the Chinese the words.
After an edit in Jupyter, `jupytext --sync` brings the change back to the .py.
"""

from __future__ import annotations

import re
from pathlib import Path

import jupytext
import nbformat

ROOT = Path(__file__).parent
CELL = re.compile(r"^# %%", re.MULTILINE)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells(text: str) -> list[str]:
    """The cells of a .py, each from its `# %%` on."""
    starts = [match.start() for match in CELL.finditer(text)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def is_words(cell: str) -> bool:
    return cell.startswith("# %% [markdown]")


def translated(english: str, chinese: str) -> str:
    """The English notebook's code with the Chinese notebook's words."""
    words = [cell.rstrip() for cell in cells(chinese) if is_words(cell)]
    wanted = sum(map(is_words, cells(english)))
    if len(words) != wanted:
        raise ValueError(f"expected {wanted} cells of words, as the English has, found {len(words)}")
    left = iter(words)
    parts = (next(left) + cell[len(cell.rstrip()) :] if is_words(cell) else cell for cell in cells(english))
    return "".join(parts).rstrip() + "\n"


def notebook(text: str) -> str:
    """The .ipynb of a .py, without outputs, the same at every call."""
    book = jupytext.reads(text, fmt="py:percent")
    for number, cell in enumerate(book.cells, 1):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("lines_to_next_cell", None)  # blank lines of the .py
    book.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
        }
    )
    return nbformat.writes(book, version=nbformat.NO_CONVERT) + "\n"


def write(english: Path) -> None:
    """Both languages' .ipynb of one chapter, and the Chinese .py's code."""
    text = english.read_text(encoding="utf-8")
    english.with_suffix(".ipynb").write_text(notebook(text), encoding="utf-8", newline="\n")
    chinese = ROOT / "zh" / english.name
    if chinese.exists():
        text = translated(text, chinese.read_text(encoding="utf-8"))
        chinese.write_text(text, encoding="utf-8", newline="\n")
        chinese.with_suffix(".ipynb").write_text(notebook(text), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    for path in sorted((ROOT / "en").glob("[0-9]*.py")):
        write(path)
