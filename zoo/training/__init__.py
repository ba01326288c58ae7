"""Training: one loop of data, events and history, two engines that make the steps.

`keras` is `compile` and `fit`. `native` is the framework's own step (`zoo.backends`): torch's eager loop or
its traced graph, `jax.jit` with optax, `tf.function`. Both see the same batches in the same order and give
the same losses.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

from zoo import backends, pretrained, registry, tasks, tokenizers
from zoo._lazy import keras
from zoo.augment import Wanted, parse, written
from zoo.checks import integer
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.tasks import Code, Task
from zoo.training import checkpoints, functional, runs
from zoo.training.checks import check_fit
from zoo.training.engines import ENGINES, Tensor, make_engine, number
from zoo.training.metrics import evaluate
from zoo.training.objectives import Objective
from zoo.training.plan import _fit_only, _load, check_weights, task_arguments
from zoo.training.progress import _announce, _bar, _epoch_line, _interruptible
from zoo.training.recipes import Recipe, described, fine_tuning, recipe
from zoo.training.run import Run
from zoo.training.stopping import EarlyStopping, Patience
from zoo.weights import load as load_weights


def train(
    model: str | keras.Model,
    task: str | Path | Task | tuple[Any, Any] | None = None,
    *,
    engine: str = "native",
    mode: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    schedule: Any = None,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    label_smoothing: float | None = None,
    validation: tuple[Any, Any] | None = None,
    augment: Wanted | None = None,
    tokenizer: Code | str | Path | None = None,
    errors: str = "stop",
    early_stopping: EarlyStopping | None = None,
    seed: int | None = None,
    checkpoint: str | Path | None = None,
    out: str | Path | None = None,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
    progress: bool | str | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Run:
    """Train a model, by its name or one you built, and return the run.

    `task` is a name (`zoo.tasks.TASKS`), the path of a folder or a CSV of images (`zoo.tasks.folder`), or a
    pair of arrays (x, y), with `validation` another; None takes the card's. `augment` changes the training
    examples at random (`zoo.augment`): a list, or in words, "HorizontalFlip, MixUp(0.2)". Texts are bytes, or
    tokens of a `tokenizer`, one of `zoo.tokenizers` or what its `load` takes: "default". With `errors`
    "skip", images that cannot be read are left out with a warning, see `zoo.tasks.folder`. What is not given
    comes from the card's recipe: `steps` overrides `epochs`, `schedule` replaces the optimizer's learning
    rate. `mode` is how the native engine runs, see `zoo.backends.MODES`.
    `label_smoothing` takes that share of each target away and spreads it over the classes (Szegedy et al.
    2016, section 7). `checkpoint` is a file to save the run in, after every epoch and at the end; `out` a
    folder, with what `zoo.predict` and `zoo.load_run` need beside it (`zoo.runs`); `resume` either of them
    to go on from, saved on whichever framework, by whichever engine: `steps` and `epochs` count from the
    beginning, the seed, batch size and augmentation are the saved run's, and so is the optimizer unless
    you give one. Its schedule ends where the saved run was to end, a recipe's cosine at 0: to go on for
    longer, give a `schedule` for all steps from the beginning.
    `weights` to start from are what `zoo.weights.load` takes; a head of other classes starts anew. They bring
    the model's fine-tuning recipe (`zoo.training.recipes.FINE_TUNING`), whose learning rate is lower;
    `optimizer`, `schedule`, `epochs` and `batch_size` override it. `progress` shows a bar, by default
    on a terminal, or with "lines" a line for each epoch, on standard error; `watch(step, loss)` is
    called after every step with the loss still on the device. Ctrl-C stops after the step under way and
    returns what was learned.

    Raises ZooError's kinds, before any work, for a wrong name, argument, or data that do not fit the model.
    """
    if engine not in ENGINES:
        raise UnknownName(f"no engine {engine!r}; {nearest(str(engine), ENGINES)}")
    name = model if isinstance(model, str) else model.name
    known = registry.card(name) if isinstance(model, str) or name in registry.list_models() else None
    chosen = str(task) if isinstance(task, Path) else task if task is not None else known and known.task
    if chosen is None:
        raise WrongConfiguration(f"{name}: not a model of the zoo, so it has no task of its own; give task=")
    if weights is not None:
        plan = fine_tuning(known and known.recipe)
    else:
        plan = recipe(known.recipe) if known else Recipe("AdamW")
    epochs, steps, batch_size = (
        None if value is None else integer("train", argument, value)
        for argument, value in {"epochs": epochs, "steps": steps, "batch_size": batch_size}.items()
    )
    seed = None if seed is None else integer("train", "seed", seed, 0)
    transforms = None if augment is None else parse(augment)
    code = tokenizers.found(tokenizer)
    if code is not None and not isinstance(chosen, str):
        raise WrongConfiguration("tokenizer= goes with a task by name, or a file of texts")
    tasks.check_errors(chosen, errors)
    if progress not in (None, True, False, "lines"):
        raise WrongConfiguration(f"progress={progress!r}; expected True, False, None or 'lines'")
    if out is not None and checkpoint is not None:
        raise WrongConfiguration("out= is a folder with a checkpoint in it; leave checkpoint= out")
    folder = None if out is None else runs.check_folder(out, resume)
    if checkpoint is not None:
        checkpoints.writable(checkpoint)
    way = backends.allowed(backends.settle(), mode) if engine == "native" else _fit_only(mode)

    if weights is not None and resume is not None:
        raise WrongConfiguration("resume= brings the weights of the saved run; leave weights= out")
    if weights is not None:
        check_weights(name, weights)
    saved = None if resume is None else checkpoints.read(resume)
    if saved is not None:
        seed, batch_size = saved.take("seed", seed), saved.take("batch_size", batch_size)
    seed = 0 if seed is None else seed
    changes = task_arguments(registry.card(name), chosen, loss, code) if isinstance(model, str) else {}
    backend = backends.current()  # imports the framework: what can be checked without has been
    if isinstance(model, str):
        model = registry.build(name, seed=seed, **{**pretrained.needed(name, weights), **changes})
    chosen, validation = functional.named(model, chosen), functional.named(model, validation)
    shape = functional.input_shapes(model) if isinstance(chosen, str) else None
    data = _load(chosen, shape, loss, validation, known and known.preprocessing, code, errors)
    if saved is not None and augment is None and not data.augment:
        transforms = parse(saved.facts["augment"])
    if transforms is not None:
        data = replace(data, augment=transforms)
    if saved is not None:
        saved.take("augment", written(data.augment))
        saved.take("tokenizer", checkpoints.tokenizer(data))
        runs.check_classes(saved, data)
    network = functional.of(model, data.first(1), own_steps=engine == "keras")
    check_fit(network, data)
    objective = Objective(
        loss or data.loss, plan.label_smoothing if label_smoothing is None else label_smoothing
    )
    if early_stopping is not None and data.test is None:
        raise WrongConfiguration("early_stopping= needs held-out examples; give validation=(x, y)")
    batch_size = batch_size or plan.batch_size
    per_epoch = data.steps(batch_size)
    total = steps or (epochs or plan.epochs) * per_epoch
    if optimizer is not None and schedule is not None:
        raise WrongConfiguration(
            "schedule= replaces the recipe's learning rate; give it to your optimizer instead"
        )
    if optimizer is None:
        reuse = saved is not None and schedule is None
        optimizer = saved.optimizer() if saved and reuse else plan.make_optimizer(schedule, total)
    if weights is not None:
        load_weights(model, weights)
    runner = make_engine(engine, network, objective, optimizer, way)
    why = "" if weights is None else "fine-tuning, as weights are given: "
    length = f"{total} steps of {batch_size} examples, {per_epoch} an epoch"
    how = f"{why}{described(optimizer)}; {length}"
    run = Run(model, backend.NAME, engine, way, data, batch_size, seed, how, runner)
    if folder is not None:
        checkpoint = folder / checkpoints.FILE
    run.saved = folder or (None if checkpoint is None else Path(checkpoint))
    if checkpoint is not None:
        runner.memory()  # raises for an optimizer that cannot be kept
    if saved is not None:
        saved.restore(run, total)
    done = len(run.losses)  # by the run that is resumed
    losses: list[Tensor] = list(run.losses)
    epoch, position = divmod(done, per_epoch)
    del run.history[epoch:]  # of an epoch that was cut: it will end again
    firsts = chain([position], repeat(0))
    batches = (
        pair for e, first in zip(count(epoch), firsts) for pair in data.batches(batch_size, seed, e, first)
    )
    patience = None if early_stopping is None else Patience(early_stopping, run)
    shown = progress if progress is not None else sys.stderr.isatty()
    _announce(run, shown, fine_tuned=weights is not None and progress is None)
    with _bar(run, total, shown is True) as show, _interruptible() as stop:
        start = epoch_start = time.perf_counter()
        paused = 0.0

        def on_step(value: Tensor) -> bool:
            losses.append(value)
            if len(losses) == done + 1:
                number(value)
                run.first_step_s = time.perf_counter() - start
            if watch:
                watch(len(losses) - 1, value)
            show(len(losses), value)
            return stop.is_set() or len(losses) >= total

        def on_epoch() -> bool:
            nonlocal paused, epoch_start
            number(losses[-1])  # wait for the steps under way
            before = time.perf_counter()
            with nullcontext() if patience is None else patience.averages():
                run.history.append(evaluate(runner, data))
                run.metrics = run.history[-1]
                ended = patience is not None and patience.ends(run.metrics)
            if checkpoint is not None:
                run.losses = [number(value) for value in losses]
                run.interrupted = stop.is_set()
                runs.save(checkpoint, folder, run, optimizer)
            if shown == "lines":
                _epoch_line(run, losses, per_epoch, total, before - epoch_start)
            epoch_start = time.perf_counter()
            paused += epoch_start - before
            return ended

        runner.fit(batches, per_epoch, per_epoch - position, on_step, on_epoch)
        run.train_s = time.perf_counter() - start - paused
        run.interrupted = stop.is_set()
    run.losses, run.mode = [number(value) for value in losses], runner.mode
    changed = [runner.finish(), patience is not None and patience.restore()]
    if any(changed):
        run.metrics = evaluate(runner, data)
    runs.remember_training(run, folder, changed=any(changed))
    return run
