# %% [markdown]
# # 13 硬件
#
# **你会看到什么。** 你的机器有什么，哪个框架看得见它。一步训练要多少次乘法、多少内存，在花钱之前先数清楚。
# 32 位、19 位、16 位对一个数意味着什么。还有 zoo 能在哪里运行：你的处理器、图形处理器（GPU）、苹果的笔记本、TPU，
# 以及出租它们的服务。

# %%
import os
import time

import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np

import zoo
from zoo import machine

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette

# %% [markdown]
# ## 这里有什么
#
# 命令行上的 `zoo doctor` 为每个框架打印下面这些，缺了什么也会说该装什么。在 Python 里，对正在用的这个框架：

# %%
here, framework = machine.environment(), machine.describe(keras.backend.backend())
print(
    f"{here['processor']}, {here['cores']} cores, {here['memory_gb']} GB of memory, Python {here['python']}"
)
print(f"{keras.backend.backend()} {framework['version']}, threads {framework['threads']}")
for device in framework["devices"]:
    print(f"device {device['name']}: {device['kind']} {device['description']}")
print("execution modes, the default first:", ", ".join(framework["modes"]))
assert framework["devices"]

# %% [markdown]
# *设备*是数组存放和计算的地方；用的是列出的第一个。*线程*是同时用几个核。*运行的方式*有两类：一是 eager，
# Python 遇到一个运算就算一个；二是先把运算记成一张图，再整张运行，第一步之前要多花一秒或更久，以后每一步都省时间。
#
# ## 哪个框架在哪里运行
#
# | 硬件 | PyTorch | TensorFlow | JAX |
# | --- | --- | --- | --- |
# | 处理器（CPU） | `torch`，在[官网的选择器](https://pytorch.org/get-started/locally/)里选“CPU”：小的那个包 | `tensorflow-cpu` | `jax` |
# | NVIDIA，CUDA | 同一个选择器，选你的 CUDA | `tensorflow[and-cuda]`，Linux 和 WSL2 | `jax[cuda13]` 或 `jax[cuda12]`，Linux |
# | AMD，ROCm | 同一个选择器，Linux | [AMD 的构建](https://rocm.docs.amd.com/)，Linux | `jax[rocm7-local]`，Linux |
# | 苹果，MPS | `torch`，开箱即用；那里没有 float64 | CPU | CPU；插件尚在试验 |
# | Google TPU | `torch_xla`，zoo 不用它 | 在 Google Cloud 的机器上 | `jax[tpu]` |
#
# 它们自己的页面随每个版本而变，请以那里为准：[PyTorch](https://pytorch.org/get-started/locally/)、
# [TensorFlow](https://www.tensorflow.org/install/pip)、[JAX](https://docs.jax.dev/en/latest/installation.html)。
# 先按你的硬件装框架，再装 zoo：它用它找到的。默认用第一块 GPU；要用别的，在建第一个模型之前说：
# `zoo.use("torch", device="cpu")`、`"cuda:1"`、`"mps"`、`"tpu:0"`。在一处存下的检查点可以在另一处接着训练，换一个框架也行。
#
# zoo 本身在 CPU 上，以及用 torch 和 JAX 在 NVIDIA 的 H200 上，实测是一致的（[数据](../../docs/howto/gpu.md)）；
# ROCm、MPS 和 TPU 还没有试过。
#
# ## 有多快？
#
# 网络的计算几乎全是矩阵乘积。两个 $n \times n$ 矩阵相乘要 $n^3$ 次乘加，也就是 $2 n^3$ 次运算。那就让这个框架乘，我们来数。

# %%
sizes, rates = 2 ** np.arange(5, 11), []
for n in sizes:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(n, n)).astype("float32"))
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(x, x))  # waits for the result
        seconds.append(time.perf_counter() - begin)
    rates.append(2 * int(n) ** 3 / min(seconds))
fastest = max(rates)
plt.loglog(sizes, rates, color=BLUE, marker="o")
plt.xlabel("matrix size n (n x n)")
plt.ylabel("operations per second")
plt.title(f"Matrix products on {keras.backend.backend()}")
plt.grid(alpha=0.3)
plt.show()
print(f"at best {fastest / 1e9:.0f} billion operations per second")

