# %% [markdown]
# # 12 Frameworks side by side
#
# **What you will see.** Why two frameworks that compute the same thing print different last digits. How far apart they
# may honestly be, and how to find out when they are further: `zoo compare`, the eight rungs of the parity ladder, and the
# chaos that makes one framework differ from itself. Then four traps in which they mean different things by one word.

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Rounding
#
# A floating point number has so many digits and no more: float32 has 24 binary ones, about seven decimal. After every
# addition the result is rounded to the nearest number that there is. So the order of additions matters: $(a + b) + c$
# need not be $a + (b + c)$. A sum of ten thousand numbers, in five hundred random orders, has more than a hundred results.

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
# ## One product, three frameworks
#
# A matrix product is many sums. Each framework cuts them up in its own way, for the processor's registers and caches; none
# is wrong. Against float64 all are off by a few units of the last place.

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
    print(f"{name:10s} off by {off:.0e} of the largest, {same:.0%} of the numbers equal NumPy's bit for bit")
    assert off < 1e-6

# %% [markdown]
# So "the same" cannot mean bit for bit here. It can where no sum is rounded: the zoo's initial weights, batches and
# dropout masks are made of integers and are equal in every bit. The rest is equal to rounding, and *parity* is to say how
# far that goes, with a number.
#
# ## zoo compare
#
# `zoo compare lenet5` on a command line, or here: each framework trains the model in a process of its own, from the same
# seed; then every pair is compared. In a notebook the result shows its page: curves, times, memory, the table of pairs,
# the first layer that differs.

# %%
frameworks = zoo.backends.installed()
result = zoo.compare("mlp", steps=20, engines=["native"], backends=frameworks, threads=1, out=None)
for run in result.runs:
    print(f"{run['backend']:10s} {run['mode']:7s} last loss {run['losses'][-1]:.7f}")
for pair in result.differences:
    print(f"{pair['a']} and {pair['b']}: weights {pair['initial_weights']:.0e}, outputs {pair['outputs']:.0e},"
          f" losses {pair['losses']:.0e}, {pair['predictions']} predictions differ")  # fmt: skip
assert all(run["error"] is None for run in result.runs)
assert all(pair["initial_weights"] == 0 and pair["losses"] < 1e-5 for pair in result.differences)

# %% [markdown]
# ## The ladder
#
# If two trainings differ, where first? `zoo parity` climbs eight rungs; the first on which a pair fails names the
# operation, with both values ([bounds and reasons](../../docs/ladder.md)):
#
# | rung | what is compared | float32 | float64 |
# | --- | --- | --- | --- |
# | 1 | initial weights, batches, masks | bit for bit | bit for bit |
# | 2 | every layer's output | 1e-5 | 1e-12 |
# | 3 | every gradient | 1e-5 | 1e-12 |
# | 4 | updates of every optimizer, schedule | 1e-6 | 1e-12 |
# | 5 | losses of a hundred steps | the chaos floor | 1e-9 |
# | 6 | predictions after training | the same | the same |
# | 7 | Keras's `fit`, and every mode, against the framework's own loop | as 5 | as 5 |
# | 8 | losses after a checkpoint of another framework | as 5 | as 5 |
#
# float64 is the sharp test: what differs in float32 may be rounding, what differs in float64 is another formula.
#
# ## Chaos
#
# Why a floor on rung 5? A training feeds its errors back. We train the MLP, then again with every initial weight moved by
# one unit in the last place, up or down by chance: the smallest change that there is. Framework and batches are the same.

# %%
shape = zoo.train("mlp", "digits", steps=1).model.input_shape[1:]
start = zoo.build("mlp", shape=shape, seed=0)


def trained(nudge):
    """The losses of four epochs, from weights moved by one unit in the last place."""
    model, rng = keras.models.clone_model(start), np.random.default_rng(nudge)
    model.set_weights(start.get_weights())
    for v in model.trainable_variables if nudge else ():
        w = numpy(v)
        v.assign(np.nextafter(w, np.where(rng.random(w.shape) < 0.5, -np.inf, np.inf).astype("float32")))
    return np.array(zoo.train(model, "digits", epochs=4).losses)


plain = trained(0)
for nudge, color, style in ((1, BLUE, "-"), (2, ORANGE, "--"), (3, GREEN, ":")):
    difference = np.maximum(np.abs(trained(nudge) - plain), 1e-9)
    plt.semilogy(
        difference, color=color, linestyle=style, label=f"nudge {nudge}: at most {difference.max():.0e}"
    )
