"""The options that commands share, and what they take as a model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import zoo.cli.completion as completion
from zoo.errors import WrongConfiguration

# As diff and grep have it; as a shell reports SIGPIPE; and what a shell adds a signal's number to.
FINDING, TROUBLE, BROKEN_PIPE, SIGNALLED = 1, 2, 141, 128


def option(
    text: str, metavar: str, *names: str, complete: completion.Complete | None = None, **more: Any
) -> Any:
    """An option whose values are shown as `metavar`, and completed by the shell."""
    return typer.Option(*names, help=text, metavar=metavar, autocompletion=complete, **more)


def count(text: str, *names: str, least: int = 1) -> Any:
    """An option that takes an integer."""
    return typer.Option(*names, help=text, metavar="INT", min=least)


def number(text: str, *names: str, **bounds: float) -> Any:
    """An option that takes a float."""
    return typer.Option(*names, help=text, metavar="FLOAT", **bounds)  # type: ignore[arg-type]


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
WorkersOption = Annotated[
    int | None,
    count("Processes that train together, by default those of torchrun, srun or TF_CONFIG, else one."),
]
WorkerTimeoutOption = Annotated[
    float | None,
    number("Seconds in which workers answer each other; 600 by default.", "--worker-timeout", min=1.0),
]
ShardOption = Annotated[
    str | None,
    option("weights: each worker holds a part of them, for models larger than a device; JAX.", "WHAT"),
]
StepsOption = Annotated[int | None, count("Training steps; overrides --epochs.")]
EpochsOption = Annotated[int | None, count("Passes over the data.")]
BatchOption = Annotated[int | None, count("Examples in a step.", "--batch-size")]
SeedOption = Annotated[int, count("Of weights, order and dropout.", least=0)]
RunSeedOption = Annotated[int | None, count("0 by default.", least=0)]  # else the resumed run's
TaskOption = Annotated[
    str | None,
    option(
        "digits, mnist ..., or a folder or CSV of images; the model's own by default.",
        "TASK",
        complete=completion.tasks,
    ),
]
TaskInstead = Annotated[
    str | None, option("TASK, as an option.", "TASK", "--task", complete=completion.tasks)
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
EngineOption = Annotated[str, option("native or keras.", "NAME", complete=completion.engines)]
ModeOption = Annotated[str | None, option("How the native engine runs.", "NAME", complete=completion.modes)]
ModesOption = Annotated[
    str | None,
    option(
        "Comma-separated: modes of the native engine, beside its default.",
        "NAMES",
        complete=completion.several(completion.modes),
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


def subject_of(
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


def check_own_weights(run: Any, **options: str | None) -> None:
    """Raise WrongConfiguration for options that a run, which has its weights, does not take."""
    for name, value in options.items():
        if value is not None:
            raise WrongConfiguration(f"{run} has its own weights; leave --{name} out")


def split_names(names: str | None) -> list[str] | None:
    """The names of a comma-separated list; None where none is given."""
    return [name.strip() for name in names.split(",") if name.strip()] if names else None


def read_arrays(option: str, path: Path) -> Any:
    """The array of a .npy file, or those of an .npz by name. Raises WrongConfiguration."""
    import numpy as np

    if path.suffix not in (".npy", ".npz"):
        raise WrongConfiguration(f"{option} {path}: expected a .npy or .npz file, as numpy.save writes them")
    try:
        content = np.load(path, allow_pickle=False)
        return content if path.suffix == ".npy" else {name: content[name] for name in content.files}
    except (OSError, ValueError) as error:
        raise WrongConfiguration(f"{option} {path}: {error}") from None
