"""Portable randomness: ours against the hash written in uint32, and against SciPy's distributions."""

from math import sqrt

import numpy as np
import pytest
from conftest import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy import ndarray
from scipy import stats

from zoo import backends, random
from zoo._lazy import keras
from zoo.layers import Input, Model, batch_norm, conv, dense, flatten
from zoo.random import Initializer, bits, keep, key32

FLUKE = 1e-4  # a statistic this unlikely is a fault; keys are fixed, so it either always or never happens

# --- theirs: Wellons' lowbias32 and its inverse, in uint32 ---

MULTIPLIERS = 0x7FEB352D, 0x846CA68B


def mix(x: ndarray) -> ndarray:
    x = (x ^ (x >> 16)) * np.uint32(MULTIPLIERS[0])
    x = (x ^ (x >> 15)) * np.uint32(MULTIPLIERS[1])
    return x ^ (x >> 16)


def unmix(x: ndarray) -> ndarray:
    first, second = (np.uint32(pow(m, -1, 2**32)) for m in MULTIPLIERS)
    x = (x ^ (x >> 16)) * second
    x = (x ^ (x >> 15) ^ (x >> 30)) * first
    return x ^ (x >> 16)


def word(number: int) -> ndarray:
    """An integer's low 32 bits, as an array so that sums wrap without a warning."""
    return np.array([number & 0xFFFFFFFF], np.uint32)


def hashed(shape: tuple[int, ...], key: int, step: int) -> ndarray:
    index = np.arange(np.prod(shape), dtype=np.uint32) ^ word(key)
    return (mix(mix(index) + word(step))).reshape(shape)


# --- bits ---

int32 = st.integers(-(2**31), 2**31 - 1)
shapes = st.sampled_from([(1,), (7,), (3, 5), (2, 3, 4), (5, 1, 2, 3)])


@settings(derandomize=True, deadline=None, max_examples=50)
@given(key=int32, step=int32, shape=shapes)
def test_bits_are_the_hash_in_uint32(key: int, step: int, shape: tuple[int, ...]) -> None:
    ours = numpy(bits(shape, key, np.int32(step)))
    assert ours.dtype == np.int32
    assert np.array_equal(ours.view(np.uint32), hashed(shape, key, step))


@pytest.mark.parametrize("key", [-1, 2**31 - 1, 123_456_789])
def test_bits_are_the_same_hash_when_compiled(key: int) -> None:
    tensor = keras.ops.convert_to_tensor
    compiled = backends.current().compile(lambda step: bits((6, 5, 7), key, step))
    for step in (0, 1, 2**31 - 1):
        ours = numpy(compiled(tensor(np.int32(step))))
        assert np.array_equal(ours.view(np.uint32), hashed((6, 5, 7), key, step))


# --- masks ---


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.25, 0.5, 0.9, 0.999])
def test_dropout_drops_at_its_rate(rate: float) -> None:
    kept = numpy(keep((1024, 1024), rate, key32(0, "dropout"), np.int32(3)))
    z = (kept.sum() - kept.size * (1 - rate)) / sqrt(kept.size * rate * (1 - rate))
    assert abs(z) < stats.norm.isf(FLUKE / 2)


@pytest.mark.parametrize("dropped", [0, 1, 2, 2**23, 2**24 - 1])
def test_a_rate_is_honoured_to_2_to_the_minus_24(dropped: int) -> None:
    """Of the 2^24 values of a word's top bits, a rate of n 2^-24 drops exactly the lowest n."""
    for top in {max(dropped - 1, 0), min(dropped, 2**24 - 1)}:
        for low in (0, 255):
            step = unmix(word(top << 8 | low)) - mix(word(77))  # makes element 0 under key 77 that word
            (kept,) = numpy(keep((1,), dropped / 2**24, 77, step.view(np.int32)[0]))
            assert kept == (top >= dropped)


