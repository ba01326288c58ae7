"""docs/checkpoint.md: its reader, without the zoo's code, reads what the zoo writes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from zoo import optimizers
from zoo.training import checkpoints

PAGE = (Path(__file__).parents[1] / "docs" / "checkpoint.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read() -> Any:
    """The reader of the page."""
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert "zoo" not in re.findall(r"^(?:import|from) (\w+)", code, re.MULTILINE)
    names: dict[str, Any] = {}
    exec(code, names)
    return names["read"]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with all that a checkpoint can have."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("page")
    x, y = rng.normal(size=(64, 8, 8, 1)).astype(np.float32), rng.integers(0, 10, 64).astype(np.int32)
    optimizer = optimizers.Adam(0.01, amsgrad=True, use_ema=True, gradient_accumulation_steps=3)
    zoo.train(
        zoo.build("mlp", dtype=request.param, **zoo.card("mlp").small), (x, y), validation=(x, y), steps=7,
        batch_size=16, optimizer=optimizer, checkpoint=folder / "run.safetensors", early_stopping=2,
        keep_best="loss", progress=False,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("name", ["run.safetensors", "run-best.safetensors"])
def test_the_reader_of_the_page_reads_what_the_zoo_does(read: Any, saved: Path, name: str) -> None:
    facts, arrays = read(saved / name)
    ours = checkpoints.read(saved / name)
    assert {**ours.facts, "digests": facts["digests"]} == facts
    assert arrays.keys() == ours.arrays.keys()
    for key, x in ours.arrays.items():
        np.testing.assert_array_equal(arrays[key], x.astype(arrays[key].dtype), err_msg=key)


@pytest.mark.parametrize("name", ["run.safetensors", "run-best.safetensors"])
def test_the_page_names_every_fact_and_every_kind_of_array(read: Any, saved: Path, name: str) -> None:
    facts, arrays = read(saved / name)
    kinds = {key.split("/")[0] for key in arrays} | {
        key.split("/")[1] for key in arrays if key.startswith("optimizer/")
    }
    assert [key for key in {*facts, *kinds} if not re.search(rf"\b{key}\b", PAGE)] == []


def test_the_reader_of_the_page_finds_what_is_damaged(read: Any, saved: Path, tmp_path: Path) -> None:
    content = bytearray((saved / "run.safetensors").read_bytes())
    content[-3] ^= 4
    (tmp_path / "array").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="is damaged"):
        read(tmp_path / "array")
    content[content.index(b"batch_size") + 1] ^= 1
    (tmp_path / "facts").write_bytes(bytes(content))
    with pytest.raises(ValueError, match="the facts are damaged"):
        read(tmp_path / "facts")
