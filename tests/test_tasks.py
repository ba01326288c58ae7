"""Data: ours against scikit-learn's own arrays, and bilinear interpolation written out."""

from collections import Counter

import numpy as np
import pytest
from numpy import ndarray
from sklearn.datasets import load_digits

import zoo
from zoo import random, tasks
from zoo._lazy import keras
from zoo.tasks import Task, images

DIGITS = load_digits()


def rows(x: ndarray) -> list[bytes]:
    """Each example as bytes, sorted: equal lists hold the same examples."""
    return sorted(example.tobytes() for example in np.ascontiguousarray(x, np.float32))


# --- digits ---


def test_digits_are_scikit_learns_1797_each_once_divided_by_16() -> None:
    task = tasks.load("digits", (8, 8, 1))
    both = np.concatenate([task.train[0], task.test[0]])
    assert both.shape == (1797, 8, 8, 1)
    assert rows(both) == rows(DIGITS.images[..., None] / 16)


def test_digits_keep_their_labels() -> None:
    task = tasks.load("digits", (8, 8, 1))
    label = {
        (x / 16).astype(np.float32).tobytes(): y for x, y in zip(DIGITS.images, DIGITS.target, strict=True)
    }
    assert len(label) == 1797  # no image occurs twice, so each has one label
    for x, y in (task.train, task.test):
        assert [label[image.tobytes()] for image in x] == list(y)
        assert y.dtype == np.int32


def test_a_fifth_of_each_digit_is_held_out() -> None:
    all_of, held_out = Counter(DIGITS.target), Counter(tasks.load("digits", (8, 8, 1)).test[1])
    assert held_out == {digit: round(count / 5) for digit, count in all_of.items()}


def test_no_digit_is_both_learnt_from_and_held_out() -> None:
    task = tasks.load("digits", (8, 8, 1))
    assert not set(rows(task.train[0])) & set(rows(task.test[0]))


def test_the_digits_held_out_are_not_simply_the_last_or_every_fifth() -> None:
    """Writers follow one another in the file: a random fifth mixes them."""
    place = {(x / 16).astype(np.float32).tobytes(): i for i, x in enumerate(DIGITS.images)}
    held_out = np.array([place[x.tobytes()] for x in tasks.load("digits", (8, 8, 1)).test[0]])
    assert abs(held_out.mean() - 1796 / 2) < 4 * 1797 / np.sqrt(12 * len(held_out))  # as uniform draws
    assert len(set(np.diff(np.sort(held_out)))) > 5  # not every fifth of all
    for digit in range(10):  # nor of one digit's
        gaps = np.diff(np.flatnonzero(np.isin(np.flatnonzero(DIGITS.target == digit), held_out)))
        assert len(set(gaps)) > 5


def test_the_split_is_the_same_at_every_size() -> None:
    small, large = tasks.load("digits", (8, 8, 1)), tasks.load("digits", (16, 16, 3))
    assert np.array_equal(small.train[1], large.train[1])
    assert np.array_equal(small.test[1], large.test[1])


# --- scaling ---


def bilinear(image: ndarray, height: int, width: int) -> ndarray:
    """Pixel i's centre is at i + 1/2; beyond the outermost centres the edge's value holds."""
    out = np.zeros((height, width))
    for i, j in np.ndindex(height, width):
        y = np.clip((i + 0.5) * image.shape[0] / height - 0.5, 0, image.shape[0] - 1)
        x = np.clip((j + 0.5) * image.shape[1] / width - 0.5, 0, image.shape[1] - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, image.shape[0] - 1), min(left + 1, image.shape[1] - 1)
        above = image[top, left] * (1 - x + left) + image[top, right] * (x - left)
        below = image[bottom, left] * (1 - x + left) + image[bottom, right] * (x - left)
        out[i, j] = above * (1 - y + top) + below * (y - top)
    return out


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (12, 20), (8, 11), (5, 4), (224, 224)])
def test_images_are_scaled_bilinearly_about_pixel_centres(size: tuple[int, int]) -> None:
    image = random.generator("test").random((8, 8))
    ours = images.fit(image[None, ..., None], (*size, 1), "test")
    assert ours.shape == (1, *size, 1)
    assert ours.dtype == np.float32
    assert np.abs(ours[0, ..., 0] - bilinear(image, *size)).max() <= 1e-6


def test_scaled_digits_stay_within_0_and_1() -> None:
    for x, _ in (tasks.load("digits", (32, 32, 1)).train, tasks.load("digits", (8, 8, 1)).train):
        assert x.min() == 0
        assert 0.99 < x.max() <= 1


