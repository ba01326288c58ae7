"""Non-neural baselines of tasks, for comparison with a model's results.

`languages`   logistic regression on character 1- to 4-grams
`topics`      Witten and Bell's 5-gram of bytes

They load no framework.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from zoo.tasks import source, text


@dataclass(frozen=True)
class Baseline:
    """A method and its result on the held-out examples."""

    method: str
    metric: str  # as `zoo.train` calls it
    value: float


@cache
def baseline(task: str) -> Baseline | None:
    """The result of the task's baseline, trained in seconds; None if the task has none.

    Raises UnknownName for an unknown task, DataUnavailable if its data cannot be loaded.
    """
    name, _ = source(task)
    return BASELINES[name]() if name in BASELINES else None


def logistic_regression(train: text.Labelled, test: text.Labelled) -> float:
    """The accuracy of logistic regression on character 1- to 4-grams.

    By scikit-learn, on tf-idf vectors (Spärck Jones 1972) of unit length.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    grams = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), sublinear_tf=True)
    return float(make_pipeline(grams, LogisticRegression(C=30, max_iter=1000)).fit(*train).score(*test))


def witten_bell(train: str, test: str, order: int = 5) -> float:
    """Bits per character of `test`, each byte predicted from the `order` - 1 before it by counts in `train`.

    With c(h) occurrences of a context h in `train`, t(h) different bytes after it, and h' the context without
    its first byte, Witten and Bell 1991, "The zero-frequency problem", method C,
    interpolated:

        p(v | h) = (c(h v) + t(h) p(v | h')) / (c(h) + t(h))    and p(v) from 1 / 256

    As nltk.lm.WittenBellInterpolated. `test` follows `train`.
    """
    history = np.frombuffer(train.encode(), np.uint8).astype(np.int64)
    after = np.frombuffer(test.encode(), np.uint8).astype(np.int64)
    sequence = np.concatenate([history[len(history) - order + 1 :], after])
    p = np.full(len(after), 1 / 256)
    for n in range(1, order + 1):
        grams, times = np.unique(_grams(history, n), return_counts=True)
        contexts, first = np.unique(grams >> 8, return_index=True)
        occurrences, different = np.add.reduceat(times, first), np.diff(np.append(first, len(grams)))
        queries = _grams(sequence, n)[order - n :]
        c, t = (_lookup(contexts, values, queries >> 8) for values in (occurrences, different))
        seen = _lookup(grams, times, queries)
        p = np.where(c > 0, (seen + t * p) / np.maximum(c + t, 1), p)
    return float(-np.log2(p).sum() / len(test))


def _grams(values: np.ndarray, n: int) -> np.ndarray:
    """(m,) bytes -> every n-gram as one integer (m - n + 1,), its last byte the lowest."""
    found = np.zeros(len(values) - n + 1, np.int64)
    for i in range(n):
        found = found << 8 | values[i : i + len(found)]
    return found


def _lookup(keys: np.ndarray, values: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """The value of each queried key, 0 if it is missing; `keys` are sorted."""
    indices = np.minimum(np.searchsorted(keys, queries), len(keys) - 1)
    return np.where(keys[indices] == queries, values[indices], 0)


def _languages() -> Baseline:
    splits = text.languages()
    value = logistic_regression(splits["train"], splits["test"])
    return Baseline("logistic regression on characters, 1 to 4 in a row", "accuracy", value)


def _topics() -> Baseline:
    texts = text.corpus()
    value = witten_bell(texts["train"], texts["test"])
    return Baseline("Witten-Bell 5-gram of bytes", "bits_per_character", value)


BASELINES: dict[str, Callable[[], Baseline]] = {"languages": _languages, "topics": _topics}
