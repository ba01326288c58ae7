"""Checkpoints: a run saved half way and resumed, by either engine, is the run that was never cut."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import safetensors.numpy
from conftest import numpy, python

import zoo
from zoo import optimizers, schedules, training
from zoo.tasks import content, sequences
from zoo.training import checkpoints

SMALL = {**zoo.card("mlp").small, "widths": (8,)}  # with dropout; one hidden layer compiles sooner
EPOCH_END, MID_EPOCH, TOTAL = 8, 11, 14  # steps; an epoch has four


def toy() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 64).astype(np.int32)
    return rng.normal(size=(64, 8, 8, 1)).astype(np.float32) + y[:, None, None, None] / 4, y


def adamw() -> optimizers.Optimizer:
    """A schedule, an average, and groups of three batches: steps 8 and 11 are inside one."""
    rate = schedules.CosineAnnealing(0.01, 6)
    return optimizers.AdamW(
        rate, weight_decay=0.1, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=3
    )


def momentum() -> optimizers.Optimizer:
    return optimizers.Momentum(0.05, nesterov=True, weight_decay=0.01)


OPTIMIZERS = {"AdamW": adamw, "Momentum": momentum}


def train(model: keras.Model | None = None, **arguments: Any) -> zoo.Run:
    settings = {"batch_size": None if "resume" in arguments else 16, "progress": False, **arguments}
    return zoo.train(model or zoo.build("mlp", **SMALL), toy(), **settings)


def weights(model: keras.Model) -> dict[str, np.ndarray]:
    return {v.path: np.array(numpy(v)) for v in model.variables}


def assert_close(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray], bound: float) -> None:
    assert list(ours) == list(theirs)
    for path, x in ours.items():
        np.testing.assert_allclose(x, theirs[path], rtol=0, atol=bound, err_msg=path)


def assert_same_run(run: zoo.Run, uncut: zoo.Run, bound: float = 1e-6) -> None:
    """Every loss, and every weight at the end."""
    assert len(run.losses) == len(uncut.losses)
    assert np.abs(np.subtract(run.losses, uncut.losses)).max() <= bound
    assert_close(weights(run.model), weights(uncut.model), bound)


@cache
def whole(engine: str, optimizer: str) -> zoo.Run:
    """The run that is never cut."""
    return train(engine=engine, optimizer=OPTIMIZERS[optimizer](), steps=TOTAL)


Saved = Callable[[str, str, int], Path]


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The file of a run by this engine and optimizer, after so many steps. Copy it before writing to it."""
    folder = tmp_path_factory.mktemp("checkpoints")

    @cache
    def files(engine: str, optimizer: str) -> dict[int, Path]:
        made = {steps: folder / f"{engine}-{optimizer}-{steps}.zoo" for steps in (EPOCH_END, MID_EPOCH)}

        def copy(step: int, _: Any) -> None:
            if step == EPOCH_END:  # the first of the new epoch: the file is that of the epoch's end
                shutil.copy(made[MID_EPOCH], made[EPOCH_END])

        settings = {"optimizer": OPTIMIZERS[optimizer](), "checkpoint": made[MID_EPOCH], "watch": copy}
        train(engine=engine, steps=MID_EPOCH, **settings)
        return made

    return lambda engine, optimizer, steps: files(engine, optimizer)[steps]


@pytest.fixture(scope="session")
def resumed(saved: Saved) -> Callable[[str, str, int], zoo.Run]:
    """The AdamW run saved by one engine after so many steps, and resumed by another."""
    return cache(
        lambda saved_by, resumed_by, steps: train(
            engine=resumed_by, resume=saved(saved_by, "AdamW", steps), steps=TOTAL
        )
    )


Resumed = Callable[[str, str, int], zoo.Run]


# --- going on ---


