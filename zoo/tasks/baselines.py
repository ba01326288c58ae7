"""What a task yields without a network: the figure that a model has to pass.

`languages`   logistic regression on characters, 1 to 4 in a row
`topics`      which byte followed the last four, counted: Witten and Bell's 5-gram

No framework is needed, and none is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from zoo.tasks import source, text


@dataclass(frozen=True)
class Baseline:
    """A method, and what it reaches on the examples held out."""

    method: str
    metric: str  # as `zoo.train` calls it
    value: float

    def __str__(self) -> str:
        return f"{self.metric.replace('_', ' ')} {self.value:.4g} by {self.method}"


@cache
def baseline(task: str) -> Baseline | None:
    """What the task's baseline reaches, learnt anew in seconds; None for a task that has none.

    Raises UnknownName for no task, DataUnavailable where its data is not to be had.
    """
    name, _ = source(task)
    return BASELINES[name]() if name in BASELINES else None


def logistic_regression(train: text.Labelled, test: text.Labelled) -> float:
    """The share of texts told right by which characters they hold, 1 to 4 in a row, rare ones weighing more.

    scikit-learn's, of frequencies times inverse document frequencies (Spärck Jones 1972), of unit length.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    return float(make_pipeline(grams, LogisticRegression(C=30, max_iter=1000)).fit(*train).score(*test))


def witten_bell(train: str, test: str, order: int = 5) -> float:
    """Bits a character of `test`, each byte told by the `order` - 1 before it as often as in `train`.

    With c(h) occurrences of a context h in `train`, t(h) different bytes after it, and h' its last bytes but
    one, Witten and Bell 1991, "The zero-frequency problem", method C, interpolated:

        p(v | h) = (c(h v) + t(h) p(v | h')) / (c(h) + t(h)),    p(v) without any context before it 1 / 256

    As nltk.lm.WittenBellInterpolated. `test` follows `train`.
    """
    learnt = np.frombuffer(train.encode(), np.uint8).astype(np.int64)
    after = np.frombuffer(test.encode(), np.uint8).astype(np.int64)
    told = np.concatenate([learnt[len(learnt) - order + 1 :], after])
    p = np.full(len(after), 1 / 256)
    for n in range(1, order + 1):
        grams, times = np.unique(_grams(learnt, n), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)
        occurrences, different = np.add.reduceat(times, first), np.diff(np.append(first, len(grams)))
        asked = _grams(told, n)[order - n :]
        c, t = (_found(contexts, values, asked >> 8) for values in (occurrences, different))
        seen = _found(grams, times, asked)
        p = np.where(c > 0, (seen + t * p) / np.maximum(c + t, 1), p)
    return float(-np.log2(p).sum() / len(test))


def _grams(values: np.ndarray, n: int) -> np.ndarray:
    """(m,) bytes -> each n in a row as one number (m - n + 1,), the last byte its lowest."""
    found = np.zeros(len(values) - n + 1, np.int64)
    for i in range(n):
        found = found << 8 | values[i : i + len(found)]
    return found


def _found(keys: np.ndarray, values: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The value of each key that is asked for, 0 where there is none; keys in rising order."""
    places = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    return np.where(keys[places] == asked, values[places], 0)


def _languages() -> Baseline:
    splits = text.languages()
    value = logistic_regression(splits["train"], splits["test"])
    return Baseline("logistic regression on characters, 1 to 4 in a row", "accuracy", value)


def _topics() -> Baseline:
    texts = text.corpus()
    value = witten_bell(texts["train"], texts["test"])
    return Baseline("Witten-Bell 5-gram of bytes", "bits_per_character", value)


BASELINES: dict[str, Callable[[], Baseline]] = {"languages": _languages, "topics": _topics}
