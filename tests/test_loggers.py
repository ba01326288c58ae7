"""Loggers. Witness: each package's own reader of what was written."""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import zoo
from zoo.cli import app
from zoo.training.loggers import LOGGERS

STEPS = 30  # 23 an epoch


def installed(package: str) -> Any:
    return pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed")


def train(**options: Any) -> zoo.Run:
    return zoo.train("mlp", "digits", steps=STEPS, progress=False, **options)


def read_events(folder: Path) -> Any:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return events


def check(run: zoo.Run, by_tag: dict[str, list[tuple[int, float]]], rel: float) -> None:
    """Whether the scalars by tag, as (step, value), are the run's."""
    expected = {
        "loss": list(enumerate(run.losses, 1)),
        "train/loss": [(step, e["train_loss"]) for step, e in zip((23, 30), run.history, strict=True)],
        "learning_rate": [(step, e["learning_rate"]) for step, e in zip((23, 30), run.history, strict=True)],
        "val/accuracy": [(step, e["accuracy"]) for step, e in zip((23, 30), run.history, strict=True)],
        "val/loss": [(step, e["loss"]) for step, e in zip((23, 30), run.history, strict=True)],
    }
    assert by_tag.keys() == {*expected, "seconds"}
    for tag, values in expected.items():
        np.testing.assert_allclose(by_tag[tag], values, rtol=rel, err_msg=tag)


