"""Tokens of texts: ours against the papers' examples, searches written out, and transformers' tokenizers."""

from __future__ import annotations

import functools
import itertools
import json
import pickle
import re
import sys
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoo
from zoo import tokenizers
from zoo.tasks.text import corpus
from zoo.tokenizers import CharacterTokenizer, SubwordTokenizer, Tokenizer, load, train
from zoo.weights import hub

pytestmark = pytest.mark.once

hf = pytest.importorskip("tokenizers")

KINDS = ["bpe", "wordpiece", "unigram"]
MARKS = [
    "<pad>",
    "</s>",
    "<unk>",
    "<|endoftext|>",
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "##",
    "▁",
    "Ġ",
]
text = st.lists(st.one_of(st.text(), st.sampled_from(MARKS))).map("".join)  # st.text has no surrogates


@functools.cache
def trained(kind: str) -> SubwordTokenizer:
    return train(kind, [corpus()["train"][:30_000]], vocabulary=700)


def vocabulary(tokenizer: Tokenizer) -> Any:
    """As its file has it: numbers by token, or of unigram each token with its score."""
    return json.loads(tokenizer.content)["model"]["vocab"]


def pieces(tokenizer: SubwordTokenizer, text: str) -> list[str]:
    """As its vocabulary spells them."""
    return tokenizer.core.encode(text, add_special_tokens=False).tokens


def bert(folder: Path, words: str) -> SubwordTokenizer:
    """Of a vocab.txt."""
    marks = "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK]"
    (folder / "vocab.txt").write_text("\n".join(f"{marks} {words}".split()) + "\n", encoding="utf-8")
    tokenizer = load(folder / "vocab.txt")
    assert isinstance(tokenizer, SubwordTokenizer)
    return tokenizer


LETTERS = sorted(hf.pre_tokenizers.ByteLevel.alphabet())


def gpt2(folder: Path, *merges: str) -> Path:
    """A folder with a vocab.json and a merges.txt, as GPT-2's: the end of a text comes last."""
    words = [*LETTERS, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    (folder / "vocab.json").write_text(
        json.dumps({word: i for i, word in enumerate(words)}), encoding="utf-8"
    )
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    return folder


# T5's numbers of its special tokens, and a few words with their log-probabilities.
T5 = [
    ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0),
    ("▁", -2.0), ("▁low", -3.0), ("er", -4.0), ("e", -5.0), ("r", -5.0), ("<extra_id_0>", 0.0),
]  # fmt: skip


def t5(folder: Path) -> Path:
    """A folder with a tokenizer.json as T5's."""
    core = hf.Tokenizer(hf.models.Unigram(T5, unk_id=2))
    spaces = {"replacement": "▁", "prepend_scheme": "always"}
    core.pre_tokenizer = hf.pre_tokenizers.Sequence(
        [hf.pre_tokenizers.WhitespaceSplit(), hf.pre_tokenizers.Metaspace(**spaces)]
    )
    core.decoder = hf.decoders.Metaspace(**spaces)
    core.add_special_tokens(["<pad>", "</s>", "<unk>", "<extra_id_0>"])
    core.post_processor = hf.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    core.save(str(folder / "tokenizer.json"))
    return folder


# --- every text comes back ---


