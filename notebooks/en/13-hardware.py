# %% [markdown]
# # 13 Hardware
#
# **What you will see.** What your machine has and which framework sees it. What a training step costs in memory and in
# multiplications, counted before anything is bought. What 32, 19 and 16 bits do to a number. And where the zoo runs: on
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
# `zoo doctor` on a command line prints this for every framework, with what to install where one is missing. From Python:

# %%
here = machine.environment()
print(here["processor"], here["cores"], "cores,", here["memory_gb"], "GB of memory")
for device in zoo.backends.current().devices():
    print(keras.backend.backend(), "sees", device.name, device.kind, device.description)
assert zoo.backends.current().devices()

# %% [markdown]
# ## Which framework runs where
#
# | hardware | PyTorch | TensorFlow | JAX |
# | --- | --- | --- | --- |
# | processor (CPU) | yes; `--index-url https://download.pytorch.org/whl/cpu` is the small one | `tensorflow-cpu` | `jax` |
# | NVIDIA, CUDA | yes; [choose your CUDA](https://pytorch.org/get-started/locally/) | `tensorflow[and-cuda]`, Linux | `jax[cuda13]` or `jax[cuda12]`, Linux |
# | AMD, ROCm | yes, Linux, from the same page | [AMD's builds](https://rocm.docs.amd.com/), Linux | [AMD's builds](https://rocm.docs.amd.com/), Linux |
# | Apple, MPS | yes, as it comes; no float64 | CPU; `tensorflow-metal` is Apple's plug-in | CPU; a plug-in is experimental |
# | Google TPU | through `torch_xla`; the zoo does not use it | on Google Cloud | `jax[tpu]` |
#
# Install one framework first, for your hardware, then the zoo: it takes what it finds. The first GPU is used unless you
# say otherwise: `zoo.use("torch", device="cpu")`, `"cuda:1"`, `"mps"`, `"tpu:0"`. A checkpoint saved on one goes on on
# another, on another framework too.
#
# Which to choose? For learning, a CPU: every chapter here runs on two cores. For your own photographs or texts, one GPU
# with 8 GB or more. For pretraining, rent.
#
# ## How long will it take?
#
# Count the multiplications first. A card has the multiply-adds of one forward pass; a training step does about three
# times that (chapter 2, exercise 3), and each is two operations. Divide by what the hardware does in a second, of which
# a training reaches a third to a half when it goes well.

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
# ## How much memory will it take?
#
# In float32 a number has four bytes. Training with Adam keeps four numbers for each parameter: the weight, its gradient,
# and Adam's two means. Beside them stand the outputs of the layers, which the backward pass needs (chapter 2: `a` and
# `y` were used again); they grow with the batch. So we count the numbers that each layer of a model puts out.


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
# A framework frees some outputs early and needs scratch memory besides, so take it as an estimate within a factor of
# two. If it does not fit: a smaller batch (`batch_size=`), 16 bits (below), a smaller image (`image_size=`).
#
# ## Fewer bits
#
# A float has a sign, an exponent, which sets the range, and a mantissa, which sets the precision. GPUs multiply shorter
# numbers faster:
#
# | type | bits | exponent | mantissa | rounds a number near 1 by at most |
# | --- | --- | --- | --- | --- |
# | float32 | 32 | 8 | 23 | 6e-8 |
# | TensorFloat-32 | 19 used | 8 | 10 | 5e-4 |
# | bfloat16 | 16 | 8 | 7 | 4e-3 |
# | float16 | 16 | 5 | 10 | 5e-4, but nothing above 65,504 |
#
# TensorFloat-32 is what NVIDIA's GPUs may make of a float32 product unless told otherwise: torch lets them in
# convolutions, JAX in every product. It is why a GPU and a CPU agree less well than two CPUs. On one H200, a hundred
# steps of LeNet-5 differed from a CPU's losses by 2.2e-4 with it and by 6.0e-7 without ([how to turn it
# off](../../docs/howto/gpu.md)).


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
# The error does not grow with the length, as roundings go up and down alike; but three digits are three digits. Training
# is content with them where it sums in float32 and keeps its weights in float32. This is what Keras's policy
# `mixed_bfloat16` does: layers compute in 16 bits, weights stay in 32.

# %%
model = zoo.build("lenet5", dtype="mixed_bfloat16", image_size=32)
run = zoo.train(model, "digits", epochs=3)
whole = zoo.train("lenet5", epochs=3)
print(f"accuracy {run.metrics['accuracy']:.3f} in mixed bfloat16, {whole.metrics['accuracy']:.3f} in float32")
assert model.get_layer("conv1").compute_dtype == "bfloat16"
assert model.get_layer("conv1").kernel.dtype == "float32"
assert run.metrics["accuracy"] > 0.85

# %% [markdown]
# ## Rented hardware
#
# | service | what it is good for | how the zoo starts there |
# | --- | --- | --- |
# | [Google Colab](https://colab.research.google.com/) | a notebook in the browser, a GPU or TPU for a while, free within limits | open a notebook, choose the runtime, first cell below |
# | [Kaggle](https://www.kaggle.com/code) | notebooks with a weekly allowance of GPU hours, data sets beside them | switch on the accelerator and the internet, first cell below |
# | [Amazon SageMaker](https://aws.amazon.com/sagemaker/) | a team on AWS: notebooks, training jobs, endpoints | a PyTorch image, first cell below; a job runs `zoo train ... --checkpoint` |
# | [Google Cloud](https://cloud.google.com/tpu) | TPUs for JAX, GPUs by the hour | a TPU VM or a Deep Learning VM, `pip install "jax[tpu]"`, then the zoo |
# | [Azure Machine Learning](https://azure.microsoft.com/products/machine-learning) | a team on Azure: notebooks, clusters | a compute instance, first cell below |
#
# The first cell is the same on all, as these images bring a framework that suits their hardware:
#
# ```
# !git clone https://github.com/YOUR/zoo && pip install ./zoo
# import zoo; zoo.use("torch")   # or "jax" on a TPU
# ```
#
# Rented machines are taken away without asking. `checkpoint="run.safetensors"` saves after every epoch, to a disk that
# stays; `resume=` goes on where it stopped, on whatever you get next.

# %%
run = zoo.train("mlp", epochs=2, checkpoint="run.safetensors")  # here the machine is taken away
again = zoo.train("mlp", epochs=4, resume="run.safetensors")
print(len(run.losses), "steps, then", len(again.losses) - len(run.losses), "more")
assert again.losses[: len(run.losses)] == run.losses

# %% [markdown]
# ## Exercises
#
# **1.** Your GPU has 8 GiB. Up to which batch size may ViT-S/16 be trained, by the estimate above?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
fixed, of_one = memory_gb("vit-s16", 1)
largest = int((8 - fixed) / of_one)
print(largest)
assert sum(memory_gb("vit-s16", largest)) <= 8 < sum(memory_gb("vit-s16", largest + 1))

# %% [markdown]
# **2.** What is $1 + 0.003$ in bfloat16? And what becomes of a weight near 1 that is kept in bfloat16 and changed by
# 0.003 at each of a hundred steps?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Near 1 the numbers of bfloat16 are 2^-7 = 0.0078 apart: 1.003 is rounded to 1, every time.
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
# - Micikevicius et al. 2017, [Mixed precision training](https://arxiv.org/abs/1710.03740)
# - Jouppi et al. 2017, [In-datacenter performance analysis of a tensor processing unit](https://arxiv.org/abs/1704.04760)
