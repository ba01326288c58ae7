# %% [markdown]
# # 12 跨框架对比
#
# **你会看到什么。** 为什么两个框架计算同一个公式，最后几位数字却不同；这种差别多大算正常，过大时怎样发现：`zoo compare`、一致性阶梯的逐级检验，以及使同一框架的两次训练也会分岔的混沌现象。最后是四个陷阱：不同的框架用同一个词表示不同的东西。

# %%
import os
from importlib.util import find_spec
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers
from zoo.ladder import bounds

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, SKY, ORANGE, RED, PURPLE = "#0072B2", "#56B4E9", "#E69F00", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 舍入误差
#
# 浮点数的位数有限：float32 有二进制 24 位，大约相当于十进制七位。每次加法之后，结果都舍入到最近的可表示的数。所以加法的次序会影响结果：$(a + b) + c$ 不一定等于 $a + (b + c)$。一万个数求和，用五百种随机次序，会得到一百多种不同的结果。

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
plt.xlabel("和的误差（1e-5）")
plt.ylabel("次序的个数（共 500）")
plt.title("同一个和，五百种相加次序")
plt.show()
print(len(set(sums)), "种不同的结果")
assert len(set(sums)) > 100

# %% [markdown]
# ## 一个矩阵乘积，三个框架
#
# 矩阵乘积由许多求和组成。每个框架为了适应处理器的寄存器和缓存，以自己的方式拆分这些求和；谁都没有错。与 float64 相比，都只差最后一位的几个单位。

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
        f"{name:10s} 误差为最大值的 {off:.0e}，{same:.0%} 的数与 NumPy 逐位相同"
    )
    assert off < 1e-6

# %% [markdown]
# 所以这里的“相同”不能指逐位相等。没有舍入的地方可以做到逐位相等：zoo 的初始权重、批次和 dropout 掩码由整数运算得出，每一位都相同。其余的只差舍入误差；所谓*一致性*，就是用数字说明差多少。
#
# ## zoo compare
#
# 可以在命令行运行 `zoo compare lenet5`，也可以像这里一样在 Python 中调用：每个框架在单独的进程中，用同一个随机种子训练模型；然后两两比较。在笔记本中，结果显示为一份报告，包括以下几部分：
#
# - **runs**：每个框架、每种运行模式的损失曲线、准确率、每步的时间、内存；
# - **differences**：每一对框架在初始权重、输出和损失上的最大差别，不同的预测的个数，以及第一个超出上限的层；
# - **definition**：模型的源代码、卡片和配方；机器和各软件的版本。
#
# 大约需要半分钟，大部分时间用于启动各框架。

# %%
frameworks = zoo.backends.installed()
result = zoo.compare("mlp", epochs=3, engines=["native"], backends=frameworks, threads=1, out=None)
for run in result.runs:
    print(
        f"{run['backend']:10s} {run['mode']:6s} {len(run['losses'])} 步，最后的损失 {run['losses'][-1]:.7f}"
    )
for pair in result.differences:
    a, b = (pair[side].split("/")[0] for side in "ab")
    print(f"{a} 与 {b}：权重 {pair['initial_weights']:.0e}，输出 {pair['outputs']:.0e}，", end=" ")
    print(f"损失 {pair['losses']:.0e}，{pair['predictions']} 个预测不同")
assert all(run["error"] is None for run in result.runs)
assert all(pair["initial_weights"] == 0 and pair["losses"] < 1e-5 for pair in result.differences)

# %% [markdown]
# ## 一致性阶梯
#
# 如果两次训练的结果不同，差别最先出现在哪里？`zoo parity` 逐级检验十一级；一对框架最先不通过的那一级会指出是哪个运算，并给出两边的值（[各级上限及理由](../../docs/ladder.md)）。第 9 至 11 级比较批次与填充、梯度累积和数值格式；以下是前八级：
#
# | 级 | 比较什么 | float32 | float64 |
# | --- | --- | --- | --- |
# | 1 | 初始权重、批次、掩码 | 逐位相同 | 逐位相同 |
# | 2 | 每个运算的输出 | 1e-5 | 1e-12 |
# | 3 | 每个梯度 | 1e-5 | 1e-12 |
# | 4 | 每种优化器按学习率调度的更新 | 1e-6 | 1e-12 |
# | 5 | 一百步的损失 | 混沌底线 | 1e-9 |
# | 6 | 训练之后的预测 | 相同 | 相同 |
# | 7 | Keras 的 `fit` 和每种运行模式，与框架自己的训练循环比较 | 混沌底线 | 1e-9 |
# | 8 | 从另一个框架的检查点继续训练的损失 | 混沌底线 | 1e-9 |
#
# float64 是更严格的检验：float32 中的差别可能是舍入误差，float64 中的差别则说明公式不同。
#
# ## 混沌现象
#
# 为什么第 5 级的上限需要测量？因为训练会放大自身的舍入误差。我们训练一次多层感知机，再训练一次，第二次把每个初始权重随机地增大或减小最后一位的一个单位（1 ulp 的扰动），这是最小的改变；框架和批次都相同。图中同时画出前面各框架之间的差别，作为对照。

