"""The wheel, then the editable install in its place, in a clean environment, used from another folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.package
ROOT = Path(__file__).parent.parent
# What builds leave; the last is a folder that exists while a source distribution is made.
LEFT_OUT = (".*", "build", "*.egg-info", "keras_zoo_parity-*")


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(
        [str(word) for word in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def use_it(python: Path, folder: Path) -> None:
    """What a stranger does first, in a folder that is not the repository."""
    script = (
        "import zoo, zoo.benchmarks.references.lenet5_torch; model = zoo.build('lenet5', weights='digits'); "
        "print(model.count_params(), zoo.backends.current().__name__)"
    )
    assert run(python, "-c", script, cwd=folder).split() == ["61706", "zoo.backends.torch"]
    assert "lenet5-1998" in run(python.with_name("zoo"), "list", cwd=folder)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with nothing but torch."""
    folder = tmp_path_factory.mktemp("clean")
    run(sys.executable, "-m", "venv", "venv", cwd=folder)
    python = folder / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "-q", "torch", "-c", ROOT / "constraints.txt", cwd=folder)
    return python


def test_the_wheel_works_in_another_folder(python: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"  # without what was built here before
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*LEFT_OUT))
    run(sys.executable, "-m", "build", "-q", "--wheel", "--outdir", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    shipped = {
        "zoo/backends/jax.py",
        "zoo/benchmarks/references/lenet5_flax.py",
        "zoo/report/report.html",
        "zoo/pretrained/lenet5-digits.safetensors",
        "zoo/py.typed",
    }
    assert shipped <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "zoo",
        f"keras_zoo_parity-{wheel.name.split('-')[1]}.dist-info",
    }
    run(python, "-m", "pip", "install", "-q", wheel, "-c", ROOT / "constraints.txt", cwd=tmp_path)
    use_it(python, tmp_path)
    # Started in the source tree Python imports that one, and whole.
    use_it(python, source)
    script = "import zoo.backends; print(*(m.__file__ for m in (zoo, zoo.backends)))"
    found = [Path(name) for name in run(python, "-c", script, cwd=source).split()]
    assert found == [source / part / "__init__.py" for part in ("zoo", "backends")]


def test_the_editable_install_works_in_another_folder(python: Path, tmp_path: Path) -> None:
    run(python, "-m", "pip", "uninstall", "-q", "-y", "keras-zoo-parity", cwd=tmp_path)
    run(python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", "-e", ROOT, cwd=tmp_path)
    use_it(python, tmp_path)
