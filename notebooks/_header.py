"""What a notebook says below its title: what to read first, how long it takes, and where to open it.

The addresses follow from `Repository` in pyproject.toml's [project.urls]. After that one is changed,
`python notebooks/_write.py` writes them anew.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- header: notebooks/_header.py -->", "<!-- end of header -->"
# The chapters that each one builds on.
READ_FIRST: dict[int, tuple[int, ...]] = {
    1: (),
    2: (1,),
    3: (2,),
    4: (3,),
    5: (3,),
    6: (5,),
    7: (6,),
    8: (2, 3),
    9: (3, 4),
    10: (8,),
    11: (4, 9),
    12: (3,),
    13: (3,),
    14: (4,),
}
# A minute's reading, in words, in Chinese characters, and in lines of code.
WORDS, CHARACTERS, LINES = 150, 250, 10

TEXTS = {
    "en": {
        "first": "**Read first:** {}.",
        "nothing": "**Before you start:** some Python and school algebra.",
        "separator": ", ",
        "chapter": "[chapter {}]({}.ipynb)",
        "minutes": "**Reading time:** about {} minutes, without the exercises.",
        "open": "**Open in** {}.",
        "install": "On Colab and Kaggle, first run",
    },
    "zh": {
        "first": "**先读**：{}。",
        "nothing": "**预备知识**：一点 Python 和中学代数。",
        "separator": "、",
        "chapter": "[第 {} 章]({}.ipynb)",
        "minutes": "**阅读时间**：约 {} 分钟，不含练习。",
        "open": "**在线打开**：{}。",
        "install": "在 Colab 和 Kaggle 上先运行",
    },
}


def repository() -> str:
    """The project's public address, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/")


def services(language: str, name: str) -> dict[str, str]:
    """Where a notebook opens in the browser."""
    address, file = repository(), f"blob/main/notebooks/{language}/{name}.ipynb"
    path = urlsplit(address).path
    return {
        "Colab": f"https://colab.research.google.com/github{path}/{file}",
        "Kaggle": f"https://kaggle.com/kernels/welcome?src={address}/{file}",
        "Codespaces": f"https://codespaces.new{path}",
    }


def minutes(text: str) -> int:
    """The time to read a chapter's .py, to five minutes."""
    lines = [line for line in text.splitlines() if line.strip()]
    words = " ".join(line for line in lines if line.startswith("#"))
    characters = len(re.findall(r"[\u4e00-\u9fff]", words))
    code = sum(not line.startswith("#") for line in lines)
    exact = len(re.findall(r"[A-Za-z]+", words)) / WORDS + characters / CHARACTERS + code / LINES
    return max(5, 5 * round(exact / 5))


def header(text: str, language: str, name: str) -> str:
    """The lines below a chapter's title, in Markdown."""
    says = TEXTS[language]
    titles = {int(path.name[:2]): path.stem for path in (ROOT / "notebooks" / "en").glob("[0-9]*.py")}
    chapters = [says["chapter"].format(n, titles[n]) for n in READ_FIRST[int(name[:2])]]
    first = says["first"].format(says["separator"].join(chapters)) if chapters else says["nothing"]
    links = [f"[{service}]({url})" for service, url in services(language, name).items()]
    install = f'`!pip install "keras-zoo-parity[notebooks] @ git+{repository()}"`'
    lines = [f"{first} {says['minutes'].format(minutes(text))}", ""]
    lines += [f"{says['open'].format(says['separator'].join(links))} {says['install']} {install}"]
    return "\n".join([BEGIN, *lines, END])


def headed(first: str, text: str, language: str, name: str) -> str:
    """A first cell with its header, which replaces an earlier one."""
    first = re.sub(rf"{re.escape(BEGIN)}.*?{re.escape(END)}\n*", "", first, flags=re.DOTALL)
    title, rest = first.split("\n", 1)
    return f"{title}\n\n{header(text, language, name)}\n\n{rest.lstrip()}"
