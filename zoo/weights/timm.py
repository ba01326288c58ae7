"""timm's names (1.0): ResNet, EfficientNet, ViT.

Its `tf_efficientnet` weights were trained by TensorFlow: build the model with padding="same" and
norm_epsilon=1e-3; for other weights of `efficientnet_b5` to b7, build it with norm_epsilon=1e-5. With other
settings the outputs differ.
"""

from __future__ import annotations

from dataclasses import replace

import zoo.weights.torchvision as torchvision
from zoo.weights.layouts import BATCH_NORM, CONV, DENSE, LAYER_NORM, VALUE, Layout, Row

RESNET = replace(torchvision.RESNET, name="timm")

# The blocks of the first stage do not expand, so the numbers of their other parts are one lower.
EFFICIENTNET = Layout(
    "timm",
    "efficientnet-*",
    (
        Row("stem", "conv_stem", CONV),
        Row("stem_norm", "bn1", BATCH_NORM),
        Row("stage{s}_block{b}_expand", "blocks.{s:0}.{b:0}.conv_pw", CONV),
        Row("stage{s}_block{b}_expand_norm", "blocks.{s:0}.{b:0}.bn1", BATCH_NORM),
        Row("stage{s}_block{b}_depthwise", "blocks.{s:0}.{b:0}.conv_dw", CONV),
        Row("stage1_block{b}_depthwise_norm", "blocks.0.{b:0}.bn1", BATCH_NORM),
        Row("stage{s}_block{b}_depthwise_norm", "blocks.{s:0}.{b:0}.bn2", BATCH_NORM),
        Row("stage{s}_block{b}_squeeze", "blocks.{s:0}.{b:0}.se.conv_reduce", CONV),
        Row("stage{s}_block{b}_excite", "blocks.{s:0}.{b:0}.se.conv_expand", CONV),
        Row("stage1_block{b}_project", "blocks.0.{b:0}.conv_pw", CONV),
        Row("stage1_block{b}_project_norm", "blocks.0.{b:0}.bn2", BATCH_NORM),
        Row("stage{s}_block{b}_project", "blocks.{s:0}.{b:0}.conv_pwl", CONV),
        Row("stage{s}_block{b}_project_norm", "blocks.{s:0}.{b:0}.bn3", BATCH_NORM),
        Row("top", "conv_head", CONV),
        Row("top_norm", "bn2", BATCH_NORM),
        Row("head", "classifier", DENSE),
    ),
)

_QKV = ("block{i}_attention_query", "block{i}_attention_key", "block{i}_attention_value")

VIT = Layout(
    "timm",
    "vit-*",
    (
        Row("class_token", "cls_token", VALUE),
        Row("patch_embedding", "patch_embed.proj", CONV),
        Row("position_embedding", "pos_embed", VALUE),
        Row("block{i}_norm1", "blocks.{i:0}.norm1", LAYER_NORM),
        Row(_QKV, "blocks.{i:0}.attn.qkv", DENSE),
        Row("block{i}_attention_output", "blocks.{i:0}.attn.proj", DENSE),
        Row("block{i}_norm2", "blocks.{i:0}.norm2", LAYER_NORM),
        Row("block{i}_mlp1", "blocks.{i:0}.mlp.fc1", DENSE),
        Row("block{i}_mlp2", "blocks.{i:0}.mlp.fc2", DENSE),
        Row("norm", "norm", LAYER_NORM),
        Row("head", "head", DENSE),
    ),
)

LAYOUTS = (RESNET, EFFICIENTNET, VIT)
