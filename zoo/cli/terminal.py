"""The output of the command line: results on standard output, everything else on standard error.

A result is a table or, with --json, one JSON document. Colours are rich's, which honours NO_COLOR and
FORCE_COLOR. The results of `compare` and `parity` are printed by zoo.report.terminal and zoo.report.ladder.
"""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from itertools import groupby
from typing import TYPE_CHECKING, Any

from zoo import storage

if TYPE_CHECKING:
    import keras
    from rich.console import Console
    from rich.table import Table

    from zoo.registry import Card
    from zoo.training.run import Run

Record = dict[str, Any]


def console(*, stderr: bool = False) -> Console:
    """The console for results, or with `stderr` for progress and notes."""
    from rich.console import Console

    class Piped(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError, which `zoo.cli` handles; rich would exit with 1

    return Piped(stderr=stderr)


def table(*headings: str) -> Table:
    """A table; a heading that ends in > is that of a column of numbers, aligned to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    rows = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        numbers = heading.endswith(">")
        rows.add_column(heading.rstrip(">"), justify="right" if numbers else "left", no_wrap=numbers)
    return rows


def print_json(result: Any) -> None:
    """Print one JSON document: null for numbers that are not finite, the names of functions."""
    print(storage.json_text(result, default=lambda value: getattr(value, "__name__", str(value))), end="")


def note(text: str, *, quiet: bool = False) -> None:
    """Print a line that is not part of the result."""
    if text and not quiet:
        print(text, file=sys.stderr)


@contextmanager
def status(*, quiet: bool) -> Iterator[Callable[[str], None] | None]:
    """A callback that displays the current step on a terminal; None if quiet."""
    if quiet:
        yield None
        return
    with console(stderr=True).status("starting") as line:
        yield line.update


@contextmanager
def aside(*, quiet: bool) -> Iterator[None]:
    """Send what libraries print, such as Keras during a download, to standard error; nowhere if quiet."""
    if not quiet:
        with redirect_stdout(sys.stderr):
            yield
        return
    with open(os.devnull, "w") as sink, redirect_stdout(sink):  # noqa: PTH123
        yield


# zoo list, zoo info


def model_facts(card: Card) -> Record:
    """A model card, for --json."""
    from zoo import pretrained, registry

    names = ("name", "parameters", "multiply_adds", "input", "year", "idea", "paper", "url", "task", "recipe")
    families = [family for family, name in registry.families().items() if name == card.name]
    weights = [each.name for each in pretrained.of(card.name)]
    return {**{name: getattr(card, name) for name in names}, "families": families, "weights": weights}


def models(cards: Sequence[Card]) -> None:
    """Print one row per model below its family, and the family names that select a model.

    Names are never cut, however narrow the terminal is.
    """
    from rich.markup import escape

    from zoo import registry

    out = console()
    width = max(len(name) for name in ["model", *(card.name for card in cards)])
    digits = max(len(number) for number in ["parameters", *(f"{card.parameters:,}" for card in cards)])
    out.print(f"[dim]  {'model':{width}}  {'parameters':>{digits}}  input[/]", soft_wrap=True)
    for (family, idea, year), variants in groupby(cards, key=lambda c: (c.file.stem, c.idea, c.year)):
        out.print(f"[bold]{family}[/] ({year}): {escape(idea)}", highlight=False)
        for card in variants:
            shape = " x ".join("n" if size is None else str(size) for size in card.input)
            row = f"  {card.name:{width}}  {card.parameters:>{digits},}  {shape}"
            out.print(row, highlight=False, soft_wrap=True)
    names = {card.name for card in cards}
    # Non-breaking spaces keep each pair on one line.
    pairs = [f"{family}\xa0=\xa0{name}" for family, name in registry.families().items() if name in names]
    text = f"Names of families: {', '.join(pairs)}" if pairs else ""
    for line in textwrap.wrap(text, max(20, out.width), break_on_hyphens=False):
        out.print(line.replace("\xa0", " "), highlight=False, soft_wrap=True)


def layers(model: keras.Model) -> list[Record]:
    """The layers in the order of the forward pass, with the shapes of their outputs and their parameters."""
    rows = []
    for layer in model.operations:
        outputs = layer.output if isinstance(layer.output, tuple | list) else [layer.output]
        rows.append(
            {
                "name": layer.name,
                "kind": type(layer).__name__,
                "outputs": [list(tensor.shape) for tensor in outputs],
                "parameters": layer.count_params() if hasattr(layer, "count_params") else 0,
            }
        )
    return rows


def model_page(card: Card, layers: Sequence[Record]) -> None:
    """Print a model's card, its arguments, and its layers."""
    from zoo import pretrained
    from zoo.training.recipes import recipe

    out = console()
    out.print(f"[bold]{card.name}[/]  {card.idea}\n{card.paper}\n{card.url}\n")
    arguments = ", ".join(f"{name}={value!r}" for name, value in card.arguments.items()) or "none"
    facts = [
        f"arguments: {arguments}",
        f"{card.parameters:,} trainable parameters, {card.multiply_adds:,} multiply-adds "
        f"{'a step' if None in card.input else 'an example'}; task {card.task}",
        f"recipe {card.recipe}: {recipe(card.recipe).summary}",
    ]
    if card.receptive_field is not None:
        facts.append(f"receptive field {card.receptive_field} pixels")
    if card.tokens is not None:
        facts.append(f"{card.tokens} tokens")
    if (p := card.preprocessing) is not None:
        facts.append(
            f"images: shorter side to {p.resize} ({p.interpolation}), centre {p.size} x {p.size}, "
            f"mean {p.mean}, standard deviation {p.std}"
        )
    for weights in pretrained.of(card.name):
        record = weights.card()
        scores = ", ".join(f"{name} {value:.4g}" for name, value in record["metrics"].items())
        size = f"{record['parameters']:,} parameters"
        facts.append(f"pretrained weights {weights.name!r}: {scores}, {size}. {weights.limits}")
    for line in facts:
        out.print(line, highlight=False, markup=False)
    out.print()
    rows = table("layer", "kind", "output", "parameters>")
    for layer in layers:
        shapes = ", ".join(f"({_axes(shape)})" for shape in layer["outputs"])
        count = f"{layer['parameters']:,}" if layer["parameters"] else ""
        rows.add_row(layer["name"], layer["kind"], shapes, count)
    out.print(rows)


def _axes(shape: Sequence[int | None]) -> str:
    """A shape with b for the batch and n for a variable length."""
    batch, *rest = ("n" if size is None else str(size) for size in shape)
    return ", ".join(["b" if batch == "n" else batch, *rest])


# zoo train, zoo evaluate


def run_facts(run: Run) -> Record:
    """A training run, for --json, with the names of result.json."""
    names = ("backend", "engine", "mode", "batch_size", "seed", "recipe", "losses", "metrics", "history")
    times = ("first_step_s", "train_s", "interrupted")
    return {
        "model": run.model.name,
        "task": run.task.name,
        "steps": len(run.losses),
        **{name: getattr(run, name) for name in (*names, *times)},
        "saved": run.saved and str(run.saved),
    }


def run_line(run: Run) -> str:
    """A training run in one line."""
    held_out = f" · held out: {_metrics(run.metrics)}" if run.metrics else ""
    loss = run.history[-1].get("train_loss", run.losses[-1])  # the mean of the last epoch's steps
    return (
        f"{run.model.name} on {run.task.name}, {run.backend} {run.engine} ({run.mode}): "
        f"{len(run.losses)} steps in {run.train_s:.1f} s, train loss {loss:.4f}{held_out}"
        + (" (interrupted)" if run.interrupted else "")
    )


# The kind of a run's training data -> an input of `zoo predict`.
INPUTS = {"images": "photo", "texts": "text", "recordings": "recording"}


def next_line(run: Run) -> str:
    """Where a training run is saved, and a command that uses it."""
    from zoo.training import runs

    if run.saved is None:
        return "Not saved."
    saved = runs.run_of(run.model)
    path = shlex.quote(str(run.saved))
    commands = {
        "images": f"zoo predict {path} PHOTO",
        "texts": f'zoo predict {path} "TEXT"',
        "recordings": f"zoo predict {path} RECORDING.wav",
        "corpus": f'zoo generate {path} "PROMPT"',
        "pairs": f'zoo generate {path} "TEXT"',
    }
    command = commands.get(saved.kind if saved else "arrays", f"zoo evaluate {path}")
    return f"Saved in {run.saved}; next: {command}"


def evaluation_line(model: str, task: str | None, result: Record) -> str:
    """The result of `zoo evaluate` in one line."""
    metrics = {name: value for name, value in result.items() if name not in ("examples", "split")}
    on = f" on {task}" if task else ""
    return f"{model}{on}: {_metrics(metrics)} ({result['split']}: {result['examples']:,} examples)"


def _metrics(metrics: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


# zoo predict


def classes(kind: str, inputs: Sequence[Any], predictions: Sequence[Sequence[tuple[str, float]]]) -> None:
    """Print the most likely classes of each photo, text or recording."""
    from rich.markup import escape

    rows = table(kind, "class" if kind != "recording" else "text", "probability>")
    for each, labels in zip(inputs, predictions, strict=True):
        for i, (label, probability) in enumerate(labels):
            rows.add_row("" if i else escape(str(each)), escape(label), f"{100 * probability:.2f} %")
        rows.add_section()
    console().print(rows)


# zoo bench


@contextmanager
def bench_progress(
    *, quiet: bool
) -> Iterator[tuple[Callable[[str], None] | None, Callable[[Sequence[Record]], None]]]:
    """Callbacks that display the current measurement, and print each table when it is complete."""
    if quiet:
        yield None, bench
        return
    with console(stderr=True).status("starting") as line:

        def report(rows: Sequence[Record]) -> None:
            line.stop()  # while it is displayed, rich redirects standard output to it
            bench(rows)
            line.start()

        yield line.update, report


def bench(rows: Sequence[Record]) -> None:
    """Print the table of one model and kind of work, and the errors."""
    out, (model, kind) = console(), (rows[0]["model"], rows[0]["what"])
    times = ["build>", "quartiles>"] if kind == "build" else ["step>", "quartiles>", "compile>"]
    figures = table("implementation", *times, "peak>", "ratio>", "to fastest>")
    for row in rows:
        figures.add_row(f"{row['backend']} {row['contestant']}", *_bench_figures(row))
    batch = "" if kind == "build" else f", batch {rows[0]['batch_size']}"
    out.print(f"\n[bold]{model}, {kind}[/]{batch}, {rows[0]['threads']} threads")
    out.print(figures)
    if losses := [row["loss"] for row in rows if row.get("loss") is not None]:
        what = "Sum of the generated tokens" if kind == "generate" else "Loss after the same steps"
        difference = max(losses) - min(losses)
        out.print(f"{what}: {losses[0]:.5f}, all within {difference:.0e}", highlight=False)
    for row in rows:
        if row["error"]:
            out.print(
                f"{row['backend']} {row['contestant']} failed: {row['error']}", highlight=False, markup=False
            )


def _bench_figures(row: Record) -> list[str]:
    if row["error"]:
        return ["failed"]
    if row["what"] == "build":
        low, high = row["build_s_quartiles"]
        times = [f"{row['build_s']:.2f} s", f"{low:.2f}-{high:.2f}"]
    else:
        low, high = row["step_ms_quartiles"]
        times = [f"{row['step_ms']:.2f} ms", f"{low:.2f}-{high:.2f}", f"{row['compile_s']:.1f} s"]
    ratios = [row.get("ratio"), row.get("ratio_fastest")]
    return [
        *times,
        f"{row['peak_mb']:,.0f} MB",
        *("" if ratio is None else f"{ratio:.2f}" for ratio in ratios),
    ]


# zoo doctor


def machine(environment: Record, frameworks: Record, world: Record | None) -> None:
    """Print the machine, the devices, threads and modes of each framework, and the workers to join."""
    from rich.markup import escape

    out = console()
    out.print(
        "{platform}, Python {python}\n{processor}, {cores} cores, {memory_gb} GB".format_map(environment),
        highlight=False,
    )
    rows = table("framework", "version", "device", "kind", "memory>", "threads>", "native modes")
    for name, facts in frameworks.items():
        if "error" in facts:
            rows.add_row(name, escape(facts["error"]))
            continue
        for i, device in enumerate(facts["devices"]):
            memory = device["memory_bytes"]
            rows.add_row(
                *((name, facts["version"]) if i == 0 else ("", "")),
                device["name"],
                device["kind"],
                f"{memory / 2**30:.1f} GB" if memory else "host",
                str(facts["threads"]) if i == 0 else "",
                ", ".join(facts["modes"]) if i == 0 else "",
            )
    out.print(rows)
    if world is None:
        line = "no launcher's variables: this process trains alone, or starts zoo train --workers N"
    elif "error" in world:
        line = f"workers: {world['error']}"
    else:
        line = "worker {rank} of {size}, {local_rank} of {local_size} on this machine; worker 0 at {address}"
        line = f"{line.format_map(world)} ({', '.join(world['variables'])})"
    out.print(escape(line), highlight=False, soft_wrap=True)
