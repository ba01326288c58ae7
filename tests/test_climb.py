"""More runs of the ladder: the network that faults are injected into, a user's own models, every mode."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import zoo
from zoo import backends, ladder
from zoo.ladder import faults, injection, run
from zoo.processes.workers import Worker

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module", autouse=True)
def shared_processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run leaves its processes to the next: importing a framework takes longer than most runs here."""
    idle: dict[str, Worker] = {}

    class Shared(Worker):
        def close(self) -> None:
            if self.process.poll() is None:
                idle[self.key] = self
            else:
                super().close()

    def start(module: str, folder: Path, backend: str, environment: Mapping[str, str]) -> Worker:
        key = f"{backend} {environment['ZOO_PARITY_DTYPE']} {environment['ZOO_PARITY_THREADS']}"
        worker = idle.pop(key, None)
        if worker is None:
            worker = Shared(module, tmp_path_factory.mktemp("process"), backend, environment)
            worker.key = key
            (worker.folder / "pid").unlink()  # the end of a run is not the worker's
        for left in worker.folder.glob("*.*"):  # of the last run
            left.unlink()
        folder.unlink(missing_ok=True)  # of a process that died
        folder.symlink_to(worker.folder)
        return worker

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "Worker", start)
        yield
    for worker in idle.values():
        Worker.close(worker)


IMAGES = np.random.default_rng(0).normal(size=(100, 8, 8, 1)).astype(np.float32)


@pytest.mark.long
def test_every_kind_of_layer_and_regularization_holds() -> None:
    """Pools, norms, drop-path, dropout, both GELUs, a penalty: the network that faults are injected into.

    The fault injection below begins with it and no fault, in float64, on every rung, with TensorFlow.
    """
    rungs, pair = {1, 2, 3, 5}, ("torch", "jax")
    targets = np.arange(100) % 10
    result = ladder.parity(
        faults.network, inputs=IMAGES, targets=targets, rungs=sorted(rungs), modes=(), backends=pair
    )
    assert {row["rung"] for row in result.rows} == rungs
    assert not result.failed, result.failed


# The faults whose cause is recomputed.
CAUSES = {
    "dense kernels drawn transposed": "layout",
    "dropout reuses its first mask": "dropout",
    "a dropout mask inverted": "dropout",
    "convolution kernels transposed": "layout",
    "a strided convolution padded on one side": "padding side",
    "GELU's other form": "gelu",
    "layer norm's epsilon 1e-3": "epsilon",
    "batch norm's epsilon 1e-3": "epsilon",
    "a biased running variance": "biased variance",
    "batch norm's momentum inverted": "momentum",
    "activation before normalization": "order",
    "an LSTM's input and forget gates swapped": "layout",
    "an LSTM's initial state of ones": "initial state",
    "a GRU's update gate inverted": "recurrence",
    "a GRU's reset gate before its kernel": "recurrence",
    "a GRU's outputs not zero in the padding": "padding",
    "a constant of GELU in float32": "precision",
    "matrix products in TF32": "TF32",
    "the gradient of dense layers scaled by 1.001": "factor",
    "no gradient for dense kernels": "missing gradient",
    "the gradient of GELU scaled by 0.999": "factor",
    "softmax twice": "softmax",
    "the loss summed, not averaged": "reduction",
    "dropout without its scale": "dropout",
    "no penalty in the loss": "penalty",
}


# ZOO_LADDER=1 injects the faults of rungs 9 to 11 too, which takes five minutes more.
EVERYTHING = "ZOO_LADDER" in os.environ


@pytest.mark.long
def test_every_fault_is_caught_by_its_rung_and_its_cause_named() -> None:
    few = [fault.name for fault in faults.FAULTS if 1 <= fault.rung <= 8 or EVERYTHING]
    control, *rows = injection.inject_faults(few)
    assert control["caught"] is None, control
    assert len(rows) == len(few)
    for row in rows:
        assert row["caught"] == row["rung"], row
    assert {row["fault"]: row["cause"] for row in rows if row["cause"]} == CAUSES


