"""A user's program with types, without a single ignore: checked by ``mypy --strict`` and ``pyright``, and run."""

from pathlib import Path

import torch
from ignite.engine import Engine, Events
from ignite.metrics import MeanAbsoluteError
from torch import Tensor, nn, optim
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import assert_type

from ignite_trainer import (
    EMA,
    Accuracy,
    Callback,
    CancelBatchException,
    CancellableEngine,
    Checkpoint,
    DataLoaders,
    EarlyStopping,
    Learner,
    NaNGuard,
    Progress,
    RunFiles,
    SampleLoader,
    Schedule,
    TensorBoard,
    TimeLimit,
    TrainEvents,
    accuracy,
    create_evaluator,
    create_trainer,
    fit,
    glyphs,
    one_cycle,
    param_groups,
    seed_everything,
    warmup_cosine,
)


class SkipShort(Callback):
    """Leaves out batches that are not full."""

    order = 5

    def __init__(self, size: int) -> None:
        self.size = size

    def before_batch(self, learn: Learner) -> None:
        if len(learn.batch[0]) < self.size:
            raise CancelBatchException

    def after_validate(self, learn: Learner) -> None:
        if learn.history[-1]["valid_loss"] < 1e-3:
            learn.stop("good enough")


def error_rate(preds: Tensor, y: Tensor) -> Tensor:
    """One minus the accuracy."""
    return 1 - accuracy(preds, y)


def flat(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Images as rows."""
    x, y = batch
    return x.flatten(1), y


def own_step(learn: Learner) -> Tensor:
    """A step of one's own."""
    x, y = learn.batch
    learn.preds = learn.model(x)
    learn.loss = learn.loss_func(learn.preds, y)
    learn.loss.backward()
    learn.opt.step()
    learn.opt.zero_grad()
    loss: Tensor = learn.loss.detach()
    return loss


def groups(model: nn.Module) -> list[dict[str, object]]:
    """Two rates."""
    return param_groups(model, lr=0.1, overrides={"2": {"lr": 0.01}})


def train(folder: Path) -> dict[str, float]:
    """A learner with everything on it, a resumed fit, and what can be asked of it afterwards."""
    seed_everything(0)
    dls = DataLoaders.from_datasets(glyphs(70, seed=0), glyphs(20, seed=1), batch_size=20, num_workers=0)
    model = nn.Sequential(nn.Linear(784, 8), nn.ReLU(), nn.Linear(8, 10))
    cbs: list[Callback] = [
        SkipShort(20),
        Schedule(one_cycle(0.1)),
        EMA(),
        NaNGuard("raise"),
        EarlyStopping("valid_accuracy", mode="max", patience=2),
        TimeLimit(600),
        Progress(bar=False),
        RunFiles(),
        TensorBoard(histograms=False),
        Checkpoint(every_steps=2, keep=1),
    ]
    learn = Learner(
        model,
        dls,
        nn.CrossEntropyLoss(),
        0.1,
        cbs,
        optim.SGD,
        metrics={"accuracy": Accuracy(), "error": error_rate},
        prepare_batch=flat,
        accumulate=2,
        clip_norm=1.0,
        folder=folder,
    )

    def count(engine: Engine) -> None:
        assert engine.state.iteration > 0

    learn.trainer.add_event_handler(TrainEvents.STEPPED, count)
    learn.trainer.add_event_handler(Events.ITERATION_COMPLETED(every=2), count)
    assert_type(learn.trainer, CancellableEngine)
    results = learn.fit(2, resume=True)
    assert_type(results, dict[str, float])
    assert_type(learn.history, list[dict[str, float]])
    assert_type(learn.predict(dls.train), Tensor)
    assert_type(learn.evaluate(dls.valid), dict[str, float])
    assert_type(learn.timeline(), str)
    assert_type(learn.step, int)
    assert_type(learn.folder, Path)
    learn.save(folder / "weights.safetensors")
    learn.load(folder / "weights.safetensors")
    return results


def train_in_other_ways() -> tuple[float, float]:
    """The documents' ``fit``, groups, a step of one's own, and engines without a learner."""
    x = torch.rand(40, 6)
    y = (x[:, 0] > x[:, 1]).long()
    data = TensorDataset(x, y)
    loader = DataLoader(data, 10)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))
    loss_func = nn.CrossEntropyLoss()
    Learner(model, (loader, None), loss_func, opt_func=optim.Adam, param_groups=groups).fit(1)
    Learner(model, (loader, loader), loss_func, 0.1, step=own_step).fit(1)
    cosine = Schedule(warmup_cosine(warmup_steps=1))
    Learner(model, (SampleLoader(data, 10), None), loss_func, 0.1, [cosine]).fit(1)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    trainer = create_trainer(model, optimizer, loss_func)
    evaluator = create_evaluator(model, nn.MSELoss())
    MeanAbsoluteError().attach(evaluator, "mae")

    @trainer.on(Events.EPOCH_COMPLETED)
    def evaluate(engine: Engine) -> None:
        evaluator.run([(x, torch.rand(40, 2))])

    trainer.run(loader, max_epochs=1)
    return fit(1, model, optimizer, loss_func, loader, loader)
