# %% [markdown]
# # 5 Recurrent networks
#
# **What you will see.** A network that reads a sequence step by step, with a state for memory. The steps of LSTM and GRU in a
# few lines, checked against the zoo's. Why a plain recurrent network forgets, drawn. Then three uses: which language a name
# is in, dates translated, and the spoken digits that CTC turns into text.

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
# ## The same step along the sequence
#
# A recurrent neural network (RNN) has a state $h$, and one step that it takes at every place: $h_t = \tanh(W x_t + U
# h_{t-1} + b)$. The weights are the same at each step, so texts may be of any length.
#
# Long short-term memory (LSTM) adds a cell $c$ that keeps, and three gates, each a sigmoid between "shut" and "open":
#
# $$i, f, o = \sigma(\ldots), \quad g = \tanh(\ldots), \quad c_t = f \cdot c_{t-1} + i \cdot g, \quad h_t = o \cdot
# \tanh c_t$$
#
# The input gate $i$ lets new things in, the forget gate $f$ keeps old ones, the output gate $o$ shows them. Each
# "$\ldots$" is $W x_t + U h_{t-1} + b$ with weights of its own. A gated recurrent unit (GRU) does with two gates and no
# cell: the reset gate $r$ says how much of the state the proposal $n$ sees, the update gate $z$ how much of it stays.
#
# $$r, z = \sigma(\ldots), \quad n = \tanh\bigl(W x_t + b + r \cdot (U h_{t-1} + b')\bigr), \quad h_t = (1 - z) \cdot n + z
# \cdot h_{t-1}$$


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


def gru(x, W, U, b, b_state):
    """The same for a GRU, whose proposal has a second bias within."""
    h, states = np.zeros(len(U)), []
    for x_t in x:
        (r, z, n), (r_h, z_h, n_h) = np.split(x_t @ W + b, 3), np.split(h @ U + b_state, 3)
        r, z = sigmoid(r + r_h), sigmoid(z + z_h)
        h = (1 - z) * np.tanh(n + r * n_h) + z * h
        states.append(h)
    return np.array(states)


# %% [markdown]
# The layers of the zoo have the same weights by name, so they can be asked. A **bidirectional** network has a second
# layer that reads from the end, with weights of its own: at each place it knows what comes after as well.

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
# ## Why gates
#
# How much does the last state still depend on what was read fifty steps before? Backward, the plain network multiplies by
# $U^T$ and by tanh's derivative at every step: after fifty of them next to nothing is left, or far too much, and no
# gradient tells what to remember. The LSTM's cell is multiplied by the forget gate alone: 0.73 with a bias of 1, as it
# starts out here; a trained one may go near 1, as with a bias of 5.
#
# We need no framework for these derivatives. Add a tiny imaginary number, $10^{-30} \mathrm i$, to an input: the imaginary
# part of the result, divided by it, is the derivative (the "complex step").


# %%
def plain(x, W, U, b):
    h, states = np.zeros(len(U)), []
    for x_t in x:
        h = np.tanh(x_t @ W + h @ U + b)
        states.append(h)
    return np.array(states)


def felt(network, steps=50, units=32, forget_bias=0.0):
    """How much the last state moves with the input k steps before it, k = 0 to steps - 1."""
    rng, gates = np.random.default_rng(1), 1 if network is plain else 4
    W, U = rng.normal(0, 1 / np.sqrt(units), (2, units, gates * units))
    b = np.repeat([0.0, forget_bias, 0.0, 0.0][:gates], units)
    x, moved, found = rng.normal(size=(steps, units)), rng.normal(size=units) / np.sqrt(units), []
    for t in range(steps):
        nudged = x.astype(complex)
        nudged[t] += 1e-30j * moved
        found.append(np.linalg.norm(network(nudged, W, U, b)[-1].imag / 1e-30))
    return np.array(found[::-1])


curves = {"plain recurrent network": felt(plain)}
for forget_bias in (1, 5):
    curves[f"LSTM, forget gate near {sigmoid(forget_bias):.2f}"] = felt(lstm, forget_bias=forget_bias)
for (name, curve), color, style in zip(curves.items(), (RED, ORANGE, GREEN), ("-", "--", ":"), strict=True):
    plt.semilogy(curve, color=color, linestyle=style, label=name)
plt.xlabel("steps back")
plt.ylabel("derivative of the last state (norm)")
plt.title("What is still felt of long ago")
plt.legend()
plt.grid(alpha=0.3)
plt.show()
forgets, fresh, keeps = (curve[-1] / curve[0] for curve in curves.values())
print(f"of the last input's share, one 49 steps before has {forgets:.0e}, {fresh:.0e}, {keeps:.1g}")
assert forgets < fresh < keeps
assert keeps > 0.01 > 1e-4 > forgets

# %% [markdown]
# ## Which language?
#
# Three names of places, months or languages: which of twenty languages are they in? The model reads bytes; an embedding
# gives each a row of numbers, an LSTM reads them, and its last state is classified. Short texts are filled up with padding,
# which changes no number: the state stays as it was at the text's end. A small one, for some seconds; `zoo train lstm`
# takes some minutes and gets further.

# %%
small = zoo.build("lstm", width=48, embedding_width=24, vocabulary=259, classes=20)
run = zoo.train(small, "languages", steps=110)
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
# ## Dates, translated
#
# An encoder reads the date byte by byte, from both ends; a decoder writes it as ISO 8601 has it, and before each letter
# looks back at what it needs: attention (chapter 6), here in its first form. A small network gives every place $j$ of the
# source a score from the decoder's state $h$ and what the encoder has there, $m_j$: $e_j = v \cdot \tanh(W h + U m_j)$.
# Their softmax says how much of each place is seen (Bahdanau et al. 2014). The zoo ships a small one, trained.

