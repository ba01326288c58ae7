"""zoo train, evaluate."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

import zoo.cli.completion as completion
import zoo.cli.terminal as terminal
from zoo.cli.options import (
    INTERRUPTED,
    BackendOption,
    BatchOption,
    DeviceOption,
    EngineOption,
    EpochsOption,
    ErrorsOption,
    JsonOption,
    Model,
    ModelOrRun,
    ModeOption,
    QuietOption,
    RunOption,
    StepsOption,
    ThreadsOption,
    TokenizerOption,
    WeightsOption,
    count,
    option,
    subject_of,
)
from zoo.errors import WrongConfiguration

TaskArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="TASK",
        help="What to learn: digits, mnist ..., a folder of photographs, a .csv, .jsonl, .tsv or .txt, a "
        "folder of recordings; the model's own task by default.",
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
    option("Run to resume: a folder or checkpoint, of any framework.", "PATH", complete=completion.runs),
]


def train(
    model: Model,
    where: TaskArgument = None,
    task: Annotated[
        str | None, option("TASK, as an option.", "TASK", "--task", complete=completion.tasks)
    ] = None,
    backend: BackendOption = None,
    engine: EngineOption = "native",
    mode: ModeOption = None,
    epochs: EpochsOption = None,
    steps: StepsOption = None,
    batch_size: BatchOption = None,
    seed: Annotated[int | None, count("0 by default.", least=0)] = None,
    augment: AugmentOption = None,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    out: Annotated[
        Path | None, option("Folder to save the run in.", "PATH", show_default="runs/MODEL-DATE")
    ] = None,
    save: Annotated[bool, typer.Option("--save/--no-save", help="Keep the trained model, or do not.")] = True,
    checkpoint: Annotated[
        Path | None, option("File to save the run in, instead of a folder.", "PATH")
    ] = None,
    resume: ResumeOption = None,
    weights: WeightsOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a model, save the run, and report the result."""
    from zoo import backends, registry, tokenizers

    card = registry.card(model)
    if where is not None and task is not None:
        raise WrongConfiguration(f"two tasks, {where} and --task {task}; give one")
    task = where or task
    if not save and (out or checkpoint):
        raise WrongConfiguration(f"--no-save, and {'--out' if out else '--checkpoint'}; give one of them")
    if save and checkpoint is None:
        out = out or _new_folder(card.name)
    reader = tokenizers.resolve(tokenizer)
    backends.prefer(backend, device=device, threads=threads)
    from zoo.training import train
    from zoo.training.plan import task_summary

    terminal.note(task_summary(card, task or card.task, reader), quiet=quiet)
    with terminal.aside(quiet=quiet):
        run = train(
            model, task, engine=engine, mode=mode, epochs=epochs, steps=steps, batch_size=batch_size,
            seed=seed, augment=augment, tokenizer=reader, errors=errors, checkpoint=checkpoint, out=out,
            resume=resume, weights=weights, progress=False if quiet else sys.stderr.isatty() or "lines",
        )  # fmt: skip
    if as_json:
        terminal.print_json(terminal.run_facts(run))
    else:
        print(terminal.run_line(run))
        print(terminal.next_line(run))
    if run.interrupted:
        raise typer.Exit(INTERRUPTED)


def _new_folder(model: str) -> Path:
    """A new folder in runs/, which can be written to."""
    from zoo.training.runs import check_folder, new_folder

    try:
        return check_folder(new_folder(model))
    except WrongConfiguration as error:
        raise WrongConfiguration(f"{error}; give another folder by --out, or --no-save") from None


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

    subject, words = subject_of(
        model, [task] if task else [], run, "zoo evaluate RUN, or zoo evaluate MODEL TASK"
    )
    if len(words) > 1:
        raise WrongConfiguration(f"{' and '.join(words)}; with --run, give the task alone")
    reader = tokenizers.resolve(tokenizer)
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
