"""One side of a comparison, in a process of its own: `python -m zoo.ports.side FOLDER`.

`zoo.ports.run` starts one for each implementation. Arrays travel as .npz files in the folder.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends
from zoo.backends.recording import Model, Recorder, model_of, recorder_of
from zoo.backends.stepping import Stepper, stepper_of
from zoo.errors import WrongConfiguration
from zoo.ladder.causes.trace import Array, arrays, named_by_step, steps_of
from zoo.processes.builders import load_builder
from zoo.processes.workers import Answer, serve
from zoo.storage import reason

DEPTH = 3  # of builders that return builders


class Side:
    """Serves `zoo.ports.run`: builds a model, and computes what is compared."""

    def __init__(self, folder: Path, answer: Answer):
        self.folder, self.answer = folder, answer
        self.model: Model
        self.inputs: Any = None
        self.shown = time.monotonic()
        Recorder.progress = self.progress

    def progress(self, operations: int) -> None:
        """Answer how many operations of a pass are done, once a second."""
        if (now := time.monotonic()) > self.shown + 1:
            self.shown = now
            self.answer(operations=operations)

    def load(self, *, source: str, inputs: str, moves: bool) -> None:
        """Build the model, and find the layout in which it takes the inputs."""
        backends.use(os.environ["KERAS_BACKEND"], threads=1)
        given = _inputs(Path(inputs))
        built = _build(source)
        layouts = list(_moved(given)) if moves else [("as given", given)]
        errors: list[Exception] = []
        for words, arguments in layouts:
            try:
                self.model = model_of(built, arguments)
                outputs, recorder = self.model.run(arguments)
            except WrongConfiguration:
                raise
            except Exception as error:  # whatever a user's model raises
                errors.append(error)
                continue
            self.inputs = arguments
            _save(f"{self.folder / 'initial'}", self.model.weights())
            _save(f"{self.folder / 'initial'}-indices", recorder.indices)
            self.save_pass("initial", outputs, recorder)
            self.answer(last=True, kind=self.model.kind, inputs=words, trains=self.model.trains)
            return
        shapes = ", ".join(str(np.shape(x)) for x in _flat(given))
        reasons = "; ".join(
            f"{words}, {type(error).__name__}: {reason(error)}"
            for (words, _), error in zip(layouts, errors, strict=True)
        )
        raise WrongConfiguration(f"the model does not take inputs of shape {shapes}: {reasons}")

    def record(self, *, name: str, weights: str | None, replacements: str | None) -> None:
        """Run the model with these weights, or those it has, and write its operations and values."""
        if weights:
            self.model.set_weights(arrays(Path(weights)))
        outputs, recorder = self.model.run(self.inputs, arrays(Path(replacements)) if replacements else None)
        self.save_pass(name, outputs, recorder)
        if weights:
            self.check_weights(arrays(Path(weights)))
        self.answer(last=True)

    def save_pass(self, name: str, outputs: list[Array], recorder: Recorder) -> None:
        """NAME.json, the operations, and NAME-values.npz and NAME-outputs.npz, what they computed."""
        path = self.folder / name
        path.with_suffix(".json").write_text(json.dumps(recorder.facts(), default=str))
        _save(f"{path}-values", recorder.values)
        _save(f"{path}-outputs", {str(i): y for i, y in enumerate(outputs)})

    def check_weights(self, given: Mapping[str, Array]) -> None:
        """Raise WrongConfiguration unless the model holds exactly these."""
        held = self.model.weights()
        for name, array in given.items():
            rounded = np.asarray(array, held[name].dtype)
            if not np.array_equal(held[name], rounded, equal_nan=True):
                raise WrongConfiguration(
                    f"{name} is not what was copied into it; expected a weight that keeps it"
                )

    def perturb(self, *, name: str, weights: str) -> None:
        """Run with every weight and input one unit in the last place off, and write the values."""
        inputs = self.inputs
        signs = np.random.Generator(np.random.Philox(3))
        self.model.set_weights({n: _next(w, signs) for n, w in arrays(Path(weights)).items()})
        if isinstance(inputs, Mapping):
            moved: Any = {n: _next(x, signs) for n, x in inputs.items()}
        else:
            moved = [_next(x, signs) for x in inputs]
        outputs, recorder = self.model.run(moved)
        self.model.set_weights(arrays(Path(weights)))
        _save(f"{self.folder / name}-values", recorder.values)
        _save(f"{self.folder / name}-outputs", {str(i): y for i, y in enumerate(outputs)})
        self.answer(last=True)

    def gradients(self, *, name: str, targets: str, training: bool) -> None:
        """Write the loss and the gradients of all weights, for targets in the outputs' order."""
        given = arrays(Path(targets))
        loss, found = self.model.gradients(self.inputs, [given[str(i)] for i in range(len(given))], training)
        _save(f"{self.folder / name}-gradients", found)
        self.answer(last=True, loss=loss)

    def optimize(self, *, name: str, source: str, weights: str, gradients: str) -> None:
        """Steps of an optimizer on given gradients: see `save_steps`."""
        given = steps_of(arrays(Path(gradients)))
        stepper = self.stepper(source, arrays(Path(weights)))
        rates, kept = [], [arrays(Path(weights))]
        for each in given:
            rates.append(stepper.rate())
            kept.append(stepper.step(each))
        self.save_steps(name, stepper, kept, given, rates)

    def descend(
        self, *, name: str, source: str, targets: str, weights: str, steps: int, constants: Sequence[str]
    ) -> None:
        """Steps of an optimizer on the model's own gradients; the model then has its weights again.

        `constants` are weights that are not trained.
        """
        start, given = arrays(Path(weights)), arrays(Path(targets))
        wanted = [given[str(i)] for i in range(len(given))]
        losses, rates, gradients, kept, stepper = [], [], [], [], None
        for _ in range(steps):
            loss, found = self.model.gradients(self.inputs, wanted, False)
            losses.append(loss)
            gradients.append(found := {n: g for n, g in found.items() if n not in constants})
            if stepper is None:
                kept.append({n: start[n] for n in found})
                stepper = self.stepper(source, kept[0])
            rates.append(stepper.rate())
            kept.append(stepper.step(found))
            self.model.set_weights(kept[-1])
        self.model.set_weights(start)
        assert stepper is not None
        self.save_steps(name, stepper, kept, gradients, rates, losses)

    def stepper(self, source: str, weights: Mapping[str, Array]) -> Stepper:
        """The optimizer of a file, a module or a pickle."""
        backends.use(os.environ["KERAS_BACKEND"], threads=1)
        return stepper_of(load_builder(source), weights)

    def save_steps(
        self,
        name: str,
        stepper: Stepper,
        weights: Sequence[Mapping[str, Array]],
        gradients: Sequence[Mapping[str, Array]],
        rates: Sequence[float | None],
        losses: Sequence[float] = (),
    ) -> None:
        """Write NAME-steps.npz and NAME-gradients.npz, whose names are STEP/WEIGHT, and answer."""
        for suffix, steps in (("steps", weights), ("gradients", gradients)):
            _save(f"{self.folder / name}-{suffix}", named_by_step(steps))
        settings = {n: stepper.settings(n) for n in weights[0]}
        self.answer(last=True, kind=stepper.kind, rates=rates, losses=losses, settings=settings)

    def train(self, *, name: str) -> None:
        """Write the weights that a forward pass in training mode changes."""
        _save(f"{self.folder / name}-state", self.model.train(self.inputs))
        self.answer(last=True)

    def set(self, *, weights: str) -> None:
        """Copy these weights into the model."""
        self.model.set_weights(arrays(Path(weights)))
        self.answer(last=True)