plt.xlabel("step")
plt.ylabel("difference of the losses")
plt.title("One framework, against itself")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert np.abs(trained(0) - plain).max() == 0  # the same bits again, if nothing is moved

# %% [markdown]
# Some runs stay within a few units of the last place; another may fork: a ReLU that stands on its corner for one example
# tips the other way, Adam makes a whole step of it, and from then on it is another training, as good as the first. No
# framework is to blame. So a bound on rung 5 is measured in the same run: two frameworks may differ by a few times what
# one differs from itself. A fixed bound would either lie or fail.
#
# ## Four traps
#
# What rounding cannot explain. In each, both libraries are right by their own definition.

# %%
row = np.arange(1.0, 5.0)  # a convolution of stride 2, kernel (1, 1, 1), over 1 2 3 4
same = np.convolve(np.pad(row, (0, 1)), np.ones(3), "valid")[::2]  # "same": TensorFlow pads the end alone
even = np.convolve(np.pad(row, (1, 1)), np.ones(3), "valid")[::2]  # torch pads both ends
print("1. padding 'same' with a stride:", same, "or", even)
assert not np.array_equal(same, even)

gelu = keras.ops.gelu
exact, tanh = (float(numpy(gelu(keras.ops.convert_to_tensor(2.0), approximate=how))) for how in (False, True))
print(
    f"2. GELU(2), exact {exact:.5f}, by tanh {tanh:.5f}: Keras's two functions of that name have each a default"
)
assert 5e-5 < abs(exact - tanh) < 1e-3

examples = np.array([1.0, 2.0, 4.0])
print(f"3. variance of {examples}: {examples.var():.4f} (Keras's batch norm keeps it), "
      f"or {examples.var(ddof=1):.4f} (torch's)")  # fmt: skip
assert np.isclose(examples.var(ddof=1), 1.5 * examples.var())

small = 1e-6  # a gradient this small, first step of Adam: rate * g / (|g| + epsilon)
print(f"4. epsilon 1e-7 (Keras) or 1e-8 (torch): a step of {small / (small + 1e-7):.3f} or {small / (small + 1e-8):.3f}"
      " learning rates")  # fmt: skip
assert small / (small + 1e-7) < 0.92 < small / (small + 1e-8)

# %% [markdown]
# The zoo's models follow torch in each, on all three frameworks: they pad as torch does, and weights of torchvision train
# on as they would have. [More of them](../../docs/upstream.md), with programs that show it.
#
# ## Exercises
#
# **1.** How far apart are neighbouring float32 numbers near 1, near 1,000 and near a million?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# 23 binary digits behind the first: 2^-23 near 1, and as many times more as the number is larger.
gaps = np.spacing(np.array([1, 1e3, 1e6], "float32"))
print(gaps)
assert gaps[0] == 2.0**-23
assert gaps[2] == 2.0**-4

# %% [markdown]
# **2.** Somebody shows that two frameworks agree within 2e-2 in their outputs. Would that have found the second trap?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# No: wherever one looks, GELU by tanh is this near to the exact one, forty times nearer than that bound:
grid = keras.ops.convert_to_tensor(np.linspace(-6, 6, 2401, dtype="float32"))
worst = np.abs(numpy(gelu(grid, approximate=True)) - numpy(gelu(grid, approximate=False))).max()
print(f"{worst:.0e}")
assert 1e-4 < worst < 2e-2 / 40

# %% [markdown]
# ## Go on with
#
# - The next chapter: [hardware](13-hardware.ipynb)
# - David Goldberg 1991, [What Every Computer Scientist Should Know About Floating-Point
#   Arithmetic](https://docs.oracle.com/cd/E19957-01/806-3568/ncg_goldberg.html)
# - PyTorch, [Reproducibility](https://pytorch.org/docs/stable/notes/randomness.html), and [numerical
#   accuracy](https://pytorch.org/docs/stable/notes/numerical_accuracy.html)
# - Nicholas Higham, [What is floating-point arithmetic?](https://nhigham.com/2020/05/04/what-is-floating-point-arithmetic/)
# - [The ladder and its bounds](../../docs/ladder.md), [upstream](../../docs/upstream.md)
