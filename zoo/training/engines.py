"""The two engines: Keras's `fit`, and the framework's own training step."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any, Protocol

import numpy as np

from zoo import backends, tasks
from zoo._lazy import keras, ops
from zoo.backends.world import counted, get_world
from zoo.errors import WrongConfiguration, shortlist
from zoo.tasks import Pair
from zoo.training.objectives import Objective, weighing

Tensor = Any
ENGINES = ("native", "keras")
SILENT: Any = 0  # Keras annotates `verbose` as a string


def number(value: Tensor) -> float:
    """A scalar as a Python number, once it has been computed."""
    return float(ops.convert_to_numpy(value))


class Batches(Iterator[Pair]):
    """Batches that can be closed while another thread reads them, as TensorFlow's does."""

    def __init__(self, batches: Generator[Pair]):
        self.batches, self.lock = batches, Lock()

    def __next__(self) -> Pair:
        with self.lock:
            return next(self.batches)

    def close(self) -> None:
        """End the threads that make them; waits for the batch under way."""
        with self.lock:
            self.batches.close()


class Predicts(Protocol):
    """Predicts with a model, and knows its loss."""

    def predict(self, x: Any) -> np.ndarray:
        """The logits of these examples."""
        ...

    def loss(self, y: np.ndarray, logits: np.ndarray) -> float:
        """The mean loss of these logits."""
        ...


class Steps(Protocol):
    """What an engine reports to: a run (`zoo.training.loop.Loop`), or so many steps to be timed."""

    @property
    def remaining(self) -> int:
        """The steps until the end of the epoch."""
        ...

    @property
    def per_epoch(self) -> int:
        """The steps of an epoch."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether no more steps are to be made."""
        ...

    def on_step(self, loss: Tensor) -> None:
        """After a step."""
        ...

    def on_epoch(self) -> None:
        """After an epoch, and when stopped within one."""
        ...


class Engine(Predicts, Protocol):
    """Makes training steps on a model, and predicts with it."""

    model: keras.Model  # as it is trained: functional, around a model that is not
    averages: bool  # whether the optimizer keeps averages of the weights
    weight: Callable[[np.ndarray], int]  # how many labels or examples the loss of a batch is the mean of

    @property
    def mode(self) -> str:
        """Of `zoo.backends.MODES`, or "fit"."""
        ...

    def at_work(self) -> AbstractContextManager[None]:
        """Within, the model is as the engine needs it: for `fit` compiled."""
        ...

    def fit(self, batches: Iterator[Pair], steps: Steps) -> None:
        """Make steps on these batches until `steps.stopped`; the last epoch may be cut."""
        ...

    def sync(self) -> None:
        """Between two steps: write the state back to the model's variables, so that they can be read."""
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
    if constrained := [v.path for v in model.trainable_variables if v.constraint is not None]:
        raise WrongConfiguration(
            f"{model.name} constrains {shortlist(constrained)}; only engine='keras' applies constraints"
        )
    return NativeEngine(model, objective, optimizer, mode, scaling)


