"""One framework a test process: KERAS_BACKEND's, else the first installed, on one thread."""

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before anything imports TensorFlow

import zoo
from zoo import backends
from zoo._lazy import keras

# XLA compiles a program once, here and in every process started from here: tests build the same models again.
COMPILED = tempfile.mkdtemp(prefix="zoo-")
atexit.register(shutil.rmtree, COMPILED, ignore_errors=True)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", COMPILED)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
# Half the time of JAX's tests would go by compiling programs that run for milliseconds: XLA hurries here.
# Only tests/test_parity.py has it as users do. Another JAX may not know these flags, and says so.
QUICK_TO_COMPILE = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
)
os.environ.setdefault("XLA_FLAGS", QUICK_TO_COMPILE)

NAME = os.environ.get("KERAS_BACKEND") or next(iter(backends.installed()), "torch")
zoo.use(NAME, threads=1)

# torch's "compiled" is its traced graph through TorchInductor: too slow to compile for a test of every push.
QUICK_MODES = [mode for mode in backends.MODES[NAME] if mode != "compiled"]


@pytest.fixture
def float64() -> Iterator[None]:
    """Models of float64, as `zoo.probe` makes them; JAX needs JAX_ENABLE_X64=1 for that."""
    from zoo.probe import use_float64

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


def numpy(value: Any) -> np.ndarray:
    """A tensor or variable of whichever framework runs, as NumPy."""
    return np.asarray(keras.ops.convert_to_numpy(value))


def python(code: str, **environment: str | None) -> str:
    """What a fresh interpreter prints; None removes a variable of its environment."""
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={name: value for name, value in variables.items() if value is not None},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def assert_same_everywhere(code: str) -> None:
    """On each framework code prints "BACKEND WHAT", and what is the same."""
    found = dict(python(code, KERAS_BACKEND=name).split() for name in backends.NAMES)
    assert set(found) == set(backends.NAMES)
    assert len(set(found.values())) == 1
