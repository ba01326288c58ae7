"""The tables of docs/scale.md for more machines, from measured times: `python docs/_scale.py` writes them.

An all-reduce of n bytes between N devices takes 2 ceil(log2 N) a + 2 (N - 1) / N n / b seconds, a the latency
and b the bandwidth of a device (Thakur, Rabenseifner, Gropp 2005: Rabenseifner's algorithm).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _measured import FOLDER, MODELS, read, row

import zoo
from zoo.training.recipes import recipe

PAGE = Path(__file__).parent / "scale.md"
BEGIN, END = "<!-- python docs/_scale.py -->\n", "<!-- end -->\n"
NETWORKS = {"10 Gbit/s": (50e-6, 1.25e9), "200 Gbit/s": (5e-6, 25e9)}  # latency (s), bandwidth (bytes/s)
DEVICES = (8, 64, 1024)
STEPS = 400  # that are simulated
NORM_SUMS = 4  # all-reduces of a batch norm's channels in a step: two forward, two backward
SLOTS = {"Momentum": 1, "Nesterov": 1, "SGD": 0}  # arrays of an optimizer beside the weights; 2 of others


@dataclass(frozen=True)
class Work:
    """A model's step on one device: seconds and their spread, sums that it sends."""

    name: str
    parameters: int
    batch: int
    step: float
    spread: float  # standard deviation, from the quartiles
    norms: int
    channels: int

    def sent(self) -> float:
        """Bytes of a step's sums: gradients, loss and flag, and those of batch norms, in float32."""
        return 4.0 * (self.parameters + 2 + NORM_SUMS * self.channels)

    def communication(self, devices: int, latency: float, bandwidth: float) -> float:
        """Seconds of a step's all-reduces, none of which overlaps with computing."""
        rounds = 2 * math.ceil(math.log2(devices)) * (1 + NORM_SUMS * self.norms)
        return rounds * latency + 2 * (devices - 1) / devices * self.sent() / bandwidth

    def efficiency(self, devices: int, latency: float, bandwidth: float) -> float:
        """The mean step of one device over that of all, each of which waits for the slowest: simulated."""
        rng = np.random.Generator(np.random.Philox(key=[devices, len(self.name)]))
        draws = np.maximum(rng.normal(self.step, self.spread, (STEPS, devices)), 0.5 * self.step)
        return float(self.step / (draws.max(1).mean() + self.communication(devices, latency, bandwidth)))


def work(name: str) -> Work:
    """A model in full size, its step as recorded for its page: torch, the native engine."""
    rows = read(FOLDER / f"{name}-bench.json")["rows"]
    found = next(
        r for r in rows if (r["backend"], r["what"], r["contestant"]) == ("torch", "train", "zoo traced")
    )
    low, high = found["step_ms_quartiles"]
    norms = channels = 0
    if name.startswith(("resnet", "efficientnet")):
        layers = [x for x in zoo.build(name)._flatten_layers() if type(x).__name__ == "BatchNorm"]
        norms, channels = len(layers), sum(int(x.gamma.shape[0]) for x in layers)
    spread = (high - low) / 1.349 / 1e3  # of a normal distribution
    parameters = zoo.card(name).parameters
    return Work(name, parameters, found["batch_size"], found["step_ms"] / 1e3, spread, norms, channels)


def text() -> str:
    """Both tables in Markdown."""
    each = [work(name) for name in MODELS.values()]
    kinds = [f"{n:,}, {network}" for network in NETWORKS for n in DEVICES]
    lines = [
        row(["model", "batch", "step, ms", "MB a step", *kinds]),
        row(["---", *["---:"] * (3 + len(kinds))]),
    ]
    for w in each:
        cells = [f"{w.efficiency(n, *link):.2f}" for link in NETWORKS.values() for n in DEVICES]
        lines.append(
            row([f"`{w.name}`", str(w.batch), f"{w.step * 1e3:.1f}", f"{w.sent() / 1e6:.2f}", *cells])
        )
    lines += ["", row(["model", *kinds, "checkpoint, MB"])]
    lines.append(row(["---", *["---:"] * (1 + len(kinds))]))
    for w in each:
        needed = [9e3 * w.communication(n, *link) for link in NETWORKS.values() for n in DEVICES]
        size = 4 * w.parameters * (1 + SLOTS.get(recipe(zoo.card(w.name).recipe).optimizer, 2)) / 1e6
        lines.append(row([f"`{w.name}`", *(f"{t:,.1f}" for t in needed), f"{size:,.1f}"]))
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with the tables as they are computed."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    return f"{before}{BEGIN}{text()}{END}{rest.split(END)[1]}"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
