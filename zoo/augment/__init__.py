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
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import random
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

if TYPE_CHECKING:
    from zoo.tasks import Pair, Task

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


def batch(task: Task, chosen: Sequence[int] | np.ndarray, seed: int, epoch: int) -> Pair:
    """The augmented training examples of a task with these indices, in this epoch.

    Mixing makes labels soft: (b, classes), float32. Raises WrongConfiguration for labels that cannot be
    mixed.
    """
    x, y = task.train
    rngs = [random.generator(seed, "augment", epoch, int(i)) for i in chosen]
    changes = [t for t in task.augment if not isinstance(t, Mix)]
    mixes = [t for t in task.augment if isinstance(t, Mix)]

    def change(example: Any, position: int, kind: type[Transform] = Transform) -> Any:
        for transform in changes:
            if isinstance(transform, kind):
                example = transform(example, rngs[position])
        return example

    if hasattr(x, "pad"):  # zoo.tasks.sequences, which imports this module
        kinds = [KINDS[kind] for kind in x.kinds]
        for t in task.augment:
            if not isinstance(t, tuple(kinds)):
                stages = " or ".join(x.kinds)
                raise WrongConfiguration(
                    f"{task.name}: {type(t).__name__} does not change {stages}; leave it out"
                )
        return x.pad(x.read(chosen, *(partial(change, kind=kind) for kind in kinds))), y[chosen]
    if isinstance(x, np.ndarray):
        images = [change(x[i], position) for position, i in enumerate(chosen)]
    else:
        images = x.read(chosen, change, whole=any(isinstance(t, RandomResizedCrop) for t in changes))
    if not mixes:
        return np.stack(images), y[chosen]
    examples = list(zip(images, _soft(y[chosen], task), strict=True))
    for mix in mixes:
        others = [examples[-1], *examples[:-1]]
        examples = [mix.mix(*each) for each in zip(examples, others, rngs, strict=True)]
    return np.stack([image for image, _ in examples]), np.stack([target for _, target in examples])


def _soft(targets: np.ndarray, task: Task) -> np.ndarray:
    if not np.issubdtype(targets.dtype, np.integer):
        return targets
    if task.classes is None:
        raise WrongConfiguration(
            f"{task.name}: mixing labels needs a task with a number of classes; leave MixUp and CutMix out"
        )
    return np.eye(task.classes, dtype=np.float32)[targets]
