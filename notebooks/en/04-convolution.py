# %% [markdown]
# # 4 Convolutions, from LeNet to EfficientNet
#
# **What you will see.** A convolution by hand, with stride, padding and pooling. LeNet-5 of 1998, trained here in
# seconds to classify digits, and its feature maps. Then twenty years of progress through AlexNet, VGG, ResNet and
# EfficientNet, plotted by depth, parameters and multiply-adds; and why deep networks need skip (residual) connections.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## The same small kernel at every position
#
# A convolution slides a small square of weights, the kernel, over the image. At each position it multiplies the pixels
# under it by the weights and sums the products. A vertical edge looks the same wherever it is, so the same nine weights
# detect it everywhere: nine numbers where a fully connected layer would need thousands.
#
# With a kernel $w$ of size $k$, stride $s$ (how far it moves) and padding $p$ (zeros around the edge), an image with
# side length $n$ becomes a feature map with side length $\lfloor (n + 2p - k) / s \rfloor + 1$.


# %%
def convolve(image, kernel, stride=1, padding=0):
    """image (h, w), kernel (k, k) -> feature map."""
    image, k = np.pad(image, padding), len(kernel)
    side = (len(image) - k) // stride + 1
    return np.array(
        [
            [
                np.sum(image[i * stride : i * stride + k, j * stride : j * stride + k] * kernel)
                for j in range(side)
            ]
            for i in range(side)
        ]
    )


