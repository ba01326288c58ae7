"""The chapters as pages: of each notebook in `notebooks/` its words, its code and what it printed and drew.

Figures become files beside the page, with the alternative text that the notebook has for them. An answer is
folded. Links to notebooks and to the documentation lead to the site's own pages.
"""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
sys.path.append(str(NOTEBOOKS))

from _header import BEGIN, END  # noqa: E402

TEXTS = {
    "en": {
        "title": "Chapters",
        "lead": "Fourteen chapters from one neuron to the Transformer, with code that runs on PyTorch, "
        "TensorFlow and JAX. Each is a notebook too.",
        "other": "In Chinese",
        "glossary": "The terms in both languages are in the [glossary](../glossary.md).",
        "download": "Download the notebook",
        "figure": "Figure",
    },
    "zh": {
        "title": "中文教程",
        "lead": "十四章，从一个神经元到 Transformer；代码可在 PyTorch、TensorFlow 和 JAX 上运行，"
        "每一章也是一个笔记本。",
        "other": "English",
        "glossary": "两种语言的术语见[术语表](../glossary.md)。",
        "download": "下载笔记本",
        "figure": "图",
    },
}
# A figure so much wider than high is scrolled on a phone, not shrunk.
WIDE = 2
OTHER = {"en": "zh", "zh": "en"}


def pages() -> dict[str, str | bytes]:
    """Every page and figure below chapters/, by its path in `docs`."""
    found: dict[str, str | bytes] = {"chapters/glossary.md": (NOTEBOOKS / "glossary.md").read_bytes()}
    for language in TEXTS:
        notebooks = sorted((NOTEBOOKS / language).glob("[0-9]*.ipynb"))
        books = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in notebooks}
        titles = {name: title(book) for name, book in books.items()}
        found[f"chapters/{language}/index.md"] = contents(language, titles)
        for name, book in books.items():
            found |= {
                f"chapters/{language}/{path}": data for path, data in chapter(language, name, book).items()
            }
    return found


def source(part: dict[str, Any], key: str = "source") -> str:
    """A text of a notebook's JSON, which may be a list of lines."""
    text = part[key]
    return text if isinstance(text, str) else "".join(text)


def title(book: dict[str, Any]) -> str:
    return source(book["cells"][0]).partition("\n")[0].removeprefix("# ")


def contents(language: str, titles: dict[str, str]) -> str:
    """The list of a language's chapters."""
    says, other = TEXTS[language], OTHER[language]
    lines = [f"# {says['title']}", "", "```{toctree}", ":hidden:", "", *titles, "```", ""]
    lines += [f"{says['lead']} [{says['other']}](../{other}/index.md)", ""]
    lines += [f"- [{text}]({name}.md)" for name, text in titles.items()]
    return "\n".join([*lines, "", says["glossary"], ""])


def chapter(language: str, name: str, book: dict[str, Any]) -> dict[str, str | bytes]:
    """A notebook's page and its figures."""
    files: dict[str, str | bytes] = {}
    lines: list[str] = []
    for number, cell in enumerate(book["cells"], 1):
        text = source(cell)
        if number == 1:
            text = with_header(text, language, name)
        if cell["cell_type"] == "markdown":
            lines += [relinked(text), ""]
            continue
        answer = re.match(r"# @title (.*)\n", text)
        if answer:
            lines += ["```{raw} html", f'<details class="answer"><summary>{answer[1]}</summary>', "```", ""]
        lines += [*fenced("python", text[answer.end() :] if answer else text), ""]
        for index, output in enumerate(cell.get("outputs", [])):
            shown, more = output_of(output, f"{name}-{number}-{index}", TEXTS[language]["figure"])
            lines += [*shown, ""]
            files |= more
        if answer:
            lines += ["```{raw} html", "</details>", "```", ""]
    return {f"{name}.md": "\n".join(lines), **files}


def with_header(text: str, language: str, name: str) -> str:
    """The first cell, its header in a box with the links that only the site has."""
    says, other = TEXTS[language], OTHER[language]
    more = f"{{download}}`{says['download']} <../../../notebooks/{language}/{name}.ipynb>`"
    more += f" · [{says['other']}](../{other}/{name}.md)"
    text = text.replace(BEGIN, ":::{container} chapter-header")
    return text.replace(END, f"\n{more}\n:::")


def relinked(text: str) -> str:
    """Links between notebooks, and to the documentation's sources, as links between pages."""
    text = re.sub(r"\]\((?:\.\./)*([\w/-]+)\.ipynb", r"](\1.md", text)
    return re.sub(r"\]\(\.\./\.\./docs/", "](../../", text)


def fenced(language: str, text: str, *options: str) -> list[str]:
    ticks = max([3, *(len(run) + 1 for run in re.findall(r"`{3,}", text))])
    return [
        f"{'`' * ticks}{{code-block}} {language}",
        *options,
        "",
        *text.rstrip("\n").split("\n"),
        "`" * ticks,
    ]


def aspect(image: bytes) -> float:
    """The width of an SVG or a PNG over its height."""
    box = re.search(rb'viewBox="0 0 ([\d.]+) ([\d.]+)"', image)
    width, height = map(float, box.groups()) if box else struct.unpack(">II", image[16:24])
    return width / height


def output_of(output: dict[str, Any], name: str, figure: str) -> tuple[list[str], dict[str, str | bytes]]:
    """What a page shows of an output, and the files that it needs."""
    if output["output_type"] == "stream":
        return fenced("text", source(output, "text"), ":class: output"), {}
    data = output["data"]
    for kind, ending in (("image/svg+xml", "svg"), ("image/png", "png")):
        if kind in data:
            text = source(data, kind)
            content = text.encode() if ending == "svg" else base64.b64decode(text)
            alt = output["metadata"].get(kind, {}).get("alt") or figure
            style = "figure wide" if aspect(content) > WIDE else "figure"
            lines = [f"```{{image}} {name}.{ending}", f":alt: {alt}", f":class: {style}", "```"]
            return lines, {f"{name}.{ending}": content}
    if "text/html" in data:
        return ["```{raw} html", *source(data, "text/html").strip().split("\n"), "```"], {}
    return fenced("text", source(data, "text/plain"), ":class: output"), {}
