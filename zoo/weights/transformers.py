"""transformers' names (5.23): ViT, BERT, GPT-2, T5. Files on the hub have those of earlier versions.

A ViT whose config has layer_norm_eps=1e-12, as most have, needs a model built with norm_epsilon=1e-12.

BERT is BertModel with the head "encoder", BertForMaskedLM with "masked_lm", BertForNextSentencePrediction,
BertForPreTraining, BertForSequenceClassification with "classifier", BertForTokenClassification with "tagger"
and BertForQuestionAnswering with "span". The hub's bert-base-uncased is a BertForPreTraining: head="skip"
loads everything except its heads. A pooler that the model does not use is ignored.

GPT-2 is GPT2LMHeadModel, T5 is T5ForConditionalGeneration. T5 1.1's head is untied in files, and
after `from_pretrained`; built from a configuration it is tied in transformers, and `load_state_dict` would
write head and embedding to the same memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoo.weights.layouts import (
    CONV,
    DENSE,
    EMBEDDING,
    LAYER_NORM,
    SAME,
    VALUE,
    Kind,
    Layout,
    Row,
    resample_centres,
)

if TYPE_CHECKING:
    import keras

_NEW, _OLD = "vit.layers.{i:0}", "vit.encoder.layer.{i:0}"

VIT = Layout(
    "transformers",
    "vit-*",
    (
        Row("class_token", "vit.embeddings.cls_token", VALUE),
        Row("patch_embedding", "vit.embeddings.patch_embeddings.projection", CONV),
        Row("position_embedding", "vit.embeddings.position_embeddings", VALUE),
        Row("block{i}_norm1", f"{_NEW}.layernorm_before", LAYER_NORM, f"{_OLD}.layernorm_before"),
        Row(
            "block{i}_attention_query", f"{_NEW}.attention.q_proj", DENSE, f"{_OLD}.attention.attention.query"
        ),
        Row("block{i}_attention_key", f"{_NEW}.attention.k_proj", DENSE, f"{_OLD}.attention.attention.key"),
        Row(
            "block{i}_attention_value", f"{_NEW}.attention.v_proj", DENSE, f"{_OLD}.attention.attention.value"
        ),
        Row("block{i}_attention_output", f"{_NEW}.attention.o_proj", DENSE, f"{_OLD}.attention.output.dense"),
        Row("block{i}_norm2", f"{_NEW}.layernorm_after", LAYER_NORM, f"{_OLD}.layernorm_after"),
        Row("block{i}_mlp1", f"{_NEW}.mlp.fc1", DENSE, f"{_OLD}.intermediate.dense"),
        Row("block{i}_mlp2", f"{_NEW}.mlp.fc2", DENSE, f"{_OLD}.output.dense"),
        Row("norm", "vit.layernorm", LAYER_NORM),
        Row("head", "classifier", DENSE),
    ),
    resize=resample_centres,
)


@dataclass(frozen=True)
class Bert(Layout):
    """A layout of BERT models with any head."""

    def hint(self, missing: Sequence[str], left_over: Sequence[str]) -> str:
        """Advice for a file with heads that the model does not have."""
        if any(name.startswith("cls.") for name in left_over):
            return ' head="skip" does not load its heads; zoo.build(..., head="pretraining") has them.'
        return super().hint(missing, left_over)


def _prefix(model: keras.Model) -> Mapping[str, Mapping[str, str]]:
    """The prefix of the trunk's names: empty in BertModel, which is the trunk alone."""
    layers = {layer.name for layer in model.layers}
    alone = "pooler" in layers and not layers & {"head", "masked_lm", "next_sentence"}
    return {layer: {"bert": "" if alone else "bert."} for layer in layers}


_BERT = "({bert}|bert.|)"
_LAYER = _BERT + "encoder.layer.{i:0}"
_BIAS = Kind({"value": (".bias", SAME)})
# Also with the names of Google's TensorFlow code, as in the hub's first files.
_NORM = Kind({"gamma": ("(.weight|.gamma)", SAME), "beta": ("(.bias|.beta)", SAME)})
_WORDS, _DECODER = f"{_BERT}embeddings.word_embeddings", ("cls.predictions.decoder",)

BERT = Bert(
    "transformers",
    "bert-*",
    (
        Row("token_embedding", _WORDS, EMBEDDING, copies=_DECODER, where="masked_lm"),
        Row("token_embedding", _WORDS, EMBEDDING),
        Row("position_embedding", f"{_BERT}embeddings.position_embeddings", EMBEDDING),
        Row("segment_embedding", f"{_BERT}embeddings.token_type_embeddings", EMBEDDING),
        Row("embedding_norm", f"{_BERT}embeddings.LayerNorm", _NORM),
        Row("block{i}_attention_query", f"{_LAYER}.attention.self.query", DENSE),
        Row("block{i}_attention_key", f"{_LAYER}.attention.self.key", DENSE),
        Row("block{i}_attention_value", f"{_LAYER}.attention.self.value", DENSE),
        Row("block{i}_attention_output", f"{_LAYER}.attention.output.dense", DENSE),
        Row("block{i}_norm1", f"{_LAYER}.attention.output.LayerNorm", _NORM),
        Row("block{i}_mlp1", f"{_LAYER}.intermediate.dense", DENSE),
        Row("block{i}_mlp2", f"{_LAYER}.output.dense", DENSE),
        Row("block{i}_norm2", f"{_LAYER}.output.LayerNorm", _NORM),
        Row("pooler", f"{_BERT}pooler.dense", DENSE),
        Row("masked_lm", "cls.predictions.transform.dense", DENSE),
        Row("masked_lm_norm", "cls.predictions.transform.LayerNorm", _NORM),
        Row("masked_lm_bias", "cls.predictions", _BIAS, copies=_DECODER),
        Row("next_sentence", "cls.seq_relationship", DENSE),
        Row("head", "qa_outputs", DENSE, where="span"),
        Row("head", "classifier", DENSE),
    ),
    _prefix,
    heads=("cls.*", "classifier.*", "qa_outputs.*"),
    spare=("*pooler.dense.*",),
)


