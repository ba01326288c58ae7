"""The start of a run: its model is built, its data read, and both put together with loss and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from zoo import backends, tasks
from zoo._lazy import keras
from zoo.augment import format_transforms, parse
from zoo.errors import WrongConfiguration
from zoo.tasks import Task
from zoo.training import identity
from zoo.training.checkpoints import Checkpoint, tokenizer
from zoo.training.checks import check_fit
from zoo.training.engines import make_engine
from zoo.training.functional import as_functional, input_shapes, named
from zoo.training.objectives import Objective
from zoo.training.plan import ModelPlan, Plan
from zoo.training.recipes import described
from zoo.training.run import Run
from zoo.training.runs import check_classes
from zoo.training.settings import freeze
from zoo.training.stopping import EarlyStopping
from zoo.weights import load


@dataclass(frozen=True)
class Start:
    """A run before its first step, of `steps` steps in all."""

    plan: Plan
    run: Run
    optimizer: Any
    steps: int
    network: keras.Model  # the model, as the engines take it
    objective: Objective
    identity: Mapping[str, Any]  # what it is of; empty if it is neither saved nor resumed
    ended: bool = False  # whether it is a saved run that has ended: no step is made


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
    if plan.saved is not None:
        plan.saved.take("augment", format_transforms(task.augment))
        plan.saved.take("tokenizer", tokenizer(task))
        check_classes(plan.saved, task)
    network = as_functional(model, task.first(1), own_steps=options.engine == "keras")
    check_fit(network, task)
    smoothing = plan.recipe.label_smoothing if options.label_smoothing is None else options.label_smoothing
    objective = Objective(options.loss or task.loss, smoothing)
    for name in ("early_stopping", "keep_best"):
        if getattr(options, name) is not None and task.test is None:
            raise WrongConfiguration(f"{name}= needs held-out examples; give validation=(x, y)")
    batch_size = options.batch_size or plan.recipe.batch_size
    per_epoch = task.steps(batch_size)
    steps = plan.length(per_epoch)
    optimizer = plan.make_optimizer(steps)
    if options.weights is not None and plan.saved is None:
        load(model, options.weights)
    engine = make_engine(options.engine, network, objective, optimizer, plan.mode)
    why = "" if options.weights is None else "fine-tuning, as weights are given: "
    words = f"{why}{described(optimizer)}; {steps} steps of {batch_size} examples, {per_epoch} an epoch"
    run = Run(model, backend.NAME, options.engine, plan.mode, task, batch_size, plan.seed, words, engine)
    run.saved, run.freeze = plan.folder or plan.checkpoint, str(options.freeze or "")
    if plan.checkpoint is not None:
        engine.state_dict()  # raises for an optimizer that cannot be kept
    known = plan.checkpoint is not None or plan.saved is not None
    facts = identity.identity(run, objective, steps) if known else {}
    begun = Start(plan, run, optimizer, steps, network, objective, facts)
    return begun if plan.saved is None else _resumed(begun, plan.saved)


def _resumed(start: Start, saved: Checkpoint) -> Start:
    """The run where the saved one was.

    Raises WrongConfiguration if that has ended, unless `resume` is "auto".
    """
    run, rule = start.run, start.plan.options.early_stopping
    end = saved.end(start.steps, rule if isinstance(rule, EarlyStopping) else None)
    if end and not start.plan.options.auto:
        raise WrongConfiguration(f"resume: {saved.path} {end}")
    identity.check(saved, start.identity)
    state = saved.state_for(run)
    identity.check_arguments(saved, start.identity)
    saved.restore(run, state)
    del run.history[saved.steps // run.task.steps(run.batch_size) :]  # an epoch that was cut will end again
    run.left_out = list(saved.facts.get("run", {}).get("left_out", ()))
    run.metrics = dict(run.history[-1]) if run.history else {}
    if not end:
        return start
    note = f"resume=auto: the run in {saved.path} has ended after step {saved.steps}; no step is made"
    return replace(start, plan=replace(start.plan, note=note), ended=True)


def _task(plan: Plan, model: keras.Model) -> Task:
    """The task's examples."""
    task, options = named(model, plan.task), plan.options
    loss = options.loss if isinstance(options.loss, str) else None
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
