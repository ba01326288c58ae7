# %% [markdown]
# # 1 A neuron and its activations
#
# **What you will see.** One artificial neuron separates the plane with a straight line. The activation function after
# the weighted sum determines the neuron's output and, through its derivative, how much the neuron can learn. You will
# plot five activation functions with their derivatives, train a neuron, and watch gradients vanish in a deep stack of
# sigmoids.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette

# %% [markdown]
# ## A weighted sum, then a nonlinearity
#
# A neuron multiplies each input by a weight, adds a bias, and applies an activation function $f$ to the sum:
#
# $$y = f(w_1 x_1 + w_2 x_2 + b)$$
#
# The points where the sum is zero form a straight line; the sum is positive on one side and negative on the other. Here
# are three examples with two inputs each and one neuron, computed by hand and with a Keras layer.

# %%
x = np.array([[1.0, 2.0], [0.0, 0.0], [-1.0, 3.0]], "float32")  # three examples, two inputs each
w, b = np.array([[2.0], [-1.0]], "float32"), np.array([0.5], "float32")

by_hand = x @ w + b
layer = keras.layers.Dense(1)
layer.build((None, 2))
layer.set_weights([w, b])
by_keras = keras.ops.convert_to_numpy(layer(x))
print("by hand ", by_hand.ravel())
print("by Keras", by_keras.ravel(), "on", keras.backend.backend())
assert np.array_equal(by_hand, by_keras)

# %% [markdown]
# ## Five activation functions
#
# Without a nonlinearity, a stack of layers is equivalent to a single layer: a sum of sums is a sum. These are common
# activation functions, from the smooth step of the first networks to the GELU of the Transformers:
#
# | name | $f(x)$ | largest derivative |
# | --- | --- | --- |
# | sigmoid | $1 / (1 + e^{-x})$ | 1/4, at 0 |
# | tanh | $(e^x - e^{-x}) / (e^x + e^{-x})$ | 1, at 0 |
# | ReLU | $\max(0, x)$ | 1, wherever $x > 0$ |
# | leaky ReLU | $\max(0.01 x, x)$ | 1, wherever $x > 0$ |
# | GELU | $x \, \Phi(x)$, $\Phi$ the normal distribution | 1.13, at $\sqrt 2$ |
#
# The derivatives are not written out below: each framework's automatic differentiation computes them.

# %%
ACTIVATIONS = {
    "sigmoid": keras.ops.sigmoid,
    "tanh": keras.ops.tanh,
    "ReLU": keras.ops.relu,
    "leaky ReLU": lambda x: keras.ops.leaky_relu(x, negative_slope=0.01),
    "GELU": lambda x: keras.ops.gelu(x, approximate=False),
}


def derivative(f, x):
    """f'(x) at each x, by the automatic differentiation of the current framework."""
    x = keras.ops.convert_to_tensor(x)
    if keras.backend.backend() == "torch":
        import torch

        x = x.requires_grad_()
        (slope,) = torch.autograd.grad(f(x).sum(), x)
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(x)
            y = f(x)
        slope = tape.gradient(y, x)
    else:
        import jax

        slope = jax.grad(lambda x: f(x).sum())(x)
    return keras.ops.convert_to_numpy(slope)


# %%
grid = np.linspace(-4, 4, 401, dtype="float32")
figure, axes = plt.subplots(1, 5, figsize=(15, 3), sharey=True)
for axis, (name, f) in zip(axes, ACTIVATIONS.items(), strict=True):
    axis.plot(grid, keras.ops.convert_to_numpy(f(grid)), color=BLUE, label="f(x)")
    axis.plot(grid, derivative(f, grid), color=ORANGE, linestyle="--", label="f'(x)")
    axis.set(title=name, xlabel="input x", ylim=(-1.2, 2.2))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("value")
axes[0].legend()
plt.show()

# %% [markdown]
# Is the framework's derivative right? A finite difference, $(f(x+h) - f(x-h)) / 2h$, is an independent check. In
# float32 it is accurate to about three digits. At the corner of ReLU it is meaningless, so we leave that point out.

# %%
away = grid[np.abs(grid) > 0.05].astype("float64")
for name, f in ACTIVATIONS.items():
    up, down = (keras.ops.convert_to_numpy(f((away + h).astype("float32"))) for h in (0.01, -0.01))
    difference = np.abs((up - down) / 0.02 - derivative(f, away.astype("float32"))).max()
    print(f"{name:10s} differs from the finite difference by at most {difference:.0e}")
    assert difference < 1e-3

# %% [markdown]
# ## One neuron learns
#
# Two clusters of points, one neuron with a sigmoid, and gradient descent: compare the output with the target, and move
# the weights a little in the direction that reduces the error. For the cross-entropy loss the gradient is short enough
# to write down: $\frac{\partial L}{\partial w} = \frac{1}{n}\sum (y - t)\, x$ where $t$ is the target, 0 or 1.

# %%
rng = np.random.default_rng(0)
points = np.concatenate([rng.normal((-1, -1), 0.8, (100, 2)), rng.normal((1, 1), 0.8, (100, 2))])
targets = np.repeat([0.0, 1.0], 100)

weights, bias, losses = np.zeros(2), 0.0, []
for _ in range(200):
    y = 1 / (1 + np.exp(-(points @ weights + bias)))
    losses.append(-np.mean(targets * np.log(y) + (1 - targets) * np.log(1 - y)))
    weights -= 0.5 * (y - targets) @ points / len(points)
    bias -= 0.5 * np.mean(y - targets)