task = zoo.tasks.load("digits", (32, 32, 1))
digit = task.train[0][5, :, :, 0].astype("float64")
edges = np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])  # Sobel kernel: bright left, dark right
maps = {
    "the image": digit,
    "vertical edges": convolve(digit, edges),
    "stride 2": convolve(digit, edges, 2, 1),
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axis, (title, shown) in zip(axes, maps.items(), strict=True):
    axis.imshow(shown, cmap="gray")
    axis.set_title(f"{title}, {shown.shape[0]} x {shown.shape[1]}")
    axis.axis("off")
plt.show()

image = layers.Input((32, 32, 1))
model = layers.Model(image, layers.conv(image, 1, 3, 2, padding=1, use_bias=False, name="edges"))
model.set_weights([edges[:, :, None, None]])
by_zoo = model.predict(digit[None, :, :, None].astype("float32"), verbose=0)[0, :, :, 0]
print(f"the zoo's differs by {np.abs(by_zoo - maps['stride 2']).max():.0e}")
assert np.abs(by_zoo - maps["stride 2"]).max() < 1e-5

# %% [markdown]
# ## Channels, pooling, receptive field
#
# A colour image has three channels, and a layer produces many feature maps, each a channel for the next layer. A kernel
# has weights for every input channel: $k \cdot k \cdot c_{in} \cdot c_{out}$ in all, plus a bias for each output
# channel. Pooling keeps the largest value or the mean of each small square, so that the exact position matters less.
#
# How much of the image does one output value depend on? This is its receptive field. A layer with kernel size $k$ adds
# $(k - 1)$ times the product of all strides before it.

# %%
small = np.arange(16.0).reshape(4, 4)
pooled = small.reshape(2, 2, 2, 2).max((1, 3))
print(pooled, "is the largest of each square of\n", small)
by_keras = keras.ops.max_pool(keras.ops.convert_to_tensor(small[None, :, :, None]), 2, 2)
assert np.array_equal(pooled, numpy(by_keras)[0, :, :, 0])


def receptive_field(*layers):
    """The receptive field of one output of these layers, each given as (kernel, stride)."""
    field, step = 1, 1
    for kernel, stride in layers:
        field, step = field + (kernel - 1) * step, step * stride
    return field


conv3, conv5, pool = (3, 1), (5, 1), (2, 2)
print(
    "LeNet-5: one value of the last feature map depends on",
    receptive_field(conv5, pool, conv5, pool),
    "pixels each way",
)
blocks = [conv3] * 2 + [pool] + [conv3] * 2 + [pool] + ([conv3] * 3 + [pool]) * 3
print("VGG-16:", receptive_field(*blocks))
assert receptive_field(*blocks) == zoo.card("vgg16").receptive_field

# %% [markdown]
# ## LeNet-5
#
# Two convolutions, each followed by pooling, then three fully connected layers. `zoo.build("lenet5")` is the form
# usually taught; `lenet5-1998` follows the paper, with trainable pooling and a table of which feature map is connected
# to which. Training on 1,438 digits takes a few seconds.

# %%
run = zoo.train("lenet5", epochs=6)
print(run)
assert run.metrics["accuracy"] > 0.95
zoo.show.feature_maps(run.model, digit[:, :, None].astype("float32"), "conv1")

# %%
parts = [
    ("conv1: 6 kernels of 5 x 5", 6 * (5 * 5 * 1 + 1), 28 * 28 * 6 * 25),
    ("conv2: 16 kernels of 5 x 5 x 6", 16 * (5 * 5 * 6 + 1), 10 * 10 * 16 * 150),
    ("dense1: 400 to 120", 120 * 401, 120 * 400),
    ("dense2: 120 to 84", 84 * 121, 84 * 120),
    ("head: 84 to 10", 10 * 85, 10 * 84),
]
for name, parameters, work in parts:
    print(f"{name:32s} {parameters:7,} parameters {work:8,} multiply-adds")
card = zoo.card("lenet5")
assert sum(part[1] for part in parts) == card.parameters
assert sum(part[2] for part in parts) == card.multiply_adds

# %% [markdown]
# The convolutions do most of the computation with few of the parameters; the fully connected layers do the opposite.
# This was typical until 2014.
#
# ## What changed
#
# | | layers with weights | what is new |
# | --- | --- | --- |
# | LeNet-5, 1998 | 5 | convolutions and pooling, trained end to end |
# | AlexNet, 2012 | 8 | ReLU, dropout, a million training images, two GPUs |
# | VGG, 2014 | 11 to 19 | only 3 x 3 kernels: two of them cover 5 x 5 with fewer weights |
# | ResNet, 2015 | 18 to 152 | residual connections, batch normalization, no large fully connected layers |
# | EfficientNet, 2019 | about 80 in B0 | depth, width and image size scaled together; depthwise convolutions |
#
# The model cards contain the exact counts.

# %%
FAMILIES = {
    "LeNet": (["lenet5"], "black", "o"),
    "AlexNet": (["alexnet"], ORANGE, "s"),
    "VGG": (["vgg11", "vgg13", "vgg16", "vgg19"], RED, "^"),
    "ResNet": (["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"], BLUE, "D"),
    "EfficientNet": ([f"efficientnet-b{i}" for i in range(8)], GREEN, "v"),
}
plt.figure(figsize=(8, 5))
for family, (names, color, marker) in FAMILIES.items():
    cards = [zoo.card(name) for name in names]
    x, y = [card.multiply_adds for card in cards], [card.parameters for card in cards]
    plt.loglog(x, y, color=color, marker=marker, linestyle=":", label=f"{family}, {cards[0].year}")
    plt.annotate(names[0], (x[0], y[0]), textcoords="offset points", xytext=(6, -12), fontsize=8)
    if len(names) > 1:
        plt.annotate(names[-1], (x[-1], y[-1]), textcoords="offset points", xytext=(-30, 8), fontsize=8)
plt.xlabel("multiply-adds of one image")
plt.ylabel("parameters")
plt.title("Twenty years of image classification")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
vgg, resnet, efficient = (zoo.card(name) for name in ("vgg16", "resnet50", "efficientnet-b0"))
print(f"ResNet-50 has {vgg.parameters / resnet.parameters:.1f} times fewer parameters than VGG-16,")
print(
    f"EfficientNet-B0 {resnet.multiply_adds / efficient.multiply_adds:.0f} times fewer multiply-adds than ResNet-50"
)
assert efficient.parameters < resnet.parameters < vgg.parameters

# %% [markdown]
# ## Why deep networks need residual connections
#
# With twenty convolutions in a row, little of the gradient reaches the first. A residual connection (also called a skip
# connection or shortcut) adds a block's input to its output, $y = x + f(x)$: in the backward pass the gradient passes
# through the sum unchanged, whatever $f$ does. We build both kinds of network, with twenty blocks of one 3 x 3
# convolution, and compare the gradients.


# %%
def stack(residual, depth=20, width=8):
    image = layers.Input((8, 8, 1))
    x = layers.conv(image, width, 3, padding=1, name="first")
    for i in range(depth):
        y = layers.tanh(layers.conv(x, width, 3, padding=1, name=f"block{i}"))
        x = x + y if residual else y
    return layers.Model(image, layers.dense(layers.global_average_pool(x), 10, name="head"))


pictures, labels = (part[:64] for part in zoo.tasks.load("digits", (8, 8, 1)).train)
rates = {}
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
for residual, label, color, style in ((False, "plain", RED, "-"), (True, "residual", BLUE, "--")):
    model = stack(residual)
    before = [numpy(v) for v in model.trainable_variables]
    names = [v.path for v in model.trainable_variables]
    zoo.train(model, (pictures, labels), steps=1, optimizer=zoo.optimizers.SGD(1.0), batch_size=64)
    moved = {
        n: np.abs(numpy(v) - b).mean()
        for n, v, b in zip(names, model.trainable_variables, before, strict=True)
    }
    sizes = [moved[f"block{i}/kernel"] for i in range(20)]  # an SGD step with rate 1 is the gradient
    left.semilogy(range(1, 21), sizes, color=color, linestyle=style, label=label)
    run = zoo.train(stack(residual), "digits", steps=60, batch_size=64)
    right.plot(run.losses, color=color, linestyle=style, label=label)
    rates[label] = run.losses[-1]
left.set(xlabel="block, counted from the input", ylabel="mean size of the gradient", title="Gradients")
right.set(xlabel="step", ylabel="cross-entropy (nats)", title="Training loss")
right.legend()
plt.show()
print(rates)
assert rates["residual"] < rates["plain"] - 0.3

# %% [markdown]
# ## Exercises
#
# **1.** A fully connected layer maps a 32 x 32 image to 28 x 28 x 6 outputs: how many weights does it have? LeNet's
# first convolution has 156.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
dense = (32 * 32 + 1) * 28 * 28 * 6
print(f"{dense:,}, {dense // 156:,} times as many")
assert dense == 4_821_600

# %% [markdown]
# **2.** Two consecutive 3 x 3 convolutions have a receptive field of 5 x 5 pixels, the same as one 5 x 5 convolution.
# Compare their weights, with $c$ channels throughout. (This was VGG's argument.)

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
c = 64
two, one = 2 * 3 * 3 * c * c, 5 * 5 * c * c
print(two / one, "of the weights, with a nonlinearity between them")
assert two / one == 18 / 25
assert convolve(convolve(np.ones((5, 5)), np.ones((3, 3))), np.ones((3, 3))).shape == (1, 1)

# %% [markdown]
# **3.** Which padding makes a 5 x 5 convolution of stride 1 keep the size of the image?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# n + 2p - 5 + 1 = n, so p = 2.
assert convolve(digit, np.ones((5, 5)), padding=2).shape == digit.shape

# %% [markdown]
# ## Further reading
#
# - The next chapter: [recurrent networks](05-recurrent.ipynb)
# - CS231n, [Convolutional Neural Networks for Visual Recognition](https://cs231n.github.io/convolutional-networks/)
# - [Dive into Deep Learning](https://d2l.ai/chapter_convolutional-modern/index.html), chapters 7 and 8
# - LeCun et al. 1998, [Gradient-based learning applied to document recognition](https://doi.org/10.1109/5.726791)
# - He et al. 2015, [Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385); Tan, Le 2019,
#   [EfficientNet](https://arxiv.org/abs/1905.11946)
