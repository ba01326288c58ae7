"""How the trained weights are made and measured; what `python -m zoo.pretrained` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from zoo import registry, storage, tasks, training, weights
from zoo.layers import signature
from zoo.pretrained import HERE, Trained
from zoo.training import engines, metrics, objectives, plan
from zoo.training.recipes import recipe


def arguments(trained: Trained) -> dict[str, Any]:
    """What the builder is given: what the task decides, and the changes."""
    return {**plan.task_arguments(registry.card(trained.model), trained.name), **trained.changes}


def measure(trained: Trained, path: Path | None = None) -> dict[str, float]:
    """What the weights score on the task's held-out examples, on the framework that runs."""
    model = registry.build(trained.model, **arguments(trained))
    weights.load(model, path or trained.path, head="require")
    task = tasks.load(trained.name, signature.input_shapes(model))
    optimizer = recipe(registry.card(trained.model).recipe).make_optimizer()  # compile asks for one
    return metrics.evaluate(engines.KerasEngine(model, objectives.Objective(task.loss), optimizer), task)


def make(trained: Trained, folder: Path = HERE) -> dict[str, Any]:
    """Train, round to 16 bits, measure what is left, and write it with its card, which is returned."""
    model = registry.build(trained.model, seed=0, **arguments(trained))
    run = training.train(model, trained.name, **trained.settings)
    with storage.replacing(folder / trained.path.name) as part:
        weights.save(run.model, part)
        arrays = {name: array.astype(np.float16) for name, array in load_file(part).items()}
        save_file(arrays, part)
        how = recipe(registry.card(trained.model).recipe)
        told = {
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
        save_file(arrays, part, {"format": "pt", "card": json.dumps(told)})
    return told
