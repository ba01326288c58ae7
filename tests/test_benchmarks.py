"""`zoo bench`: the workload, the implementations, and that all of them compute the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import util
from math import log2, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import backends, benchmarks, registry, tasks
from zoo.benchmarks import implementations, references, worker, workload
from zoo.benchmarks.implementations import Implementation
from zoo.processes import machine
from zoo.training.recipes import recipe

HERE = backends.current()
NEEDS = {
    "torch": "torchvision",
    "tensorflow": "tensorflow",
    "jax": "flax",
}  # by the references of vision models
VISION = ("resnet18", "efficientnet-b0", "vit-ti16")


def natural_image_models() -> list[registry.Card]:
    cards = map(registry.card, registry.list_models())
    return [card for card in cards if card.preprocessing is not None]


def test_a_batch_of_natural_images_costs_about_the_same_for_every_model() -> None:
    """A power of two, within its rounding of 8e9 multiply-adds, or one image of those that cost more."""
    for card in natural_image_models():
        size = workload.batch_for(card)
        assert log2(size) == int(log2(size)), card.name
        assert size == 1 or 8e9 / sqrt(2) <= size * card.multiply_adds <= 8e9 * sqrt(2), card.name
        assert size > 1 or card.multiply_adds >= 8e9 / sqrt(2) / 2, card.name


@pytest.mark.parametrize("name", ["mlp", "lenet5"])
def test_a_quick_model_is_measured_on_the_batch_of_its_recipe_in_bursts_of_ten(name: str) -> None:
    card = zoo.card(name)
    assert workload.batch_for(card) == recipe(card.recipe).batch_size
    assert workload.rounds_and_burst(card, workload.batch_for(card)) == (22, 10)


def test_slow_steps_are_measured_one_at_a_time() -> None:
    for card in natural_image_models():
        rounds, burst = workload.rounds_and_burst(card, workload.batch_for(card))
        assert rounds >= 7, "quartiles of fewer say little"
        assert rounds * burst <= 10, card.name


def test_natural_images_are_replaced_by_noise_in_the_shape_of_the_model() -> None:
    x, y, loss = workload.batch(zoo.card("vit-ti16"), 16)
    assert x.shape == (16, 224, 224, 3)
    assert x.dtype == np.float32
    assert abs(x.mean()) < 5 / sqrt(x.size)  # five standard deviations of the mean of standard normal numbers
    assert y.shape == (16,)
    assert 0 <= y.min() < y.max() < 1000
    assert loss == "cross_entropy"


def test_digits_are_digits() -> None:
    x, y, _ = workload.batch(zoo.card("mlp"), 16)
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
    x, y, loss = workload.batch(card, 4)
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
        ("alexnet-2012", "torch", None),  # torchvision has none with two columns
        ("lenet5-1998", "torch", None),
        ("vit-ti16", "tensorflow", "vision_tensorflow"),
        ("efficientnet-b7", "flax", "vision_flax"),
        ("gru", "jax", "recurrent_jax"),
    ],
)
def test_a_reference_is_named_after_its_model_or_shared(model: str, framework: str, file: str | None) -> None:
    assert references.find_module(model, framework) == (file and f"zoo.benchmarks.references.{file}")


@pytest.mark.parametrize("backend", implementations.LIBRARIES)
def test_transformers_are_hugging_faces_on_torch_and_written_out_elsewhere(
    backend: str,
) -> None:
    for model in ("bert-base", "gpt2", "t5-small"):
        assert (
            implementations.find_reference(model, backend)
            == f"zoo.benchmarks.references.transformers_{backend}"
        )
    for model in ("t5-v1.1-small", "seq2seq"):
        assert implementations.find_reference(model, backend) is None


def test_only_a_reference_that_generates_is_timed_at_generating() -> None:
    names = {
        name: implementations.list_implementations("gpt-mini", name, "generate")
        for name in implementations.LIBRARIES
    }
    assert {name: [each.name for each in chosen] for name, chosen in names.items()} == {
        "torch": ["zoo traced", "plain eager"],
        "tensorflow": ["zoo graph"],
        "jax": ["zoo jit"],
    }
    assert len(implementations.list_implementations("resnet18", "torch", "generate")) == 1


def test_a_step_costs_the_same_whichever_ran_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """After another one, the first step allocates memory again, which its own loop would not."""
    clock, last = 0.0, ""

    def make(implementation: Implementation, _: Any) -> worker.Burst:
        def burst(steps: int) -> float:
            nonlocal clock, last
            clock += steps + (100 if implementation.name != last else 0)
            last = implementation.name
            return 0.0

        return burst

    monkeypatch.setattr(worker, "make", make)
    monkeypatch.setattr(worker.time, "perf_counter", lambda: clock)
    chosen = [Implementation("zoo", "traced"), Implementation("plain", "eager")]
    times = worker.interleaved(chosen, {"rounds": 3, "burst": 2})
    assert times == {each.name: [1000.0] * 3 for each in chosen}


@pytest.mark.skipif(HERE.NAME == "tensorflow", reason="the reference needs TensorFlow alone")
def test_without_the_references_package_its_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    package = NEEDS[HERE.NAME]
    monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    module = references.find_module("resnet18", *implementations.LIBRARIES[HERE.NAME])
    monkeypatch.delitem(sys.modules, str(module), raising=False)
    job = {"model": "resnet18", "batch_size": 1, "what": "train"}
    with pytest.raises(zoo.BackendError, match=f"needs {package}: pip install {package}"):
        worker.make(Implementation("plain", "eager"), job)


def test_ours_and_the_reference_are_made_first_equally_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first to be made is slower: here by half."""
    orders = []

    def run(command: str, job: dict[str, Any]) -> dict[str, Any]:
        names = job["implementations"]
        if command == "alone":
            return {"error": None, "first_step_s": 1.0, "peak_mb": 7, "loss": 0.0}
        orders.append(names)
        return {name: [15.0 if name == names[0] else 10.0] * job["rounds"] for name in names}

    monkeypatch.setattr(benchmarks, "_run", run)
    ours, theirs, *_ = zoo.bench("mlp", what=["infer"], backends=[HERE.NAME])
    assert ours["step_ms"] == theirs["step_ms"]
    assert [sorted(order) for order in orders] == [sorted(orders[0])] * 2
    assert ours["step_ms_quartiles"] == theirs["step_ms_quartiles"] == [10.0, 15.0]


