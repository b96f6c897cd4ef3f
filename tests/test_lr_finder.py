"""The learning-rate finder: what it tries, where it stops, what it suggests."""

import math

import pytest
import torch
from torch import nn, optim

from ignite_trainer import Callback, CancelBatchException, DataLoaders, Learner, LRFinder, fashion_mnist
from ignite_trainer.lr_finder import _smoothed, _steepest
from ignite_trainer.models import SimpleNN
from tests.tiny import blobs, mlp


def make(**options):
    torch.manual_seed(0)
    dls = DataLoaders.from_tensors(blobs(40), batch_size=8)
    return Learner(mlp(), dls, nn.CrossEntropyLoss(), device="cpu", **({"lr": 0.1} | options))


class Rates(Callback):
    """Notes the rates with which each step is made."""

    def __init__(self):
        self.rates = []

    def after_step(self, learn):
        self.rates.append([group["lr"] for group in learn.opt.param_groups])


def test_sweep_when_run_then_the_rates_grow_by_one_factor_and_each_step_has_its_own():
    seen = Rates()
    sweep = LRFinder(make(), start_lr=1e-4, end_lr=1e-2, n_steps=21, cbs=[seen]).run()
    assert sweep.lrs == [lr for (lr,) in seen.rates]
    assert sweep.lrs == pytest.approx([1e-4 * 10 ** (i / 10) for i in range(21)])


def test_sweep_when_run_then_its_losses_are_those_of_the_loop_by_hand():
    learn = make()
    sweep = LRFinder(learn, start_lr=1e-3, end_lr=0.1, n_steps=12).run()
    hand = make()
    optimizer, losses = optim.SGD(hand.model.parameters(), 0.1), []
    for x, y in [*hand.train_dl, *hand.train_dl, *hand.train_dl][:12]:
        optimizer.param_groups[0]["lr"] = sweep.lrs[len(losses)]
        loss = hand.loss_func(hand.model(x), y)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert sweep.losses == losses


def test_sweep_with_groups_then_they_keep_their_ratio():
    groups = [{"lr": 0.1}, {"lr": 0.02}]
    seen = Rates()
    learn = make(
        lr=None, param_groups=lambda model: [{"params": model[i].parameters(), **groups[i > 0]} for i in (0, 2)]
    )
    LRFinder(learn, n_steps=10, cbs=[seen]).run()
    assert all(second == pytest.approx(first / 5) for first, second in seen.rates)


def test_sweep_with_windows_then_a_loss_is_the_mean_of_its_batches_and_short_windows_count():
    learn = make(accumulate=2)
    sweep = LRFinder(learn, start_lr=1e-9, end_lr=1e-8, n_steps=10).run()  # so that the weights hardly move
    losses = [learn.loss_func(learn.model(x), y).item() for _ in range(4) for x, y in learn.train_dl]  # 5 an epoch
    means = [sum(losses[i:j]) / (j - i) for e in range(4) for i, j in ((5 * e, 5 * e + 2), (5 * e + 2, 5 * e + 4))]
    assert len(sweep.losses) == 10
    assert sweep.losses[:2] == pytest.approx(means[:2], rel=1e-5)  # the weights have moved by 1e-8
    assert sweep.losses[2] == pytest.approx(losses[4], rel=1e-5)


def test_sweep_when_batches_are_cancelled_then_the_rates_stay_with_their_losses():
    class Skips(Callback):
        order = -1

        def __init__(self):
            self.n = 0

        def after_step(self, learn):
            self.n += 1
            if self.n % 2:
                raise CancelBatchException

    sweep = LRFinder(make(), n_steps=20, cbs=[Skips()]).run()
    every = [1e-7 * 1e8 ** (i / 19) for i in range(20)]
    assert sweep.lrs == pytest.approx(every[1::2])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_sweep_when_a_loss_is_no_number_then_it_ends_there(bad):
    class Breaks(Callback):
        def after_loss(self, learn):
            if learn.step == 15:
                learn.loss = learn.loss * bad

    sweep = LRFinder(make(), cbs=[Breaks()]).run()
    assert len(sweep.losses) == len(sweep.lrs) == 15
    nothing = LRFinder(make(), cbs=[_NaN()]).run()
    assert nothing.lrs == []
    assert nothing.suggestion is None


class _NaN(Callback):
    def after_loss(self, learn):
        learn.loss = learn.loss * math.nan


