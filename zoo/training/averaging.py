"""Test-time augmentation: the mean of a model's predictions for an image and its augmented copies.

Krizhevsky et al. 2012, section 4.1, average over crops and their reflections. Each transform makes one copy;
a flip always flips, and what else a transform draws depends on its position and the example's index alone.
Probabilities are averaged for cross entropy, else the outputs themselves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from zoo.augment import (
    AugmentSpec,
    HorizontalFlip,
    Mix,
    SpecAugment,
    TextTransform,
    Transform,
    VerticalFlip,
    WaveTransform,
    parse,
)
from zoo.errors import WrongConfiguration
from zoo.tasks import Pair, Task, folders
from zoo.tasks.augmentation import augmented
from zoo.training.engines import Predicts


def parse_transforms(given: AugmentSpec) -> tuple[Transform, ...]:
    """The transforms, flips among them certain. Raises UnknownName or WrongConfiguration."""
    transforms = parse(given)
    for transform in transforms:
        if isinstance(transform, Mix | TextTransform | WaveTransform | SpecAugment):
            raise WrongConfiguration(
                f"tta= changes single images; {type(transform).__name__} does not, leave it out"
            )
    flips = HorizontalFlip | VerticalFlip
    return tuple(replace(t, rate=1.0) if isinstance(t, flips) else t for t in transforms)


def check_images(task: Task) -> None:
    """Raise WrongConfiguration unless the examples are images that are not in batches already."""
    x = task.train[0]
    images = isinstance(x, folders.Images) or (isinstance(x, np.ndarray) and x.ndim == 4)
    if not images or task.streams or task.corrupt is not None:
        raise WrongConfiguration(f"tta= goes with images, in files or arrays; {task.name} has others")


def copies(task: Task, split: str, batch_size: int, transforms: Sequence[Transform]) -> Iterator[Pair]:
    """The examples of a split in batches (xs, y): the images, and a copy of them by each transform."""
    x, y = getattr(task, split)
    for start in range(0, len(x), batch_size):
        indices = np.arange(start, min(start + batch_size, len(x)))
        own = x[indices]
        changed = [
            augmented((x, y), [transform], indices, 0, position, classes=task.classes, name=task.name)[0]
            for position, transform in enumerate(transforms)
        ]
        for transform, each in zip(transforms, changed, strict=True):
            if each.shape != own.shape:
                raise WrongConfiguration(
                    f"tta: {type(transform).__name__} makes images of shape {each.shape[1:]}, the model "
                    f"takes {own.shape[1:]}"
                )
        yield [own, *changed], y[indices]


class Average:
    """Predicts the mean over several copies of the examples."""

    def __init__(self, predictor: Predicts, loss: str):
        self.predictor, self.loss, self.shares = predictor, predictor.loss, loss == "cross_entropy"

    def predict(self, x: Sequence[Any]) -> np.ndarray:
        """The mean output, for cross entropy the logarithm of the mean probability."""
        outputs = [self.predictor.predict(each) for each in x]
        if not self.shares:
            return np.mean(outputs, axis=0)
        logs = [each - np.logaddexp.reduce(each, axis=-1, keepdims=True) for each in outputs]
        return np.logaddexp.reduce(logs, axis=0) - np.float32(np.log(len(logs)))
