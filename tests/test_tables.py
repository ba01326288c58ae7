"""Tables as spreadsheets and editors write them: encodings, separators, capitals, empty rows."""

from __future__ import annotations

import codecs
import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import zoo
from zoo import tasks
from zoo.tasks import folders, speech, tables, text, translation

pytestmark = pytest.mark.once

REVIEWS = [(f"{'dull' if i % 3 else 'schön'}, Nr. {i}; \"well\"\nas they say", "bad" if i % 3 else "good")
           for i in range(30)]  # fmt: skip
ENCODINGS = {
    "utf-8": str.encode,
    "utf-8 with a mark": lambda x: codecs.BOM_UTF8 + x.encode(),
    "utf-16": lambda x: codecs.BOM_UTF16_LE + x.encode("utf-16-le"),
    "utf-16, big-endian": lambda x: codecs.BOM_UTF16_BE + x.encode("utf-16-be"),
    "utf-16 without a mark": lambda x: x.encode("utf-16-le"),
    "utf-16, big-endian, without a mark": lambda x: x.encode("utf-16-be"),
    "utf-32": lambda x: codecs.BOM_UTF32_LE + x.encode("utf-32-le"),
}


def sheet(rows: list[tuple[Any, ...]], separator: str = ",", ends: str = "\r\n") -> str:
    """As Python's own csv writes it."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer, delimiter=separator, lineterminator=ends).writerows(rows)
    return buffer.getvalue()


def texts(path: Path) -> list[tuple[str, str]]:
    """Every text of a file with its label."""
    found = text.table(path)
    splits = (found.train, found.test)
    return sorted((t, found.classes[y]) for x, labels in splits for t, y in zip(x, labels, strict=True))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_texts_in_any_encoding_and_separator_is_the_same(
    encoding: str, separator: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(ENCODINGS[encoding](sheet([("text", "label"), *REVIEWS], separator)))
    assert texts(path) == sorted(REVIEWS)
    assert tasks.source(str(path))[1].names == ("bad", "good")


HEADERS = ["Text,Label", "TEXT,LABEL", " text , label ", '"Text","Label"', "\ufeffText,Label"]


@pytest.mark.parametrize("header", HEADERS)
def test_columns_are_named_in_capitals_or_not(header: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(header + "\r\n" + sheet(REVIEWS), encoding="utf-8", newline="")
    assert texts(tmp_path / "a.csv") == sorted(REVIEWS)
    assert len(tasks.load(str(tmp_path / "a.csv"), (None,)).train[0]) == 24


def test_a_column_that_is_written_exactly_so_comes_before_others(tmp_path: Path) -> None:
    rows = [("Text", "text", "label"), *(("no", *review) for review in REVIEWS)]
    (tmp_path / "a.csv").write_text(sheet(rows), encoding="utf-8", newline="")
    assert texts(tmp_path / "a.csv") == sorted(REVIEWS)


def test_two_columns_that_differ_in_capitals_alone_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Text,TEXT,label\na,b,c\n")
    with pytest.raises(zoo.DataUnavailable, match=r"no column 'text'; the columns are Text, TEXT, label"):
        text.table(tmp_path / "a.csv")


def test_keys_of_json_are_named_in_capitals_or_not(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"Text": "well", "LABEL": "a"}\n{"text": "so", "label": "b"}\n')
    assert texts(tmp_path / "a.jsonl") == [("so", "b"), ("well", "a")]


def test_excels_line_of_the_separator_and_empty_rows_are_no_matter(tmp_path: Path) -> None:
    rows = sheet([("text", "label"), *REVIEWS], ";") + ";\r\n;\r\n"
    (tmp_path / "a.csv").write_text(f"sep=;\r\n\r\n{rows}", encoding="utf-8", newline="")
    assert texts(tmp_path / "a.csv") == sorted(REVIEWS)


def test_lines_are_counted_from_the_files_first(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('sep=;\ntext;label\n"we\nll";a\nso\n')
    with pytest.raises(zoo.DataUnavailable, match="line 5: 1 columns, expected 2 as in the first line"):
        text.table(tmp_path / "a.csv")


@pytest.mark.parametrize("name", ["a.tsv", "a.txt", "a.TXT"])
def test_a_table_with_tabs_is_of_texts_if_its_first_line_says_so(name: str, tmp_path: Path) -> None:
    """Excel's "Unicode text" is a .txt of UTF-16 with tabs."""
    path = tmp_path / name
    path.write_bytes(ENCODINGS["utf-16"](sheet([("Text", "Label"), *REVIEWS], "\t")))
    task = tasks.load(str(path), (None,))
    assert (task.names, len(task.train[0]), len(task.test[0])) == (("bad", "good"), 24, 6)


def test_labels_with_spaces_around_them_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nwell, a\nso,b \nand,a\nbut, b\n")
    assert text.table(tmp_path / "a.csv").classes == ("a", "b")


def test_classes_that_are_integers_sort_as_numbers(tmp_path: Path) -> None:
    numbers = [str(i % 12) for i in range(60)]
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {n},{n}\n" for n in numbers))
    assert text.table(tmp_path / "a.csv").classes == tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("names", "sorted_"),
    [
        (["10", "2", "1", "0"], ("0", "1", "2", "10")),
        (["-1", "+3", "2"], ("-1", "2", "+3")),
        (["01", "1", "1"], ("01", "1")),
        (["10", "2", "b"], ("10", "2", "b")),
        (["²", "1"], ("1", "²")),
    ],
)
def test_names_of_classes_are_sorted(names: list[str], sorted_: tuple[str, ...]) -> None:
    assert tables.ordered(names) == sorted_


