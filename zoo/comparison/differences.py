"""The differences between the runs of a comparison, from the files that their processes wrote."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from zoo.comparison.runs import run_name
from zoo.ladder.bounds import first_difference, relative_difference

Record = dict[str, Any]


def run_differences(rows: list[Record], folders: list[Path]) -> list[Record]:
    """One for each pair of runs without an error."""
    runs = [(row, folder) for row, folder in zip(rows, folders, strict=True) if not row["error"]]
    return [_difference(*a, *b) for a, b in itertools.combinations(runs, 2)]


def _difference(a: Record, folder_a: Path, b: Record, folder_b: Path) -> Record:
    outputs_a, outputs_b = (dict(np.load(folder / "outputs.npz")) for folder in (folder_a, folder_b))
    last = next(reversed(outputs_a))
    predictions = [np.load(folder / "predictions.npz")["predictions"] for folder in (folder_a, folder_b)]
    return {
        "model": a["model"],
        "a": run_name(a),
        "b": run_name(b),
        "initial_weights": _weight_difference(folder_a, folder_b, "initial_weights"),
        "outputs": relative_difference(outputs_a[last], outputs_b[last]),
        "losses": float(np.max(np.abs(np.subtract(a["losses"], b["losses"])))),
        "final_weights": _weight_difference(folder_a, folder_b, "final_weights"),
        "predictions": int((predictions[0] != predictions[1]).sum()),
        "first_layer": first_difference(outputs_a, outputs_b),
    }


def _weight_difference(folder_a: Path, folder_b: Path, name: str) -> float:
    """The largest absolute difference between the weights of two runs."""
    from safetensors.numpy import load_file

    a, b = (load_file(folder / f"{name}.safetensors") for folder in (folder_a, folder_b))
    if a.keys() != b.keys():
        return float("inf")
    return max(float(np.abs(np.subtract(a[k], b[k], dtype=np.float64)).max(initial=0)) for k in a)
