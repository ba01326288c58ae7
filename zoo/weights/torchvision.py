"""torchvision's names (0.28): AlexNet, VGG, ResNet, EfficientNet, ViT."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zoo.weights.layouts import (
    BATCH_NORM,
    CONV,
    DENSE,
    IN_PROJ,
    LAYER_NORM,
    VALUE,
    Layout,
    Row,
    flattened,
    resample_corners,
)

if TYPE_CHECKING:
    import keras


def in_sequence(model: keras.Model) -> Mapping[str, Mapping[str, int]]:
    """The index `n` in one Sequential, which counts every activation and pooling."""
    steps = [op for op in model.operations if type(op).__name__ not in ("InputLayer", "Identity")]
    return {op.name: {"n": n} for n, op in enumerate(steps)}


def after_stages(model: keras.Model) -> Mapping[str, Mapping[str, int]]:
    """The index `n` of the last convolution: after the stem and all stages."""
    project = Row("stage{s}_block{b}_project", "", CONV)
    stages = max((match[1]["s"] for op in model.operations if (match := project.match(op.name))), default=0)
    return {"top": {"n": stages + 1}, "top_norm": {"n": stages + 1}}


ALEXNET = Layout(
    "torchvision",
    "alexnet",
    (
        Row("conv{i}", "features.{n}", CONV),
        Row("dense1", "classifier.1", flattened(6)),
        Row("dense2", "classifier.4", DENSE),
        Row("head", "classifier.6", DENSE),
    ),
    in_sequence,
)

VGG = Layout(
    "torchvision",
    "vgg*",
    (
        Row("stage{s}_conv{i}", "features.{n}", CONV),
        Row("stage{s}_conv{i}_norm", "features.{n}", BATCH_NORM),
        Row("dense1", "classifier.0", flattened(7)),
        Row("dense2", "classifier.3", DENSE),
        Row("head", "classifier.6", DENSE),
    ),
    in_sequence,
)

RESNET = Layout(
    "torchvision",
    "resnet*",
    (
        Row("stem", "conv1", CONV),
        Row("stem_norm", "bn1", BATCH_NORM),
        Row("stage{s}_block{b}_conv{i}", "layer{s}.{b:0}.conv{i}", CONV),
        Row("stage{s}_block{b}_conv{i}_norm", "layer{s}.{b:0}.bn{i}", BATCH_NORM),
        Row("stage{s}_block{b}_shortcut", "layer{s}.{b:0}.downsample.0", CONV),
        Row("stage{s}_block{b}_shortcut_norm", "layer{s}.{b:0}.downsample.1", BATCH_NORM),
        Row("head", "fc", DENSE),
    ),
)

# The blocks of the first stage do not expand, so later indices are one lower.
EFFICIENTNET = Layout(
    "torchvision",
    "efficientnet-*",
    (
        Row("stem", "features.0.0", CONV),
        Row("stem_norm", "features.0.1", BATCH_NORM),
        Row("stage1_block{b}_depthwise", "features.1.{b:0}.block.0.0", CONV),
        Row("stage1_block{b}_depthwise_norm", "features.1.{b:0}.block.0.1", BATCH_NORM),
        Row("stage1_block{b}_squeeze", "features.1.{b:0}.block.1.fc1", CONV),
        Row("stage1_block{b}_excite", "features.1.{b:0}.block.1.fc2", CONV),
        Row("stage1_block{b}_project", "features.1.{b:0}.block.2.0", CONV),
        Row("stage1_block{b}_project_norm", "features.1.{b:0}.block.2.1", BATCH_NORM),
        Row("stage{s}_block{b}_expand", "features.{s}.{b:0}.block.0.0", CONV),
        Row("stage{s}_block{b}_expand_norm", "features.{s}.{b:0}.block.0.1", BATCH_NORM),
        Row("stage{s}_block{b}_depthwise", "features.{s}.{b:0}.block.1.0", CONV),
        Row("stage{s}_block{b}_depthwise_norm", "features.{s}.{b:0}.block.1.1", BATCH_NORM),
        Row("stage{s}_block{b}_squeeze", "features.{s}.{b:0}.block.2.fc1", CONV),
        Row("stage{s}_block{b}_excite", "features.{s}.{b:0}.block.2.fc2", CONV),
        Row("stage{s}_block{b}_project", "features.{s}.{b:0}.block.3.0", CONV),
        Row("stage{s}_block{b}_project_norm", "features.{s}.{b:0}.block.3.1", BATCH_NORM),
        Row("top", "features.{n}.0", CONV),
        Row("top_norm", "features.{n}.1", BATCH_NORM),
        Row("head", "classifier.1", DENSE),
    ),
    after_stages,
)

_QKV = ("block{i}_attention_query", "block{i}_attention_key", "block{i}_attention_value")
_LAYER = "encoder.layers.encoder_layer_{i:0}"

VIT = Layout(
    "torchvision",
    "vit-*",
    (
        Row("class_token", "class_token", VALUE),
        Row("patch_embedding", "conv_proj", CONV),
        Row("position_embedding", "encoder.pos_embedding", VALUE),
        Row("block{i}_norm1", f"{_LAYER}.ln_1", LAYER_NORM),
        Row(_QKV, f"{_LAYER}.self_attention.in_proj", IN_PROJ),
        Row("block{i}_attention_output", f"{_LAYER}.self_attention.out_proj", DENSE),
        Row("block{i}_norm2", f"{_LAYER}.ln_2", LAYER_NORM),
        Row("block{i}_mlp1", f"{_LAYER}.mlp.0", DENSE, older=f"{_LAYER}.mlp.linear_1"),
        Row("block{i}_mlp2", f"{_LAYER}.mlp.3", DENSE, older=f"{_LAYER}.mlp.linear_2"),
        Row("norm", "encoder.ln", LAYER_NORM),
        Row("head", "heads.head", DENSE),
    ),
    resize=resample_corners,
)

LAYOUTS = (ALEXNET, VGG, RESNET, EFFICIENTNET, VIT)
