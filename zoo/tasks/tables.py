"""Text files and tables as editors and spreadsheets write them, for texts, images and recordings.

Files are UTF-8, or UTF-16 or UTF-32 if they start with a byte order mark. A table's first line names its
columns (in any case), separated by commas, semicolons or tabs. Errors name the line.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo import storage
from zoo.errors import DataUnavailable, shortlist

Record = dict[str, str] | str  # a line's fields by name, or what is wrong with it

SEPARATORS = (",", ";", "\t")
# UTF-32's mark starts with UTF-16's, so it is tried first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
COPIES = {"__macosx", "@eadir"}  # folders of operating systems with copies of the files beside them


def lines(path: Path) -> tuple[list[str], dict[int, str]]:
    """A file's lines with their line ends, and the errors of those that are not UTF-8, by number from 1.

    Raises DataUnavailable for a file that cannot be read.
    """
    with storage.reading(path, "expected a text file"):
        data = path.read_bytes()
    decoded: list[str] = []
    bad: dict[int, str] = {}
    for number, line in enumerate(_utf8(path, data).splitlines(keepends=True), start=1):
        try:
            decoded.append(line.decode())
        except UnicodeDecodeError as error:
            bad[number] = f"not UTF-8 at byte {error.start + 1} of the line"
            decoded.append(line.decode(errors="replace"))
    return decoded, bad


def _utf8(path: Path, data: bytes) -> bytes:
    """The text in UTF-8, without a byte order mark. Raises DataUnavailable for damaged UTF-16 or UTF-32."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), _unmarked(data[:64]))
    if encoding is None:
        return data.removeprefix(codecs.BOM_UTF8)
    try:
        return data.decode(encoding).encode()
    except UnicodeDecodeError as error:
        raise DataUnavailable(
            f"{path}: not {encoding.upper()} at byte {error.start + 1}; save it as UTF-8"
        ) from None


def _unmarked(first: bytes) -> str | None:
    """The encoding of UTF-16 without a mark, in which every second byte of Latin letters is NUL."""
    if len(first) < 8 or not any(first):
        return None
    return "utf-16-le" if not any(first[1::2]) else "utf-16-be" if not any(first[::2]) else None


def refuse(path: Path, bad: Mapping[int, str], skipped: dict[int, str] | None = None) -> None:
    """Raise DataUnavailable if there are invalid lines, naming the first few and the number of others.

    With `skipped` they are added to it instead.
    """
    if skipped is not None:
        skipped.update(bad)
    if not bad or skipped is not None:
        return
    lines = shortlist((f"line {number}: {bad[number]}" for number in sorted(bad)), separator="; ")
    raise DataUnavailable(f"{path}: {lines}. Nothing was read; correct these lines first")


def hidden(path: Path) -> bool:
    """Whether a file or folder is hidden, or one of an operating system's copies."""
    return path.name.startswith(".") or path.name.lower() in COPIES


def ordered(names: Iterable[str]) -> tuple[str, ...]:
    """The distinct class names, sorted; numerically if all are integers: 0, 1, 2, 10."""
    names = set(names)
    if all(re.fullmatch(r"[+-]?[0-9]{1,18}", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names))


# Tables


@dataclass(frozen=True)
class Header:
    """The first line of a table: its number, its separator, and the indices of the required columns."""

    line: int = 0  # in which it ends, from 1; 0 for an empty table
    separator: str = ","
    names: tuple[str, ...] = ()
    columns: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.separator.join(self.names) or "nothing"


def header(decoded: Sequence[str], required: Sequence[str], separators: Sequence[str] = SEPARATORS) -> Header:
    """The first line that is not blank, split by the separator that gives most of the required columns.

    Names are compared without case and surrounding spaces. Excel's "sep=;" may precede the line.
    """
    start = 0
    if decoded and (match := re.fullmatch(r'"?sep=([^"\r])"?\s*', decoded[0], re.IGNORECASE)):
        start, separators = 1, (match[1],)
    while start < len(decoded) and not decoded[start].strip():
        start += 1
    if start == len(decoded):
        return Header()
    found = [_header(decoded, start, required, separator) for separator in separators]
    return max(found, key=lambda each: (len(each.columns), len(each.names)))


def _header(decoded: Sequence[str], start: int, required: Sequence[str], separator: str) -> Header:
    reader = csv.reader(decoded[start:], delimiter=separator, strict=True)
    try:
        names = tuple(name.strip() for name in next(reader))
    except csv.Error:
        names = (decoded[start].strip(),)
    folded = [name.casefold() for name in names]
    columns = {}
    for name in required:
        if name in names:
            columns[name] = names.index(name)
        elif folded.count(name.casefold()) == 1:
            columns[name] = folded.index(name.casefold())
    return Header(start + max(1, reader.line_num), separator, names, columns)


def first_line(path: Path, required: Sequence[str]) -> Header:
    """The header of a file; reads only its beginning."""
    with path.open("rb") as file:
        data = file.read(65_536)
    cut = data[: len(data) - len(data) % 4] if len(data) == 65_536 else data
    try:
        text = _utf8(path, cut)
    except DataUnavailable:  # raised again when the whole file is read
        text = cut
    return header(text.decode(errors="replace").splitlines(keepends=True), required)


def records(decoded: Sequence[str], found: Header) -> Iterator[tuple[int, Record]]:
    """Each record after the header, by its own and the required column names, with its line number.

    Empty records are skipped: spreadsheets write an empty row as separators.
    """
    rows = csv.reader(decoded[found.line :], delimiter=found.separator, strict=True)
    while True:
        number = found.line + rows.line_num + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield number, f"not CSV: {error}"
            continue
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(found.names):
            yield number, f"{len(row)} columns, expected {len(found.names)} as in the first line"
        else:
            required = {name: row[i] for name, i in found.columns.items()}
            yield number, {**dict(zip(found.names, row, strict=True)), **required}
