"""Training: one loop of data, events and history, two engines that make the steps.

`keras` is `compile` and `fit`. `native` is the framework's own step (`zoo.backends`): torch's eager loop or
its traced graph, `jax.jit` with optax, `tf.function`. Both see the same batches in the same order and give
the same losses.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, count, islice, repeat
from math import exp, inf, log
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zoo import backends, checkpoints, functional, pretrained, registry, runs, storage, tasks, tokenizers
from zoo._lazy import keras, ops
from zoo.augment import AugmentSpec, format_transforms, parse
from zoo.checks import integer
from zoo.ctc import character_error_rate
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest
from zoo.recipes import Recipe, described, fine_tuning, recipe
from zoo.tasks import Pair, Task, Tokenizer, sequences
from zoo.weights import load as load_weights
from zoo.weights import located

Tensor = Any
ENGINES = ("native", "keras")
logger = logging.getLogger(__name__)
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
    recipe: str  # the optimizer, batch size and length, in words
    stepper: Engine = field(repr=False)  # goes on from here: more steps, predictions
    losses: list[float] = field(default_factory=list)  # one a step, before its update
    metrics: dict[str, float] = field(default_factory=dict)  # on held-out examples, after the last step
    history: list[dict[str, float]] = field(default_factory=list)  # the same after each epoch
    first_step_s: float = 0.0  # compiling included
    train_s: float = 0.0  # all steps, evaluation left out
    interrupted: bool = False
    saved: Path | None = None  # the folder or the checkpoint it was saved in

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name} {value:.4g}" for name, value in self.metrics.items())
        return (
            f"<Run of {self.model.name} on {self.task.name}: {self.backend}, {self.engine} {self.mode}, "
            f"{len(self.losses)} steps in {self.train_s:.1f} s; {metrics}>"
        )


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
    augment: AugmentSpec | None = None,
    tokenizer: Tokenizer | str | Path | None = None,
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
    the model's fine-tuning recipe (`zoo.recipes.FINE_TUNING`), whose learning rate is lower; `optimizer`,
    `schedule`, `epochs` and `batch_size` override it. `progress` shows a bar, by default on a terminal, or
    with "lines" a line for each epoch, on standard error; `watch(step, loss)` is called after every step with
    the loss still on the device. Ctrl-C stops after the step under way and returns what was learnt.

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
    changes = fitting(registry.card(name), chosen, loss, code) if isinstance(model, str) else {}
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
        saved.take("augment", format_transforms(data.augment))
        saved.take("tokenizer", checkpoints.tokenizer(data))
        runs.check_classes(saved, data)
    network = functional.of(model, data.first(1), own_steps=engine == "keras")
    _check_fit(network, data)
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
        runner.state_dict()  # raises for an optimizer that cannot be kept
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
    changed = [runner.copy_ema_to_weights(), patience is not None and patience.restore()]
    if any(changed):
        run.metrics = evaluate(runner, data)
    runs.remember_training(run, folder, changed=any(changed))
    return run


def check_weights(model: str, weights: str | Path) -> None:
    """Raise what `zoo.weights.load` raises for weights that are not there, before a model is built."""
    if str(weights).startswith("hf:"):
        return
    path = located(model, weights)
    if not (storage.is_file(path) or storage.is_dir(path)):
        raise DataUnavailable(f"{path}: no such file of weights")


def number(value: Tensor) -> float:
    """A scalar as a Python number, once it has been computed."""
    return float(ops.convert_to_numpy(value))


@dataclass(frozen=True)
class EarlyStopping:
    """Stop once the held-out `monitor` has not improved for `patience` epochs, as keras.callbacks does.

    An improvement is more than `min_delta`; losses and error rates are better when lower, other metrics when
    higher. `restore_best` ends with the weights of the best epoch. Of an optimizer with `use_ema` it is the
    averages that are judged after each epoch, and put back. Prechelt 1998, "Early stopping - but
    when?".
    """

    patience: int = 5
    monitor: str = "loss"
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        patience = integer("EarlyStopping", "patience", self.patience, 0)
        object.__setattr__(self, "patience", patience)
        if not self.min_delta >= 0:
            raise WrongConfiguration(f"EarlyStopping: min_delta={self.min_delta!r}; expected 0 or more")


class Patience:
    """Early stopping under way."""

    def __init__(self, rule: EarlyStopping, run: Run):
        of_text = set() if run.task.tokens_per_character is None else {"bits_per_character", "perplexity"}
        monitored = {"loss", run.task.metric, *of_text} - {None}
        if rule.monitor not in monitored:
            raise UnknownName(
                f"EarlyStopping: {run.task.name} has no metric {rule.monitor!r}; "
                f"{nearest(rule.monitor, monitored)}"
            )
        self.rule, self.run = rule, run
        self.best, self.waited, self.weights = inf, 0, []

    def ends(self, metrics: dict[str, float]) -> bool:
        """Whether training ends after an epoch with these metrics."""
        value = metrics[self.rule.monitor] * (1 if self.rule.monitor in LOWER else -1)
        if value < self.best - self.rule.min_delta:
            self.best, self.waited = value, 0
            if self.rule.restore_best:
                self.weights = _numbers(self.run.model)
        else:
            self.waited += 1
        return self.waited >= max(1, self.rule.patience)

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Within, the model has the averages of its weights, where they are kept: as the run would end."""
        if not self.run.stepper.averages:
            yield
            return
        own = _numbers(self.run.model)
        self.run.stepper.copy_ema_to_weights()
        try:
            yield
        finally:
            _assign(self.run.model, own)

    def restore(self) -> bool:
        """Put the best weights back; whether there were any."""
        if self.weights:
            _assign(self.run.model, self.weights)
        return bool(self.weights)