# %%
assert [rung.float32 for rung in bounds.RUNGS[:8]] == [
    0,
    1e-5,
    1e-5,
    1e-6,
    None,
    0,
    None,
    None,
]  # None：混沌底线
assert [rung.float64 for rung in bounds.RUNGS[:8]] == [0, 1e-12, 1e-12, 1e-12, 1e-9, 0, 1e-9, 1e-9]


def trained(nudge):
    """三轮训练的损失，初始权重带 1 ulp（最后一位的一个单位）的扰动。"""
    model, rng = zoo.build("mlp", seed=0), np.random.default_rng(nudge)
    for v in model.trainable_variables if nudge else ():
        w = numpy(v)
        v.assign(np.nextafter(w, np.where(rng.random(w.shape) < 0.5, -np.inf, np.inf).astype("float32")))
    return np.array(zoo.train(model, "digits", epochs=3, seed=0).losses)


def so_far(a, b):
    """到每一步为止的最大差别。"""
    return np.maximum.accumulate(np.abs(np.subtract(a, b)))


plain, losses = trained(0), {run["backend"]: run["losses"] for run in result.runs}
ours = {f"{keras.backend.backend()}，扰动 {nudge}": so_far(trained(nudge), plain) for nudge in (1, 2)}
theirs = {f"{a} 与 {b}": so_far(losses[a], losses[b]) for a, b in combinations(losses, 2)}
for curves, colors in ((ours, (BLUE, SKY)), (theirs, (RED, ORANGE, PURPLE))):
    for (name, curve), color, style in zip(curves.items(), colors, ("-", "--", ":"), strict=False):
        plt.plot(curve, color=color, linestyle=style, linewidth=3 if curves is ours else 1.5, label=name)
plt.yscale("symlog", linthresh=1e-8)
plt.ylim(0, 1e-2)
plt.xlabel("步")
plt.ylabel("到此为止损失的最大差别")
plt.title("同一框架重复训练，以及框架之间")
plt.legend(loc="lower right")
plt.grid(alpha=0.3)
plt.show()
again = so_far(plain, losses[keras.backend.backend()])[-1]
print(f"同一框架，另一个进程，没有扰动：{again:.0e}")
floor = bounds.floor(max(curve[-1] for curve in ours.values()))
print(f"第 5 级的混沌底线：{floor:.1e}")
assert again < 1e-6
assert all(curve[-1] <= floor < 0.1 for curve in theirs.values())

# %% [markdown]
# 框架之间的差别，并不比同一框架两次训练的差别大。有的训练始终只差最后一位的几个单位；有的会分岔：对某个样本，一个 ReLU 的输入几乎正好为零，于是翻转，Adam 又把它放大成完整的一步，从此成为另一次训练，与第一次同样有效。哪一次会分岔完全是偶然的，各框架不同，不是任何框架的错误。所以第 5 级的上限，即*混沌底线*，在同一次运行中测量：两个框架之差，最多可以是 1 ulp 扰动在同一框架中造成的差别的五倍（后者至少按损失最后一位的一个单位计算）。固定的上限要么太松，毫无意义；要么太严，必然超出。损失分岔时，`zoo compare` 也采用这种办法：报告会说明单凭舍入误差能否解释这一差别。
#
# ## 四个陷阱
#
# 下面这些差别不是舍入误差造成的。在每种情况下，两个库按自己的定义都是正确的。


