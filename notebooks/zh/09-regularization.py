# %% [markdown]
# # 9 正则化
#
# **你会看到什么。** 一个网络把 200 个数字背了下来，连错误的标签也一起背下来，于是在没见过的数字上越来越差：这就是过拟合。然后是几种减轻过拟合的方法：dropout（随机失活），你将画出它的掩码，并逐位重建；对权重的 L1、L2 惩罚；权重衰减。中间还有批量归一化与层归一化，都手算一遍：它们让训练更容易，但在这里并不能减轻过拟合。

# %%
import os
import zlib

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 过拟合
#
# 从 scikit-learn 的手写数字中取 200 个作训练，其中 50 个的标签是错的，就像匆忙标注的数据。留出的 320 个数字标签都正确。网络有两层，每层 256 个神经元：8.5 万个权重，对 200 个样本。`net` 的参数是本章后面要试的各种方法。

# %%
digits, rng = zoo.tasks.load("digits", (8, 8, 1)), np.random.default_rng(0)
x, y = digits.train[0][:200], digits.train[1][:200].copy()
y[:50] = (y[:50] + rng.integers(1, 10, 50)) % 10  # 除正确类别以外的任意一类
held_out = digits.test[0][:320], digits.test[1][:320]


def net(dropout=0.0, norm=None, penalty=None):
    with zoo.random.seeded(0):
        image = layers.Input((8, 8, 1))
        h = layers.flatten(image)
        for i in (1, 2):
            h = layers.dense(h, 256, regularizer=penalty, name=f"hidden{i}")
            h = norm(h, name=f"norm{i}") if norm else h
            h = layers.dropout(layers.relu(h), dropout, name=f"dropout{i}")
        return layers.Model(image, layers.dense(h, 10, name="head"))


def fit(model, optimizer=None):
    optimizer = optimizer or zoo.optimizers.Adam(0.002)
    run = zoo.train(model, (x, y), validation=held_out, optimizer=optimizer, batch_size=40, epochs=40)
    return run, [epoch["loss"] for epoch in run.history]


plain, plain_loss = fit(net())
accuracy = [epoch["accuracy"] for epoch in plain.history]
print(f"训练损失：最后 {np.mean(plain.losses[-5:]):.2f}")
print(f"留出数字上的损失：最低 {min(plain_loss):.2f}，最后 {plain_loss[-1]:.2f}")
print(f"留出数字上的准确率：最高 {max(accuracy):.2f}，最后 {accuracy[-1]:.2f}")
assert np.mean(plain.losses[-5:]) < 0.1
assert plain_loss[-1] > 1.5 * min(plain_loss)
assert accuracy[-1] < max(accuracy)

# %%
plt.plot(range(1, 41), np.reshape(plain.losses, (40, 5)).mean(axis=1), color=BLUE, label="训练")
plt.plot(range(1, 41), plain_loss, color=RED, linestyle="--", label="留出")
plt.xlabel("轮")
plt.ylabel("交叉熵（奈特）")
plt.title("过拟合")
plt.grid(alpha=0.3)
plt.legend()
plt.show()

# %% [markdown]
# 几轮之后两条曲线就分开了，从那时起网络在学错误的标签。在最低点停止训练（早停）是最古老的正则化方法：`zoo.train(..., early_stopping=zoo.EarlyStopping(patience=5))`。
#
# ## Dropout
#
# 训练时，每个神经元以概率 $p$ 被置零，每一步重新抽取，于是任何神经元都不能依赖另外某一个。其余的乘以 $1 / (1 - p)$，使期望保持不变：
#
# $$p \cdot 0 + (1 - p) \cdot \frac{x}{1 - p} = x$$
#
# 推理时不做 dropout，也无需其他调整。各框架用各自的随机数生成器抽取掩码，结果各不相同。zoo 的掩码由（种子、层名、步数、位置）用整数运算得出，所以在 PyTorch、TensorFlow 和 JAX 上逐位相同：下面的输出在哪里运行都一样。

# %%
with zoo.random.seeded(0):
    vector = layers.Input((50,))
    dropper = layers.Model(vector, layers.dropout(vector, 0.4, name="mask"))
ones = np.ones((20, 50), "float32")
masks = np.array([numpy(dropper(ones, training=True)) for _ in range(100)])  # 每步一个

