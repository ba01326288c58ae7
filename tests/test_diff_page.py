"""The page of `zoo.diff`: two implementations side by side, and a cursor through them.

Witnesses: a result known by construction, html.parser, axe, and a real Chromium.
"""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page
from test_report import HOSTILE, Reader

from zoo import storage
from zoo.ports import Diff
from zoo.report.diff_page import page, share
from zoo.report.rails import rails

pytestmark = pytest.mark.once


def side(name: str, operation: str, index: int, reads: list[int], *weights: str) -> dict[str, Any]:
    return {"name": name, "operation": operation, "kind": operation.lower(), "index": index, "reads": reads,
            "shape": [2, 8], "weights": list(weights)}  # fmt: skip


def row(theirs: Any, ours: Any, difference: float | None = None, **facts: Any) -> dict[str, Any]:
    found = {
        "theirs": theirs, "ours": ours, "how": theirs and ours and "graph", "bound": 1e-12,
        "difference": difference, "holds": None if difference is None else difference <= 1e-12,
        "masks_differ": 0, "index": None, "their_value": None, "our_value": None,
        "difference_alone": difference, "settings": {}, "values": [],
    }  # fmt: skip
    if difference is not None:
        values = [[[0, i], 0.5 + i, 0.5 + i + (difference if i == 4 else 0)] for i in range(2, 7)]
        found |= {"index": [0, 4], "their_value": 4.5, "our_value": 4.5 + difference, "values": values}
    return {**found, **facts}


def step(name: str, difference: float | None, **facts: Any) -> dict[str, Any]:
    holds = None if difference is None else difference <= 1e-12
    return {"name": name, "difference": difference, "bound": 1e-12, "holds": holds, "where": None, "note": "",
            "arrays": [], "losses": [], **facts}  # fmt: skip


ROWS = [
    row(side("stem", "linear", 0, [], "stem.weight"), side("in", "Dense", 0, [], "in/kernel"), 0.0),
    row(side("", "gelu", 1, [0]), side("act", "Gelu", 1, [0]), 2.0**-12),
    row(None, side("scale", "Rescaling", 2, [1])),
    row(side("head", "linear", 2, [1]), side("out", "Dense", 3, [2]), 2e-4, difference_alone=1e-16,
        settings={"epsilon": [1e-5, 1e-3]}),
    row(side("", "add", 3, [0, 3]), side("sum", "Add", 4, [0, 3]), math.inf, masks_differ=1, index=[0, 2],
        values=[[[0, 1], 1.0, 1.0], [[0, 2], 2.0, "nan"], [[0, 3], 3.0, 3.0]]),
]  # fmt: skip
GELU = {
    "theirs": "gelu (operation 1)", "ours": "act (Gelu)", "kind": "gelu", "bound": 1e-12, "rows": [1],
    "difference": 2.0**-12, "masks_differ": 0, "index": [0, 4], "their_value": 4.5,
    "our_value": 4.5 + 2.0**-12, "cause": "gelu",
    "explanation": "theirs applies gelu (erf), ours gelu (tanh)", "confirmed": True,
}  # fmt: skip


def result(**changes: Any) -> Diff:
    found = {
        "zoo": "0.1.0", "created": "2026-11-30T18:30:00+00:00", "verdict": "different", "random": False,
        "theirs": {"source": "paper.py:build", "kind": "torch.nn.Module"},
        "ours": {"source": "port.py:build", "kind": "Keras model", "inputs": "channels last"},
        "first": {"theirs": "head (linear)", "ours": "out (Dense)", "bound": 1e-12, "difference": 2e-4,
                  "masks_differ": 0, "index": None, "their_value": None, "our_value": None, "rows": [3]},
        "differences": [GELU], "operations": ROWS,
        "steps": [
            step("outputs", 2e-4), step("training mode", None),
            step("gradients", 1e-3, arrays=[
                {"theirs": "small", "ours": "s", "difference": 1e-15},
                {"theirs": "large", "ours": "l", "difference": 1e-3},
            ]),
            step("10 steps", 0.0, losses=[[3.0 - i / 10, 3.0 - i / 10] for i in range(10)]),
        ],
        "matched": {"pairs": [{"theirs": "head (linear)", "ours": "out (Dense)", "how": "order"}],
                    "only_theirs": [], "only_ours": ["scale (Rescaling)"]},
        "weights": {"mapping": {"in/kernel": {"theirs": ["stem.weight"], "layout": "transposed (1, 0)"},
                                "out/kernel": {"theirs": ["head.weight"], "layout": "as stored"}},
                    "constants": {"in/bias": 0.0}, "only_theirs": [], "only_ours": ["scale/factor"],
                    "conflicts": [], "guessed": {"out/kernel": "shape"}},
        "environment": {"platform": "Linux", "cores": 2, "versions": {"keras": "3.15.1"}},
    }  # fmt: skip
    return Diff(copy.deepcopy({**found, **changes}))


def details(html: str) -> tuple[int, list[str]]:
    """Which row is selected, and the text of each."""
    boxes = [a for tag, a in Reader(html).elements if tag == "input"]
    (selected,) = (i for i, box in enumerate(boxes) if "checked" in box)
    texts = html.split('<div class="detail"')[1:]
    return selected, [text.partition("</dl>")[0] for text in texts]


