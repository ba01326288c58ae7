"""Data in shards: one order for any number of workers, from any batch on, and no reading beyond it."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from zoo.backends.world import OwnRows, even_rows

import zoo
from zoo import augment, optimizers, tasks, training
from zoo.tasks import shards_parquet, shards_writing
from zoo.tasks.shards import FILE, Order, find, split_of

pa = pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")
pq = pytest.importorskip("pyarrow.parquet")

once = pytest.mark.once
CLASSES = ("cat", "dog", "owl")
SIDE = 8


def photos(root: Path, each: int = 40) -> Path:
    """Images of noise around a grey of their class."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(CLASSES):
        (root / name).mkdir(parents=True)
        for i in range(each):
            pixels = rng.integers(0, 80, (SIDE, SIDE, 3)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def texts(path: Path, number: int = 150) -> Path:
    rng = np.random.default_rng(1)
    rows = [
        {"text": "abc"[i % 3] * int(rng.integers(1, 40)) + str(i), "label": "abc"[i % 3]}
        for i in range(number)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def story(path: Path) -> Path:
    words = np.random.default_rng(2).choice(["the", "cat", "sat", "on", "a", "mat"], 6000)
    path.write_text(" ".join(words))
    return path


# kind -> (what is written, the shape of a model's input)
KINDS: dict[str, tuple[Any, Any]] = {
    "images": (lambda folder: photos(folder / "photos"), (SIDE, SIDE, 3)),
    "texts": (lambda folder: texts(folder / "texts.jsonl"), {"token_ids": (None,), "padding_mask": (None,)}),
    "tokens": (lambda folder: story(folder / "story.txt"), (None,)),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A data set of each kind, in 8 lanes and groups of 5 rows."""
    folder = tmp_path_factory.mktemp("sets")
    for kind, (make, _) in KINDS.items():
        shards_writing.write(make(folder), folder / kind, rows=5, lanes=8)
    return {kind: folder / kind for kind in KINDS}


def load(path: Any, kind: str, **changes: Any) -> tasks.Task:
    task = tasks.load(str(path), KINDS[kind][1])
    return replace(task, **changes)


def flat(made: Any) -> list[np.ndarray]:
    return list(made.values()) if isinstance(made, dict) else [made]


def same(ours: Any, theirs: Any) -> None:
    for a, b in zip(ours, theirs, strict=True):
        for one, other in zip(flat(a), flat(b), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, int]]:
    """How often each row group is read, by its file."""
    counts: Counter[tuple[str, int]] = Counter()
    read = shards_parquet.Shard.read

    def counted(self: shards_parquet.Shard, group: int) -> dict[str, Any]:
        counts[self.name, group] += 1
        return read(self, group)

    monkeypatch.setattr(shards_parquet.Shard, "read", counted)
    return counts


# --- the order ---


SIZES = np.random.default_rng(0).integers(1, 70, 60)
ORDERS = [(28, 16, 32), (28, 16, 12), (3, 16, 8), (40, 8, 20), (1, 4, 7), (7, 64, 64), (13, 6, 9), (5, 1, 3)]


@once
@pytest.mark.parametrize(("groups", "lanes", "batch"), ORDERS)
def test_an_epoch_has_every_row_once_and_every_epoch_another_order(
    groups: int, lanes: int, batch: int
) -> None:
    sizes = SIZES[:groups]
    orders = [Order(sizes, lanes, 0, epoch) for epoch in range(2)]
    found = [np.concatenate([rows for _, rows in order.batches(batch)]) for order in orders]
    for rows in found:
        np.testing.assert_array_equal(np.sort(rows), np.arange(sizes.sum()))
    assert not np.array_equal(*found)


@once
@pytest.mark.parametrize(
    ("groups", "lanes", "batch", "workers"),
    [(*order, n) for order in ORDERS for n in (2, 4) if not (order[1] % n or order[2] % n)],
)
def test_a_workers_rows_are_those_of_its_lanes(groups: int, lanes: int, batch: int, workers: int) -> None:
    for lane, _ in list(Order(SIZES[:groups], lanes, 0, 0).batches(batch))[:-1]:
        for rank in range(workers):
            assert set(lane[even_rows(batch, rank, workers)] * workers // lanes) == {rank}


# --- the batches ---


AUGMENT = {"images": "HorizontalFlip, MixUp(0.2), CutMix", "texts": "RandomSwap(0.3)", "tokens": ""}


@once
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("changed", [False, True])
@pytest.mark.parametrize("batch", [16, 12])
def test_the_batches_are_the_same_for_any_number_of_workers(
    kind: str, changed: bool, batch: int, sets: dict[str, Path]
) -> None:
    changes = {"augment": augment.parse(AUGMENT[kind])} if changed and AUGMENT[kind] else {}
    if changes and kind == "texts":
        task = replace(tasks.load(str(sets[kind]), (None,)), **changes)
    else:
        task = load(sets[kind], kind, **changes)
    whole = list(task.batches(batch, 3, 1))
    for workers in (2, 4):
        parts = [
            list(task.batches(batch, 3, 1, own=partial(even_rows, rank=rank, size=workers)))
            for rank in range(workers)
        ]
        for number, (x, y) in enumerate(whole):
            for rank, part in enumerate(parts):
                rows = even_rows(len(y), rank, workers)
                for ours, theirs in zip(flat(part[number][0]), flat(x), strict=True):
                    assert ours.shape == theirs.shape
                    np.testing.assert_array_equal(ours[rows], theirs[rows])
                np.testing.assert_array_equal(part[number][1][rows], y[rows])
                if rows != slice(0, len(y)) and not (changes and kind == "texts"):
                    assert isinstance(part[number][1], OwnRows)


@once
def test_rows_of_another_worker_are_not_there() -> None:
    own = OwnRows(np.arange(4), 4, 8)
    np.testing.assert_array_equal(own[4:8], np.arange(4))
    for other in (slice(0, 4), slice(3, 5), slice(6, 9)):
        with pytest.raises(IndexError, match="another worker's"):
            own[other]


@once
@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_has_the_rows_that_pyarrow_reads(kind: str, sets: dict[str, Path]) -> None:
    table = pa.concat_tables(pq.read_table(file) for file in sorted((sets[kind] / "train").glob("*.parquet")))
    if kind == "images":
        theirs = [(_pixels(row["image"]), row["label"]) for row in table.to_pylist()]
    elif kind == "texts":
        theirs = [(row["text"], row["label"]) for row in table.to_pylist()]
    else:
        theirs = [(bytes(v - 3 for v in row["tokens"]), 0) for row in table.to_pylist()]
    task = load(sets[kind], kind)
    for epoch in range(2):
        ours = []
        for x, y in task.batches(16, 0, epoch):
            for i in range(len(y)):
                if kind == "images":
                    ours.append((np.rint(x[i] * 255).astype(np.uint8).tobytes(), int(y[i])))
                elif kind == "texts":
                    tokens = x["token_ids"][i][x["padding_mask"][i] == 1]
                    ours.append((text_of(tokens), int(y[i])))
                else:
                    ours.append((bytes(int(v) - 3 for v in [*x[i], y[i][-1]]), 0))
        assert Counter(ours) == Counter(theirs)


def _pixels(data: bytes) -> bytes:
    import io

    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()


def text_of(tokens: np.ndarray) -> str:
    return bytes(int(v) - 3 for v in tokens).decode()


@once
@pytest.mark.parametrize("readers", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_an_epoch_goes_on_at_any_batch_and_reads_what_remains(
    kind: str, readers: int, sets: dict[str, Path], reads: Counter[tuple[str, int]]
) -> None:
    task = load(sets[kind], kind).read_by(readers)
    split: Any = split_of(task.train[0])
    whole, lanes = list(task.batches(16, 0, 2)), split.lanes
    for first in range(len(whole)):
        rows = np.concatenate([rows for _, rows in split.order(0, 2).batches(16, first)])
        remain = len(set(split.groups_of(rows)))
        reads.clear()
        split.last = None
        task.first(1)  # as a run that begins
        for ours, theirs in zip(task.batches(16, 0, 2, first), whole[first:], strict=True):
            same(ours, theirs)
        assert sum(reads.values()) <= remain + lanes


@once
@pytest.mark.parametrize("workers", [2, 4])
def test_a_worker_reads_the_row_groups_of_its_lanes(
    workers: int, sets: dict[str, Path], reads: Counter[tuple[str, int]]
) -> None:
    task, groups = load(sets["images"], "images"), len(find(str(sets["images"])).splits["train"].sizes)
    for rank in range(workers):
        reads.clear()
        assert len(list(task.batches(16, 0, 0, own=partial(even_rows, rank=rank, size=workers)))) == 6
        assert sum(reads.values()) <= groups / workers + 8 / workers


@once
@pytest.mark.parametrize("workers", [2, 3])
def test_a_worker_evaluates_rows_that_follow_each_other(
    workers: int, sets: dict[str, Path], reads: Counter[tuple[str, int]]
) -> None:
    """All batches are evaluated once; a row group is read by two workers where their rows meet in it."""
    task, groups = load(sets["images"], "images"), len(find(str(sets["images"])).splits["train"].sizes)
    whole, parts = list(task.held_out(4, "train")), []
    for rank in range(workers):
        reads.clear()
        parts += task.held_out(4, "train", rank, workers)
        assert sum(reads.values()) <= groups / workers + 2
    for ours, theirs in zip(parts, whole, strict=True):
        same(ours, theirs)


@once
def test_workers_read_the_files_of_their_own_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a folder of images, too, and with those that they are mixed with."""
    task = tasks.folder(photos(tmp_path / "photos"), (SIDE, SIDE, 3), augment="MixUp(0.2)")
    opened: list[Path] = []
    read = tasks.folders.Images.open
    monkeypatch.setattr(
        tasks.folders.Images, "open", lambda self, path: (opened.append(path), read(self, path))[1]
    )
    whole = list(task.batches(16, 0, 0))
    for rank in range(2):
        opened.clear()
        found = list(task.batches(16, 0, 0, own=partial(even_rows, rank=rank, size=2)))
        assert len(opened) == len(whole) * 9
        for (x, y), (ours, labels) in zip(whole, found, strict=True):
            rows = even_rows(len(y), rank, 2)
            np.testing.assert_array_equal(ours[rows], x[rows])
            np.testing.assert_array_equal(labels[rows], y[rows])


# --- training ---


def train(data: Any, **options: Any) -> zoo.Run:
    model = zoo.build("mlp", shape=(SIDE, SIDE, 3), widths=(6,), classes=3)
    return zoo.train(model, str(data), **{"batch_size": 16, "progress": False, **options})


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_is_resumed_within_an_epoch_to_the_bit(
    engine: str, sets: dict[str, Path], tmp_path: Path
) -> None:
    options = {"engine": engine, "augment": "HorizontalFlip, MixUp(0.2)"}
    whole = train(sets["images"], steps=15, optimizer=optimizers.Momentum(0.1), **options)
    for stop in (4, 9):
        file = tmp_path / f"{stop}.safetensors"
        own = optimizers.Momentum(0.1)
        train(sets["images"], steps=stop, checkpoint=file, optimizer=own, **options)
        ours = train(sets["images"], steps=15, resume=file, **options)
        assert ours.losses == whole.losses
        assert ours.metrics == whole.metrics


@once
@pytest.mark.parametrize(("name", "kind"), [("lstm", "texts"), ("gpt-nano", "tokens")])
def test_models_of_texts_and_tokens_are_trained(name: str, kind: str, sets: dict[str, Path]) -> None:
    run = zoo.train(name, str(sets[kind]), steps=2, batch_size=16, progress=False)
    assert run.metrics.keys() >= {"accuracy", "loss"}
    assert zoo.evaluate(run)["examples"] == len(run.task.test[1])


@once
def test_a_run_is_not_resumed_on_other_shards(sets: dict[str, Path], tmp_path: Path) -> None:
    other, file = tmp_path / "images", tmp_path / "run.safetensors"
    shards_writing.write(photos(tmp_path / "photos"), other, rows=6, lanes=8)
    train(sets["images"], steps=2, checkpoint=file)
    with pytest.raises(zoo.WrongConfiguration, match="other training examples"):
        train(other, steps=4, resume=file)


# --- files that are not as they were written ---


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / FILE).read_text())


def change_facts(folder: Path, change: Any) -> None:
    found = facts(folder)
    change(found)
    (folder / FILE).write_text(json.dumps(found))


def rewrite(folder: Path, table: Any, rows: int = 1000) -> None:
    """Another table in the place of the first file, of whose size the list knows."""
    file = folder / "train" / "00000.parquet"
    pq.write_table(table, file, row_group_size=rows)
    change_facts(folder, lambda it: it["splits"]["train"]["files"][0].update(bytes=file.stat().st_size))


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def overwritten(folder: Path) -> None:
    file = folder / "train" / "00000.parquet"
    file.write_bytes(b"x" * file.stat().st_size)


def first_file(folder: Path) -> Any:
    return pq.read_table(folder / "train" / "00000.parquet")


DAMAGE: dict[str, tuple[Any, str]] = {
    "truncated": (
        lambda it: shortened(it / "train" / "00000.parquet"),
        r"00000.parquet: [\d,]+ bytes, expected [\d,]+: truncated or changed. Copy it again",
    ),
    "no Parquet": (overwritten, "00000.parquet: cannot be read"),
    "missing": (lambda it: (it / "train" / "00000.parquet").unlink(), "00000.parquet: no such file"),
    "empty": (
        lambda it: rewrite(it, first_file(it).slice(0, 0)),
        "00000.parquet: row groups of 0 rows; expected 5, 5",
    ),
    "no label": (
        lambda it: rewrite(it, first_file(it).drop_columns(["label"]), 5),
        r"expected a column label \(int32\); the columns are image \(binary\)",
    ),
    "another type": (
        lambda it: rewrite(it, first_file(it).cast(pa.schema({"image": "binary", "label": "string"})), 5),
        r"expected a column label \(int32\); the columns are .*label \(string\)",
    ),
    "other row groups": (
        lambda it: rewrite(it, first_file(it), 7),
        "row groups of 7, 7, .*; expected 5, 5",
    ),
    "labels": (
        lambda it: (it / "train" / "labels.npy").write_bytes(b"x"),
        "labels.npy: damaged or changed",
    ),
    "list": (lambda it: (it / FILE).write_text("{"), "shards.json: damaged"),
    "list of another version": (
        lambda it: change_facts(it, lambda facts: facts.update(version=9)),
        "version 9; this zoo reads 1",
    ),
    "list without lanes": (
        lambda it: change_facts(it, lambda facts: facts.pop("lanes")),
        "damaged .no 'lanes'",
    ),
    "list of an empty group": (
        lambda it: change_facts(it, lambda facts: facts["splits"]["train"]["files"][0].update(rows=[])),
        "00000.parquet has an empty row group",
    ),
}  # fmt: skip


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A data set that a test may change."""
    shards_writing.write(photos(tmp_path / "photos"), tmp_path / "own", rows=5, lanes=8)
    return tmp_path / "own"


@once
@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_before_any_work(damage: str, own: Path) -> None:
    change, message = DAMAGE[damage]
    change(own)
    with pytest.raises(zoo.DataUnavailable, match=message):
        train(own, steps=1, watch=lambda *_: pytest.fail("a step was made"))


@once
def test_a_file_that_is_read_last_is_checked_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_writing, "BYTES", 1)  # a row group a file
    shards_writing.write(photos(tmp_path / "photos"), tmp_path / "own", rows=5, lanes=8)
    files = sorted((tmp_path / "own" / "train").glob("*.parquet"))
    assert len(files) == 20
    train(tmp_path / "own", steps=1)
    shortened(files[-1])
    with pytest.raises(zoo.DataUnavailable, match=r"00019.parquet: [\d,]+ bytes, expected"):
        train(tmp_path / "own", steps=1, watch=lambda *_: pytest.fail("a step was made"))


@once
def test_damage_within_a_row_group_is_named_where_it_is_read(own: Path) -> None:
    file = own / "train" / "00000.parquet"
    data = bytearray(file.read_bytes())
    data[20:2000] = bytes(1980)
    file.write_bytes(data)
    with pytest.raises(zoo.DataUnavailable, match=r"00000.parquet(: cannot be read|, row \d+: not an image)"):
        list(load(own, "images").batches(16, 0, 0))


@once
def test_labels_that_differ_from_the_list_are_refused(own: Path) -> None:
    table = first_file(own)
    labels = pa.array([(v + 1) % 3 for v in table["label"].to_pylist()], pa.int32())
    rewrite(own, table.set_column(1, table.schema.field(1), labels), 5)
    with pytest.raises(zoo.DataUnavailable, match="labels of row group"):
        list(load(own, "images").batches(16, 0, 0))


@once
def test_row_groups_may_have_any_sizes(own: Path) -> None:
    """As another program has written them: 1, 2, 3 ... rows."""
    table, file = first_file(own), own / "train" / "00000.parquet"
    sizes, start = [], 0
    with pq.ParquetWriter(file, table.schema) as writer:
        while start < len(table):
            sizes.append(min(len(sizes) + 1, len(table) - start))
            writer.write_table(table.slice(start, sizes[-1]))
            start += sizes[-1]
    change_facts(
        own,
        lambda it: it["splits"]["train"]["files"][0].update(rows=sizes, bytes=file.stat().st_size),
    )
    task = load(own, "images")
    labels = np.concatenate([y for _, y in task.batches(16, 0, 0)])
    assert Counter(labels.tolist()) == Counter(task.train[1].tolist())


@once
def test_shards_are_not_found() -> None:
    with pytest.raises(
        zoo.DataUnavailable, match=r"memory://none/shards.json: no such file; expected .*zoo shard"
    ):
        zoo.train("mlp", "memory://none")
    with pytest.raises(zoo.DataUnavailable, match=r"cannot be read .*[Pp]rotocol"):
        zoo.train("mlp", "unknown://none")


@once
def test_shards_of_one_tokenizer_are_not_read_by_another(sets: dict[str, Path]) -> None:
    for kind in ("texts", "tokens"):
        with pytest.raises(zoo.WrongConfiguration, match=r"the tokenizer bytes, 259 tokens, not .*default"):
            zoo.train("lstm", str(sets[kind]), tokenizer="default", steps=1)


@once
@pytest.mark.parametrize("module", ["pyarrow", "fsspec"])
def test_what_is_not_installed_is_named(module: str, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(zoo.DataUnavailable, match=rf'{module}, which is not installed.*parity\[shards\]"'):
        load(own, "images")
