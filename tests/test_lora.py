"""LoRA: adapters against formulas, Keras's own, and PEFT; saved, merged, resumed, and refused.

On the framework of KERAS_BACKEND; float64 on JAX needs JAX_ENABLE_X64=1.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from conftest import everywhere, missed, numpy, run
from numpy import ndarray
from typer.testing import CliRunner

import zoo
from zoo import ladder, lora, random
from zoo._lazy import keras
from zoo.cli import app
from zoo.training.engines import ENGINES

engines = pytest.mark.parametrize("engine", ENGINES)
BOUNDS = {"float32": 1e-6, "float64": 1e-13}  # of the largest value

SILENT: Any = 0  # Keras annotates it as a string
TEXT: dict[str, Any] = {"width": 16, "depth": 2, "heads": 2, "vocabulary": 50, "positions": 24}
T5 = {"width": 16, "depth": 1, "heads": 2, "head_width": 4, "mlp_width": 24, "vocabulary": 50}
VIT = {
    "classes": 3, "image_size": 16, "patch_size": 8, "width": 16, "depth": 1, "heads": 2, "norm_epsilon": 1e-6
}  # fmt: skip
rng = np.random.default_rng(0)
TOKENS, LABELS = rng.integers(1, 50, (24, 7)).astype(np.int32), rng.integers(0, 3, 24).astype(np.int32)
IMAGES = rng.normal(size=(4, 16, 16, 3)).astype(np.float32)
INPUTS: dict[str, Any] = {
    "bert-tiny": TOKENS[:4],
    "gpt-nano": TOKENS[:4],
    "t5-tiny": {"token_ids": TOKENS[:4], "decoder_token_ids": TOKENS[4:8]},
    "vit-ti16": IMAGES,
    "mlp": rng.normal(size=(4, 8, 8, 1)).astype(np.float32),
}


def build(name: str = "bert-tiny", seed: int = 0, **changes: Any) -> keras.Model:
    own: dict[str, Any] = {
        "bert-tiny": {**TEXT, "head": "classifier", "classes": 3},
        "gpt-nano": TEXT,
        "t5-tiny": T5,
        "vit-ti16": VIT,
        "mlp": {"widths": (8, 6), "classes": 3, "shape": (8, 8, 1)},
    }[name]
    return zoo.build(name, seed=seed, **{**own, **changes})


def adapted(name: str = "bert-tiny", rank: int = 2, layers: str = "*", **options: Any) -> keras.Model:
    """With adapters whose B is not 0, and a head that is not the initial one."""
    model = build(name)
    lora.add(model, rank, 3.0, layers, **options)
    for v in model.trainable_variables:
        noise = random.generator("test", v.path).normal(0, 0.3, v.shape)
        v.assign(numpy(v) + noise.astype(numpy(v).dtype))
    return model


def outputs(model: keras.Model, x: Any = None) -> ndarray:
    return numpy(model(INPUTS[model.name] if x is None else x, training=False))


def values(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.variables}


def train(model: keras.Model, **options: Any) -> zoo.Run:
    settings = {"batch_size": 8, "progress": False, "learning_rate": 0.01, "steps": 5, **options}
    return zoo.train(model, (TOKENS, LABELS), **settings)


def assert_close(ours: ndarray, theirs: ndarray, bound: float) -> None:
    assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


# --- what it computes ---


@engines
def test_training_is_that_of_the_formula(engine: str, dtype: str) -> None:
    """Two layers by gradient descent in NumPy: y = relu(x (W + s A B) + b) V + c; A, B, V, c move."""
    generator = np.random.default_rng(1)
    x, y = (np.float32(generator.normal(size=(16, n))).astype(np.float64) for n in (5, 3))
    inputs = zoo.layers.Input((5,))
    hidden = zoo.layers.relu(zoo.layers.dense(inputs, 6, name="hidden"))
    model = zoo.layers.Model(inputs, zoo.layers.dense(hidden, 3, name="head"))
    w, b, v, c = (numpy(variable).astype(np.float64) for variable in model.variables)
    spec = "LoRA(2, alpha=3, layers='hidden')"
    optimizer: Any = zoo.optimizers.SGD(0.125)
    data = x.astype(dtype), y.astype(dtype)
    made = zoo.train(
        model, data, lora=spec, loss="mean_squared_error", optimizer=optimizer, engine=engine, steps=20,
        batch_size=16, seed=7, progress=False,
    )  # fmt: skip
    a = random.he_uniform.draw((7, "hidden", "lora_kernel_a"), (5, 2)).astype(np.float64)
    assert 0.5 < np.abs(a).max() / (6 / 5) ** 0.5 <= 1
    u, losses = np.zeros((2, 6)), []
    for _ in range(20):
        z = x @ (w + 1.5 * a @ u) + b
        h = np.maximum(z, 0)
        error = h @ v + c - y
        losses.append(np.mean(error**2))
        g = 2 * error / error.size
        k = 1.5 * x.T @ (g @ v.T * (z > 0))
        v, c, a, u = v - h.T @ g / 8, c - g.sum(0) / 8, a - k @ u.T / 8, u - a.T @ k / 8
    assert_close(np.array(made.losses), np.array(losses), 10 * BOUNDS[dtype])
    after = values(model)
    for name, theirs in {"lora_kernel_a": a, "lora_kernel_b": u, "kernel": w, "bias": b}.items():
        assert_close(after[f"hidden/{name}"], theirs, 100 * BOUNDS[dtype])
    assert_close(after["head/kernel"], v, 100 * BOUNDS[dtype])
    lora.merge(model)
    assert_close(values(model)["hidden/kernel"], w + 1.5 * a @ u, 100 * BOUNDS[dtype])


@engines
def test_a_run_is_that_of_keras_own_adapters(engine: str) -> None:
    """Of keras.layers.Dense: `zoo.lora.add` enables theirs, of a model that is not the zoo's."""
    x, y = np.float32(TOKENS), LABELS
    inputs = keras.Input((7,))
    z = keras.layers.Dense(6, "relu", name="first")(inputs)
    theirs = keras.Model(inputs, keras.layers.Dense(3, name="head")(z), name="theirs")
    inputs = zoo.layers.Input((7,))
    z = zoo.layers.relu(zoo.layers.dense(inputs, 6, name="first"))
    ours = zoo.layers.Model(inputs, zoo.layers.dense(z, 3, name="head"))
    theirs.set_weights(ours.get_weights())
    options: Any = {"engine": engine, "lora": "LoRA(2, layers='first')", "optimizer": "SGD(0.01)", "seed": 3}
    runs = [zoo.train(m, (x, y), **options, steps=6, batch_size=8, progress=False) for m in (ours, theirs)]
    assert len({id(v) for v in theirs.trainable_variables}) == 4
    assert_close(np.array(runs[0].losses), np.array(runs[1].losses), 1e-6)
    assert_close(outputs(ours, x), outputs(theirs, x), 1e-5)
    plain = outputs(theirs, x)
    lora.merge(theirs)
    assert_close(outputs(theirs, x), plain, 1e-6)
    assert [v.name for v in theirs.trainable_variables] == ["kernel", "bias", "kernel", "bias"]


