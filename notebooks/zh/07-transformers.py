# %% [markdown]
# # 7 BERT、GPT、T5 与 ViT
#
# **你会看到什么。** 一种块，四个模型。哪个词元看得见哪个；各自被训练去猜什么；参数在哪里，用公式数清。
# 一个小 GPT 学几秒钟写字，另一个学了几分钟，它在每个框架上写出同样的字母；一个小 ViT 把数字切成小块，并显示它在看哪里。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.tasks import pretraining

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 词元
#
# 模型读的是数，所以分词器把文本切成小段，即词元，给每段一个号；嵌入再给每个号一行权重。小段可以是字节（表短，文本长）、
# 词（正好相反），或词的一部分：从文本中学来，常见的词保持完整。zoo 默认的表有 1,024 个。

# %%
text = "The statement is executed."
for name, tokenizer in (
    ("bytes", zoo.tokenizers.ByteTokenizer()),
    ("subwords", zoo.tokenizers.default()),
):
    ids = tokenizer.encode(text)
    print(f"{name}: {len(ids)} tokens, {[tokenizer.decode([i]) for i in ids][:12]} ...")
    assert tokenizer.decode(ids) == text

# %% [markdown]
# ## 谁看得见谁
#
# Transformer 是一摞块：先是注意力（第 6 章），再是对每个词元单独作用的小网络，两者都带残差连接和层归一化。
# 模型的差别在掩码：
#
# - **BERT**，编码器：每个词元看得见全部。它读。
# - **GPT**，解码器：每个词元看得见自己和前面的。它写。
# - **T5**，编码器加解码器：解码器的词元看得见自己、前面的，以及编码器的全部。它回答。
# - **ViT**，编码器，词元是图像的小块。
#
# 不必相信示意图：改变输入的一个词元，看哪些输出改变。


# %%
def who_sees_whom(name, changed="token_ids", n=6):
    """(n, n): whether output i changes when token j of that input does."""
    model = zoo.build(name, **{**zoo.card(name).small, "dropout_rate": 0.0, "vocabulary": 13})
    ids = {
        x.name: np.arange(1, n + 1, dtype="int32")[None] for x in model.inputs if x.name.endswith("token_ids")
    }

    def outputs(**changes):
        feed = {name: keras.ops.convert_to_tensor(array) for name, array in {**ids, **changes}.items()}
        return numpy(model(feed))[0]

    before, sees = outputs(), np.zeros((n, n))
    for j in range(n):
        other = ids[changed].copy()
        other[0, j] = 9
        sees[:, j] = np.abs(outputs(**{changed: other}) - before).max(-1) > 1e-6
    return sees


ALL, PAST = np.ones((6, 6)), np.tril(np.ones((6, 6)))
PANELS = [
    ("BERT, its input", "bert-tiny", "token_ids", ALL),
    ("GPT, its input", "gpt-nano", "token_ids", PAST),
    ("T5's decoder, decoder input", "t5-tiny", "decoder_token_ids", PAST),
    ("T5's decoder, encoder input", "t5-tiny", "token_ids", ALL),
]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), sharey=True, layout="constrained")
for axis, (title, name, changed, expected) in zip(axes, PANELS, strict=True):
    sees = who_sees_whom(name, changed)
    axis.imshow(sees, cmap="Blues", vmin=0, vmax=1.5)
    axis.set(title=title, xlabel="changed input token")
    assert np.array_equal(sees, expected)
axes[0].set_ylabel("changed output")
plt.show()

# %% [markdown]
# ## 它们猜什么
#
# 没有人给文本加标签：文本自己就是答案。损失是对词元表的交叉熵。
#
# - **GPT** 在每个位置猜下一个词元。
# - **BERT** 猜 15 % 的词元：其中 80 % 换成掩码，10 % 换成随机词元，10 % 保持原样，使它不能依赖掩码。
# - **T5** 猜被剪掉的片段；每段留下一个哨兵，答案按次序报出它们。
#
# 然后是微调：一个新的头，或用文字说出的新任务，和少量样本。下面是它们各自看到的同一句话，切成词的一部分；
# `[?]` 是掩码，`<1>` 是哨兵。

# %%
words, rng = zoo.tokenizers.default(), np.random.default_rng(364)
sentence = "The try statement names the exceptions that it handles. If none is raised, the else clause "
ids = np.array(words.encode(sentence + "is executed before the finally clause."), "int32")
MASK, LAST = pretraining.mask(words), words.vocabulary + pretraining.SENTINELS


