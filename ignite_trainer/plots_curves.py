"""The curves of a run, drawn from its history."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PHASES = ("train", "valid")


def curves(history: Sequence[Mapping[str, float]]) -> "Figure":
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
    from matplotlib.ticker import MaxNLocator

    charts = _charts(history)
    if not charts:
        raise ValueError(
            f"curves draws the losses, metrics and rates of a history; got none in {len(history)} rows: fit first"
        )
    figure = Figure(figsize=(5 * len(charts), 4), layout="constrained")
    for axes, (title, lines) in zip(figure.subplots(1, len(charts), squeeze=False)[0], charts.items(), strict=True):
        for key, label in lines.items():
            rows = [row for row in history if key in row]
            colour = f"C{PHASES.index(label)}" if label in PHASES else "C2"
            epochs = [row["epoch"] + 1 for row in rows]
            axes.plot(epochs, [row[key] for row in rows], color=colour, marker="o", markersize=3, label=label)
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(alpha=0.3)
        if len(lines) > 1:
            axes.legend()
    return figure


def _charts(history: Sequence[Mapping[str, float]]) -> dict[str, dict[str, str]]:
    """For each chart's title its lines: the key of a row and the line's label."""
    charts: dict[str, dict[str, str]] = {}
    keys = dict.fromkeys(key for row in history for key in row)  # in order, each once
    for key in keys:
        phase, _, name = key.partition("_")
        if phase in PHASES and name:
            charts.setdefault(name, {})[key] = phase
    if "lr" in keys:
        charts.setdefault("lr", {})["lr"] = "lr"
    return charts
