"""Grids of images, and the page of a run: any number, any shape, without a display."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from ignite_trainer.plots import report, show_images
from tests import processes


def shown(figure):
    """The axes that have an image."""
    return [ax for ax in figure.axes if ax.images]


def test_25_images_are_the_documents_grid_of_10_by_10_inches_without_axes():
    figure = show_images(torch.rand(25, 28, 28), torch.arange(25))
    assert figure.get_size_inches().tolist() == [10, 10]
    assert figure.axes[0].get_gridspec().get_geometry() == (5, 5)
    assert [ax.get_title() for ax in figure.axes] == [str(label) for label in range(25)]
    assert not any(ax.axison for ax in figure.axes)
    assert {ax.images[0].get_cmap().name for ax in figure.axes} == {"gray"}


@pytest.mark.parametrize("mode", ["P", "PA", "LA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_images_of_every_mode_are_shown_in_their_colours(mode):
    colour = Image.new("RGB", (2, 2), (204, 204, 204) if mode == "LA" else (204, 51, 51))  # of Pillow's web palette
    by_way_of = {"PA": "P", "LA": "L"}.get(mode, "RGB")
    image = colour.convert(by_way_of).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(256)
    shown_as = show_images([image]).axes[0].images[0].get_array()
    assert shown_as.shape == (2, 2, 3)
    # some of these spaces have fewer colours
    assert np.abs(np.asarray(shown_as[0, 0], int) - np.asarray(colour)[0, 0]).max() <= 3


def test_images_of_any_float_are_shown_alike():
    image = torch.arange(16).view(4, 4) / 16
    shown = [show_images([image.to(dtype)]).axes[0].images[0].get_array() for dtype in (torch.bfloat16, torch.float64)]
    assert (shown[0] == shown[1]).all()


def test_titles_with_dollars_are_shown_as_they_are(tmp_path):
    show_images(torch.rand(2, 4, 4), ["$x_$ and $", "a$\\frac$"]).savefig(tmp_path / "images.png")
    report([{"epoch": 0, "valid_$\\frac$": 0.9}], {"$_$": np.zeros((4, 4, 3), dtype=np.uint8)}).savefig(
        tmp_path / "report.png"
    )


@pytest.mark.parametrize("n", range(1, 27))
def test_any_number_of_images_is_shown_in_a_grid_near_to_a_square(n):
    figure = show_images(torch.rand(n, 1, 4, 4))
    rows, cols = figure.axes[0].get_gridspec().get_geometry()
    assert len(shown(figure)) == n
    assert not any(ax.axison for ax in figure.axes)
    assert (rows - 1) * cols < n <= rows * cols
    assert cols == math.ceil(math.sqrt(n))


@pytest.mark.parametrize(
    ("given", "grid"),
    [({"rows": 1}, (1, 7)), ({"cols": 2}, (4, 2)), ({"rows": 2, "cols": 5}, (2, 5)), ({"rows": 3}, (3, 3))],
)
def test_grid_when_given_is_kept(given, grid):
    assert show_images(torch.rand(7, 4, 4), **given).axes[0].get_gridspec().get_geometry() == grid


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 5, 6),
        torch.randn(2, 3, 5, 6) * 100,
        torch.full((2, 3, 5, 6), 2.0),
        torch.randint(256, (2, 3, 5, 6), dtype=torch.uint8),
        np.random.default_rng(0).random((2, 5, 6, 3)),
        [Image.new("RGB", (6, 5)), Image.new("RGB", (6, 5))],
    ],
    ids=["floats", "normalised", "constant", "bytes", "array", "PIL"],
)
def test_colour_images_are_shown_in_colour_and_in_range(images):
    for ax in shown(show_images(images)):
        picture = ax.images[0].get_array()
        assert picture.shape == (5, 6, 3)
        assert picture.min() >= 0
        assert picture.max() <= (1 if picture.dtype.kind == "f" else 255)


def test_colour_image_has_its_channels_in_place():
    image = torch.zeros(1, 3, 2, 2)
    image[0, 0, 0, 1] = 1  # red at the top right
    (ax,) = shown(show_images(image))
    assert ax.images[0].get_array()[0, 1].tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("labels", "titles"),
    [
        (None, ["", ""]),
        (["Ankle boot", "Dress"], ["Ankle boot", "Dress"]),
        ([3, 4], ["3", "4"]),
        (torch.tensor([3, 4]), ["3", "4"]),
        (torch.tensor([0.25, 4]), ["0.25", "4"]),
        (np.array([3, 4]), ["3", "4"]),
    ],
)
def test_labels_of_any_kind_become_titles(labels, titles):
    assert [ax.get_title() for ax in shown(show_images(torch.rand(2, 4, 4), labels))] == titles


def test_figure_is_saved_without_a_display_and_without_pyplot(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys, torch\n"
        "from ignite_trainer.plots import show_images\n"
        "show_images(torch.rand(5, 28, 28), torch.arange(5)).savefig(sys.argv[1], dpi=50)\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    assert processes.run(program, tmp_path / "a.png") == (0, "False\n", "")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (300, 200)


def test_images_that_require_gradients_are_shown():
    assert len(shown(show_images(torch.rand(2, 4, 4, requires_grad=True)))) == 2


@pytest.mark.parametrize(
    ("images", "given", "message"),
    [
        ([], {}, "show_images needs at least one image; got none"),
        (torch.rand(3, 4, 4), {"labels": [1, 2]}, "every image has one label; got 3 images and 2 labels"),
        (torch.rand(3, 4, 4), {"rows": 1, "cols": 2}, "3 images need as many cells; got rows=1, cols=2: leave one of"),
        (torch.rand(3, 4, 4), {"rows": 0}, "3 images need as many cells; got rows=0, cols=None"),
        (torch.rand(3, 2, 4, 5), {}, r"an image is \(H, W\), .* got shape \(2, 4, 5\)"),
        (torch.rand(3), {}, r"an image is \(H, W\), .* got shape \(\)"),
    ],
)
def test_input_when_wrong_says_the_rule(images, given, message):
    with pytest.raises(ValueError, match=message):
        show_images(images, **given)


def test_report_then_has_the_curves_above_the_pictures_in_proportion(tmp_path):
    history = [{"epoch": epoch, "train_loss": 1 / (epoch + 1), "lr": 0.1} for epoch in range(3)]
    square, wide = np.zeros((100, 100, 3), dtype=np.uint8), np.full((100, 300, 3), 200, dtype=np.uint8)
    figure = report(history, {"square": square, "wide": wide})
    above, below = figure.subfigs
    assert [axes.get_title() for axes in above.axes] == ["loss", "lr"]
    assert [axes.get_title() for axes in below.axes] == ["square", "wide"]
    widths = [axes.get_position().width for axes in below.axes]
    assert widths[1] == pytest.approx(3 * widths[0])
    assert np.array_equal(below.axes[1].images[0].get_array(), wide)
    figure.savefig(tmp_path / "report.png")


def test_report_when_there_are_no_pictures_then_is_the_curves():
    figure = report([{"epoch": 0, "train_loss": 1.0}], {})
    assert [axes.get_title() for axes in figure.axes] == ["loss"]


def test_report_when_there_is_nothing_to_draw_then_says_so():
    with pytest.raises(ValueError, match="curves draws the losses, metrics and rates of a history; got none in 0 rows"):
        report([], {"a": np.zeros((4, 4, 3), dtype=np.uint8)})
