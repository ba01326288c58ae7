# %% [markdown]
# # 5 循环神经网络
#
# **你会看到什么。** 一个逐步读序列的网络，它的状态就是记忆。LSTM 的单元只有六行，与 zoo 的核对。为什么普通的循环网络会忘记，
# 画出来看。然后是三种用途：名字属于哪种语言，日期的翻译，以及由 CTC 变成文字的语音数字。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import ctc, layers, spectrogram
from zoo.tasks import speech

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # told apart by the colour-blind
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
# $W x_t + U h_{t-1} + b$。门控循环单元（GRU）只用两个门，状态之外没有另设的单元。


# %%
def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(x, W, U, b):
    """x (n, c) -> the states (n, units), by the equations."""
    h, c, states = np.zeros(len(U)), np.zeros(len(U)), []
    for x_t in x:
        i, f, g, o = np.split(x_t @ W + h @ U + b, 4)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        states.append(h)
    return np.array(states)


rng = np.random.default_rng(0)
x = rng.normal(size=(12, 5)).astype("float32")
sequence = layers.Input((None, 5))
model = layers.Model(sequence, layers.lstm(sequence, 8, name="lstm")[0])
w = {v.path: numpy(v).astype("float64") for v in model.variables}
by_hand = lstm(x, w["lstm/kernel"], w["lstm/recurrent_kernel"], w["lstm/bias"] + w["lstm/recurrent_bias"])
by_zoo = model.predict(x[None], verbose=0)[0]
print(f"the zoo's LSTM on {keras.backend.backend()} differs by {np.abs(by_zoo - by_hand).max():.0e}")
assert np.abs(by_zoo - by_hand).max() < 1e-5

# %% [markdown]
# ## 为什么要门
#
# 最后的状态还受五十步之前的输入多少影响？反向时，普通网络每一步都要乘以 $U^T$ 和 tanh 的导数：五十步之后几乎什么也不剩，
# 或者大得离谱，没有梯度告诉它该记住什么。LSTM 的单元只乘以遗忘门。开始时偏置为 1，门大约是 0.73；训练之后可以停在 1。


# %%
def memory(forget_bias, steps=50, units=32):
    """How much the last state changes with the cell (or the plain state) k steps before; k = 0 to steps."""
    rng = np.random.default_rng(1)
    U, W = rng.normal(0, 1 / np.sqrt(units), (2, units, units))
    signal, states = rng.normal(size=(steps, units)), [np.zeros(units)]
    for x_t in signal:
        states.append(np.tanh(x_t @ W + states[-1] @ U))
    plain, kept = np.eye(units), np.ones(units)
    sizes = [(1.0, 1.0)]
    for h in states[:0:-1]:
        plain = plain @ (U * (1 - h**2)).T
        kept = kept * sigmoid(forget_bias + rng.normal(0, 0.5, units))
        sizes.append((np.linalg.norm(plain, 2), kept.max()))
    return np.array(sizes).T


for forget_bias, color, style in ((1, ORANGE, "--"), (5, GREEN, ":")):
    plain, kept = memory(forget_bias)
    plt.semilogy(
        kept, color=color, linestyle=style, label=f"LSTM's cell, forget gate near {sigmoid(forget_bias):.2f}"
    )
plt.semilogy(plain, color=RED, label="plain recurrent network")
plt.xlabel("steps back")
plt.ylabel("largest derivative of the last state")
plt.title("What is still felt of long ago")
plt.ylim(1e-12, 10)
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert kept[50] > 0.3 > 1e-3 > plain[50]

# %% [markdown]
# ## 哪种语言？
#
# 三个地名、月份名或语言名：它们属于二十种语言中的哪一种？模型读字节；嵌入给每个字节一行数，LSTM 读它们，
# 最后的状态用来分类。短文本后面补上填充，它不改变任何数：状态停在文本结束时的样子。这里的很小，只训练几秒；
# `zoo train lstm` 要几分钟，走得更远。

