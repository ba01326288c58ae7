"""The command line: what it prints, what it exits with."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import zoo
from zoo import backends
from zoo.cli import app


def run(*words: str) -> str:
    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_list_shows_every_model_with_its_exact_count() -> None:
    printed = run("list")
    for name in zoo.list_models():
        assert re.search(rf"^\s*{name}\s+{zoo.card(name).parameters:,}\s", printed, re.MULTILINE)


def test_list_takes_a_pattern() -> None:
    printed = run("list", "lenet*")
    assert "lenet5-1998" in printed
    assert "mlp" not in printed


@pytest.mark.parametrize("name", ["seq2seq", "speech"])
def test_info_shows_models_of_sequences_of_any_length(name: str) -> None:
    printed = run("info", name)
    assert "multiply-adds a step" in printed
    assert re.search(r"\(b, n, \d+\), *\(b, 128\)", printed)  # an LSTM's outputs and states


def test_info_shows_layers_whose_parameters_add_up() -> None:
    printed = run("info", "LeNet_5")
    counts = re.findall(r"^\s*\w+\s+(?:Conv|Dense)\s+\(.*\)\s+([\d,]+)\s*$", printed, re.MULTILINE)
    assert sum(int(count.replace(",", "")) for count in counts) == 61_706
    assert "(b, 28, 28, 6)" in printed


def test_train_says_what_came_of_it() -> None:
    printed = run("train", "mlp", "--steps", "3", "--threads", "1")
    loss = f"{zoo.train('mlp', steps=3).losses[-1]:.4f}"
    what = f"mlp on digits, {backends.current().NAME} native"
    assert re.search(rf"{what} .*: 3 steps .* loss {loss}, accuracy 0\.\d{{4}}", printed)


def test_doctor_lists_every_framework_and_what_to_install() -> None:
    facts = json.loads(run("doctor", "--json"))["frameworks"]
    assert set(facts) == set(backends.NAMES)
    for name, found in facts.items():
        if name in backends.installed():
            assert "cpu" in [device["name"] for device in found["devices"]]
            assert found["modes"] == list(backends.MODES[name])
        else:
            assert f"keras-zoo-parity[{name}]" in found["error"]
    printed = run("doctor")
    assert "cpu" in printed
    for name in backends.NAMES:
        assert re.search(rf"^\s*{name}\s", printed, re.MULTILINE)


def test_doctor_says_how_to_install_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "installed", lambda: ())
    for printed in (run("doctor", "--json"), run("doctor")):
        for name in backends.NAMES:
            assert f"keras-zoo-parity[{name}]" in printed


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["info", "lenet6"], "zoo: UnknownModel: no model 'lenet6'; nearest: lenet"),
        (["train", "mlp", "--task", "digit"], "zoo: UnknownName: no task 'digit'; nearest: digits"),
        (["train", "mlp", "--backend", "pytorch"], "zoo: BackendError: zoo.use: no backend 'pytorch'"),
        (["compare", "resnet5"], "zoo: UnknownModel"),
    ],
)
def test_an_error_is_one_line_on_standard_error_and_status_1(
    words: list[str], said: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "import sys; from zoo.cli import main; main()", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(said)  # a framework may have greeted before
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_status_2() -> None:
    assert CliRunner().invoke(app, ["train"]).exit_code == 2
    assert CliRunner().invoke(app, ["train", "mlp", "--steps", "0"]).exit_code == 2
