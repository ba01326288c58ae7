# %% [markdown]
# # 8 优化器比较
#
# **你会看到什么。** 五种更新规则：SGD、Momentum、Adam、AdamW 和 LAMB。你将用几行 NumPy 写出每一种，验证 zoo 的优化器与之相符（只差舍入误差），在一个简单的损失曲面上比较它们，再用每一种训练同一个网络。然后把损失曲面旋转 45 度，Adam 就失去了优势。最后是一个陷阱：两个库对“动量”的定义不同。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

COLORS = {"SGD": "#000000", "Momentum": "#0072B2", "Adam": "#D55E00", "AdamW": "#CC79A7", "LAMB": "#009E73"}
DASHES = {"SGD": "-", "Momentum": "--", "Adam": "-", "AdamW": ":", "LAMB": "-."}

# %% [markdown]
# ## 五种更新规则
#
# $w$ 是权重，$g$ 是损失的梯度，$a$ 是学习率，$t = 1, 2, 3, \dots$ 是步数。箭头表示赋值。
#
# **SGD**（随机梯度下降）沿梯度的反方向更新：$w \leftarrow w - a\,g$。
#
# **Momentum**（动量）沿速度的方向更新。速度是过去梯度的累加，每一步衰减十分之一（$\mu = 0.9$）：
#
# $$v \leftarrow \mu v + g, \qquad w \leftarrow w - a\,v$$
#
# **Adam** 维护梯度及其平方的指数滑动平均（$\beta_1 = 0.9$，$\beta_2 = 0.999$）。两者都从零开始，起初偏小；除以 $1 - \beta^t$ 可以修正这一偏差。更新量是前一个平均除以后一个的平方根，所以无论梯度多大，每个权重每步都移动 $a$ 左右：
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2$$
#
# $$r = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \qquad w \leftarrow w - a\,r$$
#
# **AdamW** 还在每一步把权重按比例 $a d$ 缩小，与梯度无关：$w \leftarrow (1 - a d)\, w - a\, r$。
#
# **LAMB** 沿 Adam 的方向更新，但步长与 $w$ 的范数成正比，逐层计算：
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
# ## 与 zoo 的优化器一致吗？
#
# 用随机梯度更新十步：手写的规则用 float64，zoo 的优化器在当前框架上用 float32。float32 在 1 附近的间隔是 1.2e-7，所以十次更新之后相差 1e-6，纯属舍入误差。

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
    print(f"{name:8s} 与公式最多相差 {difference:.0e}")
    assert difference < 1e-6

# %% [markdown]
# ## 在狭长山谷中比较
#
# 一个二次损失函数，跨山谷方向的曲率是沿山谷方向的一百倍，最低点在 $(1, 1)$：
#
# $$L(w) = \tfrac12 (w_1 - 1)^2 + \tfrac{100}{2} (w_2 - 1)^2$$
#
# 狭长山谷的难处在于：学习率必须适应陡的方向，对平缓的方向就太小了。每种优化器都用适合自己的学习率，走一百步。

# %%
BOWL, LOWEST, START = np.diag([1.0, 100.0]), np.array([1.0, 1.0]), np.array([-2.0, 1.6])
RATES = {"SGD": 0.0175, "Momentum": 0.005, "Adam": 0.1, "AdamW": 0.1, "LAMB": 0.05}


def race(name, bowl=BOWL, lowest=LOWEST, start=START, steps=100, rate=None):
    """途经的各点，以及每一点的损失。"""
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
    axis.set(title=f"{name}，学习率 {RATES[name]}", xlabel="权重 w1", xlim=(-2.5, 2.5), ylim=(0.2, 1.8))
axes[0].set_ylabel("权重 w2")
plt.show()
for name, (_, loss) in valley.items():
    print(f"{name:8s} 25、50、100 步后的损失：{loss[25]:.1e} {loss[50]:.1e} {loss[100]:.1e}")
    assert loss[25] < loss[0] / 5

# %% [markdown]
# SGD 在两壁之间来回折返，然后沿谷底缓慢前进。Momentum 像小球一样滚动，会冲过头。Adam 几乎不受山谷形状的影响：它把每个坐标除以该坐标梯度的大小。学习率不变时 LAMB 不会收敛，因为它的步长与 $|w|$ 成正比，而不是与梯度成正比：这是需要学习率调度（第 10 章）的原因之一。
#
# 现在把损失曲面、最低点和起点都绕原点旋转 45 度。问题没有变，只是换了坐标系。

