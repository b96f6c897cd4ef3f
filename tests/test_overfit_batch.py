"""Overfitting one batch: what it trains on and what it says."""

import pytest
import torch
from torch import nn, optim

from ignite_trainer import Callback, DataLoaders, Learner, OverfitBatch
from tests.tiny import blobs, mlp


def make(**options):
    torch.manual_seed(0)
    dls = DataLoaders.from_tensors(blobs(40), batch_size=8)
    return Learner(mlp(), dls, nn.CrossEntropyLoss(), device="cpu", **({"lr": 0.5} | options))


@pytest.mark.parametrize("accumulate", [1, 3])
def test_losses_when_run_then_are_those_of_the_loop_by_hand(accumulate):
    learn = make(accumulate=accumulate)
    seen = OverfitBatch(learn, n_steps=10).run()
    hand = make()
    x, y = next(iter(hand.train_dl))
    optimizer, losses = optim.SGD(hand.model.parameters(), 0.5), []
    for _ in range(10):
        loss = hand.loss_func(hand.model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    if accumulate == 1:
        assert seen.losses == losses
    assert seen.losses == pytest.approx(losses, rel=1e-5)  # a window of equal batches, up to float rounding
    assert (seen.first, seen.last) == (seen.losses[0], seen.losses[-1])


def test_fell_when_a_batch_is_learnt_then_true_and_when_it_cannot_be_then_false():
    x, y = blobs(16)
    assert OverfitBatch(make()).run().fell
    assert not OverfitBatch(make(), batch=(torch.zeros_like(x), y)).run().fell  # equal inputs, different labels
    assert not OverfitBatch(make(lr=1e-6)).run().fell
    assert OverfitBatch(make(lr=1e-6), lr=0.5).run().fell


def test_fell_when_losses_are_no_numbers_then_false():
    class Breaks(Callback):
        def after_loss(self, learn):
            learn.loss = learn.loss * torch.nan

    seen = OverfitBatch(make(), n_steps=5, cbs=[Breaks()]).run()
    assert not seen.fell


def test_lr_when_given_then_groups_keep_their_ratio():
    rates = []

    class Rates(Callback):
        def after_step(self, learn):
            rates.append([group["lr"] for group in learn.opt.param_groups])

    def groups(model):
        return [{"params": model[0].parameters(), "lr": 0.1}, {"params": model[2].parameters(), "lr": 0.3}]

    OverfitBatch(make(lr=None, param_groups=groups), n_steps=1, lr=0.2, cbs=[Rates()]).run()
    assert rates == [pytest.approx([0.2, 0.6])]


def test_overfit_batch_with_no_steps_then_says_so():
    with pytest.raises(ValueError, match="n_steps is the number of optimizer steps, at least 1; got 0"):
        OverfitBatch(make(), n_steps=0)


def test_overfit_batch_when_the_loader_gives_nothing_then_says_so():
    learn = Learner(mlp(), (lambda: iter(()), None), nn.CrossEntropyLoss(), lr=0.1, device="cpu")
    with pytest.raises(ValueError, match="a loader gives at least one batch an epoch; this one gave none"):
        OverfitBatch(learn).run()


def test_losses_when_a_callback_changes_the_batch_in_place_then_each_step_has_it_as_it_came():
    class Shift(Callback):
        def before_batch(self, learn):
            learn.batch[0].sub_(1)

    x, y = blobs(8)
    seen = OverfitBatch(make(), n_steps=10, batch=(x, y), cbs=[Shift()]).run()
    assert torch.equal(x, blobs(8)[0])
    assert seen.losses == OverfitBatch(make(), n_steps=10, batch=(x - 1, y)).run().losses
