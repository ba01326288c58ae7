"""zoo compare, parity, bench: frameworks side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo.cli.completion as completion
import zoo.cli.terminal as terminal
from zoo.cli.options import (
    FINDING,
    BackendsOption,
    BatchOption,
    DeviceOption,
    EpochsOption,
    ErrorsOption,
    JsonOption,
    Models,
    ModesOption,
    QuietOption,
    SeedOption,
    StepsOption,
    TaskOption,
    ThreadsOption,
    TokenizerOption,
    count,
    option,
    read_arrays,
    split_names,
)
from zoo.cli.sweep import AddressOption
from zoo.cli.sweep import run as run_sweep
from zoo.errors import WrongConfiguration


def compare(
    models: Models,
    task: TaskOption = None,
    backends: BackendsOption = None,
    engines: Annotated[
        str, option("Comma-separated.", "NAMES", complete=completion.several(completion.engines))
    ] = "keras,native",
    modes: ModesOption = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="The same bits: two modes of each framework, one hash.")
    ] = False,
    seeds: Annotated[
        int | None,
        count("Repeat with so many seeds, from --seed on: mean, spread and paired tests, as zoo sweep."),
    ] = None,
    address: AddressOption = None,
    workers: Annotated[
        int | None, count("Train on so many processes too, beside the one; native engine.", least=2)
    ] = None,
    out: Annotated[Path, option("Folder of result.json and report.html.", "PATH")] = Path("zoo-report"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on every framework by both engines, side by side."""
    if seeds is not None:
        _sweep(locals())
        return
    from zoo import registry, tokenizers
    from zoo.comparison import compare
    from zoo.report.terminal import live, summary
    from zoo.training.plan import task_summary

    if address is not None:
        raise WrongConfiguration(f"--address {address} goes with --seeds; leave one out or give both")
    reader = tokenizers.resolve(tokenizer)
    for card in map(registry.card, models):
        terminal.note(task_summary(card, task or card.task, reader), quiet=quiet)
    with nullcontext() if quiet else live(terminal.console(stderr=True)) as show:
        result = compare(
            *models,
            task=task,
            backends=split_names(backends),
            engines=split_names(engines) or (),
            modes=split_names(modes),
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            tokenizer=tokenizer,
            errors=errors,
            seed=seed,
            device=device,
            threads=threads,
            exact=exact,
            workers=workers,
            out=out,
            show=show,
        )
    if as_json:
        terminal.print_json(result)
    else:
        summary(result, console := terminal.console())
        console.print(f"Report: {out / 'report.html'}", highlight=False)
    if any(run["error"] for run in result.runs):
        raise typer.Exit(FINDING)


SETTINGS = ("task", "epochs", "steps", "batch_size", "tokenizer", "device")


def _sweep(given: Mapping[str, Any]) -> None:
    """The comparison that these options describe, for each seed. Raises ZooError's kinds for wrong names."""
    from zoo.comparison import choices
    from zoo.sweeps import folder_of
    from zoo.sweeps.specification import specify

    for name, instead in (("modes", "list modes in a file of zoo sweep"), ("workers", "leave one out")):
        if given[name]:
            raise WrongConfiguration(f"--{name} {given[name]} with --seeds; {instead}")
    backends, engines = split_names(given["backends"]), split_names(given["engines"]) or []
    choices(backends, engines, None)  # raises for wrong names
    settings = {"engine": ["native"] if given["exact"] else engines}
    settings |= {name: given[name] for name in SETTINGS if given[name] is not None}
    settings |= {"exact": True} if given["exact"] else {}
    settings |= {"errors": given["errors"]} if given["errors"] != "stop" else {}
    seeds = range(given["seed"], given["seed"] + given["seeds"])
    sweep = specify(given["models"], backends, seeds, settings, cpus=given["threads"] or 1)
    options = {name: given[name] for name in ("address", "quiet", "as_json")}
    run_sweep(sweep, folder_of(None, given["out"]), jobs=None, **options)


