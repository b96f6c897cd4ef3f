"""Jobs that run alike in one process and on several ranks.

``torchrun … -m tests.rank_jobs JOB… FOLDER`` runs them on each rank, one after the other in one group, and writes what
they return to FOLDER/rank-<rank>.pt.
"""

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch
from ignite.engine import Events
from ignite.metrics import Accuracy as IgniteAccuracy
from ignite.metrics import EpochMetric, Precision
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset

from ignite_trainer import (
    EMA,
    Callback,
    CancelBatchException,
    CancelEpochException,
    CancelFitException,
    Checkpoint,
    DataLoaders,
    EarlyStopping,
    Learner,
    Progress,
    RunFiles,
    SampleLoader,
    Schedule,
    TensorBoard,
    TensorLoader,
    accuracy,
    metrics,
    seed_everything,
    warmup_cosine,
)
from ignite_trainer.distributed import finalize, initialize, rank, world_size
from ignite_trainer.vision import import_torchvision
from tests.tiny import Centred, blobs, dropout_net, mlp

DEVICE = os.environ.get("RANK_DEVICE", "cpu")


def points(n, seed=1):
    x, y = blobs(n, seed=seed)
    return x.double(), y


def learner(train, valid=None, *, model=None, loss_func=None, batch_size=8, cbs=(), **options):
    seed_everything(3)
    options = {"metrics": {"accuracy": accuracy}, "device": DEVICE, **options}
    dls = DataLoaders.from_tensors(train, valid, batch_size) if isinstance(train, tuple) else (train, valid)
    model = (model or mlp)().double()
    return Learner(model, dls, loss_func or nn.CrossEntropyLoss(), 0.05, cbs, optim.Adam, **options)


def end_of(learn):
    rows = [{key: value for key, value in row.items() if key != "seconds"} for row in learn.history]
    weights = {key: value.detach().to("cpu", copy=True) for key, value in learn.model.state_dict().items()}
    return {"weights": weights, "history": rows, "step": learn.step, "reason": learn.stop_reason}


# ---- evaluation ------------------------------------------------------------------------------------------------------


def evaluation():
    """Loss, accuracy and predictions for 1 to 20 samples, in batches of 4, from both loaders."""
    results = {}
    learn = learner(points(8))
    for n in range(1, 21):
        x, y = points(n)
        results[n] = learn.evaluate(TensorLoader(x, y, batch_size=4)), learn.predict(TensorLoader(x, y, batch_size=4))
        pairs = list(zip(x, y, strict=True))
        results[n, "samples"] = learn.evaluate(SampleLoader(pairs, 3)), learn.predict(SampleLoader(pairs, 3))
    learn.batch = next(iter(TensorLoader(*points(8))))
    learn.model.train()
    learn.one_batch()  # on all ranks the same batch: no other gradient than that of one
    workers = SampleLoader(list(zip(*points(20), strict=True)), 3, num_workers=2)
    results["after one batch"] = learn.evaluate(workers), learn.predict(workers)
    return results


# ---- training --------------------------------------------------------------------------------------------------------


def training():
    """Three epochs of 41, 44 and 46 samples in batches of 8, with windows of 1 and 3 batches, with clipping."""
    ends = {}
    for accumulate in (1, 3):
        for n in (41, 44, 46):
            learn = learner(points(n), points(13, 2), accumulate=accumulate)
            learn.fit(3)
            ends[accumulate, n] = end_of(learn)
    learn = learner(points(44), points(13, 2), clip_norm=0.1)
    learn.fit(3)
    ends["clipped"] = end_of(learn)
    weighted = nn.CrossEntropyLoss(torch.tensor([0.0, 1.0, 1.0]).double())  # of which some shares have nothing
    learn = learner(points(40), points(13, 2), loss_func=weighted, batch_size=4)
    learn.fit(3)
    assert all(parameter.isfinite().all() for parameter in learn.model.parameters())
    ends["weights of 0"] = end_of(learn)
    loader = TensorLoader(*points(41), batch_size=8)
    loader.seek(0, 2)
    learn = learner(loader, TensorLoader(*points(13, 2)))
    learn.fit(2)
    ends["sought"] = end_of(learn)
    return ends


