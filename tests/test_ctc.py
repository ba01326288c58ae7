"""CTC: ours against every alignment counted, the paper's recursion in NumPy, and definitions written out."""

from __future__ import annotations

from collections import defaultdict
from functools import lru_cache
from itertools import groupby, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK_MODES, numpy, python
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy.special import log_softmax, logsumexp

import zoo
from zoo import backends, layers, random
from zoo.errors import WrongConfiguration
from zoo.layers import Input, Model
from zoo.tasks import ctc

HERE = backends.current()
NAME = HERE.NAME


def noise(*shape: int, seed: int = 0) -> ndarray:
    return random.generator("test", seed, *shape).standard_normal(shape, dtype=np.float32)


def padded(*rows: list[int]) -> ndarray:
    longest = max(map(len, rows))
    return np.array([row + [0] * (longest - len(row)) for row in rows], np.int32)


# Labels -> the logits they are learned from; each a claim of its own.
CASES: dict[str, tuple[ndarray, ndarray]] = {
    "of different lengths": (padded([1, 2, 3], [4], [2, 1, 4, 3, 1]), 2 * noise(3, 20, 5)),
    "repeated": (padded([1, 1, 1], [2, 2, 1], [3, 3, 3]), noise(3, 9, 4)),
    "repeated, filling every frame": (padded([1, 1, 1], [1, 2, 2]), noise(2, 5, 3)),
    "as many as frames": (padded([1, 2, 3, 4], [4, 3, 2, 1]), noise(2, 4, 5)),
    "more than half of the frames": (padded([1, 2, 3, 1, 2, 3, 1], [1, 2]), noise(2, 10, 4)),
    "empty beside others": (padded([], [1, 2]), noise(2, 6, 3)),
    "all empty": (np.zeros((2, 2), np.int32), noise(2, 6, 3)),
    "of no width": (np.zeros((2, 0), np.int32), noise(2, 6, 3)),
    "of one frame": (padded([1], []), noise(2, 1, 3)),
    "of many frames": (padded([1, 2, 3, 4, 5] * 4, [5, 5, 1]), 3 * noise(2, 100, 6)),
    "of sure logits": (padded([1, 2, 2], [2]), 100 * noise(2, 8, 3)),
}
case = pytest.mark.parametrize("name", CASES)


def dynamic_program(labels: ndarray, logits: ndarray) -> tuple[float, ndarray]:
    """The mean loss and its gradient by the logits in float64: Graves et al. 2006, equations 5 to 16."""
    losses, gradients = [], []
    for row, x in zip(labels, logits.astype(np.float64), strict=True):
        log_p = log_softmax(x, axis=-1)
        said = [0, *(c for label in row[row != 0] for c in (label, 0))]
        frames, states = len(log_p), len(said)
        ways = {  # state -> the states before it
            s: [
                s - back
                for back in range(3)
                if s >= back and (back < 2 or (said[s] and said[s] != said[s - 2]))
            ]
            for s in range(states)
        }
        alpha, beta = np.full((2, frames, states), -np.inf)
        alpha[0, :2] = log_p[0, said[:2]]
        beta[-1, -2:] = log_p[-1, said[-2:]]
        for t in range(1, frames):
            for s in range(states):
                alpha[t, s] = logsumexp(alpha[t - 1, ways[s]]) + log_p[t, said[s]]
        for t in reversed(range(frames - 1)):
            for s in range(states):
                after = [n for n in range(states) if s in ways[n]]
                beta[t, s] = logsumexp(beta[t + 1, after]) + log_p[t, said[s]]
        likelihood = logsumexp(alpha[-1, -2:])
        gradient = np.exp(log_p)
        for s, label in enumerate(said):
            gradient[:, label] -= np.exp(alpha[:, s] + beta[:, s] - log_p[:, label] - likelihood)
        losses.append(-likelihood)
        gradients.append(gradient / len(labels))
    return float(np.mean(losses)), np.array(gradients)


def read(alignment: tuple[int, ...]) -> tuple[int, ...]:
    """Repeats merged, then blanks dropped."""
    return tuple(c for c, _ in groupby(alignment) if c)


def probabilities(log_p: ndarray) -> dict[tuple[int, ...], float]:
    """The labels that (t, classes) may read as, each with the sum over all its alignments."""
    found: dict[tuple[int, ...], float] = defaultdict(float)
    for alignment in product(range(log_p.shape[1]), repeat=len(log_p)):
        found[read(alignment)] += np.exp(sum(log_p[t, c] for t, c in enumerate(alignment)))
    return found


def value_and_gradient(labels: ndarray, logits: ndarray) -> tuple[float, ndarray]:
    y, x = HERE.tensor(labels), HERE.tensor(logits)
    gradient = HERE.input_gradient(lambda x: HERE.ctc_loss(y, x), x)
    return float(numpy(HERE.ctc_loss(y, x))), numpy(gradient)


# --- the loss ---


