"""The machine and the versions of its packages, in every result; what a framework finds here."""

from __future__ import annotations

import os
import platform
import re
import sys
from dataclasses import asdict
from importlib import metadata
from itertools import takewhile
from typing import Any

from zoo import backends
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


def last_error(text: str) -> str:
    """The error that a process's output ends with, or its last line.

    Of an error that Keras reports with the name of the layer, the reason is in the lines that follow.
    """
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", text).splitlines() if line.strip()]
    errors = [
        i for i, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception|Unavailable)(:|$)", line)
    ]
    if not errors:
        return (lines or [""])[-1]
    first, *reasons = lines[errors[-1] :]
    if "Exception encountered when calling" not in first:
        return first
    return " ".join([first, *takewhile(lambda line: not line.startswith("Arguments received"), reasons)])


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
