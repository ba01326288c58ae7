"""What one framework computes, rung by rung, in a process of its own: `python -m zoo.ladder.probe FOLDER`.

`zoo.ladder.run` starts one for each framework and float type, and compares the arrays that they write. The
name of an array begins with its rung: "forward/conv1", "gradients/weights/conv1/kernel", "training/native".
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, random, training
from zoo._lazy import keras, ops
from zoo.ladder import variants
from zoo.ladder.bounds import PERTURBED_RUNS
from zoo.ladder.networks import SEED, Network, check, load_network, registered_network, save_weights
from zoo.ladder.noise import same_noise
from zoo.ladder.rounding import numpy, perturb, spreads_of
from zoo.processes.workers import Answer, serve
from zoo.training.recipes import Recipe

Array = np.ndarray
Named = Iterator[tuple[str, Array]]

STEPS = 100  # of the training rung
EXACT_STEPS = 5  # of rung 0
OTHER_STEPS = 10  # of the modes that are not the default
SAVED_AFTER = 60  # the step after which the last epoch's checkpoint is taken
BATCH = 12  # does not divide the number of examples: the last batch is short


def use_float64() -> None:
    """Compute in float64 throughout: what differs then is not rounding.

    On JAX and torch, Keras maps float64 to float32 when it infers the type of an operation, by a private
    table, which is changed only here. JAX also needs JAX_ENABLE_X64, which `zoo.ladder.run` sets.
    """
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    dtypes: Any = import_module("keras.src.backend.common.dtypes")
    dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"


class Probe:
    """Serves `zoo.ladder.run`: computes the rungs of one network at a time, and writes their arrays."""

    def __init__(self, folder: Path, answer: Answer):
        self.folder, self.answer = folder, answer
        backends.use(
            os.environ["KERAS_BACKEND"],
            device=os.environ["ZOO_PARITY_DEVICE"],
            threads=int(os.environ.get("ZOO_PARITY_THREADS", 1)),
        )
        if os.environ["ZOO_PARITY_DTYPE"] == "float64":
            use_float64()
        self.backend = backends.current()

    def compute(
        self,
        *,
        model: str,
        folder: str | None,
        rungs: list[int],
        modes: list[str],
        chaos: bool,
        fault: str | None = None,
    ) -> None:
        """Write `MODEL.npz` for these rungs, and answer with the facts of `zoo.ladder.taps.Taps`."""
        from zoo.ladder.faults import injected

        self.backend.clear_cache()  # of the model before
        facts: dict[str, Any] = {"left_out": []}  # sentences
        with injected(fault), same_noise() as drawn:
            network = load_network(Path(folder)) if folder else registered_network(model)
            parts: list[tuple[set[int], Callable[[], Named]]] = [
                ({1}, lambda: initial(network, compiled="compiled" in modes)),
                ({2, 3}, lambda: flow(network, rungs, facts)),
                ({4}, lambda: updates(network)),
                ({9}, lambda: variants.of_any_model(9, variants.batch, network, facts)),
            ]
            if network.targets is not None:
                parts.append(({5, 6, 7, 8}, lambda: self.training(network, model, rungs, modes)))
            if network.targets is not None:
                parts.append(({10}, lambda: variants.of_any_model(10, variants.accumulation, network, facts)))
            if os.environ["ZOO_PARITY_DTYPE"] == "float32":
                parts.append(({11}, lambda: variants.of_any_model(11, variants.precision, network, facts)))
            if network.targets is not None and chaos:
                parts.append(({5, 7, 8}, lambda: perturbed(network)))
            arrays: dict[str, Array] = {}
            done: set[int] = set()
            for numbers, part in parts:
                if numbers & set(rungs):
                    arrays.update(part())
                    done |= numbers & set(rungs)
                    self.answer(rungs_done=len(done))
        np.savez(self.folder / f"{model}.npz", allow_pickle=False, **arrays)
        facts["noise"] = sorted(drawn)
        self.answer(last=True, facts=facts)

    def training(self, network: Network, name: str, rungs: list[int], modes: list[str]) -> Named:
        """Rungs 5 to 7, and the checkpoint of rung 8."""
        path = self.folder / f"{name}.safetensors"

        def copy(step: int, _: Any) -> None:
            if step == SAVED_AFTER:
                shutil.copy(path.with_suffix(".part"), path)

        save = {"checkpoint": path.with_suffix(".part"), "watch": copy} if 8 in rungs else {}
        for engine in ("native", "keras"):
            run = train(network, engine, **(save if engine == "native" else {}))
            yield f"training/{engine}", np.array(run.losses)
            if 6 in rungs:
                yield f"evaluation/{engine}", run.trainer.predict(run.task.train[0]).argmax(-1)
        if 7 in rungs:
            for mode in (m for m in backends.MODES[self.backend.NAME][1:] if m in modes):
                yield f"modes/{mode}", np.array(train(network, "native", mode, steps=OTHER_STEPS).losses)

    def resume(
        self, *, model: str, folder: str | None, files: dict[str, str], fault: str | None = None
    ) -> None:
        """Resume from the checkpoints of other frameworks, and write `MODEL-resumed.npz`."""
        from zoo.ladder.faults import injected

        with injected(fault), same_noise():
            network = load_network(Path(folder)) if folder else registered_network(model)
            losses = {
                name: np.array(train(network, "native", resume=path).losses) for name, path in files.items()
            }
        np.savez(self.folder / f"{model}-resumed.npz", allow_pickle=False, **losses)
        self.answer(last=True)

    def record(self, *, model: str, folder: str | None, fault: str | None = None) -> None:
        """Write `MODEL-recorded.npz` and `.json`: the operations that `zoo.ladder.explain` recomputes."""
        from zoo.ladder.explain import record
        from zoo.ladder.faults import injected

        with injected(fault), same_noise():
            network = load_network(Path(folder)) if folder else registered_network(model)
            record(network, self.folder / f"{model}-recorded")
        self.answer(last=True)

    def part(self, *, model: str, folder: str | None, name: str, fault: str | None = None) -> None:
        """Write `MODEL-NAME.npz`: the "bits" of rung 0, "threads" of rung 9, or "reference" of rung 11."""
        from zoo.ladder.faults import injected

        number, compute = {
            "bits": (0, bits), "threads": (9, variants.front), "reference": (11, variants.reference)
        }[name]  # fmt: skip
        with injected(fault), same_noise():
            network = load_network(Path(folder)) if folder else registered_network(model)
            facts: dict[str, Any] = {"left_out": []}  # it is that of `compute`
            arrays = dict(variants.of_any_model(number, lambda n, _: compute(n), network, facts))
        np.savez(self.folder / f"{model}-{name}.npz", allow_pickle=False, **arrays)
        self.answer(last=True, facts=facts)

    def save_weights(self, *, folder: str) -> None:
        """Write the initial weights of a user's model, for the other frameworks to start from."""
        self.answer(last=True, architecture=save_weights(Path(folder)))

    def check(self, *, folder: str) -> None:
        """Build a user's model, and answer with its architecture."""
        self.answer(last=True, architecture=check(Path(folder)))