# %%
turn = np.array([[1.0, -1.0], [1.0, 1.0]]) / np.sqrt(2)
turned = {name: race(name, turn @ BOWL @ turn.T, turn @ LOWEST, turn @ START) for name in RULES}

figure, axes = plt.subplots(1, 2, figsize=(11, 3.6), sharey=True, layout="constrained")
for axis, runs, title in zip(
    axes, (valley, turned), ("沿坐标轴的山谷", "旋转 45 度的山谷"), strict=True
):
    for name, (_, loss) in runs.items():
        axis.semilogy(loss, color=COLORS[name], linestyle=DASHES[name], label=name)
    axis.set(title=f"{title}", xlabel="步", ylim=(1e-5, 1e2))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("损失")
axes[1].legend(loc="lower left", ncols=2)
plt.show()
for name in RULES:
    print(f"{name:8s} 100 步后的损失：{valley[name][1][-1]:.1e}，旋转后 {turned[name][1][-1]:.1e}")
for name in ("SGD", "Momentum"):
    assert np.allclose(valley[name][1], turned[name][1], rtol=1e-6)
assert turned["Adam"][1][-1] > 100 * valley["Adam"][1][-1]

# %% [markdown]
# 对 SGD 和 Momentum 来说，旋转之后每一步都与原来相同。Adam 逐个坐标地缩放，而在斜着的山谷里，没有哪个坐标适合单独缩放：它要求坐标轴有意义。在网络中坐标轴确实有意义，因为每个坐标就是一个权重，所以 Adam 在网络中效果很好。
#
# ## 训练网络
#
# 一个有 64 个隐藏神经元的多层感知机，数据是 scikit-learn 的手写数字；初始权重和批次都相同。`zoo.train` 使用框架自己的优化器：`torch.optim`、optax，或 TensorFlow 的更新内核。

# %%
NETWORK_RATES = {"SGD": 0.2, "Momentum": 0.05, "Adam": 0.01, "AdamW": 0.01, "LAMB": 0.02}
digits = zoo.tasks.load("digits", (8, 8, 1))
learn, held_out = (
    [part[:1408] for part in digits.train],
    [part[:320] for part in digits.test],
)  # 整数个批次


def trained(name, rate):
    model = zoo.build("mlp", widths=(64,), shape=(8, 8, 1), seed=0)
    optimizer = getattr(zoo.optimizers, name)(learning_rate=rate)
    return zoo.train(model, tuple(learn), validation=tuple(held_out), optimizer=optimizer, epochs=4)


runs = {}
for name, rate in NETWORK_RATES.items():
    runs[name] = trained(name, rate)
    print(f"{name:8s} 学习率 {rate:<4}  留出数字上的准确率 {runs[name].metrics['accuracy']:.3f}")
    assert runs[name].metrics["accuracy"] > 0.85

slow = trained("SGD", 0.01)
print(
    f"SGD 用 Adam 的学习率，最后的损失是 {slow.losses[-1]:.2f}，Adam 是 {runs['Adam'].losses[-1]:.2f}"
)
assert slow.losses[-1] > 4 * runs["Adam"].losses[-1]

# %%
for name, run in runs.items():
    smooth = np.convolve(run.losses, np.ones(8) / 8, mode="valid")  # 八步的滑动平均
    plt.plot(smooth, color=COLORS[name], linestyle=DASHES[name], label=name)
plt.xlabel("步")
plt.ylabel("交叉熵（奈特），8 步平均")
plt.title("一个网络，五种优化器")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# 学习率相差二十倍，曲线的差别却小得多。如果不为每种优化器选好学习率，比较就没有意义：用 Adam 的学习率 0.01，SGD 几乎还没有开始学习。Adam 与 AdamW 的曲线重合，因为 88 步、$a d = 10^{-4}$ 只使权重缩小不到百分之一。
#
# ## 陷阱：动量的两种定义
#
# PyTorch 和 zoo 先累加梯度，最后才乘以学习率。Keras 自带的 `SGD(momentum=...)` 先乘以学习率，累加的是每一步的更新量：
#
# $$v \leftarrow \mu v - a\, g, \qquad w \leftarrow w + v$$
#
# 学习率不变时两者等价。当学习率调度把学习率调低，zoo 的下一步立刻变小；而 Keras 的速度中仍保留着按旧学习率累加的更新量，于是继续快速移动。把训练脚本从一个库移植到另一个库，结果就会不同，而且没有任何提示。这里学习率在十步之后从 0.005 降到 0.00005。

