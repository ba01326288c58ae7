# %% [markdown]
# # 10 学习率调度
#
# **你会看到什么。** 学习率不必固定不变。你将画出阶梯衰减、余弦退火、预热加衰减和单周期等学习率调度，并逐一与公式核对；看到在有噪声的标签上，逐渐降低学习率有什么好处；用范围测试找一个合适的学习率，为此自己写一个调度；最后看到一个小 Transformer 没有预热就几乎学不到东西。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers, optimizers, schedules

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, RED = "#0072B2", "#E69F00", "#D55E00"

# %% [markdown]
# ## 五种学习率调度
#
# $a$ 是峰值学习率，$T$ 是总步数，$W$ 是其中预热的步数，$s = 0, 1, 2, \dots$ 是当前步。
#
# | 调度 | 第 $s$ 步的学习率 |
# | --- | --- |
# | 阶梯衰减 | $a \cdot 0.1^{\lfloor s / 40 \rfloor}$：每 40 步降到十分之一 |
# | 余弦退火 | $a\, (1 + \cos(\pi s / T)) / 2$ |
# | 预热后线性下降 | 到 $W$ 为止 $a\, s / W$，然后 $a\, (T - s) / (T - W)$ |
# | 预热后按平方根倒数下降 | 到 $W$ 为止 $a\, s / W$，然后 $a \sqrt{W / s}$ |
# | 单周期 | 从 $a / 25$ 升到 $a$，再降到 $a / 250{,}000$，各沿半个余弦 |
#
# 下面用 NumPy 写出这张表，与 `zoo.schedules` 核对。调度以两种方式给出学习率：`at(step)` 返回 float64，供 Python 循环使用；`schedule(step)` 返回框架的张量，供编译过的训练步使用。

# %%
T, W, PEAK = 120, 20, 0.1
s = np.arange(T)
turn = 0.3 * T - 1  # 单周期的峰值：在十分之三处
rise, fall = np.minimum(s / turn, 1), np.clip((s - turn) / (T - 1 - turn), 0, 1)
upward = PEAK / 25 + (PEAK - PEAK / 25) * (1 - np.cos(np.pi * rise)) / 2
downward = PEAK / 250_000 + (PEAK - PEAK / 250_000) * (1 + np.cos(np.pi * fall)) / 2

