"""The command line: zoo list, info, train, predict, evaluate, generate, show, compare, parity, export ...

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

from zoo import _lazy
from zoo.cli import completion, terminal
from zoo.errors import UnknownModel, UnknownName, WrongConfiguration, ZooError, nearest
from zoo.layers import signature

# As diff and grep have it.
FINDING, TROUBLE, INTERRUPTED = 1, 2, 130
STATUS = """\b
Exit status:
  0    success
  1    finished, but a check failed or a process crashed
  2    not done: wrong usage, a wrong name, missing data; the last line says why
  130  interrupted by Ctrl-C

Colours follow NO_COLOR and FORCE_COLOR."""

app = typer.Typer(
    help="Classic deep-learning models, written once, with the same numbers on PyTorch, TensorFlow and JAX.",
    epilog=STATUS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes half the time, and an error is a line
    context_settings={"help_option_names": ["-h", "--help"]},
)


def option(
    text: str, metavar: str, *names: str, complete: completion.Complete | None = None, **more: Any
) -> Any:
    """An option whose values are shown as `metavar`, and completed by the shell."""
    return typer.Option(*names, help=text, metavar=metavar, autocompletion=complete, **more)


def count(text: str, *names: str, least: int = 1) -> Any:
    """An option that takes an integer."""
    return typer.Option(*names, help=text, metavar="INT", min=least)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A model's name; `zoo list` shows them.", autocompletion=completion.models
    ),
]
Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL", help="Models' names; `zoo list` shows them.", autocompletion=completion.models
    ),
]
ModelOrRun = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL",
        help="A model's name, or the folder or checkpoint of a run; leave it out with --run.",
        show_default=False,
        autocompletion=completion.models_and_runs,
    ),
]
RunOption = Annotated[
    Path | None,
    option(
        "Folder or checkpoint of a run of zoo train, in the place of MODEL.",
        "PATH",
        "--run",
        complete=completion.runs,
    ),
]
BackendOption = Annotated[
    str | None,
    option("torch, tensorflow or jax.", "NAME", "--backend", "-b", complete=completion.backends),
]
BackendsOption = Annotated[
    str | None,
    option(
        "Comma-separated; all installed by default.",
        "NAMES",
        complete=completion.several(completion.backends),
    ),
]
DeviceOption = Annotated[str | None, option("cpu, cuda:0, mps ...; `zoo doctor` lists them.", "NAME")]
ThreadsOption = Annotated[int | None, count("CPU threads of each framework.")]
StepsOption = Annotated[int | None, count("Training steps; overrides --epochs.")]
EpochsOption = Annotated[int | None, count("Passes over the data.")]
BatchOption = Annotated[int | None, count("Examples in a step.", "--batch-size")]
SeedOption = Annotated[int, count("Of weights, order and dropout.", least=0)]
TaskOption = Annotated[
    str | None,
    option(
        "digits, mnist ..., or a folder or CSV of images; the model's own by default.",
        "TASK",
        complete=completion.tasks,
    ),
]
TokenizerOption = Annotated[
    str | None,
    option("default, a tokenizer.json, vocab.txt ..., or hf://owner/name; bytes without.", "NAME|PATH"),
]
WeightsOption = Annotated[
    str | None,
    option(
        "Pretrained ones of the zoo by name, a file of anyone's, or hf://owner/name of the hub.", "NAME|PATH"
    ),
]
ErrorsOption = Annotated[
    str,
    option("stop or skip: what to do with images that cannot be read.", "NAME", complete=completion.errors),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


def _print_version(asked: bool) -> None:
    if asked:
        from zoo._version import __version__

        print(f"zoo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", is_eager=True, callback=_print_version, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """The options of `zoo` itself, which stop before a command."""
    del version


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
        str,
        typer.Argument(
            metavar="PATTERN", help='A shell pattern, e.g. "vit*".', autocompletion=completion.models
        ),
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
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="What to learn: digits, mnist ..., a folder of photographs, a .csv, .jsonl, .tsv or .txt, a "
            "folder of recordings; the model's own task by default.",
            show_default=False,
            autocompletion=completion.tasks,
        ),
    ] = None,
    task: Annotated[
        str | None, option("TASK, as an option.", "TASK", "--task", complete=completion.tasks)
    ] = None,
    backend: BackendOption = None,
    engine: Annotated[str, option("native or keras.", "NAME", complete=completion.engines)] = "native",
    mode: Annotated[
        str | None, option("How the native engine runs.", "NAME", complete=completion.modes)
    ] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: Annotated[int | None, count("0 by default.", least=0)] = None,
    augment: Annotated[
        str | None,
        option('Random changes, e.g. "RandomCrop(32), HorizontalFlip"; see zoo augment.', "TEXT"),
    ] = None,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None, option("Folder to save the run in.", "PATH", show_default="runs/MODEL-DATE")
    ] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the trained model, or do not.")] = True,
    checkpoint: Annotated[
        Path | None,
        option("File to save the run in, instead of a folder.", "PATH"),
    ] = None,
    resume: Annotated[
        Path | None,
        option("Run to resume: a folder or checkpoint, of any framework.", "PATH", complete=completion.runs),
    ] = None,
    weights: WeightsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, save the run, and report the result."""
    from zoo import backends, registry, tokenizers
    from zoo.training import runs

    card = registry.card(model)
    if where is not None and task is not None:
        raise WrongConfiguration(f"two tasks, {where} and --task {task}; give one")
    task = where or task
    if not save and (out or checkpoint):
        raise WrongConfiguration(f"--no-save, and {'--out' if out else '--checkpoint'}; give one of them")
    if save and out is None and checkpoint is None:
        out = runs.new_folder(card.name)
        try:
            runs.check_folder(out)
        except WrongConfiguration as error:
            raise WrongConfiguration(f"{error}; give another folder by --out, or --no-save") from None
    reader = tokenizers.found(tokenizer)
    backends.prefer(backend, device=device, threads=threads)
    from zoo.training import train
    from zoo.training.plan import task_summary

    terminal.note(task_summary(card, task or card.task, reader), quiet=quiet)
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
            errors=errors,
            checkpoint=checkpoint,
            out=out,
            resume=resume,
            weights=weights,
            progress=False if quiet else sys.stderr.isatty() or "lines",
        )
    if as_json:
        terminal.print_json(terminal.run_facts(run))
    else:
        print(terminal.run_line(run))
        print(terminal.next_line(run))
    if run.interrupted:
        raise typer.Exit(INTERRUPTED)


