"""Every notebook's .ipynb from its plain .py, and the code of the Chinese from the English.

    python notebooks/_write.py             # words and code; outputs of unchanged code stay
    python notebooks/_write.py --run       # runs every chapter in both languages, about ten minutes
    python notebooks/_write.py --run 3 7   # only chapters 3 and 7

The .py files (jupytext's percent format) are what is edited: of the English all, of the Chinese the words.
Strings and comments in the code of the Chinese come from the tables beside it (_strings.py).
After an edit in Jupyter, `jupytext --sync` brings the change back to the .py.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat

ROOT = Path(__file__).parent
sys.path.append(str(ROOT))  # Python leaves it out where PYTHONSAFEPATH is set

import _strings  # noqa: E402
from _header import headed, repository  # noqa: E402

from zoo import show  # noqa: E402

CELL = re.compile(r"^# %%", re.MULTILINE)
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def cells(text: str) -> list[str]:
    """The cells of a .py, each from its `# %%` on."""
    starts = [match.start() for match in CELL.finditer(text)]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]


def is_words(cell: str) -> bool:
    return cell.startswith("# %% [markdown]")


def translated(english: str, chinese: str, strings: dict[str, str]) -> str:
    """The English notebook's code, its strings as the table has them, with the Chinese notebook's words."""
    words = [cell.rstrip() for cell in cells(chinese) if is_words(cell)]
    wanted = sum(map(is_words, cells(english)))
    if len(words) != wanted:
        raise ValueError(f"expected {wanted} cells of words, as the English has, found {len(words)}")
    left = iter(words)
    parts = []
    for cell in cells(english):
        if is_words(cell):
            parts.append(next(left) + cell[len(cell.rstrip()) :])
        else:
            mark, code = cell.split("\n", 1)
            parts.append(f"{mark}\n{_strings.translated(code, strings)}")
    return "".join(parts).rstrip() + "\n"


def notebook(source: Path) -> Any:
    """The notebook of a .py, without outputs, the same at every call."""
    text = source.read_text(encoding="utf-8")
    book = jupytext.reads(text, fmt="py:percent")
    book.cells[0].source = headed(book.cells[0].source, text, source.parent.name, source.stem)
    for number, cell in enumerate(book.cells, 1):
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("lines_to_next_cell", None)  # blank lines of the .py
        if cell.cell_type == "markdown":
            cell.source = cell.source.replace("ADDRESS", repository())
    book.metadata = nbformat.from_dict(
        {
            "jupytext": {"formats": "ipynb,py:percent"},
            "kernelspec": KERNEL,
            "language_info": {"name": "python"},
        }
    )
    return book


def keep_outputs(book: Any, before: Any) -> None:
    """Give a notebook the outputs of an earlier one's cells whose code differs at most in comments."""
    left = [cell for cell in before.cells if cell.cell_type == "code"]
    for cell in book.cells:
        if cell.cell_type == "code":
            same = next((old for old in left if meaning(old.source) == meaning(cell.source)), None)
            if same is not None:
                left.remove(same)
                cell.outputs, cell.execution_count = same.outputs, same.execution_count


def meaning(source: str) -> str:
    return ast.dump(ast.parse(source))


def write_notebook(source: Path, run: bool) -> None:
    """The .ipynb beside a .py, run or with the outputs that it had."""
    path = source.with_suffix(".ipynb")
    book = notebook(source)
    if run:
        from _run import execute

        execute(book, source.stem)
        print(path.relative_to(ROOT), f"{len(nbformat.writes(book)):,} bytes", flush=True)
    elif path.exists():
        try:
            keep_outputs(book, nbformat.read(path, as_version=4))
        except nbformat.reader.NotJSONError:  # conflicts of a merge
            print(f"{path.relative_to(ROOT)} is no notebook: written without outputs, --run makes them")
    path.write_text(nbformat.writes(book) + "\n", encoding="utf-8", newline="\n")


def write(english: Path, run: bool = False) -> None:
    """Both languages' .ipynb of one chapter, and the Chinese .py's code."""
    write_notebook(english, run)
    chinese = ROOT / "zh" / english.name
    if chinese.exists():
        words, strings = chinese.read_text(encoding="utf-8"), _strings.table(chinese)
        text = translated(english.read_text(encoding="utf-8"), words, strings)
        chinese.write_text(text, encoding="utf-8", newline="\n")
        write_notebook(chinese, run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the notebooks from their sources.")
    parser.add_argument("--run", nargs="*", type=int, metavar="CHAPTER", help="run them; without numbers all")
    chosen = parser.parse_args().run
    if chosen is not None and len(show.use_fonts()) < 2:
        parser.error("no font has Chinese characters, for the figures: apt-get install fonts-noto-cjk")
    for path in sorted((ROOT / "en").glob("[0-9]*.py")):
        write(path, run=chosen is not None and (not chosen or int(path.name[:2]) in chosen))
