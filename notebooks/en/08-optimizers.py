# %% [markdown]
# # 8 Optimizers
#
# **What you will see.** Five rules that turn a gradient into a step: SGD, Momentum, Adam, AdamW and LAMB. You will
# write each in a few lines of NumPy, check that the zoo's agree to rounding, race them down one valley and train one
# network with each. Then you turn the valley by 45 degrees, and Adam loses what it had won. At the end: a trap in which
# two libraries call different things "momentum".

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

COLORS = {"SGD": "#000000", "Momentum": "#0072B2", "Adam": "#D55E00", "AdamW": "#CC79A7", "LAMB": "#009E73"}
DASHES = {"SGD": "-", "Momentum": "--", "Adam": "-", "AdamW": ":", "LAMB": "-."}

# %% [markdown]
# ## Five rules
#
# $w$ are the weights, $g$ is the gradient of the loss, $a$ the learning rate, $t = 1, 2, 3, \dots$ the step. The
# arrow reads "becomes".
#
# **SGD**, stochastic gradient descent, walks against the gradient: $w \leftarrow w - a\,g$.
#
# **Momentum** walks along a velocity, a sum of past gradients that forgets a tenth at each step ($\mu = 0.9$):
#
# $$v \leftarrow \mu v + g, \qquad w \leftarrow w - a\,v$$
#
# **Adam** keeps running means of the gradient and of its square ($\beta_1 = 0.9$, $\beta_2 = 0.999$). Both start at
# zero and are too small at first; dividing by $1 - \beta^t$ mends that. The step is one mean over the root of the
# other, so that every weight moves by about $a$, whatever the size of its gradient:
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2$$
#
# $$r = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \qquad w \leftarrow w - a\,r$$
#
# **AdamW** also shrinks the weights by a share $d$ of the rate, apart from the gradient: $w \leftarrow (1 - a d)\, w -
# a\, r$.
#
# **LAMB** takes Adam's direction, but a step whose length is a share of the length of $w$, layer by layer:
#
# $$u = r + d\,w, \qquad w \leftarrow w - a\, \frac{|w|}{|u|}\, u$$

# %%
MU, B1, B2 = 0.9, 0.9, 0.999


def sgd(w, g, _memory, _t, a):
    return w - a * g


def momentum(w, g, memory, _t, a):
    memory["v"] = MU * memory.get("v", 0) + g
    return w - a * memory["v"]


def direction(g, memory, t, epsilon):
    memory["m"] = B1 * memory.get("m", 0) + (1 - B1) * g
    memory["v"] = B2 * memory.get("v", 0) + (1 - B2) * g**2
    return memory["m"] / (1 - B1**t) / (np.sqrt(memory["v"] / (1 - B2**t)) + epsilon)


def adam(w, g, memory, t, a):
    return w - a * direction(g, memory, t, 1e-8)


def adamw(w, g, memory, t, a, d=0.01):
    return (1 - a * d) * w - a * direction(g, memory, t, 1e-8)


def lamb(w, g, memory, t, a, d=0.01):
    u = direction(g, memory, t, 1e-6) + d * w
    return w - a * np.linalg.norm(w) / np.linalg.norm(u) * u


RULES = {"SGD": sgd, "Momentum": momentum, "Adam": adam, "AdamW": adamw, "LAMB": lamb}

# %% [markdown]
# ## Are these the zoo's?
#
# Ten steps with random gradients: ours in float64, the zoo's in float32 on the framework that runs. A number near 1
# in float32 is rounded to steps of 1.2e-7, so after ten updates a difference of 1e-6 is rounding and nothing else.

# %%
rng = np.random.default_rng(0)
start, gradients = rng.normal(size=(4, 3)), rng.normal(size=(10, 4, 3))

for name, rule in RULES.items():
    ours, memory = start, {}
    weight = keras.Variable(start.astype("float32"))
    optimizer = getattr(zoo.optimizers, name)(learning_rate=0.01)
    optimizer.build([weight])
    for t, g in enumerate(gradients, start=1):
        ours = rule(ours, g, memory, t, 0.01)
        optimizer.apply([keras.ops.convert_to_tensor(g.astype("float32"))], [weight])
    difference = np.abs(keras.ops.convert_to_numpy(weight) - ours).max()
    print(f"{name:8s} differs from the formula by at most {difference:.0e}")
    assert difference < 1e-6

# %% [markdown]
# ## A valley, and a race
#
# A bowl a hundred times more curved across than along, with its lowest point at $(1, 1)$:
#
# $$L(w) = \tfrac12 (w_1 - 1)^2 + \tfrac{100}{2} (w_2 - 1)^2$$
#
# The trouble with a valley: the rate must suit its steep side, and is then too small for the flat one. Each rule
# gets a rate that suits it, and a hundred steps.

# %%
BOWL, LOWEST, START = np.diag([1.0, 100.0]), np.array([1.0, 1.0]), np.array([-2.0, 1.6])
RATES = {"SGD": 0.0175, "Momentum": 0.005, "Adam": 0.1, "AdamW": 0.1, "LAMB": 0.05}


def race(name, bowl=BOWL, lowest=LOWEST, start=START, steps=100, rate=None):
    """The points on the way, and the loss at each."""
    path, memory = [start], {}
    for t in range(1, steps + 1):
        gradient = bowl @ (path[-1] - lowest)
        path.append(RULES[name](path[-1], gradient, memory, t, rate or RATES[name]))
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
# SGD zigzags from wall to wall, then crawls along the bottom. Momentum rolls like a ball and overshoots. Adam hardly
# sees a valley: it divides each coordinate by the size of its own gradient. LAMB does not come to rest while its rate is
# constant, since its step is a share of $|w|$ and not of the gradient: one reason for chapter 10.
#
# Now turn everything about the origin by 45 degrees: bowl, lowest point and start. It is the same problem, seen by a
# person who tilts the head.

