"""The values of a run with their origins, and the names of its classes."""

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, Subset, TensorDataset

from ignite_trainer import Learner, SampleLoader, TensorLoader, glyphs
from ignite_trainer.handlers.run_config import class_names, run_config
from tests.tiny import mlp


def dls():
    data = TensorDataset(torch.randn(40, 6), torch.randint(3, (40,)))
    return DataLoader(data, 10), DataLoader(data, 20)


def test_run_config_then_tells_what_was_given_from_what_was_not():
    learn = Learner(mlp(), dls(), nn.CrossEntropyLoss(), 0.5, device="cpu")
    learn.fit(0)
    config = run_config(learn)
    assert config["optimizer"] == {"value": "SGD", "from": "default"}
    assert config["lr"] == {"value": 0.5, "from": "Learner"}
    assert config["optimizer.momentum"] == {"value": 0, "from": "default"}
    assert config["batch_size.train"] == {"value": 10, "from": "loader"}
    assert config["batch_size.valid"] == {"value": 20, "from": "loader"}
    assert config["samples.train"] == {"value": 40, "from": "loader"}
    assert config["parameters"]["value"] == 6 * 16 + 16 + 16 * 3 + 3
    assert "optimizer.lr" not in config
    assert config["device"] == {"value": "cpu", "from": "Learner"}
    assert config["metrics"] == {"value": "none", "from": "default"}
    assert config["accumulate"] == {"value": 1, "from": "default"}


def test_run_config_when_options_are_given_then_they_are_from_the_learner():
    options = {"precision": "bf16", "accumulate": 2, "clip_norm": 0.5}
    config = run_config(Learner(mlp(), dls(), nn.CrossEntropyLoss(), 0.5, device="cpu", **options))
    assert {name: config[name] for name in options} == {
        name: {"value": value, "from": "Learner"} for name, value in options.items()
    }


@pytest.mark.parametrize("whole", [True, False])
def test_run_config_of_loaders_that_were_assigned_then_has_those(whole):
    learn = Learner(mlp(), dls(), nn.CrossEntropyLoss(), 0.5, device="cpu")
    x, y = torch.randn(30, 6), torch.randint(3, (30,))
    learn.train_dl = TensorLoader(x, y, batch_size=4) if whole else SampleLoader(TensorDataset(x, y), batch_size=4)
    learn.valid_dl = None
    values = {name: entry["value"] for name, entry in run_config(learn).items() if entry["from"] == "loader"}
    assert values == {"batch_size.train": 4, "samples.train": 30}


def test_run_config_of_an_optimizer_instance_then_has_its_values():
    model = mlp()
    optimizer = optim.SGD(model.parameters(), 0.25, momentum=0.9)
    config = run_config(Learner(model, dls(), nn.CrossEntropyLoss(), optimizer=optimizer, device="cpu"))
    assert config["lr"] == {"value": 0.25, "from": "optimizer"}
    assert config["optimizer.momentum"] == {"value": 0.9, "from": "optimizer"}
    assert config["optimizer"] == {"value": "SGD", "from": "optimizer"}


def test_run_config_of_an_optimizer_with_nothing_but_step_and_zero_grad_then_is_short():
    class Descent:
        def __init__(self, parameters, lr):
            self.parameters, self.lr = list(parameters), lr

        def step(self): ...
        def zero_grad(self): ...

    learn = Learner(mlp(), dls(), nn.CrossEntropyLoss(), 0.5, opt_func=Descent, device="cpu")
    learn.fit(0)
    assert run_config(learn)["optimizer"]["value"] == "Descent"


def test_class_names_when_a_dataset_lies_in_subsets_then_are_found():
    dataset = glyphs(20)
    assert class_names(DataLoader(Subset(Subset(dataset, range(9)), range(5))), None) == list(dataset.classes)
    assert class_names([1], DataLoader(dataset)) == list(dataset.classes)


def test_class_names_when_nobody_knows_them_then_are_none():
    assert class_names(*dls()) is None
    assert class_names([1], None) is None