# %%
small = zoo.build("lstm", width=48, embedding_width=24, vocabulary=259, classes=20)
run = zoo.train(small, "languages", steps=150)
print(run)
plt.plot(run.losses, color=BLUE)
plt.axhline(np.log(20), color="black", linestyle=":", label="knowing nothing: log 20")
plt.xlabel("step")
plt.ylabel("cross-entropy (nats)")
plt.title("Twenty languages")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert run.metrics["accuracy"] > 0.25  # one of twenty by chance

# %% [markdown]
# **双向**的网络从两头读，在每个位置也看得见后面的内容：`zoo.build("birnn")`。
#
# ## 日期的翻译
#
# 编码器逐字节地从两头读日期；解码器写出 ISO 8601，写每个字母时都用注意力（第 6 章）回头看它需要的地方。
# zoo 附带一个训练好的小模型。

# %%
translator = zoo.build("seq2seq", weights="dates")
asked = ["24 novembre 2026", "July 4, 2008", "1. Mai 1999", "12 de octubre de 1992"]
for date, iso in zip(asked, zoo.translate(translator, asked), strict=True):
    print(f"{date:24s} {iso}")
assert zoo.translate(translator, asked[:3]) == ["2026-11-24", "2008-07-04", "1999-05-01"]

# %% [markdown]
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
told = np.array([0, 3, 3, 0, 0, 1, 0, 4, 4, 4])  # one way of telling 3 1 4 in ten frames
logits = np.eye(5)[told] * 10.0
print("read as", ctc.greedy(logits[None])[0])
assert ctc.greedy(logits[None])[0] == [3, 1, 4]


def ways(text, frames):
    """How many rows of so many frames read as the text; of all that a table counts."""
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


print(f"{ways([3, 1, 4], 10):,} ways in ten frames, {ways([3, 1, 4], 100):,} in a hundred")
assert ways([3, 1, 4], 3) == 1

# %% [markdown]
# ## 练习
#
# **1.** 一个有 $u$ 个单元、每步读 $c$ 个数的 LSTM 有多少参数？GRU 呢？（torch 为每个门保留两个偏置。）

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
u, c = 8, 5
of_lstm, of_gru = 4 * (c * u + u * u + 2 * u), 3 * (c * u + u * u + 2 * u)
print(of_lstm, of_gru)
assert of_lstm == model.count_params()
gru = layers.Model(sequence, layers.gru(sequence, u, name="gru")[0])
assert of_gru == gru.count_params()

# %% [markdown]
# **2.** 用三帧说“3 3”有多少种说法？用两帧呢？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# In three only "3 blank 3": without the blank the two threes would be read as one. In two there is none.
print(ways([3, 3], 3), ways([3, 3], 2))
assert (ways([3, 3], 3), ways([3, 3], 2)) == (1, 0)

# %% [markdown]
# **3.** 在序列后面补上填充，检查 LSTM 的状态没有改变。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
lengths = layers.Input((), dtype="int32")
masked = layers.Model([sequence, lengths], layers.lstm(sequence, 8, lengths=lengths, name="lstm")[0])
masked.set_weights(model.get_weights())
longer = np.concatenate([x, rng.normal(size=(7, 5)).astype("float32")])[None]
padded = numpy(
    masked([keras.ops.convert_to_tensor(longer), keras.ops.convert_to_tensor(np.array([12], "int32"))])
)[0]
print(np.abs(padded[:12] - by_zoo).max(), np.abs(padded[12:]).max())
assert np.allclose(padded[:12], by_zoo, atol=1e-6)
assert np.all(padded[12:] == 0)

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[注意力，一步一步](06-attention.ipynb)
# - Christopher Olah，[Understanding LSTM Networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/)
# - Goodfellow、Bengio、Courville，[Deep Learning](https://www.deeplearningbook.org/contents/rnn.html) 第 10 章
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_recurrent-modern/index.html)第 8、9 章
# - Hochreiter、Schmidhuber 1997，[Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735)；Graves 等 2006，
#   [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891)
