# %% [markdown]
# # 3 多层感知机，写四遍
#
# **你会看到什么。** 一个认手写数字的网络，和同一个训练循环的四种写法：PyTorch、JAX、TensorFlow、Keras。
# 从相同的权重和批次出发，它们画出的是一条曲线，不是四条。然后换一个更好的损失：为什么面对自信的错误，
# 平方误差无动于衷，交叉熵却能从中学习。

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#E69F00", "#009E73", "#CC79A7"  # colour-blind-safe palette

# %% [markdown]
# ## 数字，与隐藏层
#
# 1,797 个 8 x 8 像素的数字，每个是一行 64 个数；标签就是那个数字，0 到 9。每五个留出一个：网络从不向它们学习。
#
# 多层感知机在输入与输出之间放一层隐藏层，层中每个神经元与前面的全部相连。我们的有 32 个神经元，用第 1 章的 ReLU；
# 十个输出，每个数字一个：最大的那个就是答案。

# %%
digits = load_digits()
pixels = (digits.data / 16).astype("float32")
held_out = np.arange(len(pixels)) % 5 == 0
x, labels = pixels[~held_out], digits.target[~held_out]
x_test, labels_test = pixels[held_out], digits.target[held_out]
targets = np.eye(10, dtype="float32")[labels]  # one-hot: 1 at the label, 0 elsewhere

figure, axes = plt.subplots(1, 8, figsize=(10, 1.6))
for axis, image, label in zip(axes, digits.images, digits.target, strict=False):
    axis.imshow(image, cmap="gray_r")
    axis.set_title(label)
    axis.axis("off")
plt.show()
print(len(x), "for training,", len(x_test), "held out")

# %% [markdown]
# ## 大家用同一个方案
#
# 相同的初始权重，相同次序的批（每批 64 个样本），相同的损失，即十个输出的均方误差，还有相同的优化器 Adam
# （第 8 章会打开它）。把样本全过一遍叫一轮；我们训练十轮。

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
print(len(batches), "steps")

# %% [markdown]
# ## PyTorch
#
# 张量记得自己经历过什么；`backward` 往回走，把每个梯度留在它的权重上。


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
# 没有什么在原地改变：一个纯函数接收权重和优化器的状态，返回新的。`jit` 在第一次调用时编译它。


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
# 一条带子记录前向，`tf.function` 编译这一步。TensorFlow 把优化器交给了 Keras；不用 Keras 时，Adam 只有五行。


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
# 循环就是 `fit`，在三个框架中的任何一个上运行。优化器和损失报上名字，其余由 Keras 负责。
# （这里的 Adam 是 zoo 的：Keras 自带的把 epsilon 放在别处，见第 12 章。）


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
curves[f"Keras on {keras.backend.backend()}"], by_mse = train_keras()

STYLES = ((BLUE, "-", 5), (ORANGE, "--", 3.5), (GREEN, ":", 2.5), (PURPLE, "-", 0.8))
for (name, losses), (color, style, width) in zip(curves.items(), STYLES, strict=False):
    plt.semilogy(losses, color=color, linestyle=style, linewidth=width, label=name)
plt.xlabel("step")
plt.ylabel("mean squared error of a batch")
plt.title("Loss curves of all loops: they coincide")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
first = next(iter(curves.values()))
for name, losses in curves.items():
    difference = np.abs(np.subtract(losses, first)).max()
    print(f"{name:20s} last loss {losses[-1]:.7f}, at most {difference:.0e} from the first loop at any step")
    assert difference < 1e-5

