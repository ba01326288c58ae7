# %% [markdown]
# # 14 Your own architecture
#
# **What you will see.** An architecture of your own, in twenty lines: first a function, then a model of the zoo like any
# other, with a card, training and checkpoints. It climbs the parity ladder, and you break it on purpose to see the ladder
# name the place.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.layers import Input, Model, batch_norm, conv, dense, gelu, global_average_pool

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE = "#0072B2"

# %% [markdown]
# ## An idea
#
# A ConvMixer cuts the image into patches and then mixes in turn *where* and *what*: a wide convolution for each channel
# by itself looks across space, with a residual connection around it; a 1 x 1 convolution mixes the channels (Trockman
# and Kolter 2022). Ours is a small one that reads digits.
#
# A model of the zoo is a function that puts layers together in the order in which data meets them. The shape stands
# where it changes. Every layer with weights has a name: the name decides its initial weights, so that a layer added later
# changes no other. The convolutions need no bias: the batch norm behind each adds one.


# %%
def normed_gelu(x, name):
    """Each channel normalized over the batch, then bent."""
    return gelu(batch_norm(x, name=f"{name}_norm"))


def mixer(*, width: int = 24, depth: int = 2, image_size: int = 32, channels: int = 1, classes: int = 10):
    """Patches, then space and channels mixed in turn."""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = conv(image, width, 4, 4, padding=0, use_bias=False, name="patches")  # (b, 8, 8, 24)
    x = normed_gelu(x, "patches")
    for i in range(1, depth + 1):
        space, mix = f"block{i}_space", f"block{i}_mix"
        y = conv(x, width, 5, groups=width, use_bias=False, name=space)  # each channel by itself
        x = x + normed_gelu(y, space)
        x = normed_gelu(conv(x, width, 1, use_bias=False, name=mix), mix)
    return Model(image, dense(global_average_pool(x), classes, name="head"))  # (b, 10)


model = mixer()
print("in", model.input_shape, "out", model.output_shape)
assert model.output_shape == (None, 10)

# %% [markdown]
# ## Into the registry
#
# `zoo.register` gives it a name and a card. Count its parameters and multiply-adds yourself, with pencil and paper, and
# let the model contradict you: a wrong count is an error of yours or of the model's, found on the first day.
#
# | layer | parameters | multiply-adds |
# | --- | --- | --- |
# | patches: 4 x 4 pixels to 24 channels | $16 \cdot 24$ | $8 \cdot 8 \cdot 16 \cdot 24$ |
# | space, twice: 5 x 5 for each channel | $25 \cdot 24$ | $8 \cdot 8 \cdot 25 \cdot 24$ |
# | mix, twice: 24 channels to 24 | $24 \cdot 24$ | $8 \cdot 8 \cdot 24 \cdot 24$ |
# | batch norm, five times: a scale and a shift | $2 \cdot 24$ | not counted |
# | head: 24 channels to 10 classes | $24 \cdot 10 + 10$ | $24 \cdot 10$ |
#
# Batch norm also keeps a running mean and variance of each channel. No gradient changes them, so they are not parameters.

# %%
zoo.register(
    "mixer",
    mixer,
    parameters=16 * 24 + 2 * 25 * 24 + 2 * 24 * 24 + 5 * 2 * 24 + (24 * 10 + 10),
    multiply_adds=8 * 8 * (16 * 24 + 2 * 25 * 24 + 2 * 24 * 24) + 24 * 10,
    small={"width": 8, "depth": 1},
    about={
        "paper": 'Trockman, Kolter 2022, "Patches Are All You Need?"',
        "url": "https://arxiv.org/abs/2201.09792",
        "year": 2022,
        "idea": "Mixes space and channels in turn.",
        "task": "digits",
        "recipe": "lenet5",
    },
)


