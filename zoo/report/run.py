"""The page of a training run, run.html: curves, options, and for a classifier the confusion matrix.

One HTML file that needs no network and no JavaScript. `page` takes a record, see `zoo.training.page.record`.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Any

from zoo.report.curves import Curve, line_chart, reliability_chart
from zoo.report.templates import POLICY, environment, style
from zoo.report.words import Record, number

MOST_CLASSES = 25  # of a confusion matrix that is shown whole; of a larger one the most frequent confusions
POINTS = 400  # of the curve of all steps
TRAINING, HELD_OUT = "tensorflow", "torch"  # hues: blue and vermilion


@cache
def _templates() -> Any:
    return environment()


def page(run: Record) -> str:
    """The page with its style."""
    classes = run["classification"]
    return _templates().get_template("run.html").render(
        run=run,
        created=datetime.fromisoformat(run["created"]).astimezone(UTC),
        headline=headline(run),
        figures=figures(run),
        columns=[name.replace("_", " ") for name in columns(run)],
        rows=[
            (epoch, [number(row.get(name)) for name in columns(run)])
            for epoch, row in zip(run["epochs"], run["history"], strict=True)
        ],
        classes=classes and classification(classes),
        style=style(),
        policy=POLICY,
    )  # fmt: skip


def headline(run: Record) -> str:
    """The result in a line."""
    metrics = [f"{name.replace('_', ' ')} {number(value)}" for name, value in run["metrics"].items()]
    if not metrics:
        loss = run["history"][-1].get("train_loss") if run["history"] else None
        return f"Training loss {number(loss)}"
    return f"{metrics[0].capitalize()} on held-out examples"


def columns(run: Record) -> list[str]:
    """The names of the values of an epoch, those of training first."""
    return list(dict.fromkeys(name for row in run["history"] for name in row))


def figures(run: Record) -> list[tuple[str, list[Curve], Any]]:
    """(title, curves, chart) of the losses, the metrics and the learning rate."""
    epochs, history = run["epochs"], run["history"]

    def curve(name: str, column: str, hue: str, dash: tuple[int, ...] = ()) -> Curve | None:
        points = [(x, row.get(column)) for x, row in zip(epochs, history, strict=True)]
        return Curve(name, hue, points, dash=dash) if any(y is not None for _, y in points) else None

    every = math.ceil(len(run["losses"]) / POINTS) or 1
    steps = [((i + 1) / run["per_epoch"], y) for i, y in enumerate(run["losses"])][::every]
    charts = {
        "Loss": [Curve("each step", "muted", steps, dots=False), curve("training", "train_loss", TRAINING),
                 curve("held out", "loss", HELD_OUT, (5, 3))],
    }  # fmt: skip
    for name in (name for name in columns(run) if name not in ("loss", "learning_rate")):
        if not name.startswith("train_"):
            own = [curve("training", f"train_{name}", TRAINING), curve("held out", name, HELD_OUT, (5, 3))]
            charts[name.replace("_", " ").capitalize()] = own
    charts["Learning rate"] = [curve("of the last step", "learning_rate", TRAINING)]
    found = {title: [c for c in own if c is not None] for title, own in charts.items()}
    return [
        (title, own, line_chart(f"Line chart: {title.lower()} by epoch. {said(own)}", "epoch", own))
        for title, own in found.items()
        if own
    ]


def said(curves: Sequence[Curve]) -> str:
    """Where each curve starts and ends, in words."""
    texts = []
    for curve in curves:
        values = [y for _, y in curve.points if y is not None]
        if values:
            texts.append(f"{curve.name.capitalize()}: from {number(values[0])} to {number(values[-1])}.")
    return " ".join(texts)


def classification(found: Record) -> Record:
    """The variables of the part of a classifier."""
    names, matrix = found["names"], found["confusion"]
    totals = [max(1, sum(row)) for row in matrix]
    pairs = sorted(
        ((count, names[i], names[j], count / totals[i])
         for i, row in enumerate(matrix) for j, count in enumerate(row) if i != j and count),
        key=lambda pair: -pair[0],
    )  # fmt: skip
    whole = len(names) <= MOST_CLASSES
    shades = [
        [(count, round(45 * count / total)) for count in row]
        for row, total in zip(matrix, totals, strict=True)
    ]
    total = sum(map(sum, matrix))
    bins = [(count / total, confidence, accuracy) for count, confidence, accuracy in found["calibration"]]
    return {
        "names": names,
        "matrix": list(zip(names, shades, strict=True)) if whole else None,
        "pairs": pairs[:20],
        "per_class": [
            (name, [number(row[key]) for key in ("precision", "recall", "f1")], f"{row['support']:,.0f}")
            for name, row in zip(names, found["per_class"], strict=True)
        ],
        "error": number(found["calibration_error"]),
        "reliability": reliability_chart(
            f"Reliability diagram; expected calibration error {number(found['calibration_error'])}.", bins
        ),
        "pictures": [example for example in found["top"] if example["image"]],
        "others": [example for example in found["top"] if not example["image"]],
    }
