# %% [markdown]
# # 14 Your own architecture
#
# **What you will see.** Your own architecture in twenty lines: first a function, then a registered model like any other
# in the zoo, with a model card, training and checkpoints. You check it on the parity ladder, then break it on purpose
# to see that the ladder finds the faulty layer.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.layers import Input, Model, batch_norm, conv, dense, gelu, global_average_pool

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE = "#0072B2"

# %% [markdown]
# ## The architecture
#
# A ConvMixer splits the image into patches and then alternates between mixing *positions* and mixing *channels*: a
# depthwise convolution with a large kernel mixes positions within each channel, with a residual connection around it; a
# 1 x 1 convolution mixes the channels (Trockman and Kolter 2022). Ours is a small one for digits.
#
# A model of the zoo is a function that applies layers in the order in which the data passes through them. Comments
# state the shape where it changes. Every layer with weights has a name, which determines its initial weights, so that
# adding a layer later does not change those of the others. The convolutions need no bias, because the batch norm after
# each one adds one.


# %%
def normed_gelu(x, name):
    """Batch normalization, then GELU."""
    return gelu(batch_norm(x, name=f"{name}_norm"))


def mixer(*, width: int = 24, depth: int = 2, image_size: int = 32, channels: int = 1, classes: int = 10):
    """Patches, then blocks that mix positions and channels in turn."""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = conv(image, width, 4, 4, padding=0, use_bias=False, name="patches")  # (b, 8, 8, 24)
    x = normed_gelu(x, "patches")
    for i in range(1, depth + 1):
        space, mix = f"block{i}_space", f"block{i}_mix"
        y = conv(x, width, 5, groups=width, use_bias=False, name=space)  # depthwise
        x = x + normed_gelu(y, space)
        x = normed_gelu(conv(x, width, 1, use_bias=False, name=mix), mix)
    return Model(image, dense(global_average_pool(x), classes, name="head"))  # (b, 10)


model = mixer()
print("in", model.input_shape, "out", model.output_shape)
assert model.output_shape == (None, 10)

# %% [markdown]
# ## Registering the model
#
# `zoo.register` gives it a name and a model card. Count its parameters and multiply-adds yourself, with pencil and
# paper, and let the zoo check them against the model: a wrong count is a mistake in your calculation or in the model,
# and you find it on the first day.
#
# | layer | parameters | multiply-adds |
# | --- | --- | --- |
# | patches: 4 x 4 pixels to 24 channels | $16 \cdot 24$ | $8 \cdot 8 \cdot 16 \cdot 24$ |
# | space, twice: depthwise 5 x 5 | $25 \cdot 24$ | $8 \cdot 8 \cdot 25 \cdot 24$ |
# | mix, twice: 24 channels to 24 | $24 \cdot 24$ | $8 \cdot 8 \cdot 24 \cdot 24$ |
# | batch norm, five times: a scale and a shift | $2 \cdot 24$ | not counted |
# | head: 24 channels to 10 classes | $24 \cdot 10 + 10$ | $24 \cdot 10$ |
#
# Batch norm also keeps a running mean and variance of each channel. They are not updated by gradients, so they are not
# counted as parameters.

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
        "idea": "Mixes positions and channels in turn.",
        "task": "digits",
        "recipe": "lenet5",
    },
)


