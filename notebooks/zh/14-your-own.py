# %% [markdown]
# # 14 自定义架构
#
# **你会看到什么。** 用二十行代码写一个自己的架构：先写成函数，再注册为 zoo 的模型，与其他模型一样有模型卡片，可以训练、保存检查点。然后用一致性阶梯检验它，再故意改错，看阶梯能否找出有问题的层。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.layers import Input, Model, batch_norm, conv, dense, gelu, global_average_pool

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE = "#0072B2"

# %% [markdown]
# ## 架构
#
# ConvMixer 先把图像切成小块，然后交替混合*位置*和*通道*：用大卷积核的逐通道卷积混合同一通道中的各个位置，外面有一条残差连接；再用 1 x 1 卷积混合各通道（Trockman、Kolter 2022）。这里用一个很小的版本来识别数字。
#
# zoo 的模型是一个函数，按数据经过的次序依次调用各层；形状改变处用注释标明。每个有权重的层都有名字，初始权重由名字决定，所以以后增加一层不会改变其他层的初始权重。卷积不需要偏置，因为其后的批量归一化已包含偏置。


# %%
def normed_gelu(x, name):
    """批量归一化，然后 GELU。"""
    return gelu(batch_norm(x, name=f"{name}_norm"))


def mixer(*, width: int = 24, depth: int = 2, image_size: int = 32, channels: int = 1, classes: int = 10):
    """切成小块，再由若干块轮流混合位置和通道。"""
    image = Input((image_size, image_size, channels))  # (b, 32, 32, 1)
    x = conv(image, width, 4, 4, padding=0, use_bias=False, name="patches")  # (b, 8, 8, 24)
    x = normed_gelu(x, "patches")
    for i in range(1, depth + 1):
        space, mix = f"block{i}_space", f"block{i}_mix"
        y = conv(x, width, 5, groups=width, use_bias=False, name=space)  # 逐通道卷积
        x = x + normed_gelu(y, space)
        x = normed_gelu(conv(x, width, 1, use_bias=False, name=mix), mix)
    return Model(image, dense(global_average_pool(x), classes, name="head"))  # (b, 10)


model = mixer()
print("输入", model.input_shape, "输出", model.output_shape)
assert model.output_shape == (None, 10)

# %% [markdown]
# ## 注册模型
#
# `zoo.register` 为它指定名字和模型卡片。请自己用纸笔计算参数量和乘加次数，zoo 会与模型核对：如果不符，不是计算错了就是模型写错了，第一天就能发现。
#
# | 层 | 参数量 | 乘加次数 |
# | --- | --- | --- |
# | 小块：4 x 4 像素到 24 个通道 | $16 \cdot 24$ | $8 \cdot 8 \cdot 16 \cdot 24$ |
# | 空间，两次：5 x 5 逐通道卷积 | $25 \cdot 24$ | $8 \cdot 8 \cdot 25 \cdot 24$ |
# | 混合，两次：24 个通道到 24 个 | $24 \cdot 24$ | $8 \cdot 8 \cdot 24 \cdot 24$ |
# | 批量归一化，五次：缩放和平移 | $2 \cdot 24$ | 不计 |
# | 输出层：24 个通道到 10 类 | $24 \cdot 10 + 10$ | $24 \cdot 10$ |
#
# 批量归一化还为每个通道保存滑动均值和方差。它们不由梯度更新，所以不计入参数。

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
        "idea": "轮流混合位置和通道。",
        "task": "digits",
        "recipe": "lenet5",
    },
)


def parameters(model):
    """可训练参数的个数。"""
    return sum(int(np.prod(weight.shape)) for weight in model.trainable_variables)


card, model = zoo.card("mixer"), zoo.build("mixer", seed=1)
print(f"{card.name}：{card.parameters:,} 个参数，{card.multiply_adds:,} 次乘加。{card.idea}")
assert parameters(model) == card.parameters
assert zoo.layers.signature.multiply_adds(model) == card.multiply_adds

# %% [markdown]
# ## 训练
#
# 模型卡片上的配方决定任务、优化器和学习率。每一轮之后保存一次检查点。

# %%
run = zoo.train("mixer", epochs=6, checkpoint="mixer.safetensors")
print(f"{len(run.losses)} 步，留出数字上的准确率 {run.metrics['accuracy']:.3f}")
plt.plot(run.losses, color=BLUE)
plt.xlabel("步")
plt.ylabel("交叉熵（奈特）")
plt.title("你自己的模型的训练损失")
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.85

# %% [markdown]
# 检查点按名字保存权重。另一个模型可以加载这些权重，用同一个框架或其他框架都可以，也可以从检查点继续训练（`resume="mixer.safetensors"`）。`zoo.show` 可以显示模型的权重和激活值：下面是第一块中逐通道卷积的卷积核，每个通道一个。

# %%
again = zoo.build("mixer", seed=1)
print(zoo.weights.load(again, "mixer.safetensors"))
x = run.task.test[0][:8]
assert np.array_equal(again.predict(x, verbose=0), run.model.predict(x, verbose=0))
zoo.show.filters(again, "block1_space")

