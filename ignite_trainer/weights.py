"""A model's weights as a safetensors file, and how they come back out of it or out of a checkpoint."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .files import read_verified, sum_file, write_aside
from .loadable import UNKNOWN, load_plain, shapes_of

__all__ = ["load_weights", "refuse_unsavable", "save_weights"]


def save_weights(model: nn.Module, path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a model's parameters and buffers as safetensors, so that a crash leaves the former file or the new one.

    Tensors that several names share (tied weights) are written once.

    Args:
        model: on any device.
        path: of the file; its folder is made.
        metadata: goes into the file's head.

    Raises:
        OSError: the disk is full, or the folder cannot be written; a former file is whole.
        ValueError: the model has an extra state, which is no tensor, or a tensor that is not dense.

    Source: safetensors. Its ``save_model`` 0.8 refuses tensors that are parts of one, as cuDNN's recurrent layers are,
    and leaves out one that is part of another.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(nn.Linear(2, 1), f"{folder}/model.safetensors")
    ...     load_weights(nn.Linear(2, 1), f"{folder}/model.safetensors")
    """
    from safetensors.torch import save

    refuse_unsavable(model)
    content = save(_apart(model.state_dict()), metadata)  # in memory: its own writing hides what the disk says
    end = 8 + int.from_bytes(content[:8], "little")
    parts = _sorted_head(content[8:end]), memoryview(content)[end:]

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.writelines(parts)

    write_aside(Path(path), write)


def _sorted_head(head: bytes) -> bytes:
    """The head of a safetensors file, and its length before it; safetensors 0.8 writes metadata in a random order."""
    parsed = json.loads(head)
    if "__metadata__" in parsed:
        parsed["__metadata__"] = dict(sorted(parsed["__metadata__"].items()))
    text = json.dumps(parsed, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _apart(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """One name for each tensor of a state, and no two tensors that share memory."""
    apart: dict[str, Tensor] = {}
    places, memories = set[Any](), set[Any]()
    for name, tensor in state.items():
        place = _place(tensor)
        memory = place[:2]
        if place in places:  # tied
            continue
        is_own = memory not in memories and tensor.is_contiguous()
        apart[name] = tensor if is_own else tensor.detach().clone(memory_format=torch.contiguous_format)
        places.add(place)
        memories.add(memory)
    return apart


def refuse_unsavable(model: nn.Module) -> None:
    """Refuse a model whose state safetensors cannot hold.

    Raises:
        ValueError: it has something else than tensors in it, or sparse, nested or quantized ones.
    """
    for name, value in model.state_dict().items():
        held, what = "tensors", "none"
        if isinstance(value, Tensor):
            if value.layout is torch.strided and not value.is_nested and not value.is_quantized:
                continue
            held, what = "dense tensors", "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
            what = "quantized" if value.is_quantized else what
        raise ValueError(
            f"safetensors holds {held}; {name} of {type(model).__name__} is {what}: take a Checkpoint, which keeps it, "
            "or torch.save"
        )


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill a model, in place and on its device, with what was saved: every tensor, or none at all.

    Args:
        model: of the same names and shapes.
        path: of a file that ``save_weights`` wrote, or of a checkpoint, such as ``best.pt``.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder.
        ValueError: it is no safetensors file, or a tensor does not fit; the model is as it was.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if Path(path).is_dir():
        raise IsADirectoryError(f"weights are loaded from a file; {path} is a folder: give model.safetensors in it")
    if zipfile.is_zipfile(path):
        _load_from_checkpoint(model, Path(path))
        return
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"weights are loaded from a whole safetensors file; {path} is none: {error}") from error
    _check_fit(model, shapes_of(weights), path)
    model.load_state_dict(weights, strict=False)  # what is not there is tied to what is


def _load_from_checkpoint(model: nn.Module, path: Path) -> None:
    if not sum_file(path).exists():
        raise ValueError(
            f"a checkpoint has its sum beside it; {path} has no {sum_file(path).name}: copy both, or, if torch.save "
            "wrote it, give model.load_state_dict what torch.load reads"
        )
    state = load_plain(read_verified(path))
    weights = state.get("model") if isinstance(state, dict) else None
    if not isinstance(weights, dict):
        raise ValueError(f"weights are loaded from a safetensors file or a checkpoint; {path} is neither")
    _check_fit(model, shapes_of(weights), path)
    model.load_state_dict(weights)


def _check_fit(model: nn.Module, saved: dict[str, Any], path: str | Path) -> None:
    ours = model.state_dict()
    shapes = shapes_of(ours)
    there = {_place(ours[name]) for name in saved if isinstance(shapes.get(name), tuple)}
    for name in [*shapes, *saved]:
        is_tied = name not in saved and isinstance(shapes[name], tuple) and _place(ours[name]) in there  # to one there
        is_open = name in saved and shapes.get(name) == UNKNOWN  # of a lazy module: it takes any
        if (name in saved) != (name in shapes) or saved[name] != shapes[name]:
            if is_tied or is_open:
                continue
            raise ValueError(
                f"{path} has {name} {_of_shape(saved, name)}, the model has it {_of_shape(shapes, name)}: "
                "the same model is needed to load its weights"
            )


def _place(tensor: Tensor) -> tuple[Any, ...]:
    memory = tensor.untyped_storage().data_ptr()
    return tensor.device, memory, tensor.storage_offset(), tuple(tensor.shape), tensor.stride()


def _of_shape(shapes: dict[str, Any], name: str) -> str:
    if name not in shapes:
        return "not at all"
    return "as an extra state" if shapes[name] is None else f"of shape {shapes[name]}"
