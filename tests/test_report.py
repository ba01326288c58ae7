"""The report of a comparison: what it says, what it draws, and that it keeps to itself.

Witnesses: numbers known by construction, html.parser, json, and a real Chromium.
"""

import copy
import html
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, FloatRect, Page
from rich.console import Console

from zoo.report import ladder as ladder_report
from zoo.report.page import iframe, render, save

pytestmark = pytest.mark.once

STEPS = 345
BIT = 2.0**-22  # 2.384e-7: every loss below is a multiple of it, so that differences are exact
HOSTILE = """<script>hacked=1</script></script><img src=x onerror=hacked=1>"'`&$title <!--"""

# Framework, engine, mode, median step in ms, and by how many bits its losses are off.
RUNS = [
    ("torch", "keras", "fit", 6.1, 0),
    ("torch", "native", "traced", 3.1, 0),
    ("tensorflow", "keras", "fit", 4.4, 1),
    ("tensorflow", "native", "xla", 2.9, -1),
    ("jax", "keras", "fit", 3.4, 0),
    ("jax", "native", "jit", 2.2, 1),
]


def training(name: str = "lenet5", *, scale: int = 1, steps: int = STEPS) -> dict[str, Any]:
    """The part of a result that one model fills; `scale` enlarges the differences."""
    losses = [round((0.06 + 2.2 * math.exp(-i / 60)) / BIT) * BIT for i in range(steps)]
    runs = [
        {
            "model": name,
            "backend": backend,
            "engine": engine,
            "mode": mode,
            # Off from step 101 on, and on every other step only: zeros between.
            "losses": [loss + off * scale * BIT * (i >= 100 and i % 2) for i, loss in enumerate(losses)],
            "metrics": {"accuracy": 0.972, "loss": 0.101},
            "step_ms": ms,
            "step_ms_quartiles": [0.94 * ms, 1.11 * ms],
            "examples_per_second": 64_000 / ms,
            "compile_s": 0.4 * ms,
            "first_step_s": 0.5 * ms,
            "train_s": ms,
            "peak_mb": 100 * ms,
            "version": "2.13.0",
            "code": "model.fit(batches)\n"
            if engine == "keras"
            else f"def step(batch):  # {backend}\n    pass\n",
            "error": None,
        }
        for backend, engine, mode, ms, off in RUNS
    ]
    model = {
        "name": name,
        "paper": "LeCun et al. 1998",
        "url": "https://doi.org/10.1109/5.726791",
        "idea": "Convolutions share their weights across the image.",
        "parameters": 61706,
        "multiply_adds": 416520,
        "task": "digits",
        "metric": "accuracy",
        "seed": 0,
        "recipe": {"optimizer": "AdamW(learning_rate=0.003)", "epochs": 15, "batch_size": 64, "steps": steps},
        "definition": {"file": "zoo/models/lenet.py", "code": 'def lenet5():\n    return "<b>&amp;"\n'},
    }
    return {"model": model, "runs": runs, "differences": differences(runs)}


def differences(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "model": a["model"],
            "a": "/".join(a[part] for part in ("backend", "engine", "mode")),
            "b": "/".join(b[part] for part in ("backend", "engine", "mode")),
            "initial_weights": 0.0,
            "outputs": 1.2e-7,
            "losses": max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True)),
            "final_weights": 3e-6,
            "predictions": 0,
            "first_layer": None,
        }
        for a, b in combinations(runs, 2)
    ]


def result(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "zoo": "0.1.0",
        "created": "2026-11-23T18:30:00+00:00",
        "models": [part["model"] for part in parts],
        "runs": [run for part in parts for run in part["runs"]],
        "differences": [pair for part in parts for pair in part["differences"]],
        "environment": {
            "platform": "Linux-6.1",
            "python": "3.11.7",
            "processor": "Xeon",
            "cores": 2,
            "threads": 2,
            "memory_gb": 23.4,
            "versions": {"keras": "3.15.1", "torch": "2.13.0+cpu"},
            "devices": {"torch": "cpu"},
        },
    }


