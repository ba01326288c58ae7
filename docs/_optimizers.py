"""The table of optimizers on docs/diff.md: `python docs/_optimizers.py` runs them all and writes it.

torch.optim, optax on JAX, and Keras on both take the same ten gradients with the same schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from _measured import row

from zoo.ports.optimizers import Link, Record, draw_gradients, report
from zoo.ports.run import Comparison
from zoo.ports.steps import on_gradients
from zoo.processes.builders import save_builder
from zoo.processes.scratch import scratch_folder

PAGE = Path(__file__).with_name("diff.md")
BEGIN, END = "<!-- optimizers: written by python docs/_optimizers.py -->", "<!-- optimizers end -->"
STEPS, FACTOR = 10, 0.8  # of the schedule, which multiplies the rate after each step
KERAS = ("torch", "jax")
DRAW = np.random.default_rng(0).standard_normal
WEIGHTS = {"dense/kernel": DRAW((6, 4)), "dense/bias": DRAW(4)}

Build = Callable[..., Any]
Settings = dict[str, Any]


@dataclass(frozen=True)
class Entry:
    """An optimizer: its name and the same settings in the words of each library; None if it has none."""

    title: str
    rate: float
    torch: tuple[str, Settings] | None
    optax: tuple[str, Settings] | None
    keras: tuple[str, Settings] | None
    matrix: bool = False  # matrices alone
    scheduled: bool = True


def of_torch(name: str, rate: float, settings: Settings, scheduled: bool = True) -> Build:
    """An optimizer of torch, in float64 also where it computes in bfloat16."""

    def build(named: Any) -> Any:
        import torch

        wide = settings.get("wide")
        if wide:
            torch.Tensor.bfloat16 = torch.Tensor.double  # type: ignore[method-assign]
        own = {key: value for key, value in settings.items() if key != "wide"}
        made = getattr(torch.optim, name)(named, lr=rate, **own)
        return (made, torch.optim.lr_scheduler.ExponentialLR(made, FACTOR)) if scheduled else made

    return build


def of_optax(name: str, rate: float, settings: Settings, scheduled: bool = True) -> Build:
    """A transformation of optax."""

    def build() -> Any:
        import optax

        factory = getattr(optax, name, None) or getattr(optax.contrib, name)
        decay = settings.get("coupled", 0.0)
        own = {key: value for key, value in settings.items() if key != "coupled"}
        made = factory(optax.exponential_decay(rate, 1, FACTOR) if scheduled else rate, **own)
        return optax.chain(optax.add_decayed_weights(decay), made) if decay else made

    return build


def of_keras(name: str, rate: float, settings: Settings, scheduled: bool = True) -> Build:
    """An optimizer of Keras."""

    def build() -> Any:
        import keras

        schedule = keras.optimizers.schedules.ExponentialDecay(rate, 1, FACTOR)
        return getattr(keras.optimizers, name)(schedule if scheduled else rate, **settings)

    return build


BETAS = {
    "torch": {"betas": (0.9, 0.99)},
    "optax": {"b1": 0.9, "b2": 0.99},
    "keras": {"beta_1": 0.9, "beta_2": 0.99},
}
EPSILON = {"torch": {"eps": 1e-6}, "optax": {"eps": 1e-6}, "keras": {"epsilon": 1e-6}}


def adam(title: str, names: Sequence[str | None], **more: Settings) -> Entry:
    """An entry with the same betas and epsilon, and what else each library needs."""
    found = [
        name and (name, {**BETAS[side], **EPSILON[side], **more.get(side, {})})
        for side, name in zip(("torch", "optax", "keras"), names, strict=True)
    ]
    return Entry(title, 0.1, *found)  # type: ignore[arg-type]


def decay(value: float, *sides: str) -> dict[str, Settings]:
    """Weight decay in the words of these libraries."""
    return {side: {"weight_decay": value} for side in sides or ("torch", "optax", "keras")}


RMS = (
    {"alpha": 0.9, "eps": 1e-6}, {"decay": 0.9, "eps": 1e-6}, {"rho": 0.9, "epsilon": 1e-6},
)  # fmt: skip
CENTERED: Settings = {"momentum": 0.9, "centered": True}
LION = ({"b1": 0.9, "b2": 0.99, "weight_decay": 0.1}, {"beta_1": 0.9, "beta_2": 0.99, "weight_decay": 0.1})
MUON: Settings = {"momentum": 0.95, "weight_decay": 0.1}
MUONS: Settings = {"weight_decay": 0.1, "eps": 1e-7}  # optax's
TABLE = [
    Entry("SGD", 0.1, ("SGD", {}), ("sgd", {}), ("SGD", {})),
    Entry(
        "SGD, weight decay", 0.1, ("SGD", {"weight_decay": 0.1}), ("sgd", {"coupled": 0.1}),
        ("SGD", {"weight_decay": 0.1}),
    ),
    Entry(
        "momentum", 0.1, ("SGD", {"momentum": 0.9}), ("sgd", {"momentum": 0.9}), ("SGD", {"momentum": 0.9})
    ),
    Entry(
        "Nesterov", 0.1, ("SGD", {"momentum": 0.9, "nesterov": True}),
        ("sgd", {"momentum": 0.9, "nesterov": True}), ("SGD", {"momentum": 0.9, "nesterov": True}),
    ),
    Entry("RMSprop", 0.1, ("RMSprop", RMS[0]), ("rmsprop", RMS[1]), ("RMSprop", RMS[2])),
    Entry(
        "RMSprop, centered, momentum", 0.1,
        ("RMSprop", {**RMS[0], **CENTERED}), ("rmsprop", {**RMS[1], **CENTERED}),
        ("RMSprop", {**RMS[2], **CENTERED}),
    ),
    Entry(
        "Adagrad", 0.1,
        ("Adagrad", {"initial_accumulator_value": 0.1, "eps": 1e-6}), ("adagrad", {"eps": 1e-6}),
        ("Adagrad", {"epsilon": 1e-6}),
    ),
    Entry(
        "Adadelta", 1.0, ("Adadelta", {}), ("adadelta", {}), ("Adadelta", {"rho": 0.9, "epsilon": 1e-6})
    ),
    adam("Adam", ("Adam", "adam", "Adam")),
    adam(
        "Adam, weight decay", ("Adam", "adam", "Adam"),
        **decay(0.1, "torch", "keras"), optax={"coupled": 0.1},
    ),
    adam("AdamW", ("AdamW", "adamw", "AdamW"), **decay(0.1)),
    adam("AMSGrad", ("Adam", "amsgrad", "Adam"), torch={"amsgrad": True}, keras={"amsgrad": True}),
    adam("Adamax", ("Adamax", "adamax", "Adamax")),
    adam("Nadam", ("NAdam", "nadam", "Nadam")),
    adam("RAdam", ("RAdam", "radam", None)),
    Entry("Rprop", 0.1, ("Rprop", {}), ("rprop", {}), None, scheduled=False),
    Entry("Lion", 0.1, None, ("lion", LION[0]), ("Lion", LION[1])),
    adam("LAMB", (None, "lamb", "Lamb"), **decay(0.1, "optax", "keras")),
    Entry(
        "Adafactor", 0.1, ("Adafactor", {"eps": (1e-15, 1e-3)}), ("adafactor", {"min_dim_size_to_factor": 2}),
        ("Adafactor", {}),
    ),
    Entry("Muon", 0.1, ("Muon", MUON), ("muon", MUONS), ("Muon", MUON), matrix=True),
    Entry(
        "Muon, torch's in float64", 0.1, ("Muon", {**MUON, "wide": True}), ("muon", MUONS),
        ("Muon", MUON), matrix=True,
    ),
]  # fmt: skip


class Runs:
    """The two processes in which the optimizers run: torch and JAX, each with Keras on it."""

    def __init__(self, scratch: Path):
        self.scratch, self.count = scratch, 0
        self.pair = Comparison(scratch, KERAS, lambda _: None)

    def steps(self, backend: str, build: Build, matrix: bool) -> Record:
        """Ten steps of an optimizer in the process of a framework."""
        weights = {n: x for n, x in WEIGHTS.items() if x.ndim > 1 or not matrix}
        gradients = draw_gradients(weights, STEPS)
        flat = {f"{t}/{n}": x for t, each in enumerate(gradients) for n, x in each.items()}
        (folder := self.scratch / f"builder{self.count}").mkdir()
        self.count += 1
        files = self.pair.save("weights", weights), self.pair.save("gradients", flat)
        return on_gradients(self.pair, KERAS.index(backend), save_builder(folder, build), *files)


MAKERS = {"torch": of_torch, "optax": of_optax, "keras": of_keras}


def of_entry(runs: Runs, entry: Entry, same: bool) -> dict[str, Record]:
    """The steps by library; Keras's on every backend, with which the settings are the same."""
    found = {}
    for side, maker in MAKERS.items():
        given = getattr(entry, side)
        if given is None:
            continue
        name, settings = given
        kept = settings if same else {k: v for k, v in settings.items() if k in KEPT}
        build = maker(name, entry.rate, kept, entry.scheduled)
        backends = {"torch": ("torch",), "optax": ("jax",), "keras": KERAS if same else ("torch",)}[side]
        for backend in backends:
            label = f"{side} {backend}" if side == "keras" else side
            found[label] = runs.steps(backend, build, entry.matrix)
    return found


