"""Arrays as figures, drawn by Matplotlib once they are looked at: a sheet of tiles, heat over an image."""

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

WIDTH = 7.0  # inches, of a page's text
DOTS = 150  # an inch


@dataclass(frozen=True, eq=False)
class Picture:
    """Numbers and a figure of them, which a notebook shows.

    `values` needs no Matplotlib; `figure`, a Figure of Matplotlib's to change as you like, and `save` raise
    ZooError without it.
    """

    title: str
    values: np.ndarray
    draw: Callable[[str], Figure]  # of the title

    def __repr__(self) -> str:
        return f"<Picture: {self.title}; values {self.values.shape}>"

    @cached_property
    def figure(self) -> Figure:
        """The figure, drawn when it is first asked for."""
        try:
            return self.draw(self.title)
        except ImportError as error:
            raise ZooError(
                f"{self.title}: Matplotlib draws it, and is not installed ({error}). To install it: "
                'pip install "keras-zoo-parity[show]"'
            ) from None

    def save(self, path: str | Path) -> None:
        """Write the figure to a file: .png, .pdf, .svg and whatever else Matplotlib writes.

        Raises WrongConfiguration for another ending, or a folder that is not there.
        """
        path, known = Path(path), self.figure.canvas.get_supported_filetypes()
        if path.suffix[1:].lower() not in known:
            raise WrongConfiguration(f"{path}: expected a file that ends in .{', .'.join(sorted(known))}")
        storage.check_file("save", path)
        with storage.replacing(path) as part:
            self.figure.savefig(part, dpi=DOTS)

    def _repr_png_(self) -> bytes:
        page = io.BytesIO()
        self.figure.savefig(page, format="png", dpi=DOTS)
        return page.getvalue()


def mosaic(tiles: np.ndarray, columns: int) -> np.ndarray:
    """(n, h, w, ...) -> one image of them row by row, and nan between, which is drawn as paper."""
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
    """Tiles (n, h, w) in one scale of colours, or (n, h, w, 3) in their own, `columns` in a row.

    `counted` is what the tiles are, along rows and down, or with `across` what the rows are.
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
        shown = axes.imshow(image, **_scale(tiles), interpolation="nearest")
        _bar(figure, shown, axes, unit)
    axes.set_title(title, fontsize=11, pad=8)
    # A tile's number is its row's and its column's, added up; or each counts something of its own.
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
    """A photograph (h, w, c) in [0, 1], then each map (n, rows, columns) over it, all in one scale."""
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
    shown: Any = None
    for axes, name, values in zip(others, names, maps, strict=False):
        axes.imshow(photo.mean(-1), **grey)
        shown = axes.imshow(
            values, cmap="inferno", alpha=0.65, vmin=0, vmax=maps.max() or 1.0,
            interpolation="bilinear" if smooth else "nearest", **whole,
        )  # fmt: skip
        axes.set_title(name, fontsize=9)
    _bar(figure, shown, panels, unit)
    return figure


def _scale(values: np.ndarray) -> dict[str, Any]:
    """White at 0, blue below and red above; of values with one sign, dark at 0. The largest are cut off."""
    top = float(np.quantile(np.abs(values), 0.999)) or 1.0
    if values.min() < 0:
        return {"cmap": "RdBu_r", "vmin": -top, "vmax": top}
    return {"cmap": "viridis", "vmin": 0, "vmax": top}


def _bar(figure: Figure, shown: Any, axes: Any, unit: str) -> None:
    bar = figure.colorbar(shown, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    bar.set_label(unit, fontsize=9)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