def flawed() -> dict[str, Any]:
    """Six runs: TensorFlow's Keras failed, and JAX's Keras lost its numbers after 200 steps."""
    part = training()
    runs = part["runs"]
    runs[4]["losses"][200:] = [math.nan] * (STEPS - 200)
    runs[4]["metrics"] = {"accuracy": 0.1, "loss": math.inf}
    runs[2] = {name: runs[2][name] for name in ("model", "backend", "engine", "mode")}
    runs[2]["error"] = "ImportError: cannot import name 'runtime_version'"
    part["differences"] = [
        pair | {"losses": math.nan} if "jax/keras/fit" in (pair["a"], pair["b"]) else pair
        for pair in part["differences"]
        if "tensorflow/keras/fit" not in (pair["a"], pair["b"])
    ]
    return part


class Reader(HTMLParser):
    """What a strict reader finds: every element closed in order, and the text of each."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def charts(self) -> list[dict[str, Any]]:
        types = [attributes.get("type") for tag, attributes in self.elements if tag == "script"]
        texts = zip(types, self.texts["script"], strict=True)
        return [json.loads(text) for kind, text in texts if kind == "application/json"]


def finding(part: dict[str, Any]) -> tuple[str, str]:
    page = Reader(render(result(part)))
    lead = next(text for text in page.texts["p"] if "fastest" in text or "failed" in text or text == "")
    return page.texts["h2"][0], lead


# The files


def strict(text: str) -> Any:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_what_is_saved_may_be_read_by_all_whom_the_umask_lets(tmp_path: Path) -> None:
    save(result(training()), tmp_path)
    (tmp_path / "plain").touch()
    assert {path.stat().st_mode for path in tmp_path.iterdir()} == {(tmp_path / "plain").stat().st_mode}
    assert {path.name for path in tmp_path.iterdir()} == {"result.json", "report.html", "plain"}


def test_result_json_is_strict_and_has_null_for_what_is_not_a_number(tmp_path: Path) -> None:
    ours = result(flawed())
    save(ours, tmp_path)
    theirs = strict((tmp_path / "result.json").read_text())
    expected = copy.deepcopy(ours)
    expected["runs"][4]["losses"][200:] = [None] * (STEPS - 200)
    expected["runs"][4]["metrics"]["loss"] = None
    for pair in expected["differences"]:
        if math.isnan(pair["losses"]):
            pair["losses"] = None
    assert theirs == expected


def test_page_is_the_same_from_the_saved_result(tmp_path: Path) -> None:
    ours = result(flawed())
    page = save(ours, tmp_path)
    assert page.name == "report.html"
    assert render(strict((tmp_path / "result.json").read_text())) == page.read_text("utf-8")


def test_save_leaves_no_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(result(training()), tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    write = Path.write_text

    def full_disk(self: Path, text: str, **options: Any) -> int:
        write(self, text[: len(text) // 2], **options)
        raise OSError("No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save(result(training("gpt")), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"result.json", "report.html"}


# The finding


def test_headline_says_the_largest_difference_rounded_up_and_the_fastest() -> None:
    # Between +1 and -1 bits of 2**-22 lie 2**-21 = 4.768e-7. 6.1 / 2.2 = 2.77.
    headline, lead = finding(training())
    assert headline == "lenet5: six runs, equal within 4.8e-7 at every step"
    assert lead == (
        "JAX native (jit) is the fastest at 2.20 ms per step, 2.8 times as fast as the slowest, "
        "PyTorch Keras (fit)."
    )


def test_several_models_have_an_index_of_what_was_found() -> None:
    page = render(result(training(), training("gpt")))
    (nav,) = re.findall(r'<nav aria-label="Models">(.*?)</nav>', page)
    entries = re.findall(r'<li><a href="#(.*?)">(.*?)</a>: (.*?)</li>', nav)
    assert [name for _, name, _ in entries] == ["lenet5", "gpt"]
    for anchor, name, found in entries:
        assert f'<h2 id="{anchor}">{name}: {found}</h2>' in page
    assert "<nav" not in render(result(training()))


def test_headline_counts_only_runs_with_numbers_and_names_the_others() -> None:
    headline, lead = finding(flawed())
    assert headline == "lenet5: four of six runs equal within 4.8e-7 at every step"
    assert "TensorFlow Keras (fit) failed." in lead
    assert "The loss of JAX Keras (fit) is NaN from step 201 on." in lead


def test_headline_says_bit_for_bit_equal_only_of_equal_losses() -> None:
    assert finding(training(scale=0))[0] == "lenet5: six runs, bit-for-bit equal at every step"


def test_headline_says_which_bound_is_broken_and_where() -> None:
    part = training(scale=100)  # 100 * 2**-21 = 4.768e-5
    part["differences"][9]["first_layer"] = {"layer": "conv1", "difference": 3e-3}
    assert {part["differences"][9]["a"], part["differences"][9]["b"]} == {
        "tensorflow/keras/fit",
        "tensorflow/native/xla",
    }
    headline, lead = finding(part)
    assert headline == "lenet5: six runs, up to 4.8e-5 apart, beyond the bound of 1e-5"
    assert (
        "The largest difference is between TensorFlow Keras (fit) and TensorFlow native (xla); "
        "the first layer that differs is conv1." in lead
    )


def test_a_models_own_bound_replaces_the_default() -> None:
    part = training(scale=100)
    part["model"]["bounds"] = {"losses": 1e-4}
    assert finding(part)[0] == "lenet5: six runs, equal within 4.8e-5 at every step"
    assert "✗ 4" not in render(result(part))


@pytest.mark.parametrize(
    ("drift", "said", "headline"),
    [
        (1e-4, "1.0e-4", "up to 4.8e-5 apart, which rounding alone explains"),
        (2e-6, "2.0e-6", "up to 4.8e-5 apart, beyond the bound of 1e-5"),
    ],
)
def test_headline_tells_what_differs_from_what_drifts(drift: float, said: str, headline: str) -> None:
    part = training(scale=100)
    part["model"]["drift"] = {"run": "jax/native/jit", "runs": 2, "losses": drift}
    part["model"]["bounds"] = {"losses": 5 * drift}
    first, lead = finding(part)
    assert first == f"lenet5: six runs, {headline}"
    who = "Under 1-ulp perturbations of its initial weights, JAX native (jit) differs from itself"
    assert f"{who} by up to {said} (two runs); the bound is five times that." in lead


@pytest.mark.parametrize(
    ("kept", "headline"),
    [(1, "one run, nothing to compare"), (0, "none of six runs produced losses to compare")],
)
def test_headline_of_too_few_runs(kept: int, headline: str) -> None:
    part = training()
    part["differences"] = []
    if kept:
        part["runs"] = part["runs"][:kept]
    for run in part["runs"][kept:]:
        run["error"] = "ImportError: no"
    page = Reader(render(result(part)))
    assert page.texts["h2"][0] == f"lenet5: {headline}"


# The tables


def rows(page: str) -> dict[str, str]:
    """A table row's text, by its header."""
    reader = Reader(page)
    headers = reader.texts["th"]
    return {max((h for h in headers if row.startswith(h)), key=len): row for row in reader.texts["tr"]}