@app.command()
def predict(
    model: ModelOrRun = None,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="INPUT",
            help="Photographs, one or several; for a run that learned from texts or speech, texts or "
            "recordings.",
            show_default=False,
        ),
    ] = None,
    run: RunOption = None,
    weights: Annotated[
        str | None,
        option(
            "Pretrained ones of the zoo, a file of anyone's, or hf://owner/name; random without.", "NAME|PATH"
        ),
    ] = None,
    top: Annotated[int, count("Classes to show.")] = 5,
    labels: Annotated[
        Path | None,
        option("File of the classes' names, one a line, as many as classes; a run has its own.", "PATH"),
    ] = None,
    small: Annotated[bool, typer.Option("--small", help="The small configuration of the tests.")] = False,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Classify photographs, texts or recordings."""
    from zoo import backends, registry

    subject, words = _subject(model, inputs, run, "zoo predict MODEL PHOTO, or zoo predict --run PATH PHOTO")
    if not words:
        raise WrongConfiguration(
            "nothing to classify; zoo predict MODEL PHOTO, or zoo predict --run PATH PHOTO"
        )
    changes = dict(registry.card(subject).small) if small and isinstance(subject, str) else {}
    if labels is not None:
        changes.pop("classes", None)  # as many as names
    backends.prefer(backend, device=device, threads=threads)
    from zoo.prediction import predict

    with terminal.aside(quiet=False):
        found = predict(subject, words, weights=weights, top=top, labels=labels, **changes)
    kind = "photo" if isinstance(subject, str) else terminal.INPUTS.get(subject.kind, "photo")
    if as_json:
        named = [[{"class": label, "probability": p} for label, p in classes] for classes in found]
        terminal.print_json([{kind: word, "classes": row} for word, row in zip(words, named, strict=True)])
    else:
        terminal.classes(kind, words, found)


@app.command()
def evaluate(
    model: ModelOrRun = None,
    task: Annotated[
        str | None,
        typer.Argument(
            metavar="TASK",
            help="What to measure on, as zoo train takes it; by default what the run held out.",
            show_default=False,
            autocompletion=completion.tasks,
        ),
    ] = None,
    run: RunOption = None,
    weights: WeightsOption = None,
    split: Annotated[
        str | None,
        option(
            "held-out, train or all; by default held-out, of another folder or file all.",
            "NAME",
            complete=completion.splits,
        ),
    ] = None,
    batch_size: Annotated[int, count("Examples at a time.", "--batch-size")] = 64,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a run, or weights, on a task or folder."""
    from zoo import backends, tokenizers

    subject, words = _subject(
        model, [task] if task else [], run, "zoo evaluate RUN, or zoo evaluate MODEL TASK"
    )
    if len(words) > 1:
        raise WrongConfiguration(f"{' and '.join(words)}; with --run, give the task alone")
    reader = tokenizers.found(tokenizer)
    backends.prefer(backend, device=device, threads=threads)
    from zoo.training.evaluation import evaluate

    chosen = next(iter(words), None)
    with terminal.aside(quiet=False):
        found = evaluate(
            subject,
            chosen,
            weights=weights,
            split=split,
            batch_size=batch_size,
            tokenizer=reader,
            errors=errors,
        )
    if as_json:
        terminal.print_json(found)
    else:
        print(terminal.evaluation_line(str(subject), chosen, found))


