"""Parameter groups against a rule per parameter."""

import itertools
import math
import re

import pytest
import torch
from torch import nn, optim

from ignite_trainer import Checkpoint, Learner, LRFinder, Progress, RunFiles, Schedule, TensorBoard, check, curves
from ignite_trainer.models import MLP
from ignite_trainer.optim import param_groups
from tests.event_records import scalars
from tests.tiny import blobs, mlp


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


def test_param_groups_with_decay_when_a_parameter_has_no_shape_yet_then_is_refused():
    model = nn.Sequential(nn.LazyLinear(3))
    with pytest.raises(
        ValueError, match=r"which weights are decayed goes by their shapes; 0\.weight has none yet: call"
    ):
        param_groups(model, lr=0.1, weight_decay=0.01)
    assert len(param_groups(model, lr=0.1)) == 1


class FindsItsOwnRate(optim.Optimizer):
    """Without a rate in its groups, or with None there, as Adafactor of transformers has it."""

    def __init__(self, parameters, **rate):
        super().__init__(parameters, {"scale": 0.05, **rate})

    @torch.no_grad()
    def step(self):
        for parameter in self.param_groups[0]["params"]:
            parameter -= self.param_groups[0]["scale"] * parameter.grad


@pytest.mark.parametrize("rate", [{}, {"lr": None}])
def test_optimizer_without_a_rate_then_trains_and_resumes_and_its_rate_is_nan(rate, tmp_path):
    x, y = blobs(40)
    batches = list(zip(x.split(8), y.split(8), strict=True))

    def make(data=batches, cbs=()):
        model = mlp()
        optimizer = FindsItsOwnRate(model.parameters(), **rate)
        return Learner(
            model, (data, data), nn.CrossEntropyLoss(), cbs=cbs, optimizer=optimizer, device="cpu", folder=tmp_path
        )

    def handlers():
        return [Checkpoint(), Progress(), RunFiles(), TensorBoard(every_steps=1)]

    make(cbs=handlers()).fit(1)
    learn = make(cbs=handlers())
    learn.fit(2, resume=True)
    assert [math.isnan(row["lr"]) for row in learn.history] == [True, True]
    assert learn.history[1]["train_loss"] < learn.history[0]["train_loss"]
    assert [axes.get_title() for axes in curves(learn.history).axes] == ["loss"]
    assert not [tag for tag in scalars(tmp_path) if tag.startswith("lr/")]
    with pytest.raises(ValueError, match=r"lr is set in the param_groups .*; FindsItsOwnRate has none: take one of"):
        LRFinder(learn).run()
    nothing = [(torch.zeros_like(x), y) for x, y in batches]
    (hint,) = (finding for finding in check(make(nothing)).hints if finding.kind == "cannot be overfitted")
    assert " in 100 steps: look at " in hint.text


@pytest.mark.parametrize("as_iterators", [False, True], ids=["lists", "iterators"])
def test_list_of_groups_when_fits_and_trials_have_used_it_then_is_as_it_was_given(as_iterators):
    def fitted(*between):
        torch.manual_seed(0)
        model = MLP(3, 4, 2)
        groups = [
            {"params": part.parameters() if as_iterators else list(part.parameters()), "lr": rate, "weight_decay": 0.1}
            for part, rate in ((model.l1, 0.1), (model.l2, torch.tensor(0.2)))
        ]
        batch = torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
        learn = Learner(
            model,
            ([batch] * 4, [batch]),
            nn.CrossEntropyLoss(),
            opt_func=torch.optim.SGD,
            param_groups=groups,
            cbs=[Schedule(lambda step: 0.5**step)],
            device="cpu",
        )
        for call in between:
            call(learn)
        start = {name: weight.clone() for name, weight in model.state_dict().items()}
        learn.fit(2)
        rates = [float(group["lr"]) for group in learn.opt.param_groups]
        learn.model.load_state_dict(start)
        learn.fit(2)
        return rates, [float(group["lr"]) for group in learn.opt.param_groups], dict(groups[0])

    first, second, group = fitted()
    assert first == second == pytest.approx([0.1 * 0.5**7, 0.2 * 0.5**7])
    assert group.keys() == {"params", "lr", "weight_decay"}
    assert fitted(check, lambda learn: LRFinder(learn).run())[:2] == (first, second)
