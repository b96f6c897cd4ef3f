"""The curves of a history: which charts, which lines, which points, and a picture that can be saved."""

import io

import numpy as np
import pytest

from ignite_trainer.plots import curves
from tests import processes

NAN = float("nan")


def row(epoch, **values):
    return {
        "epoch": epoch,
        "step": 10 * (epoch + 1),
        "train_loss": 1 / (epoch + 1),
        "lr": 0.1,
        "seconds": 2.0,
        **values,
    }


def drawn(figure):
    """Every line of the figure: its chart's title and its label to its points."""
    return {
        (axes.get_title(), line.get_label()): (list(line.get_xdata()), list(line.get_ydata()))
        for axes in figure.axes
        for line in axes.get_lines()
    }


def test_curves_of_a_run_with_validation_has_the_loss_of_both_phases_each_metric_and_the_rate():
    history = [row(e, valid_loss=1 / (e + 2), valid_accuracy=e / 4, valid_top_k=e / 2, lr=0.1 * e) for e in range(3)]
    assert drawn(curves(history)) == {
        ("loss", "train"): ([1, 2, 3], [1, 1 / 2, 1 / 3]),
        ("loss", "valid"): ([1, 2, 3], [1 / 2, 1 / 3, 1 / 4]),
        ("accuracy", "valid"): ([1, 2, 3], [0, 1 / 4, 1 / 2]),
        ("top_k", "valid"): ([1, 2, 3], [0, 1 / 2, 1]),
        ("lr", "lr"): ([1, 2, 3], [0, 0.1, 0.2]),
    }


def test_curves_without_validation_draws_the_training_loss_alone():
    figure = curves([row(0), row(1)])
    assert list(drawn(figure)) == [("loss", "train"), ("lr", "lr")]
    assert figure.axes[0].get_legend() is None


def test_curves_of_rows_without_some_keys_draws_what_is_there_at_its_epoch():
    history = [row(0), row(1, valid_loss=0.5), row(2), row(3, valid_loss=0.25)]
    assert drawn(curves(history))["loss", "valid"] == ([2, 4], [0.5, 0.25])


def test_curves_of_a_single_row_shows_points():
    figure = curves([row(0, valid_loss=0.5)])
    assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.get_lines())


@pytest.mark.parametrize("losses", [[0.5, NAN, 0.25], [NAN, NAN, NAN], [float("inf"), 0.5, NAN]])
def test_curves_with_values_that_are_not_finite_leaves_gaps_and_saves(losses, tmp_path):
    figure = curves([row(epoch, valid_loss=loss) for epoch, loss in enumerate(losses)])
    np.testing.assert_array_equal(drawn(figure)["loss", "valid"][1], losses)
    figure.savefig(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_curves_gives_a_phase_one_colour_in_all_charts():
    figure = curves([row(0, valid_loss=0.5, valid_accuracy=0.5)])
    lines = {
        (axes.get_title(), line.get_label()): line.get_color() for axes in figure.axes for line in axes.get_lines()
    }
    assert lines["loss", "valid"] == lines["accuracy", "valid"] != lines["loss", "train"]


def test_curves_of_a_single_row_names_its_epoch_and_no_fraction_of_one():
    figure = curves([row(0)])
    figure.savefig(io.BytesIO())  # ticks are chosen when it is drawn
    low, high = figure.axes[0].get_xlim()
    assert [tick for tick in figure.axes[0].get_xticks() if low <= tick <= high] == [1]


@pytest.mark.parametrize("history", [[], [{"epoch": 0, "step": 10, "seconds": 2.0}]])
def test_curves_with_nothing_to_draw_is_refused(history):
    message = f"^curves draws the losses, metrics and rates of a history; got none in {len(history)} rows: fit first$"
    with pytest.raises(ValueError, match=message):
        curves(history)


def test_curves_does_not_import_pyplot_nor_matplotlib_before_it_is_called(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("""
import sys
from ignite_trainer.plots import curves
assert "matplotlib" not in sys.modules
curves([{"epoch": 0, "train_loss": 1.0}]).savefig(sys.argv[1])
assert "matplotlib.pyplot" not in sys.modules
""")
    assert processes.run(program, tmp_path / "curves.png") == (0, "", "")