def stock() -> Any:
    """A user's own model, of Keras's layers: its initial weights are each framework's."""
    import keras

    image = keras.Input((6, 6, 2))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.Dense(5, name="middle")(keras.layers.Flatten()(x))
    return keras.Model(image, keras.layers.Dense(3, name="last")(keras.ops.tanh(x)))


def faulty(break_: Callable[[Any, Any], Any]) -> Callable[[], Any]:
    """The same with an operation that is different on JAX."""

    def build() -> Any:
        import keras

        class Odd(keras.layers.Layer):
            def call(self, x: Any) -> Any:
                return break_(keras.ops, x) if keras.backend.backend() == "jax" else x

        image = keras.Input((6, 6, 2))
        x = keras.layers.Dense(4, name="first")(keras.layers.Flatten()(image))
        x = keras.layers.Dense(4, name="second")(Odd(name="odd")(x))
        return keras.Model(image, keras.layers.Dense(3, name="last")(x))

    return build


INPUTS = np.random.default_rng(0).normal(size=(8, 6, 6, 2)).astype(np.float32)


def first_failure(result: ladder.Parity) -> dict[str, Any]:
    return next(row for row in result.rows if row["verdict"] == "fails")


def test_a_users_own_model_starts_from_the_same_weights() -> None:
    result = ladder.parity(stock, INPUTS, rungs=(1, 2, 3, 4))
    assert {row["rung"] for row in result.rows} == {1, 2, 3, 4}
    assert {(row["a"], row["b"]) for row in result.rows} == {
        ("torch", "tensorflow"), ("torch", "jax"), ("tensorflow", "jax")
    }  # fmt: skip
    assert not result.failed, result.failed


def test_an_example_alone_is_compared_where_outputs_depend_on_the_others() -> None:
    """On one framework alone a difference, on both what the model is meant to do."""

    def contrastive(only: str) -> Callable[[], Any]:
        def build() -> Any:
            import keras

            class Centred(keras.layers.Layer):
                def call(self, x: Any) -> Any:
                    there = only in ("", keras.backend.backend())
                    return x - keras.ops.mean(x, axis=0, keepdims=True) if there else x

            image = keras.Input((6, 6, 2))
            x = Centred()(keras.layers.Flatten()(image))
            return keras.Model(image, keras.layers.Dense(3, name="last")(x))

        return build

    how: dict[str, Any] = {"rungs": (9,), "backends": ("torch", "jax")}
    meant = ladder.parity(contrastive(""), INPUTS, **how)
    assert not meant.failed, meant.failed
    assert "on every framework its outputs depend on the others" in str(meant)
    odd = [row for row in ladder.parity(contrastive("jax"), INPUTS, **how).failed if row["a"] == row["b"]]
    assert [row["a"] for row in odd] == ["jax"]
    assert odd[0]["where"]["layer"] == "output 0 of an example alone, and in a batch"


def test_the_localizer_names_the_operation_whose_output_differs() -> None:
    result = ladder.parity(faulty(lambda ops, x: x * 1.001), INPUTS, rungs=(1, 2, 3))
    row = first_failure(result)
    assert (row["rung"], row["a"], row["b"]) == (2, "torch", "jax")
    assert row["where"]["suspect"] == "Odd"
    assert row["where"]["b"] == pytest.approx(1.001 * row["where"]["a"], rel=1e-5)
    pairs = {(row["a"], row["b"]) for row in result.failed}
    assert pairs == {("torch", "jax"), ("tensorflow", "jax")}


def test_the_localizer_names_the_operation_whose_gradient_differs() -> None:
    def break_(ops: Any, x: Any) -> Any:
        return 2 * x - ops.stop_gradient(x)

    row = first_failure(
        ladder.parity(faulty(break_), inputs=INPUTS, rungs=(1, 2, 3), backends=("torch", "jax"))
    )
    assert row["rung"] == 3
    assert row["where"]["layer"] == "outputs/first"
    assert row["where"]["suspect"].endswith("Odd")
    assert row["where"]["b"] == pytest.approx(2 * row["where"]["a"], rel=1e-5)