# %% [markdown]
# ## 检验数值一致性
#
# `zoo.parity` 在每个已安装的框架上建立你的模型，各用一个进程，把第一个框架的初始权重复制到其他框架，然后比较。第 1 级：权重，逐位相同。第 2 级：每个运算的输出。第 3 级：每个梯度。（给出 `targets=` 还会训练，检验其余各级；第 12 章有讲解。）大约需要十几秒，大部分时间用于启动两个框架。如果只安装了一个框架，就没有可比较的，下面几个单元会给出提示。

# %%
frameworks = [name for name in ("torch", "jax", "tensorflow") if name in zoo.backends.installed()][:2]
inputs = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype("float32")


def climb(build, rungs):
    """在前两个框架上检验这几级；只装了一个框架时返回空列表。"""
    if len(frameworks) < 2:
        print("只装了一个框架：没有可比较的")
        return []
    rows = zoo.parity(build, inputs, backends=frameworks, rungs=rungs).rows
    for row in rows:
        print(f"第 {row['rung']} 级 {row['name']:9s} {row['a']} 与 {row['b']}：{row['measured']:.1e}", end="")
        print(f"，上限 {row['bound']:.0e}：{row['verdict']}")
    return rows


assert all(row["verdict"] == "holds" for row in climb(mixer, (1, 2, 3)))

# %% [markdown]
# 各框架以不同的次序相加同样的乘积，舍入也就不同：差别大约是最大值的 $10^{-7}$，相当于 float32 最后一位的一个单位左右。
#
# ## 故意改错
#
# GELU 有两种形式：一种是精确形式，用正态分布函数；一种是用 tanh 的近似。假设一个框架用前者，另一个用后者，移植代码时常会这样。两者相差不到 0.0005：训练照常进行，结果略有不同，而没有人知道原因。阶梯会指出问题所在。


# %%
class Bend(keras.layers.Layer):
    """GELU；在第二个框架上用它的 tanh 近似。"""

    def call(self, x):
        return keras.ops.gelu(x, approximate=keras.backend.backend() == frameworks[-1])


def broken():
    """最小的 mixer，其中有一个 `Bend` 层。"""
    image = Input((32, 32, 1))
    x = conv(image, 8, 4, 4, padding=0, name="patches")
    x = Bend(name="bend")(x)
    x = gelu(conv(x, 8, 1, name="mix"))
    return Model(image, dense(global_average_pool(x), 10, name="head"))


rows = climb(broken, (1, 2))
for row in rows[1:]:
    where = row["where"]
    print(f"最先出现差别的层：{where['layer']}，可疑的层类型：{where['suspect']}")
    print(f"在 {where['index']} 处，一个框架是 {where['a']:.6f}，另一个是 {where['b']:.6f}")
    assert row["verdict"] == "fails"
    assert where["suspect"] == "Bend"

# %% [markdown]
# 要把它加入 zoo，只需把函数和 `register` 调用放进 `zoo/models/mixer.py`：所有测试、表格和文档页面都会包含它，其他地方不用改（[五个步骤](../../docs/howto/add-a-model.md)）。
#
# ## 练习
#
# **1.** 取 `width=48, depth=3` 的 `mixer`。按上面的表计算参数量，再用模型核对。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
w, d = 48, 3
count = 16 * w + d * 25 * w + d * w * w + (1 + 2 * d) * 2 * w + (w * 10 + 10)
print(f"{count:,}")
assert count == parameters(zoo.build("mixer", width=w, depth=d))

# %% [markdown]
# **2.** 给有两个块的 mixer 加上第三块，随机种子不变。哪些初始权重会改变？请核对。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 都不变：初始权重只取决于种子和变量名。
two, three = zoo.build("mixer", seed=3, depth=2), zoo.build("mixer", seed=3, depth=3)
deeper = {v.path: v for v in three.trainable_variables}
same = [
    np.array_equal(keras.ops.convert_to_numpy(v), keras.ops.convert_to_numpy(deeper[v.path]))
    for v in two.trainable_variables
]
print(sum(same), "个相同，共", len(same), "个")
assert all(same)

# %% [markdown]
# ## 继续阅读
#
# - 回到开头：[神经元与激活函数](01-neuron.ipynb)，这次想着你自己的模型
# - [添加模型](../../docs/howto/add-a-model.md)，[一致性阶梯与各级上限](../../docs/ladder.md)
# - Andrej Karpathy，[A Recipe for Training Neural Networks](https://karpathy.github.io/2019/04/25/recipe/)
# - Trockman、Kolter 2022，[Patches Are All You Need?](https://arxiv.org/abs/2201.09792)；Hendrycks、Gimpel 2016，[Gaussian Error Linear Units](https://arxiv.org/abs/1606.08415)
# - [Semantic Scholar](https://www.semanticscholar.org/)：查找引用某篇论文的后续工作
# - [fast.ai](https://course.fast.ai/)：面向程序员的深度学习课程
