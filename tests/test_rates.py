"""Learning rates by layer: as torch.optim's parameter groups and optax.multi_transform have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from conftest import numpy

import zoo
from zoo import backends, layers, optimizers, schedules
from zoo.training.depth import depths, weights
from zoo.training.engines import ENGINES

engines = pytest.mark.parametrize("engine", ENGINES)
DECAY, RATE, HEAD = 0.5, 0.01, 0.03
OPTIMIZER = f"AdamW({RATE}, epsilon=0.001, weight_decay=0.5)"
# The layers with weights of each family, by depth; of a block, its name.
DEPTHS = {
    "mlp": [{"hidden1"}, {"hidden2"}, {"head"}],
    "lenet5": [{"conv1"}, {"conv2"}, {"dense1"}, {"dense2"}, {"head"}],
    "alexnet": [*({f"conv{i}"} for i in range(1, 6)), {"dense1"}, {"dense2"}, {"head"}],
    "vgg11-bn": [
        {"stage1_conv1", "stage1_conv1_norm"}, {"stage2_conv1", "stage2_conv1_norm"},
        {"stage3_conv1", "stage3_conv1_norm"}, {"stage3_conv2", "stage3_conv2_norm"},
        {"dense1"}, {"dense2"}, {"head"},
    ],
    "resnet18": [{"stem", "stem_norm"}, {"stage1_block1"}, {"stage2_block1"}, {"head"}],
    "efficientnet-b0": [
        {"stem", "stem_norm"}, {"stage1_block1"}, {"stage2_block1"}, {"stage2_block2"},
        {"top", "top_norm", "head"},
    ],
    "vit-ti16": [
        {"patch_embedding", "class_token", "position_embedding"}, {"block1"}, {"block2"}, {"norm", "head"}
    ],
    "bert-tiny": [
        {"token_embedding", "position_embedding", "segment_embedding", "embedding_norm"},
        {"block1"}, {"block2"}, {"masked_lm", "masked_lm_norm", "masked_lm_bias"},
    ],
    "gpt-nano": [{"token_embedding", "position_embedding"}, {"block1"}, {"block2"}, {"norm"}],
    "t5-v1.1-small": [
        {"token_embedding", "encoder_positions", "decoder_positions"},
        {"encoder_block1"}, {"encoder_block2"}, {"encoder_norm"},
        {"decoder_block1"}, {"decoder_block2"}, {"decoder_norm", "head"},
    ],
    "birnn": [{"embedding"}, {"layer1_forward", "layer1_backward"}, {"head"}],
    "seq2seq": [
        {"encoder_embedding", "decoder_embedding"}, {"encoder_forward", "encoder_backward"},
        {"decoder_first_h", "decoder_first_c", "decoder"}, {"head"},
    ],
    "speech": [{"conv1"}, {"conv2"}, {"forward", "backward"}, {"head"}],
}  # fmt: skip


def by_depth(model: keras.Model) -> list[set[str]]:
    found: dict[int, set[str]] = {}
    for layer, depth in depths(model):
        if weights(layer):
            name = layer.name
            block = name.partition("block")[0] + "block" + name.partition("block")[2].partition("_")[0]
            found.setdefault(depth, set()).add(block if "block" in name else name)
    return [found[depth] for depth in sorted(found)]


@pytest.mark.once
@pytest.mark.parametrize("name", DEPTHS)
def test_a_block_is_one_deeper_than_the_block_before_it(name: str) -> None:
    model = zoo.build(name, **zoo.card(name).small)
    assert by_depth(model) == DEPTHS[name]
    assert {depth for _, depth in depths(model)} == set(range(len(DEPTHS[name])))


@pytest.mark.once
def test_every_layer_of_a_model_in_a_model_has_a_depth() -> None:
    inside = zoo.build("lenet5")
    x = layers.Input((32, 32, 1))
    model = layers.Model(x, layers.dense(inside(x), 2, name="mine"))
    assert by_depth(model) == [*DEPTHS["lenet5"], {"mine"}]


def train(engine: str = "native", steps: int = 4, **options: Any) -> zoo.Run:
    return zoo.train("lenet5", "digits", engine=engine, steps=steps, progress=False, **options)


def multiplier(layer: str) -> float:
    """layer_decay^(D - d), written out for LeNet-5."""
    order = ["conv1", "conv2", "dense1", "dense2", "head"]
    return HEAD / RATE if layer == "head" else DECAY ** (4 - order.index(layer))


Update = Callable[[list[np.ndarray], int], list[np.ndarray]]  # (gradients, step) -> weights


def by_torch(model: keras.Model, rate: Callable[[int], float]) -> Update:
    torch = pytest.importorskip("torch")

    parameters = [torch.tensor(numpy(v), dtype=torch.float64) for v in model.trainable_variables]
    factors = [multiplier(v.path.split("/")[0]) for v in model.trainable_variables]
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": RATE} for p in parameters], eps=1e-3, weight_decay=0.5
    )

    def update(gradients: list[np.ndarray], step: int) -> list[np.ndarray]:
        for p, g, group, factor in zip(parameters, gradients, optimizer.param_groups, factors, strict=True):
            p.grad = torch.tensor(g, dtype=torch.float64)
            group["lr"] = rate(step) * factor
        optimizer.step()
        return [p.numpy() for p in parameters]

    return update


def by_optax(model: keras.Model, rate: Callable[[int], float]) -> Update:
    jax, optax = map(pytest.importorskip, ("jax", "optax"))
    jax.config.update("jax_platforms", "cpu")
    paths = [v.path for v in model.trainable_variables]
    values = {path: numpy(v) for path, v in zip(paths, model.trainable_variables, strict=True)}
    now = {"step": 0}

    transform = optax.multi_transform(
        {
            layer: optax.chain(
                optax.scale_by_adam(eps=1e-3),
                optax.add_decayed_weights(0.5),
                optax.scale_by_schedule(lambda _, layer=layer: -rate(now["step"]) * multiplier(layer)),
            )
            for layer in {path.split("/")[0] for path in paths}
        },
        {path: path.split("/")[0] for path in paths},
    )
    state: Any = transform.init(values)

    def update(gradients: list[np.ndarray], step: int) -> list[np.ndarray]:
        nonlocal state, values
        now["step"] = step
        updates: Any
        updates, state = transform.update(dict(zip(paths, gradients, strict=True)), state, values)
        values = {path: np.asarray(values[path] + updates[path]) for path in paths}
        return [values[path] for path in paths]

    return update


@engines
@pytest.mark.parametrize("witness", [by_torch, by_optax])
def test_layer_decay_and_the_heads_rate_are_those_of_parameter_groups(engine: str, witness: Any) -> None:
    """Weight decay too: in AdamW each group's is scaled by its own rate."""
    schedule = "CosineAnnealing"
    ours = train(engine, optimizer=OPTIMIZER, schedule=schedule, layer_decay=DECAY, head_lr=HEAD)
    model = zoo.build("lenet5", classes=10)
    here, rate = backends.current(), schedules.CosineAnnealing(RATE, 4).at
    gradients = here.gradients(model, here.cross_entropy)
    update = witness(model, rate)
    for step, (x, y) in zip(range(4), ours.task.batches(ours.batch_size, 0, 0), strict=False):
        _, found, _ = gradients(here.tensor(x), here.tensor(y))
        for variable, value in zip(
            model.trainable_variables, update([numpy(g) for g in found], step), strict=True
        ):
            variable.assign(value)
    for mine, theirs in zip(ours.model.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_allclose(numpy(mine), numpy(theirs), atol=2e-6, rtol=0, err_msg=mine.path)


@engines
def test_a_rate_of_the_head_alone_leaves_the_others_at_the_recipes(engine: str) -> None:
    ours = train(engine, head_lr=HEAD)
    groups = {"^head/": {"learning_rate_multiplier": HEAD / 2e-3}}
    theirs = train(engine, optimizer=optimizers.AdamW(2e-3, weight_decay=0.01, groups=groups))
    assert ours.losses == theirs.losses


@engines
def test_a_resumed_run_has_the_rates_of_its_layers(engine: str, tmp_path: Path) -> None:
    options: Any = {"layer_decay": DECAY, "head_lr": HEAD, "schedule": schedules.CosineAnnealing(0.02, 6)}
    file = tmp_path / "run.safetensors"
    whole = train(engine, 6, **options)
    train(engine, 3, checkpoint=file, **options)
    resumed = train(engine, 6, resume=file)
    assert resumed.losses == whole.losses
    for mine, theirs in zip(resumed.model.variables, whole.model.variables, strict=True):
        np.testing.assert_array_equal(numpy(mine), numpy(theirs))
    # A new schedule keeps them.
    longer = train(engine, 6, resume=file, schedule=schedules.CosineAnnealing(0.02, 6))
    assert longer.losses == whole.losses


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layer_decay": 0.0}, "layer_decay=0.0; expected 0 < layer_decay <= 1"),
        ({"layer_decay": 1.5}, "layer_decay=1.5"),
        ({"head_lr": -1.0}, "head_lr=-1.0; expected a learning rate"),
        ({"head_lr": 0.1, "learning_rate": 0.0}, "no peak above 0"),
        ({"head_lr": 0.1, "optimizer": optimizers.SGD(0.1)}, "head_lr= is a setting of the recipe's"),
        ({"layer_decay": 0.5, "resume": "run"}, "leave layer_decay= out"),
    ],
)
def test_what_is_wrong_is_named_before_any_step(options: Any, message: str) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        train(**options)


def test_a_head_of_tied_weights_has_no_rate_of_its_own() -> None:
    with pytest.raises(zoo.WrongConfiguration, match=r"the head of gpt-nano has no weights of its own"):
        zoo.train("gpt-nano", steps=1, head_lr=0.1, progress=False)
