"""Figures of a classifier on labelled examples: its confusion matrix, its calibration, its largest losses."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo.show.figures import WIDTH, Picture
from zoo.training.evaluation import classification

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def confusion(model: Any, task: Any = None, *, split: str | None = None) -> Picture:
    """The confusion matrix: values (classes, classes), the examples of a class, a row, predicted as a column.

    `model`, `task` and `split` are those of `zoo.evaluate`; by default what the run held out. Raises its
    errors, and WrongConfiguration for a task whose examples do not have one class.
    """
    found = classification(model, task, split=split)
    values, right = found.confusion, (found.labels == found.predictions).mean()
    title = f"{len(found.labels):,} examples, accuracy {right:.4f}"
    return Picture(title, values, partial(_matrix, values=values, names=found.names))


def calibration(model: Any, task: Any = None, *, split: str | None = None) -> Picture:
    """The reliability diagram: values (15, 3), the examples, mean confidence and accuracy of each bin.

    Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599; the title has the expected
    calibration error, eq. 3. Arguments and errors are those of `confusion`.
    """
    found = classification(model, task, split=split)
    title = f"expected calibration error {found.calibration_error:.4f}"
    return Picture(title, found.calibration, partial(_reliability, bins=found.calibration))


def _matrix(title: str, *, values: np.ndarray, names: tuple[str, ...]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, 0.9 * WIDTH), layout="constrained")
    axes = figure.subplots()
    shares = values / np.maximum(values.sum(1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, fontsize=11, pad=8)
    if len(names) <= 40:
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0)
        axes.set_yticks(range(len(names)), names)
    for row, column in np.argwhere(values) if len(names) <= 20 else ():
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{values[row, column]:,}", ha="center", va="center", fontsize=8, color=color)
    axes.set_xlabel("prediction", fontsize=9)
    axes.set_ylabel("class", fontsize=9)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return figure


def _reliability(title: str, *, bins: np.ndarray) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure((0.7 * WIDTH, 0.7 * WIDTH), layout="constrained")
    axes = figure.subplots()
    edges = np.arange(len(bins)) / len(bins)
    axes.bar(edges, bins[:, 2], 1 / len(bins), align="edge", color="#0072b2", edgecolor="white")
    axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1)
    axes.set_title(title, fontsize=11, pad=8)
    axes.set_xlabel("confidence", fontsize=9)
    axes.set_ylabel("accuracy", fontsize=9)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.tick_params(labelsize=8)
    return figure
