# %% [markdown]
# # 7 BERT、GPT、T5 与 ViT
#
# **你会看到什么。** 同一种块组成的四个模型：每个词元能看到哪些词元，各模型的预训练任务是什么，参数分布在哪里（用公式数清）。一个小 GPT 训练几秒钟，开始学习生成文本；一个预训练的 GPT 在每个框架上生成同样的文本；一个小 ViT 把数字图像切成小块，并显示它在注意哪里。

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.tasks import pretraining

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # 也可以是 "tensorflow" 或 "jax"：数值相同
zoo.show.use_fonts()  # 图中可以有中文

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # 色盲也能分辨的配色
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## 词元
#
# 模型处理的是数，所以分词器先把文本切成小段，即词元，并给每种词元一个编号；嵌入再把编号映射为向量。词元可以是字节（词表小，序列长）、词（正好相反），或子词：子词从语料中学来，常见的词保持完整。zoo 默认的词表有 1,024 个子词。

# %%
text = "The statement is executed."
for name, tokenizer in (
    ("字节", zoo.tokenizers.ByteTokenizer()),
    ("子词", zoo.tokenizers.default()),
):
    ids = tokenizer.encode(text)
    print(f"{name}：{len(ids)} 个词元，{[tokenizer.decode([i]) for i in ids][:12]} ...")
    assert tokenizer.decode(ids) == text

# %% [markdown]
# ## 词元之间的可见性
#
# Transformer 由若干个块堆叠而成：每块先是注意力（第 6 章），再是逐位置的前馈网络，两者都带残差连接和层归一化。各模型的区别在于掩码：
#
# - **BERT**，编码器：每个词元都能看到全部词元。用于理解。
# - **GPT**，解码器：每个词元只能看到自己和前面的词元。用于生成。
# - **T5**，编码器加解码器：解码器的词元能看到自己、前面的词元，以及编码器的全部词元。用于问答、翻译等文本到文本的任务。
# - **ViT**，编码器，词元是图像的小块。
#
# 这可以直接验证：改变输入中的一个词元，看哪些输出随之改变。


# %%
def who_sees_whom(name, changed="token_ids", n=6):
    """(n, n)：改变该输入的第 j 个词元，第 i 个输出是否改变。"""
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
    ("BERT：输入", "bert-tiny", "token_ids", ALL),
    ("GPT：输入", "gpt-nano", "token_ids", PAST),
    ("T5 解码器：解码器输入", "t5-tiny", "decoder_token_ids", PAST),
    ("T5 解码器：编码器输入", "t5-tiny", "token_ids", ALL),
]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), sharey=True, layout="constrained")
for axis, (title, name, changed, expected) in zip(axes, PANELS, strict=True):
    sees = who_sees_whom(name, changed)
    axis.imshow(sees, cmap="Blues", vmin=0, vmax=1.5)
    axis.set(title=title, xlabel="改变的输入词元")
    assert np.array_equal(sees, expected)
axes[0].set_ylabel("改变的输出")
plt.show()

# %% [markdown]
# ## 预训练任务
#
# 预训练文本没有人工标签：要预测的内容就在文本中。损失是词表上的交叉熵。
#
# - **GPT** 在每个位置预测下一个词元。
# - **BERT** 预测 15 % 的词元：其中 80 % 换成掩码，10 % 换成随机词元，10 % 保持原样，以免模型只对掩码作出预测。
# - **T5** 预测被删去的片段：每个片段用一个哨兵代替，输出按次序列出各哨兵和对应的片段。
#
# 预训练之后是微调：换上新的输出层，或者用文字描述新任务，再用少量样本继续训练。下面是同一句话在三种任务中的样子，已切成子词；`[?]` 是掩码，`<1>` 是哨兵。

# %%
words, rng = zoo.tokenizers.default(), np.random.default_rng(364)
sentence = "The try statement names the exceptions that it handles. If none is raised, the else clause "
ids = np.array(words.encode(sentence + "is executed before the finally clause."), "int32")
MASK, LAST = pretraining.mask(words), words.vocabulary + pretraining.SENTINELS


def shown(tokens, special):
    """把词元写成文本，以竖线分隔。"""
    return "|".join(special(t) if t >= words.vocabulary else words.decode([t]) or "[结束]" for t in tokens)


