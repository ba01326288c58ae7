# %% [markdown]
# # 7 BERT, GPT, T5 and ViT
#
# **What you will see.** One kind of block, four models: which tokens attend to which, what each model is trained to
# predict, and where its parameters are, counted with a formula. You will train a small GPT for some seconds and
# generate text with a pretrained one, which produces the same characters on every framework. A small pretrained ViT
# splits a digit into patches and shows what it attends to.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.tasks import pretraining

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Tokens
#
# A model computes with numbers, so a tokenizer splits text into tokens and gives each an index; an embedding maps each
# index to a vector. Tokens may be bytes (small vocabulary, long sequences), words (the opposite), or subwords learned
# from text so that frequent words stay whole. The zoo's default tokenizer has a vocabulary of 1,024 subwords.

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
# ## Which tokens attend to which
#
# A Transformer is a stack of blocks: attention (chapter 6), then a position-wise feed-forward network, both with
# residual connections and layer normalization. The models differ in the mask:
#
# - **BERT**, an encoder: every token attends to all tokens. It is used for understanding text.
# - **GPT**, a decoder: every token attends to itself and the tokens before it. It is used for generating text.
# - **T5**, an encoder and a decoder: the decoder's tokens attend to themselves, to the tokens before them, and to all
#   encoder outputs. It is used to map an input text to an output text, such as a question to an answer.
# - **ViT**, an encoder whose tokens are patches of an image.
#
# We can check this: change one token of the input, and see which outputs change.


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
# ## What they are trained to predict
#
# No labels are needed: the text itself is the target. The loss is cross-entropy over the vocabulary.
#
# - **GPT** predicts the next token at every position.
# - **BERT** predicts 15 % of the tokens: 80 % of those are replaced by a mask token, 10 % by a random token, and 10 %
#   are left unchanged, so that the model cannot rely on the mask token.
# - **T5** predicts spans that were removed: each is replaced by a sentinel token, and the target lists the removed
#   spans in order.
#
# Fine-tuning follows pretraining: a new head, or a new task described in words, and few examples. Here is one sentence
# as each of the models sees it, split into subwords; `[?]` is the mask token, `<1>` a sentinel.

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
hidden, wanted = pretraining.masked(ids, rng, tokenizer=words)
print("BERT reads", shown(hidden, lambda t: "[?]"))
print("  predicts", shown(wanted[wanted >= 0], sentinel))
feed, target = pretraining.spans(ids, rng, tokenizer=words)
print("T5 reads  ", shown(feed["token_ids"], sentinel))
print("   writes ", shown(target, sentinel))

hidden, wanted = pretraining.masked(np.tile(ids, 400), rng, tokenizer=words)
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
# ## Where the parameters are
#
# A block of width $c$ has four attention matrices ($4 c^2$) and the two matrices of the feed-forward network, which is
# four times as wide ($8 c^2$): $12 c^2$, plus some vectors. An embedding of $v$ tokens has $v c$. For GPT-2: width 768,
# 12 blocks, 50,257 tokens, 1,024 positions.


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
# ## Training a GPT to generate text
#
# A small GPT on bytes, trained on Python's documentation. After a hundred steps it has learned which letters are
# frequent and roughly how long words are.

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
# The zoo includes a pretrained one with half a million parameters, trained for some minutes on 419 thousand characters.
# It generates one byte at a time, sampled from its probabilities; the `temperature` sharpens (below 1) or flattens
# (above 1) the distribution. The zoo has its own random number generator: the same seed generates the same text on each
# framework.

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
# A perplexity of 3.6 means that the model is as uncertain as if choosing among 3.6 equally likely bytes. At temperature
# 0 it always takes the most likely byte (greedy decoding); **beam search** keeps several candidate texts and returns
# the most likely one.

# %%
for how in ({"temperature": 0}, {"beams": 4}):
    print(how, repr(zoo.generate(gpt, "the exception is ", 30, **how)))

# %% [markdown]
# ## What a ViT attends to
#
# An image of 16 x 16 pixels is split into patches of 4 x 4: sixteen tokens, and one more, the class token, whose output
# is classified. The model has no built-in knowledge of the two-dimensional layout of the image; it has only its learned
# positional embeddings.

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
# ## Exercises
#
# **1.** How many parameters does ViT-B/16 have? Width 768, 12 blocks as in GPT, patches of 16 x 16 pixels in three
# colours, 196 patches and the class token, 1,000 classes.

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
# **2.** An untrained GPT assigns equal probability to 256 bytes. How many bits per byte is that, and what is the
# perplexity?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
bits = np.log2(256)
print(bits, "bits, perplexity", 2**bits)
assert (bits, 2**bits) == (8, 256)
assert metrics["bits_per_character"] < bits / 4  # ours, after some minutes of training

# %% [markdown]
# ## Further reading
#
# - The next chapter: [comparing optimizers](08-optimizers.ipynb)
# - Devlin et al. 2018, [BERT](https://arxiv.org/abs/1810.04805); Raffel et al. 2019,
#   [T5](https://arxiv.org/abs/1910.10683); Dosovitskiy et al. 2020, [ViT](https://arxiv.org/abs/2010.11929)
# - Andrej Karpathy, [nanoGPT](https://github.com/karpathy/nanoGPT): three hundred lines that train GPT-2
# - [Dive into Deep Learning](https://d2l.ai/chapter_natural-language-processing-pretraining/index.html), chapter 15
# - CS224n, [Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
