"""The peers compute what their papers say: ours is a peer, theirs is NumPy in float64, gradients by hand."""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest
from numpy import ndarray
from numpy.lib.stride_tricks import sliding_window_view

NEEDS = {"torch": ["torch"], "flax": ["jax", "optax", "flax"], "tensorflow": ["tensorflow"]}
MODES = {"torch": ["eager", "compiled"], "flax": ["jit"], "tensorflow": ["graph", "xla"]}

# --- theirs: each layer gives its output and the function that carries a gradient back through it ---

Layer = Callable[..., tuple[ndarray, Callable[[ndarray], list[ndarray]]]]


def conv(x: ndarray, kernel: ndarray, bias: ndarray):
    patches = sliding_window_view(x, (5, 5), axis=(1, 2))  # (b, h, w, c, 5, 5)

    def back(dy: ndarray) -> list[ndarray]:
        reach = sliding_window_view(np.pad(dy, ((0, 0), (4, 4), (4, 4), (0, 0))), (5, 5), axis=(1, 2))
        dx = np.einsum("bhwoij,ijco->bhwc", reach, kernel[::-1, ::-1], optimize=True)
        return [dx, np.einsum("bhwcij,bhwo->ijco", patches, dy, optimize=True), dy.sum((0, 1, 2))]

    return np.einsum("bhwcij,ijco->bhwo", patches, kernel, optimize=True) + bias, back


def dense(x: ndarray, kernel: ndarray, bias: ndarray):
    return x @ kernel + bias, lambda dy: [dy @ kernel.T, x.T @ dy, dy.sum(0)]


def average_pool(x: ndarray):
    b, h, w, c = x.shape
    y = x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
    return y, lambda dy: [dy.repeat(2, axis=1).repeat(2, axis=2) / 4]


def tanh(x: ndarray):
    y = np.tanh(x)
    return y, lambda dy: [dy * (1 - y**2)]


def relu(x: ndarray):
    return np.maximum(x, 0), lambda dy: [dy * (x > 0)]


def flatten(x: ndarray):
    return x.reshape(len(x), -1), lambda dy: [dy.reshape(x.shape)]


@dataclass(frozen=True)
class Network:
    """Theirs: the layers in order, the shape of each kernel, the image, the parameters the literature counts."""

    layers: list[Layer]
    kernels: list[tuple[int, ...]]
    image: tuple[int, int, int]
    parameters: int

    def weights(self) -> list[ndarray]:
        """Biases too are random, and every axis of every kernel differs from the others."""
        random = np.random.default_rng(7)
        arrays = []
        for shape in self.kernels:
            arrays.append(random.normal(size=shape) / np.sqrt(np.prod(shape[:-1])))
            arrays.append(0.1 * random.normal(size=shape[-1]))
        return [array.astype("float32") for array in arrays]

    def batch(self, size: int = 16) -> tuple[ndarray, ndarray]:
        random = np.random.default_rng(8)
        return random.normal(size=(size, *self.image)).astype("float32"), random.integers(0, 10, size)

    def forward(self, weights: list[ndarray], x: ndarray) -> tuple[ndarray, list[Callable]]:
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
    firm: list[ndarray]  # which of them float32 can be held to


def adamw(network: Network, x: ndarray, y: ndarray, learning_rate: float, weight_decay: float) -> Iterator[Step]:
    """Steps by torch.optim.AdamW's documented algorithm.

    Adam divides a gradient by its own size. Where the sum over the batch all but cancels, what is left is
    float32's rounding, and Adam makes a whole step of it: a few weights in 100,000, left out as not firm.
    """
    weights = [w.astype("float64") for w in network.weights()]
    m, v = [0.0] * len(weights), [0.0] * len(weights)
    firm = [np.full(w.shape, True) for w in weights]
    for t in itertools.count(1):
        loss, gradients = network.loss_and_gradients(weights, x, y)
        for i, g in enumerate(gradients):
            weights[i] = weights[i] * (1 - learning_rate * weight_decay)
            m[i] = 0.9 * m[i] + 0.1 * g
            v[i] = 0.999 * v[i] + 0.001 * g**2
            m_hat, v_hat = m[i] / (1 - 0.9**t), v[i] / (1 - 0.999**t)
            weights[i] = weights[i] - learning_rate * m_hat / (np.sqrt(v_hat) + 1e-8)
            firm[i] = firm[i] & ((g == 0) | (np.abs(g) > FLOOR * np.abs(g).max()))
        yield Step(loss, list(weights), list(firm))


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
    return importlib.import_module(f"zoo.peers.{network}_{framework}")


