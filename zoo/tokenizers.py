"""Tokenizers: bytes, characters, and subwords with Hugging Face's `tokenizers`.

    tokenizer = train("bpe", "book.txt", vocabulary=4096)
    tokenizer = load("hf://google-bert/bert-base-uncased")
    tokenizer.decode(tokenizer.encode("Straße 5"))

`bpe`        merges pairs, the most frequent first: Sennrich et al. 2016, arXiv:1508.07909; of bytes, as GPT-2
`wordpiece`  the longest matching piece, then the next: Wu et al. 2016, arXiv:1609.08144; BERT
`unigram`    the most likely segmentation: Kudo 2018, arXiv:1804.10959; T5

Tokenizers trained here are based on bytes: `decode(encode(text)) == text` for every text. Loaded ones may be
lossy: BERT's uncased tokenizer drops case, accents and spacing, and is idempotent on its own output.
"""

from __future__ import annotations

import json
import re
import reprlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from zoo import storage
from zoo._lazy import keras
from zoo.checks import is_integer
from zoo.errors import DataUnavailable, UnknownName, WrongConfiguration, nearest
from zoo.layers import signature
from zoo.tasks import sequences
from zoo.tasks.tables import lines, refuse
from zoo.tasks.text import corpus
from zoo.weights import hub

SPARE = 127  # extra embedding rows: many vocabularies are padded, as T5's from 32,100 to 32,128
HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs

# The names of each special token; the first in the vocabulary is used. T5's decoder starts with padding.
ROLES = {
    "padding": ("[PAD]", "<pad>"),
    "begin": ("[CLS]", "<s>", "<|endoftext|>", "<pad>"),
    "end": ("[SEP]", "</s>", "<|endoftext|>"),
    "mask": ("[MASK]", "<mask>"),
    "unknown": ("[UNK]", "<unk>"),
}


class Tokenizer(ABC):
    """The interface of all tokenizers; `zoo.tasks.sequences.Sequences` uses its `encode`.

    `vocabulary` is the vocabulary size; special tokens such as `end` may be None.
    """

    name: str
    vocabulary: int
    padding: int | None = None
    begin: int | None = None
    end: int | None = None
    mask: int | None = None
    unknown: int | None = None

    def encode(self, text: str, *, special: bool = False) -> np.ndarray:
        """The token ids of a text (n,), int32. Raises WrongConfiguration if it is not a text.

        With `special`, as models expect it: with start and end tokens, and with special tokens in the text
        recognized, as in "a [MASK] hat".
        """
        return np.array(self._encode(_text(text), special), np.int32)

    @abstractmethod
    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        """The text of token ids (n,), without special and unknown ids; invalid UTF-8 becomes U+FFFD."""

    def pieces(self, text: str) -> list[str]:
        """The text of each token."""
        return [self.decode([token]) for token in self.encode(text)]

    def save(self, path: str | Path) -> Path:
        """Save what `load` reads to a .json file, or to tokenizer.json in a folder; returns the path."""
        path = Path(path) / FILES[0] if storage.is_dir(path) else Path(path)
        if path.suffix != ".json":
            raise WrongConfiguration(
                f"{path}: unknown ending; expected a folder, or the name of a .json file"
            )
        storage.check_file("save", path)
        storage.write_text(path, self.content)
        return path

    def check(self, model: keras.Model) -> None:
        """Raise WrongConfiguration unless the model has a row for each token, and at most `SPARE` more."""
        inputs = [tensor for tensor in model.inputs if tensor.name.endswith("token_ids")]
        if not inputs:
            raise WrongConfiguration(
                f"{model.name} has no input token_ids; expected a model that takes tokens"
            )
        for tensor in inputs:
            rows = signature.vocabulary(model, tensor)
            if rows is None or not self.fits(rows):
                raise WrongConfiguration(
                    f"{self} does not match {model.name}, which has {rows} rows for {tensor.name}; expected "
                    f"{self.vocabulary} to {self.vocabulary + SPARE}. Build it with vocabulary="
                    f"{self.vocabulary}, or load the tokenizer that it was trained with"
                )

    def fits(self, rows: int) -> bool:
        """Whether an embedding of this many rows fits the vocabulary."""
        return self.vocabulary <= rows <= self.vocabulary + SPARE

    def __len__(self) -> int:
        return self.vocabulary

    def __repr__(self) -> str:
        known = [f", {role} {getattr(self, role)}" for role in ROLES if getattr(self, role) is not None]
        return f"{type(self).__name__}({self.name!r}, {self.vocabulary} tokens{''.join(known)})"

    @property
    @abstractmethod
    def content(self) -> str:
        """The content of the file that `save` writes."""

    @abstractmethod
    def _encode(self, text: str, special: bool) -> Sequence[int] | np.ndarray: ...