@pytest.mark.parametrize("kind", [*KINDS, "bytes", "default"])
def test_every_text_comes_back(kind: str) -> None:
    tokenizer = trained(kind) if kind in KINDS else load(kind)

    @settings(max_examples=150, deadline=None)
    @given(text)
    def comes_back(text: str) -> None:
        tokens = tokenizer.encode(text)
        assert tokenizer.decode(tokens) == text
        assert tokens.dtype == np.int32
        assert tokens.ndim == 1
        assert ((tokens >= 0) & (tokens < tokenizer.vocabulary)).all()

    comes_back()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "text", ["x" * 1000, "#" * 1000, "a##b #c ##", "\0\n\r\u2028 \t\xa0", "\U0010ffff\ufffd"]
)
def test_awkward_texts_come_back(kind: str, text: str) -> None:
    assert trained(kind).decode(trained(kind).encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_of_a_text_are_the_text(kind: str) -> None:
    found = trained(kind).pieces("The statement is executed")
    assert "".join(found) == "The statement is executed"
    assert len(found) < len("The statement is executed")


def test_what_bert_has_decoded_decodes_to_itself(tmp_path: Path) -> None:
    """Although it forgets case, accents and spaces: those of a vocabulary with each of these letters."""
    letters = "".join(
        map(chr, [*range(33, 0x250), *range(0x370, 0x530), *range(0x1E00, 0x1F00), *range(0x4E00, 0x4E20)])
    )
    plain = unicodedata.normalize("NFD", letters.lower())
    words = {c for c in letters.lower() + plain if not c.isspace() and c == c.lower()}
    tokenizer = bert(tmp_path, " ".join([*sorted(words), *("##" + word for word in sorted(words))]))

    @settings(max_examples=150, deadline=None)
    @given(
        st.text(st.one_of(st.sampled_from(letters + " .,!?'-\n"), st.characters(exclude_categories=["Cs"])))
    )
    def decodes_to_itself(text: str) -> None:
        found = tokenizer.decode(tokenizer.encode(text))
        assert tokenizer.decode(tokenizer.encode(found)) == found

    decodes_to_itself()


# --- the algorithms ---

WORDS = ["low"] * 5 + ["lower"] * 2 + ["newest"] * 6 + ["widest"] * 3  # Sennrich et al. 2016, algorithm 1


def test_bpe_merges_the_pairs_of_its_paper() -> None:
    """es, est, lo and low, seen 9, 9, 7 and 7 times; the paper's "·" that ends a word is not needed here."""
    tokenizer = train("bpe", WORDS, vocabulary=2 + 256 + 4)
    assert json.loads(tokenizer.content)["model"]["merges"] == [
        ["e", "s"],
        ["es", "t"],
        ["l", "o"],
        ["lo", "w"],
    ]
    assert tokenizer.pieces("lowest") == ["low", "est"]  # which it has not seen
    assert tokenizer.pieces("newer") == list("newer")


def merged(word: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    found: list[str] = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return tuple(found)


def seen() -> Counter[tuple[str, ...]]:
    """The words of what `trained` has read, as letters of bytes."""
    cut = hf.pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(corpus()["train"][:30_000])
    return Counter(tuple(word) for word, _ in cut)


def test_each_merge_of_bpe_is_of_a_pair_that_is_seen_most() -> None:
    words, merges = seen(), json.loads(trained("bpe").content)["model"]["merges"]
    assert len(merges) == 700 - 256 - 2
    for pair in map(tuple, merges[:150]):
        counts: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for both in itertools.pairwise(word):
                counts[both] += count
        assert counts[pair] == max(counts.values())
        words = Counter({merged(word, pair): count for word, count in words.items()})


def test_bpe_makes_its_merges_in_their_order() -> None:
    merges = [tuple(pair) for pair in json.loads(trained("bpe").content)["model"]["merges"]]
    for word in list(seen())[:300]:
        theirs = word
        while pairs := set(itertools.pairwise(theirs)) & set(merges):
            theirs = merged(theirs, min(pairs, key=merges.index))
        written = hf.decoders.ByteLevel().decode(list(word))
        assert pieces(trained("bpe"), written) == list(theirs)


def test_wordpiece_takes_the_longest_piece_that_fits(tmp_path: Path) -> None:
    """BERT's own example, and one in which the longest is a dead end: the whole word is unknown."""
    tokenizer = bert(tmp_path, "un una ##aff ##able ##a ab abc ##cd")
    assert pieces(tokenizer, "un unaffable ab") == ["un", "[UNK]", "ab"]  # una, then nothing begins with ff
    assert pieces(bert(tmp_path, "un ##a ##aff ##able"), "unaffable") == ["un", "##aff", "##able"]
    assert pieces(tokenizer, "abcd abc") == ["[UNK]", "abc"]  # though ab and ##cd would do


def test_wordpiece_takes_the_longest_of_what_it_has_learnt() -> None:
    known, tokenizer = vocabulary(trained("wordpiece")), trained("wordpiece")
    longer = 0
    for word in list(seen())[:300]:
        if "#" in word:
            continue
        rest, theirs = "".join(word), []
        while rest:
            begun = "##" if theirs else ""
            piece = next(rest[:n] for n in range(len(rest), 0, -1) if begun + rest[:n] in known)
            theirs.append(begun + piece)
            rest = rest[len(piece) :]
        assert pieces(tokenizer, hf.decoders.ByteLevel().decode(list(word))) == theirs
        longer += len(theirs) < len(word)
    assert longer > 200


def test_unigram_takes_the_likeliest_of_all_segmentations() -> None:
    """Of the 2^(n-1) of a word with n letters."""
    tokenizer, scores = trained("unigram"), dict(vocabulary(trained("unigram")))

    def score(found: list[str]) -> float:
        return sum(scores.get(piece, -np.inf) for piece in found)

    words = [word for word in seen() if 2 <= len(word) <= 11][:150]
    for word in words:
        best = -np.inf
        for cuts in range(2 ** (len(word) - 1)):
            ends = [i + 1 for i in range(len(word) - 1) if cuts >> i & 1]
            parts = zip([0, *ends], [*ends, len(word)], strict=True)
            best = max(best, score(["".join(word[i:j]) for i, j in parts]))
        ours = pieces(tokenizer, hf.decoders.ByteLevel().decode(list(word)))
        assert "".join(ours) == "".join(word)
        assert score(ours) == pytest.approx(best, abs=1e-9)


# --- training ---


@pytest.mark.parametrize("kind", KINDS)
def test_training_twice_gives_the_same_file(kind: str) -> None:
    """Also of few words, where many pairs are seen equally often."""
    assert train(kind, [corpus()["train"][:30_000]], vocabulary=700).content == trained(kind).content
    for words in (WORDS, ["abcabcab bcabca cabbac", "acbbca"]):
        files = {train(kind, words, vocabulary=530).content for _ in range(8)}
        assert len(files) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_and_its_text_give_the_same(kind: str, tmp_path: Path) -> None:
    written = corpus()["train"][:30_000]
    (tmp_path / "book.txt").write_bytes(written.encode())
    assert train(kind, str(tmp_path / "book.txt"), vocabulary=700).content == trained(kind).content
    assert train(kind, tmp_path / "book.txt", vocabulary=700).content == trained(kind).content


@pytest.mark.parametrize("kind", KINDS)
def test_as_many_tokens_are_trained_as_asked_for(kind: str) -> None:
    assert trained(kind).vocabulary == len(trained(kind)) == 700
    assert sorted(trained(kind).core.get_vocab().values()) == list(range(700))


@pytest.mark.parametrize(("kind", "bytes"), [("bpe", 256), ("wordpiece", 2 * 256), ("unigram", 256)])
def test_the_smallest_vocabulary_has_one_piece_beside_the_bytes(kind: str, bytes: int) -> None:
    """WordPiece has two for each byte, at the beginning of a word and inside."""
    special = len(tokenizers.SPECIAL[kind])
    tokenizer = train(kind, WORDS, vocabulary=special + bytes + 1)
    assert tokenizer.vocabulary == special + bytes + 1
    assert len(tokenizer.pieces("low newest")) < len("low newest")
    with pytest.raises(zoo.WrongConfiguration, match=f"expected {special + bytes + 1} or more for {kind}"):
        train(kind, WORDS, vocabulary=special + bytes)


def test_what_unigram_has_learnt_is_ordered_by_score_and_then_by_letter() -> None:
    """The trainer numbers what has the lowest score from -9.5 on by the order of a hash table."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pieces_found = [
        ("e", -2.0000001),
        ("b", -2.0),
        ("est", -1.2345678),
        ("z", -9.4999),
        ("y", -9.5),
        ("x", -9.47),
    ]
    assert tokenizers._canonical([*special, *pieces_found]) == [
        *special, ("est", -1.234568), ("b", -2.0), ("e", -2.0), ("x", -9.47), ("y", -9.5), ("z", -9.5)
    ]  # fmt: skip


def test_long_texts_are_read_in_blocks_of_whole_lines() -> None:
    written = corpus()["train"]
    blocks = tokenizers._blocks([written])
    assert "".join(blocks) == written
    assert len(blocks) > 4
    assert all(block.endswith("\n") and len(block) < 70_000 for block in blocks[:-1])


def test_default_writes_unseen_text_in_less_than_half_its_bytes() -> None:
    unseen = corpus()["test"]
    assert len(tokenizers.default()) == 1024
    assert len(tokenizers.default().encode(unseen)) < len(unseen.encode()) / 2
    assert tokenizers.default() is load("default")


@pytest.mark.parametrize(
    ("kind", "texts", "vocabulary", "error", "said"),
    [
        ("bpr", ["a"], 700, zoo.UnknownName, "no tokenizer 'bpr' to train; nearest: bpe"),
        ("bpe", ["a"], 258, zoo.WrongConfiguration, r"vocabulary=258; expected 259 or more for bpe: .*<pad>"),
        ("bpe", [], 700, zoo.DataUnavailable, "texts: empty; expected a text"),
        ("bpe", ["", ""], 700, zoo.DataUnavailable, "texts: empty; expected a text"),
        ("bpe", ["a", 3], 700, zoo.WrongConfiguration, "3: expected a str"),
        ("bpe", ["a", "\udc80"], 700, zoo.WrongConfiguration, r"'\\udc80': expected a str without lone"),
        ("bpe", "no.txt", 700, zoo.DataUnavailable, "no.txt: no such file"),
    ],
)
def test_what_cannot_be_trained_is_an_error(
    kind: str, texts: Any, vocabulary: int, error: Any, said: str
) -> None:
    with pytest.raises(error, match=said):
        train(kind, texts, vocabulary=vocabulary)


@pytest.mark.parametrize(
    ("data", "said"), [(b"a\n\xff\n", "line 2: not UTF-8"), (b"", "empty; expected a text")]
)
def test_a_bad_file_of_text_is_an_error_with_its_name(data: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "book.txt").write_bytes(data)
    with pytest.raises(zoo.DataUnavailable, match=rf"book\.txt: {said}"):
        train("bpe", tmp_path / "book.txt")


# --- special tokens ---


def test_special_tokens_of_each_vocabulary_have_their_roles(tmp_path: Path) -> None:
    def roles(tokenizer: Tokenizer) -> list[int | None]:
        return [getattr(tokenizer, role) for role in ("padding", "begin", "end", "mask", "unknown")]

    assert roles(bert(tmp_path, "low")) == [0, 3, 4, 5, 2]
    assert roles(load(gpt2(tmp_path) / "vocab.json")) == [None, 256, 256, None, None]
    assert roles(load(t5(tmp_path))) == [0, 0, 1, None, 2]
    assert roles(trained("bpe")) == [0, 1, 1, None, None]
    assert roles(trained("wordpiece")) == [0, 2, 3, 4, 1]
    assert roles(trained("unigram")) == [0, 0, 1, None, 2]
    assert roles(load("bytes")) == roles(load("characters")) == [0, 2, 1, None, None]


def test_special_tokens_are_added_and_found_only_where_asked_for(tmp_path: Path) -> None:
    tokenizer = bert(tmp_path, "a hat mask [ ]")
    assert tokenizer.encode("a [MASK] hat").tolist() == [6, 9, 8, 10, 7]
    assert tokenizer.encode("a [MASK] hat", special=True).tolist() == [3, 6, 5, 7, 4]
    assert tokenizer.decode([3, 6, 5, 7, 4]) == "a hat"
    assert tokenizer.decode([3, 6, 5, 7, 4], special=True) == "[CLS] a [MASK] hat [SEP]"
    assert load(t5(tmp_path)).encode("low<extra_id_0>", special=True).tolist() == [4, 8, 1]
    end = trained("bpe").end
    assert trained("bpe").encode("<|endoftext|>", special=True).tolist() == [end]
    assert end not in trained("bpe").encode("<|endoftext|>")


def test_what_is_trained_begins_and_ends_texts_as_its_models_want_them() -> None:
    """[CLS] a [SEP] b [SEP] of BERT, a </s> b </s> of T5, and nothing of GPT-2."""
    for kind, begin, end in [("wordpiece", [2], [3]), ("unigram", [], [1]), ("bpe", [], [])]:
        a, b = (trained(kind).encode(text).tolist() for text in ("state", "ment"))
        assert trained(kind).encode("state", special=True).tolist() == [*begin, *a, *end]
        assert trained(kind).core.encode("state", "ment").ids == [*begin, *a, *end, *b, *end]
    assert json.loads(trained("unigram").content)["model"]["unk_id"] == trained("unigram").unknown


def test_numbers_of_no_token_are_not_decoded() -> None:
    for tokenizer in (trained("bpe"), load("bytes"), CharacterTokenizer("abc")):
        own = tokenizer.encode("abc").tolist()
        assert tokenizer.decode([-1, *own, 10_000]) == "abc"
        assert tokenizer.decode(np.array([own])) == "abc"
        assert tokenizer.decode([]) == ""


def test_half_a_character_decodes_to_the_replacement_character() -> None:
    for tokenizer in (trained("bpe"), load("bytes")):
        assert tokenizer.decode(tokenizer.encode("☃")[:1]) == "\ufffd"


# --- bytes and characters ---


def test_bytes_are_numbered_as_byt5_does() -> None:
    """Xue et al. 2022: byte v is v + 3."""
    assert load("bytes").encode("aé").tolist() == [ord("a") + 3, 0xC3 + 3, 0xA9 + 3]
    assert load("bytes").encode("a", special=True).tolist() == [100, 1]
    assert load("bytes").decode([100, 1, 101]) == "a"
    assert load("bytes").vocabulary == 259


def test_characters_are_numbered_in_order_from_3() -> None:
    tokenizer = CharacterTokenizer("banana☃")
    assert tokenizer.encode("nab☃").tolist() == [5, 3, 4, 6]
    assert tokenizer.encode("a", special=True).tolist() == [3, 1]
    assert tokenizer.decode([0, 2, 4, 3, 1, 3]) == "ba"
    assert tokenizer.vocabulary == 7
    assert load("characters").decode(load("characters").encode(corpus()["test"])) == corpus()["test"]


def test_an_unknown_character_is_an_error_that_names_it() -> None:
    with pytest.raises(
        zoo.WrongConfiguration, match=r"no token for 'x', '☃'; expected only 'abn'.*load\(\"bytes\"\)"
    ):
        CharacterTokenizer("banana").encode("banx☃")


@pytest.mark.parametrize("wrong", [b"bytes", 3, None, ["a"], "half \ud83d"])
def test_what_is_no_text_is_an_error(wrong: Any) -> None:
    for tokenizer in (trained("bpe"), load("bytes"), CharacterTokenizer("abc")):
        with pytest.raises(zoo.WrongConfiguration, match="expected a str without lone surrogates"):
            tokenizer.encode(wrong)


# --- with a model ---


@pytest.mark.parametrize(("rows", "fits"), [(699, False), (700, True), (827, True), (828, False)])
def test_a_model_has_a_row_for_each_token_and_not_many_more(rows: int, fits: bool) -> None:
    """127 to spare: T5's 32,100 tokens come with 32,128 rows, and 16 sentinels behind others are welcome."""
    models = [
        zoo.build("lstm", vocabulary=rows, width=2, embedding_width=2),
        zoo.build("seq2seq", vocabulary=rows, width=2, embedding_width=2),
    ]
    for model in models:
        if fits:
            trained("bpe").check(model)
            continue
        with pytest.raises(zoo.WrongConfiguration) as caught:
            trained("bpe").check(model)
        for said in (
            "'bpe', 700 tokens",
            model.name,
            f"has {rows} rows for ",
            "700 to 827",
            "vocabulary=700",
        ):
            assert said in str(caught.value)


def test_a_model_of_images_takes_no_tokens() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="lenet5 has no input token_ids"):
        load("bytes").check(zoo.build("lenet5"))


# --- saved and loaded ---


def each() -> list[Tokenizer]:
    return [*map(trained, KINDS), load("bytes"), CharacterTokenizer('banana☃"\\\u2028')]


def test_what_is_saved_is_loaded_the_same(tmp_path: Path) -> None:
    for tokenizer in each():
        saved = tokenizer.save(tmp_path)
        assert saved == tmp_path / "tokenizer.json"
        for source in (tmp_path, saved, str(saved)):
            found = load(source)
            assert type(found) is type(tokenizer)
            assert found.content == tokenizer.content
        assert tokenizer.save(tmp_path / "other.json").read_bytes() == saved.read_bytes()
        assert [path.name for path in sorted(tmp_path.iterdir())] == ["other.json", "tokenizer.json"]


def test_what_is_pickled_reads_as_before() -> None:
    for tokenizer in each():
        found = pickle.loads(pickle.dumps(tokenizer))
        written = "banana" if isinstance(tokenizer, CharacterTokenizer) else "[MASK] <|endoftext|> banana"
        assert found.encode(written).tolist() == tokenizer.encode(written).tolist()
        assert repr(found) == repr(tokenizer)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("book.txt", r"unknown ending; expected a folder, or the name of a \.json file"),
        ("no/tokenizer.json", "no folder .*/no that can be written to"),
    ],
)
def test_a_place_where_nothing_can_be_saved_is_an_error(path: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(zoo.WrongConfiguration, match=message):
        load("bytes").save(tmp_path / path)


@pytest.mark.parametrize(
    ("words", "ours"), [("straße café cafe", ["straße", "cafe"]), ("Straße café Cafe", ["Straße", "[UNK]"])]
)
def test_berts_vocabulary_with_capitals_keeps_case_and_accents(
    words: str, ours: list[str], tmp_path: Path
) -> None:
    assert pieces(bert(tmp_path, words), "Straße Café") == ours


def test_gpt2s_vocabulary_and_merges_are_loaded(tmp_path: Path) -> None:
    """Words of the vocabulary may be those that tell one file from another."""
    for merges in (["l o", "lo w", "Ġ lo"], ["k i", "n d", "ki nd", "m o", "d e", "mo de", "mode l"]):
        tokenizer = load(gpt2(tmp_path, *merges))
        assert isinstance(tokenizer, SubwordTokenizer)
        assert tokenizer.vocabulary == 256 + len(merges) + 1
        assert tokenizer.decode(tokenizer.encode("kind of  model\n")) == "kind of  model\n"
    assert pieces(tokenizer, "kind model") == ["kind", "Ġ", "model"]


def test_a_file_that_asks_for_padding_and_truncation_is_read_without(tmp_path: Path) -> None:
    core = hf.Tokenizer.from_str(trained("bpe").content)
    core.enable_padding(length=64)
    core.enable_truncation(8)
    core.save(str(tmp_path / "tokenizer.json"))
    for written in ("low", "low " * 100):
        for special in (False, True):
            ours = load(tmp_path).encode(written, special=special)
            assert ours.tolist() == trained("bpe").encode(written, special=special).tolist()


def test_a_vocabulary_that_leaves_numbers_out_is_as_large_as_its_largest(tmp_path: Path) -> None:
    gpt2(tmp_path)
    words = json.loads((tmp_path / "vocab.json").read_text())
    (tmp_path / "vocab.json").write_text(json.dumps(words | {"<|endoftext|>": 999}))
    tokenizer = load(tmp_path)
    assert (tokenizer.vocabulary, tokenizer.end) == (1000, 999)


def damaged(folder: Path, name: str) -> str:
    """The path of a file, or of a folder, that is no tokenizer."""
    contents = {
        "damaged.json": trained("bpe").content[:-100], "list.json": "[1]",
        "config.json": '{"model": {}}', "vocab.json": '{"a": 0}',
        "vocab.txt": "[PAD]\n[CLS]\nlow\n", "spiece.model": "\n\x0e", "book.csv": "a",
    }  # fmt: skip
    if name in contents:
        (folder / name).write_text(contents[name])
    return str(folder if name == "." else folder / name)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("no.json", zoo.DataUnavailable, "no such file"),
        (
            "no",
            zoo.WrongConfiguration,
            "expected a path of a tokenizer.json, a vocab.txt, a folder .*: bytes, characters, default",
        ),
        ("book.csv", zoo.WrongConfiguration, "expected a path of a tokenizer.json"),
        (".", zoo.WrongConfiguration, "expected .* a folder with one of tokenizer.json, vocab.txt"),
        ("damaged.json", zoo.DataUnavailable, "not a tokenizer, or damaged"),
        ("list.json", zoo.DataUnavailable, "not a tokenizer, or damaged"),
        ("config.json", zoo.DataUnavailable, "not a tokenizer, or damaged"),
        ("vocab.json", zoo.DataUnavailable, "not a tokenizer.json, and no merges.txt beside it"),
        ("vocab.txt", zoo.DataUnavailable, r"no \[UNK\], \[SEP\]; expected BERT's vocab.txt"),
        ("spiece.model", zoo.WrongConfiguration, "a SentencePiece file.*give the tokenizer.json"),
    ],
)
def test_what_is_no_tokenizer_is_an_error(name: str, error: Any, said: str, tmp_path: Path) -> None:
    source = damaged(tmp_path, name)
    with pytest.raises(error, match=f"^{re.escape(source)}: {said}"):
        load(source)


