"""Sweeps: what is run, what is kept, and what the results say.

Witnesses: NumPy, all assignments of signs written out, Wilcoxon's distribution written out, Holm's example,
`zoo.train` in this process, Optuna by itself, html.parser, axe.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME
from test_cli import paths
from test_report import Reader
from typer.main import get_command
from typer.testing import CliRunner

import zoo
from zoo import sweeps
from zoo.cli import app
from zoo.processes.workers import WorkerDied
from zoo.report.sweep import power, render, text
from zoo.sweeps import cluster, cost, pool
from zoo.sweeps.specification import OPTIONS, specify
from zoo.sweeps.statistics import differences_by_seed, holm, paired_test, spread
from zoo.sweeps.summary import summarize
from zoo.sweeps.tasks import Results, Task, failure
from zoo.sweeps.worker import execute

RNG = np.random.default_rng(0)


# Statistics


@pytest.mark.once
def test_the_spread_is_that_of_numpy_and_one_run_has_none() -> None:
    values = list(RNG.normal(size=7))
    found = spread(values)
    expected = [np.mean(values), np.std(values, ddof=1), min(values), max(values), 7]
    assert list(found.values()) == pytest.approx(expected)
    assert spread([2.0])["deviation"] is None


@pytest.mark.once
@pytest.mark.parametrize("n", [2, 3, 5, 8, 12])
def test_the_p_value_is_the_share_of_assignments_of_signs_as_far_from_0(n: int) -> None:
    differences = RNG.normal(0.4, size=n)
    means = np.array([np.mean(signs * differences) for signs in itertools.product((-1, 1), repeat=n)])
    found = paired_test(list(differences))
    assert found["p"] == pytest.approx(np.mean(np.abs(means) >= abs(differences.mean()) * (1 - 1e-12)))
    assert found["difference"] == pytest.approx(differences.mean())
    assert (found["pairs"], found["test"]) == (n, "permutation")


@pytest.mark.once
@pytest.mark.parametrize("n", [1, 2, 5, 6, 10])
def test_the_least_possible_p_is_that_of_differences_of_one_sign(n: int) -> None:
    found = paired_test(list(RNG.uniform(1, 2, n)))
    assert found["p"] == pytest.approx(found["p_least"]) == pytest.approx(min(1, 2 / 2**n))


@pytest.mark.once
def test_more_pairs_than_can_be_enumerated_have_wilcoxons_test() -> None:
    differences = RNG.normal(0.3, size=20)
    counts = np.array([1])  # assignments of signs by the sum of the positive ranks
    for rank in range(1, 21):
        counts = np.pad(counts, (0, rank)) + np.pad(counts, (rank, 0))
    ranks = np.abs(differences).argsort().argsort() + 1
    positive = ranks[differences > 0].sum()
    tail = min(counts[: positive + 1].sum(), counts[positive:].sum()) / counts.sum()
    found = paired_test(list(differences))
    assert (found["test"], found["p"]) == ("Wilcoxon", pytest.approx(min(1, 2 * tail)))


@pytest.mark.once
def test_equal_pairs_have_p_1_and_none_have_no_test() -> None:
    assert paired_test([0.0] * 6)["p"] == 1
    assert paired_test([0.0] * 30)["p"] == 1
    assert paired_test([]) == {}


@pytest.mark.once
def test_holms_adjustment_is_that_of_the_formula() -> None:
    """Of p values in order, the largest so far of (m - i) p(i), counted from 0."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]


@pytest.mark.once
def test_a_pair_is_a_seed_whose_runs_are_there_in_every_context() -> None:
    a = {("x", 0): 1.0, ("y", 0): 2.0, ("x", 1): 3.0, ("y", 1): 4.0, ("x", 2): 5.0, ("z", 0): 9.0}
    b = {("x", 0): 2.0, ("y", 0): 5.0, ("x", 1): 3.0, ("y", 1): 5.0, ("x", 2): 9.0}
    assert differences_by_seed(a, b) == {0: 2.0, 1: 0.5}  # 2 lacks y, nobody else has z
    assert differences_by_seed(a, {**b, ("y", 1): float("nan")}) == {0: 2.0}


# What is run


