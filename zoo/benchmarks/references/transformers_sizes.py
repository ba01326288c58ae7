"""Sizes and weight shapes of the BERT, GPT-2 and T5 references, and T5's buckets of distances."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

# Width, depth, heads: Turc et al. 2019, arXiv:1908.08962, table 1
BERTS = {
    "bert-tiny": (128, 2, 2), "bert-mini": (256, 4, 4), "bert-small": (512, 4, 8), "bert-medium": (512, 8, 8),
    "bert-base": (768, 12, 12),
}  # fmt: skip
# github.com/karpathy/minGPT; Radford et al. 2019, table 2
GPTS = {"gpt-nano": (48, 3, 3), "gpt-micro": (128, 4, 4), "gpt-mini": (192, 6, 6), "gpt2": (768, 12, 12)}
# And the width of the MLP: Tay et al. 2021, arXiv:2109.10686; Raffel et al. 2019, section 3.1.1
T5S = {"t5-tiny": (256, 4, 4, 1024), "t5-mini": (384, 4, 8, 1536), "t5-small": (512, 6, 8, 2048)}

Shapes = dict[str, tuple[int, ...]]


def network_of(model: str, *, bert: Any, gpt: Any, t5: Any) -> Callable[..., Any]:
    """The function (weights, inputs) of a model: one of the three, with its depth and heads."""
    if model in T5S:
        _, depth, heads, _ = T5S[model]
        return partial(t5, depth=depth, heads=heads)
    _, depth, heads = (BERTS | GPTS)[model]
    return partial(bert if model in BERTS else gpt, depth=depth, heads=heads)


def shapes(model: str) -> Shapes:
    """The shape of each weight by its name in the zoo; gamma is the scale of a norm, beta its shift."""
    return t5(*T5S[model]) if model in T5S else bert_or_gpt(*(BERTS | GPTS)[model], bert=model in BERTS)


def dense(name: str, inputs: int, units: int, *, bias: bool = True) -> Shapes:
    return {f"{name}/kernel": (inputs, units)} | ({f"{name}/bias": (units,)} if bias else {})


def norm(name: str, c: int) -> Shapes:
    return {f"{name}/gamma": (c,), f"{name}/beta": (c,)}


def bert_or_gpt(c: int, depth: int, heads: int, *, bert: bool) -> Shapes:
    del heads  # their number does not change the shapes
    vocabulary, positions = (30_522, 512) if bert else (50_257, 1024)
    named: Shapes = {"token_embedding/table": (vocabulary, c), "position_embedding/table": (positions, c)}
    for block in (f"block{i + 1}" for i in range(depth)):
        for part in ("query", "key", "value", "output"):
            named |= dense(f"{block}_attention_{part}", c, c)
        named |= dense(f"{block}_mlp1", c, 4 * c) | dense(f"{block}_mlp2", 4 * c, c)
        named |= norm(f"{block}_norm1", c) | norm(f"{block}_norm2", c)
    if not bert:
        return named | norm("norm", c)
    named |= {"segment_embedding/table": (2, c), "masked_lm_bias/value": (vocabulary,)}
    return named | norm("embedding_norm", c) | dense("masked_lm", c, c) | norm("masked_lm_norm", c)


def t5(c: int, depth: int, heads: int, mlp: int) -> Shapes:
    plain, inner = partial(dense, bias=False), 64 * heads
    named: Shapes = {"token_embedding/table": (32_128, c)}
    for kind, attentions in (("encoder", ("attention",)), ("decoder", ("attention", "memory"))):
        named |= {f"{kind}_positions/table": (32, heads), f"{kind}_norm/gamma": (c,)}
        for block in (f"{kind}_block{i + 1}" for i in range(depth)):
            for name in (f"{block}_{attention}" for attention in attentions):
                for part in ("query", "key", "value"):
                    named |= plain(f"{name}_{part}", c, inner)
                named |= plain(f"{name}_output", inner, c) | {f"{name}_norm/gamma": (c,)}
            named |= plain(f"{block}_mlp_in", c, mlp) | plain(f"{block}_mlp_out", mlp, c)
            named |= {f"{block}_mlp_norm/gamma": (c,)}
    return named


def relative_buckets(n: int, *, causal: bool, buckets: int = 32, farthest: int = 128) -> np.ndarray:
    """(n, n): half of the buckets have width 1, the others grow; half are for later keys unless causal."""
    ahead = np.arange(n) - np.arange(n)[:, None]
    later, distance = 0, -np.minimum(ahead, 0)
    if not causal:
        buckets //= 2
        later, distance = buckets * (ahead > 0), np.abs(ahead)
    exact = buckets // 2
    wider = np.log(np.maximum(distance, exact) / exact) / np.log(farthest / exact) * (buckets - exact)
    return later + np.where(distance < exact, distance, np.minimum(exact + wider.astype(int), buckets - 1))
