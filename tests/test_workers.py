"""N processes give the losses of one, and the same weights to the bit.

    pytest -m workers tests/test_workers.py

trains every family on 2 and 4 workers of this machine; the default run has one small model.
"""

import json
import os
import signal
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import NAME
from zoo.backends import world

import zoo
from zoo import backends, random
from zoo._lazy import keras, ops
from zoo.processes import launcher
from zoo.processes.machine import PYTHON
from zoo.training import workers as rules
from zoo.training.plan import Options, plan_run

PROGRAM = Path(__file__).with_name("workers_program.py")
FAMILIES = [
    "mlp", "lenet5", "resnet18", "vgg11-bn", "efficientnet-b0", "vit-ti16", "lstm", "gpt-nano", "bert-tiny",
    "t5-tiny", "seq2seq", "speech",
]  # fmt: skip
BATCH_NORM = {"resnet18", "vgg11-bn", "efficientnet-b0", "speech"}


def environment(backend: str = NAME) -> dict[str, str]:
    return {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}


def train(folder: Path, workers: int, backend: str = NAME, **asked: Any) -> list[dict[str, Any]]:
    """What each of so many workers found, see tests/workers_program.py."""
    folder = folder / f"{workers}-{len(list(folder.iterdir()))}"
    folder.mkdir()
    start = [] if workers == 1 else ["-m", "zoo.processes.launcher", str(workers)]
    command = [*PYTHON, *start, str(PROGRAM), str(folder), json.dumps(asked)]
    done = subprocess.run(
        command, env=environment(backend), capture_output=True, text=True, timeout=900, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(workers)]


def difference(ours: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The largest relative difference of two runs' losses."""
    a, b = np.array(ours["losses"]), np.array(theirs["losses"])
    assert a.shape == b.shape
    return float(np.max(np.abs(a - b) / np.abs(b)))


def check(group: list[dict[str, Any]], alone: dict[str, Any], bound: float) -> None:
    """Each worker has the losses and metrics of one process, and the same weights as the others."""
    for name, theirs in alone.items():
        for each in group:
            assert difference(each[name], theirs) < bound, name
            assert each[name]["metrics"] == pytest.approx(theirs["metrics"], rel=1e-6)
            assert each[name]["digest"] == group[0][name]["digest"]


# --- the rules, in one process ---


def test_equal_parts_are_weighted_by_the_labels_they_count() -> None:
    y = np.array([[1, 2], [3, -1], [1, -1], [-1, -1]])
    found = [world.split(y, rank, 2, lambda y: int((y >= 0).sum())) for rank in range(2)]
    assert [own for own, _ in found] == [slice(0, 2), slice(2, 4)]
    assert [part for _, part in found] == [world.Part(0, 2, 3 / 4), world.Part(1, 2, 1 / 4)]


@pytest.mark.parametrize("y", [np.array([1, 2, 3]), np.array([[1, 2], [-1, -1]])])
def test_a_batch_that_does_not_divide_is_computed_by_every_worker(y: np.ndarray) -> None:
    for rank in range(2):
        assert world.split(y, rank, 2, lambda y: int((y >= 0).sum())) == (
            slice(0, len(y)),
            world.Part(0, 1, 1 / 2),
        )


def test_a_part_draws_its_rows_of_the_whole_draw() -> None:
    whole = ops.convert_to_numpy(random.bits((6, 5), 7, 3))
    with world.sharding(world.Part(1, 3)):
        own = ops.convert_to_numpy(random.bits((2, 5), 7, 3))
    np.testing.assert_array_equal(own, whole[2:4])


def test_a_launchers_variables_name_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sum(world.VARIABLES, ("MASTER_ADDR", "MASTER_PORT", "TF_CONFIG")):
        monkeypatch.delenv(name, raising=False)
    assert world.launched() is None
    slurm = {
        "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1", "SLURM_JOB_ID": "12",
        "SLURM_STEP_TASKS_PER_NODE": "4(x2)", "SLURM_STEP_NODELIST": "gpu[07-08]",
    }  # fmt: skip
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    assert world.launched() == world.Launch(5, 8, 1, 4, "gpu07", 20_012)
    torchrun = {"RANK": 2, "WORLD_SIZE": 4, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 29500}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("MASTER_ADDR", "first")
    assert world.launched() == world.Launch(2, 4, 0, 2, "first", 29500)


CLUSTER = {"chief": ["one:2222"], "worker": ["two:2222", "two:2223"]}


def test_tf_config_names_the_worker_and_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in sum(world.VARIABLES, ()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER, "task": {"type": "worker", "index": 1}}))
    found = world.launched()
    every = "one:2222", "two:2222", "two:2223"
    assert found == world.Launch(2, 3, 1, 2, "one", 2222, addresses=every)
    assert tuple(world.addresses(found)) == every
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        zoo.BackendError, match="TF_CONFIG is that of worker 2 of 3, RANK and WORLD_SIZE are 1"
    ):
        world.launched()