# What makes an entry what it is, and stays where the defaults are compared.
KEPT = {"momentum", "nesterov", "centered", "amsgrad", "wide", "min_dim_size_to_factor"}
BFLOAT16 = "torch.optim orthogonalizes in bfloat16; with float64 in its place, see the next rows"
SHORT = {"torch": "torch.optim", "optax": "optax", "keras torch": "Keras"}


def compared(theirs: Record, ours: Record) -> tuple[float, list[dict[str, Any]]]:
    """The largest difference after ten steps, and the causes."""
    found = report(theirs, ours, [Link(name, name) for name in theirs.weights[0]])
    return found["steps"][-1]["difference"], found["causes"]


def check_keras(entry: Entry, backend: str, gap: float, causes: Sequence[dict[str, Any]]) -> None:
    """Keras's backends give the same steps, but for what one of them computes in float32."""
    if gap > 1e-5:
        print(f"{entry.title}: Keras on {backend} differs from torch by {gap:.1e}: {causes}", flush=True)


def cell(causes: Sequence[dict[str, Any]], theirs: str, ours: str) -> str:
    """The causes in words, with the libraries' names."""
    texts: dict[str, None] = {}
    for cause in causes:
        text = cause["explanation"] or BFLOAT16
        text = text.replace("in theirs", f"in {theirs}").replace("in ours", f"in {ours}")
        text = text.replace("theirs", theirs, 1) if text.startswith("theirs") else text
        text = text.replace(", ours ", f", {ours} ").replace("ours computes", f"{ours} computes")
        texts[text if cause["confirmed"] or text == BFLOAT16 else f"{text} (not confirmed)"] = None
    return "; ".join(texts)


