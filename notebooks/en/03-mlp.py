# %% [markdown]
# # 3 The multilayer perceptron, four times
#
# **What you will see.** A network that classifies handwritten digits, and one training loop written four times: in
# PyTorch, JAX, TensorFlow and Keras. With the same initial weights and batches, their loss curves coincide. Then a
# better loss: why cross-entropy learns from confident mistakes where the squared error barely responds.

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # colour-blind-safe palette

# %% [markdown]
# ## Handwritten digits and a hidden layer
#
# The data set has 1,797 images of 8 x 8 pixels, each stored as a row of 64 numbers; the label is the digit, 0 to 9.
# Every fifth image is held out for testing and not used for training.
#
# A multilayer perceptron has a hidden layer of neurons between input and output; each neuron is connected to all
# neurons of the layer before it. Ours has 32 hidden neurons with the ReLU of chapter 1, and ten outputs, one per digit:
# the largest output is the prediction.

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
print(len(x), "for training,", len(x_test), "held out")

# %% [markdown]
# ## The same setup for all four
#
# The same initial weights, the same batches of 64 examples in the same order, the same loss (the mean squared error of
# the ten outputs) and the same optimizer, Adam (explained in chapter 8). An epoch is one pass over all training
# examples; we train for ten.

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
# Tensors record the operations applied to them; `backward` walks back through the record and stores each gradient on
# its weight.


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
# Nothing is modified in place: a pure function takes the weights and the optimizer state and returns new ones. `jit`
# compiles it at the first call.


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
# A gradient tape (`tf.GradientTape`) records the forward pass, and `tf.function` compiles the step. TensorFlow itself
# has no optimizers; they are part of Keras. Without Keras, Adam takes five lines.


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
# The loop is `fit` (here `train_on_batch`, to fix the batches), on whichever of the three frameworks is active. You
# name the optimizer and the loss; Keras does the rest. (The Adam here is the zoo's: Keras's own applies epsilon in a
# different place, see chapter 12.)


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
plt.title("Loss curves of all loops: they coincide")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
first = next(iter(curves.values()))
for name, losses in curves.items():
    difference = np.abs(np.subtract(losses, first)).max()
    print(f"{name:20s} last loss {losses[-1]:.7f}, at most {difference:.0e} from the first loop at any step")
    assert difference < 1e-5

# %% [markdown]
# Each framework multiplies and adds in its own order, so the last of a float32's seven digits may differ; nothing else
# does. Anyone who claims that two frameworks "train alike" should be able to state this number.
#
# ## A better loss
#
# The squared error treats the ten outputs as values to regress. But they are scores, and the question is which class is
# correct. Softmax turns the scores, called logits, into probabilities, and cross-entropy is the negative logarithm of
# the probability assigned to the correct label:
#
# $$p_i = \frac{e^{y_i}}{\sum_j e^{y_j}}, \qquad L = -\log p_{\text{label}}, \qquad \frac{\partial L}{\partial y_i} = p_i - t_i$$
#
# The derivative is simply the probability minus the target. Consider a neuron that is confident and wrong. With a
# sigmoid before it, the squared error's derivative has the factor $p (1 - p)$, which is nearly zero in exactly this
# case; the derivative of cross-entropy has no such factor.

# %%
logit = np.linspace(-6, 6, 241)
p = 1 / (1 + np.exp(-logit))
plt.plot(logit, -2 * (1 - p) * p * (1 - p), color=BLUE, label="squared error after a sigmoid")
plt.plot(logit, p - 1, color=ORANGE, linestyle="--", label="cross-entropy")
plt.xlabel("logit, when the target is 1")
plt.ylabel("derivative of the loss with respect to the logit")
plt.title("At -6 the neuron is confident and wrong")
plt.legend()
plt.grid(alpha=0.3)
plt.show()

by_cross_entropy = train_keras(keras.losses.SparseCategoricalCrossentropy(from_logits=True), labels)[1]


def accuracy(model):
    return np.mean(model.predict(x_test, verbose=0).argmax(1) == labels_test)


print(
    f"after the same {len(batches)} steps: {accuracy(by_mse):.1%} of the held-out digits correct with squared error,"
)
print(f"{accuracy(by_cross_entropy):.1%} with cross-entropy")
assert accuracy(by_mse) > 0.8
assert accuracy(by_cross_entropy) > 0.9

# %% [markdown]
# ## The zoo's model and training loop
#
# `zoo.build("mlp")` is the textbook network 784-256-128-10, and `zoo.train` trains it: on torch with a loop like the
# one above, on JAX and TensorFlow with a compiled step. The losses are the same on each framework, and the same with
# Keras's `fit`. (We compare the first twenty steps. After about sixty, a ReLU whose input is almost exactly zero can
# switch on or off because of the last digit of a weight, and two runs diverge by 2e-3. This also happens between two
# runs of one framework; chapter 12 measures it.)

# %%
run = zoo.train("mlp", epochs=4)
fit = zoo.train("mlp", steps=20, engine="keras")
difference = np.abs(np.subtract(run.losses[:20], fit.losses)).max()
print(run)
print(f"the framework's loop and fit differ by {difference:.0e} over twenty steps")
assert run.metrics["accuracy"] > 0.9
assert difference < 1e-5

# %% [markdown]
# ## Exercises
#
# **1.** How many parameters does `zoo.build("mlp")` have? Count by hand: weights and biases of 784-256-128-10.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
count = 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
print(count)
assert count == zoo.card("mlp").parameters == 235_146

# %% [markdown]
# **2.** Before any training, what should the cross-entropy of ten classes be, if the network knows nothing? It is the
# first number to check in a new training run: a larger value means that the initial weights make the network confident
# in wrong answers.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# All ten probabilities 1/10: -log(1/10) = log 10 = 2.303.
print(np.log(10), run.losses[0])
assert abs(run.losses[0] - np.log(10)) < 0.3

# %% [markdown]
# **3.** Remove the ReLU from the Keras model. What kind of model is it then, and does it still classify digits?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# (x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2): one layer, a linear model. It classifies digits, less well.
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
# ## Further reading
#
# - The next chapter: [convolutions, from LeNet to EfficientNet](04-convolution.ipynb)
# - Michael Nielsen, [Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap3.html), chapter 3:
#   the cross-entropy cost function
# - [Dive into Deep Learning](https://d2l.ai/chapter_multilayer-perceptrons/index.html), chapter 5, with the code in each
#   framework
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/mlp.html), chapter 6
# - Rumelhart, Hinton, Williams 1986, [Learning representations by back-propagating errors](https://doi.org/10.1038/323533a0)