# %%
drop = zoo.schedules.StepDecay(0.005, [10], 0.01)


def slide(optimizer, steps=30):
    """第一个权重沿途的值。"""
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

plt.plot(dropped[0], color=COLORS["Momentum"], label="zoo 与 PyTorch")
plt.plot(dropped[1], color=COLORS["Adam"], linestyle="--", label="Keras 自带")
plt.axvline(10, color="#999999", linestyle=":", label="学习率降到百分之一")
plt.xlabel("步")
plt.ylabel("权重 w1")
plt.title("旧速度的影响")
plt.legend()
plt.show()
moved = [path[-1] - path[10] for path in dropped]
print(f"学习率下降之后，zoo 的 w1 还移动 {moved[0]:.3f}，Keras 的还移动 {moved[1]:.3f}")
assert moved[1] > 20 * abs(moved[0])

# %% [markdown]
# ## 练习
#
# **1.** 在山谷陡的方向上，SGD 的一步是 $w_2 - 1 \leftarrow (1 - 100 a)(w_2 - 1)$。不发散的最大学习率是多少？在略小和略大处各验证一次。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 只要 |1 - 100 a| < 1 就会缩小，即 0 < a < 2/100 = 0.02：2 除以最大曲率。
below, above = (race("SGD", rate=rate)[1][-1] for rate in (0.0199, 0.0201))
print(f"100 步后的损失：学习率 0.0199 时 {below:.1e}，0.0201 时 {above:.1e}")
assert below < race("SGD")[1][0] < above

# %% [markdown]
# **2.** Adam 的第一步有多大？先由公式推导，再把梯度乘以一千看看。SGD 又如何？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# t = 1 时，修正后的平均是 g 和 g^2，所以 r = g / (|g| + epsilon)，即 g 的符号。步长就是学习率本身。
g = np.array([0.3, -0.002])
first = [-adam(np.zeros(2), scale * g, {}, 1, a=0.01) for scale in (1, 1000)]
print("Adam", first[0], first[1])
print("SGD ", -sgd(np.zeros(2), g, {}, 1, a=0.01), -sgd(np.zeros(2), 1000 * g, {}, 1, a=0.01))
assert np.allclose(first, 0.01 * np.sign(g), rtol=1e-4)

# %% [markdown]
# **3.** zoo 的 `Adam(weight_decay=d)` 与 PyTorch 相同，把 $d\,w$ 加到梯度上；`AdamW` 则单独做权重衰减。取两个等于 1 的权重，梯度的正负号随机，大小分别为 10 和 0.01。当 $d = 0.1$ 时，200 步之后，两种优化器各使哪个权重缩小了？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 在 Adam 中，衰减也要除以梯度的大小：梯度最大的权重衰减得最少。
sizes, steps, ends = np.array([10.0, 0.01]), 200, {}
signs = np.tile([1.0, -1.0, -1.0, 1.0], steps // 4)  # 正负各半
for name in ("Adam", "AdamW"):
    weight = keras.Variable(np.ones(2, "float32"))
    optimizer = getattr(zoo.optimizers, name)(learning_rate=0.01, weight_decay=0.1)
    optimizer.build([weight])
    for sign in signs:
        optimizer.apply([keras.ops.convert_to_tensor((sign * sizes).astype("float32"))], [weight])
    ends[name] = keras.ops.convert_to_numpy(weight)
    print(
        f"{name:5s} 从 1 变到 {ends[name][0]:.3f}（大梯度）和 {ends[name][1]:.3f}（小梯度）"
    )
assert ends["Adam"][0] > 0.95
assert ends["Adam"][1] < 0.1  # 几乎不变，或几乎衰减到零
assert np.allclose(ends["AdamW"], 0.999**steps, atol=0.03)  # 两者都是 (1 - a d)^steps

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[正则化](09-regularization.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_optimization/index.html)第 11 章：从梯度下降到 Adam
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/optimization.html) 第 8 章
# - 斯坦福 CS231n，[Neural networks, part 3](https://cs231n.github.io/neural-networks-3/)：参数更新
# - Gabriel Goh，[Why Momentum Really Works](https://distill.pub/2017/momentum/)
# - Kingma、Ba 2015，[Adam](https://arxiv.org/abs/1412.6980)；Loshchilov、Hutter 2019，[Decoupled Weight Decay](https://arxiv.org/abs/1711.05101)；You 等 2020，[Large Batch Optimization (LAMB)](https://arxiv.org/abs/1904.00962)
