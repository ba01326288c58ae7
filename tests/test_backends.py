"""The three columns of one table: the same contract, checked on whichever framework runs."""

import ast
import importlib.util
import json
import os
import re
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import QUICK_MODES, numpy, python, run
from numpy import ndarray
from scipy.special import expit, logsumexp, ndtr

import zoo
from zoo import backends, layers, random
from zoo._lazy import keras
from zoo.layers import Input, Model
from zoo.processes import machine

Tensor = Any
MODES, NAMES = backends.MODES, backends.NAMES
HERE = backends.current()
NAME = HERE.NAME
OTHERS = [name for name in NAMES if name != NAME]
BOUND = 1e-6  # float32, of the largest value


def noise(*shape: int, seed: int = 0) -> ndarray:
    return random.generator("test", seed, *shape).standard_normal(shape, dtype=np.float32)


def tensor(array: Any) -> Tensor:
    return HERE.tensor(np.asarray(array))


def off(ours: Any, theirs: ndarray) -> float:
    """The largest difference, of the largest value."""
    ours = numpy(ours)
    assert ours.shape == np.shape(theirs)
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


# --- the contract, by reading the source ---

FOLDER = Path(backends.__file__).parent
Signature = tuple[str, list[str], list[str]]


def functions(body: list[ast.stmt]) -> list[Signature]:
    """Name, positional and keyword-only arguments of each public function, in order."""
    return [
        (f.name, [a.arg for a in f.args.args if a.arg != "self"], [a.arg for a in f.args.kwonlyargs])
        for f in body
        if isinstance(f, ast.FunctionDef) and not f.name.startswith("_")
    ]


