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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, registry, storage
from zoo.backends import MODES as ALL_MODES
from zoo.errors import BackendError, UnknownName, WrongConfiguration, nearest
from zoo.processes import machine
from zoo.processes.workers import Worker, WorkerDied

Record = dict[str, Any]
Arrays = Mapping[str, np.ndarray]

# The largest difference that counts as equal in `zoo compare`, in float32.
BOUNDS = {"initial_weights": 0.0, "outputs": 1e-5, "losses": 1e-5}
DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Rung:
    """A claim and its bounds; None is the chaos floor, which is measured (see `floor`)."""

    number: int
    name: str
    claim: str
    float32: float | None
    float64: float


RUNGS = (
    Rung(1, "initial", "initial weights, batches and dropout masks, bit for bit", 0.0, 0.0),
    Rung(2, "forward", "the output of every layer, relative to its largest value", 1e-5, 1e-12),
    Rung(3, "gradients", "the gradient of every output and weight, relative to the largest", 1e-5, 1e-12),
    Rung(
        4, "update", "the updates of every optimizer along a schedule, relative to the largest", 1e-6, 1e-12
    ),
    Rung(5, "training", "the losses of 100 training steps", None, 1e-9),
    Rung(6, "evaluation", "the number of predictions after training that differ", 0.0, 0.0),
    Rung(7, "engines", "the losses of one framework's engines and modes", None, 1e-9),
    Rung(8, "resume", "the losses after resuming from another framework's checkpoint", None, 1e-9),
)
NUMBERS = tuple(rung.number for rung in RUNGS)
FLOORS = 5  # times the chaos floor
NUDGES = 4  # runs that measure it
A_PROCESS = 12  # models, then a new one: TensorFlow keeps every graph, 70 MB a model
LAST_PLACE = 2.0**-22  # of a loss between 2 and 4 in float32: no floor is less


@dataclass(frozen=True)
class Gap:
    """What is known not to hold. One that closes fails the ladder, so that it leaves this list."""

    model: str
    rung: int
    dtype: str
    pair: tuple[str, str]
    reason: str
    upstream: str  # the address


GAPS: tuple[Gap, ...] = ()


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


def chaos_of(arrays: Arrays) -> float:
    """How far a framework drifts from itself, its weights a unit in the last place off; 0 if not measured."""
    nudged = part(arrays, "nudged/").values()
    return max((gap(x, arrays["training/native"]) for x in nudged), default=0.0)


def floor(chaos: float) -> float:
    """The bound that a training run's losses are held to in float32."""
    return FLOORS * max(chaos, LAST_PLACE)


@dataclass(frozen=True)
class Measured:
    """The largest difference of a rung, and where it first goes beyond the bound."""

    value: float
    where: Record | None = None


def row(
    model: str, dtype: str, rung: Rung, a: str, b: str, found: Measured, bound: float, chaos: float
) -> Record:
    """A row of the table, with its verdict: holds, fails, gap (known), closed (a gap that holds now)."""
    holds = bool(found.value <= bound)
    gap_ = next(
        (g for g in GAPS if (g.model, g.rung, g.dtype, g.pair) == (model, rung.number, dtype, (a, b))), None
    )
    verdict = ("closed" if gap_ else "holds") if holds else ("gap" if gap_ else "fails")
    return {
        "model": model, "dtype": dtype, "rung": rung.number, "name": rung.name, "a": a, "b": b,
        "measured": found.value, "bound": bound, "verdict": verdict, "where": None if holds else found.where,
        "chaos": chaos if rung.float32 is None and dtype == "float32" else None,
        "reason": gap_ and f"{gap_.reason} ({gap_.upstream})", "error": None,
    }  # fmt: skip


