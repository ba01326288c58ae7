# %% [markdown]
# # 13 硬件
#
# **你会看到什么。** 你的机器有哪些硬件，哪个框架能使用它们。训练一步需要多少计算和多少内存，花钱之前就可以估算。32 位、19 位、16 位对精度意味着什么，以及混合精度训练。最后是 zoo 可以在哪里运行：处理器（CPU）、图形处理器（GPU）、苹果笔记本电脑、TPU，以及云服务。

# %%
import os
import time

import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np

import zoo
from zoo.processes import machine

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # 色盲也能分辨的配色

# %% [markdown]
# ## 本机的硬件
#
# 在命令行运行 `zoo doctor`，会为每个框架列出下面这些信息，缺少框架时还会说明如何安装。在 Python 中查看当前框架：

# %%
here, framework = machine.environment(), machine.describe(keras.backend.backend())
print(
    f"{here['processor']}，{here['cores']} 核，{here['memory_gb']} GB 内存，Python {here['python']}"
)
print(f"{keras.backend.backend()} {framework['version']}，线程数 {framework['threads']}")
for device in framework["devices"]:
    print(f"设备 {device['name']}：{device['kind']} {device['description']}")
print("运行模式（第一个为默认）：", ", ".join(framework["modes"]))
assert framework["devices"]

# %% [markdown]
# *设备*是存放数组并进行计算的地方；默认使用列出的第一个。*线程数*是框架使用的 CPU 线程数。*运行模式*有两类：一是 eager 模式，Python 每遇到一个运算就立即执行；二是先编译成计算图，再整体执行，第一步之前要多花一秒或更久，之后每一步都更快。
#
# ## 哪个框架支持哪种硬件
#
# | 硬件 | PyTorch | TensorFlow | JAX |
# | --- | --- | --- | --- |
# | CPU | `torch`，在[官网安装页](https://pytorch.org/get-started/locally/)选择“CPU”（安装包较小） | `tensorflow-cpu` | `jax` |
# | NVIDIA，CUDA | 同一页面，选择你的 CUDA 版本 | `tensorflow[and-cuda]`，Linux 和 WSL2 | `jax[cuda13]` 或 `jax[cuda12]`，Linux |
# | AMD，ROCm | 同一页面，Linux | [AMD 提供的版本](https://rocm.docs.amd.com/)，Linux | `jax[rocm7-local]`，Linux |
# | 苹果，MPS | `torch`；MPS 不支持 float64 | CPU | CPU；有实验性的插件 |
# | Google TPU | `torch_xla`，zoo 不支持 | Google Cloud 的机器 | `jax[tpu]` |
#
# 各框架的安装方法会随版本变化，请以官方页面为准：[PyTorch](https://pytorch.org/get-started/locally/)、[TensorFlow](https://www.tensorflow.org/install/pip)、[JAX](https://docs.jax.dev/en/latest/installation.html)。先安装适合你的硬件的框架，再安装 zoo：zoo 会使用已安装的框架。默认使用第一块 GPU；要使用其他设备，应在建立第一个模型之前指定：`zoo.use("torch", device="cpu")`、`"cuda:1"`、`"mps"`、`"tpu:0"`。在一种设备上保存的检查点，可以在另一种设备上继续训练，也可以换一个框架。
#
# zoo 已在 CPU 上，以及用 torch 和 JAX 在 NVIDIA H200 上测试过，结果一致（[实测数据](../../docs/howto/gpu.md)）；尚未在 ROCm、MPS 和 TPU 上测试。
#
# ## 计算有多快？
#
# 网络的计算几乎全是矩阵乘法。两个 $n \times n$ 矩阵相乘需要 $n^3$ 次乘加，即 $2 n^3$ 次运算。下面测量当前框架做矩阵乘法的速度。

