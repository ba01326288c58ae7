"""One run of a comparison, in a process of its own: `python -m zoo.comparison.worker FOLDER`.

It imports one framework; the orchestrator none. Commands, see `zoo.workers`:

    train   trains; answers {"step", "loss"} now and then, and at the end the facts of the run
    time    n more steps on one batch: {"ms": a step}
"""

from __future__ import annotations

import inspect
import time
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from zoo import backends, registry, taps, tasks, tokenizers, training
from zoo._lazy import keras, ops
from zoo.workers import Tell, serve


class Worker:
    """Holds the trained run between commands, so that timings can be repeated."""

    def __init__(self, folder: Path, tell: Tell):
        self.folder, self.tell = folder, tell

    def train(
        self,
        *,
        model: str,
        backend: str,
        engine: str,
        mode: str | None,
        threads: int | None,
        device: str | None,
        **arguments: Any,
    ) -> None:
        backends.use(backend, threads=threads, device=device)
        current = backends.current()
        card = registry.card(model)
        task = arguments.pop("task") or card.task
        code = tokenizers.found(arguments.pop("tokenizer"))
        seed = arguments["seed"]
        built = registry.build(model, seed=seed, **training.fitting(card, task, tokenizer=code))
        save_file(_weights(built), self.folder / "initial_weights.safetensors")
        data = tasks.load(task, registry.input_shapes(built), card.preprocessing, code)
        outputs = taps.layer_outputs(built, data.first(16))
        np.savez(self.folder / "outputs.npz", allow_pickle=False, **outputs)  # keeps the layers in order
        last = 0.0

        def watch(step: int, loss: Any) -> None:
            nonlocal last
            if time.perf_counter() - last > 0.2:
                last = time.perf_counter()
                self.tell(step=step + 1, loss=training.number(loss))

        run = training.train(built, data, engine=engine, mode=mode, progress=False, watch=watch, **arguments)
        peak = current.peak_memory()
        save_file(_weights(run.model), self.folder / "final_weights.safetensors")
        best = [run.stepper.predict(x).argmax(-1).ravel() for x, _ in run.task.held_out(512)]
        np.savez(self.folder / "predictions.npz", predictions=np.concatenate(best))
        self.run, self.batch = run, next(run.task.batches(run.batch_size, seed, 0))
        self.tell(
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
            device=current.devices()[0].name if device is None else device,
            code=inspect.getsource(type(getattr(run.stepper, "step", run.stepper))),
        )

    def time(self, *, steps: int) -> None:
        engine, batch, done = self.run.stepper, self.batch, 0

        def on_step(value: Any) -> bool:
            nonlocal done
            done += 1
            if done == steps:
                training.number(value)
            return done >= steps

        start = time.perf_counter()
        engine.fit((batch for _ in count()), steps, steps, on_step, lambda: False)
        self.tell(last=True, ms=(time.perf_counter() - start) * 1e3 / steps)


def _weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.ascontiguousarray(ops.convert_to_numpy(v)) for v in model.variables}


if __name__ == "__main__":
    serve(Worker)
