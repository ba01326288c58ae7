"""Worker processes that hang or outlive the main one, and what the system refuses a command."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import NAME
from PIL import Image
from test_rules import ROOT, ZOO, name_of, packages

import zoo
from zoo import benchmarks, checkpoints
from zoo.ladder.bounds import Process
from zoo.ladder.run import ParityRun, Settings
from zoo.processes.frameworks import frameworks
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Worker, WorkerDied

pytestmark = pytest.mark.once

TESTS = {"PYTHONPATH": str(ROOT / "tests")}  # where the module `runner` is
FOREVER = "while True: pass"
FULL = Path("/dev/full")  # every write to it fails
LOCK = "import fcntl, sys; sys.lock = open({!r}, 'w'); fcntl.flock(sys.lock, fcntl.LOCK_EX)"
# A main process with three workers, each of which holds a lock while it lives: two compute, one is stopped.
MAIN = f"""
import os, signal, sys, threading, time
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup it is ignored
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Worker

with scratch_folder() as folder:
    workers = [Worker("runner", folder / str(i), "torch") for i in range(3)]
    for i, worker in enumerate(workers):
        list(worker.ask("run", code={LOCK!r}.format(f"{{sys.argv[1]}}/{{i}}")))
    os.kill(workers[2].process.pid, signal.SIGSTOP)
    for worker in workers[:2]:
        threading.Thread(target=list, args=[worker.ask("run", code={FOREVER!r})], daemon=True).start()
    time.sleep(1)
    print("computing", flush=True)
    time.sleep(1e6)
