"""The machine, its frameworks and their versions: for `zoo doctor`, and in every result."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict
from importlib import metadata
from typing import Any

from zoo import _lazy, backends
from zoo.backends import cores

# -P: do not import from the working directory, which may contain a folder named zoo.
PYTHON = (sys.executable, "-P")
PACKAGES = ("keras", "numpy", "torch", "tensorflow", "tensorflow-cpu", "jax", "jaxlib", "optax", "flax")


def environment() -> dict[str, Any]:
    """The machine and the versions, without importing a framework."""
    return {
        "platform": platform.platform(terse=True),
        "python": platform.python_version(),
        "processor": backends.processor(),
        "cores": cores(),
        "memory_gb": _memory_gb(),
        "versions": {name: v for name in PACKAGES if (v := _version(name)) is not None},
    }


def frameworks() -> dict[str, dict[str, Any]]:
    """What `describe` says of each framework, in a process of its own, or {"error": the reason}."""
    return {name: _ask(name) for name in backends.NAMES}


def describe(name: str) -> dict[str, Any]:
    """The version, devices, threads, peak memory and modes of a framework, which is imported."""
    backend = backends.load(name)
    return {
        "version": backend.version(),
        "devices": [asdict(device) for device in backend.devices()],
        "threads": backend.threads(),
        "peak_memory_mb": round(backend.peak_memory() / 2**20, 1),
        "modes": list(backends.MODES[name]),
    }


def quiet() -> dict[str, str]:
    """The environment of a process whose framework should not log to the terminal."""
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}


def _ask(name: str) -> dict[str, Any]:
    if name not in backends.installed():
        return {"error": f'not installed: pip install "keras-zoo-parity[{name}]"'}
    command = [*PYTHON, "-m", "zoo.processes.machine", name]
    environment = {**quiet(), "KERAS_BACKEND": name}  # importing TensorFlow imports Keras
    answer = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if answer.returncode:
        return {"error": last_error(answer.stderr) or f"exit status {answer.returncode}"}
    return json.loads(answer.stdout.splitlines()[-1])


def last_error(text: str) -> str:
    """The error that a process's output ends with, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Unavailable)(:|$)", line)]
    return (errors or lines or [""])[-1]


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    _lazy.leave_out_extras()
    print(json.dumps(describe(sys.argv[1])))
