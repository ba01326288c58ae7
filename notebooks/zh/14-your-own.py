# %% [markdown]
# # 14 你自己的架构
#
# **你会看到什么。** 一个你自己的架构，二十行：先是一个函数，然后成为 zoo 的模型，与别的模型一样有卡片、能训练、有检查点、
# 能导出。它要爬一致性阶梯；你再故意弄坏它，看阶梯说出坏在哪里。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.layers import Input, Model, batch_norm, conv, dense, gelu, global_average_pool

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE = "#0072B2", "#E69F00"  # told apart by the colour-blind

# %% [markdown]
# ## 一个想法
#
# ConvMixer 把图像切成小块，然后轮流混合“在哪里”和“是什么”：每个通道各自的宽卷积在空间中张望，外面有一条残差连接；
# 1 x 1 卷积混合各通道（Trockman、Kolter 2022，arXiv:2201.09792）。我们的是能认数字的最小的一个。
#
# zoo 的模型是一个函数，按数据遇到的次序把层放在一起；形状改变处注明形状。每个有权重的层都有名字：
# 初始权重由名字决定，所以以后加一层不会改变别的层。

# %%
def mixer(*, width: int = 24, depth: int = 2, image_size: int = 32, channels: int = 1, classes: int = 10):
    """Patches, then space and channels mixed in turn."""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = batch_norm(gelu(conv(image, width, 4, 4, name="patches")), name="patches_norm")  # (b, 8, 8, 24)
    for i in range(1, depth + 1):
        y = conv(x, width, 5, padding=2, groups=width, name=f"block{i}_space")  # a kernel for each channel
        x = x + batch_norm(gelu(y), name=f"block{i}_space_norm")
        x = batch_norm(gelu(conv(x, width, 1, name=f"block{i}_mix")), name=f"block{i}_mix_norm")
    return Model(image, dense(global_average_pool(x), classes, name="head"))  # (b, 10)


model = mixer()
print(model.output_shape, f"{model.count_params():,} numbers")
assert model.output_shape == (None, 10)

# %% [markdown]
# ## 登记
#
# `zoo.register` 给它一个名字和一张卡片。参数和乘加次数由你自己数：zoo 会核对。数错了，不是你错就是模型错，第一天就知道。
#
# | 层 | 参数 | 乘加次数 |
# | --- | --- | --- |
# | 小块：4 x 4 像素到 24 | $16 \cdot 24 + 24$，归一化另有 $2 \cdot 24$ | $8 \cdot 8 \cdot 16 \cdot 24$ |
# | 空间，两次：每个通道 5 x 5 | $25 \cdot 24 + 24$，另有 48 | $8 \cdot 8 \cdot 25 \cdot 24$ |
# | 混合，两次：24 到 24 | $24 \cdot 24 + 24$，另有 48 | $8 \cdot 8 \cdot 24 \cdot 24$ |
# | 头：24 到 10 | $24 \cdot 10 + 10$ | $24 \cdot 10$ |

# %%
zoo.register(
    "mixer",
    mixer,
    parameters=(16 * 24 + 72) + 2 * (25 * 24 + 72) + 2 * (24 * 24 + 72) + (24 * 10 + 10),
    multiply_adds=64 * (16 * 24 + 2 * 25 * 24 + 2 * 24 * 24) + 24 * 10,
    small={"width": 8, "depth": 1},
    about={
        "paper": 'Trockman, Kolter 2022, "Patches Are All You Need?"',
        "url": "https://arxiv.org/abs/2201.09792",
        "year": 2022,
        "idea": "Mixes space and channels in turn.",
        "task": "digits",
        "recipe": "lenet5",
    },
)
card = zoo.card("mixer")
print(f"{card.name}: {card.parameters:,} parameters, {card.multiply_adds:,} multiply-adds. {card.idea}")
trainable = sum(int(np.prod(v.shape)) for v in zoo.build("mixer").trainable_variables)
assert trainable == card.parameters

