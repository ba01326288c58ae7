# %% [markdown]
# # 8 Comparing optimizers
#
# **What you will see.** Five update rules: SGD, Momentum, Adam, AdamW and LAMB. You will write each in a few lines of
# NumPy, check that the zoo's optimizers agree to rounding error, compare them on a simple loss surface and train one
# network with each. Then the loss surface is rotated by 45 degrees, and Adam loses its advantage. At the end: a trap,
# because two libraries define "momentum" differently.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

COLORS = {"SGD": "#000000", "Momentum": "#0072B2", "Adam": "#D55E00", "AdamW": "#CC79A7", "LAMB": "#009E73"}
DASHES = {"SGD": "-", "Momentum": "--", "Adam": "-", "AdamW": ":", "LAMB": "-."}

# %% [markdown]
# ## Five update rules
#
# $w$ are the weights, $g$ is the gradient of the loss, $a$ the learning rate, $t = 1, 2, 3, \dots$ the step. The arrow
# denotes assignment.
#
# **SGD**, stochastic gradient descent, steps against the gradient: $w \leftarrow w - a\,g$.
#
# **Momentum** steps along a velocity, a sum of past gradients that decays by a tenth at each step ($\mu = 0.9$):
#
# $$v \leftarrow \mu v + g, \qquad w \leftarrow w - a\,v$$
#
# **Adam** keeps exponential moving averages of the gradient and of its square ($\beta_1 = 0.9$, $\beta_2 = 0.999$).
# Both start at zero and are too small at first; dividing by $1 - \beta^t$ corrects this bias. The step is the first
# average divided by the square root of the second, so that every weight moves by about $a$, whatever the size of its
# gradient:
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2$$
#
# $$r = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \qquad w \leftarrow w - a\,r$$
#
# **AdamW** also shrinks the weights by a fraction $a d$ at each step, independently of the gradient: $w \leftarrow (1 -
# a d)\, w - a\, r$.
#
# **LAMB** steps in Adam's direction, but the length of the step is a fraction of the norm of $w$, layer by layer:
#
# $$u = r + d\,w, \qquad w \leftarrow w - a\, \frac{|w|}{|u|}\, u$$

# %%
MU, B1, B2 = 0.9, 0.9, 0.999


def sgd(w, g, _state, _t, a):
    return w - a * g


def momentum(w, g, state, _t, a):
    state["v"] = MU * state.get("v", 0) + g
    return w - a * state["v"]


def direction(g, state, t, epsilon):
    state["m"] = B1 * state.get("m", 0) + (1 - B1) * g
    state["v"] = B2 * state.get("v", 0) + (1 - B2) * g**2
    return state["m"] / (1 - B1**t) / (np.sqrt(state["v"] / (1 - B2**t)) + epsilon)


def adam(w, g, state, t, a):
    return w - a * direction(g, state, t, 1e-8)


def adamw(w, g, state, t, a, d=0.01):
    return (1 - a * d) * w - a * direction(g, state, t, 1e-8)


def lamb(w, g, state, t, a, d=0.01):
    u = direction(g, state, t, 1e-6) + d * w
    return w - a * np.linalg.norm(w) / np.linalg.norm(u) * u


RULES = {"SGD": sgd, "Momentum": momentum, "Adam": adam, "AdamW": adamw, "LAMB": lamb}

# %% [markdown]
# ## Do they match the zoo's optimizers?
#
# Ten steps with random gradients: our rules in float64, the zoo's optimizers in float32 on the current framework.
# Float32 numbers near 1 are 1.2e-7 apart, so after ten updates a difference of 1e-6 is rounding and nothing else.

# %%
rng = np.random.default_rng(0)
start, gradients = rng.normal(size=(4, 3)), rng.normal(size=(10, 4, 3))

for name, rule in RULES.items():
    ours, state = start, {}
    weight = keras.Variable(start.astype("float32"))
    optimizer = getattr(zoo.optimizers, name)(learning_rate=0.01)
    optimizer.build([weight])
    for t, g in enumerate(gradients, start=1):
        ours = rule(ours, g, state, t, 0.01)
        optimizer.apply([keras.ops.convert_to_tensor(g.astype("float32"))], [weight])
    difference = np.abs(keras.ops.convert_to_numpy(weight) - ours).max()
    print(f"{name:8s} differs from the formula by at most {difference:.0e}")
    assert difference < 1e-6

