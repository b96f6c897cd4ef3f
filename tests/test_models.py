"""The documents' models: shapes, both forms of the perceptron, and that they learn."""

import pytest
import torch
from torch import nn

from ignite_trainer.models import MLP, SimpleNN, SmallCNN, mlp


def images_of_classes(n, size=28, n_channels=1, n_classes=10):
    """Noisy copies of one random picture a class: what a classifier can learn, and a constant one cannot."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(n_classes, n_channels, size, size, generator=generator)
    labels = torch.arange(n) % n_classes
    noise = 0.3 * torch.randn(n, n_channels, size, size, generator=generator)
    return pictures[labels] + noise, labels


def train(model, x, y, *, lr=0.1, n_epochs=1, batch_size=50):
    """The loop by hand: returns the loss of every batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(n_epochs):
        for xb, yb in zip(x.split(batch_size), y.split(batch_size), strict=True):
            loss = nn.functional.cross_entropy(model(xb), yb)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
    return torch.stack(losses)


def test_both_forms_of_the_perceptron_from_one_seed_start_equal():
    torch.manual_seed(0)
    module = MLP(6, 5, 3)
    torch.manual_seed(0)
    sequential = mlp(6, 5, 3)
    assert (
        sorted(module.state_dict())
        == sorted(sequential.state_dict())
        == ["l1.bias", "l1.weight", "l2.bias", "l2.weight"]
    )
    assert all(torch.equal(tensor, sequential.state_dict()[name]) for name, tensor in module.state_dict().items())


def test_both_forms_of_the_perceptron_after_training_have_equal_weights():
    torch.manual_seed(0)
    module, sequential = MLP(6, 5, 3), mlp(6, 5, 3)
    sequential.load_state_dict(module.state_dict())
    start = module.l1.weight.detach().clone()
    x, y = torch.randn(200, 6), torch.randint(3, (200,))
    assert torch.equal(train(module, x, y, n_epochs=3), train(sequential, x, y, n_epochs=3))
    assert all(torch.equal(tensor, sequential.state_dict()[name]) for name, tensor in module.state_dict().items())
    assert not torch.equal(module.l1.weight, start)


def test_the_perceptron_computes_linear_relu_linear():
    model = MLP(6, 5, 3)
    x = torch.randn(4, 6)
    hidden = (x @ model.l1.weight.T + model.l1.bias).clamp(min=0)
    # matrix products by another route: sums of 6 and 5 float32 terms
    torch.testing.assert_close(model(x), hidden @ model.l2.weight.T + model.l2.bias)


@pytest.mark.parametrize("shape", [(7, 784), (7, 28, 28), (7, 1, 28, 28)])
def test_simple_nn_given_images_of_any_shape_flattens_them(shape):
    model = SimpleNN()
    x = torch.randn(shape)
    assert torch.equal(model(x), model(x.reshape(7, 784)))
    assert [tuple(parameter.shape) for parameter in model.parameters()] == [(128, 784), (128,), (10, 128), (10,)]


@pytest.mark.parametrize(
    ("n_channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (1, 8, 8), (3, 64, 48), (1, 3, 5)]
)
def test_small_cnn_given_images_of_any_size_gives_one_score_a_class(n_channels, height, width):
    assert SmallCNN(n_channels, n_out=7)(torch.randn(2, n_channels, height, width)).shape == (2, 7)


@pytest.mark.parametrize("make", [SimpleNN, SmallCNN])
def test_a_classifier_after_training_knows_images_it_has_not_seen(make):
    torch.manual_seed(0)
    x, y = images_of_classes(1500)
    model = make()
    train(model, x[:1000], y[:1000], n_epochs=3)
    correct = (model(x[1000:]).argmax(dim=1) == y[1000:]).sum()
    assert correct >= 475  # of 500, where guessing gives 50


def test_small_cnn_in_evaluation_computes_what_it_computes_in_training():
    model = SmallCNN()
    x = torch.randn(3, 1, 28, 28)
    assert torch.equal(model.train()(x), model.eval()(x))
