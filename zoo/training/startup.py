"""The start of a run: its model is built, its data read, and both put together with loss and optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import zoo.training.identity as identity
from zoo import backends, lora, tasks
from zoo._lazy import keras
from zoo.augment import format_transforms, parse
from zoo.errors import WrongConfiguration
from zoo.tasks import Task
from zoo.training.checkpoints import Checkpoint, steps_per_epoch, tokenizer
from zoo.training.checks import check_exact, check_fit, check_streams
from zoo.training.engines import make_engine
from zoo.training.functional import as_functional, input_shapes, named
from zoo.training.keras_callbacks import check_rate
from zoo.training.objectives import Objective
from zoo.training.plan import ModelPlan, Plan
from zoo.training.rates import with_rates
from zoo.training.recipes import described, settings_of
from zoo.training.recomputation import check_recomputation
from zoo.training.run import Run, held_out
from zoo.training.runs import check_classes
from zoo.training.settings import freeze
from zoo.training.stopping import EarlyStopping
from zoo.training.unfreezing import Unfreezing, parse_epochs
from zoo.training.weighting import class_weights
from zoo.training.workers import check_start
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
    unfreezing: Unfreezing | None = None
    ended: bool = False  # whether it is a saved run that has ended: no step is made


def start(plan: Plan) -> Start:
    """Build, read and check what the plan names. Raises ZooError's kinds, before any training."""
    options, backend = plan.options, backends.current()  # imports the framework
    check_rate(options.callbacks, plan.make_optimizer(10**9))  # raises before data are read
    model = plan.model
    if isinstance(model, ModelPlan):
        model = model.build(plan.seed, options.dtype)
    frozen = freeze(model, str(options.freeze)) if options.freeze else []
    adapters = lora.parse(str(options.lora)) if options.lora else None
    if adapters is not None:
        lora.select(model, adapters)  # raises for wrong patterns before data are read
    task = _read(plan, model)
    network = as_functional(model, task.first(1), own_steps=options.engine == "keras")
    check_fit(network, task)
    check_streams(network, task)
    objective = _objective(plan, task, network.output_shape[-1])
    if exact := backends.is_exact():
        check_exact(options, plan.mode, objective)
    if options.recompute:
        check_recomputation(network)
    batch_size = options.batch_size or plan.recipe.batch_size
    if "train" in task.streams:
        batch_size = tasks.count(task.train[0])
    per_epoch = task.steps(batch_size)
    steps = plan.length(per_epoch)
    optimizer = plan.make_optimizer(steps)
    if options.weights is not None and plan.saved is None:
        load(model, options.weights)
    if adapters is not None:
        lora.add(model, **vars(adapters), seed=plan.seed)
    if plan.saved is None:  # whose optimizer has them
        optimizer = with_rates(optimizer, model, **options.rates)
    make = partial(make_engine, options.engine, network, objective)
    unfreezing = None
    if options.unfreeze:
        interval = parse_epochs(options.unfreeze) * per_epoch
        unfreezing = Unfreezing(model, frozen, interval, optimizer, make)
        if plan.saved is not None:  # after the last step of a phase it is still that phase's
            unfreezing.enter(unfreezing.phase_at(max(0, plan.saved.steps - 1)))
    engine = make(optimizer, plan.mode)
    why = "" if options.weights is None else "fine-tuning, as weights are given: "
    words = f"{why}{described(optimizer)}; {steps} steps of {batch_size} examples, {per_epoch} an epoch"
    if adapters is not None:
        words += f"; {lora.summary(model)}"
    run = Run(model, backend.NAME, options.engine, plan.mode, task, batch_size, plan.seed, words, engine)
    run.settings, run.saved = {**settings_of(optimizer), "steps": steps}, plan.folder or plan.checkpoint
    run.exact = exact
    for name in ("freeze", "unfreeze", "lora", "class_weights"):
        setattr(run, name, str(getattr(options, name) or ""))
    if plan.checkpoint is not None:
        engine.state_dict()  # raises for an optimizer that cannot be kept
    known = plan.checkpoint is not None or plan.saved is not None
    facts = identity.identity(run, objective, steps, options.rates, plan.saved) if known else {}
    begun = Start(plan, run, optimizer, steps, network, objective, facts, unfreezing)
    begun = begun if plan.saved is None else _resumed(begun, plan.saved)
    check_start(run, network, objective, plan.mode)
    return begun


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
    del run.history[saved.steps // run.per_epoch :]  # an epoch that was cut will end again
    run.left_out = list(saved.facts.get("run", {}).get("left_out", ()))
    run.metrics = held_out(run.history[-1]) if run.history else {}
    if not end:
        return start
    note = f"resume=auto: the run in {saved.path} has ended after step {saved.steps}; no step is made"
    return replace(start, plan=replace(start.plan, note=note), ended=True)


def _read(plan: Plan, model: keras.Model) -> Task:
    """The task's examples, which are those of the run that is resumed."""
    options, saved = plan.options, plan.saved
    task = _augmented(plan, _task(plan, model))
    if options.readers is not None:
        task = task.read_by(options.readers)
    if saved is not None:
        saved.take("augment", format_transforms(task.augment))
        saved.take("tokenizer", tokenizer(task))
        saved.take("steps_per_epoch", steps_per_epoch(task))
        check_classes(saved, task)
    for name in ("early_stopping", "keep_best"):
        if getattr(options, name) is not None and task.test is None:
            raise WrongConfiguration(f"{name}= needs held-out examples; give validation=(x, y)")
    if options.train_metrics and "train" in task.streams:
        raise WrongConfiguration(
            "train_metrics= measures arrays and files; of batches made elsewhere leave it out"
        )
    return task


def _objective(plan: Plan, task: Task, classes: int) -> Objective:
    """The loss, with label smoothing and weights of the classes."""
    options, loss = plan.options, plan.options.loss or task.loss
    smoothing = plan.recipe.label_smoothing if options.label_smoothing is None else options.label_smoothing
    if not options.class_weights:
        return Objective(loss, smoothing)
    if loss != "cross_entropy":
        raise WrongConfiguration(f"class_weights= goes with the loss cross_entropy, not with {loss!r}")
    return Objective(loss, smoothing, class_weights(str(options.class_weights), task, classes))


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