# Rung 0


def bits(network: Network) -> Named:
    """The gradients of the first step of an exact run, then losses, weights and optimizer state of others.

    A first step of Momentum makes its state the gradient.
    """
    if network.targets is None:
        return
    from zoo import optimizers

    runs = (("gradients", 1, {"optimizer": optimizers.Momentum(0.01)}), ("training", EXACT_STEPS, {}))
    for name, steps, options in runs:
        run = train(network, "native", steps=steps, exact=True, **options)
        state = {"losses": np.array(run.losses), **run.trainer.state_dict()}
        state |= {f"weights/{v.path}": numpy(v) for v in run.model.variables}
        yield from ((f"bits/{name}/{key}", value) for key, value in state.items())


# Rung 1


def initial(network: Network, *, compiled: bool) -> Named:
    """Weights, batches and the dropout masks of every layer; with `compiled`, also those of compiled code."""
    model = network.build()
    for i, variable in enumerate(model.weights):  # without the states of seed generators
        yield f"initial/weights/{i} {variable.path}", numpy(variable)
    if network.targets is not None:
        for epoch in range(2):
            for i, (x, y) in enumerate(network.task().batches(BATCH, SEED, epoch)):
                for name, part in (x if isinstance(x, Mapping) else {"x": x}).items():
                    yield f"initial/batches/{epoch}.{i}/{name}", part
                yield f"initial/batches/{epoch}.{i}/y", y
    backend = backends.current()
    for layer in model.layers:
        if hasattr(layer, "key") and hasattr(layer, "rate"):
            transforms: dict[str, Any] = {"eager": lambda f: f}
            transforms |= {"compiled": backend.compile} if compiled else {}
            for mode, transform in transforms.items():
                draw = transform(lambda step, layer=layer: random.keep((8, 32), layer.rate, layer.key, step))
                masks = [numpy(draw(backend.tensor(np.array(step, np.int32)))) for step in range(3)]
                yield f"initial/masks/{layer.name}/{mode}", np.stack(masks)


# Rungs 2 and 3


