# %% [markdown]
# # 9 Regularization
#
# **What you will see.** A network that memorizes 200 digits, including the wrongly labelled ones, and gets worse on all
# others: overfitting. Then what reduces it: dropout, whose mask you will plot and reproduce bit by bit; penalties on
# the weights; weight decay. In between, batch normalization and layer normalization, computed by hand, which make
# training easier but do not reduce overfitting here.

# %%
import os
import zlib

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Overfitting
#
# The training set is 200 of scikit-learn's digits, 50 of them with a wrong label, as in carelessly labelled data. The
# labels of the 320 held-out digits are correct. The network has two layers of 256 neurons: 85 thousand weights for 200
# examples. `net` has arguments for everything that the rest of the chapter tries.

# %%
digits, rng = zoo.tasks.load("digits", (8, 8, 1)), np.random.default_rng(0)
x, y = digits.train[0][:200], digits.train[1][:200].copy()
y[:50] = (y[:50] + rng.integers(1, 10, 50)) % 10  # any class but the right one
held_out = digits.test[0][:320], digits.test[1][:320]


def net(dropout=0.0, norm=None, penalty=None):
    with zoo.random.seeded(0):
        image = layers.Input((8, 8, 1))
        h = layers.flatten(image)
        for i in (1, 2):
            h = layers.dense(h, 256, regularizer=penalty, name=f"hidden{i}")
            h = norm(h, name=f"norm{i}") if norm else h
            h = layers.dropout(layers.relu(h), dropout, name=f"dropout{i}")
        return layers.Model(image, layers.dense(h, 10, name="head"))


def fit(model, optimizer=None):
    optimizer = optimizer or zoo.optimizers.Adam(0.002)
    run = zoo.train(model, (x, y), validation=held_out, optimizer=optimizer, batch_size=40, epochs=40)
    return run, [epoch["loss"] for epoch in run.history]


plain, plain_loss = fit(net())
accuracy = [epoch["accuracy"] for epoch in plain.history]
print(f"training loss: {np.mean(plain.losses[-5:]):.2f} at the end")
print(f"loss on held-out digits: {min(plain_loss):.2f} at best, {plain_loss[-1]:.2f} at the end")
print(f"accuracy on held-out digits: {max(accuracy):.2f} at best, {accuracy[-1]:.2f} at the end")
assert np.mean(plain.losses[-5:]) < 0.1
assert plain_loss[-1] > 1.5 * min(plain_loss)
assert accuracy[-1] < max(accuracy)

# %%
plt.plot(range(1, 41), np.reshape(plain.losses, (40, 5)).mean(axis=1), color=BLUE, label="training")
plt.plot(range(1, 41), plain_loss, color=RED, linestyle="--", label="held out")
plt.xlabel("epoch")
plt.ylabel("cross-entropy (nats)")
plt.title("overfitting")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# The curves diverge after a few epochs. From there on the network memorizes the wrong labels. The oldest form of
# regularization is to stop at the lowest held-out loss (early stopping): `zoo.train(...,
# early_stopping=zoo.EarlyStopping(patience=5))`.
#
# ## Dropout
#
# In training each neuron's output is set to zero with probability $p$, independently at every step, so that no neuron
# can rely on a particular other one. The remaining outputs are multiplied by $1 / (1 - p)$, which preserves the
# expected value,
#
# $$p \cdot 0 + (1 - p) \cdot \frac{x}{1 - p} = x$$
#
# so that at inference, without dropout, nothing has to be changed. Frameworks draw their masks with their own
# generators, which never agree. The zoo computes its mask in integers from (seed, layer name, step, position), so it is
# identical to the last bit on PyTorch, TensorFlow and JAX: the number below is the same wherever you run this.

# %%
with zoo.random.seeded(0):
    vector = layers.Input((50,))
    dropper = layers.Model(vector, layers.dropout(vector, 0.4, name="mask"))
ones = np.ones((20, 50), "float32")
masks = np.array([numpy(dropper(ones, training=True)) for _ in range(100)])  # one per step

