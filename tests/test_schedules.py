"""Schedules against torch's schedulers stepped by hand."""

import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from ignite_trainer.schedules import LRSchedule, build_scheduler, one_cycle, warmup_cosine


def sgd(lr=0.1, n_groups=1, **options):
    groups = [{"params": [nn.Parameter(torch.ones(1))], "lr": lr / 10**i} for i in range(n_groups)]
    return torch.optim.SGD(groups, lr=lr, **options)


def rates(optimizer, scheduler, n_steps):
    """The rates of all groups at each of n steps; the scheduler is not stepped after the last."""
    rows = []
    for step in range(n_steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        if step < n_steps - 1:
            scheduler.step()
    return rows


@pytest.mark.parametrize(
    "options", [{}, {"pct_start": 0.5, "div_factor": 10, "final_div_factor": 100}, {"cycle_momentum": False}]
)
@pytest.mark.parametrize("n_steps", [1, 3, 7, 50])
def test_one_cycle_gives_the_rates_and_momenta_of_torch_stepped_by_hand(options, n_steps):
    ours, theirs = sgd(momentum=0.5), sgd(momentum=0.5)
    scheduler = one_cycle(0.7, **options)(ours, n_steps)
    reference = lr_scheduler.OneCycleLR(theirs, 0.7, total_steps=n_steps, **options)
    assert rates(ours, scheduler, n_steps) == rates(theirs, reference, n_steps)
    assert ours.param_groups[0]["momentum"] == theirs.param_groups[0]["momentum"]


@pytest.mark.parametrize("name", ["max_lr", "div_factor", "final_div_factor"])
def test_one_cycle_given_what_is_not_above_0_is_refused(name):
    for value in (0, -1.0):
        with pytest.raises(ValueError, match=f"^{name} is above 0; got {value}$"):
            one_cycle(**{name: value})


@pytest.mark.parametrize("number", [float, np.float32, torch.tensor])
def test_build_scheduler_when_the_factor_is_any_number_then_is_one_of_the_steps(number):
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    build_scheduler(lambda step: number(0.5), optimizer, None)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.05)


def test_one_cycle_without_a_rate_keeps_the_rates_of_the_groups_apart():
    ours, theirs = sgd(n_groups=3), sgd(n_groups=3)
    reference = lr_scheduler.OneCycleLR(theirs, [0.1, 0.01, 0.001], total_steps=20)
    assert rates(ours, one_cycle()(ours, 20), 20) == rates(theirs, reference, 20)


@pytest.mark.parametrize("pct_start", [0, 1, -0.1, 1.5])
def test_one_cycle_given_a_rise_outside_the_run_is_refused(pct_start):
    with pytest.raises(
        ValueError, match=r"^pct_start is the part of the run in which the rate rises, between 0 and 1; got"
    ):
        one_cycle(pct_start=pct_start)


def test_one_cycle_with_a_rise_of_exactly_one_step_is_refused_because_torch_divides_by_zero():
    with pytest.raises(ZeroDivisionError):  # when this fails, torch has mended it and the refusal can go
        lr_scheduler.OneCycleLR(sgd(), 0.1, total_steps=4, pct_start=0.25)
    with pytest.raises(
        ValueError, match=r"in exactly one step, as pct_start=0.25 of 4 steps would: give another pct_start"
    ):
        one_cycle(pct_start=0.25)(sgd(), 4)


def test_table_of_factors_when_given_as_a_function_then_is_one_of_the_steps():
    optimizer = sgd()
    scheduler = build_scheduler(lambda step: {0: 1.0, 1: 0.5, 2: 0.25}[step], optimizer, None)
    assert [row[0] for row in rates(optimizer, scheduler, 2)] == [0.1, 0.05]


@pytest.mark.parametrize("n_warmup", [0, 1, 4, 9])
def test_warmup_cosine_equals_torch_linear_then_cosine_stepped_by_hand(n_warmup):
    ours, theirs = sgd(), sgd()
    cosine = lr_scheduler.CosineAnnealingLR(theirs, T_max=10 - n_warmup, eta_min=0.1 * 0.2)
    reference = cosine
    if n_warmup:
        linear = lr_scheduler.LinearLR(theirs, start_factor=1 / (n_warmup + 1), total_iters=n_warmup)
        reference = lr_scheduler.SequentialLR(theirs, [linear, cosine], milestones=[n_warmup])
    scheduler = warmup_cosine(warmup_steps=n_warmup, final_factor=0.2)(ours, 10)
    # torch computes each rate from the one before: up to ten roundings
    torch.testing.assert_close(
        torch.tensor(rates(ours, scheduler, 10)).double(),
        torch.tensor(rates(theirs, reference, 10)).double(),
        rtol=1e-6,
        atol=0,
    )


def test_warmup_cosine_scales_the_rates_of_all_groups_alike():
    optimizer = sgd(n_groups=2)
    rows = rates(optimizer, warmup_cosine(warmup_steps=3, final_factor=0.1)(optimizer, 12), 12)
    assert all(row[1] == pytest.approx(row[0] / 10) for row in rows)  # two products of the same factor
    assert rows[3] == [0.1, 0.01]
    assert min(rows[-1]) > 0.001


def test_warmup_cosine_stepped_past_the_end_stays_at_the_final_rate():
    optimizer = sgd()
    assert rates(optimizer, warmup_cosine(warmup_steps=1, final_factor=0.5)(optimizer, 4), 9)[4:] == [[0.05]] * 5