# ---- endings ---------------------------------------------------------------------------------------------------------


class Raise(Callback):
    """Raises at one point of one batch or epoch, on one rank only; notes at which batches it was called."""

    def __init__(self, point, error, *, on=None, phase=True, epoch=1, batch=2):
        self.error, self.on, self.phase, self.at = error, on, phase, (epoch, batch)
        self.seen = []
        setattr(self, point, self.raise_it)

    def raise_it(self, learn):
        if learn.model.training != self.phase:
            return
        at = learn.epoch, learn.iter
        self.seen.append((*at, learn.step))
        if (at == self.at or (at[0] == self.at[0] and self.at[1] is None)) and self.on in (None, rank()):
            if self.error is None:
                learn.stop(f"enough on rank {rank()}")
            else:
                raise self.error


class Steps(Callback):
    """Counts the steps and batches."""

    def __init__(self):
        self.steps = self.batches = 0

    def after_step(self, learn):
        self.steps += 1

    def after_batch(self, learn):
        self.batches += learn.model.training


IN_BATCH = ("before_batch", "after_predict", "after_loss", "after_backward", "after_step", "after_batch")


def endings(on=None):
    """Fits that are cancelled or stopped at each point, on all ranks (None) or on one."""
    ends = {}
    errors = {"epoch": CancelEpochException(), "fit": CancelFitException(), "stop": None}
    for accumulate in (1, 2):
        for point in IN_BATCH:
            for name, error in errors.items():
                ends[accumulate, point, name] = ended(Raise(point, error, on=on, batch=3), accumulate)
    for point in ("before_epoch", "after_epoch", "after_validate"):
        for name, error in errors.items():
            if not (point == "after_validate" and name == "epoch"):  # it escapes there
                phase = point != "after_validate"  # the mode that the model is in by then
                ends[1, point, name] = ended(Raise(point, error, on=on, phase=phase, batch=None), 1)
    for point in ("before_epoch", "before_batch", "after_loss", "after_batch", "after_epoch"):
        for name, error in errors.items():
            batch = None if "epoch" in point else 0
            ends["validation", point, name] = ended(Raise(point, error, on=on, phase=False, batch=batch), 1)
    return ends


def ended(cb, accumulate):
    steps = Steps()
    learn = learner(points(40), points(13, 2), batch_size=4, cbs=[cb, steps], accumulate=accumulate)
    learn.fit(3)
    return {**end_of(learn), "steps": steps.steps, "batches": steps.batches}


def endings_on_one():
    """The same, on the last rank alone."""
    return endings(on=world_size() - 1)


def batches_cancelled():
    """Batches that are cancelled on all ranks."""
    errors = {point: CancelBatchException() for point in IN_BATCH}
    return {
        (accumulate, point): ended(Raise(point, error), accumulate)
        for accumulate in (1, 3)
        for point, error in errors.items()
    }


class Leave(Callback):
    """Cancels, on the last rank alone, every second batch at any point; notes the weights' steps."""

    def __init__(self, point):
        setattr(self, point, self.cancel)

    def cancel(self, learn):
        if learn.model.training and learn.iter % 2 and rank() == world_size() - 1:
            raise CancelBatchException


def batches_cancelled_on_one():
    """Batches that are cancelled on one rank: the others' samples count, and all ranks end with the same weights."""
    ends = {}
    for accumulate in (1, 3):
        for point in IN_BATCH:
            steps = Steps()
            cbs = [Leave(point), steps]
            learn = learner(points(41), points(13, 2), batch_size=6, cbs=cbs, accumulate=accumulate)
            learn.fit(2)
            ends[accumulate, point] = {**end_of(learn), "steps": steps.steps}
    return ends


# ---- resuming --------------------------------------------------------------------------------------------------------

RUN = Path(os.environ.get("RANK_RUN", "."))


class Noisy(Dataset):
    """Points with noise from torch's and Python's generators."""

    def __init__(self, n, seed):
        self.x, self.y = points(n, seed)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + 0.1 * torch.randn(6) + 0.1 * random.random(), self.y[index]


