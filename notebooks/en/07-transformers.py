# %% [markdown]
# # 7 BERT, GPT, T5 and ViT
#
# **What you will see.** One kind of block, four models. Which token sees which; what each is trained to guess; where its
# parameters are, counted by a formula. A small GPT learns to write for some seconds, another has for minutes, and writes
# the same letters on every framework; a small ViT cuts a digit into patches and shows where it looks.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo.tasks import pretraining

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # told apart by the colour-blind
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## Tokens
#
# A model reads numbers, so a tokenizer cuts text into pieces, the tokens, and gives each a number; an embedding gives
# each number a row of weights. The pieces may be bytes (short table, long texts), words (the other way round), or parts
# of words, learnt from text so that frequent words stay whole. The zoo's default has 1,024 of them.

# %%
text = "The statement is executed."
for name, tokenizer in (
    ("bytes", zoo.tokenizers.ByteTokenizer()),
    ("parts of words", zoo.tokenizers.default()),
):
    ids = tokenizer.encode(text)
    print(f"{name}: {len(ids)} tokens, {[tokenizer.decode([i]) for i in ids][:12]} ...")
    assert tokenizer.decode(ids) == text

# %% [markdown]
# ## Who sees whom
#
# A Transformer is a stack of blocks: attention (chapter 6), then a small network for each token by itself, both with
# residual connections and layer normalization. The models differ in the mask:
#
# - **BERT**, an encoder: every token sees all. It reads.
# - **GPT**, a decoder: every token sees itself and what is before it. It writes.
# - **T5**, an encoder and a decoder: the decoder's tokens see themselves, those before, and all of the encoder's. It
#   answers.
# - **ViT**, an encoder whose tokens are patches of an image.
#
# We need not believe the diagram: change one token of the input, and see which outputs change.


# %%
def who_sees_whom(name, changed="token_ids", n=6):
    """(n, n): whether output i changes with token j of that input."""
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
    ("BERT, its text", "bert-tiny", "token_ids", ALL),
    ("GPT, its text", "gpt-nano", "token_ids", PAST),
    ("T5's decoder, its own text", "t5-tiny", "decoder_token_ids", PAST),
    ("T5's decoder, what was read", "t5-tiny", "token_ids", ALL),
]
figure, axes = plt.subplots(1, 4, figsize=(12, 3.4), sharey=True, layout="constrained")
for axis, (title, name, changed, expected) in zip(axes, PANELS, strict=True):
    sees = who_sees_whom(name, changed)
    axis.imshow(sees, cmap="Blues", vmin=0, vmax=1.5)
    axis.set(title=title, xlabel="token that is changed")
    assert np.array_equal(sees, expected)
axes[0].set_ylabel("output that changes")
plt.show()

# %% [markdown]
# ## What they guess
#
# Nobody labels the texts: the text itself is the answer. The loss is cross-entropy over the table of tokens.
#
# - **GPT** guesses the next token, at every place.
# - **BERT** guesses 15 % of the tokens: of those, 80 % are replaced by a mask, 10 % by a token at random, 10 % stay as
#   they are, so that it cannot rely on the mask.
# - **T5** guesses spans that are cut out; each leaves a sentinel, and the answer names them in order.
#
# Then comes fine-tuning: a new head, or a new task in words, and few examples. Here is one sentence as each of them sees
# it, cut into parts of words; `[?]` is the mask, `<1>` a sentinel.

# %%
words, rng = zoo.tokenizers.default(), np.random.default_rng(364)
sentence = "The try statement names the exceptions that it handles. If none is raised, the else clause "
ids = np.array(words.encode(sentence + "is executed before the finally clause."), "int32")
MASK, LAST = pretraining.mask(words), words.vocabulary + pretraining.SENTINELS


def shown(tokens, special):
    """The tokens as text, a bar between them."""
    return "|".join(special(t) if t >= words.vocabulary else words.decode([t]) or "[end]" for t in tokens)


def sentinel(t):
    return f"<{LAST - t}>"


print("GPT reads ", shown(ids[:-1], sentinel))
print("   guesses", shown(ids[1:], sentinel))
hidden, wanted = pretraining.masked(ids, rng, code=words)
print("BERT reads", shown(hidden, lambda t: "[?]"))
print("   guesses", shown(wanted[wanted >= 0], sentinel))
feed, target = pretraining.spans(ids, rng, code=words)
print("T5 reads  ", shown(feed["token_ids"], sentinel))
print("   writes ", shown(target, sentinel))

hidden, wanted = pretraining.masked(np.tile(ids, 400), rng, code=words)
chosen = wanted >= 0
masks, kept = hidden[chosen] == MASK, hidden[chosen] == wanted[chosen]
print(
    f"BERT, of {len(hidden):,} tokens: {chosen.mean():.0%} to guess; of those {masks.mean():.0%} masked,",
    end=" ",
)
print(f"{kept.mean():.0%} as they were, {1 - masks.mean() - kept.mean():.0%} others")
assert abs(chosen.mean() - 0.15) < 0.01
assert abs(masks.mean() - 0.8) < 0.05
assert abs(kept.mean() - 0.1) < 0.04

