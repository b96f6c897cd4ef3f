"""What the dashboard has on it: each function writes one part of a run into its event file."""

from __future__ import annotations

import copy
import logging
import math
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm

from ..files import write_aside
from ..learner_like import LearnerLike
from ..loss_size import first_dimension
from ..optim import rates_of
from ..plots import report
from ..rng import rng_kept
from ..user_warnings import warn_user
from .dashboard_pictures import draw_confusion, draw_images, picture_summary
from .event_files import EventFile, summaries
from .validation_record import ValidationRecord, WorstPrediction, is_images

__all__ = [
    "gradient_norm",
    "row_scalars",
    "write_batch",
    "write_end",
    "write_graph",
    "write_histograms",
    "write_report",
    "write_scalars_of_steps",
    "write_start",
    "write_validation",
]

N_IMAGES = 24
N_BINS = 64
HPARAMS = ("model", "optimizer", "lr", "loss_func", "batch_size.train")  # TensorBoard shows five at first


def write_start(events: EventFile, learn: LearnerLike, config: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """The layout of the charts, the values of the run as text, and its hparams: those that somebody chose."""
    summary = summaries()
    metrics = list(learn.metrics) if learn.validates else []
    charts = {name: ["Multiline", [f"^{re.escape(name)}/(train|valid)$"]] for name in ("loss", *metrics)}
    steps = {
        "learning rate": ["Multiline", ["^lr/"]],
        "gradient norm": ["Multiline", ["^norm/"]],
        "loss of the batches": ["Multiline", ["^loss/batch$"]],
    }
    events.add(summary.custom_scalars({"train over valid": charts, "steps": steps}))
    rows = [f"| {name} | {entry['value']} | {entry['from']} |" for name, entry in config.items()]
    table = "\n".join(["| name | value | from |", "|---|---|---|", *rows])
    events.add(summary.text("text/config", table))
    chosen = {
        name: entry["value"]
        for name, entry in config.items()
        if (name in HPARAMS or (name.startswith("optimizer.") and entry["from"] != "default"))
        and isinstance(entry["value"], (bool, int, float, str))
    }
    shown = ["loss/valid", *(f"{name}/valid" for name in metrics)] if learn.validates else []
    results = dict.fromkeys([*shown, "loss/train"], 0.0)
    experiment, start, _ = summary.hparams({**chosen, **extra}, results)
    events.add(experiment)
    events.add(start)


def write_end(events: EventFile, error: BaseException | None) -> None:
    """The end of the session, with its status on the HParams page: success, or failure after an exception."""
    from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped,unused-ignore]
    from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2  # type: ignore[import-untyped,unused-ignore]

    status = api_pb2.STATUS_SUCCESS if error is None else api_pb2.STATUS_FAILURE
    end = plugin_data_pb2.SessionEndInfo(status=status, end_time_secs=time.time())
    about = metadata.create_summary_metadata(plugin_data_pb2.HParamsPluginData(session_end_info=end))
    value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
    events.add(Summary(value=[value]))


def row_scalars(row: Mapping[str, float]) -> dict[str, float]:
    """The scalars of a row of the history, by their tags.

    >>> row_scalars({"epoch": 0, "step": 9, "train_loss": 0.5, "valid_accuracy": 0.9, "lr": 0.1, "seconds": 1.0})
    {'time/epoch': 1, 'loss/train': 0.5, 'accuracy/valid': 0.9}
    """
    scalars = {"time/epoch": row["epoch"] + 1}
    for key, value in row.items():
        if key == "train_loss":
            scalars["loss/train"] = value
        elif key.startswith("valid_"):
            scalars[f"{key.removeprefix('valid_')}/valid"] = value
    return scalars


def write_scalars_of_steps(events: EventFile, learn: LearnerLike, losses: list[Tensor], norms: list[Tensor]) -> None:
    """Mean loss and gradient norms since the last call, and the learning rates of now. Waits for the device."""
    scalars = {}
    if losses:
        scalars["loss/batch"] = _stacked(losses).mean().item()
    if norms:
        stacked = _stacked(norms)
        scalars["norm/gradient_mean"], scalars["norm/gradient_max"] = stacked.mean().item(), stacked.max().item()
    if scalars:
        rates = {f"lr/group{index}": rate for index, rate in enumerate(rates_of(learn.opt))}
        scalars |= {tag: rate for tag, rate in rates.items() if not math.isnan(rate)}
    events.add_scalars(scalars, learn.step)


def _stacked(values: list[Tensor]) -> Tensor:
    return torch.stack([value.to(values[-1].device) for value in values])  # those of a checkpoint lie on the CPU


def write_validation(events: EventFile, record: ValidationRecord, names: list[str] | None, step: int) -> None:
    """The confusion matrix, a PR curve a class, and the worst predictions, as pictures and as a table."""
    summary = summaries()
    for title, picture in _pictures(record, names, columns=4).items():
        events.add(picture_summary(f"images/{title}", picture, palette=title == "confusion"), step)
    if record.scored is not None:
        for label in range(len(record.scored)):
            tag = f"pr_curves/{_name(label, names).replace('/', '-')}"
            curve = [part.tolist() for part in record.curve(label)]
            events.add(summary.pr_curve_raw(tag, *curve), step)
    worst = record.worst()
    if worst:
        score = "probability of the class" if record.of_classes else "error"
        rows = [f"| {row.sample} | {' | '.join(_told(row, record, names))} | {row.score:.4g} |" for row in worst]
        table = "\n".join([f"| sample | target | predicted | {score} |", "|---|---|---|---|", *rows])
        events.add(summary.text("text/worst_predictions", table), step)


