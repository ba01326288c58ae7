# %% [markdown]
# # 2 前向与反向，手算
#
# **你会看到什么。** 用 NumPy 写一个两层网络：先前向，再反向，链式法则的每一步一行。三位裁判检查梯度：有限差分，
# 以及你装了的每个框架的自动微分。它们直到最后几位都一致，你还会看到是哪几位。

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette

# %% [markdown]
# ## 前向
#
# 四个样本，每个三个输入；五个隐藏神经元；两个输出。每行一个样本。形状说明了大半的事，所以每行代码都注明自己的形状：
#
# $$h = x W_1 + b_1, \qquad a = \tanh h, \qquad y = a W_2 + b_2, \qquad L = \frac{1}{8} \sum (y - t)^2$$
#
# $L$ 是均方误差：八个输出（四个样本，每个两个）到目标 $t$ 的距离平方的平均。

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
# ## 反向
#
# 每一步训练都要问：动一动这个权重，损失变多少？链式法则从损失往回走一遍，就为所有权重作了回答，这就是反向传播。
# 用 $\bar z$ 记损失对 $z$ 的导数，它与 $z$ 同形。前向的每一行在这里都有对应的一行，次序相反：
#
# | 前向 | 反向 |
# | --- | --- |
# | $L = \frac18 \sum (y - t)^2$ | $\bar y = \frac{2}{8} (y - t)$ |
# | $y = a W_2 + b_2$ | $\bar a = \bar y\, W_2^T$，$\quad \bar W_2 = a^T \bar y$，$\quad \bar b_2 = \sum_{\text{行}} \bar y$ |
# | $a = \tanh h$ | $\bar h = \bar a \cdot (1 - a^2)$ |
# | $h = x W_1 + b_1$ | $\bar W_1 = x^T \bar h$，$\quad \bar b_1 = \sum_{\text{行}} \bar h$ |
#
# 转置从哪里来？$y_{ij} = \sum_k a_{ik} W_{kj}$，所以 $W_{kj}$ 通过 $a_{ik}$ 遇到每个样本 $i$：
# $\bar W_{kj} = \sum_i a_{ik}\, \bar y_{ij}$，这正是 $a^T \bar y$。忘了该转置哪一边时，让形状来决定：只有一种写法对得上。


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
# ## 第一位裁判：有限差分
#
# 把一个权重加 $\epsilon$，再减 $\epsilon$，看损失：$(L(w + \epsilon) - L(w - \epsilon)) / 2 \epsilon$。
# 32 个权重，每个要两次前向；而反向走一遍就全有了，所以没有人这样训练。但它不需要微积分，是位好裁判。


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
# 曲线从右往左按 $\epsilon^2$ 下降：步子越小，斜率越准。到大约 $10^{-5}$ 以左又升上去：两个损失有太多位相同，
# 相减之后所剩无几。float64 总共只有十六位。十位正确，是这位裁判的极限。
#
# ## 其余的裁判：自动微分
#
# 框架记下前向的每个运算，并为每种运算备好上表那样的反向一行。同一个想法有三种方言：PyTorch 记在张量上，从损失往回走；
# TensorFlow 记在一条带子上；JAX 把函数变成求它的梯度的函数。装了的框架都在这里并排运行，用 float64。


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
# 能有的位数全都一致。框架所做的，你的双手都能做；只是它们对每个运算都做，做得快，而且不出错。
#
# 训练网络用的 float32 只有七位有效数字，同样的比较大约得到 $10^{-7}$。下面用 Keras 的层搭同一个网络，
# 由正在运行的框架求梯度，与我们的 float64 相比。

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
# ## 梯度有什么用
#
# 只要步子够短，逆着梯度走一步，损失就变小。训练不过如此：前向，反向，走一步。步长就是学习率。

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
# ## 练习
#
# **1.** 把 tanh 换成 ReLU。`backward` 的哪一行要改，改成什么？

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
# **2.** 损失对输入的导数 $\bar x$ 是什么？它说明哪些像素要紧，第 4 章的图就是用它画的。

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
# **3.** 对一个样本，前向要多少次乘法，反向要多少次？只数矩阵乘积。（这就是一步训练大约是一次预测的三倍的原因。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
forward_products = 3 * 5 + 5 * 2  # x W1, a W2
backward_products = (5 * 2 + 5 * 2) + 3 * 5  # a_ and W2's gradient; W1's gradient (x_ is not needed)
print(forward_products, backward_products, (forward_products + backward_products) / forward_products)
assert (forward_products, backward_products) == (25, 35)
# If an earlier layer needs x_ as well, the backward pass costs twice the forward pass: three times in all.
assert backward_products + 3 * 5 == 2 * forward_products

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[多层感知机，写四遍](03-mlp.ipynb)
# - Michael Nielsen，[Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap2.html) 第 2 章：
#   反向传播算法如何工作
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/backprop.html)：前向传播、反向传播和计算图
# - CS231n，[Backpropagation, Intuitions](https://cs231n.github.io/optimization-2/)
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/mlp.html) 6.5 节
# - Baydin 等 2015，[Automatic differentiation in machine learning: a survey](https://arxiv.org/abs/1502.05767)
