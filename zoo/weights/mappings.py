"""The weights of one implementation of a model by those of another: names, layouts, parts of an array.

`zoo.diff(..., save_mapping="mapping.json")` finds and saves one; `convert` applies it to a checkpoint.
"""

from __future__ import annotations

import base64
import itertools
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from zoo import storage
from zoo.errors import WeightsMismatch, WrongConfiguration, shortlist
from zoo.weights import files

Array = np.ndarray
Shape = tuple[int, ...]
FORMAT = "zoo weights mapping 1"
ABSENT = -1  # the index of an element that comes from none of theirs


@dataclass(frozen=True)
class Entry:
    """An array of ours: of one of theirs transposed, sliced and reshaped, or of elements of several.

    `slice` is (axis, start, stop) of the transposed array. `indices` has for each element of ours its index
    in the arrays of `sources`, flattened one behind the other; `constant` is the value of the others.
    """

    shape: Shape
    sources: tuple[str, ...]
    transpose: Shape | None = None
    slice: Shape | None = None
    indices: str | None = None
    constant: float | None = None

    def positions(self, shapes: Mapping[str, Shape]) -> Array:
        """The index of each element in `sources`, flattened one behind the other."""
        if self.indices is not None:
            return np.frombuffer(zlib.decompress(base64.b64decode(self.indices)), np.int32).reshape(
                self.shape
            )
        if not self.sources:
            return np.full(self.shape, ABSENT, np.int32)
        shape = shapes[self.sources[0]]
        moved = np.arange(int(np.prod(shape)), dtype=np.int32).reshape(shape).transpose(self.transpose)
        if self.slice is not None:
            axis, start, stop = self.slice
            moved = moved.take(range(start, stop), axis)
        return moved.reshape(self.shape)


@dataclass(frozen=True)
class WeightsMapping:
    """Which weights of theirs each of ours is made of.

    `theirs` has the shapes of theirs; `initial` are weights of ours that come from none, `unused` weights of
    theirs that ours has no use for.
    """

    theirs: dict[str, Shape]
    ours: dict[str, Entry]
    initial: tuple[str, ...] = ()
    unused: tuple[str, ...] = field(default=())

    def save(self, path: str | Path) -> None:
        """Save as JSON, atomically."""
        facts = asdict(self)
        facts["ours"] = {
            name: {key: value for key, value in entry.items() if value is not None}
            for name, entry in facts["ours"].items()
        }
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        storage.write_text(Path(path), storage.json_text({"format": FORMAT, **facts}))

    @classmethod
    def load(cls, path: str | Path) -> WeightsMapping:
        """Read a file of `save`. Raises DataUnavailable for a missing or damaged one."""
        with storage.reading(Path(path), "expected a mapping of zoo.diff(..., save_mapping=...)"):
            facts = json.loads(Path(path).read_text(encoding="utf-8"))
            if not isinstance(facts, dict) or facts.get("format") != FORMAT:
                raise ValueError("not a mapping")
            entries = {
                name: Entry(**{k: _tuple(v) for k, v in entry.items()})
                for name, entry in facts["ours"].items()
            }
            theirs = {name: tuple(shape) for name, shape in facts["theirs"].items()}
            return cls(theirs, entries, tuple(facts["initial"]), tuple(facts["unused"]))

    def convert(self, arrays: Mapping[str, Array], *, reverse: bool = False) -> dict[str, Array]:
        """Theirs' arrays as ours, or with `reverse` ours' as theirs, in the type they have.

        Raises WeightsMismatch for missing, unexpected and misshapen arrays. Weights that come from none of
        the other side's are left out.
        """
        needed = {n: e.shape for n, e in self.ours.items()} if reverse else self.theirs
        optional = (*self.initial, *self.unused)
        missing = [n for n in needed if n not in arrays and n not in optional]
        wrong = [
            f"{n} is {arrays[n].shape}, expected {needed[n]}"
            for n in needed
            if n in arrays and arrays[n].shape != needed[n]
        ]
        others = [n for n in arrays if n not in needed and n not in optional]
        for words, names in (("missing", missing), ("unexpected", others), ("of another shape", wrong)):
            if names:
                raise WeightsMismatch(
                    f"{len(names)} arrays {words}: {shortlist(names)}. Nothing was converted."
                )
        return self.partial(arrays, reverse=reverse)

    def partial(
        self, arrays: Mapping[str, Array], *, reverse: bool = False, constants: bool = True
    ) -> dict[str, Array]:
        """As `convert`, of the arrays there are: an optimizer state has those of trained weights alone."""
        return dict(self._backward(arrays) if reverse else self._forward(arrays, constants))

    def _forward(self, arrays: Mapping[str, Array], constants: bool) -> Iterator[tuple[str, Array]]:
        for name, entry in self.ours.items():
            sources = [arrays[n].ravel() for n in entry.sources if n in arrays]
            if len(sources) < len(entry.sources) or not (sources or constants):
                continue
            positions = entry.positions(self.theirs)
            kind = sources[0].dtype if sources else np.dtype("float32")
            found = np.full(entry.shape, (entry.constant or 0.0) if constants else 0.0, kind)
            given = positions != ABSENT
            if sources:
                found[given] = np.concatenate(sources)[positions[given]]
            yield name, found

    def _backward(self, arrays: Mapping[str, Array]) -> Iterator[tuple[str, Array]]:
        found: dict[str, Array] = {}
        filled: dict[str, Array] = {}
        for name, entry in self.ours.items():
            if name not in arrays:
                continue
            positions, start = entry.positions(self.theirs).ravel(), 0
            for source in entry.sources:
                size = int(np.prod(self.theirs[source]))
                here = (positions >= start) & (positions < start + size)
                array = found.setdefault(source, np.zeros(size, arrays[name].dtype))
                mask = filled.setdefault(source, np.zeros(size, bool))
                array[positions[here] - start] = arrays[name].ravel()[here]
                mask[positions[here] - start] = True
                start += size
        for name, array in found.items():
            if filled[name].all():
                yield name, array.reshape(self.theirs[name])


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def entry_of(
    shape: Shape, sources: Sequence[str], shapes: Mapping[str, Shape], which: Array, where: Array
) -> Entry:
    """The shortest entry of these positions: of each element of ours its source's number, and its index."""
    sources = tuple(sources)
    if len(sources) == 1 and (which == 0).all():
        simple = _simple(shape, sources[0], shapes[sources[0]], where)
        if simple is not None:
            return simple
    starts = np.cumsum([0, *(int(np.prod(shapes[name])) for name in sources)])
    flat = np.where(which < 0, ABSENT, starts[np.maximum(which, 0)] + where).astype(np.int32)
    text = base64.b64encode(zlib.compress(flat.tobytes(), 9)).decode()
    return Entry(shape, sources, indices=text)