def test_without_tokenizers_it_is_said_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trained("bpe").save(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for needs in (lambda: train("bpe", ["a"]), lambda: load(tmp_path), lambda: load("hf://someone/model")):
        with pytest.raises(zoo.DataUnavailable, match=r'pip install "keras-zoo-parity\[text\]"'):
            needs()
    assert load("bytes").decode(load("bytes").encode("é")) == "é"


# --- the hub ---


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What a hub has in "someone/model" at its revision "v2"."""
    from huggingface_hub.errors import EntryNotFoundError

    def fetch(reference: str) -> Path:
        match = hub.REFERENCE.fullmatch(reference)
        assert match is not None
        if match[1] != "someone/model" or match[3] != "v2":
            raise zoo.DataUnavailable(f"{reference}: no network") from OSError("no network")
        if not (tmp_path / match[2]).is_file():
            raise zoo.DataUnavailable(f"{reference}: 404") from EntryNotFoundError("404")
        if (tmp_path / match[2]).read_bytes() == b"damaged":
            raise zoo.DataUnavailable(f"{reference}: damaged")
        return tmp_path / match[2]

    monkeypatch.setattr(hub, "fetch", fetch)
    return tmp_path


def test_tokenizers_of_the_hub_are_loaded(repository: Path) -> None:
    """The first that there is, or the file that is named."""
    gpt2(repository, "l o", "lo w")
    assert load("hf://someone/model@v2").vocabulary == 259
    ours = bert(repository, "low er")
    assert load("hf://someone/model@v2").vocabulary == ours.vocabulary == 8
    assert load("hf://someone/model/vocab.json@v2").vocabulary == 259
    t5(repository)
    assert load("hf://someone/model@v2").vocabulary == 9
    assert load("hf://someone/model/vocab.txt@v2").content == ours.content
    assert load("hf://someone/model@v2").name == "hf://someone/model@v2"


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("hf://someone/model@v2", "hf://someone/model/tokenizer.json@v2: 404"),
        ("hf://someone/model/vocab.json@v2", "hf://someone/model/merges.txt@v2: 404"),
        ("hf://someone/model", "hf://someone/model/tokenizer.json: no network"),
        ("hf://nobody/model@v2", "hf://nobody/model/tokenizer.json@v2: no network"),
    ],
)
def test_what_the_hub_has_not_is_an_error(reference: str, said: str, repository: Path) -> None:
    (repository / "vocab.json").write_text("{}")
    with pytest.raises(zoo.DataUnavailable, match=re.escape(said)):
        load(reference)


def test_a_damaged_file_of_the_hub_is_not_passed_over_for_another(repository: Path) -> None:
    bert(repository, "low er")
    (repository / "tokenizer.json").write_text("damaged")
    with pytest.raises(zoo.DataUnavailable, match=r"tokenizer\.json@v2: damaged"):
        load("hf://someone/model@v2")


def test_a_wrong_address_is_an_error_that_shows_a_right_one() -> None:
    with pytest.raises(zoo.WrongConfiguration, match="'hf://bert': expected hf://owner/name"):
        load("hf://bert")


# --- transformers' tokenizers ---

WRITTEN = [
    "The statement is executed; isn't it?  Naïve café, 3.14!\n\n\tx = [1, 2]", "", " ", "lower low lowest",
    "ÅNGSTRÖM ΔΈΛΤΑ", "東京 tower \U0001f600 a\u200db", corpus()["test"][:2000],
    "a [MASK] hat <|endoftext|> </s>",
]  # fmt: skip


@pytest.mark.peers
@pytest.mark.parametrize("words", ["lower case", "Upper Case"])
def test_bert_reads_as_transformers_does(words: str, tmp_path: Path) -> None:
    """Both of theirs, of which one is Python alone."""
    from transformers import BertTokenizerFast
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    letters = "".join(sorted({c for c in "".join(WRITTEN) if not c.isspace()}))
    letters += unicodedata.normalize("NFD", letters.lower()) + letters.lower()
    if words.islower():
        letters = "".join(c for c in letters if c == c.lower())
    known = sorted(set(letters))
    ours = bert(
        tmp_path, " ".join([*known, *("##" + c for c in known), words, "##ment state the is execut ##ed"])
    )
    lower = words.islower()
    fast = BertTokenizerFast.from_pretrained(tmp_path, do_lower_case=lower)
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"), do_lower_case=lower)
    for text in WRITTEN:
        tokens = ours.encode(text, special=True).tolist()
        assert tokens == fast(text).input_ids == slow(text).input_ids
        assert ours.decode(tokens) == fast.decode(tokens, skip_special_tokens=True)
    assert [ours.padding, ours.begin, ours.end, ours.mask, ours.unknown] == [
        slow.pad_token_id, slow.cls_token_id, slow.sep_token_id, slow.mask_token_id, slow.unk_token_id
    ]  # fmt: skip


@pytest.mark.peers
def test_gpt2_reads_as_transformers_does(tmp_path: Path) -> None:
    from transformers import GPT2TokenizerFast

    merges = [" ".join(pair) for pair in json.loads(trained("bpe").content)["model"]["merges"]]
    ours, theirs = load(gpt2(tmp_path, *merges)), GPT2TokenizerFast.from_pretrained(tmp_path)
    for text in WRITTEN:
        tokens = ours.encode(text, special=True).tolist()
        assert tokens == theirs(text).input_ids
        assert ours.encode(text).tolist() == theirs(text, split_special_tokens=True).input_ids
        assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)
    assert (ours.begin, ours.end) == (theirs.bos_token_id, theirs.eos_token_id)


@pytest.mark.peers
def test_t5_reads_as_transformers_does(tmp_path: Path) -> None:
    from transformers import T5TokenizerFast

    scores = [
        (word, -3.0 - i)
        for i, word in enumerate(["▁low", "er", "▁the", "state", "ment", *"▁abcdefghijklmnopqrstuvwxyz"])
    ]
    theirs = T5TokenizerFast(vocab=[*T5[:3], *scores], extra_ids=3)
    theirs.save_pretrained(tmp_path)
    ours = load(tmp_path)
    assert isinstance(ours, SubwordTokenizer)
    for text in [*WRITTEN, "a <extra_id_0> lower <extra_id_2>"]:
        tokens = ours.encode(text, special=True).tolist()
        assert tokens == theirs(text).input_ids
        assert (
            ours.encode(text).tolist()
            == theirs(text, add_special_tokens=False, split_special_tokens=True).input_ids
        )
        assert ours.decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)
        assert ours.decode(tokens, special=True) == theirs.decode(tokens)
    assert (ours.padding, ours.end, ours.vocabulary) == (
        theirs.pad_token_id,
        theirs.eos_token_id,
        len(theirs),
    )


@pytest.mark.peers
def test_bytes_read_as_transformers_byt5_does() -> None:
    from transformers import ByT5Tokenizer

    ours, theirs = load("bytes"), ByT5Tokenizer()
    for text in WRITTEN[:-1]:  # in which theirs finds its special tokens
        assert ours.encode(text, special=True).tolist() == theirs(text).input_ids


@pytest.mark.peers
@pytest.mark.parametrize("kind", KINDS)
def test_transformers_reads_what_is_saved(kind: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    theirs = PreTrainedTokenizerFast(tokenizer_file=str(trained(kind).save(tmp_path)))
    for text in WRITTEN:
        tokens = trained(kind).encode(text, special=True).tolist()
        assert tokens == theirs(text).input_ids
        assert trained(kind).decode(tokens) == theirs.decode(tokens, skip_special_tokens=True)
