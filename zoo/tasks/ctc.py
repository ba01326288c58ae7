"""From the logits of connectionist temporal classification to labels, and how far those are from the truth.

Graves et al. 2006, "Connectionist temporal classification: labelling unsegmented sequence data with recurrent
neural networks". A frame says a label or the blank, class 0. An alignment is a class for each frame; it reads
as its labels once repeats are merged and then blanks dropped:

    - a a - a b b   ->   a a b

The probability of labels is the sum over all alignments that read so; `ctc_loss` of the backends is minus its
logarithm. The likeliest alignment need not read as the likeliest labels: `greedy` takes the first,
`beam_search` looks for the second. Axes: b batch, t frames, l labels.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from zoo.checks import integer
from zoo.errors import WrongConfiguration

Prefix = tuple[int, ...]
NEVER = -np.inf  # the logarithm of 0


def greedy(logits: np.ndarray) -> list[list[int]]:
    """What the likeliest class of every frame reads as, for each example of (b, t, classes).

    "Best path decoding", section 3.2 of the paper. Raises WrongConfiguration for another shape.
    """
    best = _checked(logits).argmax(-1)  # (b, t)
    new = np.diff(best, axis=1, prepend=0) != 0  # a label first said, or said again after a blank
    return [row[said & (row != 0)].tolist() for row, said in zip(best, new, strict=True)]


def beam_search(logits: np.ndarray, beams: int = 8) -> list[list[int]]:
    """The likeliest labels found by a prefix beam search, for each example of (b, t, classes).

    Hannun et al. 2014, "First-pass large vocabulary continuous speech recognition using bi-directional
    recurrent DNNs", arXiv:1408.2873, algorithm 1, without its language model: of all that may have been said
    up to a frame, the `beams` likeliest go on. Raises WrongConfiguration for another shape, or no beam.
    """
    beams = integer("beam_search", "beams", beams)
    x = _checked(logits).astype(np.float64)
    log_p = x - np.logaddexp.reduce(x, axis=-1, keepdims=True)
    return [_search(frames, beams) for frames in log_p]


def _search(log_p: np.ndarray, beams: int) -> list[int]:
    """(t, classes) -> labels."""
    # What may have been said -> log p of its alignments that end in a blank, and in a label.
    found: dict[Prefix, np.ndarray] = {(): np.array([0, NEVER])}
    for frame in log_p:
        longer: dict[Prefix, np.ndarray] = defaultdict(lambda: np.full(2, NEVER))
        for prefix, (blank, label) in found.items():
            either = np.logaddexp(blank, label)
            last = prefix[-1] if prefix else 0
            longer[prefix] = np.logaddexp(longer[prefix], (either + frame[0], label + frame[last]))
            for new in range(1, len(frame)):
                before = blank if new == last else either  # the same label anew only after a blank
                said = (*prefix, new)
                longer[said] = np.logaddexp(longer[said], (NEVER, before + frame[new]))
        likeliest = sorted(longer, key=lambda prefix: -np.logaddexp(*longer[prefix]))
        found = {prefix: longer[prefix] for prefix in likeliest[:beams]}
    return list(next(iter(found)))


def edit_distance(a: Sequence[int], b: Sequence[int]) -> int:
    """The fewest insertions, deletions and substitutions that make b of a; of strings, in characters.

    Levenshtein 1966; the table of Wagner and Fischer 1974, a row at a time.
    """
    row = list(range(len(b) + 1))  # from the first i of a to the first j of b
    for i, x in enumerate(a, start=1):
        above, row = row, [i]
        for j, y in enumerate(b, start=1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def character_error_rate(labels: np.ndarray, logits: np.ndarray) -> tuple[int, int]:
    """Edits from what `greedy` reads to the labels, and how many labels there are, summed over the batch.

    Labels (b, l) are padded with 0; logits are (b, t, classes). The rate is the ratio of the two, and may
    exceed 1. Raises WrongConfiguration for other shapes.
    """
    found = greedy(logits)
    if np.ndim(labels) != 2 or len(labels) != len(found):
        raise WrongConfiguration(
            f"labels of shape {np.shape(labels)}; expected ({len(found)}, l) beside logits {np.shape(logits)}"
        )
    true = [[int(label) for label in row if label] for row in labels]
    edits = sum(edit_distance(ours, theirs) for ours, theirs in zip(found, true, strict=True))
    return edits, sum(map(len, true))


def _checked(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits)
    if logits.ndim != 3 or logits.shape[-1] < 2:
        raise WrongConfiguration(
            f"logits of shape {logits.shape}; expected (b, t, classes), a blank and a label at least"
        )
    return logits
