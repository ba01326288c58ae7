"""The documentation: its programs run, its site is whole and asks nothing of another host.

`tox -e docs` runs this; elsewhere, without the generator, it is left out.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode, urlsplit
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import LEAN

from zoo.registry import FAMILIES

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytest.importorskip("furo")
pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [DOCS / "index.md", *sorted((DOCS / "howto").glob("*.md"))]
NEW_PROCESS = "% new process"

# Before the first program of a page: what the network would bring is made here instead.
BEFORE = {
    "weights": """
import zoo.benchmarks.references.vision_torch  # declares operators of torchvision that a CPU's torch lacks
from pathlib import Path
import zoo

def fetched(reference):
    assert reference == "hf://timm/resnet50.a1_in1k"
    zoo.weights.save(zoo.build("resnet50"), "hub.safetensors", layout="timm")
    return Path("hub.safetensors")

zoo.weights.hub.fetch = fetched
""",
}
NEEDS = {
    "weights": ("torchvision", "timm", "transformers"),
    "frameworks": ("jax", "optax"),
    "fine-tuning": ("jax", "optax", "tensorflow", "tensorboard", "matplotlib"),
}


def programs(page: Path) -> list[str]:
    """The Python of a page, one program for each process."""
    parts = page.read_text(encoding="utf-8").split(NEW_PROCESS)
    found = [
        "\n\n".join(re.findall(r"^```python\n(.*?)^```", part, re.DOTALL | re.MULTILINE)) for part in parts
    ]
    return [program for program in found if program]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_programs_of_a_page_run_in_order(page: Path, tmp_path: Path):
    for module in NEEDS.get(page.stem, ()):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    environment = {**os.environ, "PYTHONSAFEPATH": "1"}
    environment.pop("KERAS_BACKEND", None)  # the pages choose, or take what is there
    if "zoo.use(" not in page.read_text(encoding="utf-8"):
        environment["KERAS_BACKEND"] = "torch"
    for program in programs(page):
        command = [sys.executable, "-c", LEAN + BEFORE.get(page.stem, "") + program]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"


def test_the_tables_of_both_readmes_are_those_of_the_registry(monkeypatch: pytest.MonkeyPatch):
    from zoo import registry

    monkeypatch.syspath_prepend(str(DOCS))
    readme = import_module("_readme")
    for name in readme.HEADINGS:
        text = (ROOT / name).read_text(encoding="utf-8")
        cards = [registry.card(model) for model in registry.list_models()]
        assert [c.name for c in cards if f"`{c.name}`\N{NO-BREAK SPACE}{c.parameters:,}" not in text] == []
        assert text == readme.renewed(name), "python docs/_readme.py writes the table anew"


MEASURED = sorted((DOCS / "measured").glob("*.json"))


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that recorded what the pages show."""
    monkeypatch.syspath_prepend(str(DOCS))
    return import_module("_measured")


def test_the_page_of_scale_shows_what_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(DOCS))
    scale = import_module("_scale")
    assert scale.PAGE.read_text(encoding="utf-8") == scale.page(), "python docs/_scale.py writes it"
    small = scale.Work("small", parameters=98, batch=1, step=6.0, spread=0.0, norms=0, channels=0)
    # Two devices each send their 400 bytes once, half of them in each of two rounds of a second.
    assert small.communication(2, latency=1.0, bandwidth=100.0) == 2 + 4
    assert small.efficiency(2, latency=1.0, bandwidth=100.0) == 0.5


@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.stem)
def test_what_a_page_says_was_measured_is_of_the_versions_known_to_work(path: Path, measured: Any):
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    versions = measured.read(path)["environment"]["versions"]
    assert {"torch", "jax", "keras"} <= pins.keys() & versions.keys()
    # torch adds of which build it is: 2.13.0+cpu
    old = {name: v for name, v in versions.items() if pins.get(name, v) != v.partition("+")[0]}
    assert not old, "python docs/_measured.py measures anew"


SIXTEEN_BITS = ("bfloat16", "mixed_bfloat16", "mixed_float16")


def measured_rungs(last: int) -> set[tuple[int, str]]:
    """Rungs 1 to this one, as pages have them that were measured before there were others."""
    return {(rung, dtype) for rung in range(1, last + 1) for dtype in ("float32", "float64")}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_parity_that_a_page_shows_is_whole_and_holds(family: str, measured: Any):
    from zoo import registry

    model = measured.MODELS[family]
    assert registry.card(model).file.stem == family
    rows = measured.read(DOCS / "measured" / f"{model}-parity.json")["rows"]
    found = {(row["rung"], row["dtype"]) for row in rows}
    assert found in (measured_rungs(8), measured_rungs(10) | {(11, dtype) for dtype in SIXTEEN_BITS})
    for row in rows:
        assert row["verdict"] in ("holds", "gap"), row
        assert row["measured"] <= row["bound"] or row["verdict"] == "gap"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_speed_that_a_page_shows_is_of_every_framework(family: str, measured: Any):
    rows = measured.read(DOCS / "measured" / f"{measured.MODELS[family]}-bench.json")["rows"]
    assert {row["error"] for row in rows} == {None}
    ran = {(row["backend"], row["what"]) for row in rows}
    assert ran >= {(name, what) for name in ("torch", "tensorflow", "jax") for what in ("train", "infer")}


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_files_that_a_readme_links_are_there(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = {link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)}
    assert [link for link in links if not urlsplit(link).scheme and not (ROOT / link).exists()] == []
    assert {"README.md", "README.zh.md"} - {name} <= links