figure, axes = plt.subplots(1, 3, figsize=(12, 2.2), layout="constrained")
for step, axis in enumerate(axes):
    axis.imshow(masks[step], cmap="Greys")
    axis.set_title(f"step {step}: black is 1.67, white is 0")
    axis.axis("off")
plt.show()
fingerprint = zlib.crc32(np.packbits(masks > 0).tobytes())
print(f"fingerprint of 100 masks: {fingerprint:08x}")
print(
    f"mean of all: {masks.mean():.4f}; at inference the output equals the input:",
    np.array_equal(dropper(ones), ones),
)
assert abs(masks.mean() - 1) < 0.01
assert np.array_equal(numpy(dropper(ones)), ones)

# %% [markdown]
# How can every framework draw the same mask? Position $i$ at step $s$ gets `mix(mix(i xor key) + s)`, where `mix` is a
# 32-bit hash of shifts and multiplications; the value is kept if the upper 24 bits are at least $p \cdot 2^{24}$. An
# independent implementation in NumPy produces the same masks:

# %%
key = zoo.random.key32(0, "mask", "dropout") % 2**32  # from the seed and the layer's name


def mix(n):
    n = (n ^ n >> 16) * np.uint64(0x7FEB352D) & 0xFFFFFFFF
    n = (n ^ n >> 15) * np.uint64(0x846CA68B) & 0xFFFFFFFF
    return n ^ n >> 16


places = np.arange(ones.size, dtype="uint64")
for step in range(3):
    kept = mix(mix(places ^ key) + step & 0xFFFFFFFF) >> 8 >= round(0.4 * 2**24)
    assert np.array_equal(kept.reshape(ones.shape), masks[step] > 0)
print("the masks are identical")

# %% [markdown]
# ## Batch normalization and layer normalization
#
# Both shift and scale values to mean 0 and variance 1, then apply a learned scale $\gamma$ and shift $\beta$ (initially
# 1 and 0):
#
# $$\hat x = \frac{x - \text{mean}}{\sqrt{\text{variance} + \epsilon}}, \qquad y = \gamma \hat x + \beta$$
#
# They differ in what they average over. *Batch norm* normalizes each feature over all examples of the batch (axis 0);
# *layer norm* normalizes each example over all its features (axis 1). The rows below are examples, the columns
# features; purple is above 0, orange below, and darker means larger.

# %%
rng = np.random.default_rng(1)
table = rng.normal(size=(8, 12)) * rng.uniform(0.3, 2, 12) + rng.normal(0, 2, 12) + rng.normal(0, 1, (8, 1))
table = table.astype("float32")


def normalized(table, axis):
    mean, variance = table.mean(axis, keepdims=True), table.var(axis, keepdims=True)
    return (table - mean) / np.sqrt(variance + 1e-5)


vector = layers.Input((12,))
batch_norm = layers.Model(vector, layers.batch_norm(vector, name="batch_norm"))
layer_norm = layers.Model(vector, layers.layer_norm(vector, name="layer_norm"))
tables = {
    "original": table,
    "batch norm: each column": numpy(batch_norm(table, training=True)),
    "layer norm: each row": numpy(layer_norm(table)),
}
assert np.allclose(tables["batch norm: each column"], normalized(table, axis=0), atol=1e-5)
assert np.allclose(tables["layer norm: each row"], normalized(table, axis=1), atol=1e-5)

figure, axes = plt.subplots(1, 3, figsize=(12, 2.6), layout="constrained")
for axis, (title, each) in zip(axes, tables.items(), strict=True):
    axis.imshow(each, cmap="PuOr", vmin=-4, vmax=4)
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# Layer norm is the same in training and at inference. Batch norm cannot be: at inference a batch may be a single
# example. So it keeps running statistics during training, a tenth of the new batch's value and nine tenths of the old
# one, and uses those afterwards. Two conventions differ here. PyTorch and the zoo divide the running variance by $n -
# 1$, Keras's own layer by $n$; and PyTorch's momentum of 0.1 is the weight of the *new* batch, Keras's 0.99 that of the
# *old* value.