def shown(tokens, special):
    """The tokens as text, separated by bars."""
    return "|".join(special(t) if t >= words.vocabulary else words.decode([t]) or "[end]" for t in tokens)


def sentinel(t):
    return f"<{LAST - t}>"


print("GPT reads ", shown(ids[:-1], sentinel))
print("  predicts", shown(ids[1:], sentinel))
hidden, wanted = pretraining.masked(ids, rng, code=words)
print("BERT reads", shown(hidden, lambda t: "[?]"))
print("  predicts", shown(wanted[wanted >= 0], sentinel))
feed, target = pretraining.spans(ids, rng, code=words)
print("T5 reads  ", shown(feed["token_ids"], sentinel))
print("   writes ", shown(target, sentinel))

hidden, wanted = pretraining.masked(np.tile(ids, 400), rng, code=words)
chosen = wanted >= 0
masks, kept = hidden[chosen] == MASK, hidden[chosen] == wanted[chosen]
print(
    f"BERT, of {len(hidden):,} tokens: {chosen.mean():.0%} to predict; of those {masks.mean():.0%} masked,",
    end=" ",
)
print(f"{kept.mean():.0%} unchanged, {1 - masks.mean() - kept.mean():.0%} others")
assert abs(chosen.mean() - 0.15) < 0.01
assert abs(masks.mean() - 0.8) < 0.05
assert abs(kept.mean() - 0.1) < 0.04

# %% [markdown]
# ## 参数在哪里
#
# 宽度为 $c$ 的块有注意力的四个矩阵（$4 c^2$）和小网络的两个，后者宽四倍（$8 c^2$）：共 $12 c^2$，外加一些向量。
# $v$ 个词元的表有 $v c$。GPT-2：宽 768，12 块，50,257 个词元，1,024 个位置。


# %%
def gpt_parameters(width, depth, vocabulary, places):
    block = 12 * width**2 + 13 * width  # biases: 4 + 4 + 1 widths; two norms of 2 widths
    return depth * block + vocabulary * width + places * width + 2 * width


def bert_parameters(width, depth, vocabulary, places):
    """GPT's, plus two segment embeddings and a pooler; the embeddings are normalized, the last output is not."""
    return gpt_parameters(width, depth, vocabulary, places) + 2 * width + width**2 + width


counted = {"gpt2": gpt_parameters(768, 12, 50257, 1024), "bert-base": bert_parameters(768, 12, 30522, 512)}
for name, count in counted.items():
    print(f"{name}: {count:,} by the formula")
    assert count == zoo.card(name).parameters

names = [
    "gpt-nano",
    "gpt-mini",
    "gpt2",
    "bert-tiny",
    "bert-base",
    "t5-tiny",
    "t5-small",
    "vit-ti16",
    "vit-b16",
    "vit-l16",
]
counts = [zoo.card(name).parameters / 1e6 for name in names]
colors = {"g": BLUE, "b": ORANGE, "t": GREEN, "v": RED}
plt.figure(figsize=(8, 4))
plt.barh(names, counts, color=[colors[name[0]] for name in names])
for place, count in enumerate(counts):
    plt.text(count * 1.1, place, f"{count:.1f}", va="center", fontsize=8)
plt.xscale("log")
plt.xlim(1, 1000)
plt.xlabel("parameters (millions)")
plt.ylabel("model")
plt.title("Number of parameters")
plt.show()

# %% [markdown]
# ## GPT 学写字
#
# 一个小的，按字节读写，学的是 Python 的文档。一百步：它学会了哪些字母常见，也学会了词会结束。

# %%
young = zoo.build("gpt-nano", width=64, depth=2, heads=4, vocabulary=259, positions=128)
run = zoo.train(young, "topics", steps=100)
bits = np.array(run.losses) / np.log(2)
plt.plot(bits, color=BLUE, label="this GPT")
plt.axhline(np.log2(259), color="black", linestyle=":", label="uniform guess: log2 259")
plt.axhline(1.83, color=GREEN, linestyle="--", label="the pretrained one below")
plt.xlabel("step")
plt.ylabel("bits per byte")
plt.title("Training loss of a small GPT")
plt.legend(loc="center right")
plt.grid(alpha=0.3)
plt.show()
print(repr(zoo.generate(young, "The value of ", 70, temperature=0.5, seed=1)))
assert bits[-1] < 5.5 < bits[0]

