"""The command line: what it prints, what it exits with."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from conftest import python, run
from PIL import Image
from typer.testing import CliRunner

import zoo
from zoo import backends, benchmarks, comparison, ladder, training
from zoo.cli import app
from zoo.cli.groups import GROUPS

pytestmark = pytest.mark.once

DOCS = Path(__file__).parents[1] / "docs" / "cli.md"
START = "from zoo.cli import main; main()"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are saved in the folder a command runs in."""
    monkeypatch.chdir(tmp_path)


def start(*words: str, code: str = START, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return started("-c", code, *words, **environment)


def started(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """What this interpreter does with these words."""
    command = [sys.executable, *words]
    return subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )


def test_list_shows_every_model_with_its_exact_count() -> None:
    printed = run("list")
    for name in zoo.list_models():
        assert re.search(rf"^\s*{name}\s+{zoo.card(name).parameters:,}\s", printed, re.MULTILINE)


def test_the_package_is_its_command_too() -> None:
    done = started("-m", "zoo", "list", "lenet5", "--json")
    assert [row["name"] for row in json.loads(done.stdout)] == ["lenet5"]


def test_list_takes_a_pattern() -> None:
    printed = run("list", "lenet*")
    assert "lenet5-1998" in printed
    assert "mlp" not in printed
    assert "lenet = lenet5" in printed


@pytest.mark.parametrize("columns", ["40", "60", "80"])
def test_a_narrow_list_keeps_names_whole_under_their_families(columns: str) -> None:
    printed = CliRunner().invoke(app, ["list"], env={"COLUMNS": columns}).stdout.splitlines()
    rows = [line.split()[:2] for line in printed if line.startswith("  ")]
    assert rows[1:] == [[name, f"{zoo.card(name).parameters:,}"] for name in zoo.list_models()]
    family = ""
    for line in printed:
        if heading := re.match(r"(\w+) \(\d{4}\): ", line):
            family = heading[1]
        elif (name := line.strip().split(" ")[0]) in zoo.list_models() and line.startswith("  "):
            assert zoo.card(name).file.stem == family
    ends = " ".join(printed).partition("Names of families: ")[2]
    assert set(ends.split(", ")) == {f"{k} = {v}" for k, v in zoo.registry.families().items()}
    assert all(line.count("=") <= line.count(" = ") for line in printed)


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
    loss = f"{np.mean(zoo.train('mlp', steps=3).losses):.4f}"
    what = f"mlp on digits, {backends.current().NAME} native"
    held_out = r"held out: accuracy 0\.\d{4}, loss \d+\.\d{4}"
    assert re.search(rf"{what} .*: 3 steps .* train loss {loss} · {held_out}\n", printed)


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
        (["train", "mlp", "--backend", "theano"], "zoo: BackendError: zoo.use: no backend 'theano'"),
        (["compare", "resnet5"], "zoo: UnknownModel"),
        (["list", "lenets"], 'zoo: UnknownModel: no model matches "lenets"; nearest: lenet5'),
    ],
)
def test_an_error_is_one_line_on_standard_error_and_status_2(
    words: list[str], said: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", "import sys; from zoo.cli import main; main()", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(said)  # a framework may have greeted before
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


EARLY = """
import sys
from typer.testing import CliRunner
from zoo.cli import app
from zoo.cli.groups import GROUPS
for words in {lines!r}:
    done = CliRunner().invoke(app, words.split())
    loaded = {{"keras", "torch", "tensorflow", "jax"}} & set(sys.modules)
    print(done.exit_code != 0, type(done.exception).__name__, *loaded)
"""


def test_errors_that_need_no_framework_come_before_its_import(tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "x.png")
    (tmp_path / "bad.png").write_text("no image")
    expected = {
        "train lenet6": "UnknownModel",
        "train mlp no-such-task": "UnknownName",
        "train mlp digits --task digits": "WrongConfiguration",
        "train mlp --engine x": "UnknownName",
        "train mlp --mode x": "BackendError",
        "train mlp --augment Foo": "UnknownName",
        "train mlp --resume missing": "WrongConfiguration",
        "train mlp --resume x.png": "WrongConfiguration",
        "train mlp --weights missing.safetensors": "DataUnavailable",
        "train mlp --weights words": "UnknownName",
        "train mlp --checkpoint nofolder/x": "WrongConfiguration",
        "train mlp --out x.png": "WrongConfiguration",
        "train mlp --out y --no-save": "WrongConfiguration",
        "train mlp --tokenizer nope": "WrongConfiguration",
        "train mlp --backend theano": "BackendError",
        "train mlp --steps 0": "SystemExit",
        "predict resnet18 nofile.jpg": "DataUnavailable",
        "predict resnet18 bad.png": "DataUnavailable",
        "predict resnet18 x.png --weights missing.safetensors": "DataUnavailable",
        "predict resnet18 x.png --labels missing": "DataUnavailable",
        "predict runs/none x.png": "DataUnavailable",
        "predict --run runs/none x.png": "DataUnavailable",
        "predict resnet18": "WrongConfiguration",
        "predict": "WrongConfiguration",
        "generate mlp x": "WrongConfiguration",
        "generate gpt-nano x --weights missing.safetensors": "DataUnavailable",
        "generate gpt-nano x --task nosuch": "UnknownName",
        "generate gpt-nano": "WrongConfiguration",
        "evaluate lenet5": "WrongConfiguration",
        "evaluate lenet5 nosuch --weights digits": "UnknownName",
        "evaluate lenet5 --weights digits --split x": "UnknownName",
        "export lenet5 --out x.foo": "WrongConfiguration",
        "export lenet5 --out x.npz --layout foo": "UnknownName",
        "export lenet5": "WrongConfiguration",
        "show lenet5 nofile.png": "DataUnavailable",
        "show lenet5 x.png --what foo": "UnknownName",
        "show lenet5 x.png --what feature-maps": "WrongConfiguration",
    }
    printed = python(EARLY.format(lines=list(expected)), first="").splitlines()
    assert dict(zip(expected, printed, strict=True)) == {k: f"True {name}" for k, name in expected.items()}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.png", "x.png"]


@pytest.mark.parametrize("name", ["pt", "pytorch", "PyTorch", "torch"])
def test_frameworks_go_by_the_names_people_give_them(name: str) -> None:
    assert backends.checked(name, "test") == "torch"
    if "tensorflow" in backends.installed():
        assert backends.checked("tf", "test") == backends.checked("TF", "test") == "tensorflow"


def test_the_variable_of_the_environment_takes_them_too() -> None:
    """Keras reads it as well, and knows none of them."""
    code = "from zoo._lazy import keras; print(keras.backend.backend())"
    assert python(code, KERAS_BACKEND="pt").splitlines()[-1] == "torch"


@pytest.mark.parametrize("flag", ["--version", "-V"])
def test_the_version_is_printed(flag: str) -> None:
    assert run(flag) == f"zoo {zoo.__version__}\n"


def test_help_is_short_for_h_and_names_what_options_take() -> None:
    for command in ("train", "predict", "evaluate", "generate", "show", "export", "compare", "parity"):
        short, long = (CliRunner().invoke(app, [command, flag]).stdout for flag in ("-h", "--help"))
        assert short == long
        taken = dict(re.findall(r"(--[a-z-]+) ([A-Z|]+)\b", short))
        assert {taken[name] for name in ("--out", "--resume", "--run") if name in taken} <= {"PATH"}
        assert {taken[name] for name in ("--steps", "--seed", "--top") if name in taken} <= {"INT"}
        assert [name for name, value in taken.items() if value == "TEXT"] in (
            [],
            ["--augment"],
            ["--stop"],
            ["--tta"],
        )
        assert not re.search(r"--[a-z-]+ <", short)


def test_the_help_of_train_shows_each_option_once_in_a_group() -> None:
    command: Any = typer.main.get_command(app)
    options = {p.name for p in command.commands["train"].params if p.param_type_name == "option"}
    listed = [name for names in GROUPS.values() for name in names]
    assert sorted(listed) == sorted({*options, "help"})
    shown = CliRunner().invoke(app, ["train", "-h"]).stdout
    assert re.findall(r"^([A-Z].*):$", shown, re.MULTILINE) == ["Arguments", *GROUPS]


def test_info_says_what_the_recipe_decides() -> None:
    shown = " ".join(run("info", "bert-tiny").split())
    assert "AdamW(learning_rate=0.001, weight_decay=0.01), linear decay after a warmup of 10%" in shown
    assert "10 epochs, batches of 32" in shown


def test_wrong_usage_is_status_2() -> None:
    assert CliRunner().invoke(app, ["train"]).exit_code == 2
    assert CliRunner().invoke(app, ["train", "mlp", "--steps", "0"]).exit_code == 2


def test_an_unforeseen_error_is_status_2_for_1_says_that_something_was_found() -> None:
    done = start("list", code=f"from zoo import registry; registry.list_models = None; {START}")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("TypeError: ")


# What scripts read


def paths(value: Any, path: str = "") -> Iterator[str]:
    """Where the values of a JSON document are: a dot goes into an object, or into each of a list."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from paths(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for part in value:
            yield from paths(part, path)
    else:
        yield path


def documented(*commands: str) -> set[str]:
    """The keys that docs/cli.md tells of these commands."""
    text = DOCS.read_text(encoding="utf-8")
    rows = "".join(text.split(f"### `zoo {command} --json`")[1].split("\n#")[0] for command in commands)
    firsts = re.findall(r"^\| (`.*?) \|", rows, re.MULTILINE)
    return {key for first in firsts for key in re.findall(r"`(\S+)`", first)}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list"], ["list"]),
        (["info", "vit-ti16"], ["list", "info"]),
        (["train", "mlp", "--steps", "2"], ["train"]),
        (["lr", "lenet5", "--steps", "60"], ["lr"]),
        (["predict", "lenet5", "digit.png", "--small"], ["predict"]),
        (["doctor"], ["doctor"]),
    ],
    ids=["list", "info", "train", "lr", "predict", "doctor"],
)
def test_json_has_the_documented_keys_and_is_all_there_is(
    words: list[str], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("L", (32, 32)).save("digit.png")
    if words == ["doctor"]:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", "2")
    done = CliRunner().invoke(app, [*words, "--json"])
    found, known = set(paths(json.loads(done.stdout))), documented(*told)
    if words == ["doctor"]:
        known -= {"workers", "workers.error"}
    if words == ["doctor"] and len(backends.installed()) == len(backends.NAMES):
        known.remove("frameworks.*.error")
    assert [path for path in found if not any(fnmatch(path, key) for key in known)] == []
    assert [key for key in known if not any(fnmatch(path, key) for path in found)] == []


Result = tuple[Any, Any]
RUN = {"model": "mlp", "backend": "jax", "engine": "native", "mode": "jit"}
ROW = {
    "model": "mlp",
    "dtype": "float32",
    "rung": 2,
    "a": "jax",
    "b": "torch",
    "measured": 1.0,
    "error": None,
}
LAPS = {
    "model": "mlp",
    "what": "train",
    "backend": "jax",
    "contestant": "zoo jit",
    "threads": 1,
    "batch_size": 1,
}


def found(kind: str, amiss: bool) -> Result:
    """A result of compare, parity or bench, and where it comes from; `amiss`, with something to tell."""
    error = "OSError: x" if amiss else None
    if kind == "compare":
        losses = {"losses": [math.nan], "first_step_s": 1.0, "peak_mb": 1.0, "metrics": {}, "error": error}
        return comparison, comparison.Comparison(models=[], runs=[{**RUN, **losses}], differences=[])
    if kind == "parity":
        row = {**ROW, "name": "forward", "verdict": "fails" if amiss else "holds", "where": {}, "bound": 1e-5}
        return ladder, ladder.Parity(models=["mlp"], rungs=[], rows=[row])
    laps = {"step_ms": 1.0, "step_ms_quartiles": [1.0, 1.0], "compile_s": 0.0, "ratio": None, "peak_mb": 1.0}
    return benchmarks, [{**LAPS, **laps, "loss": None, "error": error}]


@pytest.mark.parametrize("kind", ["compare", "parity", "bench"])
@pytest.mark.parametrize("amiss", [False, True])
def test_what_is_amiss_is_status_1_and_quiet_is_without_progress(
    kind: str, amiss: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, result = found(kind, amiss)
    shown: list[Any] = []

    def work(*_: str, show: Any, report: Any = None, **_how: Any) -> Result:
        shown.append(show)
        if report is not None:
            report(result)
        return result

    monkeypatch.setattr(place, kind, work)
    done = CliRunner().invoke(app, [kind, "mlp", "--json"])
    assert done.exit_code == amiss
    as_saved = [{**RUN, "losses": [None]}] if kind == "compare" else result
    printed = json.loads(done.stdout)
    assert printed["runs"][0].items() >= as_saved[0].items() if kind == "compare" else printed == as_saved
    quiet = CliRunner().invoke(app, [kind, "mlp", "--quiet"])
    assert quiet.exit_code == amiss
    assert quiet.stderr == ""
    assert quiet.stdout != ""
    assert shown[0] is not None
    assert shown[1] is None


def test_colours_are_forced_and_left_out_as_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    colour = "\x1b[1;31m"  # bold red: what is beyond its bound
    place, result = found("parity", True)
    monkeypatch.setattr(place, "parity", lambda *models, **how: result)
    plain, forced, both = (
        CliRunner().invoke(app, ["parity", "mlp"], env={"NO_COLOR": None, "FORCE_COLOR": None, **colours})
        for colours in ({}, {"FORCE_COLOR": "1"}, {"FORCE_COLOR": "1", "NO_COLOR": "1"})
    )
    assert "\x1b[" not in plain.stdout
    assert colour in forced.stdout
    assert not re.search(r"\x1b\[[\d;]*\b(3|9)[0-7]m", both.stdout)


def test_ctrl_c_ends_training_after_the_step_with_its_result_and_status_130(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train = training.train

    def interrupted(*models: Any, **how: Any) -> training.Run:
        return train(*models, **how, watch=lambda step, loss: signal.raise_signal(signal.SIGINT))

    monkeypatch.setattr(training, "train", interrupted)
    done = CliRunner().invoke(app, ["train", "mlp", "--steps", "3", "--json"])
    assert done.exit_code == 130
    facts = json.loads(done.stdout)
    assert (facts["steps"], facts["interrupted"]) == (1, True)


def test_quiet_training_prints_its_result_alone() -> None:
    words = ["train", "vit-ti16", "--task", "digits", "--steps", "1"]
    loud, quiet = CliRunner().invoke(app, words), CliRunner().invoke(app, [*words, "--quiet"])
    assert "vit-ti16 for digits: " in loud.stderr
    assert quiet.stderr == ""
    for done in (loud, quiet):
        result, saved = done.stdout.splitlines()
        assert result.startswith("vit-ti16 on digits")
        assert saved.startswith("Saved in runs/vit-ti16-")


# The shell


@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("zoo info lenet5-", ["lenet5-1998"]),
        ("zoo compare mlp len", ["lenet", "lenet5", "lenet5-1998"]),
        ("zoo train mlp --task dig", ["digits"]),
        ("zoo train mlp --backend ", list(backends.NAMES)),
        ("zoo compare mlp --backends jax,t", ["jax,torch", "jax,tensorflow"]),
        (
            "zoo compare mlp --modes eager,",
            [f"eager,{m}" for m in ("traced", "compiled", "graph", "xla", "jit")],
        ),
    ],
)
def test_a_shell_completes_names_without_a_framework(line: str, completed: list[str]) -> None:
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {START}"
    words = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = start(code=code, _ZOO_COMPLETE="complete_bash", **words)
    assert done.stdout.split() == completed
    assert not {"keras", "torch", "tensorflow", "jax"} & set(done.stderr.split())


def test_help_tells_the_statuses_and_loads_neither_numpy_nor_rich() -> None:
    code = f"import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {START}"
    done = start("--help", code=code)
    assert re.findall(r"^ +(\d+) +\w", done.stdout, re.MULTILINE) == ["0", "1", "2", "130", "141"]
    assert not {"keras", "torch", "tensorflow", "jax", "numpy", "rich"} & set(done.stderr.split())