figure, axes = plt.subplots(1, 3, figsize=(12, 2.2), layout="constrained")
for step, axis in enumerate(axes):
    axis.imshow(masks[step], cmap="Greys")
    axis.set_title(f"第 {step} 步：黑为 1.67，白为 0")
    axis.axis("off")
plt.show()
fingerprint = zlib.crc32(np.packbits(masks > 0).tobytes())
print(f"100 个掩码的指纹：{fingerprint:08x}")
print(
    f"总平均：{masks.mean():.4f}；推理时输出等于输入：",
    np.array_equal(dropper(ones), ones),
)
assert abs(masks.mean() - 1) < 0.01
assert np.array_equal(numpy(dropper(ones)), ones)

# %% [markdown]
# 怎样在每个框架上得到同样的掩码？位置 $i$ 在第 $s$ 步的值是 `mix(mix(i xor key) + s)`，其中 `mix` 用移位和乘法打乱 32 个比特；高 24 位不小于 $p \cdot 2^{24}$ 就保留。用 NumPy 也能算出同样的掩码：

# %%
key = zoo.random.key32(0, "mask", "dropout") % 2**32  # 由种子和层名算出


def mix(n):
    n = (n ^ n >> 16) * np.uint64(0x7FEB352D) & 0xFFFFFFFF
    n = (n ^ n >> 15) * np.uint64(0x846CA68B) & 0xFFFFFFFF
    return n ^ n >> 16


places = np.arange(ones.size, dtype="uint64")
for step in range(3):
    kept = mix(mix(places ^ key) + step & 0xFFFFFFFF) >> 8 >= round(0.4 * 2**24)
    assert np.array_equal(kept.reshape(ones.shape), masks[step] > 0)
print("掩码相同")

# %% [markdown]
# ## 批量归一化与层归一化
#
# 两者都把数据平移并缩放到均值 0、方差 1，再由网络学习新的尺度 $\gamma$ 和新的均值 $\beta$（初始为 1 和 0）：
#
# $$\hat x = \frac{x - \text{mean}}{\sqrt{\text{variance} + \epsilon}}, \qquad y = \gamma \hat x + \beta$$
#
# 区别在于对什么求平均（mean 是均值，variance 是方差）。*批量归一化*对每个特征，在这一批的所有样本上求平均（轴 0）；*层归一化*对每个样本，在它的所有特征上求平均（轴 1）。下图中每行是一个样本，每列是一个特征；紫色大于 0，橙色小于 0，颜色越深离 0 越远。

# %%
rng = np.random.default_rng(1)
table = rng.normal(size=(8, 12)) * rng.uniform(0.3, 2, 12) + rng.normal(0, 2, 12) + rng.normal(0, 1, (8, 1))
table = table.astype("float32")


def normalized(table, axis):
    mean, variance = table.mean(axis, keepdims=True), table.var(axis, keepdims=True)
    return (table - mean) / np.sqrt(variance + 1e-5)


vector = layers.Input((12,))
batch_norm = layers.Model(vector, layers.batch_norm(vector, name="batch_norm"))
layer_norm = layers.Model(vector, layers.layer_norm(vector, name="layer_norm"))
tables = {
    "原始数据": table,
    "批量归一化：按列": numpy(batch_norm(table, training=True)),
    "层归一化：按行": numpy(layer_norm(table)),
}
assert np.allclose(tables["批量归一化：按列"], normalized(table, axis=0), atol=1e-5)
assert np.allclose(tables["层归一化：按行"], normalized(table, axis=1), atol=1e-5)

figure, axes = plt.subplots(1, 3, figsize=(12, 2.6), layout="constrained")
for axis, (title, each) in zip(axes, tables.items(), strict=True):
    axis.imshow(each, cmap="PuOr", vmin=-4, vmax=4)
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# 层归一化在训练和推理时相同。批量归一化做不到：推理时一批可能只有一个样本。所以它在训练中记录滑动统计量，每次新的一批占十分之一，旧值占十分之九，推理时就用这些统计量。这里有两处约定不同：计算滑动方差时，PyTorch 和 zoo 除以 $n - 1$，Keras 自带的层除以 $n$；关于 momentum 参数，PyTorch 的 0.1 是*新*批次的权重，Keras 的 0.99 是*旧*值的权重。

