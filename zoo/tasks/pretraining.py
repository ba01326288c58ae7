"""What a text teaches without labels: tokens are hidden or cut out, and to be told.

`masked`   BERT's: 15 of 100 tokens are hidden, each to be told by both its sides
`spans`    T5's: 15 of 100 tokens, a few in a row, are cut out, and to be written by a decoder

A window of a text is spoilt anew in every epoch, the same way on every framework.
"""

from __future__ import annotations

import numpy as np

from zoo.tasks.sequences import BYTE_TOKENIZER, Tokenizer, begin_of, end_of

SENTINELS = 16  # of T5, behind the tokens of a text, from the last down
SHARE = 0.15  # of the tokens that is to be told
SPAN = 3  # tokens cut out in a row, on average


def mask(tokenizer: Tokenizer) -> int:
    """What a hidden token is seen as: the token behind the others, where a tokenizer has none for it."""
    return tokenizer.vocabulary if tokenizer.mask is None else tokenizer.mask


def masked(
    tokens: np.ndarray, rng: np.random.Generator, *, tokenizer: Tokenizer = BYTE_TOKENIZER
) -> tuple[np.ndarray, np.ndarray]:
    """(n,) -> what is seen and what is to be told (n,), -1 where nothing is.

    Of the tokens to be told, 80 of 100 are seen as `mask`, 10 as any token of the vocabulary, 10 as they are.
    Devlin et al. 2018, section 3.1.
    """
    chosen = rng.permutation(len(tokens))[: max(1, round(SHARE * len(tokens)))]
    told = np.full(len(tokens), -1, np.int32)
    told[chosen] = tokens[chosen]
    seen, fate = tokens.copy(), rng.random(len(chosen))
    seen[chosen[fate < 0.8]] = mask(tokenizer)
    other = chosen[(fate >= 0.8) & (fate < 0.9)]
    seen[other] = rng.integers(0, tokenizer.vocabulary, len(other), dtype=np.int32)
    return seen, told


def spans(
    tokens: np.ndarray, rng: np.random.Generator, *, tokenizer: Tokenizer = BYTE_TOKENIZER
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(n,) -> what is read and written so far, and what is to be written; as long for every text of n tokens.

    In place of each span stands a sentinel of its own; the decoder writes each sentinel and its span. Raffel
    et al. 2019, section 3.1.4: spans of 3 tokens on average, at places drawn uniformly.
    """
    cut = max(1, round(SHARE * len(tokens)))
    count = min(SENTINELS, max(1, round(cut / SPAN)))
    gone, kept = _parts(cut, count, rng), _parts(len(tokens) - cut, count, rng)
    read, written, place = [], [], 0
    for i, (stay, leave) in enumerate(zip(kept, gone, strict=True)):
        sentinel = [tokenizer.vocabulary + SENTINELS - 1 - i]
        read += [tokens[place : place + stay], sentinel]
        written += [sentinel, tokens[place + stay : place + stay + leave]]
        place += stay + leave
    target = np.concatenate([*written, [end_of(tokenizer)]]).astype(np.int32)
    decoder = np.concatenate([[begin_of(tokenizer)], target[:-1]]).astype(np.int32)
    encoder = np.concatenate([*read, [end_of(tokenizer)]]).astype(np.int32)
    return {"token_ids": encoder, "decoder_token_ids": decoder}, target


def _parts(total: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`total` as a sum of `count` numbers of 1 or more, each way as likely."""
    ends = np.sort(rng.permutation(total - 1)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], ends, [total]]))
