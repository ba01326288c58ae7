"""One of several workers: trains small models, and writes their losses and a digest of their weights.

python -m zoo.processes.launcher 2 tests/workers_program.py FOLDER '{"models": ["mlp"], ...}'
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

import zoo
from zoo import _lazy, backends
from zoo._lazy import ops
from zoo.ladder.networks import registered_network
from zoo.ladder.probe import use_float64

BATCH, STEPS = 12, 8


def train(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The losses and metrics of a run, and a digest of its weights."""
    network = registered_network(name)
    model, pair = network.builder(), (network.inputs, network.targets)
    held_out = None if network.loss == "ctc" else pair  # of arrays the metric is accuracy, which CTC lacks
    settings = {"batch_size": BATCH, "steps": STEPS, "loss": network.loss, "validation": held_out, **options}
    run = zoo.train(model, pair, **settings)
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable)).tobytes())
    return {"losses": run.losses, "metrics": run.metrics, "digest": digest.hexdigest(), "signal": run.signal}


def mutate(name: str) -> None:
    """Break one rule of the workers, as a fault that the losses must show."""
    import zoo.backends.torch as torch_backend
    import zoo.backends.torch_world as torch_world
    from zoo.backends import world

    import zoo.random as random

    if name == "dropout":
        random.part_of_batch = lambda: world.WHOLE
    elif name == "norm":
        torch_backend.part = lambda: world.WHOLE
    elif name == "weight":
        own = world.split
        torch_world.split = lambda y, rank, size, count: own(y, rank, size, len)
    elif name == "clip":
        clip, update = torch_backend.Updater.clip, torch_backend.EagerStep.updated

        def updated(self: Any, loss: Any, gradients: Any, weight: Any) -> Any:
            self.updater.clip = lambda gradients: gradients
            return update(self, loss, clip(self.updater, gradients), weight)

        torch_backend.EagerStep.updated = updated


def main() -> None:
    """Train what the arguments say."""
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    _lazy.leave_out_extras()
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    backends.use(os.environ["KERAS_BACKEND"], workers=workers, threads=1, worker_timeout=asked.get("timeout"))
    if asked.get("float64"):
        if os.environ["KERAS_BACKEND"] == "jax":
            backends.current().enable_float64()
        use_float64()
    if asked.get("mutation"):
        mutate(asked["mutation"])
    found = {name: train(name, asked.get("options", {})) for name in asked["models"]}
    (folder / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
