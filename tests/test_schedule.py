"""Schedules on real fits: the rates of the same scheduler stepped by hand, whatever happens to the batches."""

import pytest
import torch
from ignite.engine import Events
from ignite.handlers import CosineAnnealingScheduler
from torch import nn, optim
from torch.optim import lr_scheduler

from ignite_trainer import (
    Callback,
    CancelBatchException,
    Checkpoint,
    Learner,
    Schedule,
    accuracy,
    one_cycle,
    warmup_cosine,
)
from tests.tiny import blobs, mlp

N_BATCHES, N_EPOCHS = 5, 3
SCHEDULERS = {
    "StepLR": lambda opt: lr_scheduler.StepLR(opt, 3),
    "MultiStepLR": lambda opt: lr_scheduler.MultiStepLR(opt, [2, 5]),
    "ConstantLR": lambda opt: lr_scheduler.ConstantLR(opt, 0.5, 4),
    "LinearLR": lambda opt: lr_scheduler.LinearLR(opt, 0.1, total_iters=4),
    "ExponentialLR": lambda opt: lr_scheduler.ExponentialLR(opt, 0.9),
    "PolynomialLR": lambda opt: lr_scheduler.PolynomialLR(opt, 8),
    "CosineAnnealingLR": lambda opt: lr_scheduler.CosineAnnealingLR(opt, 6),
    "CosineAnnealingWarmRestarts": lambda opt: lr_scheduler.CosineAnnealingWarmRestarts(opt, 4),
    "CyclicLR": lambda opt: lr_scheduler.CyclicLR(opt, 0.01, 0.1, 3),
    "OneCycleLR": lambda opt: lr_scheduler.OneCycleLR(opt, 0.5, total_steps=N_BATCHES * N_EPOCHS),
    "LambdaLR": lambda opt: lr_scheduler.LambdaLR(opt, lambda step: 0.9**step),
    "MultiplicativeLR": lambda opt: lr_scheduler.MultiplicativeLR(opt, lambda step: 0.9),
    "SequentialLR": lambda opt: lr_scheduler.SequentialLR(
        opt, [lr_scheduler.ConstantLR(opt, 0.1, 3), lr_scheduler.ExponentialLR(opt, 0.9)], [3]
    ),
    "ChainedScheduler": lambda opt: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(opt, 0.1, 3), lr_scheduler.ExponentialLR(opt, 0.9)]
    ),
}


class Rates(Callback):
    """Writes down the rate of each step that was taken."""

    order = 5  # before the schedule moves on

    def __init__(self):
        self.seen = []

    def after_step(self, learn):
        self.seen.append(learn.opt.param_groups[0]["lr"])


class Skip(Callback):
    """Cancels every third batch before its step."""

    def after_loss(self, learn):
        if learn.model.training and learn.iter % 3 == 1:
            raise CancelBatchException


def batches():
    x, y = blobs(10 * N_BATCHES)
    return list(zip(x.split(10), y.split(10), strict=True))


def fit(*cbs, valid=None, n_epochs=N_EPOCHS, **how):
    rates = Rates()
    learn = Learner(mlp(), (batches(), valid), nn.CrossEntropyLoss(), 0.1, [rates, *cbs], device="cpu", **how)
    learn.fit(n_epochs)
    return rates.seen, learn


def by_hand(make, n, optimizer=optim.SGD):
    opt = optimizer([torch.zeros(1, requires_grad=True)], 0.1)
    scheduler, rates = make(opt), []
    for i in range(n):
        rates.append(opt.param_groups[0]["lr"])
        opt.step()
        if i + 1 < n:
            scheduler.step()
    return rates