def sentinel(t):
    return f"<{LAST - t}>"


print("GPT  输入", shown(ids[:-1], sentinel))
print("     预测", shown(ids[1:], sentinel))
hidden, wanted = pretraining.masked(ids, rng, tokenizer=words)
print("BERT 输入", shown(hidden, lambda t: "[?]"))
print("     预测", shown(wanted[wanted >= 0], sentinel))
feed, target = pretraining.spans(ids, rng, tokenizer=words)
print("T5   输入", shown(feed["token_ids"], sentinel))
print("     输出", shown(target, sentinel))

hidden, wanted = pretraining.masked(np.tile(ids, 400), rng, tokenizer=words)
chosen = wanted >= 0
masks, kept = hidden[chosen] == MASK, hidden[chosen] == wanted[chosen]
print(
    f"BERT，{len(hidden):,} 个词元：要预测 {chosen.mean():.0%}；其中 {masks.mean():.0%} 换成掩码，",
    end=" ",
)
print(f"{kept.mean():.0%} 保持原样，{1 - masks.mean() - kept.mean():.0%} 换成其他词元")
assert abs(chosen.mean() - 0.15) < 0.01
assert abs(masks.mean() - 0.8) < 0.05
assert abs(kept.mean() - 0.1) < 0.04

# %% [markdown]
# ## 参数分布
#
# 宽度为 $c$ 的块中，注意力有四个矩阵（$4 c^2$），前馈网络有两个矩阵，中间层宽四倍（$8 c^2$）：共 $12 c^2$，外加一些向量。$v$ 个词元的嵌入表有 $v c$ 个参数。GPT-2 的宽度是 768，有 12 个块、50,257 个词元、1,024 个位置。


# %%
def gpt_parameters(width, depth, vocabulary, places):
    block = 12 * width**2 + 13 * width  # 偏置：4 + 4 + 1 个宽度；两个归一化，各 2 个宽度
    return depth * block + vocabulary * width + places * width + 2 * width


def bert_parameters(width, depth, vocabulary, places):
    """GPT 的参数，另加两个片段嵌入和池化层；归一化作用于嵌入，而不是最后的输出。"""
    return gpt_parameters(width, depth, vocabulary, places) + 2 * width + width**2 + width


counted = {"gpt2": gpt_parameters(768, 12, 50257, 1024), "bert-base": bert_parameters(768, 12, 30522, 512)}
for name, count in counted.items():
    print(f"{name}：按公式 {count:,}")
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
plt.xlabel("参数量（百万）")
plt.ylabel("模型")
plt.title("参数量")
plt.show()

# %% [markdown]
# ## 训练一个小 GPT
#
# 这个模型很小，按字节读写，用 Python 文档训练。一百步之后，它学会了哪些字母常见，以及单词大致有多长。

# %%
young = zoo.build("gpt-nano", width=64, depth=2, heads=4, vocabulary=259, positions=128)
run = zoo.train(young, "topics", steps=100)
bits = np.array(run.losses) / np.log(2)
plt.plot(bits, color=BLUE, label="这个 GPT")
plt.axhline(np.log2(259), color="black", linestyle=":", label="均匀猜测：log2 259")
plt.axhline(1.83, color=GREEN, linestyle="--", label="下面的预训练模型")
plt.xlabel("步")
plt.ylabel("每字节的比特数")
plt.title("小 GPT 的训练损失")
plt.legend(loc="center right")
plt.grid(alpha=0.3)
plt.show()
print(repr(zoo.generate(young, "The value of ", 70, temperature=0.5, seed=1)))
assert bits[-1] < 5.5 < bits[0]

# %% [markdown]
# zoo 附带一个预训练的 GPT，有五十万个参数，在四十一万九千个字符上训练了几分钟。它每次生成一个字节，按概率抽取；`temperature`（温度）小于 1 使概率更集中，大于 1 使概率更平均。抽样用 zoo 自己的随机数，所以同一个随机种子在每个框架上生成同样的文本，结果可复现。

# %%
gpt = zoo.build("gpt-nano", weights="topics")
for temperature in (0.5, 0.8, 1.5):
    print(f"--- 温度 {temperature}")
    print(zoo.generate(gpt, "The value of ", 100, temperature=temperature, seed=1))