# %%
rng = np.random.default_rng(2)
center, spread = np.linspace(-3, 3, 12), np.linspace(0.5, 2, 12)
batch_norm = layers.Model(vector, layers.batch_norm(vector, name="batch_norm"))
running_mean, running_variance = np.zeros(12), np.ones(12)
for step in range(1, 61):
    batch = rng.normal(center, spread, (16, 12)).astype("float32")
    batch_norm(batch, training=True)
    running_mean = 0.9 * running_mean + 0.1 * batch.mean(axis=0)
    running_variance = 0.9 * running_variance + 0.1 * batch.var(axis=0, ddof=1)
    if step in (1, 10, 60):
        distance = np.abs(running_mean - center).max()
        print(f"after {step:2d} batches the running mean is off by at most {distance:.2f}")

in_use = numpy(batch_norm(batch[:1]))
by_hand = (batch[:1] - running_mean) / np.sqrt(running_variance + 1e-5)
print(f"one example at inference: by hand and by layer differ by {np.abs(in_use - by_hand).max():.0e}")
assert np.allclose(in_use, by_hand, atol=1e-4)
assert distance < 0.6

# %% [markdown]
# ## L1, L2 and weight decay
#
# A penalty in the loss makes large weights costly:
#
# $$\text{L2:}\quad L + \lambda \sum w^2 \qquad\qquad \text{L1:}\quad L + \lambda \sum |w|$$
#
# Their gradients show what they do. L2's is $2 \lambda w$: proportional to the weight, strong for large weights and
# weak for small ones, which therefore never become exactly zero. L1's is $\lambda$ times the sign of $w$: the same for
# all weights, which drives small ones to zero. *Weight decay*, as in AdamW, shrinks every weight by a fraction at each
# step, outside the loss (chapter 8). Here are all of them on the 200 digits, with batch norm for comparison.

# %%
models = {
    "nothing": (None, BLUE, "-"),
    "batch norm": (net(norm=layers.batch_norm), PURPLE, ":"),
    "weight decay": (net(), "black", "--"),
    "L2": (net(penalty=layers.l2(0.02)), ORANGE, "-."),
    "L1": (net(penalty=layers.l1(0.002)), RED, "--"),
    "dropout": (net(dropout=0.6), GREEN, "-"),
}
losses, ends = {"nothing": plain_loss}, {"nothing": accuracy[-1]}
for name, (model, *_) in models.items():
    if model is not None:
        decay = zoo.optimizers.AdamW(0.002, weight_decay=5.0) if name == "weight decay" else None
        run, losses[name] = fit(model, decay)
        ends[name] = run.metrics["accuracy"]
for name, loss in losses.items():
    print(f"{name:12s} held-out loss {loss[-1]:.2f}, accuracy {ends[name]:.2f}")
for name in ("dropout", "L1", "L2", "weight decay"):
    assert losses[name][-1] < 0.8 * plain_loss[-1]
    assert ends[name] > ends["nothing"]
assert losses["batch norm"][-1] > max(losses[name][-1] for name in ("dropout", "L1", "L2", "weight decay"))

# %%
for name, (_, color, style) in models.items():
    plt.plot(range(1, 41), losses[name], color=color, linestyle=style, label=name)
plt.xlabel("epoch")
plt.ylabel("held-out cross-entropy (nats)")
plt.title("held-out loss with each kind of regularization")
plt.ylim(0.5, 2.5)
plt.grid(alpha=0.3)
plt.legend(ncols=2)
plt.show()

# %% [markdown]
# Dropout works best here. With batch norm the network memorizes the wrong labels too, and faster. And how have the
# penalties changed the 65,536 weights of the second layer? L2 makes the distribution narrow; L1 drives most weights to
# zero and leaves a few large ones. The scale is logarithmic.

