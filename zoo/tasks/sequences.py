"""Sequences of different lengths: batches of similar lengths, padded to the longest.

Text is its UTF-8 bytes. Token 0 is padding, 1 ends a text, 2 starts a decoder's output, and byte v is v + 3:
the token ids of ByT5 (Xue et al. 2022, arXiv:2105.13626, section 3), whose 2 is "unknown".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import zoo.tasks.speech as speech
from zoo.errors import WrongConfiguration
from zoo.tasks.images import held_out
from zoo.tasks.spectrogram import log_mel, normalized

PADDING, END, BEGIN = 0, 1, 2
BYTES = 3  # byte v is token v + BYTES
VOCABULARY = 256 + BYTES

Change = Callable[[Any, int], Any]  # (example, its position in the batch) -> example

BUCKETS = 4  # lengths that batches are padded to: each needs a compiled program
MULTIPLE = 4  # they are multiples of this


def encode(text: str) -> np.ndarray:
    """The tokens of a text, int32."""
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32) + BYTES


def decode(tokens: Sequence[int] | np.ndarray) -> str:
    """The text of tokens up to the first END, other than bytes ignored; invalid UTF-8 becomes U+FFFD."""
    found = np.asarray(tokens).ravel()
    found = found[: int(np.argmax(found == END))] if (found == END).any() else found
    return bytes(int(v) - BYTES for v in found if BYTES <= v < VOCABULARY).decode(errors="replace")


def unchanged(item: Any, position: int) -> Any:
    """The identity."""
    del position
    return item


class Tokenizer(Protocol):
    """Turns texts into token ids below `vocabulary`: `BYTE_TOKENIZER`, or one of `zoo.tokenizers`."""

    name: str
    vocabulary: int
    begin: int | None
    end: int | None
    mask: int | None

    def encode(self, text: str) -> np.ndarray:
        """The tokens of a text (n,), int32."""
        ...


class Bytes:
    """The bytes of UTF-8."""

    name, vocabulary = "bytes", VOCABULARY
    begin: int | None = BEGIN
    end: int | None = END
    mask: int | None = None
    encode = staticmethod(encode)


BYTE_TOKENIZER: Tokenizer = Bytes()


def begin_of(tokenizer: Tokenizer) -> int:
    """The decoder's start token: padding, as in T5, if the tokenizer has none."""
    return PADDING if tokenizer.begin is None else tokenizer.begin


def end_of(tokenizer: Tokenizer) -> int:
    """The end-of-text token. Raises WrongConfiguration if the tokenizer has none."""
    if tokenizer.end is None:
        raise WrongConfiguration(
            f"tokenizer {tokenizer.name!r} has no end-of-text token, which this task needs; those that "
            "zoo.tokenizers trains have one"
        )
    return tokenizer.end