# %%
sizes, rates = 2 ** np.arange(5, 11), []
for n in sizes:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(n, n)).astype("float32"))
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(x, x))  # 等待计算完成
        seconds.append(time.perf_counter() - begin)
    rates.append(2 * int(n) ** 3 / min(seconds))
fastest = max(rates)
plt.loglog(sizes, rates, color=BLUE, marker="o")
plt.xlabel("矩阵的大小 n（n x n）")
plt.ylabel("每秒的运算次数")
plt.title(f"矩阵乘法（{keras.backend.backend()}）")
plt.grid(alpha=0.3)
plt.show()
print(f"最快每秒 {fastest / 1e9:.0f} x 10 亿次运算")

# %% [markdown]
# 矩阵很小时，调用的时间比计算的时间还长。所以样本要成批处理；也正因如此，需要成千上万次乘法并行才能发挥作用的 GPU，对小模型并不会更快。
#
# ## 训练一步需要多长时间？
#
# 模型卡片上有一次前向计算的乘加次数。训练一步的计算量大约是它的三倍（第 2 章练习 3），每次乘加是两次运算，于是
#
# $$\text{一步的秒数} \ge \frac{3 \cdot 2 \cdot \text{乘加次数} \cdot \text{批的大小}}{\text{每秒的运算次数}}$$
#
# 下面是几个模型在这台机器上的下界，以及一个小模型的实测时间。

# %%
BATCH = 64


def least_seconds(name):
    """本机上一步（BATCH 个样本）所需秒数的下界。"""
    return 3 * 2 * zoo.card(name).multiply_adds * BATCH / fastest


for name in ("lenet5", "resnet18", "resnet50", "vit-b16"):
    print(
        f"{name:9s} {zoo.card(name).multiply_adds:14,} 次乘加：每步至少 {least_seconds(name):.2g} 秒"
    )

run = zoo.train("mlp", epochs=3, batch_size=BATCH, checkpoint="run.safetensors")
step = (run.train_s - run.first_step_s) / (len(run.losses) - 1)
print(f"mlp 实测：每秒 {BATCH / step:,.0f} 个样本，每步 {1000 * step:.1f} 毫秒；", end=" ")
print(f"下界是 {1000 * least_seconds('mlp'):.1f} 毫秒；第一步用了 {run.first_step_s:.1f} 秒")
assert zoo.card("vit-b16").multiply_adds > 40000 * zoo.card("lenet5").multiply_adds

# %% [markdown]
# 小模型离下界很远，因为一步的大部分时间花在乘法以外的事情上。大模型可以达到 GPU 峰值速度的三分之一到一半。
#
# ## 训练需要多少内存？
#
# float32 的一个数占四字节。用 Adam 训练，每个参数要存四个数：权重、梯度，以及 Adam 的两个滑动平均（即优化器状态）。此外还有各层的输出（也叫激活值），反向传播时要用（第 2 章）；它们随批的大小增长。因此我们统计模型各层输出的个数。


# %%
def memory_gib(name, batch):
    """权重、梯度、优化器状态（Adam）和各层输出所占的内存，float32。"""
    shapes = [t.shape[1:] for layer in zoo.build(name).layers for t in keras.tree.flatten(layer.output)]
    outputs = sum(int(np.prod(shape)) for shape in shapes)
    weights = zoo.card(name).parameters
    return 4 * np.array([weights, weights, 2 * weights, outputs * batch]) / 2**30


NAMES = ["alexnet", "resnet18", "efficientnet-b0", "vit-s16"]
parts = np.array([memory_gib(name, 16) for name in NAMES]).T
LABELS = ["权重", "梯度", "优化器状态（Adam）", "各层的输出"]
bottom = np.zeros(len(NAMES))
for part, label, color, hatch in zip(
    parts, LABELS, (BLUE, RED, GREEN, ORANGE), ("", "..", "xx", "//"), strict=True
):
    plt.bar(NAMES, part, bottom=bottom, color=color, hatch=hatch, edgecolor="white", label=label)
    bottom += part
