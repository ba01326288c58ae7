# %% [markdown]
# # 6 逐步理解注意力
#
# **你会看到什么。** 用五行 NumPy 写出注意力：查询与键相乘得到分数，softmax 把分数变成权重，再对值加权平均。然后逐个考察各个部分：分数为什么要除以平方根，掩码遮住什么，注意力为什么不能感知词序，三种加入位置信息的办法，以及一个预训练的小 GPT 的各个头在注意什么。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # 色盲也能分辨的配色
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 软性字典查找
#
# 查字典时，找到与查询相等的键，返回对应的值。注意力是一种软性的查找：用点积比较查询 $q$ 与每个键 $k_j$，把分数变成和为 1 的权重，返回各个值 $v_j$ 的加权平均。把所有查询排成矩阵 $Q$ 的行，可以一次算完（Vaswani 等 2017，式 1）：
#
# $$A = \mathrm{softmax}\!\left(\frac{Q K^T}{\sqrt d}\right), \qquad Y = A V$$
#
# $A$ 的每一行对应一个查询，给出它对每个键的注意力权重。$d$ 是查询的维数。


# %%
def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))  # 最大的变成 1：不会溢出
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v, mask=None):
    """q (..., n, d)、k (..., m, d)、v (..., m, c) -> (..., n, c)，以及权重 (..., n, m)。"""
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = softmax(scores)
    return weights @ v, weights


keys = np.array([[1.0, 0], [0, 1], [-1, 0]])
values = np.array([[10.0], [20], [30]])
for sharpness in (1, 10):
    found, weights = attend(sharpness * np.array([[1.0, 0.2]]), keys, values)
    print(f"查询长度 {sharpness}：权重 {weights.round(3)[0]}，值 {found[0, 0]:.2f}")
assert np.isclose(found[0, 0], 10, atol=0.1)

# %% [markdown]
# 查询的长度越大，softmax 的结果越集中：长度为 10 时几乎就是普通的字典查找。
#
# ## 为什么除以 d 的平方根
#
# 一个分数是 $d$ 个乘积之和。如果查询和键的各分量的标准差为 1，分数的标准差就是 $\sqrt d$：$d = 64$ 时，8 和 -8 这样的分数很常见，softmax 会把几乎全部权重放在一个键上；此时它的导数约为 $A (1 - A)$，接近零，无法学习。除以 $\sqrt d$ 之后，无论 $d$ 多大，分数的标准差都是 1。

# %%
rng = np.random.default_rng(0)
lengths, largest = (4, 16, 64, 256, 1024), {"除以 d 的平方根": [], "不除": []}
for d in lengths:
    q, k = rng.normal(size=(2, 200, 20, d))
    scores = q @ np.swapaxes(k, -1, -2)
    largest["除以 d 的平方根"].append(softmax(scores / np.sqrt(d)).max(-1).mean())
    largest["不除"].append(softmax(scores).max(-1).mean())
for (label, y), color, marker in zip(largest.items(), (BLUE, RED), "os", strict=True):
    plt.semilogx(lengths, y, color=color, marker=marker, label=label)
plt.xlabel("查询与键的维数 d")
plt.ylabel("20 个键中最大权重的平均")
plt.title("不缩放时，注意力集中在一个键上")
plt.ylim(0, 1)
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert largest["不除"][-1] > 0.9
assert np.ptp(largest["除以 d 的平方根"]) < 0.05

# %% [markdown]
# ## 掩码
#
# 掩码用来屏蔽一部分键：它们的分数变成 $-\infty$，权重变成 0。**填充掩码**屏蔽短文本后面的填充。**因果掩码**屏蔽后面的内容，使生成模型无法看到要预测的词。在**自注意力**中，查询、键、值来自同一序列。

# %%
n = 6
x = rng.normal(size=(n, 8))
causal = np.tril(np.ones((n, n), bool))  # 第 i 行能看到第 0 到 i 列
padding = np.arange(n) < 4  # 末尾两个位置是填充
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for axis, (title, mask) in zip(
    axes,
    {"无掩码": None, "因果掩码": causal, "填充掩码": np.broadcast_to(padding, (n, n))}.items(),
    strict=True,
):
    _, weights = attend(x, x, x, mask)
    shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="键（位置）", ylabel="查询（位置）")
    assert np.allclose(weights.sum(-1), 1)
