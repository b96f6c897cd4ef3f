"""On a CUDA device: no wait for it within an epoch, the hand loop's bits, resumes and replays, compiled models."""

import gc
import io
from contextlib import nullcontext

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from ignite_trainer import (
    EMA,
    Accuracy,
    Callback,
    Checkpoint,
    EarlyStopping,
    Learner,
    LRFinder,
    NaNGuard,
    OverfitBatch,
    Progress,
    RunFiles,
    Schedule,
    TensorBoard,
    TensorLoader,
    TimeLimit,
    check,
    create_trainer,
    one_cycle,
)
from ignite_trainer.cli import main
from ignite_trainer.models import SimpleNN
from tests import crash_jobs, rank_jobs
from tests.rank_processes import distance, run_jobs
from tests.resume_jobs import equal
from tests.tiny import blobs, dropout_net, mlp, same_state

pytestmark = pytest.mark.cuda


class RefuseToWait:
    """Between an epoch's first batch, which is looked at, and the end of its last every wait for the device raises."""

    order = 99

    def __init__(self):
        self.n_watched = 0

    def before_batch(self, learn):
        if learn.iter == 1:
            torch.cuda.set_sync_debug_mode("error")

    def after_batch(self, learn):
        self.n_watched += torch.cuda.get_sync_debug_mode() == 2
        if learn.at_last_batch:
            torch.cuda.set_sync_debug_mode("default")

    def cleanup_fit(self, learn, error):
        torch.cuda.set_sync_debug_mode("default")


def on_device(n, seed):
    return TensorLoader(*blobs(n, seed=seed), batch_size=10, shuffle=True, device="cuda")


WAYS = {
    "plain": ({}, {}),
    "bf16": ({"precision": "bf16"}, {}),
    "windows": ({"accumulate": 2}, {}),
    "class weights": ({}, {"weight": torch.tensor([1.0, 2.0, 3.0])}),
}


@pytest.mark.parametrize("way", WAYS)
def test_epochs_of_training_and_validation_on_cuda_then_nothing_waits_for_the_device(way):
    watch, loaders = RefuseToWait(), (on_device(700, 1), on_device(650, 2))
    metrics, (how, of_loss) = {"accuracy": Accuracy()}, WAYS[way]
    loss_func = nn.CrossEntropyLoss(**of_loss)
    learn = Learner(mlp(), loaders, loss_func, 1e-3, [watch], optim.Adam, metrics=metrics, device="cuda", **how)
    learn.fit(2)
    assert watch.n_watched == 2 * (69 + 64)


def test_epochs_when_every_callback_is_there_and_looks_at_the_epochs_end_then_nothing_waits(tmp_path):
    never, watch = 10**6, RefuseToWait()
    cbs = [
        EMA(0.9),
        Schedule(one_cycle(1e-2)),
        NaNGuard(every_steps=never),
        TensorBoard(every_steps=never),
        Checkpoint(every_steps=never),
        Progress(bar=True, file=io.StringIO()),
        EarlyStopping(),
        RunFiles(),
        TimeLimit(600),
        watch,
    ]
    loaders, metrics = (on_device(100, 1), on_device(50, 2)), {"accuracy": Accuracy()}
    loss_func = nn.CrossEntropyLoss()
    how = {"metrics": metrics, "device": "cuda", "clip_norm": 1.0, "folder": tmp_path}
    learn = Learner(mlp(), loaders, loss_func, 1e-3, cbs, optim.AdamW, **how)
    learn.fit(2)
    assert watch.n_watched == 2 * (9 + 4)


def test_watch_when_a_callback_reads_a_number_then_raises():
    class Reads:
        def after_loss(self, learn):
            learn.loss.item()

    learn = Learner(
        mlp(), (on_device(100, 1), None), nn.CrossEntropyLoss(), 0.1, [RefuseToWait(), Reads()], device="cuda"
    )
    with pytest.raises(RuntimeError, match="synchroniz"):
        learn.fit(1)


