"""One framework's part of `docs/_reliability.py`: runs in processes that are killed, and resumed.

The worker imports the framework and runs nothing; every run is in a process forked from it, which takes a
tenth of the time of a new one. A fork is sound as long as the worker has one thread, which is checked.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from zoo import backends, optimizers, registry, schedules, storage
from zoo._lazy import keras, ops
from zoo.errors import ZooError
from zoo.processes.workers import Answer, serve
from zoo.training import checkpoints

Record = dict[str, Any]
STEPS, CUT, BATCH = 20, 11, 16  # an epoch has four steps, and a group of accumulated gradients three
KEPT = 3
STEP_S = 0.004  # that a step of a run to be killed takes longer, or it would spend its time saving
STALL_S = 0.25  # in which the signal arrives
LIMIT_S = 120  # of a run
CALLS = ("open", "os.mkdir", "os.chmod", "os.rename", "os.rmdir", "os.remove", "os.link", "os.scandir",
         "os.listdir", "os.truncate")  # fmt: skip


# What the optimizers of the three kinds of runs have on: everything that a checkpoint has to bring back.
def _momentum() -> optimizers.Optimizer:
    rate = schedules.CosineAnnealing(0.05, STEPS)
    return optimizers.Momentum(rate, nesterov=True, weight_decay=0.01, use_ema=True, ema_momentum=0.8)


def _adamw() -> optimizers.Optimizer:
    rate = schedules.OneCycle(0.01, 7)
    return optimizers.AdamW(
        rate,
        weight_decay=0.1,
        global_clipnorm=1.0,
        use_ema=True,
        ema_momentum=0.8,
        gradient_accumulation_steps=3,
    )


def _scaled() -> Any:
    """The scale of the loss doubles every four updates."""
    rate = schedules.CosineAnnealing(0.01, STEPS)
    return keras.optimizers.LossScaleOptimizer(
        optimizers.AdamW(rate), initial_scale=2.0**10, dynamic_growth_steps=4
    )


KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "Momentum": ("float32", _momentum),
    "AdamW": ("float32", _adamw),
    "mixed_float16": ("mixed_float16", _scaled),
}


def train(kind: str, engine: str, **arguments: Any) -> zoo.Run:
    """Twenty steps of the smallest network, with dropout and augmented images."""
    backends.current().set_threads(1)
    dtype, optimizer = KINDS[kind]
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4 * BATCH, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 4 * BATCH)
    model = zoo.build("mlp", dtype=dtype, **{**zoo.card("mlp").small, "widths": (8,)})
    settings = {"steps": STEPS, "batch_size": BATCH, "progress": False, **arguments}
    return zoo.train(
        model,
        (x, y.astype(np.int32)),
        engine=engine,
        optimizer=optimizer(),
        augment="HorizontalFlip(rate=0.5), RandomCrop(size=8, padding=2)",
        **settings,
    )


def facts(run: zoo.Run) -> Record:
    """What two equal runs have in common."""
    digest = hashlib.sha256()
    for variable in run.model.variables:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable)).tobytes())
    return {"losses": run.losses, "history": run.history, "weights": digest.hexdigest()}


class Reporter(zoo.Callback):
    """Sends a line at every step: the steps made, and those of the newest checkpoint that is kept by then."""

    def __init__(self, folder: Path, output: int):
        self.folder, self.output, self.made = folder, output, 0

    def on_step(self, step: int, loss: Any) -> None:
        del loss
        self.made = step
        kept = [file.stem[-8:] for file in self.folder.glob("checkpoint-*.safetensors")]
        self.send(f"step {step} {int(max(kept, default='0'))}")
        time.sleep(STEP_S)

    def send(self, line: str) -> None:
        """To the parent process; raises BrokenPipeError once that has ended."""
        os.write(self.output, f"{line}\n".encode())


class Child:
    """A process forked from this one that does some work and ends; `lines` are what it sends."""

    def __init__(self, work: Callable[[int], Any]):
        if len(list(Path("/proc/self/task").iterdir())) > 1:
            raise ZooError("the parent process has threads: a fork of it may hang")
        read, write = os.pipe()
        self.number = os.fork()
        if not self.number:
            os.close(read)
            self._run(work, write)
        os.close(write)
        self.lines: Iterator[str] = os.fdopen(read)

    def _run(self, work: Callable[[int], Any], output: int) -> None:
        status = 1
        try:
            os.setsid()
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.alarm(LIMIT_S)
            status = work(output) or 0
        except KeyboardInterrupt:  # before the run can take the signal
            status = 130
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def wait(self) -> tuple[int, bool]:
        """The exit status, negative for a signal, and whether a process of the child's is left."""
        _, status = os.waitpid(self.number, 0)
        try:
            os.killpg(self.number, signal.SIGKILL)
        except ProcessLookupError:
            return os.waitstatus_to_exitcode(status), False
        return os.waitstatus_to_exitcode(status), True


