"""The parity ladder: compares two frameworks in eight steps (rungs), and finds the first layer where they
differ.

    bounds      the claim and bounds of each rung, known exceptions
    networks    the models and data that are compared
    probe       what one framework computes of them, in a process of its own (taps: at every operation)
    rungs       the comparison of two frameworks' arrays, in NumPy
    run         the processes, and the table of the results
    faults      faults that the ladder must catch (injection: whether it does)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from zoo import registry, storage
from zoo._version import __version__
from zoo.backends import MODES
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.ladder.bounds import DTYPES, NUMBERS, RUNGS, Record
from zoo.ladder.networks import save_network
from zoo.ladder.run import QUICK_MODES, Model, ParityRun, Settings, compared_backends
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder


class Parity(dict[str, Any]):
    """The result of `parity`: "models", "environment", and "rows", one per model, type, rung and pair."""

    @property
    def rows(self) -> list[Record]:
        """The table: see docs/result.md."""
        return self["rows"]

    @property
    def failed(self) -> list[Record]:
        """The rows beyond their bound, known gaps left out; known gaps that have closed."""
        return [row for row in self.rows if row["verdict"] in ("fails", "closed")]

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(row["model"] for row in self.rows))
        return f"<Parity of {names}: {len(self.rows)} comparisons, {len(self.failed)} beyond their bound>"

    def _repr_html_(self) -> str:
        from zoo.report.page import iframe

        return iframe(self)


def parity(
    *models: Any,
    inputs: Any = None,
    targets: np.ndarray | None = None,
    loss: Any = None,
    backends: Sequence[str] | None = None,
    rungs: Sequence[int] = NUMBERS,
    float64: bool = False,
    modes: Sequence[str] = QUICK_MODES,
    device: str = "cpu",
    out: str | Path | None = None,
    show: Callable[[str], None] | None = None,
) -> Parity:
    """Check numerical parity across frameworks, on the models of the zoo in their small configurations.

    Without names, on all models, except variants with the same small configuration as another.

    To check your own model, give a function that builds a functional Keras model, and `inputs` for it, one
    array or a dict by input name, as in `zoo.parity(build_my_model, inputs)`: outputs and gradients are
    compared, with the first framework's initial weights copied to the others. With `targets` (integer labels,
    or numbers with a `loss` as `zoo.train` takes it) it is also trained.

    With `float64`, the ladder is run in float64 as well. `modes` are modes of the native engine, compared
    with its default in float32: by default all but "compiled", which takes a minute per model on torch.
    `device` is that of every framework, as `zoo doctor` names it; the bounds assume a CPU, which computes
    float32 at full precision. Writes parity.json and report.html into `out`. `show` is a callback that
    receives what is being computed. Raises subclasses of ZooError for wrong names before any process starts;
    an error in a process becomes the `error` of a row.
    """
    if out is not None:
        storage.check_folder("out", out)
    settings = Settings(
        backends=compared_backends(backends),
        dtypes=DTYPES if float64 else DTYPES[:1],
        rungs=_checked_rungs(rungs),
        modes=_checked_modes(modes),
        device=device,
        progress=show or (lambda text: None),
    )
    if models and callable(models[0]):
        build, *rest = models
        if len(rest) + (inputs is not None) != 1:
            raise WrongConfiguration(
                "parity(build, inputs): one function that builds a model, and its inputs"
            )
        result = _own_model(build, rest[0] if rest else inputs, targets, loss, settings)
    elif inputs is not None:
        raise WrongConfiguration("inputs= are for a model of your own: parity(build, inputs)")
    else:
        names = [registry.card(name).name for name in models] or distinct(registry.list_models())
        result = _registered_models(names, settings)
    if out is not None:
        from zoo.report.page import save

        save(result, Path(out))
    return result


def _registered_models(names: Sequence[str], settings: Settings) -> Parity:
    with scratch_folder() as scratch:
        return _result(scratch, [(name, None) for name in names], settings)


def _own_model(build: Any, inputs: Any, targets: Any, loss: Any, settings: Settings) -> Parity:
    if targets is None:  # nothing to train on
        settings = replace(settings, rungs=[n for n in settings.rungs if n <= 4])
    name = getattr(build, "__name__", "model").strip("<>")
    with scratch_folder() as scratch:
        folder = scratch / "user"
        save_network(folder, build, inputs, targets, loss)
        return _result(scratch, [(name, folder)], settings)


def _result(scratch: Path, models: Sequence[Model], settings: Settings) -> Parity:
    with ParityRun(scratch, models, settings) as run:
        rows = run.rows()
    return Parity(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backends=list(settings.backends),
        rungs=[asdict(rung) for rung in RUNGS if rung.number in settings.rungs],
        models=[name for name, _ in models],
        rows=rows,
        environment={
            **machine.environment(),
            "threads": 1,
            "devices": dict.fromkeys(settings.backends, settings.device),
        },
    )


def _checked_rungs(rungs: Sequence[int]) -> list[int]:
    for rung in rungs:
        if rung not in NUMBERS:
            raise UnknownName(f"no rung {rung!r}; there are {NUMBERS[0]} to {NUMBERS[-1]}")
    return sorted(rungs)


def _checked_modes(modes: Sequence[str]) -> list[str]:
    names = {mode for own in MODES.values() for mode in own}
    for mode in modes:
        if mode not in names:
            raise UnknownName(f"no mode {mode!r}; {nearest(mode, names)}")
    return list(modes)


def distinct(names: Sequence[str]) -> list[str]:
    """The models whose small configuration no model before has; vgg13's, for example, is that of vgg11."""
    first: dict[str, str] = {}
    for name in names:
        card = registry.card(name)
        small = {**card.arguments, **card.small}
        first.setdefault(f"{card.builder.__qualname__} {sorted(small.items(), key=lambda i: i[0])}", name)
    return list(first.values())
