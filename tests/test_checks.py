"""Arguments that are checked before any work: integers of Python and NumPy, no bools, no floats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import zoo
from zoo import checks, errors, optimizers, schedules, tokenizers
from zoo.augment import RandomCrop, SpecAugment, format_transforms, parse
from zoo.generation import SamplingConfig
from zoo.tasks import ctc
from zoo.training import EarlyStopping

pytestmark = pytest.mark.once


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)], ids=repr)
def test_an_integer_of_any_kind_becomes_pythons(value: Any) -> None:
    found = checks.integer("who", "count", value)
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize("value", [True, False, np.True_, 3.0, np.float64(3), "3", None, 0, -1], ids=repr)
def test_what_is_no_integer_of_1_or_more_is_refused(value: Any) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"^who: count=.*; expected an integer, 1 or more$"):
        checks.integer("who", "count", value)


def rules(**changes: Any) -> SamplingConfig:
    usual: dict[str, Any] = {"temperature": 0.0, "top_k": None, "top_p": None, "beams": 1}
    return SamplingConfig(**{**usual, "repetition_penalty": 1.0, "seed": 0, "max_tokens": 1, **changes})


# Every public call that takes an integer, and the argument's name.
CALLS: dict[str, Callable[[Any], Any]] = {
    "train: steps": lambda n: zoo.train("lenet5", steps=n),
    "train: epochs": lambda n: zoo.train("lenet5", epochs=n),
    "train: batch_size": lambda n: zoo.train("lenet5", batch_size=n),
    "train: seed": lambda n: zoo.train("lenet5", seed=n),
    "EarlyStopping: patience": EarlyStopping,
    "generate: max_tokens": lambda n: rules(max_tokens=n),
    "generate: beams": lambda n: rules(beams=n),
    "generate: top_k": lambda n: rules(top_k=n),
    "generate: seed": lambda n: rules(seed=n),
    "lenet5: seed": lambda n: zoo.build("lenet5", seed=n),
    "lenet5: classes": lambda n: zoo.build("lenet5", classes=n),
    "compare: steps": lambda n: zoo.compare("lenet5", steps=n),
    "compare: threads": lambda n: zoo.compare("lenet5", threads=n),
    "compare: seed": lambda n: zoo.compare("lenet5", seed=n),
    "bench: batch_size": lambda n: zoo.bench("lenet5", batch_size=n),
    "bench: threads": lambda n: zoo.bench("lenet5", threads=n),
    "predict: top": lambda n: zoo.predict("lenet5", [], top=n),
    "beam_search: beams": lambda n: ctc.beam_search(np.zeros((1, 1, 2)), beams=n),
    "vocabulary": lambda n: tokenizers.train("bpe", ["a"], vocabulary=n),
    "StepDecay: decay_steps": lambda n: schedules.StepDecay(0.1, n, 0.5),
    "OneCycle: total_steps": lambda n: schedules.OneCycle(0.1, n),
    "SGD: gradient_accumulation_steps": lambda n: optimizers.SGD(gradient_accumulation_steps=n),
    "SGD: ema_overwrite_frequency": lambda n: optimizers.SGD(ema_overwrite_frequency=n),
    "RandomCrop: size": RandomCrop,
    "SpecAugment: time_masks": lambda n: SpecAugment(time_masks=n),
}


@pytest.mark.parametrize("value", [True, 1.0, -1], ids=repr)
@pytest.mark.parametrize("name", CALLS)
def test_an_argument_that_is_no_integer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=f"^{name}={value!r}"):
        CALLS[name](value)


def test_numpys_numbers_in_an_augmentation_are_written_so_that_they_can_be_read() -> None:
    ours = (RandomCrop(np.int64(3)), SpecAugment(time_masks=np.int32(2)))
    assert parse(format_transforms(ours)) == ours


def test_numpys_integers_are_taken_where_pythons_are() -> None:
    n = np.int64
    run = zoo.train(
        "mlp",
        (np.zeros((4, 8, 8, 1), np.float32), np.array([0, 1, 0, 1])),
        steps=n(3),
        batch_size=n(2),
        seed=n(1),
        progress=False,
    )
    assert (len(run.losses), type(run.seed)) == (3, int)
    model = zoo.build("mlp", classes=n(3), seed=n(2))
    assert model.output_shape[-1] == 3
    model.to_json()  # Keras writes no integers of NumPy's


@pytest.mark.parametrize(
    ("names", "text"),
    [([], ""), (["a"], "a"), (list("abc"), "a, b, c"), (range(1004), "0, 1, 2, and 1,001 more")],
)
def test_a_list_of_names_is_cut_and_says_how_many_more_there_are(names: Any, text: str) -> None:
    assert errors.shortlist(names, 3) == text
    assert errors.shortlist(list("abcd"), 3, separator="; ") == "a; b; c; and 1 more"
