"""Simpler cases that show the same finding: fewer lines, elements and arguments, plainer numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from zoo.hunt.cases import Array, Case
from zoo.hunt.findings import Finding
from zoo.hunt.models import operations
from zoo.hunt.programs import pattern

ROUNDS, CANDIDATES = 8, 16
Same = Callable[[list[Case]], list[Finding | None]]  # the findings of cases that are of the same key


def shrink(finding: Finding, measure: Same, is_over: Callable[[], bool]) -> Finding:
    """The finding of the simplest case that `measure` finds it in."""
    for _ in range(ROUNDS):
        candidates = list(simpler(finding.case))[:CANDIDATES]
        if not candidates or is_over():
            break
        found = [f for f in measure(candidates) if f is not None]
        better = min(found, key=lambda f: size(f.case), default=None)
        if better is None or size(better.case) >= size(finding.case):
            break
        finding = better
    return finding


def size(case: Case) -> tuple[int, int, float]:
    """What shrinking lowers: lines, then elements and arguments, then the digits of the numbers."""
    code = sum(map(len, (*case.lines, *case.layers.values())))
    elements = sum(int(x.size) for x in case.inputs.values())
    return len(case.lines), 4 * elements + code, sum(_digits(x) for x in case.inputs.values())


def _digits(x: Array) -> float:
    plain = any(np.array_equal(x, pattern(name, x.shape)) for name in ("zeros", "ones", "cos", "arange"))
    return 0.0 if plain else float(sum(len(repr(v)) for v in x.ravel().tolist()))


def simpler(case: Case) -> Iterator[Case]:
    """Cases with a little less."""
    yield from _fewer_lines(case)
    yield from _fewer_elements(case)
    yield from _plainer_numbers(case)
    yield from _fewer_arguments(case)


def _fewer_lines(case: Case) -> Iterator[Case]:
    for i in range(len(case.lines)) if len(case.lines) > 1 else ():
        lines = (*case.lines[:i], *case.lines[i + 1 :])
        kept = {n: text for n, text in case.layers.items() if any(f"{n}(" in line for line in lines)}
        yield replace(case, lines=lines, layers=kept, operation=operations(lines, kept))


def _fewer_elements(case: Case) -> Iterator[Case]:
    """Every axis cut to one and to half, alone and with the axes of other inputs that are as long."""
    axes = sorted({(n, a) for n, x in case.inputs.items() for a in range(x.ndim) if x.shape[a] > 1})
    sizes = sorted({case.inputs[n].shape[a] for n, a in axes})
    for length in sizes:
        for keep in {1, length // 2, length - 1}:
            yield case.with_inputs(
                {
                    n: _cut(x, [a for a in range(x.ndim) if x.shape[a] == length], keep)
                    for n, x in case.inputs.items()
                }
            )
    for name, axis in axes:
        for part in (slice(0, 1), slice(0, case.inputs[name].shape[axis] // 2), slice(1, None), slice(0, -1)):
            index = tuple(part if a == axis else slice(None) for a in range(case.inputs[name].ndim))
            yield case.with_inputs({**case.inputs, name: case.inputs[name][index]})


def _cut(x: Array, axes: list[int], keep: int) -> Array:
    for axis in axes:
        x = np.take(x, range(min(keep, x.shape[axis])), axis)
    return x


def _plainer_numbers(case: Case) -> Iterator[Case]:
    for name, x in case.inputs.items():
        if x.dtype == np.float64 and x.size:
            for made in ("ones", "zeros", "arange", "cos"):
                yield case.with_inputs({**case.inputs, name: pattern(made, x.shape)})
            for digits in (0, 1):
                rounded = np.round(x, digits)
                if not np.array_equal(rounded, x, equal_nan=True):
                    yield case.with_inputs({**case.inputs, name: rounded})


def _fewer_arguments(case: Case) -> Iterator[Case]:
    argument = re.compile(r", \w+=(?:'[^']*'|\[[^\]]*\]|\([^()]*\)|[\w.+-]+)(?=[,)])")
    for i, line in enumerate(case.lines):
        for found in argument.finditer(line):
            cut = line[: found.start()] + line[found.end() :]
            yield replace(case, lines=(*case.lines[:i], cut, *case.lines[i + 1 :]))
    for name, text in case.layers.items():
        for found in argument.finditer(text):
            yield replace(case, layers={**case.layers, name: text[: found.start()] + text[found.end() :]})
