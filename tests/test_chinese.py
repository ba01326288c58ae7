"""The Chinese chapters: the English code with strings of a table; paragraphs without line breaks."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext")

pytestmark = [pytest.mark.notebooks, pytest.mark.once]

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
CHAPTERS = sorted(path.stem for path in (NOTEBOOKS / "en").glob("[0-9]*.py"))
PAGES = [
    "README.zh.md",
    *(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "zh").rglob("*.md")),
]
DISPLAYED = {"print", "title", "xlabel", "ylabel", "set_title", "set_xlabel", "set_ylabel", "suptitle"}
LABELS = {"label", "title", "xlabel", "ylabel"}
CHINESE = re.compile(r"[\u4e00-\u9fff]")

# What stays as it is: names and terms that Chinese uses too, units; then texts that a model reads or writes.
TERMS = set(
    re.findall(
        r"\w+",
        """
    sigmoid tanh ReLU leaky GELU OR NAND SGD Momentum Adam AdamW LAMB dropout eager ms Hz dB GiB GB fmt skip
    torch tensorflow tf jax NumPy Keras zoo TensorFloat bfloat float LSTM GRU GPT BERT ViT
    LeNet AlexNet VGG ResNet EfficientNet lenet alexnet vgg resnet efficientnet vit bert gpt mlp conv
    dense head nano tiny mini small base
    HorizontalFlip VerticalFlip RandomCrop RandomResizedCrop Rotation ColorJitter
    RandAugment RandomErasing MixUp CutMix TimeStretch PitchShift Noise SpecAugment
    """,
    )
)
KEPT = {
    'Trockman, Kolter 2022, "Patches Are All You Need?"',
    "The statement is executed.",
    "the statement is executed",
    "The try statement names the exceptions that it handles. If none is raised, the else clause ",
    "is executed before the finally clause.",
    "The value of ",
    "the exception is ",
    'the "__getattr__()" and "__dict__" with ',
    "The quick brown fox jumps over the lazy dog.",
    "24 novembre 2026",
    "12 de octubre de 1992",
    "offset points",
    "lower left",
    "lower right",
    "center right",
}


def untranslated(text: str) -> bool:
    """Whether a text has words that are neither Chinese nor terms."""
    words = re.findall(r"[A-Za-z]{2,}", text)
    return not CHINESE.search(text) and text not in KEPT and not TERMS.issuperset(words)


def code(language: str, name: str) -> list[str]:
    text = (NOTEBOOKS / language / f"{name}.py").read_text(encoding="utf-8")
    return [cell.source for cell in jupytext.reads(text, fmt="py:percent").cells if cell.cell_type == "code"]


def table(name: str) -> dict[str, str]:
    return json.loads((NOTEBOOKS / "zh" / f"{name}.json").read_text(encoding="utf-8"))


class Plain(ast.NodeTransformer):
    """Strings as the table has them; of an f-string what is formatted, in any order."""

    def __init__(self, strings: dict[str, str]):
        self.strings = {
            key.replace("\\n", "\n"): value.replace("\\n", "\n") for key, value in strings.items()
        }

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(self.strings.get(node.value, node.value)) if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.JoinedStr:
        self.generic_visit(node)
        fields = [part for part in node.values if isinstance(part, ast.FormattedValue)]
        return ast.JoinedStr(sorted(fields, key=ast.dump))


def comments(source: str) -> list[str]:
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return [token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT]


def displayed(source: str) -> set[str]:
    """The strings that are printed or drawn, and all of two words or more."""
    tree, found = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            shown = [word.value for word in node.keywords if word.arg in LABELS]
            shown += [each for each in node.args if name in DISPLAYED]
            for part in (part for each in shown for part in constants(each)):
                found.add(part)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= {node.value} if re.search(r"[A-Za-z]{2,}\W* \W*[A-Za-z]{2,}", node.value) else set()
    return found


def constants(node: ast.AST) -> list[str]:
    """The strings of an argument, without those that choose something: indices and arguments within."""
    if isinstance(node, ast.JoinedStr):
        return ["".join(part.value for part in node.values if isinstance(part, ast.Constant))]
    return [node.value] if isinstance(node, ast.Constant) and isinstance(node.value, str) else []


@pytest.mark.parametrize("name", CHAPTERS)
def test_the_chinese_code_is_the_english_but_for_strings_and_comments(name: str):
    english, chinese = code("en", name), code("zh", name)
    strings = table("common") | table(name)
    assert len(english) == len(chinese)
    for ours, theirs in zip(english, chinese, strict=True):
        same = (ast.dump(Plain(s).visit(ast.parse(text))) for s, text in ((strings, ours), ({}, theirs)))
        assert next(same) == next(same)
        assert ours.count("\n") == theirs.count("\n")
        translated = [strings.get(comment, comment) for comment in comments(ours)]
        assert translated == comments(theirs)


@pytest.mark.parametrize("name", CHAPTERS)
def test_no_english_is_left_in_the_chinese_code(name: str):
    source = "\n".join(code("zh", name))
    shapes = re.compile(r"\([\w, /]*\)")
    left = [comment for comment in comments(source) if untranslated(shapes.sub("", comment))]
    assert left == []
    assert sorted(filter(untranslated, displayed(source))) == []


def test_every_string_of_the_tables_is_used_and_the_common_ones_more_than_once(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.syspath_prepend(str(NOTEBOOKS))
    from _strings import texts

    used = {name: {text for source in code("en", name) for text in texts(source)} for name in CHAPTERS}
    assert [(name, key) for name in CHAPTERS for key in table(name) if key not in used[name]] == []
    assert [key for key in table("common") if sum(key in texts for texts in used.values()) < 2] == []
    assert [key for name in CHAPTERS for key in table(name) if key in table("common")] == []


def paragraphs(markdown: str) -> list[str]:
    """Where a line of a paragraph or a list's item follows another, both together."""
    found, fence, last = [], False, ""
    for line in markdown.splitlines():
        if line.lstrip().startswith(("```", "$$")):
            fence = not fence if line.lstrip().startswith("```") else fence
            last = ""
            continue
        starts = re.match(r"\s*([-*] |\d+\. |[|#<>:]|\*\*\d|$)|    ", line)
        if last and not starts and not fence:
            found.append(f"{last}\n{line}")
        last = "" if fence or re.match(r"\s*([|#<:]|$)|    ", line) else line
    return found


def test_broken_paragraphs_are_found():
    text = (
        "# 标题\n段落的\n下一行\n\n- 项目，\n  续行\n- 项目\n\n| a |\n| - |\n\n```\n代码\n代码\n```\n$$x$$\n"
    )
    assert paragraphs(text) == ["段落的\n下一行", "- 项目，\n  续行"]


@pytest.mark.parametrize("name", [*CHAPTERS, *PAGES])
def test_no_chinese_paragraph_has_a_line_break(name: str):
    if name.endswith(".md"):
        words = [(ROOT / name).read_text(encoding="utf-8")]
    else:
        text = (NOTEBOOKS / "zh" / f"{name}.py").read_text(encoding="utf-8")
        words = [c.source for c in jupytext.reads(text, fmt="py:percent").cells if c.cell_type == "markdown"]
    assert [pair for text in words for pair in paragraphs(text)] == []


def test_the_programs_of_the_chinese_first_page_are_those_of_the_english():
    pages = [ROOT / "docs" / "index.md", ROOT / "docs" / "zh" / "index.md"]
    found = [
        re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL) for path in pages
    ]
    english, chinese = ([ast.dump(ast.parse(program)) for program in programs] for programs in found)
    assert english
    assert english == chinese
