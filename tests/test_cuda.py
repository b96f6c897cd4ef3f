"""On a CUDA device: no wait for it within an epoch, the documents' job with the data there, compiled models."""

import pytest
import torch
from torch import nn, optim

from ignite_trainer import Accuracy, Checkpoint, Learner, TensorBoard, TensorLoader, create_trainer
from ignite_trainer.models import SimpleNN
from tests.tiny import blobs, mlp

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
    watch, loaders = RefuseToWait(), (on_device(100, 1), on_device(50, 2))
    metrics, (how, of_loss) = {"accuracy": Accuracy()}, WAYS[way]
    loss_func = nn.CrossEntropyLoss(**of_loss)
    learn = Learner(mlp(), loaders, loss_func, 1e-3, [watch], optim.Adam, metrics=metrics, device="cuda", **how)
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