def test_runs_table_has_a_row_for_each_run_and_says_what_failed() -> None:
    table = rows(render(result(flawed())))
    assert table["TensorFlow Keras (fit)"].endswith(
        "✗ failed: ImportError: cannot import name 'runtime_version'"
    )
    assert "NaN" in table["JAX Keras (fit)"]
    for value in ("3.10 ms", "2.91 – 3.44", "1.41", "20,645", "1.24 s", "1.55 s", "310 MB", "0.972"):
        assert value in table["PyTorch native (traced)"]


def test_parity_table_marks_what_is_beyond_its_bound_with_a_symbol() -> None:
    part = training()
    torch, tensorflow = part["differences"][0], part["differences"][1]
    torch |= {"initial_weights": 1e-9, "outputs": 2e-5, "losses": math.nan, "final_weights": 5.0}
    tensorflow |= {"outputs": 1e-5, "losses": 0.0}
    table = rows(render(result(part)))
    row = table["PyTorch Keras (fit) and PyTorch native (traced)"]
    assert re.findall("✗ [^✗–]*", row) == ["✗ 1.0e-9", "✗ 2.0e-5", "✗ not finite5.0e+00"]
    assert "✗" not in table["PyTorch Keras (fit) and TensorFlow Keras (fit)"]
    assert "equal1.0e-5equal3.0e-6" in table["PyTorch Keras (fit) and TensorFlow Keras (fit)"]
    lead = Reader(render(result(part))).texts["p"]
    assert any("Initial weights differ by more than the bound in 1 of 15 pairs." in text for text in lead)


