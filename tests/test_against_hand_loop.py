"""The same numbers as the loop written by hand, to the last bit: weights, losses, counts, random generators."""

import pytest
import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from ignite_trainer import Accuracy, Learner, fit
from tests.tiny import blobs, dropout_net, hand_fit, mlp, same_state

OPTIMIZERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.1),
    "momentum": lambda parameters: optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.01),
}
MODELS = {"mlp": mlp, "dropout": dropout_net}


def loaders(kind):
    """Loaders whose shuffling draws from the global generator, or a list of batches."""
    train, valid = TensorDataset(*blobs(101, seed=1)), TensorDataset(*blobs(53, seed=2))
    if kind == "list":
        return list(DataLoader(train, 16)), list(DataLoader(valid, 20))
    if kind == "float64":
        train, valid = (TensorDataset(ds.tensors[0].double(), ds.tensors[1]) for ds in (train, valid))
    return DataLoader(train, 16, shuffle=True), DataLoader(valid, 20, shuffle=kind == "shuffled validation")


def by_hand(job, kind, make_model, make_optimizer, **how):
    """Run ``job`` from seed 0: its result, the weights, and the generator's state at the end."""
    torch.manual_seed(0)
    model = make_model()
    if kind == "float64":
        model = model.double()
    result = job(model, make_optimizer(model.parameters()), nn.CrossEntropyLoss(), *loaders(kind))
    return result, model.state_dict(), torch.get_rng_state()


@pytest.mark.parametrize("kind", ["shuffled", "shuffled validation", "list", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("model", MODELS)
def test_fit_and_learner_when_given_the_hand_loops_parts_then_every_bit_is_equal(model, optimizer, kind, capsys):
    def with_fit(*parts):
        return fit(3, *parts)

    def with_learner(net, opt, loss_func, train, valid):
        learn = Learner(net, (train, valid), loss_func, optimizer=opt, metrics={"accuracy": Accuracy()}, device="cpu")
        learn.fit(3)
        return [(row["valid_loss"], row["valid_accuracy"]) for row in learn.history]

    hand, weights, rng = by_hand(lambda *parts: hand_fit(3, *parts), kind, MODELS[model], OPTIMIZERS[optimizer])
    expected = [(loss, right / n) for loss, right, n in hand]
    for job, wanted in ((with_fit, expected[-1]), (with_learner, expected)):
        result, ours, our_rng = by_hand(job, kind, MODELS[model], OPTIMIZERS[optimizer])
        assert result == wanted
        assert same_state(ours, weights)
        assert torch.equal(our_rng, rng)
    lines = [f"{epoch} loss = {loss}, accuracy = {accuracy}" for epoch, (loss, accuracy) in enumerate(expected)]
    assert capsys.readouterr().out.splitlines() == lines


def test_fit_when_loss_is_a_function_then_equals_the_hand_loop(capsys):
    cross_entropy = nn.functional.cross_entropy
    torch.manual_seed(0)
    model = mlp()
    (loss, right, n) = hand_fit(1, model, OPTIMIZERS["sgd"](model.parameters()), cross_entropy, *loaders("list"))[-1]
    torch.manual_seed(0)
    ours = mlp()
    assert fit(1, ours, OPTIMIZERS["sgd"](ours.parameters()), cross_entropy, *loaders("list")) == (loss, right / n)
    assert same_state(ours.state_dict(), model.state_dict())


def test_training_loss_when_batches_differ_in_size_then_is_the_mean_over_samples():
    x, y = blobs(10)
    model = mlp()
    learn = Learner(model, ([(x[:7], y[:7]), (x[7:], y[7:])], None), nn.CrossEntropyLoss(), lr=0.0, device="cpu")
    assert learn.fit(1) == {}
    with torch.no_grad():
        losses = [nn.functional.cross_entropy(model(x[s]), y[s]).item() for s in (slice(7), slice(7, 10))]
    assert learn.history[0]["train_loss"] == (losses[0] * 7 + losses[1] * 3) / 10


def test_loss_when_labels_are_ignored_or_weighted_then_equals_that_of_one_large_batch():
    x, y = blobs(12)
    y[3] = y[4] = -100
    weight = torch.tensor([0.2, 1.0, 3.0])
    for loss_func in (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(weight=weight)):
        model = mlp().double()
        loss_func = loss_func.double()
        batches = [(x[s].double(), y[s]) for s in (slice(5), slice(5, 9), slice(9, 12))]
        learn = Learner(model, (batches, batches), loss_func, lr=0.0, device="cpu")
        with torch.no_grad():
            whole = loss_func(model(x.double()), y).item()
        assert learn.fit(1)["loss"] == pytest.approx(whole, rel=1e-12)  # another order of float64 additions
