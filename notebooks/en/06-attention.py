# %% [markdown]
# # 6 Attention, step by step
#
# **What you will see.** Attention in five lines of NumPy: queries meet keys, softmax makes weights of the scores, and
# values are averaged. Then each part by itself: why the scores are divided by a root, what masks hide, why attention
# does not know the order of words and three ways to tell it, and what the heads of a small trained GPT look at.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # told apart by the colour-blind
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## A soft dictionary
#
# A dictionary finds the one key that equals your query, and returns its value. Attention is soft: it compares the query
# $q$ with every key $k_j$ by a product, turns the scores into weights that add up to 1, and returns the weighted mean of
# the values $v_j$. For all queries at once, as rows of $Q$ (Vaswani et al. 2017, equation 1):
#
# $$A = \mathrm{softmax}\!\left(\frac{Q K^T}{\sqrt d}\right), \qquad Y = A V$$
#
# Each row of $A$ belongs to one query: how much it looks at each key. $d$ is the length of a query.


# %%
def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))  # the largest becomes 1: nothing overflows
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
# The longer the query, the harder the softmax: at length 10 it is nearly a dictionary.
#
# ## Why divide by the root of d
#
# A score is a sum of $d$ products. If queries and keys have entries of deviation 1, the score has deviation $\sqrt d$:
# with $d = 64$ scores of 8 and -8 are common, softmax then puts all weight on one key, and its derivative, which is
# about $A (1 - A)$, is nearly zero: nothing is learnt. Divided by $\sqrt d$ the scores have deviation 1 for every $d$.

# %%
rng = np.random.default_rng(0)
lengths, largest = (4, 16, 64, 256, 1024), {"divided by the root of d": [], "not divided": []}
for d in lengths:
    q, k = rng.normal(size=(2, 200, 20, d))
    scores = q @ np.swapaxes(k, -1, -2)
    largest["divided by the root of d"].append(softmax(scores / np.sqrt(d)).max(-1).mean())
    largest["not divided"].append(softmax(scores).max(-1).mean())
for (label, y), color, marker in zip(largest.items(), (BLUE, RED), "os", strict=True):
    plt.semilogx(lengths, y, color=color, marker=marker, label=label)
plt.xlabel("length d of queries and keys")
plt.ylabel("mean largest weight, of 20 keys")
plt.title("Without the root, attention looks at one key only")
plt.ylim(0, 1)
plt.legend()
plt.grid(alpha=0.3)
plt.show()
assert largest["not divided"][-1] > 0.9
assert np.ptp(largest["divided by the root of d"]) < 0.05

# %% [markdown]
# ## Masks
#
# A mask takes keys away: their scores become $-\infty$, their weights 0. A **padding mask** hides the zeros that fill up
# a short text. A **causal mask** hides what comes later, so that a model that writes cannot peep at the word it is to
# guess. In **self-attention**, queries, keys and values are made of the same sequence.

# %%
n = 6
x = rng.normal(size=(n, 8))
causal = np.tril(np.ones((n, n), bool))  # row i sees columns 0 to i
padding = np.arange(n) < 4  # two places at the end are empty
figure, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
for axis, (title, mask) in zip(
    axes,
    {"no mask": None, "causal mask": causal, "padding mask": np.broadcast_to(padding, (n, n))}.items(),
    strict=True,
):
    _, weights = attend(x, x, x, mask)
    shown = axis.imshow(weights, cmap="Blues", vmin=0, vmax=1)
    axis.set(title=title, xlabel="key (place)", ylabel="query (place)")
    assert np.allclose(weights.sum(-1), 1)
bar = figure.colorbar(shown, ax=axes)
bar.ax.set(ylabel="weight", xlabel=" ")
plt.show()

# %% [markdown]
# ## Many heads, and the zoo's own
#
# One head has one notion of likeness. Multi-head attention makes queries, keys and values by learnt matrices, cuts them
# into heads, lets each attend by itself, and mixes the results by one more matrix. `zoo.layers.attention` is what BERT,
# GPT, T5 and ViT of the zoo are made of. Here it is, against our five lines.

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
# ## Attention does not know the order
#
# Shuffle the words, and attention gives the same vectors, shuffled: every word meets every other, wherever it stands.
# "Dog bites man" and "man bites dog" are one bag of words to it.

