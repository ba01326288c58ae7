"""Visualization: feature maps, filters, attention, Grad-CAM, and the confusion matrix of a classifier.

    zoo.show.feature_maps(model, "photo.jpg", "stage1")
    zoo.show.filters(model, "stem")
    zoo.show.attention(vit, "photo.jpg", block=12)
    zoo.show.grad_cam(model, "photo.jpg").save("why.png")
    zoo.show.confusion(run)

Each function returns a `Picture`, which a notebook displays; its `values` are NumPy arrays, the same on every
framework. An `image` is a path, a PIL image or bytes (h, w, c), preprocessed as the model card says, or a
float array (h, w, c) that is already preprocessed. A model may also be a run of `zoo.train`, or its path
(`zoo.load_run`), whose images are preprocessed as in training. Indices in a picture are those of `values`,
from 0.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import backends
from zoo._lazy import keras, ops
from zoo.checks import is_integer
from zoo.errors import UnknownName, WrongConfiguration, nearest
from zoo.prediction import Photo, prepared, preprocessing_for, softmax
from zoo.preprocessing import load
from zoo.show import figures
from zoo.show.classification import calibration, confusion
from zoo.show.figures import Picture
from zoo.training import runs

__all__ = [
    "Picture",
    "attention",
    "attention_rollout",
    "attention_weights",
    "calibration",
    "confusion",
    "feature_maps",
    "filters",
    "grad_cam",
    "learning_rates",
    "use_fonts",
]

if TYPE_CHECKING:
    from zoo.training.finder import LearningRates
    from zoo.training.run import Run
    from zoo.training.runs import SavedRun

    Model = keras.Model
    ModelOrRun = Model | SavedRun | Run | str | Path

MOST, COLUMNS = 64, 8  # tiles in a picture and in a row of it; `values` has all of them
SIDE = 16  # rows and columns of a table of filters and channels
CHINESE = (  # fonts of Linux, Windows and macOS with simplified Chinese characters, in order of preference
    "Noto Sans CJK SC", "Noto Sans SC", "Noto Sans CJK JP", "Source Han Sans SC", "Source Han Sans CN",
    "Microsoft YaHei", "PingFang SC", "Hiragino Sans GB", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei",
    "Droid Sans Fallback", "SimHei", "STHeiti", "Heiti TC", "Arial Unicode MS",
)  # fmt: skip


def feature_maps(model: ModelOrRun, image: Photo, at: str) -> Picture:
    """The feature maps of a layer: values (h, w, c), one map per channel.

    `at` is a name of `zoo.features`: "stage1", "conv1", "block12" (whose tokens are arranged like the
    patches, without the class token). Raises UnknownName, and WrongConfiguration for an output that is not a
    feature map.
    """
    model = runs.model_of(model)
    layer = _layer(model, at)
    if len(layer.output.shape) not in (3, 4):
        raise WrongConfiguration(
            f"{model.name}: {at} gives {layer.output.shape[1:]}; expected a map (h, w, c)"
        )
    if len(layer.output.shape) == 3:
        _attention_layers(model)  # raises unless the tokens are patches
    x, _ = _inputs(model, image)
    maps = _values(model, x, [layer.output])[0]
    if maps.ndim == 2:
        maps = _patch_grid(model, maps.T).transpose(1, 2, 0)
    h, w, c = maps.shape
    return Picture(
        f"{model.name}, {at}: {_count(c, MOST)} maps of {h} × {w}",
        maps,
        partial(
            figures.sheet,
            tiles=maps.transpose(2, 0, 1)[:MOST],
            columns=min(COLUMNS, c),
            counted="channel",
            unit="activation",
        ),
    )


def filters(model: ModelOrRun, at: str) -> Picture:
    """The kernels of a convolution: values (h, w, in, out).

    Kernels with three input channels are drawn in colour, grey where they are 0; otherwise a row is a filter
    and a column one of its input channels. Raises UnknownName, and WrongConfiguration for a layer without
    kernels.
    """
    model = runs.model_of(model)
    layer = _layer(model, at)
    if len(getattr(layer, "kernel", np.zeros(())).shape) != 4:
        raise WrongConfiguration(
            f"{model.name}: {at} is a {type(layer).__name__}; filters are a convolution's"
        )
    kernel = _numpy(layer.kernel)
    h, w, channels, count = kernel.shape
    if channels in (1, 3):
        what = f"{_count(count, MOST)} filters of {h} × {w}"
        tiles = kernel.transpose(3, 0, 1, 2)[:MOST]  # (out, h, w, in)
        tiles = 0.5 + tiles / (2 * np.abs(tiles).max() or 1) if channels == 3 else tiles[..., 0]
        columns, across = min(COLUMNS, count), ""
    else:
        what = f"{_count(count, SIDE)} filters of {h} × {w}, {_count(channels, SIDE)} channels"
        tiles = kernel.transpose(3, 2, 0, 1)[:SIDE, :SIDE].reshape(-1, h, w)  # (out in, h, w)
        columns, across = min(SIDE, channels), "channel"
    return Picture(
        f"{model.name}, {at}: {what}",
        kernel,
        partial(figures.sheet, tiles=tiles, columns=columns, counted="filter", across=across, unit="weight"),
    )


def attention(model: ModelOrRun, image: Photo, block: int | None = None) -> Picture:
    """The attention weights of each head of a block, by default the last: values (heads, rows, columns).

    The weights of the class token for each patch; without a class token, the mean over all patches. Raises
    WrongConfiguration for a model without attention over patches, UnknownName for a block that does not
    exist.
    """
    model = runs.model_of(model)
    layers = _attention_layers(model)
    block = len(layers) if block is None else block
    if not is_integer(block) or block > len(layers):
        raise UnknownName(f"{model.name} has no block {block!r}; there are 1 to {len(layers)}")
    x, photo = _inputs(model, image)
    values = _patch_weights(model, _weights(model, x, layers[block - 1 : block])[0])
    names = [f"head {i}" for i in range(len(values))]
    return Picture(
        f"{model.name}, block {block}: attention of each head to the patches",
        values,
        partial(figures.heat, photo=photo, maps=values, names=names, unit="attention"),
    )


def attention_rollout(model: ModelOrRun, image: Photo) -> Picture:
    """The attention of the head to each patch through all blocks: values (rows, columns).

    Abnar and Zuidema 2020, "Quantifying attention flow in transformers", arXiv:2005.00928, section 3: the
    product of each block's (A + I) / 2, where A is the mean of its heads. Raises the errors of `attention`.
    """
    model = runs.model_of(model)
    layers = _attention_layers(model)
    x, photo = _inputs(model, image)
    weights = _weights(model, x, layers).astype(np.float64)
    rolled = np.eye(weights.shape[-1])
    for heads in weights:
        rolled = (heads.mean(0) + np.eye(len(rolled))) / 2 @ rolled
    values = _patch_weights(model, rolled[None].astype(np.float32))[0]
    return Picture(
        f"{model.name}: attention rolled out through {len(layers)} blocks",
        values,
        partial(figures.heat, photo=photo, maps=values[None], names=["rollout"], unit="share"),
    )


def attention_weights(model: ModelOrRun, image: Photo) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) of every block and head: (blocks, heads, n, n); each row sums to 1.

    There are n tokens, the class token first if there is one. Raises the errors of `attention`.
    """
    model = runs.model_of(model)
    layers = _attention_layers(model)
    return _weights(model, _inputs(model, image)[0], layers)


