"""Each architecture against its paper: ours on the framework that runs, theirs NumPy and SciPy in float64."""

from collections.abc import Callable

import numpy as np
import pytest
from conftest import numpy
from numpy import ndarray
from scipy.signal import correlate2d

import zoo
from zoo import random
from zoo._lazy import keras
from zoo.layers import Input, Model
from zoo.models import lenet

BOUND = 1e-5  # float32, of the largest value: the ladder's second rung; rounding alone has reached 1.1e-6


def weights(model: keras.Model) -> dict[str, ndarray]:
    """By path, e.g. "conv1/kernel", in float64."""
    return {v.path: numpy(v).astype(np.float64) for v in model.variables}


def noisy(model: keras.Model) -> keras.Model:
    """The model with its zeros (biases) moved, so that none can go missing unseen."""
    for v in model.trainable_variables:
        v.assign(numpy(v) + random.generator("test", v.path).uniform(-0.1, 0.1, v.shape).astype(np.float32))
    return model


def off(ours: object, theirs: ndarray) -> float:
    """The largest difference, of the largest value."""
    ours = numpy(ours)
    assert ours.shape == theirs.shape
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def conv(x: ndarray, kernel: ndarray, bias: ndarray) -> ndarray:
    maps = [
        [sum(correlate2d(image[..., i], k[..., i], "valid") for i in range(k.shape[-1])) for image in x]
        for k in np.moveaxis(kernel, -1, 0)
    ]
    return np.moveaxis(np.array(maps), 0, -1) + bias


def sums(x: ndarray) -> ndarray:
    """The sum of each 2 x 2 window."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).sum((2, 4))


ACTIVATIONS: dict[str, Callable[[ndarray], ndarray]] = {"relu": lambda x: np.maximum(x, 0), "tanh": np.tanh}

# --- mlp ---


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_mlp_is_its_equations(activation: str) -> None:
    """h_i = f(h_(i-1) W_i + b_i), logits = h_n W + b."""
    model = noisy(zoo.build("mlp", widths=(20, 12), shape=(6, 5, 2), classes=4, activation=activation))
    x, w = zoo.example(model, batch=3), weights(model)
    h = x.reshape(3, 60).astype(np.float64)
    for layer in ("hidden1", "hidden2"):
        h = ACTIVATIONS[activation](h @ w[f"{layer}/kernel"] + w[f"{layer}/bias"])
    assert off(model(x), h @ w["head/kernel"] + w["head/bias"]) <= BOUND


def test_mlp_without_hidden_layers_is_linear() -> None:
    model = noisy(zoo.build("mlp", widths=(), shape=(7,), classes=4))
    x, w = zoo.example(model, batch=3), weights(model)
    assert off(model(x), x.astype(np.float64) @ w["head/kernel"] + w["head/bias"]) <= BOUND


def test_mlp_drops_out_after_each_hidden_activation() -> None:
    """Theirs: the equations with the two layers' masks, which `random.keep` gives, in between."""
    model = noisy(zoo.build("mlp", widths=(20, 12), shape=(9,), dropout_rate=0.5))
    x, w = zoo.example(model, batch=3), weights(model)
    h = x.astype(np.float64)
    for i, width in ((1, 20), (2, 12)):
        key = random.key32(0, f"dropout{i}", "dropout")
        kept = numpy(random.keep((3, width), 0.5, key, np.int32(0)))
        h = 2 * kept * np.maximum(h @ w[f"hidden{i}/kernel"] + w[f"hidden{i}/bias"], 0)
    assert off(model(x, training=True), h @ w["head/kernel"] + w["head/bias"]) <= BOUND


# --- lenet5, as it is taught ---


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_lenet5_is_convolutions_and_averages(activation: str) -> None:
    f = ACTIVATIONS[activation]
    model = noisy(zoo.build("lenet5", activation=activation))
    x, w = zoo.example(model, batch=2), weights(model)
    h = x.astype(np.float64)
    for layer in ("conv1", "conv2"):
        h = sums(f(conv(h, w[f"{layer}/kernel"], w[f"{layer}/bias"]))) / 4
    h = h.reshape(2, 400)
    for layer in ("dense1", "dense2"):
        h = f(h @ w[f"{layer}/kernel"] + w[f"{layer}/bias"])
    assert off(model(x), h @ w["head/kernel"] + w["head/bias"]) <= BOUND