class Slowly(Callback):
    """Makes a batch last, and says when the fit has begun."""

    order = 99

    def before_fit(self, learn):
        (RUN / f"started-{rank()}").write_text(str(os.getpid()))

    def after_loss(self, learn):
        time.sleep(float(os.environ.get("SECONDS_A_BATCH", "0")))


class OfRank(Callback):
    """Has a state that is another on each rank, and random numbers from it."""

    def __init__(self):
        self.drawn = 0.0

    def after_step(self, learn):
        self.drawn += random.random() * (rank() + 1)

    def state_dict(self):
        return {"drawn": self.drawn}

    def load_state_dict(self, state):
        self.drawn = state["drawn"]


def nasty(folder, *, model=dropout_net, loss_func=None, cbs=(), **checkpoint):
    """Batch norm, dropout, windows, clipping, a schedule, averages, stopping, the dashboard, and random data."""
    seed_everything(3 + int(os.environ.get("RANK", "0")))  # there is no group yet
    loaders = DataLoaders.from_datasets(Noisy(44, 1), Noisy(21, 2), 8)
    checkpoint = {"every_steps": 1, "keep": 3, **checkpoint}
    return Learner(
        model().double(),
        loaders,
        loss_func or nn.CrossEntropyLoss(),
        0.01,
        [
            *(Schedule(warmup_cosine(warmup_steps=2)), EMA(0.8), EarlyStopping(patience=2), OfRank()),
            *(Checkpoint(**checkpoint), *cbs),
        ],
        optim.Adam,
        metrics={"accuracy": accuracy},
        device="cpu",
        accumulate=2,
        clip_norm=1.0,
        folder=folder,
    )


def state_of(learn):
    drawn = next(cb.drawn for cb in learn.cbs if isinstance(cb, OfRank))
    state = {**end_of(learn), "optimizer": learn.opt.state_dict(), "drawn": drawn}
    return {**state, "rng": torch.get_rng_state(), "random": random.random()}


def interrupted():
    """Runs that are stopped after so many batches by a callback on the last rank, and gone on with; and a whole run."""
    learn = nasty(RUN / "whole")
    learn.fit(3, resume=True)
    ends = {"whole": state_of(learn)}
    for n_batches in (1, 2, 3, 7, 11):
        folder = RUN / f"stopped-{n_batches}"
        nasty(folder, cbs=[StopAfter(n_batches)]).fit(3)
        learn = nasty(folder)
        learn.fit(3, resume=True)
        ends[f"stopped-{n_batches}"] = state_of(learn)
    return ends


class Running(nn.Module):
    """Subtracts a running mean in training too, so that each rank trains with its own."""

    def __init__(self):
        super().__init__()
        self.net = mlp()
        self.register_buffer("mean", torch.zeros(6))
        self.register_buffer("table", torch.randn(6), persistent=False)  # rank 0's from the start of a fit
        self.register_buffer("grows", torch.zeros(1), persistent=False)  # with what its rank has seen

    def forward(self, x):
        if self.training:
            self.mean.mul_(0.9).add_(x.detach().mean(0), alpha=0.1)
            self.grows = torch.zeros(1 + rank())
        return self.net((x - self.mean) * self.table)


def interrupted_with_buffers():
    """The same, saved where it is stopped alone, with statistics that are used in training, of model and loss.

    What is evaluated afterwards is rank 0's, but for a buffer that has another size on each.
    """
    ends = {}
    for name, n_batches in (("whole", -1), ("stopped-2", 2), ("stopped-7", 7)):
        how = {"model": Running, "loss_func": Centred().double(), "every_steps": None}
        if n_batches > 0:
            nasty(RUN / f"buffers-{name}", cbs=[StopAfter(n_batches)], **how).fit(3)
        learn = nasty(RUN / f"buffers-{name}", **how)
        learn.fit(3, resume=True)
        ends[name] = {**state_of(learn), "evaluated": learn.evaluate()}
    return ends


KINDS = [torch.bool, torch.uint8, torch.int16, torch.int64, torch.bfloat16, torch.float64, torch.complex64]
KINDS += [getattr(torch, name) for name in ("uint16", "float8_e4m3fn") if hasattr(torch, name)]