def test_code_is_shown_as_written_and_equal_loops_once() -> None:
    part = training()
    blocks = Reader(render(result(part))).texts["pre"]
    loops = list(dict.fromkeys(run["code"] for run in part["runs"]))
    assert blocks == [part["model"]["definition"]["code"], *loops]


# The charts' data


def test_a_long_training_keeps_its_worst_step_and_its_gaps() -> None:
    part = training(steps=20_000)
    part["runs"][1]["losses"][7_777] += 0.25
    part["runs"][5]["losses"][19_998] = math.nan
    loss, difference, *_ = Reader(render(result(part))).charts()
    torch, *_, jax = difference["data"]["values"]
    assert max(torch["value"]) == 0.25
    assert jax["value"][-1] is None
    assert loss["data"]["values"][-1]["value"][-1] is None
    assert len(loss["data"]["values"][0]["value"]) <= 600


def test_page_stays_under_two_megabytes() -> None:
    assert len(render(result(flawed(), training("gpt"))).encode()) < 1_200_000
    long = result(training(steps=20_000), training("gpt", steps=20_000), training("vit", steps=20_000))
    assert len(render(long).encode()) < 2_000_000


# Safety


def hostile() -> dict[str, Any]:
    part = flawed()
    for record, names in (
        (part["model"], ("paper", "idea", "task")),
        (part["runs"][0], ("mode", "version", "code")),
        (part["runs"][2], ("backend", "engine", "error")),
    ):
        for name in names:
            record[name] = HOSTILE
    part["runs"][0]["metrics"] = {HOSTILE: 0.5}
    part["model"]["url"] = "javascript:hacked=1"
    part["model"]["recipe"][HOSTILE] = HOSTILE
    part["model"]["definition"] = {"file": HOSTILE, "code": HOSTILE}
    part["differences"][0]["first_layer"] = {"layer": HOSTILE, "difference": 1.0}
    part["model"]["name"] = HOSTILE
    for record in [*part["runs"], *part["differences"]]:
        record["model"] = HOSTILE
    everything = result(part)
    everything["zoo"] = HOSTILE
    everything["environment"]["versions"][HOSTILE] = HOSTILE
    return everything


def test_hostile_text_stays_text() -> None:
    plain, reader = Reader(render(result(flawed()))), Reader(render(hostile()))
    kinds = [tag for tag, _ in reader.elements]
    assert kinds.count("script") == [tag for tag, _ in plain.elements].count("script")
    assert "img" not in kinds
    assert not [name for _, attributes in reader.elements for name in attributes if name.startswith("on")]
    assert not [a["href"] for _, a in reader.elements if (a.get("href") or "").startswith("javascript")]
    assert reader.texts["h2"][0].startswith(HOSTILE)
    assert any(HOSTILE in text for text in reader.texts["td"])


def test_page_refers_to_nothing_but_the_paper() -> None:
    reader = Reader(render(result(training())))
    links = [a.get("href") or a.get("src") for _, a in reader.elements if "href" in a or "src" in a]
    assert links == ["data:,", "#model0", "https://doi.org/10.1109/5.726791"]


# In a real browser


class Window:
    """A page in the browser, and everything it complained about or asked for."""

    def __init__(self, browser: Browser, text: str, folder: Path, *, width: int = 1280, dark: bool = False):
        self.context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light"
        )
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.file = folder / "page.html"
        self.file.write_text(text, encoding="utf-8")
        self.page.goto(self.file.as_uri())
        self.page.wait_for_selector("html[data-charts]")

    def count(self, selector: str, chart: int) -> int:
        return self.page.locator(".chart").nth(chart).locator(selector).count()

    def box(self, chart: int) -> FloatRect:
        box = self.page.locator(".chart svg").nth(chart).bounding_box()
        assert box is not None, "the chart is not shown"
        return box

    def boxes(self, selector: str, chart: int) -> list[SimpleNamespace]:
        """Where marks lie inside of their chart, as their geometry has it."""
        script = """marks => marks.map(mark => mark.getBBox())
            .map(({x, y, width, height}) => ({x, y, width, height}))"""
        marks = self.page.locator(".chart").nth(chart).locator(selector)
        return [SimpleNamespace(**box) for box in marks.evaluate_all(script)]

    def style(self, selector: str, name: str) -> str:
        script = "([selector, name]) => getComputedStyle(document.querySelector(selector))[name]"
        return self.page.evaluate(script, [selector, name])


