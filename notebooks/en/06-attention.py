# %% [markdown]
# # 6 Attention, step by step
#
# **What you will see.** Attention in five lines of NumPy: queries are compared with keys, softmax turns the scores into
# weights, and the values are averaged. Then each part separately: why the scores are divided by a square root, what
# masks do, why attention ignores the order of words and three ways to encode position, and what the heads of a small
# pretrained GPT attend to.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## A soft dictionary
#
# A dictionary finds the one key that equals your query, and returns its value. Attention does this softly: it compares
# the query $q$ with every key $k_j$ by a dot product, turns the scores into weights that sum to 1, and returns the
# weighted mean of the values $v_j$. For all queries at once, as rows of $Q$ (Vaswani et al. 2017, equation 1):
#
# $$A = \mathrm{softmax}\!\left(\frac{Q K^T}{\sqrt d}\right), \qquad Y = A V$$
#
# Each row of $A$ belongs to one query and contains the weight of each key. $d$ is the dimension of queries and keys.


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
# The longer the query vector, the sharper the softmax: at length 10 it is nearly a dictionary lookup.
#
# ## Why the scores are divided by the square root of d
#
# A score is a sum of $d$ products. If the entries of queries and keys have standard deviation 1, the score has standard
# deviation $\sqrt d$. With $d = 64$, scores of 8 and -8 are common; softmax then puts all weight on one key, and its
# derivative, which is about $A (1 - A)$, is nearly zero, so nothing is learned. Divided by $\sqrt d$, the scores have
# standard deviation 1 for every $d$.

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
# ## Masks
#
# A mask excludes keys: their scores become $-\infty$ and their weights 0. A **padding mask** excludes the padding of
# short texts. A **causal mask** excludes later tokens, so that a generative model cannot see the token it has to
# predict. In **self-attention**, queries, keys and values are computed from the same sequence.

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
# ## Multi-head attention, and the zoo's layer
#
# One head has one notion of similarity. Multi-head attention computes queries, keys and values with learned matrices,
# splits them into heads, lets each head attend separately, and combines the results with one more matrix. BERT, GPT, T5
# and ViT in the zoo use `zoo.layers.attention`. Here it is compared with our five lines.

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
# ## Attention ignores order
#
# Shuffle the words, and attention gives the same vectors, shuffled: every word is compared with every other, whatever
# their positions. To attention, "dog bites man" and "man bites dog" are the same bag of words.

# %%
shuffled = rng.permutation(n)
straight, _ = attend(x, x, x)
mixed, _ = attend(x[shuffled], x[shuffled], x[shuffled])
print(f"shuffling before or after attention differs by {np.abs(mixed - straight[shuffled]).max():.0e}")
assert np.allclose(mixed, straight[shuffled])

# %% [markdown]
# So position must be encoded. The zoo has three ways to do it:
#
# - **sinusoidal positional encoding** (the first Transformer): sines and cosines of many wavelengths are added to the
#   word's vector; a shift in position is a rotation, the same at every position;
# - **learned positional embeddings** (BERT, GPT, ViT): a trainable vector for each position is added;
# - **relative position biases** (T5): nothing is added to the word vectors; each head has a learned number for each
#   *distance*, which is added to the score. Short distances have one number each, long distances share "buckets".

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
# ## What a trained head attends to
#
# The zoo includes a small GPT pretrained on the text of Python's documentation, byte by byte. We plot what two of its
# heads attend to when they read a phrase. The weights are computed as above, from the queries and keys inside the
# model.

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
# ## Exercises
#
# **1.** How many multiplications does self-attention with one head of dimension $d$ need for $n$ tokens, in $Q K^T$ and
# $A V$? What happens when the text is twice as long?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# Each of the n x n scores is a sum of d products, and so is the mean of the values: 2 n^2 d. Four times as many.
products = lambda n, d: 2 * n * n * d
print(products(1000, 64))
assert products(2000, 64) == 4 * products(1000, 64)

# %% [markdown]
# **2.** What does attention return when all queries are zero?

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
# ## Further reading
#
# - The next chapter: [BERT, GPT, T5 and ViT](07-transformers.ipynb)
# - Vaswani et al. 2017, [Attention Is All You Need](https://arxiv.org/abs/1706.03762)
# - [Dive into Deep Learning](https://d2l.ai/chapter_attention-mechanisms-and-transformers/index.html), chapter 11
# - CS224n, [Natural Language Processing with Deep Learning](https://web.stanford.edu/class/cs224n/)
# - Jay Alammar, [The Illustrated Transformer](https://jalammar.github.io/illustrated-transformer/)