def buffers_of_all_types():
    """The buffers that an evaluation begins with: of many types, a number, one without elements, a transposed one."""

    class Many(nn.Linear):
        def __init__(self):
            super().__init__(6, 3)
            for i, kind in enumerate(KINDS):
                self.register_buffer(f"of_{i}", (torch.arange(6) + rank()).to(kind))
            self.register_buffer("number", torch.tensor(rank()))
            self.register_buffer("empty", torch.empty(0, 2))
            self.register_buffer("transposed", (torch.arange(6).view(2, 3) + rank()).t())

    initialize("cpu")
    model, loader = Many(), TensorLoader(*blobs(8))
    Learner(model, (loader, loader), nn.CrossEntropyLoss(), 0.1, device="cpu").evaluate()
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


class StopAfter(Callback):
    """Stops the fit, to be resumed, after so many batches; the last rank does."""

    def __init__(self, n_batches):
        self.n_batches = n_batches

    def after_batch(self, learn):
        self.n_batches -= learn.model.training
        if self.n_batches == 0 and rank() == world_size() - 1:
            learn.stop("for a while", outcome="resumable")


def killed():
    """One run, which is killed by others; it goes on from where it was."""
    learn = nasty(RUN, cbs=[Slowly()])
    learn.fit(3, resume=True)
    return state_of(learn)


def moved():
    """A run without dropout and batch norm, gone on with on as many ranks as there are now, for so many batches."""
    learn = nasty(RUN, model=mlp, cbs=[StopAfter(int(os.environ["N_BATCHES"]))])
    learn.fit(3, resume=True)
    return end_of(learn)


# ---- what is refused, and what else ranks do -------------------------------------------------------------------------


def refusals():
    """What is refused on several ranks, on each of them, with what is said."""
    initialize("cpu")
    data = TensorDataset(*points(8))
    ddp = nn.parallel.DistributedDataParallel(nn.Linear(6, 3).double())
    other = DataLoader(data, 2, sampler=DistributedSampler(data, num_replicas=7, rank=1))
    ours = TensorLoader(*points(8))
    tries = {
        "model": lambda: learner(points(8), model=lambda: ddp),
        "step": lambda: learner(points(8), step=lambda learn: None),
        "metric": lambda: learner(points(8), metrics={"roc": EpochMetric(lambda preds, y: 0.0)}),
        "train": lambda: learner(DataLoader(data, 2), ours).fit(1),
        "valid": lambda: learner(ours, DataLoader(data, 2)).fit(1),
        "evaluate": lambda: learner(ours).evaluate(DataLoader(data, 2)),
        "predict": lambda: learner(ours).predict([points(8)]),
        "sampler": lambda: learner(other, None).fit(1),
        "sparse": lambda: embedding_learner().fit(1),
        "epochs": lambda: learner(points(8)).fit(1 + rank()),
        "data": lambda: learner(points(8 + rank())).fit(1),
        "rows": lambda: learner(points(8), model=lambda: Sum()).predict(ours),
        "few": lambda: learner(points(8), metrics={"a": IgniteAccuracy()}).evaluate(TensorLoader(*points(1))),
        "other loader": lambda: learner(points(8)).evaluate(TensorLoader(*points(8 + rank()))),
        "lists": evaluates_with_lists,
        "place": predicts_from_another_place,
        "doubled": lambda: learner(points(8), metrics={"roc": EpochMetric(lambda preds, y: 0.0) * 2.0}),
        "own metric": lambda: learner(points(8), metrics={"own": Share()}).evaluate(TensorLoader(*points(9))),
        "resume": lambda: learner(points(8), cbs=[Checkpoint(RUN)]).fit(1, resume="/nothing/there.pt"),
        "callbacks": lambda: learner(points(8), cbs=[Checkpoint(RUN)] if rank() == 0 else []).fit(1),
        "extra": lambda: learner(points(8), model=WithExtra).fit(1),
        "accumulate": lambda: learner(points(8), accumulate=1 + rank()).fit(1),
        "metrics": lambda: learner(points(8), metrics={"a": accuracy} if rank() else {}).fit(1),
        "resumes": lambda: learner(points(8), cbs=[Checkpoint(RUN)]).fit(1, resume=rank() == 0),
        "frozen": lambda: learner(points(8), model=lambda: mlp().requires_grad_(rank() == 0)).fit(1),
        "seconds": lambda: learner(points(8), cbs=[Checkpoint(RUN, every_seconds=9 if rank() else None)]).fit(1),
        "rates": lambda: learner(points(41), cbs=[AtEachBatch(halve_rates)]).fit(2),
        "groups": lambda: learner(points(41), cbs=[AtEachBatch(add_group)]).fit(2),
    }
    texts = {}
    for name, attempt in tries.items():
        try:
            attempt()
        except (TypeError, ValueError, OSError, RuntimeError) as error:
            texts[name] = f"{type(error).__name__}: {error}"
    return texts


