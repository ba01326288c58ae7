# %% [markdown]
# # 2 Forward and backward, by hand
#
# **What you will see.** A two-layer network in NumPy: the forward pass, then the backward pass with one line for each
# step of the chain rule. The gradient is checked in three ways: with finite differences, and with the automatic
# differentiation of each framework you have installed. They agree to the last digits, and you will see which digits
# those are.

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette

# %% [markdown]
# ## Forward
#
# Four examples with three inputs each, five hidden neurons, two outputs. One example per row. Shapes explain most of
# what happens, so each line of code states the shape of its result:
#
# $$h = x W_1 + b_1, \qquad a = \tanh h, \qquad y = a W_2 + b_2, \qquad L = \frac{1}{8} \sum (y - t)^2$$
#
# $L$ is the mean squared error: the mean over the eight outputs (four examples, two outputs each) of the squared
# difference from the targets $t$.

# %%
rng = np.random.default_rng(0)
x, t = rng.normal(size=(4, 3)), rng.normal(size=(4, 2))
weights = {
    "W1": rng.normal(size=(3, 5)),
    "b1": rng.normal(size=5),
    "W2": rng.normal(size=(5, 2)),
    "b2": rng.normal(size=2),
}


def forward(W1, b1, W2, b2):
    h = x @ W1 + b1  # (4, 5)
    a = np.tanh(h)  # (4, 5)
    y = a @ W2 + b2  # (4, 2)
    loss = np.mean((y - t) ** 2)  # a number
    return h, a, y, loss


*_, loss = forward(**weights)
print(f"loss {loss:.6f}")

# %% [markdown]
# ## Backward
#
# Every training step asks by how much the loss changes when a weight changes. The chain rule answers this for all
# weights in one pass, starting from the loss. Write $\bar z$ for the derivative of the loss with respect to $z$; it has
# the same shape as $z$. Each line of the forward pass has a corresponding line here, in reverse order:
#
# | forward | backward |
# | --- | --- |
# | $L = \frac18 \sum (y - t)^2$ | $\bar y = \frac{2}{8} (y - t)$ |
# | $y = a W_2 + b_2$ | $\bar a = \bar y\, W_2^T$, $\quad \bar W_2 = a^T \bar y$, $\quad \bar b_2 = \sum_{\text{rows}} \bar y$ |
# | $a = \tanh h$ | $\bar h = \bar a \cdot (1 - a^2)$ |
# | $h = x W_1 + b_1$ | $\bar W_1 = x^T \bar h$, $\quad \bar b_1 = \sum_{\text{rows}} \bar h$ |
#
# Where do the transposes come from? $y_{ij} = \sum_k a_{ik} W_{kj}$, so $W_{kj}$ affects example $i$ through $a_{ik}$:
# $\bar W_{kj} = \sum_i a_{ik}\, \bar y_{ij}$, which is $a^T \bar y$. If you forget which side to transpose, look at the
# shapes: only one way fits.


# %%
def backward(W1, b1, W2, b2):
    _, a, y, _ = forward(W1, b1, W2, b2)
    y_ = 2 * (y - t) / y.size  # (4, 2)
    a_ = y_ @ W2.T  # (4, 5)
    h_ = a_ * (1 - a**2)  # (4, 5)
    return {"W1": x.T @ h_, "b1": h_.sum(0), "W2": a.T @ y_, "b2": y_.sum(0)}


ours = backward(**weights)
for name, gradient in ours.items():
    print(f"{name}: gradient of shape {gradient.shape}, the same as the weight's {weights[name].shape}")
    assert gradient.shape == weights[name].shape

# %% [markdown]
# ## First check: finite differences
#
# Increase one weight by $\epsilon$, then decrease it by $\epsilon$, and compare the losses: $(L(w + \epsilon) - L(w -
# \epsilon)) / 2 \epsilon$. This takes two forward passes for each of the 32 weights, where the backward pass needs one
# pass for all of them, so nobody trains this way. But it needs no calculus, which makes it a good check.


# %%
def finite_differences(epsilon):
    found = {}
    for name, weight in weights.items():
        found[name] = np.zeros_like(weight)
        for place in np.ndindex(weight.shape):
            ends = []
            for sign in (1, -1):
                moved = {k: v.copy() for k, v in weights.items()}
                moved[name][place] += sign * epsilon
                ends.append(forward(**moved)[-1])
            found[name][place] = (ends[0] - ends[1]) / (2 * epsilon)
    return found


