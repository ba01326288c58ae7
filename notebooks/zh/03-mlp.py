# %% [markdown]
# # 3 多层感知机的四种写法
#
# **你会看到什么。** 用一个识别手写数字的网络，把同一个训练循环写四遍：PyTorch、JAX、TensorFlow、Keras。从相同的权重和批次出发，四条损失曲线重合成一条。然后换一个更合适的损失函数，看看为什么对于自信却错误的输出，平方误差几乎不起作用，而交叉熵仍能从中学习。

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # 色盲也能分辨的配色

# %% [markdown]
# ## 数据与隐藏层
#
# 1,797 个 8 x 8 像素的手写数字，每个展开成一行 64 个数；标签就是 0 到 9 中的那个数字。每五个样本留出一个作测试，不参与训练。
#
# 多层感知机在输入与输出之间有一层隐藏层，层中每个神经元与前一层全部相连。这里的隐藏层有 32 个神经元，使用第 1 章的 ReLU；输出有十个，每个数字对应一个，最大的那个就是预测结果。

# %%
digits = load_digits()
pixels = (digits.data / 16).astype("float32")
held_out = np.arange(len(pixels)) % 5 == 0
x, labels = pixels[~held_out], digits.target[~held_out]
x_test, labels_test = pixels[held_out], digits.target[held_out]
targets = np.eye(10, dtype="float32")[labels]  # 独热编码：标签处为 1，其余为 0

figure, axes = plt.subplots(1, 8, figsize=(10, 1.6))
for axis, image, label in zip(axes, digits.images, digits.target, strict=False):
    axis.imshow(image, cmap="gray_r")
    axis.set_title(label)
    axis.axis("off")
plt.show()
print(len(x), "个训练样本，", len(x_test), "个留出的测试样本")

# %% [markdown]
# ## 统一的训练设置
#
# 四种写法使用相同的初始权重，相同次序的批（每批 64 个样本），相同的损失，即十个输出的均方误差，以及相同的优化器 Adam（第 8 章会详细讲解）。把所有训练样本用过一遍叫做一轮；这里训练十轮。

