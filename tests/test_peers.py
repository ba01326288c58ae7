"""The reference implementations compute what their papers state.

Ours is a reference, theirs is NumPy in float64 with explicit gradients; of the transformers that are written
out, theirs is the zoo's model, on the framework that runs.
"""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

import zoo
from zoo import backends, optimizers
from zoo.benchmarks.references import transformers_sizes
from zoo.training import engines, objectives

NEEDS = {"torch": ["torch"], "flax": ["jax", "optax", "flax"], "tensorflow": ["tensorflow"]}
MODES = {"torch": ["eager", "compiled"], "flax": ["jit"], "tensorflow": ["graph", "xla"]}
BOUND = 1e-5  # float32, of the largest value; optax takes 8e-6, correcting the bias of its moments in float32

# --- theirs: each layer returns its output and the function that propagates a gradient back through it ---

Back = Callable[[ndarray], list[ndarray]]
Layer = Callable[..., tuple[ndarray, Back]]


def conv(x: ndarray, kernel: ndarray, bias: ndarray) -> tuple[ndarray, Back]:
    patches = sliding_window_view(x, (5, 5), axis=(1, 2))  # (b, h, w, c, 5, 5)

    def back(dy: ndarray) -> list[ndarray]:
        reach = sliding_window_view(np.pad(dy, ((0, 0), (4, 4), (4, 4), (0, 0))), (5, 5), axis=(1, 2))
        dx = np.einsum("bhwoij,ijco->bhwc", reach, kernel[::-1, ::-1], optimize=True)
        return [dx, np.einsum("bhwcij,bhwo->ijco", patches, dy, optimize=True), dy.sum((0, 1, 2))]

    return np.einsum("bhwcij,ijco->bhwo", patches, kernel, optimize=True) + bias, back


def dense(x: ndarray, kernel: ndarray, bias: ndarray) -> tuple[ndarray, Back]:
    return x @ kernel + bias, lambda dy: [dy @ kernel.T, x.T @ dy, dy.sum(0)]


def average_pool(x: ndarray) -> tuple[ndarray, Back]:
    b, h, w, c = x.shape
    y = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    return y, lambda dy: [dy.repeat(2, axis=1).repeat(2, axis=2) / 4]


def tanh(x: ndarray) -> tuple[ndarray, Back]:
    y = np.tanh(x)
    return y, lambda dy: [dy * (1 - y**2)]


def relu(x: ndarray) -> tuple[ndarray, Back]:
    return np.maximum(x, 0), lambda dy: [dy * (x > 0)]


def flatten(x: ndarray) -> tuple[ndarray, Back]:
    return x.reshape(len(x), -1), lambda dy: [dy.reshape(x.shape)]