(shipped,) = zoo.pretrained.of("gpt-nano")
metrics = shipped.card()["metrics"]
print(
    f"--- 留出文本：每个字符 {metrics['bits_per_character']:.2f} 比特，困惑度 {metrics['perplexity']:.2f}"
)
text = zoo.generate(gpt, "The value of ", 40, temperature=0.5, seed=1)
assert text == 'the "__getattr__()" and "__dict__" with '  # 在 PyTorch、TensorFlow 和 JAX 上都相同

# %% [markdown]
# 困惑度 3.6 表示：模型的不确定程度，相当于在 3.6 个等可能的字节中选择。温度为 0 时总是取概率最大的字节（贪心解码）；**束搜索**同时保留几条候选文本，最后取整体概率最大的一条。

# %%
for how in ({"temperature": 0}, {"beams": 4}):
    print(how, repr(zoo.generate(gpt, "the exception is ", 30, **how)))

# %% [markdown]
# ## ViT 在注意什么
#
# 把 16 x 16 像素的图像切成 4 x 4 的小块，得到十六个词元，再加一个类别词元，从它的输出得到分类结果。模型没有关于图像二维结构的先验知识，只有学到的位置嵌入。

# %%
vit = zoo.build("vit-ti16", weights="digits")
images, labels = zoo.tasks.load("digits", vit.input_shape[1:]).test
answers = vit.predict(images, verbose=0).argmax(-1)
print(f"留出数字上的准确率 {np.mean(answers == labels):.1%}")
assert np.mean(answers == labels) > 0.9

digit = images[3]
weights = zoo.show.attention_weights(vit, digit)  # （块，头，词元，词元）
figure, axes = plt.subplots(1, 2 + weights.shape[1], figsize=(11, 2.8), layout="constrained")
axes[0].imshow(digit, cmap="gray")
axes[0].set_title(f"数字，{digit.shape[0]} x {digit.shape[1]}")
patches = digit[..., 0].reshape(4, 4, 4, 4)
axes[1].imshow(
    np.pad(patches, ((0, 0), (0, 1), (0, 0), (0, 1)), constant_values=1).reshape(20, 20), cmap="gray"
)
axes[1].set_title("十六个图像块")
for i, (axis, head) in enumerate(zip(axes[2:], weights[-1], strict=True), 1):
    axis.imshow(head[0, 1:].reshape(4, 4), cmap="Blues")
    axis.set_title(f"头 {i}：类别词元的\n注意力")
for axis in axes:
    axis.axis("off")
plt.show()
assert np.allclose(weights.sum(-1), 1, atol=1e-5)

# %% [markdown]
# ## 练习
#
# **1.** ViT-B/16 有多少参数？它的宽度是 768，12 个块与 GPT 的相同，每个小块是 16 x 16 像素、三个颜色通道，共 196 块加一个类别词元，1,000 类。

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
width = 768
count = 12 * (12 * width**2 + 13 * width)  # 各块
count += 16 * 16 * 3 * width + width  # 图像块
count += width + 197 * width  # 类别词元、位置
count += 2 * width + width * 1000 + 1000  # 最后的归一化、输出层
print(f"{count:,}")
assert count == zoo.card("vit-b16").parameters

# %% [markdown]
# **2.** 还没学到任何东西的 GPT 在 256 个字节上给出均匀的概率。此时每个字节是多少比特，困惑度是多少？

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title 答案
bits = np.log2(256)
print(bits, "比特，困惑度", 2**bits)
assert (bits, 2**bits) == (8, 256)
assert metrics["bits_per_character"] < bits / 4  # zoo 的模型只训练了几分钟

# %% [markdown]
# ## 继续阅读
#
# - 下一章：[优化器比较](08-optimizers.ipynb)
# - Devlin 等 2018，[BERT](https://arxiv.org/abs/1810.04805)；Raffel 等 2019，[T5](https://arxiv.org/abs/1910.10683)；Dosovitskiy 等 2020，[ViT](https://arxiv.org/abs/2010.11929)
# - Andrej Karpathy，[nanoGPT](https://github.com/karpathy/nanoGPT)：用三百行代码训练 GPT-2
# - [《动手学深度学习》](https://zh.d2l.ai/chapter_natural-language-processing-pretraining/index.html)第 14 章
# - CS224n，[Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
