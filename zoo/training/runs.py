"""Training runs on disk: a folder, or a checkpoint file, from which a model is used as it was trained.

    runs/resnet18-2026-11-30/
        checkpoint.safetensors    weights, optimizer state and facts: `zoo.train(resume=...)` takes it
        run.json                  the same facts, for people to read
        run.html                  curves, and of a classifier what it confuses, see `zoo.training.page`
        tokenizer.json            where texts are tokens of one
        checkpoint-best.safetensors  the best epoch's, of `keep_best`
        model.safetensors         weights to predict with, where they are not those of the last step: averaged
                                  ones, or the best epoch's

    run = zoo.load_run("runs/resnet18-2026-11-30")
    zoo.predict(run, "cat.jpg")
    zoo.evaluate(run, "more-photos/")

A run saved on one framework is used on any other.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo import lora, registry, storage, tokenizers, weights
from zoo._lazy import keras
from zoo.errors import DataUnavailable, WrongConfiguration, shortlist
from zoo.preprocessing import Preprocessing, plain
from zoo.random import Initializer
from zoo.tasks import TASKS, Task, folders, sequences
from zoo.tokenizers import Tokenizer
from zoo.training.checkpoints import FILE as CHECKPOINT
from zoo.training.checkpoints import Checkpoint, State, contents, write_contents
from zoo.training.checkpoints import facts as read_facts
from zoo.training.run import Run

FACTS, FINAL, TOKENIZER = "run.json", "model.safetensors", "tokenizer.json"

# What a run learned from, which decides what can be done with it.
IMAGES, TEXTS, CORPUS, PAIRS, RECORDINGS, ARRAYS = (
    "images", "texts", "corpus", "pairs", "recordings", "arrays",
)  # fmt: skip


@dataclass(frozen=True)
class SavedRun:
    """A trained model with its facts; `model` is built, and its weights loaded, when it is first used."""

    path: Path | None  # the folder or the file; None for a run of this process
    facts: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The model's name."""
        return self.facts["model"]

    @property
    def kind(self) -> str:
        """What it learned from: "images", "texts", "corpus", "pairs", "recordings" or "arrays"."""
        return self.facts["kind"]

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in the order of the outputs; empty where they have none."""
        return tuple(self.facts["classes"])

    @property
    def metrics(self) -> dict[str, float]:
        """On the held-out examples, at the end."""
        return dict(self.facts["metrics"])

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How its images were prepared; None where it saw none, or arrays of unknown origin."""
        saved = self.facts["preprocessing"]
        return saved and Preprocessing(**{name: _tuples(value) for name, value in saved.items()})

    @cached_property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer of its texts; None for bytes, or where it saw no texts.

        Raises WrongConfiguration for one that is none of `zoo.tokenizers`, which is not saved.
        """
        saved = self.facts["tokenizer"]
        if saved and saved["content"] is None:
            raise WrongConfiguration(f"{self}: its tokenizer {saved['name']!r} is not saved; give tokenizer=")
        return saved and tokenizers.read(saved["content"], saved["name"])

    @cached_property
    def model(self) -> keras.Model:
        """The model with its weights, on the framework that runs.

        Raises what `zoo.build` and `zoo.weights.load` raise.
        """
        if self.facts["arguments"] is None:
            raise WrongConfiguration(
                f"{self}: {self.name} was not built by zoo.build, or takes functions, which are not saved; "
                "build it, and give it to zoo.load_run(path, model)"
            )
        arguments = {name: _tuples(value) for name, value in self.facts["arguments"].items()}
        return self.into(registry.build(self.name, dtype=self.facts["dtype"], **arguments))

    def into(self, model: keras.Model) -> keras.Model:
        """Load the weights into a model built as this one was. Raises WeightsMismatch."""
        assert self.path is not None
        if self.facts.get("lora"):
            lora.restore(model, self.facts["lora"])
        weights.load(model, _weights_of(self.path), head="require")
        attach(model, self)
        return model

    def check_labels(self, names: list[str], source: str) -> None:
        """Raise WrongConfiguration unless these are the names of the classes, in their order."""
        if self.classes and tuple(names) != self.classes:
            reordered = ", in another order" if sorted(names) == sorted(self.classes) else ""
            raise WrongConfiguration(
                f"{source}: {_listed(names)}; {self} was trained on {_listed(self.classes)}{reordered}. "
                "Leave labels out: the run has its own"
            )

    def __str__(self) -> str:
        return self.name if self.path is None else str(self.path)


def load_run(path: str | Path, model: keras.Model | None = None) -> SavedRun:
    """A run by its folder, or by its checkpoint file, saved on whichever framework.

    `model` is one of your own, built as the run's was, to load the weights into; models of the zoo are built
    when `run.model` is first used. Raises DataUnavailable where no run is, WrongConfiguration for a
    checkpoint without the facts of a run, and for `model` WeightsMismatch.
    """
    path = Path(path)
    file = path / CHECKPOINT if storage.is_dir(path) else path
    if not storage.is_file(file):
        inside = f"no {CHECKPOINT} in it" if storage.is_dir(path) else "no such file or folder"
        raise DataUnavailable(f"{path}: no run there, {inside}; `zoo train` saves runs in runs/")
    facts = read_facts(file)
    if "run" not in facts:
        raise WrongConfiguration(
            f"{path}: a checkpoint of an earlier zoo, without the facts of its run; build the model, and "
            "load it by zoo.weights.load"
        )
    run = SavedRun(path, facts["run"])
    if path.is_dir() and (path / FINAL).is_file():  # whose metrics are not the last step's
        run = replace(run, facts={**run.facts, "metrics": _metrics(path / FACTS, run.metrics)})
    if model is not None:
        run.__dict__["model"] = run.into(model)
    return run


def find(model: Any) -> SavedRun | None:
    """The run that is meant: by itself, as `zoo.train` returned it, by its path, or by its model.

    None for the name of a model, and for a model of unknown origin. Raises what `load_run` raises.
    """
    if isinstance(model, SavedRun):
        return model
    if isinstance(model, str | Path):
        return load_run(model) if is_run(model) else None
    return run_of(model.model if isinstance(model, Run) else model)


def is_run(name: str | Path) -> bool:
    """Whether a run's path is meant, and not a model's name."""
    if isinstance(name, str) and registry.is_name(name):
        return False
    return isinstance(name, Path) or os.sep in name or name.endswith(".safetensors") or storage.is_dir(name)


def model_of(model: Any) -> keras.Model:
    """The model itself, for a run in any of the forms that `find` takes; anything else as it is."""
    if isinstance(model, Run):
        return model.model
    run = find(model) if isinstance(model, SavedRun | str | Path) else None
    return model if run is None else run.model


def run_of(model: Any) -> SavedRun | None:
    """The run a model was trained by or loaded from, if it has one."""
    return getattr(model, "_zoo_run", None)


def attach(model: keras.Model, run: SavedRun) -> None:
    """From here on `run_of` finds the run by its model."""
    object.__setattr__(model, "_zoo_run", run)  # not as a layer of it


# Saving


def facts_of(run: Run) -> dict[str, Any]:
    """What is saved of a run beside its weights: all that is needed to build and to use the model."""
    from zoo._version import __version__

    task, code = run.task, run.task.tokenizer
    return {
        "zoo": __version__,
        "model": run.model.name,
        "arguments": arguments(run.model),
        "dtype": run.model.dtype_policy.name,
        "task": task.name,
        "source": task.source,
        "kind": kind_of(task),
        "classes": list(task.names),
        "preprocessing": (found := preprocessing_of(task)) and asdict(found),
        "sample_rate": getattr(_first(task), "rate", None),
        "tokenizer": code and {"name": code.name, "content": getattr(code, "content", None)},
        "recipe": run.recipe,
        "lora": lora.facts_of(run.model),
        "metrics": run.metrics,
        **({} if run.best is None else {"best": run.best}),
        **({"left_out": list(run.left_out)} if run.left_out else {}),
    }


def kind_of(task: Task) -> str:
    """What a task's examples are, one of the words of `SavedRun.kind`."""
    x, y = task.train
    if preprocessing_of(task) is not None:
        return IMAGES
    if isinstance(_first(task), sequences.Waves):
        return RECORDINGS
    if isinstance(x, dict) and "decoder_token_ids" in x:
        return PAIRS if isinstance(_first(task), sequences.Sequences) else ARRAYS
    if task.tokens_per_character is not None:
        return CORPUS
    first = _first(task)
    labelled = isinstance(y, np.ndarray) and y.ndim == 1
    texts = labelled and isinstance(first, sequences.Sequences) and first.kinds == ("texts",)
    return TEXTS if texts else ARRAYS


