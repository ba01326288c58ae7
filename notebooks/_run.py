"""Runs a notebook on PyTorch and keeps what it printed and drew: `python notebooks/_write.py --run`.

Two runs of one notebook differ in nothing but the numbers it measures. A figure is SVG or PNG, whichever is
smaller, and has an alternative text made from its titles and labels. What goes to stderr is left out.
"""

from __future__ import annotations

import base64
import copy
import io
import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 120  # of a PNG
FONTS = "'DejaVu Sans', sans-serif"  # of an SVG's text; the browser has one for Chinese
TIMEOUT_S = 600  # of a cell
COORDINATES = re.compile(r'\b(x|y|x1|y1|x2|y2|width|height|points|transform)="([^"]*)"')
PATH = re.compile(r'\bd="([^"]*)"')


def execute(book: Any, name: str) -> None:
    """Run every cell of a notebook in a folder of its own, and put the outputs into it."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    begin = (
        f"import sys; sys.path.append({str(Path(__file__).parent)!r}); import _run; _run.prepare({name!r})"
    )
    cells, metadata = book.cells, copy.deepcopy(book.metadata)
    book.cells = [new_code_cell(begin), *cells]
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            book,
            timeout=TIMEOUT_S,
            kernel_name="python3",
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=40"],
            resources={"metadata": {"path": folder}},
        )
        quiet = {"KERAS_BACKEND": "torch", "PYTHONWARNINGS": "ignore", "TF_CPP_MIN_LOG_LEVEL": "2"}
        client.execute(cwd=folder, env={**os.environ, "PYTHONSAFEPATH": "1", **quiet})
    book.cells, book.metadata = cells, metadata  # the kernel adds its Python's version
    for count, cell in enumerate((c for c in cells if c.cell_type == "code"), 1):
        cell.execution_count = count
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count


def prepare(name: str) -> None:
    """In the notebook's process: figures as small files with an alternative text."""
    import matplotlib.pyplot as plt
    from IPython.core.getipython import get_ipython
    from IPython.core.pylabtools import select_figure_formats
    from matplotlib.figure import Figure
    from matplotlib_inline.backend_inline import configure_inline_support

    plt.rcParams["svg.fonttype"] = "none"  # text stays text: small, and any browser's font draws it
    plt.rcParams["svg.hashsalt"] = name
    shell: Any = get_ipython()
    configure_inline_support(shell, "module://matplotlib_inline.backend_inline")
    select_figure_formats(shell, set())
    formatters = shell.display_formatter.formatters
    for kind in ("image/svg+xml", "image/png"):
        formatters[kind].for_type(Figure, lambda figure, kind=kind: drawn(figure).get(kind))
        formatters[kind].for_type_by_name(
            "zoo.show.figures", "Picture", lambda picture, kind=kind: drawn(picture.figure).get(kind)
        )
    formatters["text/plain"].for_type(Figure, lambda figure, p, cycle: p.text(alternative(figure)))


def drawn(figure: Figure) -> dict[str, tuple[Any, dict[str, str]]]:
    """The smaller of both kinds: its data, and its alternative text as metadata."""
    from PIL import Image

    alt = alternative(figure)
    text, png, small = io.StringIO(), io.BytesIO(), io.BytesIO()
    figure.savefig(text, format="svg", bbox_inches="tight", metadata={"Date": None})
    figure.savefig(png, format="png", bbox_inches="tight", dpi=DPI)
    Image.open(png).convert("RGB").quantize(256).save(small, format="PNG", optimize=True)
    svg, encoded = compact(text.getvalue(), alt), base64.b64encode(small.getvalue()).decode()
    kind, data = min(("image/svg+xml", svg), ("image/png", encoded), key=lambda pair: len(pair[1]))
    return {kind: (data, {"alt": alt})}


def compact(svg: str, alt: str) -> str:
    """A figure's SVG without what nobody sees, to a hundredth of a point."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = COORDINATES.sub(lambda found: f'{found[1]}="{rounded(found[2])}"', svg)
    svg = PATH.sub(lambda found: f'd="{shortened(found[1])}"', svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*(?:DejaVu Sans'|CJK)[^;\"]*", f"font-family: {FONTS}", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    escaped = alt.replace("&", "&amp;").replace("<", "&lt;")
    head, rest = svg.split(">", 1)
    return f'{head} role="img">\n<title>{escaped}</title>{rest}'


def rounded(numbers: str) -> str:
    """Coordinates to two places; scales are left as they are, a glyph's are small."""
    if "scale" in numbers or "matrix" in numbers:
        return numbers
    return re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}".rstrip("0").rstrip("."), numbers)


def shortened(path: str) -> str:
    """A path's commands without blanks that separate nothing; a line after a line needs no letter."""
    parts, last = [], ""
    for command, numbers in re.findall(r"([A-Za-z])([^A-Za-z]*)", rounded(path)):
        parts.append((" " if command == "L" and last in ("M", "L") else command) + " ".join(numbers.split()))
        last = command
    return "".join(parts)


def alternative(figure: Figure) -> str:
    """A figure in words: the titles of its parts and what their axes measure."""
    parts: dict[str, None] = {figure.get_suptitle(): None}
    for axes in figure.axes:
        labels = {
            "x": axes.get_xlabel().strip() or figure.get_supxlabel(),
            "y": axes.get_ylabel().strip() or figure.get_supylabel(),
        }
        measured = ", ".join(f"{axis}: {label}" for axis, label in labels.items() if label and axes.axison)
        parts[", ".join(word for word in (axes.get_title(), measured) if word)] = None
    return "; ".join(" ".join(part.split()) for part in parts if part)