@dataclass(frozen=True)
class Network:
    """Theirs: the layers in order, the shape of each kernel, the image, the literature's count."""

    layers: list[Layer]
    kernels: list[tuple[int, ...]]
    image: tuple[int, int, int]
    parameters: int

    def weights(self) -> list[ndarray]:
        """Random, also the biases: if they were zero, a missing one would not show."""
        random = np.random.default_rng(7)
        arrays = []
        for shape in self.kernels:
            arrays.append(random.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
            arrays.append(0.1 * random.normal(size=shape[-1]))
        return [array.astype("float32") for array in arrays]

    def batch(self, size: int = 16) -> tuple[ndarray, ndarray]:
        random = np.random.default_rng(8)
        return random.normal(size=(size, *self.image)).astype("float32"), random.integers(0, 10, size)

    def forward(self, weights: list[ndarray], x: ndarray) -> tuple[ndarray, list[Back]]:
        owned, backs = iter(np.asarray(w, "float64") for w in weights), []
        x = x.astype("float64")
        for layer in self.layers:
            x, back = layer(x, next(owned), next(owned)) if layer in (conv, dense) else layer(x)
            backs.append(back)
        return x, backs

    def loss_and_gradients(
        self, weights: list[ndarray], x: ndarray, y: ndarray
    ) -> tuple[float, list[ndarray]]:
        logits, backs = self.forward(weights, x)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        loss = -np.log(p[np.arange(len(y)), y]).mean()
        dy, gradients = (p - np.eye(10)[y]) / len(y), []
        for back in reversed(backs):
            dy, *own = back(dy)
            gradients = own + gradients
        return loss, gradients


@dataclass(frozen=True)
class Step:
    loss: float  # before the step
    weights: list[ndarray]  # after it
    comparable: list[ndarray]  # which of them are comparable in float32


def adamw(
    network: Network, x: ndarray, y: ndarray, learning_rate: float, weight_decay: float
) -> Iterator[Step]:
    """Steps by torch.optim.AdamW's documented algorithm.

    Adam divides each gradient by its own size. Where the sum over the batch almost cancels, what remains in
    float32 is rounding, which Adam turns into a whole step. Those, 3 weights in 10,000, are not comparable.
    """
    weights = [w.astype("float64") for w in network.weights()]
    m, v = [np.zeros_like(w) for w in weights], [np.zeros_like(w) for w in weights]
    comparable = [np.full(w.shape, True) for w in weights]
    for t in itertools.count(1):
        loss, gradients = network.loss_and_gradients(weights, x, y)
        for i, g in enumerate(gradients):
            weights[i] = weights[i] * (1 - learning_rate * weight_decay)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            m_hat, v_hat = m[i] / (1 - 0.9**t), v[i] / (1 - 0.999**t)
            weights[i] = weights[i] - learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
            comparable[i] = comparable[i] & ((g == 0) | (np.abs(g) > BOUND * np.abs(g).max()))
        yield Step(loss, list(weights), list(comparable))


NETWORKS = {
    "mlp": Network(
        layers=[flatten, dense, relu, dense, relu, dense],
        kernels=[(784, 256), (256, 128), (128, 10)],
        image=(28, 28, 1),
        parameters=235_146,
    ),
    "lenet5": Network(
        layers=[conv, tanh, average_pool, conv, tanh, average_pool, flatten, dense, tanh, dense, tanh, dense],
        kernels=[(5, 5, 1, 6), (5, 5, 6, 16), (400, 120), (120, 84), (84, 10)],
        image=(32, 32, 1),
        parameters=61_706,
    ),
}

# --- ours ---


def load(network: str, framework: str) -> ModuleType:
    for package in NEEDS[framework]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed in this environment")
    return importlib.import_module(f"zoo.benchmarks.references.{network}_{framework}")


Pair = tuple[ModuleType, Network]


@pytest.fixture(params=[(n, f) for n in NETWORKS for f in NEEDS], ids="-".join)
def pair(request: pytest.FixtureRequest) -> Pair:
    """A reference, and the NumPy network it should equal."""
    network, framework = request.param
    return load(network, framework), NETWORKS[network]


def framework(reference: ModuleType) -> str:
    return reference.__name__.rpartition("_")[2]


def quick_modes(reference: ModuleType) -> list[str]:
    """All but torch's compiler, which takes ten seconds and has one test, on the smaller network."""
    return [mode for mode in MODES[framework(reference)] if mode != "compiled"]


def distance(ours: ndarray, theirs: ndarray) -> float:
    """The largest difference, in units of the largest value."""
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def assert_steps_equal(reference: ModuleType, network: Network, scale: float, mode: str) -> None:
    settings = {"learning_rate": 1e-3, "weight_decay": 0.5}
    x, y = network.batch()
    step, read = reference.trainer(network.weights(), mode=mode, **settings)
    batch = reference.prepare(scale * x, y)
    for theirs in itertools.islice(adamw(network, scale * x, y, **settings), 3):
        assert float(step(*batch)) == pytest.approx(theirs.loss, rel=BOUND)
        for ours, weights, comparable in zip(read(), theirs.weights, theirs.comparable, strict=True):
            assert distance(np.where(comparable, ours, weights), weights) <= BOUND


def assert_logits_equal(reference: ModuleType, network: Network, mode: str) -> None:
    x, y = network.batch()
    images, _ = reference.prepare(x, y)
    logits = reference.predictor(network.weights(), mode=mode)(images)
    assert distance(np.asarray(logits), network.forward(network.weights(), x)[0]) <= BOUND


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_explicit_gradients_are_central_differences(network: Network) -> None:
    weights, (x, y) = [w.astype("float64") for w in network.weights()], network.batch(2)
    _, gradients = network.loss_and_gradients(weights, x, y)
    random, h = np.random.default_rng(9), 1e-6
    for weight, gradient in zip(weights, gradients, strict=True):
        for index in random.integers(0, weight.size, 3):
            losses = []
            for shift in (h, -2 * h):
                weight.flat[index] += shift
                losses.append(network.loss_and_gradients(weights, x, y)[0])
            weight.flat[index] += h
            slope = (losses[0] - losses[1]) / (2 * h)
            assert slope == pytest.approx(gradient.flat[index], rel=1e-6, abs=1e-9)


def test_it_has_the_parameters_of_the_literature(pair: Pair) -> None:
    reference, network = pair
    _, read = reference.trainer(network.weights())
    assert sum(weight.size for weight in read()) == network.parameters


def test_weights_come_back_as_they_went_in(pair: Pair) -> None:
    reference, network = pair
    _, read = reference.trainer(network.weights())
    for ours, theirs in zip(read(), network.weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_labels_may_be_any_integers(pair: Pair, kind: str) -> None:
    reference, network = pair
    x, y = network.batch()
    _, labels = reference.prepare(x, y.astype(kind))
    np.testing.assert_array_equal(np.asarray(labels), y)


def test_the_logits_are_numpys(pair: Pair) -> None:
    reference, network = pair
    for mode in quick_modes(reference):
        assert_logits_equal(reference, network, mode)


# At the first scale the gradients are much larger than epsilon. At the second those of the first kernel are
# of its size, so that an epsilon with another value or in another position shows.
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_three_steps_of_adamw_are_numpys(pair: Pair, scale: float) -> None:
    reference, network = pair
    for mode in quick_modes(reference):
        assert_steps_equal(reference, network, scale, mode)


# torch 2.13's inductor imports its own torch.utils.mkldnn, which still uses it.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_torch_computes_the_same() -> None:
    reference = load("mlp", "torch")
    assert_logits_equal(reference, NETWORKS["mlp"], "compiled")
    assert_steps_equal(reference, NETWORKS["mlp"], 1.0, "compiled")


@pytest.mark.parametrize("entry", ["trainer", "predictor"])
def test_a_wrong_mode_is_an_error_with_the_right_ones(pair: Pair, entry: str) -> None:
    reference, network = pair
    names = ", ".join(MODES[framework(reference)])
    with pytest.raises(ValueError, match=f'no mode "warp"; this reference has: {names}$'):
        getattr(reference, entry)(network.weights(), mode="warp")


def test_training_changes_neither_the_weights_given_nor_those_read_before(pair: Pair) -> None:
    reference, network = pair
    given, batch = network.weights(), reference.prepare(*network.batch())
    step, read = reference.trainer(given)
    before = read()
    step(*batch)
    for ours, read_before, after, theirs in zip(given, before, read(), network.weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(read_before, theirs)
        assert (after != theirs).any()


# --- transformers that are written out ---

HERE = backends.current()
SIZES = transformers_sizes.BERTS | transformers_sizes.GPTS | transformers_sizes.T5S


@dataclass(frozen=True)
class Transformer:
    """Ours and theirs of one small shape, theirs with random weights, and texts with padding."""

    reference: ModuleType
    ours: Any  # the reference's network
    theirs: Any  # the zoo's model
    x: dict[str, ndarray]
    y: ndarray

    def weights(self) -> dict[str, ndarray]:
        return {v.path: numpy(v).copy() for v in self.theirs.variables}


@pytest.fixture(params=["bert", "gpt", "t5"])
def transformer(request: pytest.FixtureRequest) -> Transformer:
    if HERE.NAME == "torch":
        pytest.skip("torch's are Hugging Face's own: tests/test_weights_transformers.py")
    reference, name = (
        importlib.import_module(f"zoo.benchmarks.references.transformers_{HERE.NAME}"),
        request.param,
    )
    theirs = zoo.build(name, **{**zoo.card(name).small, "dropout_rate": 0.0})
    rng = np.random.default_rng(3)
    for v in theirs.variables:  # a missing bias of 0 or scale of 1 would not show
        v.assign(numpy(v) + 0.3 * rng.standard_normal(v.shape).astype("float32"))
    n, m = (150, 140) if name == "t5" else (24, 24)  # T5's farthest bucket begins at a distance of 128

    def text(length: int) -> tuple[ndarray, ndarray]:
        real = np.arange(length) < np.array([[length], [length // 2], [1]])
        return rng.integers(1, 13, (3, length), dtype="int32"), real.astype("int32")

    x = dict(zip(("token_ids", "padding_mask"), text(n), strict=True))
    if name == "bert":
        x["segment_ids"] = np.tile((np.arange(n) > 5).astype("int32"), (3, 1))
    if name == "t5":
        x |= zip(("decoder_token_ids", "decoder_padding_mask"), text(m), strict=True)
    y = np.where(rng.random((3, m)) < 0.3, -1, rng.integers(0, 13, (3, m))).astype("int32")
    return Transformer(reference, partial(getattr(reference, name), depth=2, heads=2), theirs, x, y)


@pytest.mark.parametrize("model", SIZES)
def test_a_transformer_has_as_many_parameters_as_the_zoos(model: str) -> None:
    """A BERT with a masked language model head has a layer, a norm and a bias instead of the pooler."""
    width = SIZES[model][0]
    instead = 2 * width + 30_522 if model.startswith("bert") else 0
    ours = sum(map(prod, transformers_sizes.shapes(model).values()))
    assert ours == zoo.card(model).parameters + instead


@pytest.mark.parametrize("model", ["bert-tiny", "gpt-nano", "t5-tiny"])
def test_a_transformer_has_weights_of_the_zoos_names_and_shapes(model: str) -> None:
    theirs = zoo.build(model, **({"head": "masked_lm"} if model == "bert-tiny" else {}))
    shapes = {v.path: tuple(v.shape) for v in theirs.variables}
    assert transformers_sizes.shapes(model) == shapes
    if HERE.NAME != "torch":
        reference = importlib.import_module(f"zoo.benchmarks.references.transformers_{HERE.NAME}").reference(
            model
        )
        assert {name: tuple(array.shape) for name, array in reference.build().items()} == shapes


def test_a_transformer_gives_the_zoos_logits(transformer: Transformer) -> None:
    t = transformer
    theirs = numpy(t.theirs(backends.tensors(t.x)))
    x, _ = t.reference.prepare(t.x, t.y)
    for mode in t.reference.MODES:
        ours = np.asarray(t.reference.predictor(t.ours, t.weights(), mode=mode)(x))
        assert distance(ours, theirs) <= BOUND


def test_a_transformer_trains_like_the_zoos(transformer: Transformer) -> None:
    t, settings = transformer, {"learning_rate": 1e-3, "weight_decay": 0.5}
    weights, batch = t.weights(), t.reference.prepare(t.x, t.y)
    optimizer, mode = optimizers.AdamW(**settings), backends.MODES[HERE.NAME][0]
    engine: Any = engines.make_engine(
        "native", t.theirs, objectives.Objective("cross_entropy"), optimizer, mode
    )
    inputs, labels = backends.tensors(t.x), HERE.tensor(t.y)
    theirs = [float(numpy(engine.step(inputs, labels))) for _ in range(5)]
    assert theirs[-1] < theirs[0]
    for mode in t.reference.MODES:
        step, read = t.reference.trainer(t.ours, weights, mode=mode, **settings)
        assert [float(step(*batch)) for _ in theirs] == pytest.approx(theirs, rel=BOUND)
        assert all((array != weights[name]).any() for name, array in read().items())
