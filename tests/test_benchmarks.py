"""`zoo bench`: what a step is measured on, who competes, and that all of them compute the same."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import util
from math import log2, sqrt
from typing import Any

import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import backends, benchmarks, registry, tasks
from zoo.benchmarks import Contestant
from zoo.benchmarks import references as peers

HERE = backends.current()
PEER = {"torch": "torchvision", "jax": "flax"}  # what the peers of vision models need
VISION = ("resnet18", "efficientnet-b0", "vit-ti16")


def photographic() -> list[registry.Card]:
    cards = map(registry.card, registry.list_models())
    return [card for card in cards if card.preprocessing is not None]


def test_a_batch_of_photographs_costs_about_the_same_whatever_the_model() -> None:
    """A power of two, within its rounding of 8e9 multiply-adds, or one image of those that cost more."""
    for card in photographic():
        size = benchmarks.batch_for(card)
        assert log2(size) == int(log2(size)), card.name
        assert size == 1 or 8e9 / sqrt(2) <= size * card.multiply_adds <= 8e9 * sqrt(2), card.name
        assert size > 1 or card.multiply_adds >= 8e9 / sqrt(2) / 2, card.name


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_a_quick_model_is_measured_on_the_batch_of_its_recipe_in_bursts_of_ten(name: str) -> None:
    card = zoo.card(name)
    assert benchmarks.batch_for(card) == zoo.training.recipes.recipe(card.recipe).batch_size
    assert benchmarks.rounds_and_burst(card, benchmarks.batch_for(card)) == (22, 10)


def test_slow_steps_are_measured_one_at_a_time() -> None:
    for card in photographic():
        rounds, burst = benchmarks.rounds_and_burst(card, benchmarks.batch_for(card))
        assert rounds >= 7, "quartiles of fewer say little"
        assert rounds * burst <= 10, card.name


def test_photographs_are_noise_in_the_shape_of_the_model() -> None:
    x, y, loss = benchmarks.batch(zoo.card("vit-ti16"), 16)
    assert x.shape == (16, 224, 224, 3)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 5 / sqrt(x.size)  # five deviations of the mean of standard normal numbers
    assert y.shape == (16,)
    assert 0 <= y.min() < y.max() < 1000
    assert loss == "cross_entropy"


def test_digits_are_digits() -> None:
    x, y, _ = benchmarks.batch(zoo.card("mlp"), 16)
    theirs_x, theirs_y = next(zoo.tasks.load("digits", (28, 28, 1)).batches(16, 0, 0))
    np.testing.assert_array_equal(x, theirs_x)
    np.testing.assert_array_equal(y, theirs_y)


@pytest.mark.once
@pytest.mark.parametrize("name", ["seq2seq", "speech"])
def test_sequences_are_those_of_a_models_task_by_the_names_of_its_inputs(name: str) -> None:
    if name == "seq2seq":
        pytest.importorskip("babel")
    card = zoo.card(name)
    model = zoo.build(name)
    x, y, loss = benchmarks.batch(card, 4)
    assert loss == tasks.source(card.task)[1].loss
    assert sorted(x if isinstance(x, dict) else ["frames"]) == sorted(tensor.name for tensor in model.inputs)
    assert len(numpy(model(backends.tensors(x)))) == len(y) == 4


@pytest.mark.parametrize(
    ("model", "framework", "file"),
    [
        ("lenet5", "torch", "lenet5_torch"),
        ("mlp", "flax", "mlp_flax"),
        ("vit-l16", "torch", "vision_torch"),
        ("vgg16-bn", "torch", "vision_torch"),
        ("resnet50", "flax", "vision_flax"),
        ("birnn", "torch", "recurrent_torch"),
        ("seq2seq", "torch", None),
        ("alexnet-2012", "torch", None),  # torchvision has none of two columns
        ("lenet5-1998", "torch", None),
        ("vit-ti16", "tensorflow", None),
    ],
)
def test_a_peer_is_named_after_its_model_or_shared(model: str, framework: str, file: str | None) -> None:
    assert peers.find(model, framework) == (file and f"zoo.benchmarks.references.{file}")


@pytest.mark.parametrize("backend", benchmarks.PEERS)
def test_the_transformers_that_torch_takes_from_hugging_face_are_written_by_hand_elsewhere(
    backend: str,
) -> None:
    for model in ("bert-base", "gpt2", "t5-small"):
        assert benchmarks.find_peer(model, backend) == f"zoo.benchmarks.references.transformers_{backend}"
    for model in ("t5-v1.1-small", "seq2seq"):
        assert benchmarks.find_peer(model, backend) is None


def test_only_a_peer_that_writes_is_raced_at_writing() -> None:
    fields = {name: benchmarks.contestants("gpt-mini", name, "generate") for name in benchmarks.PEERS}
    assert {name: [c.name for c in field] for name, field in fields.items()} == {
        "torch": ["zoo traced", "plain eager"],
        "tensorflow": ["zoo graph"],
        "jax": ["zoo jit"],
    }
    assert len(benchmarks.contestants("resnet18", "torch", "generate")) == 1


def test_a_step_costs_the_same_whoever_ran_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who follows another finds the memory gone that it had, which is no step of its own loop."""
    clock, last = 0.0, ""

    def make(contestant: Contestant, _: Any) -> benchmarks.Burst:
        def burst(steps: int) -> float:
            nonlocal clock, last
            clock += steps + (100 if contestant.name != last else 0)
            last = contestant.name
            return 0.0

        return burst

    monkeypatch.setattr(benchmarks, "make", make)
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: clock)
    field = [Contestant("zoo", "traced"), Contestant("plain", "eager")]
    times = benchmarks.race(field, {"rounds": 3, "burst": 2})
    assert times == {contestant.name: [1000.0] * 3 for contestant in field}


