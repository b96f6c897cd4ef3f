"""Pictures: images in a grid, the curves of a run, and a run on one page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

__all__ = ["curves", "report", "show_images"]

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

PHASES = ("train", "valid")
_INCHES = 2.0  # a cell: 25 images fill the documents' 10×10 inches


def show_images(
    images: Any,  # Any: tensors, arrays and PIL images, or sequences of them
    labels: Sequence[Any] | Tensor | None = None,
    *,
    rows: int | None = None,
    cols: int | None = None,
) -> Figure:
    """A grid of images, each with its label as title: a matplotlib Figure, to save or to show in a notebook.

    No window is opened and pyplot is not touched, so it works without a display; ``figure.savefig(path)`` writes it.
    Grey images are spread from their darkest to their brightest value, so normalised ones are shown as well; colour
    images with floats outside 0 to 1 likewise.

    Args:
        images: (N, H, W), (N, 1, H, W) or (N, 3, H, W), tensor or array, or a sequence of N such images or PIL images.
        labels: N titles, numbers or names; None: no titles.
        rows: of the grid; None: as many as the images need.
        cols: of the grid; None: as many as the images need, and as near to a square as they allow if both are None.

    Raises:
        ValueError: there are no images, not as many labels, not enough cells, or an image has another shape.

    >>> import torch
    >>> figure = show_images(torch.rand(25, 1, 28, 28), torch.arange(25))
    >>> figure.get_size_inches().tolist(), figure.axes[7].get_title()
    ([10.0, 10.0], '7')
    """
    from matplotlib.figure import Figure

    pictures = [_picture(image) for image in images]
    if not pictures:
        raise ValueError("show_images needs at least one image; got none")
    titles = [""] * len(pictures) if labels is None else [_title(label) for label in labels]
    if len(titles) != len(pictures):
        raise ValueError(f"every image has one label; got {len(pictures)} images and {len(titles)} labels")
    rows, cols = _grid(len(pictures), rows, cols)
    figure = Figure(figsize=(_INCHES * cols, _INCHES * rows), layout="tight")
    axes = figure.subplots(rows, cols, squeeze=False).ravel()
    for ax, picture, title in zip(axes, pictures, titles, strict=False):
        ax.imshow(picture, cmap="gray")
        ax.set_title(title, parse_math=False)
    for ax in axes:
        ax.axis("off")
    return figure


def _grid(n_images: int, rows: int | None, cols: int | None) -> tuple[int, int]:
    """(rows, columns) with a cell for every image."""
    given = [number for number in (rows, cols) if number is not None]
    if any(number < 1 for number in given) or (len(given) == 2 and math.prod(given) < n_images):
        raise ValueError(
            f"{n_images} images need as many cells; got rows={rows!r}, cols={cols!r}: leave one of them out"
        )
    if cols is None:
        cols = math.ceil(math.sqrt(n_images)) if rows is None else math.ceil(n_images / rows)
    return (math.ceil(n_images / cols) if rows is None else rows), cols


_NO_GREY_NOR_RGB = ("P", "PA", "LA", "CMYK", "YCbCr", "LAB", "HSV")  # Pillow's modes; a palette's numbers are no grey


def _picture(image: Any) -> NDArray[Any]:
    """(H, W) or (H, W, 3), as matplotlib takes it."""
    if getattr(image, "mode", None) in _NO_GREY_NOR_RGB:
        way = "RGBA" if image.mode in ("P", "PA") else "RGB"  # Pillow warns where a palette has transparent colours
        image = image.convert(way).convert("RGB")
    if isinstance(image, Tensor):
        image = image.detach().cpu()
        image = image.float() if image.is_floating_point() else image  # NumPy has no bfloat16
    array = np.asarray(image)
    if array.ndim == 3 and array.shape[0] in (1, 3):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(f"an image is (H, W), (1, H, W) or (3, H, W), grey or colour; got shape {array.shape!r}")
    low, high = array.min(), array.max()
    if array.ndim == 3 and array.dtype.kind == "f" and (low < 0 or high > 1):
        array = (array - low) / max(high - low, 1e-9)  # a constant image has no range
    return array


def _title(label: Any) -> str:
    if hasattr(label, "item"):
        label = label.item()
    return f"{label:g}" if isinstance(label, float) else str(label)


def curves(history: Sequence[Mapping[str, float]]) -> Figure:
    """A figure of the run's epochs: training over validation loss in one chart, then one chart a metric, then the rate.

    Drawn without pyplot: nothing is kept open, and ``figure.savefig("curves.png")`` needs no display.

    Args:
        history: one row an epoch, as in ``learn.history``: ``epoch`` counted from 0 (drawn from 1), and any
            of ``train_loss``, ``valid_loss``, ``valid_<metric>`` and ``lr``. Some rows may lack a key; NaN is a gap.

    Raises:
        ValueError: no rows, or nothing to draw in them.

    >>> figure = curves([{"epoch": 0, "train_loss": 0.9, "valid_loss": 0.8, "valid_accuracy": 0.5, "lr": 0.1}])
    >>> [axes.get_title() for axes in figure.axes]
    ['loss', 'accuracy', 'lr']
    """
    from matplotlib.figure import Figure

    charts = _charts(history)
    figure = Figure(figsize=(5 * len(charts), 4), layout="constrained")
    _draw_charts(figure, charts, history)
    return figure


def report(history: Sequence[Mapping[str, float]], pictures: Mapping[str, NDArray[np.uint8]]) -> Figure:
    """A figure of a whole run on one page: the curves of its history above pictures, each under its title.

    Args:
        history: as for `curves`.
        pictures: title → (H, W, 3) uint8; they share the width in proportion to theirs. Empty: the curves alone.

    >>> figure = report([{"epoch": 0, "train_loss": 0.9}], {"confusion": np.zeros((4, 4, 3), dtype=np.uint8)})
    >>> [axes.get_title() for part in figure.subfigs for axes in part.axes]
    ['loss', 'confusion']
    """
    from matplotlib.figure import Figure

    if not pictures:
        return curves(history)
    charts = _charts(history)
    widths = [picture.shape[1] / picture.shape[0] for picture in pictures.values()]
    heights = 4, min(16 / sum(widths), 16) + 0.5  # inches, 16 of them wide; half a one for the title
    figure = Figure(figsize=(16, sum(heights)))  # margins by hand: a constrained layout takes twice the time
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    above, below = parts
    _draw_charts(above, charts, history)
    above.subplots_adjust(left=0.04, right=0.99, top=0.92, bottom=0.14, wspace=0.16)
    panels = below.subplots(1, len(pictures), squeeze=False, width_ratios=widths)[0]
    for axes, (title, picture) in zip(panels, pictures.items(), strict=True):
        axes.imshow(picture)
        axes.set_title(title, y=1.0, parse_math=False)
        axes.axis("off")
    below.subplots_adjust(left=0.01, right=0.99, top=0.95, bottom=0.01, wspace=0.05)
    return figure


def _draw_charts(figure: Any, charts: Mapping[str, Mapping[str, str]], history: Sequence[Mapping[str, float]]) -> None:
    """One chart beside the other, on a figure or a part of one."""
    from matplotlib.ticker import MaxNLocator

    for axes, (title, lines) in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts.items(), strict=True):
        for key, label in lines.items():
            rows = [row for row in history if key in row]
            colour = f"C{PHASES.index(label)}" if label in PHASES else "C2"
            epochs = [row["epoch"] + 1 for row in rows]
            axes.plot(epochs, [row[key] for row in rows], color=colour, marker="o", markersize=3, label=label)
        # without y every label is measured to place it: a tenth of the drawing
        axes.set_title(title, y=1.0, parse_math=False)
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()


def _charts(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, str]]:
    """For each chart's title its lines: the key of a row and the line's label."""
    charts: dict[str, dict[str, str]] = {}
    keys = dict.fromkeys(key for row in history for key in row)  # in order, each once
    for key in keys:
        phase, _, name = key.partition("_")
        if phase in PHASES and name:
            charts.setdefault(name, {})[key] = phase
    if not all(math.isnan(row.get("lr", math.nan)) for row in history):
        charts.setdefault("lr", {})["lr"] = "lr"
    if not charts:
        raise ValueError(
            f"curves draws the losses, metrics and rates of a history; got none in {len(history)} rows: fit first"
        )
    return charts
