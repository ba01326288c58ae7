"""Mean and spread over seeds, and paired tests: seeds are shared, so runs of one seed are pairs.

Two runs of one seed have the same initial weights and the same order of examples. Under the hypothesis that
a choice makes no difference, the sign of a pair's difference is as likely to be + as -: the p value is the
share of the 2^n assignments of signs whose mean is as far from 0 as the one observed (Fisher 1935, "The
Design of Experiments", section 21).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Any

Record = dict[str, Any]
MOST_EXACT = 16  # pairs, whose 65,536 assignments of signs are all computed; of more pairs Wilcoxon's test


def spread(values: Sequence[float]) -> Record:
    """Mean, standard deviation (n - 1; None of a single value), least and largest, and the count."""
    return {
        "mean": fmean(values) if values else None,
        "deviation": stdev(values) if len(values) > 1 else None,
        "least": min(values, default=None),
        "largest": max(values, default=None),
        "runs": len(values),
    }


def paired_test(differences: Sequence[float]) -> Record:
    """The two-sided test that paired differences are symmetric around 0.

    `p_least` is the smallest p value that so many pairs can have, 2 / 2^n: with five pairs 0.0625, however
    large the differences. {} without a pair.
    """
    n = len(differences)
    if not n:
        return {}
    found = {"pairs": n, "difference": fmean(differences), "p_least": min(1.0, 2.0 ** (1 - n))}
    if not any(differences):
        return {**found, "test": "permutation", "p": 1.0}
    if n > MOST_EXACT:
        from scipy.stats import wilcoxon

        return {**found, "test": "Wilcoxon", "p": float(wilcoxon(differences).pvalue)}  # pyright: ignore
    if n == 1:
        return {**found, "test": "permutation", "p": 1.0}
    import numpy as np
    from scipy.stats import permutation_test

    result = permutation_test(
        (np.asarray(differences),), np.mean, permutation_type="samples", n_resamples=2**n, vectorized=True
    )
    return {**found, "test": "permutation", "p": float(result.pvalue)}


def holm(p_values: Sequence[float]) -> list[float]:
    """The p values adjusted for their number: the chance of any false finding stays below each.

    Holm 1979, "A simple sequentially rejective multiple test procedure".
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def differences_by_seed(
    a: Mapping[tuple[Any, int], float], b: Mapping[tuple[Any, int], float]
) -> dict[int, float]:
    """b - a of each seed, the mean over the contexts that both have: (context, seed) -> value.

    A context is what else distinguishes runs, such as the model when frameworks are compared. Runs of one
    seed in several contexts are not independent, so a seed is one pair. Seeds that lack a context are left
    out.
    """
    both = [key for key in a if key in b and math.isfinite(a[key]) and math.isfinite(b[key])]
    contexts = {context for context, _ in both}
    seeds = [seed for seed in dict.fromkeys(seed for _, seed in both)
             if all((context, seed) in both for context in contexts)]  # fmt: skip
    return {seed: fmean(b[context, seed] - a[context, seed] for context in contexts) for seed in seeds}
