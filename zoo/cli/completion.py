"""What a shell completes after `zoo`: the names of models, tasks, frameworks, engines and modes.

No framework is imported, so that the answer is there before the finger leaves the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

PICTURES = ("grad-cam", "feature-maps", "filters", "attention", "attention-rollout")
Complete = Callable[[str], list[str]]


def models(incomplete: str) -> list[str]:
    """Models, and families by whose names they are known."""
    from zoo import registry

    return _beginning(incomplete, [*registry.families(), *registry.list_models()])


def models_and_runs(incomplete: str) -> list[str]:
    """Models, and the runs that are saved here."""
    return [*models(incomplete), *runs(incomplete)]


def runs(incomplete: str) -> list[str]:
    """Folders in runs/ with a run in them; with none that fits, the shell goes on with files and folders."""
    return _beginning(incomplete, sorted(str(path.parent) for path in Path("runs").glob("*/run.json")))


def tasks(incomplete: str) -> list[str]:
    """Tasks by name; with none that fits, the shell goes on with files and folders."""
    from zoo.tasks import TASKS

    return _beginning(incomplete, TASKS)


def backends(incomplete: str) -> list[str]:
    """The three frameworks, installed or not."""
    from zoo.backends import NAMES

    return _beginning(incomplete, NAMES)


def engines(incomplete: str) -> list[str]:
    """The two engines."""
    return _beginning(incomplete, ("native", "keras"))


def errors(incomplete: str) -> list[str]:
    """What to do with images that cannot be read."""
    return _beginning(incomplete, ("stop", "skip"))


def splits(incomplete: str) -> list[str]:
    """Parts of a task."""
    return _beginning(incomplete, ("held-out", "train", "all"))


def pictures(incomplete: str) -> list[str]:
    """What `zoo show` draws."""
    return _beginning(incomplete, PICTURES)


def layouts(incomplete: str) -> list[str]:
    """Whose names of weights there are."""
    return _beginning(
        incomplete, ("zoo", "torchvision", "timm", "transformers", "torch", "nanogpt", "mingpt")
    )


def modes(incomplete: str) -> list[str]:
    """Ways in which the native engine runs on any framework."""
    from zoo.backends import MODES

    return _beginning(incomplete, dict.fromkeys(mode for ways in MODES.values() for mode in ways))


def several(complete: Complete) -> Complete:
    """The same for names with commas between: the last is completed, and none comes twice."""

    def complete_last(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        given = before.split(",")
        return [f"{before}{comma}{name}" for name in complete(last) if name not in given]

    return complete_last


def _beginning(start: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(start)]