@pytest.mark.long
@pytest.mark.parity
def test_frameworks_and_engines_agree_on_every_rung() -> None:
    """Rungs 1 to 8, in float32 and float64, of a model with adapters."""

    def model(seed: int = 0) -> keras.Model:
        import zoo

        size: Any = {"width": 16, "depth": 1, "heads": 2, "vocabulary": 50, "positions": 24}
        made = zoo.build("bert-tiny", head="classifier", classes=3, dropout_rate=0.1, seed=seed, **size)
        zoo.lora.add(made, 2, seed=seed)
        return made

    ones = np.ones_like(TOKENS)
    inputs = {"token_ids": TOKENS, "padding_mask": ones, "segment_ids": ones}
    result = ladder.parity(model, inputs=inputs, targets=LABELS, rungs=range(1, 9), float64=True)
    assert {(row["rung"], row["dtype"]) for row in result.rows} == {
        (rung, dtype) for rung in range(1, 9) for dtype in ("float32", "float64")
    }
    assert not result.failed, result.failed


@pytest.mark.parity
def test_initial_adapters_are_the_same_bits_everywhere() -> None:
    found = everywhere(
        "import hashlib, zoo\n"
        "from zoo._lazy import ops\n"
        "model = zoo.build('bert-tiny')\n"
        "zoo.lora.add(model, 3, seed=5)\n"
        "data = b''.join(ops.convert_to_numpy(v).tobytes() for v in model.trainable_variables)\n"
        "print(len(data), hashlib.sha256(data).hexdigest())"
    )
    assert len(set(found.values())) == 1