def contract() -> list[Signature]:
    tree = ast.parse((FOLDER / "__init__.py").read_text())
    (protocol,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Backend")
    return functions(protocol.body)


@pytest.mark.parametrize("name", NAMES)
def test_each_backend_defines_the_contracts_functions_in_order(name: str) -> None:
    assert functions(ast.parse((FOLDER / f"{name}.py").read_text()).body) == contract()


@pytest.mark.parametrize("name", NAMES)
def test_each_backend_says_its_name(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    constants = {
        node.targets[0].id: node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert constants["NAME"] == name


@pytest.mark.parametrize("name", NAMES)
def test_only_its_own_framework_is_imported_by_a_backend(name: str) -> None:
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module}
    assert name in imported
    assert not imported & {"torch", "tensorflow", "jax", "optax", "flax"} - {
        name,
        "optax" if name == "jax" else name,
    }


# --- choosing a framework ---


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """As if Keras were not imported and these frameworks installed; returns keras.json's place."""

    def pretend(*installed: str) -> Path:
        find = importlib.util.find_spec
        monkeypatch.setattr(
            importlib.util,
            "find_spec",
            lambda name: (name in installed or None) if name in NAMES else find(name),
        )
        monkeypatch.delitem(sys.modules, "keras", raising=False)
        monkeypatch.setenv("KERAS_BACKEND", "")  # so that it is put back, whatever `use` writes
        monkeypatch.delenv("KERAS_BACKEND")
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        return tmp_path / "keras.json"

    return pretend


def test_installed_lists_what_can_be_imported_in_the_order_of_the_table(fresh: Callable) -> None:
    fresh("jax", "torch")
    assert backends.installed() == ("torch", "jax")


@pytest.mark.parametrize("installed", [("tensorflow", "jax"), ("jax",)])
def test_without_a_choice_the_first_installed_framework_is_taken(fresh: Callable, installed: tuple) -> None:
    fresh(*installed)
    assert backends.settle() == installed[0]
    assert os.environ["KERAS_BACKEND"] == installed[0]


def test_keras_json_is_heeded(fresh: Callable) -> None:
    fresh(*NAMES).write_text(json.dumps({"backend": "jax"}))
    assert backends.settle() == "jax"


@pytest.mark.parametrize(
    "text", ['{"backend": "tensorflow"}', '{"floatx": "float32"}', "not json", '{"backend": "numpy"}']
)
def test_keras_json_that_names_nothing_installed_is_no_choice(fresh: Callable, text: str) -> None:
    """Keras writes "tensorflow" there on its first import, asked or not."""
    fresh("jax").write_text(text)
    assert backends.settle() == "jax"


def test_the_variable_wins_over_keras_json(fresh: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(*NAMES).write_text(json.dumps({"backend": "jax"}))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    assert backends.settle() == "tensorflow"


def test_zoo_use_wins_over_the_variable_and_keras_json(
    fresh: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(*NAMES).write_text(json.dumps({"backend": OTHERS[0]}))
    monkeypatch.setenv("KERAS_BACKEND", OTHERS[1])
    zoo.use(NAME)
    assert backends.settle() == NAME
    assert backends.current() is HERE


@pytest.mark.parametrize("variable", ["tensorflow", "numpy", "theano"])
def test_a_variable_that_names_no_installed_framework_is_refused(
    fresh: Callable, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    fresh("jax")
    monkeypatch.setenv("KERAS_BACKEND", variable)
    with pytest.raises(zoo.BackendError, match=f"^the variable KERAS_BACKEND: .*{variable}"):
        backends.settle()


def test_with_nothing_installed_the_error_says_what_to_install(fresh: Callable) -> None:
    fresh()
    with pytest.raises(
        zoo.BackendError, match=r'no framework is installed.*pip install "keras-zoo-parity\[torch\]"'
    ):
        backends.settle()


def test_an_unknown_framework_gets_the_nearest() -> None:
    with pytest.raises(zoo.BackendError, match="no backend 'torhc'; nearest: torch"):
        zoo.use("torhc")


def test_a_framework_that_is_not_installed_gets_its_pip_command(fresh: Callable) -> None:
    fresh("torch")
    with pytest.raises(
        zoo.BackendError, match=r'jax is not installed.*pip install "keras-zoo-parity\[jax\]"'
    ):
        zoo.use("jax")


@pytest.mark.skipif(NAME != "jax", reason="the others need nothing beside them")
def test_a_jax_without_optax_gets_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optax", None)  # what Python finds where it is not installed
    monkeypatch.delitem(sys.modules, "zoo.backends.jax")
    with pytest.raises(zoo.BackendError, match=r'without optax.*pip install "keras-zoo-parity\[jax\]"'):
        backends.load("jax")


def test_names_of_frameworks_ignore_case() -> None:
    zoo.use(NAME.upper())
    assert backends.current() is HERE


@pytest.mark.parametrize("other", OTHERS)
def test_another_framework_than_keras_runs_on_is_refused(monkeypatch: pytest.MonkeyPatch, other: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: True)
    assert keras.backend.backend() == NAME
    with pytest.raises(zoo.BackendError, match=f"Keras already runs on {NAME} .* KERAS_BACKEND={other}"):
        zoo.use(other)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"device": "gpu:99"}])
def test_a_refused_choice_leaves_nothing_chosen(fresh: Callable, wrong: dict) -> None:
    fresh(NAME)
    with pytest.raises(
        zoo.BackendError, match=r"expected an integer, 1 or more|no device 'gpu:99'; there are: .*cpu"
    ):
        zoo.use(NAME, **wrong)
    assert "KERAS_BACKEND" not in os.environ


def test_keras_takes_the_framework_that_the_zoo_settles_on(tmp_path: Path) -> None:
    """In a fresh process where nothing is chosen and keras.json names what is not installed."""
    missing = next((name for name in OTHERS if name not in backends.installed()), "theano")
    (tmp_path / "keras.json").write_text(json.dumps({"backend": missing}))
    code = """
import zoo
zoo.build("mlp")
import keras
print(keras.backend.backend(), zoo.backends.current().NAME)
"""
    first = backends.installed()[0]
    assert python(code, KERAS_BACKEND=None, KERAS_HOME=str(tmp_path)) == f"{first} {first}"


def test_a_process_of_the_zoos_own_imports_keras_without_its_extras_which_may_follow() -> None:
    code = f"""
import sys, zoo
from zoo import _lazy
_lazy.leave_out_extras()
zoo.use({NAME!r})
_lazy.keras.Model
print("loaded", *(name for name in _lazy.EXTRAS if name in sys.modules))
import sklearn.datasets
"""
    assert python(code, first="") == ("loaded jax" if NAME == "jax" else "loaded")


# --- the machine ---


def test_the_version_is_that_of_the_installed_package() -> None:
    packages = [NAME, f"{NAME}-cpu"]
    theirs = next(version for p in packages if (version := installed_version(p)) is not None)
    assert HERE.version().split("+")[0] == theirs.split("+")[0]


def installed_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def test_there_is_one_cpu_and_it_comes_last() -> None:
    found = HERE.devices()
    assert [d.name for d in found if d.kind == "CPU"] == ["cpu"]
    assert found[-1].name == "cpu"
    assert len({d.name for d in found}) == len(found)


def test_doctor_lists_every_framework_and_what_to_install() -> None:
    facts = json.loads(run("doctor", "--json"))["frameworks"]
    assert set(facts) == set(backends.NAMES)
    for name, found in facts.items():
        if name in backends.installed():
            assert "cpu" in [device["name"] for device in found["devices"]]
            assert found["modes"] == list(backends.MODES[name])
        else:
            assert f"keras-zoo-parity[{name}]" in found["error"]
    printed = run("doctor")
    assert "cpu" in printed
    for name in backends.NAMES:
        assert re.search(rf"^\s*{name}\s", printed, re.MULTILINE)


TWO_GPUS = [
    backends.Device(name, name.partition(":")[0].upper(), "", None) for name in ("cuda:0", "cuda:1", "cpu")
]


@pytest.mark.parametrize(
    ("asked", "found"), [("cuda", "cuda:0"), ("cuda:1", "cuda:1"), ("CPU", "cpu"), ("cuda:0", "cuda:0")]
)
def test_a_device_is_found_by_its_name(asked: str, found: str) -> None:
    assert backends.find_device(TWO_GPUS, asked).name == found


@pytest.mark.parametrize("asked", ["cuda:2", "gpu", "", "tpu:0"])
def test_a_device_that_is_not_there_gets_those_that_are(asked: str) -> None:
    with pytest.raises(zoo.BackendError, match=f"no device '{asked}'; there are: cuda:0, cuda:1, cpu$"):
        backends.find_device(TWO_GPUS, asked)


THREADS = """
import os, zoo
zoo.use("{name}", threads={count})
from zoo import backends
from zoo._lazy import keras
here = backends.current()
x = here.tensor(__import__("numpy").ones((1024, 1024), "float32"))
product = here.compile(lambda a, b: a @ b) if "{name}" != "torch" else lambda a, b: a @ b
here.synchronize(product(x, x))
print(here.threads(), len(os.listdir("/proc/self/task")))
"""


def test_threads_are_as_many_as_were_asked_for() -> None:
    """Witness: the operating system counts more threads in a process that was allowed four more."""
    settings = {"OMP_NUM_THREADS": None, "NPROC": None}
    few, many = (
        [int(n) for n in python(THREADS.format(name=NAME, count=count), **settings).split()]
        for count in (1, 5)
    )
    assert (few[0], many[0]) == (1, 5)
    assert many[1] - few[1] >= 4


def test_peak_memory_is_in_bytes_of_this_process_alone() -> None:
    """The parent here is larger than the child ever gets, and Linux's ru_maxrss outlives `exec`."""
    ballast = np.ones(750_000_000, np.uint8)
    code = f"""
import numpy as np, zoo
zoo.use("{NAME}", threads=1)
here = zoo.backends.current()
def hold(n):
    value = here.tensor(np.ones(n // 4, np.float32)) + 1
    here.synchronize(value)
    return here.peak_memory()
print(hold(4_000), hold(200_000_000))
"""
    before, after = map(int, python(code).split())
    assert 200e6 <= after - before <= 900e6  # the array, its copy, their sum
    del ballast


@pytest.mark.skipif(NAME == "tensorflow", reason="it does not see the devices that are not used")
def test_peak_memory_is_of_the_device_in_use_where_there_is_a_better_one() -> None:
    code = {
        "torch": "import torch; torch.cuda.is_available = lambda: True; torch.cuda.device_count = lambda: 0",
        "jax": """
import jax
from types import SimpleNamespace as Device
memory = {"peak_bytes_in_use": 1}
cpu, gpu = jax.devices(), Device(platform="gpu", id=0, device_kind="", memory_stats=lambda: memory)
jax.devices = lambda platform=None: cpu if platform else [gpu]
""",
    }
    asked = f"import zoo\nzoo.use('{NAME}', device='cpu')\nprint(zoo.backends.current().peak_memory())"
    assert int(python(f"{code[NAME]}\n{asked}")) > 20e6  # the process's


def test_the_cores_are_counted_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.delenv("NPROC", raising=False)
    assert backends.cores() == machine.environment()["cores"] == os.cpu_count()
    assert HERE.threads() >= 1


@pytest.mark.skipif(NAME != "jax", reason="JAX_PLATFORMS is JAX's")
def test_jax_without_a_cpu_platform_finds_its_devices_and_copies_what_is_elsewhere() -> None:
    """JAX_PLATFORMS=cuda leaves no "cpu": asked for it, jax.devices raises RuntimeError."""
    code = """
import jax
from types import SimpleNamespace as Device
gpu = Device(platform="gpu", id=0, device_kind="H200", memory_stats=lambda: None)
def devices(platform=None):
    if platform == "cpu":
        raise RuntimeError("Unknown backend cpu. Available backends are ['cuda']")
    return [gpu]
array, jax.devices = jax.numpy.ones(3), devices
from zoo.backends import jax as here
print(*(d.name for d in here.devices()), here.concrete_value(array), here.peak_memory())
"""
    assert python(code, KERAS_BACKEND="jax") == "cuda:0 [1. 1. 1.] 0"


DETERMINISTIC = {  # what the framework itself says of it
    "torch": "import torch; on = torch.are_deterministic_algorithms_enabled()",
    "tensorflow": "from tensorflow.python.framework import config; on = config.is_op_determinism_enabled()",
    "jax": "import os; on = '--xla_gpu_deterministic_ops=true' in os.environ['XLA_FLAGS'].split()",
}


def test_lenet5_trains_when_only_deterministic_algorithms_are_allowed() -> None:
    code = f"""
import zoo
zoo.use("{NAME}", threads=1)
zoo.backends.current().set_deterministic()
first, second = (zoo.train("lenet5", steps=3, batch_size=8).losses for _ in range(2))
{DETERMINISTIC[NAME]}
print(on, first == second, len(first))
"""
    assert python(code) == "True True 3"


@pytest.mark.skipif(NAME != "jax", reason="torch and TensorFlow keep their programs elsewhere")
def test_a_program_that_was_forgotten_is_compiled_again() -> None:
    traced: list[Tensor] = []

    def double(x: Tensor) -> Tensor:
        traced.append(x)
        return 2 * x

    run, x = HERE.compile(double), tensor(noise(3))
    run(x)
    run(x)
    assert len(traced) == 1
    HERE.clear_cache()
    assert np.array_equal(numpy(run(x)), 2 * noise(3))
    assert len(traced) == 2


@pytest.mark.skipif(NAME != "jax", reason="the others compile nothing to make a tensor")
@pytest.mark.parametrize("make", ["tensor", "from_numpy"])
def test_a_tensor_of_a_new_shape_compiles_no_program(make: str) -> None:
    from jax import monitoring

    compiled: list[str] = []

    def listen(event: str, _: float, **__: Any) -> None:
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    array = noise(len(make), 1013)  # a shape of no other test
    monitoring.register_event_duration_secs_listener(listen)
    try:
        ours = getattr(HERE, make)(array)
        assert compiled == []
        HERE.compile(lambda x: x + 1017)(ours)
        assert compiled  # this one was heard
    finally:
        monitoring.unregister_event_duration_listener(listen)


def test_a_tensor_is_no_longer_the_array_that_it_was_made_from() -> None:
    array = np.zeros(2**16, np.float32)
    ours = tensor(array)
    array[:] = 1
    assert not numpy(ours).any()


@pytest.mark.skipif(NAME != "jax", reason="the others fuse no sums")
def test_what_branches_add_up_to_is_added_once() -> None:
    """Additions grow with the depth of a residual network, not with its square."""

    def additions(depth: int) -> int:
        model = zoo.build("vit-ti16", **{**zoo.card("vit-ti16").small, "depth": depth, "dropout_rate": 0.0})
        step = HERE.step(model, HERE.cross_entropy, zoo.optimizers.SGD(0.1), "jit")
        x, y = tensor(zoo.example(model)), HERE.tensor(np.arange(2, dtype=np.int32))
        step(x, y)
        return step.step.lower(step.state, x, y).compile().as_text().count(" add(")

    two, four, eight = map(additions, (2, 4, 8))
    assert eight - four == pytest.approx(2 * (four - two), rel=0.05)


# --- tensors and operations ---


@pytest.mark.parametrize("dtype", ["float32", "int32", "bool", "uint8"])
def test_a_tensor_holds_the_arrays_bits(dtype: str) -> None:
    array = (100 * np.abs(noise(3, 4))).astype(dtype)
    assert numpy(tensor(array)).dtype == dtype
    assert np.array_equal(numpy(tensor(array)), array)


@pytest.mark.parametrize("shape", [(), (3,), (3, 5, 4, 6)], ids=str)
def test_memory_that_is_filled_and_adopted_holds_what_it_was_filled_with(shape: tuple[int, ...]) -> None:
    """Each in memory of its own, and in whichever order it lies there."""
    arrays = [HERE.empty(shape) for _ in range(2)]
    for i, array in enumerate(arrays):
        assert (array.shape, array.dtype) == (shape, np.float32)
        array[...] = noise(*shape, seed=i)
    arrays.append(noise(*shape, seed=2).transpose())
    for i, adopted in enumerate([HERE.from_numpy(array) for array in arrays]):
        theirs = noise(*shape, seed=i)
        assert np.array_equal(numpy(adopted), theirs.transpose() if i == 2 else theirs)


@pytest.mark.parametrize("shape", [(5, 6), (3, 5, 4, 6)], ids=str)
def test_a_kernel_adopted_from_its_memory_is_the_same_kernel(shape: tuple[int, ...]) -> None:
    memory, kernel = HERE.empty(shape, kernel=True), noise(*shape)
    memory[...] = kernel
    adopted = HERE.from_numpy(memory)
    assert np.array_equal(numpy(adopted), kernel)
    if NAME == "torch":
        assert adopted.movedim(-1, 0).is_contiguous()  # as torch.nn.Linear's, and channels last


def test_cross_entropy_is_the_mean_log_loss() -> None:
    logits, labels = 20 * noise(64, 10), np.arange(64, dtype=np.int32) % 10
    x = logits.astype(np.float64)
    theirs = (logsumexp(x, axis=1) - x[np.arange(64), labels]).mean()
    assert off(HERE.cross_entropy(tensor(labels), tensor(logits)), theirs) <= BOUND


def test_cross_entropy_of_huge_logits_is_finite() -> None:
    logits = np.array([[1e4, 0], [0, 1e4]], np.float32)
    assert numpy(HERE.cross_entropy(tensor(np.array([1, 1], np.int32)), tensor(logits))) == 5e3


def test_gelu_is_precise_in_float64() -> None:
    """TensorFlow's own has float32 constants, off by 1.8e-9 in float64."""
    code = f"""
import numpy as np, zoo
zoo.use("{NAME}")
from zoo import backends
from zoo._lazy import keras
x = keras.ops.convert_to_tensor(np.linspace(-6, 6, 25), "float64")
for approximate in (False, True):
    print(*(float(y).hex() for y in backends.current().gelu(x, approximate=approximate)))
"""
    ours = [
        [float.fromhex(y) for y in line.split()] for line in python(code, JAX_ENABLE_X64="1").splitlines()
    ]
    x = np.linspace(-6, 6, 25)
    exact, approximate = x * ndtr(x), x * expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))
    assert np.abs(ours[0] - exact).max() <= 1e-15 * 6
    assert np.abs(ours[1] - approximate).max() <= 1e-15 * 6


