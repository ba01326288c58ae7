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

BATCH, STEPS, NORM = 12, 8, 0.01  # examples, steps, and that to which a fault clips


class Held(zoo.Callback):
    """How many numbers of the weights and the optimizer's state this worker holds during a step, on JAX."""

    numbers = 0

    def on_begin(self, run: Any) -> None:
        self.step = run.trainer.step

    def on_step(self, step: int, loss: Any) -> None:
        del step, loss
        import jax

        if self.step.state is None:  # layers have joined, and a state is made for them before the next step
            return
        weights, _, memory = self.step.state
        shards = [x.addressable_shards for x in jax.tree.leaves((weights, memory))]
        self.numbers = sum(shard.data.size for each in shards for shard in each)


def train(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The losses and metrics of a run, and a digest of its weights."""
    network = registered_network(name)
    model, pair = network.builder(), (network.inputs, network.targets)
    held_out = None if network.loss == "ctc" else pair  # of arrays the metric is accuracy, which CTC lacks
    settings = {"batch_size": BATCH, "steps": STEPS, "loss": network.loss, "validation": held_out, **options}
    held = Held()
    if backends.current().NAME == "jax" and not options.get("exact"):  # whose step keeps its state elsewhere
        settings["callbacks"] = [held]
    run = zoo.train(model, pair, **settings)
    digest = hashlib.sha256()
    for variable in model.variables:
        digest.update(np.ascontiguousarray(ops.convert_to_numpy(variable)).tobytes())
    return {
        "losses": run.losses,
        "metrics": run.metrics,
        "digest": digest.hexdigest(),
        "signal": run.signal,
        "held": held.numbers,
    }


def mutate(name: str) -> None:
    """Break one rule of the workers, as a fault that the losses must show."""
    from zoo.backends import exact_numbers, world

    import zoo.random as random

    backend: Any = backends.current()
    if name == "dropout":
        random.part_of_batch = lambda: world.WHOLE
    elif name == "norm":
        exact_numbers.part = backend.part = lambda: world.WHOLE
    elif name == "grid":
        reduce = world.get_world().reduce
        world.get_world().reduce = lambda x, by: x if by == "max" else reduce(x, by)
    elif name == "weight":
        own = world.split
        world.split = lambda y, rank, size, count: own(y, rank, size, len)
    elif name == "clip":
        sums = world.get_world().sums

        def clipped(loss: Any, gradients: Any, rest: Any) -> Any:
            norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
            factor = NORM / ops.maximum(norm, NORM)
            return sums(loss, [gradient * factor for gradient in gradients], rest)

        world.get_world().sums = clipped


def main() -> None:
    """Train what the arguments say."""
    folder, asked = Path(sys.argv[1]), json.loads(sys.argv[2])
    _lazy.leave_out_extras()
    workers = int(os.environ.get("WORLD_SIZE", "1"))
    shard = asked.get("shard") if workers > 1 else None
    settings = {"threads": 1, "worker_timeout": asked.get("timeout"), "shard": shard}
    backends.use(os.environ["KERAS_BACKEND"], workers=workers, **settings)
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