def test_each_image_of_a_batch_is_scaled_by_itself() -> None:
    x = random.generator("test").random((3, 8, 8, 1))
    together = images.fit(x, (20, 20, 1), "test")
    assert np.array_equal(
        together, np.concatenate([images.fit(x[i : i + 1], (20, 20, 1), "test") for i in range(3)])
    )


def test_grey_becomes_colour_by_repetition() -> None:
    grey, colour = (
        images.fit(DIGITS.images[:9, ..., None], (12, 12, 1), "d"),
        tasks.load("digits", (12, 12, 3)),
    )
    assert colour.train[0].shape[1:] == (12, 12, 3)
    assert (colour.train[0] == colour.train[0][..., :1]).all()
    ours = images.fit(DIGITS.images[:9, ..., None], (12, 12, 3), "d")
    assert np.array_equal(ours, grey.repeat(3, axis=3))


def test_a_model_of_other_channels_is_told_which_to_build() -> None:
    with pytest.raises(
        zoo.WrongConfiguration, match=r"^photos has 3 channels, the model takes 1; .*channels=3"
    ):
        images.fit(np.zeros((2, 8, 8, 3)), (8, 8, 1), "photos")


def test_a_model_that_takes_no_images_is_refused() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"^digits is made of images; .* shape \(784,\)"):
        tasks.load("digits", (784,))


# --- batches ---


def toy(n: int = 103) -> Task:
    """Each label says which example it belongs to."""
    x = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    return tasks.from_arrays((x, np.arange(n)), loss=None)


def order(task: Task, seed: int, epoch: int, size: int = 10) -> list[int]:
    return [int(y) for _, labels in task.batches(size, seed, epoch) for y in labels]


def test_an_epoch_has_every_example_once() -> None:
    assert sorted(order(toy(), 0, 0)) == list(range(103))


def test_labels_travel_with_their_examples() -> None:
    for x, y in toy().batches(10, 0, 0):
        assert np.array_equal(x[:, 0], 2 * y)


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(103, 10, [10] * 10 + [3]), (20, 10, [10, 10]), (3, 10, [3]), (4, 1, [1] * 4)]
)
def test_the_last_batch_is_what_is_left(n: int, size: int, sizes: list[int]) -> None:
    assert [len(y) for _, y in toy(n).batches(size, 0, 0)] == sizes
    assert toy(n).steps(size) == len(sizes)


def test_the_order_is_the_same_for_a_seed_and_epoch_and_whatever_the_batch_size() -> None:
    assert order(toy(), 3, 7) == order(toy(), 3, 7) == order(toy(), 3, 7, size=64)


@pytest.mark.parametrize("other", [(3, 8), (4, 7), (7, 3), (37, 0), (0, 37)])
def test_the_order_is_another_for_another_seed_or_epoch(other: tuple[int, int]) -> None:
    ours, theirs = order(toy(), 3, 7), order(toy(), *other)
    assert sum(a == b for a, b in zip(ours, theirs, strict=True)) <= 8  # 1 by chance; 8 is P < 2e-6
    assert ours != sorted(ours)


def test_each_place_of_an_epoch_is_as_likely_for_every_example() -> None:
    """The mean place of an example over 400 epochs: as a uniform draw's."""
    places = np.array([np.argsort(order(toy(20), 0, epoch)) for epoch in range(400)])
    z = (places.mean(0) - 9.5) / (np.sqrt((20**2 - 1) / 12) / np.sqrt(400))
    assert np.abs(z).max() < 4.5


# --- arrays of one's own ---

X, Y = np.zeros((6, 4)), np.array([0, 1, 2, 0, 1, 2])


def test_integer_labels_mean_classification() -> None:
    task = tasks.from_arrays((X, Y), loss=None)
    assert (task.loss, task.metric, task.classes) == ("cross_entropy", "accuracy", 3)
    assert (task.train[0].dtype, task.train[1].dtype) == (np.float32, np.int32)
    assert task.test is None


def test_float_targets_mean_regression() -> None:
    task = tasks.from_arrays((X, np.zeros((6, 2))), loss=None)
    assert (task.loss, task.metric, task.classes) == ("mean_squared_error", None, None)
    assert task.train[1].dtype == np.float32