# %% [markdown]
# ## Comparison on a narrow valley
#
# A quadratic loss a hundred times more curved across the valley than along it, with its minimum at $(1, 1)$:
#
# $$L(w) = \tfrac12 (w_1 - 1)^2 + \tfrac{100}{2} (w_2 - 1)^2$$
#
# A narrow valley is difficult because the learning rate must suit its steep direction, and is then too small for the
# flat one. Each optimizer gets a learning rate that suits it, and a hundred steps.

# %%
BOWL, LOWEST, START = np.diag([1.0, 100.0]), np.array([1.0, 1.0]), np.array([-2.0, 1.6])
RATES = {"SGD": 0.0175, "Momentum": 0.005, "Adam": 0.1, "AdamW": 0.1, "LAMB": 0.05}


def race(name, bowl=BOWL, lowest=LOWEST, start=START, steps=100, rate=None):
    """The points along the way, and the loss at each."""
    path, state = [start], {}
    for t in range(1, steps + 1):
        gradient = bowl @ (path[-1] - lowest)
        path.append(RULES[name](path[-1], gradient, state, t, rate or RATES[name]))
    path = np.array(path)
    return path, np.einsum("ti,ij,tj->t", path - lowest, bowl, path - lowest) / 2


valley = {name: race(name) for name in RULES}

# %%
x, y = np.meshgrid(np.linspace(-2.5, 2.5, 121), np.linspace(0.2, 1.8, 121))
heights = ((x - 1) ** 2 + 100 * (y - 1) ** 2) / 2
figure, axes = plt.subplots(1, 5, figsize=(16, 3.4), sharey=True, layout="constrained")
for axis, (name, (path, _)) in zip(axes, valley.items(), strict=True):
    axis.contour(x, y, heights, levels=[0.2, 1, 3, 8, 16, 30], colors="#BBBBBB", linewidths=0.8)
    axis.plot(*path.T, color=COLORS[name], marker=".", markersize=4, linewidth=1)
    axis.plot(*LOWEST, "k*", markersize=10)
    axis.set(title=f"{name}, rate {RATES[name]}", xlabel="weight w1", xlim=(-2.5, 2.5), ylim=(0.2, 1.8))
axes[0].set_ylabel("weight w2")
plt.show()
for name, (_, loss) in valley.items():
    print(f"{name:8s} loss after 25, 50, 100 steps: {loss[25]:.1e} {loss[50]:.1e} {loss[100]:.1e}")
    assert loss[25] < loss[0] / 5

# %% [markdown]
# SGD zigzags across the valley, then moves slowly along its floor. Momentum rolls like a ball and overshoots. Adam is
# hardly affected by the shape of the valley: it divides each coordinate by the size of its own gradient. LAMB does not
# converge while its learning rate is constant, because its step is proportional to $|w|$ and not to the gradient: one
# reason for chapter 10.
#
# Now rotate everything about the origin by 45 degrees: the loss surface, its minimum and the starting point. It is the
# same problem in different coordinates.

# %%
turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
turned = {name: race(name, turn @ BOWL @ turn.T, turn @ LOWEST, turn @ START) for name in RULES}

figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
for axis, runs, title in zip(
    axes, (valley, turned), ("along the axes", "rotated by 45 degrees"), strict=True
):
    for name, (_, loss) in runs.items():
        axis.semilogy(loss, color=COLORS[name], linestyle=DASHES[name], label=name)
    axis.set(title=f"the valley {title}", xlabel="step", ylim=(1e-5, 1e2))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("loss")
axes[1].legend(loc="lower left", ncols=2)
plt.show()
for name in RULES:
    print(f"{name:8s} loss after 100 steps: {valley[name][1][-1]:.1e}, rotated {turned[name][1][-1]:.1e}")
for name in ("SGD", "Momentum"):
    assert np.allclose(valley[name][1], turned[name][1], rtol=1e-6)
assert turned["Adam"][1][-1] > 100 * valley["Adam"][1][-1]