Look = Callable[..., Window]


@pytest.fixture
def look(chromium: Browser, tmp_path: Path) -> Iterator[Look]:
    windows: list[Window] = []

    def look(text: str, **options: Any) -> Window:
        windows.append(Window(chromium, text, tmp_path, **options))
        return windows[-1]

    yield look
    for window in windows:
        window.context.close()


LINES = ".mark-line.role-mark path"
BARS = ".mark-rect.role-mark path"


@pytest.mark.browser
def test_every_run_that_finished_is_drawn(look: Look) -> None:
    window = look(render(result(flawed(), training("gpt"))))
    assert window.page.locator("html").get_attribute("data-charts") == "drawn"
    assert [window.count(LINES, chart) for chart in (0, 1, 5, 6)] == [5, 4, 6, 5]
    assert [window.count(BARS, chart) for chart in (2, 3, 4)] == [5, 5 + 5, 5]
    assert [window.count(BARS, chart) for chart in (7, 8, 9)] == [6, 6 + 6, 6]
    assert window.complaints == []


@pytest.mark.browser
def test_many_ways_of_one_framework_are_lines_of_their_own(look: Look) -> None:
    part = training()
    for i, run in enumerate(part["runs"]):
        run |= {"backend": "torch", "engine": "native", "mode": f"mode{i}"}
    window = look(render(result(part)))
    assert [window.count(LINES, chart) for chart in (0, 1)] == [6, 5]


@pytest.mark.browser
def test_a_line_ends_where_its_numbers_do(look: Look) -> None:
    window = look(render(result(flawed())))
    paths = window.page.locator(".chart").first.locator(LINES)
    points = sorted(len(re.findall("[ML]", path.get_attribute("d") or "")) for path in paths.all())
    assert points == [200, STEPS, STEPS, STEPS, STEPS]
    assert window.page.locator(".chart").first.get_by_text("NaN").count() == 1
    ends = sorted(box.x + box.width for box in window.boxes(LINES, 1))
    assert ends[0] / ends[1] == pytest.approx(200 / STEPS, abs=0.01)


@pytest.mark.browser
@pytest.mark.parametrize("scale", [0, 1, 10_000])
def test_logarithmic_axis_has_a_place_for_zero(look: Look, scale: int) -> None:
    window = look(render(result(training(scale=scale))))
    # The chart is 260 high. PyTorch native is equal to the first run at every step: a line along the bottom.
    torch, tensorflow, *others = window.boxes(LINES, 1)
    assert (torch.y, torch.height) == pytest.approx((260, 0))
    # TensorFlow's starts there and rises, or stays where nothing differs.
    assert tensorflow.y + tensorflow.height == pytest.approx(260)
    assert (tensorflow.height > 10) == (scale > 0)
    assert len(others) == 3
    assert min(box.y for box in (tensorflow, *others)) >= 0
    assert window.complaints == []


@pytest.mark.browser
def test_page_asks_the_network_for_nothing_and_may_not(look: Look) -> None:
    window = look(render(result(flawed())))
    assert window.requests == [window.file.as_uri()]
    window.page.evaluate("""async () => {
        document.body.append(Object.assign(new Image(), {src: "https://example.com/image.png"}));
        await fetch("https://example.com/data.json").catch(() => {});
    }""")
    refused = [text for text in window.complaints if "Content Security Policy" in text]
    assert all(any(name in text for text in refused) for name in ("image.png", "data.json"))


@pytest.mark.browser
def test_hostile_text_does_not_run(look: Look) -> None:
    window = look(render(hostile()))
    assert window.page.evaluate("typeof hacked") == "undefined"
    assert window.complaints == []
    assert window.count(LINES, 0) == 5


