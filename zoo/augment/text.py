"""Random changes of texts that mostly preserve their meaning.

Wei and Zou 2019, "EDA: Easy data augmentation techniques for boosting performance on text classification
tasks", arXiv:1901.11196, section 2: synonyms, deletion, swap, insertion. The paper makes alpha l changes, at
least one, to a text of l words; here each word is changed independently with probability `rate`: rate l
changes on average, and none at rate 0.

Words are separated by whitespace. The whitespace before the first word, after the last, and between two
words that stay neighbours is kept.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import TypeVar

import numpy as np

from zoo.augment.base import Transform
from zoo.errors import DataUnavailable, WrongConfiguration

T = TypeVar("T")
Generator = np.random.Generator
Synonyms = Mapping[str, Sequence[str]]  # of each word

PUNCTUATION = string.punctuation + "‘’‚“”„‹›«»¡¿…–—、。「」，！？：；"


@dataclass(frozen=True)
class TextTransform(Transform):
    """Changes one text, using only the random generator it is given.

    A text with words keeps at least one. Raises WrongConfiguration for invalid arguments.
    """

    def __call__(self, text: str, rng: Generator) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The changed text."""
        raise NotImplementedError


@dataclass(frozen=True)
class RandomDeletion(TextTransform):
    """Delete each word with this probability; if none would be left, a random one is kept."""

    rate: float = 0.1

    def __call__(self, text: str, rng: Generator) -> str:
        words, spaces = split(text)
        if not words:
            return text
        kept = np.flatnonzero(rng.random(len(words)) >= self.rate)
        if not len(kept):
            kept = rng.integers(len(words), size=1)
        between = [spaces[i] for i in kept[1:]]
        return join([words[i] for i in kept], [spaces[0], *between, spaces[-1]])


@dataclass(frozen=True)
class RandomSwap(TextTransform):
    """Swap the word at each position, with this probability, with the word at a random position."""

    rate: float = 0.1

    def __call__(self, text: str, rng: Generator) -> str:
        words, spaces = split(text)
        if len(words) < 2:
            return text
        for i in indices_to_change(words, self.rate, rng):
            j = (i + rng.integers(1, len(words))) % len(words)
            words[i], words[j] = words[j], words[i]
        return join(words, spaces)


@dataclass(frozen=True)
class SynonymReplacement(TextTransform):
    """Replace each word that has synonyms by one of them with this probability; punctuation and capitals are
    kept.

    `table` lists the synonyms of each word, {"quick": ["fast", "swift"]}; a lower-case word also matches its
    capitalized form. None is WordNet, English, through nltk. Raises DataUnavailable when that or its data is
    not installed.
    """

    rate: float = 0.1
    table: Synonyms | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        synonym_lookup(self.table)

    def __call__(self, text: str, rng: Generator) -> str:
        words, spaces = split(text)
        for i in indices_to_change(words, self.rate, rng):
            core, found = synonyms(words[i], self.table)
            if found:
                words[i] = words[i].replace(core, choose(found, rng), 1)
        return join(words, spaces)


@dataclass(frozen=True)
class RandomInsertion(TextTransform):
    """For each word, with this probability, insert a synonym of a random word at a random position.

    The random word is drawn from those that have synonyms; without any the text is unchanged. `table` is that
    of `SynonymReplacement`. Raises DataUnavailable as there.
    """

    rate: float = 0.1
    table: Synonyms | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        synonym_lookup(self.table)

    def __call__(self, text: str, rng: Generator) -> str:
        words, spaces = split(text)
        known = [found for word in words if (found := synonyms(word, self.table)[1])]
        if not known:
            return text
        for _ in indices_to_change(words, self.rate, rng):
            inserted, index = choose(choose(known, rng), rng), int(rng.integers(len(words) + 1))
            spaces.insert(min(index + 1, len(words)), " ")  # after it, or at the end before it
            words.insert(index, inserted)
        return join(words, spaces)


@dataclass(frozen=True)
class BackTranslation(TextTransform):
    """Translate into another language and back, with any two functions of a text: `back(there(text))`.

        french, english = (zoo.train("seq2seq", pairs).model for pairs in ("en-fr.tsv", "fr-en.tsv"))
        there = functools.cache(lambda text: zoo.translate(french, text)[0])
        back = functools.cache(lambda text: zoo.translate(english, text)[0])
        zoo.train("lstm", "reviews.csv", augment=BackTranslation(there, back))

    Sennrich, Haddow, Birch 2016, arXiv:1511.06709, generated training data in this way. It uses no random
    numbers itself; deterministic translators can cache their results, as these do. If the result contains no
    word, the text is unchanged. Raises WrongConfiguration for a translator that does not return a text.
    """

    there: Callable[[str], str]
    back: Callable[[str], str]

    def __call__(self, text: str, rng: Generator) -> str:
        del rng
        if not text.strip():
            return text
        translated = text
        for name, translate in {"there": self.there, "back": self.back}.items():
            translated = translate(translated)
            if not isinstance(translated, str):
                raise WrongConfiguration(
                    f"BackTranslation: {name} returned {type(translated).__name__} for a text; expected a str"
                )
        return translated if translated.strip() else text


# Words


def split(text: str) -> tuple[list[str], list[str]]:
    """The words, and the whitespace before each and after the last: one string more than words."""
    return re.findall(r"\S+", text), re.split(r"\S+", text)


def join(words: Sequence[str], spaces: Sequence[str]) -> str:
    """The text of words and the whitespace around them, as `split` returns them."""
    return "".join(chain.from_iterable(zip(spaces, [*words, ""], strict=True)))


def indices_to_change(words: Sequence[str], rate: float, rng: Generator) -> list[int]:
    """The indices of the words to change, drawn independently."""
    return [int(i) for i in np.flatnonzero(rng.random(len(words)) < rate)]


def choose(items: Sequence[T], rng: Generator) -> T:
    """One of the items, drawn uniformly."""
    return items[int(rng.integers(len(items)))]


# Synonyms


def synonyms(word: str, table: Synonyms | None) -> tuple[str, Sequence[str]]:
    """A word without its punctuation, and its synonyms, capitalized if the word is."""
    core = word.strip(PUNCTUATION) or word
    known = synonym_lookup(table)
    if found := known(core):
        return core, found
    found = known(core.lower())
    return core, [other[:1].upper() + other[1:] for other in found] if core[:1].isupper() else found


def synonym_lookup(table: Synonyms | None) -> Callable[[str], Sequence[str]]:
    """A function from a word to its synonyms; None is WordNet. Raises DataUnavailable without it."""
    if table is not None:
        return lambda word: table.get(word, ())
    of_wordnet("word")
    return of_wordnet


@cache
def of_wordnet(word: str) -> Sequence[str]:
    """All other lemmas of all synsets a word is in, sorted (Miller 1995, "WordNet: a lexical database").

    Raises DataUnavailable if nltk or its data is not installed.
    """
    try:
        from nltk.corpus import wordnet  # pyright: ignore[reportMissingImports]

        synsets = wordnet.synsets(word)
    except (ImportError, LookupError) as error:
        reason = "nltk is not installed" if isinstance(error, ImportError) else "nltk has no data for it"
        raise DataUnavailable(
            f"synonyms come from WordNet unless table= is given, and {reason}. Give a table, "
            "table={'quick': ['fast', 'swift']}, or pip install nltk and run nltk.download('wordnet')"
        ) from None
    lemmas = {lemma.replace("_", " ") for synset in synsets for lemma in synset.lemma_names()}
    return sorted(lemma for lemma in lemmas if lemma.lower() != word.lower())
