"""What the models' pages say was measured: recorded by one command, shown as two tables.

    python docs/_measured.py [parity|bench] [MODEL ...]    writes docs/measured/MODEL-parity.json, -bench.json

All of both if none is named; a bench takes ten minutes or more, on a machine with nothing else to do, and
goes on where it was interrupted. The parity ladder is climbed with the small configurations, as `zoo parity`
does; speed is measured in full size, as `zoo bench` does.
"""

from __future__ import annotations

import itertools
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from zoo import benchmarks, ladder
from zoo.benchmarks import workload
from zoo.cli import terminal
from zoo.ladder import bounds
from zoo.processes import machine
from zoo.report import ladder as ladder_report

Record = dict[str, Any]
FOLDER = Path(__file__).parent / "measured"
MODELS = {  # of each family one that two cores train a step of in about a second
    "mlp": "mlp",
    "lenet": "lenet5",
    "alexnet": "alexnet",
    "vgg": "vgg11",
    "resnet": "resnet18",
    "efficientnet": "efficientnet-b0",
    "recurrent": "lstm",
    "bert": "bert-mini",
    "gpt": "gpt-mini",
    "t5": "t5-mini",
    "vit": "vit-ti16",
}
WRITERS = ("gpt-mini", "t5-mini")
KINDS = {"train": "training", "infer": "inference", "generate": f"generating {workload.GENERATED} tokens"}
TIMED = ("backend", "what", "contestant", "batch_size", "step_ms", "step_ms_quartiles", "ratio",
         "ratio_fastest", "compile_s", "peak_mb", "error")  # fmt: skip
CLIMBED = ("model", "dtype", "rung", "name", "a", "b", "measured", "bound", "verdict", "error")


def record(part: str, model: str) -> None:
    """Climb with a model or time it, and write what was found."""
    measure, kept = {"parity": (_climb, CLIMBED), "bench": (_times, TIMED)}[part]
    print(f"{model}: {part}", flush=True)
    rows = ",\n".join(json.dumps({name: row.get(name) for name in kept}) for row in measure(model))
    here = machine.environment()
    facts = {
        "model": model,
        "date": datetime.now(UTC).date().isoformat(),
        "environment": {name: here[name] for name in ("processor", "cores", "versions")},
    }
    FOLDER.mkdir(exist_ok=True)
    text = f'{json.dumps(facts)[:-1]},\n"rows": [\n{rows}\n]}}\n'
    (FOLDER / f"{model}-{part}.json").write_text(text, encoding="utf-8")


def _times(model: str) -> list[Record]:
    what = [kind for kind in KINDS if kind != "generate" or model in WRITERS]
    FOLDER.mkdir(exist_ok=True)
    unfinished = FOLDER / f"{model}-bench.unfinished.json"
    rows = benchmarks.bench(model, what=what, report=terminal.bench, out=unfinished)
    unfinished.unlink()
    return rows


def _climb(model: str) -> list[Record]:
    result = ladder.parity(model, modes=(), float64=True)
    ladder_report.summary(result, terminal.console())
    return result.rows


def read(path: Path) -> Record:
    """What was recorded: "model", "date", "environment", "rows"."""
    return json.loads(path.read_text(encoding="utf-8"))


def sections(family: str) -> list[str]:
    """A family's sections of what was recorded, parity and speed."""
    files = {
        FOLDER / f"{MODELS[family]}-{part}.json": show
        for part, show in (("parity", _parity), ("bench", _speed))
    }
    return [line for path, show in files.items() if path.exists() for line in [*show(read(path)), ""]]


def _when(found: Record) -> str:
    versions = found["environment"]["versions"]
    # TensorFlow's package has either name.
    names = {"keras": "Keras", "torch": "PyTorch", "tensorflow": "TensorFlow", "jax": "JAX"}
    said = (f"{title} {versions.get(name) or versions[f'{name}-cpu']}" for name, title in names.items())
    return f"Measured on {found['date']} with {', '.join(said)}."


def _parity(found: Record) -> list[str]:
    lines = [
        "## Parity",
        "",
        f"`{found['model']}` in its small configuration on [the parity ladder](../ladder.md). Each row is a "
        "pair of frameworks, or one framework on rung 7; each number is the largest difference. "
        f"{_when(found)} The columns are the rungs:",
        "",
        *(f"- **{rung.number} {rung.name}**: {rung.claim}" for rung in bounds.RUNGS),
        "",
        "*Equal* means no difference in any bit; in column 6, that no predictions differ. In float32 the "
        "bound of columns 5, 7 and 8 is five times the chaos floor: how far torch differs from itself when "
        "its initial weights change by one unit in the last place.",
    ]
    result = {"models": [found["model"]], "rows": found["rows"]}
    for _, title, columns, pairs in ladder_report.tables(result):
        lines += ["", row([title, *columns]), row(["---", *("---:" for _ in columns)])]
        for pair, rows in pairs.items():
            if any(map(rows.get, columns)):
                lines.append(
                    row([pair, *(ladder_report.cell(rows[c]) if c in rows else "" for c in columns)])
                )
        limits = {c: rows[c]["bound"] or 0.0 for rows in pairs.values() for c in rows}
        lines.append(row(["*bound*", *(ladder_report.limit(limits[c]) for c in columns)]))
    return lines


def _speed(found: Record) -> list[str]:
    machine = found["environment"]
    lines = [
        "## Speed",
        "",
        f"`{found['model']}` in full size, on {machine['cores']} cores ({machine['processor']}). "
        f"{_when(found)} The columns:",
        "",
        "- **implementation**: the zoo's native engine or Keras's, in which mode; *plain* is the same model "
        "written for that framework alone",
        "- **step, ms**: the median time of one step, with the quartiles in brackets",
        "- **ratio**: to the first mode of the plain program, timed in turn with it; below 1 is faster",
        "- **to fastest**: the same, to the fastest mode of the plain program",
        "- **compiling, s**: tracing and compiling before the first step",
        "- **memory, MB**: the peak memory of the process",
    ]
    for what, rows in itertools.groupby(found["rows"], key=lambda row: row["what"]):
        timed = [row for row in rows if not row["error"]]
        size = timed[0]["batch_size"]
        title = KINDS[what] if what == "generate" else f"{KINDS[what]}, batches of {size}"
        lines += ["", f"### {title[:1].upper()}{title[1:]}", ""]
        lines.append(
            row(
                [
                    "framework",
                    "implementation",
                    "step, ms",
                    "ratio",
                    "to fastest",
                    "compiling, s",
                    "memory, MB",
                ]
            )
        )
        lines.append(row(["---", "---", "---:", "---:", "---:", "---:", "---:"]))
        lines += [row(_cells(one)) for one in timed]
    return lines


def _cells(one: Record) -> list[str]:
    low, high = one["step_ms_quartiles"]
    return [
        one["backend"],
        one["contestant"],
        f"{one['step_ms']:.2f} ({low:.2f} to {high:.2f})",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in (one["ratio"], one.get("ratio_fastest"))),
        f"{one['compile_s']:.1f}",
        f"{one['peak_mb']:,.0f}",
    ]


def row(cells: list[str]) -> str:
    """A row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    asked = sys.argv[1:]
    parts = [part for part in ("parity", "bench") if part in asked] or ["parity", "bench"]
    for part, model in itertools.product(parts, [m for m in asked if m not in parts] or MODELS.values()):
        record(part, model)
