"""The parity ladder: compares two frameworks in eight steps (rungs), and finds the first layer where they
differ.

Each framework computes in its own process (`zoo.ladder.probe`) and writes arrays; they are compared here, in
NumPy, without a framework. `parity` runs the ladder on registered models and on a user's own; `RUNGS` defines
what each rung claims and its bounds; `GAPS` lists known exceptions and their reasons.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, registry, storage
from zoo.backends import MODES as ALL_MODES
from zoo.errors import BackendError, UnknownName, WrongConfiguration, nearest
from zoo.ladder.bounds import DTYPES, NUMBERS, RUNGS, Arrays, Record, floor
from zoo.ladder.rungs import COMPARE, Pair, chaos_of, engines, row
from zoo.processes import machine
from zoo.processes.workers import Worker, WorkerDied

A_PROCESS = 12  # models, then a new one: TensorFlow keeps every graph, 70 MB a model


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


QUICK_MODES = tuple({m: None for name in ALL_MODES for m in ALL_MODES[name] if m != "compiled"})


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
    float32 at full precision. Writes parity.json and report.html into `out`. Raises subclasses of ZooError
    for wrong names before any process starts; an error in a process becomes the `error` of a row.
    """
    if out is not None:
        storage.check_folder("out", out)
    names = chosen_backends(backends)
    for rung in rungs:
        if rung not in NUMBERS:
            raise UnknownName(f"no rung {rung!r}; there are {NUMBERS[0]} to {NUMBERS[-1]}")
    for mode in modes:
        if mode not in (every := {m for ways in ALL_MODES.values() for m in ways}):
            raise UnknownName(f"no mode {mode!r}; {nearest(mode, every)}")
    build: Any = None
    if models and callable(models[0]):
        build, *rest = models
        if len(rest) + (inputs is not None) != 1:
            raise WrongConfiguration(
                "parity(build, inputs): one function that builds a model, and its inputs"
            )
        models, inputs = (), rest[0] if rest else inputs
    elif inputs is not None:
        raise WrongConfiguration("inputs= are for a model of your own: parity(build, inputs)")
    tell = show or (lambda text: None)
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="zoo-")))
        subjects: list[tuple[str, str | None]] = [(registry.card(m).name, None) for m in models]
        if build is not None:
            name = getattr(build, "__name__", "model").strip("<>")
            subjects = [(name, str(pack(scratch / "user", build, inputs, targets, loss)))]
            rungs = [n for n in rungs if targets is not None or n <= 4]
        subjects = subjects or [(name, None) for name in distinct(registry.list_models())]
        dtypes = DTYPES if float64 else DTYPES[:1]
        climb = Climb(scratch, names, dtypes, subjects, sorted(rungs), list(modes), tell, device)
        rows = climb.run()
    from zoo._version import __version__

    result = Parity(
        zoo=__version__,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        backends=names,
        rungs=[asdict(rung) for rung in RUNGS if rung.number in rungs],
        models=[name for name, _ in subjects],
        rows=rows,
        environment={**machine.environment(), "threads": 1, "devices": dict.fromkeys(names, device)},
    )
    if out is not None:
        from zoo.report.page import save

        save(result, Path(out))
    return result


def distinct(names: Sequence[str]) -> list[str]:
    """The models without those whose small configuration is that of one before, as vgg13's is vgg11's."""
    found: dict[str, str] = {}
    for name in names:
        card = registry.card(name)
        small = {**card.arguments, **card.small}
        found.setdefault(f"{card.builder.__qualname__} {sorted(small.items(), key=lambda i: i[0])}", name)
    return list(found.values())


def chosen_backends(names: Sequence[str] | None) -> list[str]:
    """Two frameworks or more. Raises BackendError."""
    found = [backends.checked(name, "parity") for name in names or backends.installed()]
    if len(set(found)) < 2:
        raise BackendError(
            f"parity compares two frameworks or more, here: {', '.join(found) or 'none'}; "
            'pip install "keras-zoo-parity[all]" brings all'
        )
    return list(dict.fromkeys(found))