def chance_of_table(a: ndarray, b: ndarray) -> float:
    """The probability of counts as uneven as these, were the two masks independent."""
    counts = [[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]
    return stats.chi2_contingency(counts, correction=False).pvalue


def mask(seed: int = 0, layer: str = "dropout1", step: int = 0) -> ndarray:
    return numpy(keep((512, 512), 0.3, key32(seed, layer, "dropout"), np.int32(step)))


@pytest.mark.parametrize(
    "other",
    [{"seed": 1}, {"layer": "dropout2"}, {"step": 1}, {"step": 2}, {"step": 1000}, {"seed": 7, "step": 5}],
)
def test_masks_of_another_seed_layer_or_step_are_independent(other: dict) -> None:
    assert chance_of_table(mask(), mask(**other)) > FLUKE


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 8, 16, 64, 512, 1024, 4096])
def test_neighbouring_elements_are_dropped_independently(lag: int) -> None:
    flat = mask().ravel()
    assert chance_of_table(flat[:-lag], flat[lag:]) > FLUKE


def test_pairs_that_recur_across_steps_are_dropped_independently() -> None:
    """Element and neighbour, step and next step: the parity of the four is even half of the time."""
    now, then = (numpy(keep((512, 512), 0.5, key32(0, "d"), np.int32(step))).ravel() for step in (0, 1))
    parity = now[:-1] ^ now[1:] ^ then[:-1] ^ then[1:]
    assert stats.binomtest(int(parity.sum()), parity.size).pvalue > FLUKE


def test_keys_of_layers_spread_over_all_32_bits() -> None:
    keys = np.array([key32(0, f"layer{i}", "dropout") for i in range(4096)])
    assert keys.min() >= -(2**31)
    assert keys.max() < 2**31
    assert stats.kstest(keys, stats.uniform(-(2**31), 2**32).cdf).pvalue > FLUKE
    assert len(set(keys)) == len(keys)


# --- initial weights ---

CONV, DENSE = (5, 5, 24, 120), (300, 200)
FANS = {CONV: (5 * 5 * 24, 5 * 5 * 120), DENSE: (300, 200)}


def theirs(distribution: str, fan_in: int, fan_out: int) -> stats.rv_continuous:
    limit = {
        "uniform": 0.7,
        "glorot_uniform": sqrt(6) / sqrt(fan_in + fan_out),  # Glorot and Bengio 2010, eq. 16
        "lecun_1998": 2.4 / fan_in,  # LeCun et al. 1998, appendix A
    }
    if distribution in limit:
        return stats.uniform(-limit[distribution], 2 * limit[distribution])
    return {
        "normal": stats.norm(0, 0.7),
        "truncated_normal": stats.truncnorm(-2, 2, 0, 0.7),
        "he_normal": stats.norm(0, sqrt(2 / fan_in)),  # He et al. 2015, eq. 10
    }[distribution]


OURS = {
    "uniform": random.uniform(0.7),
    "normal": random.normal(0.7),
    "truncated_normal": random.truncated_normal(0.7),
    "glorot_uniform": random.glorot_uniform,
    "he_normal": random.he_normal,
    "lecun_1998": random.lecun_1998,
}


@pytest.mark.parametrize("shape", [CONV, DENSE])
@pytest.mark.parametrize("distribution", OURS)
def test_weights_follow_their_distribution(distribution: str, shape: tuple[int, ...]) -> None:
    ours, law = OURS[distribution].draw((0, "layer", "kernel"), shape), theirs(distribution, *FANS[shape])
    assert ours.dtype == np.float32
    assert ours.shape == shape
    assert stats.kstest(ours.ravel(), law.cdf).pvalue > FLUKE

    x, n, kurtosis = ours.astype(np.float64), ours.size, 3 + law.stats("k")
    z_mean = x.mean() / law.std() * sqrt(n)
    z_variance = ((x**2).mean() / law.var() - 1) * sqrt(n / (kurtosis - 1))
    assert abs(z_mean) < stats.norm.isf(FLUKE / 2)
    assert abs(z_variance) < stats.norm.isf(FLUKE / 2)

    low, high = law.support()
    assert np.float32(low) <= ours.min()
    assert ours.max() <= np.float32(high)


@pytest.mark.parametrize(
    ("initializer", "value"), [(random.zeros, 0), (random.ones, 1), (random.constant(2.5), 2.5)]
)
def test_constant_weights_are_constant(initializer: Initializer, value: float) -> None:
    assert (initializer.draw((0, "layer", "gamma"), (3, 4)) == np.full((3, 4), value, np.float32)).all()