# %%
kernels = {
    "no penalty": plain.model.get_layer("hidden2").kernel,
    "L2": models["L2"][0].get_layer("hidden2").kernel,
    "L1": models["L1"][0].get_layer("hidden2").kernel,
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True, layout="constrained")
share = {}
for axis, (name, kernel), color in zip(axes, kernels.items(), (BLUE, ORANGE, RED), strict=True):
    weights = numpy(kernel).ravel()
    share[name] = np.mean(np.abs(weights) < 0.001)
    axis.hist(weights, bins=np.linspace(-0.4, 0.4, 81), color=color)
    axis.set(title=f"{name}: {share[name]:.0%} within 0.001 of 0", xlabel="weight", yscale="log")
axes[0].set_ylabel("count")
plt.show()
assert share["L1"] > 0.7
assert share["L1"] > 2 * share["L2"] > 2 * share["no penalty"]
assert np.abs(numpy(kernels["L1"])).max() > 2 * np.abs(numpy(kernels["L2"])).max()

# %% [markdown]
# ## Exercises
#
# **1.** For plain SGD, L2 and weight decay are equivalent: which $\lambda$ gives the same steps as a decay of $d$?
# Check with a few steps from $w = 1$ where the loss itself is flat (gradient 0).

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# The gradient of lambda w^2 is 2 lambda w, and SGD with decay adds d w to the gradient: lambda = d / 2.
penalty, optimizer = layers.l2(0.5 / 2), zoo.optimizers.SGD(0.1, weight_decay=0.5)
decayed, penalized = keras.Variable([1.0]), 1.0
optimizer.build([decayed])
for _ in range(5):
    optimizer.apply([keras.ops.zeros(1)], [decayed])
    up, down = (float(numpy(penalty(keras.ops.array([penalized + h])))) for h in (0.01, -0.01))
    penalized -= 0.1 * (up - down) / 0.02  # the slope of the penalty, by finite differences as in chapter 1
print(f"decay {float(numpy(decayed)[0]):.4f}, L2 {penalized:.4f}, by formula {0.95**5:.4f}")
assert np.allclose([numpy(decayed)[0], penalized], 0.95**5, atol=1e-3)

# %% [markdown]
# **2.** A constant is added to one column (one feature) of `table`. Which of the two norms gives the same output as
# before, and what does that imply for a bias in the layer before batch norm?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Batch norm subtracts the column's mean, and the constant with it: a bias before batch norm has no effect.
shifted = table.copy()
shifted[:, 3] += 5
batch_change = np.abs(numpy(batch_norm(shifted, training=True)) - normalized(table, axis=0)).max()
layer_change = np.abs(numpy(layer_norm(shifted)) - normalized(table, axis=1)).max()
print(f"batch norm changes by {batch_change:.0e}, layer norm by {layer_change:.1f}")
assert batch_change < 1e-4
assert layer_change > 0.5

# %% [markdown]
# **3.** Dropout preserves the expected value but not the variance. What is the variance of a 1 after dropout with rate
# $p$? Compare the formula with the masks above.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# E[y^2] - E[y]^2 = (1 - p) / (1 - p)^2 - 1 = p / (1 - p)
print(f"measured {masks.var():.3f}, by formula {0.4 / 0.6:.3f}")
assert abs(masks.var() - 0.4 / 0.6) < 0.01

# %% [markdown]
# ## Further reading
#
# - The next chapter: [learning-rate schedules](10-schedules.ipynb)
# - [Dive into Deep Learning](https://d2l.ai/chapter_multilayer-perceptrons/dropout.html), section 5.6: dropout; and
#   [section 8.5](https://d2l.ai/chapter_convolutional-modern/batch-norm.html): batch normalization
# - Andrew Ng, [Improving Deep Neural Networks](https://www.coursera.org/learn/deep-neural-network): a course on
#   regularization and optimization
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/regularization.html),
#   chapter 7
# - Srivastava et al. 2014, [Dropout](https://jmlr.org/papers/v15/srivastava14a.html); Ioffe, Szegedy 2015,
#   [Batch Normalization](https://arxiv.org/abs/1502.03167); Ba, Kiros, Hinton 2016,
#   [Layer Normalization](https://arxiv.org/abs/1607.06450)
# - Zhang et al. 2017, [Understanding deep learning requires rethinking
#   generalization](https://arxiv.org/abs/1611.03530): networks that memorize random labels
