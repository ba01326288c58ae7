# %% [markdown]
# # 5 循环神经网络
#
# **你会看到什么。** 一个逐步读序列的网络，它的状态就是记忆。LSTM 和 GRU 的一步只有几行，与 zoo 的核对。
# 为什么普通的循环网络会忘记，画出来看。然后是三种用途：名字属于哪种语言，日期的翻译，以及由 CTC 变成文字的语音数字。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import ctc, layers, spectrogram
from zoo.tasks import speech

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 沿着序列重复同一步
#
# 循环神经网络（RNN）有一个状态 $h$，在每个位置走同一步：$h_t = \tanh(W x_t + U h_{t-1} + b)$。
# 每一步的权重都相同，所以文本可以任意长。
#
# 长短期记忆网络（LSTM）加上一个能保存的单元 $c$ 和三个门，每个门是一个介于“关”和“开”之间的 sigmoid：
#
# $$i, f, o = \sigma(\ldots), \quad g = \tanh(\ldots), \quad c_t = f \cdot c_{t-1} + i \cdot g, \quad h_t = o \cdot
# \tanh c_t$$
#
# 输入门 $i$ 放新东西进来，遗忘门 $f$ 留住旧的，输出门 $o$ 把它们显示出来。每个“$\ldots$”都是带有自己权重的
# $W x_t + U h_{t-1} + b$。门控循环单元（GRU）只用两个门，没有单元：重置门 $r$ 决定候选值 $n$ 看到多少旧状态，
# 更新门 $z$ 决定旧状态留下多少。
#
# $$r, z = \sigma(\ldots), \quad n = \tanh\bigl(W x_t + b + r \cdot (U h_{t-1} + b')\bigr), \quad h_t = (1 - z) \cdot n + z
# \cdot h_{t-1}$$


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, W, U, b):
    """x (n, c) -> the states (n, units), computed from the equations."""
    h, c, states = np.zeros(len(U)), np.zeros(len(U)), []
    for x_t in x:
        i, f, g, o = np.split(x_t @ W + h @ U + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


def gru(x, W, U, b, b_state):
    """The same for a GRU, whose candidate has a second bias."""
    h, states = np.zeros(len(U)), []
    for x_t in x:
        (r, z, n), (r_h, z_h, n_h) = np.split(x_t @ W + b, 3), np.split(h @ U + b_state, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n + r * n_h) + z * h
        states.append(h)
    return np.array(states)


# %% [markdown]
# zoo 的层有名字相同的权重，可以拿来对照。**双向**的网络有第二个层，从末尾读起，权重是自己的：这样在每个位置也知道后面的内容。

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
for name, ours, theirs in zip(("LSTM", "GRU", "LSTM from the end"), by_hand, by_zoo, strict=True):
    print(f"{name}: the zoo's on {keras.backend.backend()} differs by {np.abs(theirs - ours).max():.0e}")
    assert np.abs(theirs - ours).max() < 1e-5

# %% [markdown]
# ## 为什么要门
#
# 最后的状态还受五十步之前读到的东西多少影响？反向时，普通网络每一步都要乘以 $U^T$ 和 tanh 的导数：
# 五十步之后几乎什么也不剩，或者大得离谱，没有梯度告诉它该记住什么。LSTM 的单元只乘以遗忘门：偏置为 1 时是 0.73，
# 它在这里就这样开始；训练之后可以接近 1，就像偏置为 5 时那样。
#
# 求这些导数不需要框架。给一个输入加上极小的虚数 $10^{-30} \mathrm i$：结果的虚部除以它，就是导数（“复数步长法”）。


# %%
def plain(x, W, U, b):
    h, states = np.zeros(len(U)), []
    for x_t in x:
        h = np.tanh(x_t @ W + h @ U + b)
        states.append(h)
    return np.array(states)


def influence(network, steps=50, units=32, forget_bias=0.0):
    """How much the last state changes with the input k steps before it, k = 0 to steps - 1."""
    rng, gates = np.random.default_rng(1), 1 if network is plain else 4
    W, U = rng.normal(0, 1 / np.sqrt(units), (2, units, gates * units))
    b = np.repeat([0.0, forget_bias, 0.0, 0.0][:gates], units)
    x, moved, found = rng.normal(size=(steps, units)), rng.normal(size=units) / np.sqrt(units), []
    for t in range(steps):
        nudged = x.astype(complex)
        nudged[t] += 1e-30j * moved
        found.append(np.linalg.norm(network(nudged, W, U, b)[-1].imag / 1e-30))
    return np.array(found[::-1])


curves = {"plain recurrent network": influence(plain)}
for forget_bias in (1, 5):
    curves[f"LSTM, forget gate near {sigmoid(forget_bias):.2f}"] = influence(lstm, forget_bias=forget_bias)
for (name, curve), color, style in zip(curves.items(), (RED, ORANGE, GREEN), ("-", "--", ":"), strict=True):
    plt.semilogy(curve, color=color, linestyle=style, label=name)
plt.xlabel("steps back")
plt.ylabel("derivative of the last state (norm)")
plt.title("Influence of past inputs on the last state")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
forgets, fresh, keeps = (curve[-1] / curve[0] for curve in curves.values())
print(
    f"influence of the input 49 steps before, relative to the last: {forgets:.0e}, {fresh:.0e}, {keeps:.1g}"
)
assert forgets < fresh < keeps
assert keeps > 0.01 > 1e-4 > forgets

# %% [markdown]
# ## 哪种语言？
#
# 三个地名、月份名或语言名：它们属于二十种语言中的哪一种？模型读字节；嵌入给每个字节一行数，LSTM 读它们，
# 最后的状态用来分类。短文本后面补上填充，它不改变任何数：状态停在文本结束时的样子。这里的很小，只训练几秒；
# `zoo train lstm` 要几分钟，走得更远。

# %%
small = zoo.build("lstm", width=48, embedding_width=24, vocabulary=259, classes=20)
run = zoo.train(small, "languages", steps=110)
print(run)
plt.plot(run.losses, color=BLUE)
plt.axhline(np.log(20), color="black", linestyle=":", label="uniform guess: log 20")
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("Twenty languages")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.25  # one of twenty by chance

# %% [markdown]
# ## 日期的翻译
#
# 编码器逐字节地从两头读日期；解码器按 ISO 8601 写出来，写每个字母之前先回头看它需要的地方：这就是注意力（第 6 章），
# 这里是它最早的形式。一个小网络根据解码器的状态 $h$ 和编码器在原文位置 $j$ 上的 $m_j$，给每个位置打分：
# $e_j = v \cdot \tanh(W h + U m_j)$。分数的 softmax 就是每个位置被看到多少（Bahdanau 等 2014）。zoo 附带一个训练好的小模型。

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
    """(output characters, source characters): the attention weights, computed from the equation."""
    code, part = zoo.tokenizers.ByteTokenizer(), {v.path: numpy(v) for v in translator.variables}
    feed = {"token_ids": code.encode(source), "decoder_token_ids": [code.begin, *code.encode(written)[:-1]]}
    inside = zoo.features(translator, ["memory", "features", "decoder_first_h"])
    found = inside({name: keras.ops.convert_to_tensor(np.array([i], "int32")) for name, i in feed.items()})
    memory, features, first = (numpy(found[name])[0] for name in ("memory", "features", "decoder_first_h"))
    units = len(first)
    h = np.concatenate([np.tanh(first)[None], features[:-1, :units]])  # before each character
    asked = h @ part["decoder/query_kernel"]  # (m, units)
    keys = memory @ part["decoder/memory_kernel"]  # (n, units)
    weights = softmax((np.tanh(asked[:, None] + keys) @ part["decoder/score_kernel"])[..., 0])
    assert np.allclose(weights @ memory, features[:, units:], atol=1e-4)  # the decoder's own context
    return weights


source, written = "24 novembre 2026", "2026-11-24"
weights = attention(source, written)
plt.figure(figsize=(7, 4))
plt.imshow(weights, cmap="Blues", vmin=0, vmax=1)
plt.xticks(range(len(source)), source)
plt.yticks(range(len(written)), written)
plt.xlabel("source character")
plt.ylabel("output character")
plt.title("Attention weights of the decoder (dark: near 1)")
plt.show()
for letters, places in ((weights[:4], (12, 13, 14, 15)), (weights[8:], (0, 1))):  # the year, the day
    assert tuple(letters.argmax(1)) == places

# %% [markdown]
# 写年和日的时候，它看的正是那几个数字；写月份时，十一月的 11，它看那个词开头的字母。
#
# ## 语音
#
# 录音是一长行数，这里每秒 8,000 个。耳朵听的是音高：所以把声波切成 25 毫秒的窗，每个窗变成四十个频带的能量，
# 频带的间隔与听觉一致，再取对数。这些数字由一个小小的声道模型“说出”，什么也不用下载。

# %%
digits = [3, 1, 4]
wave = speech.speak(digits, np.random.default_rng(3))
frames = spectrogram.log_mel(wave, speech.RATE)
figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5), sharex=True, layout="constrained")
seconds = np.arange(len(wave)) / speech.RATE
above.plot(seconds, wave, color=BLUE, linewidth=0.4)
above.set(ylabel="pressure (relative)", title=f"the digits {digits}")
below.imshow(frames.T, origin="lower", aspect="auto", cmap="magma", extent=(0, seconds[-1], 0, 40))
below.set(xlabel="time (seconds)", ylabel="mel band")
plt.show()
print(wave.shape, "samples,", frames.shape, "frames and bands")
assert frames.shape[1] == 40

