"""The command line: zoo list, info, train, predict, generate, compare, parity, export, bench, doctor ...

Exit status: 0 done, 1 the command could not do its work (a wrong name, nothing installed), 2 wrong usage,
3 a comparison in which a run failed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zoo.errors import WrongConfiguration, ZooError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

app = typer.Typer(
    help="Classic deep-learning models, written once, with the same numbers on PyTorch, TensorFlow and JAX.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Model = Annotated[str, typer.Argument(help="A model's name; `zoo list` shows them.")]
BackendOption = Annotated[str | None, typer.Option("--backend", "-b", help="torch, tensorflow or jax.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda:0, mps ...; `zoo doctor` lists them.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of each framework.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Training steps; overrides --epochs.")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes over the data.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Examples in a step.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of weights, order and dropout.")]
TaskOption = Annotated[
    str | None,
    typer.Option(help="digits, mnist ..., or a folder or CSV of images; the model's own by default."),
]

TokenizerOption = Annotated[
    str | None,
    typer.Option(help="default, a tokenizer.json, vocab.txt ..., or hf://owner/name; bytes without."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(help="Weights to start from: a file of anyone's, or hf://owner/name of the hub."),
]


def main() -> None:
    """Run the command line; errors of the zoo are one line on standard error and exit status 1."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every process otherwise
    try:
        app()
    except ZooError as error:
        print(f"zoo: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(1)


@app.command("list")
def list_(pattern: Annotated[str, typer.Argument(help='A shell pattern, e.g. "vit*".')] = "*") -> None:
    """The models, with their exact number of parameters."""
    from zoo import registry

    table = _table("model", "parameters>", "input>", "year>", "idea")
    for name in registry.list_models(pattern):
        card = registry.card(name)
        shape = " x ".join("n" if size is None else str(size) for size in card.input)
        table.add_row(name, f"{card.parameters:,}", shape, str(card.year), card.idea)
    _console().print(table)


@app.command()
def info(model: Model) -> None:
    """A model's card, its arguments, and its layers with their shapes and parameters."""
    from zoo import registry

    card = registry.card(model)
    console = _console()
    console.print(f"[bold]{card.name}[/]  {card.idea}\n{card.paper}\n{card.url}\n")
    arguments = ", ".join(f"{name}={value!r}" for name, value in card.arguments.items()) or "none"
    console.print(f"arguments: {arguments}", markup=False)
    console.print(
        f"{card.parameters:,} trainable parameters, {card.multiply_adds:,} multiply-adds "
        f"{'a step' if None in card.input else 'an example'}; "
        f"task {card.task}, recipe {card.recipe}",
        highlight=False,
    )
    if card.receptive_field is not None:
        console.print(f"receptive field {card.receptive_field} pixels", highlight=False)
    if card.tokens is not None:
        console.print(f"{card.tokens} tokens", highlight=False)
    if (p := card.preprocessing) is not None:
        console.print(
            f"photographs: shorter side to {p.resize} ({p.interpolation}), centre {p.size} x {p.size}, "
            f"mean {p.mean}, deviation {p.std}",
            highlight=False,
        )
    console.print()
    table = _table("layer", "kind", "output", "parameters>")
    for layer in registry.build(card.name).operations:
        count = layer.count_params() if hasattr(layer, "count_params") else 0
        outputs = layer.output if isinstance(layer.output, tuple | list) else [layer.output]
        shapes = ", ".join(f"({_axes(tensor.shape)})" for tensor in outputs)
        table.add_row(layer.name, type(layer).__name__, shapes, f"{count:,}" if count else "")
    console.print(table)


def _axes(shape: Sequence[int | None]) -> str:
    """A shape in words: b examples, and n steps where their number varies."""
    batch, *rest = ("n" if size is None else str(size) for size in shape)
    return ", ".join(["b" if batch == "n" else batch, *rest])


@app.command()
def train(
    model: Model,
    task: TaskOption = None,
    backend: BackendOption = None,
    engine: Annotated[str, typer.Option(help="native or keras.")] = "native",
    mode: Annotated[str | None, typer.Option(help="How the native engine runs.")] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: Annotated[int | None, typer.Option(min=0, help="0 by default.")] = None,
    augment: Annotated[
        str | None,
        typer.Option(help='Random changes, e.g. "RandomCrop(32), HorizontalFlip"; see zoo augment.'),
    ] = None,
    tokenizer: TokenizerOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="File to save the run in, after every epoch and at the end.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Checkpoint to go on from, of any framework.")] = None,
    weights: WeightsOption = None,
) -> None:
    """Train a model and print what came of it."""
    from zoo import backends, registry, tokenizers

    card = registry.card(model)
    reader = tokenizers.found(tokenizer)
    backends.use(backend or backends.settle(), device=device, threads=threads)
    from zoo.training import told, train

    if note := told(card, task or card.task, reader):
        print(note)
    run = train(
        model,
        task,
        engine=engine,
        mode=mode,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        augment=augment,
        tokenizer=reader,
        checkpoint=checkpoint,
        resume=resume,
        weights=weights,
    )
    metrics = "".join(f", {name} {value:.4f}" for name, value in run.metrics.items())
    print(
        f"{run.model.name} on {run.task.name}, {run.backend} {run.engine} ({run.mode}): "
        f"{len(run.losses)} steps in {run.train_s:.1f} s, loss {run.losses[-1]:.4f}{metrics}"
        + (" (interrupted)" if run.interrupted else "")
    )