# %% [markdown]
# zoo 附带一个五十万参数的 GPT，在四十一万九千个字符上训练了几分钟。它一次写一个字节：越可能的越常写，
# `temperature`（温度）使概率变尖（小于 1）或变平（大于 1）。随机数是 zoo 自己的：同一个随机种子在每个框架上写出同样的文本。

# %%
gpt = zoo.build("gpt-nano", weights="topics")
for temperature in (0.5, 0.8, 1.5):
    print(f"--- temperature {temperature}")
    print(zoo.generate(gpt, "The value of ", 100, temperature=temperature, seed=1))
(shipped,) = zoo.pretrained.of("gpt-nano")
metrics = shipped.card()["metrics"]
print(
    f"--- held out: {metrics['bits_per_character']:.2f} bits per character, perplexity {metrics['perplexity']:.2f}"
)
text = zoo.generate(gpt, "The value of ", 40, temperature=0.5, seed=1)
assert text == 'the "__getattr__()" and "__dict__" with '  # on PyTorch, TensorFlow and JAX

# %% [markdown]
# 困惑度 3.6 的意思是：模型犹豫得好像面前有 3.6 个同样可能的字节。温度为 0 时它总取最可能的；**束搜索**同时保留几条文本，
# 取整条最可能的。

# %%
for how in ({"temperature": 0}, {"beams": 4}):
    print(how, repr(zoo.generate(gpt, "the exception is ", 30, **how)))

# %% [markdown]
# ## ViT 在看
#
# 16 x 16 像素的图像切成 4 x 4 的小块：十六个词元，再加一个类别词元，答案从它读出。没有人告诉模型图像是平面的，
# 除了它自己学到的位置。

# %%
vit = zoo.build("vit-ti16", weights="digits")
images, labels = zoo.tasks.load("digits", vit.input_shape[1:]).test
answers = vit.predict(images, verbose=0).argmax(-1)
print(f"{np.mean(answers == labels):.1%} of the held-out digits")
assert np.mean(answers == labels) > 0.9

digit = images[3]
weights = zoo.show.attention_weights(vit, digit)  # (blocks, heads, tokens, tokens)
figure, axes = plt.subplots(1, 2 + weights.shape[1], figsize=(11, 2.8), layout="constrained")
axes[0].imshow(digit, cmap="gray")
axes[0].set_title(f"a digit, {digit.shape[0]} x {digit.shape[1]}")
patches = digit[..., 0].reshape(4, 4, 4, 4)
axes[1].imshow(
    np.pad(patches, ((0, 0), (0, 1), (0, 0), (0, 1)), constant_values=1).reshape(20, 20), cmap="gray"
)
axes[1].set_title("sixteen patches")
for i, (axis, head) in enumerate(zip(axes[2:], weights[-1], strict=True), 1):
    axis.imshow(head[0, 1:].reshape(4, 4), cmap="Blues")
    axis.set_title(f"head {i}: attention of\nthe class token")
for axis in axes:
    axis.axis("off")
plt.show()
assert np.allclose(weights.sum(-1), 1, atol=1e-5)

# %% [markdown]
# ## 练习
#
# **1.** ViT-B/16 有多少参数？宽 768，12 块与 GPT 的相同，小块是三种颜色的 16 x 16 像素，共 196 块加一个类别词元，1,000 类。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
width = 768
count = 12 * (12 * width**2 + 13 * width)  # blocks
count += 16 * 16 * 3 * width + width  # patches
count += width + 197 * width  # class token, positions
count += 2 * width + width * 1000 + 1000  # last norm, head
print(f"{count:,}")
assert count == zoo.card("vit-b16").parameters

# %% [markdown]
# **2.** 一无所知的 GPT 把猜测平摊在 256 个字节上。每个字节是多少比特，困惑度是多少？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
bits = np.log2(256)
print(bits, "bits, perplexity", 2**bits)
assert (bits, 2**bits) == (8, 256)
assert metrics["bits_per_character"] < bits / 4  # ours, after some minutes of training

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[优化器赛跑](08-optimizers.ipynb)
# - Devlin 等 2018，[BERT](https://arxiv.org/abs/1810.04805)；Raffel 等 2019，[T5](https://arxiv.org/abs/1910.10683)；
#   Dosovitskiy 等 2020，[ViT](https://arxiv.org/abs/2010.11929)
# - Andrej Karpathy，[nanoGPT](https://github.com/karpathy/nanoGPT)：三百行，训练 GPT-2
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_natural-language-processing-pretraining/index.html)第 14 章
# - CS224n，[Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