# %% [markdown]
# For SGD and Momentum the rotated valley is the same problem, step by step. Adam scales each coordinate separately, and
# in a diagonal valley there is no coordinate to scale: it needs axes that mean something. In a network they do, since
# each axis is one weight; that is why Adam works so well there.
#
# ## A network
#
# A multilayer perceptron with 64 hidden neurons on scikit-learn's handwritten digits, with the same initial weights and
# the same batches. `zoo.train` uses the framework's own optimizer: `torch.optim`'s, optax's, or TensorFlow's update
# kernels.

# %%
NETWORK_RATES = {"SGD": 0.2, "Momentum": 0.05, "Adam": 0.01, "AdamW": 0.01, "LAMB": 0.02}
digits = zoo.tasks.load("digits", (8, 8, 1))
learn, held_out = (
    [part[:1408] for part in digits.train],
    [part[:320] for part in digits.test],
)  # whole batches


def trained(name, rate):
    model = zoo.build("mlp", widths=(64,), shape=(8, 8, 1), seed=0)
    optimizer = getattr(zoo.optimizers, name)(learning_rate=rate)
    return zoo.train(model, tuple(learn), validation=tuple(held_out), optimizer=optimizer, epochs=4)


runs = {}
for name, rate in NETWORK_RATES.items():
    runs[name] = trained(name, rate)
    print(f"{name:8s} rate {rate:<4}  accuracy on held-out digits {runs[name].metrics['accuracy']:.3f}")
    assert runs[name].metrics["accuracy"] > 0.85

slow = trained("SGD", 0.01)
print(
    f"SGD at Adam's learning rate ends with a loss of {slow.losses[-1]:.2f}, Adam with {runs['Adam'].losses[-1]:.2f}"
)
assert slow.losses[-1] > 4 * runs["Adam"].losses[-1]

# %%
for name, run in runs.items():
    smooth = np.convolve(run.losses, np.ones(8) / 8, mode="valid")  # moving average over eight steps
    plt.plot(smooth, color=COLORS[name], linestyle=DASHES[name], label=name)
plt.xlabel("step")
plt.ylabel("cross-entropy (nats), mean of 8 steps")
plt.title("one network, five optimizers")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# The learning rates differ by a factor of twenty, the curves much less. A comparison of optimizers means little unless
# each has a suitable learning rate: at Adam's 0.01, SGD has hardly started to learn. Adam and AdamW coincide because 88
# steps at $a d = 10^{-4}$ shrink a weight by less than one percent.
#
# ## The trap: two definitions of momentum
#
# PyTorch and the zoo accumulate gradients and multiply by the learning rate at the end. Keras's own `SGD(momentum=...)`
# multiplies first and accumulates steps:
#
# $$v \leftarrow \mu v - a\, g, \qquad w \leftarrow w + v$$
#
# With a constant learning rate the two are equal. When a schedule lowers the learning rate, the zoo's next step is
# small at once; Keras's velocity still contains the old steps at their old size and continues at that speed. A training
# script ported from one library to the other then gives different numbers, without a warning. Here the learning rate
# drops from 0.005 to 0.00005 after ten steps.

# %%
drop = zoo.schedules.StepDecay(0.005, [10], 0.01)


def slide(optimizer, steps=30):
    """The values of the first weight along the way."""
    weight = keras.Variable(START.astype("float32"))
    optimizer.build([weight])
    path = [START[0]]
    for _ in range(steps):
        gradient = BOWL @ (keras.ops.convert_to_numpy(weight) - LOWEST)
        optimizer.apply([keras.ops.convert_to_tensor(gradient.astype("float32"))], [weight])
        path.append(float(keras.ops.convert_to_numpy(weight)[0]))
    return np.array(path)


constant = [slide(zoo.optimizers.Momentum(0.005)), slide(keras.optimizers.SGD(0.005, momentum=0.9))]
dropped = [slide(zoo.optimizers.Momentum(drop)), slide(keras.optimizers.SGD(drop, momentum=0.9))]
assert np.allclose(*constant, atol=1e-5)
assert np.allclose(dropped[0][:11], dropped[1][:11], atol=1e-5)