def test_schedulers_of_torch_when_listed_then_are_all_tried():
    there = {name for name in dir(lr_scheduler) if isinstance(getattr(lr_scheduler, name), type)}
    there = {name for name in there if issubclass(getattr(lr_scheduler, name), lr_scheduler.LRScheduler)}
    assert there - {"LRScheduler", "_LRScheduler", "ReduceLROnPlateau"} == set(SCHEDULERS)


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize(
    ("how", "cbs", "n_steps"),
    [({}, [], 15), ({"accumulate": 2}, [], 9), ({}, [Skip()], 9), ({"accumulate": 2}, [Skip()], 6)],
    ids=["plain", "accumulated", "cancelled", "both"],
)
def test_schedule_by_batch_then_gives_the_rates_of_the_scheduler_stepped_by_hand(name, how, cbs, n_steps):
    momentum = (lambda parameters, lr: optim.SGD(parameters, lr, momentum=0.9)) if name == "CyclicLR" else optim.SGD
    rates, _ = fit(Schedule(SCHEDULERS[name]), *cbs, opt_func=momentum, **how)
    assert len(rates) == n_steps
    assert rates == by_hand(SCHEDULERS[name], n_steps, momentum)


@pytest.mark.parametrize("name", ["StepLR", "CosineAnnealingLR"])
def test_schedule_by_epoch_then_steps_after_epochs_that_moved_the_weights(name):
    class SkipSecondEpoch(Callback):
        def before_batch(self, learn):
            if learn.epoch == 1:
                raise CancelBatchException

    rates, _ = fit(Schedule(SCHEDULERS[name], step="epoch"), n_epochs=4)
    assert rates[::N_BATCHES] == by_hand(SCHEDULERS[name], 4)
    rates, _ = fit(Schedule(SCHEDULERS[name], step="epoch"), SkipSecondEpoch(), n_epochs=4)
    assert rates[::N_BATCHES] == by_hand(SCHEDULERS[name], 3)


def test_schedule_when_it_knows_the_run_then_spans_its_steps_accumulated_ones_too():
    rates, _ = fit(Schedule(one_cycle(0.5)), accumulate=2)
    assert rates == by_hand(lambda opt: one_cycle(0.5)(opt, 9), 9)
    rates, _ = fit(Schedule(warmup_cosine(warmup_steps=3)))
    assert rates == by_hand(lambda opt: warmup_cosine(warmup_steps=3)(opt, 15), 15)


def test_schedule_when_given_a_function_of_steps_then_multiplies_the_rates():
    rates, learn = fit(Schedule(lambda step: 0.5**step))
    assert rates == [0.1 * 0.5**step for step in range(15)]
    assert learn.history[-1]["lr"] == rates[-1]


def test_reduce_on_plateau_when_validated_then_gets_the_monitored_value():
    class Values(Callback):
        def after_validate(self, learn):
            learn.history[-1]["valid_loss"] = (1.0, 2.0, 2.0, 0.5)[learn.epoch]

    schedule = Schedule(lambda opt: lr_scheduler.ReduceLROnPlateau(opt, patience=0), step="validate")
    rates, _ = fit(Values(), schedule, valid=batches(), n_epochs=4)
    assert rates[::N_BATCHES] == pytest.approx([0.1, 0.1, 0.01, 0.001])


def test_parameter_scheduler_of_ignite_when_attached_natively_then_sets_the_rates():
    learn = Learner(mlp(), (batches(), None), nn.CrossEntropyLoss(), optimizer=None, lr=0.1, device="cpu")
    rates = []

    @learn.trainer.on(Events.STARTED)
    def attach():
        scheduler = CosineAnnealingScheduler(learn.opt, "lr", 0.1, 0.0, cycle_size=10)
        learn.trainer.add_event_handler(Events.ITERATION_STARTED, scheduler)
        learn.trainer.add_event_handler(Events.ITERATION_STARTED, lambda: rates.append(learn.opt.param_groups[0]["lr"]))

    learn.fit(1)
    opt = optim.SGD([torch.zeros(1)], 0.1)
    reference = CosineAnnealingScheduler(opt, "lr", 0.1, 0.0, cycle_size=10)
    expected = []
    for _ in range(N_BATCHES):
        reference(None)
        expected.append(opt.param_groups[0]["lr"])
    assert rates == expected


def unsized():
    yield from batches()


