"""Figures of arrays, drawn by Matplotlib when they are displayed: sheets of tiles, heat maps over images."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zoo import storage
from zoo.errors import WrongConfiguration, ZooError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 7.0  # inches
DPI = 150


@dataclass(frozen=True, eq=False)
class Picture:
    """An array and its figure, which a notebook displays.

    `values` needs no Matplotlib; `figure`, a Matplotlib Figure that may be changed, and `save` raise ZooError
    without it.
    """

    title: str
    values: np.ndarray
    draw: Callable[[str], Figure]  # takes the title

    def __repr__(self) -> str:
        return f"<Picture: {self.title}; values {self.values.shape}>"

    @cached_property
    def figure(self) -> Figure:
        """The figure, drawn on first access."""
        try:
            return self.draw(self.title)
        except ImportError as error:
            raise ZooError(
                f"{self.title}: figures need Matplotlib, which is not installed ({error}). To install it: "
                'pip install "keras-zoo-parity[show]"'
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the figure to a file: .png, .pdf, .svg or another format of Matplotlib's.

        Raises WrongConfiguration for another ending, or a folder that does not exist.
        """
        path, formats = Path(path), self.figure.canvas.get_supported_filetypes()
        if path.suffix[1:].lower() not in formats:
            raise WrongConfiguration(f"{path}: expected a file that ends in .{', .'.join(sorted(formats))}")
        storage.check_file("save", path)
        with storage.replacing(path) as part:
            self.figure.savefig(part, dpi=DPI)

    def _repr_png_(self) -> bytes:
        page = io.BytesIO()
        self.figure.savefig(page, format="png", dpi=DPI)
        return page.getvalue()


def mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """(n, h, w, ...) -> one image of the tiles row by row, with NaN between them, which is not drawn."""
    n, h, w, *rest = tiles.shape
    gap, rows = _gap(h, w), -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, *rest), np.nan)
    for i, tile in enumerate(tiles):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = tile
    return sheet


def _gap(h: int, w: int) -> int:
    return -(-max(h, w) // 24) if max(h, w) > 1 else 0


def sheet(
    title: str, *, tiles: np.ndarray, columns: int, counted: str, unit: str, across: str = ""
) -> Figure:
    """Tiles (n, h, w) on one colour scale, or (n, h, w, 3) in their own colours, `columns` in a row.

    `counted` names what the tiles are; with `across`, which names the columns, what the rows are.
    """
    from matplotlib.figure import Figure

    n, h, w = tiles.shape[:3]
    image, gap, rows = mosaic(tiles, columns), _gap(h, w), -(-n // columns)
    height = 1.0 + 0.86 * WIDTH * image.shape[0] / image.shape[1]
    figure = Figure((WIDTH, min(10.0, height)), layout="constrained")
    axes = figure.subplots()
    if tiles.ndim == 4:
        axes.imshow(np.nan_to_num(image, nan=1.0), interpolation="nearest")
    else:
        _colorbar(figure, axes.imshow(image, **_scale(tiles), interpolation="nearest"), axes, unit)
    axes.set_title(title, fontsize=11, pad=8)
    # The index of a tile is the sum of its row's and its column's label; with `across` each has its own.
    along = [str(i) if across else f"+{i}" for i in range(columns)]
    axes.set_xticks([(w - 1) / 2 + i * (w + gap) for i in range(columns)], along)
    down = [str(i if across else i * columns) for i in range(rows)]
    axes.set_yticks([(h - 1) / 2 + i * (h + gap) for i in range(rows)], down)
    axes.set_xlabel(across, fontsize=9)
    axes.set_ylabel(counted, fontsize=9)
    axes.tick_params(length=0, labelsize=8)
    axes.spines[:].set_visible(False)
    return figure


def heat(
    title: str,
    *,
    photo: np.ndarray,
    maps: np.ndarray,
    names: Sequence[str],
    unit: str,
    smooth: bool = False,
) -> Figure:
    """A photo (h, w, c) in [0, 1], then each map (n, rows, columns) over it, all on one colour scale."""
    from matplotlib.figure import Figure

    columns = min(4, 1 + len(maps))
    rows = -(-(1 + len(maps)) // columns)
    figure = Figure((WIDTH, 0.6 + rows * (0.9 * WIDTH / columns + 0.2)), layout="constrained")
    figure.suptitle(title, fontsize=11)
    first, *others = panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in panels:
        axes.set_axis_off()
    whole: dict[str, Any] = {"extent": (0, photo.shape[1], photo.shape[0], 0)}
    grey = {"cmap": "gray", "vmin": 0, "vmax": 1, **whole}
    first.imshow(photo if photo.shape[-1] == 3 else photo[..., 0], **grey)
    first.set_title("image", fontsize=9)
    mappable: Any = None
    for axes, name, values in zip(others, names, maps, strict=False):
        axes.imshow(photo.mean(-1), **grey)
        mappable = axes.imshow(
            values, cmap="inferno", alpha=0.65, vmin=0, vmax=maps.max() or 1.0,
            interpolation="bilinear" if smooth else "nearest", **whole,
        )  # fmt: skip
        axes.set_title(name, fontsize=9)
    _colorbar(figure, mappable, panels, unit)
    return figure


def rates(title: str, *, values: np.ndarray, suggestion: float) -> Figure:
    """Losses and smoothed losses over learning rates (n, 3), with the suggested rate."""
    from matplotlib.figure import Figure

    figure = Figure((WIDTH, 0.6 * WIDTH), layout="constrained")
    axes = figure.subplots()
    axes.plot(values[:, 0], values[:, 1], color="0.75", linewidth=1, label="of each batch")
    axes.plot(values[:, 0], values[:, 2], label="smoothed")
    axes.axvline(suggestion, color="tab:red", linewidth=1, label=f"steepest, {suggestion:.2g}")
    axes.set_xscale("log")
    axes.set_ylim(0.9 * min(values[:, 2]), 1.1 * max(values[: len(values) // 2 + 1, 2]))
    axes.set_xlabel("learning rate", fontsize=9)
    axes.set_ylabel("loss", fontsize=9)
    axes.set_title(title, fontsize=11, pad=8)
    axes.tick_params(labelsize=8)
    axes.legend(fontsize=8)
    return figure


def _scale(values: np.ndarray) -> dict[str, Any]:
    """White at 0, blue below and red above; if no value is negative, dark at 0. Outliers are clipped."""
    top = float(np.quantile(np.abs(values), 0.999)) or 1.0
    if values.min() < 0:
        return {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
    return {"cmap": "viridis", "vmin": 0, "vmax": top}


def _colorbar(figure: Figure, mappable: Any, axes: Any, unit: str) -> None:
    bar = figure.colorbar(mappable, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label(unit, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
