"""What the tests need besides Python packages: `python tests/requirements.py` says what is missing.

tox runs it first, before it installs anything: the standard library alone.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MAC_BROWSERS = ("Chromium.app/Contents/MacOS/Chromium", "Google Chrome.app/Contents/MacOS/Google Chrome")


class Requirement(NamedTuple):
    """What is needed, for what, as which package of Debian, by which command on macOS."""

    name: str
    purpose: str
    debian: str
    macos: str


def chromium() -> str | None:
    """Where Chromium or Chrome is."""
    paths = [shutil.which(name) for name in BROWSERS]
    paths += [str(path) for name in MAC_BROWSERS if (path := Path("/Applications", name)).exists()]
    return next(filter(None, paths), None)


def missing() -> Iterator[Requirement]:
    """What this machine lacks."""
    python, xcode = f"python{sys.version_info[0]}.{sys.version_info[1]}", "xcode-select --install"
    if not any(shutil.which(name) for name in (os.environ.get("CXX"), "g++", "clang++") if name):
        yield Requirement("a C++ compiler", "torch.compile", "g++", xcode)
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        yield Requirement(f"the headers of {python}", "torch.compile", f"{python}-dev", xcode)
    if importlib.util.find_spec("ensurepip") is None:
        yield Requirement(f"{python}'s venv", "the wheel's test", f"{python}-venv", "brew install python")
    if chromium() is None:
        browser = "brew install --cask google-chrome"
        yield Requirement("Chromium", "the tests of the report and the site", "chromium", browser)


def message(lacking: list[Requirement]) -> str:
    """What is missing, and the command that installs it."""
    lines = [f"  {each.name}, for {each.purpose}" for each in lacking]
    debian = " ".join(each.debian for each in lacking)
    macos = "; ".join(dict.fromkeys(each.macos for each in lacking))
    install = [f"  Debian, Ubuntu:  apt-get install {debian}", f"  macOS:           {macos}"]
    return "\n".join(["This machine lacks what the tests need:", *lines, "To install:", *install])


if __name__ == "__main__":
    if lacking := list(missing()):
        sys.exit(message(lacking))
