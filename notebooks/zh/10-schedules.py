# %% [markdown]
# # 10 学习率调度
#
# **你会看到什么。** 学习率不必是一个固定的数。你将画出阶梯衰减、余弦退火、预热加衰减和单周期，并逐一与公式核对；看到在有噪声的标签上，
# 逐渐下降的学习率能换来什么；用范围测试找一个好的学习率，为此亲手写一个调度；再看一个小 Transformer 因为没有预热而几乎什么也学不到。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers, optimizers, schedules

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"

# %% [markdown]
# ## 五条曲线
#
# $a$ 是峰值学习率，$T$ 是总步数，$W$ 是其中预热的步数，$s = 0, 1, 2, \dots$ 是步。
#
# | 调度 | 第 $s$ 步的学习率 |
# | --- | --- |
# | 阶梯衰减 | $a \cdot 0.1^{\lfloor s / 40 \rfloor}$：每 40 步降到十分之一 |
# | 余弦退火 | $a\, (1 + \cos(\pi s / T)) / 2$ |
# | 预热后线性下降 | 到 $W$ 为止 $a\, s / W$，然后 $a\, (T - s) / (T - W)$ |
# | 预热后按平方根倒数下降 | 到 $W$ 为止 $a\, s / W$，然后 $a \sqrt{W / s}$ |
# | 单周期 | 从 $a / 25$ 升到 $a$，再降到 $a / 250{,}000$，各沿半个余弦 |
#
# 下面用 NumPy 写出这张表，与 `zoo.schedules` 核对。调度以两种方式给出学习率：`at(step)` 是 float64，供 Python 循环使用；
# `schedule(step)` 是框架的张量，供编译过的训练步使用。

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
# 单周期连动量也一起调，方向相反。还要留意预热的第一步：学习率是 0，什么也不改变。有些库从 $a / W$ 开始，
# 这样错开一步，就能让两个训练脚本的结果不同。
#
# ## 下降的学习率换来什么
#
# 高的学习率走得快，但批次的噪声不断把权重甩来甩去；低的学习率能安定下来，可是要很久才走得到。为了看清这一点，
# 我们让五分之一的数字带上错误的标签，噪声就足够了。留出的标签都是对的。`RATES` 里可以放进任何别的调度。

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
# ## 多高才好？范围测试
#
# Leslie Smith 的测试：让学习率每一步乘以同一个倍数，从远远太低升到远远太高，看损失在哪里降得最快，又在哪里掉头向上。zoo 没有这样的调度，
# 那就写一个：一个子类，一个公式 `rate`。`xp` 代表 NumPy 或 Keras 的运算，所以一个公式两处可用。

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
# 最低点已经在悬崖边上：通常取它的三分之一到十分之一，或者把它当作峰值，配一个从低处开始、最后下降的调度。过了边缘，网络几步之内就毁了。
#
# ## Transformer 为什么要预热
#
# Adam 的头几步就是整步：不论梯度多大，每个权重都移动一个学习率（第 8 章练习 2），而梯度的大小只是从几个批次里猜出来的。2017
# 年发表的 Transformer 把层归一化放在每次相加*之后*；这时最后几层的梯度起初很大，这样的一步就可能毁掉再也修不好的东西。下面这个
# Transformer 把一个数字读作八行、每行八个像素：三个块，AdamW，很高的峰值学习率 0.03，随后降到 0。唯一的差别是：88 步中的头 22
# 步是否逐渐上升。

# %%
DEPTH, WIDTH = 3, 32


def transformer(seed=0):
    with zoo.random.seeded(seed):
        image = layers.Input((8, 8, 1))
        h = layers.dense(keras.layers.Reshape((8, 8))(image), WIDTH, name="embedding")
        h = layers.learnt_positions(h, 8, initializer=zoo.random.normal(0.02), name="positions")
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
# 没有预热，网络被打回到瞎猜，损失是 $\ln 10$，几乎再也走不出来。这并不是初始权重碰巧不好：换成 `transformer(1)`、2 或
# 3，曲线不同，结局一样。自 GPT-2 以来，多数 Transformer 把归一化放在注意力之前、支路里面，于是各次相加连成一条从最后一层直通第一层的路；
# 这样的网络不那么需要预热（见文末 Xiong 等 2020）。
#
# ## 练习
#
# **1.** 余弦在 $T$ 步内从 $a$ 降到 0。所有学习率之和有多大一部分落在前一半？对 $(1 + \cos \pi u) / 2$ 积分，再验证。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# From 0 to 1/2 the integral is 1/4 + 1/(2 pi), of 1/2 in all: a fraction of 1/2 + 1/pi = 0.818.
cosine = schedules.CosineAnnealing(1.0, 10_000)
spent = np.array([cosine.at(step) for step in range(10_000)])
share = spent[:5000].sum() / spent.sum()
print(f"{share:.4f}, by formula {1 / 2 + 1 / np.pi:.4f}")
assert abs(share - (1 / 2 + 1 / np.pi)) < 1e-3

# %% [markdown]
# **2.** `CosineAnnealing(1.0, 10, restarts=True, multiplier=2)` 降到底就跳回顶上，每次所用的步数加倍。前 200 步里，它在哪几步位于顶上？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# The cycles take 10, 20, 40, 80 steps, so they begin at 0, 10, 30, 70, 150.
restarting = schedules.CosineAnnealing(1.0, 10, restarts=True, multiplier=2)
tops = [step for step in range(200) if restarting.at(step) == 1.0]
print(tops)
assert tops == [0, 10, 30, 70, 150]

# %% [markdown]
# **3.** 大语言模型常用“预热、稳定、衰减”（warm-up, stable, decay）：$W$ 步升上去，然后持平，在最后十分之一里直线降到
# 0，这样只要还有数据，平的一段就可以一直延长。把它写成一个 `Schedule`。`xp` 有 `where`、`minimum` 之类的函数。

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
# ## 继续阅读
#
# - 下一章：[数据增强](11-augmentation.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_optimization/lr-scheduler.html) 11.11 节：学习率调度器
# - 斯坦福 CS231n，[Neural networks, part 3](https://cs231n.github.io/neural-networks-3/)：学习率的退火
# - Smith 2017，[Cyclical Learning Rates](https://arxiv.org/abs/1506.01186)：范围测试；Smith、Topin 2018，
#   [Super-Convergence](https://arxiv.org/abs/1708.07120)：单周期
# - Loshchilov、Hutter 2017，[SGDR](https://arxiv.org/abs/1608.03983)：余弦及其重启
# - Vaswani 等 2017，[Attention Is All You Need](https://arxiv.org/abs/1706.03762) 5.3 节；Xiong 等 2020，
#   [On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745)
