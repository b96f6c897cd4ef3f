"""A warning names the line of the user's that led to it, however deep in the package it was found."""

import warnings

import pytest
import torch
from torch import nn, optim

from ignite_trainer import Callback, Learner, accuracy, create_trainer, param_groups
from tests.tiny import own_step

DATA = [(torch.ones(4, 2), torch.ones(4, 1))] * 2


def learner(loss_func=None, cbs=(), **how):
    return Learner(nn.Linear(2, 1), (DATA, None), loss_func or nn.MSELoss(), 0.1, cbs, device="cpu", **how)


class WithWeight(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, preds, y):
        return self.weight * (preds - y).square().mean()


class HookOfOthers:
    def on_epoch_end(self): ...


class WaitsForSteps(Callback):
    def after_step(self, learn): ...


def evaluate_ignored_labels():
    data = [(torch.ones(4, 2), torch.tensor([0, 1, -100, 1]))]
    how = {"precision": "bf16", "metrics": {"accuracy": accuracy}, "device": "cpu"}
    Learner(nn.Linear(2, 2), (data, data), nn.CrossEntropyLoss(), 0.1, **how).evaluate()


def frozen_weight():
    layer = nn.Linear(2, 1)
    layer.weight.requires_grad_(False)
    return layer


def assign(**values):
    learn = learner()
    for name, value in values.items():
        setattr(learn, name, value)


@pytest.mark.parametrize(
    "warn",
    [
        lambda: learner(nn.MSELoss(reduction="sum")),
        lambda: create_trainer(nn.Linear(2, 1), optim.SGD([torch.zeros(1)], 0.1), nn.MSELoss(reduction="sum")),
        lambda: assign(loss_func=nn.MSELoss(reduction="sum")),
        lambda: learner(WithWeight()),
        lambda: assign(loss_func=WithWeight()),
        lambda: learner(step=own_step, accumulate=2),
        lambda: learner(cbs=[WaitsForSteps()], step=own_step).fit(1),
        lambda: learner(cbs=[HookOfOthers()]).fit(1),
        lambda: evaluate_ignored_labels(),
        lambda: param_groups(frozen_weight(), lr=0.1, overrides={"weight": {"lr": 0.2}}),
    ],
    ids=[
        "sum",
        "sum of an engine",
        "sum assigned",
        "parameters",
        "parameters assigned",
        "option",
        "point",
        "hook",
        "ignored",
        "group",
    ],
)
def test_warning_when_given_then_names_the_users_line_once(warn):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warn()
    assert [warning.filename for warning in warned] == [__file__]