def pack(folder: Path, build: Any, inputs: Any, targets: Any, loss: Any) -> Path:
    """Leave a user's model and data where every process finds them. Raises WrongConfiguration."""
    import cloudpickle

    single = not isinstance(inputs, Mapping)
    arrays = {"": inputs} if single else inputs
    data = {f"inputs/{name}": np.asarray(x) for name, x in arrays.items()}
    lengths = {len(x) for x in data.values()} | ({len(targets)} if targets is not None else set())
    if len(lengths) != 1 or 0 in lengths:
        raise WrongConfiguration(
            f"inputs and targets of {sorted(lengths)} examples; expected as many, at least 1"
        )
    if targets is not None:
        data["targets"] = np.asarray(targets)
    folder.mkdir()
    try:
        code = cloudpickle.dumps((build, loss, single))
    except Exception as error:
        raise WrongConfiguration(f"the model's builder cannot be sent to another process: {error}") from None
    (folder / "build.pkl").write_bytes(code)
    (folder / "path.json").write_text(json.dumps([p or str(Path.cwd()) for p in sys.path]))
    np.savez(folder / "data.npz", allow_pickle=False, **data)
    return folder


class Climb:
    """The processes at work: each framework in each float type, as many at once as there are cores."""

    def __init__(
        self,
        scratch: Path,
        names: Sequence[str],
        dtypes: Sequence[str],
        subjects: Sequence[tuple[str, str | None]],
        rungs: Sequence[int],
        modes: Sequence[str],
        tell: Callable[[str], None],
        device: str = "cpu",
    ):
        self.scratch, self.names, self.dtypes, self.subjects = scratch, names, dtypes, subjects
        self.rungs, self.modes, self.tell, self.device = rungs, modes, tell, device
        self.places = [(name, dtype) for dtype in dtypes for name in names]
        self.workers: dict[tuple[str, str], Worker] = {}
        self.errors: dict[tuple[str, str, str], str] = {}  # (model, backend, dtype) -> what it died of
        self.facts: dict[str, Record] = {}

    def run(self) -> list[Record]:
        """The rows of the table."""
        try:
            for _, user in self.subjects:
                if user is not None:
                    self.ask((self.names[0], "float32"), "carry", user=user)
            longest_first = self.places[::-1]  # JAX in float64
            with ThreadPoolExecutor(max(1, machine.cores())) as pool:
                list(pool.map(self.climb, longest_first))
                if 8 in self.rungs:
                    list(pool.map(self.resume, longest_first))
        finally:
            for worker in self.workers.values():
                worker.close()
        return [
            row for name, _ in self.subjects for dtype in self.dtypes for row in self.compare(name, dtype)
        ]

    def ask(self, place: tuple[str, str], do: str, **arguments: Any) -> Record:
        """One command to this framework's process in this float type, started if it is not there."""
        if place not in self.workers:
            name, dtype = place
            environment = {
                "ZOO_PARITY_DTYPE": dtype,
                "ZOO_PARITY_DEVICE": self.device,
                "OMP_NUM_THREADS": "1",
                # Most of JAX's time is compiling: what XLA has made once it takes from here.
                "JAX_COMPILATION_CACHE_DIR": os.environ.get(
                    "JAX_COMPILATION_CACHE_DIR", str(self.scratch / "compiled")
                ),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            if dtype == "float64":
                environment["JAX_ENABLE_X64"] = "1"
            self.workers[place] = Worker(
                "zoo.ladder.probe", self.scratch / f"{name}-{dtype}", name, environment
            )
        try:
            *_, answer = self.workers[place].ask(do, **arguments)
        except WorkerDied:
            self.workers.pop(place).close()
            raise
        return answer

    def climb(self, place: tuple[str, str], fault: str | None = None) -> None:
        """Have a process compute every subject's rungs."""
        name, dtype = place
        chaos = dtype == "float32" and name == self.names[0]
        for number, (model, user) in enumerate(self.subjects):
            if number and number % A_PROCESS == 0 and place in self.workers:
                self.workers.pop(place).close()
            self.tell(f"{model} · {name} {dtype}")
            try:
                answer = self.ask(
                    place,
                    "climb",
                    model=model,
                    rungs=list(self.rungs),
                    user=user,
                    modes=self.modes if dtype == self.dtypes[0] else [],  # float64 is for the rest
                    chaos=chaos,
                    fault=fault,
                )
                self.facts.setdefault(model, answer["facts"])
            except WorkerDied as error:
                self.errors[model, name, dtype] = str(error)

    def resume(self, place: tuple[str, str], fault: str | None = None) -> None:
        """Have a process go on from the others' checkpoints."""
        name, dtype = place
        for model, user in self.subjects:
            files = {
                other: str(path)
                for other in self.names
                if other != name
                and (path := self.scratch / f"{other}-{dtype}" / f"{model}.safetensors").exists()
            }
            if not files or (model, name, dtype) in self.errors:
                continue
            self.tell(f"{model} · {name} {dtype}, resuming")
            try:
                self.ask(place, "resume", model=model, user=user, files=files, fault=fault)
            except WorkerDied as error:
                self.errors[model, name, dtype] = str(error)

    # What the arrays say

    def compare(self, model: str, dtype: str) -> Iterator[Record]:
        """Rows of one model in one float type."""
        found: dict[str, Arrays] = {}
        for name in self.names:
            if error := self.errors.get((model, name, dtype)):
                yield {
                    "model": model, "dtype": dtype, "rung": 0, "name": "process", "a": name, "b": name,
                    "measured": None, "bound": None, "verdict": "fails", "where": None, "error": error,
                }  # fmt: skip
            else:
                found[name] = load(self.scratch / f"{name}-{dtype}", model)
        facts, chaos = self.facts.get(model, {}), chaos_of(found.get(self.names[0], {}))
        for rung in RUNGS:
            if rung.number not in self.rungs:
                continue
            bound = rung.float64 if dtype == "float64" else rung.float32
            bound = floor(chaos) if bound is None else bound
            for a, b in itertools.combinations(found, 2):
                measured = COMPARE[rung.number](Pair(a, b, found[a], found[b], bound, facts, dtype))
                if measured is not None:
                    yield row(model, dtype, rung, a, b, measured, bound, chaos)
            if rung.number == 7 and any("training/native" in arrays for arrays in found.values()):
                for name, arrays in found.items():
                    yield row(model, dtype, rung, name, name, engines(arrays), bound, chaos)


def load(folder: Path, model: str) -> dict[str, np.ndarray]:
    """What a process wrote of a model."""
    found: dict[str, np.ndarray] = {}
    for name in (f"{model}.npz", f"{model}-resumed.npz"):
        if (folder / name).exists():
            with np.load(folder / name) as arrays:
                prefix = "resume/" if name.endswith("-resumed.npz") else ""
                found |= {prefix + key: arrays[key] for key in arrays.files}
    return found


class Hunt:
    """A subject climbed on two frameworks in float64, the first with another fault each time."""

    def __init__(
        self,
        build: Any,
        x: np.ndarray,
        y: np.ndarray,
        *,
        backends: Sequence[str] | None = None,
        show: Any = None,
    ):
        self.tell = show or (lambda text: None)
        self.names = chosen_backends(backends)[:2]
        self.stack = ExitStack()
        scratch = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="zoo-")))
        user = pack(scratch / "user", build, x, y, None)
        subjects = [("specimen", str(user))]
        self.climb = Climb(scratch, self.names, ("float64",), subjects, NUMBERS, (), lambda text: None)

    def __enter__(self) -> Hunt:
        self.tell(f"the specimen on {self.names[1]}")
        self.climb.climb((self.names[1], "float64"))
        self.climb.modes = QUICK_MODES  # they are compared with the same framework's default one
        for error in self.climb.errors.values():
            raise WorkerDied(f"the specimen on {self.names[1]}: {error}")
        return self

    def __exit__(self, *_: Any) -> None:
        for worker in self.climb.workers.values():
            worker.close()
        self.stack.close()

    def fault(self, name: str | None, rung: int) -> Record:
        """Which rung a fault is caught by first, of all up to the one it belongs to; of all with None."""
        self.tell(name or "nothing seeded")
        place = (self.names[0], "float64")
        climb, upto = self.climb, [n for n in NUMBERS if name is None or n <= rung]
        climb.errors.clear()
        for old in (climb.scratch / "-".join(place)).glob("specimen*.npz"):
            old.unlink()
        climb.rungs = upto
        climb.climb(place, fault=name)
        if 8 in upto:
            climb.resume(place, fault=name)
        rows = list(climb.compare("specimen", "float64"))
        caught = next((row for row in rows if row["verdict"] == "fails"), None)
        return {
            "fault": name,
            "rung": rung or None,
            "caught": caught and caught["rung"],
            "measured": caught and caught["measured"],
            "bound": caught and caught["bound"],
            "where": caught and (caught["where"] or {}).get("layer"),
            "suspect": caught and (caught["where"] or {}).get("suspect"),
            "error": caught and caught["error"],
        }
