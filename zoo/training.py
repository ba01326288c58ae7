"""Training: one loop of data, events and history, two engines that make the steps.

`keras` is `compile` and `fit`. `native` is the framework's own step (`zoo.backends`): torch's eager loop or
its traced graph, `jax.jit` with optax, `tf.function`. Both see the same batches in the same order and give
the same losses.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Any, Protocol

import numpy as np

from zoo import backends, registry, tasks
from zoo._lazy import keras, ops
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.recipes import Recipe, recipe
from zoo.tasks import Pair, Task

Tensor = Any
ENGINES = ("native", "keras")
SILENT: Any = 0  # Keras annotates `verbose` as a string


@dataclass
class Run:
    """What a training run did and left."""

    model: keras.Model
    backend: str
    engine: str
    mode: str
    task: Task
    batch_size: int
    seed: int
    stepper: Engine = field(repr=False)  # goes on from here: more steps, predictions
    losses: list[float] = field(default_factory=list)  # one a step, before its update
    metrics: dict[str, float] = field(default_factory=dict)  # on held-out examples, after the last step
    history: list[dict[str, float]] = field(default_factory=list)  # the same after each epoch
    first_step_s: float = 0.0  # compiling included
    train_s: float = 0.0  # all steps, evaluation left out
    interrupted: bool = False

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return (
            f"<Run of {self.model.name} on {self.task.name}: {self.backend}, {self.engine} {self.mode}, "
            f"{len(self.losses)} steps in {self.train_s:.1f} s; {metrics}>"
        )


def train(
    model: str | keras.Model,
    task: str | Task | tuple[Any, Any] | None = None,
    *,
    engine: str = "native",
    mode: str | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    optimizer: Any = None,
    schedule: Any = None,
    loss: str | Callable[[Tensor, Tensor], Tensor] | None = None,
    validation: tuple[Any, Any] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    watch: Callable[[int, Tensor], None] | None = None,
) -> Run:
    """Train a model, by its name or one you built, and return the run.

    `task` is a name (`zoo.tasks.TASKS`) or a pair of arrays (x, y), with `validation` another; None takes
    the card's. What is not given comes from the card's recipe: `steps` overrides `epochs`, `schedule`
    replaces the optimizer's learning rate. `mode` is how the native engine runs, see `zoo.backends.MODES`.
    `progress` shows a bar, by default on a terminal; `watch(step, loss)` is called after every step with
    the loss still on the device. Ctrl-C stops after the step under way and returns what was learnt.

    Raises ZooError's kinds, before any work, for a wrong name, argument, or data that do not fit the model.
    """
    if engine not in ENGINES:
        raise UnknownName(f"no engine {engine!r}; {nearest(str(engine), ENGINES)}")
    name = model if isinstance(model, str) else model.name
    known = registry.card(name) if isinstance(model, str) or name in registry.list_models() else None
    chosen = task if task is not None else known and known.task
    if chosen is None:
        raise WrongConfiguration(f"{name}: not a model of the zoo, so it has no task of its own; give task=")
    plan = recipe(known.recipe) if known else Recipe("AdamW")
    for argument, value in {"epochs": epochs, "steps": steps, "batch_size": batch_size}.items():
        if value is not None and (not isinstance(value, int) or value < 1):
            raise WrongConfiguration(f"{argument}={value!r}; expected an integer, 1 or more")
    backend = backends.current()
    way = backends.allowed(backend.NAME, mode) if engine == "native" else _fit_only(mode)

    if isinstance(model, str):
        model = registry.build(name, seed=seed, **fitting(registry.card(name), chosen))
    data = _load(chosen, model.input_shape[1:], loss, validation)
    _check_fit(model, data)
    batch_size = batch_size or plan.batch_size
    per_epoch = data.steps(batch_size)
    total = steps or (epochs or plan.epochs) * per_epoch
    if optimizer is not None and schedule is not None:
        raise WrongConfiguration(
            "schedule= replaces the recipe's learning rate; give it to your optimizer instead"
        )
    optimizer = optimizer if optimizer is not None else plan.make_optimizer(schedule)
    runner = make_engine(engine, model, loss or data.loss, optimizer, way)

    run = Run(model, backend.NAME, engine, way, data, batch_size, seed, runner)
    batches = (pair for epoch in count() for pair in data.batches(batch_size, seed, epoch))
    shown = progress if progress is not None else sys.stderr.isatty()
    with _bar(run, total, shown) as show, _interruptible() as stop:
        losses: list[Tensor] = []
        start = time.perf_counter()
        paused = 0.0

        def on_step(value: Tensor) -> bool:
            losses.append(value)
            if len(losses) == 1:
                number(value)
                run.first_step_s = time.perf_counter() - start
            if watch:
                watch(len(losses) - 1, value)
            show(len(losses), value)
            return stop.is_set() or len(losses) >= total

        def on_epoch() -> None:
            nonlocal paused
            number(losses[-1])  # wait for the steps under way
            before = time.perf_counter()
            run.history.append(evaluate(runner, data))
            run.metrics = run.history[-1]
            paused += time.perf_counter() - before

        runner.fit(batches, per_epoch, on_step, on_epoch)
        run.train_s = time.perf_counter() - start - paused
        run.interrupted = stop.is_set()
    run.losses = [number(value) for value in losses]
    return run


def number(value: Tensor) -> float:
    """A scalar as a Python number, once it has been computed."""
    return float(ops.convert_to_numpy(value))


# The two engines


class Engine(Protocol):
    """Makes training steps on a model, and predicts with it."""

    def fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        on_step: Callable[[Tensor], bool],
        on_epoch: Callable[[], None],
    ) -> None:
        """Step until `on_step(loss)` says stop; `on_epoch` after each epoch and at the end."""
        ...

    def predict(self, x: np.ndarray) -> np.ndarray:
        """The logits of these examples."""
        ...


def make_engine(name: str, model: keras.Model, loss: Any, optimizer: Any, mode: str) -> Engine:
    """The engine of that name; `loss` is a name of `LOSSES` or a function (y, logits) -> scalar."""
    if name == "keras":
        return KerasEngine(model, LOSSES[loss][0]() if isinstance(loss, str) else loss, optimizer)
    if not hasattr(optimizer, "settings"):
        raise WrongConfiguration(
            f"optimizer={type(optimizer).__name__}: the native engine takes those of zoo.optimizers, for "
            "which the framework has its own; engine='keras' takes any Keras optimizer"
        )
    return NativeEngine(model, LOSSES[loss][1]() if isinstance(loss, str) else loss, optimizer, mode)


class NativeEngine:
    """The framework's own training step, see `zoo.backends`."""

    def __init__(self, model: keras.Model, loss: backends.Loss, optimizer: Any, mode: str):
        self.backend = backends.current()
        self.step = self.backend.step(model, loss, optimizer, mode)
        self.predictor = self.backend.predictor(model, mode)

    def fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        on_step: Callable[[Tensor], bool],
        on_epoch: Callable[[], None],
    ) -> None:
        tensor, stop = self.backend.tensor, False
        while not stop:
            for x, y in islice(batches, per_epoch):
                if stop := on_step(self.step(tensor(x), tensor(y))):
                    break
            self.step.sync()
            on_epoch()

    def predict(self, x: np.ndarray) -> np.ndarray:
        return ops.convert_to_numpy(self.predictor(self.backend.tensor(x)))