@app.command()
def generate(
    model: ModelOrRun = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="The text to continue; for T5 and translation, the text to answer.",
            show_default=False,
        ),
    ] = None,
    run: RunOption = None,
    weights: WeightsOption = None,
    tokenizer: TokenizerOption = None,
    task: Annotated[
        str | None,
        option(
            "Built as zoo train builds it for this task; the model's own by default.",
            "TASK",
            complete=completion.tasks,
        ),
    ] = None,
    max_tokens: Annotated[int, count("Maximum of new tokens.")] = 100,
    temperature: Annotated[
        float | None,
        typer.Option(metavar="FLOAT", min=0.0, help="0 is greedy decoding; 1 by default, 0 for translation."),
    ] = None,
    top_k: Annotated[int | None, count("Draw from so many tokens only.")] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            metavar="FLOAT",
            min=0.0,
            max=1.0,
            help="Sample from the smallest set of tokens with this probability.",
        ),
    ] = None,
    beams: Annotated[int, count("Beam width; 1 is no beam search.")] = 1,
    repetition_penalty: Annotated[
        float, typer.Option(metavar="FLOAT", help="Divides the scores of tokens seen.")
    ] = 1.0,
    stop: Annotated[list[str] | None, option("A text to end before; may be repeated.", "TEXT")] = None,
    seed: Annotated[int, count("Of the tokens that are drawn.", least=0)] = 0,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Generate text: continue a prompt, or translate it."""
    from zoo import backends, registry, tokenizers

    usage = 'zoo generate MODEL "PROMPT", or zoo generate --run PATH "PROMPT"'
    subject, words = _subject(model, [prompt] if prompt is not None else [], run, usage)
    if len(words) != 1:
        raise WrongConfiguration(f"{len(words)} prompts; {usage}")
    reader = tokenizers.found(tokenizer)
    if isinstance(subject, str):
        arguments = registry.card(subject).arguments
        if "vocabulary" not in arguments or arguments.get("cell"):
            raise WrongConfiguration(f"{registry.card(subject).name} does not write; gpt-mini and t5-mini do")
    elif weights or task:
        raise WrongConfiguration(
            f"{subject} brings its weights; leave --{'weights' if weights else 'task'} out"
        )
    backends.prefer(backend, device=device, threads=threads)
    how: dict[str, Any] = {"top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty}
    how |= {"temperature": temperature, "beams": beams, "stop": stop, "seed": seed, "tokenizer": reader}
    if isinstance(subject, str):
        built, pairs = _writer(subject, weights, task, reader, seed), False
    else:
        built, pairs = subject.model, subject.kind == "pairs"
    _print_generated(built, words[0], max_tokens, how, pairs)


def _writer(model: str, weights: str | None, task: str | None, reader: Any, seed: int) -> Any:
    """A model of texts by its name, with its weights, built for its task's or its tokenizer's tokens."""
    from zoo import pretrained, registry
    from zoo.training.plan import check_weights, task_arguments
    from zoo.weights import load

    card = registry.card(model)
    changes = task_arguments(card, task or card.task, tokenizer=reader)
    if reader is not None and task is None and reader.fits(usual := card.arguments["vocabulary"]):
        changes["vocabulary"] = usual  # as the published weights are
    if weights is not None:
        check_weights(card.name, weights)
    built = registry.build(card.name, seed=seed, **{**changes, **pretrained.needed(card.name, weights)})
    if weights is not None:
        load(built, weights, head="require")
    else:
        terminal.note(f"{card.name} has random weights: what it writes is chance. Give --weights or a run.")
    return built


def _print_generated(model: Any, prompt: str, max_tokens: int, how: dict[str, Any], pairs: bool) -> None:
    """Print a text as it is generated; a translation, or what a beam search finds, at its end."""
    from zoo.generation import generate, translate

    sampled = any(how[name] for name in ("temperature", "top_k", "top_p", "stop"))
    if pairs and not sampled and how["repetition_penalty"] == 1:
        print(
            translate(model, prompt, beams=how["beams"], max_tokens=max_tokens, tokenizer=how["tokenizer"])[0]
        )
        return
    how["temperature"] = 1.0 if how["temperature"] is None else how["temperature"]
    if "decoder_token_ids" not in signature.input_shapes(model):
        print(prompt, end="")
    if how["beams"] > 1:  # the seed is that of random weights: a search draws nothing
        print(generate(model, prompt, max_tokens, **{**how, "seed": 0}))
        return
    generate(model, prompt, max_tokens, **how, watch=lambda _, piece: print(piece, end="", flush=True))
    print()


@app.command()
def show(
    model: ModelOrRun = None,
    photo: Annotated[
        str | None, typer.Argument(metavar="PHOTO", help="An image.", show_default=False)
    ] = None,
    run: RunOption = None,
    what: Annotated[
        str,
        option(
            "grad-cam, feature-maps, filters, attention or attention-rollout.",
            "NAME",
            "--what",
            complete=completion.pictures,
        ),
    ] = "grad-cam",
    at: Annotated[str | None, option("Layer, e.g. stage1; `zoo info` lists them.", "NAME", "--at")] = None,
    label: Annotated[
        str | None, option("Class of grad-cam, a name or a number; the predicted one by default.", "CLASS")
    ] = None,
    weights: WeightsOption = None,
    out: Annotated[Path, option("The picture, a PNG.", "PATH")] = Path("zoo-show.png"),
    backend: BackendOption = None,
) -> None:
    """Draw what a model sees: Grad-CAM, maps, filters, attention."""
    from zoo import backends

    usage = "zoo show MODEL PHOTO, or zoo show --run PATH PHOTO"
    subject, words = _subject(model, [photo] if photo else [], run, usage)
    if what not in completion.PICTURES:
        raise UnknownName(f"no picture {what!r}; {nearest(what, completion.PICTURES)}")
    if len(words) != (what != "filters"):
        raise WrongConfiguration(f"{len(words)} photographs, expected {int(what != 'filters')}; {usage}")
    backends.prefer(backend)
    picture = _picture(subject, words, what, at, label, weights)
    picture.save(out)
    print(f"{out}: {picture.title}")


def _picture(
    subject: Any, photos: list[str], what: str, at: str | None, label: str | None, weights: str | None
) -> Any:
    """What `zoo show` draws."""
    from zoo import preprocessing, pretrained, registry, show
    from zoo.training.plan import check_weights
    from zoo.weights import load

    for photo in photos:
        preprocessing.load(photo, 3)  # raises, before a model is built, for what is no image
    if what in ("feature-maps", "filters") and at is None:
        raise WrongConfiguration(f"--what {what} takes the name of a layer, --at; `zoo info` lists them")
    classes: tuple[str, ...] = ()
    if isinstance(subject, str):
        if weights is None:
            terminal.note(f"{subject} has random weights: what it sees is chance. Give --weights or a run.")
        else:
            check_weights(subject, weights)
        model = registry.build(subject, **pretrained.needed(subject, weights))
        if weights is not None:
            load(model, weights, head="require")
    elif weights is not None:
        raise WrongConfiguration(f"{subject} brings its weights; leave --weights out")
    else:
        model, classes = subject.model, subject.classes
    if what == "grad-cam":
        return show.grad_cam(model, photos[0], _class_number(label, classes), at)
    if at is not None and what in ("feature-maps", "filters"):
        return show.filters(model, at) if what == "filters" else show.feature_maps(model, photos[0], at)
    return (show.attention if what == "attention" else show.attention_rollout)(model, photos[0])


def _class_number(label: str | None, classes: tuple[str, ...]) -> int | None:
    if label is None or label in classes:
        return None if label is None else classes.index(label)
    if label.isdecimal():
        return int(label)
    raise UnknownName(f"no class {label!r}; {nearest(label, classes) if classes else 'classes have numbers'}")


@app.command()
def compare(
    models: Models,
    task: TaskOption = None,
    backends: BackendsOption = None,
    engines: Annotated[
        str, option("Comma-separated.", "NAMES", complete=completion.several(completion.engines))
    ] = "keras,native",
    modes: Annotated[
        str | None,
        option(
            "Comma-separated: more ways for the native engine.",
            "NAMES",
            complete=completion.several(completion.modes),
        ),
    ] = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    seed: SeedOption = 0,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[Path, option("Folder of result.json and report.html.", "PATH")] = Path("zoo-report"),
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train on every framework by both engines, side by side."""
    from zoo import registry, tokenizers
    from zoo.comparison import compare
    from zoo.report.terminal import live, summary
    from zoo.training.plan import task_summary

    reader = tokenizers.found(tokenizer)
    for card in map(registry.card, models):
        terminal.note(task_summary(card, task or card.task, reader), quiet=quiet)
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
            errors=errors,
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
        typer.Argument(
            metavar="MODEL",
            help="Models' names; all of them by default.",
            autocompletion=completion.models,
        ),
    ] = None,
    backends: BackendsOption = None,
    rungs: Annotated[str | None, option("Comma-separated, 1 to 8; all by default.", "NUMBERS")] = None,
    float64: Annotated[bool, typer.Option("--float64", help="In float64 as well.")] = False,
    modes: Annotated[
        str | None,
        option(
            "Comma-separated: the native engine's; all but compiled by default.",
            "NAMES",
            complete=completion.several(completion.modes),
        ),
    ] = None,
    faults: Annotated[
        bool, typer.Option("--faults", help="Seed faults in one framework; list which rung catches which.")
    ] = False,
    device: Annotated[str, option("Of every framework; the bounds are a CPU's.", "NAME")] = "cpu",
    out: Annotated[Path | None, option("Folder of parity.json and report.html.", "PATH")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check numerical parity across frameworks: what differs, where, how much."""
    from zoo.report import ladder as ladder_report

    names = _split(backends)
    try:
        numbers = [int(n) for n in _split(rungs) or []]
    except ValueError:
        raise WrongConfiguration(f"--rungs {rungs}: expected numbers from 1 to 8, e.g. 1,2,3") from None
    if faults:
        from zoo.ladder.injection import inject_faults

        with terminal.status(quiet=quiet) as show:
            rows = inject_faults(backends=names, show=show)
        if as_json:
            terminal.print_json(rows)
        else:
            ladder_report.faults(rows, terminal.console())
        raise typer.Exit(FINDING if any(row["caught"] != row["rung"] for row in rows) else 0)
    from zoo.ladder import QUICK_MODES, parity
    from zoo.ladder.bounds import NUMBERS

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
    photo: Annotated[
        Path | None, typer.Argument(metavar="PHOTO", help="An image; one of a temple by default.")
    ] = None,
    sets: Annotated[
        list[str] | None,
        option('A row, e.g. "RandAugment(2, 9), CutMix"; may be repeated.', "TEXT", "--set"),
    ] = None,
    columns: Annotated[int, count("Epochs to draw.")] = 6,
    seed: Annotated[int, count("Of the random changes.", least=0)] = 0,
    out: Annotated[Path, option("The picture, a PNG.", "PATH")] = Path("zoo-augment.png"),
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
    model: ModelOrRun = None,
    file: Annotated[
        Path | None,
        typer.Argument(
            metavar="PATH",
            help="The file: .onnx, .pt2, .keras, a new folder for a SavedModel; .safetensors, .npz or "
            ".weights.h5 for weights alone.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, option("The file, by name.", "PATH")] = None,
    format: Annotated[
        str | None, option("onnx, pt2, keras or saved_model; by the ending without.", "NAME")
    ] = None,
    layout: Annotated[
        str,
        option("torchvision, timm, transformers or zoo: whose names.", "NAME", complete=completion.layouts),
    ] = "zoo",
    run: RunOption = None,
    weights: WeightsOption = None,
    task: Annotated[
        str | None,
        option(
            "Built as zoo train builds it for this task, not in full size.", "TASK", complete=completion.tasks
        ),
    ] = None,
    backend: BackendOption = None,
    seed: SeedOption = 0,
) -> None:
    """Export a model or run to ONNX, torch.export, SavedModel, .keras; or its weights."""
    from zoo import artifacts, backends
    from zoo.weights import check_layout, files, save

    usage = "zoo export MODEL PATH, or zoo export --run RUN PATH"
    subject, words = _subject(model, [str(each) for each in (file, out) if each is not None], run, usage)
    if len(words) != 1:
        raise WrongConfiguration(f"{len(words)} files to write; {usage}")
    out = Path(words[0])
    backends.prefer(backend)
    if (form := artifacts.format_of(out, format)) is None:
        files.check(out)
        check_layout(layout)
        built = _to_export(subject, weights, task, seed)
        save(built, out, layout)
        print(f"{out}: {built.name} by {layout}'s names, {out.stat().st_size / 1e6:,.1f} MB")
        return
    artifacts.check(out, form)
    with terminal.aside(quiet=True):
        found = artifacts.export(_to_export(subject, weights, task, seed), out, form)
    print(found)


def _to_export(subject: Any, weights: str | None, task: str | None, seed: int) -> Any:
    """The model of a run, or one built by its name, with its weights."""
    from zoo import pretrained, registry
    from zoo.training.plan import check_weights, task_arguments
    from zoo.weights import load

    if not isinstance(subject, str):
        if weights or task:
            raise WrongConfiguration(
                f"{subject} brings its weights; leave --{'weights' if weights else 'task'} out"
            )
        return subject.model
    card = registry.card(subject)
    if weights is not None:
        check_weights(card.name, weights)
    changes = {**pretrained.needed(card.name, weights), **(task_arguments(card, task) if task else {})}
    built = registry.build(card.name, seed=seed, **changes)
    if weights is not None:
        print(load(built, weights, head="require"))
    return built


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
    from zoo import backends
    from zoo.processes import machine

    here, found = machine.environment(), machine.frameworks()
    if as_json:
        terminal.print_json({"environment": here, "frameworks": found})
    else:
        terminal.machine(here, found)
    if any("error" in found[name] for name in backends.installed()):
        raise typer.Exit(FINDING)


def _subject(
    model: str | None, words: list[str] | None, run: Path | None, usage: str
) -> tuple[Any, list[str]]:
    """The model's name or the run, and the other arguments: with --run the first is where MODEL is."""
    from zoo import registry
    from zoo.training import runs

    words = list(words or [])
    if run is not None:
        return runs.load_run(run), [*([] if model is None else [model]), *words]
    if model is None:
        raise WrongConfiguration(f"no model and no run; {usage}")
    return (runs.load_run(model) if runs.is_run(model) else registry.card(model).name), words


def _split(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",") if name.strip()] if names else None