def _text(value: Any) -> str:
    if isinstance(value, str) and not HALVES.search(value):
        return value
    raise WrongConfiguration(f"{reprlib.repr(value)}: expected a str without lone surrogates")


# Without training: bytes and characters


class ByteTokenizer(Tokenizer):
    """The bytes of UTF-8, numbered as in `zoo.tasks.sequences`; decoding stops at the first `end`."""

    name, vocabulary = "bytes", sequences.VOCABULARY
    padding, begin, end = sequences.PADDING, sequences.BEGIN, sequences.END

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        return sequences.decode(tokens)

    @property
    def content(self) -> str:
        return json.dumps({"kind": self.name})

    def _encode(self, text: str, special: bool) -> Sequence[int] | np.ndarray:
        return np.append(sequences.encode(text), [sequences.END] * special)


class CharacterTokenizer(Tokenizer):
    """The characters of a text, sorted, numbered from 3 after the three special tokens of `ByteTokenizer`.

    `encode` raises WrongConfiguration for other characters. Decoding stops at the first `end`.
    """

    name = "characters"
    padding, begin, end = sequences.PADDING, sequences.BEGIN, sequences.END

    def __init__(self, text: str):
        self.characters = sorted(set(_text(text)))
        self.numbers = {character: i for i, character in enumerate(self.characters, start=3)}
        self.vocabulary = 3 + len(self.characters)

    def decode(self, tokens: Sequence[int] | np.ndarray) -> str:
        before = takewhile(lambda token: token != sequences.END, np.ravel(tokens).tolist())
        return "".join(self.characters[token - 3] for token in before if 3 <= token < self.vocabulary)

    @property
    def content(self) -> str:
        return json.dumps({"kind": self.name, "characters": "".join(self.characters)})

    def _encode(self, text: str, special: bool) -> Sequence[int] | np.ndarray:
        if unknown := sorted(set(text) - set(self.characters)):
            raise WrongConfiguration(
                f"no token for {', '.join(map(repr, unknown))}; expected only "
                f"{''.join(self.characters)!r}. "
                'Create the tokenizer from a text with these characters, or use bytes, load("bytes")'
            )
        return [self.numbers[character] for character in text] + [sequences.END] * special


# Subwords


def library() -> Any:
    """The package `tokenizers`; raises DataUnavailable if it is not installed."""
    try:
        import tokenizers
    except ImportError:
        raise DataUnavailable(
            "subword tokenizers need Hugging Face's tokenizers, which is not installed. To install it: "
            'pip install "keras-zoo-parity[text]". load("bytes") works without it'
        ) from None
    return tokenizers