def evaluates_with_lists():
    """By a metric of torchmetrics that keeps all scores, with one sample."""
    import_torchvision()
    from torchmetrics.classification import MulticlassAUROC  # here, as it takes seconds

    metric = MulticlassAUROC(3, thresholds=None)
    learner(points(8), metrics={"a": metric}).evaluate(TensorLoader(*points(1)))


def predicts_from_another_place():
    """By a loader that rank 0 has put at its second batch, and the other not."""
    learn, loader = learner(points(8)), TensorLoader(*points(12), batch_size=4)
    if rank() == 0:
        loader.seek(0, 1)
    preds = learn.predict(loader)
    expected = torch.cat([learn.model(x).detach() for x in points(12)[0][4:].split(4)])
    raise RuntimeError("rows in order" if torch.allclose(preds, expected) else "others")


class AtPoint(Callback):
    """Makes a call on one rank alone, the first time that a point of an engine comes there."""

    def __init__(self, point, call, *, training=True, only=0):
        def at_point(learn):
            if rank() == only and learn.engine.training == training and not self.called:
                self.called = True
                call(learn)

        self.called = False
        setattr(self, point, at_point)


def alone():
    """What ranks are told that do not make the same calls, on each of them; the fit after all of these goes well."""
    path = RUN / "alone.safetensors"
    tries = {
        "evaluate or predict": lambda learn: learn.evaluate() if rank() == 0 else learn.predict(learn.valid_dl),
        "save or fit": lambda learn: learn.save(path) if rank() == 0 else learn.fit(1),
        "save or export": lambda learn: learn.save(path) if rank() == 0 else learn.export(path),
        "after_epoch": at_point("after_epoch", Learner.evaluate),
        "after_validate": at_point("after_validate", lambda learn: learn.predict(learn.valid_dl)),
        "in a validation": at_point("after_loss", lambda learn: learn.save(path), training=False),
        "in a step": at_point("after_backward", Learner.evaluate),
        "before a batch": at_point("before_batch", Learner.evaluate),
        "at a batch": at_point("after_batch", Learner.evaluate),
        "in before_fit": at_point("before_fit", lambda learn: learn.save(path)),
        "in after_fit": at_point("after_fit", lambda learn: learn.save(path)),
        "after an error": saves_after_an_error,
    }
    texts = {}
    for name, attempt in tries.items():
        try:
            attempt(learner(points(41), points(13, 2)))
        except RuntimeError as error:
            texts[name] = str(error)
    learn = learner(points(41), points(13, 2))
    learn.fit(1)
    return texts, {name: weight.clone() for name, weight in learn.model.state_dict().items()}


def at_point(point, call, **options):
    def attempt(learn):
        learn.cbs.append(AtPoint(point, call, **options))
        learn.fit(1)

    return attempt


def saves_after_an_error(learn):
    """An exception on the last rank, which saves then, while the others are in their step."""

    def raise_it(learn):
        raise ValueError("enough")

    try:
        at_point("after_loss", raise_it, only=world_size() - 1)(learn)
    except ValueError:
        learn.save(RUN / "alone.safetensors")


def ends_alone():
    """Rank 0 evaluates, and the other has ended."""
    learn = learner(points(8), points(8))
    if rank() == 0:
        learn.evaluate()


