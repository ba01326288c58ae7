# %% [markdown]
# # 1 神经元与激活函数
#
# **你会看到什么。** 一个人工神经元在平面上画出一条直线；它后面的激活函数决定它说什么，而激活函数的导数决定它能学到多少。
# 你将画出五种激活函数和它们的导数，训练一个神经元，并看着信号在一长串 sigmoid 中渐渐消失。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette

# %% [markdown]
# ## 先加权求和，再弯一下
#
# 神经元把每个输入乘以一个权重，加上偏置，再把和送进激活函数 $f$：
#
# $$y = f(w_1 x_1 + w_2 x_2 + b)$$
#
# 和为零的地方是一条直线：一侧为正，另一侧为负。下面是三个输入和一个神经元，一次手算，一次用 Keras 的层。

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
# ## 五种激活函数
#
# 没有这一弯，一摞神经元只等于一个神经元：和的和还是和。下面是常用的几种，从最早网络里平滑的阶跃，到 Transformer 用的 GELU：
#
# | 名称 | $f(x)$ | 导数的最大值 |
# | --- | --- | --- |
# | sigmoid | $1 / (1 + e^{-x})$ | 1/4，在 0 处 |
# | tanh | $(e^x - e^{-x}) / (e^x + e^{-x})$ | 1，在 0 处 |
# | ReLU | $\max(0, x)$ | 1，凡 $x > 0$ |
# | leaky ReLU | $\max(0.01 x, x)$ | 1，凡 $x > 0$ |
# | GELU | $x \, \Phi(x)$，$\Phi$ 为正态分布函数 | 1.13，在 $\sqrt 2$ 处 |
#
# 下面的导数不是手写的公式：由各框架的自动微分算出。

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
# 框架算的导数对吗？有限差分是一位独立的证人：$(f(x+h) - f(x-h)) / 2h$。在 float32 下它大约有三位有效数字；
# 在 ReLU 的拐角处它没有意义，所以我们绕开那一点。

# %%
away = grid[np.abs(grid) > 0.05].astype("float64")
for name, f in ACTIVATIONS.items():
    up, down = (keras.ops.convert_to_numpy(f((away + h).astype("float32"))) for h in (0.01, -0.01))
    difference = np.abs((up - down) / 0.02 - derivative(f, away.astype("float32"))).max()
    print(f"{name:10s} differs from the finite difference by at most {difference:.0e}")
    assert difference < 1e-3

# %% [markdown]
# ## 一个神经元学习
#
# 两团点，一个带 sigmoid 的神经元，和最古老的办法：比一比，再把权重朝着减小误差的方向推一点。对于交叉熵损失，
# 梯度短得可以直接写出来：$\frac{\partial L}{\partial w} = \frac{1}{n}\sum (y - t)\, x$，其中 $t$ 是目标，0 或 1。

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
# ## 为什么 sigmoid 让了位
#
# 反向传播时，梯度要乘上一个又一个导数。sigmoid 的导数至多是 1/4：十层之后至多剩下 $4^{-10}$，百万分之一。
# 这里让信号穿过二十层、每层五十个神经元，权重的初始化使求和的大小保持不变；我们看看每一层收到多少梯度。

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
# ## 练习
#
# **1.** 一个用阶跃激活的神经元，取权重 (1, 1)、偏置 -1.5，就能对 {0, 1} 中的两个输入算 AND。
# 请为 OR 和 NAND 各找一对权重和一个偏置。（XOR 没有解：一条直线分不开它，第 3 章的两层网络可以。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
corners = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
gates = {"OR": ((1, 1), -0.5, [0, 1, 1, 1]), "NAND": ((-1, -1), 1.5, [1, 1, 1, 0])}
for gate, (pair, offset, wanted) in gates.items():
    output = (corners @ np.array(pair) + offset > 0).astype(int)
    print(gate, output)
    assert output.tolist() == wanted

# %% [markdown]
# **2.** 用纸和笔证明 sigmoid 的导数是 $f(x)(1 - f(x))$，再用一行 NumPy 验证框架也这么说。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# f = 1 / (1 + e^-x), so f' = e^-x / (1 + e^-x)^2 = f * e^-x / (1 + e^-x) = f * (1 - f)
f = 1 / (1 + np.exp(-grid.astype("float64")))
largest = np.abs(derivative(keras.ops.sigmoid, grid) - f * (1 - f)).max()
print(f"largest difference {largest:.0e}")
assert largest < 1e-6

# %% [markdown]
# **3.** GELU 的导数在哪里最大，有多大？上面的表说：1.13，在 $\sqrt 2$ 处。请验证。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
fine = np.linspace(0, 4, 4001, dtype="float32")
slope = derivative(ACTIVATIONS["GELU"], fine)
print(f"largest derivative {slope.max():.3f} at {fine[slope.argmax()]:.2f}")
assert abs(fine[slope.argmax()] - np.sqrt(2)) < 0.02
assert abs(slope.max() - 1.129) < 1e-3

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[前向与反向，手算](02-backward.ipynb)
# - Michael Nielsen，[Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap1.html)
#   第 1 章：感知机与 sigmoid 神经元
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/mlp.html) 4.1 节：多层感知机与激活函数
# - 吴恩达（Andrew Ng），[Neural Networks and Deep Learning](https://www.coursera.org/learn/neural-networks-deep-learning)：
#   从一个神经元讲起的课程
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/mlp.html) 6.3 节
# - Hendrycks、Gimpel 2016，[Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)；He 等 2015，
#   [Delving Deep into Rectifiers](https://arxiv.org/abs/1502.01852)
