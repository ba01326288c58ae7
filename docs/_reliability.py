"""What docs/reliability.md says: measured by one command, which continues where it was interrupted.

    python docs/_reliability.py [kills|flips|resume|files ...]    writes docs/measured/reliability-PART.json
                                                                  and docs/reliability.md

All of them if none is named: a quarter of an hour. Runs are trained in `docs/_trials.py`, by a process for
each framework. The rows of a file that were measured with the same versions are kept, and not measured again.
"""

from __future__ import annotations

import itertools
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from signal import Signals
from typing import Any

import _reliability_page
import numpy as np
from _measured import FOLDER, read
from _reliability_page import BLOCK, COUNTED, ENDS, KINDS, PAGES, REGIONS, SIGNALS

from zoo import backends, storage
from zoo.errors import ZooError
from zoo.processes import machine
from zoo.processes.scratch import scratch_folder
from zoo.processes.workers import Worker, WorkerDied
from zoo.report.words import ENGINES
from zoo.training import checkpoints

Record = dict[str, Any]
HERE = Path(__file__).parent
PAGE = HERE / "reliability.md"
# Of each kind of run a checkpoint, each by another framework and engine.
DAMAGED = dict(zip(KINDS, [("torch", "native"), ("tensorflow", "keras"), ("jax", "native")], strict=True))
SAID = re.compile(r"\b(header|facts|digests|no such file)\b")


# --- the processes ---


@dataclass
class Workers:
    """A process for each framework, started when it is first used; `folder` is for files that they share."""

    folder: Path
    started: dict[str, Worker] = field(default_factory=dict)

    def ask(self, backend: str, command: str, **arguments: Any) -> Record:
        """The answer of a framework's process. Raises WorkerDied, and starts another for the next command."""
        if backend not in self.started:
            environment = {
                "PYTHONPATH": f"{HERE}:{HERE.parent / 'tests'}",
                "OMP_NUM_THREADS": "1",
                "JAX_COMPILATION_CACHE_DIR": str(self.folder / "xla"),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            }
            self.started[backend] = Worker("_trials", self.folder / backend, backend, environment)
        try:
            (answer,) = self.started[backend].ask(command, **arguments)
        except WorkerDied:
            self.started.pop(backend).close()
            raise
        return answer


@contextmanager
def working() -> Iterator[Workers]:
    """Workers, which end with the block."""
    with scratch_folder() as folder:
        workers = Workers(folder)
        try:
            yield workers
        finally:
            for worker in workers.started.values():
                worker.close()


# --- kills ---


def kills(each: int = 34, frameworks: tuple[str, ...] = backends.NAMES) -> Iterator[Record]:
    """So many of each framework and engine, in turn; every six have each signal at a time and at a call."""
    for number in range(each):
        for k, framework in enumerate(frameworks):
            for i, engine in enumerate(ENGINES):
                rng = np.random.Generator(np.random.Philox(key=[27, (number * 3 + k) * 2 + i]))
                step, within = int(rng.integers(18)), bool(number % 2)
                yield {
                    "framework": framework,
                    "engine": engine,
                    "signal": SIGNALS[number % 3],
                    "step": step,
                    "call": int(rng.integers(1, 31)) if within else 0,
                    "delay": 0.0 if within else round(rng.uniform(0, 0.02 if step else 0.5), 4),
                }


def kill(workers: Workers, case: Record) -> Record:
    """What became of the run."""
    arguments = {name: case[name] for name in ("engine", "step", "call", "delay", "event") if name in case}
    try:
        return workers.ask(case["framework"], "kill", number=Signals[case["signal"]], **arguments)
    except WorkerDied as error:
        return {"error": str(error)}


# --- damage ---


def flips(count: int = 90, kinds: tuple[str, ...] = KINDS) -> Iterator[Record]:
    """So many bits of each part of a checkpoint of each kind, as many truncations, every page of zeros."""
    for kind in kinds:
        for region in (*REGIONS, PAGES, ENDS):
            yield {"kind": kind, "region": region, "count": count}


def flip(workers: Workers, case: Record) -> Record:
    """How many damaged files were refused, with what is damaged and with the earlier checkpoint."""
    backend, engine = DAMAGED[case["kind"]]
    source = saved(workers, backend, case["kind"], engine)
    folder = workers.folder / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    path, content = folder / "run.safetensors", source.read_bytes()
    earlier = str(shutil.copy(checkpoints.numbered(source)[1], checkpoints.number(path, 10)))
    rng = np.random.Generator(np.random.Philox(key=[27, [*REGIONS, PAGES, ENDS].index(case["region"])]))
    found: Record = dict.fromkeys(COUNTED, 0)
    for damaged, names in damage(content, case["region"], case["count"], rng):
        path.unlink(missing_ok=True)
        path.write_bytes(damaged)
        found["made"] += 1
        try:
            checkpoints.read(path)
        except ZooError as error:
            said, (auto, _) = str(error), checkpoints.newest(path)
            found["found"] += 1
            found["named"] += any(name in said for name in names) if names else bool(SAID.search(said))
            found["offered"] += repr(earlier) in said and auto is not None and str(auto.path) == earlier
    return found