# --- what trains ---


@engines
def test_adapters_and_head_train_and_nothing_else_moves(engine: str) -> None:
    model = build(dropout_rate=0.1)
    before = values(model)
    optimizer: Any = zoo.optimizers.AdamW(0.1, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
    made = train(model, engine=engine, lora=2, optimizer=optimizer, learning_rate=None)
    after = values(model)
    moved = {path for path, x in before.items() if not np.array_equal(x, after[path])}
    weights = {path for path in moved if not path.endswith("step")}
    assert weights == {"head/kernel", "head/bias"}
    assert {path for path in before if path.endswith("step")} <= moved  # dropout is active
    new = {path for path in after if path not in before}
    assert new == {
        f"block{i}_attention_{part}/lora_kernel_{factor}"
        for i in (1, 2) for part in ("query", "value") for factor in "ab"
    }  # fmt: skip
    assert all(np.abs(after[path]).max() > 0 for path in new)
    assert "LoRA of rank 2 in 4 layers, 307 of " in made.recipe


def test_before_training_the_outputs_are_the_models() -> None:
    model = build()
    plain = outputs(model)
    names = lora.add(model, 4, layers=["*_query", "block2_mlp1"])
    assert names == ["block1_attention_query", "block2_attention_query", "block2_mlp1"]
    np.testing.assert_array_equal(outputs(model), plain)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "changes", "trained"),
    [
        ("bert-tiny", {}, ["head"]),
        ("bert-tiny", {"head": "masked_lm"}, []),
        ("gpt-nano", {"tied": False}, []),
        ("vit-ti16", {}, ["head"]),
    ],
)
def test_a_head_trains_unless_its_outputs_are_tokens(name: str, changes: Any, trained: list[str]) -> None:
    model = build(name, **changes)
    lora.add(model, 2)
    assert lora.trained_layers(model) == trained


@pytest.mark.once
def test_layers_that_train_in_full_are_a_choice() -> None:
    model = build()
    lora.add(model, 2, train="*norm*")
    assert set(lora.trained_layers(model)) == {layer.name for layer in model.layers if "norm" in layer.name}
    assert "head" not in lora.trained_layers(model)


# --- merging ---


@pytest.mark.parametrize("name", INPUTS)
def test_merging_keeps_the_outputs_and_gives_a_plain_model(name: str) -> None:
    model, plain = adapted(name), build(name)
    before = outputs(model)
    assert np.abs(before - outputs(plain)).max() > 0.01 * np.abs(before).max()
    assert lora.merge(model) is model
    assert_close(outputs(model), before, 1e-5)
    assert [v.path for v in model.variables] == [v.path for v in plain.variables]
    assert [v.path for v in model.trainable_variables] == [v.path for v in plain.trainable_variables]
    assert all("lora" not in key for layer in model.layers for key in layer.get_config())


def test_what_was_frozen_before_is_frozen_after_merging() -> None:
    model = build()
    model.get_layer("block1_mlp1").trainable = False
    lora.add(model, 2, layers="*_query, block1_mlp1")
    assert "block1_mlp1/lora_kernel_a" in [v.path for v in model.trainable_variables]
    lora.merge(model)
    frozen = [layer.name for layer in model.layers if layer.variables and not layer.trainable]
    assert frozen == ["block1_mlp1"]


