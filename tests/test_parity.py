"""Three frameworks on the ladder, each in a process of its own: every model, every rung, every pair."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import everywhere, python

from zoo import backends, ladder, registry
from zoo.ladder import bounds, run
from zoo.processes.workers import Worker

pytestmark = pytest.mark.parity

# Every family: each kind of block once. `zoo parity --float64` runs all models and takes an hour.
WHOLE = ("lenet5",)
VISION = ("mlp", "lenet5-1998", "alexnet-2012", "vgg11-bn", "resnet18", "efficientnet-b0", "vit-ti16")
SEQUENCES = ("gru", "birnn", "seq2seq", "speech")
TRANSFORMERS = ("bert-tiny", "gpt-nano", "t5-tiny")
RUNGS = [rung.name for rung in bounds.RUNGS if rung.number <= 8]


@pytest.fixture(scope="module")
def whole() -> ladder.Parity:
    """In both float types, on rungs 1 to 8: in float32 with XLA's default flags, not those of conftest.py."""

    def worker(module: str, folder: Path, backend: str, environment: Mapping[str, str]) -> Worker:
        flags = {"XLA_FLAGS": ""} if environment["ZOO_PARITY_DTYPE"] == "float32" else {}
        return Worker(module, folder, backend, {**environment, **flags})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Worker", worker)
        return ladder.parity(*WHOLE, rungs=range(1, 9), modes=(), float64=True)


@pytest.mark.long
@pytest.mark.parametrize("rung", RUNGS)
@pytest.mark.parametrize("dtype", bounds.DTYPES)
@pytest.mark.parametrize("model", WHOLE)
def test_every_pair_of_frameworks_holds(whole: ladder.Parity, model: str, dtype: str, rung: str) -> None:
    check(whole, model, dtype, rung)


@pytest.fixture(scope="module")
def computed() -> ladder.Parity:
    """Every other family in both float types: what differs in float64 is not rounding."""
    return ladder.parity(*VISION, *SEQUENCES, *TRANSFORMERS, rungs=(1, 2, 3), float64=True)


@pytest.mark.long
@pytest.mark.parametrize("rung", ["initial", "forward", "gradients"])
@pytest.mark.parametrize("dtype", bounds.DTYPES)
@pytest.mark.parametrize("model", [*VISION, *SEQUENCES, *TRANSFORMERS])
def test_every_pair_computes_alike(computed: ladder.Parity, model: str, dtype: str, rung: str) -> None:
    check(computed, model, dtype, rung)


@pytest.fixture(scope="module")
def circumstances() -> ladder.Parity:
    """In float32, and the number formats; ZOO_LADDER=1 adds positions, masks and labels of tokens."""
    models = ("mlp", "gpt-nano") if "ZOO_LADDER" in os.environ else ("mlp",)
    return ladder.parity(*models, rungs=(9, 10, 11), modes=(), backends=("torch", "jax"))


@pytest.mark.long
@pytest.mark.parametrize("rung", ["batch", "accumulation", "precision"])
def test_batches_padding_accumulation_and_formats_change_nothing_else(
    circumstances: ladder.Parity, rung: str
) -> None:
    rows = [row for row in circumstances.rows if row["name"] == rung]
    names = {"torch", "jax"} if rung != "precision" else {"bfloat16", "mixed_bfloat16", "mixed_float16"}
    found = {row["a"] for row in rows if row["a"] == row["b"]}
    assert names <= found | {row["dtype"] for row in rows}
    assert not [row for row in circumstances.rows if row["verdict"] != "holds"]
    assert any("no TF32" in note for note in circumstances["notes"]["mlp"])


# Besides LeNet-5 and the network with every layer and running statistics (tests/test_climb.py): both
# directions and CTC; attention, tokens, a tied embedding. One model of each family is trained for its page
# (docs/_measured.py).
TRAINED = ("speech", "gpt-nano")


@pytest.fixture(scope="module")
def trained() -> ladder.Parity:
    """In float32: gradients are equal to 1e-12 in float64, of which training is tested with LeNet-5."""
    return ladder.parity(*TRAINED, rungs=(5, 6, 7, 8), modes=())


@pytest.mark.long
@pytest.mark.parametrize("rung", ["training", "evaluation", "engines", "resume"])
@pytest.mark.parametrize("model", TRAINED)
def test_every_pair_trains_alike(trained: ladder.Parity, model: str, rung: str) -> None:
    check(trained, model, "float32", rung)


GENERATES = """
import zoo
model = zoo.build("gpt-nano", width=48, vocabulary=259, positions=300, seed=5)
for v in model.trainable_variables:
    v.assign(v * 2)
for how in ({"seed": 1}, {"temperature": 0}, {"top_k": 20, "top_p": 0.9, "seed": 2}, {"beams": 3}):
    print([x.encode().hex() for x in zoo.generate(model, ["Once upon", "a"], 200, **how)])
"""


def test_the_frameworks_generate_the_same_text_byte_for_byte() -> None:
    texts = everywhere(GENERATES)
    assert len(set(texts.values())) == 1
    assert len(texts["torch"]) > 1000


def test_every_family_is_compared() -> None:
    families = {
        registry.card(name).builder.__module__ for name in (*WHOLE, *VISION, *SEQUENCES, *TRANSFORMERS)
    }
    assert families == {f"zoo.models.{family}" for family in registry.FAMILIES}


def check(result: ladder.Parity, model: str, dtype: str, rung: str) -> None:
    rows = [row for row in result.rows if (row["model"], row["dtype"]) == (model, dtype)]
    assert not [row["error"] for row in rows if row["error"]]
    rows = [row for row in rows if row["name"] == rung]
    assert len(rows) == 3  # the pairs; of the engines, the frameworks
    for row in rows:
        assert row["verdict"] in ("holds", "gap"), row
        assert row["measured"] <= row["bound"] or row["verdict"] == "gap"


@pytest.mark.long
def test_the_chaos_floor_of_a_smooth_network_is_far_below_the_bound(whole: ladder.Parity) -> None:
    floors = {row["chaos"] for row in whole.rows if row["model"] == "lenet5" and row["chaos"] is not None}
    assert len(floors) == 1
    assert 0 < floors.pop() < 1e-6


# Training, files and text generation with both engines.
EVERYTHING = """
import sys, tempfile
from pathlib import Path
import zoo
folder = Path(tempfile.mkdtemp())
for engine in ("native", "keras"):
    options = {"engine": engine, "batch_size": 4, "progress": False, "checkpoint": folder / "run.zoo"}
    zoo.train("mlp", schedule=zoo.schedules.StepDecay(0.1, 1, 0.5), steps=2, **options)
    zoo.train("mlp", resume=folder / "run.zoo", steps=3, **options)
model = zoo.build("lenet5", weights="digits")
for name in ("w.safetensors", "w.npz", "w.weights.h5"):
    zoo.weights.save(model, folder / name)
    zoo.weights.load(model, folder / name)
zoo.generate(zoo.build("gpt-nano", **{**zoo.card("gpt-nano").small, "vocabulary": 259}), "a", 2)
zoo.schedules.plot(zoo.schedules.StepDecay(0.1, 3, 0.5), steps=4, path=folder / "rates.svg")
print(*(name for name in zoo.backends.NAMES if name in sys.modules))
"""


@pytest.mark.parametrize("name", backends.NAMES)
def test_no_framework_but_the_chosen_one_is_imported(name: str) -> None:
    """Where all are installed; Keras alone imports JAX, for Orbax, but not in the zoo's own processes."""
    assert python(EVERYTHING, KERAS_BACKEND=name).splitlines()[-1] == name
