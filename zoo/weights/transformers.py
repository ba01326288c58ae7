"""transformers' names (5.23): ViT. Files on the hub keep those of version 4, the older ones.

A config that says layer_norm_eps=1e-12, as most do, calls for a model built with norm_epsilon=1e-12.
"""

from __future__ import annotations

from zoo.weights.layouts import CONV, DENSE, LAYER_NORM, VALUE, Layout, Row

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
)

LAYOUTS = (VIT,)
