# %% [markdown]
# # 12 Frameworks side by side
#
# **What you will see.** Why two frameworks that compute the same formula print different last digits, how large such
# differences may legitimately be, and how to find out when they are larger: `zoo compare`, the rungs of the
# parity ladder, and the chaotic divergence that makes one framework differ from itself. Then four traps where the
# frameworks use the same word for different things.

# %%
import os
from importlib.util import find_spec
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers
from zoo.ladder import bounds

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, SKY, ORANGE, RED, PURPLE = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Rounding errors
#
# A floating point number has a fixed number of digits: float32 has 24 binary digits, about seven decimal ones. After
# every addition the result is rounded to the nearest representable number. So the order of additions matters: $(a +
# b) + c$ is not always equal to $a + (b + c)$. Summing ten thousand numbers in five hundred random orders gives more than
# a hundred different results.

# %%
a, b, c = np.float32(1e8), np.float32(-1e8), np.float32(1)
print("(a + b) + c =", (a + b) + c, "   a + (b + c) =", a + (b + c))
assert (a + b) + c == 1
assert a + (b + c) == 0

rng = np.random.default_rng(0)
numbers = rng.normal(size=10_000).astype("float32")
exact = numbers.astype("float64").sum()
sums = [np.cumsum(rng.permutation(numbers), dtype="float32")[-1] - exact for _ in range(500)]
plt.hist(np.array(sums) * 1e5, bins=40, color=BLUE)
plt.xlabel("error of the sum (1e-5)")
plt.ylabel("orders of addition (of 500)")
plt.title("One sum, five hundred orders")
plt.show()
print(len(set(sums)), "different results")
assert len(set(sums)) > 100

# %% [markdown]
# ## One matrix product, three frameworks
#
# A matrix product consists of many sums. Each framework splits them in its own way to suit the processor's registers
# and caches; none is wrong. Compared with float64, each is off by a few units in the last place.

# %%
x, y = rng.normal(size=(2, 300, 300)).astype("float32")
exact = x.astype("float64") @ y.astype("float64")


def by_torch():
    import torch

    return (torch.tensor(x) @ torch.tensor(y)).numpy()


def by_tensorflow():
    import tensorflow as tf

    return tf.linalg.matmul(x, y).numpy()


def by_jax():
    import jax.numpy as jnp

    return np.asarray(jnp.matmul(x, y))


products = {"NumPy": x @ y}
for name, product in {"torch": by_torch, "tensorflow": by_tensorflow, "jax": by_jax}.items():
    if find_spec(name):
        products[name] = product()
for name, product in products.items():
    off = np.abs(product - exact).max() / np.abs(exact).max()
    same = np.mean(product == products["NumPy"])
    print(
        f"{name:10s} off by {off:.0e} of the largest value, {same:.0%} of the numbers equal NumPy's bit for bit"
    )
    assert off < 1e-6

# %% [markdown]
# So "the same" cannot mean bit for bit here. It can where no sums are rounded: the zoo's initial weights, batches and
# dropout masks are computed from integers and are identical in every bit. Everything else agrees up to rounding, and
# *parity* means stating how closely, with a number.
#
# ## zoo compare
#
# Use `zoo compare lenet5` on the command line, or this cell: each framework trains the model in its own process, from
# the same seed; then every pair of frameworks is compared. In a notebook the result is displayed as its report, which
# has these parts:
#
# - **runs**: for each framework and execution mode, the loss curve, the accuracy, the time per step and the memory use;
# - **differences**: for each pair, the largest differences of initial weights, outputs and losses, the number of
#   predictions that differ, and the first layer whose difference exceeds the bound;
# - **definition**: the model's source code, its card and recipe; the machine and the versions.
#
# It takes half a minute, most of it for starting the frameworks.

# %%
frameworks = zoo.backends.installed()
result = zoo.compare("mlp", epochs=3, engines=["native"], backends=frameworks, threads=1, out=None)
for run in result.runs:
    print(
        f"{run['backend']:10s} {run['mode']:6s} {len(run['losses'])} steps, last loss {run['losses'][-1]:.7f}"
    )
for pair in result.differences:
    a, b = (pair[side].split("/")[0] for side in "ab")
    print(f"{a} and {b}: weights {pair['initial_weights']:.0e}, outputs {pair['outputs']:.0e},", end=" ")
    print(f"losses {pair['losses']:.0e}, {pair['predictions']} predictions differ")
assert all(run["error"] is None for run in result.runs)
assert all(pair["initial_weights"] == 0 and pair["losses"] < 1e-5 for pair in result.differences)

