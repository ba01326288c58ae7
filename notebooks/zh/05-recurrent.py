# %% [markdown]
# # 5 循环神经网络
#
# **你会看到什么。** 一个逐步读取序列的网络，它用状态记住读过的内容。用几行代码写出 LSTM 和 GRU 的一步，并与 zoo 的层核对。画图说明普通的循环网络为什么会遗忘。然后是三个应用：判断名称属于哪种语言，翻译日期，以及用 CTC 把语音数字转成文字。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers
from zoo.tasks import ctc, spectrogram, speech

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # 色盲也能分辨的配色
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 沿着序列重复同一步
#
# 循环神经网络（RNN）有一个状态 $h$，在每个位置都执行同样的更新：$h_t = \tanh(W x_t + U h_{t-1} + b)$。每一步使用相同的权重，所以文本可以任意长。
#
# 长短期记忆网络（LSTM）增加了一个保存长期信息的单元状态 $c$ 和三个门，每个门是一个 sigmoid，取值在 0（关闭）和 1（打开）之间：
#
# $$i, f, o = \sigma(\ldots), \quad g = \tanh(\ldots), \quad c_t = f \cdot c_{t-1} + i \cdot g, \quad h_t = o \cdot \tanh c_t$$
#
# 输入门 $i$ 决定写入多少新信息，遗忘门 $f$ 决定保留多少旧信息，输出门 $o$ 决定输出多少。每个“$\ldots$”都是 $W x_t + U h_{t-1} + b$，各有自己的权重。门控循环单元（GRU）只有两个门，没有单元状态：重置门 $r$ 决定候选值 $n$ 使用多少旧状态，更新门 $z$ 决定保留多少旧状态。
#
# $$r, z = \sigma(\ldots), \quad n = \tanh\bigl(W x_t + b + r \cdot (U h_{t-1} + b')\bigr), \quad h_t = (1 - z) \cdot n + z \cdot h_{t-1}$$


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, W, U, b):
    """x (n, c) -> 各步的状态 (n, units)，按公式计算。"""
    h, c, states = np.zeros(len(U)), np.zeros(len(U)), []
    for x_t in x:
        i, f, g, o = np.split(x_t @ W + h @ U + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def gru(x, W, U, b, b_state):
    """GRU 的状态；候选值内部还有第二个偏置。"""
    h, states = np.zeros(len(U)), []
    for x_t in x:
        (r, z, n), (r_h, z_h, n_h) = np.split(x_t @ W + b, 3), np.split(h @ U + b_state, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n + r * n_h) + z * h
        states.append(h)
    return np.array(states)


# %% [markdown]
# zoo 的层使用同名的权重，可以直接对照。**双向**网络还有另一层从末尾往前读，使用自己的权重：这样在每个位置也能知道后面的内容。

# %%
rng = np.random.default_rng(0)
x = rng.normal(size=(12, 5)).astype("float32")
sequence = layers.Input((None, 5))
outputs = [
    layers.lstm(sequence, 8, name="lstm")[0],
    layers.gru(sequence, 8, name="gru")[0],
    layers.lstm(sequence, 8, reverse=True, name="backward")[0],
]
model = layers.Model(sequence, outputs)
w = {v.path: rng.normal(size=v.shape).astype("float32") for v in model.variables}
model.set_weights(list(w.values()))

W, U, b, b_state = ([w[f"{name}/{part}"] for name in ("lstm", "gru", "backward")]
                    for part in ("kernel", "recurrent_kernel", "bias", "recurrent_bias"))  # fmt: skip
by_hand = [
    lstm(x, W[0], U[0], b[0] + b_state[0]),
    gru(x, W[1], U[1], b[1], b_state[1]),
    lstm(x[::-1], W[2], U[2], b[2] + b_state[2])[::-1],
]
by_zoo = [numpy(y)[0] for y in model(keras.ops.convert_to_tensor(x[None]))]
for name, ours, theirs in zip(("LSTM", "GRU", "反向 LSTM"), by_hand, by_zoo, strict=True):
    print(f"{name}：与 zoo 在 {keras.backend.backend()} 上的结果相差 {np.abs(theirs - ours).max():.0e}")
    assert np.abs(theirs - ours).max() < 1e-5

# %% [markdown]
# ## 为什么需要门控
#
# 五十步之前的输入对最后的状态还有多大影响？反向传播时，普通网络每一步都要乘以 $U^T$ 和 tanh 的导数：五十步之后梯度几乎为零，或者变得极大，无法指导网络该记住什么。LSTM 的单元状态只乘以遗忘门：偏置为 1 时遗忘门是 0.73，也就是这里的初始值；训练之后可以接近 1，就像偏置为 5 时那样。
#
# 求这些导数不需要框架。给一个输入加上极小的虚数 $10^{-30} \mathrm i$，结果的虚部除以 $10^{-30}$ 就是导数（称为“复数步长法”）。


# %%
def plain(x, W, U, b):
    h, states = np.zeros(len(U)), []
    for x_t in x:
        h = np.tanh(x_t @ W + h @ U + b)
        states.append(h)
    return np.array(states)


def influence(network, steps=50, units=32, forget_bias=0.0):
    """最后的状态随它之前第 k 步的输入变化多少，k 从 0 到 steps - 1。"""
    rng, gates = np.random.default_rng(1), 1 if network is plain else 4
    W, U = rng.normal(0, 1 / np.sqrt(units), (2, units, gates * units))
    b = np.repeat([0.0, forget_bias, 0.0, 0.0][:gates], units)
    x, moved, found = rng.normal(size=(steps, units)), rng.normal(size=units) / np.sqrt(units), []
    for t in range(steps):
        nudged = x.astype(complex)
        nudged[t] += 1e-30j * moved
        found.append(np.linalg.norm(network(nudged, W, U, b)[-1].imag / 1e-30))
    return np.array(found[::-1])


curves = {"普通循环网络": influence(plain)}
for forget_bias in (1, 5):
    curves[f"LSTM，遗忘门约 {sigmoid(forget_bias):.2f}"] = influence(lstm, forget_bias=forget_bias)
for (name, curve), color, style in zip(curves.items(), (RED, ORANGE, GREEN), ("-", "--", ":"), strict=True):
    plt.semilogy(curve, color=color, linestyle=style, label=name)
plt.xlabel("往回的步数")
plt.ylabel("最后状态的导数（范数）")
plt.title("过去的输入对最后状态的影响")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
forgets, fresh, keeps = (curve[-1] / curve[0] for curve in curves.values())
print(
    f"49 步之前的输入的影响，分别是最后一个输入的 {forgets:.0e}、{fresh:.0e}、{keeps:.1g}"
)
assert forgets < fresh < keeps
assert keeps > 0.01 > 1e-4 > forgets

# %% [markdown]
# ## 判断语言
#
# 给出三个地名、月份名或语言名，判断它们属于二十种语言中的哪一种。模型按字节读取文本；嵌入把每个字节映射为一个向量，LSTM 依次读取这些向量，最后的状态用来分类。短文本后面要补填充，填充不影响结果：状态停留在文本结束时的值。这里的模型很小，只训练几秒；`zoo train lstm` 训练几分钟，准确率更高。

# %%
small = zoo.build("lstm", width=48, embedding_width=24, vocabulary=259, classes=20)
run = zoo.train(small, "languages", steps=110)
print(run)
plt.plot(run.losses, color=BLUE)
plt.axhline(np.log(20), color="black", linestyle=":", label="均匀猜测：log 20")
plt.xlabel("步")
plt.ylabel("交叉熵（奈特）")
plt.title("二十种语言")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.25  # 随机猜测为二十分之一

# %% [markdown]
# ## 翻译日期
#
# 编码器从两个方向逐字节读取日期；解码器按 ISO 8601 格式写出日期，写每个字母之前先查看原文中相关的位置。这就是注意力（第 6 章），这里是它最早的形式：一个小网络根据解码器的状态 $h$ 和编码器在原文位置 $j$ 上的输出 $m_j$，给每个位置打分，$e_j = v \cdot \tanh(W h + U m_j)$；分数经过 softmax，就得到每个位置的注意力权重（Bahdanau 等 2014）。zoo 附带一个小的预训练模型。

# %%
translator = zoo.build("seq2seq", weights="dates")
asked = ["24 novembre 2026", "July 4, 2008", "1. Mai 1999", "12 de octubre de 1992"]
for date, iso in zip(asked, zoo.translate(translator, asked), strict=True):
    print(f"{date:24s} {iso}")
assert zoo.translate(translator, asked[:3]) == ["2026-11-24", "2008-07-04", "1999-05-01"]


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def attention(source, written):
    """（输出字符，原文字符）：注意力权重，按公式计算。"""
    code, part = zoo.tokenizers.ByteTokenizer(), {v.path: numpy(v) for v in translator.variables}
    feed = {"token_ids": code.encode(source), "decoder_token_ids": [code.begin, *code.encode(written)[:-1]]}
    inside = zoo.features(translator, ["memory", "features", "decoder_first_h"])
    found = inside({name: keras.ops.convert_to_tensor(np.array([i], "int32")) for name, i in feed.items()})
    memory, features, first = (numpy(found[name])[0] for name in ("memory", "features", "decoder_first_h"))
    units = len(first)
    h = np.concatenate([np.tanh(first)[None], features[:-1, :units]])  # 写每个字符之前的状态
    asked = h @ part["decoder/query_kernel"]  # (m, units)
    keys = memory @ part["decoder/memory_kernel"]  # (n, units)
    weights = softmax((np.tanh(asked[:, None] + keys) @ part["decoder/score_kernel"])[..., 0])
    assert np.allclose(weights @ memory, features[:, units:], atol=1e-4)  # 解码器自己的上下文向量
    return weights


source, written = "24 novembre 2026", "2026-11-24"
weights = attention(source, written)
plt.figure(figsize=(7, 4))
plt.imshow(weights, cmap="Blues", vmin=0, vmax=1)
plt.xticks(range(len(source)), source)
plt.yticks(range(len(written)), written)
plt.xlabel("原文字符")
plt.ylabel("输出字符")
plt.title("解码器的注意力权重（颜色越深越接近 1）")
plt.show()
for letters, places in ((weights[:4], (12, 13, 14, 15)), (weights[8:], (0, 1))):  # 年、日
    assert tuple(letters.argmax(1)) == places

# %% [markdown]
# 写年和日时，解码器注意的正是对应的数字；写月份时，例如十一月的 11，它注意月份单词开头的字母。
#
# ## 语音
#
# 录音是一长串数值，这里每秒 8,000 个。人耳感知的是频率：所以把波形切成 25 毫秒的窗，计算每个窗在四十个频带上的能量，频带的间隔模拟人的听觉，再取对数。这里的语音由一个简单的声道模型合成，无需下载数据。

# %%
digits = [3, 1, 4]
wave = speech.speak(digits, np.random.default_rng(3))
frames = spectrogram.log_mel(wave, speech.RATE)
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
seconds = np.arange(len(wave)) / speech.RATE
above.plot(seconds, wave, color=BLUE, linewidth=0.4)
above.set(ylabel="声压（相对值）", title=f"数字 {digits}")
below.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds[-1], 0, 40))
below.set(xlabel="时间（秒）", ylabel="mel 频带")
plt.show()
print(wave.shape, "个采样点，", frames.shape, "（帧数，频带数）")
assert frames.shape[1] == 40

