# %% [markdown]
# # 5 Recurrent networks
#
# **What you will see.** A network that reads a sequence step by step and keeps a state. The update equations of LSTM
# and GRU in a few lines, checked against the zoo's layers. Why a plain recurrent network forgets, in a plot. Then three
# applications: identifying the language of a name, translating dates, and recognizing spoken digits with CTC.

# %%
import os

import matplotlib.pyplot as plt
import numpy as np

import zoo
from zoo import layers
from zoo.tasks import ctc, spectrogram, speech

zoo.use(os.environ.get("KERAS_BACKEND", "torch"))  # or "tensorflow", "jax": the numbers stay the same
zoo.show.use_fonts()  # labels may be in Chinese

import keras

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"  # colour-blind-safe palette
numpy = keras.ops.convert_to_numpy

# %% [markdown]
# ## The same update at every step
#
# A recurrent neural network (RNN) has a state $h$ and applies one update at every time step: $h_t = \tanh(W x_t + U
# h_{t-1} + b)$. The weights are the same at each step, so sequences may have any length.
#
# Long short-term memory (LSTM) adds a cell state $c$, which can carry information over many steps, and three gates,
# each a sigmoid between closed (0) and open (1):
#
# $$i, f, o = \sigma(\ldots), \quad g = \tanh(\ldots), \quad c_t = f \cdot c_{t-1} + i \cdot g, \quad h_t = o \cdot
# \tanh c_t$$
#
# The input gate $i$ controls what is added to the cell, the forget gate $f$ what is kept, the output gate $o$ what is
# exposed. Each "$\ldots$" is $W x_t + U h_{t-1} + b$ with its own weights. A gated recurrent unit (GRU) has two gates
# and no cell: the reset gate $r$ controls how much of the state enters the candidate $n$, the update gate $z$ how much
# of the old state is kept.
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
# The zoo's layers have the same weights by name, so we can compare them. A **bidirectional** network has a second layer
# that reads from the end, with its own weights: at each position it also knows what comes after.

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
# How much does the last state still depend on the input of fifty steps before? In the backward pass, the plain network
# multiplies by $U^T$ and by tanh's derivative at every step: after fifty steps the gradient has vanished, or exploded,
# and the network cannot learn what to remember. The LSTM's cell is multiplied by the forget gate alone: 0.73 with a
# bias of 1, the initial value here; a trained gate may come close to 1, as with a bias of 5.
#
# These derivatives need no framework. Add a tiny imaginary number, $10^{-30} \mathrm i$, to an input: the imaginary
# part of the result, divided by $10^{-30}$, is the derivative (the "complex-step" method).


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
# ## Language identification
#
# The input is three names of places, months or languages: which of twenty languages are they in? The model reads bytes.
# An embedding maps each byte to a vector, an LSTM processes the vectors, and its last state is classified. Short texts
# are padded, and padding changes no result: the state stays what it was at the end of the text. Here we train a small
# model for some seconds; `zoo train lstm` takes some minutes and is more accurate.

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
# ## Translating dates
#
# An encoder reads the date byte by byte, in both directions; a decoder generates the date in ISO 8601 format. Before
# each output character the decoder attends to the encoder's outputs: this is attention (chapter 6) in its first form. A
# small network gives every position $j$ of the source a score, computed from the decoder's state $h$ and the encoder
# output $m_j$: $e_j = v \cdot \tanh(W h + U m_j)$. The softmax of the scores is the weight of each position (Bahdanau
# et al. 2014). The zoo includes a small pretrained model.

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
# For the year and the day the decoder attends to the corresponding digits; for the month, the 11 of November, to the
# first letters of the word.
#
# ## Speech
#
# A recording is a long sequence of numbers, 8,000 per second here. What we hear are frequencies: so the waveform is cut
# into windows of 25 milliseconds, each converted into the energy of forty frequency bands spaced according to human
# hearing (the mel scale), on a logarithmic scale. The zoo synthesizes spoken digits with a small model of the vocal
# tract, so that nothing has to be downloaded.

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
# The labels do not say which frame belongs to which digit. With connectionist temporal classification (CTC) the network
# predicts a digit or "blank" for each frame, and the loss takes into account every alignment that collapses to the
# target: repeated labels are merged, then blanks are removed. The loss is the negative logarithm of the sum of the
# probabilities of all these alignments, which dynamic programming computes without listing them.

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
# ## Exercises
#
# **1.** How many parameters does an LSTM with $u$ units have that reads $c$ numbers per step? And a GRU? (torch keeps
# two biases for each gate.)

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
u, c = 8, 5
of_lstm, of_gru = 4 * (c * u + u * u + 2 * u), 3 * (c * u + u * u + 2 * u)
print(of_lstm, of_gru)
assert 2 * of_lstm + of_gru == model.count_params()

# %% [markdown]
# **2.** How many alignments does "3 3" have with three frames? With two?

# %% cellView="form" jupyter={"source_hidden": true} tags=["answer"]
# @title Answer
# With three only "3 blank 3": without the blank the two threes would be merged. With two there is none.
print(count_alignments([3, 3], 3), count_alignments([3, 3], 2))
assert (count_alignments([3, 3], 3), count_alignments([3, 3], 2)) == (1, 0)

# %% [markdown]
# **3.** Pad the sequence, and check that the LSTM's states do not change.

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
# ## Further reading
#
# - The next chapter: [attention, step by step](06-attention.ipynb)
# - Christopher Olah, [Understanding LSTM Networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/)
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/rnn.html), chapter 10
# - [Dive into Deep Learning](https://d2l.ai/chapter_recurrent-modern/index.html), chapters 9 and 10
# - Bahdanau, Cho, Bengio 2014, [Neural machine translation by jointly learning to align and
#   translate](https://arxiv.org/abs/1409.0473); Cho et al. 2014, [GRU](https://arxiv.org/abs/1406.1078)
# - Hochreiter, Schmidhuber 1997, [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735); Graves et al. 2006,
#   [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891)