def test_every_page_of_this_kind_has_a_program():
    assert [page.stem for page in PAGES if not programs(page)] == []


@pytest.mark.parametrize(
    "name", ["lenet5-1998", "resnet50", "efficientnet-b0", "birnn", "bert-tiny", "t5-mini"]
)
def test_a_figure_accounts_for_every_weight(name: str, monkeypatch: pytest.MonkeyPatch):
    import zoo

    monkeypatch.syspath_prepend(str(DOCS))
    card = zoo.card(name)
    model = zoo.build(name, **card.small)
    overview, kinds = import_module("_figures").outline(model)
    assert sum(box.parameters for box in overview) == sum(np.prod(v.shape) for v in model.trainable_variables)
    for first, inside in kinds.values():
        own = [v for v in model.trainable_variables if v.path.startswith((f"{first}_", f"{first}/"))]
        assert sum(box.parameters for box in inside) == sum(np.prod(v.shape) for v in own)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_the_shortcut_of_a_residual_block_is_beside_its_convolutions(
    name: str, monkeypatch: pytest.MonkeyPatch
):
    import zoo

    monkeypatch.syspath_prepend(str(DOCS))
    figures = import_module("_figures").figures(zoo.build(name))
    (svg,) = [svg for caption, svg in figures if caption.startswith("Block") and ">shortcut<" in svg]
    rects, texts, lines = (
        [e for e in ElementTree.fromstring(svg) if e.tag == tag] for tag in ("rect", "text", "path")
    )

    def box(name: str) -> tuple[float, float, float, float]:
        """Left, right, top, bottom of the box with this text."""
        (at,) = [(float(e.get("x", "")), float(e.get("y", ""))) for e in texts if e.text == name]
        spans = [[float(rect.get(key, "")) for key in ("x", "y", "width", "height")] for rect in rects]
        ((x, y, w, h),) = [s for s in spans if s[0] < at[0] < s[0] + s[2] and s[1] < at[1] < s[1] + s[3]]
        return x, x + w, y, y + h

    shortcut, first, last = box("shortcut"), box("conv1"), box("conv2" if name == "resnet18" else "conv3")
    assert shortcut[0] > max(first[1], last[1])
    assert first[2] <= (shortcut[2] + shortcut[3]) / 2 <= last[3]
    assert box("x")[3] < shortcut[2] < shortcut[3] < box("Add → Relu")[2]
    ends = [e.get("d", "") for e in lines if e.get("class") == "line"]
    middle = (shortcut[0] + shortcut[1]) / 2
    assert [d for d in ends if d.startswith(f"M{middle} {shortcut[3]}")], "no line leaves the shortcut"


class Page(HTMLParser):
    """The addresses a page links, those it loads, and the names within it."""

    def __init__(self, path: Path):
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.names: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]):
        found = {name: value for name, value in attrs if value}
        self.names |= {found[key] for key in ("id", "name") if key in found}
        if tag == "a" and "href" in found:
            self.links.add(found["href"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "preload", "icon"):
            self.loads.add(found["href"])
        elif "src" in found:
            self.loads.add(found["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors, or as tox has built it."""
    if "ZOO_SITE" in os.environ:
        return Path(os.environ["ZOO_SITE"])
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", str(DOCS), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html")}


def test_the_site_loads_nothing_from_another_host(site: Path, pages: dict[Path, Page]):
    loads = {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}
    assert loads == set()
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*\)|@import[^;]*//[^;]*", styles) == []


def test_links_within_the_site_lead_somewhere(pages: dict[Path, Page]):
    names = {path.resolve(): page.names for path, page in pages.items()}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or link in ("#", ""):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path.resolve()
            fragment = unquote(parts.fragment)
            if not target.exists() or (fragment and fragment not in names.get(target, {fragment})):
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_links_to_other_hosts_are_well_formed(pages: dict[Path, Page]):
    links = {link for page in pages.values() for link in page.links if urlsplit(link).scheme}
    assert links
    assert [x for x in links if not re.fullmatch(r"(https?://[\w.-]+\.\w+(/\S*)?|mailto:\S+)", x)] == []