@pytest.mark.parametrize(
    ("job", "error", "text"),
    [
        (
            lambda: Schedule(one_cycle(0.5), step="steps"),
            ValueError,
            "step is 'batch', 'epoch' or 'validate'; got 'steps'",
        ),
        (
            lambda: Learner(mlp(), (unsized, None), nn.CrossEntropyLoss(), 0.1, [Schedule(one_cycle(0.5))]).fit(1),
            ValueError,
            "needs the run's number of steps, so a training loader with a length",
        ),
        (
            lambda: fit(Schedule(lambda opt: lr_scheduler.ReduceLROnPlateau(opt))),
            ValueError,
            "step='validate', and no other scheduler is; got ReduceLROnPlateau with step='batch'",
        ),
        (
            lambda: fit(Schedule(SCHEDULERS["StepLR"], step="validate"), valid=batches()),
            ValueError,
            "got StepLR with step='validate'",
        ),
        (
            lambda: fit(Schedule(lambda opt: lr_scheduler.ReduceLROnPlateau(opt), step="validate", monitor="x")),
            ValueError,
            "one of epoch, step, train_loss, lr, seconds; got 'x'",
        ),
    ],
)
def test_schedule_when_it_makes_no_sense_then_is_refused(job, error, text):
    with pytest.raises(error, match=text):
        job()


def test_schedule_of_a_fit_of_no_epochs_then_does_nothing_and_the_next_fit_rises_as_ever(tmp_path):
    rates = Rates()
    cbs = [Schedule(one_cycle(0.5)), rates, Checkpoint()]
    x, y = blobs(50)
    data = list(zip(x.split(10), y.split(10), strict=True))
    learn = Learner(mlp(), (data, None), nn.CrossEntropyLoss(), 0.1, cbs, device="cpu", folder=tmp_path)
    assert learn.fit(0) == {}
    learn.fit(1, resume=True)
    expected = lr_scheduler.OneCycleLR(optim.SGD(mlp().parameters(), 0.1, momentum=0.9), 0.5, total_steps=5)
    assert rates.seen[0] == expected.get_last_lr()[0]
    assert len(rates.seen) == 5
    assert learn.fit(0, resume=True) == {}
    assert learn.step == 5


@pytest.mark.parametrize(
    "factor",
    [lambda step: 0.9 ** step.bit_length(), lambda step: float(torch.sigmoid(torch.tensor(float(step))))],
    ids=["AttributeError of an optimizer", "RuntimeError of torch"],
)
def test_schedule_when_a_factor_fails_on_an_optimizer_in_a_way_of_its_own_then_is_a_factor_all_the_same(factor):
    rates, learn = fit(Schedule(factor), n_epochs=1)
    assert rates == [learn.lr * factor(step) for step in range(N_BATCHES)]


def test_schedule_when_asked_for_its_state_before_a_fit_then_has_one_that_it_takes_back():
    schedule = Schedule(one_cycle())
    schedule.load_state_dict(schedule.state_dict())


def test_schedule_when_its_hook_is_called_at_a_point_that_it_leaves_out_then_is_still_a_method():
    schedule = Schedule(lambda step: 1.0, step="epoch")
    _, learn = fit(schedule, n_epochs=1)
    schedule.after_step(learn)


@pytest.mark.parametrize("spec", [warmup_cosine(warmup_steps=1), lambda step: 0.9**step], ids=["cosine", "factor"])
def test_schedule_when_rates_are_set_between_fits_then_begins_at_them_and_else_where_it_began(spec):
    model = mlp()
    opt, rates = optim.SGD(model.parameters(), 0.1), Rates()
    cbs = [rates, Schedule(spec)]
    learn = Learner(model, (batches(), None), nn.CrossEntropyLoss(), optimizer=opt, cbs=cbs, device="cpu")
    learn.fit(1)
    first, rates.seen = rates.seen, []
    learn.fit(1)
    assert rates.seen == first
    opt.param_groups[0]["lr"] = 0.001
    rates.seen = []
    learn.fit(1)
    assert rates.seen == pytest.approx([rate / 100 for rate in first], rel=1e-12)  # a factor of another rate


