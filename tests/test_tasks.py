"""Data: ours against scikit-learn's own arrays, Pillow, and bilinear interpolation written out."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy import ndarray
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images

import zoo
from zoo import random, tasks, training
from zoo._lazy import keras
from zoo.augment import MixUp, RandomErasing, RandomResizedCrop
from zoo.preprocessing import Preprocessing
from zoo.tasks import Task, folders, images

pytestmark = pytest.mark.once

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
    with pytest.raises(zoo.WrongConfiguration, match=r"^digits consists of images; .* shape \(784,\)"):
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
        ((X, Y[:5]), None, "^task: 6 examples and 5 labels; expected the same number of both"),
        ((X[:0], Y[:0]), None, "^task: 0 examples and 0 labels"),
        ((X, -Y), None, r"^task: integer labels of shape \(6,\), smallest -2; expected \(n,\), 0 or more"),
        ((X, np.eye(6, dtype=int)), None, r"^task: integer labels of shape \(6, 6\)"),
        (X, None, r"^task: expected a pair of arrays \(x, y\), got ndarray"),
        ((X, Y, Y), None, r"^task: expected a pair of arrays \(x, y\), got tuple"),
        ({"x": X, "y": Y}, None, "^task: expected a pair of arrays .*, got dict"),
        ((X, Y), (X, Y[:5]), "^validation: 6 examples and 5 labels"),
        ((X, Y), X, "^validation: expected a pair"),
        ((X, Y), (X[:, :3], Y), r"^validation: examples of shape \(3,\); expected \(4,\)"),
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
        ("cifar100", "cifar100", (32, 32, 3)),
    ],
)
def test_keras_data_sets_become_float32_images_and_labels(
    monkeypatch: pytest.MonkeyPatch, name: str, module: str, shape: tuple[int, ...]
) -> None:
    """As Keras gives them: bytes, CIFAR's labels in a column."""
    rng = random.generator("test", name)
    x, y = rng.integers(0, 256, (7, *shape), dtype=np.uint8), rng.integers(0, 10, 7, dtype=np.uint8)
    column = y[:, None] if module.startswith("cifar") else y
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
    classes = 100 if name == "cifar100" else 10
    assert (task.name, task.loss, task.metric, task.classes) == (name, "cross_entropy", "accuracy", classes)


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
        zoo.DataUnavailable, match=rf"^{name}: URL fetch failure.*\.keras/datasets.*The task digits needs no"
    ):
        tasks.load(name, (28, 28, 1))


@pytest.mark.parametrize("size", [32, 48])
def test_digits_come_in_colour_at_the_size_of_a_model(size: int) -> None:
    """scikit-learn's 8 x 8 in grey, here scaled by Keras's own resizing: bilinear, half-pixel centres."""
    task = tasks.load("digits", (size, size, 3))
    grey = tasks.load("digits", (8, 8, 1))
    theirs = np.asarray(
        keras.ops.convert_to_numpy(keras.ops.image.resize(grey.train[0][:50], (size, size), "bilinear"))
    )
    assert np.abs(task.train[0][:50] - theirs).max() <= 1e-6


# --- folders of images ---


PHOTOS = load_sample_images().images
CLASSES = ("flower", "temple")


def photo(i: int) -> Image.Image:
    """The i-th: temples and flowers in turn, each another part, of another size."""
    size = 40 + 3 * i
    part = PHOTOS[i % 2][5 * i : 5 * i + size, 40 + 7 * i : 40 + 7 * i + size + 11]
    return Image.fromarray(part)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """24 of them, a sub-folder a class, named so that their order by name is i."""
    root = tmp_path / "photos"
    for i in range(24):
        file = root / CLASSES[1 - i % 2] / f"{i:02}.{('png', 'bmp', 'PNG')[i % 3]}"
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(file)
    (root / ".hidden").mkdir()
    (root / "flower" / "Thumbs.db").write_text("not an image")
    return root


