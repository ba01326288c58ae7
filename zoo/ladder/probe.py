"""What one framework computes of a model, rung by rung, in a process: `python -m zoo.ladder.probe FOLDER`.

`zoo.ladder` starts one for each framework and float type and compares the arrays they write. The names of the
arrays say the rung first: "forward/conv1", "gradients/weights/conv1/kernel", "training/native jit".
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, random, registry, tasks, training
from zoo._lazy import keras, ops
from zoo.ladder.bounds import NUDGES
from zoo.layers import signature
from zoo.processes.workers import Tell, serve
from zoo.training.recipes import recipe

Array = np.ndarray
Arrays = dict[str, Array]

SEED = 3
STEPS = 100  # of the training rung
OTHER_STEPS = 10  # of the modes that are not the default
SAVED_AFTER = 60  # the step after which the last epoch's checkpoint is taken
BATCH = 12  # does not divide the examples: the last batch is short


def use_float64() -> None:
    """Compute in float64 wherever floats are used: what differs then is no rounding.

    Keras maps float64 to float32 when it works out an operation's type on JAX and torch, by a private table:
    this is the one place that touches it. JAX needs JAX_ENABLE_X64, which `zoo.ladder` sets.
    """
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    dtypes: Any = import_module("keras.src.backend.common.dtypes")
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


class Subject:
    """A model that can be built over and over, always with the same weights, and data to train it on."""

    def __init__(
        self, build: Callable[[], keras.Model], inputs: Any, targets: Array | None, loss: Any, plan: Any
    ):
        self.make, self.inputs, self.targets, self.loss, self.plan = build, inputs, targets, loss, plan
        self.weights: list[Array] | None = None  # carried over from another framework

    def build(self) -> keras.Model:
        """A new model with the weights that every framework starts from."""
        keras.utils.clear_session()
        model = self.make()
        if self.weights is not None:
            model.set_weights(self.weights)
        return model

    def task(self) -> tasks.Task:
        """The data as a task."""
        loss = self.loss if isinstance(self.loss, str) else None
        return tasks.from_arrays((self.inputs, self.targets), loss=loss)

    @property
    def batch(self) -> tuple[Any, Array | None]:
        """The first examples, as the forward and gradient rungs take them."""
        y = None if self.targets is None else self.targets[:8]
        return _first(self.inputs, 8), y


def registered(name: str) -> Subject:
    """A model of the zoo in its small configuration, on digits at its size."""
    card = registry.card(name)
    x, y = toy_data(card)
    loss = tasks.source(card.task)[1].loss
    named = None if loss == "cross_entropy" else loss  # the default, with smoothed labels
    return Subject(lambda: registry.build(name, seed=SEED, **card.small), x, y, named, recipe(card.recipe))


def toy_data(card: registry.Card) -> tuple[Any, Array]:
    """100 digits at the size of a small configuration, of the classes it tells apart; or sequences."""
    arguments = {**card.arguments, **card.small}
    if None in card.input:
        return toy_sequences(registry.build(card.name, **card.small))
    x, y = tasks.load("digits", replace(card, config=arguments).input).train
    chosen = np.flatnonzero(y < arguments.get("classes", 10))[:100]
    return x[chosen], y[chosen]


def toy_sequences(model: keras.Model) -> tuple[Any, Array]:
    """100 sequences, padded, with labels drawn for each, or for each step but for the padding (-1)."""
    x, rng = signature.example(model, 100, SEED), random.generator(SEED, "labels")
    *steps, classes = model.output_shape[1:]
    if not steps:
        return x, rng.integers(classes, size=100, dtype=np.int32)
    read: Any = x.get("decoder_token_ids", x.get("token_ids")) if isinstance(x, Mapping) else x
    if read.ndim == 2:
        return x, np.where(read == 0, -1, rng.integers(classes, size=read.shape, dtype=np.int32))
    # CTC's: a letter, and another where there are frames for two
    first = rng.integers(1, classes, size=100, dtype=np.int32)
    second = np.where(read[:, 4:].any((1, 2)), 1 + first % (classes - 1), 0)
    return x, np.stack([first, second], 1)


class Probe:
    """Serves `zoo.ladder`: builds a subject, climbs its rungs, writes what it finds."""

    def __init__(self, folder: Path, tell: Tell):
        self.folder, self.tell = folder, tell
        backends.use(os.environ["KERAS_BACKEND"], device=os.environ["ZOO_PARITY_DEVICE"], threads=1)
        self.dtype = os.environ["ZOO_PARITY_DTYPE"]
        if self.dtype == "float64":
            use_float64()
        self.backend = backends.current()

    def climb(
        self,
        *,
        model: str,
        rungs: list[int],
        user: str | None,
        modes: list[str],
        chaos: bool,
        fault: str | None = None,
    ) -> None:
        """Write `MODEL.npz` for these rungs, and answer with the facts of `zoo.ladder.taps.Taps`."""
        from zoo.ladder import faults

        self.backend.clear_cache()  # of the model before
        with faults.seeded(fault):
            subject = self.subject(model, user)
            facts: dict[str, Any] = {}
            arrays = dict(self.everything(subject, model, rungs, modes, chaos, facts))
        np.savez(self.folder / f"{model}.npz", allow_pickle=False, **arrays)
        self.tell(last=True, facts=facts)

    def subject(self, model: str, user: str | None) -> Subject:
        """A model of the zoo by its name, or a user's by its folder."""
        return registered(model) if user is None else load_user(Path(user))

    def everything(
        self,
        subject: Subject,
        name: str,
        rungs: list[int],
        modes: list[str],
        chaos: bool,
        facts: dict[str, Any],
    ) -> Iterator[tuple[str, Array]]:
        """The arrays of these rungs; `facts` is filled beside them."""
        trains = subject.targets is not None
        parts: list[tuple[set[int], Callable[[], Iterator[tuple[str, Array]]]]] = [
            ({1}, lambda: initial(subject, compiled="compiled" in modes)),
            ({2, 3}, lambda: flow(subject, rungs, facts)),
            ({4}, lambda: updates(subject)),
            ({5, 6, 7, 8}, lambda: self.trained(subject, name, rungs, modes) if trains else iter(())),
            ({5, 7, 8}, lambda: nudged(subject) if trains and chaos else iter(())),
        ]
        for numbers, make in parts:
            if numbers & set(rungs):
                yield from make()

    def trained(
        self, subject: Subject, name: str, rungs: list[int], modes: list[str]
    ) -> Iterator[tuple[str, Array]]:
        """Rungs 5 to 7, and the checkpoint of rung 8."""
        path = self.folder / f"{name}.safetensors"

        def keep(step: int, _: Any) -> None:
            if step == SAVED_AFTER:
                shutil.copy(path.with_suffix(".part"), path)

        save = {"checkpoint": path.with_suffix(".part"), "watch": keep} if 8 in rungs else {}
        ways: list[tuple[str, str | None]] = [("native", None), ("keras", None)]
        for engine, mode in ways:
            run = train(subject, engine, mode, **(save if engine == "native" else {}))
            yield f"training/{engine}", np.array(run.losses)
            if 6 in rungs:
                yield f"evaluation/{engine}", run.trainer.predict(run.task.train[0]).argmax(-1)
        if 7 in rungs:
            for mode in (m for m in backends.MODES[self.backend.NAME][1:] if m in modes):
                yield f"modes/{mode}", np.array(train(subject, "native", mode, steps=OTHER_STEPS).losses)

    def resume(
        self, *, model: str, user: str | None, files: dict[str, str], fault: str | None = None
    ) -> None:
        """Go on from the checkpoints of other frameworks and write `MODEL-resumed.npz`."""
        from zoo.ladder import faults

        with faults.seeded(fault):
            subject = self.subject(model, user)
            found = {
                name: np.array(train(subject, "native", None, resume=path).losses)
                for name, path in files.items()
            }
        np.savez(self.folder / f"{model}-resumed.npz", allow_pickle=False, **found)
        self.tell(last=True)

    def carry(self, *, user: str) -> None:
        """Write the initial weights of a user's model, for the other frameworks to start from."""
        model = load_user(Path(user)).build()
        weights = {str(i): np.asarray(w) for i, w in enumerate(model.get_weights())}
        np.savez(Path(user) / "weights.npz", allow_pickle=False, **weights)
        self.tell(last=True)


