# %% [markdown]
# # 13 Hardware
#
# **What you will see.** What hardware your machine has and which framework can use it. How much computation and memory
# a training step needs, estimated before you buy anything. What 32, 19 and 16 bits mean for precision, and mixed
# precision training. And where the zoo runs: on a CPU, a graphics processor (GPU), an Apple laptop, a TPU, and on cloud
# services.

# %%
import os
import time

import matplotlib.pyplot as plt
import ml_dtypes
import numpy as np

import zoo
from zoo.processes import machine

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette

# %% [markdown]
# ## Your hardware
#
# On the command line, `zoo doctor` prints the following for every framework, and what to install if one is missing.
# From Python, for the current framework:

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
# A *device* is where arrays are stored and computations run; the first of the list is the default. *Threads* is the
# number of CPU threads a framework uses. The *modes* are eager execution, one operation after the other as Python
# reaches it, or a graph that is compiled first and then executed as a whole, which takes a second or more before the
# first step and saves time at each step.
#
# ## Which framework runs on which hardware
#
# | hardware | PyTorch | TensorFlow | JAX |
# | --- | --- | --- | --- |
# | CPU | `torch`, from [its selector](https://pytorch.org/get-started/locally/) for "CPU" (the smaller download) | `tensorflow-cpu` | `jax` |
# | NVIDIA, CUDA | the same selector, for your CUDA version | `tensorflow[and-cuda]`, Linux and WSL2 | `jax[cuda13]` or `jax[cuda12]`, Linux |
# | AMD, ROCm | the same selector, Linux | [AMD's builds](https://rocm.docs.amd.com/), Linux | `jax[rocm7-local]`, Linux |
# | Apple, MPS | `torch`; MPS has no float64 | CPU | CPU; an experimental plug-in exists |
# | Google TPU | `torch_xla`, which the zoo does not support | on Google Cloud's machines | `jax[tpu]` |
#
# The frameworks' own pages change with every release, so check them:
# [PyTorch](https://pytorch.org/get-started/locally/), [TensorFlow](https://www.tensorflow.org/install/pip),
# [JAX](https://docs.jax.dev/en/latest/installation.html). Install the framework for your hardware first, then the zoo,
# which uses the installed framework. The first GPU is used unless you select another device before building the first
# model: `zoo.use("torch", device="cpu")`, `"cuda:1"`, `"mps"`, `"tpu:0"`. A checkpoint saved on one device can be
# resumed on another, and with another framework.
#
# The zoo has been tested on CPUs and on NVIDIA's H200 with torch and JAX, where results agree
# ([measurements](../../docs/howto/gpu.md)); it has not been tested on ROCm, MPS or TPU.
#
# ## How fast is it?
#
# Nearly all the computation of a network is matrix products. The product of two $n \times n$ matrices takes $n^3$
# multiply-adds, $2 n^3$ operations. So we time matrix products on the current framework.

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
# For a small product, calling it takes longer than computing it. This is why examples are processed in batches, and why
# a GPU, which needs thousands of multiplications at once, is no faster for small models.
#
# ## How long does a training step take?
#
# A model card states the multiply-adds of one forward pass. A training step does about three times as many (chapter 2,
# exercise 3), and each multiply-add is two operations, so
#
# $$\text{seconds of a step} \ge \frac{3 \cdot 2 \cdot \text{multiply-adds} \cdot \text{batch}}{\text{operations a second}}$$
#
# Here is this lower bound for some models on this machine, and the measured time of a small one.

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
# A small model is far from its bound, because most of a step is spent on other things than multiplying. A large one may
# reach a third to a half of a GPU's peak rate.
#
# ## How much memory does training need?
#
# In float32 a number has four bytes. Training with Adam stores four numbers per parameter: the weight, its gradient,
# and Adam's two moving averages (the optimizer state). In addition there are the outputs of the layers (also called
# activations), which the backward pass needs (chapter 2); they grow with the batch size. So we count the outputs of
# each layer of a model.


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
# AlexNet has 61 million parameters, most of them in three fully connected layers, and small outputs. Later models have
# fewer parameters and larger outputs, whose memory grows with the batch size. A framework frees some outputs early and
# needs additional working memory, so the estimate is good within a factor of two. If the model does not fit, use a
# smaller batch size (`batch_size=`), mixed precision (below), or a smaller image (`image_size=`).
#
# ## Mixed precision
#
# A floating-point number has a sign, an exponent, which determines the range, and a mantissa, which determines the
# precision. GPUs multiply shorter numbers faster:
#
# | type | bits | exponent | mantissa | rounds a number near 1 by at most |
# | --- | --- | --- | --- | --- |
# | float32 | 32 | 8 | 23 | 6e-8 |
# | TensorFloat-32 | 19 used | 8 | 10 | 5e-4 |
# | bfloat16 | 16 | 8 | 7 | 4e-3 |
# | float16 | 16 | 5 | 10 | 5e-4, but nothing above 65,504 |
#
# NVIDIA's GPUs may compute float32 products in TensorFloat-32: torch allows this by default in convolutions and
# recurrent layers, JAX and TensorFlow in every product. No CPU does this, so we simulate it by rounding the mantissa to
# ten bits, and round to bfloat16 with the package `ml_dtypes`, a dependency of Keras.


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
# On the left, TensorFloat-32 has eight steps where bfloat16 has one, and float32 looks like a straight line. On the
# right, the error does not grow with the length of the sum, because rounding errors of both signs average out, but the
# precision lost by rounding the inputs is not recovered. This is why a GPU and a CPU agree less closely than two CPUs:
# on one H200, the losses of a hundred steps of LeNet-5 with torch differed from a CPU's by 2.2e-4 with TensorFloat-32
# and by 6.0e-7 without ([how to turn it off](../../docs/howto/gpu.md)).
#
# Training works with low precision as long as sums and weights are kept in float32. This is mixed precision: with
# Keras's policy `mixed_bfloat16`, layers compute in 16 bits and weights are stored in 32.

