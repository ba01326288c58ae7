# %% [markdown]
# # 1 神经元与激活函数
#
# **你会看到什么。** 一个人工神经元用一条直线把平面分成两半；激活函数决定它输出什么，激活函数的导数决定它能学到多少。你将画出五种激活函数及其导数，训练一个神经元，并观察梯度如何在一长串 sigmoid 中逐渐消失。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # 色盲也能分辨的配色

# %% [markdown]
# ## 加权求和与非线性
#
# 神经元把每个输入乘以一个权重，加上偏置，再把和送入激活函数 $f$：
#
# $$y = f(w_1 x_1 + w_2 x_2 + b)$$
#
# 和等于零的点构成一条直线：直线一侧的和为正，另一侧为负。下面取三个样本，每个样本有两个输入，分别手算和用 Keras 的层计算同一个神经元的加权和。

# %%
x = np.array([[1.0, 2.0], [0.0, 0.0], [-1.0, 3.0]], "float32")  # 三个样本，每个有两个输入
w, b = np.array([[2.0], [-1.0]], "float32"), np.array([0.5], "float32")

by_hand = x @ w + b
layer = keras.layers.Dense(1)
layer.build((None, 2))
layer.set_weights([w, b])
by_keras = keras.ops.convert_to_numpy(layer(x))
print("手算 ", by_hand.ravel())
print("Keras", by_keras.ravel(), "运行于", keras.backend.backend())
assert np.array_equal(by_hand, by_keras)

# %% [markdown]
# ## 五种激活函数
#
# 如果没有非线性，多层神经元就等价于一层：线性函数的复合仍是线性函数。下面是几种常用的激活函数，从早期网络使用的 sigmoid 到 Transformer 使用的 GELU：
#
# | 名称 | $f(x)$ | 导数的最大值 |
# | --- | --- | --- |
# | sigmoid | $1 / (1 + e^{-x})$ | 1/4，在 0 处 |
# | tanh | $(e^x - e^{-x}) / (e^x + e^{-x})$ | 1，在 0 处 |
# | ReLU | $\max(0, x)$ | 1，$x > 0$ 时 |
# | leaky ReLU | $\max(0.01 x, x)$ | 1，$x > 0$ 时 |
# | GELU | $x \, \Phi(x)$，$\Phi$ 为标准正态分布函数 | 1.13，在 $\sqrt 2$ 处 |
#
# 这里的导数不用手写公式，而是由各框架的自动微分算出。

# %%
ACTIVATIONS = {
    "sigmoid": keras.ops.sigmoid,
    "tanh": keras.ops.tanh,
    "ReLU": keras.ops.relu,
    "leaky ReLU": lambda x: keras.ops.leaky_relu(x, negative_slope=0.01),
    "GELU": lambda x: keras.ops.gelu(x, approximate=False),
}


def derivative(f, x):
    """由当前框架的自动微分求出各点 x 处的 f'(x)。"""
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
    axis.set(title=name, xlabel="输入 x", ylim=(-1.2, 2.2))
    axis.grid(alpha=0.3)
axes[0].set_ylabel("值")
axes[0].legend()
plt.show()

# %% [markdown]
# 框架算出的导数对吗？可以用有限差分独立验证：$(f(x+h) - f(x-h)) / 2h$。在 float32 下，有限差分大约有三位有效数字；ReLU 在 0 处不可导，所以避开那附近的点。

# %%
away = grid[np.abs(grid) > 0.05].astype("float64")
for name, f in ACTIVATIONS.items():
    up, down = (keras.ops.convert_to_numpy(f((away + h).astype("float32"))) for h in (0.01, -0.01))
    difference = np.abs((up - down) / 0.02 - derivative(f, away.astype("float32"))).max()
    print(f"{name:10s} 与有限差分最多相差 {difference:.0e}")
    assert difference < 1e-3