def test_programs_that_were_compiled_before_see_adapters_and_merging(tmp_path: Path) -> None:
    lora.save(adapted("mlp"), tmp_path)
    model, x = build("mlp"), INPUTS["mlp"]
    model.predict(x, verbose=SILENT)
    lora.load(model, tmp_path)
    theirs = outputs(model)
    assert_close(model.predict(x, verbose=SILENT), theirs, 1e-6)
    lora.merge(model)
    assert_close(model.predict(x, verbose=SILENT), theirs, 1e-6)


@engines
def test_a_runs_trainer_predicts_alike_after_merging(engine: str) -> None:
    made = train(build(), engine=engine, lora=2)
    before = made.trainer.predict(TOKENS)
    lora.merge(made.model)
    assert_close(made.trainer.predict(TOKENS), before, 1e-6)


def test_the_learning_rate_finder_leaves_no_adapters() -> None:
    model = build()
    before = values(model)
    zoo.find_learning_rate(model, (TOKENS, LABELS), steps=10, batch_size=8, lora=2)
    after = values(model)
    assert list(after) == list(before)
    assert all(np.array_equal(after[path], x) for path, x in before.items() if not path.endswith("step"))
    assert [v.path for v in model.trainable_variables] == [v.path for v in build().trainable_variables]


# --- on disk ---


@engines
def test_a_resumed_run_is_the_uncut_one_bit_for_bit(engine: str, tmp_path: Path) -> None:
    """Cut within an epoch of three steps; the adapters are the saved run's, and others are refused."""
    file = tmp_path / "run.safetensors"
    spec = "LoRA(2, alpha=4, layers='*_query')"
    options: Any = {"engine": engine, "learning_rate": None}

    def adamw() -> Any:
        return zoo.optimizers.AdamW(2**-7, use_ema=True, ema_momentum=0.9)

    train(build(dropout_rate=0.1, depth=1), lora=spec, steps=4, checkpoint=file, optimizer=adamw(), **options)
    whole = train(build(dropout_rate=0.1, depth=1), lora=spec, steps=8, optimizer=adamw(), **options)
    resumed = train(build(dropout_rate=0.1, depth=1), steps=8, resume=file, batch_size=None, **options)
    assert resumed.losses == whole.losses
    ours, theirs = values(resumed.model), values(whole.model)
    assert list(ours) == list(theirs)
    for path, x in theirs.items():
        np.testing.assert_array_equal(ours[path], x, err_msg=path)
    with pytest.raises(zoo.WrongConfiguration, match=r"lora=LoRA\(2, alpha=4, layers='\*_query'\), not"):
        train(build(depth=1), steps=8, resume=file, lora=3, learning_rate=None)


def test_a_saved_run_is_read_with_its_adapters(tmp_path: Path) -> None:
    made = train(build(), lora=2, learning_rate=0.1, out=tmp_path / "run")
    saved = zoo.load_run(tmp_path / "run")
    np.testing.assert_array_equal(outputs(saved.model), outputs(made.model))
    assert [v.path for v in saved.model.trainable_variables] == [
        v.path for v in made.model.trainable_variables
    ]
    with pytest.raises(zoo.WeightsMismatch, match=r"The file has LoRA adapters: zoo\.load_run"):
        zoo.weights.load(build(), tmp_path / "run" / "checkpoint.safetensors")


@pytest.mark.parametrize("ending", [".keras", ".weights.h5", ".safetensors"])
def test_a_model_with_adapters_is_saved_whole(ending: str, tmp_path: Path) -> None:
    model, path = adapted(), tmp_path / f"model{ending}"
    if ending == ".keras":
        model.save(path)
        other = keras.models.load_model(path)
    else:
        zoo.weights.save(model, path)
        other = build(seed=1)
        lora.add(other, 2, 3.0, "*")
        zoo.weights.load(other, path)
    np.testing.assert_array_equal(outputs(other), outputs(model))


