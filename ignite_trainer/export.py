"""A trained model as a file: its weights as safetensors, or the whole of it as a program that needs no code of ours."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .files import read_verified, sum_file, write_aside
from .loadable import UNKNOWN, load_plain, shapes_of
from .modes import modes_kept
from .nests import map_leaves, tensors_in
from .rng import rng_kept

__all__ = ["export_model", "load_weights", "refuse_unsavable", "save_weights"]

Format = Literal["safetensors", "torch", "onnx"]


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


def export_model(model: nn.Module, x: Any, path: str | Path, format: Format = "safetensors") -> None:
    """Write a model in evaluation mode, seen to give the same outputs when it is loaded back, with any batch size.

    "safetensors" is the weights alone; "torch" a program for ``torch.export.load``; "onnx" one for other runtimes. The
    model's modes and the random generators stay as they are; a file that gave other outputs is not left behind.

    Args:
        model: called with x alone.
        x: an input as the model takes it: a tensor, or tuples, lists and dicts of tensors, samples along dimension 0.
        path: of the file; for "torch" its name ends in ``.pt2``.
        format: "safetensors", "torch" or "onnx".

    Raises:
        ValueError: another format or ending; a model that torch cannot export with a free batch size; other outputs.
        ImportError: "onnx" without the packages of the extra ``onnx``.

    Source: torch.export and torch.onnx.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     export_model(nn.Linear(2, 1), torch.ones(3, 2), f"{folder}/model.pt2", "torch")
    ...     torch.export.load(f"{folder}/model.pt2").module()(torch.ones(5, 2)).shape
    torch.Size([5, 1])
    """
    path = Path(path)
    if format not in _WRITERS:
        raise ValueError(f"format is 'safetensors', 'torch' or 'onnx'; got {format!r}")
    if format == "torch" and path.suffix != ".pt2":
        raise ValueError(f"torch loads exported programs from files that end in .pt2; got {path.name!r}")
    missing = [name for name in ("onnx", "onnxscript") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise ImportError(
            f"format='onnx' needs {' and '.join(missing)}, which is not installed: pip install 'ignite_trainer[onnx]'"
        )
    batches = [map_leaves(x, _one_more)]  # 1 sample would become a constant 1
    batches.append(map_leaves(batches[0], _one_more))
    with modes_kept(model), rng_kept(), torch.no_grad():
        model.eval()

        def write(temporary: Path) -> None:
            _WRITERS[format](model, batches[0], temporary)
            others = [] if format == "safetensors" else batches  # weights know of no batch size
            _check_same_outputs(model, _LOADERS[format](model, temporary), [x, *others])

        write_aside(path, write)


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


def _write_torch(model: nn.Module, x: Any, path: Path) -> None:
    try:
        program, content = torch.export.export(model, (x,), dynamic_shapes=_free_batch(x)), io.BytesIO()
        torch.export.save(program, content)  # in memory: where the disk is full, torch 2.13 ends the process
    except Exception as error:
        raise _cannot_be_traced(model, error) from error
    path.write_bytes(content.getvalue())


def _write_onnx(model: nn.Module, x: Any, path: Path) -> None:
    try:
        program = torch.onnx.export(model, (x,), dynamic_shapes=_free_batch(x), dynamo=True, verbose=False)
    except Exception as error:
        raise _cannot_be_traced(model, error) from error
    assert program is not None
    program.save(str(path))


def _cannot_be_traced(model: nn.Module, error: Exception) -> ValueError:
    first_line = str(error).strip().partition("\n")[0]
    return ValueError(
        f"a model is exported with a free batch size; torch cannot for this {type(model).__name__}, and says "
        f"{type(error).__name__}: {first_line}"
    )


def _one_more(part: Any) -> Any:
    return torch.cat([part, part[:1]]) if isinstance(part, Tensor) and part.ndim else part


def _free_batch(x: Any) -> tuple[Any, ...]:
    batch = {0: torch.export.Dim("batch")}
    return (map_leaves(x, lambda part: batch if isinstance(part, Tensor) and part.ndim else None),)


def _emptied_and_loaded(model: nn.Module, path: Path) -> Callable[[Any], Any]:
    twin = copy.deepcopy(model)
    for tensor in twin.state_dict().values():
        tensor.zero_()
    load_weights(twin, path)
    return twin


def _load_torch(model: nn.Module, path: Path) -> Callable[[Any], Any]:
    return torch.export.load(str(path)).module()


def _load_onnx(model: nn.Module, path: Path) -> Callable[[Any], Any] | None:
    import onnx

    onnx.checker.check_model(str(path))
    if find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]

    def run(x: Any) -> Any:
        outputs = session.run(None, dict(zip(names, (t.cpu().numpy() for _, t in tensors_in(x)), strict=True)))
        return [torch.from_numpy(output) for output in outputs]

    return run


_WRITERS: dict[str, Callable[[nn.Module, Any, Path], None]] = {
    "safetensors": lambda model, x, path: save_weights(model, path),
    "torch": _write_torch,
    "onnx": _write_onnx,
}
_LOADERS: dict[str, Callable[[nn.Module, Path], Callable[[Any], Any] | None]] = {
    "safetensors": _emptied_and_loaded,
    "torch": _load_torch,
    "onnx": _load_onnx,
}


def _check_same_outputs(model: nn.Module, loaded: Callable[[Any], Any] | None, batches: list[Any]) -> None:
    if loaded is None:
        return
    for x in batches:
        for (_, ours), (_, theirs) in zip(tensors_in(model(x)), tensors_in(loaded(x)), strict=True):
            a, b = ours.cpu().double(), theirs.cpu().double()
            # other runtimes sum in another order: 1e-3 of the largest output is far above float32's rounding of that
            scale = a[a.isfinite()].abs().max().item() if a.isfinite().any() else 0.0
            if not torch.allclose(a, b, rtol=0, atol=1e-3 * scale, equal_nan=True):
                raise ValueError(
                    f"an exported model gives the outputs of the model in evaluation mode; for {len(ours)} samples "
                    f"they are {(a - b).abs().max().item():.3g} apart: look for random numbers, or for branches of "
                    "Python that data decides"
                )