def damage(
    content: bytes, region: str, count: int, rng: np.random.Generator
) -> Iterator[tuple[bytes, list[str]]]:
    """Damaged contents, each with the arrays whose bytes have changed; none where the header's have."""
    header, arrays = spans(content)

    def within(start: int, stop: int) -> list[str]:
        return [name for name, span in arrays.items() if span.start < stop and span.stop > start]

    if region == ENDS:
        yield from ((content[:end], []) for end in rng.integers(0, len(content), count))
    elif region == PAGES:
        first = min(span.start for span in arrays.values())
        for start in range(0, len(content), BLOCK):
            page = content[start : start + BLOCK]
            if any(page):
                names = within(start, start + BLOCK) if start >= first else []
                yield content[:start] + bytes(len(page)) + content[start + BLOCK :], names
    else:
        own = [span for name, span in arrays.items() if name.partition("/")[0] == region]
        places = header.get(region) or [at for span in own for at in span]
        for chosen in rng.choice(len(places) * 8, min(count, len(places) * 8), replace=False):
            at, changed = places[chosen // 8], bytearray(content)
            changed[at] ^= 1 << int(chosen % 8)
            yield bytes(changed), within(at, at + 1)


def spans(content: bytes) -> tuple[dict[str, list[int]], dict[str, range]]:
    """Where the parts of the header are, and the arrays."""
    size = int.from_bytes(content[:8], "little")
    text = content[8 : 8 + size]
    entries = json.loads(text)
    entries.pop("__metadata__")
    arrays = {
        name: range(8 + size + entry["data_offsets"][0], 8 + size + entry["data_offsets"][1])
        for name, entry in entries.items()
    }
    found = {}
    for name, pattern in (("facts", rb'"zoo":"((?:[^"\\]|\\.)*)"'), ("checksum", rb'"checksum":"(\w+)"')):
        match = re.search(pattern, text)
        assert match is not None
        found[name] = set(range(8 + match.start(1), 8 + match.end(1)))
    match = re.search(rb'\\"digests\\": \{.*?\}', text)
    assert match is not None
    found["digests"] = set(range(8 + match.start(), 8 + match.end()))
    found["facts"] -= found["digests"]
    rest = set(range(8, 8 + size)).difference(*found.values())
    return {
        "length": list(range(8)),
        "arrays": sorted(rest),
        **{k: sorted(v) for k, v in found.items()},
    }, arrays


def saved(workers: Workers, framework: str, kind: str, engine: str) -> Path:
    """The checkpoint of a run that was killed in its twelfth step, and beside it the one before it."""
    path = workers.folder / f"{framework}-{kind}-{engine}.safetensors"
    if not path.exists():
        workers.ask(framework, "save", kind=kind, engine=engine, path=str(path))
    return path


# --- resuming ---


def resumes(kinds: tuple[str, ...] = KINDS, frameworks: tuple[str, ...] = backends.NAMES) -> Iterator[Record]:
    """Every pair of frameworks, each engine, each kind of run."""
    for kind, engine in itertools.product(kinds, ENGINES):
        for first, second in itertools.product(frameworks, repeat=2):
            yield {"kind": kind, "engine": engine, "saved": first, "resumed": second}


def resume(workers: Workers, case: Record) -> Record:
    """The largest differences between a resumed run and the one that was never cut.

    "apart" is how far the losses of two runs that were never cut, one on each framework, are from each other.
    """
    same = {"kind": case["kind"], "engine": case["engine"]}
    path = saved(workers, case["saved"], **same)
    found = workers.ask(case["resumed"], "resume", path=str(path), **same)
    ours, theirs = (workers.ask(case[end], "losses", **same)["losses"] for end in ("saved", "resumed"))
    return {**found, "apart": max(abs(a - b) for a, b in zip(ours, theirs, strict=True))}


# --- files ---


def files(count: int = 10_000) -> Iterator[Record]:
    """So many mutations of each format of tests/test_hostile_files.py."""
    sys.path.append(str(HERE.parent / "tests"))
    formats = import_module("test_hostile_files").FORMATS
    yield from ({"format": name, "mutations": count} for name in formats)


def fuzz(workers: Workers, case: Record) -> Record:
    """How many mutations were refused, and what was uncaught; a process that died counts as one."""
    try:
        return workers.ask("torch", "fuzz", name=case["format"], count=case["mutations"])
    except WorkerDied as error:
        return {"uncaught": [str(error)], "refused": 0}


# --- the record ---


PARTS: dict[str, tuple[Callable[[], Iterator[Record]], Callable[[Workers, Record], Record]]] = {
    "kills": (kills, kill),
    "flips": (flips, flip),
    "resume": (resumes, resume),
    "files": (files, fuzz),
}


def record(part: str, path: Path, workers: Workers) -> None:
    """Measure what is missing in the file."""
    cases, measure = PARTS[part]
    here = machine.environment()
    environment = {name: here[name] for name in ("processor", "cores", "versions")}
    known = read(path) if path.exists() else {}
    rows = known["rows"] if known.get("environment") == environment else []
    found = []
    for case in cases():
        done = next((each for each in rows if each.items() >= case.items()), None)
        found.append(done or {**case, **measure(workers, case)})
        if done is None:
            print(json.dumps(found[-1]), flush=True)
            lines = ",\n".join(map(json.dumps, found))
            storage.write_text(
                path, f'{json.dumps({"environment": environment})[:-1]},\n"rows": [\n{lines}\n]}}\n'
            )


def main(parts: list[str]) -> None:
    """Measure these parts, or all, and write the page if all are there."""
    if unknown := [part for part in parts if part not in PARTS]:
        sys.exit(f"no part {unknown[0]!r}; expected {', '.join(PARTS)}")
    paths = {part: FOLDER / f"reliability-{part}.json" for part in PARTS}
    with working() as workers:
        for part in parts or PARTS:
            record(part, paths[part], workers)
    if all(path.exists() for path in paths.values()):
        measured = {part: read(path) for part, path in paths.items()}
        PAGE.write_text(_reliability_page.text(measured), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
