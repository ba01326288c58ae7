# %% [markdown]
# # 4 卷积：从 LeNet 到 EfficientNet
#
# **你会看到什么。** 手算卷积，以及步幅、填充和池化。1998 年的 LeNet-5 在这里几秒钟就能学会识别数字，还可以看到它的特征图。然后是二十年间的发展：AlexNet、VGG、ResNet 和 EfficientNet 的深度、参数量和乘加次数都画成图；最后看为什么深层网络需要残差连接。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED, PURPLE = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 同一组权重扫过每个位置
#
# 卷积把一小块权重（卷积核）在图像上滑动，在每个位置把它覆盖的数与权重相乘再求和。竖直边缘出现在哪里都是一个样子，所以同样的九个权重在任何位置都能检测到它：只需要九个数；而在全连接层中，每个神经元都连着所有像素，需要成千上万个权重。
#
# 设卷积核 $w$ 的大小为 $k$，步幅（每次移动的距离）为 $s$，填充（边缘补的零）为 $p$，则边长为 $n$ 的图像变成边长为 $\lfloor (n + 2p - k) / s \rfloor + 1$ 的特征图。


# %%
def convolve(image, kernel, stride=1, padding=0):
    """图像 (h, w)，卷积核 (k, k) -> 特征图。"""
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
edges = np.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])  # Sobel 算子：左亮右暗的边缘
maps = {
    "原图": digit,
    "竖直边缘": convolve(digit, edges),
    "步幅 2": convolve(digit, edges, 2, 1),
}
figure, axes = plt.subplots(1, 3, figsize=(9, 3), layout="constrained")
for axis, (title, shown) in zip(axes, maps.items(), strict=True):
    axis.imshow(shown, cmap="gray")
    axis.set_title(f"{title}，{shown.shape[0]} x {shown.shape[1]}")
    axis.axis("off")
plt.show()

image = layers.Input((32, 32, 1))
model = layers.Model(image, layers.conv(image, 1, 3, 2, padding=1, use_bias=False, name="edges"))
model.set_weights([edges[:, :, None, None]])
by_zoo = model.predict(digit[None, :, :, None].astype("float32"), verbose=0)[0, :, :, 0]
print(f"与 zoo 的结果相差 {np.abs(by_zoo - maps['步幅 2']).max():.0e}")
assert np.abs(by_zoo - maps["步幅 2"]).max() < 1e-5

# %% [markdown]
# ## 通道、池化、感受野
#
# 彩色图像有三个通道；一个卷积层会产生许多特征图，每张都是下一层的一个通道。卷积核对每个输入通道都有权重，一共 $k \cdot k \cdot c_{in} \cdot c_{out}$ 个，每张特征图另有一个偏置。池化只保留每个小方块的最大值或平均值，于是特征的精确位置就不那么重要了。
#
# 特征图上的一个数取决于图像的多大一块区域？这块区域就是它的感受野。大小为 $k$ 的卷积核使感受野增加 $(k - 1)$ 乘以前面所有步幅之积。

# %%
small = np.arange(16.0).reshape(4, 4)
pooled = small.reshape(2, 2, 2, 2).max((1, 3))
print(pooled, "是下面各个小方块中的最大值：\n", small)
by_keras = keras.ops.max_pool(keras.ops.convert_to_tensor(small[None, :, :, None]), 2, 2)
assert np.array_equal(pooled, numpy(by_keras)[0, :, :, 0])


def receptive_field(*layers):
    """这些层的一个输出的感受野；每层写作（核的大小，步幅）。"""
    field, step = 1, 1
    for kernel, stride in layers:
        field, step = field + (kernel - 1) * step, step * stride
    return field


conv3, conv5, pool = (3, 1), (5, 1), (2, 2)
print(
    "LeNet-5：最后一张特征图上的一个数，依赖边长为",
    receptive_field(conv5, pool, conv5, pool),
    "个像素的方块",
)
blocks = [conv3] * 2 + [pool] + [conv3] * 2 + [pool] + ([conv3] * 3 + [pool]) * 3
print("VGG-16：", receptive_field(*blocks))
assert receptive_field(*blocks) == zoo.card("vgg16").receptive_field

# %% [markdown]
# ## LeNet-5
#
# 两个卷积层，各带一次池化，然后是三个全连接层。`zoo.build("lenet5")` 是如今教科书中的形式；`lenet5-1998` 是论文中的原始形式，池化带可训练的参数，特征图之间的连接由一张连接表指定。用 1,438 个数字训练只要几秒钟。

# %%
run = zoo.train("lenet5", epochs=6)
print(run)
assert run.metrics["accuracy"] > 0.95
zoo.show.feature_maps(run.model, digit[:, :, None].astype("float32"), "conv1")

# %%
parts = [
    ("conv1: 6 x (5 x 5)", 6 * (5 * 5 * 1 + 1), 28 * 28 * 6 * 25),
    ("conv2: 16 x (5 x 5 x 6)", 16 * (5 * 5 * 6 + 1), 10 * 10 * 16 * 150),
    ("dense1: 400 -> 120", 120 * 401, 120 * 400),
    ("dense2: 120 -> 84", 84 * 121, 84 * 120),
    ("head: 84 -> 10", 10 * 85, 10 * 84),
]
for name, parameters, work in parts:
    print(f"{name:32s} {parameters:7,} 个参数 {work:8,} 次乘加")