# %% [markdown]
# ## 像别的模型一样训练
#
# 同样两种方式：框架自己的循环，和 Keras 的 `fit`。

# %%
run = zoo.train("mixer", epochs=6, checkpoint="mixer.safetensors")
fit = zoo.train("mixer", steps=20, engine="keras")
print(run)
plt.semilogy(run.losses, color=BLUE, label="the framework's own loop")
plt.semilogy(fit.losses, color=ORANGE, linestyle="--", linewidth=3, label="Keras's fit, 20 steps")
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("A model of your own learns digits")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.9
assert np.abs(np.subtract(run.losses[:20], fit.losses)).max() < 1e-4

# %% [markdown]
# 检查点可以在任何框架上接着训练，其中的权重按名字读入。`zoo.show` 可以看里面。

# %%
again = zoo.build("mixer", seed=1)
print(zoo.weights.load(again, "mixer.safetensors"))
x = run.task.test[0][:8]
assert np.array_equal(again.predict(x, verbose=0), run.model.predict(x, verbose=0))
zoo.show.filters(again, "block1_space")

# %% [markdown]
# ## 爬阶梯
#
# `zoo.parity` 在装了的每个框架上建立你的函数，各用一个进程，带上相同的权重，然后比较：每个运算的输出（第 2 级），
# 每个梯度（第 3 级）。两个框架有一对；只有一个就没有可比的，下面几格会说明。

# %%
frameworks = [name for name in ("torch", "jax", "tensorflow") if name in zoo.backends.installed()][:2]
inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype("float32")


def climb(build):
    """Rungs 1 to 3 on the first two frameworks; nothing where there is one alone."""
    if len(frameworks) < 2:
        print("one framework alone: nothing to compare")
        return []
    result = zoo.parity(build, inputs, backends=frameworks, rungs=(1, 2, 3))
    for row in result.rows:
        print(
            f"rung {row['rung']} {row['name']:9s} {row['a']}, {row['b']}: {row['measured']:.1e} {row['verdict']}"
        )
    return result.rows


assert all(row["verdict"] == "holds" for row in climb(mixer))

# %% [markdown]
# ## 弄坏它
#
# 一个层在某个框架上算出的东西差千分之一：这样的差别训练会掩盖好几个星期。是哪一层，由阶梯来说。

# %%
def broken():
    """The mixer, whose features are a thousandth too large on JAX."""
    image = Input((32, 32, 1))
    x = gelu(conv(image, 8, 4, 4, name="patches"))

    class Slip(keras.layers.Layer):
        def call(self, x):
            return x * 1.001 if keras.backend.backend() == "jax" else x

    x = Slip(name="slip")(x)
    x = gelu(conv(x, 8, 1, name="mix"))
    return Model(image, dense(global_average_pool(x), 10, name="head"))


rows = climb(broken)
failed = [row for row in rows if row["verdict"] == "fails"]
if failed:
    where = failed[0]["where"]
    print(
        f"first to differ: {where['layer']}, suspect: {where['suspect']}: {where['a']:.6f} against {where['b']:.6f}"
    )
    assert where["suspect"] == "Slip"
assert bool(failed) == ("jax" in frameworks and len(frameworks) == 2)

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
count = (16 * w + 3 * w) + d * (25 * w + 3 * w) + d * (w * w + 3 * w) + (w * 10 + 10)
wide = zoo.build("mixer", width=48, depth=3)
print(count)
assert count == sum(int(np.prod(v.shape)) for v in wide.trainable_variables)

# %% [markdown]
# **2.** 给两个块的 mixer 加上第三块，随机种子不变。哪些初始权重会改变？请核对。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# None: initial weights are keyed by the seed and the variable's name, whatever else is built.
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
# - [Papers with Code](https://paperswithcode.com/)、[Semantic Scholar](https://www.semanticscholar.org/)：
#   谁引用了你喜欢的论文，后来怎样
# - [fast.ai](https://course.fast.ai/)：给写代码的人的深度学习课
