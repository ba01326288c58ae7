# %% [markdown]
# # 12 框架并排看
#
# **你会看到什么。** 为什么两个框架计算同一件事，最后几位却不同。它们老老实实可以相差多少，超出时又怎样发现：
# `zoo compare`、一致性阶梯的八级，以及让一个框架与自己也不同的混沌。最后是四个陷阱：同一个词，各有各的意思。

# %%
import os
from importlib.util import find_spec
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import ladder, layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, SKY, ORANGE, RED, PURPLE = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 舍入
#
# 浮点数只有那么多位：float32 有二进制 24 位，大约十进制七位。每次加法之后，结果都舍入到最近的可表示的数。
# 所以相加的次序要紧：$(a + b) + c$ 不一定等于 $a + (b + c)$。一万个数的和，换五百种随机次序，有一百多种结果。

# %%
a, b, c = np.float32(1e8), np.float32(-1e8), np.float32(1)
print("(a + b) + c =", (a + b) + c, "   a + (b + c) =", a + (b + c))
assert (a + b) + c == 1
assert a + (b + c) == 0

rng = np.random.default_rng(0)
numbers = rng.normal(size=10_000).astype("float32")
exact = numbers.astype("float64").sum()
sums = [np.cumsum(rng.permutation(numbers), dtype="float32")[-1] - exact for _ in range(500)]
plt.hist(np.array(sums) * 1e5, bins=40, color=BLUE)
plt.xlabel("error of the sum (1e-5)")
plt.ylabel("orders of addition (of 500)")
plt.title("One sum, five hundred orders")
plt.show()
print(len(set(sums)), "different results")
assert len(set(sums)) > 100

# %% [markdown]
# ## 一个乘积，三个框架
#
# 矩阵乘积是许多个和。每个框架按处理器的寄存器和缓存，用自己的方式切开它们；谁也没有错。与 float64 相比，
# 都只差最后一位的几个单位。

# %%
x, y = rng.normal(size=(2, 300, 300)).astype("float32")
exact = x.astype("float64") @ y.astype("float64")


def by_torch():
    import torch

    return (torch.tensor(x) @ torch.tensor(y)).numpy()


def by_tensorflow():
    import tensorflow as tf

    return tf.linalg.matmul(x, y).numpy()


def by_jax():
    import jax.numpy as jnp

    return np.asarray(jnp.matmul(x, y))


products = {"NumPy": x @ y}
for name, product in {"torch": by_torch, "tensorflow": by_tensorflow, "jax": by_jax}.items():
    if find_spec(name):
        products[name] = product()
for name, product in products.items():
    off = np.abs(product - exact).max() / np.abs(exact).max()
    same = np.mean(product == products["NumPy"])
    print(
        f"{name:10s} off by {off:.0e} of the largest value, {same:.0%} of the numbers equal NumPy's bit for bit"
    )
    assert off < 1e-6

# %% [markdown]
# 所以这里的“相同”不能是逐位相等。凡是没有求和舍入的地方就可以：zoo 的初始权重、批次和随机失活的掩码由整数产生，逐位相等。
# 其余的只差舍入；而一致性，就是用一个数说出差到什么程度。
#
# ## zoo compare
#
# 在命令行上是 `zoo compare lenet5`，在这里也可以：每个框架各用一个进程，从同一个随机种子训练这个模型；然后两两比较。
# 在笔记本里，结果会显示它的页面，一份报告，有这几部分：
#
# - **runs**：每个框架、每种运行方式的损失曲线、准确率、一步的时间、内存；
# - **differences**：每一对在初始权重、输出、损失上的最大差别，有多少个预测不同，以及第一个超出界的层；
# - **definition**：模型自己的代码、卡片、配方；机器和各版本。
#
# 要半分钟，大部分用来启动各框架。

# %%
frameworks = zoo.backends.installed()
result = zoo.compare("mlp", epochs=3, engines=["native"], backends=frameworks, threads=1, out=None)
for run in result.runs:
    print(
        f"{run['backend']:10s} {run['mode']:6s} {len(run['losses'])} steps, last loss {run['losses'][-1]:.7f}"
    )
for pair in result.differences:
    a, b = (pair[side].split("/")[0] for side in "ab")
    print(f"{a} and {b}: weights {pair['initial_weights']:.0e}, outputs {pair['outputs']:.0e},", end=" ")
    print(f"losses {pair['losses']:.0e}, {pair['predictions']} predictions differ")
assert all(run["error"] is None for run in result.runs)
assert all(pair["initial_weights"] == 0 and pair["losses"] < 1e-5 for pair in result.differences)