class KerasEngine:
    """Keras's own `compile` and `fit`."""

    def __init__(self, model: keras.Model, loss: Any, optimizer: Any):
        from zoo.keras_parts import LastValue

        self.model = model
        model.compile(optimizer=optimizer, loss=loss)
        # Keras reports the mean loss of the epoch so far; parity needs each step's. Keras offers no way to
        # choose that metric, and a second one would compute the loss twice, so its own is replaced.
        object.__setattr__(model, "_loss_tracker", LastValue(name="loss"))

    def fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        on_step: Callable[[Tensor], bool],
        on_epoch: Callable[[], None],
    ) -> None:
        def step(_: int, logs: dict[str, Tensor]) -> None:
            self.model.stop_training = on_step(logs["loss"])

        def epoch(_: int, logs: dict[str, Tensor]) -> None:
            del logs
            stop = self.model.stop_training
            on_epoch()
            self.model.stop_training = stop  # predicting resets it

        events = keras.callbacks.LambdaCallback(on_train_batch_end=step, on_epoch_end=epoch)
        self.model.fit(
            batches,
            steps_per_epoch=per_epoch,
            epochs=sys.maxsize,
            shuffle=False,
            callbacks=[events],
            verbose=SILENT,
        )

    def predict(self, x: np.ndarray) -> np.ndarray:
        return self.model.predict(x, batch_size=len(x), verbose=SILENT)