@pytest.mark.parametrize("resumed_by", training.ENGINES)
@pytest.mark.parametrize("saved_by", training.ENGINES)
def test_a_run_cut_inside_an_epoch_and_resumed_is_the_run_that_was_never_cut(
    resumed: Resumed, saved_by: str, resumed_by: str
) -> None:
    """Dropout on, the optimizer taken from the file, the averages put in place at the end; one step is left
    of the epoch."""
    assert_same_run(resumed(saved_by, resumed_by, MID_EPOCH), whole(resumed_by, "AdamW"))


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_run_killed_after_an_epoch_resumes_from_its_end(resumed: Resumed, engine: str) -> None:
    other = next(name for name in training.ENGINES if name != engine)
    assert_same_run(resumed(other, engine, EPOCH_END), whole(engine, "AdamW"))


@pytest.mark.parametrize("engine", training.ENGINES)
def test_an_engine_that_resumes_its_own_run_gives_the_same_bits(resumed: Resumed, engine: str) -> None:
    assert_same_run(resumed(engine, engine, MID_EPOCH), whole(engine, "AdamW"), bound=0)


def test_a_run_resumed_twice_in_the_same_file_is_the_run_that_was_never_cut(
    saved: Saved, tmp_path: Path
) -> None:
    """Momentum, saved by keras at 8, by native at 11, and ended by keras."""
    file = tmp_path / "run.zoo"
    shutil.copy(saved("keras", "Momentum", EPOCH_END), file)
    train(engine="native", resume=file, checkpoint=file, steps=MID_EPOCH)
    run = train(engine="keras", resume=file, steps=TOTAL)
    assert_same_run(run, whole("native", "Momentum"))


@pytest.mark.parametrize("engine", training.ENGINES)
def test_saving_changes_nothing_of_a_run(saved: Saved, engine: str) -> None:
    file = checkpoints.read(saved(engine, "AdamW", MID_EPOCH))
    assert file.arrays["losses"].tolist() == whole(engine, "AdamW").losses[:MID_EPOCH]


@pytest.fixture(scope="session")
def longer(saved: Saved) -> zoo.Run:
    """Resumed with the seed and batch size that it had, for three epochs in all."""
    return train(resume=saved("keras", "Momentum", EPOCH_END), epochs=3, seed=0, batch_size=16)


def test_the_epochs_of_a_resumed_run_count_from_its_beginning(longer: zoo.Run) -> None:
    assert len(longer.losses) == 3 * 4


def test_the_history_of_a_resumed_run_begins_with_the_saved_runs(longer: zoo.Run) -> None:
    assert len(longer.history) == 3


def test_the_seed_and_batch_size_of_a_run_by_name_are_the_saved_runs(tmp_path: Path) -> None:
    file = tmp_path / "run.zoo"
    settings = {"seed": 7, "batch_size": 32, "progress": False}
    uncut = zoo.train("mlp", toy(), steps=3, **settings)
    zoo.train("mlp", toy(), steps=1, checkpoint=file, **settings)
    run = zoo.train("mlp", toy(), resume=file, steps=3, progress=False)
    assert (run.seed, run.batch_size, run.model.get_layer("head").seed) == (7, 32, 7)
    assert_same_run(run, uncut)


def test_an_optimizer_that_is_given_takes_the_place_of_the_saved_one(saved: Saved) -> None:
    """Rate 0 from here on: the weights stay where the file has them."""
    file = saved("keras", "Momentum", MID_EPOCH)
    run = train(resume=file, optimizer=optimizers.Momentum(0.0), steps=TOTAL)
    kept = checkpoints.read(file).part("model")
    for variable in run.model.trainable_variables:
        np.testing.assert_array_equal(numpy(variable), kept[variable.path])


def test_a_run_stopped_by_ctrl_c_resumes(tmp_path: Path) -> None:
    def interrupt(step: int, _: Any) -> None:
        if step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    file = tmp_path / "run.zoo"
    cut = train(optimizer=momentum(), steps=TOTAL, checkpoint=file, watch=interrupt)
    assert cut.interrupted
    assert checkpoints.read(file).arrays["losses"].tolist() == cut.losses
    run = train(resume=file, steps=TOTAL)
    assert not run.interrupted
    assert_same_run(run, whole("native", "Momentum"))


# --- the file ---