class Trials:
    """Answers the main process; see `docs/_reliability.py` for what it measures."""

    def __init__(self, folder: Path, answer: Answer):
        self.folder, self.answer = folder, answer
        zoo.use(os.environ["KERAS_BACKEND"])
        registry.list_models()
        self.uncut = cache(self._uncut)

    def _uncut(self, kind: str, engine: str) -> Record:
        """The facts of a run that is neither cut nor saved, and the path of its weights."""
        file = self.folder / f"{kind}-{engine}.npz"
        return self._complete(lambda: train(kind, engine), file)

    def _complete(self, run: Callable[[], zoo.Run], weights: Path | None = None) -> Record:
        """The facts of a run in a process of its own, whose weights are saved as well if a path is given."""
        found = self.folder / "facts.json"
        found.unlink(missing_ok=True)

        def work(_: int) -> None:
            done = run()
            if weights is not None:
                zoo.weights.save(done.model, weights)
            found.write_text(json.dumps(facts(done)))

        child = Child(work)
        list(child.lines)
        status, _ = child.wait()
        if status:
            raise ZooError(f"a run that was to end by itself ended with status {status}")
        return json.loads(found.read_text())

    def kill(
        self, *, engine: str, number: int, step: int, call: int, delay: float, event: str | None = None
    ) -> None:
        """Send a signal to a run that saves after every step, and resume it.

        It is sent before the `call`-th call after this step that names a file of the run, counting those in
        CALLS or `event` alone, or, where that is 0, so many seconds after the step.
        """
        uncut, folder = self.uncut("AdamW", engine), Path(self.folder, f"run-{time.time_ns()}")
        events = CALLS if event is None else (event,)
        row = self._killed(engine, folder, number, step, delay, (call, events))
        row["partial"] = any(folder.glob(".*.part"))
        row |= self._state(folder)
        if row["partial"]:
            time.sleep(storage.RECENT)  # a save leaves newer ones to the process that may be writing them
        arguments = {"out": folder, "checkpoint_every": 1, "keep": KEPT, "resume": "auto"}
        run = self._complete(lambda: train("AdamW", engine, **arguments))
        numbered = [f"checkpoint-{STEPS - i:08d}.safetensors" for i in range(KEPT)]
        expected = {checkpoints.FILE, "run.json", "run.html", "model.safetensors", *numbered}
        left = sorted({file.name for file in folder.iterdir()} ^ expected)
        self.answer(last=True, **row, equal=run == uncut, left=left)

    def _killed(
        self, engine: str, folder: Path, number: int, step: int, delay: float, at: tuple[int, tuple[str, ...]]
    ) -> Record:
        call, events = at

        def work(output: int) -> int:
            reporter = Reporter(folder, output)
            if call:
                _stall(reporter, step, call, events)
            reporter.send("step 0 0")
            run = train("AdamW", engine, out=folder, checkpoint_every=1, keep=KEPT, resume="auto",
                        callbacks=[reporter])  # fmt: skip
            return 128 + (run.signal or -128)

        child, announced, moment = Child(work), 0, ""
        for line in child.lines:
            word, first, second = line.split()
            if word == "step":
                announced = int(second)
            if not moment and ((word == "call") if call else (word, int(first)) == ("step", step)):
                time.sleep(0 if call else delay)
                moment = f"at {second} after step {first}" if call else f"{delay:.4f} s after step {first}"
                os.kill(child.number, number)
        status, left = child.wait()
        return {"moment": moment, "status": status, "announced": announced, "processes": left}

    def _state(self, folder: Path) -> Record:
        """The steps of the newest checkpoint that is whole, and how many are not."""
        steps, damaged = [0], 0
        for file in folder.glob("checkpoint*.safetensors"):
            try:
                steps.append(len(checkpoints.read(file).arrays["losses"]))
            except ZooError:
                damaged += 1
        return {"found": max(steps), "damaged": damaged}

    def save(self, *, kind: str, engine: str, path: str) -> None:
        """Kill a run in its twelfth step, which leaves its checkpoint at `path`, and the one before it."""

        def work(_: int) -> None:
            def end(step: int, _: Any) -> None:
                if step == CUT:
                    os.kill(os.getpid(), signal.SIGKILL)

            train(kind, engine, checkpoint=path, checkpoint_every=1, keep=2, watch=end)

        child = Child(work)
        list(child.lines)
        status, _ = child.wait()
        self.answer(last=True, status=status)

    def resume(self, *, kind: str, engine: str, path: str) -> None:
        """Resume a run from its file; the largest differences from the run that was never cut."""
        file = self.folder / "resumed.npz"
        uncut = self.uncut(kind, engine)
        run = self._complete(lambda: train(kind, engine, resume=path, batch_size=None), file)
        theirs = np.load(self.folder / f"{kind}-{engine}.npz")
        ours = np.load(file)
        weights = max(float(np.abs(ours[name].astype(np.float64) - theirs[name]).max()) for name in theirs)
        losses = float(np.abs(np.subtract(run["losses"], uncut["losses"])).max())
        self.answer(last=True, losses=losses, weights=weights, equal=run == uncut)

    def losses(self, *, kind: str, engine: str) -> None:
        """The losses of the run that is never cut."""
        self.answer(last=True, losses=self.uncut(kind, engine)["losses"])

    def fuzz(self, *, name: str, count: int) -> None:
        """Read so many mutations of a format; the errors that are not the zoo's."""
        folder = self.folder / name
        folder.mkdir()
        uncaught, refused = import_module("test_hostile_files").fuzz(name, folder, count)
        self.answer(last=True, uncaught=list(uncaught.values()), refused=refused)


def _stall(reporter: Reporter, step: int, call: int, events: tuple[str, ...]) -> None:
    """Announce the `call`-th of these calls that names a file of the run after a step, and wait before it."""
    folder, count = str(reporter.folder), 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in events or reporter.made < step or count == call:
            return
        if any(isinstance(x, str | os.PathLike) and folder in os.fspath(x) for x in arguments):
            count += 1
            if count == call:
                reporter.send(f"call {step} {event}")
                time.sleep(STALL_S)

    sys.addaudithook(hook)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        serve(Trials)
