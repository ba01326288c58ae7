"""Batches of augmented training examples."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from zoo import random
from zoo.augment import KINDS, Mix, RandomResizedCrop, Transform
from zoo.errors import WrongConfiguration
from zoo.tasks.sequences import Sequences


def augmented(
    train: tuple[Any, np.ndarray],
    transforms: Sequence[Transform],
    indices: Sequence[int] | np.ndarray,
    seed: int,
    epoch: int,
    *,
    classes: int | None,
    name: str,
) -> tuple[Any, np.ndarray]:
    """The examples (x, y) with these indices, augmented; see `Task.augmented`."""
    x, y = train
    rngs = [random.generator(seed, "augment", epoch, int(i)) for i in indices]
    changes = [t for t in transforms if not isinstance(t, Mix)]
    mixes = [t for t in transforms if isinstance(t, Mix)]

    def change(example: Any, position: int, kind: type[Transform] = Transform) -> Any:
        for transform in changes:
            if isinstance(transform, kind):
                example = transform(example, rngs[position])
        return example

    if isinstance(x, Sequences):
        kinds = [KINDS[kind] for kind in x.kinds]
        for t in transforms:
            if not isinstance(t, tuple(kinds)):
                stages = " or ".join(x.kinds)
                raise WrongConfiguration(f"{name}: {type(t).__name__} does not change {stages}; leave it out")
        return x.pad(x.read(indices, *(partial(change, kind=kind) for kind in kinds))), y[indices]
    if isinstance(x, np.ndarray):
        images = [change(x[i], position) for position, i in enumerate(indices)]
    else:
        images = x.read(indices, change, whole=any(isinstance(t, RandomResizedCrop) for t in changes))
    if not mixes:
        return np.stack(images), y[indices]
    examples = list(zip(images, _soft(y[indices], classes, name), strict=True))
    for mix in mixes:
        others = [examples[-1], *examples[:-1]]
        examples = [mix.mix(*each) for each in zip(examples, others, rngs, strict=True)]
    return np.stack([image for image, _ in examples]), np.stack([target for _, target in examples])


def _soft(targets: np.ndarray, classes: int | None, name: str) -> np.ndarray:
    """(b,) integers -> (b, classes) one-hot; other targets are soft already."""
    if not np.issubdtype(targets.dtype, np.integer):
        return targets
    if classes is None:
        raise WrongConfiguration(
            f"{name}: mixing labels needs a task with a number of classes; leave MixUp and CutMix out"
        )
    return np.eye(classes, dtype=np.float32)[targets]