# %% [markdown]
# ## 阶梯
#
# 两次训练若不同，最先不同在哪里？`zoo parity` 爬八级；一对框架最先失败的那一级说出是哪个运算，并给出两个值
# （[界与理由](../../docs/ladder.md)）：
#
# | 级 | 比较什么 | float32 | float64 |
# | --- | --- | --- | --- |
# | 1 | 初始权重、批次、掩码 | 逐位 | 逐位 |
# | 2 | 每个运算的输出 | 1e-5 | 1e-12 |
# | 3 | 每个梯度 | 1e-5 | 1e-12 |
# | 4 | 每种优化器沿着学习率调度的更新 | 1e-6 | 1e-12 |
# | 5 | 一百步的损失 | 混沌底线 | 1e-9 |
# | 6 | 训练之后的预测 | 相同 | 相同 |
# | 7 | Keras 的 `fit` 和每种模式，对框架自己的循环 | 混沌底线 | 1e-9 |
# | 8 | 用另一个框架的检查点接着训练的损失 | 混沌底线 | 1e-9 |
#
# float64 是锋利的检验：float32 里的不同也许是舍入，float64 里的不同就是另一个公式。
#
# ## 混沌
#
# 第 5 级为什么要有底线？训练会把自己的误差再喂给自己。我们训练多层感知机，再训练一次，每个初始权重随机地向上或向下
# 移动最后一位的一个单位：这是最小的改变。框架和批次都相同。旁边是上面各框架之间的差别。

# %%
assert [rung.float32 for rung in ladder.RUNGS] == [
    0,
    1e-5,
    1e-5,
    1e-6,
    None,
    0,
    None,
    None,
]  # None: the chaos floor
assert [rung.float64 for rung in ladder.RUNGS] == [0, 1e-12, 1e-12, 1e-12, 1e-9, 0, 1e-9, 1e-9]


def trained(nudge):
    """The losses of three epochs, from initial weights with a 1-ulp perturbation."""
    model, rng = zoo.build("mlp", seed=0), np.random.default_rng(nudge)
    for v in model.trainable_variables if nudge else ():
        w = numpy(v)
        v.assign(np.nextafter(w, np.where(rng.random(w.shape) < 0.5, -np.inf, np.inf).astype("float32")))
    return np.array(zoo.train(model, "digits", epochs=3, seed=0).losses)


def so_far(a, b):
    """The largest difference up to each step."""
    return np.maximum.accumulate(np.abs(np.subtract(a, b)))


plain, losses = trained(0), {run["backend"]: run["losses"] for run in result.runs}
ours = {f"{keras.backend.backend()}, perturbation {nudge}": so_far(trained(nudge), plain) for nudge in (1, 2)}
theirs = {f"{a} and {b}": so_far(losses[a], losses[b]) for a, b in combinations(losses, 2)}
for curves, colors in ((ours, (BLUE, SKY)), (theirs, (RED, ORANGE, PURPLE))):
    for (name, curve), color, style in zip(curves.items(), colors, ("-", "--", ":"), strict=False):
        plt.plot(curve, color=color, linestyle=style, linewidth=3 if curves is ours else 1.5, label=name)
plt.yscale("symlog", linthresh=1e-8)
plt.ylim(0, 1e-2)
plt.xlabel("step")
plt.ylabel("largest difference of the losses so far")
plt.title("One framework against itself, and against others")
plt.legend(loc="lower right")
plt.grid(alpha=0.3)
plt.show()
again = so_far(plain, losses[keras.backend.backend()])[-1]
print(f"the same framework in its own process, without perturbation: {again:.0e}")
floor = ladder.floor(max(curve[-1] for curve in ours.values()))
print(f"the chaos floor of rung 5: {floor:.1e}")
assert again < 1e-6
assert all(curve[-1] <= floor < 0.1 for curve in theirs.values())

# %% [markdown]
# 框架之间相差的，不过是一个框架与自己相差的那么多，甚至更少。有的训练始终只差最后一位的几个单位；有的会分岔：对某个样本，
# 一个正好站在拐角上的 ReLU 倒向另一边，Adam 把它变成完整的一步，从此就是另一次训练，与第一次一样好。哪一次分岔全凭偶然，
# 各框架不同，不能怪任何框架。所以第 5 级的界，即*混沌底线*，在同一次运行中测量：两个框架之差，可以是一个框架与自己之差的五倍；后者至少算作损失最后一位的一个单位。
# 固定的界，不是说谎就是失败。损失分开时，`zoo compare` 也这样做：它的页面会说，单凭舍入能否解释。
#
# ## 四个陷阱
#
# 这些是舍入解释不了的。在每一个里，两个库按自己的定义都是对的。