@pytest.mark.once
def test_every_combination_is_a_run_for_each_seed_and_the_first_seed_comes_first() -> None:
    found = specify(["mlp", "lenet5"], [NAME], [7, 3], {"lr": [0.1, 0.2], "steps": 5, "model": {}}, cpus=2)
    expected = [
        (model, seed, {"learning_rate": rate, "steps": 5})
        for seed in (7, 3)
        for model in ("mlp", "lenet5")
        for rate in (0.1, 0.2)
    ]
    tasks = found.tasks()
    assert [(task.model, task.seed, task.settings) for task in tasks] == expected
    assert found.runs == len({task.key for task in tasks}) == 8
    assert found.dimensions == ["model", "learning_rate"]
    assert (found.metric, found.direction) == ("accuracy", "maximize")
    assert specify("mlp", metric="loss").direction == "minimize"
    assert specify("mlp", seeds=3).seeds == (0, 1, 2)


@pytest.mark.once
def test_a_key_is_of_what_a_run_is_and_not_of_the_order_of_its_settings() -> None:
    task = Task("mlp", "torch", 0, {"steps": 5, "learning_rate": 0.1})
    assert Task("mlp", "torch", 0, {"learning_rate": 0.1, "steps": 5}).key == task.key
    others = [
        Task("lenet5", "torch", 0, task.settings),
        Task("mlp", "jax", 0, task.settings),
        Task("mlp", "torch", 1, task.settings),
        Task("mlp", "torch", 0, {"steps": 6, "learning_rate": 0.1}),
        Task("mlp", "torch", 0),
    ]
    assert len({task.key, *(other.key for other in others)}) == 6


@pytest.mark.once
def test_every_setting_is_an_option_of_zoo_train() -> None:
    known = {name for parameter in get_command(app).commands["train"].params for name in parameter.opts}
    assert [name for name in OPTIONS if f"--{name.replace('_', '-')}" not in known] == []


RATE = {"low": 1e-4, "high": 0.1, "log": True}


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"models": []}, "no model; `zoo list`"),
        ({"models": "mpl"}, "nearest: mlp"),
        ({"models": 3}, "models=3; expected a list"),
        ({"backends": ["torhc"]}, "nearest: torch"),
        ({"backends": []}, "no framework"),
        ({"seeds": 0}, "seeds=0; expected an integer, 1 or more"),
        ({"seeds": [1, 1]}, "different integers"),
        ({"metric": "acuracy"}, "nearest: accuracy"),
        ({"direction": "up"}, "direction='up'; .*maximize"),
        ({"cpus": 0}, "cpus=0"),
        ({"gpus": -1}, "gpus=-1; expected a number, 0 or more"),
        ({"settings": 3}, "settings=3; expected a table"),
        ({"settings": {"learing-rate": 0.1}}, "nearest: learning_rate"),
        ({"settings": {"lr": -0.1}}, "learning_rate=-0.1; expected a number 0 or more"),
        ({"settings": {"ema": [0.9, 1.1]}}, "ema=1.1; expected a number from 0 to 1"),
        ({"settings": {"epochs": [3, 3]}}, "expected different values"),
        ({"settings": {"epochs": []}}, "expected different values"),
        ({"settings": {"epochs": {"a": 1}}}, "expected a string, a number"),
        ({"settings": {"epochs": 0}}, "epochs=0; expected an integer, 1 or more"),
        ({"settings": {"seed": 3}}, "seed is not one; give seeds"),
        ({"settings": {"threads": 3}}, "give cpus"),
        ({"settings": {"out": "x"}}, "no option 'out'"),
        ({"settings": {"optimizer": ["AdamW", "Adma"]}}, "nearest: Adam"),
        ({"settings": {"mode": "warp"}}, "has no mode 'warp'"),
        ({"settings": {"task": ["digits", "digitz"]}}, "nearest: digits"),
        ({"settings": {"model": {"width": 3}}}, "no argument 'width'; nearest: widths"),
        ({"settings": {"model.classes": 3}}, "model.classes is decided by the task"),
        ({"search": 3}, "search=3; expected a table"),
        ({"search": {"trails": 3}}, "nearest: trials"),
        ({"search": {"trials": 3}}, "no ranges"),
        ({"search": {"trials": 0, "ranges": {"lr": RATE}}}, "trials=0"),
        ({"search": {"ranges": {"lr": {"low": 1, "hihg": 2}}}}, "nearest: high"),
        ({"search": {"ranges": {"lr": {"low": 2.0, "high": 1.0}}}}, "low < high"),
        ({"search": {"ranges": {"lr": {"low": 0.0, "high": 1.0, "log": True}}}}, "low > 0"),
        ({"search": {"ranges": {"lr": 0.1}}}, "expected a list, or"),
        ({"search": {"ranges": {"lr": [0.1]}}}, "two values or more"),
        ({"search": {"ranges": {"lr": RATE}}, "settings": {"lr": 0.1}}, "in .settings. and in"),
        ({"search": {"ranges": {"optimizer": ["AdamW", "Adma"]}}}, "nearest: Adam"),
    ],
)
def test_a_wrong_sweep_is_an_error_that_says_what_was_expected(
    arguments: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "Worker", lambda *_: pytest.fail("a process was started"))
    with pytest.raises(zoo.ZooError, match=message):
        zoo.sweep(**{"models": "mlp", **arguments})


