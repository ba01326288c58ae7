"""Run files: the options of `zoo train` in TOML.

    model = "resnet18"
    task = "photos/"
    learning-rate = 0.001
    schedule = "OneCycle"

`zoo train run.toml` reads them; an option on the command line takes precedence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from zoo import storage
from zoo.errors import UnknownName, WrongConfiguration, nearest

SHORT = {"lr": "learning_rate", "where": "task"}
PATHS = ("out", "checkpoint", "resume")


def read(path: Path, names: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a run file, by their names with underscores; `names` are those that there are.

    Raises DataUnavailable, UnknownName, or WrongConfiguration for a file that is not TOML or has no model.
    """
    options = {}
    for key, value in storage.read_toml(path, "no such run file").items():
        name = SHORT.get(key, key.replace("-", "_"))
        if name not in names:
            raise UnknownName(f"{path}: no option {key!r}; {nearest(key, names)}")
        if not isinstance(value, str | int | float | bool):
            raise WrongConfiguration(f"{path}: {key} = {value!r}; expected a string, a number, true or false")
        options[name] = Path(value) if name in PATHS and isinstance(value, str) else value
    if not isinstance(options.get("model"), str):
        raise WrongConfiguration(f'{path}: no model; expected, for example, model = "lenet5"')
    return options


def write(path: Path, options: Mapping[str, Any]) -> None:
    """Write a run file with these options, those that are None left out."""
    lines = []
    for name, value in options.items():
        if value is not None:
            text = str(value) if isinstance(value, Path) else value
            lines.append(f"{name.replace('_', '-')} = {json.dumps(text, ensure_ascii=False)}\n")
    storage.write_text(path, "".join(lines))