# %% [markdown]
# ## The ladder
#
# If two training runs differ, where does the first difference occur? `zoo parity` climbs eleven rungs; the first rung
# on which a pair fails names the operation, with both values ([bounds and reasons](../../docs/ladder.md)). Rungs 9 to 11
# compare batches and padding, accumulation and number formats; these are the first eight:
#
# | rung | what is compared | float32 | float64 |
# | --- | --- | --- | --- |
# | 1 | initial weights, batches, masks | bit for bit | bit for bit |
# | 2 | every operation's output | 1e-5 | 1e-12 |
# | 3 | every gradient | 1e-5 | 1e-12 |
# | 4 | updates of every optimizer along a schedule | 1e-6 | 1e-12 |
# | 5 | losses of a hundred steps | the chaos floor | 1e-9 |
# | 6 | predictions after training | the same | the same |
# | 7 | Keras's `fit`, and every mode, against the framework's own loop | the chaos floor | 1e-9 |
# | 8 | losses after a checkpoint of another framework | the chaos floor | 1e-9 |
#
# float64 is the stricter test: a difference in float32 may be rounding; a difference in float64 means a different
# formula.
#
# ## Chaotic divergence
#
# Why does rung 5 have a measured bound? Training amplifies its own rounding errors. We train the MLP, then train it
# again with every initial weight moved up or down, at random, by one unit in the last place (a 1-ulp perturbation): the
# smallest change possible. Framework and batches are the same. The plot shows it beside the differences between
# frameworks from above.

# %%
assert [rung.float32 for rung in bounds.RUNGS[:8]] == [
    0,
    1e-5,
    1e-5,
    1e-6,
    None,
    0,
    None,
    None,
]  # None: the chaos floor
assert [rung.float64 for rung in bounds.RUNGS[:8]] == [0, 1e-12, 1e-12, 1e-12, 1e-9, 0, 1e-9, 1e-9]


def trained(nudge):
    """The losses of three epochs, from initial weights with a 1-ulp perturbation."""
    model, rng = zoo.build("mlp", seed=0), np.random.default_rng(nudge)
    for v in model.trainable_variables if nudge else ():
        w = numpy(v)
        v.assign(np.nextafter(w, np.where(rng.random(w.shape) < 0.5, -np.inf, np.inf).astype("float32")))
    return np.array(zoo.train(model, "digits", epochs=3, seed=0).losses)


def so_far(a, b):
    """The largest difference up to each step."""
    return np.maximum.accumulate(np.abs(np.subtract(a, b)))


plain, losses = trained(0), {run["backend"]: run["losses"] for run in result.runs}
ours = {f"{keras.backend.backend()}, perturbation {nudge}": so_far(trained(nudge), plain) for nudge in (1, 2)}
theirs = {f"{a} and {b}": so_far(losses[a], losses[b]) for a, b in combinations(losses, 2)}
for curves, colors in ((ours, (BLUE, SKY)), (theirs, (RED, ORANGE, PURPLE))):
    for (name, curve), color, style in zip(curves.items(), colors, ("-", "--", ":"), strict=False):
        plt.plot(curve, color=color, linestyle=style, linewidth=3 if curves is ours else 1.5, label=name)
plt.yscale("symlog", linthresh=1e-8)
plt.ylim(0, 1e-2)
plt.xlabel("step")
plt.ylabel("largest difference of the losses so far")
plt.title("One framework against itself, and against others")
plt.legend(loc="lower right")
plt.grid(alpha=0.3)
plt.show()
again = so_far(plain, losses[keras.backend.backend()])[-1]
print(f"the same framework in its own process, without perturbation: {again:.0e}")
floor = bounds.floor(max(curve[-1] for curve in ours.values()))
print(f"the chaos floor of rung 5: {floor:.1e}")
assert again < 1e-6
assert all(curve[-1] <= floor < 0.1 for curve in theirs.values())

# %% [markdown]
# The frameworks differ from each other no more than one framework differs from itself. Some runs stay within a few
# units in the last place. Others diverge: a ReLU whose input is almost exactly zero for one example switches, Adam
# turns that into a full step, and from then on it is a different training run, as good as the first. Which run diverges
# is chance, and differs between frameworks; no framework is at fault. So the bound of rung 5 is measured in the same
# run, as the *chaos floor*: two frameworks may differ by at most five times the difference that a 1-ulp perturbation
# causes within one framework (at least one unit in the last place of a loss). A fixed bound would be either meaningless
# or violated. `zoo compare` does the same where losses diverge: its report says whether rounding alone explains the
# difference.
#
# ## Four traps
#
# These differences are not rounding. In each case both libraries are right by their own definition.


# %%
def run_alone(layer, x, **settings):
    """One layer of the zoo: its model, and a function that calls it on x."""
    inputs = layers.Input(x.shape[1:])
    model = layers.Model(inputs, layer(inputs, name="it", **settings))
    return model, lambda **how: numpy(model(keras.ops.convert_to_tensor(x), **how))


