"""Evaluation of a trained model on a task: on the held-out examples of its run, or on other data.

zoo.evaluate("runs/resnet18-2026-11-30")                    the held-out examples of the run
zoo.evaluate("runs/resnet18-2026-11-30", "more-photos/")    a folder of the same classes
zoo.evaluate("lenet5", "digits", weights="digits")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, registry, tasks, tokenizers
from zoo._lazy import keras
from zoo.augment import AugmentSpec
from zoo.checks import integer
from zoo.errors import UnknownName, WrongConfiguration, nearest, shortlist
from zoo.tasks import Pair, Stream, Task, folders, sequences
from zoo.training.averaging import Average, check_images, copies, parse_transforms
from zoo.training.checks import check_fit, check_streams
from zoo.training.classification import Classification, classify, is_classification
from zoo.training.engines import Predictor
from zoo.training.functional import as_functional, input_shapes, named
from zoo.training.metrics import measure
from zoo.training.objectives import Objective
from zoo.training.plan import plan_model
from zoo.training.run import Run
from zoo.training.runs import SavedRun, find
from zoo.weights import load

SPLITS = ("held-out", "train", "all")


def evaluate(
    model: str | Path | keras.Model | SavedRun | Run,
    task: Any = None,
    *,
    weights: str | Path | None = None,
    split: str | None = None,
    batch_size: int = 64,
    tokenizer: Any = None,
    errors: str = "stop",
    tta: AugmentSpec | None = None,
) -> dict[str, Any]:
    """The task's metric and loss, by name, with the number of "examples" and the "split" they are from.

    `model` is a run, or its path (`zoo.load_run`); a model; or a name, with `weights` as for
    `zoo.weights.load`. `task` is what `zoo.train` takes, by default the run's own. For a task with held-out
    examples, and a folder with splits of its own, the held-out ones are used; for arrays and other folders or
    files, all. `split` is "held-out", "train" or "all". The classes of a folder or file are matched by name
    with the run's, in any order, and may be fewer. Texts are tokenized as in the run. `errors` is that of
    `zoo.train`. `tta`: transforms of images, "HorizontalFlip", by whose copies predictions are averaged.

    Raises UnknownName, WrongConfiguration, also for classes that are not in the run, and DataUnavailable;
    then the errors of `zoo.build` and `zoo.weights.load`.
    """
    transforms = () if tta is None else parse_transforms(tta)
    subject = prepare(model, task, weights, split, batch_size, tokenizer, errors)
    predictor, batches = subject.predictor, subject.batches()
    if transforms:
        check_images(subject.task)
        by_part = (copies(subject.task, part, subject.batch_size, transforms) for part in subject.parts)
        predictor, batches = Average(predictor, subject.task.loss), chain.from_iterable(by_part)
    examples = 0

    def counted() -> Iterator[Pair]:
        nonlocal examples
        for x, y in batches:
            examples += len(y)
            yield x, y

    measured = measure(predictor, subject.task, counted())
    return {**measured, "examples": examples, "split": subject.split}


def classification(model: Any, task: Any = None, *, split: str | None = None) -> Classification:
    """The predictions of a classifier, by default on held-out examples; arguments as of `evaluate`.

    Raises the errors of `evaluate`, and WrongConfiguration for a task whose examples do not have one class.
    """
    if isinstance(model, Run) and task is None and split is None:
        engine, data, batches = model.trainer, model.task, model.task.held_out(512)
    else:
        subject = prepare(model, task, split=split)
        engine, data, batches = subject.predictor, subject.task, subject.batches()
    if not is_classification(data):
        raise WrongConfiguration(f"{data.name}: expected a classification, with one class for each example")
    return classify(engine, data, batches)


@dataclass(frozen=True)
class Subject:
    """What is evaluated."""

    predictor: Predictor
    task: Task
    parts: list[str]  # of "train" and "test"
    split: str
    batch_size: int

    def batches(self) -> Iterator[Pair]:
        """The examples of all parts."""
        return (pair for part in self.parts for pair in self.task.held_out(self.batch_size, part))


def prepare(
    model: Any,
    task: Any,
    weights: str | Path | None = None,
    split: str | None = None,
    batch_size: int = 64,
    tokenizer: Any = None,
    errors: str = "stop",
) -> Subject:
    """Find, build, load and check what is evaluated. Raises the errors of `evaluate`."""
    if split not in (None, *SPLITS):
        raise UnknownName(f"split={split!r}; {nearest(str(split), SPLITS)}")
    batch_size = integer("evaluate", "batch_size", batch_size)
    run, reader = find(model), tokenizers.resolve(tokenizer)
    if run is not None and weights is not None and not hasattr(model, "layers"):
        raise WrongConfiguration(f"{run} has its own weights; leave weights out")
    chosen = tasks.as_stream("task", str(task) if isinstance(task, Path) else task)
    if run is not None:
        reader = reader or run.tokenizer
        chosen = chosen or run.facts["source"]
        if not chosen:
            raise WrongConfiguration(f"{run} was trained on {run.facts['task']} in memory; give a task")
    if isinstance(chosen, str):
        tasks.source(chosen, reader)  # there is such a task
    tasks.check_errors(chosen, errors)
    built, chosen = _built(model, run, chosen, weights, reader)
    preprocessing = _preprocessing(built, run)
    data = _data(chosen, built, preprocessing, reader, errors)
    if run is not None:
        data = aligned(data, run)
    network = as_functional(built, data.first(1), own_steps=True)
    check_fit(network, data)
    check_streams(network, data)
    split = split or _usual(chosen, run)
    parts = _parts(data, split)
    mode = backends.MODES[backends.current().NAME][0]
    predictor = Predictor(network, Objective(data.loss), mode)
    return Subject(predictor, data, parts, split, batch_size)


def aligned(task: Task, run: SavedRun) -> Task:
    """The task with the run's numbers for its labels.

    Raises WrongConfiguration for classes that the run does not know.
    """
    if not task.names or not run.classes or task.names == run.classes:
        return task
    if unknown := [name for name in task.names if name not in run.classes]:
        raise WrongConfiguration(
            f"{task.name} has classes that {run} does not know: {shortlist(unknown)}; it knows "
            f"{shortlist(run.classes)}"
        )
    first = int(task.loss == "ctc")  # class 0 is the blank
    numbers = np.array([*range(first), *(first + run.classes.index(name) for name in task.names)], np.int32)

    def renumbered(pair: Any) -> Any:
        if pair is None:
            return None
        x, y = pair
        if isinstance(y, sequences.Sequences):
            return x, sequences.Sequences([numbers[y.array(item)] for item in y.items], fill=y.fill)
        return x, numbers[y]

    return replace(
        task, train=renumbered(task.train), test=renumbered(task.test), names=run.classes,
        classes=len(run.classes) + first,
    )  # fmt: skip


def _built(
    model: Any, run: SavedRun | None, task: Any, source: str | Path | None, reader: Any
) -> tuple[keras.Model, Any]:
    """The model with its weights, and the task."""
    if run is not None and source is None:
        return run.model, task
    if not isinstance(model, str):
        if source is not None:
            load(model, source, head="require")
        if task is None:
            raise WrongConfiguration(f"{model.name}: a model, not a run; give the task to measure it on")
        return model, task
    card = registry.card(model)
    if source is None:
        raise WrongConfiguration(
            f"{card.name} has random weights; give weights, or a run instead of the name"
        )
    task = card.task if task is None else task
    return plan_model(card.name, task, source, tokenizer=reader).load(), task


def _preprocessing(model: keras.Model, run: SavedRun | None) -> Any:
    if run is not None:
        return run.preprocessing
    return registry.card(model.name).preprocessing if registry.is_name(model.name) else None


def _data(task: Any, model: keras.Model, preprocessing: Any, reader: Any, errors: str) -> Task:
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        return tasks.load(task, input_shapes(model), preprocessing, reader, errors=errors)
    if isinstance(task, Stream):
        task.uses["name"] = partial(named, model)
    return tasks.from_arrays(named(model, task), loss=None)


def _usual(task: Any, run: SavedRun | None) -> str:
    """Which split is measured where none is named."""
    if not isinstance(task, str):
        return "held-out" if isinstance(task, Task) and task.test is not None else "all"
    path = Path(task)
    own = task in tasks.TASKS or (run is not None and run.facts["source"] == str(path.resolve()))
    return "held-out" if own or not path.exists() or folders.has_splits(path) else "all"


def _parts(task: Task, split: str) -> list[str]:
    """The splits of the task that are measured."""
    if split == "held-out" and task.test is None:
        raise WrongConfiguration(f"{task.name} holds no examples out; give split='all'")
    parts = {"held-out": ["test"], "train": ["train"], "all": ["train", "test"]}[split]
    return [part for part in parts if getattr(task, part) is not None]
