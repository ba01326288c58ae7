# %% [markdown]
# # 3 The multilayer perceptron, four times
#
# **What you will see.** A network that reads handwritten digits, and one training loop written four times: in PyTorch,
# JAX, TensorFlow and Keras. From the same weights and batches they draw one curve, not four. Then a better loss: why
# cross-entropy learns from confident mistakes where the squared error shrugs.

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # told apart by the colour-blind

# %% [markdown]
# ## Digits, and a hidden layer
#
# 1,797 digits of 8 x 8 pixels, each a row of 64 numbers; its label is the digit, 0 to 9. Every fifth is held out: the
# network never learns from those.
#
# A multilayer perceptron puts a hidden layer of neurons between input and output, each neuron connected with all before
# it. Ours has 32, with the ReLU of chapter 1, and ten outputs, one a digit: the largest is the answer.

# %%
digits = load_digits()
pixels = (digits.data / 16).astype("float32")
held_out = np.arange(len(pixels)) % 5 == 0
x, labels = pixels[~held_out], digits.target[~held_out]
x_test, labels_test = pixels[held_out], digits.target[held_out]
targets = np.eye(10, dtype="float32")[labels]  # one-hot: 1 at the label, 0 elsewhere

figure, axes = plt.subplots(1, 8, figsize=(10, 1.6))
for axis, image, label in zip(axes, digits.images, digits.target, strict=False):
    axis.imshow(image, cmap="gray_r")
    axis.set_title(label)
    axis.axis("off")
plt.show()
print(len(x), "to learn from,", len(x_test), "held out")

# %% [markdown]
# ## One plan for all
#
# The same initial weights, the same batches of 64 examples in the same order, the same loss, the mean squared error of
# the ten outputs, and the same optimizer, Adam (chapter 8 opens it). An epoch is one pass over all examples; we make ten.

# %%
rng = np.random.default_rng(0)
initial = [
    rng.normal(0, np.sqrt(2 / 64), (64, 32)).astype("float32"),
    np.zeros(32, "float32"),
    rng.normal(0, np.sqrt(1 / 32), (32, 10)).astype("float32"),
    np.zeros(10, "float32"),
]
EPOCHS, BATCH, RATE = 10, 64, 3e-3
batches = [rows for _ in range(EPOCHS) for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH)]
print(len(batches), "steps")

# %% [markdown]
# ## PyTorch
#
# Tensors remember what was done to them; `backward` walks back and leaves each gradient on its weight.


# %%
def train_torch():
    import torch

    w1, b1, w2, b2 = weights = [torch.tensor(w, requires_grad=True) for w in initial]
    adam = torch.optim.Adam(weights, lr=RATE)
    losses = []
    for rows in batches:
        y = torch.relu(torch.tensor(x[rows]) @ w1 + b1) @ w2 + b2
        loss = ((y - torch.tensor(targets[rows])) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# ## JAX
#
# Nothing changes in place: a pure function takes weights and the optimizer's state and returns new ones. `jit` compiles
# it the first time.


# %%
def train_jax():
    import jax
    import jax.numpy as jnp
    import optax

    def loss(weights, x, t):
        w1, b1, w2, b2 = weights
        y = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        return jnp.mean((y - t) ** 2)

    adam = optax.adam(RATE)

    @jax.jit
    def step(weights, state, x, t):
        value, gradients = jax.value_and_grad(loss)(weights, x, t)
        updates, state = adam.update(gradients, state)
        return optax.apply_updates(weights, updates), state, value

    weights, losses = [jnp.array(w) for w in initial], []
    state = adam.init(weights)
    for rows in batches:
        weights, state, value = step(weights, state, x[rows], targets[rows])
        losses.append(float(value))
    return losses


# %% [markdown]
# ## TensorFlow
#
# A tape records the forward pass, and `tf.function` compiles the step. TensorFlow leaves optimizers to Keras; without
# it, Adam is five lines.


# %%
def train_tensorflow():
    import tensorflow as tf

    weights = [tf.Variable(w) for w in initial]
    means, squares = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
    count = tf.Variable(0.0)

    @tf.function(reduce_retracing=True, autograph=False)
    def step(x, t):
        w1, b1, w2, b2 = weights
        with tf.GradientTape() as tape:
            y = tf.nn.relu(x @ w1 + b1) @ w2 + b2
            loss = tf.reduce_mean((y - t) ** 2)
        count.assign_add(1)
        for w, g, m, v in zip(weights, tape.gradient(loss, weights), means, squares, strict=True):
            m.assign(0.9 * m + 0.1 * g)
            v.assign(0.999 * v + 0.001 * g**2)
            root = tf.sqrt(v / (1 - 0.999**count)) + 1e-8
            w.assign_sub(RATE * m / (1 - 0.9**count) / root)
        return loss

    return [float(step(x[rows], targets[rows])) for rows in batches]


# %% [markdown]
# ## Keras
#
# The loop is `fit`, on whichever of the three runs. Optimizer and loss are named; the rest is Keras's. (The Adam is the
# zoo's: Keras's own puts its epsilon elsewhere, see chapter 12.)


# %%
def keras_model():
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, name="logits")]
    )
    model.set_weights(initial)
    return model


def train_keras(loss="mse", targets=targets):
    model, losses = keras_model(), []
    model.compile(zoo.optimizers.Adam(RATE), loss)
    for rows in batches:
        losses.append(float(model.train_on_batch(x[rows], targets[rows])))
    return losses, model