@pytest.mark.skipif(HERE.NAME not in PEER, reason="no peer of a vision model on TensorFlow")
def test_without_the_peers_package_its_row_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    package = PEER[HERE.NAME]
    monkeypatch.setitem(sys.modules, package, None)  # what Python finds where it is not installed
    module = peers.find("resnet18", *benchmarks.PEERS[HERE.NAME])
    monkeypatch.delitem(sys.modules, str(module), raising=False)
    job = {"model": "resnet18", "batch_size": 1, "what": "train"}
    with pytest.raises(zoo.BackendError, match=f"needs {package}: pip install {package}"):
        benchmarks.make(Contestant("plain", "eager"), job)


def test_ours_and_the_plain_program_are_made_first_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is made first is slower: here by half."""
    orders = []

    def run(how: str, job: dict[str, Any]) -> dict[str, Any]:
        names = job["contestants"]
        if how == "alone":
            return {"error": None, "first_step_s": 1.0, "peak_mb": 7, "loss": 0.0}
        orders.append(names)
        return {name: [15.0 if name == names[0] else 10.0] * job["rounds"] for name in names}

    monkeypatch.setattr(benchmarks, "_run", run)
    ours, theirs, *_ = zoo.bench("mlp", what=["infer"], backends=[HERE.NAME])
    assert ours["step_ms"] == theirs["step_ms"]
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 2
    assert ours["step_ms_quartiles"] == theirs["step_ms_quartiles"] == [10.0, 15.0]


def test_a_race_that_fails_is_the_error_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    field = benchmarks.contestants("mlp", HERE.NAME, "infer")
    count = len(field)
    alone = {"first_step_s": 1.0, "peak_mb": 7, "loss": 0.0}
    race = {contestant.name: [1.0] * 11 for contestant in field}
    answers = iter([*[alone] * count, race, {"error": "out of memory"}])
    monkeypatch.setattr(benchmarks, "_run", lambda *_: next(answers))
    rows = zoo.bench("mlp", what=["infer"], backends=[HERE.NAME])
    assert [row["error"] for row in rows] == ["out of memory"] * count


def race_of_builds(
    monkeypatch: pytest.MonkeyPatch, answers: dict[str, Iterator[Any]]
) -> list[dict[str, Any]]:
    """`zoo bench --build` with these answers in the place of processes."""
    monkeypatch.setattr(
        benchmarks, "_run", lambda how, job: {"build": next(answers[job["contestants"][0]])}[how]
    )
    return zoo.bench("vgg19", what=["build"], backends=["torch"])


@pytest.mark.skipif(HERE.NAME != "torch", reason="builds on torch")
def test_builds_are_compared_with_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = [3.0, 8.0, 5.0, 30.0, 7.0], [2.0, 4.0, 5.0, 20.0, 2.0]  # ratios 1.5 2 1 1.5 3.5
    row, reference = race_of_builds(
        monkeypatch,
        {
            "zoo build": ({"build_s": s, "peak_mb": 7} for s in ours),
            "plain build": ({"build_s": s, "peak_mb": 5} for s in theirs),
        },
    )
    assert (row["build_s"], row["ratio"], row["peak_mb"]) == (7.0, 1.5, 7)
    assert row["build_s_quartiles"] == [5.0, 8.0]
    assert (reference["build_s"], reference["ratio"]) == (4.0, 1.0)


@pytest.mark.skipif(HERE.NAME != "torch", reason="builds on torch")
def test_a_build_that_fails_is_a_row_and_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    row, reference = race_of_builds(
        monkeypatch,
        {
            "zoo build": ({"build_s": 1.0, "peak_mb": 7} for _ in range(5)),
            "plain build": iter([{"error": "the plain peer needs torchvision"}]),
        },
    )
    assert (row["error"], row["ratio"], row["build_s"]) == (None, None, 1.0)
    assert reference["error"] == "the plain peer needs torchvision"


def test_rows_are_reported_as_soon_as_a_model_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def run(_: str, job: dict[str, Any]) -> dict[str, Any]:
        asked.append((job["model"], job["what"]))
        return {"error": "the machine burns"}

    monkeypatch.setattr(benchmarks, "_run", run)
    reported, last_asked = [], []

    def report(rows: list[dict[str, Any]]) -> None:
        reported.append({(row["model"], row["what"]) for row in rows})
        last_asked.append(asked[-1])

    rows = zoo.bench("mlp", "lenet5", what=["infer", "build"], backends=[HERE.NAME], report=report)
    order = [("mlp", "infer"), ("mlp", "build"), ("lenet5", "infer"), ("lenet5", "build")]
    assert reported == [{work} for work in order]
    assert last_asked == order  # nothing of the next was begun
    assert list(dict.fromkeys((row["model"], row["what"]) for row in rows)) == order


# --- the peers of vision models compute what ours do ---


def skip_without_peer(model: str) -> None:
    if peers.find(model, *benchmarks.PEERS[HERE.NAME]) is None:
        pytest.skip(f"{model} has no peer on {HERE.NAME}")
    if util.find_spec(PEER[HERE.NAME]) is None:
        pytest.skip(f"{PEER[HERE.NAME]} is not installed in this environment")


def losses(contestant: Contestant, model: str, steps: int = 2) -> list[float]:
    """Before each step of AdamW."""
    burst = benchmarks.make(contestant, {"model": model, "batch_size": 2, "what": "train"})
    return [burst(1) for _ in range(steps)]


@pytest.mark.peers
@pytest.mark.parametrize("model", VISION)
def test_a_peer_starts_from_our_weights_and_learns_as_ours(model: str) -> None:
    skip_without_peer(model)
    first, second, *_ = benchmarks.contestants(model, HERE.NAME, "train")
    ours, theirs = losses(first, model), losses(second, model)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] == pytest.approx(theirs[1], rel=1e-3)  # AdamW makes a whole step of a gradient's rounding


@pytest.mark.peers
@pytest.mark.parametrize("model", VISION)
def test_a_peer_predicts_as_ours(model: str) -> None:
    skip_without_peer(model)
    card = zoo.card(model)
    x, y, _ = benchmarks.batch(card, 2)
    peer, weights = benchmarks._peer(card)
    theirs = np.asarray(peer.predictor(weights)(peer.prepare(x, y)[0]))
    ours = numpy(HERE.predictor(zoo.build(model), backends.MODES[HERE.NAME][0])(HERE.tensor(x)))
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.skipif(HERE.NAME != "torch", reason="the recurrent peer is torch's")
@pytest.mark.parametrize("model", ["lstm", "gru", "birnn"])
def test_the_recurrent_peer_trains_as_the_zoo_does(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On padded texts: torch.nn's module, its state taken at each text's end, its own loop and optimizer."""
    rng = np.random.default_rng(0)
    x = rng.integers(3, 259, (8, 12), dtype=np.int32)
    x[1, 5:] = x[2, 1:] = 0
    y = rng.integers(0, 20, 8, dtype=np.int32)
    monkeypatch.setattr(benchmarks, "batch", lambda card, size: (x, y, "cross_entropy"))
    job = {"model": model, "batch_size": 8, "what": "train"}
    ours, theirs = (benchmarks.make(Contestant(*who), job) for who in (("zoo", "traced"), ("plain", "eager")))
    for _ in range(4):
        assert ours(1) == pytest.approx(theirs(1), rel=1e-5)