class SubwordTokenizer(Tokenizer):
    """A tokenizer defined by the text of a tokenizer.json; `core` is the object of `tokenizers`.

    Special tokens that are part of a unigram model's vocabulary, as in T5, are recognized in a text even
    without `special`. Raises DataUnavailable if the package is not installed.
    """

    def __init__(self, text: str, name: str):
        # Two: whether special tokens are recognized is a setting of each that files and pickles do not keep.
        self.core, self._literal = (library().Tokenizer.from_str(text) for _ in range(2))
        self._literal.encode_special_tokens = True
        for core in (self.core, self._literal):
            core.no_padding()  # some files set a fixed length
            core.no_truncation()
        self.name = name
        self.vocabulary = 1 + max(self.core.get_vocab().values())  # ids may have gaps
        for role, names in ROLES.items():
            found = map(self.core.token_to_id, names)
            setattr(self, role, next((token for token in found if token is not None), None))

    @property
    def content(self) -> str:
        return self.core.to_str(pretty=True)

    def decode(self, tokens: Sequence[int] | np.ndarray, *, special: bool = False) -> str:
        """The text of token ids (n,); with `special`, including the names of special tokens."""
        known = [token for token in np.ravel(tokens).tolist() if 0 <= token < self.vocabulary]
        return self.core.decode(known, skip_special_tokens=not special)

    def __reduce__(self) -> tuple[Any, ...]:
        return SubwordTokenizer, (self.content, self.name)

    def _encode(self, text: str, special: bool) -> Sequence[int] | np.ndarray:
        return (self.core if special else self._literal).encode(text, add_special_tokens=special).ids


# Training

# The special tokens of each kind, with ids from 0, and the templates of one and two texts.
SPECIAL = {
    "bpe": ("<pad>", "<|endoftext|>"),
    "wordpiece": ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    "unigram": ("<pad>", "</s>", "<unk>"),
}
TEMPLATES = {
    "wordpiece": ("[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1"),
    "unigram": ("$A </s>", "$A </s> $B </s>"),
}
CONTINUES = "##"  # WordPiece's prefix of a piece that does not start a word
LONGEST = 100  # characters of the longest word that WordPiece reads
BLOCK = re.compile(
    r"(?s:.{1,65536})[^\n]*\n?"
)  # whole lines; a text in one piece would take 100 times its memory


def train(kind: str, texts: str | Path | Iterable[str], *, vocabulary: int = 1024) -> SubwordTokenizer:
    """Train a "bpe", "wordpiece" or "unigram" tokenizer on a text file or on texts; deterministic.

    It has `vocabulary` tokens, or fewer if the text does not contain more. Raises UnknownName for another
    kind, WrongConfiguration for too small a vocabulary, DataUnavailable for a file that is damaged or empty.
    """
    if kind not in SPECIAL:
        raise UnknownName(f"no tokenizer {kind!r} to train; {nearest(str(kind), SPECIAL)}")
    hf = library()
    letters = sorted(hf.pre_tokenizers.ByteLevel.alphabet())
    # Inner letters are listed because the package would number those it finds in the order of a hash table.
    first = [*SPECIAL[kind], *(CONTINUES + letter for letter in letters if kind == "wordpiece")]
    least = len(first) + len(letters) + 1
    if not is_integer(vocabulary, least):
        marks = ", ".join(SPECIAL[kind])
        raise WrongConfiguration(
            f"vocabulary={vocabulary!r}; expected {least} or more for {kind}: the bytes, {marks} and "
            "one learned token"
        )
    model, trainer = {
        "bpe": (hf.models.BPE, hf.trainers.BpeTrainer),
        "wordpiece": (hf.models.WordPiece, hf.trainers.WordPieceTrainer),
        "unigram": (hf.models.Unigram, hf.trainers.UnigramTrainer),
    }[kind]
    settings = {"vocab_size": int(vocabulary), "special_tokens": first, "initial_alphabet": letters}
    core = _of_bytes(kind, model())
    core.train_from_iterator(_blocks(texts), trainer(**settings, show_progress=False))
    trained = core.model
    if kind == "unigram":
        trained = model(_canonical(json.loads(core.to_str())["model"]["vocab"]), unk_id=2)
    return _complete(kind, _of_bytes(kind, trained), kind)


