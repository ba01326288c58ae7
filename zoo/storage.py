"""Files and folders that users name: checked before any work, written atomically, held by one process."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from zoo.errors import DataUnavailable, WrongConfiguration, ZooError

RECENT = 1.0  # seconds in which a new part of a file may not be locked yet


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


def _beside(path: Path, ending: str) -> Path:
    """A hidden name beside `path`, the same for every process, of any length of its own name."""
    return path.with_name(f".{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}{ending}")


def _part(path: Path) -> Path:
    """`path`, by its own name, in a hidden folder of a unique name beside it."""
    return _beside(path, f"-{uuid4().hex[:12]}.part") / path.name


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A new file, which replaces `path` once it is complete and on the disk.

    It is in a folder of its own beside `path`, with whatever its writer leaves beside it; folders of killed
    processes are removed. Its mode follows the umask, whatever the writer sets; a symbolic link is kept and
    points to the new file.
    """
    path = Path(os.path.realpath(path))
    _remove_leftovers(path)
    part = _part(path)
    part.parent.mkdir()
    descriptor = os.open(part.parent, os.O_RDONLY)
    try:
        _lock(descriptor)
        part.touch(exist_ok=False)
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)
        _sync(part)
        part.replace(path)
        _sync(path.parent)
    except OSError as error:
        if error.errno is not None and error.filename is None:  # of a write, which knows no name
            error.filename = str(path)
        raise
    finally:
        shutil.rmtree(part.parent, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def new_folder(path: str | Path) -> Iterator[Path]:
    """A folder to write to, which becomes `path` once it is complete and on the disk.

    Until then it is in a hidden one beside `path`; those of killed processes are removed. Raises
    WrongConfiguration where there is something at `path` by then.
    """
    path = Path(path).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    part = _part(path)
    part.mkdir(parents=True)
    descriptor = os.open(part.parent, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield part
        for each in (*part.rglob("*"), part):
            _sync(each)
        if os.path.lexists(path):
            raise WrongConfiguration(f"{path} exists already; give a new folder, or remove it")
        part.rename(path)
        _sync(path.parent)
    finally:
        shutil.rmtree(part.parent, ignore_errors=True)
        os.close(descriptor)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system on which folders cannot be synchronized
            raise
    finally:
        os.close(descriptor)


def _remove_leftovers(path: Path) -> None:
    """Remove the unfinished files of processes that were killed while they replaced `path`."""
    for folder in path.parent.glob(_beside(path, "-*.part").name):
        with suppress(OSError):  # removed by another process
            recent = time.time() - folder.stat().st_mtime < RECENT
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                if not recent and _lock(descriptor) is True:
                    shutil.rmtree(folder)
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock a file or folder until it is closed; False if it is locked, None where there are no locks.

    The kernel ends the lock of a process however the process ends.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # some network file systems
        return None
    return True


@contextmanager
def held(who: str, path: str | Path | None) -> Iterator[None]:
    """Within, this process alone writes `path`; a missing folder for it is made, and removed if still empty.

    Raises WrongConfiguration where another process, or another thread of this one, holds it.
    """
    if path is None:
        yield
        return
    path = Path(os.path.realpath(path))
    file = _beside(path, ".lock")
    made = [folder for folder in path.parents if not folder.exists()]
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _take(who, path, file)
    try:
        yield
    finally:
        with suppress(OSError):  # the folder may be gone
            file.unlink()
        os.close(descriptor)
        for folder in made:
            with suppress(OSError):  # there is something in it
                folder.rmdir()


def _take(who: str, path: Path, file: Path) -> int:
    """Create and lock the file, with the process's number in it."""
    while True:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        if _lock(descriptor) is False:
            owner = os.read(descriptor, 20).decode() or "unknown"
            os.close(descriptor)
            raise WrongConfiguration(
                f"{who}: {path} is being written by another run, process {owner}; wait until it ends, or "
                "give another path"
            )
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.stat()):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, str(os.getpid()).encode())
                return descriptor
        os.close(descriptor)  # of a run that has just ended, and removed it


def write_text(path: str | Path, text: str) -> None:
    """Write a file in UTF-8 with Unix line ends, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8", newline="\n")


def read_toml(path: Path, expected: str) -> dict[str, Any]:
    """The content of a TOML file; `expected` is what an error says of one that is not there.

    Raises DataUnavailable, and WrongConfiguration for a file that is not TOML.
    """
    if not is_file(path):
        raise DataUnavailable(f"{path}: {expected}")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise WrongConfiguration(f"{path}: not a TOML file: {error}") from None


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