def flow(network: Network, rungs: list[int], facts: dict[str, Any]) -> Named:
    """The output of every operation, every gradient, and the non-trainable state after a training pass.

    Each with its spread under 1-ulp perturbations of weights and inputs, "spread/forward/conv1".
    """
    from zoo.ladder.taps import Taps

    model = network.build()
    x, y = network.first(8)
    taps = Taps(model, x)
    facts |= {"order": taps.order, "consumers": taps.consumers, "kinds": taps.kinds, "weights": taps.weights}

    def compute(x: Any) -> Named:
        if 2 in rungs:
            for label, value in taps.outputs(x).items():
                yield f"forward/{label}", value
        if 3 in rungs or model.non_trainable_variables:
            value, gradients, state = taps.gradients(x, y, network.loss)
            for layer, values in state.items():
                yield f"forward/state/{layer}", values
            yield "gradients/loss", value
            for name, gradient in gradients.items():
                yield f"gradients/{name}", gradient

    yield from spreads_of(model, x, compute)


# Rung 4


def optimizer_settings() -> dict[str, tuple[str, dict[str, Any], Any]]:
    """name -> (class, settings, schedule of 12 steps): every optimizer, and among them every schedule."""
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


def updates(network: Network) -> Named:
    """Twelve updates of every optimizer with random gradients, by the native optimizer and by Keras's.

    Each update starts from the same weights; the optimizer keeps its state.
    """
    from zoo import optimizers

    model = network.build()
    trainable = model.trainable_variables
    if not trainable:
        return  # all layers are frozen
    variables = trainable if len(trainable) <= 6 else [*trainable[:3], *trainable[-3:]]  # all are alike
    start = [numpy(v) for v in variables]
    gradients = [
        [random.generator("gradient", step, v.path).standard_normal(v.shape) for v in variables]
        for step in range(12)
    ]
    common = {
        "global_clipnorm": 0.5 * sum(x.size for x in start) ** 0.5,  # half the norm of these gradients
        "groups": {"bias|gamma|beta": {"weight_decay": 0.0}},
    }
    for name, (kind, settings, schedule) in optimizer_settings().items():
        steps = range(14)
        yield f"update/rates/{name}", np.array([[numpy(schedule(step)), schedule.at(step)] for step in steps])
        for engine in ("native", "keras"):
            optimizer = getattr(optimizers, kind)(schedule, **settings, **common)
            if engine == "native":
                apply: Any = backends.current().updater(optimizer, variables)
            else:
                apply = partial(optimizer.apply, trainable_variables=variables)
            paths = zip(*update_paths(apply, variables, start, gradients), strict=True)
            for variable, path in zip(variables, paths, strict=True):
                yield f"update/{name}/{engine}/{variable.path}", np.stack(path)


def update_paths(
    apply: Callable[[Any], Any], variables: list[Any], start: list[Array], gradients: list[list[Array]]
) -> Iterator[list[Array]]:
    """The weights before, and after each update from the same start."""
    yield start
    for step in gradients:
        for variable, value in zip(variables, start, strict=True):
            variable.assign(value)  # accumulated differences belong to rung 5
        apply([ops.convert_to_tensor(g, dtype=v.dtype) for g, v in zip(step, variables, strict=True)])
        yield [numpy(v) for v in variables]


# Rungs 5 to 8


def train(
    network: Network,
    engine: str,
    mode: str | None = None,
    *,
    steps: int = STEPS,
    perturbation: int | None = None,
    **options: Any,
) -> training.Run:
    """A run with everything that can differ.

    Dropout and batch norm where the model has them, label smoothing, a schedule with a warm-up, weight decay
    of some variables, clipping, a short batch at the end of each epoch.
    """
    model = network.build()
    if perturbation is not None:
        perturb(model, perturbation)
    task = network.task()
    if "resume" not in options:  # otherwise the checkpoint's
        options |= {"batch_size": BATCH, "seed": SEED, "optimizer": training_optimizer(network.recipe)}
    return training.train(
        model,
        task,
        engine=engine,
        mode=mode,
        steps=steps,
        loss=network.loss,
        label_smoothing=0.1 if network.loss is None and task.loss == "cross_entropy" else None,
        progress=False,
        **options,
    )


def perturbed(network: Network) -> Named:
    """Runs from 1-ulp perturbations of the initial weights."""
    for i in range(PERTURBED_RUNS):
        yield f"perturbed/{i}", np.array(train(network, "native", perturbation=i).losses)


def training_optimizer(recipe: Recipe | None) -> Any:
    """The recipe's optimizer with a warm-up, no weight decay of biases and norms, and clipping."""
    from zoo import optimizers, schedules

    kind, settings = ("AdamW", {}) if recipe is None else (recipe.optimizer, dict(recipe.settings))
    rate = settings.pop("learning_rate", 1e-3)
    rate = rate if isinstance(rate, float) else 1e-3
    schedule = schedules.WarmupDecay(rate, 10, STEPS, decay="cosine")
    return getattr(optimizers, kind)(
        schedule,
        **{"weight_decay": 0.01, **settings},
        global_clipnorm=1.0,
        groups={"bias|gamma|beta": {"weight_decay": 0.0}},
    )


if __name__ == "__main__":
    serve(Probe)
