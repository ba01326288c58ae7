"""`zoo bench`: the zoo's step against the same network written plainly in each framework, and Keras's `fit`.

Times are ratios within one process: every contestant of a framework runs there in turn, burst after burst,
so that a busy machine slows all alike; a step before each burst does not count. Compile time and peak memory
come from a process of its own for each. All start from the same weights, take the same batch, and must arrive
at the same loss; dropout, whose masks differ from framework to framework, is off. Building is timed in a
process of its own each time, the contestants in turn.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product, repeat
from math import log2
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from zoo import _lazy, backends, random, registry
from zoo.benchmarks import references as peers
from zoo.checks import integer
from zoo.errors import BackendError, WrongConfiguration, ZooError
from zoo.layers import signature
from zoo.processes import machine
from zoo.registry import Card
from zoo.training import engines, objectives
from zoo.training.recipes import recipe

Record = dict[str, Any]
KINDS = ("train", "infer", "generate", "build")
LENGTH = 128  # tokens or frames of a sequence, more or less
WRITTEN = 64  # tokens that a step of generation writes, after a prompt of PROMPT
PROMPT = 16
PEERS = {  # the endings of zoo/peers/<file>_<ending>.py
    "torch": ("torch",),
    "tensorflow": ("tensorflow",),
    "jax": ("flax", "jax"),
}
PEER_MODES = {"torch": ("eager", "compiled"), "tensorflow": ("graph", "xla"), "jax": ("jit",)}
SETTINGS = ("learning_rate", "weight_decay")  # of AdamW: what a peer takes of a recipe
MULTIPLY_ADDS = 8e9  # of a batch's forward pass: training on it takes two cores about a second
BUILDS = 5  # of each contestant
LIMIT_S = 600  # of one process


@dataclass(frozen=True)
class Contestant:
    """One way to run a model on a framework: the zoo's, a plain peer's, or Keras's."""

    who: str  # zoo, plain, keras
    mode: str

    @property
    def name(self) -> str:
        return f"{self.who} {self.mode}"


def contestants(model: str, backend: str, what: str) -> list[Contestant]:
    """Who competes: the zoo's default mode first, then the peer's modes, then Keras.

    Of building, only peers of a shared file; Keras builds as the zoo does.
    """
    if what == "build":
        peer = peers.shared(model, *PEERS[backend])
        return [Contestant("zoo", "build"), *([Contestant("plain", "build")] if peer else [])]
    modes = PEER_MODES[backend] if find_peer(model, backend) else ()
    if what == "generate":  # Keras's fit and predict write nothing, nor do other peers
        writes = peers.shared(model, *PEERS[backend]) == "transformers_torch"
        plain = [Contestant("plain", mode) for mode in modes[:1] if writes]
        return [Contestant("zoo", backends.MODES[backend][0]), *plain]
    found = [Contestant("zoo", backends.MODES[backend][0]), *(Contestant("plain", mode) for mode in modes)]
    return [*found, Contestant("keras", "fit" if what == "train" else "predict")]


def find_peer(model: str, backend: str) -> str | None:
    """The module of a model's peer on a backend, without importing it; None if there is none."""
    return peers.find(model, *PEERS[backend])


def batch_for(card: Card) -> int:
    """The recipe's batch size; less for a model that needs long, a power of two of about `MULTIPLY_ADDS`."""
    affordable = 2 ** max(0, round(log2(MULTIPLY_ADDS / multiply_adds(card))))
    return min(recipe(card.recipe).batch_size, affordable)


def multiply_adds(card: Card) -> int:
    """Of an example's forward pass, a sequence being of `LENGTH` steps."""
    return card.multiply_adds * (LENGTH if None in card.input else 1)


def rounds_and_burst(card: Card, batch_size: int) -> tuple[int, int]:
    """Bursts a contestant, steps a burst: many of many short steps, or a few of one long step."""
    burst = min(10, max(1, round(MULTIPLY_ADDS / (batch_size * multiply_adds(card)))))
    return (10 if burst == 1 else 22), burst