class AtEachBatch(Callback):
    """Does something with the learner after each batch of training that this rank has a sample of."""

    def __init__(self, action):
        self.action = action

    def after_batch(self, learn):
        if learn.engine.training:
            self.action(learn)


def halve_rates(learn):
    learn.opt.param_groups[0]["lr"] *= 0.5


def nearly_no_rate(learn):
    """As a cosine that ends at 0 may come out on another processor."""
    learn.opt.param_groups[0]["lr"] = 1e-40 * rank()  # moves no weight


def add_group(learn):
    if rank() == 0 and learn.step == 1:
        learn.opt.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


@torch.no_grad()
def cut_weights(learn):
    for parameter in learn.model.parameters():
        parameter.clamp_(-0.1, 0.1)


def apart():
    """Of a fit whose weights are not cut on a rank without a sample, and of one without such: what is warned of.

    Then of the first where that warning is an error.
    """
    warned = []
    for n in (41, 42):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            learner(points(n), cbs=[AtEachBatch(cut_weights)]).fit(3)
        warned.append([str(warning.message) for warning in caught])
    try:
        learner(points(41), cbs=[AtEachBatch(cut_weights)]).fit(3)
    except (UserWarning, RuntimeError) as error:
        warned.append(f"{type(error).__name__}: {error}")
    learner(points(41), cbs=[AtEachBatch(nearly_no_rate)]).fit(1)  # all ranks are where they were
    return warned


class Share:
    """A metric that no rank adds up: how many samples it has seen."""

    def reset(self):
        self.n = 0

    def update(self, preds, y):
        self.n += len(y)

    def compute(self):
        return self.n


class WithExtra(nn.Linear):
    """Has an extra state that is a tensor."""

    def __init__(self):
        super().__init__(6, 3)

    def get_extra_state(self):
        return torch.zeros(1)

    def set_extra_state(self, state):
        pass


class Sum(nn.Linear):
    """Gives one row whatever it is given."""

    def __init__(self):
        super().__init__(6, 3)

    def forward(self, x):
        return super().forward(x).sum(dim=0, keepdim=True)


def embedding_learner():
    x, y = torch.arange(8) % 3, torch.arange(8) % 3
    dls = DataLoaders.from_tensors((x, y), None, 4)
    return Learner(nn.Embedding(3, 3, sparse=True), dls, nn.CrossEntropyLoss(), 0.1, device="cpu")


class SomeUnused(nn.Module):
    """Three layers, of which one is never used, and one only for samples with a great first number."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes, self.never = (nn.Linear(6, 3) for _ in range(3))

    def forward(self, x):
        preds, great = self.always(x), (x[:, 0] > 2).nonzero()[:, 0]
        return preds.index_add(0, great, self.sometimes(x[great])) if len(great) else preds


def others():
    """Half precision, unused layers, class weights, a stock loader with a sampler, Ignite's metrics, the dashboard."""
    ends = {}
    learn = learner(points(30), points(13, 2), model=SomeUnused)
    learn.fit(2)
    assert all(not learn.opt.state[parameter] for parameter in learn.model.never.parameters())
    ends["unused"] = end_of(learn)
    metrics = {"accuracy": IgniteAccuracy(), "precision": Precision(average=True)}
    weighted = nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 3.0]).double())
    learn = learner(points(30), points(30, 2), loss_func=weighted, metrics=metrics)
    learn.fit(2)
    ends["metrics"] = {**end_of(learn), "history": [], "precision": learn.results["precision"]}
    data = TensorDataset(*points(30))
    sampler = DistributedSampler(data, seed=4) if world_size() > 1 else None
    learn = learner(DataLoader(data, 5, sampler=sampler), None)
    learn.fit(2)
    ends["sampler"] = {**end_of(learn), "history": []}
    names = [TensorBoard(every_steps=2), RunFiles(), Progress()]
    learn = learner(points(30), points(13, 2), cbs=names, folder=RUN / f"board-{world_size()}")
    learn.fit(2)
    ends["board"] = {**end_of(learn), "folder": learn.folder.name}
    saving = Checkpoint(RUN / f"timed-{world_size()}", every_epochs=None, every_seconds=1e9, keep=100)
    learn = learner(points(40), points(13, 2), cbs=[saving, ClockOfTheLast(saving)])
    learn.fit(2)
    ends["timed"] = end_of(learn)
    for phase in ("trainer", "evaluator"):
        for call in ("terminate_epoch", "terminate"):
            ends[phase, call] = left_by_the_last(phase, call)
    ends["trainer", "terminate", "silently"] = left_by_the_last("trainer", "terminate", skip_completed=True)
    ends |= saves_left_by_the_last()
    ends["torchmetrics"] = evaluations_by_torchmetrics()
    return ends