@pytest.mark.once
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("models = ['mlp']\nsedes = 3", "no key 'sedes'; nearest: seeds"),
        ("models = ['mlp", "not a TOML file"),
        ("seeds = 3", "no models"),
        (None, "no such file"),
    ],
)
def test_a_wrong_file_is_one_line_and_status_2(content: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "sweep.toml"
    if content is not None:
        file.write_text(content)
    with pytest.raises(zoo.ZooError, match=message):
        zoo.sweep(file)


# How it is run


class Fake:
    """Runs nothing: the accuracy of a run is that of a formula of its seed, backend and rate."""

    jobs = 2

    def __init__(self, failing: Callable[[Task], str | None] = lambda task: None):
        self.failing, self.tasks = failing, list[Task]()

    def __call__(self, tasks: Sequence[Task], done: Callable[[Task, dict[str, Any]], None]) -> None:
        for task in reversed(tasks):  # as they may end
            self.tasks.append(task)
            done(task, self.result(task))

    def result(self, task: Task) -> dict[str, Any]:
        if error := self.failing(task):
            return failure(error, diverged=error == "diverged")
        rate = task.settings.get("learning_rate", 0.01)
        value = 0.9 - 0.1 * abs(np.log10(rate) + 2) + 0.001 * task.seed
        return {
            "error": None, "diverged": False, "metrics": {"accuracy": value, "train_s": 2.0}, "steps": 60,
            "batch_size": 64, "per_epoch": 20, "first_step_s": 1.0, "seconds": 5.0, "version": "1",
            "device": "cpu", "host": "here", "hash": "", "mode": "", "peak_mb": 1.0,
        }  # fmt: skip


def swept(monkeypatch: pytest.MonkeyPatch, fake: Fake, out: Path, **arguments: Any) -> sweeps.Sweep:
    @contextmanager
    def executor(*_: Any) -> Iterator[Fake]:
        yield fake

    monkeypatch.setattr(sweeps, "_executor", executor)
    return zoo.sweep(**{"models": "mlp", "backends": [NAME], "out": out, **arguments})


@pytest.mark.once
def test_a_sweep_runs_what_is_missing_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = {1: "MemoryError: no", 2: "diverged"}
    fake = Fake(lambda task: errors.get(task.seed))
    first = swept(monkeypatch, fake, tmp_path, seeds=4, settings={"steps": 60})
    timed = {"steps": cost.STEPS}
    assert [task.seed for task in fake.tasks if task.settings != timed] == [3, 2, 1, 0]
    assert [run["seed"] for run in first.runs] == [0, 1, 2, 3]
    assert [run["error"] for run in first.runs] == [None, "MemoryError: no", "diverged", None]
    again = Fake()
    second = swept(monkeypatch, again, tmp_path, seeds=5, settings={"steps": 60})
    assert [task.seed for task in again.tasks if task.settings != timed] == [4, 1]
    assert [run["error"] for run in second.runs] == [None, None, "diverged", None, None]
    assert json.loads((tmp_path / "sweep.json").read_text()) == json.loads(json.dumps(second))
    assert second.cells[0]["runs"] == 4
    assert second.cells[0]["mean"] == pytest.approx(np.mean([0.9, 0.901, 0.903, 0.904]))


@pytest.mark.once
def test_a_damaged_result_is_run_again(tmp_path: Path) -> None:
    results, task = Results(tmp_path), Task("mlp", "torch", 0)
    result = Fake().result(task)
    results.write(task, result)
    assert results.read(task) == {"task": task.facts, **result}
    (file,) = (tmp_path / "runs").iterdir()
    file.write_text(file.read_text()[:-20])
    assert results.read(task) is None


@pytest.mark.once
def test_an_interrupt_leaves_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(task: Task) -> None:
        if task.seed == 0 and not task.settings:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swept(monkeypatch, Fake(interrupt), tmp_path, seeds=3)
    assert [run["seed"] for run in json.loads((tmp_path / "sweep.json").read_text())["runs"]] == [1, 2]
    assert "2 of 3 runs" in (tmp_path / "sweep.html").read_text()
    fake = Fake()
    swept(monkeypatch, fake, tmp_path, seeds=3)
    assert [task.seed for task in fake.tasks] == [0]


@pytest.mark.once
def test_the_cost_is_said_first_and_is_that_of_the_timed_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    fake = Fake()
    swept(monkeypatch, fake, tmp_path, seeds=2, settings={"steps": [100, 200]}, show=lines.append)
    assert fake.tasks[0].settings == {"steps": cost.STEPS}
    # Timed: 5 s, of which 2 for 5 steps, the first 1 s: 4 s, and 0.25 s a step; two at a time.
    total = 2 * (4 + 25) + 2 * (4 + 50)
    assert (
        lines[0]
        == f"4 to run, 0 done before; about {total / 2:.0f} s with 2 at a time, from 5 steps of each kind"
    )
    assert len(lines) == 5
    # Of epochs: 3 of 20 steps with 64 examples are 3 of 40 with 32, which take half the time.
    task = Task("mlp", NAME, 0, {"epochs": 3, "batch_size": 32})
    assert cost.seconds(task, fake.result(task)) == pytest.approx(4 + 120 * 0.125)


@pytest.mark.once
def test_the_statistics_of_a_sweep_are_over_common_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(task: Task) -> str | None:
        return "lost" if task.seed == 5 and task.settings["learning_rate"] == 0.1 else None

    result = swept(monkeypatch, Fake(failing), tmp_path, seeds=6, settings={"lr": [0.1, 0.01, 0.001]})
    assert [cell["choices"]["learning_rate"] for cell in result.cells] == [0.01, 0.001, 0.1]
    assert [(cell["runs"], cell["failed"]) for cell in result.cells] == [(6, 0), (6, 0), (5, 1)]
    tests = {(test["a"], test["b"]): test for test in result.tests}
    assert tests.keys() == {(0.1, 0.01), (0.1, 0.001), (0.01, 0.001)}
    assert tests[0.01, 0.001]["difference"] == pytest.approx(-0.1)
    assert tests[0.01, 0.001]["p"] == pytest.approx(2 / 2**6)
    assert tests[0.01, 0.001]["p_adjusted"] == pytest.approx(3 * 2 / 2**6)
    assert (tests[0.1, 0.01]["pairs"], tests[0.1, 0.01]["p_least"]) == (5, 2 / 2**5)
    assert result["command"] == f"zoo train mlp --backend {NAME} --learning-rate 0.01 --seed 0"
    assert power(result).startswith("With five pairs no p value can be below 0.062")
    for line in ("0.01 - 0.1: +0.1, p = 0.062", "failed: mlp on", "Best: zoo train mlp"):
        assert line in text(result)


@pytest.mark.once
def test_a_run_without_the_metric_is_an_error_that_names_those_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = swept(monkeypatch, Fake(), tmp_path, metric="perplexity")
    assert result.runs[0]["error"] == "no metric 'perplexity'; there are: accuracy, train_s"


@pytest.mark.once
def test_frameworks_are_compared_over_seeds_not_over_runs() -> None:
    """Two settings of one seed are one pair, their difference the mean."""
    sweep = specify("mlp", [NAME], 3, {"engine": ["keras", "native"], "epochs": [1, 2]})
    rows = [
        {"model": task.model, "backend": NAME, "seed": task.seed, "settings": task.settings, "error": None,
         "metrics": {"accuracy": task.seed + (task.settings["engine"] == "native") * task.settings["epochs"]}}
        for task in sweep.tasks()
    ]  # fmt: skip
    engine, epochs = summarize(sweep, rows)["tests"]
    assert (engine["pairs"], engine["contexts"], engine["difference"]) == (3, 2, 1.5)
    assert (epochs["pairs"], epochs["contexts"], epochs["difference"]) == (3, 2, 0.5)


@pytest.mark.once
def test_a_cell_with_failed_runs_is_not_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(task: Task) -> str | None:
        return "lost" if task.settings["learning_rate"] == 0.01 and task.seed == 1 else None

    result = swept(monkeypatch, Fake(failing), tmp_path, seeds=2, settings={"lr": [0.01, 0.1]})
    assert [cell["choices"]["learning_rate"] for cell in result.cells] == [0.1, 0.01]


ALONE = """
import json, sys, zoo
from zoo import backends
from zoo._lazy import ops
from zoo.training.chain import fingerprint

backends.use(sys.argv[1], threads=1, device="cpu")
run = zoo.train("mlp", "digits", steps=12, learning_rate=0.003, seed=4, progress=False)
weights = [ops.convert_to_numpy(variable) for variable in run.model.variables]
print(json.dumps([fingerprint([*weights, run.losses]), run.losses, run.metrics["accuracy"]]))
"""


def test_a_run_of_a_sweep_is_zoo_trains_to_the_bit(tmp_path: Path) -> None:
    """In a process of its own, as a run of a sweep is; this one has run other tests."""
    settings = {"steps": 12, "learning_rate": 0.003, "task": "digits"}
    result = zoo.sweep(models="mlp", backends=[NAME], seeds=[4], settings=settings, out=tmp_path)
    (row,) = result.runs
    assert row["error"] is None
    alone = subprocess.run([sys.executable, "-c", ALONE, NAME], capture_output=True, text=True, check=True)
    digest, losses, accuracy = json.loads(alone.stdout.splitlines()[-1])
    stored = json.loads((tmp_path / "runs" / f"{row['key']}.json").read_text())
    assert stored["losses"] == losses
    assert row["hash"] == digest
    assert row["metrics"]["accuracy"] == accuracy


def test_a_setting_of_the_model_is_an_argument_of_its_builder() -> None:
    settings = {"steps": 3, "model.widths": (5,), "model.dropout_rate": 0.0}
    found = execute(Task("mlp", NAME, 1, settings).facts)
    assert found["error"] is None
    model = zoo.build("mlp", seed=1, widths=(5,))
    run = zoo.train(model, "digits", steps=3, seed=1, progress=False)
    assert found["losses"] == run.losses


@pytest.mark.once
def test_an_error_of_a_run_is_its_result() -> None:
    found = execute(Task("mlp", NAME, 0, {"steps": 3, "freeze": "nothing-like-it"}).facts)
    assert found["error"].startswith("UnknownName: freeze=")
    assert not found["diverged"]
    found = execute(Task("mlp", NAME, 0, {"steps": 30, "optimizer": "SGD", "learning_rate": 1e30}).facts)
    assert found["error"].startswith("NonFinite")
    assert found["diverged"]


# Processes


class Dying:
    """A worker that ends without a result so many times."""

    started: int
    deaths: int

    def __init__(self, *_: Any) -> None:
        type(self).started += 1

    def ask(self, *_: Any, **__: Any) -> Iterator[dict[str, Any]]:
        if self.started <= self.deaths:
            raise WorkerDied("killed by the system, most likely out of memory")
        yield {"step": 3}
        yield {"error": None}

    def close(self) -> None: ...


@pytest.mark.once
@pytest.mark.parametrize("deaths", [0, 2, 3])
def test_a_process_that_dies_is_started_again_twice(deaths: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Dying, "started", 0, raising=False)
    monkeypatch.setattr(Dying, "deaths", deaths, raising=False)
    monkeypatch.setattr(pool, "Worker", Dying)
    found: list[dict[str, Any]] = []
    with pool.processes(1, 1, 0) as run:
        run([Task("mlp", "torch", 0)], lambda task, result: found.append(result))
    assert Dying.started == min(deaths + 1, 3)
    error = found[0]["error"]
    assert error is None if deaths < 3 else "out of memory (in each of 3 attempts)" in error


@pytest.mark.once
def test_a_killed_run_is_repeated_and_an_exception_ends_the_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By real processes: one is killed as soon as it has started."""
    workers: list[Any] = []

    class Killed(pool.Worker):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            workers.append(self)
            if len(workers) == 1:
                os.kill(self.process.pid, signal.SIGKILL)

    monkeypatch.setattr(pool, "Worker", Killed)
    found: list[dict[str, Any]] = []

    def done(task: Task, result: dict[str, Any]) -> None:
        del task
        found.append(result)
        raise KeyboardInterrupt

    tasks = [Task("mlp", NAME, seed, {"steps": steps}) for seed, steps in ((0, 2), (1, 100_000))]
    with pytest.raises(KeyboardInterrupt), pool.processes(2, 1, 0) as run:
        run(tasks, done)
    assert [result["error"] for result in found] == [None]
    assert len(workers) == 3
    assert all(worker.process.returncode is not None for worker in workers)


@pytest.mark.once
@pytest.mark.parametrize(
    ("package", "arguments"),
    [("ray", {"address": "auto"}), ("optuna", {"search": {"ranges": {"lr": RATE}}})],
)
def test_without_the_package_the_error_says_what_to_install(
    package: str, arguments: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(zoo.BackendError, match=f"keras-zoo-parity.{package}."):
        zoo.sweep(models="mlp", out=tmp_path / "out", **arguments)
    assert cluster.VARIABLES["RAY_USAGE_STATS_ENABLED"] == "0"


# A search


@pytest.mark.once
def test_a_search_asks_optuna_and_asks_the_same_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optuna = pytest.importorskip("optuna")
    search = {"trials": 14, "batch": 2, "seed": 3, "ranges": {"lr": RATE, "model.widths": [[8], [16, 8]]}}
    fake = Fake()
    first = swept(monkeypatch, fake, tmp_path, seeds=[0, 1], search=search)
    asked = [trial["settings"] for trial in first["studies"][0]["trials"]]
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=3, constant_liar=True)
    )
    expected = []
    for _ in range(7):
        trials = [study.ask() for _ in range(2)]
        for trial in trials:
            rate = trial.suggest_float("learning_rate", 1e-4, 0.1, log=True)
            widths = ((8,), (16, 8))[trial.suggest_categorical("model.widths", range(2))]
            expected.append({"learning_rate": rate, "model.widths": widths})
        for trial, settings in zip(trials, expected[-2:], strict=True):
            study.tell(
                trial,
                np.mean([fake.result(Task("", "", s, settings))["metrics"]["accuracy"] for s in (0, 1)]),
            )
    assert asked == expected
    again = Fake()
    second = swept(monkeypatch, again, tmp_path, seeds=[0, 1], search=search)
    assert again.tasks == []
    assert json.dumps(second["studies"]) == json.dumps(first["studies"])
    longer = Fake()
    swept(monkeypatch, longer, tmp_path, seeds=[0, 1], search={**search, "trials": 16})
    assert len(longer.tasks) == 2 * 2


@pytest.mark.once
def test_a_trial_of_which_a_run_failed_is_a_bad_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps below 4 fail: of the last trials most are above."""
    pytest.importorskip("optuna")
    search = {"trials": 40, "ranges": {"batch_size": {"low": 1, "high": 8}}}
    fake = Fake(lambda task: "diverged" if task.settings["batch_size"] < 7 else None)
    result = swept(monkeypatch, fake, tmp_path, search=search)
    trials = result["studies"][0]["trials"]
    assert {trial["value"] is None for trial in trials} == {True, False}
    late = [trial["settings"]["batch_size"] for trial in trials[20:]]
    assert np.mean([size >= 7 for size in late]) > 0.5


# The command and the page


def test_the_command_lists_the_runs_and_prints_one_json_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(f'models = ["mlp"]\nbackends = ["{NAME}"]\nseeds = 2\n[settings]\nlr = [0.1, 0.01]\n')
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["sweep", "mine.toml", "--dry-run", "--json"])
    listed = [(row["settings"]["learning_rate"], row["seed"]) for row in json.loads(done.stdout)]
    assert listed == [(0.1, 0), (0.01, 0), (0.1, 1), (0.01, 1)]
    assert done.stderr == "4 runs: 1 model x 1 backend x 2 of learning_rate x 2 seeds\n"
    assert not (tmp_path / "sweeps").exists()
    swept(monkeypatch, Fake(lambda task: "lost" if task.seed else None), tmp_path / "elsewhere")
    done = CliRunner().invoke(app, ["sweep", "mine.toml", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["planned"] == 4
    assert done.stderr.splitlines()[-1].startswith("[4/4] mlp")
    assert (tmp_path / "sweeps" / "mine" / "sweep.html").exists()
    swept(monkeypatch, Fake(), tmp_path / "elsewhere")
    done = CliRunner().invoke(
        app, ["compare", "mlp", "--backends", NAME, "--seeds", "2", "--seed", "5", "-q"]
    )
    assert "engine: native - keras" in done.stdout
    result = json.loads((tmp_path / "zoo-report" / "sweep.json").read_text())
    assert (result["seeds"], result["dimensions"]) == ([5, 6], ["engine"])
    done = CliRunner().invoke(app, ["compare", "mlp", "--address", "auto"])
    assert "goes with --seeds" in str(done.exception)


def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A page with everything on it."""
    fake = Fake(lambda task: "<script>lost</script>" if task.seed == 2 else None)
    arguments = {"seeds": 4, "settings": {"lr": [0.01, 0.1, 0.001], "engine": ["keras", "native"]}}
    result = swept(monkeypatch, fake, tmp_path, **arguments)
    trials = [{"number": i, "value": x, "settings": {}} for i, x in enumerate((0.5, None, 0.7, 0.6))]
    result["studies"] = [{"model": "mlp", "backend": "torch", "settings": {}, "trials": trials}]
    return render(result)


@pytest.mark.once
def test_the_page_has_every_number_and_escapes_what_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = shown(tmp_path, monkeypatch)
    reader = Reader(page)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    labels = [
        attributes["aria-label"] or ""
        for tag, attributes in reader.elements
        if "aria-label" in attributes and tag == "svg"
    ]
    assert labels[0].startswith("Dots: accuracy of 18 runs in six")
    assert labels[1] == "Line chart: accuracy by trial, model mlp, backend PyTorch. The best: 0.7."
    dots = [attributes for tag, attributes in reader.elements if tag == "circle"]
    assert len(dots) == 18 + 3
    assert "0.9013" in reader.texts["td"]  # the mean of seeds 0, 1 and 3
    assert page.count("&lt;script&gt;lost") == 6


@pytest.mark.once
def test_the_result_has_the_documented_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("optuna")
    documented = (
        (Path(__file__).parents[1] / "docs" / "sweep.md").read_text("utf-8").split("## The result\n")[1]
    )
    firsts = re.findall(r"^\| (`.*?) \|", documented, re.MULTILINE)
    known = {key for first in firsts for key in re.findall(r"`(\S+)`", first)} | {"runs"}
    search = {"trials": 2, "ranges": {"lr": RATE}}
    grid = swept(monkeypatch, Fake(), tmp_path / "a", seeds=2, settings={"lr": [0.1, 0.01]})
    searched = swept(monkeypatch, Fake(), tmp_path / "b", seeds=2, settings={"steps": 60}, search=search)
    found = {*paths(json.loads(json.dumps(grid))), *paths(json.loads(json.dumps(searched)))} - {
        "tests",
        "studies",
    }
    assert [path for path in found if not any(fnmatch(path, key) for key in known)] == []
    assert [key for key in known - {"runs"} if not any(fnmatch(path, key) for path in found)] == []


@pytest.mark.browser
@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_on_the_page(
    dark: bool, chromium: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    window = chromium.new_page(color_scheme="dark" if dark else "light")
    window.set_content(shown(tmp_path, monkeypatch))
    found = Axe().run(window).response
    window.close()
    assert found["passes"]
    assert [(v["id"], [node["target"] for node in v["nodes"]]) for v in found["violations"]] == []
