"""What a shell completes after `zoo`: the names of models, tasks, frameworks, engines and modes.

No framework is imported, so that the answer is there before the finger leaves the key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Complete = Callable[[str], list[str]]


def models(incomplete: str) -> list[str]:
    """Models, and families by whose names they are known."""
    from zoo import registry

    return _beginning(incomplete, [*registry.families(), *registry.list_models()])


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
