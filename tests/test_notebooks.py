"""The chapters: each runs from its first cell to its last, in two languages that share their code.

`tox -e notebooks` runs this on PyTorch, with the others to compare; tox's environments of TensorFlow and JAX
run the chapters as who has one framework alone. Elsewhere, without jupytext, it is left out.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from test_chinese import untranslated

from zoo._lazy import keras

jupytext = pytest.importorskip("jupytext")
matplotlib = pytest.importorskip("matplotlib")
plt = pytest.importorskip("matplotlib.pyplot")

pytestmark = pytest.mark.notebooks

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CHAPTERS = sorted(path.name for path in (NOTEBOOKS / "en").glob("[0-9]*.py"))
LANGUAGES = {"en": ("What you will see", "Further reading"), "zh": ("你会看到什么", "继续阅读")}
MOST_CELLS = 25

# What is said of them as texts, which are the same on every framework, is marked `once`.
chapters = pytest.mark.parametrize("name", CHAPTERS)
languages = pytest.mark.parametrize("language", LANGUAGES)


def cells(language: str, name: str) -> list:
    text = (NOTEBOOKS / language / name).read_text(encoding="utf-8")
    found = jupytext.reads(text, fmt="py:percent").cells
    for cell in found:
        cell.metadata.pop("lines_to_next_cell", None)  # blank lines of the .py
    return found


def labelled(axis, which: str) -> bool:
    """Whether an axis, the figure, or an axis that shares the scale says what is measured."""
    siblings = getattr(axis, f"get_shared_{which}_axes")().get_siblings(axis)
    whole = getattr(axis.figure, f"get_sup{which}label")()
    return bool(whole) or any(getattr(other, f"get_{which}label")() for other in siblings)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[list]:
    """What `plt.show` has shown; all is closed behind it."""
    plt.switch_backend("Agg")
    shown = []

    def show():
        shown.extend(plt.figure(number) for number in plt.get_fignums())
        plt.close("all")

    monkeypatch.setattr(plt, "show", show)
    yield shown
    plt.close("all")


@pytest.mark.usefixtures("registering")
@pytest.mark.parametrize("name", CHAPTERS[::-1])  # the long ones first: nobody waits for them at the end
def test_a_chapter_runs_and_its_figures_have_labelled_axes(
    name: str, figures: list, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)  # what a chapter writes
    namespace = {"__name__": "__main__"}
    language = "zh" if keras.backend.backend() == "jax" else "en"  # the same code, but for what it says
    for number, cell in enumerate(cells(language, name), 1):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}, cell {number}", "exec"), namespace)
    plt.show()  # what was drawn and not shown, as a notebook shows it
    axes = [axis for figure in figures for axis in figure.axes if axis.axison]
    bare = [axis.get_title() for axis in axes if not (labelled(axis, "x") and labelled(axis, "y"))]
    assert figures
    assert bare == []
    if language == "zh":
        drawn = {text.get_text() for figure in figures for text in figure.findobj(matplotlib.text.Text)}
        assert sorted(filter(untranslated, drawn)) == []


@pytest.mark.once
@chapters
def test_both_languages_have_the_same_cells(name: str):
    english, chinese = ([(c.cell_type, c.metadata) for c in cells(language, name)] for language in LANGUAGES)
    assert english == chinese


@pytest.mark.once
@languages
@chapters
def test_the_notebook_is_its_plain_text(name: str, language: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    path = NOTEBOOKS / language / name
    shipped = json.loads(path.with_suffix(".ipynb").read_text(encoding="utf-8"))
    for cell in shipped["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    written = jupytext.writes(import_module("_write").notebook(path), fmt="ipynb")
    assert shipped == json.loads(written), "python notebooks/_write.py"


@pytest.mark.once
@languages
@chapters
def test_a_chapter_opens_with_what_there_is_to_see_and_ends_with_where_to_go_on(name: str, language: str):
    found = cells(language, name)
    opening, ending = LANGUAGES[language]
    assert len(found) <= MOST_CELLS
    assert found[0].source.startswith(f"# {int(name[:2])} ")
    assert opening in found[0].source
    assert found[-1].source.startswith(f"## {ending}")
    assert re.search(r"https?://", found[-1].source)
    words = "".join(cell.source for cell in found if cell.cell_type == "markdown")
    assert bool(re.search(r"[\u4e00-\u9fff]", words)) == (language == "zh")


@pytest.mark.once
@chapters
def test_two_or_three_exercises_have_hidden_answers_that_check_themselves(name: str):
    answers = [cell for cell in cells("en", name) if "answer" in cell.metadata.get("tags", [])]
    assert 2 <= len(answers) <= 3
    assert [a for a in answers if not a.metadata["jupyter"]["source_hidden"]] == []
    assert [a for a in answers if a.metadata["cellView"] != "form"] == []  # Colab's word for it
    asserts = (any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(a.source))) for a in answers)
    assert all(asserts)


@pytest.mark.once
@languages
@chapters
def test_links_lead_to_a_file_or_are_whole_addresses(name: str, language: str):
    words = "".join(cell.source for cell in cells(language, name) if cell.cell_type == "markdown")
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", words):
        parts = urlsplit(link)
        if parts.scheme:
            broken += [link] * (not re.fullmatch(r"https?://[\w.-]+\.\w+(/\S*)?", link))
        else:
            broken += [link] * (not (NOTEBOOKS / language / parts.path).exists())
    assert broken == []


def glossary() -> list[list[str]]:
    text = (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8")
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:2] == "| "
    ]
    return rows[2:]


@pytest.mark.once
def test_the_glossary_is_in_order_and_leaves_nothing_out():
    rows = glossary()
    names = [row[0].lower() for row in rows]
    assert len(names) > 50
    assert names == sorted(set(names))
    assert [row for row in rows if len(row) != 4 or not all(row)] == []


@pytest.mark.once
@pytest.mark.parametrize("row", glossary(), ids=lambda row: row[0])
def test_a_term_is_used_in_its_chapter_in_both_languages(row: list[str]):
    (name,) = [name for name in CHAPTERS if int(name[:2]) == int(row[3])]
    for language, term in zip(LANGUAGES, row[:2], strict=True):
        words = " ".join(
            cell.source.lower() for cell in cells(language, name) if cell.cell_type == "markdown"
        )
        wanted = [re.sub(r"[(（].*", "", part).strip().lower() for part in re.split("[,、]", term)]
        assert [part for part in wanted if part not in " ".join(words.split())] == []
