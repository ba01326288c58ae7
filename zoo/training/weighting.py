"""Class weights: rare classes count for more in the loss.

The loss of an example is multiplied by the weight of its class, and the mean is over the examples of the
batch, or over its labels where every step has one, as with `class_weight` of Keras's `fit`. torch's
`CrossEntropyLoss(weight=)` divides by the sum of the weights instead. The weight of a soft label is the mean
of the classes' weights by their shares.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

import numpy as np

from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.tasks import Task
from zoo.tasks.sequences import Sequences
from zoo.tasks.shards import split_of

BALANCED = "balanced"


def parse_weights(given: Any) -> str:
    """Class weights as text: "balanced", or a JSON object of weights by class.

    `given` is such a text, "cat=2, dog=1", a mapping, or a weight for each class in order. Raises
    WrongConfiguration.
    """
    if isinstance(given, str) and (given in ("", BALANCED) or given.startswith("{")):
        return given
    try:
        if isinstance(given, str):
            given = {name: float(x) for name, _, x in (part.rpartition("=") for part in given.split(","))}
        if not isinstance(given, Mapping):
            given = dict(enumerate(given))
        weights = {str(name).strip(): float(x) for name, x in given.items()}
    except (TypeError, ValueError):
        weights = {}
    if not weights or "" in weights or not all(isfinite(x) and x >= 0 for x in weights.values()):
        raise WrongConfiguration(
            f"class_weights={given!r}; expected 'balanced', or numbers of 0 or more by class: "
            "{'cat': 2, 'dog': 1}, or 'cat=2, dog=1'"
        )
    return json.dumps(weights, ensure_ascii=False)


def class_weights(text: str, task: Task, classes: int) -> tuple[float, ...]:
    """The weight of each of so many classes, 1 of a class that is not named.

    "balanced" is n / (k count), of n labels of k classes, as in scikit-learn's `compute_class_weight`. Raises
    UnknownName for a class that is not the task's, WrongConfiguration for "balanced" of unknown labels.
    """
    if text == BALANCED:
        counts = _counts(task, classes)
        present = counts > 0
        share = counts.sum() / (present.sum() * np.maximum(counts, 1e-9))
        return tuple(np.where(present, share, 1.0).tolist())
    weights = [1.0] * classes
    numbers = {str(i): i for i in range(classes)} | {name: i for i, name in enumerate(task.names)}
    for name, weight in json.loads(text).items():
        if name not in numbers:
            raise UnknownName(f"class_weights: {task.name} has no class {name!r}; {nearest(name, numbers)}")
        weights[numbers[name]] = weight
    return tuple(weights)


def _counts(task: Task, classes: int) -> np.ndarray:
    """How many labels each class has; of soft labels, the sum of its shares."""
    if task.corrupt is not None or "train" in task.streams or split_of(task.train[1]) is not None:
        raise WrongConfiguration(
            f"class_weights='balanced' counts labels, and those of {task.name} are not known before "
            "training; give the weight of each class"
        )
    y = task.train[1]
    if not isinstance(y, Sequences) and not np.issubdtype(y.dtype, np.integer):
        return y.sum(0, dtype=np.float64)
    labels = np.concatenate([np.ravel(each) for each in (y.arrays if isinstance(y, Sequences) else [y])])
    return np.bincount(labels[labels >= 0], minlength=classes).astype(np.float64)