def _numbers(model: keras.Model) -> list[np.ndarray]:
    return [np.array(ops.convert_to_numpy(v)) for v in model.variables]


def _assign(model: keras.Model, values: Sequence[np.ndarray]) -> None:
    for variable, value in zip(model.variables, values, strict=True):
        variable.assign(value)


# The two engines


class Predicts(Protocol):
    """Predicts with a model, and knows its loss."""

    def predict(self, x: Any) -> np.ndarray:
        """The logits of these examples."""
        ...

    def loss(self, y: np.ndarray, logits: np.ndarray) -> float:
        """The mean loss of these logits."""
        ...


class Engine(Predicts, Protocol):
    """Makes training steps on a model, and predicts with it."""

    averages: bool  # whether the optimizer keeps averages of the weights
    weight: Callable[[np.ndarray], int]  # how many labels or examples the loss of a batch is the mean of

    @property
    def mode(self) -> str:
        """Of `zoo.backends.MODES`, or "fit"."""
        ...

    def fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        first_epoch: int,
        on_step: Callable[[Tensor], bool],
        on_epoch: Callable[[], bool],
    ) -> None:
        """Step until `on_step(loss)` says stop, or `on_epoch()` does, after each epoch and at the end.

        The first epoch has `first_epoch` steps, the others `per_epoch`.
        """
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """The optimizer state, see `zoo.optimizers.Optimizer.state_dict`."""
        ...

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Load such a state."""
        ...

    def copy_ema_to_weights(self) -> bool:
        """Copy averaged weights into the model; whether there are any."""
        ...


def make_engine(name: str, model: keras.Model, objective: Objective, optimizer: Any, mode: str) -> Engine:
    """The engine of that name."""
    from zoo.optimizers import Optimizer

    if name == "keras":
        return KerasEngine(model, objective, optimizer)
    scaling = None
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        scaling = backends.LossScaling(optimizer.initial_scale, optimizer.dynamic_growth_steps)
        optimizer = optimizer.inner_optimizer
    elif model.dtype_policy.name == "mixed_float16":  # as `compile` decides
        scaling = backends.LossScaling()
    if not isinstance(optimizer, Optimizer):
        raise WrongConfiguration(
            f"optimizer={type(optimizer).__name__}: the native engine takes those of zoo.optimizers, for "
            "which the framework has its own; engine='keras' takes any Keras optimizer"
        )
    return NativeEngine(model, objective, optimizer, mode, scaling)


class Predictor:
    """A model in inference mode, and its loss, by the framework's own compiled function."""

    def __init__(self, model: keras.Model, objective: Objective, mode: str):
        self.backend, self.objective = backends.current(), objective.native()
        self.predictor = self.backend.predictor(model, mode)

    def predict(self, x: Any) -> np.ndarray:
        return ops.convert_to_numpy(self.predictor(backends.tensors(x)))

    def loss(self, y: np.ndarray, logits: np.ndarray) -> float:
        return number(self.objective(self.backend.tensor(y), self.backend.tensor(logits)))


