"""Metrics, and what a model measures on the examples of a task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import exp, log

import numpy as np

from zoo.backends.world import get_world
from zoo.tasks import Pair, Task
from zoo.tasks.ctc import character_error_rate
from zoo.training.engines import Predicts
from zoo.training.objectives import Objective


def accuracy(y: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """How many labels have the largest logit, and how many there are: of examples, or of steps but for -1.

    Of soft labels it is the largest one's.
    """
    labels = y.argmax(-1) if y.ndim == logits.ndim else y
    counted = labels >= 0
    return int(((logits.argmax(-1) == labels) & counted).sum()), int(counted.sum())


def exact_match(y: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """How many sequences have the largest logit at every label, and how many there are.

    Where each step has seen the labels before it, that is how many a greedy decoder would write.
    """
    return int(((logits.argmax(-1) == y) | (y < 0)).all(-1).sum()), len(y)


# name -> of a batch's labels and logits, two counts; the metric is the ratio of their sums
METRICS: dict[str, Callable[[np.ndarray, np.ndarray], tuple[int, int]]] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "character_error_rate": character_error_rate,
}
LOWER = {"loss", "character_error_rate", "bits_per_character", "perplexity"}  # is better


def evaluate(engine: Predicts, task: Task, batch_size: int) -> dict[str, float]:
    """The task's metric and the loss on its held-out examples; empty where it has none."""
    return {} if task.test is None else _dealt(engine, task, batch_size, "test")


def evaluate_training(engine: Predicts, task: Task, batch_size: int) -> dict[str, float]:
    """The task's metric on its training examples, without augmentation; its name has the prefix "train_"."""
    measured = _dealt(engine, task, batch_size, "train")
    return {f"train_{name}": value for name, value in measured.items() if name != "loss"}


def measure(engine: Predicts, task: Task, batches: Iterable[Pair]) -> dict[str, float]:
    """The task's metric and the loss on these batches."""
    return _metrics(task, _counts(engine, task, batches))


def _dealt(engine: Predicts, task: Task, batch_size: int, split: str) -> dict[str, float]:
    """The same on the examples of a split, whose batches are dealt to the workers."""
    workers = get_world()
    own = _counts(engine, task, task.held_out(batch_size, split, workers.rank, workers.size))
    if workers.size == 1:
        return _metrics(task, own)
    counts = np.zeros((int(workers.total(np.array([len(own)]))[0]), own.shape[1]))
    counts[task.dealt(len(counts), split, workers.rank, workers.size)] = own
    return _metrics(task, workers.total(counts))


def _counts(engine: Predicts, task: Task, batches: Iterable[Pair]) -> np.ndarray:
    """A row for each batch: hits and their number, of the metric; the loss, and its weight."""
    found = []
    y: np.ndarray
    for x, y in batches:
        logits = engine.predict(x)
        hits, of = (0, 0) if task.metric is None else METRICS[task.metric](y, logits)
        found.append((hits, of, engine.loss(y, logits), Objective(task.loss).weight(y)))
    return np.array(found, np.float64).reshape(-1, 4)


def _metrics(task: Task, counts: np.ndarray) -> dict[str, float]:
    """The task's metric and the loss, from the counts of all batches."""
    hits, of, losses, weights = counts.T
    metric = {} if task.metric is None else {task.metric: float(hits.sum() / max(1, of.sum()))}
    loss = float(np.average(losses, weights=weights))
    if task.tokens_per_character is not None:
        bits = loss / log(2) * task.tokens_per_character
        metric = {"bits_per_character": bits, "perplexity": exp(loss), **metric}
    return {**metric, "loss": loss}
