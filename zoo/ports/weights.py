"""Theirs' weights carried over to ours: each element of a stored array has its position in the other's."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from zoo import random
from zoo.ladder.causes.trace import KNOWN, Array, Trace
from zoo.ports.match import Matching, Pair
from zoo.weights.mappings import Entry, WeightsMapping, entry_of

Weights = dict[str, Array]
SEED = 3
ABSENT = {"bias": 0.0, "second_bias": 0.0, "shift": 0.0, "mean": 0.0, "scale": 1.0, "variance": 1.0}


def absent(role: str) -> float | None:
    """What a weight of this role does nothing with; "bias.i" is that of an LSTM's gate."""
    return ABSENT.get(role.partition(".")[0])


@dataclass
class Carried:
    """Ours' weights after theirs were carried over, and what was done to each.

    `mapping` has for each array of ours the names of theirs it comes from; `positions` for each of its
    elements (array of theirs, position in it), -1 where it keeps another value. `constants` are arrays that
    theirs lacks, and what they are set to; `unused` arrays of theirs that ours has no place for, `initial`
    arrays of ours that keep their initial values; `guessed` those found by "name" or "shape" alone.
    """

    weights: Weights
    mapping: dict[str, list[str]] = field(default_factory=dict)
    positions: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    constants: dict[str, float] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    initial: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    guessed: dict[str, str] = field(default_factory=dict)
    layouts: dict[str, str] = field(default_factory=dict)


def varied(trace: Trace, weights: Weights) -> Weights:
    """The weights with random numbers in place of constants: zeros and ones hide differences.

    Only those of known operations: other constants may be what a model is defined by.
    """
    changed = dict(weights)
    for anchor in trace.anchors.values():
        for role, (name, _) in anchor.weights.items():
            array = weights[name]
            if absent(role) is None or np.ptp(array) > 0 or changed[name] is not array:
                continue
            draw = random.generator(SEED, name)
            if array.flat[0] == 0:
                changed[name] = draw.normal(0, 0.1, array.shape).astype(array.dtype)
            else:
                changed[name] = (array * draw.uniform(0.5, 1.5, array.shape)).astype(array.dtype)
    return changed


def with_one_bias(matching: Matching, weights: Weights) -> Weights:
    """Theirs' weights with zeros as the second bias of an LSTM that has one bias in ours."""
    names = (
        name
        for p in matching.pairs
        for role, (name, _) in p.theirs.weights.items()
        if role.startswith("second_bias") and role not in p.ours.weights
    )
    return {**weights, **{name: np.zeros_like(weights[name]) for name in names}}


def carry(matching: Matching, theirs: Weights, ours: Weights, orders: dict[int, Array]) -> Carried:
    """Carry weights over along the pairs. `orders` permutes the inputs of dense layers behind a flatten, by
    the key of ours' anchor.
    """
    result = Carried({name: array.copy() for name, array in ours.items()})
    numbers = {name: i for i, name in enumerate(theirs)}
    for pair in matching.pairs:
        for role, (name, target) in pair.ours.weights.items():
            source = _source(pair, role)
            if source is None:
                value = absent(role)
                if value is not None and pair.ours.kind in (*KNOWN, "affine"):
                    result.constants[name] = value
                    result.weights[name].flat[target.ravel()] = value
                continue
            there, indices = source
            if pair.whole == "ours" and pair.part:
                target = np.array_split(target, pair.part[1])[pair.part[0]]
            if role == "kernel" and pair.ours.key in orders:
                indices = indices[:, orders[pair.ours.key]]
            if indices.size != target.size:
                result.conflicts.append(f"{there} has {indices.size} elements, {name} {target.size}")
                continue
            _assign(result, name, target, there, indices, theirs, numbers)
    _carry_rest(result, theirs, ours, numbers)
    for name, (which, where) in result.positions.items():
        sources = result.mapping[name]
        result.layouts[name] = layout(theirs[sources[0]].shape, ours[name].shape, which, where, sources)
    used = {n for names in result.mapping.values() for n in names}
    result.unused = [name for name in theirs if name not in used]
    result.initial = [n for n in ours if n not in result.mapping and n not in result.constants]
    return result