@pytest.mark.parametrize(
    "task", [{"type": "ps", "index": 0}, {"type": "worker"}, {"type": "worker", "index": 5}]
)
def test_a_tf_config_without_this_worker_is_refused(
    task: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": CLUSTER, "task": task}))
    with pytest.raises(zoo.BackendError, match=r"TF_CONFIG=.*expected the workers' addresses"):
        world.launched()


def test_workers_of_one_machine_listen_at_the_ports_that_follow() -> None:
    launch = world.Launch(0, 2, 0, 2, "127.0.0.1", 4000)
    assert world.addresses(launch) == ["127.0.0.1:4001", "127.0.0.1:4002"]
    with pytest.raises(zoo.BackendError, match=r"several machines.*TF_CONFIG"):
        world.addresses(world.Launch(0, 2, 0, 1, "127.0.0.1", 4000))


@pytest.mark.once
@pytest.mark.parametrize("rank", [0, 1])
def test_the_documented_job_of_kubernetes_names_its_workers(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    yaml = pytest.importorskip("yaml")
    text = (Path(__file__).parents[1] / "docs" / "scale.md").read_text("utf-8")
    service, job = yaml.safe_load_all(text.split("```yaml\n")[1].split("```")[0])
    for variable in job["spec"]["template"]["spec"]["containers"][0]["env"]:
        value = variable.get("value", "$(RANK)")
        monkeypatch.setenv(variable["name"], value.replace("$(RANK)", str(rank)))  # as Kubernetes does
    names = tuple(f"{job['metadata']['name']}-{i}.{service['metadata']['name']}" for i in range(2))
    found = world.launched()
    assert found is not None
    assert (found.rank, found.size, found.local_rank, found.local_size) == (
        rank,
        job["spec"]["completions"],
        0,
        1,
    )
    assert found.address == names[0]
    assert found.addresses == tuple(f"{name}:2222" for name in names)


def test_workers_need_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "launched", lambda: None)
    with pytest.raises(zoo.BackendError, match=r"workers=2.*launcher 2"):
        backends.use(NAME, workers=2)


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "keras"},
        {"checkpoint_every": "10 min", "checkpoint": "run"},
        {"callbacks": ["a Keras callback"]},
    ],
)
def test_options_that_workers_do_not_support_are_refused_by_name(
    options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.training.plan.check_callback", lambda *_, **__: None)
    given = Options(**options)
    rules.check_options(given, 1)
    with pytest.raises(zoo.WrongConfiguration, match=rf"{next(iter(options))}.*with workers=2"):
        rules.check_options(given, 2)


@pytest.mark.parametrize("layer", ["BatchNormalization", "Dropout", "ActivityRegularization"])
def test_layers_of_keras_that_see_a_part_of_a_batch_are_refused(layer: str) -> None:
    kinds = {"Dropout": {"rate": 0.5}, "ActivityRegularization": {"l2": 0.1}}
    model = keras.Sequential(
        [
            keras.Input((4,)),
            getattr(keras.layers, layer)(**kinds.get(layer, {}), name="it"),
            keras.layers.Dense(2),
        ]
    )
    with pytest.raises(zoo.WrongConfiguration, match="it, a " + layer):
        backends.check_layers(model)
    backends.check_layers(zoo.build("resnet18", **zoo.card("resnet18").small))


@pytest.mark.parametrize(("reduce", "is_mean"), [(np.mean, True), (np.sum, False), (np.max, False)])
def test_a_custom_loss_is_a_mean_over_examples(reduce: Any, is_mean: bool) -> None:
    y = np.arange(8.0)
    trainer = SimpleNamespace(predict=lambda x: x, loss=lambda y, x: float(reduce((x - y) ** 2)))
    run, objective = SimpleNamespace(trainer=trainer), SimpleNamespace(weight=len)
    refused = pytest.raises(zoo.WrongConfiguration, match=r"loss= with workers=2.*mean over examples")
    with nullcontext() if is_mean else refused:
        rules._check_loss(run, objective, (np.zeros(8), y), SimpleNamespace(size=2))  # type: ignore[arg-type]


def test_batches_made_elsewhere_are_refused() -> None:
    batches = [(np.zeros((2, 8, 8, 1), np.float32), np.zeros(2, np.int32))]
    plan = plan_run("mlp", lambda: iter(batches), Options(steps_per_epoch=1))
    rules.check_data(plan, 1)
    with pytest.raises(zoo.WrongConfiguration, match=r"with workers=2.*arrays"):
        rules.check_data(plan, 2)


@pytest.mark.parametrize(
    ("statuses", "said"),
    [
        ([1, -9], "worker 1 of 2 ended by signal 9"),
        ([1, None], "worker 1 of 2 did not answer"),
        ([-6, None], "worker 1 of 2 did not answer"),
        ([None, 2], "worker 1 of 2 ended with status 2: ValueError: no"),
        ([2, None], ""),  # worker 0 has said it
        ([130, 130], ""),
    ],
)
def test_the_launcher_names_the_worker_that_failed(
    statuses: list[int | None], said: str, tmp_path: Path
) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "stderr").write_text("Traceback\nValueError: no\n")
    assert launcher._problem(statuses, tmp_path) == said