LOOPS = {"torch": train_torch, "jax": train_jax, "tensorflow": train_tensorflow}
curves = {name: loop() for name, loop in LOOPS.items() if find_spec(name)}
curves[f"Keras on {keras.backend.backend()}"], by_mse = train_keras()

STYLES = ((BLUE, "-", 5), (ORANGE, "--", 3.5), (GREEN, ":", 2.5), (PURPLE, "-", 0.8))
for (name, losses), (color, style, width) in zip(curves.items(), STYLES, strict=False):
    plt.semilogy(losses, color=color, linestyle=style, linewidth=width, label=name)
plt.xlabel("step")
plt.ylabel("mean squared error of a batch")
plt.title("One curve, drawn by every loop")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
first = next(iter(curves.values()))
for name, losses in curves.items():
    difference = np.abs(np.subtract(losses, first)).max()
    print(f"{name:20s} last loss {losses[-1]:.7f}, at most {difference:.0e} from the first loop at any step")
    assert difference < 1e-5

# %% [markdown]
# Each framework multiplies and adds in an order of its own, so the last of a float's seven digits may differ; nothing
# else does. Who claims that two frameworks "train alike" can be asked for this number.
#
# ## A better loss
#
# The squared error treats the ten outputs as numbers to hit. But they are scores, and the question is which is right.
# Softmax turns scores, called logits, into probabilities, and cross-entropy is minus the log of the probability that the
# right label got:
#
# $$p_i = \frac{e^{y_i}}{\sum_j e^{y_j}}, \qquad L = -\log p_{\text{label}}, \qquad \frac{\partial L}{\partial y_i} = p_i - t_i$$
#
# The derivative is as simple as can be: probability less target. Compare a neuron that is sure and wrong. Behind a
# sigmoid, the squared error has the factor $p (1 - p)$, which is nearly zero just there; cross-entropy has none.

# %%
logit = np.linspace(-6, 6, 241)
p = 1 / (1 + np.exp(-logit))
plt.plot(logit, -2 * (1 - p) * p * (1 - p), color=BLUE, label="squared error behind a sigmoid")
plt.plot(logit, p - 1, color=ORANGE, linestyle="--", label="cross-entropy")
plt.xlabel("logit, when the target is 1")
plt.ylabel("derivative of the loss by the logit")
plt.title("At -6 the neuron is sure and wrong")
plt.legend()
plt.grid(alpha=0.3)
plt.show()

by_cross_entropy = train_keras(keras.losses.SparseCategoricalCrossentropy(from_logits=True), labels)[1]


def accuracy(model):
    return np.mean(model.predict(x_test, verbose=0).argmax(1) == labels_test)


print(f"after the same {len(batches)} steps: {accuracy(by_mse):.1%} of the held-out digits by squared error,")
print(f"{accuracy(by_cross_entropy):.1%} by cross-entropy")
assert accuracy(by_mse) > 0.8
assert accuracy(by_cross_entropy) > 0.9

# %% [markdown]
# ## The zoo's
#
# `zoo.build("mlp")` is the network of the textbooks, 784-256-128-10, and `zoo.train` its loop: on torch a loop like the
# one above, on JAX and TensorFlow the compiled step. The losses are the same on each, and the same by Keras's `fit`.
# (We look at the first twenty steps. After some sixty, a ReLU that stands exactly on its corner can tip one way or the
# other by the last digit of a weight, and two runs part by 2e-3: one framework from itself as well. Chapter 12 measures
# that.)

# %%
run = zoo.train("mlp", epochs=4)
fit = zoo.train("mlp", steps=20, engine="keras")
difference = np.abs(np.subtract(run.losses[:20], fit.losses)).max()
print(run)
print(f"by the framework's loop and by fit: {difference:.0e} apart over twenty steps")
assert run.metrics["accuracy"] > 0.9
assert difference < 1e-5

# %% [markdown]
# ## Exercises
#
# **1.** How many parameters has `zoo.build("mlp")`? Count by hand: weights and biases of 784-256-128-10.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
count = 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
print(count)
assert count == zoo.card("mlp").parameters == 235_146

# %% [markdown]
# **2.** Before any training, what should the cross-entropy of ten classes be, if the network knows nothing? It is the
# first number to look at in a new training: a larger one means that the initial weights are sure of nonsense.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# All ten probabilities 1/10: -log(1/10) = log 10 = 2.303.
print(np.log(10), run.losses[0])
assert abs(run.losses[0] - np.log(10)) < 0.3

# %% [markdown]
# **3.** Take the ReLU out of the Keras model. What is the network then, and does it still read digits?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# (x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2): one layer, a linear model. It reads digits, less well.
linear = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32), keras.layers.Dense(10)])
linear.set_weights(initial)
w1, b1, w2, b2 = initial
assert np.allclose(linear.predict(x_test, verbose=0), x_test @ (w1 @ w2) + b1 @ w2 + b2, atol=1e-5)
linear.compile(zoo.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
for rows in batches:
    linear.train_on_batch(x[rows], labels[rows])
print(f"{accuracy(linear):.1%}")
assert accuracy(linear) > 0.8

# %% [markdown]
# ## Go on with
#
# - The next chapter: [convolutions, from LeNet to EfficientNet](04-convolution.ipynb)
# - Michael Nielsen, [Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap3.html), chapter 3:
#   the cross-entropy cost function
# - [Dive into Deep Learning](https://d2l.ai/chapter_multilayer-perceptrons/index.html), chapter 5, with the code in each
#   framework
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/mlp.html), chapter 6
# - Rumelhart, Hinton, Williams 1986, [Learning representations by back-propagating errors](https://doi.org/10.1038/323533a0)