# %% [markdown]
# 小的乘积不划算：调用它的时间比计算它的时间还长。所以样本要成批地算；也所以，需要同时做成千上万次乘法的 GPU，
# 用在小模型上是浪费。
#
# ## 要多久？
#
# 模型卡片上有一次前向的乘加次数。一步训练大约是它的三倍（第 2 章练习 3），每次乘加是两个运算，于是
#
# $$\text{一步的秒数} \ge \frac{3 \cdot 2 \cdot \text{乘加次数} \cdot \text{批的大小}}{\text{每秒的运算数}}$$
#
# 下面是几个模型在这台机器上的下界，以及一个小模型实际用的时间。

# %%
BATCH = 64


def least_seconds(name):
    """A lower bound on the seconds of a step of BATCH examples on this machine."""
    return 3 * 2 * zoo.card(name).multiply_adds * BATCH / fastest


for name in ("lenet5", "resnet18", "resnet50", "vit-b16"):
    print(
        f"{name:9s} {zoo.card(name).multiply_adds:14,} multiply-adds: at least {least_seconds(name):.2g} s per step"
    )

run = zoo.train("mlp", epochs=3, batch_size=BATCH, checkpoint="run.safetensors")
step = (run.train_s - run.first_step_s) / (len(run.losses) - 1)
print(f"mlp, measured: {BATCH / step:,.0f} examples per second, {1000 * step:.1f} ms per step;", end=" ")
print(f"the bound is {1000 * least_seconds('mlp'):.1f} ms; the first step took {run.first_step_s:.1f} s")
assert zoo.card("vit-b16").multiply_adds > 40000 * zoo.card("lenet5").multiply_adds

# %% [markdown]
# 小模型离下界很远，因为一步的大部分时间花在乘法以外的事情上。大模型顺利时能用到 GPU 能力的三分之一到一半。
#
# ## 要多少内存？
#
# float32 的一个数占四字节。用 Adam 训练，每个参数要存四个数：权重、它的梯度、Adam 的两个平均。此外还有各层的输出
# （也叫激活值），反向传播还要用（第 2 章）；它们随批的大小增长。所以我们数一数模型各层输出多少个数。


# %%
def memory_gib(name, batch):
    """Memory of the weights, gradients, optimizer state (Adam) and layer outputs, in float32."""
    shapes = [t.shape[1:] for layer in zoo.build(name).layers for t in keras.tree.flatten(layer.output)]
    outputs = sum(int(np.prod(shape)) for shape in shapes)
    weights = zoo.card(name).parameters
    return 4 * np.array([weights, weights, 2 * weights, outputs * batch]) / 2**30


NAMES = ["alexnet", "resnet18", "efficientnet-b0", "vit-s16"]
parts = np.array([memory_gib(name, 16) for name in NAMES]).T
LABELS = ["weights", "gradients", "optimizer state (Adam)", "outputs of the layers"]
bottom = np.zeros(len(NAMES))
for part, label, color, hatch in zip(
    parts, LABELS, (BLUE, RED, GREEN, ORANGE), ("", "..", "xx", "//"), strict=True
):
    plt.bar(NAMES, part, bottom=bottom, color=color, hatch=hatch, edgecolor="white", label=label)
    bottom += part
plt.xlabel("model")
plt.ylabel("memory of a training step, batch size 16 (GiB)")
plt.title("Memory: weights dominate in AlexNet, outputs elsewhere")
plt.ylim(0, 1.35 * bottom.max())
plt.legend(ncols=2)
plt.show()
kept, outputs = parts[:3].sum(axis=0), parts[3]
assert (outputs < kept).tolist() == [True, False, False, False]

