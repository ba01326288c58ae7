"""zoo evaluate, verify."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import zoo.cli.completion as completion
import zoo.cli.terminal as terminal
from zoo.cli.options import (
    FINDING,
    BackendOption,
    DeviceOption,
    ErrorsOption,
    JsonOption,
    ModelOrRun,
    RunOption,
    TaskInstead,
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
        help="Task or data to measure on, as for zoo train; by default the run's held-out examples.",
        show_default=False,
        autocompletion=completion.tasks,
    ),
]
CheckpointOption = Annotated[
    Path | None,
    option("A run's checkpoint, of MODEL if that is given.", "PATH", complete=completion.runs),
]
SplitOption = Annotated[
    str | None,
    option(
        "held-out, train or all; by default held-out, of another folder or file all.",
        "NAME",
        complete=completion.splits,
    ),
]
TtaOption = Annotated[
    str | None, option('Average over augmented copies of each image too, e.g. "HorizontalFlip".', "TEXT")
]


def _check_checkpoint(model: str | None, checkpoint: Path, run: Path | None) -> None:
    """Raise WrongConfiguration for a checkpoint of another model, or a second run."""
    from zoo import registry
    from zoo.training.runs import load_run

    if run is not None:
        raise WrongConfiguration(f"--run {run} and --checkpoint {checkpoint}; give one")
    saved = load_run(checkpoint)
    if model is not None and registry.card(model).name != saved.name:
        raise WrongConfiguration(f"--checkpoint {checkpoint} is of {saved.name}, not of {model}")


def evaluate(
    model: ModelOrRun = None,
    task: TaskArgument = None,
    task_option: TaskInstead = None,
    run: RunOption = None,
    checkpoint: CheckpointOption = None,
    weights: WeightsOption = None,
    split: SplitOption = None,
    batch_size: Annotated[int, count("Examples at a time.", "--batch-size")] = 64,
    tokenizer: TokenizerOption = None,
    errors: ErrorsOption = "stop",
    tta: TtaOption = None,
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a run, or weights, on a task or folder."""
    from zoo import backends, tokenizers

    if checkpoint is not None:
        _check_checkpoint(model, checkpoint, run)
        model, run, task = task, checkpoint, None
    if task_option is not None:
        if task is not None or (run is not None and model is not None):
            raise WrongConfiguration(f"two tasks, {task or model} and --task {task_option}; give one")
        if run is None:
            task = task_option
        else:
            model = task_option
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
            tta=tta,
        )
    if as_json:
        terminal.print_json(found)
    else:
        print(terminal.evaluation_line(str(subject), chosen, found))


def verify(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Folder of a run of zoo train --exact.", autocompletion=completion.runs
        ),
    ],
    backend: BackendOption = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat an exact run, and report the first step that differs, if any."""
    from zoo import backends

    name = backends.prefer(backend, device=device, threads=threads)
    from zoo.training.verification import verify

    verdict = verify(run)
    if as_json:
        terminal.print_json({"backend": name, "steps": verdict.steps, "parted": verdict.parted})
    elif verdict.equal:
        print(f"{run}: {verdict.steps} steps repeated on {name}, the same bits")
    else:
        print(f"{run}: {verdict.steps} steps are equal on {name}; parted at {verdict.parted}")
    if not verdict.equal:
        raise typer.Exit(FINDING)
