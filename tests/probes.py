"""What one framework computes, written to a file: `python tests/probes.py OUT.npz`, KERAS_BACKEND chooses.

`test_parity.py` runs this once a framework, each in its own process, and compares the arrays.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import keras
import numpy as np

import zoo
from zoo import backends, ladder, random, registry, tasks

Array = np.ndarray
SEED = 3


def main(path: str) -> None:
    zoo.use(keras.backend.backend(), threads=1)
    np.savez(path, **dict(everything()))


def everything() -> Iterator[tuple[str, Array]]:
    """(name, array); names start with the probe's."""
    backend = backends.current()
    step = backend.tensor(np.int32(5))
    for compiled in (False, True):
        wrap = backend.compile if compiled else lambda f: f
        how = "compiled" if compiled else "eager"
        yield f"bits/{how}", numpy(wrap(lambda s: random.bits((64, 128), -77, s))(step))
        yield f"masks/{how}", numpy(wrap(lambda s: random.keep((64, 128), 0.3, 123456, s))(step))
    for name in registry.list_models():
        small = registry.card(name).small
        yield from prefixed(f"full weights/{name}", weights(zoo.build(name, seed=SEED)))
        model = zoo.build(name, seed=SEED, **small)
        yield from prefixed(f"weights/{name}", weights(model))
        inputs = zoo.example(model, batch=8, seed=1)
        yield from prefixed(f"forward/{name}", ladder.layer_outputs(model, inputs))
        labels = np.arange(8, dtype=np.int32) % model.output_shape[-1]
        loss = backend.cross_entropy
        value, gradients = backend.gradients(model, loss)(backend.tensor(inputs), backend.tensor(labels))
        yield f"gradients/{name}/loss", numpy(value)
        for variable, gradient in zip(model.trainable_variables, gradients, strict=True):
            yield f"gradients/{name}/{variable.path}", numpy(gradient)
    for name in registry.list_models():
        for i in range(8 if backend.NAME == "torch" else 0):  # cheapest there: no compiler
            model = zoo.build(name, seed=SEED, **registry.card(name).small)
            nudge(model, i)
            run = train(model, "native", None)
            yield f"nudged training/{name}/{i}", np.array(run.losses)
        for engine, mode in ways():
            model = zoo.build(name, seed=SEED, **registry.card(name).small)
            run = train(model, engine, mode)
            yield f"training/{name}/{engine} {run.mode}/losses", np.array(run.losses)
            logits = run.stepper.predict(run.task.train[0])
            yield f"training/{name}/{engine} {run.mode}/predictions", logits.argmax(-1)
            yield from prefixed(f"trained weights/{name}/{engine} {run.mode}", weights(model))


def train(model: keras.Model, engine: str, mode: str | None) -> zoo.Run:
    task = toy_task(registry.card(model.name))
    return zoo.train(
        model, task, engine=engine, mode=mode, steps=30, batch_size=12, seed=SEED, progress=False
    )


def nudge(model: keras.Model, number: int) -> None:
    """Move every trainable weight by one unit in the last place, up or down."""
    for variable in model.trainable_variables:
        value = numpy(variable)
        up = random.generator("nudge", number, variable.path).random(value.shape) < 0.5
        variable.assign(np.nextafter(value, np.where(up, np.float32(np.inf), np.float32(-np.inf))))


def ways() -> list[tuple[str, str | None]]:
    """Every engine and mode; torch's compiled one is the same graph as traced, tested apart."""
    modes = [m for m in backends.MODES[backends.current().NAME] if m != "compiled"]
    return [("keras", None), *(("native", mode) for mode in modes)]


def toy_task(card: registry.Card) -> tasks.Task:
    """Digits at the size of a small configuration, of the classes it tells apart; the last batch is short."""
    shape = {**card.arguments, **card.small}.get("shape")
    size = card.small.get("image_size")
    shape = shape or ((size, size, 1) if size else card.input)
    full = tasks.load("digits", tuple(shape))
    x, y = full.train
    chosen = np.flatnonzero(y < card.small.get("classes", 10))[:100]
    return tasks.from_arrays((x[chosen], y[chosen]), loss=None)


def weights(model: keras.Model) -> dict[str, Array]:
    return {v.path: numpy(v) for v in model.variables}


def prefixed(prefix: str, arrays: dict[str, Array]) -> Iterator[tuple[str, Array]]:
    return ((f"{prefix}/{name}", array) for name, array in arrays.items())


def numpy(value: object) -> Array:
    return np.asarray(keras.ops.convert_to_numpy(value))


if __name__ == "__main__":
    main(sys.argv[1])