def load_user(folder: Path) -> Subject:
    """A model and data that `zoo.ladder.pack` left there."""
    import sys

    import cloudpickle

    sys.path += [p for p in json.loads((folder / "path.json").read_text()) if p not in sys.path]
    build, loss, single = cloudpickle.loads((folder / "build.pkl").read_bytes())
    with np.load(folder / "data.npz") as data:
        inputs: Any = {name[7:]: data[name] for name in data.files if name.startswith("inputs/")}
        targets = data["targets"] if "targets" in data.files else None
    subject = Subject(build, inputs[""] if single else inputs, targets, loss, None)
    if (weights := folder / "weights.npz").exists():
        with np.load(weights) as saved:
            subject.weights = [saved[str(i)] for i in range(len(saved.files))]
    return subject


# Rung 1


def initial(subject: Subject, *, compiled: bool) -> Iterator[tuple[str, Array]]:
    """Weights, batches, and the masks of every layer that draws, by the framework's compiler too if asked."""
    model = subject.build()
    for i, variable in enumerate(model.variables):
        yield f"initial/weights/{i} {variable.path}", numpy(variable)
    if subject.targets is not None:
        for epoch in range(2):
            for i, (x, y) in enumerate(subject.task().batches(BATCH, SEED, epoch)):
                for name, part in (x if isinstance(x, Mapping) else {"x": x}).items():
                    yield f"initial/batches/{epoch}.{i}/{name}", part
                yield f"initial/batches/{epoch}.{i}/y", y
    backend = backends.current()
    for layer in model.layers:
        if hasattr(layer, "key") and hasattr(layer, "rate"):
            wraps: dict[str, Any] = {"eager": lambda f: f}
            wraps |= {"compiled": backend.compile} if compiled else {}
            for how, wrap in wraps.items():
                draw = wrap(lambda step, layer=layer: random.keep((8, 32), layer.rate, layer.key, step))
                masks = [numpy(draw(backend.tensor(np.array(step, np.int32)))) for step in range(3)]
                yield f"initial/masks/{layer.name}/{how}", np.stack(masks)


