"""Shell completion for `zoo`: the names of models, tasks, frameworks, engines and modes.

No framework is imported, because completion has to be fast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

PICTURES = ("grad-cam", "feature-maps", "filters", "attention", "attention-rollout")
Complete = Callable[[str], list[str]]


def models(incomplete: str) -> list[str]:
    """Models and families."""
    from zoo import registry

    return _matches(incomplete, [*registry.families(), *registry.list_models()])


def models_and_runs(incomplete: str) -> list[str]:
    """Models, and the runs in this folder."""
    return [*models(incomplete), *runs(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Runs in runs/; if none matches, the shell completes files and folders."""
    return _matches(incomplete, sorted(str(path.parent) for path in Path("runs").glob("*/run.json")))


def tasks(incomplete: str) -> list[str]:
    """Tasks; if none matches, the shell completes files and folders."""
    from zoo.tasks import TASKS

    return _matches(incomplete, TASKS)


def backends(incomplete: str) -> list[str]:
    """The three frameworks, installed or not."""
    from zoo.backends import NAMES

    return _matches(incomplete, NAMES)


def engines(incomplete: str) -> list[str]:
    """The two engines."""
    return _matches(incomplete, ("native", "keras"))


def errors(incomplete: str) -> list[str]:
    """Ways to treat files that cannot be read."""
    return _matches(incomplete, ("stop", "skip"))


def splits(incomplete: str) -> list[str]:
    """Parts of a task."""
    return _matches(incomplete, ("held-out", "train", "all"))


def pictures(incomplete: str) -> list[str]:
    """The kinds of pictures that `zoo show` draws."""
    return _matches(incomplete, PICTURES)


def layouts(incomplete: str) -> list[str]:
    """Naming schemes of weights."""
    return _matches(incomplete, ("zoo", "torchvision", "timm", "transformers", "torch", "nanogpt", "mingpt"))


def modes(incomplete: str) -> list[str]:
    """Modes of the native engine on any framework."""
    from zoo.backends import MODES

    return _matches(incomplete, dict.fromkeys(mode for modes in MODES.values() for mode in modes))


def several(complete: Complete) -> Complete:
    """Completion of the last of comma-separated names, without those before it."""

    def complete_last(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        names = before.split(",")
        return [f"{before}{comma}{name}" for name in complete(last) if name not in names]

    return complete_last


def _matches(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(start)]
