"""Weights from the Hugging Face hub: "hf://owner/name[/file][@revision]", by huggingface_hub and its cache.

HF_ENDPOINT, HF_HOME, HF_HUB_OFFLINE and HF_TOKEN have their usual meaning.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.weights.files import NAMES, parts

REFERENCE = re.compile(r"hf://([^/@]+/[^/@]+)(?:/([^@]+))?(?:@(.+))?")  # repository, file, revision


def fetch(reference: str) -> Path:
    """The file's path in the cache, downloaded if necessary; of a sharded model the index, with all parts.

    An interrupted download is resumed. Raises WrongConfiguration for an invalid reference, DataUnavailable
    for a file that cannot be downloaded or whose checksum is wrong.
    """
    match = REFERENCE.fullmatch(reference)
    if match is None:
        raise WrongConfiguration(f"{reference!r}: expected hf://owner/name[/file][@revision]")
    repository, file, revision = match.groups()
    try:
        return _first(repository, [file] if file else NAMES, revision)
    except DataUnavailable:
        raise
    except ImportError:
        raise DataUnavailable(
            f"{reference}: huggingface_hub is not installed. To install it: "
            'pip install "keras-zoo-parity[hub]"'
        ) from None
    except Exception as error:  # the errors depend on the HTTP client of huggingface_hub
        reason = " ".join(str(error).split())
        raise DataUnavailable(f"{reference}: {type(error).__name__}: {reason}") from error


def _first(repository: str, names: Sequence[str], revision: str | None) -> Path:
    """The first of these files that the repository has."""
    from huggingface_hub.errors import EntryNotFoundError

    for name in names[:-1]:
        try:
            return _with_parts(repository, name, revision)
        except EntryNotFoundError:  # offline: not in the cache
            continue
    return _with_parts(repository, names[-1], revision)


def _with_parts(repository: str, name: str, revision: str | None) -> Path:
    path = _download(repository, name, revision)
    if name.endswith(".index.json"):
        for part in sorted(set(parts(path).values())):
            _download(repository, str(PurePosixPath(name).parent / part), revision)
    return path


def _download(repository: str, name: str, revision: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    path = Path(hf_hub_download(repository, name, revision=revision))
    # The cache names large files by their SHA-256; the library itself compares only sizes.
    expected = path.readlink().name if path.is_symlink() else ""
    if re.fullmatch(r"[0-9a-f]{64}", expected):
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != expected:
            raise DataUnavailable(
                f"hf://{repository}/{name}: damaged, its SHA-256 is {found}, the hub's {expected}; delete "
                f"{path.resolve()} and load again"
            )
    return path