@pytest.mark.parametrize("name", INPUTS)
def test_adapters_alone_are_saved_and_read(name: str, tmp_path: Path) -> None:
    model = adapted(name)
    lora.save(model, tmp_path / "adapter")
    other = build(name)
    done = lora.load(other, tmp_path / "adapter")
    np.testing.assert_array_equal(outputs(other), outputs(model))
    ours, theirs = values(other), values(model)
    assert {path for path in ours if not np.array_equal(ours[path], theirs[path])} == set()
    trained = [v.path for v in model.trainable_variables]
    assert [v.path for v in other.trainable_variables] == trained
    assert done.layout == ("zoo" if name == "mlp" else "transformers")
    assert sorted(p.name for p in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors"
    ]  # fmt: skip


# Names as PEFT writes them: the module of transformers' class, A (r, in), B (out, r).
BASE = "base_model.model."
NAMES = {
    "bert-tiny": (
        "*_query", f"{BASE}bert.encoder.layer.1.attention.self.query", (16, 16), ["query"], ["classifier"]
    ),
    "gpt-nano": ("*_mlp1", f"{BASE}transformer.h.1.mlp.c_fc", (16, 64), ["c_fc"], None),
    "t5-tiny": ("encoder*_query", f"{BASE}encoder.block.0.layer.0.SelfAttention.q", (16, 8), None, None),
    "vit-ti16": ("*_query", f"{BASE}vit.layers.0.attention.q_proj", (16, 16), ["q_proj"], ["classifier"]),
}  # fmt: skip


@pytest.mark.once
@pytest.mark.parametrize("name", NAMES)
def test_names_and_orientation_are_pefts(name: str, tmp_path: Path) -> None:
    layers, module, (inputs, out), targets, full = NAMES[name]
    lora.save(adapted(name, layers=layers), tmp_path)
    arrays = safetensors.numpy.load_file(tmp_path / "adapter_model.safetensors")
    assert arrays[f"{module}.lora_A.weight"].shape == (2, inputs)
    assert arrays[f"{module}.lora_B.weight"].shape == (out, 2)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    given = {key: config[key] for key in ("peft_type", "r", "lora_alpha", "modules_to_save", "bias")}
    assert given == {"peft_type": "LORA", "r": 2, "lora_alpha": 3.0, "modules_to_save": full, "bias": "none"}
    assert config["fan_in_fan_out"] == (name == "gpt-nano")
    assert config["target_modules"] == (targets or [module.removeprefix(BASE)])  # the decoder has "q" as well
    heads = {key.removeprefix(BASE) for key in arrays if ".lora_" not in key}
    assert heads == {f"{m}.{part}" for m in full or () for part in ("weight", "bias")}


