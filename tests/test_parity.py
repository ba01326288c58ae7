"""Three frameworks, each in a process of its own, climb the ladder: every model, every rung, every pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from conftest import python

from zoo import backends, faults, ladder, registry

pytestmark = pytest.mark.parity

# Every family: each kind of block once. `zoo parity --float64` climbs with all and takes an hour.
PLAIN = ("mlp", "lenet5", "lenet5-1998")
VISION = ("alexnet-2012", "vgg11-bn", "resnet18", "efficientnet-b0", "vit-ti16")
SEQUENCES = ("gru", "birnn", "seq2seq", "speech")
TRANSFORMERS = ("bert-tiny", "gpt-nano", "t5-tiny")
RUNGS = [rung.name for rung in ladder.RUNGS]


@pytest.fixture(scope="module")
def climbed() -> ladder.Parity:
    """Small configurations in both float types, on every rung."""
    return ladder.parity(*PLAIN, modes=(), float64=True)


@pytest.fixture(scope="module")
def seen() -> ladder.Parity:
    """The vision models, by each framework's default mode: op by op JAX takes a minute for ten steps."""
    return ladder.parity(*VISION, modes=())


@pytest.fixture(scope="module")
def seen_exactly() -> ladder.Parity:
    """Their outputs and gradients in float64: what differs then is no rounding."""
    return ladder.parity(*VISION, rungs=(2, 3), float64=True)


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("dtype", ladder.DTYPES)
@pytest.mark.parametrize("model", PLAIN)
def test_every_pair_of_frameworks_holds(climbed: ladder.Parity, model: str, dtype: str, rung: str) -> None:
    check(climbed, model, dtype, rung)


@pytest.fixture(scope="module")
def read() -> ladder.Parity:
    """The recurrent models, masks and CTC included, in both float types."""
    return ladder.parity(*SEQUENCES, rungs=(1, 2, 3), float64=True)


@pytest.fixture(scope="module")
def trained_on_sequences() -> ladder.Parity:
    """Those whose training meets everything: both directions, clipping, convolutions, CTC."""
    return ladder.parity("birnn", "speech", rungs=(5, 6, 7, 8), modes=(), float64=True)


@pytest.mark.long
@pytest.mark.parametrize("rung", ["initial", "forward", "gradients"])
@pytest.mark.parametrize("dtype", ladder.DTYPES)
@pytest.mark.parametrize("model", SEQUENCES)
def test_every_pair_holds_for_sequences(read: ladder.Parity, model: str, dtype: str, rung: str) -> None:
    check(read, model, dtype, rung)


@pytest.mark.long
@pytest.mark.parametrize("rung", ["training", "evaluation", "engines", "resume"])
@pytest.mark.parametrize("dtype", ladder.DTYPES)
@pytest.mark.parametrize("model", ["birnn", "speech"])
def test_every_pair_trains_alike_on_sequences(
    trained_on_sequences: ladder.Parity, model: str, dtype: str, rung: str
) -> None:
    check(trained_on_sequences, model, dtype, rung)


@pytest.fixture(scope="module")
def attended() -> ladder.Parity:
    """The transformers, masks, dropout of attention and all, in both float types."""
    return ladder.parity(*TRANSFORMERS, rungs=(1, 2, 3), float64=True)


@pytest.mark.long
@pytest.mark.parametrize("rung", ["initial", "forward", "gradients"])
@pytest.mark.parametrize("dtype", ladder.DTYPES)
@pytest.mark.parametrize("model", TRANSFORMERS)
def test_every_pair_holds_for_transformers(
    attended: ladder.Parity, model: str, dtype: str, rung: str
) -> None:
    check(attended, model, dtype, rung)


@pytest.mark.long
def test_every_pair_trains_transformers_alike() -> None:
    """T5 has all there is: an encoder and a decoder, a shared table, relative positions."""
    found = ladder.parity("t5-tiny", rungs=(5, 6, 7, 8), modes=())
    for rung in ("training", "evaluation", "engines", "resume"):
        check(found, "t5-tiny", "float32", rung)


WRITES = """
import zoo
model = zoo.build("gpt-nano", width=48, vocabulary=259, positions=300, seed=5)
for v in model.trainable_variables:
    v.assign(v * 2)
for how in ({"seed": 1}, {"temperature": 0}, {"top_k": 20, "top_p": 0.9, "seed": 2}, {"beams": 3}):
    print([x.encode().hex() for x in zoo.generate(model, ["Once upon", "a"], 200, **how)])
"""


def test_the_frameworks_write_the_same_text_byte_for_byte() -> None:
    texts = {name: python(WRITES, KERAS_BACKEND=name) for name in backends.NAMES}
    assert len(set(texts.values())) == 1
    assert len(texts["torch"]) > 1000


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("model", VISION)
def test_every_pair_holds_for_vision(seen: ladder.Parity, model: str, rung: str) -> None:
    check(seen, model, "float32", rung)


@pytest.mark.long
@pytest.mark.parametrize("rung", ["forward", "gradients"])
@pytest.mark.parametrize("model", VISION)
def test_every_pair_holds_for_vision_in_float64(seen_exactly: ladder.Parity, model: str, rung: str) -> None:
    check(seen_exactly, model, "float64", rung)


def test_every_family_is_climbed() -> None:
    climbed = {
        registry.card(name).builder.__module__ for name in (*PLAIN, *VISION, *SEQUENCES, *TRANSFORMERS)
    }
    assert climbed == {f"zoo.models.{family}" for family in registry.FAMILIES}


