"""The command line: zoo list, info, train, predict, generate, compare, parity, export, bench, doctor ...

What a command found goes to standard output, progress and notes to standard error, so that a pipe gets the
result alone. `STATUS` says what it exits with.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from zoo import _lazy, completion, terminal
from zoo.errors import UnknownModel, WrongConfiguration, ZooError, nearest

# As diff and grep have it.
FINDING, TROUBLE, INTERRUPTED = 1, 2, 130
STATUS = """\b
Exit status:
  0    done, and nothing amiss
  1    done, and something amiss: a rung of the ladder fails, a run died
  2    not done: wrong usage, a wrong name, missing data; the last line says why
  130  interrupted by Ctrl-C

Colours follow NO_COLOR and FORCE_COLOR."""

app = typer.Typer(
    help="Classic deep-learning models, written once, with the same numbers on PyTorch, TensorFlow and JAX.",
    epilog=STATUS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes half the time, and an error is a line
)


def option(text: str, complete: completion.Complete | None = None, *names: str) -> Any:
    """An option whose values the shell completes."""
    return typer.Option(*names, help=text, autocompletion=complete)


Model = Annotated[
    str, typer.Argument(help="A model's name; `zoo list` shows them.", autocompletion=completion.models)
]
Models = Annotated[
    list[str], typer.Argument(help="Models' names; `zoo list` shows them.", autocompletion=completion.models)
]
BackendOption = Annotated[
    str | None, option("torch, tensorflow or jax.", completion.backends, "--backend", "-b")
]
BackendsOption = Annotated[
    str | None,
    option("Comma-separated; all installed by default.", completion.several(completion.backends)),
]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda:0, mps ...; `zoo doctor` lists them.")]
ThreadsOption = Annotated[int | None, typer.Option(min=1, help="CPU threads of each framework.")]
StepsOption = Annotated[int | None, typer.Option(min=1, help="Training steps; overrides --epochs.")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Passes over the data.")]
BatchOption = Annotated[int | None, typer.Option("--batch-size", min=1, help="Examples in a step.")]
SeedOption = Annotated[int, typer.Option(min=0, help="Of weights, order and dropout.")]
TaskOption = Annotated[
    str | None,
    option("digits, mnist ..., or a folder or CSV of images; the model's own by default.", completion.tasks),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(help="default, a tokenizer.json, vocab.txt ..., or hf://owner/name; bytes without."),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(help="Trained ones of the zoo by name, a file of anyone's, or hf://owner/name of the hub."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


def main() -> None:
    """Run the command line; an error of the zoo is one line on standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every process otherwise
    _lazy.leave_out_extras()
    try:
        app(prog_name="zoo")
    except ZooError as error:
        print(f"zoo: {type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(TROUBLE)
    except Exception:  # Python would exit with 1, which says that something was found
        traceback.print_exc()
        sys.exit(TROUBLE)


@app.command("list")
def list_(
    pattern: Annotated[
        str, typer.Argument(help='A shell pattern, e.g. "vit*".', autocompletion=completion.models)
    ] = "*",
    as_json: JsonOption = False,
) -> None:
    """List the models, with their exact numbers of parameters."""
    from zoo import registry

    if not (names := registry.list_models(pattern)):
        near = nearest(pattern, registry.list_models())
        raise UnknownModel(f'no model matches "{pattern}"; {near}. Try a pattern, "{pattern}*"')
    cards = [registry.card(name) for name in names]
    if as_json:
        terminal.print_json([terminal.model_facts(card) for card in cards])
    else:
        terminal.models(cards)


@app.command()
def info(model: Model, as_json: JsonOption = False) -> None:
    """Show a model's card, its arguments, and its layers."""
    from zoo import registry

    card = registry.card(model)
    with terminal.aside(quiet=False):
        layers = terminal.layers(registry.build(card.name))
    if as_json:
        more = {name: getattr(card, name) for name in ("arguments", "receptive_field", "tokens")}
        prepared = card.preprocessing and asdict(card.preprocessing)
        facts = {**terminal.model_facts(card), **more, "preprocessing": prepared, "layers": layers}
        terminal.print_json(facts)
    else:
        terminal.model_page(card, layers)


@app.command()
def train(
    model: Model,
    task: TaskOption = None,
    backend: BackendOption = None,
    engine: Annotated[str, option("native or keras.", completion.engines)] = "native",
    mode: Annotated[str | None, option("How the native engine runs.", completion.modes)] = None,
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
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model and say what came of it."""
    from zoo import backends, registry, tokenizers

    card = registry.card(model)
    reader = tokenizers.found(tokenizer)
    backends.use(backend or backends.settle(), device=device, threads=threads)
    from zoo.training import told, train

    terminal.note(told(card, task or card.task, reader), quiet=quiet)
    with terminal.aside(quiet=quiet):
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
            progress=False if quiet else None,
        )
    if as_json:
        terminal.print_json(terminal.run_facts(run))
    else:
        print(terminal.run_line(run))
    if run.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def predict(
    model: Model,
    photos: Annotated[list[Path], typer.Argument(help="Images, one or several.")],
    weights: Annotated[
        str | None,
        typer.Option(help="The zoo's by name, a file of anyone's, or hf://owner/name; random without."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Classes to show.")] = 5,
    labels: Annotated[
        Path | None, typer.Option(help="File of the classes' names, one a line, as many as classes.")
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The small configuration of the tests.")] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name what is in photographs: the likeliest classes."""
    from zoo import backends, registry

    changes = dict(registry.card(model).small) if small else {}
    if labels is not None:
        changes.pop("classes", None)  # as many as names
    backends.use(backend or backends.settle(), device=device, threads=threads)
    from zoo.prediction import predict

    found = predict(model, photos, weights=weights, top=top, labels=labels, **changes)
    if as_json:
        named = [[{"class": label, "probability": p} for label, p in classes] for classes in found]
        rows = [{"photo": str(photo), "classes": row} for photo, row in zip(photos, named, strict=True)]
        terminal.print_json(rows)
    else:
        terminal.classes(photos, found)


@app.command()
def generate(
    model: Model,
    prompt: Annotated[str, typer.Argument(help="The text to go on from, or for T5 to answer.")],
    weights: WeightsOption = None,
    tokenizer: TokenizerOption = None,
    task: Annotated[
        str | None,
        option("Built as zoo train builds it for this task; the model's own by default.", completion.tasks),
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
    from zoo import backends, pretrained, registry, tokenizers

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
    built = registry.build(card.name, seed=seed, **{**changes, **pretrained.needed(card.name, weights)})
    if weights is not None:
        load(built, weights, head="require")
    else:
        terminal.note(f"{card.name} has random weights: what it writes is chance. Give --weights.")
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
    models: Models,
    task: TaskOption = None,
    backends: BackendsOption = None,
    engines: Annotated[
        str, option("Comma-separated.", completion.several(completion.engines))
    ] = "keras,native",
    modes: Annotated[
        str | None,
        option("Comma-separated: more ways for the native engine.", completion.several(completion.modes)),
    ] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    tokenizer: TokenizerOption = None,
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path, typer.Option(help="Folder of result.json and report.html.")] = Path("zoo-report"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on every framework by both engines, side by side."""
    from zoo import registry, tokenizers
    from zoo.comparison import compare
    from zoo.comparison.terminal import live, summary
    from zoo.training import told

    reader = tokenizers.found(tokenizer)
    for card in map(registry.card, models):
        terminal.note(told(card, task or card.task, reader), quiet=quiet)
    with nullcontext() if quiet else live(terminal.console(stderr=True)) as show:
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
    if as_json:
        terminal.print_json(result)
    else:
        summary(result, console := terminal.console())
        console.print(f"Report: {out / 'report.html'}", highlight=False)
    if any(run["error"] for run in result.runs):
        raise typer.Exit(FINDING)


@app.command()
def parity(
    models: Annotated[
        list[str] | None,
        typer.Argument(help="Models' names; all of them by default.", autocompletion=completion.models),
    ] = None,
    backends: BackendsOption = None,
    rungs: Annotated[str | None, typer.Option(help="Comma-separated, 1 to 8; all by default.")] = None,
    float64: Annotated[bool, typer.Option("--float64", help="In float64 as well.")] = False,
    modes: Annotated[
        str | None,
        option(
            "Comma-separated: the native engine's; all but compiled by default.",
            completion.several(completion.modes),
        ),
    ] = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Seed faults in one framework; list which rung catches which.")
    ] = False,
    device: Annotated[str, typer.Option(help="Of every framework; the bounds are a CPU's.")] = "cpu",
    out: Annotated[Path | None, typer.Option(help="Folder of parity.json and report.html.")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Climb the parity ladder: who differs, where, how much."""
    from zoo.comparison import ladder_report

    names = _split(backends)
    try:
        numbers = [int(n) for n in _split(rungs) or []]
    except ValueError:
        raise WrongConfiguration(f"--rungs {rungs}: expected numbers from 1 to 8, e.g. 1,2,3") from None
    if faults:
        from zoo.faults import hunt

        with terminal.status(quiet=quiet) as show:
            rows = hunt(backends=names, show=show)
        if as_json:
            terminal.print_json(rows)
        else:
            ladder_report.faults(rows, terminal.console())
        raise typer.Exit(FINDING if any(row["caught"] != row["rung"] for row in rows) else 0)
    from zoo.ladder import NUMBERS, QUICK_MODES, parity

    with terminal.status(quiet=quiet) as show:
        result = parity(
            *(models or ()),
            backends=names,
            rungs=numbers or NUMBERS,
            float64=float64,
            modes=_split(modes) or QUICK_MODES,
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
    """Draw what augmentation makes of a photograph."""
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
        str | None,
        option("Built as zoo train builds it for this task, not in full size.", completion.tasks),
    ] = None,
    backend: BackendOption = None,
    seed: SeedOption = 0,
) -> None:
    """Write weights to a file by the names of others."""
    from zoo import backends, pretrained, registry

    card = registry.card(model)
    backends.use(backend or backends.settle())
    from zoo.training import fitting
    from zoo.weights import load, save

    changes = {**pretrained.needed(card.name, weights), **(fitting(card, task) if task else {})}
    built = registry.build(card.name, seed=seed, **changes)
    if weights is not None:
        print(load(built, weights, head="require"))
    save(built, out, layout)
    print(f"{out}: {built.name} by {layout}'s names, {out.stat().st_size / 1e6:,.1f} MB")


@app.command()
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
            backends=_split(backends),
            batch_size=batch_size,
            device=device,
            threads=threads,
            show=show,
            report=None if as_json else report,
        )
    if as_json:
        terminal.print_json(rows)
    if any(row["error"] for row in rows):
        raise typer.Exit(FINDING)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Show what each framework finds here, or what to install."""
    from zoo import backends, machine

    here, found = machine.environment(), machine.frameworks()
    if as_json:
        terminal.print_json({"environment": here, "frameworks": found})
    else:
        terminal.machine(here, found)
    if any("error" in found[name] for name in backends.installed()):
        raise typer.Exit(FINDING)


def _split(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",") if name.strip()] if names else None
