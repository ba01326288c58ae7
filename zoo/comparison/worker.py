"""One run of a comparison, in a process of its own: `python -m zoo.comparison.worker FOLDER`.

It imports one framework; the main process none. Commands, see `zoo.processes.workers`:

    train   trains; answers {"step", "loss"} from time to time, and at the end the facts of the run
    time    n more steps on one batch: {"ms": a step}
    drift   trains from a 1-ulp perturbation of the initial weights: {"losses"}
"""

from __future__ import annotations

import inspect
import time
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from zoo import backends, registry, tasks, tokenizers, training
from zoo._lazy import keras, ops
from zoo.ladder.rounding import perturb
from zoo.ladder.taps import layer_outputs
from zoo.layers import signature
from zoo.processes.workers import Answer, serve
from zoo.training import engines, plan
from zoo.training.chain import fingerprint


class Worker:
    """Keeps the trained run between commands, so that timing can be repeated."""

    def __init__(self, folder: Path, answer: Answer):
        self.folder, self.answer = folder, answer

    def train(self, *, setup: dict[str, Any], options: dict[str, Any]) -> None:
        model, task = prepare(**setup)
        current = backends.current()
        save_file(_weights(model), self.folder / "initial_weights.safetensors")
        with backends.exactly(options["exact"]) as exact:
            x = task.first(16)
            outputs = {"logits": predicted(model, x)} if exact else layer_outputs(model, x)
        np.savez(self.folder / "outputs.npz", allow_pickle=False, **outputs)  # keeps their order
        answered = 0.0

        def on_step(step: int, loss: Any) -> None:
            nonlocal answered
            if time.perf_counter() - answered > 0.2:
                answered = time.perf_counter()
                self.answer(step=step + 1, loss=engines.number(loss))

        run = training.train(model, task, progress=False, watch=on_step, **options)
        peak = current.peak_memory()
        save_file(_weights(run.model), self.folder / "final_weights.safetensors")
        logits = [run.trainer.predict(x) for x, _ in run.task.held_out(run.batch_size)]
        predictions = [each.argmax(-1).ravel() for each in logits]
        np.savez(self.folder / "predictions.npz", predictions=np.concatenate(predictions))
        self.run, self.batch = run, next(run.task.batches(run.batch_size, run.seed, 0))
        self.answer(
            last=True,
            mode=run.mode,
            losses=run.losses,
            hash=fingerprint([*_weights(run.model).values(), run.losses, *logits]) if run.exact else None,
            metrics=run.metrics,
            steps=len(run.losses),
            batch_size=run.batch_size,
            first_step_s=run.first_step_s,
            train_s=run.train_s,
            peak_mb=peak / 2**20,
            version=current.version(),
            device=setup["device"] or current.devices()[0].name,
            code=inspect.getsource(type(getattr(run.trainer, "step", run.trainer))),
        )

    def time(self, *, steps: int) -> None:
        start = time.perf_counter()
        self.run.trainer.fit(repeat(self.batch), engines.Countdown(steps))
        self.answer(last=True, ms=(time.perf_counter() - start) * 1e3 / steps)

    def drift(self, *, setup: dict[str, Any], options: dict[str, Any], perturbation: int) -> None:
        model, task = prepare(**setup)
        perturb(model, perturbation)
        self.answer(last=True, losses=training.train(model, task, progress=False, **options).losses)


def prepare(
    *,
    model: str,
    backend: str,
    threads: int | None,
    device: str | None,
    task: str | None,
    tokenizer: str | None,
    errors: str,
    seed: int,
    workers: int | None = None,
) -> tuple[keras.Model, tasks.Task]:
    """The model with its initial weights, and the data."""
    backends.use(backend, threads=threads, device=device, workers=workers)
    card, reader = registry.card(model), tokenizers.resolve(tokenizer)
    name = task or card.task
    built = plan.plan_model(model, name, tokenizer=reader).build(seed)
    return built, tasks.load(name, signature.input_shapes(built), card.preprocessing, reader, errors=errors)


def predicted(model: keras.Model, x: Any) -> np.ndarray:
    """The model's logits, by the backend in use."""
    current = backends.current()
    predict = current.predictor(model, backends.MODES[current.NAME][0])
    return ops.convert_to_numpy(predict(backends.tensors(x)))


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.ascontiguousarray(ops.convert_to_numpy(v)) for v in model.variables}


if __name__ == "__main__":
    serve(Worker)