# %% [markdown]
# 哪一帧是哪个数字，没有人说。联结时序分类（CTC）让网络为每一帧说一个数字或“空白”，并计入读起来正确的每一种说法：
# 相邻的重复并成一个，然后去掉空白。损失是所有这些说法的概率之和的负对数；一张表就能求出它，不必一一列举。

# %%
BLANK = 0
alignment = np.array([0, 3, 3, 0, 0, 1, 0, 4, 4, 4])  # one alignment of 3 1 4 with ten frames
logits = np.eye(5)[alignment] * 10.0
print("decoded as", ctc.greedy(logits[None])[0])
assert ctc.greedy(logits[None])[0] == [3, 1, 4]


def count_alignments(text, frames):
    """The number of alignments of this text with so many frames, by dynamic programming."""
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
    f"{count_alignments([3, 1, 4], 10):,} alignments with ten frames, {count_alignments([3, 1, 4], 100):,} with a hundred"
)
assert count_alignments([3, 1, 4], 3) == 1

# %% [markdown]
# ## 练习
#
# **1.** 一个有 $u$ 个单元、每步读 $c$ 个数的 LSTM 有多少参数？GRU 呢？（torch 为每个门保留两个偏置。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
u, c = 8, 5
of_lstm, of_gru = 4 * (c * u + u * u + 2 * u), 3 * (c * u + u * u + 2 * u)
print(of_lstm, of_gru)
assert 2 * of_lstm + of_gru == model.count_params()

