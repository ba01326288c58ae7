"""Rules of the house, read off the source: `import keras` loads frameworks, so `sys.modules` misleads."""

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import python

import zoo

pytestmark = pytest.mark.once

ROOT = Path(__file__).parent.parent  # the sources, not the installed copy of them
REFERENCES = ROOT / "zoo" / "benchmarks" / "references"
ZOO = sorted(path for path in (ROOT / "zoo").rglob("*.py") if REFERENCES not in path.parents)
SOURCES = sorted(path for folder in ("zoo", "backends", "tests") for path in (ROOT / folder).rglob("*.py"))
FRAMEWORKS = {"torch", "tensorflow", "jax", "jaxlib", "optax", "flax"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imports(tree: ast.Module) -> Iterator[str]:
    """Every module imported, at the top or inside a function; `import_module("...")` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module or ""
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in (
            "import_module",
            "__import__",
        ):
            yield from (a.value for a in node.args[:1] if isinstance(a, ast.Constant))


def packages(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(parse(path))}


def test_there_are_sources_to_read() -> None:
    assert {"zoo/layers/__init__.py", "zoo/models/lenet.py", "zoo/comparison/worker.py"} <= set(
        map(name_of, ZOO)
    )


def test_a_hidden_import_would_be_seen() -> None:
    hidden = (
        "def f():\n    import torch.nn as n\n    from jax import lax\n    importlib.import_module('optax.x')"
    )
    assert list(imports(ast.parse(hidden))) == ["torch.nn", "jax", "optax.x"]


@pytest.mark.parametrize("path", ZOO, ids=name_of)
def test_the_product_imports_no_framework(path: Path) -> None:
    assert not packages(path) & FRAMEWORKS


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_backends_are_imported_under_the_name_they_ship_by(path: Path) -> None:
    assert "backends" not in packages(path)


@pytest.mark.parametrize("path", ZOO, ids=name_of)
def test_keras_is_imported_when_it_is_first_used(path: Path) -> None:
    """Through `zoo._lazy`, or inside a function; at the top of a module only for the type checker."""
    top = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
    assert "keras" not in {name.partition(".")[0] for name in imports(ast.Module(top, []))}


@pytest.mark.parametrize("path", ZOO, ids=name_of)
def test_no_code_outside_the_backends_asks_which_framework_runs(path: Path) -> None:
    compared = {
        constant.value
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Compare | ast.match_case)
        for constant in ast.walk(node.pattern if isinstance(node, ast.match_case) else node)
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str)
    }
    assert not compared & FRAMEWORKS


@pytest.mark.parametrize(
    "statement",
    [
        "import zoo",
        "import zoo.cli",
        "import zoo.comparison",
        "import zoo.ladder",
        "import zoo.ports",
        "import zoo.benchmarks.worker",  # it chooses the framework that its job names
        "import zoo; zoo.list_models()",
    ],
)
def test_a_light_command_loads_no_framework(statement: str) -> None:
    """Here `sys.modules` is a fair judge: no Keras is loaded that could bring a framework along."""
    loaded = python(f"{statement}\nimport sys; print(*sys.modules)", first="").split()
    assert "zoo" in loaded
    assert not {name.partition(".")[0] for name in loaded} & (FRAMEWORKS | {"keras"})


@pytest.mark.parametrize("name", zoo.__all__)
def test_a_public_name_is_what_it_says(name: str) -> None:
    """Also once every module is loaded: one named like a public function would take its place."""
    for path in ZOO:
        if path.stem not in ("__main__", "worker"):
            dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            importlib.import_module(dotted)
    assert getattr(zoo, name).__name__ in (name, f"zoo.{name}", f"zoo.training.{name}")
    assert name in dir(zoo)


def test_a_name_that_zoo_lacks_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="No zoo attribute trane"):
        _ = zoo.trane


def public(tree: ast.Module | ast.ClassDef) -> list[ast.ClassDef | Function]:
    """Functions and classes of a module, those of its __all__ if it has one, or the methods of a class."""
    found = [n for n in tree.body if isinstance(n, ast.ClassDef | Function) and not n.name.startswith("_")]
    lists = [
        ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and names(n) == ["__all__"]
    ]
    return [n for n in found if n.name in lists[0]] if lists else found


def names(assignment: ast.Assign) -> list[str]:
    return [target.id for target in assignment.targets if isinstance(target, ast.Name)]


@pytest.mark.parametrize("path", ZOO, ids=name_of)
def test_public_functions_and_classes_say_what_they_do(path: Path) -> None:
    tree = parse(path)
    assert ast.get_docstring(tree)
    assert [n.name for n in public(tree) if not ast.get_docstring(n)] == []


@pytest.mark.parametrize("path", ZOO, ids=name_of)
def test_public_signatures_are_annotated(path: Path) -> None:
    def bare(f: Function) -> bool:
        a = f.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        return not f.returns or any(not x.annotation for x in arguments if x.arg not in ("self", "cls"))

    found = public(parse(path))
    methods = [method for node in found if isinstance(node, ast.ClassDef) for method in public(node)]
    assert [f.name for f in [*found, *methods] if isinstance(f, Function) and bare(f)] == []