# %% [markdown]
# 每个框架相乘相加的次序不同，所以浮点数七位中的最后一位可能不同；此外没有差别。谁说两个框架“训练得一样”，
# 就可以向他要这个数。
#
# ## 更好的损失
#
# 平方误差把十个输出当作要击中的数。但它们是分数，问题是哪个对。softmax 把分数，也叫对数几率（logits），变成概率；
# 交叉熵是正确标签所得概率的负对数：
#
# $$p_i = \frac{e^{y_i}}{\sum_j e^{y_j}}, \qquad L = -\log p_{\text{label}}, \qquad \frac{\partial L}{\partial y_i} = p_i - t_i$$
#
# 导数简单得不能再简单：概率减目标。看一个自信而错误的神经元：在 sigmoid 之后，平方误差带着因子 $p (1 - p)$，
# 恰恰在那里几乎为零；交叉熵没有这个因子。

# %%
logit = np.linspace(-6, 6, 241)
p = 1 / (1 + np.exp(-logit))
plt.plot(logit, -2 * (1 - p) * p * (1 - p), color=BLUE, label="squared error after a sigmoid")
plt.plot(logit, p - 1, color=ORANGE, linestyle="--", label="cross-entropy")
plt.xlabel("logit, when the target is 1")
plt.ylabel("derivative of the loss with respect to the logit")
plt.title("At -6 the neuron is confident and wrong")
plt.legend()
plt.grid(alpha=0.3)
plt.show()

by_cross_entropy = train_keras(keras.losses.SparseCategoricalCrossentropy(from_logits=True), labels)[1]


def accuracy(model):
    return np.mean(model.predict(x_test, verbose=0).argmax(1) == labels_test)


print(
    f"after the same {len(batches)} steps: {accuracy(by_mse):.1%} of the held-out digits correct with squared error,"
)
print(f"{accuracy(by_cross_entropy):.1%} with cross-entropy")
assert accuracy(by_mse) > 0.8
assert accuracy(by_cross_entropy) > 0.9

# %% [markdown]
# ## zoo 的多层感知机
#
# `zoo.build("mlp")` 是教科书里的网络，784-256-128-10；`zoo.train` 是它的循环：在 torch 上就是上面那样的循环，
# 在 JAX 和 TensorFlow 上是编译好的一步。各框架上的损失相同，用 Keras 的 `fit` 也相同。
# （这里看前二十步。大约六十步之后，一个正好站在拐角上的 ReLU 会因为权重的最后一位而倒向这边或那边，
# 两次训练就相差 2e-3：同一个框架与它自己也是如此。第 12 章会测量它。）

# %%
run = zoo.train("mlp", epochs=4)
fit = zoo.train("mlp", steps=20, engine="keras")
difference = np.abs(np.subtract(run.losses[:20], fit.losses)).max()
print(run)
print(f"the framework's loop and fit differ by {difference:.0e} over twenty steps")
assert run.metrics["accuracy"] > 0.9
assert difference < 1e-5

# %% [markdown]
# ## 练习
#
# **1.** `zoo.build("mlp")` 有多少参数？请手算 784-256-128-10 的权重与偏置。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
count = 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
print(count)
assert count == zoo.card("mlp").parameters == 235_146

# %% [markdown]
# **2.** 训练之前，如果网络一无所知，十类的交叉熵应当是多少？开始一次新的训练时，首先要看这个数：
# 更大说明初始权重对胡话很有把握。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# All ten probabilities 1/10: -log(1/10) = log 10 = 2.303.
print(np.log(10), run.losses[0])
assert abs(run.losses[0] - np.log(10)) < 0.3

# %% [markdown]
# **3.** 把 Keras 模型里的 ReLU 拿掉。网络变成了什么？它还认得数字吗？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# (x W1 + b1) W2 + b2 = x (W1 W2) + (b1 W2 + b2): one layer, a linear model. It classifies digits, less well.
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
# - Michael Nielsen，[Neural Networks and Deep Learning](http://neuralnetworksanddeeplearning.com/chap3.html) 第 3 章：
#   交叉熵代价函数
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/index.html)第 4 章，各框架的代码都有
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/mlp.html) 第 6 章
# - Rumelhart、Hinton、Williams 1986，[Learning representations by back-propagating errors](https://doi.org/10.1038/323533a0)