# --- processes ---


def test_two_workers_give_the_losses_of_one(tmp_path: Path) -> None:
    """Dropout, a short last batch and held-out batches that are dealt."""
    (alone,), group = (train(tmp_path, n, models=["mlp"], options={"epochs": 1}) for n in (1, 2))
    check(group, alone, 1e-6)


EXACT = ["mlp", "lenet5", "resnet18", "lstm", "gpt-nano"]


def check_bits(group: list[dict[str, Any]], alone: dict[str, Any]) -> None:
    """Each worker has the losses and the weights of one process, bit for bit."""
    for name, theirs in alone.items():
        for each in group:
            assert (each[name]["losses"], each[name]["digest"]) == (theirs["losses"], theirs["digest"]), name


@pytest.mark.skipif(NAME != "torch", reason="of the others, `pytest -m workers`: they compile")
def test_two_workers_have_the_bits_of_one_where_training_is_exact(tmp_path: Path) -> None:
    """Dropout, and a grid that two parts of a batch have in common."""
    options = {"exact": True, "mode": "eager", "steps": 2}
    (alone,), group = (train(tmp_path, n, models=["mlp"], options=options) for n in (1, 2))
    check_bits(group, alone)


@pytest.mark.workers
@pytest.mark.parametrize("workers", [2, 4])
def test_exact_training_has_the_bits_of_one_process(workers: int, tmp_path: Path) -> None:
    """Batch norm, masked labels, recurrence, clipping and accumulation; a batch that does not divide."""
    options = {"exact": True, "mode": backends.EXACT_MODES[NAME][0], "steps": 3, "clip_norm": 0.1}
    options |= {"accumulate": 2, "batch_size": 8}
    (alone,), group = (train(tmp_path, n, models=EXACT, options=options) for n in (1, workers))
    check_bits(group, alone)


@pytest.mark.workers
@pytest.mark.parametrize("workers", [2, 4])
def test_every_family_has_the_losses_of_one_process_in_float64(workers: int, tmp_path: Path) -> None:
    (alone,) = train(tmp_path, 1, models=FAMILIES, float64=True)
    check(train(tmp_path, workers, models=FAMILIES, float64=True), alone, 1e-12)


@pytest.mark.workers
def test_every_family_has_the_losses_of_one_process_in_float32(tmp_path: Path) -> None:
    """The rounding of batch norm is that of one process at most, by the run in float64."""
    (alone,), (exact,) = (train(tmp_path, 1, models=FAMILIES, float64=wide) for wide in (False, True))
    for each in train(tmp_path, 2, models=FAMILIES):
        for name in FAMILIES:
            own = difference(each[name], alone[name])
            rounding = difference(each[name], exact[name]), difference(alone[name], exact[name])
            assert own < 1e-6 or (name in BATCH_NORM and rounding[0] < max(1e-6, rounding[1])), (name, own)


OPTIONS: dict[str, dict[str, Any]] = {
    "accumulation, clipping, averages": {"accumulate": 2, "clip_norm": 0.01, "ema": 0.9},
    "LAMB": {"optimizer": "LAMB", "learning_rate": 0.01},
    "early stopping": {"early_stopping": 1, "steps": 80, "train_metrics": True},
    "a mode": {"mode": {"torch": "eager", "tensorflow": "xla", "jax": "jit"}[NAME]},
    "smoothing": {"label_smoothing": 0.1},
    "adapters": {"lora": 2},
    "frozen layers that join": {"unfreeze": "1 epoch", "steps": 20},
    "recomputation": {"recompute": True},
}