@pytest.mark.once
def test_a_fused_projection_has_one_adapter_of_blocks(tmp_path: Path) -> None:
    """Query and value of rank 2 are c_attn of rank 4; an adapter of c_attn from elsewhere is one of all."""
    model = adapted("gpt-nano", layers="*_query, *_value")
    lora.save(model, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    arrays = safetensors.numpy.load_file(path)
    b = arrays[f"{BASE}transformer.h.0.attn.c_attn.lora_B.weight"]
    assert b.shape == (48, 4)
    assert not b[:16, 2:].any()
    assert not b[16:32].any()  # the key's
    assert not b[32:, :2].any()
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (4, 6.0, ["c_attn"])
    safetensors.numpy.save_file(arrays, path)  # without our header
    other = build("gpt-nano")
    lora.load(other, tmp_path)
    assert {layer.lora_rank for layer in lora.adapters(other)} == {4}
    assert len(lora.adapters(other)) == 6
    assert_close(outputs(other), outputs(model), 1e-6)


# --- the command ---


def test_the_command_and_a_run_file_train_adapters(tmp_path: Path) -> None:
    spec = "LoRA(2, layers='*')"
    words = ["train", "mlp", "digits", "--steps", "3", "--no-save", "--json", "-q"]
    made = json.loads(run(*words, "--lora", spec, "--save-config", str(tmp_path / "run.toml")))
    assert tomllib.loads((tmp_path / "run.toml").read_text())["lora"] == spec
    again = json.loads(run("train", str(tmp_path / "run.toml"), "--no-save", "--json", "-q"))
    assert again["losses"] == made["losses"] if "losses" in made else again["metrics"] == made["metrics"]
    (tmp_path / "rank.toml").write_text('model = "bert-tiny"\nlora = 0\n')
    done = CliRunner().invoke(app, ["train", str(tmp_path / "rank.toml"), "--no-save"])
    assert "rank=0; expected an integer, 1 or more" in str(done.exception)


# --- what is refused ---


@pytest.mark.once
@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        (0, zoo.WrongConfiguration, "rank=0; expected an integer, 1 or more"),
        (-1, zoo.WrongConfiguration, "rank=-1"),
        (True, zoo.WrongConfiguration, "rank=True"),
        ("2.5", zoo.WrongConfiguration, "lora='2.5'"),
        ("LoRA(2.5)", zoo.WrongConfiguration, "rank=2.5"),
        ("LoRA(2, alpha=0)", zoo.WrongConfiguration, "alpha=0; expected a number above 0"),
        ("LoRA(2, beta=0)", zoo.WrongConfiguration, r"expected LoRA\(rank, alpha, layers, train\)"),
        ("DoRA(2)", zoo.UnknownName, "expected a rank, or LoRA"),
        (
            "LoRA(2, layers='*_quer')",
            zoo.UnknownName,
            "bert-tiny has no such dense layer; there are: block1_",
        ),
        ("LoRA(2, layers='*norm1')", zoo.UnknownName, "no such dense layer"),
        ("LoRA(2, layers='')", zoo.WrongConfiguration, "layers=''; expected names or patterns"),
        ("LoRA(2, train='tail')", zoo.UnknownName, "train='tail': bert-tiny has no such layer"),
    ],
)
def test_wrong_adapters_are_named_before_any_step(spec: Any, error: type[Exception], message: str) -> None:
    model = build()
    before = values(model)
    with pytest.raises(error, match=message):
        train(model, lora=spec)
    assert list(values(model)) == list(before)


@pytest.mark.once
def test_what_adapters_do_not_go_with_is_named(tmp_path: Path) -> None:
    model = adapted()
    again = "bert-tiny has LoRA adapters already"
    with pytest.raises(zoo.WrongConfiguration, match=again):
        lora.add(model)
    with pytest.raises(zoo.WrongConfiguration, match=again):
        train(model, lora=2)
    with pytest.raises(zoo.WrongConfiguration, match=again):
        lora.load(model, tmp_path)
    with pytest.raises(zoo.WrongConfiguration, match="leave freeze= out"):
        train(build(), lora=2, freeze="backbone")
    for function in (lora.merge, lambda model: lora.save(model, tmp_path)):
        with pytest.raises(zoo.WrongConfiguration, match="bert-tiny has no LoRA adapters"):
            function(build())
    with pytest.raises(zoo.WrongConfiguration, match="which transformers has no names for"):
        zoo.weights.save(model, tmp_path / "model.safetensors", "transformers")
    with pytest.raises(zoo.UnknownName, match="lenet5 has no such dense layer; there are: dense1, dense2"):
        lora.add(zoo.build("lenet5"))


@pytest.mark.once
def test_a_base_is_loaded_below_adapters(tmp_path: Path) -> None:
    plain = build(seed=1)
    zoo.weights.save(plain, tmp_path / "base.safetensors", "transformers")
    model = build()
    lora.add(model)
    zoo.weights.load(model, tmp_path / "base.safetensors")
    np.testing.assert_array_equal(outputs(model), outputs(plain))


def changed(config: dict[str, Any]) -> Callable[[dict[str, ndarray], dict[str, Any]], None]:
    return lambda arrays, own: own.update(config)


