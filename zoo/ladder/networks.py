"""The networks that the ladder compares: a model, and data to train it on.

A registered model is built in its small configuration. A user's builder and data travel to every process in a
folder, see `save_network`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from zoo import backends, random, registry, tasks
from zoo._lazy import keras, ops
from zoo.errors import WrongConfiguration
from zoo.ladder.builders import architecture, arguments, call_builder, check_inputs
from zoo.layers import signature
from zoo.processes.builders import load_builder, save_builder
from zoo.tasks.sequences import take
from zoo.training.recipes import Recipe, recipe

Array = np.ndarray
SEED = 3
EXAMPLES = 100  # of the data made for a registered model


class Network:
    """A model that can be built any number of times with the same weights, and data to train it on."""

    def __init__(
        self,
        build: Callable[[], keras.Model],
        inputs: Any,
        targets: Array | None,
        loss: Any,
        recipe: Recipe | None = None,
    ):
        self.builder, self.inputs, self.targets, self.loss, self.recipe = build, inputs, targets, loss, recipe
        self.weights: dict[str, Array] | None = None  # copied from another framework: "0 conv/kernel"
        self.backend = ""  # that framework

    def build(self) -> keras.Model:
        """A new model with the initial weights that every framework starts from."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(SEED)  # for initializers without a seed
        model = call_builder(self.builder)
        self.inputs = arguments(model, self.inputs)
        if not model.built:
            model(backends.tensors(self.first(1)[0]))
        if self.weights is not None:
            self._assign(model, self.weights)
        return model

    def _assign(self, model: keras.Model, weights: Mapping[str, Array]) -> None:
        """Give the model these initial weights. Raises WrongConfiguration where they are another model's."""
        here = {f"{i} {v.path}": tuple(v.shape) for i, v in enumerate(model.weights)}
        there = {name: x.shape for name, x in weights.items()}
        if here != there:
            name = next(n for n in [*there, *here] if here.get(n) != there.get(n))
            backend = backends.current().NAME
            other = "another call" if self.backend == backend else f"another framework, {backend}"
            raise WrongConfiguration(
                f"the builder made another model in {other}: weight {name} is "
                f"{there.get(name, 'missing')} in one, {here.get(name, 'missing')} in the other; it must "
                "return the same architecture each time, on every framework"
            )
        for variable, value in zip(model.weights, weights.values(), strict=True):
            variable.assign(value)

    def task(self) -> tasks.Task:
        """The data as a task."""
        loss = self.loss if isinstance(self.loss, str) else None
        return tasks.from_arrays((self.inputs, self.targets), loss=loss)

    def first(self, count: int) -> tuple[Any, Array | None]:
        """The first inputs and targets."""
        x = take(self.inputs, slice(count))
        return x, None if self.targets is None else self.targets[:count]


# A model of the zoo


def registered_network(name: str) -> Network:
    """A model of the zoo in its small configuration, on data of its size."""
    card = registry.card(name)
    x, y = data_for(card)
    loss = tasks.source(card.task)[1].loss
    named = None if loss == "cross_entropy" else loss  # the default, with smoothed labels
    return Network(lambda: registry.build(name, seed=SEED, **card.small), x, y, named, recipe(card.recipe))


def data_for(card: registry.Card) -> tuple[Any, Array]:
    """Digits at the size of the small configuration, of the classes it distinguishes; or sequences."""
    arguments = {**card.arguments, **card.small}
    if None in card.input:
        return sequences_for(registry.build(card.name, **card.small))
    x, y = tasks.load("digits", replace(card, config=arguments).input).train
    rows = np.flatnonzero(y < arguments.get("classes", 10))[:EXAMPLES]
    return x[rows], y[rows]