bar = figure.colorbar(shown, ax=axes)
bar.ax.set(ylabel="权重", xlabel=" ")
plt.show()

# %% [markdown]
# ## 多头注意力
#
# 一个头只能表示一种“相似”。多头注意力用可训练的矩阵算出查询、键和值，把它们切分成几个头，各自计算注意力，再用一个矩阵合并结果。zoo 的 BERT、GPT、T5 和 ViT 都使用 `zoo.layers.attention`。下面拿它与前面的五行代码比较。

# %%
text = layers.Input((n, 8))
model = layers.Model(text, layers.attention(text, 2, causal=True, name="attention"))
w = {v.path: numpy(v).astype("float64") for v in model.variables}
q, k, v = (
    (x @ w[f"attention_{part}/kernel"] + w[f"attention_{part}/bias"]).reshape(n, 2, 4).swapaxes(0, 1)
    for part in ("query", "key", "value")
)  # 各为 (2 个头, n, 4)
heads, weights = attend(q, k, v, causal)
by_hand = heads.swapaxes(0, 1).reshape(n, 8) @ w["attention_output/kernel"] + w["attention_output/bias"]
by_zoo = model.predict(x[None].astype("float32"), verbose=0)[0]
print(f"与 zoo 在 {keras.backend.backend()} 上的结果相差 {np.abs(by_zoo - by_hand).max():.0e}")
assert np.abs(by_zoo - by_hand).max() < 1e-5

# %% [markdown]
# ## 注意力不能感知次序
#
# 把词打乱，注意力给出的还是同样的向量，只是次序也跟着打乱：每个词都与所有的词比较，无论它在哪个位置。对注意力来说，“狗咬人”和“人咬狗”是同一组词。

# %%
shuffled = rng.permutation(n)
straight, _ = attend(x, x, x)
mixed, _ = attend(x[shuffled], x[shuffled], x[shuffled])
print(f"先打乱与后打乱，相差 {np.abs(mixed - straight[shuffled]).max():.0e}")
assert np.allclose(mixed, straight[shuffled])

# %% [markdown]
# 因此必须加入位置信息。zoo 中有三种办法：
#
# - **正弦位置编码**（最初的 Transformer）：在词向量上加上多种波长的固定正弦波；位置平移相当于一次旋转，在任何位置都相同；
# - **可学习的位置嵌入**（BERT、GPT、ViT）：为每个位置加上一个可训练的向量；
# - **相对位置**（T5）：词向量保持不变；每个头为每种*距离*学习一个数，加在分数上。近距离各用一个数，远距离按“桶”共用。

# %%
places = layers.Input((100, 32))
waves = layers.Model(places, layers.sinusoidal_positions(places)).predict(np.zeros((1, 100, 32)), verbose=0)[
    0
]
rates = 10_000.0 ** (-np.arange(16) / 15)
angles = np.arange(100)[:, None] * rates
assert np.allclose(waves, np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-4)

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
shown = left.imshow(waves.T, cmap="PuOr", aspect="auto", vmin=-1, vmax=1)
left.set(xlabel="位置", ylabel="通道", title="正弦位置编码：上半为正弦，下半为余弦")
near = waves @ waves.T
for place, color, style in ((20, BLUE, "-"), (50, ORANGE, "--"), (80, GREEN, ":")):
    right.plot(near[place], color=color, linestyle=style, label=f"位置 {place}")
right.set(
    xlabel="另一个位置",
    ylabel="两个编码的点积",
    title="相邻位置的编码相近",
)
right.legend()
plt.show()
assert np.allclose(np.diag(near), 16, atol=1e-3)

# %%
# T5 的桶：表中放入桶的编号而不是学到的偏置，就能看到每个距离属于哪个桶。
read = layers.Input((200, 8))
relative = layers.Model(read, layers.relative_positions(read, 1, causal=True, name="relative"))
relative.set_weights([np.arange(32.0)[:, None]])
bucket = relative.predict(np.zeros((1, 200, 8)), verbose=0)[0, 0, -1, ::-1]  # 从最后一个词往前
figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
axis.step(range(200), bucket, where="post", color=BLUE)
axis.set(
    xlabel="距离（往回数的词数）", ylabel="桶", title="T5：每个头用 32 个偏置表示所有距离"
)
plt.show()
assert np.array_equal(bucket[:17], range(17))  # 近的距离各有一个桶
assert set(bucket[128:]) == {31}  # 远的距离共用一个桶