def renamed(arrays: dict[str, ndarray], config: dict[str, Any]) -> None:
    del config
    arrays[f"{BASE}bert.encoder.layer.9.attention.self.query.lora_A.weight"] = arrays.popitem()[1]


def reshaped(arrays: dict[str, ndarray], config: dict[str, Any]) -> None:
    del config
    key = f"{BASE}bert.encoder.layer.0.attention.self.query.lora_A.weight"
    arrays[key] = np.zeros((2, 17), np.float32)


def cut(arrays: dict[str, ndarray], config: dict[str, Any]) -> None:
    del config
    del arrays[f"{BASE}bert.encoder.layer.0.attention.self.query.lora_B.weight"]


@pytest.mark.once
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (changed({"use_dora": True}), zoo.WrongConfiguration, "use_dora=True; supported is False alone"),
        (changed({"peft_type": "IA3"}), zoo.WrongConfiguration, "peft_type='IA3'"),
        (changed({"bias": "all"}), zoo.WrongConfiguration, "bias='all'"),
        (renamed, zoo.WeightsMismatch, "adapters of another model: .*layer.9"),
        (reshaped, zoo.WeightsMismatch, r"the kernel of bert-tiny is \(16, 16\)"),
        (cut, zoo.DataUnavailable, "damaged"),
    ],
)
def test_adapters_of_others_are_refused_and_the_model_stays(
    change: Callable[[dict[str, ndarray], dict[str, Any]], None],
    error: type[Exception],
    message: str,
    tmp_path: Path,
) -> None:
    lora.save(adapted(layers="*_query"), tmp_path)
    weights, file = tmp_path / "adapter_model.safetensors", tmp_path / "adapter_config.json"
    arrays, config = safetensors.numpy.load_file(weights), json.loads(file.read_text())
    change(arrays, config)
    safetensors.numpy.save_file(arrays, weights)
    file.write_text(json.dumps(config))
    model = build()
    before = values(model)
    with pytest.raises(error, match=message):
        lora.load(model, tmp_path)
    assert list(values(model)) == list(before)


@pytest.mark.once
def test_adapters_for_another_model_are_refused(tmp_path: Path) -> None:
    for name, other in (("bert-tiny", "gpt-nano"), ("bert-tiny", "mlp"), ("mlp", "bert-tiny")):
        lora.save(adapted(name), tmp_path / name)
        with pytest.raises(zoo.WeightsMismatch, match="Nothing was loaded"):
            lora.load(build(other), tmp_path / name)
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(zoo.DataUnavailable):
            lora.load(build(), folder)


# --- PEFT itself ---

theirs_to_fix = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def peft() -> Any:
    """PEFT, with torchvision's operators, which a CPU's torch lacks."""
    if find_spec("peft") is None:
        missed("peft")
    import_module("zoo.benchmarks.references.vision_torch")
    return import_module("peft")