@pytest.mark.browser
def test_phone_has_no_sideways_scrolling(look: Look) -> None:
    window = look(render(result(flawed())), width=390)
    assert window.page.evaluate("document.documentElement.scrollWidth") == 390
    widths = window.page.evaluate("[...document.querySelectorAll('.chart svg')].map(svg => svg.clientWidth)")
    assert all(300 < width <= 390 for width in widths)


@pytest.mark.browser
def test_the_runs_of_a_language_model_fit_a_laptop(look: Look) -> None:
    """Four metrics, steps of seconds and versions of CUDA, at 1,280 pixels: no column is cut off."""
    part = training("gpt-mini")
    metrics = {"bits_per_character": 3.1234, "perplexity": 1203.3, "accuracy": 0.2345, "loss": 2.3456}
    for run in part["runs"]:
        times = {"step_ms": 3100.0, "step_ms_quartiles": [2910.0, 3440.0]}
        run |= {**times, "metrics": metrics, "version": "2.13.0+cu126"}
    window = look(render(result(part)), width=1280)
    widths = window.page.evaluate(
        "[...document.querySelectorAll('.scroll')].map(box => [box.scrollWidth, box.clientWidth])"
    )
    assert widths
    assert all(needed == given for needed, given in widths)


@pytest.mark.browser
def test_charts_follow_the_width_of_the_window(look: Look) -> None:
    window = look(render(result(training())), width=1280)
    wide = window.box(0)["width"]
    window.page.set_viewport_size({"width": 390, "height": 900})
    window.page.wait_for_function(f"document.querySelector('.chart svg').clientWidth < {wide} - 100")
    assert window.page.evaluate("document.documentElement.scrollWidth") == 390