def test_the_first_difference_is_selected_with_both_values_the_cause_and_what_confirmed_it() -> None:
    selected, texts = details(page(result()))
    assert selected == 1
    values = (
        "▸ [0, 4]",
        "4.5</td>",
        "4.5002441406</td>",
        "2.5e-4</td>",
        "[0, 2]",
        "[0, 6]",
        "rounding: 1.0e-12",
    )
    cause = ("Likely cause, gelu: theirs applies gelu (erf), ours gelu (tanh).", "recomputed in NumPy")
    for words in (*values, *cause):
        assert words in texts[1]
    assert "Likely cause" not in texts[3]
    unsure = result(differences=[{**GELU, "confirmed": False}])
    assert "Not confirmed by a recomputation" in details(page(unsure))[1][1]


def test_rows_say_what_they_are_in_words() -> None:
    html = page(result())
    _, texts = details(html)
    assert "The two are equal." in texts[0]
    assert "Only in ours; no operation of theirs computes the same." in texts[2]
    assert "the difference is 1.0e-16: it comes from an earlier operation." in texts[3]
    assert "<dt>Setting epsilon</dt><dd>1e-05 and 0.001</dd>" in texts[3]
    assert "1 elements are NaN or infinite on one side alone" in texts[4]
    assert ">nan</td>" in texts[4]
    marks = [text.strip() for text in Reader(html).texts["label"]]
    for words, mark in zip(
        ("equal", "arises here, ✗ 2.5e-4", "only ours", "✗ 2.0e-4", "✗ not finite"), marks, strict=True
    ):
        assert words in mark


def test_an_equal_pair_opens_at_its_start() -> None:
    html = page(result(verdict="equal", differences=[], operations=ROWS[:1]))
    assert details(html)[0] == 0
    assert "Equal: no difference beyond rounding in float64" in Reader(html).texts["h2"]
    Reader(page(result(differences=[], operations=[])))  # of functions that cannot be traced


def test_the_sections_list_gradients_by_their_difference_and_ambiguous_weights_first() -> None:
    reader = Reader(page(result()))
    heads = [text.strip() for text in reader.texts["th"]]
    assert heads.index("large") < heads.index("small")
    assert heads.index("out/kernel") < heads.index("in/kernel")
    items = reader.texts["li"]
    assert "matched by their order alone: head (linear) = out (Dense)" in items
    assert "weights found by name or shape alone: out/kernel (shape)" in items
    assert "Loss of 10 steps" in reader.texts["h3"]


def test_the_page_is_the_same_from_diff_json_and_needs_nothing_else() -> None:
    ours = result()
    html = ours.page()
    assert html == page(json.loads(storage.json_text(ours)))
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert ours._repr_html_().startswith('<iframe title="zoo diff" sandbox=')


def test_hostile_names_are_escaped() -> None:
    ours = result(theirs={"source": HOSTILE, "kind": HOSTILE}, differences=[{**GELU, "explanation": HOSTILE}])
    ours["operations"][0]["theirs"]["name"] = HOSTILE
    ours["steps"][0]["note"] = HOSTILE
    reader = Reader(page(ours))
    assert not {"script", "img"} & {tag for tag, _ in reader.elements}


def test_a_model_of_hundreds_of_operations_is_a_small_page() -> None:
    """As ResNet-50: 177 rows took 0.53 MB."""
    many = [
        row(side(f"layer{i}.conv", "conv2d", i, [i - 1] * (i > 0), f"layer{i}.weight"),
            side(f"stage{i}_conv", "Conv2D", i, [i - 1] * (i > 0), f"stage{i}/kernel"), 1e-9)
        for i in range(600)
    ]  # fmt: skip
    assert len(page(result(operations=many, differences=[])).encode()) < 2_000_000


def test_the_scale_of_colours_is_logarithmic() -> None:
    assert [share(x) for x in (0.0, 1e-16, 1e-12, 1e-8, 1e-4, 1.0, 5.0, None)] == [
        0,
        0,
        25,
        50,
        75,
        100,
        100,
        100,
    ]


def test_a_shortcut_is_a_line_beside_its_branch() -> None:
    """x -> a -> add with x: two lines between x and add, one before a row that this side lacks."""
    drawn = rails([[], [0], None, [0, 1], [3]])
    assert [each.path for each in drawn] == [
        "M10 50V100",
        "M10 0L20 50M10 0V100M20 50V100",
        "M10 0V100M20 0V100",
        "M10 0L10 50M20 0L10 50M10 50V100",
        "M10 0L10 50",
    ]
    assert [each.dot for each in drawn] == [10, 20, None, 10, 10]


@pytest.fixture
def look(chromium: Browser, tmp_path: Path) -> Callable[..., Page]:
    def open_page(width: int, dark: bool = False) -> Page:
        window = chromium.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        (file := tmp_path / "diff.html").write_text(page(result()), encoding="utf-8")
        window.goto(file.as_uri())
        return window

    return open_page


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_is_accessible_and_as_wide_as_its_window(look: Any, width: int, dark: bool) -> None:
    window = look(width, dark)
    for summary in window.locator("summary").all():
        summary.click()
    found = Axe().run(window).response
    assert [(v["id"], [node["target"] for node in v["nodes"]]) for v in found["violations"]] == []
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    window.close()


@pytest.mark.browser
def test_the_arrow_keys_move_the_cursor_from_the_first_difference(look: Any) -> None:
    window = look(1280)
    shown = lambda: window.locator(".detail:visible h3").all_text_contents()  # noqa: E731
    assert shown() == ["gelu (operation 1) and act (Gelu)"]
    window.keyboard.press("ArrowDown")
    assert shown() == ["scale (Rescaling)"]
    window.keyboard.press("ArrowUp")
    window.keyboard.press("ArrowUp")
    assert shown() == ["stem (linear) and in (Dense)"]
    window.close()
