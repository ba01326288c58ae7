"""Image classification, and prediction for texts and speech, with the preprocessing of the run, card or
weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from zoo import pretrained, registry
from zoo._lazy import keras
from zoo.checks import integer
from zoo.errors import DataUnavailable, WrongConfiguration
from zoo.layers import signature
from zoo.preprocessing import Preprocessing, plain
from zoo.tasks import ctc, sequences, speech, tables
from zoo.training import runs
from zoo.training.runs import SavedRun
from zoo.weights import hub, load, located

if TYPE_CHECKING:
    from zoo.training.run import Run

Photo = str | Path | Image.Image | np.ndarray
BATCH: Any = {"batch_size": 32, "verbose": 0}  # Keras annotates `verbose` as a string

log = logging.getLogger(__name__)


def predict(
    model: str | Path | keras.Model | SavedRun | Run,
    images: Any,
    *,
    weights: str | Path | None = None,
    top: int = 5,
    labels: str | Path | Sequence[str] | None = None,
    **changes: Any,
) -> list[list[tuple[str, float]]]:
    """The `top` classes of each image with their probabilities, the most likely first.

    `model` is a run of `zoo.train`, the path of one (`zoo.load_run`), a model, or the name of a model, which
    is then built with the arguments in `changes`. `images` is one image or several: paths, PIL images or
    bytes (h, w, c), preprocessed as in the run, or as the model card says, for the model's image size; or
    float arrays that are already preprocessed. A run trained on labelled texts takes texts. A run trained on
    speech takes audio files, or waveforms (n,) at its sample rate, and returns the transcript of each with
    the probability of the most likely alignment.

    `weights` is what `zoo.weights.load` takes; a model that is built here without weights has random ones,
    which is logged. `labels` are the class names: a list, or a file with one name per line; by default those
    of the run, or of the config.json beside the weights, otherwise the indices. A model built here has as
    many classes as there are names.

    Raises, before a model is built, DataUnavailable for a file that is missing or not an image, and
    WrongConfiguration, also for labels that differ from the run's; then the errors of `zoo.build` and
    `zoo.weights.load`.
    """
    top = integer("predict", "top", top)
    run = runs.find(model)
    given = [*([] if weights is None else ["weights"]), *changes]
    if run is None or (given and hasattr(model, "layers")):  # a model that is given other weights
        return _by_card(model, images, weights, top, labels, changes)
    if given:
        raise WrongConfiguration(f"{run} has its own model and weights; leave {', '.join(given)} out")
    names = None if labels is None else _names(labels)
    if names is not None:
        run.check_labels(names, str(labels) if isinstance(labels, str | Path) else "labels")
    if run.kind not in READERS:
        return _by_card(run.model, images, None, top, labels, {})
    return READERS[run.kind](run, images, top, list(names or run.classes))


def _by_card(
    model: Any, images: Any, weights: Any, top: int, labels: Any, changes: dict[str, Any]
) -> list[list[tuple[str, float]]]:
    """Of a model that is no run's, by its name or built: images, prepared as its card says."""
    name = registry.card(model).name if isinstance(model, str) else model.name
    file = None if weights is None else _file(name, weights)
    names = _names_beside(weights) if labels is None else _names(labels)
    if isinstance(model, str):
        card = registry.card(model)
        changes = pretrained.allowed(name, weights, changes)
        registry.check(card, changes)
        if names is not None and "classes" in card.arguments:
            changes = {"classes": len(names), **changes}
        shape = replace(card, config={**card.arguments, **changes}).input
    elif changes:
        raise WrongConfiguration(f"{name} is built already; {', '.join(changes)} cannot change")
    else:
        shape = tuple(model.input_shape[1:])
    preprocessing = preprocessing_for(name, shape)
    x = np.stack([prepared(image, preprocessing) for image in _several(images)])

    if isinstance(model, str):
        model = registry.build(name, **changes)
        if file is None:
            log.warning(
                "%s has random weights: its classes are chance. Give weights to load trained ones.", name
            )
    classes = model.output_shape[-1]
    if labels is not None and names is not None and len(names) != classes:
        raise WrongConfiguration(f"labels: {len(names)} names; {name} has {classes} classes")
    if file is not None:
        load(model, file, head="require")
    return _likeliest(model, x, top, names)


def _likeliest(model: Any, x: Any, top: int, names: list[str] | None) -> list[list[tuple[str, float]]]:
    """The `top` classes of each example; their numbers where there is not a name for each."""
    logits = np.asarray(model.predict(x, **BATCH))
    classes = logits.shape[-1]
    if names is None or len(names) != classes:
        names = [str(number) for number in range(classes)]
    probabilities = softmax(logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        [(names[k], float(row[k])) for k in first] for row, first in zip(probabilities, best, strict=True)
    ]


# What a run is asked about, by what it learned from


def _images(run: SavedRun, images: Any, top: int, names: list[str]) -> list[list[tuple[str, float]]]:
    preprocessing = run.preprocessing
    assert preprocessing is not None
    x = np.stack([prepared(image, preprocessing) for image in _several(images)])
    _check_labels(run, names)
    return _likeliest(run.model, x, top, names)


def _texts(run: SavedRun, texts: Any, top: int, names: list[str]) -> list[list[tuple[str, float]]]:
    several = [texts] if isinstance(texts, str) else list(texts)
    if not several or not all(isinstance(text, str) and text.strip() for text in several):
        raise WrongConfiguration(f"{run} learned from labelled texts; expected a text, or several")
    tokens = sequences.Sequences(several, (run.tokenizer or sequences.BYTE_TOKENIZER).encode)
    _check_labels(run, names)
    x = sequences.take(sequences.inputs(tokens, signature.input_shapes(run.model)), slice(None))
    signature.check_tokens(run.model, x if isinstance(x, dict) else {"token_ids": x})
    return _likeliest(run.model, x, top, names)