@pytest.mark.workers
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options_have_the_losses_of_one_process(options: dict[str, Any], tmp_path: Path) -> None:
    asked = {"models": ["vit-ti16"], "options": options, "float64": True}
    (alone,) = train(tmp_path, 1, **asked)
    check(train(tmp_path, 2, **asked), alone, 1e-12)


@pytest.mark.workers
def test_a_batch_norm_that_is_computed_twice_sums_twice(tmp_path: Path) -> None:
    asked = {"models": ["resnet18", "efficientnet-b0"], "float64": True}
    (alone,) = train(tmp_path, 1, **asked)
    check(train(tmp_path, 2, **asked, options={"recompute": True}), alone, 1e-12)


@pytest.mark.workers
@pytest.mark.skipif(NAME == "jax", reason="XLA shards a step by these rules itself")
@pytest.mark.parametrize(
    ("mutation", "name", "options"),
    [
        ("dropout", "mlp", {}),
        ("norm", "resnet18", {}),
        ("weight", "gpt-nano", {}),
        ("clip", "lenet5", {"clip_norm": 0.01}),
    ],
)
def test_a_fault_in_a_rule_is_seen(mutation: str, name: str, options: dict[str, Any], tmp_path: Path) -> None:
    asked = {"models": [name], "options": options, "float64": True}
    (alone,) = train(tmp_path, 1, **asked)
    group = train(tmp_path, 2, mutation=mutation, **asked)
    assert difference(group[0][name], alone[name]) > 1e-9


@pytest.mark.workers
@pytest.mark.skipif(NAME == "jax", reason="XLA shards a step by these rules itself")
@pytest.mark.parametrize("mutation", ["grid", "norm"])
def test_a_fault_in_an_exact_sum_is_seen(mutation: str, tmp_path: Path) -> None:
    """Parts of a batch that do not agree on their grid, or are taken for the whole batch."""
    mode = backends.EXACT_MODES[NAME][0]
    asked = {"models": ["mlp"], "options": {"exact": True, "steps": 2, "mode": mode}}
    (alone,) = train(tmp_path, 1, **asked)
    group = train(tmp_path, 2, mutation=mutation, **asked)
    assert difference(group[0]["mlp"], alone["mlp"]) > 0


@pytest.mark.workers
def test_a_run_of_two_workers_is_resumed_on_four_and_on_one(tmp_path: Path) -> None:
    asked = {"models": ["vit-ti16"], "float64": True}
    (whole,) = train(tmp_path, 1, options={"steps": 30}, **asked)
    saved = str(tmp_path / "saved.safetensors")
    train(tmp_path, 2, options={"steps": 12, "checkpoint": saved}, **asked)
    for workers in (4, 1):
        check(train(tmp_path, workers, options={"steps": 30, "resume": saved}, **asked), whole, 1e-12)


@pytest.mark.workers
@pytest.mark.skipif(
    NAME != "torch" or len(backends.installed()) < len(backends.NAMES), reason="of torch, on all frameworks"
)
def test_a_run_of_four_torch_workers_is_resumed_on_every_framework(tmp_path: Path) -> None:
    asked: dict[str, Any] = {"models": ["vit-ti16"], "float64": True}
    (whole,) = train(tmp_path, 1, options={"steps": 30}, **asked)
    saved = str(tmp_path / "saved.safetensors")
    train(tmp_path, 4, options={"steps": 12, "checkpoint": saved}, **asked)
    for backend, workers in [("torch", 2), ("torch", 1), ("jax", 1), ("jax", 2), ("tensorflow", 2)]:
        options = {"steps": 30, "resume": saved}
        for each in train(tmp_path, workers, backend, options=options, **asked):
            assert difference(each["vit-ti16"], whole["vit-ti16"]) < 1e-6, (backend, workers)


@pytest.mark.workers
def test_compare_shows_several_workers_beside_one_process(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 6, "backends": [NAME], "engines": ["native"], "threads": 1}
    (run,) = zoo.compare("mlp", workers=2, out=tmp_path, **settings).runs
    assert run["error"] is None
    assert run["workers"] == {"count": 2, "losses": run["workers"]["losses"], "equal_weights": True}
    assert run["workers"]["losses"] < 1e-6
    assert '<th scope="col">2 workers</th>' in (tmp_path / "report.html").read_text()
    with pytest.raises(zoo.WrongConfiguration, match="exact=True with workers=2"):
        zoo.compare("mlp", workers=2, exact=True, out=None)


# --- the command ---


