"""Recurrent networks: one cell, applied at every step, keeps a state that summarizes the inputs so far.

Hochreiter and Schmidhuber 1997, "Long short-term memory", https://doi.org/10.1162/neco.1997.9.8.1735, with
the forget gate of Gers, Schmidhuber and Cummins 2000:

    i, f, o = sigmoid(x_t W + h_(t-1) U + b)      g = tanh(x_t W + h_(t-1) U + b)      each its own W, U, b
    c_t = f c_(t-1) + i g      h_t = o tanh(c_t)

Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder", arXiv:1406.1078:

    r, z = sigmoid(x_t W + h_(t-1) U + b)      n = tanh(x_t W + b + r (h_(t-1) U + b'))
    h_t = (1 - z) n + z h_(t-1)

Sentences are UTF-8 bytes with the token ids of `zoo.tasks.sequences`; token 0 after the end is padding.
Axes: b batch, n length, c channels, u units of the cell.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo._lazy import ops
from zoo.errors import WrongConfiguration, nearest
from zoo.layers import (
    Input,
    Model,
    TokenModel,
    attention_decoder,
    blank_padding,
    conv,
    dense,
    dropout,
    embedding,
    flatten_steps,
    gru,
    intermediate,
    lengths,
    lstm,
    relu,
    tanh,
    variational_dropout,
    zero_padding,
)
from zoo.registry import register

if TYPE_CHECKING:
    import keras

    Tensor = Any

CELLS = {"lstm": lstm, "gru": gru}
HEADS = ("classifier", "tagger", "language_model")


def recurrent(
    cell: str = "lstm",
    *,
    bidirectional: bool = False,
    head: str = "classifier",
    width: int = 128,
    depth: int = 1,
    embedding_width: int = 64,
    dropout_rate: float = 0.0,
    variational: bool = False,
    vocabulary: int = 259,
    classes: int = 20,
) -> keras.Model:
    """Build a recurrent network over tokens (b, n).

    The `head` is a "classifier" of whole sequences from their last states (b, classes), a "tagger" of every
    token (b, n, classes), or a "language_model" for next-token prediction (b, n, vocabulary). Dropout is
    applied to the inputs of each layer and the head; with `variational`, with one mask for all steps. Raises
    WrongConfiguration for another cell or head, or a bidirectional language model.
    """
    if cell not in CELLS:
        raise WrongConfiguration(f"recurrent: cell={cell!r}; {nearest(cell, CELLS)}")
    if head not in HEADS:
        raise WrongConfiguration(f"recurrent: head={head!r}; {nearest(head, HEADS)}")
    if head == "language_model" and bidirectional:
        raise WrongConfiguration(
            "recurrent: bidirectional=True, but a language model must not see later tokens; expected "
            "bidirectional=False"
        )
    drop = variational_dropout if variational else dropout
    tokens = Input((None,), dtype="int32", name="token_ids")  # (b, n)
    real = lengths(tokens)  # (b,)
    x = embedding(tokens, vocabulary, embedding_width, name="embedding")  # (b, n, c)
    last = x
    for i in range(1, depth + 1):
        x = drop(x, dropout_rate, name=f"dropout{i}")
        directions = ("forward", "backward") if bidirectional else ("forward",)
        layers = [
            CELLS[cell](x, width, lengths=real, reverse=way == "backward", name=f"layer{i}_{way}")
            for way in directions
        ]
        x = join([outputs for outputs, *_ in layers])  # (b, n, u) or (b, n, 2u)
        last = join([states[0] for _, *states in layers])  # (b, u) or (b, 2u)
        x = intermediate(x, f"layer{i}")
    x = intermediate(last if head == "classifier" else x, "features")
    x = (dropout if head == "classifier" else drop)(x, dropout_rate, name="dropout")
    logits = dense(x, vocabulary if head == "language_model" else classes, name="head")
    return TokenModel({"token_ids": tokens}, logits)


def join(parts: list[Tensor]) -> Tensor:
    """The outputs of both directions, concatenated."""
    return ops.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def seq2seq(
    *,
    width: int = 128,
    embedding_width: int = 64,
    dropout_rate: float = 0.0,
    vocabulary: int = 259,
) -> keras.Model:
    """Build an encoder-decoder with attention that returns the logits of the next token, (b, m, vocabulary).

    Bahdanau et al. 2014, arXiv:1409.0473: a bidirectional encoder, and a decoder that attends to the
    encoder's outputs before each step. Its inputs are `token_ids` (b, n), the source, and `decoder_token_ids`
    (b, m), the translation up to the previous token (teacher forcing); `zoo.translate` passes its own output.
    """
    tokens = Input((None,), dtype="int32", name="token_ids")  # (b, n)
    target = Input((None,), dtype="int32", name="decoder_token_ids")  # (b, m)
    real = lengths(tokens)  # (b,)
    x = embedding(tokens, vocabulary, embedding_width, name="encoder_embedding")  # (b, n, c)
    x = dropout(x, dropout_rate, name="encoder_dropout")
    forward, _, _ = lstm(x, width, lengths=real, name="encoder_forward")  # (b, n, u)
    backward, first, _ = lstm(x, width, lengths=real, reverse=True, name="encoder_backward")
    encoded = intermediate(join([forward, backward]), "memory")  # (b, n, 2u)
    # The backward LSTM ends at the first token; the decoder starts from its last state (appendix A.2.2).
    states = [tanh(dense(first, width, name=f"decoder_first_{state}")) for state in ("h", "c")]  # (b, u)
    y = embedding(target, vocabulary, embedding_width, name="decoder_embedding")  # (b, m, c)
    y = dropout(y, dropout_rate, name="decoder_dropout")
    y = attention_decoder(
        y, width, encoder_output=encoded, lengths=real, states=states, name="decoder"
    )  # (b, m, 3u)
    y = dropout(intermediate(y, "features"), dropout_rate, name="dropout")
    inputs = {"token_ids": tokens, "decoder_token_ids": target}
    return TokenModel(inputs, dense(y, vocabulary, name="head"))  # (b, m, vocabulary)


def speech(
    *,
    width: int = 128,
    filters: int = 32,
    dropout_rate: float = 0.0,
    mels: int = 40,
    classes: int = 11,
) -> keras.Model:
    """Build a speech recognizer with CTC: the logits of a letter or blank per 40 ms (b, n/4, classes).

    Graves et al. 2006, "Connectionist temporal classification", https://doi.org/10.1145/1143844.1143891; with
    two strided convolutions before the recurrent layers, as Amodei et al. 2015, arXiv:1512.02595. Its input
    is log-mel frames (b, n, mels), all zeros after the end. Class 0 is the blank, with probability 1 in the
    padding.
    """
    frames = Input((None, mels), name="frames")  # (b, n, 40)
    real = lengths(frames)  # (b,)
    x = ops.expand_dims(frames, -1)  # (b, n, 40, 1)
    for i in (1, 2):
        x = relu(conv(x, filters, 3, 2, name=f"conv{i}"))  # (b, n/2, 20, f), (b, n/4, 10, f)
        real = (real + 1) // 2
        x = zero_padding(x, real)
    x = flatten_steps(x)  # (b, n/4, 10 f)
    directions = [
        lstm(x, width, lengths=real, reverse=way == "backward", name=way)[0]
        for way in ("forward", "backward")
    ]
    x = dropout(intermediate(join(directions), "features"), dropout_rate, name="dropout")  # (b, n/4, 2u)
    return Model(frames, blank_padding(dense(x, classes, name="head"), real))  # (b, n/4, classes)


# Name, cell, whether bidirectional, parameters as counted in torch.nn (Embedding(259, 64), LSTM or GRU(64,
# 128), Linear), multiply-adds of one step, paper, URL, year, idea.
SMALL = {"width": 8, "embedding_width": 6, "vocabulary": 11, "dropout_rate": 0.1}
VARIANTS = (
    (
        "lstm", "lstm", False, 118_484, 100_864,
        'Hochreiter, Schmidhuber 1997, "Long short-term memory"',
        "https://doi.org/10.1162/neco.1997.9.8.1735", 1997,
        "Gates control what a cell reads, keeps and outputs.",
    ),
    (
        "gru", "gru", False, 93_652, 76_288,
        'Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder"',
        "https://arxiv.org/abs/1406.1078", 2014,
        "Two gates instead of three; the state is also the output.",
    ),
    (
        "birnn", "lstm", True, 220_372, 201_728,
        'Schuster, Paliwal 1997, "Bidirectional recurrent neural networks"',
        "https://doi.org/10.1109/78.650093", 1997,
        "Read in both directions, so that every step depends on the whole sequence.",
    ),
)  # fmt: skip
for name, cell, bidirectional, parameters, multiply_adds, paper, url, year, idea in VARIANTS:
    register(
        name,
        recurrent,
        parameters=parameters,
        multiply_adds=multiply_adds,
        fixed_input=(None,),
        small={**SMALL, "classes": 3},
        about={
            "paper": paper,
            "url": url,
            "year": year,
            "idea": idea,
            "task": "languages",
            "recipe": "recurrent",
        },
        cell=cell,
        bidirectional=bidirectional,
    )
register(
    "seq2seq",
    seq2seq,
    parameters=643_715,
    multiply_adds=607_488,
    fixed_input=(None,),
    small=SMALL,
    about={
        "paper": 'Bahdanau, Cho, Bengio 2014, "Neural machine translation by jointly learning to align and '
        'translate"',
        "url": "https://arxiv.org/abs/1409.0473",
        "year": 2014,
        "idea": "A decoder that attends to the encoder's outputs before each letter.",
        "task": "dates",
        "recipe": "seq2seq",
    },
)
register(
    "speech",
    speech,
    parameters=473_195,
    multiply_adds=559_488,
    fixed_input=(None, 40),
    small={"width": 8, "filters": 4, "mels": 8, "classes": 4, "dropout_rate": 0.1},
    about={
        "paper": 'Graves, Fernandez, Gomez, Schmidhuber 2006, "Connectionist temporal classification"',
        "url": "https://doi.org/10.1145/1143844.1143891",
        "year": 2006,
        "idea": "A letter or blank for every frame; the loss sums over all alignments (CTC).",
        "task": "spoken-digits",
        "recipe": "speech",
    },
)
