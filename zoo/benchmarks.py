"""`zoo bench`: the zoo's step against the same network written plainly in each framework, and Keras's `fit`.

Times are ratios within one process: every contestant of a framework runs there in turn, burst after burst,
so that a busy machine slows all alike. Compile time and peak memory come from a process of its own for
each. All start from the same weights, take the same batch, and must arrive at the same loss.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module, util
from itertools import count
from statistics import median, quantiles
from typing import Any

from zoo import backends, machine, registry
from zoo.errors import BackendError, WrongConfiguration, ZooError
from zoo.recipes import recipe

Record = dict[str, Any]
PEERS = {"torch": "torch", "tensorflow": "tensorflow", "jax": "flax"}  # zoo/peers/<model>_<suffix>.py
ROUNDS, BURST = 21, 10  # bursts a contestant, steps a burst
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
    """Who competes: the zoo's default mode first, then the peer's modes, then Keras."""
    found = [Contestant("zoo", backends.MODES[backend][0])]
    found += [Contestant("plain", mode) for mode in _peer_modes(model, backend)]
    return [*found, Contestant("keras", "fit" if what == "train" else "predict")]


def bench(
    *models: str,
    what: Sequence[str] = ("train", "infer"),
    backends: Sequence[str] | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    show: Callable[[str], None] | None = None,
) -> list[Record]:
    """Time models' steps beside their peers, and return a row for each contestant.

    Rows have "model", "backend", "what" ("train" or "infer"), "contestant", "step_ms" (median),
    "step_ms_quartiles", "ratio" (to the framework's plain peer in its first mode, the median over
    bursts that ran side by side; None without a peer), "compile_s" (first step less a later one), "peak_mb",
    "loss" (after a burst of steps; None for inference) and "error". `show` is told what is measured now.

    Raises ZooError's kinds for a wrong name before anything is measured.
    """
    if not models:
        raise WrongConfiguration("bench: no model given; `zoo list` shows them")
    for kind in what:
        if kind not in ("train", "infer"):
            raise WrongConfiguration(f"bench: what={kind!r}; expected train or infer")
    show = show or (lambda text: None)
    rows: list[Record] = []
    for name in [registry.card(model).name for model in models]:
        for backend in _names(backends):
            for kind in what:
                job = {
                    "model": name, "backend": backend, "what": kind,
                    "batch_size": batch_size or recipe(registry.card(name).recipe).batch_size,
                    "threads": threads or machine.cores(),
                }  # fmt: skip
                rows += _compete(job, show)
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
    timed = _run("race", {**job, "contestants": [row["contestant"] for row in running]})
    if "error" in timed:
        return [{**row, "error": row["error"] or timed["error"]} for row in rows]
    reference = next((row["contestant"] for row in running if row["contestant"].startswith("plain")), None)
    for row in running:
        own = timed[row["contestant"]]
        low, middle, high = quantiles(own, n=4, method="inclusive")
        row |= {"step_ms": middle, "step_ms_quartiles": [low, high]}
        row["compile_s"] = max(0.0, row.pop("first_step_s") - middle / 1e3)
        row["ratio"] = (
            median(a / b for a, b in zip(own, timed[reference], strict=True)) if reference else None
        )
    return rows


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


def _peer_modes(model: str, backend: str) -> tuple[str, ...]:
    """The modes of the plain peer, read without importing it: its framework must not be loaded here."""
    if util.find_spec(_peer(model, backend)) is None:
        return ()
    return {"torch": ("eager", "compiled"), "tensorflow": ("graph", "xla"), "jax": ("jit",)}[backend]


def _peer(model: str, backend: str) -> str:
    return f"zoo.peers.{model.replace('-', '_')}_{PEERS[backend]}"


# Inside the process of one framework


Burst = Callable[[int], float]  # runs so many steps and returns the last loss


def make(contestant: Contestant, job: Record) -> Burst:
    """A contestant ready to run."""
    from zoo import tasks, training

    backend, card = backends.current(), registry.card(job["model"])
    task = tasks.load(card.task, card.input)
    plan = recipe(card.recipe)
    x, y = next(task.batches(job["batch_size"], 0, 0))
    model = registry.build(card.name)
    if contestant.who == "plain":
        try:
            peer = import_module(_peer(card.name, backend.NAME))
        except ModuleNotFoundError as error:
            raise BackendError(f"the plain peer needs {error.name}: pip install {error.name}") from None
        weights = [_numpy(v) for v in model.trainable_variables]
        px, py = peer.prepare(x, y)
        if job["what"] == "infer":
            predict = peer.predictor(weights, mode=contestant.mode)
            return _inference(backend, lambda: predict(px))
        step, _ = peer.trainer(
            weights,
            learning_rate=plan.settings["learning_rate"],
            weight_decay=plan.settings["weight_decay"],
            mode=contestant.mode,
        )
        return _training(lambda: step(px, py))
    engine = "keras" if contestant.who == "keras" else "native"
    mode = "fit" if engine == "keras" else contestant.mode
    stepper = training.make_engine(engine, model, training.Objective(task.loss), plan.make_optimizer(), mode)
    if job["what"] == "infer":
        if engine == "keras":
            return _inference(backend, lambda: model.predict_on_batch(x), ready=True)
        tx = backend.tensor(x)
        return _inference(backend, lambda: stepper.predictor(tx))
    if engine == "native":
        tx, ty = backend.tensor(x), backend.tensor(y)
        return _training(lambda: stepper.step(tx, ty))

    def fit(steps: int) -> float:
        losses: list[Any] = []
        stepper.fit(
            ((x, y) for _ in count()),
            steps,
            steps,
            lambda loss: (losses.append(loss), len(losses) >= steps)[1],
            lambda: False,
        )
        return float(losses[-1])

    return fit


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


def alone(contestant: Contestant, job: Record) -> Record:
    """First step, loss after a burst, and the peak of this process's memory."""
    burst = make(contestant, job)
    start = time.perf_counter()
    burst(1)
    first = time.perf_counter() - start
    loss = burst(BURST)
    return {
        "first_step_s": first,
        "loss": loss if job["what"] == "train" else None,
        "peak_mb": backends.current().peak_memory() / 2**20,
    }


def race(field: Sequence[Contestant], job: Record) -> dict[str, list[float]]:
    """Milliseconds a step, one number a burst, the contestants in turn within each round."""
    bursts = {contestant.name: make(contestant, job) for contestant in field}
    times: dict[str, list[float]] = {name: [] for name in bursts}
    for burst in bursts.values():
        burst(2 * BURST)
    for _ in range(ROUNDS):
        for name, burst in bursts.items():
            start = time.perf_counter()
            burst(BURST)
            times[name].append((time.perf_counter() - start) * 1e3 / BURST)
    return times


def _numpy(value: Any) -> Any:
    import keras

    return keras.ops.convert_to_numpy(value)


def main() -> None:
    """Measure one job in this process and print the answer as JSON."""
    how, job = sys.argv[1], json.loads(sys.argv[2])
    backends.use(job["backend"], threads=job["threads"])
    field = [Contestant(*name.split(" ", 1)) for name in job["contestants"]]
    print(json.dumps(alone(field[0], job) if how == "alone" else race(field, job)))


if __name__ == "__main__":
    try:
        main()
    except ZooError as error:
        sys.exit(f"{type(error).__name__}: {error}")