"""


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether the condition holds within these seconds."""
    end = time.monotonic() + seconds
    while not (held := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return held


def is_free(lock: Path) -> bool:
    """Whether no process holds this lock."""
    with lock.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


@pytest.mark.parametrize("ending", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_workers_and_their_folder_go_with_the_main_process(ending: str, tmp_path: Path) -> None:
    locks, temporary = tmp_path / "locks", tmp_path / "tmp"
    locks.mkdir()
    temporary.mkdir()
    environment = {**os.environ, **TESTS, "TMPDIR": str(temporary)}
    command = [sys.executable, "-c", MAIN, str(locks)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as main:
        assert main.stdout is not None
        assert main.stdout.readline() == b"computing\n"
        assert len(list(temporary.glob("zoo-*/*/pid"))) == 3
        assert not any(map(is_free, locks.iterdir()))
        main.send_signal(getattr(signal, ending))
        main.wait(timeout=60)
    assert wait_for(lambda: all(map(is_free, locks.iterdir())))
    assert wait_for(lambda: not any(temporary.iterdir()))


def test_processes_are_started_in_one_place() -> None:
    starting = {name_of(path) for path in ZOO if "subprocess" in packages(path)}
    assert starting == {f"zoo/processes/{name}.py" for name in ("scratch", "workers", "launcher")}


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"No such file or directory.*missing"), scratch_folder():
        pass


def test_a_worker_that_is_stopped_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_WORKER_TIMEOUT", "1.5")
    with closing(Worker("runner", tmp_path / "worker", NAME, TESTS)) as worker:
        os.kill(worker.process.pid, signal.SIGSTOP)
        with pytest.raises(WorkerDied, match=r"sent nothing for 1\.5 s and was ended; ZOO_WORKER_TIMEOUT"):
            list(worker.ask("run", code=""))


def test_every_answer_begins_the_time_limit_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = []

    class Timer(threading.Timer):
        def __init__(self, limit: float, end: Callable[[], None]):
            super().__init__(limit, end)
            limits.append((limit, self))

    monkeypatch.setattr(threading, "Timer", Timer)
    with closing(Worker("runner", tmp_path / "worker", NAME, TESTS)) as worker:
        for _ in range(3):
            assert [answer["said"] for answer in worker.ask("run", code="print(1)")] == ["1"]
    assert [limit for limit, _ in limits] == [1800] * 3
    assert all(timer.finished.is_set() for _, timer in limits)


@pytest.mark.parametrize("limit", ["soon", "0", "-1", "nan", "inf"])
def test_a_time_limit_that_is_none_is_an_error(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_WORKER_TIMEOUT", limit)
    with pytest.raises(zoo.WrongConfiguration, match=f"ZOO_WORKER_TIMEOUT={limit}: expected a number of sec"):
        Worker("runner", tmp_path / "worker", NAME)
    assert not any(tmp_path.iterdir())


def test_a_worker_that_hangs_becomes_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that starts for longer than the limit hangs, as far as the main process can see."""
    monkeypatch.setenv("ZOO_WORKER_TIMEOUT", "0.01")
    (run,) = zoo.compare("mlp", backends=[NAME], engines=["native"], out=None).runs
    timings = benchmarks.bench("mlp", what=["train"], backends=[NAME])
    with ParityRun(tmp_path, [("mlp", None)], Settings([NAME], ["float32"])) as ladder:
        (row,) = ladder.rows()
    assert row["verdict"] == "fails"
    for each in (run, row, *timings, frameworks()[NAME]):
        assert each["error"].startswith("sent nothing for 0.01 s and was ended")


def test_an_export_that_hangs_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_WORKER_TIMEOUT", "0.01")
    model = zoo.build("mlp", **zoo.card("mlp").small)
    with pytest.raises(zoo.ZooError, match=r"nothing was written: sent nothing for 0\.01 s and was ended"):
        zoo.export(model, tmp_path / "mlp.keras")
    assert not any(tmp_path.iterdir())


def test_a_program_goes_with_the_main_process(tmp_path: Path) -> None:
    """As export runs what it wrote."""
    lock = tmp_path / "lock"
    program = f"{LOCK.format(str(lock))}; print('computing', flush=True)\n{FOREVER}"
    main = f"""
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import run
with scratch_folder() as folder:
    run({program!r}, [], folder / "program", "torch")
"""
    with subprocess.Popen([sys.executable, "-c", main]) as process:
        assert wait_for(lambda: lock.exists() and not is_free(lock))
        process.kill()
    assert wait_for(lambda: is_free(lock))


class Busy(ParityRun):
    """Its workers never answer; Ctrl-C arrives when all of them compute."""

    def start(self, backend: str, dtype: str, threads: int) -> Worker:
        del threads
        worker = Worker("runner", self.folder(backend, dtype), backend, TESTS)
        self.started = [*getattr(self, "started", []), worker]
        if len(self.started) == 2:
            main = threading.main_thread().ident
            threading.Timer(1, signal.pthread_kill, [main, signal.SIGINT]).start()
        return worker

    def compute(self, process: Process, fault: str | None = None) -> None:
        del fault
        for _ in self.models:
            with suppress(WorkerDied):
                self.ask(process, "run", code=FOREVER)


def test_ctrl_c_ends_a_ladder_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOO_WORKER_TIMEOUT", "30")  # if it does not end
    monkeypatch.setattr("zoo.processes.machine.cores", lambda: 2)
    run = Busy(tmp_path, [("mlp", None)] * 2, Settings([NAME], ["float32", "float64"]))
    with pytest.raises(KeyboardInterrupt), run:
        run.rows()
    assert len(run.started) == 2
    assert [(worker.process.poll(), worker.hung) for worker in run.started] == [(-9, False)] * 2


# The command line: one line on standard error, and a status that says so.

INFO_WITHOUT_HOME = """
import os, pwd

def no_user(number):
    raise KeyError(number)

pwd.getpwuid = no_user
os.environ.pop("HOME", None)
os.environ.pop("KERAS_BACKEND")
from zoo.cli import main
main()
"""


def command(*words: str | bytes, close: int | None = None, **how: Any) -> subprocess.CompletedProcess[str]:
    """`zoo WORDS` in a process of its own, with one of its standard streams closed."""
    return subprocess.run(
        [sys.executable, "-m", "zoo", *words],
        check=False,
        **{
            "preexec_fn": None if close is None else partial(os.close, close),
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "encoding": "utf-8",
            **how,
        },
    )


def the_line(done: subprocess.CompletedProcess[str]) -> str:
    """The only line on standard error of a command that was not done."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("zoo: ")
    assert done.returncode == 2
    return line


@pytest.mark.parametrize("words", [["list"], ["list", "mlp", "--json"]])
def test_a_reader_that_has_gone_ends_a_command_quietly(words: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    done = command(*words, stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["list"], ["list", "mlp", "--json"]])
def test_a_full_disk_is_one_line(words: list[str]) -> None:
    with FULL.open("wb") as full:
        assert "No space left on device" in the_line(command(*words, stdout=full))


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_log_on_a_full_disk_ends_no_run(tmp_path: Path) -> None:
    """And an error that cannot be said is still one."""
    words = ("train", "mlp", "--steps", "2", "--backend", NAME, "--out", str(tmp_path / "r"))
    with FULL.open("wb") as full:
        assert command(*words, stderr=full).returncode == 0
        assert command("info", "lenet6", stderr=full).returncode == 2
    assert len(checkpoints.read(tmp_path / "r").arrays["losses"]) == 2


def test_a_log_whose_reader_has_gone_ends_no_run(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    words = ("train", "mlp", "--steps", "2", "--backend", NAME, "--out", str(tmp_path / "r"))
    assert command(*words, stderr=write).returncode == 0
    os.close(write)
    assert len(checkpoints.read(tmp_path / "r").arrays["losses"]) == 2


def test_a_file_that_a_full_disk_cuts_is_named(tmp_path: Path) -> None:
    """The limit of a file's size fails as a full disk does, with another word."""
    file = tmp_path / "log.csv"
    words = (
        "train",
        "mlp",
        "--steps",
        "2",
        "--backend",
        NAME,
        "--no-save",
        "--quiet",
        "--log",
        f"csv:{file}",
    )
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (40, 40))
    done = command(*words, preexec_fn=limit)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"zoo: OSError: File too large: {str(file)!r}"
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("stream", [0, 1, 2])
def test_a_closed_stream_stops_no_command(stream: int, tmp_path: Path) -> None:
    """The comparison starts a process, whose files would take the number of the stream."""
    words = f"compare mlp --backends {NAME} --engines native --quiet --json --out".split()
    limit = {**os.environ, "ZOO_WORKER_TIMEOUT": "0.01"}
    done = command(*words, str(tmp_path), close=stream, env=limit)
    assert (done.returncode, done.stderr) == (1, "")
    (run,) = json.loads((tmp_path / "result.json").read_text())["runs"]
    assert run["error"].startswith("sent nothing")


def test_a_name_that_is_not_utf8_is_one_line(tmp_path: Path) -> None:
    assert r"'photos\udcff' is not UTF-8; rename" in the_line(
        command("train", "mlp", "--task", b"photos\xff")
    )
    for name in (b"a", b"b\xff"):
        folder = tmp_path / os.fsdecode(name)
        folder.mkdir()
        Image.new("L", (28, 28)).save(folder / "1.png")
    line = the_line(command("train", "mlp", "--task", str(tmp_path), "--quiet", cwd=tmp_path))
    assert r"the name of folder 'b\udcff' is not UTF-8" in line


def test_without_a_home_a_model_is_shown() -> None:
    done = subprocess.run(
        [sys.executable, "-c", INFO_WITHOUT_HOME, "info", "mlp"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "235,146" in done.stdout


def test_a_folder_that_cannot_be_written_to_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    folder = tmp_path if os.geteuid() else Path("/proc")  # root may write to any other
    assert "runs" in the_line(command("train", "mlp", "--steps", "1", "--quiet", cwd=folder))
