"""The plan of a run: names, card, recipe and settings, resolved and checked before any work is done.

Nothing here builds a model or needs a framework. `zoo.train`, `zoo.evaluate`, `zoo compare` and the commands
make the same plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import zoo.training.identity as identity
from zoo import backends, lora, pretrained, registry, storage, tasks, tokenizers
from zoo._lazy import keras
from zoo.augment import AugmentSpec, parse
from zoo.checks import integer
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest
from zoo.tasks import Task, Tokenizer
from zoo.training.callbacks import Callback
from zoo.training.checkpoints import FILE, Checkpoint, best, newest, number, read, writable
from zoo.training.engines import ENGINES
from zoo.training.keras_callbacks import check_callback
from zoo.training.nonfinite import EVERY as ON_NAN
from zoo.training.rates import check_rates
from zoo.training.recipes import Recipe, fine_tuning, recipe
from zoo.training.runs import check_folder
from zoo.training.settings import OPTIMIZERS, SCHEDULES, SETTINGS, adapted, make_schedule, parse_one
from zoo.training.stopping import EarlyStopping
from zoo.training.unfreezing import parse_epochs
from zoo.training.weighting import parse_weights
from zoo.weights import load, located

Tensor = Any


# The model


@dataclass(frozen=True)
class ModelPlan:
    """A model by its name: the arguments it is built with, and the weights it gets."""

    card: registry.Card
    arguments: Mapping[str, Any]
    weights: str | Path | None = None

    def build(self, seed: int = 0, dtype: str | None = None) -> keras.Model:
        """The model with initial weights. Raises what `zoo.build` raises."""
        return registry.build(self.card.name, seed=seed, dtype=dtype, **self.arguments)

    def load(self, seed: int = 0) -> keras.Model:
        """The model with its weights, the head's included. Raises what `zoo.weights.load` raises."""
        model = self.build(seed)
        if self.weights is not None:
            load(model, self.weights, head="require")
        return model


def plan_model(
    name: str,
    task: Any = None,
    weights: str | Path | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    loss: Any = None,
    fine_tune: bool = False,
) -> ModelPlan:
    """The plan of a model for a task, with weights, both optional.

    Where weights and task need different arguments, the weights' are taken, except for `fine_tune`, which
    adapts the model to the task. Raises UnknownModel, UnknownName, and DataUnavailable for missing weights.
    """
    card = registry.card(name)
    if weights is not None:
        check_weights(card.name, weights)
    by_task = {} if task is None else task_arguments(card, task, loss, tokenizer)
    by_weights = pretrained.needed(card.name, weights)
    arguments = {**by_weights, **by_task} if fine_tune else {**by_task, **by_weights}
    return ModelPlan(card, arguments, weights)


def check_weights(model: str, weights: str | Path) -> None:
    """Raise what `zoo.weights.load` raises for weights that are not there, before a model is built."""
    if str(weights).startswith("hf:"):
        return
    path = located(model, weights)
    if not (storage.is_file(path) or storage.is_dir(path)):
        raise DataUnavailable(f"{path}: no such file of weights")