def rows(runs: Runs, entry: Entry) -> list[str]:
    """A row for each pair of libraries."""
    same, usual = of_entry(runs, entry, True), of_entry(runs, entry, False)
    lines = []
    names = [name for name in SHORT if name in same]
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            gap, causes = compared(same[first], same[second])
            if second.startswith("keras"):
                for other in KERAS[1:]:
                    check_keras(entry, other, *compared(same[second], same[f"keras {other}"]))
            known = {cause["cause"] for cause in causes}
            more = [c for c in compared(usual[first], usual[second])[1] if c["cause"] not in known]
            labels = SHORT[first], SHORT[second]
            verdict = "equal" if gap <= 1e-9 else cell(causes, *labels)
            lines.append(
                row([entry.title, f"{labels[0]}, {labels[1]}", f"{gap:.1e}", verdict, cell(more, *labels)])
            )
            print(lines[-1], flush=True)
    return lines


def main() -> None:
    """Write the table."""
    with scratch_folder() as folder:
        runs = Runs(folder)
        with runs.pair:
            lines = [line for entry in TABLE for line in rows(runs, entry)]
    head = [
        row(["optimizer", "libraries", "difference", "with the same settings", "defaults that differ too"])
    ]
    head.append(row(["---"] * 5))
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    text = "\n".join([BEGIN, "", *head, *lines, "", END])
    PAGE.write_text(f"{before}{text}{rest.partition(END)[2]}", encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main()
