"""Files and folders that users name: checked before any work, written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from zoo.errors import WrongConfiguration


def is_file(path: str | Path) -> bool:
    """Whether this is a file; a name that the system does not allow, as one too long, is none."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


def is_dir(path: str | Path) -> bool:
    """Whether this is a folder; a name that the system does not allow, as one too long, is none."""
    try:
        return Path(path).is_dir()
    except OSError:
        return False


def check_file(who: str, path: str | Path) -> None:
    """Raise WrongConfiguration, before any work, unless a file can be written there."""
    path = Path(path)
    _check_name(who, path)
    if path.is_dir() or not path.name:
        raise WrongConfiguration(f"{who}: {path} is a folder; give the name of a file in it")
    _check_folder(who, path.parent)


def check_folder(who: str, path: str | Path) -> None:
    """Raise WrongConfiguration, before any work, unless a folder is there or can be made, to write into."""
    path = Path(path)
    _check_name(who, path)
    first = next(p for p in (path, *path.absolute().parents) if os.path.lexists(p))
    if not first.is_dir():
        raise WrongConfiguration(f"{who}: {first} is a file; expected a folder")
    _check_folder(who, first)


def _check_name(who: str, path: Path) -> None:
    try:
        path.lstat()
        _part(path).lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except (OSError, ValueError) as error:  # too long for the file system, a null character
        reason = getattr(error, "strerror", None) or error
        raise WrongConfiguration(f"{who}: {str(path)!r} cannot be written: {reason}") from None


def _check_folder(who: str, folder: Path) -> None:
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise WrongConfiguration(f"{who}: no folder {folder} that can be written to")


def _part(path: Path) -> Path:
    """A hidden name beside `path` that nothing else has, with its ending, by which formats are known."""
    ending = ".weights.h5" if path.name.endswith(".weights.h5") else path.suffix
    return path.with_name(f".{uuid4().hex[:12]}{ending}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file to write beside `path`, whose place it takes once it is complete.

    Its mode is the umask's, whatever the writer sets, and a symbolic link stays one to the new file.
    """
    path = Path(os.path.realpath(path))
    part = _part(path)
    try:
        part.touch(exist_ok=False)
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
