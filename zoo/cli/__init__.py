"""The command line: zoo list, info, train, predict, evaluate, verify, generate, show, compare, export ...

What a command found goes to standard output, progress and notes to standard error, so that a pipe gets the
result alone. `STATUS` says what it exits with.
"""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer
from typer.core import TyperGroup

from zoo import _lazy, storage
from zoo.cli.catalogue import augment, doctor, info, list_models
from zoo.cli.comparison import bench, compare, parity
from zoo.cli.conformance import conform
from zoo.cli.diff import convert, diff
from zoo.cli.evaluation import evaluate, verify
from zoo.cli.finder import find_learning_rate
from zoo.cli.groups import GroupedCommand
from zoo.cli.hunt import hunt
from zoo.cli.inference import export, generate, predict, show
from zoo.cli.options import BROKEN_PIPE, FINDING, TROUBLE
from zoo.cli.shard import shard
from zoo.cli.sweep import sweep
from zoo.cli.training import train
from zoo.errors import WorkerLost, WrongConfiguration, ZooError

STDOUT, STDERR = 1, 2
STATUS = """\b
Exit status:
  0    success
  1    finished, but a check failed or a process crashed
  2    not done: wrong usage, a wrong name, missing data; the last line says why
  130  interrupted by Ctrl-C; 143 by SIGTERM, 138 by SIGUSR1
  141  the reader of the output has gone, as in zoo list | head -1

Colours follow NO_COLOR and FORCE_COLOR."""


class Commands(TyperGroup):
    """The commands; one whose output nobody reads any more ends as the shell's own programs do."""

    def invoke(self, ctx: typer.Context) -> object:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _discard(STDOUT)
            raise typer.Exit(BROKEN_PIPE) from None
        return result


app = typer.Typer(
    cls=Commands,
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
    "lr": find_learning_rate,
    "predict": predict,
    "evaluate": evaluate,
    "verify": verify,
    "generate": generate,
    "show": show,
    "compare": compare,
    "sweep": sweep,
    "parity": parity,
    "diff": diff,
    "convert": convert,
    "hunt": hunt,
    "conform": conform,
    "augment": augment,
    "shard": shard,
    "export": export,
    "bench": bench,
    "doctor": doctor,
}
for name, command in COMMANDS.items():
    app.command(name, cls=GroupedCommand if command is train else None)(command)


def main() -> None:
    """Run the command line; an error of the zoo or of the system is one line on standard error."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow greets every process otherwise
    _lazy.leave_out_extras()
    _prepare_streams()
    try:
        _check_words(sys.argv[1:])
        app(prog_name="zoo")
    except WorkerLost as error:
        _fail(f"{type(error).__name__}: {error}", FINDING)
    except ZooError as error:
        _fail(f"{type(error).__name__}: {error}")
    except UnicodeEncodeError as error:
        line = error.object[: error.end].rpartition("\n")[2] + error.object[error.end :].partition("\n")[0]
        _fail(f"{line.strip()!r} cannot be written as {error.encoding}; rename the file or folder")
    except OSError as error:
        _discard(STDOUT)  # what is left of it would fail again when Python ends
        file = "" if error.filename is None else f": {str(error.filename)!r}"
        _fail(f"{type(error).__name__}: {error.strerror or error}{file}")
    except Exception:  # Python would exit with 1, which says that something was found
        traceback.print_exc()
        sys.exit(TROUBLE)
    finally:
        try:
            sys.stderr.flush()
        except OSError:
            _discard(STDERR)


def _fail(text: str, status: int = TROUBLE) -> None:
    """Exit; standard error says why, unless it cannot be written to either."""
    with suppress(OSError):
        print(f"zoo: {text}", file=sys.stderr)
    sys.exit(status)


def _check_words(words: list[str]) -> None:
    """Raise WrongConfiguration for what is not UTF-8, which results and reports cannot hold."""
    for word in words:
        if not storage.is_utf8(word):
            raise WrongConfiguration(f"{word!r} is not UTF-8; rename the file or folder")


def _prepare_streams() -> None:
    """A closed stream becomes the null device: a file opened later would take its number.

    What the encoding of the output lacks is printed as an escape.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115
    sys.stdout.reconfigure(errors="backslashreplace")  # pyright: ignore[reportAttributeAccessIssue]


def _discard(stream: int) -> None:
    """Send what is left of a standard stream nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream)
    os.close(null)