# %% [markdown]
# 训练数据并没有标明哪一帧对应哪个数字。联结时序分类（CTC）让网络在每一帧输出一个数字或“空白”，所有能还原成正确文本的对齐方式都计入：还原时先合并相邻的重复，再去掉空白。损失是所有这些对齐的概率之和的负对数；用动态规划的一张表就能求出，不必一一列举。

# %%
BLANK = 0
alignment = np.array([0, 3, 3, 0, 0, 1, 0, 4, 4, 4])  # 3 1 4 与十帧的一种对齐
logits = np.eye(5)[alignment] * 10.0
print("解码为", ctc.greedy(logits[None])[0])
assert ctc.greedy(logits[None])[0] == [3, 1, 4]


def count_alignments(text, frames):
    """这段文本与这么多帧有多少种对齐，用动态规划求出。"""
    spaced = [BLANK]
    for digit in text:
        spaced += [digit, BLANK]
    counts = np.zeros(len(spaced), dtype=object)
    counts[:2] = 1
    for _ in range(frames - 1):
        before = counts.copy()
        for s in range(len(spaced)):
            counts[s] = before[s] + (before[s - 1] if s else 0)
            if s > 1 and spaced[s] not in (BLANK, spaced[s - 2]):
                counts[s] += before[s - 2]
    return counts[-1] + counts[-2]