def bench(
    *models: str,
    what: Sequence[str] = ("train", "infer"),
    backends: Sequence[str] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    threads: int | None = None,
    show: Callable[[str], None] | None = None,
    report: Callable[[list[Record]], None] | None = None,
) -> list[Record]:
    """Measure the time of models' steps, or of building them, beside reference implementations.

    Returns a row for each implementation, with "model", "backend", "device" (`device`, None for the
    framework's first), "what" ("train", "infer", "generate" or "build"), "contestant" (the implementation),
    "step_ms" (median), "step_ms_quartiles", "ratio" (to the framework's plain implementation in its first
    mode, the median over bursts that ran side by side; None without one), "compile_s" (first step minus a
    later one), "peak_mb", "loss" (after a burst of steps; None for inference) and "error". For building,
    "build_s" and "build_s_quartiles" replace the times of steps, and there is no batch. `show` is a callback
    that receives what is being measured; `report` receives the rows of one model and one "what" as soon as
    they are complete.

    A generation step generates `WRITTEN` tokens after a prompt, the most likely each time. The default
    `batch_size` is the recipe's, or for a model for natural images what two cores process in about a second;
    its images are noise, because speed does not depend on them.

    Raises subclasses of ZooError for a wrong name before anything is measured.
    """
    if not models:
        raise WrongConfiguration("bench: no model given; `zoo list` shows them")
    for kind in what:
        if kind not in KINDS:
            raise WrongConfiguration(f"bench: what={kind!r}; expected {' or '.join(KINDS)}")
    batch_size = None if batch_size is None else integer("bench", "batch_size", batch_size)
    threads = None if threads is None else integer("bench", "threads", threads)
    names, show = _names(backends), show or (lambda text: None)
    rows: list[Record] = []
    for card, kind in product(map(registry.card, models), what):
        own: list[Record] = []
        for backend in names:
            job = {
                "model": card.name,
                "backend": backend,
                "device": device,
                "threads": threads or machine.cores(),
                "what": kind,
            }
            if kind == "build":
                own += _compare_builds(job, show)
            else:
                size = 1 if kind == "generate" else batch_size or batch_for(card)
                rounds, burst = (10, 1) if kind == "generate" else rounds_and_burst(card, size)
                own += _compete({**job, "batch_size": size, "rounds": rounds, "burst": burst}, show)
        if report:
            report(own)
        rows += own
    return rows


def _names(names: Sequence[str] | None) -> list[str]:
    return [backends.checked(name, "bench") for name in names or backends.installed()]