def settings(**on_jax: Any) -> Callable[[], Any]:
    """A model of Keras's layers, with other settings on JAX."""

    def build() -> Any:
        import keras

        chosen = {"epsilon": 1e-5, "momentum": 0.9, "padding": ((1, 1), (1, 1)), "gelu": False, "rate": 0.5}
        if keras.backend.backend() == "jax":
            chosen |= on_jax
        x = image = keras.Input((6, 6, 2))
        x = keras.layers.ZeroPadding2D(chosen["padding"])(x)
        x = keras.layers.Conv2D(4, 3, strides=2, name="conv")(x)
        x = keras.layers.BatchNormalization(momentum=chosen["momentum"], name="norm")(x)
        x = keras.ops.gelu(x, approximate=chosen["gelu"])
        x = keras.layers.LayerNormalization(epsilon=chosen["epsilon"], name="scale")(
            keras.layers.Flatten()(x)
        )
        return keras.Model(image, keras.layers.Dropout(chosen["rate"], name="drop")(x))

    return build


def test_the_cause_is_said_where_recomputing_with_it_gives_both_outputs() -> None:
    odd = {
        "epsilon": {"epsilon": 1e-3}, "momentum": {"momentum": 0.1},
        "padding side": {"padding": ((0, 2), (0, 2))},
        "gelu": {"gelu": True}, "dropout": {"rate": 0.25},
    }  # fmt: skip
    networks = {cause: (settings(**changed), INPUTS, None, None) for cause, changed in odd.items()}
    result = ladder.own_models(networks, run.Settings(("torch", "jax"), ("float64",), rungs=(2, 3)))
    causes = {row["model"]: row["where"]["cause"] for row in result.failed if "cause" in row["where"]}
    assert causes == {cause: cause for cause in odd}
    for text in (
        "first differs at scale",
        "Cause: epsilon is 1e-05 in torch, 0.001 in jax; with epsilon 1e-05 the two agree.",
        "Cause: the old statistics weigh 0.9 in torch, 0.1 in jax, its complement.",
        "Cause: torch applies gelu (erf), jax gelu (tanh).",
        "Cause: in front are [0, 1, 1, 0] zeros by axis in torch, [0, 0, 0, 0] in jax.",
        "Cause: other values are dropped: ",
    ):
        assert text in str(result)


def test_a_process_that_crashes_is_a_row_and_the_others_continue() -> None:
    def build() -> Any:
        if backends.current().NAME == "jax" and "ZOO_TEST_TRIED" in os.environ:  # not when it is tried first
            raise RuntimeError("no such luck")
        os.environ["ZOO_TEST_TRIED"] = "1"
        return stock()

    result = ladder.parity(build, inputs=INPUTS, rungs=(2,))
    (crashed,) = (row for row in result.rows if row["error"])
    assert (crashed["a"], crashed["verdict"]) == ("jax", "fails")
    assert "no such luck" in crashed["error"]
    assert [(row["a"], row["b"]) for row in result.rows if not row["error"]] == [("torch", "tensorflow")]


def fails() -> Any:
    if backends.current().NAME == "jax":
        raise RuntimeError("no such luck")
    return stock()


def unlike() -> Any:
    import keras

    model = stock()
    if keras.backend.backend() == "jax":
        return keras.Model(model.input, keras.ops.relu(model.output))
    return model