def original(name: str) -> Any:
    """transformers' model of the same size."""
    transformers = import_module("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if name == "bert-tiny":
        config = transformers.BertConfig(
            **sizes, **dropout, vocab_size=50, max_position_embeddings=24, num_labels=3
        )
        return transformers.BertForSequenceClassification(config)
    if name == "gpt-nano":
        config = transformers.GPT2Config(
            n_embd=16, n_layer=2, n_head=2, vocab_size=50, n_positions=24, resid_pdrop=0.0, embd_pdrop=0.0,
            attn_pdrop=0.0,
        )  # fmt: skip
        return transformers.GPT2LMHeadModel(config)
    if name == "t5-tiny":
        config = transformers.T5Config(
            d_model=16, d_kv=4, d_ff=24, num_layers=1, num_heads=2, vocab_size=50, dropout_rate=0.0
        )
        return transformers.T5ForConditionalGeneration(config)
    config = transformers.ViTConfig(
        **{**sizes, "num_hidden_layers": 1}, **dropout, image_size=16, patch_size=8, num_labels=3,
        layer_norm_eps=1e-6,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config)


def theirs_of(name: str) -> Any:
    """transformers' model with the weights of `build`."""
    theirs = original(name)
    theirs.load_state_dict(zoo.weights.to_torch(build(name), "transformers"), strict=name != "t5-tiny")
    return theirs.eval()


def logits(model: Any, name: str) -> ndarray:
    torch = import_module("torch")
    inputs = {
        "bert-tiny": {"input_ids": "token_ids"},
        "gpt-nano": {"input_ids": "token_ids"},
        "t5-tiny": {"input_ids": "token_ids", "decoder_input_ids": "decoder_token_ids"},
        "vit-ti16": {"pixel_values": "image"},
    }[name]
    x = INPUTS[name]
    if name == "vit-ti16":
        arrays = {"image": x.transpose(0, 3, 1, 2)}
    else:
        arrays = x if isinstance(x, dict) else {"token_ids": x}
    given = {key: torch.tensor(np.ascontiguousarray(arrays[own])) for key, own in inputs.items()}
    given = {key: t.long() if t.dtype == torch.int32 else t for key, t in given.items()}
    with torch.no_grad():
        return model(**given).logits.numpy()


@pytest.mark.peers
@theirs_to_fix
@pytest.mark.parametrize("layers", ["*_query, *_value", "*"])
@pytest.mark.parametrize("name", NAMES)
def test_peft_loads_our_adapters_onto_the_original(peft: Any, name: str, layers: str, tmp_path: Path) -> None:
    model = adapted(name, layers=layers)
    lora.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(theirs_of(name), tmp_path)
    assert_close(logits(theirs, name), outputs(model), 1e-5)
    assert_close(logits(theirs.merge_and_unload(), name), outputs(lora.merge(model)), 1e-5)


@pytest.mark.peers
@theirs_to_fix
@pytest.mark.parametrize("name", NAMES)
def test_our_models_load_the_adapters_of_peft(peft: Any, name: str, tmp_path: Path) -> None:
    """With ranks and alphas that differ between modules, and GPT-2's fused projection."""
    torch = import_module("torch")
    config = {
        "bert-tiny": {
            "target_modules": ["query", "dense"], "modules_to_save": ["classifier"],
            "rank_pattern": {"layer.1.attention.self.query": 5}, "alpha_pattern": {"intermediate.dense": 7},
        },
        "gpt-nano": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True},
        "t5-tiny": {"target_modules": ["q", "wi"]},
        "vit-ti16": {"target_modules": ["q_proj", "fc1"], "modules_to_save": ["classifier"]},
    }[name]  # fmt: skip
    theirs = peft.get_peft_model(theirs_of(name), peft.LoraConfig(r=3, lora_alpha=5, **config))
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.normal_(0, 0.3)
    theirs.save_pretrained(tmp_path)
    model = build(name)
    lora.load(model, tmp_path)
    assert_close(outputs(model), logits(theirs.eval(), name), 1e-5)


@pytest.mark.peers
@theirs_to_fix
@engines
def test_training_is_that_of_peft(peft: Any, engine: str, tmp_path: Path) -> None:
    """BERT with adapters and a new head, by torch's AdamW on the same batches, from the same weights."""
    torch = import_module("torch")
    model = build()
    lora.add(model, 4, 8.0, seed=0)
    lora.save(model, tmp_path)
    theirs = peft.PeftModel.from_pretrained(theirs_of("bert-tiny"), tmp_path, is_trainable=True).train()
    trained = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.01, weight_decay=0.1)
    made = train(
        model, engine=engine, steps=12, optimizer=zoo.optimizers.AdamW(0.01, weight_decay=0.1),
        learning_rate=None,
    )  # fmt: skip
    losses = []
    for step in range(12):
        epoch, position = divmod(step, 3)
        x, y = next(made.task.batches(8, made.seed, epoch, position))
        loss = theirs(input_ids=torch.tensor(x).long(), labels=torch.tensor(y).long()).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert_close(np.array(made.losses), np.array(losses), 1e-5)
    assert losses[0] - losses[-1] > 0.1
