# %% [markdown]
# # 10 Learning-rate schedules
#
# **What you will see.** The learning rate need not be constant. You will plot step decay, cosine annealing, warm-up
# with decay and one-cycle, and check each learning rate schedule against its formula; see what lowering the learning
# rate gains with noisy labels; find a good learning rate with a range test, for which you write your own schedule; and
# see a small Transformer fail to train without warm-up.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers, optimizers, schedules

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"

# %% [markdown]
# ## Five learning rate schedules
#
# $a$ is the peak learning rate, $T$ the number of steps, $W$ the number of warm-up steps, $s = 0, 1, 2, \dots$ the
# step.
#
# | schedule | learning rate at step $s$ |
# | --- | --- |
# | step decay | $a \cdot 0.1^{\lfloor s / 40 \rfloor}$: divided by 10 every 40 steps |
# | cosine annealing | $a\, (1 + \cos(\pi s / T)) / 2$ |
# | warm-up, then linear | $a\, s / W$ up to $W$, then $a\, (T - s) / (T - W)$ |
# | warm-up, then inverse square root | $a\, s / W$ up to $W$, then $a \sqrt{W / s}$ |
# | one-cycle | from $a / 25$ up to $a$ and down to $a / 250{,}000$, each along half a cosine |
#
# The table in NumPy, compared with `zoo.schedules`. A schedule can be evaluated in two ways: `at(step)` returns a
# float64, for a loop in Python, and `schedule(step)` a tensor of the framework, for a compiled step.

# %%
T, W, PEAK = 120, 20, 0.1
s = np.arange(T)
turn = 0.3 * T - 1  # one-cycle's peak, after three tenths of the steps
rise, fall = np.minimum(s / turn, 1), np.clip((s - turn) / (T - 1 - turn), 0, 1)
upward = PEAK / 25 + (PEAK - PEAK / 25) * (1 - np.cos(np.pi * rise)) / 2
downward = PEAK / 250_000 + (PEAK - PEAK / 250_000) * (1 + np.cos(np.pi * fall)) / 2