# %% [markdown]
# ## 预训练模型的头在注意什么
#
# zoo 附带一个小的预训练 GPT，按字节在 Python 文档的正文上训练。下面看它的两个头在读一个短语时注意哪里。权重用模型内部的查询和键按前面的公式算出。

# %%
phrase = "the statement is executed"
gpt = zoo.build("gpt-nano", weights="topics")
token_ids = zoo.tokenizers.ByteTokenizer().encode(phrase)
token_ids = np.array(token_ids, "int32")[None]
inside = keras.Model(
    gpt.inputs,
    [gpt.get_layer(f"block{b}_attention_{part}").output for b in (1, 3) for part in ("query", "key")],
)
padding_mask = np.ones_like(token_ids)
inputs = [{"token_ids": token_ids, "padding_mask": padding_mask}[i.name] for i in gpt.inputs]
q1, k1, q3, k3 = (numpy(y)[0] for y in inside(inputs))
count = len(token_ids[0])


def of_heads(q, k):
    q, k = (z.reshape(count, 4, -1).swapaxes(0, 1).astype("float64") for z in (q, k))
    return attend(q, k, k, np.tril(np.ones((count, count), bool)))[1]


first, third = of_heads(q1, k1), of_heads(q3, k3)
letters = list(phrase.replace(" ", "_"))
figure, axes = plt.subplots(1, 2, figsize=(12, 5.4), layout="constrained")
for axis, weights, title in zip(
    axes, (first[0], third[0]), ("第 1 块，头 1", "第 3 块，头 1"), strict=True
):
    shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="键（字节）", ylabel="查询（字节）")
    axis.set_xticks(range(count), letters)
    axis.set_yticks(range(count), letters)
bar = figure.colorbar(shown, ax=axes)
bar.ax.set(ylabel="权重", xlabel=" ")
plt.show()
back = [
    (head * (np.arange(count)[:, None] - np.arange(count))).sum(-1)[8:].mean() for head in (*first, *third)
]
print("各个头平均往回看：", [f"{mean:.1f}" for mean in back], "个字节")
assert np.allclose(third.sum(-1), 1)
assert max(back) > 2 * min(back)  # 有的头注意近处的字节，有的注意远处

# %% [markdown]
# ## 练习
#
# **1.** 对 $n$ 个宽度为 $d$ 的词元，一个头的自注意力在 $Q K^T$ 和 $A V$ 中共要做多少次乘法？文本长度加倍时呢？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# n x n 个分数，每个是 d 个乘积之和；对值求平均也是如此：共 2 n^2 d。文本加倍，乘法变成四倍。
products = lambda n, d: 2 * n * n * d
print(products(1000, 64))
assert products(2000, 64) == 4 * products(1000, 64)

# %% [markdown]
# **2.** 如果所有查询都为零，注意力返回什么？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 所有分数为 0，所有权重为 1/m：就是各个值的平均。
found, _ = attend(np.zeros((2, 8)), x, x)
print(np.abs(found - x.mean(0)).max())
assert np.allclose(found, x.mean(0))

# %% [markdown]
# **3.** 验证：使用因果掩码时，改变最后一个词只影响最后一个输出向量。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
other = x.copy()
other[-1] += 1
before, after = (attend(z, z, z, causal)[0] for z in (x, other))
print(np.abs(after - before).max(-1).round(3))
assert np.array_equal(before[:-1], after[:-1])
assert not np.allclose(before[-1], after[-1])

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[BERT、GPT、T5 与 ViT](07-transformers.ipynb)
# - Vaswani 等 2017，[Attention Is All You Need](https://arxiv.org/abs/1706.03762)
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_attention-mechanisms/index.html)第 10 章
# - CS224n，[Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
# - Jay Alammar，[The Illustrated Transformer](https://jalammar.github.io/illustrated-transformer/)