# %% [markdown]
# AlexNet 有六千一百万个参数，大多在三个全连接层里，输出却很少。后来的模型参数少、输出多，批里每多一个样本，内存就多一份。
# 框架会提早释放一些输出，另外也要些临时内存，所以把它当作误差两倍以内的估计。放不下时：更小的批（`batch_size=`）、
# 16 位（见下）、更小的图像（`image_size=`）。
#
# ## 更少的位数
#
# 浮点数有一个符号；指数决定范围，尾数决定精度。GPU 乘短的数更快：
#
# | 类型 | 位数 | 指数 | 尾数 | 在 1 附近至多舍入 |
# | --- | --- | --- | --- | --- |
# | float32 | 32 | 8 | 23 | 6e-8 |
# | TensorFloat-32 | 用 19 | 8 | 10 | 5e-4 |
# | bfloat16 | 16 | 8 | 7 | 4e-3 |
# | float16 | 16 | 5 | 10 | 5e-4，但不能超过 65,504 |
#
# 如果不另说，NVIDIA 的 GPU 可能把 float32 的乘积算成 TensorFloat-32：torch 在卷积和循环层里允许，JAX 和 TensorFlow
# 在所有乘积里允许。CPU 都不这样做，所以我们模拟它：把尾数舍入到十位；bfloat16 则用 Keras 自带的 `ml_dtypes` 包来舍入。


# %%
def tensorfloat32(x):
    """float32 with the mantissa rounded to ten bits."""
    bits = np.asarray(x, "float32").view("uint32").astype("uint64")
    return ((bits + 0x1000) & 0xFFFFE000).astype("uint32").view("float32")


ROUNDED = {
    "float32": (lambda x: x.astype("float32"), BLUE, "-"),
    "TensorFloat-32": (tensorfloat32, GREEN, "--"),
    "bfloat16": (lambda x: x.astype(ml_dtypes.bfloat16).astype("float32"), RED, ":"),
}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
near, rng, lengths = np.linspace(1, 1 + 2**-6, 1001), np.random.default_rng(0), 2 ** np.arange(2, 15)
for name, (rounding, color, style) in ROUNDED.items():
    left.plot(near, rounding(near), color=color, linestyle=style, label=name)
    errors = []
    for n in lengths:
        a, b = rng.normal(size=(2, 50, n))
        short = np.sum(rounding(a).astype("float64") * rounding(b).astype("float64"), axis=1)
        errors.append(np.sqrt(np.mean((short - np.sum(a * b, axis=1)) ** 2) / n))
    right.loglog(lengths, errors, color=color, linestyle=style, marker="o", label=name)
left.set(xlabel="a number near 1", ylabel="rounded", title="rounding", xticks=[1, 1.005, 1.01, 1.015])
right.set(xlabel="length of the sum", ylabel="error (relative to a typical sum)")
right.set_title("error of dot products of rounded numbers")
for axis in (left, right):
    axis.grid(alpha=0.3)
    axis.legend()
plt.show()
assert float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) == 2**-7
assert float(np.finfo("float16").max) == 65504
assert tensorfloat32(1 + 2**-11 + 2**-12) == 1 + 2**-10

# %% [markdown]
# 左图：bfloat16 走一级台阶，TensorFloat-32 走八级，float32 看上去是一条直线。右图：误差不随长度增长，因为舍入有上有下；
# 但丢了的就是丢了。GPU 与 CPU 不如两块 CPU 之间那样一致，原因就在这里：在一块 H200 上用 torch 训练 LeNet-5 一百步，
# 损失与 CPU 相差 2.2e-4；关掉 TensorFloat-32 之后相差 6.0e-7（[怎样关掉](../../docs/howto/gpu.md)）。
#
# 只要求和用 float32、权重存成 float32，训练用不着很多位。Keras 的策略 `mixed_bfloat16` 正是这样：各层用 16 位计算，
# 权重保持 32 位。

# %%
model = zoo.build("mlp", dtype="mixed_bfloat16")
mixed = zoo.train(model, "digits", epochs=3, batch_size=BATCH)
print(f"accuracy {mixed.metrics['accuracy']:.3f} in mixed bfloat16, {run.metrics['accuracy']:.3f} in float32")
assert model.get_layer("hidden1").compute_dtype == "bfloat16"
assert model.get_layer("hidden1").kernel.dtype == "float32"
assert abs(mixed.metrics["accuracy"] - run.metrics["accuracy"]) < 0.03