CURVES = {
    "阶梯衰减": (schedules.StepDecay(PEAK, 40, 0.1), PEAK * 0.1 ** (s // 40)),
    "余弦退火": (schedules.CosineAnnealing(PEAK, T), PEAK * (1 + np.cos(np.pi * s / T)) / 2),
    "预热后线性下降": (
        schedules.WarmupDecay(PEAK, W, T),
        PEAK * np.where(s < W, s / W, (T - s) / (T - W)),
    ),
    "预热后按平方根倒数下降": (
        schedules.WarmupDecay(PEAK, W, decay="inverse_square_root"),
        PEAK * np.where(s < W, s / W, np.sqrt(W / np.maximum(s, W))),
    ),
    "单周期": (schedules.OneCycle(PEAK, T), np.where(s <= turn, upward, downward)),
}
for name, (schedule, formula) in CURVES.items():
    on_host = np.array([schedule.at(step) for step in range(T)])
    in_framework = keras.ops.convert_to_numpy(schedule(s))
    differences = [np.abs(rates - formula).max() / PEAK for rates in (on_host, in_framework)]
    print(f"float64 误差 {differences[0]:.0e}，{in_framework.dtype} 误差 {differences[1]:.0e}：{name:21s}")
    assert differences[0] < 1e-12
    assert differences[1] < 1e-6

# %%
figure, axes = plt.subplots(1, 5, figsize=(16, 3), sharey=True, layout="constrained")
for axis, (name, (_, rates)) in zip(axes, CURVES.items(), strict=True):
    axis.plot(rates, color=BLUE)
    axis.set(title=name, xlabel="步", ylim=(0, 0.105))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("学习率")
momentum = axes[-1].twinx()
momentum.plot(
    [schedules.OneCycle(PEAK, T).momentum_at(step) for step in range(T)], color=ORANGE, linestyle="--"
)
momentum.set_ylabel("动量（虚线）")
plt.show()

# %% [markdown]
# 单周期还会同时调整动量，方向相反。另外注意预热的第一步：学习率是 0，权重不变。有些库从 $a / W$ 开始，相差一步就会使两个训练脚本的结果不同。
#
# ## 降低学习率的好处
#
# 学习率高，进展快，但批次带来的梯度噪声使权重不断抖动；学习率低，能够收敛，但要很久才能到达。为了看清这一点，我们让五分之一的训练标签出错，产生足够的噪声。留出的标签都正确。`RATES` 中可以换成任何其他调度。

# %%
digits, rng = zoo.tasks.load("digits", (8, 8, 1)), np.random.default_rng(0)
x, y, noisy = digits.train[0][:1408], digits.train[1][:1408], digits.train[1][:1408].copy()
noisy[:281] = (noisy[:281] + rng.integers(1, 10, 281)) % 10
held_out = digits.test[0][:320], digits.test[1][:320]

STEPS = 176  # 两轮，每批 16 个样本
RATES = {
    "固定 0.1": (0.1, RED, "-"),
    "固定 0.01": (0.01, "black", ":"),
    "余弦，从 0.1 开始": (schedules.CosineAnnealing(0.1, STEPS), BLUE, "--"),
}


def fit(rate, steps=STEPS):
    model = zoo.build("mlp", widths=(64,), shape=(8, 8, 1), seed=0)
    optimizer = optimizers.Momentum(rate)
    return zoo.train(model, (x, noisy), validation=held_out, optimizer=optimizer, steps=steps, batch_size=16)


runs = {name: fit(rate) for name, (rate, *_) in RATES.items()}
for name, run in runs.items():
    loss, accuracy = run.metrics["loss"], run.metrics["accuracy"]
    print(f"留出损失 {loss:.2f}，准确率 {accuracy:.3f}：{name:15s}")
ends = {name: run.metrics["loss"] for name, run in runs.items()}
assert ends["余弦，从 0.1 开始"] < 0.8 * ends["固定 0.1"]
assert ends["余弦，从 0.1 开始"] < 0.9 * ends["固定 0.01"]

# %%
for name, (_, color, style) in RATES.items():
    smooth = np.convolve(runs[name].losses, np.ones(32) / 32, mode="valid")
    plt.plot(np.arange(31, STEPS), smooth, color=color, linestyle=style, label=name)
plt.xlabel("步")
plt.ylabel("交叉熵（奈特），最近 32 步平均")
plt.title("在有噪声的标签上训练")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# ## 选择学习率：范围测试
#
# Leslie Smith 的测试：让学习率每一步乘以同一个倍数，从很低一直升到很高，看损失在哪里下降最快，又在哪里开始上升。zoo 没有这样的调度，可以自己写：定义一个子类，写出公式 `rate`。`xp` 代表 NumPy 或 Keras 的运算，所以一个公式两处可用。

# %%
FIRST, LAST = 0.001, 3.0


class Rising(schedules.Schedule):
    """从第一个学习率到最后一个，每步乘以同一个倍数。"""

    def __init__(self, first, last, steps):
        self.first, self.last, self.steps = first, last, steps

    def rate(self, xp, step):
        return self.first * (self.last / self.first) ** (xp.real(step) / self.steps)


rising = Rising(FIRST, LAST, STEPS)
losses = np.array(fit(rising).losses)
rates = np.array([rising.at(step) for step in range(STEPS)])
smooth = np.convolve(losses, np.ones(15) / 15, mode="same")[7:-7]
best = rates[7:-7][smooth.argmin()]

plt.semilogx(rates, losses, color="#BBBBBB", linewidth=1, label="每一步")
plt.semilogx(rates[7:-7], smooth, color=BLUE, label="15 步平均")
plt.axvline(best, color=RED, linestyle="--", label=f"最低点 {best:.2f}")
plt.xlabel("学习率")
plt.ylabel("交叉熵（奈特）")
plt.title("范围测试")
plt.ylim(0, 5)
plt.legend()
plt.show()
assert 0.01 < best < 0.3
assert losses[-20:].mean() > 2 * smooth.min()

# %% [markdown]
# 最低点已经处在稳定的边缘：通常取该学习率的三分之一到十分之一，或者把它当作峰值，配一个从低处开始、最后下降的调度。超过边缘，训练在几步之内就会发散。
#
# ## Transformer 为什么需要预热
#
# Adam 的头几步都是全步长：无论梯度多大，每个权重都移动一个学习率（第 8 章练习 2），而此时对梯度大小的估计只来自几个批次。2017 年发表的 Transformer 把层归一化放在每次残差相加*之后*；这时最后几层的梯度起初很大，这样的步子可能造成训练无法恢复的破坏。下面这个 Transformer 把一个数字读作八行、每行八个像素：三个块，AdamW，很高的峰值学习率 0.03，随后降到 0。两次训练的唯一区别是：学习率在 88 步中的前 22 步是否逐渐上升。

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
for name, run in (("无预热", cold), ("有预热", warm)):
    print(f"准确率 {run.metrics['accuracy']:.2f}，损失 {run.metrics['loss']:.2f}：{name:7s}")
assert warm.metrics["accuracy"] > 0.85
assert cold.metrics["accuracy"] < 0.3

# %%
plt.plot(cold.losses, color=RED, linestyle="--", label="无预热")
plt.plot(warm.losses, color=BLUE, label="有预热")
plt.axhline(np.log(10), color="black", linestyle=":", label="随机猜测：ln 10 = 2.30")
plt.xlabel("步")
plt.ylabel("交叉熵（奈特）")
plt.title("层归一化在相加之后的 Transformer")
plt.ylim(0, 8)
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# 没有预热，网络退回到随机猜测，损失是 $\ln 10$，之后几乎没有改善。这并不是初始权重碰巧不好：换成 `transformer(1)`、2 或 3，曲线不同，结果一样。从 GPT-2 开始，多数 Transformer 把层归一化放在注意力之前、残差支路之内，梯度可以从最后一层原样传到第一层；这样的网络不那么需要预热（见文末 Xiong 等 2020）。
#
# ## 练习
#
# **1.** 余弦调度在 $T$ 步内从 $a$ 降到 0。所有学习率之和中，前一半步数占多大比例？对 $(1 + \cos \pi u) / 2$ 积分，再验证。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 从 0 到 1/2 的积分是 1/4 + 1/(2 pi)，全部是 1/2：占 1/2 + 1/pi = 0.818。
cosine = schedules.CosineAnnealing(1.0, 10_000)
spent = np.array([cosine.at(step) for step in range(10_000)])
share = spent[:5000].sum() / spent.sum()
print(f"{share:.4f}，按公式 {1 / 2 + 1 / np.pi:.4f}")
assert abs(share - (1 / 2 + 1 / np.pi)) < 1e-3

# %% [markdown]
# **2.** `CosineAnnealing(1.0, 10, restarts=True, multiplier=2)` 降到最低就重新从最高处开始，每个周期的步数是前一个的两倍。前 200 步中，它在哪几步处于最高？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 各周期长 10、20、40、80 步，所以从第 0、10、30、70、150 步开始。
restarting = schedules.CosineAnnealing(1.0, 10, restarts=True, multiplier=2)
tops = [step for step in range(200) if restarting.at(step) == 1.0]
print(tops)
assert tops == [0, 10, 30, 70, 150]

# %% [markdown]
# **3.** 大语言模型常用“预热、稳定、衰减”（warmup-stable-decay）调度：$W$ 步升到峰值，然后保持不变，在最后十分之一线性降到 0，这样只要还有数据，就可以一直延长稳定阶段。把它写成一个 `Schedule`。`xp` 有 `where`、`minimum` 等函数。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
points = {0: 0, 10: 0.05, 20: 0.1, 100: 0.1, 180: 0.1, 190: 0.05, 200: 0}  # 步：学习率


class WarmupStableDecay(schedules.Schedule):
    def __init__(self, peak, warmup_steps, steps):
        self.peak, self.warmup_steps, self.steps = peak, warmup_steps, steps

    def rate(self, xp, step):
        up = xp.real(step) / self.warmup_steps
        down = xp.real(self.steps - step) / (self.steps / 10)
        return self.peak * xp.minimum(xp.minimum(up, down), 1.0)


stable = WarmupStableDecay(0.1, 20, 200)
for step, rate in points.items():
    print(f"第 {step:3d} 步：float64 中 {stable.at(step):.2f}，框架中 {float(stable(step)):.2f}")
    assert abs(stable.at(step) - rate) < 1e-12
    assert abs(float(stable(step)) - rate) < 1e-7

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[数据增强](11-augmentation.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_optimization/lr-scheduler.html) 11.11 节：学习率调度器
# - 斯坦福 CS231n，[Neural networks, part 3](https://cs231n.github.io/neural-networks-3/)：学习率的退火
# - Smith 2017，[Cyclical Learning Rates](https://arxiv.org/abs/1506.01186)：范围测试；Smith、Topin 2018，[Super-Convergence](https://arxiv.org/abs/1708.07120)：单周期
# - Loshchilov、Hutter 2017，[SGDR](https://arxiv.org/abs/1608.03983)：余弦退火与重启
# - Vaswani 等 2017，[Attention Is All You Need](https://arxiv.org/abs/1706.03762) 5.3 节；Xiong 等 2020，[On Layer Normalization in the Transformer Architecture](https://arxiv.org/abs/2002.04745)