class Sequences:
    """Arrays (length,) or (length, c) of different lengths, padded when several are read.

    `items` are arrays, or are converted to arrays by `encode`, once; `fill` is the padding value. A batch is
    padded to the smallest of `bounds` that its longest sequence fits in: four lengths, a quarter of the
    sequences up to each, so that few programs are compiled. A sequence that augmentation made longer is
    padded to a multiple of a quarter of the last. `kinds` are the stages that can be augmented, in order
    (`zoo.augment.KINDS`). Raises WrongConfiguration if there are no items.
    """

    def __init__(
        self,
        items: Sequence[Any],
        encode: Callable[[Any], np.ndarray] | None = None,
        *,
        fill: int = PADDING,
    ):
        if not len(items):
            raise WrongConfiguration("sequences: the list is empty; expected at least 1")
        self.items, self.encode, self.fill = items, encode, fill
        self.kinds: tuple[str, ...] = ("texts",) if isinstance(items[0], str) else ("frames",)
        first, *_ = self.arrays = [self.array(item) for item in items]
        self.lengths = np.array([len(array) for array in self.arrays])
        self.dtype, self.features = first.dtype, first.shape[1:]
        self.bounds = bounds(self.lengths)

    @property
    def shape(self) -> tuple[int | None, ...]:
        """(n, None, ...): the length differs between batches."""
        return len(self.items), None, *self.features

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        return self.pad(self.read(np.arange(len(self))[chosen]))

    def array(self, item: Any) -> np.ndarray:
        """One item as an array."""
        return item if self.encode is None else self.encode(item)

    def read(
        self,
        chosen: Sequence[int] | np.ndarray,
        change: Change = unchanged,
    ) -> list[np.ndarray]:
        """The sequences at these indices, with `change(item, k)` applied to the k-th before it is encoded."""

        def one(position: int, i: int) -> np.ndarray:
            changed = change(item := self.items[i], position)
            return self.arrays[i] if changed is item else self.array(changed)

        return [one(position, i) for position, i in enumerate(chosen)]

    def pad(self, arrays: Sequence[np.ndarray]) -> np.ndarray:
        """(b, n, ...): the arrays stacked, `fill` after the end of each."""
        longest = max(map(len, arrays))
        step = max(MULTIPLE, self.bounds[-1] // BUCKETS)
        length = next((n for n in self.bounds if n >= longest), -(-longest // step) * step)
        found = np.full((len(arrays), length, *self.features), self.fill, self.dtype)
        for row, array in zip(found, arrays, strict=True):
            row[: len(array)] = array
        return found

    def mask(self) -> Sequences:
        """The padding mask: 1 for each step, 0 in the padding."""
        return Sequences([np.ones(n, np.int32) for n in self.lengths])

    def arrange(self, order: np.ndarray, batch_size: int, rng: np.random.Generator | None) -> np.ndarray:
        """The same indices in an order whose batches each come from one bucket.

        The incomplete batches of all buckets come last. `rng` shuffles the full batches; None keeps them
        ordered from short to long.
        """
        bucket = np.searchsorted(self.bounds, self.lengths[order])
        batches, rest = [], []
        for i in range(len(self.bounds)):
            own = order[bucket == i]
            whole = len(own) // batch_size * batch_size
            batches += list(own[:whole].reshape(-1, batch_size))
            rest.append(own[whole:])
        if rng is not None:
            batches = [batches[i] for i in rng.permutation(len(batches))]
        return np.concatenate([*batches, *rest])


def bounds(lengths: np.ndarray) -> list[int]:
    """The lengths that batches are padded to: a quarter of the sequences have each at most."""
    quantiles = np.quantile(lengths, np.arange(1, BUCKETS + 1) / BUCKETS, method="higher")
    return sorted({max(1, -(-int(n) // MULTIPLE)) * MULTIPLE for n in quantiles})


class Waves(Sequences):
    """Audio (n,) at `rate` samples per second, which models see as normalized log-mel frames (t, m).

    The frames (`items`) are computed once, and again only for a waveform that was augmented.
    """

    def __init__(self, waves: Sequence[np.ndarray], rate: int):
        self.waves, self.rate = waves, rate
        super().__init__([self.frames(wave) for wave in waves])
        self.kinds = "waves", "frames"

    def frames(self, wave: np.ndarray) -> np.ndarray:
        """The model's input for a waveform: (t, m), float32, 100 frames per second."""
        return normalized(log_mel(wave, self.rate))

    def read(
        self,
        chosen: Sequence[int] | np.ndarray,
        change: Change = unchanged,
        change_frames: Change = unchanged,
    ) -> list[np.ndarray]:
        """The frames at these indices: `change` is applied to waveforms, `change_frames` to their frames."""

        def one(position: int, i: int) -> np.ndarray:
            wave = change(self.waves[i], position)
            return change_frames(self.items[i] if wave is self.waves[i] else self.frames(wave), position)

        return [one(position, i) for position, i in enumerate(chosen)]


def take(x: Any, indices: Any) -> Any:
    """The examples at these indices: of an array, of sequences, or of each input of a dict."""
    return {name: part[indices] for name, part in x.items()} if isinstance(x, dict) else x[indices]


def count(x: Any) -> int:
    """The number of examples."""
    return len(next(iter(x.values()))) if isinstance(x, dict) else len(x)


def of_sequences(x: Any) -> Sequences | None:
    """The first input that is sequences, whose lengths determine the buckets; None if there is none."""
    return next((s for s in (x.values() if isinstance(x, dict) else [x]) if isinstance(s, Sequences)), None)


def largest(y: Any) -> int:
    """The largest label."""
    return int(max(array.max(initial=0) for array in y.arrays) if isinstance(y, Sequences) else y.max())


def extremes(x: Any) -> np.ndarray:
    """(1, 2): the smallest and the largest token of an input."""
    parts = x.arrays if isinstance(x, Sequences) else [x]
    return np.array([[min(p.min(initial=0) for p in parts), max(p.max(initial=0) for p in parts)]], np.int32)


def longest(x: Any) -> int:
    """The length of the longest batch of an input."""
    return x.bounds[-1] if isinstance(x, Sequences) else x.shape[1]


def shapes(x: Any) -> Any:
    """The shape of an example, or of each of its inputs: None for a length that varies."""
    return {name: tuple(p.shape[1:]) for name, p in x.items()} if isinstance(x, dict) else tuple(x.shape[1:])


# From texts to arrays


Splits = dict[str, Any]  # arguments of `zoo.tasks.Task`; "train" and "test" may be None
WINDOW = 128  # tokens of a language model's examples


def of_texts(read: Callable[[], Mapping[str, tuple[Sequence[str], np.ndarray]]]) -> Callable[..., Splits]:
    """Texts and labels, for a model of tokens (None,)."""

    def load(shape: Any, tokenizer: Tokenizer = BYTE_TOKENIZER) -> Splits:
        expect_tokens(shape, "texts")
        return {split: (inputs(Sequences(texts, tokenizer.encode), shape), labels) if len(texts) else None
                for split, (texts, labels) in read().items()}  # fmt: skip

    return load


def of_tokens(
    read: Callable[[], Mapping[str, tuple[Sequence[np.ndarray], np.ndarray]]],
) -> Callable[[Any], Splits]:
    """Texts that are already token ids, and labels."""

    def load(shape: Any) -> Splits:
        expect_tokens(shape, "texts")
        return {
            split: (inputs(Sequences(tokens), shape), labels) for split, (tokens, labels) in read().items()
        }

    return load


def pack(texts: Sequence[np.ndarray], length: int) -> tuple[np.ndarray, np.ndarray]:
    """Concatenated texts as rows (n, length), and the next token of each of their tokens.

    There is no padding, an incomplete last row is dropped, and a row may contain the end of one text and the
    beginning of another. Raises WrongConfiguration for less than one row.
    """
    tokens = np.concatenate(list(texts))
    count = (len(tokens) - 1) // length
    if not count:
        raise WrongConfiguration(f"the text has {len(tokens)} tokens; expected more than {length}")
    x, y = tokens[: count * length], tokens[1 : count * length + 1]
    return x.reshape(-1, length), y.reshape(-1, length)


def of_corpus(read: Callable[[], Mapping[str, str]]) -> Callable[..., Splits]:
    """One long text in windows of `WINDOW` tokens, for next-token prediction."""

    def load(shape: Any, tokenizer: Tokenizer = BYTE_TOKENIZER) -> Splits:
        expect_tokens(shape, "a text")
        texts = read()
        tokens = {split: tokenizer.encode(text) for split, text in texts.items()}
        found = {split: pack([tokens[split]], WINDOW) for split in tokens}
        if isinstance(shape, dict):
            found = {split: ({"token_ids": x}, y) for split, (x, y) in found.items()}
        return {**found, "tokens_per_character": len(tokens["test"]) / len(texts["test"])}

    return load


def of_windows(read: Callable[[], Mapping[str, str]], corrupt: Any) -> Callable[..., Splits]:
    """One long text in windows, which `corrupt` (`zoo.tasks.pretraining`) turns into examples."""

    def load(shape: Any, tokenizer: Tokenizer = BYTE_TOKENIZER) -> Splits:
        if not isinstance(shape, dict):
            _expect(shape, {"token_ids": (None,)}, "corrupted texts")
        found = {split: pack([tokenizer.encode(text)], WINDOW) for split, text in read().items()}
        return {**found, "corrupt": partial(corrupt, tokenizer=tokenizer)}

    return load


def of_pairs(
    read: Callable[[], Mapping[str, tuple[Sequence[str], Sequence[str]]]],
) -> Callable[..., Splits]:
    """Sources and targets, for an encoder and a decoder whose input is the target shifted by one token."""

    def split(
        sources: Sequence[str], targets: Sequence[str], tokenizer: Tokenizer
    ) -> tuple[dict[str, Sequences], Sequences]:
        first, last = np.int32(begin_of(tokenizer)), np.int32(end_of(tokenizer))
        tokens = [tokenizer.encode(text) for text in targets]
        shifted = Sequences([np.append(first, each) for each in tokens])
        labels = Sequences([np.append(each, last) for each in tokens], fill=-1)
        return {"token_ids": Sequences(sources, tokenizer.encode), "decoder_token_ids": shifted}, labels

    def load(shape: Any, tokenizer: Tokenizer = BYTE_TOKENIZER) -> Splits:
        expected = {"token_ids": (None,), "decoder_token_ids": (None,)}
        if not (isinstance(shape, dict) and expected.items() <= shape.items()):
            _expect(shape, expected, "pairs of texts")
        found = {name: split(*texts, tokenizer) if texts[0] else None for name, texts in read().items()}
        return {name: pair and (_masked(pair[0], shape), pair[1]) for name, pair in found.items()}

    return load


def of_waves(
    read: Callable[[], Mapping[str, tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]], rate: int
) -> Callable[[Any], Splits]:
    """Audio and its transcript, for CTC."""

    def load(shape: Any) -> Splits:
        found: Splits = {split: (Waves(waves, rate), Sequences(said)) if waves else None
                         for split, (waves, said) in read().items()}  # fmt: skip
        _expect(shape, (None, *found["train"][0].features), "frames of audio")
        return found

    return load


def of_recordings(folder: Path) -> tuple[Callable[[Any], Splits], tuple[str, ...]]:
    """A folder of recordings, a fifth held out; and the letters of its table, of which the first is class 1.

    The recordings are read when the task is loaded.
    """
    letters = tuple(sorted({letter for text in speech.texts(folder) for letter in text}))

    def read() -> dict[str, tuple[list[np.ndarray], list[np.ndarray]]]:
        waves, texts = speech.recordings(folder)
        said = [np.array([1 + letters.index(letter) for letter in text], np.int32) for text in texts]
        apart = held_out(np.zeros(len(texts), int), "recordings")
        parts = {"train": np.flatnonzero(~apart), "test": np.flatnonzero(apart)}
        return {split: ([waves[i] for i in own], [said[i] for i in own]) for split, own in parts.items()}

    return of_waves(read, speech.RECORDED), letters


def inputs(tokens: Sequences, shape: Any) -> Any:
    """The tokens alone, or, for a model with several inputs, by name and with their padding mask."""
    return _masked({"token_ids": tokens}, shape) if isinstance(shape, dict) else tokens


def _masked(x: dict[str, Sequences], shape: Mapping[str, Any]) -> dict[str, Sequences]:
    """Inputs by name, with a padding mask for those for which the model takes one."""
    masks = {name.replace("token_ids", "padding_mask"): tokens.mask() for name, tokens in x.items()}
    return {**x, **{name: mask for name, mask in masks.items() if name in shape}}


def expect_tokens(shape: Any, content: str) -> None:
    """Raise WrongConfiguration unless a model takes tokens."""
    named = isinstance(shape, dict) and "token_ids" in shape and "decoder_token_ids" not in shape
    if not named:
        _expect(shape, (None,), content)


def _expect(shape: Any, expected: Any, content: str) -> None:
    if shape != expected:
        raise WrongConfiguration(
            f"the task consists of {content} and needs a model that takes {expected}; this one takes {shape}"
        )
