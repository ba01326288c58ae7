"""Runs on disk: what was trained is used elsewhere, on any framework, without being described again."""

from __future__ import annotations

import json
import re
import shlex
import signal
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import everywhere, numpy
from PIL import Image
from scipy.special import log_softmax, softmax
from typer.testing import CliRunner

import zoo
from zoo import backends, training
from zoo._lazy import keras
from zoo.cli import app
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration
from zoo.training import plan, runs
from zoo.training.runs import SavedRun

CLASSES = ("ant", "bee", "cat")
SIZE = 32
SMALL: dict[str, dict[str, Any]] = {
    "lstm": {"width": 8, "embedding_width": 6},
    "bert-tiny": {"width": 16, "heads": 2, "positions": 128},
    "gpt-nano": {"width": 16, "depth": 2, "heads": 2, "positions": 256},
    "seq2seq": {"width": 8, "embedding_width": 6},
    "t5-tiny": {"width": 16, "depth": 2, "heads": 2, "head_width": 4, "mlp_width": 24},
    "speech": {"width": 8, "filters": 4},
}
TEXTS = {"en": "the cat sat on a mat and looked at the rat", "de": "der Hund lief in den Wald hinaus"}


def image(path: Path, number: int, shade: int = 0) -> Path:
    """An image at the model's size, so that nothing is scaled."""
    low = 40 + 60 * shade
    pixels = np.random.default_rng(number).integers(low, low + 60, (SIZE, SIZE, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def photographs(folder: Path, classes: tuple[str, ...] = CLASSES, count: int = 5) -> Path:
    for shade, name in enumerate(classes):
        for i in range(count):
            image(folder / name / f"{i}.png", 10 * shade + i, shade)
    return folder


def recordings(folder: Path) -> Path:
    folder.mkdir()
    lines = ["path\ttext"]
    for i, text in enumerate(("abba", "cab", "bad", "dab", "acdc")):
        samples = np.random.default_rng(i).normal(0, 3000, 16_000).astype(np.int16)
        with wave.open(str(folder / f"{i}.wav"), "wb") as file:
            file.setparams((1, 2, 16_000, 0, "NONE", ""))
            file.writeframes(samples.tobytes())
        lines.append(f"{i}.wav\t{text}")
    (folder / "transcripts.tsv").write_text("\n".join(lines) + "\n")
    return folder


def tokenizer(folder: Path) -> Path:
    made = zoo.tokenizers.train("bpe", [*TEXTS.values()] * 3, vocabulary=270)
    return made.save(folder / "tokenizer.json")


def trained(name: str, task: Any, *, out: Path, **changes: Any) -> zoo.Run:
    """A run of two steps of a small model of this task."""
    reader = changes.pop("tokenizer", None)
    found = zoo.tokenizers.load(reader) if reader else None
    arguments = plan.task_arguments(zoo.card(name), str(task), tokenizer=found)
    model = zoo.build(name, **{**arguments, **SMALL.get(name, {}), **changes})
    return zoo.train(model, task, steps=2, batch_size=4, out=out, tokenizer=found, progress=False)


def lines_of(folder: Path, name: str, rows: list[str]) -> Path:
    path = folder / name
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def make_digits(folder: Path) -> zoo.Run:
    return trained("lenet5", "digits", out=folder / "run", image_size=16)


def make_folder(folder: Path) -> zoo.Run:
    photos = photographs(folder / "photos")
    return trained("resnet18", photos, out=folder / "run", **small("resnet18"))


def make_table(folder: Path) -> zoo.Run:
    photographs(folder / "photos")
    rows = [f"photos/{name}/{i}.png,{name}" for name in reversed(CLASSES) for i in range(5)]
    table = lines_of(folder, "photos.csv", ["path,label", *rows])
    return trained("resnet18", table, out=folder / "run", **small("resnet18"))


def make_texts(folder: Path) -> zoo.Run:
    rows = [f"{text[i:]},{label}" for label, text in TEXTS.items() for i in range(6)]
    return trained("lstm", lines_of(folder, "t.csv", ["text,label", *rows]), out=folder / "run")


def make_tokens(folder: Path) -> zoo.Run:
    rows = [json.dumps({"text": t[i:], "label": n}) for n, t in TEXTS.items() for i in range(6)]
    task = lines_of(folder, "t.jsonl", rows)
    return trained("bert-tiny", task, out=folder / "run", tokenizer=tokenizer(folder))


def make_corpus(folder: Path) -> zoo.Run:
    book = lines_of(folder, "book.txt", [" ".join(TEXTS.values())] * 100)
    return trained("gpt-nano", book, out=folder / "run", tokenizer=tokenizer(folder))


def make_pairs(folder: Path, name: str = "seq2seq") -> zoo.Run:
    rows = [f"{i}\t{i + 1}" for i in range(12)]
    return trained(name, lines_of(folder, "p.tsv", rows), out=folder / "run")


def make_t5(folder: Path) -> zoo.Run:
    return make_pairs(folder, "t5-tiny")


def make_speech(folder: Path) -> zoo.Run:
    return trained("speech", recordings(folder / "sound"), out=folder / "run")


MAKERS: dict[str, Callable[[Path], zoo.Run]] = {
    "digits": make_digits,
    "folder": make_folder,
    "table": make_table,
    "texts": make_texts,
    "tokens": make_tokens,
    "corpus": make_corpus,
    "pairs": make_pairs,
    "t5": make_t5,
    "speech": make_speech,
}
WRITERS = ("corpus", "pairs", "t5")


def small(name: str) -> dict[str, Any]:
    return {k: v for k, v in zoo.card(name).small.items() if k != "classes"}


Made = Callable[[str], tuple[zoo.Run, Path]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A run of this kind, and its folder, made once."""
    found: dict[str, tuple[zoo.Run, Path]] = {}

    def make(kind: str) -> tuple[zoo.Run, Path]:
        if kind not in found:
            folder = tmp_path_factory.mktemp(kind)
            found[kind] = MAKERS[kind](folder), folder / "run"
        return found[kind]

    return make


def given(kind: str, folder: Path) -> Any:
    """What a run of this kind is asked about."""
    if kind == "digits":
        path = folder.parent / "grey.png"
        Image.fromarray(np.random.default_rng(3).integers(0, 256, (16, 16), dtype=np.uint8)).save(path)
        return str(path)
    if kind in ("folder", "table"):
        return str(image(folder.parent / "one.png", 5, 1))
    return str(folder.parent / "sound" / "1.wav") if kind == "speech" else "der Rat"


def logits(kind: str, run: zoo.Run, x: Any) -> np.ndarray:
    """What the trained model gives, its input prepared as the documentation says, by other means."""
    if kind == "digits":
        array = np.asarray(Image.open(x), np.float32)[None, :, :, None] / 255
    elif kind in ("folder", "table"):  # as the card says: ImageNet's mean and deviation, at its share of 256
        short = round(256 * SIZE / 224)
        resized = Image.open(x).resize((short, short), Image.Resampling.BILINEAR)
        left = round((short - SIZE) / 2)
        cut = np.asarray(resized.crop((left, left, left + SIZE, left + SIZE))) / 255
        array = ((cut - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype(np.float32)[None]
    elif kind == "texts":
        array = np.array([[byte + 3 for byte in x.encode()]], np.int32)
    else:
        tokens = zoo.tokenizers.load(run.saved / runs.TOKENIZER).encode(x)[None]
        array = {"token_ids": tokens, "padding_mask": np.ones_like(tokens)}
    return numpy(run.model(array, training=False))[0]


# --- train, then predict ---


@pytest.mark.once
@pytest.mark.parametrize("kind", ["digits", "folder", "table", "texts", "tokens"])
def test_a_saved_run_predicts_what_the_trained_model_does_by_the_names_it_learned(
    made: Made, kind: str
) -> None:
    run, folder = made(kind)
    x = given(kind, folder)
    theirs = softmax(logits(kind, run, x).astype(np.float64))
    names = {"folder": CLASSES, "table": CLASSES, "texts": ("de", "en"), "tokens": ("de", "en")}
    order = np.argsort(-theirs, kind="stable")
    for model in (folder, str(folder), folder / "checkpoint.safetensors", zoo.load_run(folder), run):
        ((*ours,),) = zoo.predict(model, x, top=10)
        assert [name for name, _ in ours] == [names.get(kind, "0123456789")[k] for k in order]
        np.testing.assert_allclose([p for _, p in ours], theirs[order], rtol=2e-4)


@pytest.mark.once
def test_a_recording_is_transcribed_by_the_letters_it_learned(made: Made) -> None:
    run, folder = made("speech")
    for variable in run.model.layers[-1].trainable_variables:
        variable.assign(numpy(variable) * 20)  # an undecided network says nothing at all
    with wave.open(given("speech", folder)) as file:
        samples = np.frombuffer(file.readframes(16_000), np.int16) / np.float32(32768)
    x = zoo.tasks.sequences.normalized(zoo.tasks.sequences.log_mel(samples, 16_000))
    frames = numpy(run.model(x[None], training=False))[0].astype(np.float64)
    best = frames.argmax(-1)
    said = [k for i, k in enumerate(best) if k and (i == 0 or best[i - 1] != k)]
    ((ours,),) = zoo.predict(run, given("speech", folder))
    assert len(said) > 3
    assert ours[0] == "".join("abcd"[k - 1] for k in said)
    assert np.log(ours[1]) == pytest.approx(log_softmax(frames, -1).max(-1).sum(), rel=1e-3)


@pytest.mark.once
def test_images_are_prepared_as_they_were_in_training_not_as_the_card_says(tmp_path: Path) -> None:
    """digits are pixels in [0, 1]; the card of resnet18 says ImageNet's mean and deviation."""
    run = zoo.train(
        zoo.build("resnet18", **small("resnet18"), classes=10), "digits", steps=1, out=tmp_path / "r",
        progress=False,
    )  # fmt: skip
    path = image(tmp_path / "x.png", 7)
    x = np.asarray(Image.open(path), np.float32)[None] / 255
    theirs = softmax(numpy(run.model(x, training=False))[0])
    ((label, p),) = zoo.predict(tmp_path / "r", path, top=1)[0]
    assert (label, p) == (str(theirs.argmax()), pytest.approx(theirs.max(), rel=1e-4))


USE = """
import json, zoo
found = {{}}
for kind, folder, x in json.loads({cases!r}):
    run = zoo.load_run(folder)
    if kind == "pairs":
        said = zoo.translate(folder, x)
    elif kind in {writers!r}:
        said = zoo.generate(run, x, 8, temperature=0)
    else:
        said = zoo.predict(run, x)
    found[kind] = [said, zoo.evaluate(folder)]
print(json.dumps(found))
"""


@pytest.mark.parity
def test_every_kind_of_run_gives_the_same_on_every_framework_in_another_process(made: Made) -> None:
    cases = [(kind, str(made(kind)[1]), given(kind, made(kind)[1])) for kind in MAKERS]
    printed = everywhere(USE.format(cases=json.dumps(cases), writers=WRITERS))
    found = {name: json.loads(text.splitlines()[-1]) for name, text in printed.items()}
    for kind in MAKERS:
        run, _ = made(kind)
        first, measured = found["torch"][kind]
        for said, metrics in (each[kind] for each in found.values()):
            assert metrics["examples"] == measured["examples"]
            for metric, value in run.metrics.items():  # of the training process, on the same examples
                assert metrics[metric] == pytest.approx(value, rel=1e-4, abs=1e-6), (kind, metric)
            if kind in WRITERS:
                assert said == first
                continue
            for (name, p), (theirs, q) in zip(said[0], first[0], strict=True):
                assert (name, p) == (theirs, pytest.approx(q, rel=1e-3)), kind


# --- names of classes ---


@pytest.mark.once
def test_labels_that_are_not_the_runs_are_refused_with_both_named(made: Made, tmp_path: Path) -> None:
    _, folder = made("folder")
    for labels in (["cat", "bee", "ant"], ["ant", "bee", "dog"], ["ant", "bee"]):
        file = lines_of(tmp_path, "names.txt", labels)
        for form in (labels, file):
            with pytest.raises(WrongConfiguration) as caught:
                zoo.predict(folder, given("folder", folder), labels=form)
            assert ", ".join(labels) in str(caught.value)
            assert "ant, bee, cat" in str(caught.value)
    assert zoo.predict(folder, given("folder", folder), labels=CLASSES)


@pytest.mark.once
def test_names_may_be_given_where_the_run_has_none(made: Made) -> None:
    _, folder = made("digits")
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    (numbers,) = zoo.predict(folder, given("digits", folder))
    (named,) = zoo.predict(folder, given("digits", folder), labels=words)
    assert [name for name, _ in named] == [words[int(number)] for number, _ in numbers]
    with pytest.raises(WrongConfiguration, match="2 names"):
        zoo.predict(folder, given("digits", folder), labels=["a", "b"])


@pytest.mark.once
def test_another_folder_is_measured_by_the_classes_names(made: Made, tmp_path: Path) -> None:
    """Two of the three, which by themselves would be numbered otherwise."""
    _, folder = made("folder")
    other = photographs(tmp_path / "others", ("bee", "cat"), 4)
    photos = sorted(other.rglob("*.png"))
    found = [row[0][0] for row in zoo.predict(folder, photos, top=1)]
    right = np.mean([name == path.parent.name for name, path in zip(found, photos, strict=True)])
    measured = zoo.evaluate(folder, other, batch_size=3)
    assert (measured["accuracy"], measured["examples"]) == (pytest.approx(right), 8)
    p = [dict(row)[path.parent.name] for row, path in zip(zoo.predict(folder, photos), photos, strict=True)]
    assert measured["loss"] == pytest.approx(-np.log(p).mean(), rel=1e-4)
    photographs(tmp_path / "others", ("dog", "elk"))
    with pytest.raises(WrongConfiguration, match="does not know: dog, elk; it knows ant, bee, cat"):
        zoo.evaluate(folder, other)


@pytest.mark.once
def test_the_split_that_is_measured_is_the_one_that_was_held_out(made: Made) -> None:
    run, folder = made("folder")
    held_out, train, both = (zoo.evaluate(folder, split=split) for split in ("held-out", "train", "all"))
    assert zoo.evaluate(folder)["examples"] == held_out["examples"] == len(run.task.test[1]) == 3
    assert (train["examples"], both["examples"]) == (12, 15)
    assert both["loss"] == pytest.approx((3 * held_out["loss"] + 12 * train["loss"]) / 15, rel=1e-5)
    with pytest.raises(UnknownName, match="split='test'"):
        zoo.evaluate(folder, split="test")


@pytest.mark.once
def test_a_run_is_not_resumed_on_other_classes(made: Made, tmp_path: Path) -> None:
    _, folder = made("folder")
    other = photographs(tmp_path / "photos", ("ant", "bee", "dog"))
    model = zoo.build("resnet18", **small("resnet18"), classes=3)
    with pytest.raises(WrongConfiguration, match=r"ant, bee, cat.*ant, bee, dog"):
        zoo.train(model, other, resume=folder, steps=9)


# --- what is saved ---


@pytest.mark.once
def test_run_json_says_how_the_model_was_built_and_trained(made: Made) -> None:
    run, folder = made("tokens")
    facts = json.loads((folder / "run.json").read_text())
    assert facts["model"] == "bert-tiny"
    assert facts["arguments"].items() >= {"width": 16, "head": "classifier", "classes": 2}.items()
    assert facts["classes"] == ["de", "en"]
    assert (facts["steps"], facts["metrics"]) == (2, run.metrics)
    assert "AdamW" in facts["recipe"]
    assert facts["source"] == str(folder.parent / "t.jsonl")
    assert zoo.load_run(folder).tokenizer.content == (folder / "tokenizer.json").read_text()


@pytest.mark.once
@pytest.mark.parametrize("engine", training.ENGINES)
def test_averaged_weights_and_the_best_epochs_are_those_that_predict(engine: str, tmp_path: Path) -> None:
    def train(**settings: Any) -> zoo.Run:
        settings = {"engine": engine, "epochs": 2, "batch_size": 256, "progress": False, **settings}
        return zoo.train("mlp", "digits", **settings)

    averaged = zoo.optimizers.AdamW(0.01, use_ema=True, ema_momentum=0.9)
    stopping = zoo.EarlyStopping(patience=1, monitor="loss", min_delta=1e9)  # the first epoch is the best
    for name, settings in {"ema": {"optimizer": averaged}, "best": {"early_stopping": stopping}}.items():
        run = train(out=tmp_path / name, **settings)
        saved = zoo.load_run(tmp_path / name)
        for ours, theirs in zip(saved.model.variables, run.model.variables, strict=True):
            np.testing.assert_array_equal(numpy(ours), numpy(theirs))
        assert saved.metrics == run.metrics
        assert zoo.evaluate(saved)["loss"] == pytest.approx(run.metrics["loss"], rel=1e-5)


@pytest.mark.once
def test_a_run_that_is_interrupted_is_saved_and_goes_on(tmp_path: Path) -> None:
    def interrupt(step: int, _: Any) -> None:
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    model = lambda: zoo.build("mlp", widths=(8,))  # noqa: E731
    run = zoo.train(model(), steps=20, out=tmp_path / "r", watch=interrupt, progress=False)
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert (facts["steps"], facts["interrupted"]) == (3, True)
    x = zoo.example(run.model)
    np.testing.assert_array_equal(
        numpy(zoo.load_run(tmp_path / "r").model(x)), numpy(run.model(x, training=False))
    )
    ended = zoo.train(model(), steps=20, resume=tmp_path / "r", out=tmp_path / "r", progress=False)
    uncut = zoo.train(model(), steps=20, progress=False)
    np.testing.assert_allclose(ended.losses, uncut.losses, rtol=1e-5)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["interrupted"] is False


@pytest.mark.once
def test_a_model_that_the_zoo_did_not_build_is_loaded_into_one_that_is_given(tmp_path: Path) -> None:
    def build() -> keras.Model:
        image = keras.Input((8, 8, 1))
        return keras.Model(
            image, keras.layers.Dense(10, name="head")(keras.layers.Flatten()(image)), name="own"
        )

    run = zoo.train(build(), "digits", steps=1, out=tmp_path / "r", progress=False)
    with pytest.raises(WrongConfiguration, match="load_run"):
        zoo.predict(tmp_path / "r", np.zeros((8, 8, 1), np.float32))
    again = zoo.load_run(tmp_path / "r", build())
    x = np.random.default_rng(0).random((1, 8, 8, 1), np.float32)
    np.testing.assert_allclose(numpy(again.model(x)), numpy(run.model(x)), rtol=1e-6)
    assert zoo.evaluate(again)["accuracy"] == run.metrics["accuracy"]


@pytest.mark.once
def test_what_is_no_run_is_named(made: Made, tmp_path: Path) -> None:
    with pytest.raises(DataUnavailable, match="no run there"):
        zoo.load_run(tmp_path)
    with pytest.raises(DataUnavailable, match="no such file or folder"):
        zoo.predict(tmp_path / "gone", "x.png")
    weights = tmp_path / "w.safetensors"
    zoo.weights.save(zoo.build("mlp", widths=(8,)), weights)
    with pytest.raises(WrongConfiguration, match="not a checkpoint"):
        zoo.load_run(weights)
    _, folder = made("folder")
    with pytest.raises(WrongConfiguration, match="leave weights, classes out"):
        zoo.predict(folder, given("folder", folder), weights=weights, classes=3)
    with pytest.raises(WrongConfiguration, match="writes texts"):
        zoo.predict(made("corpus")[1], "the")
    with pytest.raises(WrongConfiguration, match="expected a text"):
        zoo.predict(made("texts")[1], [])


@pytest.mark.once
def test_a_folder_that_holds_a_run_is_not_written_over(made: Made, tmp_path: Path) -> None:
    _, folder = made("digits")
    before = (folder / "checkpoint.safetensors").read_bytes()
    with pytest.raises(WrongConfiguration, match="a run is saved there already"):
        zoo.train("lenet5", steps=1, out=folder)
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file" / "run", tmp_path / ("x" * 256)):
        with pytest.raises(WrongConfiguration, match=r"out[:=]"):
            zoo.train("lenet5", steps=1, out=out)
    with pytest.raises(WrongConfiguration, match="leave checkpoint= out"):
        zoo.train("lenet5", steps=1, out=tmp_path / "r", checkpoint=tmp_path / "c")
    assert (folder / "checkpoint.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.once
def test_pictures_of_a_run_are_those_of_its_model(made: Made) -> None:
    run, folder = made("folder")
    theirs = zoo.show.grad_cam(zoo.load_run(folder).model, given("folder", folder)).values
    for model in (folder, run):
        np.testing.assert_allclose(
            zoo.show.grad_cam(model, given("folder", folder)).values, theirs, rtol=1e-4
        )


# --- the command line ---


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(*words: str, status: int = 0) -> str:
    done = CliRunner().invoke(app, list(words))
    if status == 0 and done.exception:
        raise done.exception
    assert done.exit_code == status, done.output
    return done.stdout


@pytest.mark.once
def test_training_saves_by_default_and_its_last_line_is_the_command_to_go_on_with(here: Path) -> None:
    photographs(here / "my photos")
    image(here / "one.png", 3)
    first, second = (
        command("train", "lenet5", "my photos/", "--steps", "1", "--batch-size", "4").splitlines()[-1]
        for _ in range(2)
    )
    pattern = r"Saved in (runs/lenet5-\d{4}-\d\d-\d\d(-\d)?); next: zoo (predict runs/lenet5-\S+ PHOTO)"
    matches = [re.fullmatch(pattern, line) for line in (first, second)]
    assert [match and match[2] for match in matches] == [None, "-2"]
    assert matches[0] is not None
    words = shlex.split(matches[0][3].replace("PHOTO", "one.png"))
    printed = command(*words)
    assert all(name in printed for name in CLASSES)
    assert printed == command("predict", "--run", matches[0][1], "one.png")


@pytest.mark.once
def test_what_is_not_to_be_saved_is_not(here: Path) -> None:
    printed = command("train", "mlp", "--steps", "1", "--no-save")
    assert printed.splitlines()[-1] == "Not saved."
    command("train", "mlp", "--steps", "1", "--checkpoint", "c.safetensors")
    assert [path.name for path in here.iterdir()] == ["c.safetensors"]
    assert "accuracy" in command("evaluate", "c.safetensors")


@pytest.mark.once
def test_where_no_run_can_be_saved_the_command_says_what_to_do(here: Path) -> None:
    (here / "runs").write_text("a file")
    done = CliRunner().invoke(app, ["train", "mlp", "--steps", "1"])
    assert isinstance(done.exception, WrongConfiguration)
    assert re.search(r"runs is a file.*--out, or --no-save", str(done.exception))
    command("train", "mlp", "--steps", "1", "--no-save")


@pytest.mark.once
def test_commands_take_a_run_in_the_place_of_a_model(made: Made, here: Path) -> None:
    folder, texts, pairs, gpt = (str(made(kind)[1]) for kind in ("folder", "texts", "pairs", "corpus"))
    measured = json.loads(command("evaluate", folder, "--json"))
    assert measured == zoo.evaluate(folder)
    assert f"{measured['accuracy']:.4f}" in command("evaluate", "--run", folder)
    (row,) = json.loads(command("predict", texts, "der Rat", "--json"))
    assert row["text"] == "der Rat"
    assert {each["class"] for each in row["classes"]} == {"de", "en"}
    said = zoo.translate(pairs, "11", max_tokens=4)[0]
    assert command("generate", pairs, "11", "--max-tokens", "4") == f"{said}\n"
    words = ["generate", "--run", gpt, "the cat", "--temperature", "0", "--max-tokens", "5"]
    said = zoo.generate(gpt, "the cat", 5, temperature=0)
    assert command(*words) == f"the cat{said}\n"
    command("export", folder, "--layout", "timm", "--out", "w.safetensors")
    model = zoo.build("resnet18", **small("resnet18"), classes=3)
    zoo.weights.load(model, here / "w.safetensors", "timm")
    x = zoo.example(model)
    np.testing.assert_allclose(numpy(model(x)), numpy(zoo.load_run(folder).model(x)), rtol=1e-5)
    assert "Grad-CAM of class 2" in command("show", folder, given("folder", Path(folder)), "--label", "cat")
    with Image.open(here / "zoo-show.png") as picture:
        assert picture.size[0] > 100


def test_a_run_is_used_on_this_framework(made: Made) -> None:
    """The model of a run has the bits that were trained."""
    run, folder = made("folder")
    saved = zoo.load_run(folder)
    assert isinstance(saved, SavedRun)
    facts = json.loads((folder / "run.json").read_text())
    assert facts["backend"] == backends.current().NAME
    for ours, theirs in zip(saved.model.variables, run.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(ours), numpy(theirs))


@pytest.mark.once
def test_weights_loaded_into_a_runs_model_are_not_the_runs(made: Made, tmp_path: Path) -> None:
    _, folder = made("folder")
    model = zoo.load_run(folder).model
    other = tmp_path / "other.safetensors"
    zoo.weights.save(zoo.build("resnet18", seed=3, **small("resnet18"), classes=3), other)
    zoo.weights.load(model, other)
    (row,) = zoo.predict(model, given("folder", folder))
    assert sorted(name for name, _ in row) == ["0", "1", "2"]


@pytest.mark.once
@pytest.mark.parametrize("number", [np.int64(3), 3])
def test_arguments_of_numpys_are_saved_as_numbers(number: Any, tmp_path: Path) -> None:
    x = np.zeros((4, SIZE, SIZE, 3), np.float32)
    model = zoo.build("resnet18", **small("resnet18"), classes=number)
    zoo.train(model, (x, np.arange(4) % 3), steps=1, out=tmp_path / "r", progress=False)
    facts = zoo.load_run(tmp_path / "r").facts
    assert facts["arguments"].items() >= {"classes": 3, "depths": [1, 1]}.items()
    assert zoo.load_run(tmp_path / "r").model.output_shape == (None, 3)


@pytest.mark.once
def test_a_run_generates_by_its_tokenizer(made: Made) -> None:
    run, folder = made("corpus")
    reader = zoo.tokenizers.load(folder / "tokenizer.json")
    tokens = zoo.generate(run.model, reader.encode("the cat"), 8, temperature=0)
    for model in (folder, run, run.model):
        assert zoo.generate(model, "the cat", 8, temperature=0) == reader.decode(tokens)
