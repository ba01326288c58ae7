"""Models from elsewhere: those of keras.applications, and small ones of every kind of Keras layer."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray
Case = tuple[Callable[[], Any], Any]
RNG = np.random.default_rng(0)


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def application(name: str) -> Callable[[], Any]:
    """A model of keras.applications, random weights, 5 classes, for images of 32 pixels or the least."""

    def build() -> Any:
        import keras

        size = {"Xception": 71, "InceptionV3": 75, "InceptionResNetV2": 75}.get(name, 32)
        return getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=5)

    return build


def chain(shape: tuple[int, ...], make: Callable[[Any], list[Any]]) -> Callable[[], Any]:
    """A functional model of layers one after the other, then a dense layer."""

    def build() -> Any:
        import keras

        inputs = x = keras.Input(shape)
        for layer in make(keras.layers):
            x = layer(x)
        return keras.Model(inputs, keras.layers.Dense(3, name="last")(keras.layers.Flatten()(x)))

    return build


def subclass() -> Any:
    import keras

    class Block(keras.layers.Layer):
        def __init__(self, width: int):
            super().__init__()
            self.dense, self.norm = keras.layers.Dense(width), keras.layers.LayerNormalization()
            self.drop = keras.layers.Dropout(0.3)

        def call(self, x: Any, training: bool | None = None) -> Any:
            return x + self.drop(keras.ops.gelu(self.dense(self.norm(x))), training=training)

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.blocks, self.head = [Block(6), Block(6)], keras.layers.Dense(3)

        def call(self, x: Any, training: bool | None = None) -> Any:
            for block in self.blocks:
                x = block(x, training=training)
            return self.head(x), keras.ops.mean(x, axis=-1)

    return Own()


def nested() -> Any:
    import keras

    inner_input = keras.Input((6,))
    inner = keras.Model(inner_input, keras.layers.Dense(6, activation="silu")(inner_input), name="inner")
    x = keras.Input((6,))
    return keras.Model(x, keras.layers.Dense(2)(inner(inner(x))))


def several() -> Any:
    """Two inputs; outputs of floats, of integers, and of a tuple."""
    import keras

    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b")
    x = keras.layers.Concatenate()([keras.layers.Dense(5)(a), b])
    values, indices = keras.ops.top_k(x, 3)
    y, h, c = keras.layers.LSTM(4, return_state=True, return_sequences=True)(x[..., None])
    return keras.Model([a, b], [values, indices, keras.layers.GlobalAveragePooling1D()(y), h, c])


def operations() -> Any:
    """Operations in the graph without layers."""
    import keras

    o = keras.ops
    x = keras.Input((4, 6))
    y = keras.layers.Dense(6)(x)
    y = o.softmax(y, axis=-1) @ o.transpose(o.tanh(y), (0, 2, 1)) + o.log1p(o.abs(y[:, :, :4]))
    y = o.einsum("bij,bjk->bik", y, o.concatenate([o.sin(y), o.cumsum(y, axis=1)], axis=-1))
    y = o.where(y > 0, o.sqrt(o.abs(y) + 1), o.exp(-o.square(y)))
    z = o.stack(
        [o.mean(y, axis=1), o.max(y, axis=1), o.logsumexp(y, axis=1), o.prod(y[:, :2], axis=1)], axis=1
    )
    z = o.sort(o.clip(z, -2, 2), axis=-1) * o.sigmoid(o.roll(z, 1, axis=-1))
    return keras.Model(x, keras.layers.Dense(3)(o.reshape(z, (-1, 32))))


def untrained() -> Any:
    """Without weights."""
    import keras

    x = keras.Input((6,))
    return keras.Model(x, keras.ops.softmax(keras.layers.Lambda(lambda t: 2 * t)(x)))


def ill_conditioned() -> Any:
    """A bias before batch norm has a gradient of zero, which is computed as rounding."""
    import keras

    x = keras.Input((6,))
    y = keras.layers.BatchNormalization()(keras.layers.Dense(8)(x))
    return keras.Model(x, keras.layers.Dense(3)(keras.ops.relu(y)))


# At a kink the frameworks take different derivatives, so no model has values exactly there: zeros before a
# selu, as a PReLU of zeros makes them, or values clipped twice at the same bound.
IMAGE, SEQUENCE = (8, 8, 3), (7, 4)
CHAINS: dict[str, tuple[tuple[int, ...], Callable[[Any], list[Any]]]] = {
    "convolutions": (IMAGE, lambda k: [
        k.Conv2D(4, 3, padding="same", activation="relu"), k.DepthwiseConv2D(3), k.SeparableConv2D(5, 3),
        k.Conv2DTranspose(3, 3, strides=2),
    ]),
    "convolutions of sequences": (SEQUENCE, lambda k: [
        k.Conv1D(5, 3, padding="causal", dilation_rate=2), k.SeparableConv1D(4, 2), k.Conv1DTranspose(4, 3),
        k.DepthwiseConv1D(2), k.GlobalMaxPooling1D(keepdims=True),
    ]),
    "volumes": ((4, 6, 6, 2), lambda k: [
        k.Conv3D(3, 2), k.MaxPooling3D((1, 2, 2)), k.UpSampling3D(2), k.AveragePooling3D(2), k.Cropping3D(0),
    ]),
    "pooling": (IMAGE, lambda k: [
        k.MaxPooling2D(3, 2, "same"), k.ZeroPadding2D(1), k.AveragePooling2D(2), k.UpSampling2D(2),
        k.Cropping2D(1),
    ]),
    "norms": (IMAGE, lambda k: [
        k.BatchNormalization(), k.LayerNormalization(), k.GroupNormalization(3), k.UnitNormalization(),
        k.RMSNormalization(), k.SpectralNormalization(k.Dense(4)),
    ]),
    "noise": (IMAGE, lambda k: [
        k.Dropout(0.3), k.SpatialDropout2D(0.2, seed=3), k.GaussianNoise(0.1), k.GaussianDropout(0.2),
        k.AlphaDropout(0.2), k.ActivityRegularization(1e-3),
    ]),
    "random images": (IMAGE, lambda k: [k.RandomFlip(seed=1), k.RandomBrightness(0.2)]),
    "activations": (SEQUENCE, lambda k: [
        k.LeakyReLU(), k.PReLU("random_uniform"), k.ELU(), k.Dense(4, "gelu"), k.Dense(4, "mish"),
        k.Dense(4, "selu"), k.Dense(4, "softplus"), k.Dense(4, "hard_sigmoid"), k.Softmax(),
    ]),
    "recurrent": (SEQUENCE, lambda k: [
        k.LSTM(4, return_sequences=True, dropout=0.2), k.GRU(3, return_sequences=True),
        k.Bidirectional(k.SimpleRNN(3, return_sequences=True)), k.TimeDistributed(k.Dense(2)),
    ]),
    "recurrent images": ((3, 6, 6, 2), lambda k: [k.ConvLSTM2D(3, 3, padding="same")]),
    "shapes": (SEQUENCE, lambda k: [
        k.Permute((2, 1)), k.Reshape((14, 2)), k.ZeroPadding1D(1), k.Cropping1D(2), k.UpSampling1D(2),
        k.AveragePooling1D(2), k.EinsumDense("abc,cd->abd", (12, 3)),
    ]),
}  # fmt: skip


def attention() -> Any:
    import keras

    x = keras.Input((6,), dtype="int32")
    y = keras.layers.Embedding(11, 8, mask_zero=True)(x)
    y = keras.layers.MultiHeadAttention(2, 4, dropout=0.1)(y, y)
    y = keras.layers.GroupQueryAttention(4, 4, 2)(y, y)
    y = keras.layers.Attention(use_scale=True)([y, y]) + keras.layers.AdditiveAttention()([y, y])
    return keras.Model(x, keras.layers.Dense(3)(keras.layers.GRU(5)(y)))


TOKENS = RNG.integers(1, 11, size=(8, 6)).astype(np.int32)
TOKENS[:, 4:] = 0  # padding


def packaged(package: str, name: str, **arguments: Any) -> Callable[[], Any]:
    """A model of another package, random weights."""

    def build() -> Any:
        return getattr(importlib.import_module(package), name)(**arguments)

    return build


SMALL: dict[str, Case] = {
    **{name: (chain(shape, make), floats(8, *shape)) for name, (shape, make) in CHAINS.items()},
    "attention": (attention, TOKENS),
    "subclass": (subclass, floats(8, 6)),
    "nested": (nested, floats(8, 6)),
    "several inputs and outputs": (several, {"a": floats(8, 4), "b": floats(8, 5)}),
    "operations": (operations, floats(8, 4, 6)),
    "untrained": (untrained, floats(8, 6)),
    "ill-conditioned": (ill_conditioned, floats(8, 6)),
}
APPLICATIONS: dict[str, Case] = {
    name: (application(name), floats(2, size, size, 3))
    for name, size in (
        ("MobileNetV3Small", 32), ("MobileNetV3Large", 32), ("MobileNetV2", 32), ("MobileNet", 32),
        ("EfficientNetB0", 32), ("EfficientNetV2B0", 32), ("DenseNet121", 32), ("ResNet50", 32),
        ("ResNet50V2", 32), ("NASNetMobile", 32), ("ConvNeXtTiny", 32), ("VGG16", 32), ("Xception", 71),
        ("InceptionV3", 75), ("InceptionResNetV2", 75),
    )
}  # fmt: skip
NOT_ON_TORCH = ("NASNetMobile",)  # keras.applications refuses to build it there

# Packages that are no dependency: `pip install kimm keras-hub`.
KIMM: dict[str, Case] = {
    name: (
        packaged("kimm.models", name, weights=None, input_shape=(size, size, 3), classes=5),
        floats(2, size, size, 3),
    )
    for name, size in (
        ("MobileNetV3W050Small", 32), ("LCNet035", 32), ("GhostNetW050", 32), ("RegNetX002", 32),
        ("ConvMixer736D32", 32), ("MobileViTXXS", 64), ("VisionTransformerTiny32", 64),
    )
}  # fmt: skip
TEXT = {"token_ids": TOKENS, "padding_mask": (TOKENS > 0).astype(np.int32)}
TINY = {"vocabulary_size": 11, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "intermediate_dim": 16}
HUB: dict[str, Case] = {
    "BertBackbone": (
        packaged("keras_hub.models", "BertBackbone", **TINY, max_sequence_length=8),
        {**TEXT, "segment_ids": np.zeros_like(TOKENS)},
    ),
    **{
        name: (packaged("keras_hub.models", name, **TINY, max_sequence_length=8), TEXT)
        for name in ("GPT2Backbone", "RobertaBackbone", "DistilBertBackbone", "OPTBackbone")
    },
}