# %%
translator = zoo.build("seq2seq", weights="dates")
asked = ["24 novembre 2026", "July 4, 2008", "1. Mai 1999", "12 de octubre de 1992"]
for date, iso in zip(asked, zoo.translate(translator, asked), strict=True):
    print(f"{date:24s} {iso}")
assert zoo.translate(translator, asked[:3]) == ["2026-11-24", "2008-07-04", "1999-05-01"]


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def looks(source, written):
    """(letters written, letters of the source): how much the decoder looks at each, by the equation."""
    code, part = zoo.tokenizers.ByteTokenizer(), {v.path: numpy(v) for v in translator.variables}
    feed = {"token_ids": code.encode(source), "decoder_token_ids": [code.begin, *code.encode(written)[:-1]]}
    inside = zoo.features(translator, ["memory", "features", "decoder_first_h"])
    found = inside({name: keras.ops.convert_to_tensor(np.array([i], "int32")) for name, i in feed.items()})
    memory, features, first = (numpy(found[name])[0] for name in ("memory", "features", "decoder_first_h"))
    units = len(first)
    h = np.concatenate([np.tanh(first)[None], features[:-1, :units]])  # before each letter
    asked = h @ part["decoder/query_kernel"]  # (m, units)
    keys = memory @ part["decoder/memory_kernel"]  # (n, units)
    weights = softmax((np.tanh(asked[:, None] + keys) @ part["decoder/score_kernel"])[..., 0])
    assert np.allclose(weights @ memory, features[:, units:], atol=1e-4)  # what the decoder itself saw
    return weights


source, written = "24 novembre 2026", "2026-11-24"
weights = looks(source, written)
plt.figure(figsize=(7, 4))
plt.imshow(weights, cmap="Blues", vmin=0, vmax=1)
plt.xticks(range(len(source)), source)
plt.yticks(range(len(written)), written)
plt.xlabel("letter of the source")
plt.ylabel("letter to be written")
plt.title("Where the decoder looks; dark: there alone")
plt.show()
for letters, places in ((weights[:4], (12, 13, 14, 15)), (weights[8:], (0, 1))):  # the year, the day
    assert tuple(letters.argmax(1)) == places

# %% [markdown]
# For the year and the day it looks at the very digits; for the month, November's 11, at the word's first letters.
#
# ## Speech
#
# A recording is a long row of numbers, 8,000 a second here. The ear hears pitches: so the wave is cut into windows of 25
# milliseconds, each turned into the energy of forty bands, spaced as we hear, and the logarithm taken. The zoo makes
# digits "spoken" by a small model of a throat, so that nothing must be downloaded.

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
# Which frame is which digit, nobody says. Connectionist temporal classification (CTC) lets the network tell for each frame
# a digit or "blank", and counts every way of telling that reads as the right text: repeats become one, then blanks go.
# The loss is minus the log of the sum of all their probabilities, which a table finds without listing them.

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
# ## Exercises
#
# **1.** How many parameters has an LSTM of $u$ units that reads $c$ numbers a step? And a GRU? (torch keeps two biases for
# each gate.)

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
u, c = 8, 5
of_lstm, of_gru = 4 * (c * u + u * u + 2 * u), 3 * (c * u + u * u + 2 * u)
print(of_lstm, of_gru)
assert 2 * of_lstm + of_gru == model.count_params()

# %% [markdown]
# **2.** How many ways are there to tell "3 3" in three frames? In two?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# In three only "3 blank 3": without the blank the two threes would be read as one. In two there is none.
print(ways([3, 3], 3), ways([3, 3], 2))
assert (ways([3, 3], 3), ways([3, 3], 2)) == (1, 0)

# %% [markdown]
# **3.** Fill the sequence up with padding, and check that the LSTM's states do not change.

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
lengths = layers.Input((), dtype="int32")
masked = layers.Model([sequence, lengths], layers.lstm(sequence, 8, lengths=lengths, name="lstm")[0])
masked.set_weights([w[v.path] for v in masked.variables])
longer = np.concatenate([x, rng.normal(size=(7, 5)).astype("float32")])[None]  # seven steps of anything
padded = numpy(masked([keras.ops.convert_to_tensor(a) for a in (longer, np.array([12], "int32"))]))[0]
print(
    f"the states differ by {np.abs(padded[:12] - by_zoo[0]).max():.0e}, behind them {np.abs(padded[12:]).max()}"
)
assert np.allclose(padded[:12], by_zoo[0], atol=1e-6)
assert np.all(padded[12:] == 0)

# %% [markdown]
# ## Go on with
#
# - The next chapter: [attention, step by step](06-attention.ipynb)
# - Christopher Olah, [Understanding LSTM Networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/)
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/rnn.html), chapter 10
# - [Dive into Deep Learning](https://d2l.ai/chapter_recurrent-modern/index.html), chapters 9 and 10
# - Bahdanau, Cho, Bengio 2014, [Neural machine translation by jointly learning to align and
#   translate](https://arxiv.org/abs/1409.0473); Cho et al. 2014, [GRU](https://arxiv.org/abs/1406.1078)
# - Hochreiter, Schmidhuber 1997, [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735); Graves et al. 2006,
#   [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891)
