# %% [markdown]
# # 13 Hardware
#
# **What you will see.** What your machine has and which framework sees it. What a training step costs in multiplications
# and in memory, counted before anything is bought. What 32, 19 and 16 bits do to a number. And where the zoo runs: on
# your processor, on a graphics processor (GPU), on a laptop of Apple's, on a TPU, and on the services that rent them.

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
# ## What is here
#
# On a command line, `zoo doctor` prints what follows for every framework, and what to install where one is missing. From
# Python, for the one that runs:

# %%
here, framework = machine.environment(), machine.describe(keras.backend.backend())
print(
    f"{here['processor']}, {here['cores']} cores, {here['memory_gb']} GB of memory, Python {here['python']}"
)
print(f"{keras.backend.backend()} {framework['version']}, threads {framework['threads']}")
for device in framework["devices"]:
    print(f"device {device['name']}: {device['kind']} {device['description']}")
print("ways to run a training step, the first by default:", ", ".join(framework["modes"]))
assert framework["devices"]

# %% [markdown]
# A *device* is where arrays live and are computed with; the first of the list is used. *Threads* are how many cores it
# takes at once. The *ways to run* are eager, an operation after the other as Python meets it, or a graph recorded first
# and then run as a whole, which costs a second or more before the first step and saves time at each.
#
# ## Which framework runs where
#
# | hardware | PyTorch | TensorFlow | JAX |
# | --- | --- | --- | --- |
# | processor (CPU) | `torch`, from [its selector](https://pytorch.org/get-started/locally/) for "CPU": the small one | `tensorflow-cpu` | `jax` |
# | NVIDIA, CUDA | the same selector, for your CUDA | `tensorflow[and-cuda]`, Linux and WSL2 | `jax[cuda13]` or `jax[cuda12]`, Linux |
# | AMD, ROCm | the same selector, Linux | [AMD's builds](https://rocm.docs.amd.com/), Linux | `jax[rocm7-local]`, Linux |
# | Apple, MPS | `torch`, as it comes; no float64 there | CPU | CPU; a plug-in is experimental |
# | Google TPU | `torch_xla`, which the zoo does not use | on Google Cloud's machines | `jax[tpu]` |
#
# Their own pages change with every release, so look there: [PyTorch](https://pytorch.org/get-started/locally/),
# [TensorFlow](https://www.tensorflow.org/install/pip), [JAX](https://docs.jax.dev/en/latest/installation.html). Install
# the framework for your hardware first, then the zoo: it takes what it finds. The first GPU is used unless you say
# otherwise, before the first model: `zoo.use("torch", device="cpu")`, `"cuda:1"`, `"mps"`, `"tpu:0"`. A checkpoint saved
# on one goes on on another, on another framework too.
#
# The zoo itself has been seen to agree on CPUs and on NVIDIA's H200 with torch and JAX
# ([measured](../../docs/howto/gpu.md)); on ROCm, MPS and TPU it has not been seen.
#
# ## How fast is it?
#
# Nearly all the work of a network is products of matrices. The product of two $n \times n$ matrices takes $n^3$
# multiply-adds, $2 n^3$ operations. So we let this framework multiply, and count.

# %%
sizes, rates = 2 ** np.arange(5, 11), []
for n in sizes:
    x = keras.ops.convert_to_tensor(np.random.default_rng(0).normal(size=(n, n)).astype("float32"))
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(x, x))  # waits for the numbers
        seconds.append(time.perf_counter() - begin)
    rates.append(2 * int(n) ** 3 / min(seconds))
fastest = max(rates)
plt.loglog(sizes, rates, color=BLUE, marker="o")
plt.xlabel("rows and columns of the matrices")
plt.ylabel("operations per second")
plt.title(f"Products of matrices here, on {keras.backend.backend()}")
plt.grid(alpha=0.3)
plt.show()
print(f"at best {fastest / 1e9:.0f} billion operations a second")

# %% [markdown]
# A small product does not pay: to call it takes longer than to compute it. This is why examples are taken in batches, and
# why a GPU, which needs thousands of multiplications at once, is wasted on small models.
#
# ## How long will it take?
#
# A card has the multiply-adds of one forward pass. A training step does about three times that (chapter 2, exercise 3),
# each multiply-add is two operations, and so
#
# $$\text{seconds of a step} \ge \frac{3 \cdot 2 \cdot \text{multiply-adds} \cdot \text{batch}}{\text{operations a second}}$$
#
# Here is the bound for some models on this machine, and what a small one really takes.

# %%
BATCH = 64


def least_seconds(name):
    """No step of BATCH examples is shorter on this machine, by the count."""
    return 3 * 2 * zoo.card(name).multiply_adds * BATCH / fastest


for name in ("lenet5", "resnet18", "resnet50", "vit-b16"):
    print(
        f"{name:9s} {zoo.card(name).multiply_adds:14,} multiply-adds: at least {least_seconds(name):.2g} s a step"
    )