class NativeEngine(Predictor):
    """The framework's own training step, see `zoo.backends`."""

    def __init__(
        self,
        model: keras.Model,
        objective: Objective,
        optimizer: Any,
        mode: str,
        scaling: backends.LossScaling | None,
    ):
        super().__init__(model, objective, mode)
        self.averages = optimizer.use_ema
        self.weight, self.accumulates = objective.weight, bool(optimizer.gradient_accumulation_steps)
        self.step = self.backend.step(model, self.objective, optimizer, mode, scaling)

    def fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        first_epoch: int,
        on_step: Callable[[Tensor], bool],
        on_epoch: Callable[[], bool],
    ) -> None:
        tensors, stop, length = backends.tensors, False, first_epoch
        while not stop:
            try:
                for x, y in islice(batches, length):
                    weight = self.weight(y) if self.accumulates else None
                    if stop := on_step(self.step(tensors(x), tensors(y), weight)):
                        break
            finally:
                self.step.sync()
            stop, length = on_epoch() or stop, per_epoch

    @property
    def mode(self) -> str:
        """The step's."""
        return self.step.mode

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.step.updater.state_dict()

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        self.step.updater.load_state_dict(state)

    def copy_ema_to_weights(self) -> bool:
        self.step.updater.copy_ema_to_weights()
        return self.averages


# The attributes that Keras's `compile` and `fit` set on a model.
COMPILED = (
    "compiled", "optimizer", "loss", "steps_per_execution", "stop_training", "history", "_jit_compile",
    "_run_eagerly", "_compile_loss", "_compile_metrics", "_compile_config", "_compiled_trainable_state",
    "_loss_tracker", "train_function", "test_function", "predict_function",
)  # fmt: skip
FRESH = {"compiled": False, "loss": None, "_compile_loss": None, "_compile_metrics": None}


