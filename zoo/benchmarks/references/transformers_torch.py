"""Token transformers the PyTorch way: Hugging Face's models, in a training loop as its users write it.

transformers 5.23, https://github.com/huggingface/transformers, with torch's scaled_dot_product_attention, its
default. Labels of -1 do not count.
"""

# pyright: reportMissingImports=false
# transformers is installed only in tox's environment "peers".

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
)

import zoo.benchmarks.references.vision_torch  # noqa: F401  declares what torchvision lacks; transformers imports it
from zoo.benchmarks.references import Reference, choose

MODES = {"eager": lambda function: function, "compiled": torch.compile}
# width, depth, heads: Turc et al. 2019, table 1; minGPT's sizes; Tay et al. 2021, with the mlp's width
BERTS = {
    "bert-tiny": (128, 2),
    "bert-mini": (256, 4),
    "bert-small": (512, 4),
    "bert-medium": (512, 8),
    "bert-base": (768, 12),
}
GPTS = {"gpt-nano": (48, 3, 3), "gpt-micro": (128, 4, 4), "gpt-mini": (192, 6, 6), "gpt2": (768, 12, 12)}
T5S = {"t5-tiny": (256, 4, 4, 1024), "t5-mini": (384, 4, 8, 1536), "t5-small": (512, 6, 8, 2048)}
NAMES = {
    "token_ids": "input_ids",
    "padding_mask": "attention_mask",
    "segment_ids": "token_type_ids",
    "decoder_token_ids": "decoder_input_ids",
    "decoder_padding_mask": "decoder_attention_mask",
}

Inputs = dict[str, Tensor]
State = Mapping[str, Tensor]


def reference(model: str) -> Reference:
    make = partial(build, model)
    functions = partial(trainer, make), partial(predictor, make), make
    return Reference(prepare, *functions, layout="transformers", generator=partial(generator, make))


def build(model: str) -> nn.Module:
    if model in BERTS:
        width, depth = BERTS[model]
        shape: Any = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": width // 64}
        rates: Any = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
        return BertForMaskedLM(BertConfig(intermediate_size=4 * width, **shape, **rates))
    if model in GPTS:
        width, depth, heads = GPTS[model]
        return GPT2LMHeadModel(
            GPT2Config(
                n_embd=width, n_layer=depth, n_head=heads, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0
            )
        )
    width, depth, heads, mlp = T5S[model]
    size: Any = {"d_model": width, "num_layers": depth, "num_heads": heads, "d_ff": mlp, "d_kv": 64}
    start: Any = {"decoder_start_token_id": 0}
    return T5ForConditionalGeneration(T5Config(dropout_rate=0.0, **size, **start))


def prepare(x: np.ndarray | Mapping[str, np.ndarray], y: np.ndarray) -> tuple[Inputs, Tensor]:
    named = x if isinstance(x, Mapping) else {"token_ids": x}
    tokens = {NAMES[name]: torch.tensor(part, dtype=torch.int64) for name, part in named.items()}
    return tokens, torch.tensor(y, dtype=torch.int64)


def trainer(
    make: Callable[[], nn.Module],
    weights: State,
    *,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.01,
    mode: str = "eager",
) -> tuple[Callable[[Inputs, Tensor], Tensor], Callable[[], dict[str, np.ndarray]]]:
    model = load(make(), weights)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=weight_decay)

    options = {} if isinstance(model, BertForMaskedLM) else {"use_cache": False}

    def loss_of(x: Inputs, y: Tensor) -> Tensor:
        return F.cross_entropy(model(**x, **options).logits.flatten(0, 1), y.flatten(), ignore_index=-1)

    cross_entropy = choose(mode, MODES)(loss_of)

    def step(x: Inputs, y: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = cross_entropy(x, y)
        loss.backward()
        optimizer.step()
        return loss.detach()  # .item() would wait for the device

    return step, lambda: {name: x.numpy(force=True).copy() for name, x in model.state_dict().items()}


def predictor(
    make: Callable[[], nn.Module], weights: State, *, mode: str = "eager"
) -> Callable[[Inputs], Tensor]:
    model = choose(mode, MODES)(load(make(), weights).eval())

    @torch.inference_mode()
    def predict(x: Inputs) -> Tensor:
        return model(**x).logits

    return predict


def generator(make: Callable[[], nn.Module], weights: State) -> Callable[[np.ndarray, int], np.ndarray]:
    """(prompt (n,), count) -> count tokens, the most likely each time; no token ends a text early."""
    model: Any = load(make(), weights).eval()

    def generate(prompt: np.ndarray, count: int) -> np.ndarray:
        tokens = torch.tensor(prompt[None], dtype=torch.int64, device=model.device)
        options = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False, "pad_token_id": 0}
        texts = model.generate(tokens, attention_mask=torch.ones_like(tokens), eos_token_id=None, **options)
        return texts[0, -count:].numpy(force=True)

    return generate


def load(model: nn.Module, weights: State) -> nn.Module:
    model.load_state_dict(weights)
    return model
