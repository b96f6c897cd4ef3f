"""A trained model as a file for use elsewhere, seen to give the same outputs: its weights, or a program."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .files import write_aside
from .modes import modes_kept
from .nests import map_leaves, tensors_in
from .rng import rng_kept
from .weights import load_weights, save_weights

__all__ = ["export_model"]

Format = Literal["safetensors", "torch", "onnx"]


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