@installed("tensorboard")
@pytest.mark.parametrize("engine", zoo.training.ENGINES)
def test_tensorboard_reads_its_event_file(engine: str, tmp_path: Path) -> None:
    run = train(engine=engine, callbacks=[zoo.TensorBoard(tmp_path / "runs")])
    (folder,) = (tmp_path / "runs").iterdir()
    events = read_events(folder)
    by_tag = {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    check(run, by_tag, rel=1e-6)  # float32
    data = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    config = HParamsPluginData.FromString(data).session_start_info.hparams
    assert config["optimizer"].string_value == "AdamW"
    assert config["batch_size"].number_value == run.batch_size


@installed("tensorboard")
def test_an_event_file_is_in_the_folder_of_its_run(tmp_path: Path) -> None:
    options = ["--steps", "2", "--out", str(tmp_path / "mine"), "--log", f"tensorboard:{tmp_path}", "--quiet"]
    done = CliRunner().invoke(app, ["train", "mlp", *options])
    assert done.exit_code == 0, done.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert len(read_events(tmp_path / "mine").Scalars("loss")) == 2


@pytest.mark.once
@installed("tensorboard")
def test_tensorboard_imports_no_tensorflow(tmp_path: Path) -> None:
    code = """
import sys, zoo
run = zoo.train("mlp", "digits", steps=2, progress=False, callbacks=[zoo.TensorBoard(sys.argv[1])])
print("tensorflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False", done.stderr


def leveldb_log(data: bytes) -> Iterator[bytes]:
    """The records of a log in LevelDB's format: blocks of 32 KiB, in which each part has a header of 7 bytes.

    The file's own header, which is a part of the first block, has 7 bytes too.
    """
    position, record = 7, b""
    data = bytes(7) + data
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, position + 4)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last; 2 and 3 are the first and the middle ones
            yield record
            record = b""


@installed("wandb")
def test_weights_and_biases_reads_its_offline_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    run = train(callbacks=[zoo.WandB("digits")])
    (file,) = tmp_path.rglob("*.wandb")
    by_tag: dict[str, list[tuple[int, float]]] = {}
    config: dict[str, str] = {}
    deadline = time.monotonic() + 60
    while True:  # W&B's service may still be writing
        records = [Record.FromString(data) for data in leveldb_log(file.read_bytes()[7:])]
        if records and records[-1].WhichOneof("record_type") == "exit":
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)
    for record in records:
        for item in record.run.config.update:
            config[item.key] = item.value_json
        for item in record.history.item:
            name = item.key or ".".join(item.nested_key)
            by_tag.setdefault(name, []).append((record.history.step.num, float(item.value_json)))
    check(run, {name: values for name, values in by_tag.items() if not name.startswith("_")}, rel=1e-12)
    assert config["optimizer"] == '"AdamW"'


@installed("mlflow")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # MLflow's use of SQLAlchemy
def test_mlflow_reads_its_database(tmp_path: Path) -> None:
    pytest.importorskip("sqlalchemy")
    from mlflow import MlflowClient

    path = tmp_path / "mlflow.db"
    run = train(callbacks=[zoo.MLflow(path)])
    client = MlflowClient(f"sqlite:///{path}")
    experiment = client.get_experiment_by_name("zoo")
    (theirs,) = client.search_runs([experiment.experiment_id])
    assert theirs.info.status == "FINISHED"
    assert theirs.data.params["optimizer"] == "AdamW"
    history = {tag: client.get_metric_history(theirs.info.run_id, tag) for tag in theirs.data.metrics}
    check(run, {tag: [(m.step, m.value) for m in found] for tag, found in history.items()}, rel=1e-12)


@installed("trackio")
def test_trackio_reads_its_project(tmp_path: Path) -> None:
    """In a process of its own, because the folder is read when the package is imported."""
    code = """
import json, sys, zoo
run = zoo.train("mlp", "digits", steps=30, progress=False, callbacks=[zoo.Trackio("digits")])
from trackio.sqlite_storage import SQLiteStorage
logs = SQLiteStorage.get_logs("digits", "mlp")
print(json.dumps([run.losses, run.history, logs]))
"""
    environment = {**os.environ, "TRACKIO_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    losses, history, logs = json.loads(done.stdout.splitlines()[0])
    by_tag: dict[str, list[tuple[int, float]]] = {}
    for row in logs:
        for name, value in row.items():
            if name not in ("step", "timestamp") and not name.startswith("system/"):
                by_tag.setdefault(name, []).append((row["step"], value))
    run: Any = SimpleNamespace(losses=losses, history=history)
    check(run, by_tag, rel=1e-12)


@pytest.mark.once
@pytest.mark.parametrize("kind", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_missing_package_is_named_with_its_extra(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.training.loggers.find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["train", "mlp", "--no-save", "--log", f"{kind}:x"])
    assert isinstance(done.exception, zoo.ZooError)
    assert f'{kind} is not installed. To install it: pip install "keras-zoo-parity[{kind}]"' in str(
        done.exception
    )


@pytest.mark.once
@pytest.mark.parametrize("kind", LOGGERS)
def test_a_log_without_its_path_shows_an_example(kind: str) -> None:
    done = CliRunner().invoke(app, ["train", "mlp", "--no-save", "--log", kind])
    assert isinstance(done.exception, zoo.WrongConfiguration)
    assert f"as in {kind}:{LOGGERS[kind].EXAMPLE}" in str(done.exception)


@pytest.mark.once
def test_losses_are_written_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    logger: Any = zoo.MLflow.__new__(zoo.MLflow)
    logger.pending = []
    monkeypatch.setattr(logger, "write", lambda rows: sizes.append(len(rows)), raising=False)
    for step in range(1, 2_500):
        logger.on_step(step, np.float32(0))
    assert sizes == [1_000, 1_000]


@pytest.mark.parametrize("kind", [zoo.CSVLogger, zoo.JSONLinesLogger])
def test_the_log_of_a_resumed_run_has_every_epoch_once(kind: Any, tmp_path: Path) -> None:
    """It was cut within the third epoch, which it had logged; a file that is no log is refused."""
    log, other, path = tmp_path / "log", tmp_path / "other", tmp_path / "run.safetensors"
    data = np.zeros((24, 8, 8, 1), np.float32), np.arange(24, dtype=np.int32) % 10

    def run(log: Path, steps: int, **options: Any) -> None:
        model = zoo.build("mlp", shape=(8, 8, 1), widths=(8,))
        zoo.train(model, data, steps=steps, callbacks=[kind(log)], progress=False, **options)

    run(log, 8, batch_size=8, checkpoint=path)
    run(log, 12, resume=path)
    rows = [(int(row["epoch"]), int(row["step"])) for row in kind(log).parse(log.read_text())]
    assert rows == [(1, 3), (2, 6), (3, 9), (4, 12)]
    other.write_text("1,2\n3,4\n")
    with pytest.raises(zoo.WrongConfiguration, match="other is no log to continue"):
        run(other, 13, resume=path)
