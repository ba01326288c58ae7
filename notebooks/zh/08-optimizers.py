# %% [markdown]
# # 8 优化器
#
# **你会看到什么。** 把梯度变成一步更新的五种规则：SGD、Momentum、Adam、AdamW 和 LAMB。你将用几行 NumPy 写出每一种，验证 zoo
# 的实现与之相符（只差舍入），让它们在同一道山谷里赛跑，再用每一种训练同一个网络。然后你把山谷转 45 度，Adam
# 就失去了刚赢来的优势。最后是一个陷阱：两个库把不同的东西都叫做“动量”。

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
# ## 五种规则
#
# $w$ 是权重，$g$ 是损失的梯度，$a$ 是学习率，$t = 1, 2, 3, \dots$ 是步数。箭头读作“变成”。
#
# **SGD**（随机梯度下降）逆着梯度走：$w \leftarrow w - a\,g$。
#
# **Momentum**（动量）沿着速度走。速度是过去梯度之和，每一步忘掉十分之一（$\mu = 0.9$）：
#
# $$v \leftarrow \mu v + g, \qquad w \leftarrow w - a\,v$$
#
# **Adam** 记住梯度和梯度平方的滑动平均（$\beta_1 = 0.9$，$\beta_2 = 0.999$）。两者都从零开始，起初偏小；除以
# $1 - \beta^t$ 就纠正过来。更新量是一个平均除以另一个的平方根，所以不论梯度多大，每个权重每步都移动 $a$ 左右：
#
# $$m \leftarrow \beta_1 m + (1 - \beta_1)\, g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2)\, g^2$$
#
# $$r = \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon}, \qquad w \leftarrow w - a\,r$$
#
# **AdamW** 还让权重按 $a d$ 的比例缩小，与梯度分开：$w \leftarrow (1 - a d)\, w - a\, r$。
#
# **LAMB** 取 Adam 的方向，但步长是 $w$ 自身长度的一个比例，逐层计算：
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
# ## 和 zoo 的一样吗？
#
# 用随机梯度走十步：我们的用 float64，zoo 的用当前框架上的 float32。在 float32 中，1 附近的数以 1.2e-7 为间隔舍入，
# 所以十次更新之后 1e-6 的差别只是舍入，没有别的。

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
# ## 一道山谷，一场赛跑
#
# 一个碗，横向的曲率是纵向的一百倍，最低点在 $(1, 1)$：
#
# $$L(w) = \tfrac12 (w_1 - 1)^2 + \tfrac{100}{2} (w_2 - 1)^2$$
#
# 山谷的麻烦在于：学习率必须迁就陡的一侧，于是对平缓的一侧就太小。每种规则都用适合自己的学习率，走一百步。

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
# SGD 在两壁之间来回折，然后沿谷底慢慢爬。Momentum 像球一样滚，会冲过头。Adam 几乎看不见山谷：它把每个坐标除以该坐标自己的梯度大小。
# 学习率不变时 LAMB 停不下来，因为它的步长是 $|w|$ 的一个比例，而不取决于梯度：这是第 10 章的理由之一。
#
# 现在把一切绕原点转 45 度：碗、最低点和起点。这是同一个问题，只是看的人歪了歪头。

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
# 对 SGD 和 Momentum 来说，转过的山谷还是那道山谷，每一步都一样。Adam 逐个坐标地缩放，而斜着的山谷没有哪个坐标可供缩放：
# 它需要坐标轴有意义。在网络里坐标轴确实有意义，因为每一条轴就是一个权重；Adam 在那里好用，原因就在此。
#
# ## 一个网络
#
# 一个有 64 个隐藏神经元的感知机，数据是 scikit-learn 的手写数字；初始权重相同，批次也相同。`zoo.train` 用的是框架自己的优化器：
# `torch.optim`、optax，或 TensorFlow 的更新内核。

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
# 学习率相差二十倍，曲线的差别却小得多。离开学习率谈优化器没有多大意义：用 Adam 的 0.01，SGD 几乎还没起步。Adam 与 AdamW
# 的曲线重叠，因为 88 步、$a d = 10^{-4}$ 使权重缩小不到百分之一。
#
# ## 陷阱：两种动量
#
# PyTorch 和 zoo 累加梯度，最后才乘学习率。Keras 自己的 `SGD(momentum=...)` 先乘学习率，累加的是步子：
#
# $$v \leftarrow \mu v - a\, g, \qquad w \leftarrow w + v$$
#
# 学习率不变时两者相等。当调度把学习率降下来，zoo 的下一步立刻变小；而 Keras 的速度里还留着旧步子，大小照旧，于是继续滑行。
# 一个训练脚本从一个库搬到另一个库，数字就会不同，而且没有任何提示。这里学习率在十步之后从 0.005 降到 0.00005。

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
# ## 练习
#
# **1.** 沿山谷陡的一侧，SGD 的一步是 $w_2 - 1 \leftarrow (1 - 100 a)(w_2 - 1)$。不至于跑飞的最大学习率是多少？在略小和略大处各验证一次。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# It shrinks while |1 - 100 a| < 1, that is 0 < a < 2/100 = 0.02: two divided by the largest curvature.
below, above = (race("SGD", rate=rate)[1][-1] for rate in (0.0199, 0.0201))
print(f"loss after 100 steps: {below:.1e} at 0.0199, {above:.1e} at 0.0201")
assert below < race("SGD")[1][0] < above

# %% [markdown]
# **2.** Adam 的第一步有多大？先由公式算出，再把梯度乘以一千看看。SGD 又如何？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# At t = 1 the corrected averages are g and g^2, so r = g / (|g| + epsilon), the sign of g: a step of size a.
g = np.array([0.3, -0.002])
first = [-adam(np.zeros(2), scale * g, {}, 1, a=0.01) for scale in (1, 1000)]
print("Adam", first[0], first[1])
print("SGD ", -sgd(np.zeros(2), g, {}, 1, a=0.01), -sgd(np.zeros(2), 1000 * g, {}, 1, a=0.01))
assert np.allclose(first, 0.01 * np.sign(g), rtol=1e-4)

# %% [markdown]
# **3.** zoo 的 `Adam(weight_decay=d)` 和 PyTorch 的一样，把 $d\,w$ 加到梯度上；`AdamW` 则把衰减分开。取两个等于 1
# 的权重，梯度的正负号随机，一个大小为 10，另一个为 0.01。当 $d = 0.1$，走 200 步之后，两种规则各缩小了哪一个？

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
# ## 继续阅读
#
# - 下一章：[正则化](09-regularization.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_optimization/index.html) 第 11 章：从梯度下降到 Adam
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/optimization.html) 第 8 章
# - 斯坦福 CS231n，[Neural networks, part 3](https://cs231n.github.io/neural-networks-3/)：参数更新
# - Gabriel Goh，[Why Momentum Really Works](https://distill.pub/2017/momentum/)
# - Kingma、Ba 2015，[Adam](https://arxiv.org/abs/1412.6980)；Loshchilov、Hutter 2019，
#   [Decoupled Weight Decay](https://arxiv.org/abs/1711.05101)；You 等 2020，
#   [Large Batch Optimization (LAMB)](https://arxiv.org/abs/1904.00962)
