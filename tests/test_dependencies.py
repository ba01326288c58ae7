"""pyproject.toml declares the packages that the code imports, and no others, as the sources show."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest
from lowest import PYPROJECT, lowest, package
from test_rules import ROOT, ZOO, imports, name_of, parse

pytestmark = pytest.mark.once

PROJECT, GROUPS = PYPROJECT["project"], PYPROJECT["dependency-groups"]
EXTRAS = PROJECT["optional-dependencies"]
FRAMEWORKS = [
    path
    for folder in ("backends", "zoo/benchmarks/references")
    for path in sorted((ROOT / folder).rglob("*.py"))
]
TESTS = sorted((ROOT / "tests").glob("*.py"))

# Packages whose module has another name.
PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "vl_convert": "vl-convert-python"}
# WordNet's words are a download of nltk's: an error message names both.
UNDECLARED = {"nltk"}
# tensorflow-cpu is imported as tensorflow, onnxruntime by code in a string, onnxscript by Keras,
# ipykernel by Jupyter.
NOT_IMPORTED = {"tensorflow-cpu", "onnxruntime", "onnxscript", "ipykernel"}
OURS = {"zoo", "backends", *(path.stem for path in TESTS)}


def names(requirements: Iterable[str]) -> set[str]:
    """The packages of requirements, but this one with extras."""
    return set(map(package, requirements)) - {PROJECT["name"]}


DEPENDENCIES = names(PROJECT["dependencies"])
OPTIONAL = names(line for extra in EXTRAS.values() for line in extra)


def third_party(tree: ast.Module) -> set[str]:
    """The packages that a module imports."""
    modules = {name.partition(".")[0] for name in imports(tree)}
    found = modules - OURS - sys.stdlib_module_names - {""}
    return {PACKAGES.get(module, package(module)) for module in found}


def at_import(tree: ast.Module) -> ast.Module:
    """The import statements that run when the module is imported, until it skips itself."""
    skips = (n for n, node in enumerate(tree.body) if "allow_module_level=True" in ast.unparse(node))
    before = tree.body[: next(skips, None)]
    return ast.Module(
        [node for node in before if isinstance(node, ast.Import | ast.ImportFrom | ast.Try)], []
    )


@pytest.mark.parametrize("path", ZOO, ids=name_of)
def test_the_product_imports_its_dependencies_and_extras_inside_functions_alone(path: Path) -> None:
    tree = parse(path)
    assert third_party(at_import(tree)) <= DEPENDENCIES
    assert third_party(tree) <= DEPENDENCIES | OPTIONAL | UNDECLARED


@pytest.mark.parametrize("path", FRAMEWORKS, ids=name_of)
def test_what_imports_a_framework_has_its_extra(path: Path) -> None:
    allowed = DEPENDENCIES | OPTIONAL | (names(GROUPS["peers"]) if "references" in path.parts else set())
    assert third_party(parse(path)) <= allowed


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_a_test_imports_optional_packages_by_importorskip(path: Path) -> None:
    """Else `pytest` fails to collect where they are not installed."""
    assert third_party(at_import(parse(path))) <= DEPENDENCIES | names(GROUPS["test"])


def test_every_declared_package_is_imported() -> None:
    imported = {name for path in ZOO + FRAMEWORKS for name in third_party(parse(path))}
    assert (DEPENDENCIES | OPTIONAL) - imported == NOT_IMPORTED


def test_every_declared_package_has_a_lowest_version() -> None:
    bounded = set(map(package, lowest()))
    assert bounded == DEPENDENCIES | OPTIONAL | names(GROUPS["test"])


def test_the_command_that_installs_a_missing_compiler_is_shown(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tests" / "requirements.py")]
    done = subprocess.run(command, env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "a C++ compiler, for torch.compile" in done.stderr
    assert "apt-get install g++" in done.stderr


UNREACHABLE = 'raise ConnectionError("pypi.org: name or service not known")'
UNKNOWN = 'import sys; sys.exit("ERROR: zoo: Dependency not found")'
VULNERABLE = 'import sys; print("Found 1 known vulnerability"); sys.exit(1)'


@pytest.mark.parametrize(
    ("auditor", "status", "said"),
    [
        (
            UNREACHABLE,
            1,
            "audit: nothing was audited, .*: ConnectionError: pypi.org: name or service not known",
        ),
        (UNKNOWN, 1, "audit: nothing was audited, .*: ERROR: zoo: Dependency not found"),
        (VULNERABLE, 1, "Found 1 known vulnerability"),
        ('print("No known vulnerabilities found")', 0, "No known vulnerabilities found"),
    ],
)
def test_an_audit_without_advisories_is_one_line_and_no_success(
    auditor: str, status: int, said: str, tmp_path: Path
) -> None:
    (tmp_path / "pip_audit.py").write_text(auditor)
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "audit.py"],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, len((done.stdout + done.stderr).splitlines())) == (status, 1)
    assert re.match(said, done.stdout + done.stderr)


def test_an_upper_bound_is_stated_for_keras_alone() -> None:
    """Whose private names the zoo uses; see pyproject.toml. Any other package may be newer."""
    every = [*PROJECT["dependencies"], *(line for extra in EXTRAS.values() for line in extra)]
    bounded = [line for line in every if re.search("<|==|~=", line.partition(";")[0])]
    assert list(map(package, bounded)) == ["keras"]


def test_every_package_of_ours_is_in_the_distribution() -> None:
    folders = {
        path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in ROOT.glob("zoo/**/__init__.py")
    }
    assert set(PYPROJECT["tool"]["setuptools"]["packages"]) == folders | {"zoo.backends"}