def parameters(model):
    """The number of trainable parameters."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


card, model = zoo.card("mixer"), zoo.build("mixer", seed=1)
print(f"{card.name}: {card.parameters:,} parameters, {card.multiply_adds:,} multiply-adds. {card.idea}")
assert parameters(model) == card.parameters
assert zoo.layers.signature.multiply_adds(model) == card.multiply_adds

# %% [markdown]
# ## Training
#
# The recipe on the model card determines the task, the optimizer and its learning rate. A checkpoint is saved after
# every epoch.

# %%
run = zoo.train("mixer", epochs=6, checkpoint="mixer.safetensors")
print(f"{len(run.losses)} steps, accuracy {run.metrics['accuracy']:.3f} on held-out digits")
plt.plot(run.losses, color=BLUE)
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("Training loss of your own model")
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.85

# %% [markdown]
# The checkpoint contains the weights by name. Another model can load them, on this framework or another one, and
# training can be resumed from it on either (`resume="mixer.safetensors"`). `zoo.show` visualizes a model's weights and
# activations: these are the depthwise kernels of the first block, one per channel.

# %%
again = zoo.build("mixer", seed=1)
print(zoo.weights.load(again, "mixer.safetensors"))
x = run.task.test[0][:8]
assert np.array_equal(again.predict(x, verbose=0), run.model.predict(x, verbose=0))
zoo.show.filters(again, "block1_space")

# %% [markdown]
# ## Checking numerical parity
#
# `zoo.parity` builds your model on every installed framework, each in its own process, copies the initial weights of
# the first to the others, and compares. Rung 1: the weights, bit for bit. Rung 2: the output of every operation. Rung
# 3: every gradient. (With `targets=` it also trains and climbs the other rungs; chapter 12 explains them.) It takes
# about a dozen seconds, most of it for starting two frameworks. With only one framework installed there is nothing to
# compare, and the next cells print that.

# %%
frameworks = [name for name in ("torch", "jax", "tensorflow") if name in zoo.backends.installed()][:2]
inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype("float32")


def climb(build, rungs):
    """Check these rungs on the first two frameworks; [] if only one is installed."""
    if len(frameworks) < 2:
        print("only one framework installed: nothing to compare")
        return []
    rows = zoo.parity(build, inputs, backends=frameworks, rungs=rungs).rows
    for row in rows:
        print(f"rung {row['rung']} {row['name']:9s} {row['a']}, {row['b']}: {row['measured']:.1e}", end="")
        print(f", bound {row['bound']:.0e}: {row['verdict']}")
    return rows


assert all(row["verdict"] == "holds" for row in climb(mixer, (1, 2, 3)))

# %% [markdown]
# The frameworks add the same products in a different order and so round differently: the differences are about
# $10^{-7}$ of the largest value, roughly one unit in float32's last place.
#
# ## Breaking it on purpose
#
# GELU has two forms: the exact one, with the normal distribution, and an approximation with tanh. Suppose that one
# framework uses the first and another the second, as happens when code is ported. They differ by less than 0.0005:
# training would continue, slightly differently, and nobody would know why. The ladder shows where.


# %%
class Bend(keras.layers.Layer):
    """GELU; on the second framework, its tanh approximation."""

    def call(self, x):
        return keras.ops.gelu(x, approximate=keras.backend.backend() == frameworks[-1])


def broken():
    """A minimal mixer containing a `Bend` layer."""
    image = Input((32, 32, 1))
    x = conv(image, 8, 4, 4, padding=0, name="patches")
    x = Bend(name="bend")(x)
    x = gelu(conv(x, 8, 1, name="mix"))
    return Model(image, dense(global_average_pool(x), 10, name="head"))


rows = climb(broken, (1, 2))
for row in rows[1:]:
    where = row["where"]
    print(f"first difference: {where['layer']}, suspect: {where['suspect']}")
    print(f"at {where['index']} one framework has {where['a']:.6f}, the other {where['b']:.6f}")
    assert row["verdict"] == "fails"
    assert where["suspect"] == "Bend"

# %% [markdown]
# To make it part of the zoo, put the function and its `register` call into `zoo/models/mixer.py`: all tests, tables and
# pages then include it, and nothing else has to be changed ([five steps](../../docs/howto/add-a-model.md)).
#
# ## Exercises
#
# **1.** Take `mixer` with `width=48, depth=3`. How many parameters does it have, by the table above? Check with the
# model.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
w, d = 48, 3
count = 16 * w + d * 25 * w + d * w * w + (1 + 2 * d) * 2 * w + (w * 10 + 10)
print(f"{count:,}")
assert count == parameters(zoo.build("mixer", width=w, depth=d))

# %% [markdown]
# **2.** Add a third block to a mixer of two, with the same seed. Which initial weights change? Check it.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# None: initial weights depend only on the seed and the variable's name.
two, three = zoo.build("mixer", seed=3, depth=2), zoo.build("mixer", seed=3, depth=3)
deeper = {v.path: v for v in three.trainable_variables}
same = [
    np.array_equal(keras.ops.convert_to_numpy(v), keras.ops.convert_to_numpy(deeper[v.path]))
    for v in two.trainable_variables
]
print(sum(same), "of", len(same), "are the same")
assert all(same)

# %% [markdown]
# ## Further reading
#
# - Back to the beginning: [a neuron and its activations](01-neuron.ipynb), with a model of your own in mind
# - [Adding a model](../../docs/howto/add-a-model.md), [the ladder and its bounds](../../docs/ladder.md)
# - Andrej Karpathy, [A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/)
# - Trockman, Kolter 2022, [Patches Are All You Need?](https://arxiv.org/abs/2201.09792); Hendrycks, Gimpel 2016,
#   [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)
# - [Semantic Scholar](https://www.semanticscholar.org/): find the papers that cite a paper you liked
# - [fast.ai](https://course.fast.ai/): practical deep learning for coders
