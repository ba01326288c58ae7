"""The depth of a model's layers, by which learning rates fall and frozen layers are unfrozen.

Depth 0 are the embeddings or the stem; each block is one deeper than the block before it, and the head has
the largest depth, with the layers between the last block and it. This is BEiT's convention (Bao et al. 2022,
arXiv:2106.08254, section 3.2), also timm's.

    vit-b16      embeddings 0, block1 1 ... block12 12, norm and head 13
    resnet18     stem 0, stage1_block1 1, stage1_block2 2 ... stage4_block2 8, head 9
    t5-small     embeddings 0, encoder_block1 1 ... encoder_norm 7, decoder_block1 8 ... decoder_norm 14

A block is what a model file names so. A layer outside any block counts as one, together with its
normalization, or with the other direction of a recurrence.
"""

from __future__ import annotations

import re

from zoo._lazy import keras
from zoo.layers.signature import features, layers_of

STEM, HEAD = "(embeddings)", "(head)"  # the blocks at both ends
EMBEDDINGS = re.compile(r"embedding|class_token|positions$")
BLOCK = re.compile(r"(?:encoder_|decoder_)?(?:stage\d+_)?(?:block|layer)\d+(?=_|$)")
LAST = re.compile(r"(?:decoder_)?norm|top(?:_norm)?")  # between the last block and the head
PART = re.compile(r"_(?:norm|forward|backward|first_[hc]|weight|bias|\d+)$|(?:for|back)ward$")  # of a block


def head(model: keras.Model) -> list[keras.layers.Layer]:
    """The layers after the layer "features", or the last one with weights in a model without such a layer."""
    if any(layer.name == "features" for layer in model.layers):
        before = {id(layer) for layer in features(model).layers}
        return layers_of(layer for layer in model.layers if id(layer) not in before)
    return [layer for layer in layers_of(model.layers) if weights(layer)][-1:]


def weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """What a layer learns unless it is frozen: without running statistics and counters."""
    return [v for part in layer._flatten_layers() for v in part._trainable_variables]


def depths(model: keras.Model) -> list[tuple[keras.layers.Layer, int]]:
    """Every layer of a model with its depth, in the order of its graph.

    A layer without weights is as deep as its block, or else as the layer before it.
    """
    layers = layers_of(model.layers)
    top = {id(layer) for layer in head(model)}
    keys = [_block(layer.name, is_head=id(layer) in top) for layer in layers]
    # A block is complete with its last layer: in a graph of two stacks their first layers may be mixed.
    order = {key: i for i, (layer, key) in enumerate(zip(layers, keys, strict=True)) if weights(layer)}
    inner = sorted((key for key in order if key not in (STEM, HEAD)), key=order.__getitem__)
    names = [*([STEM] if STEM in order else []), *inner, HEAD]
    depth = {name: i for i, name in enumerate(names)}
    found, last = [], 0
    for layer, key in zip(layers, keys, strict=True):
        last = depth.get(key, last)
        found.append((layer, last))
    return found


def _block(name: str, *, is_head: bool) -> str:
    """The name of the block of a layer."""
    if is_head or LAST.fullmatch(name):
        return HEAD
    if match := BLOCK.match(name):
        return match[0]
    if EMBEDDINGS.search(name):
        return STEM
    return PART.sub("", name)
