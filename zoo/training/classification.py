"""A classifier on labelled examples: confusion, precision and recall, calibration, largest losses."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from zoo.tasks import Pair, Task
from zoo.tasks.sequences import take
from zoo.training.engines import Predicts

BINS = 15  # of the confidence, as Guo et al. have


@dataclass(frozen=True)
class Example:
    """An example with a large loss: `x` as the model sees it; `index` is that in the order of evaluation."""

    x: Any
    index: int
    label: int
    prediction: int
    probability: float  # of its label
    loss: float


@dataclass(frozen=True, eq=False)
class Classification:
    """The predictions of a classifier for n labelled examples."""

    names: tuple[str, ...]  # of the classes
    labels: np.ndarray  # (n,)
    predictions: np.ndarray  # (n,)
    confidence: np.ndarray  # (n,) the probability of the prediction
    top: tuple[Example, ...]  # those with the largest losses, the largest first

    @property
    def confusion(self) -> np.ndarray:
        """(classes, classes): how many examples of a class, a row, were predicted as which, a column."""
        from sklearn.metrics import confusion_matrix

        return confusion_matrix(self.labels, self.predictions, labels=range(len(self.names)))

    @property
    def per_class(self) -> list[dict[str, float]]:
        """ "precision", "recall", "f1" and "support" of each class; 0 where one is not defined."""
        from sklearn.metrics import precision_recall_fscore_support

        columns: Any = precision_recall_fscore_support(
            self.labels, self.predictions, labels=range(len(self.names)), zero_division=cast(Any, 0)
        )
        names = ("precision", "recall", "f1", "support")
        return [dict(zip(names, map(float, row), strict=True)) for row in zip(*columns, strict=True)]

    @property
    def calibration(self) -> np.ndarray:
        """(15, 3): examples, mean confidence and accuracy of each bin of confidence; NaN if it is empty."""
        bins = np.clip(np.ceil(self.confidence * BINS).astype(int) - 1, 0, BINS - 1)
        counts = np.bincount(bins, minlength=BINS)
        sums = [np.bincount(bins, x, BINS) for x in (self.confidence, self.labels == self.predictions)]
        means = [np.divide(x, counts, out=np.full(BINS, np.nan), where=counts > 0) for x in sums]
        return np.stack([counts, *means], axis=1)

    @property
    def calibration_error(self) -> float:
        """The mean gap of confidence and accuracy over the bins, weighted by examples (ECE).

        Guo et al. 2017, "On calibration of modern neural networks", arXiv:1706.04599, eq. 3.
        """
        counts, confidence, accuracy = self.calibration.T
        return float(np.nansum(counts * np.abs(confidence - accuracy)) / counts.sum())


def is_classification(task: Task) -> bool:
    """Whether each example has one class as its label."""
    part = task.test or task.train
    y = part[1] if isinstance(part, tuple) else None
    return task.loss == "cross_entropy" and isinstance(y, np.ndarray) and y.ndim == 1


def classify(engine: Predicts, task: Task, batches: Iterable[Pair], most: int = 12) -> Classification:
    """Predict these batches of a classification; `most` examples with the largest losses are kept."""
    labels, predictions, confidence, top, seen, classes = [], [], [], [], 0, 0
    for x, y in batches:
        logits = engine.predict(x).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        log_probability = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        rows, classes = np.arange(len(y)), logits.shape[-1]
        prediction, losses = log_probability.argmax(-1), -log_probability[rows, y]
        labels.append(np.array(y))
        predictions.append(prediction)
        confidence.append(np.exp(log_probability[rows, prediction]))
        for i in np.argsort(-losses, kind="stable")[:most]:
            own = (int(y[i]), int(prediction[i]), float(np.exp(-losses[i])), float(losses[i]))
            top.append(Example(take(x, np.array([i])), seen + int(i), *own))
        top = sorted(top, key=lambda example: -example.loss)[:most]
        seen += len(y)
    names = task.names or tuple(map(str, range(classes)))
    columns = [np.concatenate(each) for each in (labels, predictions, confidence)]
    return Classification(names, columns[0], columns[1], columns[2], tuple(top))