class Countdown:
    """So many steps, and no more; `on_last(loss)` is called with the last one's loss."""

    def __init__(self, count: int, on_last: Callable[[Tensor], Any] = number):
        self.per_epoch = self.remaining = count
        self.on_last = on_last

    @property
    def stopped(self) -> bool:
        return not self.remaining

    def on_step(self, loss: Tensor) -> None:
        self.remaining -= 1
        if self.stopped:
            self.on_last(loss)

    def on_epoch(self) -> None:
        pass


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
        self.model = model
        self.averages = optimizer.use_ema
        self.weight, self.accumulates = objective.weight, bool(optimizer.gradient_accumulation_steps)
        self.world = get_world()
        self.step = self.backend.step(model, self.objective, optimizer, mode, scaling)

    def at_work(self) -> AbstractContextManager[None]:
        return nullcontext()

    def fit(self, batches: Iterator[Pair], steps: Steps) -> None:
        while not steps.stopped:
            try:
                for x, y in islice(batches, steps.remaining):
                    weight = counted(y, self.weight) if self.accumulates else None
                    own, labels, part = self.world.batch(x, y, self.weight)
                    steps.on_step(self.step(own, labels, weight, part))
                    if steps.stopped:
                        break
            finally:
                self.step.sync()
            steps.on_epoch()

    def sync(self) -> None:
        self.step.sync()

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
            object.__setattr__(model, "_loss_tracker", last_value("loss"))
            self.optimizer: Any = model.optimizer
            # An accumulating optimizer reads each batch's weight from the loss, which a recorded graph holds.
            if not weighs and (step := backends.current().fit_step(model)) is not None:
                model.__dict__["train_function"] = step
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

    def fit(self, batches: Iterator[Pair], steps: Steps) -> None:
        def step(_: int, logs: dict[str, Tensor]) -> None:
            steps.on_step(logs["loss"])
            self.model.stop_training = steps.stopped

        def epoch(*_: Any) -> None:
            steps.on_epoch()
            self.model.stop_training = steps.stopped  # predicting resets it

        events = keras.callbacks.LambdaCallback(on_train_batch_end=step, on_epoch_end=epoch)
        with self.at_work(), _without_averages(self.optimizer), _own_errors(batches) as batches:
            fit = partial(self.model.fit, shuffle=False, callbacks=[events], verbose=SILENT)
            if steps.remaining < steps.per_epoch:
                first = list(islice(batches, steps.remaining))  # an iterator would lose a batch to `fit`
                fit(self.stream(batch for batch in first), steps_per_epoch=len(first))
            if not steps.stopped:
                fit(self.stream(batches), steps_per_epoch=steps.per_epoch, epochs=sys.maxsize)

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

    def sync(self) -> None:
        if (sync := getattr(self.model, "jax_state_sync", None)) is not None:
            sync()  # Keras keeps it elsewhere on JAX

    def state_dict(self) -> dict[str, np.ndarray]:
        from zoo.optimizers import Optimizer

        inner, scaler = self.built()
        if not isinstance(inner, Optimizer):
            raise WrongConfiguration(
                f"optimizer={type(inner).__name__}: a checkpoint keeps those of zoo.optimizers"
            )
        return inner.state_dict(scaler)

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        inner, scaler = self.built()
        inner.load_state_dict(state, scaler)

    def built(self) -> tuple[Any, Any]:
        """The model's optimizer and the loss scaler around it, or None; built, as by the first step."""
        optimizer: Any = self.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        scaled = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        return (optimizer.inner_optimizer, optimizer) if scaled else (optimizer, None)

    def copy_ema_to_weights(self) -> bool:
        finalize = type(self.optimizer).finalize_variable_values  # not what stands in for it within `fit`
        finalize(self.optimizer, self.model.trainable_variables)
        if self.averages:  # else on JAX weights and averages are one array, and the next step frees it
            for variable in self.model.trainable_variables:
                variable.assign(ops.copy(variable.value))
        return self.averages


def last_value(name: str) -> Any:
    """A Keras metric that is the last value it was given, not the mean: each step's loss."""

    class LastValue(keras.metrics.Metric):
        def __init__(self) -> None:
            super().__init__(name=name)
            self.value = self.add_variable(shape=(), initializer="zeros", name="value")

        def update_state(self, value: Tensor, sample_weight: Any = None) -> None:
            del sample_weight
            self.value.assign(ops.cast(value, self.value.dtype))

        def result(self) -> Tensor:
            return self.value + 0  # a copy: the variable itself will hold the next step's

    return LastValue()


def _compile_state(model: keras.Model) -> dict[str, Any]:
    return {name: vars(model)[name] for name in COMPILED if name in vars(model)}


def _set_compile_state(model: keras.Model, state: Mapping[str, Any]) -> None:
    for name in COMPILED:
        if name in state:
            model.__dict__[name] = state[name]  # past Keras's tracking, which sees layers and variables only
        elif name in vars(model):
            delattr(model, name)


@contextmanager
def _own_errors(batches: Iterator[Pair]) -> Iterator[Iterator[Pair]]:
    """The same batches, as `fit` takes them; an error in them is raised, and not TensorFlow's."""
    errors: list[Exception] = []

    def own() -> Iterator[Pair]:
        try:
            yield from batches
        except Exception as error:
            errors.append(error)
            raise

    try:
        yield own()
    except Exception:
        if errors:
            raise errors[0] from None
        raise


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
