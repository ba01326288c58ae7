"""The shipped notebooks: what their code printed and drew, small, the same on every machine that ran it."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupytext")

pytestmark = [pytest.mark.notebooks, pytest.mark.once]

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
SHIPPED = sorted(NOTEBOOKS.glob("*/[0-9]*.ipynb"))
MOST_BYTES = 6_000_000
PRINTS, DRAWS = {"print", "display"}, {"plt.show"}

notebooks = pytest.mark.parametrize("path", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")


def code(path: Path) -> list[dict[str, Any]]:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def calls(node: ast.AST) -> Iterator[str]:
    """The functions that run when a cell does: not those inside of its own definitions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            if isinstance(child, ast.Call):
                yield ast.unparse(child.func)
            yield from calls(child)


def kinds(cell: dict[str, Any]) -> set[str]:
    """`text`, `image` or both, as far as a cell has them as outputs."""
    data = [output.get("data", {"text": ""}) for output in cell["outputs"]]
    return {kind.partition("/")[0] for found in data for kind in found if "plain" not in kind}


@notebooks
def test_every_cell_that_prints_or_draws_has_an_output(path: Path):
    lacking = []
    for number, cell in enumerate(code(path), 1):
        called = set(calls(ast.parse("".join(cell["source"]))))
        expected: set[str] = set()
        if called & PRINTS:
            expected.add("text")
        if called & DRAWS:
            expected.add("image")
        lacking += [(number, kind) for kind in expected - kinds(cell)]
    assert lacking == [], f"python notebooks/_write.py --run {int(path.name[:2])}"


@notebooks
def test_an_output_names_no_machine_and_no_moment(path: Path):
    cells = code(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert {key for cell in cells for key in cell["metadata"]} <= {"cellView", "jupyter", "tags"}
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output["name"] for output in outputs if "name" in output} <= {"stdout"}
    text = json.dumps([output.get("text", "") for output in outputs])
    assert re.findall(r"/(?:tmp|root|home|usr)/\S*|0x[0-9a-f]{6,}|\w*Warning|\r|\x1b", text) == []


@notebooks
def test_a_figure_says_in_words_what_it_shows(path: Path):
    for output in (output for cell in code(path) for output in cell["outputs"]):
        for kind in {"image/png", "image/svg+xml"} & set(output.get("data", {})):
            assert output["metadata"][kind]["alt"]
            if kind == "image/svg+xml":
                svg = "".join(output["data"][kind])
                assert "<title>" in svg
                assert "<metadata>" not in svg  # with the date


def test_all_notebooks_are_small_together():
    assert len(SHIPPED) == 28
    assert sum(path.stat().st_size for path in SHIPPED) < MOST_BYTES


@pytest.fixture
def write(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    return import_module("_write")


def test_words_and_comments_change_without_a_run(write: Any):
    v4 = nbformat.v4
    stream = v4.new_output("stream", text="2\n")
    before = v4.new_notebook(
        cells=[
            v4.new_markdown_cell("old words"),
            v4.new_code_cell("print(1 + 1)", outputs=[stream], execution_count=1),
            v4.new_code_cell("x = 1\nprint(x + 1)", outputs=[stream], execution_count=2),
        ]
    )
    after = v4.new_notebook(
        cells=[
            v4.new_markdown_cell("new words"),
            v4.new_code_cell("print(1 + 1)  # two"),
            v4.new_code_cell("x = 2\nprint(x + 1)"),
        ]
    )
    write.keep_outputs(after, before)
    assert [cell.source for cell in after.cells] == [
        "new words",
        "print(1 + 1)  # two",
        "x = 2\nprint(x + 1)",
    ]
    assert [cell.outputs for cell in after.cells[1:]] == [[stream], []]
    assert [cell.execution_count for cell in after.cells[1:]] == [1, None]


def test_every_link_to_a_service_follows_from_one_address(write: Any, monkeypatch: pytest.MonkeyPatch):
    header = import_module("_header")
    before = header.repository()
    address = "https://github.com/someone/somewhere"
    for module in (header, write):
        monkeypatch.setattr(module, "repository", lambda: address)
    for language in ("en", "zh"):
        text = nbformat.writes(write.notebook(NOTEBOOKS / language / "13-hardware.py"))
        assert before not in text
        assert f"git clone {address}" in text
        file = f"someone/somewhere/blob/main/notebooks/{language}/13-hardware.ipynb"
        assert f"https://colab.research.google.com/github/{file}" in text
        assert f"https://kaggle.com/kernels/welcome?src=https://github.com/{file}" in text
        assert "https://codespaces.new/someone/somewhere" in text


def test_a_chapter_names_only_earlier_ones_to_read_first(write: Any):
    del write
    header = import_module("_header")
    assert sorted(header.READ_FIRST) == list(range(1, 15))
    assert [n for n, first in header.READ_FIRST.items() if any(other >= n for other in first)] == []