def _compete(job: Record, show: Callable[[str], None]) -> list[Record]:
    """One model on one framework: each contestant alone, then all in turn."""
    where = f"{job['model']} on {job['backend']}, {job['what']}"
    field = contestants(job["model"], job["backend"], job["what"])
    rows = []
    for contestant in field:
        show(f"{where}: {contestant.name} alone")
        alone = _run("alone", {**job, "contestants": [contestant.name]})
        rows.append({**job, "contestant": contestant.name, **alone, "error": alone.get("error")})
    running = [row for row in rows if not row["error"]]
    show(f"{where}: {len(running)} contestants in turn")
    # Who is made first has the slower memory: of three like programs it took 2 % longer. So the two that the
    # ratio is about change places.
    names = [row["contestant"] for row in running]
    timed: dict[str, list[float]] = {name: [] for name in names}
    for order in (names, [*names[1::-1], *names[2:]]):
        race = _run("race", {**job, "contestants": order, "rounds": job["rounds"] // 2})
        if "error" in race:
            return [{**row, "error": row["error"] or race["error"]} for row in rows]
        for name in names:
            timed[name] += race[name]
    reference = _reference(timed)
    for row in running:
        row |= _summary("step_ms", timed[row["contestant"]], reference)
        row["compile_s"] = max(0.0, row.pop("first_step_s") - row["step_ms"] / 1e3)
    return rows


def _compare_builds(job: Record, show: Callable[[str], None]) -> list[Record]:
    """One model on one framework, built by each contestant in turn, each time in a new process."""
    rows = [
        {**job, "contestant": contestant.name, "error": None}
        for contestant in contestants(job["model"], job["backend"], "build")
    ]
    times: dict[str, list[float]] = {row["contestant"]: [] for row in rows}
    for i in range(BUILDS):
        for row in rows:
            show(f"{job['model']} on {job['backend']}, {row['contestant']}: {i + 1} of {BUILDS}")
            if not row["error"]:
                built = _run("build", {**job, "contestants": [row["contestant"]]})
                row |= {"error": built.get("error"), "peak_mb": built.get("peak_mb")}
                times[row["contestant"]].append(built.get("build_s", 0.0))
    times = {row["contestant"]: times[row["contestant"]] for row in rows if not row["error"]}
    for row in rows:
        if not row["error"]:
            row |= _summary("build_s", times[row["contestant"]], _reference(times))
    return rows


def _reference(times: Mapping[str, Sequence[float]]) -> Sequence[float] | None:
    """The times of the plain peer in its first mode."""
    return next((own for name, own in times.items() if name.startswith("plain")), None)


def _summary(name: str, times: Sequence[float], reference: Sequence[float] | None) -> Record:
    """Median and quartiles, and the median ratio to the times beside them."""
    low, middle, high = quantiles(times, n=4, method="inclusive")
    ratio = median(a / b for a, b in zip(times, reference, strict=True)) if reference else None
    return {name: middle, f"{name}_quartiles": [low, high], "ratio": ratio}


def _run(how: str, job: Record) -> Record:
    """`python -m zoo.benchmarks` on a job: its answer, or {"error": what it died of}."""
    command = [*machine.PYTHON, "-m", "zoo.benchmarks", how, json.dumps(job)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, env=machine.quiet(), check=False, timeout=LIMIT_S
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LIMIT_S} s"}
    if done.returncode:
        return {"error": machine.last_words(done.stderr) or f"ended with status {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


# Inside the process of one framework


Burst = Callable[[int], float]  # runs so many steps and returns the last loss


def make(contestant: Contestant, job: Record) -> Burst:
    """A contestant ready to run."""
    from zoo import optimizers

    backend, card = backends.current(), registry.card(job["model"])
    settings = {name: recipe(card.recipe).settings[name] for name in SETTINGS}
    if job["what"] == "generate":
        return _writing(contestant, card)
    x, y, loss = batch(card, job["batch_size"])
    if contestant.who == "plain":
        peer, weights = _peer(card)
        with backend.on_device():
            px, py = peer.prepare(x, y)
            if job["what"] == "infer":
                predict = peer.predictor(weights, mode=contestant.mode)
                return _inference(backend, lambda: predict(px))
            step, _ = peer.trainer(weights, mode=contestant.mode, **settings)
        return _training(lambda: step(px, py))
    model = _build(card)
    engine = "keras" if contestant.who == "keras" else "native"
    if job["what"] == "infer":
        if engine == "keras":
            return _inference(backend, lambda: model.predict_on_batch(x), ready=True)
        predict, tx = backend.predictor(model, contestant.mode), backends.tensors(x)
        return _inference(backend, lambda: predict(tx))
    mode = "fit" if engine == "keras" else contestant.mode
    trainer = engines.make_engine(
        engine, model, objectives.Objective(loss), optimizers.AdamW(**settings), mode
    )
    if isinstance(trainer, engines.NativeEngine):
        tx, ty = backends.tensors(x), backend.tensor(y)
        return _training(lambda: trainer.step(tx, ty))

    def fit(steps: int) -> float:
        losses: list[float] = []
        trainer.fit(
            repeat((x, y)), engines.Countdown(steps, lambda loss: losses.append(engines.number(loss)))
        )
        return losses[-1]

    return fit


def batch(card: Card, size: int) -> tuple[Any, Any, str]:
    """x, y and the name of the loss: of the card's task, or noise in the place of photographs."""
    from zoo import tasks

    if card.preprocessing is None:
        # Of sequences a model says the names, too.
        shape = signature.input_shapes(_build(card)) if None in card.input else card.input
        task = tasks.load(card.task, shape)
        return *next(task.batches(size, 0, 0)), task.loss
    rng = random.generator(0, "bench")
    images = rng.standard_normal((size, *card.input), dtype="float32")
    return images, rng.integers(0, card.arguments["classes"], size, dtype="int32"), "cross_entropy"


def _build(card: Card) -> Any:
    """The model in full size, without dropout."""
    changes: dict[str, Any] = {
        name: 0.0 for name in ("dropout_rate", "drop_path_rate") if name in card.arguments
    }
    if card.arguments.get("head") == "encoder":
        changes["head"] = "masked_lm"
    return registry.build(card.name, **changes)


def _module(card: Card) -> Any:
    """The peer's module. Raises BackendError, saying what to install."""
    name = find_peer(card.name, backends.current().NAME)
    assert name is not None
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        package = str(error.name).partition(".")[0]
        raise BackendError(f"the plain peer needs {package}: pip install {package}") from None


def _peer(card: Card) -> tuple[Any, Any]:
    """The plain peer of a model, and the weights that it starts from, in its order or by its names."""
    module = _module(card)
    model = _build(card)
    if not hasattr(module, "peer"):
        return module, [_numpy(v) for v in model.trainable_variables]
    peer = module.peer(card.name)
    return peer, _named(model, peer.layout)


def _named(model: Any, layout: str) -> Mapping[str, Any]:
    """The weights by a layout's names: arrays by the zoo's own, torch's tensors by any other."""
    from zoo import weights

    if layout == "zoo":
        return {v.path: _numpy(v) for v in model.variables}
    return weights.to_torch(model, layout)


def _training(step: Callable[[], Any]) -> Burst:
    def burst(steps: int) -> float:
        for _ in range(steps - 1):
            step()
        return float(_numpy(step()))

    return burst


def _inference(backend: backends.Backend, predict: Callable[[], Any], *, ready: bool = False) -> Burst:
    def burst(steps: int) -> float:
        for _ in range(steps - 1):
            predict()
        logits = predict()
        if not ready:
            backend.synchronize(logits)
        return 0.0

    return burst


def _writing(contestant: Contestant, card: Card) -> Burst:
    """A text a step. Raises WrongConfiguration for a model that does not write."""
    from zoo.generation import generate

    prompt = random.generator(0, "bench").integers(3, 259, PROMPT, dtype="int32")
    if contestant.who == "plain":
        peer, weights = _peer(card)
        with backends.current().on_device():
            write = peer.writer(weights)
        texts = lambda: write(prompt, WRITTEN)  # noqa: E731
    else:
        model = _build(card)
        texts = lambda: generate(model, prompt, WRITTEN, temperature=0)  # noqa: E731

    def burst(steps: int) -> float:
        found = [texts() for _ in range(steps)]
        return float(sum(found[-1]))  # in the place of a loss: both must write the same

    return burst


def alone(contestant: Contestant, job: Record) -> Record:
    """First step, loss after a burst, and the peak of this process's memory."""
    burst = make(contestant, job)
    _forget_peak()
    start = time.perf_counter()
    burst(1)
    first = time.perf_counter() - start
    loss = burst(job["burst"])
    return {
        "first_step_s": first,
        "loss": loss if job["what"] != "infer" else None,
        "peak_mb": backends.current().peak_memory() / 2**20,
    }


def race(field: Sequence[Contestant], job: Record) -> dict[str, list[float]]:
    """Milliseconds a step, one number a burst, the contestants in turn within each round."""
    bursts = {contestant.name: make(contestant, job) for contestant in field}
    times: dict[str, list[float]] = {name: [] for name in bursts}
    for burst in bursts.values():
        burst(2 * job["burst"])
    order = list(bursts.items())
    for _ in range(job["rounds"]):
        order.reverse()  # so that nobody always follows the same one
        for name, burst in order:
            burst(1)  # memory that the one before gave back to the system costs the next: not counted
            start = time.perf_counter()
            burst(job["burst"])
            times[name].append((time.perf_counter() - start) * 1e3 / job["burst"])
    return times


def build(contestant: Contestant, job: Record) -> Record:
    """Seconds to build a model with its initial weights, once its libraries are imported."""
    card = registry.card(job["model"])
    place = nullcontext()
    if contestant.who == "plain":
        make, place = _module(card).peer(card.name).build, backends.current().on_device()
    else:
        make = partial(registry.build, card.name)
        registry.build("mlp")  # imports Keras
    start = time.perf_counter()
    with place:
        model = make()
    done = time.perf_counter() - start
    del model
    return {"build_s": done, "peak_mb": backends.current().peak_memory() / 2**20}


def _forget_peak() -> None:
    """Let the peak of a process's memory be that of the steps, not of making what they work on."""
    gc.collect()
    with suppress(OSError):  # Linux's alone
        Path("/proc/self/clear_refs").write_text("5")


def _numpy(value: Any) -> Any:
    import keras

    return keras.ops.convert_to_numpy(value)


def main() -> None:
    """Measure one job in this process and print the answer as JSON."""
    _lazy.leave_out_extras()
    how, job = sys.argv[1], json.loads(sys.argv[2])
    backends.use(job["backend"], device=job["device"], threads=job["threads"])
    field = [Contestant(*name.split(" ", 1)) for name in job["contestants"]]
    if how == "race":
        print(json.dumps(race(field, job)))
    else:
        print(json.dumps({"alone": alone, "build": build}[how](field[0], job)))


if __name__ == "__main__":
    try:
        main()
    except ZooError as error:
        sys.exit(f"{type(error).__name__}: {error}")