def _recordings(run: SavedRun, sounds: Any, top: int, names: list[str]) -> list[list[tuple[str, float]]]:
    rate, several = run.facts["sample_rate"], sounds
    if isinstance(sounds, str | Path) or getattr(sounds, "ndim", 0) == 1:
        several = [sounds]
    waves = [sound if isinstance(sound, np.ndarray) else speech.load(sound, rate) for sound in several]
    if not waves:
        raise WrongConfiguration("no recordings; give one or more")
    logits = np.asarray(run.model.predict(sequences.Waves(waves, rate)[:], **BATCH))
    alignments = softmax(logits).max(-1).prod(-1)
    del top  # of texts there is one
    return [
        [("".join(names[label - 1] for label in labels), float(p))]
        for labels, p in zip(ctc.greedy(logits), alignments, strict=True)
    ]


def _writes(run: SavedRun, inputs: Any, top: int, names: list[str]) -> list[list[tuple[str, float]]]:
    del inputs, top, names
    raise WrongConfiguration(
        f"{run} writes texts; expected a classifier. Use zoo.generate, or `zoo generate`"
    )


READERS = {
    runs.IMAGES: _images,
    runs.TEXTS: _texts,
    runs.RECORDINGS: _recordings,
    runs.CORPUS: _writes,
    runs.PAIRS: _writes,
}


def _check_labels(run: SavedRun, names: list[str]) -> None:
    classes = run.model.output_shape[-1]
    if names and len(names) != classes:
        raise WrongConfiguration(f"labels: {len(names)} names; {run} has {classes} classes")


def softmax(logits: np.ndarray) -> np.ndarray:
    """(..., n) -> (..., n): exp(x) / sum exp(x), in float64."""
    shares = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)


def preprocessing_for(name: str, shape: Sequence[int]) -> Preprocessing:
    """The preprocessing of the model's card for its input size and channels; pixels in [0, 1] if it has none.

    Raises WrongConfiguration for an input that is not a square image.
    """
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] not in (1, 3):
        raise WrongConfiguration(
            f"{name} takes examples of shape {tuple(shape)}; images are (size, size, 3), or (size, size, 1)"
        )
    known = registry.card(name) if name in registry.list_models() else None
    preprocessing = getattr(known, "preprocessing", None)
    if preprocessing is None or preprocessing.channels != shape[2]:
        return plain(shape[0], shape[2])
    return preprocessing.at(shape[0])


def prepared(image: Photo, preprocessing: Preprocessing) -> np.ndarray:
    """A preprocessed image, float32 (size, size, c); a float array is assumed to be preprocessed already.

    Raises DataUnavailable for a file that is missing or not an image, WrongConfiguration for other arrays.
    """
    if not isinstance(image, np.ndarray) or not np.issubdtype(image.dtype, np.floating):
        return preprocessing(image)
    expected = (preprocessing.size, preprocessing.size, preprocessing.channels)
    if image.shape != expected:
        raise WrongConfiguration(
            f"image: {image.dtype} of shape {image.shape}; expected {expected}, preprocessed, or bytes "
            "(h, w, c) of any size"
        )
    return image.astype(keras.config.floatx())


def _several(images: Photo | Sequence[Photo]) -> Sequence[Photo]:
    one = isinstance(images, str | Path | Image.Image) or getattr(images, "ndim", 4) < 4
    several: Any = [images] if one else images
    if len(several) == 0:
        raise WrongConfiguration("images: none; give one or more")
    return several


def _file(model: str, weights: str | Path) -> Path:
    """Where the weights are, downloaded if they are the hub's. Raises DataUnavailable."""
    path = located(model, weights)
    if not path.exists():
        raise DataUnavailable(f"{weights}: no such file")
    return path


def _names(labels: str | Path | Sequence[str]) -> list[str]:
    if not isinstance(labels, str | Path):
        return list(labels)
    try:
        decoded, bad = tables.lines(Path(labels))
        tables.refuse(Path(labels), bad)
    except DataUnavailable as error:
        reason = str(error).removeprefix(f"{labels}: ")
        raise DataUnavailable(f"{labels}: not a file of names, one a line ({reason})") from None
    return "".join(decoded).strip().splitlines()


def _names_beside(weights: str | Path | None) -> list[str] | None:
    """The classes in the weights' config.json: transformers' id2label, or timm's label_names."""
    with suppress(DataUnavailable, OSError, ValueError, LookupError, AttributeError, TypeError):
        config = json.loads(_config(weights).read_text(encoding="utf-8")) if weights is not None else {}
        if numbered := config.get("id2label"):
            return [numbered[str(i)] for i in range(len(numbered))]
        if listed := config.get("label_names"):
            said = config.get("label_descriptions") or {}
            return [said.get(name, name) for name in listed]
    return None


def _config(weights: str | Path) -> Path:
    if match := hub.REFERENCE.fullmatch(str(weights)):
        repository, file, revision = match.groups()
        name = PurePosixPath(file or "model").with_name("config.json")
        return hub.fetch(f"hf://{repository}/{name}" + (f"@{revision}" if revision else ""))
    path = Path(weights)
    return path / "config.json" if path.is_dir() else path.with_name("config.json")
