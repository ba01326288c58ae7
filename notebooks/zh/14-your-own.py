# %% [markdown]
# # 14 你自己的架构
#
# **你会看到什么。** 一个你自己的架构，二十行：先是一个函数，然后成为 zoo 的模型，与别的模型一样有卡片、能训练、有检查点。
# 它要爬一致性阶梯；你再故意弄坏它，看阶梯说出坏在哪里。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.layers import Input, Model, batch_norm, conv, dense, gelu, global_average_pool

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE = "#0072B2"

# %% [markdown]
# ## 一个想法
#
# ConvMixer 把图像切成小块，然后轮流混合“在哪里”和“是什么”：先用很宽的卷积，每个通道各管各的，在空间中张望，
# 外面有一条残差连接；再用 1 x 1 卷积混合各通道（Trockman、Kolter 2022）。我们的这一个很小，能认数字。
#
# zoo 的模型是一个函数，按数据遇到的次序把层放在一起；形状改变处注明形状。每个有权重的层都有名字：
# 初始权重由名字决定，所以以后加一层不会改变别的层。卷积不需要偏置：后面的批量归一化会加上一个。


# %%
def normed_gelu(x, name):
    """Batch normalization, then GELU."""
    return gelu(batch_norm(x, name=f"{name}_norm"))


def mixer(*, width: int = 24, depth: int = 2, image_size: int = 32, channels: int = 1, classes: int = 10):
    """Patches, then blocks that mix positions and channels in turn."""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = conv(image, width, 4, 4, padding=0, use_bias=False, name="patches")  # (b, 8, 8, 24)
    x = normed_gelu(x, "patches")
    for i in range(1, depth + 1):
        space, mix = f"block{i}_space", f"block{i}_mix"
        y = conv(x, width, 5, groups=width, use_bias=False, name=space)  # depthwise
        x = x + normed_gelu(y, space)
        x = normed_gelu(conv(x, width, 1, use_bias=False, name=mix), mix)
    return Model(image, dense(global_average_pool(x), classes, name="head"))  # (b, 10)


model = mixer()
print("in", model.input_shape, "out", model.output_shape)
assert model.output_shape == (None, 10)

# %% [markdown]
# ## 登记
#
# `zoo.register` 给它一个名字和一张卡片。参数和乘加次数请你自己用纸笔数，再让模型来反驳：数错了，不是你错就是模型错，
# 第一天就知道。
#
# | 层 | 参数 | 乘加次数 |
# | --- | --- | --- |
# | 小块：4 x 4 像素到 24 个通道 | $16 \cdot 24$ | $8 \cdot 8 \cdot 16 \cdot 24$ |
# | 空间，两次：每个通道 5 x 5 | $25 \cdot 24$ | $8 \cdot 8 \cdot 25 \cdot 24$ |
# | 混合，两次：24 个通道到 24 个 | $24 \cdot 24$ | $8 \cdot 8 \cdot 24 \cdot 24$ |
# | 批量归一化，五次：缩放和平移 | $2 \cdot 24$ | 不计 |
# | 头：24 个通道到 10 类 | $24 \cdot 10 + 10$ | $24 \cdot 10$ |
#
# 批量归一化还为每个通道记着滑动的均值和方差。梯度不改它们，所以它们不是参数。

# %%
zoo.register(
    "mixer",
    mixer,
    parameters=16 * 24 + 2 * 25 * 24 + 2 * 24 * 24 + 5 * 2 * 24 + (24 * 10 + 10),
    multiply_adds=8 * 8 * (16 * 24 + 2 * 25 * 24 + 2 * 24 * 24) + 24 * 10,
    small={"width": 8, "depth": 1},
    about={
        "paper": 'Trockman, Kolter 2022, "Patches Are All You Need?"',
        "url": "https://arxiv.org/abs/2201.09792",
        "year": 2022,
        "idea": "Mixes positions and channels in turn.",
        "task": "digits",
        "recipe": "lenet5",
    },
)


def parameters(model):
    """The number of trainable parameters."""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


card, model = zoo.card("mixer"), zoo.build("mixer", seed=1)
print(f"{card.name}: {card.parameters:,} parameters, {card.multiply_adds:,} multiply-adds. {card.idea}")
assert parameters(model) == card.parameters
assert zoo.registry.multiply_adds(model) == card.multiply_adds

# %% [markdown]
# ## 像别的模型一样训练
#
# 怎么训练由卡片上的配方决定：任务、优化器、学习率。每一轮之后都写一次检查点。

# %%
run = zoo.train("mixer", epochs=6, checkpoint="mixer.safetensors")
print(f"{len(run.losses)} steps, accuracy {run.metrics['accuracy']:.3f} on held-out digits")
plt.plot(run.losses, color=BLUE)
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("Training loss of your own model")
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.85

# %% [markdown]
# 检查点按名字保存权重。另一个模型可以读入它们，在这个框架或别的框架上都行，也可以从那里接着训练
# （`resume="mixer.safetensors"`）。`zoo.show` 可以看里面：下面是第一块中在空间里张望的卷积核，每个通道一个。