# %%
def run_alone(layer, x, **settings):
    """单独一个 zoo 的层：只含该层的模型，以及对 x 的调用。"""
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
    f"1. 全为 1 的卷积核，步幅 2，作用于 1 2 3 4：像 torch 那样两边填充，得 {both[0, 0, :, 0]}；",
    end=" ",
)
print(f"像 TensorFlow 的 'same' 那样只在末尾填充，得 {end[0, 0, :, 0]}")
assert both.shape == end.shape
assert not np.array_equal(both, end)

two = keras.ops.convert_to_tensor(np.float32(2))
exact, tanh = (float(keras.ops.gelu(two, approximate=how)) for how in (False, True))
print(
    f"2. GELU(2)：精确形式（torch 和 TensorFlow 的默认）{exact:.5f}；tanh 近似（JAX 的默认）{tanh:.5f}"
)
assert 5e-5 < tanh - exact < 5e-4

faint = np.array([[-0.01], [0.01]], "float32")  # 方差为 1e-4
wide, narrow = (run_alone(layers.batch_norm, faint, epsilon=e)[1](training=True)[1, 0] for e in (1e-3, 1e-5))
print(
    f"3. 对 0.01 做批量归一化：用 Keras 的 epsilon 1e-3 得 {wide:.2f}；用 torch 的 1e-5 得 {narrow:.2f}"
)
assert wide < 0.5 < 0.9 < narrow

x = np.array([[1.0], [2.0], [4.0]], "float32")
unbiased, call = run_alone(layers.batch_norm, x, momentum=1.0)  # 与 torch 相同
biased = keras.layers.BatchNormalization(momentum=0.0)
call(training=True), biased(keras.ops.convert_to_tensor(x), training=True)
kept = [float(numpy(layer.non_trainable_variables[-1])[0]) for layer in (biased, unbiased)]
print(f"4. 批量归一化为 1、2、4 保存的方差：Keras {kept[0]:.4f}，torch {kept[1]:.4f}")
assert np.allclose(kept, [x.var(), x.var(ddof=1)], atol=1e-5)

# %% [markdown]
# 在这四点上，zoo 的模型在三个框架上都与 torch 一致：例如填充方式与 torch 相同，因此 torchvision 的预训练权重可以像在 torch 中一样微调。[更多这样的差异](../../docs/upstream.md)，附有可复现的程序。
#
# ## 练习
#
# **1.** 在 1、1,000 和一百万附近，相邻的 float32 相距多少？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 首位之后还有 23 个二进制位：在 1 附近相距 2^-23，数越大，间距按比例越大。
gaps = np.spacing(np.array([1, 1e3, 1e6], "float32"))
print(gaps)
assert gaps[0] == 2.0**-23
assert gaps[2] == 2.0**-4

# %% [markdown]
# **2.** 假设某个测试只检查两个框架的输出相差不超过 2e-2。它能发现第二个陷阱吗？方差在 1 附近时，能发现第三个吗？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 都不能：两种差别都比这个界限小四十倍以上。
grid = keras.ops.convert_to_tensor(np.linspace(-6, 6, 2401, dtype="float32"))
by_gelu = np.abs(
    numpy(keras.ops.gelu(grid, approximate=True)) - numpy(keras.ops.gelu(grid, approximate=False))
).max()
by_epsilon = 1 / np.sqrt(1 + 1e-5) - 1 / np.sqrt(1 + 1e-3)  # 对于大小为 1 的数
print(
    f"tanh 近似的 GELU 最多相差 {by_gelu:.0e}，epsilon 用 1e-3 代替 1e-5 相差该数的 {by_epsilon:.0e}"
)
assert 1e-4 < by_gelu < 2e-2 / 40
assert 1e-4 < by_epsilon < 2e-2 / 40

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[硬件](13-hardware.ipynb)
# - David Goldberg 1991，[What Every Computer Scientist Should Know About Floating-Point Arithmetic](https://docs.oracle.com/cd/E19957-01/806-3568/ncg_goldberg.html)
# - PyTorch，[Reproducibility](https://pytorch.org/docs/stable/notes/randomness.html) 与 [numerical accuracy](https://pytorch.org/docs/stable/notes/numerical_accuracy.html)
# - Nicholas Higham，[What is floating-point arithmetic?](https://nhigham.com/2020/05/04/what-is-floating-point-arithmetic/)
# - [一致性阶梯与各级上限](../../docs/ladder.md)，[各框架自身的差异](../../docs/upstream.md)
