# %% [markdown]
# # 2 手工推导前向与反向传播
#
# **你会看到什么。** 用 NumPy 写一个两层网络：先写前向，再按链式法则逐行写出反向。然后用有限差分和已安装的各框架的自动微分检验手算的梯度。它们几乎逐位一致，你还会看到误差出现在哪几位。

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # 色盲也能分辨的配色

# %% [markdown]
# ## 前向
#
# 四个样本，每个三个输入；五个隐藏神经元；两个输出。矩阵的每一行是一个样本。写网络代码时弄清形状就成功了一半，所以每行代码都注明形状：
#
# $$h = x W_1 + b_1, \qquad a = \tanh h, \qquad y = a W_2 + b_2, \qquad L = \frac{1}{8} \sum (y - t)^2$$
#
# $L$ 是均方误差：八个输出（四个样本，每个两个）与目标 $t$ 之差的平方的平均。

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
    loss = np.mean((y - t) ** 2)  # 标量
    return h, a, y, loss


*_, loss = forward(**weights)
print(f"损失 {loss:.6f}")

# %% [markdown]
# ## 反向
#
# 训练的每一步都要回答一个问题：某个权重变化一点，损失会变化多少？链式法则从损失出发往回计算一遍，就能得到损失对所有权重的导数，这就是反向传播。用 $\bar z$ 表示损失对 $z$ 的导数，它与 $z$ 形状相同。前向的每一行在反向中都有对应的一行，次序相反：
#
# | 前向 | 反向 |
# | --- | --- |
# | $L = \frac18 \sum (y - t)^2$ | $\bar y = \frac{2}{8} (y - t)$ |
# | $y = a W_2 + b_2$ | $\bar a = \bar y\, W_2^T$，$\quad \bar W_2 = a^T \bar y$，$\quad \bar b_2 = \sum_{\text{行}} \bar y$ |
# | $a = \tanh h$ | $\bar h = \bar a \cdot (1 - a^2)$ |
# | $h = x W_1 + b_1$ | $\bar W_1 = x^T \bar h$，$\quad \bar b_1 = \sum_{\text{行}} \bar h$ |
#
# 转置是怎么来的？由 $y_{ij} = \sum_k a_{ik} W_{kj}$ 可知，$W_{kj}$ 通过 $a_{ik}$ 影响每个样本 $i$：$\bar W_{kj} = \sum_i a_{ik}\, \bar y_{ij}$，这正是 $a^T \bar y$。如果忘了该转置哪一个，看形状就行：只有一种写法对得上。


# %%
def backward(W1, b1, W2, b2):
    _, a, y, _ = forward(W1, b1, W2, b2)
    y_ = 2 * (y - t) / y.size  # (4, 2)
    a_ = y_ @ W2.T  # (4, 5)
    h_ = a_ * (1 - a**2)  # (4, 5)
    return {"W1": x.T @ h_, "b1": h_.sum(0), "W2": a.T @ y_, "b2": y_.sum(0)}


ours = backward(**weights)
for name, gradient in ours.items():
    print(f"{name}：梯度的形状 {gradient.shape}，与权重的形状 {weights[name].shape} 相同")
    assert gradient.shape == weights[name].shape

# %% [markdown]
# ## 用有限差分检验
#
# 把一个权重先加 $\epsilon$、再减 $\epsilon$，看损失的变化：$(L(w + \epsilon) - L(w - \epsilon)) / 2 \epsilon$。32 个权重，每个要算两次前向；反向传播只需一遍就得到全部导数，所以没有人用有限差分训练。但它不需要推导公式，很适合用来检验。


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
    """最大差别，相对于最大的梯度。"""
    largest = max(np.abs(g).max() for g in a.values())
    return max(np.abs(a[name] - b[name]).max() for name in a) / largest


epsilons = 10.0 ** np.arange(-12, 0)
errors = [apart(ours, finite_differences(epsilon)) for epsilon in epsilons]
plt.loglog(epsilons, errors, color=BLUE, marker="o")
plt.xlabel("权重的改变量 epsilon")
plt.ylabel("与手算梯度的最大差别（相对值）")
plt.title("步子太大有截断误差，太小有舍入误差")
plt.grid(alpha=0.3)
plt.show()
best = int(np.argmin(errors))
print(f"epsilon = {epsilons[best]:.0e} 时最准：{errors[best]:.0e}")
assert errors[best] < 1e-9

