"""Loggers: callbacks that write a run's numbers to files, TensorBoard, Weights & Biases, MLflow or Trackio.

zoo.train("lenet5", callbacks=[zoo.CSVLogger("log.csv"), zoo.TensorBoard("runs/")])

A package is imported when its logger is made. `CSVLogger` and `JSONLinesLogger` need none.
"""

from __future__ import annotations

import csv
import io
import json
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo import backends, storage
from zoo.errors import UnknownName, WrongConfiguration, ZooError, nearest
from zoo.training.callbacks import Callback
from zoo.training.engines import number
from zoo.training.run import is_held_out
from zoo.training.runs import new_folder

if TYPE_CHECKING:
    from zoo.training.run import Run

Tensor = Any
Rows = Sequence[tuple[int, str, float]]  # step, name, value


class CSVLogger(Callback):
    """A row per epoch in a CSV file: epoch, step, seconds, train_loss, learning_rate, held-out metrics.

    A run that is resumed keeps the rows of its whole epochs so far. Raises WrongConfiguration, at its start,
    for a file that is no such log.
    """

    EXAMPLE = "log.csv"

    def __init__(self, path: str | Path):
        storage.check_file(type(self).__name__, path)
        self.path, self.rows = Path(path), []

    def on_begin(self, run: Run) -> None:
        if not (run.history and self.path.is_file()):
            return
        try:
            rows = self.parse(self.path.read_text(encoding="utf-8"))
            self.rows = [row for row in rows if int(row["epoch"]) <= len(run.history)]
        except (ValueError, KeyError, TypeError) as error:
            raise WrongConfiguration(
                f"{type(self).__name__}: {self.path} is no log to continue ({error!r}); give another path"
            ) from None

    def on_epoch(self, epoch: int, facts: Mapping[str, float]) -> None:
        self.rows.append({"epoch": epoch, **facts})
        storage.write_text(self.path, self.text(self.rows))

    def text(self, rows: Sequence[Mapping[str, float]]) -> str:
        """The content of the file."""
        text = io.StringIO()
        writer = csv.DictWriter(text, {name: None for row in rows for name in row}, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()

    def parse(self, text: str) -> list[dict[str, Any]]:
        """The rows of such a file."""
        return list(csv.DictReader(io.StringIO(text)))


class JSONLinesLogger(CSVLogger):
    """A JSON object per epoch, one a line, with the fields of `CSVLogger`; NaN and infinity become null."""

    EXAMPLE = "log.jsonl"

    def text(self, rows: Sequence[Mapping[str, float]]) -> str:
        return "".join(json.dumps(storage.finite(dict(row)), allow_nan=False) + "\n" for row in rows)

    def parse(self, text: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in text.splitlines()]


class Logger(Callback):
    """The base class of loggers of scalars by step, counted from 1 over the run.

    "loss" of every step, and after each epoch "train/loss" (the mean of its steps), "learning_rate",
    "seconds", and metrics, "val/accuracy" and "train/accuracy" (`train_metrics`).
    """

    PACKAGE = ""  # and the extra that installs it
    EXAMPLE = ""
    BLOCK = 1_000  # losses that are written at once: MLflow takes no more

    def __init__(self) -> None:
        if find_spec(self.PACKAGE) is None:
            raise ZooError(
                f"{type(self).__name__}: {self.PACKAGE} is not installed. To install it: "
                f'pip install "keras-zoo-parity[{self.PACKAGE}]"'
            )
        self.pending: list[tuple[int, Tensor]] = []  # on the device

    def on_begin(self, run: Run) -> None:
        self.start(run, hyperparameters(run))

    def on_step(self, step: int, loss: Tensor) -> None:
        self.pending.append((step, loss))
        if len(self.pending) == self.BLOCK:
            self._flush()

    def on_epoch(self, epoch: int, facts: Mapping[str, float]) -> None:
        del epoch
        self._flush()
        step = int(facts["step"])
        self.write([(step, _tag(name), value) for name, value in facts.items() if name != "step"])

    def on_end(self, run: Run) -> None:
        del run
        self._flush()
        self.close()

    def _flush(self) -> None:
        if self.pending:
            self.write([(step, "loss", number(loss)) for step, loss in self.pending])
            self.pending.clear()

    def start(self, run: Run, config: Mapping[str, Any]) -> None:
        """Begin to log a run with these hyperparameters."""
        raise NotImplementedError

    def write(self, rows: Rows) -> None:
        """Log scalars; their steps never decrease."""
        raise NotImplementedError

    def close(self) -> None:
        """End the log."""
        raise NotImplementedError


class TensorBoard(Logger):
    """An event file for `tensorboard --logdir FOLDER`, in a new folder in FOLDER, or there in the run's own.

    TensorFlow is not imported. The hyperparameters are those of TensorBoard's HPARAMS page.
    """

    PACKAGE = "tensorboard"
    EXAMPLE = "runs/"

    def __init__(self, folder: str | Path):
        super().__init__()
        storage.check_folder(type(self).__name__, folder)
        self.folder = Path(folder)
        self.writer: Any = None

    def start(self, run: Run, config: Mapping[str, Any]) -> None:
        with backends.tensorboard_stub():
            from tensorboard.plugins.hparams.summary_v2 import hparams_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            path = self._folder_of(run)
            self.writer = EventFileWriter(str(path))
        begin = time.time()
        self._add(0, hparams_pb(dict(config), trial_id=path.name, start_time_secs=begin))

    def _folder_of(self, run: Run) -> Path:
        own = run.saved
        if own is not None and own.suffix != ".safetensors" and own.parent.resolve() == self.folder.resolve():
            return own
        return new_folder(run.model.name, self.folder)

    def _add(self, step: int, summary: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]

        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=summary))

    def write(self, rows: Rows) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]

        for step, name, value in rows:
            self._add(step, Summary(value=[Summary.Value(tag=name, simple_value=value)]))
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB(Logger):
    """A run of Weights & Biases in this project; WANDB_MODE=offline keeps it on this machine."""

    PACKAGE = "wandb"
    EXAMPLE = "PROJECT"

    def __init__(self, project: str):
        super().__init__()
        self.project = project
        self.log: Any = None

    def start(self, run: Run, config: Mapping[str, Any]) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        self.log = wandb.init(project=self.project, name=_name(run), config=dict(config))

    def write(self, rows: Rows) -> None:
        for step, name, value in rows:
            self.log.log({name: value}, step=step)

    def close(self) -> None:
        self.log.finish()