def _build(source: str) -> Any:
    """What the builder of a file, a module or a pickle returns, in float64 if it is a Keras model."""
    made = _call(load_builder(source))
    keras = sys.modules.get("keras")
    if recorder_of(made) == "record_keras" and keras is not None and keras.config.floatx() != "float64":
        from zoo.ladder.probe import use_float64

        use_float64()
        keras.utils.clear_session()
        made = _call(load_builder(source))
    return made


def _call(made: Any) -> Any:
    for _ in range(DEPTH):
        if recorder_of(made) is not None or not callable(made):
            break
        made = made()
    return made


def _inputs(path: Path) -> Any:
    """Named arrays, or a list where the names are numbers."""
    found = arrays(path)
    return [found[str(i)] for i in range(len(found))] if "0" in found else found


def _flat(inputs: Any) -> list[Array]:
    return list(inputs.values()) if isinstance(inputs, Mapping) else list(inputs)


def _moved(inputs: Any) -> Iterator[tuple[str, Any]]:
    """The inputs as given, then with channels last or first in every image or sequence."""
    yield "as given", inputs
    if not any(np.ndim(x) > 2 for x in _flat(inputs)):
        return
    for words, source, target in (("channels last", 1, -1), ("channels first", -1, 1)):
        move = lambda x, s=source, t=target: np.moveaxis(x, s, t) if np.ndim(x) > 2 else x  # noqa: E731
        moved = (
            {n: move(x) for n, x in inputs.items()}
            if isinstance(inputs, Mapping)
            else list(map(move, inputs))
        )
        yield words, moved


def _next(x: Array, signs: np.random.Generator) -> Array:
    if x.dtype.kind != "f":
        return x
    return np.nextafter(x, np.where(signs.random(x.shape) < 0.5, np.inf, -np.inf).astype(x.dtype))


def _save(path: str, named: Mapping[str, Array]) -> None:
    np.savez(f"{path}.npz", allow_pickle=False, **named)  # type: ignore[arg-type]


if __name__ == "__main__":
    serve(Side)