# %%
again = zoo.build("mixer", seed=1)
print(zoo.weights.load(again, "mixer.safetensors"))
x = run.task.test[0][:8]
assert np.array_equal(again.predict(x, verbose=0), run.model.predict(x, verbose=0))
zoo.show.filters(again, "block1_space")

# %% [markdown]
# ## 爬阶梯
#
# `zoo.parity` 在装了的每个框架上建立你的函数，各用一个进程，把第一个框架的初始权重带给其余框架，然后比较。第 1 级：权重，
# 逐位相同。第 2 级：每个运算的输出。第 3 级：每个梯度。（给出 `targets=` 就会训练，爬完全部八级；第 12 章讲解。）
# 要十几秒，大部分用来启动两个框架。只装了一个框架就没有可比的，下面几格会说明。

# %%
frameworks = [name for name in ("torch", "jax", "tensorflow") if name in zoo.backends.installed()][:2]
inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype("float32")


def climb(build, rungs):
    """Check these rungs on the first two frameworks; [] if only one is installed."""
    if len(frameworks) < 2:
        print("only one framework installed: nothing to compare")
        return []
    rows = zoo.parity(build, inputs, backends=frameworks, rungs=rungs).rows
    for row in rows:
        print(f"rung {row['rung']} {row['name']:9s} {row['a']}, {row['b']}: {row['measured']:.1e}", end="")
        print(f", bound {row['bound']:.0e}: {row['verdict']}")
    return rows


assert all(row["verdict"] == "holds" for row in climb(mixer, (1, 2, 3)))

# %% [markdown]
# 各框架把同样的乘积按不同的次序相加，舍入也就不同：差别是最大数的 $10^{-7}$ 左右，float32 最后一位上的一两个单位。
#
# ## 弄坏它
#
# GELU 有两种形式，一种用正态分布函数，一种用与它很接近的 tanh。假设一个框架用这种，另一个用那种，移植代码时常有这样的事。
# 两者相差不到 0.0005：训练照样进行，只是略有不同，谁也不知道为什么。阶梯会说出在哪里。


# %%
class Bend(keras.layers.Layer):
    """GELU; on the second framework, its tanh approximation."""

    def call(self, x):
        return keras.ops.gelu(x, approximate=keras.backend.backend() == frameworks[-1])


def broken():
    """A minimal mixer containing a `Bend` layer."""
    image = Input((32, 32, 1))
    x = conv(image, 8, 4, 4, padding=0, name="patches")
    x = Bend(name="bend")(x)
    x = gelu(conv(x, 8, 1, name="mix"))
    return Model(image, dense(global_average_pool(x), 10, name="head"))


rows = climb(broken, (1, 2))
for row in rows[1:]:
    where = row["where"]
    print(f"first difference: {where['layer']}, suspect: {where['suspect']}")
    print(f"at {where['index']} one framework has {where['a']:.6f}, the other {where['b']:.6f}")
    assert row["verdict"] == "fails"
    assert where["suspect"] == "Bend"

# %% [markdown]
# 要让它成为 zoo 的一部分，就把函数和它的 `register` 放进 `zoo/models/mixer.py`：每个测试、每张表、每一页从此都有它，
# 别的什么也不用改（[五步](../../docs/howto/add-a-model.md)）。
#
# ## 练习
#
# **1.** 取 `width=48, depth=3` 的 `mixer`。按上面的表有多少参数？用模型核对。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
w, d = 48, 3
count = 16 * w + d * 25 * w + d * w * w + (1 + 2 * d) * 2 * w + (w * 10 + 10)
print(f"{count:,}")
assert count == parameters(zoo.build("mixer", width=w, depth=d))

# %% [markdown]
# **2.** 给两个块的 mixer 加上第三块，随机种子不变。哪些初始权重会改变？请核对。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# None: initial weights depend only on the seed and the variable's name.
two, three = zoo.build("mixer", seed=3, depth=2), zoo.build("mixer", seed=3, depth=3)
deeper = {v.path: v for v in three.trainable_variables}
same = [
    np.array_equal(keras.ops.convert_to_numpy(v), keras.ops.convert_to_numpy(deeper[v.path]))
    for v in two.trainable_variables
]
print(sum(same), "of", len(same), "are the same")
assert all(same)

# %% [markdown]
# ## 继续阅读
#
# - 回到开头：[神经元与激活函数](01-neuron.ipynb)，这次心里想着你自己的模型
# - [添加模型](../../docs/howto/add-a-model.md)，[阶梯与它的界](../../docs/ladder.md)
# - Andrej Karpathy，[A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/)
# - Trockman、Kolter 2022，[Patches Are All You Need?](https://arxiv.org/abs/2201.09792)；Hendrycks、Gimpel 2016，
#   [Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)
# - [Semantic Scholar](https://www.semanticscholar.org/)：谁引用了你喜欢的论文，后来怎样
# - [fast.ai](https://course.fast.ai/)：给写代码的人的深度学习课
