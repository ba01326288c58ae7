# %% [markdown]
# # 5 Recurrent networks
#
# **What you will see.** A network that reads a sequence step by step, with a state for memory. The LSTM's cell in six lines,
# checked against the zoo's. Why a plain recurrent network forgets, drawn. Then three uses: which language a name is in,
# dates translated, and the spoken digits that CTC turns into text.

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
# cell beside the state.


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
# ## Why gates
#
# How much does the last state still depend on the input fifty steps before? Backward, the plain network multiplies by
# $U^T$ and by tanh's derivative at every step: after fifty of them next to nothing is left, or far too much, and no
# gradient tells what to remember. The LSTM's cell is multiplied by the forget gate only. With its bias at 1, as it starts
# out, the gate is about 0.73; a trained one may stay at 1.


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
# ## Which language?
#
# Three names of places, months or languages: which of twenty languages are they in? The model reads bytes; an embedding
# gives each a row of numbers, an LSTM reads them, and its last state is classified. Short texts are filled up with padding,
# which changes no number: the state stays as it was at the text's end. A small one, for some seconds; `zoo train lstm`
# takes some minutes and gets further.

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
# A **bidirectional** network reads from both ends and sees, at each place, what comes after as well: `zoo.build("birnn")`.
#
# ## Dates, translated
#
# An encoder reads the date byte by byte, both ways; a decoder writes ISO 8601, and at each letter looks back at what it
# needs, by attention (chapter 6). The zoo ships a small one, trained.

# %%
translator = zoo.build("seq2seq", weights="dates")
asked = ["24 novembre 2026", "July 4, 2008", "1. Mai 1999", "12 de octubre de 1992"]
for date, iso in zip(asked, zoo.translate(translator, asked), strict=True):
    print(f"{date:24s} {iso}")
assert zoo.translate(translator, asked[:3]) == ["2026-11-24", "2008-07-04", "1999-05-01"]

# %% [markdown]
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
assert of_lstm == model.count_params()
gru = layers.Model(sequence, layers.gru(sequence, u, name="gru")[0])
assert of_gru == gru.count_params()

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
masked.set_weights(model.get_weights())
longer = np.concatenate([x, rng.normal(size=(7, 5)).astype("float32")])[None]
padded = numpy(
    masked([keras.ops.convert_to_tensor(longer), keras.ops.convert_to_tensor(np.array([12], "int32"))])
)[0]
print(np.abs(padded[:12] - by_zoo).max(), np.abs(padded[12:]).max())
assert np.allclose(padded[:12], by_zoo, atol=1e-6)
assert np.all(padded[12:] == 0)

# %% [markdown]
# ## Go on with
#
# - The next chapter: [attention, step by step](06-attention.ipynb)
# - Christopher Olah, [Understanding LSTM Networks](https://colah.github.io/posts/2015-08-Understanding-LSTMs/)
# - Goodfellow, Bengio, Courville, [Deep Learning](https://www.deeplearningbook.org/contents/rnn.html), chapter 10
# - [Dive into Deep Learning](https://d2l.ai/chapter_recurrent-modern/index.html), chapters 9 and 10
# - Hochreiter, Schmidhuber 1997, [Long Short-Term Memory](https://doi.org/10.1162/neco.1997.9.8.1735); Graves et al. 2006,
#   [Connectionist Temporal Classification](https://doi.org/10.1145/1143844.1143891)
