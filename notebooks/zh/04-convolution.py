# %% [markdown]
# # 4 卷积：从 LeNet 到 EfficientNet
#
# **你会看到什么。** 手算的卷积，连同步幅、填充和池化。1998 年的 LeNet-5，在这里几秒钟就学会认数字，还有它看见了什么。
# 然后是二十年间的变化，直到 AlexNet、VGG、ResNet 和 EfficientNet：深度、参数、乘加次数，都画出来；
# 以及为什么训练深的网络要抄近路。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 同一组小权重，扫过每个位置
#
# 卷积把一小方块权重（卷积核）在图像上滑动，在每个位置把盖住的数相乘再相加。竖直的边缘在哪里都长得一样，
# 所以同样的九个权重到处都能找到它：九个数，而每个神经元都连着所有像素的层要成千上万个。
#
# 卷积核 $w$ 的大小为 $k$，步幅为 $s$（每次移动多远），填充为 $p$（边上补的零），边长为 $n$ 的图像变成边长为
# $\lfloor (n + 2p - k) / s \rfloor + 1$ 的特征图。


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
# ## 通道、池化、感受野
#
# 彩色图像有三个通道；一层会做出许多特征图，每张都是下一层的一个通道。卷积核对每个通道都有权重：一共
# $k \cdot k \cdot c_{in} \cdot c_{out}$ 个，每张图另有一个偏置。池化只留每个小方块的最大值或平均值，确切的位置就不那么要紧了。
#
# 一个数依赖图像的多大一块？那就是它的感受野。核为 $k$ 的一层，让它增加 $(k - 1)$ 乘以前面所有步幅之积。

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
# 两个卷积，各带池化，然后三层神经元。`zoo.build("lenet5")` 是大家都教的形式；`lenet5-1998` 是论文里的，
# 池化可训练，还有一张哪张图看哪张图的表。在 1,438 个数字上训练只要几秒钟。

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
# 卷积用少数参数做了大部分计算，神经元层正好相反。直到 2014 年都是这样。
#
# ## 变了什么
#
# | | 有权重的层数 | 新在哪里 |
# | --- | --- | --- |
# | LeNet-5，1998 | 5 | 卷积与池化，从头到尾一起训练 |
# | AlexNet，2012 | 8 | ReLU、随机失活、百万张照片、两块 GPU |
# | VGG，2014 | 11 到 19 | 只用 3 x 3：两个就看到 5 x 5，权重更少 |
# | ResNet，2015 | 18 到 152 | 残差连接、批量归一化，不再有大的神经元层 |
# | EfficientNet，2019 | B0 约 80 | 深度、宽度、图像大小一起增长；每个通道各自卷积 |
#
# 准确的数目在卡片上。

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
# ## 为什么深的网络要抄近路
#
# 叠二十个卷积，到达第一层的梯度就很少了。残差连接把块的输入加到输出上，$y = x + f(x)$：反向时，无论 $f$ 做什么，
# 梯度都原样穿过加法。我们把两种都建起来，二十个块，每块一个 3 x 3 卷积，看看到达的是什么。


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
# ## 练习
#
# **1.** 从 32 x 32 的图像到 28 x 28 x 6 个数，若每个神经元都连着所有像素，要多少权重？LeNet 的第一个卷积只有 156 个。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
dense = (32 * 32 + 1) * 28 * 28 * 6
print(f"{dense:,}, {dense // 156:,} times as many")
assert dense == 4_821_600

# %% [markdown]
# **2.** 两个 3 x 3 的卷积接在一起看到 5 x 5 个像素，与一个 5 x 5 的相同。通道数都是 $c$，比较它们的权重。（这是 VGG 的理由。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
c = 64
two, one = 2 * 3 * 3 * c * c, 5 * 5 * c * c
print(two / one, "of the weights, with a nonlinearity between them")
assert two / one == 18 / 25
assert convolve(convolve(np.ones((5, 5)), np.ones((3, 3))), np.ones((3, 3))).shape == (1, 1)

# %% [markdown]
# **3.** 步幅为 1 的 5 x 5 卷积，填充多少才能保持图像的大小？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# n + 2p - 5 + 1 = n, so p = 2.
assert convolve(digit, np.ones((5, 5)), padding=2).shape == digit.shape

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[循环神经网络](05-recurrent.ipynb)
# - CS231n，[Convolutional Neural Networks for Visual Recognition](https://cs231n.github.io/convolutional-networks/)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_convolutional-modern/index.html)第 6、7 章
# - LeCun 等 1998，[Gradient-based learning applied to document recognition](https://doi.org/10.1109/5.726791)
# - He 等 2015，[Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385)；Tan、Le 2019，
#   [EfficientNet](https://arxiv.org/abs/1905.11946)