# Rungs 2 and 3


def flow(subject: Subject, rungs: list[int], facts: dict[str, Any]) -> Iterator[tuple[str, Array]]:
    """Every layer's output and, going back, every gradient; and what a training pass leaves behind."""
    from zoo.ladder.taps import Taps

    model = subject.build()
    x, y = subject.batch
    taps = Taps(model, x)
    facts |= {"order": taps.order, "consumers": taps.consumers, "kinds": taps.kinds, "weights": taps.weights}
    if 2 in rungs:
        for label, value in taps.outputs(x).items():
            yield f"forward/{label}", value
    if 3 in rungs or model.non_trainable_variables:
        value, gradients, state = taps.gradients(x, y, subject.loss)
        for layer, kept in state.items():
            yield f"forward/state/{layer}", kept
        yield "gradients/loss", value
        for name, gradient in gradients.items():
            yield f"gradients/{name}", gradient


# Rung 4


def plans() -> dict[str, tuple[str, dict[str, Any], Any]]:
    """name -> (class, settings, schedule of 12 steps): every optimizer, and between them every schedule."""
    from zoo import schedules as s

    return {
        "SGD": ("SGD", {"weight_decay": 0.01}, s.StepDecay(1.0, 4, 0.5)),
        "Momentum": ("Momentum", {"weight_decay": 0.01}, s.OneCycle(1.0, 12)),
        "Nesterov": ("Momentum", {"nesterov": True}, s.CosineAnnealing(1.0, 12, 0.01)),
        "Adam": ("Adam", {"weight_decay": 0.01}, s.WarmupDecay(1.0, 3, 12)),
        "AMSGrad": ("Adam", {"amsgrad": True}, s.WarmupDecay(1.0, 3, 12, decay="cosine")),
        "AdamW": ("AdamW", {"weight_decay": 0.01}, s.OneCycle(1.0, 12, anneal="linear", three_phase=True)),
        "LAMB": ("LAMB", {"weight_decay": 0.01}, s.WarmupDecay(1.0, 3, 12, decay="polynomial")),
        "LAMB uncorrected": (
            "LAMB",
            {"bias_correction": False},
            s.WarmupDecay(1.0, 3, 12, decay="inverse_square_root"),
        ),
    }


