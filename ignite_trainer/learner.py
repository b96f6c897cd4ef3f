"""The Learner: model, data, loss and optimizer on two Ignite engines."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NoReturn, SupportsIndex

from ignite.engine import Events
from torch import Tensor, nn, optim

from .arguments import check_folder, check_parts, check_takes, in_short, is_whole
from .callbacks import Dispatcher, has_point, in_order, run_cbs
from .collectives import on_main
from .devices import pick_device
from .distributed import initialize, is_main, world_size
from .engines import CancellableEngine, always
from .epochs import check_loader, first_batch, refuse_one_shot, rereadable
from .events import Scope, TrainEvents
from .export import export_model
from .files import Aside, new_run_folder
from .first_batch import FirstBatchChecks
from .gradients import check_gradient_options, window_for
from .learner_metrics import attach_metrics, metrics_from
from .learner_parts import LearnerParts
from .loss_size import LossSize, first_dimension
from .metrics import Loss
from .modes import modes_kept
from .optim import begin_at_rates_set_since, rates_of
from .prediction import predict
from .ranks import Ranks
from .resume import Resumption, streams_kept
from .steps import EvalStep, Step, TrainStep, autocast_for, on_device, own_step, preparation
from .summary import summarize
from .timeline import timeline
from .validation import Validation
from .weights import load_weights, save_weights

__all__ = ["Learner"]


class Learner(LearnerParts):
    """A model, its data, a loss and an optimizer, trained by two Ignite engines, ``trainer`` and ``evaluator``.

    Callbacks and native handlers are called at the points of ``POINTS``; validation is attached to the trainer's
    EPOCH_COMPLETED. With the same loaders and seeds, ``fit`` gives the same weights, validation loss and states of the
    random generators as the loop written by hand, bit for bit.

    Args:
        model: moved to ``device`` at once. One that ``torch.compile`` returned is called as it is, and saved without
            the prefix ``_orig_mod.``.
        dls: ``DataLoaders(train, valid)``, a pair, or an object with ``train`` and ``valid``; ``valid`` may be None.
            A loader is an iterable of batches ``(x, y)``, or a function that returns one for each epoch.
        loss_func: (preds, y) → a 0-d tensor, the mean loss over the batch; see ``loss_size``. If it is a module, its
            tensors, such as class weights, are moved to ``device``.
        lr: learning rate, given to ``opt_func``.
        cbs: callbacks.
        opt_func: (parameters, lr) → an optimizer, anything with ``step`` and ``zero_grad``; made anew at every fit.
        optimizer: an optimizer over the model's parameters, kept over fits, instead of ``lr`` and ``opt_func``.
        param_groups: groups for ``opt_func`` instead of the model's parameters: a list of dicts, or a function from the
            model to such a list; ``lr`` may be left out if every group has its own.
        metrics: a dict from name to a function (preds, y) → mean over the batch, or to a metric of Ignite or
            torchmetrics. They are computed in validation, not in training; each has to give one number.
        device: None: cuda, else mps, else cpu.
        precision: "fp32"; "bf16" or "fp16" run model and loss in autocast, "fp16" with scaled gradients.
        accumulate: batches in one optimizer step, which equals that of one large batch.
        clip_norm: the largest total norm of the gradients of a step; None: any.
        compile: call the model through ``torch.compile``; the first batches then take a while.
        prepare_batch: a batch of the loader → ``(x, y)``.
        step: your own training step, called with the learner (see ``TrainStep``).
        loss_size: (preds, y) → how many samples the loss of a batch counts for; None: found by itself for cross-entropy
            and NLL, else the first dimension of y.
        folder: where handlers write; None: ``runs/YYYYmmdd-HHMMSS``, if one does.

    Between fits ``model``, ``dls``, ``loss_func``, ``lr``, ``cbs`` and ``opt_func`` may be assigned, and the next fit
    uses them; during a fit ``model``, ``dls``, ``lr`` and ``cbs`` may not be, and another ``loss_func`` counts from the
    next loss that is computed. Assigning ``metrics``, ``precision``, ``accumulate``, ``clip_norm``, ``compile`` or
    ``prepare_batch`` is always an error.

    Attributes:
        epoch, iter: of the batch that is running, from 0; ``step`` counts optimizer steps of this fit.
        steps_before: in a step of one's own, those of the batches before this one.
        batch, preds, loss: of the batch that is running; callbacks may assign them.
        opt, dl, epochs, n_epochs: optimizer, loader, range of epochs and number of epochs of this fit. Unless it was
            given as ``optimizer``, the next fit makes another optimizer, whatever was done to this one; after another
            model was assigned it is None until then.
        forward: what is called as the model: the model, or what ``torch.compile`` made of it.
        engine: the engine that is running, or ran last.
        validating: whether a fit's own validation is running.
        ranks: the other processes of the run, under torchrun; None: there are none.
        resumed_from: the checkpoint that this fit goes on from; None: it began anew.
        stop_reason: why the last fit ended before its time, in one line; empty if it did not.
        results: the last validation's means.
        aside: where handlers of this fit put files that an earlier one has left in its folder.
        history: a dict for each epoch of this fit: epoch, step, train_loss, valid_loss, valid_<metric>, lr, seconds.

    Raises:
        ValueError: neither lr nor optimizer, or both; an optimizer over other tensors; an unknown device.
        TypeError: ``model``, ``dls``, ``loss_func``, ``opt_func``, ``optimizer``, ``lr``, ``cbs`` or a
            metric is of the wrong kind.

    Warns:
        UserWarning: a loss that sums over the batch, or has parameters that are not the model's; options that have no
            effect on a step of one's own.

    Source: fastai's Learner (course22p2 miniai), on Ignite.

    >>> import torch
    >>> from ignite_trainer import Learner
    >>> data = [(torch.ones(4, 2), torch.ones(4, 1))] * 3
    >>> learn = Learner(nn.Linear(2, 1), (data, data), nn.MSELoss(), lr=0.1, device="cpu")
    >>> sorted(learn.fit(2)), learn.step, len(learn.history)
    (['loss'], 6, 2)
    """

    outcome: Literal["finished", "resumable", "broken"]

    def __init__(
        self,
        model: nn.Module,
        dls: Any,
        loss_func: Callable[[Any, Any], Tensor],
        lr: float | None = None,
        cbs: Iterable[Any] = (),
        opt_func: Callable[..., Any] = optim.SGD,
        *,
        optimizer: Any = None,
        param_groups: Any = None,
        metrics: Mapping[str, Any] | None = None,
        device: Any = None,
        precision: str = "fp32",
        accumulate: int = 1,
        clip_norm: float | None = None,
        compile: bool = False,
        prepare_batch: Callable[[Any], Any] | None = None,
        step: Step | None = None,
        loss_size: LossSize | None = None,
        folder: str | Path | None = None,
    ):
        made = None if optimizer is not None else opt_func
        check_parts(model, loss_func, made, cbs, call="Learner(model, dls, loss_func, lr)", own_step=step is not None)
        check_takes("prepare_batch", prepare_batch, "batch")
        check_takes("step", step, "learn")
        check_takes("loss_size", loss_size, "preds", "y")
        check_gradient_options(accumulate, clip_norm)
        initialize(device)
        self.ranks = Ranks(self) if world_size() > 1 else None
        self.device, self.device_given = pick_device(device), device is not None
        self.precision, self.accumulate, self.clip_norm, self.compile = precision, int(accumulate), clip_norm, compile
        self.prepare_batch = prepare_batch
        self.model, self.dls, self.cbs = model, dls, cbs
        self._take_optimizer(optimizer, lr, param_groups, opt_func)
        check_folder(folder)
        self._folder, self.folder_given = None if folder is None else Path(folder), folder is not None
        self.metrics = MappingProxyType(metrics_from(metrics))

        self.called_by_name: set[str] = set()
        self.preds: Any = None
        self.loss: Any = None
        self.dl: Any = None
        self._start_afresh(0)
        self.validating = self.in_training_epoch = False
        self.epoch_start: dict[str, Any] | None = None
        self.epoch_began = 0.0
        self.given_step, self._loss_size = step, loss_size
        self._make_engines(step, loss_size or first_dimension)
        self.loss_func = loss_func

    def _make_engines(self, step: Step | None, size: LossSize) -> None:
        device, precision = self.device, self.precision
        prepare = self.prepare_pair = preparation(device, self.prepare_batch)
        autocast = autocast_for(precision, device)
        window = window_for(device, size, precision=precision, accumulate=self.accumulate, clip_norm=self.clip_norm)
        train_step = TrainStep(prepare, autocast, window) if step is None else own_step(step, prepare, autocast, window)
        if self.ranks is not None:
            train_step = self.ranks.prepare(train_step, size)
        self.trainer = CancellableEngine(train_step, self, training=True, ranks=self.ranks)
        eval_step = EvalStep(prepare, autocast_for(precision, device))
        self.evaluator = CancellableEngine(eval_step, self, training=False, ranks=self.ranks)
        self.trainer.partners = self.evaluator.partners = (self.trainer, self.evaluator)
        self.engine = self.trainer
        self._attach_handlers(size)

    def _attach_handlers(self, size: LossSize) -> None:
        """What runs at each event before anybody else's: bookkeeping, sums and metrics, callbacks, validation."""
        trainer, evaluator = self.trainer, self.evaluator
        self.train_loss, self._valid_loss = Loss(size), Loss(size)
        self._first_batches = FirstBatchChecks(self)
        self._dispatch = Dispatcher(self, self._first_batches.points)
        self._first_batches.changed = self._dispatch.listen
        self._validation = Validation(self)
        self._resumption = Resumption(self)
        for engine in (trainer, evaluator):
            engine.widest = Scope.EPOCH  # until a fit runs
            engine.around = self._around
            engine.add_event_handler(Events.EPOCH_STARTED, always(self._begin_epoch))
            engine.add_event_handler(TrainEvents.LOSS_COMPUTED, always(self._first_batches.check_loss))
        if self.ranks is not None:
            evaluator.add_event_handler(Events.EPOCH_COMPLETED, always(self.ranks.end_evaluation))
        several_ranks = self.ranks is not None
        attach_metrics(trainer, {"loss": self.train_loss}, several_ranks=several_ranks)
        attach_metrics(evaluator, {"loss": self._valid_loss, **self.metrics}, several_ranks=several_ranks)
        trainer.attach_points(self._dispatch)
        trainer.add_event_handler(Events.STARTED, always(self._resumption.put_back))
        evaluator.attach_points(self._dispatch)
        for engine in (trainer, evaluator):  # of what callbacks have left, as the loss will see it
            engine.add_event_handler(TrainEvents.PREDICTED, always(self._first_batches.check_predictions))
        self._validation.attach(trainer)

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            "a Learner is not copied or pickled, as its engines call handlers that are its own; make another one, of "
            "copy.deepcopy(learn.model), or keep it out of what is copied"
        )

    # ---- what users call -----------------------------------------------------------------------------------------

    def fit(self, n_epochs: int, *, resume: bool | str | Path = False) -> dict[str, float]:
        """Train for ``n_epochs`` epochs, each followed by validation if there is a validation loader.

        Args:
            n_epochs: epochs in total, counting those done before a resume; 0 only calls ``before_fit`` and
                ``after_fit``.
            resume: True: continue from the newest undamaged checkpoint of the run's folder, or start anew where there
                is none; a path: continue from that checkpoint or run folder. A finished run trains nothing. Needs a
                ``Checkpoint``, and for True a folder that was given.

        Returns:
            The last validation's means: ``{"loss": …, "<metric>": …}``; empty without validation.

        Raises:
            ValueError: ``n_epochs`` is negative; a loader is empty; labels or shapes that do not fit (first batch);
                ``resume`` without a checkpoint callback or folder, or from another job.
            TypeError: a loader that cannot be gone through ``n_epochs`` times; a batch that is no pair.
            RuntimeError: a fit is running already.
        """
        if not is_whole(n_epochs) or n_epochs < 0:
            raise ValueError(f"n_epochs is the number of epochs, a whole number from 0; got {in_short(n_epochs)}")
        n_epochs = int(n_epochs)
        if self.in_fit:
            raise RuntimeError("a Learner fits once at a time; this one is in the middle of a fit")
        check_loader(self.train_dl, n_epochs, "training")
        if self.valid_dl is not None:
            check_loader(self.valid_dl, n_epochs, "validation")
        self._check_assigned()
        self._check_group()
        former, self.opt = self.opt, self._make_optimizer()
        try:
            if self.ranks is not None:
                self.ranks.begin_fit(n_epochs, resumes=resume is not False)
            state = self._resumption.find(resume)
        except BaseException:
            self.opt = former  # a fit that is refused leaves it as it was
            raise
        if any(parameter.grad is not None for parameter in self.model.parameters()):
            self.opt.zero_grad()  # some write p.grad.zero_(), which needs a gradient
        if self._window is not None:
            self._window.begin_fit()
        if self._rates_left[0] is self.opt:
            begin_at_rates_set_since(*self._rates_left)
        self._first_batches.expect(self.trainer, self.evaluator)
        self._start_afresh(n_epochs)
        done = self._resumption.begin(state)
        self.called_by_name.clear()
        with self._share_of(self.train_dl, training=True), self._fitting():
            self._run(self.trainer, self.train_dl, n_epochs, done)
        return dict(self.results)

    def evaluate(self, dl: Any = None) -> dict[str, float]:
        """Mean loss and metrics over a loader, without gradients; the mode of every submodule is restored.

        Only the evaluator's points and handlers are called. The loader's place and the random generators are put back.

        Args:
            dl: None: the validation loader.

        Raises:
            ValueError: there is no such loader, or it is empty.
        """
        dl = self._loader_to_evaluate(dl)
        self._check_group()
        self._first_batches.expect(self.evaluator)
        self.share_model()
        with modes_kept(self.model), streams_kept(dl):
            return self.run_evaluator(self._beside(dl))

    def predict(self, dl: Any) -> Tensor:
        """The model's outputs for a loader, (N, …) on the CPU, in the loader's order; in eval mode, without gradients.

        Args:
            dl: batches ``(x, y)``, whose y is ignored, or x alone, as ``x`` or ``(x,)``. Batches that are not a single
                tensor go through ``prepare_batch``, if there is one. ``before_batch`` is not called.

        Raises:
            TypeError: a dataset or a tensor, which gives samples; a model that gives something else than a tensor.
            ValueError: it gives no batch.
        """
        self._check_group()
        with streams_kept(dl):
            return predict(self, self._beside(dl))

    def one_epoch(self, train: bool) -> None:
        """One epoch of one phase, outside a fit: its points from before_epoch to after_epoch, no validation.

        A ``CancelFitException`` escapes. The optimizer of the last fit is used, or made.

        Raises:
            ValueError: there is no validation loader.
        """
        self.share_model()
        if train:
            with self._share_of(self.train_dl, training=True):
                self._run(self.trainer, self.train_dl, 1)
        else:
            self.run_evaluator(self._loader_to_evaluate(None))

    def one_batch(self) -> None:
        """Run one step on ``learn.batch``, in the phase that ``learn.model.training`` says; cancels escape."""
        if self.opt is None and self.model.training:
            self.opt = self._make_optimizer()
            self.share_model()
        batch = self.batch
        self.engine = self.trainer if self.model.training else self.evaluator
        self.batch = batch
        if not self.in_fit:
            self._dispatch.gather()
        self.engine.run_step_alone()

    def stop(self, reason: str, *, outcome: Literal["finished", "resumable", "broken"] = "finished") -> None:
        """End the fit after this batch, or after the epoch that is just ending; ``after_fit`` is still called.

        Args:
            reason: one line for people, kept as ``stop_reason``.
            outcome: "finished": the run is complete, a resume trains nothing; "resumable": a resume continues it;
                "broken": the current state is not saved, and later calls cannot change this outcome.
        """
        if self.outcome != "broken":
            self.stop_reason, self.outcome = reason, outcome
        logging.getLogger("ignite_trainer").info(reason)
        self.trainer.terminate_after_batch()

    def callback(self, method_name: str) -> None:
        """Call a method of that name, a point or one's own, on every callback that has it.

        With "after_step" a step of one's own says that the optimizer has stepped, and ``step`` counts it.
        """
        self.called_by_name.add(method_name)
        if method_name == "after_step" and self.has_own_step:
            self.step = self.steps_before + 1
        run_cbs(self.cbs, method_name, self)

    def save(self, path: str | Path) -> None:
        """Write the model's weights and buffers as safetensors; tied weights are written once.

        Of several ranks, rank 0 writes, and all of them have to call it.

        Raises:
            ValueError: a name that ends in .pt, .pth or .ckpt, as files of ``torch.save`` do.
        """
        if Path(path).suffix in (".pt", ".pth", ".ckpt"):
            raise ValueError(
                f"weights are written as safetensors; got {str(path)!r}: end it in .safetensors, or call "
                "torch.save(learn.model.state_dict(), path)"
            )
        self._check_group()
        on_main(lambda: save_weights(self.model, path))

    def load(self, path: str | Path) -> None:
        """Load the weights that ``save`` wrote, or those of a checkpoint: all tensors, or none if one does not fit."""
        load_weights(self.model, path)

    def export(
        self, path: str | Path, format: Literal["safetensors", "torch", "onnx"] = "safetensors", *, x: Any = None
    ) -> None:
        """Write the model for use elsewhere, with any batch size; what is written is loaded back and compared.

        Of several ranks, rank 0 writes, and all of them have to call it.

        Args:
            path: the file.
            format: "safetensors": the weights; "torch": for ``torch.export.load``; "onnx": for other runtimes (needs
                the extra ``onnx``).
            x: an input as the model takes it; None: that of a first batch, read without moving loaders or generators.

        Raises:
            ValueError: another format or ending; a model that torch cannot export; a loader that gives nothing.
            TypeError: a one-shot iterator as the loader, and no x.
        """

        def write() -> None:
            export_model(self.model, self._first_input() if x is None else on_device(x, self.device), path, format)

        self._check_group()
        on_main(write)

    def timeline(self) -> str:
        """What runs when in a fit of this learner, in order: a table of engine, event, point, and who."""
        return timeline(self)

    def summary(self, x: Any) -> str:
        """The model's layers, output shapes and parameters; x: an input as the model takes it."""
        return summarize(self.model, on_device(x, self.device))

    @property
    def batch(self) -> Any:
        """The running engine's ``state.batch``: the loader's own up to before_batch, then ``(x, y)`` on the device."""
        return self.engine.state.batch

    @batch.setter
    def batch(self, batch: Any) -> None:
        self.engine.state.batch = batch

    @property
    def iter(self) -> int:
        """Index of the batch in this phase's epoch, from 0."""
        return self.engine.place

    @property
    def folder(self) -> Path:
        """The run's folder; where none was given, one is made at the first question."""
        if self._folder is None:
            self._folder = new_run_folder(make=is_main())
        return self._folder

    def name_folder(self) -> Path:
        """The run's folder, not made yet where none was given, for ranks to agree on."""
        return new_run_folder(make=False) if self._folder is None else self._folder

    def use_folder(self, folder: Path) -> None:
        """Have handlers write there from now on."""
        self._folder = folder

    @property
    def batches_in_step(self) -> int:
        """How many batches make an optimizer step; 1 for a step of one's own."""
        return 1 if self._window is None else self._window.n_batches

    @property
    def at_step_boundary(self) -> bool:
        """Whether no window of ``accumulate`` batches is open; an epoch that was cancelled has dropped its own."""
        return self._window is None or self._window.done == 0 or not self.in_training_epoch

    @property
    def at_last_batch(self) -> bool:
        """Whether this batch is its epoch's last: by the loader's length, if known, or because it is ended here."""
        engine = self.engine
        is_ended = engine.should_terminate_single_epoch or engine.wish == Scope.EPOCH
        return bool(is_ended or engine.state.epoch_length == engine.place + 1)

    @property
    def ending(self) -> bool:
        """Whether the epoch that is ending is the fit's last."""
        return self.epoch + 1 >= self.n_epochs or bool(self.trainer.should_terminate)

    @property
    def scaler(self) -> Any:
        """The ``GradScaler`` of precision "fp16"; else None."""
        return None if self._window is None else self._window.scaler

    @property
    def monitors(self) -> list[str]:
        """The keys of a history row, which is what can be monitored."""
        valid = [] if self.valid_dl is None else ["valid_loss", *(f"valid_{name}" for name in self.metrics)]
        return ["epoch", "step", "train_loss", *valid, "lr", "seconds"]

    def _loader_to_evaluate(self, dl: Any) -> Any:
        if dl is None and self.valid_dl is None:
            raise ValueError("evaluate needs a loader; this Learner has no validation loader: give one")
        return self.valid_dl if dl is None else dl

    def _beside(self, dl: Any) -> Any:
        """The loader to iterate now: a copy, if it is being iterated already, since its workers may live on."""
        return rereadable(dl) if any(dl is engine.loader for engine in (self.trainer, self.evaluator)) else dl

    def _first_input(self) -> Any:
        loader = self.valid_dl if self.validates else self.train_dl
        refuse_one_shot(loader, "x, an input, is that of a first batch, unless it is given")
        with streams_kept(loader):
            return self.prepare_pair(first_batch(loader))[0]

    def _share_of(self, dl: Any, *, training: bool) -> AbstractContextManager[None]:
        return nullcontext() if self.ranks is None else self.ranks.share_of(dl, training=training)

    def autocast(self) -> AbstractContextManager[Any]:
        """A new context in which the model and the loss run as ``precision`` says."""
        return autocast_for(self.precision, self.device) or nullcontext()

    def _check_group(self) -> None:
        world = 1 if self.ranks is None else self.ranks.world
        if world_size() != world:
            raise RuntimeError(
                f"a Learner runs with the processes that are there when it is made; it was made for {world}, and there "
                f"are {world_size()} now: make it after init_process_group, and use it before destroy_process_group"
            )

    def share_model(self) -> None:
        """Outside a fit, give all ranks the weights of rank 0."""
        if self.ranks is not None and not self.in_fit:
            self.ranks.share_model()

    # ---- how it runs ---------------------------------------------------------------------------------------------

    def _start_afresh(self, n_epochs: int) -> None:
        """What a fit of so many epochs begins with; a resumed one then goes on from what was saved."""
        self.n_epochs, self.epochs = n_epochs, range(n_epochs)
        self.epoch = self.step = self.steps_before = 0
        self.history: list[dict[str, float]] = []
        self.results: dict[str, float] = {}
        self.stop_reason, self.outcome = "", "finished"
        self.resumed_from: Path | None = None
        self.aside = Aside()

    @contextmanager
    def _fitting(self) -> Iterator[None]:
        """In here cancels of the fit are caught; at the end ``cleanup_fit`` is called on each callback that has it."""
        self._dispatch.gather(in_fit=True)
        error: BaseException | None = None
        with ExitStack() as stack:  # calls them all, even if one raises
            for cb in reversed(in_order(self.cbs)):
                if has_point(cb, "cleanup_fit"):
                    stack.callback(lambda end: end(self, error), cb.cleanup_fit)
            self.in_fit = True
            self.trainer.widest = self.evaluator.widest = Scope.FIT
            try:
                yield
            except BaseException as raised:
                error = raised
                raise
            finally:
                self.in_fit = self.validating = False
                self._rates_left = self.opt, rates_of(self.opt)
                self.trainer.opener = None
                self.trainer.widest = self.evaluator.widest = Scope.EPOCH

    def _run(self, engine: CancellableEngine, dl: Any, n_epochs: int, done: tuple[int, int] = (0, 0)) -> None:
        """Run an engine; ``done``: the epochs and iterations that a resumed fit has behind it."""
        engine.state.max_epochs = None  # a run from the start, also after one that ended early
        if done[0] == n_epochs:
            n_epochs = 0  # before_fit and after_fit only
        elif done != (0, 0):
            engine.state.max_epochs = n_epochs
            engine.state.epoch, engine.state.iteration = done
        try:
            engine.run(dl, max_epochs=n_epochs)
        except Exception as error:
            kind = type(error)  # a model's own errors come as torch._dynamo's TorchRuntimeError
            if kind.__module__.startswith("torch._inductor") or kind.__name__ == "BackendCompilerFailed":
                unable = RuntimeError(
                    "compile=True needs a compiler that works, such as g++ for the CPU; "
                    f"torch said {kind.__name__}: leave it out, or install one"
                )
                unable.raised_by = getattr(error, "raised_by", "")  # type: ignore[attr-defined]
                raise unable from error
            raise

    @contextmanager
    def _around(self, engine: CancellableEngine) -> Iterator[None]:
        """Each run of an engine, a user's own ``run`` too; an evaluation amid a training leaves that as it was."""
        amid_training = engine is self.evaluator and self.trainer.running
        before = self.engine, self.dl, self.preds, self.loss
        try:
            self.engine, self.dl = engine, engine.loader
            if not self.in_fit:
                self._dispatch.gather()
                if engine.training and self.opt is None:
                    self.opt = self._make_optimizer()
            # a fit's own validation leaves its mode until the next epoch of training, as a loop written by hand does
            with modes_kept(self.model) if amid_training and not self.validating else nullcontext():
                yield
        finally:
            if amid_training:
                self.engine, self.dl, preds, loss = before
                if not self.validating:
                    self.preds, self.loss = preds, loss

    def _begin_epoch(self, engine: CancellableEngine) -> None:
        engine.state.metrics.clear()
        self.model.train(engine.training)
        if engine.training:
            self.epoch = engine.state.epoch - 1
            self.in_training_epoch = True
            self.epoch_began = time.perf_counter()
            if self.ranks is not None:
                self.ranks.begin_epoch()

    def run_evaluator(self, dl: Any) -> dict[str, float]:
        """Loss and metrics by name; NaN if the epoch was cancelled, or terminated before they were computed."""
        with self._share_of(dl, training=False):
            self._run(self.evaluator, dl, 1)
        computed = {} if self.evaluator.cancelled >= Scope.EPOCH else self.evaluator.state.metrics
        results = {name: computed.get(name, math.nan) for name in ["loss", *self.metrics]}
        if self.ranks is not None:
            self.ranks.compare(results)
        self.evaluator.state.metrics = {**computed, **results}
        return results
