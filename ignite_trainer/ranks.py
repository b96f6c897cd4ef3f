"""What the ranks of a run decide together: each ending and each request reaches all of them at the same batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from ignite.engine import Events
from torch import Tensor, nn

from .callbacks import Callback
from .collectives import all_numbers, all_objects, of_main, share_tensors
from .data import OrderedLoader
from .distributed import rank, world_size
from .events import Scope
from .gradients import GradientWindow
from .learner_like import LearnerLike
from .learner_metrics import check_for_ranks, needs_a_batch
from .loadable import shapes_of
from .loss_size import LossSize
from .rank_gradients import RankWindow
from .rank_models import check_alike, share_buffers, share_model
from .shares import Share, is_filler, loader_identity, places_of
from .steps import TrainStep

__all__ = ["Ranks"]

_EPOCH, _FIT, _STOP, _AT_END, _N_FIXED = range(5)

_AGREED_AFTER = {
    True: frozenset(
        (
            Events.STARTED,
            Events.EPOCH_STARTED,
            Events.ITERATION_COMPLETED,
            Events.TERMINATE_SINGLE_EPOCH,
            Events.EPOCH_COMPLETED,
            Events.COMPLETED,
        )
    ),
    False: frozenset((Events.EPOCH_COMPLETED, Events.COMPLETED)),
}


class Ranks:
    """The ranks of a learner's run, seen from one of them; a learner in a single process has none.

    Callbacks and handlers run on every rank and may cancel, stop or raise on one of them alone. A cancelled batch
    concerns that rank only. A cancelled epoch or fit, a stop or a request reaches the others at the next *agreement*,
    one small exchange on the CPU: in the step of each batch, when its handlers have run, and at the ends of epochs.
    After a cancel the rank goes on until then, without calling handlers, so that all ranks always come to the same
    agreements in the same order.

    Args:
        learn: the Learner.

    Attributes:
        rank, world: this process, from 0, and the number of processes.
        polls: functions by name, the same on all ranks, called at every agreement: True on one rank counts for all.
        asked: the names of those that were True so far, the same on all ranks.
        stopped_by: the rank whose ``learn.stop`` ended the fit; None: none did.
    """

    def __init__(self, learn: LearnerLike):
        self.learn, self.rank, self.world = learn, rank(), world_size()
        self._reset()

    def _reset(self) -> None:
        self.polls: dict[str, Callable[[], bool]] = {}
        self.asked: set[str] = set()
        self.stopped_by: int | None = None
        self._stop: tuple[Any, ...] | None = None
        self._parted = self._apart = False

    # ---- agreements ----------------------------------------------------------------------------------------------

    def agree(self, engine: Any, extra: Sequence[float] = (), *, at_end: bool = False) -> list[float]:
        """Tell the others what was asked for here, and do what was asked for anywhere.

        Args:
            engine: whose cancels are told.
            extra: numbers to be added up with it, as many on all ranks.
            at_end: this rank is done with the event.

        Returns:
            The sums of ``extra``.
        """
        wishes = [engine.wish == Scope.EPOCH, engine.wish == Scope.FIT, self._stop is not None, at_end]
        mine = [*wishes, *(poll() for poll in self.polls.values()), *extra]
        total = [sum(numbers) for numbers in zip(*all_numbers(mine, engine.phase), strict=True)]
        answers, sums = total[_N_FIXED : _N_FIXED + len(self.polls)], total[_N_FIXED + len(self.polls) :]
        self.asked.update(name for name, answer in zip(self.polls, answers, strict=True) if answer)
        self._parted = 0 < total[_AT_END] < self.world
        engine.wish = 0
        if total[_STOP]:
            self._stop_together()
        if total[_EPOCH] or total[_FIT]:
            engine.cancelled = Scope.FIT if total[_FIT] else Scope.EPOCH
            engine.leave(engine.cancelled)
        return sums

    def together(self, engine: Any) -> bool:
        """Whether every rank is at this callback: asked before each thing that all have to do there.

        A rank on which an earlier callback has cancelled is not; then nobody does it.
        """
        if not self._parted:
            self.agree(engine)
        return not self._parted

    def after(self, engine: Any, event: Any) -> None:
        """When all handlers of an event have run: what the ranks agree on before Ignite goes on."""
        if event is Events.GET_BATCH_COMPLETED:
            if engine.training and not engine.cancelled and self._is_filler(engine):
                engine.cancelled = Scope.BATCH  # there is no sample for this rank
        elif event in _AGREED_AFTER[engine.training]:
            if self._parted:  # the others have taken what was done here last for this agreement
                self._parted = False
            elif engine.cancelled < Scope.EPOCH or engine.wish or event is not Events.ITERATION_COMPLETED:
                self.agree(engine, at_end=True)
                self._parted = False

    def _is_filler(self, engine: Any) -> bool:
        start = self.learn.epoch_start
        return start is not None and is_filler(engine.loader, start.get("batch", 0) + engine.place)

    def ask_to_stop(self, skip_completed: bool) -> None:
        """Have all ranks end the fit at the next agreement, for the reason that was there first."""
        self._stop = self._stop or (self.rank, self.learn.stop_reason, self.learn.outcome, skip_completed)

    def _stop_together(self) -> None:
        """The first rank that asked says why."""
        stops = [stop for stop in all_objects(self._stop) if stop is not None]
        self.stopped_by, self.learn.stop_reason, self.learn.outcome, skip_completed = stops[0]
        self._stop = None
        self.learn.trainer.end_run(skip_completed)

    # ---- the same start --------------------------------------------------------------------------------------------

    def begin_fit(self, n_epochs: int, *, resumes: bool) -> None:
        """Look whether all ranks run the same job, and give them the weights and the folder of rank 0.

        Raises:
            ValueError: they differ in epochs, data, options or the model's shapes; names both.
        """
        learn = self.learn
        self._reset()
        for cb in learn.cbs:
            self.polls.update(cb.polls_of_ranks(learn) if hasattr(cb, "polls_of_ranks") else {})
        shapes = {name: str(shape) for name, shape in shapes_of(learn.model.state_dict()).items()}
        loaders = {"training loader": learn.train_dl, "validation loader": learn.valid_dl}
        frozen = [name for name, parameter in learn.model.named_parameters() if not parameter.requires_grad]
        mine = {
            "n_epochs": n_epochs,
            "resume": resumes,
            "callbacks of this package": ", ".join(filter(None, map(_kind_of_ours, learn.cbs))),
            "questions between ranks": ", ".join(self.polls),
            "metrics": ", ".join(learn.metrics),
            "loss_func": type(learn.loss_func).__name__,
            "optimizer": type(learn.opt).__name__,
            "accumulate": learn.accumulate,
            "precision": learn.precision,
            "frozen parameters": ", ".join(frozen),
            **shapes,
        }
        mine |= {name: str(loader_identity(loader)) for name, loader in loaders.items()}
        everybodys = all_objects(mine)
        for number, theirs in enumerate(everybodys):
            for name in {**everybodys[0], **theirs}:
                if theirs.get(name) != everybodys[0].get(name):
                    raise ValueError(
                        f"all ranks run the same job; rank {number} has {name} {theirs.get(name)}, rank 0 "
                        f"{everybodys[0].get(name)}: start them with the same arguments and data"
                    )
        if learn.validates:
            self.share_of(learn.valid_dl, training=False)  # refused now, not after an epoch
        self.share_model()
        learn.use_folder(of_main(learn.name_folder()))

    def begin_epoch(self) -> None:
        """Have a stock loader's sampler draw this epoch's order."""
        if not isinstance(self.learn.train_dl, OrderedLoader):
            self.learn.train_dl.sampler.set_epoch(self.learn.epoch)

    def end_evaluation(self) -> None:
        """Agree on whether it was cancelled anywhere.

        Raises:
            ValueError: an Ignite metric, or one that gathers, and a rank without a batch, which has other shapes then.
        """
        (n_without,) = self.agree(self.learn.evaluator, [self.learn.evaluator.place < 0])
        needing = [name for name, metric in self.learn.metrics.items() if needs_a_batch(metric)]
        if n_without and needing:
            raise ValueError(
                f"Ignite's metrics, and torchmetrics' that gather, need a batch on every rank; {n_without:.0f} of "
                f"{self.world} have none here, for the metric {needing[0]!r}: take a larger batch_size or fewer ranks, "
                "or a function (preds, y)"
            )

    def share_model(self) -> None:
        """Rank 0's weights and buffers, for all."""
        share_model(self.learn.model, self.learn.loss_func)

    def end_epoch(self) -> None:
        """Agree on how the training of an epoch ended; after it all ranks have the same model.

        Raises:
            RuntimeError: they have not the same learning rates.

        Warns:
            UserWarning: their weights have come apart; once a fit.
        """
        self.agree(self.learn.trainer)
        share_buffers(self.learn.model)
        self._apart |= check_alike(self.learn.model, self.learn.opt, weights=not self._apart)

    def compare(self, results: dict[str, float]) -> None:
        """Refuse metrics that no rank has added up.

        Raises:
            ValueError: one that has another value on another rank.
        """
        for number, theirs in enumerate(all_objects(results)):
            for name, value in theirs.items():
                if value != results[name] and not (math.isnan(value) and math.isnan(results[name])):
                    raise ValueError(
                        f"a metric's compute() adds up the sums of all ranks; {name!r} is {value!r} on rank {number} "
                        f"and {results[name]!r} on rank {self.rank}: give a function (preds, y), or evaluate in one "
                        "process"
                    )

    def share_of(self, loader: Any, *, training: bool) -> Share:
        """A ``with`` block in which a loader gives this rank's share of each batch.

        Raises:
            TypeError: a loader that cannot be shared out.
            ValueError: a ``DistributedSampler`` of other ranks.
        """
        return Share(loader, self.rank, self.world, training=training)

    def prepare(self, step: Any, size: LossSize) -> TrainStep:
        """The training step of several ranks: one whose window adds up their gradients.

        Raises:
            TypeError: a step of one's own, or a ``DistributedDataParallel``.
        """
        if not isinstance(step, TrainStep):
            raise TypeError(
                "on several ranks the step adds up their gradients, which TrainStep does; got a step of one's own: "
                "give a TrainStep, or train in one process"
            )
        if isinstance(self.learn.model, nn.parallel.DistributedDataParallel):
            raise TypeError(
                "the Learner adds up the gradients of all ranks itself, weighted by samples; got a "
                "DistributedDataParallel: give the plain module, model.module"
            )
        check_for_ranks(self.learn.metrics)
        former = step.window or GradientWindow(1, size, None, None)
        step.window = RankWindow(former.n_batches, former.size, former.clip_norm, former.scaler, self)
        return step

    def places(self, loader: Any) -> Tensor:
        """Where this rank's samples stand in an evaluation."""
        return places_of(loader, self.rank, self.world)

    def in_order(self, outputs: list[Tensor], loader: OrderedLoader, first: int) -> Tensor:
        """The outputs of all ranks, on all of them, in the loader's order.

        Args:
            outputs: of this rank's batches, (n, …) on the CPU.
            loader: whose batches they are.
            first: the batch at which it began.

        Raises:
            ValueError: a model whose outputs have no row for each sample.
        """
        mine = torch.cat(outputs) if outputs else None
        kinds = all_objects(None if mine is None else (tuple(mine.shape), mine.dtype))
        shape, dtype = next(kind for kind in kinds if kind is not None)
        places = [places_of(loader, number, self.world, first) for number in range(self.world)]
        result = torch.empty((sum(map(len, places)), *shape[1:]), dtype=dtype)
        for number, (kind, rows) in enumerate(zip(kinds, places, strict=True)):
            n_rows = 0 if kind is None else kind[0][0]
            if n_rows != len(rows):
                raise ValueError(
                    f"predict on several ranks puts rows in the order of the samples; got {n_rows} rows for "
                    f"{len(rows)} samples on rank {number}: predict in one process"
                )
            if n_rows:
                part = mine if number == self.rank and mine is not None else torch.empty(kind[0], dtype=dtype)
                share_tensors([part], number)
                result[rows] = part
        return result


def _kind_of_ours(cb: Any) -> str:
    """The callback of this package that one is, or is made of; empty for a user's own."""
    kinds = [
        kind for kind in type(cb).__mro__ if kind.__module__.startswith(f"{__package__}.") and kind is not Callback
    ]
    return kinds[0].__name__ if kinds else ""
