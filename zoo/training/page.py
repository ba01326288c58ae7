"""The page of a run, run.html in its folder: the values that `zoo.report.run` shows."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from zoo import storage
from zoo.preprocessing import Preprocessing
from zoo.tasks import Task, sequences
from zoo.training.classification import Classification, Example, classify, is_classification
from zoo.training.run import Run
from zoo.training.runs import TEXTS, kind_of, preprocessing_of

PAGE = "run.html"
MOST_CHARACTERS = 300  # of a text that is shown


def write(folder: Path, run: Run) -> None:
    """Write run.html.

    A classifier predicts the held-out examples once more, unless a signal stopped the run.
    """
    from zoo.report.run import page

    found = None
    if run.signal is None and run.task.test is not None and is_classification(run.task):
        found = classify(run.trainer, run.task, run.task.held_out(512))
    storage.write_text(folder / PAGE, page(record(run, found)))


def record(run: Run, found: Classification | None) -> dict[str, Any]:
    """What the page shows, as JSON has it: NaN and infinity are None."""
    from zoo._version import __version__

    ends = [min((i + 1) * run.per_epoch, len(run.losses)) / run.per_epoch for i in range(len(run.history))]
    shown: Any = storage.finite(
        {
            "zoo": __version__,
            "created": datetime.now(UTC).isoformat(),
            "name": run.model.name,
            "task": run.task.name,
            "summary": f"{run.recipe}.",
            "facts": facts(run),
            "metrics": run.metrics,
            "losses": run.losses,
            "per_epoch": run.per_epoch,
            "epochs": ends,
            "history": run.history,
            "classification": found and classes(found, run.task),
        }
    )
    return shown


def facts(run: Run) -> dict[str, Any]:
    """The run in a few words each."""
    settings = {name.replace("_", " ").capitalize(): str(value) for name, value in run.settings.items()}
    return {
        **{f"Held-out {name.replace('_', ' ')}": f"{value:.4g}" for name, value in run.metrics.items()},
        "Parameters": f"{run.model.count_params():,}",
        **settings,
        "Steps": f"{len(run.losses):,}" + (" (interrupted)" if run.interrupted else ""),
        "Batch size": run.batch_size,
        "Seed": run.seed,
        "Engine": f"{run.backend}, {run.engine} ({run.mode})",
        **({"Frozen": run.freeze} if run.freeze else {}),
        "Training": f"{run.train_s:,.1f} s",
    }


def classes(found: Classification, task: Task) -> dict[str, Any]:
    """The part of the page about a classifier."""
    return {
        "names": list(found.names),
        "confusion": found.confusion.tolist(),
        "per_class": found.per_class,
        "calibration": found.calibration.tolist(),
        "calibration_error": found.calibration_error,
        "top": [_shown(example, found.names, task) for example in found.top],
    }


def _shown(example: Example, names: tuple[str, ...], task: Task) -> Mapping[str, Any]:
    return {
        "index": example.index,
        "label": names[example.label],
        "prediction": names[example.prediction],
        "probability": f"{example.probability:.3g}",
        "loss": f"{example.loss:.3g}",
        "image": _image(example.x, preprocessing_of(task)),
        "text": _text(example.x, task),
    }


def _image(x: Any, preprocessing: Preprocessing | None) -> str | None:
    """An example (1, h, w, c) as a data URI; None if it is not an image."""
    if not isinstance(x, np.ndarray) or x.ndim != 4 or x.shape[-1] not in (1, 3):
        return None
    pixels = np.asarray(x[0], np.float64)
    if preprocessing is not None:
        pixels = 255 * (pixels * np.array(preprocessing.std) + np.array(preprocessing.mean))
    else:  # of unknown origin
        pixels = 255 * (pixels - pixels.min()) / ((pixels.max() - pixels.min()) or 1)
    rounded = np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
    image = Image.fromarray(rounded[..., 0] if rounded.shape[-1] == 1 else rounded)
    image.thumbnail((256, 256))
    file = io.BytesIO()
    image.save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _text(x: Any, task: Task) -> str | None:
    """An example (1, n) of token ids as a text; None if it is none."""
    if kind_of(task) != TEXTS:
        return None
    ids = np.ravel(next(iter(x.values())) if isinstance(x, dict) else x)
    decode = sequences.decode if task.tokenizer is None else cast(Any, task.tokenizer).decode
    text = decode(ids)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]} ..."