# --- training ---


def softmax(logits: ndarray) -> ndarray:
    return np.exp(logits - logsumexp(logits, axis=-1, keepdims=True))


def regression(**options: Any) -> keras.Model:
    """Softmax regression, (b, 5) -> (b, 3), of which the gradient has a closed form."""
    x = Input((5,))
    return Model(x, layers.dense(x, 3, name="head", **options))


def loss_of(model: keras.Model, x: ndarray, y: ndarray) -> tuple[Any, list[Any]]:
    value, gradients, _ = HERE.gradients(model, HERE.cross_entropy)(tensor(x), tensor(y))
    return value, gradients


LABELS = np.array([0, 1, 2, 1, 0, 2, 2, 1], np.int32)


def test_gradients_are_the_closed_form_of_softmax_regression_penalty_included() -> None:
    """d/dW = x^T (softmax - onehot) / b + 2 l W, d/db = mean(softmax - onehot)."""
    x, model = noise(8, 5), regression(regularizer=layers.l2(0.05))
    value, (kernel_gradient, bias_gradient) = loss_of(model, x, LABELS)
    kernel, x64 = numpy(model.get_layer("head").kernel).astype(np.float64), x.astype(np.float64)
    logits = x64 @ kernel
    error = softmax(logits) - np.eye(3)[LABELS]
    log_loss = (logsumexp(logits, axis=1) - logits[np.arange(8), LABELS]).mean()
    assert off(value, log_loss + 0.05 * (kernel**2).sum()) <= BOUND
    assert off(kernel_gradient, x64.T @ error / 8 + 0.1 * kernel) <= BOUND
    assert off(bias_gradient, error.mean(0)) <= BOUND