def test_a_failure_while_writing_leaves_the_old_file_as_it_was(
    saved: Saved, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "run.zoo"
    shutil.copy(saved("keras", "Momentum", EPOCH_END), file)
    before = file.read_bytes()

    def full(arrays: Any, path: Path, *_: Any, **__: Any) -> None:
        del arrays
        Path(path).write_bytes(before[: len(before) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    with pytest.raises(OSError, match="no space left"):
        checkpoints.write(file, whole("native", "Momentum"), momentum())
    assert file.read_bytes() == before


def test_a_file_that_is_complete_replaces_the_old_one_and_leaves_no_other(tmp_path: Path) -> None:
    file = tmp_path / "run.zoo"
    file.write_text("what was here before")
    checkpoints.write(file, whole("native", "Momentum"), momentum())
    assert list(tmp_path.iterdir()) == [file]
    assert len(checkpoints.read(file).arrays["losses"]) == TOTAL


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_saved_optimizer_has_every_setting_of_the_original(optimizer: str, tmp_path: Path) -> None:
    file, ours = tmp_path / "run.zoo", OPTIMIZERS[optimizer]()
    checkpoints.write(file, whole("native", optimizer), ours)
    back = checkpoints.read(file).optimizer()
    assert type(back) is type(ours)
    assert keras.optimizers.serialize(back) == keras.optimizers.serialize(ours)
    rates = [[each.rate_at(step) for step in range(9)] for each in (back, ours)]
    assert rates[0] == rates[1]


@pytest.mark.once
def test_a_process_that_has_used_no_optimizer_yet_reads_the_zoos(saved: Saved) -> None:
    """Keras has an AdamW too, and takes it as long as nothing of the zoo's is imported."""
    path = saved("native", "AdamW", EPOCH_END)
    code = f"import zoo; print(type(zoo.checkpoints.read({str(path)!r}).optimizer()).__module__)"
    assert python(code) == "zoo.optimizers"


def test_the_saved_optimizer_decays_what_the_original_did(tmp_path: Path) -> None:
    """`exclude_from_weight_decay` is no argument of an optimizer, but part of it."""
    file, run, ours = tmp_path / "run.zoo", whole("native", "Momentum"), momentum()
    ours.exclude_from_weight_decay(var_names=["bias"])
    checkpoints.write(file, run, ours)
    back = checkpoints.read(file).optimizer()
    assert {v.path: back.group(v) for v in run.model.trainable_variables} == {
        v.path: ours.group(v) for v in run.model.trainable_variables
    }


def test_both_engines_write_files_of_the_same_arrays(saved: Saved) -> None:
    native, fit = (checkpoints.read(saved(engine, "AdamW", MID_EPOCH)).arrays for engine in training.ENGINES)
    assert {k: x.shape for k, x in native.items()} == {k: x.shape for k, x in fit.items()}
    for name, x in native.items():
        np.testing.assert_allclose(x, fit[name], rtol=0, atol=2e-6, err_msg=name)


# --- what is refused ---


def small(**changes: Any) -> keras.Model:
    return zoo.build("mlp", **{**SMALL, **changes})


def refused(said: str, model: keras.Model | None = None, **arguments: Any) -> None:
    """The error says so, no step is made, and the model is as it was."""
    model = model or small()
    before = weights(model)
    with pytest.raises(zoo.WrongConfiguration, match=said):
        train(model, watch=lambda *_: pytest.fail("a step was made"), **{"steps": TOTAL, **arguments})
    assert_close(weights(model), before, 0)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    refused(r"resume='.*nothing\.zoo': no such file", resume=tmp_path / "nothing.zoo")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    refused("no such file", resume=tmp_path)


@pytest.mark.parametrize("kind", ["text", "empty", "cut short", "weights alone"])
def test_a_file_that_is_no_checkpoint_is_refused(saved: Saved, tmp_path: Path, kind: str) -> None:
    file = tmp_path / "file.zoo"
    if kind == "weights alone":
        safetensors.numpy.save_file({"kernel": np.zeros((2, 3), np.float32)}, file)
    else:
        whole = saved("keras", "Momentum", EPOCH_END).read_bytes()
        file.write_bytes({"text": b"epoch 1: 2.30\n" * 9, "empty": b"", "cut short": whole[:-100]}[kind])
    refused(r"resume='.*file\.zoo': not a checkpoint", resume=file)


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"widths": (9,)}, r"variables: hidden1/kernel is \(64, 8\), the model needs \(64, 9\)"),
        ({"widths": ()}, "variables: no place for .*hidden1/kernel"),
        ({"widths": (8, 8)}, "variables: hidden2/kernel.* not in the file"),
    ],
)
def test_another_model_is_refused_and_left_as_it_was(
    saved: Saved, engine: str, changes: dict[str, Any], said: str
) -> None:
    file = saved("keras", "Momentum", MID_EPOCH)
    refused(said, small(**changes), engine=engine, resume=file)