def test_plateau_when_it_waits_for_the_opposite_of_what_the_monitors_name_says_then_is_warned_of():
    plateau = Schedule(lambda opt: lr_scheduler.ReduceLROnPlateau(opt), step="validate", monitor="valid_accuracy")
    with pytest.warns(UserWarning, match="valid_accuracy is better the higher it is; .*mode='min'.*: give mode='max'$"):
        fit(plateau, valid=batches(), metrics={"accuracy": accuracy}, n_epochs=1)


def test_plateau_when_the_monitors_name_says_nothing_then_is_not_warned_of():
    for mode in ("min", "max"):
        plateau = Schedule(
            lambda opt, mode=mode: lr_scheduler.ReduceLROnPlateau(opt, mode), step="validate", monitor="valid_regret"
        )
        fit(plateau, valid=batches(), metrics={"regret": accuracy}, n_epochs=1)


def test_schedules_when_there_are_two_on_an_optimizer_that_is_kept_then_each_fit_begins_where_the_first_did():
    model = mlp()
    opt, rates = optim.SGD(model.parameters(), 0.1), Rates()
    cbs = [rates, Schedule(lambda step: min(1.0, (step + 1) / 4)), Schedule(SCHEDULERS["ExponentialLR"], step="epoch")]
    learn = Learner(model, (batches(), None), nn.CrossEntropyLoss(), optimizer=opt, cbs=cbs, device="cpu")
    starts = []
    for _ in range(3):
        rates.seen = []
        learn.fit(2)
        starts.append(rates.seen[:4])
    assert starts[0] == starts[1] == starts[2]
    opt.param_groups[0]["lr"] = 0.001
    learn.fit(0)
    rates.seen = []
    learn.fit(2)
    assert rates.seen[:4] == pytest.approx([rate / 100 for rate in starts[0]], rel=1e-12)  # a factor of another rate


@pytest.mark.parametrize("step", ["epoch", "batch"])
def test_scheduler_when_made_before_the_fits_then_goes_on_over_them_as_by_hand(step):
    data = [blobs(8, seed=seed) for seed in range(3)]
    model = mlp()
    opt = optim.SGD(model.parameters(), 0.1)
    scheduler, rates = lr_scheduler.ExponentialLR(opt, 0.5), Rates()
    cbs = [rates, Schedule(lambda opt: scheduler, step=step)]
    learn = Learner(model, (data, None), nn.CrossEntropyLoss(), optimizer=opt, cbs=cbs, device="cpu")
    for n_epochs in (1, 2, 1):
        learn.fit(n_epochs)
    n_steps = [epoch if step == "epoch" else epoch * 3 + batch for epoch in range(4) for batch in range(3)]
    assert rates.seen == [0.1 * 0.5**n for n in n_steps]


def test_scheduler_when_it_is_of_another_optimizer_then_is_refused():
    model = mlp()
    other = optim.SGD(model.parameters(), 0.1)
    cbs = [Schedule(lambda opt: lr_scheduler.ExponentialLR(other, 0.5))]
    learn = Learner(model, ([blobs(8)], None), nn.CrossEntropyLoss(), 0.1, cbs, device="cpu")
    with pytest.raises(ValueError, match="gave ExponentialLR of another: make it of the one that comes"):
        learn.fit(1)


def test_schedule_when_the_optimizer_has_no_groups_then_is_refused_with_a_way_out():
    class Both:
        def step(self): ...

        def zero_grad(self): ...

    learn = Learner(mlp(), (batches(), None), nn.CrossEntropyLoss(), optimizer=Both(), cbs=[Schedule(one_cycle())])
    with pytest.raises(TypeError, match="in an optimizer's param_groups; Both has none: "):
        learn.fit(1)


def test_schedule_when_given_one_cycle_itself_then_says_to_call_it():
    with pytest.raises(TypeError, match=r"^one_cycle makes a schedule when it is called; .* give one_cycle\(...\)"):
        fit(Schedule(one_cycle), n_epochs=1)
