"""The parity ladder: compares two frameworks in eleven steps (rungs), and finds the first layer where they
differ.

    bounds      the claim and bounds of each rung, known exceptions
    networks    the models and data that are compared
    probe       what one framework computes of them, in a process of its own (taps: at every operation)
                (variants: rungs 9 to 11; rounding: how far rounding moves a result)
    rungs       the comparison of two frameworks' arrays, in NumPy
    explain     the likely cause of a difference, recomputed (causes: the hypotheses)
    run         the processes, and the table of the results
    faults      faults that the ladder must catch (injection: whether it does)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from zoo import registry, storage
from zoo._version import __version__
from zoo.backends import MODES
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.ladder.bounds import BITS, DTYPES, NUMBERS, RUNGS, Record
from zoo.ladder.builders import images, sized
from zoo.ladder.explain import explain
from zoo.ladder.networks import save_network
from zoo.ladder.run import QUICK_MODES, Model, ParityRun, Settings, compared_backends
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder

UNTRAINED = (1, 2, 3, 4, 9, 11)  # rungs that need no targets


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

    def __str__(self) -> str:
        from zoo.report.ladder import verdicts

        return "\n".join(verdicts(self))

    def __repr__(self) -> str:
        names = ", ".join(dict.fromkeys(row["model"] for row in self.rows))
        return f"<Parity of {names}: {len(self.rows)} comparisons, {len(self.failed)} beyond their bound>"

    def _repr_html_(self) -> str:
        from zoo.report.page import iframe

        return iframe(self)


def parity(
    *models: Any,
    inputs: Any = None,
    size: int | None = None,
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

    To check your own model, give a function that builds it, any `keras.Model`, or "FILE.py:FUNCTION", and
    `inputs` for it, one array or a dict by input name, as in `zoo.parity(build_my_model, inputs)`: outputs
    and gradients are compared, with the first framework's initial weights copied to the others. With
    `targets` (integer labels, or numbers with a `loss` as `zoo.train` takes it) it is also trained. A builder
    with a parameter `input_shape`, `image_size` or `size`, as "keras.applications:VGG16", is called with
    `size`, without pretrained weights and, if there are no `inputs`, on random images of that size.
    Operations are compared one by one, of models without a graph the outputs of their layers. Keras's random
    layers draw the same numbers on every framework. `print(zoo.parity(...))` states the result in words.

    A difference is relative to an array's largest value or, where 1-ulp perturbations of weights and inputs
    move it further than the bound, to twenty times that spread. A model that differs in float32 in outputs or
    gradients is compared in float64 too, and the likely cause is named, an epsilon for example, if
    recomputing with it gives the outputs of both frameworks. With `float64`, the ladder is run in float64 as
    well. `modes` are modes of the native engine, compared with its default in float32: by default all but
    "compiled", which takes a minute per model on torch. Padding is compared of the zoo's models, TF32 where
    the device has it; `notes` state what is left out. Rung 0, of exact runs (`zoo.train(exact=True)`), is
    compared only if it is among `rungs`. `device` is that of every framework, as `zoo doctor`
    names it; the bounds assume a CPU, which computes float32 at full precision. Writes parity.json and
    report.html into `out`. `show` is a callback that receives what is being computed. Raises subclasses of
    ZooError for wrong names before any process starts, and for a builder that fails or returns different
    models before anything is compared; an error in a process becomes the `error` of a row.
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
    if models and (callable(models[0]) or ":" in str(models[0])):
        build, *rest = models
        name = _name(build)
        if size is not None:
            build = sized(build, size)
            rest = rest or ([images(size)] if inputs is None else [])
        if len(rest) + (inputs is not None) != 1:
            raise WrongConfiguration(
                f"parity of {name}: expected one model of your own and inputs for it: parity(build, inputs), "
                "--inputs FILE.npy; or, for a builder that takes the size of images, size=32, --size 32"
            )
        result = own_models({name: (build, rest[0] if rest else inputs, targets, loss)}, settings)
    elif inputs is not None or size is not None:
        raise WrongConfiguration("inputs= and size= are for a model of your own: parity(build, inputs)")
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


def own_models(networks: Mapping[str, tuple[Any, Any, Any, Any]], settings: Settings) -> Parity:
    """Models by name, of each a builder, inputs, targets and loss, as `parity` takes them."""
    if any(targets is None for _, _, targets, _ in networks.values()):  # nothing to train on
        settings = replace(settings, rungs=[n for n in settings.rungs if n in UNTRAINED])
    with scratch_folder() as scratch:
        for name, (build, inputs, targets, loss) in networks.items():
            save_network(scratch / f"user-{name}", build, inputs, targets, loss)
        return _result(scratch, [(name, scratch / f"user-{name}") for name in networks], settings)


def _name(build: Any) -> str:
    """The name of a builder's function."""
    path = build if isinstance(build, str) else getattr(build, "__name__", "model")
    return path.rpartition(":")[2].strip("<>")


def _result(scratch: Path, models: Sequence[Model], settings: Settings) -> Parity:
    with ParityRun(scratch, models, settings) as run:
        rows = run.rows()
        if unclear := _beyond_float32(rows, settings):
            run.models = [(name, folder) for name, folder in models if name in unclear]
            rungs = [n for n in settings.rungs if n in (2, 3)]
            run.settings = replace(settings, dtypes=DTYPES[1:], rungs=rungs, modes=())
            rows += run.rows()
        explain(run, rows)
    return Parity(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backends=list(settings.backends),
        rungs=[asdict(rung) for rung in (BITS, *RUNGS) if rung.number in settings.rungs],
        models=[name for name, _ in models],
        rows=rows,
        notes={name: notes for name, _ in models if (notes := run.notes(name))},
        environment={
            **machine.environment(),
            "threads": 1,
            "devices": dict.fromkeys(settings.backends, settings.device),
        },
    )


def _beyond_float32(rows: Sequence[Record], settings: Settings) -> set[str]:
    """The models that differ in float32 on rungs 2 and 3, and were not compared in float64."""
    if "float64" in settings.dtypes:
        return set()
    return {row["model"] for row in rows if row["verdict"] == "fails" and row["rung"] in (2, 3)}


def _checked_rungs(rungs: Sequence[int]) -> list[int]:
    for rung in rungs:
        if rung not in (BITS.number, *NUMBERS):
            raise UnknownName(f"no rung {rung!r}; there are {BITS.number} to {NUMBERS[-1]}")
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