# %%
rng = np.random.default_rng(2)
center, spread = np.linspace(-3, 3, 12), np.linspace(0.5, 2, 12)
batch_norm = layers.Model(vector, layers.batch_norm(vector, name="batch_norm"))
running_mean, running_variance = np.zeros(12), np.ones(12)
for step in range(1, 61):
    batch = rng.normal(center, spread, (16, 12)).astype("float32")
    batch_norm(batch, training=True)
    running_mean = 0.9 * running_mean + 0.1 * batch.mean(axis=0)
    running_variance = 0.9 * running_variance + 0.1 * batch.var(axis=0, ddof=1)
    if step in (1, 10, 60):
        distance = np.abs(running_mean - center).max()
        print(f"{step:2d} 批之后，滑动均值的误差不超过 {distance:.2f}")

in_use = numpy(batch_norm(batch[:1]))
by_hand = (batch[:1] - running_mean) / np.sqrt(running_variance + 1e-5)
print(f"推理时的一个样本：手算与层的输出相差 {np.abs(in_use - by_hand).max():.0e}")
assert np.allclose(in_use, by_hand, atol=1e-4)
assert distance < 0.6

# %% [markdown]
# ## L1、L2 与权重衰减
#
# 大的权重使输出剧烈变化。在损失中加上惩罚，就能抑制大的权重：
#
# $$\text{L2:}\quad L + \lambda \sum w^2 \qquad\qquad \text{L1:}\quad L + \lambda \sum |w|$$
#
# 从梯度就能看出两者的作用。L2 的梯度是 $2 \lambda w$，与权重成正比：对大权重强，对小权重弱，所以小权重不会变成零。L1 的梯度是 $\lambda$ 乘以 $w$ 的符号：对所有权重强度相同，会把小权重压到零。*权重衰减*（AdamW 的做法）在每一步把每个权重缩小一个比例，不经过损失（第 8 章）。下面把它们都用在这 200 个数字上，并加上批量归一化作比较。

# %%
models = {
    "无正则化": (None, BLUE, "-"),
    "批量归一化": (net(norm=layers.batch_norm), PURPLE, ":"),
    "权重衰减": (net(), "black", "--"),
    "L2": (net(penalty=layers.l2(0.02)), ORANGE, "-."),
    "L1": (net(penalty=layers.l1(0.002)), RED, "--"),
    "dropout": (net(dropout=0.6), GREEN, "-"),
}
losses, ends = {"无正则化": plain_loss}, {"无正则化": accuracy[-1]}
for name, (model, *_) in models.items():
    if model is not None:
        decay = zoo.optimizers.AdamW(0.002, weight_decay=5.0) if name == "权重衰减" else None
        run, losses[name] = fit(model, decay)
        ends[name] = run.metrics["accuracy"]
for name, loss in losses.items():
    print(f"留出损失 {loss[-1]:.2f}，准确率 {ends[name]:.2f}：{name:12s}")
for name in ("dropout", "L1", "L2", "权重衰减"):
    assert losses[name][-1] < 0.8 * plain_loss[-1]
    assert ends[name] > ends["无正则化"]
assert losses["批量归一化"][-1] > max(losses[name][-1] for name in ("dropout", "L1", "L2", "权重衰减"))

# %%
for name, (_, color, style) in models.items():
    plt.plot(range(1, 41), losses[name], color=color, linestyle=style, label=name)
plt.xlabel("轮")
plt.ylabel("留出数据的交叉熵（奈特）")
plt.title("各种正则化下的留出损失")
plt.ylim(0.5, 2.5)
plt.grid(alpha=0.3)
plt.legend(ncols=2)
plt.show()

# %% [markdown]
# 这里 dropout 效果最好。批量归一化也学会了错误的标签，而且更早。那么在这些惩罚下，第二层的 65,536 个权重变成了什么样？L2 使它们集中成一个窄峰；L1 使大多数变成零，留下少数大的。纵轴是对数刻度。

