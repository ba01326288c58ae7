"""The lowest versions that pyproject.toml allows, as constraints for pip: `python tests/lowest.py FILE`."""

import re
import sys
import tomllib
from pathlib import Path

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
BOUND = re.compile(r"([\w.-]+)>=([\w.]+)[^;]*(;.*)?")


def package(requirement: str) -> str:
    """`huggingface-hub` for "huggingface_hub>=1": the name in the spelling that indexes compare."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^\w.-]", requirement)[0]).lower()


def lowest() -> list[str]:
    """`numpy==2` for "numpy>=2": of the dependencies, every extra, and the group that runs the tests."""
    project, groups = PYPROJECT["project"], PYPROJECT["dependency-groups"]
    needed = [*project["dependencies"], *groups["test"]]
    needed += [requirement for extra in project["optional-dependencies"].values() for requirement in extra]
    bounds = [match for requirement in needed if (match := BOUND.fullmatch(requirement))]
    return sorted({f"{match[1]}=={match[2]}{match[3] or ''}" for match in bounds})


if __name__ == "__main__":
    Path(sys.argv[1]).write_text("\n".join(lowest()) + "\n", encoding="utf-8")