CURVES = {
    "step decay": (schedules.StepDecay(PEAK, 40, 0.1), PEAK * 0.1 ** (s // 40)),
    "cosine annealing": (schedules.CosineAnnealing(PEAK, T), PEAK * (1 + np.cos(np.pi * s / T)) / 2),
    "warm-up, linear": (
        schedules.WarmupDecay(PEAK, W, T),
        PEAK * np.where(s < W, s / W, (T - s) / (T - W)),
    ),
    "warm-up, inverse square root": (
        schedules.WarmupDecay(PEAK, W, decay="inverse_square_root"),
        PEAK * np.where(s < W, s / W, np.sqrt(W / np.maximum(s, W))),
    ),
    "one-cycle": (schedules.OneCycle(PEAK, T), np.where(s <= turn, upward, downward)),
}
for name, (schedule, formula) in CURVES.items():
    on_host = np.array([schedule.at(step) for step in range(T)])
    in_framework = keras.ops.convert_to_numpy(schedule(s))
    differences = [np.abs(rates - formula).max() / PEAK for rates in (on_host, in_framework)]
    print(f"{name:21s} off by {differences[0]:.0e} in float64, {differences[1]:.0e} in {in_framework.dtype}")
    assert differences[0] < 1e-12
    assert differences[1] < 1e-6

# %%
figure, axes = plt.subplots(1, 5, figsize=(16, 3), sharey=True, layout="constrained")
for axis, (name, (_, rates)) in zip(axes, CURVES.items(), strict=True):
    axis.plot(rates, color=BLUE)
    axis.set(title=name, xlabel="step", ylim=(0, 0.105))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("learning rate")
momentum = axes[-1].twinx()
momentum.plot(
    [schedules.OneCycle(PEAK, T).momentum_at(step) for step in range(T)], color=ORANGE, linestyle="--"
)
momentum.set_ylabel("momentum (dashed)")
plt.show()

# %% [markdown]
# One-cycle also changes the momentum, in the opposite direction. Note the first step of a warm-up: its learning rate is
# 0, so it changes nothing. Some libraries start at $a / W$ instead, a shift by one step that two training scripts can
# differ in.
#
# ## What a decreasing learning rate gains
#
# A high learning rate makes fast progress, but gradient noise from the batches keeps the weights moving; a low one
# converges but takes long to get there. To show this, a fifth of the training labels are made wrong, which adds enough
# noise. The held-out labels are correct. You can put any other schedule into `RATES`.

# %%
digits, rng = zoo.tasks.load("digits", (8, 8, 1)), np.random.default_rng(0)
x, y, noisy = digits.train[0][:1408], digits.train[1][:1408], digits.train[1][:1408].copy()
noisy[:281] = (noisy[:281] + rng.integers(1, 10, 281)) % 10
held_out = digits.test[0][:320], digits.test[1][:320]

STEPS = 176  # two epochs, in batches of 16
RATES = {
    "constant 0.1": (0.1, RED, "-"),
    "constant 0.01": (0.01, "black", ":"),
    "cosine from 0.1": (schedules.CosineAnnealing(0.1, STEPS), BLUE, "--"),
}


def fit(rate, steps=STEPS):
    model = zoo.build("mlp", widths=(64,), shape=(8, 8, 1), seed=0)
    optimizer = optimizers.Momentum(rate)
    return zoo.train(model, (x, noisy), validation=held_out, optimizer=optimizer, steps=steps, batch_size=16)


runs = {name: fit(rate) for name, (rate, *_) in RATES.items()}
for name, run in runs.items():
    loss, accuracy = run.metrics["loss"], run.metrics["accuracy"]
    print(f"{name:15s} held-out loss {loss:.2f}, accuracy {accuracy:.3f}")
ends = {name: run.metrics["loss"] for name, run in runs.items()}
assert ends["cosine from 0.1"] < 0.8 * ends["constant 0.1"]
assert ends["cosine from 0.1"] < 0.9 * ends["constant 0.01"]

# %%
for name, (_, color, style) in RATES.items():
    smooth = np.convolve(runs[name].losses, np.ones(32) / 32, mode="valid")
    plt.plot(np.arange(31, STEPS), smooth, color=color, linestyle=style, label=name)
plt.xlabel("step")
plt.ylabel("cross-entropy (nats), mean of the last 32 steps")
plt.title("training on noisy labels")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# ## Finding the learning rate: a range test
#
# Leslie Smith's test: increase the learning rate by the same factor at every step, from far too low to far too high,
# and see where the loss falls fastest and where it starts to rise. The zoo has no such schedule, so write one: a
# subclass with one formula, `rate`. `xp` is either NumPy or Keras's operations, so the formula works with both.

# %%
FIRST, LAST = 0.001, 3.0


class Rising(schedules.Schedule):
    """From the first learning rate to the last, by the same factor at every step."""

    def __init__(self, first, last, steps):
        self.first, self.last, self.steps = first, last, steps

    def rate(self, xp, step):
        return self.first * (self.last / self.first) ** (xp.real(step) / self.steps)


rising = Rising(FIRST, LAST, STEPS)
losses = np.array(fit(rising).losses)
rates = np.array([rising.at(step) for step in range(STEPS)])
smooth = np.convolve(losses, np.ones(15) / 15, mode="same")[7:-7]
best = rates[7:-7][smooth.argmin()]

plt.semilogx(rates, losses, color="#BBBBBB", linewidth=1, label="each step")
plt.semilogx(rates[7:-7], smooth, color=BLUE, label="mean of 15 steps")
plt.axvline(best, color=RED, linestyle="--", label=f"lowest, at {best:.2f}")
plt.xlabel("learning rate")
plt.ylabel("cross-entropy (nats)")
plt.title("range test")
plt.ylim(0, 5)
plt.legend()
plt.show()
assert 0.01 < best < 0.3
assert losses[-20:].mean() > 2 * smooth.min()

# %% [markdown]
# The lowest point is already at the edge of stability: a usual choice is a third to a tenth of that learning rate, or
# that value as the peak of a schedule that starts lower and decreases afterwards. Beyond the edge, training diverges
# within a few steps.
#
# ## Why Transformers need warm-up
#
# Adam's first steps have full size: each weight moves by the learning rate, whatever its gradient (chapter 8, exercise
# 2), while the size of the gradients is estimated from only a few batches. In the Transformer as published in 2017,
# layer normalization comes *after* each residual addition; there the gradients of the last layers are large at first,
# and such a step can do damage from which training does not recover. Here is one that reads a digit as eight rows of
# eight pixels: three blocks, AdamW, and a high peak learning rate of 0.03 that then decreases to 0. The only difference
# between the two runs is whether the learning rate rises over the first 22 of 88 steps.

# %%
DEPTH, WIDTH = 3, 32


def transformer(seed=0):
    with zoo.random.seeded(seed):
        image = layers.Input((8, 8, 1))
        h = layers.dense(keras.layers.Reshape((8, 8))(image), WIDTH, name="embedding")
        h = layers.learned_positions(h, 8, initializer=zoo.random.normal(0.02), name="positions")
        for i in range(DEPTH):
            asked = layers.attention(h, 4, use_bias=False, name=f"attention{i}")
            h = layers.layer_norm(h + asked, name=f"norm{i}a")
            wide = layers.relu(layers.dense(h, 2 * WIDTH, use_bias=False, name=f"wide{i}"))
            narrow = layers.dense(wide, WIDTH, use_bias=False, name=f"narrow{i}")
            h = layers.layer_norm(h + narrow, name=f"norm{i}b")
        return layers.Model(image, layers.dense(layers.flatten(h), 10, name="head"))


def learn(model, warmup):
    optimizer = optimizers.AdamW(schedules.WarmupDecay(0.03, warmup, 88))
    return zoo.train(model, (x, y), validation=held_out, optimizer=optimizer, steps=88, loss="cross_entropy")


cold, warm = learn(transformer(), 0), learn(transformer(), 22)
for name, run in (("without", cold), ("with", warm)):
    print(f"{name:7s} warm-up: accuracy {run.metrics['accuracy']:.2f}, loss {run.metrics['loss']:.2f}")
assert warm.metrics["accuracy"] > 0.85
assert cold.metrics["accuracy"] < 0.3

# %%
plt.plot(cold.losses, color=RED, linestyle="--", label="without warm-up")
plt.plot(warm.losses, color=BLUE, label="with warm-up")
plt.axhline(np.log(10), color="black", linestyle=":", label="guessing: ln 10 = 2.30")
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("a Transformer with layer normalization after the addition")
plt.ylim(0, 8)
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# Without warm-up the network returns to guessing, a loss of $\ln 10$, and hardly improves from there. This does not
# depend on these initial weights: with `transformer(1)`, 2 or 3 the curves differ, but the result does not. Since GPT-2
# most Transformers apply layer normalization before attention, inside the residual branch, so that gradients pass
# unchanged from the last layer to the first; such networks need warm-up less (Xiong et al. 2020, below).
#
# ## Exercises
#
# **1.** A cosine schedule decreases from $a$ to 0 over $T$ steps. Which fraction of the sum of all its learning rates
# lies in the first half? Integrate $(1 + \cos \pi u) / 2$, and check.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# From 0 to 1/2 the integral is 1/4 + 1/(2 pi), of 1/2 in all: a fraction of 1/2 + 1/pi = 0.818.
cosine = schedules.CosineAnnealing(1.0, 10_000)
spent = np.array([cosine.at(step) for step in range(10_000)])
share = spent[:5000].sum() / spent.sum()
print(f"{share:.4f}, by formula {1 / 2 + 1 / np.pi:.4f}")
assert abs(share - (1 / 2 + 1 / np.pi)) < 1e-3

# %% [markdown]
# **2.** `CosineAnnealing(1.0, 10, restarts=True, multiplier=2)` restarts at the maximum when it reaches the minimum,
# and each cycle is twice as long as the one before. At which of the first 200 steps is it at the maximum?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# The cycles take 10, 20, 40, 80 steps, so they begin at 0, 10, 30, 70, 150.
restarting = schedules.CosineAnnealing(1.0, 10, restarts=True, multiplier=2)
tops = [step for step in range(200) if restarting.at(step) == 1.0]
print(tops)
assert tops == [0, 10, 30, 70, 150]

# %% [markdown]
# **3.** Large language models are often trained with a *warmup-stable-decay* schedule: rising for $W$ steps, then
# constant, then falling linearly to 0 in the last tenth, so that the constant part can be extended for as long as there
# is data. Write it as a `Schedule`. `xp` has `where`, `minimum` and so on.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
points = {0: 0, 10: 0.05, 20: 0.1, 100: 0.1, 180: 0.1, 190: 0.05, 200: 0}  # step: learning rate


class WarmupStableDecay(schedules.Schedule):
    def __init__(self, peak, warmup_steps, steps):
        self.peak, self.warmup_steps, self.steps = peak, warmup_steps, steps

    def rate(self, xp, step):
        up = xp.real(step) / self.warmup_steps
        down = xp.real(self.steps - step) / (self.steps / 10)
        return self.peak * xp.minimum(xp.minimum(up, down), 1.0)


stable = WarmupStableDecay(0.1, 20, 200)
for step, rate in points.items():
    print(f"step {step:3d}: {stable.at(step):.2f} in float64, {float(stable(step)):.2f} in the framework")
    assert abs(stable.at(step) - rate) < 1e-12
    assert abs(float(stable(step)) - rate) < 1e-7

# %% [markdown]
# ## Further reading
#
# - The next chapter: [data augmentation](11-augmentation.ipynb)
# - [Dive into Deep Learning](https://d2l.ai/chapter_optimization/lr-scheduler.html), section 12.11: learning-rate
#   scheduling
# - Stanford CS231n, [Neural networks, part 3](https://cs231n.github.io/neural-networks-3/): annealing the learning rate
# - Smith 2017, [Cyclical Learning Rates](https://arxiv.org/abs/1506.01186): the range test; Smith, Topin 2018,
#   [Super-Convergence](https://arxiv.org/abs/1708.07120): one-cycle
# - Loshchilov, Hutter 2017, [SGDR](https://arxiv.org/abs/1608.03983): the cosine and its restarts
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762), section 5.3; Xiong et al. 2020,
#   [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745)
