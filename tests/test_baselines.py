"""Methods without a network: against their formulas, written out for one case at a time."""

from collections import Counter
from math import log2

import numpy as np
import pytest

import zoo
from zoo.tasks import baselines, text

pytestmark = pytest.mark.once


def by_hand(train: bytes, context: bytes, byte: int) -> float:
    """p(byte | context), Witten and Bell's method C, by counting in the text; the last context is none."""
    if not context:
        after, shorter = Counter(train), 1 / 256
    else:
        places = [i for i in range(len(context), len(train)) if train[i - len(context) : i] == context]
        after, shorter = Counter(train[i] for i in places), by_hand(train, context[1:], byte)
    if not after:
        return shorter
    return (after[byte] + len(after) * shorter) / (after.total() + len(after))


@pytest.mark.parametrize("order", [1, 2, 3, 5])
def test_witten_bell_is_its_formula(order: int) -> None:
    train, test = "the cat sat on the mat; the rat sat, too. " * 3, "the bat, naïve, sat on the cat."
    whole, first = (train + test).encode(), len(train.encode())
    bits = -sum(
        log2(by_hand(train.encode(), whole[i - order + 1 : i], whole[i])) for i in range(first, len(whole))
    )
    assert baselines.witten_bell(train, test, order) == pytest.approx(bits / len(test), rel=1e-12)


def test_the_probabilities_of_all_bytes_make_one() -> None:
    train = b"abracadabra"
    for context in (b"", b"a", b"ab", b"zz"):
        assert sum(by_hand(train, context, byte) for byte in range(256)) == pytest.approx(1, rel=1e-12)


def test_longer_contexts_tell_more_of_the_corpus() -> None:
    """Until they are too rare: 1.905 bits a character of five bytes is the least, as shown beside GPT."""
    texts = text.corpus()
    bits = [baselines.witten_bell(texts["train"], texts["test"], order) for order in range(1, 8)]
    assert np.argmin(bits) == 4
    assert bits[0] > 4.5


def test_logistic_regression_tells_languages_that_share_no_letter() -> None:
    train = (["abc abd", "bca cab", "xyz xzy", "zyx yzx"], np.array([0, 0, 1, 1]))
    assert baselines.logistic_regression(train, (["cba", "zzy"], np.array([0, 1]))) == 1
    assert baselines.logistic_regression(train, (["cba", "zzy"], np.array([1, 0]))) == 0


def test_a_task_has_a_baseline_or_none() -> None:
    found = baselines.baseline("languages")
    assert found is not None
    assert found.metric == "accuracy"
    assert found.value > 0.96  # as tried when the task was made
    assert baselines.baseline("digits") is None
    with pytest.raises(zoo.UnknownName, match="no task 'langages'"):
        baselines.baseline("langages")