# %%
turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
turned = {name: race(name, turn @ BOWL @ turn.T, turn @ LOWEST, turn @ START) for name in RULES}

figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
for axis, runs, title in zip(axes, (valley, turned), ("along the axes", "turned by 45 degrees"), strict=True):
    for name, (_, loss) in runs.items():
        axis.semilogy(loss, color=COLORS[name], linestyle=DASHES[name], label=name)
    axis.set(title=f"the valley {title}", xlabel="step", ylim=(1e-5, 1e2))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("loss")
axes[1].legend(loc="lower left", ncols=2)
plt.show()
for name in RULES:
    print(f"{name:8s} loss after 100 steps: {valley[name][1][-1]:.1e}, turned {turned[name][1][-1]:.1e}")
for name in ("SGD", "Momentum"):
    assert np.allclose(valley[name][1], turned[name][1], rtol=1e-6)
assert turned["Adam"][1][-1] > 100 * valley["Adam"][1][-1]

# %% [markdown]
# To SGD and Momentum the turned valley is the same valley, step by step. Adam scales each coordinate by itself, and a
# diagonal valley has no coordinate to scale: it needs the axes to mean something. In a network they do, since each is
# one weight; that is why Adam serves so well there.
#
# ## A network
#
# A perceptron with 64 hidden neurons on scikit-learn's handwritten digits, from the same initial weights, in the same
# batches. `zoo.train` runs the framework's own optimizer: `torch.optim`'s, optax's, or TensorFlow's update kernels.

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
    f"SGD at Adam's rate ends with a loss of {slow.losses[-1]:.2f}, Adam with {runs['Adam'].losses[-1]:.2f}"
)
assert slow.losses[-1] > 4 * runs["Adam"].losses[-1]

# %%
for name, run in runs.items():
    smooth = np.convolve(run.losses, np.ones(8) / 8, mode="valid")  # the mean of eight steps
    plt.plot(smooth, color=COLORS[name], linestyle=DASHES[name], label=name)
plt.xlabel("step")
plt.ylabel("cross-entropy (nats), mean of 8 steps")
plt.title("one network, five optimizers")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# The rates differ by a factor of twenty, the curves much less. An optimizer means little without its rate: at Adam's
# 0.01 SGD has hardly begun. Adam and AdamW lie on each other because 88 steps at $a d = 10^{-4}$
# shrink a weight by less than a hundredth.
#
# ## The trap: two momentums
#
# PyTorch and the zoo sum gradients and multiply by the rate at the end. Keras's own `SGD(momentum=...)` multiplies
# first and sums steps:
#
# $$v \leftarrow \mu v - a\, g, \qquad w \leftarrow w + v$$
#
# With a constant rate the two are equal. When a schedule drops the rate, the zoo's next step is at once small; Keras's
# old steps are still in its velocity, at their old size, and it coasts on. A training script moved from one library
# to the other then gives other numbers, without a message. Here the rate drops from 0.005 to 0.00005 after ten steps.

# %%
drop = zoo.schedules.StepDecay(0.005, [10], 0.01)


def slide(optimizer, steps=30):
    """The first weight on the way down the valley."""
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
plt.axvline(10, color="#999999", linestyle=":", label="the rate drops to a hundredth")
plt.xlabel("step")
plt.ylabel("weight w1")
plt.title("what is left of the velocity")
plt.legend()
plt.show()
moved = [path[-1] - path[10] for path in dropped]
print(f"after the drop the zoo's moves w1 by {moved[0]:.3f}, Keras's by {moved[1]:.3f}")
assert moved[1] > 20 * abs(moved[0])

# %% [markdown]
# ## Exercises
#
# **1.** Along the steep side of the valley a step of SGD is $w_2 - 1 \leftarrow (1 - 100 a)(w_2 - 1)$. What is the largest
# rate at which it does not run away? Check just below and just above.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# It shrinks while |1 - 100 a| < 1, that is 0 < a < 2/100 = 0.02: two over the largest curvature.
below, above = (race("SGD", rate=rate)[1][-1] for rate in (0.0199, 0.0201))
print(f"loss after 100 steps: {below:.1e} at 0.0199, {above:.1e} at 0.0201")
assert below < race("SGD")[1][0] < above

# %% [markdown]
# **2.** How large is Adam's first step? Work it out from the formula, then multiply a gradient by a thousand and look.
# What does SGD do?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# At t = 1 the corrected means are g and g^2, so r = g / (|g| + epsilon): the sign of g. The step is the rate itself.
g = np.array([0.3, -0.002])
first = [-adam(np.zeros(2), scale * g, {}, 1, a=0.01) for scale in (1, 1000)]
print("Adam", first[0], first[1])
print("SGD ", -sgd(np.zeros(2), g, {}, 1, a=0.01), -sgd(np.zeros(2), 1000 * g, {}, 1, a=0.01))
assert np.allclose(first, 0.01 * np.sign(g), rtol=1e-4)

# %% [markdown]
# **3.** The zoo's `Adam(weight_decay=d)` adds $d\,w$ to the gradient, as PyTorch's does; `AdamW` keeps the decay apart.
# Give two weights of 1 gradients of random sign, one with size 10 and one with size 0.01. After 200 steps with $d = 0.1$,
# which of them has each rule shrunk?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# In Adam the decay is divided by the size of the gradient too: the weight that is pulled about most decays least.
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
assert ends["Adam"][1] < 0.1  # nearly nothing, or nearly all
assert np.allclose(ends["AdamW"], 0.999**steps, atol=0.03)  # (1 - a d)^steps for both

# %% [markdown]
# ## Go on with
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