class KerasEngine:
    """Keras's own `compile` and `fit`.

    The model is compiled while the engine is at work, and otherwise as its owner left it.
    """

    mode = "fit"

    def __init__(self, model: keras.Model, objective: Objective, optimizer: Any):
        from zoo.keras_parts import LastValue
        from zoo.optimizers import Optimizer

        self.model, self.objective, self.weight = model, objective.native(), objective.weight
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        weighs = isinstance(inner, Optimizer) and inner.gradient_accumulation_steps
        loss = objective.keras()
        self.attached, self.own = False, dict(FRESH)
        with self.at_work():
            model.compile(optimizer=optimizer, loss=weighing(loss, objective, inner) if weighs else loss)
            # Keras reports the mean loss of the epoch so far; parity needs each step's. Keras offers no way
            # to choose that metric, and a second one would compute the loss twice, so its own is replaced.
            object.__setattr__(model, "_loss_tracker", LastValue(name="loss"))
            self.optimizer: Any = model.optimizer
        self.averages = getattr(self.optimizer, "inner_optimizer", self.optimizer).use_ema

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Within, the model is compiled as the engine needs it."""
        if self.attached:
            yield
            return
        theirs, self.attached = _compile_state(self.model), True
        _set_compile_state(self.model, self.own)
        try:
            yield
        finally:
            self.own, self.attached = _compile_state(self.model), False
            _set_compile_state(self.model, theirs)

    def fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        first_epoch: int,
        on_step: Callable[[Tensor], bool],
        on_epoch: Callable[[], bool],
    ) -> None:
        stop = False

        def step(_: int, logs: dict[str, Tensor]) -> None:
            nonlocal stop
            stop = on_step(logs["loss"])
            self.model.stop_training = stop

        def epoch(_: int, logs: dict[str, Tensor]) -> None:
            nonlocal stop
            del logs
            stop = on_epoch() or stop
            self.model.stop_training = stop  # predicting resets it

        events = keras.callbacks.LambdaCallback(on_train_batch_end=step, on_epoch_end=epoch)
        with self.at_work(), _without_averages(self.optimizer):
            self._fit(batches, per_epoch, first_epoch, [events], lambda: stop)

    def _fit(
        self,
        batches: Iterator[Pair],
        per_epoch: int,
        first_epoch: int,
        callbacks: list[Any],
        stopped: Callable[[], bool],
    ) -> None:
        fit = partial(self.model.fit, shuffle=False, callbacks=callbacks, verbose=SILENT)
        if first_epoch < per_epoch:
            first = list(islice(batches, first_epoch))  # from an iterator `fit` would take a batch too many
            fit(self.stream(pair for pair in first), steps_per_epoch=first_epoch)
        if not stopped():
            fit(self.stream(batches), steps_per_epoch=per_epoch, epochs=sys.maxsize)

    def stream(self, batches: Iterator[Pair]) -> Any:
        """Batches as `fit` takes them, also of lengths that differ."""
        varies = any(None in tensor.shape[1:] for tensor in self.model.inputs)
        return backends.current().stream(self.model, batches) if varies else batches

    def predict(self, x: Any) -> np.ndarray:
        with self.at_work():
            return self.model.predict(x, batch_size=tasks.count(x), verbose=SILENT)

    def loss(self, y: np.ndarray, logits: np.ndarray) -> float:
        tensor = backends.current().tensor
        return number(self.objective(tensor(y), tensor(logits)))

    def state_dict(self) -> dict[str, np.ndarray]:
        from zoo.optimizers import Optimizer, state_of

        optimizer = self.built()
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if not isinstance(inner, Optimizer):
            raise WrongConfiguration(
                f"optimizer={type(inner).__name__}: a checkpoint keeps those of zoo.optimizers"
            )
        return state_of(optimizer)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        from zoo.optimizers import load_state_into

        load_state_into(self.built(), state)

    def built(self) -> Any:
        """The model's optimizer, its variables made: Keras makes them at the first step."""
        if not self.optimizer.built:
            self.optimizer.build(self.model.trainable_variables)
        return self.optimizer

    def copy_ema_to_weights(self) -> bool:
        finalize = type(self.optimizer).finalize_variable_values  # not what stands in for it within `fit`
        finalize(self.optimizer, self.model.trainable_variables)
        if self.averages:  # else on JAX weights and averages are one array, and the next step frees it
            for variable in self.model.trainable_variables:
                variable.assign(ops.copy(variable.value))
        return self.averages


def _compile_state(model: keras.Model) -> dict[str, Any]:
    return {name: vars(model)[name] for name in COMPILED if name in vars(model)}


def _set_compile_state(model: keras.Model, state: Mapping[str, Any]) -> None:
    for name in COMPILED:
        if name in state:
            model.__dict__[name] = state[name]  # past Keras's tracking, which sees layers and variables only
        elif name in vars(model):
            delattr(model, name)