# %% [markdown]
# 曲线从右往左按 $\epsilon^2$ 下降：$\epsilon$ 越小，斜率越准。小于大约 $10^{-5}$ 之后误差又上升：两个损失的前面许多位都相同，相减之后剩下的有效数字就很少了。float64 总共只有十六位有效数字，有限差分最多能给出十位。
#
# ## 用自动微分检验
#
# 框架会记录前向的每个运算，并为每种运算备好反向公式，就像上表中的一行。三个框架的做法大同小异：PyTorch 把运算记录在张量上，从损失往回计算；TensorFlow 用 `GradientTape`（梯度带）记录；JAX 把函数变换成计算其梯度的函数。下面在已安装的各框架上用 float64 计算同一个梯度。


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

    with jax.enable_x64(True):  # JAX 默认用 float32 计算
        return {k: np.asarray(g) for k, g in jax.grad(loss)(weights).items()}


# %%
referees = {"torch": by_torch, "tensorflow": by_tensorflow, "jax": by_jax}
found = {name: referee() for name, referee in referees.items() if find_spec(name)}
for name, gradients in found.items():
    print(f"{name:10s} 与手算梯度相差 {apart(ours, gradients):.0e}")
    assert apart(ours, gradients) < 1e-14

# %% [markdown]
# 结果一致到 float64 的最后几位。可见框架做的事与手算完全一样，只不过对每种运算都能做，而且又快又不出错。
#
# 训练网络通常用 float32，它只有约七位有效数字，同样的比较会得到大约 $10^{-7}$ 的差别。下面用 Keras 的层搭建同一个网络，由当前框架求梯度，再与手算的 float64 梯度比较。

# %%
model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(5, "tanh"), keras.layers.Dense(2)])
model.set_weights([w.astype("float32") for w in weights.values()])


def gradients_of(model, x, t):
    """当前框架求出的梯度，键与 `weights` 相同。"""
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
print(f"{keras.backend.backend()} 上的 float32：与 float64 相差 {in_float32:.0e}")
assert in_float32 < 1e-5

# %% [markdown]
# ## 梯度的用途
#
# 只要步子够小，沿梯度的反方向走一步，损失就会减小。训练就是重复这三件事：前向、反向、更新权重。每一步走多远由学习率决定。

# %%
losses = {}
for rate, color, style in ((0.03, BLUE, "-"), (0.3, GREEN, "--"), (1.5, RED, ":")):
    w, curve = {k: v.copy() for k, v in weights.items()}, []
    for _ in range(60):
        curve.append(forward(**w)[-1])
        slopes = backward(**w)
        w = {k: w[k] - rate * slopes[k] for k in w}
    losses[rate] = curve
    plt.semilogy(curve, color=color, linestyle=style, label=f"学习率 {rate}")
plt.xlabel("步")
plt.ylabel("均方误差")
plt.title("学习率太低则慢，太高则不稳定")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert losses[0.3][-1] < losses[0.03][-1] < losses[0.03][0]

# %% [markdown]
# ## 练习
#
# **1.** 把 tanh 换成 ReLU。`backward` 中的哪一行要改，改成什么？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 只有激活函数那一行：h_ = a_ * (h > 0)，因为 ReLU 的导数在 h > 0 时为 1，否则为 0。


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
# **2.** 损失对输入的导数 $\bar x$ 是什么？它反映哪些输入重要（对图像来说就是显著图）。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# h = x W1 + b1，与 y 那一行同理：x_ = h_ W1^T。
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
# **3.** 对一个样本，前向要多少次乘法，反向要多少次？只计矩阵乘法。（这就是训练一步的计算量约为预测一次的三倍的原因。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
forward_products = 3 * 5 + 5 * 2  # x W1, a W2
backward_products = (5 * 2 + 5 * 2) + 3 * 5  # a_ 与 W2 的梯度；W1 的梯度（不需要 x_）
print(forward_products, backward_products, (forward_products + backward_products) / forward_products)
assert (forward_products, backward_products) == (25, 35)
# 如果前面还有一层，x_ 也要算，反向就是前向的两倍：合计三倍。
assert backward_products + 3 * 5 == 2 * forward_products

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[多层感知机的四种写法](03-mlp.ipynb)
# - Michael Nielsen，[Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap2.html) 第 2 章：反向传播算法如何工作
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/backprop.html)：前向传播、反向传播和计算图
# - CS231n，[Backpropagation, Intuitions](https://cs231n.github.io/optimization-2/)
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/mlp.html) 6.5 节
# - Baydin 等 2015，[Automatic differentiation in machine learning: a survey](https://arxiv.org/abs/1502.05767)