def _blocks(texts: str | Path | Iterable[str]) -> list[str]:
    """The texts, or that of a file, in blocks of lines."""
    source = "texts"
    if isinstance(texts, str | Path):
        source, (decoded, bad) = str(texts), lines(Path(texts))
        refuse(Path(texts), bad)
        texts = ["".join(decoded)]
    blocks = [block for text in texts for block in BLOCK.findall(_text(text))]
    if not blocks:
        raise DataUnavailable(f"{source}: empty; expected a text to train on")
    return blocks


def _of_bytes(kind: str, model: Any) -> Any:
    """A tokenizer of words as GPT-2 splits them, with their bytes represented by 256 letters."""
    hf = library()
    core = hf.Tokenizer(model)
    core.pre_tokenizer = hf.pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = hf.decoders.ByteLevel()
    if kind == "wordpiece":  # "#" is split off, so that no word starts like a continuation
        alone = hf.pre_tokenizers.Split("#", "isolated")
        short = hf.pre_tokenizers.Split(hf.Regex(f".{{1,{LONGEST}}}"), "isolated")
        core.pre_tokenizer = hf.pre_tokenizers.Sequence([alone, core.pre_tokenizer, short])
        joined = hf.decoders.Replace(hf.Regex(f"^{CONTINUES}"), "")
        core.decoder = hf.decoders.Sequence([joined, core.decoder])
    return core


def _canonical(vocabulary: list[tuple[str, float]]) -> list[tuple[str, float]]:
    """Pieces and their log-probabilities, made independent of the order of a hash table.

    That order determines the last digits of sums, and which of the letters that no other piece needs has the
    lowest probability, the second lowest (0.0001 more), and so on.
    """
    special = [(token, 0.0) for token in SPECIAL["unigram"]]
    trained = vocabulary[len(special) :]
    lowest = min(score for _, score in trained)
    scores = {piece: round(lowest if score < lowest + 0.0257 else score, 6) for piece, score in trained}
    return [*special, *sorted(scores.items(), key=lambda item: (-item[1], item[0]))]


def _complete(kind: str, core: Any, name: str) -> SubwordTokenizer:
    """The tokenizer with the special tokens of `ROLES` that it has, and its template."""
    numbers = {token: core.token_to_id(token) for names in ROLES.values() for token in names}
    special = [token for token, number in numbers.items() if number is not None]
    core.add_special_tokens(sorted(special, key=numbers.__getitem__))
    if kind in TEMPLATES:
        single, pair = TEMPLATES[kind]
        used = [(token, numbers[token]) for token in special if token in single.split()]
        template = library().processors.TemplateProcessing
        core.post_processor = template(single=single, pair=pair, special_tokens=used)
    return SubwordTokenizer(core.to_str(), name)


@cache
def default() -> SubwordTokenizer:
    """Byte-level BPE with 1,024 tokens, trained in 0.2 s on the training part of `zoo.tasks.text.corpus`."""
    return SubwordTokenizer(train("bpe", [corpus()["train"]]).content, "default")


# Loading

# The names of a tokenizer's file in a folder or a repository of the hub; the first that exists is used.
FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model")
MERGES = "merges.txt"  # beside vocab.json
NAMED: dict[str, Callable[[], Tokenizer]] = {
    "bytes": ByteTokenizer,
    "characters": lambda: CharacterTokenizer("".join(corpus().values())),
    "default": default,
}


