"""One framework a test process: KERAS_BACKEND's, else the first installed, on one thread."""

import atexit
import gc
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import lowest
import numpy as np
import pytest
import requirements
from typer.testing import CliRunner

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before anything imports TensorFlow
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background jobs of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)

import zoo
from zoo import backends, registry
from zoo._lazy import keras
from zoo.processes.workers import Worker, WorkerDied

# XLA compiles a program once, here and in every process started from here: tests build the same models again.
COMPILED = tempfile.mkdtemp(prefix="zoo-")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Half the time of JAX's tests would go by compiling programs that run for milliseconds: XLA hurries here.
# Only LeNet-5's climb in tests/test_parity.py has it as users do. Another JAX may not know these flags.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)

NAME = os.environ.get("KERAS_BACKEND") or next(iter(backends.installed()), "torch")
os.environ["KERAS_BACKEND"] = NAME  # for the processes that tests start

# Where every extra and everything of tests/requirements.py is expected: nothing is skipped for lack of it.
COMPLETE = bool({"CI", "TOX_ENV_NAME"} & os.environ.keys())
EXTRA = re.compile(r'pip install "keras-zoo-parity\[(\w+)\]"')

# torch's "compiled" is its traced graph through TorchInductor: too slow to compile for a test of every push.
QUICK_MODES = [mode for mode in backends.MODES[NAME] if mode != "compiled"]


def pytest_configure(config: pytest.Config) -> None:
    """The framework is imported before the tests, but where others run them (pytest -n)."""
    gc.set_threshold(20_000, 20, 20)  # seldom: the frameworks' tests take a twentieth less
    if not config.getoption("numprocesses", None):
        zoo.use(NAME, threads=1)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`-m peers` or `-m "parity or browser"` reads the files alone that have such tests."""
    wanted = re.findall(r"(?<!not )\b(parity|browser|peers|docs|notebooks)\b", config.option.markexpr)
    if not wanted or collection_path.suffix != ".py":
        return None
    text = collection_path.read_text(encoding="utf-8")
    return None if any(f"mark.{mark}" in text for mark in wanted) else True


def installed(extra: str) -> bool:
    """Whether the packages of an extra are there."""
    needed = lowest.PYPROJECT["project"]["optional-dependencies"][extra]
    found = {lowest.package(each.name) for each in importlib.metadata.distributions()}
    return found.issuperset(map(lowest.package, needed))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """A test that ends in the error for an extra that is not installed is skipped, except under tox."""
    try:
        return (yield)
    except Exception as error:
        extra = EXTRA.search(str(error))
        if extra is None or COMPLETE or installed(extra[1]):
            raise
        pytest.skip(f"needs the extra {extra[1]}")


@pytest.fixture(scope="module", autouse=True)
def frozen() -> None:
    """A file's tests begin without the programs of the last: JAX keeps every one, gigabytes in the end.

    What frameworks have made by now stays: no collection of garbage looks at it again.
    """
    backends.current().clear_cache()
    gc.collect()
    gc.freeze()


@pytest.fixture
def float64() -> Iterator[None]:
    """Models of float64, as `zoo.ladder.probe` makes them."""
    from zoo.ladder.probe import use_float64

    with backends.current().float64():
        use_float64()
        yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.src.backend.common.dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float32"


@pytest.fixture(params=("float32", "float64"))
def dtype(request: pytest.FixtureRequest) -> str:
    """Either float type, and models of it."""
    if request.param == "float64":
        request.getfixturevalue("float64")
    return request.param


@pytest.fixture
def registering(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test registers is forgotten behind it."""
    registry.list_models()  # the zoo's own stay
    for kept in ("_cards", "_aliases"):
        monkeypatch.setattr(registry, kept, dict(getattr(registry, kept)))


def numpy(value: Any) -> np.ndarray:
    """A tensor or variable of whichever framework runs, as NumPy."""
    return np.asarray(keras.ops.convert_to_numpy(value))


# With half of Keras's import, as in the zoo's own processes.
LEAN = "from zoo import _lazy; _lazy.leave_out_extras()\n"


def python(code: str, *, first: str = LEAN, **environment: str | None) -> str:
    """What a fresh interpreter prints; None removes a variable of its environment."""
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", first + code],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in variables.items() if value is not None},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def run(*words: str) -> str:
    """What the command prints, in this process."""
    from zoo.cli import app

    done = CliRunner().invoke(app, list(words), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


# Tests that compare frameworks share a process of each: importing them takes longer than most tests.
runners: dict[str, Worker] = {}


def pytest_unconfigure() -> None:
    for runner in runners.values():
        runner.close()


def everywhere(code: str) -> dict[str, str]:
    """What it prints on each framework. Raises WorkerDied, saying of what."""
    found = {}
    for name in backends.NAMES:
        if name not in runners:
            here = {"PYTHONPATH": str(Path(__file__).parent)}
            runners[name] = Worker("runner", Path(COMPILED, name), name, here)
        try:
            (answer,) = runners[name].ask("run", code=code)
        except WorkerDied:
            runners.pop(name).close()
            raise
        found[name] = answer["said"]
    return found


def assert_same_everywhere(code: str) -> None:
    """On each framework code prints "BACKEND WHAT", and what is the same."""
    found = dict(said.split() for said in everywhere(code).values())
    assert set(found) == set(backends.NAMES)
    assert len(set(found.values())) == 1


def missed(name: str) -> NoReturn:
    """Skip the test, which needs what this machine lacks; under tox and in CI it fails."""
    end = pytest.fail if COMPLETE else pytest.skip
    end(f"{name} is not installed: python tests/requirements.py says how")


@pytest.fixture
def compiler() -> None:
    """What torch.compile needs."""
    for each in requirements.missing():
        if each.purpose == "torch.compile":
            missed(each.name)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """A browser for the report and the documentation's site."""
    from playwright.sync_api import sync_playwright

    path = requirements.chromium() or missed("Chromium")
    quiet = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    arguments = [*quiet.split(), "--disable-component-update", "--disable-sync"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()