# --- what is not read says what a table of texts is ---


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("review,stars\nwell,5\n", "the first line is 'review,stars'"),
        ("review;stars\nwell;5\n", "the first line is 'review;stars'"),
        ("review\tstars\nwell\t5\n", "the first line is 'review\\\\tstars'"),
        ("well,5\nso,3\n", "the first line is 'well,5'"),
        ("", "the first line is 'nothing'"),
    ],
)
def test_a_table_of_neither_texts_nor_images_is_refused_with_both(
    content: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(
        zoo.DataUnavailable, match=f"{said}; expected column names 'text' and 'label'.*'path' and"
    ):
        tasks.source(str(tmp_path / "a.csv"))


def test_a_table_of_texts_without_labels_is_refused_as_one_of_texts(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("Text;Stars\nwell;5\n")
    with pytest.raises(
        zoo.DataUnavailable,
        match=r"line 1: no column 'label'; the columns are Text, Stars.*'text' and 'label'",
    ):
        tasks.source(str(tmp_path / "a.csv"))


@pytest.mark.parametrize("data", [b"\xff\xfet\0e\0x", b"\xff\xfet\0\x3d\xd8\x3d\xd8,\0"])
def test_utf_16_that_is_cut_or_damaged_is_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(zoo.DataUnavailable, match="not UTF-16 at byte"):
        text.table(tmp_path / "a.csv")


# --- siblings: images, recordings, pairs, a text to go on with ---


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for i in range(24):
        Image.fromarray(np.full((8, 8, 3), i, np.uint8)).save(tmp_path / f"{i}.png")
    return tmp_path


IMAGES = [("path", "label"), *((f"{i}.png", i % 12) for i in range(24))]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(("separator", "name"), [(",", "a.csv"), (";", "a.csv"), ("\t", "a.tsv")])
def test_a_table_of_images_in_any_encoding_and_separator_is_the_same(
    encoding: str, separator: str, name: str, images: Path
) -> None:
    content = sheet(IMAGES, separator).replace("path", "Path").replace("label", " LABEL")
    (images / name).write_bytes(ENCODINGS[encoding](content))
    found = folders.find(images / name)
    assert found.classes == tuple(map(str, range(12)))
    assert [int(p.stem) % 12 for p in found.train[0]] == list(found.train[1])
    assert tasks.source(str(images / name))[1].photographs


def test_a_table_of_images_in_latin_1_names_its_line(images: Path) -> None:
    (images / "a.csv").write_bytes("path,label\n0.png,grün\n1.png,b\n".encode("latin-1"))
    with pytest.raises(zoo.DataUnavailable, match="line 2: not UTF-8 at byte 9"):
        folders.find(images / "a.csv")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("name", "separator"),
    [
        ("transcripts.csv", ","),
        ("Transcripts.CSV", ";"),
        ("transcripts.tsv", "\t"),
        ("TRANSCRIPTS.TSV", "\t"),
    ],
)
def test_a_table_of_recordings_in_any_encoding_is_the_same(
    encoding: str, name: str, separator: str, tmp_path: Path
) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "a.wav", np.zeros(160), 16_000)
    rows = [("Path", "Text"), *(("a.wav", f"grün {i}") for i in range(3))]
    (tmp_path / name).write_bytes(ENCODINGS[encoding](sheet(rows, separator)))
    waves, said = speech.recordings(tmp_path)
    assert (len(waves), said) == (3, ["grün 0", "grün 1", "grün 2"])
    assert tasks.of_file(tmp_path) is not None


def test_the_table_of_recordings_itself_is_refused_with_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "words.csv").write_text("path,text\na.wav,one\n")
    with pytest.raises(zoo.DataUnavailable, match=r"transcripts\.csv and give its folder"):
        tasks.source(str(tmp_path / "words.csv"))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_pairs_and_a_text_to_go_on_with_in_any_encoding_are_the_same(encoding: str, tmp_path: Path) -> None:
    rows = [(f"source {i}", f"grün {i}") for i in range(5)]
    (tmp_path / "a.tsv").write_bytes(ENCODINGS[encoding](sheet(rows, "\t")))
    found = translation.pairs(tmp_path / "a.tsv")
    assert sorted(p for x, y in found.values() for p in zip(x, y, strict=True)) == rows
    (tmp_path / "a.txt").write_bytes(ENCODINGS[encoding]("grün und grau\n"))
    assert text.read(tmp_path / "a.txt") == "grün und grau\n"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_file_of_the_names_of_classes_in_any_encoding_is_the_same(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(ENCODINGS[encoding]("Süßwasser\r\nMeer\r\n"))
    model = zoo.build("mlp", shape=(8, 8, 3), widths=(4,), classes=2)
    (found,) = zoo.predict(model, np.zeros((8, 8, 3), np.uint8), labels=tmp_path / "names.txt")
    assert {name for name, _ in found} == {"Süßwasser", "Meer"}


def test_recordings_that_the_table_does_not_list_are_left_out_with_a_word(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    for name in ("a.wav", "deep/b.FLAC", "._a.wav", "__MACOSX/a.wav", ".old/c.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        soundfile.write(tmp_path / name, np.zeros(160), 16_000, format="WAV")
    (tmp_path / "transcripts.csv").write_text("path,text\n./a.wav,one\n")
    said = rf"^{tmp_path.name}: 1 recordings are not in transcripts\.csv and were skipped: deep/b\.FLAC$"
    with pytest.warns(UserWarning, match=said):
        assert len(speech.recordings(tmp_path)[0]) == 1


def test_two_tables_of_recordings_are_refused(tmp_path: Path) -> None:
    for name in ("transcripts.csv", "Transcripts.tsv"):
        (tmp_path / name).write_text("path\ttext\n")
    with pytest.raises(
        zoo.DataUnavailable, match=r"Transcripts\.tsv and transcripts\.csv; expected only one"
    ):
        tasks.source(str(tmp_path))