def write_histograms(events: EventFile, model: Any, step: int) -> None:
    """The finite values of each parameter in 64 bins, of complex ones the sizes. Waits for the device."""
    summary = summaries()
    for name, parameter in model.named_parameters():
        values = (parameter.detach().abs() if parameter.is_complex() else parameter.detach()).float().flatten()
        values = values[values.isfinite()]
        if not len(values):
            continue
        low, high = (bound.item() for bound in values.aminmax())
        width = (high - low) / N_BINS or 1e-12
        places = ((values - low) / width).long().clamp_(0, N_BINS - 1)
        counts = torch.bincount(places, minlength=N_BINS).tolist()
        limits = [low + width * (place + 1) for place in range(N_BINS)]
        total, squares = values.sum().item(), values.square().sum().item()
        # a first bin that ends at the lowest value: readers take the first bin's lower bound from it
        events.add(
            summary.histogram_raw(
                f"weights/{name}", low, high, len(values), total, squares, [low, *limits], [0, *counts]
            ),
            step,
        )


def write_batch(events: EventFile, batch: Any, names: list[str] | None, step: int) -> None:
    """The first images of a batch with their labels, if they are images."""
    x, y = batch
    try:
        n_samples = first_dimension(x, y)
    except TypeError:  # nothing tells, as of a tokenizer's batch
        return
    if not is_images(x, n_samples):
        return
    images = [image.cpu() for image in x[:N_IMAGES].detach()]
    titles = [""] * len(images)
    if isinstance(y, Tensor) and y.ndim == 1:
        labels = y[:N_IMAGES].tolist()
        titles = [f"{label:.4g}" if y.is_floating_point() else _name(label, names) for label in labels]
    events.add(picture_summary("images/training_batch", draw_images(images, titles)), step)


def write_graph(events: EventFile, model: Any, x: Any) -> None:
    """The graph of a copy of the model; the random generators are put back.

    Warns:
        UserWarning: torch cannot trace the model; there is no graph then.
    """
    from torch.utils.tensorboard import _pytorch_graph  # SummaryWriter.add_graph has no other way to it

    untyped: Any = _pytorch_graph
    try:
        with rng_kept():
            graph = untyped.graph(copy.deepcopy(model), (x,))[0]
    except Exception as error:  # whatever a model raises of the plain tuples and tensors that tracing gives it
        first_line = str(error).strip().partition("\n")[0]
        warn_user(f"graph=True shows what torch can trace; {type(model).__name__} is not: {first_line}")
    else:
        events.add_graph(graph)


def write_report(folder: Path, learn: LearnerLike, record: ValidationRecord | None, names: list[str] | None) -> None:
    """``report.png``: the curves of the history above the confusion matrix and the worst predictions."""
    if not learn.history:
        return
    pictures = {} if record is None else _pictures(record, names, columns=8)
    figure = report(learn.history, {title.replace("_", " "): picture for title, picture in pictures.items()})
    try:
        fast = {"compress_level": 1}  # two thirds of the time, a few more bytes
        if learn.resumed_from is None:
            learn.aside.move(folder.glob("report.png"), folder)
        write_aside(folder / "report.png", lambda path: figure.savefig(path, dpi=80, pil_kwargs=fast))
    except OSError as error:
        logging.getLogger("ignite_trainer").warning("report.png is not written into %s: %s", folder, error)


def gradient_norm(parameters: Iterable[Any]) -> Tensor:
    """The norm of all gradients as one vector, a 0-d tensor on their device.

    >>> weight = torch.ones(2)
    >>> weight.grad = torch.tensor([3.0, 4.0])
    >>> gradient_norm([weight, torch.ones(1)])
    tensor(5.)
    """
    grads = [parameter.grad for parameter in parameters if parameter.grad is not None]
    # torch 2.13 has no norm of several sparse tensors
    return get_total_norm([grad.coalesce().values() if grad.is_sparse else grad for grad in grads])


def _pictures(record: ValidationRecord, names: list[str] | None, columns: int) -> dict[str, Any]:
    pictures: dict[str, Any] = {}
    if not record.finished:
        return pictures
    if record.confusion is not None and record.images:
        classes = [_name(label, names) for label in range(len(record.confusion))]
        pictures["confusion"] = draw_confusion(record.confusion.cpu(), classes)
    worst = [row for row in record.worst() if row.image is not None]
    if worst:
        titles = []
        for row in worst:
            target, predicted = _told(row, record, names)
            share = f"p(right) {row.score:.1g}" if record.of_classes else f"off by {row.score:.3g}"
            titles.append(f"{target}\nas {predicted}\n{share}")
        images = [row.image for row in worst if row.image is not None]
        pictures["worst_predictions"] = draw_images(images, titles, columns=columns)
    return pictures


def _told(row: WorstPrediction, record: ValidationRecord, names: list[str] | None) -> tuple[str, str]:
    if record.of_classes:
        return _name(int(row.target), names), _name(int(row.predicted), names)
    return f"{row.target:.4g}", f"{row.predicted:.4g}"


def _name(label: int, names: list[str] | None) -> str:
    return names[label] if names is not None and 0 <= label < len(names) else str(label)
