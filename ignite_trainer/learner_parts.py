"""What a learner is made of: the parts that may be assigned between fits, those that may not, and the optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from ignite.metrics import Metric
from torch import nn

from .arguments import Fixed, check_cbs, check_model, check_parts, check_takes
from .engines import CancellableEngine
from .epochs import pair_of_loaders
from .gradients import GradientWindow
from .loss_size import LossSize, loss_size_of
from .metrics import Loss
from .optim import OptimizerOptions, check_step, check_tensors, plain_rate, warn_of_untrained
from .steps import TrainStep

__all__ = ["LearnerParts"]

_CURRICULUM = "have the loader itself change, or give a function that returns the loader of each epoch"


class LearnerParts:
    """The parts of a ``Learner``, whose docstring says what they are; what is assigned is looked at as at the start.

    Raises:
        RuntimeError: ``model``, ``dls``, ``train_dl``, ``valid_dl``, ``cbs`` or ``lr`` is assigned during a fit.
        AttributeError: one that has no effect later is assigned.
    """

    metrics = Fixed[Mapping[str, Metric]]()
    precision = Fixed[str]()
    accumulate = Fixed[int]()
    clip_norm = Fixed["float | None"]()
    compile = Fixed[bool]()
    prepare_batch = Fixed[Any]()

    device: torch.device
    trainer: CancellableEngine
    train_loss: Loss
    _valid_loss: Loss
    _loss_size: LossSize | None  # as it was given

    opt: Any
    forward: Any
    _model: nn.Module
    in_fit = False

    @property
    def model(self) -> nn.Module:
        """The model, on the learner's device; a model that is assigned is moved there.

        For a model that ``torch.compile`` returned, this is the module inside it, whose state has plain names. The
        compiled one is called, except in trials, until another model is assigned, which may be the module inside.
        """
        return self._model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._refuse_in_fit("model", "give the fit a callback that changes the model that it has")
        check_model(model, call="learn.model = ...")
        within = getattr(model, "_orig_mod", None)  # what torch.compile was given: its state has no prefix
        former, plain = getattr(self, "_model", None), model if within is None else within
        self._model = self.forward = plain.to(self.device)
        if within is not None or self.compile:
            self.forward = torch.compile(self._model) if within is None else model
        if plain is not former:
            self.opt = None  # until one is needed: the last moves the former model's parameters

    @property
    def dls(self) -> Any:
        """The pair of loaders as it was given; ``train_dl`` and ``valid_dl`` are its parts."""
        return self._dls

    @dls.setter
    def dls(self, dls: Any) -> None:
        self._refuse_in_fit("dls", _CURRICULUM)
        self._dls, (self._train_dl, self._valid_dl) = dls, pair_of_loaders(dls)

    @property
    def train_dl(self) -> Any:
        """The training loader, of ``dls`` or as it was assigned since."""
        return self._train_dl

    @train_dl.setter
    def train_dl(self, train_dl: Any) -> None:
        self._refuse_in_fit("train_dl", _CURRICULUM)
        self._train_dl = train_dl

    @property
    def valid_dl(self) -> Any:
        """The validation loader, of ``dls`` or as it was assigned since; None: there is none."""
        return self._valid_dl

    @valid_dl.setter
    def valid_dl(self, valid_dl: Any) -> None:
        self._refuse_in_fit("valid_dl", _CURRICULUM)
        self._valid_dl = valid_dl

    @property
    def loss_func(self) -> Any:
        """(preds, y) → the mean loss of a batch; a module that is assigned is moved to the learner's device."""
        return self._loss_func

    @loss_func.setter
    def loss_func(self, loss_func: Any) -> None:
        self._loss_func = loss_func
        if isinstance(loss_func, nn.Module):
            loss_func.to(self.device)  # class weights
        if not self.has_own_step:
            warn_of_untrained(self.model, loss_func)
        if self._loss_size is None:
            size = loss_size_of(loss_func)
            self.train_loss.size = self._valid_loss.size = size
            if self._window is not None:
                self._window.size = size

    @property
    def cbs(self) -> list[Any]:
        """The callbacks."""
        return self._cbs

    @cbs.setter
    def cbs(self, cbs: Iterable[Any]) -> None:
        self._refuse_in_fit("cbs", "have a callback do nothing until it is its turn, or assign them in cleanup_fit")
        check_cbs(cbs)
        self._cbs = list(cbs)

    @property
    def lr(self) -> Any:
        """The rate for ``opt_func``; None where the optimizer or its groups have their own."""
        return self._lr

    @lr.setter
    def lr(self, lr: Any) -> None:
        self._refuse_in_fit("lr", "set the rates in learn.opt.param_groups, or take a Schedule")
        self._lr = plain_rate(lr)

    @property
    def validates(self) -> bool:
        """Whether there is a validation loader."""
        return self.valid_dl is not None

    @property
    def has_own_step(self) -> bool:
        """Whether the training step is the user's, without the points of ``TrainStep`` in it."""
        return not isinstance(self.trainer.step, TrainStep)

    @property
    def _window(self) -> GradientWindow | None:
        return getattr(self.trainer.step, "window", None)

    def _take_optimizer(self, optimizer: Any, lr: Any, param_groups: Any, opt_func: Any) -> None:
        self.optimizer_options = OptimizerOptions(optimizer, lr, param_groups)
        self.lr, self.opt_func, self._opt_func_given = lr, opt_func, opt_func
        self._check_opt_func(None if optimizer is not None else opt_func)
        check_tensors(optimizer, self.model)
        self.opt = optimizer
        self._rates_left: tuple[Any, list[float]] = (None, [])

    def _refuse_in_fit(self, name: str, way_out: str) -> None:
        if self.in_fit:
            raise RuntimeError(f"learn.{name} is assigned between fits, and one is running: {way_out}")

    def _check_assigned(self) -> None:
        """What may have been assigned since the last fit, as at construction."""
        if self.loss_func is None and self.validates:
            raise ValueError(
                "validation needs loss_func, called with (preds, y); got None: give one, or None as the validation "
                "loader"
            )
        given = self.optimizer_options.optimizer
        made = None if given is not None else self.opt_func
        check_parts(self.model, self.loss_func, made, self.cbs, call="Learner(...)", own_step=self.has_own_step)
        self._check_opt_func(made)
        if given is None:
            self.optimizer_options.check_rate(self.lr)
        elif self.lr is not None or self.opt_func is not self._opt_func_given:
            name = "lr" if self.lr is not None else "opt_func"
            raise ValueError(
                f"{name} is for an optimizer that the Learner makes, and it has been given one: set the rates in "
                "learn.opt.param_groups"
            )

    def _check_opt_func(self, opt_func: Any) -> None:
        check_takes("opt_func", opt_func, "parameters", *(() if self.lr is None else ("lr",)))

    def _make_optimizer(self) -> Any:
        optimizer = self.optimizer_options.make(self.model, self.opt_func, self.lr)
        if not self.has_own_step:
            check_step(optimizer)
        return optimizer