@pytest.mark.parametrize(
    ("build", "inputs", "message"),
    [
        (fails, INPUTS, r"the builder fails on jax: RuntimeError: no such luck \(test_climb.py, line \d+\)"),
        (unlike, INPUTS, "another architecture on jax: R[eE][lL][uU] where torch has nothing more"),
        (lambda: None, INPUTS, "the builder returned None; is its return missing"),
        (stock, INPUTS[:, :5], r"does not take inputs of shape \(1, 5, 6, 2\) on torch"),
        (stock, {"a": INPUTS, "b": INPUTS}, r"inputs a, b: the model has .* \(None, 6, 6, 2\)"),
        (stock, np.array(["a"]), "expected arrays of numbers"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_first(build: Any, inputs: Any, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message):
        ladder.parity(build, inputs, rungs=(2,), backends=("torch", "jax"))


def test_an_array_by_any_name_is_that_of_a_model_with_one_input() -> None:
    result = ladder.parity(stock, {"x": INPUTS}, rungs=(2,), backends=("torch", "jax"))
    assert not result.failed, str(result)


def test_a_builder_that_takes_a_size_is_called_with_it_and_without_pretrained_weights(tmp_path: Path) -> None:
    (tmp_path / "sizes.py").write_text(
        "import keras\n\n\ndef build(input_shape, weights='imagenet'):\n"
        "    assert weights is None\n    x = keras.Input(input_shape)\n"
        "    return keras.Model(x, keras.layers.Conv2D(2, 3)(x))\n"
    )
    result = ladder.parity(f"{tmp_path}/sizes.py:build", size=8, rungs=(2,), backends=("torch", "jax"))
    assert result["models"] == ["build"]
    assert not result.failed, str(result)


def test_a_users_model_is_trained_where_targets_are_given() -> None:
    x = np.random.default_rng(1).normal(size=(60, 6, 6, 2)).astype(np.float32)
    result = ladder.parity(
        stock, inputs=x, targets=np.arange(60) % 3, rungs=(5, 6), backends=("torch", "tensorflow")
    )
    assert {row["rung"] for row in result.rows} == {5, 6}
    assert not result.failed, result.failed


@pytest.mark.long
def test_every_mode_trains_as_the_default_does() -> None:
    """Compiled masks are drawn beside torch's compiled mode."""
    every = tuple({mode: None for modes in backends.MODES.values() for mode in modes})
    result = ladder.parity("mlp", rungs=(1, 7), modes=every)
    assert {row["rung"] for row in result.rows} == {1, 7}
    assert not result.failed, result.failed
    assert "compiled" in every


def test_a_builder_is_named_by_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "import keras\n\n\ndef build():\n    x = keras.Input((6, 6, 2))\n"
        "    y = keras.layers.Dropout(0.5)(keras.layers.Flatten()(x))\n"
        "    return keras.Model(x, keras.layers.Dense(3)(y))\n"
    )
    result = ladder.parity(f"{file}:build", INPUTS, rungs=(1, 2, 3), backends=("torch", "jax"))
    assert not result.failed, str(result)
    assert str(result).splitlines()[0].startswith("build, torch and jax: rounding: ")
    assert result["notes"] == {
        "build": ["1 random generator of Keras drew the same numbers on every framework"]
    }


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        ("mine.py:build", "mine.py: no such file"),
        ("mine.py:not a name", "expected FILE.py:FUNCTION or MODULE:FUNCTION"),
        ("no_such_module:build", "No module named 'no_such_module'; expected FILE.py:FUNCTION"),
        ("json:build", "json has no 'build'; expected a function that builds a model"),
    ],
)
def test_a_builder_that_is_not_there_is_named_first(builder: str, message: str) -> None:
    with pytest.raises(zoo.ZooError, match=message):
        ladder.parity(builder, INPUTS, rungs=(2,))


def test_a_builder_that_makes_another_model_each_time_is_refused_first() -> None:
    def build() -> Any:
        import keras

        build.width = getattr(build, "width", 2) + 1
        x = keras.Input((6, 6, 2))
        return keras.Model(x, keras.layers.Dense(build.width)(x))

    with pytest.raises(zoo.ZooError, match=r"another model in another call: .*\(2, 3\) in one, \(2, 4\)"):
        ladder.parity(build, INPUTS, rungs=(2,))


def test_what_differs_in_float32_is_compared_in_float64_by_itself() -> None:
    """A constant of float32 precision, on JAX alone: a difference in both types."""
    result = ladder.parity(faulty(lambda ops, x: x * 1.001), INPUTS, rungs=(2,), backends=("torch", "jax"))
    assert [row["dtype"] for row in result.failed] == ["float32", "float64"]
    assert "DIFFERENT: rung 2, forward, first differs at odd" in str(result)
    assert "Cause: the values of jax are those of torch times 1.001." in str(result)
