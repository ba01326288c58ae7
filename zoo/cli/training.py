"""zoo train."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import zoo.cli.completion as completion
import zoo.cli.runfile as runfile
import zoo.cli.terminal as terminal
from zoo import storage
from zoo.backends.world import launched
from zoo.cli.options import (
    SIGNALLED,
    BackendOption,
    BatchOption,
    DeviceOption,
    EngineOption,
    EpochsOption,
    ErrorsOption,
    JsonOption,
    ModeOption,
    QuietOption,
    RunSeedOption,
    ShardOption,
    StepsOption,
    TaskInstead,
    ThreadsOption,
    TokenizerOption,
    WeightsOption,
    WorkersOption,
    WorkerTimeoutOption,
    count,
    number,
    option,
)
from zoo.errors import WrongConfiguration

if TYPE_CHECKING:
    from zoo.training.run import Run

TaskArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TASK",
        help="What to learn: digits, mnist ..., a folder of photographs, a .csv, .jsonl, .tsv or .txt, a "
        "folder of recordings, shards by their folder or URL; the model's own task by default.",
        show_default=False,
        autocompletion=completion.tasks,
    ),
]
AugmentOption = Annotated[
    str | None,
    option('Random changes, e.g. "RandomCrop(32), HorizontalFlip"; see zoo augment.', "TEXT"),
]
ResumeOption = Annotated[
    Path | None,
    option(
        "Run to resume: a folder or checkpoint, of any framework; auto: that of --out, if there is one.",
        "PATH",
        complete=completion.runs,
    ),
]


EveryOption = Annotated[
    str | None, option('Save within epochs too: every "500" steps, or "10 min".', "STEPS|TIME")
]
BestOption = Annotated[
    str | None, option("Keep the best checkpoint too, by a held-out metric, e.g. accuracy.", "METRIC")
]
NanOption = Annotated[
    str, option("At a loss or gradient that is not finite: stop, skip the step, or rollback.", "NAME")
]
KeepOption = Annotated[int | None, count("Checkpoints to keep, under numbered names.")]
OptimizerOption = Annotated[
    str | None,
    option('SGD, Momentum, Adam, AdamW or LAMB, e.g. "Momentum(0.1, nesterov=True)".', "NAME"),
]
ScheduleOption = Annotated[
    str | None,
    option('Of the learning rate, e.g. "OneCycle(0.01)"; StepDecay, CosineAnnealing, WarmupDecay.', "NAME"),
]
RateOption = Annotated[float | None, number("Learning rate.", "--lr", "--learning-rate", min=0.0)]
DecayOption = Annotated[float | None, number("Weight decay.", min=0.0)]
ClipOption = Annotated[float | None, number("Clip the norm of all gradients together.", min=0.0)]
AccumulateOption = Annotated[int | None, count("Batches for one update (gradient accumulation).", least=2)]
EmaOption = Annotated[
    float | None, number("Average the weights, with this momentum, e.g. 0.999.", min=0.0, max=1.0)
]
LayerDecayOption = Annotated[
    float | None, number("Multiply the rate by this from block to block, head to stem.", min=0.0, max=1.0)
]
HeadRateOption = Annotated[float | None, number("Learning rate of the head.", min=0.0)]
SmoothingOption = Annotated[float | None, number("Label smoothing.", min=0.0, max=1.0)]
ClassWeightsOption = Annotated[
    str | None, option('Weights of classes in the loss: balanced, or "cat=2, dog=1".', "WEIGHTS")
]
ReadersOption = Annotated[int | None, count("Threads that read and augment data ahead; 0: none.", least=0)]
StoppingOption = Annotated[int | None, count("Epochs without a lower held-out loss, then stop.", least=0)]
FreezeOption = Annotated[
    str | None,
    option('Layers to freeze: "backbone" (all but the head), or patterns, "stem*, stage1*".', "NAMES"),
]
ExactOption = Annotated[
    bool | None,
    typer.Option("--exact", help="Compute the same bits on every framework, at a multiple of the time."),
]
RecomputeOption = Annotated[
    bool, typer.Option("--recompute", help="Compute activations twice: less memory, a third more time.")
]
UnfreezeOption = Annotated[
    str | None, option('Make one more frozen block trainable, from the top, after every "1 epoch".', "TIME")
]
LoraOption = Annotated[
    str | None,
    option("""Train adapters of this rank: 8, or "LoRA(8, alpha=16, layers='*_query, *_value')".""", "RANK"),
]
DtypeOption = Annotated[str | None, option("float32, bfloat16, mixed_bfloat16, mixed_float16 ...", "NAME")]
ModelOrFile = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model's name, `zoo list` shows them; or a run file, run.toml, with any of these options.",
        autocompletion=completion.models,
    ),
]
LogOption = Annotated[
    list[str] | None,
    option(
        "Log to csv:FILE, jsonl:FILE, tensorboard:FOLDER, wandb:PROJECT, mlflow:FILE, trackio:PROJECT; "
        "may be repeated.",
        "KIND:PATH",
    ),
]


def train(
    ctx: typer.Context,
    model: ModelOrFile,
    where: TaskArgument = None,
    task: TaskInstead = None,
    backend: BackendOption = None,
    engine: EngineOption = "native",
    mode: ModeOption = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: RunSeedOption = None,
    optimizer: OptimizerOption = None,
    schedule: ScheduleOption = None,
    learning_rate: RateOption = None,
    weight_decay: DecayOption = None,
    clip_norm: ClipOption = None,
    accumulate: AccumulateOption = None,
    ema: EmaOption = None,
    layer_decay: LayerDecayOption = None,
    head_lr: HeadRateOption = None,
    label_smoothing: SmoothingOption = None,
    class_weights: ClassWeightsOption = None,
    early_stopping: StoppingOption = None,
    train_metrics: Annotated[
        bool, typer.Option("--train-metrics", help="Measure the metric on the training examples too.")
    ] = False,
    freeze: FreezeOption = None,
    unfreeze: UnfreezeOption = None,
    lora: LoraOption = None,
    dtype: DtypeOption = None,
    exact: ExactOption = None,
    recompute: RecomputeOption = False,
    augment: AugmentOption = None,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    readers: ReadersOption = None,
    on_nan: NanOption = "stop",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    workers: WorkersOption = None,
    worker_timeout: WorkerTimeoutOption = None,
    shard: ShardOption = None,
    out: Annotated[
        Path | None, option("Folder to save the run in.", "PATH", show_default="runs/MODEL-DATE")
    ] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the trained model, or do not.")] = True,
    checkpoint: Annotated[
        Path | None, option("File to save the run in, instead of a folder.", "PATH")
    ] = None,
    checkpoint_every: EveryOption = None,
    keep: KeepOption = None,
    keep_best: BestOption = None,
    resume: ResumeOption = None,
    weights: WeightsOption = None,
    log: LogOption = None,
    save_config: Annotated[Path | None, option("Write the options to a run file.", "PATH")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, save the run, and report the result."""
    _train(_given(ctx))