def zoo_train(folder: Path, *options: str) -> tuple[subprocess.Popen[str], list[int]]:
    """`zoo train --workers 2`, after its first epoch, and the numbers of its workers."""
    command = [*PYTHON, "-m", "zoo", "train", "mlp", "digits", "--epochs", "3000", "--workers", "2"]
    process = subprocess.Popen(
        [*command, "--out", str(folder), *options], env=environment(), stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 2/"):
            break
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True)
    rows = [line.split(maxsplit=2) for line in listed.stdout.splitlines()]
    return process, sorted(
        int(pid) for pid, parent, what in rows if parent == str(process.pid) and "zoo train" in what
    )


@pytest.mark.workers
@pytest.mark.parametrize("receiver", ["launcher", "worker 1"])
def test_a_signal_stops_all_workers_after_the_same_step(receiver: str, tmp_path: Path) -> None:
    process, workers = zoo_train(tmp_path / "run")
    os.kill(process.pid if receiver == "launcher" else workers[1], signal.SIGTERM)
    _, errors = process.communicate(timeout=60)  # which closes the pipe, too
    assert process.returncode == 128 + signal.SIGTERM, errors
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.workers
@pytest.mark.parametrize("receivers", ["worker 1", "all, and the launcher"])
def test_ctrl_c_stops_all_after_the_same_step(receivers: str, tmp_path: Path) -> None:
    """Their losses and weights are those of one another, and the losses those of one process."""
    saved = tmp_path / "saved.safetensors"
    options = {"steps": 100_000, "checkpoint": str(saved), "validation": None}
    asked = {"models": ["mlp"], "options": options}
    command = ["-m", "zoo.processes.launcher", "2", str(PROGRAM), str(tmp_path), json.dumps(asked)]
    process = subprocess.Popen([*PYTHON, *command], env=environment(), start_new_session=True)
    while not saved.exists():
        assert process.poll() is None
        time.sleep(0.05)
    if receivers == "worker 1":
        os.kill(
            int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[1]),
            signal.SIGINT,
        )
    else:
        os.killpg(process.pid, signal.SIGINT)
    process.wait(60)
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text())["mlp"] for rank in range(2))
    assert first["signal"] == second["signal"] == signal.SIGINT
    assert first["losses"] == second["losses"]
    assert first["digest"] == second["digest"]
    made = len(first["losses"])
    assert 1 <= made < 100_000
    asked["options"] = {"steps": made, "validation": None}
    (alone,) = train(tmp_path, 1, **asked)
    np.testing.assert_allclose(first["losses"][:20], alone["mlp"]["losses"][:20], rtol=1e-6)


@pytest.mark.workers
@pytest.mark.parametrize(
    ("number", "said", "limit_s"),
    [
        (signal.SIGKILL, "worker 1 of 2 ended by signal 9", 5),
        (signal.SIGSTOP, "worker 1 of 2 did not answer", 20),
    ],
)
def test_a_worker_that_is_lost_is_named(number: int, said: str, limit_s: float, tmp_path: Path) -> None:
    process, workers = zoo_train(tmp_path / "run", "--worker-timeout", "10")
    begin = time.monotonic()
    os.kill(workers[1], number)
    _, errors = process.communicate(timeout=60)
    assert time.monotonic() - begin < limit_s
    assert process.returncode == 1
    assert said in errors.splitlines()[-1]
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


@pytest.mark.workers
@pytest.mark.skipif(NAME != "torch", reason="torchrun is torch's launcher")
def test_torchrun_starts_the_workers_again_and_the_run_goes_on(tmp_path: Path) -> None:
    """SIGKILL of a worker after the first checkpoint: torchrun ends the other, and restarts both once."""
    command = ["-m", "zoo", "train", "mlp", "digits", "--epochs", "60", "--learning-rate", "1e-5", "--out"]
    subprocess.run([*PYTHON, *command, str(tmp_path / "uncut")], env=environment(), check=True)
    launcher = [*PYTHON, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    process = subprocess.Popen(
        [*launcher, *command, str(tmp_path / "run"), "--resume", "auto"],
        env=environment(), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    for line in process.stderr:
        if line.startswith("epoch 3/"):
            break
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[1]), signal.SIGKILL)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "WorkerLost" in errors  # of the other one
    assert "epoch 1/60" not in errors  # from the checkpoint on
    runs = (json.loads((tmp_path / name / "run.json").read_text()) for name in ("run", "uncut"))
    ours, theirs = ([epoch["train_loss"] for epoch in run["history"]] for run in runs)
    assert len(ours) == 60
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
