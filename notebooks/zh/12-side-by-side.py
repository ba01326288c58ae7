# %% [markdown]
# # 12 框架并排看
#
# **你会看到什么。** 为什么两个框架计算同一件事，最后几位却不同。它们老老实实可以相差多少，超出时又怎样发现：
# `zoo compare`、一致性阶梯的八级，以及让一个框架与自己也不同的混沌。最后是四个陷阱：同一个词，各有各的意思。

# %%
import os
from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np

import zoo

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
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
    print(f"{name:10s} off by {off:.0e} of the largest, {same:.0%} of the numbers equal NumPy's bit for bit")
    assert off < 1e-6

# %% [markdown]
# 所以这里的“相同”不能是逐位相等。凡是没有求和舍入的地方就可以：zoo 的初始权重、批次和随机失活的掩码由整数产生，逐位相等。
# 其余的只差舍入；而一致性，就是用一个数说出差到什么程度。
#
# ## zoo compare
#
# 在命令行上是 `zoo compare lenet5`，在这里也可以：每个框架各用一个进程，从同一个随机种子训练这个模型；然后两两比较。
# 在笔记本里，结果会显示它的页面：曲线、时间、内存、两两之差的表，以及第一个不同的层。

# %%
frameworks = zoo.backends.installed()
result = zoo.compare("mlp", steps=20, engines=["native"], backends=frameworks, threads=1, out=None)
for run in result.runs:
    print(f"{run['backend']:10s} {run['mode']:7s} last loss {run['losses'][-1]:.7f}")
for pair in result.differences:
    print(f"{pair['a']} and {pair['b']}: weights {pair['initial_weights']:.0e}, outputs {pair['outputs']:.0e},"
          f" losses {pair['losses']:.0e}, {pair['predictions']} predictions differ")  # fmt: skip
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
# | 2 | 每一层的输出 | 1e-5 | 1e-12 |
# | 3 | 每个梯度 | 1e-5 | 1e-12 |
# | 4 | 每种优化器、学习率调度的更新 | 1e-6 | 1e-12 |
# | 5 | 一百步的损失 | 混沌底线 | 1e-9 |
# | 6 | 训练之后的预测 | 相同 | 相同 |
# | 7 | Keras 的 `fit` 和每种模式，对框架自己的循环 | 同 5 | 同 5 |
# | 8 | 用另一个框架的检查点接着训练的损失 | 同 5 | 同 5 |
#
# float64 是锋利的检验：float32 里的不同也许是舍入，float64 里的不同就是另一个公式。
#
# ## 混沌
#
# 第 5 级为什么要有底线？训练会把自己的误差再喂给自己。我们训练多层感知机，再训练一次，每个初始权重随机地向上或向下
# 移动最后一位的一个单位：这是最小的改变。框架和批次都相同。

# %%
shape = zoo.train("mlp", "digits", steps=1).model.input_shape[1:]
start = zoo.build("mlp", shape=shape, seed=0)


def trained(nudge):
    """The losses of four epochs, from weights moved by one unit in the last place."""
    model, rng = keras.models.clone_model(start), np.random.default_rng(nudge)
    model.set_weights(start.get_weights())
    for v in model.trainable_variables if nudge else ():
        w = numpy(v)
        v.assign(np.nextafter(w, np.where(rng.random(w.shape) < 0.5, -np.inf, np.inf).astype("float32")))
    return np.array(zoo.train(model, "digits", epochs=4).losses)


plain = trained(0)
for nudge, color, style in ((1, BLUE, "-"), (2, ORANGE, "--"), (3, GREEN, ":")):
    difference = np.maximum(np.abs(trained(nudge) - plain), 1e-9)
    plt.semilogy(
        difference, color=color, linestyle=style, label=f"nudge {nudge}: at most {difference.max():.0e}"
    )
plt.xlabel("step")
plt.ylabel("difference of the losses")
plt.title("One framework, against itself")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert np.abs(trained(0) - plain).max() == 0  # the same bits again, if nothing is moved

# %% [markdown]
# 有的训练始终只差最后一位的几个单位；有的会分岔：对某个样本，一个正好站在拐角上的 ReLU 倒向另一边，Adam 把它变成完整的一步，
# 从此就是另一次训练，与第一次一样好。不能怪任何框架。所以第 5 级的界在同一次运行中测量：两个框架之差，
# 可以是一个框架与自己之差的几倍。固定的界，不是说谎就是失败。
#
# ## 四个陷阱
#
# 这些是舍入解释不了的。在每一个里，两个库按自己的定义都是对的。

# %%
row = np.arange(1.0, 5.0)  # a convolution of stride 2, kernel (1, 1, 1), over 1 2 3 4
same = np.convolve(np.pad(row, (0, 1)), np.ones(3), "valid")[::2]  # "same": TensorFlow pads the end alone
even = np.convolve(np.pad(row, (1, 1)), np.ones(3), "valid")[::2]  # torch pads both ends
print("1. padding 'same' with a stride:", same, "or", even)
assert not np.array_equal(same, even)

gelu = keras.ops.gelu
exact, tanh = (float(numpy(gelu(keras.ops.convert_to_tensor(2.0), approximate=how))) for how in (False, True))
print(
    f"2. GELU(2), exact {exact:.5f}, by tanh {tanh:.5f}: Keras's two functions of that name have each a default"
)
assert 5e-5 < abs(exact - tanh) < 1e-3

examples = np.array([1.0, 2.0, 4.0])
print(f"3. variance of {examples}: {examples.var():.4f} (Keras's batch norm keeps it), "
      f"or {examples.var(ddof=1):.4f} (torch's)")  # fmt: skip
assert np.isclose(examples.var(ddof=1), 1.5 * examples.var())

small = 1e-6  # a gradient this small, first step of Adam: rate * g / (|g| + epsilon)
print(f"4. epsilon 1e-7 (Keras) or 1e-8 (torch): a step of {small / (small + 1e-7):.3f} or {small / (small + 1e-8):.3f}"
      " learning rates")  # fmt: skip
assert small / (small + 1e-7) < 0.92 < small / (small + 1e-8)

# %% [markdown]
# 在这几点上，zoo 的模型在三个框架上都跟随 torch：像 torch 那样填充，torchvision 的权重也能像原来那样继续训练。[还有更多](../../docs/upstream.md)，
# 附有可以重现的程序。
#
# ## 练习
#
# **1.** 在 1、1,000 和一百万附近，相邻的 float32 相距多远？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# 23 binary digits behind the first: 2^-23 near 1, and as many times more as the number is larger.
gaps = np.spacing(np.array([1, 1e3, 1e6], "float32"))
print(gaps)
assert gaps[0] == 2.0**-23
assert gaps[2] == 2.0**-4

# %% [markdown]
# **2.** 有人说两个框架的输出相差不超过 2e-2。这能发现第二个陷阱吗？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Each of the four traps: none moves an output by more. GELU by tanh, for one, is at most this far from the exact one:
grid = keras.ops.convert_to_tensor(np.linspace(-6, 6, 2401, dtype="float32"))
worst = np.abs(numpy(gelu(grid, approximate=True)) - numpy(gelu(grid, approximate=False))).max()
print(f"{worst:.0e}")
assert 1e-4 < worst < 2e-2

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
