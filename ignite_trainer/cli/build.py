"""A job made of its options: the data, the model, and the Learner over both."""

from __future__ import annotations

import difflib
import inspect
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from typing import Any, NamedTuple

import torch
from torch import nn, optim

from ..data import DataLoaders, TensorLoader
from ..data.augment import AUGMENTATIONS, Augmented
from ..distributed import world_size
from ..learner import Learner
from ..metrics import accuracy
from ..models import SimpleNN, SmallCNN, mlp
from ..modes import modes_kept
from ..optim import param_groups
from ..rng import rng_kept, seed_everything
from ..trial import Memory
from ..vision import import_torchvision
from .job_data import JobData, load_data
from .jobs import call, find_function
from .mistakes import UserMistake, mistakes
from .options import Options

__all__ = ["Job", "build_job", "build_model", "check_last_batch", "loader_of"]

_N_HIDDEN = 50  # of mlp, as in the documents


class Job(NamedTuple):
    """A job that is ready to run.

    Args:
        learn: with the callbacks that were given; its loaders are ``learn.dls``.
        data: the datasets.
        options: what it was made of.
    """

    learn: Learner
    data: JobData
    options: Options


def build_job(options: Options, *, cbs: Iterable[Any] = (), folder: Any = None) -> Job:
    """The job of these options; the generators are seeded before the data is loaded, and before the model is made.

    Args:
        options: checked.
        cbs: the Learner's callbacks.
        folder: of the run.

    Raises:
        UserMistake: there is no such data, model or device, or they do not go together.
    """
    if options.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)
    seed_everything(options.seed)  # a function of the user's may draw its split
    data = load_data(options)
    dls = _loaders(data, options)
    seed_everything(options.seed)
    model = build_model(options.model, data.input_shape, len(data.classes), data.input_dtype)
    decayed = partial(param_groups, lr=options.lr, weight_decay=options.weight_decay)
    with mistakes():
        learn = Learner(
            model,
            dls,
            nn.CrossEntropyLoss(),
            options.lr,
            cbs,
            _optimizer(options),
            param_groups=decayed if options.weight_decay else None,
            metrics={"accuracy": accuracy},
            device=options.device,
            precision=options.precision,
            accumulate=options.accumulate,
            clip_norm=options.clip_norm,
            folder=folder,
        )
    return Job(learn, data, options)


def check_last_batch(job: Job) -> None:
    """Where a training batch, or a rank's part of one, has one sample, run the model on one, in training mode.

    Neither the model nor the random generators change.

    Raises:
        UserMistake: it raises there, as batch norm does, or gives no row of scores.
    """
    options, n_samples, world = job.options, len(job.data.train), world_size()
    n_full, rest = divmod(n_samples, options.batch_size)
    is_cut = options.max_steps is not None and options.max_steps * options.accumulate <= n_full
    sizes = [options.batch_size] * bool(n_full) + [rest] * bool(rest and not is_cut)
    if all(size >= 2 * world for size in sizes):
        return
    ranks = "" if world == 1 else f" on {world} ranks"
    what = f"{n_samples} samples in batches of {options.batch_size}{ranks} make a batch of 1, on which --model "
    model, n_out = job.learn.model, len(job.data.classes)
    one = torch.zeros(1, *job.data.input_shape, dtype=job.data.input_dtype, device=job.learn.device)
    memory = Memory([model])
    try:
        with rng_kept(), torch.no_grad():
            output = call(model.train(), one, what=f"{what}{options.model} raises")
    except UserMistake as raised:
        raise UserMistake(f"{raised}: take another --batch-size") from raised
    finally:
        memory.put_back()
    if isinstance(output, torch.Tensor) and tuple(output.shape) != (1, n_out):
        raise UserMistake(
            f"{what}{options.model} gives {tuple(output.shape)} and not (1, {n_out}): take another --batch-size"
        )


def loader_of(dataset: Any, options: Options) -> Any:
    """Batches of a dataset in its order, as for validation."""
    pair = DataLoaders.from_datasets(dataset, dataset, options.batch_size, num_workers=options.workers)
    return pair.valid