print(
    f"十帧有 {count_alignments([3, 1, 4], 10):,} 种对齐，一百帧有 {count_alignments([3, 1, 4], 100):,} 种"
)
assert count_alignments([3, 1, 4], 3) == 1

# %% [markdown]
# ## 练习
#
# **1.** 一个有 $u$ 个单元、每步输入 $c$ 个数的 LSTM 有多少参数？GRU 呢？（torch 的每个门有两个偏置。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
u, c = 8, 5
of_lstm, of_gru = 4 * (c * u + u * u + 2 * u), 3 * (c * u + u * u + 2 * u)
print(of_lstm, of_gru)
assert 2 * of_lstm + of_gru == model.count_params()

# %% [markdown]
# **2.** 用三帧表示“3 3”有多少种对齐？用两帧呢？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
# 三帧只有“3 空白 3”：没有空白，两个 3 会合并成一个。两帧则一种也没有。
print(count_alignments([3, 3], 3), count_alignments([3, 3], 2))
assert (count_alignments([3, 3], 3), count_alignments([3, 3], 2)) == (1, 0)

# %% [markdown]
# **3.** 在序列后面补上填充，验证 LSTM 的状态不变。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
lengths = layers.Input((), dtype="int32")
masked = layers.Model([sequence, lengths], layers.lstm(sequence, 8, lengths=lengths, name="lstm")[0])
masked.set_weights([w[v.path] for v in masked.variables])
longer = np.concatenate([x, rng.normal(size=(7, 5)).astype("float32")])[None]  # 后面接随机的七步
padded = numpy(masked([keras.ops.convert_to_tensor(a) for a in (longer, np.array([12], "int32"))]))[0]
print(
    f"状态相差 {np.abs(padded[:12] - by_zoo[0]).max():.0e}，填充处的最大值 {np.abs(padded[12:]).max()}"
)
assert np.allclose(padded[:12], by_zoo[0], atol=1e-6)
assert np.all(padded[12:] == 0)

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[逐步理解注意力](06-attention.ipynb)
# - Christopher Olah，[Understanding LSTM Networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/)
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/rnn.html) 第 10 章
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_recurrent-modern/index.html)第 8、9 章
# - Bahdanau、Cho、Bengio 2014，[Neural machine translation by jointly learning to align and translate](https://arxiv.org/abs/1409.0473)；Cho 等 2014，[GRU](https://arxiv.org/abs/1406.1078)
# - Hochreiter、Schmidhuber 1997，[Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735)；Graves 等 2006，[Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891)
