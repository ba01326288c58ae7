"""The repetition of an exact run, compared with its chain step by step: `zoo.verify`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo import backends
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.training.chain import Chain, Recorder, read
from zoo.training.loop import Loop
from zoo.training.plan import Options, plan_run
from zoo.training.run import Run
from zoo.training.startup import start


@dataclass(frozen=True)
class Verdict:
    """The result of repeating a run: the steps that are equal, and the first that differs, if any."""

    steps: int
    parted: str | None = None  # "step 7: the loss"

    @property
    def equal(self) -> bool:
        """Whether every step was repeated bit for bit."""
        return self.parted is None


class _Parted(Exception):
    """Ends the repetition: its argument is the verdict."""


class _Comparer(Recorder):
    """Compares every step of a run with a chain."""

    def __init__(self, run: Run, chain: Chain):
        super().__init__(run, Chain(chain.options))
        self.saved = chain.links

    def on_step(self, loss: float) -> dict[str, Any]:
        ours = super().on_step(loss)
        step = ours["step"]
        saved = self.saved[step - 1]
        if difference := _difference(ours, saved):
            raise _Parted(Verdict(step - 1, f"step {step}: {difference}"))
        if step == len(self.saved):
            raise _Parted(Verdict(step))
        return ours


def _difference(ours: Mapping[str, Any], saved: Mapping[str, Any]) -> str:
    """What differs between two links."""
    if ours["loss"] != saved.get("loss"):
        return "the loss"
    a, b = ours.get("variables", {}), saved.get("variables", {})
    named = ", ".join(path for path in sorted({*a, *b}) if a.get(path) != b.get(path))
    if named or ours["state"] == saved.get("state"):
        return named
    return "the weights or the optimizer state"


def verify(folder: str | Path) -> Verdict:
    """Repeat an exact run on the framework in use, and report the first step that differs from the saved run.

    Raises DataUnavailable for a folder without a chain, WrongConfiguration for a run whose options were
    objects, which the chain does not hold.
    """
    chain = read(Path(folder))
    if (step := chain.broken()) is not None:
        return Verdict(
            step - 1, f"step {step}: the file itself, whose hash does not follow from the one before"
        )
    if not chain.links:
        raise DataUnavailable(f"{folder}: its chain has no steps")
    if chain.options["objects"] or chain.options["task"] is None:
        names = ", ".join(chain.options["objects"] or ["task"])
        raise WrongConfiguration(
            f"{folder}: {names} of the run were Python objects, which its chain does not hold"
        )
    options = Options(**chain.options["options"], progress=False)
    with backends.exactly(True):
        loop = Loop(start(plan_run(chain.options["model"], chain.options["task"], options)))
        loop.recorder = _Comparer(loop.run, chain)
        loop.steps = max(loop.steps, len(chain.links))  # more than of its options, where it was resumed
        try:
            loop.finish()
        except _Parted as parted:
            return parted.args[0]
    return Verdict(len(loop.run.losses), f"step {len(loop.run.losses) + 1}: the run has ended")