@pytest.mark.parametrize(("argument", "value", "was"), [("seed", 1, 0), ("batch_size", 32, 16)])
def test_another_seed_or_batch_size_is_refused(saved: Saved, argument: str, value: int, was: int) -> None:
    file = saved("keras", "Momentum", MID_EPOCH)
    refused(f"trained with {argument}={was}, not {value}; leave it out", resume=file, **{argument: value})


@pytest.mark.parametrize("length", [{"steps": MID_EPOCH}, {"steps": 2}, {"steps": None, "epochs": 1}])
def test_no_more_steps_than_were_made_are_refused(saved: Saved, length: dict[str, int]) -> None:
    refused("has 11 steps already", resume=saved("keras", "Momentum", MID_EPOCH), **length)


@pytest.mark.parametrize("engine", training.ENGINES)
@pytest.mark.parametrize(
    ("optimizer", "said"),
    [
        (lambda: optimizers.AdamW(0.01), "optimizer state: velocity/hidden1/kernel.* not in the file"),
        (lambda: optimizers.SGD(0.01), "optimizer state: no place for momentum/"),
        (
            lambda: optimizers.Momentum(0.01, use_ema=True),
            "optimizer state: average/hidden1/kernel.* not in the file",
        ),
    ],
    ids=["AdamW", "SGD", "average"],
)
def test_an_optimizer_with_another_state_is_refused(
    saved: Saved, engine: str, optimizer: Callable[[], Any], said: str
) -> None:
    refused(said, engine=engine, resume=saved("keras", "Momentum", MID_EPOCH), optimizer=optimizer())


@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_checkpoint_in_no_folder_is_refused(tmp_path: Path, engine: str) -> None:
    refused("no folder .*nowhere", engine=engine, checkpoint=tmp_path / "nowhere" / "run.zoo")


def test_a_checkpoint_of_kerass_own_optimizer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.zoo"
    optimizer = keras.optimizers.Adam(0.01)
    refused("Adam: a checkpoint keeps those of zoo.optimizers", engine="keras", optimizer=optimizer,
            checkpoint=file)  # fmt: skip
    assert not file.exists()


def test_resuming_with_kerass_own_optimizer_is_refused(saved: Saved) -> None:
    refused("zoo.optimizers", engine="keras", optimizer=keras.optimizers.Adam(0.01),
            resume=saved("keras", "Momentum", MID_EPOCH))  # fmt: skip


def test_a_resumed_run_goes_on_with_the_saved_augmentation_and_no_other(tmp_path: Path) -> None:
    augment, file = "HorizontalFlip(rate=0.5), RandomCrop(size=8, padding=2)", tmp_path / "run.safetensors"
    whole = train(steps=12, augment=augment)
    train(steps=8, augment=augment, checkpoint=file)
    assert train(steps=12, resume=file).losses == pytest.approx(whole.losses, abs=1e-6)
    with pytest.raises(
        zoo.WrongConfiguration, match=r"was trained with augment=HorizontalFlip\(rate=0.5\), "
    ):
        train(steps=12, resume=file, augment="VerticalFlip")