def test_accuracy_on_cuda_when_batches_are_small_large_and_maps_then_counts_as_on_the_cpu():
    generator, metrics = torch.Generator().manual_seed(0), (Accuracy(), Accuracy())
    for n, *places in [(32,), (5000,), (2, 4, 4)] * 40:
        preds, y = torch.rand(n, 5, *places, generator=generator), torch.randint(5, (n, *places), generator=generator)
        metrics[0].update((preds, y))
        metrics[1].update((preds.cuda(), y.cuda()))
        preds.zero_()
    assert metrics[0].compute() == metrics[1].compute()


def test_documents_job_when_the_images_lie_on_the_device_then_learns_as_on_the_cpu(fashion_mnist_root):
    from ignite_trainer import fashion_mnist, random_split

    results = {}
    for device in ("cpu", "cuda"):
        parts = random_split(fashion_mnist(fashion_mnist_root)[0], [50_000, 10_000], seed=0)
        loaders = [
            TensorLoader(
                part.dataset.data[part.indices],
                part.dataset.targets[part.indices],
                batch_size=32,
                shuffle=shuffle,
                images=True,
                device=device,
            )
            for part, shuffle in zip(parts, (True, False), strict=True)
        ]
        torch.manual_seed(0)
        metrics = {"accuracy": Accuracy()}
        learn = Learner(
            SimpleNN(), loaders, nn.CrossEntropyLoss(), 1e-3, (), optim.Adam, metrics=metrics, device=device
        )
        results[device] = learn.fit(1)
    # the same batches and starts; a device adds in another order, and an epoch of 1,563 steps lets that grow
    assert results["cuda"]["accuracy"] == pytest.approx(results["cpu"]["accuracy"], abs=0.02)
    assert results["cuda"]["accuracy"] > 0.8


def test_compiled_model_on_cuda_then_trains_as_the_plain_one():
    losses = []
    for compiled in (False, True):
        torch.manual_seed(0)
        loaders = on_device(100, 1), on_device(50, 2)
        learn = Learner(mlp(), loaders, nn.CrossEntropyLoss(), 0.1, device="cuda", compile=compiled)
        learn.fit(2)
        losses.append([row["valid_loss"] for row in learn.history])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)  # fused kernels round once where plain ones round twice


def test_create_trainer_when_the_model_lies_on_the_device_then_autocast_is_that_ones():
    model = mlp().cuda()
    trainer = create_trainer(model, optim.SGD(model.parameters(), 0.1), nn.CrossEntropyLoss(), precision="bf16")
    assert trainer.step.autocast.device == "cuda"


def test_dashboard_when_a_fit_on_the_device_goes_on_in_mid_epoch_then_writes_on(tmp_path):
    class Stop:
        def after_batch(self, learn):
            if learn.step == 3:
                learn.stop("for a while", outcome="resumable")

    def learner(*cbs):
        dls = on_device(100, 1), on_device(50, 2)
        cbs = [*cbs, TensorBoard(every_steps=5), Checkpoint(every_steps=1)]
        return Learner(mlp(), dls, nn.CrossEntropyLoss(), 0.1, cbs, device="cuda", folder=tmp_path)

    learner(Stop()).fit(2)
    learn = learner()
    learn.fit(2, resume=True)
    assert learn.step == 20


def hand_fit(epochs, model, opt, loss_func, train_dl, precision):
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    for _ in range(epochs):
        model.train()
        for x, y in train_dl:
            x, y = x.to("cuda", non_blocking=True), y.to("cuda", non_blocking=True)
            with torch.autocast("cuda", dtype, enabled=dtype is not None):
                loss = loss_func(model(x), y)
            scaler.scale(loss).backward()
            scaler.step(opt)
            scaler.update()
            opt.zero_grad()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_fit_on_cuda_when_batches_come_from_the_host_then_equals_the_hand_loop(precision, workers):
    dataset, states = TensorDataset(*blobs(100, seed=1)), []
    for ours in (True, False):
        torch.manual_seed(0)
        train_dl = DataLoader(dataset, 10, shuffle=True, num_workers=workers, pin_memory=True)
        model, loss_func = dropout_net().cuda(), nn.CrossEntropyLoss()
        if ours:
            learn = Learner(
                model, (train_dl, None), loss_func, 1e-2, (), optim.Adam, device="cuda", precision=precision
            )
            learn.fit(2)
        else:
            hand_fit(2, model, optim.Adam(model.parameters(), 1e-2), loss_func, train_dl, precision)
        states.append({**model.state_dict(), "rng": torch.cuda.get_rng_state()})
    assert same_state(*states)