@app.command()
def predict(
    model: Model,
    photos: Annotated[list[Path], typer.Argument(help="Images, one or several.")],
    weights: Annotated[
        str | None, typer.Option(help="A file of anyone's, or hf://owner/name of the hub; random without.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    labels: Annotated[
        Path | None, typer.Option(help="File of the classes' names, one a line, as many as classes.")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The small configuration of the tests.")] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Name what is in photographs: the likeliest classes, and their probabilities."""
    from zoo import backends, registry

    changes = dict(registry.card(model).small) if small else {}
    if labels is not None:
        changes.pop("classes", None)  # as many as names
    backends.use(backend or backends.settle(), device=device, threads=threads)
    from zoo.prediction import predict

    found = predict(model, photos, weights=weights, top=top, labels=labels, **changes)
    from rich.markup import escape

    table = _table("photo", "class", "probability>")
    for photo, classes in zip(photos, found, strict=True):
        for i, (label, probability) in enumerate(classes):
            table.add_row("" if i else escape(str(photo)), escape(label), f"{100 * probability:.2f} %")
        table.add_section()
    _console().print(table)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to go on from, or for T5 to answer.")],
    weights: WeightsOption = None,
    tokenizer: TokenizerOption = None,
    task: Annotated[
        str | None,
        typer.Option(help="Built as zoo train builds it for this task; the model's own by default."),
    ] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="The most that is written.")] = 100,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Draw from so many tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from this share only.")] = None,
    beams: Annotated[int, typer.Option(min=1, help="Search for the likeliest text, this wide.")] = 1,
    repetition_penalty: Annotated[float, typer.Option(help="Divides the scores of tokens seen.")] = 1.0,
    stop: Annotated[list[str] | None, typer.Option(help="A text to end before; may be repeated.")] = None,
    seed: SeedOption = 0,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Write: go on from a prompt, or answer it."""
    from zoo import backends, registry, tokenizers

    card = registry.card(model)
    if "vocabulary" not in card.arguments or card.arguments.get("cell"):
        raise WrongConfiguration(f"{card.name} does not write; gpt-mini and t5-mini do")
    reader = tokenizers.found(tokenizer)
    backends.use(backend or backends.settle(), device=device, threads=threads)
    from zoo.generation import generate
    from zoo.training import fitting
    from zoo.weights import load

    changes = fitting(card, task or card.task, tokenizer=reader)
    if reader is not None and task is None and reader.fits(usual := card.arguments["vocabulary"]):
        changes["vocabulary"] = usual  # as the published weights are
    built = registry.build(card.name, seed=seed, **changes)
    if weights is not None:
        load(built, weights, head="require")
    else:
        print(f"{card.name} has random weights: what it writes is chance. Give --weights.", file=sys.stderr)
    how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "beams": beams}
    how |= {"repetition_penalty": repetition_penalty, "stop": stop, "seed": seed, "tokenizer": reader}
    if "decoder_token_ids" not in registry.input_shapes(built):
        print(prompt, end="")
    if beams > 1:
        print(generate(built, prompt, max_tokens, **how))
        return
    generate(built, prompt, max_tokens, **how, watch=lambda _, piece: print(piece, end="", flush=True))
    print()


@app.command()
def compare(
    models: Annotated[list[str], typer.Argument(help="Models' names; `zoo list` shows them.")],
    task: TaskOption = None,
    backends: Annotated[str | None, typer.Option(help="Comma-separated; all installed by default.")] = None,
    engines: Annotated[str, typer.Option(help="Comma-separated.")] = "keras,native",
    modes: Annotated[
        str | None, typer.Option(help="Comma-separated: further ways for the native engine.")
    ] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    tokenizer: TokenizerOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path, typer.Option(help="Folder of result.json and report.html.")] = Path("zoo-report"),
) -> None:
    """Train models on every framework, by both engines, and show them side by side."""
    from zoo import registry, tokenizers
    from zoo.comparison import compare
    from zoo.comparison.terminal import live
    from zoo.training import told

    console = _console()
    reader = tokenizers.found(tokenizer)
    for card in map(registry.card, models):
        if note := told(card, task or card.task, reader):
            console.print(note, highlight=False)
    with live(console) as show:
        result = compare(
            *models,
            task=task,
            backends=_split(backends),
            engines=_split(engines) or (),
            modes=_split(modes),
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            tokenizer=tokenizer,
            seed=seed,
            device=device,
            threads=threads,
            out=out,
            show=show,
        )
    from zoo.comparison.terminal import summary

    summary(result, console)
    console.print(f"Report: {out / 'report.html'}", highlight=False)
    if any(run["error"] for run in result.runs):
        raise typer.Exit(3)


@app.command()
def parity(
    models: Annotated[list[str] | None, typer.Argument(help="Models' names; all of them by default.")] = None,
    backends: Annotated[str | None, typer.Option(help="Comma-separated; all installed by default.")] = None,
    rungs: Annotated[str | None, typer.Option(help="Comma-separated, 1 to 8; all by default.")] = None,
    float64: Annotated[bool, typer.Option("--float64", help="In float64 as well.")] = False,
    modes: Annotated[
        str | None, typer.Option(help="Comma-separated: the native engine's; all but compiled by default.")
    ] = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Seed faults in one framework; list which rung catches which.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="Folder of parity.json and report.html.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Climb the parity ladder: where do the frameworks differ first, and by how much?"""
    from zoo.comparison import ladder_report
    from zoo.errors import WrongConfiguration

    console = _console()
    names = _split(backends)
    try:
        numbers = [int(n) for n in _split(rungs) or []]
    except ValueError:
        raise WrongConfiguration(f"--rungs {rungs}: expected numbers from 1 to 8, e.g. 1,2,3") from None
    if faults:
        from zoo.faults import hunt

        with console.status("starting") as status:
            rows = hunt(backends=names, show=status.update)
        if as_json:
            print(json.dumps(rows, indent=1))
        else:
            ladder_report.faults(rows, console)
        raise typer.Exit(3 if any(row["caught"] != row["rung"] for row in rows) else 0)
    from zoo.ladder import NUMBERS, QUICK_MODES, parity

    with console.status("starting") as status:
        result = parity(
            *(models or ()),
            backends=names,
            rungs=numbers or NUMBERS,
            float64=float64,
            modes=_split(modes) or QUICK_MODES,
            out=out,
            show=status.update,
        )
    if as_json:
        print(json.dumps(result.rows, indent=1))
    else:
        ladder_report.summary(result, console)
        if out is not None:
            console.print(f"Report: {out / 'report.html'}", highlight=False)
    if result.failed:
        raise typer.Exit(3)


@app.command()
def augment(
    photo: Annotated[Path | None, typer.Argument(help="An image; one of a temple by default.")] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option("--set", help='A row, e.g. "RandAugment(2, 9), CutMix"; may be repeated.'),
    ] = None,
    columns: Annotated[int, typer.Option(min=1, help="Epochs to draw.")] = 6,
    seed: SeedOption = 0,
    out: Annotated[Path, typer.Option(help="The picture, a PNG.")] = Path("zoo-augment.png"),
    show: Annotated[bool, typer.Option("--show", help="Open the picture.")] = False,
) -> None:
    """Draw what augmentation makes of a photograph: every transform, or the sets you name."""
    from sklearn.datasets import load_sample_images

    from zoo.augment.grid import EVERY, draw
    from zoo.preprocessing import load, pixels

    temple, flower = load_sample_images().images
    first = temple if photo is None else pixels(load(photo, 3))
    picture = draw(first, flower, sets or EVERY, columns=columns, seed=seed)
    picture.save(out)
    print(f"{out}: {picture.width} x {picture.height} pixels")
    if show:
        picture.show()


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The file: .safetensors, .npz or .weights.h5.")],
    layout: Annotated[str, typer.Option(help="torchvision, timm, transformers or zoo: whose names.")] = "zoo",
    weights: WeightsOption = None,
    task: Annotated[
        str | None, typer.Option(help="Built as zoo train builds it for this task, not in full size.")
    ] = None,
    backend: BackendOption = None,
    seed: SeedOption = 0,
) -> None:
    """Write weights to a file by the names of others: those of a file or a checkpoint, or new ones."""
    from zoo import backends, registry

    card = registry.card(model)
    backends.use(backend or backends.settle())
    from zoo.training import fitting
    from zoo.weights import load, save

    built = registry.build(card.name, seed=seed, **(fitting(card, task) if task else {}))
    if weights is not None:
        print(load(built, weights, head="require"))
    save(built, out, layout)
    print(f"{out}: {built.name} by {layout}'s names, {out.stat().st_size / 1e6:,.1f} MB")


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(help="Models' names; `zoo list` shows them.")],
    train: Annotated[bool, typer.Option("--train", help="Only training steps.")] = False,
    infer: Annotated[bool, typer.Option("--infer", help="Only inference.")] = False,
    generate: Annotated[bool, typer.Option("--generate", help="Only writing, 64 tokens a step.")] = False,
    build: Annotated[bool, typer.Option("--build", help="Only building, with initial weights.")] = False,
    backends: Annotated[str | None, typer.Option(help="Comma-separated; all installed by default.")] = None,
    batch_size: BatchOption = None,
    threads: ThreadsOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Time the zoo's step beside plain torch, torchvision, Flax, tf.function, and Keras's own fit."""
    from zoo.benchmarks import bench

    console = _console()
    asked = {"train": train, "infer": infer, "generate": generate, "build": build}
    chosen = [name for name in asked if asked[name]] or ["train", "infer"]
    with console.status("starting") as status:
        rows = bench(
            *models,
            what=chosen,
            backends=_split(backends),
            batch_size=batch_size,
            threads=threads,
            show=status.update,
        )
    if as_json:
        print(json.dumps(rows, indent=1))
    else:
        for model, kind in dict.fromkeys((row["model"], row["what"]) for row in rows):
            own = [row for row in rows if (row["model"], row["what"]) == (model, kind)]
            times = ["build>", "quartiles>"] if kind == "build" else ["step>", "quartiles>", "compile>"]
            table = _table("contestant", *times, "peak>", "ratio>")
            for row in own:
                table.add_row(f"{row['backend']} {row['contestant']}", *_bench_figures(row))
            batch = "" if kind == "build" else f", batch {own[0]['batch_size']}"
            console.print(f"\n[bold]{model}, {kind}[/]{batch}, {own[0]['threads']} threads")
            console.print(table)
            if losses := [row["loss"] for row in own if row.get("loss") is not None]:
                what = "Sum of the tokens written" if kind == "generate" else "Loss after the same steps"
                console.print(
                    f"{what}: {losses[0]:.5f}, all within {max(losses) - min(losses):.0e}",
                    highlight=False,
                )
        for row in rows:
            if row["error"]:
                console.print(
                    f"{row['backend']} {row['contestant']} failed: {row['error']}",
                    highlight=False,
                    markup=False,
                )
    if any(row["error"] for row in rows):
        raise typer.Exit(3)


def _bench_figures(row: dict[str, Any]) -> list[str]:
    if row["error"]:
        return ["failed"]
    if row["what"] == "build":
        low, high = row["build_s_quartiles"]
        times = [f"{row['build_s']:.2f} s", f"{low:.2f}-{high:.2f}"]
    else:
        low, high = row["step_ms_quartiles"]
        times = [f"{row['step_ms']:.2f} ms", f"{low:.2f}-{high:.2f}", f"{row['compile_s']:.1f} s"]
    ratio = "" if row["ratio"] is None else f"{row['ratio']:.2f}"
    return [*times, f"{row['peak_mb']:,.0f} MB", ratio]


@app.command()
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """What each framework finds on this machine, and what to install where something is missing."""
    from zoo import machine

    here, found = machine.environment(), machine.frameworks()
    if as_json:
        print(json.dumps({"environment": here, "frameworks": found}, indent=1))
        return
    from rich.markup import escape

    console = _console()
    console.print(
        f"{here['platform']}, Python {here['python']}\n{here['processor']}, {here['cores']} cores, "
        f"{here['memory_gb']} GB",
        highlight=False,
    )
    table = _table("framework", "version", "device", "kind", "memory>", "threads>", "native modes")
    for name, facts in found.items():
        if "error" in facts:
            table.add_row(name, escape(facts["error"]))
            continue
        for i, device in enumerate(facts["devices"]):
            memory = device["memory_bytes"]
            table.add_row(
                *((name, facts["version"]) if i == 0 else ("", "")),
                device["name"],
                device["kind"],
                f"{memory / 2**30:.1f} GB" if memory else "host",
                str(facts["threads"]) if i == 0 else "",
                ", ".join(facts["modes"]) if i == 0 else "",
            )
    console.print(table)


def _split(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",") if name.strip()] if names else None


def _console() -> Console:
    from rich.console import Console

    return Console()


def _table(*headings: str) -> Table:
    """A table; a heading that ends in > is of numbers, set to the right."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in headings:
        numbers = heading.endswith(">")
        table.add_column(heading.rstrip(">"), justify="right" if numbers else "left", no_wrap=numbers)
    return table