@pytest.fixture(params=[(n, f) for n in NETWORKS for f in NEEDS], ids="-".join)
def pair(request: pytest.FixtureRequest) -> tuple[ModuleType, Network]:
    """A peer, and the NumPy network it should equal."""
    return load(*request.param), NETWORKS[request.param[0]]


def train(
    peer: ModuleType, network: Network, x: ndarray, y: ndarray, **options
) -> list[tuple[float, list[ndarray]]]:
    """The loss before each of three steps and the weights after it."""
    step, read = peer.trainer(network.weights(), **options)
    batch = peer.prepare(x, y)
    return [(float(step(*batch)), read()) for _ in range(3)]


def distance(ours: ndarray | float, theirs: ndarray | float) -> float:
    """The largest difference, in units of the largest value."""
    assert np.shape(ours) == np.shape(theirs)
    return float(np.abs(np.subtract(ours, theirs)).max() / np.abs(theirs).max())


def furthest(ours: list[tuple[float, list[ndarray]]], theirs: list[tuple[float, list[ndarray]]]) -> float:
    return max(
        distance(a, b)
        for (our_loss, our_weights), (their_loss, their_weights) in zip(ours, theirs, strict=True)
        for a, b in zip([our_loss, *our_weights], [their_loss, *their_weights], strict=True)
    )


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_the_gradients_written_out_here_are_central_differences(network: Network):
    weights, (x, y) = [w.astype("float64") for w in network.weights()], network.batch(4)
    _, gradients = network.loss_and_gradients(weights, x, y)
    random, h = np.random.default_rng(9), 1e-6
    for weight, gradient in zip(weights, gradients, strict=True):
        for index in random.integers(0, weight.size, 4):
            losses = []
            for shift in (h, -2 * h):
                weight.flat[index] += shift
                losses.append(network.loss_and_gradients(weights, x, y)[0])
            weight.flat[index] += h
            assert (losses[0] - losses[1]) / (2 * h) == pytest.approx(
                gradient.flat[index], rel=1e-6, abs=1e-9
            )


def test_it_has_the_parameters_that_the_literature_counts(pair):
    peer, network = pair
    _, read = peer.trainer(network.weights())
    assert sum(weight.size for weight in read()) == network.parameters


def test_weights_come_back_as_they_went_in(pair):
    peer, network = pair
    _, read = peer.trainer(network.weights())
    for ours, theirs in zip(read(), network.weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("kind", ["int32", "int64"])
def test_labels_may_be_any_integers(pair, kind):
    peer, network = pair
    x, y = network.batch()
    _, labels = peer.prepare(x, y.astype(kind))
    np.testing.assert_array_equal(np.asarray(labels), y)


def test_the_logits_are_numpys(pair):
    peer, network = pair
    x, y = network.batch()
    images, _ = peer.prepare(x, y)
    logits = np.asarray(peer.predictor(network.weights())(images))
    assert distance(logits, network.forward(network.weights(), x)[0]) <= 1e-5


# At the first scale the gradients dwarf epsilon. At the second those of the first kernel are of its size, so
# that an epsilon of another value or in another place shows.
@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_three_steps_of_adamw_are_numpys(pair, scale):
    peer, network = pair
    x, y = network.batch()
    settings = {"learning_rate": 2e-3, "weight_decay": 0.5}
    ours = train(peer, network, scale * x, y, **settings)
    assert furthest(ours, list(adamw(network, scale * x, y, **settings))) <= 1e-5


@pytest.mark.parametrize(
    ("name", "framework", "mode"),
    [
        (n, f, mode)
        for n in NETWORKS
        for f in NEEDS
        for mode in MODES[f][1:]
        if (n, mode) != ("lenet5", "compiled")
    ],
)
# torch 2.13's own inductor still imports torch.utils.mkldnn, which uses it.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_every_mode_takes_the_same_steps(name, framework, mode):
    peer, network = load(name, framework), NETWORKS[name]
    x, y = network.batch()
    assert furthest(train(peer, network, x, y, mode=mode), train(peer, network, x, y)) <= 1e-5


@pytest.mark.parametrize("entry", ["trainer", "predictor"])
def test_a_wrong_mode_is_told_the_right_ones(pair, entry):
    peer, network = pair
    names = ", ".join(MODES[peer.__name__.rpartition("_")[2]])
    with pytest.raises(ValueError, match=f'no mode "warp"; this peer has: {names}$'):
        getattr(peer, entry)(network.weights(), mode="warp")


def test_training_changes_neither_the_weights_given_nor_those_read_before(pair):
    peer, network = pair
    given, batch = network.weights(), peer.prepare(*network.batch())
    step, read = peer.trainer(given)
    before = read()
    step(*batch)
    for ours, read_before, after, theirs in zip(given, before, read(), network.weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_array_equal(read_before, theirs)
        assert (after != theirs).any()
