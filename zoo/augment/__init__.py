"""Data augmentation: random changes of examples in every epoch, the same on every framework.

    zoo.train("resnet18", "cifar10", augment=[RandomCrop(32), HorizontalFlip(), MixUp(0.2)])
    zoo.train("resnet18", "cifar10", augment="RandomCrop(32), HorizontalFlip, MixUp(0.2)")
    zoo.train("speech", "spoken-digits", augment="TimeStretch, Noise, SpecAugment")

The result for an example depends on the seed, the epoch and its index in the data, and on nothing else: not
on the framework, the number of workers, or where a run was resumed. Mixing transforms also depend on the
batch: each example is mixed with the previous one of the batch, whose order is random.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import fields
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
    try:
        text = re.sub(r"-(?=[A-Za-z])", "", augment)
        listed = ast.parse(f"[{text}]", mode="eval").body
        calls = [_call(node) for node in listed.elts]  # pyright: ignore[reportAttributeAccessIssue]
    except (SyntaxError, ValueError, AttributeError):
        raise WrongConfiguration(
            f"augment={augment!r}; expected transforms with plain numbers, e.g. "
            "'HorizontalFlip, RandAugment(2, 9)'"
        ) from None
    return tuple(_make(*call) for call in calls)


def format_transforms(transforms: Sequence[Transform]) -> str:
    """The text of transforms, which `parse` reads."""
    return ", ".join(map(repr, transforms))


def _call(node: ast.expr) -> tuple[str, list[Any], dict[str, Any]]:
    call = node if isinstance(node, ast.Call) else ast.Call(node, [], [])
    named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    name = call.func.id  # pyright: ignore[reportAttributeAccessIssue]
    return name, [ast.literal_eval(a) for a in call.args], named


def _make(name: str, given: list[Any], named: dict[str, Any]) -> Transform:
    key = name.lower().replace("_", "")
    if key not in _plain:
        raise UnknownName(f"no transform {name!r}; {nearest(name, TRANSFORMS)}")
    transform = TRANSFORMS[_plain[key]]
    try:
        return transform(*given, **named)
    except TypeError:
        expected = ", ".join(field.name for field in fields(transform)) or "no arguments"
        text = ", ".join([*map(repr, given), *(f"{k}={v!r}" for k, v in named.items())])
        raise WrongConfiguration(f"{transform.__name__}({text}): expected arguments {expected}") from None


def batch(task: Any, chosen: Sequence[int] | np.ndarray, seed: int, epoch: int) -> tuple[Any, np.ndarray]:
    """`task.augmented(chosen, seed, epoch)` of a `zoo.tasks.Task`: these training examples, augmented."""
    return task.augmented(chosen, seed, epoch)
