"""Trains the pretrained weights that come with the zoo, and measures them.

python docs/_pretrained.py lenet5 digits            # into zoo/pretrained/
python docs/_pretrained.py lenet5 digits FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from zoo import registry, storage, training, weights
from zoo.pretrained import TRAINED, Trained
from zoo.training import plan
from zoo.training.evaluation import evaluate
from zoo.training.recipes import recipe

HERE = Path(__file__).parent.parent / "zoo" / "pretrained"


def arguments(trained: Trained) -> dict[str, Any]:
    """The builder's arguments: those that the task decides, and those that were changed."""
    return {**plan.task_arguments(registry.card(trained.model), trained.name), **trained.changes}


def measure(trained: Trained, path: Path | None = None) -> dict[str, float]:
    """The metrics of the weights on the task's held-out examples, on the current framework."""
    model = registry.build(trained.model, **arguments(trained))
    measured = evaluate(model, trained.name, weights=path or trained.path)
    return {name: measured[name] for name in measured.keys() - {"examples", "split"}}


def make(trained: Trained, folder: Path = HERE) -> dict[str, Any]:
    """Train, round to half precision, measure, and write the weights with their card, which is returned."""
    model = registry.build(trained.model, seed=0, **arguments(trained))
    run = training.train(model, trained.name, **trained.settings)
    with storage.replacing(folder / trained.path.name) as part:
        weights.save(run.model, part)
        arrays = {name: array.astype(np.float16) for name, array in load_file(part).items()}
        save_file(arrays, part)
        how = recipe(registry.card(trained.model).recipe)
        card = {
            "model": trained.model,
            "weights": trained.name,
            "arguments": arguments(trained),
            "data": trained.data,
            "recipe": f"{how}, {len(run.losses)} steps of {run.batch_size} examples",
            "command": trained.command,
            "metrics": measure(trained, part),
            "parameters": sum(array.size for array in arrays.values()),
            "limits": trained.limits,
        }
        save_file(arrays, part, {"format": "pt", "card": json.dumps(card)})
    return card


if __name__ == "__main__":
    by_name = {(trained.model, trained.name): trained for trained in TRAINED}
    if tuple(sys.argv[1:3]) not in by_name:
        sys.exit(f"expected one of: {', '.join(map(' '.join, by_name))}")
    print(json.dumps(make(by_name[sys.argv[1], sys.argv[2]], *map(Path, sys.argv[3:4])), indent=1))