def test_gradients_are_central_differences() -> None:
    """Through tanh, batch norm in training and a second layer; theirs in float64 with steps of 1e-6."""
    inputs = Input((5,))
    hidden = layers.tanh(layers.batch_norm(layers.dense(inputs, 4, name="hidden"), name="norm"))
    model = Model(inputs, layers.dense(hidden, 3, name="head"))
    x = noise(8, 5)

    def loss(w: list[ndarray]) -> float:
        h = x @ w[0] + w[1]
        h = np.tanh((h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * w[2] + w[3])
        logits = h @ w[4] + w[5]
        return (logsumexp(logits, axis=1) - logits[np.arange(8), LABELS]).mean()

    w = [numpy(v).astype(np.float64) for v in model.trainable_variables]
    theirs = [np.zeros_like(v) for v in w]
    for v, slope in zip(w, theirs, strict=True):
        for i in np.ndindex(v.shape):
            at, v[i] = v[i], v[i] + 1e-6
            above, v[i] = loss(w), at - 1e-6
            below, v[i] = loss(w), at
            slope[i] = (above - below) / 2e-6

    value, ours = loss_of(model, x, LABELS)
    assert off(value, loss(w)) <= BOUND
    largest = max(np.abs(slope).max() for slope in theirs)
    for gradient, slope in zip(ours, theirs, strict=True):
        # The hidden bias's is zero in exact arithmetic, batch norm takes it out: so a floor for all.
        assert np.abs(numpy(gradient) - slope).max() <= BOUND * largest


def with_state() -> keras.Model:
    inputs = Input((5,))
    x = layers.dropout(layers.batch_norm(inputs, name="norm"), 0.5, name="drop")
    return Model(inputs, layers.dense(x, 3, name="head"))


def values(model: keras.Model) -> dict[str, ndarray]:
    return {v.path: numpy(v).copy() for v in model.variables}


def test_gradients_change_no_state_and_tell_what_a_training_call_makes_of_it() -> None:
    model, other, x = with_state(), with_state(), tensor(noise(8, 5))
    before = values(model)
    *_, state = HERE.gradients(model, HERE.cross_entropy)(x, tensor(LABELS))
    assert all(np.array_equal(before[path], value) for path, value in values(model).items())
    other(x, training=True)
    for ours, theirs in zip(state, other.non_trainable_variables, strict=True):
        assert not np.array_equal(numpy(ours), before[theirs.path])
        assert off(ours, numpy(theirs)) <= BOUND


@pytest.mark.parametrize("mode", QUICK_MODES)
def test_a_step_moves_the_weights_by_the_gradient_and_the_state_on(mode: str) -> None:
    """w - a g for plain SGD; dropout's counter and running statistics as one training call leaves them."""
    x, rate = noise(8, 5), 0.25
    model, other = with_state(), with_state()
    value, gradients = loss_of(model, x, LABELS)
    theirs = [numpy(v) - rate * numpy(g) for v, g in zip(model.trainable_variables, gradients, strict=True)]
    other(tensor(x), training=True)

    step = HERE.step(model, HERE.cross_entropy, zoo.optimizers.SGD(rate), mode)
    assert off(step(tensor(x), tensor(LABELS)), numpy(value)) <= BOUND
    step.sync()
    for variable, after in zip(model.trainable_variables, theirs, strict=True):
        assert off(variable, after) <= BOUND
    for variable, after in zip(model.non_trainable_variables, other.non_trainable_variables, strict=True):
        assert off(variable, numpy(after)) <= BOUND


@pytest.mark.parametrize("mode", QUICK_MODES)
def test_a_batch_that_does_not_fit_leaves_the_model_as_the_step_before_did(mode: str) -> None:
    """And training goes on from there: theirs never met it."""
    x, y, found = tensor(noise(8, 5)), tensor(LABELS), []
    for meets in (False, True):
        model = with_state()
        step = HERE.step(model, HERE.cross_entropy, zoo.optimizers.Adam(0.1), mode)
        step(x, y)
        if meets:
            with pytest.raises(Exception, match="6"):
                step(tensor(noise(8, 6)), y)
        else:
            step.sync()
        found.append(values(model))
        step(x, y)
        step.sync()
        found.append(values(model))
    for theirs, ours in zip(found[:2], found[2:], strict=True):
        assert all(np.array_equal(theirs[path], value) for path, value in ours.items())


@pytest.mark.parametrize("mode", QUICK_MODES)
def test_each_step_drops_anew_in_every_mode(mode: str) -> None:
    """With a learning rate of 0 only the mask differs: each loss is that of the mask of its step."""
    inputs = Input((64,))
    drop = layers.dropout(inputs, 0.5, name="drop")
    model = Model(inputs, layers.dense(drop, 1, initializer=random.ones, name="sum"))
    step = HERE.step(model, lambda _, logits: logits[0, 0], zoo.optimizers.SGD(0.0), mode)
    x, y = np.ones((1, 64), np.float32), np.zeros(1, np.int32)
    ours = [float(numpy(step(tensor(x), tensor(y)))) for _ in range(4)]
    key = random.key32(0, "drop", "dropout")
    assert ours == [2 * numpy(random.keep((1, 64), 0.5, key, np.int32(n))).sum() for n in range(4)]


@pytest.mark.parametrize("mode", QUICK_MODES)
def test_a_predictor_gives_the_models_inference_and_follows_its_weights(mode: str) -> None:
    x, model = noise(8, 5), with_state()
    predict = HERE.predictor(model, mode)
    assert off(predict(tensor(x)), numpy(model(x, training=False))) <= BOUND
    assert off(predict(tensor(x[:3])), numpy(model(x[:3], training=False))) <= BOUND
    for variable in model.variables:
        variable.assign(variable + 1)
    assert off(predict(tensor(x)), numpy(model(x, training=False))) <= BOUND
    assert numpy(model.get_layer("drop").step) == 1  # moved by this test, by no prediction


@pytest.mark.parametrize("what", ["step", "predictor"])
def test_a_mode_that_the_framework_lacks_gets_those_it_has(what: str) -> None:
    model = regression()
    make = {
        "step": lambda mode: HERE.step(model, HERE.cross_entropy, zoo.optimizers.SGD(0.1), mode),
        "predictor": lambda mode: HERE.predictor(model, mode),
    }
    with pytest.raises(
        zoo.BackendError, match=f"{NAME} has no mode 'warp'; there are: {', '.join(MODES[NAME])}$"
    ):
        make[what]("warp")


def test_compiled_functions_compute_the_same() -> None:
    x = noise(4, 5)
    ours = HERE.compile(lambda a: keras.ops.tanh(a) @ keras.ops.transpose(a))(tensor(x))
    assert off(ours, np.tanh(x.astype(np.float64)) @ x.T) <= BOUND
