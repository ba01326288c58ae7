"""The page of a run, and what it says of a classifier.

Witnesses: formulas written out, scikit-learn, html.parser.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser
from sklearn.calibration import calibration_curve
from test_report import Reader

import zoo
from zoo.report.curves import Curve, line_chart, ticks
from zoo.report.run import page
from zoo.training import page as run_page
from zoo.training.classification import Classification, classify
from zoo.training.evaluation import classification

RNG = np.random.default_rng(0)
N, CLASSES = 200, 4
LOGITS = RNG.normal(size=(N, CLASSES)) * 3
LABELS = np.where(RNG.random(N) < 0.6, LOGITS.argmax(-1), RNG.integers(0, CLASSES, N))


class Fixed:
    """An engine that predicts these logits, whatever it is given."""

    def __init__(self, logits: np.ndarray) -> None:
        self.batches = iter(np.split(logits, [90, 180]))

    def predict(self, x: Any) -> np.ndarray:
        del x
        return next(self.batches)

    def loss(self, y: np.ndarray, logits: np.ndarray) -> float:
        raise NotImplementedError


@pytest.fixture(scope="module")
def found() -> Classification:
    task = zoo.tasks.from_arrays((np.zeros((N, 1)), LABELS), loss=None)
    batches = [(np.arange(N)[part], LABELS[part]) for part in np.split(np.arange(N), [90, 180])]
    return classify(Fixed(LOGITS), task, batches, most=5)


@pytest.mark.once
def test_the_confusion_matrix_counts_pairs_of_class_and_prediction(found: Classification) -> None:
    expected = np.zeros((CLASSES, CLASSES), int)
    for label, prediction in zip(LABELS, LOGITS.argmax(-1), strict=True):
        expected[label, prediction] += 1
    np.testing.assert_array_equal(found.confusion, expected)


@pytest.mark.once
def test_precision_recall_and_f1_are_their_formulas(found: Classification) -> None:
    predictions = LOGITS.argmax(-1)
    for k, row in enumerate(found.per_class):
        of_class = np.equal(LABELS, k)
        hits = (of_class & (predictions == k)).sum()
        precision, recall = hits / (predictions == k).sum(), hits / of_class.sum()
        f1 = 2 * precision * recall / (precision + recall)
        assert list(row.values()) == pytest.approx([precision, recall, f1, of_class.sum()])


@pytest.mark.once
def test_the_calibration_is_scikit_learns_and_its_error_equation_3_of_guo(found: Classification) -> None:
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    confidence, right = shares.max(-1), LOGITS.argmax(-1) == LABELS
    filled = found.calibration[found.calibration[:, 0] > 0]
    accuracy, mean = calibration_curve(right, confidence, n_bins=15)
    np.testing.assert_allclose(filled[:, 1:], np.stack([mean, accuracy], 1))
    error = 0.0
    for m in range(15):
        own = (confidence > m / 15) & (confidence <= (m + 1) / 15)
        if own.any():
            error += own.sum() / N * abs(right[own].mean() - confidence[own].mean())
    assert found.calibration_error == pytest.approx(error)


@pytest.mark.once
def test_the_largest_losses_are_found_over_all_batches(found: Classification) -> None:
    shares = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    losses = -np.log(shares[np.arange(N), LABELS])
    order = np.argsort(-losses)[:5]
    assert [example.index for example in found.top] == list(order)
    assert [example.loss for example in found.top] == pytest.approx(losses[order])
    assert [int(example.x[0]) for example in found.top] == list(order)


@pytest.mark.parametrize("engine", zoo.training.ENGINES)
def test_a_run_saved_in_a_folder_has_a_page(engine: str, tmp_path: Path) -> None:
    run = zoo.train("mlp", "digits", engine=engine, steps=30, progress=False, out=tmp_path / "run")
    html = (tmp_path / "run" / "run.html").read_text("utf-8")
    reader = Reader(html)
    sources = [attributes["src"] for tag, attributes in reader.elements if tag == "img"]
    assert len(sources) == 12
    assert all(source and source.startswith("data:image/png") for source in sources)
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")
    assert {"Loss", "Accuracy", "Learning rate"} <= set(reader.texts["strong"])
    found = classification(run)
    counts = [int(text) for text in reader.texts["td"] if text.isdigit()]
    assert counts[: found.confusion.size] == found.confusion.ravel().tolist()
    assert (found.labels == found.predictions).mean() == pytest.approx(run.metrics["accuracy"])
    saved = zoo.show.confusion(tmp_path / "run")
    np.testing.assert_array_equal(saved.values, found.confusion)
    assert zoo.show.calibration(run).values.shape == (15, 3)


def test_a_run_without_classes_has_a_page_without_them(tmp_path: Path) -> None:
    x, y = RNG.normal(size=(40, 8, 8, 1)).astype("float32"), RNG.normal(size=(40, 10)).astype("float32")
    zoo.train("mlp", (x, y), loss="mean_squared_error", epochs=2, progress=False, out=tmp_path / "run")
    reader = Reader((tmp_path / "run" / "run.html").read_text("utf-8"))
    assert "Confusion matrix" not in reader.texts["h3"]
    assert len([tag for tag, _ in reader.elements if tag == "svg"]) >= 2
    with pytest.raises(zoo.WrongConfiguration, match="expected a classification"):
        zoo.show.confusion(tmp_path / "run", (x, y))


def test_texts_with_large_losses_are_shown(tmp_path: Path) -> None:
    texts = tmp_path / "texts.tsv"
    rows = [f"{'good' if i % 2 else 'bad'} film number {i}\t{'yes' if i % 2 else 'no'}" for i in range(60)]
    texts.write_text("\n".join(["text\tlabel", *rows]))
    run = zoo.train("bert", str(texts), steps=2, progress=False)
    found = classification(run)
    record = run_page.record(run, found)
    shown = [example["text"] for example in record["classification"]["top"]]
    assert shown
    assert all("film number" in text for text in shown)
    assert shown[0] in page(record)


@pytest.mark.once
def test_a_page_escapes_names_and_survives_what_is_not_a_number() -> None:
    run = zoo.train("mlp", "digits", steps=24, progress=False)
    run.losses[3] = float("nan")
    run.history[0]["loss"] = float("inf")
    record = run_page.record(run, None)
    json.dumps(record, allow_nan=False)
    html = page({**record, "name": "<script>alert(1)</script>"})
    assert "<script" not in html
    Reader(html)


@pytest.mark.browser
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (1280, True), (390, False)])
def test_the_page_is_accessible_and_as_wide_as_its_window(
    chromium: Browser, width: int, dark: bool, tmp_path: Path
) -> None:
    run = zoo.train("mlp", "digits", steps=30, progress=False, out=tmp_path / "run")
    assert run.saved is not None
    scheme = "dark" if dark else "light"
    window = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    window.on("request", lambda request: requests.append(request.url))
    window.goto((run.saved / "run.html").resolve().as_uri())
    found = Axe().run(window).response
    assert [(v["id"], [node["target"] for node in v["nodes"]]) for v in found["violations"]] == []
    assert window.evaluate("document.documentElement.scrollWidth") <= width
    assert len([url for url in requests if not url.startswith("data:")]) == 1
    window.close()


@pytest.mark.once
@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.0018, 0.0022), (0, 4), (-3e5, 2e7), (0, 30), (2, 2)])
def test_ticks_are_few_round_and_within_the_axis(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 6
    assert all(low - 1e-9 <= value <= high + 1e-9 or low == high for value in found)
    assert all(float(f"{value:.3g}") == value for value in found)


@pytest.mark.once
def test_a_curve_is_broken_at_its_gaps() -> None:
    chart = line_chart("said", "x", [Curve("c", "torch", [(1, 1.0), (2, None), (3, 2.0), (4, 1.0)])])
    (path,) = (attributes["d"] for tag, attributes in Reader(str(chart)).elements if tag == "path")
    assert path is not None
    assert [letter for letter in path if letter.isalpha()] == ["M", "M", "L"]
