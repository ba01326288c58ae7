"""What the results of a sweep say: cells with mean and spread, paired tests, the best settings."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from zoo.sweeps.specification import Specification
from zoo.sweeps.statistics import differences_by_seed, holm, paired_test, spread
from zoo.sweeps.tasks import Record, Task

Values = dict[tuple[Any, int], float]  # (context, seed) -> the metric


def row_of(task: Task, result: Record) -> Record:
    """A run, as the result of the sweep has it."""
    facts = (
        "error", "metrics", "hash", "mode", "steps", "batch_size", "first_step_s", "peak_mb", "seconds",
        "version", "device", "host",
    )  # fmt: skip
    return {"key": task.key, **task.facts, **{name: result.get(name) for name in facts}}


def value_of(row: Record, name: str) -> Any:
    """The value of a dimension: of "model" or "backend", or of a setting."""
    return row[name] if name in ("model", "backend") else row["settings"].get(name)


def summarize(sweep: Specification, rows: Sequence[Record]) -> Record:
    """The cells, best first, and the tests between choices of each dimension and with the best cell."""
    dimensions = sweep.dimensions
    cells: dict[str, Record] = {}
    for row in rows:
        chosen = {name: value_of(row, name) for name in dimensions}
        key = json.dumps(chosen, default=list)
        cell = cells.setdefault(key, {"choices": chosen, "values": {}, "failed": 0})
        value = None if row["error"] else row["metrics"].get(sweep.metric)
        if value is None:
            cell["failed"] += 1
        else:
            cell["values"][row["seed"]] = value
    for cell in cells.values():
        cell |= spread(list(cell["values"].values()))
    sign = 1 if sweep.direction == "minimize" else -1
    # A cell of which runs failed is no candidate: the seeds that are left may be the easy ones.
    order = sorted(
        cells.values(),
        key=lambda cell: (cell["mean"] is None, cell["failed"] > 0, sign * (cell["mean"] or 0.0)),
    )
    _compare_with_best(order)
    tests = [] if sweep.search else _tests(dimensions, rows, sweep.metric)
    return {"cells": order, "tests": tests}


def _compare_with_best(cells: Sequence[Record]) -> None:
    """Add to every other cell the test against the first, over their common seeds."""
    tested = []
    for cell in cells[1:]:
        best, own = ({(None, seed): x for seed, x in c["values"].items()} for c in (cells[0], cell))
        cell["against_best"] = paired_test(list(differences_by_seed(best, own).values()))
        tested += [cell["against_best"]] * bool(cell["against_best"])
    _adjust(tested)


def _tests(dimensions: Sequence[str], rows: Sequence[Record], metric: str) -> list[Record]:
    """For each dimension, every pair of its values over the seeds, everything else being equal."""
    tests = []
    for name in dimensions:
        others = [other for other in dimensions if other != name]
        by_value: dict[str, tuple[Any, Values]] = {}
        for row in rows:
            if row["error"] or row["metrics"].get(metric) is None:
                continue
            value = value_of(row, name)
            context = json.dumps([value_of(row, other) for other in others], default=list)
            _, values = by_value.setdefault(json.dumps(value, default=list), (value, {}))
            values[context, row["seed"]] = row["metrics"][metric]
        for (a, a_values), (b, b_values) in itertools.combinations(by_value.values(), 2):
            differences = differences_by_seed(a_values, b_values)
            if test := paired_test(list(differences.values())):
                contexts = len({context for context, _ in a_values if (context, _) in b_values})
                tests.append({"dimension": name, "a": a, "b": b, "contexts": contexts, **test})
    _adjust(tests)
    return tests


def _adjust(tests: Sequence[Record]) -> None:
    for test, p in zip(tests, holm([test["p"] for test in tests]), strict=True):
        test["p_adjusted"] = p


def command(sweep: Specification, choices: Mapping[str, Any]) -> str | None:
    """The command that trains with these choices; None with arguments of a model, which it does not take."""
    import shlex

    base = sweep.combinations()[0]
    settings = {**base.settings, **{k: v for k, v in choices.items() if k not in ("model", "backend")}}
    if any(name.startswith("model.") for name in settings):
        return None
    words = [
        "zoo",
        "train",
        choices.get("model", base.model),
        "--backend",
        choices.get("backend", base.backend),
    ]
    for name, value in settings.items():
        option = f"--{name.replace('_', '-')}"
        words += [option] if value is True else [] if value is False else [option, str(value)]
    return shlex.join([*words, "--seed", str(sweep.seeds[0])])