@contextmanager
def _without_averages(optimizer: Any) -> Iterator[None]:
    """Within, `fit` leaves the weights as they are: a run puts averages in their place once, at its end."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    vars(optimizer)["finalize_variable_values"] = lambda variables: None
    try:
        yield
    finally:
        del vars(optimizer)["finalize_variable_values"]
        if hasattr(inner, "batch_weight"):
            inner.batch_weight = None  # of a step that is over


@dataclass(frozen=True)
class Objective:
    """What is minimized: a name of `LOSSES` or a function (y, logits) -> scalar."""

    loss: str | Callable[[Tensor, Tensor], Tensor]
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise WrongConfiguration(
                f"label_smoothing={self.label_smoothing!r}; expected 0 <= label_smoothing < 1"
            )
        if self.label_smoothing and self.loss != "cross_entropy":
            raise WrongConfiguration(f"label_smoothing= goes with cross_entropy, not with {self.loss!r}")

    def keras(self) -> Any:
        """As `compile` takes it."""
        return LOSSES[self.loss][0](self.label_smoothing) if isinstance(self.loss, str) else self.loss

    def native(self) -> backends.Loss:
        """As a native step takes it, computed in full precision under a mixed policy too, as Keras does."""
        function = LOSSES[self.loss][1](self.label_smoothing) if isinstance(self.loss, str) else self.loss
        wide = keras.config.floatx()

        def loss(y: Tensor, logits: Tensor) -> Tensor:
            dtype = keras.backend.standardize_dtype(logits.dtype)
            return function(y, logits if dtype == wide else ops.cast(logits, wide))

        return loss

    def weight(self, y: np.ndarray) -> int:
        """How many labels or examples the loss of a batch is the mean of."""
        steps = self.loss == "cross_entropy" and y.ndim == 2 and np.issubdtype(y.dtype, np.integer)
        return int((y >= 0).sum()) if steps else len(y)


def weighing(loss: Any, objective: Objective, optimizer: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss as `compile` takes it; computed, it tells the optimizer the weight of the batch.

    Both belong to the same step, so this is no state: compiled code has the weight as one of its values.
    """

    def compute(y: Tensor, logits: Tensor) -> Tensor:
        steps = objective.loss == "cross_entropy" and len(y.shape) == 2 and len(logits.shape) == 3
        counted = ops.sum(ops.cast(y >= 0, "int32")) if steps else ops.shape(y)[0]
        optimizer.batch_weight = counted
        return loss(y, logits)

    return compute


def _cross_entropy(smoothing: float) -> Any:
    """Of labels (b,), of every step (b, n), or soft labels (b, classes).

    Keras makes all of them floats, so only their shape tells.
    """

    def loss(y: Tensor, logits: Tensor) -> Tensor:
        soft = len(y.shape) == len(logits.shape)
        if soft or smoothing:
            targets = y if soft else ops.one_hot(ops.cast(y, "int32"), logits.shape[-1], dtype=logits.dtype)
            losses = keras.losses.categorical_crossentropy(
                targets, logits, from_logits=True, label_smoothing=smoothing
            )
        else:
            losses = keras.losses.sparse_categorical_crossentropy(ops.maximum(y, 0), logits, from_logits=True)
        if len(losses.shape) == 1:
            return losses
        counted = ops.cast(ops.greater_equal(y, 0), logits.dtype)
        return ops.sum(losses * counted) / ops.maximum(ops.sum(counted), 1)

    return loss


# name -> (as compile takes it, as a native step takes it), of the label smoothing
LOSSES: dict[str, tuple[Callable[[float], Any], Callable[[float], Any]]] = {
    "cross_entropy": (
        _cross_entropy,
        lambda smoothing: partial(backends.current().cross_entropy, label_smoothing=smoothing),
    ),
    "ctc": (
        lambda _: lambda y, logits: backends.current().ctc_loss(ops.cast(y, "int32"), logits),
        lambda _: backends.current().ctc_loss,
    ),
    "mean_squared_error": (
        lambda _: keras.losses.MeanSquaredError(),
        lambda _: lambda y, x: ops.mean(ops.square(x - ops.cast(y, x.dtype))),
    ),
}


def accuracy(y: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """How many labels have the largest logit, and how many there are: of examples, or of steps but for -1.

    Of soft labels it is the largest one's.
    """
    labels = y.argmax(-1) if y.ndim == logits.ndim else y
    counted = labels >= 0
    return int(((logits.argmax(-1) == labels) & counted).sum()), int(counted.sum())


def exact_match(y: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """How many sequences have the largest logit at every label, and how many there are.

    Where each step has seen the labels before it, that is how many a greedy decoder would write.
    """
    return int(((logits.argmax(-1) == y) | (y < 0)).all(-1).sum()), len(y)


# name -> of a batch's labels and logits, two counts; the metric is the ratio of their sums
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[int, int]]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "character_error_rate": character_error_rate,
}
LOWER = {"loss", "character_error_rate", "bits_per_character", "perplexity"}  # is better


def evaluate(engine: Predicts, task: Task, batch_size: int = 512) -> dict[str, float]:
    """The task's metric and the loss on its held-out examples; empty where it has none."""
    return {} if task.test is None else measure(engine, task, task.held_out(batch_size))