OwnModels = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="MODEL",
        help="Models' names; all of them by default. Or a function that builds yours: FILE.py:FUNCTION.",
        autocompletion=completion.models,
    ),
]
ParityModes = Annotated[
    str | None,
    option(
        "Comma-separated: the native engine's; all but compiled by default.",
        "NAMES",
        complete=completion.several(completion.modes),
    ),
]
InputsOption = Annotated[
    Path | None, option("For a model of yours: .npy, or .npz with an array for each input.", "PATH")
]
SizeOption = Annotated[
    int | None, option("Of images, for a builder that takes it, e.g. keras.applications:VGG16.", "N")
]
TargetsOption = Annotated[Path | None, option("Labels or numbers to train it on, a .npy file.", "PATH")]


def parity(
    models: OwnModels = None,
    backends: BackendsOption = None,
    rungs: Annotated[
        str | None, option("Comma-separated; by default 1 to 11. 0: of exact runs, the same bits.", "NUMBERS")
    ] = None,
    float64: Annotated[bool, typer.Option("--float64", help="In float64 as well.")] = False,
    modes: ParityModes = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Seed faults in one framework; list which rung catches which.")
    ] = False,
    inputs: InputsOption = None,
    size: SizeOption = None,
    targets: TargetsOption = None,
    device: Annotated[str, option("Of every framework; the bounds are a CPU's.", "NAME")] = "cpu",
    out: Annotated[Path | None, option("Folder of parity.json and report.html.", "PATH")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check numerical parity across frameworks: what differs, where, how much."""
    names = split_names(backends)
    try:
        numbers = [int(n) for n in split_names(rungs) or []]
    except ValueError:
        raise WrongConfiguration(f"--rungs {rungs}: expected numbers from 0 to 11, e.g. 1,2,3") from None
    if faults:
        raise typer.Exit(_seed_faults(names, quiet=quiet, as_json=as_json))
    from zoo.ladder import QUICK_MODES, parity
    from zoo.ladder.bounds import NUMBERS
    from zoo.report import ladder as ladder_report

    with terminal.status(quiet=quiet) as show:
        result = parity(
            *(models or ()),
            inputs=None if inputs is None else read_arrays("--inputs", inputs),
            size=size,
            targets=None if targets is None else read_arrays("--targets", targets),
            backends=names,
            rungs=numbers or NUMBERS,
            float64=float64,
            modes=split_names(modes) or QUICK_MODES,
            device=device,
            out=out,
            show=show,
        )
    if as_json:
        terminal.print_json(result)
    else:
        ladder_report.summary(result, console := terminal.console())
        if out is not None:
            console.print(f"Report: {out / 'report.html'}", highlight=False)
    if result.failed:
        raise typer.Exit(FINDING)


def _seed_faults(backends: list[str] | None, *, quiet: bool, as_json: bool) -> int:
    """Print which rung catches which fault; the exit status."""
    from zoo.ladder.injection import inject_faults
    from zoo.report import ladder as ladder_report

    with terminal.status(quiet=quiet) as show:
        rows = inject_faults(backends=backends, show=show)
    if as_json:
        terminal.print_json(rows)
    else:
        ladder_report.faults(rows, terminal.console())
    return FINDING if any(row["caught"] != row["rung"] for row in rows) else 0


def bench(
    models: Models,
    train: Annotated[bool, typer.Option("--train", help="Only training steps.")] = False,
    infer: Annotated[bool, typer.Option("--infer", help="Only inference.")] = False,
    generate: Annotated[bool, typer.Option("--generate", help="Only writing, 64 tokens a step.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Only building, with initial weights.")] = False,
    backends: BackendsOption = None,
    batch_size: BatchOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None, option("A file of JSON that grows; what it has is not measured again.", "PATH")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Time steps beside plain torch, Flax, tf.function, fit."""
    from zoo.benchmarks import bench

    asked = {"train": train, "infer": infer, "generate": generate, "build": build}
    chosen = [name for name in asked if asked[name]] or ["train", "infer"]
    with terminal.bench_progress(quiet=quiet) as (show, report):
        rows = bench(
            *models,
            what=chosen,
            backends=split_names(backends),
            batch_size=batch_size,
            device=device,
            threads=threads,
            show=show,
            report=None if as_json else report,
            out=out,
        )
    if as_json:
        terminal.print_json(rows)
    if any(row["error"] for row in rows):
        raise typer.Exit(FINDING)
