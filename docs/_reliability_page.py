"""The text of docs/reliability.md, from what `docs/_reliability.py` measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

from _measured import row

from zoo.report.words import ENGINES, FRAMEWORKS, scientific

Record = dict[str, Any]
SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
KINDS = ("Momentum", "AdamW", "mixed_float16")
REGIONS = {
    "length": "the length of the header",
    "arrays": "names, types, shapes and offsets of arrays",
    "facts": "the facts of the run, its optimizer included",
    "digests": "the digests of the arrays",
    "checksum": "the digest of the facts",
    "model": "weights",
    "optimizer": "optimizer state",
    "losses": "losses",
}
PAGES, ENDS = "zeros", "end"
COUNTED = ("made", "found", "named", "offered")
BLOCK = 512  # bytes of a page of zeros: a disk's sector

TEXT = """\
# Reliability

What happens to runs that are killed, to damaged checkpoints, to runs resumed on another framework, and to
untrusted files: measured by `python docs/_reliability.py`, which writes this page and
`docs/measured/reliability-*.json`. The tests do the same with fewer kills, bits and files
(`tests/test_reliability.py`). [](howto/frameworks.md) explains how to save and resume runs.

{environment}

## Killed runs

{kills}

## Damaged checkpoints

{flips}

## Runs resumed on another framework

{resume}

## Untrusted files

{files}
"""
KILLS = """\
{count} runs of 20 steps are saved after every step, with `keep=3`; each is sent a signal, and resumed by
`resume="auto"`. Half of the signals arrive at a random time, during the start too. The others arrive right
before one of the next 30 calls that open, list, create, rename or remove a file of the run: at every moment
of a save. The network has dropout and augmented images; AdamW has a schedule, averaged weights and gradients
accumulated over three batches. The columns:

- **at a call**: kills right before such a call
- **unfinished**: kills that left an unfinished file, which the resumed run removed
- **runs lost**: runs that could not be resumed to their end
- **checkpoints lost**: runs in which a checkpoint that was complete before the kill was missing or damaged
- **different**: resumed runs in which a loss, a metric or a bit of a weight differs from an uncut run
- **left behind**: runs after which a process remained, or a file that an uncut run does not leave"""
FLIPS = """\
{bits:,} bits are flipped, one at a time, in the checkpoints of three runs: Momentum, saved by PyTorch's
native engine; AdamW with accumulated gradients, by the Keras engine on TensorFlow; mixed precision with a
loss scale, by JAX's native engine. The columns:

- **found**: files that are refused
- **named**: errors that name the array, or the part of the header
- **offered**: errors that name the previous checkpoint, from which `resume="auto"` continues"""
RESUME = """\
Runs are killed in their twelfth step, within an epoch, and resumed to the twentieth. All have dropout,
augmented images and a learning rate schedule. *Momentum* has Nesterov momentum, weight decay and averaged
weights; *AdamW* accumulates three batches, and was killed in the third, clips gradients and averages
weights; *mixed_float16* is AdamW in half precision, whose loss scale doubles every four updates.

The numbers are the largest differences, of a loss and of a weight at the end, between the resumed run and
an uninterrupted run on the framework that resumes. *Equal*: no bit of a loss, a metric or a weight differs.
The second table is for comparison: the largest difference of a loss between two uninterrupted runs, one on
each framework."""
FILES = """\
{count:,} damaged files in {formats} formats: bits flipped, huge lengths, zeros, insertions, missing parts,
by the seeds of `tests/test_hostile_files.py`. A reader answers with a value or a `zoo.ZooError`. Any other
error, and a process that ends, is *uncaught*: {uncaught} of them."""


def text(measured: dict[str, Record]) -> str:
    """The page for what was measured, by part."""
    shown = {part: "\n".join(show(measured[part]["rows"])) for part, show in SHOWN.items()}
    return TEXT.format(environment=_environment(measured["kills"]["environment"]), **shown)


def _environment(found: Record) -> str:
    versions = found["versions"]
    names = {"keras": "Keras", "torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
    listed = (f"{title} {versions.get(name) or versions[f'{name}-cpu']}" for name, title in names.items())
    return f"The figures are of {', '.join(listed)} on {found['cores']} cores ({found['processor']})."


def _table(headings: list[str], rows: Iterable[list[Any]], names: int = 1) -> list[str]:
    """A table in Markdown, whose first columns are names and the others numbers."""
    rule = ["---"] * names + ["---:"] * (len(headings) - names)
    return ["", row(headings), row(rule), *(row([*map(str, cells)]) for cells in rows)]


def _kills(rows: list[Record]) -> list[str]:
    """A row for each framework and engine, and their sums."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for each in rows:
        groups.setdefault((each["framework"], each["engine"]), []).append(each)
    counted = [[FRAMEWORKS[a], b, *_count(groups[a, b])] for a in FRAMEWORKS for b in ENGINES]
    headings = ["framework", "engine", *SIGNALS, "at a call", "unfinished", "runs lost", "checkpoints lost"]
    headings += ["different", "left behind"]
    return [KILLS.format(count=len(rows)), *_table(headings, [*counted, ["**all**", "", *_count(rows)]], 2)]