def test_lenet5_refuses_images_too_small_for_its_windows() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="conv2: a 5 x 5 window does not fit into 4 x 4"):
        zoo.build("lenet5", image_size=12)


# --- lenet5-1998, the paper's ---

# Table I: a column for each map of C3, a row for each map of S2.
TABLE_1 = (
    np.array(
        [
            list("X...XXX..XXXX.XX"),
            list("XX...XXX..XXXX.X"),
            list("XXX...XXX..X.XXX"),
            list(".XXX..XXXX..X.XX"),
            list("..XXX..XXXX.XX.X"),
            list("...XXX..XXXX.XXX"),
        ]
    )
    == "X"
)


def squash(x: ndarray) -> ndarray:
    return 1.7159 * np.tanh(2 / 3 * x)


def test_lenet5_1998_is_the_papers_network() -> None:
    """Section II.B, with the connections of Table I; the logits are minus the RBF outputs of eq. 7."""
    model = noisy(zoo.build("lenet5-1998"))
    x, w = zoo.example(model, batch=2), weights(model)
    c1 = squash(conv(x.astype(np.float64), w["c1/kernel"], w["c1/bias"]))
    s2 = squash(sums(c1) * w["s2_weight/value"] + w["s2_bias/value"])
    maps = [
        conv(s2[..., TABLE_1[:, i]], w[f"c3_{i}/kernel"], w[f"c3_{i}/bias"])[..., 0]
        for i in range(16)
    ]  # fmt: skip
    s4 = squash(sums(squash(np.stack(maps, -1))) * w["s4_weight/value"] + w["s4_bias/value"])
    c5 = squash(conv(s4, w["c5/kernel"], w["c5/bias"]))
    f6 = squash(c5.reshape(2, 120) @ w["f6/kernel"] + w["f6/bias"])
    rbf = ((f6[:, None] - lenet.bitmaps()) ** 2).sum(-1)
    assert off(model(x), -rbf) <= BOUND


def test_lenet5_1998_starts_uniform_within_2_4_of_the_fan_in() -> None:
    """Appendix A. The fan-in of a unit: 25 a map it sees; 4 for subsampling; all units below for F6."""
    w = weights(zoo.build("lenet5-1998"))
    fans = {"c1/kernel": 25, "c5/kernel": 400, "f6/kernel": 120, "s2_weight/value": 4, "s4_weight/value": 4}
    fans |= {f"c3_{i}/kernel": 25 * TABLE_1[:, i].sum() for i in range(16)}
    for path, fan_in in fans.items():
        largest, n = np.abs(w[path]).max() / (2.4 / fan_in), w[path].size
        assert 1e-4 ** (1 / n) < largest <= 1 + 1e-6  # P(all n below q) = q^n
    assert all(not value.any() for path, value in w.items() if path not in fans)


def test_lenet5_1998_has_the_papers_connections_layer_by_layer() -> None:
    """The paper counts a unit's inputs and its bias, each subsampling unit as 4 inputs and a bias."""
    model = zoo.build("lenet5-1998")

    def connections(layer: str) -> int:
        found = model.get_layer(layer)
        positions = np.prod(found.output.shape[1:-1], dtype=int)
        return int(positions * (np.prod(found.kernel.shape) + found.bias.shape[0]))

    pools = [layer.output.shape for layer in model.layers if type(layer).__name__ == "AveragePool"]
    subsampled = [h * w * c * (4 + 1) for _, h, w, c in pools]
    ours = {
        "C1": connections("c1"),
        "S2": subsampled[0],
        "C3": sum(connections(f"c3_{i}") for i in range(16)),
        "S4": subsampled[1],
        "C5": connections("c5"),
        "F6": connections("f6"),
        "RBF": lenet.bitmaps().size,
    }
    assert ours == {
        "C1": 122_304, "S2": 5_880, "C3": 151_600, "S4": 2_000, "C5": 48_120, "F6": 10_164, "RBF": 840,
    }  # fmt: skip
    assert sum(ours.values()) == 340_908