def measure(engine: Predicts, task: Task, batches: Iterable[Pair]) -> dict[str, float]:
    """The task's metric and the loss on these batches."""
    hits, of, losses, weights = 0, 0, [], []
    y: np.ndarray
    for x, y in batches:
        logits = engine.predict(x)
        if task.metric is not None:
            found = METRICS[task.metric](y, logits)
            hits, of = hits + found[0], of + found[1]
        losses.append(engine.loss(y, logits))
        weights.append(Objective(task.loss).weight(y))
    metric = {} if task.metric is None else {task.metric: hits / max(1, of)}
    loss = float(np.average(losses, weights=weights))
    if task.tokens_per_character is not None:
        bits = loss / log(2) * task.tokens_per_character
        metric = {"bits_per_character": bits, "perplexity": exp(loss), **metric}
    return {**metric, "loss": loss}


# What must hold before any work is done


def _fit_only(mode: str | None) -> str:
    if mode not in (None, "fit"):
        raise backends.BackendError(f"the keras engine has no mode {mode!r}; modes are the native engine's")
    return "fit"


def fitting(
    card: registry.Card, task: Any, loss: Any = None, tokenizer: Tokenizer | None = None
) -> dict[str, Any]:
    """The builder's arguments that a task decides: classes, channels, the shape of an example.

    A model made for photographs would take hours over thumbnails scaled up to its size, and gigabytes: it is
    built for images of 32 x 32 or the least it takes, for the few digits in its small configuration.
    """
    if isinstance(task, str):
        _, source = tasks.source(task, tokenizer)
        wanted = source.requirements(tokenizer)
        if source.side is not None and card.preprocessing is not None:
            least = {"image_size": max(32, card.small["image_size"])}
            wanted = {**(card.small if source.side < 28 else least), **wanted}
    else:
        data = (
            task
            if isinstance(task, Task)
            else tasks.from_arrays(task, loss=loss if isinstance(loss, str) else None)
        )
        shape = tasks.shapes(data.train[0])
        wanted = {"classes": data.classes, "shape": shape}
        if len(shape) == 3 and shape[0] == shape[1]:
            wanted |= {"image_size": shape[0], "channels": shape[2]}
    return {name: value for name, value in wanted.items() if name in card.arguments and value is not None}


def told(card: registry.Card, task: str, tokenizer: Tokenizer | None = None) -> str:
    """What a task changes of a model, in a line; nothing if only its classes and channels."""
    usual = {**card.arguments, "classes": None, "channels": None}
    changes = {k: v for k, v in fitting(card, task, tokenizer=tokenizer).items() if usual[k] not in (None, v)}
    listed = ", ".join(f"{k}={getattr(v, '__name__', v)}" for k, v in changes.items())
    return f"{card.name} for {task}: {listed}" if changes else ""


def _load(
    task: Any,
    shape: Any,
    loss: Any,
    validation: Any,
    preprocessing: Any,
    tokenizer: Tokenizer | None,
    errors: str,
) -> Task:
    if isinstance(task, Task | str):
        if validation is not None:
            raise WrongConfiguration("validation= goes with a pair of arrays; a task holds out its own")
        if isinstance(task, str):
            task = tasks.load(task, shape, preprocessing, tokenizer, errors=errors)
        return replace(task, loss=loss) if isinstance(loss, str) else task
    return tasks.from_arrays(task, loss=loss if isinstance(loss, str) else None, validation=validation)


def _fits(expected: Any, given: Any) -> bool:
    """Whether examples of this shape fit an input of that one, None being any length; dicts by name."""
    if isinstance(expected, dict) or isinstance(given, dict):
        same = isinstance(expected, dict) and isinstance(given, dict) and expected.keys() == given.keys()
        return same and all(_fits(expected[name], given[name]) for name in expected)
    return len(expected) == len(given) and all(m in (None, n) for m, n in zip(expected, given, strict=True))