@pytest.mark.skipif(HERE.NAME != "torch", reason="names torch's modes")
def test_implementations_that_memory_cannot_hold_together_are_timed_beside_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of 10 GB each; the reference is one speed in one process and another in the next."""
    here = {**machine.environment(), "memory_gb": 32.0}
    monkeypatch.setattr(machine, "environment", lambda: here)
    slowness, groups = {"zoo traced": 1.0, "zoo eager": 3.0}, []

    def run(command: str, job: dict[str, Any]) -> dict[str, Any]:
        names = job["implementations"]
        if command == "alone":
            return {"error": None, "first_step_s": 1.0, "peak_mb": 10_240, "loss": 0.0}
        groups.append(sorted(names))
        base = 10.0 * len(groups)
        return {name: [base * slowness.get(name, 2.0)] * job["rounds"] for name in names}

    monkeypatch.setattr(benchmarks, "_run", run)
    rows = {row["contestant"]: row for row in zoo.bench("mlp", what=["infer"], backends=["torch"])}
    assert groups[::2] == [
        sorted(["plain compiled", "plain eager", own])
        for own in ("zoo traced", "zoo eager", "zoo compiled", "keras predict")
    ]
    assert (rows["zoo traced"]["ratio"], rows["zoo eager"]["ratio"]) == (0.5, 1.5)
    assert (rows["plain eager"]["ratio"], rows["plain eager"]["step_ms"]) == (1.0, 30.0)


def test_interleaved_timing_that_fails_is_the_error_of_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = implementations.list_implementations("mlp", HERE.NAME, "infer")
    count = len(chosen)
    alone = {"first_step_s": 1.0, "peak_mb": 7, "loss": 0.0}
    times = {each.name: [1.0] * 11 for each in chosen}
    answers = iter([*[alone] * count, times, {"error": "out of memory"}])
    monkeypatch.setattr(benchmarks, "_run", lambda *_: next(answers))
    rows = zoo.bench("mlp", what=["infer"], backends=[HERE.NAME])
    assert [row["error"] for row in rows] == ["out of memory"] * count


def timed_builds(monkeypatch: pytest.MonkeyPatch, answers: dict[str, Iterator[Any]]) -> list[dict[str, Any]]:
    """`zoo bench --build` with these answers instead of processes."""
    monkeypatch.setattr(
        benchmarks, "_run", lambda command, job: {"build": next(answers[job["implementations"][0]])}[command]
    )
    return zoo.bench("vgg19", what=["build"], backends=["torch"])


@pytest.mark.skipif(HERE.NAME != "torch", reason="builds on torch")
def test_builds_are_compared_with_those_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = [3.0, 8.0, 5.0, 30.0, 7.0], [2.0, 4.0, 5.0, 20.0, 2.0]  # ratios 1.5 2 1 1.5 3.5
    row, reference = timed_builds(
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
def test_a_build_that_fails_is_a_row_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    row, reference = timed_builds(
        monkeypatch,
        {
            "zoo build": ({"build_s": 1.0, "peak_mb": 7} for _ in range(5)),
            "plain build": iter([{"error": "the reference implementation needs torchvision"}]),
        },
    )
    assert (row["error"], row["ratio"], row["build_s"]) == (None, None, 1.0)
    assert reference["error"] == "the reference implementation needs torchvision"


def test_rows_are_reported_as_soon_as_a_model_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = []

    def run(_: str, job: dict[str, Any]) -> dict[str, Any]:
        jobs.append((job["model"], job["what"]))
        return {"error": "out of memory"}

    monkeypatch.setattr(benchmarks, "_run", run)
    reported, last_jobs = [], []

    def report(rows: list[dict[str, Any]]) -> None:
        reported.append({(row["model"], row["what"]) for row in rows})
        last_jobs.append(jobs[-1])

    rows = zoo.bench("mlp", "lenet5", what=["infer", "build"], backends=[HERE.NAME], report=report)
    order = [("mlp", "infer"), ("mlp", "build"), ("lenet5", "infer"), ("lenet5", "build")]
    assert reported == [{work} for work in order]
    assert last_jobs == order  # the next was not started
    assert list(dict.fromkeys((row["model"], row["what"]) for row in rows)) == order


def test_an_interrupted_benchmark_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Work that is in the file is not repeated; work that failed or has another batch is."""
    out, jobs, events = tmp_path / "bench.json", [], iter(["", "out of memory", "", "interrupt"])

    def measure(job: dict[str, Any], _: Any) -> list[dict[str, Any]]:
        event = next(events, "")
        if event == "interrupt":
            raise KeyboardInterrupt
        jobs.append((job["model"], job["what"], job["batch_size"]))
        return [{**job, "contestant": "zoo traced", "error": event or None, "loss": float(len(jobs))}]

    def bench(**options: Any) -> list[dict[str, Any]]:
        return zoo.bench("mlp", "lenet5", backends=[HERE.NAME], threads=1, out=out, **options)

    monkeypatch.setattr(benchmarks, "_time_steps", measure)
    with pytest.raises(KeyboardInterrupt):
        bench()
    assert [job[:2] for job in jobs] == [("mlp", "train"), ("mlp", "infer"), ("lenet5", "train")]
    rows = bench()
    assert [job[:2] for job in jobs[3:]] == [("mlp", "infer"), ("lenet5", "infer")]
    assert [(row["loss"], row["error"]) for row in rows] == [(1, None), (4, None), (3, None), (5, None)]
    kept = json.loads(out.read_text())["rows"]
    assert sorted(kept, key=lambda row: row["loss"]) == sorted(rows, key=lambda row: row["loss"])
    bench(batch_size=7, what=["infer"])
    assert jobs[5:] == [("mlp", "infer", 7), ("lenet5", "infer", 7)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "not a file of `zoo bench --out`"),
        ('{"environment": {}, "rows": []}', "was measured with platform None; here"),
    ],
)
def test_a_file_that_is_not_of_this_benchmark_stays_as_it_is(
    content: str, message: str, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    out.write_text(content)
    with pytest.raises(zoo.WrongConfiguration, match=message):
        zoo.bench("mlp", backends=[HERE.NAME], out=out)
    assert out.read_text() == content
    assert list(tmp_path.iterdir()) == [out]


# --- the references compute what our models do ---


def skip_without_package() -> None:
    if util.find_spec(NEEDS[HERE.NAME]) is None:
        pytest.skip(f"{NEEDS[HERE.NAME]} is not installed in this environment")


def losses(implementation: Implementation, model: str, steps: int = 2) -> list[float]:
    """Before each step of AdamW."""
    burst = worker.make(implementation, {"model": model, "batch_size": 2, "what": "train"})
    return [burst(1) for _ in range(steps)]


@pytest.mark.peers
@pytest.mark.parametrize("model", VISION)
def test_a_reference_starts_from_our_weights_and_trains_like_ours(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss, and its change by a step so small that AdamW's sign of a rounding does not count."""
    skip_without_package()
    small = SimpleNamespace(settings={"learning_rate": 1e-5, "weight_decay": 0.05})
    monkeypatch.setattr(worker, "recipe", lambda name: small)
    first, second, *_ = implementations.list_implementations(model, HERE.NAME, "train")
    ours, theirs = losses(first, model), losses(second, model)
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1] - ours[0] == pytest.approx(theirs[1] - theirs[0], rel=1e-3)
    assert ours[1] < ours[0]


@pytest.mark.peers
@pytest.mark.parametrize("model", [*VISION, "alexnet", "vgg11-bn"])
def test_a_reference_predicts_like_ours(model: str) -> None:
    skip_without_package()
    card = zoo.card(model)
    x, y, _ = workload.batch(card, 2)
    reference, weights = worker.reference_and_weights(card)
    theirs = np.asarray(reference.predictor(weights)(reference.prepare(x, y)[0]))
    ours = numpy(HERE.predictor(zoo.build(model), backends.MODES[HERE.NAME][0])(HERE.tensor(x)))
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.mark.parametrize("model", ["lstm", "gru", "birnn"])
def test_the_recurrent_reference_trains_like_ours(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On padded texts: its state taken at each text's end, its own loop and optimizer."""
    rng = np.random.default_rng(0)
    x = rng.integers(3, 259, (8, 12), dtype=np.int32)
    x[1, 5:] = x[2, 1:] = 0
    y = rng.integers(0, 20, 8, dtype=np.int32)
    monkeypatch.setattr(worker, "batch", lambda card, size: (x, y, "cross_entropy"))
    job = {"model": model, "batch_size": 8, "what": "train"}
    first, second, *_ = implementations.list_implementations(model, HERE.NAME, "train")
    ours, theirs = worker.make(first, job), worker.make(second, job)
    for _ in range(4):
        assert ours(1) == pytest.approx(theirs(1), rel=1e-4 if HERE.NAME == "jax" else 1e-5)


ANYWHERE = ["mlp", "lenet5", "lstm"]
ELSEWHERE = [pytest.param(model, marks=pytest.mark.peers) for model in ("resnet18", "bert-tiny")]


@pytest.mark.skipif(HERE.NAME != "torch", reason="the other frameworks use the device in any case")
@pytest.mark.filterwarnings("ignore:for .* copying from a non-meta parameter")
@pytest.mark.parametrize("what", ["train", "infer"])
@pytest.mark.parametrize("model", [*ANYWHERE, *ELSEWHERE])
def test_a_reference_computes_on_the_device_in_use(
    model: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: torch does not compute with tensors of two devices. The meta device has no numbers."""
    import torch

    x, y, loss = workload.batch(zoo.card(model), 1)
    monkeypatch.setattr(worker, "batch", lambda card, size: (x, y, loss))
    monkeypatch.setattr(HERE, "on_device", lambda: torch.device("meta"))
    burst = worker.make(Implementation("plain", "eager"), {"model": model, "batch_size": 1, "what": what})
    values = []
    monkeypatch.setattr(worker, "_numpy", lambda loss: values.append(loss) or 0.0)
    monkeypatch.setattr(HERE, "synchronize", values.append)
    burst(1)
    assert [value.device.type for value in values] == ["meta"]


@pytest.mark.skipif(HERE.NAME != "torch", reason="the others have one")
def test_torch_creates_tensors_on_the_device_of_keras(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setenv("KERAS_TORCH_DEVICE", "meta")
    with HERE.on_device():
        assert torch.zeros(1).device.type == torch.nn.Linear(1, 1).weight.device.type == "meta"
    assert torch.zeros(1).device.type == "cpu"


def test_a_transformer_written_out_starts_from_our_weights_and_trains_like_ours() -> None:
    """Whatever else the recipe sets: a reference takes the learning rate and the weight decay."""
    model = "gpt-nano"  # tests/test_peers.py trains the others
    if HERE.NAME == "torch":
        pytest.skip("torch's reference is Hugging Face's")
    ours, theirs, *_ = implementations.list_implementations(model, HERE.NAME, "train")
    steps = 3  # the first of Adam's is the same whatever its betas
    assert losses(ours, model, steps) == pytest.approx(losses(theirs, model, steps), rel=1e-5)