@pytest.mark.parametrize("labels", [[], [1], [1, 1], [1, 2], [2, 1, 2], [1, 1, 2]])
def test_the_loss_sums_over_every_alignment(labels: list[int]) -> None:
    """3^5 alignments, read one by one."""
    logits = noise(1, 5, 3)
    theirs = -np.log(probabilities(log_softmax(logits[0].astype(np.float64), axis=-1))[tuple(labels)])
    ours, _ = value_and_gradient(np.array([labels], np.int32), logits)
    assert abs(ours - theirs) <= 1e-6 * theirs


@case
def test_the_loss_and_its_gradient_are_the_dynamic_programs(name: str) -> None:
    labels, logits = CASES[name]
    value, gradient = dynamic_program(labels, logits)
    ours, ours_gradient = value_and_gradient(labels, logits)
    assert abs(ours - value) <= 1e-6 * abs(value)
    assert np.abs(ours_gradient - gradient).max() <= 1e-6 * np.abs(gradient).max()


def test_the_loss_and_its_gradient_are_the_dynamic_programs_in_float64(tmp_path: Path) -> None:
    arrays = {f"{kind}/{name}": a for name, pair in CASES.items() for kind, a in zip("yx", pair, strict=True)}
    np.savez(tmp_path / "cases.npz", **arrays)
    code = f"""
import numpy as np, zoo
zoo.use("{NAME}", threads=1)
from zoo import backends
from zoo._lazy import keras
here, cases, found = backends.current(), np.load({str(tmp_path / "cases.npz")!r}), {{}}
numpy = keras.ops.convert_to_numpy
for name in [key[2:] for key in cases if key[0] == "y"]:
    y, x = here.tensor(cases["y/" + name]), here.tensor(cases["x/" + name].astype(np.float64))
    found["value/" + name] = numpy(here.ctc_loss(y, x))
    found["gradient/" + name] = numpy(here.input_gradient(lambda x: here.ctc_loss(y, x), x))
np.savez({str(tmp_path / "found.npz")!r}, **found)
"""
    python(code, JAX_ENABLE_X64="1")
    with np.load(tmp_path / "found.npz") as found:
        for name, (labels, logits) in CASES.items():
            value, gradient = dynamic_program(labels, logits)
            ours, ours_gradient = found[f"value/{name}"], found[f"gradient/{name}"]
            assert ours.dtype == ours_gradient.dtype == np.float64
            assert abs(ours - value) <= 1e-12 * abs(value)
            assert np.abs(ours_gradient - gradient).max() <= 1e-12 * np.abs(gradient).max()


def test_frames_that_say_blank_for_sure_cost_nothing() -> None:
    """How an utterance is padded: a large negative number on every other logit beyond its end."""
    labels, logits = CASES["of different lengths"]
    longer = np.concatenate([logits, noise(3, 7, 5)], axis=1)
    longer[:, 20:, 1:] -= 1e9
    ours, gradient = value_and_gradient(labels, longer)
    value, gradient_of_the_frames = dynamic_program(labels, logits)
    assert abs(ours - value) <= 1e-6 * value
    assert np.abs(gradient[:, :20] - gradient_of_the_frames).max() <= 1e-6
    assert np.abs(gradient[:, 20:]).max() <= 1e-12


@pytest.mark.parametrize("labels", [[1, 2, 1, 2], [1, 1, 0, 0], [2, 1, 1, 0]])
def test_labels_that_do_not_fit_cost_infinitely_and_teach_nothing(labels: list[int]) -> None:
    """More than three frames hold, the blank between repeated ones counted; the others go on learning."""
    fits = [1, 2, 0, 0]
    logits = noise(2, 3 if labels[2] == 1 or labels[3] else 2, 3)
    ours, gradient = value_and_gradient(np.array([labels, fits], np.int32), logits)
    _, gradient_alone = dynamic_program(np.array([fits], np.int32), logits[1:])
    assert ours == np.inf
    assert (gradient[0] == 0).all()
    assert np.abs(gradient[1] - gradient_alone[0] / 2).max() <= 1e-6