def test_table_1_has_the_papers_properties() -> None:
    """Six maps see 3 neighbours, six 4 neighbours, three 4 apart, one all six; each map of S2 feeds ten."""
    rows = [[int(m) for m in row] for row in lenet.TABLE_1]
    assert [len(row) for row in rows] == [3] * 6 + [4] * 9 + [6]
    assert [sum(m in row for row in rows) for m in range(6)] == [10] * 6
    assert sum(map(len, rows)) == 60
    assert len(set(lenet.TABLE_1)) == 16

    def contiguous(row: list[int]) -> bool:
        """On the circle of six maps, one run: exactly one member whose predecessor is missing."""
        return sum((m - 1) % 6 not in row for m in row) == 1

    assert [contiguous(row) for row in rows] == [True] * 12 + [False] * 3 + [False]


def test_a_map_of_c3_depends_on_the_maps_of_s2_that_table_1_names_and_no_other() -> None:
    s2 = Input((14, 14, 6))
    model = noisy(Model(s2, lenet.sparse_conv(s2, lenet.TABLE_1, name="c3")))
    x = zoo.example(model, batch=1)
    before = numpy(model(x))
    depends = np.zeros((6, 16), bool)
    for m in range(6):
        moved = x.copy()
        moved[..., m] += 1
        depends[m] = (numpy(model(moved)) != before).any((0, 1, 2))
    assert np.array_equal(depends, TABLE_1)


def test_squash_leaves_1_and_minus_1_where_they_are() -> None:
    """Appendix A: f(1) = 1 and f(-1) = -1, to the five digits of 1.7159."""
    x = Input((3,))
    ones = np.array([[1, -1, 0]], np.float32)
    ours = numpy(Model(x, lenet.squash(x))(ones))
    assert np.abs(ours - ones).max() <= 0.5e-4


def test_an_exact_bitmap_has_distance_0_and_the_largest_logit() -> None:
    x = Input((84,))
    distances = numpy(Model(x, lenet.squared_distance(x, lenet.bitmaps()))(lenet.bitmaps()))
    assert np.array_equal(np.diag(distances), np.zeros(10))
    assert np.array_equal((-distances).argmax(1), np.arange(10))
    # Bits of +-1: the squared distance is 4 for each that differs.
    differ = (lenet.bitmaps()[:, None] != lenet.bitmaps()).sum(-1)
    assert np.array_equal(distances, 4 * differ)


def test_the_bitmaps_are_ten_drawings_7_wide_and_12_high() -> None:
    ours = lenet.bitmaps()
    assert ours.shape == (10, 7 * 12)
    assert set(ours.ravel()) == {-1, 1}
    assert len({drawing.tobytes() for drawing in ours}) == 10
    # The eight is symmetric left to right, the four has its bar as the one full row: the rows lie as drawn.
    eight, four = ours[8].reshape(12, 7), ours[4].reshape(12, 7)
    assert np.array_equal(eight, eight[:, ::-1])
    assert list((four == 1).all(1)).count(True) == 1


def test_lenet5_1998_holds_no_number_but_its_60_000_trainable_ones() -> None:
    """The targets of the RBF units were chosen by hand and kept fixed."""
    model = zoo.build("lenet5-1998")
    assert sum(int(np.prod(v.shape)) for v in model.variables) == 60_000
    assert not model.non_trainable_variables


def test_layers_of_a_model_keep_their_names() -> None:
    """Names key the weights and the parity report: the same in every process, in any order of building."""
    named = {
        name: [layer.name for layer in zoo.build(name).layers if layer.weights] for name in ("mlp", "lenet5")
    }
    assert named == {
        "mlp": ["hidden1", "hidden2", "head"],
        "lenet5": ["conv1", "conv2", "dense1", "dense2", "head"],
    }
