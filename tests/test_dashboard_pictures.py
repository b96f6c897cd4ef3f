"""The pictures of the dashboard: looked at pixel by pixel where it counts."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_trainer.handlers.dashboard_pictures import draw_confusion, draw_images, picture_summary


def test_draw_images_then_spreads_each_image_from_black_to_white():
    image = torch.linspace(-2.0, 5.0, 28 * 28).view(1, 28, 28)
    picture = draw_images([image], [""])
    assert picture[19, 3].tolist() == [0, 0, 0]
    assert picture[102, 3].tolist() == [int(255 * 27 * 28 / 783)] * 3  # the first pixel of the last row
    assert picture[:, 3:87].min() == 0
    assert picture.max() == 255


@pytest.mark.parametrize("shape", [(28, 28), (1, 28, 28), (3, 28, 28), (3, 300, 200), (1, 4, 9)])
def test_draw_images_of_any_size_then_fits_them_into_cells(shape):
    picture = draw_images([torch.rand(shape)] * 5, ["a\nb"] * 5, columns=3)
    assert picture.shape == (2 * (84 + 8 + 30), 3 * 91, 3)
    assert picture.dtype == np.uint8


def test_draw_images_when_one_is_constant_or_nan_then_draws_it_dark():
    picture = draw_images([torch.full((1, 8, 8), 3.0), torch.full((1, 8, 8), float("nan"))], ["", ""])
    assert picture[60, 40].tolist() == picture[60, 130].tolist() == [0, 0, 0]


def test_draw_images_when_a_title_is_too_long_then_cuts_it_off():
    short, long = (draw_images([torch.zeros(1, 8, 8)], [title]) for title in ("w" * 11, "w" * 40))
    assert short.shape == long.shape
    assert (long[:17, 88:] == 255).all()


def test_draw_confusion_then_shades_each_row_by_its_shares():
    picture = draw_confusion(torch.tensor([[8, 0], [2, 2]]), ["a", "b"])
    left = picture.shape[1] - 50 - 2 * 40
    assert picture[2, left + 2].tolist() == [8, 81, 156]
    assert picture[2, left + 42].tolist() == [255, 255, 255]
    assert picture[42, left + 2].tolist() == picture[42, left + 42].tolist() == [131, 168, 205]


def written(picture, **how):
    """What a reader of the event file sees, and how many bytes it has."""
    (value,) = picture_summary("images/one", picture, **how).value
    image = value.image
    assert (image.height, image.width, image.colorspace) == picture.shape
    encoded = image.encoded_image_string
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")).astype(int), len(encoded)


def n_bytes_of_all_channels(picture):
    encoded = io.BytesIO()
    Image.fromarray(picture).save(encoded, format="png")
    return len(encoded.getvalue())


def drawn(n_channels, size=28):
    generator = torch.Generator().manual_seed(0)
    images = [torch.rand(n_channels, size, size, generator=generator) for _ in range(24)]
    return draw_images(images, ["a bag\nas a coat"] * 24)


def test_picture_summary_when_it_is_grey_then_is_written_as_grey_and_exact():
    seen, n_bytes = written(drawn(1))
    assert np.array_equal(seen, drawn(1))
    assert n_bytes < 0.7 * n_bytes_of_all_channels(drawn(1))


@pytest.mark.parametrize("size", [8, 28])
def test_picture_summary_when_images_have_colours_then_keeps_them_all(size):
    assert np.array_equal(written(drawn(3, size))[0], drawn(3, size))


def test_picture_summary_with_a_palette_then_has_few_bytes_and_looks_the_same():
    counts = torch.randint(900, (10, 10), generator=torch.Generator().manual_seed(0))
    picture = draw_confusion(counts, ["ankle boot"] * 10)
    seen, n_bytes = written(picture, palette=True)
    assert n_bytes < 0.4 * n_bytes_of_all_channels(picture)
    assert abs(seen - picture).max() <= 16  # 16 grades of each colour