run = zoo.train("mlp", epochs=3, batch_size=BATCH, checkpoint="run.safetensors")
step = (run.train_s - run.first_step_s) / (len(run.losses) - 1)
print(f"mlp, measured: {BATCH / step:,.0f} examples a second, {1000 * step:.1f} ms a step;", end=" ")
print(f"the bound is {1000 * least_seconds('mlp'):.1f} ms; the first step took {run.first_step_s:.1f} s")
assert zoo.card("vit-b16").multiply_adds > 40000 * zoo.card("lenet5").multiply_adds

# %% [markdown]
# A small model is far from its bound, as most of a step is spent on everything but multiplying. A large one reaches a
# third or a half of what a GPU can do, when it goes well.
#
# ## How much memory will it take?
#
# In float32 a number has four bytes. Training with Adam keeps four numbers for each parameter: the weight, its gradient,
# and Adam's two means. Beside them stand the outputs of the layers (also called activations), which the backward pass
# needs again (chapter 2); they grow with the batch. So we count the numbers that each layer of a model puts out.


# %%
def memory_gib(name, batch):
    """Of the weights, the gradients, Adam's two means, and the layers' outputs; float32."""
    shapes = [t.shape[1:] for layer in zoo.build(name).layers for t in keras.tree.flatten(layer.output)]
    outputs = sum(int(np.prod(shape)) for shape in shapes)
    weights = zoo.card(name).parameters
    return 4 * np.array([weights, weights, 2 * weights, outputs * batch]) / 2**30


NAMES = ["alexnet", "resnet18", "efficientnet-b0", "vit-s16"]
parts = np.array([memory_gib(name, 16) for name in NAMES]).T
LABELS = ["weights", "gradients", "Adam's two means", "outputs of the layers"]
bottom = np.zeros(len(NAMES))
for part, label, color, hatch in zip(
    parts, LABELS, (BLUE, RED, GREEN, ORANGE), ("", "..", "xx", "//"), strict=True
):
    plt.bar(NAMES, part, bottom=bottom, color=color, hatch=hatch, edgecolor="white", label=label)
    bottom += part
plt.xlabel("model")
plt.ylabel("memory of a step of 16 examples (GiB)")
plt.title("AlexNet's weights, everyone else's outputs")
plt.ylim(0, 1.35 * bottom.max())
plt.legend(ncols=2)
plt.show()
kept, outputs = parts[:3].sum(axis=0), parts[3]
assert (outputs < kept).tolist() == [True, False, False, False]

# %% [markdown]
# AlexNet has 61 million parameters, most of them in three dense layers, and few outputs. Later models have few parameters
# and many outputs, for which memory grows with each example of the batch. A framework frees some outputs early and needs
# scratch memory besides, so take it as an estimate within a factor of two. If it does not fit: a smaller batch
# (`batch_size=`), 16 bits (below), a smaller image (`image_size=`).
#
# ## Fewer bits
#
# A floating-point number has a sign, an exponent, which sets the range, and a mantissa, which sets the precision. GPUs
# multiply shorter numbers faster:
#
# | type | bits | exponent | mantissa | rounds a number near 1 by at most |
# | --- | --- | --- | --- | --- |
# | float32 | 32 | 8 | 23 | 6e-8 |
# | TensorFloat-32 | 19 used | 8 | 10 | 5e-4 |
# | bfloat16 | 16 | 8 | 7 | 4e-3 |
# | float16 | 16 | 5 | 10 | 5e-4, but nothing above 65,504 |
#
# TensorFloat-32 is what NVIDIA's GPUs may make of a float32 product unless told otherwise: torch lets them in
# convolutions and recurrent layers, JAX and TensorFlow in every product. No CPU does it, so we simulate it by rounding
# the mantissa to ten bits, and round to bfloat16 with the package `ml_dtypes`, which Keras brings.


# %%
def tensorfloat32(x):
    """float32 with ten bits of mantissa left, to the nearest."""
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
left.set(xlabel="a number near 1", ylabel="rounded", title="stairs", xticks=[1, 1.005, 1.01, 1.015])
right.set(xlabel="length of the sum", ylabel="error (share of a sum's usual size)")
right.set_title("sums of products of rounded numbers")
for axis in (left, right):
    axis.grid(alpha=0.3)
    axis.legend()
plt.show()
assert float(ml_dtypes.finfo(ml_dtypes.bfloat16).eps) == 2**-7
assert float(np.finfo("float16").max) == 65504
assert tensorfloat32(1 + 2**-11 + 2**-12) == 1 + 2**-10