# %%
def run_alone(layer, x, **settings):
    """One layer of the zoo: its model, and a function that calls it on x."""
    inputs = layers.Input(x.shape[1:])
    model = layers.Model(inputs, layer(inputs, name="it", **settings))
    return model, lambda **how: numpy(model(keras.ops.convert_to_tensor(x), **how))


image = np.zeros((1, 4, 4, 1), "float32")
image[0, 1, :, 0] = [1, 2, 3, 4]
ones = {"stride": 2, "initializer": zoo.random.ones, "use_bias": False}
both, end = (
    run_alone(layers.conv, image, filters=1, size=3, padding=how, **ones)[1]() for how in (1, "same")
)
print(
    f"1. a kernel of ones, stride 2, over 1 2 3 4: padding on both sides, as in torch: {both[0, 0, :, 0]};",
    end=" ",
)
print(f"'same', as in TensorFlow, which pads only the end: {end[0, 0, :, 0]}")
assert both.shape == end.shape
assert not np.array_equal(both, end)

two = keras.ops.convert_to_tensor(np.float32(2))
exact, tanh = (float(keras.ops.gelu(two, approximate=how)) for how in (False, True))
print(
    f"2. GELU(2): exact, the default of torch and TensorFlow, {exact:.5f}; with tanh, the default of JAX, {tanh:.5f}"
)
assert 5e-5 < tanh - exact < 5e-4

faint = np.array([[-0.01], [0.01]], "float32")  # of variance 1e-4
wide, narrow = (run_alone(layers.batch_norm, faint, epsilon=e)[1](training=True)[1, 0] for e in (1e-3, 1e-5))
print(
    f"3. 0.01, batch-normalized with Keras's epsilon of 1e-3: {wide:.2f}; with torch's of 1e-5: {narrow:.2f}"
)
assert wide < 0.5 < 0.9 < narrow

x = np.array([[1.0], [2.0], [4.0]], "float32")
unbiased, call = run_alone(layers.batch_norm, x, momentum=1.0)  # as torch
biased = keras.layers.BatchNormalization(momentum=0.0)
call(training=True), biased(keras.ops.convert_to_tensor(x), training=True)
kept = [float(numpy(layer.non_trainable_variables[-1])[0]) for layer in (biased, unbiased)]
print(f"4. the variance of 1, 2 and 4 that batch norm keeps: {kept[0]:.4f} in Keras, {kept[1]:.4f} in torch")
assert np.allclose(kept, [x.var(), x.var(ddof=1)], atol=1e-5)

# %% [markdown]
# 在这几点上，zoo 的模型在三个框架上都跟随 torch：像 torch 那样填充，torchvision 的权重也能像原来那样继续训练。
# [还有更多](../../docs/upstream.md)，附有可以重现的程序。
#
# ## 练习
#
# **1.** 在 1、1,000 和一百万附近，相邻的 float32 相距多远？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# 23 binary digits after the first: 2^-23 near 1, and proportionally more for larger numbers.
gaps = np.spacing(np.array([1, 1e3, 1e6], "float32"))
print(gaps)
assert gaps[0] == 2.0**-23
assert gaps[2] == 2.0**-4

# %% [markdown]
# **2.** 有人说两个框架的输出相差不超过 2e-2。这能发现第二个陷阱吗？方差在 1 附近时，第三个呢？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Neither: both differences are at least forty times smaller than that bound.
grid = keras.ops.convert_to_tensor(np.linspace(-6, 6, 2401, dtype="float32"))
by_gelu = np.abs(
    numpy(keras.ops.gelu(grid, approximate=True)) - numpy(keras.ops.gelu(grid, approximate=False))
).max()
by_epsilon = 1 / np.sqrt(1 + 1e-5) - 1 / np.sqrt(1 + 1e-3)  # for a value of 1
print(
    f"GELU with tanh: at most {by_gelu:.0e}; an epsilon of 1e-3 instead of 1e-5: {by_epsilon:.0e} of the value"
)
assert 1e-4 < by_gelu < 2e-2 / 40
assert 1e-4 < by_epsilon < 2e-2 / 40

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[硬件](13-hardware.ipynb)
# - David Goldberg 1991，[What Every Computer Scientist Should Know About Floating-Point
#   Arithmetic](https://docs.oracle.com/cd/E19957-01/806-3568/ncg_goldberg.html)
# - PyTorch，[Reproducibility](https://pytorch.org/docs/stable/notes/randomness.html) 与
#   [numerical accuracy](https://pytorch.org/docs/stable/notes/numerical_accuracy.html)
# - Nicholas Higham，[What is floating-point arithmetic?](https://nhigham.com/2020/05/04/what-is-floating-point-arithmetic/)
# - [阶梯与它的界](../../docs/ladder.md)，[上游的差异](../../docs/upstream.md)
