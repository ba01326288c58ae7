"""Frozen layers (`trainable = False`): in inference mode, as Keras's batch norm, and unchanged to the bit."""

from collections.abc import Callable

import numpy as np
import pytest
from conftest import QUICK_MODES, numpy
from numpy import ndarray

import zoo
from zoo import backends, layers, random
from zoo._lazy import keras
from zoo.layers import Input, Model

HERE = backends.current()


def noise(*shape: int) -> ndarray:
    return random.generator("test", *shape).standard_normal(shape, dtype=np.float32)


IMAGES, LABELS = noise(8, 4, 4, 2), np.array([0, 1, 2, 1, 0, 2, 2, 1], np.int32)


def backbone() -> keras.Model:
    """Every kind of layer that has state or draws at random."""
    inputs = Input((4, 4, 2))
    x = layers.batch_norm(layers.conv(inputs, 4, 3, name="conv"), name="norm")
    x = layers.drop_path(layers.relu(x), 0.3, name="path")
    x = keras.layers.Reshape((16, 4))(x)
    x = layers.variational_dropout(x, 0.3, name="variational")
    x = layers.attention(x, 2, dropout_rate=0.3, name="attention")
    return keras.Model(inputs, layers.dropout(layers.flatten(x), 0.3, name="dropout"), name="backbone")


def flat() -> keras.Model:
    base = backbone()
    x = layers.dense(base.output, 5, name="hidden")
    return Model(base.input, layers.dense(layers.batch_norm(x, name="head_norm"), 3, name="head"))


def nested() -> keras.Model:
    base, inputs = backbone(), Input((4, 4, 2))
    x = layers.dense(base(inputs), 5, name="hidden")
    return Model(inputs, layers.dense(layers.batch_norm(x, name="head_norm"), 3, name="head"))


def each_layer(model: keras.Model, trainable: bool) -> None:
    for layer in model.layers[:-3]:
        layer.trainable = trainable


def as_a_model(model: keras.Model, trainable: bool) -> None:
    model.get_layer("backbone").trainable = trainable


WAYS = [("native", QUICK_MODES[0]), ("keras", None)]
CASES = [(flat, each_layer, *way) for way in WAYS] + [(nested, as_a_model, *WAYS[0])]


def values(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: numpy(v).copy() for v in model.variables}


def of_backbone(path: str) -> bool:
    return not path.split("/")[0].startswith(("head", "hidden"))


def train(model: keras.Model, engine: str, mode: str | None, x: ndarray = IMAGES) -> zoo.Run:
    optimizer = zoo.optimizers.AdamW(0.1, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
    return zoo.train(
        model,
        (x, LABELS),
        engine=engine,
        mode=mode,
        steps=2,
        batch_size=4,
        optimizer=optimizer,
        progress=False,
    )


@pytest.mark.parametrize(("build", "freeze", "engine", "mode"), CASES)
def test_a_frozen_part_is_unchanged_to_the_bit_until_it_is_trainable_again(
    build: Callable[[], keras.Model],
    freeze: Callable[[keras.Model, bool], None],
    engine: str,
    mode: str | None,
) -> None:
    """Weights, running statistics, dropout's counters; under weight decay and an average of the weights."""
    model = build()
    for frozen in (True, False):
        freeze(model, not frozen)
        before = values(model)
        train(model, engine, mode)
        same = {path for path, value in values(model).items() if np.array_equal(before[path], value)}
        assert same == {path for path in before if frozen and of_backbone(path)}


@pytest.mark.parametrize(("engine", "mode"), WAYS)
def test_a_frozen_part_is_in_inference_mode(engine: str, mode: str | None) -> None:
    """Theirs trains the rest alone, on what the frozen part gives in inference."""
    model, base = flat(), backbone()
    base.set_weights([numpy(v) for layer in model.layers[:-3] for v in layer.variables])
    each_layer(model, False)
    features = numpy(base(HERE.tensor(IMAGES), training=False))
    inputs = Input(features.shape[1:])
    x = layers.batch_norm(layers.dense(inputs, 5, name="hidden"), name="head_norm")
    rest = Model(inputs, layers.dense(x, 3, name="head"))
    ours = train(model, engine, mode)
    theirs = train(rest, engine, mode, features)
    assert np.abs(np.array(ours.losses) - theirs.losses).max() <= 1e-5 * max(theirs.losses)


def test_gradients_are_of_the_weights_that_are_not_frozen() -> None:
    model = flat()
    loss = backends.current().cross_entropy
    each_layer(model, False)
    _, gradients, state = HERE.gradients(model, loss)(HERE.tensor(IMAGES), HERE.tensor(LABELS))
    names = ["kernel", "bias", "gamma", "beta", "kernel", "bias"]
    assert [v.name for v in model.trainable_variables] == names
    assert [numpy(g).shape for g in gradients] == [v.shape for v in model.trainable_variables]
    for variable, after in zip(model.non_trainable_variables, state, strict=True):
        assert np.array_equal(numpy(variable), numpy(after)) == of_backbone(variable.path)


@pytest.mark.once
def test_a_model_that_is_frozen_whole_is_refused() -> None:
    model = flat()
    model.trainable = False
    with pytest.raises(zoo.WrongConfiguration, match="no trainable weights"):
        train(model, "native", None)
