# %% [markdown]
# # 13 硬件
#
# **你会看到什么。** 你的机器有什么，哪个框架看得见它。一步训练要多少内存、多少次乘法，在花钱之前先数清楚。
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

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # told apart by the colour-blind

# %% [markdown]
# ## 这里有什么
#
# 命令行上的 `zoo doctor` 为每个框架打印这些，缺了什么也会说该装什么。在 Python 里：

# %%
here = machine.environment()
print(here["processor"], here["cores"], "cores,", here["memory_gb"], "GB of memory")
for device in zoo.backends.current().devices():
    print(keras.backend.backend(), "sees", device.name, device.kind, device.description)
assert zoo.backends.current().devices()

# %% [markdown]
# ## 哪个框架在哪里运行
#
# | 硬件 | PyTorch | TensorFlow | JAX |
# | --- | --- | --- | --- |
# | 处理器（CPU） | 可以；`--index-url https://download.pytorch.org/whl/cpu` 的包小 | `tensorflow-cpu` | `jax` |
# | NVIDIA，CUDA | 可以；[选择你的 CUDA](https://pytorch.org/get-started/locally/) | `tensorflow[and-cuda]`，Linux | `jax[cuda13]` 或 `jax[cuda12]`，Linux |
# | AMD，ROCm | 可以，Linux，见同一页 | [AMD 的构建](https://rocm.docs.amd.com/)，Linux | [AMD 的构建](https://rocm.docs.amd.com/)，Linux |
# | 苹果，MPS | 可以，开箱即用；没有 float64 | CPU；`tensorflow-metal` 是苹果的插件 | CPU；插件尚在试验 |
# | Google TPU | 要用 `torch_xla`，zoo 不用它 | 在 Google Cloud 上 | `jax[tpu]` |
#
# 先按你的硬件装一个框架，再装 zoo：它用它找到的。默认用第一块 GPU，除非另行指定：`zoo.use("torch", device="cpu")`、
# `"cuda:1"`、`"mps"`、`"tpu:0"`。在一处存下的检查点可以在另一处接着训练，换一个框架也行。
#
# 选哪个？学习用 CPU 就够：这里每一章都能在两个核上运行。训练自己的照片或文本，一块 8 GB 以上的 GPU。预训练，租用。
#
# ## 要多久？
#
# 先数乘法。模型卡片上有一次前向的乘加次数；一步训练大约是它的三倍（第 2 章练习 3），每次乘加是两个运算。
# 除以硬件每秒能做的运算；训练顺利时能达到它的三分之一到一半。

# %%
x = np.random.default_rng(0).normal(size=(1024, 1024)).astype("float32")
x = keras.ops.convert_to_tensor(x)
rates = []
for _ in range(10):
    begin = time.perf_counter()
    keras.ops.convert_to_numpy(keras.ops.matmul(x, x))
    rates.append(2 * 1024**3 / (time.perf_counter() - begin))
measured = max(rates)
print(f"this machine: {measured / 1e9:.0f} billion operations a second in a large matrix product")

CARDS = [zoo.card(name) for name in ("lenet5", "resnet18", "resnet50", "vgg16", "vit-b16")]
for card in CARDS:
    step = 3 * 2 * card.multiply_adds * 64
    print(
        f"{card.name:9s} a step of 64 examples: {step:.1e} operations, at least {step / measured:.2g} s here"
    )
    assert step == 384 * card.multiply_adds

# %% [markdown]
# ## 要多少内存？
#
# float32 的一个数占四字节。用 Adam 训练，每个参数要存四个数：权重、它的梯度、Adam 的两个平均。此外还有各层的输出，
# 反向传播要用（第 2 章里的 `a` 和 `y` 又用了一次）；它们随批的大小增长。所以我们数一数模型各层输出多少个数。


# %%
def memory_gb(name, batch):
    """Of parameters (weight, gradient, two means), and of the layers' outputs; float32."""
    model = zoo.build(name)
    shapes = [tensor.shape[1:] for layer in model.layers for tensor in keras.tree.flatten(layer.output)]
    outputs = sum(int(np.prod(shape)) for shape in shapes) * batch
    return 4 * 4 * zoo.card(name).parameters / 2**30, 4 * outputs / 2**30


NAMES = ["resnet18", "efficientnet-b0", "vit-ti16", "vit-s16"]
parameters, outputs = np.array([memory_gb(name, 64) for name in NAMES]).T
plt.bar(NAMES, parameters, color=BLUE, label="parameters, gradients, Adam's means")
plt.bar(NAMES, outputs, bottom=parameters, color=ORANGE, hatch="//", label="outputs of the layers")
plt.xlabel("model")
plt.ylabel("memory of a step of 64 examples (GiB)")
plt.title("It is the outputs that fill a GPU")
plt.legend()
plt.show()
assert (outputs > parameters).all()

# %% [markdown]
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
# 如果不另说，NVIDIA 的 GPU 会把 float32 的乘积算成 TensorFloat-32：torch 在卷积里允许，JAX 在所有乘积里允许。
# GPU 与 CPU 不如两块 CPU 之间那样一致，原因就在这里。在一块 H200 上，LeNet-5 训练一百步，损失与 CPU 相差 2.2e-4；
# 关掉它之后相差 6.0e-7（[怎样关掉](../../docs/howto/gpu.md)）。