def grad_cam(model: ModelOrRun, image: Photo, label: int | None = None, at: str | None = None) -> Picture:
    """Grad-CAM, the image regions that support a class: values (h, w), relu(sum_k alpha_k A_k).

    Selvaraju et al. 2016, "Grad-CAM: visual explanations from deep networks via gradient-based localization",
    arXiv:1610.02391, eq. 1 and 2: A_k is channel k of the feature map `at`, by default the last one that the
    model names, and alpha_k the mean over the map of the gradient of the class's logit. `label` is by default
    the most likely class. Raises UnknownName, and WrongConfiguration for a layer whose output is not a map
    (h, w, c).
    """
    model = runs.model_of(model)
    at = _last_map(model) if at is None else at
    layer = _layer(model, at)
    if len(layer.output.shape) != 4:
        raise WrongConfiguration(
            f"{model.name}: {at} gives {layer.output.shape[1:]}; Grad-CAM takes a map (h, w, c), and "
            "attention_rollout is for transformers"
        )
    classes = model.output_shape[-1]
    if label is not None and label not in range(classes):
        raise WrongConfiguration(f"label={label!r}; {model.name} has classes 0 to {classes - 1}")
    x, photo = _inputs(model, image)
    maps, logits = _values(model, x, [layer.output, *model.outputs])
    label = int(logits.argmax()) if label is None else label

    alpha = _gradient(model, layer, x, label).mean((0, 1))  # eq. 1
    values = np.maximum(maps @ alpha, 0)  # eq. 2
    return Picture(
        f"{model.name}, {at}: Grad-CAM of class {label}, logit {logits[label]:.2f}",
        values,
        partial(
            figures.heat,
            photo=photo,
            maps=values[None],
            names=[f"class {label}"],
            unit="evidence",
            smooth=True,
        ),
    )