def luminance(color: str) -> float:
    """WCAG 2.2's relative luminance of "rgb(r, g, b)"."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


LOOKS = {
    "line": (f".chart {LINES}", "stroke"),
    "label": (".chart .mark-text text", "fill"),
    "body": ("body", "color"),
    "paper": ("html", "backgroundColor"),
}


@pytest.mark.browser
def test_dark_mode_changes_page_and_charts_at_once(look: Look) -> None:
    window = look(render(result(training())))
    seen = {}
    for scheme in ("light", "dark"):
        window.page.emulate_media(color_scheme=scheme)
        seen[scheme] = {name: window.style(*place) for name, place in LOOKS.items()}
    assert all(seen["light"][name] != seen["dark"][name] for name in seen["light"])
    assert luminance(seen["dark"]["paper"]) < 0.05 < 0.8 < luminance(seen["light"]["paper"])


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_colours_can_be_told_from_the_paper(look: Look, dark: bool) -> None:
    window = look(render(result(training())), dark=dark)
    probe = """name => {
        document.body.style.color = `var(--${name})`;
        return getComputedStyle(document.body).color;
    }"""
    surfaces, texts, hues = ["paper", "raised"], ["ink", "muted", "fail"], ["torch", "tensorflow", "jax"]
    python = ["keyword", "string", "constant"]
    colors = {name: window.page.evaluate(probe, name) for name in surfaces + texts + hues + python}
    for name in hues:  # WCAG 2.2, 1.4.11: graphics 3:1
        assert contrast(colors[name], colors["paper"]) >= 3, name
    for name in texts:  # 1.4.3: text 4.5:1
        assert contrast(colors[name], colors["paper"]) >= 4.5, name
    for name in ["muted", *python]:
        assert contrast(colors[name], colors["raised"]) >= 4.5, name


@pytest.mark.browser
def test_legend_highlights_one_run_by_keyboard_and_lets_go(look: Look) -> None:
    window = look(render(result(training())))
    button = window.page.get_by_role("button", name="TensorFlow native (xla)")

    def wait_for(clear: list[int]) -> None:
        """Until each of the charts of lines and bars shows so many marks in full."""
        window.page.wait_for_function(
            """([selector, clear]) => clear.every((n, i) => n === [
                   ...document.querySelectorAll(".chart")[i].querySelectorAll(selector)
               ].filter(mark => mark.getAttribute("opacity") === "1").length)""",
            arg=[f"{LINES}, {BARS}", clear],
            timeout=5000,
        )

    wait_for([6, 5, 6, 12, 6])
    button.focus()
    window.page.keyboard.press("Space")
    wait_for([1, 1, 1, 2, 1])
    assert button.get_attribute("aria-pressed") == "true"
    window.page.keyboard.press("Space")
    wait_for([6, 5, 6, 12, 6])
    assert button.get_attribute("aria-pressed") == "false"


@pytest.mark.browser
def test_pointing_at_a_curve_shows_every_runs_loss(look: Look) -> None:
    window = look(render(result(flawed())))
    window.page.locator(".chart").first.scroll_into_view_if_needed()
    box = window.box(0)
    window.page.mouse.move(box["x"] + 0.9 * box["width"], box["y"] + 120)
    tooltip = window.page.locator("#vg-tooltip-element.visible")
    tooltip.wait_for()
    lines = dict(
        zip(
            tooltip.locator(".key").all_inner_texts(),
            tooltip.locator(".value").all_inner_texts(),
            strict=True,
        )
    )
    step = int(lines.pop("step").replace(",", ""))
    finished = {
        "PyTorch Keras (fit)",
        "PyTorch native (traced)",
        "TensorFlow native (xla)",
        "JAX Keras (fit)",
        "JAX native (jit)",
    }
    assert set(lines) == finished
    assert lines["JAX Keras (fit)"] == "NaN"
    assert float(lines["PyTorch Keras (fit)"]) == pytest.approx(
        0.06 + 2.2 * math.exp(-(step - 1) / 60), abs=BIT
    )


@pytest.mark.browser
def test_each_chart_says_in_words_what_it_shows(look: Look) -> None:
    window = look(render(result(training())))
    labels = [chart.get_attribute("aria-label") or "" for chart in window.page.locator(".chart").all()]
    assert len(labels) == 5
    assert all("PyTorch native (traced)" in label for label in labels)
    assert "JAX native (jit) 2.20 ms" in labels[2]


@pytest.mark.browser
def test_loops_are_tabs_for_the_arrow_keys(look: Look) -> None:
    window = look(render(result(training())))
    panels = window.page.locator(".panel")
    assert [panel.is_visible() for panel in panels.all()] == [True, False, False, False]
    window.page.locator(".tabs input").first.focus()
    window.page.keyboard.press("ArrowRight")
    assert [panel.is_visible() for panel in panels.all()] == [False, True, False, False]


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_that_shuts_somebody_out(look: Look, dark: bool) -> None:
    """Deque's axe-core: names, roles, contrast, order; of several models, failures and a ladder."""
    page = render(result(flawed(), training("gpt")), ladder(ladder_row(2), ladder_row(6)))
    found = Axe().run(look(page, dark=dark).page).response
    assert found["passes"]
    assert [(v["id"], [node["target"] for node in v["nodes"]]) for v in found["violations"]] == []


@pytest.mark.browser
def test_iframe_holds_the_page_and_draws_it(chromium: Browser) -> None:
    ours = result(flawed())
    snippet = iframe(ours, height=500)
    source = re.fullmatch('<iframe [^>]* srcdoc="([^"]*)"[^>]*></iframe>', snippet)
    assert source is not None
    assert html.unescape(source[1]) == render(ours)
    page = chromium.new_page()
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.set_content(snippet)
    page.frame_locator("iframe").locator("html[data-charts=drawn]").wait_for()
    assert page.frame_locator("iframe").locator(f".chart {LINES}").count() == 5 + 4
    assert complaints == []
    page.close()


# The parity ladder: a page of its own, or a section of a comparison's


def ladder_row(rung: int, **changes: Any) -> dict[str, Any]:
    names = {2: "forward", 6: "evaluation", 7: "engines"}
    row = {
        "model": "lenet5", "dtype": "float32", "rung": rung, "name": names[rung], "a": "torch", "b": "jax",
        "measured": 2.31e-7, "bound": 1e-5, "verdict": "holds", "where": None, "chaos": None, "reason": None,
        "error": None,
    }  # fmt: skip
    return {**row, **changes}


def ladder(*rows: dict[str, Any]) -> dict[str, Any]:
    rungs = {row["rung"]: row["name"] for row in rows}
    return {
        **{
            key: value
            for key, value in result(training()).items()
            if key in ("zoo", "created", "environment")
        },
        "backends": ["torch", "jax"],
        "models": ["lenet5"],
        "rungs": [
            {"number": n, "name": name, "claim": f"claim {n}", "float32": 1e-5, "float64": 1e-12}
            for n, name in rungs.items()
        ],
        "rows": list(rows),
    }