plt.plot(dropped[0], color=COLORS["Momentum"], label="the zoo's and PyTorch's")
plt.plot(dropped[1], color=COLORS["Adam"], linestyle="--", label="Keras's own")
plt.axvline(10, color="#999999", linestyle=":", label="the learning rate drops to a hundredth")
plt.xlabel("step")
plt.ylabel("weight w1")
plt.title("effect of the old velocity")
plt.legend()
plt.show()
moved = [path[-1] - path[10] for path in dropped]
print(f"after the drop the zoo's moves w1 by {moved[0]:.3f}, Keras's by {moved[1]:.3f}")
assert moved[1] > 20 * abs(moved[0])

# %% [markdown]
# ## Exercises
#
# **1.** In the steep direction of the valley a step of SGD is $w_2 - 1 \leftarrow (1 - 100 a)(w_2 - 1)$. What is the
# largest learning rate at which it does not diverge? Check just below and just above.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# It shrinks while |1 - 100 a| < 1, that is 0 < a < 2/100 = 0.02: two divided by the largest curvature.
below, above = (race("SGD", rate=rate)[1][-1] for rate in (0.0199, 0.0201))
print(f"loss after 100 steps: {below:.1e} at 0.0199, {above:.1e} at 0.0201")
assert below < race("SGD")[1][0] < above

# %% [markdown]
# **2.** How large is Adam's first step? Derive it from the formula, then multiply a gradient by a thousand and compare.
# What does SGD do?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# At t = 1 the corrected averages are g and g^2, so r = g / (|g| + epsilon), the sign of g: a step of size a.
g = np.array([0.3, -0.002])
first = [-adam(np.zeros(2), scale * g, {}, 1, a=0.01) for scale in (1, 1000)]
print("Adam", first[0], first[1])
print("SGD ", -sgd(np.zeros(2), g, {}, 1, a=0.01), -sgd(np.zeros(2), 1000 * g, {}, 1, a=0.01))
assert np.allclose(first, 0.01 * np.sign(g), rtol=1e-4)

# %% [markdown]
# **3.** The zoo's `Adam(weight_decay=d)` adds $d\,w$ to the gradient, as PyTorch's does; `AdamW` applies the decay
# separately. Give two weights of 1 gradients of random sign, one of size 10 and one of size 0.01. After 200 steps with
# $d = 0.1$, which of the weights has each optimizer shrunk?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# In Adam the decay is also divided by the size of the gradient: the weight with the largest gradients decays least.
sizes, steps, ends = np.array([10.0, 0.01]), 200, {}
signs = np.tile([1.0, -1.0, -1.0, 1.0], steps // 4)  # as often up as down
for name in ("Adam", "AdamW"):
    weight = keras.Variable(np.ones(2, "float32"))
    optimizer = getattr(zoo.optimizers, name)(learning_rate=0.01, weight_decay=0.1)
    optimizer.build([weight])
    for sign in signs:
        optimizer.apply([keras.ops.convert_to_tensor((sign * sizes).astype("float32"))], [weight])
    ends[name] = keras.ops.convert_to_numpy(weight)
    print(
        f"{name:5s} from 1 to {ends[name][0]:.3f} (large gradient) and {ends[name][1]:.3f} (small gradient)"
    )
assert ends["Adam"][0] > 0.95
assert ends["Adam"][1] < 0.1  # decayed hardly at all, or almost completely
assert np.allclose(ends["AdamW"], 0.999**steps, atol=0.03)  # (1 - a d)^steps for both

# %% [markdown]
# ## Further reading
#
# - The next chapter: [regularization](09-regularization.ipynb)
# - [Dive into Deep Learning](https://d2l.ai/chapter_optimization/index.html), chapter 12: from gradient descent to Adam
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/optimization.html),
#   chapter 8
# - Stanford CS231n, [Neural networks, part 3](https://cs231n.github.io/neural-networks-3/): parameter updates
# - Gabriel Goh, [Why Momentum Really Works](https://distill.pub/2017/momentum/)
# - Kingma, Ba 2015, [Adam](https://arxiv.org/abs/1412.6980); Loshchilov, Hutter 2019,
#   [Decoupled Weight Decay](https://arxiv.org/abs/1711.05101); You et al. 2020,
#   [Large Batch Optimization (LAMB)](https://arxiv.org/abs/1904.00962)
