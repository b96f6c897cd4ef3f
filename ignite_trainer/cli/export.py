"""``ignite-trainer export``: a run's model as a file for use elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
import tyro

from ..export import export_model
from .mistakes import UserMistake, mistakes
from .run_folder import read_run
from .train import say

__all__ = ["export"]

_ENDINGS = {"safetensors": ".safetensors", "torch": ".pt2", "onnx": ".onnx"}


def export(
    run: Annotated[Path, tyro.conf.arg(metavar="RUN")],
    /,
    *,
    format: Annotated[Literal["safetensors", "torch", "onnx"], tyro.conf.arg(metavar="FORMAT")] = "safetensors",
    file: Annotated[
        Path | None, tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: exported.* in the run's folder)")
    ] = None,
) -> int:
    """Write a run's model for use elsewhere; it is loaded back and compared.

    Example: ignite-trainer export runs/20260131-235959 --format torch

    Args:
        run: folder of the run.
        format: safetensors is the weights alone; torch a program for torch.export.load, in a file that ends in .pt2;
            onnx one for other runtimes.
        file: where to write it.

    Returns:
        0.
    """
    known = read_run(run)
    file = file or run / f"exported{_ENDINGS[format]}"
    if file.is_dir():
        raise UserMistake(f"--file is a file to write; {file} is a folder: give a name in it")
    x = torch.zeros(2, *known.input_shape, dtype=known.input_dtype)  # whole numbers may stand for tokens
    if x.is_floating_point():
        x.uniform_(generator=torch.Generator().manual_seed(0))
    model = known.model()
    with mistakes():
        export_model(model, x, file, format)
    say(f"{file}: {format}, {file.stat().st_size / 1e6:.2f} MB; gives the outputs of the run's model")
    return 0