# %%
rng = np.random.default_rng(0)
initial = [
    rng.normal(0, np.sqrt(2 / 64), (64, 32)).astype("float32"),
    np.zeros(32, "float32"),
    rng.normal(0, np.sqrt(1 / 32), (32, 10)).astype("float32"),
    np.zeros(10, "float32"),
]
EPOCHS, BATCH, RATE = 10, 64, 3e-3
batches = [rows for _ in range(EPOCHS) for rows in np.array_split(rng.permutation(len(x)), len(x) // BATCH)]
print(len(batches), "步")

# %% [markdown]
# ## PyTorch
#
# 张量会记录得到它的运算；`backward` 沿着记录往回计算，把每个梯度存放在对应的权重上。


# %%
def train_torch():
    import torch

    w1, b1, w2, b2 = weights = [torch.tensor(w, requires_grad=True) for w in initial]
    adam = torch.optim.Adam(weights, lr=RATE)
    losses = []
    for rows in batches:
        y = torch.relu(torch.tensor(x[rows]) @ w1 + b1) @ w2 + b2
        loss = ((y - torch.tensor(targets[rows])) ** 2).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(loss.item())
    return losses


# %% [markdown]
# ## JAX
#
# JAX 的数组不能原地修改：训练步是一个纯函数，接收权重和优化器状态，返回更新后的权重和状态。`jit` 在第一次调用时编译这个函数。


# %%
def train_jax():
    import jax
    import jax.numpy as jnp
    import optax

    def loss(weights, x, t):
        w1, b1, w2, b2 = weights
        y = jax.nn.relu(x @ w1 + b1) @ w2 + b2
        return jnp.mean((y - t) ** 2)

    adam = optax.adam(RATE)

    @jax.jit
    def step(weights, state, x, t):
        value, gradients = jax.value_and_grad(loss)(weights, x, t)
        updates, state = adam.update(gradients, state)
        return optax.apply_updates(weights, updates), state, value

    weights, losses = [jnp.array(w) for w in initial], []
    state = adam.init(weights)
    for rows in batches:
        weights, state, value = step(weights, state, x[rows], targets[rows])
        losses.append(float(value))
    return losses


# %% [markdown]
# ## TensorFlow
#
# 梯度带（`GradientTape`）记录前向计算，`tf.function` 编译整个训练步。TensorFlow 的优化器由 Keras 提供；不用 Keras 时，自己写 Adam 也只要五行。


# %%
def train_tensorflow():
    import tensorflow as tf

    weights = [tf.Variable(w) for w in initial]
    means, squares = ([tf.Variable(tf.zeros_like(w)) for w in weights] for _ in range(2))
    count = tf.Variable(0.0)

    @tf.function(reduce_retracing=True, autograph=False)
    def step(x, t):
        w1, b1, w2, b2 = weights
        with tf.GradientTape() as tape:
            y = tf.nn.relu(x @ w1 + b1) @ w2 + b2
            loss = tf.reduce_mean((y - t) ** 2)
        count.assign_add(1)
        for w, g, m, v in zip(weights, tape.gradient(loss, weights), means, squares, strict=True):
            m.assign(0.9 * m + 0.1 * g)
            v.assign(0.999 * v + 0.001 * g**2)
            root = tf.sqrt(v / (1 - 0.999**count)) + 1e-8
            w.assign_sub(RATE * m / (1 - 0.9**count) / root)
        return loss

    return [float(step(x[rows], targets[rows])) for rows in batches]


# %% [markdown]
# ## Keras
#
# 训练循环就是 `fit`，可以在三个框架中的任何一个上运行。只需指定优化器和损失函数，其余由 Keras 负责。（这里用的是 zoo 的 Adam：Keras 自带的 Adam 把 epsilon 加在不同的位置，见第 12 章。）


# %%
def keras_model():
    model = keras.Sequential(
        [keras.Input((64,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(10, name="logits")]
    )
    model.set_weights(initial)
    return model


def train_keras(loss="mse", targets=targets):
    model, losses = keras_model(), []
    model.compile(zoo.optimizers.Adam(RATE), loss)
    for rows in batches:
        losses.append(float(model.train_on_batch(x[rows], targets[rows])))
    return losses, model


LOOPS = {"torch": train_torch, "jax": train_jax, "tensorflow": train_tensorflow}
curves = {name: loop() for name, loop in LOOPS.items() if find_spec(name)}
curves[f"Keras ({keras.backend.backend()})"], by_mse = train_keras()

STYLES = ((BLUE, "-", 5), (ORANGE, "--", 3.5), (GREEN, ":", 2.5), (PURPLE, "-", 0.8))
for (name, losses), (color, style, width) in zip(curves.items(), STYLES, strict=False):
    plt.semilogy(losses, color=color, linestyle=style, linewidth=width, label=name)
plt.xlabel("步")
plt.ylabel("每批的均方误差")
plt.title("各种写法的损失曲线完全重合")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
first = next(iter(curves.values()))
for name, losses in curves.items():
    difference = np.abs(np.subtract(losses, first)).max()
    print(f"{name:20s} 最后的损失 {losses[-1]:.7f}，每一步与第一种写法最多相差 {difference:.0e}")
    assert difference < 1e-5

# %% [markdown]
# 各框架做乘法和加法的次序不同，所以七位有效数字中的最后一位可能不同；此外没有差别。如果有人声称两个框架“训练结果一样”，应当给出这样的数字。
#
# ## 更合适的损失函数
#
# 平方误差把十个输出当作要拟合的数值。但输出其实是分数，要回答的是哪一类正确。softmax 把这些分数（称为 logits，即对数几率）变成概率；交叉熵是正确标签的概率的负对数：
#
# $$p_i = \frac{e^{y_i}}{\sum_j e^{y_j}}, \qquad L = -\log p_{\text{label}}, \qquad \frac{\partial L}{\partial y_i} = p_i - t_i$$
#
# 导数非常简单：概率减去目标。再看一个自信却错误的神经元：在 sigmoid 之后使用平方误差，导数中有因子 $p (1 - p)$，恰好在这种情况下几乎为零；交叉熵的导数没有这个因子。

# %%
logit = np.linspace(-6, 6, 241)
p = 1 / (1 + np.exp(-logit))
plt.plot(logit, -2 * (1 - p) * p * (1 - p), color=BLUE, label="sigmoid 之后的平方误差")
plt.plot(logit, p - 1, color=ORANGE, linestyle="--", label="交叉熵")
plt.xlabel("logit（目标为 1）")
plt.ylabel("损失对 logit 的导数")
plt.title("在 -6 处，神经元自信而错误")
plt.legend()
plt.grid(alpha=0.3)
plt.show()

by_cross_entropy = train_keras(keras.losses.SparseCategoricalCrossentropy(from_logits=True), labels)[1]


def accuracy(model):
    return np.mean(model.predict(x_test, verbose=0).argmax(1) == labels_test)


print(
    f"同样训练 {len(batches)} 步后，留出数字上的准确率：用平方误差 {accuracy(by_mse):.1%}，"
)
print(f"用交叉熵 {accuracy(by_cross_entropy):.1%}")
assert accuracy(by_mse) > 0.8
assert accuracy(by_cross_entropy) > 0.9

# %% [markdown]
# ## zoo 的多层感知机
#
# `zoo.build("mlp")` 是教科书中的网络，结构为 784-256-128-10；`zoo.train` 是它的训练循环：在 torch 上与前面的循环相同，在 JAX 和 TensorFlow 上是编译好的训练步。各框架上的损失相同，用 Keras 的 `fit` 也相同。（这里只比较前二十步。大约六十步之后，某个 ReLU 的输入恰好接近零，权重最后一位的差别就会决定它是否激活，两次训练的损失可能相差 2e-3；同一个框架重复训练也会如此。第 12 章会测量这种现象。）

# %%
run = zoo.train("mlp", epochs=4)
fit = zoo.train("mlp", steps=20, engine="keras")
difference = np.abs(np.subtract(run.losses[:20], fit.losses)).max()
print(run)
print(f"框架自己的循环与 fit，二十步内最多相差 {difference:.0e}")
assert run.metrics["accuracy"] > 0.9
assert difference < 1e-5

# %% [markdown]
# ## 练习
#
# **1.** `zoo.build("mlp")` 有多少参数？请手算 784-256-128-10 的权重与偏置的个数。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
count = 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
print(count)
assert count == zoo.card("mlp").parameters == 235_146

# %% [markdown]
# **2.** 训练之前，网络还什么都没学到，十类的交叉熵应当是多少？开始一次新的训练时，首先应当检查这个数：如果比它大，说明初始权重让网络对错误答案过于自信。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 十个概率都是 1/10：-log(1/10) = log 10 = 2.303。
print(np.log(10), run.losses[0])
assert abs(run.losses[0] - np.log(10)) < 0.3

# %% [markdown]
# **3.** 去掉 Keras 模型中的 ReLU，网络变成了什么？它还能识别数字吗？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# (x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2)：等价于一层，即线性模型。它能识别数字，但准确率较低。
linear = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32), keras.layers.Dense(10)])
linear.set_weights(initial)
w1, b1, w2, b2 = initial
assert np.allclose(linear.predict(x_test, verbose=0), x_test @ (w1 @ w2) + b1 @ w2 + b2, atol=1e-5)
linear.compile(zoo.optimizers.Adam(RATE), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
for rows in batches:
    linear.train_on_batch(x[rows], labels[rows])
print(f"{accuracy(linear):.1%}")
assert accuracy(linear) > 0.8

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[卷积：从 LeNet 到 EfficientNet](04-convolution.ipynb)
# - Michael Nielsen，[Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap3.html) 第 3 章：交叉熵代价函数
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/index.html)第 4 章，提供各框架的代码
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/mlp.html) 第 6 章
# - Rumelhart、Hinton、Williams 1986，[Learning representations by back-propagating errors](https://doi.org/10.1038/323533a0)
