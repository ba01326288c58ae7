"""`.keras` files in a new process that imports zoo and keras alone: every model, optimizer and schedule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import NAME, everywhere, numpy, python

import zoo
from zoo import backends, optimizers, schedules
from zoo.layers import signature

MODELS = (
    "mlp", "lenet5", "lenet5-1998", "alexnet", "vgg11-bn", "resnet18", "resnet50", "efficientnet-b0", "lstm",
    "gru", "birnn", "seq2seq", "speech", "bert-tiny", "gpt-nano", "t5-tiny", "t5-v1.1-small", "vit-ti16",
)  # fmt: skip
SEVERAL = ("mlp", "vgg11-bn", "seq2seq", "speech", "gpt-nano", "t5-tiny")
# What a file says of a model is no framework's: PyTorch's tests load all of them.
LOADED = MODELS if NAME == "torch" else SEVERAL
SCHEDULES: list[Any] = [
    0.1,
    schedules.StepDecay(0.1, 2, 0.5),
    schedules.CosineAnnealing(0.1, 9),
    schedules.WarmupDecay(0.1, 2, 9),
    schedules.OneCycle(0.1, 9),
]
OPTIMIZERS = [optimizers.SGD, optimizers.Momentum, optimizers.Adam, optimizers.AdamW, optimizers.LAMB]

# In the new process: the logits of what is in a folder, and of a compiled model its optimizer.
LOAD = """
import {first}
import json, sys
from pathlib import Path
import keras
import numpy as np
for file in sorted(Path({folder!r}).glob("*.keras")):
    model = keras.models.load_model(file)
    from zoo import registry
    arrays = {{"logits": keras.ops.convert_to_numpy(model(zoo.example(model, 3)))}}
    if model.compiled:
        state = {{v.path: keras.ops.convert_to_numpy(v) for v in model.optimizer.variables}}
        arrays |= {{"optimizer/" + path: value for path, value in state.items()}}
        said = keras.saving.serialize_keras_object(model.optimizer)
        file.with_suffix({ending!r} + ".json").write_text(json.dumps(said))
    np.savez(file.with_suffix({ending!r} + ".npz"), **arrays)
"""


def of_pairs(folder: Path) -> dict[str, keras.Model]:
    """A model of Keras's own for each optimizer, and for each schedule, trained for a step and saved."""
    models = {}
    x, y = np.ones((2, 3), np.float32), np.zeros(2, np.int32)
    for optimizer, rate in zip(OPTIMIZERS, SCHEDULES, strict=True):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(optimizer(rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        model.train_on_batch(x, y)
        model.save(folder / f"{optimizer.__name__}.keras")
        models[optimizer.__name__] = model
    return models


def logits(model: keras.Model) -> np.ndarray:
    return numpy(model(signature.example(model, 3)))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, keras.Model]]:
    folder = tmp_path_factory.mktemp("saved")
    models = {name: zoo.build(name, **zoo.card(name).small) for name in LOADED}
    for name, model in models.items():
        model.save(folder / f"{name}.keras")
    models |= of_pairs(folder)
    python(LOAD.format(first="zoo", folder=str(folder), ending=""), first="")
    return folder, models


def test_a_new_process_that_imports_zoo_alone_loads_every_model(
    saved: tuple[Path, dict[str, keras.Model]],
) -> None:
    folder, models = saved
    for name in LOADED:
        np.testing.assert_allclose(
            np.load(folder / f"{name}.npz")["logits"], logits(models[name]), atol=1e-6, err_msg=name
        )


def test_a_model_compiled_with_an_optimizer_and_a_schedule_of_the_zoo_goes_on_from_its_state(
    saved: tuple[Path, dict[str, keras.Model]],
) -> None:
    folder, models = saved
    for optimizer in OPTIMIZERS:
        ours, theirs = models[optimizer.__name__].optimizer, np.load(folder / f"{optimizer.__name__}.npz")
        state = {f"optimizer/{v.path}": numpy(v) for v in ours.variables}
        assert len(state) == len(theirs.files) - 1
        for (path, value), name in zip(state.items(), theirs.files[1:], strict=True):
            np.testing.assert_allclose(theirs[name], value, atol=1e-7, err_msg=path)
        said = json.loads((folder / f"{optimizer.__name__}.json").read_text())
        assert said == json.loads(json.dumps(keras.saving.serialize_keras_object(ours)))


@pytest.mark.once
@pytest.mark.parametrize("first", ["keras, zoo", "zoo.schedules; zoo.schedules.StepDecay(0.1, 2, 0.5)"])
def test_whichever_is_imported_first(first: str) -> None:
    names = "sorted(n for n in keras.saving.get_custom_objects() if n.startswith('zoo>'))"
    found = python(f"import {first}\nimport keras\nprint(*{names})")
    ours = sorted(n for n in keras.saving.get_custom_objects() if n.startswith("zoo>"))
    assert found.split() == ours
    assert {f"zoo>{o.__name__}" for o in OPTIMIZERS} < set(ours)


@pytest.mark.parity
def test_each_framework_loads_what_the_others_save(tmp_path: Path) -> None:
    everywhere(f"""
import zoo
folder = __import__("pathlib").Path({str(tmp_path)!r}, zoo.backends.current().NAME)
folder.mkdir()
for name in {SEVERAL}:
    zoo.build(name, **zoo.card(name).small).save(folder / (name + ".keras"))
""")
    for name in SEVERAL:
        expected = logits(zoo.build(name, **zoo.card(name).small))
        for there in backends.NAMES:
            for here in backends.NAMES:
                code = LOAD.format(first="zoo", folder=str(tmp_path / here), ending="." + there)
                if name == SEVERAL[0]:
                    python(code, KERAS_BACKEND=there)
                found = np.load(tmp_path / here / f"{name}.{there}.npz")["logits"]
                np.testing.assert_allclose(
                    found, expected, atol=2e-5, rtol=1e-5, err_msg=f"{name} {here} {there}"
                )
