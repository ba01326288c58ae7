"""zoo conform: a backend of Keras beside the others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import zoo.cli.terminal as terminal
from zoo.cli.options import FINDING, JsonOption, QuietOption, option, split_names


def conform(
    backend: Annotated[
        str,
        option("torch, tensorflow, jax, numpy, openvino ...: any of Keras.", "NAME", "--backend", "-b"),
    ],
    only: Annotated[
        str | None, option('Cases with this in their group or operation: "pooling", "ops.pad".', "TEXT")
    ] = None,
    values: Annotated[
        str,
        option("What inputs are filled with: normal, ties, zeros, ones, nonfinite, empty ...", "NAMES"),
    ] = "normal",
    dtype: Annotated[str | None, option("float64 or float32; float64 if the backend has it.", "NAME")] = None,
    out: Annotated[
        Path | None, option("Folder of conformance.json, conformance.html and badge.json.", "PATH")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare a backend of Keras with the others: a score."""
    from zoo.hunt.conformance import conform

    with terminal.status(quiet=quiet) as show:
        result = conform(
            backend, only=only, values=split_names(values) or (), dtype=dtype, out=out, show=show
        )
    if as_json:
        terminal.print_json(result)
    else:
        print(result)
        if out is not None:
            print(f"Report: {out / 'conformance.html'}")
    if result["failures"]:
        raise typer.Exit(FINDING)
