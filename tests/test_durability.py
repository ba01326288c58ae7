"""Files and runs that survive: kills, full disks, flipped bits, two runs on one path."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from zoo import storage


def process(code: str, *words: object) -> subprocess.Popen[str]:
    """A fresh interpreter that runs this code, `words` its arguments."""
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# --- files ---

HALF = """
import sys, time
from pathlib import Path
from zoo import storage
with storage.replacing(sys.argv[1]) as part:
    part.write_text("half")
    part.with_name(".tmpA1b2C3").write_text("as safetensors' own writer leaves it")
    print("half", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leftovers are removed at once, and not after the second in which they may be new."""
    monkeypatch.setattr(storage, "RECENT", 0.0)


@pytest.mark.once
@pytest.mark.usefixtures("old")
def test_what_a_killed_writer_leaves_is_removed_when_the_file_is_saved_again(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    path.write_text("old")
    writer = process(HALF, path)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "half\n"
    storage.write_text(path, "another's")  # a writer that is at work keeps what it has
    assert len(list(tmp_path.iterdir())) == 2
    writer.kill()
    writer.communicate()
    assert path.read_text() == "another's"
    assert len(list(tmp_path.iterdir())) == 2
    storage.write_text(path, "new")
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "new"


@pytest.mark.once
def test_a_file_is_on_the_disk_before_it_has_its_name_and_its_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file.txt"
    events: list[int | str] = []
    sync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        events.append(os.fstat(descriptor).st_ino)
        sync(descriptor)

    def replaced(part: Path, target: Path) -> Path:
        events.append("rename")
        return replace(part, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    storage.write_text(path, "new")
    assert events == [path.stat().st_ino, "rename", tmp_path.stat().st_ino]