# %%
model = zoo.build("mlp", dtype="mixed_bfloat16")
mixed = zoo.train(model, "digits", epochs=3, batch_size=BATCH)
print(f"accuracy {mixed.metrics['accuracy']:.3f} in mixed bfloat16, {run.metrics['accuracy']:.3f} in float32")
assert model.get_layer("hidden1").compute_dtype == "bfloat16"
assert model.get_layer("hidden1").kernel.dtype == "float32"
assert abs(mixed.metrics["accuracy"] - run.metrics["accuracy"]) < 0.03

# %% [markdown]
# ## Choosing hardware and cloud services
#
# For learning, a CPU is enough: every chapter here runs on two cores. For fine-tuning on your own images or texts, one
# GPU with 8 GB of memory or more. For training large models from scratch, rent GPUs.
#
# | service | what it is good for | how to use the zoo there |
# | --- | --- | --- |
# | [Google Colab](https://colab.research.google.com/) | a notebook in the browser; a GPU or TPU for a limited time, free within limits | choose the runtime, then the first line below |
# | [Kaggle](https://www.kaggle.com/code) | notebooks with a weekly quota of GPU hours, and data sets | switch on the accelerator and internet access, then the first line below |
# | [Amazon SageMaker](https://aws.amazon.com/sagemaker/) | a team on AWS: notebooks, training jobs, endpoints | an image with PyTorch, then the first line below; a training job runs `zoo train` |
# | [Google Cloud](https://cloud.google.com/tpu) | TPUs for JAX, GPUs by the hour | a TPU VM, `pip install "jax[tpu]" optax`, then the zoo |
# | [Azure Machine Learning](https://azure.microsoft.com/products/machine-learning) | a team on Azure: notebooks, clusters | a compute instance, then the first line below |
#
# These services provide images with a framework for their hardware, so the first line only adds the zoo, and the second
# checks that the GPU is detected:
#
# ```
# !git clone ADDRESS primer && pip install "./primer[notebooks]"
# !zoo doctor
# ```
#
# Rented machines can be reclaimed at any time. `checkpoint="run.safetensors"` saves a checkpoint after every epoch,
# ideally to persistent storage; `resume=` continues the training run from there, on whatever machine you get next.

# %%
# suppose the machine was reclaimed after the three epochs above; here we continue on another one
again = zoo.train("mlp", epochs=5, resume="run.safetensors")
print(len(run.losses), "steps, then", len(again.losses) - len(run.losses), "more")
assert np.array_equal(again.losses[: len(run.losses)], run.losses)
assert len(again.losses) == len(run.losses) * 5 // 3

# %% [markdown]
# ## Exercises
#
# **1.** Your GPU has 8 GiB. What is the largest batch size for training ViT-S/16, by the estimate above?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
*fixed, of_one = memory_gib("vit-s16", 1)
largest = int((8 - sum(fixed)) / of_one)
print(largest)
assert sum(memory_gib("vit-s16", largest)) <= 8 < sum(memory_gib("vit-s16", largest + 1))

# %% [markdown]
# **2.** What is $1 + 0.003$ in bfloat16? And what happens to a weight of 1 that is stored in bfloat16 and increased by
# 0.003 at each of a hundred steps?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Above 1 the spacing of bfloat16 is 2^-7 = 0.0078: 1.003 is rounded to 1, every time.
weight = np.array(1, ml_dtypes.bfloat16)
for _ in range(100):
    weight = (weight + np.array(0.003, ml_dtypes.bfloat16)).astype(ml_dtypes.bfloat16)
print(weight, "and not 1.3: this is why weights stay in float32")
assert weight == 1

# %% [markdown]
# ## Further reading
#
# - The next chapter: [your own architecture](14-your-own.ipynb)
# - [Dive into Deep Learning](https://d2l.ai/chapter_computational-performance/index.html), chapter 13: computational
#   performance
# - Tim Dettmers, [Which GPU(s) to get for deep learning](https://timdettmers.com/2023/01/30/which-gpu-for-deep-learning/)
# - Micikevicius et al. 2017, [Mixed precision training](https://arxiv.org/abs/1710.03740); Kalamkar et al. 2019,
#   [A study of BFLOAT16 for deep learning training](https://arxiv.org/abs/1905.12322)
# - Jouppi et al. 2017, [In-datacenter performance analysis of a tensor processing unit](https://arxiv.org/abs/1704.04760)
