# %% [markdown]
# # 6 注意力，一步一步
#
# **你会看到什么。** 五行 NumPy 写成的注意力：查询遇到键，softmax 把分数变成权重，再对值求平均。然后把每个部分单独拿来看：
# 分数为什么要除以一个根号，掩码遮住什么，注意力为什么不知道词的次序，告诉它的三种办法，以及一个训练过的小 GPT 的头在看哪里。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 一本软的字典
#
# 字典找到与查询相等的那个键，返回它的值。注意力是软的：它用乘积把查询 $q$ 与每个键 $k_j$ 比较，把分数变成和为 1 的权重，
# 返回各个值 $v_j$ 的加权平均。把所有查询排成 $Q$ 的行，一次算完（Vaswani 等 2017，式 1）：
#
# $$A = \mathrm{softmax}\!\left(\frac{Q K^T}{\sqrt d}\right), \qquad Y = A V$$
#
# $A$ 的每一行属于一个查询：它看每个键多少。$d$ 是查询的长度。


# %%
def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))  # the largest becomes 1, which avoids overflow
    return e / e.sum(-1, keepdims=True)


def attend(q, k, v, mask=None):
    """q (..., n, d), k (..., m, d), v (..., m, c) -> (..., n, c), and the weights (..., n, m)."""
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = softmax(scores)
    return weights @ v, weights


keys = np.array([[1.0, 0], [0, 1], [-1, 0]])
values = np.array([[10.0], [20], [30]])
for sharpness in (1, 10):
    found, weights = attend(sharpness * np.array([[1.0, 0.2]]), keys, values)
    print(f"query of length {sharpness}: weights {weights.round(3)[0]}, value {found[0, 0]:.2f}")
assert np.isclose(found[0, 0], 10, atol=0.1)

# %% [markdown]
# 查询越长，softmax 越硬：长度为 10 时几乎就是字典了。
#
# ## 为什么除以 d 的平方根
#
# 一个分数是 $d$ 个乘积的和。如果查询和键的各分量标准差为 1，分数的标准差就是 $\sqrt d$：$d = 64$ 时 8 和 -8 很常见，
# softmax 就把全部权重放在一个键上，而它的导数大约是 $A (1 - A)$，几乎为零：什么也学不到。除以 $\sqrt d$ 之后，
# 无论 $d$ 多大，分数的标准差都是 1。

# %%
rng = np.random.default_rng(0)
lengths, largest = (4, 16, 64, 256, 1024), {"divided by sqrt(d)": [], "not divided": []}
for d in lengths:
    q, k = rng.normal(size=(2, 200, 20, d))
    scores = q @ np.swapaxes(k, -1, -2)
    largest["divided by sqrt(d)"].append(softmax(scores / np.sqrt(d)).max(-1).mean())
    largest["not divided"].append(softmax(scores).max(-1).mean())
for (label, y), color, marker in zip(largest.items(), (BLUE, RED), "os", strict=True):
    plt.semilogx(lengths, y, color=color, marker=marker, label=label)
plt.xlabel("dimension d of queries and keys")
plt.ylabel("mean of the largest weight of 20 keys")
plt.title("Without scaling, attention saturates on one key")
plt.ylim(0, 1)
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert largest["not divided"][-1] > 0.9
assert np.ptp(largest["divided by sqrt(d)"]) < 0.05

# %% [markdown]
# ## 掩码
#
# 掩码拿走一些键：它们的分数变成 $-\infty$，权重变成 0。**填充掩码**遮住补在短文本后面的零。**因果掩码**遮住后面的内容，
# 让会写的模型无法偷看它要猜的词。在**自注意力**中，查询、键、值来自同一序列。

# %%
n = 6
x = rng.normal(size=(n, 8))
causal = np.tril(np.ones((n, n), bool))  # row i attends to columns 0 to i
padding = np.arange(n) < 4  # the last two positions are padding
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for axis, (title, mask) in zip(
    axes,
    {"no mask": None, "causal mask": causal, "padding mask": np.broadcast_to(padding, (n, n))}.items(),
    strict=True,
):
    _, weights = attend(x, x, x, mask)
    shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="key (position)", ylabel="query (position)")
    assert np.allclose(weights.sum(-1), 1)
bar = figure.colorbar(shown, ax=axes)
bar.ax.set(ylabel="weight", xlabel=" ")
plt.show()

# %% [markdown]
# ## 多个头，与 zoo 自己的注意力
#
# 一个头只有一种“相似”。多头注意力用学到的矩阵做出查询、键和值，把它们切成几个头，各自注意，再用一个矩阵混合结果。
# zoo 的 BERT、GPT、T5 和 ViT 都由 `zoo.layers.attention` 搭成。下面拿它与我们的五行比较。