def preprocessing_of(task: Task) -> Preprocessing | None:
    """How a task's images were prepared, if it has any."""
    x = _first(task)
    if isinstance(x, folders.Images):
        return x.preprocessing
    if task.source in TASKS and TASKS[task.source].side is not None:
        return plain(x.shape[1], x.shape[3])  # pixels in [0, 1]
    return None


def write(folder: Path, run: Run) -> None:
    """Write what is to be read beside a run's checkpoint: run.json and tokenizer.json."""
    _write_texts(folder, _texts(run, facts_of(run)))


def _texts(run: Run, facts: dict[str, Any]) -> dict[str, str]:
    """The files to be read beside a run's checkpoint, of the run and its facts."""
    tokenizer = facts["tokenizer"]
    shown = {
        **facts,
        "tokenizer": tokenizer and tokenizer["name"],
        **{name: getattr(run, name) for name in ("backend", "engine", "mode", "exact", "seed", "batch_size")},
        "steps": len(run.losses),
        "history": run.history,
        "interrupted": run.interrupted,
    }
    content = tokenizer and tokenizer["content"]
    return {FACTS: storage.json_text(shown), **({TOKENIZER: content} if content else {})}


def _write_texts(folder: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        storage.write_text(folder / name, text)


def prepare(
    checkpoint: str | Path, folder: Path | None, run: Run, optimizer: Any, state: State = ({}, {})
) -> Callable[[], None]:
    """A copy of a run, to be written by calling it, from any thread.

    It writes the checkpoint, and in a run's folder what is to be read beside it.
    """
    facts = facts_of(run)
    copy = contents(run, optimizer, facts, state)
    texts = {} if folder is None else _texts(run, facts)

    def write_all() -> None:
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        write_contents(checkpoint, copy)
        if folder is not None:
            (folder / FINAL).unlink(missing_ok=True)  # of the run that is resumed
            _write_texts(folder, texts)

    return write_all


def record(run: Run, folder: Path | None, *, changed: bool) -> None:
    """At the end of training: the model knows its facts, and so does the folder.

    `changed` says that the weights are not the checkpoint's any more, but averages or the best epoch's.
    """
    saved = SavedRun(run.saved, facts_of(run))
    saved.__dict__["model"] = run.model
    attach(run.model, saved)
    if folder is not None and (folder / CHECKPOINT).is_file():
        if changed:
            weights.save(run.model, folder / FINAL)
        write(folder, run)


def new_folder(model: str, parent: str | Path = "runs") -> Path:
    """runs/MODEL-DATE, or the first of runs/MODEL-DATE-2, -3, ... that is not there."""
    base = Path(parent) / f"{model}-{date.today().isoformat()}"
    path, number = base, 1
    while path.exists():
        number += 1
        path = base.with_name(f"{base.name}-{number}")
    return path


def check_folder(folder: str | Path, resume: str | Path | None = None) -> Path:
    """Raise WrongConfiguration, before any work, unless a run can be saved there.

    A folder that holds a run already is not written over, unless it is the one that is resumed.
    """
    folder = Path(folder)
    storage.check_folder("out", folder)
    given = None if resume is None else Path(resume).resolve()
    same = given is not None and folder.resolve() in (given, given.parent)
    if (folder / CHECKPOINT).exists() and not same:
        raise WrongConfiguration(f"out={str(folder)!r}: a run is saved there already; give another folder")
    return folder


def check_classes(saved: Checkpoint, task: Task) -> None:
    """Raise WrongConfiguration where a resumed run's classes are not the task's, name by name."""
    names = saved.facts.get("run", {}).get("classes", [])
    if names and task.names and tuple(names) != task.names:
        raise WrongConfiguration(
            f"resume: {saved.path} was trained on {_listed(names)}; {task.name} has {_listed(task.names)}"
        )


def arguments(model: keras.Model) -> dict[str, Any] | None:
    """The arguments of `zoo.build` that built a model; None where they are not known, or not JSON."""
    given = getattr(model, "_zoo_arguments", None)
    if given is None:
        return None
    kept = {name: value for name, value in given.items() if not isinstance(value, Initializer)}
    try:
        return json.loads(json.dumps(kept, default=lambda value: value.item()))  # NumPy's numbers
    except (TypeError, AttributeError):
        return None


def _first(task: Task) -> Any:
    """The first input's examples."""
    x = task.train[0]
    return next(iter(x.values())) if isinstance(x, dict) else x


def _weights_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    return path / FINAL if (path / FINAL).is_file() else path / CHECKPOINT


def _metrics(path: Path, usual: dict[str, float]) -> dict[str, float]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["metrics"]
    except (OSError, ValueError, KeyError):
        return usual


def _tuples(value: Any) -> Any:
    """JSON's lists as the tuples that they were."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _listed(names: Any) -> str:
    return f"{len(names)} classes ({shortlist(names)})"