# %% [markdown]
# On the left, TensorFloat-32 takes eight steps where bfloat16 takes one, and float32 is a straight line to the eye. On the
# right, the error does not grow with the length, as roundings go up and down alike; but what is lost is lost. This is why
# a GPU and a CPU agree less well than two CPUs: on one H200, a hundred steps of LeNet-5 with torch differed from a CPU's
# losses by 2.2e-4 with TensorFloat-32 and by 6.0e-7 without ([how to turn it off](../../docs/howto/gpu.md)).
#
# Training is content with few digits where it sums in float32 and keeps its weights in float32. This is what Keras's
# policy `mixed_bfloat16` does: layers compute in 16 bits, weights stay in 32.

# %%
model = zoo.build("mlp", dtype="mixed_bfloat16")
mixed = zoo.train(model, "digits", epochs=3, batch_size=BATCH)
print(f"accuracy {mixed.metrics['accuracy']:.3f} in mixed bfloat16, {run.metrics['accuracy']:.3f} in float32")
assert model.get_layer("hidden1").compute_dtype == "bfloat16"
assert model.get_layer("hidden1").kernel.dtype == "float32"
assert abs(mixed.metrics["accuracy"] - run.metrics["accuracy"]) < 0.03

# %% [markdown]
# ## Which to choose, and where to rent it
#
# For learning, a CPU: every chapter here runs on two cores. For your own photographs or texts, one GPU with 8 GB of memory
# or more. For training large models from the beginning, rent.
#
# | service | what it is good for | how the zoo starts there |
# | --- | --- | --- |
# | [Google Colab](https://colab.research.google.com/) | a notebook in the browser; a GPU or TPU for a while, free within limits | choose the runtime, then the first cell below |
# | [Kaggle](https://www.kaggle.com/code) | notebooks with a weekly allowance of GPU hours, data sets beside them | switch on the accelerator and the internet, then the first cell below |
# | [Amazon SageMaker](https://aws.amazon.com/sagemaker/) | a team on AWS: notebooks, training jobs, endpoints | an image that has PyTorch, the first cell below; a job runs `zoo train` |
# | [Google Cloud](https://cloud.google.com/tpu) | TPUs for JAX, GPUs by the hour | a TPU VM, `pip install "jax[tpu]" optax`, then the zoo |
# | [Azure Machine Learning](https://azure.microsoft.com/products/machine-learning) | a team on Azure: notebooks, clusters | a compute instance, the first cell below |
#
# These images bring a framework that suits their hardware, so the first cell only adds the zoo (ADDRESS is that of the
# repository you read this in), and the second looks whether the GPU is seen:
#
# ```
# !git clone ADDRESS primer && pip install "./primer[notebooks]"
# !zoo doctor
# ```
#
# Rented machines are taken away without asking. `checkpoint="run.safetensors"` saves after every epoch, best to a disk
# that stays; `resume=` goes on where it stopped, on whatever you get next.

# %%
# the machine was taken away after the three epochs above; here is another one
again = zoo.train("mlp", epochs=5, resume="run.safetensors")
print(len(run.losses), "steps, then", len(again.losses) - len(run.losses), "more")
assert np.array_equal(again.losses[: len(run.losses)], run.losses)
assert len(again.losses) == len(run.losses) * 5 // 3

# %% [markdown]
# ## Exercises
#
# **1.** Your GPU has 8 GiB. Up to which batch size may ViT-S/16 be trained, by the estimate above?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
*fixed, of_one = memory_gib("vit-s16", 1)
largest = int((8 - sum(fixed)) / of_one)
print(largest)
assert sum(memory_gib("vit-s16", largest)) <= 8 < sum(memory_gib("vit-s16", largest + 1))

# %% [markdown]
# **2.** What is $1 + 0.003$ in bfloat16? And what becomes of a weight of 1 that is kept in bfloat16 and changed by 0.003
# at each of a hundred steps?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Above 1 the numbers of bfloat16 are 2^-7 = 0.0078 apart: 1.003 is rounded to 1, every time.
weight = np.array(1, ml_dtypes.bfloat16)
for _ in range(100):
    weight = (weight + np.array(0.003, ml_dtypes.bfloat16)).astype(ml_dtypes.bfloat16)
print(weight, "and not 1.3: this is why weights stay in float32")
assert weight == 1

# %% [markdown]
# ## Go on with
#
# - The next chapter: [your own architecture](14-your-own.ipynb)
# - [Dive into Deep Learning](https://d2l.ai/chapter_computational-performance/index.html), chapter 13: computational
#   performance
# - Tim Dettmers, [Which GPU(s) to get for deep learning](https://timdettmers.com/2023/01/30/which-gpu-for-deep-learning/)
# - Micikevicius et al. 2017, [Mixed precision training](https://arxiv.org/abs/1710.03740); Kalamkar et al. 2019,
#   [A study of BFLOAT16 for deep learning training](https://arxiv.org/abs/1905.12322)
# - Jouppi et al. 2017, [In-datacenter performance analysis of a tensor processing unit](https://arxiv.org/abs/1704.04760)
