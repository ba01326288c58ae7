"""Small trained weights that come with the zoo: what their cards say is so, on every framework."""

from __future__ import annotations

from importlib import import_module, resources
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from typer.testing import CliRunner

import zoo
from zoo import backends, pretrained
from zoo._lazy import keras
from zoo.cli import app
from zoo.pretrained import TRAINED, Trained

each = pytest.mark.parametrize("trained", TRAINED, ids=lambda trained: f"{trained.model}-{trained.name}")
DATES = {"24 novembre 2026": "2026-11-24", "1. Mai 1999": "1999-05-01", "July 4, 2008": "2008-07-04"}


@each
def test_it_scores_what_its_card_says(trained: Trained) -> None:
    card = trained.card()
    found = zoo.evaluate(trained.model, trained.name, weights=trained.name)
    assert found.keys() == {*card["metrics"], "examples", "split"}
    same = card["data"] == trained.data  # else another Python's text, a few sentences of a hundred reworded
    for name, value in card["metrics"].items():
        # A loss is a difference of logits, which are near 10: float32 has its digits up to 1e-6.
        assert found[name] == pytest.approx(value, rel=1e-5 if same else 1e-2, abs=1e-6), name


def test_only_of_a_text_that_pythons_word_differently_is_a_score_loose() -> None:
    assert [t.name for t in TRAINED if t.card()["data"] != t.data] in ([], ["topics"])


def test_it_scores_what_is_worth_shipping() -> None:
    """Nine of ten digits and dates; the text in fewer bits than three bytes before tell of the next."""
    from zoo.tasks import baselines, text

    for trained in TRAINED:
        metrics = trained.card()["metrics"]
        if trained.name == "topics":
            texts = text.corpus()
            trigram = baselines.witten_bell(texts["train"], texts["test"], order=3)
            assert metrics["bits_per_character"] < trigram
        else:
            assert metrics.get("accuracy", metrics.get("exact_match")) >= 0.9


def test_all_of_them_are_two_megabytes_at_most() -> None:
    files = [
        path for path in resources.files("zoo.pretrained").iterdir() if path.name.endswith(".safetensors")
    ]
    assert {path.name for path in files} == {trained.path.name for trained in TRAINED}
    assert sum(len(path.read_bytes()) for path in files) <= 2e6


@each
def test_a_card_says_how_many_parameters_there_are(trained: Trained) -> None:
    model = zoo.build(trained.model, weights=trained.name)
    weights = [v for v in model.variables if "seed" not in v.path]
    assert trained.card()["parameters"] >= sum(np.prod(v.shape) for v in model.trainable_variables)
    assert trained.card()["parameters"] <= sum(np.prod(v.shape) for v in weights)


def test_predict_reads_a_digit(tmp_path: Path) -> None:
    """As somebody would send it: a picture of another size, from a file."""
    digits = load_digits()
    for number in range(10):
        pixels = (digits.images[digits.target == number][0] * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(tmp_path / f"{number}.png")
    photos = [tmp_path / f"{number}.png" for number in range(10)]
    found = zoo.predict("lenet5", photos, weights="digits", top=1)
    right = [label == str(number) for number, ((label, _),) in enumerate(found)]
    assert sum(right) >= 9


def test_dates_are_translated() -> None:
    model = zoo.build("seq2seq", weights="dates")
    assert zoo.translate(model, list(DATES)) == list(DATES.values())


def test_generate_writes_of_pythons_documentation() -> None:
    """Words of the text it was trained on, not chance: most of what it writes is in that text."""
    done = CliRunner().invoke(
        app,
        [
            "generate",
            "gpt-nano",
            "The ",
            "--weights",
            "topics",
            "--temperature",
            "0.5",
            "--max-tokens",
            "120",
        ],
    )
    assert done.exit_code == 0, done.output
    known = set(zoo.tasks.text.corpus()["train"].split())
    words = done.stdout.split()[:-1]
    assert len(words) > 10
    assert sum(word in known for word in words) >= 0.8 * len(words)


def test_what_the_weights_do_not_allow_is_told() -> None:
    with pytest.raises(
        zoo.WrongConfiguration, match=r"resnet18: depths=\(2, 2\), but its weights 'digits' need"
    ):
        zoo.build("resnet18", weights="digits", depths=(2, 2))


@pytest.mark.parametrize(
    ("model", "told"),
    [("lenet5", r"no pretrained weights 'digit' of lenet5; nearest: digits"), ("vgg11", "vgg11 has none")],
)
def test_a_wrong_name_is_told_the_right_ones(model: str, told: str) -> None:
    with pytest.raises(zoo.UnknownName, match=told):
        zoo.build(model, weights="digit")


def test_a_file_is_for_weights_load() -> None:
    with pytest.raises(
        zoo.WrongConfiguration, match=r"'mine.safetensors' is a file; zoo.weights.load takes it"
    ):
        zoo.build("lenet5", weights="mine.safetensors")


def test_training_goes_on_from_them_with_another_head() -> None:
    x = np.random.default_rng(0).normal(size=(32, 32, 32, 1)).astype(np.float32)
    y = np.arange(32, dtype=np.int32) % 3
    run = zoo.train("lenet5", (x, y), weights="digits", steps=1, batch_size=16, progress=False)
    trained = zoo.build("lenet5", weights="digits")
    ours, theirs = (
        keras.ops.convert_to_numpy(model.get_layer("conv1").kernel) for model in (run.model, trained)
    )
    assert run.model.output_shape == (None, 3)
    assert np.abs(ours - theirs).max() < 0.01  # one small step from there


def test_the_command_makes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Briefly trained: the file is there, its card is what was measured of it, and it is what loads."""
    brief = Trained("lenet5", "digits", "data", "limits", settings={"steps": 20, "progress": False})
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "docs"))
    module = import_module("_pretrained")
    card = module.make(brief, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["lenet5-digits.safetensors"]
    monkeypatch.setattr(pretrained, "HERE", tmp_path)
    assert brief.card() == card
    assert module.measure(brief) == pytest.approx(card["metrics"], rel=1e-6)
    assert 0.2 < card["metrics"]["accuracy"] < 0.97
    assert backends.current().NAME