# %% [markdown]
# ## 训练一个神经元
#
# 数据是两团点，模型是一个带 sigmoid 的神经元。训练方法最简单：比较输出与目标，再把权重朝减小误差的方向移动一点。对于交叉熵损失，梯度可以直接写出来：$\frac{\partial L}{\partial w} = \frac{1}{n}\sum (y - t)\, x$，其中 $t$ 是目标，取 0 或 1。

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
print(f"损失 {losses[0]:.3f} -> {losses[-1]:.3f}，{accuracy:.0%} 的点分类正确")
assert accuracy > 0.9

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
left.scatter(*points[:100].T, color=BLUE, marker="o", label="类别 0")
left.scatter(*points[100:].T, color=ORANGE, marker="^", label="类别 1")
line = np.array([-3.0, 3.0])
left.plot(line, -(weights[0] * line + bias) / weights[1], color="black", label="输出为 1/2 的位置")
left.set(xlabel="输入 x1", ylabel="输入 x2", ylim=(-3.5, 3.5), title="决策边界")
left.legend()
right.plot(losses, color=GREEN)
right.set(xlabel="步", ylabel="交叉熵（奈特）", title="训练损失")
right.grid(alpha=0.3)
plt.show()

# %% [markdown]
# ## 为什么 sigmoid 被取代
#
# 反向传播时，梯度要逐层乘以激活函数的导数。sigmoid 的导数最大只有 1/4：经过十层，梯度至多剩下 $4^{-10}$，约百万分之一。下面让信号穿过二十层、每层五十个神经元的网络，权重的初始化使加权和的大小逐层保持不变，然后看看每一层得到的梯度有多大。

# %%
depth, width = 20, 50


def gradient_sizes(name, gain):
    """各层输入处梯度的均方根，从第一层到最后一层。"""
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
plt.xlabel("层（从输入端数起）")
plt.ylabel("梯度（均方根）")
plt.grid(alpha=0.3)
plt.legend()
plt.show()
print(
    f"用 sigmoid 时，第一层的梯度是最后一层的 {sizes['sigmoid'][0] / sizes['sigmoid'][-1]:.0e}，"
)
print(f"用 ReLU 和 He 初始化时是 {sizes['ReLU'][0] / sizes['ReLU'][-1]:.1f}")

# %% [markdown]
# ## 练习
#
# **1.** 用阶跃函数作激活的神经元，取权重 (1, 1)、偏置 -1.5，就能对 {0, 1} 中的两个输入计算 AND。请分别为 OR 和 NAND 找出权重和偏置。（XOR 没有解：一条直线分不开；第 3 章的两层网络可以做到。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
gates = {"OR": ((1, 1), -0.5, [0, 1, 1, 1]), "NAND": ((-1, -1), 1.5, [1, 1, 1, 0])}
for gate, (pair, offset, wanted) in gates.items():
    output = (corners @ np.array(pair) + offset > 0).astype(int)
    print(gate, output)
    assert output.tolist() == wanted

# %% [markdown]
# **2.** 用纸笔证明 sigmoid 的导数是 $f(x)(1 - f(x))$，再用一行 NumPy 与框架的结果核对。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# f = 1 / (1 + e^-x)，所以 f' = e^-x / (1 + e^-x)^2 = f * e^-x / (1 + e^-x) = f * (1 - f)
f = 1 / (1 + np.exp(-grid.astype("float64")))
largest = np.abs(derivative(keras.ops.sigmoid, grid) - f * (1 - f)).max()
print(f"最大差别 {largest:.0e}")
assert largest < 1e-6

# %% [markdown]
# **3.** GELU 的导数在哪里最大，最大值是多少？上面的表给出 $\sqrt 2$ 处的 1.13，请验证。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
fine = np.linspace(0, 4, 4001, dtype="float32")
slope = derivative(ACTIVATIONS["GELU"], fine)
print(f"导数的最大值 {slope.max():.3f}，在 {fine[slope.argmax()]:.2f} 处")
assert abs(fine[slope.argmax()] - np.sqrt(2)) < 0.02
assert abs(slope.max() - 1.129) < 1e-3

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[手工推导前向与反向传播](02-backward.ipynb)
# - Michael Nielsen，[Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap1.html) 第 1 章：感知机与 sigmoid 神经元
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/mlp.html) 4.1 节：多层感知机与激活函数
# - 吴恩达（Andrew Ng），[Neural Networks and Deep Learning](https://www.coursera.org/learn/neural-networks-deep-learning)：从一个神经元讲起的课程
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/mlp.html) 6.3 节
# - Hendrycks、Gimpel 2016，[Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)；He 等 2015，[Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852)