def updates(subject: Subject) -> Iterator[tuple[str, Array]]:
    """Twelve updates of every optimizer with made-up gradients, by the native one and by Keras's.

    Each starts from the same weights; the optimizer remembers what came before.
    """
    from zoo import optimizers

    model = subject.build()
    every = model.trainable_variables
    if not every:
        return  # all layers are frozen
    variables = every if len(every) <= 6 else [*every[:3], *every[-3:]]  # a rule is the same for all
    start = [numpy(v) for v in variables]
    made_up = [
        [random.generator("gradient", step, v.path).standard_normal(v.shape) for v in variables]
        for step in range(12)
    ]
    common = {
        # Half the norm that gradients drawn from a normal distribution have.
        "global_clipnorm": 0.5 * sum(x.size for x in start) ** 0.5,
        "groups": {"bias|gamma|beta": {"weight_decay": 0.0}},
    }
    for name, (kind, settings, schedule) in plans().items():
        steps = range(14)
        yield f"update/rates/{name}", np.array([[numpy(schedule(step)), schedule.at(step)] for step in steps])
        for engine in ("native", "keras"):
            optimizer = getattr(optimizers, kind)(schedule, **settings, **common)
            if engine == "native":
                apply: Any = backends.current().updater(optimizer, variables)
            else:
                apply = lambda gradients, optimizer=optimizer: optimizer.apply(gradients, variables)  # noqa: E731
            path = [start]
            for gradients in made_up:
                for variable, value in zip(variables, start, strict=True):
                    variable.assign(value)  # each update on its own: what drifts is the fifth rung's
                apply(
                    [
                        ops.convert_to_tensor(g, dtype=v.dtype)
                        for g, v in zip(gradients, variables, strict=True)
                    ]
                )
                path.append([numpy(v) for v in variables])
            for i, variable in enumerate(variables):
                yield (
                    f"update/{name}/{engine}/{variable.path}",
                    np.stack([weights[i] for weights in path]),
                )


# Rungs 5 to 8


def train(
    subject: Subject,
    engine: str,
    mode: str | None,
    *,
    steps: int = STEPS,
    nudged: int | None = None,
    **more: Any,
) -> training.Run:
    """A run with all that can differ.

    Dropout and batch norm where the model has them, smoothed labels, a schedule with a warm-up, weight
    decay of some variables, clipping, a short batch at each epoch's end.
    """
    model = subject.build()
    if nudged is not None:
        nudge(model, nudged)
    data = subject.task()
    return training.train(
        model,
        data,
        engine=engine,
        mode=mode,
        steps=steps,
        batch_size=None if "resume" in more else BATCH,
        seed=None if "resume" in more else SEED,
        optimizer=None if "resume" in more else training_optimizer(subject.plan),
        loss=subject.loss,
        label_smoothing=0.1 if subject.loss is None and data.loss == "cross_entropy" else None,
        progress=False,
        **more,
    )


def nudged(subject: Subject) -> Iterator[tuple[str, Array]]:
    """Runs whose every initial weight is moved by one unit in the last place."""
    for i in range(NUDGES):
        yield f"nudged/{i}", np.array(train(subject, "native", None, nudged=i).losses)


def training_optimizer(plan: Any) -> Any:
    """The recipe's optimizer with a warm-up, exemptions and clipping."""
    from zoo import optimizers, schedules

    kind, settings = ("AdamW", {}) if plan is None else (plan.optimizer, dict(plan.settings))
    rate = settings.pop("learning_rate", 1e-3)
    rate = rate if isinstance(rate, float) else 1e-3
    schedule = schedules.WarmupDecay(rate, 10, STEPS, decay="cosine")
    return getattr(optimizers, kind)(
        schedule,
        **{"weight_decay": 0.01, **settings},
        global_clipnorm=1.0,
        groups={"bias|gamma|beta": {"weight_decay": 0.0}},
    )


def nudge(model: keras.Model, number: int) -> None:
    """Move every trainable weight by one unit in the last place, up or down."""
    for variable in model.trainable_variables:
        value = numpy(variable)
        up = random.generator("nudge", number, variable.path).random(value.shape) < 0.5
        ends = np.array([-np.inf, np.inf], value.dtype)
        variable.assign(np.nextafter(value, ends[up.astype(int)]))


def numpy(value: Any) -> Array:
    """A tensor or variable as an array of its own."""
    return np.array(ops.convert_to_numpy(value))


def _first(x: Any, count: int) -> Any:
    return {name: a[:count] for name, a in x.items()} if isinstance(x, Mapping) else x[:count]


if __name__ == "__main__":
    serve(Probe)