def _simple(shape: Shape, source: str, theirs: Shape, where: Array) -> Entry | None:
    """A transposed array, or a slice of one; None if the positions are neither."""
    whole = np.arange(int(np.prod(theirs)), dtype=np.int32).reshape(theirs)
    for order in itertools.permutations(range(len(theirs))):
        moved = whole.transpose(order)
        if where.size == whole.size and np.array_equal(moved.ravel(), where):
            return Entry(shape, (source,), transpose=order)
        for axis, length in enumerate(moved.shape):
            count, rest = divmod(where.size * length, whole.size) if whole.size else (0, 1)
            if rest or not 0 < count < length:
                continue
            start = int(np.argwhere(moved == where[0])[0][axis])
            if start + count <= length and np.array_equal(
                moved.take(range(start, start + count), axis).ravel(), where
            ):
                return Entry(shape, (source,), transpose=order, slice=(axis, start, start + count))
    return None


def convert(
    source: str | Path, out: str | Path, mapping: WeightsMapping | str | Path, *, reverse: bool = False
) -> list[str]:
    """Convert a checkpoint to the other implementation's names and layouts, and save it.

    `source` is a file that `load` reads, with theirs' names, or ours' with `reverse`; `out` ends in
    .safetensors or .npz. Integers (`num_batches_tracked`) are left out. Returns the names of weights that the
    other implementation has and that are not in the file, as they come from none. Raises WeightsMismatch,
    WrongConfiguration and DataUnavailable, with nothing written.
    """
    if not isinstance(mapping, WeightsMapping):
        mapping = WeightsMapping.load(mapping)
    out = Path(out)
    if out.suffix == ".h5":
        raise WrongConfiguration(f"{out}: expected .safetensors or .npz")
    files.check(out)
    with files.reading(Path(source)) as stored:
        arrays = {n: files.read(n, x, f"{source}: ") for n, x in stored.items() if not x.integer}
    found = mapping.convert(arrays, reverse=reverse)
    files.write(out, found)
    return [n for n in (mapping.unused if reverse else mapping.initial) if n not in found]