accuracy = np.mean((y > 0.5) == targets)
print(f"loss {losses[0]:.3f} -> {losses[-1]:.3f}, {accuracy:.0%} of the points classified correctly")
assert accuracy > 0.9

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
left.scatter(*points[:100].T, color=BLUE, marker="o", label="class 0")
left.scatter(*points[100:].T, color=ORANGE, marker="^", label="class 1")
line = np.array([-3.0, 3.0])
left.plot(line, -(weights[0] * line + bias) / weights[1], color="black", label="where the output is 1/2")
left.set(xlabel="input x1", ylabel="input x2", ylim=(-3.5, 3.5), title="decision boundary")
left.legend()
right.plot(losses, color=GREEN)
right.set(xlabel="step", ylabel="cross-entropy (nats)", title="training loss")
right.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## Why the sigmoid was replaced: vanishing gradients
#
# In the backward pass, a gradient is multiplied by one derivative after another. A sigmoid's derivative is at most 1/4,
# so after ten layers at most $4^{-10}$, about a millionth, is left: the gradient vanishes. Here a signal passes through
# twenty layers of fifty neurons each, with an initialization of the weights that keeps the scale of the sums. We plot
# how much of the gradient reaches each layer.

# %%
depth, width = 20, 50


def gradient_sizes(name, gain):
    """The root mean square of the gradient at the input of each layer, from the first to the last."""
    rng, f = np.random.default_rng(1), ACTIVATIONS[name]
    matrices = [rng.normal(0, gain / np.sqrt(width), (width, width)) for _ in range(depth)]
    x, sums = rng.normal(size=(64, width)), []
    for matrix in matrices:
        sums.append(x @ matrix)
        x = keras.ops.convert_to_numpy(f(sums[-1].astype("float32")))
    gradient, sizes = np.ones_like(x), []
    for matrix, total in zip(matrices[::-1], sums[::-1], strict=True):
        gradient = (gradient * derivative(f, total.astype("float32"))) @ matrix.T
        sizes.append(np.sqrt(np.mean(gradient**2)))
    return sizes[::-1]


sizes = {"sigmoid": gradient_sizes("sigmoid", 1.0), "ReLU": gradient_sizes("ReLU", np.sqrt(2))}
for (name, size), color, marker in zip(sizes.items(), (RED, BLUE), "os", strict=True):
    plt.semilogy(range(1, depth + 1), size, color=color, marker=marker, label=name)
plt.xlabel("layer, counted from the input")
plt.ylabel("gradient (root mean square)")
plt.grid(alpha=0.3)
plt.legend()
plt.show()
print(
    f"gradient of the first layer relative to the last: {sizes['sigmoid'][0] / sizes['sigmoid'][-1]:.0e} with sigmoid,"
)
print(f"and {sizes['ReLU'][0] / sizes['ReLU'][-1]:.1f} with ReLU and He's initialization")

# %% [markdown]
# ## Exercises
#
# **1.** A neuron with a step activation computes AND of two inputs in {0, 1} with weights (1, 1) and bias -1.5. Find
# weights and a bias for OR, and for NAND. (There are none for XOR, which no straight line separates. The two layers of
# chapter 3 can compute it.)

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
gates = {"OR": ((1, 1), -0.5, [0, 1, 1, 1]), "NAND": ((-1, -1), 1.5, [1, 1, 1, 0])}
for gate, (pair, offset, wanted) in gates.items():
    output = (corners @ np.array(pair) + offset > 0).astype(int)
    print(gate, output)
    assert output.tolist() == wanted

# %% [markdown]
# **2.** Show with pencil and paper that the sigmoid's derivative is $f(x)(1 - f(x))$, and check with a line of NumPy
# that the framework agrees.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# f = 1 / (1 + e^-x), so f' = e^-x / (1 + e^-x)^2 = f * e^-x / (1 + e^-x) = f * (1 - f)
f = 1 / (1 + np.exp(-grid.astype("float64")))
largest = np.abs(derivative(keras.ops.sigmoid, grid) - f * (1 - f)).max()
print(f"largest difference {largest:.0e}")
assert largest < 1e-6

# %% [markdown]
# **3.** Where is GELU's derivative largest, and how large is it? The table says 1.13 at $\sqrt 2$. Check this.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
fine = np.linspace(0, 4, 4001, dtype="float32")
slope = derivative(ACTIVATIONS["GELU"], fine)
print(f"largest derivative {slope.max():.3f} at {fine[slope.argmax()]:.2f}")
assert abs(fine[slope.argmax()] - np.sqrt(2)) < 0.02
assert abs(slope.max() - 1.129) < 1e-3

# %% [markdown]
# ## Further reading
#
# - The next chapter: [forward and backward, by hand](02-backward.ipynb)
# - Michael Nielsen, [Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap1.html),
#   chapter 1: perceptrons and sigmoid neurons
# - [Dive into Deep Learning](https://d2l.ai/chapter_multilayer-perceptrons/mlp.html), section 5.1: activation functions
# - Andrew Ng, [Neural Networks and Deep Learning](https://www.coursera.org/learn/neural-networks-deep-learning): a
#   course that starts from one neuron
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/mlp.html), section 6.3
# - Hendrycks, Gimpel 2016, [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415); He et al. 2015,
#   [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852)