def evaluations_by_torchmetrics():
    """Its accuracy of 1, 5 and 13 samples; of one sample the other ranks have none."""
    import_torchvision()  # beside any build of torch; torchmetrics imports it itself
    from torchmetrics.classification import MulticlassAccuracy  # here, as it takes seconds

    learn = learner(points(8), metrics={"theirs": MulticlassAccuracy(3, average="micro")})
    return [learn.evaluate(TensorLoader(*points(n), batch_size=4))["theirs"] for n in (1, 5, 13)]


def left_by_the_last(phase, call, **how):
    """A fit in which a handler on the last rank calls a method of Ignite's engine in the second epoch's second batch.

    On ranks ``terminate_epoch`` is a cancel of the epoch; so one process, which the ranks are compared with, cancels.
    """
    learn = learner(points(40), points(13, 2), batch_size=4)
    engine = getattr(learn, phase)

    @engine.on(Events.ITERATION_COMPLETED)
    def leave():
        if (learn.epoch, engine.place) == (1, 1) and rank() == world_size() - 1:
            if call == "terminate_epoch" and world_size() == 1:
                raise CancelEpochException
            getattr(engine, call)(**how)

    completed = []
    learn.trainer.add_event_handler(Events.COMPLETED, lambda: completed.append(learn.step))
    learn.fit(3)
    return {**end_of(learn), "completed": completed}


def saves_left_by_the_last():
    """Fits that save after each step and at each best epoch, and that the last rank leaves just before one is saved."""
    ends = {}
    for point, name, error in (
        ("after_batch", "epoch", CancelEpochException()),
        ("after_batch", "fit", CancelFitException()),
        ("after_validate", "fit", CancelFitException()),
    ):
        in_batch = point == "after_batch"  # else after the first epoch, which is the best so far
        when = {"epoch": 1, "batch": 2} if in_batch else {"epoch": 0, "batch": None}
        leave = Raise(point, error, on=world_size() - 1, phase=in_batch, **when)
        folder = RUN / f"left-{point}-{name}-{world_size()}"
        saving = Checkpoint(folder, every_steps=1, keep=None, monitor="valid_loss")
        learn = learner(points(40), points(13, 2), batch_size=4, cbs=[leave, saving])
        learn.fit(3)
        ends["saved", point, name] = {**end_of(learn), "folder": folder}
    return ends


class ClockOfTheLast(Callback):
    """On the last rank the time to save comes in two batches, and is over when they are."""

    order = 1000

    def __init__(self, saving):
        self.saving = saving

    def before_batch(self, learn):
        if learn.step in (3, 6) and rank() == world_size() - 1:
            self.saving.every_seconds = 1e-9

    def after_batch(self, learn):
        self.saving.every_seconds = 1e9