# %% [markdown]
# ## 选哪个，去哪里租
#
# 学习用 CPU 就够：这里每一章都能在两个核上运行。训练自己的照片或文本，一块有 8 GB 以上内存的 GPU。从头训练大模型，租用。
#
# | 服务 | 适合什么 | zoo 怎样在那里启动 |
# | --- | --- | --- |
# | [Google Colab](https://colab.research.google.com/) | 浏览器里的笔记本，限量免费的 GPU 或 TPU | 选运行时，再运行下面的第一格 |
# | [Kaggle](https://www.kaggle.com/code) | 每周有 GPU 时数的笔记本，旁边就有数据集 | 打开加速器和网络，再运行下面的第一格 |
# | [Amazon SageMaker](https://aws.amazon.com/sagemaker/) | 用 AWS 的团队：笔记本、训练任务、服务端点 | 带 PyTorch 的镜像，运行下面的第一格；任务里运行 `zoo train` |
# | [Google Cloud](https://cloud.google.com/tpu) | 给 JAX 的 TPU，按小时计的 GPU | 一台 TPU VM，`pip install "jax[tpu]" optax`，再装 zoo |
# | [Azure Machine Learning](https://azure.microsoft.com/products/machine-learning) | 用 Azure 的团队：笔记本、集群 | 一个计算实例，运行下面的第一格 |
#
# 这些镜像自带适合其硬件的框架，所以第一格只需加上 zoo（ADDRESS 是你读到本章的这个仓库的地址），第二格看看 GPU 认出来没有：
#
# ```
# !git clone ADDRESS primer && pip install "./primer[notebooks]"
# !zoo doctor
# ```
#
# 租来的机器会不打招呼就被收走。`checkpoint="run.safetensors"` 每一轮之后存盘，最好存到会保留的盘上；
# `resume=` 从停下的地方接着训练，无论下一次分到什么机器。

# %%
# suppose the machine was reclaimed after the three epochs above; here we continue on another one
again = zoo.train("mlp", epochs=5, resume="run.safetensors")
print(len(run.losses), "steps, then", len(again.losses) - len(run.losses), "more")
assert np.array_equal(again.losses[: len(run.losses)], run.losses)
assert len(again.losses) == len(run.losses) * 5 // 3

# %% [markdown]
# ## 练习
#
# **1.** 你的 GPU 有 8 GiB。按上面的估计，ViT-S/16 的批最大可以多大？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
*fixed, of_one = memory_gib("vit-s16", 1)
largest = int((8 - sum(fixed)) / of_one)
print(largest)
assert sum(memory_gib("vit-s16", largest)) <= 8 < sum(memory_gib("vit-s16", largest + 1))

# %% [markdown]
# **2.** $1 + 0.003$ 在 bfloat16 里是多少？一个等于 1 的权重若存成 bfloat16，每步改变 0.003，一百步之后会怎样？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Above 1 the spacing of bfloat16 is 2^-7 = 0.0078: 1.003 is rounded to 1, every time.
weight = np.array(1, ml_dtypes.bfloat16)
for _ in range(100):
    weight = (weight + np.array(0.003, ml_dtypes.bfloat16)).astype(ml_dtypes.bfloat16)
print(weight, "and not 1.3: this is why weights stay in float32")
assert weight == 1

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[你自己的架构](14-your-own.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_computational-performance/index.html)第 12 章：计算性能
# - Tim Dettmers，[Which GPU(s) to get for deep learning](https://timdettmers.com/2023/01/30/which-gpu-for-deep-learning/)
# - Micikevicius 等 2017，[Mixed precision training](https://arxiv.org/abs/1710.03740)；Kalamkar 等 2019，
#   [A study of BFLOAT16 for deep learning training](https://arxiv.org/abs/1905.12322)
# - Jouppi 等 2017，[In-datacenter performance analysis of a tensor processing unit](https://arxiv.org/abs/1704.04760)