def apart(a, b):
    """The largest difference, relative to the largest gradient."""
    largest = max(np.abs(g).max() for g in a.values())
    return max(np.abs(a[name] - b[name]).max() for name in a) / largest


epsilons = 10.0 ** np.arange(-12, 0)
errors = [apart(ours, finite_differences(epsilon)) for epsilon in epsilons]
plt.loglog(epsilons, errors, color=BLUE, marker="o")
plt.xlabel("epsilon, the change of a weight")
plt.ylabel("largest difference from our gradient (relative)")
plt.title("Large steps: truncation error; small steps: rounding error")
plt.grid(alpha=0.3)
plt.show()
best = int(np.argmin(errors))
print(f"best at epsilon = {epsilons[best]:.0e}: {errors[best]:.0e}")
assert errors[best] < 1e-9

# %% [markdown]
# From the right, the curve falls as $\epsilon^2$: a smaller step gives a better slope. Below about $10^{-5}$ it rises
# again: the two losses agree in so many digits that few significant digits are left in their difference. A float64 has
# sixteen digits, and ten correct ones are the best that finite differences achieve here.
#
# ## Second check: automatic differentiation
#
# A framework records each operation of the forward pass and has a backward rule for each kind of operation, like the
# table above. The three frameworks implement the same idea differently: PyTorch records the operations on the tensors
# and walks back from the loss; TensorFlow records them on a gradient tape; JAX transforms a function into the function
# that computes its gradient. All installed frameworks run side by side, in float64.


# %%
def by_torch():
    import torch

    w = {k: torch.tensor(v, requires_grad=True) for k, v in weights.items()}
    a = torch.tanh(torch.tensor(x) @ w["W1"] + w["b1"])
    y = a @ w["W2"] + w["b2"]
    loss = ((y - torch.tensor(t)) ** 2).mean()
    loss.backward()
    return {k: v.grad.numpy() for k, v in w.items()}


def by_tensorflow():
    import tensorflow as tf

    w = {k: tf.Variable(v) for k, v in weights.items()}
    with tf.GradientTape() as tape:
        a = tf.tanh(x @ w["W1"] + w["b1"])
        y = a @ w["W2"] + w["b2"]
        loss = tf.reduce_mean((y - t) ** 2)
    return {k: g.numpy() for k, g in tape.gradient(loss, w).items()}


def by_jax():
    import jax
    import jax.numpy as jnp

    def loss(w):
        a = jnp.tanh(x @ w["W1"] + w["b1"])
        y = a @ w["W2"] + w["b2"]
        return jnp.mean((y - t) ** 2)

    with jax.enable_x64(True):  # JAX computes in float32 by default
        return {k: np.asarray(g) for k, g in jax.grad(loss)(weights).items()}


# %%
referees = {"torch": by_torch, "tensorflow": by_tensorflow, "jax": by_jax}
found = {name: referee() for name, referee in referees.items() if find_spec(name)}
for name, gradients in found.items():
    print(f"{name:10s} differs from our hand-derived gradient by {apart(ours, gradients):.0e}")
    assert apart(ours, gradients) < 1e-14

# %% [markdown]
# They agree to float64's full precision. The frameworks do nothing that you could not do by hand: they do it for every
# operation, fast and without mistakes.
#
# Networks are usually trained in float32, which has about seven decimal digits; there the same comparison gives about
# $10^{-7}$. Here is the same network built from Keras layers. Its gradient, computed by the current framework in
# float32, is compared with our float64 gradient.

# %%
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)])
model.set_weights([w.astype("float32") for w in weights.values()])


def gradients_of(model, x, t):
    """The gradients by the names in `weights`, on the current framework."""
    x, t = (keras.ops.convert_to_tensor(z.astype("float32")) for z in (x, t))
    variables = model.trainable_variables
    if keras.backend.backend() == "torch":
        loss = keras.ops.mean((model(x) - t) ** 2)
        loss.backward()
        gradients = [v.value.grad for v in variables]
    elif keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = keras.ops.mean((model(x) - t) ** 2)
        gradients = tape.gradient(loss, [v.value for v in variables])
    else:
        import jax

        def loss(values):
            y, _ = model.stateless_call(values, [], x)
            return keras.ops.mean((y - t) ** 2)

        gradients = jax.grad(loss)([v.value for v in variables])
    return dict(zip(weights, map(keras.ops.convert_to_numpy, gradients), strict=True))


