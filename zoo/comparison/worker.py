"""One run of a comparison, in a process of its own: `python -m zoo.comparison.worker FOLDER`.

It imports one framework; the orchestrator none. Commands, see `zoo.processes.workers`:

    train   trains; answers {"step", "loss"} now and then, and at the end the facts of the run
    time    n more steps on one batch: {"ms": a step}
    drift   trains from weights a unit in the last place off: {"losses"}
"""

from __future__ import annotations

import inspect
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from zoo import backends, registry, tasks, tokenizers, training
from zoo._lazy import keras, ops
from zoo.ladder import probe, taps
from zoo.layers import signature
from zoo.processes.workers import Answer, serve
from zoo.training import engines, plan


class Worker:
    """Holds the trained run between commands, so that timings can be repeated."""

    def __init__(self, folder: Path, answer: Answer):
        self.folder, self.answer = folder, answer

    def train(self, *, subject: dict[str, Any], how: dict[str, Any]) -> None:
        built, data = prepare(**subject)
        current = backends.current()
        save_file(_weights(built), self.folder / "initial_weights.safetensors")
        outputs = taps.layer_outputs(built, data.first(16))
        np.savez(self.folder / "outputs.npz", allow_pickle=False, **outputs)  # keeps the layers in order
        last = 0.0

        def watch(step: int, loss: Any) -> None:
            nonlocal last
            if time.perf_counter() - last > 0.2:
                last = time.perf_counter()
                self.answer(step=step + 1, loss=engines.number(loss))

        run = training.train(built, data, progress=False, watch=watch, **how)
        peak = current.peak_memory()
        save_file(_weights(run.model), self.folder / "final_weights.safetensors")
        best = [run.stepper.predict(x).argmax(-1).ravel() for x, _ in run.task.held_out(512)]
        np.savez(self.folder / "predictions.npz", predictions=np.concatenate(best))
        self.run, self.batch = run, next(run.task.batches(run.batch_size, run.seed, 0))
        self.answer(
            last=True,
            mode=run.mode,
            losses=run.losses,
            metrics=run.metrics,
            steps=len(run.losses),
            batch_size=run.batch_size,
            first_step_s=run.first_step_s,
            train_s=run.train_s,
            peak_mb=peak / 2**20,
            version=current.version(),
            device=subject["device"] or current.devices()[0].name,
            code=inspect.getsource(type(getattr(run.stepper, "step", run.stepper))),
        )

    def time(self, *, steps: int) -> None:
        engine, batch, done = self.run.stepper, self.batch, 0

        def on_step(value: Any) -> bool:
            nonlocal done
            done += 1
            if done == steps:
                engines.number(value)
            return done >= steps

        start = time.perf_counter()
        engine.fit((batch for _ in count()), steps, steps, on_step, lambda: False)
        self.answer(last=True, ms=(time.perf_counter() - start) * 1e3 / steps)

    def drift(self, *, subject: dict[str, Any], how: dict[str, Any], nudge: int) -> None:
        built, data = prepare(**subject)
        probe.perturb(built, nudge)
        self.answer(last=True, losses=training.train(built, data, progress=False, **how).losses)


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
) -> tuple[keras.Model, tasks.Task]:
    """The model with its initial weights, and the data."""
    backends.use(backend, threads=threads, device=device)
    card, code = registry.card(model), tokenizers.found(tokenizer)
    named = task or card.task
    built = registry.build(model, seed=seed, **plan.task_arguments(card, named, tokenizer=code))
    return built, tasks.load(named, signature.input_shapes(built), card.preprocessing, code, errors=errors)


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.ascontiguousarray(ops.convert_to_numpy(v)) for v in model.variables}


if __name__ == "__main__":
    serve(Worker)