def sequences_for(model: keras.Model) -> tuple[Any, Array]:
    """Padded sequences with random labels: one for each, or one for each step, -1 in the padding."""
    x, rng = signature.example(model, EXAMPLES, SEED), random.generator(SEED, "labels")
    *steps, classes = model.output_shape[1:]
    if not steps:
        return x, rng.integers(classes, size=EXAMPLES, dtype=np.int32)
    inputs: Any = x.get("decoder_token_ids", x.get("token_ids")) if isinstance(x, Mapping) else x
    if inputs.ndim == 2:
        return x, np.where(inputs == 0, -1, rng.integers(classes, size=inputs.shape, dtype=np.int32))
    # For CTC: one symbol, and a second, different one where there are frames for two.
    first = rng.integers(1, classes, size=EXAMPLES, dtype=np.int32)
    second = np.where(inputs[:, 4:].any((1, 2)), 1 + first % (classes - 1), 0)
    return x, np.stack([first, second], 1)


# A user's own


def save_network(folder: Path, build: Any, inputs: Any, targets: Any, loss: Any) -> None:
    """Write a user's builder and data where every process can load them. Raises WrongConfiguration."""
    import cloudpickle

    single = not isinstance(inputs, Mapping)
    arrays = {"": inputs} if single else inputs
    data = {f"inputs/{name}": np.asarray(x) for name, x in arrays.items()}
    for name, x in data.items():
        if x.ndim == 0 or x.dtype.kind not in "fiub":
            raise WrongConfiguration(
                f"{name.strip('/')}: {x.dtype} {x.shape}; expected arrays of numbers, by example"
            )
    lengths = {len(x) for x in data.values()} | ({len(targets)} if targets is not None else set())
    if len(lengths) != 1 or 0 in lengths:
        raise WrongConfiguration(
            f"inputs and targets of {sorted(lengths)} examples; expected as many, at least 1"
        )
    if targets is not None:
        data["targets"] = np.asarray(targets)
    folder.mkdir()
    place = save_builder(folder, build)
    try:
        code = cloudpickle.dumps((place, loss, single))
    except Exception as error:
        raise WrongConfiguration(f"the loss cannot be sent to another process: {error}") from None
    (folder / "network.pkl").write_bytes(code)
    np.savez(folder / "data.npz", allow_pickle=False, **data)


def save_weights(folder: Path) -> list[str]:
    """Write the initial weights of the network in a folder, for the other frameworks to start from.

    Returns its architecture. Raises WrongConfiguration for a builder that makes another model the next time.
    """
    network = load_network(folder)
    model = network.build()
    network.backend = backends.current().NAME
    network.weights = {f"{i} {v.path}": ops.convert_to_numpy(v) for i, v in enumerate(model.weights)}
    model = network.build()
    # By number: a path may have characters that a file's name cannot.
    names = np.array(list(network.weights))
    arrays = {str(i): x for i, x in enumerate(network.weights.values())}
    np.savez(folder / "weights.npz", allow_pickle=False, names=names, **arrays)
    return _checked(network, model)


def check(folder: Path) -> list[str]:
    """Build the network in a folder with the weights of another framework; returns its architecture."""
    network = load_network(folder)
    return _checked(network, network.build())


def _checked(network: Network, model: keras.Model) -> list[str]:
    check_inputs(model, network.first(1)[0])
    return architecture(model)


def load_network(folder: Path) -> Network:
    """A network that `save_network` wrote, with the weights of `save_weights` if there are any."""
    import cloudpickle

    place, loss, single = cloudpickle.loads((folder / "network.pkl").read_bytes())
    build = load_builder(place)
    with np.load(folder / "data.npz") as data:
        inputs: Any = {
            name.removeprefix("inputs/"): data[name] for name in data.files if name.startswith("inputs/")
        }
        targets = data["targets"] if "targets" in data.files else None
    network = Network(build, inputs[""] if single else inputs, targets, loss)
    if (weights := folder / "weights.npz").exists():
        with np.load(weights) as arrays:
            network.weights = {str(name): arrays[str(i)] for i, name in enumerate(arrays["names"])}
    return network
