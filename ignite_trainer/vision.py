"""The one place that imports torchvision, beside any build of torch."""

import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import torch

__all__ = ["import_torchvision"]


def import_torchvision() -> ModuleType:
    """The torchvision module, imported beside whatever build of torch there is.

    A torchvision wheel beside a torch built for other hardware (one for CUDA beside one for the CPU) cannot load its
    compiled operators, and its import then fails with ``operator torchvision::nms does not exist``, because it
    registers what their results look like. Datasets and transforms need none of them: where the operators do not load,
    the two names are declared without code, and the import goes through. Calling ``torchvision.ops.nms`` is an error
    there, as before.

    Returns:
        torchvision, its subpackages ``datasets`` and ``transforms`` with it.

    Raises:
        ModuleNotFoundError: torchvision is not installed.

    >>> import_torchvision().datasets.FashionMNIST.classes[0]
    'T-shirt/top'
    """
    if "torchvision" not in sys.modules and not _has_operators():
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return importlib.import_module("torchvision")


def _has_operators() -> bool:
    """Whether torchvision's operators are there or can be loaded; if so they are, as torchvision would itself."""
    if hasattr(torch.ops.torchvision, "nms"):
        return True
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True  # nothing to cure: the import itself says what is missing
    for path in Path(spec.origin).parent.glob("_C*"):
        try:
            torch.ops.load_library(path)  # type: ignore[no-untyped-call]
        except OSError:
            return False  # built for another torch
        return True
    return False