card = zoo.card("lenet5")
assert sum(part[1] for part in parts) == card.parameters
assert sum(part[2] for part in parts) == card.multiply_adds

# %% [markdown]
# 卷积层用少量参数完成了大部分计算，全连接层正好相反。直到 2014 年的网络都是如此。
#
# ## 二十年间的变化
#
# | | 有权重的层数 | 新的思想 |
# | --- | --- | --- |
# | LeNet-5，1998 | 5 | 卷积与池化，端到端训练 |
# | AlexNet，2012 | 8 | ReLU、dropout（随机失活）、百万张照片、两块 GPU |
# | VGG，2014 | 11 到 19 | 只用 3 x 3 卷积：两层就覆盖 5 x 5，而权重更少 |
# | ResNet，2015 | 18 到 152 | 残差连接、批量归一化，不再使用大的全连接层 |
# | EfficientNet，2019 | B0 约 80 | 深度、宽度、图像尺寸同时放大；逐通道卷积 |
#
# 准确的数字记录在各模型的卡片上。

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
    plt.loglog(x, y, color=color, marker=marker, linestyle=":", label=f"{family}，{cards[0].year}")
    plt.annotate(names[0], (x[0], y[0]), textcoords="offset points", xytext=(6, -12), fontsize=8)
    if len(names) > 1:
        plt.annotate(names[-1], (x[-1], y[-1]), textcoords="offset points", xytext=(-30, 8), fontsize=8)
plt.xlabel("每张图像的乘加次数")
plt.ylabel("参数量")
plt.title("图像识别二十年")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
vgg, resnet, efficient = (zoo.card(name) for name in ("vgg16", "resnet50", "efficientnet-b0"))
print(f"VGG-16 的参数量是 ResNet-50 的 {vgg.parameters / resnet.parameters:.1f} 倍，")
print(
    f"ResNet-50 的计算量是 EfficientNet-B0 的 {resnet.multiply_adds / efficient.multiply_adds:.0f} 倍"
)
assert efficient.parameters < resnet.parameters < vgg.parameters

# %% [markdown]
# ## 为什么深层网络需要残差连接
#
# 叠二十层卷积，到达第一层的梯度就很小了。残差连接（也叫跳跃连接）把块的输入加到输出上，$y = x + f(x)$：反向传播时，无论 $f$ 是什么，梯度都能原样通过加法。下面各建一个普通网络和一个残差网络，都有二十个块，每块一个 3 x 3 卷积，比较传到各块的梯度。


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
for residual, label, color, style in ((False, "普通", RED, "-"), (True, "残差", BLUE, "--")):
    model = stack(residual)
    before = [numpy(v) for v in model.trainable_variables]
    names = [v.path for v in model.trainable_variables]
    zoo.train(model, (pictures, labels), steps=1, optimizer=zoo.optimizers.SGD(1.0), batch_size=64)
    moved = {
        n: np.abs(numpy(v) - b).mean()
        for n, v, b in zip(names, model.trainable_variables, before, strict=True)
    }
    sizes = [moved[f"block{i}/kernel"] for i in range(20)]  # 学习率为 1 的一步 SGD，改变量就是梯度
    left.semilogy(range(1, 21), sizes, color=color, linestyle=style, label=label)
    run = zoo.train(stack(residual), "digits", steps=60, batch_size=64)
    right.plot(run.losses, color=color, linestyle=style, label=label)
    rates[label] = run.losses[-1]
left.set(xlabel="块（从输入端数起）", ylabel="梯度的平均大小", title="梯度")
right.set(xlabel="步", ylabel="交叉熵（奈特）", title="训练损失")
right.legend()
plt.show()
print(rates)
assert rates["残差"] < rates["普通"] - 0.3

# %% [markdown]
# ## 练习
#
# **1.** 从 32 x 32 的图像得到 28 x 28 x 6 个数，如果每个神经元都连着所有像素，需要多少权重？LeNet 的第一个卷积层只有 156 个。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
dense = (32 * 32 + 1) * 28 * 28 * 6
print(f"{dense:,}，是后者的 {dense // 156:,} 倍")
assert dense == 4_821_600

# %% [markdown]
# **2.** 两个 3 x 3 卷积串联，感受野是 5 x 5 像素，与一个 5 x 5 卷积相同。设通道数都是 $c$，比较两者的权重个数。（这是 VGG 的设计理由。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
c = 64
two, one = 2 * 3 * 3 * c * c, 5 * 5 * c * c
print(two / one, "倍的权重，中间还多一次非线性")
assert two / one == 18 / 25
assert convolve(convolve(np.ones((5, 5)), np.ones((3, 3))), np.ones((3, 3))).shape == (1, 1)

# %% [markdown]
# **3.** 步幅为 1 的 5 x 5 卷积，填充取多少才能保持图像尺寸不变？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# n + 2p - 5 + 1 = n，所以 p = 2。
assert convolve(digit, np.ones((5, 5)), padding=2).shape == digit.shape

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[循环神经网络](05-recurrent.ipynb)
# - CS231n，[Convolutional Neural Networks for Visual Recognition](https://cs231n.github.io/convolutional-networks/)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_convolutional-modern/index.html)第 6、7 章
# - LeCun 等 1998，[Gradient-based learning applied to document recognition](https://doi.org/10.1109/5.726791)
# - He 等 2015，[Deep Residual Learning for Image Recognition](https://arxiv.org/abs/1512.03385)；Tan、Le 2019，[EfficientNet](https://arxiv.org/abs/1905.11946)