def build_model(
    name: str, input_shape: Sequence[int], n_out: int, input_dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The model that ``--model`` names, for inputs of this shape and so many classes; seen to fit them.

    Args:
        name: as the option has it.
        input_shape: of one input; of images (channels, height, width).
        n_out: classes.
        input_dtype: of the inputs; of tokens a type of whole numbers.

    Raises:
        UserMistake: there is no such model, or it does not give (N, n_out) for such inputs.

    >>> build_model("simple-nn", (1, 28, 28), 10).fc2
    Linear(in_features=128, out_features=10, bias=True)
    """
    n_in = prod(input_shape)
    source, colon, rest = name.partition(":")
    if name == "mlp":
        layers = dict(mlp(n_in, _N_HIDDEN, n_out).named_children())
        model: Any = nn.Sequential(OrderedDict(flatten=nn.Flatten(), **layers))
    elif name == "simple-nn":
        model = SimpleNN(n_in, n_out=n_out)
    elif name == "small-cnn":
        model = SmallCNN(_channels(name, input_shape), n_out)
    elif colon and source == "torchvision":
        model = _torchvision_model(rest, _channels(name, input_shape), n_out)
    elif colon:
        model = _users_model(name, input_shape, n_in, n_out)
    else:
        forms = "mlp, simple-nn, small-cnn, torchvision:NAME or module:Class"
        raise UserMistake(f"--model is {forms}; got {name!r}")
    _check_outputs(model, name, torch.zeros(2, *input_shape, dtype=input_dtype), n_out)
    return model  # type: ignore[no-any-return]


def _loaders(data: JobData, options: Options) -> DataLoaders:
    how: dict[str, Any] = {"seed": options.seed, "num_workers": options.workers}
    dls = DataLoaders.from_datasets(data.train, data.valid, options.batch_size, **how)
    if options.augment == "none":
        return dls
    if len(data.input_shape) != 3:
        raise UserMistake(f"--augment changes images (channels, height, width); inputs are {data.input_shape} here")
    change = AUGMENTATIONS[options.augment]
    if isinstance(dls.train, TensorLoader):
        dls.train.transform = change
        return dls
    return DataLoaders.from_datasets(Augmented(data.train, change), data.valid, options.batch_size, **how)


def _optimizer(options: Options) -> Any:
    if options.optimizer == "sgd":
        return partial(optim.SGD, momentum=options.momentum)
    # AdamW decays by 0.01 unless it is told
    return optim.Adam if options.optimizer == "adam" else partial(optim.AdamW, weight_decay=options.weight_decay)


def _channels(name: str, input_shape: Sequence[int]) -> int:
    if len(input_shape) != 3:
        raise UserMistake(f"--model {name} takes images (channels, height, width); inputs are {input_shape} here")
    return input_shape[0]


def _torchvision_model(name: str, n_channels: int, n_out: int) -> nn.Module:
    """A classifier of torchvision's, without weights; its first convolution is made anew for other than 3 channels."""
    models = import_torchvision().models
    names = models.list_models(module=models)
    if name not in names:
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
        way_out = f"did you mean {nearest[0]}?" if nearest else "torchvision.models.list_models() tells them"
        raise UserMistake(f"--model torchvision:NAME is one of torchvision's classifiers; {name!r} is none, {way_out}")
    # these two have outputs beside their own in training, which no plain loss takes
    more = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(name, weights=None, num_classes=n_out, **more)
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Conv2d):
            if layer.in_channels != n_channels:
                parent, _, leaf = path.rpartition(".")
                setattr(model.get_submodule(parent), leaf, _with_channels(layer, n_channels))
            return model
    return model


def _with_channels(layer: nn.Conv2d, n_channels: int) -> nn.Conv2d:
    how = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation", "padding_mode")}
    return nn.Conv2d(n_channels, layer.out_channels, bias=layer.bias is not None, **how)


def _users_model(name: str, input_shape: Sequence[int], n_in: int, n_out: int) -> Any:
    make = find_function(name)
    known = {"n_in": n_in, "n_channels": input_shape[0] if input_shape else 1, "n_out": n_out, "num_classes": n_out}
    try:
        parameters = inspect.signature(make).parameters
    except ValueError:
        parameters = {}  # type: ignore[assignment]
    model = call(make, what=f"--model {name}", **{key: known[key] for key in known if key in parameters})
    if not isinstance(model, nn.Module):
        raise UserMistake(f"--model {name} gives an nn.Module; it gave a {type(model).__name__}")
    return model


def _check_outputs(model: nn.Module, name: str, zeros: torch.Tensor, n_out: int) -> None:
    """Run the model once on two inputs, in evaluation mode; neither it nor the random generators change."""
    of_what = f"inputs {tuple(zeros.shape[1:])}" + (f" of {zeros.dtype}" if zeros.dtype != torch.float32 else "")
    with rng_kept(), modes_kept(model), torch.no_grad():
        model.eval()
        output = call(model, zeros, what=f"--model {name} on {of_what}")
    shape = tuple(output.shape) if isinstance(output, torch.Tensor) else type(output).__name__
    if shape != (2, n_out):
        raise UserMistake(
            f"--model {name} gives (N, {n_out}), a score for each class of the data; for 2 inputs it gave {shape}"
        )