# %%
kernels = {
    "无惩罚": plain.model.get_layer("hidden2").kernel,
    "L2": models["L2"][0].get_layer("hidden2").kernel,
    "L1": models["L1"][0].get_layer("hidden2").kernel,
}
figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True, layout="constrained")
share = {}
for axis, (name, kernel), color in zip(axes, kernels.items(), (BLUE, ORANGE, RED), strict=True):
    weights = numpy(kernel).ravel()
    share[name] = np.mean(np.abs(weights) < 0.001)
    axis.hist(weights, bins=np.linspace(-0.4, 0.4, 81), color=color)
    axis.set(title=f"{name}：{share[name]:.0%} 在 0 附近 0.001 以内", xlabel="权重", yscale="log")
axes[0].set_ylabel("个数")
plt.show()
assert share["L1"] > 0.7
assert share["L1"] > 2 * share["L2"] > 2 * share["无惩罚"]
assert np.abs(numpy(kernels["L1"])).max() > 2 * np.abs(numpy(kernels["L2"])).max()

# %% [markdown]
# ## 练习
#
# **1.** 对普通的 SGD，L2 惩罚与权重衰减等价：衰减系数为 $d$ 时，$\lambda$ 取多少才有同样的更新？令损失本身为常数（梯度为 0），从 $w = 1$ 走几步来验证。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# lambda w^2 的梯度是 2 lambda w，带衰减的 SGD 给梯度加上 d w：lambda = d / 2。
penalty, optimizer = layers.l2(0.5 / 2), zoo.optimizers.SGD(0.1, weight_decay=0.5)
decayed, penalized = keras.Variable([1.0]), 1.0
optimizer.build([decayed])
for _ in range(5):
    optimizer.apply([keras.ops.zeros(1)], [decayed])
    up, down = (float(numpy(penalty(keras.ops.array([penalized + h])))) for h in (0.01, -0.01))
    penalized -= 0.1 * (up - down) / 0.02  # 惩罚的斜率，用第 1 章的有限差分
print(f"衰减 {float(numpy(decayed)[0]):.4f}，L2 {penalized:.4f}，按公式 {0.95**5:.4f}")
assert np.allclose([numpy(decayed)[0], penalized], 0.95**5, atol=1e-3)

# %% [markdown]
# **2.** 给 `table` 的一列（一个特征）加上一个常数。哪一种归一化的输出不变？这对批量归一化前一层的偏置意味着什么？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 批量归一化减去该列的均值，常数也一并减去：批量归一化之前的偏置不起作用。
shifted = table.copy()
shifted[:, 3] += 5
batch_change = np.abs(numpy(batch_norm(shifted, training=True)) - normalized(table, axis=0)).max()
layer_change = np.abs(numpy(layer_norm(shifted)) - normalized(table, axis=1)).max()
print(f"批量归一化的输出改变 {batch_change:.0e}，层归一化的改变 {layer_change:.1f}")
assert batch_change < 1e-4
assert layer_change > 0.5

# %% [markdown]
# **3.** Dropout 保持期望不变，方差却会改变。以概率 $p$ 对常数 1 做 dropout，方差是多少？把公式与上面抽出的掩码比较。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# E[y^2] - E[y]^2 = (1 - p) / (1 - p)^2 - 1 = p / (1 - p)
print(f"测得 {masks.var():.3f}，按公式 {0.4 / 0.6:.3f}")
assert abs(masks.var() - 0.4 / 0.6) < 0.01

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[学习率调度](10-schedules.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_multilayer-perceptrons/dropout.html) 4.6 节：暂退法（dropout）；[7.5 节](https://zh.d2l.ai/chapter_convolutional-modern/batch-norm.html)：批量规范化
# - 吴恩达（Andrew Ng），[Improving Deep Neural Networks](https://www.coursera.org/learn/deep-neural-network)：讲正则化与优化的课程
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/regularization.html) 第 7 章
# - Srivastava 等 2014，[Dropout](https://jmlr.org/papers/v15/srivastava14a.html)；Ioffe、Szegedy 2015，[Batch Normalization](https://arxiv.org/abs/1502.03167)；Ba、Kiros、Hinton 2016，[Layer Normalization](https://arxiv.org/abs/1607.06450)
# - Zhang 等 2017，[Understanding deep learning requires rethinking generalization](https://arxiv.org/abs/1611.03530)：网络能把随机标签背下来