ANYWHERE = ["mlp", "lenet5", "lstm"]
ELSEWHERE = [pytest.param(model, marks=pytest.mark.peers) for model in ("resnet18", "bert-tiny")]


@pytest.mark.skipif(HERE.NAME != "torch", reason="what the others make lies on the device in use in any case")
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("what", ["train", "infer"])
@pytest.mark.parametrize("model", [*ANYWHERE, *ELSEWHERE])
def test_a_peer_computes_on_the_device_in_use(model: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it: torch refuses to compute with tensors of two devices. On this one there are no numbers."""
    import torch

    x, y, loss = benchmarks.batch(zoo.card(model), 1)
    monkeypatch.setattr(benchmarks, "batch", lambda card, size: (x, y, loss))
    monkeypatch.setattr(HERE, "on_device", lambda: torch.device("meta"))
    burst = benchmarks.make(Contestant("plain", "eager"), {"model": model, "batch_size": 1, "what": what})
    found = []
    monkeypatch.setattr(benchmarks, "_numpy", lambda loss: found.append(loss) or 0.0)
    monkeypatch.setattr(HERE, "synchronize", found.append)
    burst(1)
    assert [value.device.type for value in found] == ["meta"]


@pytest.mark.skipif(HERE.NAME != "torch", reason="the others have one")
def test_what_torch_makes_lies_on_the_device_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("KERAS_TORCH_DEVICE", "meta")
    with HERE.on_device():
        assert torch.zeros(1).device.type == torch.nn.Linear(1, 1).weight.device.type == "meta"
    assert torch.zeros(1).device.type == "cpu"


def test_a_transformer_by_hand_starts_from_our_weights_and_learns_as_ours() -> None:
    """Whatever else the recipe sets: a peer knows the learning rate and the weight decay."""
    model = "gpt-nano"  # tests/test_peers.py has the others learn
    if HERE.NAME == "torch":
        pytest.skip("torch's peer is Hugging Face's")
    ours, theirs, *_ = benchmarks.contestants(model, HERE.NAME, "train")
    steps = 3  # the first of Adam's is the same whatever its betas
    assert losses(ours, model, steps) == pytest.approx(losses(theirs, model, steps), rel=1e-5)