def learning_rates(found: LearningRates) -> Picture:
    """The losses of `zoo.find_learning_rate` over the rates: values (steps, 3), rate, loss, smoothed loss."""
    values = np.stack([found.rates, found.losses, found.smoothed], 1)
    title = f"Loss over the learning rate: {found.recipe}"
    return Picture(title, values, partial(figures.rates, values=values, suggestion=found.suggestion))


def use_fonts() -> list[str]:
    """Set matplotlib's fonts so that labels may contain Chinese characters; returns the families.

    Latin letters keep matplotlib's default font; the characters that it lacks come from the first family of
    `CHINESE` that is installed. If none is, those characters are drawn as boxes, without warnings.
    """
    import matplotlib as mpl

    chinese = _chinese_font() or _chinese_font(rescan=True)
    if chinese is None:
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
    mpl.rcParams["font.family"] = ["DejaVu Sans", *filter(None, [chinese])]
    return mpl.rcParams["font.family"]


def _chinese_font(rescan: bool = False) -> str | None:
    """The first of `CHINESE` that matplotlib lists; `rescan` adds fonts that were installed later."""
    from matplotlib import font_manager

    manager = font_manager.fontManager
    if rescan:
        for path in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
            with suppress(OSError, RuntimeError, ValueError):  # a file that matplotlib cannot read
                manager.addfont(path)
    installed = {font.name for font in manager.ttflist}
    return next((name for name in CHINESE if name in installed), None)


def _inputs(model: Model, image: Photo) -> tuple[np.ndarray, np.ndarray]:
    """The preprocessed image (h, w, c), and the image to display, in [0, 1]."""
    run = runs.run_of(model)
    preprocessing = run.preprocessing if run is not None else None
    preprocessing = preprocessing or preprocessing_for(model.name, model.input_shape[1:])
    x = prepared(image, preprocessing)
    if isinstance(image, np.ndarray) and np.issubdtype(image.dtype, np.floating):
        return x, (x - x.min()) / ((x.max() - x.min()) or 1)  # its normalization is unknown
    return x, preprocessing.crop(load(image, preprocessing.channels)) / 255


def _layers(model: Model) -> list[Any]:
    """The layers of a functional model. Raises WrongConfiguration for another model."""
    if not getattr(model, "inputs", None):
        raise WrongConfiguration(
            f"{model.name}: a {type(model).__name__} has no graph of layers; give a functional model"
        )
    return model.layers


def _layer(model: Model, name: str) -> Any:
    """The layer with this name. Raises UnknownName."""
    layers = {layer.name: layer for layer in _layers(model)}
    if name not in layers:
        raise UnknownName(f"{model.name} has no {name!r}; {nearest(str(name), layers)}")
    return layers[name]