# %%
shuffled = rng.permutation(n)
straight, _ = attend(x, x, x)
mixed, _ = attend(x[shuffled], x[shuffled], x[shuffled])
print(f"shuffled before, or after: {np.abs(mixed - straight[shuffled]).max():.0e} apart")
assert np.allclose(mixed, straight[shuffled])

# %% [markdown]
# So the place must be said. Three ways, each in the zoo:
#
# - **sinusoidal positional encoding** (the first Transformer): fixed waves of many lengths are added to the word's vector;
#   a shift in place is a rotation, the same at every place;
# - **learnt positions** (BERT, GPT, ViT): a trainable vector for each place is added;
# - **relative positions** (T5): nothing is added to the words; each head has a learnt number for each *distance*, added to
#   the score. Near distances have one each, far ones share "buckets".

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
left.set(xlabel="place", ylabel="channel", title="Sinusoidal positions: sines above, cosines below")
near = waves @ waves.T
for place, color, style in ((20, BLUE, "-"), (50, ORANGE, "--"), (80, GREEN, ":")):
    right.plot(near[place], color=color, linestyle=style, label=f"place {place}")
right.set(xlabel="the other place", ylabel="product of the two encodings", title="Near places are alike")
right.legend()
plt.show()
assert np.allclose(np.diag(near), 16, atol=1e-3)

# %%
# T5's buckets, seen through a table that holds their numbers in the place of what is learnt.
read = layers.Input((200, 8))
relative = layers.Model(read, layers.relative_positions(read, 1, causal=True, name="relative"))
relative.set_weights([np.arange(32.0)[:, None]])
bucket = relative.predict(np.zeros((1, 200, 8)), verbose=0)[0, 0, -1, ::-1]  # of the last word's looks back
figure, axis = plt.subplots(figsize=(7, 3.2), layout="constrained")
axis.step(range(200), bucket, where="post", color=BLUE)
axis.set(xlabel="distance, words back", ylabel="bucket", title="T5: 32 numbers a head for all distances")
plt.show()
assert np.array_equal(bucket[:17], range(17))  # the near ones by themselves
assert set(bucket[128:]) == {31}  # the far ones together

# %% [markdown]
# ## What a trained head looks at
#
# The zoo ships a small GPT that has read the text of Python's documentation, byte by byte. We ask two of its heads what
# they look at when they read a phrase. The weights are made as above, of the queries and keys inside the model.

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
    axis.set(title=title, xlabel="key: the byte looked at", ylabel="query: the byte read")
    axis.set_xticks(range(count), letters)
    axis.set_yticks(range(count), letters)
bar = figure.colorbar(shown, ax=axes)
bar.ax.set(ylabel="weight", xlabel=" ")
plt.show()
back = [
    (head * (np.arange(count)[:, None] - np.arange(count))).sum(-1)[8:].mean() for head in (*first, *third)
]
print("each head looks back by", [f"{mean:.1f}" for mean in back], "bytes in the mean")
assert np.allclose(third.sum(-1), 1)
assert max(back) > 2 * min(back)  # some look near, some far

# %% [markdown]
# ## Exercises
#
# **1.** How many multiplications does self-attention of one head take for $n$ tokens of width $d$, in $Q K^T$ and $A V$?
# What happens when the text is twice as long?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Each of the n x n scores is a sum of d products, and so is the mean of the values: 2 n^2 d. Four times as many.
products = lambda n, d: 2 * n * n * d
print(products(1000, 64))
assert products(2000, 64) == 4 * products(1000, 64)

# %% [markdown]
# **2.** Let all queries be zero. What does attention return?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# All scores are 0, all weights 1/m: the plain mean of the values.
found, _ = attend(np.zeros((2, 8)), x, x)
print(np.abs(found - x.mean(0)).max())
assert np.allclose(found, x.mean(0))

# %% [markdown]
# **3.** Show that, with a causal mask, changing the last word changes no vector but the last.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
other = x.copy()
other[-1] += 1
before, after = (attend(z, z, z, causal)[0] for z in (x, other))
print(np.abs(after - before).max(-1).round(3))
assert np.array_equal(before[:-1], after[:-1])
assert not np.allclose(before[-1], after[-1])

# %% [markdown]
# ## Go on with
#
# - The next chapter: [BERT, GPT, T5 and ViT](07-transformers.ipynb)
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762)
# - [Dive into Deep Learning](https://d2l.ai/chapter_attention-mechanisms-and-transformers/index.html), chapter 11
# - CS224n, [Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
# - Jay Alammar, [The Illustrated Transformer](https://jalammar.github.io/illustrated-transformer/)
