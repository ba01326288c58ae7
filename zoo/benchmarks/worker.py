"""One job of a benchmark, in a process of its own. Commands, see `zoo.processes.workers`:

    alone           the first step, the loss after a burst, and peak memory of one implementation
    interleaved     the times of several implementations in turn
    build           the time to build a model

A job names the model, the framework and the implementations.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from importlib import import_module
from itertools import repeat
from pathlib import Path
from typing import Any

from zoo import backends, random, registry
from zoo._lazy import ops
from zoo.benchmarks.implementations import Implementation, find_reference
from zoo.benchmarks.workload import GENERATED, PROMPT, batch
from zoo.benchmarks.workload import build as build_model
from zoo.errors import BackendError
from zoo.generation import generate
from zoo.processes.workers import Answer, serve
from zoo.registry import Card
from zoo.training import engines, objectives
from zoo.training.recipes import recipe
from zoo.weights import to_torch

Record = dict[str, Any]
Burst = Callable[[int], float]  # runs so many steps and returns the last loss
SETTINGS = ("learning_rate", "weight_decay")  # of AdamW: what a reference takes of a recipe


# Commands


def alone(implementation: Implementation, job: Record) -> Record:
    """The time of the first step, the loss after a burst, and the peak memory of this process."""
    burst = make(implementation, job)
    _reset_peak_memory()
    start = time.perf_counter()
    burst(1)
    first = time.perf_counter() - start
    loss = burst(job["burst"])
    return {
        "first_step_s": first,
        "loss": loss if job["what"] != "infer" else None,
        "peak_mb": backends.current().peak_memory() / 2**20,
    }


def interleaved(implementations: Sequence[Implementation], job: Record) -> dict[str, list[float]]:
    """Milliseconds a step, one number a burst, the implementations in turn within each round."""
    bursts = {implementation.name: make(implementation, job) for implementation in implementations}
    times: dict[str, list[float]] = {name: [] for name in bursts}
    for burst in bursts.values():
        burst(2 * job["burst"])
    order = list(bursts.items())
    for _ in range(job["rounds"]):
        order.reverse()  # so that none always follows the same one
        for name, burst in order:
            burst(1)  # not timed: it allocates again what the one before gave back to the system
            start = time.perf_counter()
            burst(job["burst"])
            times[name].append((time.perf_counter() - start) * 1e3 / job["burst"])
    return times


def build(implementation: Implementation, job: Record) -> Record:
    """Seconds to build a model with its initial weights, once its libraries are imported."""
    card = registry.card(job["model"])
    device = nullcontext()
    if implementation.kind == "plain":
        make, device = _module(card).reference(card.name).build, backends.current().on_device()
    else:
        make = partial(registry.build, card.name)
        registry.build("mlp")  # imports Keras
    start = time.perf_counter()
    with device:
        model = make()
    seconds = time.perf_counter() - start
    del model
    return {"build_s": seconds, "peak_mb": backends.current().peak_memory() / 2**20}


# An implementation, ready to run


def make(implementation: Implementation, job: Record) -> Burst:
    """The implementation, ready to run."""
    from zoo import optimizers

    card = registry.card(job["model"])
    if job["what"] == "generate":
        return _generation(implementation, card)
    x, y, loss = batch(card, job["batch_size"])
    settings = {name: recipe(card.recipe).settings[name] for name in SETTINGS}
    if implementation.kind == "plain":
        return _reference_steps(card, implementation.mode, job["what"], x, y, settings)
    model = build_model(card)
    if job["what"] == "infer":
        return _model_inference(model, implementation, x)
    objective, optimizer = objectives.Objective(loss), optimizers.AdamW(**settings)
    if implementation.kind == "zoo":
        engine: Any = engines.make_engine("native", model, objective, optimizer, implementation.mode)
        tx, ty = backends.tensors(x), backends.current().tensor(y)
        return _training(lambda: engine.step(tx, ty))
    return _keras_fit(engines.make_engine("keras", model, objective, optimizer, "fit"), x, y)


def _reference_steps(card: Card, mode: str, what: str, x: Any, y: Any, settings: Record) -> Burst:
    reference, weights = reference_and_weights(card)
    with backends.current().on_device():
        px, py = reference.prepare(x, y)
        if what == "infer":
            predict = reference.predictor(weights, mode=mode)
            return _inference(lambda: predict(px))
        step, _ = reference.trainer(weights, mode=mode, **settings)
    return _training(lambda: step(px, py))


def _model_inference(model: Any, implementation: Implementation, x: Any) -> Burst:
    if implementation.kind == "keras":
        return _inference(lambda: model.predict_on_batch(x), synchronize=False)  # gives an array
    predict, tx = backends.current().predictor(model, implementation.mode), backends.tensors(x)
    return _inference(lambda: predict(tx))


def _keras_fit(engine: engines.Engine, x: Any, y: Any) -> Burst:
    def burst(steps: int) -> float:
        losses: list[float] = []
        countdown = engines.Countdown(steps, lambda loss: losses.append(engines.number(loss)))
        engine.fit(repeat((x, y)), countdown)
        return losses[-1]

    return burst


def _training(step: Callable[[], Any]) -> Burst:
    def burst(steps: int) -> float:
        for _ in range(steps - 1):
            step()
        return float(_numpy(step()))

    return burst


def _inference(predict: Callable[[], Any], *, synchronize: bool = True) -> Burst:
    def burst(steps: int) -> float:
        for _ in range(steps - 1):
            predict()
        logits = predict()
        if synchronize:
            backends.current().synchronize(logits)
        return 0.0

    return burst


def _generation(implementation: Implementation, card: Card) -> Burst:
    """One text a step. Raises WrongConfiguration for a model that does not generate."""
    prompt = random.generator(0, "bench").integers(3, 259, PROMPT, dtype="int32")
    if implementation.kind == "plain":
        reference, weights = reference_and_weights(card)
        with backends.current().on_device():
            text = partial(reference.generator(weights), prompt, GENERATED)
    else:
        text = partial(generate, build_model(card), prompt, GENERATED, temperature=0)

    def burst(steps: int) -> float:
        tokens = [text() for _ in range(steps)]
        return float(sum(tokens[-1]))  # in place of a loss: all must generate the same

    return burst


# References


def reference_and_weights(card: Card) -> tuple[Any, Any]:
    """The reference of a model, and the weights that it starts from, in its order or by its names."""
    module, model = _module(card), build_model(card)
    if not hasattr(module, "reference"):
        return module, [_numpy(v) for v in model.trainable_variables]
    reference = module.reference(card.name)
    return reference, _named_weights(model, reference.layout)


def _module(card: Card) -> Any:
    """The module of the reference. Raises BackendError, with the package to install."""
    name = find_reference(card.name, backends.current().NAME)
    assert name is not None
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise BackendError(f"the reference implementation needs {package}: pip install {package}") from None


def _named_weights(model: Any, layout: str) -> Mapping[str, Any]:
    """The weights by a layout's names: arrays by the zoo's own, torch's tensors by any other."""
    if layout == "zoo":
        return {v.path: _numpy(v) for v in model.variables}
    return to_torch(model, layout)


def _reset_peak_memory() -> None:
    """The peak memory of the process is then that of the steps, without that of their preparation."""
    gc.collect()
    with suppress(OSError):  # Linux only
        Path("/proc/self/clear_refs").write_text("5")


def _numpy(value: Any) -> Any:
    return ops.convert_to_numpy(value)


class Service:
    """Executes one command, and answers with its result."""

    def __init__(self, folder: Path, answer: Answer):
        del folder
        self.answer = answer

    def alone(self, *, job: Record) -> None:
        self.answer(last=True, **alone(prepare(job)[0], job))

    def interleaved(self, *, job: Record) -> None:
        self.answer(last=True, **interleaved(prepare(job), job))

    def build(self, *, job: Record) -> None:
        self.answer(last=True, **build(prepare(job)[0], job))


def prepare(job: Record) -> list[Implementation]:
    """Choose the job's framework and device; its implementations."""
    backends.use(job["backend"], device=job["device"], threads=job["threads"])
    return [Implementation(*name.split(" ", 1)) for name in job["implementations"]]


if __name__ == "__main__":
    serve(Service)