plt.xlabel("模型")
plt.ylabel("训练一步的内存，批大小 16（GiB）")
plt.title("AlexNet 的内存主要是权重，其余模型主要是输出")
plt.ylim(0, 1.35 * bottom.max())
plt.legend(ncols=2)
plt.show()
kept, outputs = parts[:3].sum(axis=0), parts[3]
assert (outputs < kept).tolist() == [True, False, False, False]

# %% [markdown]
# AlexNet 有六千一百万个参数，大多在三个全连接层中，输出却很少。后来的模型参数少、输出多，内存随批的大小增长。框架会提早释放一部分输出，也需要一些额外的工作内存，所以这个估计的误差在两倍以内。如果内存不够，可以用更小的批（`batch_size=`）、混合精度（见下文）或更小的图像（`image_size=`）。
#
# ## 混合精度
#
# 浮点数由符号、指数和尾数组成；指数决定范围，尾数决定精度。GPU 计算位数较少的数更快：
#
# | 类型 | 位数 | 指数 | 尾数 | 1 附近的最大舍入误差 |
# | --- | --- | --- | --- | --- |
# | float32 | 32 | 8 | 23 | 6e-8 |
# | TensorFloat-32 | 使用 19 位 | 8 | 10 | 5e-4 |
# | bfloat16 | 16 | 8 | 7 | 4e-3 |
# | float16 | 16 | 5 | 10 | 5e-4，但不能超过 65,504 |
#
# NVIDIA 的 GPU 可能用 TensorFloat-32 计算 float32 的乘积：torch 默认在卷积层和循环层中允许，JAX 和 TensorFlow 在所有乘积中允许。CPU 不支持这种格式，所以这里通过把尾数舍入到十位来模拟；bfloat16 则用 `ml_dtypes` 包舍入，它是 Keras 的依赖。


# %%
def tensorfloat32(x):
    """尾数舍入到十位的 float32。"""
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
left.set(xlabel="1 附近的数", ylabel="舍入后", title="舍入", xticks=[1, 1.005, 1.01, 1.015])
right.set(xlabel="求和的长度", ylabel="误差（相对于典型的和）")
right.set_title("舍入后的数的点积误差")
for axis in (left, right):
    axis.grid(alpha=0.3)
    axis.legend()
plt.show()
assert float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) == 2**-7
assert float(np.finfo("float16").max) == 65504
assert tensorfloat32(1 + 2**-11 + 2**-12) == 1 + 2**-10

# %% [markdown]
# 左图中，bfloat16 的一级台阶相当于 TensorFloat-32 的八级，float32 看上去是一条直线。右图中，误差不随求和的长度增长，因为正负舍入误差互相抵消；但输入舍入时丢失的精度无法恢复。因此 GPU 与 CPU 的一致程度不如两块 CPU 之间：在一块 H200 上用 torch 训练 LeNet-5 一百步，损失与 CPU 相差 2.2e-4；关闭 TensorFloat-32 之后相差 6.0e-7（[关闭的方法](../../docs/howto/gpu.md)）。
#
# 只要求和与权重保持 float32，就可以用较低的精度训练，这就是混合精度。使用 Keras 的策略 `mixed_bfloat16` 时，各层用 16 位计算，权重以 32 位保存。

# %%
model = zoo.build("mlp", dtype="mixed_bfloat16")
mixed = zoo.train(model, "digits", epochs=3, batch_size=BATCH)
print(f"准确率：bfloat16 混合精度 {mixed.metrics['accuracy']:.3f}，float32 {run.metrics['accuracy']:.3f}")
assert model.get_layer("hidden1").compute_dtype == "bfloat16"
assert model.get_layer("hidden1").kernel.dtype == "float32"
assert abs(mixed.metrics["accuracy"] - run.metrics["accuracy"]) < 0.03