def together():
    """What ranks did otherwise than one process: two clocks, a stop with a signal, natively attached metrics, …"""
    ends = {}
    checkpoints = [
        Checkpoint(RUN / f"clock-{i}-{world_size()}", every_epochs=None, every_seconds=seconds, keep=None)
        for i, seconds in enumerate((1e9, 1e-6))
    ]
    learn = learner(points(40), cbs=checkpoints)
    learn.fit(2)
    ends["clocks"] = [sorted(path.name for path in cb.folder(learn).glob("*.pt")) for cb in checkpoints]
    stopping = EarlyStopping("train_loss", min_delta=1e6, patience=2)
    learn = learner(points(40), cbs=[stopping, SignalAtTheEnd(), Checkpoint(RUN / f"signal-{world_size()}")])
    learn.fit(5)
    ends["signal"] = len(learn.history)
    learn = learner(points(40), points(13, 2))
    metrics.Accuracy().attach(learn.evaluator, "native")
    natives = []

    @learn.evaluator.on(Events.COMPLETED)
    def leave():
        natives.append(learn.evaluator.state.metrics["native"] == learn.evaluator.state.metrics["accuracy"])
        if len(natives) == 2:
            raise CancelFitException

    learn.fit(4)
    ends["natives"] = natives
    learn = learner(points(16), points(13, 2))
    learn.trainer.run(TensorLoader(*points(41), batch_size=8, equal_batches=True))
    ends["run"] = learn.step
    learn = learner(points(40), cbs=[Twice()])
    learn.fit(2)
    ends["widest"] = learn.step
    seed_everything(3 + rank())
    learn = Learner(mlp().double(), (TensorLoader(*points(40), batch_size=8),) * 2, nn.CrossEntropyLoss(), 0.1)
    learn.one_epoch(True)
    ends["weights"] = end_of(learn)["weights"]
    return ends


class SignalAtTheEnd(Callback):
    """Sends the last rank a signal in the epoch that early stopping ends."""

    order = 85

    def after_validate(self, learn):
        if learn.stop_reason and rank() == world_size() - 1:
            os.kill(os.getpid(), signal.SIGTERM)


class Twice(Callback):
    """Cancels the fit in the third step, and then only the batch, by another callback that it brings."""

    def __init__(self):
        self.brings = (Raise("after_step", CancelBatchException, epoch=0, batch=2),)

    def after_step(self, learn):
        if learn.step == 3:
            raise CancelFitException


def evaluates_where_a_rank_is_not():
    """A callback evaluates after a batch of which the last rank has no sample."""

    class Evaluate(Callback):
        def after_batch(self, learn):
            if learn.engine.training and learn.step == 6:
                learn.evaluate()

    learner(points(41), points(13, 2), cbs=[Evaluate()]).fit(2)


def left_at_odd_places():
    """Fits that the last rank leaves where others go on, and two that begin where rank 0's loaders stand."""
    ends = {}
    for point, error, options in (
        (
            "after_step",
            CancelEpochException(),
            {"accumulate": 3},
        ),  # in the step of a window that the epoch's end closes
        ("after_step", CancelFitException(), {"accumulate": 3}),
        ("before_fit", CancelFitException(), {}),
    ):

        def leave(learn, error=error):
            if rank() == world_size() - 1:
                raise error

        cb = Callback()
        setattr(cb, point, leave)
        folder = RUN / f"{point}-{type(error).__name__}"
        learn = learner(points(8), batch_size=4, cbs=[cb, Checkpoint(folder, every_seconds=60)], **options)
        learn.fit(2)
        ends[point, type(error).__name__] = end_of(learn)
    learn = learner(points(1), batch_size=4, precision="fp16")  # of which the last rank has no sample
    learn.fit(2)
    ends["no sample", "fp16"] = end_of(learn)
    for who in ("all", "rank 0"):
        learn = learner(points(40), points(13, 2))
        if who == "all" or rank() == 0:
            next(iter(learn.train_dl))
        learn.fit(1)
        ends["looked", who] = end_of(learn)
    return ends


def breaks():
    """Raises on rank 1 in the middle of a fit."""
    learn = nasty(RUN, model=mlp, cbs=[Raise("after_loss", RuntimeError("rank 1 has had enough"), on=1)])
    learn.fit(3)


JOBS = {
    job.__name__: job
    for job in (
        *(evaluation, training, endings, endings_on_one, batches_cancelled, batches_cancelled_on_one),
        *(interrupted, interrupted_with_buffers, killed, moved, refusals, others, breaks),
        *(together, evaluates_where_a_rank_is_not, apart, left_at_odd_places, alone, ends_alone),
        buffers_of_all_types,
    )
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    warnings.filterwarnings("error", "all ranks hold the same weights")
    *names, folder = sys.argv[1:]
    if DEVICE != "cpu":  # these ranks share a device, which nccl refuses
        torch.distributed.init_process_group("gloo")
    results = {name: JOBS[name]() for name in names}
    torch.save(results, Path(folder) / f"rank-{rank()}.pt")
    finalize()