# %% [markdown]
# ## Where the parameters are
#
# A block of width $c$ has four matrices of attention ($4 c^2$) and two of the small network, which is four times as wide
# ($8 c^2$): $12 c^2$, and some vectors. A table of $v$ tokens has $v c$. For GPT-2: width 768, 12 blocks, 50,257 tokens,
# 1,024 places.


# %%
def gpt_parameters(width, depth, vocabulary, places):
    block = 12 * width**2 + 13 * width  # biases: 4 + 4 + 1 widths; two norms of 2 widths
    return depth * block + vocabulary * width + places * width + 2 * width


def bert_parameters(width, depth, vocabulary, places):
    """As GPT's, and two segments, a norm of the embeddings in the place of the last, and a pooler."""
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
plt.title("The same block, more of it")
plt.show()

# %% [markdown]
# ## A GPT learns to write
#
# A small one, of bytes, on Python's documentation. A hundred steps: it has learnt which letters are frequent, and that
# words end.

# %%
young = zoo.build("gpt-nano", width=64, depth=2, heads=4, vocabulary=259, positions=128)
run = zoo.train(young, "topics", steps=100)
bits = np.array(run.losses) / np.log(2)
plt.plot(bits, color=BLUE, label="this GPT")
plt.axhline(np.log2(259), color="black", linestyle=":", label="knowing nothing: one of 259")
plt.axhline(1.83, color=GREEN, linestyle="--", label="the one below, after minutes")
plt.xlabel("step")
plt.ylabel("bits a byte")
plt.title("A hundred steps of a GPT")
plt.legend(loc="center right")
plt.grid(alpha=0.3)
plt.show()
print(repr(zoo.generate(young, "The value of ", 70, temperature=0.5, seed=1)))
assert bits[-1] < 5.5 < bits[0]

# %% [markdown]
# The zoo ships one of half a million parameters, trained for some minutes on 419 thousand characters. It writes a byte
# at a time: the likeliest ones more often, by a `temperature` that sharpens (below 1) or flattens (above 1) the
# probabilities. The random numbers are the zoo's own: the same seed writes the same text on each framework.

# %%
gpt = zoo.build("gpt-nano", weights="topics")
for temperature in (0.5, 0.8, 1.5):
    print(f"--- temperature {temperature}")
    print(zoo.generate(gpt, "The value of ", 100, temperature=temperature, seed=1))
(shipped,) = zoo.pretrained.of("gpt-nano")
metrics = shipped.card()["metrics"]
print(
    f"--- held out: {metrics['bits_per_character']:.2f} bits a character, perplexity {metrics['perplexity']:.2f}"
)
text = zoo.generate(gpt, "The value of ", 40, temperature=0.5, seed=1)
assert text == 'the "__getattr__()" and "__dict__" with '  # on PyTorch, TensorFlow and JAX

# %% [markdown]
# A perplexity of 3.6 means: the model wavers as if between 3.6 equally likely bytes. At temperature 0 it always takes the
# likeliest; **beam search** keeps several texts and takes the likeliest whole.

# %%
for how in ({"temperature": 0}, {"beams": 4}):
    print(how, repr(zoo.generate(gpt, "the exception is ", 30, **how)))

# %% [markdown]
# ## A ViT looks
#
# An image of 16 x 16 pixels is cut into patches of 4 x 4: sixteen tokens, and one more, the class token, from which the
# answer is read. Nothing tells the model that images are flat, but for the positions it learns.

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
    axis.set_title(f"head {i}: where the\nclass token looks")
for axis in axes:
    axis.axis("off")
plt.show()
assert np.allclose(weights.sum(-1), 1, atol=1e-5)

# %% [markdown]
# ## Exercises
#
# **1.** How many parameters has ViT-B/16? Width 768, 12 blocks as in GPT, patches of 16 x 16 pixels in three colours, 196
# of them and the class token, 1,000 classes.

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
# **2.** A GPT that knows nothing spreads its guess over 256 bytes. How many bits a byte is that, and which perplexity?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
bits = np.log2(256)
print(bits, "bits, perplexity", 2**bits)
assert (bits, 2**bits) == (8, 256)
assert metrics["bits_per_character"] < bits / 4  # what some minutes of training taught ours

# %% [markdown]
# ## Go on with
#
# - The next chapter: [optimizers, raced](08-optimizers.ipynb)
# - Devlin et al. 2018, [BERT](https://arxiv.org/abs/1810.04805); Raffel et al. 2019,
#   [T5](https://arxiv.org/abs/1910.10683); Dosovitskiy et al. 2020, [ViT](https://arxiv.org/abs/2010.11929)
# - Andrej Karpathy, [nanoGPT](https://github.com/karpathy/nanoGPT): three hundred lines that train GPT-2
# - [Dive into Deep Learning](https://d2l.ai/chapter_natural-language-processing-pretraining/index.html), chapter 15
# - CS224n, [Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
