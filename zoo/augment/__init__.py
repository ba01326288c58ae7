"""Data augmentation: random changes of examples in every epoch, the same on every framework.

    zoo.train("resnet18", "cifar10", augment=[RandomCrop(32), HorizontalFlip(), MixUp(0.2)])
    zoo.train("resnet18", "cifar10", augment="RandomCrop(32), HorizontalFlip, MixUp(0.2)")
    zoo.train("speech", "spoken-digits", augment="TimeStretch, Noise, SpecAugment")

The result for an example depends on the seed, the epoch and its index in the data, and on nothing else: not
on the framework, the number of workers, or where a run was resumed. Mixing transforms also depend on the
batch: each example is mixed with the previous one of the batch, whose order is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from zoo.augment.audio import Noise, PitchShift, SpecAugment, TimeShift, TimeStretch, WaveTransform
from zoo.augment.base import Mix, Transform
from zoo.augment.image import (
    CenterCrop,
    ColorJitter,
    CutMix,
    HorizontalFlip,
    MixUp,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomResizedCrop,
    Rotation,
    VerticalFlip,
)
from zoo.augment.text import (
    BackTranslation,
    RandomDeletion,
    RandomInsertion,
    RandomSwap,
    SynonymReplacement,
    TextTransform,
)
from zoo.checks import Call, parse_calls
from zoo.errors import UnknownName, WrongConfiguration, nearest

__all__ = [
    "BackTranslation",
    "CenterCrop",
    "ColorJitter",
    "CutMix",
    "HorizontalFlip",
    "Mix",
    "MixUp",
    "Noise",
    "PitchShift",
    "RandAugment",
    "RandomCrop",
    "RandomDeletion",
    "RandomErasing",
    "RandomInsertion",
    "RandomResizedCrop",
    "RandomSwap",
    "Rotation",
    "SpecAugment",
    "SynonymReplacement",
    "TimeShift",
    "TimeStretch",
    "Transform",
    "VerticalFlip",
    "batch",
    "parse",
]

AugmentSpec = str | Transform | Sequence[str | Transform]
TRANSFORMS: dict[str, type[Transform]] = {
    transform.__name__: transform
    for transform in (
        HorizontalFlip,
        VerticalFlip,
        Rotation,
        CenterCrop,
        RandomCrop,
        RandomResizedCrop,
        ColorJitter,
        RandAugment,
        RandomErasing,
        MixUp,
        CutMix,
        RandomDeletion,
        RandomSwap,
        RandomInsertion,
        SynonymReplacement,
        BackTranslation,
        TimeStretch,
        PitchShift,
        Noise,
        TimeShift,
        SpecAugment,
    )
}
KINDS: dict[str, type[Transform]] = {"texts": TextTransform, "waves": WaveTransform, "frames": SpecAugment}
_plain = {name.lower(): name for name in TRANSFORMS}


def parse(augment: AugmentSpec) -> tuple[Transform, ...]:
    """Transforms from text such as "HorizontalFlip, RandAugment(2, magnitude=9)", a transform, or a list.

    Names are matched without case, hyphens and underscores. Raises UnknownName, and WrongConfiguration for
    invalid arguments.
    """
    if isinstance(augment, Transform):
        return (augment,)
    if not isinstance(augment, str):
        return tuple(transform for part in augment for transform in parse(part))
    return tuple(map(_make, parse_calls("augment", augment)))


def format_transforms(transforms: Sequence[Transform]) -> str:
    """The text of transforms, which `parse` reads."""
    return ", ".join(map(repr, transforms))


def _make(call: Call) -> Transform:
    key = call.name.lower().replace("_", "")
    if key not in _plain:
        raise UnknownName(f"no transform {call.name!r}; {nearest(call.name, TRANSFORMS)}")
    transform = TRANSFORMS[_plain[key]]
    try:
        return transform(*call.args, **call.kwargs)
    except TypeError:
        expected = ", ".join(field.name for field in fields(transform)) or "no arguments"
        call = replace(call, name=transform.__name__)
        raise WrongConfiguration(f"{call}: expected arguments {expected}") from None


def batch(task: Any, chosen: Sequence[int] | np.ndarray, seed: int, epoch: int) -> tuple[Any, np.ndarray]:
    """`task.augmented(chosen, seed, epoch)` of a `zoo.tasks.Task`: these training examples, augmented."""
    return task.augmented(chosen, seed, epoch)