# The comparison of each rung


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest value of either; inf where shapes or NaNs differ."""
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return inf
    scale = max(np.abs(np.nan_to_num(a)).max(initial=0), np.abs(np.nan_to_num(b)).max(initial=0))
    return gap(a, b) / float(scale) if gap(a, b) else 0.0


def gap(a: np.ndarray, b: np.ndarray) -> float:
    """The largest absolute difference; inf where shapes or NaNs differ."""
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        return inf
    wide = np.nan_to_num(a.astype(np.float64)) - np.nan_to_num(b.astype(np.float64))
    return float(np.abs(wide).max(initial=0))


def first_difference(a: Arrays, b: Arrays, bound: float = BOUNDS["outputs"]) -> Record | None:
    """The first layer, in the order of `a`, that differs by more than the bound; None if none does."""
    for layer, value in a.items():
        apart = difference(value, b[layer]) if layer in b else inf
        if apart > bound:
            return {"layer": layer, "difference": apart}
    return None


def part(arrays: Arrays, prefix: str) -> dict[str, np.ndarray]:
    """The arrays below a prefix, without it."""
    return {name[len(prefix) :]: x for name, x in arrays.items() if name.startswith(prefix)}


def apart(layer: str, a: np.ndarray, b: np.ndarray, scale: float | None = None) -> Record:
    """Where two arrays differ most: the place, both values, by how much."""
    if a.shape != b.shape:
        return {"layer": layer, "difference": None, "a": f"shape {a.shape}", "b": f"shape {b.shape}"}
    wide = np.abs(
        np.nan_to_num(a.astype(np.float64), nan=np.inf) - np.nan_to_num(b.astype(np.float64), nan=-np.inf)
    )
    place = np.unravel_index(np.nanargmax(wide), wide.shape) if wide.size else ()
    by = difference(a, b) if scale is None else gap(a, b) / scale
    values = {"a": float(a[place]), "b": float(b[place])}
    return {"layer": layer, "difference": by, "index": [int(i) for i in place], **values}


@dataclass(frozen=True)
class Pair:
    """What two frameworks found of a model, to be compared within a bound."""

    name_a: str
    name_b: str
    a: Arrays
    b: Arrays
    bound: float
    facts: Record  # order, consumers, kinds and weights of `zoo.ladder.taps.Taps`
    dtype: str

    def parts(self, prefix: str) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Both sides' arrays below a prefix."""
        return part(self.a, prefix), part(self.b, prefix)

    def engines(self, name: str) -> dict[str, np.ndarray]:
        """The array of that name from each engine on each side, those there are."""
        sides = ((self.name_a, self.a), (self.name_b, self.b))
        return {
            f"{who} {engine}": arrays[key]
            for who, arrays in sides
            for engine in ("native", "keras")
            if (key := name.format(engine=engine)) in arrays
        }


def _exact(pair: Pair) -> Measured:
    """Rung 1. Values that are equal bit for bit, and of one type."""
    ours, theirs = pair.parts("initial/")
    worst, where = 0.0, None
    for name in dict.fromkeys([*ours, *theirs]):
        x, y = ours.get(name), theirs.get(name)
        if x is None or y is None:
            worst, where = inf, where or {"layer": name, "difference": None, "suspect": "missing on one side"}
        elif x.dtype != y.dtype or x.shape != y.shape or x.tobytes() != y.tobytes():
            x, y = x.astype(np.float64), y.astype(np.float64)
            worst = max(worst, gap(x, y) or inf)  # of another type, or -0 for 0
            where = where or apart(name, x, y)
    return Measured(worst, where)


def _forward(pair: Pair) -> Measured:
    """Rung 2. The first operation whose output differs is the suspect: what flows into it is equal."""
    ours, theirs = pair.parts("forward/")
    names = dict.fromkeys([*ours, *theirs])
    worst = max(difference(ours[n], theirs[n]) if n in ours and n in theirs else inf for n in names)
    where = None
    if (first := first_difference(ours, theirs, pair.bound)) is not None:
        label = first["layer"]
        suspect = pair.facts.get("kinds", {}).get(
            label, "the non-trainable state, such as running statistics"
        )
        where = {**apart(label, ours[label], theirs.get(label, np.zeros(0))), "suspect": suspect}
    return Measured(worst, where)


def _gradients(pair: Pair) -> Measured:
    """Rung 3. Going back from the loss: an output's gradient is the work of the operations that read it."""
    ours, theirs = pair.parts("gradients/")
    if odd := sorted(ours.keys() ^ theirs.keys()):
        return Measured(inf, {"layer": ", ".join(odd[:3]), "difference": None, "suspect": "on one side only"})
    kinds, facts = ("loss", "outputs/", "weights/"), pair.facts
    largest = {
        k: max((np.abs(x).max() for n, x in ours.items() if n.startswith(k)), default=0) for k in kinds
    }

    def by(name: str) -> float:
        scale = next(size for kind, size in largest.items() if name.startswith(kind))
        return gap(ours[name], theirs[name]) / float(scale or 1)

    backward = [("loss", "the loss, or the forward pass before it")]
    for label in reversed(facts["order"]):
        readers = [f"{reader}: {facts['kinds'][reader]}" for reader in facts["consumers"][label]]
        backward.append((f"outputs/{label}", "the backward pass of " + (", ".join(readers) or "the loss")))
        own = f"the backward pass of {label}: {facts['kinds'][label]}, for its weight"
        backward += [(f"weights/{path}", own) for path in facts["weights"][label]]
    for name, suspect in backward:
        if name in ours and not by(name) <= pair.bound:
            where = {**apart(name, ours[name], theirs[name]), "difference": by(name), "suspect": suspect}
            return Measured(max(map(by, ours)), where)
    return Measured(max(map(by, ours)))