@pytest.mark.parametrize(("fraction", "n_steps", "n_warmup"), [(0.0, 10, 0), (0.1, 30, 3), (0.25, 10, 2), (0.5, 7, 4)])
def test_warmup_cosine_given_a_fraction_equals_the_same_number_of_steps(fraction, n_steps, n_warmup):
    by_fraction, by_steps = sgd(), sgd()
    assert rates(by_fraction, warmup_cosine(warmup_fraction=fraction)(by_fraction, n_steps), n_steps) == rates(
        by_steps, warmup_cosine(warmup_steps=n_warmup)(by_steps, n_steps), n_steps
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "warmup_cosine takes either warmup_steps or warmup_fraction; got None and None"),
        ({"warmup_steps": 1, "warmup_fraction": 0.1}, "takes either warmup_steps or warmup_fraction; got 1 and 0.1"),
        ({"warmup_steps": -1}, "warmup_steps is a number of steps, at least 0; got -1"),
        ({"warmup_fraction": 1.0}, "warmup_fraction is a part of the run, at least 0 and below 1; got 1.0"),
        ({"warmup_steps": 1, "final_factor": 2}, "final_factor is the part of the rate left at the end, 0 to 1; got 2"),
    ],
)
def test_warmup_cosine_given_a_wrong_option_names_it(options, message):
    with pytest.raises(ValueError, match=f"{re.escape(message)}$"):
        warmup_cosine(**options)


@pytest.mark.parametrize("schedule", [warmup_cosine(warmup_steps=5), warmup_cosine(warmup_fraction=0.95)])
def test_warmup_cosine_when_the_warm_up_fills_the_run_is_refused(schedule):
    with pytest.raises(ValueError, match="warmup_cosine needs a step after the warm-up; got 5 of 5 steps for it"):
        schedule(sgd(), 5)


@pytest.mark.parametrize("schedule", [one_cycle(), warmup_cosine(warmup_steps=0)])
def test_schedule_over_no_steps_is_refused(schedule):
    with pytest.raises(ValueError, match=r"\) is laid out over the steps of a run, at least 1; got 0"):
        schedule(sgd(), 0)


def test_schedule_reads_as_it_was_written():
    assert repr(one_cycle(0.5)) == (
        "one_cycle(max_lr=0.5, pct_start=0.3, cycle_momentum=True, div_factor=25.0, final_div_factor=10000.0)"
    )
    assert repr(warmup_cosine(warmup_fraction=0.1)) == "warmup_cosine(warmup_fraction=0.1, final_factor=0.0)"


def test_build_scheduler_given_a_function_of_steps_gives_the_rates_of_lambda_lr_stepped_by_hand():
    ours, theirs = sgd(n_groups=2), sgd(n_groups=2)
    reference = lr_scheduler.LambdaLR(theirs, lambda step: 0.9**step)
    scheduler = build_scheduler(lambda step: 0.9**step, ours, n_steps=None)
    assert rates(ours, scheduler, 8) == rates(theirs, reference, 8)


@pytest.mark.parametrize(
    "make",
    [
        lambda optimizer: lr_scheduler.StepLR(optimizer, 3),
        lambda optimizer: lr_scheduler.CosineAnnealingLR(optimizer, 8),
        lambda optimizer: lr_scheduler.CyclicLR(optimizer, 0.01, 0.1, step_size_up=3),
    ],
)
def test_build_scheduler_given_a_function_of_the_optimizer_gives_its_rates(make):
    ours, theirs = sgd(), sgd()
    assert rates(ours, build_scheduler(make, ours, n_steps=8), 8) == rates(theirs, make(theirs), 8)


def test_build_scheduler_given_a_schedule_over_the_run_gives_it_the_steps():
    optimizer = sgd()
    assert build_scheduler(one_cycle(0.1), optimizer, 20).total_steps == 20
    mine = LRSchedule("mine", lambda optimizer, n_steps: lr_scheduler.StepLR(optimizer, n_steps // 2))
    assert build_scheduler(mine, optimizer, 20).step_size == 10


def test_build_scheduler_without_the_number_of_steps_refuses_a_schedule_over_the_run():
    with pytest.raises(
        ValueError, match=r"^one_cycle\(.*\) needs the run's number of steps, so a training loader with a length$"
    ):
        build_scheduler(one_cycle(), sgd(), n_steps=None)


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (0.1, "or a function from the steps taken to a factor; got 0.1"),
        (lr_scheduler.StepLR(sgd(), 3), "to a factor; got <torch.optim.lr_scheduler.StepLR"),
        (lambda step: "fast", "gives a torch scheduler of the optimizer, or a factor for the steps taken; "),
        (lambda optimizer: lr_scheduler.StepLR(optimizer), "missing 1 required positional argument: 'step_size'"),
    ],
)
def test_build_scheduler_given_something_else_names_it(schedule, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        build_scheduler(schedule, sgd(), n_steps=10)


@pytest.mark.parametrize("schedule", [one_cycle(0.3), warmup_cosine(warmup_fraction=0.2), lambda step: 1 / (step + 1)])
@pytest.mark.parametrize("at", [1, 5, 19])
def test_schedule_saved_and_resumed_by_a_new_run_goes_on_with_the_same_rates(schedule, at, tmp_path):
    whole = sgd(momentum=0.5)
    expected = rates(whole, build_scheduler(schedule, whole, 20), 20)
    first = sgd(momentum=0.5)
    scheduler = build_scheduler(schedule, first, 20)
    rates(first, scheduler, at)
    torch.save([first.state_dict(), scheduler.state_dict()], tmp_path / "saved.pt")
    second = sgd(momentum=0.5)
    resumed = build_scheduler(schedule, second, 20)
    optimizer_state, scheduler_state = torch.load(tmp_path / "saved.pt", weights_only=True)
    second.load_state_dict(optimizer_state)
    resumed.load_state_dict(scheduler_state)
    assert rates(second, resumed, 20 - at + 1) == expected[at - 1 :]
