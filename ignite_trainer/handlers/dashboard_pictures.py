"""Pictures for the dashboard, drawn with PIL in a few milliseconds: images under titles, a confusion matrix."""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

__all__ = ["draw_confusion", "draw_images", "picture_summary"]

_CELL = 84  # pixels a side of an image
_LINE = 15
_INK, _BLUE = (40, 40, 40), np.array([8, 81, 156])


def draw_images(images: Sequence[Tensor], titles: Sequence[str], *, columns: int = 4) -> NDArray[np.uint8]:
    """Images in a grid, each under its title: (H, W, 3) uint8.

    Each image is spread from its darkest to its brightest value, so that normalised ones are shown as well.

    Args:
        images: (H, W), (1, H, W) or (3, H, W) each, on the CPU.
        titles: one an image, of one or more lines; too long ones are cut off.
        columns: of the grid.

    >>> import torch
    >>> draw_images([torch.rand(1, 28, 28)] * 9, ["bag"] * 9).shape
    (321, 364, 3)
    """
    from PIL import Image, ImageDraw

    lines = max(title.count("\n") + 1 for title in titles)
    width, height = _CELL + 7, _CELL + 8 + _LINE * lines
    columns = min(columns, len(images))
    canvas = Image.new("RGB", (columns * width, -(-len(images) // columns) * height), "white")
    draw = ImageDraw.Draw(canvas)
    for number, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = number % columns * width, number // columns * height
        for line, text in enumerate(title.split("\n")):
            draw.text((left + 3, top + 2 + line * _LINE), _fitting(text, width - 6), fill=_INK, font=_font(12))
        canvas.paste(_thumbnail(image), (left + 3, top + 4 + lines * _LINE))
    return np.asarray(canvas)


def draw_confusion(counts: Tensor, names: Sequence[str]) -> NDArray[np.uint8]:
    """A confusion matrix, truth by prediction, shaded by the share of each row: (H, W, 3) uint8.

    Args:
        counts: (classes, classes) integers on the CPU, [target, predicted].
        names: of the classes.

    >>> import torch
    >>> draw_confusion(torch.eye(3, dtype=torch.int64), ["bag", "coat", "dress"]).shape
    (220, 242, 3)
    """
    from PIL import Image, ImageDraw

    cell, font = 40, _font(15)
    margin = 26 + int(max(font.getlength(name) for name in names)) + 10
    foot = max(margin, 100)
    size = len(names) * cell
    canvas = Image.new("RGB", (margin + size + 50, size + foot), "white")
    draw = ImageDraw.Draw(canvas)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    for row, name in enumerate(names):
        middle = row * cell + cell // 2
        draw.text((margin - 8, middle), name, fill=_INK, font=font, anchor="rm")
        _paste_upright(canvas, name, (margin + middle, size + 6))
        for column in range(len(names)):
            share = float(shares[row, column])
            colour = tuple((255 - share * (255 - _BLUE)).astype(int).tolist())
            box = margin + column * cell, row * cell, margin + (column + 1) * cell - 2, (row + 1) * cell - 2
            draw.rectangle(box, fill=colour)
            number = int(counts[row, column])
            if number:
                ink = "white" if share > 0.5 else _INK
                at = box[0] + cell // 2 - 1, box[1] + cell // 2 - 1
                draw.text(at, str(number), fill=ink, font=font, anchor="mm")
    draw.text((margin + size // 2, size + foot - 4), "predicted", fill=_INK, font=font, anchor="mb")
    _paste_upright(canvas, "true class", (11, size // 2 - 32))
    return np.asarray(canvas)


def picture_summary(tag: str, picture: NDArray[np.uint8], *, palette: bool = False) -> Any:
    """A picture as a ``Summary`` that `EventFile.add` takes.

    Grey is written as grey: torch's own summary writes three channels of all pictures, and tensorboard sums up each
    byte in Python.

    Args:
        tag: of the picture.
        picture: (H, W, 3) uint8.
        palette: make do with 256 colours, some of them a little off, in a quarter of the bytes.

    >>> import torch
    >>> picture = draw_images([torch.rand(1, 28, 28)], ["bag"])
    >>> picture_summary("images/one", picture).value[0].image.height == picture.shape[0]
    True
    """
    from PIL import Image
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]

    image = Image.fromarray(picture)
    if palette:
        image = image.quantize(256, method=Image.Quantize.FASTOCTREE)
    elif (picture == picture[:, :, :1]).all():
        image = image.convert("L")
    encoded = io.BytesIO()
    image.save(encoded, format="png")
    height, width, colorspace = picture.shape
    value = Summary.Image(height=height, width=width, colorspace=colorspace, encoded_image_string=encoded.getvalue())
    return Summary(value=[Summary.Value(tag=tag, image=value)])


def _paste_upright(canvas: Image, text: str, at: tuple[int, int]) -> None:
    """Paste text that reads upwards; ``at`` is the middle of its top edge."""
    from PIL import Image, ImageDraw

    font = _font(15)
    strip = Image.new("RGB", (int(font.getlength(text)) + 2, 20), "white")
    ImageDraw.Draw(strip).text((1, 1), text, fill=_INK, font=font)
    canvas.paste(strip.rotate(90, expand=True), (at[0] - 10, at[1]))


def _thumbnail(image: Tensor) -> Image:
    from PIL import Image

    array = image.detach().cpu().double().numpy()
    array = array.transpose(1, 2, 0) if array.ndim == 3 else array[:, :, None]
    finite = array[np.isfinite(array)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    array = np.nan_to_num(array, nan=low, posinf=high, neginf=low)
    array = (255 * (array - low) / max(high - low, 1e-9)).astype(np.uint8)
    picture = Image.fromarray(np.broadcast_to(array, (*array.shape[:2], 3)).copy())
    scale = _CELL / max(picture.size)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    return picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


@functools.lru_cache
def _font(size: int) -> Any:  # Any: PIL has two classes of fonts, one without FreeType
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _fitting(text: str, width: int) -> str:
    font = _font(12)
    while text and font.getlength(text) > width:
        text = text.rstrip("…")[:-1] + "…"
    return text