@pytest.mark.parametrize(
    ("initializer", "shape"),
    [
        *((initializer, CONV) for initializer in OURS.values()),
        *((initializer, (3, 4)) for initializer in (random.zeros, random.constant(2.5))),
        (random.orthogonal, (8, 24)),
        (random.forget_one, (24,)),
        (random.normal(1), ()),
    ],
    ids=str,
)
def test_what_is_drawn_into_memory_is_what_would_be_drawn(
    initializer: Initializer, shape: tuple[int, ...]
) -> None:
    memory = np.full(shape, np.nan, np.float32)
    assert initializer.draw((0, "layer", "kernel"), shape, memory) is memory
    assert np.array_equal(memory, initializer.draw((0, "layer", "kernel"), shape))


@pytest.mark.once
@pytest.mark.parametrize("distribution", [*OURS, "zeros", "constant"])
@pytest.mark.parametrize("shape", [(3, 9, 37, 2001), (201, 603), (201, 80_001)], ids=str)
def test_a_kernel_whose_outputs_come_first_in_memory_is_the_same_draw(
    distribution: str, shape: tuple[int, ...]
) -> None:
    """In many parts, of odd rows and columns."""
    initializer, key = Initializer(distribution), (0, "layer", "kernel")
    memory = np.moveaxis(np.full((shape[-1], *shape[:-1]), np.nan, np.float32), 0, -1)
    assert initializer.draw(key, shape, memory) is memory
    assert np.array_equal(memory, initializer.draw(key, shape))


def test_weights_of_many_parts_are_one_draw() -> None:
    """Theirs: NumPy's own, of the whole array at once."""
    key, shape = (0, "layer", "kernel"), (3, 100_003)
    rng = random.generator(*key)
    theirs = rng.standard_normal(shape, np.float32) * np.float32(0.7)
    assert np.array_equal(random.normal(0.7).draw(key, shape), theirs)
    theirs = (random.generator(*key).random(shape, np.float32) - np.float32(0.5)) * np.float32(1.5)
    assert np.array_equal(random.uniform(0.75).draw(key, shape), theirs)


@pytest.mark.parametrize("initializer", [random.zeros, random.normal(1), random.glorot_uniform])
def test_a_weight_can_be_a_scalar(initializer: Initializer) -> None:
    assert initializer.draw((0, "layer", "scale"), ()).shape == ()


def test_the_same_key_draws_the_same_weights() -> None:
    first, second = (random.glorot_uniform.draw((0, "conv1", "kernel"), CONV) for _ in range(2))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("other", [(1, "conv1", "kernel"), (0, "conv2", "kernel"), (0, "conv1", "bias")])
@pytest.mark.parametrize("distribution", OURS)
def test_another_seed_layer_or_weight_draws_uncorrelated_weights(distribution: str, other: tuple) -> None:
    ours, others = (OURS[distribution].draw(key, CONV).ravel() for key in ((0, "conv1", "kernel"), other))
    assert stats.pearsonr(ours, others).pvalue > FLUKE


def weights(model: keras.Model) -> dict[str, bytes]:
    return {v.path: numpy(v).tobytes() for v in model.variables}


def small(*, deep: bool = False) -> keras.Model:
    image = Input((8, 8, 2))
    x = conv(image, 4, 3, name="conv1")
    if deep:
        x = batch_norm(conv(x, 4, 3, name="conv2"), name="norm2")
    return Model(image, dense(flatten(x), 3, name="head"))


def test_adding_a_layer_changes_no_other_layers_weights() -> None:
    shallow, deep = weights(small()), weights(small(deep=True))
    assert shallow.items() <= deep.items()
    assert len(deep) > len(shallow)


def test_weights_do_not_depend_on_the_order_layers_are_built_in() -> None:
    def built(names: list[str]) -> dict[str, bytes]:
        inputs = Input((6,))
        outputs = {name: dense(inputs, 5, name=name) for name in names}
        return weights(Model(inputs, [outputs[name] for name in sorted(names)]))

    assert built(["a", "b", "c"]) == built(["c", "a", "b"])


def test_a_layers_weights_are_the_draw_of_its_seed_and_name() -> None:
    with random.seeded(5):
        model = small()
    for layer, shape in {"conv1": (3, 3, 2, 4), "head": (256, 3)}.items():
        ours = numpy(model.get_layer(layer).kernel)
        assert np.array_equal(ours, random.glorot_uniform.draw((5, layer, "kernel"), shape))


def test_a_seed_ends_with_its_block_even_after_an_error() -> None:
    with pytest.raises(KeyError), random.seeded(3):
        raise KeyError
    assert random.current_seed() == 0
