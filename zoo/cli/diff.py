"""zoo diff: two implementations of a model, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import zoo.cli.terminal as terminal
from zoo.cli.options import FINDING, JsonOption, QuietOption, option
from zoo.errors import WrongConfiguration

Source = Annotated[
    str | None,
    typer.Argument(
        metavar="FILE.py:FUNCTION",
        help="A function that builds a model; MODULE:FUNCTION too.",
        show_default=False,
    ),
]


def diff(
    theirs: Source = None,
    ours: Source = None,
    inputs: Annotated[
        Path | None,
        option("Inputs in theirs' layout: .npy, or .npz with an array for each argument.", "FILE"),
    ] = None,
    our_inputs: Annotated[Path | None, option("Inputs of ours, if they differ.", "FILE")] = None,
    shape: Annotated[
        list[str] | None,
        option(
            "Instead of --inputs: random numbers of this shape, e.g. 2,3,64,64; once for each input.", "SIZES"
        ),
    ] = None,
    tokens: Annotated[
        int | None, option("With --shape: random integers below this, for token ids.", "INT")
    ] = None,
    mapping: Annotated[
        Path | None, option('JSON of corresponding weights, {"ours": "theirs"}.', "FILE")
    ] = None,
    save_mapping: Annotated[
        Path | None, option("Save the mapping of weights that is found, for zoo convert.", "FILE")
    ] = None,
    optimizers: Annotated[
        str | None,
        option("Functions of two optimizers, to compare their steps; without models, alone.", "THEIRS,OURS"),
    ] = None,
    backends: Annotated[
        str | None, option("Keras's backends for theirs and ours, e.g. torch,jax.", "NAMES")
    ] = None,
    out: Annotated[Path | None, option("Folder of diff.json and diff.html.", "PATH")] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two implementations of a model, or two optimizers: where they first differ, and why."""
    from zoo.ports import diff, diff_optimizers

    if theirs is None or ours is None:
        if theirs is not None or optimizers is None:
            raise WrongConfiguration("expected two models, or --optimizers THEIRS,OURS without models")
        given = [
            name for name, value in (("inputs", inputs), ("shape", shape), ("mapping", mapping)) if value
        ]
        if given:
            raise WrongConfiguration(f"--{given[0]} is of models; without models expected --optimizers alone")
    names = backends.split(",") if backends else [None, None]
    with terminal.status(quiet=quiet) as show:
        pair = _pair(optimizers)
        if theirs is None or ours is None:
            result = diff_optimizers(*pair, backends=names, out=out, show=show)
        else:
            result = diff(
                theirs,
                ours,
                _inputs(inputs, shape, tokens),
                our_inputs=None if our_inputs is None else _arrays(our_inputs),
                mapping=None if mapping is None else _mapping(mapping),
                optimizers=pair or None,
                save_mapping=save_mapping,
                backends=names,
                out=out,
                show=show,
            )
    if as_json:
        terminal.print_json(result)
    else:
        print(result)
        if out is not None:
            print(f"Page: {out / 'diff.html'}")
    if not result.equal:
        raise typer.Exit(FINDING)


def convert(
    checkpoint: Annotated[Path, typer.Argument(metavar="FILE", help="A checkpoint with theirs' names.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A .safetensors or .npz file to write.")],
    mapping: Annotated[Path, option("The file of zoo diff --save-mapping.", "FILE")],
    reverse: Annotated[bool, typer.Option("--reverse", help="From ours' names to theirs'.")] = False,
) -> None:
    """Convert a checkpoint to the names and layouts of another implementation."""
    from zoo.weights import convert

    for name in convert(checkpoint, out, mapping, reverse=reverse):
        terminal.note(f"{name} is not in {out}: the checkpoint has nothing for it")


def _pair(optimizers: str | None) -> Any:
    if optimizers is None:
        return ()
    found = tuple(optimizers.split(","))
    if len(found) != 2:
        raise WrongConfiguration(f"--optimizers {optimizers}: expected two functions, THEIRS,OURS")
    return found


def _inputs(path: Path | None, shapes: list[str] | None, tokens: int | None) -> Any:
    from zoo import random

    if (path is None) == (not shapes):
        raise WrongConfiguration("expected --inputs FILE or --shape SIZES, one of them")
    if path is not None:
        return _arrays(path)
    found = []
    for number, text in enumerate(shapes or ()):
        try:
            sizes = tuple(int(n) for n in text.split(","))
        except ValueError:
            raise WrongConfiguration(f"--shape {text}: expected sizes, e.g. 2,3,64,64") from None
        draw = random.generator(3, "input", number)
        found.append(draw.standard_normal(sizes) if tokens is None else draw.integers(tokens, size=sizes))
    return found


def _arrays(path: Path) -> Any:
    import numpy as np

    from zoo import storage

    with storage.reading(path, "expected an .npy or .npz file of arrays"):
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return loaded
        with loaded:
            named = {name: loaded[name] for name in loaded.files}
    numbered = [f"arr_{i}" for i in range(len(named))]  # as np.savez names arrays without a name
    return [named[n] for n in numbered] if set(numbered) == set(named) else named


def _mapping(path: Path) -> dict[str, str]:
    from zoo import storage

    with storage.reading(path, 'expected JSON of names, {"ours": "theirs"}'):
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
            raise ValueError("not names by name")
    return found
