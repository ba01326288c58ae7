"""What a run shows while it trains, and the signals that stop it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from zoo.training.engines import number
from zoo.training.run import Run

logger = logging.getLogger(__name__)

Tensor = Any


# Ctrl-C; what `kill` and preemption send; what SLURM's `sbatch --signal=USR1@60` sends.
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, name)]


@contextmanager
def interruptible(received: list[int]) -> Iterator[None]:
    """Within, `SIGNALS` are added to the list, so that no step is interrupted; a second Ctrl-C does at once.

    SIGTERM and SIGUSR1 are left to the program's own handlers, if it has any.
    """
    before = {each: signal.getsignal(each) for each in SIGNALS}
    ours = [
        n for n in SIGNALS if before[n] is signal.SIG_DFL or (n == signal.SIGINT and before[n] is not None)
    ]
    if threading.current_thread() is not threading.main_thread():
        ours = []

    def handle(given: int, frame: Any) -> None:
        del frame
        received.append(given)
        if given == signal.SIGINT:
            signal.signal(given, before[signal.SIGINT])

    for each in ours:
        signal.signal(each, handle)
    try:
        yield
    finally:
        for each in ours:
            signal.signal(each, before[each])


def announce(run: Run, shown: bool | str, note: str, *, fine_tuned: bool) -> None:
    """Say how a run trains: where progress is shown, else in the log if the recipe is not the usual one.

    `note` is what there is to say of the run that it continues.
    """
    for text, unusual in ((f"{run.model.name}: {run.recipe}", fine_tuned), (note, True)):
        if shown and text:
            say(text)
        elif unusual and text:
            logger.warning("%s", text)


def epoch_line(run: Run, per_epoch: int, total: int, seconds: float) -> None:
    """What there is to say of an epoch, for a log."""
    held_out = ", ".join(f"{name} {value:.4f}" for name, value in run.metrics.items())
    trained = run.history[-1]
    text = [f"epoch {-(-len(run.losses) // per_epoch)}/{-(-total // per_epoch)}", f"step {len(run.losses)}"]
    text += [f"train loss {trained['train_loss']:.4f}", f"learning rate {trained['learning_rate']:.3g}"]
    text += [f"held out: {held_out}"] if held_out else []
    say(" · ".join([*text, f"{seconds:.1f} s"]))


def say(text: str) -> None:
    """Print a line on standard error; a log whose disk is full, or whose reader has gone, ends no run."""
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


@contextmanager
def bar(run: Run, total: int, shown: bool) -> Iterator[Callable[[int, Tensor], None]]:
    """A progress bar: loss (read off the device twice a second), metric, steps a second, time left."""
    if not shown:
        yield lambda step, loss: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    ]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"{run.model.name} · {run.backend} {run.engine}", total=total, facts="")
        start = last = time.perf_counter()

        def show(step: int, loss: Tensor) -> None:
            nonlocal last
            now = time.perf_counter()
            if now - last < 0.5 and step < total:
                return
            last = now
            facts = [f"loss {number(loss):.4f}"]
            facts += [f"{name} {value:.3f}" for name, value in run.metrics.items()]
            facts += [f"{step / (now - start):.0f} steps/s"]
            progress.update(bar, completed=step, facts=" · ".join(facts))

        yield show