class StopAt(Callback):
    def __init__(self, step):
        self.at = step

    def after_batch(self, learn):
        if learn.engine.training and learn.step == self.at:
            learn.stop("for a while", outcome="resumable")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("stop", [4, 10, 17])
def test_fit_on_cuda_when_cut_and_gone_on_with_then_ends_with_the_same_bits(stop, precision, tmp_path):
    def fit(folder, *cbs, resume=False):
        torch.manual_seed(0)
        dls = on_device(100, 1), on_device(50, 2)
        cbs = [EMA(0.8), Schedule(one_cycle(1e-2)), Checkpoint(every_steps=3), *cbs]
        how = {"metrics": {"accuracy": Accuracy()}, "device": "cuda", "precision": precision, "folder": folder}
        learn = Learner(dropout_net(), dls, nn.CrossEntropyLoss(), 1e-2, cbs, optim.Adam, **how)
        learn.fit(3, resume=resume)
        rows = [{key: value for key, value in row.items() if key != "seconds"} for row in learn.history]
        return {**learn.model.state_dict(), "rng": torch.cuda.get_rng_state()}, rows

    whole, rows = fit(tmp_path / "whole")
    fit(tmp_path / "cut", StopAt(stop))
    torch.cuda.manual_seed(99)
    resumed, resumed_rows = fit(tmp_path / "cut", resume=True)
    assert same_state(whole, resumed)
    assert resumed_rows == rows


@pytest.mark.parametrize("name", ["in_training", "in_validation", "in_the_loss", "not_finite"])
def test_replay_of_a_job_that_broke_on_cuda_then_the_same_error_comes(name, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(crash_jobs, "DEVICE", "cuda")
    learn, n_epochs = getattr(crash_jobs, name)(tmp_path)
    assert learn.device.type == "cuda"
    with nullcontext() if name == "not_finite" else pytest.raises((ValueError, RuntimeError)):
        learn.fit(n_epochs)
    assert main(["replay", str(tmp_path / "crash.pt"), f"tests.crash_jobs:{name}"]) == 0
    again = "the loss is nan" if name == "not_finite" else "the same error, raised by the same"
    assert f"again: {again}\n" in capsys.readouterr().out


def test_fit_on_cuda_when_trials_were_made_before_then_ends_with_the_same_bits():
    def fit(tried):
        torch.manual_seed(0)
        dls = on_device(100, 1), on_device(50, 2)
        learn = Learner(dropout_net(), dls, nn.CrossEntropyLoss(), 1e-2, (), optim.Adam, device="cuda")
        if tried:
            LRFinder(learn, n_steps=20).run()
            OverfitBatch(learn, n_steps=20).run()
            check(learn)
        learn.fit(2)
        return {**learn.model.state_dict(), "rng": torch.cuda.get_rng_state()}

    assert same_state(fit(False), fit(True))


def test_long_fit_on_cuda_then_its_memory_does_not_grow():
    class Memory(Callback):
        def __init__(self):
            self.seen = []

        def after_epoch(self, learn):
            if learn.engine.training:
                self.seen.append(torch.cuda.memory_allocated())

    memory = Memory()
    dls, metrics = (on_device(100, 1), on_device(50, 2)), {"accuracy": Accuracy()}
    learn = Learner(
        dropout_net(), dls, nn.CrossEntropyLoss(), 1e-2, [memory], optim.Adam, metrics=metrics, device="cuda"
    )
    gc.collect()
    gc.disable()
    try:
        learn.fit(30)
    finally:
        gc.enable()
    assert len(set(memory.seen[1:])) == 1


def test_two_ranks_when_they_share_the_device_then_give_the_numbers_of_one_process(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_jobs, "DEVICE", "cuda")
    one = rank_jobs.training()
    devices = {"RANK_DEVICE": "cuda", "CUDA_VISIBLE_DEVICES": "0"}
    for ranks in run_jobs(["training", "interrupted"], tmp_path, 2, **devices):
        assert distance(ranks["training"], one) < 1e-12  # float64 over 18 steps, summed in another order
        for name, end in ranks["interrupted"].items():
            assert equal(end, ranks["interrupted"]["whole"]), name