def prepared(i: int, size: int = 32) -> ndarray:
    """By Pillow: the shorter side to `size`, the middle, in [0, 1]."""
    image = photo(i)
    width, height = (size * side // min(image.size) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left = round((width - size) / 2)
    return np.asarray(image.crop((left, 0, left + size, size))) / 255


def number(x: ndarray) -> int:
    """Which photo this is."""
    return next(i for i in range(24) if np.abs(x - prepared(i, x.shape[0])).max() <= 1e-6)


def test_a_folder_is_a_class_for_each_of_its_folders(photos: Path) -> None:
    task = tasks.folder(photos, (32, 32, 3))
    assert (task.name, task.loss, task.metric) == ("photos", "cross_entropy", "accuracy")
    assert (task.classes, task.names) == (2, CLASSES)
    seen = []
    for x, y in (task.train, task.test):
        assert x.shape == (len(y), 32, 32, 3)
        assert x.dtype == x[:].dtype == np.float32
        assert y.dtype == np.int32
        found = [number(image) for image in x[:]]
        assert list(y) == [1 - i % 2 for i in found]
        seen += found
    assert sorted(seen) == list(range(24))


def test_a_fifth_of_each_class_is_held_out_the_same_wherever_the_folder_lies(
    photos: Path, tmp_path: Path
) -> None:
    one = tasks.folder(photos, (32, 32, 3))
    assert Counter(one.test[1]) == {0: 2, 1: 2}  # of 12 each
    moved = photos.rename(tmp_path / "elsewhere")
    other = tasks.folder(moved, (32, 32, 3))
    assert [p.relative_to(photos) for p in one.test[0].paths] == [
        p.relative_to(moved) for p in other.test[0].paths
    ]


def test_images_are_an_array_that_is_read_when_it_is_asked_for(photos: Path) -> None:
    x, _ = tasks.folder(photos, (16, 16, 3)).train
    whole = np.asarray(x)
    assert whole.shape == x.shape == (len(x), 16, 16, 3)
    for chosen in (
        3,
        -1,
        np.int64(2),
        slice(2, 7),
        slice(None, None, 3),
        [4, 0, 4],
        np.array([1, 5]),
        np.arange(0),
    ):
        ours = x[chosen]
        assert np.array_equal(ours, whole[chosen])
        assert ours.shape == whole[chosen].shape
    with pytest.raises(IndexError):
        x[len(x)]
    Path(x.paths[0]).unlink()
    assert np.array_equal(x[1:], whole[1:])
    with pytest.raises(zoo.DataUnavailable, match="no such file"):
        x[0]


def test_a_grey_model_gets_grey_images(photos: Path) -> None:
    x, _ = tasks.folder(photos, (24, 24, 1)).train
    assert x[0].shape == (24, 24, 1)
    i = int(Path(x.paths[0]).stem)
    ours = photo(i).convert("L")
    theirs = np.asarray(ours.resize([24 * side // min(ours.size) for side in ours.size], 2))[:24] / 255
    left = round((theirs.shape[1] - 24) / 2)
    assert np.abs(x[0][..., 0] - theirs[:, left : left + 24]).max() <= 1e-6


def test_preprocessing_is_a_cards_at_the_models_size(photos: Path) -> None:
    """Made for 224 of 256, at 28 it takes 28 of 32."""
    x, _ = tasks.folder(photos, (28, 28, 3), preprocessing=Preprocessing(224, 256)).train
    theirs = Preprocessing(28, 32)(x.paths[0])
    assert np.array_equal(x[0], theirs)
    grey, _ = tasks.folder(photos, (28, 28, 1), preprocessing=Preprocessing(224, 256)).train
    assert 0 <= grey[0].min() < grey[0].max() <= 1  # a colour model's means are not for grey


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_splits_of_their_own_are_taken(photos: Path, name: str) -> None:
    root = photos.parent / "split"
    root.mkdir()
    photos.rename(root / "train")
    held = root / name / "temple" / "deep"
    held.mkdir(parents=True)
    photo(0).save(held / "x.png")
    task = tasks.folder(root, (32, 32, 3))
    assert len(task.train[0]) == 24
    assert [number(x) for x in task.test[0][:]] == [0]
    assert list(task.test[1]) == [1]


def test_validation_comes_before_test_and_either_may_be_missing(photos: Path) -> None:
    root = photos.parent / "split"
    root.mkdir()
    photos.rename(root / "train")
    assert len(tasks.folder(root, (32, 32, 3)).test[0]) == 4
    for name, i in (("test", 2), ("val", 4)):
        (root / name / "temple").mkdir(parents=True)
        photo(i).save(root / name / "temple" / "x.png")
    with pytest.warns(UserWarning, match=r"^split: folder 'test' skipped, because 'val' is held out$"):
        assert [number(x) for x in tasks.folder(root, (32, 32, 3)).test[0][:]] == [4]


def test_a_table_of_paths_and_labels_is_the_same_as_folders(photos: Path) -> None:
    table = photos.parent / "table.csv"
    rows = [
        f"{p.relative_to(photos.parent)},{p.parent.name}"
        for p in sorted(photos.glob("*/*.*"))
        if p.suffix != ".db"
    ]
    table.write_text("path,label\n" + "\n".join(rows) + "\n")
    ours, theirs = tasks.folder(table, (32, 32, 3)), tasks.folder(photos, (32, 32, 3))
    assert ours.names == theirs.names
    for (x, y), (x_, y_) in ((ours.train, theirs.train), (ours.test, theirs.test)):
        assert np.array_equal(x[:], x_[:])
        assert np.array_equal(y, y_)


# --- batches of images ---


def same(ours: Iterator[Any], theirs: Iterator[Any]) -> bool:
    pairs = list(zip(ours, theirs, strict=True))
    return all(np.array_equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("augment", ["", "RandomResizedCrop(32), RandAugment, HorizontalFlip, MixUp(0.2)"])
@pytest.mark.parametrize("workers", [2, 5])
def test_batches_do_not_depend_on_the_workers(photos: Path, workers: int, augment: str) -> None:
    one, many = (
        tasks.folder(photos, (32, 32, 3), workers=n, augment=augment).batches(7, 0, 3) for n in (1, workers)
    )
    assert same(one, many)


def test_batches_are_those_of_arrays_in_memory(photos: Path) -> None:
    task = tasks.folder(photos, (32, 32, 3))
    memory = tasks.from_arrays((np.asarray(task.train[0]), task.train[1]), loss=None)
    assert same(task.batches(6, 5, 1), memory.batches(6, 5, 1))


def test_batches_of_images_start_where_they_are_asked_to(photos: Path) -> None:
    task = tasks.folder(photos, (32, 32, 3), augment="HorizontalFlip")
    assert same(islice(task.batches(6, 5, 1), 2, None), task.batches(6, 5, 1, first=2))


def test_a_crop_is_taken_from_the_photograph_before_it_is_scaled_down(photos: Path) -> None:
    crop = RandomResizedCrop(16, area=(0.2, 0.4))
    task = tasks.folder(photos, (16, 16, 3), augment=crop)
    x, _ = next(task.batches(1, 0, 0))
    i = int(random.generator(0, "order", 0).permutation(len(task.train[0]))[0])
    photograph = np.asarray(Image.open(task.train[0].paths[i]).convert("RGB"))
    theirs = crop(photograph, random.generator(0, "augment", 0, i))
    assert np.abs(x[0] - theirs / 255).max() <= 1e-6


def test_augmentation_comes_before_the_normalization(photos: Path) -> None:
    prepare = Preprocessing(32, 32)
    erasing = RandomErasing(1.0)
    task = tasks.folder(photos, (32, 32, 3), preprocessing=prepare, augment=erasing)
    x, _ = next(task.batches(1, 0, 0))
    i = int(random.generator(0, "order", 0).permutation(len(task.train[0]))[0])
    with Image.open(task.train[0].paths[i]) as image:
        erased = erasing(prepare.crop(image), random.generator(0, "augment", 0, i))
    assert np.array_equal(x[0], prepare(erased))


class AtOnce:
    """A pool whose thread is always done before anyone looks."""

    def __init__(self, *_: Any): ...

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future:
        done = Future()
        done.set_result(function(*arguments))
        return done

    def shutdown(self, **_: Any) -> None: ...


@pytest.mark.parametrize("readers", [0, 1, 3])
def test_one_item_more_than_readers_is_made_ahead(readers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "ThreadPoolExecutor", AtOnce)
    made: list[int] = []
    source = folders.ahead(lambda i: (made.append(i), i)[1], count(), readers)
    assert [next(source), next(source)] == [0, 1]
    assert made == list(range(readers + 3 if readers else 2))
    assert list(folders.ahead(lambda i: i, range(5), readers)) == [0, 1, 2, 3, 4]


def test_threads_end_with_their_iterator() -> None:
    before = threading.active_count()
    source = folders.ahead(lambda i: i, count())
    assert [next(source) for _ in range(3)] == [0, 1, 2]
    assert threading.active_count() == before + 1
    source.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("readers", [0, 1, 3])
def test_what_goes_wrong_ahead_is_raised_in_its_turn(readers: int) -> None:
    def make(i: int) -> int:
        if i == 2:
            raise zoo.DataUnavailable("photo.jpg: broken")
        return i

    source = folders.ahead(make, [1, 2, 3], readers)
    assert next(source) == 1
    with pytest.raises(zoo.DataUnavailable, match="photo"):
        next(source)


@pytest.mark.parametrize("readers", [0, 1, 3])
@pytest.mark.parametrize("augment", ["", "RandomCrop(2), HorizontalFlip, MixUp(0.2)"])
def test_batches_do_not_depend_on_the_readers(photos: Path, augment: str, readers: int) -> None:
    task = tasks.folder(photos, (8, 8, 3), augment=augment)
    ours = task.read_by(readers)
    for epoch in (0, 1):
        for a, b in zip(task.batches(5, 1, epoch), ours.batches(5, 1, epoch), strict=True):
            assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))
    for a, b in zip(task.held_out(3), ours.held_out(3), strict=True):
        assert all(np.array_equal(*pair) for pair in zip(a, b, strict=True))


@pytest.mark.parametrize("engine", training.ENGINES)
def test_readers_end_with_the_run(photos: Path, engine: str) -> None:
    """At its end, within an epoch, and with the error in a file, which is named."""
    options: Any = {"engine": engine, "readers": 3, "batch_size": 4, "progress": False}
    losses = zoo.train("lenet5", photos, **{**options, "readers": 0}, steps=3).losses
    assert zoo.train("lenet5", photos, **options, steps=3).losses == losses
    assert not readers_left()
    broken = break_off(max(photos.rglob("*.png")))
    with pytest.raises(zoo.DataUnavailable, match=broken.name):
        zoo.train("lenet5", photos, **options, epochs=3)
    assert not readers_left()


def readers_left() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("zoo-reader")]


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_model_trains_on_a_folder(photos: Path, engine: str) -> None:
    arguments: Any = {"engine": engine, "epochs": 2, "batch_size": 8, "progress": False}
    run = zoo.train("lenet5", str(photos), **arguments)
    assert run.model.input_shape == (None, 32, 32, 3)
    assert run.model.output_shape == (None, 2)
    assert len(run.losses) == 6
    task = tasks.folder(photos, (32, 32, 3))
    arrays = tuple(np.asarray(x) for x in task.train), tuple(np.asarray(x) for x in task.test)
    memory = zoo.train("lenet5", arrays[0], validation=arrays[1], **arguments)
    assert run.losses == memory.losses
    assert run.metrics == memory.metrics
    assert zoo.train("lenet5", photos, **arguments).losses == run.losses  # a Path


def test_a_run_on_a_folder_is_resumed_with_the_batches_it_would_have_seen(photos: Path) -> None:
    file = photos / "run.safetensors"
    task = tasks.folder(photos, (8, 8, 1), augment=["HorizontalFlip", MixUp(0.2)])
    arguments: Any = {"progress": False, "batch_size": 8}

    def model() -> keras.Model:
        return zoo.build("mlp", shape=(8, 8, 1), widths=(6,), classes=2)

    whole = zoo.train(model(), task, steps=8, **arguments)
    zoo.train(model(), task, steps=4, checkpoint=file, **arguments)
    ours = zoo.train(model(), task, steps=8, resume=file, progress=False)
    np.testing.assert_allclose(ours.losses, whole.losses, rtol=0, atol=1e-6)


# --- what is broken ---


def break_off(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def no_image(path: Path) -> Path:
    path.write_text("not an image")
    return path


def test_files_that_are_no_images_stop_before_training_each_by_its_name(photos: Path) -> None:
    one, other = no_image(photos / "flower" / "01.bmp"), no_image(photos / "temple" / "03.png")
    other = no_image(photos / "temple" / "06.png")
    with pytest.raises(zoo.DataUnavailable, match=r"^photos: 3 broken images: .*errors='skip'") as caught:
        tasks.folder(photos, (32, 32, 3))
    for path in (one, other):
        assert f"{path}: not an image" in str(caught.value)


def test_a_file_that_breaks_off_stops_when_it_is_read(photos: Path) -> None:
    broken = break_off(photos / "temple" / "06.png")
    task = tasks.folder(photos, (32, 32, 3))
    with pytest.raises(zoo.DataUnavailable, match=rf"^{broken}: .*truncated"):
        [*task.batches(8, 0, 0), task.test[0][:]]


def test_broken_files_are_skipped_and_named_when_asked(photos: Path) -> None:
    whole = tasks.folder(photos, (32, 32, 3))
    broken = [break_off(photos / "temple" / "06.png"), no_image(photos / "flower" / "01.bmp")]
    with pytest.warns(UserWarning, match=r"^photos: skipped 2 broken images: ") as caught:
        task = tasks.folder(photos, (32, 32, 3), errors="skip")
    assert all(str(path) in str(caught[0].message) for path in broken)
    for (x, y), (all_x, all_y) in ((task.train, whole.train), (task.test, whole.test)):
        kept = [path not in broken for path in all_x.paths]
        assert x.paths == [path for path in all_x.paths if path not in broken]
        assert np.array_equal(y, all_y[kept])
        assert len(x[:]) == len(y)
    assert len(task.train[0]) + len(task.test[0]) == 22


def test_a_folder_whose_every_image_is_broken_is_refused(photos: Path) -> None:
    for path in photos.glob("*/*.*"):
        no_image(path)
    with pytest.raises(zoo.DataUnavailable, match="every training image is broken"):
        tasks.folder(photos, (32, 32, 3), errors="skip")


def only(*names: str) -> Callable[[Path], Path]:
    """A folder with these sub-folders alone."""

    def make(photos: Path) -> Path:
        root = photos.parent / "made"
        root.mkdir()
        for name in names:
            (photos / name).rename(root / name)
        return root

    return make


def extra(name: str) -> Callable[[Path], Path]:
    def make(photos: Path) -> Path:
        (photos / name).mkdir(parents=True)
        return photos

    return make


def table(text: str) -> Callable[[Path], Path]:
    def make(photos: Path) -> Path:
        path = photos / "table.csv"
        path.write_text(text)
        return path

    return make


def unknown_class(photos: Path) -> Path:
    root = photos.parent / "split"
    root.mkdir()
    photos.rename(root / "train")
    (root / "val" / "tree").mkdir(parents=True)
    photo(0).save(root / "val" / "tree" / "x.png")
    return root


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (only(), "no sub-folders; expected one per class"),
        (only("temple"), "one class, temple; expected two or more"),
        (extra("tree"), r"no image in tree; expected files that end in \.avif, \.bmp"),
        (unknown_class, r"val: classes that .*train lacks: tree"),
        (lambda photos: photos / "gone", "gone: no such folder or table"),
        (table("file,class\na.png,cat\n"), "the first line is 'file,class'; expected 'path,label'"),
        (table(""), "the first line is 'nothing'; expected 'path,label'"),
        (table("path,label\nflower/01.bmp,\n"), "line 2: path or label missing"),
        (table("path,label\nflower/01.bmp,a\ngone.png,b\n"), r"1 broken images: .*gone\.png: no such file"),
    ],
)
def test_a_folder_laid_out_in_another_way_is_refused(
    photos: Path, make: Callable[[Path], Path], message: str
) -> None:
    with pytest.raises(zoo.DataUnavailable, match=message):
        tasks.folder(make(photos), (32, 32, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            {"shape": (64,)},
            zoo.WrongConfiguration,
            r"consists of images; the model takes examples of shape \(64,\)",
        ),
        ({"shape": (32, 48, 3)}, zoo.WrongConfiguration, r"expected \(size, size, 1\) or \(size, size, 3\)"),
        ({"shape": (32, 32, 2)}, zoo.WrongConfiguration, "expected .size, size, 1"),
        ({"errors": "ignore"}, zoo.UnknownName, "^errors='ignore'; there are: skip, stop"),
        ({"workers": 0}, zoo.WrongConfiguration, "^folder: workers=0; expected an integer, 1 or more"),
        ({"augment": "Flip"}, zoo.UnknownName, "^no transform 'Flip'"),
    ],
)
def test_arguments_of_a_folder_that_cannot_be_are_refused(
    photos: Path, arguments: dict[str, Any], error: type, message: str
) -> None:
    with pytest.raises(error, match=message):
        tasks.folder(photos, **{"shape": (32, 32, 3), **arguments})


def test_a_path_that_is_not_there_is_no_task(tmp_path: Path) -> None:
    with pytest.raises(zoo.UnknownName, match="or the path of a folder of images or of a"):
        tasks.load(str(tmp_path / "gone"), (32, 32, 3))