# --- what a run is of ---


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a run of eight steps, with settings in words."""
    file = tmp_path_factory.mktemp("named") / "run.safetensors"
    zoo.train(small(), toy(), steps=8, checkpoint=file, progress=False, **NAMED)
    return file


NAMED: dict[str, Any] = {
    "optimizer": "Momentum", "learning_rate": 0.05, "schedule": "CosineAnnealing", "batch_size": 16,
}  # fmt: skip


def other_examples() -> tuple[np.ndarray, np.ndarray]:
    """One value of one example is another."""
    x, y = toy()
    x[7, 3, 3, 0] += 1e-3
    return x, y


def other_labels() -> tuple[np.ndarray, np.ndarray]:
    x, y = toy()
    y[[0, 1]] = y[[1, 0]] = (1, 2)
    return x, y


@pytest.mark.parametrize(
    ("model", "data", "options", "said"),
    [
        (lambda: renamed(small(), "net"), toy, {}, "trained with the model mlp, not net"),
        (small, other_examples, {}, r"on arrays \(64 examples, content \w{8}\), not on arrays \(64 ex.*tr"),
        (small, other_labels, {}, "trained on arrays .*, not on arrays .*: other training examples; "),
        (small, toy, {"loss": lambda y, logits: logits.sum()}, "loss=cross_entropy, not the function <l"),
        (small, toy, {"label_smoothing": 0.1}, "label_smoothing=0.0, not 0.1"),
        (lambda: small(dropout_rate=0.1), toy, {}, "mlp was built with dropout_rate=.*, not 0.1"),
        (lambda: zoo.build("mlp", dtype="bfloat16", **SMALL), toy, {}, "dtype=float32, not bfloat16"),
    ],
    ids=["model", "examples", "labels", "loss", "smoothing", "arguments", "dtype"],
)  # fmt: skip
def test_a_run_of_something_else_is_refused_with_both_named(
    named: Path, model: Callable[[], keras.Model], data: Callable[[], Any], options: dict[str, Any], said: str
) -> None:
    fail = lambda *_: pytest.fail("a step was made")  # noqa: E731
    with pytest.raises(zoo.WrongConfiguration, match=said):
        zoo.train(model(), data(), resume=named, steps=12, progress=False, watch=fail, **options)


def renamed(model: keras.Model, name: str) -> keras.Model:
    model.name = name
    return model


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"learning_rate": 0.01}, r"by Momentum, .*CosineAnnealing\(.*0.05.*these options .*0.01"),
        ({"schedule": "StepDecay(decay_steps=3, decay_rate=0.1)"}, "these options .*StepDecay"),
        ({"schedule": None}, "these options describe Momentum, learning rate 0.05"),
        ({"optimizer": "Momentum(nesterov=True)"}, "nesterov=False, not True"),
        ({"clip_norm": 1.0}, "global_clipnorm=None, not 1.0"),
    ],
    ids=["rate", "schedule", "none", "setting", "clip"],
)  # fmt: skip
def test_auto_with_another_recipe_is_refused_with_both_named(
    named: Path, option: dict[str, Any], said: str, tmp_path: Path
) -> None:
    file = tmp_path / "run.safetensors"
    shutil.copy(named, file)
    options = {**NAMED, "steps": 12, "checkpoint": file, "resume": "auto", "progress": False}
    fail = lambda *_: pytest.fail("a step was made")  # noqa: E731
    with pytest.raises(zoo.WrongConfiguration, match=said):
        zoo.train(small(), toy(), **{**options, **option}, watch=fail)
    assert len(zoo.train(small(), toy(), **options).losses) == 12


def test_loss_smoothing_and_dtype_of_a_resumed_run_are_the_saved_runs(tmp_path: Path) -> None:
    x, y = toy()
    soft = np.eye(10, dtype=np.float32)[y] * 0.8 + 0.02
    options: dict[str, Any] = {"loss": "cross_entropy", "label_smoothing": 0.2, "dtype": "mixed_bfloat16"}
    file = tmp_path / "run.safetensors"
    uncut = zoo.train("mlp", (x, soft), steps=9, batch_size=16, progress=False, **options)
    zoo.train("mlp", (x, soft), steps=5, batch_size=16, checkpoint=file, progress=False, **options)
    run = zoo.train("mlp", (x, soft), steps=9, resume=file, progress=False)
    assert_same_run(run, uncut, bound=0)


def test_a_file_that_does_not_say_what_it_is_of_is_resumed(named: Path, tmp_path: Path) -> None:
    """As earlier versions wrote them."""
    saved, file = checkpoints.read(named), tmp_path / "old.safetensors"
    facts = {**saved.facts, "version": "2"}
    del facts["identity"]
    safetensors.numpy.save_file(dict(saved.arrays), file, {"zoo": json.dumps(facts)})
    assert len(zoo.train(small(), other_examples(), resume=file, steps=12, progress=False).losses) == 12


@pytest.mark.once
def test_the_content_of_a_task_is_its_values_and_not_its_place(tmp_path: Path) -> None:
    """A folder that moves is the same; a file more, another size, another byte or label is not."""
    from PIL import Image

    def folder(name: str, shade: int = 0, files: int = 3, classes: str = "ab") -> Any:
        for label in classes:
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(files):
                pixels = np.full((8, 8, 3), 40 * i + shade * (i == 2), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{i}.bmp")
        return content.digests(zoo.tasks.folder(tmp_path / name, (8, 8, 3)))

    first = folder("first")
    shutil.move(tmp_path / "first", tmp_path / "elsewhere")
    assert folder("again") == first == content.digests(zoo.tasks.folder(tmp_path / "elsewhere", (8, 8, 3)))
    others = [folder("shade", shade=1), folder("files", files=4), folder("classes", classes="ac")]
    assert all(other["train"] != first["train"] for other in others)


@pytest.mark.once
def test_the_content_of_texts_is_their_tokens() -> None:
    def digest(texts: list[str]) -> Any:
        x = sequences.Sequences(texts, sequences.encode)
        return content.digests(zoo.tasks.from_arrays((x, np.arange(len(texts))), loss=None))["train"]

    assert digest(["a", "bc"]) == digest(["a", "bc"])
    assert len({digest(["a", "bc"]), digest(["ab", "c"]), digest(["a", "bd"]), digest(["bc", "a"])}) == 4


# --- bit for bit ---


def rate(kind: str) -> Any:
    return 0.01 if kind == "constant" else schedules.OneCycle(0.01, TOTAL)


@pytest.mark.parametrize("steps", [EPOCH_END, MID_EPOCH])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
@pytest.mark.parametrize("kind", ["constant", "schedule"])
@pytest.mark.parametrize("engine", training.ENGINES)
def test_a_resumed_run_is_the_one_never_cut_bit_for_bit(
    engine: str, kind: str, dtype: str, steps: int, tmp_path: Path
) -> None:
    """With accumulation, averages, augmentation, dropout; under mixed_float16 the loss scale changes."""
    file = tmp_path / "run.safetensors"

    def run(**arguments: Any) -> zoo.Run:
        settings = {"engine": engine, "augment": "RandomCrop(size=8, padding=2)", **arguments}
        return train(zoo.build("mlp", dtype=dtype, **SMALL), **settings)

    def make() -> Any:
        own = optimizers.AdamW(
            rate(kind), weight_decay=0.1, use_ema=True, ema_momentum=0.8, gradient_accumulation_steps=3,
            global_clipnorm=0.7,
        )  # fmt: skip
        if dtype == "float32":
            return own
        return keras.optimizers.LossScaleOptimizer(own, initial_scale=2.0**6, dynamic_growth_steps=4)

    uncut = run(optimizer=make(), steps=TOTAL)
    run(optimizer=make(), steps=steps, checkpoint=file)
    saved = checkpoints.read(file)
    if dtype == "mixed_float16":
        assert saved.arrays["optimizer/scale"] > 2.0**6
    given = {"optimizer": make()} if dtype == "mixed_float16" else {}  # with its wrapper
    assert_same_run(run(resume=file, steps=TOTAL, **given), uncut, bound=0)