def parameters(model):
    """How many numbers training changes."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


card, model = zoo.card("mixer"), zoo.build("mixer", seed=1)
print(f"{card.name}: {card.parameters:,} parameters, {card.multiply_adds:,} multiply-adds. {card.idea}")
assert parameters(model) == card.parameters
assert zoo.registry.multiply_adds(model) == card.multiply_adds

# %% [markdown]
# ## Trained like any other
#
# The card's recipe says how: the task, the optimizer, its learning rate. The checkpoint is written after every epoch.

# %%
run = zoo.train("mixer", epochs=6, checkpoint="mixer.safetensors")
print(f"{len(run.losses)} steps, accuracy {run.metrics['accuracy']:.3f} on digits it has not seen")
plt.plot(run.losses, color=BLUE)
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("A model of your own learns digits")
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.85

# %% [markdown]
# The checkpoint holds the weights by name. Another model takes them, on this framework or another one, and training goes
# on from there on either (`resume="mixer.safetensors"`). `zoo.show` looks inside: these are the kernels that look across
# space in the first block, one for each channel.

# %%
again = zoo.build("mixer", seed=1)
print(zoo.weights.load(again, "mixer.safetensors"))
x = run.task.test[0][:8]
assert np.array_equal(again.predict(x, verbose=0), run.model.predict(x, verbose=0))
zoo.show.filters(again, "block1_space")

# %% [markdown]
# ## Up the ladder
#
# `zoo.parity` builds your function on every framework that is installed, each in a process of its own, carries the first
# one's initial weights over to the others, and compares. Rung 1: the weights, bit for bit. Rung 2: what every operation
# gives. Rung 3: every gradient. (`targets=` would let it train, and climb all eight; chapter 12 explains them.) It takes
# a dozen seconds, most of them to start two frameworks. With one framework alone there is nothing to compare, and the
# next cells say so.

# %%
frameworks = [name for name in ("torch", "jax", "tensorflow") if name in zoo.backends.installed()][:2]
inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype("float32")


def climb(build, rungs):
    """These rungs on the first two frameworks; nothing where there is one alone."""
    if len(frameworks) < 2:
        print("one framework alone: nothing to compare")
        return []
    rows = zoo.parity(build, inputs, backends=frameworks, rungs=rungs).rows
    for row in rows:
        print(f"rung {row['rung']} {row['name']:9s} {row['a']}, {row['b']}: {row['measured']:.1e}", end="")
        print(f", at most {row['bound']:.0e} allowed: {row['verdict']}")
    return rows


assert all(row["verdict"] == "holds" for row in climb(mixer, (1, 2, 3)))

# %% [markdown]
# The frameworks add the same products in another order and round otherwise: differences of some $10^{-7}$ of the largest
# number, a unit or so in float32's last place.
#
# ## Break it
#
# GELU has two forms, one with the normal distribution and one with a tanh that comes close to it. Suppose that one
# framework takes the one and the other the other, as happens when code is ported. They differ by less than 0.0005:
# training would go on, a little differently, and nobody would know why. The ladder says where.


# %%
class Bend(keras.layers.Layer):
    """GELU, in its other form on the second framework."""

    def call(self, x):
        return keras.ops.gelu(x, approximate=keras.backend.backend() == frameworks[-1])


def broken():
    """The smallest mixer, with a `Bend` amid it."""
    image = Input((32, 32, 1))
    x = conv(image, 8, 4, 4, padding=0, name="patches")
    x = Bend(name="bend")(x)
    x = gelu(conv(x, 8, 1, name="mix"))
    return Model(image, dense(global_average_pool(x), 10, name="head"))


rows = climb(broken, (1, 2))
for row in rows[1:]:
    where = row["where"]
    print(f"first to differ: {where['layer']}, of the kind {where['suspect']}")
    print(f"at {where['index']} one framework has {where['a']:.6f}, the other {where['b']:.6f}")
    assert row["verdict"] == "fails"
    assert where["suspect"] == "Bend"

# %% [markdown]
# To make it part of the zoo, put the function and its `register` into `zoo/models/mixer.py`: every test, table and page
# then has it, and nothing else is to be changed ([five steps](../../docs/howto/add-a-model.md)).
#
# ## Exercises
#
# **1.** Take `mixer` with `width=48, depth=3`. How many parameters, by the table above? Check with the model.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
w, d = 48, 3
count = 16 * w + d * 25 * w + d * w * w + (1 + 2 * d) * 2 * w + (w * 10 + 10)
print(f"{count:,}")
assert count == parameters(zoo.build("mixer", width=w, depth=d))

# %% [markdown]
# **2.** Add a third block to a mixer of two, with the same seed. Which initial weights change? Check.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# None: initial weights are keyed by the seed and the variable's name, whatever else is built.
two, three = zoo.build("mixer", seed=3, depth=2), zoo.build("mixer", seed=3, depth=3)
deeper = {v.path: v for v in three.trainable_variables}
same = [
    np.array_equal(keras.ops.convert_to_numpy(v), keras.ops.convert_to_numpy(deeper[v.path]))
    for v in two.trainable_variables
]
print(sum(same), "of", len(same), "are the same")
assert all(same)

# %% [markdown]
# ## Go on with
#
# - Back to the beginning: [a neuron and its activations](01-neuron.ipynb), with a model of your own in mind
# - [Adding a model](../../docs/howto/add-a-model.md), [the ladder and its bounds](../../docs/ladder.md)
# - Andrej Karpathy, [A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/)
# - Trockman, Kolter 2022, [Patches Are All You Need?](https://arxiv.org/abs/2201.09792); Hendrycks, Gimpel 2016,
#   [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)
# - [Semantic Scholar](https://www.semanticscholar.org/): who cites the paper that you liked, and what came of it
# - [fast.ai](https://course.fast.ai/): practical deep learning for coders