image = np.zeros((1, 4, 4, 1), "float32")
image[0, 1, :, 0] = [1, 2, 3, 4]
ones = {"stride": 2, "initializer": zoo.random.ones, "use_bias": False}
both, end = (
    run_alone(layers.conv, image, filters=1, size=3, padding=how, **ones)[1]() for how in (1, "same")
)
print(
    f"1. a kernel of ones, stride 2, over 1 2 3 4: padding on both sides, as in torch: {both[0, 0, :, 0]};",
    end=" ",
)
print(f"'same', as in TensorFlow, which pads only the end: {end[0, 0, :, 0]}")
assert both.shape == end.shape
assert not np.array_equal(both, end)

two = keras.ops.convert_to_tensor(np.float32(2))
exact, tanh = (float(keras.ops.gelu(two, approximate=how)) for how in (False, True))
print(
    f"2. GELU(2): exact, the default of torch and TensorFlow, {exact:.5f}; with tanh, the default of JAX, {tanh:.5f}"
)
assert 5e-5 < tanh - exact < 5e-4

faint = np.array([[-0.01], [0.01]], "float32")  # of variance 1e-4
wide, narrow = (run_alone(layers.batch_norm, faint, epsilon=e)[1](training=True)[1, 0] for e in (1e-3, 1e-5))
print(
    f"3. 0.01, batch-normalized with Keras's epsilon of 1e-3: {wide:.2f}; with torch's of 1e-5: {narrow:.2f}"
)
assert wide < 0.5 < 0.9 < narrow

x = np.array([[1.0], [2.0], [4.0]], "float32")
unbiased, call = run_alone(layers.batch_norm, x, momentum=1.0)  # as torch
biased = keras.layers.BatchNormalization(momentum=0.0)
call(training=True), biased(keras.ops.convert_to_tensor(x), training=True)
kept = [float(numpy(layer.non_trainable_variables[-1])[0]) for layer in (biased, unbiased)]
print(f"4. the variance of 1, 2 and 4 that batch norm keeps: {kept[0]:.4f} in Keras, {kept[1]:.4f} in torch")
assert np.allclose(kept, [x.var(), x.var(ddof=1)], atol=1e-5)

# %% [markdown]
# The zoo's models follow torch in all four, on all three frameworks: they pad as torch does, and torchvision's
# pretrained weights can be fine-tuned as in torch. [More such differences](../../docs/upstream.md), with programs that
# demonstrate them.
#
# ## Exercises
#
# **1.** What is the spacing of float32 numbers near 1, near 1,000 and near a million?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# 23 binary digits after the first: 2^-23 near 1, and proportionally more for larger numbers.
gaps = np.spacing(np.array([1, 1e3, 1e6], "float32"))
print(gaps)
assert gaps[0] == 2.0**-23
assert gaps[2] == 2.0**-4

# %% [markdown]
# **2.** Suppose a test shows that the outputs of two frameworks agree within 2e-2. Would it have detected the second
# trap? And the third, where the variance is near 1?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Neither: both differences are at least forty times smaller than that bound.
grid = keras.ops.convert_to_tensor(np.linspace(-6, 6, 2401, dtype="float32"))
by_gelu = np.abs(
    numpy(keras.ops.gelu(grid, approximate=True)) - numpy(keras.ops.gelu(grid, approximate=False))
).max()
by_epsilon = 1 / np.sqrt(1 + 1e-5) - 1 / np.sqrt(1 + 1e-3)  # for a value of 1
print(
    f"GELU with tanh: at most {by_gelu:.0e}; an epsilon of 1e-3 instead of 1e-5: {by_epsilon:.0e} of the value"
)
assert 1e-4 < by_gelu < 2e-2 / 40
assert 1e-4 < by_epsilon < 2e-2 / 40

# %% [markdown]
# ## Further reading
#
# - The next chapter: [hardware](13-hardware.ipynb)
# - David Goldberg 1991, [What Every Computer Scientist Should Know About Floating-Point
#   Arithmetic](https://docs.oracle.com/cd/E19957-01/806-3568/ncg_goldberg.html)
# - PyTorch, [Reproducibility](https://pytorch.org/docs/stable/notes/randomness.html), and [numerical
#   accuracy](https://pytorch.org/docs/stable/notes/numerical_accuracy.html)
# - Nicholas Higham, [What is floating-point arithmetic?](https://nhigham.com/2020/05/04/what-is-floating-point-arithmetic/)
# - [The ladder and its bounds](../../docs/ladder.md), [upstream](../../docs/upstream.md)