class Trackio(WandB):
    """A run of Trackio in this project, in TRACKIO_DIR on this machine."""

    PACKAGE = "trackio"

    def start(self, run: Run, config: Mapping[str, Any]) -> None:
        import trackio  # pyright: ignore[reportMissingImports]

        with redirect_stdout(sys.stderr):
            self.log = trackio.init(project=self.project, name=_name(run), config=dict(config), embed=False)

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self.log.finish()


class MLflow(Logger):
    """A run of MLflow in an experiment, at a tracking URI or in an SQLite file, "mlflow.db"."""

    PACKAGE = "mlflow"
    EXAMPLE = "mlflow.db"

    def __init__(self, uri: str | Path = "mlflow.db", experiment: str = "zoo"):
        super().__init__()
        if "://" not in str(uri):
            storage.check_file(type(self).__name__, uri)
            uri = f"sqlite:///{uri}"
        self.uri, self.experiment = str(uri), experiment
        self.client: Any = None
        self.id = ""

    def start(self, run: Run, config: Mapping[str, Any]) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]
        from mlflow.entities import Param  # pyright: ignore[reportMissingImports]

        self.client = MlflowClient(tracking_uri=self.uri)
        found = self.client.get_experiment_by_name(self.experiment)
        experiment = self.client.create_experiment(self.experiment) if found is None else found.experiment_id
        self.id = self.client.create_run(experiment, run_name=_name(run)).info.run_id
        self.client.log_batch(self.id, params=[Param(name, str(value)) for name, value in config.items()])

    def write(self, rows: Rows) -> None:
        from mlflow.entities import Metric  # pyright: ignore[reportMissingImports]

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, step) for step, name, value in rows]
        self.client.log_batch(self.id, metrics=metrics)

    def close(self) -> None:
        self.client.set_terminated(self.id)


def hyperparameters(run: Run) -> dict[str, Any]:
    """What a run was started with, by name."""
    names = ("backend", "engine", "mode", "batch_size", "seed", "freeze")
    return {
        "model": run.model.name,
        "task": run.task.name,
        **{name: getattr(run, name) for name in names},
        **run.settings,
    }


def _name(run: Run) -> str:
    """Of a run among those of a project: its folder's or file's, else the model's."""
    return run.model.name if run.saved is None else run.saved.stem


def _tag(name: str) -> str:
    """ "train/loss" of "train_loss", "val/accuracy" of a held-out metric."""
    if name in ("seconds", "learning_rate"):
        return name
    return f"val/{name}" if is_held_out(name) else name.replace("_", "/", 1)


LOGGERS: dict[str, Any] = {
    "csv": CSVLogger,
    "jsonl": JSONLinesLogger,
    "tensorboard": TensorBoard,
    "wandb": WandB,
    "mlflow": MLflow,
    "trackio": Trackio,
}


def logger(text: str) -> Callback:
    """The logger of a text, "csv:log.csv" or "tensorboard:runs/".

    Raises UnknownName or WrongConfiguration, and ZooError for a package that is not installed.
    """
    kind, _, path = text.partition(":")
    if kind not in LOGGERS:
        raise UnknownName(f"log={text!r}; {nearest(kind, LOGGERS)}, as in csv:log.csv")
    if not path:
        what = "a project" if LOGGERS[kind].EXAMPLE == "PROJECT" else "a path"
        raise WrongConfiguration(f"log={text!r}; expected {what}, as in {kind}:{LOGGERS[kind].EXAMPLE}")
    return LOGGERS[kind](path)