def _check_fit(model: keras.Model, task: Task) -> None:
    x, y = task.train
    if isinstance(model.output, dict):
        raise WrongConfiguration(
            f"{model.name} gives {' and '.join(model.output)}; to train it, build it with a head="
        )
    if not model.trainable_variables:
        raise WrongConfiguration(
            f"{model.name} has no trainable weights; expected at least one layer that is not frozen. Set "
            "trainable = True on the model and on the layers to train"
        )
    seen = x if task.corrupt is None else task.first(1)
    expected, given = registry.input_shapes(model), tasks.shapes(seen)
    if isinstance(expected, dict):
        given = given if isinstance(given, dict) else {"token_ids": given}
        left_out = registry.optional_inputs(model) - given.keys()
        expected = {name: shape for name, shape in expected.items() if name not in left_out}
    if not _fits(expected, given):
        raise WrongConfiguration(f"{model.name} takes examples of shape {expected}, {task.name} has {given}")
    for name, part in _tokens(x):
        registry.check_tokens(model, {name: sequences.extremes(part)})
    limit = registry.longest(model)
    for split in (seen, task.test[0]) if task.test and task.corrupt is None else (seen,):
        for name, part in _tokens(split):
            registry.check_length(model, name, sequences.longest(part), limit)
    if isinstance(task.loss, str) and task.loss not in LOSSES:
        raise UnknownName(
            f"no loss {task.loss!r}; {nearest(task.loss, LOSSES)}, or give a function (y, logits)"
        )
    if task.augment:
        if isinstance(x, dict):
            raise WrongConfiguration(f"augment= changes one input; {model.name} has {', '.join(x)}")
        if not _fits(expected, made := next(task.batches(1, 0, 0))[0].shape[1:]):
            raise WrongConfiguration(
                f"augment= makes examples of shape {made}, {model.name} takes {expected}"
            )
    if task.loss == "cross_entropy" and not np.issubdtype(y.dtype, np.integer):
        if y.shape[1] != model.output_shape[-1]:
            raise WrongConfiguration(
                f"{task.name} has soft labels of {y.shape[1]} classes, {model.name} has "
                f"{model.output_shape[-1]}; build it with classes={y.shape[1]}"
            )
    elif task.loss in ("cross_entropy", "ctc"):
        if (most := tasks.largest(y)) >= model.output_shape[-1]:
            raise WrongConfiguration(
                f"{task.name} has labels up to {most}, {model.name} has {model.output_shape[-1]} classes; "
                f"build it with classes={most + 1}"
            )
        steps = len(y.shape) == 2
        if task.loss == "cross_entropy" and steps != (len(model.output_shape) == 3):
            raise WrongConfiguration(
                f"{task.name} has a label for each {'step' if steps else 'example'}, {model.name} gives "
                f"{model.output_shape[1:]}"
            )
    if task.loss == "mean_squared_error" and tuple(y.shape[1:]) != tuple(model.output_shape[1:]):
        raise WrongConfiguration(
            f"{task.name} has targets of shape {y.shape[1:]}, {model.name} gives {model.output_shape[1:]}"
        )


def _tokens(x: Any) -> Iterator[tuple[str, Any]]:
    """The inputs that are tokens, by name."""
    for name, part in (x if isinstance(x, dict) else {"token_ids": x}).items():
        if np.issubdtype(part.dtype, np.integer):
            yield name, part


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


def _announce(run: Run, shown: bool | str, *, fine_tuned: bool) -> None:
    """Say how a run trains: where progress is shown, else in the log if the recipe is not the usual one."""
    text = f"{run.model.name}: {run.recipe}"
    if shown:
        print(text, file=sys.stderr, flush=True)
    elif fine_tuned:
        logger.warning("%s", text)


def _epoch_line(run: Run, losses: list[Tensor], per_epoch: int, total: int, seconds: float) -> None:
    """What there is to say of an epoch, for a log."""
    held_out = ", ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
    text = [f"epoch {-(-len(losses) // per_epoch)}/{-(-total // per_epoch)}", f"step {len(losses)}"]
    text += [f"train loss {number(losses[-1]):.4f}", *([f"held out: {held_out}"] if held_out else [])]
    print(" · ".join([*text, f"{seconds:.1f} s"]), file=sys.stderr, flush=True)


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
