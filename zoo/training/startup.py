"""The start of a run: its model is built, its data read, and both put together with loss and optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from zoo import backends, tasks
from zoo._lazy import keras
from zoo.augment import format_transforms, parse
from zoo.errors import WrongConfiguration
from zoo.tasks import Task
from zoo.training.checkpoints import steps_per_epoch, tokenizer
from zoo.training.checks import check_fit, check_streams
from zoo.training.engines import make_engine
from zoo.training.functional import as_functional, input_shapes, named
from zoo.training.objectives import Objective
from zoo.training.plan import ModelPlan, Plan
from zoo.training.recipes import described
from zoo.training.run import Run
from zoo.training.runs import check_classes
from zoo.training.settings import freeze
from zoo.training.weighting import class_weights
from zoo.weights import load


@dataclass(frozen=True)
class Start:
    """A run before its first step, of `steps` steps in all."""

    plan: Plan
    run: Run
    optimizer: Any
    steps: int


def start(plan: Plan) -> Start:
    """Build, read and check what the plan names. Raises ZooError's kinds, before any training."""
    options, backend = plan.options, backends.current()  # imports the framework
    plan.make_optimizer(10**9)  # raises for wrong settings before data are read
    model = plan.model
    if isinstance(model, ModelPlan):
        model = model.build(plan.seed, options.dtype)
    if options.freeze:
        freeze(model, str(options.freeze))
    task = _augmented(plan, _task(plan, model))
    if options.readers is not None:
        task = task.read_by(options.readers)
    if plan.saved is not None:
        plan.saved.take("augment", format_transforms(task.augment))
        plan.saved.take("tokenizer", tokenizer(task))
        plan.saved.take("steps_per_epoch", steps_per_epoch(task))
        check_classes(plan.saved, task)
    network = as_functional(model, task.first(1), own_steps=options.engine == "keras")
    check_fit(network, task)
    check_streams(network, task)
    smoothing = plan.recipe.label_smoothing if options.label_smoothing is None else options.label_smoothing
    loss, weights = options.loss or task.loss, ()
    if options.class_weights:
        if loss != "cross_entropy":
            raise WrongConfiguration(f"class_weights= goes with the loss cross_entropy, not with {loss!r}")
        weights = class_weights(str(options.class_weights), task, network.output_shape[-1])
    objective = Objective(loss, smoothing, weights)
    if options.early_stopping is not None and task.test is None:
        raise WrongConfiguration("early_stopping= needs held-out examples; give validation=(x, y)")
    batch_size = options.batch_size or plan.recipe.batch_size
    if "train" in task.streams:
        batch_size = tasks.count(task.train[0])
    per_epoch = task.steps(batch_size)
    steps = plan.length(per_epoch)
    optimizer = plan.make_optimizer(steps)
    if options.weights is not None and plan.saved is None:
        load(model, options.weights)
    engine = make_engine(options.engine, network, objective, optimizer, plan.mode)
    why = "" if options.weights is None else "fine-tuning, as weights are given: "
    words = f"{why}{described(optimizer)}; {steps} steps of {batch_size} examples, {per_epoch} an epoch"
    run = Run(model, backend.NAME, options.engine, plan.mode, task, batch_size, plan.seed, words, engine)
    run.class_weights = str(options.class_weights or "")
    run.saved, run.freeze = plan.folder or plan.checkpoint, str(options.freeze or "")
    if plan.checkpoint is not None:
        engine.state_dict()  # raises for an optimizer that cannot be kept
    if plan.saved is not None:
        plan.saved.restore(run, steps)
        del run.history[len(run.losses) // per_epoch :]  # of an epoch that was cut: it will end again
    return Start(plan, run, optimizer, steps)


def _task(plan: Plan, model: keras.Model) -> Task:
    """The task's examples."""
    task, options = named(model, plan.task), plan.options
    loss = options.loss if isinstance(options.loss, str) else None
    for stream in (task, options.validation):
        if isinstance(stream, tasks.Stream):
            stream.uses["name"] = partial(named, model)
    if not isinstance(task, Task | str):
        return tasks.from_arrays(task, loss=loss, validation=named(model, options.validation))
    if isinstance(task, str):
        preprocessing = plan.card and plan.card.preprocessing
        task = tasks.load(task, input_shapes(model), preprocessing, options.reader, errors=options.errors)
    return task if loss is None else replace(task, loss=loss)


def _augmented(plan: Plan, task: Task) -> Task:
    """The task with the transforms that were given, else its own, else those of the run that is resumed."""
    transforms: Any = plan.options.augment
    if transforms is None and plan.saved is not None and not task.augment:
        transforms = parse(plan.saved.facts["augment"])
    return task if transforms is None else replace(task, augment=transforms)