# %%
def tensorfloat32(x):
    """float32 with ten bits of mantissa left, to the nearest."""
    bits = np.asarray(x, "float32").view("uint32").astype("uint64")
    return ((bits + 0x1000) & 0xFFFFE000).astype("uint32").view("float32")


ROUNDED = {
    "float32": (lambda x: x.astype("float32"), BLUE, "-"),
    "TensorFloat-32": (tensorfloat32, GREEN, "--"),
    "bfloat16": (lambda x: x.astype(ml_dtypes.bfloat16), RED, ":"),
}
rng, lengths = np.random.default_rng(0), 2 ** np.arange(2, 15)
for name, (rounding, color, style) in ROUNDED.items():
    errors = []
    for n in lengths:
        a, b = rng.normal(size=(2, 50, n))
        short = np.sum(rounding(a).astype("float64") * rounding(b).astype("float64"), axis=1)
        errors.append(np.sqrt(np.mean((short - np.sum(a * b, axis=1)) ** 2) / n))
    plt.loglog(lengths, errors, color=color, linestyle=style, marker="o", label=name)
plt.xlabel("length of the sum of products")
plt.ylabel("error, in units of a sum's usual size")
plt.title("Inputs rounded, products summed exactly")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert tensorfloat32(1 + 2**-11 + 2**-12) == 1 + 2**-10

# %% [markdown]
# 误差不随长度增长，因为舍入有上有下；但三位就是三位。只要求和用 float32、权重存成 float32，训练用三位也够。
# Keras 的策略 `mixed_bfloat16` 正是这样：各层用 16 位计算，权重保持 32 位。

# %%
model = zoo.build("lenet5", dtype="mixed_bfloat16", image_size=32)
run = zoo.train(model, "digits", epochs=3)
whole = zoo.train("lenet5", epochs=3)
print(f"accuracy {run.metrics['accuracy']:.3f} in mixed bfloat16, {whole.metrics['accuracy']:.3f} in float32")
assert model.get_layer("conv1").compute_dtype == "bfloat16"
assert model.get_layer("conv1").kernel.dtype == "float32"
assert run.metrics["accuracy"] > 0.85

# %% [markdown]
# ## 租用的硬件
#
# | 服务 | 适合什么 | zoo 怎样在那里启动 |
# | --- | --- | --- |
# | [Google Colab](https://colab.research.google.com/) | 浏览器里的笔记本，限量免费的 GPU 或 TPU | 打开笔记本，选运行时，运行下面的第一格 |
# | [Kaggle](https://www.kaggle.com/code) | 每周有 GPU 时数的笔记本，旁边就有数据集 | 打开加速器和网络，运行下面的第一格 |
# | [Amazon SageMaker](https://aws.amazon.com/sagemaker/) | 用 AWS 的团队：笔记本、训练任务、服务端点 | 用 PyTorch 镜像，运行下面的第一格；任务里运行 `zoo train ... --checkpoint` |
# | [Google Cloud](https://cloud.google.com/tpu) | 给 JAX 的 TPU，按小时计的 GPU | TPU VM 或 Deep Learning VM，`pip install "jax[tpu]"`，再装 zoo |
# | [Azure Machine Learning](https://azure.microsoft.com/products/machine-learning) | 用 Azure 的团队：笔记本、集群 | 一个计算实例，运行下面的第一格 |
#
# 第一格处处相同，因为这些镜像自带适合其硬件的框架：
#
# ```
# !git clone https://github.com/YOUR/zoo && pip install ./zoo
# import zoo; zoo.use("torch")   # 在 TPU 上用 "jax"
# ```
#
# 租来的机器会不打招呼就被收走。`checkpoint="run.safetensors"` 每一轮之后存盘，请存到会保留的盘上；
# `resume=` 从停下的地方接着训练，无论下一次分到什么机器。

# %%
run = zoo.train("mlp", epochs=2, checkpoint="run.safetensors")  # here the machine is taken away
again = zoo.train("mlp", epochs=4, resume="run.safetensors")
print(len(run.losses), "steps, then", len(again.losses) - len(run.losses), "more")
assert again.losses[: len(run.losses)] == run.losses

# %% [markdown]
# ## 练习
#
# **1.** 你的 GPU 有 8 GiB。按上面的估计，ViT-S/16 的批最大可以多大？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
fixed, of_one = memory_gb("vit-s16", 1)
largest = int((8 - fixed) / of_one)
print(largest)
assert sum(memory_gb("vit-s16", largest)) <= 8 < sum(memory_gb("vit-s16", largest + 1))

# %% [markdown]
# **2.** $1 + 0.003$ 在 bfloat16 里是多少？一个 1 附近的权重若存成 bfloat16，每步改变 0.003，一百步之后会怎样？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Near 1 the numbers of bfloat16 are 2^-7 = 0.0078 apart: 1.003 is rounded to 1, every time.
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
# - Micikevicius 等 2017，[Mixed precision training](https://arxiv.org/abs/1710.03740)
# - Jouppi 等 2017，[In-datacenter performance analysis of a tensor processing unit](https://arxiv.org/abs/1704.04760)