# name -> (as compile takes it, as a native step takes it)
LOSSES: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
    "cross_entropy": (
        lambda: keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        lambda: backends.current().cross_entropy,
    ),
    "mean_squared_error": (
        lambda: keras.losses.MeanSquaredError(),
        lambda: lambda y, x: ops.mean(ops.square(x - y)),
    ),
}


def accuracy(y: np.ndarray, logits: np.ndarray) -> float:
    """The share of examples whose largest logit is the label's."""
    return float(np.mean(logits.argmax(-1) == y))


METRICS = {"accuracy": accuracy}


def evaluate(engine: Engine, task: Task, batch_size: int = 512) -> dict[str, float]:
    """The task's metric on its held-out examples; empty where it has none."""
    if task.test is None or task.metric is None:
        return {}
    x, y = task.test
    logits = np.concatenate([engine.predict(x[i : i + batch_size]) for i in range(0, len(x), batch_size)])
    return {task.metric: METRICS[task.metric](y, logits)}


# What must hold before any work is done


def _fit_only(mode: str | None) -> str:
    if mode not in (None, "fit"):
        raise backends.BackendError(f"the keras engine has no mode {mode!r}; modes are the native engine's")
    return "fit"


def fitting(card: registry.Card, task: Any) -> dict[str, Any]:
    """The builder's arguments that a task decides: classes, channels, the shape of an example."""
    if isinstance(task, str):
        _, source = tasks.source(task)
        wanted = {"classes": source.classes, "channels": source.channels}
    else:
        data = task if isinstance(task, Task) else tasks.from_arrays(task, loss=None)
        shape = data.train[0].shape[1:]
        wanted = {"classes": data.classes, "shape": shape}
        if len(shape) == 3 and shape[0] == shape[1]:
            wanted |= {"image_size": shape[0], "channels": shape[2]}
    return {name: value for name, value in wanted.items() if name in card.arguments and value is not None}


def _load(task: Any, shape: tuple[int, ...], loss: Any, validation: Any) -> Task:
    if isinstance(task, Task):
        return task
    if isinstance(task, str):
        if validation is not None:
            raise WrongConfiguration("validation= goes with a pair of arrays; a named task holds out its own")
        return tasks.load(task, shape)
    return tasks.from_arrays(task, loss=loss if isinstance(loss, str) else None, validation=validation)


def _check_fit(model: keras.Model, task: Task) -> None:
    x, y = task.train
    if tuple(x.shape[1:]) != tuple(model.input_shape[1:]):
        raise WrongConfiguration(
            f"{model.name} takes examples of shape {model.input_shape[1:]}, {task.name} has {x.shape[1:]}"
        )
    if isinstance(task.loss, str) and task.loss not in LOSSES:
        raise UnknownName(
            f"no loss {task.loss!r}; {nearest(task.loss, LOSSES)}, or give a function (y, logits)"
        )
    if task.loss == "cross_entropy" and int(y.max()) >= model.output_shape[-1]:
        raise WrongConfiguration(
            f"{task.name} has labels up to {int(y.max())}, {model.name} tells {model.output_shape[-1]} "
            f"classes apart; build it with classes={int(y.max()) + 1}"
        )
    if task.loss == "mean_squared_error" and tuple(y.shape[1:]) != tuple(model.output_shape[1:]):
        raise WrongConfiguration(
            f"{task.name} has targets of shape {y.shape[1:]}, {model.name} gives {model.output_shape[1:]}"
        )


# The terminal


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that Ctrl-C sets, so that no step is cut in the middle; a second Ctrl-C interrupts at once."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def handle(number: int, frame: Any) -> None:
        del number, frame
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _bar(run: Run, total: int, shown: bool) -> Iterator[Callable[[int, Tensor], None]]:
    """A progress bar: loss (read off the device twice a second), metric, steps a second, time left."""
    if not shown:
        yield lambda step, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"{run.model.name} · {run.backend} {run.engine}", total=total, facts="")
        start = last = time.perf_counter()

        def show(step: int, loss: Tensor) -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last < 0.5 and step < total:
                return
            last = now
            facts = [f"loss {number(loss):.4f}"]
            facts += [f"{name} {value:.3f}" for name, value in run.metrics.items()]
            facts += [f"{step / (now - start):.0f} steps/s"]
            progress.update(bar, completed=step, facts=" · ".join(facts))

        yield show