@pytest.mark.parametrize("mode", QUICK_MODES)
def test_a_step_of_each_mode_descends_its_gradient(mode: str) -> None:
    labels, x = CASES["of different lengths"]
    inputs = Input((20, 5))
    model = Model(inputs, layers.dense(inputs, 5, name="head"))
    kernel = numpy(model.get_layer("head").kernel)
    value, gradient = dynamic_program(labels, x @ kernel)
    step = HERE.step(model, HERE.ctc_loss, zoo.optimizers.SGD(0.5), mode)
    found = float(numpy(step(HERE.tensor(x), HERE.tensor(labels))))
    step.sync()
    assert abs(found - value) <= 1e-6 * value
    theirs = kernel - 0.5 * np.einsum("bti,btc->ic", x, gradient)
    assert np.abs(numpy(model.get_layer("head").kernel) - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_the_loss_of_another_number_of_frames_is_right_in_the_same_program() -> None:
    """A traced or compiled step meets batches of several lengths."""
    inputs = Input((None, 5))
    model = Model(inputs, layers.dense(inputs, 5, name="head"))
    kernel = numpy(model.get_layer("head").kernel)
    step = HERE.step(model, HERE.ctc_loss, zoo.optimizers.SGD(0.0), QUICK_MODES[0])
    for frames, labels in [(8, padded([1, 2])), (12, padded([1, 2, 2], [3])), (8, padded([4, 2]))]:
        x = noise(len(labels), frames, 5, seed=frames)
        value, _ = dynamic_program(labels, x @ kernel)
        assert abs(float(numpy(step(HERE.tensor(x), HERE.tensor(labels)))) - value) <= 1e-6 * value


# --- decoding ---


def logits_of(alignment: list[int], classes: int) -> ndarray:
    return 10 * np.eye(classes, dtype=np.float32)[alignment]


@given(st.lists(st.integers(0, 3), max_size=8))
@settings(max_examples=100, deadline=None)
def test_greedy_reads_the_likeliest_class_of_each_frame(alignment: list[int]) -> None:
    logits = logits_of(alignment, 4).reshape(1, -1, 4)
    assert ctc.greedy(logits) == [list(read(tuple(alignment)))]


@pytest.mark.parametrize("seed", range(5))
def test_a_beam_as_wide_as_all_prefixes_finds_the_likeliest_labels(seed: int) -> None:
    """Of all that 3^5 alignments may read as."""
    logits = noise(3, 5, 3, seed=seed)
    found = [probabilities(log_softmax(x.astype(np.float64), axis=-1)) for x in logits]
    assert ctc.beam_search(logits, beams=1000) == [list(max(p, key=lambda y: p[y])) for p in found]


def test_a_beam_sees_that_two_unlikely_alignments_are_likelier_than_one() -> None:
    """Graves et al. 2006, figure 2: blanks, 0.6 x 0.6, against "a" by three ways, 1 - 0.36."""
    logits = np.log(np.array([[[0.6, 0.4], [0.6, 0.4]]]))
    assert ctc.greedy(logits) == [[]]
    assert ctc.beam_search(logits) == [[1]]


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(1, 4))
@settings(max_examples=50, deadline=None)
def test_every_beam_reads_sure_frames_as_greedy_does(alignment: list[int], beams: int) -> None:
    logits = logits_of(alignment, 4).reshape(1, -1, 4)
    assert ctc.beam_search(logits, beams) == ctc.greedy(logits)


def test_each_example_of_a_batch_is_read_by_itself() -> None:
    logits = noise(4, 7, 4)
    for decode in (ctc.greedy, ctc.beam_search):
        assert decode(logits) == [decode(logits[i : i + 1])[0] for i in range(4)]


# --- edits ---


@lru_cache
def recursive_distance(a: Any, b: Any) -> int:
    """The definition: delete, insert, or go on with the rest."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        recursive_distance(a[1:], b) + 1,
        recursive_distance(a, b[1:]) + 1,
        recursive_distance(a[1:], b[1:]) + (a[0] != b[0]),
    )


SHORT = st.lists(st.integers(1, 3), max_size=7).map(tuple)


@given(SHORT, SHORT)
@settings(max_examples=200, deadline=None)
def test_the_edit_distance_is_its_recursive_definition(a: tuple[int, ...], b: tuple[int, ...]) -> None:
    assert ctc.edit_distance(a, b) == recursive_distance(a, b)


@pytest.mark.parametrize(("a", "b", "edits"), [("kitten", "sitting", 3), ("intention", "execution", 5)])
def test_textbook_edit_distances(a: str, b: str, edits: int) -> None:
    """Wikipedia's, and Jurafsky and Martin's, "Speech and Language Processing", section 2.5."""
    assert ctc.edit_distance([*map(ord, a)], [*map(ord, b)]) == edits


def test_the_character_error_rate_counts_edits_and_labels_over_the_batch() -> None:
    logits = np.stack([logits_of(row, 4) for row in ([1, 0, 1, 2], [3, 3, 0, 0], [0, 0, 0, 0])])
    labels = padded([1, 1, 2], [1, 3], [2, 2, 2, 1])
    assert ctc.character_error_rate(labels, logits) == (0 + 1 + 4, 3 + 2 + 4)


# --- errors ---


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: ctc.greedy(np.zeros((3, 4))), r"\(3, 4\); expected \(b, t, classes\)"),
        (lambda: ctc.beam_search(np.zeros((2, 3, 1))), r"\(2, 3, 1\); expected"),
        (lambda: ctc.beam_search(np.zeros((2, 3, 4)), beams=0), "beams=0; expected an integer, 1 or more"),
        (lambda: ctc.character_error_rate(np.zeros(2), np.zeros((2, 3, 4))), r"\(2,\); expected \(2, l\)"),
    ],
)
def test_errors_say_what_was_expected(call: Any, said: str) -> None:
    with pytest.raises(WrongConfiguration, match=said):
        call()
