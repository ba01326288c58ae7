# %% [markdown]
# # 14 Your own architecture
#
# **What you will see.** An architecture of your own, in twenty lines: first a function, then a model of the zoo like any
# other, with a card, training, checkpoints and exports. It climbs the parity ladder, and you break it on purpose to see
# the ladder name the place.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.layers import Input, Model, batch_norm, conv, dense, gelu, global_average_pool

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE = "#0072B2", "#E69F00"  # told apart by the colour-blind

# %% [markdown]
# ## An idea
#
# A ConvMixer cuts the image into patches and then mixes in turn *where* and *what*: a wide convolution for each channel
# by itself looks across space, with a residual connection around it; a 1 x 1 convolution mixes the channels (Trockman
# and Kolter 2022, arXiv:2201.09792). Ours is the smallest that reads digits.
#
# A model of the zoo is a function that puts layers together in the order in which data meets them. The shape stands
# where it changes. Every layer with weights has a name: the name decides its initial weights, so that a layer added later
# changes no other.


# %%
def mixer(*, width: int = 24, depth: int = 2, image_size: int = 32, channels: int = 1, classes: int = 10):
    """Patches, then space and channels mixed in turn."""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = batch_norm(gelu(conv(image, width, 4, 4, name="patches")), name="patches_norm")  # (b, 8, 8, 24)
    for i in range(1, depth + 1):
        y = conv(x, width, 5, padding=2, groups=width, name=f"block{i}_space")  # a kernel for each channel
        x = x + batch_norm(gelu(y), name=f"block{i}_space_norm")
        x = batch_norm(gelu(conv(x, width, 1, name=f"block{i}_mix")), name=f"block{i}_mix_norm")
    return Model(image, dense(global_average_pool(x), classes, name="head"))  # (b, 10)


model = mixer()
print(model.output_shape, f"{model.count_params():,} numbers")
assert model.output_shape == (None, 10)

# %% [markdown]
# ## Into the registry
#
# `zoo.register` gives it a name and a card. You count its parameters and multiply-adds yourself: the zoo checks them, and
# a wrong count is an error of yours or of the model's, found on the first day.
#
# | layer | parameters | multiply-adds |
# | --- | --- | --- |
# | patches: 4 x 4 pixels to 24 | $16 \cdot 24 + 24$, and $2 \cdot 24$ of the norm | $8 \cdot 8 \cdot 16 \cdot 24$ |
# | space, twice: 5 x 5 for each channel | $25 \cdot 24 + 24$, and 48 | $8 \cdot 8 \cdot 25 \cdot 24$ |
# | mix, twice: 24 to 24 | $24 \cdot 24 + 24$, and 48 | $8 \cdot 8 \cdot 24 \cdot 24$ |
# | head: 24 to 10 | $24 \cdot 10 + 10$ | $24 \cdot 10$ |

# %%
zoo.register(
    "mixer",
    mixer,
    parameters=(16 * 24 + 72) + 2 * (25 * 24 + 72) + 2 * (24 * 24 + 72) + (24 * 10 + 10),
    multiply_adds=64 * (16 * 24 + 2 * 25 * 24 + 2 * 24 * 24) + 24 * 10,
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
card = zoo.card("mixer")
print(f"{card.name}: {card.parameters:,} parameters, {card.multiply_adds:,} multiply-adds. {card.idea}")
trainable = sum(int(np.prod(v.shape)) for v in zoo.build("mixer").trainable_variables)
assert trainable == card.parameters

# %% [markdown]
# ## Trained like any other
#
# The same two ways: the framework's own loop, and Keras's `fit`.

# %%
run = zoo.train("mixer", epochs=6, checkpoint="mixer.safetensors")
fit = zoo.train("mixer", steps=20, engine="keras")
print(run)
plt.semilogy(run.losses, color=BLUE, label="the framework's own loop")
plt.semilogy(fit.losses, color=ORANGE, linestyle="--", linewidth=3, label="Keras's fit, 20 steps")
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("A model of your own learns digits")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.9
assert np.abs(np.subtract(run.losses[:20], fit.losses)).max() < 1e-4

# %% [markdown]
# The checkpoint goes on on any framework, and its weights load by name. `zoo.show` looks inside.

# %%
again = zoo.build("mixer", seed=1)
print(zoo.weights.load(again, "mixer.safetensors"))
x = run.task.test[0][:8]
assert np.array_equal(again.predict(x, verbose=0), run.model.predict(x, verbose=0))
zoo.show.filters(again, "block1_space")

# %% [markdown]
# ## Up the ladder
#
# `zoo.parity` builds your function on every framework that is installed, each in a process of its own, carries the same
# weights over, and compares: every operation's output (rung 2), every gradient (rung 3). With two frameworks there is
# one pair; with one alone there is none, and the next cells only say so.

# %%
frameworks = [name for name in ("torch", "jax", "tensorflow") if name in zoo.backends.installed()][:2]
inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype("float32")


def climb(build):
    """Rungs 1 to 3 on the first two frameworks; nothing where there is one alone."""
    if len(frameworks) < 2:
        print("one framework alone: nothing to compare")
        return []
    result = zoo.parity(build, inputs, backends=frameworks, rungs=(1, 2, 3))
    for row in result.rows:
        print(
            f"rung {row['rung']} {row['name']:9s} {row['a']}, {row['b']}: {row['measured']:.1e} {row['verdict']}"
        )
    return result.rows


assert all(row["verdict"] == "holds" for row in climb(mixer))

# %% [markdown]
# ## Break it
#
# A layer that computes something else on one framework, by a thousandth: the kind of difference that a training hides
# for weeks. Which layer, says the ladder.


# %%
def broken():
    """The mixer, whose features are a thousandth too large on JAX."""
    image = Input((32, 32, 1))
    x = gelu(conv(image, 8, 4, 4, name="patches"))

    class Slip(keras.layers.Layer):
        def call(self, x):
            return x * 1.001 if keras.backend.backend() == "jax" else x

    x = Slip(name="slip")(x)
    x = gelu(conv(x, 8, 1, name="mix"))
    return Model(image, dense(global_average_pool(x), 10, name="head"))


rows = climb(broken)
failed = [row for row in rows if row["verdict"] == "fails"]
if failed:
    where = failed[0]["where"]
    print(
        f"first to differ: {where['layer']}, suspect: {where['suspect']}: {where['a']:.6f} against {where['b']:.6f}"
    )
    assert where["suspect"] == "Slip"
assert bool(failed) == ("jax" in frameworks and len(frameworks) == 2)

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
count = (16 * w + 3 * w) + d * (25 * w + 3 * w) + d * (w * w + 3 * w) + (w * 10 + 10)
wide = zoo.build("mixer", width=48, depth=3)
print(count)
assert count == sum(int(np.prod(v.shape)) for v in wide.trainable_variables)

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
# - [Papers with Code](https://paperswithcode.com/), [Semantic Scholar](https://www.semanticscholar.org/): who cites the
#   paper that you liked, and what came of it
# - [fast.ai](https://course.fast.ai/): practical deep learning for coders