def test_lists_will_do() -> None:
    task = tasks.from_arrays([[[0.5, 1.0], [2.0, 3.0]], [1, 0]], loss=None)
    assert np.array_equal(task.train[0], [[0.5, 1], [2, 3]])
    assert np.array_equal(task.train[1], [1, 0])


def test_a_loss_that_is_named_is_taken() -> None:
    assert tasks.from_arrays((X, Y), loss="mean_squared_error").loss == "mean_squared_error"


def test_validation_data_are_held_out() -> None:
    task = tasks.from_arrays((X, Y), loss=None, validation=(X[:2] + 1, Y[:2]))
    assert np.array_equal(task.test[0], np.ones((2, 4)))
    assert np.array_equal(task.test[1], [0, 1])


@pytest.mark.parametrize(
    ("data", "validation", "message"),
    [
        ((X, Y[:5]), None, "^task: 6 examples and 5 labels; expected as many, at least 1"),
        ((X[:0], Y[:0]), None, "^task: 0 examples and 0 labels"),
        ((X, -Y), None, r"^task: integer labels of shape \(6,\), smallest -2; expected \(n,\), 0 or more"),
        ((X, np.eye(6, dtype=int)), None, r"^task: integer labels of shape \(6, 6\)"),
        (X, None, r"^task: expected a pair of arrays \(x, y\), got ndarray"),
        ((X, Y, Y), None, r"^task: expected a pair of arrays \(x, y\), got tuple"),
        ({"x": X, "y": Y}, None, "^task: expected a pair of arrays .*, got dict"),
        ((X, Y), (X, Y[:5]), "^validation: 6 examples and 5 labels"),
        ((X, Y), X, "^validation: expected a pair"),
        ((X, Y), (X[:, :3], Y), r"^validation: examples of shape \(3,\), the task's are \(4,\)"),
    ],
)
def test_arrays_that_do_not_fit_together_are_refused(data: object, validation: object, message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        tasks.from_arrays(data, loss=None, validation=validation)


# --- named tasks ---


def test_an_unknown_task_gets_the_nearest() -> None:
    with pytest.raises(zoo.UnknownName, match=r"^no task 'digitz'; nearest: digits.*pair of arrays"):
        tasks.load("digitz", (8, 8, 1))


@pytest.mark.parametrize("asked", ["fashion-mnist", "Fashion_MNIST", "FASHION-mnist"])
def test_names_of_tasks_ignore_case_and_underscores(asked: str) -> None:
    assert tasks.source(asked)[0] == "fashion-mnist"


@pytest.mark.parametrize(
    ("name", "module", "shape"),
    [
        ("mnist", "mnist", (28, 28)),
        ("fashion-mnist", "fashion_mnist", (28, 28)),
        ("cifar10", "cifar10", (32, 32, 3)),
    ],
)
def test_keras_data_sets_become_float32_images_and_labels(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, shape: tuple[int, ...]
) -> None:
    """As Keras gives them: bytes, CIFAR's labels in a column."""
    rng = random.generator("test", name)
    x, y = rng.integers(0, 256, (7, *shape), dtype=np.uint8), rng.integers(0, 10, 7, dtype=np.uint8)
    column = y[:, None] if module == "cifar10" else y
    monkeypatch.setattr(
        getattr(keras.datasets, module), "load_data", lambda: ((x[:5], column[:5]), (x[5:], column[5:]))
    )
    channels = shape[2] if len(shape) == 3 else 1
    task = tasks.load(name, (*shape[:2], channels))
    theirs = (x / 255).reshape(7, *shape[:2], channels)
    for (ours, labels), part in ((task.train, slice(5)), (task.test, slice(5, 7))):
        assert np.abs(ours - theirs[part]).max() <= 1e-7
        assert np.array_equal(labels, y[part])
        assert (ours.dtype, labels.dtype) == (np.float32, np.int32)
    assert (task.name, task.loss, task.metric, task.classes) == (name, "cross_entropy", "accuracy", 10)


@pytest.mark.parametrize(("name", "module"), [("mnist", "mnist"), ("cifar10", "cifar10")])
def test_a_data_set_that_cannot_be_downloaded_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str
) -> None:
    def offline() -> None:
        raise Exception(
            "URL fetch failure on https://example.org/data.npz: None -- no route"
        )  # as Keras raises

    monkeypatch.setattr(getattr(keras.datasets, module), "load_data", offline)
    with pytest.raises(
        zoo.DataUnavailable, match=rf"^{name}: URL fetch failure.*\.keras/datasets.*`digits` needs no"
    ):
        tasks.load(name, (28, 28, 1))
