"""Parameter groups against a rule per parameter, schedules against torch's schedulers stepped by hand."""

import itertools
import re

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from ignite_trainer.models import MLP
from ignite_trainer.optim import LRSchedule, build_scheduler, one_cycle, param_groups, warmup_cosine


class Net(nn.Module):
    """One of everything: nested names, norms of one and of more dimensions, a bias that is no vector, a tied weight."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.bias_table = nn.Parameter(torch.zeros(2, 3))
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.LayerNorm((2, 6, 6)))
        self.body2 = nn.Linear(4, 4)
        self.head = nn.Linear(4, 4, bias=False)
        self.head.weight = self.body2.weight


UNDECAYED = {
    "scale",
    "bias_table",
    "body.0.bias",
    "body.1.weight",
    "body.1.bias",
    "body.2.weight",
    "body.2.bias",
    "body2.bias",
}
DECAYED = {"body.0.weight", "body2.weight"}


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


def test_param_groups_without_decay_is_one_group_in_the_order_of_the_model():
    model = Net()
    [group] = param_groups(model, lr=0.1)
    assert group["lr"] == 0.1
    assert group["weight_decay"] == 0.0
    assert list(map(id, group["params"])) == list(map(id, model.parameters()))


def test_param_groups_with_decay_spares_biases_and_norms():
    model = Net()
    decayed, undecayed = sorted(
        param_groups(model, lr=0.1, weight_decay=0.01), key=lambda group: -group["weight_decay"]
    )
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {name_of[id(parameter)] for parameter in decayed["params"]} == DECAYED
    assert {name_of[id(parameter)] for parameter in undecayed["params"]} == UNDECAYED
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.01, 0.0)


KEYS = ["scale", "body", "body.0", "body.0.bias", "body.1", "body2", "head", "head.weight"]


@pytest.mark.parametrize("frozen", ["nothing", "body.0.weight", "body2.weight"])
def test_param_groups_with_any_three_overrides_puts_each_trainable_parameter_where_its_longest_name_says(frozen):
    model = Net()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name != frozen)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    aliases = {"body2.weight": ["body2.weight", "head.weight"]}
    for keys in itertools.combinations(KEYS, 3):
        overrides = {key: {"lr": 1.0 + i, "weight_decay": 2.0 + i} for i, key in enumerate(keys)}
        living = [
            key
            for key in keys
            if any((name + ".").startswith(key + ".") for own in trainable for name in aliases.get(own, [own]))
        ]
        overrides = {key: overrides[key] for key in living}
        groups = param_groups(model, lr=0.1, weight_decay=0.01, overrides=overrides)
        group_of = {id(parameter): group for group in groups for parameter in group["params"]}
        assert sum(len(group["params"]) for group in groups) == len(group_of) == len(trainable)
        for name, parameter in trainable.items():
            fitting = [
                key for key in overrides for own in aliases.get(name, [name]) if (own + ".").startswith(key + ".")
            ]
            option = overrides[max(fitting, key=len)] if fitting else {"lr": 0.1, "weight_decay": 0.01}
            decay = 0.0 if name in UNDECAYED and name not in overrides else option["weight_decay"]
            assert (group_of[id(parameter)]["lr"], group_of[id(parameter)]["weight_decay"]) == (option["lr"], decay), (
                name,
                keys,
            )


@pytest.mark.parametrize(("key", "n_found"), [("layer", 2), ("same_layer", 2), ("matrix", 1), ("same_matrix", 1)])
def test_param_groups_given_one_of_the_names_of_something_shared_finds_it_once(key, n_found):
    model = nn.Module()
    model.layer = model.same_layer = nn.Linear(2, 2)
    model.matrix = model.same_matrix = nn.Parameter(torch.ones(2, 2))
    groups = {group["lr"]: len(group["params"]) for group in param_groups(model, lr=0.1, overrides={key: {"lr": 0.5}})}
    assert groups == {0.5: n_found, 0.1: 3 - n_found}


def test_param_groups_given_to_an_optimizer_train_each_layer_at_its_own_rate():
    model = MLP(3, 4, 2)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    groups = param_groups(model, lr=0.5, overrides={"l2": {"lr": 0.25, "momentum": 0.9}})
    optimizer = torch.optim.SGD(groups)
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, start[name] - (0.25 if name.startswith("l2") else 0.5) * parameter.grad)
    assert [group["momentum"] for group in optimizer.param_groups] == [0, 0.9]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"l3": {"lr": 1}},
            "an override names a submodule or a parameter of the model; 'l3' is none, did you mean 'l2'?",
        ),
        ({"l2.weigth": {"lr": 1}}, "'l2.weigth' is none, did you mean 'l2.weight'?"),
        ({"zzz": {}}, "'zzz' is none, at the top it has 'l1', 'l2', 'relu'"),
        ({"": {"lr": 1}}, "'' is none, at the top it has 'l1'"),
        ({"l": {"lr": 1}}, "'l' is none, did you mean 'l"),
        ({"l2": {"params": []}}, "an override sets options, its name says of which parameters; got 'params' for 'l2'"),
    ],
)
def test_param_groups_given_a_wrong_override_names_it(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        param_groups(MLP(3, 4, 2), lr=0.1, overrides=overrides)


@pytest.mark.parametrize("key", ["l1", "l1.weight", "relu"])
def test_param_groups_given_an_override_of_nothing_trainable_warns(key):
    model = MLP(3, 4, 2)
    model.l1.requires_grad_(False)
    with pytest.warns(UserWarning, match=f"the override of '{key}' has no effect: nothing trainable goes by that name"):
        [group] = param_groups(model, lr=0.1, overrides={key: {"lr": 1.0}})
    assert list(map(id, group["params"])) == list(map(id, model.l2.parameters()))


def test_param_groups_of_a_frozen_model_is_refused():
    with pytest.raises(ValueError, match="an optimizer needs parameters with requires_grad; MLP has none"):
        param_groups(MLP(3, 4, 2).requires_grad_(False), lr=0.1)


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