def task_arguments(
    card: registry.Card, task: Any, loss: Any = None, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The builder's arguments that a task decides: classes, channels, the shape of an example.

    A model made for photographs would take hours over thumbnails scaled up to its size, and gigabytes: it is
    built for images of 32 x 32 or the least it takes, for the few digits in its small configuration.
    """
    if isinstance(task, str):
        _, source = tasks.source(task, tokenizer)
        arguments = source.requirements(tokenizer)
        if source.side is not None and card.preprocessing is not None:
            least = {"image_size": max(32, card.small["image_size"])}
            arguments = {**(card.small if source.side < 28 else least), **arguments}
    else:
        names = loss if isinstance(loss, str) else None
        data = task if isinstance(task, Task) else tasks.from_arrays(task, loss=names)
        shape = tasks.shapes(data.train[0])
        arguments = {"classes": data.classes, "shape": shape}
        if len(shape) == 3 and shape[0] == shape[1]:
            arguments |= {"image_size": shape[0], "channels": shape[2]}
    return {name: x for name, x in arguments.items() if name in card.arguments and x is not None}


def task_summary(card: registry.Card, task: str, tokenizer: Tokenizer | None = None) -> str:
    """What a task changes of a model, in a line; nothing if only its classes and channels."""
    usual = {**card.arguments, "classes": None, "channels": None}
    arguments = task_arguments(card, task, tokenizer=tokenizer)
    changes = {k: v for k, v in arguments.items() if usual[k] not in (None, v)}
    listed = ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in changes.items())
    return f"{card.name} for {task}: {listed}" if changes else ""


# The run


@dataclass(frozen=True)
class Interval:
    """So many steps, or seconds."""

    steps: int | None = None
    seconds: float = 0.0


UNITS = {"s": 1, "min": 60, "h": 3600}


def parse_interval(option: str, given: int | str) -> Interval:
    """Steps, 500 or "500 steps", or a time, "10 min". Raises WrongConfiguration."""
    match = re.fullmatch(r"(\d+)\s*(|steps?|s|min|h)", str(given).strip())
    if match is None or not int(match[1]):
        raise WrongConfiguration(f"{option}={given!r}; expected steps, such as 500, or a time in s, min or h")
    amount, unit = int(match[1]), match[2]
    return Interval(seconds=amount * UNITS[unit]) if unit in UNITS else Interval(steps=amount)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The keyword arguments of `zoo.train`. Raises UnknownName or WrongConfiguration for a wrong value."""

    engine: str = "native"
    mode: str | None = None
    epochs: int | None = None
    steps: int | None = None
    steps_per_epoch: int | None = None
    batch_size: int | None = None
    optimizer: Any = None
    schedule: Any = None
    learning_rate: float | None = None
    weight_decay: float | None = None
    clip_norm: float | None = None
    accumulate: int | None = None
    ema: float | None = None
    layer_decay: float | None = None
    head_lr: float | None = None
    freeze: str | Sequence[str] | None = None
    unfreeze: int | str | None = None
    lora: lora.LoRA | int | str | None = None
    dtype: str | None = None
    exact: bool | None = None
    recompute: bool = False
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None
    label_smoothing: float | None = None
    class_weights: str | Mapping[Any, float] | Sequence[float] | None = None
    validation: Any = None
    augment: AugmentSpec | None = None
    tokenizer: Tokenizer | str | Path | None = None
    errors: str = "stop"
    readers: int | None = None
    on_nan: str = "stop"
    early_stopping: EarlyStopping | int | None = None
    train_metrics: bool = False
    seed: int | None = None
    checkpoint: str | Path | None = None
    out: str | Path | None = None
    checkpoint_every: int | str | None = None
    keep: int | None = None
    keep_best: str | None = None
    resume: str | Path | None = None
    weights: str | Path | None = None
    progress: bool | str | None = None
    watch: Callable[[int, Tensor], None] | None = None
    callbacks: Sequence[Callback | keras.callbacks.Callback] = ()

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UnknownName(f"no engine {self.engine!r}; {nearest(str(self.engine), ENGINES)}")
        if self.on_nan not in ON_NAN:
            raise UnknownName(f"on_nan={self.on_nan!r}; {nearest(str(self.on_nan), ON_NAN)}")
        for name, least in (
            ("epochs", 1), ("steps", 1), ("batch_size", 1), ("seed", 0), ("accumulate", 2), ("keep", 1),
            ("steps_per_epoch", 1), ("readers", 0),
        ):  # fmt: skip
            if (value := getattr(self, name)) is not None:
                object.__setattr__(self, name, integer("train", name, value, least))
        if self.augment is not None:
            object.__setattr__(self, "augment", parse(self.augment))
        object.__setattr__(self, "tokenizer", tokenizers.resolve(self.tokenizer))
        if self.progress not in (None, True, False, "lines"):
            raise WrongConfiguration(f"progress={self.progress!r}; expected True, False, None or 'lines'")
        for callback in self.callbacks:
            check_callback(callback, self.engine, resumes=self.resume is not None)
        self._check_optimizer()
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", parse_weights(self.class_weights))
        if not isinstance(self.freeze, str | None):
            object.__setattr__(self, "freeze", ", ".join(self.freeze))
        self._check_unfreeze()
        if self.lora not in (None, ""):
            object.__setattr__(self, "lora", str(lora.parse(self.lora)))
            if name := "freeze" if self.freeze else "unfreeze" if self.unfreeze else "":
                raise WrongConfiguration(
                    f"lora= freezes all but adapters and head already; leave {name}= out"
                )
        if isinstance(self.early_stopping, int):
            object.__setattr__(self, "early_stopping", EarlyStopping(self.early_stopping))
        if self.out is not None and self.checkpoint is not None:
            raise WrongConfiguration("out= is a folder with a checkpoint in it; leave checkpoint= out")
        if self.weights is not None and self.resume is not None and not self.auto:
            raise WrongConfiguration("resume= brings the weights of the saved run; leave weights= out")
        self._check_saves()

    def _check_saves(self) -> None:
        """Raise WrongConfiguration unless the options that say when and where to save go together."""
        if self.out is None and self.checkpoint is None:
            for name in ("checkpoint_every", "keep", "keep_best"):
                if getattr(self, name) is not None:
                    raise WrongConfiguration(f"{name}= needs a path to save to; give out= or checkpoint=")
            if self.auto:
                raise WrongConfiguration("resume='auto' needs the run's path; give out= or checkpoint=")
        if self.checkpoint_every is not None:
            parse_interval("checkpoint_every", self.checkpoint_every)

    def _check_optimizer(self) -> None:
        """Raise UnknownName or WrongConfiguration unless optimizer, schedule and settings go together."""
        check_rates(self.layer_decay, self.head_lr)
        if isinstance(self.optimizer, str):
            parse_one("optimizer", self.optimizer, OPTIMIZERS)
        if isinstance(self.schedule, str):
            parse_one("schedule", self.schedule, tuple(SCHEDULES))
        if not isinstance(self.optimizer, str | None):
            if self.schedule is not None:
                raise WrongConfiguration(
                    "schedule= replaces the recipe's learning rate; give it to your optimizer instead"
                )
            if (name := next(iter({**self.settings, **self.rates}), None)) is not None:
                raise WrongConfiguration(
                    f"{name}= is a setting of the recipe's optimizer; give it to your own"
                )
        if self.learning_rate is not None and not isinstance(self.schedule, str | None):
            raise WrongConfiguration("learning_rate= and schedule=: the schedule has its own rate; give one")
        given = {**self.settings, **self.rates}
        if self.resume is not None and not self.auto and (given or isinstance(self.optimizer, str)):
            name = next(iter(given), "optimizer")
            raise WrongConfiguration(
                f"resume= continues with the saved run's optimizer; leave {name}= out, or give an object as "
                "optimizer="
            )

    def _check_unfreeze(self) -> None:
        """Write `unfreeze` as "2 epochs". Raises WrongConfiguration for what is no such time."""
        if self.unfreeze in (None, ""):
            return
        epochs = parse_epochs(self.unfreeze)
        object.__setattr__(self, "unfreeze", f"{epochs} epoch{'s' * (epochs > 1)}")
        if not isinstance(self.optimizer, str | None):
            raise WrongConfiguration(
                "unfreeze= makes a new optimizer as weights join; leave optimizer= out, or give it in words"
            )

    @property
    def reader(self) -> Tokenizer | None:
        """The tokenizer, loaded."""
        return cast(Tokenizer | None, self.tokenizer)

    @property
    def auto(self) -> bool:
        """Whether the run continues from its own newest checkpoint, if there is one."""
        return str(self.resume) == "auto"

    @property
    def interval(self) -> Interval | None:
        """Of the checkpoints within epochs."""
        every = self.checkpoint_every
        return None if every is None else parse_interval("checkpoint_every", every)

    @property
    def settings(self) -> dict[str, Any]:
        """The optimizer's settings that were given, by their names here."""
        return {name: value for name in SETTINGS if (value := getattr(self, name)) is not None}

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates by layer that were given, see `zoo.training.rates`."""
        return {
            name: value for name in ("layer_decay", "head_lr") if (value := getattr(self, name)) is not None
        }

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """The arguments' names."""
        return tuple(field.name for field in fields(cls))


@dataclass(frozen=True)
class Plan:
    """A training run before its start."""

    model: ModelPlan | keras.Model
    name: str
    task: str | Task | tasks.Stream | tuple[Any, Any]
    recipe: Recipe
    mode: str
    seed: int
    options: Options
    saved: Checkpoint | None = None  # the run to resume
    folder: Path | None = None  # to save the run in
    checkpoint: Path | None = None  # the file, in the folder if there is one
    note: str = ""  # what there is to say of the run to resume

    @property
    def card(self) -> registry.Card | None:
        """The model's card; None for a model that is not the zoo's."""
        return registry.card(self.name) if self.name in registry.list_models() else None

    def length(self, per_epoch: int) -> int:
        """The steps of the run, of so many an epoch; a resumed run counts from its beginning."""
        return self.options.steps or (self.options.epochs or self.recipe.epochs) * per_epoch

    def make_optimizer(self, steps: int) -> Any:
        """The optimizer of a run of so many steps: the one given, the saved run's, or the recipe's."""
        optimizer, schedule = self.options.optimizer, self.options.schedule
        if not isinstance(optimizer, str | None):
            return optimizer
        if self.saved is not None and (schedule is None or (self.options.auto and isinstance(schedule, str))):
            if self.options.settings or schedule is not None or optimizer is not None:
                identity.check_recipe(self.saved, self.own_optimizer)
            return self.saved.optimizer()
        if self.saved is not None:
            return self.saved.optimizer().fresh(learning_rate=self._schedule(steps))
        return self.own_optimizer(steps)

    def own_optimizer(self, steps: int) -> Any:
        """The recipe's optimizer, with the schedule of the options."""
        return self.recipe.make_optimizer(self._schedule(steps), steps)

    def _schedule(self, steps: int) -> Any:
        schedule = self.options.schedule
        if isinstance(schedule, str):
            return make_schedule(schedule, self.recipe, self.options.learning_rate, steps)
        return schedule


def plan_run(model: str | keras.Model, task: Any, options: Options) -> Plan:
    """The plan of a run. Raises ZooError's kinds for whatever can be refused before work."""
    name = registry.card(model).name if isinstance(model, str) else model.name
    card = registry.card(name) if name in registry.list_models() else None
    task = str(task) if isinstance(task, Path) else task if task is not None else card and card.task
    if task is None:
        raise WrongConfiguration(f"{name}: not a model of the zoo, so it has no task of its own; give task=")
    if options.tokenizer is not None and not isinstance(task, str):
        raise WrongConfiguration("tokenizer= goes with a task by name, or a file of texts")
    if options.validation is not None and isinstance(task, Task | str):
        raise WrongConfiguration("validation= goes with arrays or batches; a task holds out its own")
    tasks.check_errors(task, options.errors)
    task, options = _streams(task, options)
    folder = (
        None
        if options.out is None
        else check_folder(options.out, options.out if options.auto else options.resume)
    )
    if options.checkpoint is not None:
        writable(options.checkpoint)
    path = options.checkpoint if folder is None else folder / FILE
    file = None if path is None else Path(path)
    if file is not None and (options.keep or 1) > 1 and folder is None:
        writable(number(file, 0))
    if file is not None and options.keep_best is not None and folder is None:
        writable(best(file))
    mode = _mode(options)
    if options.weights is not None and not isinstance(model, str):  # else `plan_model` does
        check_weights(name, options.weights)
    saved, note = _saved(options, file)
    if saved is not None:
        options = replace(options, **identity.settings(saved, options, task, by_name=isinstance(model, str)))
        if options.early_stopping is None:
            options = replace(options, early_stopping=saved.early_stopping())
    elif options.unfreeze and options.freeze is None:
        options = replace(options, freeze="backbone")
    network: ModelPlan | keras.Model = model if not isinstance(model, str) else plan_model(
        name, task, options.weights, tokenizer=options.reader, loss=options.loss, fine_tune=True
    )  # fmt: skip
    if options.dtype is not None and not isinstance(model, str):
        raise WrongConfiguration(f"dtype={options.dtype!r}: {name} is built already; build it so")
    recipe = _recipe(card, options)
    return Plan(network, name, task, recipe, mode, options.seed or 0, options, saved, folder, file, note)


def _streams(task: Any, options: Options) -> tuple[Any, Options]:
    """The task and the options, in which data that come in batches are streams."""
    task = tasks.as_stream("task", task, options.steps_per_epoch)
    held = tasks.as_stream("validation", options.validation)
    if isinstance(held, tasks.Stream) and (held.once or held.endless):
        raise WrongConfiguration(
            f"validation: {held.name} cannot be read to its end after every epoch; give a function that "
            "returns a finite one, or arrays"
        )
    options = replace(options, validation=held)
    if isinstance(task, tasks.Stream):
        _ = task.steps  # raises if they are not known
        for name in ("batch_size", "augment"):
            if getattr(options, name) is not None:
                raise WrongConfiguration(f"{name}= goes with examples; {task.name} gives whole batches")
    elif options.steps_per_epoch is not None:
        raise WrongConfiguration(
            "steps_per_epoch= goes with data that come in batches; give steps= or epochs="
        )
    return task, options


def _saved(options: Options, file: Path | None) -> tuple[Checkpoint | None, str]:
    """The run to resume, and what to say about it."""
    if options.auto and file is not None:
        return newest(file)
    return (None if options.resume is None else read(options.resume)), ""


def _mode(options: Options) -> str:
    """The engine's mode. Raises BackendError for one that it does not have."""
    if options.engine == "native":
        return backends.allowed(backends.settle(), options.mode)
    if options.mode not in (None, "fit"):
        raise backends.BackendError(
            f"the keras engine has no mode {options.mode!r}; modes are the native engine's"
        )
    return "fit"


def _recipe(card: registry.Card | None, options: Options) -> Recipe:
    """The card's recipe, for fine-tuning if weights are given, with the options' optimizer and settings."""
    if options.weights is not None:
        own = fine_tuning(card and card.recipe)
    else:
        own = recipe(card.recipe) if card else Recipe("AdamW")
    optimizer = options.optimizer if isinstance(options.optimizer, str) else None
    return adapted(own, optimizer, options.settings)