def check(found: ladder.Parity, model: str, dtype: str, rung: str) -> None:
    rows = [row for row in found.rows if (row["model"], row["dtype"]) == (model, dtype)]
    assert not [row["error"] for row in rows if row["error"]]
    rows = [row for row in rows if row["name"] == rung]
    assert len(rows) == 3  # the pairs; of the engines, the frameworks
    for row in rows:
        assert row["verdict"] in ("holds", "gap"), row
        assert row["measured"] <= row["bound"] or row["verdict"] == "gap"


@pytest.mark.long
def test_the_chaos_floor_of_a_smooth_network_is_far_below_the_bound(climbed: ladder.Parity) -> None:
    floors = {row["chaos"] for row in climbed.rows if row["model"] == "lenet5" and row["chaos"] is not None}
    assert len(floors) == 1
    assert 0 < floors.pop() < 1e-6


SPECIMEN = np.random.default_rng(0).normal(size=(100, 8, 8, 1)).astype(np.float32)


@pytest.mark.long
def test_every_kind_of_layer_and_regularization_holds() -> None:
    """Pools, norms, drop-path, dropout, both GELUs, a penalty: the network that faults are seeded in."""
    result = ladder.parity(faults.specimen, inputs=SPECIMEN, targets=np.arange(100) % 10, float64=True)
    assert {row["rung"] for row in result.rows} == set(ladder.NUMBERS)
    assert not result.failed, result.failed


@pytest.mark.long
def test_every_fault_is_caught_by_its_rung() -> None:
    rows = faults.hunt()
    control, *seeded = rows
    assert control["caught"] is None, control
    assert len(seeded) == len(faults.FAULTS)
    for row in seeded:
        assert row["caught"] == row["rung"], row


def stock() -> Any:
    """A user's own model, of Keras's layers: its initial weights are each framework's."""
    import keras

    image = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.Dense(5, name="middle")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(3, name="last")(keras.ops.tanh(x)))


def faulty(break_: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """The same with an operation that is another on JAX."""

    def build() -> Any:
        import keras

        class Odd(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                return break_(keras.ops, x) if keras.backend.backend() == "jax" else x

        image = keras.Input((6, 6, 2))
        x = keras.layers.Dense(4, name="first")(keras.layers.Flatten()(image))
        x = keras.layers.Dense(4, name="second")(Odd(name="odd")(x))
        return keras.Model(image, keras.layers.Dense(3, name="last")(x))

    return build


INPUTS = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32)


def first_failure(result: ladder.Parity) -> dict[str, Any]:
    return next(row for row in result.rows if row["verdict"] == "fails")


def test_a_users_own_model_is_climbed_from_the_same_weights() -> None:
    result = ladder.parity(stock, INPUTS)
    assert {row["rung"] for row in result.rows} == {1, 2, 3, 4}
    assert {(row["a"], row["b"]) for row in result.rows} == {
        ("torch", "tensorflow"), ("torch", "jax"), ("tensorflow", "jax")
    }  # fmt: skip
    assert not result.failed, result.failed


def test_the_localizer_names_the_operation_whose_output_differs() -> None:
    result = ladder.parity(faulty(lambda ops, x: x * 1.001), INPUTS, rungs=(1, 2, 3))
    row = first_failure(result)
    assert (row["rung"], row["a"], row["b"]) == (2, "torch", "jax")
    assert row["where"]["suspect"] == "Odd"
    assert row["where"]["b"] == pytest.approx(1.001 * row["where"]["a"], rel=1e-5)
    pairs = {(row["a"], row["b"]) for row in result.failed}
    assert pairs == {("torch", "jax"), ("tensorflow", "jax")}


def test_the_localizer_names_the_operation_whose_gradient_differs() -> None:
    def break_(ops: Any, x: Any) -> Any:
        return 2 * x - ops.stop_gradient(x)

    row = first_failure(
        ladder.parity(faulty(break_), inputs=INPUTS, rungs=(1, 2, 3), backends=("torch", "jax"))
    )
    assert row["rung"] == 3
    assert row["where"]["layer"] == "outputs/first"
    assert row["where"]["suspect"].endswith("Odd")
    assert row["where"]["b"] == pytest.approx(2 * row["where"]["a"], rel=1e-5)


def test_a_process_that_dies_is_a_row_and_the_others_go_on() -> None:
    def build() -> Any:
        import keras

        if keras.backend.backend() == "jax":
            raise RuntimeError("no such luck")
        return stock()

    result = ladder.parity(build, inputs=INPUTS, rungs=(2,))
    died = [row for row in result.rows if row["error"]]
    assert [(row["a"], row["verdict"]) for row in died] == [("jax", "fails")]
    assert "no such luck" in died[0]["error"]
    assert [(row["a"], row["b"]) for row in result.rows if not row["error"]] == [("torch", "tensorflow")]


def test_a_users_model_is_trained_where_targets_are_given() -> None:
    x = np.random.default_rng(1).normal(size=(60, 6, 6, 2)).astype(np.float32)
    result = ladder.parity(
        stock, inputs=x, targets=np.arange(60) % 3, rungs=(5, 6), backends=("torch", "tensorflow")
    )
    assert {row["rung"] for row in result.rows} == {5, 6}
    assert not result.failed, result.failed


@pytest.mark.long
def test_every_mode_trains_as_the_default_does() -> None:
    result = ladder.parity("mlp", rungs=(7,))
    assert {row["rung"] for row in result.rows} == {7}
    assert not result.failed, result.failed


@pytest.mark.long
def test_torchs_compiled_mode_and_compiled_masks_hold_too() -> None:
    result = ladder.parity("mlp", rungs=(1, 7), modes=("compiled",), backends=("torch", "jax"))
    assert not result.failed, result.failed
    assert backends.MODES["torch"][-1] == "compiled"