def gpt2(trunk: str, head: str, dense: Kind, attention: tuple[str, Kind]) -> tuple[Row, ...]:
    """GPT-2's names, also used by minGPT and nanoGPT, whose kernels are stored differently."""
    block, (name, stacked) = trunk + "h.{i:0}", attention
    parts = ("block{i}_attention_query", "block{i}_attention_key", "block{i}_attention_value")
    return (
        Row("token_embedding", f"{trunk}wte", EMBEDDING, where="head"),
        Row("token_embedding", f"{trunk}wte", EMBEDDING, copies=[head]),
        Row("head", head, DENSE),
        Row("position_embedding", f"{trunk}wpe", EMBEDDING),
        Row("block{i}_norm1", f"{block}.ln_1", LAYER_NORM),
        Row(parts, f"{block}.{name}", stacked),
        Row("block{i}_attention_output", f"{block}.attn.c_proj", dense),
        Row("block{i}_norm2", f"{block}.ln_2", LAYER_NORM),
        Row("block{i}_mlp1", f"{block}.mlp.c_fc", dense),
        Row("block{i}_mlp2", f"{block}.mlp.c_proj", dense),
        Row("norm", f"{trunk}ln_f", LAYER_NORM),
    )


# Its Conv1D stores kernels (in, out), as we do. Earlier versions saved the attention masks in files.
CONV1D = Kind({"kernel": (".weight", SAME), "bias": (".bias", SAME)})
MASKS = ("*.attn.bias", "*.attn.masked_bias")

GPT2 = Layout(
    "transformers",
    "gpt*",
    gpt2("(transformer.|)", "lm_head", CONV1D, ("attn.c_attn", CONV1D)),
    spare=MASKS,
)

_RMS_NORM = Kind({"gamma": (".weight", SAME)})


def _attention(ours: str, theirs: str) -> tuple[Row, ...]:
    parts = {"query": "q", "key": "k", "value": "v", "output": "o"}
    return tuple(Row(f"{ours}_{part}", f"{theirs}.{letter}", DENSE) for part, letter in parts.items())


def _stack(name: str, mlp: int) -> tuple[Row, ...]:
    """The encoder or the decoder, whose mlp is the layer `mlp` of a block; version 1.1 has gates."""
    ours, theirs = name + "_block{i}", name + ".block.{i:0}.layer"
    feed, first = f"{theirs}.{mlp}.DenseReluDense", f"{name}.block.0.layer.0.SelfAttention"
    return (
        Row(f"{name}_positions", f"{first}.relative_attention_bias", EMBEDDING),
        Row(f"{ours}_attention_norm", f"{theirs}.0.layer_norm", _RMS_NORM),
        *_attention(f"{ours}_attention", f"{theirs}.0.SelfAttention"),
        Row(f"{ours}_mlp_norm", f"{theirs}.{mlp}.layer_norm", _RMS_NORM),
        Row(f"{ours}_mlp_gate", f"{feed}.wi_0", DENSE),
        Row(f"{ours}_mlp_in", f"{feed}.wi_1", DENSE, where=f"{name}_block1_mlp_gate"),
        Row(f"{ours}_mlp_in", f"{feed}.wi", DENSE),
        Row(f"{ours}_mlp_out", f"{feed}.wo", DENSE),
        Row(f"{name}_norm", f"{name}.final_layer_norm", _RMS_NORM),
    )


_SHARED = ("encoder.embed_tokens", "decoder.embed_tokens")
_MEMORY = "decoder.block.{i:0}.layer.1"

T5 = Layout(
    "transformers",
    "t5-*",
    (
        Row("token_embedding", "shared", EMBEDDING, copies=_SHARED, where="head"),
        Row("token_embedding", "shared", EMBEDDING, copies=(*_SHARED, "lm_head")),
        *_stack("encoder", 1),
        *_stack("decoder", 2),
        Row("decoder_block{i}_memory_norm", f"{_MEMORY}.layer_norm", _RMS_NORM),
        *_attention("decoder_block{i}_memory", f"{_MEMORY}.EncDecAttention"),
        Row("head", "lm_head", DENSE),
    ),
    # The first files contain one that is unused.
    spare=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",),
)

LAYOUTS = (VIT, BERT, GPT2, T5)
