"""The command line: zoo list, info, train, predict, evaluate, generate, show, compare, parity, export ...

What a command found goes to standard output, progress and notes to standard error, so that a pipe gets the
result alone. `STATUS` says what it exits with.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from zoo import _lazy
from zoo.cli.catalogue import augment, doctor, info, list_models
from zoo.cli.comparison import bench, compare, parity
from zoo.cli.inference import export, generate, predict, show
from zoo.cli.options import TROUBLE
from zoo.cli.training import evaluate, train
from zoo.errors import ZooError

STATUS = """\b
Exit status:
  0    success
  1    finished, but a check failed or a process crashed
  2    not done: wrong usage, a wrong name, missing data; the last line says why
  130  interrupted by Ctrl-C; 143 by SIGTERM, 138 by SIGUSR1

Colours follow NO_COLOR and FORCE_COLOR."""

app = typer.Typer(
    help="Classic deep-learning models, written once, with the same numbers on PyTorch, TensorFlow and JAX.",
    epilog=STATUS,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help takes half the time, and an error is a line
    context_settings={"help_option_names": ["-h", "--help"]},
)


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


COMMANDS = {
    "list": list_models,
    "info": info,
    "train": train,
    "predict": predict,
    "evaluate": evaluate,
    "generate": generate,
    "show": show,
    "compare": compare,
    "parity": parity,
    "augment": augment,
    "export": export,
    "bench": bench,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name)(command)


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
