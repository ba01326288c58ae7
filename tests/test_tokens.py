"""Models of tokens as layers of one's own, and tokens that they do not know."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray

import zoo
from zoo import backends
from zoo._lazy import keras
from zoo.layers import signature

SILENT: Any = 0  # Keras annotates `verbose` as a string
MODELS = ("bert-tiny", "gpt-nano", "t5-tiny", "lstm", "seq2seq")


def small(name: str) -> keras.Model:
    return zoo.build(name, **zoo.card(name).small)


def required(model: keras.Model) -> dict[str, ndarray]:
    """(2, 7) tokens for each input that may not be left out."""
    names = {tensor.name for tensor in model.inputs} - signature.optional_inputs(model)
    return {
        name: zoo.random.generator("test", name).integers(1, 11, (2, 7), dtype=np.int32)
        for name in sorted(names)
    }


def outer(model: keras.Model, length: int | None) -> keras.Model:
    """Half of what it gives, from inputs of this length."""
    inputs = {name: keras.Input((length,), dtype="int32", name=name) for name in required(model)}
    return keras.Model(inputs, model(inputs) * 0.5)


@pytest.mark.parametrize(("name", "length"), [*((name, None) for name in MODELS), ("bert-tiny", 7)])
def test_inputs_may_be_left_out_of_a_model_within_a_model(name: str, length: int | None) -> None:
    model = small(name)
    whole, x = outer(model, length), required(model)
    ours, theirs = numpy(whole(backends.tensors(x))), numpy(model(backends.tensors(x))) / 2
    assert whole.output_shape == (None, *((length,) if ours.ndim == 3 else ()), ours.shape[-1])
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()
    again = keras.models.model_from_json(whole.to_json())
    again.set_weights(whole.get_weights())
    assert np.abs(numpy(again(backends.tensors(x))) - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_a_model_within_a_model_trains_as_it_does_alone() -> None:
    """Dropout included, whose masks go by the layers' names."""
    x = required(small("gpt-nano"))["token_ids"]
    y, losses = np.int32(x[:, ::-1]), []
    for wrap in (True, False):
        model = small("gpt-nano")
        if wrap:
            tokens = keras.Input((None,), dtype="int32", name="token_ids")
            model = keras.Model(tokens, model({"token_ids": tokens}) * 1.0)
        run = zoo.train(
            model,
            (x, y),
            steps=2,
            batch_size=2,
            optimizer=zoo.optimizers.Adam(1e-2),
            progress=False,
        )
        losses.append(run.losses)
    assert np.abs(np.subtract(*losses)).max() <= 1e-5 * max(losses[1])


def test_a_model_of_ones_own_knows_the_vocabulary_and_the_positions_within() -> None:
    model = small("bert-tiny")
    whole = outer(model, None)
    (tokens,) = whole.inputs
    assert signature.vocabulary(whole, tokens) == zoo.card("bert-tiny").small["vocabulary"]
    assert signature.longest(whole) == zoo.card("bert-tiny").small["positions"]
    with pytest.raises(zoo.WrongConfiguration, match="token_ids has 13; expected 0 to 12"):
        zoo.train(whole, (np.full((2, 7), 13), np.zeros((2, 7), np.int32)), steps=1, progress=False)


def generated(x: Any, y: ndarray) -> Iterator[Any]:
    while True:
        yield x, y


WAYS = {
    "fit": lambda model, x, y: model.fit(x, y, verbose=SILENT),
    "fit of a generator": lambda model, x, y: model.fit(
        generated(x, y), steps_per_epoch=1, shuffle=False, verbose=SILENT
    ),
    "validation": lambda model, x, y: model.fit(
        {k: v % 11 for k, v in x.items()}, y, validation_data=(x, y), verbose=SILENT
    ),
    "evaluate": lambda model, x, y: model.evaluate(x, y, verbose=SILENT),
    "predict": lambda model, x, y: model.predict(x, verbose=SILENT),
    "train_on_batch": lambda model, x, y: model.train_on_batch(x, y),
    "test_on_batch": lambda model, x, y: model.test_on_batch(x, y),
    "predict_on_batch": lambda model, x, y: model.predict_on_batch(x),
}


@pytest.mark.parametrize(
    ("name", "way"), [*(("gpt-nano", way) for way in WAYS), ("lstm", "fit"), ("seq2seq", "fit")]
)
def test_keras_own_methods_refuse_tokens_outside_the_vocabulary(name: str, way: str) -> None:
    """Where JAX would give NaN without a word."""
    model = small(name)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    before, x = [numpy(v).copy() for v in model.variables], required(model)
    x["token_ids"][1, 3] = 1000
    y = np.zeros((2,) if name == "lstm" else (2, 7), np.int32)
    with pytest.raises(zoo.WrongConfiguration, match="token_ids has 1000; expected 0 to 1"):
        WAYS[way](model, x, y)
    assert all(np.array_equal(a, numpy(v)) for a, v in zip(before, model.variables, strict=True))


@pytest.mark.once
@pytest.mark.parametrize("name", MODELS)
def test_texts_without_a_token_are_refused(name: str) -> None:
    model = small(name)
    with pytest.raises(zoo.WrongConfiguration, match=r"of shape \(2, 0\); expected at least 1 token"):
        model({key: x[:, :0] for key, x in required(model).items()})


def test_a_generator_whose_first_batch_is_checked_still_begins_with_it() -> None:
    """Theirs are the same batches as arrays."""
    x = required(small("gpt-nano"))
    batches = [(x, np.full((2, 7), label)) for label in range(3)]
    models = [small("gpt-nano") for _ in range(2)]
    for model in models:
        model.compile(zoo.optimizers.SGD(0.1), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    ours = (
        models[0]
        .fit((pair for pair in batches), steps_per_epoch=1, epochs=3, shuffle=False, verbose=SILENT)
        .history["loss"]
    )
    theirs = [float(models[1].train_on_batch(*pair)) for pair in batches]
    assert np.abs(np.subtract(ours[0], theirs[0])).max() <= 1e-5 * max(theirs)