def _carry_rest(result: Carried, theirs: Weights, ours: Weights, numbers: dict[str, int]) -> None:
    """What no recorded operation uses: by name, else by shape, in order if both have as many of it."""
    used = {n for names in result.mapping.values() for n in names}
    free = [n for n in theirs if n not in used]
    rest = [n for n in ours if n not in result.mapping and n not in result.constants]
    for how in ("name", "shape", "shape, in order"):
        for name in list(rest):
            fitting = [n for n in free if sorted(theirs[n].shape) == sorted(ours[name].shape)]
            rivals = [n for n in rest if sorted(ours[n].shape) == sorted(ours[name].shape)]
            if how == "name":
                fitting = [n for n in fitting if _plain(n) == _plain(name)]
            elif len(rivals) != len(fitting):
                continue
            alone = len(fitting) == 1 or (how == "shape, in order" and bool(fitting))
            order = _order(theirs[fitting[0]].shape, ours[name].shape) if alone else None
            if order is None:
                continue
            there = fitting[0]
            target = np.arange(ours[name].size).reshape(ours[name].shape)
            indices = np.arange(target.size).reshape(theirs[there].shape).transpose(order)
            _assign(result, name, target, there, indices, theirs, numbers)
            result.guessed[name] = how
            free.remove(there)
            rest.remove(name)


def _plain(name: str) -> str:
    return name.lower().replace("/", ".").replace("_", "")


def _order(theirs: tuple[int, ...], ours: tuple[int, ...]) -> tuple[int, ...] | None:
    """How a stored array becomes the other's shape: as it is, a matrix transposed, a kernel's axes moved."""
    rank = len(theirs)
    options = [tuple(range(rank)), (1, 0), (*range(2, rank), 1, 0), (rank - 1, rank - 2, *range(rank - 2))]
    return next((o for o in options if len(o) == rank and tuple(theirs[i] for i in o) == ours), None)


def _source(pair: Pair, role: str) -> tuple[str, Array] | None:
    mine, other = pair.ours.weights, pair.theirs.weights
    if role not in other and pair.ours.kind not in (*KNOWN, "affine"):
        # Other operations name their weights as they like: by size, if one alone fits.
        fitting = [w for w in other.values() if w[1].size == mine[role][1].size]
        return fitting[0] if len(fitting) == 1 else None
    if role not in other:
        return None
    name, indices = other[role]
    if pair.whole == "theirs" and pair.part:
        indices = np.array_split(indices, pair.part[1])[pair.part[0]]
    return name, indices


def _assign(
    result: Carried, name: str, target: Array, there: str, indices: Array, theirs: Weights, numbers: Any
) -> None:
    values = theirs[there].ravel()[indices.ravel()]
    array = result.weights[name]
    if name not in result.positions:
        result.positions[name] = (np.full(array.size, -1, np.int32), np.full(array.size, -1, np.int32))
    which, where = result.positions[name]
    flat = target.ravel()
    taken = which[flat] >= 0
    if taken.any() and not np.array_equal(array.ravel()[flat][taken], values[taken]):
        result.conflicts.append(f"{name} is given two values: {result.mapping[name][0]} and {there}")
        return
    array.flat[flat] = values
    which[flat], where[flat] = numbers[there], indices.ravel()
    result.mapping.setdefault(name, [])
    if there not in result.mapping[name]:
        result.mapping[name].append(there)


def layout(
    shape: tuple[int, ...], ours: tuple[int, ...], which: Array, where: Array, names: list[str]
) -> str:
    """How an array of ours is made from theirs, in words: "as stored", "transposed (2, 3, 1, 0)", ..."""
    if len(names) > 1:
        return "joined"
    positions = where.reshape(ours)
    whole = np.arange(int(np.prod(shape))).reshape(shape)
    if whole.size != positions.size:
        return "part" if (which >= 0).all() else "placed"
    if np.array_equal(whole.ravel(), positions.ravel()):
        return "as stored" if shape == ours else f"reshaped {ours}"
    for order in itertools.permutations(range(len(shape))):
        moved = whole.transpose(order)
        if np.array_equal(moved.ravel(), positions.ravel()):
            return f"transposed {order}" + ("" if moved.shape == ours else f", reshaped {ours}")
    return "reordered"


def mapping_of(carried: Carried, theirs: Weights) -> WeightsMapping:
    """The mapping by which weights were carried over, for checkpoints."""
    names, shapes = list(theirs), {name: x.shape for name, x in theirs.items()}
    ours = {}
    for name, array in carried.weights.items():
        constant, sources = carried.constants.get(name), carried.mapping.get(name, [])
        if not sources and constant is not None:
            ours[name] = Entry(array.shape, (), constant=constant)
        elif sources:
            which, where = carried.positions[name]
            numbers = np.full(len(names) + 1, -1)  # the last is that of elements that come from none
            numbers[[names.index(source) for source in sources]] = range(len(sources))
            found = entry_of(array.shape, sources, shapes, numbers[which], where)
            ours[name] = found if constant is None else replace(found, constant=constant)
    return WeightsMapping(shapes, ours, tuple(carried.initial), tuple(carried.unused))
