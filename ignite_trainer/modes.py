"""The modes of a model's modules, training or evaluation, kept over what changes them."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["modes_kept"]


@contextmanager
def modes_kept(model: nn.Module) -> Iterator[None]:
    """In here modules may be put into training or evaluation mode; each gets its own back, whatever happens.

    >>> model = nn.Dropout().train()
    >>> with modes_kept(model):
    ...     _ = model.eval()
    >>> model.training
    True
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