def load(source: str | Path) -> Tokenizer:
    """Load a tokenizer from a file, a folder, or the hub, "hf://owner/name[/file][@revision]"; or by its
    name.

    Files: a tokenizer.json, BERT's vocab.txt (lower case if it contains no capital letter), or GPT-2's
    vocab.json with merges.txt beside it. Names: "bytes", "characters" (those of `zoo.tasks.text.corpus`) and
    "default". Raises WrongConfiguration for anything else, DataUnavailable for a file that is missing or
    damaged.
    """
    if source in NAMED:
        return NAMED[str(source)]()
    path = _fetched(str(source)) if str(source).startswith("hf://") else Path(source)
    if storage.is_dir(path):
        path = next((path / name for name in FILES if (path / name).is_file()), path)
    if path.suffix == ".model":
        raise WrongConfiguration(
            f"{path}: a SentencePiece file, which the package tokenizers cannot read; give the "
            "tokenizer.json that T5's repositories have beside it"
        )
    if path.suffix not in READERS:
        known = f"a path of a tokenizer.json, a vocab.txt, a folder with one of {', '.join(FILES)}"
        raise WrongConfiguration(f"{path}: expected {known}, or a name: {', '.join(NAMED)}")
    with storage.reading(path, "not a tokenizer, or damaged"):
        return READERS[path.suffix](path, str(source))


def resolve(tokenizer: Any) -> Any:
    """A tokenizer, loaded if given as an argument of `load`; None for None."""
    return load(tokenizer) if isinstance(tokenizer, str | Path) else tokenizer


def read(content: str, name: str) -> Tokenizer:
    """The tokenizer of the `content` of a saved one. Raises WrongConfiguration for anything else."""
    found = json.loads(content)
    # GPT-2's vocab.json has "kind" and "model", too: words with an id each.
    if found.get("kind") == "bytes":
        return ByteTokenizer()
    if found.get("kind") == "characters":
        return CharacterTokenizer(found["characters"])
    if isinstance(found.get("model"), dict):
        return SubwordTokenizer(content, name)
    raise WrongConfiguration(f"{name}: not the content of a tokenizer.json")


def _json(path: Path, name: str) -> Tokenizer:
    with suppress(WrongConfiguration):
        return read(path.read_text(encoding="utf-8"), name)
    merges = path.with_name(MERGES)
    if not storage.is_file(merges):
        raise DataUnavailable(
            f"{path}: not a tokenizer.json, and no {MERGES} beside it, which a vocab.json needs"
        )
    model = library().models.BPE.from_file(str(path), str(merges))
    return _complete("bpe", _of_bytes("bpe", model), name)


def _bert(path: Path, name: str) -> Tokenizer:
    hf = library()
    core = hf.Tokenizer(hf.models.WordPiece.from_file(str(path), unk_token="[UNK]"))
    words = core.get_vocab().keys() - SPECIAL["wordpiece"]
    if missing := [token for token in SPECIAL["wordpiece"][:-1] if core.token_to_id(token) is None]:
        raise DataUnavailable(
            f"{path}: no {', '.join(missing)}; expected BERT's vocab.txt, one token per line"
        )
    core.normalizer = hf.normalizers.BertNormalizer(lowercase=all(word == word.lower() for word in words))
    core.pre_tokenizer, core.decoder = hf.pre_tokenizers.BertPreTokenizer(), hf.decoders.WordPiece(CONTINUES)
    return _complete("wordpiece", core, name)


READERS: dict[str, Callable[[Path, str], Tokenizer]] = {".json": _json, ".txt": _bert}


def _fetched(reference: str) -> Path:
    """The file in the hub's cache; for a repository, the first of `FILES` that it has."""
    library()  # requires huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    match, missing = hub.REFERENCE.fullmatch(reference), []
    candidates = [reference]
    if match and not match[2]:
        candidates = [f"hf://{match[1]}/{name}" + (f"@{match[3]}" if match[3] else "") for name in FILES]
    for each in candidates:
        try:
            path = hub.fetch(each)
            if path.name == "vocab.json":
                hub.fetch(each.replace("/vocab.json", f"/{MERGES}"))
            return path
        except DataUnavailable as error:
            if not isinstance(error.__cause__, EntryNotFoundError):
                raise
            missing.append(error)
    raise missing[0]