def test_sweep_when_the_loss_explodes_then_it_ends_before_the_last_rate():
    x = torch.linspace(-1, 1, 64).view(-1, 1)
    learn = Learner(nn.Linear(1, 1), ([(x, 3 * x)], None), nn.MSELoss(), lr=0.1, device="cpu")
    sweep = LRFinder(learn, end_lr=1e4).run()
    assert len(sweep.lrs) < 100
    assert sweep.losses[-1] > 4 * min(sweep.losses)
    # the loss is a parabola with second derivatives 2 and 2 mean(x²): rates above 1 diverge
    assert 0.02 < sweep.suggestion < 1 < sweep.lrs[-1]


def test_sweep_when_the_loss_does_not_fall_then_nothing_is_suggested():
    losses = [1.0 + i / 100 for i in range(30)]
    smoothed = _smoothed(losses)
    assert _steepest([10.0**i for i in range(30)], losses, smoothed) is None


def test_suggestion_when_the_curve_is_known_then_it_is_the_steepest_point():
    lrs = [10 ** (-6 + i / 10) for i in range(60)]
    losses = [1 / (1 + math.exp((i - 30) / 3)) for i in range(50)] + [float(i) for i in range(10)]  # steepest at 30
    smoothed = _smoothed(losses)
    assert _steepest(lrs, losses, smoothed) == lrs[30]


def test_suggestion_when_the_loss_is_noise_then_there_is_none_and_with_noise_it_is_on_the_slope():
    generator = torch.Generator().manual_seed(0)
    lrs = [10 ** (-7 + i / 10) for i in range(80)]
    for _ in range(200):
        noise = torch.randn(80, generator=generator)
        losses = (2 + 0.1 * noise).tolist()
        found = _steepest(lrs, losses, _smoothed(losses))
        slope = torch.sigmoid((torch.arange(80) - 60) / 3.0)
        falls = (2 - slope + 0.1 * noise).tolist()
        suggestion = _steepest(lrs, falls, _smoothed(falls))
        assert found is None
        assert lrs[52] < suggestion < lrs[68]


def test_suggestion_on_fashion_mnist_then_it_is_near_the_rates_that_people_use(fashion_mnist_root):
    train, _ = fashion_mnist(fashion_mnist_root, download=False)
    found = {}
    for name, opt_func in (("SGD", optim.SGD), ("Adam", optim.Adam)):
        torch.manual_seed(0)
        dls = DataLoaders.from_datasets(train, batch_size=64)
        learn = Learner(SimpleNN(), dls, nn.CrossEntropyLoss(), 1.0, opt_func=opt_func, device="cpu")
        found[name] = LRFinder(learn).run().suggestion
    # measured with 3 seeds each, batches of 32 and 64: SGD 0.095 to 0.17, Adam 0.0019 to 0.0040
    assert 0.03 < found["SGD"] < 0.5
    assert 0.0006 < found["Adam"] < 0.012


def test_plot_when_drawn_then_it_has_the_losses_and_the_suggestion(tmp_path):
    sweep = LRFinder(make()).run()
    figure = sweep.plot()
    axes = figure.axes[0]
    assert axes.get_xlabel() == "lr"
    assert [line.get_xdata()[0] for line in axes.lines] == [sweep.lrs[0], sweep.lrs[0], sweep.suggestion]
    figure.savefig(tmp_path / "lr.png")
    sweep._replace(suggestion=None).plot()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"start_lr": 0}, "the rates grow from start_lr, above 0, to end_lr; got 0 and 10.0"),
        ({"start_lr": 1, "end_lr": 0.1}, "the rates grow from start_lr, above 0, to end_lr; got 1 and 0.1"),
        ({"n_steps": 9}, "n_steps is the number of rates that are tried, at least 10; got 9"),
    ],
)
def test_finder_with_a_wrong_value_then_says_so(options, text):
    with pytest.raises(ValueError, match=text):
        LRFinder(make(), **options)


def test_finder_when_the_optimizer_has_no_groups_then_says_so():
    class Plain:
        def __init__(self, parameters, lr):
            self.parameters = list(parameters)

        def step(self): ...

        def zero_grad(self): ...

    with pytest.raises(ValueError, match="set in the param_groups of an optimizer; Plain has none: take one of torch"):
        LRFinder(make(opt_func=Plain)).run()