def _count(rows: list[Record]) -> list[int]:
    ended = [each for each in rows if "error" not in each]
    return [
        *(sum(each["signal"] == name for each in rows) for name in SIGNALS),
        sum(each["moment"].startswith("at") for each in ended),
        sum(each["partial"] for each in ended),
        len(rows) - len(ended),
        sum(each["found"] < each["announced"] or each["damaged"] > 0 for each in ended),
        sum(not each["equal"] for each in ended),
        sum(bool(each["left"] or each["processes"]) for each in ended),
    ]


def _flips(rows: list[Record]) -> list[str]:
    """A row for each part of a checkpoint, and their sums."""
    titles = {**REGIONS, PAGES: f"{BLOCK} bytes are zeros, anywhere", ENDS: "the end is missing"}
    found = {
        region: [sum(each[name] for each in rows if each["region"] == region) for name in COUNTED]
        for region in titles
    }
    bits = sum(found[region][0] for region in REGIONS)
    cells = [[titles[region], *map("{:,}".format, found[region])] for region in titles]
    sums = [f"{sum(each):,}" for each in zip(*found.values(), strict=True)]
    headings = ["where", "files", *COUNTED[1:]]
    return [FLIPS.format(bits=bits), *_table(headings, [*cells, ["**all**", *sums]])]


def _resume(rows: list[Record]) -> list[str]:
    """A row for each pair of frameworks; a column for each kind of run and engine."""
    columns = list(itertools.product(KINDS, ENGINES))
    found = {(r["saved"], r["resumed"], r["kind"], r["engine"]): r for r in rows}

    def cells(pairs: Iterable[tuple[str, str]], cell: Callable[[Record], str]) -> list[list[str]]:
        return [[FRAMEWORKS[a], FRAMEWORKS[b], *(cell(found[a, b, *c]) for c in columns)] for a, b in pairs]

    titles = [f"{kind}, {engine}" for kind, engine in columns]
    pairs = [(a, b) for a in FRAMEWORKS for b in FRAMEWORKS]
    resumed = cells(pairs, _difference)
    uncut = cells(itertools.combinations(FRAMEWORKS, 2), lambda each: scientific(each["apart"]))
    return [
        RESUME,
        *_table(["saved on", "resumed on", *titles], resumed, 2),
        *_table(["one on", "the other on", *titles], uncut, 2),
    ]


def _difference(found: Record) -> str:
    if found["equal"]:
        return "equal"
    return f"{scientific(found['losses'])}, {scientific(found['weights'])}"


def _files(rows: list[Record]) -> list[str]:
    """A row for each format."""
    count, uncaught = sum(each["mutations"] for each in rows), sum(len(each["uncaught"]) for each in rows)
    cells = [
        [f"`{each['format']}`", f"{each['mutations']:,}", f"{each['refused']:,}", len(each["uncaught"])]
        for each in rows
    ]
    lines = FILES.format(count=count, formats=len(rows), uncaught=uncaught)
    return [lines, *_table(["file", "mutations", "refused", "uncaught"], cells)]


SHOWN: dict[str, Callable[[list[Record]], list[str]]] = {
    "kills": _kills,
    "flips": _flips,
    "resume": _resume,
    "files": _files,
}
