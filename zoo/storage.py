"""Files and folders that users name: checked before any work, written atomically."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from zoo.errors import DataUnavailable, WrongConfiguration, ZooError


def is_file(path: str | Path) -> bool:
    """Whether this is a regular file; False for invalid names, such as too long ones, FIFOs and devices."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):
        return False


def is_dir(path: str | Path) -> bool:
    """Whether this is a folder; False for invalid names, such as too long ones."""
    try:
        return Path(path).is_dir()
    except (OSError, ValueError):
        return False


def is_utf8(name: str) -> bool:
    """Whether a name can be written to a file in UTF-8; the file system's may be any bytes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_readable(path: str | Path) -> None:
    """Raise DataUnavailable unless this is a regular file: a FIFO blocks its reader, a device has no end."""
    if is_file(path):
        return
    if is_dir(path):
        raise DataUnavailable(f"{path}: a directory; expected a file")
    try:
        Path(path).stat()
    except (OSError, ValueError):
        raise DataUnavailable(f"{path}: no such file") from None
    raise DataUnavailable(f"{path}: a FIFO or a device; expected a regular file")


@contextmanager
def reading(path: str | Path, what: str) -> Iterator[None]:
    """Turn every error of a library that reads this file into a DataUnavailable: "path: what (reason)".

    Damaged bytes raise nearly any exception; a panic of a library in Rust is not even an Exception.
    Raises DataUnavailable for what is not a regular file.
    """
    check_readable(path)
    try:
        yield
    except ZooError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataUnavailable(f"{path}: {what} ({reason(error)})") from error


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its type if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def check_file(who: str, path: str | Path) -> None:
    """Raise WrongConfiguration, before any work, unless a file can be written there."""
    path = Path(path)
    _check_name(who, path)
    if path.is_dir() or not path.name:
        raise WrongConfiguration(f"{who}: {path} is a folder; expected the name of a file")
    _check_folder(who, path.parent)


def check_folder(who: str, path: str | Path) -> None:
    """Raise WrongConfiguration, before any work, unless a folder is writable or can be created."""
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
    """A unique hidden name beside `path`, with the same ending, which determines the format."""
    ending = ".weights.h5" if path.name.endswith(".weights.h5") else path.suffix
    return path.with_name(f".{uuid4().hex[:12]}{ending}")


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file beside `path`, which it replaces once it is complete.

    Its mode follows the umask, whatever the writer sets; a symbolic link is kept and points to the new file.
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


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8 with Unix line ends, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def finite(value: Any) -> Any:
    """The same data with None for NaN and infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {name: finite(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(value: Any, default: Callable[[Any], Any] | None = None) -> str:
    """Strict JSON with null for numbers that are not finite; `default` converts what JSON cannot hold."""
    return json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False, default=default) + "\n"
