"""zoo shard, and object stores: whole or not at all, bad rows by their names, the same training from S3.

    pytest -m workers tests/test_shards_writing.py

also trains on two processes and from a local server of S3's interface (moto and s3fs), and measures memory.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import NAME, run
from PIL import Image
from test_shards import SIDE, facts, photos, story, texts, train

import zoo
from zoo import tasks, tokenizers
from zoo.processes.machine import PYTHON
from zoo.tasks import shards_writing, text

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
pq = pytest.importorskip("pyarrow.parquet")

once = pytest.mark.once


def pictures(task: Any) -> list[bytes]:
    """The images of both splits, with their labels, in the order of their bytes."""
    return [
        sorted(image.tobytes() + bytes([label]) for image, label in zip(x[:], y, strict=True))
        for x, y in (task.train, task.test)
    ]


@once
def test_shards_have_the_examples_and_the_split_of_the_folder(tmp_path: Path) -> None:
    photos(tmp_path / "photos")
    printed = run("shard", str(tmp_path / "photos"), str(tmp_path / "out"), "--rows", "7", "--lanes", "8")
    assert "out: images, train 96 rows in 14 groups, test 24 rows in 4 groups, 8 lanes" in printed
    ours, theirs = (tasks.load(str(tmp_path / name), (SIDE, SIDE, 3)) for name in ("out", "photos"))
    assert ours.names == theirs.names
    assert pictures(ours) == pictures(theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "photos"]
    files = {path.read_bytes() for path in (tmp_path / "photos").rglob("*.png")}
    stored = {
        bytes(value) for split in ("train", "test")
        for value in pq.read_table(tmp_path / "out" / split / "00000.parquet")["image"].to_pylist()
    }  # fmt: skip
    assert stored == files


@once
def test_given_splits_are_kept(tmp_path: Path) -> None:
    for split, each in (("train", 5), ("val", 2)):
        photos(tmp_path / "photos" / split, each)
    shards_writing.write(tmp_path / "photos", tmp_path / "out")
    task = tasks.load(str(tmp_path / "out"), (SIDE, SIDE, 3))
    assert task.test is not None
    assert (len(task.train[0]), len(task.test[0])) == (15, 6)


@once
def test_held_out_examples_are_another_folder(tmp_path: Path) -> None:
    photos(tmp_path / "photos", 5)
    photos(tmp_path / "more", 2)
    (tmp_path / "more" / "cat").rename(tmp_path / "more" / "owl2")
    with pytest.raises(zoo.DataUnavailable, match="classes that the training examples lack: owl2"):
        shards_writing.write(tmp_path / "photos", tmp_path / "out", test=tmp_path / "more")
    (tmp_path / "more" / "owl2").rename(tmp_path / "more" / "cat")
    shards_writing.write(tmp_path / "photos", tmp_path / "out", test=tmp_path / "more")
    task = tasks.load(str(tmp_path / "out"), (SIDE, SIDE, 3))
    assert task.test is not None
    assert (len(task.train[0]), len(task.test[0])) == (15, 6)


@once
def test_texts_and_tokens_are_those_of_the_file(tmp_path: Path) -> None:
    file, book = texts(tmp_path / "texts.jsonl"), story(tmp_path / "story.txt")
    run("shard", str(file), str(tmp_path / "t"), "--rows", "9")
    table = text.table(file)
    ours = tasks.load(str(tmp_path / "t"), (None,))
    for split, (contents, labels) in {"train": table.train, "test": table.test}.items():
        found = pq.read_table(tmp_path / "t" / split / "00000.parquet").to_pylist()
        theirs = zip(contents, labels.tolist(), strict=True)
        assert sorted((row["text"], row["label"]) for row in found) == sorted(theirs)
    assert ours.names == table.classes
    run("shard", str(book), str(tmp_path / "b"), "--tokenizer", "default")
    own = tokenizers.load(tmp_path / "b" / "tokenizer.json")
    ours, theirs = (tasks.load(str(path), (None,), tokenizer=own) for path in (tmp_path / "b", book))
    for split in ("train", "test"):
        (x, y), (other, labels) = getattr(ours, split), getattr(theirs, split)
        for a, b in ((x, other), (y, labels)):
            assert sorted(map(tuple, a[:].tolist())) == sorted(map(tuple, b.tolist()))
    assert ours.tokens_per_character == theirs.tokens_per_character


@once
def test_bad_rows_are_named_and_nothing_is_written_unless_they_are_skipped(tmp_path: Path) -> None:
    root, out = photos(tmp_path / "photos", 5), tmp_path / "out"
    (root / "cat" / "1.png").write_bytes((root / "cat" / "1.png").read_bytes()[:90])
    (root / "owl" / "2.png").write_text("no image")
    with pytest.raises(zoo.DataUnavailable) as caught:
        shards_writing.write(root, out)
    for name in ("2 bad rows", "cat/1.png: ", "owl/2.png: not an image", "--skip-bad", "Nothing was written"):
        assert name in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    written = json.loads(run("shard", str(root), str(out), "--skip-bad", "--json", "--quiet"))
    assert sum(written["rows"].values()) == 13
    assert len(written["skipped"]) == 2
    assert len(tasks.load(str(out), (SIDE, SIDE, 3)).train[0]) == written["rows"]["train"]


@once
def test_lines_with_wrong_labels_are_named(tmp_path: Path) -> None:
    file, out = texts(tmp_path / "texts.jsonl", 30), tmp_path / "out"
    file.write_text('{"text": "x", "label": [1]}\n' + file.read_text() + '\n{"label": "a"}\n')
    with pytest.raises(zoo.DataUnavailable, match=r"texts.jsonl: line 1: 'label' is \[1\].*line 32: no key"):
        shards_writing.write(file, out)
    assert not out.exists()
    written = shards_writing.write(file, out, skip_bad=True)
    assert [name.partition(": ")[2][:8] for name in written["skipped"]] == ["line 1: ", "line 32:"]
    assert sum(written["rows"].values()) == 30
    table = tmp_path / "photos.csv"
    photos(tmp_path / "photos", 4)
    rows = [f"photos/{name}/{i}.png,{name}" for name in ("cat", "dog") for i in range(4)]
    table.write_text("\n".join(["path,label", *rows, "photos/owl/1.png,", "photos/none.png,cat", ""]))
    with pytest.raises(zoo.DataUnavailable, match=r"photos.csv: line 10: path or label missing"):
        shards_writing.write(table, tmp_path / "table")
    written = shards_writing.write(table, tmp_path / "table", skip_bad=True)
    assert sum(written["rows"].values()) == 8
    assert [("line 10" in name, "none.png: no such file" in name) for name in written["skipped"]] == [
        (True, False), (False, True),
    ]  # fmt: skip


@once
def test_a_writer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", 5)

    def stop(done: int, total: int) -> None:
        assert total == 15
        if done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shards_writing.write(root, tmp_path / "out", rows=2, progress=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]
    (tmp_path / "out").mkdir()
    with pytest.raises(zoo.WrongConfiguration, match="out exists already"):
        shards_writing.write(root, tmp_path / "out")


@once
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lanes": 65}, "lanes=65; expected 1 to 64"),
        ({"rows": 0}, "rows=0"),
        ({"tokenizer": tokenizers.ByteTokenizer()}, "tokenizer= goes with texts"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        shards_writing.write(photos(tmp_path / "photos", 2), tmp_path / "out", **options)


@once
def test_pairs_and_recordings_are_not_written(tmp_path: Path) -> None:
    (tmp_path / "pairs.tsv").write_text("a\tb\nc\td\n")
    with pytest.raises(zoo.WrongConfiguration, match="pairs of texts and recordings are not written"):
        shards_writing.write(tmp_path / "pairs.tsv", tmp_path / "out")


# --- object stores ---


@once
def test_a_data_set_in_memory_is_that_of_the_folder(tmp_path: Path) -> None:
    root = photos(tmp_path / "photos", 5)
    shards_writing.write(root, "memory://bucket/photos", rows=2)
    shards_writing.write(root, tmp_path / "out", rows=2)
    ours, theirs = (
        list(tasks.load(str(name), (SIDE, SIDE, 3)).batches(4, 0, 0))
        for name in ("memory://bucket/photos", tmp_path / "out")
    )
    for (x, y), (other, labels) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(x, other)
        np.testing.assert_array_equal(y, labels)
    with pytest.raises(zoo.WrongConfiguration, match=r"photos/shards.json exists already"):
        shards_writing.write(root, "memory://bucket/photos")


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket of a local server of S3's interface."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "NO_PROXY": "*",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import fsspec

    fsspec.filesystem("s3").mkdir("photos")
    yield "s3://photos"
    server.stop()


@pytest.mark.workers
def test_training_from_an_object_store_is_that_from_a_disk(bucket: str, tmp_path: Path) -> None:
    root, address = photos(tmp_path / "photos", 10), f"{bucket}/of/animals"
    run("shard", str(root), address, "--rows", "4")
    run("shard", str(root), str(tmp_path / "out"), "--rows", "4")
    ours, theirs = (train(data, steps=4) for data in (address, tmp_path / "out"))
    assert ours.losses == theirs.losses
    assert ours.metrics == theirs.metrics
    assert ours.task.source == address
    assert zoo.evaluate(ours, address)["examples"] == 6
    with pytest.raises(zoo.DataUnavailable, match=r"s3://photos/none/shards.json: no such file"):
        train(f"{bucket}/none", steps=1)


# --- processes ---


@pytest.mark.workers
@pytest.mark.parametrize("kind", ["shards", "folder"])
def test_two_workers_have_the_losses_of_one(kind: str, tmp_path: Path) -> None:
    data = photos(tmp_path / "photos")
    if kind == "shards":
        shards_writing.write(tmp_path / "photos", data := tmp_path / "shards", rows=5, lanes=8)
    found = []
    for workers in (1, 2):
        out = tmp_path / str(workers)
        command = [*PYTHON, "-m", "zoo", "train", "lenet5", str(data), "--workers", str(workers)]
        command += ["--epochs", "2", "--batch-size", "16", "--augment", "HorizontalFlip, MixUp(0.2)"]
        command += ["--accumulate", "2", "--quiet", "--out", str(out)]
        environment = {**os.environ, "KERAS_BACKEND": NAME, "PYTHONPATH": str(Path(zoo.__file__).parents[1])}
        subprocess.run(command, check=True, env=environment, capture_output=True, timeout=600)
        found.append(zoo.checkpoints.read(out))
    assert found[0].arrays["losses"].shape == (12,)
    np.testing.assert_allclose(found[1].arrays["losses"], found[0].arrays["losses"], rtol=1e-6)
    assert found[1].facts["history"][-1] == pytest.approx(found[0].facts["history"][-1], rel=1e-5)


EPOCH = """
import re, sys
from pathlib import Path
from zoo import tasks
task = tasks.load(sys.argv[1], (64, 64, 3))
for x, y in task.batches(32, 0, 0):
    pass
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.workers
@once
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    """The peak of an epoch over 10 MB of images, and over 80 MB, of which lanes hold 3 MB."""
    peaks = []
    for each in (334, 2672):
        rng, root = np.random.default_rng(0), tmp_path / str(each)
        for name in ("cat", "dog", "owl"):
            (root / name).mkdir(parents=True)
            for i in range(each):
                Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(root / name / f"{i}.png")
        shards_writing.write(root, tmp_path / f"{each}-shards", rows=16)
        done = subprocess.run(
            [*PYTHON, "-c", EPOCH, str(tmp_path / f"{each}-shards")],
            capture_output=True,
            text=True,
            check=True,
        )
        peaks.append(int(done.stdout))
    size = [
        sum(f["bytes"] for f in facts(tmp_path / f"{n}-shards")["splits"]["train"]["files"])
        for n in (334, 2672)
    ]
    print("bytes", size, "peak KiB", peaks)
    assert size[1] > 7.9 * size[0]
    assert peaks[1] < 1.1 * peaks[0]
