"""Parquet files on a disk or in an object store; the only module that imports pyarrow and fsspec.

Addresses are paths, or URLs of fsspec: s3://bucket/folder (with the package s3fs), gs:// (gcsfs), memory://.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import DataUnavailable
from zoo.storage import reason

# kind of data -> its columns, in the order in which they are written
COLUMNS = {"images": ("image", "label"), "texts": ("text", "label"), "tokens": ("tokens",)}


def arrow() -> Any:
    """pyarrow with pyarrow.parquet. Raises DataUnavailable if it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataUnavailable(_missing("pyarrow")) from None
    return pyarrow


def _missing(package: str) -> str:
    return (
        f"shards are read and written by {package}, which is not installed. To install it: "
        'pip install "keras-zoo-parity[shards]"'
    )


def schema(kind: str, window: int = 0) -> Any:
    """The columns of a kind of data; tokens are in rows of `window`."""
    pa = arrow()
    types = {"image": pa.binary(), "text": pa.string(), "label": pa.int32()}
    types["tokens"] = pa.list_(pa.int32(), window)
    return pa.schema([pa.field(name, types[name], nullable=False) for name in COLUMNS[kind]])


class Store:
    """The files below an address. Raises DataUnavailable for whatever cannot be read."""

    def __init__(self, address: str):
        try:
            import fsspec.core
        except ImportError:
            raise DataUnavailable(_missing("fsspec")) from None
        self.address = address
        with self._reading(address):
            self.files, self.root = fsspec.core.url_to_fs(address)

    def read(self, name: str) -> bytes:
        """The content of a file."""
        with self._reading(self.path(name)):
            return self.files.cat_file(f"{self.root}/{name}")

    def size(self, name: str) -> int:
        """The bytes of a file."""
        with self._reading(self.path(name)):
            return int(self.files.size(f"{self.root}/{name}"))

    def exists(self, name: str) -> bool:
        """Whether there is such a file."""
        with self._reading(self.path(name)):
            return self.files.exists(f"{self.root}/{name}")

    def write(self, name: str, file: Path) -> None:
        """Copy a local file to this one."""
        with self._reading(self.path(name), "written"):
            self.files.makedirs(f"{self.root}/{name}".rpartition("/")[0], exist_ok=True)
            self.files.put_file(str(file), f"{self.root}/{name}")

    def path(self, name: str) -> str:
        """A file as errors name it."""
        return f"{self.address.rstrip('/')}/{name}"

    @contextmanager
    def parquet(self, name: str, footer: Any = None) -> Iterator[Any]:
        """A Parquet file, with the footer that was read before, if it was."""
        pq = arrow().parquet
        with self._reading(self.path(name)), self.files.open(f"{self.root}/{name}", "rb") as file:
            yield pq.ParquetFile(file, metadata=footer, pre_buffer=True)

    @contextmanager
    def _reading(self, path: str, done: str = "read") -> Iterator[None]:
        try:
            yield
        except DataUnavailable:
            raise
        except FileNotFoundError:
            raise DataUnavailable(f"{path}: no such file") from None
        except Exception as error:  # of pyarrow, of fsspec, and of every object store's client
            raise DataUnavailable(f"{path}: cannot be {done} ({reason(error)})") from error


class Shard:
    """A Parquet file of a data set: row groups of so many rows, as its list says."""

    def __init__(self, store: Store, kind: str, window: int, name: str, rows: Sequence[int], size: int):
        self.store, self.kind, self.window, self.name = store, kind, window, name
        self.rows, self.size = list(rows), size

    @cached_property
    def footer(self) -> Any:
        """The file's footer. Raises DataUnavailable if the file is not the one that was written."""
        path = self.store.path(self.name)
        if (size := self.store.size(self.name)) != self.size:
            raise DataUnavailable(
                f"{path}: {size:,} bytes, expected {self.size:,}: truncated or changed. Copy it "
                "again, or write the data set again by zoo shard"
            )
        with self.store.parquet(self.name) as file:
            found, given = file.metadata, file.schema_arrow
        expected = schema(self.kind, self.window)
        types, needed = (dict(map(_described, fields)) for fields in (given, expected))
        for name, kind in needed.items():
            if types.get(name) != kind:
                listed = ", ".join(f"{name} ({kind})" for name, kind in types.items())
                raise DataUnavailable(f"{path}: expected a column {name} ({kind}); the columns are {listed}")
        rows = [found.row_group(i).num_rows for i in range(found.num_row_groups)]
        if rows != self.rows:
            raise DataUnavailable(
                f"{path}: row groups of {_counts(rows)} rows; expected {_counts(self.rows)}. Write the data "
                "set again by zoo shard"
            )
        return found

    def read(self, group: int) -> dict[str, Any]:
        """The columns of a row group: tokens and labels as arrays, texts as a list, images as Arrow's."""
        with self.store.parquet(self.name, self.footer) as file:
            table = file.read_row_group(group, columns=list(COLUMNS[self.kind]))
            if nulls := [name for name in table.column_names if table[name].null_count]:
                raise DataUnavailable(
                    f"{self.store.path(self.name)}: row group {group} has no {nulls[0]} in some rows"
                )
            return {name: self._column(name, table[name].combine_chunks()) for name in table.column_names}

    def _column(self, name: str, column: Any) -> Any:
        if name == "tokens":
            return column.flatten().to_numpy().reshape(-1, self.window)
        return {"label": column.to_numpy, "text": column.to_pylist, "image": lambda: column}[name]()


def _described(field: Any) -> tuple[str, str]:
    """A column's name and type; what the elements of a list are called differs between writers."""
    return field.name, re.sub(r"<\w+: ", "<", str(field.type))


def _counts(rows: Sequence[int]) -> str:
    return ", ".join(map(str, rows[:5])) + (" ..." if len(rows) > 5 else "") if rows else "no"


class Writer:
    """Writes rows of one kind to a Parquet file, a row group at a time."""

    def __init__(self, path: Path, kind: str, window: int = 0):
        self.path, self.schema, self.rows = path, schema(kind, window), list[int]()
        images = kind == "images"  # compressed already
        self.file = arrow().parquet.ParquetWriter(
            path, self.schema, compression="none" if images else "zstd", use_dictionary=False,
            write_statistics=False,
        )  # fmt: skip

    def write(self, columns: dict[str, Any]) -> None:
        """Write a row group."""
        pa = arrow()

        def array(field: Any) -> Any:
            values = columns[field.name]
            if field.name != "tokens":
                return pa.array(values, field.type)
            flat = np.concatenate(values)
            return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.int32()), type=field.type)

        table = pa.Table.from_arrays([array(field) for field in self.schema], schema=self.schema)
        self.file.write_table(table, row_group_size=max(1, len(table)))
        self.rows.append(len(table))

    @property
    def size(self) -> int:
        """The bytes written so far."""
        return self.path.stat().st_size

    def close(self) -> None:
        """Write the footer."""
        self.file.close()