# %% [markdown]
# ## 选择硬件与云服务
#
# 学习用 CPU 就够了：每一章都能在两个核上运行。若要用自己的图像或文本微调，建议使用一块显存不小于 8 GB 的 GPU。若要从头训练大模型，建议租用 GPU。
#
# | 服务 | 适合什么 | 如何使用 zoo |
# | --- | --- | --- |
# | [Google Colab](https://colab.research.google.com/) | 浏览器中的笔记本，有限额的免费 GPU 或 TPU | 选择运行时，再运行下面的第一行 |
# | [Kaggle](https://www.kaggle.com/code) | 每周有 GPU 时长配额的笔记本，还有数据集 | 打开加速器和网络，再运行下面的第一行 |
# | [Amazon SageMaker](https://aws.amazon.com/sagemaker/) | 使用 AWS 的团队：笔记本、训练任务、推理端点 | 选择带 PyTorch 的镜像，运行下面的第一行；在训练任务中运行 `zoo train` |
# | [Google Cloud](https://cloud.google.com/tpu) | 用于 JAX 的 TPU，按小时计费的 GPU | 一台 TPU VM，`pip install "jax[tpu]" optax`，再安装 zoo |
# | [Azure Machine Learning](https://azure.microsoft.com/products/machine-learning) | 使用 Azure 的团队：笔记本、集群 | 一个计算实例，运行下面的第一行 |
#
# 这些服务的镜像自带适合其硬件的框架，所以第一行只需安装 zoo，第二行检查 GPU 是否可用：
#
# ```
# !git clone ADDRESS primer && pip install "./primer[notebooks]"
# !zoo doctor
# ```
#
# 租用的机器随时可能被收回。`checkpoint="run.safetensors"` 在每一轮之后保存检查点，最好存到持久存储中；`resume=` 从检查点继续训练，无论下一次分到什么机器。

# %%
# 假设机器在上面的三轮之后被收回；这里在另一台上继续
again = zoo.train("mlp", epochs=5, resume="run.safetensors")
print(len(run.losses), "步，然后又训练了", len(again.losses) - len(run.losses), "步")
assert np.array_equal(again.losses[: len(run.losses)], run.losses)
assert len(again.losses) == len(run.losses) * 5 // 3

# %% [markdown]
# ## 练习
#
# **1.** 你的 GPU 有 8 GiB 显存。按上面的估计，训练 ViT-S/16 的批最大可以是多少？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
*fixed, of_one = memory_gib("vit-s16", 1)
largest = int((8 - sum(fixed)) / of_one)
print(largest)
assert sum(memory_gib("vit-s16", largest)) <= 8 < sum(memory_gib("vit-s16", largest + 1))

# %% [markdown]
# **2.** $1 + 0.003$ 在 bfloat16 中是多少？如果一个等于 1 的权重以 bfloat16 保存，每步增加 0.003，一百步之后是多少？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 大于 1 时，bfloat16 的数相距 2^-7 = 0.0078：1.003 每次都舍入为 1。
weight = np.array(1, ml_dtypes.bfloat16)
for _ in range(100):
    weight = (weight + np.array(0.003, ml_dtypes.bfloat16)).astype(ml_dtypes.bfloat16)
print(weight, "而不是 1.3：所以权重要保存为 float32")
assert weight == 1

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[自定义架构](14-your-own.ipynb)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_computational-performance/index.html)第 12 章：计算性能
# - Tim Dettmers，[Which GPU(s) to get for deep learning](https://timdettmers.com/2023/01/30/which-gpu-for-deep-learning/)
# - Micikevicius 等 2017，[Mixed precision training](https://arxiv.org/abs/1710.03740)；Kalamkar 等 2019，[A study of BFLOAT16 for deep learning training](https://arxiv.org/abs/1905.12322)
# - Jouppi 等 2017，[In-datacenter performance analysis of a tensor processing unit](https://arxiv.org/abs/1704.04760)