def _last_map(model: Model) -> str:
    """The last map (h, w, c) that the model file names, or else the last output of a layer that is a map."""
    maps = [layer for layer in _layers(model) if len(layer.output.shape) == 4]
    named = [layer for layer in maps if type(layer).__name__ == "Identity"]
    if not maps:
        raise WrongConfiguration(f"{model.name} has no maps (h, w, c)")
    return (named or maps)[-1].name


def _values(model: Model, x: np.ndarray, tensors: Sequence[Any]) -> list[np.ndarray]:
    """The values of tensors of the model's graph for one example, in inference mode."""
    backend, graph = backends.current(), keras.Model(model.inputs, list(tensors))
    outputs = backend.predictor(graph, "eager")(backend.tensor(x[None]))  # compilation takes longer
    return [_numpy(y)[0] for y in keras.tree.flatten(outputs)]


def _numpy(tensor: Any) -> np.ndarray:
    """A copy in float64 if the tensor is, else in float32."""
    array = np.asarray(ops.convert_to_numpy(tensor))
    return array.astype(np.float64 if array.dtype == np.float64 else np.float32)


def _gradient(model: Model, layer: Any, x: np.ndarray, label: int) -> np.ndarray:
    """The gradient of a logit with respect to the output of a layer, in inference mode.

    It is the gradient with respect to zeros that are added to that output.
    """
    from zoo.layers.classes import Tap

    tap = Tap()

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        y = operation(*args, **kwargs)
        return tap(y) if operation is layer else y

    graph = keras.Model(model.inputs, model.outputs)  # a Sequential becomes functional
    tapped = keras.models.clone_model(graph, clone_function=lambda op: op, call_function=call)
    trained, state = tapped.trainable_variables, [v.value for v in tapped.non_trainable_variables]
    backend = backends.current()

    def logit(zeros: Any) -> Any:
        weights = [zeros if v is tap.zeros else v.value for v in trained]
        return tapped.stateless_call(weights, state, backend.tensor(x[None]), training=False)[0][0, label]

    zeros = ops.zeros(tap.zeros.shape, dtype=tap.zeros.dtype)
    return _numpy(backend.input_gradient(logit, zeros))[0]


def _attention_layers(model: Model) -> list[Any]:
    """The attention layers of a vision transformer, by block. Raises WrongConfiguration for another model."""
    layers = [layer for layer in _layers(model) if type(layer).__name__ == "Attention"]
    if not layers or "patch_embedding" not in {layer.name for layer in model.layers}:
        raise WrongConfiguration(f"{model.name} does not attend to patches; give a vision transformer")
    return layers


def _weights(model: Model, x: np.ndarray, layers: Sequence[Any]) -> np.ndarray:
    """The attention weights of these layers: (blocks, heads, n, n)."""
    inputs = _values(model, x, [tensor for layer in layers for tensor in layer.input[:2]])
    n, heads = len(inputs[0]), layers[0].heads
    split = np.reshape(inputs, (len(layers), 2, n, heads, -1)).astype(np.float64)
    query, key = split[:, 0].transpose(0, 2, 1, 3), split[:, 1].transpose(0, 2, 3, 1)
    return softmax(query @ key / query.shape[-1] ** 0.5).astype(np.float32)


def _patch_weights(model: Model, weights: np.ndarray) -> np.ndarray:
    """(heads, n, n) -> (heads, rows, columns): weights of the class token, or the mean over all patches."""
    patches = int(np.prod(model.get_layer("patch_embedding").output.shape[1:3]))
    return _patch_grid(model, weights[:, 0] if weights.shape[-1] > patches else weights.mean(1))


def _patch_grid(model: Model, tokens: np.ndarray) -> np.ndarray:
    """(c, n) -> (c, rows, columns): the patches as in the image, without the class token."""
    _, rows, columns, _ = model.get_layer("patch_embedding").output.shape
    return tokens[:, tokens.shape[1] - rows * columns :].reshape(-1, rows, columns)


def _count(count: int, most: int) -> str:
    """A count, and how many of them are drawn."""
    return str(count) if count <= most else f"{most} of {count}"