WHERE = {"layer": "conv2", "difference": 0.25, "index": [0, 3], "a": 1.0, "b": 1.25, "suspect": "Conv"}
FAILED = ladder_row(2, measured=0.25, verdict="fails", where=WHERE)


def test_a_ladder_that_holds_says_so_with_every_figure() -> None:
    page = render(ladder(ladder_row(2), ladder_row(6, measured=0.0), ladder_row(7, b="torch", measured=3e-8)))
    assert "all 3 comparisons hold" in page
    assert "<td>2.4e-7</td>" in page  # rounded up
    assert "<td>equal</td>" in page
    assert '<th scope="row">lenet5 float32: torch, jax</th>' in page
    assert '<th scope="row">lenet5 float32: torch</th>' in page


def test_a_ladder_that_fails_names_the_layer_both_values_and_the_suspect() -> None:
    page = render(ladder(FAILED, ladder_row(6, measured=3.0, verdict="fails")))
    assert "2 of 2 comparisons beyond their bound" in page
    assert '<td class="fail">✗ 2.5e-1</td>' in page
    assert '<td class="fail">✗ 3</td>' in page
    assert "first differs at conv2[0, 3]: 1 against 1.25, by 2.5e-1. Suspect: Conv." in page


def test_what_a_ladder_brings_in_is_escaped() -> None:
    nasty = ladder_row(2, verdict="fails", where={**WHERE, "layer": "<script>", "suspect": "</section>"})
    page = render(ladder(nasty, {**ladder_row(6), "rung": 0, "error": "<b>boom</b>"}))
    assert "<b>boom" not in page
    assert "differs at &lt;script&gt;" in page


def test_a_ladder_and_a_comparison_in_one_folder_share_the_page(tmp_path: Path) -> None:
    for order in ((result(training()), ladder(FAILED)), (ladder(FAILED), result(training()))):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        for each in order:
            path = save(each, folder)
        page = path.read_text("utf-8")
        assert "The parity ladder: 1 of 1" in page
        assert "Runs</h3>" in page
        assert {file.name for file in folder.iterdir()} == {"report.html", "result.json", "parity.json"}


def test_the_terminal_shows_the_ladder_and_what_failed() -> None:
    console = Console(file=io.StringIO(), width=80)
    ladder_report.summary(ladder(FAILED, ladder_row(7, b="torch")), console)
    text = console.file.getvalue()
    assert re.search(r"lenet5 +\n *float32 +2 +7", text)
    assert re.search(r"torch, jax +2\.5e-1", text)
    assert max(map(len, text.splitlines())) <= 80
    assert "2.5e-1" in text
    assert "2 forward: claim 2 (1e-5)" in text
    assert "rung 2, torch and jax: first differs at conv2[0, 3]: 1 against 1.25" in " ".join(text.split())
    assert text.rstrip().endswith("2 comparisons, 1 beyond its bound")


def test_the_terminal_lists_which_rung_caught_which_fault() -> None:
    row = {"fault": None, "rung": None, "caught": None, "where": None, "error": None}
    rows = [
        row,
        {**row, "fault": "a", "rung": 2, "caught": 2, "where": "conv"},
        {**row, "fault": "b", "rung": 3},
    ]
    console = Console(file=io.StringIO(), width=110)
    ladder_report.faults(rows, console)
    text = console.file.getvalue()
    assert "2 faults, 1 missed, none caught by another rung; without a fault every rung holds" in text


@pytest.mark.browser
def test_a_ladders_page_is_whole_in_a_browser_and_on_a_phone(look: Look) -> None:
    for text, charts in ((render(ladder(FAILED)), False), (render(result(training()), ladder(FAILED)), True)):
        window = look(text, width=390)
        assert window.complaints == []
        assert window.page.locator("section[aria-labelledby=ladder] td.fail").count() == 1
        assert (window.page.locator(".chart").count() > 0) == charts
        assert window.page.evaluate("document.documentElement.scrollWidth") == 390