def _train(given: dict[str, Any]) -> None:
    """`zoo train` with these options."""
    from zoo import backends, registry, tokenizers

    quiet, save_config = given["quiet"], given["save_config"]
    card = registry.card(given["model"])
    task, out, save = given["task"], given["out"], given["save"]
    if not save and (out or given["checkpoint"]):
        raise WrongConfiguration(f"--no-save, and {'--out' if out else '--checkpoint'}; give one of them")
    if save and given["checkpoint"] is None and str(given["resume"]) != "auto":
        out = out or _new_folder(card.name)
    if save_config is not None:
        storage.check_file("--save-config", save_config)
    workers = _workers(given["workers"])
    backends.check_shard(given["backend"], given["shard"], workers)
    if workers > 1 and launched() is None:
        _launch(workers, card.name, out, given)
    reader = tokenizers.resolve(given["tokenizer"])
    settings = {name: given[name] for name in ("device", "threads", "worker_timeout", "shard")}
    backends.prefer(given["backend"], workers=workers, **settings)
    quiet = quiet or backends.worker() > 0
    from zoo.training import train
    from zoo.training.loggers import logger
    from zoo.training.plan import Options, task_summary

    terminal.note(task_summary(card, task or card.task, reader), quiet=quiet)
    options = {name: given[name] for name in Options.names() if name in given}
    options["callbacks"] = [] if backends.worker() else list(map(logger, given["log"] or ()))
    options |= {"out": out, "tokenizer": reader}
    options["progress"] = False if quiet else sys.stderr.isatty() or "lines"
    with terminal.aside(quiet=quiet):
        run = train(card.name, task, **options)
    if backends.worker():
        raise typer.Exit(0 if run.signal is None else SIGNALLED + run.signal)
    if save_config is not None:
        _save_config(save_config, given, run)
    if given["as_json"]:
        terminal.print_json(terminal.run_facts(run))
    else:
        print(terminal.run_line(run))
        print(terminal.next_line(run))
    if run.signal is not None:
        raise typer.Exit(SIGNALLED + run.signal)


def _workers(given: int | None) -> int:
    """How many workers train together: those given, else those that were launched, else one."""
    found = launched()
    return given or (1 if found is None else found.size)


def _launch(workers: int, model: str, out: Path | None, given: dict[str, Any]) -> None:
    """Run this command in so many processes of this machine, and exit as worker 0 does."""
    from zoo.processes.launcher import launch

    path = given["checkpoint"] or out
    own = [] if given["out"] or out is None else ["--out", str(out)]
    name = "--checkpoint" if given["checkpoint"] else "--out"
    advice = f"; go on with zoo train {model} ... {name} {path} --resume auto" if path else ""
    raise typer.Exit(launch(workers, ["-m", "zoo", *sys.argv[1:], *own], advice))


def _given(ctx: typer.Context) -> dict[str, Any]:
    """The options by name: those of the command line, then those of a run file in the place of MODEL."""
    given = dict(ctx.params)
    if str(given["model"]).endswith(".toml"):
        file = runfile.read(Path(given["model"]), given)
        given |= {name: value for name, value in file.items() if name == "model" or not _is_given(ctx, name)}
    if given["where"] is not None and _is_given(ctx, "task"):
        raise WrongConfiguration(f"two tasks, {given['where']} and --task {given['task']}; give one")
    return {**given, "task": given["where"] or given["task"]}


def _is_given(ctx: typer.Context, name: str) -> bool:
    """Whether the option is on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _save_config(path: Path, given: dict[str, Any], run: Run) -> None:
    """Write a run file that repeats this run: what was given, and what the recipe decided."""
    length = {} if given["steps"] or given["epochs"] else {"steps": len(run.losses)}
    resolved = {name: getattr(run, name) for name in ("backend", "engine", "seed", "batch_size")}
    left_out = ("where", "log", "save_config", "quiet", "as_json", "save", "out")
    options = {name: value for name, value in given.items() if name not in left_out}
    runfile.write(path, {**options, **resolved, **length})


def _new_folder(model: str) -> Path:
    """A new folder in runs/, which can be written to."""
    from zoo.training.runs import check_folder, new_folder

    try:
        return check_folder(new_folder(model))
    except WrongConfiguration as error:
        raise WrongConfiguration(f"{error}; give another folder by --out, or --no-save") from None