in_float32 = apart(ours, gradients_of(model, x, t))
print(f"float32 on {keras.backend.backend()}: {in_float32:.0e} relative difference from float64")
assert in_float32 < 1e-5

# %% [markdown]
# ## What the gradient is for
#
# A step against the gradient reduces the loss if the step is short enough. That is all there is to training: forward
# pass, backward pass, update.

# %%
losses = {}
for rate, color, style in ((0.03, BLUE, "-"), (0.3, GREEN, "--"), (1.5, RED, ":")):
    w, curve = {k: v.copy() for k, v in weights.items()}, []
    for _ in range(60):
        curve.append(forward(**w)[-1])
        slopes = backward(**w)
        w = {k: w[k] - rate * slopes[k] for k in w}
    losses[rate] = curve
    plt.semilogy(curve, color=color, linestyle=style, label=f"learning rate {rate}")
plt.xlabel("step")
plt.ylabel("mean squared error")
plt.title("Too low: slow; too high: unstable")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert losses[0.3][-1] < losses[0.03][-1] < losses[0.03][0]

# %% [markdown]
# ## Exercises
#
# **1.** Replace the tanh with a ReLU. Which line of `backward` changes, and how?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Only the line of the activation: h_ = a_ * (h > 0), because ReLU's derivative is 1 where h > 0, else 0.


def relu_loss(W1, b1, W2, b2):
    return np.mean((np.maximum(0, x @ W1 + b1) @ W2 + b2 - t) ** 2)


h = x @ weights["W1"] + weights["b1"]
y = np.maximum(0, h) @ weights["W2"] + weights["b2"]
h_ = (2 * (y - t) / y.size) @ weights["W2"].T * (h > 0)
by_formula = (x.T @ h_)[1, 2]
up, down = (dict(weights, W1=weights["W1"] + s * 1e-6 * (np.arange(15) == 7).reshape(3, 5)) for s in (1, -1))
by_difference = (relu_loss(**up) - relu_loss(**down)) / 2e-6
print(by_formula, by_difference)
assert abs(by_formula - by_difference) < 1e-8

# %% [markdown]
# **2.** What is the derivative of the loss with respect to the inputs, $\bar x$? It shows which inputs mattered (for
# images, as a saliency map).

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# h = x W1 + b1, so, as in the line for y: x_ = h_ W1^T.
h, a, y, _ = forward(**weights)
h_ = (2 * (y - t) / y.size) @ weights["W2"].T * (1 - a**2)
x_ = h_ @ weights["W1"].T
before = forward(**weights)[-1]
x[0, 0] += 1e-6
moved = forward(**weights)[-1]
x[0, 0] -= 1e-6
print(x_[0, 0], (moved - before) / 1e-6)
assert abs(x_[0, 0] - (moved - before) / 1e-6) < 1e-5

# %% [markdown]
# **3.** How many multiplications does the forward pass need for one example, and how many the backward pass? Count only
# the matrix products. (This is why a training step costs about three times as much as a prediction.)

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
forward_products = 3 * 5 + 5 * 2  # x W1, a W2
backward_products = (5 * 2 + 5 * 2) + 3 * 5  # a_ and W2's gradient; W1's gradient (x_ is not needed)
print(forward_products, backward_products, (forward_products + backward_products) / forward_products)
assert (forward_products, backward_products) == (25, 35)
# If an earlier layer needs x_ as well, the backward pass costs twice the forward pass: three times in all.
assert backward_products + 3 * 5 == 2 * forward_products

# %% [markdown]
# ## Further reading
#
# - The next chapter: [the multilayer perceptron, four times](03-mlp.ipynb)
# - Michael Nielsen, [Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap2.html), chapter 2:
#   how the backpropagation algorithm works
# - CS231n, [Backpropagation, Intuitions](https://cs231n.github.io/optimization-2/)
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/mlp.html), section 6.5
# - Baydin et al. 2015, [Automatic differentiation in machine learning: a survey](https://arxiv.org/abs/1502.05767)