def _updates(pair: Pair) -> Measured:
    """Rung 4. The schedules, then the updates by both engines of both frameworks, each pair of the four."""
    found: list[tuple[float, str, str]] = []
    paths: dict[str, list[str]] = {}  # by optimizer
    for name in (name for name in pair.a if name.startswith("update/")):
        _, optimizer, *rest = name.split("/")
        if optimizer == "rates":
            x, y = pair.a[name], pair.b[name]  # (steps, 2): as a tensor, as a float
            for u, v in ((x, y), (x[:, :1], x[:, 1:])):
                scale = np.where(v == 0, np.abs(v).max(), np.abs(v))
                found.append((float((np.abs(u - v) / scale).max()), rest[0], f"the schedule of {rest[0]}"))
        elif rest[0] == "native":
            paths.setdefault(optimizer, []).append("/".join(rest[1:]))
    for optimizer, own in paths.items():
        four = [pair.engines(f"update/{optimizer}/{{engine}}/{path}") for path in own]
        scale = np.max([np.abs(x - x[:1]).reshape(len(x), -1).max(1) for x in map(_any, four)], axis=0)[1:]
        for path, runs in zip(own, four, strict=True):
            for m, n in itertools.combinations(runs, 2):
                by = update_difference(runs[m], runs[n], scale, pair.dtype)
                found.append((by, optimizer, f"{optimizer}, {path} ({m} and {n})"))
    worst = max((by for by, _, _ in found), default=0.0)
    first = next((f for f in found if not f[0] <= pair.bound), None)
    where = None if first is None else {"layer": first[2], "difference": first[0], "suspect": first[1]}
    return Measured(worst, where)


def _any(runs: Mapping[str, np.ndarray]) -> np.ndarray:
    return next(iter(runs.values()))


def update_difference(x: np.ndarray, y: np.ndarray, scale: np.ndarray, dtype: str) -> float:
    """How far two sets of updates of a weight part, each relative to its scale.

    The first of each array is the weight before, the others that after an update. Beyond the rounding of the
    weight that an update is added to: two units in the last place.
    """
    x, y = x.astype(np.float64), y.astype(np.float64)
    rounding = 2 * np.spacing(np.maximum(np.abs(x[:1]), np.abs(x[1:])).astype(dtype)).astype(np.float64)
    beyond = np.maximum(0, np.abs((x[1:] - x[0]) - (y[1:] - y[0])) - rounding)
    return float((beyond.reshape(len(beyond), -1).max(1) / np.where(scale == 0, 1, scale)).max())


def _training(pair: Pair) -> Measured | None:
    """Rung 5. Both engines of both frameworks."""
    runs = pair.engines("training/{engine}")
    pairs = [(m, n) for m, n in itertools.combinations(runs, 2) if m.split()[0] != n.split()[0]]
    return _losses({f"{m} and {n}": (runs[m], runs[n]) for m, n in pairs})


def _losses(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Measured | None:
    """The pair whose losses are furthest apart, and at which step they first are by a tenth of that."""
    if not pairs:
        return None
    by = {name: gap(x, y) for name, (x, y) in pairs.items()}
    name = max(by, key=lambda n: by[n])
    x, y = pairs[name]
    if x.shape != y.shape:
        return Measured(inf, {"layer": f"{name}: {len(x)} and {len(y)} steps", "difference": None})
    step = int(np.argmax(~(np.abs(x - y) <= by[name] / 10)))
    where = {
        "layer": f"step {step + 1}, {name}",
        "difference": by[name],
        "a": float(x[step]),
        "b": float(y[step]),
    }
    return Measured(by[name], where)


def _evaluation(pair: Pair) -> Measured | None:
    """Rung 6. How many predictions differ."""
    runs = pair.engines("evaluation/{engine}")
    found = {(m, n): int((runs[m] != runs[n]).sum()) for m, n in itertools.combinations(runs, 2)}
    if not found:
        return None
    m, n = max(found, key=lambda names: found[names])
    return Measured(float(found[m, n]), {"layer": f"{m} and {n}", "difference": float(found[m, n])})


def engines(arrays: Arrays) -> Measured:
    """Rung 7. Keras's losses and those of every other mode, against the native engine's."""
    native = arrays["training/native"]
    others = {"keras": arrays["training/keras"], **part(arrays, "modes/")}
    found = _losses({f"native and {name}": (native[: len(x)], x) for name, x in others.items()})
    assert found is not None
    return found


def _resume(pair: Pair) -> Measured | None:
    """Rung 8. Each framework goes on from the other's checkpoint as the other did itself."""
    sides = ((pair.name_a, pair.a, pair.name_b, pair.b), (pair.name_b, pair.b, pair.name_a, pair.a))
    return _losses(
        {
            f"{source} resumed on {who}": (arrays[f"resume/{source}"], own["training/native"])
            for who, arrays, source, own in sides
            if f"resume/{source}" in arrays
        }
    )


COMPARE: dict[int, Callable[[Pair], Measured | None]] = {
    1: _exact,
    2: _forward,
    3: _gradients,
    4: _updates,
    5: _training,
    6: _evaluation,
    7: lambda _: None,  # within a framework, see `engines`
    8: _resume,
}


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