# %% [markdown]
# **2.** 用三帧说“3 3”有多少种说法？用两帧呢？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# With three only "3 blank 3": without the blank the two threes would be merged. With two there is none.
print(count_alignments([3, 3], 3), count_alignments([3, 3], 2))
assert (count_alignments([3, 3], 3), count_alignments([3, 3], 2)) == (1, 0)

# %% [markdown]
# **3.** 在序列后面补上填充，检查 LSTM 的状态没有改变。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
lengths = layers.Input((), dtype="int32")
masked = layers.Model([sequence, lengths], layers.lstm(sequence, 8, lengths=lengths, name="lstm")[0])
masked.set_weights([w[v.path] for v in masked.variables])
longer = np.concatenate([x, rng.normal(size=(7, 5)).astype("float32")])[None]  # seven random steps
padded = numpy(masked([keras.ops.convert_to_tensor(a) for a in (longer, np.array([12], "int32"))]))[0]
print(
    f"the states differ by {np.abs(padded[:12] - by_zoo[0]).max():.0e}, and after the end are {np.abs(padded[12:]).max()}"
)
assert np.allclose(padded[:12], by_zoo[0], atol=1e-6)
assert np.all(padded[12:] == 0)

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[注意力，一步一步](06-attention.ipynb)
# - Christopher Olah，[Understanding LSTM Networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/)
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/rnn.html) 第 10 章
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_recurrent-modern/index.html)第 8、9 章
# - Bahdanau、Cho、Bengio 2014，[Neural machine translation by jointly learning to align and
#   translate](https://arxiv.org/abs/1409.0473)；Cho 等 2014，[GRU](https://arxiv.org/abs/1406.1078)
# - Hochreiter、Schmidhuber 1997，[Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735)；Graves 等 2006，
#   [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891)