CHAPTERS = sorted((ROOT / "notebooks").glob("*/[0-9]*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_chapter_is_a_page_that_shows_all_that_its_notebook_does(path: Path, site: Path):
    language = path.parent.name
    page = (site / "chapters" / language / f"{path.stem}.html").read_text(encoding="utf-8")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    images = [output for output in outputs if any("image" in kind for kind in output.get("data", {}))]
    assert f'lang="{ {"en": "en", "zh": "zh-CN"}[language] }"' in page
    alts = re.findall(r'<img alt="([^"]*)" class="figure', page)
    assert len(alts) == len(images)
    assert all(alts)
    assert page.count("</details>") == sum("answer" in c["metadata"].get("tags", []) for c in cells)
    assert page.count('class="output') == sum(output["output_type"] == "stream" for output in outputs)
    words = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    formulas = re.findall(r"\$\$.+?\$\$|\$[^$]+\$", words, re.DOTALL)
    assert page.count("<math ") == len(formulas)
    assert page.count("chapter-header") == 1


def test_the_first_page_leads_to_the_chapters(pages: dict[Path, Page], site: Path):
    links = pages[site / "index.html"].links
    assert {"chapters/en/index.html", "chapters/zh/index.html"} <= links


def test_an_equation_of_a_docstring_is_the_same_in_tex(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS))
    tex = import_module("_math").tex
    assert tex("h_t = (1 - z) n + z h_(t-1)") == "h_{t} = (1 - z) n + z h_{t-1}"
    assert tex("P(next) = softmax(norm(h) W_e^T)") == (
        r"P(\text{next}) = \text{softmax}(\text{norm}(h) W_{e}^{T})"
    )
    assert tex("1.2 x 1.1^2 = 1e-4 sum_j x_j") == r"1.2 \times 1.1^{2} = 10^{-4} \sum_{j} x_{j}"


def test_tex_that_no_browser_would_draw_stops_the_build(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(DOCS))
    with pytest.raises(ValueError, match="unheardof"):
        import_module("_math").mathml(r"\unheardof x", "inline")


LOOKED_AT = [
    "index",
    "chapters/en/index",
    "chapters/en/04-convolution",
    "chapters/zh/11-augmentation",
    "models/recurrent",
    "reference/training",
]


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1280, "dark")])
@pytest.mark.parametrize("name", LOOKED_AT)
def test_axe_finds_nothing_on_a_page_that_fits_its_window(
    name: str, width: int, scheme: str, site: Path, chromium: Any
):
    from axe_playwright_python.sync_playwright import Axe

    context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
    page = context.new_page()
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.goto((site / f"{name}.html").as_uri())
    found = Axe().run(page).response
    assert found["passes"]
    assert [(v["id"], [node["target"] for node in v["nodes"]]) for v in found["violations"]] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    context.close()


def test_every_model_has_a_row_and_every_family_a_page(site: Path):
    from zoo import registry

    table = (site / "models" / "index.html").read_text(encoding="utf-8")
    assert [name for name in registry.list_models() if f">{name}<" not in table] == []
    for family in registry.FAMILIES:
        page = (site / "models" / f"{family}.html").read_text(encoding="utf-8")
        assert "<svg" in page
        cards = [card for card in map(registry.card, registry.list_models()) if card.file.stem == family]
        assert [card.name for card in cards if f"{card.parameters:,}" not in page] == []
        assert [card.name for card in cards if card.url not in page] == []


def test_every_public_name_is_in_the_reference(site: Path):
    import zoo

    reference = list((site / "reference").glob("*.html"))
    found = {name for path in reference for name in Page(path).names} | {f"zoo.{p.stem}" for p in reference}
    assert [name for name in zoo.__all__ if f"zoo.{name}" not in found] == []


# What a visitor searches for, and the page that answers it.
QUERIES = {
    "pretrained weights": "howto/weights.html",
    "fine-tuning": "howto/fine-tuning.html",
    "LoRA": "howto/fine-tuning.html",
    "transfer learning": "howto/images.html",
    "mixed precision": "howto/gpu.html",
    "export": "howto/export.html",
    "ONNX": "howto/export.html",
    "checkpoint": "howto/frameworks.html",
    "reproducible": "howto/gpu.html",
    "tokenizer": "howto/text.html",
    "learning rate schedule": "howto/training.html",
    # An exact name still finds the reference.
    "EarlyStopping": "reference/training.html",
    "AdamW": "reference/optimizers.html",
}


def test_the_search_finds_the_right_page_first(site: Path, chromium: Browser):
    window, first = chromium.new_page(), {}
    for query in QUERIES:
        window.goto(f"{(site / 'search.html').as_uri()}?{urlencode({'q': query})}")
        window.wait_for_selector(".search-summary:not(:empty)")  # written after the last result
        links = window.locator("ul.search > li > a")
        found = links.first.get_attribute("href") if links.count() else None
        first[query] = found and found.partition("?")[0].partition("#")[0]
    assert first == QUERIES