# %%
text = layers.Input((n, 8))
model = layers.Model(text, layers.attention(text, 2, causal=True, name="attention"))
w = {v.path: numpy(v).astype("float64") for v in model.variables}
q, k, v = (
    (x @ w[f"attention_{part}/kernel"] + w[f"attention_{part}/bias"]).reshape(n, 2, 4).swapaxes(0, 1)
    for part in ("query", "key", "value")
)  # each (2 heads, n, 4)
heads, weights = attend(q, k, v, causal)
by_hand = heads.swapaxes(0, 1).reshape(n, 8) @ w["attention_output/kernel"] + w["attention_output/bias"]
by_zoo = model.predict(x[None].astype("float32"), verbose=0)[0]
print(f"the zoo's differs by {np.abs(by_zoo - by_hand).max():.0e} on {keras.backend.backend()}")
assert np.abs(by_zoo - by_hand).max() < 1e-5

# %% [markdown]
# ## 注意力不知道次序
#
# 把词打乱，注意力给出同样的向量，只是也打乱了：每个词都遇到每个词，不管它站在哪里。“狗咬人”和“人咬狗”对它来说是同一袋词。

# %%
shuffled = rng.permutation(n)
straight, _ = attend(x, x, x)
mixed, _ = attend(x[shuffled], x[shuffled], x[shuffled])
print(f"shuffling before or after attention differs by {np.abs(mixed - straight[shuffled]).max():.0e}")
assert np.allclose(mixed, straight[shuffled])

# %% [markdown]
# 所以位置要说出来。三种办法，zoo 里都有：
#
# - **正弦位置编码**（最初的 Transformer）：把许多种波长的固定波加到词向量上；位置平移就是一次旋转，处处相同；
# - **学到的位置**（BERT、GPT、ViT）：为每个位置加一个可训练的向量；
# - **相对位置**（T5）：不往词上加东西；每个头为每种*距离*学一个数，加在分数上。近的距离各有一个，远的距离共用“桶”。

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
left.set(xlabel="position", ylabel="channel", title="Sinusoidal positions: sines above, cosines below")
near = waves @ waves.T
for place, color, style in ((20, BLUE, "-"), (50, ORANGE, "--"), (80, GREEN, ":")):
    right.plot(near[place], color=color, linestyle=style, label=f"position {place}")
right.set(
    xlabel="the other position",
    ylabel="dot product of the two encodings",
    title="Nearby positions have similar encodings",
)
right.legend()
plt.show()
assert np.allclose(np.diag(near), 16, atol=1e-3)

# %%
# T5's buckets: instead of learned biases, the table contains the bucket numbers, which makes them visible.
read = layers.Input((200, 8))
relative = layers.Model(read, layers.relative_positions(read, 1, causal=True, name="relative"))
relative.set_weights([np.arange(32.0)[:, None]])
bucket = relative.predict(np.zeros((1, 200, 8)), verbose=0)[0, 0, -1, ::-1]  # from the last word backwards
figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
axis.step(range(200), bucket, where="post", color=BLUE)
axis.set(
    xlabel="distance backwards (words)", ylabel="bucket", title="T5: 32 biases per head for all distances"
)
plt.show()
assert np.array_equal(bucket[:17], range(17))  # short distances: one bucket each
assert set(bucket[128:]) == {31}  # long distances share one

# %% [markdown]
# ## 训练过的头在看哪里
#
# zoo 附带一个小 GPT，它逐字节读过 Python 文档的正文。我们问它的两个头：读一个短语时在看哪里。
# 权重按上面的办法，由模型内部的查询和键算出。

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
    axes, (first[0], third[0]), ("block 1, head 1", "block 3, head 1"), strict=True
):
    shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="key (byte)", ylabel="query (byte)")
    axis.set_xticks(range(count), letters)
    axis.set_yticks(range(count), letters)
bar = figure.colorbar(shown, ax=axes)
bar.ax.set(ylabel="weight", xlabel=" ")
plt.show()
back = [
    (head * (np.arange(count)[:, None] - np.arange(count))).sum(-1)[8:].mean() for head in (*first, *third)
]
print("each head looks back on average by", [f"{mean:.1f}" for mean in back], "bytes")
assert np.allclose(third.sum(-1), 1)
assert max(back) > 2 * min(back)  # some heads attend to nearby bytes, some to distant ones

# %% [markdown]
# ## 练习
#
# **1.** 对 $n$ 个宽度为 $d$ 的词元，一个头的自注意力在 $Q K^T$ 和 $A V$ 中要做多少次乘法？文本加倍时会怎样？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Each of the n x n scores is a sum of d products, and so is the mean of the values: 2 n^2 d. Four times as many.
products = lambda n, d: 2 * n * n * d
print(products(1000, 64))
assert products(2000, 64) == 4 * products(1000, 64)

# %% [markdown]
# **2.** 让所有查询为零。注意力返回什么？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# All scores are 0, all weights 1/m: the plain mean of the values.
found, _ = attend(np.zeros((2, 8)), x, x)
print(np.abs(found - x.mean(0)).max())
assert np.allclose(found, x.mean(0))

# %% [markdown]
# **3.** 证明：有因果掩码时，改变最后一个词只改变最后一个向量。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
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
